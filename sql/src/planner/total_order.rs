//! Makes every order that a result depends on total, so that equal sort keys cannot make two runs of a query differ: a
//! continuous view and its SELECT must hold the same rows.
//!
//! Ties in ORDER BY … LIMIT and in window functions whose result depends on them are broken by the rest of the row, column
//! by column, ascending. `DISTINCT ON` and `FETCH … WITH TIES` become filters on `row_number()` and `rank()`, which both
//! kinds of plan know.

use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, DataFusionError, ScalarValue};
use datafusion_expr::expr::{ScalarFunction, Sort as SortExpr, WindowFunction, WindowFunctionParams};
use datafusion_expr::{
    BinaryExpr, DistinctOn, Expr, Limit, LogicalPlan, LogicalPlanBuilder, Operator, Sort, Window, WindowFrame,
    WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, lit,
};

use crate::context::CatalogSource;
use crate::error::{Result, SqlError};
use crate::functions::{self, with_ties};

type DfResult<T> = std::result::Result<T, DataFusionError>;

/// Runs the pass. Output names stay.
pub(crate) fn total_order(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Distinct(datafusion_expr::Distinct::On(on)) => Ok(Transformed::yes(distinct_on(on)?)),
        LogicalPlan::Limit(limit) => limited(limit),
        LogicalPlan::Window(window) => windowed(window),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(done.data)
}

/// The first row of each group by the query's order.
fn distinct_on(on: DistinctOn) -> DfResult<LogicalPlan> {
    let DistinctOn { on_expr, select_expr, sort_expr, input, schema: _ } = on;
    let order = sort_expr.unwrap_or_default();
    let number = Expr::WindowFunction(Box::new(WindowFunction {
        fun: window_function("row_number")?,
        params: WindowFunctionParams {
            args: Vec::new(),
            partition_by: on_expr,
            order_by: with_ties_broken(order.clone(), &[], &input),
            window_frame: rows(WindowFrameBound::Preceding(ScalarValue::UInt64(None)), WindowFrameBound::CurrentRow),
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    }));
    let numbered = LogicalPlan::Window(Window::try_new(vec![number], input)?);
    let first = last_column(&numbered).eq(lit(1_i64));
    let builder = LogicalPlanBuilder::from(numbered).filter(first)?;
    let builder = if order.is_empty() { builder } else { builder.sort(order)? };
    builder.project(select_expr)?.build()
}

fn limited(limit: Limit) -> DfResult<Transformed<LogicalPlan>> {
    let (projection, sort) = match limit.input.as_ref() {
        LogicalPlan::Sort(sort) => (None, Some(sort)),
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            LogicalPlan::Sort(sort) => (Some(projection), Some(sort)),
            _ => (None, None),
        },
        _ => (None, None),
    };
    let with_ties = match limit.fetch.as_deref() {
        Some(Expr::ScalarFunction(ScalarFunction { func, args })) if func.name() == with_ties::NAME => {
            args.first().cloned()
        }
        _ => None,
    };
    let Some(sort) = sort else {
        return match with_ties {
            Some(_) => Err(SqlError::syntax("WITH TIES cannot be specified without ORDER BY clause").into()),
            None => Ok(Transformed::no(LogicalPlan::Limit(limit))),
        };
    };
    let expr = with_ties_broken(sort.expr.clone(), &[], &sort.input);
    let sorted = |input: Arc<LogicalPlan>| LogicalPlan::Sort(Sort { expr: expr.clone(), input, fetch: sort.fetch });
    let projected = |plan: LogicalPlan| match projection {
        Some(projection) => LogicalPlanBuilder::from(plan).project(projection.expr.clone())?.build(),
        None => Ok(plan),
    };
    let Some(fetch) = with_ties else {
        if expr.len() == sort.expr.len() {
            return Ok(Transformed::no(LogicalPlan::Limit(limit)));
        }
        let input = Arc::new(projected(sorted(sort.input.clone()))?);
        return Ok(Transformed::yes(LogicalPlan::Limit(Limit { skip: limit.skip, fetch: limit.fetch, input })));
    };
    // The last row's peers are the rows of its rank; those that OFFSET skips are counted one by one.
    let columns: Vec<Expr> = sort.input.schema().columns().into_iter().map(Expr::Column).collect();
    let rank = ranking("rank", sort.expr.clone(), WindowFrame::new(Some(false)))?;
    let mut plan = LogicalPlan::Window(Window::try_new(vec![rank], sort.input.clone())?);
    let rank = last_column(&plan);
    let (upto, skipped) = match limit.skip.as_deref() {
        Some(skip) if !is_zero(skip) => {
            let number = ranking("row_number", expr.clone(), WindowFrame::new(Some(false)))?;
            plan = LogicalPlan::Window(Window::try_new(vec![number], Arc::new(plan))?);
            let number = last_column(&plan);
            (plus(skip.clone(), fetch), Some(number.gt(skip.clone())))
        }
        _ => (fetch, None),
    };
    let condition = rank.lt_eq(upto);
    let condition = match skipped {
        Some(skipped) => condition.and(skipped),
        None => condition,
    };
    let kept = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
    let plan = LogicalPlanBuilder::from(sorted(Arc::new(kept))).project(columns)?.build()?;
    Ok(Transformed::yes(projected(plan)?))
}

