//! Nexmark: its queries as continuous views over generated events, each equal to its SELECT run as a batch.
//!
//! `source.sql` makes the source and the relations of persons, auctions and bids, `q0.sql` to `q22.sql` are the queries.
//! They can be run with psql as they are.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::Session;
use crate::server::Server;

const QUERIES: usize = 23;
/// As in `source.sql`.
const EVENTS: i64 = 10_000;
/// The server is killed when it has taken so many.
const KILL_AT: i64 = 3_000;
const LIMIT: Duration = Duration::from_secs(120);

/// The query over windows of processing time: when its rows came, a batch run cannot know. What it can know of them.
const BY_CLOCK: usize = 12;
const BY_CLOCK_KNOWN: &str = "SELECT bidder, sum(bid_count) FROM q12 GROUP BY bidder";
const BY_CLOCK_EXPECTED: &str = "SELECT bidder, count(*) FROM bid GROUP BY bidder";

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/nexmark").join(name).with_extension("sql");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A query by its number: the statement that makes the view, and the SELECT in it.
fn query(number: usize) -> (String, String) {
    let create = text(&format!("q{number}"));
    let (_, select) = create.split_once(&format!("CREATE MATERIALIZED VIEW q{number} AS\n")).expect("a view q{number}");
    (create.clone(), select.to_string())
}

/// How many events the views hold, as of now.
async fn position(session: &Session) -> i64 {
    let rows = session.run("SELECT position FROM millstream.sources WHERE name = 'nexmark'").await.rows;
    let position = rows.first().and_then(|row| row[0].as_deref());
    position.map_or(0, |position| position.parse().expect("a number"))
}

async fn wait_for_position(session: &Session, position_min: i64) -> i64 {
    let start = Instant::now();
    loop {
        let position = position(session).await;
        if position >= position_min {
            return position;
        }
        assert!(start.elapsed() < LIMIT, "{position} events instead of {position_min}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn views_equal_a_batch_run_also_after_a_kill() {
    let mut server = Server::start();
    let session = server.connect().await;
    for statement in text("source").split_inclusive(";\n") {
        session.run(statement).await;
    }
    // All at once, so that they read together from the first event on.
    session.run("BEGIN").await;
    for number in 0..QUERIES {
        session.run(&query(number).0).await;
    }
    session.run("COMMIT").await;

    let before = wait_for_position(&session, KILL_AT).await;
    server.kill();
    server.restart();
    let session = server.connect().await;
    // Not known before the first epoch.
    let after = wait_for_position(&session, 1).await;
    assert!(before < EVENTS && after >= before, "{before} events before the kill, {after} after it");
    wait_for_position(&session, EVENTS).await;

    let mut wrong = Vec::new();
    for number in 0..QUERIES {
        let (expected, found) = match number {
            BY_CLOCK => (BY_CLOCK_EXPECTED.to_string(), BY_CLOCK_KNOWN.to_string()),
            _ => (query(number).1, format!("SELECT * FROM q{number}")),
        };
        let (expected, found) = (session.rows(&expected).await, session.rows(&found).await);
        assert!(!expected.is_empty(), "q{number} gives nothing");
        if found != expected {
            let first = expected.iter().zip(&found).find(|(expected, found)| expected != found);
            wrong.push(format!(
                "q{number}: {} rows in the batch result, {} in the view; first difference: {first:#?}",
                expected.len(),
                found.len()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let events = "SELECT count(*), count(*) FILTER (WHERE event_type = 2), max(date_time) FROM nexmark";
    assert_eq!(session.rows(events).await, ["10000|9200|2026-01-01 00:01:39.99"]);
    assert_eq!(session.value("SELECT count(*) FROM q0").await, "9200");
    let lost = "SELECT name, late_rows, failed_rows, status FROM millstream.views \
                WHERE late_rows <> 0 OR failed_rows <> 0 OR status <> 'running'";
    assert_eq!(session.rows(lost).await, [""; 0]);

    // A view that comes later reads all that was before it.
    session
        .run("CREATE MATERIALIZED VIEW later AS SELECT event_type, count(*) AS n FROM nexmark GROUP BY event_type")
        .await;
    session.eventually("SELECT * FROM later", LIMIT, &["0|200", "1|600", "2|9200"]).await;
}
