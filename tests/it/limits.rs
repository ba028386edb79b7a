//! Bounds of one epoch: large write sets are committed as sorted files, and what is too large fails without the server.

use crate::client::Session;
use crate::process::http_get;
use crate::server::Server;

fn small() -> Server {
    Server::with(&[
        ("MILLSTREAM__STATE__MAX_WRITE_SET_BYTES", "131072"),
        ("MILLSTREAM__STATE__WRITE_SET_LIMIT_BYTES", "4194304"),
    ])
}

/// The value of a counter at `/metrics`; 0 if it is not there.
fn counter(server: &Server, name: &str) -> u64 {
    let (_, metrics) = http_get(server.http_port(), "/metrics").expect("metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().expect("a number"))
}

async fn assert_view(session: &Session, name: &str, select: &str) {
    assert_eq!(session.rows(&format!("SELECT * FROM {name}")).await, session.rows(select).await, "view {name}");
}

const BY_G: &str = "SELECT g, count(*) AS n, sum(v) AS s FROM t GROUP BY g";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_write_set_is_committed_as_files() {
    let mut server = small();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, v INT)").await;
    session.run(&format!("CREATE MATERIALIZED VIEW by_g AS {BY_G}")).await;
    session.run("INSERT INTO t SELECT n, n % 7, n FROM generate_series(1, 100) AS s (n)").await;
    assert_eq!(counter(&server, "millstream_ingested_epochs_total"), 0);
    session.run("INSERT INTO t SELECT n, n % 7, n FROM generate_series(101, 10000) AS s (n)").await;
    session.run("UPDATE t SET v = v + 1 WHERE id > 50").await;
    session.run("DELETE FROM t WHERE id % 2 = 0").await;
    let ingested = counter(&server, "millstream_ingested_epochs_total");
    assert_eq!(ingested, 3);
    assert_view(&session, "by_g", BY_G).await;
    server.kill();
    server.restart();
    let session = server.connect().await;
    assert_view(&session, "by_g", BY_G).await;
    assert_eq!(session.value("SELECT count(*) FROM t").await, "5000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_past_the_limit_fails_alone() {
    let server = small();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, v INT)").await;
    session.run(&format!("CREATE MATERIALIZED VIEW by_g AS {BY_G}")).await;
    session.run("INSERT INTO t VALUES (1, 1, 1)").await;
    let others: Vec<_> = (0..3)
        .map(|n| {
            let connecting = server.try_connect();
            async move {
                let session = connecting.await.expect("a connection");
                for i in 0..20 {
                    session.run(&format!("INSERT INTO t VALUES ({}, {n}, {i})", -(n * 100 + i) - 1)).await;
                }
            }
        })
        .collect();
    let large = async {
        for _ in 0..3 {
            let failure =
                session.error("INSERT INTO t SELECT n, n % 7, n FROM generate_series(1000, 300000) AS s (n)").await;
            assert_eq!(failure.sqlstate.as_deref(), Some("54000"), "{failure}");
            let failure = session.error("CREATE TABLE c AS SELECT n FROM generate_series(1, 2000000) AS s (n)").await;
            assert_eq!(failure.sqlstate.as_deref(), Some("54000"), "{failure}");
        }
    };
    tokio::join!(large, futures::future::join_all(others));
    assert_eq!(session.value("SELECT count(*) FROM t").await, "61");
    assert_view(&session, "by_g", BY_G).await;
}

/// Rows that a statement gathers before it writes them are not gathered without end; what it did to views is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_gathers_too_much_is_refused() {
    let server = small();
    let session = server.connect().await;
    let failure = session.error("CREATE TABLE big AS SELECT n FROM generate_series(1, 1000000000) AS s (n)").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("54000"), "{failure}");
    session.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    session.run("CREATE MATERIALIZED VIEW quotients AS SELECT id, 1 / (n - 40000000) AS q FROM t").await;
    session.run("CREATE MATERIALIZED VIEW wide AS SELECT id, repeat('x', n) AS r FROM t").await;
    let failure = session.error("INSERT INTO t VALUES (1, 40000000)").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("54000"), "{failure}");
    assert_eq!(session.rows("SELECT failed_rows FROM millstream.views").await, ["0", "0"]);
}

/// A small statement whose effect on a view is large is refused like a large one, and the view goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_whose_join_explodes_fails_and_its_view_goes_on() {
    let server = small();
    let session = server.connect().await;
    session.run("CREATE TABLE a (k INT, x INT); CREATE TABLE b (k INT, y INT)").await;
    let select = "SELECT a.k, x, y FROM a JOIN b ON a.k = b.k";
    session.run(&format!("CREATE MATERIALIZED VIEW pairs AS {select}")).await;
    session.run("INSERT INTO a SELECT 1, n FROM generate_series(1, 2000) AS s (n)").await;
    let failure = session.error("INSERT INTO b SELECT 1, n FROM generate_series(1, 1000) AS s (n)").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("54000"), "{failure}");
    session.run("INSERT INTO b VALUES (1, 5), (2, 6)").await;
    assert_eq!(session.value("SELECT count(*) FROM pairs").await, "2000");
    assert_view(&session, "pairs", select).await;
    assert_eq!(session.value("SELECT status FROM millstream.views WHERE name = 'pairs'").await, "running");
}

