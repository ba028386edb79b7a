//! Kafka sinks that write exactly once, against a real broker: what the marker can bear, and what becomes of a sink whose
//! data directory or marker is not what it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use millstream_catalog::object::{Format, Sink};
use millstream_catalog::{Column, SqlType};
use millstream_connectors::{ForeignMarker, Marker, Message, SinkIdentity, SinkSpec, Wait};

use rdkafka::bindings;

use crate::broker::Broker;
use crate::client::Session;
use crate::kafka::{self, Record, create_topic, produce, read_all_on};
use crate::link::Link;
use crate::server::Server;

const SOON: Duration = Duration::from_secs(30);

fn identity(store: &str) -> SinkIdentity {
    SinkIdentity { store: store.to_string(), sink: 7 }
}

fn spec(topic: &str) -> SinkSpec {
    spec_at(kafka::bootstrap(), topic)
}

fn spec_at(broker: &str, topic: &str) -> SinkSpec {
    let options = [
        ("connector", "kafka"),
        ("topic", topic),
        ("properties.bootstrap.server", broker),
        ("delivery", "exactly_once"),
    ];
    SinkSpec::new(&Sink {
        columns: vec![Column::new("id", SqlType::Int8, false)],
        query: String::new(),
        time_zone: "UTC".into(),
        options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        format: Some(Format {
            format: "plain".into(),
            encode: "json".into(),
            options: BTreeMap::new(),
            schema: None,
            key_schema: None,
        }),
        key: vec![],
        emit_on_window_close: false,
        fingerprint: String::new(),
    })
    .expect("a valid sink")
}

fn messages(ids: std::ops::Range<u64>) -> Vec<Message> {
    ids.map(|id| Message { key: None, payload: Some(format!("{{\"id\":{id}}}").into_bytes()) }).collect()
}

/// The numbers in the messages of a topic, in order.
fn ids(topic: &str) -> Vec<u64> {
    ids_on(kafka::bootstrap(), topic)
}

fn ids_on(broker: &str, topic: &str) -> Vec<u64> {
    let id =
        |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["id"].as_u64().expect("an id");
    let mut ids: Vec<u64> = read_all_on(broker, topic).iter().filter_map(Record::payload_text).map(id).collect();
    ids.sort_unstable();
    ids
}

/// Of a group that nobody joins, at an offset far behind the end of the partition, in the transaction of the rows.
#[test]
fn a_marker_moves_with_the_rows() {
    create_topic("marker", 2);
    let (spec, own) = (spec("marker"), identity("0a6dbd53-6f5e-4d2c-9f6e-93f4f5f0c001"));
    let group = format!("millstream-{}-7", own.store);
    let mut writer = spec.start(&own, &Wait::default()).expect("a writer");
    assert_eq!(writer.marker().expect("an answer"), Some(Marker::Absent));
    writer.commit(1_000_000_000_000).expect("a marker beyond the end of the log");
    assert_eq!(writer.marker().expect("an answer"), Some(Marker::At(1_000_000_000_000)));
    writer.commit(0).expect("a marker goes back");
    writer.send(messages(0..10)).expect("sent");
    writer.send(messages(10..20)).expect("sent");
    assert_eq!(ids("marker"), Vec::<u64>::new());
    writer.commit(20).expect("committed");
    assert_eq!(writer.marker().expect("an answer"), Some(Marker::At(20)));
    assert_eq!(kafka::committed_with_metadata(&group, "marker", 0), Some((20, own.store.clone())));
    assert_eq!(ids("marker"), (0..20).collect::<Vec<_>>());

    // What was not committed is aborted by the next writer, which fences the one before.
    writer.send(messages(20..30)).expect("sent");
    let mut second = spec.start(&own, &Wait::default()).expect("a second writer");
    assert_eq!(second.marker().expect("an answer"), Some(Marker::At(20)));
    let refused = writer.commit(30).expect_err("a fenced writer");
    assert!(writer.is_fenced() && refused.sqlstate() == "55006", "{refused}: {:?}", refused.detail());
    assert!(refused.message().contains("another server"), "{refused}");
    second.send(messages(20..25)).expect("sent");
    second.commit(25).expect("committed");
    assert_eq!(ids("marker"), (0..25).collect::<Vec<_>>());

    // Another store sees it; a group of that name whose metadata says otherwise is no marker.
    let other = identity("7f5d1a55-2c67-4a0f-8a58-0e4f2d5c7002");
    let found = spec.foreign_markers(&other).expect("an answer");
    assert_eq!(found, [ForeignMarker { group: group.clone(), sequence: 25 }]);
    assert_eq!(spec.foreign_markers(&own).expect("an answer"), []);
    drop(second);
    kafka::delete_group(&group);
    let mut third = spec.start(&own, &Wait::default()).expect("a third writer");
    assert_eq!(third.marker().expect("an answer"), Some(Marker::Absent));
}

