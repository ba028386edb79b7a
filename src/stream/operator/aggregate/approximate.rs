//! APPROX_COUNT_DISTINCT over rows that are only ever added: a sketch forgets nothing.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array};
use arrow::datatypes::DataType;
use millstream_sql::functions::approx_distinct::{Sketch, hashes};

use super::rows::Rows;
use super::{Finished, bad_layout};
use crate::error::{Error, Result, sqlstate};

/// The aggregate. State: the sketch.
#[derive(Debug)]
pub(super) struct ApproximateCount;

impl ApproximateCount {
    /// For a result of its type over rows that are only added.
    ///
    /// # Errors
    /// 0A000 where rows are taken back.
    pub fn new(append_only: bool, output: &DataType) -> Result<Option<Self>> {
        if !append_only {
            return Err(Error::unsupported(
                "approx_count_distinct over rows that are taken back is not supported in a continuous view",
            )
            .with_hint("use count(DISTINCT ...), which is exact"));
        }
        Ok((*output == DataType::Int64).then_some(Self))
    }

    pub fn state_types() -> Vec<DataType> {
        vec![DataType::Binary]
    }

    /// The state with the rows added.
    pub fn apply(rows: &Rows<'_>, old: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("a sketch has no argument"))?;
        let hashes = hashes(argument)?;
        let mut sketches = decode(&old[0])?;
        rows.each(|row, group, _| sketches[group].add(hashes[row]));
        Ok(vec![Arc::new(BinaryArray::from_iter_values(sketches.iter().map(Sketch::encode)))])
    }

    /// The results of these states.
    pub fn finish(state: &[ArrayRef]) -> Result<Finished> {
        let estimates = decode(&state[0])?;
        Ok(Finished::of(Arc::new(Int64Array::from_iter_values(estimates.iter().map(Sketch::estimate)))))
    }
}

fn decode(column: &ArrayRef) -> Result<Vec<Sketch>> {
    let damaged = || Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: a sketch is damaged");
    let bytes = column.as_binary::<i32>();
    bytes.iter().map(|bytes| Sketch::decode(bytes.unwrap_or_default()).ok_or_else(damaged)).collect()
}
