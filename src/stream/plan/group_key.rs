//! Which group columns make a group's key: a column that follows from another one, as `window_end` does from
//! `window_start`, would only make keys longer, and a view that leaves it out would have none.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result as DfResult, ScalarValue};
use datafusion::logical_expr::{Aggregate, BinaryExpr, Expr, Filter, LogicalPlan, Operator};

use crate::error::Result;

/// Leaves out group columns that follow from others and that nothing above looks at: they cost a column in each row of
/// the input, and groups are the same without them.
///
/// # Errors
/// Of rebuilding the plan.
pub fn drop_unseen(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_down(|node| {
        let LogicalPlan::Projection(projection) = &node else { return Ok(Transformed::no(node)) };
        let seen = |exprs: &[Expr]| -> HashSet<Column> {
            exprs.iter().flat_map(|e| e.column_refs().into_iter().cloned().collect::<Vec<_>>()).collect()
        };
        let mut seen_columns = seen(&projection.expr);
        let mut below = projection.input.as_ref();
        if let LogicalPlan::Filter(having) = below {
            seen_columns.extend(seen(std::slice::from_ref(&having.predicate)));
            below = having.input.as_ref();
        }
        let LogicalPlan::Aggregate(aggregate) = below else { return Ok(Transformed::no(node)) };
        let Some(smaller) = without_unseen(aggregate, &seen_columns)? else { return Ok(Transformed::no(node)) };
        let input = match projection.input.as_ref() {
            LogicalPlan::Filter(having) => having_over(having, smaller)?,
            _ => smaller,
        };
        let exprs = projection.expr.clone();
        Ok(Transformed::yes(node.with_new_exprs(exprs, vec![input])?))
    });
    Ok(done.data()?)
}

fn having_over(having: &Filter, input: LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(LogicalPlan::Filter(Filter::try_new(having.predicate.clone(), Arc::new(input))?))
}

fn without_unseen(aggregate: &Aggregate, seen: &HashSet<Column>) -> DfResult<Option<LogicalPlan>> {
    let groups = &aggregate.group_expr;
    if groups.iter().any(|group| matches!(group, Expr::GroupingSet(_))) {
        return Ok(None);
    }
    let columns = aggregate.schema.columns();
    let shown: Vec<usize> = (0..groups.len()).filter(|i| seen.contains(&columns[*i])).collect();
    let key = key_columns(groups, &aggregate.input, &shown, |_| false);
    let kept = (0..groups.len()).filter(|i| key.contains(i) || shown.contains(i));
    let kept: Vec<Expr> = kept.map(|i| groups[i].clone()).collect();
    if kept.len() == groups.len() {
        return Ok(None);
    }
    let smaller = Aggregate::try_new(aggregate.input.clone(), kept, aggregate.aggr_expr.clone())?;
    Ok(Some(LogicalPlan::Aggregate(smaller)))
}

/// Positions of the group expressions that the others follow from. Where either of two will do, one that is `shown` stays.
/// A column that carries a watermark (`timed`) only goes where one that stays carries one too.
pub fn key_columns(groups: &[Expr], input: &LogicalPlan, shown: &[usize], timed: impl Fn(usize) -> bool) -> Vec<usize> {
    let traced: Vec<Expr> = groups.iter().map(|group| trace(group.clone(), input)).collect();
    let mut key: Vec<usize> = (0..groups.len()).collect();
    // Those that are not shown first; of several, those at the end.
    let mut candidates: Vec<usize> = (0..groups.len()).rev().collect();
    candidates.sort_by_key(|group| shown.contains(group));
    for group in candidates {
        let is_enough = |other: &usize| {
            *other != group && (timed(*other) || !timed(group)) && follows(&traced[group], &traced[*other])
        };
        if key.iter().any(is_enough) {
            key.retain(|other| *other != group);
        }
    }
    key
}

/// Positions of the expressions that follow from the one at `of`, and that one's: what is behind the watermark of one of them
/// is behind that of `of` too.
pub fn followers(exprs: &[Expr], input: &LogicalPlan, of: usize) -> Vec<usize> {
    let traced: Vec<Expr> = exprs.iter().map(|expr| trace(expr.clone(), input)).collect();
    (0..exprs.len()).filter(|i| *i == of || follows(&traced[*i], &traced[of])).collect()
}

/// The expression over the columns of the first plan below `plan` that is more than a projection.
fn trace(expr: Expr, plan: &LogicalPlan) -> Expr {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => {
            let names = alias.input.schema().columns();
            let below =
                |column: &Column| alias.schema.index_of_column(column).ok().map(|i| Expr::Column(names[i].clone()));
            trace(replace(expr, below), &alias.input)
        }
        LogicalPlan::Projection(projection) => {
            let below = |column: &Column| {
                let position = projection.schema.index_of_column(column).ok()?;
                Some(projection.expr[position].clone().unalias_nested().data)
            };
            trace(replace(expr, below), &projection.input)
        }
        LogicalPlan::Filter(filter) => trace(expr, &filter.input),
        _ => expr.unalias_nested().data,
    }
}

fn replace(expr: Expr, with: impl Fn(&Column) -> Option<Expr>) -> Expr {
    let replaced = expr.clone().transform_up(|e| {
        Ok(match &e {
            Expr::Column(column) => with(column).map_or(Transformed::no(e), Transformed::yes),
            _ => Transformed::no(e),
        })
    });
    replaced.data().unwrap_or(expr)
}

/// Whether the value of `expr` follows from that of `other`: it is computed from that alone, or that is it plus a constant
/// span of time, which can be taken back.
fn follows(expr: &Expr, other: &Expr) -> bool {
    let computed = expr.clone().transform_down(|e| {
        Ok(match e == *other {
            true => Transformed::yes(Expr::Literal(ScalarValue::Null, None)),
            false => Transformed::no(e),
        })
    });
    let is_function = computed.is_ok_and(|c| c.transformed && c.data.column_refs().is_empty() && !c.data.is_volatile());
    is_function
        || matches!(other, Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right })
        if **left == *expr && is_fixed_span(right))
}

/// An interval without months, and without days, which differ in length where a zone has summer time.
fn is_fixed_span(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(span)), _) if span.months == 0 && span.days == 0)
}
