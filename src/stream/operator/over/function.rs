//! The window functions: what they look at, how far a change reaches, and their results for rows of a partition.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field};

use super::chunks::{Entry, Memory, Unread, View};
use super::frame::{Edge, Frame, Reach, Units};
use super::slide::Slide;
use crate::error::{Error, Result};
use crate::stream::operator::aggregate::AggregateKind;

/// What a window function computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WindowKind {
    RowNumber,
    Rank,
    DenseRank,
    PercentRank,
    CumeDist,
    /// Number of buckets.
    Ntile(i64),
    /// The value so many rows before; negative: after.
    Lag(i64),
    FirstValue,
    LastValue,
    /// From 1.
    NthValue(i64),
    Aggregate(AggregateKind),
}

impl WindowKind {
    /// Its SQL name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RowNumber => "row_number",
            Self::Rank => "rank",
            Self::DenseRank => "dense_rank",
            Self::PercentRank => "percent_rank",
            Self::CumeDist => "cume_dist",
            Self::Ntile(_) => "ntile",
            Self::Lag(n) if n < 0 => "lead",
            Self::Lag(_) => "lag",
            Self::FirstValue => "first_value",
            Self::LastValue => "last_value",
            Self::NthValue(_) => "nth_value",
            Self::Aggregate(kind) => kind.name(),
        }
    }
}

/// One window function over columns of the input.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowCall {
    pub kind: WindowKind,
    /// Position of the argument; `None` for COUNT(*) and the functions that have none.
    pub argument: Option<usize>,
    /// Position of the value that LAG and LEAD give where there is no row.
    pub default: Option<usize>,
    /// Position of the boolean column of a FILTER.
    pub filter: Option<usize>,
    pub distinct: bool,
    pub frame: Frame,
}

impl WindowCall {
    /// Which results a change is seen by: towards the partition's start and towards its end.
    pub(super) fn reach(&self) -> (Reach, Reach) {
        match self.kind {
            WindowKind::RowNumber | WindowKind::Rank | WindowKind::DenseRank => (Reach::Peers, Reach::All),
            WindowKind::PercentRank | WindowKind::CumeDist | WindowKind::Ntile(_) => (Reach::All, Reach::All),
            WindowKind::Lag(n) => (Reach::Rows((-n).max(0)), Reach::Rows(n.max(0))),
            WindowKind::FirstValue | WindowKind::LastValue | WindowKind::NthValue(_) | WindowKind::Aggregate(_) => {
                self.frame.reach()
            }
        }
    }

    /// Whether the result follows from the number of rows alone, here and before.
    pub(super) fn is_ranking(&self) -> bool {
        matches!(self.kind, WindowKind::RowNumber | WindowKind::Rank | WindowKind::DenseRank)
    }

    /// Whether the values of all rows in the frame are needed.
    pub(super) fn needs_frame_rows(&self) -> bool {
        matches!(self.kind, WindowKind::Aggregate(_)) && (self.argument.is_some() || self.filter.is_some())
    }

    /// Whether the frame counts.
    pub(super) fn has_frame(&self) -> bool {
        matches!(
            self.kind,
            WindowKind::FirstValue | WindowKind::LastValue | WindowKind::NthValue(_) | WindowKind::Aggregate(_)
        )
    }

    /// Whether it is the greatest value of a column that its session is in order of.
    pub(super) fn is_last_of_session(&self, column: usize) -> bool {
        self.kind == WindowKind::LastValue && self.argument == Some(column) && self.frame.units == Units::Session
    }

    /// As EXPLAIN shows it.
    pub(super) fn describe(&self, name: impl Fn(usize) -> String) -> String {
        let mut arguments: Vec<String> = self.argument.map(&name).into_iter().collect();
        match self.kind {
            WindowKind::Aggregate(_) if arguments.is_empty() => arguments.push("*".into()),
            WindowKind::Ntile(n) | WindowKind::NthValue(n) => arguments.push(n.to_string()),
            WindowKind::Lag(n) => arguments.push(n.abs().to_string()),
            _ => {}
        }
        arguments.extend(self.default.map(&name));
        let distinct = if self.distinct { "distinct " } else { "" };
        let mut text = format!("{}({distinct}{})", self.kind.name(), arguments.join(", "));
        if let Some(filter) = self.filter {
            text += &format!(" filter ({})", name(filter));
        }
        if self.has_frame() {
            text += &format!(" {}", self.frame);
        }
        text
    }
}

/// Rows whose results are computed: positions of one view of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub partition: usize,
    /// Whether the view is that after the epoch's changes.
    pub after: bool,
    pub start: usize,
    pub end: usize,
    /// Where its rows begin among those of all runs.
    pub first: usize,
}

/// Positions of a frame: from, and up to but without.
pub(super) type Positions = (usize, usize);

