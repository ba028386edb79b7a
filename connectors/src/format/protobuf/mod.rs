//! ENCODE PROTOBUF: a message a record, by the schema whose number it carries, or that of a file.
//!
//! * [`schema`]: messages and enums with their names resolved, from the text of a `.proto` file (`proto`) or from a
//!   `FileDescriptorSet` (`descriptor`). `columns`: the columns that a message stands for.
//! * `plan`: how the fields of a message go into columns. `decode`: messages by such a plan. `wire`: their layout.
//!
//! | Protobuf | column |
//! |---|---|
//! | bool, string, bytes | boolean, text or varchar (or any type whose text it is), bytea |
//! | int32, sint32, sfixed32, … | integer, bigint, numeric(20,0) for uint64; any column of numbers that holds the value |
//! | float, double | real, double precision |
//! | enum | text; a number without a name is its digits |
//! | message, repeated | record, array |
//! | map, and any value | jsonb |
//! | google.protobuf.Timestamp | timestamptz |
//! | google.protobuf.StringValue and kin | the type that it wraps |
//!
//! A field that is not there is NULL if the schema tells it from the default value (`optional`, `oneof`, messages, proto2),
//! and the default value if not (proto3). Of a field that is there twice the last counts. With a registry the record's
//! message indexes say which message it is.

mod columns;
mod decode;
mod descriptor;
mod plan;
mod proto;
pub mod schema;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use millstream_catalog::object::{Format, SchemaText};
use millstream_catalog::{Column, SqlType};

use decode::{Members, read_message};
use plan::{MessageOp, Wanted};
use schema::Schema;
use wire::{Wire, zigzag};

use crate::error::{ConnectorError, Result};
use crate::format::Failure;
use crate::format::payload::{Columns, ReadPayload, Target};
use crate::registry::{self, SchemaCache, SchemaOrigin, split_header};

/// How a source's records are read. Decoders share what was fetched.
#[derive(Debug)]
pub(super) struct ProtobufFormat {
    writers: Arc<Writers>,
    reader: Option<Arc<Reader>>,
    /// The message's name, if it was given.
    message: Option<Box<str>>,
}

/// The schemas that records are written by.
#[derive(Debug)]
enum Writers {
    /// One alone, and records do not name it.
    One(Arc<Schema>),
    /// By the number at the beginning of a record.
    ById(SchemaCache<Schema>),
}

/// The schema of CREATE, and which of its messages is meant.
#[derive(Debug)]
struct Reader {
    schema: Arc<Schema>,
    message: usize,
}

impl ProtobufFormat {
    /// Checks that the schema of CREATE can fill the columns.
    ///
    /// # Errors
    /// 22023 for a schema that is none, or cannot fill a column; 58P01 if its file is not there.
    pub fn new(origin: &SchemaOrigin, format: &Format, message: Option<&str>, columns: &[&Column]) -> Result<Self> {
        let parsed = |text: &SchemaText| Schema::parse(text).map(Arc::new).map_err(|e| unreadable(origin, &e));
        let mut stored = format.schema.as_ref().map(parsed).transpose()?;
        let writers = match origin {
            SchemaOrigin::File(path) => {
                let schema = match stored.take() {
                    Some(schema) => schema,
                    None => parsed(&registry::read_file(path)?)?,
                };
                stored = Some(schema.clone());
                Writers::One(schema)
            }
            SchemaOrigin::Registry(registry) => Writers::ById(SchemaCache::new(registry.client.clone(), Schema::parse)),
        };
        let reader = match stored {
            None => None,
            Some(schema) => {
                let at = schema.find(message).map_err(|e| unnamed(origin, &schema, &e))?;
                let wanted: Vec<_> = columns
                    .iter()
                    .enumerate()
                    .map(|(at, c)| Wanted { name: &c.name, sql_type: &c.sql_type, at })
                    .collect();
                plan::message(&schema, &schema.messages[at], None, &wanted).map_err(|e| {
                    ConnectorError::option(format!("the columns cannot be read by the schema {}: {e}", name(origin)))
                        .with_hint(
                            "declare the column as the schema has it, or leave the columns out to take them from the schema",
                        )
                })?;
                Some(Arc::new(Reader { message: at, schema }))
            }
        };
        Ok(Self { writers: Arc::new(writers), reader, message: message.map(Into::into) })
    }

