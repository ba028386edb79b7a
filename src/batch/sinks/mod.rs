//! Sinks that write files: `connector = 'delta'` and `connector = 'parquet'`.
//!
//! Rows gather in files until a size or a time is reached; then one commit makes them part of the table, together with the
//! number after the last of them. That number is the sink's marker: a sender that starts goes on there, so that no row is
//! lost or there twice, whenever it was killed.
//!
//! * [`options`]: what `WITH (…)` says. [`delta`]: a Delta table. [`parquet`]: a folder of Parquet files. `gathered`: rows
//!   that wait for their commit in either.

mod delta;
mod gathered;
pub mod options;
mod parquet;

use std::sync::Arc;

use datafusion::execution::session_state::SessionState;
use millstream_catalog::object::Sink;
use millstream_catalog::{Catalog, Column};
use millstream_connectors::sink::RowPlace;
use millstream_connectors::{ConnectorError, SinkSpec};
use tokio::runtime::Handle;

use self::delta::DeltaPlace;
use self::options::SinkOptions;
use self::parquet::ParquetPlace;
use super::lake::{Lake, Snapshots};
use super::stores::{Access, Stores};
use crate::error::{Error, Result};

/// What sinks that write files need of the batch engine.
#[derive(Clone)]
pub struct Places {
    stores: Arc<Stores>,
    snapshots: Arc<Snapshots>,
    handle: Handle,
    state: SessionState,
}

impl Places {
    pub fn new(stores: Arc<Stores>, snapshots: Arc<Snapshots>, handle: Handle, state: SessionState) -> Self {
        Self { stores, snapshots, handle, state }
    }

    /// The validated sink, whatever it writes to; `name` is what it is called, for errors, and `role` is whose secrets it may
    /// open its place with (`None`: all).
    ///
    /// # Errors
    /// As [`SinkSpec::new`]; 0A000 for types that files do not have; of the location and its secret.
    pub fn spec(&self, sink: &Sink, name: &str, catalog: &Catalog, role: Option<&str>) -> Result<SinkSpec> {
        let connector = sink.options.get("connector").map(|c| c.to_ascii_lowercase());
        let is_delta = match connector.as_deref() {
            Some("delta") => true,
            Some("parquet") => false,
            _ => return Ok(SinkSpec::new(sink)?),
        };
        if sink.format.is_some() {
            let message = format!("sink \"{name}\" writes files, which take no FORMAT clause");
            return Err(ConnectorError::option(message).with_hint("leave FORMAT … ENCODE … out").into());
        }
        let options = SinkOptions::new(sink, is_delta)?;
        let all = Access::new(self.stores.clone(), Arc::new(catalog.clone()));
        let access = role.map_or_else(|| all.clone(), |role| all.of_role(role));
        let lake = Lake::open(&options.location, &format!("sink \"{name}\""), &access, options.secret.as_deref())?;
        let (handle, state) = (self.handle.clone(), self.state.clone());
        let common = Common { lake, options, columns: sink.columns.clone(), handle, state };
        let place: Arc<dyn RowPlace> = match is_delta {
            true => Arc::new(DeltaPlace::new(common, name, self.snapshots.clone())?),
            false => Arc::new(ParquetPlace::new(common)?),
        };
        Ok(SinkSpec::rows(place))
    }
}

/// What both kinds have.
#[derive(Clone, Debug)]
struct Common {
    lake: Lake,
    options: SinkOptions,
    columns: Vec<Column>,
    handle: Handle,
    state: SessionState,
}

impl Common {
    /// Runs work with files on the threads of batch work; the caller is a sender's own thread.
    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let joined = self.handle.block_on(self.handle.spawn(work));
        let done = joined.map_err(|e| Error::internal(format!("writing files failed unexpectedly: {e}")));
        done.and_then(|result| result).map_err(told)
    }
}

/// Our error as connectors tell it.
fn told(e: Error) -> ConnectorError {
    use millstream_connectors::error::sqlstate;
    let known = [
        sqlstate::CANNOT_CONNECT,
        sqlstate::CONNECTION_FAILURE,
        sqlstate::FEATURE_NOT_SUPPORTED,
        sqlstate::INVALID_PARAMETER_VALUE,
        sqlstate::UNDEFINED_OBJECT,
        sqlstate::UNDEFINED_FILE,
        sqlstate::OBJECT_IN_USE,
        DENIED,
        "42703",
        "42804",
        "42P16",
    ];
    let code = known.into_iter().find(|code| *code == e.sqlstate()).unwrap_or(sqlstate::IO_ERROR);
    let mut error = ConnectorError::new(code, e.message());
    if let Some(detail) = e.detail() {
        error = error.with_detail(detail);
    }
    match e.hint() {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// 42501: the store does not allow it.
const DENIED: &str = "42501";
