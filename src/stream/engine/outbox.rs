//! Sinks: rows wait on disk, numbered, until the outside has acknowledged them.
//!
//! The loop appends each epoch's rows to the outbox in the epoch's own write. A thread of the sink ([`super::sender`]) reads
//! the outbox from the published snapshot, delivers the rows in order, and tells the loop how far it is; the loop trims.
//!
//! State, under the sink's object: the outbox, number of its first row -> piece of rows ([`super::piece`]); and in its status
//! `next` (the number after the last row made), `bytes` (of all pieces ever stored), `delivered` (the number after the last
//! row that needs no sending), `marked` (the outside has been told of the sink once), `resume` (where the outside is to be
//! told that the sink is, before anything is sent) and `suspended` (why nothing is sent).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};
use crossbeam_channel::Sender;
use millstream_catalog::ObjectId;
use millstream_connectors::{SinkIdentity, SinkSpec};

use super::bell::Bell;
use super::handle::Command;
use super::piece::{Chosen, PieceForm};
use super::published::Publisher;
use super::sender::{SenderSpec, SinkSender, Start};
use super::stats::Stats;
use crate::error::{Error, Result, sqlstate};
use crate::state::{KeyCodec, Snapshot, State, Store, TableId};
use crate::stream::changelog::Delta;
use crate::stream::plan::part;

/// Rows in one stored piece of the outbox.
const PIECE_ROWS: usize = 8192;
/// Why a sink is suspended that a person has suspended.
pub(super) const BY_STATEMENT: &str = "by ALTER SINK ... SUSPEND";
/// How long an orderly end waits for a sender.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(2);

pub(super) const NEXT: &[u8] = b"next";
pub(super) const BYTES: &[u8] = b"bytes";
pub(super) const DELIVERED: &[u8] = b"delivered";
pub(super) const MARKED: &[u8] = b"marked";
pub(super) const RESUME: &[u8] = b"resume";
const SUSPENDED: &[u8] = b"suspended";

