//! Sinks: rows wait on disk, numbered, until the outside has acknowledged them.
//!
//! The loop appends each epoch's rows to the outbox in the epoch's own write. A thread of the sink ([`super::sender`]) reads
//! the outbox from the published snapshot, delivers the rows in order, and tells the loop how far it is; the loop trims.
//!
//! State, under the sink's object: the outbox, number of its first row -> piece of rows; and in its status `next` (the number
//! after the last row made), `delivered` (the number after the last row that needs no sending), `marked` (the outside has
//! been told of the sink once), `resume` (where the outside is to be told that the sink is, before anything is sent) and
//! `suspended` (why nothing is sent).

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use crossbeam_channel::Sender;
use millstream_catalog::ObjectId;
use millstream_connectors::{SinkIdentity, SinkSpec};

use super::handle::Command;
use super::published::Publisher;
use super::sender::{SenderSpec, SinkSender, Start};
use super::stats::Stats;
use crate::error::{Error, Result, sqlstate};
use crate::state::{KeyCodec, Snapshot, State, Store, TableId};
use crate::stream::changelog::Delta;
use crate::stream::plan::part;

/// Rows in one stored piece of the outbox.
const PIECE_ROWS: usize = 8192;
/// Name of the column that says whether the row is gone.
const DELETED: &str = "__deleted";
/// How long an orderly end waits for a sender.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

const NEXT: &[u8] = b"next";
const DELIVERED: &[u8] = b"delivered";
pub(super) const MARKED: &[u8] = b"marked";
pub(super) const RESUME: &[u8] = b"resume";
const SUSPENDED: &[u8] = b"suspended";

/// The pending rows of a sink, as the loop has them.
pub struct Outbox {
    id: ObjectId,
    spec: SinkSpec,
    /// Whether rows are only counted (a blackhole).
    discards: bool,
    schema: SchemaRef,
    /// Positions of the sink's key columns: a key that goes and comes back in one epoch is one message.
    key: Vec<usize>,
    key_codec: KeyCodec,
    next_sequence: u64,
    /// Number after the last row that needs no sending; past `next_sequence` if rows to come need none either.
    delivered: u64,
    start: Start,
    /// Why nothing is sent.
    suspended: Option<String>,
    sender: Option<SenderThread>,
    /// Number of the sender, so that what an older one still says is known as that.
    generation: u64,
}

struct SenderThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What senders of the running server share.
pub struct Surroundings {
    /// The epoch that has to be committed before a sender looks at anything.
    pub epoch: u64,
    pub store: Arc<Store>,
    pub publisher: Arc<Publisher>,
    pub stats: Arc<Stats>,
    pub commands: Sender<Command>,
}

