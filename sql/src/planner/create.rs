//! CREATE of every kind: the validated object, ready for the catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion_sql::sqlparser::ast::{Ident, ObjectName};
use millstream_catalog::object::{ExternalTable, Format, Sink, Source, Table, View};
use millstream_catalog::{Column, Object, ObjectId, ObjectKind, Privilege, SqlType};

use super::provider::table_reference;
use super::query::plan_query;
use super::{columns, dml, secret};
use crate::context::{ExternalCall, PlanContext, TEMPORARY_SCHEMA};
use crate::error::{Result, SqlError};
use crate::plan::{
    CreateExternalTablePlan, CreateMaterializedViewPlan, CreateSinkPlan, CreateSourcePlan, CreateTableAsPlan,
    CreateTablePlan, CreateViewPlan, NewName, Plan, PlannedQuery,
};
use crate::statement::{
    CreateExternalTable, CreateMaterializedView, CreateSchema, CreateSink, CreateSource, CreateTable, CreateTableAs,
    CreateView, FormatClause, SinkInput,
};
use crate::types::normalize;

/// Where a new relation goes, or that it is there already.
enum Place {
    Free(NewName),
    Taken(Box<Plan>),
}

/// Resolves the name of a new relation.
///
/// # Errors
/// 42P07 if it is taken and not `if_not_exists`, 3F000 for an unknown schema, 42501 in a system schema.
fn place(name: &ObjectName, if_not_exists: bool, tag: &'static str, ctx: &PlanContext<'_>) -> Result<Place> {
    let place = new_name(name, ctx)?;
    let table = &place.name;
    if ctx.catalog.find(&place.schema_name, table).is_some() {
        if if_not_exists {
            let notice = format!("relation \"{table}\" already exists, skipping");
            return Ok(Place::Taken(Box::new(Plan::Nothing { tag, notice, sqlstate: "42P07" })));
        }
        let error = SqlError::new("42P07", format!("relation \"{table}\" already exists"));
        return Err(match name.0.last().and_then(|p| p.as_ident()) {
            Some(ident) => error.with_span(ident.span),
            None => error,
        });
    }
    Ok(Place::Free(place))
}

/// The schema and name that a new object gets.
///
/// # Errors
/// 3F000 for an unknown schema, 42501 in a system schema.
pub(crate) fn new_name(name: &ObjectName, ctx: &PlanContext<'_>) -> Result<NewName> {
    let reference = table_reference(name)?;
    let span = name.0.last().and_then(|p| p.as_ident()).map(|i| i.span);
    let located = |e: SqlError| match span {
        Some(span) => e.with_span(span),
        None => e,
    };
    if reference.catalog().is_some_and(|c| c != ctx.session.database) {
        return Err(located(SqlError::unsupported(format!("cross-database references are not supported: {name}"))));
    }
    let schema_name = match reference.schema() {
        Some(TEMPORARY_SCHEMA) => ctx.session.temporary_schema.clone(),
        Some(schema) => schema.to_string(),
        // Temporary tables are found first, but what is not said to be one is none.
        None => ctx
            .usable_path()
            .find(|s| ctx.catalog.schema(s).is_ok() && **s != ctx.session.temporary_schema)
            .cloned()
            .ok_or_else(|| SqlError::new("3F000", "no schema has been selected to create in"))?,
    };
    let schema = ctx.catalog.schema(&schema_name).map_err(|e| located(e.into()))?;
    if schema != ObjectId::PUBLIC && schema < ObjectId::FIRST_USER {
        return Err(located(SqlError::new("42501", format!("permission denied for schema {schema_name}"))));
    }
    ctx.require_in_schema(schema, Privilege::Create).map_err(located)?;
    Ok(NewName { schema, schema_name, name: reference.table().to_string() })
}

macro_rules! free {
    ($place:expr) => {
        match $place {
            Place::Free(name) => name,
            Place::Taken(plan) => return Ok(*plan),
        }
    };
}

