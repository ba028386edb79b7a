//! The example of `examples/reconciliation`, with its own SQL and few payments: exactly the planted breaks are found.

use std::path::Path;
use std::time::Duration;

use crate::client::Session;
use crate::server::Server;

const SOON: Duration = Duration::from_secs(60);
const DAYS: u32 = 3;
/// As many on each day, and in each slot of a day.
const PAYMENTS: u32 = DAYS * 20 * 100;

/// The statements of a file of the example, with a folder and few payments in place of what `run.sh` fills in.
fn statements(file: &str, dir: &Path) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/reconciliation").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = text
        .replace("$DIR", &dir.display().to_string())
        .replace("$PAYMENTS", &PAYMENTS.to_string())
        .replace("$DAYS", &DAYS.to_string())
        .replace("$LOAD_ROWS", "1000000")
        .replace("$ACCOUNTS", "97");
    let mut statements = vec![String::new()];
    for line in text.lines() {
        let last = statements.last_mut().expect("one at least");
        last.push_str(line);
        last.push('\n');
        // A semicolon in the body of a task ends no statement.
        if line.ends_with(';') && last.matches("$$").count().is_multiple_of(2) {
            statements.push(String::new());
        }
    }
    statements.retain(|sql| !sql.trim().is_empty());
    statements
}

async fn run(session: &Session, file: &str, dir: &Path) {
    for sql in statements(file, dir) {
        session.run(&sql).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_planted_breaks_are_found() {
    let server = Server::start();
    let session = server.connect().await;
    let dir = server.dir().join("reconciliation");
    let numbers = format!("SELECT g FROM generate_series(0, {PAYMENTS} - 1) AS s (g)");
    session.run(&format!("COPY ({numbers}) TO '{}/numbers/all.parquet'", dir.display())).await;
    run(&session, "data.sql", &dir).await;
    run(&session, "setup.sql", &dir).await;
    let execute = |day: u32| format!("EXECUTE TASK reconcile FOR TIMESTAMP '2026-01-{:02} 02:15+00'", day + 2);

    // A day that is not complete is not judged.
    session.run("ALTER SINK payments_to_events SUSPEND").await;
    session.run(&format!("INSERT INTO payments SELECT * FROM read_parquet('{}/stream/')", dir.display())).await;
    session.run("ALTER TASK reconcile SET (retries = 0)").await;
    let early = session.error(&execute(0)).await;
    assert!(early.message.contains("only 0 of 2002 payments of 2026-01-01 are in events"), "{early}");
    assert_eq!(session.value("SELECT count(*) FROM breaks").await, "0");
    session.run("ALTER SINK payments_to_events RESUME").await;
    let paid = session.value("SELECT sum(payments) FROM totals").await;
    session.eventually("SELECT count(*) FROM events", SOON, &[&paid]).await;

    let [check] = statements("check.sql", &dir).try_into().expect("one statement");
    for day in 0..DAYS {
        session.run(&execute(day)).await;
    }
    assert!(session.rows(&check).await.is_empty(), "{:#?}", session.rows(&check).await);
    let kinds = "SELECT kind, count(*) FROM breaks WHERE d = '2026-01-02' GROUP BY kind";
    let found = session.rows(kinds).await;
    assert_eq!(found, ["differs|8", "doubled|6", "missing|5", "total|22", "unknown|3"]);

    // A run that is repeated replaces its day.
    session.run(&execute(1)).await;
    assert!(session.rows(&check).await.is_empty());
    assert_eq!(session.rows(kinds).await, found);

    // What the check would say: a break that was not planted, and one that is not found.
    session.run("INSERT INTO payments VALUES (-7, 1, 'EUR', 1, '2026-01-03')").await;
    session.run("DELETE FROM planted WHERE d = '2026-01-01' AND key = 'payment 7'").await;
    session.run("INSERT INTO planted VALUES ('2026-01-01', 'missing', 'payment 8')").await;
    let more = session.value("SELECT sum(payments) FROM totals").await;
    session.eventually("SELECT count(*) FROM events", SOON, &[&more]).await;
    session.run(&execute(2)).await;
    assert_eq!(
        session.rows(&check).await,
        [
            "not found|2026-01-01|missing|payment 8",
            "not planted|2026-01-01|differs|payment 7",
            "not planted|2026-01-03|missing|payment -7",
            "not planted|2026-01-03|total|account 1 EUR",
        ]
    );
}
