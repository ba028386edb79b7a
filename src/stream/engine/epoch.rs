//! The loop itself: waits for input, runs an epoch through everything, hands it to the committer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind};
use millstream_connectors::{DeadLetter, Doorbell};

use super::catch_up::{CatchUp, CatchUps};
use super::commit::{Commit, Committer, Waiters};
use super::handle::{Change, Command, DdlRequest, DdlStep, Engine, NewObject, WriteOutcome, WriteRequest};
use super::outbox::Outbox;
use super::pipeline::{Changes, ChangesByRelation, Pipeline, Target, Upstream};
use super::published::{Published, Publisher};
use super::source::{Source, Taken};
use super::stats::Stats;
use super::system::{self, DdlEntry};
use super::table::Table;
use crate::error::{Error, Result, sqlstate};
use crate::state::{Relation, Snapshot, State, Store, TableId};
use crate::stream::operator::PortWatermarks;
use crate::stream::plan::part;

/// Bounds of an epoch's intake.
#[derive(Debug, Clone, Copy)]
pub struct EpochLimits {
    pub rows: usize,
    pub bytes: usize,
}

impl Default for EpochLimits {
    fn default() -> Self {
        Self { rows: 131_072, bytes: 64 << 20 }
    }
}

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
}

/// The catalog of a store's last committed epoch; a new one in an empty store.
pub fn recover_catalog(store: &Arc<Store>) -> Result<Catalog> {
    system::read_catalog(&store.snapshot()?)
}

/// Starts the loop over a store whose catalog was recovered.
pub fn start(recovered: Recovered) -> Result<Engine> {
    let Recovered { store, catalog, objects, limits } = recovered;
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
    let committer = Committer::start(store.clone(), publisher.clone(), stats.clone(), sender.clone())?;
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
        commands,
        sender: sender.clone(),
        doorbell,
        rung,
        committer,
        limits,
        catalog,
        epoch: snapshot.epoch(),
        last_now_us: snapshot.now_us(),
        sources: BTreeMap::new(),
        catch_ups: CatchUps::new(),
        tables: BTreeMap::new(),
        pipelines: BTreeMap::new(),
        ddl_waiting: Vec::new(),
        last_report: Instant::now(),
    };
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
    epoch_loop.recover_catch_ups(&snapshot)?;
    epoch_loop.start_readers()?;
    epoch_loop.start_sinks()?;
    epoch_loop.report_views();
    let thread = std::thread::Builder::new().name("epoch-loop".into()).spawn(move || epoch_loop.run())?;
    Ok(Engine::new(sender, publisher, stats, thread))
}

struct EpochLoop {
    state: State,
    store: Arc<Store>,
    publisher: Arc<Publisher>,
    stats: Arc<Stats>,
    commands: Receiver<Command>,
    sender: Sender<Command>,
    doorbell: Doorbell,
    rung: Arc<AtomicBool>,
    committer: Committer,
    limits: EpochLimits,
    /// As of the open epoch; the published one may be older.
    catalog: Arc<Catalog>,
    epoch: u64,
    last_now_us: i64,
    sources: BTreeMap<ObjectId, Source>,
    catch_ups: CatchUps,
    tables: BTreeMap<ObjectId, Table>,
    /// Views and sinks by id, which is a topological order: what a view reads was made before it.
    pipelines: BTreeMap<ObjectId, Pipeline>,
    /// CREATE statements whose views still read what was there before them.
    ddl_waiting: Vec<(Vec<ObjectId>, super::handle::Reply<u64>)>,
    last_report: Instant,
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
            if let Err(e) = self.epoch(requests) {
                tracing::error!(error = %e, "epoch failed, going back to the last committed one");
                self.roll_back(&e);
            }
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
            let own = self.catch_ups.values().any(|c| c.source.has_input() || c.source.is_at_end());
            let input = (shared || own) && !self.outbox_full();
            if requests.any() || input || due.is_zero() || self.is_backfilling() {
                return requests;
            }
            if let Some(Err(e)) = self.committer.poll() {
                self.roll_back(&e);
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
        idle.into_iter().chain(wake).fold(report, Duration::min)
    }

    fn is_backfilling(&self) -> bool {
        self.pipelines.values().any(|p| p.counters.failed.is_none() && p.is_backfilling())
    }

