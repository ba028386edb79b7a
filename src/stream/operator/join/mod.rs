//! The inner equi-join of two inputs, kept current: ΔA ⋈ B + A' ⋈ ΔB, where A' is A with its changes.
//!
//! Each side's rows are stored by join key, in a layout that its properties choose (`side`); the changes of one side look
//! up the rows of the other. Changes are netted first, distinct join keys are looked up once and in key order, and result
//! rows are gathered by column from both sides, some thousand at a time. A residual condition is a Filter after it.
//!
//! State, one table a side: join key, then what tells rows of one join key apart -> weight and row.

mod rows_cache;
mod side;
#[cfg(test)]
mod tests;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use millstream_catalog::ObjectId;

use self::side::{Changes, Layout, Matches, Side};
use super::event_time::TimeColumn;
use super::{Description, EpochContext, LateRows, Operator, PortWatermarks, StateDescription, Watermarks};
use crate::error::{Error, Result, sqlstate};
use crate::state::{State, TableId};
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
    /// First of the two state parts that it takes ([`Join::PARTS`]).
    pub first_part: u16,
    /// Left and right.
    pub sides: [JoinSide; 2],
    /// For each pair of join columns, whether NULL matches NULL (IS NOT DISTINCT FROM).
    pub null_safe: Vec<bool>,
    /// All columns of the left side, then all of the right.
    pub output: SchemaRef,
    /// A pair of join columns that carry a watermark on both sides: rows that both watermarks have passed are forgotten,
    /// and what comes for them later is late.
    pub time_key: Option<usize>,
}

/// An inner join.
pub struct Join {
    spec: JoinSpec,
    sides: [Side; 2],
    time: Option<TimeColumn>,
    /// The watermark below which rows are known to be freed.
    freed: Option<i64>,
    output_rows_max: usize,
}

/// Which input changes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Left,
    Right,
}

impl Join {
    /// State parts that a join takes.
    pub const PARTS: u16 = 2;

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
        let sides = [
            Side::new(left, &key_order, &spec.null_safe, table(0))?,
            Side::new(right, &key_order, &spec.null_safe, table(1))?,
        ];
        Ok(Self { sides, time, freed: None, output_rows_max: OUTPUT_ROWS_MAX, spec })
    }

    /// The same with another budget for the cache of each side.
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.sides.iter_mut().for_each(|side| side.set_cache_bytes(bytes));
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

    /// One input's changes, netted, without the late ones.
    fn take_in(&self, side: usize, deltas: Vec<Delta>, context: &mut EpochContext<'_>) -> Result<Changes> {
        let delta = Delta::concat(&self.spec.sides[side].schema, &deltas)?;
        let committed = self.passed(|port| Some(context.watermarks.get(port)?.committed.clone()));
        let late = self.time.as_ref().zip(self.spec.time_key).zip(committed).and_then(|((time, pair), watermark)| {
            let column = delta.batch.column(self.spec.sides[side].key[pair]);
            Some((time.below(column, watermark)?, watermark))
        });
        let Some((late, watermark)) = late else { return self.sides[side].gather(delta) };
        context.late.push(LateRows { operator: self.spec.operator, rows: delta.filter(&late)?, watermark });
        self.sides[side].gather(delta.filter(&arrow::compute::not(&late)?)?)
    }

    /// Joins changes of one side with the rows of the other.
    fn probe(&mut self, from: From, changes: &Changes, state: &State, output: &mut Output) -> Result<()> {
        if changes.delta.is_empty() {
            return Ok(());
        }
        let other = match from {
            From::Left => &mut self.sides[1],
            From::Right => &mut self.sides[0],
        };
        let rows_of_key = RowsOfKey::new(&changes.groups.of_row, changes.groups.len());
        let limit = self.output_rows_max;
        other.matches(state, &changes.groups.keys, |matches| {
            let pairs: usize = matches.keys.iter().map(|key| rows_of_key.get(*key as usize).len()).sum();
            if output.rows + pairs > limit {
                return Err(too_many(limit));
            }
            let (mut changed, mut stored) = (Vec::new(), Vec::new());
            for (i, key) in matches.keys.iter().enumerate() {
                for row in rows_of_key.get(*key as usize) {
                    changed.push(*row);
                    stored.push(i as u32);
                    if changed.len() == CHUNK_ROWS {
                        let pairs = (std::mem::take(&mut changed), std::mem::take(&mut stored));
                        output.push(from, &changes.delta, pairs.0, matches, pairs.1)?;
                    }
                }
            }
            if changed.is_empty() { Ok(()) } else { output.push(from, &changes.delta, changed, matches, stored) }
        })
    }
}

