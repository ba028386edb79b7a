//! From a [`Statement`] to a [`Plan`]: names resolved, types checked, nothing carried out.
//!
//! * [`query`]: the passes of a query; [`provider`] answers datafusion-sql's questions, [`operators`] and [`rewrite`] put
//!   PostgreSQL's typing in, [`checked`] its arithmetic
//! * [`common_type`]: one type for values of several; [`constants`]: what is computed while planning
//! * [`intervals`]: grouping, sorting and joining by intervals
//! * [`blame`]: the place of an error in the text
//! * [`refuse`]: what no planner consumes; [`naming`]: names of output columns; [`relations`]: TUMBLE, HOP and kin
//! * `set_operations`: INTERSECT ALL and EXCEPT ALL; `subqueries`: IN and EXISTS; `asof`: ASOF joins
//! * [`create`], [`columns`], [`ddl`], [`function`], [`secret`]: definitions; [`dml`]: INSERT, UPDATE, DELETE; [`copy`]: COPY
//! * `calls`: calls of functions in SQL; `task`: scheduled SQL; `lake`: the upkeep of Delta tables
//! * [`rights`]: who may do what; `role`: GRANT and kin
//! * `prepared`: PREPARE and cursors; `subscribe`: SUBSCRIBE

mod asof;
mod blame;
mod calls;
mod checked;
mod columns;
mod common_type;
mod constants;
mod copy;
mod create;
mod ddl;
mod dml;
mod function;
mod index;
mod intervals;
mod lake;
mod lateral_rows;
mod lateral_top;
mod named_windows;
mod naming;
mod operators;
mod ordinality;
mod outer_types;
mod prepared;
mod provider;
mod query;
mod recursive;
mod refuse;
mod relations;
mod rewrite;
mod rights;
mod role;
mod secret;
mod sessions;
mod set_operations;
mod subqueries;
mod subscribe;
mod task;
mod total_order;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{Query, TableFactor, Visit, Visitor};
use millstream_catalog::object::Format;

pub use asof::{AsofJoin, AsofParts, without_asof};
pub(crate) use asof::{INNER as ASOF_INNER, LEFT as ASOF_LEFT};
pub use checked::checked_arithmetic;
pub use columns::{column_expression, generation_expression};
pub use prepared::plan_arguments;
pub(crate) use provider::{table_reference, written, written_call};
pub use query::plan_query;
pub use rights::may_read;
pub use secret::SECRET_OPTION;
pub(crate) use sessions::FRAME_END as SESSION_FRAME_END;
pub use sessions::{Sessions, without_sessions};

use crate::context::{ExternalCall, PlanContext};
use crate::error::{Result, SqlError};
use crate::plan::{ExecutePlan, ExplainPlan, Plan, ShowPlan};
use crate::statement::{
    Copy, CopyRelation, CreateExternalTable, DropKind, Parsed, Show, SinkInput, Statement, Subscribe, SubscribeTarget,
    TransactionModes,
};

impl Parsed {
    /// [`plan`], with errors that know their position.
    ///
    /// # Errors
    /// As [`plan`].
    pub fn plan(&self, ctx: &PlanContext<'_>) -> Result<Plan> {
        plan(&self.statement, ctx).map_err(|e| self.locate(blame::located(self, e, ctx)))
    }
}

