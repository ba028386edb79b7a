//! The rows of a join side by join key: a multimap table behind a cache of its hot keys' rows.
//!
//! As in [`crate::stream::cached`] there are two generations, and a table that was empty when first looked at and of which
//! nothing that is still needed was dropped is complete, so that a key without rows costs no scan. A key with very many rows is not cached: it
//! is read from the store each time.
//!
//! Row keys may begin with the moment until which the row is needed: those that are needed no more are passed over.

use std::hash::BuildHasher;
use std::ops::Bound;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use crate::error::Result;
use crate::state::{ByteRows, Level, State, TableId, successor};
use crate::stream::cache_budget::Share;
use crate::stream::operator::waiting::MOMENT_BYTES;

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
    /// The least moment that the row keys of rows which are still needed begin with.
    needed_from: Option<[u8; MOMENT_BYTES]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coverage {
    Unknown,
    Complete,
    Partial,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Box<[u8]>, Entry, FixedState>,
    bytes: usize,
    /// No row of it is needed after this moment, if row keys begin with one.
    needed_until: [u8; MOMENT_BYTES],
}

#[derive(Debug)]
enum Entry {
    /// All rows of the key.
    Rows(Packed),
    /// Too many to be kept.
    Large,
}

/// Rows one after the other: length of row key and of value (u32 each, the latter with [`GONE`] of a row that is out), row
/// key, value. Many rows have an index, once one of them is looked for.
#[derive(Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    index: Option<Box<Index>>,
}

/// Where rows begin, by row key.
#[derive(Debug, Default)]
struct Index {
    rows: HashTable<u32>,
    /// Bytes of rows that are out.
    gone: usize,
}

/// Set in the length of the value of a row that is out; its bytes remain.
const GONE: u32 = 1 << 31;
/// Bytes of rows from which on there is an index.
const INDEXED_BYTES: usize = 1024;