/// The changed rows of each join key.
struct RowsOfKey {
    rows: Vec<u32>,
    ends: Vec<u32>,
}

impl RowsOfKey {
    fn new(key_of_row: &[u32], keys: usize) -> Self {
        let mut ends = vec![0u32; keys];
        key_of_row.iter().for_each(|key| ends[*key as usize] += 1);
        let mut end = 0;
        for slot in &mut ends {
            end += *slot;
            *slot = end;
        }
        let mut next = ends.clone();
        let mut rows = vec![0; key_of_row.len()];
        for (row, key) in key_of_row.iter().enumerate().rev() {
            let slot = &mut next[*key as usize];
            *slot -= 1;
            rows[*slot as usize] = row as u32;
        }
        Self { rows, ends }
    }

    fn get(&self, key: usize) -> &[u32] {
        let start = if key == 0 { 0 } else { self.ends[key - 1] };
        &self.rows[start as usize..self.ends[key] as usize]
    }
}

/// The result of an epoch.
struct Output {
    schema: SchemaRef,
    /// Whether no row can have another weight than +1.
    plain: bool,
    rows: usize,
    deltas: Vec<Delta>,
}

impl Output {
    /// Appends the pairs of changed and stored rows.
    fn push(
        &mut self,
        from: From,
        delta: &Delta,
        changed: Vec<u32>,
        matches: &Matches,
        stored: Vec<u32>,
    ) -> Result<()> {
        let (changed, stored) = (UInt32Array::from(changed), UInt32Array::from(stored));
        let gather = |columns: &[ArrayRef], rows: &UInt32Array| -> Result<Vec<ArrayRef>> {
            Ok(columns.iter().map(|c| take(c, rows, None)).collect::<Result<_, _>>()?)
        };
        let ours = gather(delta.batch.columns(), &changed)?;
        let theirs = gather(&matches.columns, &stored)?;
        let (mut columns, right) = match from {
            From::Left => (ours, theirs),
            From::Right => (theirs, ours),
        };
        columns.extend(right);
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        self.rows += batch.num_rows();
        let all_one = self.plain && delta.weights.is_none() && matches.weights.values().iter().all(|w| *w == 1);
        let weights = (!all_one).then(|| {
            let pairs = changed.values().iter().zip(stored.values());
            Int64Array::from_iter_values(
                pairs.map(|(ours, theirs)| delta.weight(*ours as usize) * matches.weights.value(*theirs as usize)),
            )
        });
        self.deltas.push(Delta { batch, weights });
        Ok(())
    }
}

