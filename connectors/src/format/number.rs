//! Exact numbers from text: a digit that would be lost is an error, never rounded away.

/// Parses a decimal number (`-12.50`, `1e3`) to its value times ten to `scale`, of at most `precision` digits.
///
/// # Errors
/// What is wrong: not a number, too many digits before the point, or a digit after the point that would be lost.
pub fn parse_decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, DecimalError> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    // Value is mantissa * 10^exponent; zeros wait in `zeros` until a digit follows, so that long tails of zeros do not overflow.
    let (mut mantissa, mut exponent, mut zeros) = (0u128, 0i64, 0i64);
    let (mut seen_digit, mut after_point, mut i) = (false, false, 0);
    while i < digits.len() {
        match digits[i] {
            b'0' => {
                seen_digit = true;
                if mantissa != 0 {
                    zeros += 1;
                }
                exponent -= i64::from(after_point);
            }
            d @ b'1'..=b'9' => {
                seen_digit = true;
                mantissa = u32::try_from(zeros + 1)
                    .ok()
                    .and_then(|z| 10u128.checked_pow(z))
                    .and_then(|p| mantissa.checked_mul(p))
                    .and_then(|m| m.checked_add(u128::from(d - b'0')))
                    .ok_or(DecimalError::TooManyDigits)?;
                zeros = 0;
                exponent -= i64::from(after_point);
            }
            b'.' if !after_point => after_point = true,
            b'e' | b'E' if seen_digit => {
                exponent += parse_exponent(&digits[i + 1..])?;
                break;
            }
            _ => return Err(DecimalError::NotANumber),
        }
        i += 1;
    }
    if !seen_digit {
        return Err(DecimalError::NotANumber);
    }
    if mantissa == 0 {
        return Ok(0);
    }
    let shift = exponent + zeros + i64::from(scale);
    let value = if shift >= 0 {
        u32::try_from(shift).ok().and_then(|s| 10u128.checked_pow(s)).and_then(|p| mantissa.checked_mul(p))
    } else {
        let divisor =
            u32::try_from(-shift).ok().and_then(|s| 10u128.checked_pow(s)).ok_or(DecimalError::LosesDigits)?;
        if mantissa % divisor != 0 {
            return Err(DecimalError::LosesDigits);
        }
        Some(mantissa / divisor)
    };
    let value = value.filter(|v| *v < 10u128.pow(u32::from(precision.min(38)))).ok_or(DecimalError::OutOfRange)?;
    let value = i128::try_from(value).map_err(|_| DecimalError::OutOfRange)?;
    Ok(if negative { -value } else { value })
}

fn parse_exponent(text: &[u8]) -> Result<i64, DecimalError> {
    let text = std::str::from_utf8(text).map_err(|_| DecimalError::NotANumber)?;
    let digits = text.trim_start_matches(['+', '-']);
    if digits.is_empty() || text.len() - digits.len() > 1 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(DecimalError::NotANumber);
    }
    // Past that many digits every exponent has the same outcome.
    let value = digits.parse::<i64>().unwrap_or(1 << 40).min(1 << 40);
    Ok(if text.starts_with('-') { -value } else { value })
}

/// Why text is not a decimal of the type asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalError {
    NotANumber,
    /// More digits than any decimal can hold.
    TooManyDigits,
    /// Too large for the precision.
    OutOfRange,
    /// It has a digit further right than the scale.
    LosesDigits,
}

impl DecimalError {
    /// The words after the value and the type: `12.345 as numeric(12,2): …`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotANumber => "not a number",
            Self::TooManyDigits | Self::OutOfRange => "out of range",
            Self::LosesDigits => "a digit after the decimal point would be lost",
        }
    }
}

/// Parses an integer; `1.0` and `1e3` are integers too, `1.5` is not.
pub fn parse_integer(text: &[u8]) -> Result<i64, DecimalError> {
    if let Some(value) = parse_short_integer(text) {
        return Ok(value);
    }
    i64::try_from(parse_decimal(text, 38, 0)?).map_err(|_| DecimalError::OutOfRange)
}

/// Integers of up to 18 digits, which cannot overflow.
#[inline]
fn parse_short_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0i64;
    for b in digits {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        value = value * 10 + i64::from(d);
    }
    Some(if negative { -value } else { value })
}

