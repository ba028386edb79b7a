//! Delta tables under several writers, and under a server that dies in a task that writes to them.

use std::time::Duration;

use crate::client::Session;
use crate::server::Server;
use crate::store::Store;

const SOON: Duration = Duration::from_secs(60);

async fn number(session: &Session, sql: &str) -> i64 {
    session.value(sql).await.parse().expect("a number")
}

/// Statements of one client, one after the other; how many were acknowledged. 40001 is an answer, too.
async fn acknowledged(session: Session, statements: Vec<String>) -> i64 {
    let mut done = 0;
    for sql in statements {
        match session.try_run(&sql).await {
            Ok(_) => done += 1,
            Err(failure) => assert_eq!(failure.sqlstate.as_deref(), Some("40001"), "{failure}\nin: {sql}"),
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_two_servers_lose_no_commit() {
    let servers = [Server::start(), Server::start()];
    let place = servers[0].dir().join("shared").display().to_string();
    writers_lose_no_commit(&servers, &place, 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_a_bucket_is_written_by_two_servers_and_a_sink() {
    let store = Store::start(&["data"]);
    let servers = [Server::start(), Server::start()];
    for server in &servers {
        server.connect().await.run(&store.secret("s", "")).await;
    }
    writers_lose_no_commit(&servers, "s3://data/shared", 6).await;

    let session = servers[0].connect().await;
    session.run("CREATE TABLE rows (id BIGINT, d DATE) APPEND ONLY").await;
    for (name, connector) in [("delta", "delta"), ("files", "parquet")] {
        session
            .run(&format!(
                "CREATE SINK {name} FROM rows WITH (connector = '{connector}', location = 's3://data/{name}/', \
                 partition_by = 'd', commit_interval = '50 ms', secret = 's')"
            ))
            .await;
    }
    session.run("INSERT INTO rows SELECT g, DATE '2026-01-01' + g::int % 3 FROM generate_series(1, 999) AS g").await;
    session.run("CREATE EXTERNAL TABLE delta_rows STORED AS DELTA LOCATION 's3://data/delta'").await;
    let files = "(id BIGINT, d DATE) STORED AS PARQUET LOCATION 's3://data/files/' PARTITIONED BY (d)";
    session.run(&format!("CREATE EXTERNAL TABLE file_rows {files}")).await;
    for table in ["delta_rows", "file_rows"] {
        let sums = format!("SELECT d, count(*), sum(id) FROM {table} GROUP BY d");
        let expected = ["2026-01-01|333|166833", "2026-01-02|333|166167", "2026-01-03|333|166500"];
        session.eventually(&sums, SOON, &expected).await;
    }
    let hidden: Vec<String> = store.keys("data").into_iter().filter(|key| key.contains("_millstream")).collect();
    assert!(hidden.iter().all(|key| key.ends_with("sink.json")), "{hidden:?}");
}

/// Clients of two servers insert into one Delta table, change one row of it, and put its files together.
async fn writers_lose_no_commit(servers: &[Server; 2], place: &str, each: usize) {
    let (mut inserts, mut updates, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for (s, server) in servers.iter().enumerate() {
        let session = server.connect().await;
        let columns = if s == 0 { "(id BIGINT NOT NULL, n BIGINT, d INT)" } else { "" };
        let partitions = if s == 0 { "PARTITIONED BY (d)" } else { "" };
        session
            .run(&format!("CREATE EXTERNAL TABLE t {columns} STORED AS DELTA LOCATION '{place}' {partitions}"))
            .await;
        if s == 0 {
            session.run("INSERT INTO t VALUES (0, 0, 0)").await;
        }
        for client in 0..2 {
            let first = (s * 2 + client + 1) * 1000;
            let insert = |n: usize| format!("INSERT INTO t VALUES ({}, 1, {})", first + n, n % 3);
            inserts.push(tokio::spawn(acknowledged(server.connect().await, (0..each).map(insert).collect())));
            let update = vec!["UPDATE t SET n = n + 1 WHERE id = 0".to_string(); each.div_ceil(3)];
            updates.push(tokio::spawn(acknowledged(server.connect().await, update)));
        }
        let optimize = vec!["OPTIMIZE t".to_string(); 2];
        others.push(tokio::spawn(acknowledged(server.connect().await, optimize)));
    }
    let (mut inserted, mut updated) = (0, 0);
    for task in inserts {
        inserted += task.await.expect("a client");
    }
    for task in updates {
        updated += task.await.expect("a client");
    }
    for task in others {
        task.await.expect("a client");
    }
    for server in servers {
        let session = server.connect().await;
        assert_eq!(number(&session, "SELECT count(*) FROM t WHERE id > 0").await, inserted);
        assert_eq!(number(&session, "SELECT count(DISTINCT id) FROM t").await, inserted + 1);
        assert_eq!(number(&session, "SELECT n FROM t WHERE id = 0").await, updated);
    }
    // Appends never give way.
    assert_eq!(inserted, 4 * each as i64);
    assert!(updated > 0);
    eprintln!("lake: {inserted} inserts and {updated} updates by two servers, none lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_writes_to_the_lake_once_although_the_server_dies() {
    let mut server = Server::start();
    let session = server.connect().await;
    let place = server.dir().join("log").display().to_string();
    session.run(&format!("CREATE EXTERNAL TABLE log (at TIMESTAMPTZ, n INT) STORED AS DELTA LOCATION '{place}'")).await;
    session.run("CREATE TABLE t (n INT)").await;
    session.run("CREATE TASK fill AS $$ INSERT INTO t VALUES (1); INSERT INTO log SELECT run_time(), 7; INSERT INTO t VALUES (2) $$").await;
    for (hour, point) in ["task.started", "task.alone", "task.committed"].into_iter().enumerate() {
        let client = server.connect().await;
        server.arm(point, "abort 1 1");
        let time = format!("2026-01-01 0{hour}:00:00+00");
        assert!(client.try_run(&format!("EXECUTE TASK fill FOR TIMESTAMP '{time}'")).await.is_err(), "{point}");
        assert!(server.ends_within(SOON), "{point}");
        server.wait();
        server.disarm();
        server.restart();
        let session = server.connect().await;
        let rows = format!("SELECT count(*) FROM log WHERE at = '{time}'");
        session.eventually(&rows, SOON, &["1"]).await;
        session.eventually("SELECT count(*) FROM t", SOON, &[&(2 * (hour + 1)).to_string()]).await;
    }
    let session = server.connect().await;
    let states = "SELECT state, count(*) FROM millstream.task_runs GROUP BY state";
    session.eventually(states, SOON, &["abandoned|3", "succeeded|3"]).await;
    assert_eq!(session.rows("SELECT count(*), sum(n) FROM log").await, ["3|21"]);
    assert_eq!(session.rows("SELECT count(*), sum(n) FROM t").await, ["6|9"]);
    // The same again, as it is asked for anew.
    session.run("EXECUTE TASK fill FOR TIMESTAMP '2026-01-01 00:00:00+00'").await;
    assert_eq!(session.value("SELECT count(*) FROM log").await, "4");
    let inputs = "SELECT count(*) FROM millstream.task_runs WHERE state = 'succeeded'";
    assert_eq!(session.value(inputs).await, "4");
}
