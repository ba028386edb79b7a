//! A Kafka broker inside this process: librdkafka's mock cluster, listening on loopback. For the demo and unit tests.
//!
//! It keeps everything in memory and forgets it at the end, knows no compaction and no retention by time, and its
//! transactions do nothing, so it proves nothing about exactly-once. A partition keeps the newest [`PARTITION_BYTES_MAX`]
//! bytes or [`PARTITION_BATCHES_MAX`] produced batches, whichever is less; older ones vanish, and a reader that is further
//! behind than that stops with an offset that is not there any more. A generator must stay within it.
//!
//! A fetch that finds nothing is answered only when its wait is over, not when a record comes: sources that read it should
//! say `properties.fetch.wait.max.ms = '5'`.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::error::{ConnectorError, Result};

/// Bytes that a partition keeps (`max_size` of `rd_kafka_mock_partition_init`).
pub const PARTITION_BYTES_MAX: usize = 5 << 20;
/// Produced batches, of one message or many, that a partition keeps (`max_cnt` there).
pub const PARTITION_BATCHES_MAX: usize = 100_000;

/// A running mock broker; dropping it ends it.
pub struct MockBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

// SAFETY: the mock cluster runs on its own thread; the functions called here lock it or send it a request.
unsafe impl Send for MockBroker {}
// SAFETY: as above.
unsafe impl Sync for MockBroker {}

impl MockBroker {
    /// Starts a cluster of one broker on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// XX000 if librdkafka cannot start it.
    pub fn start() -> Result<Self> {
        let cluster = MockCluster::new(1)
            .map_err(|e| ConnectorError::internal(format!("the embedded mock broker cannot be started: {e}")))?;
        Ok(Self { cluster })
    }

    /// `host:port` for `properties.bootstrap.server`.
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Makes a topic. Partitions of one that exists cannot be added.
    ///
    /// # Errors
    /// XX000 if it cannot be made.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.cluster
            .create_topic(topic, partitions, 1)
            .map_err(|e| ConnectorError::internal(format!("topic \"{topic}\" of the mock broker cannot be made: {e}")))
    }

    /// Takes the broker away, as far as clients can tell, or brings it back.
    ///
    /// # Errors
    /// XX000 if librdkafka refuses.
    pub fn set_up(&self, up: bool) -> Result<()> {
        let outcome = if up { self.cluster.broker_up(-1) } else { self.cluster.broker_down(-1) };
        outcome.map_err(|e| ConnectorError::internal(format!("the mock broker: {e}")))
    }
}
