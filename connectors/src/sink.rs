//! A validated sink, the messages that rows become, and the writers that deliver them.

use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use millstream_catalog::object::Sink;

use crate::error::{ConnectorError, Result};
use crate::format::RowFormat;
#[cfg(feature = "kafka")]
use crate::kafka;
use crate::options::Options;

/// One message to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone: the row of that key is gone.
    pub payload: Option<Vec<u8>>,
}

/// Delivers messages in order.
///
/// At least once: what was acknowledged is there, what was not may be. After an error the writer is of no more use; a new
/// one is started and the messages are written again. A writer that sends each message exactly once has the same shape:
/// its `write` is one transaction that also commits the sequence number of its last message.
pub trait SinkWriter: Send {
    /// Writes all messages and returns when the outside has acknowledged every one of them.
    ///
    /// # Errors
    /// 08006 if the broker does not answer in time, 54000 if it refuses a message as too large, 58030 for the rest.
    fn write(&mut self, messages: Vec<Message>) -> Result<()>;
}

/// A sink whose options, format and columns were checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SinkSpec {
    connector: Connector,
}

#[derive(Debug, Clone)]
enum Connector {
    Blackhole,
    #[cfg(feature = "kafka")]
    Kafka {
        sink: kafka::KafkaSink,
        format: RowFormat,
    },
}

/// The connectors that a sink can name.
#[cfg(feature = "kafka")]
const KNOWN: &str = "kafka, blackhole";
/// The connectors that a sink can name in a build without Kafka.
#[cfg(not(feature = "kafka"))]
const KNOWN: &str = "blackhole";

#[derive(Clone, Copy)]
enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

impl SinkSpec {
    /// Checks the options and the format of a sink. Nothing outside is asked: that is [`SinkSpec::probe`].
    ///
    /// # Errors
    /// 22023 for an unknown connector, option, format or value, listing the known ones, and for an upsert sink without
    /// key; 0A000 for column types that the format cannot write and for features that are not there yet.
    pub fn new(sink: &Sink) -> Result<Self> {
        let connector = sink.options.iter().find(|(k, _)| k.eq_ignore_ascii_case("connector")).map(|(_, v)| v.as_str());
        match connector.map(str::to_ascii_lowercase).as_deref() {
            Some("blackhole") => {
                let mut options = Options::new("a blackhole sink", &sink.options);
                options.take("connector");
                options.take("primary_key");
                options.take("state_ttl");
                options.finish("")?;
                Ok(Self { connector: Connector::Blackhole })
            }
            #[cfg(feature = "kafka")]
            Some("kafka") => {
                let mut options = Options::new("a kafka sink", &sink.options);
                options.take("connector");
                options.take("primary_key");
                options.take("state_ttl");
                let kafka = kafka::KafkaSink::take(&mut options)?;
                let words = [("at_least_once", Delivery::AtLeastOnce), ("exactly_once", Delivery::ExactlyOnce)];
                let delivery = options.take_word("delivery", &words)?;
                options.finish("properties.*")?;
                if let Some(Delivery::ExactlyOnce) = delivery {
                    return Err(ConnectorError::unsupported(
                        "delivery = 'exactly_once' of a kafka sink is not supported yet",
                    )
                    .with_hint("leave it out or write delivery = 'at_least_once'"));
                }
                let format = sink.format.as_ref().ok_or_else(|| {
                    ConnectorError::option("a kafka sink needs a FORMAT clause")
                        .with_hint("add FORMAT PLAIN ENCODE JSON or FORMAT UPSERT ENCODE JSON")
                })?;
                let format = RowFormat::new(&sink.columns, &sink.key, format, kafka.topic())?;
                Ok(Self { connector: Connector::Kafka { sink: kafka, format } })
            }
            #[cfg(not(feature = "kafka"))]
            Some("kafka") => Err(ConnectorError::unsupported("this server was built without the kafka connector")),
            Some(other) => Err(ConnectorError::option(format!("unknown sink connector \"{other}\""))
                .with_hint(format!("known connectors: {KNOWN}"))),
            None => Err(ConnectorError::option("option \"connector\" of a sink is missing")
                .with_hint(format!("known connectors: {KNOWN}"))),
        }
    }

    /// Whether rows can be deleted: `FORMAT UPSERT`, `FORMAT DEBEZIUM` and `blackhole` take a view that retracts, `FORMAT PLAIN` only one
    /// that is append-only.
    pub fn takes_deletes(&self) -> bool {
        match &self.connector {
            Connector::Blackhole => true,
            #[cfg(feature = "kafka")]
            Connector::Kafka { format, .. } => format.takes_deletes(),
        }
    }

    /// Whether rows go nowhere, so that they need not be kept until they are delivered.
    pub fn discards(&self) -> bool {
        matches!(self.connector, Connector::Blackhole)
    }

    /// The topic or what else names the place outside.
    pub fn topic(&self) -> &str {
        match &self.connector {
            Connector::Blackhole => "",
            #[cfg(feature = "kafka")]
            Connector::Kafka { sink, .. } => sink.topic(),
        }
    }

    /// Asks the outside whether the place to write to exists, and registers the schemas of messages. Never makes a topic.
    ///
    /// # Errors
    /// As [`crate::SourceSpec::probe`]; 08001, 28000 and 22023 if the schema registry does not take a schema.
    pub fn probe(&self, timeout: Duration) -> Result<()> {
        match &self.connector {
            Connector::Blackhole => Ok(()),
            #[cfg(feature = "kafka")]
            Connector::Kafka { sink, format } => {
                sink.probe(timeout)?;
                format.probe()
            }
        }
    }

    /// The messages of rows, one a row and in their order. `batch` has the sink's columns; a row where `deletes` is true
    /// is gone. A blackhole has no messages.
    ///
    /// # Errors
    /// XX000 if a row is deleted from an append-only sink or a column is of another type than declared; 22023 for a NULL
    /// in a key column; 08001 if the schema registry does not answer.
    pub fn encode(&self, batch: &RecordBatch, deletes: Option<&BooleanArray>) -> Result<Vec<Message>> {
        match &self.connector {
            Connector::Blackhole => Ok(Vec::new()),
            #[cfg(feature = "kafka")]
            Connector::Kafka { format, .. } => format.encode(batch, deletes),
        }
    }

    /// Starts a writer. Does not wait for the broker.
    ///
    /// # Errors
    /// 22023 if the client library refuses the properties.
    pub fn start(&self) -> Result<Box<dyn SinkWriter>> {
        match &self.connector {
            Connector::Blackhole => Ok(Box::new(Blackhole)),
            #[cfg(feature = "kafka")]
            Connector::Kafka { sink, .. } => Ok(Box::new(sink.start()?)),
        }
    }
}

/// Takes everything and keeps nothing: for measuring.
struct Blackhole;

impl SinkWriter for Blackhole {
    fn write(&mut self, _messages: Vec<Message>) -> Result<()> {
        Ok(())
    }
}
