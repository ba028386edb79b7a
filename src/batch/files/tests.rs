//! External tables over files in a temporary folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
    UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::datasource::TableProvider;
use millstream_catalog::object::ExternalTable;
use millstream_catalog::{Column, SqlType};

use millstream_sql::ExternalCall;

use super::{FileTable, check_declared, read};
use crate::batch::testing::{AsPlanned, engine, local, plan, query, shown, write_parquet};
use crate::batch::{Batch, StatementOptions};
use crate::error::Result;

const MIB: usize = 1 << 20;

fn ledger(first: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + 100));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((first..first + 100).map(|i| format!("card {i}"))));
    RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap()
}

/// Three days with one file each.
fn three_days(dir: &Path) {
    for day in 1..=3 {
        write_parquet(&dir.join(format!("d=2026-01-0{day}/part 0.parquet")), &ledger(day * 100));
    }
}

fn spec(location: &Path, stored_as: &str, partitions: &[&str]) -> ExternalTable {
    ExternalTable {
        columns: Vec::new(),
        stored_as: stored_as.into(),
        location: location.to_string_lossy().into_owned(),
        partition_columns: partitions.iter().map(ToString::to_string).collect(),
        options: BTreeMap::new(),
    }
}

fn table(spec: &ExternalTable, columns: Vec<Column>) -> ExternalTable {
    ExternalTable { columns, ..spec.clone() }
}

fn provider(table: &ExternalTable) -> Arc<FileTable> {
    Arc::new(FileTable::new(table, "external table \"t\"", &local(), None).unwrap())
}

/// The columns that a table gets whose statement lists none.
async fn infer_columns(batch: &Batch, spec: &ExternalTable) -> Result<Vec<Column>> {
    let call = ExternalCall {
        format: spec.stored_as.to_lowercase(),
        locations: vec![spec.location.clone()],
        options: spec.options.clone(),
        partitions: Some(spec.partition_columns.clone()),
    };
    Ok(read(batch, &local(), &call).await?.columns)
}

async fn inferred(batch: &Batch, spec: &ExternalTable) -> (Vec<Column>, Arc<dyn TableProvider>) {
    let columns = infer_columns(batch, spec).await.unwrap();
    (columns.clone(), provider(&table(spec, columns)))
}

/// `read_format(location, options)`.
async fn read_files(batch: &Batch, format: &str, location: &str, options: &[(&str, &str)]) -> Result<FileTable> {
    let call = ExternalCall {
        format: format.into(),
        locations: vec![location.into()],
        options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        partitions: None,
    };
    read(batch, &local(), &call).await
}

fn declared(table: &FileTable) -> Vec<String> {
    table.columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect()
}

async fn explained(batch: &Batch, sql: &str, tables: &[(&str, Arc<dyn TableProvider>)]) -> String {
    let plan = plan(batch, sql, tables).await;
    batch.explain(plan, &AsPlanned, &StatementOptions::default()).await.unwrap().physical
}

fn number(batches: &[RecordBatch]) -> i64 {
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn hive_partitions_become_columns_and_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let data = dir.path().join("ledger");
    three_days(&data);
    let (columns, t) = inferred(&batch, &spec(&data, "PARQUET", &["d"])).await;
    let types: Vec<_> = columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect();
    assert_eq!(types, ["id bigint", "name text", "d date"]);
    let tables = [("t", t)];
    let sql = "SELECT count(*), min(id), max(id), min(d) FROM t WHERE d = DATE '2026-01-02' AND id >= 250";
    assert_eq!(
        shown(&batch, sql, &tables).await,
        "\
+----------+-----------+-----------+------------+
| count(*) | min(t.id) | max(t.id) | min(t.d)   |
+----------+-----------+-----------+------------+
| 50       | 250       | 299       | 2026-01-02 |
+----------+-----------+-----------+------------+"
    );
    let physical = explained(&batch, sql, &tables).await;
    assert!(physical.contains("d=2026-01-02") && !physical.contains("d=2026-01-01"), "{physical}");
    // The other filter is inside the reader, and the partition's is gone.
    assert!(physical.contains("predicate=id@0 >= 250") && !physical.contains("FilterExec"), "{physical}");
    // A filter that mixes both kinds prunes nothing and still holds.
    let mixed = "SELECT count(*) FROM t WHERE d = DATE '2026-01-02' OR id = 100";
    assert_eq!(number(&query(&batch, mixed, &tables).await.unwrap()), 101);
    let none = "SELECT count(*) FROM t WHERE d > DATE '2030-01-01'";
    assert_eq!(number(&query(&batch, none, &tables).await.unwrap()), 0);
}

