//! Statements that run, and how far each of them is: for `millstream.jobs`, for clients that want to be told, and to cancel
//! them.
//!
//! What a statement has read is not counted on the side: the scans of its plan count it, and are asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::copy::Written;

/// Ids of jobs of statements begin here; those of background work are OIDs, which are smaller.
pub const FIRST_ID: u32 = 1 << 31;

/// A statement is a job to look at from then on.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// The statements of a server that run.
#[derive(Debug, Default)]
pub struct Jobs {
    begun: AtomicU32,
    running: Mutex<BTreeMap<u32, Weak<Job>>>,
}

/// A statement that runs, until the last that knows it lets go.
#[derive(Debug)]
pub struct Job {
    pub id: u32,
    /// `query`, `copy`, …
    pub kind: &'static str,
    /// The session that runs it, as `pg_backend_pid()` names it.
    pub process_id: i32,
    /// Its text, secrets masked.
    pub statement: Option<String>,
    pub started: Instant,
    pub started_us: i64,
    /// What it has written to files.
    pub written: Arc<Written>,
    cancel: CancellationToken,
    plan: Mutex<Option<Arc<dyn ExecutionPlan>>>,
}

/// How far a statement is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub rows_read: u64,
    pub bytes_read: u64,
    pub rows_written: u64,
    pub bytes_written: u64,
}

impl Jobs {
    /// The session of a statement that runs.
    pub fn process_id(&self, id: u32) -> Option<i32> {
        self.running.lock().get(&id).and_then(Weak::upgrade).map(|job| job.process_id)
    }

    /// A statement begins.
    pub fn begin(
        &self,
        kind: &'static str,
        process_id: i32,
        statement: Option<String>,
        cancel: CancellationToken,
    ) -> Arc<Job> {
        let id = FIRST_ID | (self.begun.fetch_add(1, Ordering::Relaxed) % FIRST_ID);
        let job = Arc::new(Job {
            id,
            kind,
            process_id,
            statement,
            started: Instant::now(),
            started_us: chrono::Utc::now().timestamp_micros(),
            written: Arc::default(),
            cancel,
            plan: Mutex::new(None),
        });
        let mut running = self.running.lock();
        running.retain(|_, job| job.strong_count() > 0);
        running.insert(id, Arc::downgrade(&job));
        job
    }

    /// Those that run, in the order of their ids.
    pub fn running(&self) -> Vec<Arc<Job>> {
        self.running.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Those that have run for long enough to be looked at.
    pub fn long(&self) -> Vec<Arc<Job>> {
        let mut running = self.running();
        running.retain(|job| job.started.elapsed() >= SHOWN_AFTER);
        running
    }

    /// Asks a statement to stop. Whether there is one of that id.
    pub fn cancel(&self, id: u32) -> bool {
        let job = self.running.lock().get(&id).and_then(Weak::upgrade);
        job.map(|job| job.cancel.cancel()).is_some()
    }
}

impl Job {
    /// Its plan runs now; another one may have before.
    pub fn watch(&self, plan: Arc<dyn ExecutionPlan>) {
        *self.plan.lock() = Some(plan);
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress {
            rows_written: self.written.rows.load(Ordering::Relaxed),
            bytes_written: self.written.bytes.load(Ordering::Relaxed),
            ..Progress::default()
        };
        let plan = self.plan.lock().clone();
        if let Some(plan) = plan {
            add_scans(plan.as_ref(), &mut progress);
        }
        progress
    }
}

/// Adds what the leaves of a plan have read.
fn add_scans(plan: &dyn ExecutionPlan, progress: &mut Progress) {
    let children = plan.children();
    if children.is_empty()
        && let Some(metrics) = plan.metrics()
    {
        progress.rows_read += metrics.output_rows().unwrap_or(0) as u64;
        progress.bytes_read += metrics.sum_by_name("bytes_scanned").map_or(0, |bytes| bytes.as_usize()) as u64;
    }
    children.into_iter().for_each(|child| add_scans(child.as_ref(), progress));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_there_as_long_as_its_statement() {
        let jobs = Jobs::default();
        let token = CancellationToken::new();
        let job = jobs.begin("query", 7, None, token.clone());
        assert_eq!(jobs.running().iter().map(|job| job.id).collect::<Vec<_>>(), [job.id]);
        assert!(job.id >= FIRST_ID && jobs.cancel(job.id) && token.is_cancelled());
        let id = job.id;
        drop(job);
        assert!(jobs.running().is_empty() && !jobs.cancel(id));
    }
}
