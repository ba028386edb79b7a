//! Messages to topics: pipelined, acknowledged by all replicas, counted.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};

use crate::error::{ConnectorError, Result, sqlstate};
use crate::kafka::connection::{Connection, config_error};
use crate::wait::Wait;

/// A producer for any number of topics of one cluster. Idempotent: the client's own retries neither double nor reorder.
pub struct Producer {
    inner: ThreadedProducer<Deliveries>,
    bootstrap: String,
}

/// What was acknowledged; the producer's own thread counts.
#[derive(Default)]
pub(super) struct Deliveries {
    state: Mutex<State>,
    changed: Condvar,
    /// Who looks on learns what the client says.
    wait: Wait,
}

#[derive(Default)]
struct State {
    sent: u64,
    done: u64,
    /// Messages of the parts that are not acknowledged whole, oldest first, and the number of the first of these parts.
    parts: VecDeque<u64>,
    first_part: usize,
    error: Option<RDKafkaErrorCode>,
    /// Why brokers cannot be reached, as the client last said.
    trouble: Option<String>,
    waiting: bool,
}

/// Bytes of a batch unless client or topic say otherwise: librdkafka's default.
const BATCH_BYTES_MAX: usize = 1_000_000;
/// What a batch of one record takes beside its key and payload, at most.
const RECORD_BYTES: usize = 128;
/// The least that the client takes as the size of a batch.
const BATCH_BYTES_MIN: usize = 1000;
/// How long to wait for what the topic allows.
const LIMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a message may stay unacknowledged before it fails, unless `properties.message.timeout.ms` says otherwise.
const MESSAGE_TIMEOUT_MS: &str = "30000";

impl Producer {
    /// A producer with `properties` handed to librdkafka. Connects in the background.
    ///
    /// # Errors
    /// 22023 if librdkafka refuses a property.
    pub fn new(bootstrap: &str, properties: &BTreeMap<String, String>) -> Result<Self> {
        Self::connect(&Connection::new(bootstrap, properties.clone()))
    }

    pub(super) fn connect(connection: &Connection) -> Result<Self> {
        Self::of_config(&producer_config(connection), connection, &Wait::default())
    }

    /// The same that tells through `wait` why brokers cannot be reached.
    pub(super) fn of_config(config: &ClientConfig, connection: &Connection, wait: &Wait) -> Result<Self> {
        wait.trouble(None);
        let context = Deliveries { wait: wait.clone(), ..Deliveries::default() };
        let inner = ThreadedProducer::from_config_and_context(config, context).map_err(config_error)?;
        Ok(Self { inner, bootstrap: connection.bootstrap().to_string() })
    }

    pub(super) fn inner(&self) -> &ThreadedProducer<Deliveries> {
        &self.inner
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Why brokers cannot be reached, as the client last said.
    pub(super) fn trouble(&self) -> Option<String> {
        self.context().state.lock().trouble.clone()
    }

    /// Why a message could not be delivered, of the first for which that is so.
    pub(super) fn delivery_error(&self) -> Option<RDKafkaErrorCode> {
        self.context().state.lock().error
    }

    /// Hands a message to the client, which copies it; waits while its queue is full. Without a partition the key's hash
    /// chooses, or chance if there is no key.
    ///
    /// # Errors
    /// 54000 if the message is larger than the client or broker allows, 08006 if earlier ones cannot be delivered.
    pub fn send(&self, topic: &str, partition: Option<i32>, key: Option<&[u8]>, payload: Option<&[u8]>) -> Result<()> {
        let part = self.context().count_sent();
        let mut record: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(topic, part);
        record.partition = partition;
        record.key = key;
        record.payload = payload;
        loop {
            match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    let mut state = self.context().state.lock();
                    if let Some(code) = state.error {
                        state.not_sent(part);
                        return Err(self.failed(topic, code, &state));
                    }
                    state.waiting = true;
                    self.context().changed.wait_for(&mut state, Duration::from_millis(100));
                }
                Err((e, _)) => {
                    let mut state = self.context().state.lock();
                    state.not_sent(part);
                    let code = e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    return Err(self.failed(topic, code, &state));
                }
            }
        }
    }

    /// Waits until everything sent so far is acknowledged.
    ///
    /// # Errors
    /// 08006 if it is not within `timeout` or a message was given up, 54000 if one was refused as too large.
    pub fn flush(&self, topic: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut state = self.context().state.lock();
        loop {
            if let Some(code) = state.error {
                return Err(self.failed(topic, code, &state));
            }
            if state.done >= state.sent {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.failed(topic, RDKafkaErrorCode::OperationTimedOut, &state));
            }
            state.waiting = true;
            self.context().changed.wait_until(&mut state, deadline.min(Instant::now() + Duration::from_millis(200)));
        }
    }

    /// What is waited for while messages are on their way, as [`Wait::begin`] takes it.
    pub(super) fn wait_for_deliveries(&self, topic: &str) -> String {
        format!("kafka topic \"{topic}\" on {} has not acknowledged messages", self.bootstrap)
    }

    /// Messages sent and not acknowledged yet.
    pub fn in_flight(&self) -> u64 {
        let state = self.context().state.lock();
        state.sent - state.done
    }

    /// Ends a part: what is sent from here on is another one.
    pub(super) fn end_part(&self) {
        self.context().state.lock().parts.push_back(0);
    }

    /// Parts, from the first, of which every message is acknowledged. Waits for one more to be, at most `wait`, if there is
    /// one to wait for.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub(super) fn acknowledged_parts(&self, topic: &str, wait: Duration) -> Result<usize> {
        let deadline = Instant::now() + wait;
        let mut state = self.context().state.lock();
        let before = state.first_part;
        loop {
            if let Some(code) = state.error {
                return Err(self.failed(topic, code, &state));
            }
            state.take_whole_parts();
            if state.first_part > before || state.parts.len() <= 1 || Instant::now() >= deadline {
                return Ok(state.first_part);
            }
            state.waiting = true;
            self.context().changed.wait_until(&mut state, deadline);
        }
    }

    fn context(&self) -> &Deliveries {
        use rdkafka::producer::Producer as _;
        self.inner.client().context()
    }

    fn failed(&self, topic: &str, code: RDKafkaErrorCode, state: &State) -> ConnectorError {
        let at = format!("kafka topic \"{topic}\" on {}", self.bootstrap);
        let error = match code {
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
                ConnectorError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, format!("{at} refused a message as too large"))
                    .with_hint("raise properties.message.max.bytes and the topic's max.message.bytes")
            }
            RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::OperationTimedOut => {
                ConnectorError::new(sqlstate::CONNECTION_FAILURE, format!("{at} did not acknowledge messages in time"))
            }
            RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
                ConnectorError::new(sqlstate::UNDEFINED_OBJECT, format!("{at} does not exist"))
            }
            code => ConnectorError::new(sqlstate::IO_ERROR, format!("{at} did not take a message: {code}")),
        };
        match &state.trouble {
            Some(trouble) => error.with_detail(trouble.clone()),
            None => error,
        }
    }
}

