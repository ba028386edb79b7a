//! Kafka, through librdkafka; nothing outside this module knows of it.
//!
//! * `connection`: brokers and `properties.*`, checked once, for every client made of them; errors by what the user can do.
//! * `identity`: whether a topic still is the one that was read, and positions that are gone.
//! * `native`: the consumer, on librdkafka's own functions, because taking messages in batches costs a fraction of taking
//!   them one by one through the event interface of the rdkafka crate. All unsafe code of this crate but one line is there.
//! * `reader`: the threads behind [`crate::Reader`]. `bounded`: a SELECT on a source.
//! * [`producer`]: messages out, for sinks, the demo and tests. `sink` and `transaction`:
//!   the writers behind [`crate::SinkWriter`], at least once and exactly once; `marker`: a part of the latter.
//! * [`mock`]: a broker inside this process, for the demo and unit tests.

mod bounded;
mod connection;
mod identity;
mod marker;
pub mod mock;
mod native;
pub mod producer;
mod reader;
mod sink;
#[cfg(test)]
mod tests;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;

pub(crate) use bounded::BoundedReader;
use connection::Connection;
pub use connection::create_topic;
pub(crate) use reader::{KafkaReader, ReadTask, StartPoint};
pub(crate) use sink::KafkaSink;

use crate::error::{ConnectorError, Result};
use crate::options::Options;
use crate::start::Reset;

/// Where partitions start that have no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Startup {
    Earliest,
    Latest,
    /// At the first record of that time or later, in milliseconds since 1970.
    Timestamp(i64),
}

/// A validated Kafka source.
#[derive(Debug, Clone)]
pub(crate) struct KafkaSource {
    connection: Connection,
    topic: Arc<str>,
    pub(crate) startup: Startup,
    /// Where a partition goes on whose position is gone; `None`: it stops.
    out_of_range: Option<Reset>,
    group: Option<Arc<str>>,
}

/// Consumer group that positions are mirrored to when nothing names another.
const GROUP: &str = "millstream";

impl KafkaSource {
    /// Takes the options that are Kafka's.
    pub fn take(options: &mut Options<'_>) -> Result<Self> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mode {
            Earliest,
            Latest,
            Timestamp,
        }
        let topic = options.require("topic")?.into();
        let words = [("earliest", Mode::Earliest), ("latest", Mode::Latest), ("timestamp", Mode::Timestamp)];
        let mode = options.take_word("scan.startup.mode", &words)?.unwrap_or(Mode::Earliest);
        let millis = options.take_integer("scan.startup.timestamp.millis")?;
        let startup = match (mode, millis) {
            (Mode::Earliest, None) => Startup::Earliest,
            (Mode::Latest, None) => Startup::Latest,
            (Mode::Timestamp, Some(ms)) => Startup::Timestamp(ms),
            (Mode::Timestamp, None) => return Err(options.missing("scan.startup.timestamp.millis")),
            (_, Some(_)) => {
                return Err(ConnectorError::option(
                    "option \"scan.startup.timestamp.millis\" needs scan.startup.mode = 'timestamp'",
                ));
            }
        };
        let mut words = vec![("stop", None)];
        words.extend(Reset::WORDS.map(|(word, reset)| (word, Some(reset))));
        let out_of_range = options.take_word("on_out_of_range", &words)?.flatten();
        let source = Self { connection: Connection::take(options)?, topic, startup, out_of_range, group: None };
        source.consumer_config(1).create_native_config().map_err(connection::config_error)?;
        Ok(source)
    }

    pub fn with_group(self, group: &str) -> Self {
        Self { group: Some(group.into()), ..self }
    }

    /// The consumer group that positions are mirrored to.
    pub fn group(&self) -> String {
        self.consumer_config(1).get("group.id").unwrap_or(GROUP).to_string()
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Partitions of the topic, ascending.
    pub fn probe(&self, timeout: Duration) -> Result<Vec<i32>> {
        self.connection.probe(&self.topic, timeout)
    }

    /// Settings of one of `consumers` consumers that share the memory for what is fetched ahead.
    fn consumer_config(&self, consumers: usize) -> ClientConfig {
        let mut config = self.connection.consumer_config(consumers);
        if config.get("group.id").is_none() {
            config.set("group.id", self.group.as_deref().unwrap_or(GROUP));
        }
        config
    }
}
