//! A session in the server's own process, which runs statements as a client of the wire would.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use futures::TryStreamExt;
use millstream_catalog::{DEFAULT_DATABASE, DEFAULT_USER};
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::session::Session;
use crate::session::api::{ClientInfo, Response, Sessions, SqlSession};
use crate::session::database::Database;

/// Process id of the demo's sessions; those of connections are positive.
const PROCESS_ID: i32 = 0;

/// A session of the demo's own.
pub struct Client(Session);

impl Client {
    /// Opens a session.
    pub async fn connect(database: &Database) -> Result<Self> {
        let client = ClientInfo {
            process_id: PROCESS_ID,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            user: DEFAULT_USER.into(),
            database: DEFAULT_DATABASE.into(),
            settings: BTreeMap::from([("application_name".to_string(), "millstream demo".to_string())]),
        };
        Ok(Self(database.open(client).await?))
    }

    /// Runs statements one after another; gives the rows of the last.
    pub async fn run(&mut self, sql: &str) -> Result<Vec<Row>> {
        let mut batches = Vec::new();
        for statement in self.0.parse(sql)? {
            let response = self.0.execute(&statement, &[], CancellationToken::new()).await?;
            batches = match response {
                Response::Rows(rows) => rows.stream.try_collect().await?,
                _ => Vec::new(),
            };
            self.0.sync(false).await?;
        }
        batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| Row::new(batch, row))).collect()
    }

    /// Runs a query that gives one row.
    pub async fn row(&mut self, sql: &str) -> Result<Row> {
        Ok(self.run(sql).await?.pop().unwrap_or_default())
    }
}

/// A row of a small result.
#[derive(Debug, Default)]
pub struct Row(Vec<ScalarValue>);

impl Row {
    fn new(batch: &RecordBatch, row: usize) -> Result<Self> {
        let values = batch.columns().iter().map(|column| ScalarValue::try_from_array(column, row));
        Ok(Self(values.collect::<datafusion::common::Result<_>>()?))
    }

    /// A whole number; `None` if it is NULL.
    pub fn int(&self, column: usize) -> Option<i64> {
        match self.0.get(column)?.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(value) => value,
            _ => None,
        }
    }

    /// A number; `None` if it is NULL.
    pub fn float(&self, column: usize) -> Option<f64> {
        match self.0.get(column)?.cast_to(&DataType::Float64).ok()? {
            ScalarValue::Float64(value) => value,
            _ => None,
        }
    }

    /// A text; empty if it is NULL.
    pub fn text(&self, column: usize) -> String {
        self.0.get(column).filter(|value| !value.is_null()).map(ToString::to_string).unwrap_or_default()
    }
}
