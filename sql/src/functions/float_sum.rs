//! Exact sums of floats, for `sum`, `avg`, `var_pop` and kin: the result does not depend on the order of the values, does not
//! drift when values are taken back, and is the same in a continuous view and in a batch.
//!
//! A sum is kept exactly, as a few doubles that do not overlap (Shewchuk, Adaptive Precision Floating-Point Arithmetic,
//! 1997; Python's `fsum`), so that what a value adds it also takes away, whatever was added in between, and the result is
//! the correctly rounded sum. What is not finite is counted apart, for `inf - inf` is not zero.

use super::moments::Spread;
use crate::error::{Result, SqlError};

/// Doubles that a sum can have at most: their exponents span 2,098 bits, 53 each.
const PARTS_MAX: usize = 48;
/// As many are kept without an allocation.
const FEW: usize = 3;

/// An exact sum: doubles that do not overlap, least first.
#[derive(Debug, Clone, Default)]
pub struct Sum {
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

    /// Adds a number that is finite.
    pub fn add(&mut self, value: f64) {
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

    /// Adds a number so many times; takes it away where that is negative.
    pub fn add_times(&mut self, value: f64, weight: i64) {
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
    pub fn rounded(&self) -> f64 {
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

    /// Appends its parts as bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.parts().iter().for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
    }

    /// From [`Sum::encode`]; `None` for bytes that are not of a sum.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (parts, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || parts.len() > PARTS_MAX {
            return None;
        }
        let mut all = [0.0; PARTS_MAX];
        parts.iter().zip(&mut all).for_each(|(bytes, part)| *part = f64::from_le_bytes(*bytes));
        let mut sum = Self::default();
        sum.set(&all[..parts.len()]);
        Some(sum)
    }

    /// Adds `a * b` so many times, exactly but for what is smaller than any double.
    fn add_product(&mut self, a: f64, b: f64, weight: i64) {
        let product = a * b;
        self.add_times(product, weight);
        if product.is_finite() {
            self.add_times(a.mul_add(b, -product), weight);
        }
    }

    fn merge(&mut self, other: &Self) {
        other.parts().iter().for_each(|part| self.add(*part));
    }
}

/// What values add up to. What is not finite is counted apart.
#[derive(Debug, Clone, Default)]
pub struct Total {
    /// How many values there are.
    pub count: i64,
    pub sum: Sum,
    pub nan: i64,
    /// How many are infinite, and minus infinite.
    pub up: i64,
    pub down: i64,
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

    /// Takes in what another has gathered.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.nan += other.nan;
        self.up += other.up;
        self.down += other.down;
    }

    /// Whether no value is finite.
    pub fn has_no_finite(&self) -> bool {
        self.count == self.nan + self.up + self.down
    }

    /// Forgets what rounding past the range of a double left, where no finite value is left.
    pub fn settle(&mut self) {
        if self.has_no_finite() {
            self.sum = Sum::default();
        }
    }

    /// Their sum or average; `None` without values.
    ///
    /// # Errors
    /// 22003 if it is beyond the range of a double.
    pub fn result(&self, average: bool) -> Result<Option<f64>> {
        if self.count <= 0 {
            return Ok(None);
        }
        if let Some(special) = self.special() {
            return Ok(Some(special));
        }
        let sum = self.sum.rounded();
        let result = if average { sum / self.count as f64 } else { sum };
        if result.is_finite() { Ok(Some(result)) } else { Err(overflow()) }
    }

    fn special(&self) -> Option<f64> {
        if self.nan > 0 || (self.up > 0 && self.down > 0) {
            Some(f64::NAN)
        } else if self.up > 0 {
            Some(f64::INFINITY)
        } else if self.down > 0 {
            Some(f64::NEG_INFINITY)
        } else {
            None
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        for number in [self.count, self.nan, self.up, self.down] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.sum.encode(&mut bytes);
        bytes
    }

    /// From [`Total::encode`]; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, parts) = bytes.split_at_checked(4 * 8)?;
        let number = |i: usize| numbers[8 * i..8 * i + 8].try_into().map_or(0, i64::from_le_bytes);
        Some(Self { count: number(0), nan: number(1), up: number(2), down: number(3), sum: Sum::decode(parts)? })
    }
}

