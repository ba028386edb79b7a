//! What sessions ask of the engine, and how they wait for it.

use std::sync::Arc;
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use crossbeam_channel::Sender;
use datafusion::physical_expr::PhysicalExpr;
use millstream_catalog::{Catalog, ObjectId};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::history::History;
use super::published::{Published, Publisher};
use super::stats::Stats;
use crate::error::{Error, Result, sqlstate};
use crate::state::TableId;
use crate::stream::generated::Generated;
use crate::stream::plan::PlannedView;
use millstream_connectors::{DeadLetter, Reset, SinkSpec, SourceSpec};

pub use millstream_catalog::Change;

/// A running engine. Dropping it without [`Engine::shutdown`] ends it after the open epoch.
pub struct Engine {
    commands: Sender<Command>,
    publisher: Arc<Publisher>,
    stats: Arc<Stats>,
    history: Arc<History>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What runs for an object beside its catalog record.
pub enum NewObject {
    /// With the position and expression of its watermark, over all its columns.
    Source {
        id: ObjectId,
        spec: Box<SourceSpec>,
        watermark: Option<(usize, Arc<dyn PhysicalExpr>)>,
        generated: Arc<[Generated]>,
    },
    /// With the position and expression of its watermark, if it has one.
    Table {
        id: ObjectId,
        watermark: Option<(usize, Arc<dyn PhysicalExpr>)>,
    },
    View {
        id: ObjectId,
        plan: Box<PlannedView>,
    },
    Sink {
        id: ObjectId,
        plan: Box<PlannedView>,
        spec: Box<SinkSpec>,
    },
    Index {
        id: ObjectId,
    },
}

impl NewObject {
    /// The object's id.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Source { id, .. }
            | Self::Table { id, .. }
            | Self::View { id, .. }
            | Self::Sink { id, .. }
            | Self::Index { id } => *id,
        }
    }
}

/// One DDL statement, or a transaction with some: catalog changes that become visible together with what runs for them.
#[derive(Default)]
pub struct DdlRequest {
    /// The version that the changes were made against; another current version is a conflict.
    pub base_version: u64,
    pub catalog: Catalog,
    pub changes: Vec<Change>,
    pub new: Vec<NewObject>,
    /// Rows for tables, also ones made here: the other statements of a transaction, or CREATE TABLE AS.
    pub writes: Vec<TableWrite>,
    /// For `millstream.ddl_history`: each statement, in order.
    pub steps: Vec<DdlStep>,
    /// A source that goes on elsewhere where its positions are gone.
    pub reset: Option<(ObjectId, Reset)>,
    /// What a task notes of the run that this is of.
    pub records: Vec<TaskRecord>,
    pub user: String,
}

/// What one statement changed in the catalog.
#[derive(Debug, Clone)]
pub struct DdlStep {
    pub statement: String,
    pub changes: Vec<Change>,
}

/// Changes of one table's rows, complete rows in the table's stored column order (see [`super::table`]).
#[derive(Debug, Clone)]
pub struct TableWrite {
    pub table: ObjectId,
    /// Rows that must be there exactly as they are here, and go.
    pub deletes: Option<RecordBatch>,
    /// Rows that come, after the deletes.
    pub inserts: Option<RecordBatch>,
    /// What to do with an inserted row whose key is there already.
    pub on_conflict: OnConflict,
    /// Take every row away first.
    pub truncate: bool,
}

impl TableWrite {
    /// Memory that its rows take.
    pub fn bytes(&self) -> usize {
        self.deletes.iter().chain(&self.inserts).map(RecordBatch::get_array_memory_size).sum()
    }
}

/// What to do with an inserted row whose primary key, or values of a unique index, are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// 23505.
    #[default]
    Error,
    /// The row is left out.
    DoNothing,
    /// The row is left out if this index says that it is there, or the primary key with `None`; 23505 by another.
    DoNothingOn(Option<ObjectId>),
    /// The statement was evaluated against old data: 40001, and the session runs it again.
    Retry,
    /// The same where this unique index says that the row is there; 23505 by the primary key.
    RetryOn(ObjectId),
}

impl OnConflict {
    /// Whether a row is left out that the primary key (`None`) or a unique index says is there.
    pub fn skips(self, by: Option<ObjectId>) -> bool {
        match self {
            Self::Error | Self::Retry | Self::RetryOn(_) => false,
            Self::DoNothing => true,
            Self::DoNothingOn(target) => target == by,
        }
    }
}

/// What is noted of a task's runs, in a table of the task's own: durable with the rows and definitions that it comes with, so
/// that a run and the note of its success are one. A `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    pub table: TableId,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// A statement's or transaction's writes: all or none.
#[derive(Default)]
pub struct WriteRequest {
    pub writes: Vec<TableWrite>,
    /// As of [`DdlRequest::records`].
    pub records: Vec<TaskRecord>,
}

