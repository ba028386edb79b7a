//! Frames of sessions: rows of a partition, in order of time, each less than a gap behind the one before it.
//!
//! **What a watermark W tells.** Rows before W are late, so that every change to come is of a row at or after W. A session
//! whose last row is at `l` has its end at `l + gap`; it is *closed* if that is not after W. Then nothing changes it any more:
//! a row at `t >= W >= l + gap` is a gap away from its last row and begins another session, and its own rows, all before
//! `l + gap`, cannot be taken back. Nor does the result of any row to come depend on it. So closed sessions, which are the
//! first of a partition, are freed, and with EMIT ON WINDOW CLOSE put out.
//!
//! The other way round, a session that a change of a row at `t >= W` makes, alters or ends has its end after W: if the row is
//! in it, because its end is after `t`; if it was parted from another one by the row's going, because the row was less than a
//! gap behind its last row. So later changes have an end after W, and thus a last time after W - gap: that is the watermark
//! of the last time of each row's session.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{IntervalMonthDayNano, TimestampMicrosecondType};

use super::chunks::{Entry, Memory, Unread, View};
use super::frame::{Distance, Edge, edge_values};
use super::function::{Positions, Run};
use super::order::OrderCodec;
use crate::error::{Error, Result};
use crate::stream::operator::event_time::{MICROS_PER_DAY, TimeColumn};

/// Rows that a look for the end of a session begins with.
const LOOK_ROWS: usize = 16;

/// The sort keys of a first and a last row.
pub(super) type KeyRange = (Vec<u8>, Vec<u8>);

/// Why a look into a partition has no answer yet.
#[derive(Debug)]
pub(super) enum Stop {
    Unread(Unread),
    Failed(Error),
}

impl From<Unread> for Stop {
    fn from(unread: Unread) -> Self {
        Self::Unread(unread)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The answer of a look, or none if it needs a slot first.
///
/// # Errors
/// The failure of the look.
pub(super) fn found<T>(answer: Result<T, Stop>, unread: &mut Vec<usize>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Stop::Unread(Unread(slot))) => {
            unread.push(slot);
            Ok(None)
        }
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Sessions over one ascending timestamp.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    order: OrderCodec,
    gap: IntervalMonthDayNano,
    /// At least the gap, microseconds.
    gap_us_max: i64,
}

impl Sessions {
    pub fn new(order: OrderCodec, gap: IntervalMonthDayNano, gap_us_max: i64) -> Self {
        Self { order, gap, gap_us_max }
    }

