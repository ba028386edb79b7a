//! A version of a Delta table, and those that were read last.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use datafusion::common::ScalarValue;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::object_store::{ObjectMeta, ObjectStoreExt};
use deltalake::kernel::{LogicalFileView, Remove};
use deltalake::logstore::commit_uri_from_version;
use deltalake::table::state::DeltaTableState;
use millstream_catalog::Column;
use millstream_catalog::object::columns_schema;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::columns;
use super::place::Lake;
use crate::error::{Error, Result, sqlstate};

/// Versions are numbered from 0.
pub type Version = u64;
/// Most tables whose last version is kept in memory.
const KEPT_MAX: usize = 64;

/// Which version is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Newest,
    Version(Version),
    /// The newest of those that were there then: microseconds since 1970.
    Time(i64),
}

/// A version of a table.
#[derive(Debug)]
pub struct Snapshot {
    pub lake: Lake,
    pub state: DeltaTableState,
    /// In the table's order.
    pub columns: Vec<Column>,
    pub partition_columns: Vec<String>,
    pub files: Vec<LakeFile>,
}

/// A data file of a version.
pub struct LakeFile {
    /// As the store's scans name it.
    pub meta: ObjectMeta,
    /// Values of the partition columns, in their order.
    pub partition: Vec<ScalarValue>,
    /// How many rows it has, where the log says it.
    pub rows: Option<usize>,
    /// The log's statistics as JSON.
    stats: Option<String>,
    view: LogicalFileView,
}

impl LakeFile {
    /// What takes the file out of the next version.
    pub fn removed(&self) -> Remove {
        self.view.remove_action(true)
    }

    /// The same where its rows are in other files.
    pub fn moved(&self) -> Remove {
        self.view.remove_action(false)
    }

    /// The values of the partition columns as the log has them, by the columns' names.
    pub fn partition_texts(&self) -> HashMap<String, Option<String>> {
        self.view.partition_values_map()
    }

    /// What is known of the values of some columns before the file is opened: only what is exact, for answers may be taken
    /// from it. The log cuts texts and times, so their bounds are not.
    pub fn statistics(&self, columns: &[Column]) -> Statistics {
        let schema = columns_schema(columns);
        let mut statistics = Statistics::new_unknown(&schema);
        statistics.num_rows = self.rows.map_or(Precision::Absent, Precision::Exact);
        let Some(stats) = self.stats.as_deref().and_then(|text| serde_json::from_str::<Stats>(text).ok()) else {
            return statistics;
        };
        let of_columns = columns.iter().zip(schema.fields()).zip(&mut statistics.column_statistics);
        for ((column, field), found) in of_columns {
            let value = |of: &HashMap<String, serde_json::Value>| match of.get(&column.name)? {
                serde_json::Value::Number(n) if field.data_type().is_integer() => {
                    ScalarValue::Int64(Some(n.as_i64()?)).cast_to(field.data_type()).ok()
                }
                serde_json::Value::String(text) if *field.data_type() == DataType::Date32 => {
                    ScalarValue::try_from_string(text.clone(), field.data_type()).ok()
                }
                _ => None,
            };
            let exact = |value: Option<ScalarValue>| value.map_or(Precision::Absent, Precision::Exact);
            let nulls = stats.null_count.get(&column.name).and_then(|n| usize::try_from(n.as_i64()?).ok());
            *found = ColumnStatistics {
                min_value: exact(value(&stats.min_values)),
                max_value: exact(value(&stats.max_values)),
                null_count: nulls.map_or(Precision::Absent, Precision::Exact),
                ..ColumnStatistics::new_unknown()
            };
        }
        statistics
    }
}

impl fmt::Debug for LakeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeFile").field("location", &self.meta.location).finish_non_exhaustive()
    }
}

/// Per-file statistics of the Delta protocol.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    #[serde(default)]
    min_values: HashMap<String, serde_json::Value>,
    #[serde(default)]
    max_values: HashMap<String, serde_json::Value>,
    #[serde(default)]
    null_count: HashMap<String, serde_json::Value>,
}

