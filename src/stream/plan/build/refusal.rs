//! The refusal of a plan node that no operator keeps.

use datafusion::logical_expr::LogicalPlan;

use crate::error::Error;

/// The error that names the construct.
pub(super) fn refusal(plan: &LogicalPlan) -> Error {
    let construct = match plan {
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => "ORDER BY ... LIMIT",
        LogicalPlan::Window(_) => "OVER",
        LogicalPlan::Distinct(_) => "DISTINCT ON",
        LogicalPlan::RecursiveQuery(_) => "WITH RECURSIVE",
        LogicalPlan::Subquery(_) => "a correlated subquery",
        LogicalPlan::Repartition(_) => "repartitioning",
        LogicalPlan::Extension(e) => {
            return Error::unsupported(format!("{} is not supported in a continuous view", e.node.name()));
        }
        _ => "this construct",
    };
    Error::unsupported(format!("{construct} is not supported in a continuous view"))
}
