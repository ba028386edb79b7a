//! `min`, `max` and `array_agg` with the SQL type of what they return, which DataFusion's functions lose where it is not in
//! the layout: a numeric without precision, documents, `char(n)`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunctionParams};
use datafusion_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion_expr::utils::AggregateOrderSensitivity;
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Expr, GroupsAccumulator, Operator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};
use millstream_catalog::SqlType;
use millstream_catalog::types::TYPE_KEY;

/// The functions of this module.
pub(crate) fn all() -> Vec<Arc<AggregateUDF>> {
    vec![
        own_type(datafusion_functions_aggregate::min_max::min_udaf(), Returned::Value),
        own_type(datafusion_functions_aggregate::min_max::max_udaf(), Returned::Value),
        own_type(datafusion_functions_aggregate::array_agg::array_agg_udaf(), Returned::List),
    ]
}

fn own_type(inner: Arc<AggregateUDF>, returned: Returned) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(OwnType { inner, returned }))
}

/// What an aggregate makes of its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Returned {
    /// One of its values; a length is no part of the result.
    Value,
    /// All of them.
    List,
}

impl Returned {
    fn of(self, argument: &SqlType) -> SqlType {
        match (self, argument) {
            (Self::Value, SqlType::Varchar(_)) => SqlType::Text,
            (Self::Value, other) => other.clone(),
            (Self::List, item) => SqlType::Array(Box::new(item.clone())),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OwnType {
    inner: Arc<AggregateUDF>,
    returned: Returned,
}

impl OwnType {
    fn beside(&self, inner: impl Into<Arc<AggregateUDF>>) -> Self {
        Self { inner: inner.into(), returned: self.returned }
    }
}

// It delegates, so a method that is left out would be a default that is not the inner one's.
#[warn(clippy::missing_trait_methods)]
impl AggregateUDFImpl for OwnType {
    fn return_field(&self, arguments: &[FieldRef]) -> DfResult<FieldRef> {
        let field = self.inner.return_field(arguments)?;
        let Some(own) = arguments.first().and_then(|f| SqlType::of(f)).map(|t| self.returned.of(&t)) else {
            return Ok(field);
        };
        if SqlType::of(&field).as_ref() == Some(&own) {
            return Ok(field);
        }
        // The layout stays the inner one's, whose lists know less of their items.
        let metadata = HashMap::from([(TYPE_KEY.to_string(), own.to_string())]);
        let typed = Field::new(field.name(), field.data_type().clone(), field.is_nullable()).with_metadata(metadata);
        Ok(if SqlType::of(&typed) == Some(own) { Arc::new(typed) } else { field })
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> DfResult<String> {
        self.inner.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> DfResult<String> {
        self.inner.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(types)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        // That of floats begins with the least and the greatest number, which are not infinite, and loses NaN.
        !args.expr_fields.iter().any(|f| f.data_type().is_floating()) && self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn with_beneficial_ordering(self: Arc<Self>, beneficial: bool) -> DfResult<Option<Arc<dyn AggregateUDFImpl>>> {
        let ordered = self.inner.as_ref().clone().with_beneficial_ordering(beneficial)?;
        Ok(ordered.map(|inner| Arc::new(self.beside(inner)) as Arc<dyn AggregateUDFImpl>))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.inner.simplify()
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        op: Operator,
        literal: &Expr,
        argument_is_left: bool,
    ) -> DfResult<Option<Expr>> {
        self.inner.simplify_expr_op_literal(function, argument, op, literal, argument_is_left)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            ReversedUDAF::Reversed(inner) => {
                ReversedUDAF::Reversed(Arc::new(AggregateUDF::new_from_impl(self.beside(inner))))
            }
            other => other,
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(args)
    }

    fn default_value(&self, data_type: &DataType) -> DfResult<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}
