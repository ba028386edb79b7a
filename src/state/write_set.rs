//! What an epoch has written so far: per table a few sorted runs over one arena, newest last.
//!
//! A batch is sorted once and becomes a run; single writes go into a small run at the end. Runs of similar size are merged,
//! by moving entries of 24 bytes and no data, so that there are never more than a handful to search.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::TableId;
use super::bytes::{ByteRows, common_prefix, head};

/// A run at most this long takes a write in its middle.
const SMALL_RUN: usize = 64;

/// The writes of an open epoch.
#[derive(Debug, Default)]
pub(super) struct WriteSet {
    pub tables: BTreeMap<TableId, TableWrites>,
    /// Objects whose whole state goes; what is written in `tables` was written after.
    pub drops: BTreeSet<u32>,
    /// Lower bounds moved by this epoch.
    pub bounds: BTreeMap<TableId, Vec<u8>>,
    /// Rows appended to each segment table.
    pub ordinals: BTreeMap<TableId, u32>,
}

impl WriteSet {
    pub(super) fn table(&mut self, table: TableId) -> &mut TableWrites {
        self.tables.entry(table).or_default()
    }

    /// Forgets everything about an object.
    pub(super) fn forget(&mut self, object: u32) {
        self.tables.retain(|table, _| table.object != object);
        self.bounds.retain(|table, _| table.object != object);
        self.ordinals.retain(|table, _| table.object != object);
        self.drops.remove(&object);
    }

    /// Takes over what was written after it, to other keys or to the same ones. Nothing was dropped and no segment appended.
    pub(super) fn absorb(&mut self, newer: Self) {
        debug_assert!(newer.drops.is_empty() && newer.ordinals.is_empty(), "only keyed writes are joined");
        for (table, writes) in newer.tables {
            self.table(table).absorb(writes);
        }
        for (table, bound) in newer.bounds {
            let own = self.bounds.entry(table).or_default();
            *own = std::mem::take(own).max(bound);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.tables.values().map(TableWrites::bytes).sum()
    }
}

/// One write: key and value lie one after the other in the arena.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// [`head`] of what follows the run's shared prefix.
    head: u64,
    offset: usize,
    key_len: u32,
    /// [`DELETED`] for a deletion.
    value_len: u32,
}

const DELETED: u32 = u32::MAX;

impl Entry {
    fn key(self, data: &[u8]) -> &[u8] {
        &data[self.offset..self.offset + self.key_len as usize]
    }

    /// `None` for a deletion.
    fn value(self, data: &[u8]) -> Option<&[u8]> {
        let start = self.offset + self.key_len as usize;
        (self.value_len != DELETED).then(|| &data[start..start + self.value_len as usize])
    }

    fn compare(self, data: &[u8], key_head: u64, key: &[u8]) -> Ordering {
        self.head.cmp(&key_head).then_with(|| self.key(data).cmp(key))
    }
}

/// Entries sorted by key without duplicates.
#[derive(Debug, Default)]
struct Run {
    /// All keys share this many bytes at the start, perhaps more; heads are of what follows, for the keys of one table
    /// often differ only late.
    shared: usize,
    entries: Vec<Entry>,
}

