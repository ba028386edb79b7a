//! The events are those of the public model, and the same whoever reads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use millstream_catalog::object::Source;
use millstream_catalog::{Column, SqlType};

use crate::chunk::{Chunk, ChunkQueue, Positions};
use crate::error::ConnectorError;
use crate::source::{Reader, SourceSpec};
use crate::start::Start;

const COLUMNS: [(&str, SqlType); 10] = [
    ("event_type", SqlType::Int4),
    ("date_time", SqlType::Timestamp),
    ("extra", SqlType::Text),
    ("person_id", SqlType::Int8),
    ("auction_id", SqlType::Int8),
    ("auction_expires", SqlType::Timestamp),
    ("bid_auction", SqlType::Int8),
    ("bid_bidder", SqlType::Int8),
    ("bid_price", SqlType::Int8),
    ("bid_url", SqlType::Varchar(None)),
];

fn nexmark(columns: &[(&str, SqlType)], options: &[(&str, &str)]) -> Result<SourceSpec, ConnectorError> {
    let options = [("connector", "nexmark")].iter().chain(options);
    SourceSpec::new(&Source {
        columns: columns.iter().map(|(name, sql_type)| Column::new(*name, sql_type.clone(), true)).collect(),
        primary_key: Vec::new(),
        watermark: None,
        options: options.map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>(),
        format: None,
    })
}

fn read(spec: &SourceSpec, columns: &[usize]) -> RecordBatch {
    let read = spec.read_bounded(columns).unwrap();
    let (schema, batches) = (read.schema().clone(), read.map(|rows| rows.unwrap().batch).collect::<Vec<_>>());
    concat_batches(&schema, &batches).unwrap()
}

/// Chunks until the partition is at `end`.
fn take_until(reader: &Reader, queue: &ChunkQueue, end: i64) -> Vec<Chunk> {
    let (started, mut chunks) = (Instant::now(), Vec::new());
    while chunks.last().is_none_or(|c: &Chunk| c.next_offset < end) {
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", reader.status());
        queue.wait(Duration::from_millis(100));
        chunks.extend(queue.take(usize::MAX, usize::MAX));
    }
    chunks
}

