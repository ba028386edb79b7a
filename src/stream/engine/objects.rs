//! What runs for the objects of the catalog: started by DDL or at start, and ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_catalog::{Catalog, Draft, Object, ObjectId, ObjectKind};

use super::catch_up::CatchUp;
use super::epoch::EpochLoop;
use super::handle::{CancelJob, Change, DdlRequest, DdlStep, NewObject, TableWrite};
use super::outbox::Outbox;
use super::pipeline::{Pipeline, Target};
use super::source::{self, Source};
use super::system::{self, DdlEntry};
use super::table::Table;
use super::throttle::Throttle;
use super::work::{Work, over_limit};
use crate::error::{Error, Result, sqlstate};
use crate::state::{Relation, Snapshot, TableId};
use crate::stream::columns_read::ColumnsRead;
use crate::stream::plan::{PlannedView, part};

/// Option of a view, and its value that keeps late rows.
pub const LATE_ROWS: &str = "late_rows";
pub const LATE_ROWS_KEEP: &str = "keep";
/// Option of a view: rows a second that it takes of what was there before it.
pub const BACKFILL_RATE_LIMIT: &str = "backfill_rate_limit";
/// Option of a view or sink: how long its operators keep what is not written again.
pub const STATE_TTL: &str = "state_ttl";

/// What ran for an object that was dropped.
pub(super) struct Retired {
    pub id: ObjectId,
    /// The epoch of the drop.
    pub epoch: u64,
    pub source: Option<Source>,
    pub table: Option<Table>,
    pub pipeline: Option<Pipeline>,
}

impl EpochLoop {
    /// Applies a DDL statement to the open epoch. Returns the views and sinks that it makes.
    pub(super) fn ddl(&mut self, request: DdlRequest, work: &mut Work) -> Result<Vec<ObjectId>> {
        if request.base_version != self.catalog.version() {
            return Err(Error::new(
                sqlstate::SERIALIZATION_FAILURE,
                "could not serialize access to the catalog due to a concurrent statement",
            )
            .with_hint("run the statement again"));
        }
        let limit = self.intake.limits().write_set_limit_bytes;
        if request.writes.iter().map(TableWrite::bytes).sum::<usize>() > limit {
            return Err(over_limit(limit));
        }
        self.check_suspended(&request.catalog, &request.changes)?;
        self.check_records(&request.records)?;
        let DdlRequest { catalog, changes, new, writes, steps, user, reset, records, .. } = request;
        let entries = self.history_entries(&catalog, &steps, &user);
        let history = system::ddl_entries(work.epoch, work.now_us, &entries)?;
        let ids: Vec<ObjectId> = new.iter().map(NewObject::id).collect();
        let before = std::mem::replace(&mut self.catalog, Arc::new(catalog));
        let started = self.start_new(new, &writes, work).and_then(|()| self.follow_catalog(work.epoch));
        let started = started.and_then(|()| match reset {
            Some((source, to)) => self.reset_source(source, to, work),
            None => Ok(()),
        });
        if let Err(e) = started {
            self.catalog = before;
            self.follow_catalog(work.epoch)?;
            for id in &ids {
                drop(self.retire(*id, work.epoch)?);
                self.state.discard(id.0);
            }
            return Err(e);
        }
        system::put_catalog(&mut self.state, &self.catalog, &changes);
        self.put_records(&records);
        system::ddl_history()?.apply(&mut self.state, &history, None)?;
        for change in &changes {
            if let Change::Drop(id) = change {
                let retired = self.retire(*id, work.epoch)?;
                self.retired.push(retired);
            }
        }
        self.stop_unread_sources()?;
        work.dirty = true;
        work.sync = true;
        Ok(ids.into_iter().filter(|id| self.pipelines.contains_key(id)).collect())
    }