impl Run {
    fn first_key<'d>(&self, data: &'d [u8]) -> Option<&'d [u8]> {
        self.entries.first().map(|e| e.key(data))
    }

    fn last_key<'d>(&self, data: &'d [u8]) -> Option<&'d [u8]> {
        self.entries.last().map(|e| e.key(data))
    }

    /// Where the key is, or where it would be, at `start` or later. Looks near `start` first.
    fn search(&self, data: &[u8], key: &[u8], start: usize) -> Result<usize, usize> {
        let Some(first) = self.first_key(data) else { return Err(0) };
        let prefix = &first[..self.shared];
        if !key.starts_with(prefix) {
            return Err(if key < prefix { start } else { self.entries.len() });
        }
        let key_head = head(&key[self.shared..]);
        let rest = self.entries.get(start..).unwrap_or_default();
        let mut end = 1;
        while rest.get(end).is_some_and(|e| e.compare(data, key_head, key) == Ordering::Less) {
            end *= 2;
        }
        let from = end / 2;
        let window = &rest[from.min(rest.len())..rest.len().min(end + 1)];
        match window.binary_search_by(|e| e.compare(data, key_head, key)) {
            Ok(at) => Ok(start + from + at),
            Err(at) => Err(start + from + at),
        }
    }

    /// The entries with keys in a range.
    fn range(&self, data: &[u8], from: Bound<&[u8]>, to: Bound<&[u8]>) -> &[Entry] {
        let at_or_after = |key| self.search(data, key, 0).unwrap_or_else(|at| at);
        let after = |key| self.search(data, key, 0).map_or_else(|at| at, |at| at + 1);
        let start = match from {
            Bound::Included(key) => at_or_after(key),
            Bound::Excluded(key) => after(key),
            Bound::Unbounded => 0,
        };
        let end = match to {
            Bound::Included(key) => after(key),
            Bound::Excluded(key) => at_or_after(key),
            Bound::Unbounded => self.entries.len(),
        };
        self.entries.get(start..end).unwrap_or_default()
    }

    /// Makes room for a key that may not share what the others do.
    fn admit(&mut self, data: &[u8], key: &[u8]) {
        match self.first_key(data) {
            Some(first) => self.share(data, common_prefix(&first[..self.shared], key)),
            None => self.shared = key.len(),
        }
    }

    /// Sets how much the keys share, which must be true.
    fn share(&mut self, data: &[u8], shared: usize) {
        if shared != self.shared {
            self.shared = shared;
            for entry in &mut self.entries {
                entry.head = head(&entry.key(data)[shared..]);
            }
        }
    }

    /// Both runs in one; an entry of `newer` replaces the one of `self` with the same key.
    fn merge(mut self, mut newer: Self, data: &[u8]) -> Self {
        let (Some(first), Some(last)) = (self.first_key(data), self.last_key(data)) else { return newer };
        let (Some(newer_first), Some(newer_last)) = (newer.first_key(data), newer.last_key(data)) else { return self };
        let apart = last < newer_first;
        let shared = common_prefix(first.min(newer_first), last.max(newer_last));
        self.share(data, shared);
        newer.share(data, shared);
        if apart {
            self.entries.extend_from_slice(&newer.entries);
            return self;
        }
        let mut entries = Vec::with_capacity(self.entries.len() + newer.entries.len());
        let (mut a, mut b) = (self.entries.as_slice(), newer.entries.as_slice());
        while let ([x, a_rest @ ..], [y, b_rest @ ..]) = (a, b) {
            match x.head.cmp(&y.head).then_with(|| x.key(data).cmp(y.key(data))) {
                Ordering::Less => {
                    entries.push(*x);
                    a = a_rest;
                }
                Ordering::Greater => {
                    entries.push(*y);
                    b = b_rest;
                }
                Ordering::Equal => {
                    entries.push(*y);
                    (a, b) = (a_rest, b_rest);
                }
            }
        }
        entries.extend_from_slice(a);
        entries.extend_from_slice(b);
        Self { shared, entries }
    }
}

/// The writes to one table.
#[derive(Debug, Default)]
pub(super) struct TableWrites {
    data: Vec<u8>,
    /// A later run hides the ones before.
    runs: Vec<Run>,
}

