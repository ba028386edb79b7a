//! A keyed state table behind a cache of encoded values, so that hot keys cost no read of the store.
//!
//! Entries are in two generations, each one arena: what is used moves to the young one, and when that is full the old one
//! is dropped. That is close to least-recently-used and costs no allocation a row. Absence is cached too, and a table that
//! was empty when first looked at and of which nothing was dropped since is *complete*: what the cache does not have, the
//! store does not have either.

use std::hash::BuildHasher;
use std::ops::Bound;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::cache_budget::Share;
use crate::error::Result;
use crate::state::{ByteRows, Level, State, TableId};

/// A table of byte values by byte keys, read and written through a cache.
#[derive(Debug)]
pub struct CachedTable {
    table: TableId,
    share: Share,
    young: Generation,
    old: Generation,
    coverage: Coverage,
    /// Keys below it are gone, here as in the store.
    floor: Vec<u8>,
    hasher: FixedState,
}

/// What a miss of the cache says of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coverage {
    Unknown,
    /// The store has no key that the cache has not.
    Complete,
    Partial,
}

/// Where a value is in the young generation's arena.
#[derive(Debug, Clone, Copy)]
struct Span {
    offset: usize,
    len: u32,
}

const ABSENT: u32 = u32::MAX;
const NOWHERE: Span = Span { offset: 0, len: ABSENT };

/// Values of a batch of keys, borrowed from the cache.
pub struct Values<'a> {
    bytes: &'a [u8],
    spans: Vec<Span>,
}

impl Values<'_> {
    /// The value of key `i`, if it has one.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let span = self.spans[i];
        (span.len != ABSENT).then(|| &self.bytes[span.offset..span.offset + span.len as usize])
    }

    /// The values in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&[u8]>> {
        (0..self.spans.len()).map(|i| self.get(i))
    }

    /// Whether no key has a value.
    pub fn all_absent(&self) -> bool {
        self.spans.iter().all(|span| span.len == ABSENT)
    }
}

impl CachedTable {
    /// A table with an empty cache that takes its share of the memory for caches.
    pub fn new(table: TableId) -> Self {
        Self::with_share(table, Share::default())
    }

    /// A table with an empty cache of at most `bytes`.
    pub fn with_bytes(table: TableId, bytes: usize) -> Self {
        Self::with_share(table, Share::fixed(bytes))
    }

    fn with_share(table: TableId, share: Share) -> Self {
        Self {
            table,
            share,
            young: Generation::default(),
            old: Generation::default(),
            coverage: Coverage::Unknown,
            floor: Vec::new(),
            hasher: FixedState::default(),
        }
    }

    /// The table underneath.
    pub fn table(&self) -> TableId {
        self.table
    }

