//! Idioms of catalog queries that are put into plainer words before [`mod@super::rewrite`] sees them.
//!
//! | construct | becomes | because |
//! |---|---|---|
//! | `pg_catalog.pg_class.oid` | `pg_class.oid` | no other schema has tables of these names |
//! | `c.tableoid` | the OID of the table that `c` stands for | it is the same for all rows |
//! | `unnest(indkey)`, `generate_subscripts(indkey, 1)` | `unnest(pg_vector(indkey))`, `unnest(pg_subscripts(indkey))` | a vector is text here |
//! | `information_schema._pg_expandarray(x)` with its fields `x` and `n` | the same, as two columns | there are no composite rows |
//! | `generate_series(1, array_upper(x, 1))` in FROM | `unnest(pg_subscripts(x))` | its bounds are no constants |
//! | `typreceive != 0` | `typreceive != '-'` | functions of types are written as their names |
//! | `pg_listening_channels()`, `pg_get_keywords()` in FROM | tables of these names | they give rows |

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, GroupByExpr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, Subscript,
    TableFactor, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::rewrite::{call, catalog_table, parse, part};
use super::{activity, types};

/// Columns of numbers that the catalog writes as text.
const VECTORS: [&str; 8] =
    ["i_indoption", "indkey", "indoption", "indclass", "indcollation", "conkey", "confkey", "proargtypes"];

/// Columns of functions, which the catalog writes as names; 0 is written `-`.
const FUNCTION_COLUMNS: [&str; 8] =
    ["typinput", "typoutput", "typreceive", "typsend", "typmodin", "typmodout", "typanalyze", "typsubscript"];

/// Whether a function is one that only queries of the catalog call.
pub fn is_idiom(name: &ObjectName) -> bool {
    matches!(last(name).as_deref(), Some("pg_listening_channels" | "pg_get_keywords" | "_pg_expandarray"))
}

/// Puts the idioms of a query into plainer words.
pub fn rewrite(query: &mut Query) {
    let mut idioms = Idioms { expanded: Vec::new() };
    let _: ControlFlow<()> = VisitMut::visit(query, &mut idioms);
    let _: ControlFlow<()> = VisitMut::visit(query, &mut Fields(idioms.expanded));
}

/// Whether two sides of a comparison are a function's name and a column that has such names.
pub fn compares_function_names(left: &Expr, right: &Expr) -> bool {
    let names =
        |expr: &Expr| matches!(expr, Expr::Function(f) if last(&f.name).is_some_and(|n| n.starts_with("pg_regproc")));
    let column = |expr: &Expr| match expr {
        Expr::Identifier(ident) => ident.value != "oid",
        Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|p| p.value != "oid"),
        _ => false,
    };
    (names(left) && column(right)) || (column(left) && names(right))
}

struct Idioms {
    /// Names under which a SELECT gives `_pg_expandarray(…)` whole.
    expanded: Vec<String>,
}

