//! Brokers and client properties, checked once; and what a client's errors mean to the user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{ConnectorError, Result, sqlstate};
use crate::kafka::GROUP;
use crate::kafka::native::{Consumer, Trouble};
use crate::options::Options;

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    bootstrap: Arc<str>,
    properties: Arc<BTreeMap<String, String>>,
}

/// Properties that would break what the reader promises, or that reach past the client.
const FORBIDDEN: [&str; 11] = [
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.protocol",
    "log.queue",
    "metadata.broker.list",
    "plugin.library.paths",
    "transactional.id",
];

/// Memory for records that were fetched and not yet read, of one source.
const FETCHED_BYTES_MAX: usize = 32 << 20;

impl Connection {
    /// Takes `properties.*` of a source or sink.
    pub fn take(options: &mut Options<'_>) -> Result<Self> {
        let bootstrap = options.take_alias("properties.bootstrap.server", "properties.bootstrap.servers")?;
        let bootstrap =
            bootstrap.filter(|b| !b.trim().is_empty()).ok_or_else(|| options.missing("properties.bootstrap.server"))?;
        let properties = options.take_prefixed("properties.");
        if let Some(name) = properties.keys().find(|k| FORBIDDEN.contains(&k.as_str())) {
            return Err(ConnectorError::option(format!("option \"properties.{name}\" cannot be set"))
                .with_hint("the server sets it, because what it promises depends on it"));
        }
        Ok(Self::new(bootstrap, properties))
    }

    pub fn new(bootstrap: &str, properties: BTreeMap<String, String>) -> Self {
        Self { bootstrap: bootstrap.trim().into(), properties: Arc::new(properties) }
    }

    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Our defaults, then the user's properties, then what cannot be otherwise.
    pub fn config(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "millstream").set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in self.properties.iter() {
            config.set(name, value);
        }
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        config.set("bootstrap.servers", self.bootstrap());
        config
    }

    /// Settings of a consumer. A full queue stops fetching for `fetch.queue.backoff.ms`: with librdkafka's default of a
    /// second a reader that was held back would stand still long after there is room again.
    pub fn consumer_config(&self, consumers: usize) -> ClientConfig {
        let budget_kb = (FETCHED_BYTES_MAX / consumers.max(1) / 1024).max(1024).to_string();
        self.config(
            &[
                ("fetch.error.backoff.ms", "100"),
                ("fetch.queue.backoff.ms", "2"),
                ("fetch.wait.max.ms", "100"),
                ("queued.max.messages.kbytes", &budget_kb),
                ("queued.min.messages", "30000"),
                ("topic.metadata.refresh.interval.ms", "5000"),
            ],
            &[
                ("allow.auto.create.topics", "false"),
                ("auto.offset.reset", "error"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("enable.partition.eof", "true"),
            ],
        )
    }

    /// Partitions of a topic, ascending, from the first broker that answers. Never makes the topic.
    pub fn probe(&self, topic: &str, timeout: Duration) -> Result<Vec<i32>> {
        let mut config = self.consumer_config(1);
        config.set("group.id", config.get("group.id").unwrap_or(GROUP).to_string());
        self.probe_with(&Consumer::new(&config)?, topic, timeout)
    }

    /// The same with a client that has nothing assigned yet.
    pub fn probe_with(&self, consumer: &Consumer, topic: &str, timeout: Duration) -> Result<Vec<i32>> {
        // A few attempts to connect: a connection that is refused need not wait for the whole timeout.
        const REFUSED_AFTER: Duration = Duration::from_secs(2);
        let started = Instant::now();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            match consumer.partitions(topic, left.min(Duration::from_millis(500))) {
                Ok(partitions) if !partitions.is_empty() => return Ok(partitions),
                // A topic that is just being made has no partitions yet.
                Ok(_) => {}
                Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                    return Err(self.unknown_topic(topic));
                }
                Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    return Err(ConnectorError::new(
                        sqlstate::INVALID_AUTHORIZATION,
                        format!("kafka broker {} does not allow topic \"{topic}\"", self.bootstrap),
                    ));
                }
                Err(RDKafkaErrorCode::InvalidTopic) => {
                    return Err(ConnectorError::option(format!("\"{topic}\" is not a valid name of a kafka topic")));
                }
                Err(_) => {}
            }
            consumer.serve();
            let trouble = consumer.trouble();
            let refused = trouble.as_ref().is_some_and(|t| t.all_brokers_down) && started.elapsed() >= REFUSED_AFTER;
            if started.elapsed() >= timeout || refused || trouble.as_ref().is_some_and(Trouble::is_authentication) {
                return Err(self.unreachable(trouble));
            }
        }
    }

    pub fn unknown_topic(&self, topic: &str) -> ConnectorError {
        ConnectorError::new(
            sqlstate::UNDEFINED_OBJECT,
            format!("kafka topic \"{topic}\" does not exist on {}", self.bootstrap),
        )
        .with_hint("make the topic first; the server never makes topics")
    }

    fn unreachable(&self, trouble: Option<Trouble>) -> ConnectorError {
        let error = match &trouble {
            Some(t) if t.is_authentication() => ConnectorError::new(
                sqlstate::INVALID_AUTHORIZATION,
                format!("kafka broker {} refused the credentials", self.bootstrap),
            ),
            _ => ConnectorError::new(
                sqlstate::CANNOT_CONNECT,
                format!("kafka broker {} cannot be reached", self.bootstrap),
            )
            .with_hint(
                "check properties.bootstrap.server, and properties.security.protocol if the broker uses TLS or SASL",
            ),
        };
        match trouble {
            Some(t) => error.with_detail(t.text),
            None => error,
        }
    }
}

/// Makes a topic, for the demo, benchmarks and tests; statements never do. A topic that is there already is left as it is.
///
/// # Errors
/// 08001 if the broker cannot be reached in time, 58030 if it refuses.
pub fn create_topic(
    bootstrap: &str,
    properties: &BTreeMap<String, String>,
    topic: &str,
    partitions: i32,
    timeout: Duration,
) -> Result<()> {
    let connection = Connection::new(bootstrap, properties.clone());
    let admin: AdminClient<DefaultClientContext> = connection.config(&[], &[]).create().map_err(config_error)?;
    let topics = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
    let options = AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
    match futures::executor::block_on(admin.create_topics(&topics, &options)) {
        Ok(results) => match results.into_iter().find_map(std::result::Result::err) {
            None | Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
            Some((_, code)) => Err(ConnectorError::new(
                sqlstate::IO_ERROR,
                format!("kafka topic \"{topic}\" cannot be made on {bootstrap}: {code}"),
            )),
        },
        Err(e) => Err(ConnectorError::new(
            sqlstate::CANNOT_CONNECT,
            format!("kafka topic \"{topic}\" cannot be made on {bootstrap}: {e}"),
        )),
    }
}

/// What librdkafka says of a property.
pub(super) fn config_error(e: KafkaError) -> ConnectorError {
    match e {
        KafkaError::ClientConfig(_, reason, name, value) => {
            let reason = reason.trim().trim_end_matches('.').to_string();
            ConnectorError::option(format!("option \"properties.{name}\" cannot be \"{value}\": {reason}"))
                .with_hint("properties.* are handed to librdkafka; see its list of configuration properties")
        }
        KafkaError::ClientCreation(reason) => {
            ConnectorError::option(format!("the kafka client cannot be made: {reason}"))
                .with_hint("check the properties.* options")
        }
        other => ConnectorError::internal(format!("the kafka client cannot be made: {other}")),
    }
}
