//! Intervals as PostgreSQL orders and computes them: a month is 30 days, a day 24 hours wherever two of them are compared.
//!
//! Arrow compares months, then days, then nanoseconds, so that a day is not 24 hours. The planner therefore compares, groups
//! and sorts by [`span`], and takes least and greatest values by [`order`], which breaks ties between equal intervals by how
//! they are written and can be turned back ([`of_order`]).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use datafusion_expr::ScalarUDF;
use millstream_catalog::types::MAX_PRECISION;

use super::define::{Call, Constants, Typing, binary, define, has_null, is_int, unary};
use crate::error::{Result, SqlError};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
const DAYS_PER_MONTH: i64 = 30;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const KEY: DataType = DataType::Decimal128(MAX_PRECISION, 0);

/// The functions of this module that a query may name.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        span(),
        order(),
        of_order(),
        multiply(),
        divide(),
        negate(),
        define("justify_days", &[], one_interval, |c| justify(c, justify_days)),
        define("justify_hours", &[], one_interval, |c| justify(c, justify_hours)),
        define("justify_interval", &[], one_interval, |c| justify(c, justify_interval)),
        define("make_interval", &[], make_typing, make),
        define("isfinite", &[], is_finite_typing, is_finite),
        time_plus_interval(),
        time_difference(),
        date_plus_time(),
    ]
}

/// Microseconds of an interval with months of 30 days: what `=`, `<`, GROUP BY and ORDER BY look at.
pub(crate) fn span() -> Arc<ScalarUDF> {
    define("interval_span", &[], to_key, |c| {
        keys(unary::<IntervalMonthDayNanoType, Decimal128Type>(&c.arguments[0], |v| Ok(micros(v)))?)
    })
}

/// A number that sorts like [`span`] and tells equal intervals apart.
pub(crate) fn order() -> Arc<ScalarUDF> {
    define("interval_order", &[], to_key, |c| {
        keys(unary::<IntervalMonthDayNanoType, Decimal128Type>(&c.arguments[0], |v| Ok(encode(v)))?)
    })
}

/// The interval behind an [`order`].
pub(crate) fn of_order() -> Arc<ScalarUDF> {
    define(
        "interval_of_order",
        &[],
        |t, _| matches!(t, [DataType::Decimal128(..)]).then(|| Typing { arguments: vec![KEY], result: INTERVAL }),
        |c| Ok(Arc::new(unary::<Decimal128Type, IntervalMonthDayNanoType>(&c.arguments[0], decode)?)),
    )
}

/// `interval * factor`.
pub(crate) fn multiply() -> Arc<ScalarUDF> {
    define("interval_mul", &[], scaled, |c| scale(c, |v, f| Ok(v * f)))
}

/// `interval / divisor`.
pub(crate) fn divide() -> Arc<ScalarUDF> {
    define("interval_div", &[], scaled, |c| {
        scale(c, |v, f| if f == 0.0 { Err(SqlError::new("22012", "division by zero")) } else { Ok(v / f) })
    })
}

/// `- interval`.
pub(crate) fn negate() -> Arc<ScalarUDF> {
    define("interval_neg", &[], one_interval, |c| {
        justify(c, |v| {
            let (months, days) = (v.months.checked_neg(), v.days.checked_neg());
            let (months, days) = months.zip(days).ok_or_else(out_of_range)?;
            Ok(IntervalMonthDayNano::new(months, days, v.nanoseconds.checked_neg().ok_or_else(out_of_range)?))
        })
    })
}

/// `time + interval`: around midnight, months and days have no say.
pub(crate) fn time_plus_interval() -> Arc<ScalarUDF> {
    define(
        "time_plus_interval",
        &[],
        |t, _| {
            let time = DataType::Time64(TimeUnit::Microsecond);
            matches!(t, [DataType::Time64(_), DataType::Interval(_)])
                .then(|| Typing { arguments: vec![time.clone(), INTERVAL], result: time })
        },
        |c| {
            type Time = Time64MicrosecondType;
            let sums = binary::<Time, IntervalMonthDayNanoType, Time>(&c.arguments[0], &c.arguments[1], |t, i| {
                Ok((t + i.nanoseconds / 1000 % MICROS_PER_DAY).rem_euclid(MICROS_PER_DAY))
            })?;
            Ok(Arc::new(sums))
        },
    )
}

