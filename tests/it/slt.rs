//! Runs every `sqllogictest/**/*.slt` over the wire, each file on a server of its own.
//!
//! The files in `sqllogictest/postgres/` hold for PostgreSQL as well and are also run there, so that their expectations
//! are facts and not our opinion: a continuous view must hold what a plain view of PostgreSQL shows.
//!
//! Values are the server's text over the simple protocol; an error prints as `SQLSTATE: message DETAIL: … HINT: …` and is
//! matched by regular expression. Beside SQL a statement may be one of the commands below. `$KAFKA` stands for the
//! broker's address, `$DIR` for the file's directory.
//!
//! ```text
//! \restart                     end the server in good order and start it again
//! \kill                        the same with SIGKILL
//! \topic NAME PARTITIONS       make a Kafka topic
//! \produce NAME PARTITION      send the following lines, one message each
//! ```
//!
//! `MILLSTREAM_SLT=part-of-name` picks files, `MILLSTREAM_SLT_COMPLETE=1` writes the server's answers into them.

use std::panic::RefUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, MakeConnection, Record, Runner, default_column_validator, default_normalizer,
    default_validator, parse_file,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::client::{Failure, Session};
use crate::kafka;
use crate::postgres::Postgres;
use crate::server::Server;

/// What a file runs on.
#[derive(Clone)]
enum Backend {
    Millstream(Arc<AsyncMutex<Server>>),
    /// How to connect to a database that is the file's own.
    Postgres(String),
}

/// One connection of a file's script; all connections of the file share its backend.
struct Connection {
    backend: Backend,
    session: Session,
}

impl Connection {
    async fn open(backend: Backend) -> Result<Self, Failure> {
        let session = match &backend {
            Backend::Millstream(server) => server.lock().await.try_connect().await?,
            Backend::Postgres(config) => Session::connect(config).await?,
        };
        Ok(Connection { backend, session })
    }

    /// The server of a file that uses what PostgreSQL does not have.
    fn server(&self) -> Result<Arc<AsyncMutex<Server>>, Failure> {
        match &self.backend {
            Backend::Millstream(server) => Ok(server.clone()),
            Backend::Postgres(_) => Err(failure("this command is not for files that run on PostgreSQL too".into())),
        }
    }

    /// Carries out a `\command`.
    async fn command(&mut self, text: &str) -> Result<(), Failure> {
        let (head, lines) = text.split_once('\n').unwrap_or((text, ""));
        match head.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["\\restart"] => {
                let server = self.server()?;
                let mut server = server.lock().await;
                let status = server.terminate();
                if !status.success() {
                    return Err(failure(format!("the server ended with {status} on SIGTERM")));
                }
                server.restart();
                self.session = server.try_connect().await?;
            }
            ["\\kill"] => {
                let server = self.server()?;
                let mut server = server.lock().await;
                server.kill();
                server.restart();
                self.session = server.try_connect().await?;
            }
            ["\\topic", name, partitions] => {
                let partitions = partitions.parse().map_err(|_| failure(format!("not a number: {partitions}")))?;
                kafka::create_topic(name, partitions);
            }
            ["\\produce", name, partition] => {
                let partition = partition.parse().map_err(|_| failure(format!("not a number: {partition}")))?;
                kafka::produce(name, partition, &lines.lines().collect::<Vec<_>>());
            }
            _ => return Err(failure(format!("no such command: {head}"))),
        }
        Ok(())
    }
}

