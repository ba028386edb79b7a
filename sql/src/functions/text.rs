//! Functions of text: lengths (of text in characters, of bytes in bytes, of an empty array none), `format`, and the patterns
//! of LIKE with ESCAPE and SIMILAR TO.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringViewArray, StringViewBuilder};
use arrow::datatypes::{DataType, FieldRef, Int32Type};
use datafusion_expr::{ScalarUDF, Volatility};

use super::define::{Call, Constants, Definition, Typing, build, define, has_null, is_int};
use crate::error::{Result, SqlError};
use crate::types::{quote_ident, to_text};

/// The functions of this module.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        define("length", &[], length_type, length),
        define("array_length", &[], dimension_type, dimension),
        define("like_escape", &[], patterns, |c| each_pattern(c, like_escape)),
        define("similar_to_escape", &[], patterns, |c| each_pattern(c, similar_to_escape)),
        build(Definition {
            name: "format",
            aliases: &[],
            // A timestamptz is printed in the session's zone.
            volatility: Volatility::Stable,
            strict: false,
            result: None,
            typing: |types, constants| if types.is_empty() { None } else { super::json::any(types, constants) },
            kernel: format,
        }),
    ]
}

fn length_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    use DataType as D;
    match types {
        [D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null] => Typing::new(vec![D::Utf8View], D::Int32),
        [D::Binary | D::LargeBinary | D::BinaryView] => Typing::new(vec![D::Binary], D::Int32),
        _ => None,
    }
}

fn length(call: &Call<'_>) -> Result<ArrayRef> {
    let array = &call.arguments[0];
    let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let lengths: Int32Array = match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().iter().map(|b| b.map(|b| int(b.len()))).collect(),
        _ => array.as_string_view().iter().map(|t| t.map(|t| int(t.chars().count()))).collect(),
    };
    Ok(Arc::new(lengths))
}

fn dimension_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [list @ DataType::List(_), n] if is_int(n) => Typing::new(vec![list.clone(), DataType::Int32], DataType::Int32),
        _ => None,
    }
}

/// `array_length(array, n)`: how long its n-th dimension is.
fn dimension(call: &Call<'_>) -> Result<ArrayRef> {
    let numbers = call.arguments[1].as_primitive::<Int32Type>();
    let mut lengths = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let mut array = call.arguments[0].slice(row, 1);
        let mut length = None;
        let wanted = if numbers.is_valid(row) { numbers.value(row) } else { 0 };
        for n in 1..=wanted {
            // Arrays are rectangular, so that the first item of a dimension speaks for all.
            let Some(list) = array.as_list_opt::<i32>().filter(|l| !l.is_empty() && l.is_valid(0)) else { break };
            let items = list.value(0);
            if n == wanted && !items.is_empty() {
                let found = i32::try_from(items.len()).map_err(|_| SqlError::new("22003", "integer out of range"))?;
                length = Some(found);
            }
            array = items;
        }
        lengths.push(length);
    }
    Ok(Arc::new(Int32Array::from(lengths)))
}

/// `format(template, …)`.
fn format(call: &Call<'_>) -> Result<ArrayRef> {
    let shown = |(array, field): (&ArrayRef, &FieldRef)| match array.as_boolean_opt() {
        // The wire's form, not that of a cast.
        Some(flags) => Ok(flags.iter().map(|flag| flag.map(|f| if f { "t" } else { "f" })).collect()),
        None => to_text(array, field, call.zone),
    };
    let texts: Vec<StringViewArray> = call.arguments.iter().zip(call.fields).map(shown).collect::<Result<Vec<_>>>()?;
    let mut out = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        let arguments: Vec<Option<&str>> = texts.iter().map(|t| t.is_valid(row).then(|| t.value(row))).collect();
        let formatted = match arguments.split_first() {
            Some((Some(template), arguments)) => Some(formatted(template, arguments)?),
            _ => None,
        };
        out.append_option(formatted);
    }
    Ok(Arc::new(out.finish()))
}

