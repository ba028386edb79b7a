//! Numeric functions as PostgreSQL types and checks them: rounding has PostgreSQL's scales, and what has no value is an error.
//!
//! Roots, logarithms, powers and exponentials of a numeric are computed in double precision.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type};
use datafusion_expr::ScalarUDF;
use millstream_catalog::types::MAX_PRECISION;

use super::arithmetic::overflow;
use super::define::{Call, Constants, Typing, binary, constant_int, define, is_int, unary};
use crate::error::{Result, SqlError};

/// The functions of this module.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        define("abs", &[], same_number, abs),
        define("sign", &[], sign_type, sign),
        define("ceil", &["ceiling"], whole, |c| to_whole(c, Rounding::Up)),
        define("floor", &[], whole, |c| to_whole(c, Rounding::Down)),
        define("round", &[], rounded, |c| to_scale(c, Rounding::Half)),
        define("trunc", &["truncate"], rounded, |c| to_scale(c, Rounding::Zero)),
        define("div", &[], div_type, div),
        define("scale", &[], scale_type, |c| decimal_scale(c, |_, scale| scale.into())),
        define("min_scale", &[], scale_type, |c| decimal_scale(c, least_scale)),
        define("sqrt", &[], float, |c| floats(c, sqrt)),
        define("exp", &[], float, |c| floats(c, |v| in_range(v, v.exp()))),
        define("ln", &[], float, |c| floats(c, |v| logarithm(v, f64::ln))),
        define("log10", &[], float, |c| floats(c, |v| logarithm(v, f64::log10))),
        define("log", &[], one_or_two_floats, log),
        power(),
        define("asin", &[], float, |c| floats(c, |v| within(v, -1.0, 1.0, f64::asin))),
        define("acos", &[], float, |c| floats(c, |v| within(v, -1.0, 1.0, f64::acos))),
        define("acosh", &[], float, |c| floats(c, |v| within(v, 1.0, f64::INFINITY, f64::acosh))),
        define("atanh", &[], float, |c| floats(c, |v| within(v, -1.0, 1.0, f64::atanh))),
        define("sind", &[], float, |c| floats(c, |v| Ok(sine_of_degrees(v)))),
        define("cosd", &[], float, |c| floats(c, |v| Ok(sine_of_degrees(90.0 - v)))),
        define("width_bucket", &[], bucket_type, width_bucket),
    ]
}

/// `power` and the operator `^`, in double precision.
pub(crate) fn power() -> Arc<ScalarUDF> {
    define("power", &["pow"], two_floats, |c| float_pairs(c, raise))
}

fn decimal_of(t: &DataType) -> Option<(u8, i8)> {
    match t {
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => Some((*p, *s)),
        _ => None,
    }
}

/// Our layout of a number; an untyped literal is double precision.
fn number(t: &DataType) -> Option<DataType> {
    use DataType as D;
    Some(match t {
        D::Int8 | D::UInt8 | D::Int16 => D::Int16,
        D::UInt16 | D::Int32 => D::Int32,
        D::UInt32 | D::Int64 => D::Int64,
        D::UInt64 => D::Decimal128(20, 0),
        D::Float32 => D::Float32,
        D::Float16 | D::Float64 | D::Null | D::Utf8 => D::Float64,
        other => {
            let (p, s) = decimal_of(other)?;
            D::Decimal128(p, s)
        }
    })
}

fn same_number(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let [t] = types else { return None };
    let t = number(t)?;
    Typing::new(vec![t.clone()], t)
}

fn abs(call: &Call<'_>) -> Result<ArrayRef> {
    let array = &call.arguments[0];
    Ok(match array.data_type() {
        DataType::Int16 => integers::<Int16Type>(array, |v| v.checked_abs(), "smallint")?,
        DataType::Int32 => integers::<Int32Type>(array, |v| v.checked_abs(), "integer")?,
        DataType::Int64 => integers::<Int64Type>(array, |v| v.checked_abs(), "bigint")?,
        DataType::Float32 => Arc::new(unary::<Float32Type, Float32Type>(array, |v| Ok(v.abs()))?),
        DataType::Float64 => Arc::new(unary::<Float64Type, Float64Type>(array, |v| Ok(v.abs()))?),
        _ => decimals(array, call.result, |v| Some(v.abs()))?,
    })
}

fn integers<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    f: impl Fn(T::Native) -> Option<T::Native>,
    name: &str,
) -> Result<ArrayRef> {
    let checked = unary::<T, T>(array, |v| f(v).ok_or_else(|| SqlError::new("22003", format!("{name} out of range"))))?;
    Ok(Arc::new(checked))
}

