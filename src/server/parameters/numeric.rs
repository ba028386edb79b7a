//! Exact decimals: digits and scale to a `numeric(p, s)`.

use datafusion::common::ScalarValue;
use millstream_catalog::types::{MAX_PRECISION, UNCONSTRAINED_SCALE};

use crate::error::{Error, Result, sqlstate};

/// `value` × 10^-`scale` as a numeric of this precision and scale, rounded half away from zero; without them it must
/// fit exactly.
pub fn scalar(value: i128, scale: i32, modifier: Option<(u8, i8)>) -> Result<ScalarValue> {
    let (precision, wanted) = modifier.unwrap_or((MAX_PRECISION, UNCONSTRAINED_SCALE));
    let shift = i32::from(wanted) - scale;
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    let scaled = match (shift >= 0, power) {
        (true, Some(power)) => value.checked_mul(power),
        (true, None) => (value == 0).then_some(0),
        (false, Some(power)) if modifier.is_none() && value % power != 0 => {
            return Err(overflow(format!(
                "a numeric without precision keeps {UNCONSTRAINED_SCALE} digits after the point"
            ))
            .with_hint("cast the parameter to numeric(p,s) to have it rounded"));
        }
        (false, Some(power)) => {
            let (quotient, remainder) = (value / power, value % power);
            let away = if remainder.unsigned_abs() >= power.unsigned_abs().div_ceil(2) { value.signum() } else { 0 };
            Some(quotient + away)
        }
        // Smaller than any digit that is kept.
        (false, None) if modifier.is_none() && value != 0 => {
            return Err(overflow(format!(
                "a numeric without precision keeps {UNCONSTRAINED_SCALE} digits after the point"
            )));
        }
        (false, None) => Some(0),
    };
    match scaled.filter(|v| v.unsigned_abs() < 10_u128.pow(u32::from(precision))) {
        Some(value) => Ok(ScalarValue::Decimal128(Some(value), precision, wanted)),
        None => Err(overflow(format!(
            "a field with precision {precision}, scale {wanted} must round to an absolute value less than 10^{}",
            i32::from(precision) - i32::from(wanted)
        ))),
    }
}

/// A numeric with so many digits after the point, if it has no more, and as many digits as it needs.
pub fn with_scale(value: ScalarValue, scale: Option<i8>) -> ScalarValue {
    let ScalarValue::Decimal128(Some(digits), _, kept) = value else { return value };
    let Some((scale, surplus)) = scale.and_then(|scale| Some((scale, u32::try_from(kept - scale).ok()?))) else {
        return value;
    };
    let unit = 10_i128.pow(surplus);
    if scale < 0 || digits % unit != 0 {
        return value;
    }
    let digits = digits / unit;
    let precision = digits.unsigned_abs().checked_ilog10().map_or(1, |log| log as u8 + 1);
    ScalarValue::Decimal128(Some(digits), precision.max(scale as u8), scale)
}

fn overflow(detail: impl Into<String>) -> Error {
    Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow").with_detail(detail)
}
