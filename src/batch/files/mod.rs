//! Files as tables: external tables, and `read_parquet('glob')` and kin.
//!
//! * [`listing`]: which files, with the values of their hive partition folders.
//! * [`mod@format`]: Parquet, CSV and JSON with their options; [`compression`] of the last two.
//! * [`infer`]: what columns files have, asked when a table is made; [`widen`]: files that differ in them.
//! * [`reads`]: which files were read.
//! * [`text`]: CSV and JSON, read by us. `named`: Parquet, read by DataFusion, which prunes row groups and pages.
//! * [`input`]: the bytes of a file, whatever store holds it.
//! * this file: the provider. It lists at execution, and drops the files that the filters on partition columns rule out.

pub mod compression;
pub mod format;
pub mod infer;
pub mod input;
pub mod listing;
mod named;
pub mod reads;
pub mod text;
pub mod widen;

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
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, Volatility};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_catalog::Column;
use millstream_catalog::object::{ExternalTable, columns_schema};
use millstream_sql::ExternalCall;

pub(super) use self::named::Named;
use self::text::TextReader;
use self::text::scan::{Output, TextFile, TextScan, TextScanExec, of_object};
use super::context::Batch;
use super::stores::Access;
use crate::error::{Error, Result, sqlstate};
use format::{Format, Text};
use listing::{DataFile, Location};

pub use reads::{FileReads, FileVersion};

/// Files of some locations as a table.
#[derive(Debug)]
pub struct FileTable {
    /// One at least; all are in one store.
    locations: Vec<Location>,
    format: Format,
    columns: Vec<Column>,
    schema: SchemaRef,
    /// How many of the columns, counted from the end, are hive partition columns.
    partition_columns: usize,
    /// What it is, for errors: `external table "t"`.
    object: String,
    reads: Option<Arc<FileReads>>,
}

/// A file that belongs to the table, with the values of its partition columns.
struct Member {
    file: DataFile,
    partition: Vec<ScalarValue>,
}

impl FileTable {
    /// The provider of an external table. `object` is what it is called in errors, `secret` what it is opened with.
    ///
    /// # Errors
    /// 22023 or 0A000 if location, format or options are not valid; 42704 if there is no secret for it.
    pub fn new(table: &ExternalTable, object: &str, access: &Access, secret: Option<&str>) -> Result<Self> {
        let location = Location::parse(&table.location, access, secret).map_err(|e| of_object(e, object))?;
        let format = Format::new(&table.stored_as, &table.options)?;
        Self::of(vec![location], format, table.columns.clone(), table.partition_columns.len(), object)
    }

    fn of(
        locations: Vec<Location>,
        format: Format,
        columns: Vec<Column>,
        partition_columns: usize,
        object: &str,
    ) -> Result<Self> {
        if let Format::Text(text) = &format {
            let of_files = &columns[..columns.len() - partition_columns];
            of_files.iter().try_for_each(|column| text::check_type(text, column))?;
        }
        let schema = columns_schema(&columns);
        Ok(Self { locations, format, columns, schema, partition_columns, object: object.into(), reads: None })
    }

    fn of_files(&self) -> &[Column] {
        &self.columns[..self.columns.len() - self.partition_columns]
    }

    /// The same, of which it is noted which files are read.
    pub fn with_reads(mut self, reads: Option<Arc<FileReads>>) -> Self {
        self.reads = reads;
        self
    }

