//! Casts by PostgreSQL's rules, where Arrow's differ: text in and out, lengths, rounding, ranges.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringViewArray, StringViewBuilder};
use arrow::compute::kernels::arity::try_unary;
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use millstream_catalog::SqlType;
use millstream_catalog::types::{MAX_PRECISION, UNCONSTRAINED_SCALE, field_ref};

use super::arithmetic::{overflow, plain_name};
use crate::error::{Result, SqlError};
use crate::types::{Zone, fit, parse_value, to_text};

/// `CAST(expr AS target)`. With `assignment` it is the cast of a value into a column: too long is 22001 instead of cut.
pub fn cast(expr: Expr, target: &SqlType, assignment: bool, zone: &str) -> Expr {
    let function = Cast {
        target: target.clone(),
        assignment,
        zone: zone.to_string(),
        signature: Signature::any(1, Volatility::Immutable),
    };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), vec![expr]))
}

/// Casts an array outside of a plan, as [`cast`] does.
///
/// # Errors
/// With PostgreSQL's SQLSTATE for the first value that cannot be cast.
pub fn cast_array(
    array: &ArrayRef,
    from: &SqlType,
    target: &SqlType,
    assignment: bool,
    zone: &str,
) -> Result<ArrayRef> {
    cast_values(array, from, target, assignment, zone)
}

/// Whether a value of one type can be cast to another at all. `assignment`: also without the word CAST, into a column.
pub fn can_cast(from: &SqlType, to: &SqlType, assignment: bool) -> bool {
    use SqlType as T;
    if to.is_text() {
        return true;
    }
    match (from, to) {
        (f, t) if f == t => true,
        // Text is parsed, but only where the statement says so.
        (f, _) if f.is_text() => !assignment,
        (f, t) if f.is_numeric() && t.is_numeric() => true,
        (T::Bool, T::Int4) | (T::Int4, T::Bool) => !assignment,
        (T::Date, T::Timestamp | T::Timestamptz)
        | (T::Timestamp, T::Date | T::Time | T::Timestamptz)
        | (T::Timestamptz, T::Date | T::Time | T::Timestamp)
        | (T::Time, T::Interval)
        | (T::Interval, T::Time)
        | (T::Json, T::Jsonb)
        | (T::Jsonb, T::Json) => true,
        (T::Array(f), T::Array(t)) => can_cast(f, t, assignment),
        _ => false,
    }
}

/// Whether PostgreSQL casts a value of one type to another where a function takes the other.
pub(crate) fn casts_implicitly(from: &SqlType, to: &SqlType) -> bool {
    use SqlType as T;
    let rank = |t: &SqlType| match t {
        T::Int2 => Some(0),
        T::Int4 => Some(1),
        T::Int8 => Some(2),
        T::Numeric(_) => Some(3),
        T::Float4 => Some(4),
        T::Float8 => Some(5),
        _ => None,
    };
    match (from, to) {
        (f, t) if f == t => true,
        (f, t) if f.is_text() && t.is_text() => *t != T::InternalChar,
        (T::Int2 | T::Int4 | T::Int8, T::Oid) | (T::Oid, T::Int8) => true,
        (T::Date, T::Timestamp | T::Timestamptz) | (T::Timestamp, T::Timestamptz) | (T::Time, T::Interval) => true,
        (T::Array(f), T::Array(t)) => casts_implicitly(f, t),
        (f, t) => rank(f).zip(rank(t)).is_some_and(|(f, t)| f <= t),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Cast {
    target: SqlType,
    assignment: bool,
    zone: String,
    signature: Signature,
}

impl ScalarUDFImpl for Cast {
    fn name(&self) -> &str {
        "cast"
    }

    fn display_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(args.first().map_or_else(String::new, |a| format!("CAST({a} AS {})", self.target)))
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(args.first().map_or_else(String::new, |a| format!("CAST({} AS {})", a.schema_name(), self.target)))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(self.target.arrow_type())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs) -> DfResult<arrow::datatypes::FieldRef> {
        // Never "not null": the optimizer would take `x IS NULL` for false without looking whether the cast fails.
        Ok(field_ref(&self.target, self.name(), true))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, arg_fields, number_rows, .. } = args;
        let (Some(value), Some(field)) = (args.first(), arg_fields.first()) else {
            return Err(SqlError::internal("cast takes one argument").into());
        };
        let from = SqlType::of(field)
            .ok_or_else(|| SqlError::unsupported(format!("a cast from {} is not supported", field.data_type())))?;
        match value {
            ColumnarValue::Scalar(s) if s.is_null() => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(&self.target.arrow_type())?))
            }
            ColumnarValue::Scalar(s) => {
                let cast = cast_values(&s.to_array_of_size(1)?, &from, &self.target, self.assignment, &self.zone)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&cast, 0)?))
            }
            ColumnarValue::Array(a) => {
                debug_assert_eq!(a.len(), number_rows);
                Ok(ColumnarValue::Array(cast_values(a, &from, &self.target, self.assignment, &self.zone)?))
            }
        }
    }
}

