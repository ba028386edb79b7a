//! A validated sink, the messages that rows become, and the writers that deliver them.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch, StructArray};
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
/// At least once: what was committed is there, what was not may be. Exactly once ([`SinkWriter::marker`]): the outside knows
/// how far the sink is, and that changes with the messages or not at all. After an error the writer is of no more use; a new
/// one is started, which asks how far the outside is.
pub trait SinkWriter: Send {
    /// The most bytes of key and payload that a message may have.
    fn message_bytes_max(&self) -> usize;

    /// How far the outside says that the sink is; `None` if it does not know, so that messages may come twice.
    ///
    /// # Errors
    /// 08006 if the broker does not answer in time, 28000 if it may not be asked.
    fn marker(&mut self) -> Result<Option<Marker>> {
        Ok(None)
    }

    /// Hands messages over. They are neither there nor seen before [`SinkWriter::commit`].
    ///
    /// # Errors
    /// 08006 if the broker does not answer in time, 54000 if it refuses a message as too large, 58030 for the rest.
    fn send(&mut self, messages: Vec<Message>) -> Result<()>;

    /// Hands rows over as they are, to a place that takes them so ([`RowPlace`]).
    ///
    /// # Errors
    /// As [`SinkWriter::send`].
    fn send_rows(&mut self, rows: &RecordBatch) -> Result<()> {
        let _ = rows;
        Err(ConnectorError::internal("this sink takes messages, not rows"))
    }

    /// Whether the rows that were handed over are enough to be committed without waiting for others.
    fn is_full(&self) -> bool {
        true
    }

    /// Ends a part of the messages; `next` is the sequence number after it. One that writes exactly once returns when the
    /// outside has the part and the marker, which is all that changes if there are no messages.
    ///
    /// # Errors
    /// As [`SinkWriter::send`]; whether the messages are there is not known then.
    fn commit(&mut self, next: u64) -> Result<()>;

    /// The sequence number after the last part that the outside has, with all parts before it. Waits up to `wait` for one
    /// more to be there, if any is on its way.
    ///
    /// # Errors
    /// As [`SinkWriter::commit`], of a part that was given up.
    fn acknowledged(&mut self, wait: Duration) -> Result<u64>;

    /// Whether the last error was that another writer of the same sink has come: to try again would only fence that one.
    fn is_fenced(&self) -> bool {
        false
    }
}

/// A place that takes rows as they are, exactly once: files in a lake, say. Rows gather there until they are committed.
pub trait RowPlace: std::fmt::Debug + Send + Sync {
    /// What names the place outside.
    fn name(&self) -> &str;

    /// How long rows that were handed over wait for others at most.
    fn commit_interval(&self) -> Duration;

    /// Asks whether the place can be written to, and makes what it needs.
    ///
    /// # Errors
    /// Of the place.
    fn probe(&self, timeout: Duration) -> Result<()>;

    /// Starts a writer, which has a marker.
    ///
    /// # Errors
    /// Of the place.
    fn start(&self, identity: &SinkIdentity) -> Result<Box<dyn SinkWriter>>;
}

/// Who writes: what the outside knows a sink by that is written exactly once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkIdentity {
    /// The uuid of the store that the sink's rows wait in.
    pub store: String,
    /// The sink's number in its catalog.
    pub sink: u32,
}

/// How far the outside says that a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// It does not know the sink.
    Absent,
    /// The sequence number after the last message.
    At(u64),
    /// What is there was not set by this store; what it says of itself.
    Foreign(String),
}

/// A marker that another store has set on the same topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignMarker {
    pub group: String,
    pub sequence: u64,
}

/// A sink whose options, format and columns were checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SinkSpec {
    connector: Connector,
}

#[derive(Debug, Clone)]
enum Connector {
    Blackhole,
    Rows(Arc<dyn RowPlace>),
    #[cfg(feature = "kafka")]
    Kafka {
        sink: kafka::KafkaSink,
        format: RowFormat,
        delivery: Delivery,
    },
}

/// The connectors that a sink can name.
#[cfg(feature = "kafka")]
const KNOWN: &str = "kafka, delta, parquet, blackhole";
/// The connectors that a sink can name in a build without Kafka.
#[cfg(not(feature = "kafka"))]
const KNOWN: &str = "delta, parquet, blackhole";

