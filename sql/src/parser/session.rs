//! `SESSION(t PARTITION BY k, ts, gap)`, whose PARTITION BY no expression parser knows: the keys go behind the other arguments;
//! and `SESSION WITH GAP g` in OVER, which no frame is: it becomes a RANGE frame that the planner knows by its end.

use std::mem;

use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::planner::SESSION_FRAME_END;

/// Moves the keys of every SESSION in a statement.
pub(super) fn move_keys(tokens: &mut [TokenWithSpan]) {
    for start in 0..tokens.len() {
        if is_word(tokens.get(start), "SESSION") && tokens.get(start + 1).is_some_and(|t| t.token == Token::LParen) {
            move_keys_of_call(&mut tokens[start + 2..]);
        }
    }
}

/// `tokens` begin behind the parenthesis of the call.
fn move_keys_of_call(tokens: &mut [TokenWithSpan]) {
    let (mut depth, mut end) = (0_usize, None);
    let (mut partition, mut commas) = (None, Vec::new());
    for (i, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen if depth == 0 => {
                end = Some(i);
                break;
            }
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Comma if depth == 0 => commas.push(i),
            _ if depth == 0
                && partition.is_none()
                && commas.is_empty()
                && is_word(tokens.get(i), "PARTITION")
                && is_word(tokens.get(i + 1), "BY") =>
            {
                partition = Some(i);
            }
            _ => {}
        }
    }
    // The last two arguments are the time and the gap; what is between PARTITION BY and them are the keys.
    if let (Some(end), Some(partition), [.., time, _gap]) = (end, partition, commas.as_slice()) {
        // t PARTITION BY k, ts, gap -> t , ts, gap PARTITION BY k -> t , ts, gap , k: one of the two words goes.
        tokens[partition..end].rotate_left(time - partition);
        let moved = partition + (end - time);
        tokens[moved].token = Token::Comma;
        // An empty argument is not one: the other word becomes white space, which the parser skips.
        let by = mem::replace(&mut tokens[moved + 1].token, Token::Whitespace(WHITESPACE));
        debug_assert!(matches!(by, Token::Word(_)));
    }
}

/// Writes every SESSION WITH GAP g as RANGE BETWEEN g PRECEDING AND 'session' FOLLOWING.
pub(super) fn mark_frames(tokens: &mut Vec<TokenWithSpan>) {
    let mut start = 0;
    while start < tokens.len() {
        let is = |at: usize, word| is_word(tokens.get(start + at), word);
        if !(is(0, "SESSION") && is(1, "WITH") && is(2, "GAP")) {
            start += 1;
            continue;
        }
        let mut depth = 0_usize;
        let closes = |token: &TokenWithSpan| {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => return true,
                Token::RParen => depth -= 1,
                _ => {}
            }
            false
        };
        let end = tokens[start..].iter().position(closes).map_or(tokens.len(), |at| start + at);
        let word = |word: &str| Token::make_word(word, None);
        let span = tokens[start].span;
        let spelled =
            [word("PRECEDING"), word("AND"), Token::SingleQuotedString(SESSION_FRAME_END.into()), word("FOLLOWING")];
        tokens.splice(end..end, spelled.map(|token| TokenWithSpan { token, span }));
        let spelled = [word("RANGE"), word("BETWEEN")];
        tokens.splice(start..start + 3, spelled.map(|token| TokenWithSpan { token, span }));
        start += 2;
    }
}

const WHITESPACE: datafusion_sql::sqlparser::tokenizer::Whitespace =
    datafusion_sql::sqlparser::tokenizer::Whitespace::Space;

fn is_word(token: Option<&TokenWithSpan>, word: &str) -> bool {
    matches!(token.map(|t| &t.token), Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}