fn cast_values(array: &ArrayRef, from: &SqlType, to: &SqlType, assignment: bool, zone: &str) -> Result<ArrayRef> {
    use SqlType as T;
    if array.null_count() == array.len() {
        return Ok(arrow::array::new_null_array(&to.arrow_type(), array.len()));
    }
    // Files have layouts that no SQL type has (Utf8, nanoseconds): to ours first.
    let array = &if *array.data_type() == from.arrow_type() {
        array.clone()
    } else {
        arrow_cast(array, &from.arrow_type(), from)?
    };
    match (from, to) {
        (f, T::Varchar(Some(n))) if f.is_text() => fit_all(array, *n, false, assignment),
        (f, T::Char(n)) if f.is_text() => fit_all(array, *n, true, assignment),
        (T::Char(_), T::Text | T::Varchar(None)) => trim_blanks(array),
        (f, T::Json | T::Jsonb) if f.is_text() => parse_all(array, to, zone),
        (T::Json, T::Jsonb) => parse_all(array, to, zone),
        (f, t) if f.is_text() && t.is_text() => Ok(array.clone()),
        (f, _) if f.is_text() => parse_all(array, to, zone),
        (_, T::Varchar(Some(n))) => fit_all(&text_of(array, from, zone)?, *n, false, assignment),
        (_, T::Char(n)) => fit_all(&text_of(array, from, zone)?, *n, true, assignment),
        (_, t) if t.is_text() => text_of(array, from, zone),
        (T::Float4 | T::Float8, T::Int2 | T::Int4 | T::Int8) => float_to_int(array, to),
        (T::Numeric(_), T::Int2 | T::Int4 | T::Int8) => numeric_to_int(array, to),
        (T::Numeric(_), T::Numeric(_)) => rescale(array, to),
        (T::Float4 | T::Float8, T::Numeric(_)) => parse_all(&certain_digits(array), to, zone),
        (T::Numeric(_), T::Float4 | T::Float8) => numeric_to_float(array, to),
        (T::Int2 | T::Int4 | T::Int8 | T::Oid, T::Numeric(_)) => {
            let wide = arrow::compute::cast(array, &DataType::Decimal128(20, 0))?;
            rescale(&wide, to)
        }
        (T::Bool, T::Int4) => Ok(arrow::compute::cast(array, &DataType::Int32)?),
        (T::Int4, T::Bool) => {
            let ints = array.as_primitive::<Int32Type>();
            Ok(Arc::new(ints.iter().map(|v| v.map(|v| v != 0)).collect::<BooleanArray>()))
        }
        (T::Float8, T::Float4) => {
            let narrowed = try_unary::<Float64Type, _, Float32Type>(array.as_primitive(), |v| {
                let narrow = v as f32;
                let lost = (narrow.is_infinite() && v.is_finite()) || (narrow == 0.0 && v != 0.0);
                if lost { Err(out_of_range("real").into()) } else { Ok::<_, ArrowError>(narrow) }
            })?;
            Ok(Arc::new(narrowed))
        }
        (T::Timestamp | T::Date, T::Timestamptz) => {
            let local = arrow_cast(array, &T::Timestamp.arrow_type(), to)?;
            let zone = Zone::new(zone)?;
            let utc = try_unary::<TimestampMicrosecondType, _, TimestampMicrosecondType>(local.as_primitive(), |v| {
                zone.to_utc(v).ok_or_else(|| ArrowError::from(SqlError::new("22008", "timestamp out of range")))
            })?;
            Ok(Arc::new(utc.with_timezone("UTC")))
        }
        (T::Timestamptz, T::Timestamp | T::Date | T::Time) => {
            let zone = Zone::new(zone)?;
            let local =
                try_unary::<TimestampMicrosecondType, _, TimestampMicrosecondType>(array.as_primitive(), |v| {
                    let local = zone.to_local(v).map(|(local, _)| local);
                    local.ok_or_else(|| ArrowError::from(SqlError::new("22008", "timestamp out of range")))
                })?;
            let local: ArrayRef = Arc::new(local);
            arrow_cast(&local, &to.arrow_type(), to)
        }
        (f, t) if can_cast(f, t, false) => arrow_cast(array, &to.arrow_type(), to),
        (f, t) => Err(cannot_cast(f, t)),
    }
}

