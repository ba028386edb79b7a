//! JSON: one object a line, its fields to the columns of the same names.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::Column;
use millstream_catalog::object::{Format, Source};
use millstream_connectors::format::{Record, RecordDecoder, RecordFormat};

use super::guess::{self, Shape};
use super::{Emit, TextReader, at, pieces};
use crate::error::{Error, Result, sqlstate};

pub(super) fn read(reader: &TextReader, file: &str, text: Box<dyn Read>, emit: Emit<'_>) -> Result<()> {
    let columns: Vec<Column> = reader.columns.iter().map(|c| Column { nullable: true, ..c.clone() }).collect();
    let mut decoder = decoder(columns, &reader.wanted)?;
    let fields = reader.wanted.iter().map(|i| reader.columns[*i].sql_type.field(&reader.columns[*i].name, true));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let finished = |decoder: &mut RecordDecoder| -> Result<RecordBatch> {
        let rows = decoder.finish()?.batch;
        let columns: Vec<ArrayRef> = rows.columns().to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
    };
    let mut lines = Splitter::default();
    let go_on = lines.each(file, text, &mut |line, number| {
        let record = Record { payload: Some(line), ..Record::default() };
        decoder.append(&record).map_err(|failure| {
            let error = Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, failure.to_string());
            at(&error, file, number, None)
        })?;
        if decoder.rows() < reader.batch_rows { Ok(true) } else { emit(finished(&mut decoder)?) }
    })?;
    if go_on && decoder.rows() > 0 {
        emit(finished(&mut decoder)?)?;
    }
    Ok(())
}

fn decoder(columns: Vec<Column>, wanted: &[usize]) -> Result<RecordDecoder> {
    let format = Format { format: "plain".into(), encode: "json".into(), ..Format::default() };
    let source = Source {
        columns,
        primary_key: Vec::new(),
        watermark: None,
        options: BTreeMap::new(),
        format: Some(format.clone()),
    };
    Ok(RecordFormat::new(&source, &format, "files")?.decoder(wanted)?)
}

/// The fields of the first lines of a file.
///
/// # Errors
/// As [`TextReader::read`].
pub fn sample(rows: usize, file: &str, text: Box<dyn Read>) -> Result<Shape> {
    let mut shape = Shape::Unknown;
    let mut seen = 0;
    Splitter::default().each(file, text, &mut |line, number| {
        let fields = guess::of_object(line).map_err(|e| {
            let error = Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, format!("invalid JSON: {e}"));
            at(&error, file, number, None)
        })?;
        shape = std::mem::replace(&mut shape, Shape::Unknown).or(Shape::Record(fields));
        seen += 1;
        Ok(seen < rows)
    })?;
    Ok(shape)
}

/// Cuts a text into lines.
#[derive(Default)]
pub(super) struct Splitter {
    pending: Vec<u8>,
    number: u64,
}

impl Splitter {
    /// Hands over each line that is not blank, with its number from 1, until one is refused. Whether none was.
    pub(super) fn each(
        &mut self,
        file: &str,
        text: Box<dyn Read>,
        take: &mut dyn FnMut(&[u8], u64) -> Result<bool>,
    ) -> Result<bool> {
        let at_end = pieces(file, text, &mut |bytes| {
            let mut rest = bytes;
            while let Some(end) = memchr(rest) {
                let (head, tail) = (&rest[..end], &rest[end + 1..]);
                let go_on = match self.pending.is_empty() {
                    true => self.line(head, take)?,
                    false => {
                        let mut whole = std::mem::take(&mut self.pending);
                        whole.extend_from_slice(head);
                        self.line(&whole, take)?
                    }
                };
                if !go_on {
                    return Ok(false);
                }
                rest = tail;
            }
            self.pending.extend_from_slice(rest);
            Ok(true)
        })?;
        if !at_end {
            return Ok(false);
        }
        let last = std::mem::take(&mut self.pending);
        if last.is_empty() { Ok(true) } else { self.line(&last, take) }
    }

    fn line(&mut self, line: &[u8], take: &mut dyn FnMut(&[u8], u64) -> Result<bool>) -> Result<bool> {
        self.number += 1;
        let line = line.strip_prefix(b"\xef\xbb\xbf".as_slice()).filter(|_| self.number == 1).unwrap_or(line);
        if line.trim_ascii().is_empty() { Ok(true) } else { take(line, self.number) }
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|b| *b == b'\n')
}
