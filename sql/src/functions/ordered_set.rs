//! Aggregates of the values that WITHIN GROUP (ORDER BY …) orders: `percentile_cont`, `percentile_disc` and `mode`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{SortOptions, sort_to_indices};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::format_state_name;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::datetime::no_function;
use crate::error::{Result, SqlError};

/// The functions of this module.
pub(crate) fn all() -> [Arc<AggregateUDF>; 3] {
    [OrderedSet::PercentileCont, OrderedSet::PercentileDisc, OrderedSet::Mode].map(|kind| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(OrderedSetFunction { kind, signature }))
    })
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderedSet {
    /// Between two values there are others.
    PercentileCont,
    PercentileDisc,
    /// The value that is there most often, the first of several.
    Mode,
}

impl OrderedSet {
    /// Its SQL name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PercentileCont => "percentile_cont",
            Self::PercentileDisc => "percentile_disc",
            Self::Mode => "mode",
        }
    }
}

/// Where a percentile is among `count` ordered values, from 0: between two of them, or at one of them twice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub below: usize,
    pub above: usize,
    /// How far it is from the one below to the one above, from 0 to 1.
    part: f64,
}

impl Place {
    /// The place of `percentile_cont(fraction)` among `count` values, of which there is one at least.
    pub fn continuous(fraction: f64, count: usize) -> Self {
        let place = fraction * (count - 1) as f64;
        Self { below: place.floor() as usize, above: place.ceil() as usize, part: place - place.floor() }
    }

    /// The place of `percentile_disc(fraction)`.
    pub fn discrete(fraction: f64, count: usize) -> Self {
        let place = ((fraction * count as f64).ceil() as usize).max(1) - 1;
        Self { below: place, above: place, part: 0.0 }
    }

    /// The value at the place, from those beside it.
    pub fn between(&self, below: f64, above: f64) -> f64 {
        if below == above { below } else { below + self.part * (above - below) }
    }
}