/// `CREATE TABLE`.
pub(crate) fn table(s: &CreateTable, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = free!(place(&s.name, s.if_not_exists, "CREATE TABLE", ctx)?);
    if !s.options.is_empty() || s.format.is_some() || !s.include.is_empty() {
        return Err(SqlError::unsupported("CREATE TABLE ... WITH (connector ...) is not supported")
            .with_hint("use CREATE SOURCE, and a materialized view over it to keep the rows"));
    }
    if s.columns.is_empty() {
        return Err(SqlError::unsupported("a table without columns is not supported"));
    }
    columns::no_processing_time(&s.columns)?;
    let mut columns = columns::define(&s.columns, ctx)?;
    let primary_key = columns::primary_key(0, &s.columns, s.primary_key.as_ref(), &mut columns)?;
    if s.append_only && !primary_key.is_empty() {
        return Err(SqlError::unsupported("an APPEND ONLY table with a primary key is not supported"));
    }
    let checks = columns::checks(&name.name, &s.columns, &s.checks, &columns, ctx)?;
    let watermark = columns::watermark(s.watermark.as_ref(), &columns, &name.name, ctx)?;
    if watermark.is_some() && !s.append_only {
        return Err(SqlError::unsupported("WATERMARK FOR on a table that is not APPEND ONLY is not supported")
            .with_hint("declare the table APPEND ONLY"));
    }
    let table = Table { columns, primary_key, append_only: s.append_only, watermark, checks };
    Ok(Plan::CreateTable(CreateTablePlan { name, table }))
}

/// `CREATE TABLE … AS`.
pub(crate) fn table_as(s: &CreateTableAs, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = free!(place(&s.name, s.if_not_exists, "CREATE TABLE AS", ctx)?);
    let query = renamed(plan_query(&s.query, ctx)?, &s.columns)?;
    no_parameters(&query)?;
    let columns = query.columns.iter().map(|c| Column::new(&c.name, c.sql_type.clone(), true)).collect();
    let table = Table { columns, primary_key: Vec::new(), append_only: s.append_only, watermark: None, checks: vec![] };
    Ok(Plan::CreateTableAs(CreateTableAsPlan { name, table, query, with_data: s.with_data }))
}

/// `CREATE SOURCE`.
pub(crate) fn source(s: &CreateSource, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = free!(place(&s.name, s.if_not_exists, "CREATE SOURCE", ctx)?);
    if !s.options.contains_key("connector") {
        return Err(SqlError::new("22023", "CREATE SOURCE needs WITH (connector = '...')"));
    }
    if let Some(path) = s.options.get("path") {
        ctx.require_files(path, false)?;
    }
    let of_schema = schema_columns(s, ctx)?;
    let there = of_schema.len();
    let mut columns = columns::define_behind(of_schema, &s.columns, ctx)?;
    if columns.is_empty() {
        return Err(SqlError::unsupported("a source without a column list is not supported").with_hint(
            "list the columns with their types; ENCODE AVRO and ENCODE PROTOBUF take them from the schema",
        ));
    }
    columns::of_source(&columns, &name.name)?;
    let is_time = |c: &Column| matches!(c.sql_type, SqlType::Timestamp | SqlType::Timestamptz);
    if let Some(column) = columns.iter().find(|c| c.processing_time && !is_time(c)) {
        let message = format!("column \"{}\" AS PROCTIME() must be a timestamp, not {}", column.name, column.sql_type);
        return Err(SqlError::new("42804", message));
    }
    columns::include(&s.include, &mut columns)?;
    let primary_key = columns::primary_key(there, &s.columns, s.primary_key.as_ref(), &mut columns)?;
    let watermark = columns::watermark(s.watermark.as_ref(), &columns, &name.name, ctx)?;
    let format = s.format.as_ref().map(catalog_format);
    let source = Source { columns, primary_key, watermark, options: s.options.clone(), format };
    Ok(Plan::CreateSource(CreateSourcePlan { name, source }))
}

/// The columns of the schema of a source's records, if the statement wants them.
fn schema_columns(s: &CreateSource, ctx: &PlanContext<'_>) -> Result<Vec<Column>> {
    if !s.takes_schema_columns() {
        return Ok(Vec::new());
    }
    let found = source_schema_call(s).and_then(|call| ctx.external.get(&call));
    match found {
        Some(schema) => columns_of(schema),
        None if s.with_schema_columns => {
            Err(SqlError::new("22023", "the records of this source have no schema to take columns from")
                .with_hint("ENCODE AVRO and ENCODE PROTOBUF have one; list the columns with their types"))
        }
        None => Ok(Vec::new()),
    }
}

