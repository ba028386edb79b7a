//! How far a long statement is, told to its client from time to time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use millstream_sql::Plan;
use millstream_sql::plan::CopyTarget;
use parking_lot::Mutex;

use super::api::{Notice, ProgressReport};
use crate::batch::jobs::{Job, Progress};

/// The setting by which a client asks for it: how often.
pub const SETTING: &str = "progress_interval";

/// What a statement is called among the jobs; `None` for one that does not run long.
pub fn kind_of(plan: &Plan) -> Option<&'static str> {
    match plan {
        Plan::Query(_) => Some("query"),
        Plan::CopyTo(p) => Some(match p.target {
            CopyTarget::File(_) => "copy to files",
            CopyTarget::Stdout => "copy to client",
        }),
        Plan::Insert(_) => Some("insert"),
        Plan::Update(_) => Some("update"),
        Plan::Delete(_) => Some("delete"),
        Plan::Merge(_) => Some("merge"),
        Plan::CreateExternalTable(p) if p.query.is_some() => Some("create external table as"),
        Plan::CreateTableAs(_) => Some("create table as"),
        _ => None,
    }
}

/// The statement of a session that runs, if one does.
#[derive(Debug, Clone, Default)]
pub struct Watched(Arc<Mutex<Weak<Job>>>);

impl Watched {
    /// Another one runs.
    pub fn watch(&self, job: &Arc<Job>) {
        *self.0.lock() = Arc::downgrade(job);
    }

    /// Reports of it.
    pub fn report(&self, every: Duration) -> ProgressReport {
        let watched = self.clone();
        ProgressReport {
            every,
            now: Arc::new(move || {
                let job = watched.0.lock().upgrade()?;
                Some(notice(&job.progress(), job.started.elapsed()))
            }),
        }
    }
}

fn notice(progress: &Progress, elapsed: Duration) -> Notice {
    let Progress { rows_read, bytes_read, rows_written, bytes_written } = progress;
    let mut text = format!("running for {} s: {rows_read} rows and {bytes_read} bytes read", elapsed.as_secs());
    if *rows_written > 0 {
        text.push_str(&format!(", {rows_written} rows and {bytes_written} bytes written"));
    }
    Notice::notice(text)
}
