//! The temporal filter: rows are there from a moment on, until a moment, as the clock of the epochs tells.
//!
//! `ts > now() - INTERVAL '1 hour'` holds for a row until an hour after its `ts`, so each row has a birth and a death that
//! never change. Rows that are not born yet and rows that will die wait in the store, ordered by that moment; the operator
//! asks to be woken for the first of them. What is past is never read again.
//!
//! State, two tables under the view's object: *unborn*: birth, row -> count; *alive*: death, row -> count.

use std::ops::Bound;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use millstream_catalog::ObjectId;

use super::waiting::{add_counts, moment, moment_key, past, push_rows};
use super::{Description, EdgeProperties, EpochContext, Operator, PortWatermarks, StateDescription, Watermarks};
use crate::error::{Error, Result};
use crate::state::{ByteRows, Level, RowCodec, State, TableId};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;

/// How a row's time stands to the clock while the row is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The row's time is later.
    Later,
    LaterOrEqual,
    Earlier,
    EarlierOrEqual,
}

/// One comparison of a column with `now()` plus an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemporalBound {
    /// Position of the timestamp column.
    pub column: usize,
    pub comparison: Comparison,
    /// Microseconds that are added to `now()`.
    pub offset_us: i64,
}

/// What a [`TemporalFilter`] is made from.
#[derive(Debug, Clone)]
pub struct TemporalSpec {
    /// The view that holds the state.
    pub object: ObjectId,
    /// First of the two state parts that it takes ([`TemporalFilter::PARTS`]).
    pub first_part: u16,
    pub input: SchemaRef,
    /// All of them must hold.
    pub bounds: Vec<TemporalBound>,
    /// Of the result, which has the input's columns.
    pub properties: EdgeProperties,
}

/// Keeps the rows whose time is now.
pub struct TemporalFilter {
    spec: TemporalSpec,
    rows: RowCodec,
    unborn: CachedTable,
    alive: CachedTable,
    next: Next,
}

/// When the operator has something to do without input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The store has not been looked at yet.
    Unknown,
    Never,
    At(i64),
}

/// When a row is there, microseconds since 1970: from its birth up to but without its death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    birth: i64,
    death: i64,
}

const ALWAYS: Life = Life { birth: i64::MIN, death: i64::MAX };
const NEVER: Life = Life { birth: i64::MAX, death: i64::MIN };

impl TemporalFilter {
    /// State parts that it takes.
    pub const PARTS: u16 = 2;

