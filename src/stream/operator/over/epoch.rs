//! One epoch of window functions: changes by partition, the regions of results that they alter, and the results.

use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable, hash_table};

use super::chunks::{Entry, Memory, Partition, Unread, View, push_chunk_key};
use super::frame::{Edge, Frame, Reach, Units, edge_values};
use super::function::{Columns, Pool, Positions, Ranks, Run, WindowKind, frames, picked, ranked, typed};
use super::intervals::{EdgeKeys, Finder, range_edges};
use super::sessions::{Stop, found};
use super::{CLOSE_CHUNK_ROWS, LimitBy, Over};
use crate::error::{Error, Result};
use crate::state::{ByteRows, RowCodec, State};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;
use crate::stream::operator::EpochContext;
use crate::stream::operator::groups::Groups;
use crate::stream::operator::project::row_error;

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

/// Rows of the pool in the frames of a run, and the position of the first.
type RunRows = (Vec<u32>, usize);

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

    /// Computes the results in all regions: those before with weight -1, those after with +1.
    pub fn results(&mut self, over: &mut Over, context: &mut EpochContext<'_>) -> Result<Option<Delta>> {
        if over.spec.functions.is_empty() {
            return self.rows_only(over);
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut rows = 0;
        for after in [false, true] {
            for (partition, work) in self.works.iter().enumerate() {
                for range in if after { &work.new } else { &work.old } {
                    runs.push(Run { partition, after, start: range.start, end: range.end, first: rows });
                    rows += range.len();
                }
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(rows);
        for run in &runs {
            let view = self.works[run.partition].view(run.after);
            view.each(&self.memory, run.start..run.end, |_, entry| entries.push(entry)).map_err(not_read)?;
        }

        let functions = over.spec.functions.clone();
        let mut distinct_frames: Vec<Frame> = Vec::new();
        let frame_of: Vec<Option<usize>> = functions
            .iter()
            .map(|f| {
                f.has_frame().then(|| match distinct_frames.iter().position(|known| *known == f.frame) {
                    Some(i) => i,
                    None => {
                        distinct_frames.push(f.frame);
                        distinct_frames.len() - 1
                    }
                })
            })
            .collect();
        let mut positions: Vec<Vec<Positions>> = Vec::new();
        for (i, frame) in distinct_frames.iter().enumerate() {
            let needs_rows = functions.iter().zip(&frame_of).any(|(f, of)| *of == Some(i) && f.needs_frame_rows());
            positions.push(self.frames(over, context, frame, needs_rows, &runs, &entries)?);
        }
        self.load_picked(over, context, &runs, &frame_of, &positions)?;

        let mut pool = Pool::default();
        let own: Vec<u32> = entries.iter().map(|entry| pool.number(*entry)).collect();
        let mut picks: Vec<Vec<Option<u32>>> = Vec::with_capacity(functions.len());
        let mut frame_rows: Vec<Option<Vec<RunRows>>> = vec![None; distinct_frames.len()];
        for (function, of) in functions.iter().zip(&frame_of) {
            let mut picked_rows = Vec::new();
            if function.needs_frame_rows()
                && let Some(of) = of
                && frame_rows[*of].is_none()
            {
                let of_run = |run: &Run| -> Result<RunRows> {
                    let hull = hull(&positions[*of][run.first..run.first + run.end - run.start]);
                    let mut numbers = Vec::with_capacity(hull.len());
                    let view = self.works[run.partition].view(run.after);
                    view.each(&self.memory, hull.clone(), |_, entry| numbers.push(pool.number(entry)))
                        .map_err(not_read)?;
                    Ok((numbers, hull.start))
                };
                frame_rows[*of] = Some(runs.iter().map(of_run).collect::<Result<Vec<_>>>()?);
            } else if is_pick(function.kind) {
                for run in &runs {
                    let view = self.works[run.partition].view(run.after);
                    for position in run.start..run.end {
                        let frame = of.map_or((0, 0), |of| positions[of][run.first + position - run.start]);
                        picked_rows.push(match picked(function.kind, position, view.rows(), frame) {
                            Some(at) => Some(pool.number(view.entry(&self.memory, at).map_err(not_read)?)),
                            None => None,
                        });
                    }
                }
            }
            picks.push(picked_rows);
        }

        let reads_rows = functions.iter().any(|f| f.needs_frame_rows() || is_pick(f.kind));
        let read = if reads_rows { pool.rows.as_slice() } else { &[] };
        let decoded = over.rows.decode(read.iter().map(|entry| self.memory.get(entry.row)))?;
        let columns = Columns { columns: &decoded, rows: read.len() };
        let inputs = over.spec.input.fields().len();
        let mut results: Vec<ArrayRef> = Vec::with_capacity(functions.len());
        let mut failed: Vec<Option<Error>> = Vec::new();
        for (i, function) in functions.iter().enumerate() {
            let field = over.spec.output.field(inputs + i);
            let column = match (function.kind, frame_of[i]) {
                (kind, _) if is_pick(kind) => columns.pick(function, &picks[i], &own)?,
                (WindowKind::Aggregate(_), Some(of)) if function.needs_frame_rows() => {
                    let rows_of = frame_rows[of].as_ref().ok_or_else(|| Error::internal("a frame has no rows"))?;
                    let of_run = |run: usize| (rows_of[run].0.as_slice(), rows_of[run].1);
                    let done = columns.aggregate(function, field, &runs, &positions[of], of_run)?;
                    for (row, error) in done.errors {
                        failed.resize(rows, None);
                        failed[row] = Some(error);
                    }
                    done.values
                }
                // COUNT(*): the length of the frame.
                (WindowKind::Aggregate(_), Some(of)) => {
                    let lengths = positions[of].iter().map(|(start, end)| (end - start) as i64);
                    Arc::new(Int64Array::from_iter_values(lengths))
                }
                (kind, _) => {
                    let mut ranks = Vec::with_capacity(runs.len());
                    for run in &runs {
                        let view = self.works[run.partition].view(run.after);
                        ranks.push(Ranks::new(view, &self.memory, run).map_err(not_read)?);
                    }
                    ranked(kind, &runs, &ranks, rows)?
                }
            };
            results.push(typed(column, field.data_type())?);
        }
        let weights = runs.iter().flat_map(|run| {
            let weight = if run.after { 1 } else { -1 };
            std::iter::repeat_n(weight, run.end - run.start)
        });
        let changed = changed_rows(&entries, &results, &failed, weights)?;
        if changed.is_empty() {
            return Ok(None);
        }
        let rows_of = |rows: Vec<u32>| UInt32Array::from(rows);
        let numbers = rows_of(changed.iter().map(|(row, _)| *row).collect());
        let mut output: Vec<ArrayRef> = match reads_rows {
            true => {
                let own = rows_of(changed.iter().map(|(row, _)| own[*row as usize]).collect());
                decoded.iter().map(|column| take(column, &own, None)).collect::<Result<_, _>>()?
            }
            false => {
                let rows = changed.iter().map(|(row, _)| self.memory.get(entries[*row as usize].row));
                over.rows.decode(rows)?
            }
        };
        for column in &results {
            output.push(take(column, &numbers, None)?);
        }
        let rows = changed.len();
        let only_new = changed.iter().all(|(_, weight)| *weight == 1);
        let weights = (!only_new).then(|| Int64Array::from_iter_values(changed.iter().map(|(_, weight)| *weight)));
        let failed: Vec<Option<Error>> = match failed.is_empty() {
            true => failed,
            false => changed.iter().map(|(row, _)| failed.get(*row as usize).cloned().flatten()).collect(),
        };
        let batch = over.batch(output, rows)?;
        let delta = Delta { batch, weights };
        let delta = match failed.is_empty() {
            true => delta,
            false => {
                let input: Vec<usize> = (0..inputs).collect();
                for (row, error) in failed.iter().enumerate().filter_map(|(row, e)| Some((row, e.as_ref()?))) {
                    let of_row = delta.slice(row, 1).project(&input)?;
                    context.errors.push(row_error(over.spec.operator, error, &of_row));
                }
                delta.filter(&failed.iter().map(|e| Some(e.is_none())).collect::<BooleanArray>())?
            }
        };
        Ok(Some(delta))
    }

    /// The results where there is no function: the rows that came into the regions or went out of them.
    fn rows_only(&self, over: &Over) -> Result<Option<Delta>> {
        let mut changed: Vec<(Entry, i64)> = Vec::new();
        let mut net: HashMap<usize, (Entry, i64), FixedState> = HashMap::default();
        for work in &self.works {
            for (view, ranges, weight) in [(&work.before, &work.old, -1), (&work.after, &work.new, 1)] {
                for range in ranges {
                    view.each(&self.memory, range.clone(), |_, entry| {
                        net.entry(Memory::identity(entry)).or_insert((entry, 0)).1 += weight;
                    })
                    .map_err(not_read)?;
                }
            }
            changed.extend(net.drain().map(|(_, change)| change).filter(|(_, weight)| *weight != 0));
        }
        if changed.is_empty() {
            return Ok(None);
        }
        changed.sort_unstable_by_key(|(entry, _)| Memory::identity(*entry));
        let columns = over.rows.decode(changed.iter().map(|(entry, _)| self.memory.get(entry.row)))?;
        let batch = over.batch(columns, changed.len())?;
        let weights = Int64Array::from_iter_values(changed.iter().map(|(_, weight)| *weight));
        Ok(Some(Delta::new(batch, weights)))
    }

    /// Positions of one frame for all rows of all runs. Reads the chunks that its edges lie in and, if `needs_rows`, all
    /// between.
    fn frames(
        &mut self,
        over: &mut Over,
        context: &mut EpochContext<'_>,
        frame: &Frame,
        needs_rows: bool,
        runs: &[Run],
        entries: &[Entry],
    ) -> Result<Vec<Positions>> {
        let edge_keys = |edge: Edge, memory: &Memory| -> Result<Option<ByteRows>> {
            if !frame.has_range_offset() || matches!(edge, Edge::Unbounded | Edge::Current) {
                return Ok(None);
            }
            let values = over.order.decode_one(entries.iter().map(|entry| memory.get(entry.order)))?;
            let values = edge_values(&values, edge, over.spec.order_by[0].descending)?;
            Ok(Some(over.order.encode(&[values], entries.len())?))
        };
        let (starts, ends) = (edge_keys(frame.start, &self.memory)?, edge_keys(frame.end, &self.memory)?);
        let sessions = over.sessions.clone().filter(|_| frame.units == Units::Session);
        let mut of_runs: Vec<Option<Vec<Positions>>> = vec![None; runs.len()];
        let runs_of = self.runs_of(runs);
        let empty: &[u8] = &[];
        self.settle(over, context, |memory, work, unread| {
            for i in &runs_of[work.number] {
                let run = &runs[*i];
                let view = work.view(run.after);
                let edges = |place: usize| {
                    (
                        starts.as_ref().map_or(empty, |keys| keys.get(place)),
                        ends.as_ref().map_or(empty, |keys| keys.get(place)),
                    )
                };
                let positions = match &sessions {
                    Some(sessions) => sessions.frames(memory, view, run),
                    None => {
                        let mut out = Vec::with_capacity(run.end - run.start);
                        frames(frame, view, memory, run, edges, &mut out).map(|()| out).map_err(Stop::from)
                    }
                };
                if let Some(positions) = found(positions, unread)? {
                    if needs_rows {
                        view.unread(hull(&positions), unread);
                    }
                    of_runs[*i] = Some(positions);
                }
            }
            Ok(())
        })?;
        Ok(of_runs.into_iter().flatten().flatten().collect())
    }

    /// The runs of each partition, by their places.
    fn runs_of(&self, runs: &[Run]) -> Vec<Vec<usize>> {
        let mut of: Vec<Vec<usize>> = vec![Vec::new(); self.works.len()];
        runs.iter().enumerate().for_each(|(i, run)| of[run.partition].push(i));
        of
    }

    /// Reads the chunks of the rows whose values are given for others.
    fn load_picked(
        &mut self,
        over: &mut Over,
        context: &mut EpochContext<'_>,
        runs: &[Run],
        frame_of: &[Option<usize>],
        positions: &[Vec<Positions>],
    ) -> Result<()> {
        let functions = over.spec.functions.clone();
        if !functions.iter().any(|f| is_pick(f.kind)) {
            return Ok(());
        }
        let runs_of = self.runs_of(runs);
        self.settle(over, context, |_, work, unread| {
            for run in runs_of[work.number].iter().map(|i| &runs[*i]) {
                let view = work.view(run.after);
                for (function, of) in functions.iter().zip(frame_of).filter(|(f, _)| is_pick(f.kind)) {
                    for position in run.start..run.end {
                        let frame = of.map_or((0, 0), |of| positions[of][run.first + position - run.start]);
                        if let Some(at) = picked(function.kind, position, view.rows(), frame) {
                            view.unread(at..at + 1, unread);
                        }
                    }
                }
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

/// The rows of which something changes, with their net weights: an entry with the results that it had goes nowhere. Rows that
/// failed all count.
fn changed_rows(
    entries: &[Entry],
    results: &[ArrayRef],
    failed: &[Option<Error>],
    weights: impl Iterator<Item = i64>,
) -> Result<Vec<(u32, i64)>> {
    let types: Vec<DataType> = results.iter().map(|column| column.data_type().clone()).collect();
    let encoded = RowCodec::new(&types)?.encode(results)?;
    let hasher = FixedState::default();
    let mut index: HashTable<u32> = HashTable::with_capacity(entries.len());
    let mut net: Vec<(u32, i64)> = Vec::with_capacity(entries.len());
    let of = |row: u32| (Memory::identity(entries[row as usize]), encoded.get(row as usize));
    for (row, weight) in weights.enumerate() {
        if failed.get(row).is_some_and(Option::is_some) {
            net.push((row as u32, weight));
            continue;
        }
        let key = of(row as u32);
        let same = |at: &u32| of(net[*at as usize].0) == key;
        match index.entry(hasher.hash_one(key), same, |at| hasher.hash_one(of(net[*at as usize].0))) {
            hash_table::Entry::Occupied(slot) => net[*slot.get() as usize].1 += weight,
            hash_table::Entry::Vacant(slot) => {
                slot.insert(net.len() as u32);
                net.push((row as u32, weight));
            }
        }
    }
    net.retain(|(_, weight)| *weight != 0);
    Ok(net)
}

fn is_pick(kind: WindowKind) -> bool {
    matches!(kind, WindowKind::Lag(_) | WindowKind::FirstValue | WindowKind::LastValue | WindowKind::NthValue(_))
}

/// The positions that some frames cover together.
fn hull(frames: &[Positions]) -> Range<usize> {
    let filled = || frames.iter().filter(|(start, end)| start < end);
    let start = filled().map(|(start, _)| *start).min().unwrap_or(0);
    start..filled().map(|(_, end)| *end).max().unwrap_or(start)
}

fn not_read(Unread(slot): Unread) -> Error {
    Error::internal(format!("chunk {slot} of a partition is needed before it is read"))
}