/// State of more than ten times the caches is read from the store, and is right: also after a restart, when one row of a
/// dimension restates all rows at once, and when everything goes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_of_many_times_the_caches() {
    const CACHES_BYTES: u64 = 1 << 20;
    let size = CACHES_BYTES.to_string();
    let mut server = Server::with(&[
        ("MILLSTREAM__STATE__CACHE_BYTES", &size),
        ("MILLSTREAM__STATE__BLOCK_CACHE_BYTES", &size),
        ("MILLSTREAM__STATE__WRITE_BUFFER_BYTES", "8388608"),
    ]);
    let session = server.connect().await;
    session.run("CREATE TABLE dims (d INT PRIMARY KEY, name TEXT)").await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, d INT, g INT, v INT, pad TEXT)").await;
    let views = [
        ("by_g", "SELECT g, count(*) AS n, sum(v) AS s, max(pad) AS p FROM t GROUP BY g"),
        ("joined", "SELECT t.id, t.pad, dims.name FROM t JOIN dims ON t.d = dims.d"),
        ("values_of_g", "SELECT g % 10 AS k, count(DISTINCT v) AS n FROM t GROUP BY g % 10"),
        (
            "latest",
            "SELECT id, g, v FROM (SELECT *, row_number() OVER (PARTITION BY g ORDER BY v DESC, id) AS n FROM t) AS r WHERE n <= 2",
        ),
        ("running", "SELECT id, sum(v) OVER (PARTITION BY g ORDER BY id) AS s FROM t"),
    ];
    for (name, select) in views {
        session.run(&format!("CREATE MATERIALIZED VIEW {name} AS {select}")).await;
    }
    session.run("INSERT INTO dims VALUES (1, 'one'), (2, 'two')").await;
    // Text that does not compress.
    let pad = "md5(n::text) || md5((-n)::text) || md5((n + 0.5)::text)";
    let rows = format!("n, CASE WHEN n % 50 = 0 THEN 2 ELSE 1 END, n * 7919 % 20000, n % 5000, {pad}");
    for part in 0..4 {
        let (first, last) = (part * 20_000 + 1, (part + 1) * 20_000);
        session.run(&format!("INSERT INTO t SELECT {rows} FROM generate_series({first}, {last}) AS s (n)")).await;
    }
    let check = async |session: &Session| {
        for (name, select) in views {
            let differences = format!(
                "SELECT count(*) FROM ((SELECT * FROM {name} EXCEPT ALL {select}) UNION ALL ({select} EXCEPT ALL SELECT * FROM {name})) AS d"
            );
            assert_eq!(session.value(&differences).await, "0", "view {name}");
        }
    };
    check(&session).await;
    session.run("UPDATE t SET v = v + 1, g = g + 1 WHERE id % 97 = 0").await;
    session.run("DELETE FROM t WHERE id % 89 = 0").await;
    server.terminate();
    server.restart();
    let session = server.connect().await;
    session.run("UPDATE t SET v = v + 3 WHERE id % 83 = 0").await;
    check(&session).await;
    let state = session.value("SELECT sum(state_bytes) FROM millstream.views").await;
    let state: u64 = state.parse().expect("a number of bytes");
    assert!(state > 10 * CACHES_BYTES, "{state} bytes of state are not much");
    // All rows but one of fifty are of this one.
    session.run("UPDATE dims SET name = 'uno' WHERE d = 1").await;
    let renamed = session.value("SELECT count(*) FROM joined WHERE name = 'uno'").await;
    assert_eq!(renamed, session.value("SELECT count(*) FROM t WHERE d = 1").await);
    session.run("DELETE FROM t").await;
    for (name, _) in views {
        assert_eq!(session.value(&format!("SELECT count(*) FROM {name}")).await, "0", "view {name}");
    }
}

/// Sorts, groups and joins that need several times the memory of batch statements go through files, and are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_statements_larger_than_their_memory_spill() {
    let server = Server::with(&[("MILLSTREAM__BATCH__MEMORY_LIMIT_BYTES", "33554432")]);
    let session = server.connect().await;
    // 500,000 rows of some 110 bytes are more than the limit, which DataFusion counts twice where it sorts.
    let rows = "(SELECT n, n::bigint * 7919 % 500000 AS k, repeat('x', 60) || n AS pad FROM generate_series(0, 499999) AS s (n))";
    let sorted = format!(
        "SELECT count(*) AS n, sum(CASE WHEN k = r - 1 THEN 0 ELSE 1 END) AS misplaced, sum(length(pad)) AS bytes \
         FROM (SELECT k, pad, row_number() OVER (ORDER BY k) AS r FROM {rows} AS t) AS s"
    );
    assert_eq!(session.rows(&sorted).await, ["500000|0|32888890"]);
    let grouped = format!(
        "SELECT count(*), sum(n), sum(length(m)) \
         FROM (SELECT k, count(*) AS n, max(pad) AS m FROM {rows} AS t GROUP BY k) AS s"
    );
    assert_eq!(session.rows(&grouped).await, ["500000|500000|32888890"]);
    let joined = format!(
        "SELECT count(*), sum(length(a.pad) + length(b.pad)), sum(a.n) FROM {rows} AS a JOIN {rows} AS b ON a.k = b.n"
    );
    assert_eq!(session.rows(&joined).await, ["500000|65777780|124999750000"]);
    let query = format!("SELECT k, pad FROM {rows} AS t ORDER BY k DESC");
    let stream = session.client.query_raw(&query, Vec::<String>::new()).await.expect("rows");
    futures::pin_mut!(stream);
    let mut expected = (0..500_000_i64).rev();
    while let Some(row) = futures::StreamExt::next(&mut stream).await {
        assert_eq!(Some(row.expect("a row").get::<_, i64>(0)), expected.next());
    }
    assert_eq!(expected.next(), None);
    // Nothing is left of it: another such statement finds the same memory.
    assert_eq!(session.rows(&sorted).await, ["500000|0|32888890"]);
}
