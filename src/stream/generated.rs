//! Computed columns of sources, as rows are taken in: of what the records have, and the time at which that is.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::reassign_expr_columns;

use super::columns_read::ColumnsRead;
use crate::error::{Error, Result};

/// A column that is computed.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Position among the source's columns.
    pub column: usize,
    pub value: Computed,
    /// The columns that it is computed of, none of which is generated.
    pub reads: ColumnsRead,
}

/// What a computed column holds.
#[derive(Debug, Clone)]
pub enum Computed {
    /// An expression over the source's columns, which has a value for every row.
    Expression(Arc<dyn PhysicalExpr>),
    /// Processing time: the epoch's or statement's `now()`.
    Clock,
}

/// What is read of a source: columns of its records, and those that are computed of them.
#[derive(Debug, Clone)]
pub struct Completion {
    /// Positions of the columns that the records give, ascending.
    recorded: Vec<usize>,
    /// Where each column of the result comes from.
    columns: Vec<Origin>,
    schema: SchemaRef,
}

#[derive(Debug, Clone)]
enum Origin {
    /// The column at this place of the records' columns.
    Recorded(usize),
    Computed(Arc<dyn PhysicalExpr>),
    Clock(DataType),
}

/// Adds what the generated ones among the columns are computed of.
pub fn with_inputs(wanted: &ColumnsRead, generated: &[Generated]) -> ColumnsRead {
    let mut all = wanted.clone();
    for column in wanted.columns() {
        if let Some(generated) = generated.iter().find(|g| g.column == column) {
            all.extend(&generated.reads);
        }
    }
    all
}

impl Completion {
    /// For `columns`, which contain what the generated ones among them are computed of, of a source with that schema.
    ///
    /// # Errors
    /// XX000 if an expression reads what is not there.
    pub fn new(columns: &[usize], generated: &[Generated], schema: &SchemaRef) -> Result<Self> {
        let is_generated = |c: &usize| generated.iter().any(|g| g.column == *c);
        let mut recorded: Vec<usize> = columns.iter().copied().filter(|c| !is_generated(c)).collect();
        recorded.sort_unstable();
        let inputs: Schema = schema.project(&recorded)?;
        let origin = |column: &usize| match generated.iter().find(|g| g.column == *column) {
            Some(g) => match &g.value {
                Computed::Expression(e) => Ok(Origin::Computed(reassign_expr_columns(e.clone(), &inputs)?)),
                Computed::Clock => Ok(Origin::Clock(schema.field(*column).data_type().clone())),
            },
            None => {
                recorded.binary_search(column).map(Origin::Recorded).map_err(|_| Error::internal("a column is lost"))
            }
        };
        let origins = columns.iter().map(origin).collect::<Result<_>>()?;
        Ok(Self { columns: origins, schema: Arc::new(schema.project(columns)?), recorded })
    }

    /// Positions of the columns that the records give, ascending.
    pub fn recorded(&self) -> &[usize] {
        &self.recorded
    }

    /// All columns, of those of the records, which are taken in at `now_us`, microseconds since 1970.
    ///
    /// # Errors
    /// Of an expression.
    pub fn complete(&self, batch: &RecordBatch, now_us: i64) -> Result<RecordBatch> {
        let values = self.columns.iter().map(|origin| match origin {
            Origin::Recorded(at) => Ok(batch.column(*at).clone()),
            Origin::Clock(data_type) => {
                let now = TimestampMicrosecondArray::from_value(now_us, batch.num_rows());
                Ok(Arc::new(now.with_data_type(data_type.clone())) as ArrayRef)
            }
            Origin::Computed(expression) => Ok(expression.evaluate(batch)?.into_array(batch.num_rows())?),
        });
        let values: Vec<ArrayRef> = values.collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), values, &options)?)
    }
}
