//! Operators as PostgreSQL resolves them: untyped literals take the other side's type, types that do not fit are an error
//! instead of a silent cast, numbers are computed with checks.

use std::sync::Arc;

use datafusion_common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion_expr::expr::{Cast, Placeholder, ScalarFunction};
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{Expr, ExprSchemable, ScalarUDF};
use datafusion_sql::sqlparser::ast::BinaryOperator;
use millstream_catalog::SqlType;
use millstream_catalog::types::field_ref;

use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::functions::arithmetic::{self, Op, plain_name};
use crate::functions::cast::cast;
use crate::functions::{interval, math, zoned_plus_interval};
use crate::types::parse_value;

/// Ours first, then DataFusion's for field access, arrays, EXTRACT, POSITION and kin.
pub(crate) fn operator_planners(ctx: &PlanContext<'_>) -> Vec<Arc<dyn ExprPlanner>> {
    vec![
        Arc::new(Operators { zone: ctx.session.time_zone.clone() }),
        Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
        Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
        Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
        Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
        Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
        Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
        Arc::new(datafusion_functions_window::planner::WindowFunctionPlanner),
    ]
}

#[derive(Debug)]
struct Operators {
    zone: String,
}

impl ExprPlanner for Operators {
    fn plan_extract(&self, mut args: Vec<Expr>) -> DfResult<PlannerResult<Vec<Expr>>> {
        // EXTRACT's field is a word, a string where date_part is called.
        if let Some(Expr::Literal(ScalarValue::Utf8(Some(field)), None)) = args.first() {
            args[0] = datafusion_expr::lit(field.to_ascii_lowercase());
        }
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(crate::functions::extract(), args))))
    }

    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let arithmetic = match op {
            BinaryOperator::Plus => Some(Op::Add),
            BinaryOperator::Minus => Some(Op::Sub),
            BinaryOperator::Multiply => Some(Op::Mul),
            BinaryOperator::Divide => Some(Op::Div),
            BinaryOperator::Modulo => Some(Op::Rem),
            _ => None,
        };
        if let Some(arithmetic) = arithmetic {
            return Ok(match plan_arithmetic(arithmetic, &left, &right, schema, &self.zone)? {
                Arithmetic::Function(expr) => PlannerResult::Planned(expr),
                Arithmetic::Operands(left, right) => PlannerResult::Original(RawBinaryExpr { op, left, right }),
            });
        }
        match op {
            BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq => {
                let (left, right) = comparable(left, right, &op.to_string(), schema, &self.zone)?;
                Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
            }
            BinaryOperator::And | BinaryOperator::Or => {
                let left = resolve_as(left, &SqlType::Bool, &self.zone)?;
                let right = resolve_as(right, &SqlType::Bool, &self.zone)?;
                Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
            }
            BinaryOperator::StringConcat => {
                let (l, r) = (type_of(&left, schema), type_of(&right, schema));
                let is_array = |t: &Option<SqlType>| matches!(t, Some(SqlType::Array(_)));
                if is_array(&l) || is_array(&r) {
                    return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
                }
                let is_jsonb = |t: &Option<SqlType>| *t == Some(SqlType::Jsonb);
                if (is_jsonb(&l) || l.is_none()) && (is_jsonb(&r) || r.is_none()) && (is_jsonb(&l) || is_jsonb(&r)) {
                    let left = resolve_as(left, &SqlType::Jsonb, &self.zone)?;
                    let right = resolve_as(right, &SqlType::Jsonb, &self.zone)?;
                    return Ok(PlannerResult::Planned(crate::functions::json::concat().call(vec![left, right])));
                }
                let texts = |t: &Option<SqlType>| t.as_ref().is_none_or(SqlType::is_text);
                if !texts(&l) && !texts(&r) {
                    return Err(no_operator("||", l.as_ref(), r.as_ref()).into());
                }
                let left = as_text(left, l, &self.zone);
                let right = as_text(right, r, &self.zone);
                Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
            }
            BinaryOperator::Arrow | BinaryOperator::LongArrow => {
                let l = type_of(&left, schema);
                if !matches!(l, Some(SqlType::Json | SqlType::Jsonb)) {
                    return Err(no_operator(&op.to_string(), l.as_ref(), type_of(&right, schema).as_ref()).into());
                }
                let function = match op {
                    BinaryOperator::Arrow => datafusion_functions_json::udfs::json_get_json_udf(),
                    _ => datafusion_functions_json::udfs::json_as_text_udf(),
                };
                let got = Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![left, right]));
                let target = match (op, l) {
                    (BinaryOperator::Arrow, Some(json)) => json,
                    _ => SqlType::Text,
                };
                Ok(PlannerResult::Planned(Expr::Cast(Cast::new_from_field(
                    Box::new(got),
                    field_ref(&target, "", true),
                ))))
            }
            BinaryOperator::HashArrow | BinaryOperator::HashLongArrow => {
                let l = type_of(&left, schema);
                let Some(json @ (SqlType::Json | SqlType::Jsonb)) = l else {
                    return Err(no_operator(&op.to_string(), l.as_ref(), type_of(&right, schema).as_ref()).into());
                };
                let target = if op == BinaryOperator::HashArrow { json } else { SqlType::Text };
                let got = json_path(left, &right, target == SqlType::Text)?;
                Ok(PlannerResult::Planned(Expr::Cast(Cast::new_from_field(
                    Box::new(got),
                    field_ref(&target, "", true),
                ))))
            }
            BinaryOperator::PGExp => {
                for side in [&left, &right] {
                    if matches!(type_of(side, schema), Some(SqlType::Numeric(_))) {
                        return Err(SqlError::unsupported("the operator ^ is not supported for numeric")
                            .with_hint("cast the operands to double precision")
                            .into());
                    }
                }
                let float = |e: Expr| cast(e, &SqlType::Float8, false, &self.zone);
                Ok(PlannerResult::Planned(math::power().call(vec![float(left), float(right)])))
            }
            _ => Ok(PlannerResult::Original(RawBinaryExpr { op, left, right })),
        }
    }
}

