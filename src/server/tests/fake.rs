//! Sessions that answer a handful of made-up statements, so that the wire is tested without an engine behind it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, stream};
use millstream_catalog::SqlType;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::server::Server;
use crate::session::api::{
    ClientInfo, CopyChunk, CopyIn, CopyOut, CopyPiece, Description, Notice, OutOfBand, OutputFormat, Parameter,
    Prepared, Response, RowSet, RowsTag, Sessions, SqlSession, TransactionStatus,
};

/// Counts what the tests look at from outside.
#[derive(Default)]
pub struct Seen {
    /// Row streams that were made and are not dropped yet.
    pub open_streams: AtomicUsize,
    /// Batches that were pulled from `numbers`.
    pub batches: AtomicUsize,
    /// Statements that saw their token fire while they ran.
    pub cancelled: AtomicUsize,
    pub sessions: AtomicUsize,
    pub closed: AtomicUsize,
}

#[derive(Default)]
pub struct FakeSessions {
    pub seen: Arc<Seen>,
}

impl Sessions for FakeSessions {
    type Session = FakeSession;

    async fn open(&self, client: ClientInfo) -> Result<FakeSession> {
        if client.database == "nowhere" {
            return Err(Error::new("3D000", "database \"nowhere\" does not exist"));
        }
        self.seen.sessions.fetch_add(1, Ordering::SeqCst);
        let (outbox, receiver) = mpsc::channel(16);
        Ok(FakeSession {
            seen: self.seen.clone(),
            client,
            status: TransactionStatus::Idle,
            notices: Vec::new(),
            changes: vec![("TimeZone".into(), "Etc/UTC".into())],
            timeout: None,
            outbox,
            receiver: Some(receiver),
            blocks: 0,
            copy_limit: 0,
            prepared: HashMap::new(),
        })
    }

