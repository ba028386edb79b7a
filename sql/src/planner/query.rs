//! From a query's tree to a typed logical plan.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_common::{Column as DfColumn, DFSchema};
use datafusion_expr::logical_plan::builder::project;
use datafusion_expr::{EmptyRelation, Expr, LogicalPlan};
use datafusion_optimizer::Analyzer;
use datafusion_sql::planner::{PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{self, LimitClause, Query, VisitMut, VisitorMut, visit_expressions_mut};
use millstream_catalog::types::{MAX_PRECISION, field_ref};
use millstream_catalog::{Column, ObjectId, SqlType};

use super::asof;
use super::calls::resolve_calls;
use super::checked::checked_arithmetic;
use super::lateral_rows::lateral_rows;
use super::lateral_top::lateral_tops;
use super::named_windows::inline_windows;
use super::naming::{name_columns, visible};
use super::provider::Provider;
use super::recursive::{check_types, type_first_terms};
use super::refuse::refuse_unconsumed;
use super::rewrite::rewrite;
use super::sessions::session_frames;
use super::set_operations::exact_multiplicities;
use super::subqueries::replace_subqueries;
use super::total_order::total_order;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::functions::with_ties;
use crate::plan::PlannedQuery;
use crate::plan::origins::origins;
use crate::types::normalize;

/// Plans a query: names, types, checked arithmetic.
///
/// # Errors
/// With PostgreSQL's SQLSTATE; [`SqlError::location`] says where if sqlparser kept it.
pub fn plan_query(query: &Query, ctx: &PlanContext<'_>) -> Result<PlannedQuery> {
    plan_query_with(query, ctx, None)
}

/// As [`plan_query`], with the hidden row id shown on scans of one table.
pub(crate) fn plan_query_with(
    query: &Query,
    ctx: &PlanContext<'_>,
    row_id_of: Option<ObjectId>,
) -> Result<PlannedQuery> {
    let mut named = query.clone();
    inline_windows(&mut named)?;
    super::ordinality::expand(&mut named);
    refuse_unconsumed(&named)?;
    asof::nest(&mut named)?;
    name_columns(&mut named);
    let functions = resolve_calls(&mut named, ctx)?;
    expand_exponents(&mut named)?;
    name_fields(&mut named);
    fetch_as_limit(&mut named)?;
    type_first_terms(&mut named, ctx)?;
    let planned = plan_named(named.clone(), ctx, row_id_of, &functions);
    // `SELECT *, x AS a` may repeat a name of the star's, which PostgreSQL allows in the output.
    if let Err(e) = &planned
        && (matches!(e.sqlstate, "42701" | "42702") || e.message.contains("unique expression names"))
        && super::naming::hide_beside_star(&mut named)
    {
        return plan_named(named, ctx, row_id_of, &functions).map_err(|_| e.clone());
    }
    planned
}

fn plan_named(
    query: Query,
    ctx: &PlanContext<'_>,
    row_id_of: Option<ObjectId>,
    functions: &BTreeMap<String, ObjectId>,
) -> Result<PlannedQuery> {
    let provider = Provider::new(*ctx).with_row_id(row_id_of);
    let mut planner_context = PlannerContext::new().with_prepare_param_data_types(declared_parameters(ctx));
    let plan = SqlToRel::new(&provider)
        .sql_statement_to_plan_with_context(ast::Statement::Query(Box::new(query)), &mut planner_context)?;
    let origins = origins(&plan);
    let plan = analyze(total_order(lateral_tops(session_frames(plan)?)?)?, ctx)?;
    let parameters = parameters(&plan, ctx)?;
    let (plan, columns) = with_our_layout(plan)?;
    let mut references = provider.into_references();
    references.extend(functions.clone());
    Ok(PlannedQuery { plan, columns, references, parameters, origins })
}

/// Writes FETCH FIRST as LIMIT, which it is another word for, and its WITH TIES as a function around the number.
fn fetch_as_limit(query: &mut Query) -> Result<()> {
    struct FetchAsLimit;
    impl VisitorMut for FetchAsLimit {
        type Break = SqlError;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
            let Some(fetch) = query.fetch.take() else { return ControlFlow::Continue(()) };
            let one = ast::Expr::Value(ast::Value::Number("1".into(), false).into());
            let rows = fetch.quantity.unwrap_or(one);
            let rows = if fetch.with_ties { call(with_ties::NAME, rows) } else { rows };
            match query.limit_clause.get_or_insert(LimitClause::LimitOffset {
                limit: None,
                offset: None,
                limit_by: Vec::new(),
            }) {
                LimitClause::LimitOffset { limit: limit @ None, .. } => {
                    *limit = Some(rows);
                    ControlFlow::Continue(())
                }
                _ => ControlFlow::Break(SqlError::syntax("multiple LIMIT clauses not allowed")),
            }
        }
    }
    match VisitMut::visit(query, &mut FetchAsLimit) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn call(name: &str, argument: ast::Expr) -> ast::Expr {
    ast::Expr::Function(ast::Function {
        name: ast::ObjectName(vec![ast::ObjectNamePart::Identifier(ast::Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(argument))],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Writes numbers with an exponent as PostgreSQL types them, which DataFusion does not: numeric with its digits written out,
/// or double precision where they are more than a numeric has.
pub(crate) fn expand_exponents<V: VisitMut>(written: &mut V) -> Result<()> {
    let mut failed = None;
    let _: ControlFlow<()> = visit_expressions_mut(written, |expr| {
        if let ast::Expr::Value(value) = expr
            && let ast::Value::Number(text, _) = &value.value
            && text.contains(['e', 'E'])
        {
            match crate::parser::parse_expr(&without_exponent(text)) {
                Ok(plain) => *expr = plain,
                Err(e) => failed = Some(e),
            }
        }
        ControlFlow::Continue(())
    });
    failed.map_or(Ok(()), Err)
}

/// Writes `(record).field` as the subscript with a name that DataFusion reads.
pub(crate) fn name_fields<V: VisitMut>(written: &mut V) {
    let _: ControlFlow<()> = visit_expressions_mut(written, |expr| {
        if let ast::Expr::CompoundFieldAccess { access_chain, .. } = expr {
            for access in access_chain {
                if let ast::AccessExpr::Dot(ast::Expr::Identifier(field)) = access {
                    let name = ast::Value::SingleQuotedString(normalize(field));
                    let index = ast::Expr::Value(name.into());
                    *access = ast::AccessExpr::Subscript(ast::Subscript::Index { index });
                }
            }
        }
        ControlFlow::Continue(())
    });
}

/// `1.5e3` as `CAST('1500' AS NUMERIC(4,0))`.
fn without_exponent(text: &str) -> String {
    let double = format!("CAST('{text}' AS DOUBLE PRECISION)");
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return double };
    let Ok(exponent) = exponent.parse::<i32>() else { return double };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    let mut scale = fraction.len() as i32 - exponent;
    if scale.abs() > i32::from(MAX_PRECISION) {
        return double;
    }
    while scale < 0 {
        digits.push('0');
        scale += 1;
    }
    let scale = scale as usize;
    let digits = format!("{digits:0>width$}", width = scale + 1);
    if digits.len() > usize::from(MAX_PRECISION) {
        return double;
    }
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if fraction.is_empty() { "" } else { "." };
    format!("CAST('{whole}{point}{fraction}' AS NUMERIC({},{scale}))", digits.len())
}

/// The passes between SqlToRel and a plan that can run: literals and casts, coercion, checked arithmetic.
pub(crate) fn analyze(plan: LogicalPlan, ctx: &PlanContext<'_>) -> Result<LogicalPlan> {
    let plan = rewrite(exact_multiplicities(lateral_rows(plan)?)?, ctx)?;
    let plan = Analyzer::new().execute_and_check(plan, &coercion_options(ctx), |_, _| {})?;
    check_types(&plan)?;
    checked_arithmetic(replace_subqueries(plan)?)
}

fn coercion_options(ctx: &PlanContext<'_>) -> datafusion_common::config::ConfigOptions {
    let mut options = datafusion_common::config::ConfigOptions::default();
    options.execution.time_zone = Some(ctx.session.time_zone.clone());
    options
}

/// Plans expressions over the columns of `schema`, in their own order, typed and checked as in a query.
pub(crate) fn plan_exprs(exprs: Vec<ast::Expr>, schema: &DFSchema, ctx: &PlanContext<'_>) -> Result<Vec<Expr>> {
    let provider = Provider::new(*ctx);
    let planner = SqlToRel::new(&provider);
    let mut planner_context = PlannerContext::new().with_prepare_param_data_types(declared_parameters(ctx));
    let mut planned = Vec::with_capacity(exprs.len());
    for (i, mut expr) in exprs.into_iter().enumerate() {
        refuse_unconsumed(&expr)?;
        super::naming::normalize_expr(&mut expr);
        resolve_calls(&mut expr, ctx)?;
        expand_exponents(&mut expr)?;
        name_fields(&mut expr);
        planned.push(planner.sql_to_expr(expr, schema, &mut planner_context)?.alias(format!("__expr_{i}")));
    }
    let input = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema: Arc::new(schema.clone()) });
    match analyze(project(input, planned)?, ctx)? {
        LogicalPlan::Projection(p) if matches!(p.input.as_ref(), LogicalPlan::EmptyRelation(_)) => {
            Ok(p.expr.into_iter().map(Expr::unalias).collect())
        }
        _ => Err(SqlError::unsupported("a subquery is not supported here")),
    }
}

fn declared_parameters(ctx: &PlanContext<'_>) -> Vec<Option<arrow::datatypes::FieldRef>> {
    ctx.parameters.iter().map(|t| t.as_ref().map(|t| field_ref(t, "", true))).collect()
}

/// Types of `$1`, `$2`, …; what nothing tells is text, as in PostgreSQL.
pub(crate) fn parameters(plan: &LogicalPlan, ctx: &PlanContext<'_>) -> Result<Vec<SqlType>> {
    let mut found: BTreeMap<usize, Option<SqlType>> = BTreeMap::new();
    for (name, field) in plan.get_parameter_fields()? {
        let number: usize = name
            .strip_prefix('$')
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| SqlError::new("42P02", format!("there is no parameter {name}")))?;
        found.insert(number, field.as_deref().and_then(SqlType::of));
    }
    let count = found.keys().next_back().copied().unwrap_or(0).max(ctx.parameters.len());
    Ok((1..=count)
        .map(|n| {
            let declared = ctx.parameters.get(n - 1).cloned().flatten();
            declared.or_else(|| found.get(&n).cloned().flatten()).unwrap_or(SqlType::Text)
        })
        .collect())
}

/// Adds casts where a column does not have the layout of its type, and tells the visible columns.
pub(crate) fn with_our_layout(plan: LogicalPlan) -> Result<(LogicalPlan, Vec<Column>)> {
    let schema = plan.schema().clone();
    let mut columns = Vec::with_capacity(schema.fields().len());
    let mut exprs = Vec::with_capacity(schema.fields().len());
    let mut changed = false;
    for (qualifier, field) in schema.iter() {
        let name = visible(field.name()).to_string();
        let sql_type = SqlType::of(field).ok_or_else(|| {
            SqlError::unsupported(format!("column \"{name}\" has the unsupported type {}", field.data_type()))
        })?;
        let column = Expr::Column(DfColumn::new(qualifier.cloned(), field.name()));
        let target = field_ref(&sql_type, "", true);
        if field.data_type() == target.data_type() {
            exprs.push(column);
        } else {
            changed = true;
            let cast = Expr::Cast(datafusion_expr::Cast::new_from_field(Box::new(column), target));
            exprs.push(cast.alias_qualified(qualifier.cloned(), field.name()));
        }
        columns.push(Column::new(name, sql_type, field.is_nullable()));
    }
    let plan = if changed { project(plan, exprs)? } else { plan };
    Ok((plan, columns))
}

/// Puts a projection on top that gives the output the names of `columns`, without qualifiers.
pub(crate) fn rename_output(plan: LogicalPlan, columns: &[Column]) -> Result<LogicalPlan> {
    let exprs: Vec<Expr> = plan
        .schema()
        .iter()
        .zip(columns)
        .map(|((qualifier, field), column)| {
            Expr::Column(DfColumn::new(qualifier.cloned(), field.name())).alias(&column.name)
        })
        .collect();
    Ok(project(plan, exprs)?)
}