/// The fraction of a percentile.
///
/// # Errors
/// 22003 if it is not from 0 to 1.
pub fn checked_fraction(fraction: f64) -> Result<f64> {
    if !(0.0..=1.0).contains(&fraction) {
        return Err(SqlError::new("22003", format!("percentile value {fraction} is not between 0 and 1")));
    }
    Ok(fraction)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderedSetFunction {
    kind: OrderedSet,
    signature: Signature,
}

impl AggregateUDFImpl for OrderedSetFunction {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }

    /// The ordered value comes first, then the fraction.
    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let (value, fraction) = match (self.kind, types) {
            (OrderedSet::Mode, [value]) => (value, None),
            (OrderedSet::PercentileCont | OrderedSet::PercentileDisc, [value, fraction]) => (value, Some(fraction)),
            _ => return Err(no_function(self.name(), types).into()),
        };
        if matches!(fraction, Some(DataType::List(_))) || matches!(value, DataType::Interval(_)) {
            return Err(
                SqlError::unsupported(format!("{} of arrays and intervals is not supported", self.name())).into()
            );
        }
        let number = |t: &DataType| t.is_numeric() || t.is_null();
        let continuous = self.kind == OrderedSet::PercentileCont;
        if let Some(fraction) = fraction
            && (!number(fraction) || (continuous && !number(value)))
        {
            return Err(no_function(self.name(), &[fraction.clone(), value.clone()]).into());
        }
        let value = match value {
            _ if continuous => DataType::Float64,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Null => DataType::Utf8View,
            other => other.clone(),
        };
        Ok(std::iter::once(value).chain(fraction.map(|_| DataType::Float64)).collect())
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(self.coerce_types(types)?.swap_remove(0))
    }

    fn return_field(&self, arguments: &[FieldRef]) -> DfResult<FieldRef> {
        let types: Vec<DataType> = arguments.iter().map(|f| f.data_type().clone()).collect();
        let result = self.return_type(&types)?;
        Ok(match arguments.first() {
            Some(field) if *field.data_type() == result => {
                Arc::new(field.as_ref().clone().with_name(self.name()).with_nullable(true))
            }
            _ => Arc::new(Field::new(self.name(), result, true)),
        })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        if args.is_distinct {
            return Err(SqlError::unsupported(format!("{}(DISTINCT) is not supported", self.name())).into());
        }
        Ok(Box::new(Values {
            kind: self.kind,
            descending: args.order_bys.first().is_some_and(|sort| sort.options.descending),
            value_type: args.return_field.data_type().clone(),
            fraction: ScalarValue::Float64(None),
            values: Vec::new(),
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        let item = Field::new_list_field(args.return_field.data_type().clone(), true);
        Ok(vec![
            Arc::new(Field::new(format_state_name(args.name, "values"), DataType::List(Arc::new(item)), true)),
            Arc::new(Field::new(format_state_name(args.name, "fraction"), DataType::Float64, true)),
        ])
    }
}

/// All values of one group.
#[derive(Debug)]
struct Values {
    kind: OrderedSet,
    descending: bool,
    value_type: DataType,
    fraction: ScalarValue,
    /// Batches as they came, without NULLs.
    values: Vec<ArrayRef>,
}

impl Values {
    fn sorted(&self) -> Result<ArrayRef> {
        let arrays: Vec<&dyn Array> = self.values.iter().map(AsRef::as_ref).collect();
        let all = arrow::compute::concat(&arrays)?;
        let order = SortOptions { descending: self.descending, nulls_first: false };
        Ok(arrow::compute::take(&all, &sort_to_indices(&all, Some(order), None)?, None)?)
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        let present = arrow::compute::is_not_null(values)?;
        let present = arrow::compute::filter(values, &present)?;
        if !present.is_empty() {
            self.values.push(present);
        }
        Ok(())
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        // What the values are ordered by comes behind the arguments.
        if self.kind != OrderedSet::Mode
            && let Some(fractions) = values.get(1).filter(|fractions| !fractions.is_empty())
        {
            self.fraction = ScalarValue::try_from_array(fractions, 0)?;
        }
        Ok(self.add(&values[0])?)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for (row, list) in states[0].as_list::<i32>().iter().enumerate() {
            if states[1].is_valid(row) {
                self.fraction = ScalarValue::try_from_array(&states[1], row)?;
            }
            if let Some(values) = list {
                self.add(&values)?;
            }
        }
        Ok(())
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let mut items = Vec::new();
        for array in &self.values {
            for row in 0..array.len() {
                items.push(ScalarValue::try_from_array(array, row)?);
            }
        }
        let list = ScalarValue::List(ScalarValue::new_list(&items, &self.value_type, true));
        Ok(vec![list, self.fraction.clone()])
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let null = ScalarValue::try_new_null(&self.value_type);
        if self.kind == OrderedSet::Mode {
            return if self.values.is_empty() { null } else { most_frequent(&self.sorted()?) };
        }
        let ScalarValue::Float64(Some(fraction)) = self.fraction else { return null };
        let fraction = checked_fraction(fraction)?;
        if self.values.is_empty() {
            return null;
        }
        let sorted = self.sorted()?;
        if self.kind == OrderedSet::PercentileDisc {
            return ScalarValue::try_from_array(&sorted, Place::discrete(fraction, sorted.len()).below);
        }
        let sorted = sorted.as_primitive::<Float64Type>();
        let place = Place::continuous(fraction, sorted.len());
        Ok(ScalarValue::Float64(Some(place.between(sorted.value(place.below), sorted.value(place.above)))))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.iter().map(|a| a.get_array_memory_size()).sum::<usize>()
    }
}

/// The first of the longest runs of equal values.
fn most_frequent(sorted: &ArrayRef) -> DfResult<ScalarValue> {
    let runs = arrow::compute::partition(std::slice::from_ref(sorted))?.ranges();
    let longest = runs.iter().rev().max_by_key(|run| run.len()).map_or(0, |run| run.start);
    ScalarValue::try_from_array(sorted, longest)
}
