//! A run of a task: one try to carry out its statements for one scheduled time.
//!
//! What a run is for is the task and the scheduled time; the tries for it are numbered. A run is written down before it
//! starts, and the note of its success is one write with its last changes: so it takes effect once, whenever the server dies.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use millstream_catalog::ObjectId;
use serde::{Deserialize, Serialize};

use super::reads::Inputs;
use crate::error::{Error, Result, sqlstate};
use crate::state::{Snapshot, TableId, successor};
use crate::stream::engine::TaskRecord;

/// The tables of a task, by their part: its runs, ...
const RUNS: u16 = 0;
/// ... the keys of those that are not dealt with yet, ...
const OPEN: u16 = 1;
/// ... and where it stands.
pub(super) const STATE: u16 = 2;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn, or for the pause before a further try.
    Queued,
    Running,
    Succeeded,
    Failed,
    /// It never started: an earlier run was not over, or its time had passed.
    Skipped,
    /// The server ended while it ran. It is tried again.
    Abandoned,
    /// A client took it back.
    Canceled,
}

impl RunState {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Abandoned => "abandoned",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// Why a run came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Schedule,
    /// Its time had passed while the server was not running.
    CatchUp,
    /// EXECUTE TASK.
    Execute,
    /// Another task's run succeeded.
    After,
}

impl Trigger {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::CatchUp => "catch-up",
            Self::Execute => "execute",
            Self::After => "after",
        }
    }
}

/// Why a run failed, or did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl RunError {
    /// A reason that is no error.
    pub fn reason(message: impl Into<String>) -> Self {
        Self { sqlstate: None, message: message.into(), detail: None, hint: None }
    }
}

impl From<&Error> for RunError {
    fn from(e: &Error) -> Self {
        Self {
            sqlstate: Some(e.sqlstate().to_string()),
            message: e.message().to_string(),
            detail: e.detail().map(str::to_string),
            hint: e.hint().map(str::to_string),
        }
    }
}

impl From<&RunError> for Error {
    fn from(e: &RunError) -> Self {
        let mut error = Self::new(e.sqlstate.as_deref().unwrap_or(sqlstate::QUERY_CANCELED), e.message.as_str());
        if let Some(detail) = &e.detail {
            error = error.with_detail(detail.as_str());
        }
        if let Some(hint) = &e.hint {
            error = error.with_hint(hint.as_str());
        }
        error
    }
}

/// A try, as it is kept. Times are in microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its number, of which no two runs of the database have the same.
    pub id: u64,
    pub scheduled_us: i64,
    /// Counts the tries for the scheduled time, from 1.
    pub attempt: u32,
    pub state: RunState,
    pub trigger: Trigger,
    pub queued_us: i64,
    /// When it may start at the earliest.
    #[serde(default)]
    pub not_before_us: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_us: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_us: Option<i64>,
    /// Failed tries before this one that it is the repetition of, and those that the server's end broke off.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub abandoned: u32,
    /// How many of its statements are done and committed; a further try goes on behind them.
    #[serde(default)]
    pub done: usize,
    /// Rows that its statements wrote or gave.
    #[serde(default)]
    pub rows: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    pub statements: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// The number of the run whose inputs it is to read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// Who asked for it, or the owner of the task.
    pub user: String,
}

/// A run within its task: the scheduled time, and the number of the try.
pub type RunKey = (i64, u32);

impl Run {
    pub fn key(&self) -> RunKey {
        (self.scheduled_us, self.attempt)
    }

    /// The writes that keep it as it is, among those that are to be dealt with or not.
    pub fn records(&self, task: ObjectId, is_open: bool) -> Vec<TaskRecord> {
        let key = stored_key(self.key());
        let open = TaskRecord { table: TableId::new(task.0, OPEN), key: key.clone(), value: is_open.then(Vec::new) };
        vec![self.record(task), open]
    }

