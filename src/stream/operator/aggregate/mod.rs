//! GROUP BY kept current: aggregates under insertion and retraction, and windows that close.
//!
//! An epoch's rows are gathered by group (`groups`), the stored rows of those groups are fetched in one batch, each
//! function turns old stored columns into new ones (`function` and the files it names), and what the results differ in
//! goes out as -old and +new. Nothing is allocated per row.
//!
//! State, two tables under the view's object:
//! - *groups*: group key, the time column first -> row weight and the stored columns of each function;
//! - *values*: what functions need each value of (see `multiset`): MIN and MAX over an input that takes rows back, aggregates
//!   of ordered values; and of distinct ones (see `distinct`).
//!
//! **Time.** If a group column carries a watermark, a group is closed when that has passed its value: its state is freed,
//! its result stays. A row of a closed group is late. With EMIT ON WINDOW CLOSE a group's result appears when it closes.
//!
//! **`state_ttl`.** The stored row of a group begins with the tick of its last write (`ttl`). A group that is forgotten puts
//! out nothing; what comes for it later makes a new group, whose first result comes without the old one going.

mod approximate;
mod call;
mod closing;
mod describe;
mod distinct;
pub(super) mod exact;
pub(super) mod extreme;
pub(super) mod float;
mod function;
mod multiset;
mod ordered;
mod rows;
mod tally;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod value_tests;
pub(super) mod variance;

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array,
    new_null_array,
};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{cast, interleave, take};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type};
use arrow::util::display::array_value_to_string;
use millstream_catalog::ObjectId;

pub use self::call::{AggregateCall, AggregateKind};
use self::closing::CLOSE_CHUNK_ROWS;
use self::distinct::{DistinctValues, Sets};
use self::function::{Function, empty_row};
use self::multiset::Values;
use self::rows::Rows;
use super::event_time::TimeColumn;
use super::groups::Groups;
use super::sharded::Keyed;
use super::ttl::{STAMP_BYTES, Ttl, TtlSpec};
use super::waiting::{moment, moment_key};
use super::{Description, EpochContext, LateRows, Operator, PortWatermarks, RowError, Watermarks};
use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec, Level, RowCodec, State, TableId, successor};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;

/// What a [`HashAggregate`] is made from.
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    /// Number of the operator in its view.
    pub operator: u32,
    /// The view that holds the state.
    pub object: ObjectId,
    /// First of the two state parts that it takes ([`HashAggregate::PARTS`]).
    pub first_part: u16,
    pub input: SchemaRef,
    /// Whether rows are only ever added.
    pub append_only: bool,
    /// Positions of the group columns in the input.
    pub group_by: Vec<usize>,
    /// Positions in `group_by` of the columns that the others follow from.
    pub key: Vec<usize>,
    pub aggregates: Vec<AggregateCall>,
    /// The group columns, then one column for each aggregate, whose type says how it is computed.
    pub output: SchemaRef,
    /// Position in `group_by` of a column that carries a watermark; its groups close.
    pub time_column: Option<usize>,
    /// Positions in `group_by` of the columns whose watermarks hold for the result: that one, and what follows from it.
    pub timed: Vec<usize>,
    /// Whether a group's result appears only when it closes.
    pub emit_on_window_close: bool,
    /// After which time groups that nothing is written to are forgotten.
    pub ttl: Option<TtlSpec>,
    /// Values of the last group column, which is the id of a grouping set, whose sets have no other column: such a group is
    /// the total, and is there without rows too.
    pub totals: Vec<u64>,
}

/// GROUP BY, or an aggregate over everything if there is no group column.
pub struct HashAggregate {
    spec: AggregateSpec,
    functions: Vec<Function>,
    /// What aggregates are of the distinct values of.
    distinct: Vec<DistinctValues>,
    /// Input columns that are looked at.
    used: Vec<usize>,
    used_schema: SchemaRef,
    /// Positions in `used` of the group columns, as `group_by` has them.
    group_positions: Vec<usize>,
    /// Positions in `used` of what each aggregate looks at.
    argument_positions: Vec<Arguments>,
    /// Order of the group columns in the key: positions in `group_by`.
    key_order: Vec<usize>,
    key_codec: KeyCodec,
    row_codec: RowCodec,
    empty_row: Vec<u8>,
    /// The group column whose watermark closes groups: its position in the input.
    time: Option<(usize, TimeColumn)>,
    groups: CachedTable,
    values: CachedTable,
    /// Whether the groups that are there without rows are known to be stored.
    has_totals: bool,
    /// The watermark up to which groups are known to be closed.
    closed: Option<i64>,
    /// With EMIT ON WINDOW CLOSE, the watermark that closes the next group: `None` if none is open, the least there is while
    /// that is not known.
    next_close: Option<i64>,
    ttl: Option<Ttl>,
}

