//! The functions of `pg_catalog` that speak of the catalog: names of types, definitions, visibility, privileges.
//!
//! Each is bound to the [`CatalogView`] of the statement that calls it. Arguments are taken as they come: OIDs as numbers or
//! as text, as psql sends them.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use millstream_catalog::privilege::Class;
use millstream_catalog::types::field_ref;
use millstream_catalog::{ObjectId, SqlType};
use millstream_sql::{current_definition, function_arguments, quote_ident};

use super::relations::index_definition;
use super::rows::Cell;
use super::view::{CatalogView, DATABASE_OID, OidOf};
use super::{fixed, privileges, routines, server, types};
use crate::error::{Error, Result, sqlstate};

/// A function of the catalog.
pub(super) struct Function {
    pub(super) name: &'static str,
    returns: SqlType,
    body: fn(&CatalogView, &[Cell]) -> Result<Cell>,
}

/// The functions by name.
fn known() -> &'static HashMap<&'static str, Function> {
    static KNOWN: OnceLock<HashMap<&'static str, Function>> = OnceLock::new();
    KNOWN.get_or_init(|| list().into_iter().map(|f| (f.name, f)).collect())
}

/// Whether [`lookup`] has a function of that name.
pub fn is_known(name: &str) -> bool {
    known().contains_key(name)
}

/// The names that [`lookup`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    known().keys().copied()
}

/// The function of that name, speaking of this view.
pub fn lookup(name: &str, view: &Arc<CatalogView>) -> Option<Arc<ScalarUDF>> {
    let function = known().get(name)?;
    let signature = Signature::new(
        TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]),
        Volatility::Stable,
    );
    Some(Arc::new(ScalarUDF::new_from_impl(Bound { function, view: view.clone(), signature })))
}

/// Shorthand of [`list`].
pub(super) fn f(name: &'static str, returns: SqlType, body: fn(&CatalogView, &[Cell]) -> Result<Cell>) -> Function {
    Function { name, returns, body }
}

