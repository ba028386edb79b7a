//! Column builders that take a value back out: what a decoder appends to, one record at a time.
//!
//! Arrow's own builders cannot be truncated, which is what lets a record that fails in its fifth column leave no trace.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Decimal128Array, FixedSizeBinaryArray, ListArray,
    NullBufferBuilder, PrimitiveArray, StringViewArray, StructArray, make_view, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Fields, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use millstream_catalog::{SqlType, jsonb};

use crate::error::{ConnectorError, Result};
use crate::format::number::parse_decimal;
use crate::format::{Header, datetime, json, number};

/// Values of one column, with the SQL type's rules for what it takes.
pub struct ColumnBuilder {
    nulls: NullBufferBuilder,
    data: Data,
}

/// The values by layout; where two SQL types share one, what tells them apart.
pub(crate) enum Data {
    Bool(BooleanBufferBuilder),
    Int2(Vec<i16>),
    Int4(Vec<i32>),
    Int8(Vec<i64>),
    Oid(Vec<u32>),
    Float4(Vec<f32>),
    Float8(Vec<f64>),
    Numeric {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
        declared: bool,
    },
    Text {
        views: Vec<u128>,
        long: Vec<u8>,
        rule: TextRule,
    },
    Bytea {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
    },
    Date(Vec<i32>),
    Time {
        values: Vec<i64>,
        micros: bool,
    },
    /// With whether a number is microseconds, or milliseconds.
    Timestamp {
        values: Vec<i64>,
        utc: bool,
        micros: bool,
    },
    Uuid(Vec<u8>),
    List {
        offsets: Vec<i32>,
        items: Box<ColumnBuilder>,
        item_type: SqlType,
    },
    Record(Record),
}

/// The fields of a column of records.
pub(crate) struct Record {
    /// Of the fields that are read, then of those that are only checked; the latter hold the value of one record.
    pub columns: Vec<ColumnBuilder>,
    pub kept: usize,
    pub reader: json::ObjectReader,
    /// Where among the builders each of the fields is, in their declared order.
    pub places: Vec<usize>,
    fields: Fields,
}

impl Record {
    fn new(sql_type: &SqlType, read: Option<&BTreeSet<usize>>) -> Result<Self> {
        let (SqlType::Record(types), DataType::Struct(fields)) = (sql_type, sql_type.arrow_type()) else {
            return Err(ConnectorError::internal("a record that is no struct"));
        };
        let is_read = |i: &usize| read.is_none_or(|read| read.contains(i));
        let (mut order, checked): (Vec<usize>, Vec<usize>) = (0..types.len()).partition(is_read);
        let kept = order.len();
        order.extend(checked);
        let names = order.iter().enumerate().map(|(place, i)| (types[*i].0.as_str(), place));
        let mut places = vec![0; types.len()];
        order.iter().enumerate().for_each(|(place, i)| places[*i] = place);
        Ok(Self {
            reader: json::ObjectReader::new(names),
            columns: order.iter().map(|i| ColumnBuilder::new(&types[*i].1)).collect::<Result<_>>()?,
            kept,
            fields,
            places,
        })
    }

    /// The builders of the fields that are read.
    fn kept_mut(&mut self) -> impl Iterator<Item = &mut ColumnBuilder> {
        self.columns[..self.kept].iter_mut()
    }

    fn finish(&mut self, nulls: Option<NullBuffer>, rows: usize) -> ArrayRef {
        let mut read: Vec<ArrayRef> = self.kept_mut().map(ColumnBuilder::finish).collect();
        read.resize_with(self.columns.len(), || new_null_array(&DataType::Null, 0));
        let columns = self.places.iter().zip(&self.fields).map(|(place, field)| match *place < self.kept {
            true => read[*place].clone(),
            false => new_null_array(field.data_type(), rows),
        });
        Arc::new(StructArray::new(self.fields.clone(), columns.collect(), nulls))
    }
}

/// What a text column does to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextRule {
    Any,
    /// At most so many characters; spaces past them are cut, as in PostgreSQL.
    Varchar(u32),
    /// Padded with spaces to so many characters.
    Char(u32),
    /// The JSON text of any value.
    Json,
    /// The same in the form that jsonb has.
    Jsonb,
}