/// A broker forgets the offsets of a group that commits nothing; committing the marker again keeps it, as a sink does that
/// has nothing to send.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_marker_expires_unless_it_is_refreshed() {
    let broker = Broker::with("offsets.retention.minutes=1\noffsets.retention.check.interval.ms=1000");
    for topic in ["expires", "idle-sink"] {
        kafka::create_topic_on(&broker.address(), topic, 1);
    }
    let mut server = Server::start();
    server.arm("outbox.marker_refresh_ms", "5000");
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    create_sink_on(&broker.address(), &session, "idle-sink", "").await;
    insert(&session, 0..5).await;
    acknowledged(&session, 5).await;

    let spec = spec_at(&broker.address(), "expires");
    let (kept, lost) =
        (identity("0a6dbd53-6f5e-4d2c-9f6e-93f4f5f0c003"), identity("0a6dbd53-6f5e-4d2c-9f6e-93f4f5f0c004"));
    let mut writers = [&kept, &lost].map(|identity| spec.start(identity, &Wait::default()).expect("a writer"));
    writers.iter_mut().for_each(|writer| writer.commit(5).expect("a marker"));
    let start = Instant::now();
    while writers[1].marker().expect("an answer") != Some(Marker::Absent) {
        assert!(start.elapsed() < Duration::from_secs(150), "the marker does not expire");
        tokio::time::sleep(Duration::from_secs(5)).await;
        writers[0].commit(5).expect("a marker");
    }
    assert!(start.elapsed() > Duration::from_secs(55));
    assert_eq!(writers[0].marker().expect("an answer"), Some(Marker::At(5)));
    // The sink that was idle for as long finds its own.
    server.kill();
    server.restart();
    let session = server.connect().await;
    insert(&session, 5..7).await;
    acknowledged(&session, 7).await;
    assert_eq!(kafka::read_all_on(&broker.address(), "idle-sink").len(), 7);
}

/// What the principal needs beside the topic, and what is said where it is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn missing_permissions_are_named() {
    let broker = Broker::with(
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nallow.everyone.if.no.acl.found=true",
    );
    let address = broker.address();
    kafka::create_topic_on(&address, "guarded", 1);
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    insert(&session, 0..10).await;
    let create = |name: &str, more: &str| {
        format!(
            "CREATE SINK {name} FROM t WITH (connector = 'kafka', topic = 'guarded', \
             properties.bootstrap.server = '{address}'{more}) FORMAT PLAIN ENCODE JSON"
        )
    };
    let groups = bindings::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP;
    kafka::forbid(&address, groups, "millstream-", bindings::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ);
    session.run(&create("a", "")).await;
    let error = "SELECT error FROM millstream.sinks WHERE status = 'retrying'";
    session.eventually(&format!("SELECT count(*) FROM ({error})"), SOON, &["1"]).await;
    let why = session.value(error).await;
    assert!(why.contains("the broker does not allow it; allow READ on group millstream-"), "{why}");
    session.run("DROP SINK a").await;
    let transactions = bindings::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID;
    kafka::forbid(
        &address,
        transactions,
        "millstream-",
        bindings::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE,
    );
    session.run(&create("b", "")).await;
    session.eventually(&format!("SELECT count(*) FROM ({error})"), SOON, &["1"]).await;
    let why = session.value(error).await;
    assert!(why.contains("allow WRITE and DESCRIBE on transactional id millstream-"), "{why}");
    session.run(&create("k", ", delivery = 'at_least_once'")).await;
    acknowledged(&session, 10).await;
}

/// A server with a table and a sink of it; rows are (id, text).
async fn server_with_sink(topic: &str, more: &str) -> (Server, Session) {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    create_sink(&session, topic, more).await;
    (server, session)
}

