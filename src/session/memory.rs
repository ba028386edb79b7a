//! Small results made by the session itself: SHOW, EXPLAIN, RETURNING.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use millstream_catalog::SqlType;

use super::api::{Response, RowSet, RowsTag};
use crate::error::Result;

/// Rows that are in memory already.
pub fn rows(schema: SchemaRef, batches: Vec<RecordBatch>, tag: RowsTag) -> Response {
    let stream = futures::stream::iter(batches.into_iter().map(Ok));
    let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream));
    Response::Rows(RowSet::new(schema, stream, tag))
}

/// Text columns with a row for each entry.
pub fn text_rows(columns: &[&str], entries: &[Vec<Option<String>>], tag: RowsTag) -> Result<Response> {
    let fields: Vec<_> = columns.iter().map(|name| SqlType::Text.field(*name, true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let arrays: Vec<ArrayRef> = (0..columns.len())
        .map(|c| Arc::new(entries.iter().map(|e| e[c].as_deref()).collect::<StringViewArray>()) as ArrayRef)
        .collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays)?;
    Ok(rows(schema, vec![batch], tag))
}
