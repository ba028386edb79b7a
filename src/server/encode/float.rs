//! The digits of floats, as PostgreSQL chooses them.
//!
//! Rust prints the shortest decimal that reads back as the same value, and so does PostgreSQL (Ryu, `d2s.c`), but they
//! differ at the edges: PostgreSQL never takes a decimal that lies exactly half-way to the neighbouring float, even if
//! reading it would round back, and of two equally near decimals it takes the even one.

use std::fmt::{self, Write};

/// Digits of the longest `double precision` that is needed to tell it from its neighbours.
const MAX_DIGITS_F64: usize = 17;
const MAX_DIGITS_F32: usize = 9;

/// A finite number in scientific notation: `-1.5e-7`.
#[derive(Default, Clone, Copy)]
pub struct Digits {
    bytes: [u8; 32],
    len: usize,
}

impl Digits {
    fn of(text: fmt::Arguments<'_>) -> Self {
        let mut digits = Self::default();
        // 17 digits, two signs, a point and an exponent of three digits always fit.
        let _ = digits.write_fmt(text);
        digits
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    /// How many significant digits there are.
    fn count(&self) -> usize {
        self.mantissa().filter(u8::is_ascii_digit).count()
    }

    /// The value as an integer times a power of ten, without its sign.
    fn scaled(&self) -> Option<(u64, i32)> {
        let exponent: i32 = self.as_str().split_once('e')?.1.parse().ok()?;
        let mantissa = self.mantissa().filter(u8::is_ascii_digit).fold(0, |m, b| m * 10 + u64::from(b - b'0'));
        Some((mantissa, exponent + 1 - self.count() as i32))
    }

    fn mantissa(&self) -> impl Iterator<Item = u8> {
        self.bytes[..self.len].iter().copied().take_while(|b| *b != b'e')
    }
}

impl Write for Digits {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// The digits of a finite `double precision`.
pub fn shortest_f64(value: f64) -> Digits {
    let shortest = Digits::of(format_args!("{value:e}"));
    let rounded = |digits: usize| Digits::of(format_args!("{value:.*e}", digits - 1));
    // Below 2^53 no short decimal is half-way between two floats.
    if value.abs() >= (1_u64 << 53) as f64 {
        let bits = value.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32 - 1075;
        let mantissa = (bits & ((1 << 52) - 1)) | 1 << 52;
        let half_way = |digits: &Digits| is_half_way(digits, mantissa, exponent, 52);
        if half_way(&shortest) {
            return first_inside(shortest, MAX_DIGITS_F64, rounded, half_way);
        }
    }
    // Decimals of 15 digits are farther apart than floats, and a tie needs a value that ends within 25 binary places.
    if shortest.count() >= 15 && ends_within(value, 25) {
        let even = rounded(shortest.count());
        if even.as_str().parse() == Ok(value) {
            return even;
        }
    }
    shortest
}

/// The digits of a finite `real`.
pub fn shortest_f32(value: f32) -> Digits {
    let shortest = Digits::of(format_args!("{value:e}"));
    let rounded = |digits: usize| Digits::of(format_args!("{value:.*e}", digits - 1));
    if value.abs() >= (1_u32 << 24) as f32 {
        let bits = value.to_bits();
        let exponent = ((bits >> 23) & 0xff) as i32 - 150;
        let mantissa = u64::from((bits & ((1 << 23) - 1)) | 1 << 23);
        let half_way = |digits: &Digits| is_half_way(digits, mantissa, exponent, 23);
        if half_way(&shortest) {
            return first_inside(shortest, MAX_DIGITS_F32, rounded, half_way);
        }
    }
    if shortest.count() >= 6 && ends_within(f64::from(value), 14) {
        let even = rounded(shortest.count());
        if even.as_str().parse() == Ok(value) {
            return even;
        }
    }
    shortest
}

/// The shortest rounding of a value, longer than `shortest`, that is not half-way to a neighbour.
fn first_inside(
    shortest: Digits,
    max_digits: usize,
    rounded: impl Fn(usize) -> Digits,
    half_way: impl Fn(&Digits) -> bool,
) -> Digits {
    (shortest.count() + 1..=max_digits).map(rounded).find(|digits| !half_way(digits)).unwrap_or(shortest)
}

/// Whether digits lie exactly between `mantissa` × 2^`exponent` and a neighbour of it. Both are compared as an odd
/// number times a power of two.
fn is_half_way(digits: &Digits, mantissa: u64, exponent: i32, mantissa_bits: u32) -> bool {
    let Some((decimal, power_of_ten)) = digits.scaled().filter(|(d, p)| *d > 0 && *p >= 0) else { return false };
    let twos = decimal.trailing_zeros();
    let Some(fives) = 5_u128.checked_pow(power_of_ten as u32) else { return false };
    let Some(odd) = u128::from(decimal >> twos).checked_mul(fives) else { return false };
    let power = twos as i32 + power_of_ten;
    let above = (odd, power) == (u128::from(2 * mantissa + 1), exponent - 1);
    // Floats below a power of two are twice as dense.
    let below = if mantissa == 1 << mantissa_bits {
        (odd, power) == (u128::from(4 * mantissa - 1), exponent - 2)
    } else {
        (odd, power) == (u128::from(2 * mantissa - 1), exponent - 1)
    };
    above || below
}

/// Whether a value is a whole number of 2^-`places`.
fn ends_within(value: f64, places: i32) -> bool {
    let scaled = value * 2_f64.powi(places);
    !scaled.is_finite() || scaled.fract() == 0.0
}

#[cfg(test)]
#[expect(clippy::excessive_precision, reason = "the digits that PostgreSQL prints are the point")]
mod tests {
    use super::*;

    #[test]
    fn edges_are_those_of_postgresql() {
        for (value, text) in [
            // Half-way to a neighbour: a longer decimal is taken.
            (8.240300000000001e20, "8.240300000000001e20"),
            (8.942799999999999e21, "8.942799999999999e21"),
            (1e23, "9.999999999999999e22"),
            // Two equally near: the even one.
            (33_856_651_383_375.812_5, "3.3856651383375812e13"),
            (2_236_901_693_774_240.25, "2.2369016937742402e15"),
            (2_f64.powi(-25), "2.9802322387695312e-8"),
            (0.3, "3e-1"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (9_007_199_254_740_993.0, "9.007199254740992e15"),
        ] {
            assert_eq!(shortest_f64(value).as_str(), text);
            assert_eq!(shortest_f64(-value).as_str(), format!("-{text}"));
            assert_eq!(text.parse(), Ok(value));
        }
        for (value, text) in [
            (834_540_032_f32, "8.3454003e8"),
            (8_878_399_488.0, "8.878399e9"),
            (55_388.312_5, "5.5388312e4"),
            (1_323_807.25, "1.3238072e6"),
            (16_777_216.0, "1.6777216e7"),
            (0.1, "1e-1"),
        ] {
            assert_eq!(shortest_f32(value).as_str(), text);
            assert_eq!(text.parse(), Ok(value));
        }
    }
}
