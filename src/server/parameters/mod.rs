//! Parameter values of a Bind message to typed scalars, from PostgreSQL's text and binary forms.

mod datetime;
mod numeric;

use std::sync::Arc;

use datafusion::arrow::array::{ListArray, new_empty_array};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::common::ScalarValue;
use jiff::tz::TimeZone;
use millstream_catalog::SqlType;

use super::encode::Format;
use super::encode::binary::{EPOCH_DAYS, EPOCH_US};
use crate::error::{Error, Result, sqlstate};

const INVALID_BINARY_REPRESENTATION: &str = "22P03";
const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";

/// The value of parameter `number` (from 1); `None` is NULL. A timestamptz text without a zone is in `zone`.
pub fn decode(
    number: usize,
    sql_type: &SqlType,
    format: Format,
    bytes: Option<&[u8]>,
    zone: &TimeZone,
) -> Result<ScalarValue> {
    let Some(bytes) = bytes else {
        return Ok(ScalarValue::try_new_null(&sql_type.arrow_type())?);
    };
    let value = match format {
        Format::Text => from_text(sql_type, utf8(bytes)?, zone)?,
        Format::Binary => from_binary(sql_type, bytes)?.ok_or_else(|| {
            Error::new(
                INVALID_BINARY_REPRESENTATION,
                format!("incorrect binary data format in bind parameter {number} of type {sql_type}"),
            )
        })?,
    };
    Ok(match sql_type {
        SqlType::Numeric(None) => numeric::with_scale(value, scale_of(format, bytes)),
        _ => value,
    })
}

/// Digits after the point of a numeric as the client sent it; `None` for one with an exponent.
fn scale_of(format: Format, bytes: &[u8]) -> Option<i8> {
    match format {
        Format::Text if bytes.iter().any(|b| b.eq_ignore_ascii_case(&b'e')) => None,
        Format::Text => {
            let fraction = bytes.trim_ascii().split(|b| *b == b'.').nth(1).unwrap_or_default();
            i8::try_from(fraction.len()).ok()
        }
        // Number of digit groups, weight and sign are before it.
        Format::Binary => i8::try_from(u16::from_be_bytes(*bytes.get(6..)?.first_chunk()?)).ok(),
    }
}

