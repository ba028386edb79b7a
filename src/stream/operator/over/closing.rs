//! Event time in ORDER BY: when its column carries a watermark, rows behind every frame are freed, rows behind the watermark
//! are late, and with EMIT ON WINDOW CLOSE a row's results appear once no row can change them.
//!
//! A partition that has something to wait for is in a table of *timers*: the watermark that it waits for, partition key. It
//! waits for its first row without results to be final, or for all of its rows to be behind every frame.

use std::ops::Bound;

use arrow::datatypes::IntervalMonthDayNano;

use super::chunks::NEVER;
use super::epoch::Epoch;
use super::frame::{Distance, Edge, Frame, Units};
use super::function::{WindowCall, WindowKind};
use super::{CLOSE_CHUNK_ROWS, Over, OverSpec, watermark};
use crate::error::{Error, Result, sqlstate};
use crate::state::{ByteRows, Level, TableId};
use crate::stream::changelog::Delta;
use crate::stream::operator::EpochContext;
use crate::stream::operator::event_time::{MICROS_PER_DAY, TimeColumn, times};
use crate::stream::operator::waiting::{moment, moment_key};

/// Between two looks at a partition that may be behind every frame.
const LOOK_EVERY_US: i64 = 1_000_000;
const CLOSED: &[u8] = b"closed";

/// How far from a row the rows are that its results come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spans {
    back_us: i64,
    forward_us: i64,
    rows_back: usize,
    rows_forward: usize,
    /// They look at sessions with this gap.
    gap: Option<IntervalMonthDayNano>,
}

/// The order column's time.
pub(super) struct OrderTime {
    pub column: usize,
    pub time: TimeColumn,
    spans: Spans,
    timers: TableId,
    progress: TableId,
    /// The watermark up to which timers are known to have run.
    pub closed: Option<i64>,
}

impl Spans {
    /// Of all functions together; `None` if one looks without bound, or so that what it needs cannot be told from the time.
    pub fn of(functions: &[WindowCall]) -> Option<Self> {
        let mut all = Self::default();
        if let [first, others @ ..] = functions
            && let Some(gap) = first.frame.gap().filter(|_| first.has_frame())
        {
            let same = others.iter().all(|f| f.has_frame() && f.frame.gap() == Some(gap));
            return same.then_some(Self { back_us: micros(Distance::Interval(gap))?, gap: Some(gap), ..all });
        }
        for function in functions {
            match function.kind {
                WindowKind::Lag(n) => {
                    all.rows_back = all.rows_back.max(usize::try_from(n).unwrap_or(0));
                    all.rows_forward = all.rows_forward.max(usize::try_from(-n).unwrap_or(0));
                }
                _ if !function.has_frame() => return None,
                _ if function.frame.units == Units::Rows => {
                    let (start, end) = (Frame::rows(function.frame.start)?, Frame::rows(function.frame.end)?);
                    all.rows_back = all.rows_back.max(usize::try_from(-start).unwrap_or(0));
                    all.rows_forward = all.rows_forward.max(usize::try_from(end).unwrap_or(0));
                }
                _ => {
                    all.back_us = all.back_us.max(match function.frame.start {
                        Edge::Before(distance) => micros(distance)?,
                        Edge::Current | Edge::After(_) => 0,
                        Edge::Unbounded => return None,
                    });
                    all.forward_us = all.forward_us.max(match function.frame.end {
                        Edge::After(distance) => micros(distance)?,
                        Edge::Current | Edge::Before(_) => 0,
                        Edge::Unbounded => return None,
                    });
                }
            }
        }
        let mixed = all.rows_forward > 0 && (all.back_us > 0 || all.forward_us > 0);
        (!mixed).then_some(all)
    }

    /// Whether results are final once the watermark is far enough.
    pub fn close(self) -> bool {
        self.rows_forward == 0
    }

    /// The gap of the sessions and at least its microseconds.
    pub fn session(self) -> Option<(IntervalMonthDayNano, i64)> {
        Some((self.gap?, self.back_us))
    }

    /// Before which watermark no result that changes of `earliest` or later alter is final, of which some may be taken back.
    /// Of what goes from a session, that is left which is less than a gap before.
    fn first_due(self, earliest: i64, takes_back: bool) -> i64 {
        match self.gap {
            None => earliest.saturating_add(self.forward_us),
            Some(_) if takes_back => earliest,
            Some(gap) => {
                let days = i64::from(gap.months) * 28 + i64::from(gap.days);
                let least_us = days.saturating_mul(MICROS_PER_DAY).saturating_add(gap.nanoseconds / 1000);
                earliest.saturating_add(least_us).saturating_sub(1)
            }
        }
    }

    fn total_us(self) -> i64 {
        self.back_us.saturating_add(self.forward_us)
    }
}

