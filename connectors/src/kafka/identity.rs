//! Whether a topic still is the one that our positions are of, and what to do with a position that is gone.
//!
//! A topic that was deleted and made again has the offsets of the old one for other records. The broker gives each topic an
//! id; the reader compares it with the one that the positions were taken under, before it reads the first record and every
//! second after that. Brokers that give no ids are trusted: there a position beyond the end is what can be seen.

use std::sync::atomic::Ordering;

use rdkafka::error::RDKafkaErrorCode;

use super::native::Consumer;
use super::reader::{ASK_TIMEOUT, Shared};
use crate::chunk::Positions;
use crate::source::PartitionStatus;
use crate::start::Reset;

/// What the broker says of the topic's id.
pub(super) enum Identity {
    /// The same as ever, or one that was not known before.
    Same,
    /// Another one, and no position of the old topic counts for it.
    Other,
}

/// Asks for the topic's id and compares it with the one of the positions; notes it if none was known.
///
/// # Errors
/// In words, if the broker does not answer or has no such topic.
pub(super) fn check(consumer: &Consumer, topic: &str, shared: &Shared) -> Result<Identity, String> {
    let id = consumer.topic_id(topic, ASK_TIMEOUT).map_err(|code| match code {
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            format!("kafka topic \"{topic}\" does not exist")
        }
        code => format!("kafka topic \"{topic}\" cannot be asked what it is: {code}"),
    })?;
    let mut known = shared.topic_id.lock();
    Ok(match (&*known, id) {
        (Some(known), Some(id)) if *known != id => Identity::Other,
        (None, Some(id)) => {
            *known = Some(id);
            Identity::Same
        }
        _ => Identity::Same,
    })
}

/// Stops all partitions, those of `positions` too, for the topic is another one: what is read of it are not the records that
/// the positions meant.
pub(super) fn stop_all(topic: &str, shared: &Shared, positions: &Positions) {
    if shared.is_other.swap(true, Ordering::AcqRel) {
        return;
    }
    let text = other(topic);
    tracing::error!(%topic, "{text}");
    let mut partitions = shared.partitions.lock();
    for (partition, offset) in positions {
        partitions.entry(*partition).or_insert_with(|| PartitionStatus {
            partition: *partition,
            next_offset: *offset,
            high_watermark: None,
            error: None,
            stopped: true,
        });
    }
    for status in partitions.values_mut() {
        status.error = Some(text.clone());
        status.stopped = true;
    }
}

/// What is said of a topic that was made anew.
pub(super) fn other(topic: &str) -> String {
    format!(
        "kafka topic \"{topic}\" was deleted and made again, and what was read is of the old one; to go on with the new one: \
         ALTER SOURCE ... RESUME AT 'earliest' (or 'latest')"
    )
}

/// Where a partition goes on whose position is gone.
///
/// # Errors
/// The client's, if the broker does not say where the partition begins and ends.
pub(super) fn reset(consumer: &Consumer, topic: &str, partition: i32, to: Reset) -> Result<i64, RDKafkaErrorCode> {
    let (low, high) = consumer.watermarks(topic, partition, ASK_TIMEOUT)?;
    Ok(match to {
        Reset::Earliest => low,
        Reset::Latest => high,
    })
}

/// What is said of a position that is gone.
pub(super) fn out_of_range(topic: &str, partition: i32, at: i64, bounds: Option<(i64, i64)>) -> String {
    let there = match bounds {
        Some((low, high)) => format!(" (it has those from {low} to {high})"),
        None => String::new(),
    };
    format!(
        "offset {at} of partition {partition} of kafka topic \"{topic}\" is not there any more{there}: records were deleted \
         before they were read, or the partition was cut back; to go on: ALTER SOURCE ... RESUME AT 'earliest' (or 'latest')"
    )
}
