//! Indexes of a relation: where its rows with given values of some columns are.
//!
//! An entry's key is the index's columns as [`KeyCodec`] writes them, so that entries lie in the order of the values and NULLs
//! last, and behind them what tells the row from others:
//!
//! | layout of the relation | behind the columns | value |
//! |---|---|---|
//! | keyed, counted | the row's key | nothing |
//! | segments | the row's id (i64, big endian) | the row ([`RowCodec`]), for it cannot be read alone where it is |
//!
//! Format version 1, as of the codecs. An index is kept by whoever writes its relation, in the same epoch.

use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use super::relation::repeat;
use super::segments::{self, RowId};
use super::{ByteRows, KeyCodec, Layout, Level, Relation, RowCodec, Scan, Snapshot, State, TableId, successor};
use crate::error::{Error, Result, sqlstate};

/// Rows that a scan reads at once: few at first, for most who ask want few.
const FIRST_ROWS: usize = 128;
const SCAN_ROWS: usize = 8192;
/// First byte of a NULL in a key.
const NULL: u8 = 0xff;

/// A range of stored keys.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The index of one relation by some of its columns.
#[derive(Debug, Clone)]
pub struct Index {
    table: TableId,
    relation: Arc<Relation>,
    columns: Vec<usize>,
    key: KeyCodec,
    /// For rows that stand in the index itself.
    rows: Option<RowCodec>,
}

impl Index {
    /// The index of a relation by the columns at these positions, with its entries in `table`.
    ///
    /// # Errors
    /// 0A000 if a column has a type that cannot be a key.
    pub fn new(table: TableId, relation: Arc<Relation>, columns: Vec<usize>) -> Result<Self> {
        let schema = relation.schema();
        let types = |columns: &mut dyn Iterator<Item = usize>| -> Vec<DataType> {
            columns.map(|c| schema.field(c).data_type().clone()).collect()
        };
        let key = KeyCodec::new(&types(&mut columns.iter().copied()))?;
        let rows = match relation.layout() {
            Layout::Segments => Some(RowCodec::new(&types(&mut (0..schema.fields().len())))?),
            Layout::Keyed(_) | Layout::Counted => None,
        };
        Ok(Self { table, relation, columns, key, rows })
    }

    /// Where its entries are.
    pub fn table(&self) -> TableId {
        self.table
    }

    /// Positions of its columns in the relation.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The indexed relation.
    pub fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// Follows changes that the relation has just taken in the open epoch, as [`Relation::apply`] was given them.
    ///
    /// # Errors
    /// As [`Relation::apply`].
    pub fn apply(&self, state: &mut State, batch: &RecordBatch, weights: Option<&Int64Array>) -> Result<()> {
        match self.relation.layout() {
            Layout::Segments => {
                let batch = match weights {
                    Some(weights) => repeat(batch, weights.values().iter().copied())?,
                    None => batch.clone(),
                };
                let end = *state.ordinal_mut(self.relation.table());
                let first = RowId::new(state.epoch(), end.saturating_sub(batch.num_rows() as u32)).as_i64();
                let ids: Vec<i64> = (first..).take(batch.num_rows()).collect();
                self.put_rows(state, &batch, &ids)
            }
            Layout::Keyed(_) => {
                let entries = self.entries(batch, &self.relation.keys(batch)?)?;
                let Some(weights) = weights else {
                    state.write_batch(self.table, &entries, |_| Some(b""));
                    return Ok(());
                };
                // An update that leaves the columns as they are changes nothing here.
                let order = entries.sort_permutation();
                let mut changed = ByteRows::with_capacity(entries.len(), entries.bytes());
                let mut comes = Vec::new();
                for same in order.chunk_by(|a, b| entries.get(*a as usize) == entries.get(*b as usize)) {
                    let net: i64 = same.iter().map(|i| weights.value(*i as usize)).sum();
                    if net != 0 {
                        changed.push(entries.get(same[0] as usize));
                        comes.push(net > 0);
                    }
                }
                state.write_batch(self.table, &changed, |i| comes[i].then_some(b"".as_slice()));
                Ok(())
            }
            Layout::Counted => {
                // How often a row is there stands in the relation; here only whether it is.
                let keys = self.relation.keys(batch)?;
                let entries = self.entries(batch, &keys)?;
                let found = self.relation.current(state, &keys)?;
                state.write_batch(self.table, &entries, |i| found.get(i).map(|_| b"".as_slice()));
                Ok(())
            }
        }
    }

