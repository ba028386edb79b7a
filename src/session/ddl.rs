//! CREATE, DROP, ALTER … RENAME, ALTER … SET SCHEMA, COMMENT: each edits a draft of the catalog, which the engine applies in one epoch with
//! whatever starts or stops running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use chrono::Utc;
use millstream_catalog::object::{Format, MaterializedView, Sink, Snapshot, columns_schema};
use millstream_catalog::{Catalog, Column, Draft, Object, ObjectId, ObjectKind, Privilege};
use millstream_connectors::{Reset, SourceSpec};
use millstream_sql::plan::{
    CreateExternalTablePlan, CreateFunctionPlan, CreateMaterializedViewPlan, CreateSinkPlan, CreateSourcePlan,
    CreateTableAsPlan, CreateTablePlan, CreateViewPlan, DropPlan, NewName, PlannedQuery, all_rows,
};
use millstream_sql::statement::DropKind;
use millstream_sql::{Parsed, Version};
use tokio_util::sync::CancellationToken;

use super::api::{Notice, Response};
use super::definitions::{self, PARALLELISM, StoredQuery};
use super::temporary::is_temporary;
use super::transaction::{Transaction, is_outside};
use super::{Scope, Session, complete};
use crate::batch::files;
use crate::batch::jobs::FIRST_ID;
use crate::error::{Error, Result, sqlstate};
use crate::stream::engine::table::table_relation;
use crate::stream::engine::{
    BACKFILL_RATE_LIMIT, DdlRequest, DdlStep, LATE_ROWS, LATE_ROWS_KEEP, NewObject, OnConflict, STATE_TTL, TableWrite,
};
use crate::stream::plan::PlannedView;

/// How long the outside may take to answer at CREATE.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(8);

/// Of rows that change, no two may agree on the key of a sink: a deletion of one would delete the other outside.
fn check_sink_key(name: &str, sink: &Sink, planned: &PlannedView) -> Result<()> {
    let properties = &planned.properties;
    let is_unique = properties.stream_key.as_ref().is_some_and(|key| key.iter().all(|c| sink.key.contains(c)));
    if properties.append_only || sink.key.is_empty() || is_unique {
        return Ok(());
    }
    let names = |columns: &[usize]| {
        let names: Vec<&str> = columns.iter().map(|c| sink.columns[*c].name.as_str()).collect();
        names.join(",")
    };
    let error = format!("rows of sink \"{name}\" may agree on its primary_key '{}'", names(&sink.key));
    Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, error).with_hint(match &properties.stream_key {
        Some(key) => format!("what makes its rows unique is primary_key = '{}'", names(key)),
        None => "its rows have no key that is known; GROUP BY the columns of primary_key makes them one".to_string(),
    }))
}

