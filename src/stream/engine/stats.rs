//! Counters that the engine keeps for people and metrics; never read by the engine itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_catalog::ObjectId;
use millstream_catalog::object::Sink;
use millstream_connectors::{ReaderStatus, Wait};
use parking_lot::Mutex;

/// How many latencies are kept for the percentiles of a view.
const LATENCIES_MAX: usize = 1024;
/// Over how long a rate is taken.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// How long a sink may wait for the outside before that is called trouble.
const WAIT_PATIENCE: Duration = Duration::from_secs(5);

/// How many epochs are remembered.
const EPOCHS_MAX: usize = 1024;

/// All counters, behind one lock that is held only to copy.
#[derive(Default)]
pub struct Stats {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sources: BTreeMap<ObjectId, SourceStats>,
    views: BTreeMap<ObjectId, ViewStats>,
    sinks: BTreeMap<ObjectId, SinkStats>,
    epochs: VecDeque<EpochStats>,
}

/// A committed epoch as `millstream.epochs` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStats {
    pub epoch: u64,
    /// The epoch's `now()`, microseconds since 1970.
    pub now_us: i64,
    /// Rows of sources and of backfills that it took, and changes of tables.
    pub rows_in: u64,
    /// Changes of views and sinks.
    pub rows_out: u64,
    pub compute: Duration,
    /// From the committer taking it to its being visible.
    pub commit: Duration,
    /// Memory of its write set.
    pub written_bytes: u64,
}

/// How far a new view has read what was there before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackfillStats {
    pub rows_done: u64,
    /// Rows that it will have read, as far as is known: more may come meanwhile.
    pub rows_total: u64,
}

/// A source as `millstream.sources` shows it.
#[derive(Debug, Clone, Default)]
pub struct SourceStats {
    pub rows: u64,
    pub bytes: u64,
    pub dead_letters: u64,
    pub skipped: u64,
    pub late_rows: u64,
    pub partitions: BTreeMap<i32, PartitionStats>,
    pub status: ReaderStatus,
    pub suspended: bool,
    /// The consumer group that positions are mirrored to.
    pub group: Option<String>,
}

/// One partition of a source.
#[derive(Debug, Clone, Default)]
pub struct PartitionStats {
    /// Next offset to take; the epochs up to it may not be published yet.
    pub next_offset: i64,
    /// Microseconds since 1970.
    pub watermark_us: Option<i64>,
    pub idle: bool,
    /// Since the server started.
    pub rows: u64,
    pub dead_letters: u64,
    /// Records that could not be read and were dropped, as `on_error = 'skip'` asks.
    pub skipped: u64,
    pub rows_per_second: f64,
    /// How often its position was gone and it went on elsewhere.
    pub resets: u64,
    /// Records that it passed over then.
    pub lost: u64,
    /// Latest timestamp of the records that were taken, milliseconds since 1970.
    pub read_ms: Option<i64>,
    /// When it was last seen to have nothing left to read.
    pub at_end: Option<Instant>,
}

impl PartitionStats {
    /// How long the oldest record that is not taken has waited at most, in seconds: not longer than since the latest record
    /// that was taken was made, and not longer than since nothing was left to take. 0 if nothing is left at `position`,
    /// `None` if nothing is known.
    pub fn lag_seconds(&self, position: i64, high_watermark: Option<i64>, now_us: i64) -> Option<f64> {
        if high_watermark? <= position {
            return Some(0.0);
        }
        let since_read = self.read_ms.map(|ms| (now_us - ms * 1000) as f64 / 1e6);
        let since_end = self.at_end.map(|at| at.elapsed().as_secs_f64());
        let bounds = since_read.into_iter().chain(since_end);
        bounds.reduce(f64::min).map(|seconds| seconds.max(0.0))
    }
}

