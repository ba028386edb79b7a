//! How long records that could not be read, and late rows, are kept: by age, and removed in ranges.
//!
//! Both lie in segments in the order of their epochs, which know no time. So a mark is kept of the time and the epoch in
//! which some of them came, one for each stretch of time; once a stretch is older than the setting says, all before the next
//! mark's epoch goes at once, by moving the lower bound of the table. A row may stay a stretch longer than it has to, and
//! with it those that were merged into one segment with younger ones.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::epoch::EpochLoop;
use super::system;
use super::work::Work;
use crate::error::{Error, Result, sqlstate};
use crate::state::system::ENGINE;
use crate::state::{Snapshot, State, successor};

/// Prefix of the keys of the marks; behind it comes the time, in microseconds since 1970, big endian.
const MARK: &[u8] = b"kept ";
/// How many stretches the time is cut in for which rows are kept, and the bounds of their length.
const STRETCHES: i64 = 30;
const STRETCH_US: (i64, i64) = (1_000_000, 86_400_000_000);

/// When kept rows came, and how long they stay.
pub(super) struct Retention {
    /// `None`: for ever.
    keep_us: Option<i64>,
    /// Times and the epochs from which on rows are at least as young, ascending.
    marks: VecDeque<(i64, u64)>,
}

impl Retention {
    /// Rows are kept for so long, for ever if that is 0.
    pub fn new(keep: Duration) -> Self {
        let keep_us = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        Self { keep_us: Some(keep_us).filter(|us| *us > 0), marks: VecDeque::new() }
    }

    /// Takes up the marks of the last committed epoch.
    pub fn recover(&mut self, snapshot: &Arc<Snapshot>) -> Result<()> {
        let corrupt = || Error::new(sqlstate::DATA_CORRUPTED, "the ages of dead letters cannot be read");
        self.marks.clear();
        let to = successor(MARK);
        for entry in snapshot.scan(ENGINE, Bound::Included(MARK), to.as_ref().map(Vec::as_slice)) {
            let (key, value) = entry?;
            let at_us = key[MARK.len()..].try_into().map(i64::from_be_bytes).map_err(|_| corrupt())?;
            let epoch = value.as_slice().try_into().map(u64::from_be_bytes).map_err(|_| corrupt())?;
            self.marks.push_back((at_us, epoch));
        }
        Ok(())
    }

    /// Rows came in an epoch.
    pub fn came(&mut self, state: &mut State, epoch: u64, now_us: i64) {
        let Some(stretch_us) = self.stretch_us() else { return };
        if self.marks.back().is_none_or(|(at_us, _)| now_us - at_us >= stretch_us) {
            self.marks.push_back((now_us, epoch));
            state.put(ENGINE, &key(now_us), &epoch.to_be_bytes());
        }
    }

    fn stretch_us(&self) -> Option<i64> {
        Some((self.keep_us? / STRETCHES).clamp(STRETCH_US.0, STRETCH_US.1))
    }

    /// Whether the oldest stretch is too old.
    pub fn is_due(&self, now_us: i64) -> bool {
        match (self.keep_us, self.stretch_us(), self.marks.front()) {
            (Some(keep_us), Some(stretch_us), Some((at_us, _))) => at_us + stretch_us <= now_us - keep_us,
            _ => false,
        }
    }

    /// Forgets the stretches that are too old; the epoch before which all rows are, if there are such.
    fn expire(&mut self, state: &mut State, epoch: u64, now_us: i64) -> Option<u64> {
        let mut before = None;
        while self.is_due(now_us)
            && let Some((at_us, _)) = self.marks.pop_front()
        {
            state.delete(ENGINE, &key(at_us));
            before = Some(self.marks.front().map_or(epoch, |(_, next)| *next));
        }
        before
    }
}

fn key(at_us: i64) -> Vec<u8> {
    [MARK, &at_us.to_be_bytes()].concat()
}

impl EpochLoop {
    /// Removes dead letters and late rows that have been kept for long enough.
    pub(super) fn expire_kept(&mut self, work: &mut Work) -> Result<()> {
        let Some(before) = self.retention.expire(&mut self.state, work.epoch, work.now_us) else { return Ok(()) };
        system::dead_letters()?.truncate_before(&mut self.state, before);
        for pipeline in self.pipelines.values() {
            pipeline.forget_late_before(&mut self.state, before);
        }
        tracing::info!(before, "dead letters and late rows that are older than dead_letter_retention were removed");
        work.dirty = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_due_once_all_of_it_is_old() {
        let mut retention = Retention::new(Duration::from_secs(30));
        assert!(!retention.is_due(i64::MAX));
        retention.marks.push_back((5_000_000, 7));
        assert!(!retention.is_due(35_999_999));
        assert!(retention.is_due(36_000_000));
        let mut for_ever = Retention::new(Duration::ZERO);
        for_ever.marks.push_back((0, 1));
        assert!(!for_ever.is_due(i64::MAX));
    }
}
