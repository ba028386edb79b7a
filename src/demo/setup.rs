//! Where a demo lives, its broker, its statements, and where an earlier one stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::Utc;
use millstream_connectors::kafka::create_topic;
use millstream_connectors::kafka::mock::MockBroker;
use tempfile::TempDir;

use super::client::Client;
use super::traffic::{PARTITIONS, TOPIC};
use crate::config::{Config, DemoArgs};
use crate::error::{Error, Result, sqlstate};

/// The statements of the demo, in order; each says IF NOT EXISTS. `$NAMES` are filled in by [`prepare`].
const SCRIPTS: [(&str, &str); 5] = [
    ("1_payments.sql", include_str!("sql/1_payments.sql")),
    ("2_fraud.sql", include_str!("sql/2_fraud.sql")),
    ("3_alerts.sql", include_str!("sql/3_alerts.sql")),
    ("4_ledger.sql", include_str!("sql/4_ledger.sql")),
    ("5_planted.sql", include_str!("sql/5_planted.sql")),
];

/// Topic of the alerts.
pub const ALERTS_TOPIC: &str = "fraud-alerts";
/// How long a broker may take to answer.
const BROKER_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the views may take to reach the end of a topic that was there before.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);

/// The directories of a demo.
pub struct Place {
    /// What holds the rest.
    pub root: PathBuf,
    /// The Parquet files of the ledger.
    pub ledger: PathBuf,
    /// Removes the root at the end, if it is the demo's own.
    _temporary: Option<TempDir>,
}

impl Place {
    /// Settings and directories for these flags: a fresh directory for the broker in memory, the user's for a real one.
    ///
    /// # Errors
    /// 22023 if `--kafka` and `--data-dir` are not given together; else of the settings or the file system.
    pub fn choose(args: &DemoArgs) -> Result<(Config, Self)> {
        let mut serve = args.serve.clone();
        let temporary = match (&args.kafka, &serve.data_dir) {
            (None, None) => Some(tempfile::Builder::new().prefix("millstream-demo-").tempdir()?),
            (None, Some(dir)) => {
                return Err(Error::new(
                    sqlstate::INVALID_PARAMETER_VALUE,
                    format!("--data-dir {} needs --kafka", dir.display()),
                )
                .with_hint("without --kafka the broker lives in memory, so that there is nothing to come back to"));
            }
            (Some(_), _) => None,
        };
        let root = match &temporary {
            Some(dir) => dir.path().to_path_buf(),
            None => kept_dir(&Config::load(&serve)?)?,
        };
        serve.data_dir = Some(root.join("data"));
        // Log lines would run through the summary; whoever sets a filter wants them.
        if !Config::load(&serve)?.is_set("log.filter") {
            serve.set.push("log.filter=warn".into());
        }
        let ledger = root.join("ledger");
        std::fs::create_dir_all(&ledger)?;
        Ok((Config::load(&serve)?, Self { root, ledger, _temporary: temporary }))
    }
}

/// The directory that the user named.
fn kept_dir(config: &Config) -> Result<PathBuf> {
    if !config.is_set("data_dir") {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "--kafka needs --data-dir")
            .with_hint("name a directory for the demo: the next start with it continues where this one stops"));
    }
    Ok(std::path::absolute(&config.data_dir)?)
}

/// Where the topics are.
pub enum Broker {
    /// In this process, for demos only.
    Mock(MockBroker),
    /// `host:port` of a real one.
    Real(String),
}

impl Broker {
    /// The broker at an address, or one in memory.
    ///
    /// # Errors
    /// XX000 if the one in memory cannot be started.
    pub fn start(address: Option<&str>) -> Result<Self> {
        Ok(match address {
            Some(address) => Self::Real(address.to_string()),
            None => Self::Mock(MockBroker::start()?),
        })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        match self {
            Self::Mock(mock) => mock.bootstrap(),
            Self::Real(address) => address.clone(),
        }
    }

    /// Makes the topics that are not there yet.
    async fn create_topics(&self) -> Result<()> {
        for (topic, partitions) in [(TOPIC, PARTITIONS as i32), (ALERTS_TOPIC, 1)] {
            match self {
                Self::Mock(mock) => mock.create_topic(topic, partitions)?,
                Self::Real(address) => {
                    let address = address.clone();
                    let make = move || create_topic(&address, &BTreeMap::new(), topic, partitions, BROKER_TIMEOUT);
                    tokio::task::spawn_blocking(make).await.map_err(super::ended)??;
                }
            }
        }
        Ok(())
    }

    /// How sinks deliver: the broker inside this process knows no transactions that another client could read by.
    fn delivery(&self) -> &'static str {
        match self {
            Self::Mock(_) => "at_least_once",
            Self::Real(_) => "exactly_once",
        }
    }

    /// Where the source starts. A topic of a real broker may hold payments of another demo, which are not this one's.
    fn start_options(&self) -> String {
        match self {
            Self::Mock(_) => "scan.startup.mode = 'earliest'".into(),
            Self::Real(_) => format!(
                "scan.startup.mode = 'timestamp', scan.startup.timestamp.millis = '{}'",
                Utc::now().timestamp_millis()
            ),
        }
    }
}

