//! `now()`, EXTRACT, `date_part` and AT TIME ZONE as PostgreSQL has them.
//!
//! DataFusion's functions of these names have nanoseconds, cut seconds and another pattern language; a query that moved
//! here from PostgreSQL would be silently different.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array};
use arrow::compute::kernels::arity::try_unary;
use arrow::datatypes::{
    DataType, Field, FieldRef, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use millstream_catalog::SqlType;

use super::arithmetic::plain_name;
use crate::error::{Result, SqlError};
use crate::types::{Zone, civil_from_days};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The functions of this module.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::new_from_impl(Now {
            signature: Signature::nullary(Volatility::Stable),
            aliases: ["current_timestamp", "transaction_timestamp", "statement_timestamp"].map(String::from).to_vec(),
        })),
        extract(),
        Arc::new(ScalarUDF::new_from_impl(Part { exact: false, zone: None, signature: user_defined() })),
        Arc::new(ScalarUDF::new_from_impl(Timezone { signature: Signature::user_defined(Volatility::Immutable) })),
    ]
}

/// What EXTRACT becomes: `extract(field, source)`, numeric.
pub(crate) fn extract() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Part { exact: true, zone: None, signature: user_defined() }))
}

/// EXTRACT and `date_part` with the session's time zone in them; `None` for other functions.
pub(crate) fn in_zone(function: &ScalarUDF, zone: &str) -> Option<ScalarUDF> {
    let part = function.inner().downcast_ref::<Part>().filter(|part| part.zone.is_none())?;
    let signature = Signature::user_defined(Volatility::Immutable);
    Some(ScalarUDF::new_from_impl(Part { exact: part.exact, zone: Some(zone.to_string()), signature }))
}

/// Stable, for they look at the session's time zone.
fn user_defined() -> Signature {
    Signature::user_defined(Volatility::Stable)
}

fn zone(config: &ConfigOptions) -> Result<Zone> {
    Zone::new(config.execution.time_zone.as_deref().unwrap_or("UTC"))
}

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn local() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

pub(super) fn no_function(name: &str, types: &[DataType]) -> SqlError {
    let names: Vec<String> = types
        .iter()
        .map(|t| match t {
            DataType::Null | DataType::Utf8 => "unknown".into(),
            t => SqlType::from_arrow(t).map_or_else(|| t.to_string(), |t| plain_name(&t)),
        })
        .collect();
    SqlError::new("42883", format!("function {name}({}) does not exist", names.join(", ")))
        .with_hint("no function matches the given name and argument types; you might need to add explicit type casts")
}

pub(super) fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// Time types in our layout; `None` for other types.
fn time_type(t: &DataType) -> Option<DataType> {
    Some(match t {
        DataType::Date32 | DataType::Date64 => local(),
        DataType::Timestamp(_, None) => local(),
        DataType::Timestamp(_, Some(_)) => utc(),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Interval(_) | DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        _ => return None,
    })
}

/// The text of an argument that must be the same for all rows.
fn constant_text<'a>(value: &'a ColumnarValue, what: &str) -> Result<&'a str> {
    match value {
        ColumnarValue::Scalar(s) => s
            .try_as_str()
            .flatten()
            .ok_or_else(|| SqlError::unsupported(format!("{what} that is NULL is not supported"))),
        ColumnarValue::Array(_) => Err(SqlError::unsupported(format!("{what} must be a constant"))),
    }
}

/// Gives back a scalar for a scalar.
fn shaped(array: ArrayRef, input: &ColumnarValue) -> DfResult<ColumnarValue> {
    Ok(match input {
        ColumnarValue::Scalar(_) => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
        ColumnarValue::Array(_) => ColumnarValue::Array(array),
    })
}

fn one_row(value: &ColumnarValue, rows: usize) -> DfResult<ArrayRef> {
    value.to_array(if matches!(value, ColumnarValue::Scalar(_)) { 1 } else { rows })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(utc())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(Arc::new(Field::new("now", utc(), false)))
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        Ok(match info.query_execution_start_time() {
            Some(now) => {
                let value = ScalarValue::TimestampMicrosecond(Some(now.timestamp_micros()), Some("UTC".into()));
                ExprSimplifyResult::Simplified(Expr::Literal(value, None))
            }
            None => ExprSimplifyResult::Original(args),
        })
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(SqlError::internal("now() has no statement time").into())
    }
}

