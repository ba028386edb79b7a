//! How the rows of a sink become messages.
//!
//! `FORMAT DEBEZIUM` writes `{"before", "after", "op", "ts_ms", "source"}`, both images whole: a row that comes is `c` with
//! `after`, one that takes the place of another of its key `u` with both, one that goes `d` with `before`. The message's key
//! is that of `FORMAT UPSERT`; no tombstone follows a deletion.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use millstream_catalog::Column;
use millstream_catalog::SqlType;
use millstream_catalog::object::{Format, columns_schema};
use parking_lot::Mutex;
use serde_json::json;

use crate::error::{ConnectorError, Result};
use crate::format::avro::{AvroWriter, RegisteredOptions, record_schema, write_text};
use crate::format::clause::{Kind, SinkClause, SinkEncoding};
use crate::format::json::{self, ObjectWriter};
use crate::sink::Message;

/// A checked format of a sink. Clones share the numbers of schemas that were registered.
#[derive(Debug, Clone)]
pub struct RowFormat {
    schema: SchemaRef,
    key: Arc<[usize]>,
    kind: Kind,
    /// What changes name as their source.
    topic: Arc<str>,
    avro: Option<Arc<Registered>>,
}

/// The schemas of a sink, and their numbers once the registry has given them.
#[derive(Debug)]
struct Registered {
    options: RegisteredOptions,
    value: String,
    key: Option<String>,
    ids: Mutex<Option<Ids>>,
}

#[derive(Debug, Clone, Copy)]
struct Ids {
    value: u32,
    key: u32,
}

impl RowFormat {
    /// Checks the format, key and columns of a sink that writes `topic`.
    ///
    /// # Errors
    /// 22023 for an unknown format, encoding or option and for a keyed format without key; 0A000 for what is not supported.
    pub fn new(columns: &[Column], key: &[usize], format: &Format, topic: &str) -> Result<Self> {
        let clause = SinkClause::new(format, topic)?;
        if clause.kind.is_keyed() && key.is_empty() {
            return Err(ConnectorError::option(format!("FORMAT {} needs a key", clause.kind.word()))
                .with_hint("add primary_key = 'column, …' to the options of the sink"));
        }
        if let Some(i) = key.iter().find(|i| **i >= columns.len()) {
            return Err(ConnectorError::internal(format!("key column {i} of a sink of {} columns", columns.len())));
        }
        for column in columns {
            json::check_writable(&column.name, &column.sql_type)?;
        }
        let avro = match clause.encoding {
            SinkEncoding::Json => None,
            SinkEncoding::Avro(options) => Some(Arc::new(Registered::new(options, columns, key, clause.kind)?)),
        };
        Ok(Self { schema: columns_schema(columns), key: key.into(), kind: clause.kind, topic: topic.into(), avro })
    }

    /// Whether rows can be deleted.
    pub fn takes_deletes(&self) -> bool {
        self.kind.is_keyed()
    }

    /// Whether a message says what its row was before.
    pub fn tells_before(&self) -> bool {
        self.kind == Kind::Debezium
    }

    /// Asks what is outside and needed to write: registers the schemas.
    ///
    /// # Errors
    /// 08001 if the schema registry does not answer, 28000 if it refuses the credentials, 22023 if it refuses a schema.
    pub fn probe(&self) -> Result<()> {
        self.avro.as_ref().map_or(Ok(()), |avro| avro.ids().map(|_| ()))
    }

