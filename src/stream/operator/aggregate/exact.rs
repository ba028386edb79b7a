//! SUM and AVG of integers and decimals: exact, whatever comes and goes.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, i256,
};

use super::rows::Rows;
use super::{Finished, bad_layout};
use crate::error::{Error, Result, sqlstate};

/// Most digits of a numeric.
const DIGITS_MAX: u8 = 38;

/// A sum wider than 128 bits: `low + carry * 2^128`. A sum that overflows its result type is an error only for as long as
/// it does, so what is stored must stay exact beyond it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::stream::operator) struct Wide {
    low: i128,
    carry: i64,
}

impl Wide {
    pub fn add(&mut self, value: i128) {
        let (low, overflowed) = self.low.overflowing_add(value);
        self.low = low;
        if overflowed {
            self.carry += if value > 0 { 1 } else { -1 };
        }
    }

    fn add_times(&mut self, value: i128, weight: i64) {
        if let Some(product) = value.checked_mul(i128::from(weight)) {
            return self.add(product);
        }
        let product = i256::from_i128(value).wrapping_mul(i256::from_i128(i128::from(weight)));
        let (low, high) = product.to_parts();
        let low = low as i128;
        self.add(low);
        self.carry += (high + i128::from(low < 0)) as i64;
    }

    fn add_wide(&mut self, other: Self) {
        self.add(other.low);
        self.carry += other.carry;
    }

    fn to_i256(self) -> i256 {
        i256::from_i128(self.low).wrapping_add(i256::from_parts(0, i128::from(self.carry)))
    }
}

/// SUM or AVG over an exact number type. State: number of values, sum, and for decimals what of the sum is beyond 128 bits.
#[derive(Debug)]
pub(in crate::stream::operator) struct ExactSum {
    average: bool,
    argument: DataType,
    /// Digits behind the point of the argument.
    scale: i8,
    output: DataType,
}

impl ExactSum {
    /// For an argument type; `None` if that is not an exact number.
    pub fn new(average: bool, argument: &DataType, output: &DataType) -> Option<Self> {
        let scale = match argument {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => 0,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => 0,
            DataType::Decimal128(_, scale) => *scale,
            _ => return None,
        };
        let computable = match output {
            DataType::Decimal128(_, to) => average || *to >= scale,
            DataType::Float64 => average,
            DataType::Int16 | DataType::Int32 | DataType::Int64 => !average && scale == 0,
            _ => false,
        };
        computable.then(|| Self { average, argument: argument.clone(), scale, output: output.clone() })
    }

    fn carries(&self) -> bool {
        matches!(self.argument, DataType::Decimal128(_, _))
    }

    pub fn state_types(&self) -> Vec<DataType> {
        let mut types = vec![DataType::Int64, DataType::Decimal128(DIGITS_MAX, self.scale)];
        if self.carries() {
            types.push(DataType::Int64);
        }
        types
    }

