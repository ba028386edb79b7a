//! Rows of a table in key order, merged from the write sets in memory and RocksDB.

use std::ops::Bound;
use std::sync::Arc;

use rocksdb::{DBRawIterator, ReadOptions};

use super::bytes::ByteRows;
use super::failure::from_rocksdb;
use super::snapshot::Snapshot;
use super::store::Store;
use super::write_set::RunCursor;
use super::{PREFIX_LEN, TableId};
use crate::error::Result;

/// A walk over part of a table in key order. Keys come without the table's prefix; nothing is decoded.
///
/// As an [`Iterator`] it copies each row; [`Scan::next_row`] lends it, [`Scan::fill`] collects many.
pub struct Scan<'a> {
    /// Writes that are not in RocksDB yet, newest first.
    runs: Vec<RunCursor<'a>>,
    base: Option<Base>,
    /// Whether the base stands at a row that was handed out already.
    base_taken: bool,
}

/// An iterator of RocksDB together with what it reads from.
struct Base {
    /// Borrows from the database in `_keep`; declared before it, so dropped before it.
    iterator: DBRawIterator<'static>,
    _keep: Keep,
}

/// What must outlive an iterator.
#[expect(dead_code, reason = "held only so that the database and its snapshot outlive the iterator")]
pub(super) enum Keep {
    Store(Arc<Store>),
    Snapshot(Arc<Snapshot>),
}

impl Base {
    /// Starts an iterator over part of a table, in RocksDB as `options` says.
    fn new(
        store: &Arc<Store>,
        keep: Keep,
        mut options: ReadOptions,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Self {
        options.set_iterate_upper_bound(match to {
            Bound::Included(key) => {
                let mut end = table.store_key(key);
                end.push(0);
                end
            }
            Bound::Excluded(key) => table.store_key(key),
            Bound::Unbounded => table.end(),
        });
        // SAFETY: the database lives in the Arc'd store, at an address that does not change, until the last Arc is gone;
        // `keep` is or holds such an Arc and is dropped after the iterator.
        let database: &'static rocksdb::DB = unsafe { &*std::ptr::from_ref(store.database()) };
        let mut iterator = database.raw_iterator_opt(options);
        match from {
            Bound::Included(key) => iterator.seek(table.store_key(key)),
            Bound::Excluded(key) => {
                let mut start = table.store_key(key);
                start.push(0);
                iterator.seek(start);
            }
            Bound::Unbounded => iterator.seek(table.prefix()),
        }
        Self { iterator, _keep: keep }
    }

    fn key(&self) -> Option<&[u8]> {
        self.iterator.key().map(|key| &key[PREFIX_LEN..])
    }
}

impl Scan<'static> {
    /// Rows of one snapshot.
    pub(super) fn of_snapshot(snapshot: &Arc<Snapshot>, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Self {
        let base = (!is_empty(from, to)).then(|| {
            let keep = Keep::Snapshot(snapshot.clone());
            Base::new(snapshot.store(), keep, snapshot.read_options(), table, from, to)
        });
        Self { runs: Vec::new(), base, base_taken: false }
    }
}

impl<'a> Scan<'a> {
    /// Rows of RocksDB as it is now, if `store` is given, under `runs`.
    pub(super) fn of_layers(
        runs: Vec<RunCursor<'a>>,
        store: Option<&Arc<Store>>,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Self {
        let base = store
            .filter(|_| !is_empty(from, to))
            .map(|store| Base::new(store, Keep::Store(store.clone()), ReadOptions::default(), table, from, to));
        Self { runs, base, base_taken: false }
    }

    /// The next row, until the one after it is asked for.
    ///
    /// # Errors
    /// 58030 or XX001 when the disk cannot be read.
    pub fn next_row(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        loop {
            if self.base_taken {
                self.base_taken = false;
                if let Some(base) = &mut self.base {
                    base.iterator.next();
                }
            }
            let mut first: Option<(usize, &'a [u8])> = None;
            for (i, run) in self.runs.iter().enumerate() {
                if let Some(key) = run.key()
                    && first.is_none_or(|(_, least)| key < least)
                {
                    first = Some((i, key));
                }
            }
            let base_key = match &self.base {
                Some(base) => match base.key() {
                    Some(key) => Some(key),
                    None => {
                        base.iterator.status().map_err(|e| from_rocksdb("read the state", e))?;
                        None
                    }
                },
                None => None,
            };
            let Some((run, key)) = first else {
                self.base_taken = base_key.is_some();
                return Ok(self.base_row());
            };
            match base_key {
                Some(base_key) if base_key < key => {
                    self.base_taken = true;
                    return Ok(self.base_row());
                }
                Some(base_key) if base_key == key => self.base_taken = true,
                _ => {}
            }
            let value = self.runs[run].value();
            for run in &mut self.runs[run..] {
                if run.key() == Some(key) {
                    run.advance();
                }
            }
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
        }
    }

    /// The row that the base stands at.
    fn base_row(&self) -> Option<(&[u8], &[u8])> {
        let (key, value) = self.base.as_ref()?.iterator.item()?;
        Some((&key[PREFIX_LEN..], value))
    }

    /// Appends up to `rows_max` rows and returns how many; fewer than that only at the end.
    ///
    /// # Errors
    /// As [`Scan::next_row`].
    pub fn fill(&mut self, keys: &mut ByteRows, values: &mut ByteRows, rows_max: usize) -> Result<usize> {
        for rows in 0..rows_max {
            match self.next_row() {
                Ok(Some((key, value))) => {
                    keys.push(key);
                    values.push(value);
                }
                Ok(None) => return Ok(rows),
                Err(e) => {
                    self.end();
                    return Err(e);
                }
            }
        }
        Ok(rows_max)
    }

    /// Gives no more rows.
    fn end(&mut self) {
        self.base = None;
        self.runs.clear();
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_row() {
            Ok(Some((key, value))) => Some(Ok((key.to_vec(), value.to_vec()))),
            Ok(None) => None,
            Err(e) => {
                self.end();
                Some(Err(e))
            }
        }
    }
}

/// Whether no key lies in the range; RocksDB wants its bounds in order.
fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}
