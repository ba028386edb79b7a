//! Rows that the query itself gives.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::concat;
use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{EmptyRelation, Values as LogicalValues};

use super::{Builder, Edge, arrow_schema};
use crate::error::Result;
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::project::typed_batch;
use crate::stream::operator::values::Values;
use crate::stream::plan::expressions::physical;

impl Builder<'_> {
    pub(super) fn values(&mut self, values: &LogicalValues) -> Result<Edge> {
        let schema = arrow_schema(&values.schema);
        let one_row = one_row()?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for column in 0..schema.fields().len() {
            let cells = values.values.iter().map(|row| {
                let value = physical(&row[column], &DFSchema::empty())?.evaluate(&one_row)?;
                Ok(value.into_array(1)?)
            });
            let cells = cells.collect::<Result<Vec<ArrayRef>>>()?;
            columns.push(concat(&cells.iter().map(|c| c.as_ref()).collect::<Vec<_>>())?);
        }
        let rows = typed_batch(&schema, columns, values.values.len())?;
        self.constant(rows)
    }

    /// No row, or the one without columns that a SELECT without FROM reads.
    pub(super) fn empty_relation(&mut self, empty: &EmptyRelation) -> Result<Edge> {
        let schema = arrow_schema(&empty.schema);
        let rows = match empty.produce_one_row {
            true => one_row()?,
            false => RecordBatch::new_empty(schema),
        };
        self.constant(rows)
    }

    fn constant(&mut self, rows: RecordBatch) -> Result<Edge> {
        let properties = EdgeProperties {
            schema: rows.schema(),
            append_only: true,
            // At most one row needs no column to be told apart.
            stream_key: (rows.num_rows() < 2).then(Vec::new),
            watermark_columns: Vec::new(),
        };
        let part = self.take_parts(Values::PARTS);
        let operator = Values::new(properties.clone(), rows, self.object, part);
        Ok(self.add(Box::new(operator), Vec::new(), properties))
    }
}

fn one_row() -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?)
}
