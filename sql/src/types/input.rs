//! Text to a value of a type, by PostgreSQL's input functions.

use std::sync::Arc;

use datafusion_common::ScalarValue;
use millstream_catalog::types::{MAX_PRECISION, UNCONSTRAINED_SCALE};
use millstream_catalog::{SqlType, jsonb};

use super::date_text::{self, NoTime, Parts};
use super::interval;
use super::time::{self, MICROS_PER_DAY, Zone};
use crate::error::{Result, SqlError};

/// Reads `text` as a value of `sql_type`; `zone` applies to timestamptz without an offset.
///
/// # Errors
/// 22P02 (22007 for dates and times) `invalid input syntax for type …`, 22003 / 22008 out of range, 0A000 for types that
/// have no text form here.
pub fn parse_value(text: &str, sql_type: &SqlType, zone: &str) -> Result<ScalarValue> {
    let invalid = || invalid_input(text, sql_type);
    let trimmed = text.trim();
    Ok(match sql_type {
        SqlType::Bool => ScalarValue::Boolean(Some(bool(trimmed).ok_or_else(invalid)?)),
        SqlType::Int2 => ScalarValue::Int16(Some(int(text, sql_type)?)),
        SqlType::Int4 => ScalarValue::Int32(Some(int(text, sql_type)?)),
        SqlType::Int8 => ScalarValue::Int64(Some(int(text, sql_type)?)),
        SqlType::Oid => ScalarValue::UInt32(Some(int(text, sql_type)?)),
        SqlType::Float4 => ScalarValue::Float32(Some(float4(text, sql_type)?)),
        SqlType::Float8 => ScalarValue::Float64(Some(float8(text, sql_type)?)),
        SqlType::Numeric(typmod) => {
            let (precision, scale) = typmod.unwrap_or((MAX_PRECISION, UNCONSTRAINED_SCALE));
            let value = numeric(trimmed, precision, scale, typmod.is_some())?.ok_or_else(invalid)?;
            ScalarValue::Decimal128(Some(value), precision, scale)
        }
        SqlType::Text | SqlType::Varchar(None) | SqlType::Name | SqlType::InternalChar => string(text),
        SqlType::Varchar(Some(n)) => string(&fit(text, *n, false, false)?),
        SqlType::Char(n) => string(&fit(text, *n, true, false)?),
        SqlType::Json => {
            json(text).map_err(|detail| invalid().with_detail(detail))?;
            string(text)
        }
        SqlType::Jsonb => string(&jsonb::canonical(text).map_err(|detail| invalid().with_detail(detail))?),
        SqlType::Bytea => ScalarValue::Binary(Some(bytea(text).ok_or_else(invalid)?)),
        SqlType::Uuid => {
            let bytes = uuid(trimmed).ok_or_else(invalid)?;
            ScalarValue::FixedSizeBinary(16, Some(bytes))
        }
        SqlType::Date => {
            let parts = time_parts(text, sql_type)?;
            ScalarValue::Date32(Some(parts.days.ok_or_else(invalid)?))
        }
        SqlType::Time => {
            let parts = time_parts(text, sql_type)?;
            ScalarValue::Time64Microsecond(Some(parts.time_us.ok_or_else(invalid)?))
        }
        SqlType::Timestamp => ScalarValue::TimestampMicrosecond(Some(local_time(text, sql_type)?.0), None),
        SqlType::Timestamptz => {
            let (local, parts) = local_time(text, sql_type)?;
            let named = parts.zone.map(|at| Zone::new(text[at..].trim())).transpose()?;
            let utc = match (parts.offset, named) {
                (Some(offset), _) => local.checked_sub(i64::from(offset) * time::MICROS_PER_SECOND),
                (None, Some(named)) => named.to_utc(local),
                (None, None) => Zone::new(zone)?.to_utc(local),
            };
            let utc = utc.ok_or_else(|| time_error(text, sql_type, NoTime::Range))?;
            ScalarValue::TimestampMicrosecond(Some(utc), Some("UTC".into()))
        }
        SqlType::Interval => ScalarValue::IntervalMonthDayNano(Some(interval::parse(text).ok_or_else(invalid)?)),
        SqlType::Array(item) => array(trimmed, item, zone)?
            .ok_or_else(|| SqlError::new("22P02", format!("malformed array literal: \"{text}\"")))?,
        SqlType::Record(_) => return Err(SqlError::unsupported("input of composite types is not supported")),
    })
}

