//! One side of a join: its rows in the store by join key, in the cheapest layout that its properties allow.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{and, take_record_batch};
use arrow::datatypes::{DataType, Int64Type};

use super::rows_cache::{RowWrite, RowsCache};
use super::{CHUNK_ROWS, JoinSide};
use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec, RowCodec, State, TableId};
use crate::stream::cache_budget::Share;
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;
use crate::stream::operator::groups::Groups;

/// How a side's rows are stored. The value is always the row's weight and its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// At most one row a join key: join key -> row.
    Unique,
    /// (join key, rest of the stream key) -> row.
    Keyed,
    /// Nothing is taken back and there is no key: (join key, epoch, number in it) -> row.
    Log,
    /// (join key, the row itself) -> row, its weight read before it is written.
    Multiset,
}

enum Rows {
    One(CachedTable),
    Many(RowsCache),
}

/// The stored rows of one side.
pub(super) struct Side {
    pub layout: Layout,
    /// Positions of the join columns, in the order of the state key.
    key: Vec<usize>,
    /// Of these, the ones whose NULL matches nothing.
    not_null: Vec<usize>,
    key_codec: KeyCodec,
    /// Columns of the row key beyond the join key.
    row_key: Vec<usize>,
    row_key_codec: KeyCodec,
    row_codec: RowCodec,
    rows: Rows,
    /// Epoch and number of the last row of a log.
    sequence: (u64, u32),
}

/// An epoch's net changes of one side by join key.
pub(super) struct Changes {
    pub delta: Delta,
    pub groups: Groups,
}

/// Stored rows that have one of the keys that were looked up.
pub(super) struct Matches {
    /// Which of the keys each row has.
    pub keys: Vec<u32>,
    pub weights: Int64Array,
    pub columns: Vec<ArrayRef>,
}

impl Side {
    /// `key_order`: positions in the side's join columns in the order of the state key.
    pub fn new(spec: &JoinSide, key_order: &[usize], null_safe: &[bool], table: TableId) -> Result<Self> {
        let key: Vec<usize> = key_order.iter().map(|i| spec.key[*i]).collect();
        let not_null = key_order.iter().filter(|i| !null_safe[**i]).map(|i| spec.key[*i]).collect();
        let types = |columns: &[usize]| -> Vec<DataType> {
            columns.iter().map(|c| spec.schema.field(*c).data_type().clone()).collect()
        };
        let all: Vec<usize> = (0..spec.schema.fields().len()).collect();
        let (layout, row_key) = match &spec.stream_key {
            Some(stream_key) if stream_key.iter().all(|c| key.contains(c)) => (Layout::Unique, Vec::new()),
            Some(stream_key) => (Layout::Keyed, stream_key.iter().copied().filter(|c| !key.contains(c)).collect()),
            None if spec.append_only => (Layout::Log, Vec::new()),
            None => (Layout::Multiset, all.clone()),
        };
        let stored: Vec<DataType> = std::iter::once(DataType::Int64).chain(types(&all)).collect();
        Ok(Self {
            key_codec: KeyCodec::new(&types(&key))?,
            row_key_codec: match layout {
                Layout::Multiset => KeyCodec::for_rows(&types(&row_key))?,
                _ => KeyCodec::new(&types(&row_key))?,
            },
            row_codec: RowCodec::new(&stored)?,
            rows: match layout {
                Layout::Unique => Rows::One(CachedTable::new(table)),
                _ => Rows::Many(RowsCache::new(table, Share::default())),
            },
            layout,
            key,
            not_null,
            row_key,
            sequence: (0, 0),
        })
    }

    pub fn set_cache_bytes(&mut self, bytes: usize) {
        self.rows = match &self.rows {
            Rows::One(table) => Rows::One(CachedTable::with_bytes(table.table(), bytes)),
            Rows::Many(rows) => Rows::Many(RowsCache::new(rows.table(), Share::fixed(bytes))),
        };
    }

