//! `to_char`, `to_timestamp`, `to_date`, `age` and `date_trunc` as PostgreSQL has them.
//!
//! DataFusion's functions of these names have another template language and truncate a `timestamptz` in UTC, whatever the
//! session's zone is.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, IntervalMonthDayNanoBuilder, PrimitiveBuilder, StringViewBuilder};
use arrow::datatypes::{
    DataType, Date32Type, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion_expr::{ScalarUDF, Volatility};

use super::datetime::{first_of_year, is_text, part_name, unknown_part};
use super::define::{Call, Constants, Definition, Kernel, Type, Typing, binary, build, has_null};
use super::template::{Moment, Template};
use crate::error::{Result, SqlError};
use crate::types::{Zone, civil_from_days, days};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// The functions of this module.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    // Stable, for they look at the session's zone.
    let stable = |name, typing: Type, kernel: Kernel| {
        build(Definition {
            name,
            aliases: &[],
            volatility: Volatility::Stable,
            strict: true,
            result: None,
            typing,
            kernel,
        })
    };
    vec![
        stable("to_char", to_char_type, to_char),
        stable("to_timestamp", to_timestamp_type, to_timestamp),
        stable("to_date", to_date_type, to_date),
        stable("age", age_type, age),
        stable("date_trunc", trunc_type, trunc),
    ]
}

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn local() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

fn out_of_range() -> SqlError {
    SqlError::new("22008", "timestamp out of range")
}

fn is_zoned(array: &ArrayRef) -> bool {
    matches!(array.data_type(), DataType::Timestamp(_, Some(_)))
}

/// A template stays the same for many rows, as a rule.
#[derive(Default)]
struct Templates(Option<(String, Template)>);

impl Templates {
    fn of(&mut self, text: &str) -> Result<&Template> {
        if self.0.as_ref().is_none_or(|(known, _)| known != text) {
            self.0 = Some((text.to_string(), Template::new(text)?));
        }
        self.0.as_ref().map(|(_, template)| template).ok_or_else(|| SqlError::internal("no template"))
    }
}

fn to_char_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let [value, template] = types else { return None };
    let value = match value {
        DataType::Date32 | DataType::Timestamp(_, None) => local(),
        DataType::Timestamp(_, Some(_)) => utc(),
        DataType::Interval(_) => INTERVAL,
        number => return super::number_template::typing(number, template),
    };
    if is_text(template) { Typing::new(vec![value, DataType::Utf8View], DataType::Utf8View) } else { None }
}

fn to_char(call: &Call<'_>) -> Result<ArrayRef> {
    let values = &call.arguments[0];
    if values.data_type().is_numeric() {
        return super::number_template::to_char(call);
    }
    let texts = call.arguments[1].as_string_view();
    let zone = Zone::new(call.zone)?;
    let mut templates = Templates::default();
    let mut out = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        if has_null(call.arguments, row) {
            out.append_null();
            continue;
        }
        let moment = match values.data_type() {
            DataType::Interval(_) => {
                let v = values.as_primitive::<IntervalMonthDayNanoType>().value(row);
                Moment::of_interval(v.months.into(), v.days.into(), v.nanoseconds / 1000)
            }
            _ => {
                let value = values.as_primitive::<TimestampMicrosecondType>().value(row);
                if is_zoned(values) {
                    let (local, offset) = zone.to_local(value).ok_or_else(out_of_range)?;
                    Moment::of_time(local, Some((offset, zone.abbreviation(value))))
                } else {
                    Moment::of_time(value, None)
                }
            }
        };
        let text = templates.of(texts.value(row))?.write(&moment)?;
        // PostgreSQL: nothing at all for an empty template.
        out.append_option(Some(text).filter(|_| !texts.value(row).is_empty()));
    }
    Ok(Arc::new(out.finish()))
}

fn to_timestamp_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [t] if t.is_numeric() || t.is_null() => Typing::new(vec![DataType::Float64], utc()),
        [text, template] if is_text(text) && is_text(template) => {
            Typing::new(vec![DataType::Utf8View, DataType::Utf8View], utc())
        }
        _ => None,
    }
}

