//! Grouping, sorting and joining by intervals: PostgreSQL's equality in place of Arrow's, which compares months, days and time apart.
//!
//! Groups, DISTINCT, set operations and join keys go by the interval's span; what is shown of a group of equal intervals is the
//! one that [`interval::order`] puts first, so that the answer does not depend on the order of rows.

use std::sync::Arc;

use datafusion_common::{Column, DFSchema};
use datafusion_expr::expr::{AggregateFunction, AggregateFunctionParams, InSubquery, Sort, WindowFunction};
use datafusion_expr::logical_plan::builder::project;
use datafusion_expr::{Aggregate, Distinct, DistinctOn, Expr, LogicalPlan};
use millstream_catalog::SqlType;

use super::operators::{span_of, type_of};
use crate::error::{Result, SqlError};
use crate::functions::{aggregate, interval};

/// The node with intervals grouped, sorted and joined by their span; the output keeps its names and types.
pub(crate) fn by_span(node: LogicalPlan) -> Result<LogicalPlan> {
    Ok(match node {
        LogicalPlan::Aggregate(aggregate) => grouped(aggregate)?,
        LogicalPlan::Distinct(Distinct::All(input)) if input.schema().fields().iter().any(|f| is_interval_field(f)) => {
            let columns = input.schema().iter().map(|(q, f)| Expr::Column(Column::new(q.cloned(), f.name()))).collect();
            grouped(Aggregate::try_new(input, columns, Vec::new())?)?
        }
        LogicalPlan::Distinct(Distinct::On(on)) => {
            let schema = on.input.schema().clone();
            if !on.on_expr.iter().any(|e| is_interval(e, &schema)) {
                return Ok(LogicalPlan::Distinct(Distinct::On(on)));
            }
            let DistinctOn { on_expr, select_expr, sort_expr, input, .. } = on;
            let keys = on_expr.into_iter().map(|e| key(e, &schema)).collect();
            let sort_expr = sort_expr.map(|sort| sort.into_iter().map(|s| sort_key(s, &schema)).collect());
            LogicalPlan::Distinct(Distinct::On(DistinctOn::try_new(keys, select_expr, sort_expr, input)?))
        }
        LogicalPlan::Sort(mut sort) => {
            let schema = sort.input.schema().clone();
            sort.expr = sort.expr.into_iter().map(|s| sort_key(s, &schema)).collect();
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Join(mut join) => {
            let (left, right) = (join.left.schema().clone(), join.right.schema().clone());
            join.on = join.on.into_iter().map(|(l, r)| (key(l, &left), key(r, &right))).collect();
            LogicalPlan::Join(join)
        }
        other => other,
    })
}

/// The part of this that is inside an expression: windows and aggregates of intervals.
///
/// # Errors
/// 0A000 for DISTINCT in an aggregate that shows its intervals, and for IN (SELECT …).
pub(crate) fn in_expression(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(match expr {
        Expr::WindowFunction(mut window) => {
            let WindowFunction { params, fun } = window.as_mut();
            let shows_extreme = matches!(fun.name(), "min" | "max");
            if (shows_extreme || params.distinct) && params.args.iter().any(|e| is_interval(e, schema)) {
                return Err(SqlError::unsupported(format!("{}(interval) OVER is not supported", fun.name())));
            }
            params.partition_by =
                std::mem::take(&mut params.partition_by).into_iter().map(|e| key(e, schema)).collect();
            params.order_by = std::mem::take(&mut params.order_by).into_iter().map(|s| sort_key(s, schema)).collect();
            Expr::WindowFunction(window)
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
            if params.distinct && params.args.iter().any(|e| is_interval(e, schema)) {
                match func.name() {
                    "count" => params.args = params.args.into_iter().map(|e| key(e, schema)).collect(),
                    "min" | "max" => {}
                    name => {
                        return Err(SqlError::unsupported(format!("{name}(DISTINCT interval) is not supported"))
                            .with_hint("GROUP BY the interval first"));
                    }
                }
            }
            params.order_by = params.order_by.into_iter().map(|s| sort_key(s, schema)).collect();
            Expr::AggregateFunction(AggregateFunction { func, params })
        }
        Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
            if is_interval(&expr, schema) {
                return Err(SqlError::unsupported("IN (SELECT ...) is not supported for intervals")
                    .with_hint("write it as EXISTS (SELECT ... WHERE a = b)"));
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated })
        }
        other => other,
    })
}

