//! Rows into new data files of a Delta table. Files count only once a commit names them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options, partition};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::object_store::ObjectStoreExt;
use datafusion::object_store::path::Path;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use deltalake::kernel::Add;
use deltalake::operations::get_num_idx_cols_and_stats_columns;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use deltalake::table::config::{DEFAULT_TARGET_FILE_SIZE, TablePropertiesExt};

use super::place::Lake;
use super::snapshot::Snapshot;
use crate::batch::copy::Written;
use crate::error::{Error, Result, sqlstate};

/// Most partitions that files are open for at a time: each holds a row group in memory.
const OPEN_MAX: usize = 8;
/// Rows of a row group.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Rows that are handed to the encoder at a time.
const WRITE_ROWS: usize = 8192;

/// What the files of a table look like.
#[derive(Debug, Clone)]
pub struct Shape {
    lake: Lake,
    config: WriterConfig,
    /// The columns of the table with Delta's types of Arrow.
    schema: SchemaRef,
    /// Positions of the partition columns.
    partition_by: Vec<usize>,
}

impl Shape {
    /// For the next version of a table.
    pub fn of(snapshot: &Snapshot) -> Self {
        let table = snapshot.state.table_config();
        let schema = snapshot.state.snapshot().arrow_schema();
        let (indexed, statistics) = get_num_idx_cols_and_stats_columns(Some(table), HashMap::new());
        let partition_columns = snapshot.partition_columns.clone();
        let target = Some(table.target_file_size());
        let config = WriterConfig::new(
            schema.clone(),
            partition_columns.clone(),
            Some(parquet()),
            target,
            Some(WRITE_ROWS),
            indexed,
            statistics,
        );
        Self::with(snapshot.lake.clone(), schema, &partition_columns, config)
    }

    /// For a table that is yet to be made.
    pub fn new(
        lake: Lake,
        schema: SchemaRef,
        partition_columns: Vec<String>,
        properties: &HashMap<String, String>,
    ) -> Self {
        let given = properties.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let (indexed, statistics) = get_num_idx_cols_and_stats_columns(None, given);
        let target = properties.get("delta.targetFileSize").and_then(|text| text.parse().ok());
        let config = WriterConfig::new(
            schema.clone(),
            partition_columns.clone(),
            Some(parquet()),
            Some(target.unwrap_or(DEFAULT_TARGET_FILE_SIZE)),
            Some(WRITE_ROWS),
            indexed,
            statistics,
        );
        Self::with(lake, schema, &partition_columns, config)
    }

    fn with(lake: Lake, schema: SchemaRef, partition_columns: &[String], config: WriterConfig) -> Self {
        let partition_by = partition_columns.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        Self { lake, config, schema, partition_by }
    }

    /// Positions of the partition columns.
    pub fn partition_by(&self) -> &[usize] {
        &self.partition_by
    }
}

