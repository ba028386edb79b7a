//! What the server knows of itself, as rows of schema `millstream` and of the system catalogs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::datasource::TableProvider;
use datafusion::logical_expr::ScalarUDF;
use millstream_catalog::role::MONITOR;
use millstream_catalog::{Catalog, Object, ObjectKind, Privilege};
use millstream_sql::SystemTables;

use super::backends::{self, Configured};
use super::database::Database;
use super::definitions;
use super::login;
use super::notify::{Queue, pg_notify};
use super::prepared::PreparedStatements;
use super::secrets;
use super::settings::Settings;
use super::subscriptions::registry::Entry;
use crate::batch::jobs::Job;
use crate::batch::pg_catalog::{ActivityRow, CatalogView, CursorRow, PgCatalog, Setting};
use crate::batch::stores::Access;
use crate::batch::{sleep, system};
use crate::error::{Error, Result, sqlstate};
use crate::state::{Relation, TableId};
use crate::stream::engine::Published;
use crate::stream::engine::pipeline::{errors_relation, late_relation};
use crate::stream::engine::source::positions_at;
use crate::stream::engine::stats::EpochStats;
use crate::stream::engine::system as stored;
use crate::stream::engine::waiting::Waiting;
use crate::stream::plan::StateTable;

/// What stands for a statement of a role that the session has no rights of; PostgreSQL's words.
const NOT_SHOWN: &str = "<insufficient privilege>";

/// The server as one statement sees it.
#[derive(Clone)]
pub struct Inside {
    pub(super) database: Database,
    pub(super) published: Arc<Published>,
    pg: PgCatalog,
    notifications: Queue,
    /// The role that looks.
    role: String,
    /// Whether a table or function of the server's own was asked for.
    asked: Arc<AtomicBool>,
    settings: Settings,
    configured: Configured,
}

/// What the session itself has.
pub struct Own {
    pub process_id: i32,
    pub prepared: PreparedStatements,
    pub cursors: Vec<CursorRow>,
    /// Channels that it listens to.
    pub channels: Vec<String>,
    /// What `pg_notify()` writes to.
    pub notifications: Queue,
    /// What `set_config()` writes to.
    pub configured: Configured,
}

impl Inside {
    pub fn new(
        database: Database,
        published: Arc<Published>,
        settings: &Settings,
        search_path: &[String],
        user: &str,
        own: Own,
    ) -> Self {
        let mut view = CatalogView::new(published.catalog.clone());
        view.search_path = search_path.to_vec();
        view.user = user.to_string();
        view.settings = settings
            .all()
            .into_iter()
            .map(|(name, value, default, description)| Setting {
                name: name.to_string(),
                value,
                default: default.to_string(),
                unit: None,
                description: description.to_string(),
            })
            .collect();
        view.functions = database.batch.function_names();
        let store = database.store.clone();
        view.size_of = Arc::new(move |id| Some(store.size_of(id.0)));
        view.process_id = own.process_id;
        view.prepared = Arc::new(move || own.prepared.rows());
        view.cursors = own.cursors;
        view.channels = own.channels;
        view.started_us = chrono::Utc::now().timestamp_micros() - database.started.elapsed().as_micros() as i64;
        let (all, catalog, role) = (database.clone(), published.catalog.clone(), user.to_string());
        view.activity = Arc::new(move || activity(&all, &catalog, &role));
        Self {
            database,
            published,
            pg: PgCatalog::new(view),
            notifications: own.notifications,
            settings: settings.clone(),
            configured: own.configured,
            role: user.to_string(),
            asked: Arc::default(),
        }
    }

    /// Whether planning has asked for what the server knows at this moment.
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The rows of a system table.
    ///
    /// # Errors
    /// 42P01 if there is none of that name.
    pub fn provider(&self, schema: &str, name: &str) -> Result<Arc<dyn TableProvider>> {
        let found = match schema {
            "millstream" => system::provider(name, Arc::new(self.clone())),
            "cron" => system::provider(&format!("cron.{name}"), Arc::new(self.clone())),
            _ => self.pg.provider(schema, name),
        };
        found.ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{schema}.{name}\" does not exist"))
        })
    }
}

