//! The upkeep of Delta tables: OPTIMIZE, VACUUM, and their history.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use millstream_catalog::{Column, ObjectKind, SqlType};
use millstream_sql::plan::{DescribeHistoryPlan, OptimizePlan, VacuumPlan, output_schema};

use super::api::{Response, RowsTag};
use super::dml::table_of;
use super::lake::RETRIES;
use super::{Scope, Session, complete, memory};
use crate::batch::lake::optimize::{Optimized, optimize};
use crate::batch::lake::{At, Lake, LakeTable, upkeep};
use crate::error::{Error, Result, sqlstate};

fn schema(columns: &[(&str, SqlType)]) -> SchemaRef {
    output_schema(&columns.iter().map(|(name, t)| Column::new(*name, t.clone(), true)).collect::<Vec<_>>())
}

/// Columns of DESCRIBE HISTORY, under Delta's names.
pub fn history_schema() -> SchemaRef {
    schema(&[
        ("version", SqlType::Int8),
        ("timestamp", SqlType::Timestamptz),
        ("user_name", SqlType::Text),
        ("operation", SqlType::Text),
        ("operation_parameters", SqlType::Jsonb),
        ("operation_metrics", SqlType::Jsonb),
        ("engine_info", SqlType::Text),
    ])
}

/// Columns of OPTIMIZE.
pub fn optimized_schema() -> SchemaRef {
    schema(&[
        ("files_added", SqlType::Int8),
        ("files_removed", SqlType::Int8),
        ("bytes_added", SqlType::Int8),
        ("bytes_removed", SqlType::Int8),
    ])
}

/// Columns of VACUUM … DRY RUN.
pub fn vacuumed_schema() -> SchemaRef {
    schema(&[("path", SqlType::Text)])
}

impl Session {
    fn lake_to_keep(&self, id: millstream_catalog::ObjectId, scope: &Scope) -> Result<LakeTable> {
        let object = table_of(scope, id)?;
        let ObjectKind::ExternalTable(table) = &object.kind else {
            return Err(Error::internal(format!("{} is no Delta table", object.describe())));
        };
        self.lake_table(&object, table, scope)
    }

    /// OPTIMIZE.
    pub(super) async fn optimize(&mut self, p: OptimizePlan, scope: &Scope) -> Result<Response> {
        self.check_outside("OPTIMIZE", true)?;
        let (table, state) = (self.lake_to_keep(p.table, scope)?, self.database.batch.state(&scope.options));
        let (snapshots, user) = (self.database.batch.snapshots().clone(), self.role().to_string());
        let lake = table.snapshot().await?.lake.clone();
        let work = async move {
            let mut all = Optimized::default();
            for _ in 0..RETRIES {
                let snapshot = snapshots.load(&lake, At::Newest).await?;
                match optimize(&snapshots, &snapshot, &p.partitions, &p.z_order, &state, &user, &mut all).await {
                    Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
                    done => return done.map(|()| all),
                }
            }
            Err(lake.conflict())
        };
        let Optimized { files_added, files_removed, bytes_added, bytes_removed } = self.on_batch_threads(work).await?;
        let columns = [files_added, files_removed, bytes_added, bytes_removed];
        let columns = columns.map(|n| Arc::new(Int64Array::from(vec![n as i64])) as ArrayRef).to_vec();
        let batch = RecordBatch::try_new(optimized_schema(), columns)?;
        Ok(memory::rows(optimized_schema(), vec![batch], RowsTag::Plain("OPTIMIZE".into())))
    }

    /// VACUUM.
    pub(super) async fn vacuum(&mut self, p: VacuumPlan, scope: &Scope) -> Result<Response> {
        self.check_outside("VACUUM", !p.dry_run)?;
        let snapshot = self.lake_to_keep(p.table, scope)?.snapshot().await?;
        let work = async move { upkeep::vacuum(&snapshot, p.retain_hours, p.dry_run).await };
        let paths = self.on_batch_threads(work).await?;
        if !p.dry_run {
            return Ok(complete(format!("VACUUM {}", paths.len())));
        }
        let batch = RecordBatch::try_new(vacuumed_schema(), vec![Arc::new(StringViewArray::from_iter_values(paths))])?;
        Ok(memory::rows(vacuumed_schema(), vec![batch], RowsTag::Plain("VACUUM".into())))
    }

    /// DESCRIBE HISTORY.
    pub(super) async fn describe_history(&mut self, p: &DescribeHistoryPlan, scope: &Scope) -> Result<Response> {
        let lake: Lake = self.lake_to_keep(p.table, scope)?.snapshot().await?.lake.clone();
        let limit = p.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let entries = self.on_batch_threads(async move { upkeep::history(&lake, limit).await }).await?;
        let text = |of: fn(&upkeep::Entry) -> Option<&str>| -> ArrayRef {
            Arc::new(entries.iter().map(of).collect::<StringViewArray>())
        };
        let times = entries.iter().map(|e| e.time_us).collect::<TimestampMicrosecondArray>().with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(entries.iter().map(|e| Some(e.version as i64)).collect::<Int64Array>()),
            Arc::new(times),
            text(|e| e.user.as_deref()),
            text(|e| e.operation.as_deref()),
            text(|e| e.parameters.as_deref()),
            text(|e| e.metrics.as_deref()),
            text(|e| e.engine.as_deref()),
        ];
        let schema = history_schema();
        let columns = columns.iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| Ok(arrow::compute::cast(column, field.data_type())?));
        let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<Vec<_>>>()?)?;
        Ok(memory::rows(schema, vec![batch], RowsTag::select()))
    }
}