async fn create_sink(session: &Session, topic: &str, more: &str) {
    create_sink_on(kafka::bootstrap(), session, topic, more).await;
}

async fn create_sink_on(broker: &str, session: &Session, topic: &str, more: &str) {
    session
        .run(&format!(
            "CREATE SINK k FROM t WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{broker}'{more}) \
             FORMAT PLAIN ENCODE JSON"
        ))
        .await;
}

async fn insert(session: &Session, ids: std::ops::Range<u64>) {
    session.run(&insertion(ids)).await;
}

fn insertion(ids: std::ops::Range<u64>) -> String {
    format!("INSERT INTO t SELECT i, 'x' FROM generate_series({}, {}) AS g(i)", ids.start, ids.end - 1)
}

async fn acknowledged(session: &Session, rows: u64) {
    let sql = "SELECT acknowledged_sequence, status FROM millstream.sinks WHERE name = 'k'";
    session.eventually(sql, SOON, &[&format!("{rows}|running")]).await;
}

/// Waits until the sink is suspended and returns why.
async fn suspended(session: &Session) -> String {
    session.eventually("SELECT status FROM millstream.sinks WHERE name = 'k'", SOON, &["suspended"]).await;
    session.value("SELECT error FROM millstream.sinks WHERE name = 'k'").await
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

/// Each of these dies once: after the rows were sent, after they were committed, and after the first marker.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_row_comes_once_whenever_the_server_dies() {
    create_topic("once", 3);
    let mut server = Server::start();
    let mut session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    insert(&session, 0..1000).await;
    let mut rows = 1000;
    server.arm("outbox.marked", "abort 1 1");
    create_sink(&session, "once", "").await;
    for fail_point in ["outbox.marked", "outbox.produced", "outbox.sent", "outbox.produced", "outbox.sent"] {
        assert!(server.ends_within(SOON), "{fail_point}");
        server.wait();
        server.disarm();
        server.restart();
        session = server.connect().await;
        acknowledged(&session, rows).await;
        assert_eq!(ids("once"), (0..rows).collect::<Vec<_>>(), "after {fail_point}");
        let next = match fail_point {
            "outbox.marked" | "outbox.sent" => "outbox.produced",
            _ => "outbox.sent",
        };
        server.arm(next, "abort 1 1");
        // The rows are committed before they are sent, and the server may end before its answer reaches the client.
        if let Err(failure) = session.try_run(&insertion(rows..rows + 500)).await {
            assert_eq!(failure.sqlstate, None, "{failure}");
        }
        rows += 500;
    }
    assert!(server.ends_within(SOON));
    server.wait();
    server.disarm();
    server.restart();
    let session = server.connect().await;
    acknowledged(&session, rows).await;
    assert_eq!(ids("once"), (0..rows).collect::<Vec<_>>());
}

/// More rows than the client's queue holds, and more bytes than go into one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_epoch_goes_out_in_parts() {
    create_topic("parts", 2);
    let (_server, session) = server_with_sink("parts", ", properties.queue.buffering.max.messages = '5000'").await;
    insert(&session, 0..200_000).await;
    acknowledged(&session, 200_000).await;
    assert_eq!(ids("parts"), (0..200_000).collect::<Vec<_>>());
}

/// A data directory that was lost: the sink that is made again in a new one does not send what may be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_data_directory_suspends_the_sink() {
    create_topic("lost-directory", 1);
    let (mut server, session) = server_with_sink("lost-directory", "").await;
    insert(&session, 0..100).await;
    acknowledged(&session, 100).await;
    server.kill();
    std::fs::remove_dir_all(server.data_dir()).expect("a directory");
    server.restart();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    insert(&session, 0..120).await;
    create_sink(&session, "lost-directory", "").await;
    let why = suspended(&session).await;
    assert!(why.contains("another data directory") && why.contains("RESUME AT 100 leaves out"), "{why}");
    server.kill();
    server.restart();
    let session = server.connect().await;
    assert_eq!(suspended(&session).await, why);
    // Reads and writes go on.
    insert(&session, 120..130).await;
    session.run("ALTER SINK k RESUME AT 100").await;
    acknowledged(&session, 130).await;
    assert_eq!(ids("lost-directory"), (0..130).collect::<Vec<_>>());
    let refused = session.error("ALTER SINK k RESUME AT 50").await;
    assert!(refused.to_string().contains("22023"), "{refused}");
}