    /// Whether a view still reads what was there before it, stored or in a source.
    fn is_incomplete(&self, pipeline: &Pipeline) -> bool {
        pipeline.is_backfilling() || self.catch_ups.keys().any(|(view, _)| *view == pipeline.id)
    }

    /// Whether a source's reader waits for a view to catch up.
    fn is_held(&self, source: ObjectId) -> bool {
        self.catch_ups.iter().any(|((_, s), c)| *s == source && c.holds)
    }

    fn outbox_full(&self) -> bool {
        self.pipelines.values().any(|p| matches!(&p.target, Target::Sink(o) if o.pending() > OUTBOX_ROWS_MAX))
    }

    /// Runs one epoch.
    fn epoch(&mut self, requests: Requests) -> Result<()> {
        let started = Instant::now();
        let epoch = self.epoch + 1;
        let now_us = now_us().max(self.last_now_us);
        self.state.stamp(now_us);
        let mut work = Work::default();
        for command in requests.commands {
            self.command(command, epoch, now_us, &mut work)?;
        }
        if !self.outbox_full() {
            self.take_sources(epoch, &mut work)?;
        }
        self.run_pipelines(epoch, now_us, &mut work)?;
        self.advance_catch_ups(&mut work)?;
        self.finish_ddl(&mut work);
        if !work.dirty {
            work.waiters.fail_ddl_or_succeed_flushes(self.epoch);
            return Ok(());
        }
        for table in work.tables.iter().filter_map(|id| self.tables.get(id)) {
            table.freeze(&mut self.state)?;
        }
        for source in work.sources.iter().filter_map(|id| self.sources.get(id)) {
            source.freeze(&mut self.state)?;
        }
        for catch_up in self.catch_ups.values() {
            catch_up.source.freeze(&mut self.state)?;
        }
        metrics::histogram!("millstream_epoch_compute_seconds").record(started.elapsed().as_secs_f64());
        if let Err(e) = self.committer.wait() {
            work.waiters.fail(&commit_failed(&e));
            return Err(e);
        }
        self.state.committed();
        let frozen = self.state.freeze()?;
        let own = self.catch_ups.values_mut().map(|c| &mut c.source);
        for source in self.sources.values_mut().chain(own) {
            source.epoch_done();
        }
        for table in self.tables.values_mut() {
            table.epoch_done();
        }
        self.epoch = epoch;
        self.last_now_us = now_us;
        self.committer.submit(Commit {
            frozen,
            epoch,
            now_us,
            catalog: self.catalog.clone(),
            sync: work.sync,
            waiters: work.waiters,
            arrived: work.arrived,
            changed: work.changed,
        })
    }

    fn command(&mut self, command: Command, epoch: u64, now_us: i64, work: &mut Work) -> Result<()> {
        match command {
            Command::Ddl(request, reply) => match self.ddl(*request, epoch, now_us, work) {
                Ok(waits_for) if waits_for.is_empty() => {
                    work.waiters.ddl.push(reply);
                    Ok(())
                }
                Ok(waits_for) => {
                    self.ddl_waiting.push((waits_for, reply));
                    Ok(())
                }
                Err(e) if super::pipeline::is_store_failure(&e) => {
                    let _ = reply.send(Err(e.clone()));
                    Err(e)
                }
                Err(e) => {
                    let _ = reply.send(Err(e));
                    Ok(())
                }
            },
            Command::Write(request, reply) => match self.write(&request, epoch, work) {
                Ok(outcome) => {
                    work.waiters.writes.push((reply, outcome));
                    Ok(())
                }
                Err(e) => {
                    let store = super::pipeline::is_store_failure(&e).then(|| e.clone());
                    let _ = reply.send(Err(e));
                    store.map_or(Ok(()), Err)
                }
            },
            Command::Flush(reply) => {
                work.waiters.flushes.push(reply);
                work.dirty |= self.committer.is_busy();
                Ok(())
            }
            Command::SinkProgress { sink, sequence } => {
                if let Some(Pipeline { target: Target::Sink(outbox), .. }) = self.pipelines.get_mut(&sink) {
                    outbox.delivered(&mut self.state, sequence)?;
                    work.dirty = true;
                }
                Ok(())
            }
            Command::Wake | Command::Shutdown => Ok(()),
        }
    }

