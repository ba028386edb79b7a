//! What an epoch has written so far: per table a few sorted runs over one arena, newest last.
//!
//! A batch is sorted once and becomes a run; single writes go into a small run at the end. Runs of similar size are merged,
//! by moving entries of 24 bytes and no data, so that there are never more than a handful to search.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::TableId;
use super::bytes::{ByteRows, head};

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

    pub(super) fn bytes(&self) -> usize {
        self.tables.values().map(TableWrites::bytes).sum()
    }
}

/// One write: key and value lie one after the other in the arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    head: u64,
    offset: usize,
    key_len: u32,
    /// [`DELETED`] for a deletion.
    value_len: u32,
}

const DELETED: u32 = u32::MAX;

impl Entry {
    pub(super) fn key(self, data: &[u8]) -> &[u8] {
        &data[self.offset..self.offset + self.key_len as usize]
    }

    /// `None` for a deletion.
    pub(super) fn value(self, data: &[u8]) -> Option<&[u8]> {
        let start = self.offset + self.key_len as usize;
        (self.value_len != DELETED).then(|| &data[start..start + self.value_len as usize])
    }

    fn compare(self, data: &[u8], key_head: u64, key: &[u8]) -> Ordering {
        self.head.cmp(&key_head).then_with(|| self.key(data).cmp(key))
    }

    fn compare_entry(self, data: &[u8], other: Self) -> Ordering {
        self.compare(data, other.head, other.key(data))
    }
}

/// The writes to one table.
#[derive(Debug, Default)]
pub(super) struct TableWrites {
    data: Vec<u8>,
    /// Each sorted by key without duplicates; a later run hides the ones before.
    runs: Vec<Vec<Entry>>,
}

impl TableWrites {
    /// Writes one key; `None` deletes it.
    pub(super) fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let entry = self.append(key, value);
        if let Some(run) = self.runs.last_mut() {
            let after_last = run.last().is_none_or(|last| last.compare_entry(&self.data, entry) == Ordering::Less);
            if after_last {
                run.push(entry);
                return;
            }
            if run.len() <= SMALL_RUN {
                match run.binary_search_by(|e| e.compare_entry(&self.data, entry)) {
                    Ok(at) => run[at] = entry,
                    Err(at) => run.insert(at, entry),
                }
                return;
            }
            self.settle();
        }
        self.runs.push(vec![entry]);
    }

    /// Writes a batch; where a key comes more than once the last one counts.
    pub(super) fn write_batch<'v>(&mut self, keys: &ByteRows, value: impl Fn(usize) -> Option<&'v [u8]>) {
        let order = keys.sort_permutation();
        let Some(first) = order.first() else { return };
        let first = keys.get(*first as usize);
        let extends = self.runs.last().and_then(|run| run.last()).is_some_and(|last| last.key(&self.data) < first);
        if !extends {
            self.settle();
            self.runs.push(Vec::with_capacity(order.len()));
        }
        let mut run = self.runs.pop().unwrap_or_default();
        self.data.reserve(keys.bytes());
        for (at, i) in order.iter().enumerate() {
            let key = keys.get(*i as usize);
            if order.get(at + 1).is_some_and(|next| keys.get(*next as usize) == key) {
                continue;
            }
            run.push(self.append(key, value(*i as usize)));
        }
        self.runs.push(run);
        self.settle();
    }

    /// The write to a key, if there is one: `Some(None)` is a deletion.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let key_head = head(key);
        self.runs.iter().rev().find_map(|run| {
            let at = run.binary_search_by(|e| e.compare(&self.data, key_head, key)).ok()?;
            Some(run[at].value(&self.data))
        })
    }

    /// The writes to keys in a range, one cursor for each run, newest first.
    pub(super) fn cursors(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Vec<RunCursor<'_>> {
        self.runs.iter().rev().map(|run| RunCursor::new(&self.data, run, from, to)).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len() + self.runs.iter().map(Vec::len).sum::<usize>() * size_of::<Entry>()
    }

    /// All writes in one order.
    pub(super) fn into_sorted(mut self) -> SortedWrites {
        let mut entries = self.runs.pop().unwrap_or_default();
        while let Some(older) = self.runs.pop() {
            entries = merge(&self.data, older, entries);
        }
        SortedWrites { data: self.data, entries }
    }

    fn append(&mut self, key: &[u8], value: Option<&[u8]>) -> Entry {
        let offset = self.data.len();
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value.unwrap_or_default());
        let value_len = value.map_or(DELETED, |v| v.len() as u32);
        Entry { head: head(key), offset, key_len: key.len() as u32, value_len }
    }

    /// Merges the newest runs until each is more than twice as long as the next.
    fn settle(&mut self) {
        while let [.., older, newer] = self.runs.as_slice()
            && older.len() <= 2 * newer.len()
        {
            let newer = self.runs.pop().unwrap_or_default();
            let older = self.runs.pop().unwrap_or_default();
            self.runs.push(merge(&self.data, older, newer));
        }
    }
}

