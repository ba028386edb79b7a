//! The kill test: the server dies at random moments and at fail points inside the commit, while a real Kafka broker feeds it
//! and clients write to its tables.
//!
//! After a restart all views are those of one epoch, and each equals its SELECT; in the end nothing is lost and nothing is counted twice: every view
//! equals its SELECT over the whole topic, the totals equal what was sent, every acknowledged write is there once.
//! `MILLSTREAM_KILLS` and `MILLSTREAM_SEED` set the number of kills and the seed.

mod feeder;
mod lake;
mod leader;
mod writer;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::broker::Broker;
use crate::client::Session;
use crate::server::Server;
use crate::{kafka, seed};
use feeder::{Feeder, PARTITIONS, Payment};
use writer::{Ledger, ROWS_PER_STATEMENT, Writer};

const TOPIC: &str = "kill-payments";
const ALERTS: &str = "kill-alerts";
const CARDS: &str = "kill-cards";
/// The changes of the cards, with the row before each.
const CHANGES: &str = "kill-changes";
/// Sources by key over what the sinks of the cards write, and the format of each: what went out comes in again.
const RETURNED: &[(&str, &str, &str)] = &[("states", CARDS, "UPSERT"), ("changes", CHANGES, "DEBEZIUM")];
/// The alerts again, by a sink that may send a row twice.
const COPIES: &str = "kill-copies";
/// What `alerts` lets through, hundredths.
const ALERT_CENTS: u64 = 95_000;

/// Where a server can be told to die: around the write of an epoch and its publication, around the ingestion of one that is
/// too large for the log, and around the transaction that carries a sink's rows.
const FAIL_POINTS: &[&str] = &[
    "commit.frozen",
    "commit.before_write",
    "commit.after_write",
    "commit.before_publication",
    "spill.before_ingest",
    "spill.after_ingest",
    "outbox.marked",
    "outbox.produced",
    "outbox.sent",
];
/// One kill in so many comes with a restart of the broker.
const BROKER_RESTART_EVERY: u32 = 10;
/// How long a server may take to come to its fail point; it is killed if it does not.
const FAIL_POINT_LIMIT: Duration = Duration::from_millis(1500);

/// Each continuous view, and the batch SELECT that it must equal if that is not its own.
const VIEWS: &[(&str, &str, Option<&str>)] = &[
    ("alerts", "SELECT txn_id, card_id, amount, ts FROM payments WHERE amount > 950", None),
    ("totals", "SELECT count(*) AS n, sum(amount) AS total, max(ts) AS newest FROM payments", None),
    (
        "cards",
        "SELECT card_id, count(*) AS n, sum(amount) AS total, avg(amount) AS mean, min(amount) AS low, \
         max(amount) AS high FROM payments GROUP BY card_id",
        None,
    ),
    (
        "minutes",
        "SELECT window_start, count(*) AS n, sum(amount) AS total FROM TUMBLE(payments, ts, INTERVAL '1 minute') \
         GROUP BY window_start, window_end",
        None,
    ),
    (
        "velocity",
        "SELECT card_id, window_start, window_end, count(*) AS n, max(amount) AS high \
         FROM HOP(payments, ts, INTERVAL '20 seconds', INTERVAL '1 minute') \
         GROUP BY card_id, window_start, window_end",
        None,
    ),
    (
        "closed",
        "SELECT window_start, window_end, count(*) AS n, sum(amount) AS total \
         FROM TUMBLE(payments, ts, INTERVAL '10 seconds') \
         GROUP BY window_start, window_end EMIT ON WINDOW CLOSE",
        Some(
            "SELECT window_start, window_end, count(*) AS n, sum(amount) AS total \
             FROM TUMBLE(payments, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end \
             HAVING window_end <= (SELECT min(seen) FROM \
             (SELECT p, max(ts) - INTERVAL '5 seconds' AS seen FROM payments GROUP BY p) AS by_partition)",
        ),
    ),
    (
        "risky",
        "SELECT p.txn_id, p.amount, a.holder, a.risk FROM payments AS p JOIN accounts AS a ON p.card_id = a.id \
         WHERE p.amount > 800",
        None,
    ),
    ("holders", "SELECT holder, count(*) AS n, sum(risk) AS risk FROM risky GROUP BY holder", None),
    (
        "extremes",
        "SELECT txn_id, amount FROM alerts UNION ALL SELECT txn_id, amount FROM payments WHERE amount < 20",
        None,
    ),
    (
        "booked",
        "SELECT account, count(*) AS n, sum(amount) AS total, max(statement) AS last FROM ledger GROUP BY account",
        None,
    ),
];