fn from_text(sql_type: &SqlType, text: &str, zone: &TimeZone) -> Result<ScalarValue> {
    let invalid = || invalid_syntax(sql_type, text);
    let trimmed = text.trim_ascii();
    Ok(match sql_type {
        SqlType::Bool => ScalarValue::Boolean(Some(boolean(trimmed).ok_or_else(invalid)?)),
        SqlType::Int2 => ScalarValue::Int16(Some(whole(sql_type, trimmed)?)),
        SqlType::Int4 => ScalarValue::Int32(Some(whole(sql_type, trimmed)?)),
        SqlType::Int8 => ScalarValue::Int64(Some(whole(sql_type, trimmed)?)),
        SqlType::Oid => ScalarValue::UInt32(Some(whole(sql_type, trimmed)?)),
        SqlType::Float4 => {
            let value: f32 = trimmed.parse().map_err(|_| invalid())?;
            check_finite(sql_type, trimmed, value.is_infinite())?;
            ScalarValue::Float32(Some(value))
        }
        SqlType::Float8 => {
            let value: f64 = trimmed.parse().map_err(|_| invalid())?;
            check_finite(sql_type, trimmed, value.is_infinite())?;
            ScalarValue::Float64(Some(value))
        }
        SqlType::Numeric(modifier) => {
            let (value, scale) = numeric::parse(trimmed).ok_or_else(invalid)??;
            numeric::scalar(value, scale, *modifier)?
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name | SqlType::InternalChar => string(text),
        SqlType::Json | SqlType::Jsonb => json(sql_type, text)?,
        SqlType::Bytea => ScalarValue::Binary(Some(bytea(text).ok_or_else(invalid)?)),
        SqlType::Date => ScalarValue::Date32(Some(datetime::date(trimmed).ok_or_else(invalid)?)),
        SqlType::Time => ScalarValue::Time64Microsecond(Some(datetime::time(trimmed).ok_or_else(invalid)?)),
        SqlType::Timestamp => timestamp(datetime::timestamp(trimmed).ok_or_else(invalid)?),
        SqlType::Timestamptz => timestamptz(datetime::timestamptz(trimmed, zone).ok_or_else(invalid)?),
        SqlType::Interval => ScalarValue::IntervalMonthDayNano(Some(datetime::interval(trimmed).ok_or_else(invalid)?)),
        SqlType::Uuid => {
            let id = uuid::Uuid::try_parse(trimmed).map_err(|_| invalid())?;
            ScalarValue::FixedSizeBinary(16, Some(id.as_bytes().to_vec()))
        }
        SqlType::Array(item) => {
            let mut items = Vec::new();
            for element in array_elements(trimmed).ok_or_else(|| malformed_array(text))? {
                items.push(match element {
                    Some(element) => from_text(item, &element, zone)?,
                    None => ScalarValue::try_new_null(&item.arrow_type())?,
                });
            }
            list(item, items)?
        }
        SqlType::Record(_) => return Err(Error::unsupported("input of anonymous composite types is not implemented")),
    })
}

/// `None`: not the type's binary form.
fn from_binary(sql_type: &SqlType, bytes: &[u8]) -> Result<Option<ScalarValue>> {
    macro_rules! fixed {
        ($t:ty) => {
            match <[u8; size_of::<$t>()]>::try_from(bytes) {
                Ok(bytes) => <$t>::from_be_bytes(bytes),
                Err(_) => return Ok(None),
            }
        };
    }
    Ok(Some(match sql_type {
        SqlType::Bool => ScalarValue::Boolean(Some(fixed!(u8) != 0)),
        SqlType::Int2 => ScalarValue::Int16(Some(fixed!(i16))),
        SqlType::Int4 => ScalarValue::Int32(Some(fixed!(i32))),
        SqlType::Int8 => ScalarValue::Int64(Some(fixed!(i64))),
        SqlType::Oid => ScalarValue::UInt32(Some(fixed!(u32))),
        SqlType::Float4 => ScalarValue::Float32(Some(fixed!(f32))),
        SqlType::Float8 => ScalarValue::Float64(Some(fixed!(f64))),
        SqlType::Numeric(modifier) => match super::encode::binary::read_numeric(bytes) {
            Some((value, scale)) => numeric::scalar(value, scale as i32, *modifier)?,
            None => return Ok(None),
        },
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name | SqlType::InternalChar => {
            string(utf8(bytes)?)
        }
        SqlType::Json => json(sql_type, utf8(bytes)?)?,
        SqlType::Jsonb => match bytes.split_first() {
            Some((1, rest)) => json(sql_type, utf8(rest)?)?,
            _ => return Ok(None),
        },
        SqlType::Bytea => ScalarValue::Binary(Some(bytes.to_vec())),
        SqlType::Date => match fixed!(i32).checked_add(EPOCH_DAYS) {
            Some(days) => ScalarValue::Date32(Some(days)),
            None => return Ok(None),
        },
        SqlType::Time => ScalarValue::Time64Microsecond(Some(fixed!(i64))),
        SqlType::Timestamp | SqlType::Timestamptz => match fixed!(i64).checked_add(EPOCH_US) {
            Some(us) if *sql_type == SqlType::Timestamp => timestamp(us),
            Some(us) => timestamptz(us),
            None => return Ok(None),
        },
        SqlType::Interval => {
            let value = fixed!(i128) as u128;
            let us = (value >> 64) as i64;
            let Some(nanos) = us.checked_mul(1_000) else { return Ok(None) };
            ScalarValue::new_interval_mdn(value as i32, (value >> 32) as i32, nanos)
        }
        SqlType::Uuid if bytes.len() == 16 => ScalarValue::FixedSizeBinary(16, Some(bytes.to_vec())),
        SqlType::Uuid => return Ok(None),
        SqlType::Array(item) => return binary_array(item, bytes),
        SqlType::Record(_) => return Err(Error::unsupported("input of anonymous composite types is not implemented")),
    }))
}

fn binary_array(item: &SqlType, bytes: &[u8]) -> Result<Option<ScalarValue>> {
    let mut rest = bytes;
    let mut word = || -> Option<i32> {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        Some(i32::from_be_bytes(*head))
    };
    let (Some(dimensions), Some(_has_nulls), Some(item_oid)) = (word(), word(), word()) else { return Ok(None) };
    if item_oid as u32 != item.oid() {
        return Ok(None);
    }
    let count = match dimensions {
        0 => 0,
        1 => match (word(), word()) {
            (Some(count), Some(_lower_bound)) if count >= 0 => count as usize,
            _ => return Ok(None),
        },
        _ => return Err(Error::unsupported("parameters of more than one array dimension")),
    };
    let mut items = Vec::new();
    for _ in 0..count {
        let Some((head, tail)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_be_bytes(*head);
        if length < 0 {
            rest = tail;
            items.push(ScalarValue::try_new_null(&item.arrow_type())?);
            continue;
        }
        let Some((value, tail)) = tail.split_at_checked(length as usize) else { return Ok(None) };
        rest = tail;
        match from_binary(item, value)? {
            Some(value) => items.push(value),
            None => return Ok(None),
        }
    }
    Ok(if rest.is_empty() { Some(list(item, items)?) } else { None })
}

fn list(item: &SqlType, items: Vec<ScalarValue>) -> Result<ScalarValue> {
    let length = items.len();
    let values =
        if items.is_empty() { new_empty_array(&item.arrow_type()) } else { ScalarValue::iter_to_array(items)? };
    let field = Arc::new(item.field("item", true));
    Ok(ScalarValue::List(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths([length]), values, None)?)))
}

