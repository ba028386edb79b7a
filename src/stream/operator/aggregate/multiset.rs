//! The values of the groups with their counts, in one table for all functions of an operator that need them.
//!
//! Key: group key, number of the aggregate, value key. Value: count, then whatever the function keeps of the value.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::rows::Rows;
use crate::error::{Error, Result, sqlstate};
use crate::state::{ByteRows, State};
use crate::stream::cached::CachedTable;

/// How the count of a value in a group changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub group: usize,
    /// A row that has the value.
    pub row: usize,
    pub before: i64,
    pub after: i64,
}

impl Change {
    /// Whether the value came to the group or left it.
    pub fn comes_or_goes(&self) -> bool {
        (self.before > 0) != (self.after > 0)
    }
}

/// The functions' table of values, as one of them sees it.
pub(super) struct Values<'a> {
    pub table: &'a mut CachedTable,
    pub state: &'a mut State,
    /// Keys of the groups.
    pub groups: &'a ByteRows,
}

impl Values<'_> {
    /// Takes rows into the values of an aggregate. `keys` has the value key of each row of the batch; `kept` what is
    /// stored with it beside its count. Returns the net changes, each value of a group once.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn count<'k>(
        &mut self,
        ordinal: u16,
        rows: &Rows<'_>,
        keys: &ByteRows,
        kept: impl Fn(usize) -> &'k [u8],
    ) -> Result<Vec<Change>> {
        let net = net_changes(rows, keys);
        let found: Vec<(u32, u32)> = net.iter().map(|(group, row, _)| (*group, *row)).collect();
        let stored_keys = self.keys_of(ordinal, &found, keys);
        let counts = self.table.get_many(self.state, &stored_keys)?;
        let mut changes = Vec::with_capacity(net.len());
        let mut encoded = ByteRows::with_capacity(net.len(), net.len() * 8);
        for ((group, row, weight), stored) in net.into_iter().zip(counts.iter()) {
            let before = stored.map_or(Ok(0), count_of)?;
            let after = before.checked_add(weight).ok_or_else(too_many)?;
            encoded.push_pair(&after.to_le_bytes(), kept(row as usize));
            changes.push(Change { group: group as usize, row: row as usize, before, after });
        }
        self.table.write_many(self.state, &stored_keys, |i| (changes[i].after != 0).then(|| encoded.get(i)));
        Ok(changes)
    }

    /// The keys of values of an aggregate, given by group and a row that has the value.
    pub fn keys_of(&self, ordinal: u16, values: &[(u32, u32)], keys: &ByteRows) -> ByteRows {
        let mut stored_keys = ByteRows::with_capacity(values.len(), 0);
        let mut prefix = Vec::new();
        for (group, row) in values {
            self.prefix(*group as usize, ordinal, &mut prefix);
            stored_keys.push_pair(&prefix, keys.get(*row as usize));
        }
        stored_keys
    }

    /// What the keys of a group's values of an aggregate start with.
    pub fn prefix(&self, group: usize, ordinal: u16, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(self.groups.get(group));
        out.extend_from_slice(&ordinal.to_be_bytes());
    }
}

/// Numbers the values of the groups by their first appearance and calls `f` with the number of its value, the row, and its
/// weight for each row. Returns group and first row of each value.
pub(super) fn each_value(rows: &Rows<'_>, keys: &ByteRows, mut f: impl FnMut(usize, usize, i64)) -> Vec<(u32, u32)> {
    let hasher = FixedState::default();
    let mut index: HashTable<u32> = HashTable::new();
    let mut values: Vec<(u32, u32)> = Vec::new();
    let hash = |group: u32, value: &[u8]| hasher.hash_one((group, value));
    rows.each(|row, group, weight| {
        let (group, value) = (group as u32, keys.get(row));
        let entry = index.entry(
            hash(group, value),
            |i| {
                let (other_group, other_row) = values[*i as usize];
                other_group == group && keys.get(other_row as usize) == value
            },
            |i| hash(values[*i as usize].0, keys.get(values[*i as usize].1 as usize)),
        );
        let number = match entry {
            Entry::Occupied(slot) => *slot.get() as usize,
            Entry::Vacant(slot) => {
                slot.insert(values.len() as u32);
                values.push((group, row as u32));
                values.len() - 1
            }
        };
        f(number, row, weight);
    });
    values
}

/// Group, a row, and net weight of each value of each group.
fn net_changes(rows: &Rows<'_>, keys: &ByteRows) -> Vec<(u32, u32, i64)> {
    let mut net: Vec<i64> = Vec::new();
    let values = each_value(rows, keys, |value, _, weight| {
        net.resize(net.len().max(value + 1), 0);
        net[value] = net[value].saturating_add(weight);
    });
    let changes = values.into_iter().zip(net).map(|((group, row), weight)| (group, row, weight));
    changes.filter(|(_, _, weight)| *weight != 0).collect()
}

/// The count at the start of a stored value.
pub(super) fn count_of(bytes: &[u8]) -> Result<i64> {
    let (count, _) = bytes.split_first_chunk::<8>().ok_or_else(|| {
        Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: a count of values is not eight bytes")
    })?;
    Ok(i64::from_le_bytes(*count))
}

fn too_many() -> Error {
    Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, "a value is in a group more often than can be counted")
}
