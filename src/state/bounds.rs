//! Lower bounds: below its bound a table is empty, at once for readers and in time on disk.
//!
//! Closing a window moves the bound of the window's table. Readers clip to the bound of their epoch; the rows themselves go
//! when a compaction meets them, or whole files at a time. Compaction does not ask snapshots, so rows below a newer bound
//! may vanish under an older snapshot: bounds are for internal state only.
//!
//! The values of a table may begin with the moment until which they are needed; a bound of these moments lets compactions
//! drop what is older, wherever its keys lie. Readers are not clipped: who sets such a bound does not ask for older rows.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::Arc;

use parking_lot::RwLock;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use super::TableId;

/// The lower bound of each table that has one. A version is immutable and belongs to one epoch.
pub(super) type Bounds = BTreeMap<TableId, Vec<u8>>;

/// The bounds of the last committed epoch, shared with compactions, and those of the epoch being written.
#[derive(Debug, Default)]
pub(super) struct SharedBounds {
    versions: RwLock<Versions>,
}

#[derive(Debug, Default)]
struct Versions {
    epoch: u64,
    committed: Arc<Bounds>,
    /// Set while a commit writes: a snapshot taken meanwhile may see its epoch or the one before.
    writing: Option<(u64, Arc<Bounds>)>,
}

impl SharedBounds {
    /// Announces the bounds of an epoch about to be written.
    pub(super) fn begin(&self, epoch: u64, bounds: Arc<Bounds>) {
        self.versions.write().writing = Some((epoch, bounds));
    }

    /// The announced epoch is written. Returns the bounds that it replaced.
    pub(super) fn committed(&self) -> Arc<Bounds> {
        let mut versions = self.versions.write();
        match versions.writing.take() {
            Some((epoch, bounds)) => {
                versions.epoch = epoch;
                std::mem::replace(&mut versions.committed, bounds)
            }
            None => versions.committed.clone(),
        }
    }

    /// The bounds as of an epoch; `None` if it is neither the committed nor the one being written.
    pub(super) fn of(&self, epoch: u64) -> Option<Arc<Bounds>> {
        let versions = self.versions.read();
        match &versions.writing {
            Some((writing, bounds)) if *writing == epoch => Some(bounds.clone()),
            _ => (versions.epoch == epoch).then(|| versions.committed.clone()),
        }
    }

    /// The bounds of the last committed epoch.
    pub(super) fn current(&self) -> Arc<Bounds> {
        self.versions.read().committed.clone()
    }
}

/// Makes the filter of each compaction with the bounds as they are when it starts: they only grow, and the files of a
/// table that was dropped and filled again are not among those of a compaction that started before.
pub(super) struct FilterFactory(pub Arc<SharedBounds>);

impl CompactionFilterFactory for FilterFactory {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        Filter { bounds: self.0.current(), last: None }
    }

    fn name(&self) -> &CStr {
        c"millstream.bounds"
    }
}

/// Drops keys below the bound of their table, and values below that of its moments.
pub(super) struct Filter {
    bounds: Arc<Bounds>,
    /// The table of the last key and its bounds: keys come in order.
    last: Option<(TableId, TableBounds)>,
}

#[derive(Default)]
struct TableBounds {
    keys: Option<Vec<u8>>,
    moments: Option<Vec<u8>>,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _: u32, store_key: &[u8], value: &[u8]) -> Decision {
        if self.bounds.is_empty() {
            return Decision::Keep;
        }
        let Some((table, key)) = TableId::split(store_key) else { return Decision::Keep };
        if self.last.as_ref().is_none_or(|(last, _)| *last != table) {
            let of = |table| self.bounds.get(&table).cloned();
            self.last = Some((table, TableBounds { keys: of(table), moments: of(table.moments()) }));
        }
        let Some((_, TableBounds { keys, moments })) = &self.last else { return Decision::Keep };
        let is_below = |bytes: &[u8], bound: &Option<Vec<u8>>| bound.as_ref().is_some_and(|b| bytes < b.as_slice());
        match is_below(key, keys) || is_below(value, moments) {
            true => Decision::Remove,
            false => Decision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"millstream.bounds"
    }
}