    /// Checks the specification and makes the operator, with nothing cached.
    ///
    /// # Errors
    /// XX000 if a bound is not on a timestamp, 0A000 for rows that cannot be stored.
    pub fn new(spec: TemporalSpec) -> Result<Self> {
        for bound in &spec.bounds {
            let field = spec.input.field(bound.column);
            if !matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
                return Err(Error::internal(format!("{} is compared with now() and no timestamp", field.name())));
            }
        }
        let types: Vec<DataType> = spec.input.fields().iter().map(|f| f.data_type().clone()).collect();
        let table = |part| TableId::new(spec.object.0, spec.first_part + part);
        Ok(Self {
            rows: RowCodec::new(&types)?,
            unborn: CachedTable::new(table(0)),
            alive: CachedTable::new(table(1)),
            next: Next::Unknown,
            spec,
        })
    }

    /// The lives of a batch's rows.
    fn lives(&self, batch: &RecordBatch) -> Vec<Life> {
        let mut lives = vec![ALWAYS; batch.num_rows()];
        for bound in &self.spec.bounds {
            let times = batch.column(bound.column).as_primitive::<TimestampMicrosecondType>();
            for (life, time) in lives.iter_mut().zip(times) {
                let Some(time) = time else {
                    *life = NEVER;
                    continue;
                };
                let moment = time.saturating_sub(bound.offset_us);
                match bound.comparison {
                    Comparison::Later => life.death = life.death.min(moment),
                    Comparison::LaterOrEqual => life.death = life.death.min(moment.saturating_add(1)),
                    Comparison::Earlier => life.birth = life.birth.max(moment.saturating_add(1)),
                    Comparison::EarlierOrEqual => life.birth = life.birth.max(moment),
                }
            }
        }
        lives
    }

    /// Puts out the rows that were born or died up to now.
    fn advance(&mut self, now_us: i64, state: &mut State, output: &mut Vec<Delta>) -> Result<()> {
        let Some(bound) = now_us.checked_add(1).map(moment_key) else { return Ok(()) };
        let mut after = Bound::Unbounded;
        loop {
            let (keys, counts) = past(state, self.unborn.table(), &mut after, &bound)?;
            if keys.is_empty() {
                break;
            }
            let batch = self.decode(&keys)?;
            let lives = self.lives(&batch);
            let (mut alive_keys, mut alive_counts) = (ByteRows::new(), Vec::new());
            let mut shown = Vec::with_capacity(keys.len());
            for ((key, life), count) in keys.iter().zip(&lives).zip(&counts) {
                shown.push(if life.death > now_us { *count } else { 0 });
                if life.death > now_us && life.death < i64::MAX {
                    alive_keys.push_pair(&moment_key(life.death), &key[8..]);
                    alive_counts.push(*count);
                }
            }
            push_rows(batch, &shown, output)?;
            add_counts(&mut self.alive, state, &alive_keys, &alive_counts)?;
        }
        self.unborn.truncate_below(state, &bound);

        let mut after = Bound::Unbounded;
        loop {
            let (keys, counts) = past(state, self.alive.table(), &mut after, &bound)?;
            if keys.is_empty() {
                break;
            }
            let gone: Vec<i64> = counts.iter().map(|count| -count).collect();
            push_rows(self.decode(&keys)?, &gone, output)?;
        }
        self.alive.truncate_below(state, &bound);
        Ok(())
    }

    fn decode(&self, keys: &ByteRows) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = self.rows.decode(keys.iter().map(|key| &key[8..]))?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(keys.len()));
        Ok(RecordBatch::try_new_with_options(self.spec.input.clone(), columns, &options)?)
    }

    /// Takes in changes: those of rows that are there go on, those of rows with a moment ahead of them are noted.
    fn change(&mut self, delta: &Delta, now_us: i64, state: &mut State, output: &mut Vec<Delta>) -> Result<()> {
        let lives = self.lives(&delta.batch);
        let rows = self.rows.encode(delta.batch.columns())?;
        let mut shown = vec![0; delta.rows()];
        let (mut unborn_keys, mut unborn_counts) = (ByteRows::new(), Vec::new());
        let (mut alive_keys, mut alive_counts) = (ByteRows::new(), Vec::new());
        for (i, life) in lives.iter().enumerate() {
            let weight = delta.weight(i);
            if life.death <= now_us || life.death <= life.birth {
                continue;
            }
            if life.birth > now_us {
                unborn_keys.push_pair(&moment_key(life.birth), rows.get(i));
                unborn_counts.push(weight);
                continue;
            }
            shown[i] = weight;
            if life.death < i64::MAX {
                alive_keys.push_pair(&moment_key(life.death), rows.get(i));
                alive_counts.push(weight);
            }
        }
        push_rows(delta.batch.clone(), &shown, output)?;
        add_counts(&mut self.unborn, state, &unborn_keys, &unborn_counts)?;
        add_counts(&mut self.alive, state, &alive_keys, &alive_counts)
    }

    /// The first moment ahead.
    fn find_next(&self, state: &State) -> Result<Next> {
        let mut next = Next::Never;
        for table in [self.unborn.table(), self.alive.table()] {
            let mut rows = state.scan(table, Bound::Unbounded, Bound::Unbounded, Level::Open);
            if let Some((key, _)) = rows.next_row()? {
                let at = moment(key)?;
                next = match next {
                    Next::At(known) => Next::At(known.min(at)),
                    _ => Next::At(at),
                };
            }
        }
        Ok(next)
    }
}

