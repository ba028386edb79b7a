//! From stored definitions to what runs: the same planning at CREATE and at every start.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercionRewriter;
use datafusion::physical_expr::PhysicalExpr;
use millstream_catalog::object::{Source, Table, Watermark};
use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind};
use millstream_connectors::SourceSpec;
use millstream_connectors::options::parse_duration;
use millstream_sql::{PlanContext, SessionVars};

use crate::batch::sinks::Places;
use crate::error::{Error, Result, sqlstate};
use crate::stream::columns_read::ColumnsRead;
use crate::stream::engine::{BACKFILL_RATE_LIMIT, NewObject, STATE_TTL};
use crate::stream::generated::{Computed, Generated};
use crate::stream::plan::{self, CatalogRelations, Options, PlannedView};

/// What runs for each object of a catalog, in the order of their ids: what an object reads was made before it.
///
/// # Errors
/// XX000 naming the object, if this server plans it otherwise than the one that made it.
pub fn objects(catalog: &Catalog, places: &Places) -> Result<Vec<NewObject>> {
    let mut out = Vec::new();
    for object in catalog.objects() {
        let name = |e: Error| -> Error {
            let mut named = Error::new(e.sqlstate(), format!("cannot start {}: {e}", object.describe()));
            if let Some(detail) = e.detail() {
                named = named.with_detail(detail);
            }
            if let Some(hint) = e.hint() {
                named = named.with_hint(hint);
            }
            named
        };
        if let Some(new) = running(catalog, object, places).map_err(name)? {
            out.push(new);
        }
    }
    Ok(out)
}

/// What runs for an object of the catalog, if anything does.
///
/// # Errors
/// As [`objects`].
pub fn running(catalog: &Catalog, object: &Object, places: &Places) -> Result<Option<NewObject>> {
    let id = object.id;
    Ok(match &object.kind {
        ObjectKind::Table(table) => Some(table_object(object, table)?),
        ObjectKind::Index(_) => Some(NewObject::Index { id }),
        ObjectKind::Snapshot(_) => Some(NewObject::Table { id, watermark: None }),
        ObjectKind::Source(source) => Some(source_object(object, source)?),
        ObjectKind::MaterializedView(view) => {
            let plan = plan_of(catalog, object)?;
            check_fingerprint(object, &plan, &view.fingerprint)?;
            Some(NewObject::View { id, plan: Box::new(plan) })
        }
        ObjectKind::Sink(sink) => {
            let plan = plan_of(catalog, object)?;
            check_fingerprint(object, &plan, &sink.fingerprint)?;
            // With its owner's secrets; it goes on with what opens its place even if the owner may not use that any more.
            let spec = places.spec(sink, &object.name, catalog, Some(&object.owner));
            let spec = spec.or_else(|_| places.spec(sink, &object.name, catalog, None))?;
            Some(NewObject::Sink { id, plan: Box::new(plan), spec: Box::new(spec) })
        }
        ObjectKind::Schema
        | ObjectKind::View(_)
        | ObjectKind::ExternalTable(_)
        | ObjectKind::Function(_)
        | ObjectKind::Task(_)
        | ObjectKind::Secret(_)
        | ObjectKind::Role(_)
        | ObjectKind::Database => None,
    })
}

/// What runs for a table.
pub fn table_object(object: &Object, table: &Table) -> Result<NewObject> {
    let watermark = table.watermark.as_ref().map(|w| watermark(object, w)).transpose()?;
    Ok(NewObject::Table { id: object.id, watermark })
}

/// What runs for a source.
pub fn source_object(object: &Object, source: &Source) -> Result<NewObject> {
    let watermark = source.watermark.as_ref().map(|w| watermark(object, w)).transpose()?;
    let spec = Box::new(SourceSpec::new(source)?);
    Ok(NewObject::Source { id: object.id, spec, watermark, generated: generated(object)?.into() })
}

/// The computed columns of a source.
///
/// # Errors
/// None for a source that CREATE accepted.
pub fn generated(object: &Object) -> Result<Vec<Generated>> {
    let schema = DFSchema::try_from(object.arrow_schema().as_ref().clone())?;
    let columns = object.columns().iter().enumerate().filter(|(_, c)| c.is_computed());
    let planned = columns.map(|(column, definition)| {
        if definition.processing_time {
            return Ok(Generated { column, value: Computed::Clock, reads: ColumnsRead::default() });
        }
        let expr = millstream_sql::generation_expression(object.columns(), column, &object.name)?;
        let expr = expr.rewrite(&mut TypeCoercionRewriter::new(&schema))?.data;
        let reads = plan::columns_read(std::iter::once(&expr), &schema)?;
        Ok(Generated { column, value: Computed::Expression(plan::physical(&expr, &schema)?), reads })
    });
    planned.collect()
}

/// The watermark's column and its expression over the object's columns.
fn watermark(object: &Object, watermark: &Watermark) -> Result<(usize, Arc<dyn PhysicalExpr>)> {
    let expr = millstream_sql::column_expression(&watermark.expression, object.columns(), &object.name)?;
    let schema = DFSchema::try_from(object.arrow_schema().as_ref().clone())?;
    Ok((watermark.column, plan::physical(&expr, &schema)?))
}

