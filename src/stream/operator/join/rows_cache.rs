//! The rows of a join side by join key: a multimap table behind a cache of its hot keys' rows.
//!
//! As in [`crate::stream::cached`] there are two generations, and a table that was empty when first looked at and of which
//! nothing was dropped is complete, so that a key without rows costs no scan. A key with very many rows is not cached: it
//! is read from the store each time.

use std::ops::Bound;

use hashbrown::HashMap;

use crate::error::Result;
use crate::state::{ByteRows, Level, State, TableId, successor};
use crate::stream::cache_budget::Share;

/// Bytes of rows of one key above which it is not cached.
const KEY_BYTES_MAX: usize = 64 << 10;
/// What an entry costs beside its bytes, roughly.
const ENTRY_OVERHEAD: usize = 96;

/// A multimap table: (join key, row key) -> row.
#[derive(Debug)]
pub(super) struct RowsCache {
    table: TableId,
    share: Share,
    young: Generation,
    old: Generation,
    coverage: Coverage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coverage {
    Unknown,
    Complete,
    Partial,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Box<[u8]>, Entry, foldhash::fast::FixedState>,
    bytes: usize,
}

#[derive(Debug)]
enum Entry {
    /// All rows of the key.
    Rows(Packed),
    /// Too many to be kept.
    Large,
}

/// Rows one after the other: length of row key and of value (u32 each), row key, value.
#[derive(Debug, Default)]
struct Packed(Vec<u8>);

impl Packed {
    fn push(&mut self, row_key: &[u8], value: &[u8]) {
        self.0.extend_from_slice(&(row_key.len() as u32).to_le_bytes());
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(row_key);
        self.0.extend_from_slice(value);
    }

    /// Offset, end, row key and value of each row.
    fn iter(&self) -> impl Iterator<Item = (usize, usize, &[u8], &[u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (key_len, rest) = self.0[at..].split_first_chunk::<4>()?;
            let (value_len, rest) = rest.split_first_chunk::<4>()?;
            let (row_key, rest) = rest.split_at(u32::from_le_bytes(*key_len) as usize);
            let value = &rest[..u32::from_le_bytes(*value_len) as usize];
            let start = at;
            at += 8 + row_key.len() + value.len();
            Some((start, at, row_key, value))
        })
    }

    fn remove(&mut self, row_key: &[u8]) {
        let found = self.iter().find(|(_, _, k, _)| *k == row_key).map(|(start, end, _, _)| start..end);
        if let Some(range) = found {
            self.0.drain(range);
        }
    }
}

/// A row to be written, or taken out where there is no value.
pub(super) struct RowWrite<'a> {
    pub join_key: &'a [u8],
    pub row_key: &'a [u8],
    pub value: Option<&'a [u8]>,
    /// Whether the row key cannot be there yet.
    pub fresh: bool,
}

impl RowsCache {
    pub fn new(table: TableId, share: Share) -> Self {
        Self { table, share, young: Generation::default(), old: Generation::default(), coverage: Coverage::Unknown }
    }

    pub fn table(&self) -> TableId {
        self.table
    }

    /// Calls `f` with the row key and the value of each row of a join key.
    ///
    /// # Errors
    /// When the store cannot be read, or as `f`.
    pub fn each(
        &mut self,
        state: &State,
        join_key: &[u8],
        mut f: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.look_at_store(state)?;
        self.make_young(join_key);
        match self.young.entries.get(join_key) {
            Some(Entry::Rows(rows)) => return rows.iter().try_for_each(|(_, _, row_key, value)| f(row_key, value)),
            None if self.coverage == Coverage::Complete => return Ok(()),
            Some(Entry::Large) | None => {}
        }
        let known_large = self.young.entries.contains_key(join_key);
        let mut rows = (!known_large).then(Packed::default);
        let end = successor(join_key);
        let mut scan = state.scan(self.table, Bound::Included(join_key), end.as_ref().map(Vec::as_slice), Level::Open);
        while let Some((key, value)) = scan.next_row()? {
            f(&key[join_key.len()..], value)?;
            if let Some(packed) = &mut rows {
                packed.push(&key[join_key.len()..], value);
                if packed.0.len() > KEY_BYTES_MAX {
                    rows = None;
                }
            }
        }
        if !known_large {
            self.young.insert(join_key, rows.map_or(Entry::Large, Entry::Rows));
        }
        Ok(())
    }

    /// Writes rows to the store and to what the cache has of their keys; the last of those with equal keys counts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn write<'a>(&mut self, state: &mut State, rows: impl Iterator<Item = RowWrite<'a>> + Clone) -> Result<()> {
        self.look_at_store(state)?;
        let mut keys = ByteRows::new();
        let mut values: Vec<Option<&[u8]>> = Vec::new();
        for row in rows.clone() {
            keys.push_pair(row.join_key, row.row_key);
            values.push(row.value);
        }
        state.write_batch(self.table, &keys, |i| values[i]);
        for row in rows {
            self.write_cached(&row);
        }
        Ok(())
    }

    fn write_cached(&mut self, row: &RowWrite<'_>) {
        self.make_young(row.join_key);
        let Some(entry) = self.young.entries.get_mut(row.join_key) else {
            if let (Coverage::Complete, Some(value)) = (self.coverage, row.value) {
                let mut packed = Packed::default();
                packed.push(row.row_key, value);
                self.young.insert(row.join_key, Entry::Rows(packed));
            }
            return;
        };
        let Entry::Rows(packed) = entry else { return };
        let before = packed.0.len();
        if !row.fresh {
            packed.remove(row.row_key);
        }
        if let Some(value) = row.value {
            packed.push(row.row_key, value);
        }
        let after = packed.0.len();
        if after > KEY_BYTES_MAX {
            *entry = Entry::Large;
        }
        self.young.bytes = (self.young.bytes + after).saturating_sub(before);
    }

    /// Brings the cache back under its budget. To be called when an epoch's work on the table is done.
    pub fn end_epoch(&mut self) {
        if self.young.bytes > self.share.bytes() / 2 {
            if !self.old.entries.is_empty() {
                self.coverage = Coverage::Partial;
            }
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// Forgets all that is not in the store.
    pub fn reset(&mut self) {
        self.young = Generation::default();
        self.old = Generation::default();
        self.coverage = Coverage::Unknown;
    }

    fn make_young(&mut self, join_key: &[u8]) {
        if let Some((key, entry)) = self.old.entries.remove_entry(join_key) {
            self.young.bytes += entry.bytes(&key);
            self.young.entries.insert(key, entry);
        }
    }

    fn look_at_store(&mut self, state: &State) -> Result<()> {
        if self.coverage == Coverage::Unknown {
            self.share.take();
            let mut rows = state.scan(self.table, Bound::Unbounded, Bound::Unbounded, Level::Open);
            self.coverage = if rows.next_row()?.is_none() { Coverage::Complete } else { Coverage::Partial };
        }
        Ok(())
    }
}

impl Generation {
    fn insert(&mut self, join_key: &[u8], entry: Entry) {
        self.bytes += entry.bytes(join_key);
        self.entries.insert(join_key.into(), entry);
    }
}

impl Entry {
    fn bytes(&self, join_key: &[u8]) -> usize {
        let rows = if let Self::Rows(packed) = self { packed.0.len() } else { 0 };
        join_key.len() + rows + ENTRY_OVERHEAD
    }
}
