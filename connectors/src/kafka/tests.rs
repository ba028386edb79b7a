//! Readers and writers against the embedded mock broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use millstream_catalog::object::{Format, Sink, Source};
use millstream_catalog::{Column, SqlType};

use crate::chunk::{Chunk, ChunkQueue, Positions};
use crate::kafka::mock::MockBroker;
use crate::kafka::producer::Producer;
use crate::registry::mock::MockRegistry;
use crate::sink::{Message, SinkIdentity, SinkSpec};
use crate::source::{Doorbell, SourceSpec};
use crate::wait::Wait;

const WAIT: Duration = Duration::from_secs(20);

fn options(broker: &str, extra: &[(&str, &str)]) -> BTreeMap<String, String> {
    let base = [("connector", "kafka"), ("topic", "t"), ("properties.bootstrap.server", broker)];
    base.iter().chain(extra).map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn format(name: &str) -> Format {
    Format { format: name.into(), encode: "json".into(), options: BTreeMap::new(), ..Format::default() }
}

fn try_source(broker: &str, extra: &[(&str, &str)]) -> crate::Result<SourceSpec> {
    let columns = vec![Column::new("id", SqlType::Int8, false), Column::new("s", SqlType::Text, true)];
    SourceSpec::new(&Source {
        columns,
        primary_key: Vec::new(),
        watermark: None,
        options: options(broker, extra),
        format: Some(format("plain")),
    })
}

fn source(broker: &MockBroker, extra: &[(&str, &str)]) -> SourceSpec {
    try_source(&broker.bootstrap(), extra).unwrap()
}

fn broker(partitions: i32) -> (MockBroker, Producer) {
    let broker = MockBroker::start().unwrap();
    broker.create_topic("t", partitions).unwrap();
    let producer = Producer::new(&broker.bootstrap(), &BTreeMap::new()).unwrap();
    (broker, producer)
}

fn produce(producer: &Producer, partition: i32, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        let payload = format!("{{\"id\": {id}, \"s\": \"row {id}\"}}");
        producer.send("t", Some(partition), None, Some(payload.as_bytes())).unwrap();
    }
    producer.flush("t", WAIT).unwrap();
}

fn silent() -> Doorbell {
    Arc::new(|| {})
}

/// Takes chunks until `done` says so.
fn take_until(queue: &ChunkQueue, mut done: impl FnMut(&[Chunk]) -> bool) -> Vec<Chunk> {
    let (mut chunks, started) = (Vec::new(), Instant::now());
    while !done(&chunks) {
        assert!(started.elapsed() < WAIT, "still waiting, with {chunks:?}");
        queue.wait(Duration::from_millis(20));
        chunks.extend(queue.take(usize::MAX, usize::MAX));
    }
    chunks
}

fn rows(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|c| c.batch.num_rows()).sum()
}

