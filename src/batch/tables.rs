//! Rows of one snapshot of the store, or of a source, as a table that DataFusion can read.
//!
//! [`RowScan`] is what a reader of rows implements; it blocks, so it runs on blocking threads and hands its batches over
//! through a short channel. Equality and `IN` on the whole primary key become point reads.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, ScalarValue, Statistics, internal_err};
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, StatisticsArgs,
};
use millstream_catalog::SqlType;

use crate::error::Result;

/// Batches that may wait between the reading thread and the query.
const SCAN_QUEUE_BATCHES: usize = 2;
/// Most keys that one statement reads as points; above it a scan is no slower.
const POINT_READS_MAX: usize = 4096;

/// Something that has rows.
pub trait RowScan: fmt::Debug + Send + Sync + 'static {
    /// The columns, as in the catalog (with a hidden row id last if the plan asked for one).
    fn schema(&self) -> SchemaRef;

    /// Positions of the columns of the primary key, in the key's order; empty if there is none to read points by.
    fn primary_key(&self) -> &[usize] {
        &[]
    }

    /// About how many rows there are, for the order of joins; `None` if unknown.
    fn row_estimate(&self) -> Option<usize> {
        None
    }

    /// Starts to read, on the thread that asks and that may block. The iterator is dropped before its end when the
    /// statement is cancelled or has enough rows.
    ///
    /// # Errors
    /// If reading cannot start; errors on the way come through the iterator.
    fn scan(&self, request: &ScanRequest) -> Result<RowBatches>;
}

/// Batches of rows as they are read.
pub type RowBatches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// What a statement needs of a [`RowScan`].
#[derive(Debug, Clone, PartialEq)]
pub struct ScanRequest {
    /// Positions of the columns that batches hold, in this order; may be none, when only the count matters.
    pub projection: Vec<usize>,
    /// Read only the rows of these primary keys: one column for each of [`RowScan::primary_key`], no key twice.
    pub keys: Option<RecordBatch>,
    /// No more rows than these are needed.
    pub limit: Option<usize>,
    /// Rows a batch should have at most.
    pub batch_size: usize,
}

/// A [`RowScan`] as a DataFusion table.
#[derive(Debug)]
pub struct RowTable {
    rows: Arc<dyn RowScan>,
    schema: SchemaRef,
}

impl RowTable {
    /// Wraps a reader of rows.
    pub fn new(rows: Arc<dyn RowScan>) -> Self {
        let schema = rows.schema();
        Self { rows, schema }
    }
}

#[async_trait]
impl TableProvider for RowTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::error::Result<Vec<TableProviderFilterPushDown>> {
        let key = self.rows.primary_key();
        let of_key = |filter: &&Expr| match key_values(filter, &self.schema) {
            // The filter stays in the plan: a point read narrows the rows, it decides nothing.
            Some((column, _)) if key.contains(&column) => TableProviderFilterPushDown::Inexact,
            _ => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of_key).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let request = ScanRequest {
            projection: projection.cloned().unwrap_or_else(all),
            keys: point_keys(self.rows.primary_key(), filters, &self.schema)?,
            limit,
            batch_size: state.config().batch_size(),
        };
        Ok(Arc::new(RowScanExec::try_new(self.rows.clone(), request)?))
    }
}