    /// Makes the entries of all rows that the relation has in the open epoch's view. `check` is called between batches.
    ///
    /// # Errors
    /// Those of the store, and of `check`.
    pub fn build(&self, state: &mut State, check: impl Fn(&State) -> Result<()>) -> Result<()> {
        if self.rows.is_some() {
            let mut after = None;
            loop {
                let (table, schema) = (self.relation.table(), self.relation.schema());
                let next = segments::scan_state(state, table, schema, None, after, Level::Open)?.next();
                let Some(segment) = next.transpose()? else { return Ok(()) };
                self.put_rows(state, &segment.batch, segment.row_ids.values())?;
                let Some(last) = segment.row_ids.values().last() else { return Ok(()) };
                after = Some(RowId::from_i64(*last));
                check(state)?;
            }
        }
        let mut position = None;
        loop {
            let (batches, reached) = self.relation.read(state, position.as_ref(), SCAN_ROWS, Level::Open)?;
            for batch in &batches {
                let entries = self.entries(batch, &self.relation.keys(batch)?)?;
                state.write_batch(self.table, &entries, |_| Some(b""));
            }
            check(state)?;
            match reached {
                Some(reached) => position = Some(reached),
                None => return Ok(()),
            }
        }
    }

    /// Values of its columns that two rows have in the open epoch's view, as `(a, b)=(1, 2)`; rows with a NULL do not count.
    ///
    /// # Errors
    /// Those of the store.
    pub fn duplicate(&self, state: &State) -> Result<Option<String>> {
        let mut scan = state.scan(self.table, Bound::Unbounded, Bound::Unbounded, Level::Open);
        let mut before: Vec<u8> = Vec::new();
        while let Some((key, _)) = scan.next_row()? {
            let columns = &key[..self.key.prefix_len(key)?];
            if columns == before.as_slice() && !before.is_empty() {
                let decoded = self.key.decode([columns])?;
                if decoded.iter().all(|c| c.is_valid(0)) {
                    return Ok(Some(self.describe(&decoded, 0)));
                }
            }
            before.clear();
            before.extend_from_slice(columns);
        }
        Ok(None)
    }