fn parquet() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(format!("millstream {}", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Writes rows of a table into new files.
pub struct Writer {
    shape: Shape,
    /// The open files by partition, with when they were written to last.
    open: HashMap<Vec<ScalarValue>, (u64, DeltaWriter)>,
    clock: u64,
    adds: Vec<Add>,
    rows: u64,
    written: Arc<Written>,
}

impl Writer {
    /// `written` is told how far it is.
    pub fn new(shape: Shape, written: Arc<Written>) -> Self {
        Self { shape, open: HashMap::new(), clock: 0, adds: Vec::new(), rows: 0, written }
    }

    /// Adds rows that have the table's columns in its order. Those that come sorted by partition make the fewest files.
    ///
    /// # Errors
    /// 22003 and kin for values that Delta's types do not hold; those of the store.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = self.typed(rows)?;
        self.rows += rows.num_rows() as u64;
        self.written.rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        if self.shape.partition_by.is_empty() {
            return self.write_to(Vec::new(), &rows).await;
        }
        let keys: Vec<ArrayRef> = self.shape.partition_by.iter().map(|at| rows.column(*at).clone()).collect();
        for range in partition(&keys)?.ranges() {
            let key = keys.iter().map(|k| ScalarValue::try_from_array(k, range.start));
            let key = key.collect::<datafusion::error::Result<Vec<_>>>()?;
            if let Some(at) = key.iter().position(is_empty_text) {
                let name = self.shape.schema.field(self.shape.partition_by[at]).name();
                return Err(Error::new(
                    sqlstate::INVALID_PARAMETER_VALUE,
                    format!("an empty text cannot be a value of partition column \"{name}\" of a Delta table"),
                )
                .with_hint("the Delta protocol has it for NULL; use nullif(column, '') or another value"));
            }
            self.write_to(key, &rows.slice(range.start, range.len())).await?;
        }
        Ok(())
    }

    async fn write_to(&mut self, key: Vec<ScalarValue>, rows: &RecordBatch) -> Result<()> {
        self.clock += 1;
        if !self.open.contains_key(&key) {
            if self.open.len() >= OPEN_MAX
                && let Some(oldest) = self.open.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone())
            {
                self.close(&oldest).await?;
            }
            let writer = DeltaWriter::new(self.shape.lake.log.object_store(None), self.shape.config.clone());
            self.open.insert(key.clone(), (0, writer));
        }
        if let Some((used, writer)) = self.open.get_mut(&key) {
            *used = self.clock;
            writer.write(rows).await.map_err(|e| self.shape.lake.told(e))?;
        }
        Ok(())
    }

    async fn close(&mut self, key: &[ScalarValue]) -> Result<()> {
        let Some((_, writer)) = self.open.remove(key) else { return Ok(()) };
        let adds = writer.close().await.map_err(|e| self.shape.lake.told(e))?;
        for add in &adds {
            self.written.bytes.fetch_add(u64::try_from(add.size).unwrap_or_default(), Ordering::Relaxed);
            self.written.files.fetch_add(1, Ordering::Relaxed);
        }
        self.adds.extend(adds);
        Ok(())
    }

    /// Completes the files: what names them in the log, and how many rows they have.
    ///
    /// # Errors
    /// Of the store.
    pub async fn finish(mut self) -> Result<(Vec<Add>, u64)> {
        let mut keys: Vec<_> = self.open.iter().map(|(key, (used, _))| (*used, key.clone())).collect();
        keys.sort_by_key(|(used, _)| *used);
        for (_, key) in keys {
            if let Err(e) = self.close(&key).await {
                self.abandon().await;
                return Err(e);
            }
        }
        Ok((self.adds, self.rows))
    }

    /// Gives the files up, as far as that can be done: what is left, VACUUM removes.
    pub async fn abandon(mut self) {
        for (_, (_, writer)) in self.open.drain() {
            if let Err(e) = writer.abort().await {
                tracing::debug!("an unfinished file of \"{}\" was left: {e}", self.shape.lake.location);
            }
        }
        remove(&self.shape.lake, &self.adds).await;
    }

    fn typed(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let columns = rows.columns().iter().zip(self.shape.schema.fields());
        let columns = columns
            .map(|(column, field)| match column.data_type() == field.data_type() {
                true => Ok(column.clone()),
                false => cast_with_options(column, field.data_type(), &options).map_err(|e| {
                    // Delta's byte is narrower than ours for it.
                    let message = format!("column \"{}\" of {}: {e}", field.name(), self.shape.lake.object);
                    Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message)
                        .with_hint(format!("the Delta table keeps the column as {}", field.data_type()))
                }),
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.shape.schema.clone(), columns, &options)?)
    }
}

fn is_empty_text(value: &ScalarValue) -> bool {
    value.try_as_str().flatten().is_some_and(str::is_empty)
}

/// Removes files that no commit names.
pub async fn remove(lake: &Lake, adds: &[Add]) {
    let store = lake.log.object_store(None);
    for add in adds {
        if let Err(e) = store.delete(&Path::from(add.path.as_str())).await {
            tracing::debug!("file \"{}\" of \"{}\" was left: {e}", add.path, lake.location);
        }
    }
}
