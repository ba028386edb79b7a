//! A column whose watermark frees state: what is below the watermark, and where in the keys that ends.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Date32Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Date32Type, TimeUnit, TimestampMicrosecondType};

use crate::error::{Error, Result};
use crate::state::KeyCodec;

pub(super) const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Microseconds since 1970 of a column of timestamps or dates.
///
/// # Errors
/// XX000 for other types.
pub(super) fn times(column: &ArrayRef) -> Result<Vec<Option<i64>>> {
    match column.data_type() {
        DataType::Timestamp(..) => Ok(column.as_primitive::<TimestampMicrosecondType>().iter().collect()),
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            Ok(days.iter().map(|day| day.map(|day| i64::from(day) * MICROS_PER_DAY)).collect())
        }
        other => Err(Error::internal(format!("{other} is no event time"))),
    }
}

/// A column of timestamps or dates that comes first in the keys of a table.
#[derive(Clone)]
pub(super) struct TimeColumn {
    data_type: DataType,
    codec: KeyCodec,
}

impl TimeColumn {
    /// # Errors
    /// 0A000 for a type without event time.
    pub fn new(data_type: &DataType) -> Result<Self> {
        if !matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Date32) {
            return Err(Error::unsupported(format!("windows over a column of type {data_type}")));
        }
        Ok(Self { data_type: data_type.clone(), codec: KeyCodec::new(std::slice::from_ref(data_type))? })
    }

    /// A watermark as the smallest value of the column that is not below it.
    fn native(&self, watermark: i64) -> i64 {
        match self.data_type {
            DataType::Date32 => {
                watermark.div_euclid(MICROS_PER_DAY) + i64::from(watermark.rem_euclid(MICROS_PER_DAY) > 0)
            }
            _ => watermark,
        }
    }

    /// Which rows are below the watermark; `None` if there is none. A NULL time belongs to no window that could close.
    pub fn below(&self, column: &ArrayRef, watermark: i64) -> Option<BooleanArray> {
        let bound = self.native(watermark);
        let below = match self.data_type {
            DataType::Date32 => {
                BooleanArray::from_unary(column.as_primitive::<Date32Type>(), |day| i64::from(day) < bound)
            }
            _ => BooleanArray::from_unary(column.as_primitive::<TimestampMicrosecondType>(), |us| us < bound),
        };
        let below = match below.nulls() {
            Some(nulls) => BooleanArray::new(below.values() & nulls.inner(), None),
            None => below,
        };
        (below.true_count() > 0).then_some(below)
    }

    /// The watermark that passes the earliest time in a column; `None` if there is no time in it.
    pub fn passed_at(&self, column: &ArrayRef) -> Option<i64> {
        let earliest_us = match self.data_type {
            DataType::Date32 => arrow::compute::min(column.as_primitive::<Date32Type>())
                .map(|day| i64::from(day).saturating_mul(MICROS_PER_DAY)),
            _ => arrow::compute::min(column.as_primitive::<TimestampMicrosecondType>()),
        };
        earliest_us.map(|us| us.saturating_add(1))
    }

    /// Start of the keys that the watermark has not passed.
    ///
    /// # Errors
    /// Never for a column that [`TimeColumn::new`] took.
    pub fn key_of(&self, watermark: i64) -> Result<Vec<u8>> {
        let bound = self.native(watermark);
        let column: ArrayRef = match &self.data_type {
            DataType::Date32 => Arc::new(Date32Array::from(vec![bound.clamp(i32::MIN.into(), i32::MAX.into()) as i32])),
            data_type => Arc::new(TimestampMicrosecondArray::from(vec![bound]).with_data_type(data_type.clone())),
        };
        Ok(self.codec.encode(&[column])?.get(0).to_vec())
    }
}
