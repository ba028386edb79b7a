//! The pass over a fresh logical plan, before type coercion: literals get their types, explicit casts PostgreSQL's rules,
//! session functions their values.
//!
//! It may run again over a plan that it has seen (a view inside a query) and then changes nothing.

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, Between, Cast, InList, Placeholder, ScalarFunction, Sort};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{BinaryExpr, Case, Expr, LogicalPlan, LogicalPlanBuilder, Operator};
use millstream_catalog::SqlType;

use super::operators::{comparable, is_null, is_untyped, literal_type, resolve_as, type_of, typed_literal};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::functions::arithmetic::{negate, plain_name};
use crate::functions::cast::{can_cast, cannot_cast, cast};
use crate::functions::session;

/// Runs the pass. Output names stay.
pub(crate) fn rewrite(plan: LogicalPlan, ctx: &PlanContext<'_>) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        if matches!(node, LogicalPlan::Limit(_)) {
            return Ok(Transformed::no(node));
        }
        let inputs = node.inputs();
        let schema = if inputs.is_empty() { node.schema().as_ref().clone() } else { merge_schema(&inputs) };
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let done = expr.transform_up(|e| rewrite_expr(e, &schema, ctx).map_err(DataFusionError::from))?;
            Ok(done.update_data(|e| name.restore(e)))
        })?;
        match node.transformed {
            true => node.map_data(retyped),
            false => Ok(node),
        }
    })?;
    Ok(done.data)
}

/// The node with the schema of its new expressions. VALUES keep their old one in DataFusion, so they are built again.
fn retyped(node: LogicalPlan) -> datafusion_common::Result<LogicalPlan> {
    match node {
        LogicalPlan::Values(values) => LogicalPlanBuilder::values(values.values)?.build(),
        other => other.recompute_schema(),
    }
}

fn rewrite_expr(expr: Expr, schema: &DFSchema, ctx: &PlanContext<'_>) -> Result<Transformed<Expr>> {
    let zone = ctx.session.time_zone.as_str();
    Ok(match expr {
        Expr::Literal(value, metadata) => match number_literal(&value)? {
            Some(value) => Transformed::yes(Expr::Literal(value, metadata)),
            None => Transformed::no(Expr::Literal(value, metadata)),
        },
        Expr::Cast(cast) => rewrite_cast(cast, schema, zone)?,
        Expr::Negative(inner) if type_of(&inner, schema).is_some_and(|t| t.is_numeric()) => {
            Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(negate(), vec![*inner])))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_distinctness(op) => {
            let (left, right) = comparable(*left, *right, "=", schema, zone)?;
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let mut all = vec![*expr];
            all.extend(list);
            let mut all = match_types(all, schema, zone, &|l, r| super::operators::no_operator("=", Some(l), Some(r)))?;
            let expr = all.remove(0);
            Transformed::yes(Expr::InList(InList::new(Box::new(expr), all, negated)))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let (expr, low) = comparable(*expr, *low, ">=", schema, zone)?;
            let (expr, high) = comparable(expr, *high, "<=", schema, zone)?;
            Transformed::yes(Expr::Between(Between::new(Box::new(expr), negated, Box::new(low), Box::new(high))))
        }
        Expr::Case(case) => Transformed::yes(Expr::Case(rewrite_case(case, schema, zone)?)),
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            if let (Some(value), true) = (session::constant(func.name(), ctx.session), args.is_empty()) {
                return Ok(Transformed::yes(Expr::Literal(value, None)));
            }
            if matches!(func.name(), "coalesce" | "nullif" | "greatest" | "least" | "nvl") {
                let name = func.name().to_uppercase();
                let args = match_types(args, schema, zone, &|l, r| mismatch(&name, l, r))?;
                return Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(func, args))));
            }
            Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))
        }
        Expr::AggregateFunction(call) if ORDERED.contains(&call.func.name()) => with_total_order(call)?,
        other => Transformed::no(other),
    })
}

/// Aggregates whose result depends on the order of the values.
const ORDERED: [&str; 4] = ["array_agg", "string_agg", "first_value", "last_value"];

/// Orders values that an aggregate's ORDER BY leaves equal by themselves, so that the result does not depend on the order
/// in which rows come.
fn with_total_order(mut call: AggregateFunction) -> Result<Transformed<Expr>> {
    let params = &mut call.params;
    let (Some(value), false) = (params.args.first().cloned(), params.order_by.is_empty()) else {
        return Ok(Transformed::no(Expr::AggregateFunction(call)));
    };
    if params.distinct && params.order_by.iter().any(|sort| !params.args.contains(&sort.expr)) {
        return Err(SqlError::new(
            "42P10",
            "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
        ));
    }
    if params.order_by.iter().any(|sort| sort.expr == value) {
        return Ok(Transformed::no(Expr::AggregateFunction(call)));
    }
    params.order_by.push(Sort::new(value, true, false));
    Ok(Transformed::yes(Expr::AggregateFunction(call)))
}

fn is_distinctness(op: Operator) -> bool {
    matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom)
}