fn list() -> Vec<Function> {
    use SqlType::{Bool, Int4, Int8, Oid, Text};
    let texts = || SqlType::Array(Box::new(SqlType::Text));
    let mut all = vec![
        f("format_type", Text, |_, a| {
            let Some(oid) = arg(a, 0).oid() else { return Ok(Cell::Null) };
            let typmod = arg(a, 1).int().and_then(|m| i32::try_from(m).ok());
            let name = types::format_type(oid, typmod).or_else(|| postgresql_type(oid));
            Ok(name.unwrap_or_else(|| "???".into()).into())
        }),
        f("pg_backend_pid", Int4, |view, _| Ok(view.process_id.into())),
        f("pg_get_userbyid", SqlType::Name, |view, a| {
            let Some(oid) = arg(a, 0).oid() else { return Ok(Cell::Null) };
            let unknown = || format!("unknown (OID={oid})");
            Ok(view.role_name(oid).map_or_else(unknown, str::to_string).into())
        }),
        f("pg_get_expr", Text, |_, a| Ok(arg(a, 0).clone())),
        f("pg_get_viewdef", Text, |view, a| {
            let relation = match arg(a, 0).oid() {
                Some(oid) => view.relation(oid),
                None => arg(a, 0).text().and_then(|name| view.find(&name)),
            };
            Ok(relation.and_then(|r| view.definition(&r)).into())
        }),
        f("pg_get_indexdef", Text, |view, a| {
            let Some(OidOf::KeyIndex(oid) | OidOf::Relation(oid)) = arg(a, 0).oid().map(OidOf::new) else {
                return Ok(Cell::Null);
            };
            let Some(relation) = view.relation(oid) else { return Ok(Cell::Null) };
            let column = arg(a, 1).int().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
            Ok(match column {
                None => index_definition(view, &relation).into(),
                Some(n) if relation.index().is_some() => {
                    relation.columns.get(n - 1).map(|c| quote_ident(&c.name)).into()
                }
                Some(n) => {
                    let position = relation.primary_key().get(n - 1);
                    position.map(|i| quote_ident(&relation.columns[*i].name)).into()
                }
            })
        }),
        f("pg_get_constraintdef", Text, |view, a| {
            let definition = match arg(a, 0).oid().map(OidOf::new) {
                Some(OidOf::KeyConstraint(table)) => {
                    view.relation(table).map(|r| format!("PRIMARY KEY ({})", r.key_columns()))
                }
                Some(OidOf::Check(table, i)) => view.relation(table).and_then(|r| {
                    let (_, _, text) = r.checks().get(i).copied()?;
                    Some(format!("CHECK ({text})"))
                }),
                _ => None,
            };
            Ok(definition.into())
        }),
        f("obj_description", Text, |view, a| {
            let Some(oid) = arg(a, 0).oid() else { return Ok(Cell::Null) };
            let other = || view.catalog.get(ObjectId(oid)).and_then(|o| o.comment.clone());
            Ok(match arg(a, 1).text().as_deref() {
                Some("pg_class") => view.relation(oid).and_then(|r| r.comment).into(),
                Some("pg_namespace" | "pg_proc") => other().into(),
                None => view.relation(oid).and_then(|r| r.comment).or_else(other).into(),
                Some(_) => Cell::Null,
            })
        }),
        f("col_description", Text, |view, a| {
            let relation = arg(a, 0).oid().and_then(|oid| view.relation(oid));
            let number = arg(a, 1).int().and_then(|n| usize::try_from(n - 1).ok());
            let comment = relation.zip(number).and_then(|(r, n)| r.columns.get(n)?.comment.clone());
            Ok(comment.into())
        }),
        f("pg_table_is_visible", Bool, |view, a| {
            let relation = match arg(a, 0).oid().map(OidOf::new) {
                Some(OidOf::Relation(oid) | OidOf::KeyIndex(oid)) => view.relation(oid),
                _ => None,
            };
            Ok(relation.map(|r| view.is_visible(&r)).into())
        }),
        f("current_setting", Text, |view, a| {
            let Some(name) = arg(a, 0).text() else { return Ok(Cell::Null) };
            let setting = view.settings.iter().find(|s| s.name.eq_ignore_ascii_case(&name));
            match setting {
                Some(setting) => Ok(setting.value.clone().into()),
                None if *arg(a, 1) == Cell::Bool(true) => Ok(Cell::Null),
                None => Err(Error::new("42704", format!("unrecognized configuration parameter \"{name}\""))),
            }
        }),
        f("current_schemas", texts(), |view, a| {
            let implicit = *arg(a, 0) == Cell::Bool(true);
            let path = if implicit { view.effective_path() } else { view.search_path.clone() };
            Ok(path.into_iter().filter(|s| view.catalog.schema(s).is_ok()).collect::<Vec<_>>().into())
        }),
        f("pg_encoding_to_char", SqlType::Name, |_, a| {
            Ok((arg(a, 0).int() == Some(i64::from(server::UTF8))).then_some("UTF8").into())
        }),
        f("pg_char_to_encoding", Int4, |_, a| {
            let is_utf8 = arg(a, 0).text().is_some_and(|n| n.eq_ignore_ascii_case("utf8") || n == "UTF-8");
            Ok(if is_utf8 { server::UTF8 } else { -1 }.into())
        }),
        f("getdatabaseencoding", SqlType::Name, |_, _| Ok("UTF8".into())),
        f("pg_size_pretty", Text, |_, a| Ok(arg(a, 0).int().map(pretty_size).into())),
        f("to_regclass", Text, |view, a| {
            Ok(arg(a, 0).text().and_then(|n| view.find(&n)).map(|r| view.shown_name(&r)).into())
        }),
        f("to_regtype", Text, |_, a| {
            let oid = arg(a, 0).text().and_then(|n| types::type_oid(&n));
            Ok(oid.and_then(|oid| types::format_type(oid, None)).into())
        }),
        f("quote_ident", Text, |_, a| Ok(arg(a, 0).text().map(|s| quote_ident(&s)).into())),
        f("quote_literal", Text, |_, a| Ok(arg(a, 0).text().map(|s| quote_literal(&s)).into())),
        f("pg_get_function_result", Text, |view, a| {
            let Some(oid) = arg(a, 0).oid() else { return Ok(Cell::Null) };
            Ok(match routines::function(view, oid) {
                Some((_, f)) => f.returns.to_string().into(),
                None => signature(oid).and_then(|s| s.result.clone()).into(),
            })
        }),
        f("pg_get_function_arguments", Text, |view, a| Ok(arguments(view, arg(a, 0), true).into())),
        f("pg_get_function_identity_arguments", Text, |view, a| Ok(arguments(view, arg(a, 0), false).into())),
        f("pg_get_functiondef", Text, |view, a| {
            let function = arg(a, 0).oid().and_then(|oid| routines::function(view, oid));
            Ok(function.map(|(object, _)| current_definition(object, &view.catalog)).into())
        }),
        f("pg_function_is_visible", Bool, |view, a| {
            let Some(oid) = arg(a, 0).oid() else { return Ok(Cell::Null) };
            Ok(routines::function(view, oid).is_none_or(|(object, f)| routines::is_visible(view, object, f)).into())
        }),
        f("pg_is_in_recovery", Bool, |_, _| Ok(false.into())),
        f("pg_relation_is_publishable", Bool, |_, _| Ok(false.into())),
        f("pg_tablespace_location", Text, |_, _| Ok("".into())),
        // What the rewrite puts in place of constructs of psql's queries.
        f("pg_regclass_oid", Oid, |view, a| Ok(regclass(view, arg(a, 0))?.into())),
        f("pg_regclass_name", Text, |view, a| {
            let Some(oid) = regclass(view, arg(a, 0))? else { return Ok(Cell::Null) };
            Ok(regclass_name(view, oid).into())
        }),
        f("pg_regtype_oid", Oid, |_, a| Ok(regtype(arg(a, 0))?.into())),
        f("pg_regtype_name", Text, |_, a| {
            let Some(oid) = regtype(arg(a, 0))? else { return Ok(Cell::Null) };
            let name = if oid == 0 { Some("-".into()) } else { types::format_type(oid, None) };
            Ok(name.unwrap_or_else(|| oid.to_string()).into())
        }),
        f("pg_regnamespace_oid", Oid, |view, a| Ok(regnamespace(view, arg(a, 0))?.into())),
        f("pg_regnamespace_name", Text, |view, a| {
            let Some(oid) = regnamespace(view, arg(a, 0))? else { return Ok(Cell::Null) };
            let name = view.schema_name(ObjectId(oid));
            Ok(if name.is_empty() { oid.to_string() } else { quote_ident(&name) }.into())
        }),
        f("pg_regrole_oid", Oid, |view, a| Ok(regrole(view, arg(a, 0))?.into())),
        f("pg_regrole_name", Text, |view, a| {
            let Some(oid) = regrole(view, arg(a, 0))? else { return Ok(Cell::Null) };
            Ok(view.role_name(oid).map_or_else(|| oid.to_string(), quote_ident).into())
        }),
        f("pg_array_to_string", Text, |_, a| {
            let (items, separator) = (items(arg(a, 0)), arg(a, 1).text().unwrap_or_default());
            Ok(items.map(|items| items.join(&separator)).into())
        }),
        f("pg_array_remove", Text, |_, a| {
            let removed = arg(a, 1).text();
            let items = items(arg(a, 0)).map(|all| all.into_iter().filter(|i| Some(i) != removed.as_ref()));
            Ok(items.map(|kept| format!("{{{}}}", kept.collect::<Vec<_>>().join(","))).into())
        }),
        f("pg_any_equal", Bool, |_, a| {
            let (value, items) = (arg(a, 0).text(), items(arg(a, 1)));
            Ok(value.zip(items).map(|(value, items)| items.contains(&value)).into())
        }),
        f("pg_empty_text_array", texts(), |_, _| Ok(Vec::<String>::new().into())),
        f("pg_options_list", texts(), |_, a| {
            let shown = |option: String| {
                let (key, value) = option.split_once('=').unwrap_or((&option, ""));
                format!("{} {}", quote_ident(key), quote_literal(value))
            };
            let options = arg(a, 0).text().unwrap_or_default();
            Ok(options.lines().map(|o| shown(o.into())).collect::<Vec<_>>().into())
        }),
    ];
    for name in ["pg_type_is_visible", "pg_operator_is_visible", "pg_collation_is_visible"] {
        all.push(f(name, Bool, |_, a| Ok(arg(a, 0).oid().map(|_| true).into())));
    }
    for name in ["pg_opclass_is_visible", "pg_opfamily_is_visible", "pg_ts_config_is_visible", "pg_ts_dict_is_visible"]
    {
        all.push(f(name, Bool, |_, a| Ok(arg(a, 0).oid().map(|_| true).into())));
    }
    for name in ["has_table_privilege", "has_any_column_privilege"] {
        all.push(f(name, Bool, |view, a| privileges::has(view, a, Class::Relation)));
    }
    // Its column is the argument before the last.
    all.push(f("has_column_privilege", Bool, |view, a| match a {
        [role, relation, _, wanted] => {
            privileges::has(view, &[role.clone(), relation.clone(), wanted.clone()], Class::Relation)
        }
        [relation, _, wanted] => privileges::has(view, &[relation.clone(), wanted.clone()], Class::Relation),
        other => privileges::has(view, other, Class::Relation),
    }));
    all.push(f("has_schema_privilege", Bool, |view, a| privileges::has(view, a, Class::Schema)));
    all.push(f("has_database_privilege", Bool, |view, a| privileges::has(view, a, Class::Database)));
    all.push(f("has_function_privilege", Bool, |view, a| privileges::has(view, a, Class::Function)));
    all.push(f("pg_has_role", Bool, privileges::has_role));
    // Of what there is none of, or one for everybody.
    for name in [
        "has_type_privilege",
        "has_tablespace_privilege",
        "has_sequence_privilege",
        "has_foreign_data_wrapper_privilege",
        "has_server_privilege",
    ] {
        all.push(f(name, Bool, |_, _| Ok(true.into())));
    }
    for name in ["pg_table_size", "pg_relation_size", "pg_total_relation_size", "pg_indexes_size"] {
        all.push(f(name, Int8, |view, a| {
            let oid = regclass(view, arg(a, 0))?;
            Ok(oid.map(|oid| (view.size_of)(ObjectId(oid)).unwrap_or(0) as i64).into())
        }));
    }
    all.push(f("pg_database_size", Int8, |view, a| {
        let ours = match arg(a, 0).oid() {
            Some(oid) => oid == DATABASE_OID,
            None => arg(a, 0).text().as_deref() == Some(millstream_catalog::DEFAULT_DATABASE),
        };
        let total = || view.catalog.objects().filter_map(|o| (view.size_of)(o.id)).sum::<u64>() as i64;
        Ok(ours.then(total).into())
    }));
    // Things that no object here has.
    for name in [
        "pg_get_partkeydef",
        "pg_get_ruledef",
        "pg_get_triggerdef",
        "pg_get_statisticsobjdef_columns",
        "pg_get_function_sqlbody",
        "pg_get_serial_sequence",
        "shobj_description",
    ] {
        all.push(f(name, Text, |_, _| Ok(Cell::Null)));
    }
    all.extend(super::system_functions::list());
    all
}

