//! COPY … FROM STDIN over the wire: tokio-postgres and psql send rows, and hear of bad ones by their line.

use std::fmt::Write as _;

use futures::TryStreamExt;

use crate::client::Session;
use crate::server::Server;

const TABLE: &str = "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(5), amount DECIMAL(12,2) DEFAULT 7.50, \
     ts TIMESTAMP, doubled INT GENERATED ALWAYS AS (id * 2) STORED, CHECK (amount >= 0))";

/// SQLSTATE, message and context of a COPY that fails.
async fn failure(session: &Session, sql: &str, data: &str) -> String {
    let failure = session.copy_in(sql, data).await.expect_err("an error");
    let context = failure.context.unwrap_or_default();
    format!("{} {} / {context}", failure.sqlstate.unwrap_or_default(), failure.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_copied_in_and_views_see_them() {
    let server = Server::start();
    let session = server.connect().await;
    session.run(TABLE).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(amount) AS total FROM t").await;
    let text = "1\tone\t1.25\t2024-01-01 10:00:00\n2\t\\N\t2\t\\N\n";
    assert_eq!(session.copy_in("COPY t FROM STDIN", text).await.unwrap(), 2);
    let csv = "name,id\n\"a,\"\"b\",3\n,4\n\"\",5";
    assert_eq!(session.copy_in("COPY t (name, id) FROM STDIN WITH (FORMAT csv, HEADER)", csv).await.unwrap(), 3);
    let csv = "6;-;'x;y'\n";
    let sql = "COPY t (id, ts, name) FROM STDIN (FORMAT csv, DELIMITER ';', NULL '-', QUOTE '''')";
    assert_eq!(session.copy_in(sql, csv).await.unwrap(), 1);
    assert_eq!(
        session.rows("SELECT id, name, amount, ts, doubled FROM t ORDER BY id").await,
        [
            "1|one|1.25|2024-01-01 10:00:00|2",
            "2|∅|2.00|∅|4",
            "3|a,\"b|7.50|∅|6",
            "4|∅|7.50|∅|8",
            "5||7.50|∅|10",
            "6|x;y|7.50|∅|12"
        ]
    );
    assert_eq!(session.rows("SELECT n, total FROM v").await, ["6|33.25"]);
    // Many lines, whose ends are anywhere in the pieces.
    let mut many = String::new();
    (10..50_010).for_each(|id| writeln!(many, "{id}\tn{}\t{}.5", id % 100, id % 7).unwrap());
    assert_eq!(session.copy_in("COPY t (id, name, amount) FROM STDIN", &many).await.unwrap(), 50_000);
    assert_eq!(session.rows("SELECT n FROM v").await, ["50006"]);
    assert_eq!(session.value("SELECT sum(id) FROM t WHERE id >= 10").await, "1250475000");
    assert_eq!(session.copy_in("COPY t FROM STDIN", "").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_row_is_named_by_its_line_and_nothing_is_kept() {
    let server = Server::start();
    let session = server.connect().await;
    session.run(TABLE).await;
    let copy = "COPY t (id, name) FROM STDIN";
    assert_eq!(
        failure(&session, copy, "1\ta\nx\tb\n").await,
        "22P02 invalid input syntax for type integer: \"x\" / COPY t, line 2, column id: \"x\""
    );
    assert_eq!(
        failure(&session, copy, "1\ta\n2\n").await,
        "22P04 missing data for column \"name\" / COPY t, line 2: \"2\""
    );
    assert_eq!(
        failure(&session, copy, "1\ta\tb\n").await,
        "22P04 extra data after last expected column / COPY t, line 1: \"1\ta\tb\""
    );
    assert_eq!(
        failure(&session, copy, "1\tlonger\n").await,
        "22001 value too long for type character varying(5) / COPY t, line 1, column name: \"longer\""
    );
    assert!(failure(&session, copy, "3000000000\ta\n").await.starts_with("22003 "));
    assert!(failure(&session, copy, "1\ta\n1\tb\n").await.starts_with("23505 "));
    assert!(failure(&session, copy, "\\N\ta\n").await.starts_with("23502 null value in column \"id\""));
    assert!(failure(&session, "COPY t (id, amount) FROM STDIN", "1\t-1\n").await.starts_with("23514 "));
    let mut late = String::new();
    (1..20_000).for_each(|id| writeln!(late, "{id}\tn").unwrap());
    late.push_str("oops\tn\n");
    assert!(failure(&session, copy, &late).await.ends_with("COPY t, line 20000, column id: \"oops\""));
    let refused = session.error("COPY t FROM STDIN (FORMAT csv, WIBBLE)").await;
    assert_eq!(refused.sqlstate.as_deref(), Some("22023"));
    assert!(refused.hint.as_deref().unwrap_or_default().contains("delimiter"), "{refused}");
    assert_eq!(session.error("COPY t FROM '/tmp/x.csv'").await.sqlstate.as_deref(), Some("0A000"));
    assert_eq!(session.error("COPY t (doubled) FROM STDIN").await.sqlstate.as_deref(), Some("428C9"));
    session.run("CREATE MATERIALIZED VIEW v AS SELECT id FROM t").await;
    assert_eq!(session.error("COPY v FROM STDIN").await.sqlstate.as_deref(), Some("42809"));
    assert_eq!(session.value("SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_belongs_to_its_transaction() {
    let server = Server::start();
    let session = server.connect().await;
    let other = server.connect().await;
    session.run(TABLE).await;
    session.run("BEGIN").await;
    session.copy_in("COPY t (id) FROM STDIN", "1\n2\n").await.unwrap();
    assert_eq!(session.value("SELECT count(*) FROM t").await, "2");
    assert_eq!(other.value("SELECT count(*) FROM t").await, "0");
    session.run("ROLLBACK").await;
    assert_eq!(session.value("SELECT count(*) FROM t").await, "0");
    session.run("BEGIN").await;
    session.copy_in("COPY t (id) FROM STDIN", "1\n2\n").await.unwrap();
    session.run("COMMIT").await;
    assert_eq!(other.value("SELECT count(*) FROM t").await, "2");
    session.run("BEGIN").await;
    session.copy_in("COPY t (id) FROM STDIN", "x\n").await.expect_err("no integer");
    assert_eq!(session.error("SELECT 1").await.sqlstate.as_deref(), Some("25P02"));
    session.run("ROLLBACK").await;
    session.run("BEGIN READ ONLY").await;
    assert_eq!(session.error("COPY t (id) FROM STDIN").await.sqlstate.as_deref(), Some("25006"));
    session.run("ROLLBACK").await;
    // A client that gives up leaves nothing.
    drop(session.client.copy_in::<_, bytes::Bytes>("COPY t (id) FROM STDIN").await.unwrap());
    assert_eq!(session.value("SELECT count(*) FROM t").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_copies_files_and_inline_data() {
    let server = Server::start();
    let session = server.connect().await;
    session.run(TABLE).await;
    let file = server.dir().join("rows.csv");
    std::fs::write(&file, "id,name\n1,one\n2,\"tw,o\"\n").unwrap();
    let file = file.display();
    let output = server.psql(&format!("\\copy t (id, name) FROM '{file}' CSV HEADER"));
    assert_eq!(output, "", "psql -q says nothing of success");
    let output = server.psql("COPY t (id, name) FROM stdin;\n3\tthree\n4\t\\N\n\\.\nSELECT count(*) FROM t;\n");
    assert!(output.contains("\n4\n"), "{output}");
    let output = server.psql(&format!("\\copy t (id, name) FROM '{file}' CSV\nSELECT 'after';"));
    assert!(output.contains("22P02") && output.contains("COPY t, line 1, column id: \"id\""), "{output}");
    assert!(output.contains("after"), "{output}");
    let expected = ["1|one", "2|tw,o", "3|three", "4|∅"];
    assert_eq!(session.rows("SELECT id, name FROM t").await, expected);
    // What COPY TO writes, COPY FROM reads.
    let out = server.dir().join("out.txt");
    let out = out.display();
    server.psql(&format!("\\copy (SELECT id + 10, name FROM t) TO '{out}'\n\\copy t (id, name) FROM '{out}'"));
    assert_eq!(session.rows("SELECT id - 10, name FROM t WHERE id > 10").await, expected);
}

/// Drivers take each message of COPY ... TO STDOUT for a row, whatever line breaks are in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_row_to_the_client_is_a_message() {
    let server = Server::start();
    let session = server.connect().await;
    let query = "SELECT n, E'a\\n\"b' AS text FROM generate_series(1, 3) AS s (n)";
    for (options, expected) in [
        ("", vec!["1\ta\\n\"b\n", "2\ta\\n\"b\n", "3\ta\\n\"b\n"]),
        ("CSV HEADER", vec!["n,text\n", "1,\"a\n\"\"b\"\n", "2,\"a\n\"\"b\"\n", "3,\"a\n\"\"b\"\n"]),
    ] {
        let sql = format!("COPY ({query}) TO STDOUT {options}");
        let messages = session.client.copy_out(&sql).await.expect("data").try_collect::<Vec<_>>().await.expect("data");
        let messages: Vec<&str> = messages.iter().map(|m| std::str::from_utf8(m).expect("text")).collect();
        assert_eq!(messages, expected);
    }
}