impl Operator for TemporalFilter {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let mut output = Vec::new();
        self.advance(context.now_us, context.state, &mut output)?;
        let delta = Delta::concat(&self.spec.input, &inputs.into_iter().flatten().collect::<Vec<_>>())?;
        if !delta.is_empty() {
            self.change(&delta, context.now_us, context.state, &mut output)?;
        }
        self.next = self.find_next(context.state)?;
        self.unborn.end_epoch();
        self.alive.end_epoch();
        Ok(output)
    }

    fn wakes(&self, _watermarks: &[PortWatermarks], now_us: i64) -> bool {
        match self.next {
            Next::Unknown => true,
            Next::Never => false,
            Next::At(moment) => moment <= now_us,
        }
    }

    fn next_wake_us(&self) -> Option<i64> {
        match self.next {
            Next::Unknown => Some(i64::MIN),
            Next::Never => None,
            Next::At(moment) => Some(moment),
        }
    }

    fn watermarks(&self, _inputs: &[Watermarks]) -> Watermarks {
        // A row that dies is taken back long after the event time has passed it.
        vec![None; self.spec.input.fields().len()]
    }

    fn reset(&mut self) {
        self.unborn.reset();
        self.alive.reset();
        self.next = Next::Unknown;
    }

    fn describe(&self) -> Description {
        let bounds: Vec<String> = self
            .spec
            .bounds
            .iter()
            .map(|bound| {
                let comparison = match bound.comparison {
                    Comparison::Later => ">",
                    Comparison::LaterOrEqual => ">=",
                    Comparison::Earlier => "<",
                    Comparison::EarlierOrEqual => "<=",
                };
                let name = self.spec.input.field(bound.column).name();
                format!("{name} {comparison} now() + {} us", bound.offset_us)
            })
            .collect();
        let state = |table: &CachedTable, key: &str, cost: &str| StateDescription {
            part: table.table().part,
            layout: "keyed",
            key: format!("{key}, row"),
            cost: cost.into(),
        };
        let properties = &self.spec.properties;
        Description {
            title: format!("TemporalFilter: {}", bounds.join(" and ")),
            state: vec![
                state(&self.unborn, "birth", "1 get, 1 put per row of the future"),
                state(&self.alive, "death", "1 get, 1 put per row; 1 scan when rows die"),
            ],
            append_only: properties.append_only,
            stream_key: properties.stream_key_names(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::test_runner::Config;

    use super::*;
    use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};

    fn schema() -> SchemaRef {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        Arc::new(Schema::new(vec![Field::new("ts", timestamp, true), Field::new("v", DataType::Int64, true)]))
    }

    fn delta(changes: &[(Option<i64>, i64, i64)]) -> Delta {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(changes.iter().map(|c| c.0).collect::<TimestampMicrosecondArray>()),
            Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.1))),
        ];
        let weights = Int64Array::from_iter_values(changes.iter().map(|c| c.2));
        Delta::new(RecordBatch::try_new(schema(), columns).unwrap(), weights)
    }

    fn filter(comparisons: &[(Comparison, i64)]) -> TemporalFilter {
        let bounds = comparisons.iter().map(|(comparison, offset_us)| TemporalBound {
            column: 0,
            comparison: *comparison,
            offset_us: *offset_us,
        });
        let properties =
            EdgeProperties { schema: schema(), append_only: false, stream_key: None, watermark_columns: Vec::new() };
        let bounds = bounds.collect();
        let spec = TemporalSpec { object: OBJECT, first_part: 16, input: schema(), bounds, properties };
        TemporalFilter::new(spec).unwrap()
    }

    fn holds(comparison: Comparison, time: i64, moment: i64) -> bool {
        match comparison {
            Comparison::Later => time > moment,
            Comparison::LaterOrEqual => time >= moment,
            Comparison::Earlier => time < moment,
            Comparison::EarlierOrEqual => time <= moment,
        }
    }

    proptest! {
        #![proptest_config(Config { cases: 48, ..Config::default() })]

        #[test]
        fn rows_come_and_go_with_the_clock(
            first in (0usize..4, -20i64..20),
            second in proptest::option::of((0usize..4, -20i64..20)),
            epochs in proptest::collection::vec(
                (0i64..15, proptest::collection::vec((proptest::option::weighted(0.9, 0i64..60), 0i64..3, any::<u8>()), 0..6),
                 prop_oneof![3 => Just(After::Commit), 1 => Just(After::CommitLater), 1 => Just(After::Reset),
                             1 => Just(After::Reopen), 1 => Just(After::FailOnce)]), 1..12),
        ) {
            let all = [Comparison::Later, Comparison::LaterOrEqual, Comparison::Earlier, Comparison::EarlierOrEqual];
            let comparisons: Vec<(Comparison, i64)> =
                [Some(first), second].iter().flatten().map(|(c, offset)| (all[*c], *offset)).collect();
            let mut operator = filter(&comparisons);
            let mut harness = Harness::new();
            let mut rows: Vec<(Option<i64>, i64)> = Vec::new();
            let mut result = ZSet::new();
            for (passed, changes, after) in epochs {
                harness.now_us += passed;
                let mut batch = Vec::new();
                for (ts, v, dice) in changes {
                    if dice < 90 && !rows.is_empty() {
                        let (ts, v) = rows.swap_remove(usize::from(dice) % rows.len());
                        batch.push((ts, v, -1));
                    } else {
                        rows.push((ts, v));
                        batch.push((ts, v, 1));
                    }
                }
                let outcome =
                    harness.epoch(&mut operator, &[vec![delta(&batch)]], &[PortWatermarks::default()], after);
                outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
                let there = rows.iter().filter(|(ts, _)| {
                    ts.is_some_and(|ts| comparisons.iter().all(|(c, offset)| holds(*c, ts, harness.now_us + offset)))
                });
                let mut expected = ZSet::new();
                let batch: Vec<(Option<i64>, i64, i64)> = there.map(|(ts, v)| (*ts, *v, 1)).collect();
                add(&mut expected, &delta(&batch));
                prop_assert_eq!(&result, &expected);
                let waiting = operator.next_wake_us().is_none_or(|at| at > harness.now_us || at == i64::MIN);
                prop_assert!(waiting);
            }
        }
    }
}
