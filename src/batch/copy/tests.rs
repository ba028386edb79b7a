//! COPY into a temporary folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use datafusion::arrow::array::{Int64Array, StringViewArray};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;
use millstream_sql::ExternalCall;

use super::*;
use crate::batch::files;
use crate::batch::testing::{engine, local, shown};

fn batch(values: Vec<i64>) -> RecordBatch {
    let texts: StringViewArray = values.iter().map(|n| (n % 2 == 1).then(|| format!("a/{n}"))).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("n", Arc::new(Int64Array::from(values)) as ArrayRef, true),
        ("t", Arc::new(texts) as ArrayRef, true),
    ])
    .unwrap()
}

fn rows(batches: Vec<datafusion::error::Result<RecordBatch>>) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(batch(vec![1]).schema(), stream::iter(batches)))
}

async fn copy(path: &str, options: &[(&str, &str)], partition_by: Vec<usize>, engine: &Batch) -> Result<CopyTo> {
    let options: BTreeMap<String, String> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let format = options.get("format").cloned().unwrap_or_else(|| "parquet".into());
    let options = options.into_iter().filter(|(k, _)| k != "format").collect();
    let options = CopyOptions::new(path, &format, &options)?;
    CopyTo::new(path, options, batch(vec![1]).schema(), partition_by, "UTC", &local(), engine.handle()).await
}

async fn run(copy: CopyTo, engine: &Batch, batches: Vec<datafusion::error::Result<RecordBatch>>) -> Result<u64> {
    copy.write(engine, rows(batches), Arc::default(), CancellationToken::new()).await
}

fn names(dir: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true if path.ends_with("spill") => {}
                true => walk(root, &path, names),
                false => names.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned()),
            }
        }
    }
    let mut names = Vec::new();
    walk(dir, dir, &mut names);
    names.sort();
    names
}

async fn read(engine: &Batch, format: &str, path: &Path, sql: &str) -> String {
    let call = ExternalCall {
        format: format.into(),
        locations: vec![path.to_string_lossy().into_owned()],
        options: BTreeMap::new(),
        partitions: None,
    };
    let table = files::read(engine, &local(), &call).await.unwrap();
    shown(engine, sql, &[("t", Arc::new(table))]).await
}

#[tokio::test]
async fn every_format_and_compression_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), 64 << 20);
    for (name, format, compression) in [
        ("a.parquet", "parquet", "snappy"),
        ("b.parquet", "parquet", "zstd"),
        ("a.csv", "csv", "none"),
        ("b.csv.gz", "csv", "gzip"),
        ("c.csv.zst", "csv", "zstd"),
        ("a.json", "json", "none"),
        ("b.json.gz", "json", "gzip"),
        ("c.json.zst", "json", "zstd"),
    ] {
        let path = dir.path().join(name);
        let options = [("format", format), ("compression", compression)];
        let copy = copy(&path.to_string_lossy(), &options, Vec::new(), &engine).await.unwrap();
        assert_eq!(run(copy, &engine, vec![Ok(batch(vec![1, 2])), Ok(batch(vec![3]))]).await.unwrap(), 3);
        let sql = "SELECT sum(n) AS s, count(t) AS c, max(t) AS m FROM t";
        let expected = "+---+---+-----+\n| s | c | m   |\n+---+---+-----+\n| 6 | 2 | a/3 |\n+---+---+-----+";
        assert_eq!(read(&engine, format, &path, sql).await, expected, "{name}");
    }
}