/// An older copy of the data directory: what was sent since is not sent again by guess, nor what comes left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_older_copy_suspends_the_sink() {
    create_topic("older-copy", 1);
    let (mut server, session) = server_with_sink("older-copy", "").await;
    insert(&session, 0..100).await;
    acknowledged(&session, 100).await;
    server.terminate();
    let kept = server.dir().join("kept");
    copy(&server.data_dir(), &kept);
    server.restart();
    let session = server.connect().await;
    insert(&session, 100..150).await;
    acknowledged(&session, 150).await;
    server.kill();
    copy(&kept, &server.data_dir());
    server.restart();
    let session = server.connect().await;
    let why = suspended(&session).await;
    assert!(why.contains("up to number 150, but only 100 were made here") && why.contains("older copy"), "{why}");
    // The rows that the copy lacks come again; those that are outside are left out.
    session.run("ALTER SINK k RESUME AT 150").await;
    insert(&session, 100..160).await;
    acknowledged(&session, 160).await;
    assert_eq!(ids("older-copy"), (0..160).collect::<Vec<_>>());
}

/// The group that has the marker of the one sink of a topic.
fn marker_of(topic: &str) -> Option<String> {
    kafka::groups("millstream-").into_iter().find(|group| kafka::committed(group, topic, 0).is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_marker_suspends_the_sink() {
    create_topic("lost-marker", 1);
    let (mut server, session) = server_with_sink("lost-marker", "").await;
    insert(&session, 0..100).await;
    acknowledged(&session, 100).await;
    server.kill();
    kafka::delete_group(&marker_of("lost-marker").expect("a marker"));
    server.restart();
    let session = server.connect().await;
    let why = suspended(&session).await;
    assert!(why.contains("has lost the marker") && why.contains("ALTER SINK k RESUME AT n"), "{why}");
    session.run("ALTER SINK k RESUME AT 100").await;
    insert(&session, 100..110).await;
    acknowledged(&session, 110).await;
    assert_eq!(ids("lost-marker"), (0..110).collect::<Vec<_>>());
}

/// Two servers on copies of one data directory: the older is fenced, says so, and does not fight.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_two_servers_the_older_is_fenced() {
    create_topic("two-servers", 1);
    let (mut first, session) = server_with_sink("two-servers", "").await;
    insert(&session, 0..100).await;
    acknowledged(&session, 100).await;
    first.terminate();
    let mut second = Server::start();
    second.terminate();
    copy(&first.data_dir(), &second.data_dir());
    first.restart();
    let of_first = first.connect().await;
    insert(&of_first, 100..110).await;
    acknowledged(&of_first, 110).await;
    second.restart();
    let of_second = second.connect().await;
    // The copy is behind the marker, which suspends it; it is resumed by somebody who takes it for the right one.
    suspended(&of_second).await;
    of_second.run("ALTER SINK k RESUME AT 110").await;
    insert(&of_second, 100..120).await;
    acknowledged(&of_second, 120).await;
    insert(&of_first, 500..510).await;
    let why = suspended(&of_first).await;
    assert!(why.contains("written by another server"), "{why}");
    insert(&of_second, 120..130).await;
    acknowledged(&of_second, 130).await;
    assert_eq!(ids("two-servers"), (0..130).collect::<Vec<_>>());
}

/// A row that the topic would never take is kept, and does not stop the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_row_that_is_too_large_is_a_dead_letter() {
    create_topic("too-large", 1);
    for (delivery, first) in [("exactly_once", 0), ("at_least_once", 10)] {
        let (mut server, session) = server_with_sink("too-large", &format!(", delivery = '{delivery}'")).await;
        if delivery == "at_least_once" {
            acknowledged(&session, 0).await;
        }
        insert(&session, first..first + 3).await;
        session.run(&format!("INSERT INTO t VALUES ({}, repeat('x', 1100000))", first + 3)).await;
        insert(&session, first + 4..first + 6).await;
        acknowledged(&session, 6).await;
        let dead = "SELECT source, topic, partition, \"offset\", error, length(encode(payload, 'hex')) > 2200000 \
                    FROM millstream.dead_letters";
        session.eventually("SELECT count(*) FROM millstream.dead_letters", SOON, &["1"]).await;
        let error = "row 3 of the sink is a message of";
        let rows = session.rows(dead).await;
        assert!(rows.len() == 1 && rows[0].starts_with(&format!("k|too-large|-1|3|{error}")), "{rows:?}");
        server.kill();
        server.restart();
        let session = server.connect().await;
        assert_eq!(session.rows(dead).await, rows);
    }
    assert_eq!(ids("too-large"), [0, 1, 2, 4, 5, 10, 11, 12, 14, 15]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sink_can_be_suspended_and_resumed() {
    create_topic("suspended", 1);
    let (mut server, session) = server_with_sink("suspended", "").await;
    insert(&session, 0..10).await;
    acknowledged(&session, 10).await;
    session.run("ALTER SINK k SUSPEND").await;
    assert_eq!(suspended(&session).await, "by ALTER SINK ... SUSPEND");
    insert(&session, 10..20).await;
    server.kill();
    server.restart();
    let session = server.connect().await;
    suspended(&session).await;
    let waiting = "SELECT outbox_rows, last_sequence, acknowledged_sequence FROM millstream.sinks WHERE name = 'k'";
    assert_eq!(session.rows(waiting).await, ["10|20|10"]);
    assert_eq!(ids("suspended"), (0..10).collect::<Vec<_>>());
    session.run("ALTER SINK k RESUME").await;
    acknowledged(&session, 20).await;
    session.run("ALTER SINK k SUSPEND").await;
    insert(&session, 20..30).await;
    // Rows that nobody wants any more.
    session.run("ALTER SINK k RESUME AT 25").await;
    acknowledged(&session, 30).await;
    assert_eq!(ids("suspended"), (0..20).chain(25..30).collect::<Vec<_>>());
}

/// What the broker keeps of a sink goes with it, also when the server ends right after; that of one that somebody else may go
/// on with stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dropped_sink_leaves_no_marker() {
    create_topic("dropped", 1);
    let (mut server, session) = server_with_sink("dropped", "").await;
    insert(&session, 0..10).await;
    acknowledged(&session, 10).await;
    assert!(marker_of("dropped").is_some());
    session.run("DROP SINK k").await;
    let start = Instant::now();
    while marker_of("dropped").is_some() {
        assert!(start.elapsed() < SOON, "the marker is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nobody has written the topic, as far as the broker knows: a new sink begins.
    create_sink(&session, "dropped", "").await;
    acknowledged(&session, 10).await;
    session.run("ALTER SINK k SUSPEND").await;
    session.run("DROP SINK k").await;
    server.terminate();
    assert_eq!(marker_of("dropped"), None);

    server.restart();
    let session = server.connect().await;
    create_sink(&session, "dropped", "").await;
    acknowledged(&session, 10).await;
    let marker = marker_of("dropped").expect("a marker");
    server.terminate();
    let second = spec("dropped");
    let (store, sink) = marker.trim_start_matches("millstream-").rsplit_once('-').expect("a store and a number");
    let other = SinkIdentity { store: store.to_string(), sink: sink.parse().expect("a number") };
    let mut writer = second.start(&other, &Wait::default()).expect("a writer");
    writer.commit(1000).expect("a marker ahead of all that the server has made");
    drop(writer);
    server.restart();
    let session = server.connect().await;
    suspended(&session).await;
    session.run("DROP SINK k").await;
    server.terminate();
    assert_eq!(marker_of("dropped"), Some(marker));
}

/// A broker that is away does not keep a sink from being dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sink_is_dropped_without_its_broker() {
    let mut broker = Broker::start();
    broker.create_topic("away", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    create_sink_on(&broker.address(), &session, "away", "").await;
    insert(&session, 0..10).await;
    acknowledged(&session, 10).await;
    broker.stop();
    let start = Instant::now();
    session.run("DROP SINK k").await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(session.value("SELECT count(*) FROM millstream.sinks").await, "0");
    while !server.log().contains("keeps the marker of a sink that was dropped") {
        assert!(start.elapsed() < SOON, "nothing is said of the marker");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(server.terminate().success());
}

/// While rows cannot go out their sink says so, also in the middle of a step that takes long; when they can again, it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sink_says_what_it_waits_for() {
    let mut broker = Broker::start();
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    for delivery in ["exactly_once", "at_least_once"] {
        broker.create_topic(delivery, 1);
        session
            .run(&format!(
                "CREATE SINK {delivery} FROM t WITH (connector = 'kafka', topic = '{delivery}', delivery = '{delivery}', \
                 properties.bootstrap.server = '{}') FORMAT PLAIN ENCODE JSON",
                broker.address()
            ))
            .await;
    }
    insert(&session, 0..10).await;
    let all = "SELECT acknowledged_sequence, status, error FROM millstream.sinks ORDER BY name";
    session.eventually(all, SOON, &["10|running|∅", "10|running|∅"]).await;
    broker.stop();
    insert(&session, 10..20).await;
    let told = format!(
        "SELECT name, status, error LIKE 'kafka topic \"' || name || '\" on {} % for % s: %' FROM millstream.sinks \
         ORDER BY name",
        broker.address()
    );
    let both = ["at_least_once|retrying|t", "exactly_once|retrying|t"];
    session.eventually(&told, Duration::from_secs(10), &both).await;
    broker.restart();
    session.eventually(all, SOON, &["20|running|∅", "20|running|∅"]).await;
    assert_eq!(ids_on(&broker.address(), "exactly_once"), (0..20).collect::<Vec<_>>());
    // An idempotent producer that tries again doubles nothing either.
    assert_eq!(ids_on(&broker.address(), "at_least_once"), (0..20).collect::<Vec<_>>());
}

/// A transaction that takes too long is ended by the broker, which is not taken for another server: the rows go out in another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_transaction_that_times_out_is_tried_again() {
    let broker = Broker::with("transaction.abort.timed.out.transaction.cleanup.interval.ms=200");
    broker.create_topic("overdue", 1);
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    let short = ", properties.transaction.timeout.ms = '1500', properties.message.timeout.ms = '1200'";
    create_sink_on(&broker.address(), &session, "overdue", short).await;
    insert(&session, 0..10).await;
    acknowledged(&session, 10).await;
    server.arm("outbox.produced", "slow 4000");
    insert(&session, 10..20).await;
    let error = "SELECT error LIKE '%longer than transaction.timeout.ms (1500)%' FROM millstream.sinks";
    session.eventually(error, SOON, &["t"]).await;
    server.disarm();
    acknowledged(&session, 20).await;
    assert_eq!(ids_on(&broker.address(), "overdue"), (0..20).collect::<Vec<_>>());
}

/// Epochs that come close together go out in one transaction: at most one begins within 20 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_transaction_carries_several_epochs() {
    create_topic("gathered", 1);
    let (_server, session) = server_with_sink("gathered", "").await;
    insert(&session, 0..1).await;
    acknowledged(&session, 1).await;
    // Each transaction ends with a record of its own.
    let before = kafka::end("gathered", 0);
    let start = Instant::now();
    for id in 1..=200 {
        insert(&session, id..id + 1).await;
    }
    acknowledged(&session, 201).await;
    let elapsed_ms = start.elapsed().as_millis() as u64;
    assert_eq!(ids("gathered"), (0..=200).collect::<Vec<_>>());
    let transactions = kafka::end("gathered", 0) - before - 200;
    eprintln!("{transactions} transactions for 200 epochs in {elapsed_ms} ms");
    assert!((2..200).contains(&transactions) && transactions <= elapsed_ms / 20 + 1, "{transactions}");
}

/// A sink whose broker is away fills its outbox and then slows its sources, but nothing else; suspended, it slows nothing.
/// What waits is shown, also after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_outbox_slows_the_sources_unless_the_sink_is_suspended() {
    let mut broker = Broker::start();
    broker.create_topic("slow-out", 1);
    create_topic("slow-in", 1);
    let mut server = Server::start();
    server.arm("outbox.rows_max", "100");
    let session = server.connect().await;
    session
        .run(&format!(
            "CREATE SOURCE s (id BIGINT) WITH (connector = 'kafka', topic = 'slow-in', \
             properties.bootstrap.server = '{}') FORMAT PLAIN ENCODE JSON",
            kafka::bootstrap()
        ))
        .await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s").await;
    session
        .run(&format!(
            "CREATE SINK k AS SELECT id FROM s WITH (connector = 'kafka', topic = 'slow-out', \
             properties.bootstrap.server = '{}') FORMAT PLAIN ENCODE JSON",
            broker.address()
        ))
        .await;
    let send = |ids: std::ops::Range<u64>| {
        let records: Vec<String> = ids.map(|id| format!("{{\"id\":{id}}}")).collect();
        produce("slow-in", 0, &records.iter().map(String::as_str).collect::<Vec<_>>());
    };
    send(0..50);
    acknowledged(&session, 50).await;
    let nothing = "SELECT outbox_rows, outbox_bytes, lag_seconds FROM millstream.sinks";
    session.eventually(nothing, SOON, &["0|0|0"]).await;
    broker.stop();
    send(50..250);
    session.eventually("SELECT outbox_rows > 100 FROM millstream.sinks", SOON, &["t"]).await;
    // What comes from here on waits at the broker.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let taken: u64 = session.value("SELECT n FROM v").await.parse().expect("a number");
    send(250..1250);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(session.value("SELECT n FROM v").await, taken.to_string());
    session.eventually("SELECT lag FROM millstream.sources", SOON, &[&(1250 - taken).to_string()]).await;
    let waits = "SELECT outbox_rows, outbox_bytes BETWEEN 800 AND 100000, lag_seconds BETWEEN 1 AND 120 \
                 FROM millstream.sinks";
    assert_eq!(session.rows(waits).await, [format!("{}|t|t", taken - 50)]);
    session.run("CREATE TABLE other (a INT)").await;
    session.run("INSERT INTO other VALUES (1)").await;

    session.run("ALTER SINK k SUSPEND").await;
    session.eventually("SELECT n FROM v", SOON, &["1250"]).await;
    let lag: f64 = session.value("SELECT lag_seconds FROM millstream.sinks").await.parse().expect("seconds");
    server.kill();
    server.restart();
    let session = server.connect().await;
    session.eventually("SELECT outbox_rows FROM millstream.sinks", SOON, &["1200"]).await;
    let later: f64 = session.value("SELECT lag_seconds FROM millstream.sinks").await.parse().expect("seconds");
    assert!(later > lag && later < lag + 60.0, "{lag} seconds, then {later}");
    let (_, metrics) = crate::process::http_get(server.http_port(), "/metrics").expect("metrics");
    for (metric, least) in [("outbox_rows", 1200.0), ("outbox_bytes", 9600.0), ("lag_seconds", lag), ("suspended", 1.0)]
    {
        let labels = format!("millstream_sink_{metric}{{schema=\"public\",sink=\"k\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&labels)).unwrap_or_else(|| panic!("{metrics}"));
        assert!(value.parse::<f64>().expect("a number") >= least, "{metric} is {value}");
    }

    broker.restart();
    session.run("ALTER SINK k RESUME").await;
    acknowledged(&session, 1250).await;
    session.eventually(nothing, SOON, &["0|0|0"]).await;
    assert_eq!(ids_on(&broker.address(), "slow-out"), (0..1250).collect::<Vec<_>>());
}

/// What a broker cannot take in time in one transaction is sent in smaller ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_broker_is_sent_less_at_a_time() {
    let (broker, link) = Link::with_broker();
    broker.create_topic("slow-link", 1);
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT, s TEXT) APPEND ONLY").await;
    create_sink_on(&broker.address(), &session, "slow-link", ", properties.message.timeout.ms = '1500'").await;
    acknowledged(&session, 0).await;
    // All rows together take three times as long as a message may; an eighth of them, less than half of it.
    link.slow_down(2_000_000);
    session.run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(0, 8999) AS g(i)").await;
    let sql = "SELECT acknowledged_sequence, status FROM millstream.sinks WHERE name = 'k'";
    session.eventually(sql, Duration::from_secs(90), &["9000|running"]).await;
    let (_, metrics) = crate::process::http_get(server.http_port(), "/metrics").expect("metrics");
    let failures = metrics.lines().find_map(|line| line.strip_prefix("millstream_sink_failures_total{sink=\"k\"} "));
    assert!(failures.is_some_and(|n| n.parse::<u64>().expect("a number") >= 2), "{metrics}");
    link.slow_down(u64::MAX);
    assert_eq!(ids_on(&broker.address(), "slow-link"), (0..9000).collect::<Vec<_>>());
}
