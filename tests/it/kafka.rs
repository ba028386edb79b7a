//! One real Apache Kafka broker for the whole test binary, and small clients to fill and read its topics.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::bindings;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::process::{free_port, spawn, wait_for};

const TIMEOUT: Duration = Duration::from_secs(30);

/// The address of the broker, which the first caller starts. `KAFKA_BOOTSTRAP` names one that runs already.
pub fn bootstrap() -> &'static str {
    static BOOTSTRAP: OnceLock<String> = OnceLock::new();
    BOOTSTRAP.get_or_init(|| match std::env::var("KAFKA_BOOTSTRAP") {
        Ok(address) if !address.is_empty() => address,
        _ => start(),
    })
}

/// Starts the broker in a directory named after this process; directories of dead runs are removed on the way.
fn start() -> String {
    let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kafka");
    for old in std::fs::read_dir(&base).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _ = std::fs::remove_dir_all(old.path());
        }
    }
    let dir = base.join(std::process::id().to_string());
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the broker's directory can be made");
    let port = free_port();
    let log = std::fs::File::create(dir.join("out.log")).expect("the broker's log can be made");
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/dev/kafka/kafka.sh"));
    command.arg("run").arg(&dir).arg(port.to_string()).arg(free_port().to_string());
    // Tests are short: code that the quick compiler made in time beats better code that comes too late.
    if std::env::var_os("KAFKA_JIT_LEVEL").is_none() {
        command.env("KAFKA_JIT_LEVEL", "1");
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log has a second handle")).stderr(log);
    let mut child = spawn(command).expect("bash runs dev/kafka/kafka.sh");
    let address = format!("127.0.0.1:{port}");
    wait_for_broker(&address, &mut child, &dir.join("out.log"));
    address
}

/// Waits until a broker that was just started answers; panics with its log if it ends instead.
pub fn wait_for_broker(address: &str, child: &mut Child, log: &Path) {
    wait_for("Apache Kafka", Duration::from_secs(120), Duration::from_millis(50), || {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            panic!("the Kafka broker ended while starting ({status}):\n{log}");
        }
        std::net::TcpStream::connect(address).map_err(|error| error.to_string())?;
        let probe: BaseConsumer = client_config(address).create().map_err(|error| error.to_string())?;
        match probe.fetch_metadata(None, Duration::from_secs(5)) {
            Ok(metadata) if !metadata.brokers().is_empty() => Ok(()),
            Ok(_) => Err("no broker has registered yet".to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
}

fn client_config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("group.id", "millstream-tests");
    config.set_log_level(RDKafkaLogLevel::Emerg);
    config
}

fn admin() -> AdminClient<DefaultClientContext> {
    admin_of(bootstrap())
}

fn admin_of(address: &str) -> AdminClient<DefaultClientContext> {
    client_config(address).create().expect("an admin client")
}

/// Makes a topic; panics if it exists.
pub fn create_topic(name: &str, partitions: i32) {
    create_topic_on(bootstrap(), name, partitions);
}

/// The same on another broker.
pub fn create_topic_on(address: &str, name: &str, partitions: i32) {
    create_replicated(address, name, partitions, 1);
}

/// The same on so many brokers of a cluster.
pub fn create_replicated(address: &str, name: &str, partitions: i32, replicas: i32) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
    let result = block_on(admin_of(address).create_topics([&topic], &AdminOptions::new())).expect("the broker answers");
    result.into_iter().for_each(|topic| drop(topic.unwrap_or_else(|(name, code)| panic!("topic {name}: {code}"))));
    // The broker's metadata is a moment behind its controller; a CREATE SOURCE right now would miss the topic.
    let probe: BaseConsumer = client_config(address).create().expect("a consumer");
    wait_for(name, TIMEOUT, Duration::from_millis(10), || {
        let metadata = probe.fetch_metadata(Some(name), TIMEOUT).map_err(|error| error.to_string())?;
        let known = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        if known == partitions as usize { Ok(()) } else { Err(format!("{known} of {partitions} partitions")) }
    });
}

/// The node that leads a partition.
pub fn leader(address: &str, topic: &str, partition: i32) -> i32 {
    let probe: BaseConsumer = client_config(address).create().expect("a consumer");
    let metadata = probe.fetch_metadata(Some(topic), TIMEOUT).expect("the broker answers");
    metadata.topics()[0].partitions().iter().find(|p| p.id() == partition).expect("the partition").leader()
}

/// Waits until a cluster has so many brokers.
pub fn wait_until_known(address: &str, brokers: usize) {
    let probe: BaseConsumer = client_config(address).create().expect("a consumer");
    wait_for("the brokers of a cluster", TIMEOUT, Duration::from_millis(50), || {
        let known = probe.fetch_metadata(None, TIMEOUT).map_err(|error| error.to_string())?.brokers().len();
        if known == brokers { Ok(()) } else { Err(format!("{known} of {brokers} brokers")) }
    });
}

/// Waits until every partition of a cluster is whole on so many brokers.
pub fn wait_until_in_sync(address: &str, replicas: usize) {
    let probe: BaseConsumer = client_config(address).create().expect("a consumer");
    wait_for("the replicas of a cluster", TIMEOUT, Duration::from_millis(100), || {
        let metadata = probe.fetch_metadata(None, TIMEOUT).map_err(|error| error.to_string())?;
        let mut partitions = metadata.topics().iter().flat_map(|t| t.partitions().iter().map(move |p| (t.name(), p)));
        match partitions.find(|(_, p)| p.isr().len() < replicas) {
            None => Ok(()),
            Some((topic, p)) => Err(format!("partition {} of {topic} is on {:?}", p.id(), p.isr())),
        }
    });
}

/// Raises the number of partitions of a topic.
pub fn add_partitions(name: &str, total: usize) {
    let request = NewPartitions::new(name, total);
    let result = block_on(admin().create_partitions([&request], &AdminOptions::new())).expect("the broker answers");
    result.into_iter().for_each(|topic| drop(topic.unwrap_or_else(|(name, code)| panic!("topic {name}: {code}"))));
}

/// Deletes a topic and waits until the broker does not know it any more.
pub fn delete_topic(name: &str) {
    let result = block_on(admin().delete_topics(&[name], &AdminOptions::new())).expect("the broker answers");
    result.into_iter().for_each(|topic| drop(topic.unwrap_or_else(|(name, code)| panic!("topic {name}: {code}"))));
    let probe: BaseConsumer = client_config(bootstrap()).create().expect("a consumer");
    wait_for(name, TIMEOUT, Duration::from_millis(10), || {
        let metadata = probe.fetch_metadata(Some(name), TIMEOUT).map_err(|error| error.to_string())?;
        match metadata.topics().first().and_then(|topic| topic.error()) {
            Some(_) => Ok(()),
            None => Err("it is still there".to_string()),
        }
    });
}

/// Deletes the records of a partition before an offset, as retention does.
pub fn delete_records(topic: &str, partition: i32, before: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, Offset::Offset(before)).expect("a valid offset");
    block_on(admin().delete_records(&offsets, &AdminOptions::new())).expect("the broker answers");
}

