//! The committer: a thread that makes frozen epochs durable and then visible, while the loop computes the next.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use millstream_catalog::{Catalog, ObjectId};

use super::bell::Bell;
use super::handle::{Command, Reply, WriteOutcome};
use super::history::{Followed, History};
use super::published::{Published, Publisher};
use super::stats::{EpochStats, Stats};
use crate::error::{Error, Result, sqlstate};
use crate::failpoint;
use crate::state::{FrozenSet, Store};

/// How often a commit is tried, with a pause after each failure.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);

/// An epoch ready to be committed.
pub struct Commit {
    pub frozen: Arc<FrozenSet>,
    /// The epoch's number and time, and what it has cost so far.
    pub stats: EpochStats,
    pub catalog: Arc<Catalog>,
    /// Whether a promise depends on it being on disk: DDL and DML.
    pub sync: bool,
    pub waiters: Waiters,
    /// When the oldest record of the epoch arrived, and the views that it changed.
    pub arrived: Option<Instant>,
    pub changed: Vec<ObjectId>,
    /// Of the sinks that it has rows for.
    pub bells: Vec<Arc<Bell>>,
    /// The changes of relations that somebody follows.
    pub followed: Followed,
}

/// Those who wait for an epoch.
#[derive(Default)]
pub struct Waiters {
    pub ddl: Vec<Reply<u64>>,
    /// DDL statements whose views failed, and are gone with the epoch.
    pub refused: Vec<(Reply<u64>, Error)>,
    pub writes: Vec<(Reply<WriteOutcome>, WriteOutcome)>,
    pub flushes: Vec<Reply<u64>>,
}

impl Waiters {
    /// Tells everybody that the epoch is visible. Those who left are not missed.
    fn succeed(self, epoch: u64) {
        for (reply, error) in self.refused {
            let _ = reply.send(Err(error));
        }
        for reply in self.ddl.into_iter().chain(self.flushes) {
            let _ = reply.send(Ok(epoch));
        }
        for (reply, mut outcome) in self.writes {
            outcome.epoch = epoch;
            let _ = reply.send(Ok(outcome));
        }
    }

    /// Tells everybody that nothing of the epoch was kept.
    pub fn fail(self, error: &Error) {
        for (reply, error) in self.refused {
            let _ = reply.send(Err(error));
        }
        for reply in self.ddl.into_iter().chain(self.flushes) {
            let _ = reply.send(Err(error.clone()));
        }
        for (reply, _) in self.writes {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.ddl.is_empty() && self.refused.is_empty() && self.writes.is_empty() && self.flushes.is_empty()
    }
}

/// The loop's end of the committer. At most one commit is under way.
pub struct Committer {
    requests: Option<Sender<Commit>>,
    results: Receiver<Result<()>>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
}

impl Committer {
    /// Starts the thread. After each commit it rings `doorbell`.
    pub fn start(
        store: Arc<Store>,
        publisher: Arc<Publisher>,
        stats: Arc<Stats>,
        history: Arc<History>,
        doorbell: Sender<Command>,
    ) -> Result<Self> {
        let (requests, incoming) = bounded::<Commit>(1);
        let (outgoing, results) = bounded::<Result<()>>(1);
        let thread = std::thread::Builder::new().name("commit".into()).spawn(move || {
            for commit in incoming {
                let result = write(&store, commit, &publisher, &stats, &history);
                if outgoing.send(result).is_err() {
                    return;
                }
                // The loop may be ending: then nobody needs to be woken.
                let _ = doorbell.send(Command::Wake);
            }
        })?;
        Ok(Self { requests: Some(requests), results, thread: Some(thread), under_way: false })
    }

    /// Whether a commit is under way whose result was not taken yet.
    pub fn is_busy(&self) -> bool {
        self.under_way
    }

    /// The result of the commit under way, if it is done.
    pub fn poll(&mut self) -> Option<Result<()>> {
        let result = self.results.try_recv().ok()?;
        self.under_way = false;
        Some(result)
    }

    /// Waits for the commit under way, if there is one.
    pub fn wait(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.under_way) {
            return Ok(());
        }
        self.results.recv().map_err(|_| Error::internal("the committer ended"))?
    }

    /// Hands over the next epoch. The one before must have been waited for.
    pub fn submit(&mut self, commit: Commit) -> Result<()> {
        let requests = self.requests.as_ref().ok_or_else(|| Error::internal("the committer has ended"))?;
        requests.send(commit).map_err(|_| Error::internal("the committer ended"))?;
        self.under_way = true;
        Ok(())
    }

    /// Ends the thread after the commit under way.
    pub fn stop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the committer panicked");
        }
    }
}

fn write(store: &Arc<Store>, commit: Commit, publisher: &Publisher, stats: &Stats, history: &History) -> Result<()> {
    let started = Instant::now();
    let Commit { frozen, stats: mut epoch_stats, catalog, sync, waiters, arrived, changed, bells, followed } = commit;
    let epoch = epoch_stats.epoch;
    if let Err(e) = retried(epoch, "commit failed, will try again", || store.commit(&frozen, sync)) {
        tracing::error!(epoch, error = %e, "commit failed");
        waiters.fail(&commit_failed(&e));
        return Err(e);
    }
    let read = || failpoint::pass("commit.before_publication").and_then(|()| store.snapshot());
    let snapshot = match retried(epoch, "the committed epoch cannot be read, will try again", read) {
        Ok(snapshot) => snapshot,
        Err(e) => {
            // The epoch is on disk, so nobody may be told that it failed; a restart reads it.
            tracing::error!(epoch, error = %e, "cannot read the epoch that was committed, the server stops");
            std::process::abort();
        }
    };
    history.keep(epoch, followed);
    publisher.publish(Published { epoch, now_us: epoch_stats.now_us, catalog, snapshot });
    bells.iter().for_each(|bell| bell.ring(epoch));
    waiters.succeed(epoch);
    if let Some(arrived) = arrived {
        stats.visible(&changed, arrived);
    }
    epoch_stats.commit = started.elapsed();
    metrics::histogram!("millstream_commit_seconds").record(epoch_stats.commit.as_secs_f64());
    metrics::gauge!("millstream_epoch").set(epoch as f64);
    stats.committed(epoch_stats);
    Ok(())
}

/// Does something that the disk may refuse, a few times if need be.
fn retried<T>(epoch: u64, refused: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let mut attempts = 1;
    loop {
        match attempt() {
            Err(e) if attempts < ATTEMPTS => {
                tracing::warn!(epoch, attempt = attempts, error = %e, "{refused}");
                std::thread::sleep(PAUSE * attempts);
                attempts += 1;
            }
            result => return result,
        }
    }
}

/// What those are told whose epoch could not be committed.
pub(super) fn commit_failed(e: &Error) -> Error {
    Error::new(sqlstate::DISK_FULL, format!("could not commit: {e}")).with_hint(
        "nothing of the statement was kept; with room on the disk of the data directory writes go on within seconds",
    )
}
