//! `pg_catalog` and `information_schema`: the catalog as PostgreSQL's clients read it.
//!
//! * [`view`]: the catalog as a list of relations with OIDs.
//! * [`relations`], [`routines`], [`server`], [`session`], [`information_schema`]: the tables made from it; [`fixed`]: PostgreSQL's own
//!   rows.
//! * [`roles`], [`privileges`]: who there is, and who may do what.
//! * [`functions`]: `format_type`, `pg_get_viewdef`, `pg_table_is_visible` and their kind.
//! * [`dependencies`]: what views are built on; [`activity`]: who is connected; [`absent`]: tables for what is not here.
//! * [`mod@rewrite`]: queries of clients, whose constructs our planner does not have, as queries that mean the same.
//!
//! A session makes one [`PgCatalog`] for a statement and asks it for schemas and functions while planning, for providers
//! before running.

pub mod absent;
pub mod activity;
pub mod dependencies;
pub mod fixed;
pub mod functions;
mod idioms;
pub mod information_schema;
pub mod privileges;
pub mod relations;
pub mod rewrite;
pub mod roles;
pub mod routines;
pub mod rows;
pub mod server;
pub mod session;
mod system_functions;
pub mod tables;
pub mod types;
pub mod view;

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::TableProvider;
use datafusion::logical_expr::ScalarUDF;

use super::lazy::LazyTable;

pub use activity::ActivityRow;
pub use rewrite::rewrite;
pub use view::{CatalogView, CursorRow, PreparedRow, Setting};

/// The catalog tables and functions of one statement.
#[derive(Debug, Clone)]
pub struct PgCatalog {
    view: Arc<CatalogView>,
}

impl PgCatalog {
    /// Tables and functions that speak of this view.
    pub fn new(view: CatalogView) -> Self {
        Self { view: Arc::new(view) }
    }

    /// The columns of a table of `pg_catalog` or `information_schema`.
    pub fn schema(schema: &str, name: &str) -> Option<SchemaRef> {
        tables::schema(schema, name)
    }

    /// The rows of a table of `pg_catalog` or `information_schema`.
    pub fn provider(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        let columns = tables::schema(schema, name)?;
        let (view, schema, name) = (self.view.clone(), schema.to_string(), name.to_string());
        Some(Arc::new(LazyTable::new(columns, move || tables::rows(&view, &schema, &name))))
    }

    /// A function that speaks of the catalog.
    pub fn function(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions::lookup(name, &self.view)
    }
}

#[cfg(test)]
mod function_list;
#[cfg(test)]
mod tests;
