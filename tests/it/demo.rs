//! `millstream demo` as a user runs it: what was planted is found, the ledger's breaks are exact, and it stops in order.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::client::Session;
use crate::kafka;
use crate::process::{free_port, http_get, signal, spawn, wait_for};

/// A mule takes a minute or two to get all its money, and the machine may be busy.
const FOUND_LIMIT: Duration = Duration::from_secs(300);
const END_LIMIT: Duration = Duration::from_secs(60);

/// A `millstream demo` process; killed when dropped.
struct Demo {
    dir: TempDir,
    port: u16,
    http: u16,
    child: Option<Child>,
}

impl Demo {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("millstream-it-").tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("tmp")).expect("a directory");
        Demo { dir, port: free_port(), http: free_port(), child: None }
    }

    fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    fn kept(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out.log")).unwrap_or_default()
    }

    /// Starts it, with more frauds a minute than a user would see, and connects when it is ready.
    async fn start(&mut self, flags: &[&str]) -> Session {
        let path = self.dir.path().join("out.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["demo", "--rate", "200", "--fraud-every", "150"]).args(flags);
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--http").arg(format!("127.0.0.1:{}", self.http));
        command.env("TMPDIR", self.tmp()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let mut child = spawn(command).expect("the binary starts");
        wait_for("the demo's /readyz", END_LIMIT, Duration::from_millis(20), || {
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "the demo ended while starting ({ended:?}):\n{}", self.output());
            match http_get(self.http, "/readyz")? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status}: {body}")),
            }
        });
        self.child = Some(child);
        let address = format!("host=127.0.0.1 port={} user=millstream dbname=millstream", self.port);
        Session::connect(&address).await.expect("a connection")
    }

    /// Sends a signal and waits for the end.
    fn stop(&mut self, with: i32) -> ExitStatus {
        let mut child = self.child.take().expect("the demo runs");
        signal(&child, with);
        wait_for("the demo's end", END_LIMIT, Duration::from_millis(10), || {
            child.try_wait().expect("a child of ours").ok_or_else(|| self.output())
        })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the demo said:\n{}", self.output());
        }
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}

/// The reconciliation gives the planted breaks of all books that are closed now, and nothing else.
async fn breaks_are_exact(session: &Session) {
    let last = session.value("SELECT max(last_txn_id) FROM books").await;
    let found = session.rows(&format!("SELECT txn_id, break FROM reconciliation WHERE txn_id <= {last}")).await;
    let planted = session.rows(&format!("SELECT txn_id, break FROM planted_breaks WHERE txn_id <= {last}")).await;
    assert!(!planted.is_empty(), "no break was planted up to payment {last}");
    assert_eq!(found, planted);
    let cents = "SELECT txn_id, ((booked - paid) * 100)::BIGINT FROM reconciliation WHERE break = 'amount'";
    let found = session.rows(&format!("{cents} AND txn_id <= {last}")).await;
    let planted = "SELECT txn_id, cents FROM planted_breaks WHERE break = 'amount'";
    assert_eq!(found, session.rows(&format!("{planted} AND txn_id <= {last}")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_planted_is_found() {
    let mut demo = Demo::new();
    let session = demo.start(&[]).await;
    session.eventually("SELECT kind FROM fraud_check WHERE found = 0", FOUND_LIMIT, &[]).await;
    // Whatever is complete is found a moment later, and honest cards are left alone.
    session.eventually("SELECT * FROM fraud_check WHERE found < planted", FOUND_LIMIT, &[]).await;
    session.eventually("SELECT kind FROM fraud_check WHERE precision IS NULL", FOUND_LIMIT, &[]).await;
    assert_eq!(session.rows("SELECT * FROM fraud_check WHERE false_alarms > 0").await, [""; 0]);
    session
        .eventually("SELECT count(*) > 0 FROM planted_breaks p JOIN books b ON b.book = p.book", FOUND_LIMIT, &["t"])
        .await;
    breaks_are_exact(&session).await;
    session
        .eventually(
            "SELECT acknowledged_sequence > 0 FROM millstream.sinks WHERE name = 'alert_log'",
            FOUND_LIMIT,
            &["t"],
        )
        .await;

    assert_eq!(entries(&demo.tmp()).len(), 1, "the demo's directory: {:?}", entries(&demo.tmp()));
    let status = demo.stop(libc::SIGINT);
    assert!(status.success(), "exit status after SIGINT: {status}\n{}", demo.output());
    let left = entries(&demo.tmp());
    assert!(left.is_empty(), "left behind: {left:?}");
    let said = demo.output();
    for part in [&format!("psql -h 127.0.0.1 -p {}", demo.port), "mock broker", "found of planted:"] {
        assert!(said.contains(part), "not said: {part}\n{said}");
    }
}

/// With a real broker and a directory the numbering goes on, after an orderly stop and after a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_second_start_continues() {
    let mut demo = Demo::new();
    let dir = demo.kept().display().to_string();
    let flags = ["--kafka", kafka::bootstrap(), "--data-dir", dir.as_str()];
    let (mut last_before, mut books_before) = (0, 0);
    for end in [libc::SIGTERM, libc::SIGKILL, libc::SIGINT] {
        let session = demo.start(&flags).await;
        let newer = format!(
            "SELECT count(*) > 0 FROM planted_breaks p JOIN books b ON b.book = p.book \
             WHERE b.book > {books_before} AND b.last_txn_id > {last_before}"
        );
        session.eventually(&newer, FOUND_LIMIT, &["t"]).await;
        breaks_are_exact(&session).await;
        let ids = session.run("SELECT count(*) - count(DISTINCT txn_id), min(txn_id), max(txn_id) FROM paid").await;
        let ids: Vec<i64> = ids.rows[0].iter().flatten().map(|id| id.parse().expect("a number")).collect();
        assert_eq!(ids[..2], [0, 1], "payments twice, and the first one");
        assert!(ids[2] > last_before, "{ids:?} after {last_before}");
        last_before = ids[2];
        books_before = session.value("SELECT max(book) FROM books").await.parse().expect("a number");
        drop(session);
        let status = demo.stop(end);
        assert!(end == libc::SIGKILL || status.success(), "exit status {status} after signal {end}\n{}", demo.output());
    }
    assert!(demo.output().contains("continues where the last demo stopped"), "{}", demo.output());
    assert!(demo.kept().join("ledger").is_dir(), "the directory is kept");
}