/// What `json #> '{a,0}'` finds, step by step. A number is a position in an array and a key in an object.
fn json_path(json: Expr, path: &Expr, as_text: bool) -> Result<Expr> {
    use datafusion_functions_json::udfs;
    let steps = match path {
        Expr::Literal(ScalarValue::Utf8(Some(text)), None) => {
            parse_value(text, &SqlType::Array(Box::new(SqlType::Text)), "UTC")?
        }
        Expr::Literal(value @ ScalarValue::List(_), _) => value.clone(),
        _ => return Err(SqlError::unsupported("a path that is not a constant is not supported for #> and #>>")),
    };
    let ScalarValue::List(list) = steps else { return Err(SqlError::internal("a path that is no list")) };
    let steps = datafusion_common::utils::list_to_arrays::<i32>(&(list as _));
    let mut words: Vec<String> = Vec::new();
    for items in &steps {
        for i in 0..items.len() {
            match ScalarValue::try_from_array(items, i)?.try_as_str().flatten() {
                Some(word) => words.push(word.to_string()),
                None => return Ok(Expr::Literal(ScalarValue::Utf8View(None), None)),
            }
        }
    }
    let mut found = json;
    for (i, word) in words.iter().enumerate() {
        let is_last = i + 1 == words.len();
        let get = |step: Expr| {
            let function = if is_last && as_text { udfs::json_as_text_udf() } else { udfs::json_get_json_udf() };
            Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![found.clone(), step]))
        };
        let by_key = get(datafusion_expr::lit(word.as_str()));
        found = match word.parse::<i64>() {
            Ok(position) => {
                datafusion_functions::core::expr_fn::coalesce(vec![get(datafusion_expr::lit(position)), by_key])
            }
            Err(_) => by_key,
        };
    }
    Ok(found)
}

/// The SQL type of an expression; `None` for an untyped literal, NULL, a parameter without type, or what cannot be told.
pub(crate) fn type_of(expr: &Expr, schema: &DFSchema) -> Option<SqlType> {
    if is_untyped(expr) || is_null(expr) || is_untyped_parameter(expr) {
        return None;
    }
    // A number without a point is an integer if it fits, whatever DataFusion says.
    if matches!(expr, Expr::Literal(ScalarValue::Int64(Some(v)), None) if i32::try_from(*v).is_ok()) {
        return Some(SqlType::Int4);
    }
    if let Expr::Placeholder(Placeholder { field: Some(field), .. }) = expr {
        return SqlType::of(field);
    }
    // What DataFusion says of a cast still has the mark of json or uuid that its argument has.
    if let Expr::Cast(cast) = expr {
        return SqlType::of(&cast.field);
    }
    let (_, field) = expr.to_field(schema).ok()?;
    if field.data_type().is_null() {
        return None;
    }
    SqlType::of(&field)
}

/// A string literal whose type its surroundings decide; typed ones are `Utf8View`.
pub(crate) fn is_untyped(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), None))
}

pub(crate) fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if value.is_null() && value.data_type().is_null())
}

