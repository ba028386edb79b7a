//! Row tables: the epoch loop is their one writer, and decides keys and conflicts there.
//!
//! A table with a primary key is keyed by it. One without has a hidden column `__row_id` as its last stored column, and is
//! keyed by that; an append-only one is kept in segments and has neither.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::physical_expr::PhysicalExpr;
use millstream_catalog::{Object, ObjectId, ObjectKind, SqlType};

use super::handle::{OnConflict, TableWrite};
use super::indexes::KeptIndexes;
use super::pipeline::Counters;
use crate::error::{About, Error, Result, sqlstate};
use crate::state::{Layout, Level, Relation, Snapshot, State, TableId};
use crate::stream::changelog::Delta;
use crate::stream::operator::PortWatermarks;
use crate::stream::plan::part;
use crate::stream::time::{evaluate_at, latest_time};

/// Name of the hidden key column of tables without a primary key.
pub const ROW_ID: &str = "__row_id";

/// A table in the loop.
pub struct Table {
    pub id: ObjectId,
    pub name: String,
    pub relation: Arc<Relation>,
    pub indexes: KeptIndexes,
    /// Columns that users see.
    visible: SchemaRef,
    primary_key: Vec<usize>,
    has_row_id: bool,
    next_row_id: i64,
    pub counters: Counters,
    /// The watermark's column and expression, over the visible columns.
    watermark: Option<(usize, Arc<dyn PhysicalExpr>)>,
    /// As committed with the epoch before, and with the open epoch's rows, microseconds since 1970.
    committed_watermark: Option<i64>,
    watermark_us: Option<i64>,
}

/// Records of a keyed source: rows, and which of them say that the row of their key is gone.
pub struct Upserts {
    pub batch: RecordBatch,
    pub deletes: Option<BooleanArray>,
}

/// What a write changed, and how to take it back.
pub struct Applied {
    /// Changes with all stored columns, a hidden row id last.
    pub deltas: Vec<Delta>,
    /// The rows that were inserted.
    pub inserted: Option<RecordBatch>,
    undo: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    grew: i64,
    watermark_before_us: Option<i64>,
}

/// The stored rows of a table object.
///
/// # Errors
/// 0A000 if a column has a type that cannot be stored, or be a key.
pub fn table_relation(object: &Object) -> Result<Relation> {
    let (primary_key, append_only) = kept(object)?;
    let (schema, layout) = stored(primary_key, append_only, &object.arrow_schema());
    Relation::new(TableId { object: object.id.0, part: part::ROWS }, schema, layout)
}

/// The primary key of a table object, and whether its rows only come. A snapshot of an external table is a table whose
/// rows come at once; a keyed source is one whose rows its records write.
///
/// # Errors
/// XX000 if the object is neither.
pub fn kept(object: &Object) -> Result<(&[usize], bool)> {
    match &object.kind {
        ObjectKind::Table(table) => Ok((&table.primary_key, table.append_only)),
        ObjectKind::Snapshot(_) => Ok((&[], true)),
        ObjectKind::Source(source) if source.is_keyed() => Ok((&source.primary_key, false)),
        _ => Err(Error::internal(format!("{} is no table", object.describe()))),
    }
}

/// Stored columns of a table, with the hidden one, and their layout.
fn stored(primary_key: &[usize], append_only: bool, visible: &SchemaRef) -> (SchemaRef, Layout) {
    if append_only {
        return (visible.clone(), Layout::Segments);
    }
    if !primary_key.is_empty() {
        return (visible.clone(), Layout::Keyed(primary_key.to_vec()));
    }
    let mut fields: Vec<_> = visible.fields().iter().cloned().collect();
    fields.push(Arc::new(SqlType::Int8.field(ROW_ID, false)));
    let key = fields.len() - 1;
    (Arc::new(Schema::new(fields)), Layout::Keyed(vec![key]))
}