impl WriteRequest {
    /// Memory that its rows take.
    pub fn bytes(&self) -> usize {
        self.writes.iter().map(TableWrite::bytes).sum()
    }
}

/// What a write did.
#[derive(Debug, Clone)]
pub struct WriteOutcome {
    /// The epoch that made it visible.
    pub epoch: u64,
    /// For each write, the rows that were inserted (fewer than asked under [`OnConflict::DoNothing`]).
    pub inserted: Vec<Option<RecordBatch>>,
}

pub type Reply<T> = oneshot::Sender<Result<T>>;

/// Which view is no longer wanted, by whom, for `millstream.ddl_history`.
pub struct CancelJob {
    pub view: ObjectId,
    pub statement: String,
    pub user: String,
}

/// What ALTER SINK does to a sink that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkChange {
    Suspend,
    /// Send again, from the row of a number on if there is one.
    Resume(Option<u64>),
}

/// Messages to the epoch loop.
pub enum Command {
    Ddl(Box<DdlRequest>, Reply<u64>),
    Write(WriteRequest, Reply<WriteOutcome>),
    /// Commit what came in before this and make it visible.
    Flush(Reply<u64>),
    /// Stop building a view, which goes with what reads it.
    CancelJob(CancelJob, Reply<u64>),
    /// Suspend a sink, or send on.
    AlterSink(ObjectId, SinkChange, Reply<u64>),
    /// A sink has delivered its rows up to this sequence. Pieces of the outbox from `kept` on are still needed; `dead` are
    /// rows that the outside would never take.
    SinkProgress {
        sink: ObjectId,
        sequence: u64,
        kept: u64,
        dead: Vec<DeadLetter>,
    },
    /// The outside was told how far a new or resumed sink is.
    SinkMarked {
        sink: ObjectId,
        generation: u64,
    },
    /// A sink's sender cannot go on without a person.
    SinkGaveUp {
        sink: ObjectId,
        generation: u64,
        reason: String,
    },
    /// Something is in a source's queue, or the committer is done: look.
    Wake,
    Shutdown,
}

impl Engine {
    pub(super) fn new(
        commands: Sender<Command>,
        publisher: Arc<Publisher>,
        stats: Arc<Stats>,
        history: Arc<History>,
        thread: JoinHandle<()>,
    ) -> Self {
        Self { commands, publisher, stats, history, thread: Mutex::new(Some(thread)) }
    }

    /// Catalog and data as of the newest committed epoch.
    pub fn published(&self) -> Arc<Published> {
        self.publisher.current()
    }

    /// Woken with the number of each epoch as it becomes visible.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.publisher.subscribe()
    }

    /// Counters of sources, views and sinks.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The last changes of what somebody follows.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Applies a DDL statement; returns the epoch that made it visible and durable.
    ///
    /// # Errors
    /// 40001 if another DDL statement came first; what starting the new objects finds wrong.
    pub async fn ddl(&self, request: DdlRequest) -> Result<u64> {
        self.call(|reply| Command::Ddl(Box::new(request), reply)).await
    }

    /// Applies a statement's writes; returns once they are visible and durable.
    ///
    /// # Errors
    /// 23505 for a taken key, 40001 if a row was changed since the statement read it, 42704 for a record of a task that was
    /// dropped, 53100 if the commit failed.
    pub async fn write(&self, request: WriteRequest) -> Result<WriteOutcome> {
        self.call(|reply| Command::Write(request, reply)).await
    }

    /// Stops building a view and drops it; returns the epoch.
    ///
    /// # Errors
    /// 42704 if no such view is being built.
    pub async fn cancel_job(&self, view: ObjectId, statement: &str, user: &str) -> Result<u64> {
        let job = CancelJob { view, statement: statement.to_string(), user: user.to_string() };
        self.call(|reply| Command::CancelJob(job, reply)).await
    }

    /// Suspends or resumes a sink; returns the epoch that made it durable.
    ///
    /// # Errors
    /// 22023 to resume at a row that is not kept, 42704 if there is no such sink.
    pub async fn alter_sink(&self, sink: ObjectId, change: SinkChange) -> Result<u64> {
        self.call(|reply| Command::AlterSink(sink, change, reply)).await
    }

    /// Waits until all that was sent before is visible; returns the epoch.
    pub async fn flush(&self) -> Result<u64> {
        self.call(Command::Flush).await
    }

    /// Commits what is open and ends the threads. Blocks.
    pub fn shutdown(&self) {
        // The loop may be gone already.
        let _ = self.commands.send(Command::Shutdown);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the epoch loop panicked");
        }
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Error::new(sqlstate::ADMIN_SHUTDOWN, "the server is shutting down");
        self.commands.send(command(reply)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}
