//! EXPLAIN: the batch plan of a query, the streaming plan of a continuous view.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::{Draft, ObjectId, SqlType};
use millstream_sql::plan::ExplainPlan;
use millstream_sql::{Parsed, Plan};

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
        let lines = match *explain.plan {
            Plan::CreateMaterializedView(p) => {
                if explain.analyze {
                    return Err(Error::unsupported("EXPLAIN ANALYZE of CREATE MATERIALIZED VIEW is not supported")
                        .with_hint("create the view and look at millstream.views"));
                }
                let mut draft = Draft::new(&scope.published.catalog);
                let (id, _) = self.new_reader(&mut draft, &p.query, parsed)?;
                self.plan_materialized_view(&p, id, draft.catalog())?.explain()
            }
            Plan::Query(q) => self.explain_plan(q.plan, explain.analyze, explain.verbose, parameters, scope).await?,
            Plan::Insert(p) if !explain.analyze => {
                self.explain_plan(p.plan, false, explain.verbose, parameters, scope).await?
            }
            Plan::Update(p) if !explain.analyze => {
                self.explain_plan(p.plan, false, explain.verbose, parameters, scope).await?
            }
            Plan::Merge(p) if !explain.analyze => {
                self.explain_plan(p.plan, false, explain.verbose, parameters, scope).await?
            }
            Plan::Delete(p) if !explain.analyze => {
                self.explain_plan(p.plan, false, explain.verbose, parameters, scope).await?
            }
            _ => {
                return Err(Error::unsupported("this statement cannot be explained")
                    .with_hint("EXPLAIN takes a query, DML without ANALYZE, or CREATE MATERIALIZED VIEW"));
            }
        };
        explained(lines)
    }

    /// The operators of a running view or sink, under `analyze` with what they have done since the server started.
    pub(super) fn explain_running(&self, id: ObjectId, analyze: bool, scope: &Scope) -> Result<Response> {
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
        explained(lines)
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

    async fn explain_plan(
        &self,
        plan: datafusion::logical_expr::LogicalPlan,
        analyze: bool,
        verbose: bool,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Vec<String>> {
        let plan = query::with_parameters(plan, parameters)?;
        let resolver = scope.resolver(self);
        let batch = &self.database.batch;
        if analyze {
            let (text, rows) = batch.analyze(plan, &resolver, &scope.options).await?;
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.push(format!("rows: {rows}"));
            return Ok(lines);
        }
        let explained = batch.explain(plan, &resolver, &scope.options).await?;
        let mut lines = Vec::new();
        if verbose {
            lines.extend(explained.logical.lines().map(str::to_string));
            lines.push(String::new());
        }
        lines.extend(explained.physical.lines().map(str::to_string));
        Ok(lines)
    }
}

fn explained(lines: Vec<String>) -> Result<Response> {
    let rows: Vec<_> = lines.into_iter().map(|line| vec![Some(line)]).collect();
    memory::text_rows(&[COLUMN], &rows, RowsTag::Plain("EXPLAIN".into()))
}

/// Schema of EXPLAIN's result, for Describe.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![SqlType::Text.field(COLUMN, true)]))
}
