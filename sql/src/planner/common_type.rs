//! The one type that values of several types get in CASE, COALESCE, IN, set operations and joins: PostgreSQL's choice.
//!
//! DataFusion's differs: a float beside a numeric becomes a numeric, which refuses or cuts it, and a local time beside one
//! with a zone is taken for UTC. Values are converted here before its coercion sees them.

use std::sync::Arc;

use datafusion_common::{Column, DFSchema};
use datafusion_expr::expr::{Cast, InSubquery};
use datafusion_expr::logical_plan::builder::project;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery, Union, Values};
use millstream_catalog::SqlType;
use millstream_catalog::types::{MAX_PRECISION, UNCONSTRAINED_SCALE, field_ref};

use super::operators::{is_null, is_untyped, literal_type, resolve_as, type_of};
use crate::error::{Result, SqlError};
use crate::functions::arithmetic::plain_name;
use crate::functions::cast::{cast, cast_array};

/// Gives `exprs` one type, which untyped literals among them take, and refuses families that do not mix.
pub(crate) fn match_types(
    exprs: Vec<Expr>,
    schema: &DFSchema,
    zone: &str,
    error: &dyn Fn(&SqlType, &SqlType) -> SqlError,
) -> Result<Vec<Expr>> {
    let types: Vec<Option<SqlType>> = exprs.iter().map(|e| type_of(e, schema)).collect();
    let known: Vec<&SqlType> = types.iter().flatten().collect();
    let Some(first) = known.first() else { return Ok(exprs) };
    if let Some(other) = known.iter().find(|other| !mixes(first, other)) {
        return Err(error(first, other));
    }
    let common = common_type(&known).or_else(|| common_text(&types));
    // A literal beside a numeric keeps its digits.
    let target = literal_type(common.as_ref().unwrap_or(first));
    let convert = |(expr, t): (Expr, &Option<SqlType>)| match (t, &common) {
        (Some(t), Some(common)) => converted(expr, t, common, zone),
        (Some(_), None) => Ok(expr),
        (None, _) if is_null(&expr) => Ok(expr),
        (None, _) => resolve_as(expr, &target, zone),
    };
    exprs.into_iter().zip(&types).map(convert).collect()
}

/// Gives the columns of a set operation's inputs, and the keys of a join, the type in which PostgreSQL compares them.
pub(crate) fn one_type_each(node: LogicalPlan, zone: &str) -> Result<LogicalPlan> {
    Ok(match node {
        LogicalPlan::Union(union) => {
            let width = union.schema.fields().len();
            let mut inputs: Vec<Arc<LogicalPlan>> = union.inputs.clone();
            for i in 0..width {
                one_type_in_branches(&mut inputs, i, zone)?;
            }
            let targets: Vec<Option<SqlType>> = (0..width)
                .map(|i| {
                    let types: Vec<SqlType> = inputs.iter().filter_map(|p| column_type(p.schema(), i)).collect();
                    let text = || common_text(&types.iter().cloned().map(Some).collect::<Vec<_>>());
                    common_type(&types.iter().collect::<Vec<_>>()).filter(is_converted).or_else(text)
                })
                .collect();
            let inputs = inputs.iter().map(|input| with_types(input, &targets, zone)).collect::<Result<_>>()?;
            LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)
        }
        LogicalPlan::Join(mut join) => {
            let (left, right) = (join.left.schema().clone(), join.right.schema().clone());
            for (l, r) in &mut join.on {
                let (Some(lt), Some(rt)) = (type_of(l, &left), type_of(r, &right)) else { continue };
                if let Some(common) = common_type(&[&lt, &rt]).filter(is_converted) {
                    *l = converted(l.clone(), &lt, &common, zone)?;
                    *r = converted(r.clone(), &rt, &common, zone)?;
                }
            }
            LogicalPlan::Join(join)
        }
        other => other,
    })
}