/// What to ask for the schema of a CREATE SOURCE whose records have one.
pub(crate) fn source_schema_call(s: &CreateSource) -> Option<ExternalCall> {
    let format = s.format.as_ref().filter(|f| matches!(f.encode.as_str(), "avro" | "protobuf"))?;
    let mut options = s.options.clone();
    options.extend(format.options.iter().map(|(name, value)| (format!("encode.{name}"), value.clone())));
    options.insert("format".into(), format.format.clone());
    Some(ExternalCall { format: format.encode.clone(), locations: vec![s.name.to_string()], options, partitions: None })
}

pub(crate) fn catalog_format(clause: &FormatClause) -> Format {
    Format {
        format: clause.format.clone(),
        encode: clause.encode.clone(),
        options: clause.options.clone(),
        ..Format::default()
    }
}

/// `CREATE VIEW`.
pub(crate) fn view(s: &CreateView, ctx: &PlanContext<'_>) -> Result<Plan> {
    let old = if s.or_replace { replaced(&s.name, ctx)? } else { None };
    let name = match &old {
        Some((name, _)) => name.clone(),
        None => free!(place(&s.name, s.if_not_exists, "CREATE VIEW", ctx)?),
    };
    let query = renamed(plan_query(&s.query, ctx)?, &s.columns)?;
    no_parameters(&query)?;
    let replaces = old.map(|(_, old)| old);
    if let Some(old) = &replaces {
        ctx.require_owner(old)?;
        keeps_columns(old, &query.columns)?;
        check_dependents(old, &query.references, ctx)?;
    }
    let view = View { columns: query.columns, query: s.query_text.clone() };
    let replaces = replaces.map(|old| old.id);
    Ok(Plan::CreateView(CreateViewPlan { name, view, references: query.references, replaces }))
}

/// The view of that name, which OR REPLACE gives another query.
///
/// # Errors
/// 42809 if the name is that of something else.
fn replaced(name: &ObjectName, ctx: &PlanContext<'_>) -> Result<Option<(NewName, Arc<Object>)>> {
    let place = new_name(name, ctx)?;
    match ctx.catalog.find(&place.schema_name, &place.name) {
        None => Ok(None),
        Some(object) if matches!(object.kind, ObjectKind::View(_)) => Ok(Some((place, object.clone()))),
        Some(object) => Err(SqlError::new("42809", format!("\"{}\" is not a view", object.name))
            .with_hint(format!("it is {}: drop it first", object.describe()))),
    }
}

/// A view keeps its columns, and may get more behind them.
///
/// # Errors
/// 42P16, as PostgreSQL words it.
fn keeps_columns(old: &Object, new: &[Column]) -> Result<()> {
    let wrong = |message: String| Err(SqlError::new("42P16", message).with_hint("drop the view first"));
    if new.len() < old.columns().len() {
        return wrong("cannot drop columns from view".into());
    }
    for (old, new) in old.columns().iter().zip(new) {
        if old.name != new.name {
            return wrong(format!("cannot change name of view column \"{}\" to \"{}\"", old.name, new.name));
        }
        if old.sql_type != new.sql_type {
            let (from, to) = (&old.sql_type, &new.sql_type);
            return wrong(format!("cannot change data type of view column \"{}\" from {from} to {to}", old.name));
        }
    }
    Ok(())
}

/// What is kept of a view's rows was made by its query.
///
/// # Errors
/// 2BP01 if a materialized view or sink reads the view, 42P17 if its new query does.
fn check_dependents(old: &Object, references: &BTreeMap<String, ObjectId>, ctx: &PlanContext<'_>) -> Result<()> {
    let mut next = vec![old.id];
    let mut seen = Vec::new();
    while let Some(id) = next.pop() {
        if references.values().any(|reference| *reference == id) {
            return Err(SqlError::new("42P17", format!("view \"{}\" cannot read itself", old.name)));
        }
        for object in ctx.catalog.dependents(id) {
            if !matches!(object.kind, ObjectKind::View(_)) {
                let message = format!("cannot replace view {} because {} reads it", old.name, object.describe());
                return Err(SqlError::new("2BP01", message).with_hint("drop what reads it first"));
            }
            if !seen.contains(&object.id) {
                seen.push(object.id);
                next.push(object.id);
            }
        }
    }
    Ok(())
}

