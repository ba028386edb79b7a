//! The result of a join in one epoch: pairs, and rows on their own.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};

use super::kind::Alone;
use super::side::Matches;
use super::{CHUNK_ROWS, JoinSpec, pair_weights};
use crate::error::{Error, Result, sqlstate};
use crate::stream::changelog::Delta;

/// Collects the result's rows, up to a bound.
pub(super) struct Output {
    schema: SchemaRef,
    /// Whether no row can have another weight than +1.
    append_only: bool,
    /// Types of the columns of each side.
    types: [Vec<DataType>; 2],
    rows: usize,
    rows_max: usize,
    deltas: Vec<Delta>,
}

/// Rows of one batch that are put out on their own.
#[derive(Debug, Default)]
pub(super) struct AloneRows {
    rows: Vec<u32>,
    weights: Vec<i64>,
    matched: Vec<bool>,
}

impl AloneRows {
    /// Adds a row with a weight, if a row that is matched or not is shown.
    pub fn add(&mut self, alone: Alone, row: usize, weight: i64, matched: bool) {
        if weight != 0 && alone.shows(matched) {
            self.rows.push(row as u32);
            self.weights.push(weight);
            self.matched.push(matched);
        }
    }

    /// Adds what changes in the result when a row's having a match does.
    pub fn flip(&mut self, alone: Alone, row: usize, weight: i64, before: bool, after: bool) {
        if before != after {
            self.add(alone, row, -weight, before);
            self.add(alone, row, weight, after);
        }
    }
}

impl Output {
    pub fn new(spec: &JoinSpec, rows_max: usize) -> Self {
        let types = spec
            .sides
            .each_ref()
            .map(|side| side.schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>());
        Self {
            schema: spec.output.clone(),
            append_only: spec.append_only(),
            types,
            rows: 0,
            rows_max,
            deltas: Vec::new(),
        }
    }

    pub fn into_deltas(self) -> Vec<Delta> {
        self.deltas
    }

    /// Fails if so many more rows are too many.
    pub fn check(&self, more: usize) -> Result<()> {
        if self.rows + more <= self.rows_max {
            return Ok(());
        }
        let max = self.rows_max;
        Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, format!("a join gives more than {max} rows in one epoch"))
            .with_hint("join on more selective columns, or change fewer rows at once"))
    }

    /// Appends pairs of changed rows of `side` and stored rows of the other.
    pub fn pairs(
        &mut self,
        side: usize,
        delta: &Delta,
        changed: &UInt32Array,
        matches: &Matches,
        stored: &UInt32Array,
    ) -> Result<()> {
        self.check(changed.len())?;
        let ours = gather(delta.batch.columns(), changed)?;
        let theirs = gather(&matches.columns, stored)?;
        let (mut columns, right) = if side == 0 { (ours, theirs) } else { (theirs, ours) };
        columns.extend(right);
        let all_one = self.append_only && delta.weights.is_none() && matches.weights.values().iter().all(|w| *w == 1);
        let weights = (!all_one).then(|| pair_weights(delta, changed, matches, stored));
        self.push(columns, changed.len(), weights)
    }

    /// Appends rows of `side` on their own.
    pub fn alone(&mut self, side: usize, alone: Alone, columns: &[ArrayRef], rows: AloneRows) -> Result<()> {
        let AloneRows { rows, weights, matched } = rows;
        self.check(rows.len())?;
        for start in (0..rows.len()).step_by(CHUNK_ROWS) {
            let chunk = start..(start + CHUNK_ROWS).min(rows.len());
            let count = chunk.len();
            let mut out = gather(columns, &UInt32Array::from(rows[chunk.clone()].to_vec()))?;
            match alone {
                Alone::Matched | Alone::Unmatched => {}
                Alone::Marked => out.push(Arc::new(BooleanArray::from(matched[chunk.clone()].to_vec()))),
                Alone::Padded => {
                    let padding = self.types[1 - side].iter().map(|t| new_null_array(t, count));
                    out =
                        if side == 0 { out.into_iter().chain(padding).collect() } else { padding.chain(out).collect() };
                }
            }
            let weights = &weights[chunk];
            let all_one = self.append_only && weights.iter().all(|w| *w == 1);
            self.push(out, count, (!all_one).then(|| Int64Array::from(weights.to_vec())))?;
        }
        Ok(())
    }

    fn push(&mut self, columns: Vec<ArrayRef>, rows: usize, weights: Option<Int64Array>) -> Result<()> {
        if rows > 0 {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
            self.rows += rows;
            self.deltas.push(Delta { batch, weights });
        }
        Ok(())
    }
}

/// The rows at `rows` of each column.
pub(super) fn gather(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    Ok(columns.iter().map(|c| take(c, rows, None)).collect::<Result<_, _>>()?)
}
