//! The view behind a subscription to a query: made with it, kept in schema `millstream`, dropped when it ends.
//!
//! It is a continuous view like any other, so what a view cannot keep is refused here too. A server that was killed drops
//! what was left of its subscriptions when it starts.

use millstream_catalog::{Catalog, ObjectId, ObjectKind};
use millstream_sql::Parsed;
use millstream_sql::plan::{CreateMaterializedViewPlan, NewName, PlannedQuery};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, sqlstate};
use crate::session::Session;
use crate::session::database::Database;
use crate::session::temporary::drop_all;
use crate::stream::engine::Engine;

/// A view that is dropped with this.
pub struct Temporary {
    pub id: ObjectId,
    database: Database,
    user: String,
}

impl Session {
    /// Makes the view of a query, by itself whatever transaction is open.
    ///
    /// # Errors
    /// As CREATE MATERIALIZED VIEW of the query.
    pub(in crate::session) async fn temporary_view(
        &mut self,
        query: PlannedQuery,
        text: String,
        parsed: &Parsed,
        cancel: CancellationToken,
    ) -> Result<Temporary> {
        let open = self.transaction.take();
        let made = self.make_temporary_view(query, text, parsed, cancel).await;
        self.transaction = open;
        made
    }

    async fn make_temporary_view(
        &mut self,
        query: PlannedQuery,
        text: String,
        parsed: &Parsed,
        cancel: CancellationToken,
    ) -> Result<Temporary> {
        let name = format!("subscription_{}_{}", self.client.process_id, self.database.subscriptions.number());
        let plan = CreateMaterializedViewPlan {
            name: NewName { schema: ObjectId::MILLSTREAM, schema_name: "millstream".into(), name: name.clone() },
            query,
            query_text: text,
            time_zone: self.settings.time_zone().to_string(),
            emit_on_window_close: false,
            options: Default::default(),
        };
        let scope = self.scope(&parsed.statement).await?;
        self.create_materialized_view(plan, parsed, &scope, cancel).await?;
        let published = self.database.engine.published();
        let made = |o: &&std::sync::Arc<millstream_catalog::Object>| is_temporary(o) && o.name == name;
        let view = published.catalog.objects().find(made);
        let id = view.map(|view| view.id).ok_or_else(|| Error::internal("the view of a subscription is not there"))?;
        Ok(Temporary { id, database: self.database.clone(), user: self.role().to_string() })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let (id, database, user) = (self.id, self.database.clone(), std::mem::take(&mut self.user));
        // When the server stops nobody is left to do it: the next start does.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(e) = drop_views(&database.engine, &[id], &user).await
                && e.sqlstate() != sqlstate::ADMIN_SHUTDOWN
            {
                tracing::warn!(error = %e, "the view of a subscription that has ended could not be dropped");
            }
        });
    }
}

fn is_temporary(object: &millstream_catalog::Object) -> bool {
    object.schema == ObjectId::MILLSTREAM && matches!(object.kind, ObjectKind::MaterializedView(_))
}

/// Views of subscriptions in a catalog: at start nobody reads them.
pub fn left_over(catalog: &Catalog) -> Vec<ObjectId> {
    catalog.objects().filter(|o| is_temporary(o)).map(|o| o.id).collect()
}

/// Drops views of subscriptions, with whatever has been made to read them; those that are gone already are no error.
///
/// # Errors
/// 40001 if others change the catalog all the time.
pub async fn drop_views(engine: &Engine, views: &[ObjectId], user: &str) -> Result<()> {
    let there = |catalog: &Catalog| views.iter().copied().filter(|id| catalog.get(*id).is_some()).collect();
    drop_all(engine, there, "the end of SUBSCRIBE", user).await
}