/// Gives untyped literals in column `i` of a union's branches the type of the others, and refuses types that do not mix.
///
/// # Errors
/// 42804 for types of two families, 22P02 for a literal that is no value of the others' type.
fn one_type_in_branches(branches: &mut [Arc<LogicalPlan>], i: usize, zone: &str) -> Result<()> {
    let types: Vec<Option<SqlType>> = branches
        .iter()
        .map(|branch| if literal_in(branch, i).is_some() { None } else { column_type(branch.schema(), i) })
        .collect();
    let known: Vec<&SqlType> = types.iter().flatten().collect();
    let target = match known.first() {
        Some(first) => {
            if let Some(other) = known.iter().find(|other| !mixes(first, other)) {
                return Err(SqlError::new(
                    "42804",
                    format!("UNION types {} and {} cannot be matched", plain_name(first), plain_name(other)),
                ));
            }
            literal_type(common_type(&known).or_else(|| common_text(&types)).as_ref().unwrap_or(first))
        }
        None => SqlType::Text,
    };
    for branch in branches {
        if let (Some(literal), LogicalPlan::Projection(node)) = (literal_in(branch, i), branch.as_ref()) {
            let mut exprs = node.expr.clone();
            let name = exprs[i].qualified_name();
            exprs[i] = resolve_as(literal, &target, zone)?.alias_qualified(name.0, name.1);
            *branch = Arc::new(project(node.input.as_ref().clone(), exprs)?);
        }
    }
    Ok(())
}

/// The untyped literal that a branch has in column `i`.
fn literal_in(branch: &LogicalPlan, i: usize) -> Option<Expr> {
    let LogicalPlan::Projection(node) = branch else { return None };
    let expr = node.expr.get(i)?.clone().unalias();
    is_untyped(&expr).then_some(expr)
}

/// VALUES with floats beside numerics, which DataFusion has cast to numerics already; `None` if there are none.
pub(crate) fn of_values(values: &Values, zone: &str) -> Result<Option<LogicalPlan>> {
    let none = DFSchema::empty();
    let uncast = |e: &Expr| match e {
        Expr::Cast(cast) if cast.field.data_type().is_decimal() => cast.expr.as_ref().clone(),
        other => other.clone(),
    };
    let mut rows = values.values.clone();
    let mut changed = false;
    for column in 0..values.schema.fields().len() {
        if !values.schema.field(column).data_type().is_decimal() {
            continue;
        }
        let items: Vec<Expr> = rows.iter().map(|row| uncast(&row[column])).collect();
        let types: Vec<Option<SqlType>> = items.iter().map(|e| type_of(e, &none)).collect();
        let Some(common) = common_type(&types.iter().flatten().collect::<Vec<_>>()).filter(is_converted) else {
            continue;
        };
        changed = true;
        for (row, (item, from)) in rows.iter_mut().zip(items.into_iter().zip(types)) {
            row[column] = match from {
                Some(from) => converted(item, &from, &common, zone)?,
                None => item,
            };
        }
    }
    Ok(if changed { Some(LogicalPlanBuilder::values(rows)?.build()?) } else { None })
}

/// The same for `IN (SELECT …)`.
pub(crate) fn in_subquery(mut found: InSubquery, schema: &DFSchema, zone: &str) -> Result<InSubquery> {
    let plan = &found.subquery.subquery;
    let (Some(l), Some(r)) = (type_of(&found.expr, schema), column_type(plan.schema(), 0)) else { return Ok(found) };
    if let Some(common) = common_type(&[&l, &r]).filter(is_converted) {
        let plan = with_types(plan, &[Some(common.clone())], zone)?;
        found.subquery = Subquery { subquery: plan, ..found.subquery };
        found.expr = Box::new(converted(*found.expr, &l, &common, zone)?);
    }
    Ok(found)
}

fn mixes(l: &SqlType, r: &SqlType) -> bool {
    (l.is_numeric() && r.is_numeric())
        || (l.is_text() && r.is_text())
        || (is_time(l) && is_time(r))
        || std::mem::discriminant(l) == std::mem::discriminant(r)
}

fn is_time(t: &SqlType) -> bool {
    matches!(t, SqlType::Date | SqlType::Timestamp | SqlType::Timestamptz)
}

/// Types to which DataFusion would not convert others, or not as PostgreSQL does.
fn is_converted(t: &SqlType) -> bool {
    matches!(t, SqlType::Float4 | SqlType::Float8 | SqlType::Timestamptz)
}

