//! Indexes under writes, restarts and deaths: what one finds is what a scan finds.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::client::Session;
use crate::seed;
use crate::server::Server;

/// Rows by an index, and the same rows by a filter that no index serves.
async fn agree(session: &Session, relation: &str, column: &str, value: &str) -> Vec<String> {
    let by_index = format!("SELECT * FROM {relation} WHERE {column} = {value} ORDER BY 1, 2");
    let plan = session.rows(&format!("EXPLAIN {by_index}")).await.join("\n");
    assert!(plan.contains("index: "), "{plan}");
    let by_scan = format!("SELECT * FROM {relation} WHERE {column} + 0 = {value} ORDER BY 1, 2");
    let plan = session.rows(&format!("EXPLAIN {by_scan}")).await.join("\n");
    assert!(!plan.contains("index: "), "{plan}");
    let rows = session.rows(&by_index).await;
    assert_eq!(rows, session.rows(&by_scan).await, "{by_index}");
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_survive_a_restart_and_a_death() {
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, v BIGINT)").await;
    session.run("CREATE TABLE log (g INT, v BIGINT) APPEND ONLY").await;
    session.run("INSERT INTO t SELECT n, n % 10, n FROM generate_series(1, 500) AS s (n)").await;
    session.run("INSERT INTO log SELECT n % 10, n FROM generate_series(1, 500) AS s (n)").await;
    // With a key, without one, and append-only.
    session
        .run("CREATE MATERIALIZED VIEW sums AS SELECT g, sum(v)::BIGINT AS s, count(*) AS n FROM t GROUP BY g")
        .await;
    session.run("CREATE MATERIALIZED VIEW bag AS SELECT g, v % 5 AS m FROM t").await;
    session.run("CREATE MATERIALIZED VIEW kept AS SELECT v, g FROM log WHERE v > 100").await;
    for ddl in ["t (g)", "log (g)", "sums (n)", "bag (m)", "kept (g)"] {
        session.run(&format!("CREATE INDEX ON {ddl}")).await;
    }
    session.run("CREATE UNIQUE INDEX sole ON t (v)").await;
    session.run("COMMENT ON INDEX sole IS 'kept'").await;
    let checks = [("t", "g"), ("log", "g"), ("sums", "n"), ("bag", "m"), ("kept", "g")];
    for round in 0..4_i64 {
        let session = server.connect().await;
        let first = 1000 + round * 100;
        session
            .run(&format!("INSERT INTO t SELECT n, n % 7, n FROM generate_series({first}, {}) s (n)", first + 50))
            .await;
        session
            .run(&format!("INSERT INTO log SELECT n % 7, n FROM generate_series({first}, {}) s (n)", first + 50))
            .await;
        session.run("UPDATE t SET g = g + 1 WHERE g = 3").await;
        session.run("DELETE FROM t WHERE g = 5 AND v % 2 = 0").await;
        assert_eq!(session.error("INSERT INTO t VALUES (-1, 1, 1)").await.sqlstate.as_deref(), Some("23505"));
        match round {
            0 => {
                server.terminate();
                server.restart();
            }
            1 => {
                server.kill();
                server.restart();
            }
            _ => {}
        }
        let session = server.connect().await;
        for (relation, column) in checks {
            let mut rows = 0;
            for value in ["0", "1", "3", "4", "6", "50", "56"] {
                rows += agree(&session, relation, column, value).await.len();
            }
            assert!(rows > 0, "{relation} has no row of those that are asked for");
        }
        assert_eq!(session.value("SELECT obj_description('sole'::regclass, 'pg_class')").await, "kept");
    }
    let session = server.connect().await;
    let error = session.error("INSERT INTO t VALUES (-1, 1, 1)").await;
    assert_eq!(error.message, "duplicate key value violates unique constraint \"sole\"");
    assert_eq!(error.detail.as_deref(), Some("Key (v)=(1) already exists."));
    session.run("DROP INDEX sole").await;
    session.run("INSERT INTO t VALUES (-1, 1, 1)").await;
    server.terminate();
    server.restart();
    let session = server.connect().await;
    assert_eq!(session.value("SELECT count(*) FROM t WHERE v = 1").await, "2");
    assert_eq!(session.value("SELECT count(*) FROM millstream.indexes").await, "5");
}