pub(super) fn arg(args: &[Cell], i: usize) -> &Cell {
    args.get(i).unwrap_or(&Cell::Null)
}

/// The arguments of a function, with their defaults or without.
fn arguments(view: &CatalogView, oid: &Cell, defaults: bool) -> Option<String> {
    let oid = oid.oid()?;
    match routines::function(view, oid) {
        Some((object, f)) => Some(function_arguments(object, f, &view.catalog, defaults)),
        None => Some(signature(oid)?.arguments.clone()),
    }
}

/// OID of `'name'::regclass`, `'123'::regclass` or `123::regclass`.
pub(super) fn regclass(view: &CatalogView, value: &Cell) -> Result<Option<u32>> {
    resolve(value, |name| {
        view.find(name)
            .map(|r| r.oid)
            .ok_or_else(|| Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist")))
    })
}

fn regclass_name(view: &CatalogView, oid: u32) -> String {
    let found = match OidOf::new(oid) {
        OidOf::Relation(oid) => view.relation(oid).map(|r| view.shown_name(&r)),
        OidOf::KeyIndex(oid) => view.relation(oid).and_then(|r| r.key_index()).map(|(_, name)| quote_ident(&name)),
        _ => None,
    };
    match found {
        Some(name) => name,
        None if oid == 0 => "-".into(),
        None => oid.to_string(),
    }
}

pub(super) fn regtype(value: &Cell) -> Result<Option<u32>> {
    resolve(value, |name| {
        types::type_oid(name).ok_or_else(|| Error::new("42704", format!("type \"{name}\" does not exist")))
    })
}

pub(super) fn regnamespace(view: &CatalogView, value: &Cell) -> Result<Option<u32>> {
    resolve(value, |name| {
        let parts = super::view::split_name(name).unwrap_or_default();
        Ok(view.catalog.schema(parts.first().map_or(name, String::as_str))?.0)
    })
}

pub(super) fn regrole(view: &CatalogView, value: &Cell) -> Result<Option<u32>> {
    resolve(value, |name| Ok(view.catalog.role(name)?.0.id.0))
}

fn resolve(value: &Cell, by_name: impl Fn(&str) -> Result<u32>) -> Result<Option<u32>> {
    match (value.oid(), value.text()) {
        (Some(oid), _) => Ok(Some(oid)),
        (None, Some(name)) if name == "-" => Ok(Some(0)),
        (None, Some(name)) => by_name(&name).map(Some),
        (None, None) => Ok(None),
    }
}

/// The items of an array, or of a text that stands for one (`{a,b}`).
pub(super) fn items(value: &Cell) -> Option<Vec<String>> {
    match value {
        Cell::Texts(items) => Some(items.clone()),
        Cell::Ints(items) => Some(items.iter().map(ToString::to_string).collect()),
        Cell::Text(s) => Some(array_items(s)),
        _ => None,
    }
}

/// The items of an array's text, which are in quotes where commas are in them.
pub(super) fn array_items(text: &str) -> Vec<String> {
    let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
    let (mut all, mut item, mut quoted, mut escaped, mut any) = (Vec::new(), String::new(), false, false, false);
    for c in inner.chars() {
        match c {
            _ if escaped => {
                item.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => {
                quoted = !quoted;
                any = true;
            }
            ',' if !quoted => {
                if any || !item.is_empty() {
                    all.push(std::mem::take(&mut item));
                }
                any = false;
            }
            // Around items it means nothing.
            c if c.is_whitespace() && !quoted && item.is_empty() => {}
            _ => item.push(c),
        }
    }
    if any || !item.is_empty() {
        all.push(item);
    }
    all
}

pub(super) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// As PostgreSQL's function: the largest unit that leaves less than 10240, rounded half up.
fn pretty_size(bytes: i64) -> String {
    let mut size = bytes;
    let mut unit = "bytes";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        let limit = if unit == "bytes" { 10 * 1024 } else { 10 * 1024 * 2 - 1 };
        if size.abs() < limit {
            break;
        }
        // Between units one more bit is kept, to round by.
        size /= if unit == "bytes" { 512 } else { 1024 };
        unit = next;
    }
    if unit != "bytes" {
        size = (size + size.signum()) / 2;
    }
    format!("{size} {unit}")
}

/// Name of a type that only PostgreSQL has.
fn postgresql_type(oid: u32) -> Option<String> {
    static NAMES: OnceLock<HashMap<u32, String>> = OnceLock::new();
    let load = || {
        let rows = fixed::all().ok()?.get("pg_type")?;
        let (oids, names) = (rows.column_by_name("oid")?, rows.column_by_name("typname")?);
        let cell = |column: &ArrayRef, i| ScalarValue::try_from_array(column, i).map_or(Cell::Null, |v| Cell::of(&v));
        let one = |i| Some((cell(oids, i).oid()?, cell(names, i).text()?));
        Some((0..rows.num_rows()).filter_map(one).collect::<HashMap<_, _>>())
    };
    let name = NAMES.get_or_init(|| load().unwrap_or_default()).get(&oid)?;
    Some(match name.strip_prefix('_') {
        Some(item) => format!("{item}[]"),
        None => name.clone(),
    })
}

/// How a function of PostgreSQL is called.
struct FunctionSignature {
    result: Option<String>,
    arguments: String,
}

fn signature(oid: u32) -> Option<&'static FunctionSignature> {
    static SIGNATURES: OnceLock<HashMap<u32, FunctionSignature>> = OnceLock::new();
    SIGNATURES.get_or_init(|| signatures().unwrap_or_default()).get(&oid)
}

