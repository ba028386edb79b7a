//! A validated source, and the handle of the threads that read it.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use millstream_catalog::Column;
use millstream_catalog::object::{Source, columns_schema};

use crate::chunk::{ChunkQueue, Positions};
use crate::error::{ConnectorError, Result};
use crate::files::{self, FilesSource};
use crate::format::{FieldsRead, RecordFormat, Rows};
#[cfg(feature = "kafka")]
use crate::kafka;
use crate::nexmark::{self, NexmarkSource};
use crate::options::Options;
use crate::start::Start;

/// Rung after something was put in the queue or a status changed; called on reader threads, so it must not block.
pub type Doorbell = Arc<dyn Fn() + Send + Sync>;

/// What becomes of a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It is kept as a [`crate::DeadLetter`]; the default.
    DeadLetter,
    /// It is dropped and counted in [`crate::Chunk::skipped`].
    Skip,
    /// Its partition stops before it, with an error in [`ReaderStatus`].
    Stop,
}

/// What operators do with rows that come after their window was closed. For the engine; nothing here drops rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateRows {
    /// They are counted; the default.
    Count,
    /// They are counted and kept in `millstream.late_rows`.
    Keep,
}

/// A partition is idle when nothing came for so long, unless `idle_timeout` says otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A source whose options, format and columns were checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    columns: Arc<[Column]>,
    schema: SchemaRef,
    idle_timeout: Option<Duration>,
    late_rows: LateRows,
    on_error: OnError,
    connector: Connector,
}

#[derive(Debug, Clone)]
enum Connector {
    #[cfg(feature = "kafka")]
    Kafka {
        source: kafka::KafkaSource,
        format: RecordFormat,
    },
    Files {
        source: FilesSource,
        format: RecordFormat,
    },
    Nexmark(NexmarkSource),
}

/// Names of the connectors, for hints.
const KNOWN: &str = if cfg!(feature = "kafka") { "filesystem, kafka, nexmark" } else { "filesystem, nexmark" };

impl SourceSpec {
    /// Checks the options and the format of a source. Nothing outside is asked: that is [`SourceSpec::probe`].
    ///
    /// # Errors
    /// 22023 for an unknown connector, option, format or value, listing the known ones; 0A000 for column types that the
    /// format cannot fill and for features that are not there yet.
    pub fn new(source: &Source) -> Result<Self> {
        let connector =
            source.options.iter().find(|(k, _)| k.eq_ignore_ascii_case("connector")).map(|(_, v)| v.as_str());
        match connector.map(str::to_ascii_lowercase).as_deref() {
            #[cfg(feature = "kafka")]
            Some("kafka") => {
                let mut options = Options::new("a kafka source", &source.options);
                options.take("connector");
                let kafka = kafka::KafkaSource::take(&mut options)?;
                let on_error = take_on_error(&mut options)?;
                let (idle_timeout, late_rows) = take_common(&mut options)?;
                options.finish("properties.*")?;
                let format = record_format("kafka", source, kafka.topic())?;
                let connector = Connector::Kafka { source: kafka, format };
                Ok(Self { on_error, ..Self::of(source, idle_timeout, late_rows, connector) })
            }
            #[cfg(not(feature = "kafka"))]
            Some("kafka") => Err(ConnectorError::unsupported("this server was built without the kafka connector")),
            Some("filesystem") => {
                let mut options = Options::new("a filesystem source", &source.options);
                options.take("connector");
                let files = FilesSource::take(&mut options, &source.columns)?;
                let on_error = take_on_error(&mut options)?;
                let (idle_timeout, late_rows) = take_common(&mut options)?;
                options.finish("")?;
                let format = record_format("filesystem", source, files.path())?;
                if let Some(word) = format.binary_word() {
                    let error = format!("ENCODE {word} of a filesystem source is not supported");
                    return Err(ConnectorError::unsupported(error).with_hint(
                        "records are lines: FORMAT PLAIN ENCODE JSON | CSV | BYTES, FORMAT DEBEZIUM ENCODE JSON",
                    ));
                }
                if format.word() == "UPSERT" {
                    return Err(ConnectorError::unsupported("FORMAT UPSERT of a filesystem source is not supported")
                        .with_hint("lines of files have no keys; FORMAT DEBEZIUM has them in its changes"));
                }
                let connector = Connector::Files { source: files, format };
                Ok(Self { on_error, ..Self::of(source, idle_timeout, late_rows, connector) })
            }
            Some("nexmark") => {
                let mut options = Options::new("a nexmark source", &source.options);
                options.take("connector");
                let nexmark = NexmarkSource::take(&mut options, &source.columns)?;
                let (idle_timeout, late_rows) = take_common(&mut options)?;
                options.finish("")?;
                if source.format.is_some() {
                    return Err(ConnectorError::option("a nexmark source has no FORMAT clause")
                        .with_hint("leave it out: events do not come as text"));
                }
                if !source.primary_key.is_empty() {
                    return Err(ConnectorError::option("a nexmark source has no primary key")
                        .with_hint("leave it out: each event is a new row"));
                }
                Ok(Self::of(source, idle_timeout, late_rows, Connector::Nexmark(nexmark)))
            }
            Some(other) => Err(ConnectorError::option(format!("unknown source connector \"{other}\""))
                .with_hint(format!("known connectors: {KNOWN}"))),
            None => Err(ConnectorError::option("option \"connector\" of a source is missing")
                .with_hint(format!("known connectors: {KNOWN}"))),
        }
    }

