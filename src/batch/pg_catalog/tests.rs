//! The queries of psql, planned and run over a small catalog.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_pg_catalog::pg_catalog::oid_type_planner::PgOidTypePlanner;
use millstream_catalog::object::{ExternalTable, MaterializedView, Table, View};
use millstream_catalog::{Catalog, Column, Draft, Object, ObjectId, ObjectKind, SqlType};

use super::view::Setting;
use super::{CatalogView, PgCatalog, functions, rewrite, tables};

fn catalog() -> Catalog {
    let mut draft = Draft::new(&Catalog::new());
    let mut add = |name: &str, kind: ObjectKind| {
        let object = Object {
            comment: (name == "accounts").then(|| "the accounts".into()),
            column_comments: BTreeMap::from([(1, "who".into())]),
            ..Object::named(draft.new_id(), ObjectId::PUBLIC, name, kind)
        };
        draft.create(object).unwrap();
    };
    let holder = Column { default: Some("'x'".into()), ..Column::new("holder", SqlType::Varchar(Some(20)), true) };
    add(
        "accounts",
        ObjectKind::Table(Table {
            columns: vec![
                Column::new("id", SqlType::Int8, false),
                holder.clone(),
                Column::new("risk", SqlType::Numeric(Some((12, 2))), false),
            ],
            primary_key: vec![0],
            append_only: false,
            watermark: None,
            checks: vec![("pos".into(), "risk > 0".into())],
        }),
    );
    let query = "SELECT id, holder FROM accounts".to_string();
    let columns = vec![Column::new("id", SqlType::Int8, true), Column::new("holder", SqlType::Text, true)];
    add("v", ObjectKind::View(View { columns: columns.clone(), query: query.clone() }));
    add(
        "m",
        ObjectKind::MaterializedView(MaterializedView {
            columns: columns.clone(),
            query,
            time_zone: "UTC".into(),
            emit_on_window_close: false,
            options: BTreeMap::new(),
            stream_key: Some(vec![0]),
            watermark_columns: vec![],
            append_only: false,
            fingerprint: String::new(),
        }),
    );
    add(
        "f",
        ObjectKind::ExternalTable(ExternalTable {
            columns,
            stored_as: "PARQUET".into(),
            location: "/data/it's/".into(),
            partition_columns: vec![],
            options: BTreeMap::new(),
        }),
    );
    draft.finish().0
}

fn view() -> CatalogView {
    let setting = Setting {
        name: "TimeZone".into(),
        value: "Europe/London".into(),
        default: "UTC".into(),
        unit: None,
        description: String::new(),
    };
    CatalogView {
        settings: vec![setting],
        functions: Arc::new(BTreeSet::from(["abs".to_string()])),
        size_of: Arc::new(|_| Some(20_000)),
        ..CatalogView::new(Arc::new(catalog()))
    }
}

/// A context in which the catalog tables and functions can be named.
fn context() -> SessionContext {
    let catalog = PgCatalog::new(view());
    let mut state =
        SessionStateBuilder::new_with_default_features().with_type_planner(Arc::new(PgOidTypePlanner)).build();
    state.config_mut().options_mut().sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    let context = SessionContext::new_with_state(state);
    let schemas = MemoryCatalogProvider::new();
    for schema in ["pg_catalog", "information_schema"] {
        let tables_of = MemorySchemaProvider::new();
        for (_, name, _) in tables::all() {
            if let Some(provider) = catalog.provider(schema, name) {
                tables_of.register_table(name.into(), provider).unwrap();
            }
        }
        schemas.register_schema(schema, Arc::new(tables_of)).unwrap();
    }
    context.register_catalog("datafusion", Arc::new(schemas));
    for name in functions::names() {
        context.register_udf(catalog.function(name).unwrap().as_ref().clone());
    }
    context
}

