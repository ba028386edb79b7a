//! ASOF join: each left row with the right row of its key that is next before it in time, or next after it.
//!
//! Right rows are stored in the order in which a left row looks for them, away from its own time, so that its match is the
//! first row of one seek. Left rows are stored in the opposite order: those that a changed right row can be the match of
//! begin at its time, and end at the first whose match is a nearer row that did not change. What a change costs follows the
//! rows whose match changes.
//!
//! Right rows of one key and time are told apart by their columns in order: the greatest is the match. Rows whose key or
//! time is NULL have no match and are none.
//!
//! With a `state_ttl` a row of either side that was not written for long is forgotten (`ttl`). That puts nothing out: what
//! it came to in the result stays, and what takes it back later is counted and ignored.
//!
//! State, two tables under the view's object, both (join key, time, row) -> weight: *left* and *right*.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_catalog::ObjectId;

use super::groups::Groups;
use super::order_key::{OrderKey, SortColumn};
use super::sharded::Shard;
use super::ttl::{Ttl, TtlSpec};
use super::{Description, EdgeProperties, EpochContext, Operator, PortWatermarks, StateDescription, Watermarks};
use crate::error::{Error, Result, sqlstate};
use crate::state::{ByteRows, KeyCodec, Level, RowCodec, State, TableId, successor};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;

/// Rows of an output batch.
const CHUNK_ROWS: usize = 8192;
/// Most stored left rows that are read at a time behind a changed right row.
const READ_ROWS_MAX: usize = 1024;
/// Bytes before the row in a stored value: its weight.
const WEIGHT_BYTES: usize = 8;

/// How the time of a right row stands to that of the left row that it is matched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearest {
    /// Before it: `left > right`.
    Before,
    /// Before it or at the same time: `left >= right`.
    NotAfter,
    /// After it: `left < right`.
    After,
    /// After it or at the same time: `left <= right`.
    NotBefore,
}

impl Nearest {
    fn looks_back(self) -> bool {
        matches!(self, Self::Before | Self::NotAfter)
    }

    fn takes_equal(self) -> bool {
        matches!(self, Self::NotAfter | Self::NotBefore)
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Before => ">",
            Self::NotAfter => ">=",
            Self::After => "<",
            Self::NotBefore => "<=",
        }
    }
}

/// One input: its columns, and which of them are compared.
#[derive(Debug, Clone)]
pub struct AsofSide {
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    pub time: usize,
}

/// What an [`AsofJoin`] is made from.
#[derive(Debug, Clone)]
pub struct AsofSpec {
    /// The view that holds the state.
    pub object: ObjectId,
    /// First of the two state parts that it takes ([`AsofJoin::PARTS`]).
    pub first_part: u16,
    pub sides: [AsofSide; 2],
    pub nearest: Nearest,
    /// Whether left rows without a match stay, beside NULLs.
    pub is_outer: bool,
    /// Of the result: the left columns, then the right ones.
    pub properties: EdgeProperties,
    /// What forgets rows that were not written for long.
    pub ttl: Option<TtlSpec>,
}

/// Joins each left row with the nearest right row.
pub struct AsofJoin {
    spec: AsofSpec,
    left: Side,
    right: Side,
    /// Times in the order of each table.
    times: [OrderKey; 2],
    ttl: Option<Ttl>,
}

/// One side's table and the codecs of its keys.
struct Side {
    columns: AsofSide,
    key: KeyCodec,
    /// Time, and what is ordered behind it.
    order: OrderKey,
    ordered: Vec<usize>,
    rows: RowCodec,
    table: CachedTable,
}

/// Rows by their stored keys.
struct Keyed {
    keys: ByteRows,
    rows: ByteRows,
}

/// The stored key and the row of a match.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Match {
    key: Vec<u8>,
    row: Vec<u8>,
}

/// What an epoch does to a right row.
struct Change {
    /// The row if it appears; `None`: it goes.
    appears: Option<Vec<u8>>,
    /// The left rows that it may be the match of, as far as they can be.
    reach: Range,
}

