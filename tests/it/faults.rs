//! Kafka sources when something breaks: the broker goes, the topic is another one, records are gone. Nothing is lost or read
//! twice without being told, reads go on, and work resumes by itself where it can.

use std::time::Duration;

use crate::broker::Broker;
use crate::client::Session;
use crate::kafka::{self, create_topic, delete_records, delete_topic, produce};
use crate::server::Server;

const SOON: Duration = Duration::from_secs(30);

fn source(name: &str, topic: &str, broker: &str, more: &str) -> String {
    format!(
        "CREATE SOURCE {name} (a INT) WITH (connector = 'kafka', topic = '{topic}', \
         properties.bootstrap.server = '{broker}'{more}) FORMAT PLAIN ENCODE JSON"
    )
}

const VIEW: &str = "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(a) AS total FROM s";

/// Waits until the source has a status, and returns its error.
async fn error_with(session: &Session, status: &str) -> String {
    session.eventually("SELECT DISTINCT status FROM millstream.sources", SOON, &[status]).await;
    session.value("SELECT min(error) FROM millstream.sources").await
}

/// The broker goes while the server runs, is away when it starts, and comes back: reading resumes by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broker_goes_and_comes_back() {
    let mut broker = Broker::start();
    broker.create_topic("t", 1);
    broker.produce("t", 0, &["{\"a\":1}"]);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "t", &broker.address(), "")).await;
    session.run(VIEW).await;
    session.eventually("SELECT * FROM v", SOON, &["1|1"]).await;
    session.eventually("SELECT status FROM millstream.sources", SOON, &["running"]).await;

    broker.stop();
    let error = error_with(&session, "retrying").await;
    assert!(error.contains("kafka topic \"t\""), "{error}");
    assert_eq!(session.rows("SELECT * FROM v").await, ["1|1"]);

    server.kill();
    server.restart();
    let session = server.connect().await;
    assert_eq!(session.rows("SELECT * FROM v").await, ["1|1"]);
    error_with(&session, "retrying").await;
    session.run("CREATE TABLE x (a INT)").await;
    session.run("INSERT INTO x VALUES (1)").await;

    broker.restart();
    broker.produce("t", 0, &["{\"a\":2}"]);
    session.eventually("SELECT * FROM v", Duration::from_secs(60), &["2|3"]).await;
    session.eventually("SELECT status, error FROM millstream.sources", SOON, &["running|∅"]).await;
    broker.stop();
    broker.restart();
    broker.produce("t", 0, &["{\"a\":3}"]);
    session.eventually("SELECT * FROM v", Duration::from_secs(60), &["3|6"]).await;
}

/// A topic that was deleted and made again while it was read: its records are not taken for those of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_topic_made_anew_is_noticed() {
    create_topic("anew", 1);
    produce("anew", 0, &["{\"a\":1}", "{\"a\":2}"]);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "anew", kafka::bootstrap(), ", on_out_of_range = 'earliest'")).await;
    session.run(VIEW).await;
    session.eventually("SELECT * FROM v", SOON, &["2|3"]).await;
    delete_topic("anew");
    let error = error_with(&session, "retrying").await;
    assert!(error.contains("does not exist"), "{error}");
    create_topic("anew", 2);
    produce("anew", 0, &["{\"a\":10}"]);
    let error = error_with(&session, "stopped").await;
    assert!(error.contains("was deleted and made again"), "{error}");
    assert_eq!(session.rows("SELECT * FROM v").await, ["2|3"]);
    // A restart does not forget it.
    server.kill();
    server.restart();
    let session = server.connect().await;
    error_with(&session, "stopped").await;
    assert_eq!(session.rows("SELECT * FROM v").await, ["2|3"]);
    session.run("ALTER SOURCE s RESUME AT 'earliest'").await;
    produce("anew", 1, &["{\"a\":20}"]);
    session.eventually("SELECT * FROM v", SOON, &["4|33"]).await;
    session.eventually("SELECT DISTINCT status FROM millstream.sources", SOON, &["running"]).await;
    assert_eq!(session.value("SELECT sum(resets) FROM millstream.sources").await, "1");
    server.kill();
    server.restart();
    let session = server.connect().await;
    produce("anew", 0, &["{\"a\":30}"]);
    session.eventually("SELECT * FROM v", SOON, &["5|63"]).await;
}

/// The same while the server is down, and the new topic is longer than the old one was.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_topic_made_anew_meanwhile_is_noticed() {
    create_topic("swapped", 1);
    produce("swapped", 0, &["{\"a\":1}", "{\"a\":2}"]);
    let mut server = Server::start();
    let session = server.connect().await;
    session.run(&source("s", "swapped", kafka::bootstrap(), "")).await;
    session.run(VIEW).await;
    session.eventually("SELECT * FROM v", SOON, &["2|3"]).await;
    server.kill();
    delete_topic("swapped");
    create_topic("swapped", 1);
    produce("swapped", 0, &["{\"a\":10}", "{\"a\":20}", "{\"a\":30}", "{\"a\":40}"]);
    server.restart();
    let session = server.connect().await;
    let error = error_with(&session, "stopped").await;
    assert!(error.contains("was deleted and made again"), "{error}");
    assert_eq!(session.rows("SELECT * FROM v").await, ["2|3"]);
    session.run("ALTER SOURCE s RESUME AT 'latest'").await;
    session.eventually("SELECT DISTINCT status FROM millstream.sources", SOON, &["running"]).await;
    produce("swapped", 0, &["{\"a\":50}"]);
    session.eventually("SELECT * FROM v", SOON, &["3|53"]).await;
}