    /// The values of its columns in a row, as PostgreSQL writes them in details: `(a, b)=(1, 2)`.
    pub fn describe_row(&self, rows: &RecordBatch, row: usize) -> String {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|c| rows.column(*c).clone()).collect();
        self.describe(&columns, row)
    }

    fn describe(&self, columns: &[ArrayRef], row: usize) -> String {
        let options = FormatOptions::default().with_null("null");
        let schema = self.relation.schema();
        let names: Vec<&str> = self.columns.iter().map(|c| schema.field(*c).name().as_str()).collect();
        let value = |c: &ArrayRef| Some(ArrayFormatter::try_new(c, &options).ok()?.value(row).to_string());
        let values: Vec<String> = columns.iter().filter_map(value).collect();
        format!("({})=({})", names.join(", "), values.join(", "))
    }

    /// The values of its columns in each row as bytes; `None` for a row with a NULL in one, which equals no other.
    ///
    /// # Errors
    /// XX000 if the rows are not of the relation.
    pub fn values(&self, rows: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let columns = self.columns_of(rows);
        let keys = self.key.encode(&columns)?;
        let value = |i: usize| columns.iter().all(|c| c.is_valid(i)).then(|| keys.get(i).to_vec());
        Ok((0..rows.num_rows()).map(value).collect())
    }

    /// Whether a row has these values ([`Index::values`]) in the open epoch's view.
    ///
    /// # Errors
    /// Those of the store.
    pub fn is_taken(&self, state: &State, values: &[u8]) -> Result<bool> {
        let end = successor(values);
        let mut scan = state.scan(self.table, Bound::Included(values), as_slice(&end), Level::Open);
        Ok(scan.next_row()?.is_some())
    }

    /// The keys of the rows that have these values, as of a snapshot; of a relation that is not in segments.
    ///
    /// # Errors
    /// Those of the store.
    pub fn row_keys(&self, snapshot: &Arc<Snapshot>, values: &[u8]) -> Result<ByteRows> {
        let end = successor(values);
        let mut scan = snapshot.scan(self.table, Bound::Included(values), as_slice(&end));
        let mut keys = ByteRows::new();
        while let Some((key, _)) = scan.next_row()? {
            keys.push(&key[values.len()..]);
        }
        Ok(keys)
    }

    /// The rows whose entries are in these ranges ([`key_ranges`]), with the relation's columns, as of a snapshot.
    pub fn scan(&self, snapshot: &Arc<Snapshot>, ranges: Vec<KeyRange>) -> IndexScan {
        IndexScan {
            index: self.clone(),
            snapshot: snapshot.clone(),
            ranges: ranges.into_iter(),
            current: None,
            rows: FIRST_ROWS,
        }
    }

    /// The part of its entries that these ranges hold, from 0 to 1, about; `None` if they are too few to tell.
    pub fn share(&self, snapshot: &Snapshot, ranges: &[KeyRange]) -> Option<f64> {
        let store = snapshot.store();
        let all = store.size_of_table(self.table);
        let start = |bound: &Bound<Vec<u8>>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => self.table.store_key(key),
            Bound::Unbounded => self.table.store_key(b""),
        };
        let end = |bound: &Bound<Vec<u8>>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => self.table.store_key(key),
            Bound::Unbounded => self.table.end(),
        };
        let held: u64 = ranges.iter().map(|(from, to)| store.size_between(&start(from), &end(to))).sum();
        (all > 0).then(|| held as f64 / all as f64)
    }

    fn columns_of(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.columns.iter().map(|c| rows.column(*c).clone()).collect()
    }

    /// The keys of the entries of rows with these keys.
    fn entries(&self, rows: &RecordBatch, keys: &ByteRows) -> Result<ByteRows> {
        let values = self.key.encode(&self.columns_of(rows))?;
        let mut entries = ByteRows::with_capacity(keys.len(), values.bytes() + keys.bytes());
        (0..keys.len()).for_each(|i| entries.push_pair(values.get(i), keys.get(i)));
        Ok(entries)
    }

    fn put_rows(&self, state: &mut State, rows: &RecordBatch, ids: &[i64]) -> Result<()> {
        let Some(codec) = &self.rows else { return Err(Error::internal("an index keeps no rows")) };
        let keys: Vec<[u8; 8]> = ids.iter().map(|id| id.to_be_bytes()).collect();
        let keys: ByteRows = keys.iter().map(<[u8; 8]>::as_slice).collect();
        let entries = self.entries(rows, &keys)?;
        let values = codec.encode(rows.columns())?;
        state.put_batch(self.table, &entries, &values);
        Ok(())
    }

    /// The rows of some entries.
    fn decode(&self, snapshot: &Snapshot, keys: &ByteRows, values: &ByteRows) -> Result<RecordBatch> {
        if let Some(codec) = &self.rows {
            let columns = codec.decode(values.iter())?;
            let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
            return Ok(RecordBatch::try_new_with_options(self.relation.schema().clone(), columns, &options)?);
        }
        let mut row_keys = ByteRows::with_capacity(keys.len(), keys.bytes());
        for key in keys.iter() {
            row_keys.push(&key[self.key.prefix_len(key)?..]);
        }
        let rows = self.relation.get(snapshot, &row_keys)?;
        if rows.num_rows() < keys.len() {
            return Err(Error::new(sqlstate::DATA_CORRUPTED, "an index has an entry of a row that is not there"));
        }
        Ok(rows)
    }
}

