//! SHOW: settings, and lists of objects.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::{Object, ObjectKind, SqlType};
use millstream_sql::plan::ShowPlan;

use super::api::{Response, RowsTag};
use super::{Scope, Session, memory, secrets};
use crate::batch::pg_catalog::server::UNLISTED;
use crate::error::{Error, Result, sqlstate};

impl Session {
    pub(super) fn show(&self, show: ShowPlan, scope: &Scope) -> Result<Response> {
        let catalog = &scope.published.catalog;
        let tag = || RowsTag::Plain("SHOW".into());
        let sinks = self.database.engine.stats().sinks();
        let list = |wanted: &dyn Fn(&ObjectKind) -> bool| {
            let rows: Vec<Vec<Option<String>>> = catalog
                .objects()
                .filter(|o| wanted(&o.kind))
                .map(|o| {
                    let mut row = vec![Some(catalog.schema_name(o).to_string()), Some(o.name.clone())];
                    if can_stand_still(&show) {
                        // What a sink has sent, and so whether it may go on, is no part of its definition.
                        let is_sink_suspended = sinks.get(&o.id).is_some_and(|s| s.suspended.is_some());
                        row.push(Some(if o.suspended || is_sink_suspended { "t" } else { "f" }.to_string()));
                    }
                    row
                })
                .collect();
            memory::text_rows(&columns(&show), &rows, tag())
        };
        match &show {
            ShowPlan::Tables => list(&|k| matches!(k, ObjectKind::Table(_) | ObjectKind::ExternalTable(_))),
            ShowPlan::Sources => list(&|k| matches!(k, ObjectKind::Source(_))),
            ShowPlan::Views => list(&|k| matches!(k, ObjectKind::View(_))),
            ShowPlan::MaterializedViews => list(&|k| matches!(k, ObjectKind::MaterializedView(_))),
            ShowPlan::Sinks => list(&|k| matches!(k, ObjectKind::Sink(_))),
            ShowPlan::Schemas => {
                let schemas = catalog.objects().filter(|o| o.kind == ObjectKind::Schema);
                let rows: Vec<_> = schemas.map(|o| vec![Some(o.name.clone())]).collect();
                memory::text_rows(&columns(&show), &rows, tag())
            }
            ShowPlan::Functions => {
                let row = |o: &Arc<Object>| match &o.kind {
                    ObjectKind::Function(f) => Some(vec![
                        Some(catalog.schema_name(o).to_string()),
                        Some(o.name.clone()),
                        Some(millstream_sql::function_arguments(o, f, catalog, true)),
                        Some(f.returns.to_string()),
                    ]),
                    _ => None,
                };
                let rows: Vec<_> = catalog.objects().filter_map(row).collect();
                memory::text_rows(&columns(&show), &rows, tag())
            }
            ShowPlan::Secrets => {
                let rows: Vec<_> =
                    catalog.secrets().filter_map(|(object, _)| secrets::shown(object)).map(Vec::from).collect();
                memory::text_rows(&columns(&show), &rows, tag())
            }
            ShowPlan::Jobs => {
                let stats = self.database.engine.stats().views();
                let mut rows: Vec<_> = catalog
                    .objects()
                    .filter_map(|o| Some((o, stats.get(&o.id)?.backfill?)))
                    .map(|(o, backfill)| {
                        vec![
                            Some(o.id.to_string()),
                            Some(o.describe()),
                            Some(if o.suspended { "suspended" } else { "backfill" }.to_string()),
                            Some(backfill.rows_done.to_string()),
                            Some(backfill.rows_total.to_string()),
                        ]
                    })
                    .collect();
                rows.extend(self.database.batch.jobs().long().iter().map(|job| {
                    let statement =
                        job.statement.clone().filter(|_| self.check_may_cancel(job.id).is_ok()).unwrap_or_default();
                    let rows_read = job.progress().rows_read.to_string();
                    vec![Some(job.id.to_string()), Some(statement), Some(job.kind.into()), Some(rows_read), None]
                }));
                memory::text_rows(&columns(&show), &rows, tag())
            }
            ShowPlan::Tasks => {
                let shown = |o: &Arc<Object>| {
                    let ObjectKind::Task(task) = &o.kind else { return None };
                    let names = task.after.iter().filter_map(|id| catalog.get(*id)).map(|o| o.name.as_str());
                    let schedule = match (&task.schedule, names.collect::<Vec<_>>()) {
                        (Some(schedule), _) => Some(schedule.text()),
                        (None, after) if after.is_empty() => None,
                        (None, after) => Some(format!("after {}", after.join(", "))),
                    };
                    Some(vec![
                        Some(catalog.schema_name(o).to_string()),
                        Some(o.name.clone()),
                        Some(if o.suspended { "t" } else { "f" }.to_string()),
                        schedule,
                    ])
                };
                let rows: Vec<_> = catalog.objects().filter_map(shown).collect();
                memory::text_rows(&columns(&show), &rows, tag())
            }
            ShowPlan::AllSettings => {
                let all = self.settings.all().into_iter().filter(|(name, ..)| !UNLISTED.contains(name));
                let rows: Vec<_> = all
                    .map(|(name, value, _, description)| {
                        vec![Some(name.to_string()), Some(value), Some(description.to_string())]
                    })
                    .collect();
                memory::text_rows(&columns(&show), &rows, tag())
            }
            ShowPlan::Setting(name) => {
                let value = match name.as_str() {
                    "transaction_read_only" if self.is_read_only() => "on".to_string(),
                    "transaction_read_only" => "off".to_string(),
                    name => self.settings.get(name)?,
                };
                memory::text_rows(&[name], &[vec![Some(value)]], tag())
            }
            ShowPlan::Create(id) => {
                let object = catalog.get(*id).ok_or_else(|| {
                    Error::new(sqlstate::UNDEFINED_TABLE, format!("object with OID {id} does not exist any more"))
                })?;
                let name = match object.kind {
                    ObjectKind::Schema | ObjectKind::Secret(_) => object.name.clone(),
                    _ => format!("{}.{}", catalog.schema_name(object), object.name),
                };
                let definition = millstream_sql::current_definition(object, catalog);
                memory::text_rows(&columns(&show), &[vec![Some(name), Some(definition)]], tag())
            }
        }
    }
}

