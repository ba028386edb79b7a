//! The aggregate functions behind one front: what they store for a group, how rows change it, what comes out.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type};

use super::exact::ExactSum;
use super::extreme::Extreme;
use super::float::FloatSum;
use super::rows::Rows;
use super::{AggregateCall, AggregateKind, Finished};
use crate::error::{Error, Result};
use crate::state::{ByteRows, RowCodec, State};
use crate::stream::cached::CachedTable;

/// One aggregate of an operator.
#[derive(Debug)]
pub(super) enum Function {
    /// COUNT(*) without a filter is the group's row weight, which is stored anyway.
    CountRows,
    Count,
    Exact(ExactSum),
    Float(FloatSum),
    Extreme(Extreme),
}

impl Function {
    /// The aggregate that computes `call` into `output`.
    ///
    /// # Errors
    /// 0A000 if there is none for these types.
    pub fn new(
        call: &AggregateCall,
        argument: Option<&DataType>,
        output: &Field,
        ordinal: u16,
        append_only: bool,
    ) -> Result<Self> {
        let to = output.data_type();
        let unsupported = || {
            let name = call.kind.name();
            let from = argument.map_or("*".to_string(), ToString::to_string);
            Error::unsupported(format!("{name}({from}) as {to} is not supported in a continuous view"))
        };
        let sum = |average| {
            let argument = argument?;
            let exact = ExactSum::new(average, argument, to).map(Self::Exact);
            exact.or_else(|| FloatSum::new(average, argument, to).map(Self::Float))
        };
        match (call.kind, argument) {
            (AggregateKind::Count, None) if call.filter.is_none() && *to == DataType::Int64 => Ok(Self::CountRows),
            (AggregateKind::Count, _) if *to == DataType::Int64 => Ok(Self::Count),
            (AggregateKind::Sum, Some(_)) => sum(false).ok_or_else(unsupported),
            (AggregateKind::Avg, Some(_)) => sum(true).ok_or_else(unsupported),
            (AggregateKind::Min | AggregateKind::Max, Some(from)) if from == to => {
                Ok(Self::Extreme(Extreme::new(call.kind == AggregateKind::Max, from, ordinal, append_only)?))
            }
            _ => Err(unsupported()),
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
        }
    }

    /// Whether it needs the table of all values.
    pub fn keeps_values(&self) -> bool {
        matches!(self, Self::Extreme(extreme) if extreme.keeps_values())
    }

    /// The stored columns of all groups with the rows added.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn apply(
        &self,
        rows: &Rows<'_>,
        old: &[ArrayRef],
        groups: &ByteRows,
        values: &mut CachedTable,
        state: &mut State,
    ) -> Result<Vec<ArrayRef>> {
        match self {
            Self::CountRows => Ok(Vec::new()),
            Self::Count => {
                let mut counts: Vec<i64> = old[0].as_primitive::<Int64Type>().values().to_vec();
                rows.each(|_, group, weight| counts[group] += weight);
                Ok(vec![Arc::new(Int64Array::from(counts))])
            }
            Self::Exact(sum) => sum.apply(rows, old),
            Self::Float(sum) => sum.apply(rows, old),
            Self::Extreme(extreme) => extreme.apply(rows, old, groups, values, state),
        }
    }

    /// The results for these states of groups.
    ///
    /// # Errors
    /// When the columns are not those of the state.
    pub fn finish(&self, row_weights: &ArrayRef, state: &[ArrayRef]) -> Result<Finished> {
        match self {
            Self::CountRows => Ok(Finished::of(row_weights.clone())),
            Self::Count | Self::Extreme(_) => Ok(Finished::of(state[0].clone())),
            Self::Exact(sum) => sum.finish(state),
            Self::Float(sum) => sum.finish(state),
        }
    }
}

/// The stored row of a group that has no row: zeros, and NULL as extremes.
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
                Function::Extreme(_) => new_null_array(&data_type, 1),
                // A sum of floats without parts.
                _ if data_type == DataType::Binary => Arc::new(BinaryArray::from_vec(vec![b"".as_slice()])),
                _ => zero(&data_type)?,
            });
        }
    }
    Ok(codec.encode(&columns)?.get(0).to_vec())
}
