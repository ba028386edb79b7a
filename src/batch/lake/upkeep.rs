//! What keeps a Delta table in shape: small files put together, files of old versions removed; and its history.

use std::sync::Arc;

use chrono::TimeDelta;
use datafusion::execution::session_state::SessionState;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::operations::optimize::OptimizeType;
use deltalake::operations::vacuum::VacuumMode;
use deltalake::table::config::TablePropertiesExt;
use deltalake::{DeltaTable, FilterLiteral, FilterOp, FilterValue};
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::change::check_writable;
use super::place::Lake;
use super::snapshot::{Snapshot, Version};
use crate::error::{Error, Result, sqlstate};

/// What OPTIMIZE has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Optimized {
    pub files_added: u64,
    pub files_removed: u64,
    pub bytes_added: u64,
    pub bytes_removed: u64,
}

/// Puts small files together, or arranges the rows by some columns. `partitions` names those that are meant by column and
/// value; none: all.
///
/// # Errors
/// 40001 if another writer has changed the same files, 0A000 for tables that we must not write to; those of the store.
pub async fn optimize(
    snapshot: &Snapshot,
    partitions: &[(String, String)],
    z_order: Vec<String>,
    state: SessionState,
    user: &str,
) -> Result<Optimized> {
    check_writable(snapshot, false)?;
    let told = |e| snapshot.lake.told(e);
    let mut table = DeltaTable::new(snapshot.lake.log.clone());
    table.load().await.map_err(told)?;
    let filters: Vec<FilterLiteral<'_>> = partitions
        .iter()
        .map(|(column, value)| (column.as_str(), FilterOp::Eq, FilterValue::Scalar(value.as_str())))
        .collect();
    let of = if z_order.is_empty() { OptimizeType::Compact } else { OptimizeType::ZOrder(z_order) };
    let note = CommitProperties::default().with_metadata([("userName".to_string(), json!(user))]);
    let built = table.optimize().with_type(of).with_filters(&filters).with_commit_properties(note);
    let (_, metrics) = built.with_session_state(Arc::new(state)).await.map_err(told)?;
    let bytes = |n: i64| u64::try_from(n).unwrap_or_default();
    Ok(Optimized {
        files_added: metrics.num_files_added,
        files_removed: metrics.num_files_removed,
        bytes_added: if metrics.num_files_added == 0 { 0 } else { bytes(metrics.files_added.total_size) },
        bytes_removed: if metrics.num_files_removed == 0 { 0 } else { bytes(metrics.files_removed.total_size) },
    })
}

/// Removes, or with `dry_run` only names, the files that no version of the retention needs, and those that no version ever
/// named.
///
/// # Errors
/// 22023 for a retention shorter than the table's own; those of the store.
pub async fn vacuum(snapshot: &Snapshot, retain_hours: Option<u64>, dry_run: bool) -> Result<Vec<String>> {
    let told = |e| snapshot.lake.told(e);
    let least = snapshot.state.table_config().deleted_file_retention_duration().as_secs().div_ceil(3600);
    if let Some(hours) = retain_hours
        && hours < least
    {
        return Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("{} keeps the files of old versions for {least} hours at least, not {hours}", snapshot.lake.object),
        )
        .with_hint(
            "readers of old versions, and writers that are not done, need them; its property \
                    delta.deletedFileRetentionDuration says how long",
        ));
    }
    let mut table = DeltaTable::new(snapshot.lake.log.clone());
    table.load().await.map_err(told)?;
    let mut built = table.vacuum().with_mode(VacuumMode::Full).with_dry_run(dry_run);
    if let Some(hours) = retain_hours {
        built = built.with_retention_period(TimeDelta::hours(i64::try_from(hours).unwrap_or(i64::MAX / 10_000_000)));
    }
    let (_, metrics) = built.await.map_err(told)?;
    Ok(metrics.files_deleted)
}

/// A version, and what made it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub version: Version,
    /// Microseconds since 1970.
    pub time_us: Option<i64>,
    pub user: Option<String>,
    pub operation: Option<String>,
    /// As JSON.
    pub parameters: Option<String>,
    /// As JSON.
    pub metrics: Option<String>,
    pub engine: Option<String>,
}

/// The versions whose entries are still in the log, the newest first.
///
/// # Errors
/// Those of the store.
pub async fn history(lake: &Lake, limit: Option<usize>) -> Result<Vec<Entry>> {
    let mut table = DeltaTable::new(lake.log.clone());
    table.load().await.map_err(|e| lake.told(e))?;
    let newest = table.version().unwrap_or_default();
    let infos: Vec<_> = table.history(limit).try_collect().await.map_err(|e| lake.told(e))?;
    let entries = infos.into_iter().enumerate().map(|(i, info)| Entry {
        version: newest.saturating_sub(i as u64),
        time_us: info.timestamp.map(|ms| ms * 1000),
        user: info.user_name,
        operation: info.operation,
        parameters: info.operation_parameters.map(|parameters| json!(parameters).to_string()),
        metrics: info.info.get("operationMetrics").map(Value::to_string),
        engine: info.engine_info,
    });
    Ok(entries.collect())
}
