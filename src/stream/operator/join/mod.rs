//! The equi-join of two inputs, kept current: ΔA ⋈ B + A' ⋈ ΔB, where A' is A with its changes.
//!
//! Each side's rows are stored by join key, in a layout that its properties choose (`side`); the changes of one side look
//! up the rows of the other. Changes are netted first, distinct join keys are looked up once and in key order, and result
//! rows are gathered by column from both sides, some thousand at a time. Without join columns every row has the same key.
//!
//! Outer, semi, anti and mark joins also put out rows on their own, which depends on whether these have a match. Where the
//! keys alone decide that, each side's number of rows by key is kept (`totals`), and the rows of a key change when that
//! becomes zero or ceases to be. Where a residual condition decides too, each stored row has its number of matches.
//!
//! A join as of now (`FOR SYSTEM_TIME AS OF PROCTIME()`) stores the right side alone and never restates a row.
//!
//! Where the condition bounds a row's time by the time of its partners (`TimeBound`), the row is needed until the watermark of
//! the other side has passed that bound: it is stored with this moment before it and behind its join key (`side`), passed
//! over afterwards, and dropped by compactions. What is no longer needed when its epoch ends is not stored at all. A change
//! of which partners may have been forgotten is late.
//!
//! With a `state_ttl` each stored row begins with the tick of its last write (`ttl`). A row that is forgotten takes nothing
//! back; what takes it back later is ignored, so that rows that came of it stay. A result's row may come again, and one may
//! go that is not there, where a match was forgotten.
//!
//! State: a table of rows a side: join key, then what tells rows of one join key apart -> weight, matches, row; a table of
//! totals a side where needed: join key -> number of rows.

mod bounds;
mod describe;
mod kind;
mod output;
mod pairs;
mod residual;
mod rows_cache;
mod side;
#[cfg(test)]
mod tests;
mod totals;

use arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{filter, take};
use arrow::datatypes::{SchemaRef, UInt32Type};
use millstream_catalog::ObjectId;

pub use self::bounds::TimeBound;
pub use self::kind::JoinKind;
use self::output::{AloneRows, Output};
use self::pairs::RowsOfKey;
pub use self::residual::Residual;
use self::side::{Changes, Head, Heads, Layout, Matches, Side};
use self::totals::Totals;
use super::event_time::TimeColumn;
use super::sharded::Keyed;
use super::ttl::{Ttl, TtlSpec};
use super::{Description, EpochContext, LateRows, Operator, PortWatermarks, RowError, Watermarks};
use crate::error::{Error, Result};
use crate::state::{ByteRows, State, TableId};
use crate::stream::changelog::Delta;

/// Rows of a result batch, and stored rows decoded together.
const CHUNK_ROWS: usize = 8192;
/// Rows that a join may put out in one epoch.
pub const OUTPUT_ROWS_MAX: usize = 10_000_000;

/// One input of a [`Join`].
#[derive(Debug, Clone)]
pub struct JoinSide {
    pub schema: SchemaRef,
    /// Positions of the join columns; those of both sides pair up and have the same types.
    pub key: Vec<usize>,
    /// Columns that are unique among the side's rows, if there are such.
    pub stream_key: Option<Vec<usize>>,
    /// Whether rows are only ever added.
    pub append_only: bool,
}

/// What a [`Join`] is made from.
#[derive(Debug, Clone)]
pub struct JoinSpec {
    /// Number of the operator in its view.
    pub operator: u32,
    /// The view that holds the state.
    pub object: ObjectId,
    /// First of the state parts that it takes ([`Join::PARTS`]).
    pub first_part: u16,
    pub kind: JoinKind,
    /// Whether left rows, which only come, meet the right side as it is when they come, and no change of it later. For
    /// inner and left joins.
    pub as_of_now: bool,
    /// Left and right.
    pub sides: [JoinSide; 2],
    /// For each pair of join columns, whether NULL matches NULL (IS NOT DISTINCT FROM).
    pub null_safe: Vec<bool>,
    /// What a pair must pass beside the equality of its keys to match.
    pub residual: Option<Residual>,
    /// All columns of the left side, then, if the kind shows them, all of the right or the mark.
    pub output: SchemaRef,
    /// A pair of join columns that carry a watermark on both sides: rows that both watermarks have passed are forgotten,
    /// and what comes for them later is late.
    pub time_key: Option<usize>,
    /// Positions in the keys of the columns whose watermarks hold for the result: those, and what follows from them.
    pub timed_keys: Vec<usize>,
    /// For each side whose rows can be forgotten by the time of their partners, that bound; part of `residual`. Where a side
    /// takes rows back both sides have one, each of the timestamp that bounds the other: so late changes are known.
    pub bounds: [Option<TimeBound>; 2],
    /// After which time rows are forgotten that are not written again.
    pub ttl: Option<TtlSpec>,
}

