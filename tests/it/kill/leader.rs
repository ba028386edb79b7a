//! Brokers of a cluster die, so that others lead partitions, groups and transactions from there on: sources and a sink that
//! writes exactly once go on with them; nothing is lost, nothing doubled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Session;
use crate::cluster::Cluster;
use crate::kafka::{Producer, Record, read_all_on};
use crate::server::Server;

const PARTITIONS: i32 = 4;
/// How long a cluster may take to see that a leader is gone, and a client to find the new one. The cluster of the test looks
/// for 4 s.
const FAILOVER_LIMIT: Duration = Duration::from_secs(45);

/// A thread that sends numbers from 0 on, until it is stopped.
struct Numbers {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Numbers {
    fn start(address: &str, topic: &'static str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, address) = (stop.clone(), sent.clone(), address.to_string());
        let thread = std::thread::spawn(move || {
            let producer = Producer::to(&address);
            while !stopped.load(Ordering::Relaxed) {
                let n = count.fetch_add(1, Ordering::Relaxed);
                producer.send(topic, &Record::of((n % PARTITIONS as u64) as i32, format!("{{\"n\":{n}}}")));
                std::thread::sleep(Duration::from_millis(1));
            }
            producer.flush();
        });
        Self { stop, sent, thread }
    }

    /// Stops, and returns how many were sent.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("all was sent");
        self.sent.load(Ordering::Relaxed)
    }
}

/// Waits until the sink has sent a thousand rows more, and returns how long that took.
async fn goes_on(session: &Session) -> Duration {
    let acknowledged = "SELECT acknowledged_sequence FROM millstream.sinks";
    let before: u64 = session.value(acknowledged).await.parse().expect("a number");
    let start = Instant::now();
    while session.value(acknowledged).await.parse::<u64>().expect("a number") < before + 1000 {
        let sink = session.rows("SELECT status, outbox_rows, lag_seconds, error FROM millstream.sinks").await;
        let source = session.rows("SELECT \"partition\", status, position, lag FROM millstream.sources").await;
        assert!(start.elapsed() < FAILOVER_LIMIT, "stands at {before}: {sink:?}, {source:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three more Java processes: make kill"]
async fn leaders_die() {
    die("").await;
}

/// The same with the client's own settings, by which it may wait for ever for a broker that is gone: it is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three more Java processes: make kill"]
async fn leaders_die_and_the_client_hangs() {
    die(", properties.metadata.max.age.ms = '900000', properties.connections.max.idle.ms = '0'").await;
}

/// Each broker of a cluster dies once, with more options of the sink.
async fn die(options: &str) {
    let started = Instant::now();
    let mut cluster = Cluster::start();
    cluster.create_topic("numbers", PARTITIONS);
    cluster.create_topic("copies", 2);
    let server = Server::start();
    let session = server.connect().await;
    let with = format!("properties.bootstrap.server = '{}'", cluster.address());
    session
        .run(&format!(
            "CREATE SOURCE s (n BIGINT) WITH (connector = 'kafka', topic = 'numbers', {with}) FORMAT PLAIN ENCODE JSON"
        ))
        .await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS rows, sum(n) AS total FROM s").await;
    session
        .run(&format!(
            "CREATE SINK k AS SELECT n FROM s WITH (connector = 'kafka', topic = 'copies', {with}{options}) \
             FORMAT PLAIN ENCODE JSON"
        ))
        .await;
    let numbers = Numbers::start(&cluster.address(), "numbers");
    goes_on(&session).await;
    let first = cluster.leader("copies", 0);
    // The second time all that the first has left to the other moves back, whoever had it in the beginning.
    let mut stood = Vec::new();
    for dies in [first, 1 - first] {
        cluster.stop(dies);
        stood.push(goes_on(&session).await);
        cluster.restart(dies);
        goes_on(&session).await;
    }
    let sent = numbers.end();
    let expected = format!("{sent}|{}", sent * (sent - 1) / 2);
    session.eventually("SELECT * FROM v", FAILOVER_LIMIT, &[&expected]).await;
    let sink = "SELECT acknowledged_sequence, status FROM millstream.sinks";
    session.eventually(sink, FAILOVER_LIMIT, &[&format!("{sent}|running")]).await;
    session.eventually("SELECT DISTINCT status FROM millstream.sources", FAILOVER_LIMIT, &["running"]).await;
    let of_text = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["n"].as_u64();
    let mut copies: Vec<u64> = read_all_on(&cluster.address(), "copies")
        .iter()
        .filter_map(Record::payload_text)
        .map(|text| of_text(text).expect("a number"))
        .collect();
    copies.sort_unstable();
    assert!(copies.iter().copied().eq(0..sent), "{} copies of {sent} numbers", copies.len());
    eprintln!(
        "leaders: {sent} rows over two deaths in {:?}, after which the sink stood for {stood:?}; 0 lost, 0 doubled",
        started.elapsed()
    );
}
