//! Collects records into rows, one record at a time.

use std::sync::Arc;

use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::object::Include;

use crate::error::Result;
use crate::format::column::ColumnBuilder;
use crate::format::debezium::{Op, ReadChange};
use crate::format::payload::{Columns, ReadPayload};
use crate::format::{Failure, Record, Rows};

/// Collects records into a batch.
pub struct RecordDecoder {
    pub(super) schema: SchemaRef,
    /// Of the columns that are read, of those of the key that are not, then of those that are only checked; the last hold the
    /// value of one record.
    pub(super) builders: Vec<ColumnBuilder>,
    /// So many of them keep their values.
    pub(super) kept: usize,
    pub(super) read: Read,
    pub(super) included: Vec<(usize, Include)>,
    /// Positions and names of NOT NULL columns.
    pub(super) required: Vec<(usize, Box<str>)>,
    pub(super) rows: usize,
    /// Which rows are gone; as long as there are rows up to the last of them.
    pub(super) deleted: BooleanBufferBuilder,
}

/// How records become rows.
pub(super) enum Read {
    /// Each is a row.
    Plain(Box<dyn ReadPayload>),
    /// Each is the row of its key.
    Upsert { payload: Box<dyn ReadPayload>, key: KeyRead },
    /// Each is a change; the key is of use where a change does not say whose row is gone.
    Debezium { change: Box<dyn ReadChange>, key: KeyRead },
}

/// The key of a keyed source.
pub(super) struct KeyRead {
    pub reader: Box<dyn ReadPayload>,
    /// Positions and names of its columns.
    pub columns: Vec<(usize, Box<str>)>,
    /// A row's key, to be compared with another's.
    pub scratch: Vec<ColumnBuilder>,
}

impl RecordDecoder {
    /// Schema of the batches. That of a keyed source takes NULL in every column but those of the key, also where it is
    /// declared NOT NULL.
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

    /// Appends one record: a row, none, or with `FORMAT DEBEZIUM` two.
    ///
    /// # Errors
    /// Why the record is not read; nothing of it is kept then.
    pub fn append(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let rows = self.rows;
        let outcome = self.try_append(record);
        if outcome.is_err() {
            self.rows = rows;
            for builder in &mut self.builders[..self.kept] {
                builder.truncate(rows);
            }
            self.deleted.truncate(self.deleted.len().min(rows));
        }
        outcome
    }

    /// The rows so far; the decoder is empty after it.
    ///
    /// # Errors
    /// XX000 if the columns do not make a batch, which would be a bug.
    pub fn finish(&mut self) -> Result<Rows> {
        let rows = std::mem::take(&mut self.rows);
        let mut columns: Vec<_> = self.builders[..self.kept].iter_mut().map(ColumnBuilder::finish).collect();
        columns.truncate(self.schema.fields().len());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let deletes = (!self.deleted.is_empty()).then(|| {
            self.deleted.append_n(rows - self.deleted.len(), false);
            BooleanArray::new(self.deleted.finish(), None)
        });
        Ok(Rows { batch, deletes })
    }

    fn try_append(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let Self { builders, kept, read, included, required, rows, deleted, .. } = self;
        let mut appender = Appender { builders, kept: *kept, included, required, rows, deleted };
        match read {
            Read::Plain(reader) => match record.payload {
                Some(payload) => appender.row(record, |columns| reader.read(payload, columns)),
                None => Err("the record has no payload (a tombstone), which FORMAT PLAIN does not read".into()),
            },
            Read::Upsert { payload: reader, key } => {
                let Some(bytes) = record.key else {
                    return Err("the record has no key, which FORMAT UPSERT needs".into());
                };
                match record.payload {
                    Some(payload) => appender.row(record, |mut columns| {
                        reader.read(payload, columns.reborrow())?;
                        key.read(bytes, columns)
                    }),
                    None => appender.deletion(key, |key, columns| key.read(bytes, columns)),
                }
            }
            Read::Debezium { change, key } => match record.payload {
                // It follows the deletion that it repeats, for the sake of the topic's compaction.
                None => Ok(()),
                Some(payload) => appender.change(record, payload, change.as_mut(), key),
            },
        }
    }
}

impl KeyRead {
    /// Puts the values of a key in the place of those that its columns have in the row.
    fn read(&mut self, bytes: &[u8], mut columns: Columns<'_>) -> Result<(), Failure> {
        for (at, _) in &self.columns {
            columns.cleared(*at);
        }
        self.reader.read(bytes, columns).map_err(|failure| match failure {
            Failure::Malformed(error) => Failure::Malformed(format!("key of the record: {error}")),
            other => other,
        })
    }
}

