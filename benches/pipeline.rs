//! `make bench`: throughput and latency of the whole server on a real Kafka broker with JSON card payments.
//!
//! Throughput is compared with (a), a bare consumer that decodes the same topic with arrow-json and does nothing else, in
//! the same run on the same machine. `MILLSTREAM_BENCH_EVENTS` (default one million) sets the size of the topic,
//! `MILLSTREAM_BENCH_SECONDS` (default 20) the length of the latency run, `MILLSTREAM_BENCH_ONLY` picks the cases whose
//! names contain it, `MILLSTREAM_BENCH_BACKLOG` (default five million) is the number of messages that wait in the last one.
//! Bounded in count and time.

#[path = "../tests/it/broker.rs"]
#[allow(dead_code)]
mod broker;
#[path = "../tests/it/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../tests/it/kafka.rs"]
#[allow(dead_code)]
mod kafka;
#[path = "../tests/it/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../tests/it/seed.rs"]
#[allow(dead_code)]
mod seed;
#[path = "../tests/it/server.rs"]
#[allow(dead_code)]
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::json::ReaderBuilder;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use broker::Broker;
use client::Session;
use kafka::{Producer, Record};
use server::Server;

const PARTITIONS: i32 = 2;
const CARDS: u64 = 1_000_000;
const LATENCY_EVENTS_PER_SECOND: u64 = 20_000;
/// Longest time that one measurement may take.
const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    // Whoever runs all targets in debug starts this one too; its numbers mean something in a release build only.
    if cfg!(debug_assertions) {
        println!("pipeline: not measured in a debug build");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let events: u64 = seed::setting("MILLSTREAM_BENCH_EVENTS", 1_000_000);
        let topic = format!("bench-{}", now_ms());
        kafka::create_topic(&topic, PARTITIONS);
        let bytes = fill(&topic, events);
        println!("{events} JSON payments, {} bytes each, {PARTITIONS} partitions, {CARDS} cards", bytes / events);
        throughput(&topic, events).await;
        for delivery in DELIVERIES {
            let rate = through(&topic, events, delivery).await;
            println!("Kafka to Kafka, all at once, {delivery}: {rate:.0} events/s");
        }
        // Of its own, so that the compiler of the one that was just loaded does not compete with what is measured.
        let broker = Broker::start();
        let seconds: u64 = seed::setting("MILLSTREAM_BENCH_SECONDS", 20);
        // A broker that has just started takes its time for the first transactions.
        latency(&broker.address(), "warm", DELIVERIES[0], seconds / 4 + 1).await;
        for delivery in DELIVERIES {
            let latencies = latency(&broker.address(), delivery, delivery, seconds).await;
            show(&format!("Kafka to Kafka at {LATENCY_EVENTS_PER_SECOND} events/s, {delivery}"), &latencies);
        }
        let (input, total) = ("direct", seconds * LATENCY_EVENTS_PER_SECOND);
        kafka::create_topic_on(&broker.address(), input, PARTITIONS);
        let latencies = send_and_receive(&broker.address(), input, input, PARTITIONS, total);
        show(&format!("the broker alone at {LATENCY_EVENTS_PER_SECOND} events/s"), &latencies);
        drop(broker);
        backlog().await;
    });
}

fn scrambled(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16
}

/// Payment `n` as JSON.
fn payment(n: u64, ts_ms: u64) -> String {
    let (noise, second, day) = (scrambled(n), ts_ms / 1000, 1 + ts_ms / 86_400_000 % 28);
    format!(
        "{{\"txn_id\":{n},\"card_id\":{},\"amount\":{}.{:02},\"country\":\"{}\",\"merchant\":\"merchant {}\",\
         \"ts\":\"2024-05-{day:02} {:02}:{:02}:{:02}.{:03}\",\"sent_ms\":{}}}",
        noise % CARDS,
        noise / 7 % 1000,
        noise % 100,
        ["DE", "FR", "GB", "US", "PL"][(noise % 5) as usize],
        noise % 5000,
        second / 3600 % 24,
        second / 60 % 60,
        second % 60,
        ts_ms % 1000,
        now_ms(),
    )
}

