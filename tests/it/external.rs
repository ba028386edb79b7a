//! Files of this machine: large ones in little memory, what is pruned, how far a statement is, a SIGKILL in the middle.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::client::Session;
use crate::server::Server;

/// Rows of the large table: some 200 MB as CSV, and far more than the memory that its queries get.
const ROWS: i64 = 2_500_000;
const LIMIT: Duration = Duration::from_secs(60);

fn rows(rows: i64) -> String {
    format!(
        "SELECT n::bigint AS id, (n::bigint * 7919) % {rows} AS k, md5(n::text) || md5((n + 1)::text) AS text FROM generate_series(1, {rows}) AS g (n)"
    )
}

/// The names in a folder and below, sorted; what is hidden too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_are_sorted_and_grouped_in_little_memory() {
    let server = Server::with(&[("MILLSTREAM__BATCH__MEMORY_LIMIT_BYTES", "67108864")]);
    let session = server.connect().await;
    let dir = server.dir().display().to_string();
    let copied = session
        .run(&format!("COPY ({}) TO '{dir}/big/' WITH (FORMAT parquet, ROWS_PER_FILE 1000000)", rows(ROWS)))
        .await;
    assert_eq!(copied.affected, ROWS as u64);
    assert_eq!(names(&server.dir().join("big")), ["data_0001.parquet", "data_0002.parquet", "data_0003.parquet"]);
    session.run(&format!("CREATE EXTERNAL TABLE big STORED AS PARQUET LOCATION '{dir}/big/'")).await;
    let groups =
        session.rows("SELECT count(*), sum(n) FROM (SELECT text, count(*) AS n FROM big GROUP BY text) AS g").await;
    assert_eq!(groups, [format!("{ROWS}|{ROWS}")]);
    let plan = session.rows("EXPLAIN ANALYZE SELECT * FROM big ORDER BY k").await.join("\n");
    let spilled = plan.lines().filter_map(|line| line.split("spill_count=").nth(1)).any(|n| !n.starts_with('0'));
    assert!(spilled, "{plan}");
    // As CSV and back, sorted by the way.
    session.run(&format!("COPY (SELECT k, text FROM big WHERE k < 300000 ORDER BY k) TO '{dir}/sorted.csv.zst'")).await;
    let check = format!(
        "SELECT count(*), bool_and(k = r) FROM (SELECT k, row_number() OVER () - 1 AS r FROM read_csv('{dir}/sorted.csv.zst')) AS s"
    );
    assert_eq!(session.rows(&check).await, ["300000|t"]);
    let resident = server.resident_bytes();
    assert!(resident < 1 << 30, "{} MiB resident", resident >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_pages_and_bloom_filters_prune() {
    let server = Server::start();
    let session = server.connect().await;
    let dir = server.dir().display().to_string();
    let to = format!("COPY ({}) TO '{dir}/p.parquet' WITH (BLOOM_FILTER 'k', ROW_GROUP_ROWS 50000)", rows(200_000));
    session.run(&to).await;
    session.run(&format!("CREATE EXTERNAL TABLE p STORED AS PARQUET LOCATION '{dir}/p.parquet'")).await;
    let analyzed = async |filter: &str| {
        let plan = session.rows(&format!("EXPLAIN ANALYZE SELECT count(*) FROM p WHERE {filter}")).await.join("\n");
        let scan = plan.lines().find(|line| line.contains("DataSourceExec")).map(str::to_string);
        scan.unwrap_or_else(|| panic!("no scan in {plan}"))
    };
    let scan = analyzed("id <= 100").await;
    assert!(scan.contains("row_groups_pruned_statistics=4 total → 1 matched"), "{scan}");
    let scan = analyzed("k = -5 OR k = 1000000").await;
    assert!(scan.contains("row_groups_pruned_statistics=4 total → 0 matched"), "{scan}");
    // Within the bounds of every row group, and in one of them.
    let scan = analyzed("k = 7919").await;
    assert!(scan.contains("row_groups_pruned_bloom_filter=") && scan.contains("→ 1 matched"), "{scan}");
    let scan = analyzed("id BETWEEN 60000 AND 60010").await;
    assert!(scan.contains("page_index_rows_pruned="), "{scan}");
    assert_eq!(session.rows("SELECT id FROM p WHERE k = 7919").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_statement_tells_how_far_it_is_and_ends_when_it_is_told_to() {
    let server = Server::start();
    let dir = server.dir().display().to_string();
    let session = server.connect().await;
    let long = format!("COPY ({}) TO '{dir}/long/' WITH (FORMAT csv, ROWS_PER_FILE 100000)", rows(50_000_000));
    let began = |creator: Session, sql: String| tokio::spawn(async move { creator.try_run(&sql).await });

    // As a job.
    let writing = began(server.connect().await, long.clone());
    let start = Instant::now();
    let job = loop {
        let jobs = session
            .run("SELECT id, rows_written > 0 AND bytes_written > 0, statement FROM millstream.jobs WHERE kind = 'copy to files'")
            .await
            .rows;
        if let Some([Some(id), Some(written), Some(statement)]) = jobs.first().map(Vec::as_slice)
            && written == "t"
        {
            assert!(statement.starts_with("COPY ("), "{statement}");
            break id.clone();
        }
        assert!(start.elapsed() < LIMIT, "no job");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(session.run("SHOW JOBS").await.rows.iter().any(|row| row[0].as_deref() == Some(job.as_str())));
    session.run(&format!("CANCEL JOB {job}")).await;
    let failure = writing.await.expect("no panic").expect_err("it was cancelled");
    assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{failure}");
    assert_eq!(session.error(&format!("CANCEL JOB {job}")).await.sqlstate.as_deref(), Some("42704"));

    // By the client.
    let writer = server.connect().await;
    let cancel = writer.client.cancel_token();
    let writing = began(writer, long.clone());
    tokio::time::sleep(Duration::from_millis(700)).await;
    let start = Instant::now();
    cancel.cancel_query(NoTls).await.expect("a cancel request");
    let failure = writing.await.expect("no panic").expect_err("it was cancelled");
    assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{failure}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!names(server.dir()).iter().any(|name| name.contains("long")), "{:?}", names(server.dir()));

    // To a client that asks for it.
    let told = server.psql(&format!(
        "SET progress_interval = '200ms';\nSET statement_timeout = '1500ms';\n{long};\n\
         SELECT count(*), max(a.n - b.n) FROM generate_series(1, 300000) AS a (n), generate_series(1, 300000) AS b (n);"
    ));
    assert!(told.contains("rows and") && told.contains("bytes written"), "{told}");
    assert!(told.matches("statement timeout").count() == 2 && told.matches("NOTICE").count() >= 6, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sigkill_leaves_what_was_there() {
    let mut server = Server::start();
    let dir = server.dir().display().to_string();
    let session = server.connect().await;
    session.run(&format!("COPY (SELECT 1 AS id) TO '{dir}/one.csv'")).await;
    session.run(&format!("COPY (SELECT 1 AS id) TO '{dir}/many/' WITH (FORMAT csv)")).await;
    for to in
        [format!("'{dir}/one.csv'"), format!("'{dir}/many/' WITH (FORMAT csv, ROWS_PER_FILE 50000, OVERWRITE true)")]
    {
        let writer = server.connect().await;
        let sql = format!("COPY ({}) TO {to}", rows(50_000_000));
        let writing = tokio::spawn(async move { writer.try_run(&sql).await });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.kill();
        assert!(writing.await.expect("no panic").is_err());
        server.restart();
    }
    let session = server.connect().await;
    for place in ["one.csv", "many/"] {
        assert_eq!(session.rows(&format!("SELECT * FROM read_csv('{dir}/{place}')")).await, ["1"]);
    }
    // What was begun is under names that nothing reads.
    let left: Vec<_> = names(server.dir()).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|name| name.starts_with('.')));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_may_not_be_read_or_written_are_named() {
    let server = Server::start();
    let session = server.connect().await;
    for (sql, code, words) in [
        ("SELECT * FROM read_csv('/proc/1/mem/x.csv')".to_string(), "58P01", "does not exist"),
        ("COPY (SELECT 1 AS a) TO '/proc/none/x.csv'".to_string(), "58030", "/proc/none"),
        ("SELECT * FROM read_csv('')".to_string(), "22023", "must not be empty"),
    ] {
        let failure = session.error(&sql).await;
        assert_eq!(failure.sqlstate.as_deref(), Some(code), "{sql}: {failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
}
