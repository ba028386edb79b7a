//! Views over much that was there before them: how they are built bit by bit, watched, cancelled, and taken up again.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::client::Session;
use crate::server::Server;

const ROWS: i64 = 500_000;
const SELECT: &str = "SELECT g, count(*) AS n, sum(v) AS s FROM t GROUP BY g";
const LIMIT: Duration = Duration::from_secs(120);

/// A server with a table of many rows, which takes them into a view in small steps.
async fn server(rows: i64) -> Server {
    let server = Server::with(&[("MILLSTREAM__EPOCH__MAX_ROWS", "8192")]);
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, v INT)").await;
    for from in (0..rows).step_by(50_000) {
        let to = rows.min(from + 50_000) - 1;
        session.run(&format!("INSERT INTO t SELECT n, n % 1000, n FROM generate_series({from}, {to}) AS s (n)")).await;
    }
    server
}

/// Waits until a job has done something; returns its id and the rows it has done.
async fn job(session: &Session) -> (String, i64) {
    let start = Instant::now();
    loop {
        let jobs = session.run("SELECT id, rows_done, rows_total, status FROM millstream.jobs").await.rows;
        if let Some(row) = jobs.first() {
            let number = |n: usize| row[n].as_deref().unwrap_or_default().parse::<i64>().expect("a number");
            assert!(number(1) <= number(2), "{row:?}");
            if number(1) > 0 {
                return (number(0).to_string(), number(1));
            }
        }
        assert!(start.elapsed() < LIMIT, "no job began");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_goes_on_where_it_was() {
    let mut server = server(ROWS).await;
    let creator = server.connect().await;
    let creating =
        tokio::spawn(async move { creator.try_run(&format!("CREATE MATERIALIZED VIEW v AS {SELECT}")).await });
    let session = server.connect().await;
    let (_, before) = job(&session).await;
    // Not to be read before it is complete.
    assert_eq!(session.error("SELECT * FROM v").await.sqlstate.as_deref(), Some("55000"));
    session.run("UPDATE t SET v = v + 1 WHERE id % 1000 = 7").await;
    server.kill();
    assert!(creating.await.expect("no panic").is_err(), "the view was complete before the server was killed");
    server.restart();
    let session = server.connect().await;
    let (_, after) = job(&session).await;
    assert!(after >= before, "{before} rows were done before the kill, {after} after it");
    session.run("DELETE FROM t WHERE id % 1000 = 8 AND id < 100000").await;
    let start = Instant::now();
    while session.value("SELECT count(*) FROM millstream.jobs").await != "0" {
        assert!(start.elapsed() < LIMIT, "the view is not complete");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(session.rows("SELECT * FROM v").await, session.rows(SELECT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_can_be_cancelled_in_three_ways() {
    let server = server(200_000).await;
    let session = server.connect().await;
    for way in ["client", "job", "drop"] {
        let creator = server.connect().await;
        let cancel = creator.client.cancel_token();
        let creating =
            tokio::spawn(async move { creator.try_run(&format!("CREATE MATERIALIZED VIEW v AS {SELECT}")).await });
        let (id, _) = job(&session).await;
        match way {
            "client" => cancel.cancel_query(NoTls).await.expect("a cancel request"),
            "job" => drop(session.run(&format!("CANCEL JOB {id}")).await),
            _ => drop(session.run("DROP MATERIALIZED VIEW v").await),
        }
        let failure = creating.await.expect("no panic").expect_err("the view is not made");
        assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{way}: {failure}");
        assert_eq!(session.error("SELECT * FROM v").await.sqlstate.as_deref(), Some("42P01"), "{way}");
        assert!(session.rows("SELECT * FROM millstream.jobs").await.is_empty(), "{way}");
        assert_eq!(session.error(&format!("CANCEL JOB {id}")).await.sqlstate.as_deref(), Some("42704"));
    }
    session.run(&format!("CREATE MATERIALIZED VIEW v AS {SELECT}")).await;
    assert_eq!(session.rows("SELECT * FROM v").await, session.rows(SELECT).await);
    let epochs = session.value("SELECT count(*) FROM millstream.epochs WHERE rows_in > 0 AND written_bytes > 0").await;
    assert!(epochs.parse::<i64>().expect("a count") > 10, "{epochs} epochs with rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_fails_while_it_is_built_is_an_error_and_leaves_nothing() {
    let server = server(200_000).await;
    let session = server.connect().await;
    session.run("CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM t").await;
    let create = format!("CREATE MATERIALIZED VIEW v AS {SELECT}");
    // In its first epoch, among writes of others.
    server.arm("view.run.v", "panic");
    let writer = server.connect().await;
    let writes = async {
        for id in 1..20 {
            writer.run(&format!("INSERT INTO t VALUES (-{id}, 1, 1)")).await;
        }
    };
    let (failure, ()) = tokio::join!(session.error(&create), writes);
    assert_eq!(failure.sqlstate.as_deref(), Some("XX000"), "{failure}");
    assert!(failure.message.contains("materialized view \"v\" cannot be built"), "{failure}");
    assert_eq!(session.error("SELECT * FROM v").await.sqlstate.as_deref(), Some("42P01"));
    assert_eq!(session.value("SELECT count(*) FROM millstream.views WHERE name = 'v'").await, "0");
    // With it goes all of its transaction.
    session.run("BEGIN").await;
    session.run("CREATE TABLE u (x INT)").await;
    session.run("INSERT INTO u VALUES (1)").await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT x FROM u").await;
    assert_eq!(session.error("COMMIT").await.sqlstate.as_deref(), Some("XX000"));
    assert_eq!(session.error("SELECT * FROM u").await.sqlstate.as_deref(), Some("42P01"));
    assert_eq!(session.value("SELECT count(*) FROM millstream.ddl_history WHERE name IN ('u', 'v')").await, "0");
    // In a later epoch.
    server.disarm();
    let creator = server.connect().await;
    let creating = tokio::spawn({
        let create = create.clone();
        async move { creator.try_run(&create).await }
    });
    job(&session).await;
    let started = session.value("SELECT now() - started_at < INTERVAL '1 minute' FROM millstream.jobs").await;
    assert_eq!(started, "t");
    server.arm("view.run.v", "panic");
    let failure = creating.await.expect("no panic").expect_err("the view is not made");
    assert_eq!(failure.sqlstate.as_deref(), Some("XX000"), "{failure}");
    assert_eq!(session.error("SELECT * FROM v").await.sqlstate.as_deref(), Some("42P01"));
    assert!(session.rows("SELECT * FROM millstream.jobs").await.is_empty());
    server.disarm();
    session.run(&create).await;
    assert_eq!(session.rows("SELECT * FROM v").await, session.rows(SELECT).await);
    assert_eq!(session.value("SELECT n FROM other").await, "200019");
}
