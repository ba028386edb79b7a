//! The thread that puts a marker into a transaction, which is left behind if the client does not come back from that.
//!
//! librdkafka (2.12; its issues 5456 and 5511) heeds no timeout there: a request for the coordinator of a group that has left
//! the cluster waits until some connection comes or goes, which may be never. No other call of the client can end that one,
//! and the client must not be destroyed under it. So the thread keeps the client, and ends it if the call is ever over. A new
//! client goes on meanwhile; what the old one still sends is refused, for the new one has fenced it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;

use crate::error::{ConnectorError, Result};
use crate::kafka::producer::Producer;

/// How much longer than it was given a call may take until it is left behind.
const GRACE: Duration = Duration::from_secs(1);

/// Puts markers into the transactions of one producer.
pub(super) struct MarkerThread {
    /// `None` when the thread is to end.
    calls: Option<Sender<Call>>,
    outcomes: Receiver<Result<(), KafkaError>>,
    /// `None` once it was left behind.
    thread: Option<JoinHandle<()>>,
}

struct Call {
    marker: TopicPartitionList,
    group: ConsumerGroupMetadata,
    timeout: Duration,
}

impl MarkerThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// XX000 if there is no thread to be had.
    pub fn start(producer: Arc<Producer>) -> Result<Self> {
        let (calls, incoming) = bounded::<Call>(1);
        let (outgoing, outcomes) = bounded(1);
        let run = move || {
            for Call { marker, group, timeout } in incoming {
                let outcome = producer.inner().send_offsets_to_transaction(&marker, &group, timeout);
                if outgoing.send(outcome).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("sink-marker".into()).spawn(run);
        let thread =
            thread.map_err(|e| ConnectorError::internal(format!("no thread for the marker of a sink: {e}")))?;
        Ok(Self { calls: Some(calls), outcomes, thread: Some(thread) })
    }

    /// Puts a marker into the open transaction. After a timeout the producer is of no more use.
    pub fn put(
        &mut self,
        marker: TopicPartitionList,
        group: ConsumerGroupMetadata,
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        let lost = KafkaError::Global(RDKafkaErrorCode::Fail);
        let Some(calls) = self.calls.as_ref().filter(|_| self.thread.is_some()) else { return Err(lost) };
        if calls.send(Call { marker, group, timeout }).is_err() {
            return Err(lost);
        }
        match self.outcomes.recv_timeout(timeout + GRACE) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(lost),
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("a kafka client is left behind that does not come back from a call");
                self.thread = None;
                Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut))
            }
        }
    }
}

impl Drop for MarkerThread {
    /// Waits for the thread unless it was left behind.
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for the marker of a sink panicked");
        }
    }
}
