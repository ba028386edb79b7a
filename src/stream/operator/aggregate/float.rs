//! SUM and AVG of floats that do not drift when values come and go.
//!
//! A sum is kept exactly, as a few doubles that do not overlap (Shewchuk, Adaptive Precision Floating-Point Arithmetic,
//! 1997; Python's `fsum`), so that what a value adds it also takes away, whatever was added in between, and the result is
//! the correctly rounded sum in whatever order values came. What is not finite is counted apart, for `inf - inf` is not zero.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryBuilder, Float32Array, Float64Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};

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

/// Doubles that a sum can have at most: their exponents span 2,098 bits, 53 each.
const PARTS_MAX: usize = 48;
/// As many are kept without an allocation.
const FEW: usize = 3;

/// An exact sum: doubles that do not overlap, least first.
#[derive(Debug, Clone, Default)]
struct Sum {
    few: [f64; FEW],
    len: u8,
    /// All of them, where they are more.
    many: Vec<f64>,
}

impl Sum {
    fn parts(&self) -> &[f64] {
        if self.many.is_empty() { &self.few[..usize::from(self.len)] } else { &self.many }
    }

    fn set(&mut self, parts: &[f64]) {
        self.many.clear();
        match self.few.get_mut(..parts.len()) {
            Some(few) => few.copy_from_slice(parts),
            None => self.many.extend_from_slice(parts),
        }
        self.len = parts.len().min(FEW) as u8;
    }

    fn add(&mut self, value: f64) {
        let mut parts = [0.0; PARTS_MAX];
        let mut len = 0;
        let mut high = value;
        for part in self.parts() {
            let (sum, error) = two_sum(high, *part);
            if error != 0.0 {
                parts[len] = error;
                len += 1;
            }
            high = sum;
        }
        if high != 0.0 {
            parts[len] = high;
            len += 1;
        }
        // Beyond the range of a double nothing can be kept exactly; it stays so until no value is left.
        match high.is_finite() {
            true => self.set(&parts[..len]),
            false => self.set(&[f64::INFINITY]),
        }
    }

    fn add_times(&mut self, value: f64, weight: i64) {
        match weight {
            1 => self.add(value),
            -1 => self.add(-value),
            _ => {
                let factor = weight as f64;
                let product = value * factor;
                self.add(product);
                if product.is_finite() {
                    self.add(value.mul_add(factor, -product));
                }
            }
        }
    }

    /// The sum, rounded half to even; infinite if it left the range of a double.
    fn rounded(&self) -> f64 {
        let Some((highest, mut rest)) = self.parts().split_last() else { return 0.0 };
        let mut high = *highest;
        while let Some((part, lower)) = rest.split_last() {
            rest = lower;
            let (sum, error) = two_sum(high, *part);
            high = sum;
            if error == 0.0 {
                continue;
            }
            // Exactly half way the parts below decide.
            if lower.last().is_some_and(|next| (*next < 0.0) == (error < 0.0)) {
                let twice = error * 2.0;
                let away = high + twice;
                if away - high == twice {
                    high = away;
                }
            }
            break;
        }
        high
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        self.parts().iter().for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let (parts, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || parts.len() > PARTS_MAX {
            return Err(Error::new(
                sqlstate::DATA_CORRUPTED,
                "stored data cannot be decoded: a sum of floats is cut off",
            ));
        }
        let mut all = [0.0; PARTS_MAX];
        parts.iter().zip(&mut all).for_each(|(bytes, part)| *part = f64::from_le_bytes(*bytes));
        let mut sum = Self::default();
        sum.set(&all[..parts.len()]);
        Ok(sum)
    }
}

/// What the values of a group add up to. What is not finite is counted apart.
#[derive(Debug, Clone, Default)]
pub(in crate::stream::operator) struct Total {
    count: i64,
    sum: Sum,
    nan: i64,
    up: i64,
    down: i64,
}

impl Total {
    /// Takes in `weight` copies of a value, or takes them away.
    pub fn add(&mut self, value: f64, weight: i64) {
        self.count += weight;
        if value.is_finite() {
            self.sum.add_times(value, weight);
        } else if value.is_nan() {
            self.nan += weight;
        } else if value > 0.0 {
            self.up += weight;
        } else {
            self.down += weight;
        }
    }

