//! ALTER … SET (…), SUSPEND and RESUME: what changes of objects that run.

use millstream_catalog::ObjectId;
use millstream_sql::statement::{DropKind, ResumeAt};

use super::api::Response;
use super::{Scope, Session};
use crate::error::{Error, Result};

impl Session {
    pub(super) fn suspend(&mut self, id: ObjectId, kind: DropKind, scope: &Scope) -> Result<Response> {
        Err(refused("SUSPEND", id, kind, scope))
    }

    pub(super) fn resume(
        &mut self,
        id: ObjectId,
        kind: DropKind,
        _at: Option<&ResumeAt>,
        scope: &Scope,
    ) -> Result<Response> {
        Err(refused("RESUME", id, kind, scope))
    }
}

pub(super) fn refused(verb: &str, id: ObjectId, kind: DropKind, scope: &Scope) -> Error {
    let name = scope.published.catalog.get(id).map_or("", |o| o.name.as_str());
    Error::unsupported(format!("{verb} of {} \"{name}\" is not supported", kind.name()))
}
