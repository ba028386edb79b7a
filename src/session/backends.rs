//! Functions that act on sessions: `set_config()`, `pg_cancel_backend()`, `pg_terminate_backend()`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringViewArray};
use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Session;
use super::api::OutOfBand;
use super::inside::Inside;
use super::settings::Settings;
use crate::error::{Error, Result, sqlstate};

/// What reaches a session from others, by its process id.
#[derive(Default)]
pub struct Backends(Mutex<HashMap<i32, Backend>>);

struct Backend {
    /// Of the statement that runs, or the last one that ran.
    running: Option<CancellationToken>,
    outbox: mpsc::Sender<OutOfBand>,
}

impl Backends {
    /// A session has come.
    pub fn enter(&self, process_id: i32, outbox: mpsc::Sender<OutOfBand>) {
        self.0.lock().insert(process_id, Backend { running: None, outbox });
    }

    /// It runs a statement.
    pub fn runs(&self, process_id: i32, statement: CancellationToken) {
        if let Some(backend) = self.0.lock().get_mut(&process_id) {
            backend.running = Some(statement);
        }
    }

    /// It has gone.
    pub fn leave(&self, process_id: i32) {
        self.0.lock().remove(&process_id);
    }

    /// Cancels what a session runs. Whether there is one of that id.
    fn cancel(&self, process_id: i32) -> bool {
        let backends = self.0.lock();
        let Some(backend) = backends.get(&process_id) else { return false };
        if let Some(running) = &backend.running {
            running.cancel();
        }
        true
    }

    /// Ends a session. Whether there is one of that id.
    fn terminate(&self, process_id: i32) -> bool {
        let Some(outbox) = self.0.lock().get(&process_id).map(|backend| backend.outbox.clone()) else { return false };
        let error = Error::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command");
        // One that does not read has a full outbox: it is told when there is room.
        if let Err(mpsc::error::TrySendError::Full(event)) = outbox.try_send(OutOfBand::Terminate(error)) {
            tokio::spawn(async move { drop(outbox.send(event).await) });
        }
        self.cancel(process_id)
    }
}

/// Settings that `set_config()` has set and that the session takes over: name, value, whether for the transaction only.
pub type Configured = Arc<Mutex<Vec<(String, String, bool)>>>;

impl Session {
    /// Takes over what `set_config()` has set.
    pub(super) fn take_configured(&mut self) {
        let configured = std::mem::take(&mut *self.configured.lock());
        for (name, value, local) in configured {
            // It was tried when the function was called.
            if let Err(e) = self.set_statement(local, &name, Some(&value)) {
                tracing::warn!(error = %e, name, "set_config() could not be taken over");
            }
        }
    }
}

/// `set_config(name, value, is_local)`; a session with those settings calls it.
pub fn set_config(settings: Settings, configured: Configured) -> Arc<ScalarUDF> {
    function("set_config", DataType::Utf8View, move |args| {
        let Some(name) = args.first().cloned().flatten() else {
            return Err(Error::new("22004", "SET requires parameter name"));
        };
        let value = args.get(1).cloned().flatten().unwrap_or_default();
        let mut tried = settings.clone();
        tried.set(&name, Some(&value))?;
        let local = args.get(2).is_some_and(|local| local.as_deref() == Some("true"));
        let taken = tried.get(&name)?;
        configured.lock().push((name, value, local));
        Ok(Value::Text(taken))
    })
}

/// `pg_cancel_backend(pid)`.
pub fn cancel(backends: Arc<Backends>, inside: Inside) -> Arc<ScalarUDF> {
    function("pg_cancel_backend", DataType::Boolean, move |args| {
        Value::of(args, |pid| {
            inside.check_may_signal(pid, "cancel query")?;
            Ok(backends.cancel(pid))
        })
    })
}

/// `pg_terminate_backend(pid)`.
pub fn terminate(backends: Arc<Backends>, inside: Inside) -> Arc<ScalarUDF> {
    function("pg_terminate_backend", DataType::Boolean, move |args| {
        Value::of(args, |pid| {
            inside.check_may_signal(pid, "terminate process")?;
            Ok(backends.terminate(pid))
        })
    })
}

enum Value {
    Null,
    Bool(bool),
    Text(String),
}

impl Value {
    /// What becomes of the session that the first argument names.
    fn of(args: &[Option<String>], act: impl Fn(i32) -> Result<bool>) -> Result<Self> {
        Ok(match args.first().cloned().flatten() {
            Some(pid) => Self::Bool(pid.parse().map_or(Ok(false), act)?),
            None => Self::Null,
        })
    }
}

type Body = dyn Fn(&[Option<String>]) -> Result<Value> + Send + Sync;

fn function(
    name: &'static str,
    returns: DataType,
    body: impl Fn(&[Option<String>]) -> Result<Value> + Send + Sync + 'static,
) -> Arc<ScalarUDF> {
    let signature = Signature::new(TypeSignature::VariadicAny, Volatility::Volatile);
    Arc::new(ScalarUDF::new_from_impl(Acting { name, returns, body: Arc::new(body), signature }))
}

/// A function over the texts of its arguments that does something.
struct Acting {
    name: &'static str,
    returns: DataType,
    body: Arc<Body>,
    signature: Signature,
}

impl std::fmt::Debug for Acting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Acting {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Eq for Acting {}

impl std::hash::Hash for Acting {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Acting {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let text = |arg: &ColumnarValue| arrow::compute::cast(&arg.to_array(args.number_rows)?, &DataType::Utf8View);
        let columns: Vec<ArrayRef> = args.args.iter().map(text).collect::<Result<_, _>>()?;
        let mut values = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            let of_row: Vec<Option<String>> = columns
                .iter()
                .map(|column| column.is_valid(row).then(|| column.as_string_view().value(row).to_string()))
                .collect();
            values.push((self.body)(&of_row)?);
        }
        Ok(ColumnarValue::Array(match self.returns {
            DataType::Boolean => Arc::new(
                values.iter().map(|v| if let Value::Bool(b) = v { Some(*b) } else { None }).collect::<BooleanArray>(),
            ),
            _ => Arc::new(
                values
                    .iter()
                    .map(|v| if let Value::Text(text) = v { Some(text.as_str()) } else { None })
                    .collect::<StringViewArray>(),
            ),
        }))
    }
}