/// The frame of each row of a run. `starts` and `ends` give the sort keys at the edges of RANGE frames with an offset, by the
/// row's place among all runs.
pub(super) fn frames<'k>(
    frame: &Frame,
    view: &View,
    memory: &Memory,
    run: &Run,
    edges: impl Fn(usize) -> (&'k [u8], &'k [u8]),
    out: &mut Vec<Positions>,
) -> Result<(), Unread> {
    let rows = view.rows();
    let mut peers = (0, 0);
    for position in run.start..run.end {
        let place = run.first + position - run.start;
        let found = match frame.units {
            Units::Rows => {
                let at = |offset: Option<i64>, unbounded: usize, add: i64| match offset {
                    None => unbounded,
                    Some(n) => (position as i64 + n + add).clamp(0, rows as i64) as usize,
                };
                (at(Frame::rows(frame.start), 0, 0), at(Frame::rows(frame.end), rows, 1))
            }
            Units::Range => {
                let (start_key, end_key) = edges(place);
                if position >= peers.1 && (frame.start == Edge::Current || frame.end == Edge::Current) {
                    peers = view.peers(memory, position)?;
                }
                let start = match frame.start {
                    Edge::Unbounded => 0,
                    Edge::Current => peers.0,
                    Edge::Before(_) | Edge::After(_) => view.lower_bound(memory, start_key)?,
                };
                let end = match frame.end {
                    Edge::Unbounded => rows,
                    Edge::Current => peers.1,
                    Edge::Before(_) | Edge::After(_) => view.upper_bound(memory, end_key)?,
                };
                (start, end)
            }
            // See `Sessions::frames`.
            Units::Session => (0, rows),
        };
        out.push((found.0, found.1.max(found.0)));
    }
    Ok(())
}

/// The position whose value LAG, LEAD, FIRST_VALUE, LAST_VALUE or NTH_VALUE gives for a row, if there is one.
pub(super) fn picked(kind: WindowKind, position: usize, rows: usize, frame: Positions) -> Option<usize> {
    let (start, end) = frame;
    match kind {
        WindowKind::Lag(n) => {
            let at = (position as i64).checked_sub(n)?;
            usize::try_from(at).ok().filter(|at| *at < rows)
        }
        WindowKind::FirstValue => (start < end).then_some(start),
        WindowKind::LastValue => (start < end).then(|| end - 1),
        WindowKind::NthValue(n) => {
            let at = start.checked_add(usize::try_from(n).ok()?.checked_sub(1)?)?;
            (at < end).then_some(at)
        }
        _ => None,
    }
}

/// Results of a function that follow from positions alone.
pub(super) fn ranked(kind: WindowKind, runs: &[Run], ranks: &[Ranks], rows: usize) -> Result<ArrayRef> {
    let mut integers: Vec<i64> = Vec::with_capacity(rows);
    let mut floats: Vec<f64> = Vec::new();
    for (run, ranks) in runs.iter().zip(ranks) {
        let total = ranks.rows;
        for position in run.start..run.end {
            let Rank { first, end, group } = ranks.of[position - run.start];
            match kind {
                WindowKind::RowNumber => integers.push(position as i64 + 1),
                WindowKind::Rank => integers.push(first as i64 + 1),
                WindowKind::DenseRank => integers.push(group as i64 + 1),
                WindowKind::Ntile(buckets) => integers.push(bucket(position as i64, total as i64, buckets)),
                WindowKind::PercentRank if total <= 1 => floats.push(0.0),
                WindowKind::PercentRank => floats.push(first as f64 / (total - 1) as f64),
                WindowKind::CumeDist => floats.push(end as f64 / total as f64),
                other => return Err(Error::internal(format!("{} is no ranking function", other.name()))),
            }
        }
    }
    Ok(match floats.is_empty() {
        true => Arc::new(Int64Array::from(integers)),
        false => Arc::new(Float64Array::from(floats)),
    })
}

/// Where a row stands: its first peer, the position after its last one, and how many distinct sort keys come before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rank {
    first: usize,
    end: usize,
    group: usize,
}

/// The ranks of a run's rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranks {
    of: Vec<Rank>,
    /// Rows of the partition.
    rows: usize,
}

impl Ranks {
    /// Looks them up.
    pub fn new(view: &View, memory: &Memory, run: &Run) -> Result<Self, Unread> {
        let mut of = Vec::with_capacity(run.end - run.start);
        let mut rank = Rank::default();
        for position in run.start..run.end {
            if position >= rank.end || of.is_empty() {
                let (first, end) = view.peers(memory, position)?;
                let group = if of.is_empty() { view.groups_before(memory, position)? } else { rank.group + 1 };
                rank = Rank { first, end, group };
            }
            of.push(rank);
        }
        Ok(Self { of, rows: view.rows() })
    }
}

/// The bucket of a row when `rows` are dealt out evenly, the first buckets getting one more.
fn bucket(position: i64, rows: i64, buckets: i64) -> i64 {
    let (each, larger) = (rows / buckets, rows % buckets);
    let in_larger = larger * (each + 1);
    match position < in_larger {
        true => position / (each + 1) + 1,
        false => larger + (position - in_larger) / each.max(1) + 1,
    }
}

