//! Formats over a real broker: Avro with a schema registry and Protobuf with a schema file, both ways, and changes of
//! Debezium's going out.

use std::time::Duration;

use serde_json::Value;

use crate::kafka::{self, Producer, Record, create_topic, read_all};
use crate::server::Server;
use crate::tls::TlsFront;

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

/// A registry behind TLS that asks for a password, with a certificate by an authority that only an option names.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_schema_registry_over_https() {
    create_topic("formats-https", 1);
    create_topic("formats-https-out", 1);
    let registry = MockRegistry::start();
    let id = registry.avro("formats-https-value", PAYMENT);
    registry.protect("dTpzZWNyZXQ=");
    let port = registry.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let (front, another) = (TlsFront::before(port).await, TlsFront::before(port).await);
    let mut server = Server::start();
    let mut session = server.connect().await;
    let file = |name: &str, text: &str| {
        let path = server.dir().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (own, other) = (file("own.pem", front.authority()), file("other.pem", another.authority()));
    let empty = file("empty.pem", "no certificate");
    let clause = |authority: &str, password: &str| {
        let authority = match authority {
            "" => String::new(),
            file => format!(", schema.registry.ca.location = '{file}'"),
        };
        format!(
            "FORMAT PLAIN ENCODE AVRO (schema.registry = '{}', schema.registry.username = 'u', \
             schema.registry.password = '{password}'{authority})",
            front.url()
        )
    };
    let create = |clause: String| format!("CREATE SOURCE s {} {clause}", with("formats-https", ""));
    for (authority, password, sqlstate, said) in [
        ("", "secret", "08001", "cannot be reached"),
        (other.as_str(), "secret", "08001", "cannot be reached"),
        (own.as_str(), "wrong", "28000", "refused the credentials"),
        ("/no/such.pem", "secret", "58P01", "ca.location"),
        (empty.as_str(), "secret", "22023", "it has no certificate"),
    ] {
        let error = session.error(&create(clause(authority, password))).await;
        assert_eq!(error.sqlstate.as_deref(), Some(sqlstate), "{error}");
        assert!(error.message.contains(said) && !error.to_string().contains("wrong"), "{error}");
    }
    session.run(&create(clause(&own, "secret"))).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT id, (place).city AS city FROM s").await;
    send("formats-https", [framed(id, &payment(1, None, "Bern", &[]))]);
    session.eventually("SELECT * FROM v", SOON, &["1|Bern"]).await;
    let sink = with("formats-https-out", "");
    session.run(&format!("CREATE SINK k FROM v {sink} {}", clause(&own, "secret"))).await;
    assert!(registry.text("formats-https-out-value").is_some());
    // The schema of a record is asked for again after a restart.
    server.kill();
    server.restart();
    session = server.connect().await;
    send("formats-https", [framed(id, &payment(2, None, "Oslo", &[]))]);
    session.eventually("SELECT * FROM v", SOON, &["1|Bern", "2|Oslo"]).await;
    session.eventually("SELECT acknowledged_sequence FROM millstream.sinks", SOON, &["2"]).await;
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

/// What comes, changes and goes, with the row before; several changes of one statement, and a key that changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sinks_write_changes_of_debezium() {
    create_topic("formats-changes", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    session.run("CREATE MATERIALIZED VIEW doubled AS SELECT id, v * 2 AS v FROM t").await;
    let sink = with("formats-changes", ", primary_key = 'id'");
    session.run(&format!("CREATE SINK k FROM doubled {sink} FORMAT DEBEZIUM ENCODE JSON")).await;
    let changes = [
        "INSERT INTO t VALUES (1, 10)",
        "UPDATE t SET v = 11 WHERE id = 1",
        "UPDATE t SET v = 11 WHERE id = 1",
        "ALTER SINK k SUSPEND",
        "INSERT INTO t VALUES (2, 20), (3, NULL)",
        "UPDATE t SET v = 12",
    ];
    for statement in changes {
        session.run(statement).await;
    }
    // What waits goes on with what it was before.
    server.kill();
    server.restart();
    let session = server.connect().await;
    for statement in ["ALTER SINK k RESUME", "UPDATE t SET id = 4 WHERE id = 3", "DELETE FROM t WHERE id < 3"] {
        session.run(statement).await;
    }
    let sent = "SELECT acknowledged_sequence, status FROM millstream.sinks";
    session.eventually(sent, SOON, &["11|running"]).await;
    let records = read_all("formats-changes");
    let changes: Vec<Value> = records
        .iter()
        .map(|record| serde_json::from_str(&record.payload_text().expect("a payload")).expect("JSON"))
        .collect();
    let image = |image: &Value| match image {
        Value::Null => "-".to_string(),
        row => format!("{}:{}", row["id"], row["v"]),
    };
    let told: Vec<String> =
        changes.iter().map(|c| format!("{} {} {}", c["op"], image(&c["before"]), image(&c["after"]))).collect();
    // Rows of one statement come in any order.
    let expected: [&[&str]; 7] = [
        &["\"c\" - 1:20"],
        &["\"u\" 1:20 1:22"],
        &["\"c\" - 2:40", "\"c\" - 3:null"],
        &["\"u\" 1:22 1:24", "\"u\" 2:40 2:24", "\"u\" 3:null 3:24"],
        &["\"d\" 3:24 -"],
        &["\"c\" - 4:24"],
        &["\"d\" 1:24 -", "\"d\" 2:24 -"],
    ];
    let mut at = 0;
    for part in expected {
        let mut found = told[at..at + part.len()].to_vec();
        found.sort();
        assert_eq!(found, part, "{told:?}");
        at += part.len();
    }
    assert_eq!(at, told.len());
    for (record, change) in records.iter().zip(&changes) {
        let row = if change["after"].is_null() { &change["before"] } else { &change["after"] };
        assert_eq!(record.key_text(), format!("{{\"id\":{}}}", row["id"]));
    }
}

/// The same in Avro: as bytes, and read back by a source.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sinks_write_changes_of_debezium_in_avro() {
    create_topic("formats-avro-changes", 1);
    let registry = MockRegistry::start();
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)").await;
    let clause = format!("FORMAT DEBEZIUM ENCODE AVRO (schema.registry = '{}')", registry.url);
    let sink = with("formats-avro-changes", ", primary_key = 'id'");
    session.run(&format!("CREATE SINK k FROM t {sink} {clause}")).await;
    let source = with("formats-avro-changes", "");
    session.run(&format!("CREATE SOURCE back (id INT PRIMARY KEY, v TEXT) {source} {clause}")).await;
    session.run("INSERT INTO t VALUES (1, 'a')").await;
    session.run("UPDATE t SET v = 'b' WHERE id = 1").await;
    session.eventually("SELECT * FROM back", SOON, &["1|b"]).await;
    session.run("DELETE FROM t").await;
    session.eventually("SELECT count(*) FROM back", SOON, &["0"]).await;
    let changes: Vec<Vec<u8>> =
        read_all("formats-avro-changes").into_iter().map(|r| r.payload.expect("a payload")[5..].to_vec()).collect();
    // A row and no row: a number of the union's branch before each image and each value.
    let (a, b, none) = (&b"\x02\x02\x02\x02\x02a"[..], &b"\x02\x02\x02\x02\x02b"[..], &b"\x00"[..]);
    let expected = [[none, a, b"\x02c"].concat(), [a, b, b"\x02u"].concat(), [b, none, b"\x02d"].concat()];
    assert_eq!(changes.len(), expected.len());
    for (change, expected) in changes.iter().zip(expected) {
        assert!(change.starts_with(&expected), "{change:?} does not start with {expected:?}");
    }
}
