//! What follows the end of a run: a further try, the tasks that run after it, what is told of a failure, old runs forgotten.

use std::time::Duration;

use millstream_catalog::ObjectId;

use super::entry::Entry;
use super::execute::{Ending, Failure};
use super::scheduler::Scheduler;
use crate::error::{Error, Result};
use crate::session::tasks::run::{forget, is_open, runs, tries};
use crate::session::tasks::{Overlap, Run, RunError, RunState, Trigger, given_up};
use crate::stream::engine::TaskRecord;

/// How long it is waited before the end of a run is written down that could not be.
const PAUSE: Duration = Duration::from_secs(1);
/// Who notifies when it is no session.
const SERVER_PROCESS: i32 = 0;
/// Runs that are looked at for their age at a time.
const FORGET_MAX: usize = 200;

impl Scheduler {
    /// Deals with a run that ended.
    pub(super) async fn ended(&mut self, task: ObjectId, ending: Ending) {
        if matches!(ending.result, Err(Failure::Ended)) || (self.is_stopping() && ending.result.is_err()) {
            // Its task is gone, or the next start takes it up.
            if let Some(entry) = self.entries.get_mut(&task) {
                entry.running = None;
            }
            return;
        }
        let Some(mut entry) = self.entries.remove(&task) else {
            self.tell_dropped(task);
            return;
        };
        let (mut run, key) = (ending.run.clone(), ending.run.key());
        let followed = self.follow_up(&mut entry, &mut run, &ending.result);
        let (records, next) = match followed {
            Ok(followed) => followed,
            Err(e) => return self.end_later(entry, ending, &e),
        };
        if let Err(e) = self.write(records).await {
            return self.end_later(entry, ending, &e);
        }
        entry.running = None;
        let is_tried_again = next.is_some();
        match next {
            Some(next) => {
                if let Some(waiter) = self.waiters.remove(&(task, key)) {
                    self.waiters.insert((task, next.key()), waiter);
                }
                entry.queue.push_front(next);
            }
            None => self.tell(task, key, Ok(run.clone())),
        }
        self.announce(&entry, &run, is_tried_again);
        self.entries.insert(task, entry);
        for (follower, run) in std::mem::take(&mut self.followers) {
            if let Some(entry) = self.entries.get_mut(&follower) {
                entry.queue.push_back(run);
            }
        }
    }

    /// What is to be written down of an end, and the further try if there is one.
    fn follow_up(
        &mut self,
        entry: &mut Entry,
        run: &mut Run,
        result: &Result<(), Failure>,
    ) -> Result<(Vec<TaskRecord>, Option<Run>)> {
        let now_us = self.now_us();
        let mut records = Vec::new();
        let mut next = None;
        self.followers.clear();
        match result {
            Ok(()) => {
                entry.state.ended(run);
                if run.repeats.is_none() {
                    records = self.start_followers(entry, run.scheduled_us, now_us)?;
                }
            }
            Err(failure) => {
                run.ended_us = Some(now_us);
                match failure {
                    Failure::Error(e) => {
                        run.state = RunState::Failed;
                        run.error = Some(RunError::from(e));
                        next = self.further_try(entry, run, now_us)?;
                    }
                    Failure::GivenUp | Failure::Ended => {
                        run.state = RunState::Canceled;
                        run.error = Some(RunError::from(&given_up()));
                    }
                }
                if next.is_none() {
                    entry.state.ended(run);
                    suspend_if_failing(entry);
                }
            }
        }
        records.extend(run.records(entry.id(), false));
        records.extend(next.iter().flat_map(|next| next.records(entry.id(), true)));
        records.extend(self.forget_old(entry, now_us)?);
        records.push(entry.state.record(entry.id()));
        Ok((records, next))
    }