/// Positions of the columns that an aggregate looks at.
struct Arguments {
    argument: Option<usize>,
    filter: Option<usize>,
    order: Vec<usize>,
}

/// Results of one function for some groups.
pub(super) struct Finished {
    pub values: ArrayRef,
    /// Groups that have no result and why.
    pub errors: Vec<(usize, Error)>,
}

impl Finished {
    fn of(values: ArrayRef) -> Self {
        Self { values, errors: Vec::new() }
    }
}

/// Results of all functions for some groups.
struct Results {
    columns: Vec<ArrayRef>,
    /// By group, the first error of a live group.
    errors: Vec<(usize, Error)>,
    /// Whether the group has a row in the result.
    shown: Vec<bool>,
}

impl HashAggregate {
    /// State parts that an aggregate takes.
    pub const PARTS: u16 = 2;

    /// Checks the specification and makes the operator, with nothing cached.
    ///
    /// # Errors
    /// 0A000 for functions and types that cannot be kept.
    pub fn new(spec: AggregateSpec) -> Result<Self> {
        if spec.output.fields().len() != spec.group_by.len() + spec.aggregates.len() {
            return Err(bad_layout("its output has not one column for each group column and aggregate"));
        }
        let mut used: Vec<usize> = Vec::new();
        let mut position = |column: usize| match used.iter().position(|c| *c == column) {
            Some(i) => i,
            None => {
                used.push(column);
                used.len() - 1
            }
        };
        let group_positions: Vec<usize> = spec.group_by.iter().map(|c| position(*c)).collect();
        let mut argument_positions = Vec::with_capacity(spec.aggregates.len());
        for call in &spec.aggregates {
            argument_positions.push(Arguments {
                argument: call.argument.map(&mut position),
                filter: call.filter.map(&mut position),
                order: call.order_by.iter().map(|sort| position(sort.column)).collect(),
            });
        }

        let data_type = |column: usize| spec.input.field(column).data_type();
        let mut functions = Vec::new();
        let mut sets = Sets { sets: Vec::new(), append_only: spec.append_only };
        for (i, call) in spec.aggregates.iter().enumerate() {
            let positions = (argument_positions[i].argument, argument_positions[i].filter);
            let output = spec.output.field(spec.group_by.len() + i);
            let ordinal = u16::try_from(i).map_err(|_| Error::unsupported("more than 65535 aggregates"))?;
            functions.push(Function::new(call, |c| data_type(c).clone(), output, ordinal, &mut sets, positions)?);
        }

        // The columns that are put out on closing come from the key, so then it has all of them.
        let mut key_order: Vec<usize> = match spec.emit_on_window_close {
            true => (0..spec.group_by.len()).collect(),
            false => spec.key.clone(),
        };
        let mut time = None;
        if let Some(first) = spec.time_column {
            key_order.retain(|i| *i != first);
            key_order.insert(0, first);
            let input = spec.group_by[first];
            time = Some((input, TimeColumn::new(data_type(input))?));
        } else if spec.emit_on_window_close {
            return Err(Error::unsupported("EMIT ON WINDOW CLOSE without a group column that carries a watermark")
                .with_hint("group by window_start or window_end of TUMBLE or HOP over a source with a WATERMARK"));
        }
        let key_types: Vec<DataType> = key_order.iter().map(|i| data_type(spec.group_by[*i]).clone()).collect();
        let state_types: Vec<DataType> =
            std::iter::once(DataType::Int64).chain(functions.iter().flat_map(Function::state_types)).collect();
        let row_codec = RowCodec::new(&state_types)?;
        let table = |part| TableId::new(spec.object.0, spec.first_part + part);
        Ok(Self {
            used_schema: Arc::new(nullable(&spec.input.project(&used)?)),
            used,
            group_positions,
            argument_positions,
            key_order,
            key_codec: KeyCodec::new(&key_types)?,
            empty_row: empty_row(&functions, &row_codec)?,
            row_codec,
            time,
            groups: CachedTable::new(table(0)),
            values: CachedTable::new(table(1)),
            has_totals: false,
            closed: None,
            next_close: spec.emit_on_window_close.then_some(i64::MIN),
            ttl: spec.ttl.map(|ttl| Ttl::new(spec.object.0, ttl)),
            functions,
            distinct: sets.sets,
            spec,
        })
    }

