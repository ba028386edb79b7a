//! What waits in a sink's outbox, for people: how many bytes, and since when.

use std::ops::Bound;
use std::sync::Arc;

use millstream_catalog::ObjectId;

use super::outbox::{BYTES, DELIVERED, NEXT, first_row, read_sequence};
use super::piece::PieceNote;
use crate::error::{Error, Result};
use crate::state::{Snapshot, TableId};
use crate::stream::plan::part;

/// Rows that the outside does not have, as of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes of the stored pieces that have them; `None` while the oldest was stored by a server that did not count.
    pub bytes: Option<u64>,
    /// When the oldest of them was made, microseconds since 1970; `None` if there is none, or as above.
    pub since_us: Option<i64>,
}

impl Waiting {
    /// No rows.
    pub const NOTHING: Self = Self { bytes: Some(0), since_us: None };

    /// What waits in the outbox of a sink.
    ///
    /// # Errors
    /// 58030 and XX001 when the disk cannot be read.
    pub fn of(snapshot: &Arc<Snapshot>, sink: ObjectId) -> Result<Self> {
        let (outbox, status) = (TableId::new(sink.0, part::OUTBOX), TableId::new(sink.0, part::STATUS));
        let number = |key| Ok::<_, Error>(read_sequence(snapshot, status, key)?.unwrap_or(0));
        let delivered = number(DELIVERED)?;
        if delivered >= number(NEXT)? {
            return Ok(Self::NOTHING);
        }
        let mut oldest = None;
        for entry in snapshot.scan(outbox, Bound::Unbounded, Bound::Unbounded) {
            let (key, piece) = entry?;
            // Pieces that were sent and not trimmed yet come first.
            if oldest.is_some() && first_row(&key)? > delivered {
                break;
            }
            oldest = Some(piece);
        }
        let Some(oldest) = oldest else { return Ok(Self::NOTHING) };
        let note = PieceNote::read(&oldest)?;
        let all = number(BYTES)?;
        Ok(Self { bytes: note.bytes_before.map(|before| all.saturating_sub(before)), since_us: note.made_us })
    }

    /// How long the oldest row has waited at `now_us`, in seconds; 0 if none waits, `None` if that is not known.
    pub fn lag_seconds(&self, now_us: i64) -> Option<f64> {
        match self.since_us {
            Some(since) => Some((now_us - since).max(0) as f64 / 1e6),
            None => (self.bytes == Some(0)).then_some(0.0),
        }
    }
}
