//! The loop: looks at the clock and the catalog, writes down what is due, starts it, and deals with what ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_catalog::ObjectId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, Situation, Step, decide};
use super::entry::{Entry, Running};
use super::execute::{Ending, Failure, Order, execute};
use crate::error::{Error, Result};
use crate::session::database::Database;
use crate::session::tasks::desk::Attached;
use crate::session::tasks::run::{RunKey, open_runs, tries};
use crate::session::tasks::{Request, Run, RunError, RunState, TaskState, Trigger, body, task_of};
use crate::stream::engine::{Published, TaskRecord, WriteRequest};

/// How often the clock is looked at, at least: so late it is noticed that it was set.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look that comes so much later than the one before has missed what lay between: the clock was set, or the machine slept.
const JUMP_US: i64 = 5_000_000;
/// How long a write that was refused is not tried again.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// A run that ends the server so often is not begun again.
const ABANDONED_MAX: u32 = 5;

/// Who waits for a run.
pub(super) struct Waiter {
    pub reply: oneshot::Sender<Result<Run>>,
    pub given_up: CancellationToken,
}

pub(super) struct Scheduler {
    pub database: Database,
    pub entries: BTreeMap<ObjectId, Entry>,
    /// By the try that they wait for now.
    pub waiters: BTreeMap<(ObjectId, RunKey), Waiter>,
    /// What ended, and could not be written down yet.
    pub unwritten: mpsc::UnboundedSender<(ObjectId, Ending)>,
    /// Runs of the tasks that follow the one that is dealt with.
    pub followers: Vec<(ObjectId, Run)>,
    catalog_version: Option<u64>,
    last_look_us: Option<i64>,
    next_id: u64,
    under_way: JoinSet<(ObjectId, Ending)>,
    stop: CancellationToken,
}