#[tokio::test]
async fn a_file_written_later_is_seen_by_the_next_statement() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let data = dir.path().join("t");
    three_days(&data);
    let (_, t) = inferred(&batch, &spec(&data, "PARQUET", &["d"])).await;
    let tables = [("t", t)];
    assert_eq!(number(&query(&batch, "SELECT count(*) FROM t", &tables).await.unwrap()), 300);
    write_parquet(&data.join("d=2026-01-04/x.parquet"), &ledger(900));
    assert_eq!(number(&query(&batch, "SELECT count(*) FROM t", &tables).await.unwrap()), 400);
    std::fs::remove_dir_all(data.join("d=2026-01-01")).unwrap();
    assert_eq!(number(&query(&batch, "SELECT count(*) FROM t", &tables).await.unwrap()), 300);
}

#[tokio::test]
async fn types_of_files_become_types_of_sql() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let file = dir.path().join("odd.parquet");
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_700_000_000_123_456_789]));
    let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
    let coded: ArrayRef =
        Arc::new(["x"].into_iter().collect::<DictionaryArray<datafusion::arrow::datatypes::Int32Type>>());
    write_parquet(&file, &RecordBatch::try_from_iter([("ts", nanos), ("big", large), ("tag", coded)]).unwrap());
    let t = read_files(&batch, "parquet", &file.to_string_lossy(), &[]).await.unwrap();
    let types: Vec<_> = t.schema().fields().iter().map(|f| f.data_type().clone()).collect();
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(types, [micros, DataType::Decimal128(20, 0), DataType::Utf8View]);
    assert_eq!(
        shown(&batch, "SELECT * FROM t WHERE tag = 'x'", &[("t", Arc::new(t))]).await,
        "\
+----------------------------+----------------------+-----+
| ts                         | big                  | tag |
+----------------------------+----------------------+-----+
| 2023-11-14T22:13:20.123456 | 18446744073709551615 | x   |
+----------------------------+----------------------+-----+"
    );
}

#[tokio::test]
async fn declared_types_win_and_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let data = dir.path().join("t");
    let small: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    write_parquet(&data.join("a.parquet"), &RecordBatch::try_from_iter([("n", small)]).unwrap());
    let spec = spec(&data, "PARQUET", &[]);
    let as_numeric = table(&spec, vec![Column::new("n", SqlType::Numeric(Some((10, 2))), true)]);
    check_declared(&batch, &local(), &as_numeric, None).await.unwrap();
    let t = provider(&as_numeric);
    let sql = "SELECT n FROM t WHERE n > 1.5";
    assert_eq!(shown(&batch, sql, &[("t", t)]).await, "+------+\n| n    |\n+------+\n| 2.00 |\n+------+");
    let misspelled = table(&spec, vec![Column::new("m", SqlType::Int4, true)]);
    let error = check_declared(&batch, &local(), &misspelled, None).await.unwrap_err();
    assert_eq!((error.sqlstate(), error.hint()), ("42703", Some("the files have: n")));
}

#[tokio::test]
async fn damaged_and_misplaced_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let data = dir.path().join("t");
    three_days(&data);
    let (_, t) = inferred(&batch, &spec(&data, "PARQUET", &["d"])).await;
    let tables = [("t", t)];
    std::fs::write(data.join("d=2026-01-02/bad.parquet"), "this is no parquet file").unwrap();
    let error = query(&batch, "SELECT count(*) FROM t", &tables).await.unwrap_err();
    assert_eq!(error.sqlstate(), "XX001");
    assert!(error.message().contains("d=2026-01-02/bad.parquet"), "{error}");
    let error = infer_columns(&batch, &spec(&data, "PARQUET", &["d"])).await.unwrap_err();
    assert!(error.sqlstate() == "XX001" && error.message().contains("bad.parquet"), "{error}");
    std::fs::remove_file(data.join("d=2026-01-02/bad.parquet")).unwrap();
    write_parquet(&data.join("stray.parquet"), &ledger(0));
    let error = query(&batch, "SELECT count(*) FROM t", &tables).await.unwrap_err();
    assert!(error.message().contains("stray.parquet"), "{error}");
    std::fs::remove_dir_all(&data).unwrap();
    let error = query(&batch, "SELECT count(*) FROM t", &tables).await.unwrap_err();
    assert_eq!(error.sqlstate(), "58P01");
}

