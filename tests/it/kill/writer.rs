//! Clients that go on writing to tables while the server is killed, and remember what was acknowledged.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::client::Session;

/// Rows that one message of [`Writer::insert`] makes: all of them or none.
pub const ROWS_PER_STATEMENT: usize = 3;

/// Numbers of statements by what the client was told.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub acknowledged: BTreeSet<u64>,
    /// The connection broke before an answer came: done or not done, but not half.
    pub unknown: BTreeSet<u64>,
}

/// A client that runs statement after statement, over a new connection whenever the old one breaks.
pub struct Writer {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Inserts rows `(statement, account, amount)` into `ledger`: by one statement, or by several in a transaction.
    pub fn insert(config: String) -> Self {
        Self::start(config, |n| {
            let row = |k: usize| format!("({n}, {}, {}.50)", (n + k as u64) % 7, n % 100);
            let rows: Vec<String> = (0..ROWS_PER_STATEMENT).map(row).collect();
            match n % 2 {
                0 => format!("INSERT INTO ledger VALUES {}", rows.join(", ")),
                _ => format!("INSERT INTO ledger VALUES {}", rows.join("; INSERT INTO ledger VALUES ")),
            }
        })
    }

    /// Adds one to the only row of `counter`; several of these writers compete.
    pub fn count(config: String) -> Self {
        Self::start(config, |_| "UPDATE counter SET n = n + 1".to_string())
    }

    /// Changes the accounts that payments are joined with.
    pub fn restate(config: String) -> Self {
        Self::start(config, |n| format!("UPDATE accounts SET risk = risk + 1 WHERE id = {}", n * 13 % 50))
    }

    fn start(config: String, statement: impl Fn(u64) -> String + Send + Sync + 'static) -> Self {
        let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(write(config, statement, ledger.clone(), stop.clone()));
        Writer { ledger, stop, task }
    }

    /// Ends the client after its current statement and gives what it knows.
    pub fn finish(self) -> impl Future<Output = Ledger> {
        self.stop.store(true, Ordering::SeqCst);
        async move {
            self.task.await.expect("the writer does not panic");
            Arc::try_unwrap(self.ledger).expect("the writer is gone").into_inner().expect("no holder panics")
        }
    }
}

async fn write(config: String, statement: impl Fn(u64) -> String, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) {
    let mut session: Option<Session> = None;
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let Some(connected) = &session else {
            session = Session::connect(&config).await.ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        n += 1;
        let result = connected.try_run(&statement(n)).await;
        let mut ledger = ledger.lock().expect("no holder panics");
        match result {
            Ok(outcome) => {
                assert!(outcome.affected > 0, "statement {n} changed no row");
                ledger.acknowledged.insert(n);
            }
            // 57P01 to 57P03: the server is going or coming; without SQLSTATE: the connection broke.
            Err(failure) if failure.sqlstate.as_deref().is_none_or(|code| code.starts_with("57P")) => {
                ledger.unknown.insert(n);
                session = None;
            }
            Err(failure) => panic!("statement {n}: {failure}"),
        }
    }
}
