//! Schemas that records are written by: from a schema registry, or from a file.
//!
//! * [`SchemaOrigin`]: the options that say where a source's schema is.
//! * [`client`]: the registry's REST API, as Confluent's and those that are compatible speak it.
//! * `cache`: schemas by the number that a record carries (Confluent's wire format, [`split_header`]).
//! * `mock`: a registry inside a test.

mod cache;
mod client;
#[cfg(test)]
pub mod mock;

use std::sync::Arc;

use millstream_catalog::object::SchemaText;

pub(crate) use cache::SchemaCache;
pub(crate) use client::{Client, RegistryError};

use crate::error::{ConnectorError, Result, sqlstate};
use crate::options::Options;

/// Where a source's schema is.
#[derive(Debug, Clone)]
pub enum SchemaOrigin {
    /// A file on the server; records have no header then.
    File(Arc<str>),
    /// A registry; records begin with the number of the schema that they were written by.
    Registry(RegistryOptions),
}

/// How to reach a registry, and the subjects of a topic in it.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    pub(crate) client: Arc<Client>,
    pub(crate) value_subject: Arc<str>,
    pub(crate) key_subject: Arc<str>,
}

/// How subjects are called, as Confluent's serializers do.
#[derive(Clone, Copy, PartialEq)]
enum NameStrategy {
    Topic,
    Record,
    TopicRecord,
}

impl SchemaOrigin {
    /// Takes the options of a source's schema; `message` is the full name of the record or message, if it was given.
    ///
    /// # Errors
    /// 22023 if there is no origin or more than one, or an address is none.
    pub fn take(options: &mut Options<'_>, topic: &str, message: Option<&str>) -> Result<Self> {
        let file = options.take("schema.location").map(str::trim).filter(|f| !f.is_empty());
        let registry = RegistryOptions::take(options, topic, message)?;
        match (file, registry) {
            (Some(file), None) => {
                let path = file.strip_prefix("file://").unwrap_or(file);
                if path.contains("://") {
                    let error = format!("option \"schema.location\" of {} cannot be \"{file}\"", options.of());
                    return Err(ConnectorError::unsupported(error).with_hint("it is the path of a file on the server"));
                }
                Ok(Self::File(path.into()))
            }
            (None, Some(registry)) => Ok(Self::Registry(registry)),
            (Some(_), Some(_)) => Err(ConnectorError::option(format!(
                "options \"schema.location\" and \"schema.registry\" of {} exclude each other",
                options.of()
            ))),
            (None, None) => Err(options.missing("schema.registry").with_hint(
                "schema.registry = 'http://host:8081' names a schema registry, schema.location = '/path' a schema file",
            )),
        }
    }
}

impl RegistryOptions {
    /// Takes the options of a registry, if there are any.
    ///
    /// # Errors
    /// 22023 for an address that is none, and for options that need others.
    pub fn take(options: &mut Options<'_>, topic: &str, message: Option<&str>) -> Result<Option<Self>> {
        let urls = options.take("schema.registry").map(str::trim).filter(|u| !u.is_empty());
        let username = options.take("schema.registry.username");
        let password = options.take("schema.registry.password");
        let ca = options.take("schema.registry.ca.location");
        let words = [
            ("topic_name_strategy", NameStrategy::Topic),
            ("record_name_strategy", NameStrategy::Record),
            ("topic_record_name_strategy", NameStrategy::TopicRecord),
        ];
        let strategy = options.take_word("schema.registry.name.strategy", &words)?;
        let Some(urls) = urls else {
            let given = [
                ("schema.registry.username", username.is_some()),
                ("schema.registry.password", password.is_some()),
                ("schema.registry.ca.location", ca.is_some()),
                ("schema.registry.name.strategy", strategy.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(ConnectorError::option(format!(
                    "option \"{name}\" of {} needs \"schema.registry\"",
                    options.of()
                ))),
                None => Ok(None),
            };
        };
        if password.is_some() && username.is_none() {
            return Err(options.missing("schema.registry.username"));
        }
        let of_record = |message: Option<&str>| {
            message.map(str::to_string).ok_or_else(|| {
                options.missing("message").with_hint("the name strategy names subjects by the record's full name")
            })
        };
        let (value_subject, key_subject) = match strategy.unwrap_or(NameStrategy::Topic) {
            NameStrategy::Topic => (format!("{topic}-value"), format!("{topic}-key")),
            NameStrategy::Record => (of_record(message)?, format!("{}-key", of_record(message)?)),
            NameStrategy::TopicRecord => {
                let record = of_record(message)?;
                (format!("{topic}-{record}"), format!("{topic}-{record}-key"))
            }
        };
        let credentials = username.map(|name| (name.to_string(), password.unwrap_or("").to_string()));
        let client = Arc::new(Client::new(urls, credentials, ca)?);
        Ok(Some(Self { client, value_subject: value_subject.into(), key_subject: key_subject.into() }))
    }
}

/// The text of a schema file; what is no text comes in base64.
///
/// # Errors
/// 58P01 if it is not there, 58030 if it cannot be read.
pub(crate) fn read_file(path: &str) -> Result<SchemaText> {
    use base64::Engine;
    /// No schema is as large.
    const BYTES_MAX: u64 = 16 << 20;
    let failed = |e: std::io::Error| {
        let code = match e.kind() {
            std::io::ErrorKind::NotFound => sqlstate::UNDEFINED_FILE,
            _ => sqlstate::IO_ERROR,
        };
        ConnectorError::new(code, format!("schema file \"{path}\" cannot be read: {e}"))
            .with_hint("schema.location is the path of a file on the server")
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > BYTES_MAX {
        let error = format!("schema file \"{path}\" has {size} bytes, more than {BYTES_MAX}");
        return Err(ConnectorError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, error));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => SchemaText { text, ..SchemaText::default() },
        Ok(text) => SchemaText::of_bytes(base64::prelude::BASE64_STANDARD.encode(text)),
        Err(e) => SchemaText::of_bytes(base64::prelude::BASE64_STANDARD.encode(e.as_bytes())),
    })
}

/// Cuts Confluent's header off: a zero byte, and the schema's number in four bytes, the highest first.
///
/// # Errors
/// If there is none.
pub(crate) fn split_header(payload: &[u8]) -> Result<(u32, &[u8]), String> {
    match payload {
        [0, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        [] => Err("the record is empty: it has no schema id".into()),
        [0, ..] => Err("the record ends within the schema id".into()),
        [first, ..] => Err(format!(
            "the record begins with byte {first} and not with 0 and a schema id; schema.location reads records without one"
        )),
    }
}
