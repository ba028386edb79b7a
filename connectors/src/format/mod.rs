//! `FORMAT … ENCODE …`: how records become rows, and rows messages.
//!
//! * [`RecordFormat`] is checked at CREATE SOURCE; its [`RecordDecoder`] appends one record at a time to column builders
//!   and takes a record that fails back out, so that a bad record hurts only itself.
//! * [`RowFormat`] is checked at CREATE SINK and writes one message a row.
//! * [`json`]: the JSON encoding, both ways. [`mod@column`], [`number`], [`datetime`]: values and their text forms, for any
//!   encoding that carries text.

pub mod column;
pub mod datetime;
pub mod json;
pub mod number;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::object::{Format, Include, columns_schema};
use millstream_catalog::{Column, SqlType};

use crate::error::{ConnectorError, Result};
use crate::format::column::ColumnBuilder;
use crate::format::json::Columns;
use crate::sink::Message;

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

/// How the records of a source become rows.
#[derive(Debug, Clone)]
pub struct RecordFormat {
    columns: Arc<[Column]>,
    schema: SchemaRef,
    fields: Arc<FieldsRead>,
}

/// Of columns of records of which not all fields are read, those that are, by position.
pub type FieldsRead = BTreeMap<usize, BTreeSet<usize>>;

impl RecordFormat {
    /// Checks a source's format and that it can fill the source's columns.
    ///
    /// # Errors
    /// 22023 for an unknown format, encoding or option; 0A000 for what is not supported, by name.
    pub fn new(columns: &[Column], format: &Format) -> Result<Self> {
        check_format(format, "source", &["plain"])?;
        for column in columns {
            match column.include {
                Some(include) => check_include(column, include)?,
                None if column.is_computed() => {}
                None => json::check_readable(&column.name, &column.sql_type)?,
            }
        }
        Ok(Self { columns: columns.into(), schema: columns_schema(columns), fields: Arc::default() })
    }

    /// The same, with decoders that leave out what is not in `fields` of the columns there.
    pub fn with_fields(&self, fields: FieldsRead) -> Self {
        Self { fields: Arc::new(fields), ..self.clone() }
    }

    /// The source's columns in declared order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// A decoder of some of the columns, in the order given. It checks the others too: whether a record is malformed does
    /// not depend on who reads it.
    ///
    /// # Errors
    /// XX000 if a position is out of range.
    pub fn decoder(&self, columns: &[usize]) -> Result<RecordDecoder> {
        let schema = Arc::new(self.schema.project(columns)?);
        let others = (0..self.columns.len()).filter(|i| !columns.contains(i) && is_checked(&self.columns[*i]));
        let all: Vec<usize> = columns.iter().copied().chain(others).collect();
        // In declared order, so that of two errors it is always the same one that is told.
        let mut declared: Vec<(usize, &Column)> = all.iter().map(|i| &self.columns[*i]).enumerate().collect();
        declared.sort_by_key(|(at, _)| all[*at]);
        let fields = declared.iter().filter(|(_, c)| c.include.is_none());
        let object = json::ObjectReader::new(fields.map(|(at, c)| (c.name.as_str(), *at)));
        let included = declared.iter().filter_map(|(at, c)| Some((*at, c.include?))).collect();
        let required =
            declared.iter().filter(|(_, c)| !c.nullable).map(|(at, c)| (*at, c.name.as_str().into())).collect();
        let (kept, none) = (columns.len(), BTreeSet::new());
        let builders = all.iter().enumerate().map(|(at, i)| {
            let sql_type = &self.columns[*i].sql_type;
            match (at < kept, self.fields.get(i)) {
                (true, None) => ColumnBuilder::new(sql_type),
                (true, Some(fields)) => ColumnBuilder::of_fields(sql_type, fields),
                (false, _) => ColumnBuilder::of_fields(sql_type, &none),
            }
        });
        let builders = builders.collect::<Result<_>>()?;
        let reader = json::Reader::default();
        Ok(RecordDecoder { schema, builders, kept, object, included, required, rows: 0, reader })
    }
}

/// Whether a record can be malformed in a column that nobody reads.
fn is_checked(column: &Column) -> bool {
    match column.include {
        None => !column.is_computed(),
        Some(Include::Key | Include::Timestamp) => true,
        Some(Include::Partition | Include::Offset | Include::Headers) => false,
    }
}

