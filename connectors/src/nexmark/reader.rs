//! The thread that makes events, as fast as they are taken or as many a second as asked; and a SELECT on the source.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use arrow::datatypes::SchemaRef;

use super::{NexmarkSource, PARTITION};
use crate::chunk::{Chunk, ChunkQueue, Positions};
use crate::error::{ConnectorError, Result};
use crate::format::Rows;
use crate::generator::Pace;
use crate::source::{Doorbell, PartitionStatus, ReadBounded, ReadSource, ReaderStatus};

/// Events of a full batch.
const BATCH_EVENTS_MAX: i64 = 8192;

/// What is to be read and where it goes.
pub(crate) struct ReadTask {
    pub source: NexmarkSource,
    /// Positions of the columns among the declared ones, and their schema.
    pub columns: Box<[usize]>,
    pub schema: SchemaRef,
    pub queue: ChunkQueue,
    pub doorbell: Doorbell,
    /// Where the partition ends for now, at most at the last event; without it in there nothing is read.
    pub ends: Option<Positions>,
}

impl ReadTask {
    fn end(&self) -> Option<i64> {
        match &self.ends {
            None => Some(self.source.events),
            Some(ends) => ends.get(&PARTITION).map(|end| *end.min(&self.source.events)),
        }
    }
}

/// A source that is being read.
pub(crate) struct NexmarkReader {
    task: Arc<ReadTask>,
    run: Run,
}

/// The thread from one start or rewind to the next.
struct Run {
    generation: u64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    next: AtomicI64,
}

impl NexmarkReader {
    /// Starts the thread.
    pub fn start(task: ReadTask, positions: &Positions) -> Result<Self> {
        let task = Arc::new(task);
        let generation = task.queue.begin(false);
        let run = Run::start(&task, positions, generation)?;
        Ok(Self { task, run })
    }
}

impl ReadSource for NexmarkReader {
    fn status(&self) -> ReaderStatus {
        let partition = PartitionStatus {
            partition: PARTITION,
            next_offset: self.run.shared.next.load(Ordering::Relaxed),
            high_watermark: Some(self.task.source.events),
            error: None,
            stopped: false,
        };
        ReaderStatus { partitions: vec![partition], error: None }
    }

    fn commit_offsets(&self, _positions: &[(i32, i64)]) {}

    fn rewind(&mut self, positions: Positions) -> Result<()> {
        self.stop();
        let generation = self.task.queue.begin(true);
        self.run = Run::start(&self.task, &positions, generation)?;
        Ok(())
    }

    fn stop(&mut self) {
        let Some(thread) = self.run.thread.take() else { return };
        self.run.shared.stop.store(true, Ordering::Relaxed);
        self.task.queue.retire(self.run.generation);
        if thread.join().is_err() {
            tracing::error!("a nexmark reader thread has panicked");
        }
    }
}

impl Run {
    fn start(task: &Arc<ReadTask>, positions: &Positions, generation: u64) -> Result<Self> {
        let position = positions.get(&PARTITION).copied();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), next: AtomicI64::new(position.unwrap_or(0)) });
        let maker = Maker { task: task.clone(), shared: shared.clone(), generation };
        let thread = std::thread::Builder::new()
            .name("nexmark".into())
            .spawn(move || {
                if let Err(e) = maker.run(position) {
                    tracing::error!("nexmark reader thread: {e}");
                }
            })
            .map_err(|e| ConnectorError::internal(format!("a nexmark reader thread cannot be started: {e}")))?;
        Ok(Self { generation, shared, thread: Some(thread) })
    }
}

/// The thread's own.
struct Maker {
    task: Arc<ReadTask>,
    shared: Arc<Shared>,
    generation: u64,
}

impl Maker {
    /// Makes events from the committed position on, or from the first; without a position it is announced.
    fn run(self, position: Option<i64>) -> Result<()> {
        let Some(end) = self.task.end() else { return Ok(()) };
        let mut next = position.unwrap_or(0);
        if position.is_none() && !self.give(next, next)? {
            return Ok(());
        }
        // Up to an end there is history, which is there at once.
        let rate = if self.task.ends.is_none() { self.task.source.rate } else { 0 };
        let mut pace = (rate > 0).then(|| Pace::new(rate as f64));
        let mut due = 0;
        while next < end && !self.shared.stop.load(Ordering::Relaxed) {
            if due == 0 {
                due = pace.as_mut().map_or(BATCH_EVENTS_MAX, |pace| pace.wait() as i64);
                continue;
            }
            let to = end.min(next + due.min(BATCH_EVENTS_MAX));
            if !self.give(next, to)? {
                break;
            }
            due -= to - next;
            next = to;
        }
        Ok(())
    }

    /// Puts the events `from..to` in the queue. False if nobody wants them any more.
    fn give(&self, from: i64, to: i64) -> Result<bool> {
        let arrived = Instant::now();
        let batch = self.task.source.batch(&self.task.schema, &self.task.columns, from, to)?;
        let chunk = Chunk {
            partition: PARTITION,
            first_offset: from,
            next_offset: to,
            bytes: if to > from { batch.get_array_memory_size() } else { 0 },
            batch,
            deletes: None,
            dead: Vec::new(),
            skipped: 0,
            arrived,
            produced_ms_max: i64::MIN,
            origin: None,
        };
        let given = self.task.queue.push(self.generation, [chunk]);
        if given {
            self.shared.next.store(to, Ordering::Relaxed);
            (self.task.doorbell)();
        }
        Ok(given)
    }
}

/// All events, for a SELECT: as fast as they are taken, whatever the rate.
pub(crate) struct BoundedReader {
    source: NexmarkSource,
    columns: Box<[usize]>,
    schema: SchemaRef,
    next: i64,
}

impl BoundedReader {
    pub fn new(source: NexmarkSource, columns: &[usize], schema: SchemaRef) -> Self {
        Self { source, columns: columns.into(), schema, next: 0 }
    }
}

impl Iterator for BoundedReader {
    type Item = Result<Rows>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.source.events {
            return None;
        }
        let from = self.next;
        self.next = self.source.events.min(from + BATCH_EVENTS_MAX);
        let batch = self.source.batch(&self.schema, &self.columns, from, self.next);
        Some(batch.map(|batch| Rows { batch, deletes: None }))
    }
}

impl ReadBounded for BoundedReader {
    fn unreadable(&self) -> u64 {
        0
    }
}
