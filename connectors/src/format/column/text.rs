//! Text as columns keep it: views of strings, with the rule of the SQL type for what it takes.

use arrow::array::make_view;
use millstream_catalog::jsonb;

use crate::format::json;

/// What a text column does to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextRule {
    Any,
    /// At most so many characters; spaces past them are cut, as in PostgreSQL.
    Varchar(u32),
    /// Padded with spaces to so many characters.
    Char(u32),
    /// The JSON text of any value.
    Json,
    /// The same in the form that jsonb has.
    Jsonb,
}

/// Appends a text by the rule of its type.
///
/// # Errors
/// Why the type does not take it.
pub(crate) fn push_text(views: &mut Vec<u128>, long: &mut Vec<u8>, rule: TextRule, value: &str) -> Result<(), String> {
    if !matches!(rule, TextRule::Json | TextRule::Jsonb) && value.as_bytes().contains(&0) {
        return Err("text cannot hold the character \\u0000".into());
    }
    match rule {
        TextRule::Any => push_view(views, long, value.as_bytes()),
        TextRule::Json => {
            json::check_text(value)?;
            push_view(views, long, value.as_bytes());
        }
        TextRule::Jsonb => push_view(views, long, jsonb::canonical(value)?.as_bytes()),
        TextRule::Varchar(n) | TextRule::Char(n) => {
            let n = n as usize;
            let value = if value.len() <= n { value } else { cut(value, n, rule)? };
            let length = if rule == TextRule::Char(n as u32) { value.chars().count() } else { n };
            if length < n {
                let mut padded = Vec::with_capacity(value.len() + n - length);
                padded.extend_from_slice(value.as_bytes());
                padded.resize(value.len() + n - length, b' ');
                push_view(views, long, &padded);
            } else {
                push_view(views, long, value.as_bytes());
            }
        }
    }
    Ok(())
}

/// The first `n` characters if only spaces follow.
fn cut(value: &str, n: usize, rule: TextRule) -> Result<&str, String> {
    let Some((end, _)) = value.char_indices().nth(n) else { return Ok(value) };
    if value[end..].bytes().all(|b| b == b' ') {
        return Ok(&value[..end]);
    }
    let word = if matches!(rule, TextRule::Char(_)) { "character" } else { "character varying" };
    Err(format!("{} is too long for type {word}({n})", shorten(value)))
}

/// Appends a string that is valid UTF-8.
#[inline]
pub(crate) fn push_view(views: &mut Vec<u128>, long: &mut Vec<u8>, value: &[u8]) {
    let offset = long.len() as u32;
    if value.len() > 12 {
        long.extend_from_slice(value);
    }
    views.push(make_view(value, 0, offset));
}

/// Values in error messages are cut: the whole record is kept beside the error.
pub(crate) fn shorten(value: &str) -> String {
    const CHARS_MAX: usize = 80;
    match value.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_string(),
    }
}