impl TableWrites {
    /// Writes one key; `None` deletes it.
    pub(super) fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let after_last = match self.runs.last().and_then(|run| run.last_key(&self.data)) {
            Some(last) => last < key,
            None => true,
        };
        let full = self.runs.last().is_none_or(|run| run.entries.len() > SMALL_RUN);
        if self.runs.is_empty() || (full && !after_last) {
            self.settle();
            self.runs.push(Run::default());
        }
        let mut run = self.runs.pop().unwrap_or_default();
        run.admit(&self.data, key);
        let entry = self.append(key, value, run.shared);
        if after_last {
            run.entries.push(entry);
        } else {
            match run.search(&self.data, key, 0) {
                Ok(at) => run.entries[at] = entry,
                Err(at) => run.entries.insert(at, entry),
            }
        }
        self.runs.push(run);
    }

    /// Writes a batch; where a key comes more than once the last one counts.
    pub(super) fn write_batch<'v>(&mut self, keys: &ByteRows, value: impl Fn(usize) -> Option<&'v [u8]>) {
        let order = keys.sort_permutation();
        let (Some(first), Some(last)) = (order.first(), order.last()) else { return };
        let (first, last) = (keys.get(*first as usize), keys.get(*last as usize));
        let extends = self.runs.last().and_then(|run| run.last_key(&self.data)).is_some_and(|key| key < first);
        if !extends {
            self.settle();
            self.runs.push(Run { shared: common_prefix(first, last), entries: Vec::with_capacity(order.len()) });
        }
        let mut run = self.runs.pop().unwrap_or_default();
        // Keys are sorted, so what the last one shares all between share.
        if extends {
            run.admit(&self.data, last);
        }
        let values: usize = (0..keys.len()).map(|i| value(i).map_or(0, <[u8]>::len)).sum();
        self.data.reserve(keys.bytes() + values);
        for (at, i) in order.iter().enumerate() {
            let key = keys.get(*i as usize);
            if order.get(at + 1).is_some_and(|next| keys.get(*next as usize) == key) {
                continue;
            }
            let entry = self.append(key, value(*i as usize), run.shared);
            run.entries.push(entry);
        }
        self.runs.push(run);
        self.settle();
    }

    /// Takes over newer writes.
    fn absorb(&mut self, newer: Self) {
        if self.runs.is_empty() {
            *self = newer;
            return;
        }
        let moved = self.data.len();
        self.data.extend_from_slice(&newer.data);
        for mut run in newer.runs {
            run.entries.iter_mut().for_each(|entry| entry.offset += moved);
            self.runs.push(run);
            self.settle();
        }
    }

    /// The write to a key, if there is one: `Some(None)` is a deletion.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.runs.iter().rev().find_map(|run| {
            let at = run.search(&self.data, key, 0).ok()?;
            Some(run.entries[at].value(&self.data))
        })
    }

    /// Looks up many keys in ascending order.
    pub(super) fn finder(&self) -> Finder<'_> {
        Finder { data: &self.data, runs: self.runs.iter().rev().map(|run| (run, 0)).collect() }
    }

    /// The writes to keys in a range, one cursor for each run, newest first.
    pub(super) fn cursors(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Vec<RunCursor<'_>> {
        self.runs
            .iter()
            .rev()
            .map(|run| RunCursor { data: &self.data, entries: run.range(&self.data, from, to) })
            .collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len() + self.runs.iter().map(|run| run.entries.len()).sum::<usize>() * size_of::<Entry>()
    }

    /// All writes in one order.
    pub(super) fn into_sorted(mut self) -> SortedWrites {
        let mut run = self.runs.pop().unwrap_or_default();
        while let Some(older) = self.runs.pop() {
            run = older.merge(run, &self.data);
        }
        SortedWrites { data: self.data, run }
    }

    fn append(&mut self, key: &[u8], value: Option<&[u8]>, shared: usize) -> Entry {
        let offset = self.data.len();
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value.unwrap_or_default());
        let value_len = value.map_or(DELETED, |v| v.len() as u32);
        Entry { head: head(&key[shared..]), offset, key_len: key.len() as u32, value_len }
    }

    /// Merges the newest runs until each is longer than the next.
    fn settle(&mut self) {
        while let [.., older, newer] = self.runs.as_slice()
            && older.entries.len() <= newer.entries.len()
        {
            let newer = self.runs.pop().unwrap_or_default();
            let older = self.runs.pop().unwrap_or_default();
            self.runs.push(older.merge(newer, &self.data));
        }
    }
}

/// The writes to one table in key order, each key once.
#[derive(Debug, Default)]
pub(super) struct SortedWrites {
    data: Vec<u8>,
    run: Run,
}

impl SortedWrites {
    /// As [`TableWrites::get`].
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let at = self.run.search(&self.data, key, 0).ok()?;
        Some(self.run.entries[at].value(&self.data))
    }

    /// As [`TableWrites::finder`].
    pub(super) fn finder(&self) -> Finder<'_> {
        Finder { data: &self.data, runs: vec![(&self.run, 0)] }
    }

    /// The writes to keys in a range.
    pub(super) fn cursor(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RunCursor<'_> {
        RunCursor { data: &self.data, entries: self.run.range(&self.data, from, to) }
    }

    /// Keys and values in order; `None` is a deletion.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.run.entries.iter().map(|e| (e.key(&self.data), e.value(&self.data)))
    }

    /// Forgets the writes below a key.
    pub(super) fn clip_below(&mut self, bound: &[u8]) {
        let below = self.run.search(&self.data, bound, 0).unwrap_or_else(|at| at);
        self.run.entries.drain(..below);
    }

    pub(super) fn len(&self) -> usize {
        self.run.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len() + self.run.entries.len() * size_of::<Entry>()
    }
}

