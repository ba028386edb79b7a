//! A consumer on librdkafka's own functions: manual assignment, messages in batches, nothing allocated for each of them
//! beyond what librdkafka itself does.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use crate::error::{ConnectorError, Result};
use crate::kafka::connection::config_error;

mod topic_id;

/// A librdkafka consumer. Its functions are thread-safe; one thread polls.
pub(super) struct Consumer {
    rk: *mut rd::rd_kafka_t,
    queue: *mut rd::rd_kafka_queue_t,
    /// What the callbacks write to; boxed, because librdkafka holds its address.
    opaque: Box<Opaque>,
}

// SAFETY: librdkafka's handles may be used from any thread, several at a time.
unsafe impl Send for Consumer {}
// SAFETY: as above.
unsafe impl Sync for Consumer {}

#[derive(Default)]
struct Opaque {
    trouble: Mutex<Option<Trouble>>,
}

/// The last thing that went wrong between client and brokers.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub code: Option<RDKafkaErrorCode>,
    pub text: String,
    pub all_brokers_down: bool,
}

impl Trouble {
    pub fn is_authentication(&self) -> bool {
        matches!(self.code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed))
    }
}

impl Consumer {
    /// Starts a client; it connects in the background.
    pub fn new(config: &ClientConfig) -> Result<Self> {
        let native = config.create_native_config().map_err(config_error)?;
        let opaque = Box::<Opaque>::default();
        let mut reason = [0 as c_char; 512];
        // SAFETY: the configuration is valid and unused elsewhere; the opaque outlives the client, which `drop` destroys
        // first; on success the client owns the configuration.
        let rk = unsafe {
            rd::rd_kafka_conf_set_opaque(native.ptr(), ptr::from_ref(&*opaque) as *mut c_void);
            rd::rd_kafka_conf_set_log_cb(native.ptr(), Some(on_log));
            rd::rd_kafka_conf_set_error_cb(native.ptr(), Some(on_error));
            rd::rd_kafka_new(rd::rd_kafka_type_t::RD_KAFKA_CONSUMER, native.ptr(), reason.as_mut_ptr(), reason.len())
        };
        if rk.is_null() {
            // SAFETY: librdkafka has written a string that ends with NUL.
            let reason = unsafe { CStr::from_ptr(reason.as_ptr()) }.to_string_lossy().into_owned();
            return Err(config_error(rdkafka::error::KafkaError::ClientCreation(reason)));
        }
        std::mem::forget(native);
        // SAFETY: the handle is valid; it has a group.id, so it has a consumer queue.
        let queue = unsafe {
            rd::rd_kafka_poll_set_consumer(rk);
            rd::rd_kafka_queue_get_consumer(rk)
        };
        let consumer = Self { rk, queue, opaque };
        if queue.is_null() {
            return Err(ConnectorError::internal("the kafka consumer has no queue"));
        }
        Ok(consumer)
    }

    /// Partitions of a topic, ascending.
    pub fn partitions(&self, topic: &str, timeout: Duration) -> Result<Vec<i32>, RDKafkaErrorCode> {
        Ok(self.metadata(topic, timeout)?.0)
    }

    /// Partitions of a topic, ascending, and the number of a broker that answers.
    fn metadata(&self, topic: &str, timeout: Duration) -> Result<(Vec<i32>, i32), RDKafkaErrorCode> {
        let name = c_string(topic)?;
        let mut metadata: *const rd::rd_kafka_metadata_t = ptr::null();
        // SAFETY: the topic handle and the metadata are destroyed once, after their last use.
        unsafe {
            let handle = rd::rd_kafka_topic_new(self.rk, name.as_ptr(), ptr::null_mut());
            if handle.is_null() {
                return Err(RDKafkaErrorCode::InvalidTopic);
            }
            let code = rd::rd_kafka_metadata(self.rk, 0, handle, &mut metadata, millis(timeout));
            rd::rd_kafka_topic_destroy(handle);
            check(code)?;
            let topics = slice((*metadata).topics, (*metadata).topic_cnt);
            let result = match topics.first() {
                Some(t) if is_error(t.err) => Err(t.err.into()),
                Some(t) => Ok(slice(t.partitions, t.partition_cnt).iter().map(|p| p.id).collect::<Vec<_>>()),
                None => Err(RDKafkaErrorCode::UnknownTopicOrPartition),
            };
            // That of a broker that was only known by its address is no number of it.
            let brokers = slice((*metadata).brokers, (*metadata).broker_cnt);
            let answered = (*metadata).orig_broker_id;
            let broker = if answered >= 0 { answered } else { brokers.first().map_or(answered, |b| b.id) };
            rd::rd_kafka_metadata_destroy(metadata);
            let mut partitions = result?;
            partitions.sort_unstable();
            Ok((partitions, broker))
        }
    }