    fn of(source: &Source, idle_timeout: Option<Duration>, late_rows: LateRows, connector: Connector) -> Self {
        Self {
            columns: source.columns.clone().into(),
            schema: columns_schema(&source.columns),
            idle_timeout,
            late_rows,
            on_error: OnError::DeadLetter,
            connector,
        }
    }

    /// Names the consumer group that offsets are mirrored to, unless `properties.group.id` was given.
    pub fn with_group(self, group: &str) -> Self {
        match self.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { source, format } => {
                Self { connector: Connector::Kafka { source: source.with_group(group), format }, ..self }
            }
            Connector::Files { .. } | Connector::Nexmark(_) => self,
        }
    }

    /// The same, of which readers leave out all but `fields` of the columns of records there; those are NULL then.
    pub fn with_fields(&self, fields: FieldsRead) -> Self {
        let mut spec = self.clone();
        match &mut spec.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { format, .. } => *format = format.with_fields(fields),
            Connector::Files { format, .. } => *format = format.with_fields(fields),
            Connector::Nexmark(_) => {}
        }
        spec
    }

    /// Schema of all columns, included ones among them, in declared order.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Declared columns in order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// After how long without a record a partition no longer holds the watermark back; `None`: it always does.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout
    }

    /// What operators do with late rows of this source.
    pub fn late_rows(&self) -> LateRows {
        self.late_rows
    }

    /// What becomes of records that cannot be read.
    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// The topic or what else names the place outside, for `millstream.sources` and dead letters.
    pub fn topic(&self) -> &str {
        match &self.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { source, .. } => source.topic(),
            Connector::Files { source, .. } => source.path(),
            Connector::Nexmark(_) => "",
        }
    }

    /// The consumer group that positions are mirrored to; `None` for a connector that has none.
    pub fn group(&self) -> Option<String> {
        match &self.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { source, .. } => Some(source.group()),
            Connector::Files { .. } | Connector::Nexmark(_) => None,
        }
    }

    /// Whether a first reader starts at the present end, so that there is no history to read.
    pub fn starts_at_end(&self) -> bool {
        match &self.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { source, .. } => source.startup == kafka::Startup::Latest,
            Connector::Files { .. } | Connector::Nexmark(_) => false,
        }
    }

    /// Asks the outside whether the source exists; its partitions, ascending. Never makes a topic.
    ///
    /// # Errors
    /// 08001 if no broker answers within `timeout`, naming it; 42704 for an unknown topic; 28000 for refused credentials.
    pub fn probe(&self, timeout: Duration) -> Result<Vec<i32>> {
        match &self.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { source, .. } => source.probe(timeout),
            Connector::Files { source, .. } => Ok(source.files()?.into_keys().collect()),
            Connector::Nexmark(_) => Ok(vec![nexmark::PARTITION]),
        }
    }

    /// Starts to read `columns` (positions in [`SourceSpec::schema`], in any order) into `queue`. Returns at once: a broker
    /// that is away is retried for ever and told in [`Reader::status`].
    ///
    /// With empty `positions` the start mode decides where each partition starts. Otherwise partitions that are not in
    /// it are new and are read from their beginning, so that none of their records is missed.
    ///
    /// # Errors
    /// 22023 if the client library refuses the properties; XX000 for a column out of range.
    pub fn start(
        &self,
        columns: &[usize],
        positions: Positions,
        queue: ChunkQueue,
        doorbell: Doorbell,
    ) -> Result<Reader> {
        self.start_at(columns, Start { positions, ..Start::default() }, queue, doorbell)
    }

    /// As [`SourceSpec::start`], with all that can be said of where it starts and ends. Connectors whose positions cannot go
    /// have no use for [`Start::origin`] and [`Start::reset`].
    ///
    /// # Errors
    /// As [`SourceSpec::start`].
    pub fn start_at(&self, columns: &[usize], start: Start, queue: ChunkQueue, doorbell: Doorbell) -> Result<Reader> {
        let Start { positions, ends, origin, reset } = start;
        match &self.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { source, format } => {
                let task = kafka::ReadTask {
                    source: source.clone(),
                    format: format.clone(),
                    columns: columns.into(),
                    on_error: self.on_error,
                    queue,
                    doorbell,
                    ends,
                };
                let from = kafka::StartPoint { positions, topic_id: origin, reset };
                Ok(Reader(Box::new(kafka::KafkaReader::start(task, from)?)))
            }
            Connector::Files { source, format } => {
                let task = files::ReadTask {
                    source: source.clone(),
                    format: format.clone(),
                    columns: columns.into(),
                    on_error: self.on_error,
                    queue,
                    doorbell,
                    ends,
                };
                Ok(Reader(Box::new(files::FilesReader::start(task, positions)?)))
            }
            Connector::Nexmark(source) => {
                let task = nexmark::ReadTask {
                    source: source.clone(),
                    columns: columns.into(),
                    schema: Arc::new(self.schema.project(columns)?),
                    queue,
                    doorbell,
                    ends,
                };
                Ok(Reader(Box::new(nexmark::NexmarkReader::start(task, &positions)?)))
            }
        }
    }

    /// Reads `columns` from the start mode's positions to the end as of now, then ends. Blocks the calling thread.
    ///
    /// # Errors
    /// As [`SourceSpec::probe`]; later ones come through the iterator.
    pub fn read_bounded(&self, columns: &[usize]) -> Result<BoundedRead> {
        let schema = Arc::new(self.schema.project(columns)?);
        let inner: Box<dyn ReadBounded> = match &self.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka { source, format } => {
                Box::new(kafka::BoundedReader::start(source, format.decoder(columns)?, self.on_error)?)
            }
            Connector::Files { source, format } => {
                Box::new(files::BoundedReader::start(source, format.decoder(columns)?, self.on_error)?)
            }
            Connector::Nexmark(source) => {
                Box::new(nexmark::BoundedReader::new(source.clone(), columns, schema.clone()))
            }
        };
        Ok(BoundedRead { schema, inner })
    }
}

