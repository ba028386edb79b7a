//! pg_cron's functions and tables, on top of tasks.
//!
//! A job is a task of the session's first schema, its id the task's OID. It goes by pg_cron's rules: what was missed is not
//! made up for, and what comes while a run is not over waits for it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use millstream_catalog::object::Schedule;
use millstream_catalog::{Object, ObjectId, SqlType};
use millstream_sql::plan::{CronPlan, DropPlan};
use millstream_sql::statement::{CronFunction, DropKind};
use millstream_sql::{Parsed, Plan, Statement, quote_ident};

use super::inside::{optional_time, statements_text};
use super::run::{Run, RunState, runs};
use super::task_of;
use crate::error::{Error, Result, sqlstate};
use crate::session::api::{Parameter, Response, RowsTag};
use crate::session::inside::{Inside, Row, int, optional_text, text};
use crate::session::{Scope, Session, memory};

/// Type of the one column of a call's result.
pub(in crate::session) fn schema(function: CronFunction, column: &str) -> SchemaRef {
    let sql_type = match function {
        CronFunction::Schedule => SqlType::Int8,
        CronFunction::Unschedule => SqlType::Bool,
    };
    Arc::new(Schema::new(vec![sql_type.field(column, true)]))
}

impl Session {
    /// Calls a function of pg_cron's for each row of its arguments.
    pub(in crate::session) async fn cron(
        &mut self,
        p: CronPlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        let is_number = p.arguments.columns.iter().map(|c| is_number(&c.sql_type)).collect::<Vec<_>>();
        let batches = self.collect(p.arguments.plan, parameters, scope).await?;
        let mut rows: Vec<Vec<Argument>> = Vec::new();
        for batch in &batches {
            let columns = batch.columns().iter().zip(&is_number).map(|(c, n)| arguments(c, *n));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| c[row].clone()).collect()));
        }
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            // Each is a statement of its own, after those before it.
            jobs.push(match p.function {
                CronFunction::Schedule => self.cron_schedule(row).await?,
                CronFunction::Unschedule => self.cron_unschedule(row, parsed).await?,
            });
        }
        let schema = schema(p.function, &p.column);
        let column: ArrayRef = match p.function {
            CronFunction::Schedule => Arc::new(Int64Array::from_iter_values(jobs.iter().map(|id| i64::from(id.0)))),
            CronFunction::Unschedule => Arc::new(BooleanArray::from(vec![true; jobs.len()])),
        };
        let batch = RecordBatch::try_new(schema.clone(), vec![column])?;
        Ok(memory::rows(schema, vec![batch], RowsTag::select()))
    }

    /// `cron.schedule([name,] schedule, command)`; the id of the job.
    async fn cron_schedule(&mut self, arguments: Vec<Argument>) -> Result<ObjectId> {
        let mut texts = Vec::new();
        for argument in arguments {
            match argument {
                Argument::Text(text) => texts.push(text),
                Argument::Number(_) => return Err(wrong_arguments(CronFunction::Schedule)),
                Argument::Null => {
                    return Err(Error::new(sqlstate::NOT_NULL_VIOLATION, "cron.schedule() takes no NULL")
                        .with_hint("leave the name out to have one made up"));
                }
            }
        }
        let command = texts.pop().unwrap_or_default();
        let expression = texts.pop().unwrap_or_default();
        let name = texts.pop().unwrap_or_else(|| self.free_job_name());
        let schedule = match seconds(&expression) {
            Some(seconds) => format!("EVERY INTERVAL '{seconds} seconds'"),
            None => format!("CRON {}", quote(&last_day(&expression))),
        };
        let definition = format!(
            "CREATE OR REPLACE TASK {} SCHEDULE {schedule}{} WITH (catch_up = 'none', overlap = 'queue') AS {}",
            quote_ident(&name),
            if schedule.starts_with("CRON") { " AT TIME ZONE 'UTC'" } else { "" },
            quote(&command),
        );
        self.carry_out(&definition).await?;
        let schema = self.current_schema();
        let catalog = self.database.engine.published().catalog.clone();
        let made = catalog.find_task(&schema, &name).map(|o| o.id);
        made.ok_or_else(|| Error::internal(format!("job \"{name}\" was not made")))
    }

    /// `cron.unschedule(name | id)`; the id of the job that it was.
    async fn cron_unschedule(&mut self, mut arguments: Vec<Argument>, parsed: &Parsed) -> Result<ObjectId> {
        let catalog = self.database.engine.published().catalog.clone();
        let argument = arguments.pop().unwrap_or(Argument::Null);
        let found = match &argument {
            Argument::Text(name) => catalog.resolve_task(None, name, &self.search_path).ok().map(|o| o.id),
            Argument::Number(id) => u32::try_from(*id).ok().map(ObjectId),
            Argument::Null => None,
        };
        let found = found.filter(|id| catalog.get(*id).is_some_and(|o| task_of(o).is_some()));
        let shown = match argument {
            Argument::Text(name) => format!("'{name}'"),
            Argument::Number(id) => id.to_string(),
            Argument::Null => "NULL".to_string(),
        };
        let id = found.ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_OBJECT, format!("could not find valid entry for job {shown}"))
                .with_hint("cron.job lists the jobs")
        })?;
        if let Some(task) = catalog.get(id) {
            self.require_owner(task, &catalog)?;
        }
        let drop = DropPlan { kind: DropKind::Task, ids: vec![id], cascade: false, notices: Vec::new() };
        let scope = self.scope(&parsed.statement).await?;
        self.drop_objects(drop, parsed, &scope).await?;
        Ok(id)
    }

    /// Carries out a CREATE TASK that was made up.
    async fn carry_out(&mut self, definition: &str) -> Result<()> {
        let mut statements = millstream_sql::parse(definition).map_err(|e| Error::from(e).without_position())?;
        let created = statements.pop().filter(|p| matches!(p.statement, Statement::CreateTask(_)));
        let parsed = created.ok_or_else(|| Error::internal("a job became another statement"))?;
        let scope = self.scope(&parsed.statement).await?;
        match self.plan(&parsed, &scope, &[]).map_err(Error::without_position)? {
            Plan::CreateTask(p) => {
                let made = self.create_task(p, &parsed, &scope).await;
                made.map(drop).map_err(Error::without_position)
            }
            _ => Err(Error::internal("a job became another plan")),
        }
    }

    /// A name for a job that has none.
    fn free_job_name(&self) -> String {
        let (schema, catalog) = (self.current_schema(), self.database.engine.published().catalog.clone());
        let names = (1..).map(|n: u32| format!("job_{n}"));
        let mut free = names.filter(|name| catalog.find_task(&schema, name).is_none());
        free.next().unwrap_or_default()
    }
}

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument {
    Text(String),
    Number(i64),
    Null,
}

