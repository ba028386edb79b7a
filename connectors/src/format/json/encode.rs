//! Rows of a batch as JSON objects, written column by column into one buffer a row.

use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, RecordBatch,
    StringViewArray, UInt32Array,
};
use arrow::datatypes::{
    Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, Schema,
    Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream_catalog::SqlType;

use crate::error::{ConnectorError, Result};
use crate::format::Header;
use crate::format::datetime::{write_date, write_time, write_timestamp};
use crate::format::number::write_decimal;
use crate::format::row_format::as_declared;

/// Writes rows of one batch.
pub struct ObjectWriter {
    /// Each field as `"name":` and its values.
    fields: Vec<(Vec<u8>, Values)>,
}

impl ObjectWriter {
    /// Of some columns of a batch, in the order given; `schema` says what they are declared as.
    ///
    /// # Errors
    /// XX000 if the batch's columns are of other types.
    pub fn new(schema: &Schema, batch: &RecordBatch, columns: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut fields = Vec::new();
        for i in columns {
            let field = schema.field(i);
            let sql_type = SqlType::of(field)
                .ok_or_else(|| ConnectorError::internal(format!("column \"{}\" has no SQL type", field.name())))?;
            let mut name = Vec::new();
            write_string(field.name(), &mut name);
            name.push(b':');
            fields.push((name, Values::new(field.name(), &sql_type, batch.column(i))?));
        }
        Ok(Self { fields })
    }

    /// Appends one row's object.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, (name, values)) in self.fields.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name);
            values.write(row, out);
        }
        out.push(b'}');
    }
}

/// One column by what it is written as.
enum Values {
    Bool(BooleanArray),
    Int2(Int16Array),
    Int4(Int32Array),
    Int8(Int64Array),
    Oid(UInt32Array),
    Float4(Float32Array),
    Float8(Float64Array),
    Numeric { values: Decimal128Array, scale: i8, trim: bool },
    Text(StringViewArray),
    Json(StringViewArray),
    Bytea(BinaryArray),
    Date(ArrayRef),
    Time(ArrayRef),
    Timestamp { values: ArrayRef, utc: bool },
    Interval(IntervalMonthDayNanoArray),
    Uuid(FixedSizeBinaryArray),
    List { list: ListArray, items: Box<Values> },
    Record { nulls: ArrayRef, fields: ObjectWriter },
}

impl Values {
    fn new(name: &str, sql_type: &SqlType, array: &ArrayRef) -> Result<Self> {
        let array = &as_declared(name, sql_type, array)?;
        Ok(match sql_type {
            SqlType::Bool => Self::Bool(array.as_boolean().clone()),
            SqlType::Int2 => Self::Int2(array.as_primitive::<Int16Type>().clone()),
            SqlType::Int4 => Self::Int4(array.as_primitive::<Int32Type>().clone()),
            SqlType::Int8 => Self::Int8(array.as_primitive::<Int64Type>().clone()),
            SqlType::Oid => Self::Oid(array.as_primitive::<UInt32Type>().clone()),
            SqlType::Float4 => Self::Float4(array.as_primitive::<Float32Type>().clone()),
            SqlType::Float8 => Self::Float8(array.as_primitive::<Float64Type>().clone()),
            SqlType::Numeric(given) => {
                let values = array.as_primitive::<arrow::datatypes::Decimal128Type>().clone();
                Self::Numeric { scale: values.scale(), values, trim: given.is_none() }
            }
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name | SqlType::InternalChar => {
                Self::Text(array.as_string_view().clone())
            }
            SqlType::Json | SqlType::Jsonb => Self::Json(array.as_string_view().clone()),
            SqlType::Bytea => Self::Bytea(array.as_binary::<i32>().clone()),
            SqlType::Date => Self::Date(array.clone()),
            SqlType::Time => Self::Time(array.clone()),
            SqlType::Timestamp => Self::Timestamp { values: array.clone(), utc: false },
            SqlType::Timestamptz => Self::Timestamp { values: array.clone(), utc: true },
            SqlType::Interval => Self::Interval(array.as_primitive::<IntervalMonthDayNanoType>().clone()),
            SqlType::Uuid => Self::Uuid(array.as_fixed_size_binary().clone()),
            SqlType::Array(item) => {
                let list = array.as_list::<i32>().clone();
                let items = Box::new(Self::new(name, item, list.values())?);
                Self::List { list, items }
            }
            SqlType::Record(members) => {
                let mut fields = Vec::new();
                for ((member, t), column) in members.iter().zip(array.as_struct().columns()) {
                    let mut prefix = Vec::new();
                    write_string(member, &mut prefix);
                    prefix.push(b':');
                    fields.push((prefix, Self::new(name, t, column)?));
                }
                Self::Record { nulls: array.clone(), fields: ObjectWriter { fields } }
            }
        })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.array().is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match self {
            Self::Bool(v) => out.extend_from_slice(if v.value(row) { b"true" } else { b"false" }),
            Self::Int2(v) => write_decimal(v.value(row).into(), 0, false, out),
            Self::Int4(v) => write_decimal(v.value(row).into(), 0, false, out),
            Self::Int8(v) => write_decimal(v.value(row).into(), 0, false, out),
            Self::Oid(v) => write_decimal(v.value(row).into(), 0, false, out),
            Self::Float4(v) => write_float(v.value(row), v.value(row).is_finite(), out),
            Self::Float8(v) => write_float(v.value(row), v.value(row).is_finite(), out),
            Self::Numeric { values, scale, trim } => write_decimal(values.value(row), *scale, *trim, out),
            Self::Text(v) => write_string(v.value(row), out),
            Self::Json(v) => out.extend_from_slice(v.value(row).as_bytes()),
            Self::Bytea(v) => {
                out.push(b'"');
                out.extend_from_slice(BASE64_STANDARD.encode(v.value(row)).as_bytes());
                out.push(b'"');
            }
            Self::Date(v) => quoted(out, |out| write_date(v.as_primitive::<Date32Type>().value(row).into(), out)),
            Self::Time(v) => quoted(out, |out| write_time(v.as_primitive::<Time64MicrosecondType>().value(row), out)),
            Self::Timestamp { values, utc } => quoted(out, |out| {
                write_timestamp(values.as_primitive::<TimestampMicrosecondType>().value(row), out);
                if *utc {
                    out.push(b'Z');
                }
            }),
            Self::Interval(v) => {
                let value = v.value(row);
                quoted(out, |out| write_interval(value.months, value.days, value.nanoseconds, out));
            }
            Self::Uuid(v) => quoted(out, |out| write_uuid(v.value(row), out)),
            Self::List { list, items } => {
                let range: Range<usize> = list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize;
                out.push(b'[');
                for (i, item) in range.enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    items.write(item, out);
                }
                out.push(b']');
            }
            Self::Record { fields, .. } => fields.write(row, out),
        }
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Bool(v) => v,
            Self::Int2(v) => v,
            Self::Int4(v) => v,
            Self::Int8(v) => v,
            Self::Oid(v) => v,
            Self::Float4(v) => v,
            Self::Float8(v) => v,
            Self::Numeric { values, .. } => values,
            Self::Text(v) | Self::Json(v) => v,
            Self::Bytea(v) => v,
            Self::Date(v) | Self::Time(v) | Self::Timestamp { values: v, .. } | Self::Record { nulls: v, .. } => v,
            Self::Interval(v) => v,
            Self::Uuid(v) => v,
            Self::List { list, .. } => list,
        }
    }
}