impl Snapshot {
    fn new(lake: Lake, state: DeltaTableState) -> Result<Self> {
        let metadata = state.metadata();
        let columns = state.schema().fields().map(columns::column_of).collect::<Result<Vec<_>>>()?;
        let partition_columns = metadata.partition_columns().to_vec();
        let types = partition_columns
            .iter()
            .map(|name| {
                let found = columns.iter().find(|c| c.name == *name);
                found.map(|c| c.sql_type.arrow_type()).ok_or_else(|| {
                    Error::new(
                        sqlstate::IO_ERROR,
                        format!("partition column \"{name}\" of the Delta table at \"{}\" is no column", lake.location),
                    )
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut files = Vec::new();
        for view in state.log_data().iter() {
            if view.deletion_vector_descriptor().is_some() {
                return Err(Error::unsupported(format!(
                    "the Delta table at \"{}\" has deletion vectors, which are not supported",
                    lake.location
                ))
                .with_hint("its writer can take them out: REORG TABLE ... APPLY (PURGE)"));
            }
            let path = view.path();
            if path.contains("://") || path.starts_with('/') {
                let message = format!("the Delta table at \"{}\" names files outside of its folder", lake.location);
                return Err(Error::unsupported(message));
            }
            let values = view.partition_values_map();
            let value = |(name, data_type): (&String, &DataType)| {
                let Some(Some(text)) = values.get(name).filter(|v| v.as_deref() != Some("")) else {
                    return Ok(ScalarValue::try_from(data_type)?);
                };
                ScalarValue::try_from_string(text.clone(), data_type).map_err(|_| {
                    Error::new(
                        sqlstate::INVALID_TEXT_REPRESENTATION,
                        format!("\"{text}\" of file \"{path}\" is no value of partition column \"{name}\""),
                    )
                })
            };
            let partition = partition_columns.iter().zip(&types).map(value).collect::<Result<Vec<_>>>()?;
            files.push(LakeFile {
                meta: ObjectMeta {
                    location: lake.file(&view.object_store_path()),
                    last_modified: view.modification_datetime().map_err(|e| lake.told(e))?,
                    size: u64::try_from(view.size()).unwrap_or_default(),
                    e_tag: None,
                    version: None,
                },
                partition,
                rows: view.num_records(),
                stats: view.stats(),
                view,
            });
        }
        Ok(Self { lake, state, columns, partition_columns, files })
    }

    /// Its number.
    pub fn version(&self) -> Version {
        self.state.version()
    }

    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The columns that are in the files, in the table's order.
    pub fn file_columns(&self) -> Vec<Column> {
        self.columns.iter().filter(|c| !self.partition_columns.contains(&c.name)).cloned().collect()
    }
}

/// The newest versions that were read, so that the next statement reads what was added to the log alone.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// The one used last is at the end.
    kept: Mutex<Vec<(String, Kept)>>,
}

#[derive(Debug, Clone)]
struct Kept {
    state: DeltaTableState,
    /// The entry of the log that made the version: another one means another table in the same place.
    entry: ObjectMeta,
}

impl Snapshots {
    /// A version of a table.
    ///
    /// # Errors
    /// 58P01 if there is no table, 22023 if it has no such version; 0A000 for what we cannot read; those of the store.
    pub async fn load(&self, lake: &Lake, at: At) -> Result<Snapshot> {
        let version = match at {
            At::Newest => return self.newest(lake).await,
            At::Version(version) => version,
            At::Time(time_us) => self.version_at(lake, time_us).await?,
        };
        let state = DeltaTableState::try_new(lake.log.as_ref(), Some(version)).await;
        let state = match state {
            Ok(state) if state.version() == version => state,
            Ok(_) => return Err(no_version(lake, version)),
            Err(e) => {
                let told = lake.told(e);
                // Whether the table is gone, or just this version of it, the newest one tells.
                return Err(match self.newest(lake).await {
                    Ok(newest) if version > newest.version() => no_version(lake, version),
                    Ok(_) if told.sqlstate() == sqlstate::UNDEFINED_FILE => no_version(lake, version),
                    Ok(_) => told,
                    Err(e) => e,
                });
            }
        };
        checked(lake, state)
    }

    async fn newest(&self, lake: &Lake) -> Result<Snapshot> {
        let key = lake.key();
        let kept = self.kept.lock().iter().find(|(other, _)| *other == key).map(|(_, kept)| kept.clone());
        let state = match kept {
            Some(Kept { mut state, entry }) => match entry_of(lake, state.version()).await {
                Some(now) if now.last_modified == entry.last_modified && now.size == entry.size => {
                    state.update(lake.log.as_ref(), None).await.map_err(|e| lake.told(e))?;
                    state
                }
                _ => self.anew(lake).await?,
            },
            None => self.anew(lake).await?,
        };
        if let Some(entry) = entry_of(lake, state.version()).await {
            let mut kept = self.kept.lock();
            kept.retain(|(other, _)| *other != key);
            if kept.len() >= KEPT_MAX {
                kept.remove(0);
            }
            kept.push((key, Kept { state: state.clone(), entry }));
        }
        checked(lake, state)
    }

    async fn anew(&self, lake: &Lake) -> Result<DeltaTableState> {
        let is_there = lake.log.is_delta_table_location().await.map_err(|e| lake.told(e))?;
        if !is_there {
            return Err(lake.told(deltalake::DeltaTableError::NotInitialized));
        }
        DeltaTableState::try_new(lake.log.as_ref(), None).await.map_err(|e| lake.told(e))
    }

    /// The newest version that was there at a moment, by the times of the log's entries.
    async fn version_at(&self, lake: &Lake, time_us: i64) -> Result<Version> {
        let newest = self.newest(lake).await?;
        let mut table = deltalake::DeltaTable::new(lake.log.clone());
        let moment = DateTime::<Utc>::from_timestamp_micros(time_us).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let first = lake.log.object_store(None).head(&commit_uri_from_version(Some(0))).await;
        if let Ok(first) = first
            && first.last_modified > moment
        {
            let message = format!("the Delta table at \"{}\" was not there at {moment}", lake.location);
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
                .with_hint(format!("it was made at {}", first.last_modified)));
        }
        table.load_with_datetime(moment).await.map_err(|e| lake.told(e))?;
        Ok(table.version().unwrap_or_else(|| newest.version()))
    }
}

fn no_version(lake: &Lake, version: Version) -> Error {
    let message = format!("the Delta table at \"{}\" has no version {version}, or not any more", lake.location);
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint("DESCRIBE HISTORY lists the versions")
}

fn checked(lake: &Lake, state: DeltaTableState) -> Result<Snapshot> {
    let mapping = state.metadata().configuration().get("delta.columnMapping.mode").map(String::as_str);
    if mapping.is_some_and(|mode| mode != "none") {
        return Err(Error::unsupported(format!(
            "the Delta table at \"{}\" maps its columns to other names, which is not supported",
            lake.location
        )));
    }
    deltalake::kernel::transaction::PROTOCOL
        .can_read_from_protocol(state.protocol())
        .map_err(|source| lake.told(deltalake::DeltaTableError::Transaction { source }))?;
    Snapshot::new(lake.clone(), state)
}

async fn entry_of(lake: &Lake, version: Version) -> Option<ObjectMeta> {
    lake.log.object_store(None).head(&commit_uri_from_version(Some(version))).await.ok()
}

/// The versions that one statement reads: each table once, however often it is named.
#[derive(Debug, Default)]
pub struct LakeReads {
    read: Mutex<HashMap<(String, At), Loaded>>,
}

/// A version that is loaded at its first use.
type Loaded = Arc<OnceCell<Arc<Snapshot>>>;

impl LakeReads {
    /// The version of a table, loaded at its first use.
    ///
    /// # Errors
    /// Of [`Snapshots::load`].
    pub async fn snapshot(&self, snapshots: &Snapshots, lake: &Lake, at: At) -> Result<Arc<Snapshot>> {
        let cell = self.read.lock().entry((lake.key(), at)).or_default().clone();
        let load = async { snapshots.load(lake, at).await.map(Arc::new) };
        cell.get_or_try_init(|| load).await.cloned()
    }
}

/// Notes which version of a table is read; or lets one be read alone, as a run of a task did that is repeated.
#[derive(Debug, Default)]
pub struct VersionReads {
    only: Option<Version>,
    read: Mutex<Option<Version>>,
}

impl VersionReads {
    /// Lets this version be read.
    pub fn only(version: Version) -> Self {
        Self { only: Some(version), read: Mutex::default() }
    }

    /// The version that was read, if any.
    pub fn read(&self) -> Option<Version> {
        *self.read.lock()
    }

    /// What is read where the newest version is asked for.
    pub(super) fn newest(&self) -> At {
        self.only.map_or(At::Newest, At::Version)
    }

    /// Notes what is read.
    pub(super) fn note(&self, version: Version) {
        *self.read.lock() = Some(version);
    }
}
