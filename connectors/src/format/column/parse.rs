//! Values given as text, in the forms that each type reads, and as bytes.

use millstream_catalog::SqlType;

use super::text::{push_text, shorten};
use super::{ColumnBuilder, Data};
use crate::format::number::parse_decimal;
use crate::format::{datetime, number};

impl ColumnBuilder {
    /// Appends a value given as the text of a JSON string or in a text-based format: the forms that this type reads.
    ///
    /// # Errors
    /// Why the text is no value of the type; the column may then hold half a value until it is truncated.
    pub fn append_text(&mut self, value: &str) -> Result<(), String> {
        let bytes = value.as_bytes();
        match &mut self.data {
            Data::Text { views, long, rule } => push_text(views, long, *rule, value)?,
            Data::Bool(v) => v.append(match value {
                "true" | "t" => true,
                "false" | "f" => false,
                _ => return Err(not_a(value, "boolean")),
            }),
            Data::Int2(_) | Data::Int4(_) | Data::Int8(_) | Data::Oid(_) | Data::Numeric { .. } => {
                return self.append_number(bytes.trim_ascii());
            }
            Data::Float4(_) | Data::Float8(_) => {
                let special = match value.trim().to_ascii_lowercase().as_str() {
                    "nan" => Some(f64::NAN),
                    "infinity" | "inf" | "+infinity" | "+inf" => Some(f64::INFINITY),
                    "-infinity" | "-inf" => Some(f64::NEG_INFINITY),
                    _ => None,
                };
                match (special, &mut self.data) {
                    (Some(f), Data::Float8(v)) => v.push(f),
                    (Some(f), Data::Float4(v)) => v.push(f as f32),
                    _ => return self.append_number(bytes.trim_ascii()),
                }
            }
            Data::Date(v) => v.push(datetime::parse_date(bytes).ok_or_else(|| not_a(value, "date"))?),
            Data::Time { values, .. } => {
                values.push(datetime::parse_time(bytes).ok_or_else(|| not_a(value, "time"))?);
            }
            Data::Timestamp { values, .. } => {
                values.push(datetime::parse_timestamp(bytes).ok_or_else(|| not_a(value, "timestamp"))?);
            }
            Data::Uuid(v) => v.extend_from_slice(&parse_uuid(bytes).ok_or_else(|| not_a(value, "uuid"))?),
            Data::Bytea { offsets, bytes } => {
                decode_bytea(value, bytes).ok_or_else(|| not_a(value, "bytea (base64, or hex after \\x)"))?;
                offsets.push(end_offset(bytes.len())?);
            }
            Data::List { .. } => return Err(not_a(value, "array")),
            Data::Record(_) => return Err(not_a(value, "record")),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends a number given as its text.
    ///
    /// # Errors
    /// As [`ColumnBuilder::append_text`].
    pub fn append_number(&mut self, text: &[u8]) -> Result<(), String> {
        match &mut self.data {
            Data::Int2(v) => v.push(integer(text, "smallint")?),
            Data::Int4(v) => v.push(integer(text, "integer")?),
            Data::Int8(v) => v.push(integer(text, "bigint")?),
            Data::Oid(v) => v.push(integer(text, "oid")?),
            Data::Float4(v) => v.push(float::<f32>(text, "real", f32::is_finite)?),
            Data::Float8(v) => v.push(float::<f64>(text, "double precision", f64::is_finite)?),
            Data::Numeric { values, precision, scale, declared } => {
                let value = parse_decimal(text, *precision, *scale).map_err(|e| {
                    let t = SqlType::Numeric(declared.then_some((*precision, *scale)));
                    format!("{} as {t}: {}", shorten(&String::from_utf8_lossy(text)), e.reason())
                })?;
                values.push(value);
            }
            Data::Text { views, long, rule } => push_text(views, long, *rule, &String::from_utf8_lossy(text))?,
            Data::Timestamp { micros: false, .. } => {
                let ms = integer(text, "timestamp in milliseconds")?;
                return self.append_epoch_ms(ms);
            }
            Data::Timestamp { micros: true, .. } => {
                let us = integer(text, "timestamp in microseconds")?;
                return self.append_micros(us);
            }
            Data::Time { micros, .. } => {
                let (per, unit) = if *micros { (1, "time in microseconds") } else { (1000, "time in milliseconds") };
                let value: i64 = integer(text, unit)?;
                let us = value.checked_mul(per).ok_or_else(|| format!("{value} as {unit}: out of range"))?;
                return self.append_micros(us);
            }
            Data::Date(v) => v.push(integer(text, "date in days")?),
            _ => return Err(format!("{} is a number", shorten(&String::from_utf8_lossy(text)))),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends raw bytes: a record's key.
    ///
    /// # Errors
    /// If the column is text and the bytes are not UTF-8, or it takes neither bytes nor text.
    pub fn append_bytes(&mut self, value: &[u8]) -> Result<(), String> {
        match &mut self.data {
            Data::Bytea { offsets, bytes } => {
                bytes.extend_from_slice(value);
                offsets.push(end_offset(bytes.len())?);
            }
            _ => return self.append_text(std::str::from_utf8(value).map_err(|_| "not valid UTF-8")?),
        }
        self.mark_valid();
        Ok(())
    }
}

fn integer<T: TryFrom<i64>>(text: &[u8], type_name: &str) -> Result<T, String> {
    let fail = |reason: &str| format!("{} as {type_name}: {reason}", shorten(&String::from_utf8_lossy(text)));
    let value = number::parse_integer(text).map_err(|e| fail(e.reason()))?;
    T::try_from(value).map_err(|_| fail("out of range"))
}

fn float<T: std::str::FromStr + Copy>(text: &[u8], type_name: &str, is_finite: fn(T) -> bool) -> Result<T, String> {
    let fail = |reason: &str| format!("{} as {type_name}: {reason}", shorten(&String::from_utf8_lossy(text)));
    // Rust's own parser also takes words such as "inf", which have been looked at before.
    if text.iter().any(|b| b.is_ascii_alphabetic() && !matches!(b, b'e' | b'E')) {
        return Err(fail("not a number"));
    }
    let value = std::str::from_utf8(text).ok().and_then(|t| t.parse::<T>().ok()).ok_or_else(|| fail("not a number"))?;
    if is_finite(value) { Ok(value) } else { Err(fail("out of range")) }
}

/// Offset past the last value; a batch cannot hold more than 2 GiB of one column.
fn end_offset(len: usize) -> Result<i32, String> {
    i32::try_from(len).map_err(|_| "more than 2 GiB of values in one batch".into())
}

fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let text = text.trim_ascii();
    let text = match text {
        [b'{', inner @ .., b'}'] => inner,
        _ => text,
    };
    let (mut uuid, mut digits) = ([0u8; 16], 0);
    for (i, b) in text.iter().enumerate() {
        if *b == b'-' {
            // PostgreSQL takes a hyphen after each group of four digits.
            if digits == 0 || digits % 4 != 0 || digits == 32 || text[i - 1] == b'-' {
                return None;
            }
            continue;
        }
        let d = (*b as char).to_digit(16)? as u8;
        *uuid.get_mut(digits / 2)? |= if digits % 2 == 0 { d << 4 } else { d };
        digits += 1;
    }
    (digits == 32).then_some(uuid)
}

/// Base64 with or without padding, or PostgreSQL's `\x` hex, which base64 cannot be mistaken for.
fn decode_bytea(text: &str, out: &mut Vec<u8>) -> Option<()> {
    use base64::Engine;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let Some(hex) = text.strip_prefix("\\x") else {
        return BASE64.decode_vec(text, out).ok();
    };
    if hex.len() % 2 != 0 {
        return None;
    }
    for pair in hex.as_bytes().chunks_exact(2) {
        let (high, low) = ((pair[0] as char).to_digit(16)?, (pair[1] as char).to_digit(16)?);
        out.push((high << 4 | low) as u8);
    }
    Some(())
}

fn not_a(value: &str, type_name: &str) -> String {
    format!("\"{}\" is not a valid {type_name}", shorten(value))
}
