//! Tables under several clients: no update is lost, and whoever is answered sees what was done everywhere.

use std::time::{Duration, Instant};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_updates_all_count() {
    const CLIENTS: usize = 4;
    const UPDATES: usize = 25;
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE counter (id INT PRIMARY KEY, n BIGINT); INSERT INTO counter VALUES (1, 0)").await;
    session.run("CREATE TABLE plain (n BIGINT); INSERT INTO plain VALUES (0)").await;
    session.run("CREATE MATERIALIZED VIEW shown AS SELECT n FROM counter").await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = server.connect().await;
        clients.push(tokio::spawn(async move {
            for _ in 0..UPDATES {
                assert_eq!(client.run("UPDATE counter SET n = n + 1 WHERE id = 1").await.affected, 1);
                assert_eq!(client.run("UPDATE plain SET n = n + 1").await.affected, 1);
            }
        }));
    }
    for client in clients {
        client.await.expect("no client fails");
    }
    let expected = (CLIENTS * UPDATES).to_string();
    assert_eq!(session.value("SELECT n FROM counter").await, expected);
    assert_eq!(session.value("SELECT n FROM plain").await, expected);
    assert_eq!(session.value("SELECT n FROM shown").await, expected);
}

/// When a statement has returned, every client sees it in the table and in every view of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_visible() {
    let server = Server::start();
    let (writer, reader) = (server.connect().await, server.connect().await);
    writer.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    writer.run("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(v) AS s FROM t").await;
    writer.run("CREATE MATERIALIZED VIEW stacked AS SELECT n + s AS both FROM total").await;
    for n in 1..=30_i64 {
        writer.run(&format!("INSERT INTO t VALUES ({n}, {n})")).await;
        let sum = n * (n + 1) / 2;
        assert_eq!(reader.rows("SELECT n, s FROM total").await, [format!("{n}|{sum}")]);
        assert_eq!(reader.value("SELECT \"both\" FROM stacked").await, (n + sum).to_string());
    }
}

/// Two clients insert the same key at the same moment: one of them is told so, and the row is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_equal_keys_wins() {
    let server = Server::start();
    let (a, b) = (server.connect().await, server.connect().await);
    a.run("CREATE TABLE t (id INT PRIMARY KEY, who TEXT)").await;
    for n in 0..20 {
        let insert = |who: &str| format!("INSERT INTO t VALUES ({n}, '{who}')");
        let (from_a, from_b) = (insert("a"), insert("b"));
        let (x, y) = tokio::join!(a.try_run(&from_a), b.try_run(&from_b));
        let losers: Vec<_> = [x, y].into_iter().filter_map(Result::err).collect();
        assert_eq!(losers.len(), 1, "key {n}: {losers:?}");
        assert_eq!(losers[0].sqlstate.as_deref(), Some("23505"));
    }
    assert_eq!(a.value("SELECT count(*) FROM t").await, "20");
}

/// Money moves between accounts in transactions of several clients: each snapshot and the view hold the same sum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_keep_the_sum() {
    const CLIENTS: u32 = 3;
    const TRANSFERS: u32 = 20;
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE accounts (id INT PRIMARY KEY, balance BIGINT)").await;
    session.run("INSERT INTO accounts SELECT n, 100 FROM generate_series(0, 4) AS s (n)").await;
    session.run("CREATE TABLE moved (amount BIGINT) APPEND ONLY").await;
    session.run("CREATE MATERIALIZED VIEW bank AS SELECT sum(balance) AS s, count(*) AS n FROM accounts").await;
    session.run("CREATE MATERIALIZED VIEW flow AS SELECT count(*) AS n FROM moved").await;
    let mut clients = Vec::new();
    for c in 0..CLIENTS {
        let client = server.connect().await;
        clients.push(tokio::spawn(async move {
            let mut conflicts = 0;
            for n in 0..TRANSFERS {
                let (from, to, amount) = ((n + c) % 5, (n * 2 + c + 1) % 5, n % 7 + 1);
                let steps = [
                    "BEGIN".to_string(),
                    format!("UPDATE accounts SET balance = balance - {amount} WHERE id = {from}"),
                    format!("INSERT INTO moved VALUES ({amount})"),
                    format!("UPDATE accounts SET balance = balance + {amount} WHERE id = {to}"),
                    "COMMIT".to_string(),
                ];
                'again: loop {
                    for step in &steps {
                        match client.try_run(step).await {
                            Ok(_) => {}
                            Err(e) if e.sqlstate.as_deref() == Some("40001") => {
                                conflicts += 1;
                                continue 'again;
                            }
                            Err(e) => panic!("{step}: {e}"),
                        }
                    }
                    break;
                }
            }
            conflicts
        }));
    }
    let reader = server.connect().await;
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!(reader.rows("SELECT sum(balance), count(*) FROM accounts").await, ["500|5"]);
        assert_eq!(reader.rows("SELECT s, n FROM bank").await, ["500|5"]);
        // A transaction reads one moment, whatever is committed meanwhile.
        reader.run("BEGIN").await;
        let before = reader.rows("SELECT * FROM accounts").await;
        assert_eq!(reader.rows("SELECT s FROM bank").await, ["500"]);
        assert_eq!(reader.rows("SELECT * FROM accounts").await, before);
        reader.run("COMMIT").await;
    }
    for client in clients {
        client.await.expect("no client fails");
    }
    assert_eq!(session.rows("SELECT sum(balance), count(*) FROM accounts").await, ["500|5"]);
    assert_eq!(session.rows("SELECT s, n FROM bank").await, ["500|5"]);
    // Each transfer is in the append-only table once, however often it was tried.
    assert_eq!(session.value("SELECT n FROM flow").await, (CLIENTS * TRANSFERS).to_string());
}

