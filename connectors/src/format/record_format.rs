//! The format of a source, checked at CREATE, and the decoders that read by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::BooleanBufferBuilder;
use arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::object::{Format, Include, Source, columns_schema};
use millstream_catalog::{Column, SqlType};

use crate::error::{ConnectorError, Result};
use crate::format::avro::AvroFormat;
use crate::format::bytes::WholePayload;
use crate::format::clause::{Encoding, KeyEncoding, Kind, SourceClause};
use crate::format::column::ColumnBuilder;
use crate::format::csv::CsvPayload;
use crate::format::debezium::{JsonChange, ReadChange};
use crate::format::decoder::{KeyRead, Read};
use crate::format::json::{self, JsonPayload};
use crate::format::key::JsonKey;
use crate::format::payload::{ReadPayload, Target};
use crate::format::protobuf::ProtobufFormat;
use crate::format::{FieldsRead, RecordDecoder};

/// How the records of a source become rows. Clones share what was fetched of a schema registry.
#[derive(Debug, Clone)]
pub struct RecordFormat {
    columns: Arc<[Column]>,
    key: Arc<[usize]>,
    schema: SchemaRef,
    fields: Arc<FieldsRead>,
    clause: Arc<SourceClause>,
    schemas: Schemas,
}

/// What an encoding with a schema reads by.
#[derive(Debug, Clone)]
enum Schemas {
    None,
    Avro(Arc<AvroFormat>),
    Protobuf(Arc<ProtobufFormat>),
}

impl RecordFormat {
    /// Checks the format of a source that reads `topic`, and that it can fill the source's columns.
    ///
    /// # Errors
    /// 22023 for an unknown format, encoding or option, for a keyed format without primary key and a primary key without
    /// keyed format; 0A000 for what is not supported, by name.
    pub fn new(source: &Source, format: &Format, topic: &str) -> Result<Self> {
        let clause = SourceClause::new(format, topic)?;
        let (columns, key) = (source.columns.as_slice(), source.primary_key.as_slice());
        check_keyed(&clause, columns, key)?;
        for column in columns {
            match column.include {
                Some(include) => check_include(column, include)?,
                None if column.is_computed() => {}
                None => json::check_readable(&column.name, &column.sql_type, clause.encoding.word())?,
            }
        }
        let of_payload: Vec<&Column> = columns.iter().filter(|c| is_of_payload(c)).collect();
        let key_columns: Vec<&Column> = key.iter().map(|i| &columns[*i]).collect();
        let schemas = match &clause.encoding {
            Encoding::Bytes => {
                check_bytes(&of_payload, &key_columns)?;
                Schemas::None
            }
            Encoding::Csv(_) => {
                check_csv(&of_payload)?;
                Schemas::None
            }
            Encoding::Avro(origin) => {
                Schemas::Avro(Arc::new(AvroFormat::new(origin, format, &clause, &of_payload, &key_columns)?))
            }
            Encoding::Protobuf { origin, message } => {
                Schemas::Protobuf(Arc::new(ProtobufFormat::new(origin, format, message.as_deref(), &of_payload)?))
            }
            Encoding::Json { .. } => Schemas::None,
        };
        Ok(Self {
            columns: columns.into(),
            key: key.into(),
            schema: keyed_schema(columns, key),
            fields: Arc::default(),
            clause: Arc::new(clause),
            schemas,
        })
    }

    /// Of a source with these columns and no primary key.
    #[cfg(test)]
    pub(crate) fn of_columns(columns: &[Column], format: &Format) -> Result<Self> {
        Self::keyed(columns, &[], format)
    }

    /// Of a source with these columns and this primary key.
    #[cfg(test)]
    pub(crate) fn keyed(columns: &[Column], key: &[usize], format: &Format) -> Result<Self> {
        let source = Source {
            columns: columns.to_vec(),
            primary_key: key.to_vec(),
            watermark: None,
            options: std::collections::BTreeMap::new(),
            format: None,
        };
        Self::new(&source, format, "t")
    }

    /// Whether rows have keys, by which they change and go: see [`crate::format::Rows::deletes`].
    pub fn is_keyed(&self) -> bool {
        self.clause.kind.is_keyed()
    }

