//! Rows as data in Avro, and the schema of their columns.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, RecordBatch,
    StringViewArray, UInt32Array,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Schema, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use millstream_catalog::SqlType;
use serde_json::{Value, json};

use crate::error::{ConnectorError, Result};
use crate::format::json::write_interval;
use crate::format::row_format::as_declared;

/// Appends a whole number.
pub(in crate::format) fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a string.
pub(in crate::format) fn write_text(text: &str, out: &mut Vec<u8>) {
    write_bytes(text.as_bytes(), out);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Whether a text can be a name in a schema.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A name near to a text: what a name cannot have becomes an underscore.
pub(super) fn name_of(text: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if is_name(&name) { name } else { format!("_{name}") }
}

/// The schema of a record of columns, each of which may be null unless it is in `not_null`.
///
/// # Errors
/// 0A000 for a column whose name or type Avro does not have, naming it.
pub(in crate::format) fn record_schema(
    name: &str,
    columns: &[(&str, &SqlType)],
    is_null: impl Fn(usize) -> bool,
) -> Result<Value> {
    let mut fields = Vec::with_capacity(columns.len());
    for (i, (column, sql_type)) in columns.iter().enumerate() {
        if !is_name(column) {
            let error = format!("column \"{column}\" of a sink of ENCODE AVRO has a name that Avro does not take");
            return Err(ConnectorError::unsupported(error)
                .with_hint("names have letters, digits and underscores: give the column another one with AS"));
        }
        let t = type_schema(&format!("{}_{column}", name.rsplit('.').next().unwrap_or(name)), column, sql_type)?;
        fields.push(match is_null(i) {
            true => json!({ "name": column, "type": ["null", t], "default": null }),
            false => json!({ "name": column, "type": t }),
        });
    }
    Ok(json!({ "type": "record", "name": name, "fields": fields }))
}

/// The schema of values of a type; records within are called by the path to them.
fn type_schema(path: &str, column: &str, sql_type: &SqlType) -> Result<Value> {
    Ok(match sql_type {
        SqlType::Bool => json!("boolean"),
        SqlType::Int2 | SqlType::Int4 => json!("int"),
        SqlType::Int8 | SqlType::Oid => json!("long"),
        SqlType::Float4 => json!("float"),
        SqlType::Float8 => json!("double"),
        SqlType::Numeric(_) => {
            let DataType::Decimal128(precision, scale) = sql_type.arrow_type() else {
                return Err(ConnectorError::internal(format!("{sql_type} is no decimal")));
            };
            if scale < 0 {
                let error = format!("column \"{column}\" of type {sql_type} cannot be written in Avro");
                return Err(ConnectorError::unsupported(error).with_hint("cast it to a numeric with a scale from 0"));
            }
            json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name => json!("string"),
        SqlType::Json | SqlType::Jsonb | SqlType::Interval => json!("string"),
        SqlType::Bytea => json!("bytes"),
        SqlType::Date => json!({ "type": "int", "logicalType": "date" }),
        SqlType::Time => json!({ "type": "long", "logicalType": "time-micros" }),
        SqlType::Timestamp => json!({ "type": "long", "logicalType": "local-timestamp-micros" }),
        SqlType::Timestamptz => json!({ "type": "long", "logicalType": "timestamp-micros" }),
        SqlType::Uuid => json!({ "type": "string", "logicalType": "uuid" }),
        SqlType::Array(item) => {
            let item = type_schema(&format!("{path}_item"), column, item)?;
            json!({ "type": "array", "items": ["null", item] })
        }
        SqlType::Record(members) => {
            let members: Vec<_> = members.iter().map(|(n, t)| (n.as_str(), t)).collect();
            record_schema(path, &members, |_| true)?
        }
        SqlType::InternalChar => {
            let error = format!("column \"{column}\" of type {sql_type} cannot be written in Avro");
            return Err(ConnectorError::unsupported(error).with_hint("cast it to text"));
        }
    })
}

/// Writes some columns of a batch as a record.
pub(in crate::format) struct AvroWriter {
    /// With whether the value may be null, which then has a number before it.
    fields: Vec<(Values, bool)>,
}

impl AvroWriter {
    /// Of columns of a batch, given by position.
    ///
    /// # Errors
    /// XX000 if a column has another type than declared.
    pub fn new(
        schema: &Schema,
        batch: &RecordBatch,
        columns: impl IntoIterator<Item = usize>,
        is_null: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let mut fields = Vec::new();
        for i in columns {
            let field = schema.field(i);
            let sql_type = SqlType::of(field)
                .ok_or_else(|| ConnectorError::internal(format!("column \"{}\" has no SQL type", field.name())))?;
            fields.push((Values::new(field.name(), &sql_type, batch.column(i))?, is_null(i)));
        }
        Ok(Self { fields })
    }

    /// Appends one row's record.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        for (values, is_null) in &self.fields {
            match is_null {
                true => values.write_nullable(row, out),
                false => values.write(row, out),
            }
        }
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
    Numeric(Decimal128Array),
    Text(StringViewArray),
    Bytea(BinaryArray),
    Date(ArrayRef),
    Time(ArrayRef),
    Timestamp(ArrayRef),
    Interval(IntervalMonthDayNanoArray),
    Uuid(FixedSizeBinaryArray),
    List { list: ListArray, items: Box<Values> },
    Record { nulls: ArrayRef, members: Vec<Values> },
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
            SqlType::Numeric(_) => Self::Numeric(array.as_primitive::<Decimal128Type>().clone()),
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name | SqlType::InternalChar => {
                Self::Text(array.as_string_view().clone())
            }
            SqlType::Json | SqlType::Jsonb => Self::Text(array.as_string_view().clone()),
            SqlType::Bytea => Self::Bytea(array.as_binary::<i32>().clone()),
            SqlType::Date => Self::Date(array.clone()),
            SqlType::Time => Self::Time(array.clone()),
            SqlType::Timestamp | SqlType::Timestamptz => Self::Timestamp(array.clone()),
            SqlType::Interval => Self::Interval(array.as_primitive::<IntervalMonthDayNanoType>().clone()),
            SqlType::Uuid => Self::Uuid(array.as_fixed_size_binary().clone()),
            SqlType::Array(item) => {
                let list = array.as_list::<i32>().clone();
                let items = Box::new(Self::new(name, item, list.values())?);
                Self::List { list, items }
            }
            SqlType::Record(types) => {
                let members = types.iter().zip(array.as_struct().columns());
                let members = members.map(|((member, t), column)| Self::new(member, t, column));
                Self::Record { nulls: array.clone(), members: members.collect::<Result<_>>()? }
            }
        })
    }

    /// A value of a union of null and the type.
    fn write_nullable(&self, row: usize, out: &mut Vec<u8>) {
        if self.array().is_null(row) {
            return out.push(0);
        }
        out.push(2);
        self.write(row, out);
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Bool(v) => out.push(u8::from(v.value(row))),
            Self::Int2(v) => write_long(v.value(row).into(), out),
            Self::Int4(v) => write_long(v.value(row).into(), out),
            Self::Int8(v) => write_long(v.value(row), out),
            Self::Oid(v) => write_long(v.value(row).into(), out),
            Self::Float4(v) => out.extend_from_slice(&v.value(row).to_le_bytes()),
            Self::Float8(v) => out.extend_from_slice(&v.value(row).to_le_bytes()),
            Self::Numeric(v) => write_decimal(v.value(row), out),
            Self::Text(v) => write_bytes(v.value(row).as_bytes(), out),
            Self::Bytea(v) => write_bytes(v.value(row), out),
            Self::Date(v) => write_long(v.as_primitive::<Date32Type>().value(row).into(), out),
            Self::Time(v) => write_long(v.as_primitive::<Time64MicrosecondType>().value(row), out),
            Self::Timestamp(v) => write_long(v.as_primitive::<TimestampMicrosecondType>().value(row), out),
            Self::Interval(v) => {
                let (value, mut text) = (v.value(row), Vec::new());
                write_interval(value.months, value.days, value.nanoseconds, &mut text);
                write_bytes(&text, out);
            }
            Self::Uuid(v) => {
                let mut text = Vec::with_capacity(36);
                crate::format::json::write_uuid(v.value(row), &mut text);
                write_bytes(&text, out);
            }
            Self::List { list, items } => {
                let offsets = list.value_offsets();
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                if !range.is_empty() {
                    write_long(range.len() as i64, out);
                    range.for_each(|item| items.write_nullable(item, out));
                }
                out.push(0);
            }
            Self::Record { members, .. } => members.iter().for_each(|m| m.write_nullable(row, out)),
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
            Self::Numeric(v) => v,
            Self::Text(v) => v,
            Self::Bytea(v) => v,
            Self::Date(v) | Self::Time(v) | Self::Timestamp(v) | Self::Record { nulls: v, .. } => v,
            Self::Interval(v) => v,
            Self::Uuid(v) => v,
            Self::List { list, .. } => list,
        }
    }
}

/// Big-endian two's complement in as few bytes as hold it.
fn write_decimal(value: i128, out: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    let is_sign = |pair: &[u8]| (pair[0] == 0 && pair[1] & 0x80 == 0) || (pair[0] == 0xff && pair[1] & 0x80 != 0);
    let skipped = bytes.windows(2).take_while(|pair| is_sign(pair)).count();
    write_bytes(&bytes[skipped..], out);
}