/// Clients write one unique value at the same moment: one of them has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_equal_values_wins() {
    let server = Server::start();
    let (a, b) = (server.connect().await, server.connect().await);
    a.run("CREATE TABLE t (id INT PRIMARY KEY, name TEXT); CREATE UNIQUE INDEX t_name ON t (name)").await;
    for n in 0..20 {
        let insert = |id: i32| format!("INSERT INTO t VALUES ({id}, 'n{n}')");
        let (from_a, from_b) = (insert(2 * n), insert(2 * n + 1));
        let (x, y) = tokio::join!(a.try_run(&from_a), b.try_run(&from_b));
        let losers: Vec<_> = [x, y].into_iter().filter_map(Result::err).collect();
        assert_eq!(losers.len(), 1, "name {n}: {losers:?}");
        assert_eq!(losers[0].sqlstate.as_deref(), Some("23505"));
    }
    assert_eq!(a.value("SELECT count(*) FROM t").await, "20");
    // Two transactions that each find it free: the second to commit is told.
    a.run("BEGIN; INSERT INTO t VALUES (100, 'same')").await;
    b.run("BEGIN; INSERT INTO t VALUES (101, 'same')").await;
    a.run("COMMIT").await;
    assert_eq!(b.error("COMMIT").await.sqlstate.as_deref(), Some("23505"));
    assert_eq!(a.rows("SELECT id FROM t WHERE name = 'same'").await, ["100"]);
    // Upserts by the index all count.
    a.run("CREATE TABLE counts (name TEXT, n INT); CREATE UNIQUE INDEX ON counts (name)").await;
    for _ in 0..15 {
        let upsert = "INSERT INTO counts VALUES ('x', 1) ON CONFLICT (name) DO UPDATE SET n = counts.n + 1";
        let (x, y) = tokio::join!(a.try_run(upsert), b.try_run(upsert));
        x.expect("no upsert fails");
        y.expect("no upsert fails");
    }
    assert_eq!(a.rows("SELECT * FROM counts").await, ["x|30"]);
}

/// Columns of the generated tables and what they are compared with.
const COLUMNS: [(&str, &[&str]); 8] = [
    ("a", &["-7", "0", "1", "2", "2147483647"]),
    ("b", &["''", "'a'", "'a '", "'ab'", "'B'", "'é'", "'ÿÿ'"]),
    ("n", &["0", "1.5", "1.50", "-2.25", "1.501", "99999999.99"]),
    ("f", &["0", "'-0'::float8", "'NaN'::float8", "'Infinity'::float8", "1.5", "-1e300"]),
    ("c", &["'a'", "'a  '", "''", "'abc'"]),
    ("t", &["'2024-01-01'", "'2023-12-31 23:59:59.999999'", "'1960-06-01'", "'2200-01-01'"]),
    ("d", &["true", "false"]),
    ("u", &["'00000000-0000-0000-0000-000000000001'", "'ffffffff-0000-0000-0000-000000000000'"]),
];

/// A value of a column, often one that it is compared with.
fn value(random: &mut StdRng, column: usize) -> String {
    match random.random_bool(0.2) {
        true => "NULL".into(),
        false => COLUMNS[column].1.choose(random).expect("columns have values").to_string(),
    }
}

fn a_row(random: &mut StdRng, id: i32) -> String {
    let values: Vec<String> = (0..COLUMNS.len()).map(|column| value(random, column)).collect();
    format!("({id}, {})", values.join(", "))
}

fn condition(random: &mut StdRng, depth: u32) -> String {
    if depth > 0 && random.random_bool(0.6) {
        let word = if random.random_bool(0.7) { "AND" } else { "OR" };
        return format!("({} {word} {})", condition(random, depth - 1), condition(random, depth - 1));
    }
    if random.random_bool(0.1) {
        let id = random.random_range(0..60);
        return ["id = ", "id > ", "id <= "].choose(random).expect("not empty").to_string() + &id.to_string();
    }
    let column = random.random_range(0..COLUMNS.len());
    let name = COLUMNS[column].0;
    match random.random_range(0..6) {
        0 => format!("{name} IS NULL"),
        1 => format!("{name} IN ({}, {})", value(random, column), value(random, column)),
        2 if name != "d" => format!("{name} BETWEEN {} AND {}", value(random, column), value(random, column)),
        3 if name != "d" => {
            let operator = ["<", "<=", ">", ">="].choose(random).expect("not empty");
            format!("{name} {operator} {}", value(random, column))
        }
        _ => format!("{name} = {}", value(random, column)),
    }
}

