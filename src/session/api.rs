//! What the wire server asks of a session: parse, describe, execute, and what comes back.
//!
//! The server owns sockets, messages, portals and cancellation; the session owns catalogs, transactions and settings.
//! One [`SqlSession`] serves one connection and is called by one task at a time. [`Sessions`] opens them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::execution::SendableRecordBatchStream;
use futures::stream::BoxStream;
use millstream_catalog::SqlType;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The value of a parameter, with what tells its SQL type where its layout does not.
pub type Parameter = ScalarAndMetadata;

use crate::error::{Error, Result};
use crate::scram::Verifier;

/// Opens a session for each connection; the part of the server behind the wire.
pub trait Sessions: Send + Sync + 'static {
    /// The session of one connection.
    type Session: SqlSession;

    /// A session for an authenticated client, or why there is none (unknown database, role, setting).
    fn open(&self, client: ClientInfo) -> impl Future<Output = Result<Self::Session>> + Send;

    /// How a client of that name proves who it is; `is_local` if it is on the server's machine.
    ///
    /// # Errors
    /// 28000 for a role that there is not, where that is no secret.
    fn login(&self, user: &str, is_local: bool) -> Result<Login> {
        let _ = (user, is_local);
        Ok(Login::Trusted)
    }

    /// Whether clients of other machines can be let in, because they need a password.
    fn is_protected(&self) -> bool {
        false
    }

    /// Metrics of what runs, in Prometheus' text format.
    fn metrics(&self) -> String {
        String::new()
    }

    /// Stops the engine after the last connection has ended: final commit, files closed.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;
}

/// How a client proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// It need not.
    Trusted,
    /// By a password that fits this.
    Password(Verifier),
    /// It cannot, which it learns when it tries.
    Never,
}

/// What a client said about itself when it connected.
#[derive(Debug, Clone)]
pub struct ClientInfo {
    /// Names the connection in `pg_backend_pid()`, `millstream.sessions` and cancel requests.
    pub process_id: i32,
    pub address: SocketAddr,
    pub user: String,
    pub database: String,
    /// The start-up packet's other parameters (`application_name`, `TimeZone`, `options` taken apart): initial values of
    /// settings, by lower-case name.
    pub settings: BTreeMap<String, String>,
}

