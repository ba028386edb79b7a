//! What all batch statements share (threads, memory, spill files, functions) and how one logical plan is run on it.
//!
//! Batch work has threads of its own, so that a heavy query delays neither the sockets nor the epoch loop. Results leave
//! through a bounded channel: a client that reads slowly stops its query, and dropping the stream cancels it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::common::config::{ConfigNonZeroUsize, Dialect};
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{TableProvider, provider_as_source};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{AggregateUDF, LogicalPlan, ScalarUDF, TableScan, TableSource, WindowUDF};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan, displayable, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, stream};
use millstream_sql::{without_asof, without_sessions};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::explain::tree;
use super::filter_pushdown::physical_optimizer_rules;
use super::jobs::{Job, Jobs};
use super::lake::Snapshots;
use super::left_again::LeftAgain;
use super::memory::SpillPool;
use super::sinks::Places;
use super::stores::Stores;
use crate::error::{Error, Result, sqlstate};

/// Batches that may wait between a query and the client that reads it.
const RESULT_QUEUE_BATCHES: usize = 2;
/// Memory consumers that an out-of-memory error names.
const CONSUMERS_NAMED: usize = 3;
/// Sorted files that one merge reads at a time: each of them has a batch or two in memory.
const MERGE_FILES_MAX: usize = 16;
/// How DataFusion names the folders of its spill files.
const SPILL_PREFIX: &str = "datafusion-";

/// Bounds of batch work; the `[batch]` section of the settings.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Memory of all batch statements together, in bytes; past it they spill to `spill_dir` or fail with 53200.
    pub memory_limit_bytes: usize,
    /// Folder for spill files; it is ours alone and emptied at start.
    pub spill_dir: PathBuf,
    /// Most bytes that spill files may take.
    pub spill_limit_bytes: u64,
    /// Memory for the footers of Parquet files, in bytes.
    pub metadata_cache_bytes: usize,
    /// Threads for batch work, and parts that a plan is split into unless memory is too small for them.
    pub threads: usize,
}

impl BatchOptions {
    /// The defaults, with spill files in `spill_dir`.
    pub fn new(spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            memory_limit_bytes: 1 << 30,
            spill_dir: spill_dir.into(),
            spill_limit_bytes: 100 << 30,
            metadata_cache_bytes: 64 << 20,
            threads: std::thread::available_parallelism().map_or(2, NonZeroUsize::get),
        }
    }

    /// Parts that a plan is split into: each has memory to sort in. Two at least, for DataFusion joins by merging only then.
    fn partitions(&self) -> usize {
        const BYTES_PER_PARTITION: usize = 64 << 20;
        (self.memory_limit_bytes / BYTES_PER_PARTITION).clamp(2, self.threads.max(2))
    }

    /// Rows per record batch: a merge holds two batches at least, so less memory needs smaller ones.
    fn batch_size(&self) -> usize {
        const BYTES_PER_ROW: usize = 32 << 10;
        (self.memory_limit_bytes / BYTES_PER_ROW).clamp(256, 8192)
    }
}

/// Functions that statements may call beside DataFusion's own; a name that both have is taken from here.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    pub scalar: Vec<Arc<ScalarUDF>>,
    pub aggregate: Vec<Arc<AggregateUDF>>,
    pub window: Vec<Arc<WindowUDF>>,
}

/// What one statement runs under.
#[derive(Debug, Clone)]
pub struct StatementOptions {
    /// The session's time zone, as an IANA name or offset.
    pub time_zone: String,
    /// What `now()` is throughout the statement.
    pub now: DateTime<Utc>,
    /// What is told how far it is, if anything.
    pub job: Option<Arc<Job>>,
}

impl Default for StatementOptions {
    fn default() -> Self {
        Self { time_zone: "UTC".into(), now: Utc::now(), job: None }
    }
}

/// Finds the rows behind a table that a plan names.
pub trait Resolver: Sync {
    /// The provider for a source of the plan; its schema is that of the source.
    ///
    /// # Errors
    /// Whatever makes the table unreadable now (a file gone, a view that failed).
    fn provider(&self, source: &Arc<dyn TableSource>) -> Result<Arc<dyn TableProvider>>;
}

/// Rows of a running statement with their schema.
pub type RowStream = (SchemaRef, SendableRecordBatchStream);