    /// The write that keeps it as it is.
    pub fn record(&self, task: ObjectId) -> TaskRecord {
        let value = serde_json::to_vec(self).unwrap_or_default();
        TaskRecord { table: TableId::new(task.0, RUNS), key: stored_key(self.key()), value: Some(value) }
    }

    /// The next try for the same scheduled time.
    pub fn next_try(&self, id: u64, attempt: u32, now_us: i64) -> Self {
        Self {
            id,
            attempt,
            state: RunState::Queued,
            queued_us: now_us,
            not_before_us: 0,
            started_us: None,
            ended_us: None,
            error: None,
            ..self.clone()
        }
    }
}

/// The write that forgets a run.
pub fn forget(task: ObjectId, key: RunKey) -> TaskRecord {
    TaskRecord { table: TableId::new(task.0, RUNS), key: stored_key(key), value: None }
}

/// All runs of a task, by scheduled time and try.
///
/// # Errors
/// XX001 for what cannot be read.
pub fn runs(snapshot: &Arc<Snapshot>, task: ObjectId) -> impl Iterator<Item = Result<Run>> + use<> {
    let entries = snapshot.scan(TableId::new(task.0, RUNS), Bound::Unbounded, Bound::Unbounded);
    entries.map(move |entry| read(task, &entry?.1))
}

/// The tries of a task for one scheduled time.
///
/// # Errors
/// As [`runs`].
pub fn tries(snapshot: &Arc<Snapshot>, task: ObjectId, scheduled_us: i64) -> Result<Vec<Run>> {
    let prefix = &stored_key((scheduled_us, 0))[..8];
    let to = successor(prefix);
    let entries = snapshot.scan(TableId::new(task.0, RUNS), Bound::Included(prefix), to.as_ref().map(Vec::as_slice));
    entries.map(|entry| read(task, &entry?.1)).collect()
}

/// The runs of a task that are not dealt with.
///
/// # Errors
/// As [`runs`].
pub fn open_runs(snapshot: &Arc<Snapshot>, task: ObjectId) -> Result<Vec<Run>> {
    let mut open = Vec::new();
    for entry in snapshot.scan(TableId::new(task.0, OPEN), Bound::Unbounded, Bound::Unbounded) {
        let (key, _) = entry?;
        if let Some(value) = snapshot.get(TableId::new(task.0, RUNS), &key)? {
            open.push(read(task, &value)?);
        }
    }
    Ok(open)
}

/// A run as it is kept.
///
/// # Errors
/// As [`runs`].
pub fn kept(snapshot: &Arc<Snapshot>, task: ObjectId, key: RunKey) -> Result<Option<Run>> {
    let value = snapshot.get(TableId::new(task.0, RUNS), &stored_key(key))?;
    value.map(|value| read(task, &value)).transpose()
}

/// Whether what follows a run was not dealt with yet.
///
/// # Errors
/// When the store cannot be read.
pub fn is_open(snapshot: &Arc<Snapshot>, task: ObjectId, key: RunKey) -> Result<bool> {
    Ok(snapshot.get(TableId::new(task.0, OPEN), &stored_key(key))?.is_some())
}

fn read(task: ObjectId, value: &[u8]) -> Result<Run> {
    serde_json::from_slice(value).map_err(|e| {
        Error::new(sqlstate::DATA_CORRUPTED, format!("a run of the task with OID {task} cannot be read: {e}"))
    })
}

/// Scheduled time with its sign turned, then the try, both big endian: bytes in the order of the runs.
fn stored_key((scheduled_us, attempt): RunKey) -> Vec<u8> {
    [(scheduled_us ^ i64::MIN).to_be_bytes().as_slice(), &attempt.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_time_and_try() {
        let keys = [(i64::MIN, 1), (-1, 9), (0, 1), (0, 2), (1, 1), (i64::MAX, 1)].map(stored_key);
        assert!(keys.is_sorted());
    }
}
