//! SUBSCRIBE: what is followed, and what the client sees of it.

use millstream_catalog::{Column, ObjectId, ObjectKind, SqlType};

use super::columns::check_names;
use super::dml::select_columns;
use super::query::{plan_query, rename_output};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{PlannedQuery, SubscribePlan, Subscribed};
use crate::statement::{Subscribe, SubscribeTarget};

/// Columns that stand before those of the rows.
fn own_columns() -> [Column; 2] {
    [Column::new("epoch", SqlType::Int8, false), Column::new("op", SqlType::Text, false)]
}

/// `SUBSCRIBE`.
///
/// # Errors
/// Those of the query; 22023 for an epoch with `snapshot = true`, 42809 for a system table, 42P02 for parameters.
pub(super) fn subscribe(s: &Subscribe, ctx: &PlanContext<'_>) -> Result<SubscribePlan> {
    if s.as_of.is_some() && s.snapshot == Some(true) {
        return Err(SqlError::new("22023", "SUBSCRIBE ... AS OF gives what changed after that epoch, and no snapshot")
            .with_hint("leave out AS OF for the rows that are there, or snapshot = true for the changes alone"));
    }
    let (query, text) = match &s.target {
        SubscribeTarget::Relation(name) => {
            let query = select_columns(name, &[]);
            let text = query.to_string();
            (plan_query(&query, ctx)?, text)
        }
        SubscribeTarget::Query(query, text) => (plan_query(query, ctx)?, text.clone()),
    };
    if !query.parameters.is_empty() {
        return Err(SqlError::new("42P02", "parameters are not allowed in SUBSCRIBE")
            .with_hint("write the values into the statement"));
    }
    let columns = own_columns().into_iter().chain(query.columns.iter().cloned()).collect();
    let target = match (&s.target, stored(&query, ctx)) {
        (SubscribeTarget::Relation(_), Some(id)) => Subscribed::Object(id),
        (SubscribeTarget::Relation(name), None) if query.references.is_empty() => {
            return Err(SqlError::new("42809", format!("cannot subscribe to \"{name}\": it is a table of the system"))
                .with_hint("SUBSCRIBE is for tables, continuous views and queries over them"));
        }
        _ => {
            check_names(&query.columns)?;
            let plan = rename_output(query.plan, &query.columns)?;
            if s.as_of.is_some() {
                return Err(SqlError::unsupported("SUBSCRIBE to a query AS OF an epoch is not supported")
                    .with_hint("CREATE MATERIALIZED VIEW for the query, and subscribe to the view"));
            }
            Subscribed::Query { query: Box::new(PlannedQuery { plan, ..query }), text }
        }
    };
    let snapshot = s.snapshot.unwrap_or(s.as_of.is_none());
    Ok(SubscribePlan { target, columns, snapshot, progress: s.progress, as_of: s.as_of })
}

/// The relation that a query is, if its rows are stored.
fn stored(query: &PlannedQuery, ctx: &PlanContext<'_>) -> Option<ObjectId> {
    let mut named = query.references.values();
    let (Some(id), None) = (named.next(), named.next()) else { return None };
    let is_stored = match &ctx.catalog.get(*id)?.kind {
        ObjectKind::Table(_) | ObjectKind::MaterializedView(_) => true,
        ObjectKind::Source(source) => source.is_keyed(),
        _ => false,
    };
    is_stored.then_some(*id)
}
