//! What ALTER changes of what runs: what runs follows the catalog, also when an epoch is taken back.
//!
//! A suspended source has no reader and keeps its positions. A suspended view takes nothing: for each of its sources it gets
//! a position of its own, where the shared reader stands at that moment, and when it is resumed it comes to where the others
//! are as a new view does ([`super::catch_up`]). Changes of tables and views are kept nowhere, so a view that reads one
//! cannot stand still without missing some: that is refused.

use millstream_catalog::{Catalog, Change, Object, ObjectId, ObjectKind};
use millstream_connectors::{LateRows, Reset};

use super::catch_up::CatchUp;
use super::epoch::EpochLoop;
use super::objects::{LATE_ROWS, LATE_ROWS_KEEP};
use super::pipeline::{Pipeline, Target};
use super::work::Work;
use crate::error::{Error, Result, sqlstate};

impl EpochLoop {
    /// Refuses to let a view stand still that would miss something by it.
    ///
    /// # Errors
    /// 0A000 for a view that reads what stores rows, 55000 for one that is not as far yet or has failed.
    pub(super) fn check_suspended(&self, catalog: &Catalog, changes: &[Change]) -> Result<()> {
        let put = changes.iter().filter_map(|change| match change {
            Change::Put(object) => Some(object),
            Change::Drop(_) => None,
        });
        for object in put.filter(|o| o.suspended) {
            let pipeline = self.pipelines.get(&object.id).filter(|p| !p.suspended);
            let Some(pipeline) = pipeline.filter(|p| matches!(p.target, Target::View(_))) else { continue };
            let refused = |reason: &str, hint: &str| {
                let message = format!("{} cannot be suspended: {reason}", object.describe());
                Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_hint(hint))
            };
            if pipeline.counters.failed.is_some() {
                return refused("it has failed", "drop it and create it again");
            }
            for scan in pipeline.reads() {
                // A keyed source is a table to its views.
                if let Some(source) = self.sources.get(&scan.object).filter(|s| !s.is_keyed()) {
                    let has_own = self.catch_ups.contains_key(&(object.id, scan.object));
                    if source.positions().is_empty() && !has_own {
                        let reason = format!("source \"{}\" was not reached yet", source.name);
                        return refused(&reason, "suspend the source, or try again when it is read");
                    }
                    continue;
                }
                match catalog.get(scan.object) {
                    Some(read) if matches!(read.kind, ObjectKind::Snapshot(_)) => {}
                    read => return Err(would_miss(object, read.map(AsRef::as_ref))),
                }
            }
            if pipeline.is_backfilling() {
                return refused("it still reads stored rows", "wait until it is built, see SHOW JOBS");
            }
        }
        Ok(())
    }

    /// Makes everything that runs as the catalog says that it is: its name, its options, and whether it stands still.
    ///
    /// # Errors
    /// 22023 if a client library refuses the options of a source.
    pub(super) fn follow_catalog(&mut self, epoch: u64) -> Result<()> {
        let named = |id: &ObjectId, name: &mut String| {
            if let Some(object) = self.catalog.get(*id).filter(|o| o.name != *name) {
                name.clone_from(&object.name);
            }
        };
        self.pipelines.iter_mut().for_each(|(id, p)| named(id, &mut p.name));
        self.tables.iter_mut().for_each(|(id, t)| named(id, &mut t.name));
        for (id, source) in &mut self.sources {
            if let Some(object) = self.catalog.get(*id) {
                source.follow(object, false, &self.doorbell)?;
            }
        }
        let views: Vec<ObjectId> = self.pipelines.keys().copied().collect();
        for view in views {
            let Some(object) = self.catalog.get(view).cloned() else { continue };
            let keeps_late = self.keeps_late_rows(&object);
            let Some(pipeline) = self.pipelines.get_mut(&view) else { continue };
            pipeline.keep_late_rows(keeps_late)?;
            let is_view = matches!(pipeline.target, Target::View(_));
            if is_view && pipeline.suspended != object.suspended {
                self.stand_still(view, object.suspended)?;
                self.report_view(view, epoch);
            }
        }
        self.follow_indexes(&[])?;
        for ((view, source), catch_up) in &mut self.catch_ups {
            let stands = self.pipelines.get(view).is_some_and(|p| p.suspended);
            catch_up.holds &= !stands;
            if let Some(object) = self.catalog.get(*source) {
                catch_up.source.follow(object, stands, &self.doorbell)?;
            }
        }
        Ok(())
    }

    /// Stops a view where it is, or lets it go on from there.
    fn stand_still(&mut self, view: ObjectId, suspended: bool) -> Result<()> {
        let was_complete = self.pipelines.get(&view).is_some_and(|p| !self.is_incomplete(p));
        if let Some(pipeline) = self.pipelines.get_mut(&view) {
            pipeline.stand_still(suspended, was_complete);
        }
        if !suspended {
            return Ok(());
        }
        for (source, columns) in self.columns_by_source(view) {
            let Some(shared) = self.sources.get(&source) else { continue };
            if !self.catch_ups.contains_key(&(view, source)) {
                let mut own = shared.for_standing_view(view);
                own.read_columns(&columns, &self.doorbell)?;
                self.catch_ups.insert((view, source), CatchUp::new(own));
            }
        }
        Ok(())
    }

    /// Whether rows that are late for a view are kept: as its option says, or else as one of its sources does.
    pub(super) fn keeps_late_rows(&self, object: &Object) -> bool {
        let ObjectKind::MaterializedView(view) = &object.kind else { return false };
        match view.options.get(LATE_ROWS) {
            Some(option) => option == LATE_ROWS_KEEP,
            None => {
                self.pipelines.get(&object.id).into_iter().flat_map(Pipeline::reads).any(|scan| {
                    self.sources.get(&scan.object).is_some_and(|source| source.late_rows() == LateRows::Keep)
                })
            }
        }
    }

    /// Lets a source go on elsewhere where its positions are gone.
    ///
    /// # Errors
    /// 55000 if no view reads it, or one is on its way to where the others are: that way would be lost.
    pub(super) fn reset_source(&mut self, id: ObjectId, to: Reset, work: &mut Work) -> Result<()> {
        let on_their_way = self.catch_ups.keys().filter(|(_, source)| *source == id);
        let views: Vec<&str> =
            on_their_way.filter_map(|(view, _)| self.pipelines.get(view)).map(|p| p.name.as_str()).collect();
        let views = views.join("\", \"");
        let Some(source) = self.sources.get_mut(&id) else {
            return Err(Error::internal(format!("source {id} does not run")));
        };
        let refused = |reason: String, hint: &str| {
            let message = format!("source \"{}\" cannot go on elsewhere: {reason}", source.name);
            Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_hint(hint))
        };
        if !source.is_read() {
            return refused(
                "no view reads it, so it has no position".to_string(),
                "scan.startup.mode says where it starts",
            );
        }
        if !views.is_empty() {
            return refused(
                format!("\"{views}\" still has to read what is before its position"),
                "wait until it has, or drop it",
            );
        }
        source.reset(to, &self.doorbell)?;
        work.sources.insert(id);
        Ok(())
    }
}

/// The refusal of a view that reads what stores rows.
fn would_miss(view: &Object, read: Option<&Object>) -> Error {
    let read = read.map_or("a relation".to_string(), Object::describe);
    Error::unsupported(format!("{} cannot be suspended: it would miss changes of {read}", view.describe()))
        .with_hint("views that read sources alone can be suspended; or suspend the source that the rows come from")
}