/// Rows that an index finds, in batches. Ends with the first error.
pub struct IndexScan {
    index: Index,
    snapshot: Arc<Snapshot>,
    ranges: std::vec::IntoIter<KeyRange>,
    current: Option<Scan<'static>>,
    /// How many rows the next batch has at most.
    rows: usize,
}

impl IndexScan {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let (mut keys, mut values) = (ByteRows::new(), ByteRows::new());
        while keys.len() < self.rows {
            let Some(scan) = &mut self.current else {
                let Some((from, to)) = self.ranges.next() else { break };
                self.current = Some(self.snapshot.scan(self.index.table, as_slice(&from), as_slice(&to)));
                continue;
            };
            let wanted = self.rows - keys.len();
            if scan.fill(&mut keys, &mut values, wanted)? < wanted {
                self.current = None;
            }
        }
        self.rows = (self.rows * 4).min(SCAN_ROWS);
        if keys.is_empty() { Ok(None) } else { self.index.decode(&self.snapshot, &keys, &values).map(Some) }
    }
}

impl Iterator for IndexScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch().transpose();
        if matches!(batch, Some(Err(_)) | None) {
            self.current = None;
            self.ranges = Vec::new().into_iter();
        }
        batch
    }
}

/// The ranges of keys that begin with the values in a row of `equal`, one range for each of the `rows`, and whose next column
/// lies between `lower` and `upper`, each a value of one row. In order, none twice. With bounds, rows with a NULL in that
/// column are left out.
///
/// # Errors
/// 0A000 for types that cannot be a key.
pub fn key_ranges(
    equal: &[ArrayRef],
    rows: usize,
    bounds: Option<(Bound<ArrayRef>, Bound<ArrayRef>)>,
) -> Result<Vec<KeyRange>> {
    let encoded = |columns: &[ArrayRef]| -> Result<ByteRows> {
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        KeyCodec::new(&types)?.encode(columns)
    };
    let prefixes: ByteRows = match equal.is_empty() {
        true => (0..rows).map(|_| b"".as_slice()).collect(),
        false => encoded(equal)?,
    };
    let value = |bound: &Bound<ArrayRef>| -> Result<Bound<Vec<u8>>> {
        let bytes = |value: &ArrayRef| Ok::<_, Error>(encoded(std::slice::from_ref(value))?.get(0).to_vec());
        Ok(match bound {
            Bound::Included(v) => Bound::Included(bytes(v)?),
            Bound::Excluded(v) => Bound::Excluded(bytes(v)?),
            Bound::Unbounded => Bound::Unbounded,
        })
    };
    let bounds = match &bounds {
        Some((lower, upper)) => Some((value(lower)?, value(upper)?)),
        None => None,
    };
    let order = prefixes.sort_permutation();
    let mut ranges: Vec<KeyRange> = Vec::with_capacity(order.len());
    for same in order.chunk_by(|a, b| prefixes.get(*a as usize) == prefixes.get(*b as usize)) {
        let prefix = prefixes.get(same[0] as usize);
        let with = |value: &[u8]| [prefix, value].concat();
        let Some((lower, upper)) = &bounds else {
            ranges.push((Bound::Included(prefix.to_vec()), successor(prefix)));
            continue;
        };
        let from = match lower {
            Bound::Included(v) => Bound::Included(with(v)),
            Bound::Excluded(v) => match successor(&with(v)) {
                Bound::Excluded(key) | Bound::Included(key) => Bound::Included(key),
                Bound::Unbounded => continue,
            },
            Bound::Unbounded => Bound::Included(prefix.to_vec()),
        };
        let to = match upper {
            Bound::Included(v) => successor(&with(v)),
            Bound::Excluded(v) => Bound::Excluded(with(v)),
            Bound::Unbounded => Bound::Excluded(with(&[NULL])),
        };
        ranges.push((from, to));
    }
    Ok(ranges)
}

/// A bound that lends its key.
pub fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key.as_slice()),
        Bound::Excluded(key) => Bound::Excluded(key.as_slice()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests;
