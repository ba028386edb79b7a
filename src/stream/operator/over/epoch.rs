//! One epoch of window functions: changes by partition, the regions of results that they alter, and the results.

mod results;

use std::ops::Range;

use arrow::array::ArrayRef;

use super::chunks::{Entry, Memory, Partition, Unread, View, push_chunk_key};
use super::frame::{Reach, edge_values};
use super::intervals::{EdgeKeys, Finder, range_edges};
use super::sessions::{Stop, found};
use super::{CLOSE_CHUNK_ROWS, LimitBy, Over};
use crate::error::{Error, Result};
use crate::state::{ByteRows, State};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;
use crate::stream::operator::EpochContext;
use crate::stream::operator::groups::Groups;

/// The work of an epoch.
pub(super) struct Epoch {
    memory: Memory,
    /// Keys of the partitions.
    keys: ByteRows,
    works: Vec<Work>,
    /// Net changes by partition, sort key and row.
    changes: Vec<(Entry, i64)>,
    /// For RANGE frames with offsets: the edges seen from the changed rows, and which of their keys belong to a change.
    edges: Vec<EdgeKeys>,
    sources: Vec<u32>,
}

/// A partition that the epoch looks at.
struct Work {
    /// Its place among the epoch's.
    number: usize,
    partition: Partition,
    changes: Range<usize>,
    before: View,
    after: View,
    /// Positions whose results are to be computed.
    old: Vec<Range<usize>>,
    new: Vec<Range<usize>>,
}

impl Epoch {
    /// Sorts and nets an epoch's changes.
    pub fn take_in(over: &Over, delta: &Delta) -> Result<Self> {
        let columns = delta.batch.columns();
        let pick = |positions: &[usize]| -> Vec<ArrayRef> { positions.iter().map(|c| columns[*c].clone()).collect() };
        let groups = match over.key_columns.is_empty() {
            true => Groups::single(delta.rows()),
            false => Groups::assign(&over.key_codec.encode(&pick(&over.key_columns))?),
        };
        let order_columns: Vec<usize> = over.spec.order_by.iter().map(|s| s.column).collect();
        let orders = match order_columns.is_empty() {
            true => ByteRows::zeroed(&vec![0; delta.rows()]),
            false => over.order.encode(&pick(&order_columns), delta.rows())?,
        };
        let rows = over.rows.encode(columns)?;
        let mut edges = Vec::new();
        for edge in range_edges(over) {
            let values = edge_values(&columns[order_columns[0]], edge, over.spec.order_by[0].descending)?;
            edges.push(EdgeKeys { edge, keys: over.order.encode(&[values], delta.rows())? });
        }

        let mut sorted: Vec<u32> = (0..delta.rows() as u32).collect();
        sorted.sort_unstable_by(|a, b| {
            let (a, b) = (*a as usize, *b as usize);
            groups.of_row[a]
                .cmp(&groups.of_row[b])
                .then_with(|| orders.get(a).cmp(orders.get(b)))
                .then_with(|| rows.get(a).cmp(rows.get(b)))
        });
        let mut memory = Memory::default();
        let mut changes: Vec<(Entry, i64)> = Vec::with_capacity(sorted.len());
        let mut sources: Vec<u32> = Vec::with_capacity(sorted.len());
        let mut works: Vec<Work> = Vec::with_capacity(groups.len());
        let mut keys = ByteRows::new();
        let mut next = 0;
        while next < sorted.len() {
            let group = groups.of_row[sorted[next] as usize];
            let start = changes.len();
            while next < sorted.len() && groups.of_row[sorted[next] as usize] == group {
                let row = sorted[next] as usize;
                let same = |other: u32| {
                    let other = other as usize;
                    groups.of_row[other] == group
                        && orders.get(other) == orders.get(row)
                        && rows.get(other) == rows.get(row)
                };
                let mut weight = 0;
                while next < sorted.len() && same(sorted[next]) {
                    weight += delta.weight(sorted[next] as usize);
                    next += 1;
                }
                if weight != 0 {
                    let entry = Entry { order: memory.keep(orders.get(row)), row: memory.keep(rows.get(row)) };
                    changes.push((entry, weight));
                    sources.push(row as u32);
                }
            }
            if changes.len() > start {
                keys.push(groups.keys.get(group as usize));
                works.push(Work::new(works.len(), Partition::default(), start..changes.len()));
            }
        }
        Ok(Self { memory, keys, works, changes, edges, sources })
    }

