//! How the epoch loop sees the state: its own writes over those being committed over RocksDB.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use rocksdb::ReadOptions;

use super::TableId;
use super::bounds::Bounds;
use super::bytes::{ByteRows, Found};
use super::frozen::FrozenSet;
use super::scan::Scan;
use super::segments::Tail;
use super::snapshot::clip;
use super::store::{Store, batch_get};
use super::system::{self, EpochRecord};
use super::write_set::{Finder, SortedWrites, TableWrites, WriteSet};
use crate::error::{Error, Result};

/// Which writes a scan sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All, those of the open epoch included.
    Open,
    /// Those of the epochs before: what will be committed when the open epoch begins to commit.
    Committing,
}

/// The state with the writes of the open epoch, which only their maker sees.
///
/// There is one, and its writes are taken in epochs: [`State::freeze`], [`Store::commit`] on another thread,
/// [`State::committed`]. Meanwhile the next epoch reads and writes on. Reads need only `&State` and may run in parallel.
#[derive(Debug)]
pub struct State {
    store: Arc<Store>,
    /// Bounds of the last epoch that [`State::committed`] was told of.
    base_bounds: Arc<Bounds>,
    frozen: Option<Arc<FrozenSet>>,
    open: WriteSet,
    /// What the open epoch wrote before it was forked: in a fork that it reads through, in its origin until they are joined.
    forked: Option<Arc<WriteSet>>,
    record: EpochRecord,
    /// Small segments that may be merged, by segment table appended to since the start.
    tails: HashMap<TableId, Tail>,
}

/// What a layer of writes says of a key.
enum Layer<'a> {
    Written(Option<&'a [u8]>),
    /// Nothing, and no older layer counts.
    Ends,
    /// Nothing: ask the next.
    Through,
}

impl State {
    /// The state as of the last committed epoch, with nothing written yet.
    pub fn new(store: Arc<Store>) -> Self {
        let base_bounds = store.bounds().current();
        let record = EpochRecord { epoch: store.epoch() + 1, now_us: 0 };
        let open = WriteSet::default();
        Self { store, base_bounds, frozen: None, open, forked: None, record, tails: HashMap::new() }
    }

    /// A state for a part of the open epoch's work that runs beside others: it sees what the epoch has written so far and
    /// what it writes itself. No two forks may write the same key, and the origin may not be used until [`State::join`]
    /// has taken them back.
    pub fn fork(&mut self) -> Self {
        let forked = self.forked.get_or_insert_with(|| Arc::new(std::mem::take(&mut self.open)));
        Self {
            store: self.store.clone(),
            base_bounds: self.base_bounds.clone(),
            frozen: self.frozen.clone(),
            open: WriteSet::default(),
            forked: Some(forked.clone()),
            record: self.record,
            tails: HashMap::new(),
        }
    }

    /// Takes over what forks have written, all that there are.
    pub fn join(&mut self, forks: Vec<Self>) {
        let written: Vec<WriteSet> = forks.into_iter().map(|fork| fork.open).collect();
        if let Some(forked) = self.forked.take() {
            // The forks are gone, so nobody else has it.
            self.open = Arc::into_inner(forked).unwrap_or_default();
        }
        written.into_iter().for_each(|writes| self.open.absorb(writes));
    }

    /// What the open epoch has written, newest first.
    fn open_layers(&self) -> impl Iterator<Item = &WriteSet> {
        std::iter::once(&self.open).chain(self.forked.as_deref())
    }

    /// The same as far as a table is concerned: nothing behind what drops it.
    fn open_layers_of(&self, table: TableId) -> (impl Iterator<Item = &WriteSet>, bool) {
        let dropped = self.open_layers().position(|layer| layer.drops.contains(&table.object));
        (self.open_layers().take(dropped.map_or(2, |at| at + 1)), dropped.is_some())
    }

    /// The store underneath.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Number of the open epoch.
    pub fn epoch(&self) -> u64 {
        self.record.epoch
    }

    /// Sets the open epoch's `now()`, microseconds since 1970, UTC.
    pub fn stamp(&mut self, now_us: i64) {
        self.record.now_us = now_us;
    }

    /// The open epoch's `now()`.
    pub fn now_us(&self) -> i64 {
        self.record.now_us
    }