pub(crate) fn is_untyped_parameter(expr: &Expr) -> bool {
    matches!(expr, Expr::Placeholder(Placeholder { field: None, .. }))
}

/// Gives an untyped literal or parameter the type; other expressions are left alone.
///
/// # Errors
/// 22P02 and kin if the literal is no value of that type.
pub(crate) fn resolve_as(expr: Expr, target: &SqlType, zone: &str) -> Result<Expr> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), None) => typed_literal(&text, target, zone),
        other => Ok(resolve_parameter(other, target)),
    }
}

/// A parameter without a type gets this one, without its length or scale, which a value that is bound need not have;
/// anything else stays.
pub(crate) fn resolve_parameter(expr: Expr, target: &SqlType) -> Expr {
    match expr {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            Expr::Placeholder(Placeholder::new_with_field(id, Some(field_ref(&without_modifier(target), "", true))))
        }
        other => other,
    }
}

/// A type without its length or scale.
pub(crate) fn without_modifier(t: &SqlType) -> SqlType {
    match t {
        SqlType::Char(_) => SqlType::Text,
        SqlType::Array(item) => SqlType::Array(Box::new(without_modifier(item))),
        other => literal_type(other),
    }
}

/// A literal of a type. Types that share their layout with text carry their name along.
pub(crate) fn typed_literal(text: &str, target: &SqlType, zone: &str) -> Result<Expr> {
    let value = parse_value(text, target, zone)?;
    let metadata = field_ref(target, "", true).metadata().clone();
    let metadata = if metadata.is_empty() { None } else { Some(metadata.into()) };
    Ok(Expr::Literal(value, metadata))
}

enum Arithmetic {
    Function(Expr),
    Operands(Expr, Expr),
}

fn plan_arithmetic(op: Op, left: &Expr, right: &Expr, schema: &DFSchema, zone: &str) -> Result<Arithmetic> {
    use SqlType as T;
    let (left, right) = (left.clone(), right.clone());
    let (l, r) = (type_of(&left, schema), type_of(&right, schema));
    if l.iter().chain(&r).any(|t| !has_arithmetic(t)) {
        return Err(no_operator(op.symbol(), l.as_ref(), r.as_ref()));
    }
    let (left, right) = match (&l, &r) {
        (Some(l), None) => {
            let target = arithmetic_partner(op, l);
            (left, resolve_as(right, &target, zone)?)
        }
        (None, Some(r)) => {
            let target = if matches!(op, Op::Add | Op::Mul) { arithmetic_partner(op, r) } else { literal_type(r) };
            (resolve_as(left, &target, zone)?, right)
        }
        _ => (left, right),
    };
    let (l, r) = (type_of(&left, schema), type_of(&right, schema));
    let call = |left, right| {
        Ok(Arithmetic::Function(Expr::ScalarFunction(ScalarFunction::new_udf(
            arithmetic::binary(op),
            vec![left, right],
        ))))
    };
    let own = |function: Arc<ScalarUDF>, left, right| Ok(Arithmetic::Function(function.call(vec![left, right])));
    let timestamp = |e: Expr| Expr::Cast(Cast::new_from_field(Box::new(e), field_ref(&T::Timestamp, "", true)));
    match (&l, &r) {
        (Some(a), Some(b)) if a.is_numeric() && b.is_numeric() => call(left, right),
        (Some(a), None) | (None, Some(a)) if a.is_numeric() => call(left, right),
        (Some(T::Date), Some(b)) if matches!(op, Op::Add | Op::Sub) && b.is_numeric() => call(left, right),
        (Some(a), Some(T::Date)) if op == Op::Add && a.is_numeric() => call(left, right),
        (Some(T::Date), Some(T::Date)) if op == Op::Sub => call(left, right),
        (Some(T::Timestamp), Some(T::Timestamp)) | (Some(T::Timestamptz), Some(T::Timestamptz)) if op == Op::Sub => {
            call(left, right)
        }
        (Some(T::Timestamp), Some(T::Date)) if op == Op::Sub => call(left, timestamp(right)),
        (Some(T::Date), Some(T::Timestamp)) if op == Op::Sub => call(timestamp(left), right),
        // PostgreSQL: a date and an interval make a timestamp.
        (Some(T::Date), Some(T::Interval)) if matches!(op, Op::Add | Op::Sub) => {
            Ok(Arithmetic::Operands(timestamp(left), right))
        }
        (Some(T::Interval), Some(T::Date)) if op == Op::Add => Ok(Arithmetic::Operands(left, timestamp(right))),
        (Some(T::Timestamptz), Some(T::Interval)) if matches!(op, Op::Add | Op::Sub) && needs_zone(&right, zone) => {
            let by = if op == Op::Add { right } else { interval::negate().call(vec![right]) };
            own(zoned_plus_interval(), left, by)
        }
        (Some(T::Interval), Some(T::Timestamptz)) if op == Op::Add && needs_zone(&left, zone) => {
            own(zoned_plus_interval(), right, left)
        }
        (Some(T::Timestamp | T::Timestamptz | T::Interval), Some(T::Interval)) if matches!(op, Op::Add | Op::Sub) => {
            Ok(Arithmetic::Operands(left, right))
        }
        (Some(T::Interval), Some(T::Timestamp | T::Timestamptz)) if op == Op::Add => {
            Ok(Arithmetic::Operands(left, right))
        }
        (Some(T::Interval), Some(n)) if op == Op::Mul && n.is_numeric() => own(interval::multiply(), left, right),
        (Some(n), Some(T::Interval)) if op == Op::Mul && n.is_numeric() => own(interval::multiply(), right, left),
        (Some(T::Interval), Some(n)) if op == Op::Div && n.is_numeric() => own(interval::divide(), left, right),
        (Some(T::Date), Some(T::Time)) if op == Op::Add => own(interval::date_plus_time(), left, right),
        (Some(T::Time), Some(T::Date)) if op == Op::Add => own(interval::date_plus_time(), right, left),
        (Some(T::Time), Some(T::Time)) if op == Op::Sub => own(interval::time_difference(), left, right),
        (Some(T::Time), Some(T::Interval)) if op == Op::Add => own(interval::time_plus_interval(), left, right),
        (Some(T::Interval), Some(T::Time)) if op == Op::Add => own(interval::time_plus_interval(), right, left),
        (Some(T::Time), Some(T::Interval)) if op == Op::Sub => {
            own(interval::time_plus_interval(), left, interval::negate().call(vec![right]))
        }
        (Some(_), Some(_)) => Err(no_operator(op.symbol(), l.as_ref(), r.as_ref())),
        _ => Ok(Arithmetic::Operands(left, right)),
    }
}

