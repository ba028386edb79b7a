//! Aggregates over a frame that moves along a partition: rows come at its end and go at its start.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type,
};

use millstream_sql::functions::float_sum::{FloatMoments, Total};
use millstream_sql::functions::moments::Moments;

use super::function::Aggregated;
use crate::error::{Error, Result};
use crate::state::KeyCodec;
use crate::stream::operator::aggregate::AggregateKind;
use crate::stream::operator::aggregate::exact::{ExactSum, Wide};
use crate::stream::operator::aggregate::extreme::OrderKeys;
use crate::stream::operator::aggregate::float::FloatSum;
use crate::stream::operator::aggregate::variance::Variance;
use crate::stream::operator::groups::Groups;

/// One aggregate with its present frame and the results recorded so far.
pub(super) struct Slide {
    state: State,
    distinct: Option<Distinct>,
}

enum State {
    Count {
        now: i64,
        recorded: Vec<i64>,
    },
    Exact {
        sum: ExactSum,
        values: Vec<i128>,
        count: i64,
        now: Wide,
        counts: Vec<i64>,
        recorded: Vec<Wide>,
    },
    Spread {
        variance: Variance,
        values: Vec<i128>,
        now: Moments,
        recorded: Vec<Option<f64>>,
    },
    FloatSpread {
        variance: Variance,
        values: Vec<f64>,
        now: FloatMoments,
        recorded: Vec<FloatMoments>,
    },
    Float {
        sum: FloatSum,
        values: Vec<f64>,
        now: Total,
        recorded: Vec<Total>,
    },
    Extreme {
        argument: ArrayRef,
        order: OrderKeys,
        wins: Ordering,
        candidates: VecDeque<usize>,
        recorded: Vec<Option<u32>>,
    },
}

/// How often each value is in the frame.
struct Distinct {
    value_of_row: Vec<u32>,
    counts: Vec<u32>,
    /// Values that came since the frame was empty.
    seen: Vec<u32>,
}

impl Slide {
    /// An aggregate over values of `argument`.
    ///
    /// # Errors
    /// 0A000 if there is none for these types.
    pub fn new(kind: AggregateKind, distinct: bool, argument: Option<&ArrayRef>, output: &DataType) -> Result<Self> {
        let unsupported = || {
            let from = argument.map_or("*".to_string(), |a| a.data_type().to_string());
            Error::unsupported(format!(
                "{}({from}) OVER as {output} is not supported in a continuous view",
                kind.name()
            ))
        };
        let sum = |average| -> Result<State> {
            let argument = argument.ok_or_else(unsupported)?;
            if let Some(sum) = ExactSum::new(average, argument.data_type(), output) {
                let values = integers(argument).ok_or_else(unsupported)?;
                let (counts, recorded) = (Vec::new(), Vec::new());
                return Ok(State::Exact { sum, values, count: 0, now: Wide::default(), counts, recorded });
            }
            let sum = FloatSum::new(average, argument.data_type(), output).ok_or_else(unsupported)?;
            Ok(State::Float { sum, values: floats(argument), now: Total::default(), recorded: Vec::new() })
        };
        let state = match kind {
            AggregateKind::Count => State::Count { now: 0, recorded: Vec::new() },
            AggregateKind::Sum => sum(false)?,
            AggregateKind::Avg => sum(true)?,
            AggregateKind::Min | AggregateKind::Max => {
                let argument = argument.filter(|a| a.data_type() == output).ok_or_else(unsupported)?.clone();
                let codec = KeyCodec::new(std::slice::from_ref(argument.data_type()))?;
                let wins = if kind == AggregateKind::Max { Ordering::Greater } else { Ordering::Less };
                let order = OrderKeys::new(&argument, &codec)?;
                State::Extreme { argument, order, wins, candidates: VecDeque::new(), recorded: Vec::new() }
            }
            AggregateKind::VarPop | AggregateKind::VarSamp | AggregateKind::StddevPop | AggregateKind::StddevSamp => {
                let argument = argument.ok_or_else(unsupported)?;
                let variance = Variance::new(kind, argument.data_type(), output).ok_or_else(unsupported)?;
                match integers(argument) {
                    Some(values) => State::Spread { variance, values, now: Moments::default(), recorded: Vec::new() },
                    None => State::FloatSpread {
                        variance,
                        values: floats(argument),
                        now: FloatMoments::default(),
                        recorded: Vec::new(),
                    },
                }
            }
            _ => return Err(unsupported()),
        };
        let is_extreme = matches!(state, State::Extreme { .. });
        let distinct = match argument.filter(|_| distinct && !is_extreme) {
            Some(argument) => {
                let values = Groups::assign(
                    &KeyCodec::new(std::slice::from_ref(argument.data_type()))?
                        .encode(std::slice::from_ref(argument))?,
                );
                Some(Distinct { counts: vec![0; values.len()], value_of_row: values.of_row, seen: Vec::new() })
            }
            None => None,
        };
        Ok(Self { state, distinct })
    }