    pub fn table(&self) -> TableId {
        match &self.rows {
            Rows::One(table) => table.table(),
            Rows::Many(rows) => rows.table(),
        }
    }

    /// Net changes by join key, without the rows that can match nothing.
    pub fn gather(&self, delta: Delta) -> Result<Changes> {
        let mut matchable: Option<BooleanArray> = None;
        for column in &self.not_null {
            if let Some(nulls) = delta.batch.column(*column).logical_nulls().filter(|n| n.null_count() > 0) {
                let valid = BooleanArray::new(nulls.into_inner(), None);
                matchable = Some(match matchable {
                    Some(so_far) => and(&so_far, &valid)?,
                    None => valid,
                });
            }
        }
        let delta = match matchable {
            Some(mask) => delta.filter(&mask)?,
            None => delta,
        };
        let delta = if self.layout == Layout::Multiset { self.distinct(&delta)? } else { delta.consolidate()? };
        let key_columns: Vec<ArrayRef> = self.key.iter().map(|c| delta.batch.column(*c).clone()).collect();
        let groups = match self.key.is_empty() {
            true => Groups::single(delta.rows()),
            false => Groups::assign(&self.key_codec.encode(&key_columns)?),
        };
        Ok(Changes { delta, groups })
    }

    /// Each row once with its net weight, which is not zero.
    fn distinct(&self, delta: &Delta) -> Result<Delta> {
        let rows = Groups::assign(&self.row_key_codec.encode(delta.batch.columns())?);
        let mut net = vec![0; rows.len()];
        rows.of_row.iter().enumerate().for_each(|(i, row)| net[*row as usize] += delta.weight(i));
        let kept = || net.iter().enumerate().filter(|(_, weight)| **weight != 0);
        let indices = UInt32Array::from_iter_values(kept().map(|(row, _)| rows.first_row[row]));
        let batch = take_record_batch(&delta.batch, &indices)?;
        Ok(Delta::new(batch, Int64Array::from_iter_values(kept().map(|(_, weight)| *weight))))
    }

    /// Looks up the rows of each of `keys` and hands them out decoded, some thousand at a time.
    ///
    /// # Errors
    /// When the store cannot be read, or as `f`.
    pub fn matches(&mut self, state: &State, keys: &ByteRows, mut f: impl FnMut(&Matches) -> Result<()>) -> Result<()> {
        let Self { rows, row_codec, .. } = self;
        // Rows wait until there are enough of them to be decoded together.
        let mut waiting = ByteRows::new();
        let mut of_keys: Vec<u32> = Vec::new();
        let mut decode = |waiting: &mut ByteRows, of_keys: &mut Vec<u32>| {
            let mut columns = row_codec.decode(waiting.iter())?;
            let weights = columns.remove(0).as_primitive::<Int64Type>().clone();
            waiting.clear();
            f(&Matches { keys: std::mem::take(of_keys), weights, columns })
        };
        let mut push = |key: usize, row: &[u8]| {
            waiting.push(row);
            of_keys.push(key as u32);
            if of_keys.len() == CHUNK_ROWS { decode(&mut waiting, &mut of_keys) } else { Ok(()) }
        };
        match rows {
            Rows::One(table) => {
                let found = table.get_many(state, keys)?;
                for (key, row) in found.iter().enumerate() {
                    row.map_or(Ok(()), |row| push(key, row))?;
                }
            }
            Rows::Many(rows) => {
                for key in keys.sort_permutation() {
                    rows.each(state, keys.get(key as usize), |row| push(key as usize, row))?;
                }
            }
        }
        if of_keys.is_empty() { Ok(()) } else { decode(&mut waiting, &mut of_keys) }
    }

