//! The aggregate functions behind one front: what they store for a group, how rows change it, what comes out.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type};

use super::approximate::ApproximateCount;
use super::distinct::{Distinct, Sets};
use super::exact::ExactSum;
use super::extreme::Extreme;
use super::float::FloatSum;
use super::multiset::Values;
use super::ordered::{Ordered, needs_order};
use super::rows::Rows;
use super::tally::Tally;
use super::variance::Variance;
use super::{AggregateCall, AggregateKind, Finished};
use crate::error::{Error, Result};
use crate::state::RowCodec;
use crate::stream::operator::order_key::SortColumn;

/// One aggregate of an operator.
#[derive(Debug)]
pub(super) enum Function {
    /// COUNT(*) without a filter is the group's row weight, which is stored anyway.
    CountRows,
    Count,
    Exact(ExactSum),
    Float(FloatSum),
    Extreme(Extreme),
    Tally(Tally),
    Variance(Variance),
    Approximate(ApproximateCount),
    Ordered(Ordered),
    Distinct(Distinct),
}

impl Function {
    /// The aggregate that computes `call` into `output`. `type_of` has the types of the input's columns; `sets` takes in a
    /// function over distinct values, whose argument and filter lie at `positions`.
    ///
    /// # Errors
    /// 0A000 if there is none for these types.
    pub fn new(
        call: &AggregateCall,
        type_of: impl Fn(usize) -> DataType,
        output: &Field,
        ordinal: u16,
        sets: &mut Sets,
        positions: (Option<usize>, Option<usize>),
    ) -> Result<Self> {
        let append_only = sets.append_only;
        let to = output.data_type();
        let argument = call.argument.map(&type_of);
        let unsupported = || {
            let name = call.kind.name();
            let from = argument.as_ref().map_or("*".to_string(), ToString::to_string);
            Error::unsupported(format!("{name}({from}) as {to} is not supported in a continuous view"))
        };
        use AggregateKind as K;
        let function = match (call.kind, &argument) {
            (K::Count, None) if call.filter.is_none() && *to == DataType::Int64 => Some(Self::CountRows),
            (K::Count, _) if *to == DataType::Int64 => Some(Self::Count),
            (K::Sum | K::Avg, Some(from)) => {
                let average = call.kind == K::Avg;
                let exact = ExactSum::new(average, from, to).map(Self::Exact);
                exact.or_else(|| FloatSum::new(average, from, to).map(Self::Float))
            }
            (K::Min | K::Max, Some(from)) if from == to => {
                Some(Self::Extreme(Extreme::new(call.kind == K::Max, from, ordinal, append_only)?))
            }
            (K::BoolAnd | K::BoolOr | K::BitAnd | K::BitOr | K::BitXor, Some(from)) => {
                Tally::new(call.kind, from, to).map(Self::Tally)
            }
            (K::VarPop | K::VarSamp | K::StddevPop | K::StddevSamp, Some(from)) => {
                Variance::new(call.kind, from, to).map(Self::Variance)
            }
            (K::ApproxCountDistinct, Some(_)) => ApproximateCount::new(append_only, to)?.map(Self::Approximate),
            (kind, Some(from)) if kind.depends_on_order() => {
                if call.order_by.is_empty() {
                    return Err(needs_order(call.kind.name()));
                }
                let order: Vec<(SortColumn, DataType)> =
                    call.order_by.iter().map(|sort| (*sort, type_of(sort.column))).collect();
                Ordered::new(call, from, &order, to, ordinal)?.map(Self::Ordered)
            }
            _ => None,
        };
        let function = function.ok_or_else(unsupported)?;
        match (call.distinct, &argument, &function, positions) {
            // What decides these does not change with how often a value is there.
            (false, ..) | (_, _, Self::Extreme(_) | Self::Ordered(_), _) => Ok(function),
            (true, Some(data_type), _, (Some(argument), filter)) => {
                let (set, member) = sets.place(argument, data_type, filter, ordinal)?;
                Ok(Self::Distinct(Distinct { function: Box::new(function), set, member }))
            }
            (true, ..) => Err(unsupported()),
        }
    }