    /// Drops a view that is being built, with all that reads it.
    pub(super) fn cancel_job(&mut self, job: CancelJob, work: &mut Work) -> Result<()> {
        let job_of = self.pipelines.get(&job.view).filter(|p| self.is_incomplete(p));
        if job_of.is_some_and(|p| p.counters.built) {
            return Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("job {} reads what came while its view was suspended, and cannot be given up", job.view),
            )
            .with_hint("ALTER MATERIALIZED VIEW ... SUSPEND stops it for now, DROP MATERIALIZED VIEW for good"));
        }
        if job_of.is_none() {
            return Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("job {} does not exist", job.view))
                .with_hint("SHOW JOBS lists those that run"));
        }
        let mut draft = Draft::new(&self.catalog);
        draft.drop(&[job.view], true)?;
        let base_version = draft.base_version();
        let steps = vec![DdlStep { statement: job.statement, changes: draft.changes().to_vec() }];
        let (catalog, changes) = draft.finish();
        let request = DdlRequest { base_version, catalog, changes, steps, user: job.user, ..DdlRequest::default() };
        self.ddl(request, work).map(drop)
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
            // It is a part of its reader, which has an entry of its own.
            if object.is_some_and(|o| matches!(o.kind, ObjectKind::Snapshot(_))) {
                continue;
            }
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
                old_definition: old.as_ref().map(|o| millstream_sql::current_definition(o, &self.catalog)),
                new_definition: new.as_ref().map(|o| millstream_sql::current_definition(o, catalog)),
            });
        }
        entries
    }

    fn start_new(&mut self, new: Vec<NewObject>, writes: &[TableWrite], work: &mut Work) -> Result<()> {
        let ids: Vec<ObjectId> = new.iter().map(NewObject::id).collect();
        let indexes: Vec<ObjectId> =
            new.iter().filter(|o| matches!(o, NewObject::Index { .. })).map(NewObject::id).collect();
        for object in new {
            self.add(object)?;
        }
        // Of one that is dropped with this nothing is kept or refused any more.
        self.follow_indexes(&indexes)?;
        for id in ids {
            if let Some(pipeline) = self.pipelines.get_mut(&id) {
                pipeline.counters.made_us = work.now_us;
            }
            self.begin_catch_ups(id)?;
            work.first_reads.extend(self.columns_by_source(id).into_keys().map(|source| (id, source)));
        }
        self.start_readers()?;
        self.start_sinks(work.epoch)?;
        self.apply_and_build(writes, &indexes, work)?;
        Ok(())
    }

    /// Makes what runs for an object.
    pub(super) fn add(&mut self, object: NewObject) -> Result<()> {
        let id = object.id();
        let record = self
            .catalog
            .get(id)
            .cloned()
            .ok_or_else(|| Error::internal(format!("object {id} is not in the catalog")))?;
        match object {
            NewObject::Source { spec, watermark, generated, .. } => {
                let group = format!("millstream-{}-{id}", self.store.identity());
                let source = Source::new(&record, *spec, group, watermark, generated);
                if source.is_keyed() {
                    self.tables.insert(id, Table::new(&record, None)?);
                }
                self.sources.insert(id, source);
            }
            NewObject::Index { .. } => {}
            NewObject::Table { watermark, .. } => {
                self.tables.insert(id, Table::new(&record, watermark)?);
            }
            NewObject::View { plan, .. } => {
                let table = TableId { object: id.0, part: part::ROWS };
                let relation = Relation::new(table, record.arrow_schema(), plan.layout())?;
                let target = Target::View(Arc::new(relation));
                self.add_pipeline(&record, *plan, target)?;
                let keeps_late = self.keeps_late_rows(&record);
                if let ObjectKind::MaterializedView(view) = &record.kind
                    && let Some(pipeline) = self.pipelines.get_mut(&id)
                {
                    pipeline.keep_late_rows(keeps_late)?;
                    pipeline.suspended = record.suspended;
                    let rate = view.options.get(BACKFILL_RATE_LIMIT).and_then(|rate| rate.parse().ok());
                    pipeline.throttle = rate.map(Throttle::new);
                }
            }
            NewObject::Sink { plan, spec, .. } => {
                let ObjectKind::Sink(sink) = &record.kind else {
                    return Err(Error::internal(format!("{} is no sink", record.describe())));
                };
                let outbox = Outbox::new(id, *spec, &record.arrow_schema(), sink.key.clone())?;
                self.add_pipeline(&record, *plan, Target::Sink(Box::new(outbox)))?;
            }
        }
        Ok(())
    }

    fn add_pipeline(&mut self, record: &Object, plan: PlannedView, target: Target) -> Result<()> {
        let stored = |id: ObjectId| self.sources.get(&id).is_none_or(Source::is_keyed);
        let pipeline = Pipeline::new(record.id, record.name.clone(), plan, target, &stored)?;
        self.stats.update_view(record.id, |v| v.activity = Some(pipeline.activity.clone()));
        self.pipelines.insert(record.id, pipeline);
        Ok(())
    }

    /// Ends what runs for an object, and takes it out of the loop.
    pub(super) fn retire(&mut self, id: ObjectId, epoch: u64) -> Result<Retired> {
        let mut source = self.sources.remove(&id);
        if let Some(source) = &mut source {
            source.stop(&mut self.state)?;
        }
        self.catch_ups.retain(|(view, source), _| *view != id && *source != id);
        let table = self.tables.remove(&id);
        let mut pipeline = self.pipelines.remove(&id);
        if let Some(Pipeline { target: Target::Sink(outbox), .. }) = &mut pipeline {
            outbox.stop();
        }
        self.condemned.remove(&id);
        self.stats.forget(id);
        self.history.forget(id);
        Ok(Retired { id, epoch, source, table, pipeline })
    }

    /// Reads every source that a view needs, with the columns that its views need together, and every keyed one.
    pub(super) fn start_readers(&mut self) -> Result<()> {
        let mut wanted: BTreeMap<ObjectId, ColumnsRead> = BTreeMap::new();
        for scan in self.pipelines.values().flat_map(Pipeline::reads) {
            wanted.entry(scan.object).or_default().extend(&scan.columns_read());
        }
        for (id, source) in &mut self.sources {
            match wanted.get(id) {
                _ if source.is_keyed() => source.read_all(&self.doorbell)?,
                Some(columns) => source.read_columns(columns, &self.doorbell)?,
                None => {}
            }
        }
        Ok(())
    }

    /// A new view over sources that others are reading reads their history on its own first.
    fn begin_catch_ups(&mut self, view: ObjectId) -> Result<()> {
        for (source, columns) in self.columns_by_source(view) {
            if let Some(shared) = self.sources.get(&source).filter(|s| s.has_history()) {
                if shared.is_suspended() {
                    return Err(Error::new(
                        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                        format!("source \"{}\" is suspended, so a new view cannot read what came before", shared.name),
                    )
                    .with_hint("ALTER SOURCE ... RESUME first"));
                }
                let mut own = shared.for_view(view);
                own.read_columns(&columns, &self.doorbell)?;
                self.catch_ups.insert((view, source), CatchUp::new(own));
            }
        }
        Ok(())
    }

    /// Goes on with the views that were catching up in the last committed epoch.
    pub(super) fn recover_catch_ups(&mut self, snapshot: &Arc<Snapshot>) -> Result<()> {
        self.catch_ups.clear();
        let views: Vec<ObjectId> = self.pipelines.keys().copied().collect();
        for view in views {
            for (source, columns) in self.columns_by_source(view) {
                let Some(shared) = self.sources.get(&source) else { continue };
                if source::catches_up(snapshot, view, source)? {
                    let stands = self.pipelines.get(&view).is_some_and(|p| p.suspended);
                    let mut own = if stands { shared.for_standing_view(view) } else { shared.for_view(view) };
                    own.recover(snapshot)?;
                    own.read_columns(&columns, &self.doorbell)?;
                    self.catch_ups.insert((view, source), CatchUp::new(own));
                }
            }
        }
        Ok(())
    }

    /// The sources that a view reads, with the columns that it needs of each.
    pub(super) fn columns_by_source(&self, view: ObjectId) -> BTreeMap<ObjectId, ColumnsRead> {
        let mut columns: BTreeMap<ObjectId, ColumnsRead> = BTreeMap::new();
        for scan in self.pipelines.get(&view).into_iter().flat_map(Pipeline::reads) {
            if self.sources.get(&scan.object).is_some_and(|source| !source.is_keyed()) {
                columns.entry(scan.object).or_default().extend(&scan.columns_read());
            }
        }
        columns
    }

    /// Views that have come to where the shared readers are take from those with the next epoch.
    pub(super) fn advance_catch_ups(&mut self, work: &mut Work) -> Result<()> {
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
                self.report_view(key.0, work.epoch);
            }
        }
        Ok(())
    }

    fn stop_unread_sources(&mut self) -> Result<()> {
        let read: BTreeSet<ObjectId> = self.pipelines.values().flat_map(Pipeline::reads).map(|s| s.object).collect();
        for (id, source) in &mut self.sources {
            if source.is_read() && !source.is_keyed() && !read.contains(id) {
                source.stop(&mut self.state)?;
            }
        }
        Ok(())
    }

    /// Answers DDL statements whose views are complete with this epoch, are gone, or have failed. A view that fails while
    /// it is being built is dropped; if this is the epoch that makes it, none of its statement's effects may stay.
    ///
    /// # Errors
    /// The failure of a view that the epoch makes; [`Work::without`] is then its statement.
    pub(super) fn finish_ddl(&mut self, work: &mut Work) -> Result<()> {
        for (ids, reply) in std::mem::take(&mut work.made) {
            if let Some(failed) = self.first_failed(&ids) {
                work.without = Some((ids, reply));
                return Err(failed);
            }
            match ids.iter().filter_map(|id| self.pipelines.get(id)).any(|p| self.is_incomplete(p)) {
                true => self.ddl_waiting.push((ids, reply)),
                false => work.waiters.ddl.push(reply),
            }
        }
        for (ids, reply) in std::mem::take(&mut self.ddl_waiting) {
            let pipelines: Option<Vec<&Pipeline>> = ids.iter().map(|id| self.pipelines.get(id)).collect();
            let Some(pipelines) = pipelines else {
                let gone = Error::new(sqlstate::QUERY_CANCELED, "the view was dropped while it was being built");
                let _ = reply.send(Err(gone));
                continue;
            };
            if let Some(failed) = self.first_failed(&ids) {
                self.drop_failed(&ids, work)?;
                work.waiters.refused.push((reply, failed));
            } else if pipelines.iter().any(|p| self.is_incomplete(p)) {
                self.ddl_waiting.push((ids, reply));
            } else {
                work.waiters.ddl.push(reply);
            }
        }
        Ok(())
    }

    /// Why one of these views cannot be built.
    fn first_failed(&self, ids: &[ObjectId]) -> Option<Error> {
        let pipelines = ids.iter().filter_map(|id| self.pipelines.get(id));
        let (pipeline, failure) = pipelines.filter_map(|p| Some((p, p.failure.as_ref()?))).next()?;
        let kind = match pipeline.target {
            Target::View(_) => "materialized view",
            Target::Sink(_) => "sink",
        };
        let message = format!("{kind} \"{}\" cannot be built: {}", pipeline.name, failure.message());
        Some(Error::new(failure.sqlstate(), message).with_hint("nothing of it was kept"))
    }

    /// Drops those of some views that have failed, with all that reads them.
    fn drop_failed(&mut self, ids: &[ObjectId], work: &mut Work) -> Result<()> {
        let is_failed = |id: &&ObjectId| self.pipelines.get(id).is_some_and(|p| p.counters.failed.is_some());
        let failed: Vec<ObjectId> = ids.iter().filter(is_failed).copied().collect();
        let mut draft = Draft::new(&self.catalog);
        draft.drop(&failed, true)?;
        let base_version = draft.base_version();
        let statement = "a view that failed while it was being built".to_string();
        let steps = vec![DdlStep { statement, changes: draft.changes().to_vec() }];
        let (catalog, changes) = draft.finish();
        let user = "millstream".to_string();
        self.ddl(DdlRequest { base_version, catalog, changes, steps, user, ..DdlRequest::default() }, work).map(drop)
    }
}
