//! Refusal, by name, of every part of a query that no planner consumes.
//!
//! DataFusion drops many fields of sqlparser's tree without a word (`FOR SYSTEM_TIME`, `TABLESAMPLE`, `FOR UPDATE`), which
//! would give a wrong answer. The structs are taken apart without `..`, so that a field that a newer sqlparser adds breaks
//! the build until somebody has decided about it.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    Cte, Distinct, Expr, Function, FunctionArg, FunctionArgumentClause, FunctionArgumentList, FunctionArguments,
    GroupByExpr, Join, JoinConstraint, JoinOperator, LimitClause, ObjectName, OrderBy, OrderByKind, Query, Select,
    SelectFlavor, SelectItem, SetExpr, SetQuantifier, Spanned, TableAlias, TableFactor, TableWithJoins, Value, Visit,
    Visitor, WildcardAdditionalOptions, With,
};

use crate::error::{Result, SqlError};

/// Checks a query and everything in it.
///
/// # Errors
/// 0A000 naming the construct.
pub(crate) fn refuse_unconsumed<V: Visit>(part: &V) -> Result<()> {
    match part.visit(&mut Refuse) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Refuse;

impl Visitor for Refuse {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<SqlError> {
        flow(check_query(query).map_err(|e| e.with_span(query.span())))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<SqlError> {
        flow(check_select(select).map_err(|e| e.with_span(select.span())))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<SqlError> {
        flow(check_factor(factor).map_err(|e| e.with_span(factor.span())))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<SqlError> {
        flow(check_expr(expr).map_err(|e| e.with_span(expr.span())))
    }
}

fn flow(result: Result<()>) -> ControlFlow<SqlError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => ControlFlow::Break(e),
    }
}

/// The one refusal: `what` if `present`.
fn no(present: bool, what: &str) -> Result<()> {
    if present { Err(SqlError::unsupported(format!("{what} is not supported"))) } else { Ok(()) }
}

fn check_query(query: &Query) -> Result<()> {
    let Query { with, body, order_by, limit_clause, fetch, locks, for_clause, settings, format_clause, pipe_operators } =
        query;
    if let Some(With { with_token: _, recursive: _, cte_tables }) = with {
        for Cte { alias, query: _, from, materialized: _, closing_paren_token: _ } in cte_tables {
            no(from.is_some(), "FROM behind a common table expression")?;
            check_alias(Some(alias))?;
        }
    }
    check_body(body)?;
    if let Some(OrderBy { kind, interpolate }) = order_by {
        no(interpolate.is_some(), "INTERPOLATE")?;
        match kind {
            OrderByKind::All(_) => no(true, "ORDER BY ALL")?,
            OrderByKind::Expressions(exprs) => {
                no(exprs.iter().any(|e| e.with_fill.is_some()), "WITH FILL")?;
            }
        }
    }
    match limit_clause {
        None => {}
        Some(LimitClause::LimitOffset { limit: _, offset: _, limit_by }) => no(!limit_by.is_empty(), "LIMIT BY")?,
        Some(LimitClause::OffsetCommaLimit { .. }) => {
            return Err(SqlError::syntax("LIMIT #,# syntax is not supported")
                .with_hint("use separate LIMIT and OFFSET clauses"));
        }
    }
    if let Some(fetch) = fetch {
        no(fetch.percent, "FETCH ... PERCENT")?;
    }
    no(!locks.is_empty(), "FOR UPDATE / FOR SHARE")?;
    no(for_clause.is_some(), "FOR XML / FOR JSON / FOR BROWSE")?;
    no(settings.is_some(), "SETTINGS")?;
    no(format_clause.is_some(), "FORMAT in a query")?;
    no(!pipe_operators.is_empty(), "pipe syntax (|>)")
}

fn check_body(body: &SetExpr) -> Result<()> {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) => Ok(()),
        SetExpr::SetOperation { left, op: _, set_quantifier, right } => {
            match set_quantifier {
                SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None => {}
                SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => {
                    no(true, "UNION BY NAME")?;
                }
            }
            check_body(left)?;
            check_body(right)
        }
        SetExpr::Values(values) => no(values.explicit_row, "ROW in VALUES"),
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            no(true, "a data-modifying statement in WITH")
        }
        SetExpr::Table(_) => Ok(()),
    }
}

