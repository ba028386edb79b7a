//! Client queries over the catalog, whose constructs our planner does not have, as queries that mean the same.
//!
//! Only queries that speak of the catalog are touched. What is rewritten, and why that is right:
//!
//! | construct | becomes | because |
//! |---|---|---|
//! | `pg_catalog.f(x)`, `OPERATOR(pg_catalog.~)` | `f(x)`, `~` | functions and operators have no schemas here |
//! | `x COLLATE pg_catalog.default` | `x` | there is one collation |
//! | `x::regclass`, `::regtype`, … | `pg_regclass_name(x)`, or `pg_regclass_oid(x)` where a number is wanted | an OID that prints as a name is a name or an OID |
//! | `x = ANY (column)` | `pg_any_equal(x, column)` | arrays of the catalog are text here |
//! | a SELECT over a table that never has rows | a SELECT of NULLs without rows | it gives none whatever it computes |
//! | `ARRAY(SELECT …)` | `coalesce((SELECT array_agg(…) …), '{}')` | the same array |
//! | `(SELECT expression FROM … WHERE key = outer)` | `(SELECT max(expression) …)` | the key is unique: there is at most one row |
//! | `EXISTS (…)` in an output column | `(SELECT count(*) …) > 0` | our planner has EXISTS in conditions only |

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    Ident, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier,
    TableFactor, Value, Values, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::{absent, fixed, idioms, tables};

/// Types of OIDs that print as names.
const REG_TYPES: [&str; 8] =
    ["regclass", "regtype", "regnamespace", "regrole", "regproc", "regprocedure", "regoper", "regoperator"];

/// Rewrites a query in place if it speaks of the catalog; says whether it does.
pub fn rewrite(query: &mut Query) -> bool {
    if Visit::visit(query, &mut Speaks).is_continue() {
        return false;
    }
    idioms::rewrite(query);
    let _: ControlFlow<()> = VisitMut::visit(query, &mut Rewrite);
    true
}

/// Breaks at the first sign that a query speaks of the catalog.
struct Speaks;

impl Visitor for Speaks {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        found(catalog_table(relation).is_some())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        found(match expr {
            Expr::Function(f) => (f.name.0.len() > 1 && is_catalog(&f.name)) || idioms::is_idiom(&f.name),
            Expr::Cast { data_type, .. } => reg_type(data_type).is_some(),
            Expr::BinaryOp { op: BinaryOperator::PGCustomBinaryOperator(_), .. } => true,
            _ => false,
        })
    }
}

fn found(yes: bool) -> ControlFlow<()> {
    if yes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        without_empty_branches(query.body.as_mut());
        if let SetExpr::Select(select) = query.body.as_mut()
            && has_no_rows(select)
            && without_rows(select)
        {
            // What it is ordered by is gone with its tables.
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if has_no_rows(select) {
            without_rows(select);
        } else if idioms::asks_for_absent_constraints(select) {
            without_subqueries(select);
        }
        for item in &mut select.projection {
            name_cast(item);
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                let _: ControlFlow<()> = VisitMut::visit(expr, &mut CountExists);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        if relation.0.len() == 1
            && let Some(("pg_catalog", _)) = catalog_table(relation)
        {
            relation.0.insert(0, ObjectNamePart::Identifier(Ident::new("pg_catalog")));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } = expr
            && let Some(query) = array_subquery(right)
            && from_function(query, "unnest").is_some()
        {
            // psql adds the options of a TOAST table, which no table here has.
            *expr = std::mem::replace(left.as_mut(), null());
        }
        if let Some(query) = array_subquery(expr) {
            let query = query.clone();
            if let Some(array) = array_of(query) {
                *expr = array;
            }
        } else if let Expr::Subquery(query) = expr {
            let is_empty = matches!(query.body.as_ref(), SetExpr::Select(select) if has_no_rows(select));
            if let Some(alone) = idioms::expression_alone(query) {
                *expr = Expr::Nested(Box::new(alone));
            } else if is_empty || names_table(query, "pg_collation") {
                // psql asks for collations that differ from their type's; no column has one.
                *expr = null();
            } else if let Some(condition) = at_most_one_row(query) {
                let subquery = std::mem::replace(expr, null());
                *expr = case_when(condition, subquery);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Collate { expr: inner, .. } => *expr = std::mem::replace(inner.as_mut(), null()),
            Expr::BinaryOp { left, op, right } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op
                    && let Some(plain) = plain_operator(parts)
                {
                    *op = plain;
                }
                if is_comparison(op) && !idioms::compares_function_names(left, right) {
                    as_oid(left);
                    as_oid(right);
                }
            }
            Expr::InList { expr: inner, list, .. } => {
                as_oid(inner);
                list.iter_mut().for_each(as_oid);
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. }
                if !matches!(right.as_ref(), Expr::Subquery(_)) =>
            {
                let (left, right) =
                    (std::mem::replace(left.as_mut(), null()), std::mem::replace(right.as_mut(), null()));
                if let Some(any) = call("pg_any_equal", vec![left, right]) {
                    *expr = any;
                }
            }
            Expr::Cast { expr: inner, data_type, .. } => {
                if let Some(name) = reg_type(data_type) {
                    as_oid(inner);
                    let inner = std::mem::replace(inner.as_mut(), null());
                    if let Some(named) = call(&format!("pg_{name}_name"), vec![inner]) {
                        *expr = named;
                    }
                } else if is_number(data_type) {
                    as_oid(inner);
                }
            }
            Expr::Function(f) => strip_schema(f),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Puts a count in the place of each EXISTS.
struct CountExists;

impl VisitorMut for CountExists {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Exists { subquery, negated } = expr
            && let SetExpr::Select(select) = subquery.body.as_mut()
            && let Some(count) = parse("count(*)")
        {
            select.projection = vec![SelectItem::UnnamedExpr(count)];
            let op = if *negated { BinaryOperator::Eq } else { BinaryOperator::Gt };
            let (count, zero) = (Expr::Subquery(subquery.clone()), parse("0").unwrap_or_else(null));
            *expr = Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(count), op, right: Box::new(zero) }));
        }
        ControlFlow::Continue(())
    }
}

