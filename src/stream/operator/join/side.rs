//! One side of a join: its rows in the store by join key, in the cheapest layout that its properties allow.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{and, not, take, take_record_batch};
use arrow::datatypes::{DataType, Int64Type};

use super::output::gather;
use super::rows_cache::{RowWrite, RowsCache};
use super::{CHUNK_ROWS, JoinSide};
use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec, RowCodec, State, TableId};
use crate::stream::cache_budget::Share;
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;
use crate::stream::operator::groups::Groups;
use crate::stream::operator::sharded::Shard;
use crate::stream::operator::waiting::{MOMENT_BYTES, moment, moment_key};

/// How a side's rows are stored. The value is the row's weight, its number of matches if those are counted, its columns.
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
    /// Whether the value has the row's number of matches.
    counts_matches: bool,
    /// Whether rows that can match nothing are handed out.
    wants_unmatchable: bool,
    /// Epoch and number of the last row of a log.
    sequence: (u64, u32),
    head: Head,
    /// The least moment that rows which are still needed begin with.
    needed_from: Option<[u8; MOMENT_BYTES]>,
}

/// What stands before a stored row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Nothing,
    /// The tick of its last write.
    Tick,
    /// The moment until which it is needed. Row keys begin with it too, so that rows that are needed no more are not read.
    Until,
}

impl Head {
    fn bytes(self) -> usize {
        if self == Self::Nothing { 0 } else { MOMENT_BYTES }
    }
}

/// The heads of rows that are written.
#[derive(Clone, Copy)]
pub(super) enum Heads<'a> {
    Nothing,
    Tick(i64),
    /// Of each row.
    Until(&'a [i64]),
}

impl Heads<'_> {
    fn of(self, row: usize) -> Option<[u8; MOMENT_BYTES]> {
        match self {
            Self::Nothing => None,
            Self::Tick(tick) => Some(moment_key(tick)),
            Self::Until(moments) => Some(moment_key(moments[row])),
        }
    }
}

/// An epoch's net changes of one side by join key.
pub(super) struct Changes {
    pub delta: Delta,
    /// By join key; a key may have no row.
    pub groups: Groups,
    /// Rows whose join key has a NULL, so that they match nothing; empty unless asked for.
    pub unmatchable: Option<Delta>,
}

/// Stored rows that have one of the keys that were looked up.
pub(super) struct Matches {
    /// Which of the keys each row has.
    pub keys: Vec<u32>,
    pub weights: Int64Array,
    /// How many matches each has; empty if those are not counted.
    pub counts: Vec<i64>,
    pub columns: Vec<ArrayRef>,
    /// What tells each from others of its join key.
    row_keys: ByteRows,
    /// What stands before each, if something does.
    heads: ByteRows,
}

/// Stored rows whose number of matches changed, ready to be written.
pub(super) struct Recounts {
    row_codec: RowCodec,
    join_keys: ByteRows,
    row_keys: ByteRows,
    values: ByteRows,
}

impl Recounts {
    /// Takes rows of `matches`, found under `keys`, whose number of matches changes.
    pub fn add(&mut self, keys: &ByteRows, matches: &Matches, changes: &[i64]) -> Result<()> {
        let changed = || (0..changes.len()).filter(|row| changes[*row] != 0);
        for row in changed() {
            self.join_keys.push(keys.get(matches.keys[row] as usize));
            self.row_keys.push(matches.row_keys.get(row));
        }
        let counts = Int64Array::from_iter_values(changed().map(|row| matches.counts[row] + changes[row]));
        let rows = UInt32Array::from_iter_values(changed().map(|row| row as u32));
        let mut columns = vec![take(&matches.weights, &rows, None)?, Arc::new(counts) as ArrayRef];
        columns.extend(gather(&matches.columns, &rows)?);
        let head = |row: usize| if matches.heads.is_empty() { &[] } else { matches.heads.get(row) };
        let values = self.row_codec.encode(&columns)?;
        changed().zip(values.iter()).for_each(|(row, value)| self.values.push_pair(head(row), value));
        Ok(())
    }
}

