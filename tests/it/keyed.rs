//! Sources whose records replace and delete the row of a key: kept as a table's rows are, and exact in every view.

use std::time::Duration;

use crate::client::Session;
use crate::kafka::{self, Producer, Record, create_topic};
use crate::server::Server;

const SOON: Duration = Duration::from_secs(20);

fn source(topic: &str, columns: &str, format: &str) -> String {
    format!(
        "CREATE SOURCE s ({columns}) WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{}') \
         FORMAT {format} ENCODE JSON",
        kafka::bootstrap()
    )
}

fn send(topic: &str, records: &[(Option<&str>, Option<&str>)]) {
    let producer = Producer::new();
    for (key, payload) in records {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let (key, payload) = (key.map(bytes), payload.map(bytes));
        producer.send(topic, &Record { key, payload, ..Record::default() });
    }
    producer.flush();
}

/// The source and what is made of it, as batch and as views.
async fn shows(session: &Session, rows: &[&str], by_g: &[&str]) {
    session.eventually("SELECT * FROM s", SOON, rows).await;
    session.eventually("SELECT * FROM copy", SOON, rows).await;
    session.eventually("SELECT * FROM by_g", SOON, by_g).await;
    assert_eq!(session.rows("SELECT g, count(*), sum(v) FROM s GROUP BY g").await, by_g);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn upserts_and_tombstones() {
    create_topic("upserts", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("upserts", "id INT PRIMARY KEY, g TEXT, v INT", "UPSERT")).await;
    session.run("CREATE MATERIALIZED VIEW by_g AS SELECT g, count(*) AS n, sum(v) AS v FROM s GROUP BY g").await;
    send(
        "upserts",
        &[
            (Some("{\"id\":1}"), Some("{\"id\":1,\"g\":\"a\",\"v\":1}")),
            (Some("{\"id\":2}"), Some("{\"id\":2,\"g\":\"a\",\"v\":2}")),
            (Some("{\"id\":1}"), Some("{\"id\":1,\"g\":\"a\",\"v\":10}")),
            (None, Some("{\"id\":9,\"g\":\"a\",\"v\":9}")),
            (Some("{\"id\":3}"), None),
        ],
    );
    session.eventually("SELECT * FROM by_g", SOON, &["a|2|12"]).await;
    // A view that comes later reads what is kept.
    session.run("CREATE MATERIALIZED VIEW copy AS SELECT id, g, v FROM s").await;
    shows(&session, &["1|a|10", "2|a|2"], &["a|2|12"]).await;
    send("upserts", &[(Some("{\"id\":2}"), None), (Some("{\"id\":1}"), Some("{\"id\":1,\"g\":\"b\",\"v\":11}"))]);
    shows(&session, &["1|b|11"], &["b|1|11"]).await;
    let dead = session.rows("SELECT \"offset\", error FROM millstream.dead_letters").await;
    assert!(dead.len() == 1 && dead[0].starts_with("3|"), "{dead:?}");
    let plan = session.rows("EXPLAIN CREATE MATERIALIZED VIEW x AS SELECT id, v FROM s").await.join("\n");
    assert!(plan.contains("Materialize: layout=keyed by (id), retracting"), "{plan}");

    server.kill();
    send("upserts", &[(Some("{\"id\":7}"), Some("{\"id\":7,\"g\":\"b\",\"v\":1}"))]);
    server.restart();
    let session = server.connect().await;
    shows(&session, &["1|b|11", "7|b|1"], &["b|2|12"]).await;
    // It keeps its rows also while no view reads it.
    session.run("DROP MATERIALIZED VIEW by_g").await;
    session.run("DROP MATERIALIZED VIEW copy").await;
    send("upserts", &[(Some("{\"id\":7}"), None), (Some("{\"id\":8}"), Some("{\"id\":8,\"g\":\"c\",\"v\":3}"))]);
    session.eventually("SELECT * FROM s", SOON, &["1|b|11", "8|c|3"]).await;
    session.run("CREATE MATERIALIZED VIEW by_g AS SELECT g, count(*) AS n, sum(v) AS v FROM s GROUP BY g").await;
    session.run("CREATE MATERIALIZED VIEW copy AS SELECT id, g, v FROM s").await;
    shows(&session, &["1|b|11", "8|c|3"], &["b|1|11", "c|1|3"]).await;
    session.run("DROP SOURCE s CASCADE").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn changes_of_debezium() {
    create_topic("debezium", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("debezium", "id INT PRIMARY KEY, g TEXT, v INT NOT NULL", "DEBEZIUM")).await;
    session.run("CREATE MATERIALIZED VIEW by_g AS SELECT g, count(*) AS n, sum(v) AS v FROM s GROUP BY g").await;
    session.run("CREATE MATERIALIZED VIEW copy AS SELECT id, g, v FROM s").await;
    let row = |id: i32, g: &str, v: i32| format!("{{\"id\":{id},\"g\":\"{g}\",\"v\":{v}}}");
    let change = |op: &str, before: Option<String>, after: Option<String>| {
        let text = |row: Option<String>| row.unwrap_or_else(|| "null".to_string());
        format!("{{\"before\":{},\"after\":{},\"op\":\"{op}\",\"ts_ms\":1}}", text(before), text(after))
    };
    let all =
        |changes: &[String]| changes.iter().for_each(|c| send("debezium", &[(Some("{\"id\":1}"), Some(c.as_str()))]));
    all(&[
        change("r", None, Some(row(1, "a", 1))),
        change("c", None, Some(row(2, "a", 2))),
        change("u", None, Some(row(1, "b", 5))),
        // The connector starts again and tells the last changes once more.
        change("c", None, Some(row(2, "a", 2))),
        change("u", Some(row(1, "a", 1)), Some(row(1, "b", 5))),
    ]);
    shows(&session, &["1|b|5", "2|a|2"], &["a|1|2", "b|1|5"]).await;
    server.kill();
    server.restart();
    let session = server.connect().await;
    // The key itself changes; a row goes, and its tombstone follows.
    all(&[change("u", Some(row(1, "b", 5)), Some(row(4, "b", 5))), change("d", Some(row(2, "a", 2)), None)]);
    send("debezium", &[(Some("{\"id\":2}"), None)]);
    shows(&session, &["4|b|5"], &["b|1|5"]).await;
    assert_eq!(session.value("SELECT count(*) FROM millstream.dead_letters").await, "0");
}

/// Rows that are inserted take the place of those with their keys, and a view on the source does not stand still.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inserted_rows_go_by_key() {
    create_topic("upserts-inserted", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("upserts-inserted", "id INT PRIMARY KEY, g TEXT, v INT", "UPSERT")).await;
    session.run("CREATE MATERIALIZED VIEW copy AS SELECT * FROM s").await;
    send("upserts-inserted", &[(Some("{\"id\":1}"), Some("{\"id\":1,\"g\":\"a\",\"v\":1}"))]);
    session.eventually("SELECT * FROM copy", SOON, &["1|a|1"]).await;
    session.run("INSERT INTO s VALUES (1, 'b', 10), (2, 'c', 2)").await;
    for relation in ["copy", "s"] {
        assert_eq!(session.rows(&format!("SELECT * FROM {relation} ORDER BY id")).await, ["1|b|10", "2|c|2"]);
    }
    send("upserts-inserted", &[(Some("{\"id\":2}"), None)]);
    session.eventually("SELECT * FROM copy", SOON, &["1|b|10"]).await;
    server.kill();
    server.restart();
    let session = server.connect().await;
    assert_eq!(session.rows("SELECT * FROM s").await, ["1|b|10"]);
    let error = session.error("ALTER MATERIALIZED VIEW copy SUSPEND").await;
    assert_eq!(error.sqlstate.as_deref(), Some("0A000"), "{error}");
    let error = session.error("INSERT INTO s (g) VALUES ('x')").await;
    assert_eq!(error.sqlstate.as_deref(), Some("23502"), "{error}");
}
