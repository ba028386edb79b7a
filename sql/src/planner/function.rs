//! CREATE FUNCTION, and functions by the name that DROP, ALTER and COMMENT give.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_sql::sqlparser::ast::{DataType, Expr, visit_expressions};
use millstream_catalog::object::{Argument, Function};
use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind, Privilege, SqlType};

use super::calls::{body_expression, is_built_in, plan_body, plan_default, resolve_calls};
use super::create::new_name;
use super::provider::table_reference;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::functions::arithmetic::plain_name;
use crate::parser::in_body;
use crate::plan::{CreateFunctionPlan, NewName, Plan};
use crate::statement::{CreateFunction, Existing};
use crate::types::{normalize, sql_type};

/// How deep functions may call each other.
const DEPTH_MAX: usize = 16;

/// `CREATE [OR REPLACE] FUNCTION`.
pub(crate) fn create(s: &CreateFunction, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = new_name(&s.name, ctx)?;
    let at = |e: SqlError| match s.name.0.last().and_then(|p| p.as_ident()) {
        Some(ident) => e.with_span(ident.span),
        None => e,
    };
    check_name(&name.name, ctx).map_err(at)?;
    let mut references = BTreeMap::new();
    let function = Function {
        arguments: arguments(s, &mut references, ctx)?,
        returns: plain_type(&s.returns)?,
        body: s.body.clone(),
        strict: s.strict,
        volatility: s.volatility,
    };
    let in_its_body = |e| in_body(e, "the body of the function");
    let mut body = body_expression(&function).map_err(in_its_body)?;
    check_qualifiers(&body, &name.name).map_err(in_its_body)?;
    references.extend(resolve_calls(&mut body, ctx).map_err(in_its_body)?);
    let types: Vec<SqlType> = function.arguments.iter().map(|a| a.sql_type.clone()).collect();
    plan_body(&references, &function, &types, ctx).map_err(in_its_body)?;
    let replaces = replaced(s, &name, &function, ctx).map_err(at)?;
    if let Some(old) = &replaces {
        ctx.require_owner(old)?;
    }
    check_depth(&name.name, &references, replaces.as_deref(), ctx.catalog)?;
    if let Some(old) = &replaces
        && old.kind != ObjectKind::Function(function.clone())
    {
        check_unused(old, ctx.catalog)?;
    }
    let replaces = replaces.map(|old| old.id);
    Ok(Plan::CreateFunction(CreateFunctionPlan { name, function, references, replaces }))
}

/// Refuses a name that calls could not reach.
///
/// # Errors
/// 42723 for the name of a built-in function.
pub(crate) fn check_name(name: &str, ctx: &PlanContext<'_>) -> Result<()> {
    if is_built_in(name, ctx) {
        return Err(SqlError::new("42723", format!("function \"{name}\" is built in"))
            .with_hint("give the function a name of its own"));
    }
    Ok(())
}