/// The schema and name of a catalog table, if that is what the name means. PostgreSQL too looks in `pg_catalog` first.
pub(super) fn catalog_table(name: &ObjectName) -> Option<(&'static str, String)> {
    let parts: Option<Vec<String>> = name.0.iter().map(part).collect();
    match parts?.as_slice() {
        [name] if name.starts_with("pg_") && tables::schema("pg_catalog", name).is_some() => {
            Some(("pg_catalog", name.clone()))
        }
        [schema, name] if schema == "pg_catalog" => Some(("pg_catalog", name.clone())),
        [schema, name] if schema == "information_schema" => Some(("information_schema", name.clone())),
        _ => None,
    }
}

pub(super) fn part(part: &ObjectNamePart) -> Option<String> {
    let ident = part.as_ident()?;
    Some(if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
}

fn is_catalog(name: &ObjectName) -> bool {
    name.0.first().and_then(part).is_some_and(|schema| schema == "pg_catalog")
}

/// `regclass` and kin, with and without their schema.
fn reg_type(data_type: &DataType) -> Option<&'static str> {
    let name = match data_type {
        DataType::Regclass => "regclass".to_string(),
        DataType::Custom(name, modifiers) if modifiers.is_empty() => name.0.last().and_then(part)?,
        _ => return None,
    };
    REG_TYPES.into_iter().find(|t| *t == name)
}

fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Custom(name, _) => name.0.last().and_then(part).is_some_and(|n| n == "oid" || n.starts_with("int")),
        DataType::Int(_) | DataType::Integer(_) | DataType::BigInt(_) | DataType::Int4(_) | DataType::Int8(_) => true,
        _ => false,
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

fn plain_operator(parts: &[String]) -> Option<BinaryOperator> {
    Some(match parts.last()?.as_str() {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        ">" => BinaryOperator::Gt,
        "<=" => BinaryOperator::LtEq,
        ">=" => BinaryOperator::GtEq,
        "||" => BinaryOperator::StringConcat,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        _ => return None,
    })
}

/// Where a number is wanted, `pg_regclass_name(x)` is `pg_regclass_oid(x)`.
fn as_oid(expr: &mut Expr) {
    if let Expr::Function(f) = expr
        && let Some(name) = f.name.0.last().and_then(part)
        && let Some(kind) = name.strip_prefix("pg_reg").and_then(|n| n.strip_suffix("_name"))
    {
        f.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(format!("pg_reg{kind}_oid")))]);
    } else if let Expr::Function(f) = expr
        && let Some(name) = f.name.0.last().and_then(part)
        && name.starts_with("to_reg")
    {
        f.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(format!("pg_{name}_oid")))]);
    }
}