/// Collects records into a batch.
pub struct RecordDecoder {
    schema: SchemaRef,
    /// Of the columns that are read, then of those that are only checked; the latter hold the value of one record.
    builders: Vec<ColumnBuilder>,
    kept: usize,
    object: json::ObjectReader,
    included: Vec<(usize, Include)>,
    /// Positions and names of NOT NULL columns.
    required: Vec<(usize, Box<str>)>,
    rows: usize,
    reader: json::Reader,
}

impl RecordDecoder {
    /// Schema of the batches.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Rows since the last [`RecordDecoder::finish`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether a column takes the headers; reading them costs, so others leave them out.
    pub fn wants_headers(&self) -> bool {
        self.included.iter().any(|(_, include)| *include == Include::Headers)
    }

    /// Appends one record.
    ///
    /// # Errors
    /// Why the record cannot be read; nothing of it is kept then.
    pub fn append(&mut self, record: &Record<'_>) -> Result<(), String> {
        match self.try_append(record) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(error) => {
                for builder in &mut self.builders[..self.kept] {
                    builder.truncate(self.rows);
                }
                Err(error)
            }
        }
    }

    /// The rows so far as a batch; the decoder is empty after it.
    ///
    /// # Errors
    /// XX000 if the columns do not make a batch, which would be a bug.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let columns = self.builders[..self.kept].iter_mut().map(ColumnBuilder::finish).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    fn try_append(&mut self, record: &Record<'_>) -> Result<(), String> {
        let Some(payload) = record.payload else {
            return Err("the record has no payload (a tombstone), which FORMAT PLAIN does not read".into());
        };
        let (kept, row) = (self.kept, self.rows);
        self.builders[kept..].iter_mut().for_each(ColumnBuilder::clear);
        self.reader.read_object(payload, &mut self.object, Columns { builders: &mut self.builders, kept, row })?;
        for (i, include) in &self.included {
            append_included(&mut self.builders[*i], *include, record)?;
        }
        for (i, name) in &self.required {
            if self.builders[*i].is_null(if *i < kept { row } else { 0 }) {
                return Err(format!("column \"{name}\": null or missing, but the column is NOT NULL"));
            }
        }
        Ok(())
    }
}

fn append_included(builder: &mut ColumnBuilder, include: Include, record: &Record<'_>) -> Result<(), String> {
    match include {
        Include::Key => match record.key {
            Some(key) => builder.append_bytes(key).map_err(|e| format!("key of the record: {e}"))?,
            None => builder.append_null(),
        },
        Include::Partition => builder.append_integer(i64::from(record.partition))?,
        Include::Offset => builder.append_integer(record.offset)?,
        Include::Timestamp => match record.timestamp_ms {
            Some(ms) => builder.append_epoch_ms(ms).map_err(|e| format!("timestamp of the record: {e}"))?,
            None => builder.append_null(),
        },
        Include::Headers => builder.append_headers(record.headers),
    }
    Ok(())
}

/// Which column types each part of a record goes into.
fn check_include(column: &Column, include: Include) -> Result<()> {
    let t = &column.sql_type;
    let (word, fits, types) = match include {
        Include::Key => ("key", t.is_text() || *t == SqlType::Bytea, "bytea, text"),
        Include::Partition => ("partition", matches!(t, SqlType::Int4 | SqlType::Int8), "integer, bigint"),
        Include::Offset => ("offset", *t == SqlType::Int8, "bigint"),
        Include::Timestamp => {
            ("timestamp", matches!(t, SqlType::Timestamptz | SqlType::Timestamp), "timestamptz, timestamp")
        }
        Include::Headers => (
            "headers",
            matches!(t, SqlType::Json | SqlType::Jsonb) || is_header_list(t),
            "json, jsonb, record(text, bytea)[]",
        ),
    };
    if fits {
        return Ok(());
    }
    Err(ConnectorError::option(format!("INCLUDE {word} cannot fill column \"{}\" of type {t}", column.name))
        .with_hint(format!("types that it fills: {types}")))
}

fn is_header_list(t: &SqlType) -> bool {
    let SqlType::Array(item) = t else { return false };
    let SqlType::Record(fields) = item.as_ref() else { return false };
    matches!(fields.as_slice(), [(_, name), (_, value)] if name.is_text() && *value == SqlType::Bytea)
}

/// How the rows of a sink become messages.
#[derive(Debug, Clone)]
pub struct RowFormat {
    schema: SchemaRef,
    key: Arc<[usize]>,
    upsert: bool,
}