/// Fills `%s`, `%I` and `%L`, each perhaps with `n$`, `-` and a width.
fn formatted(template: &str, arguments: &[Option<&str>]) -> Result<String> {
    let invalid = |message: &str| SqlError::new("22023", message);
    let too_few = || invalid("too few arguments for format()");
    let ended = || invalid("unterminated format() type specifier").with_hint("for a single \"%\" use \"%%\"");
    let mut out = String::new();
    let mut next = 0;
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Result<Option<usize>> {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            if digits.is_empty() {
                return Ok(None);
            }
            digits.parse().map(Some).map_err(|_| SqlError::new("22003", "number is out of range"))
        };
        let mut width = number(&mut chars)?;
        if width.is_some() && chars.next_if_eq(&'$').is_some() {
            let at = width.take().unwrap_or(0);
            if at == 0 {
                return Err(invalid("format specifies argument 0, but arguments are numbered from 1"));
            }
            next = at - 1;
        }
        let left = chars.next_if_eq(&'-').is_some();
        if width.is_none() {
            width = number(&mut chars)?;
        }
        if chars.peek() == Some(&'*') {
            return Err(SqlError::unsupported("a width from an argument of format() is not supported"));
        }
        let kind = chars.next().ok_or_else(ended)?;
        if !matches!(kind, 's' | 'I' | 'L') {
            return Err(invalid(&format!("unrecognized format() type specifier \"{kind}\""))
                .with_hint("for a single \"%\" use \"%%\""));
        }
        let argument = arguments.get(next).ok_or_else(too_few)?;
        next += 1;
        let text = match (kind, argument) {
            ('s', argument) => argument.unwrap_or_default().to_string(),
            ('I', Some(name)) => quote_ident(name),
            ('I', None) => return Err(SqlError::new("22004", "null values cannot be formatted as an SQL identifier")),
            (_, Some(text)) => quoted_literal(text),
            (_, None) => "NULL".to_string(),
        };
        let pad = width.unwrap_or(0).saturating_sub(text.chars().count());
        let blanks = " ".repeat(pad);
        out.push_str(&if left { text + &blanks } else { blanks + &text });
    }
    Ok(out)
}

fn quoted_literal(text: &str) -> String {
    let escapes = if text.contains('\\') { "E" } else { "" };
    format!("{escapes}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn patterns(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let is_text =
        |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null);
    match types {
        [pattern, escape] if is_text(pattern) && is_text(escape) => {
            Typing::new(vec![DataType::Utf8View; 2], DataType::Utf8View)
        }
        _ => None,
    }
}

/// Applies `f` to a pattern and its escape character, if it has one.
fn each_pattern(call: &Call<'_>, f: fn(&str, Option<char>) -> Result<String>) -> Result<ArrayRef> {
    let (patterns, escapes) = (call.arguments[0].as_string_view(), call.arguments[1].as_string_view());
    let mut out = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        if has_null(call.arguments, row) {
            out.append_null();
            continue;
        }
        let mut chars = escapes.value(row).chars();
        let escape = chars.next();
        if chars.next().is_some() {
            let error = SqlError::new("22025", "invalid escape string");
            return Err(error.with_hint("the escape string must be empty or one character"));
        }
        out.append_value(f(patterns.value(row), escape)?);
    }
    Ok(Arc::new(out.finish()))
}

/// A LIKE pattern with the backslash for its escape character.
fn like_escape(pattern: &str, escape: Option<char>) -> Result<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            let Some(next) = chars.next() else {
                return Err(SqlError::new("22025", "LIKE pattern must not end with escape character"));
            };
            out.extend(['\\', next]);
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// SIMILAR TO's pattern as a regular expression.
fn similar_to_escape(pattern: &str, escape: Option<char>) -> Result<String> {
    let mut out = String::from("^(?s:");
    let mut chars = pattern.chars();
    let mut in_brackets = false;
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some('"') => return Err(SqlError::unsupported("escaped quotes in SIMILAR TO are not supported")),
                Some(next) if next.is_alphanumeric() => out.push(next),
                Some(next) => out.extend(['\\', next]),
                None => return Err(SqlError::new("22025", "SIMILAR TO pattern must not end with escape character")),
            }
            continue;
        }
        match c {
            '\\' => out.push_str("\\\\"),
            // Rust's classes nest and have operators, PostgreSQL's do not.
            '[' if in_brackets => out.push_str("\\["),
            '&' | '~' if in_brackets => out.extend(['\\', c]),
            ']' => {
                in_brackets = false;
                out.push(c);
            }
            '[' => {
                in_brackets = true;
                out.push(c);
            }
            c if in_brackets => out.push(c),
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '(' => out.push_str("(?:"),
            '.' | '^' | '$' | '#' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push_str(")$");
    Ok(out)
}
