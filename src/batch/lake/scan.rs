//! A version of a Delta table as rows.
//!
//! The files are read as those of other Parquet tables are; which of them count, and the values of their partition columns,
//! says the log. A scan for UPDATE, DELETE or MERGE also gives the identity of each row: its file and its place in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown};
use datafusion::parquet::arrow::RowNumber;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{binary, col};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::scalar::ScalarValue;
use millstream_catalog::object::columns_schema;
use millstream_catalog::{Column, SqlType};
use millstream_sql::{ExternalCall, ROW_ID};

use super::columns::stands_for;
use super::place::Lake;
use super::snapshot::{At, LakeReads, Snapshot, Snapshots, VersionReads};
use crate::batch::files::{Named, format, keep_mask, prunes_partitions};
use crate::batch::stores::Access;
use crate::error::{Error, Result, sqlstate};

/// Bits of a row's identity that say where in its file it is.
const ROW_BITS: u32 = 40;
const FILE_COLUMN: &str = "__file";
const PLACE_COLUMN: &str = "__place";

/// The file (its position in [`Snapshot::files`]) of a row, and its place in it, by its identity.
pub fn row_of(id: i64) -> (usize, u64) {
    ((id >> ROW_BITS) as usize, (id & ((1 << ROW_BITS) - 1)) as u64)
}

/// A Delta table, or a version of it, for one statement.
#[derive(Debug)]
pub struct LakeTable {
    lake: Lake,
    at: At,
    columns: Vec<Column>,
    schema: SchemaRef,
    snapshots: Arc<Snapshots>,
    reads: Arc<LakeReads>,
    noted: Option<Arc<VersionReads>>,
    /// Whether the schema ends with [`ROW_ID`].
    row_ids: bool,
    /// Positions of the files that are read; `None`: all.
    only: Option<BTreeSet<usize>>,
}

impl LakeTable {
    /// The table at its newest version, with these columns.
    pub fn new(lake: Lake, columns: Vec<Column>, snapshots: Arc<Snapshots>, reads: Arc<LakeReads>) -> Self {
        let schema = columns_schema(&columns);
        Self { lake, at: At::Newest, columns, schema, snapshots, reads, noted: None, row_ids: false, only: None }
    }

    /// The table that `read_delta('folder', version => n)` stands for, or that a CREATE EXTERNAL TABLE takes its columns from.
    ///
    /// # Errors
    /// 22023 for unknown options; those of [`Lake::open`] and [`Snapshots::load`].
    pub async fn named(
        snapshots: &Arc<Snapshots>,
        access: &Access,
        reads: &Arc<LakeReads>,
        call: &ExternalCall,
    ) -> Result<Self> {
        let mut at = At::Newest;
        for (key, value) in &call.options {
            let invalid = |message: String| Error::new(sqlstate::INVALID_PARAMETER_VALUE, message);
            match key.as_str() {
                millstream_sql::SECRET_OPTION => {}
                "version" => {
                    let number =
                        value.parse().map_err(|_| invalid(format!("\"{value}\" is no number of a version")))?;
                    at = At::Version(number);
                }
                // What a table is made with is looked at then.
                key if key.starts_with("delta.") => {}
                other => {
                    return Err(invalid(format!("unknown option \"{other}\" of Delta tables"))
                        .with_hint("known options are secret, version"));
                }
            }
        }
        let [location] = call.locations.as_slice() else {
            return Err(Error::unsupported("several Delta tables in one call").with_hint("read them in several calls"));
        };
        let secret = call.options.get(millstream_sql::SECRET_OPTION).map(String::as_str);
        let object = format!("read_delta('{location}')");
        let lake = Lake::open(location, &object, access, secret)?;
        let snapshot = reads.snapshot(snapshots, &lake, at).await?;
        Ok(Self::new(lake, snapshot.columns.clone(), snapshots.clone(), reads.clone()).at(at))
    }

    /// Another version of it.
    pub fn at(self, at: At) -> Self {
        Self { at, ..self }
    }

    /// The same, of which it is noted which version is read.
    pub fn with_reads(mut self, noted: Option<Arc<VersionReads>>) -> Self {
        if let Some(noted) = &noted
            && self.at == At::Newest
        {
            self.at = noted.newest();
        }
        self.noted = noted;
        self
    }

    /// The same with the identity of each row in a last column, [`ROW_ID`].
    pub fn with_row_ids(mut self) -> Self {
        let id: FieldRef = Arc::new(SqlType::Int8.field(ROW_ID, false));
        self.schema = Arc::new(Schema::new(self.schema.fields().iter().cloned().chain([id]).collect::<Vec<_>>()));
        self.row_ids = true;
        self
    }

    /// The rows of some files alone.
    pub fn with_files(self, only: BTreeSet<usize>) -> Self {
        Self { only: Some(only), ..self }
    }

