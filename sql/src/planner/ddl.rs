//! DROP, ALTER and COMMENT ON: names to ids.

use std::sync::Arc;

use millstream_catalog::object::Function;
use millstream_catalog::{Object, ObjectId, ObjectKind, Privilege};

use super::provider::table_reference;
use super::{columns, function, index};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{DropPlan, Plan};
use crate::statement::{
    Comment, CommentTarget, Drop, DropKind, Existing, ExplainRunning, Rename, Resume, SetOptions, SetSchema, Suspend,
};
use crate::types::normalize;

/// The existing object of that kind and name.
///
/// # Errors
/// 42P01, 42704, 42883 or 3F000 if there is none, 42809 if it is of another kind.
pub(crate) fn find(kind: DropKind, existing: &Existing, ctx: &PlanContext<'_>) -> Result<Arc<Object>> {
    let name = &existing.name;
    let span = name.0.last().and_then(|p| p.as_ident()).map(|i| i.span);
    let located = |e: SqlError| match span {
        Some(span) => e.with_span(span),
        None => e,
    };
    if kind == DropKind::Function {
        return function::find(existing, ctx).map_err(located);
    }
    let reference = table_reference(name)?;
    if kind == DropKind::Task {
        let found = ctx.catalog.resolve_task(reference.schema(), reference.table(), ctx.search_path);
        return found.cloned().map_err(|e| located(e.into()));
    }
    if kind == DropKind::Secret {
        if reference.schema().is_some() {
            let error = SqlError::syntax(format!("\"{name}\" is not the name of a secret"));
            return Err(located(error.with_hint("a secret is in no schema: its name is one word")));
        }
        return ctx.catalog.secret(reference.table()).cloned().map_err(|e| located(e.into()));
    }
    if kind == DropKind::Schema {
        let id = ctx.catalog.schema(reference.table()).map_err(|e| located(e.into()))?;
        return ctx.catalog.get(id).cloned().ok_or_else(|| SqlError::internal("schema without a record"));
    }
    if let Some(schema) = reference.schema().and_then(|schema| ctx.catalog.schema(schema).ok()) {
        ctx.require_in_schema(schema, Privilege::Usage).map_err(located)?;
    }
    let found = ctx.catalog.resolve(reference.schema(), reference.table(), ctx.search_path);
    let object = found.map_err(|e| {
        let e = SqlError::from(e);
        located(if e.sqlstate == "42P01" {
            let code = if kind == DropKind::Index { "42704" } else { "42P01" };
            SqlError::new(code, format!("{} \"{}\" does not exist", kind.name(), reference.table()))
        } else {
            e
        })
    })?;
    if object.kind_name() != kind.name() {
        let an = |name: &str| if name.starts_with(['e', 'i']) { "an" } else { "a" };
        let article = an(object.kind_name());
        return Err(located(
            SqlError::new("42809", format!("\"{}\" is not {} {}", object.name, an(kind.name()), kind.name()))
                .with_hint(format!(
                    "it is {article} {}; use DROP or ALTER {}",
                    object.kind_name(),
                    object.kind_name().to_uppercase()
                )),
        ));
    }
    Ok(object.clone())
}

/// The table whose primary key's index is named.
fn table_of_key<'a>(name: &Existing, ctx: &'a PlanContext<'_>) -> Result<Option<&'a Arc<Object>>> {
    let reference = table_reference(&name.name)?;
    Ok(index::table_of_key(reference.schema(), reference.table(), ctx))
}

fn is_missing(e: &SqlError) -> bool {
    matches!(e.sqlstate, "42P01" | "42704" | "42883" | "3F000")
}

