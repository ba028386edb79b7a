//! The condition of a join beyond the equality of its keys, evaluated on pairs of rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

use crate::error::Result;
use crate::stream::changelog::Delta;
use crate::stream::operator::RowError;
use crate::stream::operator::project::row_error;

/// A condition on pairs of rows.
#[derive(Debug, Clone)]
pub struct Residual {
    /// Boolean, over `schema`.
    pub condition: Arc<dyn PhysicalExpr>,
    /// The columns that it reads.
    pub schema: SchemaRef,
    /// Where each of them is: side (0 left, 1 right) and position in it.
    pub columns: Vec<(usize, usize)>,
    /// As EXPLAIN shows it.
    pub text: String,
}

impl Residual {
    /// Which pairs pass, given the columns that it reads. A pair on which it fails passes not; the failure goes to `errors`
    /// with the pair's weight.
    pub fn passes(
        &self,
        operator: u32,
        columns: Vec<ArrayRef>,
        weights: Int64Array,
        errors: &mut Vec<RowError>,
    ) -> Result<BooleanArray> {
        let options = RecordBatchOptions::new().with_row_count(Some(weights.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let mut passed = Vec::with_capacity(weights.len());
        self.bisect(operator, &Delta::new(batch, weights), &mut passed, errors);
        Ok(BooleanArray::from(passed))
    }

    fn bisect(&self, operator: u32, pairs: &Delta, passed: &mut Vec<bool>, errors: &mut Vec<RowError>) {
        let rows = pairs.rows();
        match self.condition.evaluate(&pairs.batch).and_then(|value| value.into_array(rows)) {
            Ok(value) => {
                let value = value.as_boolean();
                passed.extend((0..rows).map(|row| value.is_valid(row) && value.value(row)));
            }
            Err(error) if rows == 1 => {
                errors.push(row_error(operator, &error.into(), pairs));
                passed.push(false);
            }
            Err(_) => {
                let half = rows / 2;
                self.bisect(operator, &pairs.slice(0, half), passed, errors);
                self.bisect(operator, &pairs.slice(half, rows - half), passed, errors);
            }
        }
    }
}
