//! Indexes under writes, restarts and deaths: what one finds is what a scan finds.

use crate::client::Session;
use crate::server::Server;

/// Rows by an index, and the same rows by a filter that no index serves.
async fn agree(session: &Session, relation: &str, column: &str, value: &str) -> Vec<String> {
    let by_index = format!("SELECT * FROM {relation} WHERE {column} = {value} ORDER BY 1, 2");
    let plan = session.rows(&format!("EXPLAIN {by_index}")).await.join("\n");
    assert!(plan.contains("index: "), "{plan}");
    let by_scan = format!("SELECT * FROM {relation} WHERE {column} + 0 = {value} ORDER BY 1, 2");
    let plan = session.rows(&format!("EXPLAIN {by_scan}")).await.join("\n");
    assert!(!plan.contains("index: "), "{plan}");
    let rows = session.rows(&by_index).await;
    assert_eq!(rows, session.rows(&by_scan).await, "{by_index}");
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_survive_a_restart_and_a_death() {
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, v BIGINT)").await;
    session.run("CREATE TABLE log (g INT, v BIGINT) APPEND ONLY").await;
    session.run("INSERT INTO t SELECT n, n % 10, n FROM generate_series(1, 500) AS s (n)").await;
    session.run("INSERT INTO log SELECT n % 10, n FROM generate_series(1, 500) AS s (n)").await;
    // With a key, without one, and append-only.
    session.run("CREATE MATERIALIZED VIEW sums AS SELECT g, sum(v)::BIGINT AS s, count(*) AS n FROM t GROUP BY g").await;
    session.run("CREATE MATERIALIZED VIEW bag AS SELECT g, v % 5 AS m FROM t").await;
    session.run("CREATE MATERIALIZED VIEW kept AS SELECT v, g FROM log WHERE v > 100").await;
    for ddl in ["t (g)", "log (g)", "sums (n)", "bag (m)", "kept (g)"] {
        session.run(&format!("CREATE INDEX ON {ddl}")).await;
    }
    session.run("CREATE UNIQUE INDEX sole ON t (v)").await;
    session.run("COMMENT ON INDEX sole IS 'kept'").await;
    let checks = [("t", "g"), ("log", "g"), ("sums", "n"), ("bag", "m"), ("kept", "g")];
    for round in 0..4_i64 {
        let session = server.connect().await;
        let first = 1000 + round * 100;
        session.run(&format!("INSERT INTO t SELECT n, n % 7, n FROM generate_series({first}, {}) s (n)", first + 50)).await;
        session.run(&format!("INSERT INTO log SELECT n % 7, n FROM generate_series({first}, {}) s (n)", first + 50)).await;
        session.run("UPDATE t SET g = g + 1 WHERE g = 3").await;
        session.run("DELETE FROM t WHERE g = 5 AND v % 2 = 0").await;
        assert_eq!(session.error("INSERT INTO t VALUES (-1, 1, 1)").await.sqlstate.as_deref(), Some("23505"));
        match round {
            0 => {
                server.terminate();
                server.restart();
            }
            1 => {
                server.kill();
                server.restart();
            }
            _ => {}
        }
        let session = server.connect().await;
        for (relation, column) in checks {
            let mut rows = 0;
            for value in ["0", "1", "3", "4", "6", "50", "56"] {
                rows += agree(&session, relation, column, value).await.len();
            }
            assert!(rows > 0, "{relation} has no row of those that are asked for");
        }
        assert_eq!(session.value("SELECT obj_description('sole'::regclass, 'pg_class')").await, "kept");
    }
    let session = server.connect().await;
    let error = session.error("INSERT INTO t VALUES (-1, 1, 1)").await;
    assert_eq!(error.message, "duplicate key value violates unique constraint \"sole\"");
    assert_eq!(error.detail.as_deref(), Some("Key (v)=(1) already exists."));
    session.run("DROP INDEX sole").await;
    session.run("INSERT INTO t VALUES (-1, 1, 1)").await;
    server.terminate();
    server.restart();
    let session = server.connect().await;
    assert_eq!(session.value("SELECT count(*) FROM t WHERE v = 1").await, "2");
    assert_eq!(session.value("SELECT count(*) FROM millstream.indexes").await, "5");
}

/// Clients write one unique value at the same moment: one of them has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_equal_values_wins() {
    let server = Server::start();
    let (a, b) = (server.connect().await, server.connect().await);
    a.run("CREATE TABLE t (id INT PRIMARY KEY, name TEXT); CREATE UNIQUE INDEX t_name ON t (name)").await;
    for n in 0..20 {
        let insert = |id: i32| format!("INSERT INTO t VALUES ({id}, 'n{n}')");
        let (from_a, from_b) = (insert(2 * n), insert(2 * n + 1));
        let (x, y) = tokio::join!(a.try_run(&from_a), b.try_run(&from_b));
        let losers: Vec<_> = [x, y].into_iter().filter_map(Result::err).collect();
        assert_eq!(losers.len(), 1, "name {n}: {losers:?}");
        assert_eq!(losers[0].sqlstate.as_deref(), Some("23505"));
    }
    assert_eq!(a.value("SELECT count(*) FROM t").await, "20");
    // Two transactions that each find it free: the second to commit is told.
    a.run("BEGIN; INSERT INTO t VALUES (100, 'same')").await;
    b.run("BEGIN; INSERT INTO t VALUES (101, 'same')").await;
    a.run("COMMIT").await;
    assert_eq!(b.error("COMMIT").await.sqlstate.as_deref(), Some("23505"));
    assert_eq!(a.rows("SELECT id FROM t WHERE name = 'same'").await, ["100"]);
    // Upserts by the index all count.
    a.run("CREATE TABLE counts (name TEXT, n INT); CREATE UNIQUE INDEX ON counts (name)").await;
    for _ in 0..15 {
        let upsert = "INSERT INTO counts VALUES ('x', 1) ON CONFLICT (name) DO UPDATE SET n = counts.n + 1";
        let (x, y) = tokio::join!(a.try_run(upsert), b.try_run(upsert));
        x.expect("no upsert fails");
        y.expect("no upsert fails");
    }
    assert_eq!(a.rows("SELECT * FROM counts").await, ["x|30"]);
}
