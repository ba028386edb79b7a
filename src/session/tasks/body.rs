//! Carries out the statements of a run.
//!
//! Statements that a transaction takes are one transaction as long as nothing stands between them that none takes (`COPY … TO`
//! a file, `CREATE SINK`): that runs by itself, after what is before it is committed. Each commit carries the note of how far
//! the run is, so a further try goes on behind what is committed. What ran by itself and has its effect elsewhere may be done
//! twice, if the server dies between that effect and the note of it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;
use deltalake::kernel::Transaction;
use futures::StreamExt;
use jiff::civil::Date;
use millstream_catalog::object::Task;
use millstream_catalog::{DEFAULT_DATABASE, Object, ObjectId};
use millstream_sql::{Parsed, RunVars, quote_ident};
use tokio_util::sync::CancellationToken;

use super::reads::Reads;
use super::run::{self, Run, RunState};
use crate::calendar;
use crate::error::{Error, Result, sqlstate};
use crate::failpoint;
use crate::session::Session;
use crate::session::api::{ClientInfo, Response, RowSet, SqlSession};
use crate::session::database::Database;
use crate::session::query::canceled;
use crate::stream::engine::{TaskRecord, WriteRequest};

/// How often a transaction is done again that others came into the way of.
const CONFLICTS_MAX: usize = 100;

/// A run that is carried out.
pub struct Attempt {
    session: Session,
    task: ObjectId,
    statements: Vec<Arc<Parsed>>,
    /// As it is kept.
    pub run: Run,
}

/// Where a transaction of a run ends.
enum Stop {
    /// Behind all statements.
    End,
    /// Before one that no transaction takes.
    Alone,
}

impl Attempt {
    /// A session of the task's owner for a run, which is `running`.
    ///
    /// # Errors
    /// Those of its statements' texts, which CREATE TASK has read once; 55000 for what a repeated run cannot read.
    pub fn new(database: &Database, object: &Object, task: &Task, run: Run) -> Result<Self> {
        let name = format!("task {}", object.name);
        let search_path: Vec<String> = task.search_path.iter().map(|schema| quote_ident(schema)).collect();
        let settings = [
            ("application_name".into(), name),
            ("search_path".into(), search_path.join(", ")),
            ("timezone".into(), task.time_zone.clone()),
        ];
        let mut session = Session::new(database.clone(), client_of(object, settings.into()))?;
        session.run_vars = Some(run_vars(task, &run)?);
        session.reads = Some(Arc::new(match (run.repeats, &run.inputs) {
            (Some(repeated), Some(inputs)) => Reads::again(repeated, inputs.clone()),
            _ => Reads::default(),
        }));
        let mut statements = Vec::with_capacity(run.statements.len());
        for text in &run.statements {
            statements.extend(millstream_sql::parse(text)?.into_iter().map(Arc::new));
        }
        Ok(Self { session, task: object.id, statements, run })
    }

    /// Carries out what is not done yet. The run is `succeeded` afterwards, and that is on disk.
    ///
    /// # Errors
    /// That of the first statement that fails; what is committed before it is noted. 57014 when `cancel` fires.
    pub async fn carry_out(&mut self, cancel: &CancellationToken) -> Result<()> {
        failpoint::pass("task.started")?;
        while self.run.state != RunState::Succeeded {
            match self.transaction(cancel).await? {
                Stop::End => {}
                Stop::Alone => self.alone(cancel).await?,
            }
        }
        Ok(())
    }

    /// Commits statements from the first that is not done up to the end, or to one that runs by itself.
    async fn transaction(&mut self, cancel: &CancellationToken) -> Result<Stop> {
        for _ in 0..CONFLICTS_MAX {
            let mut next = self.run.clone();
            let stop = match self.statements_of_one(&mut next, cancel).await {
                Ok(stop) => stop,
                Err(e) => {
                    self.session.end_implicit(true).await?;
                    return Err(e);
                }
            };
            if cancel.is_cancelled() {
                self.session.end_implicit(true).await?;
                return Err(canceled());
            }
            self.note_inputs(&mut next);
            if next.done == self.statements.len() {
                self.note_success(&mut next);
            }
            if matches!(stop, Stop::Alone) && next.done == self.run.done {
                self.session.end_implicit(true).await?;
                return Ok(stop);
            }
            failpoint::pass("task.before_commit")?;
            self.session.task_records = self.kept(&next);
            match self.session.end_implicit(false).await {
                Ok(()) => {
                    self.run = next;
                    failpoint::pass("task.committed")?;
                    return Ok(stop);
                }
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => self.session.task_records.clear(),
                Err(e) => {
                    self.take_what_is_kept();
                    return Err(e);
                }
            }
        }
        Err(Error::new(
            sqlstate::SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent updates: others changed the same rows each time",
        )
        .with_hint("let the task run when less is written, or give it retries"))
    }

    /// A commit may be told of as failed that came through: a view that was made in it failed later. Then what it holds is
    /// not done again.
    fn take_what_is_kept(&mut self) {
        let snapshot = self.session.database.engine.published().snapshot.clone();
        // What cannot be read has not come through, as far as anybody can tell.
        if let Ok(Some(kept)) = run::kept(&snapshot, self.task, self.run.key()) {
            (self.run.done, self.run.rows) = (kept.done, kept.rows);
        }
    }

