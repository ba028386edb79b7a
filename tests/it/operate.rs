//! ALTER SOURCE and ALTER MATERIALIZED VIEW … SUSPEND, RESUME and SET, lag, and the time of quiet partitions, on a broker.

use std::time::Duration;

use crate::client::Session;
use crate::kafka::{self, Producer, Record, committed, create_topic, produce};
use crate::server::Server;

const SOON: Duration = Duration::from_secs(30);

fn source(name: &str, columns: &str, topic: &str, more: &str) -> String {
    format!(
        "CREATE SOURCE {name} ({columns}) WITH (connector = 'kafka', topic = '{topic}', \
         properties.bootstrap.server = '{}'{more}) FORMAT PLAIN ENCODE JSON",
        kafka::bootstrap()
    )
}

/// Long enough for what must not happen to have happened.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1500)).await;
}

async fn status_of(session: &Session, source: &str) -> String {
    session.value(&format!("SELECT min(status) FROM millstream.sources WHERE name = '{source}'")).await
}

/// A suspended source is not read and keeps its positions, over a restart too; nothing is missed or doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_source_stands_still_and_goes_on() {
    create_topic("stands", 2);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "a INT", "stands", "")).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(a) AS total FROM s").await;
    produce("stands", 0, &["{\"a\":1}", "{\"a\":2}"]);
    session.eventually("SELECT * FROM v", SOON, &["2|3"]).await;
    session.run("ALTER SOURCE s SUSPEND").await;
    produce("stands", 0, &["{\"a\":10}"]);
    produce("stands", 1, &["{\"a\":20}"]);
    a_while().await;
    assert_eq!(session.rows("SELECT * FROM v").await, ["2|3"]);
    assert_eq!(status_of(&session, "s").await, "suspended");
    // What would read its past cannot be made now.
    let error = session.error("CREATE MATERIALIZED VIEW w AS SELECT max(a) AS m FROM s").await;
    assert_eq!(error.sqlstate.as_deref(), Some("55000"), "{error}");

    server.kill();
    server.restart();
    let session = server.connect().await;
    a_while().await;
    assert_eq!(session.rows("SELECT * FROM v").await, ["2|3"]);
    assert_eq!(status_of(&session, "s").await, "suspended");
    session.run("ALTER SOURCE s RESUME").await;
    session.eventually("SELECT * FROM v", SOON, &["4|33"]).await;
    session.eventually("SELECT min(status) FROM millstream.sources", SOON, &["running"]).await;
    session.run("CREATE MATERIALIZED VIEW w AS SELECT max(a) AS m FROM s").await;
    assert_eq!(session.rows("SELECT * FROM w").await, ["20"]);
}

/// A suspended view stays as it is while others go on, and then reads what it missed, each record once.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_view_stands_still_and_catches_up() {
    create_topic("behindhand", 2);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "a INT", "behindhand", "")).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(a) AS total FROM s").await;
    session.run("CREATE MATERIALIZED VIEW still AS SELECT count(*) AS n, sum(a) AS total FROM s").await;
    session.run("CREATE MATERIALIZED VIEW above AS SELECT n * 10 AS x FROM still").await;
    produce("behindhand", 0, &["{\"a\":1}"]);
    produce("behindhand", 1, &["{\"a\":2}"]);
    session.eventually("SELECT * FROM v", SOON, &["2|3"]).await;
    session.run("ALTER MATERIALIZED VIEW still SUSPEND").await;
    produce("behindhand", 0, &["{\"a\":10}", "{\"a\":20}"]);
    session.eventually("SELECT * FROM v", SOON, &["4|33"]).await;
    assert_eq!(session.rows("SELECT * FROM still").await, ["2|3"]);
    assert_eq!(session.rows("SELECT * FROM above").await, ["20"]);
    let status = "SELECT status FROM millstream.views WHERE name = 'still'";
    assert_eq!(session.value(status).await, "suspended");
    for view in ["still", "above"] {
        let told = server.psql(&format!("SELECT * FROM {view};"));
        assert!(told.contains("\"still\" is suspended"), "{told}");
    }

    server.kill();
    server.restart();
    let session = server.connect().await;
    kafka::add_partitions("behindhand", 3);
    produce("behindhand", 1, &["{\"a\":100}"]);
    session.eventually("SELECT * FROM v", SOON, &["5|133"]).await;
    assert_eq!(session.rows("SELECT * FROM still").await, ["2|3"]);
    session.run("ALTER MATERIALIZED VIEW still RESUME").await;
    session.eventually("SELECT * FROM still", SOON, &["5|133"]).await;
    session.eventually("SELECT * FROM above", SOON, &["50"]).await;
    session.eventually(status, SOON, &["running"]).await;
    produce("behindhand", 0, &["{\"a\":1000}"]);
    for view in ["v", "still"] {
        session.eventually(&format!("SELECT * FROM {view}"), SOON, &["6|1133"]).await;
    }
    let told = server.psql("SELECT * FROM still;");
    assert!(!told.contains("WARNING"), "{told}");
}

