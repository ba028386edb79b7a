//! A polling thread of a reader: takes messages of some partitions and decodes them into chunks.
//!
//! It takes what librdkafka has ready, decodes it where it lies, and puts a chunk of a partition in the queue when nothing
//! more is ready, or it is full, or its first record has waited long enough. While the queue is full the thread stands
//! still; librdkafka's own queue is bounded and stops fetching, so the brokers hold the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rdkafka::error::RDKafkaErrorCode;

use super::{ASK_TIMEOUT, ReadTask, Shared};
use crate::chunk::{Chunk, DeadLetter, Positions};
use crate::error::Result;
use crate::format::{Failure, Record, RecordDecoder, Rows};
use crate::kafka::identity::{self, Identity};
use crate::kafka::native::{Batch, Consumer, Event, Message};
use crate::source::OnError;

/// A chunk is full at so many rows or bytes.
const CHUNK_ROWS_MAX: usize = 8192;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// What a record costs in memory beside its bytes, roughly.
const RECORD_OVERHEAD: usize = 64;
/// Longest that a record waits in a chunk that is being filled while more keeps coming.
const CHUNK_AGE_MAX: Duration = Duration::from_millis(10);
/// How long a polling thread waits for a record before it looks whether it should stop.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How long a record that cannot be read for now waits until it is tried again: doubled from the first to the second, for a
/// question that nobody answers holds up the other partitions too.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// A thread that polls and decodes some of the partitions.
pub(super) struct Poller {
    task: Arc<ReadTask>,
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    receiver: Receiver<(i32, i64)>,
    parts: Vec<Part>,
    /// Index of the partition that the last message was of: messages come in runs.
    last: usize,
}

/// A partition and the chunk of it that is being filled.
struct Part {
    partition: i32,
    decoder: RecordDecoder,
    wants_headers: bool,
    first_offset: i64,
    next_offset: i64,
    dead: Vec<DeadLetter>,
    skipped: u64,
    bytes: usize,
    arrived: Instant,
    produced_ms_max: i64,
    stopped: bool,
    put_off: Option<PutOff>,
    /// Records from this offset on are not wanted.
    end: i64,
}

/// A record for which something is away: a schema whose registry does not answer.
struct PutOff {
    offset: i64,
    /// How long it waits this time.
    after: Duration,
    /// When the partition is to be fetched again from there; `None` once it is.
    until: Option<Instant>,
}

impl Part {
    /// Whether there is something to hand over.
    fn is_dirty(&self) -> bool {
        self.next_offset != self.first_offset
    }

    fn is_full(&self) -> bool {
        self.decoder.rows() >= CHUNK_ROWS_MAX || self.bytes >= CHUNK_BYTES_MAX
    }
}

/// The queue does not take chunks of this run any more.
struct Retired;

impl Poller {
    /// One that takes the partitions, each with the offset to start at, that come through `receiver`.
    pub fn new(
        task: Arc<ReadTask>,
        shared: Arc<Shared>,
        consumer: Arc<Consumer>,
        receiver: Receiver<(i32, i64)>,
    ) -> Self {
        Self { task, shared, consumer, receiver, parts: Vec::new(), last: 0 }
    }

