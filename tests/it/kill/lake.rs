//! Sinks into a Delta table and into Parquet files while the server dies: each row comes once.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::writer::{ROWS_PER_STATEMENT, Writer};
use crate::seed;
use crate::server::Server;

/// Kills in `make test`, and the most that a longer run is given.
const KILLS: u32 = 10;
const KILLS_MAX: u32 = 100;
/// Where a server can be told to die: around the commit of a sink's rows.
const FAIL_POINTS: &[&str] = &["outbox.marked", "outbox.produced", "outbox.sent", "sink.noted", "sink.named"];
/// How long a server may take to come to its fail point; it is killed if it does not.
const FAIL_POINT_LIMIT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_into_the_lake_once() {
    let kills = seed::setting("MILLSTREAM_KILLS", KILLS).min(KILLS_MAX);
    let mut random = StdRng::seed_from_u64(seed::seed("lake"));
    let started = Instant::now();
    let mut server = Server::start();
    let dir = server.dir().join("lake");
    let place = |name: &str| dir.join(name).display().to_string();
    let session = server.connect().await;
    session.run("CREATE TABLE ledger (statement BIGINT, account BIGINT, amount NUMERIC(10, 2)) APPEND ONLY").await;
    for (name, connector, more) in [("delta", "delta", ", compaction_commits = '5'"), ("files", "parquet", "")] {
        session
            .run(&format!(
                "CREATE SINK {name} FROM ledger WITH (connector = '{connector}', location = '{}', \
                 partition_by = 'account', commit_interval = '30 ms'{more})",
                place(name)
            ))
            .await;
    }
    let writer = Writer::insert(server.connection_string());
    for kill in 0..kills {
        if random.random_bool(0.6) {
            let point = FAIL_POINTS[random.random_range(0..FAIL_POINTS.len())];
            server.arm(point, &format!("abort 0.5 {kill}"));
            server.ends_within(FAIL_POINT_LIMIT);
            server.disarm();
        } else {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..600))).await;
        }
        server.kill();
        server.restart();
    }
    // Some go on in peace.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ledger = writer.finish().await;
    let session = server.connect().await;
    session.run(&format!("CREATE EXTERNAL TABLE delta_rows STORED AS DELTA LOCATION '{}'", place("delta"))).await;
    session
        .run(&format!(
            "CREATE EXTERNAL TABLE file_rows (statement BIGINT, amount NUMERIC(10, 2), account BIGINT) \
             STORED AS PARQUET LOCATION '{}' PARTITIONED BY (account)",
            place("files")
        ))
        .await;
    let sums = "SELECT count(*), count(DISTINCT statement), sum(statement), sum(account), sum(amount) FROM";
    let expected = session.rows(&format!("{sums} ledger")).await;
    for table in ["delta_rows", "file_rows"] {
        session.eventually(&format!("{sums} {table}"), SOON, &[&expected[0]]).await;
        let doubled = "GROUP BY statement, account, amount HAVING count(*) > 1";
        let found = session.rows(&format!("SELECT statement FROM {table} {doubled}")).await;
        let here = session.rows(&format!("SELECT statement FROM ledger {doubled}")).await;
        assert_eq!(found, here, "{table}: rows that are there more than once");
    }
    let acknowledged = (ledger.acknowledged.len() * ROWS_PER_STATEMENT) as u64;
    let rows: u64 = session.value("SELECT count(*) FROM delta_rows").await.parse().expect("a number");
    assert!(rows >= acknowledged && acknowledged > 0, "{rows} rows, {acknowledged} acknowledged");
    let commits = session.run("DESCRIBE HISTORY delta_rows").await.rows.len();
    eprintln!("lake: {kills} kills, {rows} rows in {commits} commits, 0 lost, 0 doubled, {:?}", started.elapsed());
}
