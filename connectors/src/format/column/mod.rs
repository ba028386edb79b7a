//! Column builders that take a value back out: what a decoder appends to, one record at a time.
//!
//! Arrow's own builders cannot be truncated, which is what lets a record that fails in its fifth column leave no trace.
//!
//! * `parse`: values given as text or bytes. `typed`: values of a type of their own, as binary formats have them.
//! * `text`: what the types of text take. `record`: columns of records.
//! * `key`: values that are compared and copied. `finish`: the values as an array.

mod finish;
mod key;
mod parse;
mod record;
mod text;
mod typed;

use std::collections::BTreeSet;

use arrow::array::{BooleanBufferBuilder, NullBufferBuilder};
use arrow::datatypes::DataType;
use millstream_catalog::SqlType;

pub(crate) use self::record::Record;
pub(crate) use self::text::{TextRule, push_text, push_view, shorten};
use crate::error::{ConnectorError, Result};

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
}

fn text(rule: TextRule) -> Data {
    Data::Text { views: Vec::new(), long: Vec::new(), rule }
}