/// EXTRACT (`exact`: numeric) and `date_part` (double precision).
#[derive(Debug, PartialEq, Eq, Hash)]
struct Part {
    exact: bool,
    /// The time zone, once a statement is planned.
    zone: Option<String>,
    signature: Signature,
}

/// Fractional digits of a field.
fn part_scale(field: &str) -> i8 {
    match field {
        "second" | "epoch" => 6,
        "millisecond" => 3,
        _ => 0,
    }
}

/// PostgreSQL's names of a field are many; one of each.
pub(super) fn part_name(field: &str) -> String {
    let lower = field.to_ascii_lowercase();
    let one = match lower.as_str() {
        "years" | "y" => "year",
        "months" | "mon" | "mons" => "month",
        "days" | "d" => "day",
        "hours" | "h" => "hour",
        "minutes" | "min" | "mins" | "m" => "minute",
        "seconds" | "sec" | "secs" | "s" => "second",
        "milliseconds" | "ms" | "msec" => "millisecond",
        "microseconds" | "us" | "usec" => "microsecond",
        "weeks" | "w" => "week",
        "quarters" | "qtr" => "quarter",
        "dayofweek" => "dow",
        "dayofyear" => "doy",
        other => other,
    };
    one.to_string()
}

impl ScalarUDFImpl for Part {
    fn name(&self) -> &str {
        if self.exact { "extract" } else { "date_part" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        match types {
            [field, source] if is_text(field) => match time_type(source) {
                // The field keeps its type: a cast around it would hide that it is a constant.
                Some(t) => Ok(vec![if field.is_null() { DataType::Utf8 } else { field.clone() }, t]),
                None => Err(no_function(self.name(), types).into()),
            },
            _ => Err(no_function(self.name(), types).into()),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Err(SqlError::internal("the type of EXTRACT depends on its field").into())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let field = args.scalar_arguments.first().copied().flatten().and_then(|s| s.try_as_str().flatten());
        let Some(field) = field else {
            return Err(SqlError::unsupported(format!("the field of {} must be a constant", self.name())).into());
        };
        let data_type =
            if self.exact { DataType::Decimal128(24, part_scale(&part_name(field))) } else { DataType::Float64 };
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, number_rows, config_options, .. } = args;
        let field = part_name(constant_text(&args[0], "the field of EXTRACT")?);
        let scale = part_scale(&field);
        let array = one_row(&args[1], number_rows)?;
        let zone = self.zone.as_deref().map_or_else(|| zone(&config_options), Zone::new)?;
        let mut values: Vec<Option<i128>> = Vec::with_capacity(array.len());
        for row in 0..array.len() {
            values.push(if array.is_null(row) { None } else { Some(part(&field, &array, row, &zone)?) });
        }
        let result: ArrayRef = if self.exact {
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(24, scale)?)
        } else {
            let unit = 10f64.powi(i32::from(scale));
            Arc::new(values.into_iter().map(|v| v.map(|v| v as f64 / unit)).collect::<Float64Array>())
        };
        shaped(result, &args[1])
    }
}

/// One field of one value, in units of 10^-[`part_scale`].
fn part(field: &str, array: &ArrayRef, row: usize, zone: &Zone) -> Result<i128> {
    match array.data_type() {
        DataType::Interval(_) => interval_part(field, array.as_primitive::<IntervalMonthDayNanoType>().value(row)),
        DataType::Time64(_) => {
            let micros = array.as_primitive::<Time64MicrosecondType>().value(row);
            match field {
                "epoch" => Ok(micros.into()),
                _ => clock_part(field, micros).ok_or_else(|| unknown_part(field, "time without time zone")),
            }
        }
        DataType::Timestamp(_, tz) => {
            let value = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let (local, offset) = match tz {
                None => (value, 0),
                Some(_) => zone.to_local(value).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?,
            };
            match field {
                "epoch" => return Ok(value.into()),
                "timezone" if tz.is_some() => return Ok(offset.into()),
                "timezone_hour" if tz.is_some() => return Ok((offset / 3600).into()),
                "timezone_minute" if tz.is_some() => return Ok((offset / 60 % 60).into()),
                _ => {}
            }
            clock_part(field, local.rem_euclid(MICROS_PER_DAY))
                .or_else(|| date_part(field, local.div_euclid(MICROS_PER_DAY)))
                .ok_or_else(|| unknown_part(field, "timestamp"))
        }
        other => Err(SqlError::internal(format!("EXTRACT from {other}"))),
    }
}

