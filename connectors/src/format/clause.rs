//! The FORMAT clause, its words and options checked once.

use millstream_catalog::object::Format;

use crate::error::{ConnectorError, Result};
use crate::format::avro::RegisteredOptions;
use crate::format::csv::CsvOptions;
use crate::options::Options;
use crate::registry::SchemaOrigin;

/// What a record says of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is a row.
    Plain,
    /// It is the row of its key, or its end.
    Upsert,
    /// It is a change of Debezium's.
    Debezium,
}

impl Kind {
    /// The word in the clause.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Upsert => "UPSERT",
            Self::Debezium => "DEBEZIUM",
        }
    }

    /// Whether rows have keys, by which they change and go.
    pub fn is_keyed(self) -> bool {
        self != Self::Plain
    }
}

/// How payloads are written.
#[derive(Debug, Clone)]
pub enum Encoding {
    /// With whether numbers of times are microseconds.
    Json {
        micros: bool,
    },
    Csv(CsvOptions),
    Bytes,
    Avro(SchemaOrigin),
    Protobuf {
        origin: SchemaOrigin,
        /// The message's full name; `None`: the schema has one alone.
        message: Option<Box<str>>,
    },
}

impl Encoding {
    /// The word in the clause.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Json { .. } => "JSON",
            Self::Csv(_) => "CSV",
            Self::Bytes => "BYTES",
            Self::Avro(_) => "AVRO",
            Self::Protobuf { .. } => "PROTOBUF",
        }
    }
}

/// How the keys of records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEncoding {
    Json,
    Text,
    Bytes,
    Avro,
}

/// The clause of a source.
#[derive(Debug, Clone)]
pub struct SourceClause {
    pub kind: Kind,
    pub encoding: Encoding,
    pub key_encoding: KeyEncoding,
}

/// The clause of a sink.
#[derive(Debug, Clone)]
pub struct SinkClause {
    pub kind: Kind,
    pub encoding: SinkEncoding,
}

/// How a sink writes.
#[derive(Debug, Clone)]
pub enum SinkEncoding {
    Json,
    Avro(RegisteredOptions),
}

/// What a source can be, for hints.
const SOURCES: &str = "FORMAT PLAIN ENCODE JSON | CSV | BYTES | AVRO | PROTOBUF, \
                       FORMAT UPSERT ENCODE JSON | CSV | BYTES | AVRO | PROTOBUF, FORMAT DEBEZIUM ENCODE JSON | AVRO";
/// What a sink can be, for hints.
const SINKS: &str = "FORMAT PLAIN | UPSERT | DEBEZIUM ENCODE JSON | AVRO";

fn kind(format: &Format, of: &str, known: &str) -> Result<Kind> {
    match format.format.as_str() {
        "plain" => Ok(Kind::Plain),
        "upsert" => Ok(Kind::Upsert),
        "debezium" => Ok(Kind::Debezium),
        other => Err(ConnectorError::option(format!("unknown format \"{other}\" of a {of}"))
            .with_hint(format!("known formats of a {of}: {known}"))),
    }
}

fn unknown_encoding(encode: &str, kind: Kind, of: &str, known: &str) -> ConnectorError {
    let error = match encode {
        "json" | "csv" | "bytes" | "avro" | "protobuf" => ConnectorError::unsupported(format!(
            "FORMAT {} ENCODE {} of a {of} is not supported",
            kind.word(),
            encode.to_uppercase()
        )),
        _ => ConnectorError::option(format!("unknown encoding \"{encode}\" of a {of}")),
    };
    error.with_hint(format!("known formats of a {of}: {known}"))
}

/// What errors call the clause: `FORMAT PLAIN ENCODE JSON`.
fn name(format: &Format) -> String {
    format!("FORMAT {} ENCODE {}", format.format.to_uppercase(), format.encode.to_uppercase())
}

impl SourceClause {
    /// Checks the clause of a source that reads `topic`.
    ///
    /// # Errors
    /// 22023 for an unknown format, encoding, option or value; 0A000 for what is known and not supported, by name.
    pub fn new(format: &Format, topic: &str) -> Result<Self> {
        let kind = kind(format, "source", SOURCES)?;
        let name = name(format);
        let mut options = Options::new(&name, &format.options);
        let micros = [("milli", false), ("micro", true)];
        let (encoding, mut key_encoding) = match (kind, format.encode.as_str()) {
            (_, "json") => {
                let micros = options.take_word("timestamp.handling.mode", &micros)?.unwrap_or(false);
                (Encoding::Json { micros }, KeyEncoding::Json)
            }
            (Kind::Plain | Kind::Upsert, "csv") => (Encoding::Csv(CsvOptions::take(&mut options)?), KeyEncoding::Text),
            (Kind::Plain | Kind::Upsert, "bytes") => (Encoding::Bytes, KeyEncoding::Bytes),
            (_, "avro") => {
                let message = options.take("message");
                let origin = SchemaOrigin::take(&mut options, topic, message)?;
                (Encoding::Avro(origin), KeyEncoding::Avro)
            }
            (Kind::Plain | Kind::Upsert, "protobuf") => {
                let message = options.take("message");
                let origin = SchemaOrigin::take(&mut options, topic, message)?;
                (Encoding::Protobuf { origin, message: message.map(Into::into) }, KeyEncoding::Json)
            }
            (_, other) => return Err(unknown_encoding(other, kind, "source", SOURCES)),
        };
        if kind.is_keyed() {
            let words = [
                ("json", KeyEncoding::Json),
                ("text", KeyEncoding::Text),
                ("bytes", KeyEncoding::Bytes),
                ("avro", KeyEncoding::Avro),
            ];
            if let Some(word) = options.take_word("key.encode", &words)? {
                key_encoding = word;
            }
            if key_encoding == KeyEncoding::Avro && !matches!(encoding, Encoding::Avro(_)) {
                return Err(ConnectorError::unsupported(format!("key.encode = 'avro' of {name} is not supported"))
                    .with_hint("keys in Avro need ENCODE AVRO"));
            }
        }
        options.finish("")?;
        Ok(Self { kind, encoding, key_encoding })
    }
}

impl SinkClause {
    /// Checks the clause of a sink that writes `topic`.
    ///
    /// # Errors
    /// As [`SourceClause::new`].
    pub fn new(format: &Format, topic: &str) -> Result<Self> {
        let kind = kind(format, "sink", SINKS)?;
        let name = name(format);
        let mut options = Options::new(&name, &format.options);
        let encoding = match format.encode.as_str() {
            "json" => SinkEncoding::Json,
            "avro" => SinkEncoding::Avro(RegisteredOptions::take(&mut options, topic)?),
            other => return Err(unknown_encoding(other, kind, "sink", SINKS)),
        };
        options.finish("")?;
        Ok(Self { kind, encoding })
    }
}