    /// The word of the format: `UPSERT`.
    pub fn word(&self) -> &'static str {
        self.clause.kind.word()
    }

    /// The word of an encoding whose payloads are no text: `AVRO`.
    pub fn binary_word(&self) -> Option<&'static str> {
        let encoding = &self.clause.encoding;
        matches!(encoding, Encoding::Avro(_) | Encoding::Protobuf { .. }).then(|| encoding.word())
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
        // A key is compared with others, also where nobody reads it.
        let keys = self.key.iter().copied().filter(|i| !columns.contains(i));
        let mut all: Vec<usize> = columns.iter().copied().chain(keys).collect();
        let kept = all.len();
        let checked = (0..self.columns.len()).filter(|i| !all.contains(i) && is_checked(&self.columns[*i]));
        let checked: Vec<usize> = checked.collect();
        all.extend(checked);
        // In declared order, so that of two errors it is always the same one that is told.
        let mut declared: Vec<(usize, &Column)> = all.iter().map(|i| &self.columns[*i]).enumerate().collect();
        declared.sort_by_key(|(at, _)| all[*at]);
        let target = |at: usize, c: &'_ Column| (at, c.name.clone(), c.sql_type.clone());
        let fields: Vec<_> = declared.iter().filter(|(_, c)| is_of_payload(c)).map(|(at, c)| target(*at, c)).collect();
        let place = |i: &usize| all.iter().position(|c| c == i).unwrap_or_default();
        let key: Vec<_> = self.key.iter().map(|i| target(place(i), &self.columns[*i])).collect();
        let included = declared.iter().filter_map(|(at, c)| Some((*at, c.include?))).collect();
        let required =
            declared.iter().filter(|(_, c)| !c.nullable).map(|(at, c)| (*at, c.name.as_str().into())).collect();
        let none = BTreeSet::new();
        let micros = matches!(self.clause.encoding, Encoding::Json { micros: true });
        let builders = all.iter().enumerate().map(|(at, i)| {
            let sql_type = &self.columns[*i].sql_type;
            let builder = match (at < kept, self.fields.get(i)) {
                (true, None) => ColumnBuilder::new(sql_type),
                (true, Some(fields)) => ColumnBuilder::of_fields(sql_type, fields),
                (false, _) => ColumnBuilder::of_fields(sql_type, &none),
            }?;
            Ok(if micros { builder.with_numbers_in_micros() } else { builder })
        });
        let builders = builders.collect::<Result<_>>()?;
        let read = self.reader(&targets(&fields), &targets(&key))?;
        Ok(RecordDecoder {
            schema,
            builders,
            kept,
            read,
            included,
            required,
            rows: 0,
            deleted: BooleanBufferBuilder::new(0),
        })
    }

    fn reader(&self, fields: &[Target<'_>], key: &[Target<'_>]) -> Result<Read> {
        let kind = self.clause.kind;
        if kind == Kind::Debezium {
            let change: Box<dyn ReadChange> = match &self.schemas {
                Schemas::Avro(avro) => Box::new(avro.change(fields, key)),
                _ => Box::new(JsonChange::new(fields, key)),
            };
            return Ok(Read::Debezium { change, key: self.key_reader(key)? });
        }
        let payload: Box<dyn ReadPayload> = match (&self.clause.encoding, &self.schemas) {
            (Encoding::Csv(options), _) => Box::new(CsvPayload::new(options, fields)),
            (Encoding::Bytes, _) => {
                let column = fields.iter().find(|f| key.iter().all(|k| k.at != f.at)).or(fields.first());
                let column = column.ok_or_else(|| ConnectorError::internal("a source of bytes without a column"))?;
                Box::new(WholePayload { at: column.at, name: column.name.into() })
            }
            (_, Schemas::Avro(avro)) => Box::new(avro.payload(fields)),
            (_, Schemas::Protobuf(protobuf)) => Box::new(protobuf.payload(fields)),
            _ => Box::new(JsonPayload::new(fields)),
        };
        Ok(match kind {
            Kind::Upsert => Read::Upsert { payload, key: self.key_reader(key)? },
            _ => Read::Plain(payload),
        })
    }

    fn key_reader(&self, key: &[Target<'_>]) -> Result<KeyRead> {
        let whole =
            |t: &Target<'_>| -> Box<dyn ReadPayload> { Box::new(WholePayload { at: t.at, name: t.name.into() }) };
        let reader: Box<dyn ReadPayload> = match (self.key_encoding(), key, &self.schemas) {
            (KeyEncoding::Text | KeyEncoding::Bytes, [one], _) => whole(one),
            (KeyEncoding::Avro, _, Schemas::Avro(avro)) => Box::new(avro.key(key)),
            _ => Box::new(JsonKey::new(key, self.clause.kind == Kind::Debezium)),
        };
        let columns = key.iter().map(|t| (t.at, t.name.into())).collect();
        let scratch = key.iter().map(|t| ColumnBuilder::new(t.sql_type)).collect::<Result<_>>()?;
        Ok(KeyRead { reader, columns, scratch })
    }

    /// How keys are written; a key that is the included one is taken as it is.
    fn key_encoding(&self) -> KeyEncoding {
        match self.key.iter().any(|i| self.columns[*i].include == Some(Include::Key)) {
            true => KeyEncoding::Bytes,
            false => self.clause.key_encoding,
        }
    }
}