    /// One message a row; see [`crate::SinkSpec::encode`].
    ///
    /// # Errors
    /// See [`crate::SinkSpec::encode`].
    pub fn encode(
        &self,
        batch: &RecordBatch,
        deletes: Option<&BooleanArray>,
        before: Option<&StructArray>,
    ) -> Result<Vec<Message>> {
        if batch.num_columns() != self.schema.fields().len() {
            return Err(ConnectorError::internal(format!(
                "a batch of {} columns for a sink of {}",
                batch.num_columns(),
                self.schema.fields().len()
            )));
        }
        let (rows, keys) = (self.writer(batch)?, self.key_writer(batch)?);
        let before = match before.filter(|_| self.tells_before()) {
            Some(images) => Some((images, self.writer(&columns_of(images)?)?)),
            None => None,
        };
        let ts_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64);
        let mut messages = Vec::with_capacity(batch.num_rows());
        // Rows of one batch are alike in size: the last one's tells how much to reserve.
        let (mut key_bytes, mut payload_bytes) = (32, 128);
        for row in 0..batch.num_rows() {
            let deleted = deletes.is_some_and(|d| d.is_valid(row) && d.value(row));
            if deleted && !self.kind.is_keyed() {
                return Err(ConnectorError::internal("a row was deleted from a sink of FORMAT PLAIN")
                    .with_hint("use FORMAT UPSERT for a view that is not append-only"));
            }
            let key = match &keys {
                None => None,
                Some(keys) => {
                    self.check_key(batch, row)?;
                    let mut key = Vec::with_capacity(key_bytes);
                    keys.write(row, &mut key);
                    key_bytes = key.len() + 8;
                    Some(key)
                }
            };
            let payload = (!deleted || self.kind == Kind::Debezium).then(|| {
                let mut payload = Vec::with_capacity(payload_bytes);
                match self.kind {
                    Kind::Debezium => {
                        let before =
                            before.as_ref().filter(|(images, _)| images.is_valid(row)).map(|(_, writer)| writer);
                        rows.write_change(row, deleted, before, ts_ms, &self.topic, &mut payload);
                    }
                    _ => rows.write(row, &mut payload),
                }
                payload_bytes = payload.len() + 16;
                payload
            });
            messages.push(Message { key, payload });
        }
        Ok(messages)
    }

    fn writer(&self, batch: &RecordBatch) -> Result<Writer> {
        let all = 0..batch.num_columns();
        Ok(match &self.avro {
            None => Writer::Json(ObjectWriter::new(&self.schema, batch, all)?),
            Some(avro) => {
                Writer::Avro { id: avro.ids()?.value, writer: AvroWriter::new(&self.schema, batch, all, |_| true)? }
            }
        })
    }

    fn key_writer(&self, batch: &RecordBatch) -> Result<Option<Writer>> {
        if self.key.is_empty() {
            return Ok(None);
        }
        let key = self.key.iter().copied();
        Ok(Some(match &self.avro {
            None => Writer::Json(ObjectWriter::new(&self.schema, batch, key)?),
            Some(avro) => {
                let is_null = self.kind == Kind::Plain;
                Writer::Avro { id: avro.ids()?.key, writer: AvroWriter::new(&self.schema, batch, key, |_| is_null)? }
            }
        }))
    }

    /// A tombstone has only the key to say what is gone, so a NULL in it would be ambiguous to readers that skip nulls.
    fn check_key(&self, batch: &RecordBatch, row: usize) -> Result<()> {
        if !self.kind.is_keyed() {
            return Ok(());
        }
        match self.key.iter().find(|i| batch.column(**i).is_null(row)) {
            Some(i) => Err(ConnectorError::option(format!(
                "NULL in key column \"{}\" of a sink of FORMAT {}",
                self.schema.field(*i).name(),
                self.kind.word()
            ))),
            None => Ok(()),
        }
    }
}

/// Writes rows in the sink's encoding.
enum Writer {
    Json(ObjectWriter),
    /// With the number of the schema, which stands before each value.
    Avro {
        id: u32,
        writer: AvroWriter,
    },
}