/// Number, sum, and sum of squares of floats, which may be taken back.
#[derive(Debug, Clone, Default)]
pub struct FloatMoments {
    total: Total,
    /// Of the values whose square is a double.
    squares: Sum,
    /// How many values have no such square.
    huge: i64,
}

/// Squares of values from here on may be beyond the range of a double.
const HUGE: f64 = 1e150;

impl FloatMoments {
    /// Takes in `weight` copies of a value, or takes them away.
    pub fn add(&mut self, value: f64, weight: i64) {
        self.total.add(value, weight);
        if value.is_finite() && value.abs() < HUGE {
            self.squares.add_product(value, value, weight);
        } else if value.is_finite() {
            self.huge += weight;
        }
        if self.total.has_no_finite() {
            self.total.settle();
            self.squares = Sum::default();
        }
    }

    /// Takes in what another has gathered.
    pub fn merge(&mut self, other: &Self) {
        self.total.merge(&other.total);
        self.squares.merge(&other.squares);
        self.huge += other.huge;
    }

    /// The spread of the values: `None` without any, and for a sample of one; NaN if one is not finite.
    ///
    /// # Errors
    /// 22003 if it is beyond the range of a double.
    pub fn result(&self, spread: Spread) -> Result<Option<f64>> {
        let count = self.total.count;
        if count <= i64::from(spread.sample) {
            return Ok(None);
        }
        if self.total.special().is_some() {
            return Ok(Some(f64::NAN));
        }
        if self.huge > 0 {
            return Err(overflow());
        }
        let n = count as f64;
        let mean = self.total.sum.rounded() / n;
        // The squared distances from a number near the mean, and of that from the mean itself.
        let (mut squares, mut distance) = (self.squares.clone(), self.total.sum.clone());
        self.total.sum.parts().iter().for_each(|part| squares.add_product(-2.0 * mean, *part, 1));
        squares.add_product(mean, mean, count);
        distance.add_product(-mean, 1.0, count);
        let distance = distance.rounded();
        let deviations = (squares.rounded() - distance * distance / n).max(0.0);
        let variance = deviations / (n - f64::from(u8::from(spread.sample)));
        let result = if spread.root { variance.sqrt() } else { variance };
        if result.is_finite() { Ok(Some(result)) } else { Err(overflow()) }
    }

    /// As bytes; none for no values.
    pub fn encode(&self) -> Vec<u8> {
        if self.total.count == 0 {
            return Vec::new();
        }
        let total = self.total.encode();
        let mut bytes = self.huge.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(total.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&total);
        self.squares.encode(&mut bytes);
        bytes
    }

    /// From [`FloatMoments::encode`]; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (huge, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (total, squares) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let (total, squares) = (Total::decode(total)?, Sum::decode(squares)?);
        Some(Self { total, squares, huge: i64::from_le_bytes(*huge) })
    }
}

/// PostgreSQL's words for a result beyond the range of a float.
pub fn overflow() -> SqlError {
    SqlError::new("22003", "value out of range: overflow")
}

/// The rounded sum and its exact error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{FloatMoments, Spread, Sum};

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

    const SAMPLE: Spread = Spread { sample: true, root: false };

    fn spread(values: &[f64]) -> Option<f64> {
        let mut moments = FloatMoments::default();
        values.iter().for_each(|v| moments.add(*v, 1));
        FloatMoments::decode(&moments.encode()).unwrap().result(SAMPLE).unwrap()
    }

    #[test]
    fn a_large_mean_does_not_hide_a_small_spread() {
        assert_eq!(spread(&[1e15 + 1.0, 1e15 + 2.0, 1e15 + 3.0, 1e15 + 4.0]), Some(5.0 / 3.0));
        assert_eq!(spread(&[0.1; 7]), Some(0.0));
        assert_eq!(spread(&[1.0]), None);
        assert!(spread(&[1.0, f64::INFINITY]).unwrap().is_nan());
        let mut moments = FloatMoments::default();
        for (value, weight) in [(1e200, 1), (2.5, 1), (f64::NAN, 1), (4.5, 1), (f64::NAN, -1), (1e200, -1)] {
            moments.add(value, weight);
        }
        assert_eq!(moments.result(SAMPLE).unwrap(), Some(2.0));
        moments.add(1e200, 1);
        assert!(moments.result(SAMPLE).is_err());
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