fn to_timestamp(call: &Call<'_>) -> Result<ArrayRef> {
    let mut out = PrimitiveBuilder::<TimestampMicrosecondType>::with_capacity(call.rows);
    if call.arguments.len() == 1 {
        for seconds in call.arguments[0].as_primitive::<Float64Type>() {
            let micros = seconds.map(|s| (s * MICROS_PER_SECOND as f64).round_ties_even());
            let Some(micros) = micros else {
                out.append_null();
                continue;
            };
            if !micros.is_finite() || micros.abs() >= i64::MAX as f64 {
                return Err(out_of_range());
            }
            out.append_value(micros as i64);
        }
    } else {
        let zone = Zone::new(call.zone)?;
        each_read(call, |local| {
            out.append_option(local.map(|l| zone.to_utc(l).ok_or_else(out_of_range)).transpose()?);
            Ok(())
        })?;
    }
    Ok(Arc::new(out.finish().with_timezone("UTC")))
}

fn to_date_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [text, template] if is_text(text) && is_text(template) => {
            Typing::new(vec![DataType::Utf8View, DataType::Utf8View], DataType::Date32)
        }
        _ => None,
    }
}

fn to_date(call: &Call<'_>) -> Result<ArrayRef> {
    let mut out = PrimitiveBuilder::<Date32Type>::with_capacity(call.rows);
    each_read(call, |local| {
        let days = local.map(|l| i32::try_from(l.div_euclid(MICROS_PER_DAY)).map_err(|_| out_of_range()));
        out.append_option(days.transpose()?);
        Ok(())
    })?;
    Ok(Arc::new(out.finish()))
}

/// Reads each row's text by its template as local microseconds.
fn each_read(call: &Call<'_>, mut f: impl FnMut(Option<i64>) -> Result<()>) -> Result<()> {
    let (texts, patterns) = (call.arguments[0].as_string_view(), call.arguments[1].as_string_view());
    let mut templates = Templates::default();
    for row in 0..call.rows {
        if has_null(call.arguments, row) {
            f(None)?;
            continue;
        }
        let text = texts.value(row);
        f(Some(templates.of(patterns.value(row))?.read(text)?.local_micros(text)?))?;
    }
    Ok(())
}

fn age_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let is_time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Null);
    match types {
        // The planner puts the current day in front.
        [t] if is_time(t) => Typing::new(vec![t.clone()], INTERVAL),
        [l, r] if is_time(l) && is_time(r) => {
            let zoned = |t: &DataType| matches!(t, DataType::Timestamp(_, Some(_)));
            let t = if zoned(l) || zoned(r) { utc() } else { local() };
            Typing::new(vec![t.clone(), t], INTERVAL)
        }
        _ => None,
    }
}

/// Years, months, days and time from the second to the first, counted on the calendar.
fn age(call: &Call<'_>) -> Result<ArrayRef> {
    if call.arguments.len() == 1 {
        return Err(SqlError::internal("age() without the current day"));
    }
    let zone = Zone::new(call.zone)?;
    let zoned = is_zoned(&call.arguments[0]);
    let (left, right) = (
        call.arguments[0].as_primitive::<TimestampMicrosecondType>(),
        call.arguments[1].as_primitive::<TimestampMicrosecondType>(),
    );
    let shown = |v: i64| if zoned { zone.to_local(v).map(|(local, _)| local) } else { Some(v) };
    let mut out = IntervalMonthDayNanoBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        if has_null(call.arguments, row) {
            out.append_null();
            continue;
        }
        let (l, r) = (left.value(row), right.value(row));
        let locals = shown(l).zip(shown(r)).ok_or_else(out_of_range)?;
        out.append_value(match l < r {
            true => negated(calendar_difference(locals.1, locals.0)),
            false => calendar_difference(locals.0, locals.1),
        });
    }
    Ok(Arc::new(out.finish()))
}

fn negated(v: IntervalMonthDayNano) -> IntervalMonthDayNano {
    IntervalMonthDayNano::new(-v.months, -v.days, -v.nanoseconds)
}

