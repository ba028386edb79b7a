//! The pieces of a sink's outbox: rows that wait, as they are stored.
//!
//! A piece is an Arrow IPC stream of one batch: the sink's columns; `__deleted`, whether the row goes; and for a sink whose
//! messages tell it `__before`, a struct of the sink's columns that is valid where the row takes the place of another one.
//! The schema's metadata say when the rows were made and how many bytes all pieces before have. A piece says itself what it
//! has: one that an older server has stored lacks `__before` and the metadata, and nothing is known of them then.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array, new_null_array,
};
use arrow::compute::{concat, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::error::{Error, Result, sqlstate};
use crate::state::segments::compact_views;

const DELETED: &str = "__deleted";
const BEFORE: &str = "__before";
/// Metadata: when the rows were made, microseconds since 1970.
const MADE_US: &str = "made_us";
/// Metadata: bytes of all pieces that were stored before.
const BYTES_BEFORE: &str = "bytes_before";

/// Rows of a sink in the order to send them.
#[derive(Debug, Clone)]
pub struct SinkRows {
    /// The sink's columns; of a row that goes, as it was.
    pub rows: RecordBatch,
    /// Which of the rows go.
    pub deleted: BooleanArray,
    /// What the rows were whose place these take, null where they take none; `None` if that was not kept.
    pub before: Option<StructArray>,
}

/// Which rows of a batch are sent, and as what.
#[derive(Debug, Default)]
pub struct Chosen {
    pub rows: Vec<u32>,
    pub deleted: Vec<bool>,
    /// The row whose place each takes.
    pub before: Vec<Option<u32>>,
}

impl Chosen {
    /// One more row, which goes or comes, in the place of `before`.
    pub fn push(&mut self, row: u32, deleted: bool, before: Option<u32>) {
        self.rows.push(row);
        self.deleted.push(deleted);
        self.before.push(before);
    }

    /// Others after these.
    pub fn extend(&mut self, others: Self) {
        self.rows.extend(others.rows);
        self.deleted.extend(others.deleted);
        self.before.extend(others.before);
    }
}

/// How the rows of one sink are stored.
pub struct PieceForm {
    columns: SchemaRef,
    stored: Fields,
    /// Whether what the rows were before is kept.
    keeps_before: bool,
}

/// What a piece says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PieceNote {
    /// When its rows were made, microseconds since 1970.
    pub made_us: Option<i64>,
    /// Bytes of all pieces that were stored before.
    pub bytes_before: Option<u64>,
}

impl PieceForm {
    /// Of a sink's columns.
    pub fn new(columns: &SchemaRef, keeps_before: bool) -> Self {
        let mut stored: Vec<_> = columns.fields().iter().cloned().collect();
        stored.push(Arc::new(Field::new(DELETED, DataType::Boolean, false)));
        if keeps_before {
            stored.push(Arc::new(Field::new(BEFORE, DataType::Struct(images(columns)), true)));
        }
        Self { columns: columns.clone(), stored: stored.into(), keeps_before }
    }

    /// The chosen rows of a batch.
    pub fn rows(&self, batch: &RecordBatch, chosen: Chosen) -> Result<SinkRows> {
        let before = match self.keeps_before {
            true => {
                let indices = UInt32Array::from(chosen.before);
                let nulls = indices.nulls().cloned();
                let fields = images(&self.columns);
                // Columns may be NOT NULL, and are null where there is no row.
                let nullable = RecordBatch::try_new(Schema::new(fields.clone()).into(), batch.columns().to_vec())?;
                let images = take_record_batch(&nullable, &indices)?;
                Some(StructArray::try_new(fields, images.columns().to_vec(), nulls)?)
            }
            false => None,
        };
        let rows = take_record_batch(batch, &UInt32Array::from(chosen.rows))?;
        let rows = RecordBatch::try_new(self.columns.clone(), rows.columns().to_vec())?;
        Ok(SinkRows { rows, deleted: BooleanArray::from(chosen.deleted), before })
    }