/// Window functions come after the rows are chosen. Those of subqueries are their own.
fn no_windows(condition: &Expr, clause: &str) -> Result<()> {
    struct Windows {
        queries: usize,
    }
    impl Visitor for Windows {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.queries += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.queries -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) if function.over.is_some() && self.queries == 0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match condition.visit(&mut Windows { queries: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(SqlError::new("42P20", format!("window functions are not allowed in {clause}"))
            .with_hint("compute it in a subquery, and filter that")),
    }
}

fn check_select(select: &Select) -> Result<()> {
    let Select {
        select_token: _,
        optimizer_hints: _,
        distinct,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from,
        lateral_views,
        prewhere,
        selection,
        connect_by,
        group_by,
        cluster_by,
        distribute_by,
        sort_by,
        having,
        named_window,
        qualify,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = select;
    if let Some(condition) = selection {
        no_windows(condition, "WHERE")?;
    }
    if let Some(condition) = having {
        no_windows(condition, "HAVING")?;
    }
    match distinct {
        None | Some(Distinct::All | Distinct::Distinct | Distinct::On(_)) => {}
    }
    no(select_modifiers.is_some(), "a MySQL modifier of SELECT")?;
    no(top.is_some(), "TOP")?;
    no(exclude.is_some(), "EXCLUDE")?;
    no(into.is_some(), "SELECT INTO").map_err(|e| e.with_hint("use CREATE TABLE ... AS"))?;
    no(!lateral_views.is_empty(), "LATERAL VIEW")?;
    no(prewhere.is_some(), "PREWHERE")?;
    no(!connect_by.is_empty(), "CONNECT BY")?;
    no(!cluster_by.is_empty(), "CLUSTER BY")?;
    no(!distribute_by.is_empty(), "DISTRIBUTE BY")?;
    no(!sort_by.is_empty(), "SORT BY")?;
    // Those of a query are written out before.
    no(!named_window.is_empty(), "WINDOW here")?;
    no(qualify.is_some(), "QUALIFY")?;
    no(value_table_mode.is_some(), "SELECT AS STRUCT / AS VALUE")?;
    match flavor {
        SelectFlavor::Standard => {}
        SelectFlavor::FromFirst | SelectFlavor::FromFirstNoSelect => no(true, "FROM before SELECT")?,
    }
    match group_by {
        GroupByExpr::All(_) => no(true, "GROUP BY ALL")?,
        GroupByExpr::Expressions(_, modifiers) => no(!modifiers.is_empty(), "a modifier of GROUP BY")?,
    }
    for item in projection {
        match item {
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. } => {}
            SelectItem::ExprWithAliases { .. } => no(true, "several aliases of one expression")?,
            SelectItem::QualifiedWildcard(_, options) | SelectItem::Wildcard(options) => check_wildcard(options)?,
        }
    }
    for TableWithJoins { relation: _, joins } in from {
        for Join { relation: _, global, join_operator } in joins {
            no(*global, "GLOBAL JOIN")?;
            check_join(join_operator)?;
        }
    }
    Ok(())
}

fn check_wildcard(options: &WildcardAdditionalOptions) -> Result<()> {
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike,
        opt_exclude,
        opt_except,
        opt_replace,
        opt_rename,
        opt_alias,
    } = options;
    no(opt_ilike.is_some(), "* ILIKE")?;
    no(opt_exclude.is_some(), "* EXCLUDE")?;
    no(opt_except.is_some(), "* EXCEPT")?;
    no(opt_replace.is_some(), "* REPLACE")?;
    no(opt_rename.is_some(), "* RENAME")?;
    no(opt_alias.is_some(), "an alias of *")
}

