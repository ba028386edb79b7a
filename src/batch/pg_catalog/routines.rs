//! The functions that users made, as rows of `pg_proc` and `information_schema.routines`.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use millstream_catalog::object::{Function, Volatility};
use millstream_catalog::{DEFAULT_DATABASE, Object, ObjectId, ObjectKind, SqlType};

use super::information_schema::data_type;
use super::rows::{Cell, NULL, batch, row};
use super::types::udt_name;
use super::view::CatalogView;
use crate::error::Result;

/// OID of language `sql`.
const LANGUAGE_SQL: u32 = 14;

/// All of them, with their records.
pub fn functions(view: &CatalogView) -> impl Iterator<Item = (&Arc<Object>, &Function)> {
    view.catalog.objects().filter_map(|object| Some((object, of(object)?)))
}

/// The function of that OID.
pub fn function(view: &CatalogView, oid: u32) -> Option<(&Arc<Object>, &Function)> {
    let object = view.catalog.get(ObjectId(oid))?;
    Some((object, of(object)?))
}

fn of(object: &Object) -> Option<&Function> {
    match &object.kind {
        ObjectKind::Function(function) => Some(function),
        _ => None,
    }
}

/// Whether a bare name with so many arguments finds the function.
pub fn is_visible(view: &CatalogView, object: &Object, function: &Function) -> bool {
    let same = |o: &&Arc<Object>| of(o).is_some_and(|f| f.arguments.len() == function.arguments.len());
    let first = view.search_path.iter().find_map(|s| view.catalog.functions(s, &object.name).find(same));
    first.is_some_and(|found| found.id == object.id)
}

/// Rows of `pg_proc`, in its columns.
///
/// # Errors
/// XX000 if a column has a type that these values do not fit.
pub fn pg_proc(view: &CatalogView, columns: &SchemaRef) -> Result<RecordBatch> {
    let rows: Vec<Vec<Cell>> = functions(view)
        .map(|(object, f)| {
            let cell = |field: &Arc<datafusion::arrow::datatypes::Field>| {
                cell(object, view.role_oid(&object.owner), f, field.name(), field.data_type())
            };
            columns.fields().iter().map(cell).collect()
        })
        .collect();
    batch(columns, &rows)
}

fn cell(object: &Object, owner: u32, f: &Function, column: &str, data_type: &DataType) -> Cell {
    let is_list = matches!(data_type, DataType::List(_));
    match column {
        "oid" => object.id.0.into(),
        "proname" => object.name.clone().into(),
        "pronamespace" => object.schema.0.into(),
        "proowner" => owner.into(),
        "proacl" => super::roles::acl(object),
        "prolang" => LANGUAGE_SQL.into(),
        "procost" => 100.into(),
        "prorows" | "provariadic" => 0.into(),
        "prosupport" => {
            if data_type.is_numeric() {
                0.into()
            } else {
                "-".into()
            }
        }
        "prokind" => 'f'.into(),
        "prosecdef" | "proleakproof" | "proretset" => false.into(),
        "proisstrict" => f.strict.into(),
        "provolatile" => match f.volatility {
            Volatility::Immutable => 'i',
            Volatility::Stable => 's',
            Volatility::Volatile => 'v',
        }
        .into(),
        "proparallel" => 's'.into(),
        "pronargs" => (f.arguments.len() as i64).into(),
        "pronargdefaults" => ((f.arguments.len() - f.required_arguments()) as i64).into(),
        "prorettype" => f.returns.oid().into(),
        "proargtypes" => {
            let oids: Vec<i64> = f.arguments.iter().map(|a| a.sql_type.oid().into()).collect();
            let text = || oids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            if is_list { oids.clone().into() } else { text().into() }
        }
        "proargnames" if f.arguments.iter().any(|a| a.name.is_some()) => {
            let names: Vec<String> = f.arguments.iter().map(|a| a.name.clone().unwrap_or_default()).collect();
            if is_list { names.into() } else { format!("{{{}}}", names.join(",")).into() }
        }
        "prosrc" => f.body.clone().into(),
        _ => NULL,
    }
}

/// Columns of `information_schema.routines`.
pub const ROUTINES: super::rows::Columns = &[
    ("specific_catalog", SqlType::Name),
    ("specific_schema", SqlType::Name),
    ("specific_name", SqlType::Name),
    ("routine_catalog", SqlType::Name),
    ("routine_schema", SqlType::Name),
    ("routine_name", SqlType::Name),
    ("routine_type", SqlType::Varchar(None)),
    ("data_type", SqlType::Varchar(None)),
    ("type_udt_catalog", SqlType::Name),
    ("type_udt_schema", SqlType::Name),
    ("type_udt_name", SqlType::Name),
    ("routine_body", SqlType::Varchar(None)),
    ("routine_definition", SqlType::Varchar(None)),
    ("external_language", SqlType::Varchar(None)),
    ("is_deterministic", SqlType::Varchar(None)),
    ("sql_data_access", SqlType::Varchar(None)),
    ("is_null_call", SqlType::Varchar(None)),
    ("security_type", SqlType::Varchar(None)),
];

/// Rows of `information_schema.routines`.
pub fn routines(view: &CatalogView) -> Vec<Vec<Cell>> {
    let yes = |b: bool| if b { "YES" } else { "NO" };
    let routine = |(object, f): (&Arc<Object>, &Function)| {
        let schema = view.schema_name(object.schema);
        row![
            DEFAULT_DATABASE,
            schema.clone(),
            format!("{}_{}", object.name, object.id),
            DEFAULT_DATABASE,
            schema,
            object.name.clone(),
            "FUNCTION",
            data_type(&f.returns),
            DEFAULT_DATABASE,
            "pg_catalog",
            udt_name(&f.returns),
            "SQL",
            f.body.clone(),
            "SQL",
            yes(f.volatility == Volatility::Immutable),
            "MODIFIES",
            yes(f.strict),
            "INVOKER",
        ]
    };
    functions(view).map(routine).collect()
}
