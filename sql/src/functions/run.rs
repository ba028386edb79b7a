//! What a statement can ask of the task's run that it belongs to: replaced by constants when it is planned ([`constant`]), so
//! that a run that is tried again, or made up for later, gives what it would have given.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::context::SessionVars;
use crate::error::{Result, SqlError};

/// The scheduled time of the run, `timestamptz`.
const TIME: &str = "run_time";
/// The date of the scheduled time by the clock of the schedule, `date`.
const DATE: &str = "run_date";
/// A parameter of the run by its name, `text`.
const PARAMETER: &str = "run_parameter";

/// One function of each name.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    let signature = |exact: Vec<DataType>| match exact.is_empty() {
        true => Signature::nullary(Volatility::Stable),
        false => Signature::exact(exact, Volatility::Stable),
    };
    let function = |name, arguments, result| {
        Arc::new(ScalarUDF::new_from_impl(RunFunction { name, result, signature: signature(arguments) }))
    };
    vec![
        function(TIME, vec![], DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        function(DATE, vec![], DataType::Date32),
        function(PARAMETER, vec![DataType::Utf8View], DataType::Utf8View),
    ]
}

/// The value of a call in this session; `None` for other functions.
///
/// # Errors
/// 55000 outside of a task's run, 42704 for a parameter that the task does not have, 22023 for a name that is no constant.
pub(crate) fn constant(name: &str, args: &[Expr], session: &SessionVars) -> Result<Option<ScalarValue>> {
    if ![TIME, DATE, PARAMETER].contains(&name) {
        return Ok(None);
    }
    let Some(run) = &session.run else { return Err(outside(name)) };
    Ok(match (name, args) {
        (TIME, []) => Some(ScalarValue::TimestampMicrosecond(Some(run.time_us), Some("UTC".into()))),
        (DATE, []) => Some(ScalarValue::Date32(Some(run.date))),
        (PARAMETER, [argument]) => {
            let asked = text(argument).ok_or_else(|| {
                SqlError::new("22023", "the argument of run_parameter() must be the name of a parameter as a constant")
            })?;
            let value = run.parameters.get(&asked.to_lowercase()).ok_or_else(|| {
                let known: Vec<&str> = run.parameters.keys().map(String::as_str).collect();
                let hint = match known.as_slice() {
                    [] => format!("declare it with its default: WITH (parameter.{asked} = '...')"),
                    known => format!("the parameters are: {}", known.join(", ")),
                };
                SqlError::new("42704", format!("the task has no parameter \"{asked}\"")).with_hint(hint)
            })?;
            Some(ScalarValue::Utf8View(Some(value.clone())))
        }
        // The wrong number of arguments is told by the signature.
        _ => None,
    })
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _) => Some(text),
        Expr::Cast(cast) => text(&cast.expr),
        Expr::Alias(alias) => text(&alias.expr),
        _ => None,
    }
}

fn outside(name: &str) -> SqlError {
    SqlError::new("55000", format!("{name}() can only be called in the statements of a task"))
        .with_hint("CREATE TASK ... AS runs statements at a scheduled time; elsewhere there are now() and current_date")
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RunFunction {
    name: &'static str,
    result: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for RunFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(self.result.clone())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(outside(self.name).into())
    }
}