/// Right rows that change, by their stored keys.
type Changes = BTreeMap<Vec<u8>, Change>;

/// A range of stored keys.
struct Range {
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
}

impl Range {
    /// The keys of `prefix` from `time` on, or behind it.
    fn new(prefix: &[u8], time: &[u8], takes_equal: bool) -> Self {
        let start = [prefix, time].concat();
        Self {
            start: if takes_equal { Bound::Included(start) } else { after_all(&start) },
            end: if prefix.is_empty() { Bound::Unbounded } else { successor(prefix) },
        }
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice))
    }

    fn is_empty(&self) -> bool {
        match self.bounds() {
            (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) => start >= end,
            _ => false,
        }
    }
}

/// A left row beside its match, so many times.
#[derive(Default)]
struct Output {
    left: ByteRows,
    right: Vec<Option<Vec<u8>>>,
    weights: Vec<i64>,
}

impl Side {
    fn new(columns: &AsofSide, sorts: &[SortColumn], table: TableId) -> Result<Self> {
        let data_type = |i: &usize| columns.schema.field(*i).data_type().clone();
        let types: Vec<DataType> = columns.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let sorted: Vec<(SortColumn, DataType)> = sorts.iter().map(|sort| (*sort, data_type(&sort.column))).collect();
        Ok(Self {
            key: KeyCodec::new(&columns.key.iter().map(data_type).collect::<Vec<_>>())?,
            order: OrderKey::new(&sorted)?,
            ordered: sorts.iter().map(|sort| sort.column).collect(),
            rows: RowCodec::new(&types)?,
            table: CachedTable::new(table),
            columns: columns.clone(),
        })
    }

    fn columns_at(batch: &RecordBatch, positions: &[usize]) -> Vec<ArrayRef> {
        positions.iter().map(|i| batch.column(*i).clone()).collect()
    }

    /// Whether a row is compared with others at all.
    fn is_comparable(&self, batch: &RecordBatch) -> Vec<bool> {
        let mut comparable = vec![true; batch.num_rows()];
        for i in self.columns.key.iter().chain([&self.columns.time]) {
            if let Some(nulls) = batch.column(*i).logical_nulls() {
                comparable.iter_mut().enumerate().for_each(|(row, comparable)| *comparable &= nulls.is_valid(row));
            }
        }
        comparable
    }

    fn prefixes(&self, batch: &RecordBatch) -> Result<ByteRows> {
        match self.columns.key.is_empty() {
            true => Ok((0..batch.num_rows()).map(|_| []).collect()),
            false => self.key.encode(&Self::columns_at(batch, &self.columns.key)),
        }
    }

    fn keyed(&self, batch: &RecordBatch) -> Result<Keyed> {
        let rows = self.rows.encode(batch.columns())?;
        let orders = self.order.encode(&Self::columns_at(batch, &self.ordered), &rows)?;
        let prefixes = self.prefixes(batch)?;
        let mut keys = ByteRows::with_capacity(rows.len(), prefixes.bytes() + orders.bytes());
        for (prefix, order) in prefixes.iter().zip(orders.iter()) {
            keys.push_pair(prefix, order);
        }
        Ok(Keyed { keys, rows })
    }

    fn decode<'r>(&self, rows: impl Iterator<Item = &'r [u8]>) -> Result<RecordBatch> {
        Ok(RecordBatch::try_new(self.columns.schema.clone(), self.rows.decode(rows)?)?)
    }
}

impl AsofJoin {
    /// State parts that it takes.
    pub const PARTS: u16 = 2;

