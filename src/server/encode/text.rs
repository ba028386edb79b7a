//! Single values as PostgreSQL prints them, appended to a buffer.
//!
//! Layouts follow PostgreSQL's output functions (`float8out`, `numeric_out`, `timestamp_out`, `interval_out`,
//! `array_out`, `record_out`) under `DateStyle = ISO`, `IntervalStyle = postgres`, `bytea_output = hex`.

use bytes::BytesMut;

/// Microseconds in a day.
const DAY_US: i64 = 86_400_000_000;

/// A whole number.
pub fn put_int(out: &mut BytesMut, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `t` or `f`.
pub fn put_bool(out: &mut BytesMut, value: bool) {
    out.extend_from_slice(if value { b"t" } else { b"f" });
}

/// The shortest decimal that reads back as the same `real`.
pub fn put_float4(out: &mut BytesMut, value: f32) {
    if !put_special(out, f64::from(value)) {
        put_float(out, super::float::shortest_f32(value).as_str(), 6);
    }
}

/// The shortest decimal that reads back as the same `double precision`.
pub fn put_float8(out: &mut BytesMut, value: f64) {
    if !put_special(out, value) {
        put_float(out, super::float::shortest_f64(value).as_str(), 15);
    }
}

fn put_special(out: &mut BytesMut, value: f64) -> bool {
    let text: &[u8] = match value {
        v if v.is_nan() => b"NaN",
        v if v == f64::INFINITY => b"Infinity",
        v if v == f64::NEG_INFINITY => b"-Infinity",
        _ => return false,
    };
    out.extend_from_slice(text);
    true
}

/// Lays out `-d.ddde-x`: without an exponent while it is in `-4..fixed_below`, as C's `%g` does.
fn put_float(out: &mut BytesMut, scientific: &str, fixed_below: i32) {
    let (sign, unsigned) = match scientific.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", scientific),
    };
    let (mantissa, exponent) = unsigned.split_once('e').unwrap_or((unsigned, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    out.extend_from_slice(sign.as_bytes());
    if (-4..0).contains(&exponent) {
        out.extend_from_slice(b"0.");
        put_zeros(out, (-exponent - 1) as usize);
        out.extend_from_slice(first.as_bytes());
        out.extend_from_slice(rest.as_bytes());
    } else if (0..fixed_below).contains(&exponent) {
        let whole = exponent as usize;
        out.extend_from_slice(first.as_bytes());
        if rest.len() <= whole {
            out.extend_from_slice(rest.as_bytes());
            put_zeros(out, whole - rest.len());
        } else {
            out.extend_from_slice(&rest.as_bytes()[..whole]);
            out.extend_from_slice(b".");
            out.extend_from_slice(&rest.as_bytes()[whole..]);
        }
    } else {
        out.extend_from_slice(mantissa.as_bytes());
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        put_padded(out, exponent.unsigned_abs(), 2);
    }
}

/// `value` × 10^-`scale`, all `scale` digits printed unless `trim` takes the trailing zeros.
pub fn put_numeric(out: &mut BytesMut, value: i128, scale: i8, trim: bool) {
    if value < 0 {
        out.extend_from_slice(b"-");
    }
    let mut buffer = itoa::Buffer::new();
    let digits = match i64::try_from(value) {
        Ok(v) => buffer.format(v.unsigned_abs()),
        Err(_) => buffer.format(value.unsigned_abs()),
    }
    .as_bytes();
    if scale <= 0 {
        out.extend_from_slice(digits);
        if value != 0 {
            put_zeros(out, usize::from(scale.unsigned_abs()));
        }
        return;
    }
    let scale = scale as usize;
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
    let start = out.len();
    out.extend_from_slice(b".");
    put_zeros(out, scale - fraction.len());
    out.extend_from_slice(fraction);
    if trim {
        let kept = out[start..].iter().rposition(|b| *b != b'0').unwrap_or(0);
        out.truncate(start + if kept == 0 { 0 } else { kept + 1 });
    }
}

/// Days from 1970-01-01 as `2024-01-02`, `0044-03-15 BC`.
pub fn put_date(out: &mut BytesMut, days: i32) {
    let before_christ = put_day(out, i64::from(days));
    put_era(out, before_christ);
}

/// Microseconds from midnight as `04:05:06.5`.
pub fn put_time(out: &mut BytesMut, us: i64) {
    let seconds = us.div_euclid(1_000_000);
    put_padded(out, (seconds / 3600) as u32, 2);
    out.extend_from_slice(b":");
    put_padded(out, (seconds / 60 % 60) as u32, 2);
    out.extend_from_slice(b":");
    put_seconds(out, (seconds % 60) as u32, us.rem_euclid(1_000_000) as u32);
}

/// Microseconds from 1970-01-01 as `2024-01-02 03:04:05.123456`, without trailing zeros.
pub fn put_timestamp(out: &mut BytesMut, us: i64) {
    let before_christ = put_date_time(out, i128::from(us));
    put_era(out, before_christ);
}

/// As [`put_timestamp`], in the local time of `offset_s` seconds east of UTC: `2024-01-02 03:04:05+00`.
pub fn put_timestamptz(out: &mut BytesMut, us: i64, offset_s: i32) {
    let before_christ = put_date_time(out, i128::from(us) + i128::from(offset_s) * 1_000_000);
    out.extend_from_slice(if offset_s < 0 { b"-" } else { b"+" });
    let offset = offset_s.unsigned_abs();
    put_padded(out, offset / 3600, 2);
    if !offset.is_multiple_of(3600) {
        out.extend_from_slice(b":");
        put_padded(out, offset / 60 % 60, 2);
        if !offset.is_multiple_of(60) {
            out.extend_from_slice(b":");
            put_padded(out, offset % 60, 2);
        }
    }
    put_era(out, before_christ);
}

/// An interval as `1 year 2 mons 3 days 04:05:06.5`.
pub fn put_interval(out: &mut BytesMut, months: i32, days: i32, nanos: i64) {
    let us = nanos / 1_000;
    let mut empty = true;
    let mut negative = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value == 0 {
            continue;
        }
        if !empty {
            out.extend_from_slice(b" ");
        }
        if negative && value > 0 {
            out.extend_from_slice(b"+");
        }
        put_int(out, value);
        out.extend_from_slice(b" ");
        out.extend_from_slice(unit.as_bytes());
        if value != 1 {
            out.extend_from_slice(b"s");
        }
        empty = false;
        negative = value < 0;
    }
    if us == 0 && !empty {
        return;
    }
    if !empty {
        out.extend_from_slice(b" ");
    }
    if us < 0 {
        out.extend_from_slice(b"-");
    } else if negative {
        out.extend_from_slice(b"+");
    }
    let us = us.unsigned_abs();
    let seconds = us / 1_000_000;
    put_padded(out, seconds / 3600, 2);
    out.extend_from_slice(b":");
    put_padded(out, seconds / 60 % 60, 2);
    out.extend_from_slice(b":");
    put_seconds(out, (seconds % 60) as u32, (us % 1_000_000) as u32);
}

/// `\x` and two digits a byte.
pub fn put_bytea(out: &mut BytesMut, bytes: &[u8]) {
    out.reserve(2 + 2 * bytes.len());
    out.extend_from_slice(b"\\x");
    put_hex(out, bytes);
}

/// `8-4-4-4-12` digits.
pub fn put_uuid(out: &mut BytesMut, bytes: &[u8]) {
    let mut from = 0;
    for (i, len) in [4, 2, 2, 2, 6].into_iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b"-");
        }
        put_hex(out, &bytes[from..from + len]);
        from += len;
    }
}