fn is_zero(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Int64(Some(0)), _))
}

fn plus(left: Expr, right: Expr) -> Expr {
    match (&left, &right) {
        (Expr::Literal(ScalarValue::Int64(Some(a)), _), Expr::Literal(ScalarValue::Int64(Some(b)), _)) => {
            lit(a.saturating_add(*b))
        }
        _ => Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::Plus, Box::new(right))),
    }
}

fn ranking(name: &str, order_by: Vec<SortExpr>, window_frame: WindowFrame) -> DfResult<Expr> {
    Ok(Expr::WindowFunction(Box::new(WindowFunction {
        fun: window_function(name)?,
        params: WindowFunctionParams {
            args: Vec::new(),
            partition_by: Vec::new(),
            order_by,
            window_frame,
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    })))
}

/// Window functions with their ties broken, under the names that they had.
fn windowed(window: Window) -> DfResult<Transformed<LogicalPlan>> {
    let mut functions: Vec<WindowFunction> = Vec::with_capacity(window.window_expr.len());
    for expr in &window.window_expr {
        match expr {
            Expr::WindowFunction(function) => functions.push(function.as_ref().clone()),
            // Names are given by this pass alone: it has been here.
            _ => return Ok(Transformed::no(LogicalPlan::Window(window))),
        }
    }
    let mut changed = false;
    for function in &mut functions {
        changed |= break_ties(function, &window.input);
    }
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    // One Window node computes all its functions over one order.
    let width = window.input.schema().fields().len();
    let mut plan = window.input.clone();
    let mut output: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let mut results: Vec<Option<Expr>> = vec![None; functions.len()];
    for i in 0..functions.len() {
        if results[i].is_some() {
            continue;
        }
        let same = |f: &WindowFunction| {
            f.params.partition_by == functions[i].params.partition_by
                && f.params.order_by == functions[i].params.order_by
        };
        let members: Vec<usize> =
            (i..functions.len()).filter(|j| results[*j].is_none() && same(&functions[*j])).collect();
        let mut exprs: Vec<Expr> = Vec::new();
        for member in &members {
            let expr = Expr::WindowFunction(Box::new(functions[*member].clone()));
            results[*member] = Some(Expr::Column(Column::from_name(expr.schema_name().to_string())));
            if !exprs.contains(&expr) {
                exprs.push(expr);
            }
        }
        plan = Arc::new(LogicalPlan::Window(Window::try_new(exprs, plan)?));
    }
    for (i, result) in results.into_iter().enumerate() {
        let (qualifier, field) = window.schema.qualified_field(width + i);
        output.extend(result.map(|r| r.alias_qualified(qualifier.cloned(), field.name())));
    }
    Ok(Transformed::yes(LogicalPlanBuilder::from(plan).project(output)?.build()?))
}

/// Changes a function's order, if its result depends on how ties are broken. Says whether it did.
fn break_ties(function: &mut WindowFunction, input: &LogicalPlan) -> bool {
    let name = function.fun.name().to_string();
    let params = &mut function.params;
    let unbounded = || ScalarValue::UInt64(None);
    let is_first = |bound: &WindowFrameBound| matches!(bound, WindowFrameBound::Preceding(v) if v.is_null());
    let is_last = |bound: &WindowFrameBound| matches!(bound, WindowFrameBound::Following(v) if v.is_null());
    let is_current = |bound: &WindowFrameBound| *bound == WindowFrameBound::CurrentRow;
    let window_frame = params.window_frame.clone();
    let frame = &window_frame;
    let by_rows = frame.units == WindowFrameUnits::Rows;
    let (start, end) = (&frame.start_bound, &frame.end_bound);
    match name.as_str() {
        "row_number" | "ntile" | "lag" | "lead" => {}
        "rank" | "dense_rank" | "percent_rank" | "cume_dist" => return false,
        _ if by_rows && is_first(start) && is_last(end) && !is_picking(&name) => return false,
        _ if by_rows => {}
        "first_value" if is_first(start) && (is_current(end) || matches!(end, WindowFrameBound::Following(_))) => {
            params.window_frame = rows(WindowFrameBound::Preceding(unbounded()), WindowFrameBound::CurrentRow);
        }
        "last_value" if is_last(end) && (is_current(start) || matches!(start, WindowFrameBound::Preceding(_))) => {
            params.window_frame = rows(WindowFrameBound::CurrentRow, WindowFrameBound::Following(unbounded()));
        }
        "first_value" if is_current(start) && frame.units == WindowFrameUnits::Range => peers_only(params),
        "last_value" if is_current(end) && frame.units == WindowFrameUnits::Range => peers_only(params),
        "nth_value" if is_first(start) && is_last(end) => {
            params.window_frame =
                rows(WindowFrameBound::Preceding(unbounded()), WindowFrameBound::Following(unbounded()));
        }
        _ => return false,
    }
    let before = (params.order_by.len(), window_frame);
    params.order_by = with_ties_broken(std::mem::take(&mut params.order_by), &params.partition_by, input);
    (params.order_by.len(), params.window_frame.clone()) != before
}

fn is_picking(name: &str) -> bool {
    matches!(name, "first_value" | "last_value" | "nth_value")
}

/// Over all rows that have the current row's sort key.
fn peers_only(params: &mut WindowFunctionParams) {
    params.partition_by.extend(std::mem::take(&mut params.order_by).into_iter().map(|sort| sort.expr));
    params.window_frame = rows(
        WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::Following(ScalarValue::UInt64(None)),
    );
}

fn rows(start: WindowFrameBound, end: WindowFrameBound) -> WindowFrame {
    WindowFrame::new_bounds(WindowFrameUnits::Rows, start, end)
}

/// An order with the columns that tell equal rows apart behind it: a key of the input, or all columns.
fn with_ties_broken(mut order: Vec<SortExpr>, partition: &[Expr], input: &LogicalPlan) -> Vec<SortExpr> {
    let columns = unique_columns(input).unwrap_or_else(|| input.schema().columns());
    for column in columns {
        let column = Expr::Column(column);
        if !partition.contains(&column) && order.iter().all(|sort| sort.expr != column) {
            order.push(SortExpr::new(column, true, false));
        }
    }
    order
}

/// Columns that no two rows of a plan have alike, where that is plain to see: the primary key of the one table it reads.
fn unique_columns(plan: &LogicalPlan) -> Option<Vec<Column>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let source = CatalogSource::of(&scan.source)?;
            if source.primary_key.is_empty() {
                return None;
            }
            let named = |i: &usize| {
                let name = source.schema.field(*i).name();
                scan.projected_schema
                    .has_column_with_qualified_name(&scan.table_name, name)
                    .then(|| Column::new(Some(scan.table_name.clone()), name))
            };
            source.primary_key.iter().map(named).collect()
        }
        LogicalPlan::Filter(filter) => unique_columns(&filter.input),
        LogicalPlan::Sort(sort) => unique_columns(&sort.input),
        LogicalPlan::SubqueryAlias(alias) => {
            let position = |column: Column| {
                let at = alias.input.schema().index_of_column(&column).ok()?;
                alias.schema.columns().into_iter().nth(at)
            };
            unique_columns(&alias.input)?.into_iter().map(position).collect()
        }
        LogicalPlan::Projection(projection) => {
            let outputs = projection.schema.columns();
            let passed_on = |column: Column| {
                let at = projection.expr.iter().position(|e| matches!(e, Expr::Column(c) if *c == column))?;
                outputs.get(at).cloned()
            };
            unique_columns(&projection.input)?.into_iter().map(passed_on).collect()
        }
        _ => None,
    }
}

fn window_function(name: &str) -> DfResult<WindowFunctionDefinition> {
    let function = functions::window(name).ok_or_else(|| SqlError::internal(format!("{name} is not registered")))?;
    Ok(WindowFunctionDefinition::WindowUDF(function))
}

fn last_column(plan: &LogicalPlan) -> Expr {
    let schema = plan.schema();
    let (qualifier, field) = schema.qualified_field(schema.fields().len() - 1);
    Expr::Column(Column::new(qualifier.cloned(), field.name()))
}
