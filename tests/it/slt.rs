//! Runs every `sqllogictest/**/*.slt` over the wire, each file on a server of its own.
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
use crate::server::Server;

/// One connection of a file's script; all connections of the file share its server.
struct Connection {
    server: Arc<AsyncMutex<Server>>,
    session: Session,
}

impl Connection {
    async fn open(server: Arc<AsyncMutex<Server>>) -> Result<Self, Failure> {
        let session = server.lock().await.try_connect().await?;
        Ok(Connection { server, session })
    }

    /// Carries out a `\command`.
    async fn command(&mut self, text: &str) -> Result<(), Failure> {
        let (head, lines) = text.split_once('\n').unwrap_or((text, ""));
        match head.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["\\restart"] => {
                let mut server = self.server.lock().await;
                let status = server.terminate();
                if !status.success() {
                    return Err(failure(format!("the server ended with {status} on SIGTERM")));
                }
                server.restart();
                self.session = server.try_connect().await?;
            }
            ["\\kill"] => {
                let mut server = self.server.lock().await;
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
    Failure { sqlstate: None, message, detail: None, hint: None }
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
        let dir = self.server.lock().await.dir().display().to_string();
        let mut sql = sql.replace("$DIR", &dir);
        if sql.contains("$KAFKA") {
            sql = sql.replace("$KAFKA", kafka::bootstrap());
        }
        let outcome = self.session.try_run(&sql).await.map_err(|mut failure| {
            failure.message = failure.message.replace(&dir, "$DIR");
            failure
        })?;
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
fn files() -> Vec<PathBuf> {
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

/// Runs one file; the error tells the places in it.
fn run_file(path: &Path, complete: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let server = Arc::new(AsyncMutex::new(Server::start()));
        let mut runner = Runner::new(|| Connection::open(server.clone()));
        let result = if complete {
            let update =
                runner.update_test_file(path, " ", default_validator, default_normalizer, default_column_validator);
            update.await.map_err(|error| error.to_string())
        } else {
            run_records(&mut runner, path).await
        };
        let running = server.lock().await.is_running();
        match (result, running) {
            (Ok(()), true) => Ok(()),
            (result, true) => result,
            (result, false) => {
                let log = server.lock().await.log();
                let end: Vec<&str> = log.lines().rev().take(30).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                Err(format!("the server is gone: {result:?}\n{}", end.join("\n")))
            }
        }
    })
}

#[test]
fn slt_files() {
    let complete = std::env::var("MILLSTREAM_SLT_COMPLETE").is_ok_and(|value| !value.is_empty());
    let queue = Mutex::new(files());
    let total = queue.lock().expect("no holder panics").len();
    assert!(total > 0, "no file matches");
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(path) = queue.lock().expect("no holder panics").pop() else { return };
                    let shown = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&path).display().to_string();
                    let result = std::panic::catch_unwind(|| run_file(&path, complete));
                    let result = result.unwrap_or_else(|_| Err("panicked, see above".to_string()));
                    match result {
                        Ok(()) => eprintln!("ok      {shown}"),
                        Err(error) => {
                            eprintln!("FAILED  {shown}");
                            failures.lock().expect("no holder panics").push(format!("{shown}:\n{error}"));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no holder panics");
    assert!(failures.is_empty(), "{} of {total} files failed\n\n{}", failures.len(), failures.join("\n\n"));
}
