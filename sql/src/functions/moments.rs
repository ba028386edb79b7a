//! `var_pop`, `var_samp`, `stddev_pop` and `stddev_samp`, from exact sums.
//!
//! The number of values, their sum and the sum of their squares are kept exactly, so that the result, a double, does not
//! depend on the order of the values and does not drift when values are taken back. For floats see `float_sum`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int32Type, Int64Type, i256};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::format_state_name;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::float_aggregates::FloatSpread;
use crate::error::SqlError;

/// Bytes of encoded [`Moments`].
const ENCODED_BYTES: usize = 80;

/// Number, sum, and sum of squares of numbers, which may be taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moments {
    count: i64,
    sum: i256,
    squares: i256,
    /// What of the squares is beyond 256 bits.
    carry: i64,
}

impl Moments {
    /// Adds a number so many times; takes it back where that is negative.
    pub fn add(&mut self, value: i128, weight: i64) {
        let (value, times) = (i256::from_i128(value), i256::from_i128(i128::from(weight.abs())));
        let square = value.wrapping_mul(value);
        self.count += weight;
        let amount = value.wrapping_mul(times);
        self.sum = if weight < 0 { self.sum.wrapping_sub(amount) } else { self.sum.wrapping_add(amount) };
        // A square has 254 bits at most: several at once may have more than are kept.
        let (amount, repeats) = match square.checked_mul(times) {
            Some(amount) => (amount, 1),
            None => (square, weight.abs()),
        };
        for _ in 0..repeats {
            if weight < 0 {
                self.take_squares(amount);
            } else {
                self.add_squares(amount);
            }
        }
    }

    /// Adds what others have gathered.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.carry += other.carry;
        self.add_squares(other.squares);
    }

    /// `squares` is kept between zero and the greatest number of 255 bits.
    fn add_squares(&mut self, squares: i256) {
        let total = self.squares.wrapping_add(squares);
        if total.is_negative() {
            self.carry += 1;
            self.squares = total.wrapping_sub(i256::MIN);
        } else {
            self.squares = total;
        }
    }

    fn take_squares(&mut self, squares: i256) {
        let total = self.squares.wrapping_sub(squares);
        if total.is_negative() {
            self.carry -= 1;
            self.squares = total.wrapping_sub(i256::MIN);
        } else {
            self.squares = total;
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As bytes of one length.
    pub fn encode(&self) -> [u8; ENCODED_BYTES] {
        let mut bytes = [0; ENCODED_BYTES];
        bytes[..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.sum.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.squares.to_le_bytes());
        bytes[72..].copy_from_slice(&self.carry.to_le_bytes());
        bytes
    }

    /// From [`Moments::encode`]; no bytes are no values. `None` for other lengths.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let bytes: &[u8; ENCODED_BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..at + 8].try_into().map_or(0, i64::from_le_bytes);
        let wide = |at: usize| bytes[at..at + 32].try_into().map_or(i256::ZERO, i256::from_le_bytes);
        Some(Self { count: number(0), sum: wide(8), squares: wide(40), carry: number(72) })
    }

    /// The spread of numbers with `scale` digits behind the point: NULL without values, and for a sample of one.
    pub fn result(&self, spread: Spread, scale: i8) -> Option<f64> {
        let n = self.count;
        if n <= i64::from(spread.sample) {
            return None;
        }
        let count = i256::from_i128(i128::from(n));
        let exact =
            (self.carry == 0).then(|| self.squares.checked_mul(count)?.checked_sub(self.sum.checked_mul(self.sum)?));
        let (n, unit) = (n as f64, 10f64.powi(i32::from(scale)));
        let deviations = match exact.flatten() {
            // n times the sum of the squared distances from the mean.
            Some(exact) => to_f64(exact) / n,
            None => {
                let squares = self.carry as f64 * 2f64.powi(255) + to_f64(self.squares);
                (squares - to_f64(self.sum) * to_f64(self.sum) / n).max(0.0)
            }
        };
        let variance = deviations / (n - f64::from(u8::from(spread.sample))) / (unit * unit);
        Some(if spread.root { variance.sqrt() } else { variance })
    }
}

fn to_f64(value: i256) -> f64 {
    match value.to_i128() {
        Some(value) => value as f64,
        None => {
            let (low, high) = value.to_parts();
            high as f64 * 2f64.powi(128) + low as f64
        }
    }
}

/// Which measure of spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spread {
    /// Of a sample, not of a whole population.
    pub sample: bool,
    /// The standard deviation, not the variance.
    pub root: bool,
}

