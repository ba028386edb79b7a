//! Bounds on the time of a row's partners: until when a row is needed, and what that tells of the result's time.

use arrow::array::BooleanArray;

use super::side::{Changes, Heads};
use super::{Join, JoinSpec};
use crate::error::Result;
use crate::stream::changelog::Delta;
use crate::stream::operator::event_time::times;
use crate::stream::operator::{EpochContext, Watermarks};

/// A bound on the time of a row's partners: `partner.passed_by <= row.column + offset`, as part of the residual condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeBound {
    /// A timestamp of the row.
    pub column: usize,
    pub offset_us: i64,
    /// A timestamp of the partner, with a watermark.
    pub passed_by: usize,
}

impl JoinSpec {
    /// Timestamps of the result that the watermark of the bounds passes after a time, in microseconds: a new row's own is
    /// not below that watermark, and that of a stored row which it meets is not further below than its bound lets it.
    pub fn bounded_columns(&self) -> Vec<(usize, i64)> {
        let [Some(left), Some(right)] = self.bounds else { return Vec::new() };
        let left_width = self.sides[0].schema.fields().len();
        let own = [(left, right.passed_by, 0), (right, left.passed_by, left_width)];
        let shown = own.into_iter().enumerate().filter(|(side, _)| *side == 0 || self.kind.shows(1));
        // The row's own time must be what bounds it.
        let bounded = shown.filter(|(_, (bound, own, _))| bound.column == *own);
        bounded.map(|(_, (bound, own, start))| (start + own, bound.offset_us.max(0))).collect()
    }
}

impl Join {
    /// The watermark of the bounds: what all the timestamps in them have passed.
    pub(super) fn bounds_passed(&self, of_port: impl Fn(usize) -> Option<Watermarks>) -> Option<i64> {
        let mut passed = None;
        for (side, bound) in self.spec.bounds.iter().enumerate() {
            if let Some(bound) = bound {
                let watermark = of_port(1 - side)?.get(bound.passed_by).copied().flatten()?;
                passed = Some(passed.map_or(watermark, |so_far: i64| so_far.min(watermark)));
            }
        }
        passed
    }

    /// Until when each changed row of a side is needed, if that is bounded, as the other side's time.
    pub(super) fn needed_until(&self, side: usize, delta: &Delta) -> Result<Option<Vec<i64>>> {
        let Some(TimeBound { column, offset_us, .. }) = self.spec.bounds[side] else { return Ok(None) };
        // Without a time it has no partners.
        let until = |time: Option<i64>| time.map_or(i64::MIN, |time| time.saturating_add(offset_us));
        let mut moments: Vec<i64> = times(delta.batch.column(column))?.into_iter().map(until).collect();
        if !self.spec.sides[side].append_only
            && let Some(other) = self.spec.bounds[1 - side]
        {
            // It may be taken back until that would be late.
            let own = times(delta.batch.column(other.passed_by))?;
            moments.iter_mut().zip(own).for_each(|(until, own)| *until = (*until).max(own.unwrap_or(i64::MAX)));
        }
        Ok(Some(moments))
    }

    /// Takes changes into a side's rows, where they may be needed at `from` or later.
    pub(super) fn store_needed(
        &mut self,
        side: usize,
        mut changes: Changes,
        mut counts: Vec<i64>,
        from: Option<i64>,
        context: &mut EpochContext<'_>,
    ) -> Result<()> {
        let Some(mut moments) = self.needed_until(side, &changes.delta)? else {
            return self.store(side, &changes, &counts, context);
        };
        if let Some(from) = from
            && moments.iter().any(|until| *until < from)
        {
            let is_needed: BooleanArray = moments.iter().map(|until| Some(*until >= from)).collect();
            fn keep<T: Copy>(rows: &mut Vec<T>, mask: &BooleanArray) {
                let mut row = 0;
                rows.retain(|_| {
                    row += 1;
                    mask.value(row - 1)
                });
            }
            changes.delta = changes.delta.filter(&is_needed)?;
            keep(&mut changes.groups.of_row, &is_needed);
            keep(&mut moments, &is_needed);
            if !counts.is_empty() {
                keep(&mut counts, &is_needed);
            }
        }
        self.sides[side].apply(context.state, context.epoch, &changes, &counts, Heads::Until(&moments))?;
        Ok(())
    }
}