/// The parts of a decoder that a row goes to.
struct Appender<'a> {
    builders: &'a mut [ColumnBuilder],
    kept: usize,
    included: &'a [(usize, Include)],
    required: &'a [(usize, Box<str>)],
    rows: &'a mut usize,
    deleted: &'a mut BooleanBufferBuilder,
}

impl Appender<'_> {
    fn columns(&mut self) -> Columns<'_> {
        let (kept, row) = (self.kept, *self.rows);
        self.builders[kept..].iter_mut().for_each(ColumnBuilder::clear);
        Columns { builders: self.builders, kept, row }
    }

    /// Appends a row.
    fn row(
        &mut self,
        record: &Record<'_>,
        read: impl FnOnce(Columns<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        read(self.columns())?;
        let (kept, row) = (self.kept, *self.rows);
        for (i, include) in self.included {
            // The key of an upsert may be a column of the row too, which has it then.
            if i >= &kept && self.builders[*i].is_empty() || i < &kept && self.builders[*i].len() == row {
                append_included(&mut self.builders[*i], *include, record)?;
            }
        }
        for (i, name) in self.required {
            if self.builders[*i].is_null(if *i < kept { row } else { 0 }) {
                return Err(format!("column \"{name}\": null or missing, but the column is NOT NULL").into());
            }
        }
        *self.rows += 1;
        Ok(())
    }

    /// Appends a row that says that the row of a key is gone.
    fn deletion(
        &mut self,
        key: &mut KeyRead,
        read: impl FnOnce(&mut KeyRead, Columns<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        read(key, self.columns())?;
        let mut columns = Columns { builders: self.builders, kept: self.kept, row: *self.rows };
        check_key(key, &columns)?;
        columns.pad();
        self.deleted.append_n(*self.rows - self.deleted.len(), false);
        self.deleted.append(true);
        *self.rows += 1;
        Ok(())
    }

    /// Appends what a change of Debezium's does: the row after it, or the end of the row before it; both if the key is not
    /// the same.
    fn change(
        &mut self,
        record: &Record<'_>,
        payload: &[u8],
        change: &mut dyn ReadChange,
        key: &mut KeyRead,
    ) -> Result<(), Failure> {
        let found = change.open(payload)?;
        if found.op == Op::Delete {
            return self.deletion(key, |key, columns| match (found.before, record.key) {
                (Some(before), _) => change.read_key(before, columns),
                (None, Some(bytes)) => key.read(bytes, columns),
                (None, None) => {
                    Err("a deletion without \"before\" in a record without a key: whose row is gone?".into())
                }
            });
        }
        let Some(after) = found.after else { return Err("a change that is no deletion has no \"after\"".into()) };
        let before = found.before.filter(|_| found.op == Op::Update);
        let Some(before) = before else { return self.row(record, |columns| change.read_row(after, columns)) };
        // The key before is set aside, for the columns that only check hold one value.
        let mut columns = self.columns();
        change.read_key(before, columns.reborrow())?;
        check_key(key, &columns)?;
        for ((at, _), scratch) in key.columns.iter().zip(&mut key.scratch) {
            scratch.clear();
            scratch.append_from(&columns.builders[*at], columns.row_of(*at))?;
        }
        self.undo_row();
        self.row(record, |columns| change.read_row(after, columns))?;
        let columns = Columns { builders: self.builders, kept: self.kept, row: *self.rows - 1 };
        let mut pairs = key.columns.iter().zip(&key.scratch);
        if pairs.all(|((at, _), old)| old.equals(0, &columns.builders[*at], columns.row_of(*at))) {
            return Ok(());
        }
        // The old key's row goes before the new one comes.
        *self.rows -= 1;
        self.undo_row();
        self.deletion(key, |_, columns| change.read_key(before, columns))?;
        self.row(record, |columns| change.read_row(after, columns))
    }

    /// Drops the row that is being appended.
    fn undo_row(&mut self) {
        for builder in &mut self.builders[..self.kept] {
            builder.truncate(*self.rows);
        }
    }
}

/// A row without its whole key is no row.
fn check_key(key: &KeyRead, columns: &Columns<'_>) -> Result<(), Failure> {
    match key.columns.iter().find(|(at, _)| columns.builders[*at].is_null(columns.row_of(*at))) {
        Some((_, name)) => Err(format!("column \"{name}\" of the key: null or missing").into()),
        None => Ok(()),
    }
}

fn append_included(builder: &mut ColumnBuilder, include: Include, record: &Record<'_>) -> Result<(), Failure> {
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
