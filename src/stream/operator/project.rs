//! Filter and projection in one pass, failing only on the rows whose expressions fail.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

use super::{Description, EdgeProperties, EpochContext, Operator, RowError, Watermarks};
use crate::error::{Error, Result};
use crate::stream::changelog::Delta;
use crate::stream::time::evaluate_at;

/// Keeps the rows for which a predicate is true, and computes a list of expressions on them.
pub struct Project {
    number: u32,
    input: SchemaRef,
    output: SchemaRef,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    /// `None`: all input columns as they are.
    expressions: Option<Vec<Arc<dyn PhysicalExpr>>>,
    /// For each output column: the input column whose watermark it carries on, through a monotone expression.
    carries: Vec<Option<usize>>,
    description: Description,
}

impl Project {
    /// A projection of `expressions` (or of all columns) over the rows where `predicate` is true. `carries` names, for each
    /// output column, the input column that it is a monotone function of, if any.
    pub fn new(
        number: u32,
        input: SchemaRef,
        properties: &EdgeProperties,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        expressions: Option<Vec<Arc<dyn PhysicalExpr>>>,
        carries: Vec<Option<usize>>,
        title: String,
    ) -> Self {
        let description = Description::stateless(title, properties);
        Self { number, input, output: properties.schema.clone(), predicate, expressions, carries, description }
    }

    fn evaluate(&self, delta: &Delta) -> Result<Delta> {
        let filtered = match &self.predicate {
            Some(predicate) => {
                let value = predicate.evaluate(&delta.batch)?.into_array(delta.rows())?;
                let mask = true_mask(value.as_boolean());
                match mask.true_count() {
                    0 => return Ok(delta.slice(0, 0).with_schema(&self.output)),
                    n if n == delta.rows() => delta.clone(),
                    _ => delta.filter(&mask)?,
                }
            }
            None => delta.clone(),
        };
        let Some(expressions) = &self.expressions else { return Ok(filtered.with_schema(&self.output)) };
        let columns = evaluate_columns(expressions, &filtered.batch)?;
        let batch = typed_batch(&self.output, columns, filtered.rows())?;
        Ok(Delta { batch, weights: filtered.weights })
    }

    /// Evaluates; if that fails, halves the rows until only the failing ones are left out.
    fn bisect(&self, delta: &Delta, out: &mut Vec<Delta>, errors: &mut Vec<RowError>) {
        match self.evaluate(delta) {
            Ok(result) if result.is_empty() => {}
            Ok(result) => out.push(result),
            Err(error) if delta.rows() == 1 => errors.push(row_error(self.number, &error, delta)),
            Err(_) => {
                let half = delta.rows() / 2;
                self.bisect(&delta.slice(0, half), out, errors);
                self.bisect(&delta.slice(half, delta.rows() - half), out, errors);
            }
        }
    }
}

impl Operator for Project {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let mut out = Vec::new();
        for delta in inputs.iter().flatten().filter(|d| !d.is_empty()) {
            self.bisect(delta, &mut out, context.errors);
        }
        Ok(out)
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        let Some(expressions) = &self.expressions else { return inputs[0].clone() };
        self.carries
            .iter()
            .zip(expressions)
            .map(|(carries, expression)| {
                let column = (*carries)?;
                let watermark = inputs[0][column]?;
                evaluate_at(expression, &self.input, column, watermark)
            })
            .collect()
    }

    fn is_net(&self, inputs: &[bool]) -> bool {
        inputs == [true] && !self.description.stream_key.is_empty()
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }
}

/// Evaluates expressions to full arrays.
pub fn evaluate_columns(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    expressions.iter().map(|e| Ok(e.evaluate(batch)?.into_array(batch.num_rows())?)).collect()
}

/// A batch of computed columns under the declared schema; string and list layouts that expressions return freely are
/// brought to the declared one.
///
/// # Errors
/// XX000 if a column has another type altogether, or a NULL where the schema allows none.
pub fn typed_batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let columns = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(column),
            false => Ok(arrow::compute::cast(&column, field.data_type())?),
        })
        .collect::<Result<Vec<_>>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// The error of a single failing row.
pub fn row_error(operator: u32, error: &Error, delta: &Delta) -> RowError {
    RowError {
        operator,
        sqlstate: error.sqlstate().to_string(),
        message: error.message().to_string(),
        row: row_text(&delta.batch, 0),
        weight: delta.weight(0),
    }
}

/// A row as `column=value, …`, for people to read.
pub fn row_text(batch: &RecordBatch, row: usize) -> String {
    let options = arrow::util::display::FormatOptions::default().with_null("NULL");
    let mut text = String::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(field.name());
        text.push('=');
        match arrow::util::display::ArrayFormatter::try_new(column, &options) {
            Ok(formatter) => text.push_str(&formatter.value(row).to_string()),
            Err(_) => text.push('?'),
        }
    }
    text
}

fn true_mask(mask: &BooleanArray) -> BooleanArray {
    match mask.null_count() {
        0 => mask.clone(),
        _ => prep_null_mask_filter(mask),
    }
}