/// At least the microseconds of a distance; months count as their longest.
fn micros(distance: Distance) -> Option<i64> {
    match distance {
        Distance::Interval(i) => {
            let days = i64::from(i.months.max(0)).checked_mul(31)?.checked_add(i.days.into())?;
            days.checked_mul(MICROS_PER_DAY)?.checked_add(i.nanoseconds / 1000)
        }
        Distance::Units(_) | Distance::Float(_) => None,
    }
}

impl OrderTime {
    /// The time of an operator's ORDER BY, if that has one and its functions let go of rows.
    ///
    /// # Errors
    /// Of the column's type.
    pub fn new(spec: &OverSpec) -> Result<Option<Self>> {
        let (true, Some(first)) = (spec.order_time, spec.order_by.first()) else { return Ok(None) };
        let Some(spans) = Spans::of(&spec.functions) else { return Ok(None) };
        let time = TimeColumn::new(spec.input.field(first.column).data_type())?;
        let table = |part| TableId::new(spec.object.0, spec.first_part + part);
        Ok(Some(Self { column: first.column, time, spans, timers: table(2), progress: table(3), closed: None }))
    }

    /// The watermark of the result's times: later changes are of rows at or above it.
    pub fn result_watermark(&self, input: i64) -> Option<i64> {
        (self.spans.close() && self.spans.gap.is_none()).then(|| input.saturating_sub(self.spans.forward_us))
    }

    /// The watermark of the last time of a row's session.
    pub fn session_watermark(&self, input: i64) -> Option<i64> {
        self.spans.gap.map(|_| input.saturating_add(1).saturating_sub(self.spans.back_us))
    }
}