    fn file_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.schema.fields()[..self.of_files().len()].to_vec()))
    }

    fn partition_fields(&self) -> &[FieldRef] {
        &self.schema.fields()[self.of_files().len()..]
    }

    /// The files with their partition values, those left out that the filters rule out.
    async fn members(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<Member>> {
        let files = list(&self.locations, &self.format).await?;
        let files = match &self.reads {
            Some(reads) => reads.allowed(files)?,
            None => files,
        };
        let fields = self.partition_fields();
        let place = self.locations[0].as_str();
        let values = files.iter().map(|file| partition_of(file, fields, place)).collect::<Result<Vec<_>>>()?;
        let keep = keep_mask(state, fields, &values, filters)?;
        let kept = files.into_iter().zip(values).zip(keep).filter(|(_, keep)| *keep);
        let kept: Vec<Member> = kept.map(|((file, partition), _)| Member { file, partition }).collect();
        if let Some(reads) = &self.reads {
            reads.note(kept.iter().map(|member| &member.file));
        }
        Ok(kept)
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
        let members = self.members(state, filters).await?;
        if members.is_empty() {
            let schema = datafusion::physical_plan::project_schema(&self.schema, projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        match &self.format {
            Format::Parquet => self.parquet(session, members, projection, limit).await,
            Format::Text(text) => self.text(session, text, members, projection, limit),
        }
    }

    fn text(
        &self,
        state: &SessionState,
        format: &Text,
        members: Vec<Member>,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let projection = projection.unwrap_or(&all);
        let (mut wanted, mut outputs) = (Vec::new(), Vec::new());
        for column in projection {
            outputs.push(match column.checked_sub(self.of_files().len()) {
                Some(partition) => Output::Partition(partition),
                None => {
                    wanted.push(*column);
                    Output::Read(wanted.len() - 1)
                }
            });
        }
        let files = members
            .into_iter()
            .map(|m| TextFile { name: m.file.name, meta: m.file.meta, partition: m.partition })
            .collect();
        let reader = TextReader::new(format.clone(), self.of_files().to_vec(), wanted, state.config().batch_size());
        Ok(Arc::new(TextScanExec::new(TextScan {
            store: self.locations[0].store.clone(),
            reader,
            groups: by_size(files, state.config().target_partitions()),
            outputs,
            schema: Arc::new(self.schema.project(projection)?),
            limit,
            format: if format.lines == format::LineFormat::Json { "json" } else { "csv" },
            object: self.object.clone(),
        })))
    }

    async fn parquet(
        &self,
        state: &SessionState,
        members: Vec<Member>,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let store = &self.locations[0].store;
        let format = format::parquet(state);
        let files = self.with_row_counts(state, &format, members).await?;
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = files
            .iter()
            .map(|f| f.statistics.as_ref().map_or(Precision::Absent, |s| s.num_rows))
            .reduce(|a, b| a.add(&b))
            .unwrap_or(Precision::Absent);
        let partitions = self.partition_fields().to_vec();
        let table = TableSchema::builder(self.file_schema()).with_table_partition_cols(partitions).build();
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(store.url.clone(), format.file_source(table))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        let plan = format.create_physical_plan(state, config).await?;
        Ok(Named::scan(plan, store, &self.object))
    }

    /// Adds what is known of each file before it is opened; a file that is damaged, or whose columns do not fit the table's,
    /// is found and named here. The footers stay in the metadata cache for the reader.
    async fn with_row_counts(
        &self,
        state: &SessionState,
        format: &dyn FileFormat,
        members: Vec<Member>,
    ) -> Result<Vec<PartitionedFile>> {
        let store = &self.locations[0].store;
        let columns = self.file_schema();
        let no_columns = Arc::new(Schema::empty());
        stream::iter(members)
            .map(|member| {
                let (columns, no_columns) = (columns.clone(), no_columns.clone());
                async move {
                    let Member { file: DataFile { name, meta, .. }, partition } = member;
                    let told = |e| of_object(infer::file_error(e, &name), &self.object);
                    let metas = std::slice::from_ref(&meta);
                    let schema = format.infer_schema(state, &store.objects, metas).await.map_err(told)?;
                    let found = infer::of_schema(&name, &self.wanted(&schema))?;
                    infer::check_types(&found, self.of_files()).map_err(|e| of_object(e, &self.object))?;
                    let known = format.infer_stats(state, &store.objects, no_columns, &meta).await.map_err(told)?;
                    let statistics = Statistics { num_rows: known.num_rows, ..Statistics::new_unknown(&columns) };
                    let file = PartitionedFile::new_from_meta(meta).with_partition_values(partition);
                    Ok(file.with_statistics(Arc::new(statistics)))
                }
            })
            .boxed()
            .buffered(infer::FILES_AT_ONCE)
            .try_collect()
            .await
    }

    /// A file's columns that the table has: what types the others have does not matter.
    fn wanted(&self, schema: &Schema) -> Arc<Schema> {
        let fields = schema.fields().iter().filter(|f| self.of_files().iter().any(|c| c.name == *f.name()));
        Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
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

/// Checks declared columns against the files that are there now.
///
/// # Errors
/// Of [`infer::check_declared`] and of the location. No error if the location has no files yet.
pub async fn check_declared(batch: &Batch, access: &Access, table: &ExternalTable, secret: Option<&str>) -> Result<()> {
    let provider = FileTable::new(table, &table.location, access, secret)?;
    let files = list_on(batch, &provider.locations, &provider.format).await?;
    if files.is_empty() {
        return Ok(());
    }
    infer::check_declared(batch, &provider.format, &provider.locations[0], &files, provider.of_files()).await
}

/// The table that `read_parquet('glob')` and kin stand for. Folders `name=value` that all files are in become columns, unless
/// the call says which do.
///
/// # Errors
/// 58P01 if nothing is there, 22023 for unknown options, 0A000 for locations of several stores; those of the files.
pub async fn read(batch: &Batch, access: &Access, call: &ExternalCall) -> Result<FileTable> {
    let format = Format::new(&call.format, &call.options)?;
    let secret = call.options.get(millstream_sql::SECRET_OPTION).map(String::as_str);
    let parsed = call.locations.iter().map(|location| Location::parse(location, access, secret));
    let locations = parsed.collect::<Result<Vec<_>>>()?;
    if let Some(other) = locations.iter().find(|l| l.store.url != locations[0].store.url) {
        let (one, other) = (locations[0].as_str(), other.as_str());
        return Err(Error::unsupported(format!("\"{one}\" and \"{other}\" are in different places"))
            .with_hint("read them in two calls with UNION ALL between them"));
    }
    let files = some(list_on(batch, &locations, &format).await?, &format, &call.location())?;
    let names = |file: &DataFile| file.partition.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let partitions = call.partitions.clone().unwrap_or_else(|| match names(&files[0]) {
        same if files.iter().all(|file| names(file) == same) => same,
        _ => Vec::new(),
    });
    let columns = infer::columns_of(batch, &format, &locations, &files, &partitions).await?;
    let object = format!("read_{}('{}')", call.format, call.location());
    FileTable::of(locations, format, columns, partitions.len(), &object)
}

fn some(files: Vec<DataFile>, format: &Format, location: &str) -> Result<Vec<DataFile>> {
    if files.is_empty() {
        let endings = format.extensions().join(", ");
        let message = format!("there is no {} file in \"{location}\"", format.name());
        return Err(Error::new(sqlstate::UNDEFINED_FILE, message)
            .with_hint(format!("names of files in a folder end in {endings}; a glob takes any")));
    }
    Ok(files)
}

/// The files of some locations; one that is in several is there once.
async fn list(locations: &[Location], format: &Format) -> Result<Vec<DataFile>> {
    let mut files: Vec<DataFile> = Vec::new();
    for location in locations {
        files.extend(location.list(format.extensions()).await?);
    }
    if locations.len() > 1 {
        let mut seen = std::collections::HashSet::new();
        files.retain(|file| seen.insert(file.name.clone()));
    }
    Ok(files)
}

/// [`list`] on the threads of batch work.
async fn list_on(batch: &Batch, locations: &[Location], format: &Format) -> Result<Vec<DataFile>> {
    let (locations, format) = (locations.to_vec(), format.clone());
    let listed = batch.handle().spawn(async move { list(&locations, &format).await }).await;
    listed.map_err(|e| Error::internal(format!("listing files failed: {e}")))?
}

/// Shares files out so that all parts have about the same to read.
fn by_size(mut files: Vec<TextFile>, parts: usize) -> Vec<Vec<TextFile>> {
    let parts = parts.clamp(1, files.len().max(1));
    files.sort_by_key(|file| std::cmp::Reverse(file.meta.size));
    let mut groups: Vec<(u64, Vec<TextFile>)> = vec![(0, Vec::new()); parts];
    for file in files {
        if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += file.meta.size;
            group.push(file);
        }
    }
    let sorted = |mut group: Vec<TextFile>| {
        group.sort_by(|a, b| a.name.cmp(&b.name));
        group
    };
    groups.into_iter().map(|(_, group)| sorted(group)).collect()
}

/// Whether a filter is decided by partition values alone. Only forms that can be evaluated while planning count.
pub(super) fn prunes_partitions(filter: &Expr, fields: &[FieldRef]) -> bool {
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
pub(super) fn keep_mask(
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
                format!("file \"{}\" is in no folder \"{name}=…\" below \"{location}\"", file.name),
            )
            .with_hint("remove the file, or leave the column out of PARTITIONED BY")
        })?;
        let Some(value) = value else { return Ok(ScalarValue::try_from(field.data_type())?) };
        ScalarValue::try_from_string(value.clone(), field.data_type()).map_err(|_| {
            Error::new(
                sqlstate::INVALID_TEXT_REPRESENTATION,
                format!(
                    "folder \"{name}={value}\" of file \"{}\" is no value of the partition column's type",
                    file.name
                ),
            )
        })
    };
    fields.iter().map(value).collect()
}

#[cfg(test)]
mod tests;