/// A number without a point is an integer if it fits, else a bigint, else a numeric.
fn number_literal(value: &ScalarValue) -> Result<Option<ScalarValue>> {
    Ok(match value {
        ScalarValue::Int64(Some(v)) => i32::try_from(*v).ok().map(|v| ScalarValue::Int32(Some(v))),
        ScalarValue::UInt64(Some(v)) => Some(ScalarValue::Decimal128(Some(i128::from(*v)), 20, 0)),
        ScalarValue::Decimal256(..) => {
            return Err(SqlError::new("22003", "numeric literal has more than 38 digits"));
        }
        _ => None,
    })
}

fn rewrite_cast(explicit: Cast, schema: &DFSchema, zone: &str) -> Result<Transformed<Expr>> {
    let Cast { expr, field } = explicit;
    let target = SqlType::of(&field)
        .ok_or_else(|| SqlError::unsupported(format!("a cast to {} is not supported", field.data_type())))?;
    match *expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), None) => {
            Ok(Transformed::yes(typed_literal(&text, &target, zone)?))
        }
        Expr::Placeholder(Placeholder { id, field: None }) => Ok(Transformed::yes(Expr::Placeholder(
            Placeholder::new_with_field(id, Some(millstream_catalog::types::field_ref(&target, "", true))),
        ))),
        inner => {
            let Some(from) = type_of(&inner, schema) else {
                return Ok(Transformed::no(Expr::Cast(Cast { expr: Box::new(inner), field })));
            };
            if !can_cast(&from, &target, false) {
                return Err(cannot_cast(&from, &target));
            }
            if from == target || is_lossless(&from, &target) {
                return Ok(Transformed::no(Expr::Cast(Cast { expr: Box::new(inner), field })));
            }
            Ok(Transformed::yes(cast(inner, &target, false, zone)))
        }
    }
}

/// Casts that Arrow does as PostgreSQL would; they stay visible to DataFusion's optimizer.
fn is_lossless(from: &SqlType, to: &SqlType) -> bool {
    use SqlType as T;
    let digits = |t: &SqlType| match t {
        T::Int2 => Some(5),
        T::Int4 => Some(10),
        T::Int8 | T::Oid => Some(19),
        _ => None,
    };
    match (from, to) {
        (T::Int2, T::Int4 | T::Int8) | (T::Int4, T::Int8) => true,
        (T::Int2 | T::Int4 | T::Int8, T::Float8) | (T::Float4, T::Float8) | (T::Numeric(_), T::Float8) => true,
        (T::Date, T::Timestamp) => true,
        (f, T::Numeric(Some((p, s)))) => digits(f).is_some_and(|d| i16::from(*p) - i16::from(*s) >= d),
        (T::Text | T::Varchar(_), T::Text | T::Varchar(None)) => true,
        _ => false,
    }
}

fn mismatch(what: &str, l: &SqlType, r: &SqlType) -> SqlError {
    SqlError::new("42804", format!("{what} types {} and {} cannot be matched", plain_name(l), plain_name(r)))
}

fn rewrite_case(case: Case, schema: &DFSchema, zone: &str) -> Result<Case> {
    let Case { mut expr, when_then_expr, else_expr } = case;
    let (mut whens, thens): (Vec<Expr>, Vec<Expr>) = when_then_expr.into_iter().map(|(w, t)| (*w, *t)).unzip();
    if let Some(operand) = expr.take() {
        let mut all = vec![*operand];
        all.append(&mut whens);
        let mut all = match_types(all, schema, zone, &|l, r| super::operators::no_operator("=", Some(l), Some(r)))?;
        expr = Some(Box::new(all.remove(0)));
        whens = all;
    }
    let mut results = thens;
    let has_else = else_expr.is_some();
    results.extend(else_expr.map(|e| *e));
    let mut results = match_types(results, schema, zone, &|l, r| mismatch("CASE", l, r))?;
    let else_expr = if has_else { results.pop().map(Box::new) } else { None };
    let when_then_expr = whens.into_iter().zip(results).map(|(w, t)| (Box::new(w), Box::new(t))).collect();
    Ok(Case { expr, when_then_expr, else_expr })
}

/// Gives untyped literals among `exprs` the type of the others, and refuses families that do not mix.
fn match_types(
    exprs: Vec<Expr>,
    schema: &DFSchema,
    zone: &str,
    error: &dyn Fn(&SqlType, &SqlType) -> SqlError,
) -> Result<Vec<Expr>> {
    let types: Vec<Option<SqlType>> = exprs.iter().map(|e| type_of(e, schema)).collect();
    let Some(first) = types.iter().flatten().next() else { return Ok(exprs) };
    for other in types.iter().flatten() {
        let mixes = (first.is_numeric() && other.is_numeric())
            || (first.is_text() && other.is_text())
            || (is_time(first) && is_time(other))
            || std::mem::discriminant(first) == std::mem::discriminant(other);
        if !mixes {
            return Err(error(first, other));
        }
    }
    let target = literal_type(first);
    exprs
        .into_iter()
        .map(|e| if is_untyped(&e) || !is_null(&e) { resolve_as(e, &target, zone) } else { Ok(e) })
        .collect()
}

fn is_time(t: &SqlType) -> bool {
    matches!(t, SqlType::Date | SqlType::Timestamp | SqlType::Timestamptz)
}
