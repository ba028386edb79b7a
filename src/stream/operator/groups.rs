//! Which rows of an epoch belong to which group: dense group numbers by key bytes.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::state::ByteRows;

/// The groups that an epoch's rows fall into, numbered by first appearance.
pub(super) struct Groups {
    /// Group of each row.
    pub of_row: Vec<u32>,
    /// Key of each group.
    pub keys: ByteRows,
    /// A row of each group; empty for the one group of an aggregate without group columns.
    pub first_row: Vec<u32>,
}

impl Groups {
    /// Groups of rows with these keys.
    pub fn assign(row_keys: &ByteRows) -> Self {
        let hasher = FixedState::default();
        let mut index: HashTable<u32> = HashTable::new();
        let mut groups =
            Self { of_row: Vec::with_capacity(row_keys.len()), keys: ByteRows::new(), first_row: Vec::new() };
        for (row, key) in row_keys.iter().enumerate() {
            let keys = &groups.keys;
            let entry = index.entry(
                hasher.hash_one(key),
                |group| keys.get(*group as usize) == key,
                |group| hasher.hash_one(keys.get(*group as usize)),
            );
            let group = match entry {
                Entry::Occupied(slot) => *slot.get(),
                Entry::Vacant(slot) => {
                    let group = groups.first_row.len() as u32;
                    slot.insert(group);
                    groups.keys.push(key);
                    groups.first_row.push(row as u32);
                    group
                }
            };
            groups.of_row.push(group);
        }
        groups
    }

    /// All rows in one group with an empty key, which exists without rows too.
    pub fn single(rows: usize) -> Self {
        let mut keys = ByteRows::new();
        keys.push(&[]);
        Self { of_row: vec![0; rows], keys, first_row: Vec::new() }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}
