//! IN and EXISTS with their truth values, where DataFusion's rules would be wrong or do not reach.
//!
//! `x IN (SELECT y …)` is true for a match; else false if the subquery gives no row, NULL if x or a y is NULL, else false. A
//! mark join says whether there is a match, an aggregate over the subquery what there is beside. Where only true counts, a
//! semi join does, which DataFusion's rule makes; so it does EXISTS in a WHERE. Scalar subqueries are left as they are.
//!
//! Whatever is correlated in a way that DataFusion's rules would get wrong is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, ExprSchema, JoinType, Result as DfResult, ScalarValue};
use datafusion_expr::expr::{Exists, InSubquery};
use datafusion_expr::expr_rewriter::{NamePreserver, create_col_from_scalar_expr};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, when,
};
use datafusion_functions_aggregate::expr_fn::count;
use datafusion_optimizer::decorrelate::PullUpCorrelatedExpr;

use crate::error::{Result, SqlError};

/// Replaces IN and EXISTS where their truth values need it, in a plan whose types are settled.
///
/// # Errors
/// 0A000 for subqueries whose correlation cannot be resolved.
pub(crate) fn replace_subqueries(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut joins = Joins { aliases: 0 };
    Ok(plan.transform_down_with_subqueries(|node| joins.replace_in(node)).data()?)
}

fn refused(what: &str) -> SqlError {
    SqlError::unsupported(format!("{what} is not supported")).with_hint("write it as a join")
}

/// A subquery without its correlated conditions, which have become conditions between it and the outer query.
struct Decorrelated {
    plan: LogicalPlan,
    conditions: Vec<Expr>,
}

struct Joins {
    /// Names given so far.
    aliases: usize,
}

impl Joins {
    fn replace_in(&mut self, node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Filter(filter) if has_subquery(&filter.predicate) => {
                let columns = filter.input.schema().columns();
                let mut input = filter.input.as_ref().clone();
                let mut conditions = Vec::new();
                let mut changed = false;
                for condition in split_conjunction_owned(filter.predicate.clone()) {
                    let named = condition.transform_up(with_own_names)?;
                    changed |= named.transformed;
                    let condition = named.data;
                    if let Some(subquery) = semi_or_anti(&condition) {
                        check_correlation(subquery, Use::Exists)?;
                        conditions.push(condition);
                        continue;
                    }
                    let replaced = self.replace(condition, &mut input, true)?;
                    changed |= replaced.transformed;
                    conditions.push(replaced.data);
                }
                let (true, Some(predicate)) = (changed, conjunction(conditions)) else {
                    return Ok(Transformed::no(LogicalPlan::Filter(filter)));
                };
                let plan = LogicalPlanBuilder::from(input).filter(predicate)?;
                Ok(Transformed::yes(plan.project(columns.into_iter().map(Expr::Column))?.build()?))
            }
            LogicalPlan::Projection(projection) if projection.expr.iter().any(has_subquery) => {
                let mut input = projection.input.as_ref().clone();
                let mut changed = false;
                let names = NamePreserver::new_for_projection();
                let mut exprs = Vec::with_capacity(projection.expr.len());
                for expr in projection.expr.clone() {
                    let name = names.save(&expr);
                    let expr = expr.transform_up(with_own_names).data()?;
                    let replaced = self.replace(expr, &mut input, false)?;
                    changed |= replaced.transformed;
                    exprs.push(name.restore(replaced.data));
                }
                if !changed {
                    return Ok(Transformed::no(LogicalPlan::Projection(projection)));
                }
                Ok(Transformed::yes(LogicalPlanBuilder::from(input).project(exprs)?.build()?))
            }
            other => Ok(Transformed::no(other)),
        }
    }

    /// Replaces the subqueries in an expression by columns of joins that are put onto `input`. In a filter, EXISTS stays:
    /// DataFusion's rule makes the same mark join of it.
    fn replace(&mut self, expr: Expr, input: &mut LogicalPlan, in_filter: bool) -> DfResult<Transformed<Expr>> {
        expr.transform_up(|e| match e {
            Expr::ScalarSubquery(subquery) => {
                check_correlation(&subquery, Use::Scalar)?;
                Ok(Transformed::no(Expr::ScalarSubquery(subquery)))
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                let is_in = self.three_valued_in(*expr, &subquery, input)?;
                Ok(Transformed::yes(if negated { !is_in } else { is_in }))
            }
            Expr::Exists(Exists { subquery, negated }) => {
                check_correlation(&subquery, Use::Exists)?;
                if in_filter {
                    return Ok(Transformed::no(Expr::Exists(Exists { subquery, negated })));
                }
                let alias = self.alias();
                let Decorrelated { plan, conditions } = decorrelate(&subquery, &alias, true)?;
                let mark = mark_join(input, plan, &alias, conditions)?;
                Ok(Transformed::yes(if negated { !mark } else { mark }))
            }
            other => Ok(Transformed::no(other)),
        })
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("__in_{}", self.aliases)
    }

    /// `x IN (subquery)` with its three truth values.
    fn three_valued_in(&mut self, x: Expr, subquery: &Subquery, input: &mut LogicalPlan) -> DfResult<Expr> {
        check_correlation(subquery, Use::In)?;
        let alias = self.alias();
        let y = output_column(subquery, &alias)?;
        let Decorrelated { plan, mut conditions } = decorrelate(subquery, &alias, false)?;
        let may_be_null = x.nullable(input.schema())? || plan.schema().field_from_column(&y)?.is_nullable();
        let nulls = match may_be_null {
            true => Some(self.what_there_is(subquery, input)?),
            false => None,
        };
        conditions.insert(0, x.clone().eq(Expr::Column(y)));
        let mark = mark_join(input, plan, &alias, conditions)?;
        let Some((has_rows, has_null)) = nulls else { return Ok(mark) };
        when(mark, lit(true))
            .when(has_rows.is_not_true(), lit(false))
            .when(x.is_null().or(has_null), lit(ScalarValue::Boolean(None)))
            .otherwise(lit(false))
    }

    /// Joins `input` with two facts about the subquery's rows that belong to each row: whether there are any, and whether
    /// one of them is NULL.
    fn what_there_is(&mut self, subquery: &Subquery, input: &mut LogicalPlan) -> DfResult<(Expr, Expr)> {
        let alias = self.alias();
        let y = output_column(subquery, &alias)?;
        let Decorrelated { plan, conditions } = decorrelate(subquery, &alias, false)?;
        let mut keys = Vec::new();
        for condition in &conditions {
            let sides = equal_sides(condition, &plan);
            keys.push(
                sides.ok_or_else(|| refused("NOT IN over a subquery that is correlated by other than equality"))?,
            );
        }
        let inputs = keys.iter().enumerate().map(|(i, (_, inner))| inner.clone().alias(format!("key_{i}")));
        let names: Vec<Expr> =
            (0..keys.len()).map(|i| Expr::Column(Column::new_unqualified(format!("key_{i}")))).collect();
        let column = |name: &str| Expr::Column(Column::new_unqualified(name));
        let facts = [
            column("rows").gt(lit(0_i64)).alias("has_rows"),
            column("rows").not_eq(column("values")).alias("has_null"),
        ];
        let facts_alias = self.alias();
        let facts = LogicalPlanBuilder::from(plan)
            .project(inputs.chain([Expr::Column(y).alias("value")]))?
            .aggregate(names.clone(), [count(lit(1_i64)).alias("rows"), count(column("value")).alias("values")])?
            .project(names.into_iter().chain(facts))?
            .alias(facts_alias.clone())?
            .build()?;
        let of = |name: String| Expr::Column(Column::new(Some(facts_alias.clone()), name));
        let on = keys.iter().enumerate().map(|(i, (outer, _))| outer.clone().eq(of(format!("key_{i}"))));
        let outer = LogicalPlanBuilder::from(input.clone());
        *input = match keys.is_empty() {
            true => outer.cross_join(facts)?.build()?,
            false => outer.join_on(facts, JoinType::Left, on)?.build()?,
        };
        Ok((of("has_rows".into()), of("has_null".into())))
    }
}