/// Whether a `timestamptz` that is moved by an interval moves by the clock of a place: its days and months differ from those
/// of UTC.
fn needs_zone(interval: &Expr, zone: &str) -> bool {
    let is_time = matches!(interval, Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(v)), _) if v.months == 0 && v.days == 0);
    !is_time && !zone.eq_ignore_ascii_case("utc")
}

/// The type that PostgreSQL takes for an untyped literal beside `known`.
fn arithmetic_partner(op: Op, known: &SqlType) -> SqlType {
    match (op, known) {
        (Op::Add, SqlType::Timestamp | SqlType::Timestamptz | SqlType::Date | SqlType::Time) => SqlType::Interval,
        (Op::Mul | Op::Div, SqlType::Interval) => SqlType::Float8,
        (_, known) => literal_type(known),
    }
}

/// Whether any of `+ - * / %` takes the type.
fn has_arithmetic(t: &SqlType) -> bool {
    use SqlType as T;
    t.is_numeric()
        || matches!(t, T::Date | T::Time | T::Timestamp | T::Timestamptz | T::Interval | T::Jsonb | T::Array(_))
}

/// PostgreSQL's words for operands that no operator takes.
pub(crate) fn no_operator(symbol: &str, left: Option<&SqlType>, right: Option<&SqlType>) -> SqlError {
    let name = |t: Option<&SqlType>| t.map_or_else(|| "unknown".into(), plain_name);
    SqlError::new("42883", format!("operator does not exist: {} {symbol} {}", name(left), name(right)))
        .with_hint("no operator matches the given name and argument types; you might need to add explicit type casts")
}

