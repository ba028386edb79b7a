//! ENCODE AVRO: records in Avro's binary encoding, written by the schema whose number they carry, or that of a file.
//!
//! * [`schema`]: a schema from its JSON. `columns`: the columns that it stands for.
//! * `plan`: how values of a writer's schema go into columns. `decode`: data by such a plan. `input`: the data.
//! * `encode`: rows as data, for sinks, and the schema of a sink's columns.
//!
//! | Avro | column |
//! |---|---|
//! | boolean | boolean |
//! | int, long | integer, bigint; any column of numbers that holds the value |
//! | float, double | real, double precision |
//! | string | text, varchar; uuid with that logical type; any column whose text it is |
//! | enum | text |
//! | bytes, fixed | bytea; numeric(p,s) with logical type decimal |
//! | date, time-millis, time-micros | date, time |
//! | timestamp-millis, -micros, -nanos | timestamptz (or timestamp, in UTC) |
//! | local-timestamp-millis, -micros, -nanos | timestamp |
//! | array, record | array, record |
//! | map, and any union | jsonb |
//! | union with null | the other type, NULL |
//!
//! What Kafka Connect and Debezium name in `connect.name` (`io.debezium.time.MicroTimestamp`, …) counts as the logical type.

mod columns;
mod decode;
mod default;
mod encode;
mod input;
mod plan;
mod read;
pub mod schema;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millstream_catalog::object::{Format, SchemaText};
use millstream_catalog::{Column, SqlType};

pub(super) use encode::{AvroWriter, record_schema, write_long, write_text};
pub(super) use read::{AvroChange, AvroPayload};
use schema::{Schema, Type};

use crate::error::{ConnectorError, Result};
use crate::format::clause::{KeyEncoding, Kind, SourceClause};
use crate::format::payload::Target;
use crate::options::Options;
use crate::registry::{self, RegistryOptions, SchemaCache, SchemaOrigin};

/// The registry of a sink.
#[derive(Debug, Clone)]
pub struct RegisteredOptions {
    pub(super) registry: RegistryOptions,
    /// The name of the record of rows.
    pub(super) record: Box<str>,
}

impl RegisteredOptions {
    /// Takes the options of a sink that writes `topic`.
    ///
    /// # Errors
    /// 22023 if there is no registry, or its address is none.
    pub(super) fn take(options: &mut Options<'_>, topic: &str) -> Result<Self> {
        let message = options.take("message");
        let registry = RegistryOptions::take(options, topic, message)?.ok_or_else(|| {
            options.missing("schema.registry").with_hint("schema.registry = 'http://host:8081' takes the sink's schema")
        })?;
        let record = match message {
            Some(name) if !name.split('.').all(encode::is_name) => {
                return Err(ConnectorError::option(format!("option \"message\" is no name of a record: \"{name}\""))
                    .with_hint("names have letters, digits and underscores, with dots between them"));
            }
            Some(name) => name.into(),
            None => encode::name_of(topic).into(),
        };
        Ok(Self { registry, record })
    }
}

/// How a source's records are read. Decoders share what was fetched.
#[derive(Debug)]
pub(super) struct AvroFormat {
    origin: Arc<Writers>,
    /// Of a file, of the keys.
    key_origin: Option<Arc<Writers>>,
    reader: Option<Arc<Schema>>,
    key_reader: Option<Arc<Schema>>,
}

/// The schemas that records are written by.
#[derive(Debug)]
pub(super) enum Writers {
    /// One alone, and records do not name it.
    One(Arc<Schema>),
    /// By the number at the beginning of a record.
    ById(SchemaCache<Schema>),
}

