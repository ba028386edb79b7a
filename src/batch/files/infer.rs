//! What columns files have, asked from the files when a table is made or a `read_…` function is called.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::DataFusionError;
use datafusion::datasource::file_format::FileFormat;
use datafusion::execution::session_state::SessionState;
use datafusion::object_store;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use millstream_catalog::{Column, SqlType};

use super::format::{Format, LineFormat, Text, parquet};
use super::input;
use super::listing::{DataFile, Location};
use super::text::guess::{self, Shape};
use super::text::{self, csv_sample, json_sample};
use super::widen::{common, fits};
use crate::batch::context::{Batch, StatementOptions};
use crate::batch::stores::Store;
use crate::error::{Error, Result, sqlstate};

/// Files that are opened at the same time.
pub(super) const FILES_AT_ONCE: usize = 16;
/// Files of text whose first rows say what columns there are; all footers of Parquet files are read.
const TEXT_FILES_MAX: usize = 64;

/// What is known of a file's columns without reading its rows.
#[derive(Debug)]
pub struct FileColumns {
    pub name: String,
    pub columns: Vec<(String, SqlType)>,
}

/// The columns of the files, those of the partition folders last. Partition values that are all whole numbers are BIGINT,
/// all dates DATE, else TEXT.
///
/// # Errors
/// 42804 naming the file whose column has another type than that of the others, XX001 naming a damaged file, 0A000 for a
/// column of a type that SQL does not have.
pub async fn columns_of(
    batch: &Batch,
    format: &Format,
    locations: &[Location],
    files: &[DataFile],
    partition_columns: &[String],
) -> Result<Vec<Column>> {
    let found = file_columns(batch, format, &locations[0].store, files).await?;
    let mut columns: Vec<Column> = Vec::new();
    let mut first_of: Vec<&str> = Vec::new();
    for file in &found {
        // A column that files repeat from their folder is the folder's.
        for (name, sql_type) in file.columns.iter().filter(|(name, _)| !partition_columns.contains(name)) {
            let Some(at) = columns.iter().position(|c| c.name == *name) else {
                columns.push(Column::new(name, sql_type.clone(), true));
                first_of.push(&file.name);
                continue;
            };
            let there = &mut columns[at];
            there.sql_type = match (format, common(&there.sql_type, sql_type)) {
                (_, Some(both)) => both,
                // Text can be anything that is guessed.
                (Format::Text(_), None) => text_of_both(&there.sql_type, sql_type),
                (Format::Parquet, None) => {
                    let message = format!(
                        "column \"{name}\" of file \"{}\" is {sql_type}, and that of \"{}\" is {}",
                        file.name, first_of[at], there.sql_type
                    );
                    return Err(Error::new("42804", message).with_hint("declare the columns, or read the files apart"));
                }
            };
        }
    }
    for name in partition_columns {
        columns.push(Column::new(name, partition_type(name, files), true));
    }
    if columns.is_empty() {
        let message = format!("the files of \"{}\" have no columns", locations[0].as_str());
        return Err(Error::new(sqlstate::UNDEFINED_FILE, message).with_hint("declare the columns"));
    }
    Ok(columns)
}

fn text_of_both(a: &SqlType, b: &SqlType) -> SqlType {
    let is_nested = |t: &SqlType| matches!(t, SqlType::Array(_) | SqlType::Record(_) | SqlType::Jsonb);
    if is_nested(a) || is_nested(b) { SqlType::Jsonb } else { SqlType::Text }
}