    /// Applies a DDL statement to the open epoch. Returns the views that it must wait for.
    fn ddl(&mut self, request: DdlRequest, epoch: u64, now_us: i64, work: &mut Work) -> Result<Vec<ObjectId>> {
        if request.base_version != self.catalog.version() {
            return Err(Error::new(
                sqlstate::SERIALIZATION_FAILURE,
                "could not serialize access to the catalog due to a concurrent statement",
            )
            .with_hint("run the statement again"));
        }
        let DdlRequest { catalog, changes, new, writes, steps, user, .. } = request;
        let history = system::ddl_entries(epoch, now_us, &self.history_entries(&catalog, &steps, &user))?;
        let ids: Vec<ObjectId> = new.iter().map(NewObject::id).collect();
        let before = std::mem::replace(&mut self.catalog, Arc::new(catalog));
        let started = self.start_new(new, &writes, work);
        if let Err(e) = started {
            self.catalog = before;
            for id in &ids {
                self.remove(*id)?;
                self.state.discard(id.0);
            }
            return Err(e);
        }
        system::put_catalog(&mut self.state, &self.catalog, &changes);
        system::ddl_history()?.apply(&mut self.state, &history, None)?;
        for change in &changes {
            if let Change::Drop(id) = change {
                self.remove(*id)?;
            }
        }
        self.rename(&changes);
        self.stop_unread_sources()?;
        work.dirty = true;
        work.sync = true;
        Ok(ids.into_iter().filter(|id| self.pipelines.get(id).is_some_and(|p| self.is_incomplete(p))).collect())
    }

    /// The history of statements that lead to `catalog`.
    fn history_entries<'a>(&self, catalog: &Catalog, steps: &'a [DdlStep], user: &'a str) -> Vec<DdlEntry<'a>> {
        // What earlier statements of the same transaction left of an object.
        let mut left: BTreeMap<ObjectId, Option<Arc<Object>>> = BTreeMap::new();
        let mut entries = Vec::new();
        for (step, change) in steps.iter().flat_map(|step| step.changes.iter().map(move |change| (step, change))) {
            let (id, new) = match change {
                Change::Put(object) => (object.id, Some(object.clone())),
                Change::Drop(id) => (*id, None),
            };
            let old = left.insert(id, new.clone()).unwrap_or_else(|| self.catalog.get(id).cloned());
            let object = new.as_ref().or(old.as_ref());
            let schema_of = |o: &Arc<Object>| match catalog.schema_name(o) {
                "" => self.catalog.schema_name(o).to_string(),
                name => name.to_string(),
            };
            entries.push(DdlEntry {
                statement: &step.statement,
                user,
                kind: object.map_or("", |o| o.kind_name()),
                schema: object.map_or(String::new(), schema_of),
                name: object.map_or(String::new(), |o| o.name.clone()),
                object_id: id,
                old_definition: old.as_ref().map(|o| o.definition.clone()),
                new_definition: new.as_ref().map(|o| o.definition.clone()),
            });
        }
        entries
    }

    fn start_new(&mut self, new: Vec<NewObject>, writes: &[super::handle::TableWrite], work: &mut Work) -> Result<()> {
        let ids: Vec<ObjectId> = new.iter().map(NewObject::id).collect();
        for object in new {
            self.add(object)?;
        }
        for id in ids {
            self.begin_catch_ups(id)?;
        }
        self.start_readers()?;
        self.start_sinks()?;
        self.apply_all(writes, work)?;
        Ok(())
    }

    /// Makes what runs for an object.
    fn add(&mut self, object: NewObject) -> Result<()> {
        let id = object.id();
        let record = self
            .catalog
            .get(id)
            .cloned()
            .ok_or_else(|| Error::internal(format!("object {id} is not in the catalog")))?;
        match object {
            NewObject::Source { spec, watermark, .. } => {
                self.sources.insert(id, Source::new(id, record.name.clone(), *spec, watermark));
            }
            NewObject::Table { watermark, .. } => {
                self.tables.insert(id, Table::new(&record, watermark)?);
            }
            NewObject::View { plan, .. } => {
                let table = TableId { object: id.0, part: part::ROWS };
                let relation = Relation::new(table, record.arrow_schema(), plan.layout())?;
                let target = Target::View(Arc::new(relation));
                self.add_pipeline(&record, *plan, target)?;
            }
            NewObject::Sink { plan, spec, .. } => {
                let ObjectKind::Sink(sink) = &record.kind else {
                    return Err(Error::internal(format!("{} is no sink", record.describe())));
                };
                let outbox = Outbox::new(id, *spec, &record.arrow_schema(), sink.key.clone())?;
                self.add_pipeline(&record, *plan, Target::Sink(outbox))?;
            }
        }
        Ok(())
    }

