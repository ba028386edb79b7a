//! External tables that views read as they were when they were made: the files change and go, the server is killed, a large
//! one is taken in bit by bit, and nothing is left of it when the view is dropped.

use std::ops::Bound;
use std::time::{Duration, Instant};

use millstream::state::{Store, StoreOptions, TableId};
use tokio_postgres::NoTls;

use crate::client::Session;
use crate::server::Server;

const LIMIT: Duration = Duration::from_secs(120);

/// The view over relation `ledger`, which is named with the moment if there is one.
fn select(ledger: &str) -> String {
    format!(
        "SELECT p.txn, p.amount AS paid, l.amount AS booked FROM paid p LEFT JOIN {ledger} AS l ON l.txn = p.txn \
         WHERE l.amount IS DISTINCT FROM p.amount"
    )
}

const MOMENT: &str = "ledger FOR SYSTEM_TIME AS OF now()";

/// OIDs of the objects that are next made.
async fn next_oid(session: &Session) -> u32 {
    session.run("CREATE TABLE probe (a INT)").await;
    let oid = session.value("SELECT 'probe'::regclass::oid").await.parse::<u32>().expect("an OID");
    session.run("DROP TABLE probe").await;
    oid + 1
}

async fn bytes(session: &Session, oid: u32) -> u64 {
    session.value(&format!("SELECT pg_total_relation_size({oid}::oid)")).await.parse().expect("a size")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_moment_outlives_files_and_a_kill() {
    let mut server = Server::start();
    let session = server.connect().await;
    let folder = server.dir().join("ledger");
    let file = folder.join("a.parquet").display().to_string();
    session.run("CREATE TABLE paid (txn INT PRIMARY KEY, amount NUMERIC(8,2))").await;
    session.run("INSERT INTO paid SELECT n, n % 100 FROM generate_series(1, 2000) AS s (n)").await;
    // Rows that are there twice, and NULL keys, too.
    let rows = "SELECT n % 1500 AS txn, (CASE WHEN n % 7 = 0 THEN 0 ELSE n % 100 END)::NUMERIC(8,2) AS amount \
                FROM generate_series(1, 1600) AS s (n) UNION ALL SELECT NULL, 1";
    session.run(&format!("COPY ({rows}) TO '{file}'")).await;
    session
        .run(&format!(
            "CREATE EXTERNAL TABLE ledger (txn INT, amount NUMERIC(8,2)) STORED AS PARQUET LOCATION '{}/'",
            folder.display()
        ))
        .await;
    session.run("CREATE TABLE old AS SELECT * FROM ledger").await;
    session.run(&format!("CREATE MATERIALIZED VIEW breaks AS {}", select(MOMENT))).await;
    session
        .run(&format!(
            "CREATE MATERIALIZED VIEW sums AS SELECT p.txn % 10 AS d, count(*) AS n, sum(l.amount) AS booked \
             FROM {MOMENT} AS l JOIN paid p ON p.txn = l.txn GROUP BY 1"
        ))
        .await;
    session.run("CREATE MATERIALIZED VIEW above AS SELECT count(*) AS n FROM breaks").await;
    let sums = "SELECT p.txn % 10 AS d, count(*) AS n, sum(l.amount) AS booked FROM old l JOIN paid p ON p.txn = l.txn GROUP BY 1";
    let agrees = async |session: &Session| {
        let expected = session.rows(&select("old")).await;
        assert!(expected.len() > 100);
        assert_eq!(session.rows("SELECT * FROM breaks").await, expected);
        assert_eq!(session.value("SELECT n FROM above").await, expected.len().to_string());
        assert_eq!(session.rows("SELECT * FROM sums").await, session.rows(sums).await);
    };
    agrees(&session).await;

    session.run(&format!("COPY (SELECT 1 AS txn, 77::NUMERIC(8,2) AS amount) TO '{file}'")).await;
    assert_eq!(session.rows("SELECT * FROM ledger").await, ["1|77.00"]);
    agrees(&session).await;
    session.run("UPDATE paid SET amount = amount + 1 WHERE txn % 3 = 0").await;
    session.run("DELETE FROM paid WHERE txn % 5 = 0").await;
    session.run("INSERT INTO paid SELECT n, 3 FROM generate_series(2001, 2100) AS s (n)").await;
    session.run("INSERT INTO paid VALUES (0, 0), (5, 5)").await;
    agrees(&session).await;
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    server.kill();
    server.restart();
    let session = server.connect().await;
    agrees(&session).await;
    session.run("UPDATE paid SET amount = amount - 1 WHERE txn % 3 = 0").await;
    session.run("INSERT INTO paid VALUES (10, 5), (1499, 1) ON CONFLICT (txn) DO UPDATE SET amount = 8").await;
    agrees(&session).await;
    let plan = session.rows("EXPLAIN MATERIALIZED VIEW breaks").await;
    assert!(
        plan.iter().any(|line| line.contains("Scan: l as of 20") || line.contains("Scan: ledger as of 20")),
        "{plan:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_one_is_taken_in_bit_by_bit_and_leaves_nothing() {
    const ROWS: i64 = 300_000;
    let mut server = Server::with(&[("MILLSTREAM__EPOCH__MAX_ROWS", "8192")]);
    let session = server.connect().await;
    let file = server.dir().join("large.parquet").display().to_string();
    session
        .run(&format!(
            "COPY (SELECT n::INT AS id, (n % 1000)::INT AS g FROM generate_series(1, {ROWS}) AS s (n)) TO '{file}'"
        ))
        .await;
    session.run(&format!("CREATE EXTERNAL TABLE large STORED AS PARQUET LOCATION '{file}'")).await;
    session.run("CREATE TABLE names (g INT PRIMARY KEY, name TEXT)").await;
    session.run("INSERT INTO names SELECT n, 'g' || n FROM generate_series(0, 998) AS s (n)").await;
    let query = |large: &str| {
        format!(
            "SELECT n.name, count(*) AS n, sum(l.id) AS s FROM {large} AS l LEFT JOIN names n ON n.g = l.g GROUP BY n.name"
        )
    };
    let create = format!("CREATE MATERIALIZED VIEW v AS {}", query("large FOR SYSTEM_TIME AS OF now()"));
    let job = async |session: &Session| {
        let start = Instant::now();
        loop {
            let jobs = session.run("SELECT id, rows_done FROM millstream.jobs").await.rows;
            if let Some(id) = jobs.first().filter(|job| job[1].as_deref() != Some("0")).and_then(|job| job[0].clone()) {
                return id;
            }
            assert!(start.elapsed() < LIMIT, "no job began");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let began = |creator: Session| {
        let create = create.clone();
        tokio::spawn(async move { creator.try_run(&create).await })
    };

    // Cancelled by the client, as a job, by DROP: nothing stays.
    for way in ["client", "job", "drop"] {
        let creator = server.connect().await;
        let cancel = creator.client.cancel_token();
        let creating = began(creator);
        let id = job(&session).await;
        match way {
            "client" => cancel.cancel_query(NoTls).await.expect("a cancel request"),
            "job" => drop(session.run(&format!("CANCEL JOB {id}")).await),
            _ => drop(session.run("DROP MATERIALIZED VIEW v").await),
        }
        let failure = creating.await.expect("no panic").expect_err("the view is not made");
        assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{way}: {failure}");
        assert_eq!(session.error("SELECT * FROM v").await.sqlstate.as_deref(), Some("42P01"), "{way}");
        session.run("DROP EXTERNAL TABLE large").await;
        session.run(&format!("CREATE EXTERNAL TABLE large STORED AS PARQUET LOCATION '{file}'")).await;
    }

    // Killed in the middle, the file gone: it goes on with what was copied.
    let oid = next_oid(&session).await;
    let creating = began(server.connect().await);
    job(&session).await;
    session.run("UPDATE names SET name = 'new' WHERE g < 10").await;
    server.kill();
    assert!(creating.await.expect("no panic").is_err(), "the view was complete before the server was killed");
    let elsewhere = format!("{file}.moved");
    std::fs::rename(&file, &elsewhere).expect("the file moves");
    server.restart();
    let session = server.connect().await;
    session.run("INSERT INTO names VALUES (999, 'last')").await;
    let start = Instant::now();
    while session.value("SELECT count(*) FROM millstream.jobs").await != "0" {
        assert!(start.elapsed() < LIMIT, "the view is not complete");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let expected = session.rows(&query(&format!("read_parquet('{elsewhere}')"))).await;
    assert_eq!(expected.len(), 991);
    assert_eq!(session.rows("SELECT * FROM v").await, expected);

    // The rows of the moment are the object before the view. They count as its state, and go with it.
    let view = session.value("SELECT 'v'::regclass::oid").await.parse::<u32>().expect("an OID");
    assert_eq!(view, oid + 1);
    server.kill();
    server.restart();
    let session = server.connect().await;
    let (kept, of_view) = (bytes(&session, oid).await, bytes(&session, view).await);
    assert!(kept > 100_000, "{kept} bytes");
    let state = session.value("SELECT state_bytes FROM millstream.views").await.parse::<u64>().expect("a size");
    assert_eq!(state, kept + of_view);
    session.run("DROP MATERIALIZED VIEW v").await;
    session.run("DROP EXTERNAL TABLE large").await;
    let relations = "SELECT relname FROM pg_class WHERE oid >= 16384 ORDER BY relname";
    assert_eq!(session.rows(relations).await, ["names", "names_pkey"]);
    let history = "SELECT DISTINCT kind FROM millstream.ddl_history WHERE kind NOT IN ('table', 'external table')";
    assert_eq!(session.rows(history).await, ["materialized view"]);
    assert!(server.terminate().success());
    let store = Store::open(&StoreOptions::new(server.data_dir())).expect("the server's directory");
    let snapshot = store.snapshot().expect("a snapshot");
    for (object, part) in [oid, view].into_iter().flat_map(|o| (0..64).map(move |part| (o, part))) {
        let mut rows = snapshot.scan(TableId { object, part }, Bound::Unbounded, Bound::Unbounded);
        assert!(rows.next().is_none(), "part {part} of object {object} has rows");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_cannot_be_built_leaves_no_rows() {
    let server = Server::start();
    let session = server.connect().await;
    let file = server.dir().join("a.csv").display().to_string();
    std::fs::write(&file, "id\n1\n2\n").expect("a file");
    session.run(&format!("CREATE EXTERNAL TABLE a (id INT) STORED AS CSV LOCATION '{file}'")).await;
    session.run("CREATE TABLE b (id INT)").await;
    let create = "CREATE MATERIALIZED VIEW v AS SELECT id FROM a FOR SYSTEM_TIME AS OF now()";
    server.arm("view.run.v", "panic");
    let failure = session.error(create).await;
    assert_eq!(failure.sqlstate.as_deref(), Some("XX000"), "{failure}");
    server.disarm();
    // Nothing holds the external table any more.
    session.run("DROP EXTERNAL TABLE a").await;
    session.run(&format!("CREATE EXTERNAL TABLE a (id INT) STORED AS CSV LOCATION '{file}'")).await;
    session.run(create).await;
    assert_eq!(session.rows("SELECT * FROM v").await, ["1", "2"]);
    assert_eq!(session.error("DROP EXTERNAL TABLE a").await.sqlstate.as_deref(), Some("2BP01"));
    // A row that is no number is an error of the statement that would read it.
    std::fs::write(&file, "id\n1\nx\n").expect("a file");
    let failure = session.error("CREATE MATERIALIZED VIEW w AS SELECT id FROM a FOR SYSTEM_TIME AS OF now()").await;
    assert_ne!(failure.sqlstate.as_deref(), Some("XX000"), "{failure}");
    assert_eq!(session.value("SELECT count(*) FROM millstream.views").await, "1");
}