impl AvroFormat {
    /// Checks that the schema of CREATE can fill the columns.
    ///
    /// # Errors
    /// 22023 for a schema that is none, or cannot fill a column; 58P01 if its file is not there.
    pub fn new(
        origin: &SchemaOrigin,
        format: &Format,
        clause: &SourceClause,
        columns: &[&Column],
        key: &[&Column],
    ) -> Result<Self> {
        let parsed = |text: &SchemaText| Schema::parse(text).map(Arc::new).map_err(|e| unreadable(origin, &e));
        let mut reader = format.schema.as_ref().map(parsed).transpose()?;
        let key_reader = format.key_schema.as_ref().map(parsed).transpose()?;
        let writers = match origin {
            SchemaOrigin::File(path) => {
                let schema = match &reader {
                    Some(schema) => schema.clone(),
                    None => parsed(&registry::read_file(path)?)?,
                };
                reader = Some(schema.clone());
                Writers::One(schema)
            }
            SchemaOrigin::Registry(registry) => Writers::ById(SchemaCache::new(registry.client.clone(), Schema::parse)),
        };
        let is_debezium = clause.kind == Kind::Debezium;
        let in_avro = clause.kind.is_keyed() && clause.key_encoding == KeyEncoding::Avro;
        if in_avro && matches!(origin, SchemaOrigin::File(_)) && !is_debezium {
            let error = "keys in Avro need a schema registry, and the schema is a file's";
            return Err(ConnectorError::unsupported(error).with_hint("add key.encode = 'json', 'text' or 'bytes'"));
        }
        if let Some(schema) = &reader {
            check(origin, schema, row_type(schema, is_debezium).map_err(|e| unreadable(origin, &e))?, columns)?;
        }
        if let Some(schema) = key_reader.as_ref().filter(|_| in_avro) {
            check(origin, schema, &schema.root, key)?;
        }
        let origin = Arc::new(writers);
        Ok(Self { key_origin: in_avro.then(|| origin.clone()), origin, reader, key_reader })
    }

    /// A reader of rows.
    pub fn payload(&self, targets: &[Target<'_>]) -> AvroPayload {
        AvroPayload::new(self.origin.clone(), self.reader.clone(), targets)
    }

    /// A reader of keys.
    pub fn key(&self, targets: &[Target<'_>]) -> AvroPayload {
        AvroPayload::new(self.key_origin.as_ref().unwrap_or(&self.origin).clone(), self.key_reader.clone(), targets)
    }

    /// A reader of changes.
    pub fn change(&self, row: &[Target<'_>], key: &[Target<'_>]) -> AvroChange {
        AvroChange::new(self.origin.clone(), self.reader.clone(), row, key)
    }
}

/// The columns that a schema stands for.
///
/// # Errors
/// 22023 for a schema that is none, or none of a record; 0A000 for a field that no column takes.
pub(super) fn columns_of(origin: &SchemaOrigin, text: &SchemaText, is_debezium: bool) -> Result<Vec<Column>> {
    let schema = Schema::parse(text).map_err(|e| unreadable(origin, &e))?;
    let row = row_type(&schema, is_debezium).map_err(|e| unreadable(origin, &e))?;
    match schema.fields(row) {
        Some(fields) => columns::columns(&schema, fields),
        None => {
            let what = schema.describe(row);
            Err(unreadable(origin, &format!("it is a {what} and no record"))
                .with_hint("list the one column with its type: the record is its value"))
        }
    }
}

/// The type of rows: the schema's own, or that of `after` in Debezium's envelope.
fn row_type(schema: &Schema, is_debezium: bool) -> Result<&Type, String> {
    if !is_debezium {
        return Ok(&schema.root);
    }
    let after = schema.fields(&schema.root).and_then(|fields| fields.iter().find(|f| f.name == "after"));
    match after.map(|f| schema.without_null(&f.field_type).0) {
        Some(row) if schema.fields(row).is_some() => Ok(row),
        _ => Err("it is no envelope of Debezium's: it has no record \"after\"".into()),
    }
}

/// Whether data of a schema can fill columns.
fn check(origin: &SchemaOrigin, schema: &Arc<Schema>, row: &Type, columns: &[&Column]) -> Result<()> {
    let columns: Vec<(&str, &SqlType)> = columns.iter().map(|c| (c.name.as_str(), &c.sql_type)).collect();
    read::Root::new(schema, row, None, columns.iter().enumerate().map(|(at, (n, t))| (at, *n, *t))).map(|_| ()).map_err(
        |e| {
            ConnectorError::option(format!("the columns cannot be read by the schema {}: {e}", name(origin))).with_hint(
                "declare the column as the schema has it, or leave the columns out to take them from the schema",
            )
        },
    )
}

fn name(origin: &SchemaOrigin) -> String {
    match origin {
        SchemaOrigin::File(path) => format!("\"{path}\""),
        SchemaOrigin::Registry(registry) => format!("of subject \"{}\"", registry.value_subject),
    }
}

fn unreadable(origin: &SchemaOrigin, why: &str) -> ConnectorError {
    ConnectorError::option(format!("the Avro schema {} cannot be used: {why}", name(origin)))
        .with_hint("see the Avro specification, or list what the schema has in a registry's own client")
}
