//! CREATE INDEX: names to a relation and the positions of its columns.

use millstream_catalog::object::{Index, IndexColumn};
use millstream_catalog::{Object, ObjectKind, Privilege, SqlType};

use super::columns;
use super::provider::table_reference;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{CreateIndexPlan, NewName, Plan};
use crate::statement::CreateIndex;
use crate::types::normalize;

/// Most columns of an index, as in PostgreSQL.
const COLUMNS_MAX: usize = 32;

/// `CREATE [UNIQUE] INDEX`.
pub(crate) fn create(s: &CreateIndex, ctx: &PlanContext<'_>) -> Result<Plan> {
    let reference = table_reference(&s.of)?;
    let at = |e: SqlError| match s.of.0.last().and_then(|p| p.as_ident()) {
        Some(ident) => e.with_span(ident.span),
        None => e,
    };
    let relation = ctx.catalog.resolve(reference.schema(), reference.table(), ctx.search_path);
    let relation = relation.map_err(|e| at(e.into()))?;
    if reference.schema().is_some() {
        ctx.require_in_schema(relation.schema, Privilege::Usage).map_err(at)?;
    }
    check_relation(relation, s.unique).map_err(at)?;
    ctx.require_owner(relation).map_err(at)?;
    if s.columns.len() > COLUMNS_MAX {
        return Err(SqlError::new("54011", format!("cannot use more than {COLUMNS_MAX} columns in an index")));
    }
    let mut of_index = Vec::with_capacity(s.columns.len());
    for column in &s.columns {
        let name = normalize(&column.name);
        let position = columns::position(relation.columns(), &column.name, &relation.name)
            .map_err(|_| SqlError::new("42703", format!("column \"{name}\" does not exist")))
            .map_err(|e| e.with_span(column.name.span))?;
        check_type(&name, &relation.columns()[position].sql_type).map_err(|e| e.with_span(column.name.span))?;
        let (descending, nulls_first) = (column.descending, column.nulls_first);
        of_index.push(IndexColumn { column: position, descending, nulls_first });
    }
    let schema_name = ctx.catalog.schema_name(relation).to_string();
    let name = match &s.name {
        Some(name) => normalize(name),
        None => {
            let names: Vec<&str> = of_index.iter().map(|c| relation.columns()[c.column].name.as_str()).collect();
            ctx.catalog.free_index_name(&schema_name, &relation.name, &names)
        }
    };
    let is_taken = table_of_key(Some(&schema_name), &name, ctx).is_some();
    if is_taken || ctx.catalog.find(&schema_name, &name).is_some() {
        if s.if_not_exists {
            let notice = format!("relation \"{name}\" already exists, skipping");
            return Ok(Plan::Nothing { tag: "CREATE INDEX", notice, sqlstate: "42P07" });
        }
        let error = SqlError::new("42P07", format!("relation \"{name}\" already exists"));
        return Err(s.name.iter().fold(error, |e, name| e.with_span(name.span)));
    }
    let index = Index { of: relation.id, columns: of_index, unique: s.unique };
    let name = NewName { schema: relation.schema, schema_name, name };
    Ok(Plan::CreateIndex(CreateIndexPlan { name, index, concurrently: s.concurrently }))
}

/// The table whose primary key's index has this name. Such an index has no record of its own.
pub(crate) fn table_of_key<'a>(
    schema: Option<&str>,
    name: &str,
    ctx: &'a PlanContext<'_>,
) -> Option<&'a std::sync::Arc<Object>> {
    let table = ctx.catalog.resolve(schema, name.strip_suffix("_pkey")?, ctx.search_path).ok()?;
    matches!(&table.kind, ObjectKind::Table(t) if !t.primary_key.is_empty()).then_some(table)
}

/// Only what keeps rows of its own can have an index.
fn check_relation(relation: &Object, unique: bool) -> Result<()> {
    let (kinds, hint) = match &relation.kind {
        ObjectKind::Table(table) if unique && table.append_only => {
            return Err(SqlError::unsupported(format!(
                "a unique index on append-only table \"{}\" is not supported",
                relation.name
            ))
            .with_hint("leave out UNIQUE, or create the table without APPEND ONLY"));
        }
        ObjectKind::MaterializedView(_) if unique => {
            return Err(SqlError::unsupported(format!("a unique index on {} is not supported", relation.describe()))
                .with_hint("its query decides what rows it has: leave out UNIQUE"));
        }
        ObjectKind::Table(_) | ObjectKind::MaterializedView(_) => return Ok(()),
        ObjectKind::Source(_) => {
            ("sources", "index a materialized view on it, or a table: CREATE TABLE ... WITH (connector = ...)")
        }
        ObjectKind::View(_) => ("views", "index the tables that it reads, or make it a materialized view"),
        ObjectKind::Sink(_) => ("sinks", "index the materialized view that it is made from"),
        ObjectKind::ExternalTable(_) => ("external tables", "partition its files, or copy its rows into a table"),
        ObjectKind::Index(_) => ("indexes", "index its table"),
        _ => ("objects of this kind", "tables and materialized views have indexes"),
    };
    Err(SqlError::new("42809", format!("cannot create index on relation \"{}\"", relation.name))
        .with_detail(format!("This operation is not supported for {kinds}."))
        .with_hint(hint))
}

/// Types whose values can be told apart and put in order by the bytes of their keys.
fn check_type(column: &str, sql_type: &SqlType) -> Result<()> {
    match sql_type {
        SqlType::Json => {
            Err(SqlError::new("42704", "data type json has no default operator class for access method \"btree\"")
                .with_hint("index a column GENERATED ALWAYS AS (doc ->> 'key')"))
        }
        SqlType::Jsonb | SqlType::Array(_) | SqlType::Record(_) | SqlType::Interval => {
            Err(SqlError::unsupported(format!("an index on column \"{column}\" of type {sql_type} is not supported"))
                .with_hint("index a column of a plain type that is made of it"))
        }
        _ => Ok(()),
    }
}