/// One connection's SQL session.
///
/// Errors carry positions in characters from 1 in the text that was given to [`SqlSession::parse`], so that a client can
/// point into what it sent.
pub trait SqlSession: Send + 'static {
    /// A parsed statement. Cheap to clone; it outlives the message that brought it (prepared statements).
    type Statement: Clone + Send + Sync + 'static;

    /// Takes a message apart into its statements; an empty message has none.
    fn parse(&mut self, sql: &str) -> Result<Vec<Self::Statement>>;

    /// Types of a statement's parameters and columns without running it. `parameter_oids` are the client's declarations
    /// (`pg_type.oid`); 0 or a missing one leaves the type to inference.
    fn describe(
        &mut self,
        statement: &Self::Statement,
        parameter_oids: &[u32],
    ) -> impl Future<Output = Result<Description>> + Send;

    /// Keeps a statement under a name; the empty name may be taken again.
    ///
    /// # Errors
    /// 42P05 if the name is taken.
    fn prepare(&mut self, name: &str, prepared: Prepared<Self::Statement>) -> Result<()>;

    /// The statement of that name, whoever has prepared it.
    ///
    /// # Errors
    /// 26000 if there is none.
    fn prepared(&self, name: &str) -> Result<Prepared<Self::Statement>>;

    /// Forgets a statement, if there is one of that name.
    fn forget_prepared(&mut self, name: &str);

    /// The columns of a cursor that DECLARE has opened, which clients may ask for as for those of a portal.
    fn cursor_columns(&self, name: &str) -> Option<SchemaRef> {
        let _ = name;
        None
    }

    /// Closes a cursor that DECLARE has opened, if there is one of that name.
    fn close_cursor(&mut self, name: &str) {
        let _ = name;
    }

    /// Runs a statement. Parameter values have the types that [`SqlSession::describe`] gave.
    ///
    /// When `cancel` fires, the call returns (with 57014 if the statement had no effect yet) as soon as it safely can; it
    /// is never dropped half-way. The server itself stops pulling from a returned stream and drops it.
    fn execute(
        &mut self,
        statement: &Self::Statement,
        parameters: &[Parameter],
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Response>> + Send;

    /// Takes the data of the COPY that [`SqlSession::execute`] answered last, in pieces that are split anywhere, up to
    /// [`CopyChunk::Done`] or [`CopyChunk::Failed`]; the command tag (`COPY 3`). Returns early with an error. A full
    /// queue stops reading from the client.
    fn copy_in(&mut self, chunks: mpsc::Receiver<CopyChunk>) -> impl Future<Output = Result<String>> + Send {
        drop(chunks);
        async { Err(Error::internal("no COPY is open")) }
    }

    /// Told before the first of several statements that came in one message, and before each of a pipeline: they are one
    /// transaction unless they contain transaction commands.
    fn begin_implicit_block(&mut self) {}

    /// Told at the end of every message cycle, before the client learns that the server is ready: an implicit
    /// transaction, if one is open, ends here (committed, or rolled back when `failed`).
    fn sync(&mut self, failed: bool) -> impl Future<Output = Result<()>> + Send {
        let _ = failed;
        async { Ok(()) }
    }

    /// Told of every error that the client was sent, also those that the server found (a bad parameter, a failing row
    /// stream): an open transaction block is failed by it.
    fn fail(&mut self, error: &Error);

    /// The status that ReadyForQuery carries.
    fn transaction_status(&self) -> TransactionStatus;

    /// Notices since the last call, in order.
    fn take_notices(&mut self) -> Vec<Notice>;

    /// Settings that the client must be told of (ParameterStatus) and that changed since the last call: names as
    /// PostgreSQL spells them (`TimeZone`, `application_name`).
    fn take_parameter_changes(&mut self) -> Vec<(String, String)>;

    /// The name of the zone in which times without one are read.
    fn time_zone(&self) -> &str;

    /// How values print.
    fn format(&self) -> OutputFormat;

    /// `statement_timeout`.
    fn statement_timeout(&self) -> Option<Duration> {
        None
    }

    /// What to tell the client of the statement that starts now while it runs, if the client wants to know.
    fn progress(&self) -> Option<ProgressReport> {
        None
    }

    /// `idle_in_transaction_session_timeout`.
    fn idle_in_transaction_timeout(&self) -> Option<Duration> {
        None
    }

    /// The queue of what reaches the client while it is idle; taken once, when the connection starts.
    fn take_outbox(&mut self) -> Option<mpsc::Receiver<OutOfBand>> {
        None
    }
}

/// Key in a result column's metadata: `OID.number` of the relation's column that it is.
pub const ORIGIN_KEY: &str = "millstream.origin";

/// What a statement takes and gives.
#[derive(Debug, Clone, Default)]
pub struct Description {
    pub parameters: Vec<SqlType>,
    /// `None` if the statement returns no rows.
    pub columns: Option<SchemaRef>,
}

/// What running a statement gave.
pub enum Response {
    /// Rows, streamed.
    Rows(RowSet),
    /// No rows; the whole tag (`CREATE TABLE`, `INSERT 0 3`).
    Complete { tag: String },
    /// `COPY … TO STDOUT`.
    CopyOut(CopyOut),
    /// `COPY … TO STDOUT` in the binary format.
    CopyBinary(RowSet),
    /// `COPY … FROM STDIN`.
    CopyIn(CopyIn),
    /// An empty statement.
    Empty,
}

/// Rows that are streamed to the client.
pub struct RowSet {
    /// Its fields carry their [`SqlType`].
    pub schema: SchemaRef,
    pub stream: SendableRecordBatchStream,
    /// The server completes it.
    pub tag: RowsTag,
    /// Whether the answer to a simple query is in the binary format.
    pub binary: bool,
    /// Whether rows come over time, without an end: what is there is sent at once, and a server that stops does not wait.
    pub live: bool,
}

impl RowSet {
    /// Rows in the text format that come as fast as they are taken.
    pub fn new(schema: SchemaRef, stream: SendableRecordBatchStream, tag: RowsTag) -> Self {
        Self { schema, stream, tag, binary: false, live: false }
    }
}

