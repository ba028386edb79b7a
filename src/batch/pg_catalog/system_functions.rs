//! More functions of the catalog: of names and OIDs, of the connection, and of lists that clients take apart.

use std::collections::HashMap;
use std::sync::OnceLock;

use datafusion::arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use millstream_catalog::{ObjectId, SqlType};

use super::functions::{Function, arg, f, regclass, regnamespace, regrole, regtype};
use super::rows::Cell;
use super::view::CatalogView;
use super::{fixed, routines, server, types};
use crate::error::{Error, Result};

/// The functions of this file.
pub fn list() -> Vec<Function> {
    use SqlType::{Bool, Int4, Int8, Oid, Text};
    let texts = || SqlType::Array(Box::new(Text));
    let ints = || SqlType::Array(Box::new(Int4));
    let mut all = vec![
        f("pg_listening_channels_list", texts(), |view, _| Ok(view.channels.clone().into())),
        // A list of numbers, whichever way the catalog writes it, and the places of its items.
        f("pg_vector", ints(), |_, a| Ok(numbers(arg(a, 0)).map_or(Cell::Null, Cell::from))),
        f("pg_subscripts", ints(), |_, a| {
            let first = if matches!(arg(a, 0), Cell::Text(text) if !text.starts_with('{')) { 0 } else { 1 };
            let count = super::functions::items(arg(a, 0)).map(|items| match &items[..] {
                [one] if one.contains(' ') => one.split_whitespace().count(),
                all => all.len(),
            });
            Ok(count.map_or(Cell::Null, |n| (first..first + n as i64).collect::<Vec<i64>>().into()))
        }),
        f("pg_positions", ints(), |_, a| {
            Ok(numbers(arg(a, 0)).map_or(Cell::Null, |n| (1..=n.len() as i64).collect::<Vec<i64>>().into()))
        }),
        f("pg_texts", texts(), |_, a| Ok(super::functions::items(arg(a, 0)).map_or(Cell::Null, Cell::from))),
        f("pg_regtype_names", texts(), |_, a| {
            let name = |oid: i64| {
                let oid = u32::try_from(oid).unwrap_or_default();
                types::format_type(oid, None).unwrap_or_else(|| oid.to_string())
            };
            Ok(numbers(arg(a, 0)).map_or(Cell::Null, |oids| oids.into_iter().map(name).collect::<Vec<_>>().into()))
        }),
        f("array_upper", Int4, |_, a| Ok(bound(a, |n| n))),
        f("array_lower", Int4, |_, a| Ok(bound(a, |_| 1))),
        f("pg_regproc_oid", Oid, |view, a| Ok(regproc(view, arg(a, 0))?.into())),
        f("pg_regproc_name", Text, |view, a| Ok(regproc_name(view, arg(a, 0), false)?.into())),
        f("pg_regprocedure_oid", Oid, |view, a| Ok(regproc(view, &without_arguments(arg(a, 0)))?.into())),
        f("pg_regprocedure_name", Text, |view, a| Ok(regproc_name(view, arg(a, 0), true)?.into())),
        f("pg_regoperator_name", Text, |_, a| Ok(operator_name(arg(a, 0), true).into())),
        f("pg_regoper_name", Text, |_, a| Ok(operator_name(arg(a, 0), false).into())),
        f("pg_regoperator_oid", Oid, |_, a| Ok(arg(a, 0).oid().into())),
        f("pg_regoper_oid", Oid, |_, a| Ok(arg(a, 0).oid().into())),
        f("to_regproc", Text, |view, a| {
            Ok(match regproc(view, arg(a, 0)) {
                Ok(Some(_)) => regproc_name(view, arg(a, 0), false)?.into(),
                _ => Cell::Null,
            })
        }),
        f("to_regnamespace", Text, |view, a| {
            let oid = regnamespace(view, arg(a, 0)).ok().flatten();
            Ok(oid.map(|oid| millstream_sql::quote_ident(&view.schema_name(ObjectId(oid)))).into())
        }),
        f("to_regrole", Text, |view, a| {
            Ok(regrole(view, arg(a, 0)).ok().flatten().map(|_| arg(a, 0).text().unwrap_or_default()).into())
        }),
        // What stands for `to_regclass('…')` and kin where a number is wanted.
        f("pg_to_regclass_oid", Oid, |view, a| Ok(regclass(view, arg(a, 0)).ok().flatten().into())),
        f("pg_to_regtype_oid", Oid, |_, a| Ok(regtype(arg(a, 0)).ok().flatten().into())),
        f("pg_to_regnamespace_oid", Oid, |view, a| Ok(regnamespace(view, arg(a, 0)).ok().flatten().into())),
        f("pg_to_regrole_oid", Oid, |view, a| Ok(regrole(view, arg(a, 0)).ok().flatten().into())),
        f("pg_to_regproc_oid", Oid, |view, a| Ok(regproc(view, arg(a, 0)).ok().flatten().into())),
        f("quote_nullable", Text, |_, a| {
            let text = arg(a, 0).text().map(|text| super::functions::quote_literal(&text));
            Ok(text.unwrap_or_else(|| "NULL".into()).into())
        }),
        f("pg_encoding_max_length", Int4, |_, a| {
            Ok((arg(a, 0).int() == Some(i64::from(server::UTF8))).then_some(4).into())
        }),
        f("pg_postmaster_start_time", SqlType::Timestamptz, |view, _| Ok(view.started_us.into())),
        f("pg_conf_load_time", SqlType::Timestamptz, |view, _| Ok(view.started_us.into())),
        // An item of a list of numbers, from `first` on.
        f("pg_vector_item", Int4, |_, a| {
            let at = arg(a, 1).int().zip(arg(a, 2).int()).and_then(|(n, first)| usize::try_from(n - first).ok());
            Ok(numbers(arg(a, 0)).zip(at).and_then(|(all, at)| all.get(at).copied()).into())
        }),
        // OID of one of PostgreSQL's functions whose name no other has.
        f("pg_function_oid", Oid, |_, a| {
            let found = arg(a, 0).text().map(|name| built_in_of(&name)).unwrap_or_default();
            Ok(if found.len() == 1 { found.first().copied() } else { None }.into())
        }),
        f("pg_stat_get_numscans", Int8, |_, _| Ok(Cell::Null)),
        f("pg_my_temp_schema", Oid, |_, _| Ok(0.into())),
        f("pg_is_other_temp_schema", Bool, |_, _| Ok(false.into())),
        f("inet_server_port", Int4, |_, _| Ok(Cell::Null)),
        f("pg_tablespace_size", Int8, |view, _| {
            Ok((view.catalog.objects().filter_map(|o| (view.size_of)(o.id)).sum::<u64>() as i64).into())
        }),
        f("pg_stat_get_db_numbackends", Int4, |view, _| Ok(((view.activity)().len() as i64).into())),
        f("pg_blocking_pids", ints(), |_, _| Ok(Vec::<i64>::new().into())),
    ];
    for name in [
        "pg_conversion_is_visible",
        "pg_ts_parser_is_visible",
        "pg_ts_template_is_visible",
        "pg_statistics_obj_is_visible",
    ] {
        all.push(f(name, Bool, |_, a| Ok(arg(a, 0).oid().map(|_| true).into())));
    }
    // Things that no object here has.
    for name in [
        "pg_get_function_arg_default",
        "pg_get_statisticsobjdef",
        "pg_get_statisticsobjdef_expressions",
        "pg_get_partition_constraintdef",
        "pg_relation_filepath",
        "pg_get_publication_tables",
    ] {
        all.push(f(name, Text, |_, _| Ok(Cell::Null)));
    }
    all
}