/// The format of a source that has records.
fn record_format(connector: &str, source: &Source, topic: &str) -> Result<RecordFormat> {
    let format = source.format.as_ref().ok_or_else(|| {
        ConnectorError::option(format!("a {connector} source needs a FORMAT clause"))
            .with_hint("add FORMAT PLAIN ENCODE JSON")
    })?;
    RecordFormat::new(source, format, topic)
}

fn take_on_error(options: &mut Options<'_>) -> Result<OnError> {
    let words = [("dead_letter", OnError::DeadLetter), ("skip", OnError::Skip), ("stop", OnError::Stop)];
    Ok(options.take_word("on_error", &words)?.unwrap_or(OnError::DeadLetter))
}

/// Takes the options that all sources have: after how long a partition is idle, and what operators do with late rows.
fn take_common(options: &mut Options<'_>) -> Result<(Option<Duration>, LateRows)> {
    let idle_timeout = options.take_duration("idle_timeout")?.unwrap_or(IDLE_TIMEOUT);
    let late_rows = options.take_word("late_rows", &[("count", LateRows::Count), ("keep", LateRows::Keep)])?;
    Ok((Some(idle_timeout).filter(|t| !t.is_zero()), late_rows.unwrap_or(LateRows::Count)))
}

/// A source that is being read. Dropping it stops it.
pub struct Reader(Box<dyn ReadSource>);