/// One run of two; an entry of `newer` replaces the one of `older` with the same key.
fn merge(data: &[u8], mut older: Vec<Entry>, newer: Vec<Entry>) -> Vec<Entry> {
    match (older.last(), newer.first()) {
        (None, _) => return newer,
        (_, None) => return older,
        (Some(last), Some(first)) if last.compare_entry(data, *first) == Ordering::Less => {
            older.extend_from_slice(&newer);
            return older;
        }
        _ => {}
    }
    let mut out = Vec::with_capacity(older.len() + newer.len());
    let (mut a, mut b) = (older.as_slice(), newer.as_slice());
    while let ([x, a_rest @ ..], [y, b_rest @ ..]) = (a, b) {
        match x.compare_entry(data, *y) {
            Ordering::Less => {
                out.push(*x);
                a = a_rest;
            }
            Ordering::Greater => {
                out.push(*y);
                b = b_rest;
            }
            Ordering::Equal => {
                out.push(*y);
                (a, b) = (a_rest, b_rest);
            }
        }
    }
    out.extend_from_slice(a);
    out.extend_from_slice(b);
    out
}

/// The writes to one table in key order, each key once.
#[derive(Debug, Default)]
pub(super) struct SortedWrites {
    data: Vec<u8>,
    entries: Vec<Entry>,
}

impl SortedWrites {
    /// As [`TableWrites::get`].
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let key_head = head(key);
        let at = self.entries.binary_search_by(|e| e.compare(&self.data, key_head, key)).ok()?;
        Some(self.entries[at].value(&self.data))
    }

    /// The writes to keys in a range.
    pub(super) fn cursor(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RunCursor<'_> {
        RunCursor::new(&self.data, &self.entries, from, to)
    }

    /// Keys and values in order; `None` is a deletion.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.entries.iter().map(|e| (e.key(&self.data), e.value(&self.data)))
    }

    /// Forgets the writes below a key.
    pub(super) fn clip_below(&mut self, bound: &[u8]) {
        let below = self.entries.partition_point(|e| e.key(&self.data) < bound);
        self.entries.drain(..below);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len() + self.entries.len() * size_of::<Entry>()
    }
}

/// Walks one sorted run.
#[derive(Debug)]
pub(super) struct RunCursor<'a> {
    data: &'a [u8],
    entries: &'a [Entry],
}

impl<'a> RunCursor<'a> {
    fn new(data: &'a [u8], run: &'a [Entry], from: Bound<&[u8]>, to: Bound<&[u8]>) -> Self {
        let start = match from {
            Bound::Included(key) => run.partition_point(|e| e.key(data) < key),
            Bound::Excluded(key) => run.partition_point(|e| e.key(data) <= key),
            Bound::Unbounded => 0,
        };
        let end = match to {
            Bound::Included(key) => run.partition_point(|e| e.key(data) <= key),
            Bound::Excluded(key) => run.partition_point(|e| e.key(data) < key),
            Bound::Unbounded => run.len(),
        };
        Self { data, entries: run.get(start..end).unwrap_or_default() }
    }

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

    fn key() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..4, 0..4)
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
                for k in model.keys() {
                    prop_assert_eq!(writes.get(k), Some(model[k].as_deref()));
                }
                prop_assert_eq!(writes.get(&[9]), None);
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
