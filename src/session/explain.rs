//! EXPLAIN: the batch plan of a query, the streaming plan of a continuous view.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::ScalarValue;
use millstream_catalog::{Draft, SqlType};
use millstream_sql::Plan;
use millstream_sql::plan::ExplainPlan;

use super::api::{Response, RowsTag};
use super::{Scope, Session, memory, query};
use crate::error::{Error, Result};

/// Name of EXPLAIN's one column, as PostgreSQL has it.
const COLUMN: &str = "QUERY PLAN";

impl Session {
    pub(super) async fn explain(
        &self,
        explain: ExplainPlan,
        parameters: &[ScalarValue],
        scope: &Scope,
    ) -> Result<Response> {
        let lines = match *explain.plan {
            Plan::CreateMaterializedView(p) => {
                if explain.analyze {
                    return Err(Error::unsupported("EXPLAIN ANALYZE of CREATE MATERIALIZED VIEW is not supported")
                        .with_hint("create the view and look at millstream.views"));
                }
                let id = Draft::new(&scope.published.catalog).new_id();
                self.plan_materialized_view(&p, id, scope)?.explain()
            }
            Plan::Query(q) => self.explain_plan(q.plan, explain.analyze, explain.verbose, parameters, scope).await?,
            Plan::Insert(p) if !explain.analyze => {
                self.explain_plan(p.plan, false, explain.verbose, parameters, scope).await?
            }
            Plan::Update(p) if !explain.analyze => {
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
        let rows: Vec<_> = lines.into_iter().map(|line| vec![Some(line)]).collect();
        memory::text_rows(&[COLUMN], &rows, RowsTag::Plain("EXPLAIN".into()))
    }

    async fn explain_plan(
        &self,
        plan: datafusion::logical_expr::LogicalPlan,
        analyze: bool,
        verbose: bool,
        parameters: &[ScalarValue],
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

/// Schema of EXPLAIN's result, for Describe.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![SqlType::Text.field(COLUMN, true)]))
}
