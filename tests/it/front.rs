//! The wire: psql, the extended protocol, errors, large results, cancel.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use tokio_postgres::types::Type;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::client::{Failure, Session};
use crate::raw::Raw;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn psql_describes() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE SCHEMA risk").await;
    session
        .run("CREATE TABLE accounts (id BIGINT PRIMARY KEY, holder VARCHAR(20) NOT NULL, balance DECIMAL(12,2))")
        .await;
    session.run("CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 1000").await;
    session.run("CREATE MATERIALIZED VIEW holders AS SELECT holder, count(*) AS n FROM accounts GROUP BY holder").await;
    for (command, expected) in [
        ("\\d", &["accounts", "rich", "holders", "materialized view"][..]),
        ("\\d accounts", &["id", "bigint", "holder", "character varying(20)", "not null", "numeric(12,2)"]),
        ("\\d holders", &["holder", "bigint"]),
        ("\\dt", &["accounts"]),
        ("\\dv", &["rich"]),
        ("\\dm", &["holders"]),
        ("\\dn", &["public", "risk"]),
        ("\\l", &["millstream"]),
        ("\\df", &["Name"]),
        ("\\conninfo", &["millstream"]),
    ] {
        let output = server.psql(command);
        assert!(!output.contains("ERROR"), "{command}:\n{output}");
        for word in expected {
            assert!(output.contains(word), "{command} does not show {word}:\n{output}");
        }
    }
    assert!(!server.psql("\\dt").contains("rich"));
    let output = server.psql("SELECT 1/0;\nSELECT 'after' AS word;");
    assert!(output.contains("22012") && output.contains("after"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn psql_describes_results_and_repeats_statements() {
    let server = Server::start();
    let output = server.psql(
        "SELECT 1::numeric(4,1) AS a, 'x' AS b \\gdesc\n\
         PREPARE p (int) AS SELECT $1 AS n, now() AS t;\n\
         EXECUTE p (1) \\gdesc\n\
         DECLARE c CURSOR WITH HOLD FOR SELECT 7::smallint AS s;\n\
         FETCH c \\gdesc\n\
         SELECT;\n\
         CREATE TABLE seen (n INT);\n\
         INSERT INTO seen SELECT 1 WHERE 1 / (2 - (SELECT count(*) FROM seen)) > -5 \\watch 0.1\n\
         SELECT 'seen ' || count(*) FROM seen;\n",
    );
    for line in ["a|numeric(4,1)", "b|text", "n|integer", "t|timestamp with time zone", "s|smallint", "seen 2"] {
        assert!(output.lines().any(|l| l == line), "no line {line}:\n{output}");
    }
    // The third time the statement fails, which ends psql's loop.
    assert!(output.contains("22012"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn extended_protocol() {
    let server = Server::start();
    let session = server.connect().await;
    session
        .run("CREATE TABLE t (i INT, l BIGINT, s SMALLINT, f DOUBLE PRECISION, r REAL, b BOOLEAN, c TEXT, y BYTEA)")
        .await;
    let insert = session.client.prepare("INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6, $7, $8)").await;
    let insert = insert.expect("a statement with parameters");
    assert_eq!(
        insert.params(),
        [Type::INT4, Type::INT8, Type::INT2, Type::FLOAT8, Type::FLOAT4, Type::BOOL, Type::TEXT, Type::BYTEA]
    );
    for n in 0..3_i32 {
        let count = session
            .client
            .execute(
                &insert,
                &[
                    &n,
                    &(1_i64 << 40),
                    &7_i16,
                    &0.1_f64,
                    &0.5_f32,
                    &(n == 1),
                    &format!("row {n}"),
                    &vec![0_u8, 255, n as u8],
                ],
            )
            .await;
        assert_eq!(count.expect("an insert"), 1);
    }
    let nulls = session.client.execute("INSERT INTO t (i, c) VALUES ($1, $2)", &[&9_i32, &None::<String>]).await;
    assert_eq!(nulls.expect("an insert"), 1);

    // Values come back in the binary format.
    let rows = session.client.query("SELECT i, l, s, f, r, b, c, y FROM t WHERE i < $1 ORDER BY i", &[&3_i32]).await;
    let rows = rows.expect("rows");
    assert_eq!(rows.len(), 3);
    let row = &rows[1];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1), row.get::<_, i16>(2)), (1, 1 << 40, 7));
    assert_eq!((row.get::<_, f64>(3), row.get::<_, f32>(4), row.get::<_, bool>(5)), (0.1, 0.5, true));
    assert_eq!((row.get::<_, String>(6), row.get::<_, Vec<u8>>(7)), ("row 1".to_string(), vec![0, 255, 1]));
    let row = session.client.query_one("SELECT c, l, b FROM t WHERE i = 9", &[]).await.expect("a row");
    assert_eq!((row.get::<_, Option<String>>(0), row.get::<_, Option<i64>>(1)), (None, None));

    // The types of parameters follow from where they stand.
    let statement =
        session.client.prepare("SELECT count(*) FROM t WHERE l = $1 AND c LIKE $2").await.expect("a statement");
    assert_eq!(statement.params(), [Type::INT8, Type::TEXT]);
    assert_eq!(statement.columns()[0].type_(), &Type::INT8);
    let row = session.client.query_one(&statement, &[&(1_i64 << 40), &"row%"]).await.expect("a row");
    assert_eq!(row.get::<_, i64>(0), 3);
    for (sql, types) in [
        ("SELECT i FROM t ORDER BY i LIMIT $1 OFFSET $2", vec![Type::INT8, Type::INT8]),
        ("SELECT i FROM t WHERE i = ANY($1)", vec![Type::INT4_ARRAY]),
        ("SELECT i FROM t WHERE c = ANY($1) AND NOT l = ANY($2)", vec![Type::TEXT_ARRAY, Type::INT8_ARRAY]),
        ("SELECT upper($1), coalesce(l, $2) FROM t", vec![Type::TEXT, Type::INT8]),
        ("SELECT i FROM t WHERE i = $1 OR $1 IS NULL", vec![Type::INT4]),
        ("SELECT $1, $2::date", vec![Type::TEXT, Type::DATE]),
    ] {
        assert_eq!(session.client.prepare(sql).await.expect("a statement").params(), types, "{sql}");
    }
    let limited = session.client.query("SELECT i FROM t ORDER BY i LIMIT $1 OFFSET $2", &[&2_i64, &1_i64]).await;
    assert_eq!(limited.expect("rows").iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [1, 2]);
    let listed = session.client.query("SELECT i FROM t WHERE i = ANY($1) ORDER BY i", &[&vec![0_i32, 2, 77]]).await;
    assert_eq!(listed.expect("rows").iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [0, 2]);
}

/// A parameter that is an argument of a function in SQL has the type that the function declares.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn parameters_are_arguments_of_functions() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, n BIGINT)").await;
    session.run("CREATE FUNCTION times(x INT, y BIGINT) RETURNS BIGINT LANGUAGE SQL AS 'SELECT x * y + x'").await;
    session.run("CREATE FUNCTION or_none(s TEXT) RETURNS TEXT LANGUAGE SQL STRICT AS 'SELECT s || s'").await;
    let insert = session.client.prepare("INSERT INTO t VALUES ($1, times($1, $2))").await.expect("a statement");
    assert_eq!(insert.params(), [Type::INT4, Type::INT8]);
    for id in 1..=3_i32 {
        session.client.execute(&insert, &[&id, &10_i64]).await.expect("an insert");
    }
    let select = "SELECT id, or_none($2) FROM t WHERE n > times($1, 10) ORDER BY id";
    let select = session.client.prepare(select).await.expect("a statement");
    assert_eq!(select.params(), [Type::INT4, Type::TEXT]);
    for (text, expected) in [(Some("ab"), Some("abab")), (None, None)] {
        let rows = session.client.query(&select, &[&2_i32, &text]).await.expect("rows");
        let rows: Vec<(i32, Option<&str>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(rows, [(3, expected)]);
    }
    // A statement that was prepared before sees the function of today.
    session
        .run("CREATE OR REPLACE FUNCTION or_none(s TEXT) RETURNS TEXT LANGUAGE SQL AS $$ SELECT coalesce(s, 'none') $$")
        .await;
    let rows = session.client.query(&select, &[&2_i32, &None::<&str>]).await.expect("rows");
    assert_eq!(rows[0].get::<_, &str>(1), "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn errors_have_code_and_position() {
    let server = Server::start();
    let session = server.connect().await;
    for (sql, sqlstate, position) in [
        ("SELECT nothing FROM (SELECT 1 AS a) AS x", "42703", Some(8)),
        ("SELECT * FROM missing", "42P01", Some(15)),
        ("SELECT 1 +", "42601", None),
        // Where the planner does not know the place, it is searched for.
        ("SELECT 1 + 2,\n  'a'::text + 3", "42883", Some(27)),
        ("SELECT (now())::text || ('a'::text - 1)", "42883", Some(36)),
        ("SELECT count(*) * 2, - 'a'::text", "42883", Some(22)),
        ("SELECT lower('a'), lower(1, 2)", "42883", Some(20)),
        ("SELECT nothing(1)", "42883", Some(8)),
        ("SELECT sum('a'::text)", "42883", Some(8)),
        ("SELECT true AND 1 IN ('a'::text)", "42883", Some(19)),
        ("SELECT 'a'::text NOT BETWEEN 1 AND 2", "42883", Some(18)),
        ("SELECT 1 ~ 'a'", "42883", Some(10)),
        ("SELECT 1 AS a ORDER BY b", "42703", Some(24)),
        ("SELECT 1 FROM (SELECT 1 AS a) AS x JOIN (SELECT 2 AS b) AS y ON a + b", "42804", Some(65)),
        ("SELECT 1 WHERE true AND 5", "42804", Some(25)),
        ("SELECT 1 WHERE 2 + 3", "42804", Some(16)),
        ("SELECT count(*) HAVING 7", "42804", Some(24)),
        ("SELECT CASE WHEN 'a'::text THEN 1 END", "42804", Some(18)),
        ("SELECT 1; SELECT 2 WHERE 'x'::text", "42804", Some(26)),
        ("SELECT 1/0", "22012", None),
    ] {
        let error = session.client.simple_query(sql).await.expect_err("an error");
        let db = error.as_db_error().expect("an error of the server");
        assert_eq!(db.code().code(), sqlstate, "{sql}: {db}");
        if let Some(expected) = position {
            let found = match db.position() {
                Some(tokio_postgres::error::ErrorPosition::Original(at)) => Some(*at),
                _ => None,
            };
            assert_eq!(found, Some(expected), "{sql}: {db}");
        }
    }
    // An error in the extended protocol leaves the connection usable.
    session.client.query("SELECT * FROM missing", &[]).await.expect_err("an error");
    assert_eq!(session.client.query_one("SELECT 5", &[]).await.expect("a row").get::<_, i32>(0), 5);
}

#[tokio::test]
async fn statements_of_one_message_are_one_transaction() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (a INT)").await;
    session.error("INSERT INTO t VALUES (1); SELECT 1/0").await;
    assert_eq!(session.rows("SELECT count(*) FROM t").await, ["0"]);
    session.run("INSERT INTO t VALUES (1); INSERT INTO t SELECT a + 1 FROM t").await;
    assert_eq!(session.rows("SELECT a FROM t").await, ["1", "2"]);

    // COMMIT inside ends the transaction so far, and BEGIN takes in what came before it.
    session.error("INSERT INTO t VALUES (3); COMMIT; INSERT INTO t VALUES (4); SELECT 1/0").await;
    assert_eq!(session.rows("SELECT a FROM t").await, ["1", "2", "3"]);
    session.run("INSERT INTO t VALUES (5); BEGIN; INSERT INTO t VALUES (6)").await;
    session.run("ROLLBACK").await;
    assert_eq!(session.rows("SELECT a FROM t").await, ["1", "2", "3"]);

    let refused = session.error("SELECT 1; CREATE SINK s AS SELECT a FROM t WITH (connector = 'blackhole')").await;
    assert_eq!(refused.sqlstate.as_deref(), Some("25001"), "{refused}");
    let refused = session.error("INSERT INTO t VALUES (7); SAVEPOINT s").await;
    assert_eq!(refused.sqlstate.as_deref(), Some("25P01"), "{refused}");
    assert_eq!(session.rows("SELECT count(*) FROM t").await, ["3"]);
}

/// What a client sends before one Sync is one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pipeline_is_one_transaction() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (a INT PRIMARY KEY)").await;
    let (client, sync) = (&session.client, "a statement alone commits by itself");
    assert_eq!(client.execute("INSERT INTO t VALUES ($1)", &[&1_i32]).await.expect(sync), 1);
    assert_eq!(session.rows("SELECT a FROM t").await, ["1"]);

    let mut raw = Raw::connect(server.port()).await;
    raw.execute("INSERT INTO t VALUES (2)").await;
    raw.execute("INSERT INTO t SELECT a + 10 FROM t").await;
    raw.sync().await;
    assert_eq!(session.rows("SELECT a FROM t").await, ["1", "11", "12", "2"]);
    raw.execute("DELETE FROM t WHERE a > 10").await;
    raw.execute("INSERT INTO t VALUES (1)").await;
    let answer = raw.sync().await;
    assert!(answer.contains("23505"), "{answer}");
    assert_eq!(session.rows("SELECT count(*) FROM t").await, ["4"]);
}

/// A driver's own transactions: begun, nested, committed, and dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drivers_transactions() {
    let server = Server::start();
    let mut session = server.connect().await;
    session.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v TEXT)").await;
    let insert = "INSERT INTO t VALUES ($1, $2)";
    let mut transaction = session.client.transaction().await.expect("BEGIN");
    assert_eq!(transaction.execute(insert, &[&1_i64, &"one"]).await.expect("an insert"), 1);
    let nested = transaction.transaction().await.expect("SAVEPOINT");
    nested.execute(insert, &[&2_i64, &"two"]).await.expect("an insert");
    let duplicate = nested.execute(insert, &[&1_i64, &"again"]).await.expect_err("a taken key");
    assert_eq!(duplicate.code().map(tokio_postgres::error::SqlState::code), Some("23505"));
    nested.rollback().await.expect("ROLLBACK TO");
    let nested = transaction.savepoint("kept").await.expect("SAVEPOINT");
    nested.execute(insert, &[&3_i64, &"three"]).await.expect("an insert");
    nested.commit().await.expect("RELEASE");
    let rows = transaction.query("SELECT id FROM t ORDER BY id", &[]).await.expect("rows");
    assert_eq!(rows.iter().map(|r| r.get::<_, i64>(0)).collect::<Vec<_>>(), [1, 3]);
    transaction.commit().await.expect("COMMIT");

    let transaction = session.client.build_transaction().read_only(true).start().await.expect("BEGIN READ ONLY");
    let refused = transaction.execute("DELETE FROM t", &[]).await.expect_err("a write");
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("25006"));
    drop(transaction);
    assert_eq!(session.rows("SELECT id, v FROM t").await, ["1|one", "3|three"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_results_are_streamed() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("SELECT 1").await;
    let before = server.resident_bytes();
    let stream = session
        .client
        .simple_query_raw("SELECT n, 'some text to make rows wider' FROM generate_series(1, 10000000) AS s (n)")
        .await;
    let mut stream = pin!(stream.expect("a result"));
    let (mut rows, mut peak) = (0_u64, before);
    while let Some(message) = stream.try_next().await.expect("rows") {
        if let SimpleQueryMessage::Row(_) = message {
            rows += 1;
            if rows.is_multiple_of(100_000) {
                peak = peak.max(server.resident_bytes());
            }
        }
    }
    assert_eq!(rows, 10_000_000);
    let grown = peak.saturating_sub(before) >> 20;
    assert!(grown < 60, "{grown} MiB more while ten million rows streamed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_works_while_rows_stream() {
    let server = Server::start();
    let session = server.connect().await;
    let endless = "SELECT a.n, b.n FROM generate_series(1, 100000) AS a (n), generate_series(1, 100000) AS b (n)";
    let error = cancelled_after_rows(&session, endless).await;
    assert_eq!(error.sqlstate.as_deref(), Some("57014"), "{error}");
    assert_eq!(session.rows("SELECT 'alive'").await, ["alive"]);

    // And while nothing has come yet.
    let token = session.client.cancel_token();
    let silent = "SELECT count(*) FROM generate_series(1, 100000) AS a (n), generate_series(1, 100000) AS b (n)";
    let (result, ()) = tokio::join!(session.try_run(silent), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.expect("the request is sent");
    });
    assert_eq!(result.expect_err("cancelled").sqlstate.as_deref(), Some("57014"));

    // Also a statement that gathers rows before it writes them.
    session.run("CREATE TABLE gathered (n BIGINT)").await;
    let gathers = format!("INSERT INTO gathered {silent}");
    let token = session.client.cancel_token();
    let (result, ()) = tokio::join!(session.try_run(&gathers), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.expect("the request is sent");
    });
    assert_eq!(result.expect_err("cancelled").sqlstate.as_deref(), Some("57014"));

    session.run("SET statement_timeout = '200ms'").await;
    assert_eq!(session.error(silent).await.sqlstate.as_deref(), Some("57014"));
    session.run("RESET statement_timeout").await;
    assert_eq!(session.rows("SELECT 1").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_idle_in_a_transaction_for_too_long_is_sent_away() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (a INT)").await;
    let wait = "\\! sleep 1\nSELECT 'still ' || 'there';\n";
    let output = server.psql(&format!(
        "SET idle_in_transaction_session_timeout = '200ms';\nBEGIN;\nINSERT INTO t VALUES (1);\n{wait}"
    ));
    assert!(output.contains("FATAL:  25P03: terminating connection due to idle-in-transaction timeout"), "{output}");
    assert!(!output.contains("still there"), "{output}");
    assert_eq!(session.value("SELECT count(*) FROM t").await, "0");
    // A statement that takes its time is not idle, nor is who has no transaction.
    let output = server.psql(&format!(
        "SET idle_in_transaction_session_timeout = '200ms';\nBEGIN;\nSELECT pg_sleep(1);\nCOMMIT;\n{wait}"
    ));
    assert!(output.contains("still there"), "{output}");
}

/// Reads the first rows of a statement, cancels it, and gives the error that ends it.
async fn cancelled_after_rows(session: &Session, sql: &str) -> Failure {
    let token = session.client.cancel_token();
    let mut stream = pin!(session.client.simple_query_raw(sql).await.expect("a result"));
    for _ in 0..1000 {
        stream.next().await.expect("a row").expect("a row");
    }
    token.cancel_query(NoTls).await.expect("the request is sent");
    let start = Instant::now();
    loop {
        match stream.next().await {
            Some(Ok(_)) => assert!(start.elapsed() < Duration::from_secs(10), "rows still come"),
            Some(Err(error)) => return Failure::from(error),
            None => panic!("the result ended without an error"),
        }
    }
}
