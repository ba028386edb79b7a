//! A finished write set: immutable, in key order, with its epoch record and bounds among its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::TableId;
use super::bounds::Bounds;
use super::system::{self, EpochRecord};
use super::write_set::{SortedWrites, WriteSet};

/// The writes of one epoch on their way to disk, shared between the commit and the reads of the next epoch.
#[derive(Debug)]
pub struct FrozenSet {
    pub(super) record: EpochRecord,
    pub(super) tables: BTreeMap<TableId, SortedWrites>,
    pub(super) drops: BTreeSet<u32>,
    /// All bounds as they are once this epoch is committed.
    pub(super) bounds: Arc<Bounds>,
    /// The tables whose bound this epoch moved.
    pub(super) moved: Vec<TableId>,
    bytes: usize,
    is_empty: bool,
}

impl FrozenSet {
    /// Sorts a write set and adds the system's rows about it. `before` are the bounds of the epoch before.
    pub(super) fn new(mut writes: WriteSet, record: EpochRecord, before: &Arc<Bounds>) -> Self {
        let is_empty = writes.tables.is_empty() && writes.drops.is_empty() && writes.bounds.is_empty();
        let bounds = if writes.bounds.is_empty() && writes.drops.is_empty() {
            before.clone()
        } else {
            let mut after = Bounds::clone(before);
            let stored = writes.tables.entry(system::BOUNDS).or_default();
            for table in before.keys().filter(|t| writes.drops.contains(&t.object)) {
                stored.write(&table.prefix(), None);
                after.remove(table);
            }
            for (table, bound) in &writes.bounds {
                stored.write(&table.prefix(), Some(bound));
                after.insert(*table, bound.clone());
            }
            Arc::new(after)
        };
        writes.table(system::EPOCH).write(&[], Some(&record.to_bytes()));
        let mut tables: BTreeMap<TableId, SortedWrites> = BTreeMap::new();
        for (table, unsorted) in writes.tables {
            let mut sorted = unsorted.into_sorted();
            if let Some(bound) = bounds.get(&table) {
                sorted.clip_below(bound);
            }
            if sorted.len() > 0 {
                tables.insert(table, sorted);
            }
        }
        Self {
            record,
            bytes: tables.values().map(SortedWrites::bytes).sum(),
            tables,
            drops: writes.drops,
            bounds,
            moved: writes.bounds.into_keys().collect(),
            is_empty,
        }
    }

    /// Number of the epoch.
    pub fn epoch(&self) -> u64 {
        self.record.epoch
    }

    /// The epoch's `now()`, microseconds since 1970, UTC.
    pub fn now_us(&self) -> i64 {
        self.record.now_us
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it says nothing but that the epoch was.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }
}