    /// Checks the specification and makes the operator, with nothing cached.
    ///
    /// # Errors
    /// 0A000 for types that cannot be compared or stored.
    pub fn new(spec: AsofSpec) -> Result<Self> {
        let [left, right] = &spec.sides;
        let back = spec.nearest.looks_back();
        let sort = |column, descending| SortColumn { column, descending, nulls_first: descending };
        let ties = (0..right.schema.fields().len()).map(|column| sort(column, true));
        let right_order: Vec<SortColumn> = std::iter::once(sort(right.time, back)).chain(ties).collect();
        let time_type = right.schema.field(right.time).data_type().clone();
        if left.schema.field(left.time).data_type() != &time_type {
            return Err(Error::internal("the times of an ASOF join have two types"));
        }
        let table = |part| TableId::new(spec.object.0, spec.first_part + part);
        Ok(Self {
            left: Side::new(left, &[sort(left.time, !back)], table(0))?,
            right: Side::new(right, &right_order, table(1))?,
            times: [
                OrderKey::new(&[(sort(0, !back), time_type.clone())])?,
                OrderKey::new(&[(sort(0, back), time_type)])?,
            ],
            ttl: spec.ttl.map(|ttl| Ttl::new(spec.object.0, ttl)),
            spec,
        })
    }

    /// Forgets the rows that were not written for long.
    fn expire(&mut self, context: &mut EpochContext<'_>) -> Result<()> {
        let Self { ttl: Some(ttl), left, right, .. } = self else { return Ok(()) };
        let now_us = context.now_us;
        ttl.expire(context.state, now_us, |ttl, state, _, keys| {
            let gone = ttl.unwritten(state, now_us, Shard::ONLY, keys)?;
            for (number, side) in [&mut *left, &mut *right].into_iter().enumerate() {
                let own = gone.iter().filter_map(|key| key.strip_prefix(&[number as u8]));
                side.table.delete_many(state, &own.collect());
            }
            Ok(())
        })
    }

    /// Takes changes into the sides' tables.
    fn write(&mut self, writes: [Writes; 2], context: &mut EpochContext<'_>) {
        for (number, (side, writes)) in [&mut self.left, &mut self.right].into_iter().zip(writes).enumerate() {
            writes.write(&mut side.table, context.state);
            side.table.end_epoch();
            if let Some(ttl) = &mut self.ttl {
                let mut keys = ByteRows::with_capacity(writes.keys.len(), writes.keys.bytes() + writes.keys.len());
                writes.keys.iter().for_each(|key| keys.push_pair(&[number as u8], key));
                ttl.note(context.state, context.now_us, &keys);
            }
        }
    }

    /// For each row of one side, the stored rows of the other that lie in its direction: a left row's candidates, nearest
    /// first, or the left rows that have a right row among theirs.
    fn ranges(&self, side: usize, batch: &RecordBatch) -> Result<Vec<Range>> {
        let own = if side == 0 { &self.left } else { &self.right };
        let prefixes = own.prefixes(batch)?;
        let none: ByteRows = (0..batch.num_rows()).map(|_| []).collect();
        let times = self.times[1 - side].encode(&[batch.column(own.columns.time).clone()], &none)?;
        let takes_equal = self.spec.nearest.takes_equal();
        Ok(prefixes.iter().zip(times.iter()).map(|(prefix, time)| Range::new(prefix, time, takes_equal)).collect())
    }

    /// The match before the epoch and after it, among these candidates.
    fn matches(&self, state: &State, changes: &Changes, candidates: &Range) -> Result<(Option<Match>, Option<Match>)> {
        if candidates.is_empty() {
            return Ok((None, None));
        }
        let (start, end) = candidates.bounds();
        let mut stored = state.scan(self.right.table.table(), start, end, Level::Open);
        let (mut before, mut kept) = (None, None);
        while let Some((key, value)) = stored.next_row()? {
            let found = Match { key: key.to_vec(), row: stored_row(value)?.to_vec() };
            before.get_or_insert_with(|| found.clone());
            // What is stored does not appear: if it changes, it goes.
            if !changes.contains_key(key) {
                kept = Some(found);
                break;
            }
        }
        let came = changes
            .range::<[u8], _>((start, end))
            .find_map(|(key, change)| change.appears.as_ref().map(|row| Match { key: key.clone(), row: row.clone() }));
        let after = match (kept, came) {
            (Some(kept), Some(came)) => Some(if came.key < kept.key { came } else { kept }),
            (kept, came) => kept.or(came),
        };
        Ok((before, after))
    }

