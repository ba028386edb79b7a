//! Delta tables: CREATE EXTERNAL TABLE … STORED AS DELTA, and the statements that change their rows.
//!
//! A statement that looks at the table's rows is computed again if another writer changed them meanwhile.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, SortExpr};
use deltalake::protocol::DeltaOperation;
use futures::StreamExt;
use millstream_catalog::object::ExternalTable;
use millstream_catalog::{Object, ObjectId, ObjectKind};
use millstream_sql::plan::{
    CreateExternalTablePlan, DeletePlan, InsertPlan, MERGE_INSERT, MERGE_UPDATE, MergePlan, Overwrite, PlannedQuery,
    RowChecks, UpdatePlan,
};
use millstream_sql::{CatalogSource, Parsed, Plan};

use super::api::{Notice, Parameter, Response};
use super::dml::{check, table_of};
use super::{Scope, Session, complete, query};
use crate::batch::copy::Written;
use crate::batch::lake::change::{self, Changed, Gone, Replaced, Rows};
use crate::batch::lake::commit::Note;
use crate::batch::lake::create::{NewLake, already_there, check_declared};
use crate::batch::lake::place::properties;
use crate::batch::lake::snapshot::Snapshot;
use crate::batch::lake::write::{Shape, Writer};
use crate::batch::lake::{At, Lake, LakeTable};
use crate::error::{Error, Result, sqlstate};

/// How often a statement is computed again before its client must.
pub(super) const RETRIES: usize = 20;

impl Session {
    /// Opens the folder of a Delta table.
    fn lake_of(&self, object: &Object, table: &ExternalTable, scope: &Scope) -> Result<Lake> {
        let access = scope.access.of_role(&object.owner);
        let secret = access.secret_of(&table.options, &object.references);
        Lake::open(&table.location, &object.describe(), &access, secret)
    }

    /// A Delta table as the statement sees it.
    pub(super) fn lake_table(&self, object: &Object, table: &ExternalTable, scope: &Scope) -> Result<LakeTable> {
        let lake = self.lake_of(object, table, scope)?;
        let snapshots = self.database.batch.snapshots().clone();
        Ok(LakeTable::new(lake, table.columns.clone(), snapshots, scope.lakes.clone()))
    }

    /// The table of a statement that changes it, and its version.
    async fn lake_target(&self, id: ObjectId, scope: &Scope) -> Result<Target> {
        let object = table_of(scope, id)?;
        let ObjectKind::ExternalTable(table) = &object.kind else {
            return Err(Error::internal(format!("{} is no Delta table", object.describe())));
        };
        let lake_table = self.lake_table(&object, table, scope)?;
        let snapshot = lake_table.snapshot().await?;
        if let Some(other) = snapshot.columns.iter().find(|c| table.columns.iter().all(|ours| ours.name != c.name)) {
            return Err(Error::unsupported(format!(
                "{} does not have column \"{}\" of its Delta table, so it can only be read",
                object.describe(),
                other.name
            ))
            .with_hint("drop the external table and create it without a column list"));
        }
        let position = |name: &String| table.columns.iter().position(|c| c.name == *name).unwrap_or_default();
        let order = snapshot.columns.iter().map(|c| position(&c.name)).collect();
        let partition_by = snapshot.partition_columns.iter().map(position).collect();
        // What stays is copied with the types of the log.
        let columns = snapshot.columns.clone();
        let all = LakeTable::new(
            snapshot.lake.clone(),
            columns,
            self.database.batch.snapshots().clone(),
            scope.lakes.clone(),
        );
        Ok(Target { object, snapshot, all, order, partition_by })
    }

    fn note(&self) -> Note {
        Note { user: self.role().to_string(), transaction: self.lake_transaction.clone(), ..Note::default() }
    }

    /// Whether the run of a task that this statement belongs to has done it before: the crash came behind the commit.
    async fn is_done(&self, snapshot: &Snapshot) -> Result<bool> {
        let Some(transaction) = &self.lake_transaction else { return Ok(false) };
        let found = snapshot.state.transaction_version(snapshot.lake.log.as_ref(), &transaction.app_id).await;
        Ok(found.map_err(|e| snapshot.lake.told(e))? == Some(transaction.version))
    }

