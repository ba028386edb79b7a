//! The typed plan of each statement: what the session carries out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::TableReference;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use millstream_catalog::object::{ExternalTable, Function, Secret, Sink, Source, Table, View};
use millstream_catalog::types::field_ref;
use millstream_catalog::{Column, Object, ObjectId, SqlType};

use crate::context::{CatalogSource, Target, Version};
use crate::error::{Result, SqlError};
use crate::statement::role::RoleStatement;
use crate::statement::{DropKind, ExplainFormat, Fetch, Notify, ResumeAt};

mod index;
mod lake;
pub(crate) mod origins;
mod role;
mod session;
mod task;

pub use index::{ConflictTarget, CreateIndexPlan};
pub use lake::{
    DescribeHistoryPlan, MERGE_DELETE, MERGE_INSERT, MERGE_UPDATE, MergePlan, OptimizePlan, Overwrite, VacuumPlan,
};
pub use origins::Origin;
pub use role::{AlterOwnerPlan, DefaultPrivilegesPlan, GrantPlan};
pub use session::{CopySubscribePlan, DeclarePlan, ExecutePlan, PreparePlan, SubscribePlan, Subscribed};
pub use task::{CreateTaskPlan, CronPlan, ExecuteTaskPlan};

/// A statement with every name resolved and every expression typed.
#[derive(Debug, Clone)]
pub enum Plan {
    Query(PlannedQuery),
    Explain(ExplainPlan),
    /// The operators of a running view or sink, with their live counts under `analyze`.
    ExplainRunning {
        id: ObjectId,
        analyze: bool,
        format: ExplainFormat,
    },
    CreateTable(CreateTablePlan),
    CreateTableAs(CreateTableAsPlan),
    CreateSource(CreateSourcePlan),
    CreateView(CreateViewPlan),
    CreateMaterializedView(CreateMaterializedViewPlan),
    CreateSink(CreateSinkPlan),
    CreateExternalTable(CreateExternalTablePlan),
    CreateSchema {
        name: String,
    },
    CreateFunction(CreateFunctionPlan),
    CreateTask(CreateTaskPlan),
    ExecuteTask(ExecuteTaskPlan),
    Cron(CronPlan),
    CreateSecret(CreateSecretPlan),
    CreateIndex(CreateIndexPlan),
    Drop(DropPlan),
    Rename {
        id: ObjectId,
        kind: DropKind,
        to: String,
    },
    SetSchema {
        id: ObjectId,
        kind: DropKind,
        schema: ObjectId,
    },
    SetOptions {
        id: ObjectId,
        kind: DropKind,
        /// Keys in lower case.
        options: BTreeMap<String, String>,
    },
    Suspend {
        id: ObjectId,
        kind: DropKind,
    },
    Resume {
        id: ObjectId,
        kind: DropKind,
        at: Option<ResumeAt>,
    },
    Comment {
        id: ObjectId,
        kind: &'static str,
        column: Option<usize>,
        text: Option<String>,
    },
    Insert(InsertPlan),
    Update(UpdatePlan),
    Delete(DeletePlan),
    Merge(MergePlan),
    Optimize(OptimizePlan),
    Vacuum(VacuumPlan),
    DescribeHistory(DescribeHistoryPlan),
    Truncate {
        tables: Vec<ObjectId>,
    },
    CopyTo(CopyToPlan),
    /// `COPY table FROM STDIN | 'file'`.
    CopyFrom(CopyFromPlan),
    Show(ShowPlan),
    Set {
        local: bool,
        name: String,
        value: Option<String>,
    },
    Reset(Option<String>),
    /// `read_only` is `None` where the session's default counts.
    Begin {
        read_only: Option<bool>,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    SetTransaction {
        read_only: Option<bool>,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    Flush,
    /// Ids of jobs, which may not exist.
    CancelJobs(Vec<u32>),
    DiscardAll,
    Prepare(PreparePlan),
    Execute(ExecutePlan),
    Deallocate(Option<String>),
    Declare(DeclarePlan),
    Fetch(Fetch),
    Close(Option<String>),
    Listen(String),
    Unlisten(Option<String>),
    Notify(Notify),
    Role(RoleStatement),
    Grant(GrantPlan),
    DefaultPrivileges(DefaultPrivilegesPlan),
    AlterOwner(AlterOwnerPlan),
    Subscribe(SubscribePlan),
    CopySubscribe(CopySubscribePlan),
    /// Nothing is to be done: IF (NOT) EXISTS met the state it asks for.
    Nothing {
        tag: &'static str,
        notice: String,
        sqlstate: &'static str,
    },
}

/// A query, planned over [`crate::CatalogSource`]s.
#[derive(Debug, Clone)]
pub struct PlannedQuery {
    /// Type-coerced, arithmetic checked. Its column names can differ from [`Self::columns`] where two output columns have one
    /// name; the order is the same.
    pub plan: LogicalPlan,
    /// What the client sees: PostgreSQL's name and type of each output column.
    pub columns: Vec<Column>,
    /// The objects it names, by the name as written.
    pub references: BTreeMap<String, ObjectId>,
    /// Type of each `$n`.
    pub parameters: Vec<SqlType>,
    /// The relation's column that each output column is, if it is one.
    pub origins: Vec<Option<Origin>>,
}

impl PlannedQuery {
    /// Arrow schema to give the plan's batches before they leave the server: positions as in the plan, names as in
    /// [`Self::columns`].
    pub fn output_schema(&self) -> SchemaRef {
        output_schema(&self.columns)
    }

    /// The external tables that a continuous query reads as they are when it is made, or were, also through plain views.
    ///
    /// # Errors
    /// 0A000 for a table of which several versions are read.
    pub fn snapshots(&self) -> Result<BTreeMap<ObjectId, Version>> {
        let mut found = BTreeMap::new();
        self.plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(source) = CatalogSource::of(&scan.source).filter(|s| s.version.is_fixed())
                && let Some(id) = source.object()
                && *found.entry(id).or_insert(source.version) != source.version
            {
                let name = scan.table_name.table();
                let name =
                    name.split_once(" VERSION AS OF ").or(name.split_once(" AS OF ")).map_or(name, |(name, _)| name);
                return Err(SqlError::unsupported(format!("two versions of \"{name}\" in one continuous query"))
                    .with_hint("make an external table for each of them")
                    .into());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }
}

/// The plan that reads all rows of a version of a relation with its columns in their order.
///
/// # Errors
/// None of ours: what DataFusion reports of the scan.
pub fn all_rows(object: &Object, version: Version) -> Result<LogicalPlan> {
    let source = CatalogSource { version, ..CatalogSource::new(Target::Object(object.id), object.arrow_schema()) };
    let name = TableReference::bare(object.name.as_str());
    Ok(LogicalPlanBuilder::scan(name, Arc::new(source), None)?.build()?)
}

/// Arrow schema of output columns, in which names may repeat.
pub fn output_schema(columns: &[Column]) -> SchemaRef {
    let fields: Vec<Arc<Field>> = columns.iter().map(|c| field_ref(&c.sql_type, &c.name, c.nullable)).collect();
    Arc::new(Schema::new(fields))
}

/// `EXPLAIN`.
#[derive(Debug, Clone)]
pub struct ExplainPlan {
    pub analyze: bool,
    pub verbose: bool,
    pub format: ExplainFormat,
    /// A [`Plan::Query`], [`Plan::CreateMaterializedView`] or a DML plan.
    pub plan: Box<Plan>,
}

/// Where a new object goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewName {
    pub schema: ObjectId,
    pub schema_name: String,
    pub name: String,
}

/// `CREATE TABLE`.
#[derive(Debug, Clone)]
pub struct CreateTablePlan {
    pub name: NewName,
    pub table: Table,
}

/// `CREATE TABLE … AS`: make the table, then insert the query's rows (the query gives the columns in order).
#[derive(Debug, Clone)]
pub struct CreateTableAsPlan {
    pub name: NewName,
    pub table: Table,
    pub query: PlannedQuery,
    pub with_data: bool,
}

/// `CREATE SOURCE`.
#[derive(Debug, Clone)]
pub struct CreateSourcePlan {
    pub name: NewName,
    pub source: Source,
}

/// `CREATE VIEW`.
#[derive(Debug, Clone)]
pub struct CreateViewPlan {
    pub name: NewName,
    pub view: View,
    pub references: BTreeMap<String, ObjectId>,
    /// The view whose query it takes the place of.
    pub replaces: Option<ObjectId>,
}

/// `CREATE MATERIALIZED VIEW`; the stream planner adds stream key and fingerprint.
#[derive(Debug, Clone)]
pub struct CreateMaterializedViewPlan {
    pub name: NewName,
    /// Its [`PlannedQuery::columns`] carry the view's column names.
    pub query: PlannedQuery,
    /// The query as SQL text.
    pub query_text: String,
    /// That of the session.
    pub time_zone: String,
    pub emit_on_window_close: bool,
    pub options: BTreeMap<String, String>,
}

/// `CREATE SINK`; `sink.key` holds the positions of option `primary_key`, the stream planner fills the fingerprint.
#[derive(Debug, Clone)]
pub struct CreateSinkPlan {
    pub name: NewName,
    pub query: PlannedQuery,
    pub sink: Sink,
    pub emit_on_window_close: bool,
}

/// `CREATE EXTERNAL TABLE`.
#[derive(Debug, Clone)]
pub struct CreateExternalTablePlan {
    pub name: NewName,
    pub table: ExternalTable,
    /// The secret that it names.
    pub references: BTreeMap<String, ObjectId>,
    /// The first rows of a Delta table, in the order of its columns.
    pub query: Option<PlannedQuery>,
}

/// `CREATE FUNCTION`.
#[derive(Debug, Clone)]
pub struct CreateFunctionPlan {
    pub name: NewName,
    pub function: Function,
    /// The functions that its body calls.
    pub references: BTreeMap<String, ObjectId>,
    /// The function whose definition this one takes the place of.
    pub replaces: Option<ObjectId>,
}

/// `CREATE SECRET`.
#[derive(Debug, Clone)]
pub struct CreateSecretPlan {
    pub name: String,
    pub secret: Secret,
    /// The secret whose values these take the place of.
    pub replaces: Option<ObjectId>,
}

/// `DROP`.
#[derive(Debug, Clone)]
pub struct DropPlan {
    pub kind: DropKind,
    pub ids: Vec<ObjectId>,
    pub cascade: bool,
    /// NOTICE lines for the names that IF EXISTS did not find.
    pub notices: Vec<String>,
}

/// What must hold for each new row of a table. Expressions are over the table's columns (unqualified, in table order,
/// without `__row_id`).
#[derive(Debug, Clone)]
pub struct RowChecks {
    /// Name of the table, for messages.
    pub table: String,
    /// Positions of the columns that must not be NULL, primary key included: 23502.
    pub not_null: Vec<usize>,
    /// Constraint name and condition; a row fails if it is false, not if it is NULL: 23514.
    pub checks: Vec<(String, Expr)>,
}

/// RETURNING: expressions over the table's columns (unqualified), and what the client sees of them.
#[derive(Debug, Clone)]
pub struct Returning {
    pub exprs: Vec<Expr>,
    pub columns: Vec<Column>,
}

/// What INSERT does with a row whose primary key, or values of a unique index, exist.
#[derive(Debug, Clone)]
pub enum OnConflictPlan {
    /// `None`: whichever of them exist.
    Nothing(Option<ConflictTarget>),
    /// Expressions over the columns of the old row, then those of the proposed row under qualifier `excluded`; the old
    /// row's are qualified by the table's name. `values` gives the whole new row.
    Update {
        values: Vec<Expr>,
        condition: Option<Expr>,
        schema: datafusion_common::DFSchemaRef,
        target: ConflictTarget,
    },
}

/// `INSERT`.
#[derive(Debug, Clone)]
pub struct InsertPlan {
    pub table: ObjectId,
    /// Whole rows in the table's column order, casts and defaults applied.
    pub plan: LogicalPlan,
    pub checks: RowChecks,
    /// What INSERT OVERWRITE replaces.
    pub overwrite: Option<Overwrite>,
    pub on_conflict: Option<OnConflictPlan>,
    pub returning: Option<Returning>,
    pub parameters: Vec<SqlType>,
}

/// `UPDATE`.
#[derive(Debug, Clone)]
pub struct UpdatePlan {
    pub table: ObjectId,
    /// `__row_id` if the table has no primary key, then all old columns, then all new ones under names `__new_…`.
    pub plan: LogicalPlan,
    pub checks: RowChecks,
    /// Over the new row.
    pub returning: Option<Returning>,
    pub parameters: Vec<SqlType>,
}

/// `DELETE`.
#[derive(Debug, Clone)]
pub struct DeletePlan {
    pub table: ObjectId,
    /// `__row_id` if the table has no primary key, then all old columns.
    pub plan: LogicalPlan,
    /// Over the old row.
    pub returning: Option<Returning>,
    pub parameters: Vec<SqlType>,
}

/// Where COPY … TO writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyTarget {
    Stdout,
    File(String),
}

/// `COPY (query) TO`.
#[derive(Debug, Clone)]
pub struct CopyToPlan {
    pub query: PlannedQuery,
    pub target: CopyTarget,
    /// `parquet`, `csv`, `json`, or `text` (STDOUT's default), from option FORMAT or the file's name.
    pub format: String,
    /// The other options, keys in lower case.
    pub options: BTreeMap<String, String>,
    /// Positions of the columns whose values become folders.
    pub partition_by: Vec<usize>,
}

/// `COPY table FROM STDIN`.
#[derive(Debug, Clone)]
pub struct CopyFromPlan {
    /// How rows go into the table: its plan reads those columns from [`Target::Input`].
    pub insert: InsertPlan,
    /// The given columns, in the order of the data.
    pub columns: Vec<Column>,
    /// `text` or what option FORMAT says.
    pub format: String,
    pub options: BTreeMap<String, String>,
}

/// `SHOW`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShowPlan {
    Tables,
    Sources,
    Views,
    MaterializedViews,
    Sinks,
    Schemas,
    Functions,
    Secrets,
    Jobs,
    Tasks,
    AllSettings,
    Setting(String),
    Create(ObjectId),
}
