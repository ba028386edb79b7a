//! Record batches to DataRow messages, in PostgreSQL's text and binary forms.
//!
//! A [`RowEncoder`] is made for each batch: every column is downcast once to the one layout its [`SqlType`] has (other
//! layouts, as files bring them, are cast first), then rows are appended to the output buffer without a value of their
//! own in between. `arrow-pg`'s encoder is not used: its numerics stop at 28 digits and its intervals, floats and
//! timestamps print differently from PostgreSQL.

pub mod binary;
mod float;
pub mod text;

use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, RecordBatch,
    StringViewArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt32Array,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Schema, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use jiff::tz::TimeZone;
use millstream_catalog::SqlType;

use crate::error::{Error, Result, sqlstate};
use crate::session::api::OutputFormat;

/// How a column's values are sent; the protocol's format codes 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

impl Format {
    /// The format of a code, or 22023.
    pub fn from_code(code: i16) -> Result<Self> {
        match code {
            0 => Ok(Self::Text),
            1 => Ok(Self::Binary),
            other => Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unsupported format code: {other}"))),
        }
    }

    /// The code of a format.
    pub fn code(self) -> i16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// The SQL type of a result column, or 0A000.
pub fn column_type(field: &Field) -> Result<SqlType> {
    SqlType::of(field).ok_or_else(|| {
        Error::unsupported(format!("column \"{}\" has type {}, which no SQL type has", field.name(), field.data_type()))
            .with_hint("cast the column to a SQL type")
    })
}

/// The rows of one batch as DataRow messages.
pub struct RowEncoder {
    columns: Vec<(Column, Format)>,
    rows: usize,
}

impl RowEncoder {
    /// Prepares a batch; `formats` has one entry a column.
    pub fn new(schema: &Schema, batch: &RecordBatch, formats: &[Format], output: &OutputFormat) -> Result<Self> {
        if batch.num_columns() != schema.fields().len() || formats.len() != schema.fields().len() {
            let (found, wanted) = (batch.num_columns(), schema.fields().len());
            return Err(Error::internal(format!("a batch of {found} columns in a result of {wanted}")));
        }
        let columns = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .zip(formats)
            .map(|((field, array), format)| Ok((Column::new(field, array, *format, output)?, *format)))
            .collect::<Result<_>>()?;
        Ok(Self { columns, rows: batch.num_rows() })
    }

    /// Rows of the batch.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Appends row `row` as a DataRow message. A row past the protocol's 1 GiB is 54000 and leaves `out` as it was.
    pub fn put(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        let start = out.len();
        out.put_u8(b'D');
        out.put_i32(0);
        out.put_i16(self.columns.len() as i16);
        for (column, format) in &self.columns {
            column.put_with_length(row, *format, out);
        }
        let length = out.len() - start - 1;
        if length > MAX_MESSAGE_BYTES {
            out.truncate(start);
            return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, format!("a result row has {length} bytes"))
                .with_detail(format!("a row can have {MAX_MESSAGE_BYTES} bytes")));
        }
        out[start + 1..start + 5].copy_from_slice(&(length as i32).to_be_bytes());
        Ok(())
    }
}

/// PostgreSQL's limit for a message.
const MAX_MESSAGE_BYTES: usize = 0x3fff_ffff;

/// One column of a batch in the layout of its type.
struct Column {
    nulls: Option<NullBuffer>,
    values: Values,
}

enum Values {
    Bool(BooleanArray),
    Int2(Int16Array),
    Int4(Int32Array),
    Int8(Int64Array),
    Oid(UInt32Array),
    Float4(Float32Array),
    Float8(Float64Array),
    /// `trim`: numeric without precision prints no trailing zeros.
    Numeric {
        array: Decimal128Array,
        trim: bool,
    },
    Text(StringViewArray),
    Jsonb(StringViewArray),
    Bytea(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray),
    Timestamptz {
        array: TimestampMicrosecondArray,
        zone: Option<TimeZone>,
    },
    Interval(IntervalMonthDayNanoArray),
    Uuid(FixedSizeBinaryArray),
    Array {
        list: ListArray,
        items: Box<Column>,
        item_type: SqlType,
    },
    Record(Vec<(Column, u32)>),
}

impl Column {
    fn new(field: &Field, array: &ArrayRef, format: Format, output: &OutputFormat) -> Result<Self> {
        let sql_type = column_type(field)?;
        Self::of_type(&sql_type, array, format, output)
            .map_err(|e| Error::new(e.sqlstate(), format!("column \"{}\": {}", field.name(), e.message())))
    }

