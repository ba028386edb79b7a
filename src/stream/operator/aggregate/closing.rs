//! Groups whose time the watermark has passed: their results with EMIT ON WINDOW CLOSE, and the end of their state.

use std::ops::Bound;

use arrow::array::{ArrayRef, BooleanArray};

use super::{HashAggregate, bad_layout, batch, watermark};
use crate::error::Result;
use crate::state::{ByteRows, Level};
use crate::stream::changelog::Delta;
use crate::stream::operator::{EpochContext, RowError};

/// Groups that are read and emitted together when windows close.
pub(super) const CLOSE_CHUNK_ROWS: usize = 8192;

impl HashAggregate {
    /// Closes the groups that the watermark has passed: puts them out if that is when they appear, and frees their state.
    pub(super) fn close(&mut self, context: &mut EpochContext<'_>, output: &mut Vec<Delta>) -> Result<()> {
        let Some((input, time)) = &self.time else { return Ok(()) };
        let Some(current) = context.watermarks.first().and_then(|port| watermark(&port.current, *input)) else {
            return Ok(());
        };
        if self.closed.is_some_and(|closed| closed >= current) {
            return Ok(());
        }
        let (bound, shard) = (time.key_of(current)?, context.shard);
        if self.spec.emit_on_window_close {
            let mut errors = Vec::new();
            let mut scan =
                context.state.scan(self.groups.table(), Bound::Unbounded, Bound::Excluded(&bound), Level::Open);
            loop {
                let (mut keys, mut values) = (ByteRows::new(), ByteRows::new());
                if scan.fill(&mut keys, &mut values, CLOSE_CHUNK_ROWS)? == 0 {
                    break;
                }
                let (keys, values) = shard.own_entries(keys, values);
                self.emit_closed(&keys, &values, &mut errors, output)?;
            }
            drop(scan);
            context.errors.append(&mut errors);
        }
        self.groups.truncate_below(context.state, &bound);
        self.values.truncate_below(context.state, &bound);
        self.closed = Some(current);
        if self.spec.emit_on_window_close {
            self.next_close = self.first_close(&bound, context)?;
        }
        Ok(())
    }

    /// The watermark that closes the first group at or behind a key.
    fn first_close(&self, from: &[u8], context: &EpochContext<'_>) -> Result<Option<i64>> {
        let Some((_, time)) = &self.time else { return Ok(None) };
        let mut scan = context.state.scan(self.groups.table(), Bound::Included(from), Bound::Unbounded, Level::Open);
        let Some((key, _)) = scan.next_row()? else { return Ok(None) };
        let columns = self.key_codec.decode(std::iter::once(key))?;
        Ok(columns.first().and_then(|column| time.passed_at(column)))
    }

    fn emit_closed(
        &self,
        keys: &ByteRows,
        values: &ByteRows,
        errors: &mut Vec<RowError>,
        output: &mut Vec<Delta>,
    ) -> Result<()> {
        let key_columns = self.key_codec.decode(keys.iter())?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.spec.output.fields().len());
        for i in 0..self.key_order.len() {
            let at =
                self.key_order.iter().position(|k| *k == i).ok_or_else(|| bad_layout("a key column is missing"))?;
            columns.push(key_columns[at].clone());
        }
        let results = self.results(&self.row_codec.decode(values.iter())?, |_| true, &vec![false; values.len()])?;
        for (group, error) in &results.errors {
            errors.push(self.row_error(error, &columns, *group, 1)?);
        }
        columns.extend(results.columns);
        let delta = Delta::inserts(batch(&self.spec.output, columns, keys.len())?);
        let delta = delta.filter(&BooleanArray::from(results.shown))?;
        if !delta.is_empty() {
            output.push(delta);
        }
        Ok(())
    }
}