/// `time - time`.
pub(crate) fn time_difference() -> Arc<ScalarUDF> {
    define(
        "time_difference",
        &[],
        |t, _| {
            let time = DataType::Time64(TimeUnit::Microsecond);
            matches!(t, [DataType::Time64(_), DataType::Time64(_)])
                .then(|| Typing { arguments: vec![time.clone(), time], result: INTERVAL })
        },
        |c| {
            type Time = Time64MicrosecondType;
            let differences =
                binary::<Time, Time, IntervalMonthDayNanoType>(&c.arguments[0], &c.arguments[1], |l, r| {
                    Ok(IntervalMonthDayNano::new(0, 0, (l - r) * 1000))
                })?;
            Ok(Arc::new(differences))
        },
    )
}

/// `date + time`.
pub(crate) fn date_plus_time() -> Arc<ScalarUDF> {
    define(
        "date_plus_time",
        &[],
        |t, _| {
            let arguments = vec![DataType::Date32, DataType::Time64(TimeUnit::Microsecond)];
            matches!(t, [DataType::Date32, DataType::Time64(_)])
                .then(|| Typing { arguments, result: DataType::Timestamp(TimeUnit::Microsecond, None) })
        },
        |c| {
            let sums = binary::<Date32Type, Time64MicrosecondType, TimestampMicrosecondType>(
                &c.arguments[0],
                &c.arguments[1],
                |d, t| {
                    i64::from(d)
                        .checked_mul(MICROS_PER_DAY)
                        .and_then(|d| d.checked_add(t))
                        .ok_or_else(|| SqlError::new("22008", "timestamp out of range"))
                },
            )?;
            Ok(Arc::new(sums))
        },
    )
}

fn to_key(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [DataType::Interval(_) | DataType::Null] => Typing::new(vec![INTERVAL], KEY),
        _ => None,
    }
}

fn one_interval(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [DataType::Interval(_) | DataType::Null] => Typing::new(vec![INTERVAL], INTERVAL),
        _ => None,
    }
}

fn scaled(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [DataType::Interval(_), number] if number.is_numeric() || number.is_null() => {
            Typing::new(vec![INTERVAL, DataType::Float64], INTERVAL)
        }
        _ => None,
    }
}

fn keys(values: arrow::array::PrimitiveArray<Decimal128Type>) -> Result<ArrayRef> {
    Ok(Arc::new(Decimal128Array::with_precision_and_scale(values, MAX_PRECISION, 0)?))
}

/// Below 2^73 in size.
fn micros(v: IntervalMonthDayNano) -> i128 {
    let days = i128::from(v.months) * i128::from(DAYS_PER_MONTH) + i128::from(v.days);
    days * i128::from(MICROS_PER_DAY) + i128::from(v.nanoseconds / 1000)
}

// Below the span, 32 bits say the months; what then remains is days and a time of less than 2^17 days, so that 20 bits say
// how the days were written. 73 + 32 + 20 bits are fewer than 38 digits.
const MONTH_BITS: u32 = 32;
const DAY_BITS: u32 = 20;

fn encode(v: IntervalMonthDayNano) -> i128 {
    let span = micros(v);
    let day = i128::from(v.days) - days_beside(span, v.months);
    let month = i128::from(v.months) + (1 << (MONTH_BITS - 1));
    (span << (MONTH_BITS + DAY_BITS)) | (month << DAY_BITS) | (day + (1 << (DAY_BITS - 1)))
}

/// Whole days of a span beside its months.
fn days_beside(span: i128, months: i32) -> i128 {
    let day = i128::from(MICROS_PER_DAY);
    (span - i128::from(months) * i128::from(DAYS_PER_MONTH) * day).div_euclid(day)
}