    /// The state with the rows added.
    pub(super) fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let mut counts: Vec<i64> = old[0].as_primitive::<Int64Type>().values().to_vec();
        let mut sums = self.sums(old);
        let argument = rows.argument().ok_or_else(|| bad_layout("a sum has no argument"))?;
        match self.argument {
            DataType::Int8 => add_integers::<Int8Type>(rows, argument, &mut counts, &mut sums),
            DataType::Int16 => add_integers::<Int16Type>(rows, argument, &mut counts, &mut sums),
            DataType::Int32 => add_integers::<Int32Type>(rows, argument, &mut counts, &mut sums),
            DataType::Int64 => add_integers::<Int64Type>(rows, argument, &mut counts, &mut sums),
            DataType::UInt8 => add_integers::<UInt8Type>(rows, argument, &mut counts, &mut sums),
            DataType::UInt16 => add_integers::<UInt16Type>(rows, argument, &mut counts, &mut sums),
            DataType::UInt32 => add_integers::<UInt32Type>(rows, argument, &mut counts, &mut sums),
            _ => {
                let values = argument.as_primitive::<Decimal128Type>().values();
                let mut added = vec![Wide::default(); sums.len()];
                rows.each(|row, group, weight| {
                    counts[group] += weight;
                    added[group].add_times(values[row], weight);
                });
                sums.iter_mut().zip(added).for_each(|(sum, added)| sum.add_wide(added));
            }
        }
        Ok(self.state(counts, &sums))
    }

    /// The stored columns for these numbers of values and sums.
    pub fn state(&self, counts: Vec<i64>, sums: &[Wide]) -> Vec<ArrayRef> {
        let low = Decimal128Array::from_iter_values(sums.iter().map(|s| s.low));
        let mut state: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(counts)), Arc::new(low.with_data_type(self.state_types()[1].clone()))];
        if self.carries() {
            state.push(Arc::new(Int64Array::from_iter_values(sums.iter().map(|s| s.carry))));
        }
        state
    }

    fn sums(&self, state: &[ArrayRef]) -> Vec<Wide> {
        let low = state[1].as_primitive::<Decimal128Type>().values();
        match state.get(2) {
            None => low.iter().map(|low| Wide { low: *low, carry: 0 }).collect(),
            Some(carry) => {
                let carry = carry.as_primitive::<Int64Type>().values();
                low.iter().zip(carry).map(|(low, carry)| Wide { low: *low, carry: *carry }).collect()
            }
        }
    }

    /// The results of these states.
    pub fn finish(&self, state: &[ArrayRef]) -> Result<Finished> {
        let counts = state[0].as_primitive::<Int64Type>().values();
        let sums = self.sums(state);
        let nulls = NullBuffer::from_iter(counts.iter().map(|n| *n > 0));
        let mut errors = Vec::new();
        let output_scale = if let DataType::Decimal128(_, scale) = self.output { scale } else { 0 };
        let shift = power_of_ten((output_scale - self.scale).max(0) as u32);
        // An average may have fewer digits than what it is of.
        let unit = power_of_ten((self.scale - output_scale).max(0) as u32);
        let mut value = |group: usize, limit: i128| -> i128 {
            let (sum, count) = (sums[group], counts[group]);
            if count <= 0 {
                return 0;
            }
            let divisor = if self.average { i128::from(count) * unit } else { 1 };
            match scaled_quotient(sum, shift, divisor).filter(|v| v.unsigned_abs() < limit.unsigned_abs()) {
                Some(v) => v,
                None => {
                    errors.push((group, self.overflow()));
                    0
                }
            }
        };
        let groups = 0..counts.len();
        let values: ArrayRef = match &self.output {
            DataType::Decimal128(precision, scale) => {
                let limit = power_of_ten(u32::from(*precision));
                let values: Vec<i128> = groups.map(|g| value(g, limit)).collect();
                let array = PrimitiveArray::<Decimal128Type>::new(values.into(), Some(nulls));
                Arc::new(array.with_data_type(DataType::Decimal128(*precision, *scale)))
            }
            DataType::Float64 => {
                let unit = power_of_ten(self.scale.max(0) as u32) as f64;
                let quotient = |g: usize| to_f64(sums[g]) / unit / counts[g] as f64;
                Arc::new(Float64Array::new(groups.map(quotient).collect::<Vec<_>>().into(), Some(nulls)))
            }
            DataType::Int64 | DataType::Int32 | DataType::Int16 => {
                let sums: Vec<i128> = groups.map(|g| value(g, i128::MAX)).collect();
                let (min, max) = match self.output {
                    DataType::Int16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
                    DataType::Int32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
                    _ => (i64::MIN, i64::MAX),
                };
                let fits = |sum: &i128| i64::try_from(*sum).is_ok_and(|v| (min..=max).contains(&v));
                errors.extend(sums.iter().enumerate().filter(|(_, v)| !fits(v)).map(|(g, _)| (g, self.overflow())));
                let values = sums.iter().map(|sum| if fits(sum) { *sum as i64 } else { 0 });
                let wide = Int64Array::new(values.collect::<Vec<_>>().into(), Some(nulls));
                arrow::compute::cast(&wide, &self.output)?
            }
            other => return Err(bad_layout(&format!("a sum cannot be a {other}"))),
        };
        Ok(Finished { values, errors })
    }

    fn overflow(&self) -> Error {
        let message = match self.output {
            DataType::Int16 => "smallint out of range",
            DataType::Int32 => "integer out of range",
            DataType::Int64 => "bigint out of range",
            _ => "numeric field overflow",
        };
        Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message)
    }
}

