//! `FROM t, unnest(t.list) AS x`: the list is unnested beside the columns of the rows that it comes from, where DataFusion
//! leaves a lateral join that it cannot run.

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{JoinType, Result as DfResult};
use datafusion_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder};

use crate::error::{Result, SqlError};

/// Replaces the joins with an unnested list of the rows beside it.
///
/// # Errors
/// 0A000 for outer joins with such a list.
pub(crate) fn lateral_unnests(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_lateral_unnest(&join.right) => match unnested(&join)? {
            Some(plan) => Ok(Transformed::yes(plan)),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    });
    Ok(done.data()?)
}

/// Whether a plan is an unnest of what is computed from the rows beside it alone.
fn is_lateral_unnest(plan: &LogicalPlan) -> bool {
    fn has_unnest(plan: &LogicalPlan) -> bool {
        match plan {
            LogicalPlan::Unnest(_) => true,
            LogicalPlan::Projection(p) => has_unnest(&p.input),
            LogicalPlan::SubqueryAlias(a) => has_unnest(&a.input),
            _ => false,
        }
    }
    match plan {
        LogicalPlan::SubqueryAlias(a) => is_lateral_unnest(&a.input),
        LogicalPlan::Projection(p) => is_lateral_unnest(&p.input),
        LogicalPlan::Subquery(s) => !s.outer_ref_columns.is_empty() && has_unnest(&s.subquery),
        _ => false,
    }
}

fn unnested(join: &Join) -> DfResult<Option<LogicalPlan>> {
    let carried: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    let Some(beside) = over_rows(&join.right, &join.left, &carried)? else { return Ok(None) };
    if join.join_type != JoinType::Inner {
        let error = SqlError::unsupported("an outer join with unnest() of the other side's list is not supported")
            .with_hint("unnest coalesce(list, ARRAY[NULL]), or write a comma instead of the join");
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

/// The plan over `rows` instead of over one row without columns; the columns of `rows` are `carried` along.
fn over_rows(plan: &LogicalPlan, rows: &LogicalPlan, carried: &[Expr]) -> DfResult<Option<LogicalPlan>> {
    let input = match plan {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => return Ok(Some(rows.clone())),
        LogicalPlan::Projection(p) => &p.input,
        LogicalPlan::Unnest(u) => &u.input,
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
fn of_these_rows(expr: &Expr) -> DfResult<Expr> {
    expr.clone()
        .transform_up(|e| match e {
            Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
            other => Ok(Transformed::no(other)),
        })
        .data()
}
