//! Rows of one snapshot of the store, or of a source, as a table that DataFusion can read.
//!
//! [`RowScan`] is what a reader of rows implements; it blocks, so it runs on blocking threads and hands its batches over
//! through a short channel. What the filters say of its key and its indexes narrows what is read ([`super::access`]).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics, internal_err};
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, StatisticsArgs,
};

use super::access::{self, Access, IndexOrder, Ranges};
use crate::error::Result;

/// Batches that may wait between the reading thread and the query.
const SCAN_QUEUE_BATCHES: usize = 2;
/// What part of a relation's rows a range is taken to hold, where joins are put in order: one in so many.
const RANGE_PART: usize = 20;

/// Something that has rows.
pub trait RowScan: fmt::Debug + Send + Sync + 'static {
    /// The columns, as in the catalog (with a hidden row id last if the plan asked for one).
    fn schema(&self) -> SchemaRef;

    /// Positions of the columns of the primary key, in the key's order; empty if there is none to read points by.
    fn primary_key(&self) -> &[usize] {
        &[]
    }

    /// The indexes that rows can be found by.
    fn indexes(&self) -> &[IndexOrder] {
        &[]
    }

    /// Whether to read ranges of an index is less work than to read all rows.
    fn is_worth(&self, _ranges: &Ranges) -> bool {
        true
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
    /// Read only the rows that are found so, and all of them; `None`: read all rows.
    pub access: Option<Access>,
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
        let (key, indexes) = (self.rows.primary_key(), self.rows.indexes());
        let of_key = |filter: &&Expr| match access::narrows(filter, &self.schema, key, indexes) {
            // The filter stays in the plan: what is read is narrowed by it, not decided.
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
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
        let access = access::choose(self.rows.primary_key(), self.rows.indexes(), filters, &self.schema)?;
        let access = access.filter(|access| match access {
            Access::Ranges(ranges) => self.rows.is_worth(ranges),
            Access::Keys(_) => true,
        });
        let request = ScanRequest {
            projection: projection.cloned().unwrap_or_else(all),
            access,
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
        match &self.request.access {
            Some(Access::Keys(keys)) => write!(f, ", point_reads={}", keys.num_rows())?,
            Some(Access::Ranges(ranges)) => {
                match &ranges.index {
                    Some((_, name)) => write!(f, ", index: {name}")?,
                    None => write!(f, ", primary key")?,
                }
                write!(f, ", ranges={}", ranges.rows)?;
            }
            None => {}
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
        let rows = match &self.request.access {
            Some(Access::Keys(keys)) => Some(keys.num_rows()),
            Some(Access::Ranges(ranges)) if ranges.single => Some(ranges.rows),
            Some(Access::Ranges(_)) => self.rows.row_estimate().map(|rows| (rows / RANGE_PART).max(1)),
            None => self.rows.row_estimate(),
        };
        if let Some(rows) = rows {
            statistics.num_rows = Precision::Inexact(rows.min(self.request.limit.unwrap_or(usize::MAX)));
        }
        Ok(Arc::new(statistics))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::{Int64Type, Schema};
    use datafusion::prelude::SessionContext;
    use millstream_catalog::SqlType;
    use parking_lot::Mutex;

    use super::*;

    /// Ten rows `(id, name)`, and what was asked of them.
    #[derive(Debug)]
    struct Ten {
        asked: Mutex<Vec<ScanRequest>>,
    }

    fn keys(request: &ScanRequest) -> Option<&RecordBatch> {
        match &request.access {
            Some(Access::Keys(keys)) => Some(keys),
            _ => None,
        }
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
                keys(request).map(|k| k.column(0).as_primitive::<Int64Type>().values().to_vec());
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
        assert_eq!(keys(&asked[0]).unwrap().num_rows(), 1);
        let (batches, asked) = ask("SELECT name FROM t WHERE id IN (3, 4, 77, 3) AND name <> 'n4'").await;
        assert_eq!(rows(&batches), 1);
        assert_eq!(keys(&asked[0]).unwrap().num_rows(), 3);
        let (batches, asked) = ask("SELECT * FROM t WHERE id > 3").await;
        assert_eq!(rows(&batches), 6);
        assert!(matches!(&asked[0].access, Some(Access::Ranges(ranges)) if ranges.index.is_none()));
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
