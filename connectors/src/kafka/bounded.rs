//! A SELECT on a topic: from the start mode's offsets to the ends that the partitions have when it starts.
//!
//! The end of a partition is where the broker says that it is read to its end, or the high watermark of the start,
//! whichever comes first: behind the last record there may be transaction markers, so its offset alone does not tell.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use crate::error::{ConnectorError, Result, sqlstate};
use crate::format::{Failure, Record, RecordDecoder, Rows};
use crate::kafka::native::{Batch, Consumer, Event, Message};
use crate::kafka::{KafkaSource, Startup};
use crate::source::{OnError, ReadBounded};

/// Rows of a full batch.
const BATCH_ROWS_MAX: usize = 8192;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// How long the start may wait for a broker.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without a record the caller gets an empty batch, so that it can see a cancel.
const YIELD_AFTER: Duration = Duration::from_millis(100);
/// After so long without a record or an end the read fails.
const STALLED_AFTER: Duration = Duration::from_secs(30);

pub(crate) struct BoundedReader {
    // Before the consumer, so that it is dropped first.
    batch: Batch,
    /// Index of the next event of the batch.
    at: usize,
    consumer: Consumer,
    topic: String,
    decoder: RecordDecoder,
    bytes: usize,
    on_error: OnError,
    /// Offset after the last record to read, of partitions that are not read to it yet.
    ends: BTreeMap<i32, i64>,
    progress: Instant,
    unreadable: u64,
    failed: bool,
}

impl BoundedReader {
    pub fn start(source: &KafkaSource, decoder: RecordDecoder, on_error: OnError) -> Result<Self> {
        let consumer = Consumer::new(&source.consumer_config(1))?;
        let partitions = source.connection.probe_with(&consumer, source.topic(), START_TIMEOUT)?;
        let topic = source.topic().to_string();
        let (mut ends, mut starts) = (BTreeMap::new(), Vec::new());
        for partition in partitions {
            let ask = |code: RDKafkaErrorCode| {
                ConnectorError::new(
                    sqlstate::CONNECTION_FAILURE,
                    format!("partition {partition} of kafka topic \"{topic}\" cannot be asked where it ends: {code}"),
                )
            };
            let (low, high) = consumer.watermarks(&topic, partition, START_TIMEOUT).map_err(ask)?;
            let start = match source.startup {
                Startup::Earliest => low,
                Startup::Latest => high,
                Startup::Timestamp(ms) => {
                    consumer.offset_at(&topic, partition, ms, START_TIMEOUT).map_err(ask)?.unwrap_or(high)
                }
            };
            if start < high {
                ends.insert(partition, high);
                starts.push((partition, start));
            }
        }
        if !starts.is_empty() {
            consumer
                .add(&topic, &starts)
                .map_err(|code| ConnectorError::internal(format!("kafka topic \"{topic}\" cannot be read: {code}")))?;
        }
        Ok(Self {
            batch: Batch::new(),
            at: 0,
            consumer,
            topic,
            decoder,
            bytes: 0,
            on_error,
            ends,
            progress: Instant::now(),
            unreadable: 0,
            failed: false,
        })
    }

    /// Reads until a batch is full, or nothing is ready, or all is read.
    fn fill(&mut self) -> Result<()> {
        while self.decoder.rows() < BATCH_ROWS_MAX && self.bytes < BATCH_BYTES_MAX && !self.ends.is_empty() {
            let Some(event) = self.batch.get(self.at) else {
                let wait = if self.decoder.rows() == 0 { YIELD_AFTER } else { Duration::from_millis(5) };
                self.consumer.poll(&mut self.batch, wait);
                self.at = 0;
                if !self.batch.is_empty() {
                    self.progress = Instant::now();
                    continue;
                }
                if self.progress.elapsed() >= STALLED_AFTER {
                    return Err(self.stalled());
                }
                return Ok(());
            };
            self.at += 1;
            match event {
                Event::Message(message) => {
                    let Some(end) = self.ends.get(&message.partition()).copied() else { continue };
                    if message.offset() + 1 >= end {
                        self.ends.remove(&message.partition());
                    }
                    if message.offset() >= end {
                        continue;
                    }
                    let mut headers = Vec::new();
                    if self.decoder.wants_headers() {
                        message.headers(&mut headers);
                    }
                    let record = record(message, &headers);
                    self.bytes += record.payload.map_or(0, <[u8]>::len);
                    let outcome = self.decoder.append(&record);
                    if let Err(Failure::Unavailable(error)) = outcome {
                        return Err(ConnectorError::new(sqlstate::CONNECTION_FAILURE, error)
                            .with_hint("try again when it answers"));
                    }
                    if let Err(error) = outcome {
                        if self.on_error == OnError::Stop {
                            return Err(ConnectorError::new(
                                sqlstate::INVALID_TEXT_REPRESENTATION,
                                format!(
                                    "record at offset {} of partition {} of kafka topic \"{}\" cannot be read: {error}",
                                    record.offset, record.partition, self.topic
                                ),
                            ));
                        }
                        self.unreadable += 1;
                    }
                }
                Event::End { partition, .. } => {
                    self.ends.remove(&partition);
                }
                Event::Fault { partition, code, text, .. } if is_final(code) => {
                    return Err(ConnectorError::new(
                        sqlstate::IO_ERROR,
                        format!("partition {partition} of kafka topic \"{}\" cannot be read: {text}", self.topic),
                    ));
                }
                Event::Fault { text, .. } => tracing::debug!(topic = self.topic, "kafka client: {text}"),
            }
        }
        Ok(())
    }

    fn stalled(&self) -> ConnectorError {
        let error = ConnectorError::new(
            sqlstate::CONNECTION_FAILURE,
            format!(
                "kafka topic \"{}\" has given no record for {} s and partitions {} are not read to their end",
                self.topic,
                STALLED_AFTER.as_secs(),
                self.ends.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ),
        );
        match self.consumer.trouble() {
            Some(trouble) => error.with_detail(trouble.text),
            None => error,
        }
    }
}

/// Faults that the client does not recover from by itself.
fn is_final(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AutoOffsetReset
            | RDKafkaErrorCode::OffsetOutOfRange
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::Authentication
    )
}

fn record<'a>(message: Message<'a>, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Record<'a> {
    Record {
        payload: message.payload(),
        key: message.key(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp_ms(),
        headers,
    }
}

impl Iterator for BoundedReader {
    type Item = Result<Rows>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if let Err(e) = self.fill() {
            self.failed = true;
            return Some(Err(e));
        }
        if self.ends.is_empty() && self.decoder.rows() == 0 {
            return None;
        }
        self.bytes = 0;
        Some(self.decoder.finish())
    }
}

impl ReadBounded for BoundedReader {
    fn unreadable(&self) -> u64 {
        self.unreadable
    }
}
