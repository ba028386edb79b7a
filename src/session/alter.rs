//! ALTER … SET (…), SUSPEND and RESUME: what changes of objects that run.

use std::collections::BTreeMap;

use millstream_catalog::{Object, ObjectId, ObjectKind};
use millstream_connectors::{Reset, SourceSpec, alter};
use millstream_sql::Parsed;
use millstream_sql::statement::{DropKind, ResumeAt};

use super::api::{Notice, Response};
use super::ddl::{PROBE_TIMEOUT, blocking, gone, tag};
use super::{Scope, Session, complete};
use crate::error::{Error, Result, sqlstate};
use crate::stream::engine::SinkChange;

impl Session {
    /// Changes options of a source, whose reader starts anew from its positions, or of a task.
    pub(super) async fn set_options(
        &mut self,
        id: ObjectId,
        options: &BTreeMap<String, String>,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let mut object = Object::clone(draft.catalog().get(id).ok_or_else(|| gone(id))?);
        if let ObjectKind::Task(_) = &object.kind {
            return self.set_task_options(id, options, parsed, scope).await;
        }
        let ObjectKind::Source(source) = &mut object.kind else {
            return Err(Error::unsupported(format!("options of {} cannot be changed", object.describe())));
        };
        let changes = alter::changes(source, options)?;
        source.options.extend(changes.clone());
        let spec = SourceSpec::new(source)?;
        if alter::reaches_outside(&changes) {
            blocking(move || Ok(spec.probe(PROBE_TIMEOUT)?)).await?;
        }
        object.definition = millstream_sql::masked(&millstream_sql::with_options(&object.definition, &changes));
        draft.replace(object);
        self.apply_with(draft, Vec::new(), Vec::new(), None, parsed).await?;
        Ok(complete("ALTER SOURCE"))
    }

    /// Lets a source, view or task stand still.
    pub(super) async fn suspend(
        &mut self,
        id: ObjectId,
        kind: DropKind,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        if kind == DropKind::Sink {
            return self.alter_sink(id, SinkChange::Suspend).await;
        }
        let mut draft = self.draft(scope);
        let object = draft.catalog().get(id).cloned().ok_or_else(|| gone(id))?;
        check_kind("SUSPEND", &object)?;
        if object.suspended {
            self.notices.push(Notice::notice(format!("{} is suspended already", object.describe())));
        } else {
            draft.replace(Object { suspended: true, ..Object::clone(&object) });
            self.apply_with(draft, Vec::new(), Vec::new(), None, parsed).await?;
        }
        Ok(complete(format!("ALTER {}", tag(kind))))
    }

    /// Lets a source, view or task go on, a source also elsewhere where its positions are gone.
    pub(super) async fn resume(
        &mut self,
        id: ObjectId,
        kind: DropKind,
        at: Option<&ResumeAt>,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        if kind == DropKind::Sink {
            return self.resume_sink(id, at, scope).await;
        }
        let mut draft = self.draft(scope);
        let object = draft.catalog().get(id).cloned().ok_or_else(|| gone(id))?;
        check_kind("RESUME", &object)?;
        let reset = at.map(|at| place(&object, at)).transpose()?;
        if !object.suspended && reset.is_none() {
            self.notices.push(Notice::notice(format!("{} is not suspended", object.describe())));
        } else {
            draft.replace(Object { suspended: false, ..Object::clone(&object) });
            self.apply_with(draft, Vec::new(), Vec::new(), reset.map(|to| (id, to)), parsed).await?;
        }
        Ok(complete(format!("ALTER {}", tag(kind))))
    }

    /// Lets a sink send again, from the row of a number on if one is given.
    async fn resume_sink(&self, id: ObjectId, at: Option<&ResumeAt>, scope: &Scope) -> Result<Response> {
        let at = match at {
            None => None,
            Some(ResumeAt::Number(n)) => Some(*n),
            Some(ResumeAt::Word(word)) => {
                let name = scope.published.catalog.get(id).map_or("", |o| o.name.as_str());
                let message = format!("sink \"{name}\" cannot resume at '{word}'");
                return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(
                    "give the number of a row, see acknowledged_sequence and last_sequence in millstream.sinks",
                ));
            }
        };
        self.alter_sink(id, SinkChange::Resume(at)).await
    }

    async fn alter_sink(&self, id: ObjectId, change: SinkChange) -> Result<Response> {
        self.database.engine.alter_sink(id, change).await?;
        Ok(complete("ALTER SINK"))
    }
}

/// Refuses what cannot stand still.
fn check_kind(verb: &str, object: &Object) -> Result<()> {
    match object.kind {
        ObjectKind::Source(_) | ObjectKind::MaterializedView(_) | ObjectKind::Task(_) => Ok(()),
        _ => Err(Error::unsupported(format!("{verb} of {} is not supported", object.describe()))
            .with_hint("sources, materialized views, sinks and tasks can be suspended")),
    }
}

/// Where a source is to go on whose positions are gone.
fn place(object: &Object, at: &ResumeAt) -> Result<Reset> {
    let ObjectKind::Source(source) = &object.kind else {
        let error = Error::unsupported(format!("RESUME AT is not supported for {}", object.describe()));
        return Err(error.with_hint(match object.kind {
            ObjectKind::Task(_) => "EXECUTE TASK ... FOR TIMESTAMP makes up for a scheduled time",
            _ => "it goes on where it stands: ALTER MATERIALIZED VIEW ... RESUME",
        }));
    };
    if !source.options.get("connector").is_some_and(|c| c.eq_ignore_ascii_case("kafka")) {
        return Err(Error::unsupported(format!("RESUME AT is not supported for {}", object.describe()))
            .with_hint("only positions in a Kafka topic can be gone"));
    }
    let word = match at {
        ResumeAt::Number(n) => n.to_string(),
        ResumeAt::Word(word) => word.clone(),
    };
    Reset::of(&word).ok_or_else(|| {
        let message = format!("{} cannot go on at '{word}'", object.describe());
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
            .with_hint("RESUME AT 'earliest' or 'latest': partitions whose positions are gone go on there")
    })
}