/// Whether what a SHOW lists can be suspended.
fn can_stand_still(show: &ShowPlan) -> bool {
    matches!(show, ShowPlan::Sources | ShowPlan::MaterializedViews | ShowPlan::Sinks)
}

/// Columns of what a SHOW gives; all are text.
fn columns(show: &ShowPlan) -> Vec<&str> {
    match show {
        ShowPlan::Schemas => vec!["name"],
        ShowPlan::Functions => vec!["schema", "name", "arguments", "returns"],
        ShowPlan::Secrets => secrets::COLUMNS.to_vec(),
        ShowPlan::Jobs => vec!["id", "object", "kind", "rows_done", "rows_total"],
        ShowPlan::Tasks => vec!["schema", "name", "suspended", "schedule"],
        ShowPlan::AllSettings => vec!["name", "setting", "description"],
        ShowPlan::Setting(name) => vec![name],
        ShowPlan::Create(_) => vec!["name", "create_sql"],
        show if can_stand_still(show) => vec!["schema", "name", "suspended"],
        ShowPlan::Tables | ShowPlan::Sources | ShowPlan::Views | ShowPlan::MaterializedViews | ShowPlan::Sinks => {
            vec!["schema", "name"]
        }
    }
}

/// Schema of what a SHOW gives, for Describe.
pub fn schema(show: &ShowPlan) -> SchemaRef {
    let fields: Vec<_> = columns(show).into_iter().map(|name| SqlType::Text.field(name, true)).collect();
    Arc::new(Schema::new(fields))
}