/// Reads a [`RowScan`] as one partition.
#[derive(Debug)]
struct RowScanExec {
    rows: Arc<dyn RowScan>,
    request: ScanRequest,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RowScanExec {
    fn try_new(rows: Arc<dyn RowScan>, request: ScanRequest) -> datafusion::error::Result<Self> {
        let schema = Arc::new(rows.schema().project(&request.projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { rows, request, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() })
    }
}

impl DisplayAs for RowScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema();
        let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "RowScan: columns=[{}]", columns.join(", "))?;
        if let Some(keys) = &self.request.keys {
            write!(f, ", point_reads={}", keys.num_rows())?;
        }
        if let Some(limit) = self.request.limit {
            write!(f, ", limit={limit}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for RowScanExec {
    fn name(&self) -> &'static str {
        "RowScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> datafusion::error::Result<TreeNodeRecursion>,
    ) -> datafusion::error::Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a row scan has no inputs") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> datafusion::error::Result<SendableRecordBatchStream> {
        let mut stream = RecordBatchReceiverStreamBuilder::new(self.schema(), SCAN_QUEUE_BATCHES);
        let sender = stream.tx();
        let (rows, request) = (self.rows.clone(), self.request.clone());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        stream.spawn_blocking(move || {
            let mut wanted = request.limit.unwrap_or(usize::MAX);
            for batch in rows.scan(&request).map_err(DataFusionError::from)? {
                let batch = batch.map_err(DataFusionError::from)?;
                let batch = batch.slice(0, batch.num_rows().min(wanted));
                wanted -= batch.num_rows();
                metrics.record_output(batch.num_rows());
                // The receiver is gone when the statement was cancelled or has enough.
                if sender.blocking_send(Ok(batch)).is_err() || wanted == 0 {
                    break;
                }
            }
            Ok(())
        });
        Ok(stream.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> datafusion::error::Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        let rows = match &self.request.keys {
            Some(keys) => Some(keys.num_rows()),
            None => self.rows.row_estimate(),
        };
        if let Some(rows) = rows {
            statistics.num_rows = Precision::Inexact(rows.min(self.request.limit.unwrap_or(usize::MAX)));
        }
        Ok(Arc::new(statistics))
    }
}

/// The keys to read if the filters fix every column of the primary key to some values; `None` if not.
fn point_keys(key: &[usize], filters: &[Expr], schema: &Schema) -> datafusion::error::Result<Option<RecordBatch>> {
    if key.is_empty() {
        return Ok(None);
    }
    let mut columns: Vec<Vec<ScalarValue>> = Vec::with_capacity(key.len());
    for &column in key {
        let mut values: Option<Vec<ScalarValue>> = None;
        for filter in filters {
            let Some((of, found)) = key_values(filter, schema) else { continue };
            if of != column {
                continue;
            }
            values = Some(match values {
                None => found,
                Some(before) => before.into_iter().filter(|v| found.contains(v)).collect(),
            });
        }
        let Some(mut values) = values else { return Ok(None) };
        let mut seen = std::collections::HashSet::new();
        values.retain(|v| seen.insert(v.clone()));
        columns.push(values);
    }
    let count = columns.iter().try_fold(1_usize, |n, values| n.checked_mul(values.len()));
    match count {
        Some(count) if count <= POINT_READS_MAX => product(key, &columns, count, schema).map(Some),
        _ => Ok(None),
    }
}

/// All combinations of one value per column, `count` rows.
fn product(
    key: &[usize],
    columns: &[Vec<ScalarValue>],
    count: usize,
    schema: &Schema,
) -> datafusion::error::Result<RecordBatch> {
    let schema = Arc::new(schema.project(key)?);
    if count == 0 {
        return Ok(RecordBatch::new_empty(schema));
    }
    let mut arrays = Vec::with_capacity(columns.len());
    let mut repeat = count;
    for values in columns {
        repeat /= values.len();
        let picks: UInt32Array = (0..count).map(|row| ((row / repeat) % values.len()) as u32).collect();
        let distinct = ScalarValue::iter_to_array(values.iter().cloned())?;
        let one = RecordBatch::try_from_iter([("v", distinct)])?;
        arrays.push(take_record_batch(&one, &picks)?.column(0).clone());
    }
    Ok(RecordBatch::try_new(schema, arrays)?)
}

/// The column and the values that a filter of the form `column = literal`, `column IN (literals)` or an OR of such allows.
/// NULL equals nothing and is left out. `None` for every other filter, and for columns whose equality is not that of
/// their key bytes.
fn key_values(filter: &Expr, schema: &Schema) -> Option<(usize, Vec<ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(c), Expr::Literal(v, _)) | (Expr::Literal(v, _), Expr::Column(c)) => {
                let column = schema.index_of(&c.name).ok()?;
                Some((column, key_value(v, schema, column)?.into_iter().collect()))
            }
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (column, mut values) = key_values(left, schema)?;
            let (other, more) = key_values(right, schema)?;
            values.extend(more);
            (column == other).then_some((column, values))
        }
        Expr::InList(list) if !list.negated => {
            let Expr::Column(c) = list.expr.as_ref() else { return None };
            let column = schema.index_of(&c.name).ok()?;
            let mut values = Vec::with_capacity(list.list.len());
            for item in &list.list {
                let Expr::Literal(v, _) = item else { return None };
                values.extend(key_value(v, schema, column)?);
            }
            Some((column, values))
        }
        _ => None,
    }
}