/// Whether the amount of payment `n` is above 500.
fn is_large(n: u64) -> bool {
    let (units, cents) = (scrambled(n) / 7 % 1000, scrambled(n) % 100);
    (units, cents) > (500, 0)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Sends the payments, ten to a millisecond of event time; gives their bytes.
fn fill(topic: &str, events: u64) -> u64 {
    let producer = Producer::new();
    let mut bytes = 0;
    for n in 0..events {
        let payload = payment(n, n / 10);
        bytes += payload.len() as u64;
        producer.send(topic, &Record::of((n % PARTITIONS as u64) as i32, payload));
    }
    producer.flush();
    bytes
}

/// A consumer of all partitions from their beginning.
fn consumer(broker: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("group.id", "millstream-bench");
    config.set("enable.auto.commit", "false");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&assignment).expect("an assignment");
    consumer
}

/// (a): one thread polls all partitions and decodes every column.
fn bare_consumer(topic: &str, events: u64) -> Duration {
    let schema = Schema::new(vec![
        Field::new("txn_id", DataType::Int64, true),
        Field::new("card_id", DataType::Int64, true),
        Field::new("amount", DataType::Decimal128(12, 2), true),
        Field::new("country", DataType::Utf8View, true),
        Field::new("merchant", DataType::Utf8View, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("sent_ms", DataType::Int64, true),
    ]);
    let reader = ReaderBuilder::new(Arc::new(schema)).with_batch_size(8192);
    let mut decoder = reader.build_decoder().expect("a decoder for the schema");
    let start = Instant::now();
    let settings = [("enable.partition.eof", "true"), ("fetch.queue.backoff.ms", "5")];
    let consumer = consumer(kafka::bootstrap(), topic, PARTITIONS, &settings);
    let (mut rows, mut open) = (0, PARTITIONS);
    while open > 0 {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => {
                let payload = message.payload().unwrap_or_default();
                let taken = decoder.decode(payload).expect("valid JSON");
                if taken < payload.len() {
                    rows += decoder.flush().expect("valid rows").map_or(0, |batch| batch.num_rows());
                    decoder.decode(&payload[taken..]).expect("valid JSON");
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            other => panic!("no message: {:?}", other.map(|result| result.map(|_| ()))),
        }
    }
    rows += decoder.flush().expect("valid rows").map_or(0, |batch| batch.num_rows());
    assert_eq!(rows as u64, events, "rows of the bare consumer");
    start.elapsed()
}

fn create_source(broker: &str, topic: &str) -> String {
    format!(
        "CREATE SOURCE payments (txn_id BIGINT, card_id BIGINT, amount DECIMAL(12,2), country VARCHAR, \
         merchant VARCHAR, ts TIMESTAMP, sent_ms BIGINT, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') \
         WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{broker}', \
         scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON"
    )
}

/// One throughput measurement: from the first statement until the query gives what it must.
struct Case {
    name: &'static str,
    statements: &'static [&'static str],
    query: &'static str,
    expected: u64,
}

fn cases(events: u64) -> Vec<Case> {
    let large = (0..events).filter(|n| is_large(*n)).count() as u64;
    vec![
        Case {
            name: "(b) continuous count",
            statements: &["CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM payments"],
            query: "SELECT n FROM v",
            expected: events,
        },
        Case {
            name: "(c) HOP velocity by card",
            statements: &["CREATE MATERIALIZED VIEW v AS SELECT card_id, window_start, count(*) AS n, \
                           sum(amount) AS total FROM HOP(payments, ts, INTERVAL '1 minute', INTERVAL '10 minutes') \
                           GROUP BY card_id, window_start, window_end"],
            query: "SELECT sum(n) FROM v",
            expected: events * 10,
        },
        Case {
            name: "(d) join with a table",
            statements: &[
                "CREATE TABLE countries (code VARCHAR PRIMARY KEY, name VARCHAR)",
                "INSERT INTO countries VALUES ('DE', 'Germany'), ('FR', 'France'), ('GB', 'Britain'), \
                 ('US', 'America'), ('PL', 'Poland')",
                "CREATE MATERIALIZED VIEW v AS SELECT p.txn_id, p.amount, c.name FROM payments p \
                 JOIN countries c ON p.country = c.code",
            ],
            query: "SELECT count(*) FROM v",
            expected: events,
        },
        Case {
            name: "(e) filter into an append-only view",
            statements: &[
                "CREATE MATERIALIZED VIEW v AS SELECT txn_id, card_id, amount FROM payments WHERE amount > 500",
            ],
            query: "SELECT count(*) FROM v",
            expected: large,
        },
        Case {
            name: "(e) and from there into blackhole",
            statements: &[
                "CREATE MATERIALIZED VIEW v AS SELECT txn_id, card_id, amount FROM payments WHERE amount > 500",
                "CREATE SINK s FROM v WITH (connector = 'blackhole')",
            ],
            query: "SELECT count(*) FROM v",
            expected: large,
        },
    ]
}

async fn throughput(topic: &str, events: u64) {
    let rate = |elapsed: Duration| events as f64 / elapsed.as_secs_f64();
    let bare = rate(bare_consumer(topic, events));
    println!("{:<38} {bare:>10.0} events/s", "(a) bare consumer with arrow-json");
    let only: String = seed::setting("MILLSTREAM_BENCH_ONLY", String::new());
    for case in cases(events).into_iter().filter(|case| case.name.contains(&only)) {
        let server = Server::start();
        let session = server.connect().await;
        session.run(&create_source(kafka::bootstrap(), topic)).await;
        let start = Instant::now();
        for statement in case.statements {
            session.run(statement).await;
        }
        let measured = rate(until_read(&session, events, start).await);
        assert_eq!(session.value(case.query).await, case.expected.to_string(), "{}", case.name);
        println!(
            "{:<38} {measured:>10.0} events/s, {:>3.0} % of (a), {} MiB resident",
            case.name,
            100.0 * measured / bare,
            server.resident_bytes() >> 20
        );
    }
}

/// Waits until all `events` are read, which shows with the epoch that shows them in the views; asks seldom, and of a table
/// that costs nothing.
async fn until_read(session: &Session, events: u64, start: Instant) -> Duration {
    loop {
        let position = session.value("SELECT coalesce(sum(position), 0) FROM millstream.sources").await;
        let elapsed = start.elapsed();
        if position == events.to_string() {
            return elapsed;
        }
        assert!(elapsed < LIMIT, "{position} of {events} events after {elapsed:?}");
        tokio::time::sleep((elapsed / 100).clamp(Duration::from_millis(5), Duration::from_millis(100))).await;
    }
}

/// How a sink can deliver.
const DELIVERIES: [&str; 2] = ["exactly_once", "at_least_once"];

/// Kafka to Kafka at 20,000 events/s through a rule that lets all pass, and a sink: the receiver's clock minus the sender's in
/// the payload, in order, for a consumer of committed records; prints the server's own arrival-to-visible, from `millstream.views`.
async fn latency(broker: &str, name: &str, delivery: &str, seconds: u64) -> Vec<u64> {
    let (input, output) = (format!("in-{name}"), format!("out-{name}"));
    kafka::create_topic_on(broker, &input, PARTITIONS);
    kafka::create_topic_on(broker, &output, 1);
    let server = Server::start();
    let session = server.connect().await;
    session.run(&create_source(broker, &input)).await;
    session.run("CREATE MATERIALIZED VIEW passed AS SELECT txn_id, sent_ms FROM payments WHERE amount >= 0").await;
    session
        .run(&format!(
            "CREATE SINK s FROM passed WITH (connector = 'kafka', topic = '{output}', delivery = '{delivery}', \
             properties.bootstrap.server = '{broker}') FORMAT PLAIN ENCODE JSON"
        ))
        .await;
    let latencies = send_and_receive(broker, &input, &output, 1, seconds * LATENCY_EVENTS_PER_SECOND);
    let outcome = session.run("SELECT * FROM millstream.views WHERE name = 'passed'").await;
    for (name, value) in outcome.columns.iter().flatten().zip(&outcome.rows[0]) {
        if name.contains("p50") || name.contains("p99") {
            println!("arrival to visible, {name}: {}", value.as_deref().unwrap_or("none"));
        }
    }
    latencies
}

/// Prints latencies in milliseconds, which are in order, and how many are in which range.
fn show(what: &str, latencies: &[u64]) {
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: p50 {} ms, p90 {} ms, p99 {} ms, p99.9 {} ms, most {} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    let mut from = 0;
    for upto in [5, 10, 20, 30, 40, 50, 75, 100, 200, 500, u64::MAX] {
        let rows = latencies.iter().filter(|ms| (from..upto).contains(*ms)).count();
        if rows > 0 {
            let share = 100.0 * rows as f64 / latencies.len() as f64;
            let range = if upto == u64::MAX { format!("{from} ms and more") } else { format!("{from} to {upto} ms") };
            println!("  {range:<16} {share:>6.2} % {}", "#".repeat((share / 2.0).ceil() as usize));
        }
        from = upto;
    }
}

/// Events a second from a topic that is full to a topic that was empty, until the last is acknowledged.
async fn through(topic: &str, events: u64, delivery: &str) -> f64 {
    let output = format!("bench-through-{}", now_ms());
    kafka::create_topic(&output, 1);
    let server = Server::start();
    let session = server.connect().await;
    session.run(&create_source(kafka::bootstrap(), topic)).await;
    let start = Instant::now();
    session
        .run(&format!(
            "CREATE SINK s AS SELECT txn_id, card_id, amount FROM payments WITH (connector = 'kafka', topic = '{output}', \
             delivery = '{delivery}', properties.bootstrap.server = '{}') FORMAT PLAIN ENCODE JSON",
            kafka::bootstrap()
        ))
        .await;
    loop {
        let acknowledged = session.value("SELECT acknowledged_sequence FROM millstream.sinks").await;
        if acknowledged == events.to_string() {
            return events as f64 / start.elapsed().as_secs_f64();
        }
        assert!(start.elapsed() < LIMIT, "{acknowledged} of {events} rows after {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A backlog behind a sink whose broker is away, which slows the source; then the broker comes back and all of it goes
/// through. What it costs in memory, and how quick reads are meanwhile.
async fn backlog() {
    let messages: u64 = seed::setting("MILLSTREAM_BENCH_BACKLOG", 5_000_000);
    let seconds: u64 = seed::setting("MILLSTREAM_BENCH_SECONDS", 20);
    let (input, output) = (format!("bench-backlog-{}", now_ms()), "passed");
    kafka::create_topic(&input, PARTITIONS);
    let producer = Producer::new();
    for n in 0..messages {
        producer
            .send(&input, &Record::of((n % PARTITIONS as u64) as i32, format!("{{\"k\":{}}}", scrambled(n) % CARDS)));
    }
    producer.flush();
    let mut away = Broker::start();
    kafka::create_topic_on(&away.address(), output, 1);
    let server = Server::start();
    let session = server.connect().await;
    session
        .run(&format!(
            "CREATE SOURCE backlog (k BIGINT) WITH (connector = 'kafka', topic = '{input}', \
             properties.bootstrap.server = '{}', scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON",
            kafka::bootstrap()
        ))
        .await;
    session
        .run(&format!(
            "CREATE SINK s AS SELECT k FROM backlog WITH (connector = 'kafka', topic = '{output}', \
             properties.bootstrap.server = '{}') FORMAT PLAIN ENCODE JSON",
            away.address()
        ))
        .await;
    away.stop();
    session.run("CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n FROM backlog GROUP BY k").await;
    println!("a backlog of {messages} messages behind an exactly-once sink");
    let stalled = observe(&server, &session, |_, elapsed| elapsed >= Duration::from_secs(seconds)).await;
    println!("  its broker is away: {stalled}");
    away.restart();
    let start = Instant::now();
    let limit = LIMIT.max(Duration::from_secs(messages / 50_000));
    let drained = observe(&server, &session, |acknowledged, elapsed| {
        assert!(elapsed < limit, "{acknowledged} of {messages} rows after {elapsed:?}");
        acknowledged == messages
    });
    let drained = drained.await;
    let rate = messages as f64 / start.elapsed().as_secs_f64();
    println!("  it is back: {rate:.0} events/s until all are acknowledged; {drained}");
}

/// Reads a view and the sink's state until `is_over`, given the rows that are acknowledged and the time since the call; tells
/// of memory and reads.
async fn observe(server: &Server, session: &Session, is_over: impl Fn(u64, Duration) -> bool) -> String {
    let (start, mut resident, mut reads) = (Instant::now(), 0, Vec::new());
    loop {
        let asked = Instant::now();
        session.value("SELECT count(*) FROM v WHERE k = 7").await;
        reads.push(asked.elapsed());
        resident = resident.max(server.resident_bytes());
        let numbers = session
            .rows(
                "SELECT (SELECT sum(position) FROM millstream.sources WHERE name = 'backlog'), acknowledged_sequence \
                 FROM millstream.sinks",
            )
            .await;
        let (read, acknowledged) = numbers[0].split_once('|').expect("two numbers");
        if is_over(acknowledged.parse().expect("a number"), start.elapsed()) {
            reads.sort_unstable();
            let at = |share: f64| reads[((reads.len() - 1) as f64 * share) as usize].as_micros() as f64 / 1000.0;
            return format!(
                "{read} read, {acknowledged} acknowledged, at most {} MiB resident, reads by key p50 {:.1} ms, p99 {:.1} ms, \
                 most {:.1} ms",
                resident >> 20,
                at(0.5),
                at(0.99),
                at(1.0)
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Latencies in milliseconds, in order.
fn send_and_receive(broker: &str, input: &str, output: &str, partitions: i32, total: u64) -> Vec<u64> {
    std::thread::scope(|threads| {
        let receiver = threads.spawn(|| receive(broker, output, partitions, total));
        threads.spawn(|| send_evenly(broker, input, total));
        let mut latencies = receiver.join().expect("the receiver does not fail");
        latencies.sort_unstable();
        latencies
    })
}

fn send_evenly(broker: &str, topic: &str, total: u64) {
    let producer = Producer::to(broker);
    let start = Instant::now();
    for n in 0..total {
        while (start.elapsed().as_micros() as u64) * LATENCY_EVENTS_PER_SECOND / 1_000_000 < n {
            std::thread::sleep(Duration::from_millis(1));
        }
        producer.send(topic, &Record::of((n % PARTITIONS as u64) as i32, payment(n, n / 20)));
    }
    producer.flush();
}

/// Milliseconds from `sent_ms` to now for `total` messages; the first tenth is warming up and left out.
fn receive(broker: &str, topic: &str, partitions: i32, total: u64) -> Vec<u64> {
    let settings = [("fetch.wait.max.ms", "5"), ("isolation.level", "read_committed")];
    let consumer = consumer(broker, topic, partitions, &settings);
    let (mut latencies, mut received, start) = (Vec::new(), 0, Instant::now());
    while received < total {
        assert!(start.elapsed() < LIMIT, "only {received} of {total} messages");
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let row: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        received += 1;
        if received > total / 10 {
            latencies.push(now_ms().saturating_sub(row["sent_ms"].as_u64().expect("a number")));
        }
    }
    latencies
}
