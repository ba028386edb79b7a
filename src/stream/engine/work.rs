//! What an epoch computes: writes of sessions, records of sources, and what both change in the views.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use millstream_catalog::ObjectId;
use millstream_connectors::DeadLetter;

use super::bell::Bell;
use super::commit::Waiters;
use super::epoch::EpochLoop;
use super::handle::{Command, Reply, TableWrite, WriteOutcome, WriteRequest};
use super::pipeline::{Changes, ChangesByRelation, Pipeline, RunLimits, Target, Upstream};
use super::source::{Source, Taken};
use super::system;
use super::table::{Applied, Table};
use crate::error::{Error, Result, sqlstate};
use crate::state::Relation;
use crate::stream::changelog::total_rows;

/// What an epoch collects.
#[derive(Default)]
pub(super) struct Work {
    pub epoch: u64,
    /// The epoch's `now()`, microseconds since 1970.
    pub now_us: i64,
    /// That of the epoch before.
    pub before_us: i64,
    /// Input rows that may be taken, and that were.
    rows_max: usize,
    pub rows_in: usize,
    /// Rows that sessions wrote.
    pub rows_written: usize,
    /// Rows of views that changed.
    pub rows_out: usize,
    /// The view or sink that is being computed.
    pub running: Option<ObjectId>,
    /// Writes of sessions that are in the epoch.
    pub statements: Vec<Statement>,
    pub changes: ChangesByRelation,
    /// Rows that statements added to sources.
    pub inserted: BTreeMap<ObjectId, Vec<RecordBatch>>,
    /// New views and the sources that they read, which have not seen what was added before.
    pub first_reads: Vec<(ObjectId, ObjectId)>,
    /// What views take of their sources that others do not, by (view, source).
    pub own_changes: BTreeMap<(ObjectId, ObjectId), Changes>,
    pub waiters: Waiters,
    /// DDL statements of the epoch with the views that they make.
    pub made: Vec<Made>,
    /// A view that the epoch makes has failed: the epoch is done again without its statement.
    pub without: Option<Made>,
    /// Tables and sources whose status goes into the epoch.
    pub tables: BTreeSet<ObjectId>,
    pub sources: BTreeSet<ObjectId>,
    /// Relations that changed.
    pub changed: Vec<ObjectId>,
    /// Of the sinks that it has rows for.
    pub bells: Vec<Arc<Bell>>,
    pub arrived: Option<Instant>,
    /// Whether there is anything to commit.
    pub dirty: bool,
    /// Whether somebody was promised that it is on disk.
    pub sync: bool,
}

/// The views and sinks that a DDL statement makes, and who waits for them.
pub(super) type Made = (Vec<ObjectId>, Reply<u64>);

/// A session's write that the open epoch holds.
pub(super) struct Statement {
    pub request: WriteRequest,
    pub reply: Reply<WriteOutcome>,
    outcome: WriteOutcome,
}

impl Statement {
    /// Who waits for the epoch, and what it will be told.
    pub fn into_waiter(self) -> (Reply<WriteOutcome>, WriteOutcome) {
        (self.reply, self.outcome)
    }
}

impl Work {
    /// An epoch at `now_us`, or at `before_us`, the time of the one before, if the clock was set back.
    pub fn new(epoch: u64, now_us: i64, before_us: i64, rows_max: usize) -> Self {
        Self { epoch, now_us: now_us.max(before_us), before_us, rows_max, ..Self::default() }
    }

