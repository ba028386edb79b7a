//! Small tables written down row by row, and one value of them.

use std::sync::Arc;

use datafusion::arrow::array::{ListArray, RecordBatch, new_empty_array};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use millstream_catalog::SqlType;

use crate::error::{Error, Result};

/// One value of a catalog table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Bool(bool),
    /// Any integer, and OIDs.
    Int(i64),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i64>),
}

impl Cell {
    /// The value in the layout of a column; `None` if it does not fit it.
    fn scalar(&self, data_type: &DataType) -> Option<ScalarValue> {
        let scalar = match self {
            Self::Null => return ScalarValue::try_from(data_type).ok(),
            Self::Bool(b) => ScalarValue::Boolean(Some(*b)),
            Self::Int(n) => ScalarValue::Int64(Some(*n)),
            Self::Text(s) => ScalarValue::Utf8View(Some(s.clone())),
            Self::Texts(items) => list(items.iter().map(|s| ScalarValue::Utf8View(Some(s.clone()))), data_type)?,
            Self::Ints(items) => list(items.iter().map(|n| ScalarValue::Int64(Some(*n))), data_type)?,
        };
        match scalar.data_type() == *data_type {
            true => Some(scalar),
            false => scalar.cast_to(data_type).ok(),
        }
    }

    /// The value of an argument of a function.
    pub fn of(value: &ScalarValue) -> Self {
        if value.is_null() {
            return Self::Null;
        }
        match value {
            ScalarValue::Boolean(Some(b)) => Self::Bool(*b),
            ScalarValue::Utf8(Some(s)) | ScalarValue::LargeUtf8(Some(s)) | ScalarValue::Utf8View(Some(s)) => {
                Self::Text(s.clone())
            }
            ScalarValue::List(array) => {
                let items = array.value(0);
                let cells =
                    (0..items.len()).filter_map(|i| ScalarValue::try_from_array(&items, i).ok()).map(
                        |v| match Self::of(&v) {
                            Self::Text(s) => s,
                            Self::Int(n) => n.to_string(),
                            _ => String::new(),
                        },
                    );
                Self::Texts(cells.collect())
            }
            other => match other.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(Some(n))) => Self::Int(n),
                _ => Self::Text(other.to_string()),
            },
        }
    }

    /// An OID or number; numbers may come as text.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            Self::Text(s) => s.trim().parse().ok(),
            _ => None,
        }
    }

    /// An OID.
    pub fn oid(&self) -> Option<u32> {
        self.int().and_then(|n| u32::try_from(n).ok())
    }

    /// Text, or what prints as text.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(s) => Some(s.clone()),
            Self::Int(n) => Some(n.to_string()),
            Self::Bool(b) => Some(b.to_string()),
            _ => None,
        }
    }
}

fn list(items: impl Iterator<Item = ScalarValue>, data_type: &DataType) -> Option<ScalarValue> {
    let DataType::List(item) = data_type else { return None };
    let items: Vec<ScalarValue> = items.map(|v| v.cast_to(item.data_type()).ok()).collect::<Option<_>>()?;
    let offsets = OffsetBuffer::from_lengths([items.len()]);
    let values = match items.is_empty() {
        true => new_empty_array(item.data_type()),
        false => ScalarValue::iter_to_array(items).ok()?,
    };
    // With the item's field, which says what an Arrow type does not.
    Some(ScalarValue::List(Arc::new(ListArray::try_new(item.clone(), offsets, values, None).ok()?)))
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<char> for Cell {
    fn from(value: char) -> Self {
        Self::Text(value.into())
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i32> for Cell {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The columns of a catalog table.
pub type Columns = &'static [(&'static str, SqlType)];

/// Arrow schema of the columns; all can be NULL, so that no plan leans on what is only usually true.
pub fn schema_of(columns: Columns) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|(name, sql_type)| sql_type.field(*name, true)).collect();
    Arc::new(Schema::new(fields))
}

/// A batch of rows of cells.
///
/// # Errors
/// XX000 if a row has not the columns of the schema.
pub fn batch(schema: &SchemaRef, rows: &[Vec<Cell>]) -> Result<RecordBatch> {
    if rows.is_empty() {
        return Ok(RecordBatch::new_empty(schema.clone()));
    }
    let column = |(i, field): (usize, &Arc<Field>)| {
        let wrong =
            || Error::internal(format!("column \"{}\" of a catalog table was given another type", field.name()));
        let cells = rows.iter().map(|row| row.get(i).and_then(|cell| cell.scalar(field.data_type())).ok_or_else(wrong));
        let cells = cells.collect::<Result<Vec<_>>>()?;
        Ok(ScalarValue::iter_to_array(cells)?)
    };
    let columns = schema.fields().iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Makes a row of values of different types.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::batch::pg_catalog::rows::Cell::from($value)),*] };
}
pub(super) use row;

/// NULL, for `row!`.
pub const NULL: Cell = Cell::Null;

impl From<Vec<String>> for Cell {
    fn from(value: Vec<String>) -> Self {
        Self::Texts(value)
    }
}

impl From<Vec<i64>> for Cell {
    fn from(value: Vec<i64>) -> Self {
        Self::Ints(value)
    }
}
