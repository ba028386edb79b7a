//! A Kafka sink: what it writes to, and the writer that sends at least once. The other one is in `transaction`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::kafka::connection::{Connection, config_error};
use crate::kafka::producer::{Producer, limited_config, message_limit, producer_config};
use crate::kafka::transaction::{TransactionalWriter, foreign_markers, forget};
use crate::options::Options;
use crate::sink::{ForeignMarker, Message, SinkIdentity, SinkWriter};
use crate::wait::Wait;

/// A validated Kafka sink.
#[derive(Debug, Clone)]
pub(crate) struct KafkaSink {
    connection: Connection,
    topic: Arc<str>,
}

/// Parts that may be on their way at once.
const PARTS_MAX: usize = 16;
/// Past this a write has failed even if the client has not given a message up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

impl KafkaSink {
    /// Takes the options that are Kafka's.
    pub fn take(options: &mut Options<'_>) -> Result<Self> {
        let topic = options.require("topic")?.into();
        let connection = Connection::take(options)?;
        producer_config(&connection).create_native_config().map_err(config_error)?;
        Ok(Self { connection, topic })
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn probe(&self, timeout: Duration) -> Result<Vec<i32>> {
        self.connection.probe(&self.topic, timeout)
    }

    /// Starts a writer. With an identity it writes each message exactly once, and waits for the broker; without, at least
    /// once.
    pub fn start(&self, identity: Option<&SinkIdentity>, wait: &Wait) -> Result<Box<dyn SinkWriter>> {
        match identity {
            Some(identity) => Ok(Box::new(TransactionalWriter::start(&self.connection, &self.topic, identity, wait)?)),
            None => Ok(Box::new(KafkaWriter::start(&self.connection, &self.topic, wait)?)),
        }
    }

    /// Removes the marker's group; see [`crate::SinkSpec::forget`].
    pub fn forget(&self, identity: &SinkIdentity, made: u64) -> Result<()> {
        forget(&self.connection, &self.topic, identity, made)
    }

    /// Markers of other stores on the topic.
    pub fn foreign_markers(&self, identity: &SinkIdentity) -> Result<Vec<ForeignMarker>> {
        foreign_markers(&self.connection, &self.topic, identity)
    }
}

/// Writes a topic through one idempotent producer, at least once.
struct KafkaWriter {
    producer: Producer,
    topic: Arc<str>,
    message_bytes_max: usize,
    /// Sequence numbers at the ends of the parts that are not known to be acknowledged, oldest first.
    ends: VecDeque<u64>,
    /// Parts before those.
    parts: usize,
    acknowledged: u64,
    wait: Wait,
}

impl KafkaWriter {
    fn start(connection: &Connection, topic: &Arc<str>, wait: &Wait) -> Result<Self> {
        let message_bytes_max = message_limit(connection, topic);
        let config = limited_config(connection, message_bytes_max);
        let producer = Producer::of_config(&config, connection, wait)?;
        Ok(Self {
            producer,
            topic: topic.clone(),
            message_bytes_max,
            ends: VecDeque::new(),
            parts: 0,
            acknowledged: 0,
            wait: wait.clone(),
        })
    }

    /// From here on the oldest part is waited for, if there is one.
    fn wait_for_part(&self) {
        match self.ends.is_empty() {
            true => self.wait.end(),
            false => self.wait.begin(self.producer.wait_for_deliveries(&self.topic)),
        }
    }
}

impl SinkWriter for KafkaWriter {
    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    fn send(&mut self, messages: Vec<Message>) -> Result<()> {
        for message in &messages {
            self.producer.send(&self.topic, None, message.key.as_deref(), message.payload.as_deref())?;
        }
        Ok(())
    }

    fn commit(&mut self, next: u64) -> Result<()> {
        self.producer.end_part();
        self.ends.push_back(next);
        if self.ends.len() == 1 {
            self.wait_for_part();
        }
        if self.ends.len() > PARTS_MAX {
            self.acknowledged(WRITE_TIMEOUT)?;
            if self.ends.len() > PARTS_MAX {
                self.producer.flush(&self.topic, Duration::ZERO)?;
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, wait: Duration) -> Result<u64> {
        let parts = self.producer.acknowledged_parts(&self.topic, wait)?;
        if self.parts < parts {
            while self.parts < parts {
                self.parts += 1;
                self.acknowledged = self.ends.pop_front().unwrap_or(self.acknowledged);
            }
            self.wait_for_part();
        }
        Ok(self.acknowledged)
    }
}