#[tokio::test]
async fn folders_have_partitions_and_files_of_a_size() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), 64 << 20);
    let path = dir.path().join("out");
    let target = path.to_string_lossy().into_owned();
    let made = copy(&target, &[("format", "csv")], vec![1], &engine).await.unwrap();
    let sorted = vec![Ok(batch(vec![1, 1])), Ok(batch(vec![1, 3])), Ok(batch(vec![2, 4]))];
    assert_eq!(run(made, &engine, sorted).await.unwrap(), 6);
    assert_eq!(
        names(&path),
        ["t=__HIVE_DEFAULT_PARTITION__/data_0001.csv", "t=a%2F1/data_0001.csv", "t=a%2F3/data_0001.csv"]
    );
    let counts = read(&engine, "csv", &path, "SELECT t, count(*) AS n, sum(n) AS s FROM t GROUP BY t ORDER BY t").await;
    assert!(counts.contains("| a/1 | 3 | 3 |") && counts.contains("|     | 2 | 6 |"), "{counts}");

    let error = copy(&target, &[("rows_per_file", "2")], Vec::new(), &engine).await.unwrap_err();
    assert_eq!(error.sqlstate(), "58P02");
    let options = [("rows_per_file", "2"), ("overwrite", "true")];
    let made = copy(&target, &options, Vec::new(), &engine).await.unwrap();
    assert_eq!(run(made, &engine, vec![Ok(batch(vec![1, 2, 3, 4, 5]))]).await.unwrap(), 5);
    assert_eq!(names(&path), ["data_0001.parquet", "data_0002.parquet", "data_0003.parquet"]);
    // What is no data is not taken away with it.
    fs::write(path.join("notes.txt"), "x").unwrap();
    let error = copy(&target, &options, Vec::new(), &engine).await.unwrap_err();
    assert!(error.message().contains("notes.txt"), "{error}");
    assert!(fs::read_dir(dir.path()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with('.')));
}

#[tokio::test]
async fn a_failure_leaves_what_was_there_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), 64 << 20);
    let target = dir.path().join("x.parquet");
    fs::write(&target, "old").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("folder/a.csv"), "old").unwrap();
    let broken = || Err(Error::new(sqlstate::DIVISION_BY_ZERO, "division by zero").into());
    let made = copy(&target.to_string_lossy(), &[], Vec::new(), &engine).await.unwrap();
    let error = run(made, &engine, vec![Ok(batch(vec![1])), broken()]).await.unwrap_err();
    assert_eq!(error.sqlstate(), "22012");
    let folder = dir.path().join("folder").to_string_lossy().into_owned();
    let options = [("rows_per_file", "1"), ("overwrite", "true"), ("format", "csv")];
    let made = copy(&folder, &options, Vec::new(), &engine).await.unwrap();
    assert!(run(made, &engine, vec![Ok(batch(vec![1, 2])), broken()]).await.is_err());
    let made = copy(&folder, &options, Vec::new(), &engine).await.unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = made.write(&engine, rows(vec![Ok(batch(vec![1]))]), Arc::default(), cancel).await.unwrap_err();
    assert_eq!(error.sqlstate(), "57014");
    assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    assert_eq!(names(dir.path()), ["folder/a.csv", "x.parquet"]);
}

#[tokio::test]
async fn bad_targets_and_options_are_refused_before_the_query_runs() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), 64 << 20);
    let folder = dir.path().to_string_lossy().into_owned();
    let refused = async |path: &str, options: &[(&str, &str)]| {
        copy(path, options, Vec::new(), &engine).await.unwrap_err().sqlstate().to_string()
    };
    assert_eq!(refused(&folder, &[]).await, "42809");
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(refused(&format!("{folder}/file/"), &[]).await, "42809");
    assert_eq!(refused(&format!("{folder}/file/x.parquet"), &[]).await, "58030");
    assert_eq!(refused(&format!("{folder}/x.parquet"), &[("compresion", "zstd")]).await, "22023");
    assert_eq!(refused(&format!("{folder}/x.parquet"), &[("compression", "rar")]).await, "22023");
    assert_eq!(refused(&format!("{folder}/x.parquet"), &[("rows_per_file", "0")]).await, "22023");
    assert_eq!(refused(&format!("{folder}/x.parquet"), &[("bloom_filter", "z")]).await, "42703");
    assert_eq!(refused(&format!("{folder}/x.txt"), &[("format", "text")]).await, "0A000");
    assert_eq!(refused("s3://bucket/x.parquet", &[]).await, "42704");
}