    /// The time of each row, and when a session ends of which it were the last row.
    fn times(&self, memory: &Memory, entries: &[Entry]) -> Result<Vec<(Option<i64>, Option<i64>)>> {
        let times: Result<Vec<Option<i64>>> =
            entries.iter().map(|entry| self.order.first_time(memory.get(entry.order))).collect();
        let times = times?;
        if self.gap.months == 0 {
            // Then a gap is as long wherever it begins.
            let gap_us =
                i64::from(self.gap.days).saturating_mul(MICROS_PER_DAY).saturating_add(self.gap.nanoseconds / 1000);
            let end = |time: Option<i64>| (time, time.map(|time| time.saturating_add(gap_us)));
            return Ok(times.into_iter().map(end).collect());
        }
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.clone()));
        let ends = edge_values(&column, Edge::After(Distance::Interval(self.gap)), false)?;
        Ok(times.into_iter().zip(ends.as_primitive::<TimestampMicrosecondType>()).collect())
    }

    /// Between which neighbours of some rows a session ends: one answer less than rows. Rows without a time are a session.
    fn cuts(&self, memory: &Memory, entries: &[Entry]) -> Result<Vec<bool>> {
        let times = self.times(memory, entries)?;
        let cut = |pair: &[(Option<i64>, Option<i64>)]| match (pair[0].1, pair[1].0) {
            (Some(end), Some(next)) => end <= next,
            (end, next) => end.is_some() != next.is_some(),
        };
        Ok(times.windows(2).map(cut).collect())
    }

    /// Whether a row of one sort key would be in the session of a row of a later one that is its neighbour.
    fn joined(&self, memory: &mut Memory, first: &[u8], second: &[u8]) -> Result<bool> {
        let mut entry = |key: &[u8]| {
            let span = memory.keep(key);
            Entry { order: span, row: span }
        };
        let pair = [entry(first), entry(second)];
        Ok(!self.cuts(memory, &pair)?.contains(&true))
    }

    /// Position of the first row of the session of the row at `position`.
    pub fn start(&self, memory: &Memory, view: &View, position: usize) -> Result<usize, Stop> {
        let (mut upto, mut look) = (position, LOOK_ROWS);
        while upto > 0 {
            let from = upto.saturating_sub(look);
            let cuts = self.cuts(memory, &entries(memory, view, from..upto + 1)?)?;
            if let Some(last) = cuts.iter().rposition(|cut| *cut) {
                return Ok(from + last + 1);
            }
            (upto, look) = (from, look * 2);
        }
        Ok(0)
    }

    /// The position after the last row of that session.
    pub fn end(&self, memory: &Memory, view: &View, position: usize) -> Result<usize, Stop> {
        let (mut from, mut look) = (position, LOOK_ROWS);
        while from + 1 < view.rows() {
            let upto = (from + 1 + look).min(view.rows());
            let cuts = self.cuts(memory, &entries(memory, view, from..upto)?)?;
            if let Some(first) = cuts.iter().position(|cut| *cut) {
                return Ok(from + first + 1);
            }
            (from, look) = (upto - 1, look * 2);
        }
        Ok(view.rows())
    }

    /// The sort keys of the first and last row whose session a changed row of sort key `order` is in, or was, or would be.
    pub fn around(&self, memory: &Memory, view: &View, order: &[u8]) -> Result<Option<KeyRange>, Stop> {
        let (first, end) = (view.lower_bound(memory, order)?, view.upper_bound(memory, order)?);
        let key = |position: usize| Ok::<_, Stop>(memory.get(view.entry(memory, position)?.order).to_vec());
        let mut scratch = Memory::default();
        let mut low = first;
        if let Some(before) = first.checked_sub(1)
            && self.joined(&mut scratch, &key(before)?, order)?
        {
            low = self.start(memory, view, before)?;
        }
        let mut high = end;
        if end < view.rows() && self.joined(&mut scratch, order, &key(end)?)? {
            high = self.end(memory, view, end)?;
        }
        if low == high {
            return Ok(None);
        }
        Ok(Some((key(low)?, key(high - 1)?)))
    }

    /// The frame of each row of a run.
    pub fn frames(&self, memory: &Memory, view: &View, run: &Run) -> Result<Vec<Positions>, Stop> {
        let first = self.start(memory, view, run.start)?;
        let end = self.end(memory, view, run.end - 1)?;
        let cuts = self.cuts(memory, &entries(memory, view, first..end)?)?;
        let starts = std::iter::once(first).chain((first + 1..end).filter(|at| cuts[at - first - 1]));
        let starts: Vec<usize> = starts.chain([end]).collect();
        let mut frames = Vec::with_capacity(run.end - run.start);
        for session in starts.windows(2) {
            let rows = session[0].max(run.start)..session[1].min(run.end);
            frames.extend(rows.map(|_| (session[0], session[1])));
        }
        Ok(frames)
    }

    /// How many rows at the start of a partition are in sessions that are closed.
    pub fn closed_rows(&self, memory: &Memory, view: &View, time: &TimeColumn, watermark: i64) -> Result<usize, Stop> {
        let certain = time.key_of(watermark.saturating_sub(self.gap_us_max).saturating_add(1))?;
        let mut open = view.lower_bound(memory, &certain)?;
        while open < view.rows() {
            let times = self.times(memory, &entries(memory, view, open..open + 1)?)?;
            let end = times.first().and_then(|(_, end)| *end);
            if end.is_none_or(|end| end > watermark) {
                // The first row that holds its session open.
                return self.start(memory, view, open);
            }
            open += 1;
        }
        Ok(view.rows())
    }

    /// When the session of the row at `position` ends, microseconds since 1970; `None` for rows without a time.
    pub fn end_time(&self, memory: &Memory, view: &View, position: usize) -> Result<Option<i64>, Stop> {
        let end = self.end(memory, view, position)?;
        let times = self.times(memory, &entries(memory, view, end - 1..end)?)?;
        Ok(times.first().and_then(|(_, end)| *end))
    }
}

fn entries(memory: &Memory, view: &View, range: std::ops::Range<usize>) -> Result<Vec<Entry>, Unread> {
    let mut entries = Vec::with_capacity(range.len());
    view.each(memory, range, |_, entry| entries.push(entry))?;
    Ok(entries)
}
