//! What clients ask for: runs that they wait for.

use millstream_catalog::ObjectId;
use tokio::sync::oneshot;

use super::decide::QUEUE_MAX;
use super::entry::Entry;
use super::scheduler::{Scheduler, Waiter};
use crate::error::{Error, Result, sqlstate};
use crate::session::tasks::run::{RunKey, runs};
use crate::session::tasks::{Request, Run, RunError, RunState, Trigger, given_up};

/// A request that cannot be met: who is to be told, and why.
type Refused = (oneshot::Sender<Result<Run>>, Error);

impl Scheduler {
    /// Writes a run down that a client asked for, and lets the client wait.
    pub(super) async fn ask(&mut self, request: Request) -> Result<(), Refused> {
        let Some(mut entry) = self.entries.remove(&request.task) else {
            let message = format!("task with OID {} does not exist any more", request.task);
            return Err((request.reply, Error::new(sqlstate::UNDEFINED_OBJECT, message)));
        };
        let made = self.make_run(&mut entry, &request);
        let id = entry.id();
        let records = made.as_ref().map(|run| entry.records(run, true)).unwrap_or_default();
        self.entries.insert(id, entry);
        let run = match made {
            Ok(run) => run,
            Err(e) => return Err((request.reply, e)),
        };
        if let Err(e) = self.write(records).await {
            return Err((request.reply, e));
        }
        let waiter = Waiter { reply: request.reply, given_up: request.cancel };
        self.waiters.insert((id, run.key()), waiter);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.queue.push_back(run);
        }
        Ok(())
    }

    fn make_run(&mut self, entry: &mut Entry, request: &Request) -> Result<Run> {
        if entry.open() >= QUEUE_MAX {
            let message = format!("{QUEUE_MAX} runs of task \"{}\" are not over", entry.object.name);
            return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message).with_hint("try again later"));
        }
        let parameters = entry.options.parameters_with(&entry.object.name, &request.parameters)?;
        let now_us = self.now_us();
        let repeated = request.run.map(|number| self.repeated(entry, number)).transpose()?;
        let scheduled_us = repeated.as_ref().map(|run| run.scheduled_us).or(request.time_us).unwrap_or(now_us);
        let mut run = self.new_run(entry, scheduled_us, Trigger::Execute, now_us)?;
        run.user.clone_from(&request.user);
        run.parameters = parameters;
        if let Some(repeated) = repeated {
            run.repeats = Some(repeated.id);
            run.statements = repeated.statements;
            run.parameters = repeated.parameters;
            run.inputs = repeated.inputs;
        }
        Ok(run)
    }

    /// A run of the past that is to be repeated.
    fn repeated(&self, entry: &Entry, number: u64) -> Result<Run> {
        let snapshot = self.database.engine.published().snapshot.clone();
        for run in runs(&snapshot, entry.id()) {
            let run = run?;
            if run.id != number {
                continue;
            }
            if run.state != RunState::Succeeded || run.inputs.is_none() {
                let message = format!("run {number} of task \"{}\" is {}", entry.object.name, run.state.name());
                return Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_hint(
                    "only a run that succeeded can be repeated; EXECUTE TASK ... FOR TIMESTAMP makes up for one",
                ));
            }
            return Ok(run);
        }
        let message = format!("task \"{}\" has no run {number}", entry.object.name);
        Err(Error::new(sqlstate::UNDEFINED_OBJECT, message).with_hint("millstream.task_runs lists those that are kept"))
    }

    /// Takes back the runs that wait for their turn and whose clients gave up.
    pub(super) async fn give_up_waiting(&mut self) {
        let taken_back = self.waiters.iter().filter(|(_, waiter)| waiter.given_up.is_cancelled());
        let taken_back: Vec<(ObjectId, RunKey)> = taken_back.map(|(key, _)| *key).collect();
        for (task, key) in taken_back {
            let Some(entry) = self.entries.get_mut(&task) else { continue };
            // What runs already is told itself.
            let Some(at) = entry.queue.iter().position(|run| run.key() == key) else { continue };
            let Some(mut run) = entry.queue.remove(at) else { continue };
            run.state = RunState::Canceled;
            run.ended_us = Some(run.queued_us.max(self.database.tasks.clock.now_us()));
            run.error = Some(RunError::from(&given_up()));
            let records = entry.records(&run, false);
            if let Err(e) = self.write(records).await {
                tracing::warn!(task = %task, error = %e, "a run that was taken back stays");
            }
            self.tell(task, key, Ok(run));
        }
    }

    /// Tells who waits for a run.
    pub(super) fn tell(&mut self, task: ObjectId, key: RunKey, how: Result<Run>) {
        if let Some(waiter) = self.waiters.remove(&(task, key)) {
            // A client that has left is not told.
            let _ = waiter.reply.send(how);
        }
    }

    /// Tells all who wait for runs of a task that was dropped.
    pub(super) fn tell_dropped(&mut self, task: ObjectId) {
        let keys: Vec<RunKey> = self.waiters.keys().filter(|(t, _)| *t == task).map(|(_, key)| *key).collect();
        for key in keys {
            let error = Error::new(sqlstate::UNDEFINED_OBJECT, format!("task with OID {task} does not exist any more"));
            self.tell(task, key, Err(error.with_hint("it was dropped while it ran")));
        }
    }
}