/// `late - early`. A month that is broken into days is the early one.
fn calendar_difference(late: i64, early: i64) -> IntervalMonthDayNano {
    let split = |v: i64| {
        let (year, month, day) = civil_from_days(v.div_euclid(MICROS_PER_DAY));
        (year * 12 + i64::from(month) - 1, i64::from(day), v.rem_euclid(MICROS_PER_DAY))
    };
    let ((late_month, late_day, late_time), (early_month, early_day, early_time)) = (split(late), split(early));
    let (mut months, mut days, mut time) = (late_month - early_month, late_day - early_day, late_time - early_time);
    if time < 0 {
        (time, days) = (time + MICROS_PER_DAY, days - 1);
    }
    while days < 0 {
        days += days_of_month(early_month);
        months -= 1;
    }
    IntervalMonthDayNano::new(months as i32, days as i32, time * 1000)
}

/// `timestamptz + interval`, whose months and days are those of the session's calendar: a day may have 23 or 25 hours.
pub(crate) fn zoned_plus_interval() -> Arc<ScalarUDF> {
    let typing = |types: &[DataType], _: Constants<'_>| match types {
        [DataType::Timestamp(..), DataType::Interval(_)] => Typing::new(vec![utc(), INTERVAL], utc()),
        _ => None,
    };
    build(Definition {
        name: "timestamptz_plus_interval",
        aliases: &[],
        volatility: Volatility::Stable,
        strict: true,
        result: None,
        typing,
        kernel: |call| {
            let zone = Zone::new(call.zone)?;
            let sums = binary::<TimestampMicrosecondType, IntervalMonthDayNanoType, TimestampMicrosecondType>(
                &call.arguments[0],
                &call.arguments[1],
                |time, interval| later(&zone, time, interval).ok_or_else(out_of_range),
            )?;
            Ok(Arc::new(sums.with_timezone("UTC")))
        },
    })
}

/// Months, then days, both by the local clock, then time.
fn later(zone: &Zone, time: i64, interval: IntervalMonthDayNano) -> Option<i64> {
    let mut time = time;
    if interval.months != 0 {
        let (local, _) = zone.to_local(time)?;
        let (year, month, day) = civil_from_days(local.div_euclid(MICROS_PER_DAY));
        let month = year * 12 + i64::from(month) - 1 + i64::from(interval.months);
        let day = i64::from(day).min(days_of_month(month));
        let midnight = days(month.div_euclid(12), month.rem_euclid(12) + 1, day)?;
        time = zone.to_utc(i64::from(midnight) * MICROS_PER_DAY + local.rem_euclid(MICROS_PER_DAY))?;
    }
    if interval.days != 0 {
        let (local, _) = zone.to_local(time)?;
        time = zone.to_utc(local.checked_add(i64::from(interval.days) * MICROS_PER_DAY)?)?;
    }
    time.checked_add(interval.nanoseconds / 1000)
}