impl Side {
    /// `key_order`: positions in the side's join columns in the order of the state key. `counts_matches`: whether each row
    /// is stored with its number of matches; `wants_unmatchable`: whether rows that can match nothing are of interest.
    pub fn new(
        spec: &JoinSide,
        key_order: &[usize],
        null_safe: &[bool],
        table: TableId,
        head: Head,
        counts_matches: bool,
        wants_unmatchable: bool,
    ) -> Result<Self> {
        let key: Vec<usize> = key_order.iter().map(|i| spec.key[*i]).collect();
        let not_null = key_order.iter().filter(|i| !null_safe[**i]).map(|i| spec.key[*i]).collect();
        let types = |columns: &[usize]| -> Vec<DataType> {
            columns.iter().map(|c| spec.schema.field(*c).data_type().clone()).collect()
        };
        let all: Vec<usize> = (0..spec.schema.fields().len()).collect();
        let (layout, row_key) = match &spec.stream_key {
            Some(stream_key) if stream_key.iter().all(|c| key.contains(c)) => match head {
                // A row whose taking back came late stays beside the one that came in its place.
                Head::Until if !spec.append_only => (Layout::Keyed, Vec::new()),
                _ => (Layout::Unique, Vec::new()),
            },
            Some(stream_key) => (Layout::Keyed, stream_key.iter().copied().filter(|c| !key.contains(c)).collect()),
            None if spec.append_only => (Layout::Log, Vec::new()),
            None => (Layout::Multiset, all.clone()),
        };
        let numbers = std::iter::repeat_n(DataType::Int64, if counts_matches { 2 } else { 1 });
        let stored: Vec<DataType> = numbers.chain(types(&all)).collect();
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
            counts_matches,
            wants_unmatchable,
            sequence: (0, 0),
            head,
            needed_from: None,
        })
    }

    /// From now on rows that are needed until an earlier moment are passed over.
    pub fn set_needed_from(&mut self, moment: i64) {
        let moment = moment_key(moment);
        self.needed_from = Some(moment);
        if let Rows::Many(rows) = &mut self.rows {
            rows.set_needed_from(moment);
        }
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

    /// Net changes by join key, the rows that can match nothing apart from the others.
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
        let mut unmatchable = None;
        let delta = match matchable {
            Some(mask) => {
                if self.wants_unmatchable {
                    unmatchable = Some(delta.filter(&not(&mask)?)?);
                }
                delta.filter(&mask)?
            }
            None => delta,
        };
        let delta = if self.layout == Layout::Multiset { self.distinct(&delta)? } else { delta.consolidate()? };
        let groups = match self.key.is_empty() {
            true => Groups::single(delta.rows()),
            false => Groups::assign(&self.join_keys(delta.batch.columns())?),
        };
        Ok(Changes { delta, groups, unmatchable })
    }

    /// The join key of each row of these columns.
    pub fn join_keys(&self, columns: &[ArrayRef]) -> Result<ByteRows> {
        let key_columns: Vec<ArrayRef> = self.key.iter().map(|c| columns[*c].clone()).collect();
        self.key_codec.encode(&key_columns)
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
        let Self { rows, row_codec, counts_matches, head, needed_from, .. } = self;
        let head = head.bytes();
        // Rows wait until there are enough of them to be decoded together.
        let (mut waiting, mut row_keys, mut heads) = (ByteRows::new(), ByteRows::new(), ByteRows::new());
        let mut of_keys: Vec<u32> = Vec::new();
        let mut decode =
            |waiting: &mut ByteRows, row_keys: &mut ByteRows, heads: &mut ByteRows, of_keys: &mut Vec<u32>| {
                let mut columns = row_codec.decode(waiting.iter())?;
                let mut number = || columns.remove(0).as_primitive::<Int64Type>().clone();
                let weights = number();
                let counts = if *counts_matches { number().values().to_vec() } else { Vec::new() };
                waiting.clear();
                let (keys, row_keys, heads) =
                    (std::mem::take(of_keys), std::mem::take(row_keys), std::mem::take(heads));
                f(&Matches { keys, weights, counts, columns, row_keys, heads })
            };
        let mut push = |key: usize, row_key: &[u8], row: &[u8]| {
            let (stamp, row) = row.split_at(row.len().min(head));
            waiting.push(row);
            of_keys.push(key as u32);
            if *counts_matches {
                row_keys.push(row_key);
                if head > 0 {
                    heads.push(stamp);
                }
            }
            match of_keys.len() == CHUNK_ROWS {
                true => decode(&mut waiting, &mut row_keys, &mut heads, &mut of_keys),
                false => Ok(()),
            }
        };
        match rows {
            Rows::One(table) => {
                let found = table.get_many(state, keys)?;
                let is_needed = |row: &&[u8]| needed_from.is_none_or(|from| **row >= from[..]);
                for (key, row) in found.iter().enumerate() {
                    row.filter(is_needed).map_or(Ok(()), |row| push(key, &[], row))?;
                }
            }
            Rows::Many(rows) => {
                for key in keys.sort_permutation() {
                    rows.each(state, keys.get(key as usize), |row_key, row| push(key as usize, row_key, row))?;
                }
            }
        }
        if of_keys.is_empty() { Ok(()) } else { decode(&mut waiting, &mut row_keys, &mut heads, &mut of_keys) }
    }

    /// Whether there is a row with each of the keys, where a key has at most one row; `None` for other layouts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn any(&mut self, state: &State, keys: &ByteRows) -> Result<Option<Vec<bool>>> {
        match &mut self.rows {
            Rows::One(table) => Ok(Some(table.get_many(state, keys)?.iter().map(|row| row.is_some()).collect())),
            Rows::Many(_) => Ok(None),
        }
    }

    /// Room for new numbers of matches of the side's rows.
    pub fn recounts(&self) -> Recounts {
        Recounts {
            row_codec: self.row_codec.clone(),
            join_keys: ByteRows::new(),
            row_keys: ByteRows::new(),
            values: ByteRows::new(),
        }
    }

    /// Writes new numbers of matches.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn write_recounts(&mut self, state: &mut State, recounts: &Recounts) -> Result<()> {
        let Recounts { join_keys, row_keys, values, .. } = recounts;
        match &mut self.rows {
            Rows::One(table) => {
                table.put_many(state, join_keys, values);
                Ok(())
            }
            Rows::Many(rows) => rows.write(
                state,
                (0..values.len()).map(|row| RowWrite {
                    join_key: join_keys.get(row),
                    row_key: row_keys.get(row),
                    value: Some(values.get(row)),
                    fresh: false,
                }),
            ),
        }
    }

    /// Takes changes into the stored rows; `counts` has the number of matches of each changed row, if those are counted.
    /// Returns the keys of the rows that are written with a tick.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn apply(
        &mut self,
        state: &mut State,
        epoch: u64,
        changes: &Changes,
        counts: &[i64],
        heads: Heads<'_>,
    ) -> Result<ByteRows> {
        let Changes { delta, groups, .. } = changes;
        let mut stamped_keys = ByteRows::new();
        if delta.is_empty() {
            return Ok(stamped_keys);
        }
        let join_key = |row: usize| groups.keys.get(groups.of_row[row] as usize);
        let row_keys = self.row_keys(epoch, delta, heads)?;
        let mut weights = delta.weights_array();
        if self.layout == Layout::Multiset {
            weights = self.new_weights(state, &weights, join_key, &row_keys)?;
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(weights.clone())];
        if self.counts_matches {
            columns.push(Arc::new(Int64Array::from(counts.to_vec())));
        }
        columns.extend(delta.batch.columns().iter().cloned());
        let mut encoded = self.row_codec.encode(&columns)?;
        if !matches!(heads, Heads::Nothing) {
            let rows = std::mem::take(&mut encoded);
            for (row, bytes) in rows.iter().enumerate() {
                encoded.push_pair(&heads.of(row).unwrap_or_default(), bytes);
            }
        }
        if matches!(heads, Heads::Tick(_)) {
            for row in (0..delta.rows()).filter(|row| weights.value(*row) > 0) {
                stamped_keys.push_pair(join_key(row), if row_keys.is_empty() { &[] } else { row_keys.get(row) });
            }
        }

        // What goes before what comes: an update is both under one key. In a multiset every row has its own key.
        let gone = (0..delta.rows()).filter(|row| weights.value(*row) <= 0).map(|row| (row, None));
        let here = (0..delta.rows()).filter(|row| weights.value(*row) > 0).map(|row| (row, Some(encoded.get(row))));
        let order: Vec<(usize, Option<&[u8]>)> = gone.chain(here).collect();
        match &mut self.rows {
            Rows::One(table) => {
                let mut keys = ByteRows::new();
                order.iter().for_each(|(row, _)| keys.push(join_key(*row)));
                table.write_many(state, &keys, |i| order[i].1);
            }
            Rows::Many(rows) => {
                let fresh = self.layout == Layout::Log;
                let writes = order.iter().map(|(row, value)| RowWrite {
                    join_key: join_key(*row),
                    row_key: row_keys.get(*row),
                    value: *value,
                    fresh,
                });
                rows.write(state, writes)?;
            }
        }
        Ok(stamped_keys)
    }

    /// The changes without what takes back rows that are not stored, and how many rows that were.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn without_forgotten(&mut self, state: &State, changes: Changes) -> Result<(Changes, u64)> {
        let weights = changes.delta.weights_array();
        let back: Vec<usize> = (0..weights.len()).filter(|row| weights.value(*row) < 0).collect();
        if back.is_empty() {
            return Ok((changes, 0));
        }
        let row_keys = self.row_keys(0, &changes.delta, Heads::Nothing)?;
        let mut keys = ByteRows::new();
        for row in &back {
            let join_key = changes.groups.keys.get(changes.groups.of_row[*row] as usize);
            keys.push_pair(join_key, if row_keys.is_empty() { &[] } else { row_keys.get(*row) });
        }
        let stored = self.stored_weights(state, &keys)?;
        let mut kept = weights.values().to_vec();
        let mut ignored = 0;
        for (row, stored) in back.into_iter().zip(stored) {
            let missing = (-kept[row] - stored.unwrap_or(0)).max(0);
            kept[row] += missing;
            ignored += missing as u64;
        }
        if ignored == 0 {
            return Ok((changes, 0));
        }
        let stays: BooleanArray = kept.iter().map(|weight| Some(*weight != 0)).collect();
        let delta = Delta::new(changes.delta.batch, Int64Array::from(kept)).filter(&stays)?;
        let unmatchable = changes.unmatchable;
        Ok((Changes { unmatchable, ..self.gather(delta)? }, ignored))
    }

    /// Forgets those of a shard's rows that were last written in these ticks. Returns the join keys and weights of those that were.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn forget(
        &mut self,
        state: &mut State,
        shard: Shard,
        ticks: &[i64],
        keys: &ByteRows,
    ) -> Result<(ByteRows, Vec<i64>)> {
        let stored = state.multi_get(self.table(), keys)?;
        let (mut join_keys, mut row_keys, mut rows) = (ByteRows::new(), ByteRows::new(), ByteRows::new());
        for (i, tick) in ticks.iter().enumerate() {
            if let Some(row) = stored.get(i)
                && moment(row)? == *tick
            {
                let (join_key, row_key) = keys.get(i).split_at(self.key_codec.prefix_len(keys.get(i))?);
                if !shard.owns(join_key) {
                    continue;
                }
                join_keys.push(join_key);
                row_keys.push(row_key);
                rows.push(&row[self.head.bytes().min(row.len())..]);
            }
        }
        let weights = self.row_codec.decode(rows.iter())?.remove(0);
        match &mut self.rows {
            Rows::One(table) => table.write_many(state, &join_keys, |_| None),
            Rows::Many(cache) => cache.write(
                state,
                (0..join_keys.len()).map(|row| RowWrite {
                    join_key: join_keys.get(row),
                    row_key: row_keys.get(row),
                    value: None,
                    fresh: false,
                }),
            )?,
        }
        Ok((join_keys, weights.as_primitive::<Int64Type>().values().to_vec()))
    }

    /// The weights of the stored rows with these keys.
    fn stored_weights(&self, state: &State, keys: &ByteRows) -> Result<Vec<Option<i64>>> {
        let stored = state.multi_get(self.table(), keys)?;
        let rows = stored.iter().flatten().map(|row| &row[self.head.bytes().min(row.len())..]);
        let weights = self.row_codec.decode(rows)?.remove(0);
        let mut weights = weights.as_primitive::<Int64Type>().values().iter();
        Ok(stored.iter().map(|row| row.and_then(|_| weights.next().copied())).collect())
    }

    fn row_keys(&mut self, epoch: u64, delta: &Delta, heads: Heads<'_>) -> Result<ByteRows> {
        let row_keys = match self.layout {
            Layout::Unique => return Ok(ByteRows::new()),
            Layout::Log => {
                if self.sequence.0 != epoch {
                    self.sequence = (epoch, 0);
                }
                let mut keys = ByteRows::with_capacity(delta.rows(), delta.rows() * 12);
                for _ in 0..delta.rows() {
                    keys.push_pair(&epoch.to_be_bytes(), &self.sequence.1.to_be_bytes());
                    self.sequence.1 += 1;
                }
                keys
            }
            Layout::Keyed if self.row_key.is_empty() => (0..delta.rows()).map(|_| []).collect(),
            Layout::Keyed | Layout::Multiset => {
                let columns: Vec<ArrayRef> = self.row_key.iter().map(|c| delta.batch.column(*c).clone()).collect();
                self.row_key_codec.encode(&columns)?
            }
        };
        let Heads::Until(moments) = heads else { return Ok(row_keys) };
        let mut keys = ByteRows::with_capacity(row_keys.len(), row_keys.bytes() + row_keys.len() * MOMENT_BYTES);
        moments.iter().zip(row_keys.iter()).for_each(|(until, key)| keys.push_pair(&moment_key(*until), key));
        Ok(keys)
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
        let before = self.stored_weights(state, &keys)?;
        let after = changes.values().iter().zip(before).map(|(change, before)| before.unwrap_or(0) + change);
        let after = Int64Array::from_iter_values(after);
        match after.values().iter().any(|weight| *weight < 0) {
            true => Err(Error::internal("a join input takes back a row that it never gave")),
            false => Ok(after),
        }
    }

    /// Lets go of the rows that are needed until an earlier moment.
    pub fn forget_before(&mut self, state: &mut State, moment: i64) {
        state.forget_before(self.table(), &moment_key(moment));
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
