//! Statements and their plans or errors, as snapshots.

mod common;

fn db() -> common::Db {
    common::Db::new(
        "CREATE SOURCE payments (txn_id BIGINT, card_id BIGINT, amount DECIMAL(12,2), country VARCHAR, ts TIMESTAMP,
           WATERMARK FOR ts AS ts - INTERVAL '5 seconds')
         INCLUDE partition AS p INCLUDE timestamp AS produced_at
         WITH (connector = 'kafka', topic = 'payments', properties.bootstrap.server = 'localhost:9092',
           scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON;
         CREATE TABLE accounts (id BIGINT PRIMARY KEY, holder VARCHAR(20) NOT NULL, risk INT DEFAULT 0 CHECK (risk >= 0),
           opened DATE, j JSONB, t TIMESTAMPTZ);
         CREATE TABLE log (a INT, b TEXT);
         CREATE VIEW big AS SELECT card_id, amount::bigint + 5 AS x FROM payments WHERE amount > 100;",
    )
}

fn all(statements: &[&str]) -> String {
    let db = db();
    statements.iter().map(|sql| format!("=== {sql}\n{}\n\n", db.show(sql))).collect()
}

#[test]
fn queries() {
    insta::assert_snapshot!(all(&[
        "SELECT 1, 1",
        "SELECT card_id, window_start, window_end, count(*) AS n, sum(amount) AS total, avg(amount), sum(txn_id) FROM \
         HOP(payments, ts, INTERVAL '1 minute', INTERVAL '10 minutes') GROUP BY card_id, window_start, window_end",
        "SELECT w.country, count(*) FROM TUMBLE(payments, ts, INTERVAL '1 hour') AS w GROUP BY 1, w.window_start",
        "SELECT * FROM big WHERE x = '7'",
        "SELECT holder FROM accounts WHERE opened > '2024-01-01' AND t < now() AND id IN ('1', $1)",
        "SELECT id::int, '5'::int, CASE WHEN risk > 1 THEN 'a' ELSE 'b' END FROM accounts",
        "SELECT j->'a', j->>'b' FROM accounts",
        "SELECT *, amount * 2 AS amount FROM payments",
        "SELECT a.id, b.id FROM accounts a JOIN accounts b ON a.id = b.risk ORDER BY a.id LIMIT 5",
        "SELECT * FROM generate_series(1, 10) AS g(x)",
    ]));
}

#[test]
fn changes() {
    insta::assert_snapshot!(all(&[
        "INSERT INTO accounts (id, holder) VALUES (1, 'x'), ($1, DEFAULT)",
        "INSERT INTO accounts VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET risk = accounts.risk + excluded.risk \
         WHERE accounts.risk < 5 RETURNING *, risk + 1",
        "INSERT INTO log SELECT id, holder FROM accounts",
        "UPDATE accounts SET risk = risk + 1, opened = '2024-02-03' WHERE id = $1 RETURNING id",
        "UPDATE log SET a = DEFAULT FROM accounts x WHERE log.a = x.id",
        "DELETE FROM log USING accounts WHERE a = id",
        "CREATE MATERIALIZED VIEW v WITH (on_error = 'null') AS SELECT card_id, count(*) c FROM payments GROUP BY card_id \
         EMIT ON WINDOW CLOSE",
        "CREATE SINK s AS SELECT id FROM accounts WITH (connector = 'kafka', properties.a.b = 1, primary_key = 'id') \
         FORMAT UPSERT ENCODE JSON",
        "DROP TABLE IF EXISTS zz",
    ]));
}

#[test]
fn errors() {
    insta::assert_snapshot!(all(&[
        "SELEC 1",
        "SELECT 1 FROM",
        "SELECT 'abc",
        "SELECT foo FROM accounts",
        "SELECT id\nFROM nosuch",
        "SELECT nosuch(1)",
        "SELECT holder FROM accounts WHERE risk = 'x'",
        "SELECT holder FROM accounts WHERE holder = 5",
        "SELECT id, count(*) FROM accounts",
        "SELECT * FROM payments FOR UPDATE",
        "SELECT * FROM payments TABLESAMPLE BERNOULLI (10)",
        "SELECT * FROM payments FOR SYSTEM_TIME AS OF '2024-01-01'",
        "SELECT * FROM payments WITH (nolock)",
        "INSERT INTO log SELECT holder, id FROM accounts",
        "INSERT INTO log (a, a) VALUES (1, 2)",
        "INSERT INTO log VALUES (1, 'a', 2)",
        "UPDATE payments SET ts = now()",
        "CREATE TABLE log (a INT)",
        "CREATE TABLE t (a INT, a INT)",
        "CREATE TABLE t (a SERIAL)",
        "CREATE OR REPLACE TABLE w (a INT)",
        "CREATE VIEW w AS SELECT 1, 1",
        "CREATE SOURCE s (a INT, WATERMARK FOR a AS a) WITH (connector = 'kafka') FORMAT PLAIN ENCODE JSON",
        "DROP TABLE payments",
        "VACUUM",
    ]));
}
