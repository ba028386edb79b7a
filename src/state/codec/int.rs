//! One encoding for integers of every width, in keys and in rows: a length byte and the significant bytes, in order.
//!
//! `0x80 + n` and the `n` significant bytes, big endian, for a number from zero up; `0x7f - n` and the `n` low bytes of the
//! two's complement for a negative one, where `n` counts the significant bytes of its complement. Bytes compare as the
//! numbers do, small numbers are short, and a column can be widened without rewriting what is stored. The first byte is
//! between `0x6f` and `0x90`.

use super::corrupt;
use crate::error::Result;

/// A type that is stored as an integer.
pub(super) trait Integer: Copy + Default + Send + 'static {
    fn encoded_len(self) -> usize;
    /// Writes the encoding to the start of `out` and returns its length.
    fn put(self, out: &mut [u8]) -> usize;
    fn read(cursor: &mut &[u8]) -> Result<Self>;
}

fn significant(magnitude: u64) -> usize {
    8 - magnitude.leading_zeros() as usize / 8
}

fn significant_wide(magnitude: u128) -> usize {
    16 - magnitude.leading_zeros() as usize / 8
}

/// The length byte for `n` significant bytes.
fn length_byte(negative: bool, n: usize) -> u8 {
    if negative { 0x7f - n as u8 } else { 0x80 + n as u8 }
}

/// Splits a length byte into sign and number of bytes.
fn parse_length(byte: u8) -> Result<(bool, usize)> {
    match byte {
        0x80..=0x90 => Ok((false, usize::from(byte - 0x80))),
        0x6f..=0x7f => Ok((true, usize::from(0x7f - byte))),
        _ => Err(corrupt("an integer starts with an unknown byte")),
    }
}

fn put_narrow(bits: u64, negative: bool, n: usize, out: &mut [u8]) -> usize {
    out[0] = length_byte(negative, n);
    out[1..=n].copy_from_slice(&bits.to_be_bytes()[8 - n..]);
    n + 1
}

/// Reads the sign and the number, sign-extended to 64 bits; the second is exact where the sign is not set too.
fn read_narrow(cursor: &mut &[u8]) -> Result<(bool, u64)> {
    let (first, rest) = cursor.split_first().ok_or_else(|| corrupt("an integer is missing"))?;
    let (negative, n) = parse_length(*first)?;
    if n > 8 || rest.len() < n {
        return Err(corrupt("an integer is cut off or too wide"));
    }
    let mut bits = match rest.first_chunk::<8>() {
        Some(chunk) if n > 0 => u64::from_be_bytes(*chunk) >> (64 - 8 * n),
        _ => rest[..n].iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
    };
    if negative && n < 8 {
        bits |= u64::MAX << (8 * n);
    }
    *cursor = &rest[n..];
    Ok((negative, bits))
}

fn out_of_range() -> crate::error::Error {
    corrupt("an integer does not fit its column")
}

macro_rules! signed {
    ($($t:ty),*) => {$(
        impl Integer for $t {
            fn encoded_len(self) -> usize {
                let v = i64::from(self);
                1 + significant((v ^ (v >> 63)) as u64)
            }
            fn put(self, out: &mut [u8]) -> usize {
                let v = i64::from(self);
                put_narrow(v as u64, v < 0, significant((v ^ (v >> 63)) as u64), out)
            }
            fn read(cursor: &mut &[u8]) -> Result<Self> {
                let (negative, bits) = read_narrow(cursor)?;
                let v = bits as i64;
                if (v < 0) != negative {
                    return Err(out_of_range());
                }
                Self::try_from(v).map_err(|_| out_of_range())
            }
        }
    )*};
}

macro_rules! unsigned {
    ($($t:ty),*) => {$(
        impl Integer for $t {
            fn encoded_len(self) -> usize {
                1 + significant(u64::from(self))
            }
            fn put(self, out: &mut [u8]) -> usize {
                let v = u64::from(self);
                put_narrow(v, false, significant(v), out)
            }
            fn read(cursor: &mut &[u8]) -> Result<Self> {
                let (negative, bits) = read_narrow(cursor)?;
                if negative {
                    return Err(out_of_range());
                }
                Self::try_from(bits).map_err(|_| out_of_range())
            }
        }
    )*};
}