/// The type that numbers or times become; `None` for others, which are left alone.
fn common_type(types: &[&SqlType]) -> Option<SqlType> {
    use SqlType as T;
    if !(types.iter().all(|t| t.is_numeric()) || types.iter().all(|t| is_time(t))) {
        return None;
    }
    let rank = |t: &SqlType| match t {
        T::Int2 | T::Date => 1,
        T::Int4 | T::Timestamp => 2,
        T::Int8 | T::Timestamptz => 3,
        T::Oid => 4,
        T::Numeric(_) => 5,
        T::Float4 => 6,
        T::Float8 => 7,
        _ => 0,
    };
    let highest = types.iter().copied().max_by_key(|t| rank(t))?;
    if !matches!(highest, T::Numeric(_)) {
        return Some(highest.clone());
    }
    // As many digits as any of them has on either side of the point.
    let layouts = types.iter().map(|t| match t {
        T::Int2 => (5, 0),
        T::Int4 => (10, 0),
        T::Numeric(Some(layout)) => *layout,
        T::Numeric(None) => (MAX_PRECISION, UNCONSTRAINED_SCALE),
        _ => (19, 0),
    });
    let (whole, scale) =
        layouts.fold((0, 0), |(whole, scale), (p, s)| (whole.max(i16::from(p) - i16::from(s)), scale.max(s)));
    let is_open = types.contains(&&T::Numeric(None));
    let open_whole = i16::from(MAX_PRECISION) - i16::from(UNCONSTRAINED_SCALE);
    if is_open && scale <= UNCONSTRAINED_SCALE && whole <= open_whole {
        return Some(T::Numeric(None));
    }
    let precision = (whole + i16::from(scale)).clamp(1, i16::from(MAX_PRECISION));
    Some(T::Numeric(Some((precision as u8, scale))))
}

/// What texts of several lengths become where one of them is of a `char(n)`, which would cut or pad the others.
fn common_text(types: &[Option<SqlType>]) -> Option<SqlType> {
    let is_char = |t: &Option<SqlType>| matches!(t, Some(SqlType::Char(_)));
    (types.iter().any(is_char) && types.iter().any(|t| *t != types[0])).then_some(SqlType::Text)
}

/// The value in another type of its family, a literal as a literal.
fn converted(expr: Expr, from: &SqlType, to: &SqlType, zone: &str) -> Result<Expr> {
    if from == to {
        return Ok(expr);
    }
    if let Expr::Literal(value, _) = &expr
        && !value.is_null()
    {
        let array = cast_array(&value.to_array_of_size(1)?, from, to, false, zone)?;
        let value = datafusion_common::ScalarValue::try_from_array(&array, 0)?;
        let metadata = field_ref(to, "", true).metadata().clone();
        return Ok(Expr::Literal(value, if metadata.is_empty() { None } else { Some(metadata.into()) }));
    }
    if super::rewrite::is_lossless(from, to) {
        return Ok(Expr::Cast(Cast::new_from_field(Box::new(expr), field_ref(to, "", true))));
    }
    Ok(cast(expr, to, false, zone))
}

fn column_type(schema: &DFSchema, i: usize) -> Option<SqlType> {
    let field = schema.fields().get(i).filter(|f| !f.data_type().is_null())?;
    SqlType::of(field)
}

/// The plan with some of its columns in other types.
fn with_types(plan: &Arc<LogicalPlan>, targets: &[Option<SqlType>], zone: &str) -> Result<Arc<LogicalPlan>> {
    let schema = plan.schema();
    let mut changed = false;
    let mut columns = Vec::with_capacity(targets.len());
    for (i, (qualifier, field)) in schema.iter().enumerate() {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        columns.push(match (column_type(schema, i), targets.get(i)) {
            (Some(from), Some(Some(to))) if from != *to => {
                changed = true;
                converted(column, &from, to, zone)?.alias_qualified(qualifier.cloned(), field.name())
            }
            _ => column,
        });
    }
    Ok(if changed { Arc::new(project(plan.as_ref().clone(), columns)?) } else { plan.clone() })
}