    /// A reader of rows.
    pub fn payload(&self, targets: &[Target<'_>]) -> ProtobufPayload {
        ProtobufPayload {
            writers: self.writers.clone(),
            reader: self.reader.clone(),
            message: self.message.clone(),
            targets: targets.iter().map(|t| (t.at, t.name.to_string(), t.sql_type.clone())).collect(),
            plans: HashMap::new(),
            last: None,
        }
    }
}

/// The columns that a schema's message stands for.
///
/// # Errors
/// 22023 for a schema that is none or has no such message; 0A000 for a field that no column takes.
pub(super) fn columns_of(origin: &SchemaOrigin, text: &SchemaText, message: Option<&str>) -> Result<Vec<Column>> {
    let schema = Schema::parse(text).map_err(|e| unreadable(origin, &e))?;
    let at = schema.find(message).map_err(|e| unnamed(origin, &schema, &e))?;
    columns::columns(&schema, at)
}

fn name(origin: &SchemaOrigin) -> String {
    match origin {
        SchemaOrigin::File(path) => format!("\"{path}\""),
        SchemaOrigin::Registry(registry) => format!("of subject \"{}\"", registry.value_subject),
    }
}

fn unreadable(origin: &SchemaOrigin, why: &str) -> ConnectorError {
    ConnectorError::option(format!("the Protobuf schema {} cannot be used: {why}", name(origin)))
        .with_hint("it is the text of a .proto file, or a FileDescriptorSet as protoc --descriptor_set_out writes it")
}

fn unnamed(origin: &SchemaOrigin, schema: &Schema, why: &str) -> ConnectorError {
    let names: Vec<&str> = schema.outermost.iter().map(|i| schema.messages[*i].name.as_str()).collect();
    ConnectorError::option(format!("the Protobuf schema {} cannot be used: {why}", name(origin)))
        .with_hint(format!("message = '…' names one; the messages are {}", names.join(", ")))
}

/// A schema and what is done with one of its messages.
type Plan = (Arc<Schema>, MessageOp);
/// A plan, or why there is none.
type Planned = std::result::Result<Arc<Plan>, String>;

/// Reads payloads.
pub(super) struct ProtobufPayload {
    writers: Arc<Writers>,
    reader: Option<Arc<Reader>>,
    message: Option<Box<str>>,
    targets: Vec<(usize, String, SqlType)>,
    /// By the schema's number and the path of the message in it, as records have it.
    plans: HashMap<(u32, Box<[u8]>), Planned>,
    last: Option<(u32, Box<[u8]>, Arc<Plan>)>,
}

impl ProtobufPayload {
    fn plan(&mut self, id: u32, path: &[u8]) -> std::result::Result<Arc<Plan>, Failure> {
        if let Some((last, at, plan)) = &self.last
            && *last == id
            && **at == *path
        {
            return Ok(plan.clone());
        }
        let known = match self.plans.get(&(id, path.into())) {
            Some(known) => known.clone(),
            None => {
                let schema = match &*self.writers {
                    Writers::One(schema) => schema.clone(),
                    Writers::ById(cache) => cache.get(id)?,
                };
                let made = self.make(schema, path).map(Arc::new).map_err(|e| match &*self.writers {
                    Writers::One(_) => e,
                    Writers::ById(_) => format!("schema id {id}: {e}"),
                });
                /// More paths than this are no messages but broken records.
                const PLANS_MAX: usize = 1000;
                if self.plans.len() < PLANS_MAX {
                    self.plans.insert((id, path.into()), made.clone());
                }
                made
            }
        }?;
        self.last = Some((id, path.into(), known.clone()));
        Ok(known)
    }

    fn make(&self, schema: Arc<Schema>, path: &[u8]) -> std::result::Result<Plan, String> {
        let at = match &*self.writers {
            Writers::One(_) => schema.find(self.message.as_deref())?,
            Writers::ById(_) => {
                let path = indexes(path)?;
                schema.at_path(&path).ok_or_else(|| format!("it has no message at {path:?}"))?
            }
        };
        let wanted: Vec<_> =
            self.targets.iter().map(|(at, name, sql_type)| Wanted { name, sql_type, at: *at }).collect();
        let reader = self.reader.as_ref().map(|r| (r.schema.as_ref(), &r.schema.messages[r.message]));
        let op = plan::message(&schema, &schema.messages[at], reader, &wanted)?;
        Ok((schema, op))
    }
}

impl ReadPayload for ProtobufPayload {
    fn read(&mut self, payload: &[u8], columns: Columns<'_>) -> std::result::Result<(), Failure> {
        let (id, path, message) = match &*self.writers {
            Writers::One(_) => (0, &payload[..0], payload),
            Writers::ById(_) => {
                let (id, rest) = split_header(payload)?;
                let (path, message) = split_path(rest)?;
                (id, path, message)
            }
        };
        let plan = self.plan(id, path)?;
        let mut members = Members { builders: columns.builders, kept: columns.kept, row: columns.row, places: None };
        Ok(read_message(&plan.1, &plan.0, message, &mut members, 0)?)
    }
}

/// Cuts the message's indexes off: their number and each of them, or a zero alone for the first message.
fn split_path(bytes: &[u8]) -> std::result::Result<(&[u8], &[u8]), String> {
    /// Messages within messages of a schema.
    const DEPTH_MAX: i64 = 64;
    let mut wire = Wire::new(bytes);
    let count = zigzag(wire.varint()?);
    if !(0..=DEPTH_MAX).contains(&count) {
        return Err(format!("the record has {count} message indexes"));
    }
    for _ in 0..count {
        wire.varint()?;
    }
    let message = wire.rest();
    Ok((&bytes[..bytes.len() - message.len()], message))
}

/// The indexes that were cut off.
fn indexes(path: &[u8]) -> std::result::Result<Vec<usize>, String> {
    let mut wire = Wire::new(path);
    let count = zigzag(wire.varint()?);
    if count == 0 {
        return Ok(vec![0]);
    }
    let mut indexes = Vec::new();
    while !wire.is_empty() {
        let index = zigzag(wire.varint()?);
        indexes.push(usize::try_from(index).map_err(|_| format!("the record has the message index {index}"))?);
    }
    Ok(indexes)
}
