//! Rows to a topic, each exactly once: one transaction for the rows and for how far they go.
//!
//! The *marker* is the sequence number after the last row sent, kept as the offset of partition 0 of the topic in a consumer
//! group that nobody ever joins, `millstream-<store>-<sink>`, and committed in the transaction that carries the rows. So
//! the broker itself says which rows it has, also after a crash of either side between any two steps. The transactional id
//! has the same name: a writer that starts aborts what an older one left open, and the older one is fenced.
//!
//! **A broker that goes.** librdkafka (2.12; its issue 5511) keeps who coordinates the group; when that broker leaves the
//! cluster, a transaction may wait for it for ever. A setting of the producer makes that rare, see [`SETTINGS`], and a call
//! that hangs all the same is left behind, with its producer (`marker`).
//!
//! The group's metadata names the store again, so that an offset which somebody else committed is not taken for a marker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{ConnectorError, Result, sqlstate};
use crate::kafka::connection::{Connection, config_error};
use crate::kafka::marker::MarkerThread;
use crate::kafka::producer::{Producer, limited_config, message_limit};
use crate::sink::{ForeignMarker, Marker, Message, SinkIdentity, SinkWriter};
use crate::wait::Wait;

/// What the names of all marker groups begin with.
const PREFIX: &str = "millstream-";
/// The partition whose offset is the marker.
const MARKER_PARTITION: i32 = 0;
/// Longest time that the steps of a commit may take together. A cluster takes 9 s by default to see that a broker is gone;
/// the broker ends a transaction that was not committed after 60 s, of which its messages may have taken 30.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long the broker ends a transaction that is not committed, unless `properties.transaction.timeout.ms` says
/// otherwise: librdkafka's default.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that a writer waits for what an older one left.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often to look whether the last report of a delivery is served.
const SETTLE_CHECK: Duration = Duration::from_micros(100);
/// Longest time for asking how far the outside is.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that the marker may take of a commit's: about as long as a cluster takes to see that a broker is gone. What
/// takes longer may well never end, and a new producer does not wait for it.
const MARKER_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest time that a step is given, also if those before it have used up all.
const STEP_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Settings of the producer that `properties.*` may change: how long the client goes by a group's coordinator without
/// asking, and when it renews connections that carry nothing. The first is less than any cluster takes to see that a broker
/// is gone, and costs a question before a transaction that comes later than that. The second most often frees a client that was
/// left behind, and costs an idle sink a connection every few seconds.
const SETTINGS: [(&str, &str); 2] = [("metadata.max.age.ms", "1000"), ("connections.max.idle.ms", "6000")];

/// Writes a topic through one transactional producer.
pub(crate) struct TransactionalWriter {
    producer: Arc<Producer>,
    markers: MarkerThread,
    /// Of the marker's group; joins nothing and is assigned nothing.
    group: BaseConsumer,
    identity: SinkIdentity,
    topic: Arc<str>,
    message_bytes_max: usize,
    wait: Wait,
    /// When the open transaction began, and after how long the broker ends it.
    began: Option<Instant>,
    transaction_timeout: Duration,
    is_fenced: bool,
    /// Sequence number after the last message that is committed.
    committed: u64,
}

impl SinkIdentity {
    /// Name of the marker's group and of the transactions.
    fn name(&self) -> String {
        format!("{PREFIX}{}-{}", self.store, self.sink)
    }
}

