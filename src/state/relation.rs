//! A relation's rows on disk: one of three layouts, the same for tables, continuous views and the server's own histories.
//!
//! | layout | key | value | for |
//! |---|---|---|---|
//! | segments | row position | Arrow IPC of many rows | rows that only come |
//! | keyed | the key columns | the other columns | rows with a unique key |
//! | counted | all columns | how often the row is there (i64, big endian) | rows without a key |

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};

use super::segments::{self, RowId, Segment, SegmentScan};
use super::{ByteRows, KeyCodec, Level, RowCodec, Scan, Snapshot, State, TableId};
use crate::error::{Error, Result, sqlstate};

/// Rows in a batch that a scan gives.
const SCAN_ROWS: usize = 8192;

/// How a relation's rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Column segments: rows only come, and have no key.
    Segments,
    /// One row for each value of these columns; with none of them there is a single row.
    Keyed(Vec<usize>),
    /// The whole row is the key, with a count.
    Counted,
}

/// Where a scan in key order stands: all rows up to and with it were given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanPosition {
    Key(Vec<u8>),
    /// Row id of the last row.
    Row(i64),
}

/// The stored rows of one table or view.
#[derive(Debug, Clone)]
pub struct Relation {
    table: TableId,
    schema: SchemaRef,
    layout: Layout,
    key: KeyCodec,
    value: RowCodec,
    /// Columns that the value holds: those that the key does not hold exactly.
    value_columns: Vec<usize>,
}

impl Relation {
    /// The rows of `schema` in `table`.
    ///
    /// # Errors
    /// 0A000 if a column has a type that cannot be stored, or be a key.
    pub fn new(table: TableId, schema: SchemaRef, layout: Layout) -> Result<Self> {
        let types = |columns: &[usize]| -> Vec<DataType> {
            columns.iter().map(|c| schema.field(*c).data_type().clone()).collect()
        };
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let (key, value_columns) = match &layout {
            Layout::Segments => (KeyCodec::new(&[])?, Vec::new()),
            Layout::Keyed(columns) => {
                let exact = |c: &usize| columns.contains(c) && !has_float(schema.field(*c).data_type());
                (KeyCodec::new(&types(columns))?, all.iter().copied().filter(|c| !exact(c)).collect())
            }
            Layout::Counted => (KeyCodec::for_rows(&types(&all))?, Vec::new()),
        };
        let value = RowCodec::new(&types(&value_columns))?;
        Ok(Self { table, schema, layout, key, value, value_columns })
    }

    /// Where its rows are.
    pub fn table(&self) -> TableId {
        self.table
    }

    /// Columns of the stored rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How the rows are kept.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Columns of the key; none for segments and counted rows.
    pub fn key_columns(&self) -> &[usize] {
        match &self.layout {
            Layout::Keyed(columns) => columns,
            Layout::Segments | Layout::Counted => &[],
        }
    }

    /// The keys of rows with this relation's columns.
    pub fn keys(&self, batch: &RecordBatch) -> Result<ByteRows> {
        let columns: Vec<ArrayRef> = match &self.layout {
            Layout::Keyed(key) => key.iter().map(|c| batch.column(*c).clone()).collect(),
            Layout::Segments | Layout::Counted => batch.columns().to_vec(),
        };
        self.encode_key(&columns, batch.num_rows())
    }

    /// The keys of values of the key columns.
    pub fn encode_key(&self, columns: &[ArrayRef], rows: usize) -> Result<ByteRows> {
        match columns.is_empty() {
            true => Ok((0..rows).map(|_| b"".as_slice()).collect()),
            false => self.key.encode(columns),
        }
    }

    /// The stored values of keyed rows.
    pub fn values(&self, batch: &RecordBatch) -> Result<ByteRows> {
        if self.value_columns.is_empty() {
            return Ok((0..batch.num_rows()).map(|_| b"".as_slice()).collect());
        }
        let columns: Vec<ArrayRef> = self.value_columns.iter().map(|c| batch.column(*c).clone()).collect();
        self.value.encode(&columns)
    }