    /// First offset of a partition and the offset after its last committed record, as the broker has them now.
    pub fn watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> Result<(i64, i64), RDKafkaErrorCode> {
        let name = c_string(topic)?;
        let (mut low, mut high) = (0, 0);
        // SAFETY: all pointers are to live values.
        let code = unsafe {
            rd::rd_kafka_query_watermark_offsets(
                self.rk,
                name.as_ptr(),
                partition,
                &mut low,
                &mut high,
                millis(timeout),
            )
        };
        check(code)?;
        Ok((low, high))
    }

    /// Offset of the first record of a time or later; `None` if there is none yet.
    pub fn offset_at(
        &self,
        topic: &str,
        partition: i32,
        ms: i64,
        timeout: Duration,
    ) -> Result<Option<i64>, RDKafkaErrorCode> {
        let list = PartitionList::new(topic, &[(partition, ms)])?;
        // SAFETY: the list has the one element that was added.
        unsafe {
            check(rd::rd_kafka_offsets_for_times(self.rk, list.0, millis(timeout)))?;
            let element = &*(*list.0).elems;
            check(element.err)?;
            Ok((element.offset >= 0).then_some(element.offset))
        }
    }

    /// Starts to fetch partitions from offsets, beside those that are fetched already.
    pub fn add(&self, topic: &str, partitions: &[(i32, i64)]) -> Result<(), RDKafkaErrorCode> {
        let list = PartitionList::new(topic, partitions)?;
        // SAFETY: the list is valid; an error is destroyed after it was read.
        unsafe {
            let error = rd::rd_kafka_incremental_assign(self.rk, list.0);
            if error.is_null() {
                return Ok(());
            }
            let code = rd::rd_kafka_error_code(error);
            rd::rd_kafka_error_destroy(error);
            check(code)
        }
    }

    /// Fetches a partition no more; what was fetched of it and not taken yet is forgotten.
    pub fn remove(&self, topic: &str, partition: i32) -> Result<(), RDKafkaErrorCode> {
        let list = PartitionList::new(topic, &[(partition, 0)])?;
        // SAFETY: the list is valid; an error is destroyed after it was read.
        unsafe {
            let error = rd::rd_kafka_incremental_unassign(self.rk, list.0);
            if error.is_null() {
                return Ok(());
            }
            let code = rd::rd_kafka_error_code(error);
            rd::rd_kafka_error_destroy(error);
            check(code)
        }
    }

    /// Goes on with a partition that is fetched already at another offset.
    pub fn move_to(&self, topic: &str, partition: i32, offset: i64) -> Result<(), RDKafkaErrorCode> {
        self.remove(topic, partition)?;
        self.add(topic, &[(partition, offset)])
    }

    /// Stops to fetch a partition.
    pub fn pause(&self, topic: &str, partition: i32) -> Result<(), RDKafkaErrorCode> {
        let list = PartitionList::new(topic, &[(partition, 0)])?;
        // SAFETY: the list is valid.
        check(unsafe { rd::rd_kafka_pause_partitions(self.rk, list.0) })
    }

    /// Sends positions to the group's coordinator without waiting for its answer.
    pub fn commit(&self, topic: &str, positions: &[(i32, i64)]) -> Result<(), RDKafkaErrorCode> {
        let list = PartitionList::new(topic, positions)?;
        // SAFETY: the list is valid; librdkafka copies it.
        check(unsafe { rd::rd_kafka_commit(self.rk, list.0, 1) })
    }

