//! MIN and MAX: only the extreme where nothing is ever taken back, else all values in order with their counts.
//!
//! The value keys of MAX have all bits flipped, so that the extreme is the first of its range either way. It is looked up
//! there only when the present one was taken back.

use std::cmp::Ordering;
use std::ops::Bound;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use super::bad_layout;
use super::multiset::{Change, Values, count_of};
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec, Level, successor};

/// MIN or MAX of one column. State: the extreme, NULL where the group has no value.
#[derive(Debug)]
pub(super) struct Extreme {
    /// The value that this ordering puts first wins.
    wins: Ordering,
    codec: KeyCodec,
    /// Position among the operator's aggregates, part of the value keys.
    ordinal: u16,
    append_only: bool,
}

impl Extreme {
    /// For an argument type.
    ///
    /// # Errors
    /// 0A000 for types without an order that the store can keep.
    pub fn new(maximum: bool, argument: &DataType, ordinal: u16, append_only: bool) -> Result<Self> {
        if argument.is_nested() {
            return Err(Error::unsupported("min and max of arrays and records are not supported in a continuous view"));
        }
        let wins = if maximum { Ordering::Greater } else { Ordering::Less };
        Ok(Self { wins, codec: KeyCodec::new(std::slice::from_ref(argument))?, ordinal, append_only })
    }

    pub fn state_types(&self) -> Vec<DataType> {
        self.codec.types().to_vec()
    }

    /// Whether all values are kept.
    pub fn keeps_values(&self) -> bool {
        !self.append_only
    }

    /// The state with the rows added; `values` is the table of all values.
    pub fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef], values: &mut Values<'_>) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("min or max has no argument"))?;
        let old = &old[0];
        let groups = values.groups.len();
        let order = OrderKeys::new(argument, &self.codec)?;
        let old_order = OrderKeys::new(old, &self.codec)?;
        if self.append_only {
            let mut best = vec![NONE; groups];
            rows.each(|row, group, weight| {
                if weight > 0 && (best[group] == NONE || order.compare(row, &order, best[group] as usize) == self.wins)
                {
                    best[group] = row as u32;
                }
            });
            return Ok(vec![self.choose(old, &old_order, argument, &order, &best)?]);
        }

        let keys = self.codec.encode(std::slice::from_ref(argument))?;
        let keys = if self.wins == Ordering::Greater { flipped(&keys) } else { keys };
        let changes = values.count(self.ordinal, rows, &keys, |_| &[])?;
        let mut best = vec![NONE; groups];
        let mut lost = vec![false; groups];
        for Change { group, row, before, after } in changes {
            if before <= 0 && after > 0 {
                if best[group] == NONE || order.compare(row, &order, best[group] as usize) == self.wins {
                    best[group] = row as u32;
                }
            } else if before > 0 && after <= 0 && old.is_valid(group) {
                lost[group] |= order.compare(row, &old_order, group) == Ordering::Equal;
            }
        }

        let chosen = self.choose(old, &old_order, argument, &order, &best)?;
        if !lost.contains(&true) {
            return Ok(vec![chosen]);
        }
        let mut found = ByteRows::new();
        let mut picks: Vec<(usize, usize)> = (0..groups).map(|group| (0, group)).collect();
        let mut prefix = Vec::new();
        for group in (0..groups).filter(|group| lost[*group]) {
            values.prefix(group, self.ordinal, &mut prefix);
            picks[group] = (2, 0);
            let end = successor(&prefix);
            let end = end.as_ref().map(Vec::as_slice);
            let mut scan = values.state.scan(values.table.table(), Bound::Included(&prefix), end, Level::Open);
            while let Some((key, count)) = scan.next_row()? {
                if count_of(count)? > 0 {
                    picks[group] = (1, found.len());
                    found.push(&key[prefix.len()..]);
                    break;
                }
            }
        }
        let found = if self.wins == Ordering::Greater { flipped(&found) } else { found };
        let found = if found.is_empty() { argument.slice(0, 0) } else { self.codec.decode(found.iter())?.remove(0) };
        let null = new_null_array(chosen.data_type(), 1);
        Ok(vec![interleave(&[chosen.as_ref(), found.as_ref(), null.as_ref()], &picks)?])
    }

    /// For each group the better of its old value and of the row in `best`.
    fn choose(
        &self,
        old: &ArrayRef,
        old_order: &OrderKeys,
        argument: &ArrayRef,
        order: &OrderKeys,
        best: &[u32],
    ) -> Result<ArrayRef> {
        if best.iter().all(|row| *row == NONE) {
            return Ok(old.clone());
        }
        let better = |(group, row): (usize, &u32)| {
            let row = *row as usize;
            match row != NONE as usize && (old.is_null(group) || order.compare(row, old_order, group) == self.wins) {
                true => (1, row),
                false => (0, group),
            }
        };
        let picks: Vec<(usize, usize)> = best.iter().enumerate().map(better).collect();
        Ok(interleave(&[old.as_ref(), argument.as_ref()], &picks)?)
    }
}