/// The types of the arguments of one of PostgreSQL's functions.
pub(super) fn signature_arguments(oid: u32) -> Option<String> {
    signature(oid).map(|s| s.arguments.replace(", ", ","))
}

fn signatures() -> Option<HashMap<u32, FunctionSignature>> {
    let rows = fixed::all().ok()?.get("pg_proc")?;
    let column = |name: &str| rows.column_by_name(name);
    let cell =
        |column: &ArrayRef, i: usize| ScalarValue::try_from_array(column, i).map_or(Cell::Null, |v| Cell::of(&v));
    let (oids, results) = (column("oid")?, column("prorettype")?);
    let (arguments, sets, kinds) = (column("proargtypes")?, column("proretset")?, column("prokind")?);
    let type_name = |oid: &Cell| {
        let known = oid.oid().and_then(|oid| types::format_type(oid, None));
        known.or_else(|| oid.text()).unwrap_or_default()
    };
    let one = |i: usize| {
        let of_function = match cell(arguments, i) {
            Cell::Texts(oids) => oids,
            Cell::Text(oids) => oids.split([' ', ',', '{', '}']).filter(|s| !s.is_empty()).map(Into::into).collect(),
            _ => Vec::new(),
        };
        let names: Vec<_> = of_function.iter().map(|oid| type_name(&Cell::from(oid.as_str()))).collect();
        let set = if cell(sets, i) == Cell::Bool(true) { "SETOF " } else { "" };
        let result =
            (cell(kinds, i).text().as_deref() != Some("p")).then(|| format!("{set}{}", type_name(&cell(results, i))));
        Some((cell(oids, i).oid()?, FunctionSignature { result, arguments: names.join(", ") }))
    };
    Some((0..rows.num_rows()).filter_map(one).collect())
}

