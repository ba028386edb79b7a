//! The pass over a fresh logical plan, before type coercion: literals get their types, explicit casts PostgreSQL's rules,
//! session functions their values.
//!
//! It may run again over a plan that it has seen (a view inside a query) and then changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, Between, Cast, InList, Placeholder, ScalarFunction, Sort};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::type_coercion::functions::fields_with_udf;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{
    BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF, lit, when,
};
use millstream_catalog::SqlType;
use millstream_catalog::types::field_ref;

use super::calls::UserFunction;
use super::common_type::{in_subquery, match_types, of_values, one_type_each};
use super::constants::{fold, is_constant_operation, is_strict};
use super::intervals::{by_span, in_expression};
use super::operators::{
    comparable, is_null, is_untyped_parameter, resolve_as, resolve_parameter, span_of, type_of, typed_literal,
    without_modifier,
};
use super::outer_types::transform_up;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::functions::arithmetic::{negate, plain_name};
use crate::functions::cast::{can_cast, cannot_cast, cast};
use crate::functions::{in_zone, interval, run, session};
use crate::types::numeric_layout;

/// Runs the pass. Output names stay.
pub(crate) fn rewrite(plan: LogicalPlan, ctx: &PlanContext<'_>) -> Result<LogicalPlan> {
    let done = transform_up(plan, &mut |node| {
        if let LogicalPlan::Limit(mut limit) = node {
            for number in [&mut limit.skip, &mut limit.fetch].into_iter().flatten() {
                **number = resolve_parameter(std::mem::replace(number.as_mut(), lit(0_i64)), &SqlType::Int8);
            }
            return Ok(Transformed::yes(LogicalPlan::Limit(limit)));
        }
        let zone = ctx.session.time_zone.as_str();
        let node = match node {
            LogicalPlan::Values(values) => of_values(&values, zone)?.unwrap_or(LogicalPlan::Values(values)),
            // The types below may have changed.
            LogicalPlan::SubqueryAlias(_) => return Ok(Transformed::yes(node.recompute_schema()?)),
            LogicalPlan::Projection(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::Union(_) => node.recompute_schema()?,
            other => other,
        };
        let inputs = node.inputs();
        let schema = if inputs.is_empty() { node.schema().as_ref().clone() } else { merge_schema(&inputs) };
        let names = NamePreserver::new(&node);
        let node =
            node.map_expressions(|expr| each_named(expr, &names, &mut |expr| rewrite_each(expr, &schema, ctx)))?;
        let node = if node.transformed { node.map_data(retyped)? } else { node };
        let node = match node.data {
            LogicalPlan::Filter(mut filter) if never(&filter.predicate) => {
                filter.predicate = lit(false);
                Transformed::yes(LogicalPlan::Filter(filter))
            }
            data => Transformed { data, ..node },
        };
        let node = node.map_data(|node| one_type_each(node, zone).map_err(DataFusionError::from))?;
        node.map_data(|node| by_span(node).map_err(DataFusionError::from))
    })?;
    same_parameters(done)
}

/// As [`rewrite`], of an expression.
pub(super) fn rewrite_tree(expr: Expr, schema: &DFSchema, ctx: &PlanContext<'_>) -> Result<Expr> {
    Ok(rewrite_each(expr, schema, ctx)?.data)
}

fn rewrite_each(expr: Expr, schema: &DFSchema, ctx: &PlanContext<'_>) -> datafusion_common::Result<Transformed<Expr>> {
    expr.transform_up(|e| {
        let done = rewrite_expr(e, schema, ctx).map_err(DataFusionError::from)?;
        Ok(match fold(&done.data, schema) {
            Some(value) => Transformed::yes(value),
            None => done,
        })
    })
}

/// Gives a parameter the type that one of its places tells in all of them.
fn same_parameters(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut types: HashMap<String, FieldRef> = HashMap::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::Placeholder(Placeholder { id, field: Some(field) }) = e {
                    types.entry(id.clone()).or_insert_with(|| field.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if types.is_empty() {
        return Ok(plan);
    }
    let done = plan.transform_up_with_subqueries(|node| {
        let node = node.map_expressions(|expr| {
            expr.transform_up(|e| match e {
                Expr::Placeholder(Placeholder { id, field: None }) if types.contains_key(&id) => {
                    let field = types.get(&id).cloned();
                    Ok(Transformed::yes(Expr::Placeholder(Placeholder::new_with_field(id, field))))
                }
                other => Ok(Transformed::no(other)),
            })
        })?;
        if node.transformed { node.map_data(retyped) } else { Ok(node) }
    })?;
    Ok(done.data)
}

/// Whether a condition can hold for no row: a part of it that must hold is false or NULL.
fn never(condition: &Expr) -> bool {
    datafusion_expr::utils::split_conjunction(condition)
        .into_iter()
        .any(|part| matches!(part, Expr::Literal(ScalarValue::Boolean(None | Some(false)), _)))
}

/// Rewrites an expression of a node, which keeps its name; of grouping sets each column keeps its own.
pub(super) fn each_named(
    expr: Expr,
    names: &NamePreserver,
    rewrite: &mut impl FnMut(Expr) -> datafusion_common::Result<Transformed<Expr>>,
) -> datafusion_common::Result<Transformed<Expr>> {
    if matches!(expr, Expr::GroupingSet(_)) {
        return expr.map_children(|column| each_named(column, names, rewrite));
    }
    let name = names.save(&expr);
    Ok(rewrite(expr)?.update_data(|e| name.restore(e)))
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
        // DataFusion has given it the type of what it stands beside, with its length or scale.
        Expr::Placeholder(Placeholder { id, field: Some(field) }) => match SqlType::of(&field) {
            Some(t) if without_modifier(&t) != t => {
                Transformed::yes(resolve_parameter(Expr::Placeholder(Placeholder::new_with_field(id, None)), &t))
            }
            _ => Transformed::no(Expr::Placeholder(Placeholder::new_with_field(id, Some(field)))),
        },
        // A function called by another of its names has one; NamePreserver keeps those of columns.
        Expr::Alias(alias) if matches!(*alias.expr, Expr::Literal(..)) => Transformed::yes(*alias.expr),
        Expr::Cast(cast) => rewrite_cast(cast, schema, zone)?,
        Expr::Negative(inner) if has_null(&[&inner]) => Transformed::yes(*inner),
        Expr::Negative(inner) if type_of(&inner, schema) == Some(SqlType::Interval) => {
            Transformed::yes(interval::negate().call(vec![*inner]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) && has_null(&[&left, &right]) => {
            Transformed::yes(Expr::Literal(ScalarValue::Boolean(None), None))
        }
        Expr::Negative(inner) if type_of(&inner, schema).is_some_and(|t| t.is_numeric()) => {
            Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(negate(), vec![*inner])))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let word = if op == Operator::And { "AND" } else { "OR" };
            let (left, right) = (condition(*left, word, schema, zone)?, condition(*right, word, schema, zone)?);
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::Not(inner) => Transformed::yes(Expr::Not(Box::new(condition(*inner, "NOT", schema, zone)?))),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_distinctness(op) => {
            let (left, right) = comparable(*left, *right, "=", schema, zone)?;
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let mut all = vec![*expr];
            all.extend(list);
            let all = match_types(all, schema, zone, &|l, r| super::operators::no_operator("=", Some(l), Some(r)))?;
            let mut all = spans(all, schema);
            let expr = all.remove(0);
            // DataFusion takes a list for constant if its items are over no rows, which a CASE is.
            if !all.iter().all(|e| matches!(e, Expr::Literal(..))) {
                let found = all.into_iter().map(|item| expr.clone().eq(item)).reduce(Expr::or);
                let found = found.ok_or_else(|| SqlError::syntax("IN needs a list"))?;
                return Ok(Transformed::yes(if negated { Expr::Not(Box::new(found)) } else { found }));
            }
            Transformed::yes(Expr::InList(InList::new(Box::new(expr), all, negated)))
        }
        // PostgreSQL looks at each bound apart; where one is NULL, WHERE never looks at the other.
        Expr::Between(Between { expr, negated, low, high }) if has_null(&[&low]) || has_null(&[&high]) => {
            let bound = |op: Operator, symbol: &str, bound: Expr| -> Result<Expr> {
                if has_null(&[&bound]) {
                    return Ok(Expr::Literal(ScalarValue::Boolean(None), None));
                }
                let (left, right) = comparable(expr.as_ref().clone(), bound, symbol, schema, zone)?;
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
            };
            Transformed::yes(if negated {
                bound(Operator::Lt, "<", *low)?.or(bound(Operator::Gt, ">", *high)?)
            } else {
                bound(Operator::GtEq, ">=", *low)?.and(bound(Operator::LtEq, "<=", *high)?)
            })
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let original = *expr;
            let (first, low) = comparable(original.clone(), *low, ">=", schema, zone)?;
            let (second, high) = comparable(original.clone(), *high, "<=", schema, zone)?;
            // Either bound may have asked for another type.
            let expr = if second == original { first } else { second };
            Transformed::yes(Expr::Between(Between::new(Box::new(expr), negated, Box::new(low), Box::new(high))))
        }
        Expr::Case(case) => Transformed::yes(rewrite_case(case, schema, zone)?),
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            if let Some(function) = UserFunction::of(&func) {
                return Ok(Transformed::yes(function.inlined(args, schema, ctx)?));
            }
            if let (Some(value), true) = (session::constant(func.name(), ctx.session), args.is_empty()) {
                return Ok(Transformed::yes(Expr::Literal(value, None)));
            }
            if let Some(value) = run::constant(func.name(), &args, ctx.session)? {
                return Ok(Transformed::yes(Expr::Literal(value, None)));
            }
            let args = typed_parameters(&func, args, schema);
            if func.name() == "nullif" && has_null(&args.iter().collect::<Vec<_>>()) {
                return Ok(Transformed::yes(args.into_iter().next().unwrap_or(Expr::Literal(ScalarValue::Null, None))));
            }
            if func.name() == "nullif"
                && let [l, r] = args.as_slice()
                && let (Some(lt), Some(rt)) = (type_of(l, schema), type_of(r, schema))
                && lt != rt
            {
                // The result has the type in which the first one is compared.
                let (first, t) = compared_number(l.clone(), &lt, &rt, zone)?;
                let (left, right) = comparable(l.clone(), r.clone(), "=", schema, zone)?;
                let null = typed_null(&field_ref(&t, "", true))?;
                let choice = when(left.eq(right), null).otherwise(first)?;
                return Ok(Transformed::yes(of_type(choice, Some(t), schema)));
            }
            if ONE_TYPE.contains(&func.name()) {
                let name = func.name().to_uppercase();
                let args = match_types(args, schema, zone, &|l, r| mismatch(&name, l, r))?;
                if args.iter().any(|e| type_of(e, schema) == Some(SqlType::Interval)) && func.name() != "coalesce" {
                    return Ok(Transformed::yes(interval_choice(func.name(), args)?));
                }
                let chosen = args.iter().find_map(|e| type_of(e, schema));
                let call = Expr::ScalarFunction(ScalarFunction::new_udf(func, args));
                return Ok(Transformed::yes(of_type(call, chosen, schema)));
            }
            if let ("age", [since]) = (func.name(), args.as_slice()) {
                // Counted to the midnight that the current day began with.
                let now = crate::functions::scalar("now").ok_or_else(|| SqlError::internal("there is no now()"))?;
                let zoned = type_of(since, schema) == Some(SqlType::Timestamptz);
                let midnight = if zoned { SqlType::Timestamptz } else { SqlType::Timestamp };
                let today = cast(now.call(Vec::new()), &SqlType::Date, false, zone);
                let since = resolve_as(since.clone(), &SqlType::Timestamp, zone)?;
                return Ok(Transformed::yes(func.call(vec![cast(today, &midnight, false, zone), since])));
            }
            let func = in_zone(&func, zone).map_or(func, Arc::new);
            let args = if KEEP_BLANKS.contains(&func.name()) { args } else { without_blanks(args, schema, zone) };
            let args = if func.name().starts_with("json_") { args.into_iter().map(position).collect() } else { args };
            if func.name() == "pg_typeof" {
                let shown =
                    args.first().and_then(|e| type_of(e, schema)).map_or_else(|| "unknown".into(), |t| plain_name(&t));
                return Ok(Transformed::yes(Expr::Literal(ScalarValue::Utf8View(Some(shown)), None)));
            }
            let is_null = is_strict(&func) && has_null(&args.iter().collect::<Vec<_>>());
            let call = Expr::ScalarFunction(ScalarFunction { func, args });
            let null = if is_null { call.to_field(schema).ok() } else { None };
            match null {
                Some((_, field)) => Transformed::yes(typed_null(&field)?),
                None => Transformed::yes(call),
            }
        }
        Expr::AggregateFunction(call) if ORDERED.contains(&call.func.name()) => {
            Transformed::yes(in_expression(with_total_order(call)?.data, schema)?)
        }
        Expr::InSubquery(found) => {
            Transformed::yes(in_expression(Expr::InSubquery(in_subquery(found, schema, zone)?), schema)?)
        }
        other @ (Expr::WindowFunction(_) | Expr::AggregateFunction(_)) => {
            Transformed::yes(in_expression(other, schema)?)
        }
        other => Transformed::no(other),
    })
}

/// Parameters that nothing else gives a type have the one that the function takes in their place.
fn typed_parameters(func: &ScalarUDF, args: Vec<Expr>, schema: &DFSchema) -> Vec<Expr> {
    if ONE_TYPE.contains(&func.name()) || !args.iter().any(is_untyped_parameter) {
        return args;
    }
    let field = |e: &Expr| match is_untyped_parameter(e) {
        true => Some(Arc::new(Field::new("", DataType::Null, true))),
        false => e.to_field(schema).ok().map(|(_, field)| field),
    };
    let Some(fields) = args.iter().map(field).collect::<Option<Vec<_>>>() else { return args };
    let wanted: Vec<Option<SqlType>> = match (func.name(), fields.as_slice()) {
        ("array_has", [_, item]) => vec![SqlType::of(item).map(|t| SqlType::Array(Box::new(t))), None],
        _ => match fields_with_udf(&fields, func) {
            // Of what an array is, only a value beside it can tell.
            Ok(wanted) => wanted.iter().map(|f| SqlType::of(f).filter(|t| !matches!(t, SqlType::Array(_)))).collect(),
            Err(_) => return args,
        },
    };
    let typed = |(e, wanted): (Expr, Option<SqlType>)| match wanted {
        Some(wanted) => resolve_parameter(e, &wanted),
        None => e,
    };
    args.into_iter().zip(wanted).map(typed).collect()
}

/// Functions whose arguments have one type.
const ONE_TYPE: [&str; 5] = ["coalesce", "nullif", "greatest", "least", "nvl"];

/// Functions that take a `char(n)` with the blanks at its end; all others take text, which has none.
const KEEP_BLANKS: [&str; 8] =
    ["cast", "concat", "concat_ws", "format", "octet_length", "pg_typeof", "json_build_object", "json_build_array"];

fn without_blanks(args: Vec<Expr>, schema: &DFSchema, zone: &str) -> Vec<Expr> {
    let is_char = |e: &Expr| matches!(type_of(e, schema), Some(SqlType::Char(_)));
    args.into_iter().map(|e| if is_char(&e) { cast(e, &SqlType::Text, false, zone) } else { e }).collect()
}

/// A number as it is compared with another one: PostgreSQL compares integers of all widths and both floats with each other,
/// and anything else in one type.
fn compared_number(expr: Expr, from: &SqlType, other: &SqlType, zone: &str) -> Result<(Expr, SqlType)> {
    use SqlType as T;
    let digits = |t: &SqlType| match t {
        T::Int2 => Some(5),
        T::Int4 => Some(10),
        T::Int8 => Some(19),
        _ => None,
    };
    let is_float = |t: &SqlType| matches!(t, T::Float4 | T::Float8);
    let target = match (digits(from), other) {
        (Some(digits), T::Numeric(_)) => T::Numeric(Some((digits, 0))),
        _ if is_float(from) != is_float(other) && from.is_numeric() && other.is_numeric() => T::Float8,
        _ => return Ok((expr, from.clone())),
    };
    Ok((cast(expr, &target, false, zone), target))
}

/// A position in JSON, which DataFusion's functions take as a bigint.
fn position(step: Expr) -> Expr {
    match step {
        Expr::Literal(ScalarValue::Int32(Some(n)), metadata) => {
            Expr::Literal(ScalarValue::Int64(Some(n.into())), metadata)
        }
        other => other,
    }
}

/// Whether one of them is NULL whatever the row: PostgreSQL then never looks at the others, unless a constant among them
/// fails while it plans.
fn has_null(exprs: &[&Expr]) -> bool {
    let is_open = |e: &Expr| Ok(matches!(e, Expr::Placeholder(_)) || is_constant_operation(e));
    exprs.iter().any(|e| matches!(e, Expr::Literal(value, _) if value.is_null()))
        && !exprs.iter().any(|e| e.exists(is_open).unwrap_or(true))
}

pub(super) fn typed_null(field: &Field) -> Result<Expr> {
    let metadata = if field.metadata().is_empty() { None } else { Some(field.metadata().clone().into()) };
    Ok(Expr::Literal(ScalarValue::try_new_null(field.data_type())?, metadata))
}

/// Intervals by their spans.
fn spans(exprs: Vec<Expr>, schema: &DFSchema) -> Vec<Expr> {
    if !exprs.iter().any(|e| type_of(e, schema) == Some(SqlType::Interval)) {
        return exprs;
    }
    exprs.into_iter().map(span_of).collect()
}

/// NULLIF, GREATEST and LEAST of intervals.
fn interval_choice(name: &str, args: Vec<Expr>) -> Result<Expr> {
    let null = || Expr::Literal(ScalarValue::IntervalMonthDayNano(None), None);
    let mut args = args.into_iter();
    let Some(mut chosen) = args.next() else { return Ok(null()) };
    for next in args {
        let (l, r) = (span_of(chosen.clone()), span_of(next.clone()));
        chosen = match name {
            "nullif" => when(l.eq(r), null()).otherwise(chosen)?,
            _ => {
                let wins = if name == "greatest" { r.gt(l) } else { r.lt(l) };
                when(chosen.clone().is_null().or(wins), next).otherwise(chosen)?
            }
        };
    }
    Ok(chosen)
}

/// Comparisons that are NULL where a side is.
fn is_comparison(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq)
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
            // A numeric literal keeps its digits as they are written, as one without quotes does.
            let own = if target == SqlType::Numeric(None) { numeric_layout(&text) } else { None };
            Ok(Transformed::yes(typed_literal(&text, &own.unwrap_or(target), zone)?))
        }
        parameter if is_untyped_parameter(&parameter) => {
            let parameter = resolve_parameter(parameter, &target);
            let is_exact = type_of(&parameter, schema).as_ref() == Some(&target);
            Ok(Transformed::yes(if is_exact { parameter } else { cast(parameter, &target, false, zone) }))
        }
        inner => {
            let Some(from) = type_of(&inner, schema) else {
                if is_null(&inner) {
                    return Ok(Transformed::yes(typed_null(&field)?));
                }
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
pub(super) fn is_lossless(from: &SqlType, to: &SqlType) -> bool {
    use SqlType as T;
    let digits = |t: &SqlType| match t {
        T::Int2 => Some(5),
        T::Int4 => Some(10),
        T::Int8 | T::Oid => Some(19),
        _ => None,
    };
    match (from, to) {
        (T::Int2, T::Int4 | T::Int8) | (T::Int4, T::Int8) => true,
        (T::Int2 | T::Int4 | T::Int8, T::Float8) | (T::Float4, T::Float8) => true,
        (T::Date, T::Timestamp) => true,
        (f, T::Numeric(Some((p, s)))) => digits(f).is_some_and(|d| i16::from(*p) - i16::from(*s) >= d),
        (T::Text | T::Varchar(_), T::Text | T::Varchar(None)) => true,
        _ => false,
    }
}

/// A condition, which an untyped literal becomes and any other type cannot.
fn condition(expr: Expr, what: &str, schema: &DFSchema, zone: &str) -> Result<Expr> {
    let expr = resolve_as(expr, &SqlType::Bool, zone)?;
    match type_of(&expr, schema) {
        None | Some(SqlType::Bool) => Ok(expr),
        Some(other) => {
            let name = plain_name(&other);
            Err(SqlError::new("42804", format!("argument of {what} must be type boolean, not type {name}")))
        }
    }
}

fn mismatch(what: &str, l: &SqlType, r: &SqlType) -> SqlError {
    SqlError::new("42804", format!("{what} types {} and {} cannot be matched", plain_name(l), plain_name(r)))
}

fn rewrite_case(case: Case, schema: &DFSchema, zone: &str) -> Result<Expr> {
    let Case { mut expr, when_then_expr, else_expr } = case;
    let (mut whens, thens): (Vec<Expr>, Vec<Expr>) = when_then_expr.into_iter().map(|(w, t)| (*w, *t)).unzip();
    if let Some(operand) = expr.take() {
        let mut all = vec![*operand];
        all.append(&mut whens);
        let all = match_types(all, schema, zone, &|l, r| super::operators::no_operator("=", Some(l), Some(r)))?;
        let mut all = spans(all, schema);
        expr = Some(Box::new(all.remove(0)));
        whens = all;
    } else {
        whens = whens.into_iter().map(|when| condition(when, "CASE/WHEN", schema, zone)).collect::<Result<_>>()?;
    }
    let mut results = thens;
    let has_else = else_expr.is_some();
    results.extend(else_expr.map(|e| *e));
    let mut results = match_types(results, schema, zone, &|l, r| mismatch("CASE", l, r))?;
    let else_expr = if has_else { results.pop().map(Box::new) } else { None };
    let sql_type = results.iter().chain(else_expr.as_deref()).find_map(|e| type_of(e, schema));
    let mut arms: Vec<_> = whens.into_iter().zip(results).map(|(w, t)| (Box::new(w), Box::new(t))).collect();
    if let Some(operand) = &expr {
        // Nothing equals NULL, and with no arm left the operand is not looked at.
        arms.retain(|(when, _)| !has_null(&[operand, when]));
        if arms.is_empty() {
            return Ok(match (else_expr, sql_type) {
                (Some(result), _) => *result,
                (None, Some(t)) => typed_null(&field_ref(&t, "", true))?,
                (None, None) => Expr::Literal(ScalarValue::Null, None),
            });
        }
    }
    Ok(of_type(Expr::Case(Case { expr, when_then_expr: arms, else_expr }), sql_type, schema))
}

/// A choice among values of a type, which DataFusion gives no more than their layout.
pub(super) fn of_type(choice: Expr, sql_type: Option<SqlType>, schema: &DFSchema) -> Expr {
    match (type_of(&choice, schema), sql_type) {
        (Some(layout), Some(t)) if layout != t && layout.arrow_type() == t.arrow_type() => {
            Expr::Cast(Cast::new_from_field(Box::new(choice), field_ref(&t, "", true)))
        }
        _ => choice,
    }
}