fn failure(message: String) -> Failure {
    Failure { sqlstate: None, message, detail: None, hint: None, context: None }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        if sql.starts_with('\\') {
            self.command(sql).await?;
            return Ok(DBOutput::StatementComplete(0));
        }
        let mut sql = sql.to_string();
        if sql.contains("$DIR") {
            sql = sql.replace("$DIR", &self.server()?.lock().await.dir().display().to_string());
        }
        if sql.contains("$KAFKA") {
            sql = sql.replace("$KAFKA", kafka::bootstrap());
        }
        if let Backend::Postgres(_) = self.backend {
            sql = sql.replace("CREATE MATERIALIZED VIEW", "CREATE VIEW");
        }
        let outcome = self.session.try_run(&sql).await?;
        let Some(columns) = outcome.columns else {
            return Ok(DBOutput::StatementComplete(outcome.affected));
        };
        let cell = |value: Option<String>| match value {
            None => "NULL".to_string(),
            Some(text) if text.is_empty() => "(empty)".to_string(),
            Some(text) => text.replace('\n', "\\n"),
        };
        Ok(DBOutput::Rows {
            types: vec![DefaultColumnType::Any; columns.len()],
            rows: outcome.rows.into_iter().map(|row| row.into_iter().map(cell).collect()).collect(),
        })
    }

    async fn shutdown(&mut self) {}

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn error_sql_state(error: &Failure) -> Option<String> {
        error.sqlstate.clone()
    }
}

/// All files below `sqllogictest/`, sorted.
pub fn files() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("the directory sqllogictest").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "slt") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sqllogictest"), &mut found);
    let part = std::env::var("MILLSTREAM_SLT").unwrap_or_default();
    found.retain(|path| path.to_string_lossy().contains(&part));
    found.sort();
    found
}

/// Runs all records of a file and gives all that failed, not only the first.
async fn run_records<M>(runner: &mut Runner<Connection, M>, path: &Path) -> Result<(), String>
where
    M: MakeConnection<Conn = Connection>,
{
    let mut failures = Vec::new();
    for record in parse_file(path).map_err(|error| error.to_string())? {
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        if let Err(error) = runner.run_async(record).await {
            failures.push(error.display(false).to_string());
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn run_with<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Runs one file on a new server; the error tells the places in it.
fn run_file(path: &Path, complete: bool) -> Result<(), String> {
    run_with(async {
        let server = Arc::new(AsyncMutex::new(Server::start()));
        let backend = Backend::Millstream(server.clone());
        let mut runner = Runner::new(|| Connection::open(backend.clone()));
        let result = if complete {
            let update =
                runner.update_test_file(path, " ", default_validator, default_normalizer, default_column_validator);
            update.await.map_err(|error| error.to_string())
        } else {
            run_records(&mut runner, path).await
        };
        if server.lock().await.is_running() {
            return result;
        }
        let log = server.lock().await.log();
        let end: Vec<&str> = log.lines().rev().take(30).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        Err(format!("the server is gone: {result:?}\n{}", end.join("\n")))
    })
}

/// Runs the files with `run` on two threads, and panics with all failures.
fn run_all(files: Vec<PathBuf>, run: impl Fn(&Path) -> Result<(), String> + Sync + RefUnwindSafe) {
    let total = files.len();
    assert!(total > 0, "no file matches");
    let (queue, failures) = (Mutex::new(files), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(path) = queue.lock().expect("no holder panics").pop() else { return };
                    let shown = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&path).display().to_string();
                    let result = std::panic::catch_unwind(|| run(&path));
                    let result = result.unwrap_or_else(|_| Err("panicked, see above".to_string()));
                    eprintln!("{}  {shown}", if result.is_ok() { "ok    " } else { "FAILED" });
                    if let Err(error) = result {
                        failures.lock().expect("no holder panics").push(format!("{shown}:\n{error}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no holder panics");
    assert!(failures.is_empty(), "{} of {total} files failed\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn slt_files() {
    let complete = std::env::var("MILLSTREAM_SLT_COMPLETE").is_ok_and(|value| !value.is_empty());
    run_all(files(), |path| run_file(path, complete));
}

#[test]
fn postgres_agrees() {
    let part = std::env::var("MILLSTREAM_SLT").unwrap_or_default();
    let mut files = files();
    files.retain(|path| path.to_string_lossy().contains("/sqllogictest/postgres/"));
    if files.is_empty() && !part.is_empty() {
        return;
    }
    let postgres = Postgres::start();
    run_all(files, |path| {
        run_with(async {
            let database = format!("slt_{}", path.file_stem().expect("a file").to_string_lossy());
            let backend = Backend::Postgres(postgres.create_database(&database).await);
            run_records(&mut Runner::new(|| Connection::open(backend.clone())), path).await
        })
    });
}