    fn written(scope: &Scope) -> Arc<Written> {
        scope.options.job.as_ref().map(|job| job.written.clone()).unwrap_or_default()
    }

    /// INSERT and INSERT OVERWRITE.
    pub(super) async fn insert_into_lake(
        &mut self,
        p: InsertPlan,
        parsed: Option<&Parsed>,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        self.check_outside("INSERT into a Delta table", true)?;
        if matches!(p.overwrite, Some(Overwrite::Found)) && self.run_vars.is_some() {
            let notice = "PARTITION without values replaces the partitions that the query has rows for, and no others";
            self.notices.push(
                Notice::warning(notice).with_hint("give the partition a value, as in PARTITION (d = run_date())"),
            );
        }
        let turn = self.database.writer(p.table);
        let _turn = match p.overwrite {
            Some(_) => Some(turn.lock().await),
            None => None,
        };
        let table = p.table;
        let done = self.insert_once(p, parameters, scope).await;
        let parsed = match (done, parsed) {
            (Err(e), Some(parsed)) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => parsed,
            (done, _) => return done,
        };
        for _ in 0..RETRIES {
            let (scope, plan) = self.plan_again(parsed, parameters, &scope.cancel).await?;
            let Plan::Insert(p) = plan else { return Err(Error::internal("an INSERT became another statement")) };
            match self.insert_once(p, parameters, &scope).await {
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
                done => return done,
            }
        }
        Err(self.too_many(table, scope))
    }

    async fn insert_once(&mut self, p: InsertPlan, parameters: &[Parameter], scope: &Scope) -> Result<Response> {
        let target = self.lake_target(p.table, scope).await?;
        if self.is_done(&target.snapshot).await? {
            return Ok(complete("INSERT 0 0"));
        }
        let blind = !reads(&p.plan, p.table)?;
        let replaced = match p.overwrite {
            None => None,
            Some(Overwrite::Table) => Some(Replaced::All),
            Some(Overwrite::Found) => Some(Replaced::Found),
            Some(Overwrite::Partition(names, values)) => {
                let rows = self.collect(values, parameters, scope).await?;
                let row = rows.iter().find(|rows| rows.num_rows() == 1);
                let row = row.ok_or_else(|| Error::internal("the values of PARTITION are not one row"))?;
                let values = row.columns().iter().map(|column| ScalarValue::try_from_array(column, 0));
                let values = values.collect::<datafusion::error::Result<Vec<_>>>()?;
                Some(Replaced::Partition(names.into_iter().zip(values).collect()))
            }
        };
        let sorted: &[usize] = match &replaced {
            Some(Replaced::Partition(values)) if values.len() == target.partition_by.len() => &[],
            _ => &target.partition_by,
        };
        let rows = self.sorted_rows(p.plan, sorted, parameters, scope).await?;
        let (snapshot, note, checks) = (target.snapshot.clone(), self.note(), p.checks.clone());
        let rows = target.in_order(rows, checks);
        let rows = Rows { stream: rows, cancel: scope.cancel.clone(), written: Self::written(scope) };
        let run = async move { change::insert(&snapshot, rows, replaced.as_ref(), blind, note).await };
        let count = self.on_batch_threads(run).await?;
        Ok(complete(format!("INSERT 0 {count}")))
    }

    /// The rows of a plan, sorted by some of its columns.
    async fn sorted_rows(
        &self,
        plan: LogicalPlan,
        by: &[usize],
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<SendableRecordBatchStream> {
        let plan = if by.is_empty() {
            plan
        } else {
            let column = |at: &usize| {
                let (qualifier, field) = plan.schema().qualified_field(*at);
                SortExpr::new(Expr::Column((qualifier, field).into()), true, true)
            };
            let sort: Vec<SortExpr> = by.iter().map(column).collect();
            LogicalPlanBuilder::from(plan).sort(sort)?.build()?
        };
        self.rows_of(plan, parameters, scope, &scope.cancel).await
    }

    /// Work with files, away from the threads that sockets are served on.
    pub(super) async fn on_batch_threads<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let joined = self.database.batch.handle().spawn(work).await;
        joined.map_err(|e| Error::internal(format!("writing to a Delta table failed unexpectedly: {e}")))?
    }