    /// Types of the columns that are stored for a group.
    pub fn state_types(&self) -> Vec<DataType> {
        match self {
            Self::CountRows => Vec::new(),
            Self::Count => vec![DataType::Int64],
            Self::Exact(sum) => sum.state_types(),
            Self::Float(sum) => sum.state_types(),
            Self::Extreme(extreme) => extreme.state_types(),
            Self::Tally(tally) => tally.state_types(),
            Self::Variance(variance) => variance.state_types(),
            Self::Approximate(_) => ApproximateCount::state_types(),
            Self::Ordered(ordered) => ordered.state_types(),
            Self::Distinct(distinct) => distinct.function.state_types(),
        }
    }

    /// Whether a NULL argument counts as a value.
    pub fn keeps_nulls(&self) -> bool {
        matches!(self, Self::Ordered(ordered) if ordered.keeps_nulls())
    }

    /// Whether it needs the table of all values.
    pub fn keeps_values(&self) -> bool {
        match self {
            Self::Extreme(extreme) => extreme.keeps_values(),
            Self::Ordered(_) | Self::Distinct(_) => true,
            _ => false,
        }
    }

    /// The stored columns of all groups with the rows added.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef], values: &mut Values<'_>) -> Result<Vec<ArrayRef>> {
        match self {
            Self::CountRows => Ok(Vec::new()),
            Self::Count => {
                let mut counts: Vec<i64> = old[0].as_primitive::<Int64Type>().values().to_vec();
                rows.each(|_, group, weight| counts[group] += weight);
                Ok(vec![Arc::new(Int64Array::from(counts))])
            }
            Self::Exact(sum) => sum.apply(rows, old),
            Self::Float(sum) => sum.apply(rows, old),
            Self::Extreme(extreme) => extreme.apply(rows, old, values),
            Self::Tally(tally) => tally.apply(rows, old),
            Self::Variance(variance) => variance.apply(rows, old),
            Self::Approximate(_) => ApproximateCount::apply(rows, old),
            Self::Ordered(ordered) => ordered.apply(rows, old, values),
            Self::Distinct(_) => Err(Error::internal("an aggregate of distinct values was given rows")),
        }
    }

    /// The results for these states of groups.
    ///
    /// # Errors
    /// When the columns are not those of the state.
    pub fn finish(&self, row_weights: &ArrayRef, state: &[ArrayRef]) -> Result<Finished> {
        match self {
            Self::CountRows => Ok(Finished::of(row_weights.clone())),
            Self::Count | Self::Extreme(_) | Self::Ordered(_) => Ok(Finished::of(state[0].clone())),
            Self::Exact(sum) => sum.finish(state),
            Self::Float(sum) => sum.finish(state),
            Self::Tally(tally) => tally.finish(state),
            Self::Variance(variance) => variance.finish(state),
            Self::Approximate(_) => ApproximateCount::finish(state),
            Self::Distinct(distinct) => distinct.function.finish(row_weights, state),
        }
    }
}

/// The stored row of a group that has no row: zeros, and NULL where a result is stored.
///
/// # Errors
/// Never for the types of [`Function::state_types`].
pub(super) fn empty_row(functions: &[Function], codec: &RowCodec) -> Result<Vec<u8>> {
    let zero =
        |data_type: &DataType| -> Result<ArrayRef> { Ok(arrow::compute::cast(&Int64Array::from(vec![0]), data_type)?) };
    let mut columns = vec![zero(&DataType::Int64)?];
    for function in functions {
        for data_type in function.state_types() {
            columns.push(match function {
                Function::Extreme(_) | Function::Ordered(_) => new_null_array(&data_type, 1),
                // A sum of floats without parts, counts of no bits.
                _ if data_type == DataType::Binary => Arc::new(BinaryArray::from_vec(vec![b"".as_slice()])),
                _ => zero(&data_type)?,
            });
        }
    }
    Ok(codec.encode(&columns)?.get(0).to_vec())
}
