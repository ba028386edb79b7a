//! SESSION in FROM: windows of activity, each as long as no two neighbouring rows of a key are further apart than a gap.
//!
//! `SESSION(t PARTITION BY k, ts, gap)` is made of window functions, so that rows that come late, go, or join two sessions
//! are right wherever window functions are: a row begins a session if the one before it is at least a gap away; a session's
//! start is the latest such time; its end is its last time and the gap.

use datafusion_common::{Column, DFSchema, Result as DfResult};
use datafusion_expr::expr::{Sort, WindowFunction, WindowFunctionParams};
use datafusion_expr::planner::RelationPlannerContext;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Window, WindowFrame, WindowFunctionDefinition, when};
use datafusion_sql::sqlparser::ast;

use super::{ENDS, STARTS, TimedInput, interval, plus, timed_input, wrong_arguments};
use crate::error::{Result, SqlError};
use crate::functions;

const USAGE: &str = "SESSION(relation PARTITION BY key, time column, gap)";

/// Plans a call whose keys are behind the other arguments, as the parser puts them.
pub(super) fn session(args: Vec<ast::Expr>, context: &mut dyn RelationPlannerContext) -> DfResult<LogicalPlan> {
    let [relation, time, gap, keys @ ..] = args.as_slice() else {
        return Err(wrong_arguments("SESSION", USAGE).into());
    };
    let TimedInput { plan, time, qualifier } = timed_input(relation, time, "SESSION", context)?;
    let schema = plan.schema().clone();
    let (gap, length) = interval(context.sql_to_expr(gap.clone(), &DFSchema::empty())?, USAGE)?;
    crate::functions::windows::arranged(&[length], 1)?;
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
    let columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
    let order = || vec![Sort::new(time.clone(), true, false)];

    let before = over(window_function("lag")?, vec![time.clone()], partition.clone(), order());
    let plan = LogicalPlanBuilder::from(windowed(before, plan)?);
    let before = last_column(&plan);
    let is_start = before.clone().is_null().or(plus(before, gap.clone()).lt_eq(time.clone()));
    let mut exprs = columns.clone();
    exprs.push(when(is_start, time.clone()).end()?.alias("__session_starts"));
    let plan = plan.project(exprs)?;

    let starts = over(aggregate("max")?, vec![last_column(&plan)], partition.clone(), order());
    let plan = LogicalPlanBuilder::from(windowed(starts, plan.build()?)?);
    let mut exprs = columns.clone();
    exprs.push(last_column(&plan).alias("__session_start"));
    let plan = plan.project(exprs)?;

    let start = last_column(&plan);
    partition.push(start.clone());
    let last = over(aggregate("max")?, vec![time], partition, Vec::new());
    let plan = LogicalPlanBuilder::from(windowed(last, plan.build()?)?);
    let mut exprs = columns;
    exprs.push(start.alias_qualified(qualifier.clone(), STARTS));
    exprs.push(plus(last_column(&plan), gap).alias_qualified(qualifier, ENDS));
    plan.project(exprs)?.build()
}

fn over(fun: WindowFunctionDefinition, args: Vec<Expr>, partition_by: Vec<Expr>, order_by: Vec<Sort>) -> Expr {
    let window_frame = WindowFrame::new((!order_by.is_empty()).then_some(false));
    Expr::WindowFunction(Box::new(WindowFunction {
        fun,
        params: WindowFunctionParams {
            args,
            partition_by,
            order_by,
            window_frame,
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    }))
}

fn windowed(function: Expr, input: LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(LogicalPlan::Window(Window::try_new(vec![function], input.into())?))
}

fn last_column(plan: &LogicalPlanBuilder) -> Expr {
    let schema = plan.schema();
    let (qualifier, field) = schema.qualified_field(schema.fields().len() - 1);
    Expr::Column(Column::new(qualifier.cloned(), field.name()))
}

fn window_function(name: &str) -> Result<WindowFunctionDefinition> {
    let function = functions::window(name).ok_or_else(|| SqlError::internal(format!("{name} is not registered")))?;
    Ok(WindowFunctionDefinition::WindowUDF(function))
}

fn aggregate(name: &str) -> Result<WindowFunctionDefinition> {
    let function = functions::aggregate(name).ok_or_else(|| SqlError::internal(format!("{name} is not registered")))?;
    Ok(WindowFunctionDefinition::AggregateUDF(function))
}
