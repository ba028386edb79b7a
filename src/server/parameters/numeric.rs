//! Exact decimals: text to digits and scale, and digits and scale to a `numeric(p, s)`.

use datafusion::common::ScalarValue;
use millstream_catalog::types::{MAX_PRECISION, UNCONSTRAINED_SCALE};

use crate::error::{Error, Result, sqlstate};

/// Reads `-12.50e3` as digits and scale. `None`: not a number; an error: more digits than any numeric has.
pub fn parse(text: &str) -> Option<Result<(i128, i32)>> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let scale = i64::from(fraction.len() as u32) - i64::from(exponent);
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    if significant.is_empty() {
        return Some(Ok((0, scale.clamp(0, i64::from(MAX_PRECISION)) as i32)));
    }
    let (Ok(value), Ok(scale)) = (significant.parse::<i128>(), i32::try_from(scale - trailing as i64)) else {
        return Some(Err(overflow("value has more than 38 digits")));
    };
    Some(Ok((if negative { -value } else { value }, scale)))
}

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