impl ColumnBuilder {
    /// An empty column.
    ///
    /// # Errors
    /// 0A000 for a type that no format fills.
    pub fn new(sql_type: &SqlType) -> Result<Self> {
        let data = match sql_type {
            SqlType::Bool => Data::Bool(BooleanBufferBuilder::new(0)),
            SqlType::Int2 => Data::Int2(Vec::new()),
            SqlType::Int4 => Data::Int4(Vec::new()),
            SqlType::Int8 => Data::Int8(Vec::new()),
            SqlType::Oid => Data::Oid(Vec::new()),
            SqlType::Float4 => Data::Float4(Vec::new()),
            SqlType::Float8 => Data::Float8(Vec::new()),
            SqlType::Numeric(given) => {
                let DataType::Decimal128(precision, scale) = sql_type.arrow_type() else {
                    return Err(ConnectorError::internal(format!("{sql_type} is no decimal")));
                };
                Data::Numeric { values: Vec::new(), precision, scale, declared: given.is_some() }
            }
            SqlType::Text | SqlType::Name | SqlType::Varchar(None) => text(TextRule::Any),
            SqlType::Varchar(Some(n)) => text(TextRule::Varchar(*n)),
            SqlType::Char(n) => text(TextRule::Char(*n)),
            SqlType::Json => text(TextRule::Json),
            SqlType::Jsonb => text(TextRule::Jsonb),
            SqlType::Bytea => Data::Bytea { offsets: vec![0], bytes: Vec::new() },
            SqlType::Date => Data::Date(Vec::new()),
            SqlType::Time => Data::Time { values: Vec::new(), micros: false },
            SqlType::Timestamp => Data::Timestamp { values: Vec::new(), utc: false, micros: false },
            SqlType::Timestamptz => Data::Timestamp { values: Vec::new(), utc: true, micros: false },
            SqlType::Uuid => Data::Uuid(Vec::new()),
            SqlType::Array(item) => {
                Data::List { offsets: vec![0], items: Box::new(Self::new(item)?), item_type: item.as_ref().clone() }
            }
            SqlType::Record(_) => Data::Record(Record::new(sql_type, None)?),
            SqlType::Interval | SqlType::InternalChar => {
                return Err(ConnectorError::unsupported(format!(
                    "columns of type {sql_type} cannot be read from records"
                )));
            }
        };
        Ok(Self { nulls: NullBufferBuilder::new(0), data })
    }

    /// An empty column of records of which only some fields are read, by position; the others are NULL in what comes of
    /// it, but a value that they cannot take is an error all the same.
    ///
    /// # Errors
    /// As [`ColumnBuilder::new`].
    pub fn of_fields(sql_type: &SqlType, read: &BTreeSet<usize>) -> Result<Self> {
        match sql_type {
            SqlType::Record(_) => {
                Ok(Self { nulls: NullBufferBuilder::new(0), data: Data::Record(Record::new(sql_type, Some(read))?) })
            }
            _ => Self::new(sql_type),
        }
    }

    /// The same, of which numbers of times are microseconds and not milliseconds.
    pub(super) fn with_numbers_in_micros(mut self) -> Self {
        self.number_in_micros();
        self
    }

    fn number_in_micros(&mut self) {
        match &mut self.data {
            Data::Timestamp { micros, .. } | Data::Time { micros, .. } => *micros = true,
            Data::List { items, .. } => items.number_in_micros(),
            Data::Record(record) => record.columns.iter_mut().for_each(Self::number_in_micros),
            _ => {}
        }
    }

    /// Values so far.
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the value at `row` is NULL, or not there.
    pub fn is_null(&self, row: usize) -> bool {
        row >= self.len() || !self.nulls.is_valid(row)
    }

    pub(crate) fn data_mut(&mut self) -> &mut Data {
        &mut self.data
    }

    /// Notes that a value was appended to [`ColumnBuilder::data_mut`].
    pub(crate) fn mark_valid(&mut self) {
        self.nulls.append_non_null();
    }

