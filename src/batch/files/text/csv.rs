//! CSV: lines to columns of text, and these to values.
//!
//! With a header columns go by their names: those that a file does not have are NULL, those that nobody asks for are left out.
//! Without one they go by their places, and a line has a value for each.

use std::io::Read;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::{Column, SqlType};
use millstream_sql::functions::cast::cast_array;

use super::{Emit, TextReader, at, pieces};
use crate::batch::delimited::{Delimited, Header};
use crate::batch::lines::{Lines, shortened};
use crate::error::{Error, Result, sqlstate};

pub(super) fn read(
    reader: &TextReader,
    format: &Delimited,
    null: Option<&str>,
    file: &str,
    text: Box<dyn Read>,
    emit: Emit<'_>,
) -> Result<()> {
    let names = match format.header {
        Header::None => reader.columns.iter().map(|c| c.name.clone()).collect(),
        _ => Vec::new(),
    };
    let mut lines = Lines::of_file(format, "", names, null);
    let wanted: Vec<&Column> = reader.wanted.iter().map(|i| &reader.columns[*i]).collect();
    let fields: Vec<_> = wanted.iter().map(|c| c.sql_type.field(&c.name, true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let placed = |e: Error| {
        let line = line_of(&e);
        at(&e, file, line, None)
    };
    let mut flush = |lines: &mut Lines<'_>| -> Result<bool> {
        let places: Vec<Option<usize>> =
            wanted.iter().map(|c| lines.columns().iter().position(|name| *name == c.name)).collect();
        let is_known = |name: &String| reader.columns.iter().any(|c| c.name == *name);
        if format.header != Header::None && !lines.columns().is_empty() && !lines.columns().iter().any(is_known) {
            return Err(no_column(lines.columns(), file));
        }
        let (texts, line_of_row) = lines.take();
        let rows = line_of_row.len();
        for start in (0..rows).step_by(reader.batch_rows) {
            let length = reader.batch_rows.min(rows - start);
            let values = wanted.iter().zip(&places).map(|(column, place)| match place {
                None => Ok(new_null_array(&column.sql_type.arrow_type(), length)),
                Some(place) => values(&texts[*place].slice(start, length), column)
                    .map_err(|e| first_error(e, &texts[*place], column, file, &line_of_row, start..start + length)),
            });
            let values = values.collect::<Result<Vec<ArrayRef>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(length));
            if !emit(RecordBatch::try_new_with_options(schema.clone(), values, &options)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let at_end = pieces(file, text, &mut |bytes| {
        lines.push(bytes).map_err(placed)?;
        if lines.waiting() < reader.batch_rows { Ok(true) } else { flush(&mut lines) }
    })?;
    if at_end {
        lines.finish().map_err(placed)?;
        flush(&mut lines)?;
    }
    Ok(())
}

/// What is read as a header names nothing that the table has: the file has none, or is another one's.
fn no_column(names: &[String], file: &str) -> Error {
    let names = shortened(&names.join(", "));
    let message = format!("the header of file \"{file}\" names none of the table's columns: {names}");
    Error::new(sqlstate::BAD_COPY_FILE_FORMAT, message).with_hint("with header = false, columns go by their places")
}

fn values(text: &ArrayRef, column: &Column) -> Result<ArrayRef> {
    Ok(cast_array(text, &SqlType::Text, &column.sql_type, true, "UTC")?)
}

/// The error of the first value that has one.
fn first_error(
    all: Error,
    texts: &ArrayRef,
    column: &Column,
    file: &str,
    line_of_row: &[u64],
    rows: std::ops::Range<usize>,
) -> Error {
    for row in rows {
        if let Err(error) = values(&texts.slice(row, 1), column) {
            let value = texts.as_string_view();
            let error = match value.is_valid(row) {
                true => error.with_detail(format!("the value is \"{}\"", shortened(value.value(row)))),
                false => error,
            };
            return at(&error, file, line_of_row[row], Some(&column.name));
        }
    }
    all
}

/// The line that an error of [`Lines`] is about: its context ends with it.
fn line_of(error: &Error) -> u64 {
    let context = error.context().unwrap_or_default();
    let digits = context.split_once("line ").map_or("", |(_, rest)| rest);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// The first rows of a file as text, with the names of its columns; those of a file without a header are made up.
///
/// # Errors
/// As [`TextReader::read`].
pub fn sample(
    format: &Delimited,
    null: Option<&str>,
    rows: usize,
    file: &str,
    text: Box<dyn Read>,
) -> Result<(Vec<String>, Vec<ArrayRef>)> {
    let placed = |e: Error| {
        let line = line_of(&e);
        at(&e, file, line, None)
    };
    // Without a header the first line says how many columns there are.
    let as_header = Delimited { header: Header::Present, ..format.clone() };
    let mut lines = Lines::of_file(&as_header, "", Vec::new(), null);
    let at_end = pieces(file, text, &mut |bytes| {
        lines.push(bytes).map_err(placed)?;
        Ok(lines.waiting() < rows)
    })?;
    if at_end {
        lines.finish().map_err(placed)?;
    }
    let first = lines.columns().to_vec();
    let (columns, _) = lines.take();
    if format.header != Header::None {
        return Ok((first, columns.iter().map(|c| c.slice(0, c.len().min(rows))).collect()));
    }
    let names = (1..=first.len()).map(|n| format!("column{n}")).collect();
    let columns = columns.iter().zip(&first).map(|(column, value)| {
        let value = Some(value.as_str()).filter(|v| !v.is_empty() && Some(*v) != null);
        let head: ArrayRef = Arc::new(datafusion::arrow::array::StringViewArray::from(vec![value]));
        datafusion::arrow::compute::concat(&[head.as_ref(), column.slice(0, column.len().min(rows)).as_ref()])
    });
    Ok((names, columns.collect::<Result<Vec<_>, _>>()?))
}