/// How fast a counter grows, from samples of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Notes the counter's value.
    pub fn sample(&mut self, now: Instant, value: u64) {
        // The last sample before the window's start stays, so that the window is covered whole.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, value));
    }

    /// Growth a second between the oldest and the newest sample; 0 with fewer than two.
    pub fn per_second(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back()) else { return 0.0 };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds > 0.0 { after.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

/// A view or table as `millstream.views` shows it.
#[derive(Debug, Clone, Default)]
pub struct ViewStats {
    pub rows: i64,
    /// Last epoch that changed it.
    pub epoch: u64,
    pub errors: i64,
    pub late_rows: u64,
    /// Rows that took back what `state_ttl` had forgotten.
    pub expired_rows: u64,
    /// When it was made, microseconds since 1970; 0 if that is not known.
    pub made_us: i64,
    /// Why it stopped, if it did.
    pub failed: Option<String>,
    pub suspended: bool,
    /// Whether it held all that there was once, so that it is read also while it is behind.
    pub built: bool,
    /// What keeps it from reading what it is behind with.
    pub trouble: Option<String>,
    /// How far it is, while it still reads what was there before it.
    pub backfill: Option<BackfillStats>,
    /// How far it was before it became complete.
    last_backfill: Option<BackfillStats>,
    /// The epoch with which it became complete, if it did so since the start.
    complete_since: u64,
    /// What its operators have done since the server started; none for a table.
    pub activity: Option<Arc<Activity>>,
    latencies_us: VecDeque<u64>,
}

/// What a view's scans and operators have done since the server started, by their positions in its plan.
#[derive(Debug, Default)]
pub struct Activity {
    pub scans: Vec<StepCounters>,
    pub nodes: Vec<StepCounters>,
}

impl Activity {
    /// Nothing done yet.
    pub fn new(scans: usize, nodes: usize) -> Self {
        let counters = |n| (0..n).map(|_| StepCounters::default()).collect();
        Self { scans: counters(scans), nodes: counters(nodes) }
    }
}

/// Counters of one scan or operator.
#[derive(Debug, Default)]
pub struct StepCounters {
    epochs: AtomicU64,
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    nanos: AtomicU64,
}

impl StepCounters {
    /// Adds one epoch's work.
    pub fn add(&self, rows_in: usize, rows_out: usize, took: Duration) {
        self.epochs.fetch_add(1, Ordering::Relaxed);
        self.rows_in.fetch_add(rows_in as u64, Ordering::Relaxed);
        self.rows_out.fetch_add(rows_out as u64, Ordering::Relaxed);
        self.nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Epochs in which there was something to do.
    pub fn epochs(&self) -> u64 {
        self.epochs.load(Ordering::Relaxed)
    }

    /// Changed rows taken from all inputs.
    pub fn rows_in(&self) -> u64 {
        self.rows_in.load(Ordering::Relaxed)
    }

    /// Changed rows given on.
    pub fn rows_out(&self) -> u64 {
        self.rows_out.load(Ordering::Relaxed)
    }

    /// Time spent.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

impl ViewStats {
    /// Whether the view misses rows in an epoch, because it still reads what was there before it.
    pub fn is_incomplete_at(&self, epoch: u64) -> bool {
        self.backfill.is_some() || epoch < self.complete_since
    }

    /// How far the view is, if it is incomplete in an epoch.
    pub fn backfill_at(&self, epoch: u64) -> Option<&BackfillStats> {
        let last = self.last_backfill.as_ref().filter(|_| epoch < self.complete_since);
        self.backfill.as_ref().or(last)
    }

    /// Notes how far the view is as of an epoch, which may not be visible yet; `None` once it is complete.
    pub(super) fn set_backfill(&mut self, backfill: Option<BackfillStats>, epoch: u64) {
        if self.backfill.is_some() && backfill.is_none() {
            self.complete_since = epoch;
            self.last_backfill = self.backfill.take();
        }
        self.backfill = backfill;
    }

    /// Arrival to visible, in microseconds, at quantile `q` of the last thousand epochs that changed the view.
    pub fn latency_us(&self, q: f64) -> Option<u64> {
        let mut sorted: Vec<u64> = self.latencies_us.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        sorted.get((q * last as f64).round() as usize).copied()
    }
}

/// A sink as `millstream.sinks` shows it.
#[derive(Debug, Clone, Default)]
pub struct SinkStats {
    /// Sequence number after the last row produced.
    pub produced: u64,
    /// Sequence number after the last row that the outside has acknowledged.
    pub delivered: u64,
    /// What the last attempt failed with, until one succeeds.
    pub error: Option<String>,
    /// What is waited for outside.
    pub wait: Wait,
    /// Why nothing is sent until a person resumes it.
    pub suspended: Option<String>,
}

impl SinkStats {
    /// Why rows do not go out: what the last attempt failed with, or what the one under way has waited for too long.
    pub fn trouble(&self) -> Option<String> {
        self.error.clone().or_else(|| self.wait.told(WAIT_PATIENCE))
    }

    /// Sequence number after the last row that needs no sending any more: `blackhole` needs none at all.
    pub fn acknowledged(&self, sink: &Sink) -> u64 {
        let discards = sink.options.get("connector").is_some_and(|c| c.eq_ignore_ascii_case("blackhole"));
        if discards { self.produced } else { self.delivered }
    }

    /// Rows that wait for the outside.
    pub fn outbox_rows(&self, sink: &Sink) -> u64 {
        self.produced.saturating_sub(self.acknowledged(sink))
    }
}

impl Stats {
    /// All sources.
    pub fn sources(&self) -> BTreeMap<ObjectId, SourceStats> {
        self.inner.lock().sources.clone()
    }

    /// All views and tables.
    pub fn views(&self) -> BTreeMap<ObjectId, ViewStats> {
        self.inner.lock().views.clone()
    }

    /// Counters of one view or table.
    pub fn view(&self, id: ObjectId) -> Option<ViewStats> {
        self.inner.lock().views.get(&id).cloned()
    }

    /// All sinks.
    pub fn sinks(&self) -> BTreeMap<ObjectId, SinkStats> {
        self.inner.lock().sinks.clone()
    }

    /// The last committed epochs, oldest first.
    pub fn epochs(&self) -> Vec<EpochStats> {
        self.inner.lock().epochs.iter().copied().collect()
    }

    pub(super) fn committed(&self, epoch: EpochStats) {
        let epochs = &mut self.inner.lock().epochs;
        if epochs.len() == EPOCHS_MAX {
            epochs.pop_front();
        }
        epochs.push_back(epoch);
    }

    pub(super) fn update_source(&self, id: ObjectId, update: impl FnOnce(&mut SourceStats)) {
        update(self.inner.lock().sources.entry(id).or_default());
    }

    pub(super) fn update_view(&self, id: ObjectId, update: impl FnOnce(&mut ViewStats)) {
        update(self.inner.lock().views.entry(id).or_default());
    }

    pub(super) fn update_sink(&self, id: ObjectId, update: impl FnOnce(&mut SinkStats)) {
        update(self.inner.lock().sinks.entry(id).or_default());
    }

    /// Records how long the oldest record of an epoch took from arrival to being visible in each changed view.
    pub(super) fn visible(&self, views: &[ObjectId], arrived: Instant) {
        let us = arrived.elapsed().as_micros() as u64;
        let mut inner = self.inner.lock();
        for id in views {
            let latencies = &mut inner.views.entry(*id).or_default().latencies_us;
            if latencies.len() == LATENCIES_MAX {
                latencies.pop_front();
            }
            latencies.push_back(us);
        }
        metrics::histogram!("millstream_visible_latency_seconds").record(us as f64 / 1e6);
    }

    /// Forgets a dropped object.
    pub(super) fn forget(&self, id: ObjectId) {
        let mut inner = self.inner.lock();
        inner.sources.remove(&id);
        inner.views.remove(&id);
        inner.sinks.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), 0.0);
        for s in 0..=10 {
            rate.sample(at(s), s * 100);
        }
        assert_eq!(rate.per_second(), 100.0);
        for s in 11..=20 {
            rate.sample(at(s), 1000);
        }
        assert_eq!(rate.per_second(), 0.0);
    }
}
