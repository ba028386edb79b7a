//! Single values in PostgreSQL's binary forms (`numeric_send` and kin), where they are more than big-endian bytes.

use bytes::{BufMut, BytesMut};

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
pub const EPOCH_DAYS: i32 = 10_957;
/// Microseconds from 1970-01-01 to 2000-01-01.
pub const EPOCH_US: i64 = 946_684_800_000_000;

/// Base-10000 digits with weight, sign and display scale; `trim` takes trailing zeros off the display scale.
pub fn put_numeric(out: &mut BytesMut, value: i128, scale: i8, trim: bool) {
    let mut magnitude = value.unsigned_abs();
    let mut scale = i32::from(scale);
    while (trim && scale > 0) && magnitude.is_multiple_of(10) {
        if magnitude == 0 {
            scale = 0;
            break;
        }
        magnitude /= 10;
        scale -= 1;
    }
    let display_scale = scale.max(0);
    // Groups of four digits start at the decimal point: the fraction is padded up to a whole group. 38 digits and three
    // zeros behind them do not fit into 128 bits, so the lowest group is taken apart first.
    let mut groups = [0_i16; 48];
    let mut count = 0;
    let mut push = |group: u128| {
        groups[count] = group as i16;
        count += 1;
    };
    if scale > 0 {
        let partial = (scale % 4) as u32;
        if partial > 0 {
            let unit = 10_u128.pow(partial);
            push(magnitude % unit * 10_u128.pow(4 - partial));
            magnitude /= unit;
        }
    } else {
        let mut zeros = -scale;
        while zeros >= 4 {
            push(0);
            zeros -= 4;
        }
        if zeros > 0 && magnitude > 0 {
            let unit = 10_u128.pow(4 - zeros as u32);
            push(magnitude % unit * 10_u128.pow(zeros as u32));
            magnitude /= unit;
        }
    }
    while magnitude > 0 {
        push(magnitude % 10_000);
        magnitude /= 10_000;
    }
    let fraction_groups = (display_scale + 3) / 4;
    let weight = count as i32 - fraction_groups - 1;
    let digits = &groups[..count];
    // Zero groups at either end carry nothing.
    let low = digits.iter().position(|g| *g != 0).unwrap_or(count);
    let high = digits.iter().rposition(|g| *g != 0).map_or(low, |i| i + 1);
    let weight = if low == high { 0 } else { weight - (count - high) as i32 };
    out.put_i16((high - low) as i16);
    out.put_i16(weight as i16);
    out.put_u16(if value < 0 { 0x4000 } else { 0 });
    out.put_i16(display_scale as i16);
    for group in digits[low..high].iter().rev() {
        out.put_i16(*group);
    }
}

/// Reads what [`put_numeric`] writes: the value and its scale. `None` if it is malformed, NaN, infinite, or has more
/// than 38 digits.
pub fn read_numeric(bytes: &[u8]) -> Option<(i128, u32)> {
    let word = |i: usize| Some(i16::from_be_bytes(bytes.get(2 * i..2 * i + 2)?.try_into().ok()?));
    let count = usize::try_from(word(0)?).ok()?;
    let weight = i32::from(word(1)?);
    let negative = match word(2)? as u16 {
        0 => false,
        0x4000 => true,
        _ => return None,
    };
    let scale = u32::try_from(word(3)?).ok()?;
    if bytes.len() != 8 + 2 * count {
        return None;
    }
    let mut value = 0_i128;
    for i in 0..count {
        let group = word(4 + i)?;
        if !(0..10_000).contains(&group) {
            return None;
        }
        // The power of ten of the group's last digit, counted in units of 10^-scale.
        let exponent = (weight - i as i32) * 4 + scale as i32;
        let group = i128::from(group);
        let shifted = if exponent >= 0 {
            group.checked_mul(10_i128.checked_pow(exponent as u32)?)?
        } else {
            // Digits past the display scale are zeros in every numeric that PostgreSQL sends.
            let unit = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if group % unit != 0 {
                return None;
            }
            group / unit
        };
        value = value.checked_add(shifted)?;
    }
    if value >= 10_i128.pow(38) {
        return None;
    }
    Some((if negative { -value } else { value }, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(value: i128, scale: i8, trim: bool) -> Vec<i16> {
        let mut out = BytesMut::new();
        put_numeric(&mut out, value, scale, trim);
        out.chunks(2).map(|c| i16::from_be_bytes([c[0], c[1]])).collect()
    }

    #[test]
    fn numerics_as_postgresql_sends_them() {
        // digits, weight, sign, display scale, then the digits: as `select numeric_send(…)` shows them.
        assert_eq!(words(0, 0, false), [0, 0, 0, 0]);
        assert_eq!(words(0, 2, false), [0, 0, 0, 2]);
        assert_eq!(words(1, 0, false), [1, 0, 0, 0, 1]);
        assert_eq!(words(10_000, 0, false), [1, 1, 0, 0, 1]);
        assert_eq!(words(123_456_789, 0, false), [3, 2, 0, 0, 1, 2345, 6789]);
        assert_eq!(words(-12_345, 2, false), [2, 0, 0x4000, 2, 123, 4500]);
        assert_eq!(words(5, 2, false), [1, -1, 0, 2, 500]);
        assert_eq!(words(5, 6, false), [1, -2, 0, 6, 500]);
        assert_eq!(words(12_300, 2, true), [1, 0, 0, 0, 123]);
        assert_eq!(words(12_300, 2, false), [1, 0, 0, 2, 123]);
        assert_eq!(words(42, -3, false), [2, 1, 0, 0, 4, 2000]);
    }

    #[test]
    fn numerics_read_back() {
        let largest = 10_i128.pow(38) - 1;
        for value in [0, 1, 9, 10_000, 123_456_789, 10_i128.pow(37), largest, largest / 7] {
            for scale in 0..=38 {
                for value in [value, -value] {
                    let mut out = BytesMut::new();
                    put_numeric(&mut out, value, scale, false);
                    assert_eq!(read_numeric(&out), Some((value, scale as u32)), "{value} at {scale}");
                }
            }
        }
        assert_eq!(read_numeric(&[0, 1, 0, 0, 0xc0, 0, 0, 0]), None);
        assert_eq!(read_numeric(&[0, 1]), None);
    }
}