impl RowFormat {
    /// Checks a sink's format, key and columns.
    ///
    /// # Errors
    /// 22023 for an unknown format, encoding or option and for an upsert without key; 0A000 for what is not supported.
    pub fn new(columns: &[Column], key: &[usize], format: &Format) -> Result<Self> {
        check_format(format, "sink", &["plain", "upsert"])?;
        let upsert = format.format == "upsert";
        if upsert && key.is_empty() {
            return Err(ConnectorError::option("FORMAT UPSERT needs a key")
                .with_hint("add primary_key = 'column, …' to the options of the sink"));
        }
        if let Some(i) = key.iter().find(|i| **i >= columns.len()) {
            return Err(ConnectorError::internal(format!("key column {i} of a sink of {} columns", columns.len())));
        }
        for column in columns {
            json::check_writable(&column.name, &column.sql_type)?;
        }
        Ok(Self { schema: columns_schema(columns), key: key.into(), upsert })
    }

    /// Whether rows can be deleted.
    pub fn takes_deletes(&self) -> bool {
        self.upsert
    }

    /// One message a row; see [`crate::SinkSpec::encode`].
    ///
    /// # Errors
    /// See [`crate::SinkSpec::encode`].
    pub fn encode(&self, batch: &RecordBatch, deletes: Option<&BooleanArray>) -> Result<Vec<Message>> {
        if batch.num_columns() != self.schema.fields().len() {
            return Err(ConnectorError::internal(format!(
                "a batch of {} columns for a sink of {}",
                batch.num_columns(),
                self.schema.fields().len()
            )));
        }
        let writer = json::ObjectWriter::new(&self.schema, batch, 0..batch.num_columns())?;
        let key_writer = json::ObjectWriter::new(&self.schema, batch, self.key.iter().copied())?;
        let mut messages = Vec::with_capacity(batch.num_rows());
        // Rows of one batch are alike in size: the last one's tells how much to reserve.
        let (mut key_bytes, mut payload_bytes) = (32, 128);
        for row in 0..batch.num_rows() {
            let deleted = deletes.is_some_and(|d| d.is_valid(row) && d.value(row));
            if deleted && !self.upsert {
                return Err(ConnectorError::internal("a row was deleted from a sink of FORMAT PLAIN")
                    .with_hint("use FORMAT UPSERT for a view that is not append-only"));
            }
            let key = match self.key.is_empty() {
                true => None,
                false => {
                    self.check_key(batch, row)?;
                    let mut key = Vec::with_capacity(key_bytes);
                    key_writer.write(row, &mut key);
                    key_bytes = key.len() + 8;
                    Some(key)
                }
            };
            let payload = (!deleted).then(|| {
                let mut payload = Vec::with_capacity(payload_bytes);
                writer.write(row, &mut payload);
                payload_bytes = payload.len() + 16;
                payload
            });
            messages.push(Message { key, payload });
        }
        Ok(messages)
    }

    /// A tombstone has only the key to say what is gone, so a NULL in it would be ambiguous to readers that skip nulls.
    fn check_key(&self, batch: &RecordBatch, row: usize) -> Result<()> {
        if !self.upsert {
            return Ok(());
        }
        match self.key.iter().find(|i| batch.column(**i).is_null(row)) {
            Some(i) => Err(ConnectorError::option(format!(
                "NULL in key column \"{}\" of a sink of FORMAT UPSERT",
                self.schema.field(*i).name()
            ))),
            None => Ok(()),
        }
    }
}

/// The words of the FORMAT clause that this version knows, and those that are planned.
fn check_format(format: &Format, of: &str, supported: &[&str]) -> Result<()> {
    let known = || format!("known formats of a {of}: FORMAT {} ENCODE JSON", supported.join(" | ").to_uppercase());
    let (f, e) = (format.format.as_str(), format.encode.as_str());
    if !supported.contains(&f) {
        let error = match f {
            "upsert" | "debezium" => {
                ConnectorError::unsupported(format!("FORMAT {} of a {of} is not supported yet", f.to_uppercase()))
            }
            _ => ConnectorError::option(format!("unknown format \"{f}\" of a {of}")),
        };
        return Err(error.with_hint(known()));
    }
    if e != "json" {
        let error = match e {
            "csv" | "bytes" | "avro" | "protobuf" => {
                ConnectorError::unsupported(format!("ENCODE {} of a {of} is not supported yet", e.to_uppercase()))
            }
            _ => ConnectorError::option(format!("unknown encoding \"{e}\" of a {of}")),
        };
        return Err(error.with_hint(known()));
    }
    match format.options.keys().next() {
        Some(name) => {
            Err(ConnectorError::option(format!("unknown option \"{name}\" of FORMAT {} ENCODE JSON", f.to_uppercase()))
                .with_hint("it has no options"))
        }
        None => Ok(()),
    }
}
