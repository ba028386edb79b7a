//! The process: start, health, lock, settings, orderly end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::process::{http_get, signal, spawn, wait_for};
use crate::server::Server;

/// Bounds for a test build on a machine that compiles at the same time; the release build's are in the README.
const START_LIMIT: Duration = Duration::from_secs(3);
const IDLE_RESIDENT_BYTES_MAX: u64 = 250 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn start_health_and_end() {
    let mut server = Server::start();
    let port = server.http_port();
    assert_eq!(http_get(port, "/livez").expect("an answer").0, 200);
    let (status, metrics) = http_get(port, "/metrics").expect("an answer");
    assert_eq!(status, 200);
    assert!(metrics.contains("millstream_"), "{metrics}");
    assert_eq!(http_get(port, "/nothing").expect("an answer").0, 404);
    let resident = server.resident_bytes();
    assert!(resident < IDLE_RESIDENT_BYTES_MAX, "{} MiB resident when idle", resident >> 20);

    server.connect().await.run("CREATE TABLE t (a INT); INSERT INTO t VALUES (1)").await;
    assert!(server.terminate().success(), "exit status after SIGTERM: {}", server.log());
    let took = server.restart();
    assert!(took < START_LIMIT, "ready after {took:?}");
    assert_eq!(server.connect().await.rows("SELECT a FROM t").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sigint_finishes_what_runs() {
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (a INT)").await;
    let pid = server.pid();
    // SAFETY: the server is our child and runs.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGINT) };
    let status = server.wait();
    assert!(status.success(), "exit status after SIGINT: {status}");
    server.restart();
    assert_eq!(server.connect().await.rows("SELECT count(*) FROM t").await, ["0"]);
}

/// SIGTERM while clients write: the server ends well, and what it had acknowledged is there afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_keeps_what_was_acknowledged() {
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT PRIMARY KEY, g INT, v INT)").await;
    session.run("CREATE MATERIALIZED VIEW by_g AS SELECT g, count(*) AS n, sum(v) AS s FROM t GROUP BY g").await;
    let mut writers = Vec::new();
    for writer in 0..4_i64 {
        let session = server.connect().await;
        writers.push(tokio::spawn(async move {
            let mut acknowledged = 0;
            loop {
                let from = writer * 1_000_000_000 + acknowledged;
                let rows = format!("SELECT n, n % 10, n % 7 FROM generate_series({from}, {}) AS s (n)", from + 99);
                match session.try_run(&format!("INSERT INTO t {rows}")).await {
                    Ok(_) => acknowledged += 100,
                    Err(_) => return acknowledged,
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = tokio::task::block_in_place(|| server.terminate());
    assert!(status.success(), "exit status after SIGTERM: {status}\n{}", server.log());
    server.restart();
    let session = server.connect().await;
    for (writer, acknowledged) in futures::future::join_all(writers).await.into_iter().enumerate() {
        let acknowledged = acknowledged.expect("no panic");
        let (from, to) = (writer as i64 * 1_000_000_000, (writer as i64 + 1) * 1_000_000_000);
        let kept = session.value(&format!("SELECT count(*) FROM t WHERE id >= {from} AND id < {to}")).await;
        let kept: i64 = kept.parse().expect("a number");
        // The last statement may have been committed without its answer reaching the client.
        assert!(kept == acknowledged || kept == acknowledged + 100, "writer {writer}: {kept} of {acknowledged}");
        assert!(acknowledged > 0);
    }
    let select = "SELECT g, count(*) AS n, sum(v) AS s FROM t GROUP BY g";
    assert_eq!(session.rows("SELECT * FROM by_g").await, session.rows(select).await);
}

/// Flags win over the environment, this over the file, and that over the defaults; `millstream.settings` says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn flags_win_over_environment_over_file_over_defaults() {
    let mut server = Server::start();
    server.terminate();
    let file = server.dir().join("settings.toml");
    std::fs::write(&file, "max_connections = 7\n[epoch]\nmax_rows = 10\nmax_ms = 20\nmax_bytes = '2MiB'\n").unwrap();
    let mut command = server.command();
    command.arg("--config").arg(&file).args(["--set", "epoch.max_bytes=4MiB"]);
    command.env("MILLSTREAM__EPOCH__MAX_MS", "30").env("MILLSTREAM__EPOCH__MAX_BYTES", "3MiB");
    let mut child = spawn(command).expect("the binary starts");
    wait_for("the server's /readyz", Duration::from_secs(60), Duration::from_millis(10), || {
        match http_get(server.http_port(), "/readyz")? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status}: {body}")),
        }
    });
    let session = server.connect().await;
    let settings =
        "SELECT name, value FROM millstream.settings WHERE name = 'max_connections' OR name LIKE 'epoch.max%'";
    assert_eq!(
        session.rows(settings).await,
        ["epoch.max_bytes|4MiB", "epoch.max_ms|30", "epoch.max_rows|10", "max_connections|7"]
    );
    let is_default = |name: &str| format!("SELECT value = \"default\" FROM millstream.settings WHERE name = '{name}'");
    assert_eq!(session.value(&is_default("http")).await, "f");
    assert_eq!(session.value(&is_default("batch.memory_limit_bytes")).await, "t");
    signal(&child, libc::SIGTERM);
    assert!(child.wait().expect("a child of ours").success());
}

/// A second process on the same directory is refused and says which directory; the first one never notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_directory_is_locked() {
    let server = Server::start();
    let output = server.second_process();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&server.data_dir().display().to_string()), "{text}");
    assert_eq!(server.connect().await.rows("SELECT 1").await, ["1"]);
}

/// A directory of a format that this server does not know is refused by name.
#[test]
fn an_unknown_format_is_refused() {
    let mut server = Server::start();
    server.terminate();
    let format = server.data_dir().join("FORMAT");
    let known = std::fs::read_to_string(&format).expect("a format file");
    std::fs::write(&format, known.replace('1', "999")).expect("a writable directory");
    let output = server.second_process();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("999"), "{text}");
    std::fs::write(&format, known).expect("a writable directory");
    server.restart();
}

/// Wrong settings end the start with an error that names them.
#[test]
fn wrong_settings_are_named() {
    let mut server = Server::start();
    server.terminate();
    for (key, value) in [("MILLSTREAM__NO__SUCH_SETTING", "1"), ("MILLSTREAM__LOG__FORMAT", "braille")] {
        let mut command = server.command();
        command.env(key, value).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command).expect("the binary starts");
        let start = Instant::now();
        while child.try_wait().expect("a child of ours").is_none() {
            if start.elapsed() > Duration::from_secs(20) {
                signal(&child, libc::SIGKILL);
                panic!("{key}={value} is accepted");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().expect("a child of ours");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let name = key.trim_start_matches("MILLSTREAM__").replace("__", ".").to_lowercase();
        assert!(!output.status.success() && text.to_lowercase().contains(&name), "{key}={value}: {text}");
    }
}

/// Reads go on over one connection while another one sends nonsense bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nonsense_on_the_wire_hurts_nobody() {
    use std::io::Write;
    let mut server = Server::start();
    let session = server.connect().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 4], &[0, 0, 0, 8, 0, 3, 0, 0, b'Q']] {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
        stream.write_all(bytes).expect("a write");
    }
    wait_for("the server after nonsense", Duration::from_secs(5), Duration::from_millis(10), || {
        if server.is_running() { Ok(()) } else { Err("gone".to_string()) }
    });
    assert_eq!(session.rows("SELECT 1").await, ["1"]);
}
