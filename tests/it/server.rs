//! The real binary on free ports and a directory of its own: started, killed, started again, and spoken to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{Failure, Session};
use crate::process::{free_port, http_get, signal, spawn, wait_for};

/// Longest time that a start may take, recovery included, on a machine that compiles at the same time.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A `millstream serve` process. Killed, and its directory removed, when dropped.
pub struct Server {
    dir: TempDir,
    port: u16,
    http: u16,
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server on an empty directory and waits until it is ready.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with environment settings, such as `("MILLSTREAM__STATE__BLOCK_CACHE_BYTES", "1048576")`.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("millstream-it-").tempdir().expect("a temporary directory");
        let settings = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut server = Server { dir, port: free_port(), http: free_port(), settings, child: None };
        server.restart();
        server
    }

    /// The directory of this server's data, log and whatever a test puts there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// The port for PostgreSQL clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// The port of the HTTP listener.
    pub fn http_port(&self) -> u16 {
        self.http
    }

    /// The command line of `serve` with this server's directory and ports.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("serve").arg("--data-dir").arg(self.data_dir());
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--http").arg(format!("127.0.0.1:{}", self.http));
        command.env("MILLSTREAM_FAILPOINTS", self.fail_points());
        command.envs(self.settings.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Starts the process on the same directory and ports and waits for `/readyz`; returns how long that took.
    pub fn restart(&mut self) -> Duration {
        let start = Instant::now();
        self.launch();
        wait_for("the server's /readyz", READY_LIMIT, Duration::from_millis(5), || {
            let ended = self.child.as_mut().expect("just set").try_wait().expect("a child of ours");
            assert!(ended.is_none(), "the server ended while starting ({ended:?}):\n{}", self.log());
            match http_get(self.http, "/readyz")? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status}: {body}")),
            }
        });
        start.elapsed()
    }

    /// Starts the process and does not wait.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = self.command();
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(spawn(command).expect("the binary starts"));
    }

    /// Arms a fail point of the server, running or not: `full`, `full N`, `panic` or `abort PROBABILITY SEED`.
    pub fn arm(&self, fail_point: &str, action: &str) {
        let directory = self.fail_points();
        std::fs::create_dir_all(&directory).expect("a directory");
        // Never seen half written.
        let draft = directory.join("draft");
        std::fs::write(&draft, action).expect("a file");
        std::fs::rename(draft, directory.join(fail_point)).expect("a file");
    }

    /// Whether a fail point is armed; one that counts is not any more once it has fired often enough.
    pub fn is_armed(&self, fail_point: &str) -> bool {
        self.fail_points().join(fail_point).exists()
    }

    /// Disarms all fail points.
    pub fn disarm(&self) {
        match std::fs::remove_dir_all(self.fail_points()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("fail points stay armed: {error}"),
            _ => {}
        }
    }

    fn fail_points(&self) -> PathBuf {
        self.dir().join("failpoints")
    }

    /// Whether the process ends by itself within that time.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < limit {
            if !self.is_running() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }

    /// SIGTERM, and waits for the orderly end.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(self.child.as_ref().expect("the server runs"), libc::SIGTERM);
        self.wait()
    }

    /// Waits until the process has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        wait_for("the server's orderly end", Duration::from_secs(30), Duration::from_millis(5), || {
            child.try_wait().expect("a child of ours").ok_or_else(|| self.log())
        })
    }

    /// Starts another process on the same directory, on ports of its own, and waits for its end.
    pub fn second_process(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("serve").arg("--data-dir").arg(self.data_dir());
        command.arg("--listen").arg(format!("127.0.0.1:{}", free_port()));
        command.arg("--http").arg(format!("127.0.0.1:{}", free_port()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command).expect("the binary starts");
        wait_for("the second server's refusal", Duration::from_secs(20), Duration::from_millis(10), || {
            child.try_wait().expect("a child of ours").ok_or_else(|| "it runs".to_string())
        });
        child.wait_with_output().expect("a child of ours")
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("a child of ours").is_none())
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("kibibytes");
        kib * 1024
    }

    /// What the server has logged so far, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir().join("server.log")
    }

    /// A new connection; panics if there is none to be had.
    pub async fn connect(&self) -> Session {
        self.try_connect().await.unwrap_or_else(|error| panic!("cannot connect: {error}\n{}", self.log()))
    }

    /// A new connection.
    pub async fn try_connect(&self) -> Result<Session, Failure> {
        Session::connect(&self.connection_string()).await
    }

    /// How to connect, in libpq's words.
    pub fn connection_string(&self) -> String {
        format!("host=127.0.0.1 port={} user=millstream dbname=millstream", self.port)
    }

    /// Runs `psql` with the given script on standard input: unaligned output, errors on the same stream.
    pub fn psql(&self, script: &str) -> String {
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-q", "-h", "127.0.0.1", "-U", "millstream", "-d", "millstream", "-f", "-"]);
        command.args(["-v", "VERBOSITY=verbose"]).arg("-p").arg(self.port.to_string());
        let file = self.dir().join("script.sql");
        std::fs::write(&file, script).expect("a script file");
        command.stdin(std::fs::File::open(&file).expect("a script file"));
        let output = command.output().expect("psql runs");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the server's log, its end:");
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.kill();
    }
}
