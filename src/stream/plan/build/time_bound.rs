//! The time bounds of a join's condition, such as those of an interval join: so watermarks free the join's state.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::Between;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use millstream_sql::functions::windows::Span;

use crate::stream::operator::EdgeProperties;
use crate::stream::operator::join::TimeBound;

/// A timestamp column plus a constant.
struct Time {
    /// 0 left, 1 right.
    side: usize,
    column: usize,
    offset_us: i64,
}

/// For each side, the first bound that the condition sets to the time of its rows' partners. Where rows are taken back, both
/// sides need one, and of their own time: it says which changes are late.
pub(super) fn time_bounds(filter: &Expr, sides: [(&DFSchema, &EdgeProperties); 2]) -> [Option<TimeBound>; 2] {
    let mut bounds: [Option<TimeBound>; 2] = [None, None];
    for (earlier, later) in split_conjunction(filter).into_iter().flat_map(comparisons) {
        let (Some(partner), Some(row)) = (time(earlier, sides), time(later, sides)) else { continue };
        let has_watermark = sides[partner.side].1.watermark_columns.contains(&partner.column);
        if partner.side != row.side && has_watermark {
            bounds[row.side].get_or_insert(TimeBound {
                column: row.column,
                offset_us: row.offset_us.saturating_sub(partner.offset_us),
                passed_by: partner.column,
            });
        }
    }
    let append_only = sides.iter().all(|(_, properties)| properties.append_only);
    let is_own_time = match bounds {
        [Some(left), Some(right)] => left.column == right.passed_by && right.column == left.passed_by,
        _ => false,
    };
    if append_only || is_own_time { bounds } else { [None, None] }
}

/// Pairs of which the first is not greater than the second.
fn comparisons(condition: &Expr) -> Vec<(&Expr, &Expr)> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::Lt | Operator::LtEq => vec![(left, right)],
            Operator::Gt | Operator::GtEq => vec![(right, left)],
            _ => Vec::new(),
        },
        Expr::Between(Between { expr, negated: false, low, high }) => vec![(low, expr), (expr, high)],
        _ => Vec::new(),
    }
}

/// A timestamp column, plus or minus an interval without months.
fn time(expr: &Expr, sides: [(&DFSchema, &EdgeProperties); 2]) -> Option<Time> {
    match expr {
        Expr::Column(column) => sides.iter().enumerate().find_map(|(side, (schema, _))| {
            let position = schema.maybe_index_of_column(column)?;
            let is_time = matches!(schema.field(position).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _));
            is_time.then_some(Time { side, column: position, offset_us: 0 })
        }),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(span)), _) = right.as_ref() else { return None };
            let time = time(left, sides)?;
            let Ok(Span::Micros(span_us)) = Span::new(*span) else { return None };
            let offset_us = if *op == Operator::Plus { span_us } else { span_us.checked_neg()? };
            Some(Time { offset_us: time.offset_us.checked_add(offset_us)?, ..time })
        }
        _ => None,
    }
}