fn strip_schema(f: &mut Function) {
    if f.name.0.len() == 2 && is_catalog(&f.name) {
        f.name.0.remove(0);
        let name = f.name.0.first().and_then(part).unwrap_or_default();
        if ["array_to_string", "array_remove"].contains(&name.as_str()) {
            f.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(format!("pg_{name}")))]);
        }
    }
    let printed = f.name.0.first().and_then(part).is_some_and(|name| name == "pg_array_to_string");
    if let FunctionArguments::List(list) = &mut f.args
        && !printed
    {
        for argument in &mut list.args {
            if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument {
                as_oid(expr);
            }
        }
    }
}

/// Whether a SELECT reads a table that never has rows in a way that leaves it none of its own. An aggregate gives a row
/// even so.
fn has_no_rows(select: &Select) -> bool {
    let is_empty = |factor: &TableFactor| {
        let TableFactor::Table { name, .. } = factor else { return false };
        catalog_table(name).is_some_and(|(schema, name)| schema == "pg_catalog" && never_has_rows(&name))
    };
    let inner =
        |op: &JoinOperator| matches!(op, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_));
    let keeps_left = |op: &JoinOperator| inner(op) || matches!(op, JoinOperator::Left(_) | JoinOperator::LeftOuter(_));
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(e, _) if e.is_empty());
    let reads_nothing = select.from.iter().any(|from| {
        let joins_inner = || from.joins.iter().any(|j| inner(&j.join_operator) && is_empty(&j.relation));
        from.joins.iter().all(|j| keeps_left(&j.join_operator)) && (is_empty(&from.relation) || joins_inner())
    });
    reads_nothing && !grouped && select.having.is_none() && !select.projection.iter().any(aggregates)
}

/// Leaves out the branches of UNION ALL that have no rows: their NULLs would be of no type.
fn without_empty_branches(body: &mut SetExpr) {
    let is_empty = |branch: &SetExpr| matches!(branch, SetExpr::Select(select) if has_no_rows(select));
    if let SetExpr::SetOperation { op: SetOperator::Union, set_quantifier: SetQuantifier::All, left, right } = body {
        without_empty_branches(left);
        without_empty_branches(right);
        let kept = match (is_empty(left), is_empty(right)) {
            (_, true) => left,
            (true, false) => right,
            _ => return,
        };
        *body = std::mem::replace(
            kept.as_mut(),
            SetExpr::Values(Values { explicit_row: false, value_keyword: false, rows: Vec::new() }),
        );
    }
}

fn never_has_rows(name: &str) -> bool {
    fixed::EMPTY.contains(&name) || absent::is_absent(name)
}

fn aggregates(item: &SelectItem) -> bool {
    const AGGREGATES: &[&str] =
        &["count", "sum", "min", "max", "avg", "array_agg", "string_agg", "bool_and", "bool_or", "every"];
    /// Depth in subqueries, whose aggregates are none of this SELECT.
    struct Aggregate(usize);
    impl Visitor for Aggregate {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let Expr::Function(f) = expr else { return ControlFlow::Continue(()) };
            let named = f.name.0.last().and_then(part).is_some_and(|name| AGGREGATES.contains(&name.as_str()));
            found(self.0 == 0 && named)
        }
    }
    item.visit(&mut Aggregate(0)).is_break()
}

/// Makes it a SELECT of NULLs under the same names that gives no rows. False, and nothing done, if the names are unknown.
fn without_rows(select: &mut Select) -> bool {
    let mut names: Vec<String> = Vec::new();
    for item in &select.projection {
        let base = match item {
            SelectItem::UnnamedExpr(expr) => output_name(expr),
            SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
            _ => return false,
        };
        let unique = (2..).map(|n| format!("{base}{n}")).find(|n| !names.contains(n)).unwrap_or_default();
        names.push(if names.contains(&base) { unique } else { base });
    }
    let (Some(null), Some(nothing)) = (parse("CAST(NULL AS text)"), parse("false")) else { return false };
    let item = |name| SelectItem::ExprWithAlias { expr: null.clone(), alias: Ident::with_quote('"', name) };
    select.projection = names.into_iter().map(item).collect();
    select.from.clear();
    select.distinct = None;
    select.selection = Some(nothing);
    true
}

