//! `+ - * / %` and unary minus as PostgreSQL computes them: overflow is 22003, division by zero 22012, decimals are exact.
//!
//! Integers keep the wider type. Decimals: `+ -` have the larger scale, `*` the sum of scales, `/` at least 16 fractional
//! digits, all within 38 digits; where a product has more, digits may only be dropped if they are zeros. A date plus or
//! minus a number is a date, the difference of dates a number of days, the difference of timestamps an interval of days and
//! time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::kernels::arity::{try_binary, try_unary};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, FieldRef, Float32Type, Float64Type, Int32Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType, i256,
};
use arrow::error::ArrowError;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use millstream_catalog::SqlType;
use millstream_catalog::types::MAX_PRECISION;

use super::define::number_field;
use crate::error::SqlError;
use crate::types::internal_name;

/// Least fractional digits of a quotient.
pub(crate) const DIVISION_SCALE: i8 = 16;

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

impl Op {
    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Rem => "%",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Add => "checked_add",
            Self::Sub => "checked_sub",
            Self::Mul => "checked_mul",
            Self::Div => "checked_div",
            Self::Rem => "checked_rem",
        }
    }
}

/// The function behind a binary operator.
pub fn binary(op: Op) -> Arc<ScalarUDF> {
    let aliases = if op == Op::Rem { vec!["mod".to_string()] } else { Vec::new() };
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Binary { op, signature, aliases }))
}

