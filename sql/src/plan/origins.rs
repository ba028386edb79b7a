//! Where the columns of a query come from, for clients that change rows in the place where they show them.

use datafusion_expr::{Expr, LogicalPlan};
use millstream_catalog::ObjectId;

use crate::context::CatalogSource;

/// A relation, and the number of one of its columns, from 1.
pub type Origin = (ObjectId, usize);

/// The origin of each column of a plan: those that pass a column of a relation on as it is.
pub(crate) fn origins(plan: &LogicalPlan) -> Vec<Option<Origin>> {
    let width = plan.schema().fields().len();
    match plan {
        LogicalPlan::Projection(node) => {
            let inner = origins(&node.input);
            let of = |expr: &Expr| match passed_on(expr) {
                Some(column) => node.input.schema().maybe_index_of_column(column).and_then(|i| inner[i]),
                None => None,
            };
            node.expr.iter().map(of).collect()
        }
        LogicalPlan::Filter(node) => origins(&node.input),
        LogicalPlan::Sort(node) => origins(&node.input),
        LogicalPlan::Limit(node) => origins(&node.input),
        LogicalPlan::SubqueryAlias(node) => origins(&node.input),
        LogicalPlan::Join(node) => {
            let both: Vec<_> = origins(&node.left).into_iter().chain(origins(&node.right)).collect();
            if both.len() == width { both } else { vec![None; width] }
        }
        LogicalPlan::TableScan(scan) => {
            let Some(id) = CatalogSource::of(&scan.source).and_then(CatalogSource::object) else {
                return vec![None; width];
            };
            match &scan.projection {
                Some(columns) => columns.iter().map(|i| Some((id, i + 1))).collect(),
                None => (1..=width).map(|number| Some((id, number))).collect(),
            }
        }
        _ => vec![None; width],
    }
}

/// The column that an expression is, under another name perhaps.
fn passed_on(expr: &Expr) -> Option<&datafusion_common::Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => passed_on(&alias.expr),
        _ => None,
    }
}