    async fn close(&self) -> Result<()> {
        self.seen.closed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

pub struct FakeSession {
    seen: Arc<Seen>,
    client: ClientInfo,
    status: TransactionStatus,
    notices: Vec<Notice>,
    changes: Vec<(String, String)>,
    timeout: Option<Duration>,
    outbox: mpsc::Sender<OutOfBand>,
    receiver: Option<mpsc::Receiver<OutOfBand>>,
    blocks: usize,
    copy_limit: usize,
    prepared: HashMap<String, Prepared<String>>,
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.seen.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SqlSession for FakeSession {
    type Statement = String;

    fn parse(&mut self, sql: &str) -> Result<Vec<String>> {
        if let Some(at) = sql.find("oops") {
            return Err(Error::new("42601", "syntax error at or near \"oops\"")
                .with_position(at + 1)
                .with_hint("do not"));
        }
        Ok(sql.split(';').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect())
    }

    async fn describe(&mut self, statement: &String, _: &[u32]) -> Result<Description> {
        let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        Ok(match verb {
            // echo T, T, …: takes parameters of these types and returns them.
            "echo" => {
                let parameters: Vec<SqlType> = rest.split(", ").map(|t| SqlType::parse(t).unwrap()).collect();
                Description { columns: Some(echo_schema(&parameters)), parameters }
            }
            "numbers" | "hang" | "fail_after" => Description { parameters: vec![], columns: Some(numbers_schema()) },
            "unknown" => return Err(Error::new("42P01", "relation \"unknown\" does not exist").with_position(1)),
            _ => Description::default(),
        })
    }

    async fn execute(
        &mut self,
        statement: &String,
        parameters: &[Parameter],
        cancel: CancellationToken,
    ) -> Result<Response> {
        let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        if self.status == TransactionStatus::Failed && verb != "rollback" {
            return Err(Error::new("25P02", "current transaction is aborted"));
        }
        Ok(match verb {
            "echo" => {
                let types: Vec<SqlType> = rest.split(", ").map(|t| SqlType::parse(t).unwrap()).collect();
                let schema = echo_schema(&types);
                let columns = parameters.iter().map(|p| p.value.to_array().unwrap()).collect();
                let batch = RecordBatch::try_new(schema.clone(), columns)?;
                self.rows(schema, stream::iter([Ok(batch)]))
            }
            "numbers" => {
                let seen = self.seen.clone();
                let counted = numbers(rest.parse().unwrap()).inspect(move |_| {
                    seen.batches.fetch_add(1, Ordering::SeqCst);
                });
                self.rows(numbers_schema(), counted)
            }
            // A few rows, then silence.
            "hang" => self.rows(numbers_schema(), numbers(3).chain(stream::pending())),
            "fail_after" => {
                let error = Error::new("22012", "division by zero");
                self.rows(numbers_schema(), numbers(3).chain(stream::iter([Err(DataFusionError::from(error))])))
            }
            "sleep" => {
                tokio::select! {
                    () = cancel.cancelled() => {
                        self.seen.cancelled.fetch_add(1, Ordering::SeqCst);
                        return Err(Error::new("57014", "cancelled by the session"));
                    }
                    () = tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())) => {}
                }
                Response::Complete { tag: "SLEEP".into() }
            }
            "begin" | "commit" | "rollback" | "START" | "COMMIT" => {
                self.status = if matches!(verb, "begin" | "START") {
                    TransactionStatus::InTransaction
                } else {
                    TransactionStatus::Idle
                };
                Response::Complete { tag: verb.to_uppercase() }
            }
            "fail" => return Err(Error::new("22023", "failed").with_detail("as asked").with_position(6)),
            "notice" => {
                self.notices.push(Notice::warning("look out").with_hint("or not"));
                Response::Complete { tag: "NOTICE".into() }
            }
            "notify" => {
                let event = OutOfBand::Notification { process_id: 7, channel: "c".into(), payload: rest.into() };
                self.outbox.send(event).await.unwrap();
                Response::Complete { tag: "NOTIFY".into() }
            }
            "set_timeout" => {
                self.timeout = Some(Duration::from_millis(rest.parse().unwrap()));
                self.changes.push(("application_name".into(), "changed".into()));
                Response::Complete { tag: "SET".into() }
            }
            "blocks" => Response::Complete { tag: format!("BLOCKS {}", self.blocks) },
            "whoami" => {
                let schema = Arc::new(Schema::new(vec![SqlType::Text.field("who", true)]));
                let settings = &self.client.settings;
                let text = format!("{}@{} {settings:?}", self.client.user, self.client.database);
                let column: ArrayRef = Arc::new(StringViewArray::from(vec![text]));
                let batch = RecordBatch::try_new(schema.clone(), vec![column])?;
                self.rows(schema, stream::iter([Ok(batch)]))
            }
            "deallocate" => {
                self.prepared(rest)?;
                self.forget_prepared(rest);
                Response::Complete { tag: "DEALLOCATE".into() }
            }
            "copy_out" => Response::CopyOut(CopyOut {
                columns: 2,
                binary: false,
                live: false,
                stream: stream::iter((0..3).map(|i| {
                    let bytes = Bytes::from(format!("{i}\ttext\n"));
                    Ok(CopyPiece { ends: vec![bytes.len()], bytes, rows: 1 })
                }))
                .boxed(),
            }),
            "copy_in" => {
                self.copy_limit = rest.parse().unwrap();
                Response::CopyIn(CopyIn { columns: 2, binary: None })
            }
            "panic" => panic!("as asked"),
            _ => Response::Complete { tag: format!("{} {}", verb.to_uppercase(), parameters.len()) },
        })
    }

    fn prepare(&mut self, name: &str, prepared: Prepared<String>) -> Result<()> {
        if !name.is_empty() && self.prepared.contains_key(name) {
            return Err(Error::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.prepared.insert(name.into(), prepared);
        Ok(())
    }

    fn prepared(&self, name: &str) -> Result<Prepared<String>> {
        let missing = || Error::new("26000", format!("prepared statement \"{name}\" does not exist"));
        self.prepared.get(name).cloned().ok_or_else(missing)
    }

    fn forget_prepared(&mut self, name: &str) {
        self.prepared.remove(name);
    }

    async fn copy_in(&mut self, mut chunks: mpsc::Receiver<CopyChunk>) -> Result<String> {
        let mut bytes = 0;
        while let Some(chunk) = chunks.recv().await {
            match chunk {
                CopyChunk::Data(data) => bytes += data.len(),
                CopyChunk::Rows(batch) => bytes += batch.num_rows(),
                CopyChunk::Done => return Ok(format!("COPY {bytes}")),
                CopyChunk::Failed(reason) => return Err(Error::new("57014", reason)),
            }
            if bytes > self.copy_limit {
                return Err(Error::new("22P04", "too much data"));
            }
        }
        Err(Error::internal("the data did not end"))
    }

    fn begin_implicit_block(&mut self) {
        self.blocks += 1;
    }

    fn fail(&mut self, _: &Error) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }

    fn time_zone(&self) -> &str {
        "UTC"
    }

    fn format(&self) -> OutputFormat {
        OutputFormat::default()
    }

    fn statement_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn take_outbox(&mut self) -> Option<mpsc::Receiver<OutOfBand>> {
        self.receiver.take()
    }
}

impl FakeSession {
    fn rows<T>(&self, schema: SchemaRef, batches: T) -> Response
    where
        T: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    {
        self.seen.open_streams.fetch_add(1, Ordering::SeqCst);
        let guard = StreamGuard(self.seen.clone());
        let batches = batches.inspect(move |_| {
            let _kept_as_long_as_the_stream = &guard;
        });
        let stream: SendableRecordBatchStream =
            Box::pin(RecordBatchStreamAdapter::new(schema.clone(), Box::pin(batches)));
        Response::Rows(RowSet::new(schema, stream, RowsTag::select()))
    }
}

struct StreamGuard(Arc<Seen>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.open_streams.fetch_sub(1, Ordering::SeqCst);
    }
}

fn echo_schema(types: &[SqlType]) -> SchemaRef {
    Arc::new(Schema::new(
        types.iter().enumerate().map(|(i, t)| t.field(format!("c{}", i + 1), true)).collect::<Vec<_>>(),
    ))
}

fn numbers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![SqlType::Int8.field("n", false), SqlType::Text.field("t", true)]))
}