/// The offset after the last record of a partition, those that end transactions included.
pub fn end(topic: &str, partition: i32) -> u64 {
    let probe: BaseConsumer = client_config(bootstrap()).create().expect("a consumer");
    let (_, end) = probe.fetch_watermarks(topic, partition, TIMEOUT).expect("the broker answers");
    u64::try_from(end).expect("an offset")
}

/// The offset that a consumer group has committed for a partition, as Kafka's own tools see it.
pub fn committed(group: &str, topic: &str, partition: i32) -> Option<i64> {
    let mut config = client_config(bootstrap());
    config.set("group.id", group);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition(topic, partition);
    let committed = consumer.committed_offsets(partitions, TIMEOUT).expect("the broker answers");
    match committed.elements().first()?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// One message to send, or one that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    /// Milliseconds since 1970; the present if `None` when sent.
    pub timestamp_ms: Option<i64>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// A message without key.
    pub fn of(partition: i32, payload: impl Into<Vec<u8>>) -> Self {
        Record { partition, payload: Some(payload.into()), ..Record::default() }
    }

    /// The key as text, `""` without one.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned()
    }

    /// The payload as text; `None` is a tombstone.
    pub fn payload_text(&self) -> Option<String> {
        self.payload.as_deref().map(|payload| String::from_utf8_lossy(payload).into_owned())
    }
}

/// Sends records to topics of the broker, in order within a partition.
pub struct Producer(BaseProducer);

impl Producer {
    pub fn new() -> Self {
        Self::to(bootstrap())
    }

    /// The same to another broker.
    pub fn to(address: &str) -> Self {
        let mut config = client_config(address);
        config.set("enable.idempotence", "true").set("linger.ms", "1").set("queue.buffering.max.messages", "1000000");
        Producer(config.create().expect("a producer"))
    }

    /// Queues a record; waits while the queue is full.
    pub fn send(&self, topic: &str, record: &Record) {
        let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
        message.key = record.key.as_deref();
        message.payload = record.payload.as_deref();
        message.timestamp = record.timestamp_ms;
        if !record.headers.is_empty() {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
            message.headers = Some(headers);
        }
        while let Err((error, back)) = self.0.send(message) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{topic}");
            self.0.poll(Duration::from_millis(10));
            message = back;
        }
        self.0.poll(Duration::ZERO);
    }

    /// Returns when all that was sent is acknowledged.
    pub fn flush(&self) {
        self.0.flush(TIMEOUT).expect("the broker acknowledges");
    }
}

/// Sends text payloads to one partition and waits for the acknowledgement.
pub fn produce(topic: &str, partition: i32, payloads: &[&str]) {
    let producer = Producer::new();
    payloads.iter().for_each(|payload| producer.send(topic, &Record::of(partition, *payload)));
    producer.flush();
}

