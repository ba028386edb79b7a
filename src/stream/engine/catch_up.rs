//! A new view over a source that others read already: it reads the history on its own until it is where they are.
//!
//! The view has a reader of its own that ends where the shared one is. When it gets there the shared one has moved on, so
//! the end moves too; each round is shorter. For the last round the shared reader is held, and then the two stand at the
//! same offsets: from the next epoch on the view takes what the shared reader takes.

use std::collections::BTreeMap;

use millstream_catalog::ObjectId;
use millstream_connectors::{Doorbell, Positions};

use super::source::Source;
use crate::error::Result;

/// Records that may be left for the shared reader to be held for them.
const HOLD_RECORDS_MAX: i64 = 50_000;
/// Rounds after which the shared reader is held however much is left.
const ROUNDS_MAX: u32 = 8;

/// Views that read a source's history, by (view, source).
pub type CatchUps = BTreeMap<(ObjectId, ObjectId), CatchUp>;

/// One view's way to where a source's other views are.
pub struct CatchUp {
    pub source: Source,
    /// Rows that were read since the start of the server.
    pub rows_done: u64,
    rounds: u32,
    /// Whether the shared reader waits for this view.
    pub holds: bool,
}

impl CatchUp {
    /// Begins, or goes on after a restart.
    pub fn new(source: Source) -> Self {
        Self { source, rows_done: 0, rounds: 0, holds: false }
    }

    /// Records that the shared reader is ahead, if that is known.
    pub fn left(&self, shared: &Source) -> u64 {
        let (own, theirs) = (self.source.positions(), shared.positions());
        theirs.iter().map(|(p, offset)| own.get(p).map_or(0, |o| (offset - o).max(0) as u64)).sum()
    }

    /// Looks whether the view has come to its end for now. True if it has joined the shared reader.
    pub fn advance(&mut self, shared: &Source, doorbell: &Doorbell) -> Result<bool> {
        if self.source.is_suspended() || !self.source.is_at_end() {
            return Ok(false);
        }
        let (own, theirs) = (self.source.positions(), shared.positions());
        let left = distance(&own, &theirs);
        if left == 0 {
            return Ok(true);
        }
        self.rounds += 1;
        self.holds = left <= HOLD_RECORDS_MAX || self.rounds >= ROUNDS_MAX;
        self.source.read_until(theirs, doorbell)?;
        Ok(false)
    }
}

/// Records between two positions; those of a partition that only one of them has count too.
fn distance(own: &Positions, theirs: &Positions) -> i64 {
    theirs.iter().map(|(p, offset)| own.get(p).map_or(i64::MAX / 1024, |o| (offset - o).max(0))).sum()
}