    /// Partitions as they are stored; see [`Epoch::take_all`].
    pub fn over_whole(keys: &ByteRows, directories: &ByteRows) -> Result<Self> {
        let mut memory = Memory::default();
        let mut works = Vec::with_capacity(keys.len());
        for directory in directories.iter() {
            works.push(Work::new(works.len(), Partition::read(&mut memory, Some(directory))?, 0..0));
        }
        let (changes, edges, sources) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { memory, keys: keys.clone(), works, changes, edges, sources })
    }

    /// Keys of the partitions.
    pub fn keys(&self) -> &ByteRows {
        &self.keys
    }

    /// Reads the changed partitions and applies the changes to them, in memory.
    pub fn apply(&mut self, over: &mut Over, context: &mut EpochContext<'_>) -> Result<()> {
        let stored = over.partitions.get_many(context.state, &self.keys)?;
        for (work, directory) in self.works.iter_mut().zip(stored.iter()) {
            work.partition = Partition::read(&mut self.memory, directory)?;
        }
        let changes = std::mem::take(&mut self.changes);
        self.settle(over, context, |memory, work, unread| {
            work.partition.unread_targets(memory, &changes[work.changes.clone()], unread);
            Ok(())
        })?;
        for work in &mut self.works {
            let unknown = over.ttl.as_ref().map(|_| &mut *context.expired);
            work.partition.change(&mut self.memory, &changes[work.changes.clone()], unknown)?;
            work.look(&self.memory);
        }
        self.changes = changes;
        if over.forgets() {
            let limit = over.spec.limit;
            self.settle(over, context, |memory, work, unread| {
                let found = limit_end(limit, &work.after, memory);
                match found {
                    Ok(end) => work.partition.cut(memory, end),
                    Err(Unread(slot)) => unread.push(slot),
                }
                Ok(())
            })?;
            self.works.iter_mut().for_each(|work| work.look(&self.memory));
        }
        Ok(())
    }

    /// Runs `step` on each partition until it asks for no chunk any more; what it asks for is read in one batch.
    fn settle(
        &mut self,
        over: &mut Over,
        context: &mut EpochContext<'_>,
        mut step: impl FnMut(&Memory, &mut Work, &mut Vec<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut waiting: Vec<usize> = (0..self.works.len()).collect();
        let mut slots: Vec<usize> = Vec::new();
        while !waiting.is_empty() {
            let mut wanted: Vec<(usize, usize)> = Vec::new();
            for i in std::mem::take(&mut waiting) {
                slots.clear();
                step(&self.memory, &mut self.works[i], &mut slots)?;
                if !slots.is_empty() {
                    slots.sort_unstable();
                    slots.dedup();
                    wanted.extend(slots.iter().map(|slot| (i, *slot)));
                    waiting.push(i);
                }
            }
            if wanted.is_empty() {
                break;
            }
            let mut keys = ByteRows::new();
            for (i, slot) in &wanted {
                push_chunk_key(&mut keys, self.keys.get(*i), self.works[*i].partition.chunk(*slot));
            }
            let found = over.chunks.get_many(context.state, &keys)?;
            for ((i, slot), chunk) in wanted.iter().zip(found.iter()) {
                self.works[*i].partition.load(&mut self.memory, *slot, chunk)?;
            }
            for i in &waiting {
                self.works[*i].look(&self.memory);
            }
        }
        Ok(())
    }

    /// Finds the positions, before and after, whose results the changes can alter.
    pub fn find_regions(&mut self, over: &mut Over, context: &mut EpochContext<'_>) -> Result<()> {
        let mut reaches: Vec<(Reach, Reach)> = over.spec.functions.iter().map(|f| f.reach()).collect();
        let limit = over.spec.limit;
        // A row that comes or goes moves all behind it towards the limit or away from it.
        reaches.extend(limit.map(|_| (Reach::Peers, Reach::All)));
        let (changes, sources, edges) =
            (std::mem::take(&mut self.changes), std::mem::take(&mut self.sources), std::mem::take(&mut self.edges));
        let sessions = over.sessions.clone();
        let done = self.settle(over, context, |memory, work, unread| {
            let finder = Finder {
                memory,
                before: &work.before,
                after: &work.after,
                changes: &changes,
                of_partition: work.changes.clone(),
                sources: &sources,
                edges: &edges,
                reaches: &reaches,
                sessions: sessions.as_ref(),
            };
            let regions = finder.intervals().and_then(|intervals| {
                let region = |view: &View| -> Result<Vec<Range<usize>>, Stop> {
                    let upto = limit_end(limit, view, memory)?;
                    let from = limit.map_or(0, |limit| limit.skip);
                    let mut ranges = Vec::with_capacity(intervals.len());
                    for (low, high) in &intervals {
                        let start = low.as_ref().map_or(Ok(0), |key| view.lower_bound(memory, key))?.max(from);
                        if start >= upto {
                            break;
                        }
                        let end = high.as_ref().map_or(Ok(view.rows()), |key| view.upper_bound(memory, key))?.min(upto);
                        if start < end {
                            ranges.push(start..end);
                        }
                    }
                    Ok(ranges)
                };
                Ok((region(&work.before)?, region(&work.after)?))
            });
            if let Some((old, new)) = found(regions, unread)? {
                old.iter().for_each(|range| work.before.unread(range.clone(), unread));
                new.iter().for_each(|range| work.after.unread(range.clone(), unread));
                (work.old, work.new) = (old, new);
            }
            Ok(())
        });
        (self.changes, self.sources, self.edges) = (changes, sources, edges);
        done
    }

    /// Partitions to look at, as they are stored.
    pub fn of_partitions(over: &mut Over, keys: &ByteRows, context: &mut EpochContext<'_>) -> Result<Self> {
        let mut memory = Memory::default();
        let mut works = Vec::with_capacity(keys.len());
        for directory in over.partitions.get_many(context.state, keys)?.iter() {
            works.push(Work::new(works.len(), Partition::read(&mut memory, directory)?, 0..0));
        }
        let (changes, edges, sources) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { memory, keys: keys.clone(), works, changes, edges, sources })
    }

    /// Wants the results of the rows from one sort key up to but without another.
    pub fn take_between(
        &mut self,
        over: &mut Over,
        from: Option<&[u8]>,
        upto: &[u8],
        context: &mut EpochContext<'_>,
    ) -> Result<()> {
        self.settle(over, context, |memory, work, unread| {
            let start = from.map_or(Ok(0), |key| work.after.lower_bound(memory, key));
            match start.and_then(|start| Ok(start..work.after.lower_bound(memory, upto)?)) {
                Ok(range) => {
                    work.after.unread(range.clone(), unread);
                    work.new = if range.is_empty() { Vec::new() } else { vec![range] };
                }
                Err(Unread(slot)) => unread.push(slot),
            }
            Ok(())
        })
    }

    /// For each partition the time of its first row that is not before a sort key; without a key none.
    pub fn first_times_from(
        &mut self,
        over: &mut Over,
        from: Option<&[u8]>,
        context: &mut EpochContext<'_>,
    ) -> Result<Vec<Option<i64>>> {
        let mut found: Vec<Option<Entry>> = vec![None; self.works.len()];
        let Some(from) = from else { return Ok(vec![None; found.len()]) };
        self.settle(over, context, |memory, work, unread| {
            let first = work.after.lower_bound(memory, from).and_then(|at| match at < work.after.rows() {
                true => work.after.entry(memory, at).map(Some),
                false => Ok(None),
            });
            match first {
                Ok(first) => found[work.number] = first,
                Err(Unread(slot)) => unread.push(slot),
            }
            Ok(())
        })?;
        let time = |first: &Option<Entry>| match first {
            Some(entry) => over.order.first_time(self.memory.get(entry.order)),
            None => Ok(None),
        };
        found.iter().map(time).collect()
    }

    /// How many rows of each partition are in sessions that a watermark has closed.
    pub fn closed_rows(
        &mut self,
        over: &mut Over,
        watermark: i64,
        context: &mut EpochContext<'_>,
    ) -> Result<Vec<usize>> {
        let mut closed = vec![0; self.works.len()];
        let (Some(sessions), Some(order)) = (over.sessions.clone(), &over.order_time) else { return Ok(closed) };
        let time = order.time.clone();
        self.settle(over, context, |memory, work, unread| {
            let rows = sessions.closed_rows(memory, &work.after, &time, watermark);
            closed[work.number] = found(rows, unread)?.unwrap_or_default();
            Ok(())
        })?;
        Ok(closed)
    }

    /// Wants the results of the rows of each partition from one position up to but without another.
    pub fn take_rows(
        &mut self,
        over: &mut Over,
        from: &[usize],
        upto: &[usize],
        context: &mut EpochContext<'_>,
    ) -> Result<()> {
        self.settle(over, context, |_, work, unread| {
            let range = from[work.number]..upto[work.number];
            work.after.unread(range.clone(), unread);
            work.new = if range.is_empty() { Vec::new() } else { vec![range] };
            Ok(())
        })
    }

    /// When the session of the row at a position of each partition ends, if there is such a row and it has a time.
    pub fn session_ends(
        &mut self,
        over: &mut Over,
        positions: &[usize],
        context: &mut EpochContext<'_>,
    ) -> Result<Vec<Option<i64>>> {
        let mut ends = vec![None; self.works.len()];
        let Some(sessions) = over.sessions.clone() else { return Ok(ends) };
        self.settle(over, context, |memory, work, unread| {
            let position = positions[work.number];
            if position < work.after.rows() {
                let end = sessions.end_time(memory, &work.after, position);
                ends[work.number] = found(end, unread)?.flatten();
            }
            Ok(())
        })?;
        Ok(ends)
    }

    /// For each changed partition its number and the earliest and latest of `times` among its changes, which are by input row.
    pub fn times_of_partitions(&self, times: &[Option<i64>]) -> Vec<(usize, Option<i64>, Option<i64>)> {
        let of_work = |work: &Work| {
            let known = || self.sources[work.changes.clone()].iter().filter_map(|row| times[*row as usize]);
            (work.number, known().min(), known().max())
        };
        self.works.iter().map(of_work).collect()
    }

    /// Key of a partition.
    pub fn key(&self, number: usize) -> &[u8] {
        self.keys.get(number)
    }

    /// The watermark that a partition waits for.
    pub fn due(&self, number: usize) -> i64 {
        self.works[number].partition.due()
    }

    pub fn set_due(&mut self, number: usize, due: i64) {
        self.works[number].partition.set_due(due);
    }

    /// Whether a partition has rows.
    pub fn has_rows(&self, number: usize) -> bool {
        self.works[number].after.rows() > 0
    }

    /// Forgets the rows of each partition before the position that `first_kept` gives for its number.
    pub fn trim(&mut self, first_kept: impl Fn(usize, &Memory, &View) -> usize) {
        for work in &mut self.works {
            work.partition.trim(first_kept(work.number, &self.memory, &work.after));
            work.look(&self.memory);
        }
    }

    /// The partitions that have no row any more.
    pub fn emptied(&self) -> Vec<usize> {
        self.works.iter().filter(|work| work.after.rows() == 0).map(|work| work.number).collect()
    }

    /// Wants the results of all rows of all partitions.
    pub fn take_all(&mut self, over: &mut Over, context: &mut EpochContext<'_>) -> Result<()> {
        let limit = over.spec.limit;
        self.settle(over, context, |memory, work, unread| {
            match limit_end(limit, &work.after, memory) {
                Ok(end) => {
                    let range = limit.map_or(0, |limit| limit.skip).min(end)..end;
                    work.after.unread(range.clone(), unread);
                    work.new = vec![range];
                }
                Err(Unread(slot)) => unread.push(slot),
            }
            Ok(())
        })
    }

    /// Stores what changed.
    pub fn write(&mut self, over: &mut Over, context: &mut EpochContext<'_>) -> Result<()> {
        let mut directory_keys = ByteRows::new();
        let mut directories: Vec<Option<Vec<u8>>> = Vec::new();
        let mut chunk_keys = ByteRows::new();
        let mut chunks: Vec<Option<Vec<u8>>> = Vec::new();
        for (i, work) in self.works.iter_mut().enumerate() {
            let Some(writes) = work.partition.writes(&self.memory, over.chunk_rows) else { continue };
            let key = self.keys.get(i);
            directory_keys.push(key);
            directories.push(writes.directory);
            for (number, chunk) in writes.chunks {
                push_chunk_key(&mut chunk_keys, key, number);
                chunks.push(chunk);
            }
        }
        over.partitions.write_many(context.state, &directory_keys, |i| directories[i].as_deref());
        over.chunks.write_many(context.state, &chunk_keys, |i| chunks[i].as_deref());
        Ok(())
    }
}

