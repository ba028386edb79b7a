//! What the tests of this module share: a small engine, and SQL planned by DataFusion over registered providers.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::{TableProvider, source_as_provider};
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::SessionContext;
use millstream_catalog::Catalog;

use super::stores::{Access, Stores};
use super::{Batch, BatchOptions, Functions, Resolver, StatementOptions};
use crate::error::Result;

/// Leaves the providers that a plan has already.
pub struct AsPlanned;

impl Resolver for AsPlanned {
    fn provider(&self, source: &Arc<dyn TableSource>) -> Result<Arc<dyn TableProvider>> {
        Ok(source_as_provider(source)?)
    }
}

/// An engine with that much memory, which spills below `dir`.
pub fn engine(dir: &Path, memory_limit_bytes: usize) -> Batch {
    let options = BatchOptions { memory_limit_bytes, threads: 2, ..BatchOptions::new(dir.join("spill")) };
    Batch::new(&options, &Functions::default(), Vec::new()).unwrap()
}

/// Local files and no secrets.
pub fn local() -> Access {
    Access::new(Arc::new(Stores::new(Arc::default())), Arc::new(Catalog::new()))
}

/// Plans SQL over the given tables.
pub async fn plan(batch: &Batch, sql: &str, tables: &[(&str, Arc<dyn TableProvider>)]) -> LogicalPlan {
    let mut config = batch.state(&StatementOptions::default()).config().clone();
    config.options_mut().catalog.create_default_catalog_and_schema = true;
    let context = SessionContext::new_with_config(config);
    for (name, table) in tables {
        context.register_table(*name, table.clone()).unwrap();
    }
    context.state().create_logical_plan(sql).await.unwrap()
}

/// The rows of a query.
pub async fn query(batch: &Batch, sql: &str, tables: &[(&str, Arc<dyn TableProvider>)]) -> Result<Vec<RecordBatch>> {
    let plan = plan(batch, sql, tables).await;
    batch.collect(plan, &AsPlanned, &StatementOptions::default()).await
}

/// The rows of a query as a table of text.
pub async fn shown(batch: &Batch, sql: &str, tables: &[(&str, Arc<dyn TableProvider>)]) -> String {
    pretty_format_batches(&query(batch, sql, tables).await.unwrap()).unwrap().to_string()
}

/// Writes one Parquet file, its folder too.
pub fn write_parquet(path: &Path, rows: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}