    /// Right rows that appear and go, and what is to be written of them.
    fn change_right(&mut self, delta: &Delta, state: &State, expired: &mut u64) -> Result<(Changes, Writes)> {
        let delta = comparable(&self.right, delta)?;
        let Keyed { keys, rows } = self.right.keyed(&delta.batch)?;
        let mut ranges: Vec<Option<Range>> = self.ranges(1, &delta.batch)?.into_iter().map(Some).collect();
        let groups = Groups::assign(&keys);
        let mut changes = BTreeMap::new();
        let mut writes = Writes::default();
        let stored = self.right.table.get_many(state, &groups.keys)?;
        let weights = weights(&groups, &delta, stored.iter(), self.ttl.as_ref().map(|_| expired))?;
        for (group, (old, net)) in weights.into_iter().enumerate() {
            let first = groups.first_row[group] as usize;
            let (key, row) = (groups.keys.get(group), rows.get(first));
            let (was, is) = (old > 0, old + net > 0);
            if was != is
                && let Some(reach) = ranges[first].take()
            {
                changes.insert(key.to_vec(), Change { appears: is.then(|| row.to_vec()), reach });
            }
            writes.push(key, row, old + net);
        }
        Ok((changes, writes))
    }

    /// Stored left rows whose match changes, but for those in `done`.
    fn restate(
        &self,
        changes: &Changes,
        state: &State,
        mut done: BTreeSet<Vec<u8>>,
        output: &mut Output,
    ) -> Result<()> {
        for (changed, Change { reach, .. }) in changes {
            let mut rest = Range { start: reach.start.clone(), end: reach.end.clone() };
            let mut limit = 1;
            'rows: while !rest.is_empty() {
                let (mut keys, mut values) = (ByteRows::new(), ByteRows::new());
                let (start, end) = rest.bounds();
                state.scan(self.left.table.table(), start, end, Level::Open).fill(&mut keys, &mut values, limit)?;
                let Some(last) = keys.len().checked_sub(1) else { break };
                let rows = values.iter().map(stored_row).collect::<Result<Vec<_>>>()?;
                let candidates = self.ranges(0, &self.left.decode(rows.iter().copied())?)?;
                for (i, candidates) in candidates.iter().enumerate() {
                    let (before, after) = self.matches(state, changes, candidates)?;
                    // It stays nearer to all that follow.
                    let is_last = after.as_ref().is_some_and(|m| m.key < *changed && !changes.contains_key(&m.key));
                    if before != after && done.insert(keys.get(i).to_vec()) {
                        let weight = decode_weight(values.get(i))?;
                        self.put(rows[i], before, -weight, output);
                        self.put(rows[i], after, weight, output);
                    }
                    if is_last {
                        break 'rows;
                    }
                }
                rest.start = Bound::Excluded(keys.get(last).to_vec());
                limit = (limit * 4).min(READ_ROWS_MAX);
            }
        }
        Ok(())
    }

    /// Changed left rows beside their matches, and what is to be written of them.
    fn change_left(
        &mut self,
        delta: &Delta,
        changes: &Changes,
        state: &State,
        expired: &mut u64,
        output: &mut Output,
    ) -> Result<(BTreeSet<Vec<u8>>, Writes)> {
        let comparable_rows = self.left.is_comparable(&delta.batch);
        if self.spec.is_outer && comparable_rows.contains(&false) {
            let rows = self.left.rows.encode(delta.batch.columns())?;
            for (i, _) in comparable_rows.iter().enumerate().filter(|(_, comparable)| !**comparable) {
                self.put(rows.get(i), None, delta.weight(i), output);
            }
        }
        let delta = comparable(&self.left, delta)?;
        let Keyed { keys, rows } = self.left.keyed(&delta.batch)?;
        let groups = Groups::assign(&keys);
        let candidates = self.ranges(0, &delta.batch)?;
        let mut done = BTreeSet::new();
        let mut writes = Writes::default();
        let stored = self.left.table.get_many(state, &groups.keys)?;
        let weights = weights(&groups, &delta, stored.iter(), self.ttl.as_ref().map(|_| expired))?;
        for (group, (old, net)) in weights.into_iter().enumerate() {
            let first = groups.first_row[group] as usize;
            let (key, row) = (groups.keys.get(group), rows.get(first));
            let (before, after) = self.matches(state, changes, &candidates[first])?;
            if before == after {
                self.put(row, after, net, output);
            } else {
                self.put(row, before, -old, output);
                self.put(row, after, old + net, output);
            }
            done.insert(key.to_vec());
            writes.push(key, row, old + net);
        }
        Ok((done, writes))
    }

    fn put(&self, left: &[u8], right: Option<Match>, weight: i64, output: &mut Output) {
        if weight != 0 && (right.is_some() || self.spec.is_outer) {
            output.left.push(left);
            output.right.push(right.map(|m| m.row));
            output.weights.push(weight);
        }
    }

    fn deltas(&self, output: &Output) -> Result<Vec<Delta>> {
        let mut deltas = Vec::new();
        for start in (0..output.weights.len()).step_by(CHUNK_ROWS) {
            let rows = start..(start + CHUNK_ROWS).min(output.weights.len());
            let left = self.left.decode(rows.clone().map(|i| output.left.get(i)))?;
            let found: Vec<&[u8]> = output.right[rows.clone()].iter().filter_map(Option::as_deref).collect();
            let right = self.right.decode(found.into_iter())?;
            let mut next = 0;
            let places: UInt32Array = output.right[rows.clone()]
                .iter()
                .map(|row| {
                    row.as_ref().map(|_| {
                        next += 1;
                        next - 1
                    })
                })
                .collect();
            let right = right.columns().iter().map(|c| take(c, &places, None));
            let columns = left.columns().iter().cloned().map(Ok).chain(right).collect::<std::result::Result<_, _>>()?;
            let batch = RecordBatch::try_new(self.spec.properties.schema.clone(), columns)?;
            deltas.push(Delta::new(batch, Int64Array::from(output.weights[rows].to_vec())));
        }
        Ok(deltas)
    }
}