    /// Values of `keys`, which are distinct. What the cache does not know is read in one batch.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get_many(&mut self, state: &State, keys: &ByteRows) -> Result<Values<'_>> {
        self.look_at_store(state)?;
        let mut spans = vec![NOWHERE; keys.len()];
        let mut misses: Vec<u32> = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            if key < self.floor.as_slice() {
                continue;
            }
            let hash = self.hasher.hash_one(key);
            if let Some(record) = self.young.find(hash, key) {
                spans[i] = self.young.span(record);
            } else if let Some(record) = self.old.remove(hash, key) {
                let value = self.old.value(record);
                let record = self.young.append(&self.hasher, hash, key, value);
                spans[i] = self.young.span(record);
            } else if self.coverage != Coverage::Complete {
                misses.push(i as u32);
            }
        }
        if !misses.is_empty() {
            let mut missing = ByteRows::with_capacity(misses.len(), 0);
            misses.iter().for_each(|i| missing.push(keys.get(*i as usize)));
            let found = state.multi_get(self.table, &missing)?;
            for (i, value) in misses.into_iter().zip(found.iter()) {
                let key = keys.get(i as usize);
                let record = self.young.append(&self.hasher, self.hasher.hash_one(key), key, value);
                spans[i as usize] = self.young.span(record);
            }
        }
        Ok(Values { bytes: &self.young.bytes, spans })
    }

    /// Writes `value(i)` for key `i`, or deletes it where that is `None`, in the store and in the cache; of equal keys the
    /// last counts. Nothing is read. No key is below what was truncated.
    pub fn write_many<'v>(&mut self, state: &mut State, keys: &ByteRows, value: impl Fn(usize) -> Option<&'v [u8]>) {
        state.write_batch(self.table, keys, &value);
        for (i, key) in keys.iter().enumerate() {
            let hash = self.hasher.hash_one(key);
            let value = value(i);
            self.old.remove(hash, key);
            if value.is_none() && self.coverage == Coverage::Complete {
                self.young.remove(hash, key);
                continue;
            }
            match self.young.find(hash, key) {
                Some(record) if self.young.overwrite(record, value) => {}
                Some(_) => {
                    self.young.remove(hash, key);
                    self.young.append(&self.hasher, hash, key, value);
                }
                None => {
                    self.young.append(&self.hasher, hash, key, value);
                }
            }
        }
    }

    /// Writes a value for each key.
    pub fn put_many(&mut self, state: &mut State, keys: &ByteRows, values: &ByteRows) {
        self.write_many(state, keys, |i| Some(values.get(i)));
    }

    /// Deletes each key, which need not be there.
    pub fn delete_many(&mut self, state: &mut State, keys: &ByteRows) {
        self.write_many(state, keys, |_| None);
    }

    /// Empties the table below `key`, for good.
    pub fn truncate_below(&mut self, state: &mut State, key: &[u8]) {
        if key > self.floor.as_slice() {
            self.floor = key.to_vec();
            state.truncate_below(self.table, key);
        }
    }

    /// Brings the cache back under its budget. To be called when an epoch's work on the table is done.
    pub fn end_epoch(&mut self) {
        let budget_bytes = self.share.bytes();
        if self.young.bytes.len() <= budget_bytes / 2 {
            return;
        }
        let keep_absent = self.coverage != Coverage::Complete;
        let floor = self.floor.as_slice();
        let live = self.young.live_bytes(floor, keep_absent) + self.old.live_bytes(floor, keep_absent);
        if live <= budget_bytes / 8 * 3 {
            let mut compact = Generation::with_capacity(live + budget_bytes / 8);
            for generation in [&self.old, &self.young] {
                for record in generation.live(floor, keep_absent) {
                    let key = generation.key(record);
                    compact.append(&self.hasher, self.hasher.hash_one(key), key, generation.value(record));
                }
            }
            self.young = compact;
            self.old = Generation::default();
            return;
        }
        if self.old.live(floor, false).next().is_some() {
            self.coverage = Coverage::Partial;
        }
        std::mem::swap(&mut self.old, &mut self.young);
        // The memory of what is dropped is that of the next generation: to get as much anew costs a good part of an epoch.
        self.young.clear();
    }

    /// Forgets all that is not in the store.
    pub fn reset(&mut self) {
        self.young = Generation::default();
        self.old = Generation::default();
        self.coverage = Coverage::Unknown;
        self.floor.clear();
    }

    /// Bytes that the cache takes.
    pub fn cached_bytes(&self) -> usize {
        self.young.bytes.len() + self.old.bytes.len() + (self.young.index.len() + self.old.index.len()) * 9
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

/// An arena of records and an index of them by key. A record is three u32 (key length, value length or [`ABSENT`], room
/// for the value), the key, and the value.
#[derive(Debug, Default)]
struct Generation {
    index: HashTable<usize>,
    bytes: Vec<u8>,
}

const HEADER: usize = 12;

impl Generation {
    fn with_capacity(bytes: usize) -> Self {
        Self { index: HashTable::new(), bytes: Vec::with_capacity(bytes) }
    }

    fn clear(&mut self) {
        self.index.clear();
        self.bytes.clear();
    }

    fn number(&self, at: usize) -> u32 {
        self.bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
    }

    fn key(&self, record: usize) -> &[u8] {
        &self.bytes[record + HEADER..][..self.number(record) as usize]
    }

    fn span(&self, record: usize) -> Span {
        Span { offset: record + HEADER + self.number(record) as usize, len: self.number(record + 4) }
    }

    fn value(&self, record: usize) -> Option<&[u8]> {
        let span = self.span(record);
        (span.len != ABSENT).then(|| &self.bytes[span.offset..][..span.len as usize])
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        self.index.find(hash, |record| self.key(*record) == key).copied()
    }

    /// Takes a key out of the index; its record stays readable.
    fn remove(&mut self, hash: u64, key: &[u8]) -> Option<usize> {
        if self.index.is_empty() {
            return None;
        }
        let Self { index, bytes } = self;
        let entry = index.find_entry(hash, |record| key_at(bytes, *record) == key).ok()?;
        Some(entry.remove().0)
    }

    /// Adds a key that is not there.
    fn append(&mut self, hasher: &FixedState, hash: u64, key: &[u8], value: Option<&[u8]>) -> usize {
        let record = self.bytes.len();
        let len = value.map_or(0, <[u8]>::len) as u32;
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&value.map_or(ABSENT, |_| len).to_le_bytes());
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let Self { index, bytes } = self;
        index.insert_unique(hash, record, |record| hasher.hash_one(key_at(bytes, *record)));
        record
    }

    /// Writes a value over the old one; false if there is no room for it.
    fn overwrite(&mut self, record: usize, value: Option<&[u8]>) -> bool {
        let offset = self.span(record).offset;
        let len = match value {
            None => ABSENT,
            Some(value) if value.len() <= self.number(record + 8) as usize => {
                self.bytes[offset..offset + value.len()].copy_from_slice(value);
                value.len() as u32
            }
            Some(_) => return false,
        };
        self.bytes[record + 4..record + 8].copy_from_slice(&len.to_le_bytes());
        true
    }

    /// The records that are worth keeping.
    fn live(&self, floor: &[u8], absent_too: bool) -> impl Iterator<Item = usize> {
        self.index.iter().copied().filter(move |record| {
            (absent_too || self.number(record + 4) != ABSENT) && (floor.is_empty() || self.key(*record) >= floor)
        })
    }

    fn live_bytes(&self, floor: &[u8], absent_too: bool) -> usize {
        self.live(floor, absent_too)
            .map(|record| HEADER + (self.number(record) + self.number(record + 8)) as usize)
            .sum()
    }
}