impl VisitorMut for Idioms {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::UNNEST { array_exprs, .. } = factor {
            for list in array_exprs {
                if column_name(list).is_some_and(|name| VECTORS.contains(&name.as_str())) {
                    let vector = call("pg_vector", vec![list.clone()]);
                    replace(list, vector);
                }
            }
        }
        if let TableFactor::Table { name, args, alias, .. } = factor
            && let Some(arguments) = args
        {
            let function = last(name).unwrap_or_default();
            if let [schema, function] = name.0.as_slice()
                && part(schema).as_deref() == Some("pg_catalog")
                && part(function).as_deref() == Some("generate_series")
            {
                // Functions have no schemas here.
                name.0.remove(0);
            }
            if activity::FUNCTIONS.contains(&function.as_str()) {
                *args = None;
                *name = ObjectName(vec![ident("pg_catalog"), ident(&function)]);
            } else if function == "generate_series"
                && let [
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(first)),
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(upper))),
                ] = arguments.args.as_slice()
                && is_one(first)
                && last(&upper.name).as_deref() == Some("array_upper")
                && let Some(list) = argument(upper)
                && let Some(subscripts) = call("pg_subscripts", vec![list])
            {
                *factor = TableFactor::UNNEST {
                    alias: alias.clone(),
                    array_exprs: vec![subscripts],
                    with_offset: false,
                    with_offset_alias: None,
                    with_ordinality: false,
                };
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for from in &mut select.from {
            list_in_from(&mut from.relation);
        }
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { expr, alias } = item
                && expanded_array(expr).is_some()
            {
                self.expanded.push(alias.value.to_lowercase());
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let mut tables = Vec::new();
        for from in &select.from {
            for factor in std::iter::once(&from.relation).chain(from.joins.iter().map(|j| &j.relation)) {
                if let TableFactor::Table { name, alias, .. } = factor
                    && let Some(("pg_catalog", table)) = catalog_table(name)
                {
                    let name = alias.as_ref().map_or_else(|| table.clone(), |a| a.name.value.to_lowercase());
                    tables.push((name, types::known_relation_oid(&table).unwrap_or_default()));
                }
            }
        }
        let only = select.from.len() == 1 && select.from[0].joins.is_empty();
        let mut visitor = TableOids { tables, only };
        select.projection.iter_mut().for_each(name_tableoid);
        VisitMut::visit(select, &mut visitor)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right } = expr
            && column_name(left).is_some_and(|name| FUNCTION_COLUMNS.contains(&name.as_str()))
            && matches!(right.as_ref(), Expr::Value(value) if matches!(&value.value, Value::Number(n, _) if n == "0"))
        {
            replace(right, parse("'-'"));
        }
        if let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = expr {
            let is_function = |e: &Expr| column_name(e).is_some_and(|name| FUNCTION_COLUMNS.contains(&name.as_str()));
            let is_oid = |e: &Expr| column_name(e).as_deref() == Some("oid");
            let (function, number) = (is_function(left), is_oid(left));
            if function && is_oid(right) {
                let numbered = call("pg_function_oid", vec![left.as_ref().clone()]);
                replace(left, numbered);
            } else if number && is_function(right) {
                let numbered = call("pg_function_oid", vec![right.as_ref().clone()]);
                replace(right, numbered);
            }
        }
        if let Some((vector, index)) = item_of_column(expr)
            && let Some(name) = column_name(&vector).filter(|name| VECTORS.contains(&name.as_str()))
            && let Some(first) = parse(if name.starts_with("con") { "1" } else { "0" })
        {
            let item = call("pg_vector_item", vec![vector, index, first]);
            replace(expr, item);
        }
        if let Expr::CompoundIdentifier(parts) = expr
            && parts.len() == 3
            && matches!(parts[0].value.to_lowercase().as_str(), "pg_catalog" | "information_schema")
        {
            parts.remove(0);
        }
        // A field of an expanded array.
        if let Expr::CompoundFieldAccess { root, access_chain } = expr
            && let Some(list) = expanded_array(root)
            && let [AccessExpr::Dot(Expr::Identifier(field))] = access_chain.as_slice()
        {
            let function = if field.value.eq_ignore_ascii_case("n") { "pg_positions" } else { "pg_vector" };
            replace(expr, unnested(function, list));
        } else if let Some(list) = expanded_array(expr) {
            replace(expr, unnested("pg_vector", list));
        }
        // A list of types, printed as their names.
        if let Expr::Cast { expr: inner, data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)), .. } =
            expr
            && matches!(item.as_ref(), DataType::Custom(name, _) if last(name).as_deref() == Some("regtype"))
        {
            let names = call("pg_regtype_names", vec![inner.as_ref().clone()]);
            replace(expr, names);
        }
        if let Expr::Function(f) = expr
            && f.name.0.len() == 1
            && let Some(name @ ("array_remove" | "array_to_string")) = last(&f.name).as_deref()
            && argument(f).is_some_and(|list| is_text_list(&list))
        {
            f.name = ObjectName(vec![ident("pg_catalog"), ident(name)]);
        }
        if let Expr::Function(f) = expr {
            match last(&f.name).as_deref() {
                Some("pg_listening_channels") => {
                    replace(expr, call("pg_listening_channels_list", Vec::new()).and_then(|l| call("unnest", vec![l])));
                }
                // Of bodies of functions, which have no such character.
                Some("regexp_split_to_table") => {
                    if let FunctionArguments::List(list) = &f.args
                        && let [
                            FunctionArg::Unnamed(FunctionArgExpr::Expr(text)),
                            FunctionArg::Unnamed(FunctionArgExpr::Expr(pattern)),
                        ] = list.args.as_slice()
                        && let (Some(mark), Some(all)) = (parse("chr(1)"), parse("'g'"))
                    {
                        let marked = call("regexp_replace", vec![text.clone(), pattern.clone(), mark.clone(), all]);
                        let parts = marked.and_then(|marked| call("string_to_array", vec![marked, mark]));
                        replace(expr, parts.and_then(|parts| call("unnest", vec![parts])));
                    }
                }
                Some("generate_subscripts") => {
                    let list = argument(f);
                    replace(expr, list.and_then(|list| unnested("pg_subscripts", list)));
                }
                Some("unnest")
                    if argument(f).is_some_and(|list| column_name(&list).as_deref() == Some("proargnames")) =>
                {
                    let names = argument(f).and_then(|list| call("pg_texts", vec![list]));
                    replace(expr, names.and_then(|names| call("unnest", vec![names])));
                }
                Some("unnest") => {
                    let vector = argument(f)
                        .filter(|list| column_name(list).is_some_and(|name| VECTORS.contains(&name.as_str())));
                    replace(expr, vector.and_then(|list| unnested("pg_vector", list)));
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

/// `(keys).x` of a column `keys` that is an expanded array: its numbers are all that is kept of it.
struct Fields(Vec<String>);

impl VisitorMut for Fields {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundFieldAccess { root, access_chain } = expr
            && let [AccessExpr::Dot(Expr::Identifier(field))] = access_chain.as_slice()
            && field.value.eq_ignore_ascii_case("x")
        {
            let mut inner = root.as_ref();
            while let Expr::Nested(nested) = inner {
                inner = nested;
            }
            if column_name(inner).is_some_and(|name| self.0.contains(&name)) {
                *expr = inner.clone();
            }
        }
        ControlFlow::Continue(())
    }
}

/// Puts OIDs in the place of `tableoid`.
struct TableOids {
    tables: Vec<(String, u32)>,
    /// Whether there is one table only, whose name may be left out.
    only: bool,
}

impl VisitorMut for TableOids {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let oid = match expr {
            Expr::Identifier(ident) if self.only && ident.value.eq_ignore_ascii_case("tableoid") => {
                self.tables.first().map(|(_, oid)| *oid)
            }
            Expr::CompoundIdentifier(parts)
                if parts.last().is_some_and(|p| p.value.eq_ignore_ascii_case("tableoid")) =>
            {
                let table = parts[parts.len() - 2].value.to_lowercase();
                self.tables.iter().find(|(name, _)| *name == table).map(|(_, oid)| *oid)
            }
            _ => None,
        };
        replace(expr, oid.and_then(|oid| parse(&format!("CAST({oid} AS oid)"))));
        ControlFlow::Continue(())
    }
}

/// Keeps the name of a column `tableoid`, which a number would not have.
fn name_tableoid(item: &mut SelectItem) {
    if let SelectItem::UnnamedExpr(expr) = item
        && column_name(expr).as_deref() == Some("tableoid")
    {
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new("tableoid") };
    }
}