/// While they run, suspend and resume a view many times: it ends with what its neighbour has.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stops_and_starts_lose_and_double_nothing() {
    create_topic("stopandgo", 2);
    let server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "a INT", "stopandgo", "")).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(a) AS total FROM s").await;
    session.run("CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n, sum(a) AS total FROM s").await;
    produce("stopandgo", 0, &["{\"a\":0}"]);
    session.eventually("SELECT n FROM w", SOON, &["1"]).await;
    let feeding = std::thread::spawn(|| {
        let producer = Producer::new();
        for n in 1..=400 {
            producer.send("stopandgo", &Record::of(n % 2, format!("{{\"a\":{n}}}")));
            producer.flush();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut round = 0;
    while !feeding.is_finished() {
        session.run("ALTER MATERIALIZED VIEW w SUSPEND").await;
        if round % 3 == 0 {
            session.run("ALTER SOURCE s SUSPEND").await;
            session.run("ALTER SOURCE s RESUME").await;
        }
        session.run("ALTER MATERIALIZED VIEW w RESUME").await;
        round += 1;
    }
    feeding.join().expect("all was sent");
    let total = (1..=400).sum::<i32>();
    for view in ["v", "w"] {
        session.eventually(&format!("SELECT * FROM {view}"), SOON, &[&format!("401|{total}")]).await;
    }
    assert!(round > 2, "{round} rounds");
}

/// Options change while views run, and hold over a restart; a bad record that stopped a partition is passed over then.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn options_change_while_it_runs() {
    create_topic("options", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "a INT", "options", ", on_error = 'stop'")).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(a) AS total FROM s").await;
    produce("options", 0, &["{\"a\":1}", "{\"a\":", "{\"a\":3}"]);
    session.eventually("SELECT status FROM millstream.sources", SOON, &["stopped"]).await;
    session.eventually("SELECT * FROM v", SOON, &["1|1"]).await;
    session.run("ALTER SOURCE s SET (on_error = 'dead_letter', idle_timeout = '5 s')").await;
    session.eventually("SELECT * FROM v", SOON, &["2|4"]).await;
    session.eventually("SELECT count(*) FROM millstream.dead_letters", SOON, &["1"]).await;
    let definition = session.rows("SHOW CREATE SOURCE s").await.concat();
    assert!(definition.contains("on_error = 'dead_letter', idle_timeout = '5 s')"), "{definition}");
    server.kill();
    server.restart();
    let session = server.connect().await;
    produce("options", 0, &["{", "{\"a\":4}"]);
    session.eventually("SELECT * FROM v", SOON, &["3|8"]).await;
    session.eventually("SELECT count(*) FROM millstream.dead_letters", SOON, &["2"]).await;

    // A broker that cannot be reached is refused, and the source goes on as it was.
    let error = session.error("ALTER SOURCE s SET (properties.bootstrap.server = '127.0.0.1:1')").await;
    assert_eq!(error.sqlstate.as_deref(), Some("08001"), "{error}");
    session.run(&format!("ALTER SOURCE s SET (properties.bootstrap.server = '{}')", kafka::bootstrap())).await;
    produce("options", 0, &["{\"a\":5}"]);
    session.eventually("SELECT * FROM v", SOON, &["4|13"]).await;
}