impl Operator for AsofJoin {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        self.expire(context)?;
        let mut inputs = inputs.into_iter();
        let mut next = |side: &Side| -> Result<Delta> {
            Delta::concat(&side.columns.schema, &inputs.next().unwrap_or_default())?.consolidate()
        };
        let (left, right) = (next(&self.left)?, next(&self.right)?);
        let mut output = Output::default();
        // Everything is found in the state as it was; only then is it written.
        let (changes, right_writes) = self.change_right(&right, context.state, context.expired)?;
        let (done, left_writes) = self.change_left(&left, &changes, context.state, context.expired, &mut output)?;
        self.restate(&changes, context.state, done, &mut output)?;
        self.write([left_writes, right_writes], context);
        self.deltas(&output)
    }

    fn watermarks(&self, _inputs: &[Watermarks]) -> Watermarks {
        // A right row that comes late restates left rows of any age.
        vec![None; self.spec.properties.schema.fields().len()]
    }

    fn wakes(&self, _watermarks: &[PortWatermarks], now_us: i64) -> bool {
        self.ttl.as_ref().is_some_and(|ttl| ttl.is_due(now_us))
    }

    fn next_wake_us(&self) -> Option<i64> {
        self.ttl.as_ref()?.next_wake_us()
    }

    fn reset(&mut self) {
        self.left.table.reset();
        self.right.table.reset();
        if let Some(ttl) = &mut self.ttl {
            ttl.reset();
        }
    }

    fn describe(&self) -> Description {
        let [left, right] = &self.spec.sides;
        let name = |side: &AsofSide, i: usize| side.schema.field(i).name().clone();
        let keys = left.key.iter().zip(&right.key).map(|(l, r)| format!("{} = {}", name(left, *l), name(right, *r)));
        let symbol = self.spec.nearest.symbol();
        let time = format!("{} {symbol} {}", name(left, left.time), name(right, right.time));
        let conditions: Vec<String> = keys.chain([time]).collect();
        let mut title = conditions.join(" and ");
        if let Some(ttl) = &self.ttl {
            title += &format!(", {}", ttl.title());
        }
        let state = |side: &Side, cost: &str| StateDescription {
            part: side.table.table().part,
            layout: "multimap",
            key: {
                let columns = side.columns.key.iter().chain([&side.columns.time]);
                let names: Vec<String> = columns.map(|i| name(&side.columns, *i)).chain(["row".into()]).collect();
                names.join(", ")
            },
            cost: cost.into(),
        };
        let kind = if self.spec.is_outer { "left" } else { "inner" };
        Description {
            title: format!("AsofJoin: {kind}, {title}"),
            state: [
                state(&self.left, "1 get, 1 put, 1 seek of the right side per row"),
                state(&self.right, "1 get, 1 put per row; 1 seek per left row that it is or was the match of"),
            ]
            .into_iter()
            .chain(self.ttl.as_ref().map(|ttl| ttl.describe("side, join key, time, row")))
            .collect(),
            append_only: false,
            stream_key: self.spec.properties.stream_key_names(),
        }
    }
}