/// Looks up keys that come in ascending order, each near the one before.
#[derive(Debug, Default)]
pub(super) struct Finder<'a> {
    data: &'a [u8],
    /// Newest first, and where each was left.
    runs: Vec<(&'a Run, usize)>,
}

impl<'a> Finder<'a> {
    /// As [`TableWrites::get`]; `key` is not less than the one asked for before.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Option<&'a [u8]>> {
        for (run, start) in &mut self.runs {
            match run.search(self.data, key, *start) {
                Ok(at) => {
                    *start = at;
                    return Some(run.entries[at].value(self.data));
                }
                Err(at) => *start = at,
            }
        }
        None
    }
}

/// Walks one sorted run.
#[derive(Debug)]
pub(super) struct RunCursor<'a> {
    data: &'a [u8],
    entries: &'a [Entry],
}

impl<'a> RunCursor<'a> {
    /// The key that it stands at.
    pub(super) fn key(&self) -> Option<&'a [u8]> {
        self.entries.first().map(|e| e.key(self.data))
    }

    /// The value there; `None` is a deletion.
    pub(super) fn value(&self) -> Option<&'a [u8]> {
        self.entries.first().and_then(|e| e.value(self.data))
    }

    pub(super) fn advance(&mut self) {
        self.entries = self.entries.get(1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{ByteRows, TableWrites};

    type Write = (Vec<u8>, Option<Vec<u8>>);

    /// Keys with prefixes in common, longer and shorter than a head.
    fn key() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        use proptest::prelude::Strategy;
        (
            proptest::sample::select(vec!["", "\x01", "\x01\x02", "\x01\x02 a long one"]),
            proptest::collection::vec(0u8..4, 0..4),
        )
            .prop_map(|(prefix, rest)| [prefix.as_bytes(), &rest].concat())
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(
            batches in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec((key(), any::<Option<Vec<u8>>>()), 0..100)), 0..12),
        ) {
            let mut writes = TableWrites::default();
            let mut model: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
            for (as_batch, rows) in batches {
                let rows: Vec<Write> = rows;
                if as_batch {
                    let keys: ByteRows = rows.iter().map(|(k, _)| k).collect();
                    writes.write_batch(&keys, |i| rows[i].1.as_deref());
                } else {
                    rows.iter().for_each(|(k, v)| writes.write(k, v.as_deref()));
                }
                model.extend(rows);
                let mut finder = writes.finder();
                for k in model.keys() {
                    prop_assert_eq!(writes.get(k), Some(model[k].as_deref()));
                    prop_assert_eq!(finder.get(k), Some(model[k].as_deref()));
                    // Between the key and the next one there is none.
                    let gap = [k.as_slice(), &[0]].concat();
                    if !model.contains_key(&gap) {
                        prop_assert_eq!(writes.get(&gap), None);
                        prop_assert_eq!(finder.get(&gap), None);
                    }
                }
                prop_assert_eq!(writes.get(&[9]), None);
                prop_assert_eq!(finder.get(&[9]), None);
                let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
                for mut cursor in writes.cursors(Bound::Excluded(&[1]), Bound::Included(&[2, 3])) {
                    while let Some(k) = cursor.key() {
                        merged.entry(k.to_vec()).or_insert(cursor.value().map(<[u8]>::to_vec));
                        cursor.advance();
                    }
                }
                let range = (Bound::Excluded(vec![1]), Bound::Included(vec![2, 3]));
                prop_assert_eq!(merged, model.range(range).map(|(k, v)| (k.clone(), v.clone())).collect());
            }
            let sorted = writes.into_sorted();
            let all: Vec<Write> = sorted.iter().map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_batches_leave_few_runs() {
        let mut writes = TableWrites::default();
        for batch in 0..200u32 {
            let keys: ByteRows = (0..100u32).map(|i| (i.wrapping_mul(7919) ^ batch).to_be_bytes()).collect();
            writes.write_batch(&keys, |_| Some(&[]));
        }
        assert!(writes.runs.len() <= 16, "{} runs", writes.runs.len());
    }
}