fn string(text: &str) -> ScalarValue {
    ScalarValue::Utf8View(Some(text.to_string()))
}

fn timestamp(us: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(us), None)
}

fn timestamptz(us: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()))
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(_) => Err(Error::new(CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\": 0x00")),
        Err(e) => {
            let bad = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
            Err(Error::new(
                CHARACTER_NOT_IN_REPERTOIRE,
                format!("invalid byte sequence for encoding \"UTF8\": {bad:#04x}"),
            ))
        }
    }
}

fn json(sql_type: &SqlType, text: &str) -> Result<ScalarValue> {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(string(text)),
        Err(e) => {
            Err(Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, format!("invalid input syntax for type {sql_type}"))
                .with_detail(e.to_string()))
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let starts = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if text == "1" || text == "on" || starts("true", 1) || starts("yes", 1) {
        Some(true)
    } else if text == "0" || starts("off", 2) || starts("false", 1) || starts("no", 1) {
        Some(false)
    } else {
        None
    }
}

fn whole<T: TryFrom<i128>>(sql_type: &SqlType, text: &str) -> Result<T> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid_syntax(sql_type, text));
    }
    text.parse::<i128>().ok().and_then(|v| T::try_from(v).ok()).ok_or_else(|| {
        Error::new(
            sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("value \"{text}\" is out of range for type {sql_type}"),
        )
    })
}

/// Rust reads `1e999` as infinity; PostgreSQL refuses it.
fn check_finite(sql_type: &SqlType, text: &str, infinite: bool) -> Result<()> {
    if infinite && !text.to_ascii_lowercase().contains("inf") {
        return Err(Error::new(
            sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("\"{text}\" is out of range for type {sql_type}"),
        ));
    }
    Ok(())
}

/// `\x` and hexadecimal digits, or the older escape form.
fn bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()?;
        return digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        (rest, _) = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => (tail, bytes.push(b'\\')),
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                (tail, bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')))
            }
            (b'\\', _) => return None,
            (plain, tail) => (tail, bytes.push(*plain)),
        };
    }
    Some(bytes)
}

/// The elements of a one-dimensional array literal `{1,NULL,"a b"}`; `None` if it is not one.
fn array_elements(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut elements = Vec::new();
    if inner.trim_ascii().is_empty() {
        return Some(elements);
    }
    let mut chars = inner.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let mut element = String::new();
        let mut quoted = false;
        if chars.next_if_eq(&'"').is_some() {
            quoted = true;
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => element.push(chars.next()?),
                    c => element.push(c),
                }
            }
            while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                match c {
                    '\\' => element.push(chars.next()?),
                    '{' | '}' | '"' => return None,
                    c => element.push(c),
                }
            }
            element.truncate(element.trim_ascii_end().len());
            if element.is_empty() {
                return None;
            }
        }
        elements.push((quoted || !element.eq_ignore_ascii_case("null")).then_some(element));
        match chars.next() {
            None => return Some(elements),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

fn malformed_array(text: &str) -> Error {
    Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, format!("malformed array literal: \"{text}\""))
        .with_hint("write a one-dimensional array as {1,2,NULL}")
}

fn invalid_syntax(sql_type: &SqlType, text: &str) -> Error {
    const INVALID_DATETIME_FORMAT: &str = "22007";
    let code = match sql_type {
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => {
            INVALID_DATETIME_FORMAT
        }
        _ => sqlstate::INVALID_TEXT_REPRESENTATION,
    };
    Error::new(code, format!("invalid input syntax for type {sql_type}: \"{text}\""))
}

#[cfg(test)]
mod tests;