    /// Takes what is ready; waits up to `wait` for a first message if nothing is. What the batch held is freed.
    pub fn poll(&self, batch: &mut Batch, wait: Duration) {
        batch.clear();
        // SAFETY: the buffer has the capacity that is named, and librdkafka says how many pointers it has written.
        unsafe {
            let buffer = batch.0.as_mut_ptr();
            let mut n = rd::rd_kafka_consume_batch_queue(self.queue, 0, buffer, Batch::CAPACITY);
            if n <= 0 && !wait.is_zero() {
                // With room for more than one it would wait until all of it is full.
                n = rd::rd_kafka_consume_batch_queue(self.queue, millis(wait), buffer, 1);
            }
            batch.0.set_len(n.max(0) as usize);
        }
        if !batch.0.is_empty() {
            *self.opaque.trouble.lock() = None;
        }
    }

    /// Runs the callbacks of a client that is not polled.
    pub fn serve(&self) {
        self.poll_nothing();
    }

    fn poll_nothing(&self) {
        let mut batch = Batch::new();
        batch.clear();
        // SAFETY: as in `poll`. Without an assignment there are no messages, only callbacks.
        unsafe {
            let n = rd::rd_kafka_consume_batch_queue(self.queue, 0, batch.0.as_mut_ptr(), 1);
            batch.0.set_len(n.max(0) as usize);
        }
    }

    /// The last trouble with brokers, until a message or [`Consumer::clear_trouble`] shows that it is over.
    pub fn trouble(&self) -> Option<Trouble> {
        self.opaque.trouble.lock().clone()
    }

    /// Notes that a broker has answered.
    pub fn clear_trouble(&self) {
        *self.opaque.trouble.lock() = None;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // SAFETY: nothing uses the handles any more; the queue must go first.
        unsafe {
            if !self.queue.is_null() {
                rd::rd_kafka_queue_destroy(self.queue);
            }
            rd::rd_kafka_destroy_flags(self.rk, rd::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        }
    }
}

/// Messages taken at once. They live in librdkafka's memory until the batch is cleared or dropped, which must be before
/// their consumer is.
pub(super) struct Batch(Vec<*mut rd::rd_kafka_message_t>);

// SAFETY: messages may be used and destroyed on any thread.
unsafe impl Send for Batch {}

/// One thing that was taken.
pub(super) enum Event<'a> {
    Message(Message<'a>),
    /// The partition was read to its end, which is this offset now.
    End {
        partition: i32,
        offset: i64,
    },
    /// A fault of a partition, or of the whole client if that is -1.
    Fault {
        partition: i32,
        offset: i64,
        code: RDKafkaErrorCode,
        text: String,
    },
}

impl Batch {
    const CAPACITY: usize = 2048;

    pub fn new() -> Self {
        Self(Vec::with_capacity(Self::CAPACITY))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        for message in self.0.drain(..) {
            // SAFETY: each message is destroyed once.
            unsafe { rd::rd_kafka_message_destroy(message) };
        }
    }

    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        (0..self.0.len()).filter_map(|i| self.get(i))
    }

    /// The `i`-th event.
    pub fn get(&self, i: usize) -> Option<Event<'_>> {
        // SAFETY: messages are valid until the batch is cleared, which needs it mutably.
        let m = unsafe { &**self.0.get(i)? };
        Some(match m.err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Event::Message(Message(m)),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Event::End { partition: m.partition, offset: m.offset },
            code => {
                // SAFETY: of an error message this is a string.
                let text = unsafe { text(rd::rd_kafka_message_errstr(m)) };
                Event::Fault { partition: m.partition, offset: m.offset, code: code.into(), text }
            }
        })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A record in librdkafka's memory.
#[derive(Clone, Copy)]
pub(super) struct Message<'a>(&'a rd::rd_kafka_message_t);

impl<'a> Message<'a> {
    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    pub fn payload(&self) -> Option<&'a [u8]> {
        // SAFETY: payload and length are of this message and live as long as it.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// Milliseconds since 1970.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid.
        let ms = unsafe { rd::rd_kafka_message_timestamp(self.0, &mut kind) };
        (kind != rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && ms >= 0).then_some(ms)
    }

    /// Appends the headers; names that are not UTF-8 are left out.
    pub fn headers(&self, out: &mut Vec<(&'a str, Option<&'a [u8]>)>) {
        let mut headers = ptr::null_mut();
        // SAFETY: the headers belong to the message; each of its parts lives as long as it.
        unsafe {
            if is_error(rd::rd_kafka_message_headers(self.0, &mut headers)) {
                return;
            }
            for i in 0.. {
                let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
                if is_error(rd::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut len)) {
                    break;
                }
                if let Ok(name) = CStr::from_ptr(name).to_str() {
                    out.push((name, bytes(value as *mut c_void, len)));
                }
            }
        }
    }
}