#[tokio::test]
async fn read_parquet_takes_globs_and_folders_of_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    three_days(&dir.path().join("l"));
    let glob = dir.path().join("l/d=2026-01-0[12]/*.parquet");
    let t: Arc<dyn TableProvider> =
        Arc::new(read_files(&batch, "parquet", &glob.to_string_lossy(), &[]).await.unwrap());
    let names: Vec<_> = t.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "name", "d"]);
    assert_eq!(number(&query(&batch, "SELECT count(DISTINCT d) FROM t", &[("t", t)]).await.unwrap()), 2);
    let error =
        read_files(&batch, "parquet", &dir.path().join("no/*.parquet").to_string_lossy(), &[]).await.unwrap_err();
    assert_eq!(error.sqlstate(), "58P01");
}

#[tokio::test]
async fn csv_and_json_are_read_as_declared() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let csv = dir.path().join("a.csv");
    std::fs::write(&csv, "id,amount,note\n1,10.50,\"a\nb\"\n2,,x\n").unwrap();
    let declared = vec![
        Column::new("id", SqlType::Int8, true),
        Column::new("amount", SqlType::Numeric(Some((12, 2))), true),
        Column::new("note", SqlType::Text, true),
    ];
    let t = provider(&table(&spec(&csv, "CSV", &[]), declared.clone()));
    let sql = "SELECT sum(amount) AS s, count(*) AS n, max(length(note)) AS l FROM t";
    let expected = "+-------+---+---+\n| s     | n | l |\n+-------+---+---+\n| 10.50 | 2 | 3 |\n+-------+---+---+";
    assert_eq!(shown(&batch, sql, &[("t", t)]).await, expected);
    let json = dir.path().join("a.json");
    std::fs::write(&json, "{\"id\":1,\"amount\":10.50,\"note\":\"abc\"}\n{\"id\":2}\n").unwrap();
    let t = provider(&table(&spec(&json, "JSON", &[]), declared));
    assert_eq!(shown(&batch, sql, &[("t", t)]).await, expected);
    let mut bad = spec(&csv, "CSV", &[]);
    bad.options.insert("delimeter".into(), ";".into());
    let error = infer_columns(&batch, &bad).await.unwrap_err();
    assert_eq!(error.sqlstate(), "22023");
    assert!(error.hint().unwrap().contains("delimiter"));
}

#[tokio::test]
async fn columns_of_text_are_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let csv = dir.path().join("a.csv");
    std::fs::write(&csv, "id;amount;at;note\n1;10.50;2026-01-01 10:00:00;\n2;-;2026-01-02;\"x;\"\"y\"\"\"\n\n")
        .unwrap();
    let options = [("delim", ";"), ("nullstr", "-")];
    let t = read_files(&batch, "csv", &csv.to_string_lossy(), &options).await.unwrap();
    assert_eq!(declared(&t), ["id bigint", "amount numeric", "at timestamp without time zone", "note text"]);
    let sql = "SELECT count(amount) AS a, max(at) AS at, max(note) AS note, count(*) AS n FROM t";
    assert_eq!(
        shown(&batch, sql, &[("t", Arc::new(t))]).await,
        "\
+---+---------------------+-------+---+
| a | at                  | note  | n |
+---+---------------------+-------+---+
| 1 | 2026-01-02T00:00:00 | x;\"y\" | 2 |
+---+---------------------+-------+---+"
    );
    let t = read_files(&batch, "csv", &csv.to_string_lossy(), &[("sep", ";"), ("header", "false")]).await.unwrap();
    assert_eq!(declared(&t), ["column1 text", "column2 text", "column3 text", "column4 text"]);
    assert_eq!(number(&query(&batch, "SELECT count(*) FROM t", &[("t", Arc::new(t))]).await.unwrap()), 3);
    std::fs::write(dir.path().join("a.json"), "{\"b\": 1, \"a\": [1.5]}\n\n{\"c\": {\"x\": true}}\n").unwrap();
    let t = read_files(&batch, "json", &dir.path().join("*.json").to_string_lossy(), &[]).await.unwrap();
    let names: Vec<_> = t.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
    assert_eq!(
        number(&query(&batch, "SELECT count(*) FROM t WHERE c IS NULL", &[("t", Arc::new(t))]).await.unwrap()),
        1
    );
}