/// A bound of an array's first dimension, from how many items there are; NULL of an empty one and of other dimensions.
fn bound(a: &[Cell], of: fn(i64) -> i64) -> Cell {
    match super::functions::items(arg(a, 0)) {
        Some(items) if !items.is_empty() && arg(a, 1).int() == Some(1) => of(items.len() as i64).into(),
        _ => Cell::Null,
    }
}

/// The numbers of `{1,2}`, `1 2`, or a list.
fn numbers(value: &Cell) -> Option<Vec<i64>> {
    match value {
        Cell::Ints(numbers) => Some(numbers.clone()),
        Cell::Texts(items) => items.iter().map(|item| item.parse().ok()).collect(),
        Cell::Int(number) => Some(vec![*number]),
        Cell::Text(text) => {
            let items = text.split([' ', ',', '{', '}']).filter(|item| !item.is_empty());
            items.map(|item| item.parse().ok()).collect()
        }
        _ => None,
    }
}

fn without_arguments(value: &Cell) -> Cell {
    match value {
        Cell::Text(text) => text.split('(').next().unwrap_or_default().trim().into(),
        other => other.clone(),
    }
}

/// OID of the function that a name or number stands for.
fn regproc(view: &CatalogView, value: &Cell) -> Result<Option<u32>> {
    if let Some(oid) = value.oid() {
        return Ok(Some(oid));
    }
    let Some(name) = value.text() else { return Ok(None) };
    if name == "-" {
        return Ok(Some(0));
    }
    let parts = super::view::split_name(&name).unwrap_or_default();
    let schemas: Vec<String> = match parts.as_slice() {
        [schema, _] => vec![schema.clone()],
        _ => view.effective_path(),
    };
    let name = parts.last().cloned().unwrap_or_default();
    for schema in schemas {
        let own: Vec<u32> = view.catalog.functions(&schema, &name).map(|object| object.id.0).collect();
        let found = if schema == "pg_catalog" { built_in_of(&name) } else { own };
        match found.as_slice() {
            [] => {}
            [one] => return Ok(Some(*one)),
            _ => return Err(Error::new("42725", format!("more than one function named \"{name}\""))),
        }
    }
    Err(Error::new("42883", format!("function \"{name}\" does not exist")))
}

