//! `approx_count_distinct`: how many different values there are, by a HyperLogLog sketch; the standard error is 1.6 %.
//!
//! A sketch has 4096 registers: a value's hash (XXH64, which is the same everywhere and always) chooses one, which keeps the
//! most leading zeros that the rest of a hash has had. The estimate is Ertl's (New cardinality estimation algorithms for
//! HyperLogLog sketches, 2017), which needs no tables and is right for small numbers too. It depends on the values alone, not
//! on their order, so that a continuous view and a batch agree.

use std::f64::consts::LN_2;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::format_state_name;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use millstream_catalog::SqlType;
use twox_hash::XxHash64;

use crate::error::{Result, SqlError};

/// Bits of a hash that choose the register.
const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The most zeros, and one, that a register can hold.
const RANK_MAX: usize = 64 - INDEX_BITS as usize + 1;
/// Registers in use up to which a sketch lists them.
const LISTED_MAX: usize = 512;

/// What a sketch remembers of the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sketch {
    /// The registers in use and what they hold, by register.
    Few(Vec<(u16, u8)>),
    Many(Box<[u8]>),
}

impl Default for Sketch {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Sketch {
    /// Takes in a value by its hash.
    pub fn add(&mut self, hash: u64) {
        let register = (hash >> (64 - INDEX_BITS)) as u16;
        let rest = hash << INDEX_BITS;
        let rank = (rest.leading_zeros() + 1).min(RANK_MAX as u32) as u8;
        self.raise(register, rank);
    }

    /// Takes in what another has seen.
    pub fn merge(&mut self, other: &Self) {
        match other {
            Self::Few(listed) => listed.iter().for_each(|(register, rank)| self.raise(*register, *rank)),
            Self::Many(registers) => {
                let raised = registers.iter().enumerate().filter(|(_, rank)| **rank > 0);
                raised.for_each(|(register, rank)| self.raise(register as u16, *rank));
            }
        }
    }

    fn raise(&mut self, register: u16, rank: u8) {
        match self {
            Self::Many(registers) => {
                let held = &mut registers[usize::from(register)];
                *held = (*held).max(rank);
            }
            Self::Few(listed) => match listed.binary_search_by_key(&register, |(register, _)| *register) {
                Ok(at) => listed[at].1 = listed[at].1.max(rank),
                Err(at) if listed.len() < LISTED_MAX => listed.insert(at, (register, rank)),
                Err(_) => {
                    let mut registers = vec![0; REGISTERS].into_boxed_slice();
                    listed.iter().for_each(|(register, rank)| registers[usize::from(*register)] = *rank);
                    registers[usize::from(register)] = rank;
                    *self = Self::Many(registers);
                }
            },
        }
    }

    /// About how many different values there were.
    pub fn estimate(&self) -> i64 {
        let mut counts = [0_u32; RANK_MAX + 1];
        match self {
            Self::Few(listed) => {
                counts[0] = (REGISTERS - listed.len()) as u32;
                listed.iter().for_each(|(_, rank)| counts[usize::from(*rank)] += 1);
            }
            Self::Many(registers) => registers.iter().for_each(|rank| counts[usize::from(*rank)] += 1),
        }
        let m = REGISTERS as f64;
        let mut z = m * tau(1.0 - f64::from(counts[RANK_MAX]) / m);
        for count in counts[1..RANK_MAX].iter().rev() {
            z = 0.5 * (z + f64::from(*count));
        }
        z += m * sigma(f64::from(counts[0]) / m);
        (m * m / (2.0 * LN_2 * z)).round() as i64
    }

    /// As bytes: pairs of register and rank, or all registers.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Few(listed) => {
                listed.iter().flat_map(|(register, rank)| [*register as u8, (*register >> 8) as u8, *rank]).collect()
            }
            Self::Many(registers) => registers.to_vec(),
        }
    }

    /// From [`Sketch::encode`]; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let known = |rank: u8| usize::from(rank) <= RANK_MAX;
        if bytes.len() == REGISTERS {
            return bytes.iter().all(|rank| known(*rank)).then(|| Self::Many(bytes.into()));
        }
        let (listed, rest) = bytes.as_chunks::<3>();
        let listed: Vec<(u16, u8)> =
            listed.iter().map(|[low, high, rank]| (u16::from_le_bytes([*low, *high]), *rank)).collect();
        let ordered = listed.is_sorted_by(|a, b| a.0 < b.0);
        let valid = listed.iter().all(|(register, rank)| usize::from(*register) < REGISTERS && known(*rank));
        (rest.is_empty() && listed.len() <= LISTED_MAX && ordered && valid).then_some(Self::Few(listed))
    }
}

