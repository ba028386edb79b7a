//! The tables of `pg_catalog` whose rows are PostgreSQL's own (types, operators, casts), and those that stay empty here.
//!
//! Both come from `datafusion-pg-catalog`, which carries them as Arrow files; they are put into our layouts once.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use datafusion_pg_catalog::pg_catalog::oid_field::OID_ALIAS_KEY;
use datafusion_pg_catalog::pg_catalog::{ArrowTable, PgCatalogStaticTables};
use millstream_catalog::SqlType;

use super::rows::{Cell, batch};
use crate::error::{Error, Result};

/// Tables that PostgreSQL has and that have no rows here: there are no policies, triggers, publications and so on.
pub const EMPTY: &[&str] = &[
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_inherits",
    "pg_init_privs",
    "pg_partitioned_table",
    "pg_policy",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_seclabel",
    "pg_sequence",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_statistic_ext",
    "pg_subscription",
    "pg_subscription_rel",
    "pg_trigger",
    "pg_user_mapping",
];

/// Tables with PostgreSQL's rows.
const FILLED: &[&str] = &[
    "pg_aggregate",
    "pg_am",
    "pg_amop",
    "pg_amproc",
    "pg_cast",
    "pg_collation",
    "pg_conversion",
    "pg_language",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_proc",
    "pg_range",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
];

/// The tables of this file by name.
pub fn all() -> Result<&'static BTreeMap<&'static str, RecordBatch>> {
    static TABLES: OnceLock<Result<BTreeMap<&'static str, RecordBatch>>> = OnceLock::new();
    TABLES.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<BTreeMap<&'static str, RecordBatch>> {
    let tables = PgCatalogStaticTables::try_new()?;
    let mut all = BTreeMap::new();
    for name in FILLED {
        all.insert(*name, in_our_layout(of_name(&tables, name)?)?);
    }
    if let Some(collations) = all.get_mut("pg_collation") {
        *collations = with_alias(collations, "colllocale", "colliculocale")?;
    }
    if let (Some(support), Some(functions)) = (all.get("pg_amproc"), all.get("pg_proc")) {
        let numbered = with_function_oids(support, "amproc", functions)?;
        all.insert("pg_amproc", numbered);
    }
    if let Some(functions) = all.get_mut("pg_proc") {
        for (column, item) in
            [("proallargtypes", SqlType::Oid), ("proargmodes", SqlType::InternalChar), ("proargnames", SqlType::Text)]
        {
            *functions = with_arrays(functions, column, item)?;
        }
    }
    for name in EMPTY {
        all.insert(*name, in_our_layout(of_name(&tables, name)?)?.slice(0, 0));
    }
    Ok(all)
}

