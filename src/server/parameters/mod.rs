//! Parameter values of a Bind message to typed scalars, from PostgreSQL's text and binary forms.

mod numeric;

use std::sync::Arc;

use datafusion::arrow::array::{ListArray, new_empty_array};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::common::ScalarValue;
use millstream_catalog::SqlType;
use millstream_sql::types::{numeric_layout, parse_value};

use super::encode::Format;
use super::encode::binary::{EPOCH_DAYS, EPOCH_US};
use crate::error::{Error, Result};
use crate::session::api::Parameter;

const INVALID_BINARY_REPRESENTATION: &str = "22P03";
const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";

/// The value of parameter `number` (from 1); `None` is NULL. A timestamptz text without a zone is in `zone`.
pub fn decode(
    number: usize,
    sql_type: &SqlType,
    format: Format,
    bytes: Option<&[u8]>,
    zone: &str,
) -> Result<Parameter> {
    let metadata = sql_type.field("", true).metadata().clone();
    let typed = |value| Parameter::new(value, (!metadata.is_empty()).then(|| metadata.into()));
    let Some(bytes) = bytes else {
        return Ok(typed(ScalarValue::try_new_null(&sql_type.arrow_type())?));
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
    Ok(match (sql_type, format) {
        // A numeric has the layout of its digits.
        (SqlType::Numeric(None), Format::Binary) => Parameter::new(numeric::with_scale(value, scale_of(bytes)), None),
        (SqlType::Numeric(None), Format::Text) => Parameter::new(value, None),
        _ => typed(value),
    })
}

/// Digits after the point of a numeric in binary form: number of digit groups, weight and sign are before them.
fn scale_of(bytes: &[u8]) -> Option<i8> {
    i8::try_from(u16::from_be_bytes(*bytes.get(6..)?.first_chunk()?)).ok()
}

fn from_text(sql_type: &SqlType, text: &str, zone: &str) -> Result<ScalarValue> {
    // A numeric keeps its digits as they were sent, as a literal does.
    let own = if *sql_type == SqlType::Numeric(None) { numeric_layout(text) } else { None };
    Ok(parse_value(text, own.as_ref().unwrap_or(sql_type), zone)?)
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
        SqlType::Json => from_text(sql_type, utf8(bytes)?, "UTC")?,
        SqlType::Jsonb => match bytes.split_first() {
            Some((1, rest)) => from_text(sql_type, utf8(rest)?, "UTC")?,
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

#[cfg(test)]
mod tests;