    /// The next try of a run that failed, if it has one left.
    fn further_try(&mut self, entry: &mut Entry, run: &Run, now_us: i64) -> Result<Option<Run>> {
        if run.failures >= entry.options.retries {
            return Ok(None);
        }
        let attempt = self.next_attempt(entry.id(), run.scheduled_us)?;
        let mut next = run.next_try(self.new_id(entry), attempt, now_us);
        next.failures += 1;
        let pause = entry.options.pause_after(next.failures);
        next.not_before_us = now_us.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX));
        Ok(Some(next))
    }

    /// Lets the tasks run that wait for this one and for no other.
    fn start_followers(&mut self, before: &Entry, scheduled_us: i64, now_us: i64) -> Result<Vec<TaskRecord>> {
        let of_this: Vec<ObjectId> =
            self.entries.values().filter(|e| e.task.after.contains(&before.id())).map(Entry::id).collect();
        let mut records = Vec::new();
        for id in of_this {
            let Some(mut entry) = self.entries.remove(&id) else { continue };
            let started = self.start_follower(&mut entry, before.id(), scheduled_us, now_us);
            self.entries.insert(id, entry);
            records.extend(started?);
        }
        Ok(records)
    }

    fn start_follower(
        &mut self,
        entry: &mut Entry,
        before: ObjectId,
        scheduled_us: i64,
        now_us: i64,
    ) -> Result<Vec<TaskRecord>> {
        let snapshot = self.database.engine.published().snapshot.clone();
        for other in entry.task.after.iter().filter(|other| **other != before) {
            let last = tries(&snapshot, *other, scheduled_us)?.pop().filter(|run| run.state == RunState::Succeeded);
            let Some(last) = last else { return Ok(Vec::new()) };
            // The one that is dealt with last starts it, and so only one does.
            if is_open(&snapshot, *other, last.key())? {
                return Ok(Vec::new());
            }
        }
        let mut run = self.new_run(entry, scheduled_us, Trigger::After, now_us)?;
        let skipped = match entry.options.overlap {
            _ if entry.object.suspended => Some("the task is suspended"),
            Overlap::Skip if entry.open() > 0 => Some("an earlier run was not over"),
            _ => None,
        };
        if let Some(why) = skipped {
            run.state = RunState::Skipped;
            run.ended_us = Some(now_us);
            run.error = Some(RunError::reason(why));
            entry.state.ended(&run);
            return Ok(entry.records(&run, false));
        }
        let records = entry.records(&run, true);
        self.followers.push((entry.id(), run));
        Ok(records)
    }

    /// Forgets runs that are older than the task keeps them.
    fn forget_old(&self, entry: &Entry, now_us: i64) -> Result<Vec<TaskRecord>> {
        let Some(kept) = entry.options.history_retention else { return Ok(Vec::new()) };
        let before_us = now_us.saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX));
        let snapshot = self.database.engine.published().snapshot.clone();
        let mut records = Vec::new();
        for run in runs(&snapshot, entry.id()).take(FORGET_MAX) {
            let run = run?;
            if run.scheduled_us >= before_us {
                break;
            }
            if run.state.is_over() && run.ended_us.is_some_and(|ended| ended < before_us) {
                records.push(forget(entry.id(), run.key()));
            }
        }
        Ok(records)
    }

    /// Forgets what was not written down, and deals with the end a little later.
    fn end_later(&mut self, entry: Entry, ending: Ending, error: &Error) {
        tracing::warn!(task = entry.object.name, %error, "the end of a run cannot be written down, trying again");
        let task = entry.id();
        self.entries.insert(task, entry);
        self.start_anew();
        let again = self.unwritten.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            // Without a scheduler the next start takes it up.
            let _ = again.send((task, ending));
        });
    }

    /// Tells of a failed run: in the log, and on the task's channel.
    fn announce(&self, entry: &Entry, run: &Run, is_tried_again: bool) {
        let name = &entry.object.name;
        let Some(error) = run.error.as_ref().filter(|_| run.state == RunState::Failed) else {
            tracing::debug!(task = name, run = run.id, state = run.state.name(), "a run ended");
            return;
        };
        tracing::warn!(task = name, run = run.id, attempt = run.attempt, is_tried_again, "failed: {}", error.message);
        let Some(channel) = &entry.options.notify else { return };
        let catalog = self.database.engine.published().catalog.clone();
        let scheduled = jiff::Timestamp::from_microsecond(run.scheduled_us).map(|t| t.to_string()).unwrap_or_default();
        let payload = serde_json::json!({
            "task": format!("{}.{name}", catalog.schema_name(&entry.object)),
            "run": run.id,
            "scheduled_at": scheduled,
            "attempt": run.attempt,
            "sqlstate": error.sqlstate,
            "error": error.message,
            "tried_again": is_tried_again,
        });
        self.database.channels.notify(SERVER_PROCESS, channel, &payload.to_string());
    }
}

/// Notes that a task is to be suspended, if it has failed too often.
fn suspend_if_failing(entry: &mut Entry) {
    let limit = entry.options.suspend_after_failures;
    if limit > 0 && entry.state.failures >= limit && !entry.object.suspended {
        let last = entry.state.last.as_ref().and_then(|last| last.error.clone()).unwrap_or_default();
        let why = format!("{} runs in a row have failed, the last with: {last}", entry.state.failures);
        entry.state.suspended_because = Some(why);
    }
}