/// All sessions, as `pg_stat_activity` shows them.
fn activity(database: &Database, catalog: &Catalog, role: &str) -> Vec<ActivityRow> {
    let row = |s: super::database::SessionInfo| {
        let (statement, since) = s.last_statement.map_or((String::new(), None), |(text, since)| (text, Some(since)));
        let sees = catalog.has_privileges_of(role, &s.user) || catalog.has_privileges_of(role, MONITOR);
        let statement = if sees { statement } else { NOT_SHOWN.into() };
        ActivityRow {
            process_id: s.process_id,
            user: s.user,
            application_name: s.application_name,
            address: s.address,
            connected_us: s.connected_us,
            statement,
            is_running: s.statement.is_some(),
            statement_us: since,
            changed_us: s.changed_us,
            transaction: s.transaction,
        }
    };
    database.sessions().into_iter().map(row).collect()
}

impl SystemTables for Inside {
    fn table(&self, schema: &str, name: &str) -> Option<SchemaRef> {
        let found = match schema {
            "millstream" => system::schema(name),
            "cron" => system::schema(&format!("cron.{name}")),
            _ => PgCatalog::schema(schema, name),
        };
        self.asked.fetch_or(found.is_some(), Ordering::Relaxed);
        found
    }

    fn function(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let found = match name.strip_prefix("pg_catalog.").unwrap_or(name) {
            "pg_sleep" => Some(sleep::pg_sleep()),
            "pg_notify" => Some(pg_notify(self.notifications.clone())),
            "set_config" => Some(backends::set_config(self.settings.clone(), self.configured.clone())),
            "pg_cancel_backend" => Some(backends::cancel(self.database.backends.clone(), self.clone())),
            "pg_terminate_backend" => Some(backends::terminate(self.database.backends.clone(), self.clone())),
            name => self.pg.function(name),
        };
        self.asked.fetch_or(found.is_some(), Ordering::Relaxed);
        found
    }
}

impl system::Inside for Inside {
    fn table(&self, name: &str) -> Result<RecordBatch> {
        let schema =
            system::schema(name).ok_or_else(|| Error::internal(format!("there is no table millstream.{name}")))?;
        match name {
            "sources" => rows(&schema, self.sources()?),
            "views" => rows(&schema, self.views()?),
            "view_state" => rows(&schema, self.view_state()?),
            "sinks" => rows(&schema, self.sinks()?),
            "jobs" => rows(&schema, self.jobs()),
            "indexes" => rows(&schema, self.indexes()),
            "external_tables" => rows(&schema, self.external_tables()),
            "secrets" => rows(&schema, self.secrets()),
            "sessions" => rows(&schema, self.sessions()),
            "subscriptions" => rows(&schema, self.subscriptions()),
            "settings" => rows(&schema, self.settings()),
            "view_errors" => self.view_errors(&schema),
            "late_rows" => self.late_rows(&schema),
            "dead_letters" => {
                // A source that is gone has left its name.
                let readable = |name: &str| {
                    let is_it = |o: &&Arc<Object>| matches!(o.kind, ObjectKind::Source(_)) && o.name == name;
                    self.published.catalog.objects().filter(is_it).any(|o| self.sees_rows_of(o))
                };
                self.visible(self.history(&stored::dead_letters()?, &schema)?, "source", readable)
            }
            "ddl_history" => {
                let rows = self.history(&stored::ddl_history()?, &schema)?;
                self.visible(rows, "user", |user| self.sees_work_of(user))
            }
            "epochs" => rows(&schema, self.epochs()),
            "tasks" => rows(&schema, self.tasks()?),
            "task_runs" => rows(&schema, self.task_runs()?),
            "cron.job" => rows(&schema, self.cron_jobs()?),
            "cron.job_run_details" => rows(&schema, self.cron_runs()?),
            other => Err(Error::internal(format!("there is no table millstream.{other}"))),
        }
    }
}

/// A row of a small table, by column name; a column that is not named is NULL.
pub(super) type Row = BTreeMap<&'static str, ScalarValue>;

impl Inside {
    /// Whether the role sees what all do.
    fn sees_all(&self) -> bool {
        self.published.catalog.has_privileges_of(&self.role, MONITOR)
    }

