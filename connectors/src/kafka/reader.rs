//! The threads that read a topic: one that asks (partitions, their ends, commits) and a few that poll and decode.
//!
//! A polling thread takes what librdkafka has ready, decodes it where it lies, and puts a chunk of a partition in the
//! queue when nothing more is ready, or it is full, or its first record has waited long enough. While the queue is full the
//! thread stands still; librdkafka's own queue is bounded and stops fetching, so the brokers hold the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex};
use rdkafka::error::RDKafkaErrorCode;

use crate::chunk::{Chunk, ChunkQueue, DeadLetter, Positions};
use crate::error::{ConnectorError, Result};
use crate::format::{Failure, Record, RecordDecoder, RecordFormat, Rows};
use crate::kafka::identity::{self, Identity};
use crate::kafka::native::{Batch, Consumer, Event, Message};
use crate::kafka::{KafkaSource, Startup};
use crate::source::{Doorbell, OnError, PartitionStatus, ReadSource, ReaderStatus};
use crate::start::Reset;

/// A chunk is full at so many rows or bytes.
const CHUNK_ROWS_MAX: usize = 8192;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// What a record costs in memory beside its bytes, roughly.
const RECORD_OVERHEAD: usize = 64;
/// Longest that a record waits in a chunk that is being filled while more keeps coming.
const CHUNK_AGE_MAX: Duration = Duration::from_millis(10);
/// How long a polling thread waits for a record before it looks whether it should stop.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How long a record that cannot be read for now waits until it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How often ends of partitions are asked and positions mirrored.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one question to a broker may take; also how long stopping may wait for it.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// What is to be read and where it goes.
pub(crate) struct ReadTask {
    pub source: KafkaSource,
    pub format: RecordFormat,
    pub columns: Box<[usize]>,
    pub on_error: OnError,
    pub queue: ChunkQueue,
    pub doorbell: Doorbell,
    /// Where each partition ends; others are not read. `None`: none of them ends.
    pub ends: Option<Positions>,
}

/// Where a reader begins.
#[derive(Default)]
pub(crate) struct StartPoint {
    pub positions: Positions,
    /// The topic that the positions are of, if that is known.
    pub topic_id: Option<String>,
    /// Go on here where positions are gone or of another topic, and not as the source's options say.
    pub reset: Option<Reset>,
}

/// A topic that is being read.
pub(crate) struct KafkaReader {
    task: Arc<ReadTask>,
    run: Run,
}

/// The threads from one start or rewind to the next.
struct Run {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    /// Generation of the queue that this run writes to.
    generation: u64,
    stop: AtomicBool,
    pub(super) partitions: Mutex<BTreeMap<i32, PartitionStatus>>,
    /// The topic that is read, once that is known.
    pub(super) topic_id: Mutex<Option<String>>,
    /// Whether the topic has become another one: nothing of it is read any more.
    pub(super) is_other: AtomicBool,
    /// Where partitions go on whose position is gone; `None`: they stop.
    out_of_range: Option<Reset>,
    error: Mutex<Option<String>>,
    /// Positions to mirror.
    commits: Mutex<Positions>,
    wake: Condvar,
}

impl KafkaReader {
    /// Starts the threads.
    ///
    /// # Errors
    /// 22023 if librdkafka refuses the properties.
    pub fn start(task: ReadTask, from: StartPoint) -> Result<Self> {
        let task = Arc::new(task);
        // Fails early on a column that is out of range.
        task.format.decoder(&task.columns)?;
        let generation = task.queue.begin(false);
        let run = Run::start(&task, from, generation)?;
        Ok(Self { task, run })
    }
}

impl ReadSource for KafkaReader {
    fn status(&self) -> ReaderStatus {
        let partitions = self.run.shared.partitions.lock().values().cloned().collect();
        ReaderStatus { partitions, error: self.run.shared.error.lock().clone() }
    }

    fn commit_offsets(&self, positions: &[(i32, i64)]) {
        self.run.shared.commits.lock().extend(positions.iter().copied());
    }

    fn rewind(&mut self, positions: Positions) -> Result<()> {
        self.stop();
        let generation = self.task.queue.begin(true);
        let topic_id = self.run.shared.topic_id.lock().clone();
        self.run = Run::start(&self.task, StartPoint { positions, topic_id, reset: None }, generation)?;
        Ok(())
    }

    fn stop(&mut self) {
        let Some(thread) = self.run.thread.take() else { return };
        {
            // Under the lock, so that a thread that is about to wait sees either the flag or the notice.
            let _waiting = self.run.shared.commits.lock();
            self.run.shared.stop.store(true, Ordering::Relaxed);
            self.run.shared.wake.notify_all();
        }
        self.task.queue.retire(self.run.shared.generation);
        if thread.join().is_err() {
            tracing::error!(topic = self.task.source.topic(), "a kafka reader thread has panicked");
        }
    }
}