/// The pending rows of a sink, as the loop has them.
pub struct Outbox {
    id: ObjectId,
    spec: SinkSpec,
    /// Whether rows are only counted (a blackhole).
    discards: bool,
    form: PieceForm,
    /// Positions of the sink's key columns: a key that goes and comes back in one epoch is one message.
    key: Vec<usize>,
    key_codec: KeyCodec,
    next_sequence: u64,
    /// Bytes of all pieces ever stored.
    bytes: u64,
    /// Number after the last row that needs no sending; past `next_sequence` if rows to come need none either.
    delivered: u64,
    start: Start,
    /// Why nothing is sent.
    suspended: Option<String>,
    sender: Option<SenderThread>,
    /// Number after the last row that may be outside, see [`SenderSpec::reached`].
    reached: Arc<AtomicU64>,
    /// Rung when rows for it are visible.
    bell: Arc<Bell>,
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
        Ok(Self {
            id,
            discards: spec.discards(),
            form: PieceForm::new(schema, spec.tells_before()),
            spec,
            key_codec: KeyCodec::new(&key_types)?,
            key,
            next_sequence: 0,
            bytes: 0,
            delivered: 0,
            start: Start::First,
            suspended: None,
            sender: None,
            reached: Arc::default(),
            bell: Arc::default(),
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
        self.bytes = read_sequence(snapshot, status, BYTES)?.unwrap_or(0);
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

    /// What wakes the sender: to be rung when an epoch with rows for it is visible.
    pub fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
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

    /// Appends the consolidated changes of an epoch whose `now()` is `now_us`; returns how many messages they are. An update
    /// is one message, of the new row; rows that go come before rows that come.
    pub fn append(&mut self, state: &mut State, delta: &Delta, now_us: i64) -> Result<u64> {
        let chosen = self.choose(delta)?;
        let rows = chosen.rows.len() as u64;
        if !self.discards && rows > 0 {
            let rows = self.form.rows(&delta.batch, chosen)?;
            let mut offset = 0;
            while offset < rows.len() {
                let piece = rows.slice(offset, PIECE_ROWS.min(rows.len() - offset));
                let first = self.next_sequence + offset as u64;
                if first + piece.len() as u64 > self.delivered {
                    let stored = self.form.write(&piece, now_us, self.bytes)?;
                    self.bytes += stored.len() as u64;
                    state.put(self.table(), &first.to_be_bytes(), &stored);
                }
                offset += piece.len();
            }
            state.put(self.status(), BYTES, &self.bytes.to_be_bytes());
        }
        self.next_sequence += rows;
        if self.discards {
            self.delivered = self.next_sequence;
        }
        state.put(self.status(), NEXT, &self.next_sequence.to_be_bytes());
        Ok(rows)
    }

    /// The rows of a delta in the order to send them. One that goes and whose key comes back in the same epoch is not sent
    /// itself: it is what the row that comes was before.
    fn choose(&self, delta: &Delta) -> Result<Chosen> {
        let Some(weights) = &delta.weights else {
            let rows = delta.rows();
            return Ok(Chosen {
                rows: (0..rows as u32).collect(),
                deleted: vec![false; rows],
                before: vec![None; rows],
            });
        };
        let key: Vec<ArrayRef> = self.key.iter().map(|c| delta.batch.column(*c).clone()).collect();
        // Without a key no row takes the place of another.
        let keys = if key.is_empty() { None } else { Some(self.key_codec.encode(&key)?) };
        let mut going: HashMap<&[u8], VecDeque<u32>> = HashMap::new();
        if let Some(keys) = keys.as_ref().filter(|_| self.spec.tells_before()) {
            for i in (0..delta.rows()).filter(|i| weights.value(*i) < 0) {
                going.entry(keys.get(i)).or_default().push_back(i as u32);
            }
        }
        let (mut coming, mut come) = (Chosen::default(), HashSet::new());
        for i in 0..delta.rows() {
            for _ in 0..weights.value(i).max(0) {
                let before = keys.as_ref().and_then(|keys| going.get_mut(keys.get(i))?.pop_front());
                coming.push(i as u32, false, before);
            }
            if let Some(keys) = keys.as_ref().filter(|_| weights.value(i) > 0) {
                come.insert(keys.get(i));
            }
        }
        let mut chosen = Chosen::default();
        for i in 0..delta.rows() {
            let comes_back = keys.as_ref().is_some_and(|keys| come.contains(keys.get(i)));
            if weights.value(i) < 0 && !comes_back {
                chosen.push(i as u32, true, None);
            }
        }
        chosen.extend(coming);
        Ok(chosen)
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
        self.reached.fetch_max(self.next_sequence.max(self.delivered), Ordering::AcqRel);
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
            reached: self.reached.clone(),
            bell: self.bell.clone(),
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

    /// Has the outside forget the sink, whose drop is committed: on a thread, as far as the outside allows it. What a sink
    /// that is in trouble has left there is left: somebody else may go on with it.
    pub fn forget(mut self, name: String, store: String) -> Option<JoinHandle<()>> {
        let in_trouble = self.suspended.is_some_and(|reason| reason != BY_STATEMENT);
        if !self.spec.is_exactly_once() || self.start == Start::First || in_trouble {
            return None;
        }
        let (spec, made, sender) = (self.spec, self.next_sequence.max(self.delivered), self.sender.take());
        let identity = SinkIdentity { store, sink: self.id.0 };
        let forget = move || {
            if let Some(sender) = sender {
                sender.wait();
            }
            if let Err(e) = spec.forget(&identity, made) {
                tracing::warn!(sink = %name, error = %e, "the outside keeps the marker of a sink that was dropped");
            }
        };
        let thread = std::thread::Builder::new().name(format!("drop-sink-{}", self.id)).spawn(forget);
        thread.map_err(|e| tracing::warn!(error = %e, "no thread for what a dropped sink has left outside")).ok()
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

/// The number of a piece's first row, which is its key in the outbox.
pub(super) fn first_row(key: &[u8]) -> Result<u64> {
    let corrupt = |_| Error::new(sqlstate::DATA_CORRUPTED, "a sink's outbox has a key that is no number");
    key.try_into().map(u64::from_be_bytes).map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{Field, Schema};
    use millstream_catalog::object::{Format, Sink};
    use millstream_catalog::{Column, SqlType};

    use super::*;

    /// Of a sink with columns (id, v) and key id.
    fn outbox(format: &str) -> Outbox {
        let options = [("connector", "kafka"), ("topic", "t"), ("properties.bootstrap.server", "127.0.0.1:1")];
        let columns: Vec<Column> = ["id", "v"].map(|name| Column::new(name, SqlType::Int8, true)).into();
        let sink = Sink {
            columns,
            query: String::new(),
            time_zone: "UTC".into(),
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            format: Some(Format { format: format.into(), encode: "json".into(), ..Format::default() }),
            key: vec![0],
            emit_on_window_close: false,
            fingerprint: String::new(),
        };
        Outbox::new(ObjectId(7), SinkSpec::new(&sink).unwrap(), &schema(), vec![0]).unwrap()
    }

    fn schema() -> SchemaRef {
        let fields: Vec<Field> = ["id", "v"].map(|name| Field::new(name, DataType::Int64, true)).into();
        Schema::new(fields).into()
    }

    /// The messages of changes (id, v, weight): what becomes of each row, with the position of the row before.
    fn chosen(format: &str, changes: &[(i64, i64, i64)]) -> Vec<(u32, bool, Option<u32>)> {
        let column = |of: fn(&(i64, i64, i64)) -> i64| Int64Array::from_iter_values(changes.iter().map(of));
        let columns: Vec<ArrayRef> = vec![Arc::new(column(|c| c.0)), Arc::new(column(|c| c.1))];
        let delta = Delta::new(RecordBatch::try_new(schema(), columns).unwrap(), column(|c| c.2));
        let Chosen { rows, deleted, before } = outbox(format).choose(&delta).unwrap();
        rows.into_iter().zip(deleted).zip(before).map(|((row, deleted), before)| (row, deleted, before)).collect()
    }

    #[test]
    fn a_row_that_takes_the_place_of_another_knows_it() {
        let changes = [(1, 10, 1), (2, 20, 1), (1, 9, -1), (3, 30, -1), (4, 40, -1), (4, 41, 1)];
        let before = [(3, true, None), (0, false, Some(2)), (1, false, None), (5, false, Some(4))];
        assert_eq!(chosen("debezium", &changes), before);
        let without = before.map(|(row, deleted, _)| (row, deleted, None));
        assert_eq!(chosen("upsert", &changes), without);
        // Rows of one key, which is none then: each takes the place of one at most.
        let changes = [(1, 1, -1), (1, 2, -1), (1, 3, 2), (1, 4, 1)];
        assert_eq!(chosen("debezium", &changes), [(2, false, Some(0)), (2, false, Some(1)), (3, false, None)]);
    }
}