impl Operator for Join {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let mut inputs = inputs.into_iter();
        let left = self.take_in(0, inputs.next().unwrap_or_default(), context)?;
        let right = self.take_in(1, inputs.next().unwrap_or_default(), context)?;
        let plain = self.spec.sides.iter().all(|side| side.append_only);
        let mut output = Output { schema: self.spec.output.clone(), plain, rows: 0, deltas: Vec::new() };
        self.probe(From::Left, &left, context.state, &mut output)?;
        self.sides[0].apply(context.state, context.epoch, &left)?;
        self.probe(From::Right, &right, context.state, &mut output)?;
        self.sides[1].apply(context.state, context.epoch, &right)?;
        if let (Some(time), Some(current)) =
            (&self.time, self.passed(|port| Some(context.watermarks.get(port)?.current.clone())))
        {
            let bound = time.key_of(current)?;
            self.sides.iter_mut().for_each(|side| side.truncate_below(context.state, &bound));
            self.freed = Some(current);
        }
        self.sides.iter_mut().for_each(Side::end_epoch);
        Ok(output.deltas)
    }

    fn wakes(&self, watermarks: &[PortWatermarks], _now_us: i64) -> bool {
        let current = self.passed(|port| Some(watermarks.get(port)?.current.clone()));
        current.is_some_and(|current| self.freed.is_none_or(|freed| freed < current))
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        let [left, right] = &self.spec.sides;
        let mut out: Watermarks = vec![None; self.spec.output.fields().len()];
        let of = |port: usize, column: usize| inputs.get(port)?.get(column).copied().flatten();
        for (l, r) in left.key.iter().zip(&right.key) {
            if let (Some(a), Some(b)) = (of(0, *l), of(1, *r)) {
                let passed = Some(a.min(b));
                let right_column = left.schema.fields().len() + r;
                // A column may be in several pairs.
                out[*l] = out[*l].max(passed);
                out[right_column] = out[right_column].max(passed);
            }
        }
        out
    }

    fn reset(&mut self) {
        self.freed = None;
        self.sides.iter_mut().for_each(Side::reset);
    }

    fn describe(&self) -> Description {
        let [left, right] = &self.spec.sides;
        let on: Vec<String> = left
            .key
            .iter()
            .zip(&right.key)
            .zip(&self.spec.null_safe)
            .map(|((l, r), null_safe)| {
                let operator = if *null_safe { "is not distinct from" } else { "=" };
                format!("left.{} {operator} right.{}", left.schema.field(*l).name(), right.schema.field(*r).name())
            })
            .collect();
        Description {
            title: format!("Join: inner on {}", on.join(" and ")),
            state: self.spec.sides.iter().zip(&self.sides).map(|(spec, side)| describe_side(spec, side)).collect(),
            append_only: left.append_only && right.append_only,
            stream_key: self
                .stream_key()
                .map_or_else(Vec::new, |key| key.iter().map(|c| self.spec.output.field(*c).name().clone()).collect()),
        }
    }
}

impl Join {
    /// Columns of the result that are unique in it: the keys of both sides, without that of a side of which a row can only
    /// match one.
    pub fn stream_key(&self) -> Option<Vec<usize>> {
        let [left, right] = &self.spec.sides;
        let left_key = left.stream_key.as_ref()?;
        let right_key: Vec<usize> = right.stream_key.as_ref()?.iter().map(|c| c + left.schema.fields().len()).collect();
        Some(match (self.sides[0].layout, self.sides[1].layout) {
            (_, Layout::Unique) => left_key.clone(),
            (Layout::Unique, _) => right_key,
            _ => left_key.iter().copied().chain(right_key).collect(),
        })
    }
}

fn describe_side(spec: &JoinSide, side: &Side) -> StateDescription {
    let name = |c: &usize| spec.schema.field(*c).name().clone();
    let mut key: Vec<String> = spec.key.iter().map(name).collect();
    let (layout, cost) = match side.layout {
        Layout::Unique => ("keyed", "1 put; 1 get per row of the other side"),
        Layout::Keyed => {
            key.extend(spec.stream_key.iter().flatten().filter(|c| !spec.key.contains(c)).map(name));
            ("multimap", "1 put; 1 scan per join key of the other side")
        }
        Layout::Log => {
            key.push("row number".into());
            ("multimap", "1 put; 1 scan per join key of the other side")
        }
        Layout::Multiset => {
            key.push("row".into());
            ("multimap", "1 get, 1 put; 1 scan per join key of the other side")
        }
    };
    StateDescription { part: side.table().part, layout, key: key.join(", "), cost: cost.into() }
}

fn too_many(limit: usize) -> Error {
    Error::new(
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        format!("a join would change more than {limit} rows of its result in one epoch"),
    )
    .with_hint("check its condition: a key with very many rows on both sides multiplies them")
}