/// Whatever is asked, of a table with indexes and of one without: the answers are the same, also in transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_they_find_is_what_a_scan_finds() {
    let questions: usize = seed::setting("MILLSTREAM_INDEX_CASES", 250);
    let mut random = StdRng::seed_from_u64(seed::seed("indexes"));
    let server = Server::start();
    let session = server.connect().await;
    let columns = "a INT, b TEXT, n NUMERIC(10, 2), f DOUBLE PRECISION, c CHAR(3), t TIMESTAMP, d BOOLEAN, u UUID";
    session.run(&format!("CREATE TABLE indexed (id INT PRIMARY KEY, {columns})")).await;
    session.run(&format!("CREATE TABLE plain (id INT, {columns})")).await;
    let mut rows: Vec<String> = (0..40).map(|id| a_row(&mut random, id)).collect();
    for table in ["indexed", "plain"] {
        session.run(&format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await;
    }
    for index in ["a, b", "b DESC", "n, f", "f, a", "c, a", "d, t", "t", "u, n"] {
        session.run(&format!("CREATE INDEX ON indexed ({index})")).await;
    }
    let mut by_index = 0;
    let mut in_transaction = false;
    for question in 0..questions {
        if question % 5 == 0 {
            if question % 10 == 0 {
                session.run(if in_transaction { "COMMIT" } else { "BEGIN" }).await;
                in_transaction = !in_transaction;
            }
            let id = 40 + question as i32;
            let change = match random.random_range(0..3) {
                0 => format!("DELETE FROM {{}} WHERE {}", condition(&mut random, 1)),
                1 => {
                    let column = random.random_range(0..COLUMNS.len());
                    let to = value(&mut random, column);
                    format!("UPDATE {{}} SET {} = {to} WHERE {}", COLUMNS[column].0, condition(&mut random, 0))
                }
                _ => {
                    rows = (id..id + 4).map(|id| a_row(&mut random, id)).collect();
                    format!("INSERT INTO {{}} VALUES {}", rows.join(", "))
                }
            };
            for table in ["indexed", "plain"] {
                session.run(&change.replace("{}", table)).await;
            }
        }
        let filter = condition(&mut random, 2);
        let ask = |table: &str| format!("SELECT * FROM {table} WHERE {filter} ORDER BY id");
        let plan = session.rows(&format!("EXPLAIN {}", ask("indexed"))).await.join("\n");
        by_index += usize::from(plan.contains("index: ") || plan.contains("primary key"));
        let (found, expected) = (session.rows(&ask("indexed")).await, session.rows(&ask("plain")).await);
        assert_eq!(found, expected, "question {question}: {filter}\n{plan}");
    }
    assert!(by_index * 5 > questions, "only {by_index} of {questions} questions are answered by an index");
}

/// An index over more rows than an epoch may hold is refused whole, and nobody else is hurt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_too_large_is_refused() {
    let server = Server::with(&[("MILLSTREAM__STATE__WRITE_SET_LIMIT_BYTES", "4194304")]);
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)").await;
    for part in 0..12 {
        let (from, to) = (part * 4000, part * 4000 + 3999);
        session
            .run(&format!("INSERT INTO t SELECT n, repeat('x', 100) || n FROM generate_series({from}, {to}) AS s (n)"))
            .await;
    }
    let refused = session.error("CREATE INDEX too_large ON t (v)").await;
    assert_eq!(refused.sqlstate.as_deref(), Some("54000"), "{refused:?}");
    assert!(refused.message.contains("\"too_large\""), "{refused:?}");
    assert_eq!(session.value("SELECT count(*) FROM millstream.indexes").await, "0");
    session.run("CREATE INDEX small ON t (id)").await;
    session.run("INSERT INTO t VALUES (-1, 'y'); UPDATE t SET v = 'z' WHERE id = 17").await;
    assert_eq!(session.rows("SELECT id FROM t WHERE v IN ('y', 'z') ORDER BY id").await, ["-1", "17"]);
    assert_eq!(session.value("SELECT count(*) FROM t WHERE id < 20").await, "21");
}
