//! Temporary tables: a session's own schema, first on its path, which goes with the session.
//!
//! They are tables like any other, so a transaction takes them back too. A server that was killed drops what was left of them
//! when it starts.

use std::sync::Arc;

use millstream_catalog::{Catalog, Draft, Object, ObjectId, ObjectKind};
use millstream_sql::{Parsed, Statement, TEMPORARY_SCHEMA};

use super::{Scope, Session};
use crate::error::{Result, sqlstate};
use crate::stream::engine::{DdlRequest, DdlStep, Engine};

/// How often a drop is tried that others come into the way of.
const TRIES_MAX: usize = 100;

impl Session {
    /// Name of the schema of the session's temporary tables.
    pub(super) fn temporary_schema(&self) -> String {
        format!("{TEMPORARY_SCHEMA}_{}", self.id)
    }

    /// The search path, with the session's temporary tables first if it has made any.
    pub(super) fn path_in(&self, catalog: &Catalog) -> Vec<String> {
        let own = self.temporary_schema();
        let own = self.has_temporary.then_some(own).filter(|own| catalog.schema(own).is_ok());
        own.into_iter().chain(self.search_path.iter().cloned()).collect()
    }

    /// Makes the schema that a statement's table goes to, if it is a temporary one.
    ///
    /// # Errors
    /// As CREATE SCHEMA.
    pub(super) async fn prepare_temporary(&mut self, parsed: &Parsed, scope: Scope) -> Result<Scope> {
        let name = match &parsed.statement {
            Statement::CreateTable(create) => &create.name,
            Statement::CreateTableAs(create) => &create.name,
            _ => return Ok(scope),
        };
        let schema = name.0.first().and_then(|part| part.as_ident()).filter(|_| name.0.len() == 2);
        let own = self.temporary_schema();
        if schema.is_none_or(|schema| schema.value != TEMPORARY_SCHEMA) || scope.published.catalog.schema(&own).is_ok()
        {
            return Ok(scope);
        }
        self.has_temporary = true;
        self.create_schema(own, parsed, &scope).await?;
        self.scope(&parsed.statement).await
    }

    /// Drops the temporary tables: the session ends.
    pub(super) fn drop_temporary(&self) {
        // When the server stops nobody is left to do it: the next start does.
        let (true, Ok(runtime)) = (self.has_temporary, tokio::runtime::Handle::try_current()) else { return };
        let (database, own, user) = (self.database.clone(), self.temporary_schema(), self.client.user.clone());
        runtime.spawn(async move {
            if let Err(e) = drop_schemas(&database.engine, |name| name == own, &user).await
                && e.sqlstate() != sqlstate::ADMIN_SHUTDOWN
            {
                tracing::warn!(error = %e, "the temporary tables of a session that has ended could not be dropped");
            }
        });
    }
}

/// Whether a schema is one of temporary tables.
pub fn is_temporary(schema: &str) -> bool {
    schema.strip_prefix(TEMPORARY_SCHEMA).is_some_and(|rest| rest.starts_with('_'))
}

/// Drops the schemas of those names with all that is in them and what was built on it.
///
/// # Errors
/// 40001 if others change the catalog all the time.
pub async fn drop_schemas(engine: &Engine, named: impl Fn(&str) -> bool, user: &str) -> Result<()> {
    let all = |catalog: &Catalog| {
        let is_it = |o: &&Arc<Object>| o.kind == ObjectKind::Schema && named(&o.name);
        let schemas: Vec<ObjectId> = catalog.objects().filter(is_it).map(|o| o.id).collect();
        let inside = catalog.objects().filter(|o| o.kind != ObjectKind::Schema && schemas.contains(&o.schema));
        inside.map(|o| o.id).chain(schemas.iter().copied()).collect()
    };
    drop_all(engine, all, "the end of the session", user).await
}

/// Drops what is found in the catalog, with what was built on it; `statement` is what the history says of it.
///
/// # Errors
/// 40001 if others change the catalog all the time.
pub async fn drop_all(
    engine: &Engine,
    find: impl Fn(&Catalog) -> Vec<ObjectId>,
    statement: &str,
    user: &str,
) -> Result<()> {
    let mut tries = 0;
    loop {
        let published = engine.published();
        let found = find(&published.catalog);
        if found.is_empty() {
            return Ok(());
        }
        let mut draft = Draft::new(&published.catalog);
        draft.drop(&found, true)?;
        let base_version = draft.base_version();
        let steps = vec![DdlStep { statement: statement.into(), changes: draft.changes().to_vec() }];
        let (catalog, changes) = draft.finish();
        let request =
            DdlRequest { base_version, catalog, changes, steps, user: user.to_string(), ..DdlRequest::default() };
        match engine.ddl(request).await {
            Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE && tries < TRIES_MAX => tries += 1,
            result => return result.map(drop),
        }
    }
}
