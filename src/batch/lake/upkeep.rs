//! What becomes of the files of old versions, and the history of a table.

use chrono::TimeDelta;
use deltalake::DeltaTable;
use deltalake::operations::vacuum::VacuumMode;
use deltalake::table::config::TablePropertiesExt;
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::place::Lake;
use super::snapshot::{Snapshot, Version};
use crate::error::{Error, Result, sqlstate};

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
