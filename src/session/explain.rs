//! EXPLAIN: the batch plan of a query, the streaming plan of a continuous view.

use std::iter::Peekable;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::{Draft, ObjectId, SqlType};
use millstream_sql::plan::ExplainPlan;
use millstream_sql::statement::ExplainFormat;
use millstream_sql::{Parsed, Plan};
use serde_json::{Value, json};

use super::api::{Parameter, Response, RowsTag};
use super::definitions;
use super::{Scope, Session, memory, query};
use crate::error::{Error, Result};
use crate::state::{Measure, Snapshot, TableId};
use crate::stream::engine::stats::{Activity, StepCounters, ViewStats};
use crate::stream::plan::{Part, part};

/// Name of EXPLAIN's one column, as PostgreSQL has it.
const COLUMN: &str = "QUERY PLAN";

impl Session {
    pub(super) async fn explain(
        &self,
        explain: ExplainPlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        let ExplainPlan { analyze, verbose, format, plan } = explain;
        let plan = match *plan {
            Plan::Query(q) => Some(q.plan),
            Plan::Insert(p) if !analyze => Some(p.plan),
            Plan::Update(p) if !analyze => Some(p.plan),
            Plan::Delete(p) if !analyze => Some(p.plan),
            Plan::Merge(p) if !analyze => Some(p.plan),
            Plan::CreateMaterializedView(p) => {
                if analyze {
                    return Err(Error::unsupported("EXPLAIN ANALYZE of CREATE MATERIALIZED VIEW is not supported")
                        .with_hint("create the view and look at millstream.views"));
                }
                let mut draft = Draft::new(&scope.published.catalog);
                let (id, _) = self.new_reader(&mut draft, &p.query, parsed)?;
                let lines = self.plan_materialized_view(&p, id, draft.catalog())?.explain();
                return explained(lines, format);
            }
            _ => None,
        };
        let plan = plan.ok_or_else(|| {
            Error::unsupported("this statement cannot be explained")
                .with_hint("EXPLAIN takes a query, DML without ANALYZE, or CREATE MATERIALIZED VIEW")
        })?;
        let plan = query::with_parameters(plan, parameters)?;
        let resolver = scope.resolver(self);
        let batch = &self.database.batch;
        if analyze {
            let analyzed = batch.analyze(plan, &resolver, &scope.options).await?;
            if format == ExplainFormat::Json {
                let ms = analyzed.elapsed.as_secs_f64() * 1000.0;
                return json_rows(json!({ "Plan": analyzed.tree, "Rows": analyzed.rows, "Execution Time": ms }));
            }
            let mut lines: Vec<String> = analyzed.physical.lines().map(str::to_string).collect();
            lines.push(format!("rows: {}", analyzed.rows));
            return explained(lines, format);
        }
        let plans = batch.explain(plan, &resolver, &scope.options).await?;
        if format == ExplainFormat::Json {
            let mut object = json!({ "Plan": plans.tree });
            if verbose {
                object["Logical Plan"] = plans.logical.lines().collect();
            }
            return json_rows(object);
        }
        let mut lines = Vec::new();
        if verbose {
            lines.extend(plans.logical.lines().map(str::to_string));
            lines.push(String::new());
        }
        lines.extend(plans.physical.lines().map(str::to_string));
        explained(lines, format)
    }

    /// The operators of a running view or sink, under `analyze` with what they have done since the server started.
    pub(super) fn explain_running(
        &self,
        id: ObjectId,
        analyze: bool,
        format: ExplainFormat,
        scope: &Scope,
    ) -> Result<Response> {
        let catalog = &scope.published.catalog;
        let object = catalog.get(id).ok_or_else(|| Error::internal(format!("object {id} is not in the catalog")))?;
        let plan = definitions::plan_of(catalog, object)?;
        let lines = if analyze {
            let stats = self.database.engine.stats().view(id).unwrap_or_default();
            let none = Activity::default();
            let activity = stats.activity.as_deref().unwrap_or(&none);
            plan.explain_with(&|part| self.live(id, part, &stats, activity, &scope.published.snapshot))
        } else {
            plan.explain()
        };
        explained(lines, format)
    }

