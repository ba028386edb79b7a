//! Event time: how watermarks pass through monotone expressions.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::physical_expr::PhysicalExpr;

/// The value of an expression, which is monotone in its one timestamp `column`, where that column is `time_us`: evaluated
/// on a row whose other columns are NULL. For an expression that gives a list (the windows that an event falls in), its
/// least element. `None` if it is NULL, fails, or is no timestamp.
pub fn evaluate_at(expression: &Arc<dyn PhysicalExpr>, schema: &SchemaRef, column: usize, time_us: i64) -> Option<i64> {
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| match field.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, zone) if i == column => {
                Arc::new(TimestampMicrosecondArray::from(vec![time_us]).with_timezone_opt(zone.clone())) as ArrayRef
            }
            other => new_null_array(other, 1),
        })
        .collect();
    let nullable =
        Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>());
    let batch = RecordBatch::try_new(Arc::new(nullable), columns).ok()?;
    let value = expression.evaluate(&batch).ok()?.into_array(1).ok()?;
    match value.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let value = value.as_primitive::<TimestampMicrosecondType>();
            value.is_valid(0).then(|| value.value(0))
        }
        DataType::List(item) if matches!(item.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
            let items = value.as_list::<i32>().value(0);
            items.as_primitive::<TimestampMicrosecondType>().iter().flatten().min()
        }
        _ => None,
    }
}

/// The latest time in a column of timestamps, microseconds since 1970.
pub fn latest_time(column: &ArrayRef) -> Option<i64> {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            arrow::compute::max(column.as_primitive::<TimestampMicrosecondType>())
        }
        _ => None,
    }
}
