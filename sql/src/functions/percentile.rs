//! `percentile_cont` and `percentile_disc` of the values that WITHIN GROUP (ORDER BY …) orders.

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

/// Both functions.
pub(crate) fn all() -> [Arc<AggregateUDF>; 2] {
    [true, false].map(|continuous| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(Percentile { continuous, signature }))
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Percentile {
    /// Between two values there are others.
    continuous: bool,
    signature: Signature,
}

impl AggregateUDFImpl for Percentile {
    fn name(&self) -> &str {
        if self.continuous { "percentile_cont" } else { "percentile_disc" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }

    /// The ordered value comes first, then the fraction.
    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let [value, fraction] = types else { return Err(no_function(self.name(), types).into()) };
        if matches!(fraction, DataType::List(_)) || matches!(value, DataType::Interval(_)) {
            return Err(
                SqlError::unsupported(format!("{} of arrays and intervals is not supported", self.name())).into()
            );
        }
        let number = |t: &DataType| t.is_numeric() || t.is_null();
        if !number(fraction) || (self.continuous && !number(value)) {
            return Err(no_function(self.name(), &[fraction.clone(), value.clone()]).into());
        }
        let value = match value {
            _ if self.continuous => DataType::Float64,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Null => DataType::Utf8View,
            other => other.clone(),
        };
        Ok(vec![value, DataType::Float64])
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
            continuous: self.continuous,
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
    continuous: bool,
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
        if !values[0].is_empty() {
            self.fraction = ScalarValue::try_from_array(&values[1], 0)?;
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
        let ScalarValue::Float64(Some(fraction)) = self.fraction else { return null };
        if !(0.0..=1.0).contains(&fraction) {
            let error = SqlError::new("22003", format!("percentile value {fraction} is not between 0 and 1"));
            return Err(error.into());
        }
        if self.values.is_empty() {
            return null;
        }
        let sorted = self.sorted()?;
        if !self.continuous {
            let rank = (fraction * sorted.len() as f64).ceil() as usize;
            return ScalarValue::try_from_array(&sorted, rank.max(1) - 1);
        }
        let sorted = sorted.as_primitive::<Float64Type>();
        let place = fraction * (sorted.len() - 1) as f64;
        let (below, above) = (sorted.value(place.floor() as usize), sorted.value(place.ceil() as usize));
        let value = if below == above { below } else { below + (place - place.floor()) * (above - below) };
        Ok(ScalarValue::Float64(Some(value)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.iter().map(|a| a.get_array_memory_size()).sum::<usize>()
    }
}
