//! Who may run what: each kind of statement on each kind of object, by a role without rights, with all it needs but one,
//! with all it needs, and by the owner.

use crate::client::{Failure, Session};
use crate::server::Server;

/// What a statement needs.
enum Needs {
    /// Each of these grants, as `SELECT ON t` or the name of a role.
    Grants(&'static [&'static str]),
    /// To own the object: no grant is enough.
    Ownership,
}

struct Case {
    /// Run by the owner before each try.
    before: &'static str,
    sql: &'static str,
    needs: Needs,
    /// Run by a superuser after each try that went well.
    after: &'static str,
}

const fn case(sql: &'static str, needs: &'static [&'static str]) -> Case {
    Case { before: "", sql, needs: Needs::Grants(needs), after: "" }
}

const fn made(sql: &'static str, needs: &'static [&'static str], after: &'static str) -> Case {
    Case { before: "", sql, needs: Needs::Grants(needs), after }
}

const fn owned(before: &'static str, sql: &'static str, after: &'static str) -> Case {
    Case { before, sql, needs: Needs::Ownership, after }
}

const OBJECTS: &[&str] = &[
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "INSERT INTO t VALUES (1, 10), (2, 20)",
    "CREATE VIEW w AS SELECT id, v FROM t",
    "CREATE MATERIALIZED VIEW m AS SELECT v, count(*) AS n FROM t GROUP BY v",
    "COPY (SELECT 1 AS id) TO '$DIR/in/a.json'",
    "CREATE SOURCE g (id BIGINT) WITH (connector = 'filesystem', path = '$DIR/in') FORMAT PLAIN ENCODE JSON",
    "CREATE MATERIALIZED VIEW r AS SELECT count(*) AS n FROM g",
    "CREATE SINK k FROM m WITH (connector = 'blackhole')",
    "COPY (SELECT 1 AS a) TO '$DIR/e/a.parquet'",
    "CREATE EXTERNAL TABLE e (a BIGINT) STORED AS PARQUET LOCATION '$DIR/e/'",
    "CREATE EXTERNAL TABLE l (a INT, b INT) STORED AS DELTA LOCATION '$DIR/l/'",
    "INSERT INTO l VALUES (1, 1)",
    "CREATE FUNCTION f(x INT) RETURNS INT LANGUAGE SQL AS 'SELECT x + 1'",
    "REVOKE EXECUTE ON FUNCTION f(INT) FROM PUBLIC",
    "CREATE TASK j AS DELETE FROM t WHERE id > 100",
    "CREATE SCHEMA s",
    "CREATE TABLE s.u (a INT)",
    "CREATE SECRET keys WITH (type = 's3', key_id = 'k', secret = 'x', endpoint = 'http://127.0.0.1:1', region = 'r', allow_http = 'true', scope = 's3://mine/')",
];

const CASES: &[Case] = &[
    case("SELECT * FROM t", &["SELECT ON t"]),
    case("SELECT 1 FROM w LIMIT 1", &["SELECT ON w"]),
    case("SELECT * FROM m", &["SELECT ON m"]),
    case("SELECT count(*) FROM g", &["SELECT ON g"]),
    case("SELECT * FROM e", &["SELECT ON e"]),
    case("SELECT * FROM l", &["SELECT ON l"]),
    case("SELECT * FROM l VERSION AS OF 0", &["SELECT ON l"]),
    case("DESCRIBE HISTORY l", &["SELECT ON l"]),
    case("SELECT * FROM s.u", &["SELECT ON s.u", "USAGE ON SCHEMA s"]),
    case("SELECT (SELECT max(v) FROM t) FROM m", &["SELECT ON t", "SELECT ON m"]),
    case(
        "WITH x AS (SELECT * FROM t) SELECT count(*) FROM x WHERE EXISTS (SELECT FROM w WHERE w.id = x.id)",
        &["SELECT ON t", "SELECT ON w"],
    ),
    case("TABLE t", &["SELECT ON t"]),
    case("EXPLAIN SELECT * FROM t", &["SELECT ON t"]),
    case("EXPLAIN ANALYZE MATERIALIZED VIEW m", &["SELECT ON m"]),
    case("PREPARE p AS SELECT * FROM t; EXECUTE p; DEALLOCATE p", &["SELECT ON t"]),
    case("BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; FETCH c; COMMIT", &["SELECT ON t"]),
    case("BEGIN; DECLARE c CURSOR FOR SUBSCRIBE m; COMMIT", &["SELECT ON m"]),
    case("LISTEN m; UNLISTEN m", &["SELECT ON m"]),
    case("SELECT f(1)", &["EXECUTE ON FUNCTION f(INT)"]),
    case("EXECUTE TASK j", &["EXECUTE ON TASK j"]),
    made("INSERT INTO t VALUES (9, 9)", &["INSERT ON t"], "DELETE FROM t WHERE id = 9"),
    made("INSERT INTO t VALUES (9, 9) RETURNING v", &["INSERT ON t", "SELECT ON t"], "DELETE FROM t WHERE id = 9"),
    made("INSERT INTO t SELECT id + 10, v FROM w", &["INSERT ON t", "SELECT ON w"], "DELETE FROM t WHERE id > 9"),
    case("INSERT INTO t VALUES (1, 1) ON CONFLICT (id) DO NOTHING", &["INSERT ON t", "SELECT ON t"]),
    case(
        "INSERT INTO t VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET v = 1",
        &["INSERT ON t", "SELECT ON t", "UPDATE ON t"],
    ),
    case("INSERT INTO g (id) VALUES (7)", &["INSERT ON g"]),
    case("UPDATE t SET v = 3", &["UPDATE ON t"]),
    case("UPDATE t SET v = 3 WHERE id = 1", &["UPDATE ON t", "SELECT ON t"]),
    case("UPDATE t SET v = m.n FROM m WHERE m.v = t.v", &["UPDATE ON t", "SELECT ON t", "SELECT ON m"]),
    case("DELETE FROM t WHERE id = 77", &["DELETE ON t", "SELECT ON t"]),
    made("DELETE FROM t", &["DELETE ON t"], "INSERT INTO t VALUES (1, 10), (2, 20)"),
    made("TRUNCATE t", &["TRUNCATE ON t"], "INSERT INTO t VALUES (1, 10), (2, 20)"),
    case(
        "MERGE INTO t USING m ON t.v = m.v WHEN MATCHED THEN UPDATE SET v = 4 WHEN NOT MATCHED THEN INSERT VALUES (50, 1)",
        &["SELECT ON t", "UPDATE ON t", "INSERT ON t", "SELECT ON m"],
    ),
    case("MERGE INTO t USING m ON t.v = m.v WHEN MATCHED THEN DELETE", &["SELECT ON t", "DELETE ON t", "SELECT ON m"]),
    case("INSERT INTO l VALUES (2, 2)", &["INSERT ON l"]),
    case("INSERT OVERWRITE l VALUES (2, 2)", &["INSERT ON l", "DELETE ON l"]),
    case("UPDATE l SET b = 5 WHERE a = 2", &["UPDATE ON l", "SELECT ON l"]),
    case("DELETE FROM l WHERE a = 77", &["DELETE ON l", "SELECT ON l"]),
    case("COPY t TO STDOUT", &["SELECT ON t"]),
    case("COPY (SELECT 1) TO '$DIR/out.csv'", &["pg_write_server_files"]),
    case("SELECT * FROM read_parquet('$DIR/e/')", &["pg_read_server_files"]),
    made("CREATE TABLE x (a INT)", &["CREATE ON SCHEMA public"], "DROP TABLE x"),
    made("CREATE TABLE x AS SELECT * FROM t", &["CREATE ON SCHEMA public", "SELECT ON t"], "DROP TABLE x"),
    made("CREATE TABLE s.x (a INT)", &["CREATE ON SCHEMA s"], "DROP TABLE s.x"),
    made("CREATE VIEW x AS SELECT v FROM t", &["CREATE ON SCHEMA public", "SELECT ON t"], "DROP VIEW x"),
    made(
        "CREATE MATERIALIZED VIEW x AS SELECT sum(n) FROM m",
        &["CREATE ON SCHEMA public", "SELECT ON m"],
        "DROP MATERIALIZED VIEW x",
    ),
    made(
        "CREATE SINK x FROM m WITH (connector = 'blackhole')",
        &["CREATE ON SCHEMA public", "SELECT ON m"],
        "DROP SINK x",
    ),
    made(
        "CREATE SOURCE x (id INT) WITH (connector = 'filesystem', path = '$DIR/in') FORMAT PLAIN ENCODE JSON",
        &["CREATE ON SCHEMA public", "pg_read_server_files"],
        "DROP SOURCE x",
    ),
    made(
        "CREATE EXTERNAL TABLE x (a BIGINT) STORED AS PARQUET LOCATION '$DIR/e/'",
        &["CREATE ON SCHEMA public", "pg_read_server_files"],
        "DROP EXTERNAL TABLE x",
    ),
    made(
        "CREATE FUNCTION x() RETURNS INT LANGUAGE SQL AS 'SELECT 1'",
        &["CREATE ON SCHEMA public"],
        "DROP FUNCTION x()",
    ),
    made("CREATE TASK x AS SELECT 1", &["CREATE ON SCHEMA public"], "DROP TASK x"),
    made("CREATE TASK x AFTER j AS SELECT 1", &["CREATE ON SCHEMA public", "EXECUTE ON TASK j"], "DROP TASK x"),
    made("CREATE SCHEMA x", &["CREATE ON DATABASE millstream"], "DROP SCHEMA x"),
    made(
        "CREATE SECRET x WITH (type = 's3', key_id = 'k', secret = 'x', endpoint = 'http://127.0.0.1:1', region = 'r', allow_http = 'true')",
        &["CREATE ON DATABASE millstream"],
        "DROP SECRET x",
    ),
    owned("CREATE TABLE d (a INT)", "DROP TABLE d", ""),
    owned("CREATE VIEW d AS SELECT 1 AS a", "DROP VIEW d", ""),
    owned("CREATE MATERIALIZED VIEW d AS SELECT v FROM t", "DROP MATERIALIZED VIEW d", ""),
    owned("CREATE SINK d FROM m WITH (connector = 'blackhole')", "DROP SINK d", ""),
    owned("CREATE FUNCTION d() RETURNS INT LANGUAGE SQL AS 'SELECT 1'", "DROP FUNCTION d()", ""),
    owned("CREATE TASK d AS SELECT 1", "DROP TASK d", ""),
    owned("CREATE SCHEMA d", "DROP SCHEMA d", ""),
    owned("CREATE INDEX d ON t (v)", "DROP INDEX d", ""),
    owned("", "CREATE INDEX d ON t (v)", "DROP INDEX d"),
    owned("", "CREATE INDEX d ON m (n)", "DROP INDEX d"),
    owned("", "ALTER TABLE t RENAME TO y", "ALTER TABLE y RENAME TO t"),
    owned("", "ALTER VIEW w SET SCHEMA s", "ALTER VIEW s.w SET SCHEMA public"),
    owned("", "ALTER TABLE t OWNER TO owner", ""),
    owned("", "ALTER MATERIALIZED VIEW r SUSPEND", "ALTER MATERIALIZED VIEW r RESUME"),
    owned("", "ALTER SOURCE g SUSPEND", "ALTER SOURCE g RESUME"),
    owned("", "ALTER SINK k SUSPEND", "ALTER SINK k RESUME"),
    owned("", "ALTER TASK j SUSPEND", "ALTER TASK j RESUME"),
    owned("", "ALTER TASK j SET (retries = 1)", ""),
    owned("", "COMMENT ON TABLE t IS 'x'", ""),
    owned("", "COMMENT ON COLUMN t.v IS 'x'", ""),
    owned("", "OPTIMIZE l", ""),
    owned("", "VACUUM l", ""),
    owned("", "CREATE OR REPLACE FUNCTION f(x INT) RETURNS INT LANGUAGE SQL AS 'SELECT x + 1'", ""),
    owned("", "CREATE OR REPLACE TASK j AS DELETE FROM t WHERE id > 100", ""),
    owned(
        "",
        "CREATE OR REPLACE SECRET keys WITH (type = 's3', key_id = 'k', secret = 'y', endpoint = 'http://127.0.0.1:1', region = 'r', allow_http = 'true', scope = 's3://mine/')",
        "",
    ),
];

/// What a role gets to be refused for not being the owner alone.
const EVERYTHING: &[&str] = &[
    "ALL ON t, w, m, r, g, k, e, l, s.u",
    "ALL ON FUNCTION f(INT)",
    "ALL ON TASK j",
    "ALL ON SECRET keys",
    "ALL ON SCHEMA public",
    "ALL ON SCHEMA s",
    "ALL ON DATABASE millstream",
    "pg_read_server_files",
    "pg_write_server_files",
];

struct Roles {
    admin: Session,
    owner: Session,
    stranger: Session,
    dir: String,
}

impl Roles {
    fn text(&self, sql: &str) -> String {
        sql.replace("$DIR", &self.dir)
    }

    async fn grant(&self, grants: &[&str]) {
        for grant in grants {
            self.admin.run(&format!("GRANT {grant} TO stranger")).await;
        }
    }

    async fn revoke(&self, grants: &[&str]) {
        for grant in grants {
            self.admin.run(&format!("REVOKE {grant} FROM stranger")).await;
        }
    }

    async fn as_owner(&self, sql: &str) {
        if !sql.is_empty() {
            let sql = self.text(sql);
            carry_out(&self.owner, &sql).await.unwrap_or_else(|e| panic!("{e}\nof the owner, in: {sql}"));
        }
    }

    async fn undo(&self, case: &Case) {
        if !case.after.is_empty() {
            self.admin.run(&self.text(case.after)).await;
        }
    }

    /// The SQLSTATE that the stranger gets, if any.
    async fn try_it(&self, case: &Case) -> Option<String> {
        let failure = carry_out(&self.stranger, &self.text(case.sql)).await.err();
        // A transaction that failed inside of a message is open still.
        let _ = self.stranger.try_run("ROLLBACK").await;
        failure.map(|f| f.sqlstate.clone().unwrap_or_else(|| f.to_string()))
    }
}

async fn carry_out(session: &Session, sql: &str) -> Result<(), Failure> {
    if sql.ends_with("TO STDOUT") {
        session.client.copy_out(sql).await?;
    } else {
        session.try_run(sql).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_statement_needs_just_the_rights_that_it_needs() {
    let server = Server::start();
    let admin = server.connect().await;
    for sql in [
        "CREATE ROLE owner LOGIN",
        "CREATE ROLE stranger LOGIN",
        "GRANT CREATE ON SCHEMA public TO owner",
        "GRANT CREATE ON DATABASE millstream TO owner",
        "GRANT pg_read_server_files, pg_write_server_files TO owner",
    ] {
        admin.run(sql).await;
    }
    let [owner, stranger] = ["owner", "stranger"]
        .map(|user| format!("host=127.0.0.1 port={} user={user} dbname=millstream", server.port()));
    let owner = Session::connect(&owner).await.expect("the owner is let in");
    let stranger = Session::connect(&stranger).await.expect("the stranger is let in");
    let roles = Roles { admin, owner, stranger, dir: server.dir().display().to_string() };
    for sql in OBJECTS {
        roles.as_owner(sql).await;
    }
    let denied = Some("42501".to_string());
    for case in CASES {
        let sql = case.sql;
        match case.needs {
            Needs::Grants(grants) => {
                assert_eq!(roles.try_it(case).await, denied, "without rights: {sql}");
                for left_out in grants {
                    let others: Vec<&str> = grants.iter().copied().filter(|g| g != left_out).collect();
                    roles.grant(&others).await;
                    assert_eq!(roles.try_it(case).await, denied, "without {left_out}: {sql}");
                    roles.revoke(&others).await;
                }
                roles.grant(grants).await;
                assert_eq!(roles.try_it(case).await, None, "with {grants:?}: {sql}");
                roles.undo(case).await;
                roles.revoke(grants).await;
                assert_eq!(roles.try_it(case).await, denied, "after REVOKE: {sql}");
            }
            Needs::Ownership => {
                roles.as_owner(case.before).await;
                roles.grant(EVERYTHING).await;
                assert_eq!(roles.try_it(case).await, denied, "with every right but ownership: {sql}");
                roles.revoke(EVERYTHING).await;
            }
        }
        roles.as_owner(sql).await;
        roles.undo(case).await;
    }
    // A plan that is kept for the next execution is no right to it.
    roles.grant(&["SELECT ON t"]).await;
    let point = roles.stranger.client.prepare("SELECT v FROM t WHERE id = $1").await.expect("prepared");
    for _ in 0..4 {
        roles.stranger.client.query(&point, &[&1]).await.expect("a row");
    }
    roles.revoke(&["SELECT ON t"]).await;
    let failure: Failure = roles.stranger.client.query(&point, &[&1]).await.expect_err("revoked").into();
    assert_eq!(failure.sqlstate, denied);
    // Ending what others do: pg_signal_backend is enough, but for superusers.
    let pid_of = async |session: &Session| session.rows("SELECT pg_backend_pid()").await.remove(0);
    let (admin, owner) = (pid_of(&roles.admin).await, pid_of(&roles.owner).await);
    for (grants, pid, allowed) in
        [(&[][..], &owner, false), (&["pg_signal_backend"], &owner, true), (&["pg_signal_backend"], &admin, false)]
    {
        roles.grant(grants).await;
        let failure = roles.stranger.try_run(&format!("SELECT pg_cancel_backend({pid})")).await.err();
        assert_eq!(failure.and_then(|f| f.sqlstate), (!allowed).then(|| "42501".to_string()), "{grants:?}");
        roles.revoke(grants).await;
    }
    // What is for superusers alone.
    for sql in [
        "CREATE ROLE x",
        "ALTER ROLE stranger SUPERUSER",
        "ALTER ROLE owner PASSWORD 'x'",
        "DROP ROLE owner",
        "SET SESSION AUTHORIZATION owner",
        "SET ROLE owner",
        "GRANT pg_monitor TO stranger",
        "REASSIGN OWNED BY owner TO stranger",
        "DROP OWNED BY owner",
        "ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT ON TABLES TO stranger",
    ] {
        let failure = roles.stranger.try_run(sql).await.expect_err(sql);
        assert_eq!(failure.sqlstate.as_deref(), Some("42501"), "{sql}: {failure}");
    }
}
