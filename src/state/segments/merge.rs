//! Merging of the small segments that small epochs leave at the end of a table.
//!
//! Eight neighbours of about one size become one, so that a row is rewritten once for each eightfold growth, until a
//! segment has half of [`SEGMENT_BYTES`]. The merge is part of the write set of the epoch whose append caused it.

use std::ops::Bound;

use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;

use super::{Decoder, Piece, RowId, SEGMENT_BYTES, compact_views, encode, parse_key};
use crate::error::Result;
use crate::state::{Level, State, TableId};

/// Segments merged into one at a time.
const FAN_IN: usize = 8;

/// Epochs that are looked through for small segments when a table is appended to for the first time since the start.
/// Older ones stay as they are.
const LOOK_BACK_EPOCHS: u64 = 1024;

/// The segments at the end of a table that may still be merged, in order. A cache: forgetting it costs one look back.
#[derive(Debug, Default)]
pub(in crate::state) struct Tail {
    segments: Vec<Small>,
    looked_back: bool,
}

/// A segment of less than half the full size.
#[derive(Debug, Clone, Copy)]
struct Small {
    last: RowId,
    bytes: usize,
}

impl Tail {
    /// Finds the small segments that are there already, once.
    pub(super) fn look_back(&mut self, state: &State, table: TableId) -> Result<()> {
        if self.looked_back {
            return Ok(());
        }
        self.looked_back = true;
        let start = RowId::new(state.epoch().saturating_sub(LOOK_BACK_EPOCHS), 0).key();
        let mut scan = state.scan(table, Bound::Included(&start), Bound::Unbounded, Level::Open);
        while let Some((key, value)) = scan.next_row()? {
            self.push(parse_key(key)?, value.len());
        }
        Ok(())
    }

    /// A segment was appended.
    pub(super) fn push(&mut self, last: RowId, bytes: usize) {
        if bytes >= SEGMENT_BYTES / 2 {
            self.segments.clear();
        } else {
            self.segments.push(Small { last, bytes });
        }
    }

    /// Merges while the last segments are alike in size.
    pub(super) fn merge(&mut self, state: &mut State, table: TableId, schema: &SchemaRef) -> Result<()> {
        while let Some(start) = self.segments.len().checked_sub(FAN_IN) {
            let first = self.segments[start].bytes;
            let others: usize = self.segments[start + 1..].iter().map(|s| s.bytes).sum();
            if first > FAN_IN * others / (FAN_IN - 1) {
                return Ok(());
            }
            let parts = self.segments.split_off(start);
            self.merge_parts(state, table, schema, &parts)?;
        }
        Ok(())
    }

    /// Writes one segment in place of some neighbours, under the key of the last.
    fn merge_parts(&mut self, state: &mut State, table: TableId, schema: &SchemaRef, parts: &[Small]) -> Result<()> {
        let Some((last, before)) = parts.split_last() else { return Ok(()) };
        let decoder = Decoder::new(schema, None)?;
        let mut batches = Vec::with_capacity(parts.len());
        let mut pieces: Vec<Piece> = Vec::new();
        for part in parts {
            let Some(value) = state.get(table, &part.last.key())? else {
                // Truncated since; what comes after it is not worth the trouble.
                return Ok(());
            };
            let (batch, more) = decoder.decode(&value)?;
            batches.push(batch);
            for piece in more {
                match pieces.last_mut() {
                    Some(last) if last.epoch == piece.epoch && last.first + last.rows == piece.first => {
                        last.rows += piece.rows;
                    }
                    _ => pieces.push(piece),
                }
            }
        }
        let merged = encode(&compact_views(&concat_batches(schema, &batches)?)?, &pieces)?;
        for part in before {
            state.delete(table, &part.last.key());
        }
        state.put(table, &last.last.key(), &merged);
        self.push(last.last, merged.len());
        Ok(())
    }
}