/// The rows with a column once more under another name: psql asks for the one that its own version knows.
fn with_alias(rows: &RecordBatch, column: &str, alias: &str) -> Result<RecordBatch> {
    let schema = rows.schema();
    let position = schema.index_of(column)?;
    let mut fields: Vec<_> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(fields[position].clone().with_name(alias));
    let mut columns = rows.columns().to_vec();
    columns.push(columns[position].clone());
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The rows with arrays in a column that has their texts.
fn with_arrays(rows: &RecordBatch, column: &str, item: SqlType) -> Result<RecordBatch> {
    let position = rows.schema().index_of(column)?;
    let field = SqlType::Array(Box::new(item)).field(column, true);
    let texts = cast(rows.column(position), &DataType::Utf8View)?;
    // Written `[1, 2]` and `['a', 'b']`.
    let item = |item: &str| item.trim().trim_matches('\'').to_string();
    let items = |text: &str| match text.trim_matches(['[', ']']) {
        "" => Vec::new(),
        inner => inner.split(',').map(item).collect(),
    };
    let cell = |text: Option<&str>| vec![text.map_or(Cell::Null, |text| Cell::Texts(items(text)))];
    let cells: Vec<Vec<Cell>> = texts.as_string_view().iter().map(cell).collect();
    let arrays = batch(&Arc::new(Schema::new(vec![field.clone()])), &cells)?;
    let mut fields: Vec<_> = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields[position] = field;
    let mut columns = rows.columns().to_vec();
    columns[position] = arrays.column(0).clone();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The rows with OIDs of functions in a column that has their names; a name of several stands for none.
fn with_function_oids(rows: &RecordBatch, column: &str, functions: &RecordBatch) -> Result<RecordBatch> {
    let position = rows.schema().index_of(column)?;
    let (Some(names), Some(oids)) = (functions.column_by_name("proname"), functions.column_by_name("oid")) else {
        return Ok(rows.clone());
    };
    let mut known: BTreeMap<&str, Option<u32>> = BTreeMap::new();
    for (name, oid) in names.as_string_view().iter().zip(oids.as_primitive::<UInt32Type>()) {
        known.entry(name.unwrap_or_default()).and_modify(|oid| *oid = None).or_insert(oid);
    }
    let numbers: UInt32Array = rows
        .column(position)
        .as_string_view()
        .iter()
        .map(|name| known.get(name.unwrap_or_default()).copied().flatten().or(Some(0)))
        .collect();
    let mut fields: Vec<_> = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields[position] = SqlType::Oid.field(column, true);
    let mut columns = rows.columns().to_vec();
    columns[position] = Arc::new(numbers);
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn of_name<'a>(t: &'a PgCatalogStaticTables, name: &str) -> Result<&'a ArrowTable> {
    let table = match name {
        "pg_aggregate" => &t.pg_aggregate,
        "pg_am" => &t.pg_am,
        "pg_amop" => &t.pg_amop,
        "pg_amproc" => &t.pg_amproc,
        "pg_cast" => &t.pg_cast,
        "pg_collation" => &t.pg_collation,
        "pg_conversion" => &t.pg_conversion,
        "pg_language" => &t.pg_language,
        "pg_opclass" => &t.pg_opclass,
        "pg_operator" => &t.pg_operator,
        "pg_opfamily" => &t.pg_opfamily,
        "pg_proc" => &t.pg_proc,
        "pg_range" => &t.pg_range,
        "pg_ts_config" => &t.pg_ts_config,
        "pg_ts_dict" => &t.pg_ts_dict,
        "pg_ts_parser" => &t.pg_ts_parser,
        "pg_ts_template" => &t.pg_ts_template,
        "pg_type" => &t.pg_type,
        "pg_enum" => &t.pg_enum,
        "pg_event_trigger" => &t.pg_event_trigger,
        "pg_extension" => &t.pg_extension,
        "pg_inherits" => &t.pg_inherits,
        "pg_init_privs" => &t.pg_init_privs,
        "pg_partitioned_table" => &t.pg_partitioned_table,
        "pg_policy" => &t.pg_policy,
        "pg_publication" => &t.pg_publication,
        "pg_publication_namespace" => &t.pg_publication_namespace,
        "pg_publication_rel" => &t.pg_publication_rel,
        "pg_seclabel" => &t.pg_seclabel,
        "pg_sequence" => &t.pg_sequence,
        "pg_shdepend" => &t.pg_shdepend,
        "pg_shdescription" => &t.pg_shdescription,
        "pg_shseclabel" => &t.pg_shseclabel,
        "pg_statistic_ext" => &t.pg_statistic_ext,
        "pg_subscription" => &t.pg_subscription,
        "pg_subscription_rel" => &t.pg_subscription_rel,
        "pg_trigger" => &t.pg_trigger,
        "pg_user_mapping" => &t.pg_user_mapping,
        _ => return Err(Error::internal(format!("no built-in rows for catalog table \"{name}\""))),
    };
    Ok(table)
}

/// OIDs become OIDs, strings views, and nothing is NOT NULL.
fn in_our_layout(table: &ArrowTable) -> Result<RecordBatch> {
    let fields: Vec<Field> = table.schema().fields().iter().map(|f| sql_type(f).field(f.name(), true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let rows = concat_batches(&table.schema(), table.data())?;
    let columns = rows
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn sql_type(field: &Field) -> SqlType {
    let is_oid = field.metadata().contains_key(OID_ALIAS_KEY) || field.name() == "oid";
    match field.data_type() {
        DataType::Int32 | DataType::UInt32 | DataType::Int64 if is_oid => SqlType::Oid,
        DataType::List(item) => SqlType::Array(Box::new(sql_type(item))),
        other => SqlType::from_arrow(other).unwrap_or(SqlType::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_postgresql_are_in_our_layouts() {
        let all = all().unwrap();
        for (name, rows) in all {
            assert_eq!(rows.num_rows() == 0, EMPTY.contains(name), "{name}");
            for field in rows.schema().fields() {
                assert!(SqlType::of(field).is_some_and(|t| t.arrow_type() == *field.data_type()), "{name}.{field}");
            }
        }
        let types = &all["pg_type"];
        assert_eq!(SqlType::of(types.schema().field_with_name("oid").unwrap()), Some(SqlType::Oid));
        assert_eq!(SqlType::of(types.schema().field_with_name("typrelid").unwrap()), Some(SqlType::Oid));
    }
}