/// Quotes what `out` holds from `start` on if it would be misread as an element of an array.
pub fn quote_array_element(out: &mut BytesMut, start: usize) {
    let text = &out[start..];
    let plain = !text.is_empty()
        && !text.eq_ignore_ascii_case(b"null")
        && !text.iter().any(|b| matches!(b, b'"' | b'\\' | b'{' | b'}' | b',') || is_space(*b));
    if !plain {
        requote(out, start, |out, b| {
            if matches!(b, b'"' | b'\\') {
                out.extend_from_slice(b"\\");
            }
        });
    }
}

/// Quotes what `out` holds from `start` on if it would be misread as a field of a record.
pub fn quote_record_field(out: &mut BytesMut, start: usize) {
    let text = &out[start..];
    let plain =
        !text.is_empty() && !text.iter().any(|b| matches!(b, b'"' | b'\\' | b'(' | b')' | b',') || is_space(*b));
    if !plain {
        requote(out, start, |out, b| {
            if matches!(b, b'"' | b'\\') {
                out.extend_from_slice(&[b]);
            }
        });
    }
}

fn requote(out: &mut BytesMut, start: usize, escape: impl Fn(&mut BytesMut, u8)) {
    let text = out[start..].to_vec();
    out.truncate(start);
    out.extend_from_slice(b"\"");
    for b in text {
        escape(out, b);
        out.extend_from_slice(&[b]);
    }
    out.extend_from_slice(b"\"");
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Date and time of day; true if the year is before 1.
fn put_date_time(out: &mut BytesMut, us: i128) -> bool {
    let day = i128::from(DAY_US);
    let before_christ = put_day(out, us.div_euclid(day) as i64);
    out.extend_from_slice(b" ");
    put_time(out, us.rem_euclid(day) as i64);
    before_christ
}

/// Year, month and day; true if the year is before 1.
fn put_day(out: &mut BytesMut, days: i64) -> bool {
    let (year, month, day) = civil_from_days(days);
    let before_christ = year <= 0;
    put_padded(out, if before_christ { 1 - year } else { year } as u64, 4);
    out.extend_from_slice(b"-");
    put_padded(out, month, 2);
    out.extend_from_slice(b"-");
    put_padded(out, day, 2);
    before_christ
}

fn put_era(out: &mut BytesMut, before_christ: bool) {
    if before_christ {
        out.extend_from_slice(b" BC");
    }
}

/// The proleptic Gregorian date of a day counted from 1970-01-01; Howard Hinnant's `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn put_seconds(out: &mut BytesMut, seconds: u32, mut us: u32) {
    put_padded(out, seconds, 2);
    if us == 0 {
        return;
    }
    let mut width = 6;
    while us.is_multiple_of(10) {
        us /= 10;
        width -= 1;
    }
    out.extend_from_slice(b".");
    put_padded(out, us, width);
}

