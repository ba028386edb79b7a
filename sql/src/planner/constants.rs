//! Constant parts of a query are computed while it is planned, as in PostgreSQL: only so is it known that one of them is
//! NULL, beside which a strict operator or function never looks at its other operand.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, Volatility};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::create_physical_expr;
use millstream_catalog::SqlType;
use millstream_catalog::types::field_ref;

use super::operators::type_of;
use crate::error::Result;

/// DataFusion's functions that are NULL where an argument is, as PostgreSQL's of the same names.
const STRICT: [&str; 30] = [
    "ascii",
    "btrim",
    "character_length",
    "chr",
    "date_bin",
    "initcap",
    "left",
    "lower",
    "lpad",
    "ltrim",
    "md5",
    "octet_length",
    "overlay",
    "regexp_count",
    "regexp_like",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substring",
    "to_hex",
    "translate",
    "upper",
];

/// Whether a function is NULL where an argument is.
pub(crate) fn is_strict(function: &datafusion_expr::ScalarUDF) -> bool {
    function.is_strict() || STRICT.contains(&function.name())
}

/// Whether it is an operation on constants alone. Where [`fold`] has left one, computing it fails.
pub(crate) fn is_constant_operation(expr: &Expr) -> bool {
    let computes = match expr {
        Expr::ScalarFunction(f) => f.func.signature().volatility == Volatility::Immutable && !f.args.is_empty(),
        Expr::BinaryExpr(BinaryExpr { op, .. }) => {
            use Operator as O;
            matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::And | O::Or | O::StringConcat)
        }
        Expr::Case(_) | Expr::Not(_) | Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::Like(_) | Expr::Cast(_) => true,
        _ => false,
    };
    if !computes {
        return false;
    }
    let mut constant = true;
    let _ = expr.apply_children(|child| {
        constant &= matches!(child, Expr::Literal(..));
        Ok(TreeNodeRecursion::Continue)
    });
    constant
}

/// The value of an operation on constants; `None` where there is none, or its type is made of others.
pub(crate) fn fold(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    if !is_constant_operation(expr) {
        return None;
    }
    let sql_type = type_of(expr, schema)?;
    if matches!(sql_type, SqlType::Array(_) | SqlType::Record(_)) {
        return None;
    }
    let value = evaluate(expr).ok()?;
    let target = sql_type.arrow_type();
    let value = if value.is_null() {
        ScalarValue::try_new_null(&target).ok()?
    } else if value.data_type() == target {
        value
    } else if sql_type.is_text() {
        value.cast_to(&target).ok()?
    } else {
        return None;
    };
    let metadata = field_ref(&sql_type, "", true).metadata().clone();
    Some(Expr::Literal(value, if metadata.is_empty() { None } else { Some(metadata.into()) }))
}

/// The value of a constant expression.
///
/// # Errors
/// Its own, and of what is no constant.
pub(crate) fn evaluate(expr: &Expr) -> Result<ScalarValue> {
    let empty = Arc::new(DFSchema::empty());
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(empty.clone()).build());
    let coerced = simplifier.coerce(expr.clone(), &empty)?;
    let physical = create_physical_expr(&coerced, &empty, &ExecutionProps::new(), &Default::default())?;
    let one_row = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &one_row)?;
    Ok(match physical.evaluate(&batch)? {
        ColumnarValue::Scalar(value) => value,
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0)?,
    })
}

/// Raises the error of a constant part that cannot be computed. PostgreSQL does so even if no row asks for the part, except
/// where a constant condition leaves it out.
///
/// # Errors
/// That of the first such part.
pub(crate) fn refuse_failing(plan: &LogicalPlan) -> Result<()> {
    let mut failed = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| match left_out(e) {
                true => Ok(TreeNodeRecursion::Jump),
                false => {
                    if is_constant_operation(e) && !matches!(e, Expr::Cast(_)) {
                        failed = evaluate(e).err();
                    }
                    Ok(if failed.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
                }
            })
        })
    })?;
    match failed {
        // What is not supported, or not this way, is for the engine to say.
        Some(error) if error.sqlstate.starts_with("22") => Err(error),
        _ => Ok(()),
    }
}

/// Whether constants decide which operands of an expression are computed at all.
fn left_out(expr: &Expr) -> bool {
    let is_constant = |e: &Expr| matches!(e, Expr::Literal(..));
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            is_constant(left) || is_constant(right)
        }
        Expr::Case(case) => case.expr.is_none() && case.when_then_expr.iter().any(|(when, _)| is_constant(when)),
        Expr::ScalarFunction(f) => f.func.name() == "coalesce" && f.args.iter().any(is_constant),
        _ => false,
    }
}