impl TransactionalWriter {
    /// Starts a writer: fences older ones and waits until their transactions are committed or aborted.
    ///
    /// # Errors
    /// 22023 if the client refuses a property, 08006 if the broker does not answer in time, 28000 if it does not allow
    /// transactions.
    pub fn start(connection: &Connection, topic: &Arc<str>, identity: &SinkIdentity, wait: &Wait) -> Result<Self> {
        let name = identity.name();
        wait.begin(format!(
            "kafka topic \"{topic}\" on {} waits for the start of transactions",
            connection.bootstrap()
        ));
        let message_bytes_max = message_limit(connection, topic);
        let mut config = limited_config(connection, message_bytes_max);
        config.set("transactional.id", &name).set("enable.idempotence", "true").set("acks", "all");
        for (setting, value) in SETTINGS {
            if config.get(setting).is_none() {
                config.set(setting, value);
            }
        }
        let transaction_timeout = config.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok());
        let transaction_timeout = transaction_timeout.map_or(TRANSACTION_TIMEOUT, Duration::from_millis);
        let producer = Arc::new(Producer::of_config(&config, connection, wait)?);
        let markers = MarkerThread::start(producer.clone())?;
        let group = group_consumer(connection, &name)?;
        let (identity, topic) = (identity.clone(), topic.clone());
        let mut writer = Self {
            producer,
            markers,
            group,
            identity,
            topic,
            message_bytes_max,
            wait: wait.clone(),
            began: None,
            transaction_timeout,
            is_fenced: false,
            committed: 0,
        };
        writer
            .producer
            .inner()
            .init_transactions(START_TIMEOUT)
            .map_err(|e| writer.failed("did not begin transactions", &e))?;
        writer.wait.end();
        Ok(writer)
    }

    fn begin(&mut self) -> Result<()> {
        if self.began.is_none() {
            let begun = self.producer.inner().begin_transaction();
            begun.map_err(|e| self.failed("did not begin a transaction", &e))?;
            self.began = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether the broker may have ended the open transaction by itself. It then answers as if somebody else had come.
    fn is_overdue(&self) -> bool {
        self.began.is_some_and(|began| began.elapsed() >= self.transaction_timeout)
    }

    /// What is waited for from here on, for those who look on.
    fn wait_for(&self, what: &str) {
        self.wait.begin(format!("kafka topic \"{}\" on {} waits for {what}", self.topic, self.producer.bootstrap()));
    }

    /// Waits until no message is on its way. The client's own waiting in a commit polls for the events that another thread
    /// serves already, and sleeps a tenth of a second where that thread took the last of them. What went wrong with a
    /// message, the commit tells.
    fn wait_for_deliveries(&self, deadline: Instant) {
        self.wait.begin(self.producer.wait_for_deliveries(&self.topic));
        if self.producer.flush(&self.topic, left_until(deadline)).is_err() {
            return;
        }
        // The last report is being served: its message counts until that is over.
        while self.producer.inner().in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(SETTLE_CHECK);
        }
    }

    /// What an error means, with what the client said before it.
    fn failed(&mut self, what: &str, error: &KafkaError) -> ConnectorError {
        let fatal = self.producer.inner().client().fatal_error().map(|(code, _)| code);
        let code = match fatal.or(error.rdkafka_error_code()).unwrap_or(RDKafkaErrorCode::Fail) {
            // A transaction says only that messages were not delivered; why, each of them was told.
            RDKafkaErrorCode::Inconsistent => self.producer.delivery_error().unwrap_or(RDKafkaErrorCode::Inconsistent),
            code => code,
        };
        let at = format!("kafka topic \"{}\" on {}", self.topic, self.producer.bootstrap());
        let name = self.identity.name();
        let said = match error {
            KafkaError::Transaction(e) => e.string(),
            e => e.to_string(),
        };
        let error = match code {
            RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch
                if self.is_overdue() =>
            {
                // A server that stood still for so long, say: nobody else need have written.
                ConnectorError::new(
                    sqlstate::CONNECTION_FAILURE,
                    format!(
                        "{at} {what}: it took longer than transaction.timeout.ms ({}), so the broker ended it",
                        self.transaction_timeout.as_millis()
                    ),
                )
            }
            RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch => {
                self.is_fenced = true;
                ConnectorError::new(
                    sqlstate::OBJECT_IN_USE,
                    format!("{at} is written by another server with the same data ({name})"),
                )
                .with_hint("stop the other server, then ALTER SINK ... RESUME; two servers must not run on one data directory's copies")
            }
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                ConnectorError::new(
                    sqlstate::INVALID_AUTHORIZATION,
                    format!("{at} {what}: the broker does not allow it"),
                )
                .with_hint(format!(
                    "allow WRITE and DESCRIBE on transactional id {name}, or write delivery = 'at_least_once'"
                ))
            }
            RDKafkaErrorCode::GroupAuthorizationFailed => ConnectorError::new(
                sqlstate::INVALID_AUTHORIZATION,
                format!("{at} {what}: the broker does not allow it"),
            )
            .with_hint(format!("allow READ on group {name}, or write delivery = 'at_least_once'")),
            RDKafkaErrorCode::TopicAuthorizationFailed => ConnectorError::new(
                sqlstate::INVALID_AUTHORIZATION,
                format!("{at} {what}: the broker does not allow it"),
            )
            .with_hint("allow WRITE on the topic"),
            RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion => {
                ConnectorError::unsupported(format!("{at} {what}: the broker has no transactions"))
                    .with_hint("write delivery = 'at_least_once'")
            }
            RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::MessageTimedOut => {
                ConnectorError::new(sqlstate::CONNECTION_FAILURE, format!("{at} {what} in time"))
            }
            RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
                ConnectorError::new(sqlstate::UNDEFINED_OBJECT, format!("{at} does not exist"))
            }
            _ => ConnectorError::new(sqlstate::IO_ERROR, format!("{at} {what}: {said}")),
        };
        match self.producer.trouble() {
            Some(trouble) => error.with_detail(trouble),
            None => error,
        }
    }
}