/// Lag in records and seconds, and the positions as the broker's own tools see them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lag_is_told_and_mirrored() {
    create_topic("lagging", 1);
    let server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "a INT", "lagging", "")).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s").await;
    produce("lagging", 0, &["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]);
    session.eventually("SELECT n FROM v", SOON, &["3"]).await;
    session.eventually("SELECT lag, lag_seconds FROM millstream.sources", SOON, &["0|0"]).await;
    let group = session.value("SELECT consumer_group FROM millstream.sources").await;
    assert!(group.starts_with("millstream-"), "{group}");
    crate::process::wait_for("the group's offset", SOON, Duration::from_millis(100), || {
        match committed(&group, "lagging", 0) {
            Some(3) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // What stands before a bad record is behind by what is after it, for longer and longer.
    session.run("ALTER SOURCE s SET (on_error = 'stop')").await;
    produce("lagging", 0, &["{", "{\"a\":5}"]);
    session.eventually("SELECT lag, lag_seconds > 2, status FROM millstream.sources", SOON, &["2|t|stopped"]).await;
    let (_, metrics) = crate::process::http_get(server.http_port(), "/metrics").expect("metrics");
    let metric = "millstream_source_lag_seconds{schema=\"public\",source=\"s\",partition=\"0\"} ";
    assert!(metrics.contains(metric), "{metrics}");
    // A group of one's own choice.
    session.run("ALTER SOURCE s SET (on_error = 'skip', properties.group.id = 'my tools')").await;
    session.eventually("SELECT lag, consumer_group FROM millstream.sources", SOON, &["0|my tools"]).await;
    crate::process::wait_for("the other group's offset", SOON, Duration::from_millis(100), || {
        match committed("my tools", "lagging", 0) {
            Some(5) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn row(n: i64, time: &str) -> String {
    format!("{{\"n\":{n},\"ts\":\"2024-05-01 {time}\"}}")
}

/// A window closes when its quiet partition has become idle, though nothing comes; and what comes for it then is late.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_timeout_alone_closes_a_window() {
    create_topic("quiet", 2);
    let server = Server::start();
    let session = server.connect().await;
    let columns = "n INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds'";
    session.run(&source("s", columns, "quiet", ", idle_timeout = '3 s', late_rows = 'keep'")).await;
    session
        .run(
            "CREATE MATERIALIZED VIEW v AS SELECT window_start, count(*) AS n \
             FROM TUMBLE(s, ts, INTERVAL '1 minute') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE",
        )
        .await;
    produce("quiet", 0, &[&row(1, "00:00:10")]);
    produce("quiet", 1, &[&row(2, "00:00:20"), &row(3, "00:02:00")]);
    session.eventually("SELECT sum(rows) FROM millstream.sources", SOON, &["3"]).await;
    // The other partition is at 00:00:05 and is not idle yet.
    assert!(session.rows("SELECT * FROM v").await.is_empty());
    session.eventually("SELECT * FROM v", SOON, &["2024-05-01 00:00:00|2"]).await;
    session.eventually("SELECT count(*) FROM millstream.sources WHERE idle", SOON, &["2"]).await;
    // It cannot pull the time back when it returns; its late row is kept, as the source asks.
    produce("quiet", 0, &[&row(4, "00:00:30"), &row(5, "00:01:58")]);
    session.eventually("SELECT late_rows FROM millstream.views", SOON, &["1"]).await;
    let kept = session.rows("SELECT view, row, watermark FROM millstream.late_rows").await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].ends_with("|2024-05-01 00:01:00"), "{kept:?}");
    assert_eq!(session.rows("SELECT * FROM v").await, ["2024-05-01 00:00:00|2"]);
    let watermark = "SELECT min(watermark) FROM millstream.sources WHERE \"partition\" = 0";
    session.eventually(watermark, SOON, &["2024-05-01 00:01:55"]).await;
}

/// A partition that cannot be read is not idle: the time waits for it, and its rows are not late.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_waits_to_be_read_is_not_idle() {
    create_topic("waits", 2);
    let server = Server::start();
    let session = server.connect().await;
    let columns = "n INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds'";
    session.run(&source("s", columns, "waits", ", idle_timeout = '1 s', on_error = 'stop'")).await;
    session
        .run(
            "CREATE MATERIALIZED VIEW v AS SELECT window_start, count(*) AS n \
             FROM TUMBLE(s, ts, INTERVAL '1 minute') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE",
        )
        .await;
    produce("waits", 0, &[&row(1, "00:00:10"), "{", &row(2, "00:00:20"), &row(3, "00:04:00")]);
    produce("waits", 1, &[&row(4, "00:02:00")]);
    session.eventually("SELECT count(*) FROM millstream.sources WHERE status = 'stopped'", SOON, &["1"]).await;
    session.eventually("SELECT idle FROM millstream.sources WHERE \"partition\" = 1", SOON, &["t"]).await;
    a_while().await;
    assert!(session.rows("SELECT * FROM v").await.is_empty());
    session.run("ALTER SOURCE s SET (on_error = 'skip')").await;
    session.eventually("SELECT * FROM v", SOON, &["2024-05-01 00:00:00|2", "2024-05-01 00:02:00|1"]).await;
    assert_eq!(session.value("SELECT late_rows FROM millstream.views").await, "0");
}

/// A dead letter is mended and put back: every view on the source takes it once, those that are made later too, and so does a
/// SELECT; also over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_mended_record_is_put_back() {
    create_topic("mended", 1);
    let mut server = Server::start();
    let session = server.connect().await;
    let columns = "id INT NOT NULL, amount DECIMAL(8,2), c TEXT, loud TEXT AS upper(c)";
    session.run(&source("s", columns, "mended", "")).await;
    session
        .run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(amount) AS total, count(loud) AS m FROM s")
        .await;
    session.run("CREATE MATERIALIZED VIEW narrow AS SELECT id FROM s").await;
    produce(
        "mended",
        0,
        &[
            "{\"id\":1,\"amount\":1.5,\"c\":\"x\"}",
            "{\"id\":2,\"amount\":\"2,5\",\"c\":\"y\"}",
            "{\"id\":3,\"amount\":3}",
        ],
    );
    session.eventually("SELECT * FROM v", SOON, &["2|4.50|1"]).await;
    session.eventually("SELECT count(*) FROM millstream.dead_letters", SOON, &["1"]).await;
    let outcome = session
        .run(
            "INSERT INTO s (id, amount, c) SELECT (j->>'id')::int, replace(j->>'amount', ',', '.')::numeric, j->>'c' \
             FROM (SELECT convert_from(payload, 'UTF8')::jsonb AS j FROM millstream.dead_letters WHERE source = 's') d",
        )
        .await;
    assert_eq!(outcome.affected, 1);
    assert_eq!(session.rows("SELECT * FROM v").await, ["3|7.00|2"]);
    assert_eq!(session.rows("SELECT id FROM narrow ORDER BY id").await, ["1", "2", "3"]);
    for kill in [false, true] {
        if kill {
            server.kill();
            server.restart();
        }
        let session = server.connect().await;
        assert_eq!(session.rows("SELECT * FROM v").await, ["3|7.00|2"]);
        assert_eq!(session.rows("SELECT id, loud FROM s ORDER BY id").await, ["1|X", "2|Y", "3|∅"]);
        session
            .run(&format!("CREATE MATERIALIZED VIEW later_{kill} AS SELECT count(*) AS n, max(amount) AS m FROM s"))
            .await;
        assert_eq!(session.rows(&format!("SELECT * FROM later_{kill}")).await, ["3|3.00"]);
    }
    let session = server.connect().await;
    let error = session.error("INSERT INTO s (amount) VALUES (1)").await;
    assert_eq!(error.sqlstate.as_deref(), Some("23502"), "{error}");
    let error = session.error("INSERT INTO s (id, loud) VALUES (1, 'X')").await;
    assert_eq!(error.sqlstate.as_deref(), Some("428C9"), "{error}");
    session.run("ALTER MATERIALIZED VIEW narrow SUSPEND").await;
    let error = session.error("INSERT INTO s (id) VALUES (9)").await;
    assert_eq!(error.sqlstate.as_deref(), Some("55000"), "{error}");
    session.run("ALTER MATERIALIZED VIEW narrow RESUME").await;
    session.eventually("SELECT count(*) FROM narrow", SOON, &["3"]).await;
    session.run("INSERT INTO s (id) VALUES (9)").await;
    session.eventually("SELECT count(*) FROM narrow", SOON, &["4"]).await;
    let error = session.error("BEGIN; INSERT INTO s (id) VALUES (9)").await;
    assert_eq!(error.sqlstate.as_deref(), Some("25001"), "{error}");
}

/// Dead letters go when they are older than the setting says.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dead_letters_are_kept_for_a_time() {
    create_topic("expires", 1);
    let server = Server::with(&[("MILLSTREAM__DEAD_LETTER_RETENTION", "4s")]);
    let session = server.connect().await;
    session.run(&source("s", "a INT", "expires", "")).await;
    session.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s").await;
    let dead = "SELECT count(*) FROM millstream.dead_letters";
    produce("expires", 0, &["{", "{"]);
    session.eventually(dead, SOON, &["2"]).await;
    // Nothing comes any more, and still they go.
    session.eventually(dead, SOON, &["0"]).await;
    produce("expires", 0, &["{"]);
    session.eventually(dead, SOON, &["1"]).await;
    session.eventually(dead, SOON, &["0"]).await;
    assert_eq!(session.value("SELECT value FROM millstream.settings WHERE name = 'dead_letter_retention'").await, "4s");
}

/// Late rows that are kept, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn late_rows_are_kept_for_a_time() {
    create_topic("late-expires", 1);
    let server = Server::with(&[("MILLSTREAM__DEAD_LETTER_RETENTION", "4s")]);
    let session = server.connect().await;
    session.run(&source("s", "ts TIMESTAMP, WATERMARK FOR ts AS ts", "late-expires", "")).await;
    session
        .run(
            "CREATE MATERIALIZED VIEW v WITH (late_rows = 'keep') AS SELECT window_start, count(*) AS n \
             FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end",
        )
        .await;
    let at = |second: u32| format!("{{\"ts\":\"2024-05-01 00:00:{second:02}\"}}");
    produce("late-expires", 0, &[&at(5), &at(55)]);
    session.eventually("SELECT count(*) FROM v", SOON, &["2"]).await;
    let kept = "SELECT count(*) FROM millstream.late_rows";
    for late in 1..=2 {
        produce("late-expires", 0, &[&at(late)]);
        session.eventually(kept, SOON, &["1"]).await;
        // Nothing comes any more, and still it goes; that it came is not forgotten.
        session.eventually(kept, SOON, &["0"]).await;
        assert_eq!(session.value("SELECT late_rows FROM millstream.views").await, late.to_string());
    }
}