/// Puts NULLs in the place of output columns with subqueries, in a SELECT that has no rows anyway.
fn without_subqueries(select: &mut Select) {
    struct Subqueries;
    impl Visitor for Subqueries {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    for item in &mut select.projection {
        let alias = match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.clone(),
            SelectItem::UnnamedExpr(expr) => Ident::with_quote('"', output_name(expr)),
            _ => continue,
        };
        if Visit::visit(&*item, &mut Subqueries).is_break()
            && let Some(expr) = parse("CAST(NULL AS text)")
        {
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
}

/// The name that PostgreSQL gives an output column.
fn output_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => ident.value.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().map(|p| p.value.clone()).unwrap_or_default(),
        Expr::Function(f) => f.name.0.last().and_then(part).unwrap_or_default(),
        Expr::Nested(inner) => output_name(inner),
        Expr::Case { .. } => "case".into(),
        Expr::Cast { expr, data_type, .. } => match output_name(expr) {
            name if name == "?column?" => match data_type {
                DataType::Custom(name, _) => name.0.last().and_then(part).unwrap_or_default(),
                other => other.to_string().to_lowercase(),
            },
            name => name,
        },
        _ => "?column?".into(),
    }
}

/// Keeps the name of `x::regclass` as an output column, which its rewritten form would not have.
fn name_cast(item: &mut SelectItem) {
    if let SelectItem::UnnamedExpr(expr @ Expr::Cast { .. }) = item {
        let mut inner: &Expr = expr;
        let mut speaks = false;
        while let Expr::Cast { expr, data_type, .. } = inner {
            speaks |= reg_type(data_type).is_some();
            inner = expr;
        }
        if speaks {
            let alias = Ident::with_quote('"', output_name(expr));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

/// The query of `ARRAY(SELECT …)`.
fn array_subquery(expr: &Expr) -> Option<&Query> {
    let Expr::Function(Function { name, args: FunctionArguments::Subquery(query), .. }) = expr else { return None };
    (name.0.last().and_then(part)? == "array").then_some(query)
}

/// What stands for `ARRAY(query)`.
fn array_of(mut query: Query) -> Option<Expr> {
    if let Some(options) = from_function(&query, "pg_options_to_table") {
        return call("pg_options_list", options);
    }
    let empty = call("pg_empty_text_array", Vec::new())?;
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    if has_no_rows(select) {
        return Some(empty);
    }
    let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] = select.projection.as_slice()
    else {
        return None;
    };
    let all = call("array_agg", vec![item.clone()])?;
    select.projection = vec![SelectItem::UnnamedExpr(all)];
    query.order_by = None;
    call("coalesce", vec![Expr::Subquery(Box::new(query)), empty])
}

/// The arguments of the function that a query reads from, if it is the named one.
fn from_function(query: &Query, wanted: &str) -> Option<Vec<Expr>> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [from] = select.from.as_slice() else { return None };
    let (name, args) = match &from.relation {
        TableFactor::Table { name, args: Some(args), .. } => (name, &args.args),
        TableFactor::Function { name, args, .. } => (name, args),
        TableFactor::UNNEST { array_exprs, .. } if wanted == "unnest" => return Some(array_exprs.clone()),
        _ => return None,
    };
    if name.0.last().and_then(part)? != wanted {
        return None;
    }
    let expr = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    args.iter().map(expr).collect()
}

fn names_table(query: &Query, wanted: &str) -> bool {
    struct Names<'a>(&'a str);
    impl Visitor for Names<'_> {
        type Break = ();

        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            found(catalog_table(relation).is_some_and(|(_, name)| name == self.0))
        }
    }
    query.visit(&mut Names(wanted)).is_break()
}

/// Tells the planner that a scalar subquery over the catalog gives at most one row. Returns the conditions that speak of
/// outer tables alone, taken out of it: the planner can only decorrelate those that compare with its own.
fn at_most_one_row(query: &mut Query) -> Option<Expr> {
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(e, _) if e.is_empty());
    if grouped || select.from.is_empty() || select.projection.iter().any(aggregates) || query.limit_clause.is_some() {
        return None;
    }
    if let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] =
        select.projection.as_mut_slice()
        && let Some(one) = call("max", vec![item.clone()])
    {
        *item = one;
    } else {
        return None;
    }
    let own: Vec<String> = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|j| &j.relation)))
        .filter_map(table_alias)
        .collect();
    let mut conditions = Vec::new();
    conjuncts(select.selection.take()?, &mut conditions);
    let (outer, inner): (Vec<_>, Vec<_>) = conditions.into_iter().partition(|c| is_outer(c, &own));
    select.selection = inner.into_iter().reduce(and);
    outer.into_iter().reduce(and)
}