/// A literal as a value of the column: `Some(None)` for NULL, `None` if the types differ or equality is not plain.
fn key_value(value: &ScalarValue, schema: &Schema, column: usize) -> Option<Option<ScalarValue>> {
    let field = schema.field(column);
    // Blank padding and signed zero make different bytes equal.
    if matches!(SqlType::of(field), None | Some(SqlType::Char(_) | SqlType::Float4 | SqlType::Float8)) {
        return None;
    }
    if value.is_null() {
        return Some(None);
    }
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let wanted = field.data_type();
    let given = value.data_type();
    if given == *wanted {
        return Some(Some(value.clone()));
    }
    (is_text(wanted) && is_text(&given)).then(|| value.cast_to(wanted).ok()).flatten().map(Some)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::prelude::SessionContext;
    use parking_lot::Mutex;

    use super::*;

    /// Ten rows `(id, name)`, and what was asked of them.
    #[derive(Debug)]
    struct Ten {
        asked: Mutex<Vec<ScanRequest>>,
    }

    impl RowScan for Ten {
        fn schema(&self) -> SchemaRef {
            Arc::new(Schema::new(vec![SqlType::Int8.field("id", false), SqlType::Text.field("name", true)]))
        }

        fn primary_key(&self) -> &[usize] {
            &[0]
        }

        fn scan(&self, request: &ScanRequest) -> Result<RowBatches> {
            self.asked.lock().push(request.clone());
            let wanted: Option<Vec<i64>> =
                request.keys.as_ref().map(|k| k.column(0).as_primitive::<Int64Type>().values().to_vec());
            let ids: Vec<i64> = (0..10).filter(|i| wanted.as_ref().is_none_or(|w| w.contains(i))).collect();
            let names: StringViewArray = ids.iter().map(|i| Some(format!("n{i}"))).collect();
            let all = RecordBatch::try_new(self.schema(), vec![Arc::new(Int64Array::from(ids)), Arc::new(names)])?;
            let projected = all.project(&request.projection)?;
            let batches: Vec<_> = (0..projected.num_rows())
                .step_by(4)
                .map(|i| projected.slice(i, 4.min(projected.num_rows() - i)))
                .collect();
            Ok(Box::new(batches.into_iter().map(Ok)))
        }
    }

    async fn ask(sql: &str) -> (Vec<RecordBatch>, Vec<ScanRequest>) {
        let rows = Arc::new(Ten { asked: Mutex::default() });
        let context = SessionContext::new();
        context.register_table("t", Arc::new(RowTable::new(rows.clone()))).unwrap();
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        let asked = rows.asked.lock().clone();
        (batches, asked)
    }

    fn rows(batches: &[RecordBatch]) -> usize {
        batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[tokio::test]
    async fn equality_and_in_on_the_key_are_point_reads() {
        let (batches, asked) = ask("SELECT name FROM t WHERE id = 3").await;
        assert_eq!(rows(&batches), 1);
        assert_eq!(asked[0].keys.as_ref().unwrap().num_rows(), 1);
        let (batches, asked) = ask("SELECT name FROM t WHERE id IN (3, 4, 77, 3) AND name <> 'n4'").await;
        assert_eq!(rows(&batches), 1);
        assert_eq!(asked[0].keys.as_ref().unwrap().num_rows(), 3);
        let (batches, asked) = ask("SELECT * FROM t WHERE id > 3").await;
        assert_eq!(rows(&batches), 6);
        assert!(asked[0].keys.is_none());
    }

    #[tokio::test]
    async fn a_contradiction_reads_nothing() {
        let (batches, _) = ask("SELECT * FROM t WHERE id IN (1, 2) AND id IN (3, 4)").await;
        assert_eq!(rows(&batches), 0);
        let (batches, _) = ask("SELECT * FROM t WHERE id = NULL").await;
        assert_eq!(rows(&batches), 0);
    }

    #[tokio::test]
    async fn projection_and_limit_reach_the_reader() {
        let (batches, asked) = ask("SELECT name FROM t LIMIT 5").await;
        assert_eq!(rows(&batches), 5);
        assert_eq!(asked[0].projection, [1]);
        assert_eq!(asked[0].limit, Some(5));
        let (batches, asked) = ask("SELECT count(*) FROM t").await;
        assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 10);
        assert!(asked[0].projection.is_empty());
    }
}