    /// Forgets what rounding past the range of a double left, where no finite value is left.
    pub fn settle(&mut self) {
        if self.count == self.nan + self.up + self.down {
            self.sum = Sum::default();
        }
    }
}

/// The rounded sum and its exact error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
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
        let integers = |i: usize| old[i].as_primitive::<Int64Type>().values();
        let (counts, nan, up, down) = (integers(0), integers(2), integers(3), integers(4));
        let parts = sums(&old[1])?.into_iter().enumerate();
        let mut totals: Vec<Total> =
            parts.map(|(i, sum)| Total { count: counts[i], sum, nan: nan[i], up: up[i], down: down[i] }).collect();
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
            match total.count == total.nan + total.up + total.down {
                true => bytes.clear(),
                false => total.sum.encode(&mut bytes),
            }
            parts.append_value(&bytes);
        }
        let parts: ArrayRef = Arc::new(parts.finish());
        vec![integers(|t| t.count), parts, integers(|t| t.nan), integers(|t| t.up), integers(|t| t.down)]
    }

    /// The results of these states.
    pub fn finish(&self, state: &[ArrayRef]) -> Result<Finished> {
        let integers = |i: usize| state[i].as_primitive::<Int64Type>().values();
        let (counts, nan, up, down) = (integers(0), integers(2), integers(3), integers(4));
        let sums = sums(&state[1])?;
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
                let sum = sums[group].rounded();
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

fn sums(parts: &ArrayRef) -> Result<Vec<Sum>> {
    parts.as_binary::<i32>().iter().map(|bytes| Sum::decode(bytes.unwrap_or_default())).collect()
}

fn overflow() -> Error {
    Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::Sum;

    fn sum(values: &[f64]) -> Sum {
        let mut sum = Sum::default();
        values.iter().for_each(|v| sum.add(*v));
        sum
    }

    fn any_value() -> impl Strategy<Value = f64> {
        prop_oneof![
            (-1000..1000i32).prop_map(|cents| f64::from(cents) / 100.0),
            (any::<i32>(), -900..900i32).prop_map(|(m, e)| f64::from(m) * 2f64.powi(e)),
        ]
    }

    proptest! {
        #[test]
        fn what_comes_and_goes_leaves_nothing(
            kept in proptest::collection::vec(any_value(), 0..6),
            taken in proptest::collection::vec((any_value(), 1..5i64), 0..12),
        ) {
            let mut all = Sum::default();
            taken.iter().for_each(|(v, w)| all.add_times(*v, *w));
            kept.iter().for_each(|v| all.add(*v));
            let mut bytes = Vec::new();
            all.encode(&mut bytes);
            let mut all = Sum::decode(&bytes).unwrap();
            taken.iter().for_each(|(v, w)| all.add_times(*v, -w));
            prop_assert_eq!(all.rounded(), sum(&kept).rounded());
            kept.iter().for_each(|v| all.add(-v));
            prop_assert!(all.parts().is_empty());
        }

        #[test]
        fn order_does_not_matter(values in proptest::collection::vec(any_value(), 0..12)) {
            let mut back = values.clone();
            back.reverse();
            prop_assert_eq!(sum(&values).rounded(), sum(&back).rounded());
        }
    }

    #[test]
    fn sums_are_rounded_correctly() {
        assert_eq!(sum(&[0.1; 10]).rounded(), 1.0);
        assert_eq!(sum(&[1e16, 1.0, 1e-16]).rounded(), 10_000_000_000_000_002.0);
        assert_eq!(sum(&[1e16, -1.0, -1e-16]).rounded(), 9_999_999_999_999_998.0);
        assert_eq!(sum(&[2f64.powi(53), 1.0]).rounded(), 2f64.powi(53));
        assert!(sum(&[f64::MAX, f64::MAX]).rounded().is_infinite());
    }
}
