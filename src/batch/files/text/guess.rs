//! The types of columns that nobody declared, guessed from the first rows.
//!
//! A guess is the narrowest type that takes all values that were seen: whole numbers are `bigint`, numbers with a point
//! `numeric`, those with an exponent `double precision`; dates and times are known by their ISO form; the rest is text. What
//! comes later and does not fit is an error that says where it is.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use millstream_catalog::SqlType;
use millstream_sql::types::parse_value;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What all values of a column can be read as.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Nothing but NULL was seen.
    Unknown,
    Scalar(SqlType),
    Array(Box<Shape>),
    Record(Vec<(String, Shape)>),
    /// Values of different shapes, one of them an array or object at least.
    Mixed,
}

impl Shape {
    /// What takes the values of both.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, any) | (any, Self::Unknown) => any,
            (Self::Scalar(a), Self::Scalar(b)) => Self::Scalar(either(&a, &b)),
            (Self::Array(a), Self::Array(b)) => Self::Array(Box::new(a.or(*b))),
            (Self::Record(mut a), Self::Record(b)) => {
                for (name, shape) in b {
                    match a.iter_mut().find(|(other, _)| *other == name) {
                        Some((_, there)) => *there = std::mem::replace(there, Self::Unknown).or(shape),
                        None => a.push((name, shape)),
                    }
                }
                Self::Record(a)
            }
            _ => Self::Mixed,
        }
    }

    /// The column's type.
    pub fn sql_type(&self) -> SqlType {
        match self {
            Self::Unknown => SqlType::Text,
            Self::Scalar(sql_type) => sql_type.clone(),
            // An array of arrays has no column type that everybody knows.
            Self::Array(item) => match item.as_ref() {
                Self::Array(_) | Self::Mixed => SqlType::Jsonb,
                item => SqlType::Array(Box::new(item.sql_type())),
            },
            Self::Record(fields) if fields.is_empty() => SqlType::Jsonb,
            Self::Record(fields) => {
                SqlType::Record(fields.iter().map(|(name, shape)| (name.clone(), shape.sql_type())).collect())
            }
            Self::Mixed => SqlType::Jsonb,
        }
    }
}

/// The type that takes values of both.
fn either(a: &SqlType, b: &SqlType) -> SqlType {
    use SqlType::{Date, Float8, Int8, Numeric, Text, Timestamp};
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (Int8, Numeric(None)) | (Numeric(None), Int8) => Numeric(None),
        (Int8 | Numeric(None), Float8) | (Float8, Int8 | Numeric(None)) => Float8,
        (Date, Timestamp) | (Timestamp, Date) => Timestamp,
        _ => Text,
    }
}

/// What a column of text is guessed to be.
pub fn of_texts(column: &ArrayRef) -> Shape {
    let texts = column.as_string_view();
    let mut shape = Shape::Unknown;
    for row in (0..texts.len()).filter(|row| texts.is_valid(*row)) {
        shape = shape.or(Shape::Scalar(of_text(texts.value(row))));
        if shape == Shape::Scalar(SqlType::Text) {
            break;
        }
    }
    shape
}

fn of_text(text: &str) -> SqlType {
    match text {
        "true" | "false" | "TRUE" | "FALSE" | "True" | "False" => SqlType::Bool,
        _ => number(text).or_else(|| moment(text)).unwrap_or(SqlType::Text),
    }
}

/// The type of a number. What has zeros in front is none: they would be lost.
fn number(text: &str) -> Option<SqlType> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, rest) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
    if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let fraction = match rest.strip_prefix('.') {
        None if rest.is_empty() => "",
        None => return exponent(text),
        Some(fraction) if !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit()) => fraction,
        Some(_) => return exponent(text),
    };
    if rest.is_empty() && text.parse::<i64>().is_ok() {
        return Some(SqlType::Int8);
    }
    let fits = whole.len() <= 20 && fraction.len() <= millstream_catalog::types::UNCONSTRAINED_SCALE as usize;
    Some(if fits { SqlType::Numeric(None) } else { SqlType::Text })
}

fn exponent(text: &str) -> Option<SqlType> {
    (text.contains(['e', 'E']) && text.parse::<f64>().is_ok_and(f64::is_finite)).then_some(SqlType::Float8)
}

/// The type of a date or time in ISO form.
fn moment(text: &str) -> Option<SqlType> {
    let bytes = text.as_bytes();
    let is_date = |b: &[u8]| {
        b.len() == 10
            && b.iter().enumerate().all(|(i, c)| if i == 4 || i == 7 { *c == b'-' } else { c.is_ascii_digit() })
    };
    if bytes.len() < 10 || !is_date(&bytes[..10]) {
        return None;
    }
    let sql_type = match bytes.get(10) {
        None => SqlType::Date,
        Some(b' ' | b'T') => {
            let time = &text[11..];
            let has_zone = time.ends_with(['Z', 'z']) || time.contains(['+', '-']);
            if has_zone { SqlType::Timestamptz } else { SqlType::Timestamp }
        }
        Some(_) => return None,
    };
    parse_value(text, &sql_type, "UTC").ok().map(|_| sql_type)
}

