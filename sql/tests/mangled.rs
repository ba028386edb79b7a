//! Broken texts are answered with an error that has a SQLSTATE and a position inside the text, never with a panic.

mod common;

/// A small generator of its own: these tests need no more than numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

const STATEMENTS: &[&str] = &[
    "SELECT a, count(*) AS n, sum(b) FILTER (WHERE b > 1) FROM t WHERE c LIKE 'x%' GROUP BY a HAVING count(*) > 1 ORDER BY 1 LIMIT 3",
    "WITH x AS (SELECT a FROM t UNION ALL SELECT b FROM t) SELECT x.a::text || 'é', CASE WHEN a > 1 THEN 'y' END FROM x",
    "CREATE SOURCE s (a INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') INCLUDE partition AS p \
     WITH (connector = 'kafka', topic = 't', properties.bootstrap.server = 'h:1') FORMAT PLAIN ENCODE JSON (x = 'y')",
    "CREATE SOURCE s (*, b TEXT AS a, PRIMARY KEY (a, k)) INCLUDE key AS k WITH (connector = 'kafka', topic = 't') \
     FORMAT DEBEZIUM ENCODE AVRO (schema.registry = 'http://h', schema.registry.password = 'p', key.encode = json)",
    "CREATE TABLE IF NOT EXISTS u (id BIGINT PRIMARY KEY, x NUMERIC(12,2) NOT NULL DEFAULT 1.5 CHECK (x > 0), y TEXT[])",
    "CREATE MATERIALIZED VIEW v AS SELECT a, window_start FROM TUMBLE(t, ts, INTERVAL '1 hour') GROUP BY a, window_start EMIT ON WINDOW CLOSE",
    "CREATE SINK k FROM t WITH (connector = 'blackhole') FORMAT UPSERT ENCODE JSON",
    "CREATE EXTERNAL TABLE e (d DATE) STORED AS PARQUET LOCATION '/x/' PARTITIONED BY (d) OPTIONS (a 'b')",
    "INSERT INTO t (a, b) VALUES (1, 2), ($1, NULL) ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING *",
    "UPDATE t SET a = a + 1, b = DEFAULT WHERE c = 'x' RETURNING a",
    "DELETE FROM t USING t AS o WHERE t.a = o.b",
    "COPY (SELECT * FROM t) TO 'x.parquet' WITH (FORMAT parquet)",
    "COPY t (a, b) FROM STDIN (FORMAT csv, HEADER true)",
    "EXPLAIN (ANALYZE, FORMAT text) SELECT sum(a) OVER (PARTITION BY b ORDER BY c ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
    "EXPLAIN ANALYZE MATERIALIZED VIEW t",
    "ALTER TABLE t RENAME TO w",
    "ALTER SOURCE s SET (on_error = 'skip', properties.sasl.password = 'x')",
    "ALTER MATERIALIZED VIEW IF EXISTS t SUSPEND",
    "ALTER SINK k RESUME AT 17",
    "ALTER SOURCE s RESUME AT 'earliest'",
    "ALTER MATERIALIZED VIEW IF EXISTS public.t SET SCHEMA \"S\"",
    "COMMENT ON COLUMN public.t.a IS 'it''s'",
    "DROP TABLE IF EXISTS t, \"U\" CASCADE",
    "SHOW CREATE TABLE t",
    "SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE",
    "SELECT date '2024-01-31' + interval '1 month', '{1,2}'::int[], 1e10::numeric(5,2), -9223372036854775808",
    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
];

#[test]
fn any_text_is_answered() {
    let db = common::Db::new("CREATE TABLE t (a INT, b BIGINT, c TEXT, ts TIMESTAMP);");
    let mut random = Random(7);
    let words: Vec<Vec<&str>> =
        STATEMENTS.iter().map(|s| s.split_inclusive([' ', '(', ',', ')', '\''])).map(Iterator::collect).collect();
    for _ in 0..20_000 {
        let mut own = words[random.below(words.len())].clone();
        for _ in 0..=random.below(3) {
            let (at, other) = (random.below(own.len()), random.below(own.len()));
            let mix = &words[random.below(words.len())];
            match random.below(5) {
                _ if own.is_empty() => {}
                0 => own.truncate(at),
                1 => drop(own.remove(at)),
                2 => own.swap(at, other),
                3 => own[at] = mix[random.below(mix.len())],
                _ => own.insert(at, own[other]),
            }
        }
        let sql = own.concat();
        let Ok(parsed) = std::panic::catch_unwind(|| millstream_sql::parse(&sql)) else {
            panic!("parse panics: {sql}")
        };
        let error = match parsed {
            Err(error) => error,
            Ok(statements) if statements.len() == 1 => {
                // The definition's own text must survive being masked, whatever it is.
                millstream_sql::masked(&sql);
                let plan = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| db.plan(&sql)));
                match plan {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error,
                    Err(_) => panic!("plan panics: {sql}"),
                }
            }
            Ok(_) => continue,
        };
        assert_eq!(error.sqlstate.len(), 5, "{sql}: {error:?}");
        assert_ne!(error.sqlstate, "XX000", "{sql}: {error:?}");
        let end = sql.chars().count() + 1;
        assert!(error.position.is_none_or(|p| (1..=end).contains(&p)), "{sql}: {error:?}");
    }
}
