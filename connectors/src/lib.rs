//! The outside world: where records come from, where rows go, and the formats they travel in.
//!
//! * [`source`]: a validated source ([`SourceSpec`]), and what reading one gives: [`Chunk`]s in a bounded [`ChunkQueue`].
//! * [`alter`]: which options of a source may change.
//! * [`sink`]: a validated sink ([`SinkSpec`]): rows become [`Message`]s, a [`SinkWriter`] delivers them.
//! * [`wait`]: what a writer waits for, for those who look on.
//! * [`format`](mod@format): bytes to Arrow and back, one row at a time so that a bad record hurts only itself.
//! * [`start`]: where a reader starts, and what it does where that place is gone.
//! * `kafka`: the only module that knows librdkafka; without the feature `kafka` the rest still builds.
//! * [`registry`]: schemas that records are written by, from a schema registry or a file.
//! * `files`: lines of files.
//! * `nexmark`: the events of the Nexmark benchmark, made up as they are read.
//! * [`generator`]: realistic payments with planted fraud, for the demo, the benchmarks and the tests.
//!
//! Nothing here knows of SQL plans, epochs or state: the engine owns positions and decides what is committed.

// Without Kafka much of the frame has no user.
#![cfg_attr(not(feature = "kafka"), allow(dead_code, unused_imports, unused_variables))]

pub mod alter;
pub mod chunk;
pub mod error;
mod files;
pub mod format;
pub mod generator;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod nexmark;
pub mod options;
pub mod registry;
pub mod sink;
pub mod source;
pub mod start;
pub mod wait;

pub use chunk::{Chunk, ChunkQueue, DeadLetter, Positions};
pub use error::{ConnectorError, Result};
pub use format::{FieldsRead, ResolvedFormat, Rows, resolve};
pub use sink::{ForeignMarker, Marker, Message, SinkIdentity, SinkSpec, SinkWriter};
pub use source::{BoundedRead, Doorbell, LateRows, OnError, PartitionStatus, Reader, ReaderStatus, SourceSpec};
pub use start::{Reset, Start};
pub use wait::Wait;
