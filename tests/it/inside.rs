//! Looking inside: definitions, secrets, system tables, EXPLAIN ANALYZE and metrics of a server that runs.

use std::time::Duration;

use crate::client::Session;
use crate::kafka::{self, create_topic, produce};
use crate::process::http_get;
use crate::server::Server;

const SOON: Duration = Duration::from_secs(20);

/// A source with a password, a view over it with a failing expression, and a sink, all of them fed.
async fn busy(server: &Server, topic: &str) -> Session {
    create_topic(topic, 1);
    let session = server.connect().await;
    session
        .run(&format!(
            "CREATE SOURCE s (id INT, d INT) WITH (connector = 'kafka', topic = '{topic}', \
             properties.bootstrap.server = '{}', scan.startup.mode = 'earliest', \
             properties.sasl.username = 'ann', properties.sasl.password = 'hunter2') FORMAT PLAIN ENCODE JSON",
            kafka::bootstrap()
        ))
        .await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT id, 12 / d AS q FROM s").await;
    session.run("CREATE MATERIALIZED VIEW sums AS SELECT q, count(*) AS n FROM v GROUP BY q").await;
    session.run("CREATE SINK hole FROM v WITH (connector = 'blackhole')").await;
    // Only now: a view that is built over what came before it has no latency to show.
    produce(topic, 0, &["{\"id\":1,\"d\":1}", "{\"id\":2,\"d\":0}", "not json", "{\"id\":3,\"d\":3}"]);
    session.eventually("SELECT * FROM sums", SOON, &["12|1", "4|1"]).await;
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_secret_is_shown_nowhere() {
    let mut server = Server::start();
    let session = busy(&server, "inside-secret").await;
    session.run("ALTER SOURCE s RENAME TO renamed").await;
    session
        .run(
            "CREATE SECRET bucket WITH (type = 's3', key_id = 'hunter2 id', secret = 'hunter2 key', session_token = 'hunter2 \
             token', endpoint = 'http://127.0.0.1:1', allow_http = true, scope = 's3://b/')",
        )
        .await;
    session
        .run(
            "CREATE OR REPLACE SECRET bucket WITH (type = 's3', key_id = 'hunter2', secret = $$hunter2$$, endpoint = \
                 'http://127.0.0.1:1', allow_http = true, scope = 's3://b/')",
        )
        .await;
    // What fails shows it neither: not the statement that gives it, nor one that uses it.
    for sql in [
        "CREATE SECRET bucket WITH (type = 's3', secret = 'hunter2')",
        "CREATE SECRET other WITH (type = 's3', key_id = 'hunter2')",
        "CREATE SECRET other WITH (type = 's3', secret_key = 'hunter2')",
        "CREATE EXTERNAL TABLE e STORED AS CSV LOCATION 's3://b/x.csv' WITH (secret = 'bucket')",
        "COPY (SELECT 1 AS a) TO 's3://b/x.csv'",
    ] {
        let failure = session.error(sql).await;
        assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
    }
    let shown = session.value("SELECT new_definition FROM millstream.ddl_history WHERE name = 'renamed'").await;
    assert!(shown.contains("properties.sasl.password = '***'") && shown.contains("'ann'"), "{shown}");
    let all = server.psql(
        "SHOW CREATE SOURCE renamed;\n\\d renamed\n\\d+ renamed\nSELECT * FROM millstream.ddl_history;\n\
         SELECT * FROM millstream.sources;\nSELECT * FROM millstream.sessions;\nSELECT * FROM pg_foreign_table;\n\
         SHOW SECRETS;\nSHOW CREATE SECRET bucket;\nSELECT * FROM millstream.secrets;\nSELECT * FROM millstream.external_tables;\n\
         EXPLAIN SELECT * FROM millstream.secrets;",
    );
    assert!(all.contains("***") && all.contains("ann"), "{all}");
    assert!(!all.contains("hunter2"), "{all}");
    assert!(!server.log().contains("hunter2"), "{}", server.log());
    // What is masked for readers still reaches the broker's client.
    assert!(server.terminate().success());
    server.restart();
    let session = server.connect().await;
    produce("inside-secret", 0, &["{\"id\":4,\"d\":1}"]);
    session.eventually("SELECT * FROM sums", SOON, &["12|2", "4|1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_same_numbers_in_sql_explain_and_metrics() {
    let server = Server::start();
    let session = busy(&server, "inside-numbers").await;
    session
        .eventually(
            "SELECT schema, name, partition, position, lag, rows, dead_letters, status FROM millstream.sources",
            SOON,
            &["public|s|0|4|0|3|1|running"],
        )
        .await;
    session
        .eventually(
            "SELECT name, rows, failed_rows, late_rows, status, latency_p99_ms > 0 FROM millstream.views",
            SOON,
            &["sums|2|0|0|running|t", "v|2|1|0|running|t"],
        )
        .await;
    let sinks = session.rows("SELECT name, outbox_rows, last_sequence, status, error FROM millstream.sinks").await;
    assert_eq!(sinks, ["hole|0|2|running|∅"]);
    let errors = session.rows("SELECT schema, view, sqlstate, count FROM millstream.view_errors").await;
    assert_eq!(errors, ["public|v|22012|1"]);

    let plan = session.run("EXPLAIN ANALYZE MATERIALIZED VIEW sums").await;
    let plan: Vec<String> = plan.rows.into_iter().flatten().flatten().collect();
    let plan = plan.join("\n");
    assert!(plan.contains("(rows=2, failed rows=0, late rows=0"), "{plan}");
    assert!(plan.lines().any(|l| l.contains("HashAggregate") && l.contains("rows in=2 out=2")), "{plan}");
    assert!(plan.lines().any(|l| l.contains("Scan: v columns=[q]") && l.contains("rows out=2")), "{plan}");

    let (status, metrics) = http_get(server.http_port(), "/metrics").expect("an answer");
    assert_eq!(status, 200);
    for line in [
        "millstream_source_rows_total{schema=\"public\",source=\"s\",partition=\"0\"} 3",
        "millstream_source_dead_letters_total{schema=\"public\",source=\"s\",partition=\"0\"} 1",
        "millstream_source_lag_records{schema=\"public\",source=\"s\",partition=\"0\"} 0",
        "millstream_view_rows{schema=\"public\",view=\"v\"} 2",
        "millstream_view_failed_rows{schema=\"public\",view=\"v\"} 1",
        "millstream_view_up{schema=\"public\",view=\"sums\"} 1",
        "millstream_sink_outbox_rows{schema=\"public\",sink=\"hole\"} 0",
        "millstream_sink_last_sequence{schema=\"public\",sink=\"hole\"} 2",
        "# TYPE millstream_view_latency_seconds summary",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    // Each metric is described once, or Prometheus would refuse them all.
    let mut described: Vec<&str> = metrics.lines().filter(|l| l.starts_with("# TYPE")).collect();
    described.sort_unstable();
    let before = described.len();
    described.dedup();
    assert_eq!(described.len(), before, "{metrics}");

    // A dropped object leaves no sample behind.
    session.run("DROP SINK hole").await;
    let (_, metrics) = http_get(server.http_port(), "/metrics").expect("an answer");
    assert!(!metrics.contains("sink=\"hole\",") && !metrics.contains("last_sequence{"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn psql_describes_every_kind_of_object() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (a INT PRIMARY KEY, b TEXT)").await;
    session.run("CREATE MATERIALIZED VIEW m AS SELECT b, count(*) AS n FROM t GROUP BY b").await;
    session.run("CREATE SINK k FROM m WITH (connector = 'blackhole')").await;
    session.run("COMMENT ON COLUMN m.n IS 'how many'; COMMENT ON MATERIALIZED VIEW m IS 'by b'").await;
    for (command, expected) in [
        ("\\d t", &["a", "integer", "t_pkey"][..]),
        ("\\d+ m", &["how many", "SELECT b, count(*) AS n FROM t GROUP BY b;"]),
        ("\\d k", &["connector 'blackhole'"]),
        ("\\dm+", &["by b"]),
        ("\\d millstream.sources", &["high_watermark", "rows_per_second", "timestamp without time zone"]),
        ("\\d+ millstream.views", &["rows of the view", "double precision"]),
        ("\\dn", &["millstream", "public"]),
        ("\\du", &["millstream"]),
    ] {
        let output = server.psql(command);
        assert!(!output.contains("ERROR"), "{command}:\n{output}");
        for word in expected {
            assert!(output.contains(word), "{command} does not show {word}:\n{output}");
        }
    }
    let notices =
        server.psql("DROP TABLE IF EXISTS missing;\nCREATE TABLE IF NOT EXISTS t (x INT);\nDROP TABLE t CASCADE;");
    for notice in [
        "table \"missing\" does not exist, skipping",
        "relation \"t\" already exists, skipping",
        "drop cascades to 2 other objects",
        "drop cascades to materialized view \"m\"",
        "drop cascades to sink \"k\"",
    ] {
        assert!(notices.contains(notice), "{notice} is not in\n{notices}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_client_writes_what_it_copies() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (a INT, b TEXT, c TIMESTAMPTZ)").await;
    session.run("INSERT INTO t VALUES (1, 'x,\"y\"', '2024-01-01 00:00:00+00'), (2, NULL, NULL)").await;
    let file = server.dir().join("out.csv");
    let output = server.psql(&format!("\\copy (SELECT * FROM t ORDER BY a) TO '{}' CSV HEADER", file.display()));
    assert!(!output.contains("ERROR"), "{output}");
    let written = std::fs::read_to_string(&file).expect("a file");
    assert_eq!(written, "a,b,c\n1,\"x,\"\"y\"\"\",2024-01-01 00:00:00+00\n2,,\n");
    assert_eq!(server.psql("COPY (SELECT a, b FROM t ORDER BY a) TO STDOUT;"), "1\tx,\"y\"\n2\t\\N\n");
    let output = server.psql("COPY t TO STDOUT (FORMAT csv, WIBBLE);");
    assert!(output.contains("22023") && output.contains("delimiter"), "{output}");
    assert!(server.psql("COPY (SELECT 1/(a-a) FROM t) TO STDOUT;\nSELECT 'after';").contains("after"));
}

/// A continuous view, a table, a topic and Parquet files in one SELECT.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_select_over_everything() {
    let server = Server::start();
    let session = busy(&server, "inside-everything").await;
    let dir = server.dir().display().to_string();
    session.run("CREATE TABLE names (id INT PRIMARY KEY, name TEXT)").await;
    session.run("INSERT INTO names VALUES (1, 'one'), (2, 'two'), (3, 'three')").await;
    for (day, id) in [("2024-01-01", 1), ("2024-01-02", 3)] {
        session.run(&format!("COPY (SELECT {id} AS id, 1.50 AS fee) TO '{dir}/fees/d={day}/a.parquet'")).await;
    }
    session
        .run(&format!("CREATE EXTERNAL TABLE fees STORED AS PARQUET LOCATION '{dir}/fees/' PARTITIONED BY (d)"))
        .await;
    let rows = session
        .rows(
            "SELECT n.name, v.q, s.d, f.fee, f.d FROM v JOIN names n ON n.id = v.id JOIN s ON s.id = v.id \
             JOIN fees f ON f.id = v.id",
        )
        .await;
    assert_eq!(rows, ["one|12|1|1.50|2024-01-01", "three|4|3|1.50|2024-01-02"]);
    // The partition that the filter excludes is not opened.
    let plan = session.run("EXPLAIN ANALYZE SELECT fee FROM fees WHERE d = '2024-01-02'").await;
    let plan = plan.rows.into_iter().flatten().flatten().collect::<Vec<_>>().join("\n");
    assert!(plan.contains("d=2024-01-02") && !plan.contains("d=2024-01-01"), "{plan}");
    assert!(plan.contains("files_opened=1"), "{plan}");
}
