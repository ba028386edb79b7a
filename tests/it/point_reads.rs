//! Prepared statements that run again and again: their plans are kept, and never when they no longer hold.

use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use crate::client::Session;
use crate::server::Server;

/// The first column of the rows in order, several times over: the first times a statement is planned, later its plan is kept.
async fn again(session: &Session, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Option<i32>> {
    let mut all: Vec<Vec<Option<i32>>> = Vec::new();
    for _ in 0..4 {
        let rows: Vec<Row> = session.client.query(statement, parameters).await.expect("the statement runs");
        let mut found: Vec<Option<i32>> = rows.iter().map(|row| row.get(0)).collect();
        found.sort_unstable();
        all.push(found);
    }
    let counts: Vec<usize> = all.iter().map(Vec::len).collect();
    assert!(all.iter().all(|rows| *rows == all[0]), "{counts:?} rows");
    all.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_see_what_is_there_now() {
    let server = Server::start();
    let (session, other) = (server.connect().await, server.connect().await);
    session
        .run("CREATE TABLE t (id INT PRIMARY KEY, v INT, name TEXT); INSERT INTO t VALUES (1, 10, 'a'), (2, NULL, 'b')")
        .await;
    session
        .run("CREATE TABLE pair (a TEXT, b BIGINT, v INT, PRIMARY KEY (a, b)); INSERT INTO pair VALUES ('x', 1, 5)")
        .await;
    session.run("CREATE MATERIALIZED VIEW sums AS SELECT name, sum(v)::INT AS s FROM t GROUP BY name").await;
    let client = &session.client;
    let by_id = client.prepare("SELECT v AS shown FROM t WHERE id = $1").await.unwrap();
    let several = client.prepare("SELECT t.v FROM t WHERE t.id IN ($1, $2, 2)").await.unwrap();
    let by_pair = client.prepare("SELECT v FROM pair WHERE b = $1 AND a = $2").await.unwrap();
    let of_view = client.prepare("SELECT s FROM sums WHERE name = $1").await.unwrap();
    let filtered = client.prepare("SELECT v FROM t WHERE id = $1 AND v > $2").await.unwrap();
    session.run("CREATE INDEX ON t (name); CREATE UNIQUE INDEX ON pair (v, a)").await;
    let by_index = client.prepare("SELECT id FROM t WHERE name = $1").await.unwrap();
    let by_either = client.prepare("SELECT b::INT FROM pair WHERE a = $1 AND v IN ($2, $3)").await.unwrap();
    let null: Option<i32> = None;
    for _ in 0..2 {
        assert_eq!(again(&session, &by_id, &[&1]).await, [Some(10)]);
        assert_eq!(again(&session, &by_id, &[&2]).await, [None]);
        assert_eq!(again(&session, &by_id, &[&3]).await, []);
        assert_eq!(again(&session, &by_id, &[&null]).await, []);
        assert_eq!(again(&session, &several, &[&1, &1]).await.len(), 2);
        assert_eq!(again(&session, &several, &[&2, &null]).await, [None]);
        assert_eq!(again(&session, &by_pair, &[&1_i64, &"x"]).await, [Some(5)]);
        assert_eq!(again(&session, &by_pair, &[&1_i64, &"y"]).await, []);
        assert_eq!(again(&session, &of_view, &[&"a"]).await, [Some(10)]);
        assert_eq!(again(&session, &by_index, &[&"b"]).await, [Some(2)]);
        assert_eq!(again(&session, &by_index, &[&"c"]).await, []);
        assert_eq!(again(&session, &by_either, &[&"x", &5, &5]).await, [Some(1)]);
        assert_eq!(again(&session, &by_either, &[&"x", &null, &4]).await, []);
        assert_eq!(again(&session, &filtered, &[&1, &9]).await, [Some(10)]);
        assert_eq!(again(&session, &filtered, &[&1, &10]).await, []);
    }
    // What others write, and what is written in a transaction and taken back.
    other.run("UPDATE t SET v = 11 WHERE id = 1").await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(11)]);
    assert_eq!(again(&session, &of_view, &[&"a"]).await, [Some(11)]);
    session.run("BEGIN; UPDATE t SET v = 12 WHERE id = 1; INSERT INTO t VALUES (3, 33, 'c')").await;
    other.run("UPDATE t SET v = 99 WHERE id = 2").await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(12)]);
    assert_eq!(again(&session, &by_id, &[&2]).await, [None]);
    assert_eq!(again(&session, &several, &[&3, &4]).await.len(), 2);
    assert_eq!(again(&session, &by_index, &[&"c"]).await, [Some(3)]);
    session.run("ROLLBACK").await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(11)]);
    assert_eq!(again(&session, &by_id, &[&2]).await, [Some(99)]);
    assert_eq!(again(&session, &by_id, &[&3]).await, []);
    assert_eq!(again(&session, &by_index, &[&"c"]).await, []);
    // Many rows of one value.
    other.run("INSERT INTO t SELECT n, n, 'many' FROM generate_series(100, 999) s (n)").await;
    assert_eq!(again(&session, &by_index, &[&"many"]).await.len(), 900);
    // A failed transaction reads nothing.
    session.run("BEGIN").await;
    session.error("SELECT 1 / 0").await;
    let refused = client.query(&by_id, &[&1]).await.unwrap_err();
    assert_eq!(refused.code().map(|c| c.code()), Some("25P02"));
    session.run("ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_go_with_what_they_were_made_of() {
    let server = Server::start();
    let (session, other) = (server.connect().await, server.connect().await);
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 10)").await;
    session.run("CREATE SCHEMA s; CREATE TABLE s.t (id INT PRIMARY KEY, v INT); INSERT INTO s.t VALUES (1, 77)").await;
    let client = &session.client;
    let by_id = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(10)]);
    session.run("SET search_path TO s").await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(77)]);
    session.run("SET search_path TO public").await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(10)]);
    // Another table of that name, in a transaction of its own and for good.
    session.run("BEGIN; DROP TABLE t; CREATE TABLE t (v INT, id INT PRIMARY KEY); INSERT INTO t VALUES (20, 1)").await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(20)]);
    session.run("ROLLBACK").await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(10)]);
    other
        .run("ALTER TABLE t RENAME TO old; CREATE TABLE t (v INT, id INT PRIMARY KEY); INSERT INTO t VALUES (30, 1)")
        .await;
    assert_eq!(again(&session, &by_id, &[&1]).await, [Some(30)]);
    other.run("DROP TABLE t; CREATE TABLE t (v TEXT, id INT PRIMARY KEY); INSERT INTO t VALUES ('x', 1)").await;
    let refused = client.query(&by_id, &[&1]).await.unwrap_err();
    assert_eq!(refused.as_db_error().map(|e| e.message()), Some("cached plan must not change result type"));
    other.run("DROP TABLE t").await;
    let refused = client.query(&by_id, &[&1]).await.unwrap_err();
    assert_eq!(refused.code().map(|c| c.code()), Some("42P01"));
    // Time goes on, the zone and the server's own tables are those of now.
    let now = client.prepare("SELECT now()::TEXT || current_setting('timezone')").await.unwrap();
    let tables = client.prepare("SELECT count(*)::INT FROM pg_class WHERE relname LIKE 'new%'").await.unwrap();
    let mut seen: Vec<String> = Vec::new();
    for n in 0..5 {
        let shown: String = client.query_one(&now, &[]).await.unwrap().get(0);
        assert!(!seen.contains(&shown), "{shown} again");
        seen.push(shown);
        let count: i32 = client.query_one(&tables, &[]).await.unwrap().get(0);
        assert_eq!(count, n);
        other.run(&format!("CREATE TABLE new{n} (a INT)")).await;
        if n == 3 {
            session.run("SET timezone TO 'Asia/Tokyo'").await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(seen[3].ends_with("UTC") && seen[4].ends_with("Tokyo"), "{seen:?}");
    // A view is read as it is now.
    session.run("CREATE TABLE f (id INT PRIMARY KEY, v INT); INSERT INTO f VALUES (1, 1)").await;
    session.run("CREATE MATERIALIZED VIEW w AS SELECT id, max(v) AS v FROM f GROUP BY id").await;
    let of_view = client.prepare("SELECT v FROM w WHERE id = $1").await.unwrap();
    assert_eq!(again(&session, &of_view, &[&1]).await, [Some(1)]);
    other.run("UPDATE f SET v = 5").await;
    assert_eq!(again(&session, &of_view, &[&1]).await, [Some(5)]);
}
