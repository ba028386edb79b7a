//! The threads that read a topic: one that asks (partitions, their ends, commits) and a few that poll and decode.
//!
//! * `asker`: finds partitions and where they start, hands them to polling threads, and asks how far they reach.
//! * `poller`: takes messages, decodes them, and puts chunks of a partition in the queue.

mod asker;
mod poller;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::asker::Asker;
use crate::chunk::{ChunkQueue, Positions};
use crate::error::{ConnectorError, Result};
use crate::format::RecordFormat;
use crate::kafka::KafkaSource;
use crate::kafka::native::Consumer;
use crate::source::{Doorbell, OnError, PartitionStatus, ReadSource, ReaderStatus};
use crate::start::Reset;

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
        let asker = Asker::new(task.clone(), shared.clone(), from, consumer, pollers_max);
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
