//! A disk that is full, for a moment or for long: commits are tried again, what stays refused is taken back as a whole,
//! reads go on, and once there is space again every view equals its SELECT.

use std::time::{Duration, Instant};

use crate::client::Session;
use crate::kafka::{self, Producer, Record, create_topic, produce, read_all};
use crate::server::Server;

const BEFORE_WRITE: &str = "commit.before_write";
/// What the server logs when it goes back.
const FAILED: &str = "going back to the last committed one";
const SOON: Duration = Duration::from_secs(30);

/// Each view and its SELECT.
const VIEWS: &[(&str, &str)] = &[
    ("by_g", "SELECT g, count(*) AS n, sum(v) AS s, max(v) AS high FROM t GROUP BY g"),
    ("named", "SELECT t.id, t.v, g.name FROM t JOIN g ON t.g = g.g"),
    ("rows", "SELECT v FROM log WHERE v > 0"),
];

async fn create(session: &Session) {
    session.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, v INT); CREATE TABLE g (g INT, name TEXT)").await;
    session.run("CREATE TABLE log (v INT) APPEND ONLY").await;
    for (name, select) in VIEWS {
        session.run(&format!("CREATE MATERIALIZED VIEW {name} AS {select}")).await;
    }
    session.run("INSERT INTO g VALUES (0, 'zero'), (1, 'one'); INSERT INTO log VALUES (1), (-1)").await;
    session.run("INSERT INTO t SELECT n, n % 3, n FROM generate_series(1, 100) AS s (n)").await;
}