/// Everything that is in a topic now, partition after partition, in order; only committed transactions' messages.
pub fn read_all(topic: &str) -> Vec<Record> {
    read_all_on(bootstrap(), topic)
}

/// The same on another broker.
pub fn read_all_on(address: &str, topic: &str) -> Vec<Record> {
    let mut config = client_config(address);
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    config.set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).expect("the broker answers");
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|partition| partition.id()).collect();
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&assignment).expect("an assignment");
    let (mut open, mut records) = (partitions.len(), Vec::new());
    while open > 0 {
        match consumer.poll(TIMEOUT) {
            None => panic!("topic {topic}: no end of partition within {TIMEOUT:?}"),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => panic!("topic {topic}: {error}"),
            Some(Ok(message)) => records.push(Record {
                partition: message.partition(),
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec),
                timestamp_ms: message.timestamp().to_millis(),
                headers: message.headers().into_iter().flat_map(Headers::iter).fold(Vec::new(), |mut all, header| {
                    all.push((header.key.to_string(), header.value.map(<[u8]>::to_vec)));
                    all
                }),
            }),
        }
    }
    records.sort_by_key(|record| record.partition);
    records
}

/// What a consumer group has committed for a partition: offset and metadata.
pub fn committed_with_metadata(group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
    let mut config = client_config(bootstrap());
    let consumer: BaseConsumer = config.set("group.id", group).create().expect("a consumer");
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, partition);
    let told = consumer.committed_offsets(asked, TIMEOUT).expect("the broker answers");
    let entry = told.find_partition(topic, partition).expect("what was asked");
    match entry.offset() {
        Offset::Offset(offset) => Some((offset, entry.metadata().to_string())),
        _ => None,
    }
}

/// The consumer groups whose name begins so.
pub fn groups(prefix: &str) -> Vec<String> {
    let consumer: BaseConsumer = client_config(bootstrap()).create().expect("a consumer");
    let list = consumer.fetch_group_list(None, TIMEOUT).expect("the broker answers");
    list.groups().iter().map(|group| group.name().to_string()).filter(|name| name.starts_with(prefix)).collect()
}

/// Forbids everybody to do something with what has a name that begins so, at a broker with an authorizer.
pub fn forbid(
    address: &str,
    resource: bindings::rd_kafka_ResourceType_t,
    prefix: &str,
    what: bindings::rd_kafka_AclOperation_t,
) {
    use bindings::*;
    let admin = admin_of(address);
    let text = |text: &str| CString::new(text).expect("no NUL");
    let (prefix, principal, host) = (text(prefix), text("User:ANONYMOUS"), text("*"));
    let mut reason = [0 as c_char; 512];
    // SAFETY: librdkafka copies what it is given; each object is destroyed once, after its last use.
    unsafe {
        let client = admin.inner().native_ptr();
        let binding = rd_kafka_AclBinding_new(
            resource,
            prefix.as_ptr(),
            rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
            principal.as_ptr(),
            host.as_ptr(),
            what,
            rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_DENY,
            reason.as_mut_ptr(),
            reason.len(),
        );
        assert!(!binding.is_null(), "a rule");
        let queue = rd_kafka_queue_new(client);
        rd_kafka_CreateAcls(client, [binding].as_mut_ptr(), 1, std::ptr::null(), queue);
        let event = rd_kafka_queue_poll(queue, TIMEOUT.as_millis() as i32);
        let result = rd_kafka_event_CreateAcls_result(event);
        assert!(!result.is_null(), "the broker answers");
        let mut count = 0;
        let results = rd_kafka_CreateAcls_result_acls(result, &mut count);
        assert!(count == 1 && rd_kafka_acl_result_error(*results).is_null(), "the rule is taken");
        rd_kafka_event_destroy(event);
        rd_kafka_queue_destroy(queue);
        rd_kafka_AclBinding_destroy(binding);
    }
}

/// Deletes a consumer group with all that it has committed.
pub fn delete_group(group: &str) {
    let results = block_on(admin().delete_groups(&[group], &AdminOptions::new())).expect("the broker answers");
    results.into_iter().for_each(|result| drop(result.unwrap_or_else(|(name, code)| panic!("group {name}: {code}"))));
}

/// The harness itself: what is sent to the broker comes back, in order, with key, timestamp and headers.
#[test]
fn round_trip() {
    create_topic("round-trip", 2);
    let sent: Vec<Record> = (0..100)
        .map(|n| Record {
            partition: n / 50,
            key: Some(format!("k{n}").into_bytes()),
            payload: (n % 7 != 0).then(|| format!("{{\"n\":{n}}}").into_bytes()),
            timestamp_ms: Some(1_700_000_000_000 + i64::from(n)),
            headers: vec![("trace".into(), Some(vec![n as u8])), ("none".into(), None)],
        })
        .collect();
    let producer = Producer::new();
    sent.iter().for_each(|record| producer.send("round-trip", record));
    producer.flush();
    assert_eq!(read_all("round-trip"), sent);
}