pub(super) fn unknown_part(field: &str, source: &str) -> SqlError {
    SqlError::new("22023", format!("unit \"{field}\" not recognized for type {source}"))
}

fn clock_part(field: &str, micros: i64) -> Option<i128> {
    let minute = 60 * MICROS_PER_SECOND;
    Some(i128::from(match field {
        "hour" => micros / (60 * minute),
        "minute" => micros / minute % 60,
        // Each at its own scale: micros, micros of the minute as thousandths, micros.
        "second" | "millisecond" | "microsecond" => micros % minute,
        _ => return None,
    }))
}

fn date_part(field: &str, days: i64) -> Option<i128> {
    let (year, month, day) = civil_from_days(days);
    let weekday = (days + 4).rem_euclid(7);
    // PostgreSQL has no year 0.
    let shown = if year > 0 { year } else { year - 1 };
    let from_one = |n: i64| if year > 0 { (year + n - 1) / n } else { -((n - shown - 1) / n) };
    Some(i128::from(match field {
        "year" => shown,
        "month" => i64::from(month),
        "day" => i64::from(day),
        "quarter" => i64::from((month - 1) / 3 + 1),
        "dow" => weekday,
        "isodow" => (weekday + 6) % 7 + 1,
        "doy" => day_of_year(days, year),
        "week" => iso_week(days).1,
        "isoyear" => iso_week(days).0,
        "decade" => year.div_euclid(10),
        "century" => from_one(100),
        "millennium" => from_one(1000),
        "julian" => days + 2_440_588,
        _ => return None,
    }))
}

pub(super) fn day_of_year(days: i64, year: i64) -> i64 {
    days - first_of_year(year) + 1
}

/// Days since 1970-01-01 of a year's first day.
pub(super) fn first_of_year(year: i64) -> i64 {
    let y = year - 1;
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) - 719_162
}

/// ISO year and week: the week belongs to the year that its Thursday is in.
pub(super) fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let (year, _, _) = civil_from_days(thursday);
    (year, (thursday - first_of_year(year)) / 7 + 1)
}

fn interval_part(field: &str, value: IntervalMonthDayNano) -> Result<i128> {
    let (months, days, micros) = (i64::from(value.months), i64::from(value.days), value.nanoseconds / 1000);
    if field == "epoch" {
        // 365.25 days a year, 30 a month, as PostgreSQL counts them.
        let seconds = months / 12 * 31_557_600 + months % 12 * 30 * 86_400 + days * 86_400;
        return Ok(i128::from(seconds) * i128::from(MICROS_PER_SECOND) + i128::from(micros));
    }
    if let Some(part) = clock_part(field, micros) {
        return Ok(part);
    }
    Ok(i128::from(match field {
        "year" => months / 12,
        "month" => months % 12,
        "day" => days,
        "quarter" => months % 12 / 3 + 1,
        "decade" => months / 120,
        "century" => months / 1200,
        "millennium" => months / 12_000,
        _ => return Err(unknown_part(field, "interval")),
    }))
}

/// `timezone(zone, time)`, which AT TIME ZONE becomes: a local time to UTC, or UTC to the local time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Timezone {
    signature: Signature,
}

impl ScalarUDFImpl for Timezone {
    fn name(&self) -> &str {
        "timezone"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        match types {
            [zone, DataType::Timestamp(_, tz)] if is_text(zone) => {
                Ok(vec![DataType::Utf8View, if tz.is_some() { utc() } else { local() }])
            }
            _ => Err(no_function("timezone", types).into()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(match types.get(1) {
            Some(DataType::Timestamp(_, Some(_))) => local(),
            _ => utc(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, number_rows, .. } = args;
        let zone = Zone::new(constant_text(&args[0], "the zone of AT TIME ZONE")?)?;
        let array = one_row(&args[1], number_rows)?;
        let to_local = matches!(array.data_type(), DataType::Timestamp(_, Some(_)));
        let moved = try_unary::<TimestampMicrosecondType, _, TimestampMicrosecondType>(array.as_primitive(), |v| {
            let moved = if to_local { zone.to_local(v).map(|(local, _)| local) } else { zone.to_utc(v) };
            moved.ok_or_else(|| ArrowError::from(SqlError::new("22008", "timestamp out of range")))
        })?;
        let moved = if to_local { moved } else { moved.with_timezone("UTC") };
        shaped(Arc::new(moved), &args[1])
    }
}