fn decode(key: i128) -> Result<IntervalMonthDayNano> {
    let span = key >> (MONTH_BITS + DAY_BITS);
    let month = ((key >> DAY_BITS) & ((1 << MONTH_BITS) - 1)) - (1 << (MONTH_BITS - 1));
    let months = i32::try_from(month).map_err(|_| out_of_range())?;
    let days = (key & ((1 << DAY_BITS) - 1)) - (1 << (DAY_BITS - 1)) + days_beside(span, months);
    let days = i32::try_from(days).map_err(|_| out_of_range())?;
    let time = span - micros(IntervalMonthDayNano::new(months, days, 0));
    let nanoseconds = i64::try_from(time * 1000).map_err(|_| out_of_range())?;
    Ok(IntervalMonthDayNano::new(months, days, nanoseconds))
}

fn out_of_range() -> SqlError {
    SqlError::new("22008", "interval out of range")
}

/// An interval from parts that may be fractions or too large.
fn interval(months: f64, days: f64, micros: f64) -> Result<IntervalMonthDayNano> {
    let int = |v: f64| {
        let fits = v >= f64::from(i32::MIN) && v <= f64::from(i32::MAX);
        if fits { Ok(v as i32) } else { Err(out_of_range()) }
    };
    let nanos = micros.round_ties_even() * 1000.0;
    if nanos.is_nan() || nanos.abs() >= i64::MAX as f64 {
        return Err(out_of_range());
    }
    Ok(IntervalMonthDayNano::new(int(months)?, int(days)?, micros.round_ties_even() as i64 * 1000))
}

/// Scales each field; a fraction of a month becomes days, a fraction of a day time.
fn scale(call: &Call<'_>, apply: fn(f64, f64) -> Result<f64>) -> Result<ArrayRef> {
    let round = |v: f64| (v * MICROS_PER_SECOND as f64).round_ties_even() / MICROS_PER_SECOND as f64;
    let day_seconds = (MICROS_PER_DAY / MICROS_PER_SECOND) as f64;
    type I = IntervalMonthDayNanoType;
    let scaled = binary::<I, Float64Type, I>(&call.arguments[0], &call.arguments[1], |v, f| {
        let months = apply(f64::from(v.months), f)?;
        let days = apply(f64::from(v.days), f)?;
        if f.is_nan() {
            return Err(out_of_range());
        }
        let month_days = round((months - months.trunc()) * DAYS_PER_MONTH as f64);
        let mut whole_days = days.trunc();
        let mut seconds = round((days - whole_days + month_days - month_days.trunc()) * day_seconds);
        if seconds.abs() >= day_seconds {
            let carried = (seconds / day_seconds).trunc();
            whole_days += carried;
            seconds -= carried * day_seconds;
        }
        whole_days += month_days.trunc();
        let time = apply((v.nanoseconds / 1000) as f64, f)? + seconds * MICROS_PER_SECOND as f64;
        interval(months.trunc(), whole_days, time)
    })?;
    Ok(Arc::new(scaled))
}

fn justify(call: &Call<'_>, f: impl Fn(IntervalMonthDayNano) -> Result<IntervalMonthDayNano>) -> Result<ArrayRef> {
    Ok(Arc::new(unary::<IntervalMonthDayNanoType, IntervalMonthDayNanoType>(&call.arguments[0], f)?))
}

/// Months, days and microseconds while they are moved among each other.
struct Fields {
    months: i64,
    days: i64,
    micros: i64,
}

impl Fields {
    fn of(v: IntervalMonthDayNano) -> Self {
        Self { months: v.months.into(), days: v.days.into(), micros: v.nanoseconds / 1000 }
    }

    /// Whole days of the time to the days.
    fn time_to_days(&mut self) {
        self.days += self.micros / MICROS_PER_DAY;
        self.micros %= MICROS_PER_DAY;
    }

    /// Whole months of the days to the months.
    fn days_to_months(&mut self) {
        self.months += self.days / DAYS_PER_MONTH;
        self.days %= DAYS_PER_MONTH;
    }

    fn finish(self) -> Result<IntervalMonthDayNano> {
        let months = i32::try_from(self.months).map_err(|_| out_of_range())?;
        let days = i32::try_from(self.days).map_err(|_| out_of_range())?;
        Ok(IntervalMonthDayNano::new(months, days, self.micros.checked_mul(1000).ok_or_else(out_of_range)?))
    }
}