impl SinkWriter for TransactionalWriter {
    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    fn marker(&mut self) -> Result<Option<Marker>> {
        self.wait_for("the sink's marker");
        let found =
            committed(&self.group, &self.topic).map_err(|e| self.failed("did not tell the sink's marker", &e))?;
        self.wait.end();
        Ok(Some(match found {
            None => Marker::Absent,
            Some((sequence, metadata)) if metadata == self.identity.store => Marker::At(sequence),
            Some((_, metadata)) => Marker::Foreign(metadata),
        }))
    }

    fn send(&mut self, messages: Vec<Message>) -> Result<()> {
        self.begin()?;
        self.wait.begin(self.producer.wait_for_deliveries(&self.topic));
        for message in &messages {
            self.producer.send(&self.topic, None, message.key.as_deref(), message.payload.as_deref())?;
        }
        Ok(())
    }

    fn commit(&mut self, next: u64) -> Result<()> {
        self.begin()?;
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        let mut marker = TopicPartitionList::new();
        let at = i64::try_from(next).map_err(|_| ConnectorError::internal("a sequence number is too large"))?;
        let added = marker.add_partition_offset(&self.topic, MARKER_PARTITION, Offset::Offset(at));
        added.map_err(|e| self.failed("has no partition for the marker", &e))?;
        if let Some(mut entry) = marker.find_partition(&self.topic, MARKER_PARTITION) {
            entry.set_metadata(&self.identity.store);
        }
        let metadata = self.group.group_metadata();
        let metadata = metadata.ok_or_else(|| ConnectorError::internal("the marker's group has no metadata"))?;
        // Messages before offsets: a broker that gets offsets first has to know the group in vain if no message follows.
        self.wait_for("the coordinator of the sink's marker");
        let sent = self.markers.put(marker, metadata, MARKER_TIMEOUT);
        sent.map_err(|e| self.failed("did not take the sink's marker", &e))?;
        self.wait_for_deliveries(deadline);
        self.wait_for("the end of a transaction");
        let committed = self.producer.inner().commit_transaction(left_until(deadline));
        committed.map_err(|e| self.failed("did not commit a transaction", &e))?;
        self.wait.end();
        self.began = None;
        self.committed = next;
        Ok(())
    }

    fn acknowledged(&mut self, _wait: Duration) -> Result<u64> {
        Ok(self.committed)
    }

    fn is_fenced(&self) -> bool {
        self.is_fenced
    }
}

/// What is left of the time for a commit. Never nothing: the client takes that for a question that it need not wait for.
fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(STEP_TIMEOUT_MIN)
}

