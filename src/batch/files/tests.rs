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

use super::{FileTable, FileTableSpec, check_declared, infer_columns, read_parquet};
use crate::batch::testing::{AsPlanned, engine, plan, query, shown, write_parquet};
use crate::batch::{Batch, StatementOptions};

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

fn spec(location: &Path, stored_as: &str, partitions: &[&str]) -> FileTableSpec {
    FileTableSpec {
        stored_as: stored_as.into(),
        location: location.to_string_lossy().into_owned(),
        partition_columns: partitions.iter().map(ToString::to_string).collect(),
        options: BTreeMap::new(),
    }
}

fn table(spec: &FileTableSpec, columns: Vec<Column>) -> ExternalTable {
    let FileTableSpec { stored_as, location, partition_columns, options } = spec.clone();
    ExternalTable { columns, stored_as, location, partition_columns, options }
}

async fn inferred(batch: &Batch, spec: &FileTableSpec) -> (Vec<Column>, Arc<dyn TableProvider>) {
    let columns = infer_columns(batch, spec).await.unwrap();
    let provider = FileTable::new(&table(spec, columns.clone())).unwrap();
    (columns, Arc::new(provider))
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
    let t = read_parquet(&batch, &file.to_string_lossy()).await.unwrap();
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
    check_declared(&batch, &as_numeric).await.unwrap();
    let t = Arc::new(FileTable::new(&as_numeric).unwrap());
    let sql = "SELECT n FROM t WHERE n > 1.5";
    assert_eq!(shown(&batch, sql, &[("t", t)]).await, "+------+\n| n    |\n+------+\n| 2.00 |\n+------+");
    let misspelled = table(&spec, vec![Column::new("m", SqlType::Int4, true)]);
    let error = check_declared(&batch, &misspelled).await.unwrap_err();
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
    let t: Arc<dyn TableProvider> = Arc::new(read_parquet(&batch, &glob.to_string_lossy()).await.unwrap());
    let names: Vec<_> = t.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "name", "d"]);
    assert_eq!(number(&query(&batch, "SELECT count(DISTINCT d) FROM t", &[("t", t)]).await.unwrap()), 2);
    let error = read_parquet(&batch, &dir.path().join("no/*.parquet").to_string_lossy()).await.unwrap_err();
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
    let t = Arc::new(FileTable::new(&table(&spec(&csv, "CSV", &[]), declared.clone())).unwrap());
    let sql = "SELECT sum(amount) AS s, count(*) AS n, max(length(note)) AS l FROM t";
    let expected = "+-------+---+---+\n| s     | n | l |\n+-------+---+---+\n| 10.50 | 2 | 3 |\n+-------+---+---+";
    assert_eq!(shown(&batch, sql, &[("t", t)]).await, expected);
    let json = dir.path().join("a.json");
    std::fs::write(&json, "{\"id\":1,\"amount\":10.50,\"note\":\"abc\"}\n{\"id\":2}\n").unwrap();
    let t = Arc::new(FileTable::new(&table(&spec(&json, "JSON", &[]), declared)).unwrap());
    assert_eq!(shown(&batch, sql, &[("t", t)]).await, expected);
    let mut bad = spec(&csv, "CSV", &[]);
    bad.options.insert("delimeter".into(), ";".into());
    let error = infer_columns(&batch, &bad).await.unwrap_err();
    assert_eq!(error.sqlstate(), "22023");
    assert!(error.hint().unwrap().contains("delimiter"));
}