    /// Empties the frame.
    pub fn clear(&mut self) {
        if let Some(distinct) = &mut self.distinct {
            distinct.seen.drain(..).for_each(|value| distinct.counts[value as usize] = 0);
        }
        match &mut self.state {
            State::Count { now, .. } => *now = 0,
            State::Exact { count, now, .. } => (*count, *now) = (0, Wide::default()),
            State::Spread { now, .. } => *now = Moments::default(),
            State::FloatSpread { now, .. } => *now = FloatMoments::default(),
            State::Float { now, .. } => *now = Total::default(),
            State::Extreme { candidates, .. } => candidates.clear(),
        }
    }

    /// A row comes at the end.
    pub fn push(&mut self, row: usize) {
        if let Some(distinct) = &mut self.distinct {
            let value = distinct.value_of_row[row];
            let count = &mut distinct.counts[value as usize];
            *count += 1;
            if *count > 1 {
                return;
            }
            distinct.seen.push(value);
        }
        match &mut self.state {
            State::Count { now, .. } => *now += 1,
            State::Exact { values, count, now, .. } => {
                *count += 1;
                now.add(values[row]);
            }
            State::Spread { values, now, .. } => now.add(values[row], 1),
            State::FloatSpread { values, now, .. } => now.add(values[row], 1),
            State::Float { values, now, .. } => now.add(values[row], 1),
            State::Extreme { order, wins, candidates, .. } => {
                while candidates.back().is_some_and(|last| order.compare(row, order, *last) == *wins) {
                    candidates.pop_back();
                }
                candidates.push_back(row);
            }
        }
    }

    /// A row goes at the start.
    pub fn pop(&mut self, row: usize) {
        if let Some(distinct) = &mut self.distinct {
            let count = &mut distinct.counts[distinct.value_of_row[row] as usize];
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        match &mut self.state {
            State::Count { now, .. } => *now -= 1,
            State::Exact { values, count, now, .. } => {
                *count -= 1;
                now.add(-values[row]);
            }
            State::Spread { values, now, .. } => now.add(values[row], -1),
            State::FloatSpread { values, now, .. } => now.add(values[row], -1),
            State::Float { values, now, .. } => {
                now.add(values[row], -1);
                now.settle();
            }
            State::Extreme { candidates, .. } => {
                if candidates.front() == Some(&row) {
                    candidates.pop_front();
                }
            }
        }
    }

    /// Notes the result of the present frame.
    pub fn record(&mut self) {
        match &mut self.state {
            State::Count { now, recorded } => recorded.push(*now),
            State::Exact { count, now, counts, recorded, .. } => {
                counts.push(*count);
                recorded.push(*now);
            }
            State::Spread { variance, now, recorded, .. } => recorded.push(variance.result(now)),
            State::FloatSpread { now, recorded, .. } => recorded.push(now.clone()),
            State::Float { now, recorded, .. } => recorded.push(now.clone()),
            State::Extreme { candidates, recorded, .. } => {
                recorded.push(candidates.front().map(|row| *row as u32));
            }
        }
    }

    /// The results in the order in which they were noted.
    ///
    /// # Errors
    /// XX000 if the columns are not those that the aggregate was made for.
    pub fn finish(self) -> Result<Aggregated> {
        let finished = match self.state {
            State::Count { recorded, .. } => {
                return Ok(Aggregated { values: Arc::new(Int64Array::from(recorded)), errors: Vec::new() });
            }
            State::Spread { recorded, .. } => {
                return Ok(Aggregated { values: Arc::new(Float64Array::from(recorded)), errors: Vec::new() });
            }
            State::Extreme { argument, recorded, .. } => {
                let values = match argument.is_empty() {
                    true => new_null_array(argument.data_type(), recorded.len()),
                    false => take(&argument, &UInt32Array::from(recorded), None)?,
                };
                return Ok(Aggregated { values, errors: Vec::new() });
            }
            State::FloatSpread { variance, recorded, .. } => variance.finish_floats(&recorded),
            State::Exact { sum, counts, recorded, .. } => sum.finish(&sum.state(counts, &recorded))?,
            State::Float { sum, recorded, .. } => sum.finish(&FloatSum::state(&recorded))?,
        };
        Ok(Aggregated { values: finished.values, errors: finished.errors })
    }
}

/// Floats as doubles.
fn floats(column: &ArrayRef) -> Vec<f64> {
    match column.data_type() {
        DataType::Float32 => column.as_primitive::<Float32Type>().values().iter().map(|v| f64::from(*v)).collect(),
        _ => column.as_primitive::<Float64Type>().values().to_vec(),
    }
}

/// Exact numbers in 128 bits.
fn integers(column: &ArrayRef) -> Option<Vec<i128>> {
    macro_rules! widen {
        ($t:ty) => {
            column.as_primitive::<$t>().values().iter().map(|v| i128::from(*v)).collect()
        };
    }
    Some(match column.data_type() {
        DataType::Int8 => widen!(Int8Type),
        DataType::Int16 => widen!(Int16Type),
        DataType::Int32 => widen!(Int32Type),
        DataType::Int64 => widen!(Int64Type),
        DataType::UInt8 => widen!(UInt8Type),
        DataType::UInt16 => widen!(UInt16Type),
        DataType::UInt32 => widen!(UInt32Type),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().values().to_vec(),
        _ => return None,
    })
}
