//! Expressions of continuous plans: which may be kept, and which carry a watermark on.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, Volatility};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use super::clock;
use super::shift::with_shifts;
use crate::error::{Error, Result};
use crate::stream::columns_read::ColumnsRead;

/// Makes an expression ready to evaluate on batches of `schema`.
pub fn physical(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    let made = create_physical_expr(expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    Ok(with_shifts(made, schema.as_arrow())?)
}

/// The columns that expressions read, and of records the fields that they take out of them.
pub fn columns_read<'e>(exprs: impl Iterator<Item = &'e Expr>, schema: &DFSchema) -> Result<ColumnsRead> {
    let mut read = ColumnsRead::default();
    for expr in exprs {
        expr.apply(|e| {
            match e {
                Expr::Column(column) => read.add(schema.index_of_column(column)?),
                Expr::ScalarFunction(f) if f.func.name() == "get_field" => {
                    if let Some((column, field)) = field_of_column(&f.args, schema) {
                        read.add_field(column, field);
                        return Ok(TreeNodeRecursion::Jump);
                    }
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(read)
}

/// The positions of a column and of its field that `get_field` with these arguments begins with.
fn field_of_column(args: &[Expr], schema: &DFSchema) -> Option<(usize, usize)> {
    let [Expr::Column(column), Expr::Literal(name, _), ..] = args else { return None };
    let column = schema.index_of_column(column).ok()?;
    let DataType::Struct(fields) = schema.field(column).data_type() else { return None };
    let name = name.try_as_str()??;
    Some((column, fields.iter().position(|f| f.name() == name)?))
}

/// Refuses expressions whose value depends on when they are evaluated: a view would not equal its SELECT.
///
/// # Errors
/// 0A000 naming the function.
pub fn refuse_unstable(plan: &LogicalPlan) -> Result<()> {
    let mut refused: Option<Error> = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                refused = refusal(e);
                Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    refused.map_or(Ok(()), Err)
}

fn refusal(expr: &Expr) -> Option<Error> {
    match expr {
        Expr::ScalarFunction(f) => match f.func.signature().volatility {
            Volatility::Immutable => None,
            _ if clock::is_epoch_now(&f.func) => None,
            Volatility::Stable if f.func.name() == "now" => Some(
                Error::unsupported("now() is supported in a continuous view only in a temporal filter")
                    .with_hint("compare a time with it in WHERE: ts > now() - INTERVAL '1 hour'"),
            ),
            Volatility::Stable => Some(
                Error::unsupported(format!("{}() is not supported in a continuous view", f.func.name()))
                    .with_hint("its value changes with time or session; compare event-time columns instead"),
            ),
            Volatility::Volatile => Some(
                Error::unsupported(format!(
                    "volatile function {}() is not supported in a continuous view",
                    f.func.name()
                ))
                .with_hint("a view must give the same rows whenever it is computed"),
            ),
        },
        Expr::Placeholder(p) => Some(
            Error::new("42P02", format!("there is no parameter {}", p.id))
                .with_hint("a stored query has no parameters"),
        ),
        _ => None,
    }
}

/// The input column that `expr` is a monotone function of, if it is one of a shape known to be: the column itself, a cast
/// between timestamps, plus or minus a constant interval, and the window functions.
pub fn monotone_column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(c) => schema.index_of_column(c).ok(),
        Expr::Alias(a) => monotone_column(&a.expr, schema),
        Expr::Cast(c) if is_timestamp(c.field.data_type()) => {
            let column = monotone_column(&c.expr, schema)?;
            // A cast between zones is monotone only if it does not shift by a zone that has summer time.
            is_timestamp(schema.field(column).data_type()).then_some(column)
        }
        Expr::BinaryExpr(b) if matches!(b.op, Operator::Plus | Operator::Minus) => {
            matches!(*b.right, Expr::Literal(..)).then(|| monotone_column(&b.left, schema)).flatten()
        }
        Expr::ScalarFunction(f) => match (f.func.name(), f.args.as_slice()) {
            ("tumble_start" | "hop_starts" | "cumulate_ends", [ts, rest @ ..])
                if rest.iter().all(|e| matches!(e, Expr::Literal(..))) =>
            {
                monotone_column(ts, schema)
            }
            ("date_trunc", [Expr::Literal(..), ts]) => monotone_column(ts, schema),
            _ => None,
        },
        _ => None,
    }
}

fn is_timestamp(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..))
}