/// The batch engine of one server.
pub struct Batch {
    env: Arc<RuntimeEnv>,
    stores: Arc<Stores>,
    snapshots: Arc<Snapshots>,
    jobs: Jobs,
    base: SessionState,
    function_names: Arc<BTreeSet<String>>,
    /// Functions that read settings, rebuilt where a statement's settings differ from the base.
    configurable: Vec<Arc<ScalarUDF>>,
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Batch {
    /// Starts the threads and prepares the spill folder. `rules` run after DataFusion's type coercion, in this order.
    ///
    /// # Errors
    /// If the spill folder cannot be made or emptied, or threads cannot be started.
    pub fn new(
        options: &BatchOptions,
        functions: &Functions,
        rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>>,
    ) -> Result<Self> {
        prepare_spill_dir(&options.spill_dir)?;
        let env = runtime_env(options)?;
        let base = base_state(options, env.clone(), functions, rules)?;
        let configurable = base
            .scalar_functions()
            .values()
            .filter(|f| f.inner().with_updated_config(base.config().options()).is_some())
            .cloned()
            .collect();
        let names = base.scalar_functions().keys().chain(base.aggregate_functions().keys());
        let function_names = Arc::new(names.chain(base.window_functions().keys()).cloned().collect());
        let runtime =
            Builder::new_multi_thread().worker_threads(options.threads).thread_name("batch").enable_all().build()?;
        let handle = runtime.handle().clone();
        let stores = Arc::new(Stores::new(env.clone()));
        Ok(Self {
            env,
            stores,
            snapshots: Arc::default(),
            jobs: Jobs::default(),
            base,
            function_names,
            configurable,
            runtime: Some(runtime),
            handle,
        })
    }

    /// The memory pool, spill files and caches that statements share.
    pub fn runtime_env(&self) -> &Arc<RuntimeEnv> {
        &self.env
    }

    /// The statements that run.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// The object stores that statements share.
    pub fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    /// The versions of Delta tables that were read last.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// What sinks that write files need.
    pub fn places(&self) -> Places {
        Places::new(self.stores.clone(), self.snapshots.clone(), self.handle.clone(), self.base.clone())
    }

    /// The names of all functions that statements can call.
    pub fn function_names(&self) -> Arc<BTreeSet<String>> {
        self.function_names.clone()
    }

    /// The threads that batch work runs on.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A session state for one statement.
    pub fn state(&self, options: &StatementOptions) -> SessionState {
        let mut state = self.base.clone();
        if self.base.config().options().execution.time_zone.as_deref() != Some(options.time_zone.as_str()) {
            state.config_mut().options_mut().execution.time_zone = Some(options.time_zone.clone());
            for function in &self.configurable {
                let updated = function.inner().with_updated_config(state.config().options());
                if let Some(updated) = updated {
                    register(&mut state, Arc::new(updated));
                }
            }
        }
        state.mark_start_execution();
        state.execution_props_mut().query_execution_start_time = Some(options.now);
        state
    }

    /// Plans and starts a query. Planning too runs on the batch threads: it may read file footers.
    ///
    /// # Errors
    /// Of the resolver, of planning, of opening what is read. Errors while rows flow come through the stream.
    pub async fn execute(
        &self,
        plan: LogicalPlan,
        resolver: &dyn Resolver,
        options: &StatementOptions,
    ) -> Result<RowStream> {
        let state = self.state(options);
        let plan = resolve(plan, resolver)?;
        let task = self.handle.spawn(Attempt { state, plan, job: options.job.clone() }.start());
        let (rows, second) = AbortOnDrop(task).await?;
        let schema = rows.schema();
        Ok((schema.clone(), self.forward(schema, rows, second, options.job.clone())))
    }

    /// Runs a query to its end and keeps all of its rows.
    #[cfg(test)]
    pub async fn collect(
        &self,
        plan: LogicalPlan,
        resolver: &dyn Resolver,
        options: &StatementOptions,
    ) -> Result<Vec<datafusion::arrow::array::RecordBatch>> {
        let (_, mut rows) = self.execute(plan, resolver, options).await?;
        let mut batches = Vec::new();
        while let Some(batch) = rows.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }

    /// The optimized logical plan and the physical plan as text, one node a line; for `EXPLAIN`.
    ///
    /// # Errors
    /// As [`Batch::execute`].
    pub async fn explain(
        &self,
        plan: LogicalPlan,
        resolver: &dyn Resolver,
        options: &StatementOptions,
    ) -> Result<Explained> {
        let state = self.state(options);
        let plan = resolve(plan, resolver)?;
        let task = self.handle.spawn(async move {
            let logical = state.optimize(&plan)?;
            let physical = state.query_planner().create_physical_plan(&logical, &state).await?;
            Ok(Explained {
                logical: logical.display_indent().to_string(),
                physical: displayable(physical.as_ref()).indent(false).to_string(),
                tree: tree(physical.as_ref()),
            })
        });
        Ok(AbortOnDrop(task).await?)
    }

    /// Runs a query to its end, discards the rows, and gives the physical plan with its counters; for
    /// `EXPLAIN ANALYZE`.
    ///
    /// # Errors
    /// As [`Batch::execute`], and those of the rows.
    pub async fn analyze(
        &self,
        plan: LogicalPlan,
        resolver: &dyn Resolver,
        options: &StatementOptions,
    ) -> Result<Analyzed> {
        let state = self.state(options);
        let plan = resolve(plan, resolver)?;
        let task = self.handle.spawn(async move {
            let physical = state.create_physical_plan(&plan).await?;
            let started = Instant::now();
            let mut rows = execute_stream(physical.clone(), state.task_ctx())?;
            let mut count = 0;
            while let Some(batch) = rows.next().await {
                count += batch?.num_rows() as u64;
            }
            let elapsed = started.elapsed();
            Ok(Analyzed { physical: annotated(physical.as_ref()), tree: tree(physical.as_ref()), rows: count, elapsed })
        });
        Ok(AbortOnDrop(task).await?)
    }

    /// Drives `rows` on the batch threads and hands the batches over, a few at a time. If they run out of memory before
    /// the first one, `second` is tried.
    fn forward(
        &self,
        schema: SchemaRef,
        mut rows: SendableRecordBatchStream,
        mut second: Option<Attempt>,
        job: Option<Arc<Job>>,
    ) -> SendableRecordBatchStream {
        let (sender, receiver) = mpsc::channel(RESULT_QUEUE_BATCHES);
        let task = self.handle.spawn(async move {
            // The job is there until the last row is.
            let _job = job;
            while let Some(batch) = rows.next().await {
                if let (Err(error), Some(attempt)) = (&batch, second.take())
                    && matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
                {
                    tracing::debug!("a query runs again with joins that spill: {error}");
                    // The memory of the first attempt is free before the second takes any.
                    let none = Box::pin(EmptyRecordBatchStream::new(rows.schema()));
                    drop(std::mem::replace(&mut rows, none));
                    rows = attempt.start().await?.0;
                    continue;
                }
                let failed = batch.is_err();
                let gone = sender.send(batch.map_err(with_state)).await.is_err();
                if failed || gone {
                    break;
                }
            }
            Ok(())
        });
        let start = (receiver, Some(AbortOnDrop(task)));
        let stream = stream::unfold(start, |(mut receiver, mut task)| async move {
            if let Some(batch) = receiver.recv().await {
                return Some((batch, (receiver, task)));
            }
            // The channel closes at the end of the rows, but also when the task panicked: only the task knows.
            match task.take()?.await {
                Ok(()) => None,
                Err(e) => Some((Err(e), (receiver, None))),
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, stream))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the threads would block, which an async caller must not.
            runtime.shutdown_background();
        }
    }
}

/// A plan as `EXPLAIN` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    pub logical: String,
    pub physical: String,
    /// The physical plan for `FORMAT JSON`.
    pub tree: serde_json::Value,
}