/// Ids by partition in the order that they came, checking that each chunk starts where the one before ended.
fn ids(chunks: &[Chunk]) -> BTreeMap<i32, Vec<i64>> {
    let (mut ids, mut next) = (BTreeMap::<i32, Vec<i64>>::new(), BTreeMap::new());
    for chunk in chunks {
        assert_eq!(*next.get(&chunk.partition).unwrap_or(&chunk.first_offset), chunk.first_offset);
        next.insert(chunk.partition, chunk.next_offset);
        let column = chunk.batch.column(0).as_primitive::<Int64Type>();
        ids.entry(chunk.partition).or_default().extend(column.values());
    }
    ids
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < WAIT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn options_are_checked_and_the_known_ones_listed() {
    let error = |extra: &[(&str, &str)]| try_source("localhost:1", extra).unwrap_err();
    let e = error(&[("colour", "red")]);
    assert_eq!((e.sqlstate(), e.message()), ("22023", "unknown option \"colour\" of a kafka source"));
    assert_eq!(
        e.hint(),
        Some(
            "known options: connector, idle_timeout, late_rows, on_error, on_out_of_range, properties.bootstrap.server, \
             scan.startup.mode, scan.startup.timestamp.millis, topic, properties.*"
        )
    );
    let e = error(&[("properties.fetch.wait.max.ms", "soon")]);
    assert_eq!(e.sqlstate(), "22023");
    assert!(e.message().starts_with("option \"properties.fetch.wait.max.ms\" cannot be \"soon\""), "{e}");
    assert!(error(&[("properties.no.such.thing", "1")]).message().contains("no.such.thing"));
    assert_eq!(error(&[("properties.enable.auto.commit", "true")]).sqlstate(), "22023");
    assert!(error(&[("scan.startup.mode", "newest")]).hint().unwrap().contains("earliest, latest, timestamp"));
    assert!(error(&[("scan.startup.mode", "timestamp")]).message().contains("is missing"));
    assert!(error(&[("connector", "pulsar")]).hint().unwrap().contains("kafka"));
    let spec = try_source(
        "localhost:1",
        &[
            ("properties.security.protocol", "SASL_SSL"),
            ("properties.sasl.mechanism", "SCRAM-SHA-256"),
            ("properties.sasl.username", "u"),
            ("properties.sasl.password", "p"),
            ("idle_timeout", "5 s"),
        ],
    );
    assert_eq!(spec.unwrap().idle_timeout(), Some(Duration::from_secs(5)));
}

#[test]
fn a_wrong_topic_or_broker_is_named_in_time() {
    let (broker, _producer) = broker(3);
    assert_eq!(source(&broker, &[]).probe(WAIT).unwrap(), [0, 1, 2]);
    let e = source(&broker, &[("topic", "nosuch")]).probe(WAIT).unwrap_err();
    assert_eq!((e.sqlstate(), e.message().contains("\"nosuch\" does not exist")), ("42704", true), "{e}");
    // Asking must not have made it.
    assert!(source(&broker, &[("topic", "nosuch")]).probe(WAIT).is_err());
    let started = Instant::now();
    let e = try_source("127.0.0.1:1", &[]).unwrap().probe(Duration::from_secs(10)).unwrap_err();
    assert_eq!(e.sqlstate(), "08001");
    assert!(e.message().contains("127.0.0.1:1") && e.detail().is_some(), "{e:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn every_record_arrives_once_and_in_order() {
    let (broker, producer) = broker(3);
    for p in 0..3 {
        produce(&producer, p, 0..5000);
    }
    let queue = ChunkQueue::new(1 << 24);
    let bell = Arc::new(AtomicUsize::new(0));
    let doorbell: Doorbell = Arc::new({
        let bell = bell.clone();
        move || {
            bell.fetch_add(1, Ordering::Relaxed);
        }
    });
    let reader = source(&broker, &[]).start(&[0], Positions::new(), queue.clone(), doorbell).unwrap();
    let mut chunks = take_until(&queue, |c| rows(c) == 15_000);
    for p in 0..3 {
        produce(&producer, p, 5000..5010);
    }
    chunks.extend(take_until(&queue, |c| rows(c) == 30));
    // The first that is seen of a partition announces where it starts.
    assert!(chunks[..3].iter().all(|c| c.bytes == 0 && c.next_offset == 0));
    let ids = ids(&chunks);
    assert!(ids.len() == 3 && ids.values().all(|v| v.iter().copied().eq(0..5010)));
    assert!(chunks.iter().all(|c| c.batch.num_columns() == 1 && c.dead.is_empty()));
    assert!(chunks.iter().any(|c| c.produced_ms_max > 1_600_000_000_000));
    assert!(bell.load(Ordering::Relaxed) >= 4);
    eventually("the lag is known and zero", || {
        reader.lag() == [(0, 5010, Some(5010)), (1, 5010, Some(5010)), (2, 5010, Some(5010))]
    });
    reader.commit_offsets(&[(0, 5010)]);
    reader.stop();
}

#[test]
fn an_event_shows_soon() {
    let (broker, producer) = broker(1);
    let queue = ChunkQueue::new(1 << 20);
    // The mock broker answers a fetch that finds nothing only after its wait, a real one when a record comes.
    let spec = source(&broker, &[("properties.fetch.wait.max.ms", "5")]);
    let reader = spec.start(&[0, 1], Positions::new(), queue.clone(), silent()).unwrap();
    produce(&producer, 0, [1]);
    take_until(&queue, |c| rows(c) == 1);
    let mut best = WAIT;
    for id in 2..12 {
        let started = Instant::now();
        produce(&producer, 0, [id]);
        take_until(&queue, |c| rows(c) == 1);
        best = best.min(started.elapsed());
    }
    assert!(best < Duration::from_millis(50), "{best:?} from produce to chunk at best");
    drop(reader);
}

#[test]
fn a_reader_goes_on_from_given_positions_and_can_be_rewound() {
    let (broker, producer) = broker(2);
    produce(&producer, 0, 0..100);
    produce(&producer, 1, 0..100);
    let queue = ChunkQueue::new(1 << 20);
    // Partition 1 is not among the positions, so it is new and read from its start.
    let spec = source(&broker, &[("scan.startup.mode", "latest")]);
    let mut reader = spec.start(&[0], Positions::from([(0, 60)]), queue.clone(), silent()).unwrap();
    let chunks = take_until(&queue, |c| rows(c) == 140);
    assert!(ids(&chunks)[&0].iter().copied().eq(60..100) && ids(&chunks)[&1].iter().copied().eq(0..100));
    reader.rewind(Positions::from([(0, 90), (1, 95)])).unwrap();
    let chunks = take_until(&queue, |c| rows(c) == 15);
    assert!(ids(&chunks)[&0].iter().copied().eq(90..100) && ids(&chunks)[&1].iter().copied().eq(95..100));
}

#[test]
fn the_start_mode_decides_where_a_new_source_starts() {
    let (broker, producer) = broker(1);
    produce(&producer, 0, 0..10);
    let queue = ChunkQueue::new(1 << 20);
    let latest = source(&broker, &[("scan.startup.mode", "latest")]);
    let reader = latest.start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    let announced = take_until(&queue, |c| !c.is_empty());
    assert_eq!((announced[0].first_offset, announced[0].next_offset, announced[0].bytes), (10, 10, 0));
    produce(&producer, 0, 10..12);
    assert_eq!(ids(&take_until(&queue, |c| rows(c) == 2))[&0], [10, 11]);
    drop(reader);
    assert_eq!(latest.read_bounded(&[0]).unwrap().count(), 0);
}

#[test]
fn a_poison_message_hurts_only_itself() {
    let (broker, producer) = broker(1);
    let payloads: [Option<&[u8]>; 6] = [
        Some(b"{\"id\": 1}"),
        Some(b"{\"id\": "),
        None,
        Some(b"{\"s\": \"no id\"}"),
        Some(b"\xff"),
        Some(b"{\"id\": 6}"),
    ];
    for payload in payloads {
        producer.send("t", Some(0), Some(b"k"), payload).unwrap();
    }
    producer.flush("t", WAIT).unwrap();
    let queue = ChunkQueue::new(1 << 20);
    let reader = source(&broker, &[]).start(&[0, 1], Positions::new(), queue.clone(), silent()).unwrap();
    let chunks = take_until(&queue, |c| c.last().is_some_and(|c| c.next_offset == 6));
    assert_eq!(ids(&chunks)[&0], [1, 6]);
    let dead: Vec<_> = chunks.iter().flat_map(|c| &c.dead).collect();
    assert_eq!(dead.iter().map(|d| d.offset).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(dead[0].error, "invalid JSON at byte 7: expected a value, found the end");
    assert_eq!((dead[0].key.as_deref(), dead[0].payload.as_deref()), (Some(&b"k"[..]), Some(&b"{\"id\": "[..])));
    assert!(dead[0].timestamp_ms.is_some() && dead[1].payload.is_none());
    drop(reader);

    let mut bounded = source(&broker, &[]).read_bounded(&[0]).unwrap();
    assert_eq!(bounded.by_ref().map(|b| b.unwrap().batch.num_rows()).sum::<usize>(), 2);
    assert_eq!(bounded.unreadable(), 4);

    let queue = ChunkQueue::new(1 << 20);
    let skip = source(&broker, &[("on_error", "skip")]);
    let reader = skip.start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    let chunks = take_until(&queue, |c| c.last().is_some_and(|c| c.next_offset == 6));
    assert_eq!(chunks.iter().map(|c| c.skipped).sum::<u64>(), 4);
    assert!(chunks.iter().all(|c| c.dead.is_empty()));
    drop(reader);

    let queue = ChunkQueue::new(1 << 20);
    let stop = source(&broker, &[("on_error", "stop")]);
    let reader = stop.start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    eventually("the partition stops", || reader.status().partitions.iter().any(|p| p.stopped));
    let status = reader.status();
    assert!(status.partitions[0].error.as_ref().unwrap().starts_with("record at offset 1 of partition 0"));
    assert_eq!(ids(&queue.take(usize::MAX, usize::MAX))[&0], [1]);
    assert!(stop.read_bounded(&[0]).unwrap().any(|b| b.is_err()));
}

#[test]
fn a_bounded_read_ends_at_the_end_as_of_its_start() {
    let (broker, producer) = broker(3);
    produce(&producer, 0, 0..20_000);
    produce(&producer, 2, 0..10);
    let read = source(&broker, &[]).read_bounded(&[1, 0]).unwrap();
    // What comes later is not of this read.
    produce(&producer, 2, 10..20);
    let batches: Vec<_> = read.map(|b| b.unwrap().batch).collect();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 20_010);
    assert!(batches.iter().all(|b| b.schema().field(1).name() == "id" && b.num_rows() <= 8192));
}

#[test]
fn a_full_queue_holds_the_reader_back_and_loses_nothing() {
    let (broker, producer) = broker(2);
    let total = 12_000;
    for p in 0..2 {
        produce(&producer, p, 0..total / 2);
    }
    let queue = ChunkQueue::new(64 << 10);
    let reader = source(&broker, &[]).start(&[0, 1], Positions::new(), queue.clone(), silent()).unwrap();
    eventually("the queue fills", || queue.bytes() >= 64 << 10);
    std::thread::sleep(Duration::from_millis(300));
    assert!(queue.bytes() < (64 << 10) + (1 << 20) + (1 << 17), "{} bytes wait", queue.bytes());
    assert!(rows(&queue.take(1, 1)) < total as usize);
    let (mut taken, started) = (0, Instant::now());
    let mut all = Vec::new();
    reader.status();
    while started.elapsed() < WAIT && taken < total as usize {
        queue.wait(Duration::from_millis(20));
        all.extend(queue.take(1000, 1 << 20));
        taken = all.iter().map(|c: &Chunk| c.next_offset - c.first_offset).sum::<i64>() as usize;
        // What was taken above before the loop is missing here.
        if reader.lag().iter().all(|(_, next, _)| *next == total / 2) && queue.is_empty() {
            break;
        }
    }
    assert!(reader.lag().iter().all(|(_, next, _)| *next == total / 2), "{:?}", reader.lag());
    // A reader that waits for room can be stopped.
    let queue = ChunkQueue::new(1);
    let held = source(&broker, &[]).start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    eventually("the queue fills", || queue.bytes() > 0);
    held.stop();
}

#[test]
fn an_offset_that_is_gone_stops_its_partition_and_says_so() {
    let (broker, producer) = broker(2);
    produce(&producer, 0, 0..5);
    produce(&producer, 1, 0..5);
    let queue = ChunkQueue::new(1 << 20);
    let positions = Positions::from([(0, 1000), (1, 0)]);
    let reader = source(&broker, &[]).start(&[0], positions, queue.clone(), silent()).unwrap();
    eventually("partition 0 stops", || reader.status().partitions.iter().any(|p| p.partition == 0 && p.stopped));
    let status = reader.status();
    assert!(
        status.partitions[0].error.as_ref().unwrap().starts_with("offset 1000 of partition 0 of kafka topic \"t\"")
    );
    let chunks = take_until(&queue, |c| rows(c) == 5);
    // The first chunks say of which topic the positions are; that of partition 0 has no row and stays where it is.
    assert!(chunks.iter().all(|c| c.partition == 1 || (c.batch.num_rows() == 0 && c.next_offset == 1000)));
    assert!(!status.partitions[1].stopped);
}

/// A record in Avro of a schema with one field, a long.
fn avro(schema: u32, id: i64) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(schema.to_be_bytes());
    // Zigzag; one byte is enough for small numbers.
    bytes.push((id << 1) as u8);
    bytes
}

/// A schema that cannot be had for now holds up the partition that needs it, and no other of the same thread.
#[test]
fn a_registry_that_is_away_holds_up_one_partition() {
    let registry = MockRegistry::start();
    let schema =
        |name: &str| format!(r#"{{"type": "record", "name": "{name}", "fields": [{{"name": "id", "type": "long"}}]}}"#);
    let known = registry.avro("t-value", &schema("A"));
    // So many partitions that the first and the last share a polling thread.
    let last = std::thread::available_parallelism().map_or(1, |n| n.get() as i32 / 2).max(1);
    let (broker, producer) = broker(last + 1);
    let send = |partition: i32, schema: u32, ids: std::ops::Range<i64>| {
        for id in ids {
            producer.send("t", Some(partition), None, Some(&avro(schema, id))).unwrap();
        }
        producer.flush("t", WAIT).unwrap();
    };
    let options = options(&broker.bootstrap(), &[]);
    let clause = Format {
        encode: "avro".into(),
        options: [("schema.registry".to_string(), registry.url.clone())].into(),
        ..format("plain")
    };
    let resolved = crate::resolve(&options, &clause, true).unwrap();
    let spec = SourceSpec::new(&Source {
        columns: resolved.columns,
        primary_key: Vec::new(),
        watermark: None,
        options,
        format: Some(resolved.format),
    })
    .unwrap();
    send(last, known, 0..1);
    let queue = ChunkQueue::new(1 << 20);
    let reader = spec.start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    let mut chunks = take_until(&queue, |c| rows(c) == 1);
    let (mut first, mut other) = (0, 1);
    for is_silent in [false, true] {
        let unknown = registry.avro("t-value", &schema(&format!("B{is_silent}")));
        if is_silent {
            registry.set_silent(true);
        } else {
            registry.set_down(true);
        }
        send(0, known, first..first + 1);
        send(0, unknown, first + 1..first + 3);
        send(0, known, first + 3..first + 4);
        let error = || reader.status().partitions.iter().find(|p| p.partition == 0).and_then(|p| p.error.clone());
        eventually("the fault is told", || error().is_some_and(|e| e.contains("schema registry")));
        let started = Instant::now();
        for _ in 0..5 {
            send(last, known, other..other + 1);
            other += 1;
            let before = rows(&chunks);
            chunks.extend(take_until(&queue, |c| before + rows(c) == (other + first + 1) as usize));
        }
        eprintln!("five records of the other partition took {:?}, silent: {is_silent}", started.elapsed());
        assert_eq!(ids(&chunks)[&last], (0..other).collect::<Vec<_>>());
        assert_eq!(ids(&chunks)[&0], (0..=first).collect::<Vec<_>>());
        assert!(error().is_some());
        registry.set_down(false);
        registry.set_silent(false);
        let before = rows(&chunks);
        chunks.extend(take_until(&queue, |c| before + rows(c) == (other + first + 4) as usize));
        first += 4;
        assert_eq!(ids(&chunks)[&0], (0..first).collect::<Vec<_>>());
        assert_eq!(error(), None);
    }
}

#[test]
fn a_broker_that_goes_away_is_told_and_waited_for() {
    let (broker, producer) = broker(1);
    produce(&producer, 0, 0..5);
    let queue = ChunkQueue::new(1 << 20);
    let reader = source(&broker, &[]).start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    take_until(&queue, |c| rows(c) == 5);
    assert_eq!(reader.status().error, None);
    broker.set_up(false).unwrap();
    eventually("the fault is told", || reader.status().error.is_some());
    broker.set_up(true).unwrap();
    eventually("the fault is over", || reader.status().error.is_none());
    produce(&producer, 0, 5..8);
    assert_eq!(ids(&take_until(&queue, |c| rows(c) == 3))[&0], [5, 6, 7]);
}

#[test]
fn a_reader_starts_while_the_topic_is_not_there_yet() {
    let broker = MockBroker::start().unwrap();
    let queue = ChunkQueue::new(1 << 20);
    let reader = source(&broker, &[]).start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    eventually("the missing topic is told", || {
        reader.status().error.is_some_and(|e| e.contains("\"t\" does not exist"))
    });
    broker.create_topic("t", 1).unwrap();
    let producer = Producer::new(&broker.bootstrap(), &BTreeMap::new()).unwrap();
    produce(&producer, 0, 0..3);
    take_until(&queue, |c| rows(c) == 3);
    eventually("the fault is over", || reader.status().error.is_none());
}

fn identity() -> SinkIdentity {
    SinkIdentity { store: "b4e0b1f5-0c65-4c5c-8d0a-0d8f6f0e8a11".into(), sink: 7 }
}

fn sink(broker: &str, of: &str, key: Vec<usize>) -> SinkSpec {
    let columns = vec![Column::new("id", SqlType::Int8, false), Column::new("s", SqlType::Text, true)];
    SinkSpec::new(&Sink {
        columns,
        query: String::new(),
        time_zone: "UTC".into(),
        options: options(broker, &[("delivery", "at_least_once")]),
        format: Some(format(of)),
        key,
        emit_on_window_close: false,
        fingerprint: String::new(),
    })
    .unwrap()
}

#[test]
fn what_a_sink_has_written_is_there() {
    let (broker, _producer) = broker(3);
    let spec = sink(&broker.bootstrap(), "plain", vec![]);
    spec.probe(WAIT).unwrap();
    let mut writer = spec.start(&identity(), &Wait::default()).unwrap();
    for first in [0, 5000] {
        let message = |id: i64| Message { key: None, payload: Some(format!("{{\"id\": {id}}}").into_bytes()) };
        writer.send((first..first + 5000).map(message).collect()).unwrap();
        writer.commit(first as u64 + 5000).unwrap();
        eventually("all are acknowledged", || writer.acknowledged(WAIT).unwrap() == first as u64 + 5000);
        let batches = source(&broker, &[]).read_bounded(&[0]).unwrap();
        let mut ids: Vec<_> =
            batches.flat_map(|b| b.unwrap().batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..first + 5000));
    }
    assert_eq!(writer.marker().unwrap(), None);
}

#[test]
fn tombstones_reach_the_topic() {
    let (broker, _producer) = broker(1);
    let mut writer = sink(&broker.bootstrap(), "upsert", vec![0]).start(&identity(), &Wait::default()).unwrap();
    let put = Message { key: Some(b"{\"id\":1}".to_vec()), payload: Some(b"{\"id\":1}".to_vec()) };
    let delete = Message { key: Some(b"{\"id\":1}".to_vec()), payload: None };
    writer.send(vec![put, delete]).unwrap();
    writer.commit(2).unwrap();
    eventually("both are acknowledged", || writer.acknowledged(WAIT).unwrap() == 2);
    let queue = ChunkQueue::new(1 << 20);
    let _reader = source(&broker, &[]).start(&[0], Positions::new(), queue.clone(), silent()).unwrap();
    let chunks = take_until(&queue, |c| c.last().is_some_and(|c| c.next_offset == 2));
    let dead: Vec<_> = chunks.iter().flat_map(|c| &c.dead).collect();
    assert!(rows(&chunks) == 1 && dead.len() == 1 && dead[0].payload.is_none());
    assert_eq!(dead[0].key.as_deref(), Some(&b"{\"id\":1}"[..]));
}

#[test]
fn a_write_that_is_not_acknowledged_fails_and_names_the_topic() {
    let columns = vec![Column::new("id", SqlType::Int8, false)];
    let spec = SinkSpec::new(&Sink {
        columns,
        query: String::new(),
        time_zone: "UTC".into(),
        options: options("127.0.0.1:1", &[("properties.message.timeout.ms", "300"), ("delivery", "at_least_once")]),
        format: Some(format("plain")),
        key: vec![],
        emit_on_window_close: false,
        fingerprint: String::new(),
    })
    .unwrap();
    let mut writer = spec.start(&identity(), &Wait::default()).unwrap();
    writer.send(vec![Message { key: None, payload: Some(b"{}".to_vec()) }]).unwrap();
    writer.commit(1).unwrap();
    let e = loop {
        match writer.acknowledged(WAIT) {
            Ok(next) => assert_eq!(next, 0),
            Err(e) => break e,
        }
    };
    assert_eq!((e.sqlstate(), e.message().contains("kafka topic \"t\" on 127.0.0.1:1")), ("08006", true), "{e}");
}
