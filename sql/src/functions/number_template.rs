//! `to_char(number, template)`: PostgreSQL's templates for numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type};

use super::datetime::is_text;
use super::define::{Call, Typing, has_null};
use crate::error::{Result, SqlError};

/// Digits that a double has for sure.
const FLOAT_DIGITS: usize = 15;

/// The typing of `to_char` of a number; `None` for what is none.
pub(super) fn typing(number: &DataType, template: &DataType) -> Option<Typing> {
    use DataType as D;
    let number = match number {
        D::Int8 | D::UInt8 | D::Int16 | D::UInt16 | D::Int32 | D::UInt32 | D::Int64 => D::Decimal128(20, 0),
        D::Decimal128(p, s) => D::Decimal128(*p, *s),
        D::Float32 | D::Float64 => D::Float64,
        _ => return None,
    };
    if is_text(template) { Typing::new(vec![number, D::Utf8View], D::Utf8View) } else { None }
}

/// The kernel.
pub(super) fn to_char(call: &Call<'_>) -> Result<ArrayRef> {
    let values = &call.arguments[0];
    let texts = call.arguments[1].as_string_view();
    let mut out = StringViewBuilder::with_capacity(call.rows);
    let mut known: Option<(String, Template)> = None;
    for row in 0..call.rows {
        if has_null(call.arguments, row) {
            out.append_null();
            continue;
        }
        let text = texts.value(row);
        if known.as_ref().is_none_or(|(k, _)| k != text) {
            known = Some((text.to_string(), Template::new(text)?));
        }
        let Some((_, template)) = &known else { continue };
        let number = match values.data_type() {
            DataType::Decimal128(_, scale) => {
                Number::of_decimal(values.as_primitive::<Decimal128Type>().value(row), *scale, template.fraction)
            }
            _ => Number::of_float(values.as_primitive::<Float64Type>().value(row), template.fraction)?,
        };
        out.append_value(template.write(&number));
    }
    Ok(Arc::new(out.finish()))
}

/// A number rounded to the digits that are shown.
struct Number {
    negative: bool,
    whole: String,
    fraction: String,
}

impl Number {
    fn of_decimal(value: i128, scale: i8, fraction: usize) -> Self {
        let scale = scale.max(0) as usize;
        let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
        let (whole, behind) = digits.split_at(digits.len() - scale);
        Self::rounded(value < 0, whole, behind, fraction)
    }

    fn of_float(value: f64, fraction: usize) -> Result<Self> {
        if !value.is_finite() {
            return Err(SqlError::unsupported("to_char of NaN and infinity is not supported"));
        }
        let digits = format!("{:.fraction$}", value.abs());
        let (whole, behind) = digits.split_once('.').unwrap_or((&digits, ""));
        if whole.len() + behind.len() > FLOAT_DIGITS {
            return Err(SqlError::unsupported("to_char of more digits than double precision has is not supported")
                .with_hint("cast the number to numeric"));
        }
        Ok(Self { negative: value < 0.0, whole: whole.to_string(), fraction: behind.to_string() })
    }

    /// Half away from zero.
    fn rounded(negative: bool, whole: &str, behind: &str, fraction: usize) -> Self {
        let mut digits: Vec<u8> = whole.bytes().chain(behind.bytes().take(fraction)).collect();
        if behind.as_bytes().get(fraction).is_some_and(|d| *d >= b'5') {
            let mut carry = true;
            for digit in digits.iter_mut().rev() {
                (*digit, carry) = if *digit == b'9' { (b'0', true) } else { (*digit + 1, false) };
                if !carry {
                    break;
                }
            }
            if carry {
                digits.insert(0, b'1');
            }
        }
        let kept = behind.len().min(fraction);
        let text: String = digits.iter().map(|d| char::from(*d)).collect();
        let (whole, behind) = text.split_at(text.len() - kept);
        let negative = negative && digits.iter().any(|d| *d != b'0');
        Self { negative, whole: whole.to_string(), fraction: format!("{behind:0<fraction$}") }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    /// Before the first digit, a blank for plus.
    Implied,
    /// S in front or behind: always shown.
    Front,
    Behind,
    /// MI: a minus or blank where it stands.
    Minus,
    /// PR: angle brackets.
    Brackets,
}

#[derive(Clone, Copy)]
enum Item {
    Digit { zero: bool },
    Point,
    Group,
    Minus,
    Text(char),
}

struct Template {
    items: Vec<Item>,
    whole: usize,
    fraction: usize,
    /// FM: no blanks, no zeros at the end.
    tight: bool,
    sign: Sign,
}

impl Template {
    fn new(text: &str) -> Result<Self> {
        let mut template = Self { items: Vec::new(), whole: 0, fraction: 0, tight: false, sign: Sign::Implied };
        let mut behind_point = false;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let word = rest.get(..2).map(str::to_uppercase).unwrap_or_default();
            let mut taken = c.len_utf8();
            match (c, word.as_str()) {
                (_, "FM") => (template.tight, taken) = (true, 2),
                (_, "MI") => {
                    (template.sign, taken) = (Sign::Minus, 2);
                    template.items.push(Item::Minus);
                }
                (_, "PR") => (template.sign, taken) = (Sign::Brackets, 2),
                (_, "PL" | "SG" | "RN" | "TH") | ('V' | 'v' | 'L' | 'l' | 'E' | 'e' | 'B' | 'b', _) => {
                    return Err(SqlError::unsupported(format!("the number template \"{rest}\" is not supported"))
                        .with_hint("the patterns are 9 0 . D , G S MI PR FM and text in quotes"));
                }
                ('S' | 's', _) => {
                    let is_front = template.whole + template.fraction == 0;
                    template.sign = if is_front { Sign::Front } else { Sign::Behind };
                }
                ('9' | '0', _) => {
                    template.items.push(Item::Digit { zero: c == '0' });
                    *(if behind_point { &mut template.fraction } else { &mut template.whole }) += 1;
                }
                ('.' | 'D' | 'd', _) => {
                    if behind_point {
                        return Err(SqlError::syntax("multiple decimal points"));
                    }
                    behind_point = true;
                    template.items.push(Item::Point);
                }
                (',' | 'G' | 'g', _) => template.items.push(Item::Group),
                ('"', _) => {
                    let (quoted, _) = rest[1..].split_once('"').unwrap_or((&rest[1..], ""));
                    template.items.extend(quoted.chars().map(Item::Text));
                    taken = (quoted.len() + 2).min(rest.len());
                }
                _ => template.items.push(Item::Text(c)),
            }
            rest = &rest[taken..];
        }
        Ok(template)
    }

