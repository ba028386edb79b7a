//! Files of text as a node of a plan: some files a partition, one after the other.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, ScalarValue, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::object_store::ObjectMeta;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, StatisticsArgs,
};

use super::TextReader;
use crate::batch::files::input;
use crate::batch::stores::Store;
use crate::error::{Error, Result};

/// Batches that may wait between the reading thread and the query.
const QUEUE_BATCHES: usize = 2;

/// A file with the values of its partition columns.
#[derive(Debug, Clone)]
pub struct TextFile {
    pub name: String,
    pub meta: ObjectMeta,
    pub partition: Vec<ScalarValue>,
}

/// Where an output column comes from.
#[derive(Debug, Clone, Copy)]
pub enum Output {
    /// Of the columns that the reader gives.
    Read(usize),
    /// Of the file's partition values.
    Partition(usize),
}

/// What is scanned.
#[derive(Debug)]
pub struct TextScan {
    pub store: Store,
    pub reader: TextReader,
    /// The files of each partition.
    pub groups: Vec<Vec<TextFile>>,
    pub outputs: Vec<Output>,
    /// The columns that come out.
    pub schema: SchemaRef,
    pub limit: Option<usize>,
    /// `csv`, for EXPLAIN.
    pub format: &'static str,
    /// What the files are the table of, for errors.
    pub object: String,
}

/// A [`TextScan`] in a plan.
#[derive(Debug)]
pub struct TextScanExec {
    scan: Arc<TextScan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TextScanExec {
    /// The node of a scan.
    pub fn new(scan: TextScan) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.schema.clone()),
            Partitioning::UnknownPartitioning(scan.groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { scan: Arc::new(scan), properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl TextScan {
    /// Reads the files of a partition; `emit` says whether more is wanted.
    fn read(&self, partition: usize, bytes: &Count, emit: &mut dyn FnMut(RecordBatch) -> bool) -> Result<()> {
        let mut wanted = self.limit.unwrap_or(usize::MAX);
        for file in &self.groups[partition] {
            let input = input::open(&self.store, &file.meta)?;
            let input = Box::new(Counted { inner: input, bytes: bytes.clone() });
            let mut go_on = true;
            self.reader.read(&file.name, input, &mut |rows| {
                let rows = rows.slice(0, rows.num_rows().min(wanted));
                wanted -= rows.num_rows();
                go_on = emit(self.with_partition(&rows, file)?) && wanted > 0;
                Ok(go_on)
            })?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn with_partition(&self, rows: &RecordBatch, file: &TextFile) -> Result<RecordBatch> {
        let columns = self.outputs.iter().map(|output| match output {
            Output::Read(at) => Ok(rows.column(*at).clone()),
            Output::Partition(at) => file.partition[*at].to_array_of_size(rows.num_rows()),
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

impl DisplayAs for TextScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scan = &self.scan;
        let columns: Vec<_> = scan.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let files: usize = scan.groups.iter().map(Vec::len).sum();
        write!(f, "FileScan: format={}, files={files}, columns=[{}]", scan.format, columns.join(", "))?;
        if let Some(limit) = scan.limit {
            write!(f, ", limit={limit}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for TextScanExec {
    fn name(&self) -> &'static str {
        "FileScan"
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
        if children.is_empty() { Ok(self) } else { internal_err!("a scan of files has no inputs") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> datafusion::error::Result<SendableRecordBatchStream> {
        let mut stream = RecordBatchReceiverStreamBuilder::new(self.schema(), QUEUE_BATCHES);
        let sender = stream.tx();
        let scan = self.scan.clone();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let bytes = MetricBuilder::new(&self.metrics).counter("bytes_scanned", partition);
        stream.spawn_blocking(move || {
            let object = scan.object.clone();
            let read = scan.read(partition, &bytes, &mut |rows| {
                metrics.record_output(rows.num_rows());
                // The receiver is gone when the statement was cancelled or has enough.
                sender.blocking_send(Ok(rows)).is_ok()
            });
            read.map_err(|e| of_object(e, &object).into())
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
        let bytes: u64 = self.scan.groups.iter().flatten().map(|file| file.meta.size).sum();
        statistics.total_byte_size = Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
        if let Some(limit) = self.scan.limit {
            statistics.num_rows = Precision::Inexact(limit);
        }
        Ok(Arc::new(statistics))
    }
}

/// An error with the object whose files it is about.
pub fn of_object(error: Error, object: &str) -> Error {
    match error.context() {
        Some(_) => error,
        None => error.with_context(object),
    }
}

/// A reader whose bytes are counted.
struct Counted {
    inner: Box<dyn std::io::Read>,
    bytes: Count,
}

impl std::io::Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(into)?;
        self.bytes.add(n);
        Ok(n)
    }
}
