//! Sinks: rows wait on disk, numbered, until the outside has acknowledged them.
//!
//! The loop appends each epoch's rows to the outbox in the epoch's own write. A thread of the sink reads the outbox from
//! the published snapshot, delivers the rows in order, and tells the loop how far it is; the loop trims. After a crash the
//! thread starts at the last trimmed sequence: what was sent and not yet trimmed is sent again (at least once).

use std::io::Cursor;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use crossbeam_channel::Sender;
use millstream_catalog::ObjectId;
use millstream_connectors::{SinkSpec, SinkWriter};

use super::handle::Command;
use super::published::Publisher;
use super::stats::Stats;
use crate::error::{Error, Result, sqlstate};
use crate::failpoint;
use crate::state::{KeyCodec, Snapshot, State, TableId};
use crate::stream::changelog::Delta;
use crate::stream::plan::part;

/// Rows in one stored piece of the outbox.
const PIECE_ROWS: usize = 8192;
/// Name of the column that says whether the row is gone.
const DELETED: &str = "__deleted";
/// How long a sender waits after a failure: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often an idle sender looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(200);

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
    delivered: u64,
    sender: Option<SenderThread>,
}

struct SenderThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
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
            sender: None,
        })
    }

    /// Takes up the sequence numbers of the last committed epoch.
    pub fn recover(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.next_sequence = read_sequence(snapshot, self.status(), b"next")?;
        self.delivered = read_sequence(snapshot, self.status(), b"delivered")?;
        Ok(())
    }

    /// Rows that wait.
    pub fn pending(&self) -> u64 {
        self.next_sequence - self.delivered
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
                let key = (self.next_sequence + offset as u64).to_be_bytes();
                state.put(self.table(), &key, &to_ipc(&piece)?);
                offset += piece.num_rows();
            }
        }
        self.next_sequence += rows;
        if self.discards {
            self.delivered = self.next_sequence;
        }
        state.put(self.status(), b"next", &self.next_sequence.to_be_bytes());
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

    /// The outside has all rows below `sequence`: they need not be kept.
    pub fn delivered(&mut self, state: &mut State, sequence: u64) -> Result<()> {
        if sequence > self.delivered {
            self.delivered = sequence;
            state.put(self.status(), b"delivered", &sequence.to_be_bytes());
            state.truncate_below(self.table(), &sequence.to_be_bytes());
        }
        Ok(())
    }

    /// Starts to send, from the last acknowledged row.
    pub fn start(
        &mut self,
        name: String,
        publisher: Arc<Publisher>,
        stats: Arc<Stats>,
        commands: Sender<Command>,
    ) -> Result<()> {
        if self.discards || self.sender.is_some() {
            return Ok(());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut job = Job {
            id: self.id,
            name,
            spec: self.spec.clone(),
            table: self.table(),
            next: self.delivered,
            publisher,
            stats,
            commands,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("sink-{}", self.id)).spawn(move || job.run())?;
        self.sender = Some(SenderThread { stop, thread });
        Ok(())
    }

    /// Stops sending; what was not acknowledged stays. Waits for the thread.
    pub fn stop(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.stop.store(true, Ordering::Release);
            if sender.thread.join().is_err() {
                tracing::error!(sink = %self.id, "sink thread panicked");
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

/// The sending thread of a sink.
struct Job {
    id: ObjectId,
    name: String,
    spec: SinkSpec,
    table: TableId,
    /// Sequence number of the next row to send.
    next: u64,
    publisher: Arc<Publisher>,
    stats: Arc<Stats>,
    commands: Sender<Command>,
    stop: Arc<AtomicBool>,
}

impl Job {
    fn run(&mut self) {
        let mut writer: Option<Box<dyn SinkWriter>> = None;
        let mut backoff = BACKOFF.0;
        while !self.stop.load(Ordering::Acquire) {
            let seen = self.publisher.current().epoch;
            match self.send_pending(&mut writer) {
                Ok(true) => backoff = BACKOFF.0,
                Ok(false) => self.publisher.wait_beyond(seen, STOP_CHECK),
                Err(e) => {
                    tracing::warn!(sink = %self.name, error = %e, "sink cannot deliver, will try again");
                    self.stats.update_sink(self.id, |s| s.error = Some(e.message().to_string()));
                    writer = None;
                    std::thread::sleep(backoff);
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Sends the next piece. False if there was none.
    fn send_pending(&mut self, writer: &mut Option<Box<dyn SinkWriter>>) -> Result<bool> {
        let published = self.publisher.current();
        let mut batches = Vec::new();
        let mut rows = 0;
        let next = self.next.to_be_bytes();
        for entry in published.snapshot.scan(self.table, Bound::Included(&next), Bound::Unbounded) {
            let (_, value) = entry?;
            let batch = from_ipc(&value)?;
            rows += batch.num_rows();
            batches.push(batch);
            if rows >= PIECE_ROWS {
                break;
            }
        }
        let Some(first) = batches.first() else { return Ok(false) };
        let batch = concat_batches(&first.schema(), &batches)?;
        let columns = batch.num_columns() - 1;
        let deleted = arrow::array::AsArray::as_boolean(batch.column(columns)).clone();
        let visible = batch.project(&(0..columns).collect::<Vec<_>>())?;
        let messages = self.spec.encode(&visible, Some(&deleted))?;
        let writer = match writer {
            Some(writer) => writer,
            None => writer.insert(self.spec.start()?),
        };
        writer.write(messages)?;
        failpoint::pass("outbox.sent")?;
        self.next += rows as u64;
        let next = self.next;
        self.stats.update_sink(self.id, |s| {
            s.delivered = next;
            s.error = None;
        });
        metrics::counter!("millstream_sink_rows_total", "sink" => self.name.clone()).increment(rows as u64);
        // The loop may be gone: then the rows are sent again after the next start.
        let _ = self.commands.send(Command::SinkProgress { sink: self.id, sequence: next });
        Ok(true)
    }
}

fn read_sequence(snapshot: &Snapshot, table: TableId, key: &[u8]) -> Result<u64> {
    match snapshot.get(table, key)? {
        Some(bytes) => bytes
            .as_slice()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| Error::new(sqlstate::DATA_CORRUPTED, "a sink's sequence number cannot be read")),
        None => Ok(0),
    }
}

fn to_ipc(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?)
}

fn from_ipc(bytes: &[u8]) -> Result<RecordBatch> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    match reader.next() {
        Some(batch) => Ok(batch?),
        None => Err(Error::new(sqlstate::DATA_CORRUPTED, "a piece of a sink's outbox is empty")),
    }
}