/// Makes topics, source, views, sink and tables, as far as they are missing.
///
/// # Errors
/// Of the broker, and of the statements with the name of their file.
pub async fn prepare(client: &mut Client, broker: &Broker, place: &Place) -> Result<()> {
    broker.create_topics().await?;
    let ledger = format!("{}/", place.ledger.display()).replace('\'', "''");
    for (name, script) in SCRIPTS {
        let sql = script
            .replace("$KAFKA", &broker.address())
            .replace("$START", &broker.start_options())
            .replace("$DELIVERY", broker.delivery())
            .replace("$LEDGER", &ledger);
        client.run(&sql).await.map_err(|e| e.with_detail(format!("in {name} of the demo")))?;
    }
    Ok(())
}

/// Where the numbering goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub next_txn_id: i64,
    pub next_book: i64,
    /// Event time of the first payment, microseconds since 1970.
    pub clock_us: i64,
}

/// Finds out where an earlier demo stopped: waits until the views have all that is in the topic, and books what was paid
/// after the last book was closed.
///
/// # Errors
/// 57014 if the views do not reach the end of the topic in time; else of the statements and the file system.
pub async fn resume(client: &mut Client, place: &Place) -> Result<Start> {
    let now_us = Utc::now().timestamp_micros();
    let Some(last) = client.row("SELECT max(txn_id) FROM payments").await?.int(0) else {
        return Ok(Start { next_txn_id: 1, next_book: 1, clock_us: now_us });
    };
    catch_up(client, last).await?;

    let books = client.row("SELECT coalesce(max(book), 0), coalesce(max(last_txn_id), 0) FROM books").await?;
    let (mut book, booked) = (books.int(0).unwrap_or(0), books.int(1).unwrap_or(0));
    // What a kill left of a book that was not closed.
    remove_books_after(&place.ledger, book)?;
    client.run(&format!("DELETE FROM planted_breaks WHERE book > {book}")).await?;
    let open = format!("FROM paid WHERE txn_id > {booked}");
    let open_rows = client.row(&format!("SELECT count(*), min(txn_id), max(txn_id), max(ts) {open}")).await?;
    if let (Some(first), Some(last)) = (open_rows.int(1), open_rows.int(2)) {
        book += 1;
        let path = book_path(&place.ledger, book, now_us).display().to_string().replace('\'', "''");
        let entries = open_rows.int(0).unwrap_or(0);
        client
            .run(&format!(
                "COPY (SELECT txn_id, card_id, account_id, amount, currency, ts AS booked_at {open}) TO '{path}'; \
                 INSERT INTO books VALUES ({book}, {first}, {last}, {entries})"
            ))
            .await?;
    }
    let newest_us = client.row("SELECT (extract(epoch FROM max(ts)) * 1000000)::BIGINT FROM paid").await?.int(0);
    Ok(Start {
        next_txn_id: last + 1,
        next_book: book + 1,
        clock_us: newest_us.map_or(now_us, |newest| newest.max(now_us)),
    })
}

/// Waits until every partition has been read to its end and `last` is visible.
async fn catch_up(client: &mut Client, last: i64) -> Result<()> {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let behind = client
            .row(
                "SELECT count(*) - count(CASE WHEN lag = 0 THEN 1 END) FROM millstream.sources WHERE name = 'payments'",
            )
            .await?;
        let visible = client.row("SELECT max(txn_id) FROM paid").await?;
        if behind.int(0) == Some(0) && visible.int(0) >= Some(last) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(sqlstate::QUERY_CANCELED, "the views do not reach the end of topic \"payments\"")
                .with_hint("see millstream.sources for what its partitions wait for"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The file of a book, in the folder of the day of its first payment.
pub fn book_path(ledger: &Path, book: i64, first_us: i64) -> PathBuf {
    let day = chrono::DateTime::from_timestamp_micros(first_us).unwrap_or_default().date_naive();
    ledger.join(format!("d={day}")).join(format!("book-{book:06}.parquet"))
}

/// Removes the files of books with a higher number.
fn remove_books_after(ledger: &Path, last: i64) -> Result<()> {
    for day in std::fs::read_dir(ledger)? {
        let day = day?.path();
        if !day.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(day)? {
            let path = file?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.strip_prefix("book-")?.parse::<i64>().ok());
            if number.is_some_and(|number| number > last) {
                std::fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_books_that_were_not_closed_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for (book, day_us) in [(1, 0), (2, 0), (3, 86_400_000_000)] {
            let path = book_path(dir.path(), book, day_us);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert!(dir.path().join("d=1970-01-02/book-000003.parquet").exists());
        remove_books_after(dir.path(), 1).unwrap();
        let left: Vec<bool> = [(1, 0), (2, 0), (3, 86_400_000_000)]
            .iter()
            .map(|(book, us)| book_path(dir.path(), *book, *us).exists())
            .collect();
        assert_eq!(left, [true, false, false]);
    }

    #[test]
    fn a_directory_and_a_broker_belong_together() {
        let args = |kafka: Option<&str>, dir: Option<&str>| DemoArgs {
            kafka: kafka.map(str::to_string),
            serve: crate::config::ServeArgs { data_dir: dir.map(PathBuf::from), ..Default::default() },
            ..DemoArgs::default()
        };
        let refused = |args: DemoArgs| Place::choose(&args).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused(args(None, Some("/nowhere"))).contains("needs --kafka"));
        assert!(refused(args(Some("localhost:9092"), None)).contains("needs --data-dir"));

        let (config, place) = Place::choose(&args(None, None)).unwrap();
        assert!(config.data_dir.starts_with(&place.root) && place.ledger.is_dir());
        let root = place.root.clone();
        drop(place);
        assert!(!root.exists());
    }
}
