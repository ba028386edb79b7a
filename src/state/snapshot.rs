//! All state as of one committed epoch, for readers that are not the epoch loop.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocksdb::ReadOptions;

use super::TableId;
use super::bounds::Bounds;
use super::bytes::{ByteRows, Found};
use super::failure::from_rocksdb;
use super::scan::Scan;
use super::store::{Store, batch_get};
use super::system::{self, EpochRecord};
use crate::error::{Error, Result, sqlstate};

/// A consistent view of the store at one epoch. Keeps old versions of rows alive, so it should not live long.
pub struct Snapshot {
    /// Borrows from the database in `store`; declared before it, so dropped before it.
    inner: rocksdb::Snapshot<'static>,
    store: Arc<Store>,
    record: EpochRecord,
    bounds: Arc<Bounds>,
    taken: Instant,
}

impl Snapshot {
    pub(super) fn new(store: &Arc<Store>) -> Result<Self> {
        loop {
            // SAFETY: the database lives in the Arc'd store, at an address that does not change, until the last Arc is
            // gone; the snapshot is dropped before the Arc next to it.
            let database: &'static rocksdb::DB = unsafe { &*std::ptr::from_ref(store.database()) };
            let inner = database.snapshot();
            let record = inner
                .get(system::EPOCH.prefix())
                .map_err(|e| from_rocksdb("read the epoch record", e))?
                .ok_or_else(|| system::corrupt("the epoch record"))?;
            let record = EpochRecord::from_bytes(&record)?;
            // Commits may have passed between the two lines above; then the snapshot is old already and is taken again.
            if let Some(bounds) = store.bounds().of(record.epoch) {
                return Ok(Self { inner, store: store.clone(), record, bounds, taken: Instant::now() });
            }
        }
    }

    /// The epoch that it shows.
    pub fn epoch(&self) -> u64 {
        self.record.epoch
    }

    /// The epoch's `now()`, microseconds since 1970, UTC.
    pub fn now_us(&self) -> i64 {
        self.record.now_us
    }

    /// Time since it was taken.
    pub fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    /// Ends a reader that holds on for too long.
    ///
    /// # Errors
    /// 72000 if the snapshot is older than `max`.
    pub fn check_age(&self, max: Duration) -> Result<()> {
        if self.age() <= max {
            return Ok(());
        }
        Err(Error::new(
            sqlstate::SNAPSHOT_TOO_OLD,
            format!("snapshot of epoch {} is older than {} seconds", self.epoch(), max.as_secs()),
        )
        .with_hint("read the result faster, or raise snapshot_max_age"))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// 58030 or XX001 when the disk cannot be read.
    pub fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.bounds.get(&table).is_some_and(|bound| key < bound.as_slice()) {
            return Ok(None);
        }
        self.inner.get(table.store_key(key)).map_err(|e| from_rocksdb("read the state", e))
    }

    /// A named counter, see [`super::State::counter`].
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.get(system::COUNTERS, name.as_bytes())?.map_or(Ok(0), |bytes| system::read_u64(&bytes))
    }

    /// The values of many keys, in any order, some more than once if need be.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn multi_get(&self, table: TableId, keys: &ByteRows) -> Result<Found> {
        let mut found = Found::absent(keys.len());
        let mut order = keys.sort_permutation();
        if let Some(bound) = self.bounds.get(&table) {
            order.retain(|i| keys.get(*i as usize) >= bound.as_slice());
        }
        batch_get(&self.store, &self.read_options(), table, keys, &order, &mut found)?;
        Ok(found)
    }

    /// The rows of a range of keys in order.
    pub fn scan(self: &Arc<Self>, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Scan<'static> {
        let bound = self.bounds.get(&table).map(Vec::as_slice);
        Scan::of_snapshot(self, table, clip(from, bound), to)
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.inner);
        options
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("record", &self.record).field("age", &self.age()).finish_non_exhaustive()
    }
}

/// The start of a range that begins at the table's lower bound or later.
pub(super) fn clip<'k>(from: Bound<&'k [u8]>, bound: Option<&'k [u8]>) -> Bound<&'k [u8]> {
    match (from, bound) {
        (from, None) => from,
        (Bound::Included(key) | Bound::Excluded(key), Some(bound)) if key >= bound => from,
        (_, Some(bound)) => Bound::Included(bound),
    }
}
