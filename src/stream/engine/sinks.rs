//! What the loop does for sinks beside the rows of their queries: notes how far they are, suspends and resumes them, and has
//! the outside forget those that were dropped.

use std::time::{Duration, Instant};

use millstream_catalog::ObjectId;
use millstream_connectors::DeadLetter;

use super::epoch::EpochLoop;
use super::handle::{Reply, SinkChange};
use super::objects::Retired;
use super::outbox::{BY_STATEMENT, Outbox, STOP_PATIENCE, Surroundings};
use super::pipeline::{Pipeline, Target};
use super::system;
use super::work::Work;
use crate::error::{Error, Result, sqlstate};
use crate::state::State;

impl EpochLoop {
    /// Starts every sink that does not send and may. It looks at nothing before `epoch`, which it may be a part of, is
    /// committed.
    pub(super) fn start_sinks(&mut self, epoch: u64) -> Result<()> {
        let around = Surroundings {
            epoch,
            store: self.state.store().clone(),
            publisher: self.publisher.clone(),
            stats: self.stats.clone(),
            commands: self.sender.clone(),
        };
        for pipeline in self.pipelines.values_mut() {
            if let Target::Sink(outbox) = &mut pipeline.target {
                outbox.start(&pipeline.name, &around)?;
            }
        }
        Ok(())
    }

    /// Lets go of what ran for objects whose drop is committed, with `committed` or before.
    pub(super) fn release(&mut self, committed: u64) {
        let retired = std::mem::take(&mut self.retired);
        let (gone, kept): (Vec<Retired>, _) = retired.into_iter().partition(|r| r.epoch <= committed);
        self.retired = kept;
        gone.into_iter().for_each(|retired| self.forget(retired));
    }

    /// Ends what ran for a dropped object; of a sink goes what the outside keeps of it, too.
    pub(super) fn forget(&mut self, retired: Retired) {
        self.forgetting.retain(|thread| !thread.is_finished());
        if let Some(Pipeline { target: Target::Sink(outbox), name, .. }) = retired.pipeline {
            self.forgetting.extend(outbox.forget(name, self.store.identity().to_string()));
        }
    }

    /// Waits a moment for what is being forgotten.
    pub(super) fn finish_forgetting(&mut self) {
        let deadline = Instant::now() + STOP_PATIENCE;
        while self.forgetting.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Changes what a sink's status says; nothing if the sink is gone.
    pub(super) fn change_sink(
        &mut self,
        sink: ObjectId,
        work: &mut Work,
        change: impl FnOnce(&mut Outbox, &mut State),
    ) {
        if let Some(Pipeline { target: Target::Sink(outbox), .. }) = self.pipelines.get_mut(&sink) {
            change(outbox, &mut self.state);
            let suspended = outbox.suspended().map(str::to_string);
            self.stats.update_sink(sink, |s| s.suspended = suspended);
            work.dirty = true;
        }
    }

    /// A sink has sent rows; those that the outside would never take are kept as dead letters.
    pub(super) fn sink_went(
        &mut self,
        sink: ObjectId,
        (sequence, kept): (u64, u64),
        dead: &[DeadLetter],
        work: &mut Work,
    ) -> Result<()> {
        let Some(Pipeline { target: Target::Sink(outbox), name, .. }) = self.pipelines.get_mut(&sink) else {
            return Ok(());
        };
        // What is noted already was told by a sender that was stopped.
        if sequence > outbox.acknowledged() && !dead.is_empty() {
            let rows = system::dead_letter_rows(sink, name, outbox.topic(), work.epoch, dead)?;
            system::dead_letters()?.apply(&mut self.state, &rows, None)?;
            self.retention.came(&mut self.state, work.epoch, work.now_us);
        }
        outbox.delivered(&mut self.state, sequence, kept);
        work.dirty = true;
        Ok(())
    }

    /// ALTER SINK … SUSPEND or RESUME.
    pub(super) fn alter_sink(
        &mut self,
        sink: ObjectId,
        change: SinkChange,
        reply: Reply<u64>,
        work: &mut Work,
    ) -> Result<()> {
        let mut outcome = Err(Error::new(sqlstate::UNDEFINED_OBJECT, "the sink does not exist any more"));
        self.change_sink(sink, work, |outbox, state| {
            outcome = match change {
                SinkChange::Suspend => {
                    outbox.suspend(state, BY_STATEMENT);
                    Ok(())
                }
                SinkChange::Resume(at) => outbox.resume(state, at),
            };
        });
        match outcome {
            Ok(()) => {
                work.sync = true;
                work.waiters.flushes.push(reply);
                self.start_sinks(work.epoch)
            }
            Err(e) => {
                let _ = reply.send(Err(e));
                Ok(())
            }
        }
    }
}
