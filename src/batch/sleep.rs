//! `pg_sleep(seconds)`: waits without holding a thread, so that a cancel or a timeout ends it at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{AsArray, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The function; its result is PostgreSQL's void, an empty text.
pub fn pg_sleep() -> Arc<ScalarUDF> {
    let signature = Signature::exact(vec![DataType::Float64], Volatility::Volatile);
    Arc::new(AsyncScalarUDF::new(Arc::new(Sleep { signature })).into_scalar_udf())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sleep {
    signature: Signature,
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &str {
        "pg_sleep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("pg_sleep waits, it is not computed")
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Sleep {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let seconds = args.args[0].to_array(args.number_rows)?;
        let mut shown = Vec::with_capacity(args.number_rows);
        for seconds in seconds.as_primitive::<Float64Type>() {
            if let Some(seconds) = seconds {
                // What is no duration (negative, NaN) does not wait; what is too long waits as long as it can.
                let wait = Duration::try_from_secs_f64(seconds).unwrap_or(if seconds > 0.0 {
                    Duration::from_secs(u64::from(u32::MAX))
                } else {
                    Duration::ZERO
                });
                tokio::time::sleep(wait).await;
            }
            shown.push(seconds.map(|_| ""));
        }
        Ok(ColumnarValue::Array(Arc::new(StringViewArray::from(shown))))
    }
}