async fn create(session: &Session, broker: &str) {
    session
        .run(&format!(
            "CREATE SOURCE payments (txn_id BIGINT, card_id BIGINT, amount DECIMAL(12,2), ts TIMESTAMP, \
             WATERMARK FOR ts AS ts - INTERVAL '5 seconds') INCLUDE partition AS p \
             WITH (connector = 'kafka', topic = '{TOPIC}', properties.bootstrap.server = '{}', \
             scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON",
            broker
        ))
        .await;
    session.run("CREATE TABLE accounts (id BIGINT PRIMARY KEY, holder VARCHAR, risk INT)").await;
    let rows: Vec<String> = (0..50).map(|id| format!("({id}, 'holder {}', {})", id % 9, id % 4)).collect();
    session.run(&format!("INSERT INTO accounts VALUES {}", rows.join(", "))).await;
    session.run("CREATE TABLE ledger (statement BIGINT, account INT, amount DECIMAL(12,2))").await;
    session.run("CREATE TABLE counter (n BIGINT)").await;
    session.run("INSERT INTO counter VALUES (0)").await;
    for (name, select, _) in VIEWS {
        session.run(&format!("CREATE MATERIALIZED VIEW {name} AS {select}")).await;
    }
    for (sink, view, topic, options, format) in [
        ("alert_log", "alerts", ALERTS, "", "FORMAT PLAIN ENCODE JSON"),
        ("card_log", "cards", CARDS, ", primary_key = 'card_id'", "FORMAT UPSERT ENCODE JSON"),
        ("card_changes", "cards", CHANGES, ", primary_key = 'card_id'", "FORMAT DEBEZIUM ENCODE JSON"),
        ("alert_copies", "alerts", COPIES, ", delivery = 'at_least_once'", "FORMAT PLAIN ENCODE JSON"),
    ] {
        session
            .run(&format!(
                "CREATE SINK {sink} FROM {view} WITH (connector = 'kafka', topic = '{topic}', \
                 properties.bootstrap.server = '{}'{options}) {format}",
                broker
            ))
            .await;
    }
    for (source, topic, format) in RETURNED {
        session
            .run(&format!(
                "CREATE SOURCE {source} (card_id BIGINT PRIMARY KEY, n BIGINT, total DECIMAL(22,2)) \
                 WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{broker}', \
                 scan.startup.mode = 'earliest') FORMAT {format} ENCODE JSON"
            ))
            .await;
        session
            .run(&format!(
                "CREATE MATERIALIZED VIEW {source}_by_n AS SELECT n % 5 AS fifth, count(*) AS cards, sum(n) AS n, \
                 sum(total) AS total FROM {source} GROUP BY n % 5"
            ))
            .await;
    }
}