    fn live(
        &self,
        id: ObjectId,
        part: Part,
        stats: &ViewStats,
        activity: &Activity,
        snapshot: &Arc<Snapshot>,
    ) -> Option<String> {
        let measure = |part: u16| snapshot.measure(TableId { object: id.0, part }).ok();
        let bytes = |part: u16| measure(part).map_or(0, |m| m.bytes);
        let step = |s: &StepCounters| {
            let ms = s.time().as_secs_f64() * 1000.0;
            format!("rows in={} out={}, epochs={}, time={ms:.3} ms", s.rows_in(), s.rows_out(), s.epochs())
        };
        Some(match part {
            Part::Output => format!(
                "rows={}, failed rows={}, late rows={}{}, bytes={}",
                stats.rows,
                stats.errors,
                stats.late_rows,
                if stats.expired_rows > 0 { format!(", expired rows={}", stats.expired_rows) } else { String::new() },
                bytes(part::ROWS) + bytes(part::OUTBOX)
            ),
            Part::Scan(i) => activity.scans.get(i).map(|s| format!("rows out={}", s.rows_out()))?,
            Part::Node(i) => step(activity.nodes.get(i)?),
            Part::State(part) => {
                let Measure { keys, bytes, is_exact } = measure(part)?;
                format!("keys={}{keys}, bytes={bytes}", if is_exact { "" } else { "about " })
            }
        })
    }
}

/// Lines of text, or the tree that their indentation shows.
fn explained(lines: Vec<String>, format: ExplainFormat) -> Result<Response> {
    if format == ExplainFormat::Json {
        let mut lines = lines.iter().map(String::as_str).peekable();
        return json_rows(json!({ "Plan": node(&mut lines) }));
    }
    let rows: Vec<_> = lines.into_iter().map(|line| vec![Some(line)]).collect();
    memory::text_rows(&[COLUMN], &rows, RowsTag::Plain("EXPLAIN".into()))
}

/// A line `title: details` with those below it that are indented further; what is stored stands apart.
fn node<'a>(lines: &mut Peekable<impl Iterator<Item = &'a str>>) -> Value {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let Some(line) = lines.next() else { return Value::Null };
    let (title, details) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
    let mut object = json!({ "Node Type": title });
    if !details.is_empty() {
        object["Details"] = details.into();
    }
    let (mut below, mut state) = (Vec::new(), Vec::new());
    while lines.peek().is_some_and(|next| depth(next) > depth(line)) {
        match lines.next_if(|next| next.trim_start().starts_with("state ")) {
            Some(stored) => state.push(stored.trim()),
            None => below.push(node(lines)),
        }
    }
    if !state.is_empty() {
        object["State"] = state.into();
    }
    if !below.is_empty() {
        object["Plans"] = below.into();
    }
    object
}

/// One row, as PostgreSQL prints a plan in JSON.
fn json_rows(object: Value) -> Result<Response> {
    let text = serde_json::to_string_pretty(&json!([object])).map_err(|e| Error::internal(e.to_string()))?;
    let schema = schema(ExplainFormat::Json);
    let column: ArrayRef = Arc::new(StringViewArray::from_iter_values([text]));
    let batch = RecordBatch::try_new(schema.clone(), vec![column])?;
    Ok(memory::rows(schema, vec![batch], RowsTag::Plain("EXPLAIN".into())))
}

/// Schema of EXPLAIN's result, for Describe.
pub fn schema(format: ExplainFormat) -> SchemaRef {
    let sql_type = match format {
        ExplainFormat::Text => SqlType::Text,
        ExplainFormat::Json => SqlType::Json,
    };
    Arc::new(Schema::new(vec![sql_type.field(COLUMN, true)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_lines_are_a_tree() {
        let text =
            "Materialize: keyed\n  #2 Join: inner\n    state 1: multimap\n    #0 Filter: a\n      Scan: t\n    Scan: u";
        let tree = node(&mut text.lines().peekable());
        assert_eq!(tree["Node Type"], "Materialize");
        let join = &tree["Plans"][0];
        assert_eq!((&join["Details"], &join["State"][0]), (&"inner".into(), &"state 1: multimap".into()));
        assert_eq!(join["Plans"][0]["Plans"][0]["Details"], "t");
        assert_eq!(join["Plans"][1]["Details"], "u");
    }
}