/// `DROP`.
pub(crate) fn drop(s: &Drop, ctx: &PlanContext<'_>) -> Result<Plan> {
    let mut ids: Vec<ObjectId> = Vec::new();
    let mut notices = Vec::new();
    for name in &s.names {
        match find(s.kind, name, ctx) {
            Ok(object) => {
                if object.id < ObjectId::FIRST_USER {
                    return Err(SqlError::new(
                        "42501",
                        format!("cannot drop {} because it is required by the database system", object.describe()),
                    ));
                }
                ctx.require_to_drop(&object)?;
                if !ids.contains(&object.id) {
                    ids.push(object.id);
                }
            }
            Err(e) if s.kind == DropKind::Index && is_missing(&e) && table_of_key(name, ctx)?.is_some() => {
                let table = table_of_key(name, ctx)?.map_or("", |table| table.name.as_str());
                let (index, key) = (format!("index {table}_pkey"), format!("{table}_pkey"));
                return Err(SqlError::new(
                    "2BP01",
                    format!("cannot drop {index} because constraint {key} on table {table} requires it"),
                )
                .with_hint("a primary key stays as long as its table"));
            }
            Err(e) if s.if_exists && is_missing(&e) => {
                notices.push(format!("{}, skipping", e.message));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Plan::Drop(DropPlan { kind: s.kind, ids, cascade: s.cascade, notices }))
}

/// `ALTER … RENAME TO`.
pub(crate) fn rename(s: &Rename, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = match altered_relation(s.kind, &s.name, s.if_exists, ctx)? {
        Altered::Object(object) => object,
        Altered::Missing(plan) => return Ok(*plan),
    };
    in_schema(&object, "renamed")?;
    let to = normalize(&s.to);
    let taken = match &object.kind {
        ObjectKind::Schema if to.starts_with("pg_") => {
            let error = SqlError::new("42501", format!("permission denied: \"{to}\" is a system schema"));
            return Err(error.with_span(s.to.span));
        }
        ObjectKind::Schema => ctx.catalog.schema(&to).is_ok(),
        ObjectKind::Function(f) => {
            function::check_name(&to, ctx).map_err(|e| e.with_span(s.to.span))?;
            check_free(f, &to, object.schema, ctx).map_err(|e| e.with_span(s.to.span))?;
            false
        }
        // The catalog's own check tells of another task of that name.
        ObjectKind::Task(_) => false,
        _ => ctx.catalog.find(ctx.catalog.get(object.schema).map_or("", |s| s.name.as_str()), &to).is_some(),
    };
    if taken {
        let (code, word) = if s.kind == DropKind::Schema { ("42P06", "schema") } else { ("42P07", "relation") };
        return Err(SqlError::new(code, format!("{word} \"{to}\" already exists")).with_span(s.to.span));
    }
    Ok(Plan::Rename { id: object.id, kind: s.kind, to })
}

/// `ALTER … SET SCHEMA`.
pub(crate) fn set_schema(s: &SetSchema, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = match altered_relation(s.kind, &s.name, s.if_exists, ctx)? {
        Altered::Object(object) => object,
        Altered::Missing(plan) => return Ok(*plan),
    };
    in_schema(&object, "moved")?;
    let to = normalize(&s.to);
    let schema = ctx.catalog.schema(&to).map_err(|e| SqlError::from(e).with_span(s.to.span))?;
    ctx.require_in_schema(schema, Privilege::Create)?;
    if schema != ObjectId::PUBLIC && schema < ObjectId::FIRST_USER {
        return Err(SqlError::new("42501", format!("permission denied for schema {to}")).with_span(s.to.span));
    }
    if let ObjectKind::Function(f) = &object.kind {
        check_free(f, &object.name, schema, ctx).map_err(|e| e.with_span(s.to.span))?;
    } else if !matches!(object.kind, ObjectKind::Task(_)) && ctx.catalog.find(&to, &object.name).is_some() {
        let message = format!("relation \"{}\" already exists in schema \"{to}\"", object.name);
        return Err(SqlError::new("42P07", message).with_span(s.to.span));
    }
    Ok(Plan::SetSchema { id: object.id, kind: s.kind, schema })
}

/// Secrets are known by their names to whatever names them in its options.
fn in_schema(object: &Object, what: &str) -> Result<()> {
    match &object.kind {
        ObjectKind::Secret(_) => Err(SqlError::unsupported(format!("{} cannot be {what}", object.describe()))
            .with_hint("create it under its new name; CREATE OR REPLACE SECRET changes its values")),
        _ => Ok(()),
    }
}

/// `ALTER … SET (option = value, …)`.
pub(crate) fn set_options(s: &SetOptions, ctx: &PlanContext<'_>) -> Result<Plan> {
    Ok(match altered(s.kind, &s.name, s.if_exists, ctx)? {
        Altered::Object(object) => Plan::SetOptions { id: object.id, kind: s.kind, options: s.options.clone() },
        Altered::Missing(plan) => *plan,
    })
}

/// `ALTER … SUSPEND`.
pub(crate) fn suspend(s: &Suspend, ctx: &PlanContext<'_>) -> Result<Plan> {
    Ok(match altered(s.kind, &s.name, s.if_exists, ctx)? {
        Altered::Object(object) => Plan::Suspend { id: object.id, kind: s.kind },
        Altered::Missing(plan) => *plan,
    })
}

/// `ALTER … RESUME`.
pub(crate) fn resume(s: &Resume, ctx: &PlanContext<'_>) -> Result<Plan> {
    Ok(match altered(s.kind, &s.name, s.if_exists, ctx)? {
        Altered::Object(object) => Plan::Resume { id: object.id, kind: s.kind, at: s.at.clone() },
        Altered::Missing(plan) => *plan,
    })
}

/// Refuses a place where there is a function of the same name and number of arguments.
fn check_free(function: &Function, name: &str, schema: ObjectId, ctx: &PlanContext<'_>) -> Result<()> {
    let schema = ctx.catalog.get(schema).map_or("", |s| s.name.as_str());
    let same =
        |o: &Arc<Object>| matches!(&o.kind, ObjectKind::Function(f) if f.arguments.len() == function.arguments.len());
    if ctx.catalog.functions(schema, name).any(same) {
        let message = format!("function {name}({}) already exists in schema \"{schema}\"", function.argument_types());
        return Err(SqlError::new("42723", message));
    }
    Ok(())
}

/// `EXPLAIN [ANALYZE] { MATERIALIZED VIEW | SINK } name`.
pub(crate) fn explain_running(s: &ExplainRunning, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = find(s.kind, &s.name, ctx)?;
    ctx.require(&object, Privilege::Select)?;
    Ok(Plan::ExplainRunning { id: object.id, analyze: s.analyze, format: s.format })
}

/// What an ALTER is about.
pub(crate) enum Altered {
    Object(Arc<Object>),
    /// It is not there, and IF EXISTS says that this is no error.
    Missing(Box<Plan>),
}

pub(crate) fn altered(kind: DropKind, name: &Existing, if_exists: bool, ctx: &PlanContext<'_>) -> Result<Altered> {
    match find(kind, name, ctx) {
        Ok(object) => {
            ctx.require_owner(&object)?;
            Ok(Altered::Object(object))
        }
        Err(e) if if_exists && is_missing(&e) => Ok(Altered::Missing(Box::new(Plan::Nothing {
            tag: alter_tag(kind),
            notice: format!("{}, skipping", e.message),
            sqlstate: "00000",
        }))),
        Err(e) => Err(e),
    }
}

/// The same, where ALTER TABLE is also for views, as in PostgreSQL.
fn altered_relation(kind: DropKind, name: &Existing, if_exists: bool, ctx: &PlanContext<'_>) -> Result<Altered> {
    let found = altered(kind, name, if_exists, ctx);
    match found {
        Err(e) if kind == DropKind::Table && e.sqlstate == "42809" => {
            let others = [DropKind::View, DropKind::MaterializedView, DropKind::ExternalTable];
            let other = others.into_iter().find_map(|kind| altered(kind, name, if_exists, ctx).ok());
            other.ok_or(e)
        }
        found => found,
    }
}

/// Command tag of ALTER.
pub(crate) fn alter_tag(kind: DropKind) -> &'static str {
    match kind {
        DropKind::Schema => "ALTER SCHEMA",
        DropKind::Table => "ALTER TABLE",
        DropKind::Source => "ALTER SOURCE",
        DropKind::View => "ALTER VIEW",
        DropKind::MaterializedView => "ALTER MATERIALIZED VIEW",
        DropKind::Sink => "ALTER SINK",
        DropKind::ExternalTable => "ALTER EXTERNAL TABLE",
        DropKind::Function => "ALTER FUNCTION",
        DropKind::Task => "ALTER TASK",
        DropKind::Secret => "ALTER SECRET",
        DropKind::Index => "ALTER INDEX",
    }
}

/// `COMMENT ON`.
pub(crate) fn comment(s: &Comment, ctx: &PlanContext<'_>) -> Result<Plan> {
    let text = s.text.clone().filter(|t| !t.is_empty());
    match &s.target {
        CommentTarget::Object(kind, name) => {
            let object = find(*kind, name, ctx)?;
            ctx.require_owner(&object)?;
            Ok(Plan::Comment { id: object.id, kind: kind.name(), column: None, text })
        }
        CommentTarget::Column(relation, column) => {
            let reference = table_reference(relation)?;
            let object = ctx.catalog.resolve(reference.schema(), reference.table(), ctx.search_path)?;
            ctx.require_owner(object)?;
            let at = columns::position(object.columns(), column, &object.name)?;
            Ok(Plan::Comment { id: object.id, kind: "column", column: Some(at), text })
        }
    }
}