impl Writer {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Json(writer) => writer.write(row, out),
            Self::Avro { id, writer } => {
                write_header(*id, out);
                writer.write(row, out);
            }
        }
    }

    /// A change of Debezium's; `before` writes the row that this one takes the place of.
    fn write_change(
        &self,
        row: usize,
        deleted: bool,
        before: Option<&Writer>,
        ts_ms: i64,
        topic: &str,
        out: &mut Vec<u8>,
    ) {
        let (op, before, after) = match (deleted, before) {
            (true, _) => ("d", Some(self), None),
            (false, Some(before)) => ("u", Some(before), Some(self)),
            (false, None) => ("c", None, Some(self)),
        };
        match self {
            Self::Json(_) => {
                for (name, image) in [("{\"before\":", before), (",\"after\":", after)] {
                    out.extend_from_slice(name.as_bytes());
                    match image {
                        Some(image) => image.write_image(row, out),
                        None => out.extend_from_slice(b"null"),
                    }
                }
                out.extend_from_slice(format!(",\"op\":\"{op}\",\"ts_ms\":{ts_ms},\"source\":").as_bytes());
                out.extend_from_slice(json!({ "connector": "millstream", "name": topic }).to_string().as_bytes());
                out.push(b'}');
            }
            Self::Avro { id, .. } => {
                write_header(*id, out);
                // Each image is in a union with null, whose branch of the row is the second.
                for image in [before, after] {
                    match image {
                        Some(image) => {
                            out.push(2);
                            image.write_image(row, out);
                        }
                        None => out.push(0),
                    }
                }
                write_text(op, out);
                crate::format::avro::write_long(ts_ms, out);
                write_text("millstream", out);
                write_text(topic, out);
            }
        }
    }

    /// A row as a part of a message.
    fn write_image(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Json(writer) => writer.write(row, out),
            Self::Avro { writer, .. } => writer.write(row, out),
        }
    }
}

/// The columns of images, which have some value also where there is no image.
fn columns_of(images: &StructArray) -> Result<RecordBatch> {
    let schema = Schema::new(images.fields().clone());
    Ok(RecordBatch::try_new(schema.into(), images.columns().to_vec())?)
}

/// Confluent's wire format: a zero byte and the number of the schema.
fn write_header(id: u32, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&id.to_be_bytes());
}

impl Registered {
    fn new(options: RegisteredOptions, columns: &[Column], key: &[usize], kind: Kind) -> Result<Self> {
        let rows: Vec<(&str, &SqlType)> = columns.iter().map(|c| (c.name.as_str(), &c.sql_type)).collect();
        let keys: Vec<(&str, &SqlType)> = key.iter().map(|i| rows[*i]).collect();
        let record = &options.record;
        let value = match kind {
            Kind::Debezium => {
                let row = record_schema(&format!("{record}.Value"), &rows, |_| true)?;
                let source = json!({ "type": "record", "name": format!("{record}.Source"), "fields": [
                    { "name": "connector", "type": "string" },
                    { "name": "name", "type": "string" },
                ] });
                json!({ "type": "record", "name": format!("{record}.Envelope"), "fields": [
                    { "name": "before", "type": ["null", row], "default": null },
                    { "name": "after", "type": ["null", format!("{record}.Value")], "default": null },
                    { "name": "op", "type": "string" },
                    { "name": "ts_ms", "type": { "type": "long", "logicalType": "timestamp-millis" } },
                    { "name": "source", "type": source },
                ] })
            }
            _ => record_schema(&format!("{record}_value"), &rows, |_| true)?,
        };
        let key = match keys.is_empty() {
            true => None,
            false => Some(record_schema(&format!("{record}_key"), &keys, |_| kind == Kind::Plain)?.to_string()),
        };
        Ok(Self { options, value: value.to_string(), key, ids: Mutex::default() })
    }

    /// The numbers of the schemas, which are registered if they were not.
    fn ids(&self) -> Result<Ids> {
        let mut ids = self.ids.lock();
        if let Some(ids) = *ids {
            return Ok(ids);
        }
        let registry = &self.options.registry;
        let value = registry.client.register(&registry.value_subject, &self.value)?;
        let key = match &self.key {
            Some(key) => registry.client.register(&registry.key_subject, key)?,
            None => value,
        };
        Ok(*ids.insert(Ids { value, key }))
    }
}

/// A sink's column with the type that it is declared with: text comes in several.
///
/// # Errors
/// XX000 for a column of another type.
pub(super) fn as_declared(name: &str, sql_type: &SqlType, array: &ArrayRef) -> Result<ArrayRef> {
    let declared = sql_type.arrow_type();
    let array = match (&declared, array.data_type()) {
        (DataType::Utf8View, DataType::Utf8 | DataType::LargeUtf8) => arrow::compute::cast(array, &declared)?,
        _ => array.clone(),
    };
    if array.data_type().equals_datatype(&declared) {
        return Ok(array);
    }
    Err(ConnectorError::internal(format!(
        "column \"{name}\" of a sink is declared {sql_type} and its values are {}",
        array.data_type()
    )))
}
