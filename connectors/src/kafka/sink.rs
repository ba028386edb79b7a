//! Rows to a topic, at least once.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::kafka::connection::{Connection, config_error};
use crate::kafka::producer::{Producer, producer_config};
use crate::options::Options;
use crate::sink::{Message, SinkWriter};

/// A validated Kafka sink.
#[derive(Debug, Clone)]
pub(crate) struct KafkaSink {
    connection: Connection,
    topic: Arc<str>,
}

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

    pub fn start(&self) -> Result<KafkaWriter> {
        Ok(KafkaWriter { producer: Producer::connect(&self.connection)?, topic: self.topic.clone() })
    }
}

/// Writes a topic through one idempotent producer.
pub(crate) struct KafkaWriter {
    producer: Producer,
    topic: Arc<str>,
}

impl SinkWriter for KafkaWriter {
    fn write(&mut self, messages: Vec<Message>) -> Result<()> {
        for message in &messages {
            self.producer.send(&self.topic, None, message.key.as_deref(), message.payload.as_deref())?;
        }
        self.producer.flush(&self.topic, WRITE_TIMEOUT)
    }
}
