//! The id of a topic, which a topic of the same name that was made anew does not have.

use std::ffi::c_char;
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;

use super::{Consumer, c_string, check, millis, text};

/// Waited for an answer beyond the request's own timeout, which librdkafka looks at once a second.
const GRACE: Duration = Duration::from_millis(500);

impl Consumer {
    /// The id of a topic, from the broker. `None` if the brokers give topics no ids.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition` if there is no such topic; what else librdkafka reports.
    pub fn topic_id(&self, topic: &str, timeout: Duration) -> Result<Option<String>, RDKafkaErrorCode> {
        // Any broker knows; without a number the client would wait for the controller.
        let (_, broker) = self.metadata(topic, timeout)?;
        let name = c_string(topic)?;
        let mut names = [name.as_ptr()];
        let mut reason = [0 as c_char; 128];
        // SAFETY: each handle is destroyed once, after its last use; librdkafka copies the name and the options.
        unsafe {
            let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let options =
                rd::rd_kafka_AdminOptions_new(self.rk, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
            rd::rd_kafka_AdminOptions_set_request_timeout(options, millis(timeout), reason.as_mut_ptr(), reason.len());
            rd::rd_kafka_AdminOptions_set_broker(options, broker, reason.as_mut_ptr(), reason.len());
            let queue = rd::rd_kafka_queue_new(self.rk);
            rd::rd_kafka_DescribeTopics(self.rk, topics, options, queue);
            let event = rd::rd_kafka_queue_poll(queue, millis(timeout + GRACE));
            let id = if event.is_null() { Err(RDKafkaErrorCode::OperationTimedOut) } else { described(event) };
            if !event.is_null() {
                rd::rd_kafka_event_destroy(event);
            }
            rd::rd_kafka_queue_destroy(queue);
            rd::rd_kafka_AdminOptions_destroy(options);
            rd::rd_kafka_TopicCollection_destroy(topics);
            match id {
                Err(RDKafkaErrorCode::UnsupportedFeature) => Ok(None),
                id => id,
            }
        }
    }
}

/// What the answer says of its one topic.
///
/// # Safety
/// A valid event.
unsafe fn described(event: *mut rd::rd_kafka_event_t) -> Result<Option<String>, RDKafkaErrorCode> {
    // SAFETY: the result, its topics and their ids live as long as the event.
    unsafe {
        check(rd::rd_kafka_event_error(event))?;
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::UnsupportedFeature);
        }
        let mut n = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, ptr::from_mut(&mut n));
        if topics.is_null() || n == 0 {
            return Err(RDKafkaErrorCode::UnknownTopicOrPartition);
        }
        let error = rd::rd_kafka_TopicDescription_error(*topics);
        if !error.is_null() {
            check(rd::rd_kafka_error_code(error))?;
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(*topics);
        let is_none = id.is_null()
            || (rd::rd_kafka_Uuid_least_significant_bits(id) == 0 && rd::rd_kafka_Uuid_most_significant_bits(id) == 0);
        Ok(if is_none { None } else { Some(text(rd::rd_kafka_Uuid_base64str(id))) })
    }
}