fn is_number(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Oid)
}

fn arguments(column: &ArrayRef, is_number: bool) -> Result<Vec<Argument>> {
    if is_number {
        let column = arrow::compute::cast(column, &DataType::Int64)?;
        let numbers = column.as_primitive::<Int64Type>().iter();
        return Ok(numbers.map(|n| n.map_or(Argument::Null, Argument::Number)).collect());
    }
    let column = arrow::compute::cast(column, &DataType::Utf8View)?;
    let texts = column.as_string_view().iter();
    Ok(texts.map(|t| t.map_or(Argument::Null, |t| Argument::Text(t.to_string()))).collect())
}

fn wrong_arguments(function: CronFunction) -> Error {
    Error::new("42883", format!("function {} with these arguments does not exist", function.name())).with_hint(
        "there are cron.schedule(name, schedule, command) and cron.schedule(schedule, command), all of them text",
    )
}

/// The number of `n seconds`.
fn seconds(schedule: &str) -> Option<u32> {
    let (number, unit) = schedule.trim().split_once(char::is_whitespace)?;
    let is_seconds = ["second", "seconds"].contains(&unit.trim().to_lowercase().as_str());
    number.parse().ok().filter(|n| is_seconds && (1..60).contains(n))
}

/// pg_cron writes `$` for the last day of a month.
fn last_day(expression: &str) -> String {
    let mut fields: Vec<&str> = expression.split_whitespace().collect();
    if fields.len() == 5 && fields[2] == "$" {
        fields[2] = "L";
    }
    fields.join(" ")
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Inside {
    pub(in crate::session) fn cron_jobs(&self) -> Result<Vec<Row>> {
        let of_task = |object: &Arc<Object>| {
            let task = task_of(object).filter(|_| self.sees_work_of(&object.owner))?;
            let schedule = match task.schedule.as_ref()? {
                Schedule::Cron { expression, .. } => expression.clone(),
                Schedule::Every { interval, .. } => interval.clone(),
            };
            Some(Row::from_iter([
                ("jobid", int(i64::from(object.id.0))),
                ("schedule", text(&schedule)),
                ("command", text(&statements_text(&task.statements))),
                ("nodename", text("localhost")),
                ("nodeport", ScalarValue::Int32(None)),
                ("database", text(millstream_catalog::DEFAULT_DATABASE)),
                ("username", text(&object.owner)),
                ("active", ScalarValue::Boolean(Some(!object.suspended))),
                ("jobname", text(&object.name)),
            ]))
        };
        Ok(self.published.catalog.objects().filter_map(of_task).collect())
    }

    pub(in crate::session) fn cron_runs(&self) -> Result<Vec<Row>> {
        let mut out = Vec::new();
        for object in self.published.catalog.objects() {
            if task_of(object).is_none_or(|task| task.schedule.is_none()) || !self.sees_work_of(&object.owner) {
                continue;
            }
            for run in runs(&self.published.snapshot, object.id) {
                out.extend(cron_run(object, &run?));
            }
        }
        Ok(out)
    }
}

/// pg_cron knows nothing of runs that never started.
fn cron_run(object: &Object, run: &Run) -> Option<Row> {
    let status = match run.state {
        RunState::Queued | RunState::Skipped => return None,
        RunState::Running => "running",
        RunState::Succeeded => "succeeded",
        RunState::Failed | RunState::Abandoned | RunState::Canceled => "failed",
    };
    let message = match (&run.error, run.state) {
        (Some(error), _) => Some(error.message.clone()),
        (None, RunState::Succeeded) => Some(format!("{} rows", run.rows)),
        (None, _) => None,
    };
    Some(Row::from_iter([
        ("jobid", int(i64::from(object.id.0))),
        ("runid", int(run.id as i64)),
        ("job_pid", ScalarValue::Int32(None)),
        ("database", text(millstream_catalog::DEFAULT_DATABASE)),
        ("username", text(&object.owner)),
        ("command", text(&statements_text(&run.statements))),
        ("status", text(status)),
        ("return_message", optional_text(message.as_deref())),
        ("start_time", optional_time(run.started_us)),
        ("end_time", optional_time(run.ended_us)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_of_pg_cron() {
        assert_eq!(seconds("30 seconds"), Some(30));
        assert_eq!(seconds("1 second"), Some(1));
        assert_eq!(seconds("60 seconds"), None);
        assert_eq!(seconds("* * * * *"), None);
        assert_eq!(last_day("0 3 $ * *"), "0 3 L * *");
        assert_eq!(last_day("0 3 1 * *"), "0 3 1 * *");
    }
}