/// What a subquery is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Scalar,
    In,
    Exists,
}

/// The subquery of a condition that DataFusion turns into a semi or anti join, which is right for it.
fn semi_or_anti(condition: &Expr) -> Option<&Subquery> {
    match condition {
        Expr::InSubquery(InSubquery { expr, subquery, negated: false }) if !has_subquery(expr) => Some(subquery),
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::Not(inner) => match inner.as_ref() {
            Expr::Exists(exists) => Some(&exists.subquery),
            _ => None,
        },
        _ => None,
    }
}

/// Refuses correlation that DataFusion's pull-up of conditions gets wrong or does not see.
fn check_correlation(subquery: &Subquery, used: Use) -> Result<()> {
    if subquery.outer_ref_columns.is_empty() {
        return Ok(());
    }
    let construct = obstacle(&subquery.subquery, used);
    construct.map_or(Ok(()), |what| Err(refused(&format!("a correlated subquery with {what}"))))
}

/// The construct between the top of a subquery and its correlated conditions that these cannot be pulled through.
fn obstacle(plan: &LogicalPlan, used: Use) -> Option<&'static str> {
    let refers = |plan: &LogicalPlan| !plan.all_out_ref_exprs().is_empty();
    if !refers(plan) {
        return None;
    }
    let here = match plan {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::TableScan(_) => None,
        // Without a group there is a row also where nothing matches, which the join does not give.
        LogicalPlan::Aggregate(a) if a.group_expr.is_empty() && used != Use::Scalar => {
            Some("an aggregate without GROUP BY")
        }
        LogicalPlan::Aggregate(_) => None,
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner => None,
        LogicalPlan::Join(_) => Some("an outer join, EXISTS or set operation"),
        LogicalPlan::Union(_) => Some("UNION"),
        LogicalPlan::Window(_) => Some("OVER"),
        // EXISTS does not care how many rows there are.
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) if used == Use::Exists => None,
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => Some("ORDER BY or LIMIT"),
        _ => Some("this construct"),
    };
    here.or_else(|| plan.inputs().into_iter().find_map(|input| obstacle(input, used)))
}

