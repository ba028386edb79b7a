//! The names of output columns, PostgreSQL's instead of DataFusion's expression text.
//!
//! DataFusion wants the columns of a projection to have distinct names; PostgreSQL lets `SELECT 1, 1` pass. Where names
//! repeat they get a hidden suffix here, which [`visible`] takes off again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, TableAliasColumnDef,
    TableFactor, TrimWhereField, TypedString, UnaryOperator, Value, VisitMut, VisitorMut,
};

use super::dml::select_columns;
use crate::functions::json;
use crate::types::{internal_name, normalize, sql_type};

/// Between a repeated name and its number; no client can type it by accident.
pub(super) const HIDDEN: char = '\u{1}';

/// The name as the client sees it.
pub(crate) fn visible(name: &str) -> &str {
    name.split(HIDDEN).next().unwrap_or(name)
}

/// Gives every unnamed expression in a select list its name, in all queries within.
pub(crate) fn name_columns(query: &mut Query) {
    let _ = query.visit(&mut Name);
}

struct Name;

impl VisitorMut for Name {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        whole_tables(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        name_items(&mut select.projection);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::UNNEST { alias: Some(alias), array_exprs, .. } = factor
            && array_exprs.len() == 1
            && alias.columns.is_empty()
        {
            // The one column of a function has the name that the function is given.
            alias.columns = vec![TableAliasColumnDef { name: alias.name.clone(), data_type: None }];
        }
        ControlFlow::Continue(())
    }

    /// What a subquery puts out has no name that a query could use; that of a column inside it would be in the way where
    /// the subquery is correlated by that column.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let query = match expr {
            Expr::InSubquery { subquery, .. } => subquery,
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => match right.as_mut() {
                Expr::Subquery(query) => query,
                _ => return ControlFlow::Continue(()),
            },
            _ => return ControlFlow::Continue(()),
        };
        if let SetExpr::Select(select) = query.body.as_mut() {
            for (n, item) in select.projection.iter_mut().enumerate() {
                if let SelectItem::UnnamedExpr(value) = item
                    && !is_column(value)
                {
                    let alias = Ident::with_quote('"', format!("__value_{n}"));
                    *item = SelectItem::ExprWithAlias { expr: value.clone(), alias };
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// DataFusion would read AT TIME ZONE as a cast that forgets the zone.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        bound_tightly(expr);
        at_time_zone(expr);
        clock_interval(expr);
        escaped_pattern(expr);
        rows_of_series(expr);
        gathered_json(expr);
        ControlFlow::Continue(())
    }
}

/// Names the items of one select list.
pub(crate) fn name_items(items: &mut [SelectItem]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for item in items.iter() {
        if let Some(name) = item_name(item) {
            *seen.entry(name).or_default() += 1;
        }
    }
    let mut number: BTreeMap<String, usize> = BTreeMap::new();
    for item in items.iter_mut() {
        let Some(name) = item_name(item) else { continue };
        let repeated = seen.get(&name).is_some_and(|n| *n > 1);
        let alias = if repeated {
            let n = number.entry(name.clone()).or_default();
            *n += 1;
            format!("{name}{HIDDEN}{n}")
        } else {
            name
        };
        let expr = match item {
            SelectItem::UnnamedExpr(expr) if !repeated && is_column(expr) => continue,
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => expr.clone(),
            _ => continue,
        };
        *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', alias) };
    }
}

/// Gives the named items beside a star in the outermost select hidden suffixes; `false` if there is no star or no item.
pub(crate) fn hide_beside_star(query: &mut Query) -> bool {
    let SetExpr::Select(select) = query.body.as_mut() else { return false };
    let is_star = |i: &SelectItem| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    if !select.projection.iter().any(is_star) {
        return false;
    }
    let mut hidden = false;
    for (n, item) in select.projection.iter_mut().enumerate() {
        let Some(name) = item_name(item) else { continue };
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            let alias = Ident::with_quote('"', format!("{}{HIDDEN}{n}", visible(&name)));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            hidden = true;
        }
    }
    hidden
}