signed!(i8, i16, i32, i64);
unsigned!(u8, u16, u32, u64);

impl Integer for i128 {
    fn encoded_len(self) -> usize {
        1 + significant_wide((self ^ (self >> 127)) as u128)
    }

    fn put(self, out: &mut [u8]) -> usize {
        let n = significant_wide((self ^ (self >> 127)) as u128);
        out[0] = length_byte(self < 0, n);
        out[1..=n].copy_from_slice(&self.to_be_bytes()[16 - n..]);
        n + 1
    }

    fn read(cursor: &mut &[u8]) -> Result<Self> {
        let (first, rest) = cursor.split_first().ok_or_else(|| corrupt("an integer is missing"))?;
        let (negative, n) = parse_length(*first)?;
        if rest.len() < n {
            return Err(corrupt("an integer is cut off"));
        }
        let (digits, rest) = rest.split_at(n);
        let mut bytes = [if negative { 0xff } else { 0 }; 16];
        bytes[16 - n..].copy_from_slice(digits);
        let v = Self::from_be_bytes(bytes);
        if (v < 0) != negative {
            return Err(out_of_range());
        }
        *cursor = rest;
        Ok(v)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::Integer;

    fn encode<T: Integer>(v: T) -> Vec<u8> {
        let mut out = vec![0; v.encoded_len()];
        assert_eq!(v.put(&mut out), out.len());
        out
    }

    /// Values of every length: a random number of random size.
    fn spread(v: i128, shift: u32) -> i128 {
        v >> (shift % 128)
    }

    proptest! {
        #[test]
        fn order_and_value_survive(a in any::<i128>(), s in any::<u32>(), b in any::<i128>(), t in any::<u32>()) {
            let (a, b) = (spread(a, s), spread(b, t));
            prop_assert_eq!(encode(a).cmp(&encode(b)), a.cmp(&b));
            prop_assert_eq!(i128::read(&mut encode(a).as_slice()).unwrap(), a);
            let (a, b) = (a as i64, b as i64);
            prop_assert_eq!(encode(a).cmp(&encode(b)), a.cmp(&b));
            prop_assert_eq!(i64::read(&mut encode(a).as_slice()).unwrap(), a);
            prop_assert_eq!(encode(a), encode(i128::from(a)));
            let (a, b) = (a as u64, b as u64);
            prop_assert_eq!(encode(a).cmp(&encode(b)), a.cmp(&b));
            prop_assert_eq!(u64::read(&mut encode(a).as_slice()).unwrap(), a);
        }
    }

    #[test]
    fn the_bytes_on_disk_are_these() {
        assert_eq!(encode(0i64), [0x80]);
        assert_eq!(encode(-1i64), [0x7f]);
        assert_eq!(encode(1i16), [0x81, 1]);
        assert_eq!(encode(255u8), [0x81, 255]);
        assert_eq!(encode(256i32), [0x82, 1, 0]);
        assert_eq!(encode(-2i64), [0x7e, 0xfe]);
        assert_eq!(encode(-257i64), [0x7d, 0xfe, 0xff]);
        assert_eq!(encode(i64::MAX), [0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(encode(i64::MIN), [0x77, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(u64::MAX), [0x88, 255, 255, 255, 255, 255, 255, 255, 255]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(i8::read(&mut encode(128i64).as_slice()).is_err());
        assert!(i64::read(&mut encode(u64::MAX).as_slice()).is_err());
        assert!(u32::read(&mut encode(-1i64).as_slice()).is_err());
        assert!(i64::read(&mut [0x82, 1].as_slice()).is_err());
        assert!(i64::read(&mut [].as_slice()).is_err());
        assert!(i64::read(&mut [0x20].as_slice()).is_err());
    }
}