/// Forgets partitions with all their rows.
pub(super) fn forget(
    partitions: &mut CachedTable,
    chunks: &mut CachedTable,
    state: &mut State,
    keys: &ByteRows,
) -> Result<()> {
    for start in (0..keys.len()).step_by(CLOSE_CHUNK_ROWS) {
        let some: ByteRows = (start..(start + CLOSE_CHUNK_ROWS).min(keys.len())).map(|i| keys.get(i)).collect();
        let mut memory = Memory::default();
        let mut chunk_keys = ByteRows::new();
        for (key, directory) in some.iter().zip(state.multi_get(partitions.table(), &some)?.iter()) {
            for chunk in Partition::read(&mut memory, directory)?.own_chunks() {
                push_chunk_key(&mut chunk_keys, key, chunk);
            }
        }
        partitions.delete_many(state, &some);
        chunks.delete_many(state, &chunk_keys);
    }
    Ok(())
}

impl Work {
    fn new(number: usize, partition: Partition, changes: Range<usize>) -> Self {
        let (before, after) = (partition.before(), partition.before());
        Self { number, partition, changes, before, after, old: Vec::new(), new: Vec::new() }
    }

    /// Takes over what was read.
    fn look(&mut self, memory: &Memory) {
        self.before = self.partition.before();
        self.after = self.partition.after(memory);
    }

    fn view(&self, after: bool) -> &View {
        if after { &self.after } else { &self.before }
    }
}

/// The position after the last row that a limit lets through.
fn limit_end(limit: Option<super::Limit>, view: &View, memory: &Memory) -> Result<usize, Unread> {
    let Some(limit) = limit else { return Ok(view.rows()) };
    match limit.by {
        LimitBy::RowNumber => Ok(limit.upto.min(view.rows())),
        LimitBy::Rank if limit.upto == 0 => Ok(0),
        LimitBy::Rank if limit.upto >= view.rows() => Ok(view.rows()),
        LimitBy::Rank => Ok(view.peers(memory, limit.upto - 1)?.1),
        LimitBy::DenseRank => view.rows_of_groups(memory, limit.upto),
    }
}

fn not_read(Unread(slot): Unread) -> Error {
    Error::internal(format!("chunk {slot} of a partition is needed before it is read"))
}