/// Checks declared columns against the files that are there now: some file has each, and none has it with a type that does
/// not fit. `files` is not empty.
///
/// # Errors
/// 42703 for a column that no file has, 42804 for one that cannot be read as declared, and those of reading the files.
pub async fn check_declared(
    batch: &Batch,
    format: &Format,
    location: &Location,
    files: &[DataFile],
    declared: &[Column],
) -> Result<()> {
    // Without a header the columns of CSV files go by position, and are text until they are read as what was declared.
    if let Format::Text(Text { lines: LineFormat::Csv { delimited, .. }, .. }) = format
        && delimited.header == crate::batch::delimited::Header::None
    {
        return Ok(());
    }
    let found = file_columns(batch, format, &location.store, files).await?;
    for column in declared {
        let has = |file: &FileColumns| file.columns.iter().any(|(name, _)| *name == column.name);
        if !found.iter().any(has) && !is_empty_text(format, &found) {
            let mut names: Vec<_> =
                found.iter().flat_map(|f| f.columns.iter().map(|(name, _)| name.as_str())).collect();
            names.sort_unstable();
            names.dedup();
            let message = format!("column \"{}\" is not in the files of \"{}\"", column.name, location.as_str());
            return Err(Error::new(sqlstate::UNDEFINED_COLUMN, message)
                .with_hint(format!("the files have: {}", names.join(", "))));
        }
    }
    if *format == Format::Parquet {
        for file in &found {
            check_types(file, declared)?;
        }
    }
    Ok(())
}

/// JSON lines need not name a field that is NULL, so that empty files tell nothing.
fn is_empty_text(format: &Format, found: &[FileColumns]) -> bool {
    matches!(format, Format::Text(_)) && found.iter().all(|f| f.columns.is_empty())
}

/// Whether a Parquet file's columns can be read as the table's.
///
/// # Errors
/// 42804 naming the file, the column and both types.
pub(super) fn check_types(file: &FileColumns, declared: &[Column]) -> Result<()> {
    for column in declared {
        let found = file.columns.iter().find(|(name, _)| *name == column.name);
        if let Some((_, sql_type)) = found.filter(|(_, found)| !fits(found, &column.sql_type)) {
            let message = format!(
                "column \"{}\" of file \"{}\" is {sql_type} and cannot be read as {}",
                column.name, file.name, column.sql_type
            );
            return Err(Error::new("42804", message)
                .with_hint(format!("declare it as {sql_type} and cast it in the query, or correct the file")));
        }
    }
    Ok(())
}

/// The columns of each file; of many files of text, of some.
async fn file_columns(batch: &Batch, format: &Format, store: &Store, files: &[DataFile]) -> Result<Vec<FileColumns>> {
    let (format, store) = (format.clone(), store.clone());
    let files = match format {
        Format::Parquet => files.to_vec(),
        Format::Text(_) => files.iter().take(TEXT_FILES_MAX).cloned().collect(),
    };
    let state = batch.state(&StatementOptions::default());
    let task = batch.handle().spawn(async move {
        stream::iter(files)
            .map(|file| {
                let (format, store, state) = (format.clone(), store.clone(), state.clone());
                async move {
                    match format {
                        Format::Parquet => parquet_columns(&state, &store, &file).await,
                        Format::Text(text) => text_columns(text, store, file).await,
                    }
                }
            })
            .boxed()
            .buffered(FILES_AT_ONCE)
            .try_collect()
            .await
    });
    task.await.map_err(|e| Error::internal(format!("reading the columns of files failed: {e}")))?
}

async fn parquet_columns(state: &SessionState, store: &Store, file: &DataFile) -> Result<FileColumns> {
    let metas = std::slice::from_ref(&file.meta);
    let schema = parquet(state).infer_schema(state, &store.objects, metas).await;
    let schema = schema.map_err(|e| file_error(e, &file.name))?;
    of_schema(&file.name, &schema)
}

/// A Parquet file's columns by its schema.
///
/// # Errors
/// 0A000 for a column of a type that SQL does not have.
pub(super) fn of_schema(name: &str, schema: &Arc<Schema>) -> Result<FileColumns> {
    let columns = schema.fields().iter().map(|field| Ok((field.name().clone(), sql_type(field, name)?)));
    Ok(FileColumns { name: name.into(), columns: columns.collect::<Result<_>>()? })
}

