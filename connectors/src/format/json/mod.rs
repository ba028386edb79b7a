//! ENCODE JSON: one object a record, its fields to the columns of the same name.
//!
//! Reading, by column type. A field that is missing or `null` is NULL; of a field that is there twice the last counts;
//! fields without a column are checked to be JSON and left out. Names are compared as they are, case and all.
//!
//! A record is malformed if it is not one JSON object in UTF-8, or if one of the declared columns cannot take its value,
//! also one that no view reads: the same records are malformed for everybody, and a view that is made later finds none
//! that others took. Columns that nobody reads are checked without their values being kept; text, whose every string fits,
//! is passed over.
//!
//! | column | JSON |
//! |---|---|
//! | boolean | `true`, `false`, `"true"`, `"false"` |
//! | smallint, integer, bigint, oid, numeric | a number or a string of one; exact: what is out of range or would lose a digit is an error |
//! | real, double precision | a number, a string of one, `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | text, varchar(n), char(n) | a string; of any other value its JSON text |
//! | json, jsonb | the JSON text of any value, as it stands in the record |
//! | bytea | a base64 string, or hex after `\x` |
//! | date | `"2026-01-31"`, or days since 1970 |
//! | time | `"23:59:59.123456"` |
//! | timestamp, timestamptz | ISO 8601 text with `T` or a space, with or without a zone (without: UTC), or milliseconds since 1970 |
//! | uuid | a string |
//! | array, record | an array, an object |
//!
//! Writing, where it is not the same: numeric as a number with all its digits; timestamps as text, timestamptz with `Z`;
//! bytea as base64; NaN and infinities, which JSON numbers do not have, as `null`; interval as ISO 8601 (`P1DT2S`).

mod cursor;
mod decode;
mod encode;

pub use decode::{Columns, ObjectReader, Reader};
pub use encode::{ObjectWriter, write_headers};

use millstream_catalog::SqlType;

use crate::error::{ConnectorError, Result};

/// Whether a column can be filled from JSON.
///
/// # Errors
/// 0A000 naming the column and its type.
pub fn check_readable(name: &str, sql_type: &SqlType) -> Result<()> {
    match sql_type {
        SqlType::Interval | SqlType::InternalChar => {
            Err(ConnectorError::unsupported(format!("column \"{name}\" of type {sql_type} cannot be read from JSON"))
                .with_hint("declare it as text and cast it in a view on the source"))
        }
        SqlType::Array(item) => check_readable(name, item),
        SqlType::Record(fields) => fields.iter().try_for_each(|(_, t)| check_readable(name, t)),
        _ => Ok(()),
    }
}

/// Whether a column can be written to JSON.
///
/// # Errors
/// 0A000 naming the column and its type.
pub fn check_writable(name: &str, sql_type: &SqlType) -> Result<()> {
    match sql_type {
        SqlType::InternalChar => {
            Err(ConnectorError::unsupported(format!("column \"{name}\" of type {sql_type} cannot be written to JSON")))
        }
        SqlType::Array(item) => check_writable(name, item),
        SqlType::Record(fields) => fields.iter().try_for_each(|(_, t)| check_writable(name, t)),
        _ => Ok(()),
    }
}