/// Applies `f`, which gives `None` beyond 38 digits, and checks the result's precision.
fn decimals(array: &ArrayRef, result: &DataType, f: impl Fn(i128) -> Option<i128>) -> Result<ArrayRef> {
    let (precision, scale) =
        decimal_of(result).ok_or_else(|| SqlError::internal(format!("a numeric function with result {result}")))?;
    let limit = 10i128.pow(u32::from(precision));
    let values = unary::<Decimal128Type, Decimal128Type>(array, |v| {
        f(v).filter(|v| *v > -limit && *v < limit).ok_or_else(|| overflow(precision, scale))
    })?;
    Ok(Arc::new(Decimal128Array::with_precision_and_scale(values, precision, scale)?))
}

/// Numeric for a numeric, else double precision.
fn sign_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match number(types.first().filter(|_| types.len() == 1)?)? {
        t @ DataType::Decimal128(..) => Typing::new(vec![t], DataType::Decimal128(1, 0)),
        _ => Typing::new(vec![DataType::Float64], DataType::Float64),
    }
}

fn sign(call: &Call<'_>) -> Result<ArrayRef> {
    match call.result {
        DataType::Float64 => floats(call, |v| {
            Ok(if v > 0.0 {
                1.0
            } else if v < 0.0 {
                -1.0
            } else {
                0.0
            })
        }),
        result => decimals(&call.arguments[0], result, |v| Some(v.signum())),
    }
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
    /// Numeric away from zero, floats to even.
    Half,
    Zero,
}

impl Rounding {
    fn float(self, v: f64) -> f64 {
        match self {
            Self::Up => v.ceil(),
            Self::Down => v.floor(),
            Self::Half => v.round_ties_even(),
            Self::Zero => v.trunc(),
        }
    }

    /// `v / unit` as a whole number.
    fn divide(self, v: i128, unit: i128) -> i128 {
        let (quotient, rest) = (v / unit, v % unit);
        match self {
            Self::Up if rest > 0 => quotient + 1,
            Self::Down if rest < 0 => quotient - 1,
            Self::Half if rest.unsigned_abs() >= unit.unsigned_abs() - rest.unsigned_abs() => quotient + v.signum(),
            _ => quotient,
        }
    }
}

/// The layout for `precision - scale` digits before the point, one more for a carry, and `scale` behind it.
fn wide(precision: u8, scale: i8, new_scale: i8) -> DataType {
    let whole = i16::from(precision) - i16::from(scale) + 1;
    let precision = (whole.max(1) + i16::from(new_scale)).clamp(1, i16::from(MAX_PRECISION));
    DataType::Decimal128(precision as u8, new_scale)
}

fn whole(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match number(types.first().filter(|_| types.len() == 1)?)? {
        DataType::Decimal128(p, s) => Typing::new(vec![DataType::Decimal128(p, s)], wide(p, s, 0)),
        _ => Typing::new(vec![DataType::Float64], DataType::Float64),
    }
}

fn to_whole(call: &Call<'_>, rounding: Rounding) -> Result<ArrayRef> {
    let array = &call.arguments[0];
    match array.data_type() {
        DataType::Decimal128(_, s) => {
            let unit = ten(*s);
            decimals(array, call.result, |v| Some(rounding.divide(v, unit)))
        }
        _ => floats(call, |v| Ok(rounding.float(v))),
    }
}

fn ten(n: i8) -> i128 {
    10i128.pow(n.max(0) as u32)
}

/// `round(v [, digits])`. The scale of the result is `digits` where that is a constant, as in PostgreSQL, else that of `v`.
fn rounded(types: &[DataType], constants: Constants<'_>) -> Option<Typing> {
    let first = number(types.first()?)?;
    if types.len() == 1 {
        return whole(types, constants);
    }
    let [_, digits] = types else { return None };
    if !is_int(digits) {
        return None;
    }
    let (p, s) = match first {
        DataType::Decimal128(p, s) => (p, s),
        DataType::Int16 => (5, 0),
        DataType::Int32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::Float64 if types[0].is_null() => (MAX_PRECISION, 0),
        _ => return None,
    };
    let scale = match constant_int(constants, 1) {
        Some(digits) => digits.clamp(0, i64::from(MAX_PRECISION) - 1) as i8,
        None => s,
    };
    Typing::new(vec![DataType::Decimal128(p, s), DataType::Int32], wide(p, s, scale))
}

