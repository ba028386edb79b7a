//! CREATE TASK, EXECUTE TASK and the calls of pg_cron's functions: names to ids, texts to times.

use std::collections::{BTreeMap, BTreeSet};

use datafusion_common::ScalarValue;
use millstream_catalog::object::{Schedule, Task};
use millstream_catalog::{Catalog, DEFAULT_SCHEMA, ObjectId, ObjectKind, Privilege, SqlType};

use super::create::new_name;
use super::ddl::find;
use super::provider::{table_reference, written};
use super::query::plan_query;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{CreateTaskPlan, CronPlan, ExecuteTaskPlan, Plan};
use crate::statement::{CreateTask, CronCall, CronFunction, DropKind, ExecuteTask, Existing, ScheduleClause};
use crate::types::parse_value;

/// `CREATE [OR REPLACE] TASK`.
pub(crate) fn create(s: &CreateTask, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = new_name(&s.name, ctx)?;
    let at = |e: SqlError| match s.name.0.last().and_then(|p| p.as_ident()) {
        Some(ident) => e.with_span(ident.span),
        None => e,
    };
    let there = ctx.catalog.find_task(&name.schema_name, &name.name);
    let replaces = match there {
        Some(old) if s.or_replace => {
            ctx.require_owner(old)?;
            Some(old.id)
        }
        Some(_) if s.if_not_exists => {
            let notice = format!("task \"{}\" already exists, skipping", name.name);
            return Ok(Plan::Nothing { tag: "CREATE TASK", notice, sqlstate: "42710" });
        }
        Some(_) => {
            return Err(at(SqlError::new("42710", format!("task \"{}\" already exists", name.name))
                .with_hint("CREATE OR REPLACE TASK puts another definition in its place")));
        }
        None => None,
    };
    let mut references = BTreeMap::new();
    for before in &s.after {
        let task = find(DropKind::Task, &Existing { name: before.clone(), arguments: None }, ctx)?;
        references.insert(written(&table_reference(before)?), task.id);
    }
    for before in references.values().filter_map(|id| ctx.catalog.get(*id)) {
        ctx.require(before, Privilege::Execute)?;
    }
    let after: BTreeSet<ObjectId> = references.values().copied().collect();
    if let Some(id) = replaces {
        refuse_cycle(id, &name.name, &after, ctx.catalog)?;
    }
    let task = Task {
        schedule: s.schedule.as_ref().map(|clause| schedule(clause, ctx)).transpose()?,
        after: after.into_iter().collect(),
        statements: s.statements.iter().map(|parsed| parsed.text.clone()).collect(),
        options: s.options.clone(),
        search_path: match ctx.search_path {
            [] => vec![DEFAULT_SCHEMA.into()],
            path => path.to_vec(),
        },
        time_zone: ctx.session.time_zone.clone(),
    };
    Ok(Plan::CreateTask(CreateTaskPlan { name, task, references, replaces, statements: s.statements.clone() }))
}

/// Expressions are read where they are carried out: this crate knows no calendar.
fn schedule(clause: &ScheduleClause, ctx: &PlanContext<'_>) -> Result<Schedule> {
    match clause {
        ScheduleClause::Cron { expression, time_zone } => Ok(Schedule::Cron {
            expression: expression.trim().to_string(),
            time_zone: time_zone.clone().unwrap_or_else(|| ctx.session.time_zone.clone()),
        }),
        ScheduleClause::Every { interval } => {
            let value = parse_value(interval, &SqlType::Interval, "UTC")?;
            let ScalarValue::IntervalMonthDayNano(Some(span)) = value else {
                return Err(SqlError::internal("an interval was read as something else"));
            };
            if span.months != 0 {
                return Err(SqlError::unsupported("EVERY with months or years is not supported").with_hint(
                    "they have no fixed length: use SCHEDULE CRON '0 0 1 * *' for the first of each month",
                ));
            }
            let period_us = i64::from(span.days)
                .checked_mul(86_400_000_000)
                .and_then(|us| us.checked_add(span.nanoseconds / 1000))
                .ok_or_else(|| SqlError::new("22008", "interval out of range"))?;
            Ok(Schedule::Every { interval: interval.trim().to_lowercase(), period_us })
        }
    }
}

/// Refuses a task that would run after itself, directly or not.
fn refuse_cycle(id: ObjectId, name: &str, after: &BTreeSet<ObjectId>, catalog: &Catalog) -> Result<()> {
    let mut before: Vec<ObjectId> = after.iter().copied().collect();
    let mut seen = BTreeSet::new();
    while let Some(next) = before.pop() {
        if next == id {
            return Err(SqlError::new("42P17", format!("task \"{name}\" would run after itself"))
                .with_hint("the tasks of AFTER must not run after this one, directly or through others"));
        }
        if let Some(ObjectKind::Task(task)) = catalog.get(next).map(|o| &o.kind).filter(|_| seen.insert(next)) {
            before.extend(&task.after);
        }
    }
    Ok(())
}

/// `EXECUTE TASK`.
pub(crate) fn execute(s: &ExecuteTask, ctx: &PlanContext<'_>) -> Result<Plan> {
    let task = find(DropKind::Task, &s.name, ctx)?;
    ctx.require(&task, Privilege::Execute)?;
    let time_us = match &s.time {
        None => None,
        Some(text) => match parse_value(text, &SqlType::Timestamptz, &ctx.session.time_zone)? {
            ScalarValue::TimestampMicrosecond(us, _) => us,
            _ => return Err(SqlError::internal("a time was read as something else")),
        },
    };
    Ok(Plan::ExecuteTask(ExecuteTaskPlan { task: task.id, time_us, run: s.run, parameters: s.parameters.clone() }))
}

/// `SELECT cron.function(arguments) …`.
pub(crate) fn cron(s: &CronCall, ctx: &PlanContext<'_>) -> Result<Plan> {
    let arguments = plan_query(&s.query, ctx)?;
    let count = arguments.columns.len();
    let (is_known, forms) = match s.function {
        CronFunction::Schedule => {
            (count == 2 || count == 3, "cron.schedule(name, schedule, command) and cron.schedule(schedule, command)")
        }
        CronFunction::Unschedule => (count == 1, "cron.unschedule(name) and cron.unschedule(id)"),
    };
    if !is_known {
        return Err(SqlError::new(
            "42883",
            format!("function {} with {count} arguments does not exist", s.function.name()),
        )
        .with_hint(format!("there are {forms}")));
    }
    Ok(Plan::Cron(CronPlan { function: s.function, arguments, column: s.column.clone() }))
}