    /// The value of a key.
    ///
    /// # Errors
    /// 58030 or XX001 when the disk cannot be read.
    pub fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.bound(table, Level::Open).is_some_and(|bound| key < bound) {
            return Ok(None);
        }
        match self.written(table, key) {
            Layer::Written(value) => Ok(value.map(<[u8]>::to_vec)),
            Layer::Ends => Ok(None),
            Layer::Through => self.store.get(table, key),
        }
    }

    /// The values of many keys, in any order, some more than once if need be.
    ///
    /// # Errors
    /// As [`State::get`].
    pub fn multi_get(&self, table: TableId, keys: &ByteRows) -> Result<Found> {
        let mut found = Found::absent(keys.len());
        let mut order = keys.sort_permutation();
        if let Some(bound) = self.bound(table, Level::Open) {
            order.retain(|i| keys.get(*i as usize) >= bound);
        }
        let (layers, open_drops) = self.open_layers_of(table);
        let frozen = self.frozen.as_ref().filter(|_| !open_drops);
        let mut in_open: Vec<Finder<'_>> =
            layers.filter_map(|layer| layer.tables.get(&table)).map(TableWrites::finder).collect();
        let mut in_frozen = frozen.and_then(|f| f.tables.get(&table)).map(SortedWrites::finder).unwrap_or_default();
        let in_base = !open_drops && frozen.is_none_or(|f| !f.drops.contains(&table.object));
        order.retain(|i| {
            let key = keys.get(*i as usize);
            match in_open.iter_mut().find_map(|finder| finder.get(key)).or_else(|| in_frozen.get(key)) {
                Some(value) => {
                    if let Some(value) = value {
                        found.set(*i as usize, value);
                    }
                    false
                }
                None => in_base,
            }
        });
        batch_get(&self.store, &ReadOptions::default(), table, keys, &order, &mut found)?;
        Ok(found)
    }

    /// The rows of a range of keys in order.
    pub fn scan(&self, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>, level: Level) -> Scan<'_> {
        let from = clip(from, self.bound(table, level));
        let mut runs = Vec::new();
        let mut below = true;
        if level == Level::Open {
            let (layers, dropped) = self.open_layers_of(table);
            for writes in layers.filter_map(|layer| layer.tables.get(&table)) {
                runs.extend(writes.cursors(from, to));
            }
            below = !dropped;
        }
        if below && let Some(frozen) = &self.frozen {
            if let Some(writes) = frozen.tables.get(&table) {
                runs.push(writes.cursor(from, to));
            }
            below = !frozen.drops.contains(&table.object);
        }
        runs.retain(|run| run.key().is_some());
        Scan::of_layers(runs, below.then_some(&self.store), table, from, to)
    }

    /// Writes one row.
    pub fn put(&mut self, table: TableId, key: &[u8], value: &[u8]) {
        self.open.table(table).write(key, Some(value));
    }

    /// Deletes one row, which need not exist.
    pub fn delete(&mut self, table: TableId, key: &[u8]) {
        self.open.table(table).write(key, None);
    }

    /// Writes a row for each key; of equal keys the last counts.
    ///
    /// # Panics
    /// If there are fewer values than keys.
    pub fn put_batch(&mut self, table: TableId, keys: &ByteRows, values: &ByteRows) {
        self.write_batch(table, keys, |i| Some(values.get(i)));
    }

    /// Deletes a row for each key.
    pub fn delete_batch(&mut self, table: TableId, keys: &ByteRows) {
        self.write_batch(table, keys, |_| None);
    }

    /// Writes the row `value(i)` for key `i`, or deletes it where that is `None`; of equal keys the last counts.
    pub fn write_batch<'v>(&mut self, table: TableId, keys: &ByteRows, value: impl Fn(usize) -> Option<&'v [u8]>) {
        if !keys.is_empty() {
            self.open.table(table).write_batch(keys, value);
        }
    }

    /// Empties a table below a key, for good: rows there are invisible from now on, also ones written later. Only for
    /// tables that no [`super::Snapshot`] of an older epoch is read through.
    pub fn truncate_below(&mut self, table: TableId, key: &[u8]) {
        if self.bound(table, Level::Open).is_none_or(|bound| bound < key) {
            self.open.bounds.insert(table, key.to_vec());
        }
    }

    /// Lets go of the rows whose value begins with an earlier moment, when a compaction meets them. Until then they can
    /// still be read.
    pub fn forget_before(&mut self, table: TableId, moment: &[u8; 8]) {
        self.truncate_below(table.moments(), moment);
    }

    /// Drops all state of an object, bounds included. What is written to it afterwards stays.
    pub fn drop_object(&mut self, object: u32) {
        debug_assert_ne!(object, 0, "the system's state cannot be dropped");
        self.discard(object);
        self.open.drops.insert(object);
    }

    /// Forgets what the open epoch wrote to an object.
    pub fn discard(&mut self, object: u32) {
        self.open.forget(object);
        self.tails.retain(|table, _| table.object != object);
    }

    /// Memory that the open epoch's writes take.
    pub fn bytes(&self) -> usize {
        self.open.bytes()
    }

    /// Ends the open epoch and begins the next one. The result is to be given to [`Store::commit`].
    ///
    /// # Errors
    /// XX000 if the last frozen epoch is not committed yet.
    pub fn freeze(&mut self) -> Result<Arc<FrozenSet>> {
        if let Some(frozen) = &self.frozen {
            return Err(Error::internal(format!("epoch {} is still being committed", frozen.epoch())));
        }
        let frozen = Arc::new(FrozenSet::new(std::mem::take(&mut self.open), self.record, &self.base_bounds));
        self.frozen = Some(frozen.clone());
        self.record.epoch += 1;
        Ok(frozen)
    }

    /// The frozen epoch, if there is one.
    pub fn frozen(&self) -> Option<&Arc<FrozenSet>> {
        self.frozen.as_ref()
    }

    /// The frozen epoch is committed: from now on it is read from RocksDB.
    pub fn committed(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            debug_assert!(self.store.epoch() >= frozen.epoch(), "the frozen epoch is not committed");
            self.base_bounds = frozen.bounds.clone();
        }
    }

    /// Forgets the open and the frozen epoch: the state is again as of the last committed one.
    pub fn rollback(&mut self) {
        self.frozen = None;
        self.open = WriteSet::default();
        self.forked = None;
        self.tails.clear();
        self.base_bounds = self.store.bounds().current();
        self.record.epoch = self.store.epoch() + 1;
    }

    /// A named counter; 0 before it was first set.
    ///
    /// # Errors
    /// As [`State::get`].
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.get(system::COUNTERS, name.as_bytes())?.map_or(Ok(0), |bytes| system::read_u64(&bytes))
    }

    /// Sets a named counter.
    pub fn set_counter(&mut self, name: &str, value: u64) {
        self.put(system::COUNTERS, name.as_bytes(), &value.to_be_bytes());
    }

    /// Rows that the open epoch appended to a segment table.
    pub(super) fn ordinal_mut(&mut self, table: TableId) -> &mut u32 {
        self.open.ordinals.entry(table).or_default()
    }

    /// What is known of the end of a segment table; to be put back, unless it is in doubt.
    pub(super) fn take_tail(&mut self, table: TableId) -> Tail {
        self.tails.remove(&table).unwrap_or_default()
    }

    pub(super) fn put_tail(&mut self, table: TableId, tail: Tail) {
        self.tails.insert(table, tail);
    }

    fn written(&self, table: TableId, key: &[u8]) -> Layer<'_> {
        let (mut layers, dropped) = self.open_layers_of(table);
        if let Some(value) = layers.find_map(|layer| layer.tables.get(&table)?.get(key)) {
            return Layer::Written(value);
        }
        if dropped {
            return Layer::Ends;
        }
        let Some(frozen) = &self.frozen else { return Layer::Through };
        if let Some(value) = frozen.tables.get(&table).and_then(|writes| writes.get(key)) {
            return Layer::Written(value);
        }
        if frozen.drops.contains(&table.object) { Layer::Ends } else { Layer::Through }
    }

    fn bound(&self, table: TableId, level: Level) -> Option<&[u8]> {
        if level == Level::Open {
            let (mut layers, dropped) = self.open_layers_of(table);
            if let Some(bound) = layers.find_map(|layer| layer.bounds.get(&table)) {
                return Some(bound);
            }
            if dropped {
                return None;
            }
        }
        let bounds = self.frozen.as_ref().map_or(&self.base_bounds, |frozen| &frozen.bounds);
        bounds.get(&table).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests;