/// Two transactions at once: each sees its own changes over its snapshot, and of two that change one row one is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_isolated() {
    let server = Server::start();
    let (a, b) = (server.connect().await, server.connect().await);
    a.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    a.run("INSERT INTO t VALUES (1, 1), (2, 2)").await;
    a.run("CREATE TABLE plain (v INT); INSERT INTO plain VALUES (1)").await;

    a.run("BEGIN").await;
    a.run("UPDATE t SET v = 10 WHERE id = 1").await;
    b.run("BEGIN").await;
    assert_eq!(b.rows("SELECT * FROM t").await, ["1|1", "2|2"]);
    b.run("UPDATE t SET v = 20 WHERE id = 2").await;
    b.run("INSERT INTO plain VALUES (2)").await;
    a.run("INSERT INTO plain VALUES (3)").await;
    a.run("COMMIT").await;
    assert_eq!(b.rows("SELECT * FROM t").await, ["1|1", "2|20"]);
    assert_eq!(b.rows("SELECT v FROM plain").await, ["1", "2"]);
    b.run("COMMIT").await;
    assert_eq!(b.rows("SELECT * FROM t").await, ["1|10", "2|20"]);
    // Rows without a key get hidden ones of their own.
    assert_eq!(b.run("UPDATE plain SET v = v + 1").await.affected, 3);
    assert_eq!(b.rows("SELECT v FROM plain").await, ["2", "3", "4"]);

    a.run("BEGIN").await;
    assert_eq!(a.run("UPDATE t SET v = v + 1 WHERE id = 1").await.affected, 1);
    a.run("INSERT INTO plain VALUES (100)").await;
    b.run("UPDATE t SET v = v + 5 WHERE id = 1").await;
    assert_eq!(a.error("COMMIT").await.sqlstate.as_deref(), Some("40001"));
    assert_eq!(a.rows("SELECT v FROM t WHERE id = 1").await, ["15"]);
    assert_eq!(a.rows("SELECT count(*) FROM plain").await, ["3"]);

    // A row that was deleted by somebody else, and a key that was taken by somebody else.
    a.run("BEGIN").await;
    a.run("DELETE FROM t WHERE id = 2").await;
    b.run("DELETE FROM t WHERE id = 2").await;
    assert_eq!(a.error("COMMIT").await.sqlstate.as_deref(), Some("40001"));
    a.run("BEGIN").await;
    a.run("INSERT INTO t VALUES (3, 1)").await;
    b.run("INSERT INTO t VALUES (3, 2)").await;
    assert_eq!(a.error("COMMIT").await.sqlstate.as_deref(), Some("23505"));
    a.run("BEGIN").await;
    a.run("INSERT INTO t VALUES (4, 1) ON CONFLICT (id) DO UPDATE SET v = t.v + 1").await;
    b.run("INSERT INTO t VALUES (4, 5)").await;
    assert_eq!(a.error("COMMIT").await.sqlstate.as_deref(), Some("40001"));
    assert_eq!(a.rows("SELECT * FROM t").await, ["1|15", "3|2", "4|5"]);

    // Of two that define something, one is refused; what it wrote is not kept.
    a.run("BEGIN").await;
    a.run("CREATE TABLE made (a INT)").await;
    a.run("INSERT INTO plain VALUES (100)").await;
    b.run("CREATE TABLE made (b INT)").await;
    assert_eq!(a.error("COMMIT").await.sqlstate.as_deref(), Some("40001"));
    assert_eq!(a.rows("SELECT count(*) FROM plain").await, ["3"]);
    assert_eq!(a.run("SELECT * FROM made").await.columns.expect("columns"), ["b"]);
}

