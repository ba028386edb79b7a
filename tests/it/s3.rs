//! Files in S3: external tables of every format, COPY TO, secrets, and a server that denies, is away, and dies.

use std::time::{Duration, Instant};

use crate::client::Session;
use crate::server::Server;
use crate::store::Store;

/// Longest time until a bucket that is away is an error.
const AWAY_LIMIT: Duration = Duration::from_secs(30);

/// A server with a table, and an S3 server with a bucket and a secret for it.
async fn start() -> (Server, Session, Store) {
    let store = Store::start(&["data", "other"]);
    let server = Server::start();
    let session = server.connect().await;
    session.run(&store.secret("s", "")).await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, name TEXT, amount NUMERIC(10,2), at TIMESTAMP, d DATE)").await;
    session
        .run(
            "INSERT INTO t VALUES (1, 'one', 1.50, '2026-01-01 10:00:00', '2026-01-01'), \
             (2, 'a;\"b\"', -2.25, NULL, '2026-01-02'), (3, NULL, NULL, '2026-01-03 00:00:00.5', '2026-01-02')",
        )
        .await;
    (server, session, store)
}

const ROWS: [&str; 3] = [
    "1|one|1.50|2026-01-01 10:00:00|2026-01-01",
    "2|a;\"b\"|-2.25|∅|2026-01-02",
    "3|∅|∅|2026-01-03 00:00:00.5|2026-01-02",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_every_format_are_written_and_read() {
    let (mut server, session, store) = start().await;
    for (format, file) in [
        ("PARQUET", "t.parquet"),
        ("CSV", "t.csv"),
        ("CSV", "t.csv.gz"),
        ("CSV", "t.csv.zst"),
        ("JSON", "t.json"),
        ("JSON", "t.json.gz"),
    ] {
        let url = format!("s3://data/{file}");
        assert_eq!(session.run(&format!("COPY t TO '{url}'")).await.affected, 3, "{file}");
        let read = format!("SELECT id, name, amount, at, d FROM read_{}('{url}')", format.to_lowercase());
        let shown = session.rows(&read).await;
        let rows = ROWS.map(|row| if format == "PARQUET" { row.to_string() } else { row.replace("1.50", "1.5") });
        assert_eq!(shown, rows, "{file}");
        let columns = "id INT, name TEXT, amount NUMERIC(10,2), at TIMESTAMP, d DATE";
        session.run(&format!("CREATE EXTERNAL TABLE e ({columns}) STORED AS {format} LOCATION '{url}'")).await;
        assert_eq!(session.rows("SELECT * FROM e").await, ROWS, "{file}");
        session.run("DROP EXTERNAL TABLE e").await;
    }

    // Folders by partition, read with their values; globs; several places at once.
    session
        .run("COPY t TO 's3://data/parts' WITH (FORMAT parquet, PARTITION_BY (d), ROWS_PER_FILE 1, SECRET 's')")
        .await;
    let keys = [
        "parts/d=2026-01-01/data_0001.parquet",
        "parts/d=2026-01-02/data_0001.parquet",
        "parts/d=2026-01-02/data_0002.parquet",
    ];
    assert_eq!(store.keys("data").into_iter().filter(|key| key.starts_with("parts/")).collect::<Vec<_>>(), keys);
    session.run("CREATE EXTERNAL TABLE parts STORED AS PARQUET LOCATION 's3://data/parts/' PARTITIONED BY (d) WITH (secret = 's')").await;
    assert_eq!(session.rows("SELECT id, name, amount, at, d FROM parts").await, ROWS);
    assert_eq!(session.rows("SELECT id FROM parts WHERE d = '2026-01-01'").await, ["1"]);
    let plan = session.rows("EXPLAIN SELECT id FROM parts WHERE d = '2026-01-01'").await.join("\n");
    assert!(plan.contains("d=2026-01-01/data_0001") && !plan.contains("d=2026-01-02"), "{plan}");
    assert_eq!(session.rows("SELECT count(*) FROM read_parquet('s3://data/parts/*/data_0002.parquet')").await, ["1"]);
    let two = "SELECT count(*) FROM read_parquet(ARRAY['s3://data/parts/', 's3://data/t.parquet'])";
    assert_eq!(session.rows(two).await, ["6"]);

    // A folder that has files is replaced only if that is asked for.
    let again = "COPY t TO 's3://data/parts/' WITH (FORMAT parquet, PARTITION_BY (id)";
    let failure = session.error(&format!("{again})")).await;
    assert_eq!(failure.sqlstate.as_deref(), Some("58P02"), "{failure}");
    session.run(&format!("{again}, OVERWRITE true)")).await;
    let keys = store.keys("data").into_iter().filter(|key| key.starts_with("parts/")).collect::<Vec<_>>();
    assert_eq!(keys, ["parts/id=1/data_0001.parquet", "parts/id=2/data_0001.parquet", "parts/id=3/data_0001.parquet"]);

    // An empty result is a file all the same, and what is in the catalog outlives a kill.
    session.run("COPY (SELECT * FROM t WHERE false) TO 's3://other/none.parquet'").await;
    assert_eq!(session.rows("SELECT count(*) FROM read_parquet('s3://other/none.parquet')").await, ["0"]);
    server.kill();
    server.restart();
    let session = server.connect().await;
    let failure = session.error("SELECT * FROM parts").await;
    assert!(failure.message.contains("is in no folder \"d=…\""), "{failure}");
    assert_eq!(session.rows("SELECT count(*) FROM read_csv('s3://data/t.csv')").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_open_what_they_are_for_and_are_shown_nowhere() {
    let (mut server, session, store) = start().await;
    session.run("COPY t TO 's3://data/x.csv'").await;
    session.run("DROP SECRET s").await;
    let failure = session.error("SELECT * FROM read_csv('s3://data/x.csv')").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("42704"), "{failure}");
    session.run(&store.secret("of_other", ", scope = 's3://other/'")).await;
    assert_eq!(session.error("SELECT * FROM read_csv('s3://data/x.csv')").await.sqlstate.as_deref(), Some("42704"));
    session.run(&store.secret("of_data", ", scope = 's3://data/'")).await;
    assert_eq!(session.rows("SELECT count(*) FROM read_csv('s3://data/x.csv')").await, ["3"]);

    // Wrong keys: an error that names the file and the secret, and no key.
    let wrong = store.secret("wrong", ", scope = 's3://data/x.csv'").replace("testtest", "hunter2hunter2");
    session.run(&wrong).await;
    let failure = session.error("SELECT * FROM read_csv('s3://data/x.csv')").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("42501"), "{failure}");
    assert!(
        failure.message.contains("s3://data/x.csv") && failure.to_string().contains("secret \"wrong\""),
        "{failure}"
    );
    let failure = session.error("COPY t TO 's3://data/y.csv' WITH (SECRET 'wrong')").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("42501"), "{failure}");
    let failure = session.error("COPY t TO 's3://data/y/' WITH (FORMAT csv, SECRET 'wrong')").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("42501"), "{failure}");
    // One that is named wins over one that is found.
    assert_eq!(session.rows("SELECT count(*) FROM read_csv('s3://data/x.csv', secret => 'of_data')").await, ["3"]);

    // A table holds on to its secret, whose values can change.
    session
        .run(
            "CREATE EXTERNAL TABLE e STORED AS CSV LOCATION 's3://data/x.csv' WITH (secret = 'of_data', header = true)",
        )
        .await;
    assert_eq!(session.error("DROP SECRET of_data").await.sqlstate.as_deref(), Some("2BP01"));
    session.run(&store.secret("of_data", "").replace("testtest", "hunter2hunter2")).await;
    assert_eq!(session.error("SELECT * FROM e").await.sqlstate.as_deref(), Some("42501"));
    session.run(&store.secret("of_data", "")).await;
    assert_eq!(session.rows("SELECT count(*) FROM e").await, ["3"]);
    assert_eq!(
        session.rows("SELECT name, format, location, secret, options FROM millstream.external_tables").await,
        ["e|CSV|s3://data/x.csv|of_data|header=true"]
    );
    let created = session.rows("SHOW CREATE EXTERNAL TABLE e").await.concat();
    assert!(created.contains("secret = 'of_data'"), "{created}");

    let all = server.psql(
        "SHOW SECRETS;\nSHOW CREATE SECRET wrong;\nSHOW CREATE EXTERNAL TABLE e;\n\\d e\n\\d+ e\nSELECT * FROM millstream.secrets;\n\
         SELECT * FROM millstream.ddl_history;\nSELECT * FROM millstream.sessions;\nSELECT * FROM pg_foreign_table;\n\
         EXPLAIN ANALYZE SELECT * FROM e;\nSELECT * FROM read_csv('s3://data/x.csv', secret => 'wrong');",
    );
    assert!(all.contains("of_other") && all.contains("secret = '***'") && all.contains("key_id = '***'"), "{all}");
    for value in ["hunter2", "testtest", "'test'"] {
        assert!(!all.contains(value), "{value} in {all}");
        assert!(!server.log().contains(value), "{value} in {}", server.log());
    }
    server.kill();
    server.restart();
    let session = server.connect().await;
    assert_eq!(session.rows("SELECT count(*) FROM e").await, ["3"]);
    session.run("DROP SECRET of_data CASCADE").await;
    assert_eq!(session.error("SELECT * FROM e").await.sqlstate.as_deref(), Some("42P01"));
    assert_eq!(session.rows("SELECT name FROM millstream.secrets").await, ["of_other", "wrong"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_away_is_an_error_within_seconds() {
    let (_server, session, mut store) = start().await;
    session.run("COPY t TO 's3://data/x.csv'").await;
    session.run("CREATE EXTERNAL TABLE e STORED AS CSV LOCATION 's3://data/x.csv'").await;
    let failure = session.error("SELECT * FROM read_csv('s3://nowhere/x.csv')").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("58P01"), "{failure}");
    assert!(failure.message.contains("bucket \"nowhere\" does not exist"), "{failure}");
    let failure = session.error("SELECT * FROM read_csv('s3://data/none.csv')").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("58P01"), "{failure}");
    let failure = session.error("COPY t TO 's3://nowhere/x.csv'").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("58P01"), "{failure}");

    store.stop();
    for sql in ["SELECT * FROM e", "COPY t TO 's3://data/y.csv'", "SELECT * FROM read_csv('s3://data/')"] {
        let began = Instant::now();
        let failure = session.error(sql).await;
        assert_eq!(failure.sqlstate.as_deref(), Some("08006"), "{sql}: {failure}");
        assert!(failure.message.contains("bucket \"data\"") && failure.hint.is_some(), "{failure}");
        assert!(began.elapsed() < AWAY_LIMIT, "{sql} took {:?}", began.elapsed());
    }
    store.restart();
    assert_eq!(session.rows("SELECT count(*) FROM e").await, ["3"]);
    assert_eq!(store.keys("data"), ["x.csv"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_the_middle_leaves_nothing_half_written() {
    let (mut server, session, mut store) = start().await;
    // Some 100 MB, in parts of eight.
    let rows = "SELECT n, md5(n::text) || md5((n + 1)::text) AS text FROM generate_series(1, 1500000) AS g (n)";
    let copying = |to: &str| format!("COPY ({rows}) TO '{to}'");
    // The store dies.
    let writer = server.connect().await;
    let sql = copying("s3://data/big.csv");
    let writing = tokio::spawn(async move { writer.try_run(&sql).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.stop();
    let outcome = writing.await.expect("no panic");
    if let Err(failure) = &outcome {
        assert!(matches!(failure.sqlstate.as_deref(), Some("08006" | "58030")), "{failure}");
    }
    store.restart();
    assert_eq!(store.keys("data").is_empty(), outcome.is_err());
    // A client that gives up.
    let writer = server.connect().await;
    let cancel = writer.client.cancel_token();
    let sql = copying("s3://data/canceled/") + " WITH (FORMAT csv, FILE_SIZE_BYTES 10000000)";
    let writing = tokio::spawn(async move { writer.try_run(&sql).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let began = Instant::now();
    cancel.cancel_query(tokio_postgres::NoTls).await.expect("a cancel request");
    let failure = writing.await.expect("no panic").expect_err("it was cancelled");
    assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{failure}");
    assert!(began.elapsed() < Duration::from_secs(10));
    // Our server dies.
    let writer = server.connect().await;
    let sql = copying("s3://data/killed/") + " WITH (FORMAT csv, FILE_SIZE_BYTES 10000000)";
    let writing = tokio::spawn(async move { writer.try_run(&sql).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.kill();
    assert!(writing.await.expect("no panic").is_err());
    assert!(store.keys("data").iter().all(|key| !key.starts_with("killed/") && !key.starts_with("canceled/")));
    server.restart();
    drop(session);
    let session = server.connect().await;
    assert_eq!(session.run("COPY t TO 's3://data/killed/' WITH (FORMAT csv)").await.affected, 3);
    assert_eq!(session.rows("SELECT count(*) FROM read_csv('s3://data/killed/')").await, ["3"]);
}