    /// The same with another budget for each of its caches.
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.groups = CachedTable::with_bytes(self.groups.table(), bytes);
        self.values = CachedTable::with_bytes(self.values.table(), bytes);
        self
    }

    /// What the stored rows of groups begin with, if they are forgotten: the tick of the last write.
    fn head(&self) -> usize {
        if self.ttl.is_some() { STAMP_BYTES } else { 0 }
    }

    fn is_global(&self) -> bool {
        self.spec.group_by.is_empty()
    }

    /// Whether some groups are there without rows.
    fn has_fixed_groups(&self) -> bool {
        self.is_global() || !self.spec.totals.is_empty()
    }

    /// Which groups are there without rows.
    fn fixed_groups(&self, columns: &[ArrayRef], groups: &Groups) -> Result<Vec<bool>> {
        let (Some(position), false) = (self.group_positions.last(), self.spec.totals.is_empty()) else {
            return Ok(vec![self.is_global(); groups.len()]);
        };
        let ids = cast(&columns[*position], &DataType::UInt64)?;
        let ids = ids.as_primitive::<UInt64Type>();
        let id = |group: usize| ids.value(groups.first_row[group] as usize);
        Ok((0..groups.len()).map(|group| self.spec.totals.contains(&id(group))).collect())
    }

    /// A row of no weight for each group that is there without rows.
    fn rows_of_totals(&self) -> Result<Delta> {
        let count = self.spec.totals.len();
        let mut columns: Vec<ArrayRef> =
            self.used_schema.fields().iter().map(|f| new_null_array(f.data_type(), count)).collect();
        if let Some(position) = self.group_positions.last() {
            let ids: ArrayRef = Arc::new(UInt64Array::from(self.spec.totals.clone()));
            columns[*position] = cast(&ids, columns[*position].data_type())?;
        }
        Ok(Delta::new(batch(&self.used_schema, columns, count)?, Int64Array::from_value(0, count)))
    }

    /// Hands the rows of closed groups to `context.late` and returns the others with the columns that are used.
    fn take_in(&self, deltas: &[Delta], context: &mut EpochContext<'_>) -> Result<Delta> {
        let mut kept = Vec::with_capacity(deltas.len());
        for delta in deltas.iter().filter(|d| !d.is_empty()) {
            let late = self.time.as_ref().and_then(|(input, time)| {
                let watermark = watermark(&context.watermarks.first()?.committed, *input)?;
                Some((time.below(delta.batch.column(*input), watermark)?, watermark))
            });
            let Some((late, watermark)) = late else {
                kept.push(self.project(delta)?);
                continue;
            };
            context.late.push(LateRows { operator: self.spec.operator, rows: delta.filter(&late)?, watermark });
            kept.push(self.project(&delta.filter(&arrow::compute::not(&late)?)?)?);
        }
        Delta::concat(&self.used_schema, &kept)
    }

    /// The used columns; float group columns made canonical, since -0 and 0 are one group and so is every NaN.
    fn project(&self, delta: &Delta) -> Result<Delta> {
        let mut columns: Vec<ArrayRef> = self.used.iter().map(|c| delta.batch.column(*c).clone()).collect();
        for position in &self.group_positions {
            let column = &mut columns[*position];
            let canonical: ArrayRef = match column.data_type() {
                DataType::Float32 => Arc::new(
                    column
                        .as_primitive::<Float32Type>()
                        .unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v + 0.0 }),
                ),
                DataType::Float64 => Arc::new(
                    column
                        .as_primitive::<Float64Type>()
                        .unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { v + 0.0 }),
                ),
                _ => continue,
            };
            // An aggregate of the same column sees the canonical values too: they are equal.
            *column = canonical;
        }
        Ok(Delta { batch: batch(&self.used_schema, columns, delta.rows())?, weights: delta.weights.clone() })
    }

    /// The group of each row and the groups' keys.
    fn assign(&self, delta: &Delta) -> Result<Groups> {
        if self.is_global() {
            return Ok(Groups::single(delta.rows()));
        }
        let columns = delta.batch.columns();
        let key_columns: Vec<ArrayRef> =
            self.key_order.iter().map(|i| columns[self.group_positions[*i]].clone()).collect();
        Ok(Groups::assign(&self.key_codec.encode(&key_columns)?))
    }

    /// The changes without the rows that are taken back from groups that are not there: those were forgotten.
    fn without_forgotten(&mut self, delta: Delta, context: &mut EpochContext<'_>) -> Result<Delta> {
        let takes_back = delta.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|w| *w < 0));
        if self.ttl.is_none() || !takes_back {
            return Ok(delta);
        }
        let delta = delta.consolidate()?;
        let groups = self.assign(&delta)?;
        let stored = self.groups.get_many(context.state, &groups.keys)?;
        let is_known = |row: usize| delta.weight(row) > 0 || stored.get(groups.of_row[row] as usize).is_some();
        let known: Vec<bool> = (0..delta.rows()).map(is_known).collect();
        let ignored = (0..delta.rows()).filter(|row| !known[*row]).map(|row| delta.weight(row).unsigned_abs());
        *context.expired += ignored.sum::<u64>();
        delta.filter(&BooleanArray::from(known))
    }

    /// Forgets the groups that were not written to for long. Their rows in the result stay.
    fn expire(&mut self, context: &mut EpochContext<'_>) -> Result<()> {
        let keeps_values = self.functions.iter().any(Function::keeps_values);
        let Self { ttl: Some(ttl), groups, values, .. } = self else { return Ok(()) };
        let shard = context.shard;
        ttl.expire(context.state, context.now_us, |_, state, ticks, keys| {
            let stored = state.multi_get(groups.table(), keys)?;
            let mut gone = ByteRows::new();
            for ((key, row), tick) in keys.iter().zip(stored.iter()).zip(ticks) {
                if let Some(row) = row
                    && shard.owns(key)
                    && moment(row)? == *tick
                {
                    gone.push(key);
                }
            }
            groups.write_many(state, &gone, |_| None);
            if keeps_values { forget_values(values, state, &gone) } else { Ok(()) }
        })
    }

    /// Takes the rows into the groups' state; what changes in the result goes to `output`.
    fn change(&mut self, delta: &Delta, context: &mut EpochContext<'_>, output: &mut Vec<Delta>) -> Result<()> {
        let columns = delta.batch.columns();
        let groups = self.assign(delta)?;
        let weights = delta.weights.as_ref().map(|w| w.values().as_ref());
        let (tick, head) = (self.ttl.as_ref().map(|ttl| ttl.tick(context.now_us)), self.head());

        let fixed = self.fixed_groups(columns, &groups)?;
        let stored = self.groups.get_many(context.state, &groups.keys)?;
        let existed: Vec<bool> = stored.iter().map(|row| row.is_some()).collect();
        let rows = stored.iter().map(|row| row.map_or(self.empty_row.as_slice(), |row| &row[head.min(row.len())..]));
        let old = self.row_codec.decode(rows)?;
        let ticks: Vec<Option<i64>> = match tick {
            Some(_) => stored.iter().map(|row| row.map(moment).transpose()).collect::<Result<_>>()?,
            None => Vec::new(),
        };

        let mut row_weights: Vec<i64> = old[0].as_primitive::<Int64Type>().values().to_vec();
        Rows::new(&groups.of_row, weights, None, None).each(|_, group, weight| row_weights[group] += weight);
        let mut new: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(row_weights))];
        let mut first = 1;
        let mut values = Values { table: &mut self.values, state: context.state, groups: &groups.keys };
        let moved = self.distinct.iter().map(|set| set.take_in(columns, &groups.of_row, weights, &mut values));
        let moved = moved.collect::<Result<Vec<_>>>()?;
        for (function, arguments) in self.functions.iter().zip(&self.argument_positions) {
            let width = function.state_types().len();
            let before = &old[first..first + width];
            first += width;
            if let Function::Distinct(function) = function {
                let argument = self.distinct[function.set].argument(columns);
                new.extend(function.apply(argument, &moved, before, &mut values)?);
                continue;
            }
            let argument = arguments.argument.map(|i| &columns[i]);
            let filter = arguments.filter.map(|i| columns[i].as_boolean());
            let order: Vec<ArrayRef> = arguments.order.iter().map(|i| columns[*i].clone()).collect();
            let rows = match function.keeps_nulls() {
                true => Rows::with_nulls(&groups.of_row, weights, argument, filter),
                false => Rows::new(&groups.of_row, weights, argument, filter),
            };
            new.extend(function.apply(&rows.ordered_by(&order), before, &mut values)?);
        }

        let new_weights = new[0].as_primitive::<Int64Type>().values();
        let mut encoded = self.row_codec.encode(&new)?;
        if let Some(tick) = tick {
            let stamp = |group: usize| moment_key(ticks[group].map_or(tick, |before| before.max(tick)));
            let mut stamped = ByteRows::with_capacity(encoded.len(), encoded.bytes() + encoded.len() * STAMP_BYTES);
            encoded.iter().enumerate().for_each(|(group, row)| stamped.push_pair(&stamp(group), row));
            encoded = stamped;
        }
        // What takes back rows of before a group was forgotten may leave it with less than none.
        let stays = |group: usize| {
            fixed[group] || if tick.is_some() { new_weights[group] > 0 } else { new_weights[group] != 0 }
        };
        let differs: Vec<u32> = (0..groups.len())
            .filter(|g| if stays(*g) { stored.get(*g) != Some(encoded.get(*g)) } else { existed[*g] })
            .map(|g| g as u32)
            .collect();
        if let (true, Some((input, time))) = (self.spec.emit_on_window_close, &self.time) {
            let position = self.used.iter().position(|column| column == input);
            let closes = position.and_then(|position| time.passed_at(&columns[position]));
            self.next_close = self.next_close.into_iter().chain(closes).min();
        }
        if !self.spec.emit_on_window_close {
            let before = self.results(&old, |group| existed[group], &fixed)?;
            let after = self.results(&new, |_| true, &fixed)?;
            self.emit_changes(columns, &groups, &before, &after, context, output)?;
        }
        if let Some(tick) = tick {
            let written = |group: &usize| stays(*group) && !fixed[*group] && ticks[*group].is_none_or(|t| t < tick);
            let written: ByteRows = (0..groups.len()).filter(written).map(|group| groups.keys.get(group)).collect();
            let gone: ByteRows = (0..groups.len()).filter(|g| !stays(*g)).map(|group| groups.keys.get(group)).collect();
            if self.functions.iter().any(Function::keeps_values) {
                forget_values(&mut self.values, context.state, &gone)?;
            }
            if let Some(ttl) = &mut self.ttl {
                ttl.note(context.state, context.now_us, &written);
            }
            *context.expired += new_weights.iter().map(|weight| weight.min(&0).unsigned_abs()).sum::<u64>();
        }
        if differs.len() == groups.len() {
            self.groups.write_many(context.state, &groups.keys, |group| stays(group).then(|| encoded.get(group)));
            return Ok(());
        }
        let keys: ByteRows = differs.iter().map(|g| groups.keys.get(*g as usize)).collect();
        self.groups.write_many(context.state, &keys, |i| {
            let group = differs[i] as usize;
            stays(group).then(|| encoded.get(group))
        });
        Ok(())
    }

    /// Results for states of groups, of which those that are not there have none, nor those without rows, unless `fixed`.
    fn results(&self, state: &[ArrayRef], exists: impl Fn(usize) -> bool, fixed: &[bool]) -> Result<Results> {
        let weights = state[0].as_primitive::<Int64Type>().values();
        let mut shown: Vec<bool> =
            weights.iter().enumerate().map(|(group, w)| exists(group) && (*w > 0 || fixed[group])).collect();
        let mut columns = Vec::with_capacity(self.functions.len());
        let mut errors: Vec<(usize, Error)> = Vec::new();
        let mut first = 1;
        for function in &self.functions {
            let width = function.state_types().len();
            let finished = function.finish(&state[0], &state[first..first + width])?;
            first += width;
            for (group, error) in finished.errors {
                if shown[group] {
                    shown[group] = false;
                    errors.push((group, error));
                }
            }
            columns.push(finished.values);
        }
        errors.sort_by_key(|(group, _)| *group);
        Ok(Results { columns, errors, shown })
    }

    /// Puts out -old and +new of every group whose result row differs.
    fn emit_changes(
        &self,
        columns: &[ArrayRef],
        groups: &Groups,
        before: &Results,
        after: &Results,
        context: &mut EpochContext<'_>,
        output: &mut Vec<Delta>,
    ) -> Result<()> {
        let mut same = vec![true; groups.len()];
        for (a, b) in before.columns.iter().zip(&after.columns) {
            let equal = equal_values(a, b)?;
            same.iter_mut().enumerate().for_each(|(group, same)| *same &= equal.value(group));
        }
        // (which side, group) of each row put out.
        let mut picks: Vec<(usize, usize)> = Vec::new();
        for (group, same) in same.into_iter().enumerate() {
            let (old, new) = (before.shown[group], after.shown[group]);
            if old && new && same {
                continue;
            }
            picks.extend(old.then_some((0, group)));
            picks.extend(new.then_some((1, group)));
        }
        let group_columns = |rows: &UInt32Array| -> Result<Vec<ArrayRef>> {
            Ok(self.group_positions.iter().map(|p| take(&columns[*p], rows, None)).collect::<Result<_, _>>()?)
        };
        if !picks.is_empty() {
            let rows = match self.is_global() {
                true => UInt32Array::from(Vec::<u32>::new()),
                false => UInt32Array::from_iter_values(picks.iter().map(|(_, g)| groups.first_row[*g])),
            };
            let mut result = group_columns(&rows)?;
            for (a, b) in before.columns.iter().zip(&after.columns) {
                result.push(interleave(&[a.as_ref(), b.as_ref()], &picks)?);
            }
            let weights = Int64Array::from_iter_values(picks.iter().map(|(side, _)| if *side == 0 { -1 } else { 1 }));
            output.push(Delta::new(batch(&self.spec.output, result, picks.len())?, weights));
        }

        // An error that stays the same is not news.
        let is_in = |results: &Results, group: usize, error: &Error| {
            let at = results.errors.binary_search_by_key(&group, |(g, _)| *g);
            at.is_ok_and(|i| results.errors[i].1 == *error)
        };
        for (results, other, weight) in [(before, after, -1), (after, before, 1)] {
            for (group, error) in results.errors.iter().filter(|(g, e)| !is_in(other, *g, e)) {
                let rows = UInt32Array::from_iter_values(groups.first_row.get(*group).copied());
                context.errors.push(self.row_error(error, &group_columns(&rows)?, 0, weight)?);
            }
        }
        Ok(())
    }

    fn row_error(&self, error: &Error, group_columns: &[ArrayRef], row: usize, weight: i64) -> Result<RowError> {
        let mut text = Vec::with_capacity(group_columns.len());
        for (i, column) in group_columns.iter().enumerate() {
            let value = if column.is_null(row) { "NULL".into() } else { array_value_to_string(column, row)? };
            text.push(format!("{}: {value}", self.spec.output.field(i).name()));
        }
        Ok(RowError {
            operator: self.spec.operator,
            sqlstate: error.sqlstate().into(),
            message: error.message().into(),
            row: format!("group ({})", text.join(", ")),
            weight,
        })
    }
}