/// No row.
const NONE: u32 = u32::MAX;

/// The keys with all bits turned round, so that they order the other way; turned round again they are what they were.
fn flipped(keys: &ByteRows) -> ByteRows {
    let mut out = ByteRows::with_capacity(keys.len(), keys.bytes());
    let mut key = Vec::new();
    for bytes in keys.iter() {
        key.clear();
        key.extend(bytes.iter().map(|byte| !byte));
        out.push(&key);
    }
    out
}

/// A column in a form that compares as PostgreSQL orders its values. NULLs are never compared.
pub(in crate::stream::operator) enum OrderKeys {
    Narrow(Vec<i64>),
    Wide(Vec<i128>),
    Bytes(ByteRows),
}

impl OrderKeys {
    pub fn new(column: &ArrayRef, codec: &KeyCodec) -> Result<Self> {
        let widen = |v: &[i32]| Self::Narrow(v.iter().map(|v| i64::from(*v)).collect());
        Ok(match column.data_type() {
            DataType::Int16 => {
                Self::Narrow(column.as_primitive::<Int16Type>().values().iter().map(|v| i64::from(*v)).collect())
            }
            DataType::Int32 => widen(column.as_primitive::<Int32Type>().values()),
            DataType::Date32 => widen(column.as_primitive::<Date32Type>().values()),
            DataType::Int64 => Self::Narrow(column.as_primitive::<Int64Type>().values().to_vec()),
            DataType::Time64(TimeUnit::Microsecond) => {
                Self::Narrow(column.as_primitive::<Time64MicrosecondType>().values().to_vec())
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Narrow(column.as_primitive::<TimestampMicrosecondType>().values().to_vec())
            }
            DataType::Float32 => {
                let values = column.as_primitive::<Float32Type>().values();
                Self::Narrow(values.iter().map(|v| order_of_float(f64::from(*v))).collect())
            }
            DataType::Float64 => {
                Self::Narrow(column.as_primitive::<Float64Type>().values().iter().map(|v| order_of_float(*v)).collect())
            }
            DataType::Decimal128(_, _) => Self::Wide(column.as_primitive::<Decimal128Type>().values().to_vec()),
            _ => Self::Bytes(codec.encode(std::slice::from_ref(column))?),
        })
    }

    pub fn compare(&self, i: usize, other: &Self, j: usize) -> Ordering {
        match (self, other) {
            (Self::Narrow(a), Self::Narrow(b)) => a[i].cmp(&b[j]),
            (Self::Wide(a), Self::Wide(b)) => a[i].cmp(&b[j]),
            (Self::Bytes(a), Self::Bytes(b)) => a.get(i).cmp(b.get(j)),
            _ => unreachable!("both columns are of one type"),
        }
    }
}

/// A number that orders as the float does: -0 is 0 and every NaN is the greatest.
fn order_of_float(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MAX;
    }
    let bits = (value + 0.0).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::order_of_float;

    #[test]
    fn floats_order_as_in_postgresql() {
        let ascending = [f64::NEG_INFINITY, -1e300, -1.5, -1e-300, 0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN];
        assert!(ascending.windows(2).all(|w| order_of_float(w[0]) < order_of_float(w[1])));
        assert_eq!(order_of_float(-0.0), order_of_float(0.0));
        assert_eq!(order_of_float(-f64::NAN), order_of_float(f64::NAN));
    }
}