/// A plan that has run, as `EXPLAIN ANALYZE` prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct Analyzed {
    /// With its counters.
    pub physical: String,
    pub tree: serde_json::Value,
    /// Rows of the result.
    pub rows: u64,
    pub elapsed: Duration,
}

/// Puts the resolver's providers under all scans of a plan, those of subqueries included.
///
/// # Errors
/// Of the resolver; XX000 if a provider's columns are not those of its source.
pub fn resolve(plan: LogicalPlan, resolver: &dyn Resolver) -> Result<LogicalPlan> {
    let resolved = without_sessions(without_asof(plan)?)?.transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = node else { return Ok(Transformed::no(node)) };
        let provider = resolver.provider(&scan.source)?;
        check_schema(&scan, provider.as_ref())?;
        let source = provider_as_source(provider);
        Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan })))
    })?;
    Ok(resolved.data)
}

fn check_schema(scan: &TableScan, provider: &dyn TableProvider) -> Result<()> {
    let (planned, actual) = (scan.source.schema(), provider.schema());
    let same = planned.fields().len() == actual.fields().len()
        && planned
            .fields()
            .iter()
            .zip(actual.fields())
            .all(|(p, a)| p.name() == a.name() && p.data_type() == a.data_type());
    if same {
        return Ok(());
    }
    Err(Error::internal(format!("relation \"{}\" has other columns than it was planned with", scan.table_name))
        .with_detail(format!("planned: {planned}; found: {actual}")))
}

