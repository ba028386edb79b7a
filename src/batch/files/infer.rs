//! What columns files have, asked from the files when a table is made or `read_parquet` is called.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::compute::can_cast_types;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::session_state::SessionState;
use datafusion::object_store;
use jiff::civil::Date;
use millstream_catalog::object::ExternalTable;
use millstream_catalog::{Column, SqlType};

use super::FileTable;
use super::format::Format;
use super::listing::{DataFile, Location};
use crate::batch::context::{Batch, StatementOptions};
use crate::error::{Error, Result, sqlstate};

/// What `CREATE EXTERNAL TABLE` says of the files, before their columns are known.
#[derive(Debug, Clone, PartialEq)]
pub struct FileTableSpec {
    pub stored_as: String,
    pub location: String,
    /// Names of the hive partition columns.
    pub partition_columns: Vec<String>,
    pub options: BTreeMap<String, String>,
}

impl FileTableSpec {
    /// What a table's definition says of its files.
    pub fn of(table: &ExternalTable) -> Self {
        Self {
            stored_as: table.stored_as.clone(),
            location: table.location.clone(),
            partition_columns: table.partition_columns.clone(),
            options: table.options.clone(),
        }
    }
}

/// The columns of the files, those of the partition folders last. Partition values that are all whole numbers are BIGINT,
/// all dates DATE, else TEXT.
///
/// # Errors
/// 58P01 if nothing is there, XX001 naming a damaged file, 0A000 for a column of a type that SQL does not have,
/// 22023 for invalid options.
pub async fn infer_columns(batch: &Batch, spec: &FileTableSpec) -> Result<Vec<Column>> {
    let location = Location::parse(&spec.location)?;
    let format = Format::new(&spec.stored_as, &spec.options)?;
    let files = list(batch, &location, &format).await?;
    if files.is_empty() {
        let message =
            format!("location \"{}\" has no {} files to take the columns from", spec.location, spec.stored_as);
        return Err(Error::new(sqlstate::UNDEFINED_FILE, message).with_hint("declare the columns"));
    }
    columns(batch, &location, &format, &files, &spec.partition_columns).await
}

/// Checks declared columns against the files that are there now: each exists and can be cast.
///
/// # Errors
/// 42703 for a column that no file has, 42804 for one that cannot be cast, and those of reading the files. No error if
/// the location has no files yet.
pub async fn check_declared(batch: &Batch, table: &ExternalTable) -> Result<()> {
    let location = Location::parse(&table.location)?;
    let format = Format::new(&table.stored_as, &table.options)?;
    let files = list(batch, &location, &format).await?;
    // Columns of CSV files go by position, and are text until they are read as what was declared.
    if files.is_empty() || matches!(format, Format::Csv(_)) {
        return Ok(());
    }
    let found = file_schemas(batch, &format, &files).await?;
    let declared = &table.columns[..table.columns.len() - table.partition_columns.len()];
    for column in declared {
        let fields: Vec<_> = found.iter().filter_map(|schema| schema.field_with_name(&column.name).ok()).collect();
        if fields.is_empty() {
            let mut names: Vec<_> = found.iter().flat_map(|s| s.fields().iter().map(|f| f.name().as_str())).collect();
            names.sort_unstable();
            names.dedup();
            let message = format!("column \"{}\" is not in the files of \"{}\"", column.name, table.location);
            return Err(Error::new(sqlstate::UNDEFINED_COLUMN, message)
                .with_hint(format!("the files have: {}", names.join(", "))));
        }
        let fits = |field: &&Field| {
            let can_cast = |from| millstream_sql::functions::cast::can_cast(&from, &column.sql_type, true);
            SqlType::of(field).is_none_or(can_cast) && can_cast_types(field.data_type(), &column.sql_type.arrow_type())
        };
        if let Some(other) = fields.iter().find(|field| !fits(field)) {
            let has = SqlType::of(other).map_or_else(|| other.data_type().to_string(), |t| t.to_string());
            let message = format!(
                "column \"{}\" of the files of \"{}\" is {has} and cannot be read as {}",
                column.name, table.location, column.sql_type
            );
            return Err(Error::new("42804", message));
        }
    }
    Ok(())
}

/// The table that `read_parquet('glob')` stands for. Folders `name=value` that all files are in become columns.
///
/// # Errors
/// As [`infer_columns`].
pub async fn read_parquet(batch: &Batch, glob: &str) -> Result<FileTable> {
    let location = Location::parse(glob)?;
    let files = list(batch, &location, &Format::Parquet).await?;
    if files.is_empty() {
        return Err(Error::new(sqlstate::UNDEFINED_FILE, format!("no Parquet file in \"{glob}\"")));
    }
    let names = |file: &DataFile| file.partition.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let mut partition_columns = names(&files[0]);
    if files.iter().any(|file| names(file) != partition_columns) {
        partition_columns.clear();
    }
    let columns = columns(batch, &location, &Format::Parquet, &files, &partition_columns).await?;
    FileTable::new(&ExternalTable {
        columns,
        stored_as: "PARQUET".into(),
        location: glob.into(),
        partition_columns,
        options: BTreeMap::new(),
    })
}

