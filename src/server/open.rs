//! From settings to an open database.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::session::database::{Database, DatabaseOptions, SettingRow};
use crate::task;

/// Recovers the database of these settings. Blocking work, on a thread of its own: clients are answered meanwhile.
pub async fn open(config: Arc<Config>) -> Result<Arc<Database>> {
    let opened = tokio::task::spawn_blocking(move || Database::open(database_options(&config))).await;
    let database = opened.map_err(|e| Error::internal(format!("recovery failed: {e}")))??;
    task::start(&database);
    Ok(Arc::new(database))
}

/// What the database is opened with.
pub fn database_options(config: &Config) -> DatabaseOptions {
    let mut options = DatabaseOptions::new(&config.data_dir);
    options.store.memory_bytes = config.state.block_cache_bytes + config.state.write_buffer_bytes;
    options.store.write_buffer_bytes = config.state.write_buffer_bytes;
    options.store.max_write_set_bytes = config.state.max_write_set_bytes;
    options.batch.memory_limit_bytes = config.batch.memory_limit_bytes;
    options.batch.spill_dir = config.spill_dir();
    options.batch.metadata_cache_bytes = config.batch.metadata_cache_bytes;
    options.limits.rows = config.epoch.max_rows;
    options.limits.bytes = config.epoch.max_bytes;
    options.limits.time = Duration::from_millis(config.epoch.max_ms);
    options.limits.write_set_bytes = config.state.max_write_set_bytes;
    options.limits.write_set_limit_bytes = config.state.write_set_limit_bytes;
    options.dead_letter_retention = config.dead_letter_retention;
    options.cache_bytes = config.state.cache_bytes;
    options.snapshot_max_age = config.snapshot_max_age;
    options.history_bytes = config.subscribe_history_bytes;
    options.tasks_at_once = config.tasks_at_once;
    options.settings = config
        .rows()
        .into_iter()
        .map(|row| SettingRow {
            name: row.name.into(),
            value: row.value,
            default: row.default.into(),
            description: row.description.into(),
        })
        .collect();
    options
}
