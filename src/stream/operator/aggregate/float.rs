//! SUM and AVG of floats that do not drift when values come and go.
//!
//! A sum is two doubles whose exact sum it is (Dekker's and Knuth's error-free additions), so that what a value adds it also
//! takes away. What is not finite is counted apart, for `inf - inf` is not zero.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};

use super::rows::Rows;
use super::{Finished, bad_layout};
use crate::error::{Error, Result, sqlstate};

/// SUM or AVG over a float type. State: number of values, sum, its rest, and how many values are NaN, inf and -inf.
#[derive(Debug)]
pub(super) struct FloatSum {
    average: bool,
    argument: DataType,
    output: DataType,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        let (sum, error) = two_sum(self.high, value);
        let (high, low) = quick_two_sum(sum, error + self.low);
        *self = Self { high, low };
    }

    fn add_times(&mut self, value: f64, weight: i64) {
        match weight {
            1 => self.add(value),
            -1 => self.add(-value),
            _ => {
                let factor = weight as f64;
                let product = value * factor;
                self.add(product);
                self.add(value.mul_add(factor, -product));
            }
        }
    }
}

/// The rounded sum and its exact error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// As [`two_sum`] where `|a| >= |b|`.
fn quick_two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    (sum, b - (sum - a))
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
        use DataType::{Float64, Int64};
        vec![Int64, Float64, Float64, Int64, Int64, Int64]
    }

    /// The state with the rows added.
    pub fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("a sum has no argument"))?;
        let integers = |i: usize| old[i].as_primitive::<Int64Type>().values().to_vec();
        let (mut counts, mut nan, mut up, mut down) = (integers(0), integers(3), integers(4), integers(5));
        let high = old[1].as_primitive::<Float64Type>().values();
        let low = old[2].as_primitive::<Float64Type>().values();
        let mut sums: Vec<Sum> = high.iter().zip(low).map(|(high, low)| Sum { high: *high, low: *low }).collect();
        let mut add = |value: f64, group: usize, weight: i64| {
            counts[group] += weight;
            if value.is_finite() {
                sums[group].add_times(value, weight);
            } else if value.is_nan() {
                nan[group] += weight;
            } else if value > 0.0 {
                up[group] += weight;
            } else {
                down[group] += weight;
            }
        };
        if self.argument == DataType::Float32 {
            let values = argument.as_primitive::<Float32Type>().values();
            rows.each(|row, group, weight| add(f64::from(values[row]), group, weight));
        } else {
            let values = argument.as_primitive::<Float64Type>().values();
            rows.each(|row, group, weight| add(values[row], group, weight));
        }
        for (group, sum) in sums.iter_mut().enumerate() {
            if counts[group] == nan[group] + up[group] + down[group] {
                *sum = Sum::default();
            }
        }
        let integers = |v: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(v)) };
        Ok(vec![
            integers(counts),
            Arc::new(Float64Array::from_iter_values(sums.iter().map(|s| s.high))),
            Arc::new(Float64Array::from_iter_values(sums.iter().map(|s| s.low))),
            integers(nan),
            integers(up),
            integers(down),
        ])
    }

    /// The results of these states.
    pub fn finish(&self, state: &[ArrayRef]) -> Result<Finished> {
        let integers = |i: usize| state[i].as_primitive::<Int64Type>().values();
        let (counts, nan, up, down) = (integers(0), integers(3), integers(4), integers(5));
        let sums = state[1].as_primitive::<Float64Type>().values();
        let nulls = NullBuffer::from_iter(counts.iter().map(|n| *n > 0));
        let mut errors = Vec::new();
        let results: Vec<f64> = (0..counts.len())
            .map(|group| {
                if nan[group] > 0 || (up[group] > 0 && down[group] > 0) {
                    return f64::NAN;
                } else if up[group] > 0 {
                    return f64::INFINITY;
                } else if down[group] > 0 {
                    return f64::NEG_INFINITY;
                }
                // Zeros that cancelled out may have left a sign.
                let sum = sums[group] + 0.0;
                let result = if self.average { sum / counts[group].max(1) as f64 } else { sum };
                let fits = self.output == DataType::Float64 || (result as f32).is_finite();
                if !(result.is_finite() && fits) {
                    errors.push((group, overflow()));
                }
                result
            })
            .collect();
        let values: ArrayRef = if self.output == DataType::Float32 {
            Arc::new(Float32Array::new(results.iter().map(|v| *v as f32).collect::<Vec<_>>().into(), Some(nulls)))
        } else {
            Arc::new(Float64Array::new(results.into(), Some(nulls)))
        };
        Ok(Finished { values, errors })
    }
}

fn overflow() -> Error {
    Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
}
