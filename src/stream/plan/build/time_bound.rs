//! The time bound of an interval join, as an equality of slices of time: so watermarks free the join's state.
//!
//! Where `low <= left.ts - right.ts <= high`, time is cut into slices at least as wide as the bound. A left row falls into
//! one slice, a right row into the two or three that its partners can be in, and a pair of partners has exactly one slice
//! in common. The slice is a join key that carries a watermark on both sides.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{Between, ScalarFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use millstream_sql::functions::windows::{Span, hop_starts, tumble_start};

use crate::stream::operator::EdgeProperties;

/// Slices are at least this wide: very many would cost more than they free.
const SLICE_MIN_US: i64 = 1_000_000;

/// A bound between a time column of each side, both with a watermark.
pub(super) struct TimeBound {
    left: Expr,
    right: Expr,
    low_us: i64,
    high_us: i64,
}

/// A time column plus a constant.
struct Time {
    /// 0 left, 1 right.
    side: usize,
    column: usize,
    offset_us: i64,
}

impl TimeBound {
    /// The bound that a join's condition sets, if it does.
    pub fn of(filter: &Expr, sides: [(&DFSchema, &EdgeProperties); 2]) -> Option<Self> {
        // (left column, right column) -> least and greatest difference.
        let mut bounds: BTreeMap<(usize, usize), (Option<i64>, Option<i64>)> = BTreeMap::new();
        for (a, op, b) in split_conjunction(filter).into_iter().flat_map(comparisons) {
            let (Some(a), Some(b)) = (time(a, sides), time(b, sides)) else { continue };
            let (op, left, right) = match (a.side, b.side) {
                (0, 1) => (Some(op), a, b),
                (1, 0) => (op.swap(), b, a),
                _ => continue,
            };
            let difference = right.offset_us - left.offset_us;
            let (low, high) = bounds.entry((left.column, right.column)).or_default();
            match op {
                Some(Operator::Lt | Operator::LtEq) => *high = Some(high.map_or(difference, |h| h.min(difference))),
                Some(Operator::Gt | Operator::GtEq) => *low = Some(low.map_or(difference, |l| l.max(difference))),
                _ => {}
            }
        }
        let ((left, right), (low_us, high_us)) = bounds
            .into_iter()
            .find_map(|(pair, (low, high))| Some((pair, (low?, high?))).filter(|(_, (l, h))| l <= h))?;
        let column = |side: usize, position: usize| Expr::Column(sides[side].0.columns()[position].clone());
        Some(Self { left: column(0, left), right: column(1, right), low_us, high_us })
    }

    fn slice_us(&self) -> i64 {
        (self.high_us - self.low_us).max(SLICE_MIN_US)
    }

    /// The slice that a left row is in.
    pub fn left_slice(&self) -> Expr {
        let args = vec![self.left.clone(), interval(self.slice_us())];
        Expr::ScalarFunction(ScalarFunction::new_udf(tumble_start(), args))
    }

    /// The list of the slices that the partners of a right row can be in.
    pub fn right_slices(&self) -> Expr {
        let latest = Expr::BinaryExpr(BinaryExpr::new(
            Box::new(self.right.clone()),
            Operator::Plus,
            Box::new(interval(self.high_us)),
        ));
        let args = vec![latest, interval(self.slice_us()), interval(2 * self.slice_us())];
        Expr::ScalarFunction(ScalarFunction::new_udf(hop_starts(), args))
    }
}

fn interval(us: i64) -> Expr {
    let value = IntervalMonthDayNano::new(0, 0, us.saturating_mul(1000));
    Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), None)
}

fn comparisons(condition: &Expr) -> Vec<(&Expr, Operator, &Expr)> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => vec![(left, *op, right)],
        Expr::Between(Between { expr, negated: false, low, high }) => {
            vec![(expr, Operator::GtEq, low), (expr, Operator::LtEq, high)]
        }
        _ => Vec::new(),
    }
}

/// A timestamp column with a watermark, plus or minus an interval without months.
fn time(expr: &Expr, sides: [(&DFSchema, &EdgeProperties); 2]) -> Option<Time> {
    match expr {
        Expr::Column(column) => sides.iter().enumerate().find_map(|(side, (schema, properties))| {
            let position = schema.maybe_index_of_column(column)?;
            let is_time = matches!(schema.field(position).data_type(), DataType::Timestamp(..));
            (is_time && properties.watermark_columns.contains(&position)).then_some(Time {
                side,
                column: position,
                offset_us: 0,
            })
        }),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(span)), _) = right.as_ref() else { return None };
            let time = time(left, sides)?;
            let Ok(Span::Micros(span_us)) = Span::new(*span) else { return None };
            let offset_us = if *op == Operator::Plus { span_us } else { -span_us };
            Some(Time { offset_us: time.offset_us.checked_add(offset_us)?, ..time })
        }
        _ => None,
    }
}