/// Floats as text with the decimal digits that any float of their width has for certain, 6 or 15, as PostgreSQL makes
/// numerics of them.
fn certain_digits(floats: &ArrayRef) -> ArrayRef {
    Arc::new(match floats.data_type() {
        DataType::Float32 => floats
            .as_primitive::<Float32Type>()
            .iter()
            .map(|v| v.map(|v| format!("{v:.5e}")))
            .collect::<StringViewArray>(),
        _ => floats.as_primitive::<Float64Type>().iter().map(|v| v.map(|v| format!("{v:.14e}"))).collect(),
    })
}

/// PostgreSQL's words for a cast that does not exist.
pub(crate) fn cannot_cast(from: &SqlType, to: &SqlType) -> SqlError {
    SqlError::new("42846", format!("cannot cast type {} to {}", plain_name(from), plain_name(to)))
}

fn arrow_cast(array: &ArrayRef, target: &DataType, name: &SqlType) -> Result<ArrayRef> {
    let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
    arrow::compute::cast_with_options(array, target, &options).map_err(|e| match e {
        ArrowError::CastError(_) | ArrowError::ArithmeticOverflow(_) => out_of_range(&plain_name(name)),
        other => SqlError::from_arrow(&other),
    })
}

fn out_of_range(name: &str) -> SqlError {
    SqlError::new("22003", format!("{name} out of range"))
}

fn text_of(array: &ArrayRef, from: &SqlType, zone: &str) -> Result<ArrayRef> {
    Ok(Arc::new(to_text(array, &from.field("", true), zone)?))
}