impl JoinSpec {
    /// Whether the result only grows.
    pub fn append_only(&self) -> bool {
        if self.as_of_now {
            return self.sides[0].append_only;
        }
        // A row whose match was forgotten is put out once more by the next one.
        let once = self.ttl.is_none() || self.kind == JoinKind::Inner;
        self.kind.keeps_append_only() && once && self.sides.iter().all(|side| side.append_only)
    }

    /// Columns of the result that are unique in it: the keys of both sides, without that of a side of which a row can only
    /// match one. `None` if there are no such columns.
    pub fn stream_key(&self) -> Option<Vec<usize>> {
        let [left, right] = &self.sides;
        let left_key = || left.stream_key.clone();
        let right_key = || Some(right.stream_key.as_ref()?.iter().map(|c| c + left.schema.fields().len()).collect());
        let both = || Some([left_key()?, right_key()?].concat());
        match self.kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => left_key(),
            JoinKind::Inner | JoinKind::Left if right.is_unique() => left_key(),
            JoinKind::Inner | JoinKind::Right if left.is_unique() => right_key(),
            JoinKind::Inner | JoinKind::Left | JoinKind::Right => both(),
            // A left and a right row without a match could both be all NULL in these columns.
            JoinKind::Full if left.key_is_never_null() || right.key_is_never_null() => both(),
            JoinKind::Full => None,
        }
    }
}

impl JoinSide {
    /// Whether no two rows have the same join key.
    fn is_unique(&self) -> bool {
        self.stream_key.as_ref().is_some_and(|key| key.iter().all(|c| self.key.contains(c)))
    }

    /// Whether each row has a column in its stream key that is not NULL.
    fn key_is_never_null(&self) -> bool {
        self.stream_key.iter().flatten().any(|c| !self.schema.field(*c).is_nullable())
    }
}

/// A join of any [`JoinKind`].
pub struct Join {
    spec: JoinSpec,
    sides: [Side; 2],
    /// For each side, its number of rows by key, where the other side's rows on their own depend on it.
    totals: [Option<Totals>; 2],
    time: Option<TimeColumn>,
    /// The watermark below which rows are known to be freed: of the time key, or of the bounds.
    freed: Option<i64>,
    ttl: Option<Ttl>,
    output_rows_max: usize,
}

impl Join {
    /// State parts that a join takes.
    pub const PARTS: u16 = 4;