/// A number with zeros before it up to `width` digits.
fn put_padded(out: &mut BytesMut, value: impl itoa::Integer, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    put_zeros(out, width.saturating_sub(digits.len()));
    out.extend_from_slice(digits);
}

fn put_zeros(out: &mut BytesMut, count: usize) {
    out.resize(out.len() + count, b'0');
}

fn put_hex(out: &mut BytesMut, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for b in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(put: impl Fn(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        put(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn floats_print_as_postgresql_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.000012345, "1.2345e-05"),
            (123456.789, "123456.789"),
            (100000000000000.0, "100000000000000"),
            (123456789012345.0, "123456789012345"),
            (1e15, "1e+15"),
            (1e20, "1e+20"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (1.0 / 3.0, "0.3333333333333333"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(printed(|o| put_float8(o, value)), text);
        }
        for (value, text) in [
            (0.1_f32, "0.1"),
            (123456.0, "123456"),
            (1234567.0, "1.234567e+06"),
            (1e6, "1e+06"),
            (16777216.0, "1.6777216e+07"),
            (3.4028235e38, "3.4028235e+38"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
        ] {
            assert_eq!(printed(|o| put_float4(o, value)), text);
        }
    }

    #[test]
    fn numerics_keep_their_scale_unless_trimmed() {
        for (value, scale, trim, text) in [
            (0, 2, false, "0.00"),
            (5, 2, false, "0.05"),
            (-5, 2, false, "-0.05"),
            (12345, 2, false, "123.45"),
            (12300, 2, false, "123.00"),
            (12300, 2, true, "123"),
            (12340, 2, true, "123.4"),
            (0, 18, true, "0"),
            (-1, 18, true, "-0.000000000000000001"),
            (42, 0, false, "42"),
            (42, -3, false, "42000"),
            (10_i128.pow(38) - 1, 0, false, "99999999999999999999999999999999999999"),
            (-(10_i128.pow(38) - 1), 38, false, "-0.99999999999999999999999999999999999999"),
        ] {
            assert_eq!(printed(|o| put_numeric(o, value, scale, trim)), text);
        }
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(printed(|o| put_date(o, 0)), "1970-01-01");
        assert_eq!(printed(|o| put_date(o, 19_724)), "2024-01-02");
        assert_eq!(printed(|o| put_date(o, 11_016)), "2000-02-29");
        assert_eq!(printed(|o| put_date(o, -719_162)), "0001-01-01");
        assert_eq!(printed(|o| put_date(o, -719_163)), "0001-12-31 BC");
        assert_eq!(printed(|o| put_date(o, 2_932_897)), "10000-01-01");
        assert_eq!(printed(|o| put_time(o, 14_706_500_000)), "04:05:06.5");
        assert_eq!(printed(|o| put_time(o, 86_400_000_000)), "24:00:00");
        assert_eq!(printed(|o| put_timestamp(o, 1_704_164_645_123_456)), "2024-01-02 03:04:05.123456");
        assert_eq!(printed(|o| put_timestamp(o, 1_704_164_645_120_000)), "2024-01-02 03:04:05.12");
        assert_eq!(printed(|o| put_timestamp(o, 1_704_164_645_000_001)), "2024-01-02 03:04:05.000001");
        assert_eq!(printed(|o| put_timestamp(o, -1)), "1969-12-31 23:59:59.999999");
        assert_eq!(printed(|o| put_timestamp(o, -62_135_596_800_000_001)), "0001-12-31 23:59:59.999999 BC");
        assert_eq!(printed(|o| put_timestamptz(o, 0, 0)), "1970-01-01 00:00:00+00");
        assert_eq!(printed(|o| put_timestamptz(o, 0, 19_800)), "1970-01-01 05:30:00+05:30");
        assert_eq!(printed(|o| put_timestamptz(o, 0, -28_800)), "1969-12-31 16:00:00-08");
        assert_eq!(printed(|o| put_timestamptz(o, 0, -17_762)), "1969-12-31 19:03:58-04:56:02");
    }

    #[test]
    fn intervals_in_postgres_style() {
        let s = 1_000_000_000;
        for ((months, days, nanos), text) in [
            ((0, 0, 0), "00:00:00"),
            ((14, 3, 14_706 * s + 500_000_000), "1 year 2 mons 3 days 04:05:06.5"),
            ((12, 1, 0), "1 year 1 day"),
            ((-12, 0, 0), "-1 years"),
            ((-1, 2, 0), "-1 mons +2 days"),
            ((0, -1, 3600 * s), "-1 days +01:00:00"),
            ((0, 1, -3600 * s), "1 day -01:00:00"),
            ((0, 0, -500_000_000), "-00:00:00.5"),
            ((0, 0, 100 * 3600 * s), "100:00:00"),
            ((0, 0, 1_500), "00:00:00.000001"),
        ] {
            assert_eq!(printed(|o| put_interval(o, months, days, nanos)), text);
        }
    }

    #[test]
    fn bytes_uuids_and_quoting() {
        assert_eq!(printed(|o| put_bytea(o, &[0, 0xde, 0xad])), "\\x00dead");
        let id: Vec<u8> = (0..16).collect();
        assert_eq!(printed(|o| put_uuid(o, &id)), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        for (text, array, record) in [
            ("a", "a", "a"),
            ("", "\"\"", "\"\""),
            ("a b", "\"a b\"", "\"a b\""),
            ("null", "\"null\"", "null"),
            ("a\"b\\c", "\"a\\\"b\\\\c\"", "\"a\"\"b\\\\c\""),
            ("{x}", "\"{x}\"", "{x}"),
            ("(x)", "(x)", "\"(x)\""),
            ("a,b", "\"a,b\"", "\"a,b\""),
        ] {
            let quoted = |quote: fn(&mut BytesMut, usize)| {
                printed(|o| {
                    o.extend_from_slice(b"{");
                    o.extend_from_slice(text.as_bytes());
                    quote(o, 1);
                })
            };
            assert_eq!(quoted(quote_array_element), format!("{{{array}"));
            assert_eq!(quoted(quote_record_field), format!("{{{record}"));
        }
    }
}
