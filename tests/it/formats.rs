//! Formats over a real broker: Avro with a schema registry and Protobuf with a schema file, both ways, and changes of
//! Debezium's going out.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kafka::{self, Producer, Record, create_topic, read_all};
use crate::server::Server;

// What the connectors' own tests use of it is more.
#[allow(dead_code)]
#[path = "../../connectors/src/registry/mock.rs"]
mod registry;
use registry::MockRegistry;

const SOON: Duration = Duration::from_secs(20);

const PAYMENT: &str = r#"{"type": "record", "name": "Payment", "fields": [
    {"name": "id", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": null},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "place", "type": {"type": "record", "name": "Place", "fields": [{"name": "city", "type": "string"}]}},
    {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn text(value: &str, out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend_from_slice(value.as_bytes());
}

/// A payment by [`PAYMENT`], without header.
fn payment(id: i64, note: Option<&str>, city: &str, tags: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    long(id, &mut out);
    match note {
        None => out.push(0),
        Some(note) => {
            out.push(2);
            text(note, &mut out);
        }
    }
    long(1_700_000_000_000 + id, &mut out);
    text(city, &mut out);
    if !tags.is_empty() {
        long(tags.len() as i64, &mut out);
        tags.iter().for_each(|tag| text(tag, &mut out));
    }
    out.push(0);
    out
}

fn framed(id: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn send(topic: &str, payloads: impl IntoIterator<Item = Vec<u8>>) {
    let producer = Producer::new();
    payloads.into_iter().for_each(|payload| producer.send(topic, &Record::of(0, payload)));
    producer.flush();
}

fn with(topic: &str, more: &str) -> String {
    let bootstrap = kafka::bootstrap();
    format!("WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{bootstrap}'{more})")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn avro_with_a_schema_registry() {
    create_topic("formats-avro", 1);
    let registry = MockRegistry::start();
    let old = registry.avro("formats-avro-value", PAYMENT);
    registry.protect("dTpzZWNyZXQ=");
    let mut server = Server::start();
    let mut session = server.connect().await;
    let clause = format!(
        "ENCODE AVRO (schema.registry = '{}', schema.registry.username = 'u', schema.registry.password = 'secret')",
        registry.url
    );
    session
        .run(&format!(
            "CREATE SOURCE s (WATERMARK FOR at AS at - INTERVAL '5 seconds') INCLUDE offset AS o {} FORMAT PLAIN {clause}",
            with("formats-avro", "")
        ))
        .await;
    let columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 's'";
    assert_eq!(
        session.rows(columns).await,
        [
            "at|timestamp with time zone",
            "id|bigint",
            "note|character varying",
            "o|bigint",
            "place|record",
            "tags|ARRAY"
        ]
    );
    let shown = session.rows("SHOW CREATE SOURCE s").await.concat();
    assert!(shown.contains("schema.registry.password = '***'") && !shown.contains("'secret'"), "{shown}");

    session.run("CREATE MATERIALIZED VIEW v AS SELECT id, note, (place).city AS city, tags[1] AS tag, o FROM s").await;
    send(
        "formats-avro",
        [
            framed(old, &payment(1, Some("a"), "Berlin", &["x", "y"])),
            framed(old, &payment(2, None, "Paris", &[])),
            framed(99, &payment(3, None, "Rome", &[])),
            framed(old, &payment(4, None, "Rome", &[])[..4]),
            b"{\"id\": 5}".to_vec(),
        ],
    );
    session.eventually("SELECT * FROM v", SOON, &["1|a|Berlin|x|0", "2|∅|Paris|∅|1"]).await;
    let dead = "SELECT \"offset\", error FROM millstream.dead_letters ORDER BY 1";
    session.eventually("SELECT count(*) FROM millstream.dead_letters", SOON, &["3"]).await;
    let errors = session.rows(dead).await;
    assert!(errors[0].contains("has no schema id 99"), "{errors:?}");
    assert!(errors[1].contains("invalid Avro at byte"), "{errors:?}");
    assert!(errors[2].contains("begins with byte 123"), "{errors:?}");

    // A newer schema; while the registry is away its records wait, and nothing is lost or dead.
    let newer = PAYMENT.replace("\"id\", \"type\": \"long\"", "\"id\", \"type\": \"int\"");
    let newer =
        newer.replace("{\"name\": \"tags\"", "{\"name\": \"more\", \"type\": \"boolean\"}, {\"name\": \"tags\"");
    let newer = registry.avro("formats-avro-value", &newer);
    registry.set_down(true);
    let mut six = payment(6, None, "Oslo", &["z"]);
    let end = six.split_off(six.len() - 4);
    six.push(1);
    six.extend(end);
    send("formats-avro", [framed(newer, &six), framed(old, &payment(7, None, "Bern", &[]))]);
    let told = "SELECT count(*) FROM millstream.sources WHERE error LIKE '%does not answer for schema id%'";
    session.eventually(told, SOON, &["1"]).await;
    assert_eq!(session.value("SELECT count(*) FROM v").await, "2");
    // Not after a restart either.
    server.kill();
    server.restart();
    session = server.connect().await;
    session.eventually(told, SOON, &["1"]).await;
    registry.set_down(false);
    session.eventually("SELECT id, city, tag FROM v WHERE id > 5", SOON, &["6|Oslo|z", "7|Bern|∅"]).await;
    assert_eq!(session.value("SELECT count(*) FROM millstream.dead_letters").await, "3");
    assert_eq!(session.rows("SELECT count(*), count(note) FROM s").await, ["4|1"]);

    // Out again, and back.
    create_topic("formats-avro-out", 1);
    session.run(&format!("CREATE SINK k FROM v {} FORMAT PLAIN {clause}", with("formats-avro-out", ""))).await;
    assert!(registry.text("formats-avro-out-value").is_some());
    session.run(&format!("CREATE SOURCE back {} FORMAT PLAIN {clause}", with("formats-avro-out", ""))).await;
    session.run("CREATE MATERIALIZED VIEW again AS SELECT * FROM back").await;
    session
        .eventually("SELECT * FROM again", SOON, &["1|a|Berlin|x|0", "2|∅|Paris|∅|1", "6|∅|Oslo|z|5", "7|∅|Bern|∅|6"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn protobuf_with_a_schema_file() {
    create_topic("formats-proto", 1);
    let mut server = Server::start();
    let mut session = server.connect().await;
    let file = server.dir().join("payment.proto");
    let schema = "syntax = \"proto3\"; message Payment { int64 id = 1; Place place = 2; repeated string tags = 3; }
                  message Place { string city = 1; }";
    std::fs::write(&file, schema).expect("a schema file");
    let clause =
        |message: &str| format!("FORMAT PLAIN ENCODE PROTOBUF (schema.location = '{}'{message})", file.display());
    let error = session.error(&format!("CREATE SOURCE s {} {}", with("formats-proto", ""), clause(""))).await;
    assert!(error.message.contains("the schema has 2 messages, and none is named"), "{error}");
    let named = clause(", message = 'Payment'");
    session
        .run(&format!("CREATE SOURCE s (*, half DOUBLE PRECISION AS 0.5) {} {named}", with("formats-proto", "")))
        .await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT id, (place).city AS city, tags, half FROM s").await;
    std::fs::remove_file(&file).expect("the file is there");
    server.kill();
    server.restart();
    session = server.connect().await;
    send(
        "formats-proto",
        [b"\x08\x01\x12\x04\x0a\x02Rh\x1a\x01x\x1a\x01y".to_vec(), b"\x08".to_vec(), b"\x08\x02".to_vec()],
    );
    session.eventually("SELECT * FROM v", SOON, &["1|Rh|{x,y}|0.5", "2|∅|{}|0.5"]).await;
    session.eventually("SELECT \"offset\" FROM millstream.dead_letters", SOON, &["1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sinks_write_changes_of_debezium() {
    create_topic("formats-changes", 1);
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    session.run("CREATE MATERIALIZED VIEW doubled AS SELECT id, v * 2 AS v FROM t").await;
    let sink = with("formats-changes", ", primary_key = 'id'");
    session.run(&format!("CREATE SINK k FROM doubled {sink} FORMAT DEBEZIUM ENCODE JSON")).await;
    session.run("INSERT INTO t VALUES (1, 10)").await;
    session.run("UPDATE t SET v = 11 WHERE id = 1").await;
    session.run("DELETE FROM t WHERE id = 1").await;
    let start = std::time::Instant::now();
    let changes = loop {
        let records = read_all("formats-changes");
        if records.len() >= 3 {
            break records;
        }
        assert!(start.elapsed() < SOON, "{} records", records.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let changes: Vec<Value> = changes
        .iter()
        .map(|record| {
            assert_eq!(record.key_text(), "{\"id\":1}");
            serde_json::from_str(&record.payload_text().expect("a payload")).expect("JSON")
        })
        .collect();
    let parts: Vec<_> = changes.iter().map(|c| (c["op"].clone(), c["before"].clone(), c["after"].clone())).collect();
    let row = |v: i64| json!({ "id": 1, "v": v });
    assert_eq!(
        parts,
        [(json!("c"), Value::Null, row(20)), (json!("c"), Value::Null, row(22)), (json!("d"), row(22), Value::Null)]
    );
}