    /// Checks the specification and makes the operator, with nothing cached.
    ///
    /// # Errors
    /// 0A000 for join columns that cannot be keys.
    pub fn new(spec: JoinSpec) -> Result<Self> {
        let [left, right] = &spec.sides;
        let pairs = left.key.len();
        if right.key.len() != pairs || spec.null_safe.len() != pairs {
            return Err(Error::internal("a join has not as many key columns on one side as on the other"));
        }
        for (l, r) in left.key.iter().zip(&right.key) {
            let (l, r) = (left.schema.field(*l), right.schema.field(*r));
            if l.data_type() != r.data_type() {
                let types = format!("{} and {}", l.data_type(), r.data_type());
                return Err(Error::internal(format!(
                    "join columns {} and {} are of types {types}",
                    l.name(),
                    r.name()
                )));
            }
        }
        let mut key_order: Vec<usize> = (0..pairs).collect();
        let mut time = None;
        if let Some(first) = spec.time_key {
            key_order.retain(|i| *i != first);
            key_order.insert(0, first);
            time = Some(TimeColumn::new(left.schema.field(left.key[first]).data_type())?);
        }
        let table = |part| TableId::new(spec.object.0, spec.first_part + part);
        let side = |side: usize| {
            let on_its_own = spec.kind.alone(side).is_some();
            let counts_matches = on_its_own && spec.residual.is_some();
            let wants = on_its_own && spec.kind != JoinKind::Semi;
            let head = match (spec.ttl.is_some(), spec.bounds[side].is_some()) {
                (true, _) => Head::Tick,
                (false, true) => Head::Until,
                (false, false) => Head::Nothing,
            };
            let table = table(side as u16);
            Side::new(&spec.sides[side], &key_order, &spec.null_safe, table, head, counts_matches, wants)
        };
        let sides = [side(0)?, side(1)?];
        let by_key = spec.residual.is_none() && !spec.as_of_now;
        let totals = |side: usize| {
            let has_rows = is_stored(&spec, side) && sides[side].layout == Layout::Unique;
            let needed = by_key && spec.kind.alone(1 - side).is_some() && !has_rows;
            needed.then(|| Totals::new(table(2 + side as u16)))
        };
        let totals = [totals(0), totals(1)];
        let ttl = spec.ttl.map(|ttl| Ttl::new(spec.object.0, ttl));
        Ok(Self { sides, totals, time, freed: None, ttl, output_rows_max: OUTPUT_ROWS_MAX, spec })
    }

