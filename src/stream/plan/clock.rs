//! `now()` in continuous views: allowed where WHERE compares a row's time with it, as a function that the optimizer leaves
//! alone; everywhere else a view would change without input.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::expressions::physical;
use super::readable::readable;
use crate::error::{Error, Result};
use crate::stream::operator::temporal::Comparison;

/// Stands for the time of the epoch. It is volatile, so that no rule computes it or moves it into another operator.
#[derive(Debug, PartialEq, Eq, Hash)]
struct EpochNow {
    signature: Signature,
}

const NAME: &str = "epoch_now";

impl ScalarUDFImpl for EpochNow {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        Err(DataFusionError::Internal("the epoch's time is not an expression to compute".into()))
    }
}

fn epoch_now() -> Arc<ScalarUDF> {
    static FUNCTION: OnceLock<Arc<ScalarUDF>> = OnceLock::new();
    let signature = || Signature::nullary(Volatility::Volatile);
    FUNCTION.get_or_init(|| Arc::new(ScalarUDF::new_from_impl(EpochNow { signature: signature() }))).clone()
}

/// Whether a function is the epoch's time.
pub fn is_epoch_now(function: &ScalarUDF) -> bool {
    function.name() == NAME
}

/// Whether an expression speaks of the epoch's time.
pub fn mentions(expr: &Expr) -> bool {
    has_function(expr, NAME)
}

fn has_function(expr: &Expr, name: &str) -> bool {
    let mut found = false;
    let walked = expr.apply(|e| {
        found |= matches!(e, Expr::ScalarFunction(f) if f.func.name() == name);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found && walked.is_ok()
}

/// Puts the epoch's time in place of `now()` in the filters of a plan.
///
/// # Errors
/// Of rebuilding the plan.
pub fn mark_now(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Filter(_) = &node else { return Ok(Transformed::no(node)) };
        node.map_expressions(|expr| {
            expr.transform_up(|e| match e {
                Expr::ScalarFunction(f) if f.func.name() == "now" => {
                    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(epoch_now(), Vec::new()))))
                }
                other => Ok(Transformed::no(other)),
            })
        })
    })?;
    Ok(done.data)
}

/// Refuses the epoch's time outside of filters, where a rule may have moved a condition.
///
/// # Errors
/// 0A000 naming the condition.
pub fn refuse_elsewhere(plan: &LogicalPlan) -> Result<()> {
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::Filter(_)) {
            return Ok(TreeNodeRecursion::Continue);
        }
        node.apply_expressions(|expr| {
            if mentions(expr) {
                refused = Some(bad_shape(expr));
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    refused.map_or(Ok(()), Err)
}

/// A conjunct of a filter that compares a time of the row with the epoch's: the row's side, how it stands to the clock, and
/// the microseconds that are added to `now()`.
///
/// # Errors
/// 0A000 if it has another shape.
pub fn temporal_bound(conjunct: &Expr) -> Result<(Expr, Comparison, i64)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = conjunct else { return Err(bad_shape(conjunct)) };
    let (row, op, clock) = match (mentions(left), mentions(right)) {
        (false, true) => (left, *op, right),
        (true, false) => (right, op.swap().ok_or_else(|| bad_shape(conjunct))?, left),
        _ => return Err(bad_shape(conjunct)),
    };
    if !clock.column_refs().is_empty() {
        return Err(bad_shape(conjunct));
    }
    let comparison = match op {
        Operator::Gt => Comparison::Later,
        Operator::GtEq => Comparison::LaterOrEqual,
        Operator::Lt => Comparison::Earlier,
        Operator::LtEq => Comparison::EarlierOrEqual,
        _ => return Err(bad_shape(conjunct)),
    };
    Ok((row.as_ref().clone(), comparison, offset_us(clock).ok_or_else(|| bad_shape(conjunct))?))
}

/// Moments at which an expression of the clock must be equally far from it: each hour of a year, so that the days on which
/// clocks are set are among them.
const PROBES: i64 = 366 * 24;
const PROBE_STEP_US: i64 = 3_600_000_000;
/// 2026-01-01, and a little.
const FIRST_PROBE_US: i64 = 1_767_225_612_345_678;

/// What an expression adds to the clock, if that is always the same.
fn offset_us(clock: &Expr) -> Option<i64> {
    let of_column = clock
        .clone()
        .transform_up(|e| match e {
            Expr::ScalarFunction(f) if is_epoch_now(&f.func) => Ok(Transformed::yes(datafusion::prelude::ident(NAME))),
            other => Ok(Transformed::no(other)),
        })
        .ok()?
        .data;
    let probes: TimestampMicrosecondArray = (0..PROBES).map(|n| Some(FIRST_PROBE_US + n * PROBE_STEP_US)).collect();
    let now: ArrayRef = Arc::new(probes.clone().with_timezone("UTC"));
    let batch = RecordBatch::try_from_iter([(NAME, now)]).ok()?;
    let schema = DFSchema::try_from(batch.schema()).ok()?;
    let moved = physical(&of_column, &schema).ok()?.evaluate(&batch).ok()?.into_array(batch.num_rows()).ok()?;
    let moved = moved.as_primitive_opt::<TimestampMicrosecondType>()?;
    let mut offsets = moved.iter().zip(probes.values()).map(|(moved, now)| Some(moved? - now));
    let first = offsets.next()??;
    offsets.all(|offset| offset == Some(first)).then_some(first)
}

fn bad_shape(conjunct: &Expr) -> Error {
    let text = readable(&conjunct.to_string()).replace(&format!("{NAME}()"), "now()");
    Error::unsupported(format!("the condition {text} is not supported in a continuous view")).with_hint(
        "compare a time with now() plus or minus a fixed interval: ts > now() - INTERVAL '24 hours'; a month has no fixed \
         length, nor has a day where clocks are set for summer time",
    )
}
