//! `generate_series` over integers, made as it is read.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use millstream_sql::Series;

use super::tables::{RowBatches, RowScan, ScanRequest};
use crate::error::Result;

/// The integers of a series as rows of one column.
#[derive(Debug)]
pub struct SeriesRows {
    series: Series,
    schema: SchemaRef,
}

impl SeriesRows {
    /// A series under the one column of `schema`.
    pub fn new(series: Series, schema: SchemaRef) -> Self {
        Self { series, schema }
    }
}

impl RowScan for SeriesRows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn row_estimate(&self) -> Option<usize> {
        let Series { start, stop, step } = self.series;
        let span = (i128::from(stop) - i128::from(start)) / i128::from(step);
        Some(usize::try_from((span + 1).max(0)).unwrap_or(usize::MAX))
    }

    fn scan(&self, request: &ScanRequest) -> Result<RowBatches> {
        let Series { stop, step, .. } = self.series;
        let schema = Arc::new(self.schema.project(&request.projection)?);
        let (projection, size) = (request.projection.clone(), request.batch_size);
        let mut next = Some(self.series.start);
        let batches = std::iter::from_fn(move || {
            let within = |n: &i64| if step > 0 { *n <= stop } else { *n >= stop };
            let values: Vec<i64> = std::iter::from_fn(|| {
                let value = next.filter(within)?;
                next = value.checked_add(step);
                Some(value)
            })
            .take(size)
            .collect();
            if values.is_empty() {
                return None;
            }
            let options = RecordBatchOptions::new().with_row_count(Some(values.len()));
            let column: ArrayRef = Arc::new(Int64Array::from(values));
            let column = |i: usize| cast(&column, schema.field(i).data_type());
            let columns = (0..projection.len()).map(column).collect::<std::result::Result<_, _>>();
            let batch = columns.and_then(|c| RecordBatch::try_new_with_options(schema.clone(), c, &options));
            Some(batch.map_err(Into::into))
        });
        Ok(Box::new(batches))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    fn values(start: i64, stop: i64, step: i64) -> (Vec<i64>, usize) {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let rows = SeriesRows::new(Series { start, stop, step }, schema);
        let request = ScanRequest { projection: vec![0], access: None, limit: None, batch_size: 3 };
        let batches: Vec<RecordBatch> = rows.scan(&request).unwrap().collect::<Result<_>>().unwrap();
        assert!(batches.iter().all(|b| b.num_rows() <= 3));
        let all = batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec());
        (all.collect(), rows.row_estimate().unwrap())
    }

    #[test]
    fn both_ends_are_included_and_the_step_may_be_negative() {
        assert_eq!(values(1, 7, 2), (vec![1, 3, 5, 7], 4));
        assert_eq!(values(5, 1, -2), (vec![5, 3, 1], 3));
        assert_eq!(values(5, 1, 1).0, Vec::<i64>::new());
        assert_eq!(values(i64::MAX - 1, i64::MAX, 1), (vec![i64::MAX - 1, i64::MAX], 2));
    }
}
