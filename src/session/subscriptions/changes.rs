//! The changes of an epoch as a subscriber sees them: `epoch, op, columns…`.
//!
//! They are net: what comes and goes in one epoch is not there. Rows are in the order of their keys where the relation has
//! one; a row that takes the place of another is two rows, `update_delete` and `update_insert`, one behind the other.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringViewArray, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};

use crate::error::Result;
use crate::state::{Layout, Relation};
use crate::stream::changelog::Delta;

/// A row that comes, or goes.
pub const INSERT: &str = "insert";
pub const DELETE: &str = "delete";
/// A row before and after an update.
pub const UPDATE_DELETE: &str = "update_delete";
pub const UPDATE_INSERT: &str = "update_insert";
/// No row: all changes up to the epoch were given.
pub const PROGRESS: &str = "progress";

/// Rows in a batch.
const BATCH_ROWS: usize = 8192;

/// How the rows of one relation are shown.
#[derive(Debug, Clone)]
pub struct ChangeForm {
    pub relation: Arc<Relation>,
    /// `epoch`, `op`, and the columns that are seen, which are the first of the relation.
    schema: SchemaRef,
}

impl ChangeForm {
    /// Of what a client was told to see; all may be NULL, for a row of progress has no values.
    pub fn new(relation: Arc<Relation>, seen: &SchemaRef) -> Self {
        let fields: Vec<_> = seen.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        Self { relation, schema: Arc::new(Schema::new(fields)) }
    }

    /// Columns of the rows that are made.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows that were there, or that were only added.
    pub fn inserts(&self, rows: &RecordBatch, epoch: u64) -> Result<RecordBatch> {
        let ops = StringViewArray::from_iter_values(std::iter::repeat_n(INSERT, rows.num_rows()));
        self.batch(epoch, ops, rows.columns()[..self.width()].to_vec())
    }

    /// The end of an epoch.
    pub fn progress(&self, epoch: u64) -> Result<RecordBatch> {
        let nulls = self.schema.fields().iter().skip(2).map(|f| new_null_array(f.data_type(), 1)).collect();
        self.batch(epoch, StringViewArray::from_iter_values([PROGRESS]), nulls)
    }