/// A plan that is yet to be run.
struct Attempt {
    state: SessionState,
    plan: LogicalPlan,
    job: Option<Arc<Job>>,
}

impl Attempt {
    /// Plans and starts, with what to try if it runs out of memory. Hash joins are fast but cannot spill; the sort-merge
    /// joins of a second attempt can.
    async fn start(mut self) -> Result<(SendableRecordBatchStream, Option<Self>), DataFusionError> {
        let physical = self.state.create_physical_plan(&self.plan).await?;
        let rows = execute_stream(physical.clone(), self.state.task_ctx())?;
        if let Some(job) = &self.job {
            job.watch(physical.clone());
        }
        let optimizer = &mut self.state.config_mut().options_mut().optimizer;
        if !optimizer.prefer_hash_join || !has_hash_join(&physical) {
            return Ok((rows, None));
        }
        optimizer.prefer_hash_join = false;
        Ok((rows, Some(self)))
    }
}

fn has_hash_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<HashJoinExec>() || plan.children().into_iter().any(has_hash_join)
}

/// The physical plan with its counters.
fn annotated(plan: &dyn ExecutionPlan) -> String {
    datafusion::physical_plan::display::DisplayableExecutionPlan::with_metrics(plan).indent(false).to_string()
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(JoinHandle<Result<T, DataFusionError>>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, DataFusionError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|joined| match joined {
            Ok(result) => result.map_err(with_state),
            Err(e) => Err(task_error(e).into()),
        })
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn task_error(e: tokio::task::JoinError) -> Error {
    if !e.is_panic() {
        return Error::new(sqlstate::ADMIN_SHUTDOWN, "the server is shutting down");
    }
    let payload = e.into_panic();
    let message = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    Error::internal(format!("the query failed unexpectedly: {message}"))
}

/// Gives errors of damaged files their SQLSTATE; all others keep what they have.
fn with_state(e: DataFusionError) -> DataFusionError {
    match e.find_root() {
        _ if Error::inside(&e).is_some() => e,
        DataFusionError::ParquetError(cause) => {
            Error::new(sqlstate::DATA_CORRUPTED, format!("a parquet file cannot be read: {cause}")).into()
        }
        _ => e,
    }
}

fn runtime_env(options: &BatchOptions) -> Result<Arc<RuntimeEnv>> {
    let names = NonZeroUsize::new(CONSUMERS_NAMED).unwrap_or(NonZeroUsize::MIN);
    let pool: Arc<dyn MemoryPool> =
        Arc::new(TrackConsumersPool::new(SpillPool::new(options.memory_limit_bytes, options.partitions()), names));
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![options.spill_dir.clone()]))
        .with_max_temp_directory_size(options.spill_limit_bytes)
        .with_max_spill_merge_fan_in(MERGE_FILES_MAX);
    let env = RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(disk)
        // Folders are listed anew by every statement: a cached list would hide files written since.
        .with_object_list_cache_limit(0)
        .with_metadata_cache_limit(options.metadata_cache_bytes)
        .build_arc()?;
    Ok(env)
}

