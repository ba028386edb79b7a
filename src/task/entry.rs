//! A task as the scheduler holds it in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use millstream_catalog::object::Task;
use millstream_catalog::{Object, ObjectId};
use tokio_util::sync::CancellationToken;

use crate::calendar::Calendar;
use crate::error::Result;
use crate::session::tasks::run::RunKey;
use crate::session::tasks::{Run, TaskOptions, TaskState, Trigger, calendar_of, task_of};
use crate::stream::engine::TaskRecord;

/// A task with what is open of it.
pub struct Entry {
    pub object: Arc<Object>,
    pub task: Task,
    pub options: TaskOptions,
    pub calendar: Option<Calendar>,
    /// As it is written down.
    pub state: TaskState,
    /// Scheduled times up to this one that are not decided were missed.
    pub missed_until_us: i64,
    /// Whether missed times are left.
    pub is_behind: bool,
    /// When it is due next.
    pub next_due_us: Option<i64>,
    /// What waits, in its order.
    pub queue: VecDeque<Run>,
    /// What runs: only one at a time.
    pub running: Option<Running>,
    /// Whether what is open of it was read.
    pub is_known: bool,
}

/// A run under way.
pub struct Running {
    pub key: RunKey,
    /// Ends it.
    pub cancel: CancellationToken,
}

impl Entry {
    /// A task of the catalog, and what is written down of it; a new one starts now.
    ///
    /// # Errors
    /// 22023 for options or a schedule that cannot be read.
    pub fn new(object: Arc<Object>, state: Option<TaskState>, now_us: i64) -> Result<Option<Self>> {
        let Some(task) = task_of(&object).cloned() else { return Ok(None) };
        // Without a schedule yet, so that it is written down when its own is taken up.
        let state = state.unwrap_or_else(|| TaskState { cursor_us: now_us, ..TaskState::default() });
        let (options, calendar) = (TaskOptions::of(&object.name, &task.options)?, calendar_of(&task)?);
        let mut entry = Self {
            object,
            task,
            options,
            calendar,
            state,
            missed_until_us: now_us,
            is_behind: false,
            next_due_us: None,
            queue: VecDeque::new(),
            running: None,
            is_known: false,
        };
        entry.find_next_due();
        Ok(Some(entry))
    }

    /// Takes a new definition of the task.
    ///
    /// # Errors
    /// As [`Entry::new`].
    pub fn redefine(&mut self, object: Arc<Object>) -> Result<()> {
        let Some(task) = task_of(&object).cloned() else { return Ok(()) };
        self.options = TaskOptions::of(&object.name, &task.options)?;
        self.calendar = calendar_of(&task)?;
        (self.object, self.task) = (object, task);
        self.find_next_due();
        Ok(())
    }

    pub fn id(&self) -> ObjectId {
        self.object.id
    }

    /// Runs that are not over.
    pub fn open(&self) -> usize {
        self.queue.len() + usize::from(self.running.is_some())
    }

    /// Whether it makes up for missed times, and the next has to wait until a run is over.
    pub fn is_held_back(&self) -> bool {
        self.is_behind && self.open() > 0
    }

    /// Follows SUSPEND, RESUME and another schedule, of which the times that pass meanwhile are never made up for; whether
    /// there is something to write down.
    pub fn follow(&mut self, now_us: i64) -> bool {
        let schedule = schedule_text(&self.task);
        let is_resumed = self.state.suspended && !self.object.suspended;
        let is_suspended = !self.state.suspended && self.object.suspended;
        let is_other = self.state.schedule != schedule;
        if is_resumed {
            self.state.suspended_because = None;
            self.state.failures = 0;
        }
        if is_resumed || is_other {
            self.state.cursor_us = self.state.cursor_us.max(now_us);
            self.is_behind = false;
        }
        self.state.suspended = self.object.suspended;
        self.state.schedule = schedule;
        self.find_next_due();
        is_resumed || is_suspended || is_other
    }

    pub fn find_next_due(&mut self) {
        self.next_due_us = match &self.calendar {
            Some(calendar) if !self.object.suspended => calendar.next_after(self.state.cursor_us),
            _ => None,
        };
    }

    /// Position in the queue of what may start now: the first, or what somebody waits for, which alone a suspended task runs.
    pub fn startable(&self, now_us: i64) -> Option<usize> {
        if self.running.is_some() {
            return None;
        }
        let is_ripe = |run: &Run| run.not_before_us <= now_us;
        let first = self.queue.front().is_some_and(is_ripe).then_some(0).filter(|_| !self.object.suspended);
        first.or_else(|| self.queue.iter().position(|run| run.trigger == Trigger::Execute && is_ripe(run)))
    }

    /// The writes that keep a run, and the state with it.
    pub fn records(&self, run: &Run, is_open: bool) -> Vec<TaskRecord> {
        let mut records = run.records(self.id(), is_open);
        records.push(self.state.record(self.id()));
        records
    }
}

/// What tells one schedule from another.
fn schedule_text(task: &Task) -> String {
    task.schedule.as_ref().map(|s| format!("{} {}", s.text(), task.zone())).unwrap_or_default()
}
