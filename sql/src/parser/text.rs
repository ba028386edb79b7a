//! From sqlparser's lines and columns to the character positions that PostgreSQL's clients expect.

use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use crate::error::SqlError;

/// A text with an index of its lines.
pub(crate) struct Text<'a> {
    text: &'a str,
    /// Per line: (characters, bytes) before it.
    lines: Vec<(usize, usize)>,
}

impl<'a> Text<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let mut lines = vec![(0, 0)];
        for (chars, (bytes, c)) in text.char_indices().enumerate() {
            if c == '\n' {
                lines.push((chars + 1, bytes + 1));
            }
        }
        Self { text, lines }
    }

    /// Character position from 1; `None` for the empty location.
    pub(crate) fn position(&self, location: Location) -> Option<usize> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let (chars, _) = self.lines.get(line)?;
        Some(chars + usize::try_from(location.column).ok()?)
    }

    /// Byte offset of a location.
    pub(crate) fn byte(&self, location: Location) -> usize {
        let Some((_, start)) = (location.line as usize).checked_sub(1).and_then(|l| self.lines.get(l)) else {
            return self.text.len();
        };
        let column = (location.column as usize).saturating_sub(1);
        let rest = &self.text[*start..];
        start + rest.char_indices().nth(column).map_or(rest.len(), |(i, _)| i)
    }

    /// The text from the first to the last of `tokens`.
    pub(crate) fn of(&self, tokens: &[TokenWithSpan]) -> &'a str {
        match (tokens.first(), tokens.last()) {
            (Some(first), Some(last)) => self.text[self.byte(first.span.start)..self.byte(last.span.end)].trim(),
            _ => "",
        }
    }

    /// PostgreSQL's syntax error at a token.
    pub(crate) fn syntax_error(&self, token: &TokenWithSpan) -> SqlError {
        if token.token == Token::EOF {
            return SqlError::syntax("syntax error at end of input").with_position(self.text.chars().count() + 1);
        }
        let written = self.of(std::slice::from_ref(token));
        SqlError::syntax(format!("syntax error at or near \"{written}\""))
            .with_position(self.position(token.span.start))
    }
}