fn is_interval(expr: &Expr, schema: &DFSchema) -> bool {
    type_of(expr, schema) == Some(SqlType::Interval)
}

fn is_interval_field(field: &arrow::datatypes::Field) -> bool {
    SqlType::of(field) == Some(SqlType::Interval)
}

fn key(expr: Expr, schema: &DFSchema) -> Expr {
    if is_interval(&expr, schema) { span_of(expr) } else { expr }
}

fn sort_key(sort: Sort, schema: &DFSchema) -> Sort {
    Sort { expr: key(sort.expr, schema), ..sort }
}

/// Groups by span, shows one interval of each group, and takes least and greatest intervals by their order.
fn grouped(old: Aggregate) -> Result<LogicalPlan> {
    let schema = old.input.schema().clone();
    let is_extreme = |e: &Expr| match e.clone().unalias() {
        Expr::AggregateFunction(f) => {
            matches!(f.func.name(), "min" | "max") && f.params.args.iter().any(|a| is_interval(a, &schema))
        }
        _ => false,
    };
    let in_sets =
        |e: &Expr| matches!(e, Expr::GroupingSet(s) if s.distinct_expr().iter().any(|e| is_interval(e, &schema)));
    if old.group_expr.iter().any(in_sets) {
        return Err(SqlError::unsupported("GROUPING SETS of intervals are not supported"));
    }
    if !old.group_expr.iter().any(|e| is_interval(e, &schema)) && !old.aggr_expr.iter().any(is_extreme) {
        return Ok(LogicalPlan::Aggregate(old));
    }
    let Aggregate { input, group_expr, aggr_expr, schema: output, .. } = old;
    let groups = output.fields().len() - aggr_expr.len();
    let mut aggregates: Vec<Expr> = Vec::with_capacity(aggr_expr.len());
    let mut decoded: Vec<bool> = Vec::with_capacity(aggr_expr.len());
    for (i, expr) in aggr_expr.into_iter().enumerate() {
        decoded.push(is_extreme(&expr));
        if decoded[i] {
            let name = output.field(groups + i).name().clone();
            aggregates.push(extreme(expr.unalias())?.alias(name));
        } else {
            aggregates.push(expr);
        }
    }
    let mut shown: Vec<Option<String>> = Vec::with_capacity(group_expr.len());
    let mut keys = Vec::with_capacity(group_expr.len());
    for (i, expr) in group_expr.into_iter().enumerate() {
        if is_interval(&expr, &schema) {
            let name = format!("__interval_{i}");
            let min = aggregate("min").ok_or_else(|| SqlError::internal("there is no min"))?;
            let first = interval::order().call(vec![expr.clone().unalias()]);
            aggregates.push(min.call(vec![first]).alias(&name));
            keys.push(span_of(expr.unalias()));
            shown.push(Some(name));
        } else {
            keys.push(expr);
            shown.push(None);
        }
    }
    let plan = Aggregate::try_new(input, keys, aggregates)?;
    let mut columns = Vec::with_capacity(output.fields().len());
    for (i, (qualifier, field)) in output.iter().enumerate() {
        let (q, f) = plan.schema.qualified_field(i);
        let own = Expr::Column(Column::new(q.cloned(), f.name()));
        let decode = |e: Expr| interval::of_order().call(vec![e]).alias_qualified(qualifier.cloned(), field.name());
        columns.push(match shown.get(i) {
            Some(Some(name)) => decode(Expr::Column(Column::new_unqualified(name))),
            _ if i >= groups && decoded[i - groups] => decode(own),
            _ => own,
        });
    }
    Ok(project(LogicalPlan::Aggregate(plan), columns)?)
}

fn extreme(expr: Expr) -> Result<Expr> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
        return Err(SqlError::internal("min or max that is no aggregate"));
    };
    let AggregateFunctionParams { args, .. } = params;
    let args = args.into_iter().map(|a| interval::order().call(vec![a])).collect();
    Ok(Expr::AggregateFunction(AggregateFunction {
        func: Arc::clone(&func),
        params: AggregateFunctionParams { args, distinct: false, ..params },
    }))
}