/// The share of registers without a value, weighed.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// The share of registers that are not full, weighed.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// A hash of each value, the same for values that are equal; of NULLs it says nothing.
///
/// # Errors
/// 0A000 for types whose values are not hashed.
pub fn hashes(values: &ArrayRef) -> Result<Vec<u64>> {
    fn of(bytes: &[u8]) -> u64 {
        XxHash64::oneshot(0, bytes)
    }
    let rows = 0..values.len();
    Ok(match values.data_type() {
        DataType::Boolean => rows.map(|i| of(&[u8::from(values.as_boolean().value(i))])).collect(),
        DataType::Utf8View => rows.map(|i| of(values.as_string_view().value(i).as_bytes())).collect(),
        DataType::Binary => rows.map(|i| of(values.as_binary::<i32>().value(i))).collect(),
        DataType::FixedSizeBinary(_) => rows.map(|i| of(values.as_fixed_size_binary().value(i))).collect(),
        DataType::Decimal128(..) => {
            values.as_primitive::<Decimal128Type>().values().iter().map(|v| of(&v.to_le_bytes())).collect()
        }
        DataType::Float32 | DataType::Float64 => {
            let doubles = cast(values, &DataType::Float64)?;
            // Zero has two signs, and NaN many forms.
            let bits = |v: &f64| if v.is_nan() { f64::NAN } else { v + 0.0 }.to_bits();
            doubles.as_primitive::<Float64Type>().values().iter().map(|v| of(&bits(v).to_le_bytes())).collect()
        }
        DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt32
        | DataType::Date32
        | DataType::Time64(_)
        | DataType::Timestamp(..) => {
            let wide = match values.data_type() {
                DataType::Date32 => cast(&cast(values, &DataType::Int32)?, &DataType::Int64)?,
                _ => cast(values, &DataType::Int64)?,
            };
            wide.as_primitive::<Int64Type>().values().iter().map(|v| of(&v.to_le_bytes())).collect()
        }
        other => return Err(unsupported(other)),
    })
}

fn unsupported(data_type: &DataType) -> SqlError {
    let name = SqlType::from_arrow(data_type).map_or_else(|| data_type.to_string(), |t| t.to_string());
    SqlError::unsupported(format!("approx_count_distinct({name}) is not supported"))
        .with_hint("cast the values to text")
}

/// The function.
pub(crate) fn approx_count_distinct() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(ApproxCountDistinct {
        signature: Signature::user_defined(Volatility::Immutable),
        aliases: vec!["approx_distinct".into()],
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ApproxCountDistinct {
    signature: Signature,
    aliases: Vec<String>,
}

impl AggregateUDFImpl for ApproxCountDistinct {
    fn name(&self) -> &str {
        "approx_count_distinct"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let [input] = types else {
            return Err(SqlError::new("42883", "approx_count_distinct takes one argument").into());
        };
        Ok(vec![match input {
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Interval(_) | DataType::List(_) | DataType::Struct(_) => return Err(unsupported(input).into()),
            other => SqlType::from_arrow(other).map_or_else(|| other.clone(), |t| t.arrow_type()),
        }])
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(One(Sketch::default())))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "sketch"), DataType::Binary, true))])
    }

    fn default_value(&self, _data_type: &DataType) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }
}

#[derive(Debug)]
struct One(Sketch);

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let nulls = values[0].logical_nulls();
        for (row, hash) in hashes(&values[0])?.into_iter().enumerate() {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                self.0.add(hash);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.0.estimate())))
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.0.encode()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            let other = Sketch::decode(bytes).ok_or_else(|| SqlError::internal("a sketch is cut off"))?;
            self.0.merge(&other);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + REGISTERS
    }
}

#[cfg(test)]
mod tests {
    use super::{Sketch, XxHash64};

    fn sketch(values: std::ops::Range<u64>) -> Sketch {
        let mut sketch = Sketch::default();
        values.for_each(|v| sketch.add(XxHash64::oneshot(0, &v.to_le_bytes())));
        sketch
    }

    #[test]
    fn estimates_are_close() {
        for (count, allowed) in
            [(0, 0.0), (1, 0.0), (10, 0.0), (300, 3.0), (2_000, 60.0), (50_000, 2_500.0), (1_000_000, 50_000.0)]
        {
            let estimate = sketch(0..count).estimate();
            assert!((estimate as f64 - count as f64).abs() <= allowed, "{count}: {estimate}");
        }
    }

    #[test]
    fn halves_make_the_whole_and_bytes_come_back() {
        for count in [0, 5, 511, 512, 513, 5_000] {
            let whole = sketch(0..count);
            let mut half = sketch(0..count / 2);
            half.merge(&sketch(count / 2..count));
            assert_eq!(half, whole);
            assert_eq!(Sketch::decode(&whole.encode()), Some(whole));
        }
        assert_eq!(Sketch::decode(&[1, 2]), None);
        assert_eq!(Sketch::decode(&[0, 0xff, 1]), None);
        assert_eq!(Sketch::decode(&[0, 0, 200]), None);
    }
}
