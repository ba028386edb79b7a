//! Files into the next version of a Delta table, whoever else writes.
//!
//! A commit is one entry of the log, written only if there is none of its number yet. If another writer was faster, what it
//! did decides: an append goes behind anything that leaves the columns as they are; a change of rows goes behind appends of
//! writers that have not read the table, and is computed anew after all else. Whether an entry is there although writing it
//! failed is read back by an id that it holds, so that no retry writes twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::protocol::DeltaOperation;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::place::Lake;
use super::snapshot::{Snapshot, Version};
use crate::error::{Error, Result};

/// How often an entry of the log is tried while other writers are faster.
const ATTEMPTS: u32 = 100;
/// Longest wait between two of them.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Name of what tells our entry from others.
const ID: &str = "millstreamCommit";

/// What a commit changes.
#[derive(Debug)]
pub struct Change {
    pub actions: Vec<Action>,
    pub operation: DeltaOperation,
    pub kind: Kind,
    pub note: Note,
}

/// What kind of change it is, which decides what it may come behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows are added; `blind`: they were computed without a look at the table.
    Appends { blind: bool },
    /// Rows go or become others.
    Changes,
    /// Rows move to other files.
    Moves,
}

/// Who commits what.
#[derive(Debug, Clone, Default)]
pub struct Note {
    pub user: String,
    /// The application transaction: a table takes each number of an application once.
    pub transaction: Option<Transaction>,
    /// Counts for the history: `numOutputRows` and kin.
    pub metrics: HashMap<String, Value>,
}

/// Commits a change of a version that was read.
///
/// # Errors
/// 40001 if another writer's change came between, and the statement must be computed anew; those of the store.
pub async fn commit(read: &Snapshot, change: &Change) -> Result<Version> {
    let lake = &read.lake;
    let id = Uuid::new_v4().to_string();
    let mut state = read.state.clone();
    for attempt in 0..ATTEMPTS {
        let mut info: HashMap<String, Value> = HashMap::new();
        info.insert(ID.into(), json!(id));
        info.insert("userName".into(), json!(change.note.user));
        info.insert("isBlindAppend".into(), json!(change.kind == Kind::Appends { blind: true }));
        info.insert("operationMetrics".into(), json!(change.note.metrics));
        let properties = CommitProperties::default()
            .with_metadata(info)
            .with_application_transactions(change.note.transaction.iter().cloned().collect())
            .with_max_retries(0);
        let built = CommitBuilder::from(properties).with_actions(change.actions.clone()).build(
            Some(state.snapshot()),
            lake.log.clone(),
            change.operation.clone(),
        );
        let error = match built.await {
            Ok(done) => return Ok(done.version()),
            Err(e) => e,
        };
        let since = since(lake, state.version()).await?;
        if let Some(ours) = since.iter().find(|entry| entry.id.as_deref() == Some(id.as_str())) {
            tracing::debug!("a commit to \"{}\" came through although: {error}", lake.location);
            return Ok(ours.version);
        }
        if !is_late(&error) {
            return Err(lake.told(error));
        }
        if !since.iter().all(|entry| entry.lets_through(change)) {
            return Err(lake.conflict());
        }
        // Exactly what was looked at: another entry may be there by now.
        let last = since.last().map_or(state.version(), |entry| entry.version);
        state.update(lake.log.as_ref(), Some(last)).await.map_err(|e| lake.told(e))?;
        let pause = PAUSE_MAX.min(Duration::from_millis(2u64.saturating_pow(attempt.min(8))));
        // Writers that lost together do not come back together.
        let share = (Uuid::new_v4().as_u128() % 1000) as f64 / 1000.0;
        tokio::time::sleep(pause.mul_f64(share)).await;
    }
    Err(lake.conflict())
}

/// Whether another writer was faster.
fn is_late(error: &DeltaTableError) -> bool {
    matches!(
        error,
        DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction {
                source: TransactionError::MaxCommitAttempts(_)
                    | TransactionError::VersionAlreadyExists(_)
                    | TransactionError::CommitConflict(_)
            }
    )
}

/// What another writer's entry of the log did, as far as it matters.
#[derive(Debug, Default)]
struct Entry {
    version: Version,
    id: Option<String>,
    changes_table: bool,
    removes_rows: bool,
    adds_rows: bool,
    is_blind: bool,
    removed: HashSet<String>,
    applications: HashSet<String>,
}

