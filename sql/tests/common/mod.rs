//! A catalog to plan against, and plans as text.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};

use millstream_catalog::{Catalog, Draft, Object, ObjectKind};
use millstream_sql::plan::{NewName, Plan};
use millstream_sql::{NoSystemTables, PlanContext, Result, SessionVars, SqlError};

/// A catalog made by statements.
pub struct Db {
    pub catalog: Catalog,
    pub path: Vec<String>,
    pub session: SessionVars,
}

impl Db {
    /// Carries out CREATE statements.
    pub fn new(setup: &str) -> Self {
        let mut db = Self { catalog: Catalog::new(), path: vec!["public".into()], session: SessionVars::default() };
        for parsed in millstream_sql::parse(setup).expect("setup") {
            let plan = db.plan_parsed(&parsed).unwrap_or_else(|e| panic!("{}: {e:?}", parsed.text));
            db.apply(plan);
        }
        db
    }

    fn apply(&mut self, plan: Plan) {
        let (name, kind, references) = match plan {
            Plan::CreateTable(p) => (p.name, ObjectKind::Table(p.table), BTreeMap::new()),
            Plan::CreateSource(p) => (p.name, ObjectKind::Source(p.source), BTreeMap::new()),
            Plan::CreateView(p) => (p.name, ObjectKind::View(p.view), p.references),
            Plan::CreateExternalTable(p) => (p.name, ObjectKind::ExternalTable(p.table), p.references),
            other => panic!("setup: {other:?}"),
        };
        let NewName { schema, name, .. } = name;
        let mut draft = Draft::new(&self.catalog);
        let object = Object { references, ..Object::named(draft.new_id(), schema, &name, kind) };
        draft.create(object).expect("create");
        self.catalog = draft.finish().0;
    }

    fn plan_parsed(&self, parsed: &millstream_sql::Parsed) -> Result<Plan> {
        let external = HashMap::new();
        let ctx = PlanContext {
            catalog: &self.catalog,
            search_path: &self.path,
            bindings: None,
            system: &NoSystemTables,
            external: &external,
            session: &self.session,
            parameters: &[],
            rights: None,
        };
        parsed.plan(&ctx)
    }

    /// Plans the one statement of a text.
    pub fn plan(&self, sql: &str) -> Result<Plan> {
        let parsed = millstream_sql::parse(sql)?;
        assert_eq!(parsed.len(), 1, "one statement: {sql}");
        self.plan_parsed(&parsed[0])
    }

    /// A statement's plan, or its error, as text.
    pub fn show(&self, sql: &str) -> String {
        match self.plan(sql) {
            Ok(plan) => describe(&plan),
            Err(e) => describe_error(&e),
        }
    }
}

/// The parts of a plan that a reader would check.
pub fn describe(plan: &Plan) -> String {
    let columns = |columns: &[millstream_catalog::Column]| {
        let texts: Vec<String> = columns
            .iter()
            .map(|c| format!("{} {}{}", c.name, c.sql_type, if c.nullable { "" } else { " not null" }))
            .collect();
        texts.join(", ")
    };
    match plan {
        Plan::Query(q) => {
            format!("{}\n-> {}\nparameters {:?}", q.plan.display_indent(), columns(&q.columns), q.parameters)
        }
        Plan::CreateMaterializedView(v) => format!(
            "view {} emit on close {} options {:?}\n{}\n-> {}\nreferences {:?}\ntext {}",
            v.name.name,
            v.emit_on_window_close,
            v.options,
            v.query.plan.display_indent(),
            columns(&v.query.columns),
            v.query.references,
            v.query_text
        ),
        Plan::Insert(p) => format!(
            "{}\nchecks {:?}\non conflict {:#?}\nreturning {:?}",
            p.plan.display_indent(),
            p.checks,
            p.on_conflict.as_ref().map(|_| "…"),
            p.returning.as_ref().map(|r| columns(&r.columns))
        ),
        Plan::Update(p) => {
            format!("{}\nreturning {:?}", p.plan.display_indent(), p.returning.as_ref().map(|r| columns(&r.columns)))
        }
        Plan::Delete(p) => {
            format!("{}\nreturning {:?}", p.plan.display_indent(), p.returning.as_ref().map(|r| columns(&r.columns)))
        }
        other => format!("{other:#?}"),
    }
}

/// An error in psql's form.
pub fn describe_error(e: &SqlError) -> String {
    let mut text = format!("ERROR {}: {}", e.sqlstate, e.message);
    if let Some(at) = e.position {
        text.push_str(&format!(" (at {at})"));
    }
    if let Some(detail) = &e.detail {
        text.push_str(&format!("\nDETAIL: {detail}"));
    }
    if let Some(hint) = &e.hint {
        text.push_str(&format!("\nHINT: {hint}"));
    }
    text
}