/// `CREATE MATERIALIZED VIEW`.
pub(crate) fn materialized_view(s: &CreateMaterializedView, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = free!(place(&s.name, s.if_not_exists, "CREATE MATERIALIZED VIEW", ctx)?);
    let query = renamed(plan_query(&s.query, ctx)?, &s.columns)?;
    no_parameters(&query)?;
    Ok(Plan::CreateMaterializedView(CreateMaterializedViewPlan {
        name,
        query,
        query_text: s.query_text.clone(),
        time_zone: ctx.session.time_zone.clone(),
        emit_on_window_close: s.emit_on_window_close,
        options: s.options.clone(),
    }))
}

/// `CREATE SINK`.
pub(crate) fn sink(s: &CreateSink, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = free!(place(&s.name, s.if_not_exists, "CREATE SINK", ctx)?);
    if !s.options.contains_key("connector") {
        return Err(SqlError::new("22023", "CREATE SINK needs WITH (connector = '...')"));
    }
    let (query, text) = match &s.input {
        SinkInput::Query(query, text) => (query.clone(), text.clone()),
        SinkInput::Relation(relation) => {
            let query = dml::select_columns(relation, &[]);
            let text = query.to_string();
            (query, text)
        }
    };
    let mut query = renamed(plan_query(&query, ctx)?, &[])?;
    no_parameters(&query)?;
    if let Some("delta" | "parquet") = s.options.get("connector").map(|c| c.to_lowercase()).as_deref() {
        query.references.extend(secret::named(&s.options, ctx)?);
        if let Some(path) = s.options.get("path") {
            ctx.require_files(path, true)?;
        }
    }
    let mut key = Vec::new();
    if let Some(names) = s.options.get("primary_key") {
        for written in names.split(',') {
            let column = written.trim();
            let at = query.columns.iter().position(|c| c.name == column).ok_or_else(|| {
                SqlError::new("42703", format!("column \"{column}\" named in primary_key does not exist"))
            })?;
            if !key.contains(&at) {
                key.push(at);
            }
        }
    }
    let sink = Sink {
        columns: query.columns.clone(),
        query: text,
        time_zone: ctx.session.time_zone.clone(),
        options: s.options.clone(),
        format: s.format.as_ref().map(catalog_format),
        key,
        emit_on_window_close: s.emit_on_window_close,
        fingerprint: String::new(),
    };
    Ok(Plan::CreateSink(CreateSinkPlan { name, query, sink, emit_on_window_close: s.emit_on_window_close }))
}

/// `CREATE EXTERNAL TABLE`.
pub(crate) fn external_table(s: &CreateExternalTable, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = free!(place(&s.name, s.if_not_exists, "CREATE EXTERNAL TABLE", ctx)?);
    match s.stored_as.as_str() {
        "PARQUET" | "CSV" | "JSON" | "DELTA" => {}
        "ICEBERG" | "AVRO" | "ARROW" => {
            return Err(SqlError::unsupported(format!("STORED AS {} is not supported", s.stored_as))
                .with_hint("the formats are PARQUET, CSV, JSON and DELTA"));
        }
        other => {
            return Err(SqlError::new("22023", format!("unknown file format \"{other}\""))
                .with_hint("the formats are PARQUET, CSV, JSON and DELTA"));
        }
    }
    let is_lake = s.stored_as == "DELTA";
    columns::no_processing_time(&s.columns)?;
    let query = s.query.as_deref().map(|query| plan_query(query, ctx)).transpose()?;
    let mut columns = match &query {
        Some(_) if !is_lake => {
            return Err(SqlError::unsupported("CREATE EXTERNAL TABLE ... AS a query is for STORED AS DELTA")
                .with_hint("COPY (query) TO 'folder/' writes files of the other formats"));
        }
        Some(_) if !s.columns.is_empty() => {
            return Err(SqlError::syntax("CREATE EXTERNAL TABLE ... AS takes its columns from the query"));
        }
        Some(query) => {
            no_parameters(query)?;
            query.columns.iter().map(|c| Column::new(&c.name, c.sql_type.clone(), true)).collect()
        }
        None if s.columns.is_empty() => found_columns(s, ctx)?,
        None => columns::define(&s.columns, ctx)?,
    };
    if is_lake && let Some(column) = columns.iter().find(|c| c.generated.is_some()) {
        return Err(SqlError::unsupported(format!("generated column \"{}\" of an external table", column.name)));
    }
    let partition_columns: Vec<String> = s.partition_by.iter().map(normalize).collect();
    for (i, partition) in partition_columns.iter().enumerate().filter(|_| is_lake) {
        if !columns.iter().any(|c| c.name == *partition) {
            let span = s.partition_by[i].span;
            return Err(SqlError::new("42703", format!("partition column \"{partition}\" is no column of the table"))
                .with_hint("columns of a Delta table are all in its column list")
                .with_span(span));
        }
    }
    // Hive partition columns are last; those without a type are text.
    for partition in partition_columns.iter().filter(|_| !is_lake) {
        let column = match columns.iter().position(|c| c.name == *partition) {
            Some(at) => columns.remove(at),
            None => Column::new(partition, SqlType::Text, true),
        };
        columns.push(column);
    }
    columns::check_names(&columns)?;
    ctx.require_files(&s.location, false)?;
    if is_lake {
        ctx.require_files(&s.location, true)?;
    }
    let references = secret::named(&s.options, ctx)?;
    let table = ExternalTable {
        columns,
        stored_as: s.stored_as.clone(),
        location: s.location.clone(),
        partition_columns,
        options: s.options.clone(),
    };
    Ok(Plan::CreateExternalTable(CreateExternalTablePlan { name, table, references, query }))
}