    /// The same with another budget for the cache of each side.
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.sides.iter_mut().for_each(|side| side.set_cache_bytes(bytes));
        self.totals.iter_mut().flatten().for_each(|totals| totals.set_cache_bytes(bytes));
        self
    }

    /// The same with another bound on the rows of one epoch's result.
    pub fn with_output_rows_max(mut self, rows: usize) -> Self {
        self.output_rows_max = rows;
        self
    }

    /// The watermark of the time key: what both sides have passed.
    fn passed(&self, of_port: impl Fn(usize) -> Option<Watermarks>) -> Option<i64> {
        let pair = self.spec.time_key?;
        let of_side = |i: usize| of_port(i)?.get(self.spec.sides[i].key[pair]).copied().flatten();
        Some(of_side(0)?.min(of_side(1)?))
    }

    /// The timestamp of a side that says which of its rows are late, and the watermark by which they are.
    fn late_below(&self, side: usize, context: &EpochContext<'_>) -> Option<(usize, i64)> {
        let committed = |port: usize| Some(context.watermarks.get(port)?.committed.clone());
        match (self.spec.time_key, &self.spec.bounds[1 - side]) {
            (Some(pair), _) => Some((self.spec.sides[side].key[pair], self.passed(committed)?)),
            (None, Some(bound)) => Some((bound.passed_by, self.bounds_passed(committed)?)),
            (None, None) => None,
        }
    }

    /// One input's changes, netted, without the late ones.
    fn take_in(&self, side: usize, deltas: Vec<Delta>, context: &mut EpochContext<'_>) -> Result<Changes> {
        let delta = Delta::concat(&self.spec.sides[side].schema, &deltas)?;
        let late = match self.late_below(side, context) {
            Some((column, watermark)) => {
                let column = delta.batch.column(column);
                TimeColumn::new(column.data_type())?.below(column, watermark).map(|late| (late, watermark))
            }
            None => None,
        };
        let Some((late, watermark)) = late else { return self.sides[side].gather(delta) };
        context.late.push(LateRows { operator: self.spec.operator, rows: delta.filter(&late)?, watermark });
        self.sides[side].gather(delta.filter(&arrow::compute::not(&late)?)?)
    }

    /// Without what takes back rows that were forgotten.
    fn without_forgotten(&mut self, side: usize, changes: Changes, context: &mut EpochContext<'_>) -> Result<Changes> {
        if self.ttl.is_none() {
            return Ok(changes);
        }
        let (changes, ignored) = self.sides[side].without_forgotten(context.state, changes)?;
        *context.expired += ignored;
        Ok(changes)
    }

    /// Takes changes into a side's rows.
    fn store(&mut self, side: usize, changes: &Changes, counts: &[i64], context: &mut EpochContext<'_>) -> Result<()> {
        let tick = self.ttl.as_ref().map(|ttl| ttl.tick(context.now_us));
        let heads = tick.map_or(Heads::Nothing, Heads::Tick);
        let written = self.sides[side].apply(context.state, context.epoch, changes, counts, heads)?;
        if let Some(ttl) = &mut self.ttl {
            let mut keys = ByteRows::with_capacity(written.len(), written.bytes() + written.len());
            written.iter().for_each(|key| keys.push_pair(&[side as u8], key));
            ttl.note(context.state, context.now_us, &keys);
        }
        Ok(())
    }

    /// Forgets the rows that were not written for long. What came of them in the result stays.
    fn expire(&mut self, context: &mut EpochContext<'_>) -> Result<()> {
        let Self { ttl: Some(ttl), sides, totals, .. } = self else { return Ok(()) };
        let shard = context.shard;
        ttl.expire(context.state, context.now_us, |_, state, ticks, keys| {
            for (number, (side, totals)) in sides.iter_mut().zip(totals.iter_mut()).enumerate() {
                let own: Vec<usize> =
                    (0..keys.len()).filter(|i| keys.get(*i).first() == Some(&(number as u8))).collect();
                let rows: ByteRows = own.iter().map(|i| &keys.get(*i)[1..]).collect();
                let ticks: Vec<i64> = own.iter().map(|i| ticks[*i]).collect();
                let (gone, weights) = side.forget(state, shard, &ticks, &rows)?;
                if let Some(totals) = totals {
                    totals.take_away(state, &gone, &weights)?;
                }
            }
            Ok(())
        })
    }

    /// The epoch where keys alone decide what matches.
    fn run_by_key(
        &mut self,
        changes: &[Changes; 2],
        context: &mut EpochContext<'_>,
        output: &mut Output,
    ) -> Result<()> {
        // Rows on their own change in two steps: those of before with the other side's changes, then those that changed.
        for side in 0..2 {
            if let Some(alone) = self.spec.kind.alone(side) {
                let other = 1 - side;
                let flips = self.presence_flips(other, &changes[other], context.state)?;
                let flipped: Vec<usize> = (0..flips.len()).filter(|key| flips[*key].0 != flips[*key].1).collect();
                let keys: ByteRows = flipped.iter().map(|key| changes[other].groups.keys.get(*key)).collect();
                if !keys.is_empty() {
                    self.sides[side].matches(context.state, &keys, |matches| {
                        let mut rows = AloneRows::default();
                        for (row, key) in matches.keys.iter().enumerate() {
                            let (before, after) = flips[flipped[*key as usize]];
                            rows.flip(alone, row, matches.weights.value(row), before, after);
                        }
                        output.alone(side, alone, &matches.columns, rows)
                    })?;
                }
            }
        }
        for (side, changes) in changes.iter().enumerate() {
            if self.spec.kind.pairs() {
                self.probe(side, changes, context.state, output)?;
            }
            if is_stored(&self.spec, side) {
                self.store(side, changes, &[], context)?;
            }
        }
        for (side, changes) in changes.iter().enumerate() {
            if let Some(alone) = self.spec.kind.alone(side) {
                let matched = self.presence(1 - side, &changes.groups.keys, context.state)?;
                let mut rows = AloneRows::default();
                for (row, key) in changes.groups.of_row.iter().enumerate() {
                    rows.add(alone, row, changes.delta.weight(row), matched[*key as usize]);
                }
                output.alone(side, alone, changes.delta.batch.columns(), rows)?;
                self.put_out_unmatchable(side, changes, output)?;
            }
        }
        Ok(())
    }

    /// For each join key of a side's changes, whether it had rows before and whether it has rows now. The changes are taken
    /// into the totals.
    fn presence_flips(&mut self, side: usize, changes: &Changes, state: &mut State) -> Result<Vec<(bool, bool)>> {
        if changes.delta.is_empty() {
            return Ok(vec![(false, false); changes.groups.len()]);
        }
        if let Some(totals) = &mut self.totals[side] {
            return totals.change(state, changes);
        }
        let before = self.presence(side, &changes.groups.keys, state)?;
        let net = changes.net();
        Ok(before.into_iter().zip(net).map(|(before, net)| (before, i64::from(before) + net > 0)).collect())
    }

    /// Whether a side has a row with each of the keys.
    fn presence(&mut self, side: usize, keys: &ByteRows, state: &State) -> Result<Vec<bool>> {
        if let Some(totals) = &mut self.totals[side] {
            return totals.any(state, keys);
        }
        self.sides[side]
            .any(state, keys)?
            .ok_or_else(|| Error::internal("a join does not know how many rows of a side have a key"))
    }

    /// Joins changes of one side with the rows of the other.
    fn probe(&mut self, side: usize, changes: &Changes, state: &State, output: &mut Output) -> Result<()> {
        if changes.delta.is_empty() {
            return Ok(());
        }
        let rows_of_key = RowsOfKey::new(&changes.groups.of_row, changes.groups.len());
        self.sides[1 - side].matches(state, &changes.groups.keys, |matches| {
            let pairs: usize = matches.keys.iter().map(|key| rows_of_key.get(*key as usize).len()).sum();
            output.check(pairs)?;
            rows_of_key.pairs(matches, |changed, stored| output.pairs(side, &changes.delta, &changed, matches, &stored))
        })
    }

    /// The epoch where a residual condition decides what matches: first the changes of one side against the rows of before,
    /// then those of the other side against the rows of now.
    fn run_with_residual(
        &mut self,
        residual: &Residual,
        changes: [Changes; 2],
        context: &mut EpochContext<'_>,
        output: &mut Output,
    ) -> Result<()> {
        let committed = self.bounds_passed(|port| Some(context.watermarks.get(port)?.committed.clone()));
        let current = self.bounds_passed(|port| Some(context.watermarks.get(port)?.current.clone()));
        if let Some(committed) = committed {
            let bounded = self.sides.iter_mut().zip(&self.spec.bounds).filter(|(_, bound)| bound.is_some());
            bounded.for_each(|(side, _)| side.set_needed_from(committed));
        }
        // The changes of the first side are read again by those of the second, and so all stored; of the second side only
        // what is needed after this epoch.
        let short_lived = |side: usize| -> Result<usize> {
            let moments = self.needed_until(side, &changes[side].delta)?.unwrap_or_default();
            Ok(current.map_or(0, |current| moments.iter().filter(|until| **until < current).count()))
        };
        let swap = short_lived(0)? > short_lived(1)?;
        let [left, right] = changes;
        let order = if swap { [(1, right), (0, left)] } else { [(0, left), (1, right)] };
        for (needed_from, (side, changes)) in [committed, current].into_iter().zip(order) {
            let counts = self.probe_counted(side, Some(residual), &changes, context.state, context.errors, output)?;
            if let Some(alone) = self.spec.kind.alone(side) {
                let mut rows = AloneRows::default();
                for (row, count) in counts.iter().enumerate() {
                    rows.add(alone, row, changes.delta.weight(row), *count > 0);
                }
                output.alone(side, alone, changes.delta.batch.columns(), rows)?;
                self.put_out_unmatchable(side, &changes, output)?;
            }
            self.store_needed(side, changes, counts, needed_from, context)?;
        }
        if let Some(current) = current.filter(|current| self.freed.is_none_or(|freed| freed < *current)) {
            for (side, bound) in self.sides.iter_mut().zip(&self.spec.bounds) {
                if bound.is_some() {
                    side.forget_before(context.state, current);
                }
            }
            self.freed = Some(current);
        }
        Ok(())
    }

    /// The epoch of a join as of now: left rows meet the right side with this epoch's changes.
    fn run_as_of_now(
        &mut self,
        changes: &[Changes; 2],
        context: &mut EpochContext<'_>,
        output: &mut Output,
    ) -> Result<()> {
        let [left, right] = changes;
        self.store(1, right, &[], context)?;
        let residual = self.spec.residual.clone();
        let counts = self.probe_counted(0, residual.as_ref(), left, context.state, context.errors, output)?;
        if let Some(alone) = self.spec.kind.alone(0) {
            let mut rows = AloneRows::default();
            for (row, count) in counts.iter().enumerate() {
                rows.add(alone, row, left.delta.weight(row), *count > 0);
            }
            output.alone(0, alone, left.delta.batch.columns(), rows)?;
            self.put_out_unmatchable(0, left, output)?;
        }
        Ok(())
    }

    /// Joins changes of one side with the rows of the other that pass the condition, if there is one; puts out pairs and what changes of
    /// the other side's rows on their own. Returns how many matches each changed row has.
    fn probe_counted(
        &mut self,
        side: usize,
        residual: Option<&Residual>,
        changes: &Changes,
        state: &mut State,
        errors: &mut Vec<RowError>,
        output: &mut Output,
    ) -> Result<Vec<i64>> {
        let Changes { delta, groups, .. } = changes;
        let mut counts = vec![0; delta.rows()];
        if delta.is_empty() {
            return Ok(counts);
        }
        let Self { spec, sides, .. } = self;
        let other = 1 - side;
        let other_alone = spec.kind.alone(other);
        let rows_of_key = RowsOfKey::new(&groups.of_row, groups.len());
        let mut recounts = sides[other].recounts();
        sides[other].matches(state, &groups.keys, |matches| {
            let mut changed_counts = vec![0; matches.keys.len()];
            rows_of_key.pairs(matches, |changed, stored| {
                let (changed, stored) = match residual {
                    None => (changed, stored),
                    Some(residual) => {
                        let mut columns = Vec::with_capacity(residual.columns.len());
                        for (of, position) in &residual.columns {
                            let (source, rows) = match *of == side {
                                true => (delta.batch.column(*position), &changed),
                                false => (&matches.columns[*position], &stored),
                            };
                            columns.push(take(source, rows, None)?);
                        }
                        let weights = pair_weights(delta, &changed, matches, &stored);
                        let passed = residual.passes(spec.operator, columns, weights, errors)?;
                        (kept(&changed, &passed)?, kept(&stored, &passed)?)
                    }
                };
                for (ours, theirs) in changed.values().iter().zip(stored.values()) {
                    counts[*ours as usize] += matches.weights.value(*theirs as usize);
                    changed_counts[*theirs as usize] += delta.weight(*ours as usize);
                }
                match spec.kind.pairs() {
                    true => output.pairs(side, delta, &changed, matches, &stored),
                    false => Ok(()),
                }
            })?;
            if let Some(alone) = other_alone {
                let mut rows = AloneRows::default();
                for (row, change) in changed_counts.iter().enumerate() {
                    let before = matches.counts[row];
                    rows.flip(alone, row, matches.weights.value(row), before > 0, before + change > 0);
                }
                output.alone(other, alone, &matches.columns, rows)?;
                recounts.add(&groups.keys, matches, &changed_counts)?;
            }
            Ok(())
        })?;
        sides[other].write_recounts(state, &recounts)?;
        Ok(counts)
    }

    /// Puts out changed rows that can match nothing.
    fn put_out_unmatchable(&self, side: usize, changes: &Changes, output: &mut Output) -> Result<()> {
        if let (Some(delta), Some(alone)) = (&changes.unmatchable, self.spec.kind.alone(side)) {
            let mut rows = AloneRows::default();
            (0..delta.rows()).for_each(|row| rows.add(alone, row, delta.weight(row), false));
            output.alone(side, alone, delta.batch.columns(), rows)?;
        }
        Ok(())
    }
}