/// A client that leaves takes its transaction with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_client_leaves_nothing() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (a INT)").await;
    let lost = server.connect().await;
    lost.run("BEGIN; INSERT INTO t VALUES (1); CREATE TABLE u (a INT)").await;
    drop(lost);
    session.run("INSERT INTO t VALUES (2)").await;
    assert_eq!(session.rows("SELECT a FROM t").await, ["2"]);
    session.run("CREATE TABLE u (a INT)").await;
}

/// A view over a table that is being written is exact from its first row on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_created_amid_writes_is_exact() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, v INT)").await;
    session.run("INSERT INTO t SELECT n, n % 10, n FROM generate_series(1, 20000) AS s (n)").await;
    let writer = server.connect().await;
    let writing = tokio::spawn(async move {
        for n in 0..60 {
            writer.run(&format!("UPDATE t SET v = v + 1, g = (g + 1) % 10 WHERE id % 60 = {n}")).await;
            writer.run(&format!("INSERT INTO t VALUES ({}, 3, 7)", 30_000 + n)).await;
            writer.run(&format!("DELETE FROM t WHERE id = {}", n * 7 + 1)).await;
        }
    });
    let select = "SELECT g, count(*) AS n, sum(v) AS s, min(v) AS low, max(v) AS high FROM t GROUP BY g";
    tokio::time::sleep(Duration::from_millis(100)).await;
    session.run(&format!("CREATE MATERIALIZED VIEW by_g AS {select}")).await;
    writing.await.expect("the writer does not fail");
    assert_eq!(session.rows("SELECT * FROM by_g").await, session.rows(select).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backfill_keeps_to_its_rate() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t AS SELECT n FROM generate_series(1, 3000) AS s (n)").await;
    let start = Instant::now();
    let slow = "CREATE MATERIALIZED VIEW slow WITH (backfill_rate_limit = 2000) AS SELECT count(*) AS n FROM t";
    session.run(slow).await;
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1200), "3000 rows at 2000 a second took {elapsed:?}");
    assert_eq!(session.value("SELECT n FROM slow").await, "3000");
    // Rows that come and go in the middle, before and behind what is read already, of a table that has no key.
    let counted = "CREATE MATERIALIZED VIEW counted WITH (backfill_rate_limit = 2000) AS SELECT n, count(*) AS c FROM t GROUP BY n";
    let changes = server.connect().await;
    let amid = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        changes.run("INSERT INTO t SELECT n FROM generate_series(2900, 3100) AS s (n)").await;
        changes.run("DELETE FROM t WHERE n % 10 = 0").await;
        changes.run("UPDATE t SET n = n + 5000 WHERE n % 7 = 0").await;
    };
    tokio::join!(session.run(counted), amid);
    let different = "SELECT count(*) FROM (SELECT * FROM counted EXCEPT ALL SELECT n, count(*) FROM t GROUP BY n) AS d";
    assert_eq!(session.value(different).await, "0");
    let sums = "SELECT (SELECT sum(c) FROM counted) - (SELECT count(*) FROM t)";
    assert_eq!(session.value(sums).await, "0");
    session.run("SET backfill_rate_limit = 100").await;
    let definition = session.try_run("CREATE MATERIALIZED VIEW few AS SELECT n FROM t WHERE n < 0");
    let other = server.connect().await;
    // The others go on meanwhile, and the job can be looked at and ended.
    let watch = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        other.run("INSERT INTO t VALUES (0)").await;
        let up_to_date = "SELECT n = (SELECT count(*) FROM t) FROM slow";
        assert_eq!(other.value(up_to_date).await, "t");
        let job = other.value("SELECT id FROM millstream.jobs").await;
        other.run(&format!("CANCEL JOB {job}")).await;
    };
    let (made, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(20), definition), watch);
    assert!(made.expect("the job was ended").is_err(), "3000 rows at 100 a second");
}