/// A list of partitions with an offset each, destroyed with it.
struct PartitionList(*mut rd::rd_kafka_topic_partition_list_t);

impl PartitionList {
    fn new(topic: &str, partitions: &[(i32, i64)]) -> Result<Self, RDKafkaErrorCode> {
        let name = c_string(topic)?;
        // SAFETY: each added element is valid until the list is destroyed; only its offset is written.
        unsafe {
            let list = rd::rd_kafka_topic_partition_list_new(partitions.len() as c_int);
            for (partition, offset) in partitions {
                (*rd::rd_kafka_topic_partition_list_add(list, name.as_ptr(), *partition)).offset = *offset;
            }
            Ok(Self(list))
        }
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: the list is destroyed once.
        unsafe { rd::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

/// Called on librdkafka's own threads. Faults come here first, with the text that says what happened.
unsafe extern "C" fn on_log(rk: *const rd::rd_kafka_t, level: c_int, fac: *const c_char, buf: *const c_char) {
    const LOG_ERR: c_int = 3;
    const LOG_NOTICE: c_int = 5;
    // SAFETY: librdkafka hands over strings that end with NUL.
    let (facility, line) = unsafe { (text(fac), text(buf)) };
    if level <= LOG_NOTICE {
        tracing::debug!(target: "millstream::kafka", %facility, "{line}");
    }
    if level <= LOG_ERR && facility == "FAIL" {
        // SAFETY: the opaque lives until after the client is destroyed; it is null while the client is being made.
        let opaque = unsafe { (rd::rd_kafka_opaque(rk) as *const Opaque).as_ref() };
        if let Some(opaque) = opaque {
            note(opaque, None, strip_thread(&line).to_string());
        }
    }
}

/// Called while the consumer is polled.
unsafe extern "C" fn on_error(_rk: *mut rd::rd_kafka_t, err: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: the opaque is the one that was set; the reason ends with NUL.
    let (opaque, reason) = unsafe { ((opaque as *const Opaque).as_ref(), text(reason)) };
    let code = RDKafkaRespErr::try_from(err).ok().map(RDKafkaErrorCode::from);
    if let Some(opaque) = opaque {
        note(opaque, code, reason);
    }
}

fn note(opaque: &Opaque, code: Option<RDKafkaErrorCode>, text: String) {
    let mut trouble = opaque.trouble.lock();
    let all_down = code == Some(RDKafkaErrorCode::AllBrokersDown);
    match trouble.as_mut() {
        // "1/1 brokers are down" says less than what came before it.
        Some(before) if all_down => before.all_brokers_down = true,
        // A log line follows the error with the code: keep the code.
        Some(before) => {
            before.text = text;
            before.code = code.or(before.code);
        }
        None => *trouble = Some(Trouble { code, text, all_brokers_down: all_down }),
    }
}

/// Log lines start with the thread's name in brackets.
fn strip_thread(line: &str) -> &str {
    line.strip_prefix('[').and_then(|l| l.split_once("]: ")).map_or(line, |(_, rest)| rest)
}

fn check(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    if is_error(code) { Err(code.into()) } else { Ok(()) }
}

fn is_error(code: RDKafkaRespErr) -> bool {
    code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}

fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}

fn c_string(text: &str) -> Result<CString, RDKafkaErrorCode> {
    CString::new(text).map_err(|_| RDKafkaErrorCode::InvalidTopic)
}

/// # Safety
/// A string that ends with NUL, or null.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_string()
}

/// # Safety
/// `len` bytes at `start` that live as long as the result, or null.
unsafe fn bytes<'a>(start: *mut c_void, len: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's.
    Some(unsafe { std::slice::from_raw_parts(start as *const u8, len) })
}

/// # Safety
/// `len` elements at `start` that live as long as the result, or any pointer if there are none.
unsafe fn slice<'a, T>(start: *const T, len: c_int) -> &'a [T] {
    if start.is_null() || len <= 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(start, len as usize) }
}