/// The error of reading one file, naming it.
pub(super) fn file_error(e: DataFusionError, path: &str) -> Error {
    let cause = e.find_root().strip_backtrace();
    match e.find_root() {
        DataFusionError::ObjectStore(e) if matches!(**e, object_store::Error::NotFound { .. }) => {
            Error::new(sqlstate::UNDEFINED_FILE, format!("file \"/{path}\" is gone"))
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::new(sqlstate::IO_ERROR, format!("file \"/{path}\" cannot be read: {cause}"))
        }
        _ => Error::new(sqlstate::DATA_CORRUPTED, format!("file \"/{path}\" is damaged: {cause}")),
    }
}

async fn list(batch: &Batch, location: &Location, format: &Format) -> Result<Vec<DataFile>> {
    let (location, extensions) = (location.clone(), format.extensions());
    let listed = batch.handle().spawn_blocking(move || location.list(extensions)).await;
    listed.map_err(|e| Error::internal(format!("listing files failed: {e}")))?
}

async fn columns(
    batch: &Batch,
    location: &Location,
    format: &Format,
    files: &[DataFile],
    partition_columns: &[String],
) -> Result<Vec<Column>> {
    let schema = file_schema(batch, location, format, files).await?;
    let mut columns = Vec::new();
    // A column that files repeat from their folder is the folder's.
    for field in schema.fields().iter().filter(|f| !partition_columns.contains(f.name())) {
        columns.push(Column::new(field.name(), sql_type(field, location)?, true));
    }
    for name in partition_columns {
        columns.push(Column::new(name, partition_type(name, files), true));
    }
    Ok(columns)
}

fn sql_type(field: &Field, location: &Location) -> Result<SqlType> {
    SqlType::from_arrow(field.data_type()).ok_or_else(|| {
        let (name, of, place) = (field.name(), field.data_type(), location.as_str());
        Error::unsupported(format!(
            "column \"{name}\" of the files of \"{place}\" has type {of}, which SQL does not have"
        ))
        .with_hint("declare the columns and leave this one out")
    })
}

fn partition_type(name: &str, files: &[DataFile]) -> SqlType {
    let values =
        || files.iter().flat_map(|f| f.partition.iter().filter(|(n, _)| n == name).filter_map(|(_, v)| v.as_deref()));
    let plain = |v: &str| v.parse::<i64>().is_ok_and(|n| n.to_string() == v);
    match () {
        () if values().next().is_none() => SqlType::Text,
        // `007` is no number: as one it would lose its zeros.
        () if values().all(plain) => SqlType::Int8,
        () if values().all(|v| v.len() == 10 && v.parse::<Date>().is_ok()) => SqlType::Date,
        () => SqlType::Text,
    }
}

/// The columns of each file.
async fn file_schemas(batch: &Batch, format: &Format, files: &[DataFile]) -> Result<Vec<Arc<Schema>>> {
    let state = batch.state(&StatementOptions::default());
    let format = format.clone();
    let metas: Vec<_> = files.iter().map(|f| f.meta.clone()).collect();
    let task = batch.handle().spawn(async move {
        let reader = format.reader(&state);
        let mut schemas = Vec::with_capacity(metas.len());
        for meta in &metas {
            let schema = schema_of(&state, reader.as_ref(), std::slice::from_ref(meta)).await;
            schemas.push(schema.map_err(|e| file_error(e, meta.location.as_ref()))?);
        }
        Ok(schemas)
    });
    task.await.map_err(|e| Error::internal(format!("reading file schemas failed: {e}")))?
}

/// The columns of all files together, as the files have them.
async fn file_schema(batch: &Batch, location: &Location, format: &Format, files: &[DataFile]) -> Result<Arc<Schema>> {
    let state = batch.state(&StatementOptions::default());
    let format = format.clone();
    let metas: Vec<_> = files.iter().map(|f| f.meta.clone()).collect();
    let task = batch.handle().spawn(async move {
        let reader = format.reader(&state);
        match schema_of(&state, reader.as_ref(), &metas).await {
            Ok(schema) => Ok(schema),
            // Asked one by one, the files tell which of them it was.
            Err(together) => {
                for meta in &metas {
                    let one = std::slice::from_ref(meta);
                    if let Err(e) = schema_of(&state, reader.as_ref(), one).await {
                        return Err(file_error(e, meta.location.as_ref()));
                    }
                }
                Err(together.into())
            }
        }
    });
    let joined = task.await.map_err(|e| Error::internal(format!("reading file schemas failed: {e}")))?;
    joined.map_err(|e: Error| match e.sqlstate() {
        sqlstate::DATA_CORRUPTED | sqlstate::UNDEFINED_FILE | sqlstate::IO_ERROR => e,
        _ => Error::new(
            sqlstate::DATA_CORRUPTED,
            format!("the files of \"{}\" have no common columns: {}", location.as_str(), e.message()),
        )
        .with_hint("declare the columns"),
    })
}

async fn schema_of(
    state: &SessionState,
    reader: &dyn datafusion::datasource::file_format::FileFormat,
    metas: &[object_store::ObjectMeta],
) -> datafusion::error::Result<Arc<Schema>> {
    let store = state.runtime_env().object_store(ObjectStoreUrl::local_filesystem())?;
    reader.infer_schema(state, &store, metas).await
}