/// The sources by key hold the cards that the sinks sent, and their views follow each row that was replaced.
async fn check_returned(session: &Session) {
    let start = Instant::now();
    let by_n = |cards: &str| {
        format!(
            "SELECT n % 5 AS fifth, count(*) AS cards, sum(n) AS n, sum(total) AS total FROM {cards} GROUP BY n % 5"
        )
    };
    let expected = session.rows("SELECT card_id, n, total FROM cards").await;
    for (source, _, _) in RETURNED {
        loop {
            assert_view(session, &format!("{source}_by_n"), &by_n(source)).await;
            let found = session.rows(&format!("SELECT card_id, n, total FROM {source}")).await;
            if found == expected {
                break;
            }
            let different = found.iter().filter(|row| !expected.contains(row)).count();
            assert!(start.elapsed() < Duration::from_secs(60), "{source} differs in {different} cards after 60 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_view(session, &format!("{source}_by_n"), &by_n("cards")).await;
    }
}

/// Views that count the same payments agree at every moment, for a reader sees one epoch.
async fn assert_one_moment(session: &Session) {
    // Each payment is in three windows of `velocity`.
    let row = session
        .rows(
            "SELECT (SELECT 3 * n FROM totals), (SELECT coalesce(3 * sum(n), 0) FROM cards), \
             (SELECT coalesce(3 * sum(n), 0) FROM minutes), (SELECT coalesce(sum(n), 0) FROM velocity)",
        )
        .await;
    let numbers: Vec<&str> = row[0].split('|').collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "views of different moments: {row:?}");
}

/// Waits until the views hold all `sent` messages, then compares every view with its SELECT and with what was sent.
async fn take_stock(session: &Session, sent: u64) {
    let payments: Vec<Payment> = (0..sent).filter_map(Payment::of).collect();
    let start = Instant::now();
    loop {
        let count: u64 = session.value("SELECT n FROM totals").await.parse().expect("a count");
        assert!(count <= payments.len() as u64, "{count} payments counted, {} sent", payments.len());
        if count == payments.len() as u64 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "only {count} of {} payments after 60 s", payments.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (name, select, batch) in VIEWS {
        assert_view(session, name, batch.unwrap_or(select)).await;
    }
    // Independent of all SQL: the totals by card as they were sent.
    let mut by_card: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for payment in &payments {
        let entry = by_card.entry(payment.card_id).or_default();
        *entry = (entry.0 + 1, entry.1 + payment.amount_cents);
    }
    let mut expected: Vec<String> = by_card
        .into_iter()
        .map(|(card, (n, cents))| format!("{card}|{n}|{}.{:02}", cents / 100, cents % 100))
        .collect();
    expected.sort();
    assert_eq!(session.rows("SELECT card_id, n, total FROM cards").await, expected, "totals by card");
    let broken = sent - payments.len() as u64;
    let letters = session.value("SELECT count(*) FROM millstream.dead_letters").await;
    assert_eq!(letters, broken.to_string(), "dead letters");
}

/// A view equals its SELECT: both are read by one statement, so that writers may go on meanwhile.
async fn assert_view(session: &Session, name: &str, select: &str) {
    let both = session
        .rows(&format!("SELECT 'view' AS side, * FROM {name} UNION ALL SELECT 'select', * FROM ({select}) AS batch"))
        .await;
    let side = |prefix: &str| -> Vec<&str> { both.iter().filter_map(|row| row.strip_prefix(prefix)).collect() };
    let (found, expected) = (side("view|"), side("select|"));
    if let Some(at) = (0..expected.len().max(found.len())).find(|n| expected.get(*n) != found.get(*n)) {
        panic!(
            "view {name}: {} rows, its SELECT {}; first difference: view {:?}, SELECT {:?}",
            found.len(),
            expected.len(),
            found.get(at),
            expected.get(at)
        );
    }
}

/// Every acknowledged INSERT is there once and whole, any other at most once and whole.
async fn check_ledger(session: &Session, ledger: &Ledger) {
    let rows = session.run("SELECT statement, count(*) FROM ledger GROUP BY statement").await.rows;
    let present: BTreeMap<u64, usize> = rows
        .iter()
        .map(|row| {
            let number = |n: usize| row[n].as_deref().unwrap_or_default().parse::<u64>().expect("a number");
            (number(0), number(1) as usize)
        })
        .collect();
    for (statement, count) in &present {
        assert_eq!(*count, ROWS_PER_STATEMENT, "statement {statement} is half done or doubled");
        let known = ledger.acknowledged.contains(statement) || ledger.unknown.contains(statement);
        assert!(known, "statement {statement} was never sent");
    }
    let lost: Vec<_> = ledger.acknowledged.iter().filter(|statement| !present.contains_key(statement)).collect();
    assert!(lost.is_empty(), "acknowledged statements are lost: {lost:?}");
}

/// Every row of the append-only view is in the topic of the exactly-once sink once, at least once in that of the other, and
/// nothing else is; the messages of a key in the upsert topic never go back, and the last is the view's row. Returns the rows
/// that were sent exactly once.
async fn check_sinks(session: &Session, broker: &str, sent: u64) -> usize {
    let alerts: Vec<u64> =
        (0..sent).filter_map(Payment::of).filter(|p| p.amount_cents > ALERT_CENTS).map(|p| p.txn_id).collect();
    let start = Instant::now();
    loop {
        let ids = |topic: &str| -> Vec<u64> {
            let records = kafka::read_all_on(broker, topic);
            let mut ids: Vec<u64> =
                records.iter().map(|record| json_of(record)["txn_id"].as_u64().expect("an id")).collect();
            ids.sort_unstable();
            ids
        };
        let found = ids(ALERTS);
        let doubled = found.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(doubled, 0, "alerts that came twice");
        let mut copies = ids(COPIES);
        copies.dedup();
        let mut changes = 0;
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for record in kafka::read_all_on(broker, CARDS) {
            match record.payload_text() {
                None => drop(newest.remove(&record.key_text())),
                Some(_) => {
                    changes += 1;
                    let n = json_of(&record)["n"].as_u64().expect("a count");
                    let before = newest.insert(record.key_text(), n);
                    assert!(before.is_none_or(|before| before < n), "card {}: {before:?}, then {n}", record.key_text());
                }
            }
        }
        let counted: u64 = newest.values().sum();
        let total: u64 = session.value("SELECT n FROM totals").await.parse().expect("a count");
        if found == alerts && copies == alerts && counted == total {
            return found.len() + changes;
        }
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "after 30 s the sink has {} of {} alerts, and cards that add up to {counted} instead of {total}",
            found.len(),
            alerts.len()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn json_of(record: &kafka::Record) -> serde_json::Value {
    serde_json::from_slice(record.payload.as_deref().unwrap_or_default()).expect("a JSON payload")
}

/// Cuts off a part of the state's log that was never promised to be on the disk, as when the machine dies: everything of it,
/// or some of its last bytes. False if there is nothing to cut.
fn tear_log(server: &Server, random: &mut StdRng) -> bool {
    let Ok(promised) = std::fs::read_to_string(server.dir().join("synced")) else { return false };
    let (name, bytes) = promised.split_once(' ').expect("a name and a size");
    let newest = std::fs::read_dir(server.data_dir().join("db"))
        .expect("the state's directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .expect("a log");
    let promised: u64 = match newest.file_name().is_some_and(|file| file == name) {
        true => bytes.parse().expect("a size"),
        // Only what comes after a new log was begun can be cut without touching what was promised before.
        false => return false,
    };
    let file = std::fs::File::options().write(true).open(&newest).expect("the log");
    let size = file.metadata().expect("the log").len();
    if size <= promised {
        return false;
    }
    let cut =
        if random.random_bool(0.5) { size - promised } else { random.random_range(1..=(size - promised).min(64)) };
    file.set_len(size - cut).expect("the log can be cut");
    true
}

/// Ends the server without warning, one way or the other; says how.
fn end(server: &mut Server, random: &mut StdRng) -> &'static str {
    if random.random_bool(0.5) {
        return end_at_fail_point(server, random);
    }
    server.kill();
    "SIGKILL"
}

/// Lets the server die at a fail point, or kills it if it does not come there.
fn end_at_fail_point(server: &mut Server, random: &mut StdRng) -> &'static str {
    let point = FAIL_POINTS[random.random_range(0..FAIL_POINTS.len())];
    let probability = if random.random_bool(0.5) { 1.0 } else { 0.1 };
    server.arm(point, &format!("abort {probability} {}", random.random::<u64>()));
    let died = server.ends_within(FAIL_POINT_LIMIT);
    server.kill();
    server.disarm();
    if died { point } else { "SIGKILL" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_lost_nothing_doubled() {
    let kills: usize = seed::setting("MILLSTREAM_KILLS", 30);
    let mut random = StdRng::seed_from_u64(seed::seed("kill"));
    let mut broker = Broker::start();
    let address = broker.address();
    for (topic, partitions) in [(TOPIC, PARTITIONS), (ALERTS, 1), (CARDS, 1), (CHANGES, 1), (COPIES, 1)] {
        kafka::create_topic_on(&address, topic, partitions);
    }
    // Small enough that an epoch after a restart goes past it.
    let mut server = Server::with(&[("MILLSTREAM__STATE__MAX_WRITE_SET_BYTES", "65536")]);
    create(&server.connect().await, &address).await;

    let feeder = Feeder::start(&address, TOPIC, 1500);
    let config = server.connection_string();
    let inserts = Writer::insert(config.clone());
    let restates = Writer::restate(config.clone());
    let counts = [Writer::count(config.clone()), Writer::count(config)];
    let stock_every = (kills / 5).max(1);
    let mut slowest_start = Duration::ZERO;
    let mut deaths: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut torn, mut broker_restarts) = (0, 0);
    for kill in 1..=kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..1200))).await;
        *deaths.entry(end(&mut server, &mut random)).or_default() += 1;
        if random.random_ratio(1, 4) {
            // Once more, in the middle of the recovery.
            server.launch();
            if random.random_bool(0.5) {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
                server.kill();
            } else {
                *deaths.entry(end_at_fail_point(&mut server, &mut random)).or_default() += 1;
            }
        }
        torn += usize::from(random.random_bool(0.5) && tear_log(&server, &mut random));
        if random.random_ratio(1, BROKER_RESTART_EVERY) {
            broker.stop();
            if random.random_bool(0.5) {
                // The server starts without a broker.
                server.launch();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
                server.kill();
            }
            broker.restart();
            broker_restarts += 1;
        }
        slowest_start = slowest_start.max(server.restart());
        let session = server.connect().await;
        assert_one_moment(&session).await;
        if kill % stock_every == 0 {
            let sent = feeder.pause();
            take_stock(&session, sent).await;
            check_sinks(&session, &address, sent).await;
            check_returned(&session).await;
            feeder.resume();
        }
    }
    let sent = feeder.pause();
    let (inserts, restates) = (inserts.finish().await, restates.finish().await);
    let [first, second] = counts;
    let counts = [first.finish().await, second.finish().await];
    let session = server.connect().await;
    take_stock(&session, sent).await;
    check_ledger(&session, &inserts).await;
    let once = check_sinks(&session, &address, sent).await;
    check_returned(&session).await;
    let epochs = session.value("SELECT max(epoch) FROM millstream.epochs").await;
    let n: usize = session.value("SELECT n FROM counter").await.parse().expect("a count");
    let (acknowledged, unknown): (usize, usize) =
        counts.iter().fold((0, 0), |(a, u), ledger| (a + ledger.acknowledged.len(), u + ledger.unknown.len()));
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&n),
        "{n} counted, {acknowledged} acknowledged, {unknown} unknown"
    );
    assert!(acknowledged > 0 && !inserts.acknowledged.is_empty() && !restates.acknowledged.is_empty());

    // And a last time in good order.
    assert!(server.terminate().success(), "exit status after SIGTERM");
    server.restart();
    take_stock(&server.connect().await, sent).await;
    assert!(deaths.len() > 1, "no fail point was met: {deaths:?}");
    eprintln!(
        "kill: {kills} kills ({deaths:?}), the log torn {torn} times, {broker_restarts} restarts of the broker, {epochs} epochs, {sent} messages, {once} rows sent exactly once, 0 lost, 0 doubled, \
         {} INSERTs and {acknowledged} UPDATEs acknowledged, {} unknown, slowest start {slowest_start:?}",
        inserts.acknowledged.len(),
        inserts.unknown.len() + unknown,
    );
}