/// What is to be written of a side: keys, and weight and row of those that stay.
#[derive(Default)]
struct Writes {
    keys: ByteRows,
    values: Vec<Option<Vec<u8>>>,
}

impl Writes {
    fn push(&mut self, key: &[u8], row: &[u8], weight: i64) {
        self.keys.push(key);
        self.values.push((weight != 0).then(|| [&weight.to_le_bytes(), row].concat()));
    }

    fn write(&self, table: &mut CachedTable, state: &mut State) {
        table.write_many(state, &self.keys, |i| self.values[i].as_deref());
    }
}

/// The rows that are compared at all.
fn comparable(side: &Side, delta: &Delta) -> Result<Delta> {
    let mask = side.is_comparable(&delta.batch);
    match mask.contains(&false) {
        true => delta.filter(&mask.into()),
        false => Ok(delta.clone()),
    }
}

/// Stored weight and net change of each group. What takes back a row that is not stored is an error, or ignored if it is
/// counted.
fn weights<'v>(
    groups: &Groups,
    delta: &Delta,
    stored: impl Iterator<Item = Option<&'v [u8]>>,
    unknown: Option<&mut u64>,
) -> Result<Vec<(i64, i64)>> {
    let mut weights =
        stored.map(|value| Ok((value.map_or(Ok(0), decode_weight)?, 0))).collect::<Result<Vec<(i64, i64)>>>()?;
    for (row, group) in groups.of_row.iter().enumerate() {
        weights[*group as usize].1 += delta.weight(row);
    }
    let is_unknown = |(old, net): &(i64, i64)| old + net < 0;
    if let Some(unknown) = unknown {
        for weight in weights.iter_mut().filter(|weight| is_unknown(weight)) {
            *unknown += (weight.0 + weight.1).unsigned_abs();
            weight.1 = -weight.0;
        }
    } else if weights.iter().any(is_unknown) {
        return Err(Error::internal("the input of an ASOF join takes back a row that it never gave"));
    }
    Ok(weights)
}

/// The row behind a stored weight.
fn stored_row(value: &[u8]) -> Result<&[u8]> {
    value.get(WEIGHT_BYTES..).ok_or_else(corrupt)
}

fn decode_weight(value: &[u8]) -> Result<i64> {
    Ok(i64::from_le_bytes(*value.first_chunk().ok_or_else(corrupt)?))
}

/// The start behind all keys that begin with `prefix`.
fn after_all(prefix: &[u8]) -> Bound<Vec<u8>> {
    match successor(prefix) {
        Bound::Excluded(next) => Bound::Included(next),
        other => other,
    }
}

fn corrupt() -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: a row of an ASOF join is damaged")
}

#[cfg(test)]
mod tests;
