//! CREATE SOURCE: primary keys, and columns that come from the schema of the records.

mod common;

use std::collections::HashMap;

use millstream_catalog::object::{Source, columns_schema};
use millstream_catalog::{Column, SqlType};
use millstream_sql::plan::Plan;
use millstream_sql::{NoSystemTables, PlanContext, SqlError};

const WITH: &str = "WITH (connector = 'kafka', topic = 't')";

/// Plans a CREATE SOURCE whose records' schema has the columns `id` and `at`.
fn source(sql: &str) -> Result<Source, SqlError> {
    let db = common::Db::new("");
    let parsed = millstream_sql::parse(sql)?.remove(0);
    let mut external = HashMap::new();
    if let Some(asked) = millstream_sql::source_schema_call(&parsed.statement) {
        let columns = [Column::new("id", SqlType::Int8, true), Column::new("at", SqlType::Timestamptz, true)];
        let found = if asked.wants_columns { &columns[..] } else { &[] };
        external.insert(asked.call, columns_schema(found));
    }
    let context = PlanContext {
        catalog: &db.catalog,
        search_path: &db.path,
        bindings: None,
        system: &NoSystemTables,
        external: &external,
        session: &db.session,
        parameters: &[],
        rights: None,
    };
    match parsed.plan(&context)? {
        Plan::CreateSource(plan) => Ok(plan.source),
        other => panic!("{other:?}"),
    }
}

fn columns(source: &Source) -> Vec<String> {
    let null = |c: &Column| if c.nullable { "" } else { " not null" };
    source.columns.iter().map(|c| format!("{} {}{}", c.name, c.sql_type, null(c))).collect()
}

#[test]
fn columns_come_from_the_schema() {
    let plain = source(&format!("CREATE SOURCE s {WITH} FORMAT PLAIN ENCODE AVRO")).unwrap();
    assert_eq!(columns(&plain), ["id bigint", "at timestamp with time zone"]);
    let more = source(&format!(
        "CREATE SOURCE s (*, day TEXT AS at::text, WATERMARK FOR at AS at - INTERVAL '5 seconds') INCLUDE offset AS o {WITH} \
         FORMAT PLAIN ENCODE PROTOBUF (message = 'M')"
    ))
    .unwrap();
    assert_eq!(columns(&more), ["id bigint", "at timestamp with time zone", "day text", "o bigint"]);
    assert_eq!(more.watermark.as_ref().map(|w| w.column), Some(1));
    // Those that are listed are all, unless there is a star.
    let listed = source(&format!("CREATE SOURCE s (id INT) {WITH} FORMAT PLAIN ENCODE AVRO")).unwrap();
    assert_eq!(columns(&listed), ["id integer"]);
    for (sql, code) in [
        (format!("CREATE SOURCE s (*, id INT) {WITH} FORMAT PLAIN ENCODE AVRO"), "42701"),
        (format!("CREATE SOURCE s (id INT, *) {WITH} FORMAT PLAIN ENCODE AVRO"), "42601"),
        (format!("CREATE SOURCE s (*) {WITH} FORMAT PLAIN ENCODE JSON"), "22023"),
        (format!("CREATE SOURCE s {WITH} FORMAT PLAIN ENCODE JSON"), "0A000"),
        ("CREATE TABLE t (*)".into(), "0A000"),
    ] {
        assert_eq!(source(&sql).unwrap_err().sqlstate, code, "{sql}");
    }
}

#[test]
fn keyed_formats_have_primary_keys() {
    let of_column =
        source(&format!("CREATE SOURCE s (a INT, b INT PRIMARY KEY) {WITH} FORMAT UPSERT ENCODE JSON")).unwrap();
    assert_eq!((of_column.primary_key.as_slice(), columns(&of_column)[1].as_str()), (&[1][..], "b integer not null"));
    let of_schema =
        source(&format!("CREATE SOURCE s (*, b INT PRIMARY KEY) {WITH} FORMAT DEBEZIUM ENCODE AVRO")).unwrap();
    assert_eq!(of_schema.primary_key, [2]);
    let of_all =
        source(&format!("CREATE SOURCE s (PRIMARY KEY (at, k)) INCLUDE key AS k {WITH} FORMAT UPSERT ENCODE AVRO"))
            .unwrap();
    assert_eq!(of_all.primary_key, [1, 2]);
    for (sql, code) in [
        (format!("CREATE SOURCE s (a INT PRIMARY KEY) {WITH} FORMAT PLAIN ENCODE JSON"), "0A000"),
        (format!("CREATE SOURCE s (a INT, PRIMARY KEY (a)) {WITH}"), "0A000"),
        (format!("CREATE SOURCE s (a INT, PRIMARY KEY (b)) {WITH} FORMAT UPSERT ENCODE JSON"), "42703"),
        (format!("CREATE SOURCE s (a JSONB, PRIMARY KEY (a)) {WITH} FORMAT UPSERT ENCODE JSON"), "0A000"),
    ] {
        assert_eq!(source(&sql).unwrap_err().sqlstate, code, "{sql}");
    }
}
