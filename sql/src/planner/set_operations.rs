//! INTERSECT ALL and EXCEPT ALL with the multiplicities of the standard, which DataFusion's semi and anti joins do not give.
//!
//! A row that is m times on the left and n times on the right is min(m, n) times in the intersection and max(m - n, 0)
//! times in the difference: both sides are counted together, and each row is put out as often as that says.

use datafusion_common::tree_node::{Transformed, TransformedResult};
use datafusion_common::{Column, JoinType, NullEquality, Result as DfResult, ScalarValue, UnnestOptions};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, lit, when};
use datafusion_functions_aggregate::expr_fn::count;

use crate::error::Result;

/// Replaces the joins that DataFusion makes of INTERSECT ALL and EXCEPT ALL.
pub(crate) fn exact_multiplicities(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_all(&join) => Ok(Transformed::yes(counted(&join)?)),
        other => Ok(Transformed::no(other)),
    });
    Ok(done.data()?)
}

/// Whether a join is that of a set operation with ALL: no query can write such a join otherwise. Without ALL the left side
/// is made distinct; if it was so already, ALL makes no difference.
fn is_all(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
}

fn counted(join: &Join) -> DfResult<LogicalPlan> {
    let width = join.left.schema().fields().len();
    let name = |i: usize| format!("__column_{i}");
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let (one, none) = (lit(1_i64), lit(ScalarValue::Int64(None)));
    let side = |plan: &LogicalPlan, left: &Expr, right: &Expr| {
        let columns = plan.schema().columns().into_iter().enumerate();
        let columns = columns.map(|(i, c)| Expr::Column(c).alias(name(i)));
        let counts = [left.clone().alias("__left"), right.clone().alias("__right")];
        LogicalPlanBuilder::from(plan.clone()).project(columns.chain(counts))?.build()
    };
    let columns: Vec<Expr> = (0..width).map(|i| column(&name(i))).collect();
    let (left, right) = (column("__left"), column("__right"));
    let copies = match join.join_type {
        JoinType::LeftSemi => when(left.clone().lt(right.clone()), left).otherwise(right)?,
        _ => left - right,
    };
    let series = datafusion_functions_nested::range::gen_series_udf();
    let list = Expr::ScalarFunction(ScalarFunction::new_udf(series, vec![one.clone(), copies])).alias("__copies");
    let counts = [count(column("__left")).alias("__left"), count(column("__right")).alias("__right")];
    let result = join
        .left
        .schema()
        .iter()
        .enumerate()
        .map(|(i, (qualifier, field))| column(&name(i)).alias_qualified(qualifier.cloned(), field.name()));
    LogicalPlanBuilder::from(side(&join.left, &one, &none)?)
        .union(side(&join.right, &none, &one)?)?
        .aggregate(columns.clone(), counts)?
        .project(columns.into_iter().chain([list]))?
        .unnest_column_with_options("__copies", UnnestOptions::new().with_preserve_nulls(false))?
        .project(result)?
        .build()
}