/// How often a message may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
                let delivery = options.take_word("delivery", &words)?.unwrap_or(Delivery::ExactlyOnce);
                options.finish("properties.*")?;
                let format = sink.format.as_ref().ok_or_else(|| {
                    ConnectorError::option("a kafka sink needs a FORMAT clause")
                        .with_hint("add FORMAT PLAIN | UPSERT | DEBEZIUM ENCODE JSON | AVRO")
                })?;
                let format = RowFormat::new(&sink.columns, &sink.key, format, kafka.topic())?;
                Ok(Self { connector: Connector::Kafka { sink: kafka, format, delivery } })
            }
            #[cfg(not(feature = "kafka"))]
            Some("kafka") => Err(ConnectorError::unsupported("this server was built without the kafka connector")),
            Some(other) => Err(ConnectorError::option(format!("unknown sink connector \"{other}\""))
                .with_hint(format!("known connectors: {KNOWN}"))),
            None => Err(ConnectorError::option("option \"connector\" of a sink is missing")
                .with_hint(format!("known connectors: {KNOWN}"))),
        }
    }

    /// A sink into a place that takes rows.
    pub fn rows(place: Arc<dyn RowPlace>) -> Self {
        Self { connector: Connector::Rows(place) }
    }

    /// How long rows wait for others at most in a place that takes them as they are; `None` for one that takes messages.
    pub fn commit_interval(&self) -> Option<Duration> {
        match &self.connector {
            Connector::Rows(place) => Some(place.commit_interval()),
            _ => None,
        }
    }

    /// Whether rows can be deleted: `FORMAT UPSERT`, `FORMAT DEBEZIUM` and `blackhole` take a view that retracts,
    /// `FORMAT PLAIN` only one that is append-only.
    pub fn takes_deletes(&self) -> bool {
        match &self.connector {
            Connector::Blackhole => true,
            Connector::Rows(_) => false,
            #[cfg(feature = "kafka")]
            Connector::Kafka { format, .. } => format.takes_deletes(),
        }
    }

    /// Whether messages say what a row was before: `FORMAT DEBEZIUM`.
    pub fn tells_before(&self) -> bool {
        match &self.connector {
            Connector::Blackhole | Connector::Rows(_) => false,
            #[cfg(feature = "kafka")]
            Connector::Kafka { format, .. } => format.tells_before(),
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
            Connector::Rows(place) => place.name(),
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
            Connector::Rows(place) => place.probe(timeout),
            #[cfg(feature = "kafka")]
            Connector::Kafka { sink, format, .. } => {
                sink.probe(timeout)?;
                format.probe()
            }
        }
    }

    /// The messages of rows, one a row and in their order. `batch` has the sink's columns; a row where `deletes` is true
    /// is gone. `before` has the same columns, all of them nullable, and is valid where the row takes the place of another
    /// one with its key, which it then is; formats that do not tell it ([`SinkSpec::tells_before`]) leave it out. A blackhole
    /// has no messages.
    ///
    /// # Errors
    /// XX000 if a row is deleted from an append-only sink or a column is of another type than declared; 22023 for a NULL
    /// in a key column; 08001 if the schema registry does not answer.
    pub fn encode(
        &self,
        batch: &RecordBatch,
        deletes: Option<&BooleanArray>,
        before: Option<&StructArray>,
    ) -> Result<Vec<Message>> {
        match &self.connector {
            Connector::Blackhole | Connector::Rows(_) => Ok(Vec::new()),
            #[cfg(feature = "kafka")]
            Connector::Kafka { format, .. } => format.encode(batch, deletes, before),
        }
    }

    /// Whether each message is to come exactly once.
    pub fn is_exactly_once(&self) -> bool {
        match &self.connector {
            Connector::Blackhole => false,
            Connector::Rows(_) => true,
            #[cfg(feature = "kafka")]
            Connector::Kafka { delivery, .. } => *delivery == Delivery::ExactlyOnce,
        }
    }

    /// Starts a writer. One that writes exactly once waits for the broker and ends what an older one has begun.
    ///
    /// # Errors
    /// 22023 if the client library refuses the properties; those of [`SinkWriter::send`]; 28000 if the broker does not allow
    /// transactions, 0A000 if it has none.
    pub fn start(&self, identity: &SinkIdentity) -> Result<Box<dyn SinkWriter>> {
        match &self.connector {
            Connector::Blackhole => Ok(Box::new(Blackhole)),
            Connector::Rows(place) => place.start(identity),
            #[cfg(feature = "kafka")]
            Connector::Kafka { sink, .. } => sink.start(self.is_exactly_once().then_some(identity)),
        }
    }

    /// Has the outside forget a sink that is no more and has made rows up to number `made`. It keeps what it knows of it if
    /// that is of somebody else: of another store, or of a copy of this one that has gone on.
    ///
    /// # Errors
    /// 08006 if the broker does not answer in time, 28000 if it does not allow it.
    pub fn forget(&self, identity: &SinkIdentity, made: u64) -> Result<()> {
        match &self.connector {
            Connector::Blackhole | Connector::Rows(_) => Ok(()),
            #[cfg(feature = "kafka")]
            Connector::Kafka { sink, .. } => sink.forget(identity, made),
        }
    }

    /// How far other stores have written the same place exactly once: what is there already if the sink is new.
    ///
    /// # Errors
    /// 08006 if the broker does not answer or does not tell.
    pub fn foreign_markers(&self, identity: &SinkIdentity) -> Result<Vec<ForeignMarker>> {
        match &self.connector {
            Connector::Blackhole | Connector::Rows(_) => Ok(Vec::new()),
            #[cfg(feature = "kafka")]
            Connector::Kafka { sink, .. } => sink.foreign_markers(identity),
        }
    }
}

/// Takes everything and keeps nothing: for measuring.
struct Blackhole;

impl SinkWriter for Blackhole {
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    fn send(&mut self, _messages: Vec<Message>) -> Result<()> {
        Ok(())
    }

    fn commit(&mut self, _next: u64) -> Result<()> {
        Ok(())
    }

    fn acknowledged(&mut self, _wait: Duration) -> Result<u64> {
        Ok(u64::MAX)
    }
}