impl Session {
    pub(super) async fn create_schema(&mut self, name: String, parsed: &Parsed, scope: &Scope) -> Result<Response> {
        let mut draft = self.draft(scope);
        let needed = if is_temporary(&name) { Privilege::Temporary } else { Privilege::Create };
        self.require_in_database(needed, draft.catalog())?;
        let id = draft.new_id();
        let mut object = self.object(id, &new_name(id, name), parsed, ObjectKind::Schema, BTreeMap::new());
        object.schema = id;
        draft.create(object)?;
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete("CREATE SCHEMA"))
    }

    pub(super) async fn create_table(
        &mut self,
        p: CreateTablePlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let id = draft.new_id();
        let table = p.table.clone();
        let object = self.object(id, &p.name, parsed, ObjectKind::Table(p.table), BTreeMap::new());
        let new = definitions::table_object(&object, &table)?;
        // A column type that cannot be stored, or be a key, is found here and not in the loop.
        table_relation(&object)?;
        draft.create(object)?;
        self.apply(draft, vec![new], Vec::new(), parsed).await?;
        Ok(complete("CREATE TABLE"))
    }

    pub(super) async fn create_table_as(
        &mut self,
        p: CreateTableAsPlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let id = draft.new_id();
        let definition = millstream_sql::table_definition(&p.name.schema_name, &p.name.name, &p.table);
        let mut object = self.object(id, &p.name, parsed, ObjectKind::Table(p.table), BTreeMap::new());
        // What the query read may be gone when the table is looked at.
        object.definition = definition;
        table_relation(&object)?;
        let schema = object.arrow_schema();
        draft.create(object)?;
        let mut writes = Vec::new();
        let mut rows = 0;
        if p.with_data {
            let batches = self.collect(p.query.plan, &[], scope).await?;
            let inserts = super::dml::stored_rows(&schema, &batches)?;
            rows = inserts.num_rows();
            writes.push(TableWrite {
                table: id,
                deletes: None,
                inserts: Some(inserts),
                on_conflict: OnConflict::Error,
                truncate: false,
            });
        }
        self.apply(draft, vec![NewObject::Table { id, watermark: None }], writes, parsed).await?;
        Ok(complete(format!("SELECT {rows}")))
    }

    pub(super) async fn create_source(
        &mut self,
        mut p: CreateSourcePlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        if let Some(format) = &scope.source_format {
            p.source.format = Some(format.clone());
        }
        let spec = SourceSpec::new(&p.source)?;
        blocking(move || Ok(spec.probe(PROBE_TIMEOUT)?)).await?;
        let mut draft = self.draft(scope);
        let id = draft.new_id();
        let source = p.source.clone();
        let object = self.object(id, &p.name, parsed, ObjectKind::Source(p.source), BTreeMap::new());
        let new = definitions::source_object(&object, &source)?;
        draft.create(object)?;
        self.apply(draft, vec![new], Vec::new(), parsed).await?;
        Ok(complete("CREATE SOURCE"))
    }

    pub(super) async fn create_view(&mut self, p: CreateViewPlan, parsed: &Parsed, scope: &Scope) -> Result<Response> {
        let mut draft = self.draft(scope);
        match p.replaces.and_then(|id| draft.catalog().get(id).cloned()) {
            Some(old) => {
                let new = self.object(old.id, &p.name, parsed, ObjectKind::View(p.view), p.references);
                let (owner, comment) = (old.owner.clone(), old.comment.clone());
                let column_comments = old.column_comments.clone();
                draft.replace(Object { owner, comment, column_comments, ..new });
            }
            None => {
                let id = draft.new_id();
                draft.create(self.object(id, &p.name, parsed, ObjectKind::View(p.view), p.references))?;
            }
        }
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete("CREATE VIEW"))
    }

    pub(super) async fn create_materialized_view(
        &mut self,
        mut p: CreateMaterializedViewPlan,
        parsed: &Parsed,
        scope: &Scope,
        cancel: CancellationToken,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let (id, snapshots) = self.new_reader(&mut draft, &p.query, parsed)?;
        for (option, default) in [(PARALLELISM, "0"), (BACKFILL_RATE_LIMIT, "-1")] {
            let value = self.settings.get(option)?;
            if value != default {
                p.options.entry(option.into()).or_insert(value);
            }
        }
        let planned = self.plan_materialized_view(&p, id, draft.catalog())?;
        let writes = self.take_snapshots(&draft, &snapshots, &p.query, scope).await?;
        let view = MaterializedView {
            columns: p.query.columns.iter().map(nullable).collect(),
            query: p.query_text,
            time_zone: p.time_zone,
            emit_on_window_close: p.emit_on_window_close,
            options: p.options,
            stream_key: planned.properties.stream_key.clone(),
            append_only: planned.properties.append_only,
            watermark_columns: planned.properties.watermark_columns.clone(),
            fingerprint: planned.fingerprint(),
        };
        let kind = ObjectKind::MaterializedView(view);
        let object = self.object(id, &p.name, parsed, kind, p.query.references);
        match object.schema {
            // That of a subscription.
            ObjectId::MILLSTREAM => draft.create_own(object),
            _ => draft.create(object)?,
        }
        let mut new = snapshot_tables(&snapshots);
        new.push(NewObject::View { id, plan: Box::new(planned) });
        let (database, user) = (self.database.clone(), self.role().to_string());
        let mut made = std::pin::pin!(self.apply(draft, new, writes, parsed));
        tokio::select! {
            made = &mut made => made?,
            () = cancel.cancelled() => {
                let stopped = database.engine.cancel_job(id, &parsed.text, &user).await;
                match stopped {
                    Ok(_) => return Err(super::query::canceled()),
                    // It was complete already, or never made: then its own answer says what happened.
                    Err(_) => made.await?,
                }
            }
        };
        Ok(complete("CREATE MATERIALIZED VIEW"))
    }

    /// Takes the id of a new view or sink, and puts those of the snapshots that it reads, which come before it, into the
    /// draft; their rows are not there yet.
    pub(super) fn new_reader(
        &self,
        draft: &mut Draft,
        query: &PlannedQuery,
        parsed: &Parsed,
    ) -> Result<(ObjectId, Vec<ObjectId>)> {
        let tables: Vec<ObjectId> = query.snapshots()?.into_keys().collect();
        let ids: Vec<ObjectId> = tables.iter().map(|_| draft.new_id()).collect();
        let reader = draft.new_id();
        let taken_us = Utc::now().timestamp_micros();
        for (of, id) in tables.into_iter().zip(&ids) {
            let table = draft.catalog().get(of).cloned().ok_or_else(|| gone(of))?;
            let columns = table.columns().iter().map(nullable).collect();
            let kind = ObjectKind::Snapshot(Snapshot { columns, of, reader, taken_us });
            let name = NewName { schema: ObjectId::MILLSTREAM, ..new_name(*id, table.name.clone()) };
            let object = self.object(*id, &name, parsed, kind, BTreeMap::new());
            table_relation(&object)?;
            draft.create(object)?;
        }
        Ok((reader, ids))
    }

    /// Reads the external tables for a view's snapshots.
    ///
    /// # Errors
    /// As [`Session::collect`]; those of the files.
    async fn take_snapshots(
        &self,
        draft: &Draft,
        snapshots: &[ObjectId],
        query: &PlannedQuery,
        scope: &Scope,
    ) -> Result<Vec<TableWrite>> {
        let versions = query.snapshots()?;
        let mut writes = Vec::new();
        for id in snapshots {
            let object = draft.catalog().get(*id).ok_or_else(|| gone(*id))?;
            let ObjectKind::Snapshot(snapshot) = &object.kind else { continue };
            let table = draft.catalog().get(snapshot.of).ok_or_else(|| gone(snapshot.of))?;
            let version = versions.get(&snapshot.of).copied().unwrap_or(Version::Creation);
            let batches = self.collect(all_rows(table, version)?, &[], scope).await?;
            writes.push(TableWrite {
                table: *id,
                deletes: None,
                inserts: Some(super::dml::stored_rows(&object.arrow_schema(), &batches)?),
                on_conflict: OnConflict::Error,
                truncate: false,
            });
        }
        Ok(writes)
    }

    pub(super) async fn cancel_jobs(&self, jobs: &[u32], parsed: &Parsed) -> Result<Response> {
        for job in jobs {
            if *job >= FIRST_ID {
                self.check_may_cancel(*job)?;
                if !self.database.batch.jobs().cancel(*job) {
                    return Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("job {job} does not exist"))
                        .with_hint("SHOW JOBS and millstream.jobs list them"));
                }
                continue;
            }
            let published = self.database.engine.published();
            if let Some(object) = published.catalog.get(ObjectId(*job)) {
                self.require_owner(object, &published.catalog)?;
            }
            self.database.engine.cancel_job(ObjectId(*job), &parsed.text, self.role()).await?;
        }
        Ok(complete("CANCEL JOB"))
    }

    /// The operators of a continuous view; also for EXPLAIN.
    pub(super) fn plan_materialized_view(
        &self,
        p: &CreateMaterializedViewPlan,
        id: ObjectId,
        catalog: &Catalog,
    ) -> Result<PlannedView> {
        for (option, value) in &p.options {
            let wrong = |message: String, hint: &str| {
                Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(hint))
            };
            match (option.as_str(), value.as_str()) {
                (LATE_ROWS, LATE_ROWS_KEEP | "count") | (STATE_TTL, _) => {}
                (LATE_ROWS, _) => {
                    let message = format!("option \"{LATE_ROWS}\" cannot be '{value}'");
                    return wrong(message, "use 'keep' to keep late rows, or 'count' (the default)");
                }
                (PARALLELISM, _) => {}
                (BACKFILL_RATE_LIMIT, rate) => {
                    definitions::rate_limit(rate)?;
                }
                _ => {
                    let message = format!("unknown option \"{option}\" of materialized view \"{}\"", p.name.name);
                    return wrong(message, "the options are backfill_rate_limit, late_rows, parallelism, state_ttl");
                }
            }
        }
        definitions::plan_stored(
            catalog,
            &StoredQuery {
                id,
                query: &p.query_text,
                references: &p.query.references,
                time_zone: &p.time_zone,
                owner: self.role(),
                emit_on_window_close: p.emit_on_window_close,
                parallelism: definitions::parallelism(p.options.get(PARALLELISM).map_or("0", String::as_str))?,
                options: &p.options,
            },
        )
    }

    pub(super) async fn create_sink(&mut self, p: CreateSinkPlan, parsed: &Parsed, scope: &Scope) -> Result<Response> {
        let mut draft = self.draft(scope);
        let (id, snapshots) = self.new_reader(&mut draft, &p.query, parsed)?;
        let mut sink = p.sink;
        let stored = StoredQuery {
            id,
            query: &sink.query,
            references: &p.query.references,
            time_zone: &sink.time_zone,
            owner: self.role(),
            emit_on_window_close: p.emit_on_window_close,
            parallelism: definitions::parallelism(&self.settings.get(PARALLELISM)?)?,
            options: &sink.options,
        };
        let planned = definitions::plan_stored(draft.catalog(), &stored)?;
        sink.fingerprint = planned.fingerprint();
        let spec = self.database.batch.places().spec(&sink, &p.name.name, draft.catalog(), Some(self.role()))?;
        if !planned.properties.append_only && !spec.takes_deletes() {
            let (what, hint) = match spec.commit_interval() {
                Some(_) => {
                    ("into files", "use EMIT ON WINDOW CLOSE in the view, or a task with INSERT OVERWRITE or MERGE")
                }
                None => ("of FORMAT PLAIN", "use FORMAT UPSERT with primary_key, or EMIT ON WINDOW CLOSE in the view"),
            };
            let message =
                format!("sink \"{}\" {what} takes append-only queries, and the rows of this one change", p.name.name);
            return Err(Error::unsupported(message).with_hint(hint));
        }
        check_sink_key(&p.name.name, &sink, &planned)?;
        let probe = spec.clone();
        blocking(move || Ok(probe.probe(PROBE_TIMEOUT)?)).await?;
        let writes = self.take_snapshots(&draft, &snapshots, &p.query, scope).await?;
        draft.create(self.object(id, &p.name, parsed, ObjectKind::Sink(sink), p.query.references))?;
        let mut new = snapshot_tables(&snapshots);
        new.push(NewObject::Sink { id, plan: Box::new(planned), spec: Box::new(spec) });
        self.apply(draft, new, writes, parsed).await?;
        Ok(complete("CREATE SINK"))
    }

    pub(super) async fn create_external_table(
        &mut self,
        mut p: CreateExternalTablePlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut rows = None;
        if p.table.is_lake() {
            rows = self.prepare_lake(&mut p, scope).await?;
        } else {
            let secret = scope.access.secret_of(&p.table.options, &p.references);
            files::check_declared(&self.database.batch, &scope.access, &p.table, secret).await?;
        }
        let mut draft = self.draft(scope);
        let id = draft.new_id();
        draft.create(self.object(id, &p.name, parsed, ObjectKind::ExternalTable(p.table), p.references))?;
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete(match rows {
            Some(rows) => format!("SELECT {rows}"),
            None => "CREATE EXTERNAL TABLE".into(),
        }))
    }

    pub(super) async fn create_function(
        &mut self,
        p: CreateFunctionPlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let kind = ObjectKind::Function(p.function);
        match p.replaces {
            Some(id) => {
                let old = draft.catalog().get(id).cloned().ok_or_else(|| gone(id))?;
                let new = self.object(id, &p.name, parsed, kind, p.references);
                draft.replace(new.in_place_of(&old));
            }
            None => {
                let id = draft.new_id();
                draft.create(self.object(id, &p.name, parsed, kind, p.references))?;
            }
        }
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete("CREATE FUNCTION"))
    }

    pub(super) async fn drop_objects(&mut self, p: DropPlan, parsed: &Parsed, scope: &Scope) -> Result<Response> {
        for notice in &p.notices {
            self.notices.push(Notice::notice(notice.clone()));
        }
        let mut draft = self.draft(scope);
        let dropped = draft.drop(&p.ids, p.cascade)?;
        for object in dropped.iter().filter(|o| is_outside(&o.kind)) {
            self.check_outside(&format!("DROP of {}", object.describe()), true)?;
        }
        let is_part = |o: &Object| matches!(o.kind, ObjectKind::Snapshot(_) | ObjectKind::Index(_));
        let is_told = |o: &&Arc<Object>| !p.ids.contains(&o.id) && !is_part(o);
        self.notices.extend(cascade_notice(dropped.iter().filter(is_told).map(|o| o.describe())));
        if !draft.is_empty() {
            self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        }
        Ok(complete(format!("DROP {}", tag(p.kind))))
    }

    pub(super) async fn rename(
        &mut self,
        id: ObjectId,
        kind: DropKind,
        to: &str,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        draft.rename(id, to)?;
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete(format!("ALTER {}", tag(kind))))
    }

    pub(super) async fn set_schema(
        &mut self,
        id: ObjectId,
        kind: DropKind,
        schema: ObjectId,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        draft.set_schema(id, schema)?;
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete(format!("ALTER {}", tag(kind))))
    }

    pub(super) async fn comment(
        &mut self,
        id: ObjectId,
        column: Option<usize>,
        text: Option<String>,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let object = draft.catalog().get(id).cloned();
        let mut object = Object::clone(object.as_deref().ok_or_else(|| gone(id))?);
        let text = text.filter(|t| !t.is_empty());
        match (column, text) {
            (None, text) => object.comment = text,
            (Some(column), Some(text)) => {
                object.column_comments.insert(column, text);
            }
            (Some(column), None) => {
                object.column_comments.remove(&column);
            }
        }
        draft.replace(object);
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete("COMMENT"))
    }

    pub(super) fn object(
        &self,
        id: ObjectId,
        name: &NewName,
        parsed: &Parsed,
        kind: ObjectKind,
        references: BTreeMap<String, ObjectId>,
    ) -> Object {
        Object {
            id,
            schema: name.schema,
            name: name.name.clone(),
            owner: self.role().to_string(),
            made_by: None,
            comment: None,
            column_comments: BTreeMap::new(),
            definition: millstream_sql::masked(&parsed.text),
            references,
            suspended: false,
            acl: None,
            kind,
        }
    }

    /// The catalog to edit: the transaction's own, or a draft for this statement.
    pub(super) fn draft(&self, scope: &Scope) -> Draft {
        let draft = self.transaction.as_ref().and_then(Transaction::draft);
        draft.cloned().unwrap_or_else(|| Draft::new(&scope.published.catalog))
    }

    /// Applies a statement's changes, or keeps them for COMMIT.
    pub(super) async fn apply(
        &mut self,
        draft: Draft,
        new: Vec<NewObject>,
        writes: Vec<TableWrite>,
        parsed: &Parsed,
    ) -> Result<()> {
        self.apply_with(draft, new, writes, None, parsed).await
    }

    /// The same, after which a source goes on elsewhere.
    pub(super) async fn apply_with(
        &mut self,
        draft: Draft,
        new: Vec<NewObject>,
        writes: Vec<TableWrite>,
        reset: Option<(ObjectId, Reset)>,
        parsed: &Parsed,
    ) -> Result<()> {
        if let Some(transaction) = &mut self.transaction {
            return transaction.define(draft, &writes, millstream_sql::masked(&parsed.text));
        }
        let base_version = draft.base_version();
        let steps =
            vec![DdlStep { statement: millstream_sql::masked(&parsed.text), changes: draft.changes().to_vec() }];
        let (catalog, changes) = draft.finish();
        let user = self.role().to_string();
        let records = std::mem::take(&mut self.task_records);
        let request = DdlRequest { base_version, catalog, changes, new, writes, steps, reset, records, user };
        self.database.engine.ddl(request).await?;
        self.database.tasks.wake();
        Ok(())
    }
}