fn string(text: &str) -> ScalarValue {
    ScalarValue::Utf8View(Some(text.to_string()))
}

/// PostgreSQL's words for text that a type does not take.
pub(crate) fn invalid_input(text: &str, sql_type: &SqlType) -> SqlError {
    // A document can be long; what is wrong with it is in the detail.
    if matches!(sql_type, SqlType::Json | SqlType::Jsonb) {
        return SqlError::new("22P02", "invalid input syntax for type json");
    }
    let plain = match sql_type {
        SqlType::Numeric(_) => "numeric".to_string(),
        other => other.to_string(),
    };
    let code = match sql_type {
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => "22007",
        _ => "22P02",
    };
    SqlError::new(code, format!("invalid input syntax for type {plain}: \"{text}\""))
}

fn time_error(text: &str, sql_type: &SqlType, error: NoTime) -> SqlError {
    match error {
        NoTime::Range => SqlError::new("22008", format!("date/time field value out of range: \"{text}\"")),
        NoTime::Form => invalid_input(text, sql_type),
    }
}

fn time_parts(text: &str, sql_type: &SqlType) -> Result<Parts> {
    let parts = date_text::parse(text).map_err(|e| time_error(text, sql_type, e))?;
    // Also where the zone is not used it must be one.
    if let Some(at) = parts.zone {
        Zone::new(text[at..].trim())?;
    }
    Ok(parts)
}

fn local_time(text: &str, sql_type: &SqlType) -> Result<(i64, Parts)> {
    let parts = time_parts(text, sql_type)?;
    let days = parts.days.ok_or_else(|| invalid_input(text, sql_type))?;
    Ok((i64::from(days) * MICROS_PER_DAY + parts.time_us.unwrap_or(0), parts))
}

/// Text of at most `n` characters. Beyond it blanks are cut; other characters are cut by an explicit cast, and are 22001
/// on assignment. `char(n)` is padded.
pub(crate) fn fit(text: &str, n: u32, pad: bool, assignment: bool) -> Result<String> {
    let n = n as usize;
    let count = text.chars().count();
    if count <= n {
        let mut fitted = text.to_string();
        if pad {
            (count..n).for_each(|_| fitted.push(' '));
        }
        return Ok(fitted);
    }
    let end = text.char_indices().nth(n).map_or(text.len(), |(i, _)| i);
    if assignment && text[end..].chars().any(|c| c != ' ') {
        let name = if pad { "character" } else { "character varying" };
        return Err(SqlError::new("22001", format!("value too long for type {name}({n})")));
    }
    Ok(text[..end].to_string())
}

/// Any unambiguous start of true, false, yes, no; on, off; 1, 0.
fn bool(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let is = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    if is("true", 1) || is("yes", 1) || lower == "on" || lower == "1" {
        Some(true)
    } else if is("false", 1) || is("no", 1) || is("off", 2) || lower == "0" {
        Some(false)
    } else {
        None
    }
}

fn int<T: TryFrom<i128>>(text: &str, sql_type: &SqlType) -> Result<T> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid_input(text, sql_type));
    }
    let value: Option<T> = trimmed.parse::<i128>().ok().and_then(|v| T::try_from(v).ok());
    value.ok_or_else(|| SqlError::new("22003", format!("value \"{text}\" is out of range for type {sql_type}")))
}

fn is_float(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
}