/// A column by position among the builders, name and type.
type Placed = (usize, String, SqlType);

fn targets(columns: &[Placed]) -> Vec<Target<'_>> {
    columns.iter().map(|(at, name, sql_type)| Target { name, sql_type, at: *at }).collect()
}

/// Whether a column's values come from the payload.
fn is_of_payload(column: &Column) -> bool {
    column.include.is_none() && !column.is_computed()
}

/// Whether a record can be malformed in a column that nobody reads.
fn is_checked(column: &Column) -> bool {
    match column.include {
        None => !column.is_computed(),
        Some(Include::Key | Include::Timestamp) => true,
        Some(Include::Partition | Include::Offset | Include::Headers) => false,
    }
}

/// The columns of batches: where a row can be gone, only its key is sure to be there.
fn keyed_schema(columns: &[Column], key: &[usize]) -> SchemaRef {
    let schema = columns_schema(columns);
    if key.is_empty() {
        return schema;
    }
    let field = |(i, f): (usize, &Arc<arrow::datatypes::Field>)| match key.contains(&i) {
        true => f.clone(),
        false => Arc::new(f.as_ref().clone().with_nullable(true)),
    };
    let fields: Vec<_> = schema.fields().iter().enumerate().map(field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A keyed format needs a primary key that its records' keys can fill, and only such a format has one.
fn check_keyed(clause: &SourceClause, columns: &[Column], key: &[usize]) -> Result<()> {
    let word = clause.kind.word();
    match (clause.kind.is_keyed(), key.is_empty()) {
        (true, true) => {
            return Err(ConnectorError::option(format!("FORMAT {word} of a source needs a PRIMARY KEY")).with_hint(
                "add PRIMARY KEY (column, …) to the columns: what a record replaces or deletes is found by it",
            ));
        }
        (false, false) => {
            return Err(ConnectorError::option(
                "a source of FORMAT PLAIN has no primary key: each record is a new row",
            )
            .with_hint("leave PRIMARY KEY out, or use FORMAT UPSERT or FORMAT DEBEZIUM"));
        }
        (false, true) => return Ok(()),
        (true, false) => {}
    }
    let included: Vec<&Column> = key.iter().map(|i| &columns[*i]).filter(|c| c.include.is_some()).collect();
    for column in &included {
        let alone = key.len() == 1 && clause.kind == Kind::Upsert;
        if column.include != Some(Include::Key) || !alone {
            return Err(ConnectorError::option(format!(
                "column \"{}\" of INCLUDE cannot be in the primary key of a source of FORMAT {word}",
                column.name
            ))
            .with_hint(
                "a primary key is made of columns of the record's key; INCLUDE key can be all of it with FORMAT UPSERT",
            ));
        }
    }
    if let Some(column) = key.iter().map(|i| &columns[*i]).find(|c| c.is_computed()) {
        return Err(ConnectorError::option(format!("column \"{}\" of the primary key is computed", column.name))
            .with_hint("a primary key is made of columns that records have"));
    }
    if included.is_empty() && key.len() > 1 && matches!(clause.key_encoding, KeyEncoding::Text | KeyEncoding::Bytes) {
        let error = format!("a primary key of {} columns needs keys that are objects", key.len());
        return Err(ConnectorError::option(error).with_hint("add key.encode = 'json' to the options of the encoding"));
    }
    Ok(())
}

/// ENCODE BYTES has one column, apart from those of the key.
fn check_bytes(of_payload: &[&Column], key: &[&Column]) -> Result<()> {
    let payload: Vec<_> = of_payload.iter().filter(|c| key.iter().all(|k| k.name != c.name)).collect();
    let fits = |c: &Column| c.sql_type == SqlType::Bytea || c.sql_type.is_text();
    match payload.as_slice() {
        [one] if fits(one) => Ok(()),
        [one] => Err(ConnectorError::option(format!(
            "ENCODE BYTES cannot fill column \"{}\" of type {}",
            one.name, one.sql_type
        ))
        .with_hint("types that it fills: bytea, text")),
        other => {
            Err(ConnectorError::option(format!("ENCODE BYTES fills one column, and the source has {}", other.len()))
                .with_hint(
                    "declare one column of type bytea; INCLUDE adds the parts of the message beside the payload",
                ))
        }
    }
}

/// A field of a line is text, which is no array or record.
fn check_csv(of_payload: &[&Column]) -> Result<()> {
    match of_payload.iter().find(|c| matches!(c.sql_type, SqlType::Array(_) | SqlType::Record(_))) {
        None => Ok(()),
        Some(c) => {
            let error = format!("column \"{}\" of type {} cannot be read from CSV", c.name, c.sql_type);
            Err(ConnectorError::unsupported(error).with_hint("declare it as text and cast it in a view on the source"))
        }
    }
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