/// The four functions.
pub fn all() -> Vec<Arc<AggregateUDF>> {
    let function = |name, aliases: &[&str], sample, root| {
        let aliases = aliases.iter().map(ToString::to_string).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        let spread = Spread { sample, root };
        Arc::new(AggregateUDF::new_from_impl(ExactSpread { name, aliases, spread, signature }))
    };
    vec![
        function("var_pop", &["var_population"], false, false),
        function("var_samp", &["var", "variance", "var_sample"], true, false),
        function("stddev_pop", &[], false, true),
        function("stddev_samp", &["stddev"], true, true),
    ]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactSpread {
    name: &'static str,
    aliases: Vec<String>,
    spread: Spread,
    signature: Signature,
}

/// Digits behind the point of the exact inputs; `None` for floats.
fn exact_scale(input: &DataType) -> Option<i8> {
    match input {
        DataType::Int32 | DataType::Int64 => Some(0),
        DataType::Decimal128(_, scale) => Some(*scale),
        _ => None,
    }
}

impl AggregateUDFImpl for ExactSpread {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        use DataType as D;
        let [input] = types else {
            return Err(SqlError::new("42883", format!("{} takes one argument", self.name)).into());
        };
        Ok(vec![match input {
            D::Null | D::Int8 | D::UInt8 | D::Int16 | D::UInt16 | D::Int32 => D::Int32,
            D::UInt32 | D::Int64 => D::Int64,
            D::Decimal128(..) => input.clone(),
            D::UInt64 | D::Float16 | D::Float32 | D::Float64 => D::Float64,
            other => {
                return Err(SqlError::new("42883", format!("function {}({other}) does not exist", self.name))
                    .with_hint("you might need to add an explicit type cast")
                    .into());
            }
        }])
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        if args.is_distinct {
            return Err(SqlError::unsupported(format!("{}(DISTINCT ...) is not supported", self.name)).into());
        }
        Ok(match args.expr_fields.first().and_then(|f| exact_scale(f.data_type())) {
            Some(scale) => Box::new(One { spread: self.spread, scale, moments: Moments::default() }),
            None => Box::new(FloatSpread::new(self.spread)),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "moments"), DataType::Binary, true))])
    }
}

/// The accumulator of one group.
#[derive(Debug)]
struct One {
    spread: Spread,
    scale: i8,
    moments: Moments,
}

impl One {
    fn take(&mut self, values: &ArrayRef, weight: i64) -> DfResult<()> {
        let moments = &mut self.moments;
        match values.data_type() {
            DataType::Int32 => {
                values.as_primitive::<Int32Type>().iter().flatten().for_each(|v| moments.add(v.into(), weight));
            }
            DataType::Int64 => {
                values.as_primitive::<Int64Type>().iter().flatten().for_each(|v| moments.add(v.into(), weight));
            }
            DataType::Decimal128(..) => {
                values.as_primitive::<Decimal128Type>().iter().flatten().for_each(|v| moments.add(v, weight));
            }
            other => return Err(SqlError::internal(format!("variance over {other}")).into()),
        }
        Ok(())
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.take(&values[0], 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.take(&values[0], -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Float64(self.moments.result(self.spread, self.scale)))
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.moments.encode().to_vec()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        let states = states[0].as_binary::<i32>();
        for i in (0..states.len()).filter(|i| states.is_valid(*i)) {
            let other = Moments::decode(states.value(i))
                .ok_or_else(|| SqlError::internal("the state of a variance is cut off"))?;
            self.moments.merge(&other);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::{Moments, Spread};

    const SAMPLE: Spread = Spread { sample: true, root: false };

    #[test]
    fn values_come_and_go_without_a_trace() {
        let big = 10i128.pow(37);
        let mut moments = Moments::default();
        for value in [big, -big, big - 1, 7, big] {
            moments.add(value, 3);
        }
        for value in [big, -big, big - 1, big] {
            moments.add(value, -3);
        }
        let mut seven = Moments::default();
        seven.add(7, 3);
        assert_eq!(moments, seven);
        seven.add(7, -3);
        assert!(seven.is_empty());
        assert_eq!(Moments::decode(&moments.encode()), Some(moments));
    }

    #[test]
    fn a_large_mean_does_not_hide_a_small_spread() {
        let mut moments = Moments::default();
        for value in [1, 2, 3, 4] {
            moments.add(1_000_000_000_000_000_000 + value, 1);
        }
        assert_eq!(moments.result(SAMPLE, 0), Some(5.0 / 3.0));
        assert_eq!(moments.result(Spread { sample: false, root: false }, 1), Some(0.0125));
        assert_eq!(Moments::default().result(SAMPLE, 0), None);
        let mut one = Moments::default();
        one.add(5, 1);
        assert_eq!(one.result(SAMPLE, 0), None);
        assert_eq!(one.result(Spread { sample: false, root: true }, 0), Some(0.0));
    }
}
