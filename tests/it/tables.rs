//! Tables under several clients: no update is lost, and whoever is answered sees what was done everywhere.

use std::time::Duration;

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