/// Whether a join stores the rows of a side: where they are only counted, it does not.
fn is_stored(spec: &JoinSpec, side: usize) -> bool {
    match side {
        0 => !spec.as_of_now,
        _ => spec.kind.pairs() || spec.residual.is_some() || spec.ttl.is_some(),
    }
}

/// The weight of each pair of a changed and a stored row.
fn pair_weights(delta: &Delta, changed: &UInt32Array, matches: &Matches, stored: &UInt32Array) -> Int64Array {
    let pairs = changed.values().iter().zip(stored.values());
    Int64Array::from_iter_values(
        pairs.map(|(ours, theirs)| delta.weight(*ours as usize) * matches.weights.value(*theirs as usize)),
    )
}

/// The row numbers of the pairs that passed.
fn kept(rows: &UInt32Array, passed: &BooleanArray) -> Result<UInt32Array> {
    Ok(filter(rows, passed)?.as_primitive::<UInt32Type>().clone())
}

impl Keyed for Join {
    fn keys(&self, input: usize, batch: &RecordBatch) -> Result<ByteRows> {
        self.sides[input].join_keys(batch.columns())
    }
}

impl Operator for Join {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let mut inputs = inputs.into_iter();
        self.expire(context)?;
        let left = self.take_in(0, inputs.next().unwrap_or_default(), context)?;
        let right = self.take_in(1, inputs.next().unwrap_or_default(), context)?;
        let changes = [self.without_forgotten(0, left, context)?, self.without_forgotten(1, right, context)?];
        let mut output = Output::new(&self.spec, self.output_rows_max);
        match self.spec.residual.clone() {
            _ if self.spec.as_of_now => self.run_as_of_now(&changes, context, &mut output)?,
            None => self.run_by_key(&changes, context, &mut output)?,
            Some(residual) => self.run_with_residual(&residual, changes, context, &mut output)?,
        }
        if let (Some(time), Some(current)) =
            (&self.time, self.passed(|port| Some(context.watermarks.get(port)?.current.clone())))
        {
            let bound = time.key_of(current)?;
            self.sides.iter_mut().for_each(|side| side.truncate_below(context.state, &bound));
            self.totals.iter_mut().flatten().for_each(|totals| totals.truncate_below(context.state, &bound));
            self.freed = Some(current);
        }
        self.sides.iter_mut().for_each(Side::end_epoch);
        self.totals.iter_mut().flatten().for_each(Totals::end_epoch);
        Ok(output.into_deltas())
    }

    fn next_wake_us(&self) -> Option<i64> {
        self.ttl.as_ref()?.next_wake_us()
    }

    fn wakes(&self, watermarks: &[PortWatermarks], now_us: i64) -> bool {
        if self.ttl.as_ref().is_some_and(|ttl| ttl.is_due(now_us)) {
            return true;
        }
        let current = self.passed(|port| Some(watermarks.get(port)?.current.clone()));
        current.is_some_and(|current| self.freed.is_none_or(|freed| freed < current))
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        let [left, right] = &self.spec.sides;
        let mut out: Watermarks = vec![None; self.spec.output.fields().len()];
        if self.spec.as_of_now {
            // Left rows go on at once.
            let left = inputs.first().map_or(&[][..], Vec::as_slice);
            out.iter_mut().zip(left).for_each(|(out, passed)| *out = *passed);
            return out;
        }
        let of = |port: usize, column: usize| inputs.get(port)?.get(column).copied().flatten();
        for (l, r) in self.spec.timed_keys.iter().map(|i| (&left.key[*i], &right.key[*i])) {
            if let (Some(a), Some(b)) = (of(0, *l), of(1, *r)) {
                let passed = Some(a.min(b));
                // A column may be in several pairs.
                out[*l] = out[*l].max(passed);
                if self.spec.kind.shows(1) {
                    let right_column = left.schema.fields().len() + r;
                    out[right_column] = out[right_column].max(passed);
                }
            }
        }
        let passed = self.bounds_passed(|port| inputs.get(port).cloned());
        for (column, lag_us) in self.spec.bounded_columns() {
            out[column] = out[column].max(passed.map(|passed| passed.saturating_sub(lag_us)));
        }
        out
    }

    fn reset(&mut self) {
        self.freed = None;
        if let Some(ttl) = &mut self.ttl {
            ttl.reset();
        }
        self.sides.iter_mut().for_each(Side::reset);
        self.totals.iter_mut().flatten().for_each(Totals::reset);
    }

    fn describe(&self) -> Description {
        self.description()
    }
}
