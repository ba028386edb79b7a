//! Files of one table with columns of differing types: which types one column can have, and which may be read as another.
//!
//! What is read as another type must come out as the value that it was, or as an error: whole numbers as wider ones, as
//! numerics and doubles, dates as timestamps. Only a numeric that is declared with fewer digits behind its point rounds to
//! them, as an assignment does.

use millstream_catalog::SqlType;
use millstream_catalog::types::MAX_PRECISION;

/// Whole digits that the values of an integer type can have.
fn digits(sql_type: &SqlType) -> Option<u8> {
    match sql_type {
        SqlType::Int2 => Some(5),
        SqlType::Int4 => Some(10),
        SqlType::Int8 => Some(19),
        _ => None,
    }
}

/// Whether values of a column of files can be read as a declared type: each comes out as it was, or is an error of its own.
pub fn fits(found: &SqlType, declared: &SqlType) -> bool {
    use SqlType as T;
    if found == declared {
        return true;
    }
    match (found, declared) {
        (f, t) if f.is_text() && t.is_text() => true,
        // Text that is JSON; whether it is, is looked at where it is used.
        (T::Text, T::Json | T::Jsonb) | (T::Json | T::Jsonb, T::Text) => true,
        // A number that is too large is an error when it is met.
        (T::Int2 | T::Int4 | T::Int8 | T::Oid, T::Int2 | T::Int4 | T::Int8 | T::Oid) => true,
        (T::Int2 | T::Int4 | T::Int8, T::Numeric(_) | T::Float8) | (T::Int2, T::Float4) => true,
        (T::Float4, T::Float8) => true,
        (T::Numeric(_), T::Numeric(_)) => true,
        (T::Numeric(Some((_, 0))), T::Int2 | T::Int4 | T::Int8) => true,
        (T::Numeric(_), T::Float8) => true,
        (T::Date, T::Timestamp | T::Timestamptz) => true,
        // Files say which of the two they mean, and many writers mean the other: values are UTC either way.
        (T::Timestamp, T::Timestamptz) | (T::Timestamptz, T::Timestamp) => true,
        (T::Array(found), T::Array(declared)) => fits(found, declared),
        (T::Record(found), T::Record(declared)) => {
            let same = |(f, d): (&(String, SqlType), &(String, SqlType))| f.0 == d.0 && fits(&f.1, &d.1);
            found.len() == declared.len() && found.iter().zip(declared).all(same)
        }
        _ => false,
    }
}

/// The narrowest type that values of both can be read as; `None` if there is none.
pub fn common(a: &SqlType, b: &SqlType) -> Option<SqlType> {
    use SqlType as T;
    if a == b {
        return Some(a.clone());
    }
    if let (Some(left), Some(right)) = (digits(a), digits(b)) {
        return Some(if left >= right { a.clone() } else { b.clone() });
    }
    match (a, b) {
        (T::Numeric(None), other) | (other, T::Numeric(None)) => match other {
            T::Float4 | T::Float8 => Some(T::Float8),
            other => fits(other, &T::Numeric(None)).then_some(T::Numeric(None)),
        },
        (T::Numeric(Some((p, s))), other) | (other, T::Numeric(Some((p, s)))) => match other {
            T::Numeric(Some((q, t))) => numeric(whole(*p, *s).max(whole(*q, *t)), (*s).max(*t)),
            other if digits(other).is_some() => numeric(whole(*p, *s).max(i16::from(digits(other)?)), *s),
            T::Float4 | T::Float8 => Some(T::Float8),
            _ => None,
        },
        (T::Float4 | T::Float8, other) | (other, T::Float4 | T::Float8)
            if digits(other).is_some() || matches!(other, T::Float4 | T::Float8) =>
        {
            Some(T::Float8)
        }
        (T::Date, T::Timestamp | T::Timestamptz) => Some(b.clone()),
        (T::Timestamp | T::Timestamptz, T::Date) => Some(a.clone()),
        (T::Timestamp, T::Timestamptz) | (T::Timestamptz, T::Timestamp) => Some(T::Timestamptz),
        (a, b) if a.is_text() && b.is_text() => Some(T::Text),
        (T::Array(a), T::Array(b)) => Some(T::Array(Box::new(common(a, b)?))),
        _ => None,
    }
}

fn whole(precision: u8, scale: i8) -> i16 {
    i16::from(precision) - i16::from(scale)
}

fn numeric(whole: i16, scale: i8) -> Option<SqlType> {
    let precision = u8::try_from(whole + i16::from(scale)).ok().filter(|p| *p <= MAX_PRECISION)?;
    Some(SqlType::Numeric(Some((precision, scale))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_type_takes_the_values_of_both() {
        let all = [
            SqlType::Int2,
            SqlType::Int4,
            SqlType::Int8,
            SqlType::Float4,
            SqlType::Float8,
            SqlType::Numeric(Some((10, 2))),
            SqlType::Numeric(Some((20, 0))),
            SqlType::Numeric(None),
            SqlType::Text,
            SqlType::Varchar(Some(3)),
            SqlType::Date,
            SqlType::Timestamp,
            SqlType::Timestamptz,
            SqlType::Bool,
        ];
        for a in &all {
            for b in &all {
                assert_eq!(common(a, b), common(b, a), "{a} {b}");
                if let Some(both) = common(a, b) {
                    assert!(fits(a, &both) && fits(b, &both), "{a} {b} {both}");
                }
            }
        }
        assert_eq!(common(&SqlType::Int4, &SqlType::Int8), Some(SqlType::Int8));
        assert_eq!(common(&SqlType::Int4, &SqlType::Numeric(Some((10, 2)))), Some(SqlType::Numeric(Some((12, 2)))));
        assert_eq!(common(&SqlType::Text, &SqlType::Int4), None);
    }

    #[test]
    fn what_would_lose_digits_does_not_fit() {
        assert!(!fits(&SqlType::Float8, &SqlType::Int4));
        assert!(!fits(&SqlType::Float8, &SqlType::Float4));
        assert!(!fits(&SqlType::Numeric(Some((10, 2))), &SqlType::Int8));
        assert!(!fits(&SqlType::Timestamp, &SqlType::Date));
        assert!(!fits(&SqlType::Text, &SqlType::Int4));
        assert!(fits(&SqlType::Int8, &SqlType::Int2));
    }
}