    fn of_type(sql_type: &SqlType, array: &ArrayRef, format: Format, output: &OutputFormat) -> Result<Self> {
        let wanted = sql_type.arrow_type();
        let array = match sql_type {
            // Lists and records are taken apart below; only their outer layout matters here.
            SqlType::Array(_) if array.as_list_opt::<i32>().is_some() => array.clone(),
            SqlType::Record(_) if array.as_struct_opt().is_some() => array.clone(),
            _ if *array.data_type() == wanted => array.clone(),
            _ => cast_with_options(array, &wanted, &CastOptions { safe: false, ..CastOptions::default() })?,
        };
        let values = match sql_type {
            SqlType::Bool => Values::Bool(array.as_boolean().clone()),
            SqlType::Int2 => Values::Int2(array.as_primitive::<Int16Type>().clone()),
            SqlType::Int4 => Values::Int4(array.as_primitive::<Int32Type>().clone()),
            SqlType::Int8 => Values::Int8(array.as_primitive::<Int64Type>().clone()),
            SqlType::Oid => Values::Oid(array.as_primitive::<UInt32Type>().clone()),
            SqlType::Float4 => Values::Float4(array.as_primitive::<Float32Type>().clone()),
            SqlType::Float8 => Values::Float8(array.as_primitive::<Float64Type>().clone()),
            SqlType::Numeric(modifier) => {
                Values::Numeric { array: array.as_primitive::<Decimal128Type>().clone(), trim: modifier.is_none() }
            }
            SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Name
            | SqlType::InternalChar
            | SqlType::Json => Values::Text(array.as_string_view().clone()),
            SqlType::Jsonb => Values::Jsonb(array.as_string_view().clone()),
            SqlType::Bytea => Values::Bytea(array.as_binary::<i32>().clone()),
            SqlType::Date => Values::Date(array.as_primitive::<Date32Type>().clone()),
            SqlType::Time => Values::Time(array.as_primitive::<Time64MicrosecondType>().clone()),
            SqlType::Timestamp => Values::Timestamp(array.as_primitive::<TimestampMicrosecondType>().clone()),
            SqlType::Timestamptz => Values::Timestamptz {
                array: array.as_primitive::<TimestampMicrosecondType>().clone(),
                zone: (output.time_zone != TimeZone::UTC).then(|| output.time_zone.clone()),
            },
            SqlType::Interval => Values::Interval(array.as_primitive::<IntervalMonthDayNanoType>().clone()),
            SqlType::Uuid => Values::Uuid(array.as_fixed_size_binary().clone()),
            SqlType::Array(item) => {
                if format == Format::Binary && matches!(**item, SqlType::Array(_)) {
                    return Err(Error::unsupported("arrays of arrays cannot be sent in binary form"));
                }
                let list = array.as_list::<i32>().clone();
                let items = Box::new(Self::of_type(item, list.values(), format, output)?);
                Values::Array { list, items, item_type: (**item).clone() }
            }
            SqlType::Record(fields) => {
                let columns = array.as_struct().columns();
                Values::Record(
                    fields
                        .iter()
                        .zip(columns)
                        .map(|((_, t), column)| Ok((Self::of_type(t, column, format, output)?, t.oid())))
                        .collect::<Result<_>>()?,
                )
            }
        };
        Ok(Self { nulls: array.nulls().cloned(), values })
    }

    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Length and value, or -1 for NULL.
    fn put_with_length(&self, row: usize, format: Format, out: &mut BytesMut) {
        if self.is_null(row) {
            out.put_i32(-1);
            return;
        }
        let start = out.len();
        out.put_i32(0);
        match format {
            Format::Text => self.put_text(row, out),
            Format::Binary => self.put_binary(row, out),
        }
        // A longer value fails the row as a whole in `RowEncoder::put`.
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn put_text(&self, row: usize, out: &mut BytesMut) {
        match &self.values {
            Values::Bool(a) => text::put_bool(out, a.value(row)),
            Values::Int2(a) => text::put_int(out, a.value(row)),
            Values::Int4(a) => text::put_int(out, a.value(row)),
            Values::Int8(a) => text::put_int(out, a.value(row)),
            Values::Oid(a) => text::put_int(out, a.value(row)),
            Values::Float4(a) => text::put_float4(out, a.value(row)),
            Values::Float8(a) => text::put_float8(out, a.value(row)),
            Values::Numeric { array, trim } => text::put_numeric(out, array.value(row), array.scale(), *trim),
            Values::Text(a) | Values::Jsonb(a) => out.extend_from_slice(a.value(row).as_bytes()),
            Values::Bytea(a) => text::put_bytea(out, a.value(row)),
            Values::Date(a) => text::put_date(out, a.value(row)),
            Values::Time(a) => text::put_time(out, a.value(row)),
            Values::Timestamp(a) => text::put_timestamp(out, a.value(row)),
            Values::Timestamptz { array, zone } => {
                let us = array.value(row);
                text::put_timestamptz(out, us, zone.as_ref().map_or(0, |zone| offset_at(zone, us)));
            }
            Values::Interval(a) => {
                let v = a.value(row);
                text::put_interval(out, v.months, v.days, v.nanoseconds);
            }
            Values::Uuid(a) => text::put_uuid(out, a.value(row)),
            Values::Array { list, items, item_type } => {
                out.put_u8(b'{');
                let offsets = list.value_offsets();
                for i in offsets[row] as usize..offsets[row + 1] as usize {
                    if i > offsets[row] as usize {
                        out.put_u8(b',');
                    }
                    if items.is_null(i) {
                        out.extend_from_slice(b"NULL");
                        continue;
                    }
                    let start = out.len();
                    items.put_text(i, out);
                    if !matches!(item_type, SqlType::Array(_)) {
                        text::quote_array_element(out, start);
                    }
                }
                out.put_u8(b'}');
            }
            Values::Record(fields) => {
                out.put_u8(b'(');
                for (i, (column, _)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.put_u8(b',');
                    }
                    if !column.is_null(row) {
                        let start = out.len();
                        column.put_text(row, out);
                        text::quote_record_field(out, start);
                    }
                }
                out.put_u8(b')');
            }
        }
    }

