//! The clauses that stand behind a query or a column list: `WITH (…)`, `FORMAT … ENCODE …`, `EMIT ON WINDOW CLOSE`.

use std::collections::BTreeMap;

use datafusion_sql::sqlparser::ast::Query;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::{Cursor, word_of};
use crate::error::Result;
use crate::statement::FormatClause;

/// What may stand behind a definition.
#[derive(Debug, Default)]
pub(crate) struct Trailer {
    pub(crate) options: Option<BTreeMap<String, String>>,
    pub(crate) format: Option<FormatClause>,
    pub(crate) emit_on_window_close: bool,
}

/// Reads a query up to the first trailing clause at depth 0, then the clauses. Uses all tokens.
pub(crate) fn query_and_trailer(c: &mut Cursor<'_>) -> Result<(Box<Query>, String, Trailer)> {
    let rest = c.rest().to_vec();
    let cut = cut(&rest);
    let mut query = Cursor::new(c.text, rest[..cut].to_vec());
    if cut == 0 {
        return Err(c.unexpected());
    }
    let (query, text) = query.query_to_end()?;
    for _ in 0..cut {
        c.parser.next_token();
    }
    let trailer = trailer(c)?;
    Ok((query, text, trailer))
}

/// Reads the clauses in any order, each at most once, up to the end.
pub(crate) fn trailer(c: &mut Cursor<'_>) -> Result<Trailer> {
    let mut t = Trailer::default();
    while !c.rest().is_empty() {
        if t.options.is_none() && c.at(&["WITH"]) {
            c.expect(&["WITH"])?;
            t.options = Some(c.options()?);
        } else if t.format.is_none() && c.at(&["FORMAT"]) {
            t.format = Some(format(c)?);
        } else if !t.emit_on_window_close && c.eat(&["EMIT"]) {
            c.expect(&["ON", "WINDOW", "CLOSE"])?;
            t.emit_on_window_close = true;
        } else {
            return Err(c.unexpected());
        }
    }
    Ok(t)
}

fn format(c: &mut Cursor<'_>) -> Result<FormatClause> {
    c.expect(&["FORMAT"])?;
    let format = c.ident()?.value.to_lowercase();
    c.expect(&["ENCODE"])?;
    let encode = c.ident()?.value.to_lowercase();
    let options =
        if c.rest().first().is_some_and(|t| t.token == Token::LParen) { c.options()? } else { BTreeMap::new() };
    Ok(FormatClause { format, encode, options })
}

/// Where the first trailing clause starts: `WITH (`, `FORMAT word ENCODE`, or `EMIT ON`, outside of all parentheses.
fn cut(tokens: &[TokenWithSpan]) -> usize {
    let mut depth = 0usize;
    let word = |i: usize| tokens.get(i).and_then(word_of);
    for (i, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            _ => {
                let found = match word(i).as_deref() {
                    Some("WITH") => tokens.get(i + 1).is_some_and(|t| t.token == Token::LParen),
                    Some("FORMAT") => word(i + 2).as_deref() == Some("ENCODE"),
                    Some("EMIT") => word(i + 1).as_deref() == Some("ON"),
                    _ => false,
                };
                if found {
                    return i;
                }
            }
        }
    }
    tokens.len()
}