fn to_scale(call: &Call<'_>, rounding: Rounding) -> Result<ArrayRef> {
    if call.arguments.len() == 1 {
        return to_whole(call, rounding);
    }
    let (Some((_, from)), Some((precision, to))) = (decimal_of(call.arguments[0].data_type()), decimal_of(call.result))
    else {
        return Err(SqlError::internal("rounding of what is no numeric"));
    };
    let limit = 10i128.pow(u32::from(precision));
    let values =
        binary::<Decimal128Type, Int32Type, Decimal128Type>(&call.arguments[0], &call.arguments[1], |v, digits| {
            // Digits beyond the scale are there already; before the first one everything is cut.
            let drop = i64::from(from) - i64::from(digits).min(i64::from(from));
            let kept = match u32::try_from(drop).ok().and_then(|d| 10i128.checked_pow(d)) {
                Some(unit) => rounding.divide(v, unit).checked_mul(unit),
                None => Some(0),
            };
            let moved =
                kept.and_then(|v| if to >= from { v.checked_mul(ten(to - from)) } else { Some(v / ten(from - to)) });
            moved.filter(|v| *v > -limit && *v < limit).ok_or_else(|| overflow(precision, to))
        })?;
    Ok(Arc::new(Decimal128Array::with_precision_and_scale(values, precision, to)?))
}

/// A numeric's layout for any exact number.
fn exact(t: &DataType) -> Option<(u8, i8)> {
    Some(match number(t)? {
        DataType::Int16 => (5, 0),
        DataType::Int32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::Decimal128(p, s) => (p, s),
        _ => return None,
    })
}

fn div_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let [l, r] = types else { return None };
    let ((lp, ls), (rp, rs)) = (exact(l)?, exact(r)?);
    Typing::new(
        vec![DataType::Decimal128(lp, ls), DataType::Decimal128(rp, rs)],
        DataType::Decimal128(MAX_PRECISION, 0),
    )
}

fn div(call: &Call<'_>) -> Result<ArrayRef> {
    let scale = |i: usize| decimal_of(call.arguments[i].data_type()).map_or(0, |(_, s)| s);
    let common = scale(0).max(scale(1));
    let (lf, rf) = (ten(common - scale(0)), ten(common - scale(1)));
    type D = Decimal128Type;
    let values = binary::<D, D, D>(&call.arguments[0], &call.arguments[1], |l, r| {
        if r == 0 {
            return Err(SqlError::new("22012", "division by zero"));
        }
        let quotient = l.checked_mul(lf).zip(r.checked_mul(rf)).map(|(l, r)| l / r);
        quotient.ok_or_else(|| overflow(MAX_PRECISION, 0))
    })?;
    Ok(Arc::new(Decimal128Array::with_precision_and_scale(values, MAX_PRECISION, 0)?))
}

fn scale_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let (p, s) = exact(types.first().filter(|_| types.len() == 1)?)?;
    Typing::new(vec![DataType::Decimal128(p, s)], DataType::Int32)
}

fn decimal_scale(call: &Call<'_>, f: fn(i128, i8) -> i32) -> Result<ArrayRef> {
    let (_, scale) = decimal_of(call.arguments[0].data_type()).unwrap_or_default();
    Ok(Arc::new(unary::<Decimal128Type, Int32Type>(&call.arguments[0], |v| Ok(f(v, scale)))?))
}

fn least_scale(mut v: i128, mut scale: i8) -> i32 {
    while scale > 0 && v % 10 == 0 {
        (v, scale) = (v / 10, scale - 1);
    }
    scale.into()
}

fn float(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    number(types.first().filter(|_| types.len() == 1)?)?;
    Typing::new(vec![DataType::Float64], DataType::Float64)
}

fn two_floats(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let [l, r] = types else { return None };
    number(l).and(number(r))?;
    Typing::new(vec![DataType::Float64; 2], DataType::Float64)
}

fn one_or_two_floats(types: &[DataType], constants: Constants<'_>) -> Option<Typing> {
    if types.len() == 2 { two_floats(types, constants) } else { float(types, constants) }
}

fn floats(call: &Call<'_>, f: impl Fn(f64) -> Result<f64>) -> Result<ArrayRef> {
    Ok(Arc::new(unary::<Float64Type, Float64Type>(&call.arguments[0], f)?))
}

fn float_pairs(call: &Call<'_>, f: impl Fn(f64, f64) -> Result<f64>) -> Result<ArrayRef> {
    Ok(Arc::new(binary::<Float64Type, Float64Type, Float64Type>(&call.arguments[0], &call.arguments[1], f)?))
}

fn sqrt(v: f64) -> Result<f64> {
    if v < 0.0 {
        return Err(SqlError::new("2201F", "cannot take square root of a negative number"));
    }
    Ok(v.sqrt())
}

