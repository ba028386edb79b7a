//! The results of an epoch's regions, before the changes and after them.

use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable, hash_table};

use super::{Epoch, not_read};
use crate::error::{Error, Result};
use crate::state::{ByteRows, RowCodec};
use crate::stream::changelog::Delta;
use crate::stream::operator::EpochContext;
use crate::stream::operator::over::Over;
use crate::stream::operator::over::chunks::{Entry, Memory};
use crate::stream::operator::over::frame::{Edge, Frame, Units, edge_values};
use crate::stream::operator::over::function::{
    Columns, Pool, Positions, Ranks, Run, WindowKind, frames, picked, ranked, typed,
};
use crate::stream::operator::over::sessions::{Stop, found};
use crate::stream::operator::project::row_error;

/// Rows of the pool in the frames of a run, and the position of the first.
type RunRows = (Vec<u32>, usize);

impl Epoch {
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