/// One notice of what CASCADE takes along, as PostgreSQL words it.
fn cascade_notice(others: impl Iterator<Item = String>) -> Option<Notice> {
    let others: Vec<String> = others.collect();
    let lines: Vec<String> = others.iter().map(|o| format!("drop cascades to {o}")).collect();
    match others.as_slice() {
        [] => None,
        [_] => Some(Notice::notice(lines.concat())),
        _ => Some(
            Notice::notice(format!("drop cascades to {} other objects", others.len())).with_detail(lines.join("\n")),
        ),
    }
}

/// Asks for the schema of a source's records: the format with it, and its columns if they are wanted.
///
/// # Errors
/// Those of the registry or the file, and of what the schema does not do.
pub(super) async fn source_schema(
    options: BTreeMap<String, String>,
    format: Format,
    wants_columns: bool,
) -> Result<(Format, SchemaRef)> {
    let resolved = blocking(move || Ok(millstream_connectors::resolve(&options, &format, wants_columns)?)).await?;
    Ok((resolved.format, columns_schema(&resolved.columns)))
}

/// Runs what blocks on the outside away from the sockets' threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a probe failed: {e}")))?
}

fn new_name(schema: ObjectId, name: String) -> NewName {
    NewName { schema, schema_name: name.clone(), name }
}

/// What runs for the snapshots that a view or sink reads.
fn snapshot_tables(snapshots: &[ObjectId]) -> Vec<NewObject> {
    snapshots.iter().map(|id| NewObject::Table { id: *id, watermark: None }).collect()
}

/// A view's columns may all be NULL as far as the catalog says: the planner's guesses are no constraints.
fn nullable(column: &Column) -> Column {
    Column { nullable: true, ..column.clone() }
}

pub(super) fn tag(kind: DropKind) -> String {
    kind.name().to_uppercase()
}

pub(super) fn gone(id: ObjectId) -> Error {
    Error::new(sqlstate::UNDEFINED_TABLE, format!("object with OID {id} does not exist any more"))
}