    /// Appends NULL.
    pub fn append_null(&mut self) {
        match &mut self.data {
            Data::Bool(v) => v.append(false),
            Data::Int2(v) => v.push(0),
            Data::Int4(v) | Data::Date(v) => v.push(0),
            Data::Int8(v) | Data::Time { values: v, .. } | Data::Timestamp { values: v, .. } => v.push(0),
            Data::Oid(v) => v.push(0),
            Data::Float4(v) => v.push(0.0),
            Data::Float8(v) => v.push(0.0),
            Data::Numeric { values, .. } => values.push(0),
            Data::Text { views, .. } => views.push(0),
            Data::Bytea { offsets, bytes } => offsets.push(bytes.len() as i32),
            Data::Uuid(v) => v.extend_from_slice(&[0; 16]),
            Data::List { offsets, items, .. } => offsets.push(items.len() as i32),
            Data::Record(record) => record.kept_mut().for_each(Self::append_null),
        }
        self.nulls.append_null();
    }

    /// Drops the values from `rows` on, half-appended ones too. Does nothing to a shorter column.
    pub fn truncate(&mut self, rows: usize) {
        match &mut self.data {
            Data::Bool(v) => v.truncate(rows),
            Data::Int2(v) => v.truncate(rows),
            Data::Int4(v) | Data::Date(v) => v.truncate(rows),
            Data::Int8(v) | Data::Time { values: v, .. } | Data::Timestamp { values: v, .. } => v.truncate(rows),
            Data::Oid(v) => v.truncate(rows),
            Data::Float4(v) => v.truncate(rows),
            Data::Float8(v) => v.truncate(rows),
            Data::Numeric { values, .. } => values.truncate(rows),
            // The long bytes of dropped views stay until the batch is finished: no view points at them.
            Data::Text { views, .. } => views.truncate(rows),
            Data::Bytea { offsets, bytes } => {
                offsets.truncate(rows + 1);
                bytes.truncate(offsets.last().map_or(0, |o| *o as usize));
            }
            Data::Uuid(v) => v.truncate(rows * 16),
            Data::List { offsets, items, .. } => {
                offsets.truncate(rows + 1);
                items.truncate(offsets.last().map_or(0, |o| *o as usize));
            }
            Data::Record(record) => record.kept_mut().for_each(|c| c.truncate(rows)),
        }
        if self.nulls.len() > rows {
            self.nulls.truncate(rows);
        }
    }