fn sql_type(field: &Field, file: &str) -> Result<SqlType> {
    SqlType::from_arrow(field.data_type()).ok_or_else(|| {
        let (name, of) = (field.name(), field.data_type());
        Error::unsupported(format!("column \"{name}\" of file \"{file}\" has type {of}, which SQL does not have"))
            .with_hint("declare the columns and leave this one out")
    })
}

async fn text_columns(format: Text, store: Store, file: DataFile) -> Result<FileColumns> {
    let read = move || -> Result<FileColumns> {
        let bytes = input::open(&store, &file.meta)?;
        let text = format.compression_of(&file.name).reader(bytes).map_err(|e| text::read_error(&file.name, e))?;
        let columns = match &format.lines {
            LineFormat::Csv { delimited, null } => {
                let (names, columns) = csv_sample(delimited, null.as_deref(), format.sample_rows, &file.name, text)?;
                check_names(&names, &file.name)?;
                names
                    .into_iter()
                    .zip(columns)
                    .map(|(name, column)| (name, guess::of_texts(&column).sql_type()))
                    .collect()
            }
            LineFormat::Json => {
                let fields = match json_sample(format.sample_rows, &file.name, text)? {
                    Shape::Record(fields) => fields,
                    _ => Vec::new(),
                };
                fields.into_iter().map(|(name, shape)| (name, shape.sql_type())).collect()
            }
        };
        Ok(FileColumns { name: file.name, columns })
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|e| Error::internal(format!("reading the first rows of a file failed: {e}")))?
}

fn check_names(names: &[String], file: &str) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let message = format!("column \"{name}\" is in the header of file \"{file}\" more than once");
            Err(Error::new("42701", message).with_hint("with header = false, columns go by their places"))
        }
    }
}

/// The error of reading one file, naming it.
pub(super) fn file_error(e: DataFusionError, file: &str) -> Error {
    if let Some(ours) = Error::inside(&e) {
        return ours.clone();
    }
    let cause = e.find_root().strip_backtrace();
    match e.find_root() {
        DataFusionError::ObjectStore(e) if matches!(**e, object_store::Error::NotFound { .. }) => {
            Error::new(sqlstate::UNDEFINED_FILE, format!("file \"{file}\" is gone"))
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) if cause.contains("Permission denied") => {
            super::listing::denied(file)
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::new(sqlstate::IO_ERROR, format!("file \"{file}\" cannot be read: {cause}"))
        }
        DataFusionError::ResourcesExhausted(_) => e.into(),
        DataFusionError::ArrowError(inner, _) if inner.to_string().contains("non-nullable") => Error::new(
            sqlstate::NOT_NULL_VIOLATION,
            format!("file \"{file}\" has NULL in a column that is declared NOT NULL"),
        )
        .with_detail(cause),
        DataFusionError::ArrowError(inner, _)
            if matches!(**inner, datafusion::arrow::error::ArrowError::CastError(_)) =>
        {
            Error::new(
                sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
                format!("a value of file \"{file}\" does not fit: {cause}"),
            )
            .with_hint("declare the column with a wider type")
        }
        _ => Error::new(sqlstate::DATA_CORRUPTED, format!("file \"{file}\" is damaged: {cause}"))
            .with_hint("it is no whole Parquet file: write it again, or take it away"),
    }
}

fn partition_type(name: &str, files: &[DataFile]) -> SqlType {
    let values =
        || files.iter().flat_map(|f| f.partition.iter().filter(|(n, _)| n == name).filter_map(|(_, v)| v.as_deref()));
    let plain = |v: &str| v.parse::<i64>().is_ok_and(|n| n.to_string() == v);
    match () {
        () if values().next().is_none() => SqlType::Text,
        // `007` is no number: as one it would lose its zeros.
        () if values().all(plain) => SqlType::Int8,
        () if values().all(|v| v.len() == 10 && v.parse::<Date>().is_ok()) => SqlType::Date,
        () => SqlType::Text,
    }
}