/// Writes a decimal as text, with all digits of its scale, or without trailing zeros after the point.
pub fn write_decimal(value: i128, scale: i8, trim: bool, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 40];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    while rest != 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    if value < 0 {
        out.push(b'-');
    }
    if scale <= 0 {
        if at == digits.len() {
            out.push(b'0');
        } else {
            out.extend_from_slice(&digits[at..]);
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
        return;
    }
    let scale = scale as usize;
    let point = digits.len().saturating_sub(scale);
    if at < point {
        out.extend_from_slice(&digits[at..point]);
    } else {
        out.push(b'0');
    }
    // A scale of 38 still fits the 40 digits.
    let mut fraction = &digits[point..];
    if trim {
        while let [head @ .., b'0'] = fraction {
            fraction = head;
        }
    }
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DecimalError::{LosesDigits, NotANumber, OutOfRange, TooManyDigits};

    #[test]
    fn decimals_are_exact() {
        let long_tail = format!("0.1{}", "0".repeat(60));
        for (text, p, s, expected) in [
            ("12.34", 12, 2, Ok(1234)),
            ("-0.05", 12, 2, Ok(-5)),
            ("+1", 12, 2, Ok(100)),
            ("1.500", 12, 2, Ok(150)),
            (".5", 3, 1, Ok(5)),
            ("5.", 3, 1, Ok(50)),
            ("1e3", 12, 2, Ok(100_000)),
            ("1.25E-1", 12, 3, Ok(125)),
            ("100e-2", 12, 0, Ok(1)),
            ("0e999999999999999999999", 12, 2, Ok(0)),
            ("-0", 12, 2, Ok(0)),
            (long_tail.as_str(), 12, 2, Ok(10)),
            ("99999999999999999999999999999999999999", 38, 0, Ok(10i128.pow(38) - 1)),
            ("9999999999.99", 12, 2, Ok(999_999_999_999)),
            ("1200", 4, -2, Ok(12)),
            ("12.345", 12, 2, Err(LosesDigits)),
            ("1e-300", 12, 2, Err(LosesDigits)),
            ("1250", 4, -2, Err(LosesDigits)),
            ("10000000000", 12, 2, Err(OutOfRange)),
            ("1e40", 12, 2, Err(OutOfRange)),
            ("1e99999999999", 38, 0, Err(OutOfRange)),
            ("1234567890123456789012345678901234567890123", 38, 0, Err(TooManyDigits)),
            ("", 12, 2, Err(NotANumber)),
            ("-", 12, 2, Err(NotANumber)),
            (".", 12, 2, Err(NotANumber)),
            ("1.2.3", 12, 2, Err(NotANumber)),
            ("1e", 12, 2, Err(NotANumber)),
            ("1e+-3", 12, 2, Err(NotANumber)),
            ("e3", 12, 2, Err(NotANumber)),
            ("NaN", 12, 2, Err(NotANumber)),
            ("12a", 12, 2, Err(NotANumber)),
        ] {
            assert_eq!(parse_decimal(text.as_bytes(), p, s), expected, "{text} as numeric({p},{s})");
        }
    }

    #[test]
    fn integers_keep_every_digit() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("-7", Ok(-7)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9007199254740993", Ok(9_007_199_254_740_993)),
            ("1.0", Ok(1)),
            ("12e2", Ok(1200)),
            ("9223372036854775808", Err(OutOfRange)),
            ("1.5", Err(LosesDigits)),
            ("", Err(NotANumber)),
            ("1 ", Err(NotANumber)),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn decimals_print_as_they_were() {
        for (value, scale, trim, expected) in [
            (1234, 2, false, "12.34"),
            (-5, 2, false, "-0.05"),
            (0, 2, false, "0.00"),
            (0, 18, true, "0"),
            (1_500_000_000_000_000_000, 18, true, "1.5"),
            (100, 0, false, "100"),
            (0, 0, false, "0"),
            (12, -2, false, "1200"),
            (1, 38, false, "0.00000000000000000000000000000000000001"),
            (10i128.pow(38) - 1, 0, true, "99999999999999999999999999999999999999"),
        ] {
            let mut out = Vec::new();
            write_decimal(value, scale, trim, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