    /// Whether the role sees rows of an object.
    fn sees_rows_of(&self, object: &Object) -> bool {
        self.published.catalog.privileges(&self.role, object).has(Privilege::Select)
    }

    /// Whether the role sees what another does and runs.
    pub(super) fn sees_work_of(&self, role: &str) -> bool {
        self.sees_all() || self.published.catalog.has_privileges_of(&self.role, role)
    }

    /// Refuses ending what a session does to roles that may not.
    ///
    /// # Errors
    /// 42501 naming whose it is.
    pub(super) fn check_may_signal(&self, process_id: i32, what: &str) -> Result<()> {
        let sessions = self.database.sessions();
        let Some(other) = sessions.iter().find(|s| s.process_id == process_id) else { return Ok(()) };
        login::check_may_end(&self.published.catalog, &self.role, &other.user, what)
    }

    /// Whether the role sees what a session does, by its number.
    fn sees_session(&self, process_id: i32) -> bool {
        let sessions = self.database.sessions();
        let other = sessions.iter().find(|s| s.process_id == process_id);
        other.is_none_or(|s| self.sees_work_of(&s.user))
    }

    /// The part of a history that the role may see: `column` names who, or what, a row is of.
    fn visible(&self, rows: RecordBatch, column: &str, is_visible: impl Fn(&str) -> bool) -> Result<RecordBatch> {
        if self.sees_all() {
            return Ok(rows);
        }
        let Some(names) = rows.column_by_name(column) else { return Ok(rows) };
        let kept: BooleanArray = names.as_string_view().iter().map(|n| Some(n.is_some_and(&is_visible))).collect();
        Ok(arrow::compute::filter_record_batch(&rows, &kept)?)
    }