    fn too_many(&self, table: ObjectId, scope: &Scope) -> Error {
        let name = scope.published.catalog.get(table).map(|object| object.describe()).unwrap_or_default();
        let message = format!("could not serialize access to {name} due to concurrent changes");
        Error::new(sqlstate::SERIALIZATION_FAILURE, message)
            .with_hint("run the statement again when less is written to it")
    }

    /// UPDATE.
    pub(super) async fn update_lake(
        &mut self,
        p: UpdatePlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        let (id, change) = (p.table, LakeChange::Update(p));
        let count = self.change_lake("UPDATE", id, change, parsed, parameters, scope).await?;
        Ok(complete(format!("UPDATE {count}")))
    }

    /// DELETE.
    pub(super) async fn delete_from_lake(
        &mut self,
        p: DeletePlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        let (id, change) = (p.table, LakeChange::Delete(p));
        let count = self.change_lake("DELETE", id, change, parsed, parameters, scope).await?;
        Ok(complete(format!("DELETE {count}")))
    }

    /// MERGE.
    pub(super) async fn merge_into_lake(
        &mut self,
        p: MergePlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        let (id, change) = (p.table, LakeChange::Merge(p));
        let count = self.change_lake("MERGE", id, change, parsed, parameters, scope).await?;
        Ok(complete(format!("MERGE {count}")))
    }

    /// TRUNCATE.
    pub(super) async fn truncate_lake(&mut self, id: ObjectId, scope: &Scope) -> Result<()> {
        self.check_outside("TRUNCATE of a Delta table", true)?;
        let turn = self.database.writer(id);
        let _turn = turn.lock().await;
        let target = self.lake_target(id, scope).await?;
        if self.is_done(&target.snapshot).await? {
            return Ok(());
        }
        let schema = millstream_catalog::object::columns_schema(&target.snapshot.columns);
        let none = Box::pin(datafusion::physical_plan::EmptyRecordBatchStream::new(schema));
        let rows = Rows { stream: none, cancel: scope.cancel.clone(), written: Arc::default() };
        let note = self.note();
        change::insert(&target.snapshot, rows, Some(&Replaced::All), true, note).await?;
        Ok(())
    }