/// The rows of a query, or what is wrong with it.
async fn run(context: &SessionContext, sql: &str) -> Result<String, String> {
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).map_err(|e| format!("parse: {e}"))?;
    let Statement::Query(query) = &mut statements[0] else { panic!("not a query") };
    assert!(rewrite(query), "not seen as a query of the catalog: {sql}");
    let rewritten = query.to_string();
    let statement = DfStatement::Statement(Box::new(statements.remove(0)));
    let plan = context.state().statement_to_plan(statement).await;
    let plan = plan.map_err(|e| format!("plan: {}\n{rewritten}", e.strip_backtrace()))?;
    let frame = context.execute_logical_plan(plan).await.map_err(|e| format!("plan: {e}\n{rewritten}"))?;
    let rows = frame.collect().await.map_err(|e| format!("run: {}\n{rewritten}", e.strip_backtrace()))?;
    Ok(pretty_format_batches(&rows).unwrap().to_string())
}

/// psql's queries by command, with the OIDs of the catalog above.
fn psql() -> HashMap<String, String> {
    let view = view();
    let oid = |name: &str| view.find(name).unwrap().oid;
    let index = view.find("accounts").unwrap().key_index().unwrap().0;
    let text = include_str!("psql.sql")
        .replace("{accounts}", &oid("accounts").to_string())
        .replace("{v}", &oid("v").to_string())
        .replace("{f}", &oid("f").to_string())
        .replace("{accounts_pkey}", &index.to_string());
    let queries = text.split("\n-- ").skip(1).map(|q| q.split_once('\n').unwrap());
    queries.map(|(name, sql)| (name.to_string(), sql.trim().to_string())).collect()
}

#[tokio::test]
async fn every_query_of_psql_plans_and_runs() {
    let context = context();
    let mut failures = Vec::new();
    let queries = psql();
    assert!(queries.len() > 40);
    for (name, sql) in queries {
        if let Err(e) = run(&context, &sql).await {
            failures.push(format!("{name}\n{e}\n"));
        }
    }
    assert!(failures.is_empty(), "{} fail\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test]
async fn psql_shows_what_is_in_the_catalog() {
    let (context, psql) = (context(), psql());
    let shown = async |command: &str| run(&context, &psql[command]).await.unwrap();
    insta::assert_snapshot!("list", shown("\\d").await);
    insta::assert_snapshot!("columns", shown("\\d+ accounts: columns").await);
    insta::assert_snapshot!("indexes", shown("\\d accounts: indexes").await);
    insta::assert_snapshot!("checks", shown("\\d accounts: checks").await);
    insta::assert_snapshot!("server", shown("\\d f: server").await);
    insta::assert_snapshot!("definition", shown("\\d+ v: definition").await);
    insta::assert_snapshot!("schemas", shown("\\dn").await);
    insta::assert_snapshot!("databases", shown("\\l").await);
    insta::assert_snapshot!("roles", shown("\\du").await);
    insta::assert_snapshot!("functions", shown("\\df+ abs").await);
    insta::assert_snapshot!("tables", shown("\\dt+").await);
}

#[tokio::test]
async fn information_schema_describes_columns() {
    let sql = "SELECT column_name, data_type, is_nullable, numeric_precision, udt_name FROM information_schema.columns \
               WHERE table_schema = 'public' AND table_name = 'accounts' ORDER BY ordinal_position";
    insta::assert_snapshot!("information_schema", run(&context(), sql).await.unwrap());
}

#[tokio::test]
async fn names_of_objects_resolve_or_are_refused() {
    let context = context();
    let oid = view().find("accounts").unwrap().oid;
    let shown = run(&context, "SELECT 'public.accounts'::regclass::oid AS o, 'int4'::regtype AS t").await.unwrap();
    assert!(shown.contains(&oid.to_string()) && shown.contains("integer"), "{shown}");
    let error = run(&context, "SELECT 'nothing'::regclass").await.unwrap_err();
    assert!(error.contains("relation \"nothing\" does not exist"), "{error}");
}
