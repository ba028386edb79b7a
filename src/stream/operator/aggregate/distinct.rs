//! Aggregates over the distinct values of a column: functions that see each value once, when it comes and when it goes.
//!
//! All of an operator's aggregates over one column share its values, whatever their filters: of each value of a group is
//! stored how often each filter lets it through. If rows only come, all that counts is whether it ever has, one bit each,
//! and a value that is known costs no write.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Int64Type};

use super::bad_layout;
use super::function::Function;
use super::multiset::{Values, each_value};
use super::rows::Rows;
use crate::error::Result;
use crate::state::{ByteRows, KeyCodec, RowCodec};

/// Most filters whose bits fit beside each other.
const MEMBERS_MAX: usize = 63;

/// A function over the distinct values of its argument. State: that of the function; the values are counted apart.
#[derive(Debug)]
pub(super) struct Distinct {
    pub function: Box<Function>,
    /// Which of the operator's [`DistinctValues`] has its argument.
    pub set: usize,
    /// Which of the set's filters is its own.
    pub member: usize,
}

/// The distinct values of one column.
#[derive(Debug)]
pub(super) struct DistinctValues {
    /// Position of the column.
    argument: usize,
    /// Positions of the filters.
    members: Vec<Option<usize>>,
    codec: KeyCodec,
    /// The bits of all members, or the count of each.
    counts: RowCodec,
    append_only: bool,
    ordinal: u16,
}

/// Values that come to groups or leave them.
#[derive(Debug, Default)]
pub(super) struct Moved {
    groups: Vec<u32>,
    /// A row that has the value.
    rows: Vec<u32>,
    weights: Vec<i64>,
}

impl Moved {
    fn push(&mut self, (group, row): (u32, u32), weight: i64) {
        self.groups.push(group);
        self.rows.push(row);
        self.weights.push(weight);
    }
}

/// Where the sets of an operator take in the aggregates that are over distinct values.
pub(super) struct Sets {
    pub sets: Vec<DistinctValues>,
    pub append_only: bool,
}

impl Sets {
    /// The set and the member of a function over the column at `argument`, which is of type `data_type`, with this filter.
    ///
    /// # Errors
    /// 0A000 for types that cannot be compared.
    pub fn place(
        &mut self,
        argument: usize,
        data_type: &DataType,
        filter: Option<usize>,
        ordinal: u16,
    ) -> Result<(usize, usize)> {
        let has_room = |set: &DistinctValues| set.members.contains(&filter) || set.members.len() < MEMBERS_MAX;
        let found = self.sets.iter().position(|set| set.argument == argument && has_room(set));
        let at = match found {
            Some(at) => at,
            None => {
                self.sets.push(DistinctValues {
                    argument,
                    members: Vec::new(),
                    codec: KeyCodec::new(std::slice::from_ref(data_type))?,
                    counts: RowCodec::new(&[DataType::Int64])?,
                    append_only: self.append_only,
                    ordinal,
                });
                self.sets.len() - 1
            }
        };
        let set = &mut self.sets[at];
        let member = match set.members.iter().position(|member| *member == filter) {
            Some(member) => member,
            None => {
                set.members.push(filter);
                set.members.len() - 1
            }
        };
        if !set.append_only {
            set.counts = RowCodec::new(&vec![DataType::Int64; set.members.len()])?;
        }
        Ok((at, member))
    }
}