/// What sqlparser gives to the wrong operator: a minus binds more tightly than `^`, and IS DISTINCT FROM than AND and OR.
fn bound_tightly(expr: &mut Expr) {
    /// The first operand of a chain of operators, for `of` of it to take its place.
    fn first(expr: Expr, among: &[BinaryOperator], of: &dyn Fn(Box<Expr>) -> Expr) -> Expr {
        match expr {
            Expr::BinaryOp { left, op, right } if among.contains(&op) => {
                Expr::BinaryOp { left: Box::new(first(*left, among, of)), op, right }
            }
            other => of(Box::new(other)),
        }
    }
    let and_or = [BinaryOperator::And, BinaryOperator::Or];
    let is_chain = |e: &Expr, among: &[BinaryOperator]| matches!(e, Expr::BinaryOp { op, .. } if among.contains(op));
    match expr {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr: power } if is_chain(power, &[BinaryOperator::PGExp]) => {
            let minus = |operand| Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand };
            *expr = first(power.as_ref().clone(), &[BinaryOperator::PGExp], &minus);
        }
        Expr::IsDistinctFrom(left, right) if is_chain(right, &and_or) => {
            let left = left.clone();
            *expr = first(right.as_ref().clone(), &and_or, &|r| Expr::IsDistinctFrom(left.clone(), r));
        }
        Expr::IsNotDistinctFrom(left, right) if is_chain(right, &and_or) => {
            let left = left.clone();
            *expr = first(right.as_ref().clone(), &and_or, &|r| Expr::IsNotDistinctFrom(left.clone(), r));
        }
        _ => {}
    }
}

/// `x AT TIME ZONE z` as `timezone(z, x)`.
fn at_time_zone(expr: &mut Expr) {
    let Expr::AtTimeZone { timestamp, time_zone } = expr else { return };
    *expr = call("timezone", vec![time_zone.as_ref().clone(), timestamp.as_ref().clone()]);
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `TABLE t` as `SELECT * FROM t`.
fn whole_tables(body: &mut SetExpr) {
    match body {
        SetExpr::Table(table) => {
            let parts = table.schema_name.iter().chain(&table.table_name).map(Ident::new);
            *body = *select_columns(&ObjectName::from(parts.collect::<Vec<_>>()), &[]).body;
        }
        SetExpr::SetOperation { left, right, .. } => {
            whole_tables(left);
            whole_tables(right);
        }
        _ => {}
    }
}

/// `generate_series(…)` in an expression gives a row for each of its values.
fn rows_of_series(expr: &mut Expr) {
    let Expr::Function(function) = &*expr else { return };
    match function.name.to_string().to_lowercase().as_str() {
        "generate_series" => *expr = call("unnest", vec![expr.clone()]),
        // What was written around a series is there already.
        "unnest" => {
            if let FunctionArguments::List(list) = &function.args
                && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(inner)))] = list.args.as_slice()
                && inner.name.to_string() == "unnest"
            {
                *expr = Expr::Function(inner.clone());
            }
        }
        _ => {}
    }
}

/// `json_agg(x)` as a list of values that becomes JSON; `gen_random_uuid()` as DataFusion's function, which gives text.
fn gathered_json(expr: &mut Expr) {
    let Expr::Function(function) = &*expr else { return };
    let list = match function.name.to_string().to_lowercase().as_str() {
        "json_agg" => json::LIST,
        "jsonb_agg" => json::LIST_B,
        "gen_random_uuid" => {
            let uuid = Box::new(call("uuid", Vec::new()));
            *expr =
                Expr::Cast { kind: CastKind::Cast, expr: uuid, data_type: DataType::Uuid, array: false, format: None };
            return;
        }
        _ => return,
    };
    let mut gathered = function.clone();
    gathered.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new("array_agg"))]);
    *expr = call(list, vec![Expr::Function(gathered)]);
}

/// A pattern with its own escape character as one with the backslash, and SIMILAR TO as a match with a regular expression.
fn escaped_pattern(expr: &mut Expr) {
    match expr {
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            if let Some(escape) = escape_char.take() {
                **pattern = call("like_escape", vec![pattern.as_ref().clone(), Expr::Value(escape)]);
            }
        }
        Expr::SimilarTo { negated, expr: text, pattern, escape_char } => {
            let escape = escape_char.take().unwrap_or_else(|| Value::SingleQuotedString("\\".into()).into());
            let regex = call("similar_to_escape", vec![pattern.as_ref().clone(), Expr::Value(escape)]);
            let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
            *expr = Expr::Nested(Box::new(Expr::BinaryOp { left: text.clone(), op, right: Box::new(regex) }));
        }
        _ => {}
    }
}

