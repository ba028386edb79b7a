//! What is computed from the rows beside it alone: `FROM t, unnest(t.list) AS x` and `FROM t, LATERAL (SELECT t.a + 1 AS b)`.
//! It is computed beside the columns of these rows, where DataFusion leaves a lateral join that it cannot run.

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{JoinType, Result as DfResult, ScalarValue};
use datafusion_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder};

use crate::error::{Result, SqlError};

/// Replaces the joins with what is computed from the rows beside it.
///
/// # Errors
/// 0A000 for outer joins with a list, or with rows that a condition may leave out.
pub(crate) fn lateral_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) => match computed(&join.right).map(|count| beside(&join, count)).transpose()?.flatten()
        {
            Some(plan) => Ok(Transformed::yes(plan)),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    });
    Ok(done.data()?)
}

/// What a subquery over the rows beside it does to their number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    /// Each gives one row.
    Same,
    Other,
}

/// For a plan that is computed from the rows beside it alone, what it does to their number.
fn computed(plan: &LogicalPlan) -> Option<Count> {
    fn over_one_row(plan: &LogicalPlan) -> Option<Count> {
        match plan {
            LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => Some(Count::Same),
            LogicalPlan::Projection(p) => over_one_row(&p.input),
            LogicalPlan::SubqueryAlias(a) => over_one_row(&a.input),
            LogicalPlan::Unnest(u) => over_one_row(&u.input).map(|_| Count::Other),
            LogicalPlan::Filter(f) => over_one_row(&f.input).map(|_| Count::Other),
            _ => None,
        }
    }
    match plan {
        LogicalPlan::SubqueryAlias(a) => computed(&a.input),
        LogicalPlan::Projection(p) => computed(&p.input),
        LogicalPlan::Subquery(s) if !s.outer_ref_columns.is_empty() => over_one_row(&s.subquery),
        _ => None,
    }
}

fn beside(join: &Join, count: Count) -> DfResult<Option<LogicalPlan>> {
    let carried: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    let Some(beside) = over_rows(&join.right, &join.left, &carried)? else { return Ok(None) };
    let keeps_all = join.join_type == JoinType::Left && count == Count::Same && join.on.is_empty() && is_always(join);
    if join.join_type != JoinType::Inner && !keeps_all {
        let error = SqlError::unsupported(
            "an outer join with what is computed from the rows of the other side is not supported",
        )
        .with_hint("write a comma instead of the join; for a list, unnest coalesce(list, ARRAY[NULL])");
        return Err(error.into());
    }
    let columns = carried.into_iter().chain(join.right.schema().columns().into_iter().map(Expr::Column));
    let mut plan = LogicalPlanBuilder::from(beside).project(columns)?;
    for (left, right) in &join.on {
        plan = plan.filter(left.clone().eq(right.clone()))?;
    }
    if let Some(filter) = &join.filter {
        plan = plan.filter(filter.clone())?;
    }
    Ok(Some(plan.build()?))
}

/// Whether the condition of a join always holds.
fn is_always(join: &Join) -> bool {
    join.filter.as_ref().is_none_or(|f| matches!(f, Expr::Literal(ScalarValue::Boolean(Some(true)), _)))
}

/// The plan over `rows` instead of over one row without columns; the columns of `rows` are `carried` along.
fn over_rows(plan: &LogicalPlan, rows: &LogicalPlan, carried: &[Expr]) -> DfResult<Option<LogicalPlan>> {
    let input = match plan {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => return Ok(Some(rows.clone())),
        LogicalPlan::Projection(p) => &p.input,
        LogicalPlan::Unnest(u) => &u.input,
        LogicalPlan::Filter(f) => &f.input,
        LogicalPlan::SubqueryAlias(a) => &a.input,
        LogicalPlan::Subquery(s) => &s.subquery,
        _ => return Ok(None),
    };
    let Some(below) = over_rows(input, rows, carried)? else { return Ok(None) };
    let builder = LogicalPlanBuilder::from(below);
    let builder = match plan {
        LogicalPlan::Projection(p) => {
            let exprs = p.expr.iter().map(of_these_rows).collect::<DfResult<Vec<_>>>()?;
            builder.project(exprs.into_iter().chain(carried.iter().cloned()))?
        }
        LogicalPlan::Filter(f) => builder.filter(of_these_rows(&f.predicate)?)?,
        LogicalPlan::Unnest(u) => builder.unnest_columns_with_options(u.exec_columns.clone(), u.options.clone())?,
        LogicalPlan::SubqueryAlias(a) => {
            let from = a.input.schema().columns().into_iter();
            let named = from.zip(a.schema.iter()).map(|(column, (qualifier, field))| {
                Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
            });
            builder.project(named.chain(carried.iter().cloned()))?
        }
        _ => builder,
    };
    Ok(Some(builder.build()?))
}

/// Columns of the rows beside are columns of the input now.
pub(super) fn of_these_rows(expr: &Expr) -> DfResult<Expr> {
    expr.clone()
        .transform_up(|e| match e {
            Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
            other => Ok(Transformed::no(other)),
        })
        .data()
}