impl Table {
    /// The table of an object, as of its first epoch. `watermark` is its column and expression.
    pub fn new(object: &Object, watermark: Option<(usize, Arc<dyn PhysicalExpr>)>) -> Result<Self> {
        let (primary_key, append_only) = kept(object)?;
        Ok(Self {
            id: object.id,
            name: object.name.clone(),
            relation: Arc::new(table_relation(object)?),
            indexes: KeptIndexes::default(),
            visible: object.arrow_schema(),
            primary_key: primary_key.to_vec(),
            has_row_id: primary_key.is_empty() && !append_only,
            next_row_id: 0,
            counters: Counters::default(),
            watermark,
            committed_watermark: None,
            watermark_us: None,
        })
    }

    /// Whether its rows only come, and are kept in segments.
    pub fn is_append_only(&self) -> bool {
        *self.relation.layout() == Layout::Segments
    }

    /// Takes up the counters of the last committed epoch.
    pub fn recover(&mut self, snapshot: &Snapshot) -> Result<()> {
        let corrupt =
            || Error::new(sqlstate::DATA_CORRUPTED, format!("status of table \"{}\" cannot be read", self.name));
        self.counters = match snapshot.get(self.status(), b"counters")? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| corrupt())?,
            None => Counters::default(),
        };
        self.watermark_us = match snapshot.get(self.status(), b"watermark_us")? {
            Some(bytes) => Some(bytes.as_slice().try_into().map(i64::from_be_bytes).map_err(|_| corrupt())?),
            None => None,
        };
        self.committed_watermark = self.watermark_us;
        self.next_row_id = match snapshot.get(self.status(), b"next_row_id")? {
            Some(bytes) => bytes.as_slice().try_into().map(i64::from_be_bytes).map_err(|_| corrupt())?,
            None => 0,
        };
        Ok(())
    }

    /// Applies a write to the open epoch.
    ///
    /// # Errors
    /// 23505 for a taken key, 40001 if a row that should go is not there as it was read. Nothing is applied then.
    pub fn apply(&mut self, write: &TableWrite, state: &mut State) -> Result<Applied> {
        let mut applied = Applied {
            deltas: Vec::new(),
            inserted: None,
            undo: Vec::new(),
            grew: 0,
            watermark_before_us: self.watermark_us,
        };
        let result = self.try_apply(write, state, &mut applied);
        match result {
            Ok(()) => Ok(applied),
            Err(e) => {
                self.undo(applied, state)?;
                Err(e)
            }
        }
    }

    /// Takes in records of a keyed source, in order: each takes the place of the row with its key, or says that it is gone.
    /// Returns what changes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn upsert(&mut self, records: &[Upserts], state: &mut State) -> Result<Vec<Delta>> {
        let mut deltas = Vec::new();
        for Upserts { batch, deletes } in records {
            let (batch, weights) = self.relation.upserting(state, batch, deletes.as_ref())?;
            if batch.num_rows() > 0 {
                self.counters.rows += self.relation.apply(state, &batch, Some(&weights))?;
                self.indexes.apply(state, &batch, Some(&weights))?;
                deltas.push(Delta::new(batch, weights));
            }
        }
        Ok(deltas)
    }

    /// Takes a write back that was applied in the open epoch.
    pub fn undo(&mut self, applied: Applied, state: &mut State) -> Result<()> {
        for (key, old) in applied.undo.iter().rev() {
            self.relation.put_value(state, key, old.as_deref());
        }
        self.indexes.undo(state, &applied.deltas)?;
        self.counters.rows -= applied.grew;
        self.watermark_us = applied.watermark_before_us;
        Ok(())
    }

    fn try_apply(&mut self, write: &TableWrite, state: &mut State, applied: &mut Applied) -> Result<()> {
        if write.truncate {
            self.truncate(state, applied)?;
        }
        if let Some(deletes) = &write.deletes {
            self.delete(deletes, state, applied)?;
        }
        if let Some(inserts) = &write.inserts {
            self.insert(inserts, write.on_conflict, state, applied)?;
        }
        Ok(())
    }

    fn truncate(&mut self, state: &mut State, applied: &mut Applied) -> Result<()> {
        if self.is_append_only() {
            return Err(cannot_truncate(&self.name));
        }
        let (batches, _) = self.relation.read(state, None, usize::MAX, Level::Open)?;
        batches.iter().try_for_each(|batch| self.delete(batch, state, applied))
    }

    fn delete(&mut self, rows: &RecordBatch, state: &mut State, applied: &mut Applied) -> Result<()> {
        let keys = self.relation.keys(rows)?;
        let values = self.relation.values(rows)?;
        let current = self.relation.current(state, &keys)?;
        for i in 0..keys.len() {
            if current.get(i) != Some(values.get(i)) {
                return Err(conflict(&self.name));
            }
        }
        for i in 0..keys.len() {
            applied.undo.push((keys.get(i).to_vec(), Some(values.get(i).to_vec())));
            self.relation.put_value(state, keys.get(i), None);
        }
        self.grow(-(keys.len() as i64), applied);
        let weights = Int64Array::from_value(-1, rows.num_rows());
        self.indexes.apply(state, rows, Some(&weights))?;
        applied.deltas.push(Delta::new(rows.clone(), weights));
        Ok(())
    }

    fn insert(
        &mut self,
        rows: &RecordBatch,
        on_conflict: OnConflict,
        state: &mut State,
        applied: &mut Applied,
    ) -> Result<()> {
        self.observe(rows);
        if self.is_append_only() {
            self.relation.apply(state, rows, None)?;
            self.indexes.apply(state, rows, None)?;
            self.grow(rows.num_rows() as i64, applied);
            applied.deltas.push(Delta::inserts(rows.clone()));
            applied.inserted = Some(rows.clone());
            return Ok(());
        }
        let rows = self.with_row_ids(rows)?;
        let keys = self.relation.keys(&rows)?;
        let current = self.relation.current(state, &keys)?;
        let mut seen: HashSet<&[u8]> = HashSet::with_capacity(keys.len());
        let mut unique = Vec::new();
        for kept in self.indexes.unique() {
            unique.push((kept, kept.index.values(&rows)?, HashSet::<Vec<u8>>::new()));
        }
        let mut keep = Vec::with_capacity(keys.len());
        for i in 0..keys.len() {
            // A row that a unique index refuses does not take its key.
            let is_seen = match unique.is_empty() {
                true => !seen.insert(keys.get(i)),
                false => seen.contains(keys.get(i)),
            };
            let taken = is_seen || current.get(i).is_some();
            match (taken, on_conflict) {
                (true, OnConflict::Retry) => return Err(conflict(&self.name)),
                (true, on_conflict) if !on_conflict.skips(None) => {
                    return Err(duplicate_key(&self.name, &self.primary_key, &rows, i));
                }
                _ => {}
            }
            let mut free = !taken;
            for (kept, values, seen) in &unique {
                let Some(values) = values[i].as_ref().filter(|_| free) else { continue };
                if seen.contains(values) || kept.index.is_taken(state, values)? {
                    if on_conflict == OnConflict::RetryOn(kept.id) {
                        return Err(conflict(&self.name));
                    }
                    if !on_conflict.skips(Some(kept.id)) {
                        return Err(kept.violated(&rows, i));
                    }
                    free = false;
                }
            }
            if free && !unique.is_empty() {
                seen.insert(keys.get(i));
                unique.iter_mut().for_each(|(_, values, seen)| seen.extend(values[i].take()));
            }
            keep.push(free);
        }
        let rows = match keep.iter().all(|k| *k) {
            true => rows,
            false => filter_record_batch(&rows, &BooleanArray::from(keep))?,
        };
        let keys = self.relation.keys(&rows)?;
        let values = self.relation.values(&rows)?;
        for i in 0..keys.len() {
            applied.undo.push((keys.get(i).to_vec(), None));
        }
        self.relation.put_values(state, &keys, &values);
        self.indexes.apply(state, &rows, None)?;
        self.grow(rows.num_rows() as i64, applied);
        applied.inserted = Some(self.visible_of(&rows)?);
        applied.deltas.push(Delta::inserts(rows));
        Ok(())
    }

    /// Moves the watermark along with new rows.
    fn observe(&mut self, rows: &RecordBatch) {
        let Some((column, expression)) = &self.watermark else { return };
        let latest = latest_time(rows.column(*column));
        let watermark = latest.and_then(|us| evaluate_at(expression, &self.visible, *column, us));
        self.watermark_us = self.watermark_us.max(watermark);
    }

    /// Watermarks of the table's columns: as committed with the epoch before, and with the open epoch's rows.
    pub fn watermarks(&self) -> PortWatermarks {
        let column = self.watermark.as_ref().map(|(c, _)| *c);
        let at = |value: Option<i64>| {
            (0..self.visible.fields().len()).map(|c| value.filter(|_| Some(c) == column)).collect()
        };
        PortWatermarks { committed: at(self.committed_watermark), current: at(self.watermark_us) }
    }

    /// The open epoch is frozen: its watermark is now the committed one.
    pub fn epoch_done(&mut self) {
        self.committed_watermark = self.watermark_us;
    }

    /// Gives new rows of a table without primary key their hidden ids.
    fn with_row_ids(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        if !self.has_row_id || rows.num_columns() == self.relation.schema().fields().len() {
            return Ok(rows.clone());
        }
        let first = self.next_row_id;
        self.next_row_id += rows.num_rows() as i64;
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(first..self.next_row_id)));
        Ok(RecordBatch::try_new(self.relation.schema().clone(), columns)?)
    }

    fn visible_of(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = rows.columns()[..self.visible.fields().len()].to_vec();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.visible.clone(), columns, &options)?)
    }

    fn grow(&mut self, rows: i64, applied: &mut Applied) {
        self.counters.rows += rows;
        applied.grew += rows;
    }

    /// Puts the table's counters into the open epoch, which changed the table.
    pub fn freeze(&self, state: &mut State) -> Result<()> {
        let bytes = serde_json::to_vec(&self.counters).map_err(|e| Error::internal(e.to_string()))?;
        state.put(self.status(), b"counters", &bytes);
        if let Some(watermark) = self.watermark_us {
            state.put(self.status(), b"watermark_us", &watermark.to_be_bytes());
        }
        if self.has_row_id {
            state.put(self.status(), b"next_row_id", &self.next_row_id.to_be_bytes());
        }
        Ok(())
    }

    fn status(&self) -> TableId {
        TableId { object: self.id.0, part: part::STATUS }
    }
}