impl Over {
    /// Notes what the changed partitions wait for, and forgets the rows that are behind every frame.
    pub(super) fn wait_and_trim(
        &mut self,
        epoch: &mut Epoch,
        delta: &Delta,
        context: &mut EpochContext<'_>,
    ) -> Result<()> {
        let Some(order) = &self.order_time else { return Ok(()) };
        let (column, spans) = (order.column, order.spans);
        let Spans { back_us, forward_us, rows_back, rows_forward, gap } = spans;
        let takes_back = delta.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|w| *w < 0));
        let times = times(delta.batch.column(column))?;
        for (number, earliest, latest) in epoch.times_of_partitions(&times) {
            let due = epoch.due(number);
            let wanted = match (earliest, latest) {
                (Some(earliest), _) if self.spec.emit_on_window_close => spans.first_due(earliest, takes_back).min(due),
                (_, Some(latest)) if rows_back == 0 && rows_forward == 0 && due == NEVER => {
                    latest.saturating_add(forward_us).saturating_add(back_us.max(LOOK_EVERY_US))
                }
                _ => due,
            };
            self.set_timer(epoch, number, wanted, context)?;
        }
        // Rows whose results have not appeared yet still need those before them.
        let passed = context.watermarks.first().and_then(|port| match self.spec.emit_on_window_close {
            true => watermark(&port.committed, column),
            false => watermark(&port.current, column),
        });
        match passed {
            // Sessions that close are put out and forgotten by their timers.
            Some(_) if gap.is_some() && self.spec.emit_on_window_close => {}
            Some(passed) => self.trim(epoch, passed, context)?,
            None => {}
        }
        // What waited was taken back, and would wait twice once the partition is there again.
        for number in epoch.emptied() {
            self.set_timer(epoch, number, NEVER, context)?;
        }
        Ok(())
    }

    fn set_timer(&self, epoch: &mut Epoch, number: usize, due: i64, context: &mut EpochContext<'_>) -> Result<()> {
        let Some(order) = &self.order_time else { return Ok(()) };
        let before = epoch.due(number);
        if before == due {
            return Ok(());
        }
        let key = |due: i64, epoch: &Epoch| [moment_key(due).as_slice(), epoch.key(number)].concat();
        if before != NEVER {
            context.state.delete(order.timers, &key(before, epoch));
        }
        if due != NEVER {
            context.state.put(order.timers, &key(due, epoch), &[]);
        }
        epoch.set_due(number, due);
        Ok(())
    }

    /// Forgets the rows of the epoch's partitions that no result which can still change comes from.
    fn trim(&mut self, epoch: &mut Epoch, current: i64, context: &mut EpochContext<'_>) -> Result<()> {
        let Some(order) = &self.order_time else { return Ok(()) };
        let Spans { back_us, forward_us, rows_back, rows_forward, gap } = order.spans;
        if gap.is_some() {
            let closed = epoch.closed_rows(self, current, context)?;
            epoch.trim(|number, _, _| closed[number]);
            return Ok(());
        }
        let changing = order.time.key_of(current.saturating_sub(forward_us))?;
        let seen = order.time.key_of(current.saturating_sub(forward_us).saturating_sub(back_us))?;
        epoch.trim(|_, memory, view| {
            let first = view.lower_bound_or_before(memory, &changing).saturating_sub(rows_forward);
            view.lower_bound_or_before(memory, &seen).min(first.saturating_sub(rows_back))
        });
        Ok(())
    }

    /// Runs the timers that the watermark has passed.
    pub(super) fn run_timers(&mut self, context: &mut EpochContext<'_>, output: &mut Vec<Delta>) -> Result<()> {
        let Some(order) = &self.order_time else { return Ok(()) };
        let (timers, progress, spans) = (order.timers, order.progress, order.spans);
        let Some(current) = context.watermarks.first().and_then(|port| watermark(&port.current, order.column)) else {
            return Ok(());
        };
        if order.closed.is_some_and(|closed| closed >= current) {
            return Ok(());
        }
        let emits = self.spec.emit_on_window_close;
        let emitted = match order.closed {
            Some(closed) => Some(closed),
            None if emits => stored_progress(context, progress)?,
            None => None,
        };
        let from = emitted.map(|w| order.time.key_of(w.saturating_sub(spans.forward_us))).transpose()?;
        let upto = order.time.key_of(current.saturating_sub(spans.forward_us))?;
        let bound = moment_key(current);
        let mut after = Bound::Unbounded;
        loop {
            let (mut keys, mut values) = (ByteRows::new(), ByteRows::new());
            let start = after.as_ref().map(Vec::as_slice);
            context.state.scan(timers, start, Bound::Excluded(&bound), Level::Open).fill(
                &mut keys,
                &mut values,
                CLOSE_CHUNK_ROWS,
            )?;
            let Some(last) = keys.len().checked_sub(1) else { break };
            after = Bound::Excluded(keys.get(last).to_vec());
            let own = keys.iter().map(|key| &key[8..]).filter(|partition| context.shard.owns(partition));
            let partitions: ByteRows = own.collect();
            let mut epoch = Epoch::of_partitions(self, &partitions, context)?;
            let waiting: Vec<Option<i64>> = if emits && spans.gap.is_some() {
                let before = match emitted {
                    Some(emitted) => epoch.closed_rows(self, emitted, context)?,
                    None => vec![0; partitions.len()],
                };
                let closed = epoch.closed_rows(self, current, context)?;
                epoch.take_rows(self, &before, &closed, context)?;
                output.extend(epoch.results(self, context)?);
                let ends = epoch.session_ends(self, &closed, context)?;
                ends.into_iter().map(|end| Some(end?.saturating_sub(1))).collect()
            } else {
                if emits {
                    epoch.take_between(self, from.as_deref(), &upto, context)?;
                    output.extend(epoch.results(self, context)?);
                }
                let firsts = epoch.first_times_from(self, emits.then_some(upto.as_slice()), context)?;
                firsts.into_iter().map(|first| Some(first?.saturating_add(spans.forward_us))).collect()
            };
            for (number, due) in waiting.into_iter().enumerate() {
                let look_again = current.saturating_add(spans.total_us().max(LOOK_EVERY_US));
                let due = match due {
                    Some(due) => due,
                    None if spans.rows_back == 0 && epoch.has_rows(number) => look_again,
                    None => NEVER,
                };
                self.set_timer(&mut epoch, number, due, context)?;
            }
            self.trim(&mut epoch, current, context)?;
            for number in epoch.emptied() {
                self.set_timer(&mut epoch, number, NEVER, context)?;
            }
            epoch.write(self, context)?;
        }
        context.state.truncate_below(timers, &bound);
        if emits {
            context.state.put(progress, CLOSED, &current.to_be_bytes());
        }
        if let Some(order) = &mut self.order_time {
            order.closed = Some(current);
        }
        Ok(())
    }
}

impl Over {
    /// Looks what the watermark has to reach for the next results to appear, if they wait for it.
    pub(super) fn find_next_close(&mut self, context: &EpochContext<'_>) -> Result<()> {
        if !self.spec.emit_on_window_close {
            return Ok(());
        }
        let first_of = |table| context.state.scan(table, Bound::Unbounded, Bound::Unbounded, Level::Open);
        self.next_close = match (&self.time, &self.order_time) {
            (Some((_, time)), _) => match first_of(self.partitions.table()).next_row()? {
                Some((key, _)) => self.key_codec.decode_prefixes(&mut [key])?.first().and_then(|c| time.passed_at(c)),
                None => None,
            },
            (None, Some(order)) => {
                let due = first_of(order.timers).next_row()?.map(|(key, _)| moment(key)).transpose()?;
                due.map(|due| due.saturating_add(1))
            }
            (None, None) => None,
        };
        Ok(())
    }
}

fn stored_progress(context: &EpochContext<'_>, table: TableId) -> Result<Option<i64>> {
    let Some(bytes) = context.state.get(table, CLOSED)? else { return Ok(None) };
    match bytes.try_into() {
        Ok(bytes) => Ok(Some(i64::from_be_bytes(bytes))),
        Err(_) => {
            Err(Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: the time of a window function"))
        }
    }
}