/// The column and the index of `t.column[index]` or `(t.column)[index]`.
fn item_of_column(expr: &Expr) -> Option<(Expr, Expr)> {
    let Expr::CompoundFieldAccess { root, access_chain } = expr else { return None };
    let mut inner = root.as_ref();
    while let Expr::Nested(nested) = inner {
        inner = nested;
    }
    match (inner, access_chain.as_slice()) {
        (column, [AccessExpr::Subscript(Subscript::Index { index })]) => Some((column.clone(), index.clone())),
        (
            Expr::Identifier(table),
            [AccessExpr::Dot(Expr::Identifier(column)), AccessExpr::Subscript(Subscript::Index { index })],
        ) => Some((Expr::CompoundIdentifier(vec![table.clone(), column.clone()]), index.clone())),
        _ => None,
    }
}

/// `string_to_array(…) AS s` in FROM is a row of one column.
fn list_in_from(factor: &mut TableFactor) {
    let TableFactor::Table { name, args: Some(args), alias: Some(alias), .. } = &*factor else { return };
    if last(name).as_deref() != Some("string_to_array") || !alias.columns.is_empty() {
        return;
    }
    let arguments: Vec<String> = args.args.iter().map(ToString::to_string).collect();
    let text = format!("SELECT string_to_array({}) AS {}", arguments.join(", "), alias.name);
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(&text).and_then(|mut parser| parser.parse_query());
    if let Ok(subquery) = parsed {
        *factor = TableFactor::Derived { lateral: false, subquery, alias: Some(alias.clone()), sample: None };
    }
}

