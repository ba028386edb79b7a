//! `LATERAL (SELECT … FROM u WHERE u.k = t.k ORDER BY x LIMIT n)`: the first rows for each row beside it, as a join with the
//! rows of `u` that are numbered within each `k`, where DataFusion leaves a lateral join that it cannot run.

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, JoinType, Result as DfResult};
use datafusion_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{
    BinaryExpr, Expr, FetchType, Join, Limit, LogicalPlan, LogicalPlanBuilder, Operator, SkipType, Sort, Window,
    WindowFrame, WindowFunctionDefinition, lit,
};

use super::lateral_rows::of_these_rows;
use crate::error::{Result, SqlError};
use crate::functions;

/// Replaces the joins with the first rows for each row beside them. Output columns stay.
///
/// # Errors
/// 0A000 where the rows are found by other than equality.
pub(crate) fn lateral_tops(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if has_limit(&join.right) => match joined(&join)? {
            Some(plan) => Ok(Transformed::yes(plan)),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    });
    Ok(done.data()?)
}

/// Whether a plan is a correlated subquery with a LIMIT of its own.
fn has_limit(plan: &LogicalPlan) -> bool {
    fn limits(plan: &LogicalPlan) -> bool {
        match plan {
            LogicalPlan::Limit(_) => true,
            LogicalPlan::Projection(p) => limits(&p.input),
            LogicalPlan::SubqueryAlias(a) => limits(&a.input),
            LogicalPlan::Filter(f) => limits(&f.input),
            _ => false,
        }
    }
    match plan {
        LogicalPlan::SubqueryAlias(a) => has_limit(&a.input),
        LogicalPlan::Projection(p) => has_limit(&p.input),
        LogicalPlan::Subquery(s) => !s.outer_ref_columns.is_empty() && limits(&s.subquery),
        _ => false,
    }
}

fn joined(join: &Join) -> DfResult<Option<LogicalPlan>> {
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return Ok(None);
    }
    let mut keys = Keys::default();
    let Some(right) = uncorrelated(&join.right, &mut keys)? else { return Ok(None) };
    let (mut outer, mut inner): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
    for (key, expr) in keys.columns().into_iter().zip(&keys.outer) {
        outer.push(of_these_rows(expr)?);
        inner.push(key);
    }
    let columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let plan = LogicalPlanBuilder::from(join.left.as_ref().clone())
        .join_with_expr_keys(right, join.join_type, (outer, inner), join.filter.clone())?
        .project(columns)?
        .build()?;
    Ok(Some(plan))
}

/// What the rows of the subquery are found by.
#[derive(Default)]
struct Keys {
    /// Expressions over the rows beside, one for each key column of the subquery.
    outer: Vec<Expr>,
}

impl Keys {
    /// The key columns, which every operator of the subquery passes on.
    fn columns(&self) -> Vec<Expr> {
        (0..self.outer.len()).map(|i| Expr::Column(Column::from_name(name(i)))).collect()
    }
}

fn name(key: usize) -> String {
    format!("__lateral_key_{key}")
}

/// The plan without the conditions that name the rows beside it, with what these compare as key columns behind its own.
fn uncorrelated(plan: &LogicalPlan, keys: &mut Keys) -> DfResult<Option<LogicalPlan>> {
    let (LogicalPlan::Filter(_)
    | LogicalPlan::Limit(_)
    | LogicalPlan::Projection(_)
    | LogicalPlan::Sort(_)
    | LogicalPlan::SubqueryAlias(_)
    | LogicalPlan::Subquery(_)) = plan
    else {
        return Ok(None);
    };
    if let LogicalPlan::Filter(filter) = plan
        && filter.predicate.contains_outer()
    {
        return if is_correlated(&filter.input)? {
            Ok(None)
        } else {
            keyed(&filter.predicate, &filter.input, keys).map(Some)
        };
    }
    if let LogicalPlan::Limit(limit) = plan {
        return numbered(limit, keys);
    }
    let Some(input) = plan.inputs().first().copied().map(|input| uncorrelated(input, keys)).transpose()?.flatten()
    else {
        return Ok(None);
    };
    let builder = LogicalPlanBuilder::from(input);
    let builder = match plan {
        LogicalPlan::Filter(f) => builder.filter(f.predicate.clone())?,
        LogicalPlan::Sort(s) => builder.sort(s.expr.clone())?,
        LogicalPlan::Projection(p) if p.expr.iter().any(ContainsOuter::contains_outer) => return Ok(None),
        LogicalPlan::Projection(p) => builder.project(p.expr.iter().cloned().chain(keys.columns()))?,
        LogicalPlan::SubqueryAlias(a) => {
            let from = a.input.schema().columns().into_iter();
            let named = from.zip(a.schema.iter()).map(|(column, (qualifier, field))| {
                Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
            });
            builder.project(named.chain(keys.columns()))?
        }
        _ => builder,
    };
    Ok(Some(builder.build()?))
}

