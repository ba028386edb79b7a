//! SQL sessions: one match over the plan of a statement, and the transaction, settings and notices around it.
//!
//! * [`database`]: what all sessions share: store, engine, batch threads.
//! * [`definitions`]: from stored definitions to what runs.
//! * [`query`], [`ddl`], [`secrets`], [`alter`], [`dml`], [`show`], [`explain`], [`copy`]: what each kind of plan does.
//! * [`roles`], [`grants`]: who there is, and who may do what; [`login`]: who is let in.
//! * [`lake`], [`upkeep`]: statements that change Delta tables, and those that keep them; [`merge`]: MERGE of other tables.
//! * [`prepared`]: PREPARE and EXECUTE; [`cursors`]: DECLARE and FETCH.
//! * [`subscriptions`]: SUBSCRIBE; [`notify`]: LISTEN and NOTIFY, over [`channels`].
//! * [`progress`]: how far a long statement is, told to its client.
//! * [`resolver`], [`rows`], [`inside`]: the rows behind the names of a plan.
//! * [`tasks`]: scheduled SQL.
//! * [`transaction`], [`overlay`]: what BEGIN … COMMIT holds together, and its changes over the tables it reads.
//! * [`metrics`]: the numbers of schema `millstream` for Prometheus.
//! * [`api`]: the boundary to the wire server.

mod alter;
pub mod api;
mod arbiter;
mod backends;
mod channels;
mod copy;
mod cursors;
pub mod database;
mod ddl;
mod definitions;
mod dml;
mod explain;
mod grants;
mod indexes;
mod inside;
mod lake;
mod login;
mod memory;
mod merge;
mod metrics;
mod notify;
mod overlay;
mod plans;
mod point;
mod prepared;
mod progress;
mod query;
mod resolver;
mod roles;
mod rows;
mod scroll;
mod secrets;
mod settings;
mod show;
mod subscriptions;
pub mod tasks;
mod temporary;
mod transaction;
mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::metadata::FieldMetadata;
use datafusion::datasource::TableProvider;
use millstream_catalog::object::Format;
use millstream_catalog::{DEFAULT_SCHEMA, SqlType};
use millstream_sql::{ExternalCall, Parsed, Plan, PlanContext, RunVars, SessionVars, Statement};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::api::{
    ClientInfo, Description, Notice, OutputFormat, Parameter, Prepared, ProgressReport, Response, SqlSession,
    TransactionStatus,
};
use self::database::{Database, SessionInfo};
use self::inside::Inside;
use self::rows::LateNotices;
use self::settings::Settings;
use self::tasks::reads::Reads;
use self::transaction::Transaction;
use crate::batch::lake::LakeReads;
use crate::batch::stores::Access;
use crate::batch::{StatementOptions, pg_catalog};
use crate::error::{Error, Result};
use crate::stream::engine::{Published, TaskRecord};

/// One client's session.
pub struct Session {
    database: Database,
    id: u64,
    client: ClientInfo,
    settings: Settings,
    search_path: Vec<String>,
    /// Whether it has made temporary tables.
    has_temporary: bool,
    /// What `set_config()` has set.
    configured: backends::Configured,
    transaction: Option<Transaction>,
    /// Several statements came in one message or pipeline: they are one transaction.
    in_implicit_block: bool,
    notices: Vec<Notice>,
    late_notices: LateNotices,
    prepared: prepared::PreparedStatements,
    plans: plans::Plans,
    cursors: cursors::Cursors,
    channels: notify::Notifications,
    /// The COPY whose rows the client is to send.
    copying: Option<copy::Copying>,
    /// The run of a task that its statements belong to, ...
    run_vars: Option<RunVars>,
    /// ... what they read, ...
    reads: Option<Arc<Reads>>,
    /// ... and what is to be noted with the next commit.
    task_records: Vec<TaskRecord>,
    /// What tells a Delta table that it has what a run's statement writes.
    lake_transaction: Option<deltalake::kernel::Transaction>,
    /// The statement that runs, for a client that wants to be told how far it is.
    progress: progress::Watched,
}

/// What a statement is planned and run with.
struct Scope {
    published: Arc<Published>,
    inside: Inside,
    external: HashMap<ExternalCall, Arc<dyn TableProvider>>,
    external_schemas: HashMap<ExternalCall, SchemaRef>,
    /// The stores of files, with the secrets that there are.
    access: Access,
    /// The versions of Delta tables that the statement reads.
    lakes: Arc<LakeReads>,
    /// The format of the source that is made, with the schema that was asked for.
    source_format: Option<Format>,
    /// The rows that a client sent with COPY.
    input: Option<Arc<dyn TableProvider>>,
    vars: SessionVars,
    options: StatementOptions,
    /// Fires when the client wants the statement to stop.
    cancel: CancellationToken,
}