fn check_join(operator: &JoinOperator) -> Result<()> {
    let constraint = match operator {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c)
        | JoinOperator::CrossJoin(c) => c,
        JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::RightSemi(_) => {
            return no(true, "SEMI JOIN").map_err(|e| e.with_hint("use IN or EXISTS"));
        }
        JoinOperator::Anti(_) | JoinOperator::LeftAnti(_) | JoinOperator::RightAnti(_) => {
            return no(true, "ANTI JOIN").map_err(|e| e.with_hint("use NOT EXISTS"));
        }
        JoinOperator::CrossApply | JoinOperator::OuterApply => return no(true, "APPLY"),
        // `asof` looks at it.
        JoinOperator::AsOf { .. } => return Ok(()),
        JoinOperator::StraightJoin(_) => return no(true, "STRAIGHT_JOIN"),
        JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin => {
            return no(true, "ARRAY JOIN");
        }
    };
    // DataFusion takes the left column for the merged one, also where only the right side has a row.
    let pads_left =
        matches!(operator, JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_));
    if pads_left && matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural) {
        return no(true, "USING or NATURAL with a RIGHT or FULL JOIN")
            .map_err(|e| e.with_hint("write ON, and coalesce() of both columns"));
    }
    match constraint {
        JoinConstraint::On(_) | JoinConstraint::Using(_) | JoinConstraint::Natural | JoinConstraint::None => Ok(()),
    }
}

fn check_alias(alias: Option<&TableAlias>) -> Result<()> {
    let Some(TableAlias { explicit: _, name: _, columns, at }) = alias else { return Ok(()) };
    no(columns.iter().any(|c| c.data_type.is_some()), "a column definition list in an alias")?;
    no(at.is_some(), "AT in an alias")
}

fn check_factor(factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            check_name(name)?;
            check_alias(alias.as_ref())?;
            if let Some(args) = args {
                no(args.settings.is_some(), "SETTINGS")?;
            }
            no(!with_hints.is_empty(), "WITH (...) behind a table")?;
            if let Some(version) = version {
                super::relations::written_version(version)?;
            }
            no(*with_ordinality, "WITH ORDINALITY")?;
            no(!partitions.is_empty(), "PARTITION behind a table")?;
            no(json_path.is_some(), "a JSON path behind a table")?;
            no(sample.is_some(), "TABLESAMPLE")?;
            no(!index_hints.is_empty(), "an index hint")
        }
        TableFactor::Derived { lateral: _, subquery: _, alias, sample } => {
            check_alias(alias.as_ref())?;
            no(sample.is_some(), "TABLESAMPLE")
        }
        TableFactor::Function { lateral, name: _, args: _, with_ordinality, alias } => {
            check_alias(alias.as_ref())?;
            no(*lateral, "LATERAL with a function")?;
            no(*with_ordinality, "WITH ORDINALITY")
        }
        TableFactor::UNNEST { alias, array_exprs: _, with_offset, with_offset_alias, with_ordinality } => {
            check_alias(alias.as_ref())?;
            no(*with_offset || with_offset_alias.is_some(), "WITH OFFSET")?;
            no(*with_ordinality, "WITH ORDINALITY")
        }
        TableFactor::NestedJoin { table_with_joins, alias } => {
            check_alias(alias.as_ref())?;
            for join in &table_with_joins.joins {
                no(join.global, "GLOBAL JOIN")?;
                check_join(&join.join_operator)?;
            }
            Ok(())
        }
        TableFactor::TableFunction { .. } => no(true, "TABLE(...)"),
        TableFactor::JsonTable { .. } | TableFactor::OpenJsonTable { .. } => no(true, "JSON_TABLE"),
        TableFactor::Pivot { .. } => no(true, "PIVOT"),
        TableFactor::Unpivot { .. } => no(true, "UNPIVOT"),
        TableFactor::MatchRecognize { .. } => no(true, "MATCH_RECOGNIZE"),
        TableFactor::XmlTable { .. } => no(true, "XMLTABLE"),
        TableFactor::SemanticView { .. } => no(true, "SEMANTIC_VIEW"),
    }
}

/// sqlparser reads `SELECT FROM WHERE x` as a table named "where".
fn check_name(name: &ObjectName) -> Result<()> {
    const CLAUSES: [&str; 12] = [
        "select",
        "from",
        "where",
        "group",
        "having",
        "order",
        "limit",
        "offset",
        "union",
        "intersect",
        "except",
        "on",
    ];
    match name.0.first().and_then(|part| part.as_ident()) {
        Some(word) if word.quote_style.is_none() && CLAUSES.iter().any(|c| word.value.eq_ignore_ascii_case(c)) => {
            Err(SqlError::syntax(format!("syntax error at or near \"{}\"", word.value)).with_span(word.span))
        }
        _ => Ok(()),
    }
}

