//! The events of the Nexmark benchmark, an auction house, made up as they are read: the same for the same options.
//!
//! * [`model`]: what event `n` is. [`columns`]: events as columns.
//! * [`json`]: events as JSON, for topics and files.
//! * [`reader`]: the thread behind [`crate::Reader`], and a SELECT on the source.
//!
//! A source has the one partition 0, in which an event's number is its offset. As every event can be made from its number
//! alone, a reader goes on exactly where a committed epoch ended.

mod columns;
mod json;
mod model;
mod reader;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_catalog::Column;

use self::columns::Known;
pub use self::json::JsonEvents;
use self::model::Model;
pub(crate) use self::reader::{BoundedReader, NexmarkReader, ReadTask};
use crate::error::{ConnectorError, Result};
use crate::format::datetime::parse_timestamp;
use crate::options::Options;

/// The partition that all events are in.
pub(crate) const PARTITION: i32 = 0;

/// Event time of the first event, unless `first_event_time` says otherwise: 2026-01-01.
const FIRST_EVENT_US: i64 = 1_767_225_600_000_000;
/// Events a second of event time, unless `event_rate` or `rate` says otherwise.
const EVENT_RATE: i64 = 10_000;
/// Bounds of what may be asked, so that no number overflows.
const EVENTS_MAX: i64 = 1_000_000_000_000;
const RATE_MAX: i64 = 1_000_000_000;

/// A validated source of Nexmark events. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct NexmarkSource {
    model: Model,
    /// How many events there are.
    pub events: i64,
    /// Events a second that a reader gives; 0: as many as are taken.
    rate: i64,
    /// What fills each declared column; nothing a computed one.
    columns: Arc<[Option<&'static Known>]>,
}

impl NexmarkSource {
    /// Takes the options that are Nexmark's, and looks up the declared columns.
    pub fn take(options: &mut Options<'_>, declared: &[Column]) -> Result<Self> {
        let events = take_bounded(options, "events", 1..=EVENTS_MAX)?.ok_or_else(|| options.missing("events"))?;
        let rate = take_bounded(options, "rate", 0..=RATE_MAX)?.unwrap_or(0);
        let event_rate = take_bounded(options, "event_rate", 1..=RATE_MAX)?;
        let event_rate = event_rate.unwrap_or(if rate > 0 { rate } else { EVENT_RATE });
        let seed = options.take_integer("seed")?.unwrap_or(1);
        let first_us = match options.take("first_event_time") {
            None => FIRST_EVENT_US,
            Some(text) => parse_timestamp(text.trim().as_bytes()).ok_or_else(|| {
                ConnectorError::option(format!(
                    "option \"first_event_time\" of a nexmark source is not a timestamp: \"{text}\""
                ))
                .with_hint("write it as '2026-01-01 00:00:00'")
            })?,
        };
        let model = Model::new(seed as u64, first_us, event_rate);
        if !model.can_hold(events) {
            return Err(ConnectorError::option("events of a nexmark source would be after the last timestamp")
                .with_hint("write an earlier first_event_time, a higher event_rate or fewer events"));
        }
        let recorded = |column: &Column| match column.is_computed() {
            true => Ok(None),
            false => columns::known(column).map(Some),
        };
        let columns = declared.iter().map(recorded).collect::<Result<_>>()?;
        Ok(Self { model, events, rate, columns })
    }

    /// The events `from..to` as the declared columns at `columns`, of the given schema.
    fn batch(&self, schema: &SchemaRef, columns: &[usize], from: i64, to: i64) -> Result<RecordBatch> {
        let known = columns.iter().filter_map(|i| self.columns[*i]);
        columns::batch(&self.model, schema, known, from as u64..to as u64)
    }
}

/// Takes a whole number within bounds.
fn take_bounded(options: &mut Options<'_>, name: &'static str, range: RangeInclusive<i64>) -> Result<Option<i64>> {
    match options.take_integer(name)? {
        Some(value) if !range.contains(&value) => Err(ConnectorError::option(format!(
            "option \"{name}\" of a nexmark source must be between {} and {}, not {value}",
            range.start(),
            range.end()
        ))),
        value => Ok(value),
    }
}
