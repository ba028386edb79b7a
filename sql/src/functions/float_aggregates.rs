//! `sum`, `avg` and the measures of spread of floats as a batch computes them, on the exact sums of [`float_sum`](super::float_sum).

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::StateFieldsArgs;
use datafusion_expr::utils::format_state_name;
use datafusion_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::float_sum::{FloatMoments, Total, overflow};
use super::moments::Spread;
use super::sums::passes;
use crate::error::{Result, SqlError};

/// Whether the aggregates of this file are for that type.
pub(super) fn is_float(input: &DataType) -> bool {
    matches!(input, DataType::Float32 | DataType::Float64)
}

/// What is passed from one stage of an aggregation to the next: one text of bytes, or the different values.
pub(super) fn state_fields(args: &StateFieldsArgs) -> Vec<FieldRef> {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Float64, true)));
    let (name, data_type) = if args.is_distinct { ("distinct", list) } else { ("floats", DataType::Binary) };
    vec![Arc::new(Field::new(format_state_name(args.name, name), data_type, true))]
}

/// Calls `f` with the position and value of every row that is not NULL.
fn each(values: &ArrayRef, mut f: impl FnMut(usize, f64)) {
    let valid = |i: &usize| values.is_valid(*i);
    match values.data_type() {
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>();
            (0..values.len()).filter(valid).for_each(|i| f(i, values.value(i).into()));
        }
        _ => {
            let values = values.as_primitive::<Float64Type>();
            (0..values.len()).filter(valid).for_each(|i| f(i, values.value(i)));
        }
    }
}

fn cut_off() -> SqlError {
    SqlError::internal("the state of an aggregate of floats is cut off")
}

/// A sum or average.
#[derive(Debug, Clone)]
pub(super) struct FloatSum {
    pub(super) average: bool,
    /// Single or double precision.
    pub(super) output: DataType,
}

impl FloatSum {
    pub(super) fn one(self, is_distinct: bool) -> Box<dyn Accumulator> {
        Box::new(One { sum: self, total: Total::default(), distinct: is_distinct.then(HashSet::new) })
    }

    pub(super) fn groups(self) -> Box<dyn GroupsAccumulator> {
        Box::new(Groups { sum: self, totals: Vec::new() })
    }

    fn result(&self, total: &Total) -> Result<Option<f64>> {
        match total.result(self.average)? {
            Some(v) if self.output == DataType::Float32 && v.is_finite() && !(v as f32).is_finite() => Err(overflow()),
            result => Ok(result),
        }
    }
}

#[derive(Debug)]
struct One {
    sum: FloatSum,
    total: Total,
    /// The bits of the values so far.
    distinct: Option<HashSet<u64>>,
}

impl One {
    fn add(&mut self, value: f64) {
        // Zero has two signs, and NaN many forms.
        let bits = if value.is_nan() { f64::NAN } else { value + 0.0 }.to_bits();
        if self.distinct.as_mut().is_none_or(|seen| seen.insert(bits)) {
            self.total.add(value, 1);
        }
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        each(&values[0], |_, value| self.add(value));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        each(&values[0], |_, value| self.total.add(value, -1));
        self.total.settle();
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        self.distinct.is_none()
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let result = self.sum.result(&self.total)?;
        Ok(match self.sum.output {
            DataType::Float32 => ScalarValue::Float32(result.map(|v| v as f32)),
            _ => ScalarValue::Float64(result),
        })
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![match &self.distinct {
            Some(seen) => {
                let values: Vec<ScalarValue> =
                    seen.iter().map(|bits| ScalarValue::Float64(Some(f64::from_bits(*bits)))).collect();
                ScalarValue::List(ScalarValue::new_list(&values, &DataType::Float64, true))
            }
            None => ScalarValue::Binary(Some(self.total.encode())),
        }])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        if self.distinct.is_some() {
            states[0].as_list::<i32>().iter().flatten().for_each(|list| each(&list, |_, value| self.add(value)));
            return Ok(());
        }
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            self.total.merge(&Total::decode(bytes).ok_or_else(cut_off)?);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.distinct.as_ref().map_or(0, |seen| seen.capacity() * size_of::<u64>())
    }
}

struct Groups {
    sum: FloatSum,
    totals: Vec<Total>,
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> DfResult<()> {
        self.totals.resize_with(total_num_groups, Total::default);
        each(&values[0], |row, value| {
            if passes(opt_filter, row) {
                self.totals[group_indices[row]].add(value, 1);
            }
        });
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        let totals = emit_to.take_needed(&mut self.totals);
        let results = totals.iter().map(|total| self.sum.result(total));
        Ok(match self.sum.output {
            DataType::Float32 => Arc::new(results.map(|r| Ok(r?.map(|v| v as f32))).collect::<Result<Float32Array>>()?),
            _ => Arc::new(results.collect::<Result<Float64Array>>()?),
        })
    }

    fn state(&mut self, emit_to: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let totals = emit_to.take_needed(&mut self.totals);
        Ok(vec![Arc::new(BinaryArray::from_iter_values(totals.iter().map(Total::encode)))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> DfResult<()> {
        self.totals.resize_with(total_num_groups, Total::default);
        for (row, bytes) in values[0].as_binary::<i32>().iter().enumerate() {
            if let Some(bytes) = bytes {
                self.totals[group_indices[row]].merge(&Total::decode(bytes).ok_or_else(cut_off)?);
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let mut totals = vec![Total::default(); values[0].len()];
        each(&values[0], |row, value| totals[row].add(value, i64::from(passes(opt_filter, row))));
        Ok(vec![Arc::new(BinaryArray::from_iter_values(totals.iter().map(Total::encode)))])
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<Total>()
    }
}

/// A measure of spread of one group.
#[derive(Debug)]
pub(super) struct FloatSpread {
    spread: Spread,
    moments: FloatMoments,
}

impl FloatSpread {
    pub(super) fn new(spread: Spread) -> Self {
        Self { spread, moments: FloatMoments::default() }
    }
}

impl Accumulator for FloatSpread {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        each(&values[0], |_, value| self.moments.add(value, 1));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        each(&values[0], |_, value| self.moments.add(value, -1));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Float64(self.moments.result(self.spread)?))
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.moments.encode()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            self.moments.merge(&FloatMoments::decode(bytes).ok_or_else(cut_off)?);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}