/// The name of the computed column at position `i` of a correlated subquery.
fn own_name(i: usize) -> String {
    format!("__value_{i}")
}

/// Gives the computed columns of a correlated subquery names of our own: the columns that its correlated conditions need
/// are put beside them, and may have the names that they had.
fn with_own_names(expr: Expr) -> DfResult<Transformed<Expr>> {
    let subquery = match &expr {
        Expr::InSubquery(is_in) => &is_in.subquery,
        Expr::Exists(exists) => &exists.subquery,
        _ => return Ok(Transformed::no(expr)),
    };
    // Those that have such a name already are left: the plan is walked from above, and what this gives is walked again.
    let is_kept = |i: usize, e: &Expr| match e {
        Expr::Column(_) => true,
        Expr::Alias(alias) => alias.relation.is_none() && alias.name == own_name(i),
        _ => false,
    };
    let projection = match subquery.subquery.as_ref() {
        LogicalPlan::Projection(p)
            if !subquery.outer_ref_columns.is_empty() && !p.expr.iter().enumerate().all(|(i, e)| is_kept(i, e)) =>
        {
            p
        }
        _ => return Ok(Transformed::no(expr)),
    };
    let columns = projection.expr.iter().enumerate().map(|(i, e)| match is_kept(i, e) {
        true => e.clone(),
        false => e.clone().unalias().alias(own_name(i)),
    });
    let plan = LogicalPlanBuilder::from(projection.input.as_ref().clone()).project(columns)?.build()?;
    let subquery = subquery.with_plan(Arc::new(plan));
    Ok(Transformed::yes(match expr {
        Expr::InSubquery(is_in) => Expr::InSubquery(InSubquery { subquery, ..is_in }),
        Expr::Exists(exists) => Expr::Exists(Exists { subquery, ..exists }),
        other => other,
    }))
}

/// Takes the correlated conditions out of a subquery, which gets a name.
fn decorrelate(subquery: &Subquery, alias: &str, exists: bool) -> Result<Decorrelated> {
    let mut pull_up = PullUpCorrelatedExpr::new().with_exists_sub_query(exists);
    let plan = subquery.subquery.as_ref().clone().rewrite(&mut pull_up).data()?;
    if !pull_up.can_pull_up {
        return Err(refused("a subquery with this correlation"));
    }
    let columns: BTreeSet<Column> = pull_up.correlated_subquery_cols_map.values().flatten().cloned().collect();
    let of_alias = |expr: Expr| {
        expr.transform_up(|e| match e {
            Expr::Column(c) if columns.contains(&c) => {
                Ok(Transformed::yes(Expr::Column(Column::new(Some(alias), c.name))))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
    };
    let conditions = pull_up.join_filters.into_iter().map(of_alias).collect::<DfResult<Vec<_>>>()?;
    Ok(Decorrelated { plan: LogicalPlanBuilder::from(plan).alias(alias)?.build()?, conditions })
}

/// The one column of a subquery that has got a name.
fn output_column(subquery: &Subquery, alias: &str) -> DfResult<Column> {
    match subquery.subquery.head_output_expr()? {
        Some(expr) => create_col_from_scalar_expr(&expr, alias.to_string()),
        None => Err(SqlError::internal("a subquery has no column").into()),
    }
}

/// Joins `input` with the subquery's rows that pass `conditions`; the column says whether there is one.
fn mark_join(input: &mut LogicalPlan, plan: LogicalPlan, alias: &str, conditions: Vec<Expr>) -> DfResult<Expr> {
    let conditions = if conditions.is_empty() { vec![lit(true)] } else { conditions };
    *input = LogicalPlanBuilder::from(input.clone()).join_on(plan, JoinType::LeftMark, conditions)?.build()?;
    Ok(Expr::Column(Column::new(Some(alias), "mark")))
}

/// The sides of an equality between the outer query and `inner`, in this order.
fn equal_sides(condition: &Expr, inner: &LogicalPlan) -> Option<(Expr, Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
    let is_inner = |e: &Expr| {
        let refs = e.column_refs();
        !refs.is_empty() && refs.iter().all(|c| inner.schema().has_column(c))
    };
    let is_outer = |e: &Expr| e.column_refs().iter().all(|c| !inner.schema().has_column(c));
    match (left.as_ref(), right.as_ref()) {
        (l, r) if is_outer(l) && is_inner(r) => Some((l.clone(), r.clone())),
        (l, r) if is_inner(l) && is_outer(r) => Some((r.clone(), l.clone())),
        _ => None,
    }
}

fn has_subquery(expr: &Expr) -> bool {
    let is_subquery = |e: &Expr| Ok(matches!(e, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_)));
    expr.exists(is_subquery).unwrap_or(false)
}