/// A statement that was prepared, by a Parse message or by PREPARE.
#[derive(Debug, Clone)]
pub struct Prepared<St> {
    /// `None`: the text was empty.
    pub statement: Option<St>,
    pub description: Description,
}

/// How the command tag of a row-returning statement ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowsTag {
    /// The tag with the number of rows sent: `SELECT 3`, `INSERT 0 3`.
    Counted(String),
    /// The tag alone: `SHOW`, `EXPLAIN`.
    Plain(String),
}

impl RowsTag {
    /// The tag of a query.
    pub fn select() -> Self {
        Self::Counted("SELECT".into())
    }
}

/// Data of a COPY to the client, already formatted.
pub struct CopyOut {
    /// Columns announced to the client.
    pub columns: usize,
    /// Whether the format is binary.
    pub binary: bool,
    /// Pieces of the output; one should be at most some 64 KiB.
    pub stream: BoxStream<'static, Result<CopyPiece>>,
    /// As of [`RowSet::live`].
    pub live: bool,
}

/// A part of the data of a COPY to the client.
pub struct CopyPiece {
    pub bytes: Bytes,
    /// Where each of its messages ends; clients take a message for a row, or for the header.
    pub ends: Vec<usize>,
    /// How many of them are rows.
    pub rows: u64,
}

/// What the client is told of the data that it is to send; [`SqlSession::copy_in`] takes it.
pub struct CopyIn {
    /// Columns announced to the client.
    pub columns: usize,
    /// In the binary format: what the data is of. The session is then given [`CopyChunk::Rows`].
    pub binary: Option<CopyColumns>,
}

/// What the data of a binary COPY is of.
#[derive(Debug, Clone)]
pub struct CopyColumns {
    /// Name of the table, for errors.
    pub table: String,
    /// Names and types of the columns.
    pub columns: Vec<(String, SqlType)>,
}

/// One message of a COPY from the client.
#[derive(Debug)]
pub enum CopyChunk {
    Data(Bytes),
    /// Rows of a binary COPY; values of `varchar`, `char` and `numeric` are text.
    Rows(RecordBatch),
    /// All data was sent.
    Done,
    /// The client gave up, with its reason; nothing may be kept.
    Failed(String),
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    /// In a transaction block that an error has ended; only ROLLBACK is taken.
    Failed,
}

/// How much a notice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Warning,
    Notice,
    Info,
    Log,
    Debug,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Log => "LOG",
            Self::Debug => "DEBUG",
        })
    }
}

/// A message to the client that is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub severity: Severity,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Notice {
    /// NOTICE 00000.
    #[expect(clippy::self_named_constructors, reason = "named by its severity, like `warning`")]
    pub fn notice(message: impl Into<String>) -> Self {
        Self::new(Severity::Notice, "00000", message)
    }

    /// WARNING 01000.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, "01000", message)
    }

    /// A notice without detail and hint.
    pub fn new(severity: Severity, sqlstate: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, sqlstate: sqlstate.into(), message: message.into(), detail: None, hint: None }
    }

    /// Adds the particulars.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what the user can do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How far the running statement is, for its client.
#[derive(Clone)]
pub struct ProgressReport {
    /// How often it is told.
    pub every: Duration,
    /// What is told; `None` while nothing runs.
    pub now: Arc<dyn Fn() -> Option<Notice> + Send + Sync>,
}

/// What reaches a client that is waiting for nothing.
#[derive(Debug, Clone)]
pub enum OutOfBand {
    /// NOTIFY; sent outside transaction blocks only.
    Notification {
        process_id: i32,
        channel: String,
        payload: String,
    },
    Notice(Notice),
    /// The connection ends with this error (57P01 and kin).
    Terminate(Error),
}

/// The settings that decide how values print.
#[derive(Debug, Clone)]
pub struct OutputFormat {
    /// `TimeZone`: timestamptz prints in it.
    pub time_zone: jiff::tz::TimeZone,
}

impl Default for OutputFormat {
    fn default() -> Self {
        Self { time_zone: jiff::tz::TimeZone::UTC }
    }
}