/// The function behind unary minus.
pub fn negate() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Negate { signature: Signature::user_defined(Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Binary {
    op: Op,
    signature: Signature,
    /// `mod(a, b)` is `a % b`.
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Binary {
    fn name(&self) -> &str {
        self.op.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn display_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(match args {
            [l, r] => format!("{} {} {}", operand(l), self.op.symbol(), operand(r)),
            _ => self.op.name().to_string(),
        })
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(match args {
            [l, r] => format!("({} {} {})", l.schema_name(), self.op.symbol(), r.schema_name()),
            _ => self.op.name().to_string(),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let [left, right] = types else {
            return Err(SqlError::internal(format!("{} takes two arguments", self.op.name())).into());
        };
        match operands(self.op, left, right) {
            Some((l, r)) => Ok(vec![l, r]),
            None => Err(no_operator(self.op.symbol(), left, right).into()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        let [left, right] = types else {
            return Err(SqlError::internal(format!("{} takes two arguments", self.op.name())).into());
        };
        let (left, right) = operands(self.op, left, right).ok_or_else(|| no_operator(self.op.symbol(), left, right))?;
        Ok(result_type(self.op, &left, &right))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let result = self.return_type(&types)?;
        // A quotient has as many digits as fit, whatever the operands' scales.
        let of = if self.op == Op::Div { &[] } else { args.arg_fields };
        Ok(number_field(self.name(), result, of))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, number_rows, return_field, .. } = args;
        let [left, right] = args.as_slice() else {
            return Err(SqlError::internal(format!("{} takes two arguments", self.op.name())).into());
        };
        let scalar = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        if is_null_scalar(left) || is_null_scalar(right) {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(return_field.data_type())?));
        }
        let rows = if scalar { 1 } else { number_rows };
        let result = compute(self.op, left, right, rows, return_field.data_type())?;
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// An operand in a plan's text, in parentheses if it is an operation itself.
fn operand(expr: &Expr) -> String {
    match expr {
        Expr::ScalarFunction(f) if f.func.name().starts_with("checked_") => format!("({expr})"),
        Expr::BinaryExpr(_) => format!("({expr})"),
        _ => expr.to_string(),
    }
}

fn is_null_scalar(value: &ColumnarValue) -> bool {
    matches!(value, ColumnarValue::Scalar(s) if s.is_null())
}

fn no_operator(symbol: &str, left: &DataType, right: &DataType) -> SqlError {
    let name = |t: &DataType| SqlType::from_arrow(t).map_or_else(|| t.to_string(), |t| plain_name(&t));
    SqlError::new("42883", format!("operator does not exist: {} {symbol} {}", name(left), name(right)))
        .with_hint("no operator matches the given name and argument types; you might need to add explicit type casts")
}

/// A type's name without its modifier, as PostgreSQL's operator errors print it.
pub(crate) fn plain_name(t: &SqlType) -> String {
    match t {
        SqlType::Numeric(_) => "numeric".into(),
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "character".into(),
        SqlType::Array(item) => format!("{}[]", plain_name(item)),
        other => other.to_string(),
    }
}

/// The types that the operands are cast to; `None` if the operator does not exist.
fn operands(op: Op, left: &DataType, right: &DataType) -> Option<(DataType, DataType)> {
    use DataType as D;
    let (left, right) = match (left, right) {
        (D::Null, D::Null) => (&D::Int32, &D::Int32),
        (D::Null, other) => (other, other),
        (other, D::Null) => (other, other),
        both => both,
    };
    match (op, left, right) {
        (Op::Add | Op::Sub, D::Date32, r) if is_integer(r) => return Some((D::Date32, D::Int32)),
        (Op::Add, l, D::Date32) if is_integer(l) => return Some((D::Int32, D::Date32)),
        (Op::Sub, D::Date32, D::Date32) => return Some((D::Date32, D::Date32)),
        (Op::Sub, D::Timestamp(_, lz), D::Timestamp(_, rz)) if lz.is_some() == rz.is_some() => {
            let t = D::Timestamp(TimeUnit::Microsecond, lz.as_ref().map(|_| "UTC".into()));
            return Some((t.clone(), t));
        }
        _ => {}
    }
    if !(left.is_numeric() && right.is_numeric()) {
        return None;
    }
    if left.is_floating() || right.is_floating() {
        // PostgreSQL has no % for floats.
        if op == Op::Rem {
            return None;
        }
        let t = if left == &D::Float32 && right == &D::Float32 { D::Float32 } else { D::Float64 };
        return Some((t.clone(), t));
    }
    if is_integer(left) && is_integer(right) {
        let width = |t: &DataType| match t {
            D::Int8 | D::UInt8 | D::Int16 => 2,
            D::UInt16 | D::Int32 => 4,
            _ => 8,
        };
        if matches!(left, D::UInt64) || matches!(right, D::UInt64) {
            return Some((D::Decimal128(20, 0), D::Decimal128(20, 0)));
        }
        let t = match width(left).max(width(right)) {
            2 => D::Int16,
            4 => D::Int32,
            _ => D::Int64,
        };
        return Some((t.clone(), t));
    }
    Some((as_decimal(left)?, as_decimal(right)?))
}

fn is_integer(t: &DataType) -> bool {
    t.is_integer()
}

fn as_decimal(t: &DataType) -> Option<DataType> {
    use DataType as D;
    Some(match t {
        D::Int8 | D::UInt8 | D::Int16 => D::Decimal128(5, 0),
        D::UInt16 | D::Int32 => D::Decimal128(10, 0),
        D::UInt32 | D::Int64 => D::Decimal128(19, 0),
        D::UInt64 => D::Decimal128(20, 0),
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) => D::Decimal128(*p, *s),
        _ => return None,
    })
}

fn result_type(op: Op, left: &DataType, right: &DataType) -> DataType {
    use DataType as D;
    match (left, right) {
        (D::Date32, D::Date32) => D::Int32,
        (D::Date32, _) | (_, D::Date32) => D::Date32,
        (D::Timestamp(..), _) => D::Interval(IntervalUnit::MonthDayNano),
        (D::Decimal128(lp, ls), D::Decimal128(rp, rs)) => {
            let (precision, scale) = decimal_result(op, (*lp, *ls), (*rp, *rs));
            D::Decimal128(precision, scale)
        }
        _ => left.clone(),
    }
}

/// Precision and scale of a decimal operation.
fn decimal_result(op: Op, (lp, ls): (u8, i8), (rp, rs): (u8, i8)) -> (u8, i8) {
    let max = MAX_PRECISION as i8;
    let (li, ri) = (lp as i8 - ls, rp as i8 - rs);
    match op {
        Op::Add | Op::Sub => {
            let scale = ls.max(rs);
            ((li.max(ri) + 1 + scale).min(max) as u8, scale)
        }
        Op::Mul => {
            let scale = ls + rs;
            let digits = i16::from(lp) + i16::from(rp) + 1;
            if digits <= i16::from(max) {
                (digits as u8, scale)
            } else {
                (MAX_PRECISION, scale.min(ls.max(rs).max(millstream_catalog::types::UNCONSTRAINED_SCALE)))
            }
        }
        Op::Div => (MAX_PRECISION, ls.max(rs).max(DIVISION_SCALE)),
        Op::Rem => {
            let scale = ls.max(rs);
            ((li.min(ri) + scale).clamp(1, max) as u8, scale)
        }
    }
}

fn compute(
    op: Op,
    left: &ColumnarValue,
    right: &ColumnarValue,
    rows: usize,
    result: &DataType,
) -> Result<ArrayRef, SqlError> {
    use DataType as D;
    match (left.data_type(), right.data_type()) {
        (D::Int16, D::Int16) => integers(op, left, right, rows, "smallint"),
        (D::Int32, D::Int32) => integers(op, left, right, rows, "integer"),
        (D::Int64, D::Int64) => integers(op, left, right, rows, "bigint"),
        (D::Float32, D::Float32) => map::<Float32Type, Float32Type, Float32Type>(left, right, rows, |l, r| {
            let (a, b) = (f64::from(l), f64::from(r));
            let v = float(op, a, b)? as f32;
            in_range(v.is_infinite() && !a.is_infinite() && !b.is_infinite(), v)
        }),
        (D::Float64, D::Float64) => {
            map::<Float64Type, Float64Type, Float64Type>(left, right, rows, |l, r| float(op, l, r))
        }
        (D::Decimal128(_, ls), D::Decimal128(_, rs)) => decimals(op, left, right, rows, (ls, rs), result),
        (D::Date32, D::Int32) => map::<Date32Type, Int32Type, Date32Type>(left, right, rows, |l, r| {
            let sum = if op == Op::Sub { l.checked_sub(r) } else { l.checked_add(r) };
            sum.ok_or_else(|| SqlError::new("22008", "date out of range"))
        }),
        (D::Int32, D::Date32) => map::<Int32Type, Date32Type, Date32Type>(left, right, rows, |l, r| {
            l.checked_add(r).ok_or_else(|| SqlError::new("22008", "date out of range"))
        }),
        (D::Date32, D::Date32) => map::<Date32Type, Date32Type, Int32Type>(left, right, rows, |l, r| {
            l.checked_sub(r).ok_or_else(|| SqlError::new("22003", "integer out of range"))
        }),
        (D::Timestamp(..), D::Timestamp(..)) => map::<
            TimestampMicrosecondType,
            TimestampMicrosecondType,
            IntervalMonthDayNanoType,
        >(left, right, rows, |l, r| {
            let micros = l.checked_sub(r).ok_or_else(|| SqlError::new("22008", "interval out of range"))?;
            let day = 86_400_000_000;
            Ok(IntervalMonthDayNano::new(0, (micros / day) as i32, micros % day * 1000))
        }),
        (l, r) => Err(no_operator(op.symbol(), &l, &r)),
    }
}

fn in_range<T>(overflow: bool, value: T) -> Result<T, SqlError> {
    if overflow { Err(SqlError::new("22003", "value out of range: overflow")) } else { Ok(value) }
}

fn float(op: Op, l: f64, r: f64) -> Result<f64, SqlError> {
    let value = match op {
        Op::Add => l + r,
        Op::Sub => l - r,
        Op::Mul => l * r,
        Op::Div if r == 0.0 && !l.is_nan() => return Err(division_by_zero()),
        Op::Div => l / r,
        Op::Rem => l % r,
    };
    let underflow = value == 0.0 && l != 0.0 && ((op == Op::Mul && r != 0.0) || (op == Op::Div && !r.is_infinite()));
    if underflow {
        return Err(SqlError::new("22003", "value out of range: underflow"));
    }
    in_range(value.is_infinite() && !l.is_infinite() && !r.is_infinite(), value)
}

fn division_by_zero() -> SqlError {
    SqlError::new("22012", "division by zero")
}

/// Arrow's checked kernels, with PostgreSQL's words for their errors.
fn integers(
    op: Op,
    left: &ColumnarValue,
    right: &ColumnarValue,
    rows: usize,
    name: &str,
) -> Result<ArrayRef, SqlError> {
    let kernel = match op {
        Op::Add => numeric::add,
        Op::Sub => numeric::sub,
        Op::Mul => numeric::mul,
        Op::Div => numeric::div,
        Op::Rem => numeric::rem,
    };
    let result = match (left, right) {
        (ColumnarValue::Array(l), ColumnarValue::Array(r)) => kernel(l, r),
        (ColumnarValue::Array(l), ColumnarValue::Scalar(r)) => kernel(l, &r.to_scalar()?),
        (ColumnarValue::Scalar(l), ColumnarValue::Array(r)) => kernel(&l.to_scalar()?, r),
        (ColumnarValue::Scalar(l), ColumnarValue::Scalar(r)) => {
            kernel(&l.to_array_of_size(rows)?, &r.to_array_of_size(rows)?)
        }
    };
    result.map_err(|e| match e {
        ArrowError::DivideByZero => division_by_zero(),
        ArrowError::ArithmeticOverflow(_) => SqlError::new("22003", format!("{name} out of range")),
        other => SqlError::from_arrow(&other),
    })
}

/// Applies `f` to each pair that is not NULL.
fn map<L: ArrowPrimitiveType, R: ArrowPrimitiveType, O: ArrowPrimitiveType>(
    left: &ColumnarValue,
    right: &ColumnarValue,
    rows: usize,
    f: impl Fn(L::Native, R::Native) -> Result<O::Native, SqlError>,
) -> Result<ArrayRef, SqlError> {
    let f = |l, r| f(l, r).map_err(ArrowError::from);
    let array: PrimitiveArray<O> = match (left, right) {
        (ColumnarValue::Array(l), ColumnarValue::Scalar(r)) => {
            let r = r.to_array_of_size(1)?.as_primitive::<R>().value(0);
            try_unary(l.as_primitive::<L>(), |l| f(l, r))?
        }
        (ColumnarValue::Scalar(l), ColumnarValue::Array(r)) => {
            let l = l.to_array_of_size(1)?.as_primitive::<L>().value(0);
            try_unary(r.as_primitive::<R>(), |r| f(l, r))?
        }
        _ => {
            let (l, r) = (left.to_array(rows)?, right.to_array(rows)?);
            try_binary(l.as_primitive::<L>(), r.as_primitive::<R>(), f)?
        }
    };
    Ok(Arc::new(array))
}

fn decimals(
    op: Op,
    left: &ColumnarValue,
    right: &ColumnarValue,
    rows: usize,
    (ls, rs): (i8, i8),
    result: &DataType,
) -> Result<ArrayRef, SqlError> {
    let DataType::Decimal128(precision, scale) = *result else {
        return Err(SqlError::internal(format!("decimal arithmetic with result {result}")));
    };
    let ten = |n: i8| 10i128.pow(n.max(0) as u32);
    let limit = 10i128.pow(u32::from(precision));
    let fits = move |v: i128| {
        if v > -limit && v < limit { Ok(v) } else { Err(overflow(precision, scale)) }
    };
    let (lf, rf) = (ten(scale - ls), ten(scale - rs));
    let common = move |l: i128, r: i128| {
        let (l, r) = (l.checked_mul(lf), r.checked_mul(rf));
        l.zip(r).ok_or_else(|| overflow(precision, scale))
    };
    type D = Decimal128Type;
    let array = match op {
        Op::Add => map::<D, D, D>(left, right, rows, |l, r| {
            let (l, r) = common(l, r)?;
            fits(l.checked_add(r).ok_or_else(|| overflow(precision, scale))?)
        }),
        Op::Sub => map::<D, D, D>(left, right, rows, |l, r| {
            let (l, r) = common(l, r)?;
            fits(l.checked_sub(r).ok_or_else(|| overflow(precision, scale))?)
        }),
        Op::Mul => {
            let drop = ten(ls + rs - scale);
            map::<D, D, D>(left, right, rows, |l, r| {
                if drop == 1 {
                    return fits(l.checked_mul(r).ok_or_else(|| overflow(precision, scale))?);
                }
                let product = i256::from_i128(l).wrapping_mul(i256::from_i128(r));
                let drop = i256::from_i128(drop);
                if product.wrapping_rem(drop) != i256::ZERO {
                    return Err(lost_digits(scale));
                }
                fits(product.wrapping_div(drop).to_i128().ok_or_else(|| overflow(precision, scale))?)
            })
        }
        Op::Div => {
            // l / 10^ls : r / 10^rs, in units of 10^-scale.
            let up = u32::try_from(i16::from(scale) + i16::from(rs) - i16::from(ls)).unwrap_or(0);
            map::<D, D, D>(left, right, rows, |l, r| {
                if r == 0 {
                    return Err(division_by_zero());
                }
                fits(divide(l, up, r).ok_or_else(|| overflow(precision, scale))?)
            })
        }
        Op::Rem => map::<D, D, D>(left, right, rows, |l, r| {
            if r == 0 {
                return Err(division_by_zero());
            }
            let (l, r) = common(l, r)?;
            fits(l.wrapping_rem(r))
        }),
    }?;
    let array = array.as_primitive::<D>().clone().with_precision_and_scale(precision, scale)?;
    Ok(Arc::new(array))
}

/// `l * 10^up / r`, rounded half away from zero; `None` beyond 38 digits.
pub(crate) fn divide(l: i128, up: u32, r: i128) -> Option<i128> {
    if let Some(n) = 10i128.checked_pow(up).and_then(|p| l.checked_mul(p)) {
        let (quotient, rest) = (n.checked_div(r)?, n.checked_rem(r)?);
        let round = rest.unsigned_abs() >= r.unsigned_abs() - rest.unsigned_abs();
        let away = if (n < 0) == (r < 0) { 1 } else { -1 };
        return if round && rest != 0 { quotient.checked_add(away) } else { Some(quotient) };
    }
    let n = i256::from_i128(l).checked_mul(i256::from_i128(10).checked_pow(up)?)?;
    let r = i256::from_i128(r);
    let (quotient, rest) = (n.checked_div(r)?, n.checked_rem(r)?);
    let (rest_abs, r_abs) = (rest.wrapping_abs(), r.wrapping_abs());
    let away = if (n < i256::ZERO) == (r < i256::ZERO) { i256::ONE } else { i256::MINUS_ONE };
    let rounded = if rest_abs >= r_abs.wrapping_sub(rest_abs) && rest != i256::ZERO {
        quotient.checked_add(away)?
    } else {
        quotient
    };
    rounded.to_i128()
}

pub(crate) fn overflow(precision: u8, scale: i8) -> SqlError {
    SqlError::new("22003", "numeric field overflow").with_detail(format!(
        "A field with precision {precision}, scale {scale} must round to an absolute value less than 10^{}.",
        precision as i8 - scale
    ))
}

fn lost_digits(scale: i8) -> SqlError {
    SqlError::new("22003", format!("numeric result needs more than {scale} fractional digits"))
        .with_detail("a numeric holds 38 digits; digits of an exact product are not dropped silently")
        .with_hint("round() an operand or cast it to a smaller scale, or use double precision")
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Negate {
    signature: Signature,
}

impl ScalarUDFImpl for Negate {
    fn name(&self) -> &str {
        "checked_neg"
    }

    fn display_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(args.first().map_or_else(String::new, |a| format!("- {}", operand(a))))
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(args.first().map_or_else(String::new, |a| format!("(- {})", a.schema_name())))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        use DataType as D;
        let [t] = types else { return Err(SqlError::internal("unary minus takes one argument").into()) };
        let target = match t {
            D::Int8 | D::UInt8 => D::Int16,
            D::UInt16 => D::Int32,
            D::UInt32 => D::Int64,
            D::UInt64 => D::Decimal128(20, 0),
            D::Null => D::Int32,
            t if t.is_numeric() => t.clone(),
            other => {
                let name = SqlType::from_arrow(other).map_or_else(|| other.to_string(), |t| internal_name(&t));
                return Err(SqlError::new("42883", format!("operator does not exist: - {name}")).into());
            }
        };
        Ok(vec![target])
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(self.coerce_types(types)?.swap_remove(0))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(number_field(self.name(), self.return_type(&types)?, args.arg_fields))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, number_rows, .. } = args;
        let [value] = args.as_slice() else {
            return Err(SqlError::internal("unary minus takes one argument").into());
        };
        let name = SqlType::from_arrow(&value.data_type()).map(|t| plain_name(&t)).unwrap_or_default();
        let negated = numeric::neg(&value.to_array(number_rows)?).map_err(|e| match e {
            ArrowError::ArithmeticOverflow(_) => SqlError::new("22003", format!("{name} out of range")),
            other => SqlError::from_arrow(&other),
        })?;
        Ok(match value {
            ColumnarValue::Scalar(_) if !negated.is_empty() => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&negated, 0)?)
            }
            _ => ColumnarValue::Array(negated),
        })
    }
}