impl DistinctValues {
    /// Takes rows of groups into the values. Returns for each member those that come and go.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn take_in(
        &self,
        columns: &[ArrayRef],
        group_of_row: &[u32],
        weights: Option<&[i64]>,
        values: &mut Values<'_>,
    ) -> Result<Vec<Moved>> {
        let argument = &columns[self.argument];
        let keys = self.codec.encode(std::slice::from_ref(argument))?;
        let rows = Rows::new(group_of_row, weights, Some(argument), None);
        let passed: Vec<Option<BooleanBuffer>> = self
            .members
            .iter()
            .map(|member| {
                member.map(|position| {
                    let filter = columns[position].as_boolean();
                    filter.nulls().map_or_else(|| filter.values().clone(), |nulls| filter.values() & nulls.inner())
                })
            })
            .collect();
        let passes = |member: usize, row: usize| passed[member].as_ref().is_none_or(|passed| passed.value(row));
        match self.append_only {
            true => self.come(&rows, &keys, &passes, values),
            false => self.come_and_go(&rows, &keys, &passes, values),
        }
    }

    /// The same where nothing goes.
    fn come(
        &self,
        rows: &Rows<'_>,
        keys: &ByteRows,
        passes: &dyn Fn(usize, usize) -> bool,
        values: &mut Values<'_>,
    ) -> Result<Vec<Moved>> {
        let members = self.members.len();
        let mut bits: Vec<i64> = Vec::new();
        let found = each_value(rows, keys, |value, row, _| {
            bits.resize(bits.len().max(value + 1), 0);
            for member in 0..members {
                bits[value] |= i64::from(passes(member, row)) << member;
            }
        });
        let stored_keys = values.keys_of(self.ordinal, &found, keys);
        let before = self.stored(values, &stored_keys)?;
        let before = before[0].as_primitive::<Int64Type>().values();
        let mut moved: Vec<Moved> = (0..members).map(|_| Moved::default()).collect();
        let mut changed: Vec<u32> = Vec::new();
        for (value, bits) in bits.iter_mut().enumerate() {
            let new = *bits & !before[value];
            *bits |= before[value];
            if new != 0 {
                changed.push(value as u32);
                (0..members).filter(|m| new >> m & 1 == 1).for_each(|member| moved[member].push(found[value], 1));
            }
        }
        let bits: ArrayRef = Arc::new(Int64Array::from(bits));
        self.write(values, &stored_keys, &changed, &[bits], |_| true)?;
        Ok(moved)
    }

    /// The same where values are counted.
    fn come_and_go(
        &self,
        rows: &Rows<'_>,
        keys: &ByteRows,
        passes: &dyn Fn(usize, usize) -> bool,
        values: &mut Values<'_>,
    ) -> Result<Vec<Moved>> {
        let members = self.members.len();
        let mut net: Vec<Vec<i64>> = vec![Vec::new(); members];
        let found = each_value(rows, keys, |value, row, weight| {
            for (member, net) in net.iter_mut().enumerate() {
                net.resize(net.len().max(value + 1), 0);
                if passes(member, row) {
                    net[value] = net[value].saturating_add(weight);
                }
            }
        });
        let stored_keys = values.keys_of(self.ordinal, &found, keys);
        let before = self.stored(values, &stored_keys)?;
        let mut moved: Vec<Moved> = Vec::with_capacity(members);
        let mut changed = vec![false; found.len()];
        let mut stays = vec![false; found.len()];
        for (net, before) in net.iter_mut().zip(&before) {
            let mut of_member = Moved::default();
            for (value, (net, before)) in net.iter_mut().zip(before.as_primitive::<Int64Type>().values()).enumerate() {
                changed[value] |= *net != 0;
                *net = net.saturating_add(*before);
                stays[value] |= *net != 0;
                if (*before > 0) != (*net > 0) {
                    of_member.push(found[value], if *net > 0 { 1 } else { -1 });
                }
            }
            moved.push(of_member);
        }
        let changed: Vec<u32> = (0..found.len()).filter(|value| changed[*value]).map(|value| value as u32).collect();
        let after: Vec<ArrayRef> = net.into_iter().map(|net| Arc::new(Int64Array::from(net)) as ArrayRef).collect();
        self.write(values, &stored_keys, &changed, &after, |value| stays[value])?;
        Ok(moved)
    }

    /// What is stored with each key.
    fn stored(&self, values: &mut Values<'_>, keys: &ByteRows) -> Result<Vec<ArrayRef>> {
        let width = if self.append_only { 1 } else { self.members.len() };
        let zero: ArrayRef = Arc::new(Int64Array::from(vec![0]));
        let zeros: Vec<ArrayRef> = std::iter::repeat_n(zero, width).collect();
        let zeros = self.counts.encode(&zeros)?;
        let stored = values.table.get_many(values.state, keys)?;
        self.counts.decode(stored.iter().map(|row| row.unwrap_or_else(|| zeros.get(0))))
    }

    /// Writes what is stored with the changed of the keys, or deletes those that do not stay.
    fn write(
        &self,
        values: &mut Values<'_>,
        keys: &ByteRows,
        changed: &[u32],
        columns: &[ArrayRef],
        stays: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let rows = UInt32Array::from(changed.to_vec());
        let columns = columns.iter().map(|c| take(c, &rows, None)).collect::<Result<Vec<_>, _>>()?;
        let encoded = self.counts.encode(&columns)?;
        let keys: ByteRows = changed.iter().map(|value| keys.get(*value as usize)).collect();
        values.table.write_many(values.state, &keys, |i| stays(changed[i] as usize).then(|| encoded.get(i)));
        Ok(())
    }

    /// The column itself.
    pub fn argument<'c>(&self, columns: &'c [ArrayRef]) -> &'c ArrayRef {
        &columns[self.argument]
    }
}

impl Distinct {
    /// The state with the values that came and went.
    ///
    /// # Errors
    /// As the function.
    pub fn apply(
        &self,
        argument: &ArrayRef,
        moved: &[Vec<Moved>],
        old: &[ArrayRef],
        values: &mut Values<'_>,
    ) -> Result<Vec<ArrayRef>> {
        let moved = moved.get(self.set).and_then(|set| set.get(self.member));
        let Moved { groups, rows, weights } = moved.ok_or_else(|| bad_layout("distinct values are missing"))?;
        let argument = take(argument, &UInt32Array::from(rows.clone()), None)?;
        self.function.apply(&Rows::new(groups, Some(weights), Some(&argument), None), old, values)
    }
}