fn add_integers<T: ArrowPrimitiveType>(rows: &Rows<'_>, argument: &ArrayRef, counts: &mut [i64], sums: &mut [Wide])
where
    i128: From<T::Native>,
{
    let values = argument.as_primitive::<T>().values();
    rows.each(|row, group, weight| {
        counts[group] += weight;
        sums[group].low += i128::from(values[row]) * weight as i128;
    });
}

/// `sum * factor / divisor`, half away from zero; `None` if that is beyond 128 bits.
fn scaled_quotient(sum: Wide, factor: i128, divisor: i128) -> Option<i128> {
    if sum.carry == 0
        && let Some(scaled) = sum.low.checked_mul(factor)
    {
        let (quotient, rest) = (scaled / divisor, scaled % divisor);
        return Some(if rest.abs() >= divisor - rest.abs() { quotient + scaled.signum() } else { quotient });
    }
    let divisor = i256::from_i128(divisor);
    let scaled = sum.to_i256().checked_mul(i256::from_i128(factor))?;
    let quotient = scaled.checked_div(divisor)?;
    let rest = scaled.checked_rem(divisor)?.wrapping_abs();
    let away = if scaled.is_negative() { i256::MINUS_ONE } else { i256::ONE };
    let rounded = if rest >= divisor.wrapping_sub(rest) { quotient.wrapping_add(away) } else { quotient };
    rounded.to_i128()
}

fn to_f64(sum: Wide) -> f64 {
    sum.carry as f64 * 2f64.powi(128) + sum.low as f64
}

fn power_of_ten(exponent: u32) -> i128 {
    10i128.checked_pow(exponent).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Wide, scaled_quotient};

    #[test]
    fn sums_beyond_128_bits_come_back() {
        let big = 99_999_999_999_999_999_999_999_999_999_999_999_999i128;
        let mut sum = Wide::default();
        sum.add_times(big, 1_000_000_007);
        sum.add_times(-big, 5);
        sum.add(7);
        assert_ne!(sum.carry, 0);
        sum.add_times(big, -1_000_000_002);
        assert_eq!(sum, Wide { low: 7, carry: 0 });
        let mut negative = Wide::default();
        negative.add_times(-big, i64::MAX);
        negative.add_times(big, i64::MAX);
        assert_eq!(negative, Wide::default());
    }

    #[test]
    fn averages_round_half_away_from_zero() {
        let quotient = |v, factor, divisor| scaled_quotient(Wide { low: v, carry: 0 }, factor, divisor);
        assert_eq!(quotient(5, 1, 2), Some(3));
        assert_eq!(quotient(-5, 1, 2), Some(-3));
        assert_eq!(quotient(1, 10, 3), Some(3));
        assert_eq!(quotient(-2, 10, 3), Some(-7));
        assert_eq!(quotient(0, 10, 3), Some(0));
        assert_eq!(quotient(i128::MAX, 10, 20), Some(i128::MAX / 2 + 1));
        assert_eq!(quotient(i128::MAX, 10, 1), None);
        let beyond = Wide { low: 0, carry: 1 };
        assert_eq!(scaled_quotient(beyond, 1, 4), Some(1 << 126));
    }
}
