//! ALTER … SET (…), SUSPEND and RESUME: what changes of objects that run.

use millstream_catalog::ObjectId;
use millstream_sql::statement::{DropKind, ResumeAt};

use super::api::Response;
use super::{Scope, Session, complete};
use crate::error::{Error, Result, sqlstate};
use crate::stream::engine::SinkChange;

impl Session {
    pub(super) async fn suspend(&mut self, id: ObjectId, kind: DropKind, scope: &Scope) -> Result<Response> {
        match kind {
            DropKind::Sink => self.alter_sink(id, SinkChange::Suspend).await,
            _ => Err(refused("SUSPEND", id, kind, scope)),
        }
    }

    pub(super) async fn resume(
        &mut self,
        id: ObjectId,
        kind: DropKind,
        at: Option<&ResumeAt>,
        scope: &Scope,
    ) -> Result<Response> {
        match (kind, at) {
            (DropKind::Sink, None) => self.alter_sink(id, SinkChange::Resume(None)).await,
            (DropKind::Sink, Some(ResumeAt::Number(n))) => self.alter_sink(id, SinkChange::Resume(Some(*n))).await,
            (DropKind::Sink, Some(ResumeAt::Word(word))) => {
                let name = scope.published.catalog.get(id).map_or("", |o| o.name.as_str());
                let message = format!("sink \"{name}\" cannot resume at '{word}'");
                Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(
                    "give the number of a row, see acknowledged_sequence and last_sequence in millstream.sinks",
                ))
            }
            _ => Err(refused("RESUME", id, kind, scope)),
        }
    }

    async fn alter_sink(&self, id: ObjectId, change: SinkChange) -> Result<Response> {
        self.database.engine.alter_sink(id, change).await?;
        Ok(complete("ALTER SINK"))
    }
}

pub(super) fn refused(verb: &str, id: ObjectId, kind: DropKind, scope: &Scope) -> Error {
    let name = scope.published.catalog.get(id).map_or("", |o| o.name.as_str());
    Error::unsupported(format!("{verb} of {} \"{name}\" is not supported", kind.name()))
}