    /// Polls until the run is to stop or the queue takes no chunks of it any more.
    ///
    /// # Errors
    /// XX000 for a batch that cannot be made: a bug.
    pub fn run(mut self) -> Result<()> {
        let mut batch = Batch::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.take_partitions()?;
            if self.shared.is_other.load(Ordering::Acquire) {
                // Whatever is still being put together may be of the new topic.
                self.parts.clear();
            }
            self.fetch_what_was_put_off();
            let dirty = self.parts.iter().any(Part::is_dirty);
            self.consumer.poll(&mut batch, if dirty { Duration::ZERO } else { POLL_WAIT });
            let idle = batch.is_empty();
            let now = Instant::now();
            for event in batch.events() {
                let outcome = match event {
                    Event::Message(message) => self.take(message, now)?,
                    Event::End { partition, offset } => self.reached_end(partition, offset, now),
                    Event::Fault { partition, offset, code, text } => self.fault(partition, offset, code, &text)?,
                };
                if let Err(Retired) = outcome {
                    return Ok(());
                }
            }
            for i in 0..self.parts.len() {
                let part = &self.parts[i];
                if part.is_dirty()
                    && (idle || now.duration_since(part.arrived) >= CHUNK_AGE_MAX)
                    && let Err(Retired) = self.emit(i)?
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn take_partitions(&mut self) -> Result<()> {
        while let Ok((partition, offset)) = self.receiver.try_recv() {
            let decoder = self.task.format.decoder(&self.task.columns)?;
            self.parts.push(Part {
                partition,
                wants_headers: decoder.wants_headers(),
                decoder,
                first_offset: offset,
                next_offset: offset,
                dead: Vec::new(),
                skipped: 0,
                bytes: 0,
                arrived: Instant::now(),
                produced_ms_max: i64::MIN,
                stopped: false,
                put_off: None,
                end: self.task.ends.as_ref().and_then(|e| e.get(&partition)).copied().unwrap_or(i64::MAX),
            });
            let topic = self.task.source.topic();
            if let Err(code) = self.consumer.add(topic, &[(partition, offset)]) {
                self.set_error(
                    partition,
                    format!("partition {partition} of kafka topic \"{topic}\" cannot be read: {code}"),
                    true,
                );
            }
        }
        Ok(())
    }

    fn index_of(&mut self, partition: i32) -> Option<usize> {
        if self.parts.get(self.last).is_none_or(|p| p.partition != partition) {
            self.last = self.parts.iter().position(|p| p.partition == partition)?;
        }
        Some(self.last)
    }

    /// Decodes one message into its partition's chunk. The outer error is a bug, the inner one the end of the run.
    fn take(&mut self, message: Message<'_>, now: Instant) -> Result<Result<(), Retired>> {
        let Some(i) = self.index_of(message.partition()) else { return Ok(Ok(())) };
        let part = &mut self.parts[i];
        // Offsets go up; anything else was fetched before a change of the assignment.
        let is_put_off = part.put_off.as_ref().is_some_and(|p| p.until.is_some() || message.offset() < p.offset);
        if part.stopped || is_put_off || message.offset() < part.next_offset {
            return Ok(Ok(()));
        }
        if message.offset() >= part.end {
            part.next_offset = part.next_offset.max(part.end);
            part.stopped = true;
            return if part.is_dirty() { self.emit(i) } else { Ok(Ok(())) };
        }
        let mut headers = Vec::new();
        if part.wants_headers {
            message.headers(&mut headers);
        }
        let record = Record {
            payload: message.payload(),
            key: message.key(),
            partition: part.partition,
            offset: message.offset(),
            timestamp_ms: message.timestamp_ms(),
            headers: &headers,
        };
        if !part.is_dirty() {
            part.arrived = now;
        }
        let outcome = match part.decoder.append(&record) {
            Err(Failure::Unavailable(error)) => return self.put_off(i, record.offset, error),
            Err(Failure::Malformed(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        if self.parts[i].put_off.is_some() {
            self.put_off_no_more(i);
        }
        let part = &mut self.parts[i];
        if let Err(error) = outcome {
            match self.task.on_error {
                OnError::DeadLetter => part.dead.push(dead_letter(&record, error)),
                OnError::Skip => part.skipped += 1,
                OnError::Stop => return self.stop_at(i, &record, &error),
            }
        }
        part.bytes += record.payload.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len) + RECORD_OVERHEAD;
        part.produced_ms_max = part.produced_ms_max.max(record.timestamp_ms.unwrap_or(i64::MIN));
        part.next_offset = record.offset + 1;
        if part.is_full() { self.emit(i) } else { Ok(Ok(())) }
    }

    /// Hands over what came before a record for which something is away. The partition is fetched again from there after a
    /// while; the others go on.
    fn put_off(&mut self, i: usize, offset: i64, error: String) -> Result<Result<(), Retired>> {
        if self.parts[i].is_dirty() && self.emit(i)?.is_err() {
            return Ok(Err(Retired));
        }
        let part = &mut self.parts[i];
        let partition = part.partition;
        let after = part.put_off.as_ref().map_or(RETRY_AFTER.0, |before| (before.after * 2).min(RETRY_AFTER.1));
        part.put_off = Some(PutOff { offset, after, until: Some(Instant::now() + after) });
        let told = self.shared.partitions.lock().get(&partition).and_then(|status| status.error.clone());
        if told.as_ref() != Some(&error) {
            self.set_error(partition, error, false);
        }
        let topic = self.task.source.topic();
        if let Err(code) = self.consumer.remove(topic, partition) {
            tracing::debug!(topic, partition, "fetched on in vain: {code}");
        }
        Ok(Ok(()))
    }

    /// Fetches the partitions again whose record has waited long enough.
    fn fetch_what_was_put_off(&mut self) {
        let now = Instant::now();
        for part in &mut self.parts {
            let Some(put_off) = part.put_off.as_mut().filter(|p| p.until.is_some_and(|until| until <= now)) else {
                continue;
            };
            let topic = self.task.source.topic();
            let fetched = self.consumer.add(topic, &[(part.partition, put_off.offset)]);
            // It may be fetched still, if it could not be removed.
            let fetched = fetched.or_else(|_| self.consumer.move_to(topic, part.partition, put_off.offset));
            put_off.until = match fetched {
                Ok(()) => None,
                Err(code) => {
                    tracing::debug!(topic, partition = part.partition, "not fetched again: {code}");
                    Some(now + put_off.after)
                }
            };
        }
    }

    /// A record that was put off can be read, or is broken itself.
    fn put_off_no_more(&mut self, i: usize) {
        let part = &mut self.parts[i];
        if part.put_off.take().is_some() {
            part.arrived = Instant::now();
            if let Some(status) = self.shared.partitions.lock().get_mut(&part.partition) {
                status.error = None;
            }
        }
    }

    /// Hands over what came before a bad record and stands still.
    fn stop_at(&mut self, i: usize, record: &Record<'_>, error: &str) -> Result<Result<(), Retired>> {
        let (partition, topic) = (record.partition, self.task.source.topic().to_string());
        self.parts[i].stopped = true;
        if self.parts[i].is_dirty() && self.emit(i)?.is_err() {
            return Ok(Err(Retired));
        }
        let text = format!(
            "record at offset {} of partition {partition} of kafka topic \"{topic}\" cannot be read: {error}",
            record.offset
        );
        self.set_error(partition, text, true);
        if let Err(code) = self.consumer.pause(&topic, partition) {
            tracing::debug!(%topic, partition, "not paused: {code}");
        }
        Ok(Ok(()))
    }

    /// Moves the position over offsets that have no record for us: transaction markers, aborted and compacted records.
    fn reached_end(&mut self, partition: i32, offset: i64, now: Instant) -> Result<(), Retired> {
        if let Some(i) = self.index_of(partition) {
            let part = &mut self.parts[i];
            // Of a record that was put off the end may have been seen before.
            if !part.stopped && part.put_off.is_none() && offset > part.next_offset {
                if !part.is_dirty() {
                    part.arrived = now;
                }
                part.next_offset = offset.min(part.end);
            }
            let stopped = part.stopped || part.put_off.is_some();
            if let Some(status) = self.shared.partitions.lock().get_mut(&partition) {
                status.high_watermark = status.high_watermark.max(Some(offset));
                if !stopped {
                    status.error = None;
                }
            }
        }
        Ok(())
    }

    fn fault(
        &mut self,
        partition: i32,
        offset: i64,
        code: RDKafkaErrorCode,
        text: &str,
    ) -> Result<Result<(), Retired>> {
        let topic = self.task.source.topic().to_string();
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                return self.gone(partition, offset);
            }
            _ if partition >= 0 => {
                self.set_error(partition, format!("partition {partition} of kafka topic \"{topic}\": {text}"), false);
            }
            _ => tracing::warn!(%topic, "kafka client: {text}"),
        }
        Ok(Ok(()))
    }

    /// The position of a partition is not there any more: it stops, or goes on elsewhere if that was asked for and the
    /// topic is still the same.
    fn gone(&mut self, partition: i32, offset: i64) -> Result<Result<(), Retired>> {
        let topic = self.task.source.topic().to_string();
        if let Ok(Identity::Other) = identity::check(&self.consumer, &topic, &self.shared) {
            identity::stop_all(&topic, &self.shared, &Positions::new());
            (self.task.doorbell)();
            return Ok(Ok(()));
        }
        let Some(i) = self.index_of(partition).filter(|i| !self.parts[*i].stopped) else { return Ok(Ok(())) };
        let at = self.parts[i].next_offset.max(offset);
        let moved = self.shared.out_of_range.and_then(|reset| {
            let to = identity::reset(&self.consumer, &topic, partition, reset).ok()?;
            self.consumer.move_to(&topic, partition, to).ok()?;
            Some((reset, to))
        });
        let Some((reset, to)) = moved else {
            self.parts[i].stopped = true;
            let bounds = self.consumer.watermarks(&topic, partition, ASK_TIMEOUT).ok();
            self.set_error(partition, identity::out_of_range(&topic, partition, at, bounds), true);
            return Ok(Ok(()));
        };
        if self.parts[i].is_dirty() && self.emit(i)?.is_err() {
            return Ok(Err(Retired));
        }
        tracing::warn!(%topic, partition, from = at, to, "the position is gone, going on at the {} record", reset.name());
        self.parts[i].put_off = None;
        self.parts[i].first_offset = to;
        self.parts[i].next_offset = to;
        self.parts[i].arrived = Instant::now();
        self.emit(i)
    }

    fn set_error(&self, partition: i32, text: String, stopped: bool) {
        tracing::warn!("{text}");
        if let Some(status) = self.shared.partitions.lock().get_mut(&partition) {
            status.error = Some(text);
            status.stopped = stopped;
        }
        (self.task.doorbell)();
    }

    /// Puts a partition's chunk in the queue, waiting for room.
    fn emit(&mut self, i: usize) -> Result<Result<(), Retired>> {
        let part = &mut self.parts[i];
        let Rows { batch, deletes } = part.decoder.finish()?;
        let chunk = Chunk {
            partition: part.partition,
            first_offset: part.first_offset,
            next_offset: part.next_offset,
            batch,
            deletes,
            dead: std::mem::take(&mut part.dead),
            skipped: std::mem::take(&mut part.skipped),
            bytes: std::mem::take(&mut part.bytes),
            arrived: part.arrived,
            produced_ms_max: std::mem::replace(&mut part.produced_ms_max, i64::MIN),
            origin: None,
        };
        part.first_offset = part.next_offset;
        if let Some(status) = self.shared.partitions.lock().get_mut(&part.partition) {
            status.next_offset = part.next_offset;
            if !part.stopped {
                status.error = None;
            }
        }
        if !self.task.queue.push(self.shared.generation, [chunk]) {
            return Ok(Err(Retired));
        }
        (self.task.doorbell)();
        Ok(Ok(()))
    }
}

fn dead_letter(record: &Record<'_>, error: String) -> DeadLetter {
    DeadLetter {
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        error,
        key: record.key.map(<[u8]>::to_vec),
        payload: record.payload.map(<[u8]>::to_vec),
    }
}
