//! The asking thread of a reader: which partitions the topic has, where each starts, how far they reach.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use rdkafka::error::RDKafkaErrorCode;

use super::poller::Poller;
use super::{ASK_TIMEOUT, ReadTask, Shared, StartPoint, spawn};
use crate::chunk::{Chunk, Positions};
use crate::error::Result;
use crate::kafka::Startup;
use crate::kafka::identity::{self, Identity};
use crate::kafka::native::Consumer;
use crate::source::PartitionStatus;
use crate::start::Reset;

/// How often ends of partitions are asked and positions mirrored.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The thread that finds partitions, hands them to polling threads, and asks how far they reach.
pub(super) struct Asker {
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
    /// Of a run that starts at `from`, with one consumer for all questions.
    pub fn new(
        task: Arc<ReadTask>,
        shared: Arc<Shared>,
        from: StartPoint,
        consumer: Arc<Consumer>,
        pollers_max: usize,
    ) -> Self {
        Self {
            task,
            shared,
            first: from.positions.is_empty(),
            positions: from.positions,
            reset: from.reset,
            announces: from.topic_id.is_none() || from.reset.is_some(),
            consumer,
            pollers: Vec::new(),
            pollers_max,
            known: BTreeSet::new(),
            is_anew: false,
        }
    }

    /// Asks until the run is to stop, and then waits for the polling threads.
    pub fn run(mut self) {
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
        let poller = Poller::new(self.task.clone(), self.shared.clone(), consumer.clone(), receiver);
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