fn found_columns(s: &CreateExternalTable, ctx: &PlanContext<'_>) -> Result<Vec<Column>> {
    let call = external_schema_call(s);
    let schema = ctx
        .external
        .get(&call)
        .ok_or_else(|| SqlError::internal(format!("the schema of \"{}\" was not asked for", s.location)))?;
    columns_of(schema)
}

/// The columns of a schema that was asked for.
fn columns_of(schema: &SchemaRef) -> Result<Vec<Column>> {
    schema
        .fields()
        .iter()
        .map(|field| {
            let sql_type = SqlType::of(field).ok_or_else(|| {
                SqlError::unsupported(format!(
                    "column \"{}\" has the unsupported type {}",
                    field.name(),
                    field.data_type()
                ))
                .with_hint("list the columns that you need")
            })?;
            Ok(Column::new(field.name(), sql_type, field.is_nullable()))
        })
        .collect()
}

/// What to ask for the columns of a CREATE EXTERNAL TABLE without a list.
pub(crate) fn external_schema_call(s: &CreateExternalTable) -> ExternalCall {
    let partitions = s.partition_by.iter().map(normalize).collect();
    ExternalCall {
        format: s.stored_as.to_lowercase(),
        locations: vec![s.location.clone()],
        options: s.options.clone(),
        partitions: Some(partitions),
    }
}

/// `CREATE SCHEMA`.
pub(crate) fn schema(s: &CreateSchema, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = normalize(&s.name);
    if ctx.catalog.schema(&name).is_ok() {
        if s.if_not_exists {
            let notice = format!("schema \"{name}\" already exists, skipping");
            return Ok(Plan::Nothing { tag: "CREATE SCHEMA", notice, sqlstate: "42P06" });
        }
        return Err(SqlError::new("42P06", format!("schema \"{name}\" already exists")).with_span(s.name.span));
    }
    if name.starts_with("pg_") {
        return Err(SqlError::new("42939", format!("unacceptable schema name \"{name}\""))
            .with_detail("the prefix \"pg_\" is reserved for system schemas")
            .with_span(s.name.span));
    }
    Ok(Plan::CreateSchema { name })
}

/// Gives the columns the names of a view's column list, and refuses names that are there twice.
fn renamed(mut query: PlannedQuery, names: &[Ident]) -> Result<PlannedQuery> {
    if names.len() > query.columns.len() {
        return Err(SqlError::syntax("too many column names were specified"));
    }
    for (column, name) in query.columns.iter_mut().zip(names) {
        column.name = normalize(name);
    }
    columns::check_names(&query.columns)?;
    query.plan = super::query::rename_output(query.plan, &query.columns)?;
    Ok(query)
}

fn no_parameters(query: &PlannedQuery) -> Result<()> {
    if query.parameters.is_empty() {
        return Ok(());
    }
    Err(SqlError::new("42P02", "parameters are not allowed in a definition"))
}