impl Run {
    fn start(task: &Arc<ReadTask>, from: StartPoint, generation: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            generation,
            stop: AtomicBool::new(false),
            partitions: Mutex::default(),
            is_other: AtomicBool::new(false),
            out_of_range: from.reset.or(task.source.out_of_range),
            topic_id: Mutex::new(from.topic_id.clone()),
            error: Mutex::default(),
            commits: Mutex::default(),
            wake: Condvar::new(),
        });
        let pollers_max = std::thread::available_parallelism().map_or(1, |n| n.get() / 2).max(1);
        let consumer = Arc::new(Consumer::new(&task.source.consumer_config(pollers_max))?);
        let asker = Asker {
            task: task.clone(),
            shared: shared.clone(),
            first: from.positions.is_empty(),
            positions: from.positions,
            reset: from.reset,
            announces: from.topic_id.is_none() || from.reset.is_some(),
            consumer,
            pollers: Vec::new(),
            pollers_max,
            known: BTreeSet::new(),
            is_anew: false,
        };
        let thread = spawn("kafka-ask", move || asker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|e| ConnectorError::internal(format!("a kafka reader thread cannot be started: {e}")))
}

/// The thread that finds partitions, hands them to polling threads, and asks how far they reach.
struct Asker {
    task: Arc<ReadTask>,
    shared: Arc<Shared>,
    /// Nothing of this source was ever read: the start mode counts for the partitions that are there.
    first: bool,
    positions: Positions,
    /// Where the partitions go on if the topic is another one than that of the positions.
    reset: Option<Reset>,
    /// Whether the engine has to be told what the positions are of.
    announces: bool,
    consumer: Arc<Consumer>,
    pollers: Vec<PollThread>,
    pollers_max: usize,
    known: BTreeSet<i32>,
    /// Whether the topic is another one than that of the positions, and is to be read.
    is_anew: bool,
}

struct PollThread {
    consumer: Arc<Consumer>,
    sender: Sender<(i32, i64)>,
    thread: JoinHandle<()>,
}