fn base_state(
    options: &BatchOptions,
    env: Arc<RuntimeEnv>,
    functions: &Functions,
    rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>>,
) -> Result<SessionState> {
    let mut optimizer = datafusion::optimizer::Optimizer::new().rules;
    let left_out = [
        // It adds up the sums of a first pass as if they had the type of the argument; sum(smallint) then has another type.
        "single_distinct_aggregation_to_group_by",
        // It pushes a projection over a union into the union's inputs as it is: their columns are then found by the names of
        // the first input, not by their places, and those of an input that has other names are swapped or not found.
        "optimize_unions",
    ];
    optimizer.retain(|rule| !left_out.contains(&rule.name()));
    let mut builder = SessionStateBuilder::new()
        .with_config(session_config(options)?)
        .with_runtime_env(env)
        .with_default_features()
        .with_optimizer_rules(optimizer)
        .with_physical_optimizer_rules(physical_optimizer_rules())
        .with_physical_optimizer_rule(Arc::new(LeftAgain));
    for rule in rules {
        builder = builder.with_analyzer_rule(rule);
    }
    let mut state = builder.build();
    for function in &functions.scalar {
        register(&mut state, function.clone());
    }
    register_others(&mut state, functions);
    Ok(state)
}

fn register(state: &mut SessionState, function: Arc<ScalarUDF>) {
    use datafusion::execution::FunctionRegistry;
    if let Err(e) = state.register_udf(function) {
        tracing::warn!("a function was not registered: {e}");
    }
}

fn register_others(state: &mut SessionState, functions: &Functions) {
    use datafusion::execution::FunctionRegistry;
    for function in &functions.aggregate {
        if let Err(e) = state.register_udaf(function.clone()) {
            tracing::warn!("an aggregate was not registered: {e}");
        }
    }
    for function in &functions.window {
        if let Err(e) = state.register_udwf(function.clone()) {
            tracing::warn!("a window function was not registered: {e}");
        }
    }
}

fn session_config(options: &BatchOptions) -> Result<SessionConfig> {
    let mut config = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(millstream_catalog::DEFAULT_DATABASE, millstream_catalog::DEFAULT_SCHEMA)
        .with_information_schema(false)
        .with_target_partitions(options.partitions())
        .with_batch_size(options.batch_size());
    let settings = config.options_mut();
    settings.sql_parser.dialect = Dialect::PostgreSQL;
    settings.execution.time_zone = Some("UTC".into());
    // A sort reserves this much up front for merging its spill files: a small limit must leave room to work.
    settings.execution.sort_spill_reservation_bytes = (options.memory_limit_bytes / 16).min(10 << 20);
    // Two open files of one repartition can wait for each other for ever (apache/datafusion#24883): each batch that it spills
    // gets a file of its own, which is never left open.
    settings.execution.max_spill_file_size_bytes = ConfigNonZeroUsize::try_new(1)?;
    settings.execution.parquet.pushdown_filters = true;
    settings.execution.parquet.reorder_filters = true;
    settings.execution.parquet.enable_page_index = true;
    settings.execution.parquet.bloom_filter_on_read = true;
    settings.execution.parquet.schema_force_view_types = true;
    Ok(config)
}

