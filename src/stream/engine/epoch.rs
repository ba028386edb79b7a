//! The loop itself: waits for input, runs an epoch through everything, hands it to the committer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use millstream_catalog::{Catalog, ObjectId};
use millstream_connectors::Doorbell;

use super::catch_up::CatchUps;
use super::commit::{Commit, Committer, Waiters};
use super::handle::{Command, Engine, NewObject, Reply};
use super::history::History;
use super::intake::{EpochLimits, Intake};
use super::objects::Retired;
use super::pipeline::{Pipeline, Target};
use super::published::{Published, Publisher};
use super::retention::Retention;
use super::source::Source;
use super::stats::{BackfillStats, EpochStats, Stats};
use super::system;
use super::table::Table;
use super::work::{Made, Statement, Work};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::state::{State, Store};

/// Rows that may wait in a sink's outbox before its sources are slowed.
const OUTBOX_ROWS_MAX: u64 = 2_000_000;
/// How often positions are mirrored and reader states looked at.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What was found at start: the loop takes it over.
pub struct Recovered {
    pub store: Arc<Store>,
    pub catalog: Catalog,
    /// What runs for the catalog's objects, in the order of their ids.
    pub objects: Vec<NewObject>,
    pub limits: EpochLimits,
    /// Memory of the changes that subscriptions may ask for.
    pub history_bytes: usize,
    /// How long dead letters and late rows are kept; 0: for ever.
    pub dead_letter_retention: Duration,
}

/// The catalog of a store's last committed epoch; a new one in an empty store.
pub fn recover_catalog(store: &Arc<Store>) -> Result<Catalog> {
    system::read_catalog(&store.snapshot()?)
}

/// Starts the loop over a store whose catalog was recovered.
pub fn start(recovered: Recovered) -> Result<Engine> {
    let Recovered { store, catalog, objects, limits, history_bytes, dead_letter_retention } = recovered;
    let snapshot = store.snapshot()?;
    let catalog = Arc::new(catalog);
    let published = Published {
        epoch: snapshot.epoch(),
        now_us: snapshot.now_us(),
        catalog: catalog.clone(),
        snapshot: snapshot.clone(),
    };
    let publisher = Arc::new(Publisher::new(published));
    let stats = Arc::new(Stats::default());
    metrics::gauge!("millstream_epoch").set(snapshot.epoch() as f64);
    let (sender, commands) = unbounded();
    let history = Arc::new(History::new(history_bytes));
    let committer = Committer::start(store.clone(), publisher.clone(), stats.clone(), history.clone(), sender.clone())?;
    let rung = Arc::new(AtomicBool::new(false));
    let doorbell: Doorbell = Arc::new({
        let (sender, rung) = (sender.clone(), rung.clone());
        move || {
            if !rung.swap(true, Ordering::AcqRel) {
                // A loop that has ended needs no wake.
                let _ = sender.send(Command::Wake);
            }
        }
    });
    let mut epoch_loop = EpochLoop {
        state: State::new(store.clone()),
        store,
        publisher: publisher.clone(),
        stats: stats.clone(),
        history: history.clone(),
        commands,
        sender: sender.clone(),
        doorbell,
        rung,
        committer,
        intake: Intake::new(limits),
        catalog,
        epoch: snapshot.epoch(),
        last_now_us: snapshot.now_us(),
        sources: BTreeMap::new(),
        catch_ups: CatchUps::new(),
        tables: BTreeMap::new(),
        pipelines: BTreeMap::new(),
        ddl_waiting: Vec::new(),
        retired: Vec::new(),
        forgetting: Vec::new(),
        condemned: BTreeMap::new(),
        last_report: Instant::now(),
        retention: Retention::new(dead_letter_retention),
    };
    epoch_loop.retention.recover(&snapshot)?;
    for object in objects {
        epoch_loop.add(object)?;
    }
    for pipeline in epoch_loop.pipelines.values_mut() {
        pipeline.recover(&snapshot)?;
    }
    for table in epoch_loop.tables.values_mut() {
        table.recover(&snapshot)?;
    }
    for source in epoch_loop.sources.values_mut() {
        source.recover(&snapshot)?;
    }
    epoch_loop.follow_indexes(&[])?;
    epoch_loop.recover_catch_ups(&snapshot)?;
    epoch_loop.start_readers()?;
    epoch_loop.start_sinks(epoch_loop.epoch)?;
    epoch_loop.report_views();
    let thread = std::thread::Builder::new().name("epoch-loop".into()).spawn(move || epoch_loop.run())?;
    Ok(Engine::new(sender, publisher, stats, history, thread))
}

