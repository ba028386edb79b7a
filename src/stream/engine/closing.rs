//! When windows of processing time close if nothing comes: time alone moves their watermark, so the loop has to wake for it.
//!
//! Operators that hold rows back say what their watermark has to reach ([`Operator::held_until`](crate::stream::operator::Operator::held_until)).
//! How far the clock has to go for that is found by trying: watermarks are monotone in it, and taking a moment through the
//! operators costs little.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_catalog::ObjectId;

use super::epoch::{EpochLoop, now_us};
use crate::stream::operator::Watermarks;

/// The first step ahead that is tried.
const STEP_US: i64 = 1_000;
/// Windows that close later than in this time are looked at again when it is over.
const HORIZON_US: i64 = 3_600_000_000;

impl EpochLoop {
    /// How long it is until time alone closes a window; `None`: no window waits for the clock, or only in a long time.
    pub(super) fn next_close(&self) -> Option<Duration> {
        let has_clock = self.sources.values().any(|s| s.is_read() && s.has_clock());
        let is_held = self.pipelines.values().any(|p| p.holds_rows());
        // While a sink is full nothing is taken, not even the time.
        if !has_clock || !is_held || self.outbox_full() {
            return None;
        }
        let now = now_us().max(self.last_now_us);
        let (mut before, mut after) = (0, 0);
        while !self.closes_at(now + after) {
            if after >= HORIZON_US {
                return None;
            }
            before = after;
            after = (after * 2).max(STEP_US);
        }
        // Not at `before`, but at `after`.
        while after - before > 1 {
            let between = before + (after - before) / 2;
            if self.closes_at(now + between) {
                after = between;
            } else {
                before = between;
            }
        }
        let wait_us = now + after - now_us();
        Some(Duration::from_micros(wait_us.max(0) as u64))
    }

    /// Whether a window would close if it were that time and nothing had come.
    fn closes_at(&self, at_us: i64) -> bool {
        let clocks = self.sources.iter().filter(|(_, s)| s.has_clock());
        let mut known: BTreeMap<ObjectId, Watermarks> =
            clocks.map(|(id, s)| (*id, s.watermarks(at_us, at_us).current)).collect();
        for (id, pipeline) in &self.pipelines {
            let Some((closes, output)) = pipeline.at_watermarks(&|id| known.get(&id)) else { continue };
            if closes {
                return true;
            }
            known.insert(*id, output);
        }
        false
    }
}