impl Session {
    fn new(database: Database, client: ClientInfo) -> Result<Self> {
        let id = database.enter(SessionInfo {
            process_id: client.process_id,
            user: client.user.clone(),
            acts_as: client.user.clone(),
            application_name: String::new(),
            address: client.address.to_string(),
            connected_us: chrono::Utc::now().timestamp_micros(),
            statement: None,
            last_statement: None,
            changed_us: chrono::Utc::now().timestamp_micros(),
            transaction: None,
            listening: String::new(),
        });
        let mut session = Self {
            settings: Settings::new(),
            search_path: vec![DEFAULT_SCHEMA.into()],
            has_temporary: false,
            configured: backends::Configured::default(),
            transaction: None,
            in_implicit_block: false,
            notices: Vec::new(),
            late_notices: LateNotices::default(),
            prepared: prepared::PreparedStatements::default(),
            plans: plans::Plans::default(),
            cursors: cursors::Cursors::default(),
            channels: notify::Notifications::new(),
            copying: None,
            run_vars: None,
            reads: None,
            task_records: Vec::new(),
            lake_transaction: None,
            progress: progress::Watched::default(),
            database,
            id,
            client,
        };
        session.database.backends.enter(session.client.process_id, session.channels.outbox());
        session.settings = session.initial_settings();
        let own = session.database.engine.published();
        let own = own.catalog.find_role(&session.client.user).map(|(_, role)| role.settings.clone());
        for (name, value) in own.into_iter().flatten().chain(session.client.settings.clone()) {
            session.set(&name, Some(&value))?;
        }
        let _ = session.settings.take_changes();
        session.tell_identity();
        Ok(session)
    }

    /// Newest data and catalog, and what the statement needs of the outside.
    async fn scope(&self, statement: &Statement) -> Result<Scope> {
        let now = self.transaction.as_ref().map_or_else(chrono::Utc::now, |t| t.started);
        let view = self.transaction.as_ref().and_then(Transaction::view);
        let published = view.cloned().unwrap_or_else(|| self.database.engine.published());
        let mut external: HashMap<ExternalCall, Arc<dyn TableProvider>> = HashMap::new();
        let lakes: Arc<LakeReads> = Arc::default();
        let access = Access::new(self.database.batch.stores().clone(), published.catalog.clone());
        let access = access.of_role(self.role());
        for call in millstream_sql::external_calls(statement) {
            millstream_sql::may_read(&call, self.role(), &published.catalog)?;
            let table = self.external_table(&access, &lakes, &call).await?;
            external.insert(call, table);
        }
        let mut external_schemas: HashMap<ExternalCall, SchemaRef> =
            external.iter().map(|(call, table)| (call.clone(), table.schema())).collect();
        let mut source_format = None;
        if let Some(asked) = millstream_sql::source_schema_call(statement) {
            millstream_sql::may_read(&asked.call, self.role(), &published.catalog)?;
            let (format, schema) = ddl::source_schema(asked.options, asked.format, asked.wants_columns).await?;
            external_schemas.insert(asked.call, schema);
            source_format = Some(format);
        }
        Ok(Scope {
            inside: Inside::new(
                self.database.clone(),
                published.clone(),
                &self.settings,
                &self.path_in(&published.catalog),
                self.role(),
                inside::Own {
                    process_id: self.client.process_id,
                    prepared: self.prepared.clone(),
                    cursors: self.cursors.rows(),
                    channels: self.channels.names(),
                    notifications: self.channels.queue(),
                    configured: self.configured.clone(),
                },
            ),
            published,
            external,
            external_schemas,
            access,
            lakes,
            source_format,
            input: None,
            vars: self.vars(),
            options: StatementOptions { time_zone: self.settings.time_zone().to_string(), now, job: None },
            cancel: CancellationToken::new(),
        })
    }

    /// An error of a constraint with the schema of its table, where there is one table of the name only.
    fn with_schema(&self, error: Error) -> Error {
        let about = error.about();
        let (Some(table), None) = (about.table.clone(), &about.schema) else { return error };
        let catalog = self.database.engine.published().catalog.clone();
        let mut named = catalog.objects().filter(|o| o.name == table && o.kind.relkind().is_some());
        let (Some(object), None) = (named.next(), named.next()) else { return error };
        let about = about.clone();
        let schema = catalog.get(object.schema).map(|schema| schema.name.clone());
        let about = crate::error::About { schema, ..about };
        error.with_about(about)
    }