/// The expression of `(SELECT expression)`.
pub fn expression_alone(query: &Query) -> Option<Expr> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let bare = select.from.is_empty()
        && select.selection.is_none()
        && select.having.is_none()
        && select.distinct.is_none()
        && query.with.is_none()
        && query.limit_clause.is_none()
        && matches!(&select.group_by, GroupByExpr::Expressions(e, _) if e.is_empty());
    match select.projection.as_slice() {
        [
            SelectItem::UnnamedExpr(expr @ Expr::Function(f))
            | SelectItem::ExprWithAlias { expr: expr @ Expr::Function(f), .. },
        ] if bare && last(&f.name).is_some_and(|name| name.starts_with("pg_get_")) => Some(expr.clone()),
        _ => None,
    }
}

/// Whether it is one of the catalog's lists of texts, which are text here, perhaps with items removed.
fn is_text_list(expr: &Expr) -> bool {
    const LISTS: [&str; 8] = [
        "reloptions",
        "attoptions",
        "attfdwoptions",
        "spcoptions",
        "fdwoptions",
        "srvoptions",
        "proconfig",
        "rolconfig",
    ];
    match expr {
        Expr::Function(f) => {
            matches!(last(&f.name).as_deref(), Some("array_remove" | "pg_array_remove"))
                && argument(f).is_some_and(|list| is_text_list(&list))
        }
        other => column_name(other).is_some_and(|name| LISTS.contains(&name.as_str())),
    }
}

/// Whether a SELECT asks for constraints of a kind that there are none of: foreign keys, exclusions, triggers.
pub fn asks_for_absent_constraints(select: &Select) -> bool {
    fn asks(condition: &Expr) -> bool {
        match condition {
            Expr::Nested(inner) => asks(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => asks(left) || asks(right),
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let mut value = right.as_ref();
                while let Expr::Cast { expr, .. } = value {
                    value = expr;
                }
                let kind = match value {
                    Expr::Value(value) => value.value.clone().into_string(),
                    _ => None,
                };
                column_name(left).as_deref() == Some("contype")
                    && kind.is_some_and(|kind| ["f", "x", "t"].contains(&kind.as_str()))
            }
            _ => false,
        }
    }
    select.selection.as_ref().is_some_and(asks)
}

/// The name of a column, without what it is of.
fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(ident.value.to_lowercase()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|p| p.value.to_lowercase()),
        _ => None,
    }
}

/// The argument of `_pg_expandarray(…)`.
fn expanded_array(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Nested(inner) => expanded_array(inner),
        Expr::Function(f) if last(&f.name).as_deref() == Some("_pg_expandarray") => argument(f),
        _ => None,
    }
}

/// `unnest(function(list))`.
fn unnested(function: &str, list: Expr) -> Option<Expr> {
    call("unnest", vec![call(function, vec![list])?])
}

/// The first argument of a call.
fn argument(f: &Function) -> Option<Expr> {
    let FunctionArguments::List(list) = &f.args else { return None };
    match list.args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn is_one(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(&value.value, Value::Number(n, _) if n == "1"))
}

fn replace(expr: &mut Expr, by: Option<Expr>) {
    if let Some(by) = by {
        *expr = by;
    }
}

fn last(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(part)
}

fn ident(name: &str) -> ObjectNamePart {
    ObjectNamePart::Identifier(Ident::new(name))
}