pub(super) struct EpochLoop {
    pub(super) state: State,
    pub(super) store: Arc<Store>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) stats: Arc<Stats>,
    pub(super) history: Arc<History>,
    pub(super) commands: Receiver<Command>,
    pub(super) sender: Sender<Command>,
    pub(super) doorbell: Doorbell,
    pub(super) rung: Arc<AtomicBool>,
    pub(super) committer: Committer,
    pub(super) intake: Intake,
    /// As of the open epoch; the published one may be older.
    pub(super) catalog: Arc<Catalog>,
    pub(super) epoch: u64,
    pub(super) last_now_us: i64,
    pub(super) sources: BTreeMap<ObjectId, Source>,
    pub(super) catch_ups: CatchUps,
    pub(super) tables: BTreeMap<ObjectId, Table>,
    /// Views and sinks by id, which is a topological order: what a view reads was made before it.
    pub(super) pipelines: BTreeMap<ObjectId, Pipeline>,
    /// CREATE statements whose views still read what was there before them.
    pub(super) ddl_waiting: Vec<Made>,
    /// What ran for dropped objects, until the drop is committed.
    pub(super) retired: Vec<Retired>,
    /// Threads that have the outside forget sinks.
    pub(super) forgetting: Vec<JoinHandle<()>>,
    /// Views that stop with the next epoch, and why.
    pub(super) condemned: BTreeMap<ObjectId, Error>,
    pub(super) last_report: Instant,
    pub(super) retention: Retention,
}

/// What an epoch does beside records of sources.
#[derive(Default)]
struct Requests {
    commands: Vec<Command>,
    shutdown: bool,
}

impl EpochLoop {
    fn run(mut self) {
        loop {
            let requests = self.wait();
            let shutdown = requests.shutdown;
            self.epoch(requests.commands);
            if shutdown {
                break;
            }
        }
        self.end();
    }