/// A result that no finite argument may make infinite or zero.
fn in_range(argument: f64, result: f64) -> Result<f64> {
    if result.is_infinite() && argument.is_finite() {
        return Err(SqlError::new("22003", "value out of range: overflow"));
    }
    if result == 0.0 && argument.is_finite() {
        return Err(SqlError::new("22003", "value out of range: underflow"));
    }
    Ok(result)
}

fn logarithm(v: f64, f: fn(f64) -> f64) -> Result<f64> {
    if v == 0.0 {
        return Err(SqlError::new("2201E", "cannot take logarithm of zero"));
    }
    if v < 0.0 {
        return Err(SqlError::new("2201E", "cannot take logarithm of a negative number"));
    }
    Ok(f(v))
}

/// `log(v)` to the base of ten, `log(base, v)`.
fn log(call: &Call<'_>) -> Result<ArrayRef> {
    if call.arguments.len() == 1 {
        return floats(call, |v| logarithm(v, f64::log10));
    }
    float_pairs(call, |base, v| {
        let divisor = logarithm(base, f64::ln)?;
        let dividend = logarithm(v, f64::ln)?;
        if divisor == 0.0 {
            return Err(SqlError::new("22012", "division by zero"));
        }
        // Powers of a whole base come out whole, which a quotient of logarithms misses by an ulp.
        let quotient = dividend / divisor;
        let whole = quotient.round();
        Ok(if whole.abs() < 300.0 && base.powf(whole) == v { whole } else { quotient })
    })
}

fn raise(base: f64, exponent: f64) -> Result<f64> {
    if base == 0.0 && exponent < 0.0 {
        return Err(SqlError::new("2201F", "zero raised to a negative power is undefined"));
    }
    if base < 0.0 && base.is_finite() && exponent.is_finite() && exponent.fract() != 0.0 {
        let reason = "a negative number raised to a non-integer power yields a complex result";
        return Err(SqlError::new("2201F", reason));
    }
    let result = base.powf(exponent);
    if base == 0.0 || !exponent.is_finite() { Ok(result) } else { in_range(base, result) }
}

fn within(v: f64, low: f64, high: f64, f: fn(f64) -> f64) -> Result<f64> {
    if v < low || v > high {
        return Err(SqlError::new("22003", "input is out of range"));
    }
    Ok(f(v))
}

/// Exact where the sine is 0, ½ or 1.
fn sine_of_degrees(v: f64) -> f64 {
    let turn = v.rem_euclid(360.0);
    let (turn, sign) = if turn >= 180.0 { (turn - 180.0, -1.0) } else { (turn, 1.0) };
    let sine = match if turn > 90.0 { 180.0 - turn } else { turn } {
        0.0 => 0.0,
        30.0 => 0.5,
        90.0 => 1.0,
        v => v.to_radians().sin(),
    };
    sign * sine
}

/// `width_bucket(operand, low, high, count)` in double precision.
fn bucket_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let [v, low, high, count] = types else { return None };
    number(v).and(number(low)).and(number(high)).filter(|_| is_int(count))?;
    let f = DataType::Float64;
    Typing::new(vec![f.clone(), f.clone(), f, DataType::Int32], DataType::Int32)
}

fn width_bucket(call: &Call<'_>) -> Result<ArrayRef> {
    let float = |i: usize| call.arguments[i].as_primitive::<Float64Type>();
    let (v, low, high) = (float(0), float(1), float(2));
    let count = call.arguments[3].as_primitive::<Int32Type>();
    let mut buckets = arrow::array::Int32Builder::with_capacity(call.rows);
    for row in 0..call.rows {
        if super::define::has_null(call.arguments, row) {
            buckets.append_null();
            continue;
        }
        let bad = |message: &str| Err(SqlError::new("2201G", message));
        let (v, low, high, count) = (v.value(row), low.value(row), high.value(row), count.value(row));
        if count <= 0 {
            return bad("count must be greater than zero");
        }
        if v.is_nan() || low.is_nan() || high.is_nan() {
            return bad("operand, lower bound, and upper bound cannot be NaN");
        }
        if low == high {
            return bad("lower bound cannot equal upper bound");
        }
        let part = (v - low) / (high - low);
        buckets.append_value(if part < 0.0 {
            0
        } else if part >= 1.0 {
            count.checked_add(1).ok_or_else(|| SqlError::new("22003", "integer out of range"))?
        } else {
            (part * f64::from(count)) as i32 + 1
        });
    }
    Ok(Arc::new(buckets.finish()))
}