impl Reader {
    /// How far each partition is and what troubles it. Never blocks on the network.
    pub fn status(&self) -> ReaderStatus {
        self.0.status()
    }

    /// Per partition (partition, next offset to read, end of the partition); the end is as of the last second or so.
    pub fn lag(&self) -> Vec<(i32, i64, Option<i64>)> {
        self.status().partitions.iter().map(|p| (p.partition, p.next_offset, p.high_watermark)).collect()
    }

    /// Mirrors committed positions to the consumer group, so that lag tools work. Best effort and not waited for: our
    /// own positions are what counts.
    pub fn commit_offsets(&self, positions: &[(i32, i64)]) {
        self.0.commit_offsets(positions);
    }

    /// Forgets what was read and not taken, and reads on from `positions`; for the others as in [`SourceSpec::start`].
    ///
    /// # Errors
    /// As [`SourceSpec::start`].
    pub fn rewind(&mut self, positions: Positions) -> Result<()> {
        self.0.rewind(positions)
    }

    /// Ends the threads; chunks that wait in the queue stay there.
    pub fn stop(mut self) {
        self.0.stop();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What a connector's running reader can do; behind [`Reader`].
pub(crate) trait ReadSource: Send + Sync {
    fn status(&self) -> ReaderStatus;
    fn commit_offsets(&self, positions: &[(i32, i64)]);
    fn rewind(&mut self, positions: Positions) -> Result<()>;
    /// Idempotent.
    fn stop(&mut self);
}

/// A reader as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReaderStatus {
    /// By partition, ascending.
    pub partitions: Vec<PartitionStatus>,
    /// What the client reports of brokers, while it lasts.
    pub error: Option<String>,
}

/// A partition as its reader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    pub partition: i32,
    /// Next offset that the reader will put in the queue; ahead of what is committed.
    pub next_offset: i64,
    /// End of the partition for a consumer of committed records; `None` until it was asked.
    pub high_watermark: Option<i64>,
    /// Why the partition stands still, or what is being retried.
    pub error: Option<String>,
    /// Whether it stands still for good: its position is gone, the topic is another one, or a bad record came with
    /// `on_error = 'stop'`.
    pub stopped: bool,
}

/// The rows of a source up to its end as of the start. A batch may be empty: it is given when nothing came for a while,
/// so that the caller can see that its query was cancelled.
pub struct BoundedRead {
    schema: SchemaRef,
    inner: Box<dyn ReadBounded>,
}

/// What a connector's bounded read can do; behind [`BoundedRead`].
pub(crate) trait ReadBounded: Iterator<Item = Result<Rows>> + Send {
    fn unreadable(&self) -> u64;
}

impl BoundedRead {
    /// Schema of the batches.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Records so far that could not be read and are not in the batches.
    pub fn unreadable(&self) -> u64 {
        self.inner.unreadable()
    }
}

impl Iterator for BoundedRead {
    type Item = Result<Rows>;

    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next()
    }
}