#[tokio::test]
async fn files_of_one_table_may_differ() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let data = dir.path().join("p");
    let small: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let large: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    write_parquet(&data.join("a.parquet"), &RecordBatch::try_from_iter([("n", small)]).unwrap());
    let two = RecordBatch::try_from_iter([("t", text.clone()), ("n", large)]).unwrap();
    write_parquet(&data.join("b.parquet"), &two);
    let (columns, t) = inferred(&batch, &spec(&data, "PARQUET", &[])).await;
    let types: Vec<_> = columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect();
    assert_eq!(types, ["n bigint", "t text"]);
    let sql = "SELECT sum(n) AS n, count(t) AS t FROM t WHERE n > 0";
    let expected = "+---------------+---+\n| n             | t |\n+---------------+---+\n| 1099511627777 | 1 |\n+---------------+---+";
    assert_eq!(shown(&batch, sql, &[("t", t.clone())]).await, expected);
    // A file that comes later and does not fit is named, with the table.
    write_parquet(&data.join("c.parquet"), &RecordBatch::try_from_iter([("n", text)]).unwrap());
    let error = query(&batch, "SELECT count(*) FROM t", &[("t", t)]).await.unwrap_err();
    assert_eq!((error.sqlstate(), error.context()), ("42804", Some("external table \"t\"")));
    assert!(error.message().contains("c.parquet\" is text and cannot be read as bigint"), "{error}");
    let error = infer_columns(&batch, &spec(&data, "PARQUET", &[])).await.unwrap_err();
    assert!(error.sqlstate() == "42804" && error.message().contains("c.parquet"), "{error}");

    let data = dir.path().join("c");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("a.csv"), "a,b\n1,2\n").unwrap();
    std::fs::write(data.join("b.csv"), "c,a\nx,1.5\n").unwrap();
    let (columns, t) = inferred(&batch, &spec(&data, "CSV", &[])).await;
    let types: Vec<_> = columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect();
    assert_eq!(types, ["a numeric", "b bigint", "c text"]);
    let sql = "SELECT count(a) AS a, sum(b) AS b, max(c) AS c FROM t";
    let expected = "+---+---+---+\n| a | b | c |\n+---+---+---+\n| 2 | 2 | x |\n+---+---+---+";
    assert_eq!(shown(&batch, sql, &[("t", t)]).await, expected);
}

#[tokio::test]
async fn what_is_wrong_with_a_line_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let csv = dir.path().join("a.csv");
    let declared = vec![Column::new("id", SqlType::Int8, true), Column::new("d", SqlType::Date, true)];
    for (text, code, words) in [
        ("id,d\n1,2026-01-01\nx,2026-01-01\n", "22P02", "line 3, column \"id\""),
        ("id,d\n1,\"2026-01-01\n\n1\n", "22P04", "line "),
        ("id,d\n1\n", "22P04", "line 2)"),
        ("id,d\n1,2,3\n", "22P04", "line 2)"),
        ("id,d\n1,2026-13-01\n", "22008", "line 2, column \"d\""),
    ] {
        std::fs::write(&csv, text).unwrap();
        let t = provider(&table(&spec(&csv, "CSV", &[]), declared.clone()));
        let error = query(&batch, "SELECT id, d FROM t", &[("t", t)]).await.unwrap_err();
        assert_eq!(error.sqlstate(), code, "{text}: {error}");
        assert!(error.message().contains("a.csv") && error.message().contains(words), "{error}");
        assert_eq!(error.context(), Some("external table \"t\""));
        assert!(error.hint().is_some());
    }
    let json = dir.path().join("a.json");
    for (text, words) in
        [("{\"id\": 1}\n{\"id\": }\n", "line 2)"), ("\n{\"id\": \"x\"}\n", "line 2)"), ("[1]\n", "line 1)")]
    {
        std::fs::write(&json, text).unwrap();
        let t = provider(&table(&spec(&json, "JSON", &[]), declared.clone()));
        let error = query(&batch, "SELECT id FROM t", &[("t", t)]).await.unwrap_err();
        assert_eq!(error.sqlstate(), "22P02", "{text}: {error}");
        assert!(error.message().contains("a.json") && error.message().contains(words), "{error}");
    }
    std::fs::write(dir.path().join("b.csv.gz"), "no gzip").unwrap();
    let t = provider(&table(&spec(&dir.path().join("b.csv.gz"), "CSV", &[]), declared));
    let error = query(&batch, "SELECT id FROM t", &[("t", t)]).await.unwrap_err();
    assert!(error.sqlstate() == "XX001" && error.message().contains("b.csv.gz"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_damaged_inside_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let batch = engine(dir.path(), 100 * MIB);
    let data = dir.path().join("t");
    three_days(&data);
    let (_, t) = inferred(&batch, &spec(&data, "PARQUET", &["d"])).await;
    // The footer is whole, what it speaks of is not.
    let file = data.join("d=2026-01-02/part 0.parquet");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4..400].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    let error = query(&batch, "SELECT max(id), max(name) FROM t WHERE id > 0", &[("t", t)]).await.unwrap_err();
    assert_eq!((error.sqlstate(), error.context()), ("XX001", Some("external table \"t\"")), "{error}");
    assert!(error.message().contains("d=2026-01-02/part 0.parquet"), "{error}");
}
