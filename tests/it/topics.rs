//! Kafka sources and sinks against a real broker, beyond what `sqllogictest/outside/` shows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kafka::{self, Producer, Record, create_topic, produce, read_all};
use crate::server::Server;

const SOON: Duration = Duration::from_secs(20);

fn source(name: &str, columns: &str, topic: &str, more: &str) -> String {
    format!(
        "CREATE SOURCE {name} ({columns}) WITH (connector = 'kafka', topic = '{topic}', \
         properties.bootstrap.server = '{}'{more}) FORMAT PLAIN ENCODE JSON",
        kafka::bootstrap()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn new_partitions_are_found() {
    create_topic("grows", 1);
    produce("grows", 0, &["{\"a\":1}"]);
    let server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "a INT", "grows", ", scan.startup.mode = 'earliest'")).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(a) AS total FROM s").await;
    session.eventually("SELECT * FROM v", SOON, &["1|1"]).await;
    kafka::add_partitions("grows", 3);
    std::thread::sleep(Duration::from_millis(500));
    let producer = Producer::new();
    (0..3).for_each(|partition| producer.send("grows", &Record::of(partition, "{\"a\":10}")));
    producer.flush();
    session.eventually("SELECT * FROM v", Duration::from_secs(90), &["4|31"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn startup_modes_and_included_parts() {
    create_topic("modes", 1);
    let producer = Producer::new();
    for n in 0..4 {
        producer.send(
            "modes",
            &Record {
                partition: 0,
                key: Some(format!("key {n}").into_bytes()),
                payload: Some(format!("{{\"a\":{n}}}").into_bytes()),
                timestamp_ms: Some(1_700_000_000_000 + n * 1000),
                headers: vec![("trace".to_string(), Some(b"abc".to_vec()))],
            },
        );
    }
    producer.flush();
    let server = Server::start();
    let session = server.connect().await;
    for (name, more) in [
        ("early", ", scan.startup.mode = 'earliest'"),
        ("late", ", scan.startup.mode = 'latest'"),
        ("timed", ", scan.startup.mode = 'timestamp', scan.startup.timestamp.millis = '1700000002000'"),
    ] {
        session.run(&source(name, "a INT", "modes", more)).await;
        session.run(&format!("CREATE MATERIALIZED VIEW v_{name} AS SELECT a FROM {name}")).await;
    }
    session.eventually("SELECT a FROM v_early", SOON, &["0", "1", "2", "3"]).await;
    session.eventually("SELECT a FROM v_timed", SOON, &["2", "3"]).await;
    assert!(session.rows("SELECT a FROM v_late").await.is_empty());
    produce("modes", 0, &["{\"a\":4}"]);
    session.eventually("SELECT a FROM v_late", SOON, &["4"]).await;

    session
        .run(&format!(
            "CREATE SOURCE parts (a INT) INCLUDE key AS k INCLUDE partition AS p INCLUDE offset AS o \
             INCLUDE timestamp AS t INCLUDE headers AS h WITH (connector = 'kafka', topic = 'modes', \
             properties.bootstrap.server = '{}', scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON",
            kafka::bootstrap()
        ))
        .await;
    let rows = session.rows("SELECT a, k, p, o, t FROM parts WHERE a = 1").await;
    // The key is bytes: what it means is for the user to say.
    assert_eq!(rows, ["1|\\x6b65792031|0|1|2023-11-14 22:13:21+00"]);
    let headers = session.value("SELECT h FROM parts WHERE a = 1").await;
    assert!(headers.contains("trace"), "{headers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_broker_is_an_error_within_ten_seconds() {
    let server = Server::start();
    let session = server.connect().await;
    let start = Instant::now();
    let sql = source("s", "a INT", "t", "").replace(kafka::bootstrap(), "127.0.0.1:1");
    let error = session.error(&sql).await;
    assert!(start.elapsed() < Duration::from_secs(10), "after {:?}", start.elapsed());
    assert!(error.message.contains("127.0.0.1:1"), "{error}");
    assert!(session.rows("SHOW SOURCES").await.is_empty());
}

/// Ten views on one source read it once, and the source's numbers are there to look at.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_shared_source_is_read_once() {
    create_topic("shared", 2);
    let server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "a INT, b INT, c TEXT", "shared", ", scan.startup.mode = 'earliest'")).await;
    for n in 0..5 {
        session
            .run(&format!("CREATE MATERIALIZED VIEW v{n} AS SELECT sum(a + {n}) AS total FROM s WHERE b <> {n}"))
            .await;
    }
    let producer = Producer::new();
    for n in 0..1000 {
        producer.send("shared", &Record::of(n % 2, format!("{{\"a\":{n},\"b\":{},\"c\":\"x\"}}", n % 5)));
    }
    producer.flush();
    for n in 0..5_i64 {
        let total: i64 = (0..1000).filter(|a| a % 5 != n).map(|a| a + n).sum();
        session.eventually(&format!("SELECT total FROM v{n}"), SOON, &[total.to_string().as_str()]).await;
    }
    let outcome = session.run("SELECT * FROM millstream.sources").await;
    assert!(!outcome.rows.is_empty(), "the source is not in millstream.sources");
}

/// FORMAT PLAIN: one JSON object a row. FORMAT UPSERT: the key, the row, and a tombstone for what is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sinks_write_what_the_views_hold() {
    create_topic("sink-in", 1);
    create_topic("sink-plain", 1);
    create_topic("sink-upsert", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "id INT, amount DECIMAL(8,2), note TEXT, ts TIMESTAMP", "sink-in", "")).await;
    session.run("CREATE MATERIALIZED VIEW large AS SELECT id, amount, note, ts FROM s WHERE amount > 10").await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    session.run("CREATE MATERIALIZED VIEW doubled AS SELECT id, v * 2 AS v FROM t").await;
    let with = |topic: &str, more: &str| {
        format!(
            "WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{}'{more})",
            kafka::bootstrap()
        )
    };
    session.run(&format!("CREATE SINK plain FROM large {} FORMAT PLAIN ENCODE JSON", with("sink-plain", ""))).await;
    let upsert = with("sink-upsert", ", primary_key = 'id'");
    session.run(&format!("CREATE SINK upsert FROM doubled {upsert} FORMAT UPSERT ENCODE JSON")).await;

    produce(
        "sink-in",
        0,
        &[
            "{\"id\":1,\"amount\":10.50,\"note\":\"a \\\"quoted\\\" note\",\"ts\":\"2024-01-01 00:00:00\"}",
            "{\"id\":2,\"amount\":1}",
            "{\"id\":3,\"amount\":99.99,\"note\":null,\"ts\":null}",
        ],
    );
    session.run("INSERT INTO t VALUES (1, 10), (2, 20)").await;
    session.run("UPDATE t SET v = 11 WHERE id = 1").await;
    session.run("DELETE FROM t WHERE id = 2").await;

    let plain = eventually(|| {
        let records = read_all("sink-plain");
        if records.len() >= 2 { Ok(records) } else { Err(format!("{} records", records.len())) }
    })
    .await;
    let rows: Vec<Value> =
        plain.iter().filter_map(Record::payload_text).map(|text| serde_json::from_str(&text).expect("JSON")).collect();
    assert_eq!(rows[0]["id"], json!(1));
    assert_eq!(rows[0]["note"], json!("a \"quoted\" note"));
    assert_eq!(rows[1]["id"], json!(3));
    assert_eq!(rows[1]["note"], Value::Null);

    let newest = |records: &[Record]| -> BTreeMap<String, Option<String>> {
        records.iter().map(|record| (record.key_text(), record.payload_text())).collect()
    };
    let state = eventually(|| {
        let state = newest(&read_all("sink-upsert"));
        let gone = state.iter().any(|(key, payload)| key.contains('2') && payload.is_none());
        let changed = state.values().flatten().any(|payload| payload.contains("22"));
        if gone && changed { Ok(state) } else { Err(format!("{state:?}")) }
    })
    .await;
    assert_eq!(state.len(), 2, "{state:?}");

    // What was not sent before a kill is sent after it.
    session.run("INSERT INTO t VALUES (7, 70)").await;
    server.kill();
    server.restart();
    eventually(|| {
        let state = newest(&read_all("sink-upsert"));
        let there = state.values().flatten().any(|payload| payload.contains("140"));
        if there { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
}

/// Repeats until it gives a value; panics with the last error after a while.
async fn eventually<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(start.elapsed() < SOON, "not within {SOON:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A partition that is behind the source's time cannot pull it back, after a restart no more than before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restart_keeps_the_watermark() {
    create_topic("behind", 1);
    let mut server = Server::start();
    let mut session = server.connect().await;
    session
        .run(&source(
            "s",
            "n INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds'",
            "behind",
            ", scan.startup.mode = 'earliest'",
        ))
        .await;
    session
        .run(
            "CREATE MATERIALIZED VIEW v WITH (late_rows = 'keep') AS SELECT window_start, count(*) AS n \
             FROM TUMBLE(s, ts, INTERVAL '1 minute') GROUP BY window_start, window_end",
        )
        .await;
    let row = |n: i64, time: &str| format!("{{\"n\":{n},\"ts\":\"2024-05-01 {time}\"}}");
    produce("behind", 0, &[&row(1, "00:00:10"), &row(2, "00:05:00")]);
    let rows = ["2024-05-01 00:00:00|1", "2024-05-01 00:05:00|1"];
    session.eventually("SELECT * FROM v", SOON, &rows).await;
    // A partition that comes later has a time of its own, which would be the source's if that had not come so far.
    kafka::add_partitions("behind", 2);
    std::thread::sleep(Duration::from_millis(500));
    for (late, time) in [(1, "00:00:20"), (2, "00:00:30"), (3, "00:03:00")] {
        produce("behind", 1, &[&row(late, time)]);
        let counted = late.to_string();
        session.eventually("SELECT late_rows FROM millstream.views", Duration::from_secs(90), &[&counted]).await;
        assert_eq!(session.rows("SELECT * FROM v").await, rows);
        assert_eq!(session.value("SELECT count(*) FROM millstream.late_rows").await, counted);
        server.kill();
        server.restart();
        session = server.connect().await;
    }
    produce("behind", 1, &[&row(9, "00:06:00")]);
    let rows = [rows[0], rows[1], "2024-05-01 00:06:00|1"];
    session.eventually("SELECT * FROM v", SOON, &rows).await;
}

/// What is malformed does not depend on the columns that views read; every kind of it is kept, or counted with 'skip'.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn malformed_records_are_the_same_for_every_view() {
    create_topic("malformed", 1);
    let producer = Producer::new();
    let payloads: [Option<&[u8]>; 14] = [
        Some(b"{\"id\": 1, \"n\": 1.5, \"name\": \"good\", \"ts\": 0}"),
        Some(b"{\"id\": 2"),
        Some(b"{\"id\": \"two\"}"),
        Some(b"{\"id\": 9223372036854775808}"),
        Some(b"{\"id\": 3, \"n\": 1.555}"),
        Some(b"{\"n\": 1}"),
        Some(b"{\"id\": 4, \"name\": \"\xff\"}"),
        Some(b"{\"id\": 5, \"name\": \"\\u0000\"}"),
        Some(b"{\"id\": 6, \"ts\": \"noon\"}"),
        Some(b"[{\"id\": 7}]"),
        Some(b""),
        None,
        Some(b"{\"id\": 8, \"unknown\": tru}"),
        Some(b"{\"id\": 9}"),
    ];
    for payload in payloads {
        let payload = payload.map(<[u8]>::to_vec);
        producer.send("malformed", &Record { payload, ..Record::default() });
    }
    producer.flush();
    let server = Server::start();
    let session = server.connect().await;
    let columns = "id BIGINT NOT NULL, n DECIMAL(8,2), name VARCHAR, ts TIMESTAMP";
    let earliest = ", scan.startup.mode = 'earliest'";
    for (i, select) in ["count(*)", "count(name)", "count(n)", "max(ts)", "sum(id)"].into_iter().enumerate() {
        session.run(&source(&format!("s{i}"), columns, "malformed", earliest)).await;
        session.run(&format!("CREATE MATERIALIZED VIEW v{i} AS SELECT count(*) AS n, {select} AS x FROM s{i}")).await;
        session.eventually(&format!("SELECT n FROM v{i}"), SOON, &["2"]).await;
        let dead = format!("SELECT \"offset\" FROM millstream.dead_letters WHERE source = 's{i}' ORDER BY 1");
        let all: Vec<String> = (1..13).map(|offset| offset.to_string()).collect();
        let mut all: Vec<&str> = all.iter().map(String::as_str).collect();
        all.sort_unstable();
        session.eventually(&dead, SOON, &all).await;
    }
    let errors = session.rows("SELECT DISTINCT \"offset\", error FROM millstream.dead_letters").await;
    assert_eq!(errors.len(), 12, "{errors:?}");
    // A view that comes later finds the same rows.
    session.run("CREATE MATERIALIZED VIEW late AS SELECT count(*) AS n, count(name) AS x FROM s0").await;
    session.eventually("SELECT n, x FROM late", SOON, &["2|1"]).await;
    assert_eq!(session.value("SELECT count(*) FROM millstream.dead_letters WHERE source = 's0'").await, "12");
    assert_eq!(session.rows("SELECT count(*), count(name) FROM s0").await, ["2|1"]);
    let told = server.psql("SELECT count(*) FROM s0;");
    assert!(told.contains("source \"s0\" is without 12 records that cannot be read"), "{told}");

    session.run(&source("skipping", columns, "malformed", &format!("{earliest}, on_error = 'skip'"))).await;
    session.run("CREATE MATERIALIZED VIEW rest AS SELECT count(*) AS n FROM skipping").await;
    session.eventually("SELECT n FROM rest", SOON, &["2"]).await;
    let counted = "SELECT rows, dead_letters, skipped FROM millstream.sources WHERE name = 'skipping'";
    session.eventually(counted, SOON, &["2|0|12"]).await;
    let (_, metrics) = crate::process::http_get(server.http_port(), "/metrics").expect("metrics");
    let metric = "millstream_source_skipped_records_total{schema=\"public\",source=\"skipping\",partition=\"0\"} 12";
    assert!(metrics.contains(metric), "{metrics}");
}
