//! The function that `FETCH FIRST n ROWS WITH TIES` is written as until the planner has turned it into a filter on rank.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::Result as DfResult;
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Its name.
pub(crate) const NAME: &str = "fetch_with_ties";

/// `fetch_with_ties(n)`, which is `n`.
pub(crate) fn with_ties() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(WithTies {
        signature: Signature::exact(vec![DataType::Int64], Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WithTies {
    signature: Signature,
}

impl ScalarUDFImpl for WithTies {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(args.args[0].clone())
    }
}