/// JSON text of a record's headers; see [`crate::format::column::ColumnBuilder::append_headers`].
pub fn write_headers(headers: &[Header<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, (name, value)) in headers.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"key\":");
        write_string(name, out);
        match value.map(|v| (v, std::str::from_utf8(v))) {
            None => out.extend_from_slice(b",\"value\":null"),
            Some((_, Ok(text))) if !text.contains('\0') => {
                out.extend_from_slice(b",\"value\":");
                write_string(text, out);
            }
            Some((bytes, _)) => {
                out.extend_from_slice(b",\"base64\":\"");
                out.extend_from_slice(BASE64_STANDARD.encode(bytes).as_bytes());
                out.push(b'"');
            }
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn write_string(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut start = 0;
    for (i, b) in value.bytes().enumerate() {
        let escape: &[u8] = match b {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&value.as_bytes()[start..i]);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        } else {
            out.extend_from_slice(escape);
        }
        start = i + 1;
    }
    out.extend_from_slice(&value.as_bytes()[start..]);
    out.push(b'"');
}

/// The shortest number that reads back as the same float.
fn write_float(value: impl std::fmt::Debug, is_finite: bool, out: &mut Vec<u8>) {
    use std::io::Write;
    if is_finite {
        // Debug writes large and small values with an exponent; writing to a Vec cannot fail.
        let _ = write!(out, "{value:?}");
    } else {
        out.extend_from_slice(b"null");
    }
}

pub(in crate::format) fn write_uuid(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (i, b) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    }
}

/// ISO 8601 with designators: `P1Y2M3DT4H5M6.5S`, each part with its own sign, as PostgreSQL's `iso_8601` style.
pub(in crate::format) fn write_interval(months: i32, days: i32, nanoseconds: i64, out: &mut Vec<u8>) {
    use std::io::Write;
    let us = nanoseconds / 1000;
    let mut text = String::from("P");
    let mut part = |value: i64, unit: &str| {
        if value != 0 {
            text.push_str(&value.to_string());
            text.push_str(unit);
        }
    };
    part(i64::from(months / 12), "Y");
    part(i64::from(months % 12), "M");
    part(i64::from(days), "D");
    if us != 0 {
        text.push('T');
        let mut part = |value: i64, unit: char| {
            if value != 0 {
                text.push_str(&value.to_string());
                text.push(unit);
            }
        };
        part(us / 3_600_000_000, 'H');
        part(us / 60_000_000 % 60, 'M');
        let seconds = us % 60_000_000;
        if seconds != 0 {
            let mut digits = Vec::new();
            write_decimal(seconds.into(), 6, true, &mut digits);
            text.extend(digits.iter().map(|b| *b as char));
            text.push('S');
        }
    }
    if text == "P" {
        text.push_str("T0S");
    }
    let _ = out.write_all(text.as_bytes());
}
