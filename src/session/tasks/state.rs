//! Where a task stands: up to when its schedule is dealt with, and how its last runs went.

use std::sync::Arc;

use millstream_catalog::ObjectId;
use serde::{Deserialize, Serialize};

use super::run::{Run, RunState, STATE};
use crate::error::{Error, Result, sqlstate};
use crate::state::{Snapshot, TableId};
use crate::stream::engine::TaskRecord;

/// What is kept of a task beside its runs. Times are in microseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskState {
    /// All scheduled times up to this one are dealt with: run, skipped or passed over. It never goes back, so that a clock
    /// that does runs nothing twice.
    pub cursor_us: i64,
    /// The schedule that the cursor is of; another one starts anew.
    pub schedule: String,
    /// Whether it was suspended when it was looked at last: times of a suspended task pass.
    #[serde(default)]
    pub suspended: bool,
    /// Failed runs since the last success.
    #[serde(default)]
    pub failures: u32,
    /// Why the scheduler has suspended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_because: Option<String>,
    /// The run that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Ended>,
    /// The scheduled time of the last success, and when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<(i64, i64)>,
    /// Runs that ended so, ever.
    #[serde(default)]
    pub succeeded: u64,
    #[serde(default)]
    pub failed: u64,
    #[serde(default)]
    pub skipped: u64,
    /// The largest number of its runs.
    #[serde(default)]
    pub last_run_id: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub scheduled_us: i64,
    pub started_us: Option<i64>,
    pub ended_us: i64,
    pub state: RunState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TaskState {
    /// That of a task; `None` for one that was not looked at yet.
    ///
    /// # Errors
    /// XX001 if it cannot be read.
    pub fn read(snapshot: &Arc<Snapshot>, task: ObjectId) -> Result<Option<Self>> {
        let Some(value) = snapshot.get(TableId::new(task.0, STATE), &[])? else { return Ok(None) };
        serde_json::from_slice(&value).map(Some).map_err(|e| {
            Error::new(sqlstate::DATA_CORRUPTED, format!("the state of the task with OID {task} cannot be read: {e}"))
        })
    }

    /// The write that keeps it.
    pub fn record(&self, task: ObjectId) -> TaskRecord {
        let value = serde_json::to_vec(self).unwrap_or_default();
        TaskRecord { table: TableId::new(task.0, STATE), key: Vec::new(), value: Some(value) }
    }

    /// Notes how a run ended that is not tried again.
    pub fn ended(&mut self, run: &Run) {
        let ended_us = run.ended_us.unwrap_or(run.queued_us);
        match run.state {
            RunState::Succeeded => {
                self.failures = 0;
                self.succeeded += 1;
                self.last_success = Some((run.scheduled_us, ended_us));
            }
            RunState::Failed => {
                self.failures += 1;
                self.failed += 1;
            }
            RunState::Skipped => self.skipped += 1,
            _ => {}
        }
        self.last = Some(Ended {
            scheduled_us: run.scheduled_us,
            started_us: run.started_us,
            ended_us,
            state: run.state,
            error: run.error.as_ref().map(|e| e.message.clone()),
        });
    }
}