fn table_alias(factor: &TableFactor) -> Option<String> {
    let TableFactor::Table { name, alias, .. } = factor else { return None };
    match alias {
        Some(alias) => Some(alias.name.value.to_lowercase()),
        None => name.0.last().and_then(part),
    }
}

fn conjuncts(expr: Expr, out: &mut Vec<Expr>) {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(*left, out);
            conjuncts(*right, out);
        }
        other => out.push(other),
    }
}

fn and(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) }
}

/// Whether all columns of a condition are qualified by tables that are not among `own`.
fn is_outer(condition: &Expr, own: &[String]) -> bool {
    struct OfOwn<'a>(&'a [String], usize);
    impl Visitor for OfOwn<'_> {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            self.1 += usize::from(matches!(expr, Expr::CompoundIdentifier(_)));
            found(match expr {
                Expr::CompoundIdentifier(parts) => self.0.contains(&parts[0].value.to_lowercase()),
                Expr::Identifier(_) | Expr::Subquery(_) | Expr::Exists { .. } => true,
                _ => false,
            })
        }
    }
    let mut visitor = OfOwn(own, 0);
    condition.visit(&mut visitor).is_continue() && visitor.1 > 0
}

/// `CASE WHEN condition THEN result END`.
fn case_when(condition: Expr, result: Expr) -> Expr {
    let Some(Expr::Case { case_token, end_token, .. }) = parse("CASE WHEN true THEN 1 END") else { return result };
    let conditions = vec![CaseWhen { condition, result }];
    Expr::Case { case_token, end_token, operand: None, conditions, else_result: None }
}

/// `name(args)`.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Option<Expr> {
    let mut expr = parse(&format!("{name}()"))?;
    if let Expr::Function(Function { args: FunctionArguments::List(list), .. }) = &mut expr {
        list.args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    }
    Some(expr)
}

pub(super) fn parse(text: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(text).ok()?.parse_expr().ok()
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Statement;

    use super::*;

    fn rewritten(sql: &str) -> String {
        let Statement::Query(mut query) = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0) else {
            panic!("not a query")
        };
        rewrite(&mut query);
        query.to_string()
    }

    #[test]
    fn queries_of_users_are_left_alone() {
        for sql in [
            "SELECT (SELECT a FROM t WHERE b = u.b) FROM u",
            "SELECT EXISTS (SELECT 1 FROM t) FROM pg_mine",
            "SELECT 1 = ANY(xs) FROM t",
        ] {
            assert_eq!(rewritten(sql), sql);
        }
    }

    #[test]
    fn casts_to_names_of_objects_are_names_or_numbers() {
        assert_eq!(rewritten("SELECT 'v'::pg_catalog.regclass::pg_catalog.oid"), {
            "SELECT pg_regclass_oid('v')::pg_catalog.oid AS \"regclass\""
        });
        assert_eq!(
            rewritten("SELECT c.oid::regclass FROM pg_class c WHERE c.oid = 't'::regclass"),
            "SELECT pg_regclass_name(c.oid) AS \"oid\" FROM pg_catalog.pg_class c WHERE c.oid = pg_regclass_oid('t')"
        );
    }

    #[test]
    fn a_select_over_what_is_always_empty_has_no_rows() {
        assert_eq!(
            rewritten("SELECT p.polname, 'x', 'y' FROM pg_policy p, pg_class c ORDER BY c.relname"),
            "SELECT CAST(NULL AS TEXT) AS \"polname\", CAST(NULL AS TEXT) AS \"?column?\", \
             CAST(NULL AS TEXT) AS \"?column?2\" WHERE false"
        );
        let counted = "SELECT count(*) FROM pg_catalog.pg_policy";
        assert_eq!(rewritten(counted), counted);
        let outer = "SELECT c.relname FROM pg_catalog.pg_class AS c LEFT JOIN pg_catalog.pg_policy AS p ON true";
        assert_eq!(rewritten(outer).replace(" AS ", " "), outer.replace(" AS ", " "));
    }
}