/// An argument may be qualified by the name of its function, and there is nothing else to qualify.
fn check_qualifiers(body: &Expr, name: &str) -> Result<()> {
    let found = visit_expressions(body, |expr| match expr {
        Expr::CompoundIdentifier(parts) if parts.len() != 2 || normalize(&parts[0]) != name => {
            let message = format!("missing FROM-clause entry for table \"{}\"", normalize(&parts[parts.len() - 2]));
            ControlFlow::Break(SqlError::new("42P01", message))
        }
        _ => ControlFlow::Continue(()),
    });
    match found {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn arguments(
    s: &CreateFunction,
    references: &mut BTreeMap<String, ObjectId>,
    ctx: &PlanContext<'_>,
) -> Result<Vec<Argument>> {
    let mut arguments: Vec<Argument> = Vec::with_capacity(s.arguments.len());
    for definition in &s.arguments {
        let name = definition.name.as_ref().map(normalize);
        if name.is_some() && arguments.iter().any(|a| a.name == name) {
            let name = name.unwrap_or_default();
            return Err(SqlError::new("42P13", format!("parameter name \"{name}\" used more than once")));
        }
        let sql_type = plain_type(&definition.data_type)?;
        let default = match &definition.default {
            Some(expr) => {
                references.extend(resolve_calls(&mut expr.clone(), ctx)?);
                plan_default(expr.clone(), &sql_type, ctx)?;
                Some(expr.to_string())
            }
            None if arguments.iter().any(|a| a.default.is_some()) => {
                return Err(SqlError::new(
                    "42P13",
                    "input parameters after one with a default value must also have defaults",
                ));
            }
            None => None,
        };
        arguments.push(Argument { name, sql_type, default });
    }
    Ok(arguments)
}

/// The type of an argument or result: PostgreSQL too forgets its length or scale.
///
/// # Errors
/// 0A000 for a type that stands for several, or for no value.
fn plain_type(data_type: &DataType) -> Result<SqlType> {
    const PSEUDO: [&str; 13] = [
        "any",
        "anyarray",
        "anycompatible",
        "anycompatiblearray",
        "anycompatiblenonarray",
        "anyelement",
        "anyenum",
        "anynonarray",
        "anyrange",
        "cstring",
        "record",
        "trigger",
        "void",
    ];
    let written = data_type.to_string().to_lowercase();
    if PSEUDO.contains(&written.as_str()) {
        return Err(SqlError::unsupported(format!("type {written} of a function is not supported"))
            .with_hint("name the types of its values"));
    }
    fn plain(t: SqlType) -> Result<SqlType> {
        Ok(match t {
            SqlType::Varchar(_) => SqlType::Varchar(None),
            SqlType::Numeric(_) => SqlType::Numeric(None),
            SqlType::Array(item) => SqlType::Array(Box::new(plain(*item)?)),
            SqlType::Char(_) => {
                return Err(SqlError::unsupported("type character of a function is not supported")
                    .with_hint("use text or character varying"));
            }
            other => other,
        })
    }
    plain(sql_type(data_type)?)
}

/// The function that the new one takes the place of, if there is one.
///
/// # Errors
/// 42723 if it is there and not to be replaced, 42P13 if calls of it could not go on, 0A000 if it has other types.
fn replaced(
    s: &CreateFunction,
    name: &NewName,
    function: &Function,
    ctx: &PlanContext<'_>,
) -> Result<Option<Arc<Object>>> {
    let mut others = ctx.catalog.functions(&name.schema_name, &name.name).filter_map(|object| match &object.kind {
        ObjectKind::Function(other) if other.arguments.len() == function.arguments.len() => Some((object, other)),
        _ => None,
    });
    let Some((object, old)) = others.next() else { return Ok(None) };
    if old.argument_types() != function.argument_types() {
        let name = &name.name;
        let message = format!(
            "functions {name}({}) and {name}({}) beside each other are not supported",
            old.argument_types(),
            function.argument_types()
        );
        return Err(SqlError::unsupported(message).with_hint(
            "functions of one name differ in the number of their arguments; drop the other, or use another name",
        ));
    }
    if !s.or_replace {
        let message = format!("function \"{}\" already exists with same argument types", name.name);
        return Err(SqlError::new("42723", message));
    }
    let refused = |what: String| {
        Err(SqlError::new("42P13", what)
            .with_hint(format!("use DROP {} first", object.describe().replacen("function", "FUNCTION", 1))))
    };
    if old.returns != function.returns {
        return refused("cannot change return type of existing function".into());
    }
    for (old, new) in old.arguments.iter().zip(&function.arguments) {
        if let Some(name) = old.name.as_ref().filter(|_| old.name != new.name) {
            return refused(format!("cannot change name of input parameter \"{name}\""));
        }
        if old.default.is_some() && new.default.is_none() {
            return refused("cannot remove parameter defaults from existing function".into());
        }
    }
    Ok(Some(object.clone()))
}

/// Refuses functions that call themselves or each other without an end.
///
/// # Errors
/// 0A000 for recursion, 54001 for calls nested too deeply.
fn check_depth(
    name: &str,
    references: &BTreeMap<String, ObjectId>,
    replaces: Option<&Object>,
    catalog: &Catalog,
) -> Result<()> {
    let mut below: BTreeSet<ObjectId> = references.values().copied().collect();
    let mut depth = 1;
    while !below.is_empty() {
        depth += 1;
        if replaces.is_some_and(|old| below.contains(&old.id)) {
            return Err(SqlError::unsupported(format!("function {name} would call itself, which is not supported"))
                .with_hint("WITH RECURSIVE repeats a step in a query"));
        }
        let called = below.iter().filter_map(|id| catalog.get(*id));
        below = called.flat_map(|object| object.references.values().copied()).collect();
    }
    let mut above: BTreeSet<ObjectId> = replaces.iter().map(|old| old.id).collect();
    loop {
        let callers = above.iter().flat_map(|id| catalog.dependents(*id));
        above = callers.filter(|o| matches!(o.kind, ObjectKind::Function(_))).map(|o| o.id).collect();
        if above.is_empty() {
            break;
        }
        depth += 1;
    }
    if depth > DEPTH_MAX {
        return Err(SqlError::new("54001", format!("function {name} is nested too deeply in others"))
            .with_hint(format!("functions may call each other {DEPTH_MAX} levels deep")));
    }
    Ok(())
}

/// Continuous views and sinks hold what a function gave when they were made: it cannot give something else from then on.
///
/// # Errors
/// 2BP01 naming them.
fn check_unused(function: &Object, catalog: &Catalog) -> Result<()> {
    let mut lines = Vec::new();
    let mut expanded = vec![function.id];
    let mut seen = BTreeSet::new();
    while let Some(id) = expanded.pop() {
        for dependent in catalog.dependents(id).filter(|o| seen.insert(o.id)) {
            match dependent.kind {
                ObjectKind::MaterializedView(_) | ObjectKind::Sink(_) => {
                    lines.push(format!("{} depends on {}", dependent.describe(), function.describe()));
                }
                _ => expanded.push(dependent.id),
            }
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let message = format!("cannot replace {} because continuous views hold what it computes", function.describe());
    Err(SqlError::new("2BP01", message)
        .with_detail(lines.join("\n"))
        .with_hint("drop them first, or give the new function another name"))
}

/// The function that a name stands for, with the types of its arguments or without.
///
/// # Errors
/// 42883 if there is none, 42725 if there are several, 3F000 for an unknown schema.
pub(crate) fn find(existing: &Existing, ctx: &PlanContext<'_>) -> Result<Arc<Object>> {
    let reference = table_reference(&existing.name)?;
    let name = reference.table();
    let given = reference.schema().map(|schema| [schema.to_string()]);
    let schemas = match &given {
        Some(schema) => {
            ctx.require_in_schema(ctx.catalog.schema(&schema[0])?, Privilege::Usage)?;
            schema.as_slice()
        }
        None => ctx.search_path,
    };
    let wanted = match &existing.arguments {
        Some(types) => Some(types.iter().map(plain_type).collect::<Result<Vec<_>>>()?),
        None => None,
    };
    let fits = |object: &&Arc<Object>| match (&object.kind, &wanted) {
        (ObjectKind::Function(f), Some(types)) => f.arguments.iter().map(|a| &a.sql_type).eq(types),
        _ => true,
    };
    for schema in schemas {
        let mut found = ctx.catalog.functions(schema, name).filter(fits);
        match (found.next(), found.next()) {
            (None, _) => {}
            (Some(object), None) => return Ok(object.clone()),
            (Some(_), Some(_)) => {
                return Err(SqlError::new("42725", format!("function name \"{name}\" is not unique"))
                    .with_hint("specify the argument list to select the function unambiguously"));
            }
        }
    }
    let message = match &wanted {
        Some(types) => {
            let types: Vec<_> = types.iter().map(plain_name).collect();
            format!("function {}({}) does not exist", existing.name, types.join(", "))
        }
        None => format!("could not find a function named \"{name}\""),
    };
    Err(SqlError::new("42883", message))
}