    /// Runs statements in the open transaction.
    async fn statements_of_one(&mut self, next: &mut Run, cancel: &CancellationToken) -> Result<Stop> {
        self.session.begin_implicit_block();
        while let Some(parsed) = self.statements.get(next.done).cloned() {
            match self.statement(&parsed, cancel).await {
                Ok(rows) => (next.rows, next.done) = (next.rows + rows, next.done + 1),
                // Told before it has done anything.
                Err(e) if e.sqlstate() == sqlstate::ACTIVE_SQL_TRANSACTION => return Ok(Stop::Alone),
                Err(e) => return Err(e),
            }
        }
        Ok(Stop::End)
    }

    /// Runs the next statement by itself.
    async fn alone(&mut self, cancel: &CancellationToken) -> Result<()> {
        let Some(parsed) = self.statements.get(self.run.done).cloned() else { return Ok(()) };
        let mut next = self.run.clone();
        next.done += 1;
        self.session.task_records = self.kept(&next);
        self.session.lake_transaction = Some(self.lake_transaction());
        let rows = self.statement(&parsed, cancel).await;
        self.session.lake_transaction = None;
        failpoint::pass("task.alone")?;
        let is_noted = std::mem::take(&mut self.session.task_records).is_empty();
        let rows = rows?;
        if is_noted {
            self.run.done = next.done;
        }
        next.rows += rows;
        self.note_inputs(&mut next);
        if next.done == self.statements.len() {
            self.note_success(&mut next);
        }
        let records = self.kept(&next);
        self.session.database.engine.write(WriteRequest { records, ..WriteRequest::default() }).await?;
        self.run = next;
        Ok(())
    }

    /// Runs one statement to its end; the rows that it wrote or gave.
    async fn statement(&mut self, parsed: &Arc<Parsed>, cancel: &CancellationToken) -> Result<u64> {
        let response = self.session.execute(parsed, &[], cancel.clone()).await;
        drop(self.session.take_notices());
        match response? {
            Response::Rows(RowSet { stream, .. }) => {
                let (database, id) = (self.session.database.clone(), self.session.id);
                database.doing(id, Some(millstream_sql::masked(&parsed.text)));
                let rows = count_rows(stream, cancel).await;
                database.doing(id, None);
                rows
            }
            Response::Complete { tag } => Ok(tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default()),
            Response::Empty => Ok(0),
            Response::CopyIn(_) | Response::CopyOut(_) | Response::CopyBinary(_) => {
                Err(Error::unsupported("COPY from and to a client is not supported in a task"))
            }
        }
    }

    /// What a Delta table keeps of the next statement, so that a further try of it does not write its rows again: by the
    /// statement's place, the scheduled time, and which of the tries for it was the first of those that are one.
    fn lake_transaction(&self) -> Transaction {
        let Run { scheduled_us, attempt, failures, abandoned, done, .. } = &self.run;
        let store = self.session.database.store.identity();
        let app = format!("millstream-{store}-task-{}-{done}", self.task);
        Transaction::new(app, scheduled_us + i64::from(attempt.saturating_sub(failures + abandoned)))
    }

    fn kept(&self, run: &Run) -> Vec<TaskRecord> {
        vec![run.record(self.task)]
    }

    fn note_inputs(&self, run: &mut Run) {
        if run.repeats.is_none() {
            run.inputs = self.session.reads.as_ref().map(|reads| reads.inputs());
        }
    }

    fn note_success(&self, run: &mut Run) {
        run.state = RunState::Succeeded;
        run.ended_us = Some(self.session.database.tasks.clock.now_us());
        run.error = None;
    }

    /// The run as far as it came, with what it has read.
    pub fn so_far(&self) -> Run {
        let mut run = self.run.clone();
        self.note_inputs(&mut run);
        run
    }
}

/// Reads rows to their end, and throws them away.
async fn count_rows(mut stream: SendableRecordBatchStream, cancel: &CancellationToken) -> Result<u64> {
    let mut rows = 0;
    loop {
        let batch = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(canceled()),
            batch = stream.next() => batch,
        };
        match batch.transpose()? {
            Some(batch) => rows += batch.num_rows() as u64,
            None => return Ok(rows),
        }
    }
}

/// What `run_time()` and its kin give in a run.
///
/// # Errors
/// 22023 for an unknown time zone, 22008 for a time that is no date.
pub fn run_vars(task: &Task, run: &Run) -> Result<RunVars> {
    vars(task, run.scheduled_us, run.parameters.clone())
}

/// The same of a scheduled time.
///
/// # Errors
/// As [`run_vars`].
pub fn vars(task: &Task, time_us: i64, parameters: BTreeMap<String, String>) -> Result<RunVars> {
    let zone = calendar::time_zone(task.zone())?;
    let time = jiff::Timestamp::from_microsecond(time_us)
        .map_err(|_| Error::new("22008", "the scheduled time of the run is out of range"))?;
    let days = Date::constant(1970, 1, 1).until(zone.to_datetime(time).date());
    let date = days.map(|span| span.get_days()).map_err(|e| Error::internal(e.to_string()))?;
    Ok(RunVars { time_us, date, parameters })
}

/// Runs one statement as the owner of a task.
///
/// # Errors
/// Those of the statement.
pub async fn as_owner(database: &Database, object: &Object, sql: &str) -> Result<()> {
    let mut session = Session::new(database.clone(), client_of(object, BTreeMap::new()))?;
    for parsed in millstream_sql::parse(sql)? {
        session.execute(&Arc::new(parsed), &[], CancellationToken::new()).await?;
    }
    Ok(())
}

/// The owner of a task as a client.
fn client_of(object: &Object, settings: BTreeMap<String, String>) -> ClientInfo {
    ClientInfo {
        process_id: 0,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        user: object.owner.clone(),
        database: DEFAULT_DATABASE.into(),
        settings,
    }
}
