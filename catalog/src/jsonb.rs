//! The text of a `jsonb` value, which is the layout it has in memory and on disk: keys once each and in order, no
//! insignificant blanks, numbers written out.
//!
//! As PostgreSQL prints it: of a repeated key the last value stays, shorter keys come before longer ones, numbers are
//! numerics that keep the zeros behind their point.

use std::collections::HashMap;

use serde_json::value::RawValue;

/// Documents nested more deeply are refused: each level takes a piece of the stack.
const MAX_DEPTH: usize = 128;
/// The digits of a numeric in PostgreSQL, before and behind the point.
const MAX_WHOLE_DIGITS: i64 = 131_072;
const MAX_SCALE: i64 = 16_383;

/// A JSON document as `jsonb` has it.
///
/// # Errors
/// What is wrong with the document, in words.
pub fn canonical(text: &str) -> Result<String, String> {
    write_document(text, Zeros::Kept)
}

/// A text that is the same for documents that `=` holds equal: numbers lose the zeros behind their point.
///
/// # Errors
/// As [`canonical`].
pub fn comparison_key(text: &str) -> Result<String, String> {
    write_document(text, Zeros::Cut)
}

/// What becomes of zeros at the end of a number's fraction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeros {
    Kept,
    Cut,
}

fn write_document(text: &str, zeros: Zeros) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let document: &RawValue = serde_json::from_str(text).map_err(|e| e.to_string())?;
    write_value(document, zeros, 0, &mut out)?;
    Ok(out)
}

fn write_value(value: &RawValue, zeros: Zeros, depth: usize, out: &mut String) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("it is nested more than {MAX_DEPTH} deep"));
    }
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let fields: HashMap<String, &RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
            let mut fields: Vec<_> = fields.into_iter().collect();
            fields.sort_unstable_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
            out.push('{');
            for (i, (key, value)) in fields.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_string(&key, out)?;
                out.push_str(": ");
                write_value(value, zeros, depth + 1, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
            out.push('[');
            for (i, value) in items.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_value(value, zeros, depth + 1, out)?;
            }
            out.push(']');
        }
        Some(b'"') => {
            let string: String = serde_json::from_str(text).map_err(|e| e.to_string())?;
            write_string(&string, out)?;
        }
        Some(b'-' | b'0'..=b'9') => write_number(text, zeros, out)?,
        _ => out.push_str(text),
    }
    Ok(())
}

fn write_string(string: &str, out: &mut String) -> Result<(), String> {
    if string.contains('\0') {
        return Err("\\u0000 cannot be converted to text".into());
    }
    out.push_str(&serde_json::Value::from(string).to_string());
    Ok(())
}

/// A JSON number with its exponent written out; there is no minus zero.
fn write_number(text: &str, zeros: Zeros, out: &mut String) -> Result<(), String> {
    let out_of_range = || format!("the number {text} is out of range");
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let exponent: i64 = exponent.parse().map_err(|_| out_of_range())?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    // Digits before the point; may lie outside of what is written.
    let point = (whole.len() as i64).checked_add(exponent).ok_or_else(out_of_range)?;
    let scale = (digits.len() as i64).checked_sub(point).ok_or_else(out_of_range)?.max(0);
    if point > MAX_WHOLE_DIGITS || scale > MAX_SCALE {
        return Err(out_of_range());
    }
    let scale = scale as usize;
    if point > digits.len() as i64 {
        digits.extend(std::iter::repeat_n('0', point as usize - digits.len()));
    } else if digits.len() <= scale {
        digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
    }
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let fraction = if zeros == Zeros::Cut { fraction.trim_end_matches('0') } else { fraction };
    if digits.bytes().any(|digit| digit != b'0') {
        out.push_str(sign);
    }
    out.push_str(whole);
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, canonical, comparison_key};

    #[test]
    fn documents_are_printed_as_postgresql_prints_them() {
        let cases = [
            (r#" {"bb" : 1,"a":[ ] , "a" : {"x":null} } "#, r#"{"a": {"x": null}, "bb": 1}"#),
            (r#"[1.50, -0, -0.0, 1e2, 1.5E-3, 120e-1, true]"#, "[1.50, 0, 0.0, 100, 0.0015, 12.0, true]"),
            (r#""tab\tA\u0001 \/""#, r#""tab\tA\u0001 /""#),
            (r#"{"":1}"#, r#"{"": 1}"#),
        ];
        for (written, printed) in cases {
            assert_eq!(canonical(written).as_deref(), Ok(printed), "{written}");
        }
    }

    #[test]
    fn equal_numbers_have_one_key() {
        assert_eq!(comparison_key(r#"{"a":[1.0, 10, 1e1, 0.50]}"#).as_deref(), Ok(r#"{"a": [1, 10, 10, 0.5]}"#));
    }

    #[test]
    fn what_is_no_jsonb_is_refused() {
        let deep = "[".repeat(MAX_DEPTH + 2) + &"]".repeat(MAX_DEPTH + 2);
        for written in ["", "{", "1 2", r#""\u0000""#, r#"{"\u0000":1}"#, "1e999999999", "1e-99999", &deep] {
            assert!(canonical(written).is_err(), "{written}");
        }
    }
}
