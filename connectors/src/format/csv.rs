//! ENCODE CSV: a line a record, its fields to the columns in their declared order.
//!
//! Quoting is RFC 4180's: a field in quotes may hold delimiters, line breaks and quotes written twice. A field without
//! quotes that is the NULL text (empty unless `null = '…'` says otherwise) is NULL; the same text in quotes is a value. There
//! is no header. A record has one field for each column, no more and no less; values are in the forms of JSON strings.
//!
//! Lines are cut here and not by a library: those there are take what is malformed for something, and do not tell whether
//! a field had quotes.

use crate::error::{ConnectorError, Result};
use crate::format::Failure;
use crate::format::payload::{Columns, ReadPayload, Target};
use crate::options::Options;

/// The options of the encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    pub delimiter: u8,
    pub quote: u8,
    pub null: Box<str>,
}

impl CsvOptions {
    /// Takes them.
    ///
    /// # Errors
    /// 22023 for what is no single ASCII character, and for a header, which records of a topic do not have.
    pub(super) fn take(options: &mut Options<'_>) -> Result<Self> {
        let delimiter = take_character(options, "delimiter", b',')?;
        let quote = take_character(options, "quote", b'"')?;
        if delimiter == quote {
            return Err(ConnectorError::option("options \"delimiter\" and \"quote\" of ENCODE CSV are the same")
                .with_hint("a field that holds the delimiter could not be told from two"));
        }
        let null = options.take("null").unwrap_or("").into();
        for (name, without) in [("without_header", "true"), ("header", "false")] {
            if options.take(name).is_some_and(|value| !value.trim().eq_ignore_ascii_case(without)) {
                return Err(ConnectorError::unsupported("a header of ENCODE CSV is not supported")
                    .with_hint("each record is one row; its fields go to the columns in their declared order"));
            }
        }
        Ok(Self { delimiter, quote, null })
    }
}

fn take_character(options: &mut Options<'_>, name: &'static str, default: u8) -> Result<u8> {
    match options.take(name) {
        None => Ok(default),
        Some("\\t") => Ok(b'\t'),
        Some(text) => match text.as_bytes() {
            [b'\n' | b'\r'] => Err(ConnectorError::option(format!("option \"{name}\" of ENCODE CSV is a line break"))
                .with_hint("use ',', ';', '|' or '\\t'")),
            [one] if one.is_ascii() => Ok(*one),
            _ => {
                Err(ConnectorError::option(format!("option \"{name}\" of ENCODE CSV is not one character: \"{text}\""))
                    .with_hint("use one ASCII character, or '\\t' for a tab"))
            }
        },
    }
}

/// Reads lines.
pub(super) struct CsvPayload {
    options: CsvOptions,
    /// By field: the column's position among the builders, and its name.
    columns: Vec<(usize, Box<str>)>,
    /// A field in quotes without those that were doubled; kept so that it is allocated once.
    unquoted: String,
}

impl CsvPayload {
    /// Of the columns in declared order.
    pub fn new(options: &CsvOptions, targets: &[Target<'_>]) -> Self {
        let columns = targets.iter().map(|t| (t.at, t.name.into())).collect();
        Self { options: options.clone(), columns, unquoted: String::new() }
    }
}

impl ReadPayload for CsvPayload {
    fn read(&mut self, payload: &[u8], mut columns: Columns<'_>) -> Result<(), Failure> {
        let payload = payload.strip_suffix(b"\n").unwrap_or(payload);
        let payload = payload.strip_suffix(b"\r").unwrap_or(payload);
        let text = std::str::from_utf8(payload).map_err(|e| format!("invalid UTF-8 at byte {}", e.valid_up_to()))?;
        let mut rest = Some(text);
        for (i, (at, name)) in self.columns.iter().enumerate() {
            let Some(from) = rest else { return Err(wrong_number(&i.to_string(), self.columns.len()).into()) };
            let quoted = from.as_bytes().first() == Some(&self.options.quote);
            let (field, behind) = match quoted {
                true => quoted_field(from, &self.options, text.len() - from.len(), &mut self.unquoted)?,
                false => plain_field(from, &self.options, text.len() - from.len())?,
            };
            rest = behind;
            let column = columns.cleared(*at);
            match !quoted && field == &*self.options.null {
                true => column.append_null(),
                false => column.append_text(field).map_err(|e| format!("column \"{name}\": {e}"))?,
            }
        }
        match rest {
            None => Ok(()),
            Some(_) => Err(wrong_number("more", self.columns.len()).into()),
        }
    }
}

fn wrong_number(found: &str, columns: usize) -> String {
    format!("invalid CSV: {found} fields for {columns} columns")
}

/// A field without quotes, and what stands behind its delimiter if there is one.
fn plain_field<'a>(text: &'a str, options: &CsvOptions, at: usize) -> Result<(&'a str, Option<&'a str>), String> {
    let special = |b: &u8| *b == options.delimiter || *b == options.quote || matches!(*b, b'\n' | b'\r');
    let end = text.as_bytes().iter().position(special).unwrap_or(text.len());
    match text.as_bytes().get(end) {
        None => Ok((text, None)),
        Some(b) if *b == options.delimiter => Ok((&text[..end], Some(&text[end + 1..]))),
        Some(b) if *b == options.quote => {
            Err(format!("invalid CSV at byte {}: a quote within a field that does not begin with one", at + end))
        }
        Some(_) => Err(format!("invalid CSV at byte {}: a line break outside of quotes", at + end)),
    }
}

/// A field in quotes without them, and what stands behind its delimiter if there is one.
fn quoted_field<'a: 'o, 'o>(
    text: &'a str,
    options: &CsvOptions,
    at: usize,
    unquoted: &'o mut String,
) -> Result<(&'o str, Option<&'a str>), String> {
    let quote = options.quote;
    unquoted.clear();
    let mut from = 1;
    loop {
        let Some(found) = memchr::memchr(quote, &text.as_bytes()[from..]) else {
            return Err(format!("invalid CSV at byte {at}: the quote is not closed"));
        };
        let close = from + found;
        let next = text.as_bytes().get(close + 1);
        if next == Some(&quote) {
            unquoted.push_str(&text[from..=close]);
            from = close + 2;
            continue;
        }
        let rest = match next {
            None => None,
            Some(b) if *b == options.delimiter => Some(&text[close + 2..]),
            Some(_) => return Err(format!("invalid CSV at byte {}: text behind a closing quote", at + close + 1)),
        };
        if from == 1 {
            return Ok((&text[1..close], rest));
        }
        unquoted.push_str(&text[from..close]);
        return Ok((unquoted, rest));
    }
}
