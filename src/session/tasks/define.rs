//! CREATE TASK, ALTER TASK … SET and EXECUTE TASK.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_catalog::object::View;
use millstream_catalog::{Draft, Object, ObjectId, ObjectKind};
use millstream_sql::plan::{CreateTaskPlan, ExecuteTaskPlan, NewName};
use millstream_sql::{Parsed, Plan};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::desk::Request;
use super::options::TaskOptions;
use super::run::{Run, RunState};
use super::{body, calendar_of, task_of};
use crate::error::{Error, Result, sqlstate};
use crate::session::api::{Notice, Response};
use crate::session::ddl::gone;
use crate::session::query::describe;
use crate::session::{Scope, Session, complete};
use crate::stream::engine::Published;

impl Session {
    pub(in crate::session) async fn create_task(
        &mut self,
        p: CreateTaskPlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let options = TaskOptions::of(&p.name.name, &p.task.options)?;
        calendar_of(&p.task)?;
        self.check_body(&p, options, scope).await?;
        let mut draft = self.draft(scope);
        let kind = ObjectKind::Task(p.task);
        match p.replaces {
            Some(id) => {
                let old = draft.catalog().get(id).cloned().ok_or_else(|| gone(id))?;
                let new = self.object(id, &p.name, parsed, kind, p.references);
                draft.replace(Object { suspended: old.suspended, ..new.in_place_of(&old) });
            }
            None => {
                let id = draft.new_id();
                draft.create(self.object(id, &p.name, parsed, kind, p.references))?;
            }
        }
        self.apply_with(draft, Vec::new(), Vec::new(), None, parsed).await?;
        Ok(complete("CREATE TASK"))
    }

    /// Plans the statements of a task as a run would find them now, so that what is wrong with them shows at once.
    async fn check_body(&mut self, p: &CreateTaskPlan, options: TaskOptions, scope: &Scope) -> Result<()> {
        let now_us = self.database.tasks.clock.now_us();
        let outer = self.run_vars.replace(body::vars(&p.task, now_us, options.parameters)?);
        let checked = self.check_statements(&p.statements, scope).await;
        self.run_vars = outer;
        checked
    }

    async fn check_statements(&mut self, statements: &[Parsed], scope: &Scope) -> Result<()> {
        // What the statements make and drop, for those behind them. It is thrown away.
        let mut draft = Draft::new(&scope.published.catalog);
        for (i, parsed) in statements.iter().enumerate() {
            let mut inner = self.scope(&parsed.statement).await?;
            let catalog = Arc::new(draft.catalog().clone());
            inner.published = Arc::new(Published { catalog, ..Published::clone(&scope.published) });
            let plan = self.plan(parsed, &inner, &[])?;
            if !describe(&plan).parameters.is_empty() {
                return Err(Error::new("42P02", "there is no parameter $1 in a task")
                    .with_hint(
                        "declare parameters WITH (parameter.name = 'default') and read them by run_parameter('name')",
                    )
                    .with_position(parsed.offset + 1));
            }
            if !self.rehearse(plan, parsed, &mut draft)? && i + 1 < statements.len() {
                self.notices.push(Notice::notice(format!(
                    "the statements of the task from number {} on are checked when it runs",
                    i + 2
                )));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Does to a draft what a statement would do to the catalog; whether that is known.
    fn rehearse(&self, plan: Plan, parsed: &Parsed, draft: &mut Draft) -> Result<bool> {
        let made = match plan {
            Plan::CreateTable(p) => (p.name, ObjectKind::Table(p.table)),
            Plan::CreateTableAs(p) => (p.name, ObjectKind::Table(p.table)),
            Plan::CreateView(p) => (p.name, ObjectKind::View(p.view)),
            // What reads it sees its columns.
            Plan::CreateMaterializedView(p) => {
                (p.name, ObjectKind::View(View { columns: p.query.columns, query: p.query_text }))
            }
            Plan::Drop(p) => {
                draft.drop(&p.ids, p.cascade)?;
                return Ok(true);
            }
            Plan::Rename { id, to, .. } => {
                draft.rename(id, &to)?;
                return Ok(true);
            }
            Plan::CreateSource(_)
            | Plan::CreateSink(_)
            | Plan::CreateExternalTable(_)
            | Plan::CreateSchema { .. }
            | Plan::CreateFunction(_)
            | Plan::CreateSecret(_)
            | Plan::CreateIndex(_)
            | Plan::SetSchema { .. } => return Ok(false),
            Plan::Set { name, .. } => return Ok(name != "search_path"),
            _ => return Ok(true),
        };
        let (name, kind): (NewName, ObjectKind) = made;
        let id = draft.new_id();
        draft.create(self.object(id, &name, parsed, kind, BTreeMap::new()))?;
        Ok(true)
    }

    /// ALTER TASK … SET (option = value, …); the next run follows it.
    pub(in crate::session) async fn set_task_options(
        &mut self,
        id: ObjectId,
        changes: &BTreeMap<String, String>,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let mut object = Object::clone(draft.catalog().get(id).ok_or_else(|| gone(id))?);
        let name = object.name.clone();
        if let ObjectKind::Task(task) = &mut object.kind {
            task.options.extend(changes.clone());
            TaskOptions::of(&name, &task.options)?;
        }
        draft.replace(object);
        self.apply_with(draft, Vec::new(), Vec::new(), None, parsed).await?;
        Ok(complete("ALTER TASK"))
    }

    /// Asks for a run and waits for its end.
    ///
    /// # Errors
    /// That of the run if it fails; 57014 when the client cancels, which ends the run too.
    pub(in crate::session) async fn execute_task(
        &mut self,
        p: ExecuteTaskPlan,
        scope: &Scope,
        cancel: CancellationToken,
    ) -> Result<Response> {
        let object = scope.published.catalog.get(p.task).ok_or_else(|| gone(p.task))?;
        let task = task_of(object).ok_or_else(|| gone(p.task))?;
        TaskOptions::of(&object.name, &task.options)?.parameters_with(&object.name, &p.parameters)?;
        let run = self.ask_for_run(p, cancel).await?;
        match (run.state, &run.error) {
            (RunState::Succeeded, _) => Ok(complete("EXECUTE TASK")),
            (state, None) => Err(Error::internal(format!("run {} ended as {}", run.id, state.name()))),
            (_, Some(error)) => {
                let context = format!("run {} of task \"{}\"", run.id, object.name);
                Err(Error::from(error).with_context(context))
            }
        }
    }

    async fn ask_for_run(&self, p: ExecuteTaskPlan, cancel: CancellationToken) -> Result<Run> {
        let (reply, mut answer) = oneshot::channel();
        let given_up = CancellationToken::new();
        self.database.tasks.ask(Request {
            task: p.task,
            time_us: p.time_us,
            run: p.run,
            parameters: p.parameters,
            user: self.role().to_string(),
            cancel: given_up.clone(),
            reply,
        })?;
        let answer = tokio::select! {
            answer = &mut answer => answer,
            () = cancel.cancelled() => {
                given_up.cancel();
                answer.await
            }
        };
        answer
            .map_err(|_| Error::new(sqlstate::ADMIN_SHUTDOWN, "the server stops; the run is taken up again after it"))?
    }
}
