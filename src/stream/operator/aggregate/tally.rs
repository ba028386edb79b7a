//! BOOL_AND, BOOL_OR, BIT_AND, BIT_OR and BIT_XOR: counts of the values that decide them, so that any can be taken back.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

use super::rows::Rows;
use super::{AggregateKind, Finished, bad_layout};
use crate::error::{Error, Result, sqlstate};

/// Bits of the widest integer.
const BITS: usize = 64;

/// A logical or bitwise aggregate. State: of the logical ones the numbers of values and of true values; of BIT_XOR the
/// number of values and their parity; of the others the number of values and for each bit how many have it.
#[derive(Debug)]
pub(super) struct Tally {
    kind: AggregateKind,
    output: DataType,
}

impl Tally {
    /// For an aggregate and its types; `None` if it is not of this kind.
    pub fn new(kind: AggregateKind, argument: &DataType, output: &DataType) -> Option<Self> {
        let is_integer = |t: &DataType| matches!(t, DataType::Int16 | DataType::Int32 | DataType::Int64);
        let fits = match kind {
            AggregateKind::BoolAnd | AggregateKind::BoolOr => {
                *argument == DataType::Boolean && *output == DataType::Boolean
            }
            AggregateKind::BitAnd | AggregateKind::BitOr | AggregateKind::BitXor => {
                is_integer(argument) && is_integer(output)
            }
            _ => false,
        };
        fits.then(|| Self { kind, output: output.clone() })
    }

    fn counts_bits(&self) -> bool {
        matches!(self.kind, AggregateKind::BitAnd | AggregateKind::BitOr)
    }

    pub fn state_types(&self) -> Vec<DataType> {
        vec![DataType::Int64, if self.counts_bits() { DataType::Binary } else { DataType::Int64 }]
    }

    /// The state with the rows added.
    pub fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("a logical aggregate has no argument"))?;
        let mut counts: Vec<i64> = old[0].as_primitive::<Int64Type>().values().to_vec();
        if self.counts_bits() {
            let values = cast(argument, &DataType::Int64)?;
            let values = values.as_primitive::<Int64Type>().values();
            let mut bits = (0..counts.len()).map(|g| bit_counts(&old[1], g)).collect::<Result<Vec<_>>>()?;
            rows.each(|row, group, weight| {
                counts[group] += weight;
                let value = values[row] as u64;
                bits[group].iter_mut().enumerate().for_each(|(bit, n)| *n += weight * ((value >> bit) & 1) as i64);
            });
            let mut encoded = BinaryBuilder::with_capacity(bits.len(), bits.len() * BITS * 8);
            for group in &bits {
                let bytes: Vec<u8> = group.iter().flat_map(|n| n.to_le_bytes()).collect();
                encoded.append_value(if group.iter().all(|n| *n == 0) { &[] } else { bytes.as_slice() });
            }
            return Ok(vec![Arc::new(Int64Array::from(counts)), Arc::new(encoded.finish())]);
        }
        let mut second: Vec<i64> = old[1].as_primitive::<Int64Type>().values().to_vec();
        if self.kind == AggregateKind::BitXor {
            let values = cast(argument, &DataType::Int64)?;
            let values = values.as_primitive::<Int64Type>().values();
            rows.each(|row, group, weight| {
                counts[group] += weight;
                second[group] ^= if weight % 2 == 0 { 0 } else { values[row] };
            });
        } else {
            let values = argument.as_boolean();
            rows.each(|row, group, weight| {
                counts[group] += weight;
                second[group] += if values.value(row) { weight } else { 0 };
            });
        }
        Ok(vec![Arc::new(Int64Array::from(counts)), Arc::new(Int64Array::from(second))])
    }

    /// The results of these states.
    pub fn finish(&self, state: &[ArrayRef]) -> Result<Finished> {
        let counts = state[0].as_primitive::<Int64Type>().values();
        let nulls = NullBuffer::from_iter(counts.iter().map(|n| *n > 0));
        let groups = 0..counts.len();
        if self.counts_bits() {
            let wanted = |group: usize, n: i64| {
                if self.kind == AggregateKind::BitAnd { n == counts[group] } else { n > 0 }
            };
            let mut values = Vec::with_capacity(counts.len());
            for group in groups {
                let bits = bit_counts(&state[1], group)?;
                let set = bits.iter().enumerate().filter(|(_, n)| wanted(group, **n));
                values.push(set.fold(0u64, |value, (bit, _)| value | (1 << bit)) as i64);
            }
            return self.integers(values, nulls);
        }
        let second = state[1].as_primitive::<Int64Type>().values();
        let values: ArrayRef = match self.kind {
            AggregateKind::BitXor => return self.integers(second.to_vec(), nulls),
            AggregateKind::BoolAnd => Arc::new(BooleanArray::new(
                groups.map(|g| second[g] == counts[g]).collect::<Vec<_>>().into(),
                Some(nulls),
            )),
            _ => Arc::new(BooleanArray::new(second.iter().map(|n| *n > 0).collect::<Vec<_>>().into(), Some(nulls))),
        };
        Ok(Finished::of(values))
    }

    /// Values that are of the narrower type of the result, where they are not NULL.
    fn integers(&self, values: Vec<i64>, nulls: NullBuffer) -> Result<Finished> {
        Ok(Finished::of(cast(&Int64Array::new(values.into(), Some(nulls)), &self.output)?))
    }
}

/// How many values of a group have each bit; all zero for empty bytes.
fn bit_counts(column: &ArrayRef, group: usize) -> Result<[i64; BITS]> {
    let bytes = column.as_binary::<i32>().value(group);
    let (counts, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || !(counts.is_empty() || counts.len() == BITS) {
        return Err(Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: counts of bits are cut off"));
    }
    let mut out = [0; BITS];
    out.iter_mut().zip(counts).for_each(|(out, bytes)| *out = i64::from_le_bytes(*bytes));
    Ok(out)
}