/// 0A000: rows of append-only tables stay.
pub fn cannot_truncate(table: &str) -> Error {
    Error::unsupported(format!("cannot truncate append-only table \"{table}\""))
}

/// 23505: the key of a row is taken.
pub fn duplicate_key(table: &str, primary_key: &[usize], rows: &RecordBatch, row: usize) -> Error {
    let options = FormatOptions::default().with_null("null");
    let schema = rows.schema();
    let names: Vec<&str> = primary_key.iter().map(|c| schema.field(*c).name().as_str()).collect();
    let values: Vec<String> = primary_key
        .iter()
        .filter_map(|c| Some(ArrayFormatter::try_new(rows.column(*c), &options).ok()?.value(row).to_string()))
        .collect();
    Error::new(sqlstate::UNIQUE_VIOLATION, format!("duplicate key value violates unique constraint \"{table}_pkey\""))
        .with_detail(format!("Key ({})=({}) already exists.", names.join(", "), values.join(", ")))
        .with_about(About { table: Some(table.into()), constraint: Some(format!("{table}_pkey")), ..About::default() })
}

/// 40001: a row is not as it was read.
fn conflict(table: &str) -> Error {
    Error::new(
        sqlstate::SERIALIZATION_FAILURE,
        format!("could not serialize access to table \"{table}\" due to concurrent update"),
    )
    .with_hint("run the transaction again")
}