    /// What an epoch takes of a source, as its views see it, and what could not be read.
    fn take(&mut self, source: &Source, taken: Taken) -> (Changes, Vec<DeadLetter>) {
        self.dirty |= taken.changed;
        self.rows_in += taken.rows;
        self.arrived = match (self.arrived, taken.arrived) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let changes = Changes {
            deltas: taken.deltas,
            watermarks: source.watermarks(self.before_us, self.now_us),
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
impl EpochLoop {
    /// Applies a session's write to the open epoch, refuses it, or leaves it for the next one.
    pub(super) fn write(&mut self, request: WriteRequest, reply: Reply<WriteOutcome>, work: &mut Work) -> Result<()> {
        let limit = self.intake.limits().write_set_limit_bytes;
        let bytes = request.bytes();
        if bytes > limit {
            let _ = reply.send(Err(over_limit(limit)));
            return Ok(());
        }
        if !work.statements.is_empty() && self.state.bytes() + bytes > limit / 2 {
            self.later(Command::Write(request, reply));
            return Ok(());
        }
        let applied = self.check_records(&request.records).and_then(|()| self.apply_all(&request.writes, work));
        match applied {
            Ok(inserted) => {
                self.put_records(&request.records);
                let outcome = WriteOutcome { epoch: work.epoch, inserted };
                work.statements.push(Statement { request, reply, outcome });
                work.dirty = true;
                work.sync = true;
                self.check_size()
            }
            Err(e) => {
                let store = super::pipeline::is_store_failure(&e).then(|| e.clone());
                let _ = reply.send(Err(e));
                store.map_or(Ok(()), Err)
            }
        }
    }

    /// Whether the open epoch's writes are within bounds.
    fn check_size(&self) -> Result<()> {
        let limit = self.intake.limits().write_set_limit_bytes;
        if self.state.bytes() > limit { Err(over_limit(limit)) } else { Ok(()) }
    }

    /// Applies writes in order, all or none.
    pub(super) fn apply_all(&mut self, writes: &[TableWrite], work: &mut Work) -> Result<Vec<Option<RecordBatch>>> {
        self.apply_and_build(writes, &[], work)
    }

    /// The same, and makes new indexes of what is there then: all or none of both.
    pub(super) fn apply_and_build(
        &mut self,
        writes: &[TableWrite],
        indexes: &[ObjectId],
        work: &mut Work,
    ) -> Result<Vec<Option<RecordBatch>>> {
        if let [TableWrite { table, inserts: Some(rows), .. }] = writes
            && self.sources.contains_key(table)
        {
            self.build_indexes(indexes)?;
            return Ok(vec![Some(self.insert_into_source(*table, rows, work)?)]);
        }
        // What is appended to segments cannot be undone, and does not fail for what the others fail for: it comes last.
        let appends = |i: &usize| self.tables.get(&writes[*i].table).is_some_and(Table::is_append_only);
        let (last, first): (Vec<usize>, Vec<usize>) = (0..writes.len()).partition(appends);
        let mut done: BTreeMap<usize, (ObjectId, Applied)> = BTreeMap::new();
        // Indexes are made before what cannot be undone.
        let steps = first.into_iter().map(Some).chain([None]).chain(last.into_iter().map(Some));
        for step in steps {
            let result = match step.map(|i| (i, &writes[i])) {
                None => self.build_indexes(indexes).map(|()| None),
                Some((i, write)) => match self.tables.get_mut(&write.table) {
                    Some(table) => table.apply(write, &mut self.state).map(|applied| Some((i, write.table, applied))),
                    None => Err(Error::new(
                        sqlstate::UNDEFINED_TABLE,
                        format!("table with OID {} does not exist any more", write.table),
                    )),
                },
            };
            match result {
                Ok(None) => {}
                Ok(Some((i, table, applied))) => drop(done.insert(i, (table, applied))),
                Err(e) => {
                    for (_, (id, applied)) in done.into_iter().rev() {
                        if let Some(table) = self.tables.get_mut(&id) {
                            table.undo(applied, &mut self.state)?;
                        }
                    }
                    return Err(e);
                }
            }
        }
        let mut inserted = Vec::new();
        for (id, applied) in done.into_values() {
            work.rows_written += total_rows(&applied.deltas);
            work.changes.entry(id).or_default().deltas.extend(applied.deltas.iter().cloned());
            work.tables.insert(id);
            work.changed.push(id);
            inserted.push(applied.inserted);
        }
        Ok(inserted)
    }

    /// Takes what the readers have, each of those that have something its share.
    pub(super) fn take_sources(&mut self, work: &mut Work) -> Result<()> {
        let mut dead_letters: Vec<(ObjectId, Vec<DeadLetter>)> = Vec::new();
        let held: BTreeSet<ObjectId> = self.sources.keys().copied().filter(|id| self.is_held(*id)).collect();
        let shared = self.sources.iter().filter(|(id, s)| s.has_input() && !held.contains(id)).count();
        let own = self.catch_ups.values().filter(|c| c.source.has_input()).count();
        let mut share = Share { rows: work.rows_max, bytes: self.intake.limits().bytes, readers: shared + own };
        for (id, source) in &mut self.sources {
            let (rows, bytes) = if held.contains(id) { (0, 0) } else { share.of(source) };
            let mut taken = source.take(rows, bytes, work.now_us, &self.stats)?;
            share.used(&taken);
            if taken.changed {
                work.sources.insert(*id);
            }
            let upserts = std::mem::take(&mut taken.upserts);
            let (mut changes, dead) = work.take(source, taken);
            if let (false, Some(table)) = (upserts.is_empty(), self.tables.get_mut(id)) {
                changes.deltas = table.upsert(&upserts, &mut self.state)?;
                changes.decoded = None;
                work.tables.insert(*id);
                work.changed.push(*id);
            }
            work.changes.insert(*id, changes);
            if !dead.is_empty() {
                dead_letters.push((*id, dead));
            }
        }
        for (key, catch_up) in &mut self.catch_ups {
            let (rows, bytes) = share.of(&catch_up.source);
            let mut pipeline = self.pipelines.get_mut(&key.0);
            let allowed = match (catch_up.holds, &mut pipeline) {
                // Others wait for it.
                (true, _) | (_, None) => usize::MAX,
                (false, Some(pipeline)) => pipeline.backfill_allowed(Instant::now()),
            };
            let taken = catch_up.source.take(rows.min(allowed), bytes, work.now_us, &self.stats)?;
            if let Some(throttle) = pipeline.and_then(|p| p.throttle.as_mut()) {
                throttle.took(taken.rows);
            }
            share.used(&taken);
            catch_up.rows_done += taken.rows as u64;
            // What cannot be read was recorded when the shared reader met it.
            let (changes, _) = work.take(&catch_up.source, taken);
            work.own_changes.insert(*key, changes);
        }
        for (id, dead) in dead_letters {
            let Some(source) = self.sources.get(&id) else { continue };
            let rows = system::dead_letter_rows(id, &source.name, source.topic(), work.epoch, &dead)?;
            system::dead_letters()?.apply(&mut self.state, &rows, None)?;
            self.retention.came(&mut self.state, work.epoch, work.now_us);
        }
        Ok(())
    }

    /// Runs the epoch through all views and sinks.
    pub(super) fn run_pipelines(&mut self, work: &mut Work) -> Result<()> {
        let epoch = work.epoch;
        // A keyed source has told its own.
        for (id, table) in self.tables.iter().filter(|(id, _)| !self.sources.contains_key(id)) {
            work.changes.entry(*id).or_default().watermarks = table.watermarks();
        }
        let backfills: usize = self.pipelines.values().map(Pipeline::scans_backfilling).sum();
        let limits = RunLimits {
            backfill_rows: (work.rows_max / 2 / backfills.max(1)).max(1),
            held_bytes: self.intake.limits().write_set_limit_bytes,
        };
        let ids: Vec<ObjectId> = self.pipelines.keys().copied().collect();
        for id in ids {
            let Some(mut pipeline) = self.pipelines.remove(&id) else { continue };
            work.running = Some(id);
            let upstream = Inputs {
                view: id,
                own_changes: &work.own_changes,
                changes: &work.changes,
                tables: &self.tables,
                pipelines: &self.pipelines,
            };
            let failed_input = pipeline.reads().find_map(|scan| self.failure_of(scan.object));
            let failure = match (failed_input, self.condemned.get(&id)) {
                (Some(name), _) => {
                    let message = format!("it reads \"{name}\", which has failed");
                    Some(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
                }
                (None, condemned) => condemned.cloned(),
            };
            let ran = match failure {
                Some(failure) if pipeline.counters.failed.is_none() => pipeline.fail(epoch, &mut self.state, failure),
                _ => pipeline.run(epoch, work.now_us, &mut self.state, &upstream, &limits),
            };
            self.pipelines.insert(id, pipeline);
            let ran = ran?;
            self.check_size()?;
            work.rows_in += ran.backfilled;
            work.rows_out += total_rows(&ran.changes.deltas);
            if ran.kept_late {
                self.retention.came(&mut self.state, epoch, work.now_us);
            }
            if ran.changed {
                work.dirty = true;
                work.changed.push(id);
                self.report_view(id, epoch);
            }
            if let (false, Some(Pipeline { target: Target::Sink(outbox), .. })) =
                (ran.changes.deltas.is_empty(), self.pipelines.get(&id))
            {
                work.bells.push(outbox.bell());
            }
            work.changes.insert(id, ran.changes);
        }
        work.running = None;
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
}

/// What of the epoch's intake is left for how many readers.
struct Share {
    rows: usize,
    bytes: usize,
    readers: usize,
}

impl Share {
    /// The next reader's part, which is nothing for one that has nothing. None goes away empty, or the last would starve.
    fn of(&mut self, source: &Source) -> (usize, usize) {
        if !source.has_input() || self.readers == 0 {
            return (0, 0);
        }
        let part = (self.rows.div_ceil(self.readers).max(1), self.bytes.div_ceil(self.readers).max(1));
        self.readers -= 1;
        part
    }

    fn used(&mut self, taken: &Taken) {
        self.rows = self.rows.saturating_sub(taken.rows);
        self.bytes = self.bytes.saturating_sub(taken.bytes);
    }
}

/// The refusal of what is too large for one epoch.
pub(super) fn over_limit(limit_bytes: usize) -> Error {
    Error::new(
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        format!("the changes of one epoch take more than {} MiB", limit_bytes >> 20),
    )
    .with_hint("change fewer rows at a time, or raise state.write_set_limit_bytes")
}