/// Retention cuts below the position while the server is down: a partition stops, or goes on and says what it passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn records_that_are_gone_are_told_of() {
    create_topic("cut", 2);
    let mut server = Server::start();
    let session = server.connect().await;
    for (name, more) in
        [("s", ""), ("first", ", on_out_of_range = 'earliest'"), ("last", ", on_out_of_range = 'latest'")]
    {
        session.run(&source(name, "cut", kafka::bootstrap(), more)).await;
        let view = if name == "s" { "v".to_string() } else { format!("v_{name}") };
        session
            .run(&format!("CREATE MATERIALIZED VIEW {view} AS SELECT count(*) AS n, sum(a) AS total FROM {name}"))
            .await;
    }
    produce("cut", 0, &["{\"a\":1}"]);
    produce("cut", 1, &["{\"a\":2}"]);
    for view in ["v", "v_first", "v_last"] {
        session.eventually(&format!("SELECT * FROM {view}"), SOON, &["2|3"]).await;
    }
    server.kill();
    produce("cut", 0, &["{\"a\":10}", "{\"a\":20}", "{\"a\":30}", "{\"a\":40}"]);
    produce("cut", 1, &["{\"a\":100}"]);
    delete_records("cut", 0, 3);
    server.restart();
    let session = server.connect().await;
    // Partition 1 goes on, of 0 the offsets 1 and 2 are gone.
    session.eventually("SELECT * FROM v", SOON, &["3|103"]).await;
    session.eventually("SELECT * FROM v_first", SOON, &["5|173"]).await;
    session.eventually("SELECT * FROM v_last", SOON, &["3|103"]).await;
    let told = "SELECT name, status, resets, lost FROM millstream.sources WHERE \"partition\" = 0 ORDER BY name";
    session.eventually(told, SOON, &["first|running|1|2", "last|running|1|4", "s|stopped|0|0"]).await;
    let error = session.value("SELECT error FROM millstream.sources WHERE status = 'stopped'").await;
    assert!(error.contains("offset 1 of partition 0") && error.contains("from 3 to 5"), "{error}");
    let (_, metrics) = crate::process::http_get(server.http_port(), "/metrics").expect("metrics");
    let metric = "millstream_source_lost_records_total{schema=\"public\",source=\"first\",partition=\"0\"} 2";
    assert!(metrics.contains(metric), "{metrics}");

    // The operator decides for the one that stopped; the other partition goes on where it is.
    session.run("ALTER SOURCE s RESUME AT 'earliest'").await;
    session.eventually("SELECT * FROM v", SOON, &["5|173"]).await;
    produce("cut", 0, &["{\"a\":1000}"]);
    for (view, rows) in [("v", "6|1173"), ("v_first", "6|1173"), ("v_last", "4|1103")] {
        session.eventually(&format!("SELECT * FROM {view}"), SOON, &[rows]).await;
    }
    server.kill();
    server.restart();
    let session = server.connect().await;
    session.eventually(told, SOON, &["first|running|1|2", "last|running|1|4", "s|running|1|2"]).await;
    assert_eq!(session.rows("SELECT * FROM v").await, ["6|1173"]);
}

/// Credentials that the broker does not take are refused when they are given; when it takes them no more, that is told, they
/// are tried again, and reading goes on once they are taken again or others are given.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn refused_credentials_are_told_of() {
    let mut broker = Broker::start();
    broker.create_topic("t", 1);
    broker.stop();
    let address = broker.ask_password("right-word");
    broker.restart();
    let server = Server::start();
    let session = server.connect().await;
    let with = |password: &str| {
        let sasl = format!(
            ", properties.security.protocol = 'SASL_PLAINTEXT', properties.sasl.mechanism = 'PLAIN', \
             properties.sasl.username = 'u', properties.sasl.password = '{password}'"
        );
        source("s", "t", &address, &sasl)
    };
    let error = session.error(&with("wrong-word")).await;
    assert_eq!(error.sqlstate.as_deref(), Some("28000"), "{error}");
    session.run(&with("right-word")).await;
    session.run(VIEW).await;
    broker.produce("t", 0, &["{\"a\":1}"]);
    session.eventually("SELECT * FROM v", SOON, &["1|1"]).await;
    let error = session.error("ALTER SOURCE s SET (properties.sasl.password = 'wrong-word')").await;
    assert_eq!(error.sqlstate.as_deref(), Some("28000"), "{error}");

    broker.stop();
    broker.ask_password("other-word");
    broker.restart();
    broker.produce("t", 0, &["{\"a\":2}"]);
    let refused = "SELECT status, error LIKE '%uthentication%' FROM millstream.sources";
    session.eventually(refused, SOON, &["retrying|t"]).await;
    assert_eq!(session.rows("SELECT * FROM v").await, ["1|1"]);
    session.run("ALTER SOURCE s SET (properties.sasl.password = 'other-word')").await;
    session.eventually("SELECT * FROM v", SOON, &["2|3"]).await;
    let shown =
        session.rows("SELECT statement, old_definition, new_definition FROM millstream.ddl_history").await.concat();
    for word in ["right-word", "wrong-word", "other-word"] {
        assert!(!shown.contains(word) && !server.log().contains(word), "{word} is shown");
    }
}