    pub(super) fn name_of(&self, object: &Object) -> [(&'static str, ScalarValue); 2] {
        [("schema", text(self.published.catalog.schema_name(object))), ("name", text(&object.name))]
    }

    fn sources(&self) -> Result<Vec<Row>> {
        let all = self.database.engine.stats().sources();
        let now_us = chrono::Utc::now().timestamp_micros();
        let mut out = Vec::new();
        for object in self.published.catalog.objects() {
            let ObjectKind::Source(source) = &object.kind else { continue };
            let option = |key: &str| source.options.get(key).map_or(ScalarValue::Utf8View(None), |v| text(v));
            let base: Row = Row::from_iter(
                self.name_of(object)
                    .into_iter()
                    .chain([("connector", option("connector")), ("topic", option("topic"))]),
            );
            let Some(stats) = all.get(&object.id).filter(|s| !s.partitions.is_empty() || s.status.error.is_some())
            else {
                let mut row = base;
                row.insert("status", text(if object.suspended { "suspended" } else { "not read" }));
                out.push(row);
                continue;
            };
            if stats.partitions.is_empty() {
                let mut row = base.clone();
                row.insert("status", text("waiting"));
                row.insert("consumer_group", optional_text(stats.group.as_deref()));
                row.insert("error", optional_text(stats.status.error.as_deref()));
                out.push(row);
            }
            // Of the moment that the statement reads, which the loop is ahead of.
            let positions = positions_at(&self.published.snapshot, object.id)?;
            for (partition, p) in &stats.partitions {
                let position = positions.get(partition).copied();
                let reader = stats.status.partitions.iter().find(|s| s.partition == *partition);
                let high = reader.and_then(|r| r.high_watermark);
                let error = reader.and_then(|r| r.error.clone()).or_else(|| stats.status.error.clone());
                let status = match (reader.is_some_and(|r| r.stopped), &error) {
                    _ if object.suspended => "suspended",
                    (true, _) => "stopped",
                    (false, Some(_)) => "retrying",
                    (false, None) => "running",
                };
                let mut row = base.clone();
                row.insert("partition", ScalarValue::Int32(Some(*partition)));
                row.insert("position", ScalarValue::Int64(position));
                row.insert("high_watermark", ScalarValue::Int64(high));
                row.insert(
                    "lag",
                    ScalarValue::Int64(high.zip(position).map(|(high, position)| (high - position).max(0))),
                );
                let lag_seconds = position.and_then(|position| p.lag_seconds(position, high, now_us));
                row.insert("lag_seconds", ScalarValue::Float64(lag_seconds));
                row.insert("watermark", ScalarValue::TimestampMicrosecond(p.watermark_us, None));
                row.insert("idle", ScalarValue::Boolean(Some(p.idle)));
                row.insert("rows", int(p.rows as i64));
                row.insert("rows_per_second", ScalarValue::Float64(Some(p.rows_per_second)));
                row.insert("dead_letters", int(p.dead_letters as i64));
                row.insert("skipped", int(p.skipped as i64));
                row.insert("resets", int(p.resets as i64));
                row.insert("lost", int(p.lost as i64));
                row.insert("consumer_group", optional_text(stats.group.as_deref()));
                row.insert("status", text(status));
                row.insert("error", optional_text(error.as_deref()));
                out.push(row);
            }
        }
        Ok(out)
    }

    fn views(&self) -> Result<Vec<Row>> {
        let all = self.database.engine.stats().views();
        let mut out = Vec::new();
        for object in self.published.catalog.objects() {
            let ObjectKind::MaterializedView(view) = &object.kind else { continue };
            let stats = all.get(&object.id).cloned().unwrap_or_default();
            let ms = |q: f64| ScalarValue::Float64(stats.latency_us(q).map(|us| us as f64 / 1000.0));
            let status = match (&stats.failed, stats.is_incomplete_at(self.published.epoch)) {
                (Some(_), _) => "failed",
                (None, _) if object.suspended => "suspended",
                (None, true) if stats.built => "catching up",
                (None, true) => "backfilling",
                (None, false) => "running",
            };
            let mut row = Row::from_iter(self.name_of(object));
            row.insert("time_zone", text(&view.time_zone));
            row.insert("rows", int(stats.rows));
            row.insert("state_bytes", int(self.database.size_of(&self.published.catalog, object.id) as i64));
            row.insert("epoch", int(stats.epoch as i64));
            row.insert("latency_p50_ms", ms(0.5));
            row.insert("latency_p99_ms", ms(0.99));
            row.insert("late_rows", int(stats.late_rows as i64));
            row.insert("expired_rows", int(stats.expired_rows as i64));
            row.insert("failed_rows", int(stats.errors));
            row.insert("status", text(status));
            row.insert("error", optional_text(stats.failed.as_deref().or(stats.trouble.as_deref())));
            out.push(row);
        }
        Ok(out)
    }

    fn indexes(&self) -> Vec<Row> {
        let all = self.database.engine.stats().views();
        let catalog = &self.published.catalog;
        let shown = |object: &Arc<Object>| {
            let ObjectKind::Index(index) = &object.kind else { return None };
            let of = catalog.get(index.of)?;
            let columns: Vec<&str> = index.positions().iter().map(|c| of.columns()[*c].name.as_str()).collect();
            let mut row = Row::from_iter(self.name_of(object));
            row.insert("relation", text(&of.name));
            row.insert("columns", text(&columns.join(", ")));
            row.insert("is_unique", ScalarValue::Boolean(Some(index.unique)));
            row.insert("rows", int(all.get(&of.id).map_or(0, |stats| stats.rows)));
            row.insert("state_bytes", int(self.database.store.size_of(object.id.0) as i64));
            Some(row)
        };
        catalog.objects().filter_map(shown).collect()
    }

    fn view_state(&self) -> Result<Vec<Row>> {
        let mut out = Vec::new();
        for object in self.published.catalog.objects() {
            let is_view = matches!(object.kind, ObjectKind::MaterializedView(_));
            if !is_view && !matches!(object.kind, ObjectKind::Sink(_)) {
                continue;
            }
            let plan = definitions::plan_of(&self.published.catalog, object)?;
            for StateTable { operator, part, layout } in plan.state_tables() {
                // What a sink makes waits in its outbox, see `sinks`.
                if operator.is_none() && !is_view {
                    continue;
                }
                let measure = self.published.snapshot.measure(TableId { object: object.id.0, part })?;
                let mut row = Row::from_iter(self.name_of(object));
                if let Some((number, title)) = &operator {
                    row.insert("operator", ScalarValue::Int32(i32::try_from(*number).ok()));
                    row.insert("operation", text(title));
                }
                row.insert("part", ScalarValue::Int32(Some(part.into())));
                row.insert("layout", text(&layout));
                row.insert("keys", int(measure.keys as i64));
                row.insert("bytes", int(measure.bytes as i64));
                row.insert("is_exact", ScalarValue::Boolean(Some(measure.is_exact)));
                out.push(row);
            }
        }
        Ok(out)
    }

    fn sinks(&self) -> Result<Vec<Row>> {
        let now_us = chrono::Utc::now().timestamp_micros();
        let sinks = self.database.engine.stats().sinks();
        let views = self.database.engine.stats().views();
        let mut out = Vec::new();
        for object in self.published.catalog.objects() {
            let ObjectKind::Sink(sink) = &object.kind else { continue };
            let stats = sinks.get(&object.id).cloned().unwrap_or_default();
            let failed = views.get(&object.id).and_then(|v| v.failed.clone());
            let trouble = stats.trouble();
            let status = match (&failed, &stats.suspended, &trouble) {
                (Some(_), ..) => "failed",
                (None, Some(_), _) => "suspended",
                (None, None, Some(_)) => "retrying",
                (None, None, None) => "running",
            };
            let mut row = Row::from_iter(self.name_of(object));
            row.insert("connector", sink.options.get("connector").map_or(ScalarValue::Utf8View(None), |c| text(c)));
            let outbox_rows = stats.outbox_rows(sink);
            let waiting = match outbox_rows {
                0 => Waiting::NOTHING,
                _ => Waiting::of(&self.published.snapshot, object.id)?,
            };
            row.insert("outbox_rows", int(outbox_rows as i64));
            row.insert("outbox_bytes", ScalarValue::Int64(waiting.bytes.map(|bytes| bytes as i64)));
            row.insert("lag_seconds", ScalarValue::Float64(waiting.lag_seconds(now_us)));
            row.insert("last_sequence", int(stats.produced as i64));
            row.insert("acknowledged_sequence", int(stats.acknowledged(sink) as i64));
            row.insert("status", text(status));
            row.insert("error", optional_text(failed.or(stats.suspended).or(trouble).as_deref()));
            out.push(row);
        }
        Ok(out)
    }

    fn jobs(&self) -> Vec<Row> {
        let all = self.database.engine.stats().views();
        let mut out = Vec::new();
        for object in self.published.catalog.objects() {
            let Some(stats) = all.get(&object.id) else { continue };
            let Some(backfill) = stats.backfill_at(self.published.epoch) else { continue };
            let progress = backfill.rows_done as f64 / backfill.rows_total.max(1) as f64;
            let mut row = Row::from_iter(self.name_of(object));
            row.insert("id", int(i64::from(object.id.0)));
            row.insert("kind", text(if stats.built { "catch up" } else { "backfill" }));
            row.insert(
                "status",
                text(match &stats.failed {
                    Some(_) => "failed",
                    None if object.suspended => "suspended",
                    None => "running",
                }),
            );
            row.insert("progress", ScalarValue::Float64(Some(progress)));
            row.insert("rows_done", int(backfill.rows_done as i64));
            row.insert("rows_total", int(backfill.rows_total as i64));
            if stats.made_us > 0 {
                row.insert("started_at", timestamptz(stats.made_us));
            }
            row.insert("error", optional_text(stats.failed.as_deref().or(stats.trouble.as_deref())));
            out.push(row);
        }
        out.extend(self.statements());
        out
    }

    /// The statements that have run for long enough to be looked at.
    fn statements(&self) -> Vec<Row> {
        let row = |job: Arc<Job>| {
            let progress = job.progress();
            let sees = self.sees_session(job.process_id);
            Row::from_iter([
                ("id", int(i64::from(job.id))),
                ("kind", text(job.kind)),
                ("status", text("running")),
                ("rows_done", int(progress.rows_read as i64)),
                ("bytes_done", int(progress.bytes_read as i64)),
                ("rows_written", int(progress.rows_written as i64)),
                ("bytes_written", int(progress.bytes_written as i64)),
                ("started_at", timestamptz(job.started_us)),
                ("pid", ScalarValue::Int32(Some(job.process_id))),
                ("statement", optional_text(job.statement.as_deref().map(|s| if sees { s } else { NOT_SHOWN }))),
            ])
        };
        self.database.batch.jobs().long().into_iter().map(row).collect()
    }

    fn external_tables(&self) -> Vec<Row> {
        let catalog = &self.published.catalog;
        let access = Access::new(self.database.batch.stores().clone(), catalog.clone());
        let mut out = Vec::new();
        for object in catalog.objects() {
            let ObjectKind::ExternalTable(table) = &object.kind else { continue };
            let shown = |(key, value): (&String, &String)| match millstream_sql::is_secret(key) {
                true => format!("{key}={}", millstream_sql::MASK),
                false => format!("{key}={value}"),
            };
            let options = table.options.iter().filter(|(key, _)| *key != millstream_sql::SECRET_OPTION).map(shown);
            let options = options.collect::<Vec<_>>().join(", ");
            let mut row = Row::from_iter(self.name_of(object));
            row.insert("format", text(&table.stored_as));
            row.insert("location", text(&table.location));
            row.insert("secret", optional_text(access.secret_of(&table.options, &object.references)));
            row.insert("partition_columns", text(&table.partition_columns.join(", ")));
            row.insert("options", text(&options));
            out.push(row);
        }
        out
    }

    fn secrets(&self) -> Vec<Row> {
        let shown = self.published.catalog.secrets().filter_map(|(object, _)| secrets::shown(object));
        let row = |values: [Option<String>; 5]| {
            Row::from_iter(secrets::COLUMNS.into_iter().zip(values.iter().map(|v| optional_text(v.as_deref()))))
        };
        shown.map(row).collect()
    }

    fn sessions(&self) -> Vec<Row> {
        let of = |s: super::database::SessionInfo| {
            let sees = self.sees_work_of(&s.user);
            Row::from_iter([
                ("pid", ScalarValue::Int32(Some(s.process_id))),
                ("user", text(&s.user)),
                ("application_name", text(&s.application_name)),
                ("client_address", text(&s.address)),
                ("state", text(if s.statement.is_some() { "active" } else { "idle" })),
                ("statement", optional_text(s.statement.as_deref().map(|s| if sees { s } else { NOT_SHOWN }))),
                ("connected_at", timestamptz(s.connected_us)),
                ("listening", optional_text(Some(s.listening.as_str()).filter(|channels| !channels.is_empty()))),
            ])
        };
        self.database.sessions().into_iter().map(of).collect()
    }

    fn subscriptions(&self) -> Vec<Row> {
        let newest = self.published.epoch;
        let of = |s: Arc<Entry>| {
            let epoch = s.epoch.load(Ordering::Relaxed);
            Row::from_iter([
                ("pid", ScalarValue::Int32(Some(s.process_id))),
                ("schema", text(&s.schema)),
                ("name", text(&s.name)),
                ("statement", text(if self.sees_session(s.process_id) { &s.statement } else { NOT_SHOWN })),
                ("epoch", int(epoch as i64)),
                ("epochs_behind", int(newest.saturating_sub(epoch) as i64)),
                ("rows", int(s.rows.load(Ordering::Relaxed) as i64)),
                ("started_at", timestamptz(s.started_us)),
            ])
        };
        self.database.subscriptions.running().into_iter().map(of).collect()
    }

    fn settings(&self) -> Vec<Row> {
        let of = |s: &super::database::SettingRow| {
            Row::from_iter([
                ("name", text(&s.name)),
                ("value", text(&s.value)),
                ("default", text(&s.default)),
                ("description", text(&s.description)),
            ])
        };
        self.database.options.settings.iter().map(of).collect()
    }

    fn epochs(&self) -> Vec<Row> {
        let ms = |d: Duration| ScalarValue::Float64(Some(d.as_secs_f64() * 1000.0));
        let of = |e: EpochStats| {
            Row::from_iter([
                ("epoch", int(e.epoch as i64)),
                ("at", timestamptz(e.now_us)),
                ("rows_in", int(e.rows_in as i64)),
                ("rows_out", int(e.rows_out as i64)),
                ("compute_ms", ms(e.compute)),
                ("commit_ms", ms(e.commit)),
                ("written_bytes", int(e.written_bytes as i64)),
            ])
        };
        self.database.engine.stats().epochs().into_iter().map(of).collect()
    }

    fn view_errors(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut out: Vec<Row> = Vec::new();
        for object in self.published.catalog.objects() {
            if !matches!(object.kind, ObjectKind::MaterializedView(_) | ObjectKind::Sink(_))
                || !self.sees_rows_of(object)
            {
                continue;
            }
            let relation = errors_relation(object.id)?;
            let mut counts: BTreeMap<(i32, String, String, String), i64> = BTreeMap::new();
            for batch in relation.scan(&self.published.snapshot)? {
                let batch = batch?;
                let operators = batch.column(0).as_primitive::<arrow::datatypes::Int32Type>();
                let string = |column: usize, row: usize| batch.column(column).as_string_view().value(row).to_string();
                for row in 0..batch.num_rows() {
                    let key = (operators.value(row), string(1, row), string(2, row), string(3, row));
                    *counts.entry(key).or_default() += 1;
                }
            }
            for ((operator, code, message, row_text), count) in counts {
                out.push(Row::from_iter([
                    ("schema", text(self.published.catalog.schema_name(object))),
                    ("view", text(&object.name)),
                    ("operator", ScalarValue::Int32(Some(operator))),
                    ("sqlstate", text(&code)),
                    ("error", text(&message)),
                    ("row", text(&row_text)),
                    ("count", int(count)),
                ]));
            }
        }
        rows(schema, out)
    }

    fn late_rows(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut out = vec![RecordBatch::new_empty(schema.clone())];
        for object in self.published.catalog.objects() {
            if !matches!(object.kind, ObjectKind::MaterializedView(_)) || !self.sees_rows_of(object) {
                continue;
            }
            for batch in late_relation(object.id)?.scan(&self.published.snapshot)? {
                let batch = batch?;
                let names: StringViewArray =
                    std::iter::repeat_n(Some(object.name.as_str()), batch.num_rows()).collect();
                let operators = arrow::compute::cast(batch.column(0), schema.field(1).data_type())?;
                let columns = [vec![Arc::new(names) as ArrayRef, operators], batch.columns()[1..].to_vec()].concat();
                out.push(RecordBatch::try_new(schema.clone(), columns)?);
            }
        }
        Ok(concat_batches(schema, &out)?)
    }

    /// The rows of a stored history, its columns put in the shown order; `id` counts them.
    fn history(&self, relation: &Relation, schema: &SchemaRef) -> Result<RecordBatch> {
        let batches = relation.scan(&self.published.snapshot)?.collect::<Result<Vec<_>>>()?;
        let all = concat_batches(relation.schema(), &batches)?;
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| match all.column_by_name(field.name()) {
                Some(column) => column.clone(),
                None if field.name() == "id" => Arc::new(Int64Array::from_iter_values(1..=all.num_rows() as i64)),
                None => new_null_array(field.data_type(), all.num_rows()),
            })
            .collect();
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

/// A batch of small rows.
fn rows(schema: &SchemaRef, rows: Vec<Row>) -> Result<RecordBatch> {
    if rows.is_empty() {
        return Ok(RecordBatch::new_empty(schema.clone()));
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let null = ScalarValue::try_from(field.data_type())?;
            ScalarValue::iter_to_array(
                rows.iter().map(|r| r.get(field.name().as_str()).cloned().unwrap_or(null.clone())),
            )
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

pub(super) fn text(value: &str) -> ScalarValue {
    ScalarValue::Utf8View(Some(value.to_string()))
}

pub(super) fn optional_text(value: Option<&str>) -> ScalarValue {
    ScalarValue::Utf8View(value.map(str::to_string))
}

pub(super) fn int(value: i64) -> ScalarValue {
    ScalarValue::Int64(Some(value))
}

pub(super) fn timestamptz(us: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()))
}