    /// What an epoch changed.
    pub fn changes(&self, deltas: &[Delta], epoch: u64) -> Result<Vec<RecordBatch>> {
        let delta = Delta::concat(self.relation.schema(), deltas)?.consolidate()?;
        let shown = self.shown(&delta)?;
        let batch = |part: &[(u32, &'static str)]| {
            let indices = UInt32Array::from_iter_values(part.iter().map(|(row, _)| *row));
            let seen = &delta.batch.columns()[..self.width()];
            let columns = seen.iter().map(|c| take(c, &indices, None)).collect::<Result<Vec<_>, _>>()?;
            self.batch(epoch, StringViewArray::from_iter_values(part.iter().map(|(_, op)| *op)), columns)
        };
        shown.chunks(BATCH_ROWS).map(batch).collect()
    }

    fn width(&self) -> usize {
        self.schema.fields().len() - 2
    }

    fn batch(&self, epoch: u64, ops: StringViewArray, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        let epochs = Int64Array::from_value(epoch as i64, ops.len());
        let mut all: Vec<ArrayRef> = vec![Arc::new(epochs), Arc::new(ops)];
        all.extend(columns);
        Ok(RecordBatch::try_new(self.schema.clone(), all)?)
    }

    /// The rows of net changes in the order to show them, each with its op.
    fn shown(&self, delta: &Delta) -> Result<Vec<(u32, &'static str)>> {
        let mut shown = Vec::with_capacity(delta.rows());
        let Some(weights) = &delta.weights else {
            shown.extend((0..delta.rows() as u32).map(|row| (row, INSERT)));
            return Ok(shown);
        };
        let copies = |row: u32| weights.value(row as usize).unsigned_abs() as usize;
        let mut push = |rows: &mut dyn Iterator<Item = u32>, op| {
            rows.for_each(|row| shown.extend(std::iter::repeat_n((row, op), copies(row))));
        };
        let goes = |row: &u32| weights.value(*row as usize) < 0;
        if matches!(self.relation.layout(), Layout::Keyed(_)) {
            let keys = self.relation.keys(&delta.batch)?;
            let order = keys.sort_permutation();
            for same in order.chunk_by(|a, b| keys.get(*a as usize) == keys.get(*b as usize)) {
                let is_update = same.iter().any(goes) && !same.iter().all(goes);
                let (delete, insert) = if is_update { (UPDATE_DELETE, UPDATE_INSERT) } else { (DELETE, INSERT) };
                push(&mut same.iter().copied().filter(goes), delete);
                push(&mut same.iter().copied().filter(|row| !goes(row)), insert);
            }
            return Ok(shown);
        }
        let all = 0..delta.rows() as u32;
        push(&mut all.clone().filter(goes), DELETE);
        push(&mut all.filter(|row| !goes(row)), INSERT);
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use millstream_catalog::SqlType;

    use super::*;
    use crate::state::TableId;

    fn form(layout: Layout) -> ChangeForm {
        let stored = |names: &[&str]| -> SchemaRef {
            Arc::new(Schema::new(names.iter().map(|n| SqlType::Int8.field(*n, false)).collect::<Vec<_>>()))
        };
        let relation = Relation::new(TableId::new(20_000, 0), stored(&["k", "v", "hidden"]), layout).unwrap();
        let mut seen = vec![SqlType::Int8.field("epoch", false), SqlType::Text.field("op", false)];
        seen.extend(stored(&["k", "v"]).fields().iter().map(|f| f.as_ref().clone()));
        ChangeForm::new(Arc::new(relation), &Arc::new(Schema::new(seen)))
    }

    fn delta(form: &ChangeForm, rows: &[(i64, i64, i64)]) -> Delta {
        let column =
            |f: fn(&(i64, i64, i64)) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(f))) };
        let columns = vec![column(|r| r.0), column(|r| r.1), column(|_| 7)];
        let batch = RecordBatch::try_new(form.relation.schema().clone(), columns).unwrap();
        Delta::new(batch, rows.iter().map(|r| Some(r.2)).collect())
    }

    fn shown(form: &ChangeForm, deltas: &[Delta]) -> Vec<String> {
        let mut lines = Vec::new();
        for batch in form.changes(deltas, 5).unwrap() {
            let number = |column: usize, row: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
            let op = batch.column(1).as_string_view();
            lines.extend(
                (0..batch.num_rows())
                    .map(|i| format!("{} {} {} {}", number(0, i), op.value(i), number(2, i), number(3, i))),
            );
        }
        lines
    }

    #[test]
    fn changes_of_keyed_rows_are_net_and_updates_are_pairs() {
        let form = form(Layout::Keyed(vec![0]));
        // 3 is changed twice, 4 comes and goes, 2 goes, 1 comes.
        let first = delta(&form, &[(3, 30, -1), (3, 31, 1), (4, 40, 1), (2, 20, -1)]);
        let second = delta(&form, &[(3, 31, -1), (4, 40, -1), (3, 32, 1), (1, 10, 1)]);
        let expected = ["5 insert 1 10", "5 delete 2 20", "5 update_delete 3 30", "5 update_insert 3 32"];
        assert_eq!(shown(&form, &[first, second]), expected);
    }

    #[test]
    fn rows_without_a_key_come_as_often_as_they_are_there() {
        let form = form(Layout::Counted);
        let changes = delta(&form, &[(1, 10, 2), (2, 20, -2), (3, 30, 1)]);
        let expected = ["5 delete 2 20", "5 delete 2 20", "5 insert 1 10", "5 insert 1 10", "5 insert 3 30"];
        assert_eq!(shown(&form, &[changes]), expected);
    }

    #[test]
    fn progress_has_no_values() {
        let progress = form(Layout::Counted).progress(9).unwrap();
        assert_eq!(progress.column(1).as_string_view().value(0), PROGRESS);
        assert_eq!((progress.num_columns(), progress.column(2).null_count()), (4, 1));
    }
}
