//! Variance and standard deviation of numbers, from exact sums that values are added to and taken from.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, BinaryBuilder, Float64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int32Type, Int64Type};
use millstream_sql::functions::float_sum::FloatMoments;
use millstream_sql::functions::moments::{Moments, Spread};

use super::rows::Rows;
use super::{AggregateKind, Finished, bad_layout};
use crate::error::{Error, Result, sqlstate};

/// A measure of spread. State: number, sum and sum of squares of the values.
#[derive(Debug)]
pub(in crate::stream::operator) struct Variance {
    spread: Spread,
    argument: DataType,
    /// Digits behind the point of the argument.
    scale: i8,
}

impl Variance {
    /// For an aggregate and its types; `None` if it is not of this kind.
    pub fn new(kind: AggregateKind, argument: &DataType, output: &DataType) -> Option<Self> {
        let (sample, root) = match kind {
            AggregateKind::VarPop => (false, false),
            AggregateKind::VarSamp => (true, false),
            AggregateKind::StddevPop => (false, true),
            AggregateKind::StddevSamp => (true, true),
            _ => return None,
        };
        let scale = match argument {
            DataType::Int32 | DataType::Int64 => 0,
            DataType::Decimal128(_, scale) => *scale,
            DataType::Float64 => 0,
            _ => return None,
        };
        let spread = Spread { sample, root };
        (*output == DataType::Float64).then(|| Self { spread, argument: argument.clone(), scale })
    }

    pub fn state_types(&self) -> Vec<DataType> {
        vec![DataType::Binary]
    }

    /// The state with the rows added.
    pub(super) fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("a variance has no argument"))?;
        if self.argument == DataType::Float64 {
            let values = argument.as_primitive::<Float64Type>().values();
            let mut moments = decode(&old[0], FloatMoments::decode)?;
            rows.each(|row, group, weight| moments[group].add(values[row], weight));
            return Ok(vec![Arc::new(BinaryArray::from_iter_values(moments.iter().map(FloatMoments::encode)))]);
        }
        let mut moments = decode(&old[0], Moments::decode)?;
        match self.argument {
            DataType::Int32 => {
                let values = argument.as_primitive::<Int32Type>().values();
                rows.each(|row, group, weight| moments[group].add(values[row].into(), weight));
            }
            DataType::Int64 => {
                let values = argument.as_primitive::<Int64Type>().values();
                rows.each(|row, group, weight| moments[group].add(values[row].into(), weight));
            }
            _ => {
                let values = argument.as_primitive::<Decimal128Type>().values();
                rows.each(|row, group, weight| moments[group].add(values[row], weight));
            }
        }
        let mut encoded = BinaryBuilder::new();
        for moments in &moments {
            let bytes = moments.encode();
            encoded.append_value(if moments.is_empty() { &[] } else { bytes.as_slice() });
        }
        Ok(vec![Arc::new(encoded.finish())])
    }

    /// The result for the gathered values; `None` if they are too few.
    pub fn result(&self, moments: &Moments) -> Option<f64> {
        moments.result(self.spread, self.scale)
    }

    /// The results of these states.
    pub fn finish(&self, state: &[ArrayRef]) -> Result<Finished> {
        if self.argument == DataType::Float64 {
            return Ok(self.finish_floats(&decode(&state[0], FloatMoments::decode)?));
        }
        let moments = decode(&state[0], Moments::decode)?;
        let values: Float64Array = moments.iter().map(|m| self.result(m)).collect();
        Ok(Finished::of(Arc::new(values)))
    }

    /// The results for gathered floats.
    pub fn finish_floats(&self, moments: &[FloatMoments]) -> Finished {
        let mut errors = Vec::new();
        let result = |(group, moments): (usize, &FloatMoments)| {
            moments.result(self.spread).unwrap_or_else(|e| {
                errors.push((group, e.into()));
                None
            })
        };
        let values: Float64Array = moments.iter().enumerate().map(result).collect();
        Finished { values: Arc::new(values), errors }
    }
}

fn decode<T>(column: &ArrayRef, of: fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
    let cut_off =
        || Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: the sums of a variance are cut off");
    let bytes = column.as_binary::<i32>();
    bytes.iter().map(|bytes| of(bytes.unwrap_or_default()).ok_or_else(cut_off)).collect()
}