    /// Blocks until there is something to do, and takes the commands that came.
    fn wait(&mut self) -> Requests {
        let mut requests = Requests::default();
        loop {
            self.rung.store(false, Ordering::Release);
            while let Ok(command) = self.commands.try_recv() {
                requests.take(command);
            }
            let now = Instant::now();
            let due = self.next_timer(now);
            let shared = self.sources.iter().any(|(id, s)| s.has_input() && !self.is_held(*id));
            let own = self.catch_ups.iter().any(|((view, _), c)| {
                let mut allowed = || self.pipelines.get_mut(view).is_some_and(|p| p.backfill_allowed(now) > 0);
                !c.source.is_suspended() && (c.source.is_at_end() || (c.source.has_input() && (c.holds || allowed())))
            });
            let input = (shared || own) && !self.outbox_full();
            let is_old = self.retention.is_due(now_us());
            if requests.any() || input || due.is_zero() || is_old || self.is_backfilling(now) {
                return requests;
            }
            let due = self.next_close().map_or(due, |close| due.min(close));
            if due.is_zero() {
                return requests;
            }
            match self.committer.poll() {
                Some(Ok(())) => self.release(self.epoch),
                Some(Err(e)) => self.recover_from(&e, Work::default()),
                None => {}
            }
            match self.commands.recv_timeout(due) {
                Ok(command) => requests.take(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => requests.shutdown = true,
            }
        }
    }

    /// How long the loop may sleep.
    fn next_timer(&mut self, now: Instant) -> Duration {
        let since_report = now.duration_since(self.last_report);
        if since_report >= REPORT_EVERY {
            self.report();
        }
        let report = REPORT_EVERY.saturating_sub(self.last_report.elapsed());
        let idle = self.sources.values().filter_map(|s| s.next_timer(now)).min();
        let wake_us = self.pipelines.values().filter_map(Pipeline::next_wake_us).min();
        let wake = wake_us.map(|at| Duration::from_micros(at.saturating_sub(now_us()).max(0) as u64));
        let catching_up: BTreeSet<ObjectId> = self.catch_ups.keys().map(|(view, _)| *view).collect();
        let throttled = self.pipelines.values_mut().filter(|p| p.is_backfilling() || catching_up.contains(&p.id));
        let throttled = throttled.filter_map(|p| Some(p.throttle.as_mut()?.wait(now))).filter(|wait| !wait.is_zero());
        idle.into_iter().chain(wake).chain(throttled).fold(report, Duration::min)
    }

    /// Whether a view has rows to read that were there before it, and may read them now.
    fn is_backfilling(&mut self, now: Instant) -> bool {
        let mut views = self.pipelines.values_mut();
        views.any(|p| p.counters.failed.is_none() && !p.suspended && p.is_backfilling() && p.backfill_allowed(now) > 0)
    }

    /// Whether a view still reads what was there before it, stored or in a source.
    pub(super) fn is_incomplete(&self, pipeline: &Pipeline) -> bool {
        pipeline.is_backfilling() || self.catch_ups.keys().any(|(view, _)| *view == pipeline.id)
    }

    /// Whether a source's reader waits for a view to catch up.
    pub(super) fn is_held(&self, source: ObjectId) -> bool {
        self.catch_ups.iter().any(|((_, s), c)| *s == source && c.holds)
    }

    pub(super) fn outbox_full(&self) -> bool {
        let rows_max = failpoint::value("outbox.rows_max", OUTBOX_ROWS_MAX);
        self.pipelines.values().any(|p| matches!(&p.target, Target::Sink(outbox) if outbox.is_full(rows_max)))
    }

    /// Runs one epoch; if it fails, all goes back to the last committed one and those who wait are told.
    fn epoch(&mut self, commands: Vec<Command>) {
        let started = Instant::now();
        let mut work = Work::new(self.epoch + 1, now_us(), self.last_now_us, self.intake.rows());
        let outcome = self.compute(commands, &mut work).and_then(|()| match work.dirty {
            true => self.hand_over(&mut work, started),
            false => {
                work.waiters.nothing_to_commit(self.epoch);
                Ok(())
            }
        });
        if let Err(e) = outcome {
            if let Some(made) = work.without.take() {
                self.do_again_without(made, &e, work);
                return;
            }
            tracing::error!(epoch = work.epoch, error = %e, "epoch failed, going back to the last committed one");
            self.recover_from(&e, work);
        }
    }

    fn compute(&mut self, commands: Vec<Command>, work: &mut Work) -> Result<()> {
        self.state.stamp(work.now_us);
        let mut commands = commands.into_iter();
        for command in &mut commands {
            if let Err(e) = self.command(command, work) {
                // Those that were not looked at yet are for a later epoch.
                commands.for_each(|command| self.later(command));
                return Err(e);
            }
        }
        if !self.outbox_full() {
            self.take_sources(work)?;
        }
        self.give_inserted(work)?;
        self.expire_kept(work)?;
        self.run_pipelines(work)?;
        self.advance_catch_ups(work)?;
        self.finish_ddl(work)
    }

    /// Freezes a computed epoch and gives it to the committer, once the one before is committed.
    fn hand_over(&mut self, work: &mut Work, started: Instant) -> Result<()> {
        for table in work.tables.iter().filter_map(|id| self.tables.get(id)) {
            table.freeze(&mut self.state)?;
        }
        for source in work.sources.iter().filter_map(|id| self.sources.get(id)) {
            source.freeze(&mut self.state)?;
        }
        for catch_up in self.catch_ups.values() {
            catch_up.source.freeze(&mut self.state)?;
        }
        let compute = started.elapsed();
        metrics::histogram!("millstream_epoch_compute_seconds").record(compute.as_secs_f64());
        self.committer.wait()?;
        self.state.committed();
        self.release(self.epoch);
        let frozen = self.state.freeze()?;
        failpoint::pass("commit.frozen")?;
        let own = self.catch_ups.values_mut().map(|c| &mut c.source);
        for source in self.sources.values_mut().chain(own) {
            source.epoch_done();
        }
        for table in self.tables.values_mut() {
            table.epoch_done();
        }
        self.epoch = work.epoch;
        self.last_now_us = work.now_us;
        // Waiting for the commit before counts: whichever of the two is slower sets the pace.
        self.intake.observe(work.rows_in, started.elapsed(), frozen.bytes());
        let stats = EpochStats {
            epoch: work.epoch,
            now_us: work.now_us,
            rows_in: (work.rows_in + work.rows_written) as u64,
            rows_out: work.rows_out as u64,
            compute,
            commit: Duration::ZERO,
            written_bytes: frozen.bytes() as u64,
        };
        let mut waiters = std::mem::take(&mut work.waiters);
        waiters.writes = std::mem::take(&mut work.statements).into_iter().map(Statement::into_waiter).collect();
        self.committer.submit(Commit {
            frozen,
            stats,
            catalog: self.catalog.clone(),
            sync: work.sync,
            waiters,
            arrived: work.arrived,
            changed: std::mem::take(&mut work.changed),
            bells: std::mem::take(&mut work.bells),
            followed: self.history.followed(&work.changes),
        })
    }

    /// Lets a DDL statement's client wait for the epoch and the views that it makes, or tells it why not.
    fn answer_ddl(&mut self, outcome: Result<Vec<ObjectId>>, reply: Reply<u64>, work: &mut Work) -> Result<()> {
        match outcome {
            Ok(views) => work.made.push((views, reply)),
            Err(e) => {
                let store = super::pipeline::is_store_failure(&e).then(|| e.clone());
                let _ = reply.send(Err(e));
                return store.map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// Puts a command at the end of the queue.
    pub(super) fn later(&self, command: Command) {
        // The loop holds the other end itself.
        let _ = self.sender.send(command);
    }

    fn command(&mut self, command: Command, work: &mut Work) -> Result<()> {
        match command {
            Command::Ddl(request, reply) => {
                let outcome = self.ddl(*request, work);
                self.answer_ddl(outcome, reply, work)
            }
            Command::CancelJob(job, reply) => {
                let outcome = self.cancel_job(job, work).map(|()| Vec::new());
                self.answer_ddl(outcome, reply, work)
            }
            Command::Write(request, reply) => self.write(request, reply, work),
            Command::Flush(reply) => {
                work.waiters.flushes.push(reply);
                work.dirty |= self.committer.is_busy();
                Ok(())
            }
            Command::AlterSink(sink, change, reply) => self.alter_sink(sink, change, reply, work),
            Command::SinkProgress { sink, sequence, kept, dead } => self.sink_went(sink, (sequence, kept), &dead, work),
            Command::SinkMarked { sink, generation } => {
                self.change_sink(sink, work, |outbox, state| outbox.marked(state, generation));
                Ok(())
            }
            Command::SinkGaveUp { sink, generation, reason } => {
                self.change_sink(sink, work, |outbox, state| outbox.gave_up(state, generation, &reason));
                Ok(())
            }
            Command::Wake | Command::Shutdown => Ok(()),
        }
    }

    fn report(&mut self) {
        self.last_report = Instant::now();
        for source in self.sources.values_mut() {
            source.report(&self.stats);
        }
        for ((view, _), catch_up) in &self.catch_ups {
            let trouble = catch_up.source.trouble();
            self.stats.update_view(*view, |v| v.trouble = trouble);
        }
    }

    /// Tells people of views and tables as they are in the last committed epoch.
    pub(super) fn report_views(&self) {
        for (id, pipeline) in &self.pipelines {
            self.report_view(*id, self.epoch);
            if let Target::Sink(outbox) = &pipeline.target {
                let (delivered, suspended) = (outbox.acknowledged(), outbox.suspended().map(str::to_string));
                self.stats.update_sink(*id, |s| (s.delivered, s.suspended) = (delivered, suspended));
            }
        }
        for (id, table) in &self.tables {
            let rows = table.counters.rows;
            self.stats.update_view(*id, |v| v.rows = rows);
        }
    }

    /// Tells people how a view or sink is as of an epoch.
    pub(super) fn report_view(&self, id: ObjectId, epoch: u64) {
        let Some(pipeline) = self.pipelines.get(&id) else { return };
        let counters = &pipeline.counters;
        let backfill = self.is_incomplete(pipeline).then(|| self.progress(pipeline));
        self.stats.update_view(id, |v| {
            v.rows = counters.rows;
            v.errors = counters.errors;
            v.late_rows = counters.late_rows;
            v.expired_rows = counters.expired_rows;
            v.failed = counters.failed.clone();
            v.suspended = pipeline.suspended;
            v.built = counters.built;
            if backfill.is_none() {
                v.trouble = None;
            }
            v.made_us = counters.made_us;
            v.epoch = epoch;
            v.set_backfill(backfill, epoch);
        });
        if let Target::Sink(outbox) = &pipeline.target {
            let produced = outbox.produced();
            self.stats.update_sink(id, |s| s.produced = produced);
        }
    }

    /// How far a view has read what was there before it.
    fn progress(&self, pipeline: &Pipeline) -> BackfillStats {
        let mut progress = BackfillStats::default();
        for (object, rows) in pipeline.backfilled() {
            let table = self.tables.get(&object).map(|t| t.counters.rows);
            let total = table.or_else(|| self.pipelines.get(&object).map(|p| p.counters.rows)).unwrap_or_default();
            let rows_total = total.max(0) as u64;
            progress.rows_done += rows.unwrap_or(rows_total);
            progress.rows_total += rows_total.max(rows.unwrap_or_default());
        }
        for ((_, source), catch_up) in self.catch_ups.iter().filter(|((view, _), _)| *view == pipeline.id) {
            let left = self.sources.get(source).map_or(0, |shared| catch_up.left(shared));
            progress.rows_done += catch_up.rows_done;
            progress.rows_total += catch_up.rows_done + left;
        }
        progress
    }

    fn end(mut self) {
        for pipeline in self.pipelines.values_mut() {
            if let Target::Sink(outbox) = &mut pipeline.target {
                outbox.stop();
            }
        }
        for pipeline in self.pipelines.values_mut() {
            if let Target::Sink(outbox) = &mut pipeline.target {
                outbox.wait();
            }
        }
        match self.committer.wait() {
            Ok(()) => self.release(self.epoch),
            Err(e) => tracing::error!(error = %e, "the last commit failed"),
        }
        self.committer.stop();
        self.finish_forgetting();
        drop(self.sources);
        if let Err(e) = self.store.flush() {
            tracing::error!(error = %e, "could not flush the store");
        }
    }
}

impl Requests {
    fn take(&mut self, command: Command) {
        match command {
            Command::Wake => {}
            Command::Shutdown => self.shutdown = true,
            other => self.commands.push(other),
        }
    }

    fn any(&self) -> bool {
        self.shutdown || !self.commands.is_empty()
    }
}

impl Waiters {
    /// Nothing was changed: those who asked for a flush have what they want.
    fn nothing_to_commit(&mut self, epoch: u64) {
        for reply in self.flushes.drain(..).chain(self.ddl.drain(..)) {
            let _ = reply.send(Ok(epoch));
        }
    }
}

/// Microseconds since 1970.
pub(super) fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}