    /// A piece of these rows, which were made at `made_us`, microseconds since 1970.
    pub fn write(&self, piece: &SinkRows, made_us: i64, bytes_before: u64) -> Result<Vec<u8>> {
        let mut columns: Vec<ArrayRef> = compact_views(&piece.rows)?.columns().to_vec();
        columns.push(Arc::new(piece.deleted.clone()));
        if let Some(before) = &piece.before {
            let images = RecordBatch::try_new(Schema::new(before.fields().clone()).into(), before.columns().to_vec())?;
            let images = compact_views(&images)?.columns().to_vec();
            columns.push(Arc::new(StructArray::try_new(before.fields().clone(), images, before.nulls().cloned())?));
        }
        let note = [(MADE_US, made_us.to_string()), (BYTES_BEFORE, bytes_before.to_string())];
        let metadata: HashMap<String, String> = note.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        let schema = Arc::new(Schema::new_with_metadata(self.stored.clone(), metadata));
        let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
        writer.write(&RecordBatch::try_new(schema, columns)?)?;
        Ok(writer.into_inner()?)
    }
}

/// The sink's columns as they are in images: NULL where there is none.
fn images(columns: &SchemaRef) -> Fields {
    columns.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect()
}

impl SinkRows {
    /// Rows of a stored piece.
    ///
    /// # Errors
    /// XX001 if it is none.
    pub fn read(piece: &[u8]) -> Result<Self> {
        let mut reader = StreamReader::try_new(Cursor::new(piece), None)?;
        let batch = reader.next().ok_or_else(|| corrupt("is empty"))??;
        let schema = batch.schema();
        let last = schema.fields().len().checked_sub(1).ok_or_else(|| corrupt("has no columns"))?;
        // A column of the user's may have either name, but it is not the last.
        let (visible, before) = match schema.field(last).name().as_str() {
            DELETED => (last, None),
            BEFORE if last > 0 => {
                let images = batch.column(last).as_struct_opt();
                (last - 1, Some(images.ok_or_else(|| corrupt("does not say what its rows were before"))?.clone()))
            }
            _ => return Err(corrupt("has no column for what becomes of its rows")),
        };
        let fields: Fields = schema.fields().iter().take(visible).cloned().collect();
        let columns = batch.columns()[..visible].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(Schema::new(fields).into(), columns, &options)?;
        let deleted = batch.column(visible).as_boolean_opt().ok_or_else(|| corrupt("does not say which rows go"))?;
        Ok(Self { rows, deleted: deleted.clone(), before })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.deleted.len()
    }

    /// `length` of them from `offset` on.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        Self {
            rows: self.rows.slice(offset, length),
            deleted: self.deleted.slice(offset, length),
            before: self.before.as_ref().map(|b| b.slice(offset, length)),
        }
    }

    /// All rows of several, in order; `None` of nothing.
    pub fn concat(parts: &[Self]) -> Result<Option<Self>> {
        let Some(first) = parts.first() else { return Ok(None) };
        if parts.len() == 1 {
            return Ok(Some(first.clone()));
        }
        let rows = concat_batches(&first.rows.schema(), parts.iter().map(|p| &p.rows))?;
        let deleted: Vec<&dyn Array> = parts.iter().map(|p| &p.deleted as &dyn Array).collect();
        let deleted = concat(&deleted)?.as_boolean().clone();
        let before = match parts.iter().find_map(|p| p.before.as_ref()) {
            None => None,
            Some(known) => {
                let images = |p: &Self| match &p.before {
                    Some(images) => Arc::new(images.clone()) as ArrayRef,
                    None => new_null_array(known.data_type(), p.len()),
                };
                let all: Vec<ArrayRef> = parts.iter().map(images).collect();
                let all: Vec<&dyn Array> = all.iter().map(|a| a.as_ref()).collect();
                Some(concat(&all)?.as_struct().clone())
            }
        };
        Ok(Some(Self { rows, deleted, before }))
    }
}