/// A query as it is stored with the names it was bound to.
pub struct StoredQuery<'a> {
    pub id: ObjectId,
    pub query: &'a str,
    pub references: &'a BTreeMap<String, ObjectId>,
    pub time_zone: &'a str,
    /// Who made it: what `current_user` is in it.
    pub owner: &'a str,
    pub emit_on_window_close: bool,
    /// Of the view or sink.
    pub options: &'a BTreeMap<String, String>,
    /// Shards of its operators.
    pub parallelism: usize,
}

/// Option of a view: the shards of its operators, `0` for as many as there are cores.
pub const PARALLELISM: &str = "parallelism";
/// More are of no use.
const PARALLELISM_MAX: usize = 256;

/// The shards that a view's option asks for.
///
/// # Errors
/// 22023 for what is no such number.
pub fn parallelism(option: &str) -> Result<usize> {
    let asked = option.trim().parse().ok().filter(|n| *n <= PARALLELISM_MAX).ok_or_else(|| {
        let message = format!("option \"{PARALLELISM}\" cannot be '{option}'");
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
            .with_hint(format!("use a number from 1 to {PARALLELISM_MAX}, or 0 for as many as there are cores"))
    })?;
    Ok(if asked > 0 { asked } else { std::thread::available_parallelism().map_or(1, usize::from) })
}

/// Checks a bound on the rows a second of a backfill; `-1` is none.
///
/// # Errors
/// 22023 for what is no such number.
pub fn rate_limit(option: &str) -> Result<()> {
    match option.trim().parse::<i64>() {
        Ok(-1 | 1..=1_000_000_000) => Ok(()),
        _ => Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("option \"{BACKFILL_RATE_LIMIT}\" cannot be '{option}'"),
        )
        .with_hint("use a number of rows a second, or -1 for as many as there can be")),
    }
}

impl<'a> StoredQuery<'a> {
    /// That of a continuous view or a sink; `None` for other objects.
    pub fn of(object: &'a Object) -> Option<Self> {
        let (query, time_zone, emit_on_window_close, options) = match &object.kind {
            ObjectKind::MaterializedView(view) => {
                (&view.query, &view.time_zone, view.emit_on_window_close, &view.options)
            }
            ObjectKind::Sink(sink) => (&sink.query, &sink.time_zone, sink.emit_on_window_close, &sink.options),
            _ => return None,
        };
        let owner = object.made_by.as_ref().unwrap_or(&object.owner);
        let (id, references) = (object.id, &object.references);
        // CREATE has accepted the option, if it is a view's.
        let parallelism = parallelism(options.get(PARALLELISM).map_or("0", String::as_str)).unwrap_or(1);
        Some(Self { id, query, references, time_zone, owner, emit_on_window_close, options, parallelism })
    }
}

/// Plans a stored query for continuous running, at CREATE as at every start: its names resolve as they were bound, and
/// its expressions see the time zone and the user of the session that made it, but nothing else of any session.
///
/// # Errors
/// 0A000 naming what cannot be kept incrementally.
pub fn plan_stored(catalog: &Catalog, stored: &StoredQuery<'_>) -> Result<PlannedView> {
    let query = millstream_sql::parse_query(stored.query)?;
    let external = HashMap::new();
    let session = SessionVars {
        user: stored.owner.into(),
        session_user: stored.owner.into(),
        time_zone: stored.time_zone.into(),
        ..SessionVars::default()
    };
    let context = PlanContext {
        catalog,
        search_path: &[],
        bindings: Some(stored.references),
        system: &millstream_sql::NoSystemTables,
        external: &external,
        session: &session,
        parameters: &[],
        // Whoever made it was allowed to, and it goes on whatever becomes of its owner.
        rights: None,
    };
    let planned = millstream_sql::plan_query(&query, &context)?;
    let options = Options {
        emit_on_window_close: stored.emit_on_window_close,
        parallelism: stored.parallelism,
        state_ttl_us: state_ttl_us(stored.options)?,
    };
    plan::plan(planned.plan, &CatalogRelations(catalog), stored.id, options)
}

/// The option `state_ttl` in microseconds.
fn state_ttl_us(options: &BTreeMap<String, String>) -> Result<Option<i64>> {
    let Some((_, text)) = options.iter().find(|(name, _)| name.eq_ignore_ascii_case(STATE_TTL)) else {
        return Ok(None);
    };
    let ttl_us = parse_duration(text).and_then(|ttl| i64::try_from(ttl.as_micros()).ok()).filter(|us| *us > 0);
    let wrong = || {
        let message = format!("option \"{STATE_TTL}\" is not a duration: '{text}'");
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
            .with_hint("write a number and a unit, as in '1 day', '12 hours', '90 minutes'")
    };
    ttl_us.ok_or_else(wrong).map(Some)
}

/// Plans a continuous view or a sink of the catalog.
///
/// # Errors
/// As [`plan_stored`].
pub fn plan_of(catalog: &Catalog, object: &Object) -> Result<PlannedView> {
    let stored = StoredQuery::of(object);
    let stored = stored.ok_or_else(|| Error::internal(format!("{} does not run", object.describe())))?;
    plan_stored(catalog, &stored)
}

fn check_fingerprint(object: &Object, plan: &PlannedView, stored: &str) -> Result<()> {
    if plan.fingerprint() == stored {
        return Ok(());
    }
    Err(Error::new(
        sqlstate::DATA_CORRUPTED,
        format!(
            "{} was planned otherwise by the server version that made it, its state cannot be read",
            object.describe()
        ),
    )
    .with_hint("start the version that made it, drop the object there, and create it again here")
    .with_detail(format!("stored plan:\n{stored}\nplan of this server:\n{}", plan.fingerprint())))
}