/// Runs until the server stops.
pub async fn run(database: Database, attached: Attached) {
    let Attached { mut requests, stop } = attached;
    let (unwritten, mut again) = mpsc::unbounded_channel();
    let mut scheduler = Scheduler {
        database,
        entries: BTreeMap::new(),
        waiters: BTreeMap::new(),
        unwritten,
        followers: Vec::new(),
        catalog_version: None,
        last_look_us: None,
        next_id: 1,
        under_way: JoinSet::new(),
        stop: stop.clone(),
    };
    loop {
        let pause = match scheduler.look().await {
            Ok(pause) => pause,
            Err(e) => {
                tracing::error!(error = %e, "tasks cannot be scheduled, trying again");
                // What memory says and what is written down may differ now.
                scheduler.start_anew();
                WRITE_PAUSE
            }
        };
        let desk = scheduler.database.clone();
        tokio::select! {
            () = stop.cancelled() => break,
            () = desk.tasks.woken() => {}
            Some(request) = requests.recv() => scheduler.asked(request).await,
            Some(ended) = scheduler.under_way.join_next() => match ended {
                Ok((task, ending)) => scheduler.ended(task, ending).await,
                Err(e) => tracing::error!(error = %e, "a run of a task was lost"),
            },
            Some((task, ending)) = again.recv() => scheduler.ended(task, ending).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
    // What runs is broken off. It is written down as running, so the next start finds it abandoned.
    for entry in scheduler.entries.values().filter_map(|e| e.running.as_ref()) {
        entry.cancel.cancel();
    }
    while scheduler.under_way.join_next().await.is_some() {}
}

impl Scheduler {
    /// Does what is due; how long there is nothing to do.
    async fn look(&mut self) -> Result<Duration> {
        let now_us = self.now_us();
        let jumped = self.last_look_us.is_none_or(|last| now_us - last > JUMP_US);
        self.last_look_us = Some(now_us);
        self.follow_catalog(now_us).await?;
        if jumped {
            self.entries.values_mut().for_each(|entry| entry.missed_until_us = now_us);
        }
        self.decide_all(now_us).await?;
        self.suspend_failing().await;
        self.give_up_waiting().await;
        self.start_runs().await?;
        Ok(self.pause())
    }

    pub(super) fn now_us(&self) -> i64 {
        self.database.tasks.clock.now_us()
    }

    /// Forgets what is not under way, so that it is read again from what is written down.
    pub(super) fn start_anew(&mut self) {
        self.entries.retain(|_, entry| entry.running.is_some());
        for entry in self.entries.values_mut() {
            entry.queue.clear();
            entry.is_known = false;
        }
        self.catalog_version = None;
    }

    /// Takes up new tasks and new definitions, and lets go of what was dropped.
    async fn follow_catalog(&mut self, now_us: i64) -> Result<()> {
        let published = self.database.engine.published();
        if self.catalog_version == Some(published.catalog.version()) {
            return Ok(());
        }
        let gone: Vec<ObjectId> =
            self.entries.keys().filter(|id| published.catalog.get(**id).is_none()).copied().collect();
        for id in gone {
            if let Some(running) = self.entries.remove(&id).and_then(|entry| entry.running) {
                running.cancel.cancel();
            }
            self.tell_dropped(id);
        }
        self.define(&published, now_us)?;
        let (mut records, mut ended) = (Vec::new(), Vec::new());
        let all: Vec<ObjectId> = self.entries.keys().copied().collect();
        for id in all {
            let Some(mut entry) = self.entries.remove(&id) else { continue };
            let taken =
                if entry.is_known { Ok(()) } else { self.take_up(&mut entry, now_us, &mut records, &mut ended) };
            if entry.follow(now_us) {
                records.push(entry.state.record(id));
            }
            self.entries.insert(id, entry);
            taken?;
        }
        self.write(records).await?;
        self.catalog_version = Some(published.catalog.version());
        for (task, run) in ended {
            let result = match (run.state, &run.error) {
                (RunState::Succeeded, _) => Ok(()),
                (_, Some(error)) => Err(Failure::Error(error.into())),
                (_, None) => Err(Failure::Ended),
            };
            self.ended(task, Ending { run, result }).await;
        }
        Ok(())
    }

    /// Makes an entry of each task, or puts its new definition in.
    fn define(&mut self, published: &Published, now_us: i64) -> Result<()> {
        for object in published.catalog.objects().filter(|object| task_of(object).is_some()) {
            let defined = match self.entries.get_mut(&object.id) {
                Some(entry) if entry.is_known => match Arc::ptr_eq(&entry.object, object) {
                    true => Ok(()),
                    false => entry.redefine(object.clone()),
                },
                before => {
                    let running = before.and_then(|entry| entry.running.take());
                    let state = TaskState::read(&published.snapshot, object.id)?;
                    Entry::new(object.clone(), state, now_us).map(|entry| {
                        let Some(entry) = entry else { return };
                        // The numbers of all tasks are known before one is given.
                        self.next_id = self.next_id.max(entry.state.last_run_id + 1);
                        self.entries.insert(object.id, Entry { running, ..entry });
                    })
                }
            };
            if let Err(e) = defined {
                tracing::error!(task = object.name, error = %e, "the task cannot be scheduled as it is defined");
            }
        }
        Ok(())
    }

    /// What is open of a task that was not looked at since the start: what waits goes on to wait, what ran is abandoned and
    /// waits to be tried again, what ended goes to `over`, for what follows it was not done.
    fn take_up(
        &mut self,
        entry: &mut Entry,
        now_us: i64,
        records: &mut Vec<TaskRecord>,
        over: &mut Vec<(ObjectId, Run)>,
    ) -> Result<()> {
        let snapshot = self.database.engine.published().snapshot.clone();
        for mut run in open_runs(&snapshot, entry.id())? {
            if entry.running.as_ref().is_some_and(|running| running.key == run.key()) {
                continue;
            }
            match run.state {
                RunState::Running => {
                    run.state = RunState::Abandoned;
                    run.ended_us = Some(now_us);
                    run.error = Some(RunError::reason("the server ended while it ran"));
                    run.abandoned += 1;
                    let attempt = self.next_attempt(entry.id(), run.scheduled_us)?;
                    let mut next = run.next_try(self.new_id(entry), attempt, now_us);
                    if next.abandoned >= ABANDONED_MAX {
                        next.state = RunState::Failed;
                        next.ended_us = Some(now_us);
                        next.error = Some(RunError::reason(format!(
                            "the server ended {ABANDONED_MAX} times while it ran, it is not tried again"
                        )));
                        entry.state.ended(&next);
                        records.extend(next.records(entry.id(), false));
                    } else {
                        records.extend(next.records(entry.id(), true));
                        entry.queue.push_back(next);
                    }
                    tracing::warn!(task = entry.object.name, run = run.id, "a run was abandoned, it is tried again");
                    records.extend(entry.records(&run, false));
                }
                RunState::Queued => entry.queue.push_back(run),
                _ => over.push((entry.id(), run)),
            }
        }
        entry.is_known = true;
        Ok(())
    }

    /// Decides about the scheduled times of all tasks, and writes it down.
    async fn decide_all(&mut self, now_us: i64) -> Result<()> {
        let due: Vec<ObjectId> = self
            .entries
            .values()
            .filter(|e| e.next_due_us.is_some_and(|due| due <= now_us) && !e.is_held_back())
            .map(Entry::id)
            .collect();
        let mut records = Vec::new();
        for id in due {
            let Some(mut entry) = self.entries.remove(&id) else { continue };
            let decided = self.decide_one(&mut entry, now_us);
            self.entries.insert(id, entry);
            records.extend(decided?);
        }
        self.write(records).await
    }

    fn decide_one(&mut self, entry: &mut Entry, now_us: i64) -> Result<Vec<TaskRecord>> {
        let Some(calendar) = entry.calendar.clone() else { return Ok(Vec::new()) };
        if entry.is_behind {
            entry.missed_until_us = now_us;
        }
        let Decision { steps, cursor_us, is_behind } = decide(&Situation {
            calendar: &calendar,
            catch_up: entry.options.catch_up,
            overlap: entry.options.overlap,
            cursor_us: entry.state.cursor_us,
            missed_until_us: entry.missed_until_us,
            now_us,
            open: entry.open(),
        });
        let is_same = steps.is_empty() && cursor_us == entry.state.cursor_us;
        (entry.state.cursor_us, entry.is_behind) = (cursor_us, is_behind);
        entry.find_next_due();
        if is_same {
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        for step in steps {
            match step {
                Step::Run { scheduled_us, trigger } => {
                    let run = self.new_run(entry, scheduled_us, trigger, now_us)?;
                    records.extend(run.records(entry.id(), true));
                    entry.queue.push_back(run);
                }
                Step::Skip { scheduled_us, why } => {
                    let mut run = self.new_run(entry, scheduled_us, Trigger::Schedule, now_us)?;
                    run.state = RunState::Skipped;
                    run.ended_us = Some(now_us);
                    run.error = Some(RunError::reason(why.text()));
                    entry.state.ended(&run);
                    records.extend(run.records(entry.id(), false));
                }
            }
        }
        records.push(entry.state.record(entry.id()));
        Ok(records)
    }

    /// A run that waits, of the task's statements and parameters as they are now.
    pub(super) fn new_run(
        &mut self,
        entry: &mut Entry,
        scheduled_us: i64,
        trigger: Trigger,
        now_us: i64,
    ) -> Result<Run> {
        Ok(Run {
            id: self.new_id(entry),
            scheduled_us,
            attempt: self.next_attempt(entry.id(), scheduled_us)?,
            state: RunState::Queued,
            trigger,
            queued_us: now_us,
            not_before_us: 0,
            started_us: None,
            ended_us: None,
            failures: 0,
            abandoned: 0,
            done: 0,
            rows: 0,
            error: None,
            statements: entry.task.statements.clone(),
            parameters: entry.options.parameters.clone(),
            inputs: None,
            repeats: None,
            user: entry.object.owner.clone(),
        })
    }

    /// The number of a new run.
    pub(super) fn new_id(&mut self, entry: &mut Entry) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        entry.state.last_run_id = id;
        id
    }

    /// The number of the next try for a scheduled time.
    pub(super) fn next_attempt(&self, task: ObjectId, scheduled_us: i64) -> Result<u32> {
        let snapshot = self.database.engine.published().snapshot.clone();
        Ok(tries(&snapshot, task, scheduled_us)?.last().map_or(1, |run| run.attempt + 1))
    }

    /// Starts what may start, as far as there is room: what waits longest first.
    async fn start_runs(&mut self) -> Result<()> {
        let now_us = self.now_us();
        let running = self.entries.values().filter(|e| e.running.is_some()).count();
        let room = self.database.options.tasks_at_once.saturating_sub(running);
        if room == 0 {
            return Ok(());
        }
        let startable = |e: &Entry| e.startable(now_us).map(|at| (e.queue[at].queued_us, e.queue[at].id, e.id(), at));
        let mut next: Vec<_> = self.entries.values().filter_map(startable).collect();
        next.sort_unstable();
        next.truncate(room);
        let mut records = Vec::new();
        for (_, _, id, at) in &next {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            let run = &mut entry.queue[*at];
            run.state = RunState::Running;
            run.started_us = Some(now_us);
            records.push(run.record(*id));
        }
        // It is on disk before it begins.
        self.write(records).await?;
        for (_, _, id, at) in next {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let Some(run) = entry.queue.remove(at) else { continue };
            let cancel = CancellationToken::new();
            entry.running = Some(Running { key: run.key(), cancel: cancel.clone() });
            let waiter = self.waiters.get(&(id, run.key()));
            let order = Order {
                object: entry.object.clone(),
                task: entry.task.clone(),
                timeout: entry.options.timeout,
                cancel,
                given_up: waiter.map(|w| w.given_up.clone()).unwrap_or_default(),
                run,
            };
            let database = self.database.clone();
            self.under_way.spawn(async move {
                let lost = order.run.clone();
                let ending = tokio::spawn(execute(database, order)).await;
                let ending = ending.unwrap_or_else(|e| Ending {
                    run: lost,
                    result: Err(Failure::Error(Error::internal(format!("the run panicked: {e}")))),
                });
                (id, ending)
            });
        }
        Ok(())
    }

    /// Suspends the tasks that have failed too often.
    async fn suspend_failing(&mut self) {
        for entry in self.entries.values() {
            let Some(why) = &entry.state.suspended_because else { continue };
            if entry.object.suspended || entry.state.suspended {
                continue;
            }
            tracing::warn!(task = entry.object.name, "suspended: {why}");
            let catalog = self.database.engine.published().catalog.clone();
            let Some(object) = catalog.get(entry.id()) else { continue };
            let name = millstream_sql::quote_ident(&object.name);
            let schema = millstream_sql::quote_ident(catalog.schema_name(object));
            let statement = format!("ALTER TASK {schema}.{name} SUSPEND");
            if let Err(e) = body::as_owner(&self.database, object, &statement).await {
                tracing::warn!(task = object.name, error = %e, "cannot be suspended, trying again");
            }
        }
    }

    /// How long there is nothing to do.
    fn pause(&self) -> Duration {
        let now_us = self.now_us();
        let due = self.entries.values().filter(|e| !e.is_held_back()).filter_map(|e| e.next_due_us);
        let ripe = self.entries.values().filter(|e| e.running.is_none()).filter_map(|e| e.queue.front());
        let next = due.chain(ripe.map(|run| run.not_before_us).filter(|at| *at > now_us)).min();
        let pause = next.map_or(LOOK_EVERY, |at| Duration::from_micros((at - now_us).max(0) as u64));
        pause.clamp(Duration::from_millis(1), LOOK_EVERY)
    }

    /// Writes down, and waits until it is on disk.
    pub(super) async fn write(&self, records: Vec<TaskRecord>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.database.engine.write(WriteRequest { records, ..WriteRequest::default() }).await.map(drop)
    }

    /// Deals with a client's request.
    async fn asked(&mut self, request: Request) {
        // The client knows of the newest definitions.
        if let Err(e) = self.follow_catalog(self.now_us()).await {
            self.start_anew();
            let _ = request.reply.send(Err(e));
            return;
        }
        if let Err((reply, e)) = self.ask(request).await {
            // A client that has left is not told.
            let _ = reply.send(Err(e));
        }
    }

    /// Whether the server stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }
}
