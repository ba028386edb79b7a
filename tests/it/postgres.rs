//! A private PostgreSQL from the system's package: the second oracle.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::client::Session;
use crate::process::{free_port, signal, spawn, wait_for};

/// Uid and gid of `nobody`; PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

/// A PostgreSQL server on a loopback port and a directory of its own; gone when dropped.
pub struct Postgres {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Postgres {
    /// Makes a cluster (bytewise collation, UTF-8, UTC) and starts it.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("millstream-pg-").tempdir().expect("a temporary directory");
        if is_root() {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("root may give its files away");
        }
        let data = dir.path().join("data");
        let mut init = command("initdb");
        init.args(["--no-sync", "--no-instructions", "--auth=trust", "--lc-collate=C", "--lc-ctype=C.UTF-8"]);
        init.args(["--lc-messages=C", "--encoding=UTF8"]);
        init.arg("--username=millstream").arg("-D").arg(&data).current_dir(dir.path());
        let output = init.output().expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));

        let port = free_port();
        let log = std::fs::File::create(dir.path().join("log")).expect("a log file");
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(dir.path()).arg("-p").arg(port.to_string()).current_dir(dir.path());
        for setting in ["listen_addresses=127.0.0.1", "fsync=off", "timezone=UTC", "shared_buffers=16MB", "jit=off"] {
            server.arg("-c").arg(setting);
        }
        server.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let mut child = spawn(server).expect("postgres starts");
        wait_for("PostgreSQL", Duration::from_secs(60), Duration::from_millis(20), || {
            let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "PostgreSQL ended while starting:\n{}", log());
            if log().contains("ready to accept connections") { Ok(()) } else { Err(log()) }
        });
        Postgres { dir, port, child }
    }

    /// A new connection.
    pub async fn connect(&self) -> Session {
        let config = self.connection_string("postgres");
        Session::connect(&config).await.unwrap_or_else(|error| panic!("{error} ({})", self.dir.path().display()))
    }

    /// Makes a database; gives how to connect to it, in libpq's words.
    pub async fn create_database(&self, name: &str) -> String {
        self.connect().await.run(&format!("CREATE DATABASE {name}")).await;
        self.connection_string(name)
    }

    fn connection_string(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=millstream dbname={database}", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // "Immediate shutdown": unlike SIGKILL it also ends the server's own children.
        signal(&self.child, libc::SIGQUIT);
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A program of PostgreSQL's server package, run as `nobody` if we are root.
fn command(program: &str) -> Command {
    let mut candidates: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(program))
        .filter(|path| path.exists())
        .collect();
    candidates.sort();
    let mut command = Command::new(candidates.pop().unwrap_or_else(|| PathBuf::from(program)));
    if is_root() {
        use std::os::unix::process::CommandExt;
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The harness itself: PostgreSQL starts, answers, and reports errors by SQLSTATE.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn starts_and_answers() {
    let postgres = Postgres::start();
    let session = postgres.connect().await;
    assert_eq!(session.rows("SELECT 1 + 1, NULL, 'x'").await, ["2|∅|x"]);
    assert_eq!(session.error("SELECT 1/0").await.sqlstate.as_deref(), Some("22012"));
}