    /// The version that is read.
    ///
    /// # Errors
    /// Of [`Snapshots::load`]; 42703 or 42804 if the table has not the columns that were declared.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let snapshot = self.reads.snapshot(&self.snapshots, &self.lake, self.at).await?;
        if let Some(noted) = &self.noted {
            noted.note(snapshot.version());
        }
        for column in &self.columns {
            let Some(found) = snapshot.column(&column.name) else {
                return Err(Error::new(
                    sqlstate::UNDEFINED_COLUMN,
                    format!("column \"{}\" of {} is not in the Delta table", column.name, self.lake.object),
                )
                .with_hint("drop the external table and create it again"));
            };
            if !stands_for(&column.sql_type, &found.sql_type) {
                return Err(Error::new(
                    "42804",
                    format!(
                        "column \"{}\" of {} is of type {}, and of type {} in the Delta table",
                        column.name, self.lake.object, column.sql_type, found.sql_type
                    ),
                )
                .with_hint("drop the external table and create it again"));
            }
        }
        Ok(snapshot)
    }

    async fn plan(
        &self,
        state: &SessionState,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let snapshot = self.snapshot().await?;
        let is_partition = |c: &&Column| snapshot.partition_columns.contains(&c.name);
        let of_files: Vec<Column> = self.columns.iter().filter(|c| !is_partition(c)).cloned().collect();
        let of_partition: Vec<Column> = self.columns.iter().filter(is_partition).cloned().collect();
        let partition_fields: Vec<FieldRef> = columns_schema(&of_partition).fields().iter().cloned().collect();
        let place = |c: &Column| snapshot.partition_columns.iter().position(|name| *name == c.name).unwrap_or_default();
        let places: Vec<usize> = of_partition.iter().map(place).collect();
        let members: Vec<usize> = match &self.only {
            Some(only) => only.iter().copied().collect(),
            None => (0..snapshot.files.len()).collect(),
        };
        let values = |file: &usize| -> Vec<ScalarValue> {
            places.iter().map(|at| snapshot.files[*file].partition[*at].clone()).collect()
        };
        let values: Vec<_> = members.iter().map(values).collect();
        let keep = keep_mask(state, &partition_fields, &values, filters)?;
        let mut statistics = Precision::Exact(0);
        let mut files = Vec::new();
        for ((file, mut partition), _) in members.into_iter().zip(values).zip(keep).filter(|(_, keep)| *keep) {
            let found = &snapshot.files[file];
            let of_file = found.statistics(&of_files);
            statistics = statistics.add(&of_file.num_rows);
            if self.row_ids {
                partition.push(ScalarValue::Int64(Some((file as i64) << ROW_BITS)));
            }
            let file = PartitionedFile::new_from_meta(found.meta.clone()).with_partition_values(partition);
            files.push(file.with_statistics(Arc::new(of_file)));
        }
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(projection)?))));
        }
        let mut partition_fields = partition_fields;
        let mut table = TableSchema::builder(columns_schema(&of_files));
        if self.row_ids {
            partition_fields.push(Arc::new(Field::new(FILE_COLUMN, DataType::Int64, false)));
            let place = Field::new(PLACE_COLUMN, DataType::Int64, false).with_extension_type(RowNumber);
            table = table.with_virtual_columns(vec![Arc::new(place) as FieldRef]);
        }
        let table = table.with_table_partition_cols(partition_fields).build();
        let mut known = Statistics::new_unknown(table.table_schema());
        known.num_rows = statistics;
        let position = |name: &str| Ok::<_, Error>(table.table_schema().index_of(name)?);
        let mut read = Vec::new();
        for at in projection.iter().filter(|at| **at < self.columns.len()) {
            read.push(position(&self.columns[*at].name)?);
        }
        let wants_ids = self.row_ids && projection.contains(&self.columns.len());
        if wants_ids {
            read.extend([position(FILE_COLUMN)?, position(PLACE_COLUMN)?]);
        }
        let format = format::parquet(state);
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(self.lake.store.url.clone(), format.file_source(table))
            .with_file_groups(groups)
            .with_statistics(known)
            .with_projection_indices(Some(read))?
            .with_limit(limit)
            .build();
        let plan = format.create_physical_plan(state, config).await?;
        let plan = Named::scan(plan, &self.lake.store, &self.lake.object);
        if !wants_ids {
            return Ok(plan);
        }
        self.identified(plan, projection)
    }

    /// Computes the identity of each row.
    fn identified(&self, plan: Arc<dyn ExecutionPlan>, projection: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = plan.schema();
        let mut exprs = Vec::with_capacity(projection.len());
        for at in projection {
            let (expr, name): (Arc<dyn PhysicalExpr>, &str) = match self.columns.get(*at) {
                Some(column) => (col(&column.name, &schema)?, &column.name),
                None => {
                    let (file, place) = (col(FILE_COLUMN, &schema)?, col(PLACE_COLUMN, &schema)?);
                    (binary(file, Operator::Plus, place, &schema)?, ROW_ID)
                }
            };
            exprs.push(ProjectionExpr { expr, alias: name.to_string() });
        }
        Ok(Arc::new(ProjectionExec::try_new(exprs, plan)?))
    }
}

#[async_trait]
impl TableProvider for LakeTable {
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
        // Which columns are partition columns is known at the scan: a filter that they alone decide is computed there for
        // whole files, and again for the rows.
        let fields = self.schema.fields();
        let prunes = |filter: &&Expr| match prunes_partitions(filter, fields) {
            true => TableProviderFilterPushDown::Inexact,
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
        let state = state
            .as_any()
            .downcast_ref::<SessionState>()
            .ok_or_else(|| Error::internal("files are read in another kind of session"))?;
        Ok(self.plan(state, projection, filters, limit).await?)
    }
}