impl Deliveries {
    /// Counts a message of the open part, whose number it returns.
    fn count_sent(&self) -> usize {
        let mut state = self.state.lock();
        state.sent += 1;
        if state.parts.is_empty() {
            state.parts.push_back(0);
        }
        if let Some(open) = state.parts.back_mut() {
            *open += 1;
        }
        state.first_part + state.parts.len() - 1
    }
}

impl State {
    /// A message of a part need not be waited for.
    fn done_with(&mut self, part: usize) {
        if let Some(left) = part.checked_sub(self.first_part).and_then(|at| self.parts.get_mut(at)) {
            *left = left.saturating_sub(1);
        }
    }

    /// A message was not handed over after all.
    fn not_sent(&mut self, part: usize) {
        self.sent -= 1;
        self.done_with(part);
    }

    /// Forgets the parts that are acknowledged whole; the last is still open.
    fn take_whole_parts(&mut self) {
        while self.parts.len() > 1 && self.parts.front() == Some(&0) {
            self.parts.pop_front();
            self.first_part += 1;
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if (level as i32) <= RDKafkaLogLevel::Notice as i32 {
            tracing::debug!(target: "millstream::kafka", facility, "{line}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "millstream::kafka", %error, "{reason}");
        self.wait.trouble(Some(reason.to_string()));
        let mut state = self.state.lock();
        state.trouble = Some(reason.to_string());
        // After a fatal error the client takes no message any more.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            state.error = Some(RDKafkaErrorCode::Fatal);
        }
        self.changed.notify_all();
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, part: usize) {
        let mut state = self.state.lock();
        state.done += 1;
        state.done_with(part);
        match result {
            Ok(_) => {
                if state.trouble.take().is_some() {
                    self.wait.trouble(None);
                }
            }
            Err((e, _)) => {
                state.error.get_or_insert(e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
            }
        }
        let whole = state.parts.len() > 1 && state.parts.front() == Some(&0);
        if state.waiting
            && (whole || state.done >= state.sent || state.error.is_some() || state.done.is_multiple_of(1024))
        {
            state.waiting = false;
            self.changed.notify_all();
        }
    }
}

/// Settings of a producer.
pub(super) fn producer_config(connection: &Connection) -> ClientConfig {
    connection.config(
        &[
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("linger.ms", "0.5"),
            ("message.timeout.ms", MESSAGE_TIMEOUT_MS),
            ("queue.buffering.max.kbytes", "65536"),
            ("retry.backoff.ms", "20"),
        ],
        &[],
    )
}

/// The same for messages up to so many bytes: a batch of more than the topic allows would be refused whole.
pub(super) fn limited_config(connection: &Connection, message_bytes_max: usize) -> ClientConfig {
    let mut config = producer_config(connection);
    config.set("message.max.bytes", (message_bytes_max + RECORD_BYTES).max(BATCH_BYTES_MIN).to_string());
    config
}

/// The most bytes of key and payload that a message to a topic may have, by the client's settings and the topic's as far as
/// the broker tells them.
pub(super) fn message_limit(connection: &Connection, topic: &str) -> usize {
    let config = connection.config(&[], &[]);
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let client = config.get("message.max.bytes").and_then(number).unwrap_or(BATCH_BYTES_MAX);
    let told = config.create::<AdminClient<DefaultClientContext>>().ok().and_then(|admin| {
        let options = AdminOptions::new().request_timeout(Some(LIMIT_TIMEOUT));
        let topics = [ResourceSpecifier::Topic(topic)];
        let described = futures::executor::block_on(admin.describe_configs(&topics, &options)).ok()?;
        let entries = described.into_iter().next()?.ok()?;
        number(entries.get("max.message.bytes")?.value.as_deref()?)
    });
    told.unwrap_or(client).min(client).saturating_sub(RECORD_BYTES).max(1)
}