fn check_expr(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Function(function) => check_function(function),
        Expr::Cast { format, array, .. } => {
            no(format.is_some(), "CAST ... FORMAT")?;
            no(*array, "CAST ... ARRAY")
        }
        Expr::Like { any, .. } | Expr::ILike { any, .. } => no(*any, "LIKE ANY"),
        Expr::Interval(interval) => {
            no(interval.last_field.is_some(), "an interval range (TO)")?;
            no(
                interval.leading_precision.is_some() || interval.fractional_seconds_precision.is_some(),
                "an interval precision",
            )
        }
        Expr::Trim { trim_characters, .. } => no(trim_characters.is_some(), "TRIM with a comma"),
        Expr::Substring { special: _, shorthand: _, .. } => Ok(()),
        Expr::TypedString(t) => no(t.uses_odbc_syntax, "ODBC syntax"),
        Expr::Value(value) => match &value.value {
            Value::Number(_, long) => no(*long, "an L behind a number"),
            Value::SingleQuotedString(_)
            | Value::DollarQuotedString(_)
            | Value::EscapedStringLiteral(_)
            | Value::Boolean(_)
            | Value::Null
            | Value::Placeholder(_) => Ok(()),
            other => no(true, &format!("the literal {other}")),
        },
        Expr::Collate { .. } => no(true, "COLLATE"),
        Expr::IsNormalized { .. } => no(true, "IS NORMALIZED"),
        Expr::InUnnest { .. } => no(true, "IN UNNEST").map_err(|e| e.with_hint("use = ANY (array)")),
        Expr::RLike { .. } => no(true, "RLIKE").map_err(|e| e.with_hint("use ~")),
        Expr::Convert { .. } => no(true, "CONVERT").map_err(|e| e.with_hint("use CAST")),
        Expr::MatchAgainst { .. } => no(true, "MATCH AGAINST"),
        Expr::OuterJoin(_) => no(true, "the outer join operator (+)"),
        Expr::Prior(_) => no(true, "PRIOR"),
        Expr::Lambda(_) => no(true, "a lambda expression"),
        Expr::MemberOf(_) => no(true, "MEMBER OF"),
        Expr::Dictionary(_) | Expr::Map(_) => no(true, "a map literal"),
        Expr::Struct { .. } => no(true, "a struct literal"),
        Expr::Prefixed { .. } => no(true, "a prefixed literal"),
        Expr::JsonAccess { .. } => no(true, "a colon path into JSON").map_err(|e| e.with_hint("use -> and ->>")),
        _ => Ok(()),
    }
}

fn check_function(function: &Function) -> Result<()> {
    let Function { name, uses_odbc_syntax, parameters, args, filter: _, null_treatment, over, within_group } = function;
    no(*uses_odbc_syntax, "ODBC syntax")?;
    no(!matches!(parameters, FunctionArguments::None), "a second list of arguments")?;
    no(null_treatment.is_some(), "IGNORE NULLS / RESPECT NULLS")?;
    let is_ordered_set =
        || matches!(name.to_string().to_lowercase().as_str(), "percentile_cont" | "percentile_disc" | "mode");
    no(!within_group.is_empty() && !is_ordered_set(), "WITHIN GROUP")?;
    if let Some(datafusion_sql::sqlparser::ast::WindowType::NamedWindow(_)) = over {
        no(true, "OVER with a named window")?;
    }
    if let Some(datafusion_sql::sqlparser::ast::WindowType::WindowSpec(spec)) = over {
        no(spec.window_name.is_some(), "OVER with a named window")?;
    }
    if let FunctionArguments::List(FunctionArgumentList { duplicate_treatment: _, args, clauses }) = args {
        for clause in clauses {
            match clause {
                FunctionArgumentClause::OrderBy(_) => {}
                other => no(true, &format!("{other} in a function call"))?,
            }
        }
        for arg in args {
            match arg {
                FunctionArg::Unnamed(_) => {}
                FunctionArg::Named { .. } | FunctionArg::ExprNamed { .. } => no(true, "a named argument")?,
            }
        }
    }
    Ok(())
}