/// Days of a month, counted from the year 0.
fn days_of_month(month: i64) -> i64 {
    let (year, month) = (month.div_euclid(12), month.rem_euclid(12));
    match month {
        1 if (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

fn trunc_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    use DataType as D;
    match types {
        // A date is taken for midnight in the session's zone.
        [unit, D::Date32] if is_text(unit) => Typing::new(vec![D::Utf8View, D::Date32], utc()),
        [unit, D::Timestamp(_, None)] if is_text(unit) => Typing::new(vec![D::Utf8View, local()], local()),
        [unit, D::Timestamp(_, Some(_)) | D::Null] if is_text(unit) => Typing::new(vec![D::Utf8View, utc()], utc()),
        [unit, D::Interval(_)] if is_text(unit) => Typing::new(vec![D::Utf8View, INTERVAL], INTERVAL),
        [unit, D::Timestamp(_, Some(_)), zone] if is_text(unit) && is_text(zone) => {
            Typing::new(vec![D::Utf8View, utc(), D::Utf8View], utc())
        }
        _ => None,
    }
}

fn trunc(call: &Call<'_>) -> Result<ArrayRef> {
    let units = call.arguments[0].as_string_view();
    let values = &call.arguments[1];
    if let DataType::Interval(_) = values.data_type() {
        let mut out = IntervalMonthDayNanoBuilder::with_capacity(call.rows);
        for row in 0..call.rows {
            let present = !has_null(call.arguments, row);
            let value = || values.as_primitive::<IntervalMonthDayNanoType>().value(row);
            out.append_option(present.then(|| trunc_interval(&part_name(units.value(row)), value())).transpose()?);
        }
        return Ok(Arc::new(out.finish()));
    }
    let mut zone = Zone::new(call.zone)?;
    let mut named = call.zone.to_string();
    let mut out = PrimitiveBuilder::<TimestampMicrosecondType>::with_capacity(call.rows);
    for row in 0..call.rows {
        if has_null(call.arguments, row) {
            out.append_null();
            continue;
        }
        let unit = part_name(units.value(row));
        if let Some(zones) = call.arguments.get(2) {
            let wanted = zones.as_string_view().value(row);
            if wanted != named {
                (zone, named) = (Zone::new(wanted)?, wanted.to_string());
            }
        }
        out.append_value(match values.data_type() {
            DataType::Timestamp(_, None) => {
                trunc_local(&unit, values.as_primitive::<TimestampMicrosecondType>().value(row), false)?
            }
            DataType::Date32 => {
                let midnight = i64::from(values.as_primitive::<Date32Type>().value(row)) * MICROS_PER_DAY;
                zone.to_utc(trunc_local(&unit, midnight, true)?).ok_or_else(out_of_range)?
            }
            _ => {
                let value = values.as_primitive::<TimestampMicrosecondType>().value(row);
                let (local, offset) = zone.to_local(value).ok_or_else(out_of_range)?;
                let cut = trunc_local(&unit, local, true)?;
                // Below a day the offset stays, also where the clock is set back.
                let is_short = matches!(unit.as_str(), "hour" | "minute" | "second" | "millisecond" | "microsecond");
                if is_short {
                    cut - i64::from(offset) * MICROS_PER_SECOND
                } else {
                    zone.to_utc(cut).ok_or_else(out_of_range)?
                }
            }
        });
    }
    let times = out.finish();
    Ok(Arc::new(if matches!(call.result, DataType::Timestamp(_, Some(_))) {
        times.with_timezone("UTC")
    } else {
        times
    }))
}

fn trunc_local(unit: &str, local: i64, is_zoned: bool) -> Result<i64> {
    let cut = |unit: i64| local - local.rem_euclid(unit);
    let days = local.div_euclid(MICROS_PER_DAY);
    let (year, month, _) = civil_from_days(days);
    let first_day =
        |year: i64, month: i64| (0..month).map(|m| days_of_month(year * 12 + m)).sum::<i64>() + first_of_year(year);
    // The first year of a span of years that begin with one that ends in 1.
    let first_of = |span: i64| (year - 1).div_euclid(span) * span + 1;
    let day = match unit {
        "microsecond" => return Ok(local),
        "millisecond" => return Ok(cut(1000)),
        "second" => return Ok(cut(MICROS_PER_SECOND)),
        "minute" => return Ok(cut(60 * MICROS_PER_SECOND)),
        "hour" => return Ok(cut(3600 * MICROS_PER_SECOND)),
        "day" => days,
        "week" => days - (days + 3).rem_euclid(7),
        "month" => first_day(year, i64::from(month) - 1),
        "quarter" => first_day(year, (i64::from(month) - 1) / 3 * 3),
        "year" => first_day(year, 0),
        "decade" => first_day(year.div_euclid(10) * 10, 0),
        "century" => first_day(first_of(100), 0),
        "millennium" => first_day(first_of(1000), 0),
        _ => {
            let name = if is_zoned { "timestamp with time zone" } else { "timestamp without time zone" };
            return Err(unknown_part(unit, name));
        }
    };
    day.checked_mul(MICROS_PER_DAY).ok_or_else(out_of_range)
}

fn trunc_interval(unit: &str, v: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
    let cut = |unit: i64| IntervalMonthDayNano::new(v.months, v.days, v.nanoseconds / unit * unit);
    let months = |n: i32| Ok(IntervalMonthDayNano::new(v.months / n * n, 0, 0));
    Ok(match unit {
        "microsecond" => v,
        "millisecond" => cut(1_000_000),
        "second" => cut(1_000_000_000),
        "minute" => cut(60_000_000_000),
        "hour" => cut(3_600_000_000_000),
        "day" => IntervalMonthDayNano::new(v.months, v.days, 0),
        "month" => return months(1),
        "quarter" => return months(3),
        "year" => return months(12),
        "decade" => return months(120),
        "century" => return months(1200),
        "millennium" => return months(12_000),
        _ => {
            return Err(SqlError::new("0A000", format!("unit \"{unit}\" not supported for type interval")));
        }
    })
}
