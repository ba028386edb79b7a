//! The schema that a source's FORMAT clause names, asked for once, at CREATE.

use std::collections::BTreeMap;

use millstream_catalog::Column;
use millstream_catalog::object::{Format, SchemaText};

use crate::error::Result;
use crate::format::clause::{Encoding, KeyEncoding, Kind, SourceClause};
use crate::format::{avro, protobuf};
use crate::registry::{self, RegistryError, SchemaOrigin};

/// A format with the schemas that were found, and the columns that they stand for.
#[derive(Debug, Clone)]
pub struct ResolvedFormat {
    pub format: Format,
    /// Empty if they were not asked for.
    pub columns: Vec<Column>,
}

/// Asks the registry or the file for the schema of a source with these options and this format, if the format has one; with
/// `wants_columns` also for the columns. Blocks the calling thread.
///
/// # Errors
/// 22023 and 0A000 as [`crate::SourceSpec::new`], and for a schema that cannot be used; 08001 if the registry does not
/// answer, 28000 if it refuses the credentials, 42704 if it has no schema and columns are wanted, 58P01 if the file is not
/// there.
pub fn resolve(options: &BTreeMap<String, String>, format: &Format, wants_columns: bool) -> Result<ResolvedFormat> {
    let topic = options.iter().find(|(name, _)| name.eq_ignore_ascii_case("topic")).map_or("", |(_, topic)| topic);
    let clause = SourceClause::new(format, topic)?;
    let mut resolved = ResolvedFormat { format: format.clone(), columns: Vec::new() };
    let origin = match &clause.encoding {
        Encoding::Avro(origin) | Encoding::Protobuf { origin, .. } => origin,
        Encoding::Json { .. } | Encoding::Csv(_) | Encoding::Bytes => return Ok(resolved),
    };
    let schema = match origin {
        SchemaOrigin::File(path) => Some(registry::read_file(path)?),
        SchemaOrigin::Registry(registry) => latest(registry.client.latest(&registry.value_subject), !wants_columns)?,
    };
    if let (SchemaOrigin::Registry(registry), true, KeyEncoding::Avro) =
        (origin, clause.kind.is_keyed(), clause.key_encoding)
    {
        resolved.format.key_schema = latest(registry.client.latest(&registry.key_subject), true)?;
    }
    if let Some(schema) = schema.as_ref().filter(|_| wants_columns) {
        resolved.columns = match &clause.encoding {
            Encoding::Protobuf { message, .. } => protobuf::columns_of(origin, schema, message.as_deref())?,
            _ => avro::columns_of(origin, schema, clause.kind == Kind::Debezium)?,
        };
    }
    resolved.format.schema = schema;
    Ok(resolved)
}

/// A subject's newest schema; a subject that is not there yet may be for who has declared the columns.
fn latest(answer: Result<(u32, SchemaText), RegistryError>, may_be_missing: bool) -> Result<Option<SchemaText>> {
    match answer {
        Ok((_, schema)) => Ok(Some(schema)),
        Err(RegistryError::Unknown(_)) if may_be_missing => Ok(None),
        Err(e) => Err(e.into()),
    }
}