/// Makes the folder and removes what a killed server left in it.
fn prepare_spill_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SPILL_PREFIX) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Int64Type};
    use datafusion::datasource::MemTable;
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};

    use super::*;
    use crate::batch::testing::{AsPlanned, engine, plan, query};

    /// `rows` distinct numbers in no order.
    fn numbers(rows: i64) -> Arc<dyn TableProvider> {
        let batch = |from: i64| {
            let n: Int64Array = (from..(from + 8192).min(rows)).map(|i| (i * 7919) % rows).collect();
            let pad: Int64Array = n.iter().collect();
            let columns: [(&str, datafusion::arrow::array::ArrayRef); 2] = [("n", Arc::new(n)), ("pad", Arc::new(pad))];
            datafusion::arrow::array::RecordBatch::try_from_iter(columns).unwrap()
        };
        let batches: Vec<_> = (0..rows).step_by(8192).map(batch).collect();
        Arc::new(MemTable::try_new(batches[0].schema(), vec![batches]).unwrap())
    }

    #[tokio::test]
    async fn a_sort_larger_than_the_memory_spills_and_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let batch = engine(dir.path(), 10 << 20);
        let tables = [("t", numbers(1_000_000))];
        let plan = plan(&batch, "SELECT n, pad FROM t ORDER BY n DESC", &tables).await;
        let analyzed = batch.analyze(plan.clone(), &AsPlanned, &StatementOptions::default()).await.unwrap();
        let (physical, rows) = (analyzed.physical, analyzed.rows);
        assert_eq!(rows, 1_000_000);
        let spills = physical.split("spill_count=").nth(1).unwrap().split([',', ']']).next().unwrap();
        assert_ne!(spills, "0", "{physical}");
        let batches = batch.collect(plan, &AsPlanned, &StatementOptions::default()).await.unwrap();
        let mut expected = (0..1_000_000_i64).rev();
        for b in &batches {
            assert!(b.column(0).as_primitive::<Int64Type>().values().iter().all(|n| expected.next() == Some(*n)));
        }
        assert!(expected.next().is_none());
        assert_eq!(batch.runtime_env().memory_pool.reserved(), 0);
    }

    #[tokio::test]
    async fn what_cannot_spill_fails_with_53200() {
        let dir = tempfile::tempdir().unwrap();
        let batch = engine(dir.path(), 1 << 20);
        let sql = "SELECT array_agg(n) FROM t";
        let error = query(&batch, sql, &[("t", numbers(500_000))]).await.unwrap_err();
        assert_eq!(error.sqlstate(), "53200", "{error}");
    }

    #[tokio::test]
    async fn joins_and_groups_larger_than_the_memory_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let batch = engine(dir.path(), 8 << 20);
        let tables = [("t", numbers(500_000))];
        for (sql, expected) in [
            ("SELECT count(*), sum(b.pad) FROM t a JOIN t b ON a.n = b.n", "| 500000   | 124999750000 |"),
            ("SELECT count(*), sum(s) FROM (SELECT n, sum(pad) AS s FROM t GROUP BY n)", "| 500000   | 124999750000 |"),
            (
                "SELECT count(*), sum(r) FROM (SELECT row_number() OVER (ORDER BY pad) r FROM t)",
                "| 500000   | 125000250000 |",
            ),
        ] {
            let plan = plan(&batch, sql, &tables).await;
            let rows = batch
                .collect(plan, &AsPlanned, &StatementOptions::default())
                .await
                .unwrap_or_else(|e| panic!("{sql}: {e}"));
            let shown = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
            assert!(shown.contains(expected), "{sql}\n{shown}");
        }
        assert_eq!(batch.runtime_env().memory_pool.reserved(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_not_a_short_result() {
        let dir = tempfile::tempdir().unwrap();
        let batch = engine(dir.path(), 64 << 20);
        let state = batch.state(&StatementOptions::default());
        let broken = create_udf(
            "broken",
            vec![DataType::Int64],
            DataType::Int64,
            Volatility::Volatile,
            Arc::new(|args: &[ColumnarValue]| {
                let values = ColumnarValue::values_to_arrays(args)?;
                assert!(values[0].as_primitive::<Int64Type>().values().iter().all(|n| *n < 20_000), "boom");
                Ok(args[0].clone())
            }),
        );
        let mut config = state.config().clone();
        config.options_mut().catalog.create_default_catalog_and_schema = true;
        let context = datafusion::prelude::SessionContext::new_with_config(config);
        context.register_udf(broken);
        context.register_table("t", numbers(100_000)).unwrap();
        let plan = context.state().create_logical_plan("SELECT broken(n) FROM t").await.unwrap();
        let error = batch.collect(plan, &AsPlanned, &StatementOptions::default()).await.unwrap_err();
        assert_eq!(error.sqlstate(), "XX000");
        assert!(error.message().contains("boom"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_result_stops_its_query() {
        let dir = tempfile::tempdir().unwrap();
        let batch = engine(dir.path(), 256 << 20);
        let plan = plan(&batch, "SELECT a.n FROM t a, t b, t c", &[("t", numbers(10_000))]).await;
        let (_, mut rows) = batch.execute(plan, &AsPlanned, &StatementOptions::default()).await.unwrap();
        assert!(rows.next().await.unwrap().is_ok());
        drop(rows);
        for _ in 0..200 {
            if batch.runtime_env().memory_pool.reserved() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the query still holds memory");
    }

    #[tokio::test]
    async fn what_a_killed_server_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("spill/datafusion-abc")).unwrap();
        std::fs::create_dir_all(dir.path().join("spill/other")).unwrap();
        let _batch = engine(dir.path(), 1 << 20);
        assert!(!dir.path().join("spill/datafusion-abc").exists());
        assert!(dir.path().join("spill/other").exists());
    }
}