    fn add_pipeline(&mut self, record: &Object, plan: crate::stream::plan::PlannedView, target: Target) -> Result<()> {
        let stored = |id: ObjectId| !self.sources.contains_key(&id);
        let pipeline = Pipeline::new(record.id, record.name.clone(), plan, target, &stored)?;
        self.pipelines.insert(record.id, pipeline);
        Ok(())
    }

    /// Ends what runs for an object.
    fn remove(&mut self, id: ObjectId) -> Result<()> {
        if let Some(mut source) = self.sources.remove(&id) {
            source.stop(&mut self.state)?;
        }
        self.catch_ups.retain(|(view, source), _| *view != id && *source != id);
        self.tables.remove(&id);
        if let Some(Pipeline { target: Target::Sink(mut outbox), .. }) = self.pipelines.remove(&id) {
            outbox.stop();
        }
        self.stats.forget(id);
        Ok(())
    }

    fn rename(&mut self, changes: &[Change]) {
        for change in changes {
            let Change::Put(object) = change else { continue };
            if let Some(pipeline) = self.pipelines.get_mut(&object.id) {
                pipeline.name = object.name.clone();
            }
            if let Some(table) = self.tables.get_mut(&object.id) {
                table.name = object.name.clone();
            }
            if let Some(source) = self.sources.get_mut(&object.id) {
                source.name = object.name.clone();
            }
        }
    }

    /// Reads every source that a view needs, with the columns that its views need together.
    fn start_readers(&mut self) -> Result<()> {
        let mut wanted: BTreeMap<ObjectId, BTreeSet<usize>> = BTreeMap::new();
        for scan in self.pipelines.values().flat_map(Pipeline::reads) {
            wanted.entry(scan.object).or_default().extend(scan.columns.iter().copied());
        }
        for (id, columns) in wanted {
            if let Some(source) = self.sources.get_mut(&id) {
                source.read_columns(&columns, &self.doorbell)?;
            }
        }
        Ok(())
    }

    /// A new view over sources that others are reading reads their history on its own first.
    fn begin_catch_ups(&mut self, view: ObjectId) -> Result<()> {
        for (source, columns) in self.columns_by_source(view) {
            if let Some(shared) = self.sources.get(&source).filter(|s| s.has_history()) {
                let mut own = shared.for_view(view);
                own.read_columns(&columns, &self.doorbell)?;
                self.catch_ups.insert((view, source), CatchUp::new(own));
            }
        }
        Ok(())
    }

    /// Goes on with the views that were catching up in the last committed epoch.
    fn recover_catch_ups(&mut self, snapshot: &Arc<Snapshot>) -> Result<()> {
        self.catch_ups.clear();
        let views: Vec<ObjectId> = self.pipelines.keys().copied().collect();
        for view in views {
            for (source, columns) in self.columns_by_source(view) {
                let Some(shared) = self.sources.get(&source) else { continue };
                if super::source::catches_up(snapshot, view, source)? {
                    let mut own = shared.for_view(view);
                    own.recover(snapshot)?;
                    own.read_columns(&columns, &self.doorbell)?;
                    self.catch_ups.insert((view, source), CatchUp::new(own));
                }
            }
        }
        Ok(())
    }

    /// The sources that a view reads, with the columns that it needs of each.
    fn columns_by_source(&self, view: ObjectId) -> BTreeMap<ObjectId, BTreeSet<usize>> {
        let mut columns: BTreeMap<ObjectId, BTreeSet<usize>> = BTreeMap::new();
        for scan in self.pipelines.get(&view).into_iter().flat_map(Pipeline::reads) {
            if self.sources.contains_key(&scan.object) {
                columns.entry(scan.object).or_default().extend(scan.columns.iter().copied());
            }
        }
        columns
    }