    /// Takes changes into the stored rows.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn apply(&mut self, state: &mut State, epoch: u64, changes: &Changes) -> Result<()> {
        let Changes { delta, groups } = changes;
        if delta.is_empty() {
            return Ok(());
        }
        let join_key = |row: usize| groups.keys.get(groups.of_row[row] as usize);
        let row_keys = self.row_keys(epoch, delta)?;
        let mut weights = delta.weights_array();
        if self.layout == Layout::Multiset {
            weights = self.new_weights(state, &weights, join_key, &row_keys)?;
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(weights.clone())];
        columns.extend(delta.batch.columns().iter().cloned());
        let encoded = self.row_codec.encode(&columns)?;

        // What goes before what comes: an update is both under one key. In a multiset every row has its own key.
        let gone = (0..delta.rows()).filter(|row| weights.value(*row) <= 0).map(|row| (row, None));
        let here = (0..delta.rows()).filter(|row| weights.value(*row) > 0).map(|row| (row, Some(encoded.get(row))));
        let order: Vec<(usize, Option<&[u8]>)> = gone.chain(here).collect();
        match &mut self.rows {
            Rows::One(table) => {
                let mut keys = ByteRows::new();
                order.iter().for_each(|(row, _)| keys.push(join_key(*row)));
                table.write_many(state, &keys, |i| order[i].1);
                Ok(())
            }
            Rows::Many(rows) => {
                let fresh = self.layout == Layout::Log;
                let writes = order.iter().map(|(row, value)| RowWrite {
                    join_key: join_key(*row),
                    row_key: row_keys.get(*row),
                    value: *value,
                    fresh,
                });
                rows.write(state, writes)
            }
        }
    }

    fn row_keys(&mut self, epoch: u64, delta: &Delta) -> Result<ByteRows> {
        match self.layout {
            Layout::Unique => Ok(ByteRows::new()),
            Layout::Log => {
                if self.sequence.0 != epoch {
                    self.sequence = (epoch, 0);
                }
                let mut keys = ByteRows::with_capacity(delta.rows(), delta.rows() * 12);
                for _ in 0..delta.rows() {
                    keys.push_pair(&epoch.to_be_bytes(), &self.sequence.1.to_be_bytes());
                    self.sequence.1 += 1;
                }
                Ok(keys)
            }
            Layout::Keyed | Layout::Multiset => {
                let columns: Vec<ArrayRef> = self.row_key.iter().map(|c| delta.batch.column(*c).clone()).collect();
                self.row_key_codec.encode(&columns)
            }
        }
    }

    /// The weights that the rows of a multiset have after these changes, which are one for each row.
    fn new_weights<'k>(
        &self,
        state: &State,
        changes: &Int64Array,
        join_key: impl Fn(usize) -> &'k [u8],
        row_keys: &ByteRows,
    ) -> Result<Int64Array> {
        let mut keys = ByteRows::new();
        for row in 0..changes.len() {
            keys.push_pair(join_key(row), row_keys.get(row));
        }
        let stored = state.multi_get(self.table(), &keys)?;
        let before = self.row_codec.decode(stored.iter().flatten())?.remove(0);
        let mut before = before.as_primitive::<Int64Type>().values().iter();
        let after = changes.values().iter().zip(stored.iter()).map(|(change, stored)| match stored {
            Some(_) => before.next().map_or(*change, |weight| weight + change),
            None => *change,
        });
        let after = Int64Array::from_iter_values(after);
        match after.values().iter().any(|weight| *weight < 0) {
            true => Err(Error::internal("a join input takes back a row that it never gave")),
            false => Ok(after),
        }
    }

    pub fn truncate_below(&mut self, state: &mut State, key: &[u8]) {
        match &mut self.rows {
            Rows::One(table) => table.truncate_below(state, key),
            Rows::Many(rows) => state.truncate_below(rows.table(), key),
        }
    }

    pub fn end_epoch(&mut self) {
        match &mut self.rows {
            Rows::One(table) => table.end_epoch(),
            Rows::Many(rows) => rows.end_epoch(),
        }
    }

    pub fn reset(&mut self) {
        self.sequence = (0, 0);
        match &mut self.rows {
            Rows::One(table) => table.reset(),
            Rows::Many(rows) => rows.reset(),
        }
    }
}
