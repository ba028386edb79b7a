//! `FORMAT … ENCODE …`: how records become rows, and rows messages.
//!
//! * [`RecordFormat`] is checked at CREATE SOURCE; its [`RecordDecoder`] appends one record at a time to column builders
//!   and takes a record that fails back out, so that a bad record hurts only itself.
//! * [`resolve()`] asks for the schema that a source's clause names, at CREATE.
//! * [`RowFormat`] is checked at CREATE SINK and writes one message a row.
//! * [`clause`]: the words and options of the clause. `payload`: what an encoding must be able to do.
//! * [`json`], `csv`, `bytes`, [`avro`], [`protobuf`]: the encodings. `debezium`: the envelope of changes.
//! * [`mod@column`], [`number`], [`datetime`]: values and their text forms, for any encoding that carries text.
//!
//! With `FORMAT UPSERT` and `FORMAT DEBEZIUM` a record says what becomes of the row of a key. Such records come out as
//! rows that put a key's row in the place of the one before, and rows that say that a key's row is gone; see [`Rows`].

pub mod avro;
mod bytes;
pub mod clause;
pub mod column;
mod csv;
pub mod datetime;
mod debezium;
mod decoder;
pub mod json;
mod key;
#[cfg(test)]
mod mangled;
pub mod number;
mod payload;
pub mod protobuf;
mod record_format;
mod resolve;
mod row_format;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::array::{BooleanArray, RecordBatch};

pub use decoder::RecordDecoder;
pub use record_format::RecordFormat;
pub use resolve::{ResolvedFormat, resolve};
pub use row_format::RowFormat;

/// One record as it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Empty unless [`RecordDecoder::wants_headers`].
    pub headers: &'a [Header<'a>],
}

/// A header of a record.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// Of columns of records of which not all fields are read, those that are, by position.
pub type FieldsRead = BTreeMap<usize, BTreeSet<usize>>;

/// What records became.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// In the order of the records.
    pub batch: RecordBatch,
    /// Of a source with a primary key (`FORMAT UPSERT`, `FORMAT DEBEZIUM`), which rows say that the row of their key is
    /// gone; aligned with `batch`. Such a row has its key and is NULL in every other column. The others take the place of
    /// the row of their key. `None`: no row is gone.
    pub deletes: Option<BooleanArray>,
}

/// Why a record was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be read, now or ever.
    Malformed(String),
    /// What is needed to read it is away for now: it must be tried again.
    Unavailable(String),
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self::Malformed(error)
    }
}

impl From<&str> for Failure {
    fn from(error: &str) -> Self {
        Self::Malformed(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) | Self::Unavailable(error) => f.write_str(error),
        }
    }
}
