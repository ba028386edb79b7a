//! A timestamp plus or minus a constant time, in one addition: Arrow takes the way over the calendar, which a constant without
//! months does not need, and every window has such an end.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, FieldRef, IntervalMonthDayNano, Schema, TimeUnit, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal};

/// The range of the calendar's times, microseconds: what lies outside is left to Arrow, which has an error for it.
const CALENDAR_US: std::ops::RangeInclusive<i64> = -8_334_601_228_800_000_000..=8_210_266_876_799_999_999;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The same expression with its additions of constant times to timestamps made fast.
pub(super) fn with_shifts(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let made = expr.transform_up(|expr| {
        Ok(match Shift::of(&expr, schema) {
            Some(shift) => Transformed::yes(Arc::new(shift) as Arc<dyn PhysicalExpr>),
            None => Transformed::no(expr),
        })
    })?;
    Ok(made.data)
}

/// A timestamp plus a constant number of microseconds.
#[derive(Debug, Clone, Eq)]
struct Shift {
    time: Arc<dyn PhysicalExpr>,
    us: i64,
    /// What it stands for.
    plain: Arc<dyn PhysicalExpr>,
}

impl Shift {
    fn of(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Self> {
        let plain = expr.downcast_ref::<BinaryExpr>()?;
        let interval = plain.right().downcast_ref::<Literal>()?.value();
        let ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months: 0, days, nanoseconds })) = interval
        else {
            return None;
        };
        // With a time zone days differ in length.
        let is_plain = |data_type: &DataType| match data_type {
            DataType::Timestamp(TimeUnit::Microsecond, zone) => zone.is_none() || *days == 0,
            _ => false,
        };
        if !is_plain(&plain.left().data_type(schema).ok()?) || nanoseconds % 1000 != 0 {
            return None;
        }
        let us = i64::from(*days).checked_mul(MICROS_PER_DAY)?.checked_add(nanoseconds / 1000)?;
        let us = match plain.op() {
            Operator::Plus => us,
            Operator::Minus => us.checked_neg()?,
            _ => return None,
        };
        Some(Self { time: plain.left().clone(), us, plain: expr.clone() })
    }

    /// The times moved; `None` if one leaves the calendar.
    fn shifted(&self, times: &ArrayRef) -> Option<ArrayRef> {
        let times = times.as_primitive_opt::<TimestampMicrosecondType>()?;
        let is_in = |time: i64| CALENDAR_US.contains(&time);
        let moved: Vec<i64> = times.values().iter().map(|time| time.wrapping_add(self.us)).collect();
        let all_in = times.values().iter().zip(&moved).enumerate().all(|(row, (time, moved))| {
            let stays = time.checked_add(self.us).is_some() && is_in(*time) && is_in(*moved);
            stays || times.nulls().is_some_and(|nulls| nulls.is_null(row))
        });
        let moved = TimestampMicrosecondArray::new(moved.into(), times.nulls().cloned());
        all_in.then(|| Arc::new(moved.with_data_type(times.data_type().clone())) as ArrayRef)
    }
}

impl PartialEq for Shift {
    fn eq(&self, other: &Self) -> bool {
        self.plain.as_ref() == other.plain.as_ref()
    }
}

impl Hash for Shift {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.plain.hash(state);
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plain.fmt(f)
    }
}

impl PhysicalExpr for Shift {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.plain.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if let ColumnarValue::Array(times) = self.time.evaluate(batch)?
            && let Some(moved) = self.shifted(&times)
        {
            return Ok(ColumnarValue::Array(moved));
        }
        self.plain.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.plain]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let [plain] = children.as_slice() else {
            return datafusion::common::internal_err!("a shift has one child, not {}", children.len());
        };
        let time = plain.downcast_ref::<BinaryExpr>().map(|plain| plain.left().clone());
        Ok(time.map_or(plain.clone(), |time| Arc::new(Self { time, us: self.us, plain: plain.clone() }) as _))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plain.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, IntervalMonthDayNano, Schema, TimestampMicrosecondType};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::PhysicalExpr;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
    use datafusion::scalar::ScalarValue;

    use super::with_shifts;

    #[test]
    fn it_equals_the_plain_addition() {
        let times = |zone: Option<&str>, values: Vec<Option<i64>>| -> (Schema, RecordBatch) {
            let column = TimestampMicrosecondArray::from(values).with_timezone_opt(zone);
            let column: ArrayRef = Arc::new(column);
            let batch = RecordBatch::try_from_iter([("ts", column)]).unwrap();
            (batch.schema().as_ref().clone(), batch)
        };
        let interval = |months, days, nanos| {
            lit(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(months, days, nanos))))
        };
        let mut shifted = 0;
        for zone in [None, Some("Europe/Berlin")] {
            for values in
                [vec![Some(0), None, Some(1_711_846_800_000_000)], vec![Some(8_210_266_876_799_999_999)], vec![]]
            {
                let (schema, batch) = times(zone, values);
                for (months, days, nanos) in [(0, 0, 5_000), (0, 2, 0), (0, -1, 1_000_000), (1, 0, 0), (0, 0, 1)] {
                    for op in [Operator::Plus, Operator::Minus] {
                        let column = Arc::new(Column::new("ts", 0));
                        let plain: Arc<dyn PhysicalExpr> =
                            Arc::new(BinaryExpr::new(column, op, interval(months, days, nanos)));
                        let fast = with_shifts(plain.clone(), &schema).unwrap();
                        shifted += usize::from(!fast.is::<BinaryExpr>());
                        assert_eq!(fast.data_type(&schema).unwrap(), plain.data_type(&schema).unwrap());
                        match (plain.evaluate(&batch), fast.evaluate(&batch)) {
                            (Ok(plain), Ok(fast)) => {
                                let (plain, fast) = (plain.into_array(0).unwrap(), fast.into_array(0).unwrap());
                                assert_eq!(&plain, &fast);
                                assert!(matches!(fast.data_type(), DataType::Timestamp(..)));
                                fast.as_primitive::<TimestampMicrosecondType>();
                            }
                            (Err(plain), Err(fast)) => assert_eq!(plain.to_string(), fast.to_string()),
                            (plain, fast) => panic!("{plain:?} and {fast:?}"),
                        }
                    }
                }
            }
        }
        assert!(shifted > 20);
    }
}