impl PieceNote {
    /// That of a stored piece, whose rows are not looked at.
    ///
    /// # Errors
    /// XX001 if it is none.
    pub fn read(piece: &[u8]) -> Result<Self> {
        let schema = StreamReader::try_new(Cursor::new(piece), None)?.schema();
        let text = |key: &str| schema.metadata().get(key);
        Ok(Self {
            made_us: text(MADE_US).and_then(|t| t.parse().ok()),
            bytes_before: text(BYTES_BEFORE).and_then(|t| t.parse().ok()),
        })
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, format!("a piece of a sink's outbox {what}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};

    use super::*;

    fn batch(ids: &[i64], names: &[&str]) -> RecordBatch {
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("__before", DataType::Utf8View, true)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids.to_vec())),
            Arc::new(names.iter().map(|n| Some(*n)).collect::<StringViewArray>()),
        ];
        RecordBatch::try_new(Schema::new(fields).into(), columns).unwrap()
    }

    /// As servers wrote it that did not keep what was before.
    fn older(rows: &RecordBatch, deleted: Vec<bool>) -> Vec<u8> {
        let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(DELETED, DataType::Boolean, false)));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(BooleanArray::from(deleted)));
        let batch = RecordBatch::try_new(Schema::new(fields).into(), columns).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn before(rows: &SinkRows) -> Vec<Option<i64>> {
        let Some(images) = &rows.before else { return vec![None; rows.len()] };
        let ids = images.column(0).as_primitive::<arrow::datatypes::Int64Type>();
        (0..images.len()).map(|i| images.is_valid(i).then(|| ids.value(i))).collect()
    }

    #[test]
    fn rows_come_back_with_what_they_were_before() {
        let rows = batch(&[1, 2, 3], &["a", "a text that is longer than a view holds", "c"]);
        let form = PieceForm::new(&rows.schema(), true);
        let chosen = Chosen { rows: vec![2, 0], deleted: vec![false, true], before: vec![Some(1), None] };
        let piece = form.write(&form.rows(&rows, chosen).unwrap(), 5_000_000, 77).unwrap();
        let note = PieceNote { made_us: Some(5_000_000), bytes_before: Some(77) };
        assert_eq!(PieceNote::read(&piece).unwrap(), note);
        let newer = SinkRows::read(&piece).unwrap();
        assert_eq!(newer.rows, batch(&[3, 1], &["c", "a"]));
        assert_eq!((newer.deleted.value(0), newer.deleted.value(1)), (false, true));
        assert_eq!(before(&newer), [Some(2), None]);

        let piece = older(&rows, vec![false, false, true]);
        assert_eq!(PieceNote::read(&piece).unwrap(), PieceNote::default());
        let older = SinkRows::read(&piece).unwrap();
        assert_eq!(older.rows, rows);
        assert!(older.before.is_none() && older.deleted.value(2));

        let both = SinkRows::concat(&[older, newer.slice(0, 1)]).unwrap().unwrap();
        assert_eq!(both.rows, batch(&[1, 2, 3, 3], &["a", "a text that is longer than a view holds", "c", "c"]));
        assert_eq!(before(&both), [None, None, None, Some(2)]);
    }

    #[test]
    fn a_piece_holds_its_own_text_alone() {
        let names: Vec<String> = (0..1000).map(|i| format!("a text that is longer than a view holds: {i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ids: Vec<i64> = (0..1000).collect();
        let rows = batch(&ids, &names);
        let form = PieceForm::new(&rows.schema(), true);
        let all =
            Chosen { rows: (0..1000).collect(), deleted: vec![false; 1000], before: (0..1000).map(Some).collect() };
        let all = form.rows(&rows, all).unwrap();
        let whole = form.write(&all, 0, 0).unwrap().len();
        let part = form.write(&all.slice(500, 10), 0, 0).unwrap();
        assert!(part.len() < whole / 10, "{} of {whole} bytes", part.len());
        assert_eq!(SinkRows::read(&part).unwrap().rows, rows.slice(500, 10));
    }
}