/// Plans a statement. Pure: the outside world was asked before ([`external_calls`]).
///
/// # Errors
/// With PostgreSQL's SQLSTATE; use [`Parsed::plan`] or [`Parsed::locate`] for the position.
pub fn plan(statement: &Statement, ctx: &PlanContext<'_>) -> Result<Plan> {
    Ok(match statement {
        Statement::Query(query) => {
            let planned = plan_query(query, ctx)?;
            constants::refuse_failing(&planned.plan)?;
            Plan::Query(planned)
        }
        Statement::Explain(explain) => {
            let inner = plan(&explain.statement, ctx)?;
            match inner {
                Plan::Query(_)
                | Plan::CreateMaterializedView(_)
                | Plan::CreateSink(_)
                | Plan::Insert(_)
                | Plan::Update(_)
                | Plan::Delete(_)
                | Plan::Merge(_) => {}
                _ => {
                    return Err(SqlError::unsupported("EXPLAIN of this statement is not supported")
                        .with_hint("EXPLAIN takes a query, INSERT, UPDATE, DELETE or CREATE MATERIALIZED VIEW"));
                }
            }
            Plan::Explain(ExplainPlan {
                analyze: explain.analyze,
                verbose: explain.verbose,
                format: explain.format,
                plan: Box::new(inner),
            })
        }
        Statement::ExplainRunning(s) => ddl::explain_running(s, ctx)?,
        Statement::CreateTable(s) => create::table(s, ctx)?,
        Statement::CreateTableAs(s) => create::table_as(s, ctx)?,
        Statement::CreateSource(s) => create::source(s, ctx)?,
        Statement::CreateView(s) => create::view(s, ctx)?,
        Statement::CreateMaterializedView(s) => create::materialized_view(s, ctx)?,
        Statement::CreateSink(s) => create::sink(s, ctx)?,
        Statement::CreateExternalTable(s) => create::external_table(s, ctx)?,
        Statement::CreateSchema(s) => create::schema(s, ctx)?,
        Statement::CreateFunction(s) => function::create(s, ctx)?,
        Statement::CreateTask(s) => task::create(s, ctx)?,
        Statement::ExecuteTask(s) => task::execute(s, ctx)?,
        Statement::Cron(s) => task::cron(s, ctx)?,
        Statement::CreateSecret(s) => secret::create(s, ctx)?,
        Statement::CreateIndex(s) => index::create(s, ctx)?,
        Statement::Drop(s) => ddl::drop(s, ctx)?,
        Statement::Rename(s) => ddl::rename(s, ctx)?,
        Statement::SetSchema(s) => ddl::set_schema(s, ctx)?,
        Statement::SetOptions(s) => ddl::set_options(s, ctx)?,
        Statement::Suspend(s) => ddl::suspend(s, ctx)?,
        Statement::Resume(s) => ddl::resume(s, ctx)?,
        Statement::Comment(s) => ddl::comment(s, ctx)?,
        Statement::Insert(s) => dml::insert(s, ctx)?,
        Statement::Update(s) => dml::update(s, ctx)?,
        Statement::Delete(s) => dml::delete(s, ctx)?,
        Statement::Merge(s) => dml::merge::merge(s, ctx)?,
        Statement::Optimize(s) => lake::optimize(s, ctx)?,
        Statement::Vacuum(s) => lake::vacuum(s, ctx)?,
        Statement::DescribeHistory { name, limit } => lake::describe_history(name, *limit, ctx)?,
        Statement::Truncate(s) => dml::truncate(s, ctx)?,
        Statement::Copy(s) => copy::copy(s, ctx)?,
        Statement::Show(s) => Plan::Show(show(s, ctx)?),
        Statement::Set(s) => Plan::Set { local: s.local, name: s.name.clone(), value: s.value.clone() },
        Statement::Reset(name) => Plan::Reset(name.clone()),
        Statement::Begin(TransactionModes { read_only }) => Plan::Begin { read_only: *read_only },
        Statement::Commit { chain } => Plan::Commit { chain: *chain },
        Statement::Rollback { chain } => Plan::Rollback { chain: *chain },
        Statement::SetTransaction(TransactionModes { read_only }) => Plan::SetTransaction { read_only: *read_only },
        Statement::Savepoint(name) => Plan::Savepoint(name.clone()),
        Statement::Release(name) => Plan::Release(name.clone()),
        Statement::RollbackTo(name) => Plan::RollbackTo(name.clone()),
        Statement::Flush => Plan::Flush,
        Statement::CancelJobs(jobs) => Plan::CancelJobs(jobs.clone()),
        Statement::DiscardAll => Plan::DiscardAll,
        Statement::Prepare(s) => prepared::prepare(s)?,
        Statement::Execute(s) => Plan::Execute(ExecutePlan { name: s.name.clone(), arguments: s.arguments.clone() }),
        Statement::Deallocate(name) => Plan::Deallocate(name.clone()),
        Statement::Declare(s) => prepared::declare(s, ctx)?,
        Statement::Fetch(s) => Plan::Fetch(s.clone()),
        Statement::Refresh(name) => {
            let view = ddl::find(DropKind::MaterializedView, name, ctx)?;
            let notice = format!("materialized view \"{}\" is always current: there is nothing to refresh", view.name);
            Plan::Nothing { tag: "REFRESH MATERIALIZED VIEW", notice, sqlstate: "00000" }
        }
        Statement::Close(name) => Plan::Close(name.clone()),
        Statement::Listen(channel) => Plan::Listen(channel.clone()),
        Statement::Unlisten(channel) => Plan::Unlisten(channel.clone()),
        Statement::Notify(s) => Plan::Notify(s.clone()),
        Statement::Subscribe(s) => Plan::Subscribe(subscribe::subscribe(s, ctx)?),
        Statement::Role(s) => Plan::Role(s.clone()),
        Statement::Grant(s) => role::grant(s, ctx)?,
        Statement::DefaultPrivileges(s) => role::default_privileges(s, ctx)?,
        Statement::AlterOwner(s) => role::alter_owner(s, ctx)?,
    })
}