    /// Drops all values, and the memory of long ones too: for a column of which no batch is made.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            self.truncate(0);
        }
        self.drop_long();
    }

    fn drop_long(&mut self) {
        match &mut self.data {
            Data::Text { views, long, .. } => {
                views.clear();
                long.clear();
            }
            Data::List { items, .. } => items.clear(),
            Data::Record(record) => record.columns.iter_mut().for_each(Self::clear),
            _ => {}
        }
    }

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

    /// Appends an integer to a column of numbers.
    ///
    /// # Errors
    /// If it is out of range of the column's type, or that is no number.
    pub fn append_integer(&mut self, value: i64) -> Result<(), String> {
        let out = |t: &str| format!("{value} as {t}: out of range");
        match &mut self.data {
            Data::Int2(v) => v.push(i16::try_from(value).map_err(|_| out("smallint"))?),
            Data::Int4(v) => v.push(i32::try_from(value).map_err(|_| out("integer"))?),
            Data::Int8(v) => v.push(value),
            Data::Oid(v) => v.push(u32::try_from(value).map_err(|_| out("oid"))?),
            Data::Float4(v) => v.push(value as f32),
            Data::Float8(v) => v.push(value as f64),
            Data::Numeric { .. } => return self.append_decimal(value.into(), 0),
            _ => return Err(format!("{value} is an integer")),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends a float to a column of them.
    ///
    /// # Errors
    /// If it is out of range of the column's type, or that is no float.
    pub fn append_float(&mut self, value: f64) -> Result<(), String> {
        match &mut self.data {
            Data::Float8(v) => v.push(value),
            Data::Float4(v) => {
                let narrow = value as f32;
                if value.is_finite() && !narrow.is_finite() {
                    return Err(format!("{value:?} as real: out of range"));
                }
                v.push(narrow);
            }
            _ => return Err(format!("{value:?} is a float")),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends `unscaled` times ten to the power of minus `scale` to a column of decimals; a digit that would be lost is an
    /// error.
    ///
    /// # Errors
    /// If it does not fit, or the column is of another type.
    pub fn append_decimal(&mut self, unscaled: i128, scale: i8) -> Result<(), String> {
        let mut text = Vec::new();
        let Data::Numeric { values, scale: own, precision, .. } = &mut self.data else {
            number::write_decimal(unscaled, scale, false, &mut text);
            return Err(format!("{} is a decimal", String::from_utf8_lossy(&text)));
        };
        // Mostly the scales are the same and nothing is to be done.
        if *own == scale && unscaled.unsigned_abs() < 10u128.pow(u32::from(*precision)) {
            values.push(unscaled);
            self.mark_valid();
            return Ok(());
        }
        number::write_decimal(unscaled, scale, false, &mut text);
        self.append_number(&text)
    }

    /// Appends a boolean.
    ///
    /// # Errors
    /// If the column is of another type.
    pub fn append_bool(&mut self, value: bool) -> Result<(), String> {
        let Data::Bool(v) = &mut self.data else { return Err(format!("{value} is a boolean")) };
        v.append(value);
        self.mark_valid();
        Ok(())
    }

    /// Appends days since 1970.
    ///
    /// # Errors
    /// If the column is no date.
    pub fn append_days(&mut self, days: i32) -> Result<(), String> {
        let Data::Date(v) = &mut self.data else { return Err("a date".into()) };
        v.push(days);
        self.mark_valid();
        Ok(())
    }

    /// Appends microseconds: since 1970 to a timestamp, of the day to a time.
    ///
    /// # Errors
    /// If they are more than a day has, or the column is of another type.
    pub fn append_micros(&mut self, us: i64) -> Result<(), String> {
        match &mut self.data {
            Data::Timestamp { values, .. } => values.push(us),
            Data::Time { values, .. } if (0..datetime::DAY_US).contains(&us) => values.push(us),
            Data::Time { .. } => return Err(format!("{us} microseconds as time: out of range")),
            _ => return Err(format!("{us} microseconds are a time")),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends a moment in milliseconds since 1970.
    ///
    /// # Errors
    /// If it is out of range of microseconds, or the column is no timestamp.
    pub fn append_epoch_ms(&mut self, ms: i64) -> Result<(), String> {
        let us = ms.checked_mul(1000).ok_or_else(|| format!("{ms} is out of range of a timestamp in milliseconds"))?;
        self.append_micros(us)
    }

    /// Appends the 16 bytes of a uuid.
    ///
    /// # Errors
    /// If the column is of another type.
    pub fn append_uuid(&mut self, bytes: [u8; 16]) -> Result<(), String> {
        let Data::Uuid(v) = &mut self.data else { return Err("a uuid".into()) };
        v.extend_from_slice(&bytes);
        self.mark_valid();
        Ok(())
    }

    /// Whether a value is the same as one of another column of the same type; of types that a key can have.
    pub(super) fn equals(&self, row: usize, other: &Self, other_row: usize) -> bool {
        let (a, b) = (row, other_row);
        if self.is_null(a) || other.is_null(b) {
            return self.is_null(a) && other.is_null(b);
        }
        match (&self.data, &other.data) {
            (Data::Bool(x), Data::Bool(y)) => x.get_bit(a) == y.get_bit(b),
            (Data::Int2(x), Data::Int2(y)) => x[a] == y[b],
            (Data::Int4(x), Data::Int4(y)) | (Data::Date(x), Data::Date(y)) => x[a] == y[b],
            (Data::Int8(x), Data::Int8(y))
            | (Data::Time { values: x, .. }, Data::Time { values: y, .. })
            | (Data::Timestamp { values: x, .. }, Data::Timestamp { values: y, .. }) => x[a] == y[b],
            (Data::Oid(x), Data::Oid(y)) => x[a] == y[b],
            (Data::Float4(x), Data::Float4(y)) => x[a].to_bits() == y[b].to_bits(),
            (Data::Float8(x), Data::Float8(y)) => x[a].to_bits() == y[b].to_bits(),
            (Data::Numeric { values: x, .. }, Data::Numeric { values: y, .. }) => x[a] == y[b],
            (Data::Uuid(x), Data::Uuid(y)) => x[a * 16..][..16] == y[b * 16..][..16],
            _ => self.bytes_at(a).is_some_and(|x| other.bytes_at(b) == Some(x)),
        }
    }

    /// The bytes of a text or bytea.
    fn bytes_at(&self, row: usize) -> Option<Vec<u8>> {
        match &self.data {
            Data::Text { views, long, .. } => {
                // The length is in the lowest bytes of a view; a short text follows, of a long one the highest say where it is.
                let (view, length) = (views[row], views[row] as u32 as usize);
                Some(match length {
                    0..=12 => view.to_le_bytes()[4..][..length].to_vec(),
                    _ => long[(view >> 96) as usize..][..length].to_vec(),
                })
            }
            Data::Bytea { offsets, bytes } => Some(bytes[offsets[row] as usize..offsets[row + 1] as usize].to_vec()),
            _ => None,
        }
    }

    /// Appends a value of another column of the same type; of types that a key can have.
    ///
    /// # Errors
    /// For other types.
    pub(super) fn append_from(&mut self, other: &Self, row: usize) -> Result<(), String> {
        if other.is_null(row) {
            self.append_null();
            return Ok(());
        }
        if let Some(value) = other.bytes_at(row) {
            return self.append_bytes(&value);
        }
        match (&mut self.data, &other.data) {
            (Data::Bool(to), Data::Bool(v)) => to.append(v.get_bit(row)),
            (Data::Int2(to), Data::Int2(v)) => to.push(v[row]),
            (Data::Int4(to), Data::Int4(v)) | (Data::Date(to), Data::Date(v)) => to.push(v[row]),
            (Data::Int8(to), Data::Int8(v))
            | (Data::Time { values: to, .. }, Data::Time { values: v, .. })
            | (Data::Timestamp { values: to, .. }, Data::Timestamp { values: v, .. }) => to.push(v[row]),
            (Data::Oid(to), Data::Oid(v)) => to.push(v[row]),
            (Data::Float4(to), Data::Float4(v)) => to.push(v[row]),
            (Data::Float8(to), Data::Float8(v)) => to.push(v[row]),
            (Data::Numeric { values: to, .. }, Data::Numeric { values: v, .. }) => to.push(v[row]),
            (Data::Uuid(to), Data::Uuid(v)) => to.extend_from_slice(&v[row * 16..][..16]),
            _ => return Err("a value of this type cannot be a key".into()),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends a record's headers: as JSON `[{"key": …, "value": …}]` with a value that is no text as
    /// `{"key": …, "base64": …}`, or as a list of records (text, bytea).
    pub fn append_headers(&mut self, headers: &[Header<'_>]) {
        match &mut self.data {
            Data::List { offsets, items, .. } => {
                for (name, value) in headers {
                    if let Data::Record(record) = &mut items.data
                        && let [names, values] = record.columns.as_mut_slice()
                    {
                        // Text takes every name, bytea every value.
                        if names.append_text(name).is_err() {
                            names.append_null();
                        }
                        match value {
                            Some(value) if values.append_bytes(value).is_ok() => {}
                            _ => values.append_null(),
                        }
                        items.mark_valid();
                    }
                }
                offsets.push(items.len() as i32);
            }
            Data::Text { views, long, rule } => {
                let mut text = Vec::new();
                json::write_headers(headers, &mut text);
                if push_text(views, long, *rule, &String::from_utf8_lossy(&text)).is_err() {
                    return self.append_null();
                }
            }
            _ => return self.append_null(),
        }
        self.mark_valid();
    }

    /// The values as an array; the column is empty after it.
    pub fn finish(&mut self) -> ArrayRef {
        let (rows, nulls) = (self.len(), self.nulls.finish());
        self.nulls = NullBufferBuilder::new(0);
        match &mut self.data {
            Data::Bool(v) => {
                let values: BooleanBuffer = v.finish();
                Arc::new(BooleanArray::new(values, nulls))
            }
            Data::Int2(v) => primitive::<Int16Type>(v, nulls),
            Data::Int4(v) => primitive::<Int32Type>(v, nulls),
            Data::Int8(v) => primitive::<Int64Type>(v, nulls),
            Data::Oid(v) => primitive::<UInt32Type>(v, nulls),
            Data::Float4(v) => primitive::<Float32Type>(v, nulls),
            Data::Float8(v) => primitive::<Float64Type>(v, nulls),
            Data::Numeric { values, precision, scale, .. } => {
                let t = DataType::Decimal128(*precision, *scale);
                Arc::new(Decimal128Array::new(take(values).into(), nulls).with_data_type(t))
            }
            Data::Text { views, long, .. } => {
                let buffers = if long.is_empty() { vec![] } else { vec![Buffer::from_vec(take(long))] };
                // SAFETY: `push_view` makes each view of valid UTF-8, inline or within the one buffer.
                Arc::new(unsafe { StringViewArray::new_unchecked(take(views).into(), buffers, nulls) })
            }
            Data::Bytea { offsets, bytes } => {
                let offsets = std::mem::replace(offsets, vec![0]);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(BinaryArray::new(offsets, Buffer::from_vec(take(bytes)), nulls))
            }
            Data::Date(v) => primitive::<Date32Type>(v, nulls),
            Data::Time { values, .. } => primitive::<Time64MicrosecondType>(values, nulls),
            Data::Timestamp { values, utc, .. } => {
                let array = PrimitiveArray::<TimestampMicrosecondType>::new(take(values).into(), nulls);
                Arc::new(if *utc { array.with_timezone("UTC") } else { array })
            }
            Data::Uuid(v) => Arc::new(FixedSizeBinaryArray::new(16, Buffer::from_vec(take(v)), nulls)),
            Data::List { offsets, items, item_type } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                Arc::new(ListArray::new(Arc::new(item_type.field("item", true)), offsets, items.finish(), nulls))
            }
            Data::Record(record) => record.finish(nulls, rows),
        }
    }
}

fn text(rule: TextRule) -> Data {
    Data::Text { views: Vec::new(), long: Vec::new(), rule }
}

/// Leaves a vector of the same capacity behind: the next batch is about as large.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let capacity = values.len();
    std::mem::replace(values, Vec::with_capacity(capacity))
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(take(values).into(), nulls))
}

pub(crate) fn push_text(views: &mut Vec<u128>, long: &mut Vec<u8>, rule: TextRule, value: &str) -> Result<(), String> {
    if !matches!(rule, TextRule::Json | TextRule::Jsonb) && value.as_bytes().contains(&0) {
        return Err("text cannot hold the character \\u0000".into());
    }
    match rule {
        TextRule::Any => push_view(views, long, value.as_bytes()),
        TextRule::Json => {
            json::check_text(value)?;
            push_view(views, long, value.as_bytes());
        }
        TextRule::Jsonb => push_view(views, long, jsonb::canonical(value)?.as_bytes()),
        TextRule::Varchar(n) | TextRule::Char(n) => {
            let n = n as usize;
            let value = if value.len() <= n { value } else { cut(value, n, rule)? };
            let length = if rule == TextRule::Char(n as u32) { value.chars().count() } else { n };
            if length < n {
                let mut padded = Vec::with_capacity(value.len() + n - length);
                padded.extend_from_slice(value.as_bytes());
                padded.resize(value.len() + n - length, b' ');
                push_view(views, long, &padded);
            } else {
                push_view(views, long, value.as_bytes());
            }
        }
    }
    Ok(())
}

/// The first `n` characters if only spaces follow.
fn cut(value: &str, n: usize, rule: TextRule) -> Result<&str, String> {
    let Some((end, _)) = value.char_indices().nth(n) else { return Ok(value) };
    if value[end..].bytes().all(|b| b == b' ') {
        return Ok(&value[..end]);
    }
    let word = if matches!(rule, TextRule::Char(_)) { "character" } else { "character varying" };
    Err(format!("{} is too long for type {word}({n})", shorten(value)))
}

/// Appends a string that is valid UTF-8.
#[inline]
pub(crate) fn push_view(views: &mut Vec<u128>, long: &mut Vec<u8>, value: &[u8]) {
    let offset = long.len() as u32;
    if value.len() > 12 {
        long.extend_from_slice(value);
    }
    views.push(make_view(value, 0, offset));
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

/// Values in error messages are cut: the whole record is kept beside the error.
pub(crate) fn shorten(value: &str) -> String {
    const CHARS_MAX: usize = 80;
    match value.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_string(),
    }
}
