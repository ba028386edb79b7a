//! Functions whose value the session or the planner knows: replaced by constants when a statement is planned ([`constant`];
//! `pg_typeof` by the planner).

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::define::{Typing, define};
use crate::context::SessionVars;
use crate::error::SqlError;

const NAMES: [&str; 8] = [
    "version",
    "current_user",
    "session_user",
    "user",
    "current_role",
    "current_database",
    "current_catalog",
    "current_schema",
];

/// One function of each name.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    let type_of = define(
        "pg_typeof",
        &[],
        |types, _| (types.len() == 1).then(|| Typing { arguments: types.to_vec(), result: DataType::Utf8View }),
        |_| Err(SqlError::internal("pg_typeof has no planner")),
    );
    let by_name = NAMES.into_iter().map(|name| Arc::new(ScalarUDF::new_from_impl(SessionFunction::new(name))));
    by_name.chain([type_of]).collect()
}

/// The value of a session function in this session.
pub(crate) fn constant(name: &str, session: &SessionVars) -> Option<ScalarValue> {
    let value = match name {
        "version" => &session.version,
        "current_user" | "user" | "current_role" => &session.user,
        "session_user" => &session.session_user,
        "current_database" | "current_catalog" => &session.database,
        "current_schema" => &session.schema,
        _ => return None,
    };
    Some(ScalarValue::Utf8View(Some(value.clone())))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionFunction {
    name: &'static str,
    signature: Signature,
}

impl SessionFunction {
    fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::nullary(Volatility::Stable) }
    }
}

impl ScalarUDFImpl for SessionFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(SqlError::internal(format!("{} has no session", self.name)).into())
    }
}