impl Packed {
    fn push(&mut self, row_key: &[u8], value: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&(row_key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(row_key);
        self.bytes.extend_from_slice(value);
        if let Some(index) = &mut self.index {
            let bytes = &self.bytes;
            index.rows.insert_unique(hash(row_key), start, |row| hash(row_key_at(bytes, *row)));
        }
    }

    /// Start, row key and value of each row.
    fn iter(&self) -> impl Iterator<Item = (usize, &[u8], &[u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let (key_len, rest) = self.bytes[at..].split_first_chunk::<4>()?;
                let (value_len, rest) = rest.split_first_chunk::<4>()?;
                let value_len = u32::from_le_bytes(*value_len);
                let (row_key, rest) = rest.split_at(u32::from_le_bytes(*key_len) as usize);
                let value = &rest[..(value_len & !GONE) as usize];
                let start = at;
                at += HEAD_BYTES + row_key.len() + value.len();
                if value_len & GONE == 0 {
                    return Some((start, row_key, value));
                }
            }
        })
    }

    /// Drops the rows whose key is below `start`, and what remains of those that are out.
    fn clip(&mut self, start: &[u8]) {
        let mut kept = Self::default();
        self.iter().filter(|(_, row_key, _)| *row_key >= start).for_each(|(_, k, value)| kept.push(k, value));
        *self = kept;
    }

    /// Writes a row, over the one with its key if there is one.
    fn write(&mut self, row_key: &[u8], value: &[u8]) {
        if let Some(start) = self.find(row_key) {
            if self.value_len(start) as usize == value.len() {
                let at = start + HEAD_BYTES + row_key.len();
                self.bytes[at..at + value.len()].copy_from_slice(value);
                return;
            }
            self.take_out(start, row_key);
        }
        self.push(row_key, value);
    }

    fn remove(&mut self, row_key: &[u8]) {
        if let Some(start) = self.find(row_key) {
            self.take_out(start, row_key);
        }
    }

    fn take_out(&mut self, start: usize, row_key: &[u8]) {
        let value_len = self.value_len(start);
        let end = start + HEAD_BYTES + row_key.len() + value_len as usize;
        let Some(index) = &mut self.index else {
            self.bytes.drain(start..end);
            return;
        };
        if let Ok(entry) = index.rows.find_entry(hash(row_key), |row| *row as usize == start) {
            entry.remove();
        }
        self.bytes[start + 4..start + HEAD_BYTES].copy_from_slice(&(value_len | GONE).to_le_bytes());
        index.gone += end - start;
        if index.gone > self.bytes.len() / 2 {
            self.clip(&[]);
        }
    }

    fn value_len(&self, start: usize) -> u32 {
        self.bytes[start + 4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Where the row with this key begins.
    fn find(&mut self, row_key: &[u8]) -> Option<usize> {
        if self.index.is_none() {
            if self.bytes.len() < INDEXED_BYTES {
                return self.iter().find(|(_, key, _)| *key == row_key).map(|(start, _, _)| start);
            }
            let mut rows = HashTable::new();
            for (start, row_key, _) in self.iter() {
                rows.insert_unique(hash(row_key), start as u32, |row| hash(row_key_at(&self.bytes, *row)));
            }
            self.index = Some(Box::new(Index { rows, gone: 0 }));
        }
        let rows = &self.index.as_ref()?.rows;
        rows.find(hash(row_key), |row| row_key_at(&self.bytes, *row) == row_key).map(|row| *row as usize)
    }
}

/// Bytes of the two lengths before a row.
const HEAD_BYTES: usize = 8;

fn row_key_at(bytes: &[u8], row: u32) -> &[u8] {
    let row = &bytes[row as usize..];
    let length = row.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    &row[HEAD_BYTES..][..length as usize]
}

fn hash(row_key: &[u8]) -> u64 {
    FixedState::default().hash_one(row_key)
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
        let (young, old) = (Generation::default(), Generation::default());
        Self { table, share, young, old, coverage: Coverage::Unknown, needed_from: None }
    }

    /// From now on, rows whose key begins with a lesser moment are passed over.
    pub fn set_needed_from(&mut self, moment: [u8; MOMENT_BYTES]) {
        self.needed_from = Some(moment);
    }

    pub fn table(&self) -> TableId {
        self.table
    }

    /// Calls `f` with the row key and the value of each row of a join key that is needed.
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
        let needed_from = self.needed_from.as_ref().map_or(&[][..], |moment| moment);
        match self.young.entries.get(join_key) {
            Some(Entry::Rows(rows)) => {
                let mut needed = rows.iter().filter(|(_, row_key, _)| *row_key >= needed_from);
                return needed.try_for_each(|(_, row_key, value)| f(row_key, value));
            }
            None if self.coverage == Coverage::Complete => return Ok(()),
            Some(Entry::Large) | None => {}
        }
        let known_large = self.young.entries.contains_key(join_key);
        // What is needed of a large key may have become less.
        let mut rows = (!known_large || self.needed_from.is_some()).then(Packed::default);
        let (start, end) = ([join_key, needed_from].concat(), successor(join_key));
        let mut scan = state.scan(self.table, Bound::Included(&start), end.as_ref().map(Vec::as_slice), Level::Open);
        while let Some((key, value)) = scan.next_row()? {
            f(&key[join_key.len()..], value)?;
            if let Some(packed) = &mut rows {
                packed.push(&key[join_key.len()..], value);
                if packed.bytes.len() > KEY_BYTES_MAX / if known_large { 2 } else { 1 } {
                    rows = None;
                }
            }
        }
        if !known_large || rows.is_some() {
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
        if let (Some(_), Some(until)) = (row.value, row.row_key.first_chunk()) {
            self.young.needed_until = self.young.needed_until.max(*until);
        }
        let Some(entry) = self.young.entries.get_mut(row.join_key) else {
            if let (Coverage::Complete, Some(value)) = (self.coverage, row.value) {
                let mut packed = Packed::default();
                packed.push(row.row_key, value);
                self.young.insert(row.join_key, Entry::Rows(packed));
            }
            return;
        };
        let Entry::Rows(packed) = entry else { return };
        let before = packed.bytes.len();
        match row.value {
            Some(value) if row.fresh => packed.push(row.row_key, value),
            Some(value) => packed.write(row.row_key, value),
            None => packed.remove(row.row_key),
        }
        let mut max = KEY_BYTES_MAX;
        if packed.bytes.len() > max
            && let Some(needed_from) = &self.needed_from
        {
            packed.clip(needed_from);
            // With some distance, so that they are not clipped again soon.
            max /= 2;
        }
        let after = packed.bytes.len();
        if after > max {
            *entry = Entry::Large;
        }
        self.young.bytes = (self.young.bytes + after).saturating_sub(before);
    }

    /// Brings the cache back under its budget. To be called when an epoch's work on the table is done.
    pub fn end_epoch(&mut self) {
        if self.young.bytes > self.share.bytes() / 2 {
            let is_needed = self.needed_from.is_none_or(|from| self.old.needed_until >= from);
            if !self.old.entries.is_empty() && is_needed {
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
            self.young.needed_until = self.young.needed_until.max(self.old.needed_until);
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
        if let Some(old) = self.entries.insert(join_key.into(), entry) {
            self.bytes = self.bytes.saturating_sub(old.bytes(join_key));
        }
    }
}

impl Entry {
    fn bytes(&self, join_key: &[u8]) -> usize {
        let rows = if let Self::Rows(packed) = self { packed.bytes.len() } else { 0 };
        join_key.len() + rows + ENTRY_OVERHEAD
    }
}