/// One line of an entry, by the Delta protocol.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    add: Option<FileLine>,
    remove: Option<FileLine>,
    txn: Option<TransactionLine>,
    meta_data: Option<serde::de::IgnoredAny>,
    protocol: Option<serde::de::IgnoredAny>,
    commit_info: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileLine {
    path: String,
    #[serde(default = "yes")]
    data_change: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionLine {
    app_id: String,
}

fn yes() -> bool {
    true
}

impl Entry {
    fn parse(version: Version, text: &str) -> serde_json::Result<Self> {
        let mut entry = Self { version, ..Self::default() };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let line: Line = serde_json::from_str(line)?;
            entry.changes_table |= line.meta_data.is_some() || line.protocol.is_some();
            entry.adds_rows |= line.add.is_some_and(|add| add.data_change);
            if let Some(remove) = line.remove {
                entry.removes_rows |= remove.data_change;
                entry.removed.insert(remove.path);
            }
            entry.applications.extend(line.txn.map(|txn| txn.app_id));
            if let Some(info) = line.commit_info {
                entry.id = info.get(ID).and_then(Value::as_str).map(str::to_string);
                entry.is_blind = info.get("isBlindAppend").and_then(Value::as_bool).unwrap_or_default();
            }
        }
        Ok(entry)
    }

    /// Whether a change that was computed before the entry may come behind it.
    fn lets_through(&self, change: &Change) -> bool {
        if self.changes_table {
            return false;
        }
        if let Some(transaction) = &change.note.transaction
            && self.applications.contains(&transaction.app_id)
        {
            return false;
        }
        let removes = |action: &Action| match action {
            Action::Remove(remove) => self.removed.contains(&remove.path),
            _ => false,
        };
        match change.kind {
            Kind::Appends { blind: true } => true,
            Kind::Appends { blind: false } => !(self.removes_rows || self.adds_rows),
            Kind::Changes => {
                !self.removes_rows && (!self.adds_rows || self.is_blind) && !change.actions.iter().any(removes)
            }
            Kind::Moves => !change.actions.iter().any(removes),
        }
    }
}

/// The entries behind a version.
async fn since(lake: &Lake, version: Version) -> Result<Vec<Entry>> {
    let latest = lake.log.get_latest_version(version).await.map_err(|e| lake.told(e))?;
    let mut entries = Vec::new();
    for version in version + 1..=latest {
        let bytes = lake.log.read_commit_entry(version).await.map_err(|e| lake.told(e))?;
        let damaged = |why: String| {
            Error::new(
                crate::error::sqlstate::IO_ERROR,
                format!("version {version} of the Delta table at \"{}\" cannot be read: {why}", lake.location),
            )
        };
        let bytes = bytes.ok_or_else(|| damaged("it is not there".into()))?;
        let text = std::str::from_utf8(&bytes).map_err(|e| damaged(e.to_string()))?;
        entries.push(Entry::parse(version, text).map_err(|e| damaged(e.to_string()))?);
    }
    Ok(entries)
}

/// New files as actions.
pub fn added(adds: Vec<Add>) -> impl Iterator<Item = Action> {
    adds.into_iter().map(Action::Add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: Kind, actions: Vec<Action>) -> Change {
        let transaction = Some(Transaction::new("mine", 3));
        Change {
            actions,
            operation: DeltaOperation::Update { predicate: None },
            kind,
            note: Note { transaction, ..Note::default() },
        }
    }

    #[test]
    fn what_may_come_behind_what() {
        let parse = |text: &str| Entry::parse(7, text).unwrap();
        let appended = parse(
            "{\"commitInfo\":{\"isBlindAppend\":true,\"millstreamCommit\":\"x\"}}\n{\"add\":{\"path\":\"a\",\"dataChange\":true}}\n",
        );
        assert_eq!((appended.id.as_deref(), appended.version), (Some("x"), 7));
        let read_and_added = parse("{\"add\":{\"path\":\"a\",\"dataChange\":true}}");
        let deleted = parse("{\"remove\":{\"path\":\"a\",\"dataChange\":true}}");
        let compacted = parse(
            "{\"remove\":{\"path\":\"a\",\"dataChange\":false}}\n{\"add\":{\"path\":\"b\",\"dataChange\":false}}",
        );
        let altered = parse("{\"metaData\":{\"id\":\"1\"}}");
        let same = parse("{\"txn\":{\"appId\":\"mine\",\"version\":3}}");
        let remove = |path: &str| {
            Action::Remove(deltalake::kernel::Remove { path: path.into(), data_change: true, ..Default::default() })
        };
        let changes = [
            change(Kind::Appends { blind: true }, vec![]),
            change(Kind::Appends { blind: false }, vec![]),
            change(Kind::Changes, vec![remove("b")]),
            change(Kind::Changes, vec![remove("a")]),
            change(Kind::Moves, vec![remove("b")]),
            change(Kind::Moves, vec![remove("a")]),
        ];
        let through = |entry: &Entry| changes.each_ref().map(|change| entry.lets_through(change));
        assert_eq!(through(&appended), [true, false, true, true, true, true]);
        assert_eq!(through(&read_and_added), [true, false, false, false, true, true]);
        assert_eq!(through(&deleted), [true, false, false, false, true, false]);
        assert_eq!(through(&compacted), [true, true, true, false, true, false]);
        assert_eq!(through(&altered), [false; 6]);
        assert_eq!(through(&same), [false; 6]);
    }
}
