//! A pass from the inputs of a plan up to its root that comes to a node's inputs before its subqueries.
//!
//! A subquery names columns of the query around it with the types that they had when the subquery was planned. The pass may
//! change those, so the names get the new ones before it goes into the subquery. DataFusion's own pass takes the subqueries
//! first.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, Result};
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Expr, LogicalPlan};
use recursive::recursive;

/// Changes every node of a plan and of its subqueries: inputs first, then subqueries, then the node.
pub(super) fn transform_up(
    plan: LogicalPlan,
    change: &mut dyn FnMut(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
) -> Result<LogicalPlan> {
    Ok(transform(plan, change)?.data)
}

#[recursive]
fn transform(
    plan: LogicalPlan,
    change: &mut dyn FnMut(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
) -> Result<Transformed<LogicalPlan>> {
    // Only a lateral join's right side knows another input: the left one.
    let mut before: Option<Arc<DFSchema>> = None;
    let done = plan.map_children(|input| {
        let input = match &before {
            Some(outer) => with_types_of(input, outer)?,
            None => input,
        };
        let done = transform(input, change)?;
        before.get_or_insert_with(|| done.data.schema().clone());
        Ok(done)
    })?;
    let done = done.transform_data(|node| {
        let outer = merge_schema(&node.inputs());
        node.map_subqueries(|subquery| transform(with_types_of(subquery, &outer)?, change))
    })?;
    done.transform_data(change)
}

/// The plan with its columns of the query around it in that query's types. What a nearer query has under the same name gets
/// its type when the pass comes there.
fn with_types_of(plan: LogicalPlan, outer: &DFSchema) -> Result<LogicalPlan> {
    let done = plan.transform_down_with_subqueries(|node| {
        if let LogicalPlan::Subquery(mut subquery) = node {
            for column in &mut subquery.outer_ref_columns {
                *column = typed(column.clone(), outer)?.data;
            }
            return Ok(Transformed::yes(LogicalPlan::Subquery(subquery)));
        }
        node.map_expressions(|expr| typed(expr, outer))
    })?;
    Ok(done.data)
}

fn typed(expr: Expr, outer: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|e| match e {
        Expr::OuterReferenceColumn(before, column) => {
            let now = outer.qualified_field_from_column(&column).ok().map(|(_, field)| field);
            Ok(match now {
                Some(now) if now.data_type() != before.data_type() => {
                    Transformed::yes(Expr::OuterReferenceColumn(now.clone(), column))
                }
                _ => Transformed::no(Expr::OuterReferenceColumn(before, column)),
            })
        }
        other => Ok(Transformed::no(other)),
    })
}