    fn write(&self, number: &Number) -> String {
        let is_too_long = number.whole.len() > self.whole;
        let digit_at = |items: &[Item], wanted: usize| {
            items.iter().filter(|i| matches!(i, Item::Digit { .. })).nth(wanted).copied()
        };
        let zero_from = (0..self.whole).find(|i| matches!(digit_at(&self.items, *i), Some(Item::Digit { zero: true })));
        // A zero before the point is shown only where the template asks for one or nothing else would be.
        let hides_zero = number.whole == "0" && self.fraction > 0 && zero_from.is_none();
        let fraction_is_zero = number.fraction.bytes().all(|d| d == b'0');
        let last_zero = (0..self.fraction)
            .rev()
            .find(|i| matches!(digit_at(&self.items, self.whole + i), Some(Item::Digit { zero: true })))
            .map_or(0, |i| i + 1);
        let hides_zero = hides_zero && !(self.tight && fraction_is_zero && last_zero == 0);
        let digits: Vec<char> = match (is_too_long, hides_zero) {
            (true, _) => vec!['#'; self.whole],
            (false, true) => Vec::new(),
            (false, false) if self.whole == 0 => Vec::new(),
            (false, false) => number.whole.chars().collect(),
        };
        let blanks = self.whole - digits.len();
        // With FM, digits behind the last one that says something are left out.
        let fraction_shown = match self.tight && !is_too_long {
            true => number.fraction.trim_end_matches('0').len().max(last_zero),
            false => self.fraction,
        };
        let fraction: Vec<char> =
            if is_too_long { vec!['#'; self.fraction] } else { number.fraction.chars().collect() };
        let mut out = String::new();
        let mut signed = matches!(self.sign, Sign::Behind | Sign::Minus);
        let mut started = false;
        let mut at = 0;
        for item in &self.items {
            match item {
                Item::Digit { .. } if at < self.whole => {
                    let digit = if at >= blanks {
                        Some(digits[at - blanks])
                    } else if zero_from.is_some_and(|from| from <= at) {
                        Some('0')
                    } else {
                        None
                    };
                    if let Some(digit) = digit {
                        self.write_sign(number.negative, &mut signed, &mut out);
                        out.push(digit);
                        started = true;
                    } else if !self.tight {
                        // The sign takes the place before the first digit, the blank goes before it.
                        out.push(' ');
                    }
                    at += 1;
                }
                Item::Digit { .. } => {
                    let i = at - self.whole;
                    if i < fraction_shown {
                        self.write_sign(number.negative, &mut signed, &mut out);
                        out.push(fraction[i]);
                    }
                    at += 1;
                }
                Item::Point => {
                    self.write_sign(number.negative, &mut signed, &mut out);
                    out.push('.');
                    started = true;
                }
                Item::Group if started => out.push(','),
                Item::Group if self.tight => {}
                Item::Group => out.push(' '),
                Item::Minus if number.negative => out.push('-'),
                Item::Minus if self.tight => {}
                Item::Minus => out.push(' '),
                Item::Text(c) => out.push(*c),
            }
        }
        match self.sign {
            Sign::Behind => out.push(if number.negative { '-' } else { '+' }),
            Sign::Brackets if number.negative => out.push('>'),
            Sign::Brackets if !self.tight => out.push(' '),
            _ => {}
        }
        out
    }

    fn write_sign(&self, negative: bool, signed: &mut bool, out: &mut String) {
        if std::mem::replace(signed, true) {
            return;
        }
        let sign = match (self.sign, negative) {
            (Sign::Front, false) => Some('+'),
            (Sign::Brackets, true) => Some('<'),
            (_, true) => Some('-'),
            (_, false) if self.tight => None,
            (_, false) => Some(' '),
        };
        out.extend(sign);
    }
}