fn regproc_name(view: &CatalogView, value: &Cell, arguments: bool) -> Result<Option<String>> {
    // PostgreSQL's own rows name the functions of types and operators already.
    if let (Cell::Text(text), false) = (value, arguments)
        && text.parse::<u32>().is_err()
        && (text == "-" || !text.contains('.'))
        && routines::functions(view).all(|(object, _)| object.name != *text)
    {
        return Ok(Some(text.clone()));
    }
    let value = if arguments { without_arguments(value) } else { value.clone() };
    let Some(oid) = regproc(view, &value)? else { return Ok(None) };
    if oid == 0 {
        return Ok(Some("-".into()));
    }
    if let Some((object, function)) = routines::function(view, oid) {
        let name = millstream_sql::quote_ident(&object.name);
        let shown = match routines::is_visible(view, object, function) {
            true => name,
            false => format!("{}.{name}", millstream_sql::quote_ident(&view.schema_name(object.schema))),
        };
        return Ok(Some(if arguments { format!("{shown}({})", function.argument_types()) } else { shown }));
    }
    let name = built_in().iter().find(|(known, _)| *known == oid).map(|(_, name)| name.clone());
    Ok(Some(match name {
        Some(name) if arguments => {
            format!("{name}({})", super::functions::signature_arguments(oid).unwrap_or_default())
        }
        Some(name) => name,
        None => oid.to_string(),
    }))
}

/// PostgreSQL's functions as (OID, name).
fn built_in() -> &'static [(u32, String)] {
    static NAMES: OnceLock<Vec<(u32, String)>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let rows = two_columns("pg_proc", "oid", "proname");
        rows.into_iter().filter_map(|(oid, name)| Some((oid.oid()?, name.text()?))).collect()
    })
}

fn built_in_of(name: &str) -> Vec<u32> {
    static BY_NAME: OnceLock<HashMap<&'static str, Vec<u32>>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| {
        let mut all: HashMap<&'static str, Vec<u32>> = HashMap::new();
        built_in().iter().for_each(|(oid, name)| all.entry(name).or_default().push(*oid));
        all
    });
    by_name.get(name).cloned().unwrap_or_default()
}

/// Name of an operator, with the types of its sides.
fn operator_name(value: &Cell, sides: bool) -> Option<String> {
    static NAMES: OnceLock<HashMap<u32, (String, String)>> = OnceLock::new();
    let oid = match value {
        Cell::Text(text) if text.parse::<u32>().is_err() => return Some(text.clone()),
        other => other.oid()?,
    };
    if oid == 0 {
        return Some("0".into());
    }
    let names = NAMES.get_or_init(|| {
        let name = two_columns("pg_operator", "oid", "oprname");
        let types = two_columns("pg_operator", "oprleft", "oprright");
        let side = |cell: &Cell| match cell.oid() {
            Some(0) | None => "NONE".to_string(),
            Some(oid) => types::format_type(oid, None).unwrap_or_else(|| oid.to_string()),
        };
        name.into_iter()
            .zip(types)
            .filter_map(|((oid, name), (left, right))| {
                Some((oid.oid()?, (name.text()?, format!("({},{})", side(&left), side(&right)))))
            })
            .collect()
    });
    match names.get(&oid) {
        Some((name, types)) if sides => Some(format!("{name}{types}")),
        Some((name, _)) => Some(name.clone()),
        None => Some(oid.to_string()),
    }
}

fn two_columns(table: &str, first: &str, second: &str) -> Vec<(Cell, Cell)> {
    let read = || {
        let rows = fixed::all().ok()?.get(table)?;
        let (a, b) = (rows.column_by_name(first)?, rows.column_by_name(second)?);
        let cell = |column: &ArrayRef, i| ScalarValue::try_from_array(column, i).map_or(Cell::Null, |v| Cell::of(&v));
        Some((0..rows.num_rows()).map(|i| (cell(a, i), cell(b, i))).collect())
    };
    read().unwrap_or_default()
}