    /// Applies consolidated changes to the open epoch; returns by how many rows the relation grew. `weights` of `None`
    /// means that every row comes once.
    ///
    /// # Errors
    /// XX000 if a row goes that is not there: the changes are not those of this relation.
    pub fn apply(&self, state: &mut State, batch: &RecordBatch, weights: Option<&Int64Array>) -> Result<i64> {
        match &self.layout {
            Layout::Segments => self.append(state, batch, weights),
            Layout::Keyed(_) => self.apply_keyed(state, batch, weights),
            Layout::Counted => self.apply_counted(state, batch, weights),
        }
    }

    fn append(&self, state: &mut State, batch: &RecordBatch, weights: Option<&Int64Array>) -> Result<i64> {
        let batch = match weights {
            None => batch.clone(),
            Some(weights) => {
                if weights.values().iter().any(|w| *w < 0) {
                    return Err(Error::internal("a row is taken from an append-only relation"));
                }
                repeat(batch, weights.values().iter().copied())?
            }
        };
        segments::append(state, self.table, &batch)?;
        Ok(batch.num_rows() as i64)
    }

    fn apply_keyed(&self, state: &mut State, batch: &RecordBatch, weights: Option<&Int64Array>) -> Result<i64> {
        let keys = self.keys(batch)?;
        let values = self.values(batch)?;
        let Some(weights) = weights else {
            state.put_batch(self.table, &keys, &values);
            return Ok(keys.len() as i64);
        };
        // The old row of an update goes before the new one comes, in whichever order they are given. Equal keys lie
        // together once they are sorted, and sorted is how the write set wants them.
        let order = keys.sort_permutation();
        let mut out_keys = ByteRows::with_capacity(keys.len(), keys.bytes());
        let mut rows: Vec<Option<usize>> = Vec::with_capacity(keys.len());
        for same in order.chunk_by(|a, b| keys.get(*a as usize) == keys.get(*b as usize)) {
            out_keys.push(keys.get(same[0] as usize));
            rows.push(same.iter().rev().map(|i| *i as usize).find(|i| weights.value(*i) > 0));
        }
        state.write_batch(self.table, &out_keys, |i| rows[i].map(|row| values.get(row)));
        Ok(weights.values().iter().sum())
    }

    fn apply_counted(&self, state: &mut State, batch: &RecordBatch, weights: Option<&Int64Array>) -> Result<i64> {
        let all = self.keys(batch)?;
        let mut net: HashMap<&[u8], i64, foldhash::fast::RandomState> = HashMap::default();
        for i in 0..all.len() {
            *net.entry(all.get(i)).or_default() += weights.map_or(1, |w| w.value(i));
        }
        net.retain(|_, weight| *weight != 0);
        let (keys, weights): (Vec<&[u8]>, Vec<i64>) = net.into_iter().unzip();
        let keys: ByteRows = keys.into_iter().collect();
        let found = state.multi_get(self.table, &keys)?;
        let mut counts: Vec<Option<[u8; 8]>> = Vec::with_capacity(weights.len());
        for (i, weight) in weights.iter().enumerate() {
            let count = found.get(i).map_or(Ok(0), read_count)? + weight;
            match count {
                0 => counts.push(None),
                1.. => counts.push(Some(count.to_be_bytes())),
                _ => return Err(Error::internal("a row goes that is not there")),
            }
        }
        state.write_batch(self.table, &keys, |i| counts[i].as_ref().map(|c| c.as_slice()));
        Ok(weights.iter().sum())
    }