impl Keyed for HashAggregate {
    fn keys(&self, _input: usize, batch: &RecordBatch) -> Result<ByteRows> {
        let columns = self.key_order.iter().map(|i| batch.column(self.spec.group_by[*i]).clone());
        self.key_codec.encode(&columns.collect::<Vec<_>>())
    }
}

impl Operator for HashAggregate {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let deltas = inputs.into_iter().next().unwrap_or_default();
        self.expire(context)?;
        let delta = self.take_in(&deltas, context)?;
        let mut delta = self.without_forgotten(delta, context)?;
        let mut output = Vec::new();
        let adds_totals = self.has_fixed_groups() && !self.has_totals;
        if adds_totals && !self.is_global() {
            delta = Delta::concat(&self.used_schema, &[delta, self.rows_of_totals()?])?;
        }
        if !delta.is_empty() || adds_totals {
            self.change(&delta, context, &mut output)?;
            self.has_totals = self.has_fixed_groups();
        }
        self.close(context, &mut output)?;
        self.groups.end_epoch();
        self.values.end_epoch();
        Ok(output)
    }

    fn wakes(&self, watermarks: &[PortWatermarks], now_us: i64) -> bool {
        let current = self.time.as_ref().and_then(|(input, _)| watermark(&watermarks.first()?.current, *input));
        (self.has_fixed_groups() && !self.has_totals)
            || self.ttl.as_ref().is_some_and(|ttl| ttl.is_due(now_us))
            || current.is_some_and(|w| self.closed.is_none_or(|closed| closed < w))
    }

    fn held_until(&self) -> Option<(usize, i64)> {
        let (input, _) = self.time.as_ref()?;
        Some((*input, self.next_close?))
    }

    fn next_wake_us(&self) -> Option<i64> {
        self.ttl.as_ref()?.next_wake_us()
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        let mut out: Watermarks = vec![None; self.spec.output.fields().len()];
        if let Some(input) = inputs.first() {
            for i in &self.spec.timed {
                out[*i] = input.get(self.spec.group_by[*i]).copied().flatten();
            }
        }
        out
    }

    fn is_net(&self, _inputs: &[bool]) -> bool {
        true
    }

    fn reset(&mut self) {
        self.groups.reset();
        self.values.reset();
        self.has_totals = false;
        self.closed = None;
        self.next_close = self.spec.emit_on_window_close.then_some(i64::MIN);
        if let Some(ttl) = &mut self.ttl {
            ttl.reset();
        }
    }

    fn describe(&self) -> Description {
        self.description()
    }
}

