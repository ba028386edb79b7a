//! The rows of `millstream.tasks` and `millstream.task_runs`.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use millstream_catalog::{Object, ObjectId, jsonb};
use serde::Serialize;

use super::run::{Run, RunState, open_runs, runs};
use super::state::TaskState;
use super::{calendar_of, task_of};
use crate::error::Result;
use crate::session::inside::{Inside, Row, int, optional_text, text, timestamptz};

/// A time that may be missing.
pub(in crate::session) fn optional_time(us: Option<i64>) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(us, Some("UTC".into()))
}

/// A value as jsonb.
fn document(value: &impl Serialize) -> ScalarValue {
    let text = serde_json::to_string(value).ok().and_then(|text| jsonb::canonical(&text).ok());
    ScalarValue::Utf8View(text)
}

/// The statements of a task or run as one text, secrets masked.
pub(in crate::session) fn statements_text(statements: &[String]) -> String {
    statements.iter().map(|s| millstream_sql::masked(s)).collect::<Vec<_>>().join(";\n")
}

impl Inside {
    pub(in crate::session) fn tasks(&self) -> Result<Vec<Row>> {
        let now_us = self.database.tasks.clock.now_us();
        let mut out = Vec::new();
        for object in self.published.catalog.objects() {
            let Some(task) = task_of(object).filter(|_| self.sees_work_of(&object.owner)) else { continue };
            let state = TaskState::read(&self.published.snapshot, object.id)?.unwrap_or_default();
            let open = open_runs(&self.published.snapshot, object.id)?;
            let is_running = open.iter().any(|run| run.state == RunState::Running);
            let queued = open.iter().filter(|run| run.state == RunState::Queued).count();
            let stands = match (object.suspended, is_running, queued) {
                (_, true, _) => "running",
                (false, false, 1..) => "queued",
                (true, false, _) => "suspended",
                (false, false, 0) if task.schedule.is_some() || !task.after.is_empty() => "waiting",
                (false, false, 0) => "idle",
            };
            let next_us = match calendar_of(task)? {
                Some(calendar) if !object.suspended => calendar.next_after(now_us.max(state.cursor_us)),
                _ => None,
            };
            let mut row = Row::from_iter(self.name_of(object));
            row.extend([
                ("id", ScalarValue::UInt32(Some(object.id.0))),
                ("owner", text(&object.owner)),
                ("schedule", optional_text(task.schedule.as_ref().map(|s| s.text()).as_deref())),
                ("time_zone", text(task.zone())),
                ("after", optional_text(self.names_of(&task.after).as_deref())),
                ("state", text(stands)),
                ("next_run", optional_time(next_us)),
                ("last_run", optional_time(state.last.as_ref().map(|last| last.scheduled_us))),
                ("last_state", optional_text(state.last.as_ref().map(|last| last.state.name()))),
                ("last_ended_at", optional_time(state.last.as_ref().map(|last| last.ended_us))),
                ("last_error", optional_text(state.last.as_ref().and_then(|last| last.error.as_deref()))),
                ("last_success", optional_time(state.last_success.map(|(scheduled_us, _)| scheduled_us))),
                ("failures_in_a_row", int(i64::from(state.failures))),
                ("queued", int(queued as i64)),
                ("suspended_because", optional_text(state.suspended_because.as_deref().filter(|_| object.suspended))),
                ("definition", text(&statements_text(&task.statements))),
            ]);
            out.push(row);
        }
        Ok(out)
    }

    /// The names of tasks, with commas between them.
    fn names_of(&self, tasks: &[ObjectId]) -> Option<String> {
        let catalog = &self.published.catalog;
        let name = |o: &Object| format!("{}.{}", catalog.schema_name(o), o.name);
        let names: Vec<String> = tasks.iter().filter_map(|id| catalog.get(*id)).map(|o| name(o)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    pub(in crate::session) fn task_runs(&self) -> Result<Vec<Row>> {
        let mut out = Vec::new();
        let seen = |o: &&Arc<Object>| task_of(o).is_some() && self.sees_work_of(&o.owner);
        for object in self.published.catalog.objects().filter(seen) {
            for run in runs(&self.published.snapshot, object.id) {
                out.push(self.task_run(object, &run?));
            }
        }
        Ok(out)
    }

    fn task_run(&self, object: &Object, run: &Run) -> Row {
        let [schema, (_, name)] = self.name_of(object);
        let error = run.error.as_ref();
        Row::from_iter([
            schema,
            ("task", name),
            ("run", int(run.id as i64)),
            ("scheduled_at", timestamptz(run.scheduled_us)),
            ("attempt", ScalarValue::Int32(i32::try_from(run.attempt).ok())),
            ("state", text(run.state.name())),
            ("triggered_by", text(run.trigger.name())),
            ("queued_at", timestamptz(run.queued_us)),
            ("started_at", optional_time(run.started_us)),
            ("ended_at", optional_time(run.ended_us)),
            ("rows", if run.started_us.is_some() { int(run.rows as i64) } else { ScalarValue::Int64(None) }),
            ("sqlstate", optional_text(error.and_then(|e| e.sqlstate.as_deref()))),
            ("error", optional_text(error.map(|e| e.message.as_str()))),
            ("hint", optional_text(error.and_then(|e| e.hint.as_deref()))),
            ("statements", text(&statements_text(&run.statements))),
            ("parameters", document(&run.parameters)),
            ("epoch", ScalarValue::Int64(run.inputs.as_ref().and_then(|i| i.epoch).map(|epoch| epoch as i64))),
            ("inputs", run.inputs.as_ref().map_or(ScalarValue::Utf8View(None), document)),
            ("repeats", ScalarValue::Int64(run.repeats.map(|id| id as i64))),
            ("user", text(&run.user)),
        ])
    }
}