    /// Lets others see whether a transaction is open.
    fn note_transaction(&self) {
        let failed = matches!(self.status(), TransactionStatus::Failed);
        let open = self.transaction.as_ref().map(|t| (t.started.timestamp_micros(), failed));
        self.database.in_transaction(self.id, open);
    }

    fn vars(&self) -> SessionVars {
        SessionVars {
            user: self.role().to_string(),
            session_user: self.session_user().to_string(),
            database: self.client.database.clone(),
            schema: self.current_schema(),
            temporary_schema: self.temporary_schema(),
            time_zone: self.settings.time_zone().to_string(),
            run: self.run_vars.clone(),
            ..SessionVars::default()
        }
    }

    /// The schema that new objects are made in: the first of the search path.
    fn current_schema(&self) -> String {
        self.search_path.first().map_or_else(|| DEFAULT_SCHEMA.to_string(), Clone::clone)
    }

    fn plan(&self, parsed: &Parsed, scope: &Scope, parameters: &[Option<SqlType>]) -> Result<Plan> {
        let statement = &parsed.statement;
        let search_path = self.path_in(&scope.published.catalog);
        let context = PlanContext {
            catalog: &scope.published.catalog,
            search_path: &search_path,
            bindings: None,
            system: &scope.inside,
            external: &scope.external_schemas,
            session: &scope.vars,
            parameters,
            rights: self.rights(),
        };
        if let Statement::Query(query) = statement {
            // Clients' catalog queries use constructs of PostgreSQL's that mean something simpler here.
            let mut rewritten = query.clone();
            if pg_catalog::rewrite(&mut rewritten) {
                let rewritten = Statement::Query(rewritten);
                return Ok(millstream_sql::plan(&rewritten, &context).map_err(|e| parsed.locate(e))?);
            }
        }
        Ok(parsed.plan(&context)?)
    }