async fn assert_views(session: &Session) {
    for (name, select) in VIEWS {
        let view = session.rows(&format!("SELECT * FROM {name}")).await;
        assert_eq!(view, session.rows(select).await, "view {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_a_few_times_is_tried_again() {
    let server = Server::start();
    let session = server.connect().await;
    create(&session).await;
    // The last fails after the write: what is on disk counts, and it must not be written twice.
    for (point, times) in
        [(BEFORE_WRITE, 1), (BEFORE_WRITE, 3), ("commit.after_write", 1), ("commit.before_publication", 2)]
    {
        server.arm(point, &format!("full {times}"));
        session.run("UPDATE t SET v = v + 1 WHERE id <= 10").await;
        session.run("INSERT INTO log VALUES (7)").await;
        assert!(!server.is_armed(point), "{point} was not passed");
        assert_views(&session).await;
    }
    assert_eq!(session.value("SELECT v FROM t WHERE id = 10").await, "14");
    assert_eq!(session.value("SELECT count(*) FROM log").await, "6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stays_full_refuses_writes_and_serves_reads() {
    let mut server = Server::start();
    let (session, reader) = (server.connect().await, server.connect().await);
    create(&session).await;
    session.run("CREATE TABLE victim (a INT); CREATE MATERIALIZED VIEW of_victim AS SELECT a FROM victim").await;
    let before = session.rows("SELECT * FROM by_g").await;
    server.arm(BEFORE_WRITE, "full");
    for statement in [
        "INSERT INTO t VALUES (1000, 1, 1)",
        "UPDATE t SET g = 2",
        "INSERT INTO log VALUES (5), (6)",
        "TRUNCATE t",
        "CREATE TABLE other (a INT)",
        "CREATE MATERIALIZED VIEW another AS SELECT g, count(*) AS n FROM t GROUP BY g",
        "DROP TABLE victim CASCADE",
        "ALTER TABLE victim RENAME TO loser",
        "DELETE FROM t WHERE id = 1",
    ] {
        assert_eq!(session.error(statement).await.sqlstate.as_deref(), Some("53100"), "{statement}");
        assert_eq!(reader.rows("SELECT * FROM by_g").await, before, "reads after: {statement}");
    }
    server.disarm();
    assert_views(&session).await;
    // What was refused is not half there, and what was to go is still kept.
    session.run("INSERT INTO victim VALUES (1)").await;
    assert_eq!(session.rows("SELECT * FROM of_victim").await, ["1"]);
    session.run("CREATE TABLE other (a INT); INSERT INTO other VALUES (3)").await;
    session.run("CREATE MATERIALIZED VIEW another AS SELECT g, count(*) AS n FROM t GROUP BY g").await;
    session
        .run("INSERT INTO t VALUES (1000, 1, 1); DELETE FROM t WHERE id = 1; UPDATE g SET name = 'null' WHERE g = 0")
        .await;
    session.run("INSERT INTO log VALUES (5), (6)").await;
    assert_eq!(session.value("SELECT sum(n) FROM another").await, "100");
    assert_eq!(session.value("SELECT count(*) FROM log").await, "4");
    assert_views(&session).await;
    server.kill();
    server.restart();
    assert_views(&server.connect().await).await;
}

/// Readers go back to the committed offsets: what came while the disk was full is neither lost nor counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_go_back_to_their_committed_offsets() {
    const EACH: i64 = 400;
    create_topic("full-disk", 2);
    let server = Server::start();
    let session = server.connect().await;
    session
        .run(&format!(
            "CREATE SOURCE s (k INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') \
             WITH (connector = 'kafka', topic = 'full-disk', properties.bootstrap.server = '{}', \
             scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON",
            kafka::bootstrap()
        ))
        .await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(k) AS total FROM s").await;
    session
        .run(
            "CREATE MATERIALIZED VIEW w AS SELECT window_start, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') \
             GROUP BY window_start, window_end",
        )
        .await;
    let send = |from: i64| {
        for partition in 0..2 {
            let records: Vec<String> = (from..from + EACH)
                .map(|n| format!("{{\"k\":{n},\"ts\":\"2024-05-01 00:{:02}:{:02}\"}}", n / 60 % 60, n % 60))
                .collect();
            produce("full-disk", partition, &records.iter().map(String::as_str).collect::<Vec<_>>());
        }
    };
    let totals = |n: i64| format!("{}|{}", 2 * n, n * (n - 1));
    send(0);
    session.eventually("SELECT * FROM v", SOON, &[&totals(EACH)]).await;
    for round in 1..4 {
        let failures = server.log().matches(FAILED).count();
        server.arm(BEFORE_WRITE, "full");
        send(round * EACH);
        let start = Instant::now();
        while server.log().matches(FAILED).count() == failures {
            assert!(start.elapsed() < SOON, "no epoch failed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(session.rows("SELECT * FROM v").await, [totals(round * EACH)], "reads go on");
        server.disarm();
        session.eventually("SELECT * FROM v", SOON, &[&totals((round + 1) * EACH)]).await;
        let windows = "SELECT window_start, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') \
                       GROUP BY window_start, window_end";
        assert_eq!(session.rows("SELECT * FROM w").await, session.rows(windows).await);
    }
    assert_eq!(session.value("SELECT late_rows FROM millstream.views WHERE name = 'w'").await, "0");
}

/// A source whose rows a sink writes exactly once to `NAME-out`, and a view of them.
async fn copy(session: &Session, name: &str) {
    create_topic(&format!("{name}-in"), 2);
    create_topic(&format!("{name}-out"), 2);
    let with = |topic: &str| {
        let broker = kafka::bootstrap();
        format!("WITH (connector = 'kafka', topic = '{name}-{topic}', properties.bootstrap.server = '{broker}')")
    };
    session.run(&format!("CREATE SOURCE s (k BIGINT) {} FORMAT PLAIN ENCODE JSON", with("in"))).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(k) AS total FROM s").await;
    session.run(&format!("CREATE SINK copies AS SELECT k FROM s {} FORMAT PLAIN ENCODE JSON", with("out"))).await;
}

/// Sends numbers to what [`copy`] reads.
fn send(name: &str, numbers: std::ops::Range<u64>) {
    let producer = Producer::new();
    for k in numbers {
        producer.send(&format!("{name}-in"), &Record::of((k % 2) as i32, format!("{{\"k\":{k}}}")));
    }
    producer.flush();
}

/// Waits until view and sink have all numbers up to `n`, and looks that the sink has written each of them once.
async fn assert_copied(session: &Session, name: &str, n: u64) {
    session.eventually("SELECT * FROM v", SOON, &[&format!("{n}|{}", n * (n - 1) / 2)]).await;
    let sink = "SELECT acknowledged_sequence, status FROM millstream.sinks";
    session.eventually(sink, SOON, &[&format!("{n}|running")]).await;
    let number = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["k"].as_u64();
    let records = read_all(&format!("{name}-out"));
    let mut copies: Vec<u64> =
        records.iter().filter_map(Record::payload_text).map(|t| number(t).expect("a number")).collect();
    copies.sort_unstable();
    assert!(copies.iter().copied().eq(0..n), "{} copies of {n} numbers", copies.len());
}

/// The disk is full while a sink sends, for a moment or over a restart: what it has sent and could not note is not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_writes_each_row_once_over_a_full_disk() {
    const EACH: u64 = 3000;
    let mut server = Server::start();
    let mut session = server.connect().await;
    copy(&session, "full-sink").await;
    send("full-sink", 0..EACH);
    assert_copied(&session, "full-sink", EACH).await;
    for round in 1..=4 {
        let failures = server.log().matches(FAILED).count();
        let point = if round % 2 == 0 { BEFORE_WRITE } else { "commit.frozen" };
        // Half of the rows are on their way when it comes to that.
        send("full-sink", round * EACH..round * EACH + EACH / 2);
        server.arm(point, "full");
        send("full-sink", round * EACH + EACH / 2..(round + 1) * EACH);
        let start = Instant::now();
        while server.log().matches(FAILED).count() < failures + 2 {
            assert!(start.elapsed() < SOON, "no epoch failed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        session.run("SELECT * FROM v").await;
        if round > 2 {
            server.kill();
            server.disarm();
            server.restart();
            session = server.connect().await;
        } else {
            server.disarm();
        }
        assert_copied(&session, "full-sink", (round + 1) * EACH).await;
    }
}

/// A disk that takes its time slows what is written and what is read of topics; it does not slow reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_slows_sources_and_not_reads() {
    const COMMIT: Duration = Duration::from_millis(1500);
    let server = Server::start();
    let (session, reader) = (server.connect().await, server.connect().await);
    copy(&session, "slow-disk").await;
    session.run("CREATE TABLE t (a INT)").await;
    send("slow-disk", 0..1000);
    assert_copied(&session, "slow-disk", 1000).await;
    server.arm(BEFORE_WRITE, &format!("slow {}", COMMIT.as_millis()));
    let insert = async {
        let start = Instant::now();
        session.run("INSERT INTO t VALUES (1)").await;
        start.elapsed()
    };
    let reads = async {
        send("slow-disk", 1000..60_000);
        let (mut slowest, mut lag) = (Duration::ZERO, 0);
        for _ in 0..40 {
            let start = Instant::now();
            reader.run("SELECT * FROM v").await;
            slowest = slowest.max(start.elapsed());
            let now: i64 = reader.value("SELECT sum(lag) FROM millstream.sources").await.parse().expect("a lag");
            lag = lag.max(now);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (slowest, lag)
    };
    let (inserted, (slowest, lag)) = tokio::join!(insert, reads);
    assert!(inserted >= COMMIT, "{inserted:?}");
    assert!(slowest < COMMIT / 2, "a read took {slowest:?}");
    assert!(lag > 0, "the sources are not behind");
    server.disarm();
    assert_copied(&session, "slow-disk", 60_000).await;
}