impl Outbox {
    /// An empty outbox for rows of `schema`.
    pub fn new(id: ObjectId, spec: SinkSpec, schema: &SchemaRef, key: Vec<usize>) -> Result<Self> {
        let key_types: Vec<DataType> = key.iter().map(|c| schema.field(*c).data_type().clone()).collect();
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(DELETED, DataType::Boolean, false)));
        Ok(Self {
            id,
            discards: spec.discards(),
            spec,
            schema: Arc::new(Schema::new(fields)),
            key_codec: KeyCodec::new(&key_types)?,
            key,
            next_sequence: 0,
            delivered: 0,
            start: Start::First,
            suspended: None,
            sender: None,
            generation: 0,
        })
    }

    /// Takes up how far the sink is in the last committed epoch. A sender of what is no more ends.
    ///
    /// # Errors
    /// XX001 for a status that cannot be read.
    pub fn recover(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.stop();
        let status = self.status();
        self.next_sequence = read_sequence(snapshot, status, NEXT)?.unwrap_or(0);
        self.delivered = read_sequence(snapshot, status, DELIVERED)?.unwrap_or(0);
        self.start = Start::read(snapshot, status)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        self.suspended = snapshot.get(status, SUSPENDED)?.map(text);
        Ok(())
    }

    /// Rows that wait.
    pub fn pending(&self) -> u64 {
        self.next_sequence.saturating_sub(self.delivered)
    }

    /// Whether so many rows wait that the sources should be slower. Those of a suspended sink wait for a person.
    pub fn is_full(&self, rows_max: u64) -> bool {
        self.suspended.is_none() && self.pending() > rows_max
    }

    /// The topic or what else names the place outside.
    pub fn topic(&self) -> &str {
        self.spec.topic()
    }

    /// Sequence number after the last row that needs no sending.
    pub fn acknowledged(&self) -> u64 {
        self.delivered
    }

    /// Sequence number after the last row produced.
    pub fn produced(&self) -> u64 {
        self.next_sequence
    }

    /// Appends an epoch's consolidated changes; returns how many messages they are. Of an update only the new row goes
    /// out; rows that go come before rows that come.
    pub fn append(&mut self, state: &mut State, delta: &Delta) -> Result<u64> {
        let (order, deleted) = self.messages(delta)?;
        let rows = order.len() as u64;
        if !self.discards && rows > 0 {
            let batch = take_record_batch(&delta.batch, &UInt32Array::from(order))?;
            let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
            columns.push(Arc::new(BooleanArray::from(deleted)));
            let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
            let mut offset = 0;
            while offset < batch.num_rows() {
                let piece = batch.slice(offset, PIECE_ROWS.min(batch.num_rows() - offset));
                let first = self.next_sequence + offset as u64;
                if first + piece.num_rows() as u64 > self.delivered {
                    state.put(self.table(), &first.to_be_bytes(), &to_ipc(&piece)?);
                }
                offset += piece.num_rows();
            }
        }
        self.next_sequence += rows;
        if self.discards {
            self.delivered = self.next_sequence;
        }
        state.put(self.status(), NEXT, &self.next_sequence.to_be_bytes());
        Ok(rows)
    }

    /// The rows of a delta in the order to send them, and which of them are deletes. A delete whose key comes back in the
    /// same epoch is left out.
    fn messages(&self, delta: &Delta) -> Result<(Vec<u32>, Vec<bool>)> {
        let Some(weights) = &delta.weights else {
            return Ok(((0..delta.rows() as u32).collect(), vec![false; delta.rows()]));
        };
        let key: Vec<ArrayRef> = self.key.iter().map(|c| delta.batch.column(*c).clone()).collect();
        // Without a key no row takes the place of another.
        let keys = if key.is_empty() { None } else { Some(self.key_codec.encode(&key)?) };
        let mut present = std::collections::HashSet::new();
        let (mut order, mut deleted) = (Vec::new(), Vec::new());
        let (mut coming, mut coming_deleted) = (Vec::new(), Vec::new());
        for i in 0..delta.rows() {
            for _ in 0..weights.value(i).max(0) {
                coming.push(i as u32);
                coming_deleted.push(false);
            }
            if let Some(keys) = keys.as_ref().filter(|_| weights.value(i) > 0) {
                present.insert(keys.get(i));
            }
        }
        for i in 0..delta.rows() {
            let comes_back = keys.as_ref().is_some_and(|keys| present.contains(keys.get(i)));
            if weights.value(i) < 0 && !comes_back {
                order.push(i as u32);
                deleted.push(true);
            }
        }
        order.append(&mut coming);
        deleted.append(&mut coming_deleted);
        Ok((order, deleted))
    }

    /// The outside has all rows below `sequence`; those from `kept` on, where a piece begins, stay.
    pub fn delivered(&mut self, state: &mut State, sequence: u64, kept: u64) {
        if sequence > self.delivered {
            self.delivered = sequence;
            state.put(self.status(), DELIVERED, &sequence.to_be_bytes());
        }
        state.truncate_below(self.table(), &kept.to_be_bytes());
    }

    /// The outside knows how far the sink is, as a sender was to tell it.
    pub fn marked(&mut self, state: &mut State, generation: u64) {
        if generation == self.generation {
            self.start = Start::Marked;
            state.put(self.status(), MARKED, &[]);
            state.delete(self.status(), RESUME);
        }
    }

    /// A sender has given up.
    pub fn gave_up(&mut self, state: &mut State, generation: u64, reason: &str) {
        if generation == self.generation {
            self.suspend(state, reason);
        }
    }

    /// Sends nothing until [`Outbox::resume`].
    pub fn suspend(&mut self, state: &mut State, reason: &str) {
        self.stop();
        self.suspended = Some(reason.to_string());
        state.put(self.status(), SUSPENDED, reason.as_bytes());
    }

    /// Sends again, with `at` from the row of that number on: rows before it are not sent, whoever has them.
    ///
    /// # Errors
    /// 22023 for rows that are not kept any more.
    pub fn resume(&mut self, state: &mut State, at: Option<u64>) -> Result<()> {
        if let Some(at) = at {
            if at < self.delivered {
                let message = format!("the sink keeps no rows before number {}", self.delivered);
                return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(
                    "those were acknowledged; see acknowledged_sequence and last_sequence in millstream.sinks",
                ));
            }
            self.stop();
            self.delivered = at;
            state.put(self.status(), DELIVERED, &at.to_be_bytes());
            if self.spec.is_exactly_once() {
                self.start = Start::At(at);
                state.put(self.status(), RESUME, &at.to_be_bytes());
            }
        }
        self.suspended = None;
        state.delete(self.status(), SUSPENDED);
        Ok(())
    }

    /// Why nothing is sent.
    pub fn suspended(&self) -> Option<&str> {
        self.suspended.as_deref()
    }

    /// Starts to send unless it does or is suspended.
    pub fn start(&mut self, name: &str, around: &Surroundings) -> Result<()> {
        if self.discards || self.suspended.is_some() || self.sender.as_ref().is_some_and(|s| !s.is_stopping()) {
            return Ok(());
        }
        self.generation += 1;
        let stop = Arc::new(AtomicBool::new(false));
        let identity = SinkIdentity { store: around.store.identity().to_string(), sink: self.id.0 };
        let sender = SinkSender::new(SenderSpec {
            id: self.id,
            name: name.to_string(),
            generation: self.generation,
            identity,
            spec: self.spec.clone(),
            outbox: self.table(),
            status: self.status(),
            start: self.start,
            delivered: self.delivered,
            made: self.next_sequence,
            epoch: around.epoch,
            store: around.store.clone(),
            publisher: around.publisher.clone(),
            stats: around.stats.clone(),
            commands: around.commands.clone(),
            stop: stop.clone(),
        });
        let before = self.sender.take();
        let thread = std::thread::Builder::new().name(format!("sink-{}", self.id)).spawn(move || {
            // One at a time: the older would be fenced in the middle of what it does.
            if let Some(before) = before {
                before.wait();
            }
            sender.run();
        })?;
        self.sender = Some(SenderThread { stop, thread });
        Ok(())
    }

    /// Stops sending as soon as the transaction under way is done; what was not acknowledged stays. Does not wait.
    pub fn stop(&mut self) {
        if let Some(sender) = &self.sender {
            sender.stop.store(true, Ordering::Release);
        }
    }

    /// Waits a moment for a sender that was stopped, so that an orderly end doubles nothing.
    pub fn wait(&mut self) {
        let deadline = Instant::now() + STOP_PATIENCE;
        if let Some(sender) = self.sender.take() {
            while !sender.thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if sender.thread.is_finished() {
                sender.wait();
            }
        }
    }

    fn table(&self) -> TableId {
        TableId { object: self.id.0, part: part::OUTBOX }
    }

    fn status(&self) -> TableId {
        TableId { object: self.id.0, part: part::STATUS }
    }
}

impl SenderThread {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn wait(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread of a sink panicked");
        }
    }
}

/// A sequence number in a sink's status.
pub(super) fn read_sequence(snapshot: &Snapshot, table: TableId, key: &[u8]) -> Result<Option<u64>> {
    let corrupt = |_| Error::new(sqlstate::DATA_CORRUPTED, "a sink's sequence number cannot be read");
    snapshot
        .get(table, key)?
        .map(|bytes| bytes.as_slice().try_into().map(u64::from_be_bytes).map_err(corrupt))
        .transpose()
}

fn to_ipc(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?)
}

/// Rows of a piece; the last column says which of them are gone.
pub(super) fn from_ipc(bytes: &[u8]) -> Result<RecordBatch> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    match reader.next() {
        Some(batch) => Ok(batch?),
        None => Err(Error::new(sqlstate::DATA_CORRUPTED, "a piece of a sink's outbox is empty")),
    }
}
