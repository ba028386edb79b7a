//! Rows that INSERT adds to a source: mended records, taken as if they had come from outside.
//!
//! They are kept in segments under the source's id, in the epoch of their statement, and every view on the source takes them
//! in that epoch. A view that is made later takes those that are kept with its first epoch, and a SELECT on the source reads
//! them behind the records: so all of them have the same rows. They belong to no partition and move no watermark.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use millstream_catalog::{Object, ObjectId, SqlType};

use super::epoch::EpochLoop;
use super::pipeline::{Changes, Pipeline};
use super::source::Source;
use super::work::Work;
use crate::error::{Error, Result, sqlstate};
use crate::state::{Layout, Level, Relation, TableId};
use crate::stream::changelog::Delta;
use crate::stream::plan::part;

/// The rows that were inserted into a source.
///
/// # Errors
/// 0A000 if a column has a type that cannot be stored.
pub fn inserted_relation(source: &Object) -> Result<Relation> {
    Relation::new(TableId::new(source.id.0, part::ROWS), source.arrow_schema(), Layout::Segments)
}

impl EpochLoop {
    /// Adds rows, all columns of the source but those of processing time filled, to the open epoch; returns them complete.
    ///
    /// # Errors
    /// 55000 if a view on the source is suspended, which would never see them.
    pub(super) fn insert_into_source(
        &mut self,
        id: ObjectId,
        rows: &RecordBatch,
        work: &mut Work,
    ) -> Result<RecordBatch> {
        let object = self.catalog.get(id).cloned();
        let object = object.ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_TABLE, format!("source with OID {id} does not exist any more"))
        })?;
        let stands = |p: &&Pipeline| p.suspended && p.reads().any(|scan| scan.object == id);
        if let Some(view) = self.pipelines.values().find(stands) {
            let message = format!("cannot insert into {}: \"{}\" on it is suspended", object.describe(), view.name);
            return Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .with_hint("ALTER MATERIALIZED VIEW ... RESUME it first"));
        }
        let rows = taken_at(&object, rows, work.now_us)?;
        inserted_relation(&object)?.apply(&mut self.state, &rows, None)?;
        let n = rows.num_rows();
        work.rows_written += n;
        work.inserted.entry(id).or_default().push(rows.clone());
        metrics::counter!("millstream_source_inserted_rows_total", "source" => object.name.clone()).increment(n as u64);
        Ok(rows)
    }

    /// Gives views on sources the rows that the epoch's statements have added, and new views those from before.
    pub(super) fn give_inserted(&mut self, work: &mut Work) -> Result<()> {
        for (id, batches) in std::mem::take(&mut work.inserted) {
            if let Some(source) = self.sources.get(&id).filter(|s| s.is_read()) {
                let changes = work.changes.remove(&id);
                let changes = with_rows(changes.unwrap_or_default(), source, &batches, work)?;
                work.changes.insert(id, changes);
            }
            for (key, catch_up) in self.catch_ups.iter().filter(|((_, source), _)| *source == id) {
                let changes = work.own_changes.remove(key);
                let changes = with_rows(changes.unwrap_or_default(), &catch_up.source, &batches, work)?;
                work.own_changes.insert(*key, changes);
            }
        }
        for (view, id) in std::mem::take(&mut work.first_reads) {
            let (Some(source), Some(object)) = (self.sources.get(&id), self.catalog.get(id)) else { continue };
            if !source.has_past() || !self.pipelines.contains_key(&view) {
                continue;
            }
            let (batches, _) = inserted_relation(object)?.read(&self.state, None, usize::MAX, Level::Committing)?;
            if batches.is_empty() {
                continue;
            }
            let key = (view, id);
            let (reader, changes) = match self.catch_ups.get(&key) {
                Some(catch_up) => (&catch_up.source, work.own_changes.remove(&key)),
                None => (source, work.changes.get(&id).cloned()),
            };
            let changes = with_rows(changes.unwrap_or_default(), reader, &batches, work)?;
            work.own_changes.insert(key, changes);
        }
        Ok(())
    }
}

/// A source's changes of the epoch with rows that were inserted behind them.
fn with_rows(mut changes: Changes, source: &Source, batches: &[RecordBatch], work: &Work) -> Result<Changes> {
    let columns: Vec<usize> = source.columns().collect();
    for batch in batches {
        changes.deltas.push(Delta::inserts(batch.project(&columns)?));
    }
    if changes.decoded.is_none() {
        // Nothing was taken of the source itself, for a sink is full.
        changes.watermarks = source.watermarks(work.before_us, work.now_us);
        changes.decoded = Some(columns);
    }
    Ok(changes)
}

/// Rows with the source's own columns, those of processing time as of now.
fn taken_at(source: &Object, rows: &RecordBatch, now_us: i64) -> Result<RecordBatch> {
    let columns = source.columns().iter().zip(rows.columns()).map(|(column, values)| {
        if !column.processing_time {
            return values.clone();
        }
        let now = TimestampMicrosecondArray::from_value(now_us, rows.num_rows());
        match column.sql_type {
            SqlType::Timestamptz => Arc::new(now.with_timezone("UTC")) as ArrayRef,
            _ => Arc::new(now),
        }
    });
    Ok(RecordBatch::try_new(source.arrow_schema(), columns.collect())?)
}