    /// Views that have come to where the shared readers are take from those with the next epoch.
    fn advance_catch_ups(&mut self, work: &mut Work) -> Result<()> {
        let mut joined = Vec::new();
        for ((view, source), catch_up) in &mut self.catch_ups {
            let Some(shared) = self.sources.get(source) else { continue };
            if catch_up.advance(shared, &self.doorbell)? {
                joined.push((*view, *source));
            }
        }
        for key in joined {
            if let Some(mut catch_up) = self.catch_ups.remove(&key) {
                catch_up.source.stop(&mut self.state)?;
                work.dirty = true;
                let complete = self.pipelines.get(&key.0).is_some_and(|p| !self.is_incomplete(p));
                self.stats.update_view(key.0, |v| v.backfilling = !complete);
            }
        }
        Ok(())
    }

    fn stop_unread_sources(&mut self) -> Result<()> {
        let read: BTreeSet<ObjectId> = self.pipelines.values().flat_map(Pipeline::reads).map(|s| s.object).collect();
        for (id, source) in &mut self.sources {
            if source.is_read() && !read.contains(id) {
                source.stop(&mut self.state)?;
            }
        }
        Ok(())
    }

    fn start_sinks(&mut self) -> Result<()> {
        for pipeline in self.pipelines.values_mut() {
            let name = pipeline.name.clone();
            if let Target::Sink(outbox) = &mut pipeline.target {
                outbox.start(name, self.publisher.clone(), self.stats.clone(), self.sender.clone())?;
            }
        }
        Ok(())
    }

    fn write(&mut self, request: &WriteRequest, epoch: u64, work: &mut Work) -> Result<WriteOutcome> {
        let inserted = self.apply_all(&request.writes, work)?;
        work.dirty = true;
        work.sync = true;
        Ok(WriteOutcome { epoch, inserted })
    }

    /// Applies writes in order, all or none.
    fn apply_all(
        &mut self,
        writes: &[super::handle::TableWrite],
        work: &mut Work,
    ) -> Result<Vec<Option<arrow::array::RecordBatch>>> {
        let mut done: Vec<(ObjectId, super::table::Applied)> = Vec::new();
        for write in writes {
            let result = match self.tables.get_mut(&write.table) {
                Some(table) => table.apply(write, &mut self.state),
                None => Err(Error::new(
                    sqlstate::UNDEFINED_TABLE,
                    format!("table with OID {} does not exist any more", write.table),
                )),
            };
            match result {
                Ok(applied) => done.push((write.table, applied)),
                Err(e) => {
                    for (id, applied) in done.into_iter().rev() {
                        if let Some(table) = self.tables.get_mut(&id) {
                            table.undo(applied, &mut self.state)?;
                        }
                    }
                    return Err(e);
                }
            }
        }
        let mut inserted = Vec::new();
        for (id, applied) in done {
            work.changes.entry(id).or_default().deltas.extend(applied.deltas.iter().cloned());
            work.tables.insert(id);
            work.changed.push(id);
            inserted.push(applied.inserted);
        }
        Ok(inserted)
    }

    fn take_sources(&mut self, epoch: u64, work: &mut Work) -> Result<()> {
        let mut dead_letters: Vec<(ObjectId, Vec<DeadLetter>)> = Vec::new();
        let held: BTreeSet<ObjectId> = self.sources.keys().copied().filter(|id| self.is_held(*id)).collect();
        for (id, source) in &mut self.sources {
            let (rows, bytes) = if held.contains(id) { (0, 0) } else { (self.limits.rows, self.limits.bytes) };
            let taken = source.take(rows, bytes, &self.stats)?;
            if taken.changed {
                work.sources.insert(*id);
            }
            metrics::counter!("millstream_source_rows_total", "source" => source.name.clone())
                .increment(taken.rows as u64);
            let (changes, dead) = work.take(source, taken);
            work.changes.insert(*id, changes);
            if !dead.is_empty() {
                dead_letters.push((*id, dead));
            }
        }
        for (key, catch_up) in &mut self.catch_ups {
            let taken = catch_up.source.take(self.limits.rows, self.limits.bytes, &self.stats)?;
            // What cannot be read was recorded when the shared reader met it.
            let (changes, _) = work.take(&catch_up.source, taken);
            work.own_changes.insert(*key, changes);
        }
        for (id, dead) in dead_letters {
            let Some(source) = self.sources.get(&id) else { continue };
            let rows = system::dead_letter_rows(id, &source.name, source.topic(), epoch, &dead)?;
            system::dead_letters()?.apply(&mut self.state, &rows, None)?;
        }
        Ok(())
    }