/// Forgets the values of some groups.
fn forget_values(values: &mut CachedTable, state: &mut State, groups: &ByteRows) -> Result<()> {
    for group in groups.iter() {
        let end = successor(group);
        loop {
            let (mut keys, mut counts) = (ByteRows::new(), ByteRows::new());
            let end = end.as_ref().map(Vec::as_slice);
            state.scan(values.table(), Bound::Included(group), end, Level::Open).fill(
                &mut keys,
                &mut counts,
                CLOSE_CHUNK_ROWS,
            )?;
            if keys.is_empty() {
                break;
            }
            values.write_many(state, &keys, |_| None);
        }
    }
    Ok(())
}

/// In which rows two columns of one type are the same, NULLs included.
fn equal_values(a: &ArrayRef, b: &ArrayRef) -> Result<BooleanArray> {
    if !a.data_type().is_nested() {
        return Ok(not_distinct(a, b)?);
    }
    let codec = RowCodec::new(std::slice::from_ref(a.data_type()))?;
    let (a, b) = (codec.encode(std::slice::from_ref(a))?, codec.encode(std::slice::from_ref(b))?);
    Ok(a.iter().zip(b.iter()).map(|(a, b)| Some(a == b)).collect())
}

fn watermark(watermarks: &Watermarks, column: usize) -> Option<i64> {
    watermarks.get(column).copied().flatten()
}

/// A batch that may have no column.
fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let schema = match columns.iter().zip(schema.fields()).all(|(c, f)| f.is_nullable() || c.null_count() == 0) {
        true => schema.clone(),
        // Rather a value than a crash where a plan was too sure that it has no NULL.
        false => Arc::new(nullable(schema)),
    };
    Ok(RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
}

fn nullable(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>())
}

fn bad_layout(message: &str) -> Error {
    Error::internal(format!("an aggregate was given columns that it was not made for: {message}"))
}