/// `INTERVAL '1 day 02:00'` as a typed string: DataFusion's reader of intervals does not know the clock's
/// and ISO 8601's forms.
fn clock_interval(expr: &mut Expr) {
    // It also takes a minus in front of an interval for a minus in front of its first number.
    if let Expr::UnaryOp { op: UnaryOperator::Minus, expr } = expr {
        return typed_interval(expr, |_| true);
    }
    typed_interval(expr, |text| {
        let is_year_to_month = || text.bytes().all(|b| b.is_ascii_digit() || b == b'-') && text.contains('-');
        text.contains(':') || text.starts_with(['P', 'p']) || is_year_to_month()
    });
}

fn typed_interval(expr: &mut Expr, wanted: fn(&str) -> bool) {
    let Expr::Interval(interval) = expr else { return };
    if let (Expr::Value(value), None) = (interval.value.as_ref(), &interval.leading_field)
        && matches!(&value.value, Value::SingleQuotedString(text) if wanted(text))
    {
        *expr = Expr::TypedString(TypedString {
            data_type: DataType::Interval { fields: None, precision: None },
            value: value.clone(),
            uses_odbc_syntax: false,
        });
    }
}

/// As [`name_columns`] does for the expressions in a query.
pub(crate) fn normalize_expr(expr: &mut Expr) {
    let _ = expr.visit(&mut Name);
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(expr_name(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(normalize(alias)),
        _ => None,
    }
}

/// PostgreSQL's `FigureColname`.
pub(crate) fn expr_name(expr: &Expr) -> String {
    figure(expr).unwrap_or_else(|| "?column?".into())
}

fn figure(expr: &Expr) -> Option<String> {
    Some(match expr {
        Expr::Identifier(ident) => normalize(ident),
        Expr::CompoundIdentifier(idents) => normalize(idents.last()?),
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(Expr::Identifier(field))) => normalize(field),
            _ => figure(root)?,
        },
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => figure(inner)?,
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            figure(expr).or_else(|| type_name(data_type))?
        }
        Expr::TypedString(t) => type_name(&t.data_type)?,
        Expr::Interval(_) => "interval".into(),
        Expr::Function(Function { name: ObjectName(parts), .. }) => normalize(parts.last()?.as_ident()?),
        Expr::Case { else_result, .. } => {
            else_result.as_deref().and_then(figure_strong).unwrap_or_else(|| "case".into())
        }
        Expr::Exists { .. } => "exists".into(),
        Expr::Subquery(query) => subquery_name(query)?,
        Expr::Array(_) => "array".into(),
        Expr::Tuple(_) => "row".into(),
        Expr::Extract { .. } => "extract".into(),
        Expr::Ceil { .. } => "ceil".into(),
        Expr::Floor { .. } => "floor".into(),
        Expr::Position { .. } => "position".into(),
        Expr::Substring { .. } => "substring".into(),
        Expr::Overlay { .. } => "overlay".into(),
        Expr::AtTimeZone { .. } => "timezone".into(),
        Expr::Trim { trim_where, .. } => match trim_where {
            None | Some(TrimWhereField::Both) => "btrim".into(),
            Some(TrimWhereField::Leading) => "ltrim".into(),
            Some(TrimWhereField::Trailing) => "rtrim".into(),
        },
        _ => return None,
    })
}

/// CASE takes a name from its ELSE only if that is a column or function, not from a mere type name.
fn figure_strong(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Cast { expr, .. } => figure_strong(expr),
        Expr::Nested(inner) => figure_strong(inner),
        Expr::TypedString(_) | Expr::Interval(_) => None,
        other => figure(other),
    }
}

fn subquery_name(query: &Query) -> Option<String> {
    match query.body.as_ref() {
        SetExpr::Select(select) => item_name(select.projection.first()?),
        SetExpr::Query(query) => subquery_name(query),
        SetExpr::Values(_) => Some("column1".into()),
        _ => None,
    }
}

fn type_name(data_type: &datafusion_sql::sqlparser::ast::DataType) -> Option<String> {
    use millstream_catalog::SqlType;
    let t = sql_type(data_type).ok()?;
    let item = match &t {
        SqlType::Array(item) => item.as_ref(),
        other => other,
    };
    Some(internal_name(item))
}
