//! A client's connection over the PostgreSQL protocol: statements in, text rows or errors out.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, pin_mut};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How the data of a COPY is cut: not at the ends of lines.
const COPY_PIECE_BYTES: usize = 1000;

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `None` if the connection itself failed.
    pub sqlstate: Option<String>,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where in the data it is: a line of a COPY.
    pub context: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sqlstate.as_deref().unwrap_or("connection"), self.message)?;
        self.detail.iter().try_for_each(|detail| write!(f, " DETAIL: {detail}"))?;
        self.hint.iter().try_for_each(|hint| write!(f, " HINT: {hint}"))
    }
}

impl std::error::Error for Failure {}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Failure {
                sqlstate: Some(db.code().code().to_string()),
                message: db.message().to_string(),
                detail: db.detail().map(str::to_string),
                hint: db.hint().map(str::to_string),
                context: db.where_().map(str::to_string),
            },
            None => Failure { sqlstate: None, message: format!("{error:?}"), detail: None, hint: None, context: None },
        }
    }
}

/// The outcome of one statement over the simple protocol, all values as the server's text; NULL is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Column names; `None` for a statement that gives no rows.
    pub columns: Option<Vec<String>>,
    pub rows: Vec<Vec<Option<String>>>,
    /// The count of the command tag.
    pub affected: u64,
}

/// A connection.
pub struct Session {
    pub client: Client,
}

impl Session {
    /// Connects with a libpq-style string.
    pub async fn connect(config: &str) -> Result<Self, Failure> {
        let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
        // Ends by itself with the connection; its error reaches the caller through the next statement.
        tokio::spawn(connection);
        Ok(Session { client })
    }

    /// Sends data to a COPY … FROM STDIN; the number of its rows.
    pub async fn copy_in(&self, sql: &str, data: &str) -> Result<u64, Failure> {
        let sink = self.client.copy_in::<_, Bytes>(sql).await?;
        pin_mut!(sink);
        for piece in data.as_bytes().chunks(COPY_PIECE_BYTES) {
            // The server may have refused the data already: the end says why.
            if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                break;
            }
        }
        Ok(sink.finish().await?)
    }

    /// Runs statements over the simple protocol; the outcome is that of the last one.
    pub async fn try_run(&self, sql: &str) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        let mut complete = false;
        for message in self.client.simple_query(sql).await? {
            if complete {
                (outcome, complete) = (Outcome::default(), false);
            }
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    outcome.columns = Some(columns.iter().map(|column| column.name().to_string()).collect());
                }
                SimpleQueryMessage::Row(row) => {
                    outcome.rows.push((0..row.len()).map(|n| row.get(n).map(str::to_string)).collect());
                }
                SimpleQueryMessage::CommandComplete(count) => (outcome.affected, complete) = (count, true),
                _ => {}
            }
        }
        Ok(outcome)
    }

    /// As [`Session::try_run`]; panics with the statement on an error.
    pub async fn run(&self, sql: &str) -> Outcome {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
    }

    /// The rows of a query, sorted, each as its values joined by `|`, NULL as `∅`.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        let mut rows: Vec<String> = self.run(sql).await.rows.iter().map(|row| line(row)).collect();
        rows.sort();
        rows
    }

    /// The one value of a one-row query; panics on NULL.
    pub async fn value(&self, sql: &str) -> String {
        let outcome = self.run(sql).await;
        match outcome.rows.as_slice() {
            [row] => row[0].clone().unwrap_or_else(|| panic!("NULL from: {sql}")),
            rows => panic!("{} rows instead of one from: {sql}", rows.len()),
        }
    }

    /// The error of a statement that must fail.
    pub async fn error(&self, sql: &str) -> Failure {
        match self.try_run(sql).await {
            Err(failure) => failure,
            Ok(outcome) => panic!("no error, but {outcome:?}\nin: {sql}"),
        }
    }

    /// Repeats a query until its sorted rows are as expected; panics with the last ones after `limit`.
    pub async fn eventually(&self, sql: &str, limit: Duration, expected: &[&str]) {
        let start = Instant::now();
        loop {
            let rows = self.rows(sql).await;
            if rows == expected {
                return;
            }
            assert!(start.elapsed() < limit, "not within {limit:?}: {sql}\nexpected {expected:#?}\nfound {rows:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A row as text.
pub fn line(row: &[Option<String>]) -> String {
    row.iter().map(|value| value.as_deref().unwrap_or("∅")).collect::<Vec<_>>().join("|")
}