/// The rows of `input` that meet the part of a condition that is theirs alone, with the key columns of the rest.
fn keyed(predicate: &Expr, input: &LogicalPlan, keys: &mut Keys) -> DfResult<LogicalPlan> {
    let (theirs, rest): (Vec<&Expr>, Vec<&Expr>) =
        split_conjunction(predicate).into_iter().partition(|part| !part.contains_outer());
    let mut columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    for part in rest {
        let sides = match part {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => Some((left.as_ref(), right.as_ref())),
            _ => None,
        };
        let is_outer = |e: &Expr| e.contains_outer() && e.column_refs().is_empty();
        let (outer, inner) = match sides {
            Some((l, r)) if is_outer(l) && !r.contains_outer() => (l, r),
            Some((l, r)) if is_outer(r) && !l.contains_outer() => (r, l),
            _ => {
                return Err(SqlError::unsupported(
                    "LATERAL with LIMIT whose rows are found by other than equality is not supported",
                )
                .with_hint("compare a column of the subquery with one of the rows beside it by =")
                .into());
            }
        };
        columns.push(inner.clone().alias(name(keys.outer.len())));
        keys.outer.push(outer.clone());
    }
    let builder = LogicalPlanBuilder::from(input.clone());
    let builder = match conjunction(theirs.into_iter().cloned()) {
        Some(condition) => builder.filter(condition)?,
        None => builder,
    };
    builder.project(columns)?.build()
}

/// The rows that a LIMIT lets through for each key.
fn numbered(limit: &Limit, keys: &mut Keys) -> DfResult<Option<LogicalPlan>> {
    let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?) else {
        return Err(SqlError::unsupported("LATERAL with a LIMIT that is not a number is not supported").into());
    };
    let (projection, sort): (_, Option<&Sort>) = match limit.input.as_ref() {
        LogicalPlan::Sort(sort) => (None, Some(sort)),
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            LogicalPlan::Sort(sort) => (Some(projection), Some(sort)),
            _ => (None, None),
        },
        _ => (None, None),
    };
    let rows = sort.map_or(&limit.input, |sort| &sort.input);
    let Some(input) = uncorrelated(rows, keys)? else { return Ok(None) };
    let columns = rows.schema().columns().into_iter().map(Expr::Column).chain(keys.columns());
    let row_number =
        functions::window("row_number").ok_or_else(|| SqlError::internal("row_number is not registered"))?;
    let number = Expr::WindowFunction(Box::new(WindowFunction {
        fun: WindowFunctionDefinition::WindowUDF(row_number),
        params: WindowFunctionParams {
            args: Vec::new(),
            partition_by: keys.columns(),
            order_by: sort.map_or_else(Vec::new, |sort| sort.expr.clone()),
            window_frame: WindowFrame::new(sort.map(|_| false)),
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    }));
    let window = LogicalPlan::Window(Window::try_new(vec![number], input.into())?);
    let (qualifier, field) = window.schema().qualified_field(window.schema().fields().len() - 1);
    let number = Expr::Column(Column::new(qualifier.cloned(), field.name()));
    let mut builder = LogicalPlanBuilder::from(window);
    if skip > 0 {
        builder = builder.filter(number.clone().gt(lit(skip as i64)))?;
    }
    if let Some(fetch) = fetch {
        builder = builder.filter(number.lt_eq(lit(skip.saturating_add(fetch) as i64)))?;
    }
    builder = builder.project(columns)?;
    if let Some(projection) = projection {
        if projection.expr.iter().any(ContainsOuter::contains_outer) {
            return Ok(None);
        }
        builder = builder.project(projection.expr.iter().cloned().chain(keys.columns()))?;
    }
    Ok(Some(builder.build()?))
}

trait ContainsOuter {
    /// Whether an expression names a row beside the subquery.
    fn contains_outer(&self) -> bool;
}

impl ContainsOuter for Expr {
    fn contains_outer(&self) -> bool {
        self.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(..)))).unwrap_or(true)
    }
}

/// Whether an expression anywhere in a plan names a row beside it.
fn is_correlated(plan: &LogicalPlan) -> DfResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= node.expressions().iter().any(ContainsOuter::contains_outer);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
