//! From stored definitions to what runs: the same planning at CREATE and at every start.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;
use millstream_catalog::object::{MaterializedView, Sink, Source, Watermark};
use millstream_catalog::{Catalog, Object, ObjectKind};
use millstream_connectors::{SinkSpec, SourceSpec};
use millstream_sql::{PlanContext, SessionVars, Statement};

use crate::error::{Error, Result, sqlstate};
use crate::stream::engine::NewObject;
use crate::stream::plan::{self, CatalogRelations, Options, PlannedView};

/// What runs for each object of a catalog, in the order of their ids: what an object reads was made before it.
///
/// # Errors
/// XX000 naming the object, if this server plans it otherwise than the one that made it.
pub fn objects(catalog: &Catalog) -> Result<Vec<NewObject>> {
    let mut out = Vec::new();
    for object in catalog.objects() {
        let name = |e: Error| -> Error {
            let mut named = Error::new(e.sqlstate(), format!("cannot start {}: {e}", object.describe()));
            if let Some(hint) = e.hint() {
                named = named.with_hint(hint);
            }
            named
        };
        if let Some(new) = running(catalog, object).map_err(name)? {
            out.push(new);
        }
    }
    Ok(out)
}

fn running(catalog: &Catalog, object: &Object) -> Result<Option<NewObject>> {
    let id = object.id;
    Ok(match &object.kind {
        ObjectKind::Table(_) => Some(NewObject::Table { id }),
        ObjectKind::Source(source) => Some(source_object(object, source)?),
        ObjectKind::MaterializedView(view) => {
            let plan = plan_view(catalog, object, view)?;
            check_fingerprint(object, &plan, &view.fingerprint)?;
            Some(NewObject::View { id, plan: Box::new(plan) })
        }
        ObjectKind::Sink(sink) => {
            let plan = plan_sink(catalog, object, sink)?;
            check_fingerprint(object, &plan, &sink.fingerprint)?;
            Some(NewObject::Sink { id, plan: Box::new(plan), spec: Box::new(SinkSpec::new(sink)?) })
        }
        ObjectKind::Schema | ObjectKind::View(_) | ObjectKind::ExternalTable(_) => None,
    })
}

/// What runs for a source.
pub fn source_object(object: &Object, source: &Source) -> Result<NewObject> {
    let watermark = source.watermark.as_ref().map(|w| watermark(object, w)).transpose()?;
    Ok(NewObject::Source { id: object.id, spec: Box::new(SourceSpec::new(source)?), watermark })
}

/// The watermark's column and its expression over the object's columns.
fn watermark(object: &Object, watermark: &Watermark) -> Result<(usize, Arc<dyn PhysicalExpr>)> {
    let expr = millstream_sql::column_expression(&watermark.expression, object.columns(), &object.name)?;
    let schema = datafusion::common::DFSchema::try_from(object.arrow_schema().as_ref().clone())?;
    Ok((watermark.column, plan::physical(&expr, &schema)?))
}

fn plan_view(catalog: &Catalog, object: &Object, view: &MaterializedView) -> Result<PlannedView> {
    plan_stored(catalog, object, &view.query, view.emit_on_window_close)
}

fn plan_sink(catalog: &Catalog, object: &Object, sink: &Sink) -> Result<PlannedView> {
    plan_stored(catalog, object, &sink.query, sink.emit_on_window_close)
}

/// Plans a stored query again, resolving its names as they were bound at CREATE.
fn plan_stored(catalog: &Catalog, object: &Object, query: &str, emit_on_window_close: bool) -> Result<PlannedView> {
    let parsed = millstream_sql::parse(query)?;
    let [parsed] = parsed.as_slice() else {
        return Err(Error::new(sqlstate::DATA_CORRUPTED, "the stored query is not one statement"));
    };
    let Statement::Query(query) = &parsed.statement else {
        return Err(Error::new(sqlstate::DATA_CORRUPTED, "the stored query is no query"));
    };
    let external = HashMap::new();
    let session = SessionVars::default();
    let context = PlanContext {
        catalog,
        search_path: &[],
        bindings: Some(&object.references),
        system: &millstream_sql::NoSystemTables,
        external: &external,
        session: &session,
        parameters: &[],
    };
    let planned = millstream_sql::plan_query(query, &context)?;
    plan::plan(planned.plan, &CatalogRelations(catalog), object.id, Options { emit_on_window_close })
}

fn check_fingerprint(object: &Object, plan: &PlannedView, stored: &str) -> Result<()> {
    if plan.fingerprint() == stored {
        return Ok(());
    }
    Err(Error::new(
        sqlstate::DATA_CORRUPTED,
        format!("{} was planned otherwise by the server version that made it, its state cannot be read", object.describe()),
    )
    .with_hint("start the version that made it, drop the object there, and create it again here")
    .with_detail(format!("stored plan:\n{stored}\nplan of this server:\n{}", plan.fingerprint())))
}