/// The columns of the rows that an evaluation looks at, by their place in the pool.
pub(super) struct Columns<'a> {
    pub columns: &'a [ArrayRef],
    pub rows: usize,
}

impl Columns<'_> {
    /// Values at picked rows; where there is none, the default of the row itself.
    pub fn pick(&self, call: &WindowCall, picks: &[Option<u32>], own: &[u32]) -> Result<ArrayRef> {
        let argument = self.argument(call)?;
        let none: ArrayRef = match call.default {
            Some(column) => self.columns[column].clone(),
            None => new_null_array(argument.data_type(), 1),
        };
        let none = match none.data_type() == argument.data_type() {
            true => none,
            false => arrow::compute::cast(&none, argument.data_type())?,
        };
        let indices: Vec<(usize, usize)> = picks
            .iter()
            .zip(own)
            .map(|(pick, own)| match pick {
                Some(row) => (0, *row as usize),
                None if call.default.is_some() => (1, *own as usize),
                None => (1, 0),
            })
            .collect();
        Ok(interleave(&[argument.as_ref(), none.as_ref()], &indices)?)
    }

    fn argument(&self, call: &WindowCall) -> Result<&ArrayRef> {
        let column = call.argument.ok_or_else(|| Error::internal(format!("{} has no argument", call.kind.name())))?;
        Ok(&self.columns[column])
    }

    /// An aggregate over the frames of all runs: `rows_of` gives the pool's rows of a run and the position of the first.
    pub fn aggregate<'r>(
        &self,
        call: &WindowCall,
        output: &Field,
        runs: &[Run],
        frames: &[Positions],
        rows_of: impl Fn(usize) -> (&'r [u32], usize),
    ) -> Result<Aggregated> {
        let WindowKind::Aggregate(kind) = call.kind else {
            return Err(Error::internal(format!("{} is no aggregate", call.kind.name())));
        };
        let argument = call.argument.map(|c| &self.columns[c]);
        let filter = call.filter.map(|c| self.columns[c].as_boolean());
        let mut slide = Slide::new(kind, call.distinct, argument, output.data_type())?;
        let included = self.included(argument, filter);
        for (i, run) in runs.iter().enumerate() {
            let (rows, base) = rows_of(i);
            let (mut start, mut end) = (0, 0);
            slide.clear();
            for (from, to) in &frames[run.first..run.first + run.end - run.start] {
                if *from >= end || *from < start {
                    slide.clear();
                    (start, end) = (*from, *from);
                }
                for position in end..*to {
                    let row = rows[position - base] as usize;
                    if included.as_ref().is_none_or(|i| i.value(row)) {
                        slide.push(row);
                    }
                }
                end = end.max(*to);
                for position in start..*from {
                    let row = rows[position - base] as usize;
                    if included.as_ref().is_none_or(|i| i.value(row)) {
                        slide.pop(row);
                    }
                }
                start = *from;
                slide.record();
            }
        }
        slide.finish()
    }

    /// Which rows an aggregate takes in; `None`: all.
    fn included(&self, argument: Option<&ArrayRef>, filter: Option<&BooleanArray>) -> Option<BooleanArray> {
        let valid = argument.and_then(|a| a.logical_nulls()).map(|n| n.into_inner());
        let passed = filter.map(|f| match f.nulls() {
            Some(nulls) => f.values() & nulls.inner(),
            None => f.values().clone(),
        });
        let buffer = match (valid, passed) {
            (Some(a), Some(b)) => &a & &b,
            (a, b) => a.or(b)?,
        };
        debug_assert_eq!(buffer.len(), self.rows);
        Some(BooleanArray::new(buffer, None))
    }
}

/// Results of an aggregate, with the rows that have none and why.
pub(super) struct Aggregated {
    pub values: ArrayRef,
    pub errors: Vec<(usize, Error)>,
}

/// A column under its declared type.
pub(super) fn typed(column: ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    match column.data_type() == data_type {
        true => Ok(column),
        false => Ok(arrow::compute::cast(&column, data_type)?),
    }
}

/// The rows that evaluation looks at, each once, numbered as they come.
#[derive(Debug, Default)]
pub(super) struct Pool {
    numbers: hashbrown::HashMap<usize, u32, foldhash::fast::FixedState>,
    pub rows: Vec<Entry>,
}

impl Pool {
    /// The number of a row.
    pub fn number(&mut self, entry: Entry) -> u32 {
        let Self { numbers, rows } = self;
        *numbers.entry(Memory::identity(entry)).or_insert_with(|| {
            rows.push(entry);
            rows.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_differ_by_one_row_at_most() {
        let dealt = |rows, buckets| (0..rows).map(|p| bucket(p, rows, buckets)).collect::<Vec<_>>();
        assert_eq!(dealt(7, 3), [1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(dealt(2, 4), [1, 2]);
        assert_eq!(dealt(6, 2), [1, 1, 1, 2, 2, 2]);
    }
}