/// The fields of a line that is a JSON object, in their order.
///
/// # Errors
/// What is wrong with it.
pub fn of_object(line: &[u8]) -> Result<Vec<(String, Shape)>, String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_string())?;
    let raw: &RawValue = serde_json::from_str(text.trim()).map_err(|e| e.to_string())?;
    match of_json(raw.get())? {
        Shape::Record(fields) => Ok(fields),
        _ => Err("it is not a JSON object".into()),
    }
}

fn of_json(text: &str) -> Result<Shape, String> {
    let error = |e: serde_json::Error| e.to_string();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let members: Members<'_> = serde_json::from_str(text).map_err(error)?;
            let mut fields: Vec<(String, Shape)> = Vec::with_capacity(members.0.len());
            for (name, value) in members.0 {
                let shape = of_json(value.get())?;
                match fields.iter_mut().find(|(other, _)| *other == name) {
                    // Of a field that is there twice the last counts.
                    Some(field) => field.1 = shape,
                    None => fields.push((name, shape)),
                }
            }
            Shape::Record(fields)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(error)?;
            let mut shape = Shape::Unknown;
            for item in items {
                shape = shape.or(of_json(item.get())?);
            }
            Shape::Array(Box::new(shape))
        }
        Some(b'"') => {
            let text: String = serde_json::from_str(text).map_err(error)?;
            Shape::Scalar(moment(&text).unwrap_or(SqlType::Text))
        }
        Some(b't' | b'f') => Shape::Scalar(SqlType::Bool),
        Some(b'n') => Shape::Unknown,
        _ => Shape::Scalar(number(text).unwrap_or(SqlType::Text)),
    })
}

/// The members of an object as they are written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Reader).map(Members)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::StringViewArray;

    use super::*;

    fn guessed(values: &[Option<&str>]) -> String {
        let column: ArrayRef = Arc::new(StringViewArray::from(values.to_vec()));
        of_texts(&column).sql_type().to_string()
    }

    #[test]
    fn texts_are_what_all_of_them_are() {
        assert_eq!(guessed(&[Some("1"), None, Some("-22")]), "bigint");
        assert_eq!(guessed(&[Some("1"), Some("2.50")]), "numeric");
        assert_eq!(guessed(&[Some("1.5"), Some("1e-3")]), "double precision");
        assert_eq!(guessed(&[Some("9223372036854775808")]), "numeric");
        assert_eq!(guessed(&[Some("007"), Some("1")]), "text");
        assert_eq!(guessed(&[Some("true"), Some("FALSE")]), "boolean");
        assert_eq!(guessed(&[Some("true"), Some("1")]), "text");
        assert_eq!(guessed(&[Some("2026-01-31")]), "date");
        assert_eq!(guessed(&[Some("2026-01-31"), Some("2026-01-31 10:00:00.5")]), "timestamp without time zone");
        assert_eq!(guessed(&[Some("2026-01-31T10:00:00Z")]), "timestamp with time zone");
        assert_eq!(guessed(&[Some("2026-02-31")]), "text");
        assert_eq!(guessed(&[Some("-"), Some("1.")]), "text");
        assert_eq!(guessed(&[None]), "text");
    }

    #[test]
    fn objects_have_the_fields_of_all_lines() {
        let shape = |lines: &[&str]| {
            let fields = lines.iter().map(|line| Shape::Record(of_object(line.as_bytes()).unwrap()));
            fields.fold(Shape::Unknown, Shape::or).sql_type()
        };
        let SqlType::Record(fields) = shape(&[
            r#"{"b": 1, "a": {"x": [1, 2.5]}, "t": "2026-01-01"}"#,
            r#" {"a": {"y": "é", "x": null}, "b": null, "m": [1, {}], "t": "x"} "#,
        ]) else {
            panic!("no record")
        };
        let names: Vec<_> = fields.iter().map(|(name, t)| format!("{name} {t}")).collect();
        assert_eq!(names[0], "b bigint");
        assert_eq!(names[2..], ["t text".to_string(), "m jsonb".to_string()]);
        let SqlType::Record(inner) = &fields[1].1 else { panic!("{:?}", fields[1]) };
        assert_eq!(inner[0].1, SqlType::Array(Box::new(SqlType::Numeric(None))));
        assert!(of_object(b"[1]").is_err() && of_object(b"{\"a\": }").is_err() && of_object(b"\xff").is_err());
    }
}