/// Makes two sides comparable: literals typed, `char(n)` without its blanks, times in one zone.
///
/// # Errors
/// 42883 if the types do not compare, 22P02 for a literal that is no value of the other side's type.
pub(crate) fn comparable(left: Expr, right: Expr, symbol: &str, schema: &DFSchema, zone: &str) -> Result<(Expr, Expr)> {
    use SqlType as T;
    let (l, r) = (type_of(&left, schema), type_of(&right, schema));
    match (&l, &r) {
        (Some(l), None) if is_untyped_parameter(&right) => {
            return comparable(left, resolve_parameter(right, l), symbol, schema, zone);
        }
        (None, Some(r)) if is_untyped_parameter(&left) => {
            return comparable(resolve_parameter(left, r), right, symbol, schema, zone);
        }
        _ => {}
    }
    let (left, right) = match (&l, &r) {
        (Some(l), None) => (left, resolve_as(right, &literal_type(l), zone)?),
        (None, Some(r)) => (resolve_as(left, &literal_type(r), zone)?, right),
        (None, None) => (resolve_as(left, &T::Text, zone)?, resolve_as(right, &T::Text, zone)?),
        _ => (left, right),
    };
    let (Some(l), Some(r)) = (l, r) else {
        return match (type_of(&left, schema), type_of(&right, schema)) {
            (Some(T::Interval), Some(T::Interval)) => Ok((span_of(left), span_of(right))),
            (Some(T::Jsonb), Some(T::Jsonb)) => comparable_jsonb(left, right, symbol),
            // A char(n) beside a literal: blanks at the end do not count on either side.
            _ => Ok((left, right)),
        };
    };
    let zoned = |e: Expr| cast(e, &T::Timestamptz, false, zone);
    match (&l, &r) {
        (T::Json, _) | (_, T::Json) => {
            Err(no_operator(symbol, Some(&l), Some(&r))
                .with_hint("json has no equality; compare with ->> or use jsonb"))
        }
        (T::Interval, T::Interval) => Ok((span_of(left), span_of(right))),
        (T::Jsonb, T::Jsonb) => comparable_jsonb(left, right, symbol),
        // DataFusion would cut the float to the scale of some decimal.
        (T::Float4 | T::Float8, T::Numeric(_)) => Ok((left, cast(right, &T::Float8, false, zone))),
        (T::Numeric(_), T::Float4 | T::Float8) => Ok((cast(left, &T::Float8, false, zone), right)),
        // Not every integer is a real.
        (T::Float4, T::Int2 | T::Int4 | T::Int8) | (T::Int2 | T::Int4 | T::Int8, T::Float4) => {
            Ok((cast(left, &T::Float8, false, zone), cast(right, &T::Float8, false, zone)))
        }
        (T::Timestamptz, T::Timestamp | T::Date) => Ok((left, zoned(right))),
        (T::Timestamp | T::Date, T::Timestamptz) => Ok((zoned(left), right)),
        (T::Char(_), _) | (_, T::Char(_)) if l.is_text() && r.is_text() => {
            Ok((cast(left, &T::Text, false, zone), cast(right, &T::Text, false, zone)))
        }
        _ if same_family(&l, &r) => Ok((left, right)),
        _ => Err(no_operator(symbol, Some(&l), Some(&r))),
    }
}

/// Documents by a text in which equal numbers are written alike.
fn comparable_jsonb(left: Expr, right: Expr, symbol: &str) -> Result<(Expr, Expr)> {
    if ["<", "<=", ">", ">="].contains(&symbol) {
        return Err(SqlError::unsupported(format!("the operator {symbol} is not supported for jsonb"))
            .with_hint("compare values inside it: (document ->> 'key')::numeric"));
    }
    let key = |document| crate::functions::json::comparison_key().call(vec![document]);
    Ok((key(left), key(right)))
}

/// What intervals are compared by.
pub(crate) fn span_of(interval: Expr) -> Expr {
    interval::span().call(vec![interval])
}

/// The type of a literal beside a column: lengths do not cut it, scales do not round it.
pub(crate) fn literal_type(beside: &SqlType) -> SqlType {
    match beside {
        SqlType::Varchar(_) | SqlType::Name | SqlType::InternalChar => SqlType::Text,
        SqlType::Numeric(_) => SqlType::Numeric(None),
        other => other.clone(),
    }
}

fn same_family(l: &SqlType, r: &SqlType) -> bool {
    use SqlType as T;
    let is_day = |t: &SqlType| matches!(t, T::Date | T::Timestamp);
    match (l, r) {
        (l, r) if l.is_numeric() && r.is_numeric() => true,
        (l, r) if l.is_text() && r.is_text() => true,
        (l, r) if is_day(l) && is_day(r) => true,
        (T::Array(l), T::Array(r)) => same_family(l, r),
        (T::Record(_), T::Record(_)) => true,
        (l, r) => l == r,
    }
}

fn as_text(expr: Expr, sql_type: Option<SqlType>, zone: &str) -> Expr {
    match sql_type {
        Some(SqlType::Char(_)) => cast(expr, &SqlType::Text, false, zone),
        Some(t) if !t.is_text() => cast(expr, &SqlType::Text, false, zone),
        _ => expr,
    }
}
