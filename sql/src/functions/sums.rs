//! `sum` and `avg` with exact results: integers and decimals are added up in 128 bits, an overflow is 22003.
//!
//! sum(smallint, integer) is bigint, sum(bigint) numeric(38,0), sum(numeric(p,s)) numeric(38,s); avg of all of them is
//! numeric with at least 16 fractional digits. Floats are added up exactly too (`float_aggregates`), intervals by DataFusion.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, UInt64Array};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int32Type, Int64Type, UInt64Type};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::format_state_name;
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};
use millstream_catalog::SqlType;
use millstream_catalog::types::MAX_PRECISION;

use super::arithmetic::{DIVISION_SCALE, divide, overflow, plain_name};
use super::define::number_field;
use super::float_aggregates::{self, FloatSum, is_float};
use crate::error::SqlError;

/// `sum`.
pub fn sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(Exact {
        average: false,
        inner: datafusion_functions_aggregate::sum::sum_udaf(),
        signature: Signature::user_defined(Volatility::Immutable),
    }))
}

/// `avg`.
pub fn avg() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(Exact {
        average: true,
        inner: datafusion_functions_aggregate::average::avg_udaf(),
        signature: Signature::user_defined(Volatility::Immutable),
    }))
}

/// Scale of the exact inputs; `None` for those that DataFusion adds up.
fn exact_scale(input: &DataType) -> Option<i8> {
    match input {
        DataType::Int32 | DataType::Int64 => Some(0),
        DataType::Decimal128(_, scale) => Some(*scale),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Exact {
    average: bool,
    inner: Arc<AggregateUDF>,
    signature: Signature,
}

impl Exact {
    fn spec(&self, args: &AccumulatorArgs) -> Option<Spec> {
        let scale = exact_scale(args.expr_fields.first()?.data_type())?;
        Some(Spec { average: self.average, scale, output: args.return_field.data_type().clone() })
    }

    fn floats(&self, args: &AccumulatorArgs) -> Option<FloatSum> {
        let output = args.return_field.data_type().clone();
        let input = args.expr_fields.first()?;
        is_float(input.data_type()).then_some(FloatSum { average: self.average, output })
    }
}

impl AggregateUDFImpl for Exact {
    fn name(&self) -> &str {
        if self.average { "avg" } else { "sum" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let [input] = types else {
            return Err(SqlError::new("42883", format!("{} takes one argument", self.name())).into());
        };
        use DataType as D;
        Ok(vec![match input {
            D::Null | D::Int8 | D::UInt8 | D::Int16 | D::UInt16 | D::Int32 => D::Int32,
            D::UInt32 | D::Int64 => D::Int64,
            D::UInt64 => D::Decimal128(20, 0),
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) => D::Decimal128(*p, *s),
            D::Float16 | D::Float32 => D::Float32,
            D::Float64 => D::Float64,
            D::Interval(_) if !self.average => input.clone(),
            other => {
                let name = SqlType::from_arrow(other).map_or_else(|| other.to_string(), |t| plain_name(&t));
                return Err(SqlError::new("42883", format!("function {}({name}) does not exist", self.name()))
                    .with_hint("you might need to add an explicit type cast")
                    .into());
            }
        }])
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        use DataType as D;
        Ok(match (&self.coerce_types(types)?[0], self.average) {
            (D::Int32, false) => D::Int64,
            (D::Int64, false) => D::Decimal128(MAX_PRECISION, 0),
            (D::Decimal128(_, s), false) => D::Decimal128(MAX_PRECISION, *s),
            (D::Int32 | D::Int64, true) => D::Decimal128(MAX_PRECISION, DIVISION_SCALE),
            (D::Decimal128(_, s), true) => D::Decimal128(MAX_PRECISION, (*s).max(DIVISION_SCALE)),
            (D::Float32, false) => D::Float32,
            (D::Float32 | D::Float64, _) => D::Float64,
            (other, _) => self.inner.return_type(std::slice::from_ref(other))?,
        })
    }

    fn return_field(&self, arguments: &[FieldRef]) -> DfResult<FieldRef> {
        let types: Vec<DataType> = arguments.iter().map(|f| f.data_type().clone()).collect();
        let result = self.return_type(&types)?;
        if !self.average {
            return Ok(number_field(self.name(), result, arguments));
        }
        // An average has digits of its own, whatever zeros a numeric without precision is kept with.
        let is_open = arguments.iter().any(|f| SqlType::of(f) == Some(SqlType::Numeric(None)));
        let result = if is_open { DataType::Decimal128(MAX_PRECISION, DIVISION_SCALE) } else { result };
        Ok(Arc::new(Field::new(self.name(), result, true)))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        if let Some(sum) = self.floats(&args) {
            return Ok(sum.one(args.is_distinct));
        }
        match self.spec(&args) {
            Some(spec) => {
                let distinct = args.is_distinct.then(HashSet::new);
                Ok(Box::new(One { spec, sum: 0, count: 0, distinct }))
            }
            None => self.inner.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        if args.is_distinct {
            let what = format!("{}(DISTINCT) over a moving frame is not supported", self.name());
            return Err(SqlError::unsupported(what).into());
        }
        if let Some(sum) = self.floats(&args) {
            return Ok(sum.one(false));
        }
        match self.spec(&args) {
            Some(spec) => Ok(Box::new(One { spec, sum: 0, count: 0, distinct: None })),
            None => self.inner.create_sliding_accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        let Some(scale) = args.input_fields.first().and_then(|f| exact_scale(f.data_type())) else {
            let is_float = args.input_fields.first().is_some_and(|f| is_float(f.data_type()));
            return if is_float { Ok(float_aggregates::state_fields(&args)) } else { self.inner.state_fields(args) };
        };
        let sum = DataType::Decimal128(MAX_PRECISION, scale);
        Ok(if args.is_distinct {
            let list = DataType::List(Arc::new(Field::new("item", sum, true)));
            vec![Arc::new(Field::new(format_state_name(args.name, "distinct"), list, false))]
        } else {
            vec![
                Arc::new(Field::new(format_state_name(args.name, "sum"), sum, true)),
                Arc::new(Field::new(format_state_name(args.name, "count"), DataType::UInt64, true)),
            ]
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        match self.spec(&args) {
            _ if self.floats(&args).is_some() => !args.is_distinct,
            Some(_) => !args.is_distinct,
            None => self.inner.groups_accumulator_supported(args),
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        if let Some(sum) = self.floats(&args) {
            return Ok(sum.groups());
        }
        match self.spec(&args) {
            Some(spec) => Ok(Box::new(Groups { spec, sums: Vec::new(), counts: Vec::new() })),
            None => self.inner.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

/// What makes a result of a sum and a count.
#[derive(Debug, Clone)]
struct Spec {
    average: bool,
    /// Scale of the input and of the sum.
    scale: i8,
    output: DataType,
}

impl Spec {
    fn result(&self, sum: i128, count: u64) -> Result<Option<i128>, SqlError> {
        if count == 0 {
            return Ok(None);
        }
        let DataType::Decimal128(precision, scale) = self.output else {
            return match i64::try_from(sum) {
                Ok(v) => Ok(Some(i128::from(v))),
                Err(_) => Err(SqlError::new("22003", "bigint out of range")),
            };
        };
        let value = if self.average {
            let (up, down) = ((scale - self.scale).max(0) as u32, (self.scale - scale).max(0) as u32);
            divide(sum, up, i128::from(count) * 10_i128.pow(down)).ok_or_else(|| overflow(precision, scale))?
        } else {
            sum
        };
        let limit = 10i128.pow(u32::from(precision));
        if value > -limit && value < limit { Ok(Some(value)) } else { Err(overflow(precision, scale)) }
    }

    fn array(&self, values: Vec<Option<i128>>) -> DfResult<ArrayRef> {
        Ok(match self.output {
            DataType::Decimal128(p, s) => Arc::new(Decimal128Array::from(values).with_precision_and_scale(p, s)?),
            // Spec::result has checked the range.
            _ => Arc::new(values.into_iter().map(|v| v.map(|v| v as i64)).collect::<Int64Array>()),
        })
    }

    fn sum_type(&self) -> DataType {
        DataType::Decimal128(MAX_PRECISION, self.scale)
    }

    fn sum_overflow(&self) -> SqlError {
        overflow(MAX_PRECISION, self.scale)
    }
}

/// Calls `f` with the position and value of every row that is not NULL.
fn each(values: &ArrayRef, mut f: impl FnMut(usize, i128) -> DfResult<()>) -> DfResult<()> {
    macro_rules! rows {
        ($t:ty) => {{
            let array = values.as_primitive::<$t>();
            match array.nulls() {
                None => {
                    for (i, v) in array.values().iter().enumerate() {
                        f(i, i128::from(*v))?;
                    }
                }
                Some(nulls) => {
                    for i in nulls.valid_indices() {
                        f(i, i128::from(array.value(i)))?;
                    }
                }
            }
        }};
    }
    match values.data_type() {
        DataType::Int32 => rows!(Int32Type),
        DataType::Int64 => rows!(Int64Type),
        DataType::Decimal128(..) => rows!(Decimal128Type),
        other => return Err(SqlError::internal(format!("sum over {other}")).into()),
    }
    Ok(())
}

/// The accumulator of one group.
#[derive(Debug)]
struct One {
    spec: Spec,
    sum: i128,
    count: u64,
    distinct: Option<HashSet<i128>>,
}

impl One {
    fn add(&mut self, value: i128) -> DfResult<()> {
        if let Some(seen) = &mut self.distinct
            && !seen.insert(value)
        {
            return Ok(());
        }
        self.sum = self.sum.checked_add(value).ok_or_else(|| self.spec.sum_overflow())?;
        self.count += 1;
        Ok(())
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        each(&values[0], |_, v| self.add(v))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        each(&values[0], |_, v| {
            self.sum = self.sum.checked_sub(v).ok_or_else(|| self.spec.sum_overflow())?;
            self.count -= 1;
            Ok(())
        })
    }

    fn supports_retract_batch(&self) -> bool {
        self.distinct.is_none()
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let result = self.spec.result(self.sum, self.count)?;
        ScalarValue::try_from_array(&self.spec.array(vec![result])?, 0)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let decimal = |v: i128| ScalarValue::Decimal128(Some(v), MAX_PRECISION, self.spec.scale);
        Ok(match &self.distinct {
            Some(seen) => {
                let values: Vec<ScalarValue> = seen.iter().map(|v| decimal(*v)).collect();
                vec![ScalarValue::List(ScalarValue::new_list(&values, &self.spec.sum_type(), true))]
            }
            None => vec![decimal(self.sum), ScalarValue::UInt64(Some(self.count))],
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        if self.distinct.is_some() {
            for list in states[0].as_list::<i32>().iter().flatten() {
                each(&list, |_, v| self.add(v))?;
            }
            return Ok(());
        }
        let counts = states[1].as_primitive::<UInt64Type>();
        each(&states[0], |i, v| {
            self.sum = self.sum.checked_add(v).ok_or_else(|| self.spec.sum_overflow())?;
            self.count += counts.value(i);
            Ok(())
        })
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.distinct.as_ref().map_or(0, |s| s.capacity() * size_of::<i128>())
    }
}

/// The accumulators of all groups of a hash aggregation.
struct Groups {
    spec: Spec,
    sums: Vec<i128>,
    counts: Vec<u64>,
}

impl Groups {
    fn grow(&mut self, groups: usize) {
        self.sums.resize(groups, 0);
        self.counts.resize(groups, 0);
    }
}

/// Whether a row passes an aggregate's FILTER.
pub(super) fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|f| f.is_valid(row) && f.value(row))
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> DfResult<()> {
        self.grow(total_num_groups);
        each(&values[0], |row, v| {
            if passes(opt_filter, row) {
                let group = group_indices[row];
                self.sums[group] = self.sums[group].checked_add(v).ok_or_else(|| self.spec.sum_overflow())?;
                self.counts[group] += 1;
            }
            Ok(())
        })
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let counts = emit_to.take_needed(&mut self.counts);
        let results: Result<Vec<_>, SqlError> =
            sums.into_iter().zip(counts).map(|(sum, count)| self.spec.result(sum, count)).collect();
        self.spec.array(results?)
    }

    fn state(&mut self, emit_to: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let sums = Decimal128Array::from(emit_to.take_needed(&mut self.sums))
            .with_precision_and_scale(MAX_PRECISION, self.spec.scale)?;
        Ok(vec![Arc::new(sums), Arc::new(UInt64Array::from(emit_to.take_needed(&mut self.counts)))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> DfResult<()> {
        self.grow(total_num_groups);
        let counts = values[1].as_primitive::<UInt64Type>();
        each(&values[0], |row, v| {
            let group = group_indices[row];
            self.sums[group] = self.sums[group].checked_add(v).ok_or_else(|| self.spec.sum_overflow())?;
            self.counts[group] += counts.value(row);
            Ok(())
        })
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let rows = values[0].len();
        let (mut sums, mut counts) = (vec![0i128; rows], vec![0u64; rows]);
        each(&values[0], |row, v| {
            if passes(opt_filter, row) {
                sums[row] = v;
                counts[row] = 1;
            }
            Ok(())
        })?;
        let sums = Decimal128Array::from(sums).with_precision_and_scale(MAX_PRECISION, self.spec.scale)?;
        Ok(vec![Arc::new(sums), Arc::new(UInt64Array::from(counts))])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.counts.capacity() * size_of::<u64>()
    }
}
