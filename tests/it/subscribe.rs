//! SUBSCRIBE: the changes that a subscriber hears add up to the view, over restarts too, and nobody slow is in the way.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::CopyOutStream;

use crate::client::Session;
use crate::raw::Raw;
use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// A client that adds up what a subscription tells.
struct Subscriber {
    _session: Session,
    lines: Pin<Box<CopyOutStream>>,
    /// A line that has not come to its end.
    rest: String,
    /// Rows as text, with how often each is there.
    rows: BTreeMap<String, i64>,
    /// The last epoch that has come to its end.
    epoch: u64,
    /// How often each op came.
    ops: BTreeMap<String, usize>,
}

impl Subscriber {
    async fn new(server: &Server, what: &str) -> Self {
        let session = server.connect().await;
        let sql = format!("COPY (SUBSCRIBE {what}) TO STDOUT");
        let lines = Box::pin(session.client.copy_out(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")));
        let (rows, ops) = (BTreeMap::new(), BTreeMap::new());
        Self { _session: session, lines, rest: String::new(), rows, epoch: 0, ops }
    }

    /// Reads what comes up to the end of an epoch. Whether the subscription still runs.
    async fn read_to(&mut self, epoch: u64) -> bool {
        let start = Instant::now();
        while self.epoch < epoch {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let piece = tokio::time::timeout(left, self.lines.next()).await;
            let piece = piece.unwrap_or_else(|_| panic!("epoch {epoch} does not come, {} was the last", self.epoch));
            let Some(Ok(piece)) = piece else { return false };
            self.rest.push_str(std::str::from_utf8(&piece).expect("text"));
            while let Some(end) = self.rest.find('\n') {
                let line: String = self.rest.drain(..=end).collect();
                self.take(line.trim_end_matches('\n'));
            }
        }
        true
    }

    fn take(&mut self, line: &str) {
        let mut parts = line.splitn(3, '\t');
        let epoch: u64 = parts.next().and_then(|e| e.parse().ok()).unwrap_or_else(|| panic!("no epoch: {line}"));
        let op = parts.next().expect("an op");
        assert!(epoch >= self.epoch, "epoch {epoch} after {}", self.epoch);
        *self.ops.entry(op.to_string()).or_default() += 1;
        let change = match op {
            "insert" | "update_insert" => 1,
            "delete" | "update_delete" => -1,
            "progress" => {
                self.epoch = epoch;
                // No row is taken that is not there.
                assert!(self.rows.values().all(|n| *n > 0), "{:?}", self.rows);
                return;
            }
            other => panic!("op {other}"),
        };
        let row = parts.next().expect("columns").to_string();
        let count = self.rows.entry(row.clone()).or_default();
        *count += change;
        if *count == 0 {
            self.rows.remove(&row);
        }
    }

    /// The rows as `rows` of a client gives them.
    fn sum(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (row, n) in &self.rows {
            let shown = row.split('\t').map(|v| if v == "\\N" { "∅" } else { v }).collect::<Vec<_>>().join("|");
            all.extend((0..*n).map(|_| shown.clone()));
        }
        all.sort();
        all
    }
}

/// The newest epoch, with all that was written before.
async fn newest(session: &Session) -> u64 {
    session.run("FLUSH").await;
    session.value("SELECT max(epoch) FROM millstream.epochs").await.parse().expect("a number")
}

/// Changes rows of both tables at random.
async fn change(session: &Session, random: &mut StdRng, statements: usize) {
    for _ in 0..statements {
        let id = random.random_range(0..40);
        let v = random.random_range(0..100);
        let sql = match random.random_range(0..6) {
            0 | 1 => format!(
                "INSERT INTO t SELECT n, {v}, 'g' || n % 5 FROM generate_series({id}, {id} + 3) AS s (n) \
                 ON CONFLICT DO NOTHING"
            ),
            2 => format!("UPDATE t SET v = v + {v} WHERE id % 7 = {}", id % 7),
            3 => format!("DELETE FROM t WHERE id = {id}"),
            4 => format!("BEGIN; UPDATE t SET v = {v} WHERE id = {id}; UPDATE t SET v = v + 1 WHERE id = {id}; COMMIT"),
            _ => format!("INSERT INTO log SELECT n, {v} FROM generate_series(1, {}) AS s (n)", id + 1),
        };
        session.run(&sql).await;
    }
}

const FOLLOWED: &[(&str, &str)] = &[
    ("t", "SELECT id, v, g FROM t"),
    ("by_group", "SELECT g, n, s FROM by_group"),
    ("digits", "SELECT d FROM digits"),
    ("total", "SELECT n, s FROM total"),
    ("logged", "SELECT n, v FROM logged"),
    ("(SELECT g, max(v) AS highest FROM t WHERE v > 50 GROUP BY g)", "SELECT g, max(v) FROM t WHERE v > 50 GROUP BY g"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_add_up_to_the_view() {
    let mut server = Server::start();
    let session = server.connect().await;
    for sql in [
        "CREATE TABLE t (id INT PRIMARY KEY, v INT, g TEXT)",
        "CREATE TABLE log (n INT, v INT) APPEND ONLY",
        "CREATE MATERIALIZED VIEW by_group AS SELECT g, count(*) AS n, sum(v) AS s FROM t GROUP BY g",
        "CREATE MATERIALIZED VIEW digits AS SELECT v % 10 AS d FROM t",
        "CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(v) AS s FROM t",
        "CREATE MATERIALIZED VIEW logged AS SELECT n, v FROM log WHERE n > 1",
    ] {
        session.run(sql).await;
    }
    let mut random = StdRng::seed_from_u64(crate::seed::seed("subscribe"));
    change(&session, &mut random, 20).await;
    let mut subscribers = Vec::new();
    for (what, _) in FOLLOWED {
        subscribers.push(Subscriber::new(&server, &format!("{what} WITH (progress = true)")).await);
    }
    // Some are read while rows are written, some afterwards.
    let (first, last) = subscribers.split_at_mut(3);
    let (_, ()) = tokio::join!(
        async {
            for round in 0..3_u64 {
                let at = newest(&session).await + round;
                for subscriber in first.iter_mut() {
                    subscriber.read_to(at.saturating_sub(round)).await;
                }
            }
        },
        change(&session, &mut random, 150)
    );
    let epoch = newest(&session).await;
    for (subscriber, (what, query)) in first.iter_mut().chain(last).zip(FOLLOWED) {
        assert!(subscriber.read_to(epoch).await, "the subscription to {what} has ended");
        assert_eq!(subscriber.sum(), session.rows(query).await, "{what}");
    }
    assert!(subscribers[0].ops.contains_key("update_insert"), "{:?}", subscribers[0].ops);
    assert_eq!(subscribers[0].ops.get("update_insert"), subscribers[0].ops.get("update_delete"));
    assert!(!subscribers[4].ops.contains_key("delete"));

    // A restart ends all; rows in segments go on where they were, the others begin anew.
    let resumed = subscribers.swap_remove(4);
    drop(subscribers);
    server.kill();
    server.restart();
    let session = server.connect().await;
    change(&session, &mut random, 10).await;
    let mut again = Subscriber::new(&server, &format!("logged WITH (progress = true) AS OF {}", resumed.epoch)).await;
    (again.rows, again.epoch) = (resumed.rows.clone(), resumed.epoch);
    let mut anew = Subscriber::new(&server, "by_group WITH (progress = true)").await;
    change(&session, &mut random, 30).await;
    let epoch = newest(&session).await;
    assert!(again.read_to(epoch).await && anew.read_to(epoch).await);
    assert_eq!(again.sum(), session.rows("SELECT n, v FROM logged").await);
    assert_eq!(anew.sum(), session.rows("SELECT g, n, s FROM by_group").await);
    // The view behind the subscription to a query is gone with the server that was killed.
    assert_eq!(session.value("SELECT count(*) FROM millstream.views WHERE schema = 'millstream'").await, "0");
    // What is not kept any more is said.
    let error = session.error(&format!("SUBSCRIBE by_group AS OF {}", resumed.epoch)).await;
    assert_eq!(error.sqlstate.as_deref(), Some("72000"), "{error}");
    // An orderly stop does not wait for subscribers.
    let start = Instant::now();
    assert!(server.terminate().success());
    assert!(start.elapsed() < Duration::from_secs(8), "the stop took {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_on_subscriptions_resume() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    session.run("CREATE MATERIALIZED VIEW sums AS SELECT id % 2 AS odd, sum(v) AS s FROM t GROUP BY 1").await;
    session.run("INSERT INTO t VALUES (1, 10), (2, 20)").await;
    session.run("DECLARE c CURSOR WITH HOLD FOR SUBSCRIBE sums").await;
    let shown = |outcome: crate::client::Outcome| -> Vec<String> {
        outcome.rows.iter().map(|row| crate::client::line(&row[1..])).collect()
    };
    let all = session.run("FETCH ALL FROM c").await;
    let epoch = all.rows[0][0].clone().expect("an epoch");
    let mut rows = shown(all);
    rows.sort();
    assert_eq!(rows, ["insert|0|20", "insert|1|10"]);
    session.run("UPDATE t SET v = 11 WHERE id = 1").await;
    assert_eq!(shown(session.run("FETCH ALL FROM c").await), ["update_delete|1|10", "update_insert|1|11"]);
    session.run("DELETE FROM t WHERE id = 2").await;
    assert_eq!(shown(session.run("FETCH 1 FROM c").await), ["delete|0|20"]);
    let none = session.run("FETCH ALL FROM c WITH (timeout = '100ms')").await;
    assert_eq!((none.rows.len(), none.columns.map(|c| c.join(","))), (0, Some("epoch,op,odd,s".into())));
    session.run("CLOSE c").await;
    session.run("INSERT INTO t VALUES (4, 40)").await;
    // Who comes back hears what has changed meanwhile.
    session.run(&format!("DECLARE c CURSOR WITH HOLD FOR SUBSCRIBE sums AS OF {epoch}")).await;
    let mut changes = Vec::new();
    while changes.len() < 4 {
        changes.extend(shown(session.run("FETCH ALL FROM c").await));
    }
    assert_eq!(changes, ["update_delete|1|10", "update_insert|1|11", "delete|0|20", "insert|0|40"]);
    // A client that waits is told when its time is over, and a dropped view ends the subscription.
    session.run("SET statement_timeout = '200ms'").await;
    assert_eq!(session.error("FETCH c").await.sqlstate.as_deref(), Some("57014"));
    session.run("RESET statement_timeout").await;
    session.run("DROP MATERIALIZED VIEW sums").await;
    let error = session.error("FETCH c").await;
    assert_eq!(error.sqlstate.as_deref(), Some("42P01"), "{error}");
    assert_eq!(session.error("FETCH c").await.sqlstate.as_deref(), Some("42P01"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_too_slow_is_cut_off_and_who_leaves_is_forgotten() {
    let server = Server::with(&[("MILLSTREAM__SUBSCRIBE__HISTORY_BYTES", "1048576")]);
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v INT, pad TEXT)").await;
    let pad = "p".repeat(200);
    session.run(&format!("INSERT INTO t SELECT n, 0, '{pad}' FROM generate_series(1, 2000) AS s (n)")).await;
    let mut slow = Raw::connect(server.port()).await;
    slow.query("SUBSCRIBE t").await;
    session.eventually("SELECT count(*) FROM millstream.subscriptions", PATIENCE, &["1"]).await;
    let before = server.resident_bytes();
    for round in 0..150 {
        session.run(&format!("UPDATE t SET v = {round}")).await;
    }
    let grown = server.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 150, "{grown} MiB more for a subscriber that does not read");
    let told = tokio::time::timeout(PATIENCE, slow.answer()).await.expect("an end");
    assert!(told.contains("53400") && told.contains("too slow") && told.contains("history_bytes"), "{told}");
    session.eventually("SELECT count(*) FROM millstream.subscriptions", PATIENCE, &["0"]).await;

    // A client that leaves, and one that cancels.
    let mut leaves = Raw::connect(server.port()).await;
    leaves.query("SUBSCRIBE (SELECT count(*) FROM t)").await;
    let views = "SELECT count(*) FROM millstream.views WHERE schema = 'millstream'";
    session.eventually("SELECT count(*) FROM millstream.subscriptions", PATIENCE, &["1"]).await;
    assert_eq!(session.value(views).await, "1");
    drop(leaves);
    session.eventually("SELECT count(*) FROM millstream.subscriptions", PATIENCE, &["0"]).await;
    session.eventually(views, PATIENCE, &["0"]).await;
    let other = server.connect().await;
    let cancel = other.client.cancel_token();
    let (ended, ()) = tokio::join!(other.try_run("SUBSCRIBE t WITH (snapshot = false)"), async {
        session.eventually("SELECT count(*) FROM millstream.subscriptions", PATIENCE, &["1"]).await;
        cancel.cancel_query(tokio_postgres::NoTls).await.expect("the request is sent");
    });
    assert_eq!(ended.expect_err("cancelled").sqlstate.as_deref(), Some("57014"));
    session.eventually("SELECT count(*) FROM millstream.subscriptions", PATIENCE, &["0"]).await;
    let (_, metrics) = crate::process::http_get(server.http_port(), "/metrics").expect("metrics");
    assert!(metrics.contains("millstream_subscriptions 0"), "{metrics}");
    assert!(metrics.contains("millstream_subscription_rows_total "), "{metrics}");
}