impl Asker {
    fn run(mut self) {
        // Until the partitions are known there is no polling thread that would run the client's callbacks.
        while !self.stopped() && self.known.is_empty() {
            let found = self.find_partitions();
            if self.known.is_empty() {
                self.consumer.serve();
            }
            self.report(found);
            if self.known.is_empty() {
                self.pause(Duration::from_millis(200));
            }
        }
        let mut found_at = Instant::now();
        let find_every = self.find_every();
        while !self.stopped() {
            let mut outcome = self.check_topic().and_then(|()| self.ask_ends());
            if found_at.elapsed() >= find_every {
                outcome = outcome.and(self.find_partitions());
                found_at = Instant::now();
            }
            self.report(outcome);
            self.mirror_positions();
            self.pause(ASK_EVERY.min(find_every));
        }
        for poller in self.pollers.drain(..) {
            drop(poller.sender);
            if poller.thread.join().is_err() {
                tracing::error!(topic = self.task.source.topic(), "a kafka polling thread has panicked");
            }
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, time: Duration) {
        let mut commits = self.shared.commits.lock();
        if !self.stopped() {
            self.shared.wake.wait_for(&mut commits, time);
        }
    }

    /// New partitions are looked for as often as the client refreshes its own knowledge of the topic.
    fn find_every(&self) -> Duration {
        let config = self.task.source.consumer_config(1);
        let ms = config.get("topic.metadata.refresh.interval.ms").and_then(|ms| ms.parse().ok()).filter(|ms| *ms > 0);
        Duration::from_millis(ms.unwrap_or(5000))
    }

    /// Finds partitions that are not read yet and starts to read them.
    fn find_partitions(&mut self) -> Result<(), String> {
        if self.shared.is_other.load(Ordering::Acquire) {
            return Ok(());
        }
        let topic = self.task.source.topic().to_string();
        let topic = topic.as_str();
        let all = self.consumer.partitions(topic, ASK_TIMEOUT).map_err(|code| match code {
            RDKafkaErrorCode::UnknownTopicOrPartition => format!("kafka topic \"{topic}\" does not exist"),
            code => format!("kafka topic \"{topic}\" cannot be asked for its partitions: {code}"),
        })?;
        if self.known.is_empty() {
            self.check_topic()?;
        }
        let wanted = |p: &i32| self.task.ends.as_ref().is_none_or(|ends| ends.contains_key(p));
        let new: Vec<_> = all.into_iter().filter(|p| !self.known.contains(p) && wanted(p)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut starts = Vec::new();
        for partition in new {
            let offset = self.start_of(partition).map_err(|code| {
                format!("partition {partition} of kafka topic \"{topic}\" cannot be asked where it starts: {code}")
            })?;
            starts.push((partition, offset));
        }
        self.start_partitions(&starts).map_err(|e| e.to_string())?;
        // Partitions that come later are new, whatever the start mode.
        self.first = false;
        Ok(())
    }

    /// Looks whether the topic is the one that the positions are of. If it is not, nothing of it is read, unless the start
    /// says where.
    fn check_topic(&mut self) -> Result<(), String> {
        let topic = self.task.source.topic();
        if self.shared.is_other.load(Ordering::Acquire) {
            return Err(identity::other(topic));
        }
        let Identity::Other = identity::check(&self.consumer, topic, &self.shared)? else { return Ok(()) };
        if let (Some(reset), true) = (self.reset, self.known.is_empty()) {
            tracing::warn!(topic, "the topic was made anew, reading it from its {} record", reset.name());
            *self.shared.topic_id.lock() = None;
            identity::check(&self.consumer, topic, &self.shared)?;
            self.is_anew = true;
            return Ok(());
        }
        identity::stop_all(topic, &self.shared, &self.positions);
        (self.task.doorbell)();
        Err(identity::other(topic))
    }

    /// Where to start a partition; a concrete offset, so that it can be committed before the first record comes.
    fn start_of(&self, partition: i32) -> Result<i64, RDKafkaErrorCode> {
        let topic = self.task.source.topic();
        let position = self.positions.get(&partition).copied();
        if let (Some(position), None) = (position, self.reset) {
            return Ok(position);
        }
        let (low, high) = self.consumer.watermarks(topic, partition, ASK_TIMEOUT)?;
        if let Some(reset) = self.reset {
            let is_there = |at: &i64| !self.is_anew && (low..=high).contains(at);
            return Ok(match (position.filter(is_there), reset) {
                (Some(position), _) => position,
                // A partition that was not there before is read whole.
                (None, _) if position.is_none() && !self.first && !self.is_anew => low,
                (None, Reset::Earliest) => low,
                (None, Reset::Latest) => high,
            });
        }
        Ok(match self.task.source.startup {
            Startup::Latest if self.first => high,
            Startup::Timestamp(ms) if self.first => {
                self.consumer.offset_at(topic, partition, ms, ASK_TIMEOUT)?.unwrap_or(high)
            }
            _ => low,
        })
    }

    fn start_partitions(&mut self, starts: &[(i32, i64)]) -> Result<()> {
        let batch = self.task.format.decoder(&self.task.columns)?.finish()?.batch;
        let origin: Option<Arc<str>> = self.shared.topic_id.lock().as_deref().map(Into::into);
        let mut announced = Vec::new();
        {
            let mut partitions = self.shared.partitions.lock();
            for (partition, offset) in starts {
                partitions.insert(
                    *partition,
                    PartitionStatus {
                        partition: *partition,
                        next_offset: *offset,
                        high_watermark: None,
                        error: None,
                        stopped: false,
                    },
                );
                if self.announces || self.positions.get(partition) != Some(offset) {
                    announced.push(Chunk {
                        partition: *partition,
                        first_offset: *offset,
                        next_offset: *offset,
                        batch: batch.clone(),
                        deletes: None,
                        dead: Vec::new(),
                        skipped: 0,
                        bytes: 0,
                        arrived: Instant::now(),
                        produced_ms_max: i64::MIN,
                        origin: origin.clone(),
                    });
                }
            }
        }
        // All at once: a part of them committed without the rest would make the rest look new after a restart.
        if !announced.is_empty() && !self.task.queue.push(self.shared.generation, announced) {
            return Ok(());
        }
        (self.task.doorbell)();
        for (partition, offset) in starts {
            let slot = *partition as usize % self.pollers_max;
            while self.pollers.len() <= slot {
                let poller = self.start_poller()?;
                self.pollers.push(poller);
            }
            // A polling thread that is gone has said why.
            let _ = self.pollers[slot].sender.send((*partition, *offset));
            self.known.insert(*partition);
        }
        Ok(())
    }

    fn start_poller(&self) -> Result<PollThread> {
        let consumer = match self.pollers.is_empty() {
            true => self.consumer.clone(),
            false => Arc::new(Consumer::new(&self.task.source.consumer_config(self.pollers_max))?),
        };
        let (sender, receiver) = unbounded();
        let poller = Poller {
            task: self.task.clone(),
            shared: self.shared.clone(),
            consumer: consumer.clone(),
            receiver,
            parts: Vec::new(),
            last: 0,
        };
        let thread = spawn("kafka-poll", move || {
            if let Err(e) = poller.run() {
                tracing::error!("kafka polling thread: {e}");
            }
        })?;
        Ok(PollThread { consumer, sender, thread })
    }

    /// Asks for the ends of the partitions, which is what lag is measured against.
    fn ask_ends(&self) -> Result<(), String> {
        let topic = self.task.source.topic();
        for partition in &self.known {
            if self.stopped() {
                break;
            }
            let (_, high) = self.consumer.watermarks(topic, *partition, ASK_TIMEOUT).map_err(|code| match code {
                RDKafkaErrorCode::UnknownTopicOrPartition => {
                    format!("partition {partition} of kafka topic \"{topic}\" does not exist")
                }
                code => format!("partition {partition} of kafka topic \"{topic}\" cannot be asked for its end: {code}"),
            })?;
            if let Some(status) = self.shared.partitions.lock().get_mut(partition) {
                status.high_watermark = Some(high);
            }
        }
        Ok(())
    }

    /// Tells what troubles the clients, if the questions went unanswered: their own reports alone may be of one broker of
    /// several.
    fn report(&self, outcome: Result<(), String>) {
        let trouble = match outcome {
            Ok(()) => {
                self.consumer.clear_trouble();
                None
            }
            Err(what) => Some(match self.consumer.trouble() {
                Some(trouble) => format!("{what} ({})", trouble.text),
                None => what,
            }),
        };
        let mut error = self.shared.error.lock();
        let changed = error.is_some() != trouble.is_some();
        if changed {
            match &trouble {
                Some(text) => tracing::warn!(topic = self.task.source.topic(), "{text}"),
                None => tracing::info!(topic = self.task.source.topic(), "kafka broker answers again"),
            }
        }
        *error = trouble;
        drop(error);
        if changed {
            (self.task.doorbell)();
        }
    }

    fn mirror_positions(&self) {
        let commits: Vec<_> = std::mem::take(&mut *self.shared.commits.lock()).into_iter().collect();
        if commits.is_empty() {
            return;
        }
        let consumer = self.pollers.first().map_or(&self.consumer, |p| &p.consumer);
        if let Err(code) = consumer.commit(self.task.source.topic(), &commits) {
            tracing::debug!(topic = self.task.source.topic(), "positions not mirrored: {code}");
        }
    }
}

/// A thread that polls and decodes some of the partitions.
struct Poller {
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
    /// Records from this offset on are not wanted.
    end: i64,
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
    fn run(mut self) -> Result<()> {
        let mut batch = Batch::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.take_partitions()?;
            if self.shared.is_other.load(Ordering::Acquire) {
                // Whatever is still being put together may be of the new topic.
                self.parts.clear();
            }
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
        if part.stopped || message.offset() < part.next_offset {
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
            Err(Failure::Unavailable(error)) => match self.append_when_available(i, &record, error)? {
                Ok(outcome) => outcome,
                Err(Retired) => return Ok(Err(Retired)),
            },
            Err(Failure::Malformed(error)) => Err(error),
            Ok(()) => Ok(()),
        };
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

    /// Hands over what came before a record for which something is away, and tries it until it is there. The error within
    /// is the record's own.
    fn append_when_available(
        &mut self,
        i: usize,
        record: &Record<'_>,
        mut error: String,
    ) -> Result<Result<Result<(), String>, Retired>> {
        if self.parts[i].is_dirty() && self.emit(i)?.is_err() {
            return Ok(Err(Retired));
        }
        let mut told = String::new();
        loop {
            if error != told {
                self.set_error(record.partition, error.clone(), false);
                told = error;
            }
            let until = Instant::now() + RETRY_AFTER;
            while Instant::now() < until {
                if self.shared.stop.load(Ordering::Relaxed) {
                    return Ok(Err(Retired));
                }
                std::thread::sleep(POLL_WAIT);
            }
            let part = &mut self.parts[i];
            let outcome = match part.decoder.append(record) {
                Err(Failure::Unavailable(still)) => {
                    error = still;
                    continue;
                }
                Err(Failure::Malformed(error)) => Err(error),
                Ok(()) => Ok(()),
            };
            part.arrived = Instant::now();
            if let Some(status) = self.shared.partitions.lock().get_mut(&record.partition) {
                status.error = None;
            }
            return Ok(Ok(outcome));
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
            if !part.stopped && offset > part.next_offset {
                if !part.is_dirty() {
                    part.arrived = now;
                }
                part.next_offset = offset.min(part.end);
            }
            let stopped = part.stopped;
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