    async fn change_lake(
        &mut self,
        command: &str,
        id: ObjectId,
        change: LakeChange,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<u64> {
        self.check_outside(&format!("{command} of a Delta table"), true)?;
        let turn = self.database.writer(id);
        let _turn = turn.lock().await;
        match self.change_once(id, change, parameters, scope).await {
            Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
            done => return done,
        }
        for _ in 0..RETRIES {
            let (scope, plan) = self.plan_again(parsed, parameters, &scope.cancel).await?;
            let change = match plan {
                Plan::Update(p) => LakeChange::Update(p),
                Plan::Delete(p) => LakeChange::Delete(p),
                Plan::Merge(p) => LakeChange::Merge(p),
                _ => return Err(Error::internal("a statement became another one")),
            };
            match self.change_once(id, change, parameters, &scope).await {
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
                done => return done,
            }
        }
        Err(self.too_many(id, scope))
    }

    async fn change_once(
        &mut self,
        id: ObjectId,
        change: LakeChange,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<u64> {
        let target = self.lake_target(id, scope).await?;
        if self.is_done(&target.snapshot).await? {
            return Ok(0);
        }
        change::check_writable(&target.snapshot, true)?;
        let width = target.order.len();
        // Of the old rows only their identity is needed.
        let (plan, checks, operation, layout) = match change {
            LakeChange::Delete(p) => {
                let plan = columns_of(p.plan, |at, _| at == 0)?;
                (plan, None, DeltaOperation::Delete { predicate: None }, Layout::Gone)
            }
            LakeChange::Update(p) => {
                let plan = columns_of(p.plan, |at, _| at == 0 || at > width)?;
                (plan, Some(p.checks), DeltaOperation::Update { predicate: None }, Layout::Updated)
            }
            LakeChange::Merge(p) => {
                let plan = columns_of(p.plan, |at, _| at == 0 || at > width)?;
                let operation = DeltaOperation::Merge {
                    predicate: None,
                    merge_predicate: None,
                    matched_predicates: Vec::new(),
                    not_matched_predicates: Vec::new(),
                    not_matched_by_source_predicates: Vec::new(),
                };
                (plan, Some(p.checks), operation, Layout::Merged)
            }
        };
        let by = match layout.first_new() {
            Some(first) => target.partition_by.iter().map(|at| at + first).collect(),
            None => Vec::new(),
        };
        let rows = self.sorted_rows(plan, &by, parameters, scope).await?;
        let (written, cancel, note) = (Self::written(scope), scope.cancel.clone(), self.note());
        let database = self.database.clone();
        let run = async move {
            let Target { snapshot, all, order, .. } = target;
            let writer = Writer::new(Shape::of(&snapshot), written);
            let (changed, count) = changed_rows(rows, layout, &order, checks.as_ref(), writer).await?;
            if count == 0 {
                changed.writer.abandon().await;
                return Ok(0);
            }
            change::replace(&database.batch, all, &snapshot, changed, operation, note, cancel).await?;
            Ok(count)
        };
        self.on_batch_threads(run).await
    }

    /// CREATE EXTERNAL TABLE … STORED AS DELTA: takes the table that is in the place, or makes one.
    pub(super) async fn prepare_lake(&mut self, p: &mut CreateExternalTablePlan, scope: &Scope) -> Result<Option<u64>> {
        let secret = scope.access.secret_of(&p.table.options, &p.references);
        let object = format!("external table \"{}\"", p.name.name);
        let lake = Lake::open(&p.table.location, &object, &scope.access, secret)?;
        let options = properties(p.table.options.iter())?;
        let exists = NewLake::exists(&lake).await?;
        if exists && p.query.is_none() {
            let snapshot = self.database.batch.snapshots().load(&lake, At::Newest).await?;
            check_declared(&lake, &p.table.columns, &p.table.partition_columns, &snapshot)?;
            p.table.partition_columns = snapshot.partition_columns.clone();
            return Ok(None);
        }
        if exists {
            return Err(already_there(&lake));
        }
        self.check_outside("making a Delta table", true)?;
        let columns = p.table.columns.clone();
        let new = NewLake::new(lake, &p.name.name, &columns, &p.table.partition_columns, options)?;
        let Some(query) = p.query.take() else {
            new.create(Vec::new()).await?;
            return Ok(None);
        };
        let PlannedQuery { plan, .. } = query;
        let shape = new.shape()?;
        let rows = self.sorted_rows(plan, shape.partition_by(), &[], scope).await?;
        let schema = millstream_sql::plan::output_schema(&columns);
        let stream = query::renamed(rows, schema);
        let rows = Rows { stream, cancel: scope.cancel.clone(), written: Self::written(scope) };
        let writer = Writer::new(shape, rows.written.clone());
        let made = async move {
            let (adds, count) = change::write_all(writer, rows).await?;
            new.create(adds).await?;
            Ok(count)
        };
        self.on_batch_threads(made).await.map(Some)
    }
}

/// A Delta table that a statement changes.
struct Target {
    object: Arc<Object>,
    snapshot: Arc<Snapshot>,
    /// All of its columns.
    all: LakeTable,
    /// Where the Delta table's columns are among those of the external table.
    order: Vec<usize>,
    /// The partition columns among those of the external table.
    partition_by: Vec<usize>,
}

impl Target {
    /// Rows of the external table, checked, as rows of the Delta table.
    fn in_order(&self, rows: SendableRecordBatchStream, checks: RowChecks) -> SendableRecordBatchStream {
        let order = self.order.clone();
        let schema = millstream_catalog::object::columns_schema(&self.snapshot.columns);
        let names = self.object.arrow_schema();
        let rows = rows.map(move |batch| {
            let batch = batch?;
            check(&named(&batch, &names)?, &checks)?;
            Ok(batch.project(&order)?)
        });
        Box::pin(datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(schema, rows))
    }
}

/// Rows under the names of a table's columns.
fn named(rows: &RecordBatch, schema: &arrow::datatypes::SchemaRef) -> Result<RecordBatch> {
    super::dml::stored_rows(schema, std::slice::from_ref(rows))
}

/// A statement that changes rows.
enum LakeChange {
    Update(UpdatePlan),
    Delete(DeletePlan),
    Merge(MergePlan),
}

/// The columns that such a statement's rows have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// The row's identity.
    Gone,
    /// The row's identity and the new columns.
    Updated,
    /// The row's identity, what becomes of it, and the new columns.
    Merged,
}

impl Layout {
    fn first_new(self) -> Option<usize> {
        match self {
            Self::Gone => None,
            Self::Updated => Some(1),
            Self::Merged => Some(2),
        }
    }
}

/// Some columns of a plan.
fn columns_of(plan: LogicalPlan, keep: impl Fn(usize, &str) -> bool) -> Result<LogicalPlan> {
    let fields = plan.schema().iter().enumerate();
    let kept = fields.filter(|(at, (_, field))| keep(*at, field.name()));
    let exprs: Vec<Expr> = kept.map(|(_, (qualifier, field))| Expr::Column((qualifier, field).into())).collect();
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// Notes which rows go, and writes those that come.
async fn changed_rows(
    mut rows: SendableRecordBatchStream,
    layout: Layout,
    order: &[usize],
    checks: Option<&RowChecks>,
    mut writer: Writer,
) -> Result<(Changed, u64)> {
    let mut gone = Gone::default();
    let mut count = 0;
    let filled = async {
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let ids = batch.column(0).as_primitive::<Int64Type>();
            let (counts, comes) = match layout {
                Layout::Gone | Layout::Updated => {
                    let first: Vec<bool> = ids.values().iter().map(|id| gone.insert(*id)).collect();
                    (first.iter().filter(|first| **first).count(), first)
                }
                Layout::Merged => merged(ids, batch.column(1).as_primitive::<Int32Type>().values(), &mut gone)?,
            };
            count += counts as u64;
            let Some(first_new) = layout.first_new() else { continue };
            let columns: Vec<usize> = (first_new..batch.num_columns()).collect();
            let new = filter_record_batch(&batch.project(&columns)?, &comes.into())?;
            if let Some(checks) = checks {
                check(&new, checks)?;
            }
            writer.write(&new.project(order)?).await?;
        }
        Ok::<(), Error>(())
    };
    match filled.await {
        Ok(()) => Ok((Changed { gone, writer }, count)),
        Err(e) => {
            writer.abandon().await;
            Err(e)
        }
    }
}

/// Notes what MERGE takes away; how many rows it changes, and which rows of the batch come.
fn merged(ids: &Int64Array, actions: &[i32], gone: &mut Gone) -> Result<(usize, Vec<bool>)> {
    let mut comes = Vec::with_capacity(actions.len());
    for (row, action) in actions.iter().enumerate() {
        if *action != MERGE_INSERT && (ids.is_null(row) || !gone.insert(ids.value(row))) {
            return Err(second_time());
        }
        comes.push(matches!(*action, MERGE_INSERT | MERGE_UPDATE));
    }
    Ok((actions.len(), comes))
}

/// 21000, as PostgreSQL words it.
pub(super) fn second_time() -> Error {
    Error::new(sqlstate::CARDINALITY_VIOLATION, "MERGE command cannot affect row a second time")
        .with_hint("ensure that not more than one source row matches any one target row")
}

/// Whether a plan reads a table.
fn reads(plan: &LogicalPlan, table: ObjectId) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found |= CatalogSource::of(&scan.source).and_then(CatalogSource::object) == Some(table);
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