    fn run_pipelines(&mut self, epoch: u64, now_us: i64, work: &mut Work) -> Result<()> {
        for (id, table) in &self.tables {
            work.changes.entry(*id).or_default().watermarks = table.watermarks();
        }
        let ids: Vec<ObjectId> = self.pipelines.keys().copied().collect();
        for id in ids {
            let Some(mut pipeline) = self.pipelines.remove(&id) else { continue };
            let upstream = Inputs {
                view: id,
                own_changes: &work.own_changes,
                changes: &work.changes,
                tables: &self.tables,
                pipelines: &self.pipelines,
            };
            let failed_input = pipeline.reads().find_map(|scan| self.failure_of(scan.object));
            let ran = match failed_input {
                Some(name) if pipeline.counters.failed.is_none() => {
                    pipeline.fail(epoch, &mut self.state, format!("it reads \"{name}\", which has failed"))
                }
                _ => pipeline.run(epoch, now_us, &mut self.state, &upstream),
            };
            let counters = pipeline.counters.clone();
            let backfilling = self.is_incomplete(&pipeline);
            let produced = match &pipeline.target {
                Target::Sink(outbox) => Some(outbox.produced()),
                Target::View(_) => None,
            };
            self.pipelines.insert(id, pipeline);
            let ran = ran?;
            if ran.changed {
                work.dirty = true;
                work.changed.push(id);
                self.stats.update_view(id, |v| {
                    v.rows = counters.rows;
                    v.errors = counters.errors;
                    v.late_rows = counters.late_rows;
                    v.failed = counters.failed.clone();
                    v.backfilling = backfilling;
                    v.epoch = epoch;
                });
                if let Some(produced) = produced {
                    self.stats.update_sink(id, |s| s.produced = produced);
                }
            }
            work.changes.insert(id, ran.changes);
        }
        for id in &work.tables {
            if let Some(table) = self.tables.get(id) {
                let rows = table.counters.rows;
                self.stats.update_view(*id, |v| {
                    v.rows = rows;
                    v.epoch = epoch;
                });
            }
        }
        Ok(())
    }

    fn failure_of(&self, id: ObjectId) -> Option<String> {
        let pipeline = self.pipelines.get(&id)?;
        pipeline.counters.failed.as_ref().map(|_| pipeline.name.clone())
    }

    /// Answers CREATE statements whose views are complete with this epoch.
    fn finish_ddl(&mut self, work: &mut Work) {
        let pending = std::mem::take(&mut self.ddl_waiting);
        let incomplete = |id: &ObjectId| {
            self.pipelines.get(id).is_some_and(|p| p.counters.failed.is_none() && self.is_incomplete(p))
        };
        let (ready, waiting): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(ids, _)| !ids.iter().any(incomplete));
        self.ddl_waiting = waiting;
        work.waiters.ddl.extend(ready.into_iter().map(|(_, reply)| reply));
    }

    /// After a failed epoch or commit: everything in memory goes back to the last committed epoch.
    fn roll_back(&mut self, error: &Error) {
        // A commit under way may still succeed or fail; what it did is what the store says afterwards.
        let _ = self.committer.wait();
        self.state.rollback();
        let published = self.publisher.current();
        self.epoch = published.epoch;
        let told = commit_failed(error);
        for (_, reply) in std::mem::take(&mut self.ddl_waiting) {
            let _ = reply.send(Err(told.clone()));
        }
        self.catalog = published.catalog.clone();
        let keep: BTreeSet<ObjectId> = self.catalog.objects().map(|o| o.id).collect();
        let gone: Vec<ObjectId> = self
            .pipelines
            .keys()
            .chain(self.tables.keys())
            .chain(self.sources.keys())
            .filter(|id| !keep.contains(id))
            .copied()
            .collect();
        let result = gone.into_iter().try_for_each(|id| self.remove(id)).and_then(|()| self.recover_all(&published));
        if let Err(e) = result {
            // Without a readable last epoch there is nothing to go on from: better stop than give wrong answers.
            tracing::error!(error = %e, "cannot go back to the last committed epoch, the server stops");
            std::process::abort();
        }
        std::thread::sleep(Duration::from_millis(100));
    }

    fn recover_all(&mut self, published: &Published) -> Result<()> {
        for pipeline in self.pipelines.values_mut() {
            pipeline.recover(&published.snapshot)?;
        }
        for table in self.tables.values_mut() {
            table.recover(&published.snapshot)?;
        }
        for source in self.sources.values_mut() {
            source.rewind(&published.snapshot, &self.doorbell)?;
        }
        self.recover_catch_ups(&published.snapshot)
    }

    fn report(&mut self) {
        self.last_report = Instant::now();
        for source in self.sources.values() {
            source.report(&self.stats);
        }
    }

    /// Tells people of views and tables as they were found at start.
    fn report_views(&self) {
        for (id, pipeline) in &self.pipelines {
            let counters = &pipeline.counters;
            self.stats.update_view(*id, |v| {
                v.rows = counters.rows;
                v.errors = counters.errors;
                v.late_rows = counters.late_rows;
                v.failed = counters.failed.clone();
                v.backfilling = self.is_incomplete(pipeline);
                v.epoch = self.epoch;
            });
            if let Target::Sink(outbox) = &pipeline.target {
                let (produced, pending) = (outbox.produced(), outbox.pending());
                self.stats.update_sink(*id, |s| {
                    s.produced = produced;
                    s.delivered = produced - pending;
                });
            }
        }
        for (id, table) in &self.tables {
            let rows = table.counters.rows;
            self.stats.update_view(*id, |v| v.rows = rows);
        }
    }

    fn end(mut self) {
        for pipeline in self.pipelines.values_mut() {
            if let Target::Sink(outbox) = &mut pipeline.target {
                outbox.stop();
            }
        }
        if let Err(e) = self.committer.wait() {
            tracing::error!(error = %e, "the last commit failed");
        }
        self.committer.stop();
        drop(self.sources);
        if let Err(e) = self.store.flush() {
            tracing::error!(error = %e, "could not flush the store");
        }
    }
}

