//! Files as tables: external tables, and `read_parquet('glob')`.
//!
//! * [`listing`]: which files, with the values of their hive partition folders.
//! * [`mod@format`]: Parquet, CSV and JSON with their options.
//! * [`infer`]: what columns files have, asked when a table is made.
//! * [`reads`]: which files were read.
//! * this file: the provider. It lists at execution, drops the files that the filters on partition columns rule out,
//!   and leaves the rest to DataFusion's readers, which prune row groups and pages and cast to the declared types.

pub mod format;
pub mod infer;
pub mod listing;
pub mod reads;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, Volatility};
use datafusion::object_store::ObjectStore;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_catalog::object::{ExternalTable, columns_schema};

use crate::error::{Error, Result, sqlstate};
use format::Format;
use listing::{DataFile, Location};

pub use infer::{FileTableSpec, check_declared, infer_columns, read_parquet};
pub use reads::{FileReads, FileVersion};

/// Footers that are read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

/// Files of one location as a table.
#[derive(Debug)]
pub struct FileTable {
    location: Location,
    format: Format,
    schema: SchemaRef,
    /// How many of the columns, counted from the end, are hive partition columns.
    partition_columns: usize,
    reads: Option<Arc<FileReads>>,
}

impl FileTable {
    /// The provider of an external table.
    ///
    /// # Errors
    /// 22023 or 0A000 if location, format or options are not valid.
    pub fn new(table: &ExternalTable) -> Result<Self> {
        Ok(Self {
            location: Location::parse(&table.location)?,
            format: Format::new(&table.stored_as, &table.options)?,
            schema: columns_schema(&table.columns),
            partition_columns: table.partition_columns.len(),
            reads: None,
        })
    }

    /// The same, of which it is noted which files are read.
    pub fn with_reads(mut self, reads: Option<Arc<FileReads>>) -> Self {
        self.reads = reads;
        self
    }

    fn file_schema(&self) -> SchemaRef {
        let of_files = self.schema.fields().len() - self.partition_columns;
        Arc::new(Schema::new(self.schema.fields()[..of_files].to_vec()))
    }

    fn partition_fields(&self) -> &[FieldRef] {
        &self.schema.fields()[self.schema.fields().len() - self.partition_columns..]
    }

