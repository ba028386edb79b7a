//! Uncorrelated scalar subqueries as joins with one row, and the refusal of subqueries that no rule replaces.
//!
//! Such a subquery becomes one row ([`SingleRow`]) that every row is joined with; DataFusion's own rewrite would multiply
//! rows where the subquery gives several. Correlated and lateral subqueries are left to DataFusion's rules, IN and EXISTS
//! were prepared for them when the query was planned.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result as DfResult};
use datafusion::logical_expr::expr_rewriter::{NamePreserver, create_col_from_scalar_expr};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery};

use super::single_row::{SingleRow, gives_one_row};
use crate::error::{Error, Result};

/// Replaces uncorrelated scalar subqueries in filters and projections.
pub fn replace_scalar_subqueries(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut rows = Rows { aliases: 0 };
    Ok(plan.transform_down_with_subqueries(|node| rows.replace_in(node)).data()?)
}

/// Refuses subqueries that nothing has replaced.
///
/// # Errors
/// 0A000 naming the kind of subquery.
pub fn refuse_subqueries(plan: &LogicalPlan) -> Result<()> {
    let mut left = None;
    plan.apply(|node| {
        if matches!(node, LogicalPlan::Subquery(subquery) if !subquery.outer_ref_columns.is_empty()) {
            left = Some("this lateral subquery");
        }
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                left = left.or(match e {
                    Expr::ScalarSubquery(_) => Some("a scalar subquery here"),
                    Expr::InSubquery(_) => Some("IN (subquery) here"),
                    Expr::Exists(_) => Some("EXISTS (subquery) here"),
                    Expr::SetComparison(_) => Some("ANY / ALL (subquery)"),
                    Expr::OuterReferenceColumn(..) => Some("a correlated subquery here"),
                    _ => None,
                });
                Ok(if left.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    left.map_or(Ok(()), |what| {
        Err(Error::unsupported(format!("{what} is not supported in a continuous view")).with_hint("write it as a join"))
    })
}

struct Rows {
    /// Names given so far.
    aliases: usize,
}

impl Rows {
    fn replace_in(&mut self, node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Filter(filter) if has_scalar_subquery(&filter.predicate) => {
                let columns = filter.input.schema().columns();
                let mut input = filter.input.as_ref().clone();
                let predicate = self.replace(filter.predicate, &mut input, &mut Vec::new())?;
                let plan = LogicalPlanBuilder::from(input).filter(predicate)?;
                Ok(Transformed::yes(plan.project(columns.into_iter().map(Expr::Column))?.build()?))
            }
            LogicalPlan::Projection(projection) if projection.expr.iter().any(has_scalar_subquery) => {
                let mut input = projection.input.as_ref().clone();
                let names = NamePreserver::new_for_projection();
                let mut known = Vec::new();
                let mut exprs = Vec::with_capacity(projection.expr.len());
                for expr in projection.expr {
                    let name = names.save(&expr);
                    exprs.push(name.restore(self.replace(expr, &mut input, &mut known)?));
                }
                Ok(Transformed::yes(LogicalPlanBuilder::from(input).project(exprs)?.build()?))
            }
            other => Ok(Transformed::no(other)),
        }
    }

    /// Replaces the subqueries in an expression by columns of rows that `input` is joined with, each once.
    fn replace(&mut self, expr: Expr, input: &mut LogicalPlan, known: &mut Vec<(Subquery, Expr)>) -> DfResult<Expr> {
        let replaced = expr.transform_up(|e| match e {
            Expr::ScalarSubquery(subquery) if subquery.outer_ref_columns.is_empty() => {
                let column = match known.iter().find(|(other, _)| *other == subquery) {
                    Some((_, column)) => column.clone(),
                    None => self.single_row(&subquery, input)?,
                };
                known.push((subquery, column.clone()));
                Ok(Transformed::yes(column))
            }
            other => Ok(Transformed::no(other)),
        });
        replaced.data()
    }

    fn single_row(&mut self, subquery: &Subquery, input: &mut LogicalPlan) -> DfResult<Expr> {
        self.aliases += 1;
        let alias = format!("__scalar_{}", self.aliases);
        let column: Column = match subquery.subquery.head_output_expr()? {
            Some(expr) => create_col_from_scalar_expr(&expr, alias.clone())?,
            None => return Err(Error::internal("a subquery has no column").into()),
        };
        let plan = subquery.subquery.as_ref().clone();
        let row = if gives_one_row(&plan) { plan } else { SingleRow::plan(plan)? };
        let row = LogicalPlanBuilder::from(row).alias(alias)?.build()?;
        *input = LogicalPlanBuilder::from(input.clone()).cross_join(row)?.build()?;
        Ok(Expr::Column(column))
    }
}

fn has_scalar_subquery(expr: &Expr) -> bool {
    let is_scalar = |e: &Expr| Ok(matches!(e, Expr::ScalarSubquery(s) if s.outer_ref_columns.is_empty()));
    expr.exists(is_scalar).unwrap_or(false)
}