    /// Changes by key as what they do to keyed rows: a row that comes takes the place of the one that is there, one that
    /// goes and is not there changes nothing.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn replacing(
        &self,
        state: &State,
        batch: &RecordBatch,
        weights: Option<&Int64Array>,
    ) -> Result<(RecordBatch, Int64Array)> {
        let (keys, values) = (self.keys(batch)?, self.values(batch)?);
        let order = keys.sort_permutation();
        let by_key: Vec<&[u32]> = order.chunk_by(|a, b| keys.get(*a as usize) == keys.get(*b as usize)).collect();
        let distinct: ByteRows = by_key.iter().map(|rows| keys.get(rows[0] as usize)).collect();
        let stored = self.current(state, &distinct)?;
        let mut gone: Vec<(&[u8], &[u8])> = Vec::new();
        let mut here: Vec<u32> = Vec::new();
        for (i, rows) in by_key.iter().enumerate() {
            let comes = rows.iter().rev().find(|row| weights.is_none_or(|w| w.value(**row as usize) > 0));
            let is = |row: &u32| stored.get(i) == Some(values.get(*row as usize));
            match (stored.get(i), comes) {
                (Some(_), Some(row)) if is(row) => {}
                (Some(_), None) if !rows.iter().any(is) => {}
                (before, comes) => {
                    gone.extend(before.map(|value| (distinct.get(i), value)));
                    here.extend(comes);
                }
            }
        }
        let after = take_record_batch(batch, &UInt32Array::from(here))?;
        let before = self.decode(&gone)?;
        let options = RecordBatchOptions::new().with_row_count(Some(before.num_rows()));
        let before = RecordBatch::try_new_with_options(after.schema(), before.columns().to_vec(), &options)?;
        let weights = std::iter::repeat_n(-1, before.num_rows()).chain(std::iter::repeat_n(1, after.num_rows()));
        let weights = Int64Array::from_iter_values(weights);
        Ok((concat_batches(&after.schema(), [&before, &after])?, weights))
    }

    /// Rows that come in order, each of which takes the place of the one with its key, as what they do to keyed rows; where
    /// `deletes` is true only the key counts, whose row goes. Nothing for rows that are there as they come.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn upserting(
        &self,
        state: &State,
        batch: &RecordBatch,
        deletes: Option<&BooleanArray>,
    ) -> Result<(RecordBatch, Int64Array)> {
        let keys = self.keys(batch)?;
        let order = keys.sort_permutation();
        let by_key: Vec<&[u32]> = order.chunk_by(|a, b| keys.get(*a as usize) == keys.get(*b as usize)).collect();
        // The last of each key decides.
        let last: Vec<u32> = by_key.iter().filter_map(|rows| rows.iter().copied().max()).collect();
        let is_gone = |row: u32| deletes.is_some_and(|d| d.is_valid(row as usize) && d.value(row as usize));
        let distinct: ByteRows = last.iter().map(|row| keys.get(*row as usize)).collect();
        let stored = self.current(state, &distinct)?;
        let coming: Vec<u32> = last.iter().copied().filter(|row| !is_gone(*row)).collect();
        let rows = take_record_batch(batch, &UInt32Array::from(coming))?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), rows.columns().to_vec(), &options)?;
        let values = self.values(&rows)?;
        let mut gone: Vec<(&[u8], &[u8])> = Vec::new();
        let mut here: Vec<u32> = Vec::new();
        let mut next = 0;
        for (i, row) in last.iter().enumerate() {
            let comes = (!is_gone(*row)).then(|| {
                next += 1;
                next - 1
            });
            let is_new = comes.is_none_or(|at| stored.get(i) != Some(values.get(at)));
            if is_new {
                gone.extend(stored.get(i).map(|value| (distinct.get(i), value)));
                here.extend(comes.map(|at| at as u32));
            }
        }
        let before = self.decode(&gone)?;
        let after = take_record_batch(&rows, &UInt32Array::from(here))?;
        let weights = std::iter::repeat_n(-1, before.num_rows()).chain(std::iter::repeat_n(1, after.num_rows()));
        let weights = Int64Array::from_iter_values(weights);
        Ok((concat_batches(&self.schema, [&before, &after])?, weights))
    }

    /// All rows as of a snapshot, in key order, in batches.
    pub fn scan(&self, snapshot: &Arc<Snapshot>) -> Result<RelationScan> {
        self.scan_range(snapshot, Bound::Unbounded, Bound::Unbounded)
    }

    /// The rows whose keys are in a range; the whole relation for segments.
    pub fn scan_range(&self, snapshot: &Arc<Snapshot>, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<RelationScan> {
        let inner = match &self.layout {
            Layout::Segments => {
                ScanInner::Segments(segments::scan_snapshot(snapshot, self.table, &self.schema, None, None)?)
            }
            Layout::Keyed(_) | Layout::Counted => ScanInner::Entries(snapshot.scan(self.table, from, to)),
        };
        Ok(RelationScan { relation: self.clone(), inner })
    }

    /// The rows that epochs after `epoch` have appended, of a relation in segments, in order and with the epoch of each batch.
    ///
    /// # Errors
    /// XX000 for a relation in another layout, whose rows do not tell.
    pub fn appended_after(
        &self,
        snapshot: &Arc<Snapshot>,
        epoch: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, RecordBatch)>> + use<>> {
        if self.layout != Layout::Segments {
            return Err(Error::internal("rows by epoch are asked for of a relation that does not keep them so"));
        }
        let last = RowId::new(epoch, RowId::ROWS_PER_EPOCH_MAX - 1);
        let segments = segments::scan_snapshot(snapshot, self.table, &self.schema, None, Some(last))?;
        Ok(segments.flat_map(|segment| match segment {
            Ok(segment) => by_epoch(&segment).into_iter().map(Ok).collect(),
            Err(e) => vec![Err(e)],
        }))
    }

    /// The rows with these keys, as of a snapshot; keys without a row give none.
    pub fn get(&self, snapshot: &Snapshot, keys: &ByteRows) -> Result<RecordBatch> {
        let found = snapshot.multi_get(self.table, keys)?;
        let entries: Vec<(&[u8], &[u8])> =
            (0..keys.len()).filter_map(|i| found.get(i).map(|value| (keys.get(i), value))).collect();
        self.decode(&entries)
    }

    /// The stored values of these keys, as of a snapshot.
    pub fn stored(&self, snapshot: &Snapshot, keys: &ByteRows) -> Result<super::Found> {
        snapshot.multi_get(self.table, keys)
    }

    /// The stored values of these keys in the epoch loop's view.
    pub fn current(&self, state: &State, keys: &ByteRows) -> Result<super::Found> {
        state.multi_get(self.table, keys)
    }

    /// Writes one keyed row, or deletes it.
    pub fn put_value(&self, state: &mut State, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => state.put(self.table, key, value),
            None => state.delete(self.table, key),
        }
    }

    /// Removes the rows that epochs before `epoch` appended, of a relation in segments; those in one segment with younger
    /// rows stay. They are gone for readers of older epochs too.
    pub fn truncate_before(&self, state: &mut State, epoch: u64) {
        if self.layout == Layout::Segments {
            state.truncate_below(self.table, &RowId::new(epoch, 0).key());
        }
    }

    /// Writes keyed rows.
    pub fn put_values(&self, state: &mut State, keys: &ByteRows, values: &ByteRows) {
        state.put_batch(self.table, keys, values);
    }

    /// The next rows after `position`, at least `rows_min` of them if there are so many, in the epoch loop's view. Returns
    /// the batches and the position reached; `None` if these were the last.
    pub fn read(
        &self,
        state: &State,
        position: Option<&ScanPosition>,
        rows_min: usize,
        level: Level,
    ) -> Result<(Vec<RecordBatch>, Option<ScanPosition>)> {
        let mut batches = Vec::new();
        let mut rows = 0;
        if self.layout == Layout::Segments {
            let after = match position {
                Some(ScanPosition::Row(id)) => Some(RowId::from_i64(*id)),
                _ => None,
            };
            for segment in segments::scan_state(state, self.table, &self.schema, None, after, level)? {
                let segment = segment?;
                rows += segment.batch.num_rows();
                let last = segment.row_ids.values().last().copied();
                batches.push(segment.batch);
                if let Some(last) = last
                    && rows >= rows_min
                {
                    return Ok((batches, Some(ScanPosition::Row(last))));
                }
            }
            return Ok((batches, None));
        }
        let from = match position {
            Some(ScanPosition::Key(key)) => Bound::Excluded(key.as_slice()),
            _ => Bound::Unbounded,
        };
        let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for entry in state.scan(self.table, from, Bound::Unbounded, level) {
            entries.push(entry?);
            if entries.len() >= rows_min {
                break;
            }
        }
        let reached =
            if entries.len() >= rows_min { entries.last().map(|(k, _)| ScanPosition::Key(k.clone())) } else { None };
        for chunk in entries.chunks(SCAN_ROWS) {
            let chunk: Vec<(&[u8], &[u8])> = chunk.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
            batches.push(self.decode(&chunk)?);
        }
        Ok((batches, reached))
    }

    /// Which rows a scan that stands at `position` has passed. `None`: none of them, for new rows of segments come last.
    pub fn at_or_below(&self, batch: &RecordBatch, position: &ScanPosition) -> Result<Option<BooleanArray>> {
        match position {
            ScanPosition::Row(_) => Ok(None),
            ScanPosition::Key(reached) => {
                let keys = self.keys(batch)?;
                Ok(Some((0..keys.len()).map(|i| Some(keys.get(i) <= reached.as_slice())).collect()))
            }
        }
    }

    /// The rows of stored keys and values.
    fn decode(&self, entries: &[(&[u8], &[u8])]) -> Result<RecordBatch> {
        let rows = entries.len();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        if self.layout == Layout::Counted {
            let columns = if self.schema.fields().is_empty() {
                Vec::new()
            } else {
                self.key.decode(entries.iter().map(|(k, _)| *k))?
            };
            let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
            let counts = entries.iter().map(|(_, v)| read_count(v)).collect::<Result<Vec<_>>>()?;
            return repeat(&batch, counts.into_iter());
        }
        let key_columns = self.key_columns();
        let keys = match key_columns.is_empty() {
            true => Vec::new(),
            false => self.key.decode(entries.iter().map(|(k, _)| *k))?,
        };
        let values = match self.value_columns.is_empty() {
            true => Vec::new(),
            false => self.value.decode(entries.iter().map(|(_, v)| *v))?,
        };
        let columns = (0..self.schema.fields().len())
            .map(|c| {
                let in_value = self.value_columns.iter().position(|v| *v == c).map(|i| values[i].clone());
                let in_key = || key_columns.iter().position(|k| *k == c).map(|i| keys[i].clone());
                in_value.or_else(in_key)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::internal("a column is in neither key nor value"))?;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

/// Rows of a relation in batches. Ends with the first error.
pub struct RelationScan {
    relation: Relation,
    inner: ScanInner,
}

enum ScanInner {
    Segments(SegmentScan<'static>),
    Entries(Scan<'static>),
}

impl Iterator for RelationScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.inner {
            ScanInner::Segments(segments) => Some(segments.next()?.map(|segment| segment.batch)),
            ScanInner::Entries(entries) => {
                let (mut keys, mut values) = (ByteRows::new(), ByteRows::new());
                match entries.fill(&mut keys, &mut values, SCAN_ROWS) {
                    Ok(0) => None,
                    Ok(_) => {
                        let chunk: Vec<(&[u8], &[u8])> = keys.iter().zip(values.iter()).collect();
                        Some(self.relation.decode(&chunk))
                    }
                    Err(e) => Some(Err(e)),
                }
            }
        }
    }
}

/// The rows of a segment, which are in the order of their ids, epoch by epoch.
fn by_epoch(segment: &Segment) -> Vec<(u64, RecordBatch)> {
    let epoch_of = |id: &i64| RowId::from_i64(*id).epoch();
    let ids = segment.row_ids.values();
    let mut start = 0;
    let runs = ids.chunk_by(|a, b| epoch_of(a) == epoch_of(b)).map(|run| {
        let rows = segment.batch.slice(start, run.len());
        start += run.len();
        (epoch_of(&run[0]), rows)
    });
    runs.collect()
}

/// Each row as often as its count says.
pub(super) fn repeat(batch: &RecordBatch, counts: impl Iterator<Item = i64>) -> Result<RecordBatch> {
    let mut indices = Vec::with_capacity(batch.num_rows());
    let mut plain = true;
    for (i, count) in counts.enumerate() {
        plain &= count == 1;
        indices.extend(std::iter::repeat_n(i as u32, count.max(0) as usize));
    }
    if plain {
        return Ok(batch.clone());
    }
    Ok(take_record_batch(batch, &UInt32Array::from(indices))?)
}

fn read_count(bytes: &[u8]) -> Result<i64> {
    let bytes = bytes
        .try_into()
        .map_err(|_| Error::new(sqlstate::DATA_CORRUPTED, "a row's count in the data directory cannot be read"))?;
    Ok(i64::from_be_bytes(bytes))
}

fn has_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(item) => has_float(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_float(f.data_type())),
        _ => false,
    }
}