fn float_word(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "infinity" | "inf" | "+infinity" | "+inf" => Some(f64::INFINITY),
        "-infinity" | "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn float8(text: &str, sql_type: &SqlType) -> Result<f64> {
    let trimmed = text.trim();
    if let Some(word) = float_word(trimmed) {
        return Ok(word);
    }
    let value: f64 = Some(trimmed)
        .filter(|t| is_float(t))
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| invalid_input(text, sql_type))?;
    let lost = value.is_infinite() || (value == 0.0 && has_digit(trimmed));
    if lost {
        Err(SqlError::new("22003", format!("\"{text}\" is out of range for type {sql_type}")))
    } else {
        Ok(value)
    }
}

fn float4(text: &str, sql_type: &SqlType) -> Result<f32> {
    let trimmed = text.trim();
    if let Some(word) = float_word(trimmed) {
        return Ok(word as f32);
    }
    let value: f32 = Some(trimmed)
        .filter(|t| is_float(t))
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| invalid_input(text, sql_type))?;
    let lost = value.is_infinite() || (value == 0.0 && has_digit(trimmed));
    if lost {
        Err(SqlError::new("22003", format!("\"{text}\" is out of range for type {sql_type}")))
    } else {
        Ok(value)
    }
}

/// Whether the number before an exponent is not zero.
fn has_digit(text: &str) -> bool {
    text.split(['e', 'E']).next().is_some_and(|m| m.bytes().any(|b| matches!(b, b'1'..=b'9')))
}

/// A decimal at `scale`; rounded half away from zero where the type says its scale, else a lost digit is 22003. `None` for
/// text that is no number.
pub(crate) fn numeric(text: &str, precision: u8, scale: i8, round: bool) -> Result<Option<i128>> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((m, e)) => match e.parse::<i32>() {
            Ok(e) if !e.to_string().is_empty() => (m, e),
            _ => return Ok(None),
        },
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if (whole.is_empty() && fraction.is_empty()) || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        if matches!(text.to_ascii_lowercase().as_str(), "nan" | "infinity" | "-infinity" | "inf" | "-inf") {
            return Err(SqlError::unsupported(format!("numeric \"{text}\" is not supported"))
                .with_hint("double precision has NaN and Infinity"));
        }
        return Ok(None);
    }
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    // Digits to keep, counted from the first: those before the point, shifted by the exponent, plus the scale.
    let keep = whole.len() as i64 + i64::from(exponent) + i64::from(scale);
    let overflow = || {
        let error = SqlError::new("22003", "numeric field overflow");
        if round {
            error.with_detail(format!(
                "A field with precision {precision}, scale {scale} must round to an absolute value less than 10^{}.",
                i32::from(precision) - i32::from(scale)
            ))
        } else {
            error.with_detail(format!(
                "A numeric without precision holds {} digits before and {UNCONSTRAINED_SCALE} after the point.",
                MAX_PRECISION as i8 - UNCONSTRAINED_SCALE
            ))
        }
    };
    let mut value: i128 = 0;
    for i in 0..keep.max(0) {
        let digit = digits.get(i as usize).copied().unwrap_or(0);
        value = value.checked_mul(10).and_then(|v| v.checked_add(i128::from(digit))).ok_or_else(overflow)?;
        if value == 0 && i > 1000 {
            break;
        }
    }
    let lost = digits.get(keep.max(0) as usize..).unwrap_or_default();
    if lost.iter().any(|d| *d != 0) {
        if !round {
            return Err(SqlError::new("22003", format!("numeric \"{text}\" has more digits than can be kept"))
                .with_detail(overflow().detail.unwrap_or_default())
                .with_hint("give the column or cast a precision and scale, or use double precision"));
        }
        if keep >= 0 && lost.first().is_some_and(|d| *d >= 5) {
            value += 1;
        }
    }
    if value >= 10i128.pow(u32::from(precision)) {
        return Err(overflow());
    }
    Ok(Some(if negative { -value } else { value }))
}

