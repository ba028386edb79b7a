//! Files of lines, CSV and JSON, read row by row so that what is wrong is told with its file and line.
//!
//! * [`TextReader`]: what is read of the files of a table. `csv`, `json`: how a line becomes a row.
//! * `guess`: what types the values of undeclared columns have.
//! * [`scan`]: the reader as a node of a plan.
//!
//! CSV values are read as `COPY … FROM` reads them, JSON values as a source of `ENCODE JSON` does; times without a zone are
//! UTC.

mod csv;
pub mod guess;
mod json;
pub mod scan;

pub(super) use csv::sample as csv_sample;
pub(super) use json::sample as json_sample;

use std::io::{self, Read};

use datafusion::arrow::array::RecordBatch;
use millstream_catalog::{Column, SqlType};

use super::format::{LineFormat, Text};
use crate::error::{Error, Result, sqlstate};

/// Bytes that are asked of a file at a time.
const READ_BYTES: usize = 256 << 10;

/// Reads some columns of files of one format.
#[derive(Debug, Clone)]
pub struct TextReader {
    format: Text,
    /// Columns of the files, as declared or found.
    columns: Vec<Column>,
    /// Positions of those that are wanted.
    wanted: Vec<usize>,
    batch_rows: usize,
}

/// Takes the rows of a file as they come; whether more are wanted.
pub type Emit<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<bool>;

impl TextReader {
    /// Of files with these columns, of which some are wanted.
    pub fn new(format: Text, columns: Vec<Column>, wanted: Vec<usize>, batch_rows: usize) -> Self {
        Self { format, columns, wanted, batch_rows }
    }

    /// Reads a file to its end. Blocks.
    ///
    /// # Errors
    /// 22P02 and its like for a value that a column cannot take, 22P04 for a line that is no row, 22021 for what is not UTF-8,
    /// XX001 for what cannot be decompressed: each with the file and the line. Those of the file.
    pub fn read(&self, file: &str, bytes: Box<dyn Read>, emit: Emit<'_>) -> Result<()> {
        let compression = self.format.compression_of(file);
        let text = compression.reader(bytes).map_err(|e| read_error(file, e))?;
        match &self.format.lines {
            LineFormat::Csv { delimited, null } => csv::read(self, delimited, null.as_deref(), file, text, emit),
            LineFormat::Json => json::read(self, file, text, emit),
        }
    }
}

/// Hands a file over in pieces, until one is refused. Whether it came to the end.
fn pieces(file: &str, mut text: Box<dyn Read>, take: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match text.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(n) => {
                if !take(&buffer[..n])? {
                    return Ok(false);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(file, e)),
        }
    }
}

/// An error of reading a file: the store's, or the decoder's of what is compressed.
pub(super) fn read_error(file: &str, e: io::Error) -> Error {
    if let Some(ours) = e.get_ref().and_then(|inner| Error::inside(inner)) {
        return ours.clone();
    }
    match e.kind() {
        io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidData
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::Other => {
            Error::new(sqlstate::DATA_CORRUPTED, format!("file \"{file}\" cannot be decompressed: {e}"))
                .with_hint("it is damaged, or compressed otherwise than its name or the option compression says")
        }
        _ => Error::new(sqlstate::IO_ERROR, format!("file \"{file}\" cannot be read: {e}")),
    }
}

/// Puts the place of a value into an error about it.
fn at(error: &Error, file: &str, line: u64, column: Option<&str>) -> Error {
    let column = column.map(|name| format!(", column \"{name}\"")).unwrap_or_default();
    let message = format!("{} (file \"{file}\", line {line}{column})", error.message());
    let mut placed = Error::new(error.sqlstate(), message);
    if let Some(detail) = error.detail() {
        placed = placed.with_detail(detail);
    }
    placed.with_hint(match column.is_empty() {
        true => "correct the line, or check the options of the format",
        false => "correct the value, or declare the column with a type that takes it",
    })
}

/// Whether a column of files of text can have a type.
///
/// # Errors
/// 0A000 naming the column and its type.
pub fn check_type(format: &Text, column: &Column) -> Result<()> {
    match &format.lines {
        LineFormat::Csv { .. } => match column.sql_type {
            SqlType::Record(_) => Err(Error::unsupported(format!(
                "column \"{}\" of type {} cannot be read from CSV",
                column.name, column.sql_type
            ))
            .with_hint("declare it as text or jsonb")),
            _ => Ok(()),
        },
        LineFormat::Json => {
            Ok(millstream_connectors::format::json::check_readable(&column.name, &column.sql_type, "JSON")?)
        }
    }
}
