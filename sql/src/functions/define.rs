//! A scalar function from three parts: its name, its typing, and its kernel over arrays.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::kernels::arity::{try_binary, try_unary};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use millstream_catalog::SqlType;
use millstream_catalog::types::field_ref;

use super::datetime::no_function;
use crate::error::{Result, SqlError};

/// What the arguments are cast to, and the type of the result.
pub(crate) struct Typing {
    pub(crate) arguments: Vec<DataType>,
    pub(crate) result: DataType,
}

impl Typing {
    /// For a match arm.
    pub(crate) fn new(arguments: Vec<DataType>, result: DataType) -> Option<Self> {
        Some(Self { arguments, result })
    }
}

/// What a kernel gets: arrays of equal length, of the types that the typing asked for.
pub(crate) struct Call<'a> {
    pub(crate) arguments: &'a [ArrayRef],
    pub(crate) rows: usize,
    pub(crate) result: &'a DataType,
    /// The fields of the arguments, which tell their SQL types.
    pub(crate) fields: &'a [FieldRef],
    /// The session's time zone.
    pub(crate) zone: &'a str,
}

/// The typing of a call: argument types, and the values of those that are constants. `None`: no such function.
pub(crate) type Type = fn(&[DataType], Constants<'_>) -> Option<Typing>;
pub(crate) type Constants<'a> = &'a [Option<&'a ScalarValue>];
pub(crate) type Kernel = fn(&Call<'_>) -> Result<ArrayRef>;

/// A function by name. It is NULL on a NULL argument, which the kernel sees to.
#[derive(Clone)]
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) volatility: Volatility,
    /// Whether NULL in gives NULL out.
    pub(crate) strict: bool,
    /// The result's SQL type where its layout does not tell it.
    pub(crate) result: Option<SqlType>,
    pub(crate) typing: Type,
    pub(crate) kernel: Kernel,
}

/// An immutable strict function.
pub(crate) fn define(
    name: &'static str,
    aliases: &'static [&'static str],
    typing: Type,
    kernel: Kernel,
) -> Arc<ScalarUDF> {
    build(Definition { name, aliases, volatility: Volatility::Immutable, strict: true, result: None, typing, kernel })
}

/// The function behind a definition.
pub(crate) fn build(definition: Definition) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(definition.volatility);
    let aliases = definition.aliases.iter().map(ToString::to_string).collect();
    Arc::new(ScalarUDF::new_from_impl(Defined { definition, zone: None, signature, aliases }))
}

/// A function that looks at the session's time zone with that zone in it, so that a stored query keeps its meaning; `None`
/// for one that does not look at it.
pub(crate) fn in_zone(function: &ScalarUDF, zone: &str) -> Option<ScalarUDF> {
    let Defined { definition, zone: None, aliases, .. } = function.inner().downcast_ref::<Defined>()? else {
        return None;
    };
    (definition.volatility == Volatility::Stable).then(|| {
        ScalarUDF::new_from_impl(Defined {
            definition: definition.clone(),
            zone: Some(zone.to_string()),
            signature: Signature::user_defined(Volatility::Immutable),
            aliases: aliases.clone(),
        })
    })
}

struct Defined {
    definition: Definition,
    /// The time zone, once a statement is planned.
    zone: Option<String>,
    signature: Signature,
    aliases: Vec<String>,
}

impl std::fmt::Debug for Defined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.definition.name)
    }
}

// A name has one definition.
impl PartialEq for Defined {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name == other.definition.name && self.zone == other.zone
    }
}

impl Eq for Defined {}

impl Hash for Defined {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
        self.zone.hash(state);
    }
}

impl Defined {
    fn typing(&self, types: &[DataType], constants: Constants<'_>) -> Result<Typing> {
        (self.definition.typing)(types, constants).ok_or_else(|| no_function(self.definition.name, types))
    }
}

impl ScalarUDFImpl for Defined {
    fn name(&self) -> &str {
        self.definition.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn is_strict(&self) -> bool {
        self.definition.strict
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        Ok(self.typing(types, &vec![None; types.len()])?.arguments)
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(self.typing(types, &vec![None; types.len()])?.result)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let typing = self.typing(&types, args.scalar_arguments)?;
        Ok(match &self.definition.result {
            Some(sql_type) => field_ref(sql_type, self.name(), true),
            None => number_field(self.name(), typing.result, args.arg_fields),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, arg_fields, number_rows, return_field, config_options } = args;
        let result = return_field.data_type();
        if self.definition.strict && args.iter().any(|a| matches!(a, ColumnarValue::Scalar(s) if s.is_null())) {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(result)?));
        }
        let constant = self.definition.volatility != Volatility::Volatile
            && args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { number_rows };
        let arguments = args.iter().map(|a| a.to_array(rows)).collect::<DfResult<Vec<_>>>()?;
        let zone = self.zone.as_deref().or(config_options.execution.time_zone.as_deref()).unwrap_or("UTC");
        let call = Call { arguments: &arguments, rows, result, fields: &arg_fields, zone };
        let array = (self.definition.kernel)(&call)?;
        if array.data_type() != result {
            return Err(SqlError::internal(format!("{} gave {} for {result}", self.name(), array.data_type())).into());
        }
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// The field of a result. What a numeric without precision goes into is one too, if it has its layout.
pub(crate) fn number_field(name: &str, result: DataType, arguments: &[FieldRef]) -> FieldRef {
    let open = SqlType::Numeric(None);
    let is_open = result == open.arrow_type() && arguments.iter().any(|f| SqlType::of(f).as_ref() == Some(&open));
    if is_open { field_ref(&open, name, true) } else { Arc::new(Field::new(name, result, true)) }
}

/// Applies `f` to each value that is not NULL.
pub(crate) fn unary<A: ArrowPrimitiveType, O: ArrowPrimitiveType>(
    array: &ArrayRef,
    f: impl Fn(A::Native) -> Result<O::Native>,
) -> Result<PrimitiveArray<O>> {
    Ok(try_unary::<A, _, O>(array.as_primitive::<A>(), |v| f(v).map_err(ArrowError::from))?)
}

/// Applies `f` to each pair without a NULL.
pub(crate) fn binary<A: ArrowPrimitiveType, B: ArrowPrimitiveType, O: ArrowPrimitiveType>(
    left: &ArrayRef,
    right: &ArrayRef,
    f: impl Fn(A::Native, B::Native) -> Result<O::Native>,
) -> Result<PrimitiveArray<O>> {
    let f = |l, r| f(l, r).map_err(ArrowError::from);
    Ok(try_binary(left.as_primitive::<A>(), right.as_primitive::<B>(), f)?)
}

/// Whether a row has a NULL in any argument.
pub(crate) fn has_null(arguments: &[ArrayRef], row: usize) -> bool {
    arguments.iter().any(|a| a.is_null(row))
}

/// A constant argument's integer.
pub(crate) fn constant_int(constants: Constants<'_>, at: usize) -> Option<i64> {
    match constants.get(at).copied().flatten()? {
        ScalarValue::Int16(v) => v.map(i64::from),
        ScalarValue::Int32(v) => v.map(i64::from),
        ScalarValue::Int64(v) => *v,
        _ => None,
    }
}

/// Whether it is an integer type, or an untyped NULL.
pub(crate) fn is_int(t: &DataType) -> bool {
    t.is_integer() || t.is_null()
}
