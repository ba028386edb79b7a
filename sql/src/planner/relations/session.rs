//! SESSION in FROM: windows of activity, each as long as no two neighbouring rows of a key are further apart than a gap.
//!
//! `SESSION(t PARTITION BY k, ts, gap)` adds to each row the first time of its session (`planner::sessions`) and, as the end
//! of the window, the last one and the gap.

use datafusion_common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion_expr::planner::RelationPlannerContext;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion_sql::sqlparser::ast;

use super::{ENDS, STARTS, TimedInput, interval_value, plus, timed_input, wrong_arguments};
use crate::planner::sessions::Sessions;

const USAGE: &str = "SESSION(relation PARTITION BY key, time column, gap)";

/// Plans a call whose keys are behind the other arguments, as the parser puts them.
pub(super) fn session(args: Vec<ast::Expr>, context: &mut dyn RelationPlannerContext) -> DfResult<LogicalPlan> {
    let [relation, time, gap, keys @ ..] = args.as_slice() else {
        return Err(wrong_arguments("SESSION", USAGE).into());
    };
    let TimedInput { plan, time, qualifier } = timed_input(relation, time, "SESSION", context)?;
    let schema = plan.schema().clone();
    let gap = interval_value(context.sql_to_expr(gap.clone(), &DFSchema::empty())?, USAGE)?;
    let mut partition: Vec<Expr> = Vec::new();
    for key in keys {
        let parts = match key {
            ast::Expr::Tuple(parts) => parts.clone(),
            ast::Expr::Nested(one) => vec![one.as_ref().clone()],
            one => vec![one.clone()],
        };
        for part in parts {
            partition.push(context.sql_to_expr(part, &schema)?);
        }
    }
    let mut exprs: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
    let sessions = Sessions::new(plan, partition, time, gap, 0)?;
    exprs.push(sessions.start().alias_qualified(qualifier.clone(), STARTS));
    let end = plus(sessions.last(), lit(ScalarValue::IntervalMonthDayNano(Some(gap))));
    exprs.push(end.alias_qualified(qualifier, ENDS));
    LogicalPlanBuilder::from(sessions.into_plan()).project(exprs)?.build()
}