#[test]
fn events_are_those_of_the_model() {
    let events = 50_000;
    let all = read(&nexmark(&COLUMNS, &[("events", "50000")]).unwrap(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(all.num_rows(), events);
    let kinds = all.column(0).as_primitive::<Int32Type>();
    let times = all.column(1).as_primitive::<TimestampMicrosecondType>();
    let number = |column: usize, row: usize| all.column(column).as_primitive::<Int64Type>().value(row);
    let (mut hot_auctions, mut hot_bidders, mut with_id, mut bytes, mut dear) = (0, 0, 0, 0, 0);
    for n in 0..events {
        let (round, place) = (n as i64 / 50, n % 50);
        let kind = [0, 1, 1, 1].get(place).copied().unwrap_or(2);
        assert_eq!(kinds.value(n), kind, "event {n}");
        assert_eq!(times.value(n), 1_767_225_600_000_000 + n as i64 * 100);
        // Only the columns of its kind have values.
        for (column, of) in [(3, 0), (4, 1), (5, 1), (6, 2), (7, 2), (8, 2), (9, 2)] {
            assert_eq!(all.column(column).is_valid(n), kind == of, "column {column} of event {n}");
        }
        match kind {
            0 => assert_eq!(number(3, n), 1000 + round),
            1 => {
                assert_eq!(number(4, n), 1000 + round * 3 + place as i64 - 1);
                let life = all.column(5).as_primitive::<TimestampMicrosecondType>().value(n) - times.value(n);
                assert!((1000..2 * 166_700 + 1000).contains(&life), "auction {n} lives for {life} us");
            }
            _ => {
                let (auction, bidder, last) = (number(6, n), number(7, n), 1000 + round * 3 + 2);
                assert!((last - 102..=last + 10).contains(&auction), "event {n} bids for {auction} after {last}");
                assert!((1000..=1000 + round + 10).contains(&bidder), "event {n} is a bid of {bidder}");
                hot_auctions += usize::from(auction == (last - 1000) / 100 * 100 + 1000);
                hot_bidders += usize::from(bidder == round / 100 * 100 + 1001);
                with_id += usize::from(all.column(9).as_string_view().value(n).contains("&channel_id="));
                bytes += 32 + all.column(2).as_string_view().value(n).len();
                dear += usize::from(number(8, n) >= 1_000_000);
                assert!((100..=100_000_000).contains(&number(8, n)));
            }
        }
    }
    let mean = |sum: usize| sum as f64 / (events / 50 * 46) as f64;
    assert!((0.50..0.53).contains(&mean(hot_auctions)), "{hot_auctions} bids for the hot auction");
    assert!((0.75..0.78).contains(&mean(hot_bidders)), "{hot_bidders} bids of the hot bidder");
    assert!((0.44..0.46).contains(&mean(with_id)), "{with_id} bids on channels that say their id");
    // Two of the six decades of prices.
    assert!((0.32..0.35).contains(&mean(dear)), "{dear} bids of 10,000 and more");
    assert!((97.0..102.0).contains(&mean(bytes)), "{bytes} bytes of bids");
}

#[test]
fn an_event_does_not_depend_on_its_reader() {
    let spec = nexmark(&COLUMNS, &[("events", "20000"), ("seed", "7")]).unwrap();
    let all = read(&spec, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let some = read(&spec, &[9, 2, 8]);
    assert_eq!(some, all.project(&[9, 2, 8]).unwrap());

    let (queue, doorbell) = (ChunkQueue::new(1 << 20), Arc::new(|| {}));
    let reader = spec.start(&[9, 2, 8], Positions::from([(0, 12_345)]), queue.clone(), doorbell.clone()).unwrap();
    let chunks = take_until(&reader, &queue, 20_000);
    assert_eq!((chunks[0].first_offset, chunks[0].partition), (12_345, 0));
    let batches: Vec<_> = chunks.iter().map(|c| c.batch.clone()).collect();
    assert_eq!(concat_batches(&some.schema(), &batches).unwrap(), some.slice(12_345, 20_000 - 12_345));
    assert_eq!(reader.status().partitions[0].high_watermark, Some(20_000));

    let other = nexmark(&COLUMNS, &[("events", "20000"), ("seed", "8")]).unwrap();
    assert_ne!(read(&other, &[8]), all.project(&[8]).unwrap());
}

#[test]
fn a_reader_starts_at_the_first_event_stops_at_its_end_and_rewinds() {
    let spec = nexmark(&COLUMNS, &[("events", "100000")]).unwrap();
    let (queue, doorbell) = (ChunkQueue::new(1 << 20), Arc::new(|| {}));
    let ends = Some(Positions::from([(0, 10_000)]));
    let mut reader = spec.start_at(&[0], Start { ends, ..Start::default() }, queue.clone(), doorbell.clone()).unwrap();
    let chunks = take_until(&reader, &queue, 10_000);
    // The position is known before any event.
    assert_eq!((chunks[0].next_offset, chunks[0].batch.num_rows()), (0, 0));
    assert_eq!(chunks.last().unwrap().next_offset, 10_000);
    reader.rewind(Positions::from([(0, 9_000)])).unwrap();
    let chunks = take_until(&reader, &queue, 10_000);
    assert_eq!((chunks[0].first_offset, chunks.iter().map(|c| c.batch.num_rows()).sum::<usize>()), (9_000, 1_000));
    reader.stop();
}

#[test]
fn events_come_at_the_rate_asked() {
    let spec = nexmark(&COLUMNS, &[("events", "1000"), ("rate", "2000")]).unwrap();
    // Event time goes with the rate.
    let times = read(&spec, &[1]);
    let times = times.column(0).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.value(999) - times.value(0), 999 * 500);
    let (queue, started) = (ChunkQueue::new(1 << 20), Instant::now());
    let reader = spec.start(&[0], Positions::new(), queue.clone(), Arc::new(|| {})).unwrap();
    let chunks = take_until(&reader, &queue, 1000);
    assert!(started.elapsed() >= Duration::from_millis(490), "after {:?}", started.elapsed());
    assert!(chunks.len() > 10, "{} chunks", chunks.len());
}