/// The schema of records that must be known before a CREATE SOURCE is planned.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSchemaCall {
    /// What the answer is found by in [`PlanContext::external`].
    pub call: ExternalCall,
    /// The WITH options.
    pub options: BTreeMap<String, String>,
    pub format: Format,
    /// Whether the columns are wanted too.
    pub wants_columns: bool,
}

/// What to ask for before a statement is planned, if it is a CREATE SOURCE whose records have a schema.
pub fn source_schema_call(statement: &Statement) -> Option<SourceSchemaCall> {
    let Statement::CreateSource(s) = statement else { return None };
    Some(SourceSchemaCall {
        call: create::source_schema_call(s)?,
        options: s.options.clone(),
        format: create::catalog_format(s.format.as_ref()?),
        wants_columns: s.takes_schema_columns(),
    })
}

/// The files whose schema must be known before a statement is planned: ask for them, put the answers into
/// [`PlanContext::external`].
pub fn external_calls(statement: &Statement) -> Vec<ExternalCall> {
    let mut calls = Calls(Vec::new());
    let mut visit = |query: &Query| {
        let _ = query.visit(&mut calls);
    };
    match statement {
        Statement::Query(query) => visit(query),
        Statement::Cron(s) => visit(&s.query),
        Statement::Explain(explain) => return external_calls(&explain.statement),
        Statement::CreateTableAs(s) => visit(&s.query),
        Statement::CreateMaterializedView(s) => visit(&s.query),
        Statement::CreateView(s) => visit(&s.query),
        Statement::CreateSink(s) => {
            if let SinkInput::Query(query, _) = &s.input {
                visit(query);
            }
        }
        Statement::Insert(s) => {
            if let Some(query) = &s.source {
                visit(query);
            }
        }
        Statement::Copy(Copy { source: CopyRelation::Query(query), .. }) => visit(query),
        Statement::Copy(Copy { source: CopyRelation::Subscribe(s), .. }) => subscribed(s, &mut visit),
        Statement::Subscribe(s) => subscribed(s, &mut visit),
        Statement::Prepare(s) => return external_calls(&s.statement.statement),
        Statement::Declare(s) => return external_calls(&s.statement.statement),
        Statement::CreateExternalTable(s) => match &s.query {
            Some(query) => visit(query),
            None if s.columns.is_empty() => return vec![create::external_schema_call(s)],
            None => {}
        },
        Statement::Merge(s) => {
            let _ = s.source.visit(&mut calls);
        }
        _ => {}
    }
    calls.0
}

fn subscribed(subscribe: &Subscribe, visit: &mut impl FnMut(&Query)) {
    if let SubscribeTarget::Query(query, _) = &subscribe.target {
        visit(query);
    }
}

/// The call whose answer is the schema of a CREATE EXTERNAL TABLE without a column list.
pub fn external_table_call(statement: &CreateExternalTable) -> ExternalCall {
    create::external_schema_call(statement)
}

struct Calls(Vec<ExternalCall>);

impl Visitor for Calls {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let Some(call) = relations::external_call(factor)
            && !self.0.contains(&call)
        {
            self.0.push(call);
        }
        ControlFlow::Continue(())
    }
}

fn show(show: &Show, ctx: &PlanContext<'_>) -> Result<ShowPlan> {
    Ok(match show {
        Show::Tables => ShowPlan::Tables,
        Show::Sources => ShowPlan::Sources,
        Show::Views => ShowPlan::Views,
        Show::MaterializedViews => ShowPlan::MaterializedViews,
        Show::Sinks => ShowPlan::Sinks,
        Show::Schemas => ShowPlan::Schemas,
        Show::Functions => ShowPlan::Functions,
        Show::Secrets => ShowPlan::Secrets,
        Show::Jobs => ShowPlan::Jobs,
        Show::Tasks => ShowPlan::Tasks,
        Show::All => ShowPlan::AllSettings,
        Show::Setting(name) => ShowPlan::Setting(name.clone()),
        Show::Create(kind, name) => ShowPlan::Create(ddl::find(*kind, name, ctx)?.id),
    })
}