fn key_at(bytes: &[u8], record: usize) -> &[u8] {
    let len = bytes[record..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk));
    &bytes[record + HEADER..][..len as usize]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Just, any, prop_assert_eq, prop_oneof, proptest};

    use super::{ByteRows, CachedTable, State, TableId};
    use crate::state::{Store, StoreOptions};

    proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 48, ..Default::default() })]

        #[test]
        fn it_holds_what_was_written(
            budget in prop_oneof![Just(0usize), Just(200), Just(1000), Just(1 << 20)],
            steps in proptest::collection::vec(
                (proptest::collection::vec((0u8..20, proptest::option::of(0usize..40)), 0..8), any::<[bool; 4]>()), 1..12),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&StoreOptions::new(dir.path())).unwrap();
            let mut state = State::new(store);
            let mut table = CachedTable::with_bytes(TableId::new(9, 1), budget);
            let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
            let mut floor = 0;
            for (writes, [resets, ends, commits, truncates]) in steps {
                let writes: Vec<_> = writes.into_iter().filter(|(key, _)| *key >= floor).collect();
                let keys: ByteRows = writes.iter().map(|(key, _)| [*key, 1]).collect();
                let values: Vec<Option<Vec<u8>>> = writes.iter().map(|(key, len)| len.map(|n| vec![*key; n])).collect();
                table.write_many(&mut state, &keys, |i| values[i].as_deref());
                for ((key, _), value) in writes.iter().zip(&values) {
                    match value {
                        Some(value) => model.insert(*key, value.clone()),
                        None => model.remove(key),
                    };
                }
                if truncates {
                    floor += 1;
                    table.truncate_below(&mut state, &[floor]);
                    model.retain(|key, _| *key >= floor);
                }
                if ends {
                    table.end_epoch();
                }
                if commits {
                    let frozen = state.freeze().unwrap();
                    state.store().commit(&frozen, false).unwrap();
                    state.committed();
                }
                if resets {
                    table.reset();
                }
                let keys: ByteRows = (0u8..20).filter(|k| (k + floor) % 3 > 0).map(|k| [k, 1]).collect();
                let found = table.get_many(&state, &keys).unwrap();
                for (i, key) in keys.iter().enumerate() {
                    prop_assert_eq!(found.get(i), model.get(&key[0]).map(Vec::as_slice));
                }
            }
        }
    }
}
