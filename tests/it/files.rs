//! Lines of files as a source: nested records, computed columns, what is no record, files that come and grow, a SIGKILL.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::client::Session;
use crate::server::Server;

const LIMIT: Duration = Duration::from_secs(30);

fn append(folder: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(folder).expect("a folder");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(name));
    file.expect("a file").write_all(text.as_bytes()).expect("room for a line");
}

async fn create_source(session: &Session, folder: &Path) {
    session
        .run(&format!(
            "CREATE SOURCE lines (n BIGINT, s STRUCT<x BIGINT, t TEXT, deep STRUCT<y BIGINT[], \"Z\" TEXT>>, at TIMESTAMP, \
             size TEXT AS CASE WHEN (s).x > 20 THEN 'large' WHEN (s).x IS NOT NULL THEN 'small' END, \
             WATERMARK FOR at AS at - INTERVAL '1 second') INCLUDE offset AS place \
             WITH (connector = 'filesystem', path = '{}') FORMAT PLAIN ENCODE JSON",
            folder.display()
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nested_records_of_files_as_they_come_and_after_a_kill() {
    let mut server = Server::start();
    let folder = server.dir().join("lines");
    append(
        &folder,
        "a.jsonl",
        "{\"n\": 1, \"s\": {\"x\": 10, \"t\": \"ten\", \"deep\": {\"y\": [1, 2], \"Z\": \"z\"}}, \"at\": \"2026-01-01 10:00:00\"}\n\
         {\"n\": 2, \"s\": {\"x\": 1, \"t\": \"one\", \"deep\": {\"y\": \"no list\"}}}\n",
    );
    append(
        &folder,
        "b.jsonl",
        "{\"n\": 3, \"s\": {\"x\": 30, \"deep\": {\"y\": []}}, \"at\": \"2026-01-01 10:00:03\"}\n",
    );
    append(&folder, "b.jsonl", "{\"n\": 4, \"s\": null}\n");
    let session = server.connect().await;
    create_source(&session, &folder).await;

    // The source itself; a record is malformed whatever is read of it.
    assert_eq!(
        session.rows("SELECT n, (s).x, (s).t, ((s).deep).y, (s).deep.\"Z\", size, place FROM lines").await,
        ["1|10|ten|{1,2}|z|small|0", "3|30|∅|{}|∅|large|0", "4|∅|∅|∅|∅|∅|73"]
    );
    assert_eq!(session.rows("SELECT s FROM lines WHERE n = 1").await, [r#"(10,ten,"(""{1,2}"",z)")"#]);
    let unknown = session.error("SELECT (s).nothing FROM lines").await;
    assert_eq!(unknown.sqlstate.as_deref(), Some("42703"));
    let plan = session.rows("EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT (s).t FROM lines WHERE (s).x > 1").await;
    assert!(plan.iter().any(|line| line.contains("columns=[s.(x, t)]")), "{plan:#?}");

    session.run("CREATE MATERIALIZED VIEW few AS SELECT n, (s).x AS x, size FROM lines").await;
    session
        .run("CREATE MATERIALIZED VIEW sums AS SELECT size, count(*) AS n, sum((s).x) AS t FROM lines GROUP BY size")
        .await;
    session.eventually("SELECT * FROM few", LIMIT, &["1|10|small", "3|30|large", "4|∅|∅"]).await;
    // Another view that reads more of the records, and what was there before it.
    session.run("CREATE MATERIALIZED VIEW whole AS SELECT n, s FROM lines").await;
    let whole = [r#"1|(10,ten,"(""{1,2}"",z)")"#, r#"3|(30,,"({},)")"#, "4|∅"];
    session.eventually("SELECT * FROM whole", LIMIT, &whole).await;
    let dead = session.rows("SELECT topic, \"offset\", error FROM millstream.dead_letters").await;
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert!(dead[0].contains("|99|") && dead[0].contains("column \"s\": column \"deep\": column \"y\""), "{dead:#?}");

    server.kill();
    append(&folder, "c.jsonl", "{\"n\": 5, \"s\": {\"x\": 50}}");
    append(&folder, "a.jsonl", "{\"n\": 6, \"s\": {\"x\": 6}}\n");
    server.restart();
    let session = server.connect().await;
    session.eventually("SELECT n FROM few", LIMIT, &["1", "3", "4", "5", "6"]).await;
    assert_eq!(session.rows("SELECT * FROM sums").await, ["large|2|80", "small|2|16", "∅|1|∅"]);
    append(&folder, "c.jsonl", "\n{\"n\": 7}\n");
    session.eventually("SELECT n FROM few WHERE n > 4", LIMIT, &["5", "6", "7"]).await;
    assert_eq!(session.value("SELECT count(*) FROM lines").await, "6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_source_of_files_cannot_be() {
    let server = Server::start();
    let folder = server.dir().join("lines");
    append(&folder, "a.jsonl", "{\"n\": 1}\n");
    let session = server.connect().await;
    let place = folder.display().to_string();
    for (columns, include, options, sqlstate) in [
        ("n INT", "", format!("path = '{place}/none*'"), "58P01"),
        ("n INT", "", "paths = 'x'".to_string(), "22023"),
        ("n INT", "", format!("path = '{place}', colour = 'red'"), "22023"),
        ("n INT", "INCLUDE key", format!("path = '{place}'"), "0A000"),
        // What is computed of a record must have a value for each.
        ("n INT, m INT AS 10 / n", "", format!("path = '{place}'"), "0A000"),
        ("n INT, m VARCHAR(3) AS n", "", format!("path = '{place}'"), "0A000"),
        ("n INT, m INT DEFAULT 1", "", format!("path = '{place}'"), "0A000"),
        ("n INT, m TEXT AS q", "", format!("path = '{place}'"), "42703"),
        ("n INT, m INT AS (n = 1)", "", format!("path = '{place}'"), "42804"),
        ("s STRUCT<a INT, a TEXT>", "", format!("path = '{place}'"), "42701"),
        ("s STRUCT<INT>", "", format!("path = '{place}'"), "42601"),
    ] {
        let statement = format!(
            "CREATE SOURCE none ({columns}) {include} WITH (connector = 'filesystem', {options}) FORMAT PLAIN ENCODE JSON"
        );
        let failure = session.error(&statement).await;
        assert_eq!(failure.sqlstate.as_deref(), Some(sqlstate), "{statement}: {failure}");
    }
}
