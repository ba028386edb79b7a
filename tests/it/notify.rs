//! LISTEN and NOTIFY, and a driver's server-side cursors: what reaches a client, and when.

use std::time::Duration;

use futures::future::poll_fn;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::raw::Raw;
use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(30);

/// A client and what it is told.
struct Listener {
    client: Client,
    told: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    async fn new(server: &Server) -> Self {
        let (client, mut connection) =
            tokio_postgres::connect(&server.connection_string(), NoTls).await.expect("a connection");
        let (sender, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(n) = message {
                    let _ = sender.send(format!("{} {} {}", n.process_id(), n.channel(), n.payload()));
                }
            }
        });
        Self { client, told }
    }

    async fn run(&self, sql: &str) {
        self.client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    async fn next(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.told.recv()).await.expect("a notification in time").expect("a connection")
    }

    async fn hears_nothing(&mut self) {
        let told = tokio::time::timeout(Duration::from_millis(150), self.told.recv()).await;
        assert!(told.is_err(), "{told:?}");
    }

    async fn process_id(&self) -> String {
        let row = self.client.query_one("SELECT pg_backend_pid()::text", &[]).await.expect("a row");
        row.get(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_reach_idle_clients_at_commit() {
    let server = Server::start();
    let (mut idle, other) = (Listener::new(&server).await, Listener::new(&server).await);
    let sender = other.process_id().await;
    idle.run("LISTEN alerts").await;
    other.run("NOTIFY alerts, 'one'").await;
    assert_eq!(idle.next().await, format!("{sender} alerts one"));
    other.run("SELECT pg_notify('alerts', 'two ' || n) FROM generate_series(1, 2) AS s (n)").await;
    assert_eq!(idle.next().await, format!("{sender} alerts two 1"));
    assert_eq!(idle.next().await, format!("{sender} alerts two 2"));
    other.client.execute("SELECT pg_notify($1, $2)", &[&"alerts", &"extended"]).await.expect("a row");
    assert_eq!(idle.next().await, format!("{sender} alerts extended"));

    // Nothing before COMMIT, nothing after ROLLBACK, nothing twice.
    other.run("BEGIN").await;
    other.run("NOTIFY alerts, 'three'").await;
    other.run("SAVEPOINT s").await;
    other.run("NOTIFY alerts, 'taken back'").await;
    other.run("ROLLBACK TO s").await;
    other.run("NOTIFY alerts, 'three'").await;
    idle.hears_nothing().await;
    other.run("COMMIT").await;
    assert_eq!(idle.next().await, format!("{sender} alerts three"));
    other.run("BEGIN; NOTIFY alerts, 'never'; ROLLBACK").await;
    other.client.simple_query("NOTIFY alerts, 'never'; SELECT 1/0").await.expect_err("an error");
    other.run("NOTIFY other, 'nobody listens'").await;
    idle.hears_nothing().await;

    // A client in a transaction hears at its end; its own it hears too.
    idle.run("BEGIN").await;
    other.run("NOTIFY alerts, 'four'").await;
    idle.hears_nothing().await;
    idle.run("COMMIT").await;
    assert_eq!(idle.next().await, format!("{sender} alerts four"));
    let own = idle.process_id().await;
    idle.run("NOTIFY alerts, 'myself'").await;
    assert_eq!(idle.next().await, format!("{own} alerts myself"));
    idle.run("UNLISTEN alerts").await;
    other.run("NOTIFY alerts, 'never'").await;
    idle.hears_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_tells_of_its_new_rows() {
    let server = Server::start();
    let mut idle = Listener::new(&server).await;
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v NUMERIC(8,2), name TEXT)").await;
    session.run("CREATE MATERIALIZED VIEW large AS SELECT id, v, name FROM t WHERE v > 100").await;
    session.run("INSERT INTO t VALUES (1, 500, 'before')").await;
    idle.run("LISTEN large").await;
    session.run("INSERT INTO t VALUES (2, 50, 'small'), (3, 250.5, 'it''s \"large\"')").await;
    let told = idle.next().await;
    let (head, object) = told.split_at(told.find('{').expect("an object"));
    assert_eq!(head, "0 large ");
    let object: serde_json::Value = serde_json::from_str(object).expect("JSON");
    assert_eq!((&object["id"], &object["name"]), (&3.into(), &"it's \"large\"".into()));
    session.run("UPDATE t SET v = 300 WHERE id = 3").await;
    assert!(idle.next().await.contains("300"), "the row as it is now");
    session.run("DELETE FROM t WHERE id = 3").await;
    idle.hears_nothing().await;
    // Others may say something on the channel too.
    session.run("NOTIFY large, 'by hand'").await;
    assert!(idle.next().await.ends_with(" large by hand"));
    idle.run("UNLISTEN *").await;
    session.run("UPDATE t SET v = 1000").await;
    idle.hears_nothing().await;
    session.eventually("SELECT count(*) FROM millstream.subscriptions", PATIENCE, &["0"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_tells_of_its_failures() {
    let server = Server::start();
    let mut idle = Listener::new(&server).await;
    idle.run("LISTEN failures").await;
    let session = server.connect().await;
    session.run("CREATE TABLE ok (n INT)").await;
    session.run("CREATE TASK fails WITH (notify = 'failures') AS SELECT 1 / (SELECT count(*) FROM ok)").await;
    session.error("EXECUTE TASK fails").await;
    let told = idle.next().await;
    assert!(told.starts_with("0 failures {") && told.contains("22012") && told.contains("public.fails"), "{told}");
    // A task may notify by itself, when what it does is committed.
    idle.run("LISTEN done").await;
    session.run("CREATE TASK tells AS $$ INSERT INTO ok VALUES (1); NOTIFY done, 'by a task'; $$").await;
    session.run("EXECUTE TASK tells").await;
    assert!(idle.next().await.ends_with(" done by a task"));
}

/// psycopg's named cursors: DECLARE, Describe of the portal of that name, FETCH FORWARD, CLOSE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drivers_server_side_cursors() {
    let server = Server::start();
    let mut raw = Raw::connect(server.port()).await;
    for sql in ["BEGIN", "DECLARE \"name\" CURSOR FOR SELECT n AS number FROM generate_series(1, 100000) AS s (n)"] {
        raw.execute(sql).await;
        assert_eq!(raw.sync().await, "");
    }
    assert_eq!(raw.describe_portal("name").await, "");
    assert!(raw.described.contains("number"), "{}", raw.described);
    raw.execute("FETCH FORWARD 100 FROM \"name\"").await;
    assert_eq!(raw.sync().await, "");
    assert!(raw.describe_portal("other").await.contains("34000"));
    raw.execute("ROLLBACK").await;
    assert_eq!(raw.sync().await, "");
    assert!(raw.describe_portal("name").await.contains("34000"));

    // Rows of FETCH have the columns and formats of the driver's own statements.
    let client = Listener::new(&server).await.client;
    client.simple_query("BEGIN").await.expect("BEGIN");
    client
        .execute("DECLARE c CURSOR FOR SELECT n, n::text AS t FROM generate_series(1, 5) AS s (n)", &[])
        .await
        .expect("DECLARE");
    let mut found = Vec::new();
    loop {
        let rows = client.query("FETCH FORWARD 2 FROM c", &[]).await.expect("rows");
        if rows.is_empty() {
            break;
        }
        found.extend(rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, String>(1))));
    }
    assert_eq!(found.len(), 5);
    assert_eq!(found[4], (5_i32, "5".to_string()));
    // A statement that a driver has prepared can be run by name.
    client.simple_query("COMMIT").await.expect("COMMIT");
    client.simple_query("PREPARE p (int) AS SELECT $1 * 2 AS twice").await.expect("PREPARE");
    let row = client.query_one("EXECUTE p (21)", &[]).await.expect("a row");
    assert_eq!(row.get::<_, i32>("twice"), 42);
    let row = client.query_one("EXECUTE p ($1)", &[&4_i32]).await.expect("a row");
    assert_eq!(row.get::<_, i32>(0), 8);
}

/// A cursor that nobody fetches from lets go of its snapshot, and gives its rows all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cursor_puts_its_rows_aside() {
    let server = Server::with(&[("MILLSTREAM__SNAPSHOT_MAX_AGE", "2s")]);
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, pad TEXT)").await;
    let pad = "p".repeat(100);
    session.run(&format!("INSERT INTO t SELECT n, '{pad}' FROM generate_series(1, 100000) AS s (n)")).await;
    session.run("BEGIN").await;
    session.run("DECLARE c CURSOR WITH HOLD FOR SELECT id, pad FROM t ORDER BY id").await;
    session.run("COMMIT").await;
    assert_eq!(session.rows("FETCH 2 FROM c").await.len(), 2);
    session.run("DELETE FROM t").await;
    // Longer than the snapshot may get old.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let first = session.run("FETCH 1 FROM c").await;
    assert_eq!(first.rows[0][0].as_deref(), Some("3"));
    let spilled = || {
        let folder = server.data_dir().join("spill");
        let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |m| m.len());
        let inside = |dir: std::fs::DirEntry| {
            std::fs::read_dir(dir.path()).map_or(0, |files| files.flatten().map(|f| size(&f.path())).sum())
        };
        std::fs::read_dir(folder).map_or(0, |dirs| dirs.flatten().map(inside).sum::<u64>())
    };
    assert!(spilled() > 5 << 20, "{} bytes are put aside", spilled());
    let rest = session.run("FETCH ALL FROM c").await;
    assert_eq!(rest.rows.len(), 99_997);
    assert_eq!(rest.rows.last().and_then(|row| row[0].clone()).as_deref(), Some("100000"));
    session.run("CLOSE c").await;
    assert_eq!(spilled(), 0);
}
