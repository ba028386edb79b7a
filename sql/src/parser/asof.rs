//! `ASOF [LEFT] JOIN b ON …`, of which sqlparser knows only the form with a MATCH_CONDITION: one that says which join it is
//! goes before the ON.

use datafusion_sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::cursor::word_of;
use crate::planner::{ASOF_INNER, ASOF_LEFT};

/// Gives every ASOF join a MATCH_CONDITION.
pub(super) fn add_match_conditions(tokens: &mut Vec<TokenWithSpan>) {
    let mut start = 0;
    while start < tokens.len() {
        let word = |i: usize| tokens.get(start + i).and_then(word_of).unwrap_or_default();
        let (kind, words) = match (word(0).as_str(), word(1).as_str(), word(2).as_str(), word(3).as_str()) {
            ("ASOF", "JOIN", _, _) => (ASOF_INNER, 2),
            ("ASOF", "INNER", "JOIN", _) => (ASOF_INNER, 3),
            ("ASOF", "LEFT", "JOIN", _) => (ASOF_LEFT, 3),
            ("ASOF", "LEFT", "OUTER", "JOIN") => (ASOF_LEFT, 4),
            _ => {
                start += 1;
                continue;
            }
        };
        start += 1;
        let Some(on) = condition(&tokens[start..]).map(|at| start + at) else { continue };
        let span = tokens[on].span;
        let spelled = [
            Token::make_word("MATCH_CONDITION", None),
            Token::LParen,
            Token::SingleQuotedString(kind.to_string()),
            Token::RParen,
        ];
        tokens.splice(on..on, spelled.map(|token| TokenWithSpan { token, span: Span::new(span.start, span.start) }));
        // JOIN alone stays of the words between.
        tokens.drain(start..start + words - 2);
    }
}

/// Where the ON of a join is that begins these tokens, unless it has a MATCH_CONDITION.
fn condition(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            _ if depth == 0 => match word_of(token).as_deref() {
                Some("ON" | "USING") => return Some(i),
                Some("MATCH_CONDITION" | "WHERE" | "GROUP" | "ORDER") => return None,
                _ => {}
            },
            _ => {}
        }
    }
    None
}