fn justify_days(v: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
    let mut f = Fields::of(v);
    f.days_to_months();
    // Both get one sign.
    if f.months > 0 && f.days < 0 {
        (f.months, f.days) = (f.months - 1, f.days + DAYS_PER_MONTH);
    } else if f.months < 0 && f.days > 0 {
        (f.months, f.days) = (f.months + 1, f.days - DAYS_PER_MONTH);
    }
    f.finish()
}

fn justify_hours(v: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
    let mut f = Fields::of(v);
    f.time_to_days();
    if f.days > 0 && f.micros < 0 {
        (f.days, f.micros) = (f.days - 1, f.micros + MICROS_PER_DAY);
    } else if f.days < 0 && f.micros > 0 {
        (f.days, f.micros) = (f.days + 1, f.micros - MICROS_PER_DAY);
    }
    f.finish()
}

fn justify_interval(v: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
    let mut f = Fields::of(v);
    f.time_to_days();
    f.days_to_months();
    let sign = |n: i64| n.signum();
    if sign(f.months) == 1 && (f.days < 0 || (f.days == 0 && f.micros < 0)) {
        (f.months, f.days) = (f.months - 1, f.days + DAYS_PER_MONTH);
    } else if sign(f.months) == -1 && (f.days > 0 || (f.days == 0 && f.micros > 0)) {
        (f.months, f.days) = (f.months + 1, f.days - DAYS_PER_MONTH);
    }
    if f.days > 0 && f.micros < 0 {
        (f.days, f.micros) = (f.days - 1, f.micros + MICROS_PER_DAY);
    } else if f.days < 0 && f.micros > 0 {
        (f.days, f.micros) = (f.days + 1, f.micros - MICROS_PER_DAY);
    }
    f.finish()
}

/// `make_interval(years, months, weeks, days, hours, mins, secs)`, the last ones optional.
fn make_typing(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    if types.len() > 7 || !types.iter().take(6).all(is_int) {
        return None;
    }
    let arguments = (0..types.len()).map(|i| if i == 6 { DataType::Float64 } else { DataType::Int32 }).collect();
    Typing::new(arguments, INTERVAL)
}

fn make(call: &Call<'_>) -> Result<ArrayRef> {
    let mut made = arrow::array::IntervalMonthDayNanoBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        if has_null(call.arguments, row) {
            made.append_null();
            continue;
        }
        let part = |i: usize| match call.arguments.get(i) {
            Some(a) if i == 6 => a.as_primitive::<Float64Type>().value(row),
            Some(a) => f64::from(a.as_primitive::<Int32Type>().value(row)),
            None => 0.0,
        };
        let seconds = part(4) * 3600.0 + part(5) * 60.0;
        let micros = seconds * MICROS_PER_SECOND as f64 + (part(6) * MICROS_PER_SECOND as f64).round_ties_even();
        made.append_value(interval(part(0) * 12.0 + part(1), part(2) * 7.0 + part(3), micros)?);
    }
    Ok(Arc::new(made.finish()))
}

fn is_finite_typing(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [t @ (DataType::Date32 | DataType::Timestamp(..) | DataType::Interval(_))] => {
            Typing::new(vec![t.clone()], DataType::Boolean)
        }
        _ => None,
    }
}

/// Always true: the types have no infinity here.
fn is_finite(call: &Call<'_>) -> Result<ArrayRef> {
    let array = &call.arguments[0];
    Ok(Arc::new((0..array.len()).map(|row| array.is_valid(row).then_some(true)).collect::<BooleanArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_can_be_turned_back() {
        let parts = [i32::MIN, -31, -1, 0, 1, 12, 45, i32::MAX];
        let times =
            [i64::MIN / 1000 * 1000, -86_400_000_000_000, -1000, 0, 1000, 90_000_000_000_000, i64::MAX / 1000 * 1000];
        let mut all = Vec::new();
        for months in parts {
            for days in parts {
                for time in times {
                    let v = IntervalMonthDayNano::new(months, days, time);
                    assert_eq!(decode(encode(v)).expect("in range"), v);
                    assert!(encode(v).unsigned_abs() < 10u128.pow(38));
                    all.push(v);
                }
            }
        }
        for pair in all.windows(2) {
            assert_eq!(
                micros(pair[0]) < micros(pair[1]),
                encode(pair[0]) < encode(pair[1]) && micros(pair[0]) != micros(pair[1])
            );
        }
    }
}
