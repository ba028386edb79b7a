//! Transactions: what a session has done and not yet committed, savepoints in it, and what may run in it.
//!
//! A transaction reads the epoch of its first statement with its own changes laid over its tables ([`super::overlay`]) and
//! its own definitions in the catalog (a [`Draft`]). Nothing leaves the session before COMMIT, which hands everything to the
//! engine at once: one epoch, all or nothing. No lock is held meanwhile; the engine refuses a change of a row that is not as
//! it was read (40001).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use millstream_catalog::{Catalog, Draft, Object, ObjectId, ObjectKind};
use millstream_sql::plan::CopyTarget;
use millstream_sql::statement::DropKind;
use millstream_sql::statement::role::RoleStatement;
use millstream_sql::{Plan, Statement};

use super::api::{Notice, Response, Severity, TransactionStatus};
use super::overlay::{Mark, Overlay, TableChanges};
use super::settings::Settings;
use super::{Session, complete, definitions, indexes};
use crate::batch::sinks::Places;
use crate::error::{Error, Result, sqlstate};
use crate::stream::engine::{DdlRequest, DdlStep, Published, TableWrite, TaskRecord, WriteRequest};

/// Memory that a transaction's changes may take before it is refused more.
const CHANGES_BYTES_MAX: usize = 256 << 20;

/// An open transaction.
pub struct Transaction {
    /// Whether BEGIN opened it; if not, it ends with the client's message or pipeline.
    is_block: bool,
    /// An error has ended it; only ROLLBACK is taken, or ROLLBACK TO.
    is_failed: bool,
    read_only: bool,
    /// What `now()` is in it.
    pub started: DateTime<Utc>,
    /// What it reads, from its first statement on.
    base: Option<Arc<Published>>,
    /// The same with its own definitions.
    view: Option<Arc<Published>>,
    draft: Option<Draft>,
    steps: Vec<DdlStep>,
    tables: BTreeMap<ObjectId, TableChanges>,
    savepoints: Vec<Savepoint>,
    /// What settings are after ROLLBACK, and after COMMIT.
    settings_before: Settings,
    settings_after: Settings,
}

/// Where a transaction stood.
struct Savepoint {
    name: String,
    draft: Option<Draft>,
    steps: usize,
    /// Tables that are not named here were unchanged.
    tables: BTreeMap<ObjectId, Mark>,
    settings: Settings,
    settings_after: Settings,
}

/// What COMMIT asks of the engine.
enum Commit {
    Nothing,
    Write(WriteRequest),
    Ddl(Box<DdlRequest>),
}

impl Transaction {
    fn new(is_block: bool, read_only: bool, settings: &Settings) -> Self {
        Self {
            is_block,
            is_failed: false,
            read_only,
            started: Utc::now(),
            base: None,
            view: None,
            draft: None,
            steps: Vec::new(),
            tables: BTreeMap::new(),
            savepoints: Vec::new(),
            settings_before: settings.clone(),
            settings_after: settings.clone(),
        }
    }

    /// Begins to read, unless it does already.
    ///
    /// # Errors
    /// 72000 if its snapshot is older than `age_max`.
    fn pin(&mut self, newest: impl FnOnce() -> Arc<Published>, age_max: Duration) -> Result<()> {
        match &self.base {
            Some(base) => base.snapshot.check_age(age_max),
            None => {
                let base = newest();
                (self.base, self.view) = (Some(base.clone()), Some(base));
                Ok(())
            }
        }
    }

    /// What its statements see: snapshot and catalog. `None` before its first one.
    pub fn view(&self) -> Option<&Arc<Published>> {
        self.view.as_ref()
    }

    /// The catalog with its own definitions, to be edited.
    pub fn draft(&self) -> Option<&Draft> {
        self.draft.as_ref()
    }

    /// Its changes of a table.
    pub fn changes(&self, table: ObjectId) -> Option<&Arc<Overlay>> {
        self.tables.get(&table).map(TableChanges::overlay)
    }

    /// Whether it has made the object.
    pub fn has_made(&self, object: ObjectId) -> bool {
        self.base.as_ref().is_some_and(|base| base.catalog.get(object).is_none())
    }

