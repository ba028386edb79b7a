//! The envelope of Debezium's change events: `before`, `after` and `op`, whatever the encoding.
//!
//! In JSON without its schema a value does not say what it is: times are read by `timestamp.handling.mode`, and decimals must
//! be written as text or numbers (Debezium's `decimal.handling.mode = string`), not as bytes. In Avro the schema says it.

use crate::format::Failure;
use crate::format::json::{Cursor, ObjectReader, Reader};
use crate::format::payload::{Columns, Target};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// It was created, or read in a snapshot: `c`, `r`.
    Create,
    /// `u`.
    Update,
    /// `d`.
    Delete,
}

impl Op {
    /// The operation of its letter.
    ///
    /// # Errors
    /// For one that says nothing of a row.
    pub fn parse(letter: &str) -> Result<Self, String> {
        match letter {
            "c" | "r" => Ok(Self::Create),
            "u" => Ok(Self::Update),
            "d" => Ok(Self::Delete),
            "t" => {
                Err("op \"t\" (the table was truncated) is not supported: it does not say which rows are gone".into())
            }
            other => Err(format!("op \"{}\" is not known", crate::format::column::shorten(other))),
        }
    }
}

/// A change, its rows still encoded.
pub(super) struct Change<'a> {
    pub op: Op,
    pub before: Option<&'a [u8]>,
    pub after: Option<&'a [u8]>,
}

/// Reads changes of one encoding.
pub(super) trait ReadChange: Send {
    /// Finds the parts of a change, checking the whole of it.
    ///
    /// # Errors
    /// Why it is none.
    fn open<'a>(&mut self, payload: &'a [u8]) -> Result<Change<'a>, Failure>;

    /// Appends a row from its image in the change that was opened last; see [`crate::format::payload::ReadPayload::read`].
    ///
    /// # Errors
    /// As there.
    fn read_row(&mut self, image: &[u8], columns: Columns<'_>) -> Result<(), Failure>;

    /// The same for the columns of the key alone; the others get no value.
    ///
    /// # Errors
    /// As there.
    fn read_key(&mut self, image: &[u8], columns: Columns<'_>) -> Result<(), Failure>;
}

/// Changes in JSON, with `{"schema": …, "payload": …}` around them or without.
pub(super) struct JsonChange {
    reader: Reader,
    row: ObjectReader,
    key: ObjectReader,
}

impl JsonChange {
    /// Of a table's columns and those of its key.
    pub fn new(row: &[Target<'_>], key: &[Target<'_>]) -> Self {
        let object = |targets: &[Target<'_>]| ObjectReader::new(targets.iter().map(|t| (t.name, t.at)));
        Self { reader: Reader::default(), row: object(row), key: object(key) }
    }
}

impl ReadChange for JsonChange {
    fn open<'a>(&mut self, payload: &'a [u8]) -> Result<Change<'a>, Failure> {
        let mut text = payload;
        let mut cursor = Cursor::new(payload)?;
        if let Some(inner) = cursor.payload_of_envelope() {
            text = inner.as_bytes();
        }
        let mut cursor = Cursor::new(text)?;
        let (mut before, mut after, mut op) = (None, None, None);
        cursor.object(|cursor, name| {
            let value = cursor.value_text()?;
            match name {
                "before" => before = Some(value),
                "after" => after = Some(value),
                "op" => op = Some(value),
                _ => {}
            }
            Ok(())
        })?;
        let Some(op) = op else { return Err("the record is no change of Debezium's: it has no \"op\"".into()) };
        let op = Op::parse(op.trim_matches('"'))?;
        let image = |text: Option<&'a str>| text.filter(|t| *t != "null").map(str::as_bytes);
        Ok(Change { op, before: image(before), after: image(after) })
    }

    fn read_row(&mut self, image: &[u8], columns: Columns<'_>) -> Result<(), Failure> {
        Ok(self.reader.read_object(image, &mut self.row, columns)?)
    }

    fn read_key(&mut self, image: &[u8], columns: Columns<'_>) -> Result<(), Failure> {
        Ok(self.reader.read_object(image, &mut self.key, columns)?)
    }
}
