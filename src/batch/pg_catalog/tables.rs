//! The tables of `pg_catalog` and `information_schema`: which there are, their columns and their rows.

use std::sync::OnceLock;

use datafusion::arrow::array::{AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use millstream_catalog::ObjectId;

use super::rows::{Cell, Columns, batch, schema_of};
use super::view::CatalogView;
use super::{absent, activity, dependencies, fixed, information_schema, relations, roles, routines, server, session};
use crate::error::Result;

/// A table whose rows follow from the catalog.
pub struct Made {
    pub schema: ObjectId,
    pub name: &'static str,
    pub columns: Columns,
    pub rows: fn(&CatalogView) -> Vec<Vec<Cell>>,
}

fn made() -> impl Iterator<Item = &'static Made> {
    let more = activity::TABLES.iter().chain(absent::TABLES).chain(absent::STANDARD).chain(dependencies::TABLES);
    let own = relations::TABLES.iter().chain(server::TABLES).chain(roles::TABLES).chain(session::TABLES);
    own.chain(information_schema::TABLES).chain(more)
}

/// All tables with their columns.
pub fn all() -> Vec<(ObjectId, &'static str, SchemaRef)> {
    static ALL: OnceLock<Vec<(ObjectId, &'static str, SchemaRef)>> = OnceLock::new();
    let list = || {
        let mut all: Vec<_> = made().map(|t| (t.schema, t.name, schema_of(t.columns))).collect();
        match fixed::all() {
            Ok(tables) => all.extend(tables.iter().map(|(n, rows)| (ObjectId::PG_CATALOG, *n, rows.schema()))),
            Err(e) => tracing::error!("the built-in tables of pg_catalog cannot be read: {e}"),
        }
        all.sort_by_key(|(schema, name, _)| (*schema, *name));
        all
    };
    ALL.get_or_init(list).clone()
}

/// The columns of a table, if there is one of that name.
pub fn schema(schema: &str, name: &str) -> Option<SchemaRef> {
    let id = match schema {
        "pg_catalog" => ObjectId::PG_CATALOG,
        "information_schema" => ObjectId::INFORMATION_SCHEMA,
        _ => return None,
    };
    all().into_iter().find(|(s, n, _)| *s == id && *n == name).map(|(_, _, columns)| columns)
}

/// The rows of a table of that schema and name, which [`schema`] knows.
///
/// # Errors
/// XX000 if there is no such table.
pub fn rows(view: &CatalogView, schema: &str, name: &str) -> Result<RecordBatch> {
    let id = match schema {
        "information_schema" => ObjectId::INFORMATION_SCHEMA,
        _ => ObjectId::PG_CATALOG,
    };
    if let Some(table) = made().find(|t| t.schema == id && t.name == name) {
        return batch(&schema_of(table.columns), &(table.rows)(view));
    }
    let rows = fixed::all()?.get(name).cloned();
    let rows = rows.ok_or_else(|| crate::error::Error::internal(format!("no catalog table {schema}.{name}")))?;
    if name == "pg_proc" { known_functions(&rows, view) } else { Ok(rows) }
}

/// PostgreSQL's functions without those that cannot be called here, and those of users.
fn known_functions(rows: &RecordBatch, view: &CatalogView) -> Result<RecordBatch> {
    let Some(names) = rows.column_by_name("proname") else { return Ok(rows.clone()) };
    let known: BooleanArray = names
        .as_string_view()
        .iter()
        .map(|name| Some(name.is_some_and(|n| view.functions.contains(n) || super::functions::is_known(n))))
        .collect();
    let known = filter_record_batch(rows, &known)?;
    Ok(concat_batches(&rows.schema(), [&known, &routines::pg_proc(view, &rows.schema())?])?)
}

/// Shared by the tests of this module.
#[cfg(test)]
pub fn empty_view() -> std::sync::Arc<CatalogView> {
    std::sync::Arc::new(CatalogView::new(std::sync::Arc::new(millstream_catalog::Catalog::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_gives_rows_of_its_columns() {
        let view = empty_view();
        for (id, name, columns) in all() {
            let schema = view.schema_name(id);
            let rows = rows(&view, &schema, name).unwrap();
            assert_eq!(rows.schema(), columns, "{schema}.{name}");
        }
    }
}