/// The layout that holds just the digits of a numeric literal; `None` if it is none or has more than 38.
pub fn numeric_layout(text: &str) -> Option<SqlType> {
    let unsigned = text.trim().trim_start_matches(['+', '-']);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let exponent = exponent.parse::<i16>().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let scale = (i16::try_from(fraction.len()).ok()?.checked_sub(exponent)?).max(0);
    let whole = i16::try_from(whole.trim_start_matches('0').len()).ok()?.checked_add(exponent)?.max(0);
    let precision = whole.checked_add(scale)?.max(1);
    if precision > i16::from(MAX_PRECISION) {
        return None;
    }
    Some(SqlType::Numeric(Some((precision as u8, scale as i8))))
}

fn bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        return digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'\\' {
            bytes.push(b);
            continue;
        }
        match rest.next()? {
            b'\\' => bytes.push(b'\\'),
            first @ b'0'..=b'3' => {
                let (second, third) = (rest.next()?, rest.next()?);
                if !matches!((second, third), (b'0'..=b'7', b'0'..=b'7')) {
                    return None;
                }
                bytes.push((first - b'0') * 64 + (second - b'0') * 8 + (third - b'0'));
            }
            _ => return None,
        }
    }
    Some(bytes)
}

fn uuid(text: &str) -> Option<Vec<u8>> {
    let inner = text.strip_prefix('{').map_or(Some(text), |t| t.strip_suffix('}'))?;
    let hex: String = inner.chars().filter(|c| *c != '-').collect();
    if hex.len() != 32 || !hex.is_ascii() || inner.starts_with('-') || inner.ends_with('-') || inner.contains("--") {
        return None;
    }
    (0..16).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect()
}

/// Whether it is one JSON value; the reason if not.
fn json(text: &str) -> Result<(), String> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| ()).map_err(|e| e.to_string())
}

/// `{a,"b c",NULL}`; no nested arrays.
fn array(text: &str, item: &SqlType, zone: &str) -> Result<Option<ScalarValue>> {
    let Some(body) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) else { return Ok(None) };
    let mut items: Vec<Option<String>> = Vec::new();
    let mut chars = body.chars().peekable();
    let mut any = !body.trim().is_empty();
    while any {
        while chars.peek().is_some_and(|c| c.is_whitespace()) {
            chars.next();
        }
        let mut value = String::new();
        let quoted = chars.peek() == Some(&'"');
        if quoted {
            chars.next();
            loop {
                match chars.next() {
                    Some('\\') => value.extend(chars.next()),
                    Some('"') => break,
                    Some(c) => value.push(c),
                    None => return Ok(None),
                }
            }
            while chars.peek().is_some_and(|c| c.is_whitespace()) {
                chars.next();
            }
        } else {
            while let Some(c) = chars.peek() {
                match c {
                    ',' => break,
                    '{' | '}' | '"' => return Ok(None),
                    '\\' => {
                        chars.next();
                        value.extend(chars.next());
                    }
                    _ => value.extend(chars.next()),
                }
            }
            value.truncate(value.trim_end().len());
            if value.is_empty() {
                return Ok(None);
            }
        }
        items.push(if !quoted && value.eq_ignore_ascii_case("null") { None } else { Some(value) });
        any = match chars.next() {
            None => false,
            Some(',') => true,
            Some(_) => return Ok(None),
        };
    }
    let null = ScalarValue::try_new_null(&item.arrow_type())?;
    let values = items
        .into_iter()
        .map(|v| v.map_or_else(|| Ok(null.clone()), |v| parse_value(&v, item, zone)))
        .collect::<Result<Vec<_>>>()?;
    let array = if values.is_empty() {
        arrow::array::new_empty_array(&item.arrow_type())
    } else {
        ScalarValue::iter_to_array(values)?
    };
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([array.len()]);
    let list = arrow::array::ListArray::try_new(Arc::new(item.field("item", true)), offsets, array, None)?;
    Ok(Some(ScalarValue::List(Arc::new(list))))
}