/// What an epoch collects.
#[derive(Default)]
struct Work {
    changes: ChangesByRelation,
    /// What views that catch up take of their sources, by (view, source).
    own_changes: BTreeMap<(ObjectId, ObjectId), Changes>,
    waiters: Waiters,
    /// Tables and sources whose status goes into the epoch.
    tables: BTreeSet<ObjectId>,
    sources: BTreeSet<ObjectId>,
    /// Relations that changed.
    changed: Vec<ObjectId>,
    arrived: Option<Instant>,
    /// Whether there is anything to commit.
    dirty: bool,
    /// Whether somebody was promised that it is on disk.
    sync: bool,
}

impl Work {
    /// What an epoch takes of a source, as its views see it, and what could not be read.
    fn take(&mut self, source: &Source, taken: Taken) -> (Changes, Vec<DeadLetter>) {
        self.dirty |= taken.changed;
        self.arrived = match (self.arrived, taken.arrived) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let (committed, current) = source.watermarks();
        let changes = Changes {
            deltas: taken.deltas,
            watermarks: PortWatermarks { committed, current },
            decoded: Some(source.columns().collect()),
        };
        (changes, taken.dead)
    }
}

/// What one pipeline reads from.
struct Inputs<'a> {
    view: ObjectId,
    own_changes: &'a BTreeMap<(ObjectId, ObjectId), Changes>,
    changes: &'a ChangesByRelation,
    tables: &'a BTreeMap<ObjectId, Table>,
    pipelines: &'a BTreeMap<ObjectId, Pipeline>,
}

impl Upstream for Inputs<'_> {
    fn changes(&self, id: ObjectId) -> Changes {
        let own = self.own_changes.get(&(self.view, id));
        own.or_else(|| self.changes.get(&id)).cloned().unwrap_or_default()
    }

    fn relation(&self, id: ObjectId) -> Option<Arc<Relation>> {
        match self.tables.get(&id) {
            Some(table) => Some(table.relation.clone()),
            None => self.pipelines.get(&id)?.relation().cloned(),
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
    fn fail_ddl_or_succeed_flushes(self, epoch: u64) {
        for reply in self.flushes.into_iter().chain(self.ddl) {
            let _ = reply.send(Ok(epoch));
        }
    }
}

fn commit_failed(e: &Error) -> Error {
    Error::new(sqlstate::DISK_FULL, format!("could not commit: {e}"))
        .with_hint("nothing of the statement was kept; see the server's log and the disk's free space")
}

/// Microseconds since 1970.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}