    fn put_binary(&self, row: usize, out: &mut BytesMut) {
        match &self.values {
            Values::Bool(a) => out.put_u8(u8::from(a.value(row))),
            Values::Int2(a) => out.put_i16(a.value(row)),
            Values::Int4(a) => out.put_i32(a.value(row)),
            Values::Int8(a) => out.put_i64(a.value(row)),
            Values::Oid(a) => out.put_u32(a.value(row)),
            Values::Float4(a) => out.put_f32(a.value(row)),
            Values::Float8(a) => out.put_f64(a.value(row)),
            Values::Numeric { array, trim } => binary::put_numeric(out, array.value(row), array.scale(), *trim),
            Values::Text(a) => out.extend_from_slice(a.value(row).as_bytes()),
            Values::Jsonb(a) => {
                out.put_u8(1);
                out.extend_from_slice(a.value(row).as_bytes());
            }
            Values::Bytea(a) => out.extend_from_slice(a.value(row)),
            Values::Date(a) => out.put_i32(a.value(row).saturating_sub(binary::EPOCH_DAYS)),
            Values::Time(a) => out.put_i64(a.value(row)),
            Values::Timestamp(a) | Values::Timestamptz { array: a, .. } => {
                out.put_i64(a.value(row).saturating_sub(binary::EPOCH_US));
            }
            Values::Interval(a) => {
                let v = a.value(row);
                out.put_i64(v.nanoseconds / 1_000);
                out.put_i32(v.days);
                out.put_i32(v.months);
            }
            Values::Uuid(a) => out.extend_from_slice(a.value(row)),
            Values::Array { list, items, item_type } => {
                let offsets = list.value_offsets();
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                out.put_i32(i32::from(!range.is_empty()));
                out.put_i32(i32::from(range.clone().any(|i| items.is_null(i))));
                out.put_u32(item_type.oid());
                if !range.is_empty() {
                    out.put_i32(range.len() as i32);
                    out.put_i32(1);
                }
                for i in range {
                    items.put_with_length(i, Format::Binary, out);
                }
            }
            Values::Record(fields) => {
                out.put_i32(fields.len() as i32);
                for (column, oid) in fields {
                    out.put_u32(*oid);
                    column.put_with_length(row, Format::Binary, out);
                }
            }
        }
    }
}

/// Seconds east of UTC in `zone` at a moment; beyond the years that time zones know, their last rule.
fn offset_at(zone: &TimeZone, us: i64) -> i32 {
    let moment = jiff::Timestamp::from_microsecond(us).unwrap_or(if us < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    });
    zone.to_offset(moment).seconds()
}

#[cfg(test)]
mod tests;
