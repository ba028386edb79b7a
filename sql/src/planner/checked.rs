//! Checked arithmetic in place of DataFusion's wrapping one, wherever an operator has slipped past the planner.

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::expr::{Cast, ScalarFunction};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

use millstream_catalog::SqlType;

use super::rewrite::each_named;
use crate::error::Result;
use crate::functions::arithmetic;
use crate::functions::cast::cast;

/// Replaces `+ - * / %` and unary minus on numbers by functions that report overflow (22003) and division by zero
/// (22012), and casts from numeric to floats by ones that round once. Runs after type coercion; running it again changes nothing, and output names stay.
///
/// Types stay too, except for decimals, where DataFusion and PostgreSQL disagree about scales; queries have such operators
/// replaced before coercion, so only expressions that an optimizer makes up meet this.
pub fn checked_arithmetic(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let inputs = node.inputs();
        let schema = if inputs.is_empty() { node.schema().as_ref().clone() } else { merge_schema(&inputs) };
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            each_named(expr, &names, &mut |expr| {
                expr.transform_up(|e| {
                    Ok(match checked(&e, &schema) {
                        Some(function) => Transformed::yes(function),
                        None => Transformed::no(e),
                    })
                })
            })
        })?;
        if node.transformed { node.map_data(LogicalPlan::recompute_schema) } else { Ok(node) }
    })?;
    Ok(done.data)
}

fn checked(expr: &Expr, schema: &datafusion_common::DFSchema) -> Option<Expr> {
    let is_number = |e: &Expr| e.get_type(schema).is_ok_and(|t| t.is_numeric());
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_number(left) && is_number(right) => {
            let op = match op {
                Operator::Plus => arithmetic::Op::Add,
                Operator::Minus => arithmetic::Op::Sub,
                Operator::Multiply => arithmetic::Op::Mul,
                Operator::Divide => arithmetic::Op::Div,
                Operator::Modulo => arithmetic::Op::Rem,
                _ => return None,
            };
            let args = vec![left.as_ref().clone(), right.as_ref().clone()];
            Some(Expr::ScalarFunction(ScalarFunction::new_udf(arithmetic::binary(op), args)))
        }
        Expr::Negative(inner) if is_number(inner) => {
            Some(Expr::ScalarFunction(ScalarFunction::new_udf(arithmetic::negate(), vec![inner.as_ref().clone()])))
        }
        Expr::Cast(Cast { expr: inner, field }) if field.data_type().is_floating() => {
            let is_decimal = inner.get_type(schema).is_ok_and(|t| t.is_decimal());
            let target = SqlType::of(field).filter(|_| is_decimal)?;
            Some(cast(inner.as_ref().clone(), &target, false, "UTC"))
        }
        _ => None,
    }
}