    /// The files with their partition values, those left out that the filters rule out.
    async fn files(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<PartitionedFile>> {
        let (location, extensions) = (self.location.clone(), self.format.extensions());
        let files = tokio::task::spawn_blocking(move || location.list(extensions))
            .await
            .map_err(|e| Error::internal(format!("listing \"{}\" failed: {e}", self.location.as_str())))??;
        let files = match &self.reads {
            Some(reads) => reads.allowed(files)?,
            None => files,
        };
        let fields = self.partition_fields();
        let values = files
            .iter()
            .map(|file| partition_of(file, fields, self.location.as_str()))
            .collect::<Result<Vec<Vec<ScalarValue>>>>()?;
        let keep = keep_mask(state, fields, &values, filters)?;
        let kept: Vec<_> = files.into_iter().zip(values).zip(keep).filter(|(_, keep)| *keep).collect();
        if let Some(reads) = &self.reads {
            reads.note(kept.iter().map(|((file, _), _)| &file.meta));
        }
        Ok(kept
            .into_iter()
            .map(|((file, values), _)| PartitionedFile::new_from_meta(file.meta).with_partition_values(values))
            .collect())
    }

    /// Adds what is known of each file before it is opened; a file that is damaged is found and named here.
    async fn with_row_counts(
        &self,
        state: &dyn Session,
        format: &Arc<dyn FileFormat>,
        files: Vec<PartitionedFile>,
    ) -> Result<Vec<PartitionedFile>> {
        if !self.format.counts_rows() {
            return Ok(files);
        }
        let store = state.runtime_env().object_store(ObjectStoreUrl::local_filesystem())?;
        let columns = self.file_schema();
        stream::iter(files)
            .map(|file| {
                let (store, columns) = (store.clone(), columns.clone());
                async move {
                    let rows = row_count(state, format, &store, &file).await?;
                    let statistics = Statistics { num_rows: rows, ..Statistics::new_unknown(&columns) };
                    Ok(file.with_statistics(Arc::new(statistics)))
                }
            })
            .boxed()
            .buffered(FOOTERS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let session = state
            .as_any()
            .downcast_ref::<SessionState>()
            .ok_or_else(|| Error::internal("files are read in another kind of session"))?;
        let format = self.format.reader(session);
        let files = self.files(state, filters).await?;
        if files.is_empty() {
            let schema = datafusion::physical_plan::project_schema(&self.schema, projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let files = self.with_row_counts(state, &format, files).await?;
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = files
            .iter()
            .map(|f| f.statistics.as_ref().map_or(Precision::Absent, |s| s.num_rows))
            .reduce(|a, b| a.add(&b))
            .unwrap_or(Precision::Absent);
        let partitions = self.partition_fields().to_vec();
        let table = TableSchema::builder(self.file_schema()).with_table_partition_cols(partitions).build();
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), format.file_source(table))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(format.create_physical_plan(state, config).await?)
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::error::Result<Vec<TableProviderFilterPushDown>> {
        let prunes = |filter: &&Expr| match prunes_partitions(filter, self.partition_fields()) {
            true => TableProviderFilterPushDown::Exact,
            // DataFusion's physical optimizer pushes these further, into the readers.
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(prunes).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        Ok(self.plan(state, projection, filters, limit).await?)
    }
}

/// Whether a filter is decided by partition values alone. Only forms that can be evaluated while planning count.
fn prunes_partitions(filter: &Expr, fields: &[FieldRef]) -> bool {
    let mut columns = 0;
    let mut plain = true;
    let visited = filter.apply(|e| {
        plain &= match e {
            Expr::Column(c) => {
                columns += 1;
                fields.iter().any(|f| *f.name() == c.name)
            }
            Expr::ScalarFunction(f) => f.func.signature().volatility == Volatility::Immutable,
            Expr::Literal(..)
            | Expr::Alias(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Negative(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::BinaryExpr(_)
            | Expr::Between(_)
            | Expr::Like(_)
            | Expr::InList(_)
            | Expr::Case(_) => true,
            _ => false,
        };
        Ok(if plain { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    visited.is_ok() && plain && columns > 0
}

/// Which files the filters keep; NULL keeps none.
fn keep_mask(
    state: &dyn Session,
    fields: &[FieldRef],
    values: &[Vec<ScalarValue>],
    filters: &[Expr],
) -> Result<Vec<bool>> {
    let filters = filters.iter().filter(|f| prunes_partitions(f, fields)).cloned();
    let Some(filter) = conjunction(filters) else { return Ok(vec![true; values.len()]) };
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let column = |i: usize| ScalarValue::iter_to_array(values.iter().map(|row| row[i].clone()));
    let columns = (0..fields.len()).map(column).collect::<datafusion::error::Result<Vec<ArrayRef>>>()?;
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    let schema = DFSchema::try_from(schema)?;
    // Filters come with the table's name on their columns.
    let filter = datafusion::logical_expr::expr_rewriter::unnormalize_col(filter);
    let mask = state.create_physical_expr(filter, &schema)?.evaluate(&batch)?.into_array(values.len())?;
    Ok(mask.as_boolean().iter().map(|keep| keep == Some(true)).collect())
}

/// The values of the partition columns of a file, in their types.
fn partition_of(file: &DataFile, fields: &[FieldRef], location: &str) -> Result<Vec<ScalarValue>> {
    let value = |field: &FieldRef| {
        let name = field.name();
        let found = file.partition.iter().find(|(folder, _)| folder == name);
        let (_, value) = found.ok_or_else(|| {
            Error::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("file \"{}\" is in no folder \"{name}=…\" below \"{location}\"", file.path.display()),
            )
            .with_hint("remove the file, or leave the column out of PARTITIONED BY")
        })?;
        let Some(value) = value else { return Ok(ScalarValue::try_from(field.data_type())?) };
        ScalarValue::try_from_string(value.clone(), field.data_type()).map_err(|_| {
            Error::new(
                sqlstate::INVALID_TEXT_REPRESENTATION,
                format!(
                    "folder \"{name}={value}\" of file \"{}\" is no value of the partition column's type",
                    file.path.display()
                ),
            )
        })
    };
    fields.iter().map(value).collect()
}

/// Rows of a Parquet file by its footer, which stays in the metadata cache for the reader.
async fn row_count(
    state: &dyn Session,
    format: &Arc<dyn FileFormat>,
    store: &Arc<dyn ObjectStore>,
    file: &PartitionedFile,
) -> Result<Precision<usize>> {
    let no_columns = Arc::new(Schema::empty());
    let statistics = format.infer_stats(state, store, no_columns, &file.object_meta).await;
    statistics.map(|s| s.num_rows).map_err(|e| infer::file_error(e, file.object_meta.location.as_ref()))
}

#[cfg(test)]
mod tests;