/// A function and the view that it speaks of.
struct Bound {
    function: &'static Function,
    view: Arc<CatalogView>,
    signature: Signature,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function.name)
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.function.name == other.function.name && Arc::ptr_eq(&self.view, &other.view)
    }
}

impl Eq for Bound {}

impl Hash for Bound {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.name.hash(state);
    }
}

impl ScalarUDFImpl for Bound {
    fn name(&self) -> &str {
        self.function.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(self.function.returns.arrow_type())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> datafusion::error::Result<FieldRef> {
        Ok(field_ref(&self.function.returns, self.function.name, true))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let arrays = args.args.iter().map(|a| a.to_array(args.number_rows)).collect::<Result<Vec<_>, _>>()?;
        let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(vec![
            self.function.returns.field(self.function.name, true),
        ]));
        let mut rows = Vec::with_capacity(args.number_rows);
        for i in 0..args.number_rows {
            let cells = arrays.iter().map(|a| Ok(Cell::of(&ScalarValue::try_from_array(a, i)?)));
            let cells = cells.collect::<datafusion::error::Result<Vec<_>>>()?;
            rows.push(vec![(self.function.body)(&self.view, &cells)?]);
        }
        Ok(ColumnarValue::Array(super::rows::batch(&schema, &rows)?.column(0).clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_as_in_postgresql() {
        let shown =
            [0, 10_239, 10_240, 10_240 * 1024, 1_500_000, 10_485_247, 10_485_760_000, -1_500_000].map(pretty_size);
        let expected = ["0 bytes", "10239 bytes", "10 kB", "10 MB", "1465 kB", "10239 kB", "10000 MB", "-1465 kB"]
            .map(String::from);
        assert_eq!(shown, expected);
    }

    #[test]
    fn arrays_are_taken_apart() {
        assert_eq!(array_items("{a,\"b,c\",\"\",\"d\\\"\"}"), ["a", "b,c", "", "d\""]);
        assert_eq!(array_items("{\"p\", \"f\", t}"), ["p", "f", "t"]);
        assert_eq!(array_items("{}"), Vec::<String>::new());
        assert_eq!(array_items("1 2"), ["1 2"]);
    }

    #[test]
    fn functions_of_postgresql_have_signatures() {
        // abs(integer), from PostgreSQL's pg_proc.dat.
        let abs = signature(1397).unwrap();
        assert_eq!((abs.arguments.as_str(), abs.result.as_deref()), ("integer", Some("integer")));
    }
}