    async fn run(&mut self, parsed: &Parsed, parameters: &[Parameter], cancel: CancellationToken) -> Result<Response> {
        let statement = &parsed.statement;
        self.enter_transaction(statement)?;
        let scope = self.scope(statement).await?;
        let mut scope = self.prepare_temporary(parsed, scope).await?;
        scope.cancel = cancel.clone();
        let types: Vec<Option<SqlType>> = parameters.iter().map(sql_type_of).collect();
        let seen = self.seen(&scope.published, &types);
        let plan = match self.kept_plan(parsed, seen.as_ref()) {
            Some(query) => Plan::Query(query),
            None => {
                let plan = self.plan(parsed, &scope, &types)?;
                if let Plan::Query(query) = &plan {
                    self.keep_plan(parsed, seen, query, &scope);
                }
                plan
            }
        };
        self.check_transaction(&plan)?;
        if let Some(kind) = progress::kind_of(&plan) {
            let text = self.database.statement(self.id);
            let job = self.database.batch.jobs().begin(kind, self.client.process_id, text, cancel.clone());
            self.progress.watch(&job);
            scope.options.job = Some(job);
        }
        match plan {
            Plan::Query(query) => self.query(query, parameters, &scope, cancel).await,
            Plan::Explain(explain) => self.explain(explain, parsed, parameters, &scope).await,
            Plan::ExplainRunning { id, analyze, format } => self.explain_running(id, analyze, format, &scope),
            Plan::CreateTable(p) => self.create_table(p, parsed, &scope).await,
            Plan::CreateTableAs(p) => self.create_table_as(p, parsed, &scope).await,
            Plan::CreateSource(p) => self.create_source(p, parsed, &scope).await,
            Plan::CreateView(p) => self.create_view(p, parsed, &scope).await,
            Plan::CreateMaterializedView(p) => self.create_materialized_view(p, parsed, &scope, cancel).await,
            Plan::CreateSink(p) => self.create_sink(p, parsed, &scope).await,
            Plan::CreateExternalTable(p) => self.create_external_table(p, parsed, &scope).await,
            Plan::CreateSchema { name } => self.create_schema(name, parsed, &scope).await,
            Plan::CreateFunction(p) => self.create_function(p, parsed, &scope).await,
            Plan::CreateTask(p) => self.create_task(p, parsed, &scope).await,
            Plan::ExecuteTask(p) => self.execute_task(p, &scope, cancel).await,
            Plan::Cron(p) => self.cron(p, parsed, parameters, &scope).await,
            Plan::CreateSecret(p) => self.create_secret(p, parsed, &scope).await,
            Plan::CreateIndex(p) => self.create_index(p, parsed, &scope).await,
            Plan::Drop(p) => self.drop_objects(p, parsed, &scope).await,
            Plan::Rename { id, kind, to } => self.rename(id, kind, &to, parsed, &scope).await,
            Plan::SetSchema { id, kind, schema } => self.set_schema(id, kind, schema, parsed, &scope).await,
            Plan::SetOptions { id, kind: _, options } => self.set_options(id, &options, parsed, &scope).await,
            Plan::Suspend { id, kind } => self.suspend(id, kind, parsed, &scope).await,
            Plan::Resume { id, kind, at } => self.resume(id, kind, at.as_ref(), parsed, &scope).await,
            Plan::Comment { id, kind: _, column, text } => self.comment(id, column, text, parsed, &scope).await,
            Plan::Insert(p) => self.insert(p, Some(parsed), parameters, &scope).await,
            Plan::Update(p) => self.update(p, parsed, parameters, &scope).await,
            Plan::Delete(p) => self.delete(p, parsed, parameters, &scope).await,
            Plan::Merge(p) => self.merge(p, parsed, parameters, &scope).await,
            Plan::Optimize(p) => self.optimize(p, &scope).await,
            Plan::Vacuum(p) => self.vacuum(p, &scope).await,
            Plan::DescribeHistory(p) => self.describe_history(&p, &scope).await,
            Plan::Truncate { tables } => self.truncate(&tables, &scope).await,
            Plan::CopyTo(p) => self.copy_to(p, &scope, cancel).await,
            Plan::CopyFrom(p) => self.copy_from(p, scope, millstream_sql::masked(&parsed.text)),
            Plan::Show(p) => self.show(p, &scope),
            Plan::Set { local, name, value } => self.set_statement(local, &name, value.as_deref()),
            Plan::Reset(name) => self.reset_statement(name.as_deref()),
            Plan::Begin { read_only } => self.begin(read_only),
            Plan::Commit { chain } => self.commit(chain).await,
            Plan::Rollback { chain } => self.rollback(chain).await,
            Plan::SetTransaction { read_only } => self.set_transaction(read_only),
            Plan::Savepoint(name) => self.savepoint(name),
            Plan::Release(name) => self.release(&name),
            Plan::RollbackTo(name) => self.roll_back_to(&name),
            Plan::Flush => {
                self.database.engine.flush().await?;
                Ok(complete("FLUSH"))
            }
            Plan::CancelJobs(jobs) => self.cancel_jobs(&jobs, parsed).await,
            Plan::DiscardAll => self.discard_all(),
            Plan::Prepare(p) => self.prepare_statement(p, parsed, &scope),
            Plan::Execute(p) => self.execute_prepared(p, parameters, &scope, cancel).await,
            Plan::Deallocate(name) => self.deallocate(name),
            Plan::Declare(p) => self.declare(p, parsed, parameters, &scope, cancel).await,
            Plan::Fetch(p) => self.fetch(p, &cancel).await,
            Plan::Close(name) => self.close(name.as_deref()),
            Plan::Listen(channel) => self.listen(channel).await,
            Plan::Unlisten(channel) => self.unlisten(channel),
            Plan::Notify(p) => self.notify(&p),
            Plan::Role(p) => self.role_statement(p, parsed, &scope).await,
            Plan::Grant(p) => self.grant(p, parsed, &scope).await,
            Plan::DefaultPrivileges(p) => self.default_privileges(p, parsed, &scope).await,
            Plan::AlterOwner(p) => self.alter_owner(p, parsed, &scope).await,
            Plan::Subscribe(p) => self.subscribe(p, parsed, cancel).await,
            Plan::CopySubscribe(p) => self.copy_subscribe(p, parsed, cancel).await,
            Plan::Nothing { tag, notice, sqlstate } => {
                self.notices.push(Notice::new(api::Severity::Notice, sqlstate, notice));
                Ok(complete(tag))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.unlisten_all();
        self.drop_temporary();
        self.database.backends.leave(self.client.process_id);
        self.database.leave(self.id);
    }
}

impl SqlSession for Session {
    type Statement = Arc<Parsed>;

    fn parse(&mut self, sql: &str) -> Result<Vec<Arc<Parsed>>> {
        Ok(millstream_sql::parse(sql)?.into_iter().map(Arc::new).collect())
    }

    async fn describe(&mut self, statement: &Arc<Parsed>, parameter_oids: &[u32]) -> Result<Description> {
        let types: Vec<Option<SqlType>> = parameter_oids.iter().map(|oid| settings::type_of_oid(*oid)).collect();
        let scope = self.scope(&statement.statement).await?;
        let plan = self.plan(statement, &scope, &types)?;
        if let Plan::Query(query) = &plan {
            self.keep_described(statement, query, &scope);
        }
        match plan {
            Plan::Fetch(fetch) if !fetch.moves => {
                Ok(Description { parameters: Vec::new(), columns: Some(self.fetched_columns(&fetch.cursor)?) })
            }
            Plan::Execute(p) => {
                let described = self.prepared.get(&p.name)?.description;
                let arguments = self.plan_arguments(&p, &described.parameters, &scope, &types)?;
                let parameters = arguments.map(|query| query.parameters).unwrap_or_default();
                Ok(Description { parameters, columns: described.columns })
            }
            plan => Ok(query::describe(&plan)),
        }
    }

    fn prepare(&mut self, name: &str, prepared: Prepared<Arc<Parsed>>) -> Result<()> {
        let text = prepared.statement.as_ref().map(|parsed| parsed.text.clone()).unwrap_or_default();
        self.prepared.add(name, prepared, text, false)
    }

    fn prepared(&self, name: &str) -> Result<Prepared<Arc<Parsed>>> {
        self.prepared.get(name)
    }

    fn forget_prepared(&mut self, name: &str) {
        self.prepared.remove(name);
    }

    fn cursor_columns(&self, name: &str) -> Option<SchemaRef> {
        self.cursors.columns(name)
    }

    fn close_cursor(&mut self, name: &str) {
        self.cursors.close(name);
    }

    fn take_outbox(&mut self) -> Option<mpsc::Receiver<api::OutOfBand>> {
        self.channels.take_receiver()
    }

    async fn execute(
        &mut self,
        statement: &Arc<Parsed>,
        parameters: &[Parameter],
        cancel: CancellationToken,
    ) -> Result<Response> {
        let shown = self.plans.enter(statement);
        self.database.doing(self.id, Some(shown));
        self.take_configured();
        self.database.backends.runs(self.client.process_id, cancel.clone());
        let result = match self.point_read(statement, parameters) {
            Ok(Some(rows)) => Ok(rows),
            Ok(None) => self.run(statement, parameters, cancel).await,
            Err(e) => Err(e),
        };
        // Rows are still to be made while they are sent: the statement runs until the client may go on.
        if !matches!(result, Ok(Response::Rows(_) | Response::CopyOut(_) | Response::CopyBinary(_))) {
            self.database.doing(self.id, None);
        }
        self.note_transaction();
        result.map_err(|e| self.with_schema(e))
    }

    async fn copy_in(&mut self, chunks: mpsc::Receiver<api::CopyChunk>) -> Result<String> {
        let tag = self.take_copy(chunks).await;
        self.database.doing(self.id, None);
        tag.map_err(|e| self.with_schema(e))
    }

    fn begin_implicit_block(&mut self) {
        self.in_implicit_block = true;
    }

    async fn sync(&mut self, failed: bool) -> Result<()> {
        let ended = self.end_implicit(failed).await;
        self.database.doing(self.id, None);
        self.note_transaction();
        ended
    }

    fn fail(&mut self, _error: &Error) {
        self.fail_transaction();
        self.note_transaction();
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status()
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        let mut notices = std::mem::take(&mut self.notices);
        notices.append(&mut self.late_notices.lock());
        notices
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.take_configured();
        self.settings.take_changes()
    }

    fn time_zone(&self) -> &str {
        self.settings.time_zone()
    }

    fn format(&self) -> OutputFormat {
        OutputFormat { time_zone: self.settings.zone() }
    }

    fn statement_timeout(&self) -> Option<std::time::Duration> {
        self.settings.timeout("statement_timeout")
    }

    fn progress(&self) -> Option<ProgressReport> {
        Some(self.progress.report(self.settings.timeout(progress::SETTING)?))
    }

    fn idle_in_transaction_timeout(&self) -> Option<std::time::Duration> {
        self.settings.timeout("idle_in_transaction_session_timeout")
    }
}

/// A statement without rows.
fn complete(tag: impl Into<String>) -> Response {
    Response::Complete { tag: tag.into() }
}

/// The SQL type of a bound value.
fn sql_type_of(parameter: &Parameter) -> Option<SqlType> {
    let metadata = parameter.metadata.as_ref().map(FieldMetadata::to_hashmap).unwrap_or_default();
    SqlType::of(&Field::new("", parameter.value.data_type(), true).with_metadata(metadata))
}