/// `n` rows in batches of 4096.
fn numbers(n: i64) -> impl Stream<Item = Result<RecordBatch, DataFusionError>> {
    stream::iter((0..n).step_by(4096)).map(move |from| {
        let numbers = from..n.min(from + 4096);
        let texts = StringViewArray::from_iter_values(numbers.clone().map(|i| format!("row {i}")));
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(numbers)), Arc::new(texts)];
        Ok(RecordBatch::try_new(numbers_schema(), columns)?)
    })
}

/// A server over fake sessions on free ports.
pub struct Running {
    pub seen: Arc<Seen>,
    pub sql: std::net::SocketAddr,
    pub http: std::net::SocketAddr,
    pub shutdown: CancellationToken,
    pub task: tokio::task::JoinHandle<Result<()>>,
}

impl Running {
    pub async fn start() -> Self {
        Self::with(&[], std::future::ready(())).await
    }

    /// With settings, and an engine that opens when `opened` resolves.
    pub async fn with(settings: &[(&str, &str)], opened: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut all = vec![("listen", "127.0.0.1:0"), ("http", "127.0.0.1:0")];
        all.extend(settings);
        let server = Server::bind(&Config::with(&all).unwrap()).await.unwrap();
        let (sql, http) = (server.sql_address().unwrap(), server.http_address().unwrap());
        let sessions = Arc::new(FakeSessions::default());
        let seen = sessions.seen.clone();
        let shutdown = CancellationToken::new();
        let open = async move {
            opened.await;
            Ok(sessions)
        };
        let task = tokio::spawn(server.serve(open, shutdown.clone()));
        Self { seen, sql, http, shutdown, task }
    }

    /// A tokio-postgres client.
    pub async fn client(&self) -> tokio_postgres::Client {
        self.connect("user=tester dbname=millstream").await.unwrap()
    }

    pub async fn connect(&self, parameters: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        Ok(self.connect_with_task(parameters).await?.0)
    }

    /// A client, and the task that owns its socket.
    pub async fn connect_with_task(
        &self,
        parameters: &str,
    ) -> Result<(tokio_postgres::Client, tokio::task::JoinHandle<()>), tokio_postgres::Error> {
        let address = format!("host=127.0.0.1 port={} {parameters}", self.sql.port());
        let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await?;
        // Its errors reach the client's calls too.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok((client, task))
    }

    /// A socket that has sent nothing yet.
    pub async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.sql).await.unwrap()
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        for _ in 0..500 {
            if holds(&self.seen) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 5 s: {what}");
    }
}
