//! SUM and AVG of floats that do not drift when values come and go: see [`float_sum`](millstream_sql::functions::float_sum).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryBuilder, Float32Array, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use millstream_sql::functions::float_sum::{Sum, Total, overflow};

use super::rows::Rows;
use super::{Finished, bad_layout};
use crate::error::{Error, Result, sqlstate};

/// SUM or AVG over a float type. State: number of values, parts of the sum, and how many values are NaN, inf and -inf.
#[derive(Debug)]
pub(in crate::stream::operator) struct FloatSum {
    average: bool,
    argument: DataType,
    output: DataType,
}

impl FloatSum {
    /// For an argument type; `None` if that is not a float.
    pub fn new(average: bool, argument: &DataType, output: &DataType) -> Option<Self> {
        let is_float = |t: &DataType| matches!(t, DataType::Float32 | DataType::Float64);
        (is_float(argument) && is_float(output)).then(|| Self {
            average,
            argument: argument.clone(),
            output: output.clone(),
        })
    }

    pub fn state_types(&self) -> Vec<DataType> {
        vec![DataType::Int64, DataType::Binary, DataType::Int64, DataType::Int64, DataType::Int64]
    }

    /// The state with the rows added.
    pub(super) fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("a sum has no argument"))?;
        let mut totals = totals(old)?;
        if self.argument == DataType::Float32 {
            let values = argument.as_primitive::<Float32Type>().values();
            rows.each(|row, group, weight| totals[group].add(f64::from(values[row]), weight));
        } else {
            let values = argument.as_primitive::<Float64Type>().values();
            rows.each(|row, group, weight| totals[group].add(values[row], weight));
        }
        Ok(Self::state(&totals))
    }

    /// The stored columns for these totals.
    pub fn state(totals: &[Total]) -> Vec<ArrayRef> {
        let integers =
            |of: fn(&Total) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(totals.iter().map(of))) };
        let mut parts = BinaryBuilder::with_capacity(totals.len(), totals.len() * 16);
        let mut bytes = Vec::new();
        for total in totals {
            bytes.clear();
            if !total.has_no_finite() {
                total.sum.encode(&mut bytes);
            }
            parts.append_value(&bytes);
        }
        let parts: ArrayRef = Arc::new(parts.finish());
        vec![integers(|t| t.count), parts, integers(|t| t.nan), integers(|t| t.up), integers(|t| t.down)]
    }

    /// The results of these states.
    pub fn finish(&self, state: &[ArrayRef]) -> Result<Finished> {
        let mut errors = Vec::new();
        let result = |(group, total): (usize, Total)| {
            let result = total.result(self.average).and_then(|result| match result {
                Some(v) if self.output == DataType::Float32 && v.is_finite() && !(v as f32).is_finite() => {
                    Err(overflow())
                }
                other => Ok(other),
            });
            result.unwrap_or_else(|e| {
                errors.push((group, e.into()));
                Some(0.0)
            })
        };
        let results: Vec<Option<f64>> = totals(state)?.into_iter().enumerate().map(result).collect();
        let values: ArrayRef = if self.output == DataType::Float32 {
            Arc::new(results.into_iter().map(|v| v.map(|v| v as f32)).collect::<Float32Array>())
        } else {
            Arc::new(Float64Array::from(results))
        };
        Ok(Finished { values, errors })
    }
}

/// The totals that are stored in these columns.
fn totals(state: &[ArrayRef]) -> Result<Vec<Total>> {
    let integers = |i: usize| state[i].as_primitive::<Int64Type>().values();
    let (counts, nan, up, down) = (integers(0), integers(2), integers(3), integers(4));
    let cut_off = || Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: a sum of floats is cut off");
    let parts = state[1].as_binary::<i32>().iter().enumerate();
    parts
        .map(|(i, bytes)| {
            let sum = Sum::decode(bytes.unwrap_or_default()).ok_or_else(cut_off)?;
            Ok(Total { count: counts[i], sum, nan: nan[i], up: up[i], down: down[i] })
        })
        .collect()
}