/// Markers on a topic that other stores have set, by the groups that the broker shows.
///
/// # Errors
/// 08006 if the broker does not answer, 28000 if it does not list groups.
pub(crate) fn foreign_markers(
    connection: &Connection,
    topic: &str,
    identity: &SinkIdentity,
) -> Result<Vec<ForeignMarker>> {
    let failed = |e: KafkaError| {
        ConnectorError::new(
            sqlstate::CONNECTION_FAILURE,
            format!("kafka broker {} did not tell who writes topic \"{topic}\": {e}", connection.bootstrap()),
        )
        .with_hint(
            "the sink needs DESCRIBE on the cluster's groups to see whether another server has written the topic",
        )
    };
    let own = format!("{PREFIX}{}-", identity.store);
    let consumer = group_consumer(connection, &identity.name())?;
    let groups = consumer.fetch_group_list(None, ASK_TIMEOUT).map_err(failed)?;
    let names = groups.groups().iter().map(|group| group.name().to_string());
    let mut found = Vec::new();
    for name in names.filter(|name| name.starts_with(PREFIX) && !name.starts_with(&own)) {
        let Some((store, _)) = name[PREFIX.len()..].rsplit_once('-') else { continue };
        let other = group_consumer(connection, &name)?;
        match committed(&other, topic).map_err(failed)? {
            Some((sequence, metadata)) if metadata == store => found.push(ForeignMarker { group: name, sequence }),
            _ => {}
        }
    }
    Ok(found)
}

/// Removes the marker's group of a sink that has made rows up to number `made`, unless the marker was set by somebody else.
///
/// # Errors
/// 08006 if the broker does not answer in time, 28000 if it does not allow to delete the group.
pub(crate) fn forget(connection: &Connection, topic: &str, identity: &SinkIdentity, made: u64) -> Result<()> {
    let name = identity.name();
    let at = format!("kafka broker {}", connection.bootstrap());
    let failed = |e: KafkaError| {
        let error = format!("{at} did not remove group {name}: {e}");
        ConnectorError::new(sqlstate::CONNECTION_FAILURE, error)
    };
    match committed(&group_consumer(connection, &name)?, topic).map_err(failed)? {
        Some((sequence, metadata)) if metadata == identity.store && sequence <= made => {}
        _ => return Ok(()),
    }
    let admin: AdminClient<DefaultClientContext> = connection.config(&[], &[]).create().map_err(config_error)?;
    let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
    let results = block_on(admin.delete_groups(&[&name], &options)).map_err(failed)?;
    match results.into_iter().find_map(|result| result.err()) {
        None | Some((_, RDKafkaErrorCode::GroupIdNotFound)) => Ok(()),
        Some((_, RDKafkaErrorCode::GroupAuthorizationFailed)) => Err(ConnectorError::new(
            sqlstate::INVALID_AUTHORIZATION,
            format!("{at} does not allow to remove group {name}"),
        )
        .with_hint("allow DELETE on the group")),
        Some((_, code)) => Err(failed(KafkaError::AdminOp(code))),
    }
}

/// The marker of a group and its metadata.
fn committed(group: &BaseConsumer, topic: &str) -> Result<Option<(u64, String)>, KafkaError> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, MARKER_PARTITION);
    let told = group.committed_offsets(asked, ASK_TIMEOUT)?;
    let Some(entry) = told.find_partition(topic, MARKER_PARTITION) else { return Ok(None) };
    entry.error()?;
    Ok(match entry.offset() {
        Offset::Offset(offset) => u64::try_from(offset).ok().map(|sequence| (sequence, entry.metadata().to_string())),
        _ => None,
    })
}

fn group_consumer(connection: &Connection, group: &str) -> Result<BaseConsumer> {
    let fixed = [("enable.auto.commit", "false"), ("group.id", group), ("isolation.level", "read_committed")];
    let config = connection.config(&[], &fixed);
    config.create::<BaseConsumer>().map_err(config_error)
}