    /// Takes a statement's changes of a table; returns the rows that were inserted.
    ///
    /// # Errors
    /// 23505 if a key is taken, 54000 if the transaction becomes too large.
    pub fn write(&mut self, write: &TableWrite) -> Result<Option<RecordBatch>> {
        let view = self.view.as_ref().ok_or_else(|| Error::internal("a transaction writes before it reads"))?;
        let object = view.catalog.get(write.table).ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_TABLE, format!("table with OID {} does not exist any more", write.table))
        })?;
        let changes = match self.tables.entry(write.table) {
            Entry::Occupied(changes) => changes.into_mut(),
            Entry::Vacant(unchanged) => unchanged.insert(TableChanges::new(object)?),
        };
        changes.name.clone_from(&object.name);
        let base = self.base.as_ref();
        let has_made = |id| base.is_some_and(|base| base.catalog.get(id).is_none());
        changes.set_indexes(indexes::readable(&view.catalog, changes.relation(), write.table, has_made)?);
        if write.truncate {
            changes.truncate()?;
        }
        if let Some(deletes) = &write.deletes {
            changes.delete(deletes)?;
        }
        let insert = |rows| changes.insert(rows, write.on_conflict, &view.snapshot);
        let inserted = write.inserts.as_ref().map(insert).transpose()?;
        self.check_size(CHANGES_BYTES_MAX)?;
        Ok(inserted)
    }

    fn check_size(&self, max: usize) -> Result<()> {
        if self.tables.values().map(TableChanges::bytes).sum::<usize>() <= max {
            return Ok(());
        }
        Err(Error::new(
            sqlstate::PROGRAM_LIMIT_EXCEEDED,
            format!("the transaction's changes take more than {} MiB", max >> 20),
        )
        .with_hint("split it into several transactions, or run the statement outside of one"))
    }

    /// Takes a statement's new catalog and rows.
    pub fn define(&mut self, draft: Draft, writes: &[TableWrite], statement: String) -> Result<()> {
        let base = self.base.as_ref().ok_or_else(|| Error::internal("a transaction writes before it reads"))?;
        let before = self.draft.as_ref().map_or(0, |d| d.changes().len());
        self.steps.push(DdlStep { statement, changes: draft.changes()[before..].to_vec() });
        self.set_draft(base.clone(), Some(draft));
        writes.iter().try_for_each(|write| self.write(write).map(drop))
    }

    fn set_draft(&mut self, base: Arc<Published>, draft: Option<Draft>) {
        self.view = Some(match &draft {
            Some(draft) => {
                let catalog = Arc::new(draft.catalog().clone());
                Arc::new(Published { catalog, ..Published::clone(&base) })
            }
            None => base,
        });
        self.draft = draft;
    }

    fn savepoint(&mut self, name: String, settings: &Settings) {
        self.savepoints.push(Savepoint {
            name,
            draft: self.draft.clone(),
            steps: self.steps.len(),
            tables: self.tables.iter().map(|(id, changes)| (*id, changes.mark())).collect(),
            settings: settings.clone(),
            settings_after: self.settings_after.clone(),
        });
    }

    /// How many savepoints are open.
    pub fn savepoints(&self) -> usize {
        self.savepoints.len()
    }

    fn find_savepoint(&self, name: &str) -> Result<usize> {
        self.savepoints
            .iter()
            .rposition(|s| s.name == name)
            .ok_or_else(|| Error::new("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    fn release(&mut self, name: &str) -> Result<()> {
        let at = self.find_savepoint(name)?;
        self.savepoints.truncate(at);
        Ok(())
    }

    /// Takes back what was done since the savepoint, which stays; returns the settings of then.
    fn roll_back_to(&mut self, name: &str) -> Result<Settings> {
        let at = self.find_savepoint(name)?;
        self.savepoints.truncate(at + 1);
        let savepoint = &self.savepoints[at];
        self.steps.truncate(savepoint.steps);
        self.tables.retain(|id, changes| match savepoint.tables.get(id) {
            Some(mark) => {
                changes.roll_back_to(*mark);
                true
            }
            None => false,
        });
        self.settings_after = savepoint.settings_after.clone();
        let (draft, settings) = (savepoint.draft.clone(), savepoint.settings.clone());
        if let Some(base) = self.base.clone() {
            self.set_draft(base, draft);
        }
        self.is_failed = false;
        Ok(settings)
    }

    /// An error was sent: what was done counts no more, except what a savepoint may want back.
    fn fail(&mut self) {
        self.is_failed = true;
        if self.savepoints.is_empty() {
            self.tables.clear();
            (self.base, self.view, self.draft) = (None, None, None);
        }
    }

    /// What is to be committed, with what a task notes of it.
    fn commit(self, user: &str, records: Vec<TaskRecord>, places: &Places) -> Result<Commit> {
        let exists = |catalog: &Catalog, id: ObjectId| catalog.get(id).is_some();
        let mut writes = Vec::new();
        for (id, changes) in &self.tables {
            // What was written to a table that was dropped afterwards is of no use.
            if self.view.as_ref().is_some_and(|view| exists(&view.catalog, *id)) {
                writes.extend(changes.writes(*id)?);
            }
        }
        let Some(draft) = self.draft else {
            let nothing = writes.is_empty() && records.is_empty();
            return Ok(if nothing { Commit::Nothing } else { Commit::Write(WriteRequest { writes, records }) });
        };
        let base_version = draft.base_version();
        let (catalog, changes) = draft.finish();
        let is_new = |object: &&Arc<Object>| self.base.as_ref().is_some_and(|base| !exists(&base.catalog, object.id));
        let running = |object: &Arc<Object>| definitions::running(&catalog, object, places).transpose();
        let new = catalog.objects().filter(is_new).filter_map(running).collect::<Result<_>>()?;
        let steps = self.steps;
        let user = user.to_string();
        let reset = None;
        let request = DdlRequest { base_version, catalog, changes, new, writes, steps, reset, records, user };
        Ok(Commit::Ddl(Box::new(request)))
    }
}

impl Session {
    /// Where the session stands, for the client.
    pub(super) fn status(&self) -> TransactionStatus {
        match &self.transaction {
            None => TransactionStatus::Idle,
            Some(transaction) if transaction.is_failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
        }
    }

    /// Opens the transaction that a statement of several in one message needs, and refuses what a failed one does.
    ///
    /// # Errors
    /// 25P02 in a failed transaction, 72000 if its snapshot is too old.
    pub(super) fn enter_transaction(&mut self, statement: &Statement) -> Result<()> {
        let ends =
            matches!(statement, Statement::Commit { .. } | Statement::Rollback { .. } | Statement::RollbackTo(_));
        if self.status() == TransactionStatus::Failed && !ends {
            return Err(Error::new(
                sqlstate::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        if ends || matches!(statement, Statement::Begin(_) | Statement::Savepoint(_) | Statement::Release(_)) {
            return Ok(());
        }
        if self.in_implicit_block && self.transaction.is_none() {
            self.transaction = Some(Transaction::new(false, self.default_read_only(), &self.settings));
        }
        let reads = !matches!(
            statement,
            Statement::Set(_)
                | Statement::Reset(_)
                | Statement::SetTransaction(_)
                | Statement::Fetch(_)
                | Statement::Close(_)
                | Statement::Listen(_)
                | Statement::Unlisten(_)
                | Statement::Notify(_)
        );
        match &mut self.transaction {
            Some(transaction) if reads => {
                let age_max = self.database.options.snapshot_max_age;
                transaction.pin(|| self.database.engine.published(), age_max)
            }
            _ => Ok(()),
        }
    }

    /// Refuses what the transaction cannot take back, and writes in one that only reads.
    ///
    /// # Errors
    /// 25001 and 25006, naming the statement.
    pub(super) fn check_transaction(&self, plan: &Plan) -> Result<()> {
        let (command, effect) = effect(plan);
        if self.is_read_only() && matches!(effect, Effect::Inside | Effect::Outside) {
            return Err(Error::new("25006", format!("cannot execute {command} in a read-only transaction")));
        }
        self.check_outside(command, matches!(effect, Effect::Outside | Effect::Elsewhere))
    }

    /// Refuses a statement with effects that ROLLBACK could not take back.
    pub(super) fn check_outside(&self, command: &str, has_effects: bool) -> Result<()> {
        match &self.transaction {
            Some(transaction) if has_effects => {
                let error = format!("{command} cannot run inside a transaction block");
                Err(Error::new(sqlstate::ACTIVE_SQL_TRANSACTION, error).with_hint(match transaction.is_block {
                    true => "run it outside BEGIN ... COMMIT",
                    false => "send it in a message of its own: several statements in one are one transaction",
                }))
            }
            _ => Ok(()),
        }
    }

    /// Whether statements may only read.
    pub(super) fn is_read_only(&self) -> bool {
        self.transaction.as_ref().map_or_else(|| self.default_read_only(), |t| t.read_only)
    }

    fn default_read_only(&self) -> bool {
        self.settings.is_on("default_transaction_read_only")
    }

    pub(super) fn begin(&mut self, read_only: Option<bool>) -> Result<Response> {
        match &mut self.transaction {
            None => {
                let read_only = read_only.unwrap_or_else(|| self.default_read_only());
                self.transaction = Some(Transaction::new(true, read_only, &self.settings));
            }
            Some(transaction) if transaction.is_block => self.notices.push(Notice::new(
                Severity::Warning,
                sqlstate::ACTIVE_SQL_TRANSACTION,
                "there is already a transaction in progress",
            )),
            // What came before it in the same message belongs to the block.
            Some(transaction) => {
                transaction.is_block = true;
                transaction.read_only = read_only.unwrap_or(transaction.read_only);
            }
        }
        Ok(complete("BEGIN"))
    }

    pub(super) fn set_transaction(&mut self, read_only: Option<bool>) -> Result<Response> {
        let Some(transaction) = &mut self.transaction else {
            self.warn_no_transaction("SET TRANSACTION can only be used in transaction blocks");
            return Ok(complete("SET"));
        };
        if let Some(read_only) = read_only {
            if transaction.read_only && !read_only && transaction.base.is_some() {
                return Err(Error::new(
                    sqlstate::ACTIVE_SQL_TRANSACTION,
                    "transaction read-write mode must be set before any query",
                ));
            }
            transaction.read_only = read_only;
        }
        Ok(complete("SET"))
    }

    /// COMMIT of the user's.
    pub(super) async fn commit(&mut self, chain: bool) -> Result<Response> {
        self.end_by_statement(chain, true).await
    }

    /// ROLLBACK of the user's.
    pub(super) async fn rollback(&mut self, chain: bool) -> Result<Response> {
        self.end_by_statement(chain, false).await
    }

    async fn end_by_statement(&mut self, chain: bool, commit: bool) -> Result<Response> {
        let open = self.transaction.as_ref().map(|t| (t.is_block, t.is_failed, t.read_only));
        let (is_block, is_failed, read_only) = open.unwrap_or_default();
        if !is_block {
            if chain {
                let command = if commit { "COMMIT AND CHAIN" } else { "ROLLBACK AND CHAIN" };
                return Err(no_transaction(&format!("{command} can only be used in transaction blocks")));
            }
            self.warn_no_transaction("there is no transaction in progress");
        }
        let commit = commit && !is_failed;
        self.end_transaction(commit).await?;
        if chain {
            self.transaction = Some(Transaction::new(true, read_only, &self.settings));
        }
        Ok(complete(if commit { "COMMIT" } else { "ROLLBACK" }))
    }

    /// Ends the message or pipeline: a transaction that no BEGIN opened ends with it.
    pub(super) async fn end_implicit(&mut self, failed: bool) -> Result<()> {
        self.in_implicit_block = false;
        match &self.transaction {
            Some(transaction) if !transaction.is_block => {
                let commit = !failed && !transaction.is_failed;
                self.end_transaction(commit).await
            }
            Some(_) => Ok(()),
            None => {
                self.end_notifications(!failed).await;
                Ok(())
            }
        }
    }

    async fn end_transaction(&mut self, commit: bool) -> Result<()> {
        let Some(mut transaction) = self.transaction.take() else { return Ok(()) };
        let before = std::mem::replace(&mut transaction.settings_before, Settings::new());
        let after = std::mem::replace(&mut transaction.settings_after, Settings::new());
        if !commit {
            self.cursors.end_transaction(false);
            self.end_notifications(false).await;
            self.restore_settings(before);
            return Ok(());
        }
        let records = std::mem::take(&mut self.task_records);
        let user = self.role().to_string();
        let done = match transaction.commit(&user, records, &self.database.batch.places()) {
            Ok(Commit::Nothing) => Ok(()),
            Ok(Commit::Write(request)) => self.database.engine.write(request).await.map(drop),
            Ok(Commit::Ddl(request)) => self.database.engine.ddl(*request).await.map(drop),
            Err(e) => Err(e),
        };
        self.cursors.end_transaction(done.is_ok());
        self.end_notifications(done.is_ok()).await;
        self.restore_settings(if done.is_ok() { after } else { before });
        done
    }

    /// An error was sent to the client.
    pub(super) fn fail_transaction(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.fail();
        }
    }

    pub(super) fn savepoint(&mut self, name: String) -> Result<Response> {
        let settings = self.settings.clone();
        self.block("SAVEPOINT")?.savepoint(name, &settings);
        self.channels.savepoint();
        Ok(complete("SAVEPOINT"))
    }

    pub(super) fn release(&mut self, name: &str) -> Result<Response> {
        let transaction = self.block("RELEASE SAVEPOINT")?;
        transaction.release(name)?;
        let savepoints = transaction.savepoints();
        self.cursors.release(savepoints);
        self.channels.release(savepoints);
        Ok(complete("RELEASE"))
    }

    pub(super) fn roll_back_to(&mut self, name: &str) -> Result<Response> {
        let transaction = self.block("ROLLBACK TO SAVEPOINT")?;
        let settings = transaction.roll_back_to(name)?;
        let savepoints = transaction.savepoints();
        self.cursors.roll_back_to(savepoints - 1);
        self.channels.roll_back_to(savepoints - 1);
        self.restore_settings(settings);
        Ok(complete("ROLLBACK"))
    }

    fn block(&mut self, command: &str) -> Result<&mut Transaction> {
        match &mut self.transaction {
            Some(transaction) if transaction.is_block => Ok(transaction),
            _ => Err(no_transaction(&format!("{command} can only be used in transaction blocks"))),
        }
    }

    /// A setting that stays if the transaction commits.
    pub(super) fn set_after_commit(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        match &mut self.transaction {
            Some(transaction) => transaction.settings_after.set(name, value).map(drop),
            None => Ok(()),
        }
    }

    /// Who the session is if the transaction commits.
    pub(super) fn put_after_commit(&mut self, name: &'static str, value: &str) {
        if let Some(transaction) = &mut self.transaction {
            transaction.settings_after.put(name, value);
        }
    }

    pub(super) fn warn_no_transaction(&mut self, message: &str) {
        self.notices.push(Notice::new(Severity::Warning, NO_ACTIVE_SQL_TRANSACTION, message));
    }
}

const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";

fn no_transaction(message: &str) -> Error {
    Error::new(NO_ACTIVE_SQL_TRANSACTION, message)
}

/// What a statement does that a transaction must know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It changes nothing that lasts.
    None,
    /// It changes rows or definitions, which ROLLBACK takes back.
    Inside,
    /// It changes the database and something outside, which ROLLBACK could not take back.
    Outside,
    /// It changes nothing in the database, but something else that ROLLBACK could not take back.
    Elsewhere,
}

/// A statement's name and effect.
fn effect(plan: &Plan) -> (&'static str, Effect) {
    use Effect::{Elsewhere, Inside, None, Outside};
    match plan {
        Plan::Query(_)
        | Plan::Explain(_)
        | Plan::ExplainRunning { .. }
        | Plan::Show(_)
        | Plan::Set { .. }
        | Plan::Reset(_)
        | Plan::Begin { .. }
        | Plan::Commit { .. }
        | Plan::Rollback { .. }
        | Plan::SetTransaction { .. }
        | Plan::Savepoint(_)
        | Plan::Release(_)
        | Plan::RollbackTo(_)
        | Plan::Flush
        | Plan::Nothing { .. }
        | Plan::DescribeHistory(_)
        | Plan::Prepare(_)
        // What it runs is looked at by itself.
        | Plan::Execute(_)
        | Plan::Deallocate(_)
        | Plan::Declare(_)
        | Plan::Fetch(_)
        | Plan::Close(_)
        | Plan::Listen(_)
        | Plan::Unlisten(_)
        | Plan::Notify(_)
        | Plan::Subscribe(_)
        | Plan::CopySubscribe(_)
        | Plan::Role(RoleStatement::Set { .. } | RoleStatement::SetSession(_)) => ("", None),
        Plan::CopyTo(p) => match p.target {
            CopyTarget::Stdout => ("COPY TO", None),
            CopyTarget::File(_) => ("COPY TO a file", Elsewhere),
        },
        Plan::CreateTable(_) => ("CREATE TABLE", Inside),
        Plan::CreateTableAs(_) => ("CREATE TABLE AS", Inside),
        Plan::CreateView(_) => ("CREATE VIEW", Inside),
        Plan::CreateMaterializedView(_) => ("CREATE MATERIALIZED VIEW", Inside),
        Plan::CreateExternalTable(_) => ("CREATE EXTERNAL TABLE", Inside),
        Plan::CreateSchema { .. } => ("CREATE SCHEMA", Inside),
        Plan::CreateFunction(_) => ("CREATE FUNCTION", Inside),
        Plan::CreateTask(_) => ("CREATE TASK", Outside),
        // What it runs is not of this transaction.
        Plan::ExecuteTask(_) => ("EXECUTE TASK", Elsewhere),
        Plan::Cron(p) => (p.function.name(), Outside),
        Plan::CreateSecret(_) => ("CREATE SECRET", Inside),
        Plan::Role(RoleStatement::DropOwned { .. }) => ("DROP OWNED", Inside),
        Plan::Role(_) => ("ALTER ROLE", Inside),
        Plan::Grant(_) => ("GRANT", Inside),
        Plan::DefaultPrivileges(_) => ("ALTER DEFAULT PRIVILEGES", Inside),
        Plan::AlterOwner(_) => ("ALTER ... OWNER TO", Inside),
        Plan::CreateIndex(_) => ("CREATE INDEX", Inside),
        Plan::CreateSource(_) => ("CREATE SOURCE", Outside),
        Plan::CreateSink(_) => ("CREATE SINK", Outside),
        Plan::Drop(p) => match p.kind {
            DropKind::Source => ("DROP SOURCE", Outside),
            DropKind::Sink => ("DROP SINK", Outside),
            DropKind::Task => ("DROP TASK", Outside),
            _ => ("DROP", Inside),
        },
        Plan::Rename { kind: DropKind::Source, .. } | Plan::SetSchema { kind: DropKind::Source, .. } => {
            ("ALTER SOURCE", Outside)
        }
        Plan::Rename { kind: DropKind::Sink, .. } | Plan::SetSchema { kind: DropKind::Sink, .. } => {
            ("ALTER SINK", Outside)
        }
        Plan::Rename { kind: DropKind::Task, .. } | Plan::SetSchema { kind: DropKind::Task, .. } => {
            ("ALTER TASK", Outside)
        }
        Plan::Rename { .. } | Plan::SetSchema { .. } => ("ALTER", Inside),
        Plan::SetOptions { kind, .. } | Plan::Suspend { kind, .. } | Plan::Resume { kind, .. } => match kind {
            DropKind::Source => ("ALTER SOURCE", Outside),
            DropKind::Sink => ("ALTER SINK", Outside),
            DropKind::Task => ("ALTER TASK", Outside),
            _ => ("ALTER MATERIALIZED VIEW", Outside),
        },
        Plan::Comment { .. } => ("COMMENT", Inside),
        Plan::Insert(_) => ("INSERT", Inside),
        Plan::Update(_) => ("UPDATE", Inside),
        Plan::Delete(_) => ("DELETE", Inside),
        Plan::Merge(_) => ("MERGE", Inside),
        Plan::Optimize(_) => ("OPTIMIZE", Outside),
        Plan::Vacuum(_) => ("VACUUM", Outside),
        Plan::Truncate { .. } => ("TRUNCATE TABLE", Inside),
        Plan::CopyFrom(_) => ("COPY FROM", Inside),
        Plan::CancelJobs(_) => ("CANCEL JOB", Elsewhere),
        Plan::DiscardAll => ("DISCARD ALL", Elsewhere),
    }
}

/// Whether dropping an object has effects outside.
pub fn is_outside(kind: &ObjectKind) -> bool {
    matches!(kind, ObjectKind::Source(_) | ObjectKind::Sink(_) | ObjectKind::Task(_))
}

#[cfg(test)]
mod tests {
    use super::super::overlay::tests::{rows, stored, table};
    use super::*;
    use crate::stream::engine::OnConflict;

    #[test]
    fn a_transaction_is_bounded() {
        let object = table(vec![0]);
        let (_dir, snapshot) = stored(&object, &[(1, 1)]);
        let mut transaction = Transaction::new(true, false, &Settings::new());
        let mut changes = TableChanges::new(&object).unwrap();
        changes.insert(&rows(&[(2, 2), (3, 3)]), OnConflict::Error, &snapshot).unwrap();
        transaction.tables.insert(object.id, changes);
        transaction.check_size(1 << 20).unwrap();
        let error = transaction.check_size(16).unwrap_err();
        assert_eq!(error.sqlstate(), sqlstate::PROGRAM_LIMIT_EXCEEDED);
    }

    #[test]
    fn names_of_savepoints_hide_older_ones() {
        let mut transaction = Transaction::new(true, false, &Settings::new());
        for name in ["a", "b", "a", "c"] {
            transaction.savepoint(name.into(), &Settings::new());
        }
        transaction.roll_back_to("a").unwrap();
        assert_eq!(transaction.find_savepoint("c").unwrap_err().sqlstate(), "3B001");
        transaction.release("a").unwrap();
        assert_eq!(transaction.find_savepoint("a").unwrap(), 0);
        transaction.release("a").unwrap();
        assert_eq!(transaction.find_savepoint("b").unwrap_err().sqlstate(), "3B001");
    }
}