fn fit_all(array: &ArrayRef, n: u32, pad: bool, assignment: bool) -> Result<ArrayRef> {
    let texts = array.as_string_view();
    let mut builder = StringViewBuilder::with_capacity(texts.len());
    for text in texts {
        match text {
            None => builder.append_null(),
            Some(text) if !pad && text.len() <= n as usize => builder.append_value(text),
            Some(text) => builder.append_value(fit(text, n, pad, assignment)?),
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// The blanks that pad a `char(n)` do not count.
fn trim_blanks(array: &ArrayRef) -> Result<ArrayRef> {
    let mut builder = StringViewBuilder::with_capacity(array.len());
    for text in array.as_string_view() {
        builder.append_option(text.map(|t| t.trim_end_matches(' ')));
    }
    Ok(Arc::new(builder.finish()))
}

fn parse_all(array: &ArrayRef, to: &SqlType, zone: &str) -> Result<ArrayRef> {
    let null = ScalarValue::try_new_null(&to.arrow_type())?;
    let values = array
        .as_string_view()
        .iter()
        .map(|text| text.map_or_else(|| Ok(null.clone()), |t| parse_value(t, to, zone)))
        .collect::<Result<Vec<_>>>()?;
    Ok(ScalarValue::iter_to_array(values)?)
}

fn int_array(values: arrow::array::Int64Array, to: &SqlType) -> Result<ArrayRef> {
    let values: ArrayRef = Arc::new(values);
    if *to == SqlType::Int8 { Ok(values) } else { arrow_cast(&values, &to.arrow_type(), to) }
}

/// Half to even, as PostgreSQL's float casts do.
fn float_to_int(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    let floats = arrow::compute::cast(array, &DataType::Float64)?;
    let ints = try_unary::<Float64Type, _, Int64Type>(floats.as_primitive(), |v| {
        let rounded = v.round_ties_even();
        // 2^63 is exact as a float; i64::MAX is not.
        let fits = rounded >= -(2f64.powi(63)) && rounded < 2f64.powi(63);
        if fits { Ok(rounded as i64) } else { Err(ArrowError::from(out_of_range(&plain_name(to)))) }
    })?;
    int_array(ints, to)
}

/// Half away from zero, as PostgreSQL's numeric casts do.
fn numeric_to_int(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    let DataType::Decimal128(_, scale) = *array.data_type() else {
        return Err(SqlError::internal("numeric that is no decimal"));
    };
    let unit = 10i128.pow(scale.max(0) as u32);
    let ints = try_unary::<Decimal128Type, _, Int64Type>(array.as_primitive(), |v| {
        i64::try_from(round_to(v, unit)).map_err(|_| ArrowError::from(out_of_range(&plain_name(to))))
    })?;
    int_array(ints, to)
}

/// The nearest float. Arrow multiplies by a power of ten that is itself rounded.
fn numeric_to_float(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    let DataType::Decimal128(_, scale) = *array.data_type() else {
        return Err(SqlError::internal("numeric that is no decimal"));
    };
    // A quotient of two exact floats is rounded once.
    const EXACT: i128 = 1 << 53;
    let unit = 10f64.powi(i32::from(scale));
    let is_exact_unit = (0..=22).contains(&scale);
    let nearest = |v: i128| -> f64 {
        if is_exact_unit && v > -EXACT && v < EXACT {
            return v as f64 / unit;
        }
        format!("{v}e{}", -i32::from(scale)).parse().unwrap_or(f64::NAN)
    };
    Ok(if *to == SqlType::Float4 {
        let nearest = |v: i128| format!("{v}e{}", -i32::from(scale)).parse().unwrap_or(f32::NAN);
        Arc::new(array.as_primitive::<Decimal128Type>().unary::<_, Float32Type>(nearest))
    } else {
        Arc::new(array.as_primitive::<Decimal128Type>().unary::<_, Float64Type>(nearest))
    })
}

fn round_to(value: i128, unit: i128) -> i128 {
    let (quotient, rest) = (value / unit, value % unit);
    if rest.unsigned_abs() * 2 >= unit.unsigned_abs() && rest != 0 { quotient + value.signum() } else { quotient }
}

/// To another precision and scale, rounded half away from zero; a numeric without precision may not lose a digit.
fn rescale(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    let (DataType::Decimal128(_, from_scale), SqlType::Numeric(typmod)) = (array.data_type(), to) else {
        return Err(SqlError::internal("numeric that is no decimal"));
    };
    let (precision, scale) = typmod.unwrap_or((MAX_PRECISION, UNCONSTRAINED_SCALE));
    let shift = scale - from_scale;
    // None: more than all digits.
    let unit = 10i128.checked_pow(shift.unsigned_abs().into());
    let limit = 10i128.pow(u32::from(precision));
    let cast = try_unary::<Decimal128Type, _, Decimal128Type>(array.as_primitive(), |v| {
        let moved = if shift >= 0 {
            if v == 0 { Some(0) } else { unit.and_then(|unit| v.checked_mul(unit)) }
        } else if typmod.is_none() && unit.map_or(v, |unit| v % unit) != 0 {
            return Err(ArrowError::from(
                SqlError::new("22003", "numeric has more fractional digits than can be kept")
                    .with_detail(format!("a numeric without precision keeps {UNCONSTRAINED_SCALE}")),
            ));
        } else {
            Some(unit.map_or(0, |unit| round_to(v, unit)))
        };
        moved.filter(|m| *m > -limit && *m < limit).ok_or_else(|| ArrowError::from(overflow(precision, scale)))
    })?;
    Ok(Arc::new(cast.with_precision_and_scale(precision, scale)?))
}
