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
//! | time | `"23:59:59.123456"`, or milliseconds of the day |
//! | timestamp, timestamptz | ISO 8601 text with `T` or a space, with or without a zone (without: UTC), or milliseconds since 1970 |
//! | uuid | a string |
//! | array, record | an array, an object |
//!
//! With `timestamp.handling.mode = 'micro'` numbers of time and timestamp columns are microseconds.
//!
//! Writing, where it is not the same: numeric as a number with all its digits; timestamps as text, timestamptz with `Z`;
//! bytea as base64; NaN and infinities, which JSON numbers do not have, as `null`; interval as ISO 8601 (`P1DT2S`).

mod cursor;
mod decode;
mod encode;

#[cfg(test)]
mod tests;

pub(in crate::format) use cursor::Cursor;
pub(in crate::format) use decode::located;
pub use decode::{ObjectReader, Reader};
pub use encode::{ObjectWriter, write_headers};
pub(in crate::format) use encode::{write_interval, write_uuid};

use millstream_catalog::SqlType;

use crate::error::{ConnectorError, Result};
use crate::format::Failure;
use crate::format::payload::{Columns, ReadPayload, Target};

/// Payloads that are one object each.
pub(super) struct JsonPayload {
    reader: Reader,
    object: ObjectReader,
}

impl JsonPayload {
    /// Of the columns that are fields of the object.
    pub fn new(targets: &[Target<'_>]) -> Self {
        Self { reader: Reader::default(), object: ObjectReader::new(targets.iter().map(|t| (t.name, t.at))) }
    }
}

impl ReadPayload for JsonPayload {
    fn read(&mut self, payload: &[u8], columns: Columns<'_>) -> Result<(), Failure> {
        Ok(self.reader.read_object(payload, &mut self.object, columns)?)
    }
}

/// Whether a text is one JSON value.
///
/// # Errors
/// Where it is not.
pub(super) fn check_text(text: &str) -> Result<(), String> {
    let mut cursor = Cursor::new(text.as_bytes())?;
    cursor.skip_space();
    cursor.skip_value()?;
    cursor.skip_space();
    if cursor.at_end() { Ok(()) } else { cursor.error("the end") }
}

/// Whether a column can be filled from an encoding, of which JSON has the most types.
///
/// # Errors
/// 0A000 naming the column, its type and the encoding.
pub fn check_readable(name: &str, sql_type: &SqlType, encoding: &str) -> Result<()> {
    match sql_type {
        SqlType::Interval | SqlType::InternalChar => {
            let error = format!("column \"{name}\" of type {sql_type} cannot be read from {encoding}");
            Err(ConnectorError::unsupported(error).with_hint("declare it as text and cast it in a view on the source"))
        }
        SqlType::Array(item) => check_readable(name, item, encoding),
        SqlType::Record(fields) => fields.iter().try_for_each(|(_, t)| check_readable(name, t, encoding)),
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
