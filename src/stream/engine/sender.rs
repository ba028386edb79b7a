//! The sending thread of a sink: what waits in the outbox goes out in order, in parts that a transaction carries.
//!
//! **Exactly once.** The outside keeps a *marker*, the number after the last row it has, which changes with the rows or not at
//! all ([`millstream_connectors::SinkWriter`]). A sender that starts asks for it and goes on there, whatever this side
//! remembers: what was sent and not noted here is not sent again. A marker that is gone, that another store has set, or that
//! is ahead of all that was ever made here says that this store and the outside do not belong together (a lost group, a
//! restored older copy); then the sink is suspended until a person says where to go on, for either guess could double or
//! lose rows. Rows are made durable before the transaction that carries them is committed, so that not even the loss of the
//! machine puts the marker ahead.
//!
//! **At least once.** There is no marker; a sender starts at the last acknowledged row. Several parts are on their way at a
//! time.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use millstream_catalog::ObjectId;
use millstream_connectors::{DeadLetter, Marker, Message, SinkIdentity, SinkSpec, SinkWriter};

use super::handle::Command;
use super::outbox::{MARKED, RESUME, first_row, read_sequence};
use super::part_size::PartSize;
use super::piece::SinkRows;
use super::published::Publisher;
use super::stats::Stats;
use crate::error::{Error, Result, sqlstate};
use crate::failpoint;
use crate::state::{Snapshot, Store, TableId};

/// Most bytes of the outbox that are sent together, about; rows are bounded by [`PartSize`].
const BYTES_MAX: usize = 16 << 20;
/// Shortest time from the start of a transaction to the next: in between, epochs gather.
const TRANSACTION_INTERVAL: Duration = Duration::from_millis(20);
/// Shortest time from the end of a transaction to the start of the next. The broker completes one after it has said so, and
/// refuses a next that comes before; the client then waits for 20 ms.
const TRANSACTION_GAP: Duration = Duration::from_millis(3);
/// The outside forgets the marker of a group that commits nothing, by default after a week.
const MARKER_REFRESH_MS: u64 = 24 * 3600 * 1000;
/// How long a sender waits after a failure: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long to wait for an acknowledgement before looking for new rows again.
const ACKNOWLEDGED_CHECK: Duration = Duration::from_millis(2);
/// After what time the loop is told again what it must note: an epoch that failed may have lost it.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// How often an idle sender looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(200);
/// The partition of a dead letter that came to none.
const NO_PARTITION: i32 = -1;

/// What the outside knows of a sink before a sender asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing: the sink is new.
    First,
    /// It is to be told that the sink is at this row, as ALTER SINK … RESUME AT asks.
    At(u64),
    /// How far the sink is.
    Marked,
}

impl Start {
    /// As a sink's status has it.
    ///
    /// # Errors
    /// XX001 for a status that cannot be read.
    pub fn read(snapshot: &Snapshot, status: TableId) -> Result<Self> {
        let resume = read_sequence(snapshot, status, RESUME)?;
        Ok(match (resume, snapshot.get(status, MARKED)?) {
            (Some(at), _) => Self::At(at),
            (None, Some(_)) => Self::Marked,
            (None, None) => Self::First,
        })
    }
}

/// What a [`SinkSender`] is made from.
pub struct SenderSpec {
    pub id: ObjectId,
    pub name: String,
    pub generation: u64,
    pub identity: SinkIdentity,
    pub spec: SinkSpec,
    pub outbox: TableId,
    pub status: TableId,
    pub start: Start,
    /// Number after the last row that needs no sending.
    pub delivered: u64,
    /// Number after the last row that may be outside: the last row made when the first sender of this process started, or
    /// the last that one of them has sent. A sender that is stopped may still send what was made after that.
    pub reached: Arc<AtomicU64>,
    /// The epoch that has to be committed before the sender looks at anything.
    pub epoch: u64,
    pub store: Arc<Store>,
    pub publisher: Arc<Publisher>,
    pub stats: Arc<Stats>,
    pub commands: Sender<Command>,
    pub stop: Arc<AtomicBool>,
}

/// Sends the rows of one sink.
pub struct SinkSender {
    of: SenderSpec,
    start: Start,
    /// Where the outside is, as far as is known here.
    there: Place,
    /// Where to send on.
    next: Place,
    /// What is on its way, oldest first.
    sent: VecDeque<Sent>,
    size: PartSize,
    /// Rows of the part that was handed over last; 0 if nothing is on its way.
    tried: usize,
    /// When the last transaction began; of rows that gather in files, when the first of them was handed over.
    began: Option<Instant>,
    committed: Instant,
}

/// A row of the outbox by its number, and the number of the first row of the piece that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    row: u64,
    piece: u64,
}

/// A part that was handed over.
struct Sent {
    end: Place,
    dead: Vec<DeadLetter>,
}

/// Why a sender stops for now, or for good.
enum Failure {
    /// To be tried again.
    Passing(Error),
    /// For a person.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Passing(e)
    }
}

/// Rows read from the outbox.
struct Part {
    rows: SinkRows,
    /// Behind the last of them.
    end: Place,
}

impl Part {
    /// Number of its first row.
    fn first(&self) -> u64 {
        self.end.row - self.rows.len() as u64
    }
}

impl SinkSender {
    pub fn new(of: SenderSpec) -> Self {
        let start = of.start;
        // Pieces that are not trimmed are found by looking for the first.
        let there = Place { row: of.delivered, piece: 0 };
        Self {
            of,
            start,
            there,
            next: there,
            sent: VecDeque::new(),
            size: PartSize::default(),
            tried: 0,
            began: None,
            committed: Instant::now(),
        }
    }

    /// Sends until it is told to stop or only a person can help.
    pub fn run(mut self) {
        let mut writer: Option<Box<dyn SinkWriter>> = None;
        let mut backoff = BACKOFF.0;
        while !self.is_stopping() && self.of.publisher.current().epoch < self.of.epoch {
            self.of.publisher.wait_beyond(self.of.epoch - 1, STOP_CHECK);
        }
        while !self.is_stopping() {
            let seen = self.of.publisher.current().epoch;
            match self.step(&mut writer) {
                Ok(true) => backoff = BACKOFF.0,
                Ok(false) => self.of.publisher.wait_beyond(seen, STOP_CHECK),
                Err(Failure::Passing(e)) => {
                    tracing::warn!(sink = %self.of.name, error = %e, "sink cannot deliver, will try again");
                    self.of.stats.update_sink(self.of.id, |s| s.error = Some(described(&e)));
                    metrics::counter!("millstream_sink_failures_total", "sink" => self.of.name.clone()).increment(1);
                    if e.sqlstate() == sqlstate::CONNECTION_FAILURE {
                        self.size.timed_out(std::mem::take(&mut self.tried));
                    }
                    writer = None;
                    self.sent.clear();
                    self.next = self.there;
                    self.began = None;
                    self.pause(backoff);
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
                Err(Failure::Final(e)) => {
                    tracing::error!(sink = %self.of.name, error = %e, "sink is suspended");
                    self.give_up(&described(&e));
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.of.stop.load(Ordering::Acquire)
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopping() && Instant::now() < until {
            std::thread::sleep(STOP_CHECK.min(time));
        }
    }

    /// The loop may be gone: then the next start finds out from the outside.
    fn tell(&self, command: Command) {
        let _ = self.of.commands.send(command);
    }

    /// Tells the loop until it has stopped this sender; an epoch that failed may have taken the telling with it.
    fn give_up(&self, reason: &str) {
        while !self.is_stopping() {
            let (sink, generation, reason) = (self.of.id, self.of.generation, reason.to_string());
            self.tell(Command::SinkGaveUp { sink, generation, reason });
            self.pause(TELL_AGAIN);
        }
    }

    /// Sends the next part. False if there was nothing to do.
    fn step(&mut self, writer: &mut Option<Box<dyn SinkWriter>>) -> Result<bool, Failure> {
        let current = match writer {
            Some(writer) => writer,
            None => {
                let started = self.of.spec.start(&self.of.identity).map_err(|e| Failure::Passing(e.into()))?;
                let started = writer.insert(started);
                if self.of.spec.is_exactly_once() && !self.find_place(started.as_mut())? {
                    return Ok(false);
                }
                self.of.stats.update_sink(self.of.id, |s| s.error = None);
                started
            }
        };
        let sent = match self.of.spec.commit_interval() {
            Some(interval) => self.gather(current.as_mut(), interval),
            None => self.send_part(current.as_mut()),
        };
        match sent {
            Err(Failure::Passing(e)) if current.is_fenced() => Err(Failure::Final(e)),
            other => other,
        }
    }

    /// Finds out where to go on, and tells the outside of a sink that is new or resumed. False if it was stopped meanwhile.
    fn find_place(&mut self, writer: &mut dyn SinkWriter) -> Result<bool, Failure> {
        let outcome = match self.start {
            Start::First => self.check_first().and_then(|()| self.set_marker(writer, self.there.row)),
            Start::At(at) => self.set_marker(writer, at.max(self.there.row)),
            Start::Marked => self.go_on_at_marker(writer).map(|()| true),
        };
        match outcome {
            Err(Failure::Passing(e)) if writer.is_fenced() => Err(Failure::Final(e)),
            other => other,
        }
    }

    /// A new sink over a topic that another store has written: a copy of it, perhaps, whose directory was lost.
    fn check_first(&self) -> Result<(), Failure> {
        let found = self.of.spec.foreign_markers(&self.of.identity).map_err(|e| Failure::Passing(e.into()))?;
        let Some(other) = found.first() else { return Ok(()) };
        let (name, topic) = (&self.of.name, self.of.spec.topic());
        let message = format!(
            "topic \"{topic}\" of sink \"{name}\" has rows that another data directory has written exactly once: group {} is \
             at {}",
            other.group, other.sequence
        );
        Err(Failure::Final(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_hint(format!(
            "ALTER SINK {name} RESUME AT 0 sends all rows of the query, also those that may be there; \
             RESUME AT {} leaves out as many as the other has sent",
            other.sequence
        ))))
    }

    /// Tells the outside where the sink is, and waits until that is noted here: only then may rows follow.
    fn set_marker(&mut self, writer: &mut dyn SinkWriter, at: u64) -> Result<bool, Failure> {
        self.commit(writer, at)?;
        failpoint::pass("outbox.marked")?;
        self.go_to(at);
        self.of.reached.fetch_max(at, Ordering::AcqRel);
        let mut told: Option<Instant> = None;
        while !self.is_stopping() {
            if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                self.tell(Command::SinkMarked { sink: self.of.id, generation: self.of.generation });
                told = Some(Instant::now());
            }
            let published = self.of.publisher.current();
            if Start::read(&published.snapshot, self.of.status)? == Start::Marked {
                self.start = Start::Marked;
                return Ok(true);
            }
            self.of.publisher.wait_beyond(published.epoch, STOP_CHECK);
        }
        Ok(false)
    }

    fn go_on_at_marker(&mut self, writer: &mut dyn SinkWriter) -> Result<(), Failure> {
        let marker = writer.marker().map_err(|e| Failure::Passing(e.into()))?;
        // What a marker cannot be ahead of. Senders before this one have ended.
        let known = self.of.reached.load(Ordering::Acquire);
        let (name, next) = (&self.of.name, self.there.row);
        let lost = |message: String| {
            Failure::Final(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_hint(format!(
                "ALTER SINK {name} RESUME AT n sends the rows from number n on: {next} sends all that are not known to be \
                 there, {known} none of those that were made up to now"
            )))
        };
        let at = match marker {
            Some(Marker::At(at)) if at <= known => at,
            Some(Marker::At(at)) => {
                return Err(lost(format!(
                    "the outside has rows of sink \"{name}\" up to number {at}, but only {known} were made here: the data \
                     directory is an older copy"
                )));
            }
            Some(Marker::Foreign(other)) => {
                return Err(lost(format!("the marker of sink \"{name}\" was set by somebody else (\"{other}\")")));
            }
            Some(Marker::Absent) => {
                return Err(lost(format!(
                    "the outside has lost the marker that says which rows of sink \"{name}\" it has; {next} are known to \
                     be there"
                )));
            }
            None => next,
        };
        while self.there.row < at {
            let published = self.of.publisher.current();
            let Some(part) = self.read(&published.snapshot, at)? else {
                self.go_to(at);
                break;
            };
            // Their dead letters are not noted yet.
            let (_, dead) = match self.of.spec.commit_interval() {
                Some(_) => Default::default(),
                None => self.messages(&part, writer.message_bytes_max())?,
            };
            self.next = part.end;
            self.went(Sent { end: part.end, dead });
        }
        Ok(())
    }

    /// What is before a row needs no sending.
    fn go_to(&mut self, row: u64) {
        self.there.row = row;
        self.next = self.there;
    }

    /// Rows from the next one on, up to as many as go together and none from `upto` on.
    fn read(&mut self, snapshot: &Arc<Snapshot>, upto: u64) -> Result<Option<Part>> {
        let from = self.next.piece.to_be_bytes();
        let rows_max = self.size.rows_max();
        let (mut pieces, mut rows, mut bytes) = (Vec::new(), 0, 0);
        let mut end = self.next;
        for entry in snapshot.scan(self.of.outbox, Bound::Included(&from), Bound::Unbounded) {
            let (key, value) = entry?;
            let first = first_row(&key)?;
            if first >= upto || rows >= rows_max || bytes >= BYTES_MAX {
                break;
            }
            let piece = SinkRows::read(&value)?;
            let after = first + piece.len() as u64;
            if after <= self.next.row {
                continue;
            }
            let skipped = self.next.row.saturating_sub(first);
            let room = (rows_max - rows) as u64;
            let wanted = (after.min(upto) - first - skipped).min(room);
            pieces.push(piece.slice(skipped as usize, wanted as usize));
            rows += wanted as usize;
            bytes += value.len();
            let row = first + skipped + wanted;
            end = Place { row, piece: if row == after { row } else { first } };
        }
        Ok(SinkRows::concat(&pieces)?.map(|rows| Part { rows, end }))
    }

    /// What rows become, without those that the outside would never take.
    fn messages(&self, part: &Part, bytes_max: usize) -> Result<(Vec<Message>, Vec<DeadLetter>)> {
        let SinkRows { rows, deleted, before } = &part.rows;
        let mut messages = self.of.spec.encode(rows, Some(deleted), before.as_ref())?;
        let bytes = |m: &Message| m.key.as_ref().map_or(0, Vec::len) + m.payload.as_ref().map_or(0, Vec::len);
        if messages.iter().all(|message| bytes(message) <= bytes_max) {
            return Ok((messages, Vec::new()));
        }
        let mut dead = Vec::new();
        let mut row = part.first();
        messages.retain_mut(|message| {
            let sequence = row;
            row += 1;
            let fits = bytes(message) <= bytes_max;
            if !fits {
                dead.push(DeadLetter {
                    partition: NO_PARTITION,
                    offset: sequence as i64,
                    timestamp_ms: None,
                    error: format!(
                        "row {sequence} of the sink is a message of {} bytes; the topic takes {bytes_max}",
                        bytes(message)
                    ),
                    key: message.key.take(),
                    payload: message.payload.take(),
                });
            }
            fits
        });
        Ok((messages, dead))
    }

    /// Hands over the next part, and notes what has come to be outside. False if there was nothing to do.
    fn send_part(&mut self, writer: &mut dyn SinkWriter) -> Result<bool, Failure> {
        let exactly_once = self.of.spec.is_exactly_once();
        let published = self.of.publisher.current();
        let Some(mut part) = self.read(&published.snapshot, u64::MAX)? else {
            let refresh = Duration::from_millis(failpoint::value("outbox.marker_refresh_ms", MARKER_REFRESH_MS));
            if exactly_once && self.committed.elapsed() >= refresh {
                self.commit(writer, self.next.row)?;
            }
            let waits = !self.sent.is_empty();
            self.note_acknowledged(writer, if waits { ACKNOWLEDGED_CHECK } else { Duration::ZERO })?;
            return Ok(waits);
        };
        let is_full = part.rows.len() >= self.size.rows_max();
        if exactly_once && let Some(rest) = self.rest_before_transaction(is_full) {
            std::thread::sleep(rest);
            if !is_full {
                let published = self.of.publisher.current();
                part = self.read(&published.snapshot, u64::MAX)?.unwrap_or(part);
            }
        }
        self.began = Some(Instant::now());
        let (messages, dead) = self.messages(&part, writer.message_bytes_max())?;
        self.of.reached.fetch_max(part.end.row, Ordering::AcqRel);
        self.tried = part.rows.len();
        writer.send(messages).map_err(|e| Failure::Passing(e.into()))?;
        failpoint::pass("outbox.produced")?;
        if exactly_once {
            self.of.store.sync()?;
        }
        self.commit(writer, part.end.row)?;
        failpoint::pass("outbox.sent")?;
        self.size.went();
        self.next = part.end;
        self.sent.push_back(Sent { end: part.end, dead });
        self.note_acknowledged(writer, Duration::ZERO)?;
        Ok(true)
    }

    /// Hands rows over to a place where they gather, and commits them when they are enough or have waited long enough. False
    /// if there was nothing to do.
    fn gather(&mut self, writer: &mut dyn SinkWriter, interval: Duration) -> Result<bool, Failure> {
        let published = self.of.publisher.current();
        let part = self.read(&published.snapshot, u64::MAX)?;
        let is_none = part.is_none();
        if let Some(part) = part {
            self.began.get_or_insert_with(Instant::now);
            self.of.reached.fetch_max(part.end.row, Ordering::AcqRel);
            writer.send_rows(&part.rows.rows).map_err(|e| Failure::Passing(e.into()))?;
            self.next = part.end;
        }
        let Some(began) = self.began else { return Ok(false) };
        if !writer.is_full() && began.elapsed() < interval {
            return Ok(!is_none);
        }
        failpoint::pass("outbox.produced")?;
        self.of.store.sync()?;
        self.commit(writer, self.next.row)?;
        failpoint::pass("outbox.sent")?;
        self.began = None;
        self.sent.push_back(Sent { end: self.next, dead: Vec::new() });
        self.note_acknowledged(writer, Duration::ZERO)?;
        Ok(true)
    }

    /// How long to wait before a transaction begins, which a full part does not do for more rows.
    fn rest_before_transaction(&self, is_full: bool) -> Option<Duration> {
        let began = self.began?;
        let gap = TRANSACTION_GAP.saturating_sub(self.committed.elapsed());
        let interval = TRANSACTION_INTERVAL.saturating_sub(began.elapsed());
        let rest = if is_full { gap } else { gap.max(interval) };
        (!rest.is_zero()).then_some(rest)
    }

    fn commit(&mut self, writer: &mut dyn SinkWriter, next: u64) -> Result<(), Failure> {
        writer.commit(next).map_err(|e| Failure::Passing(e.into()))?;
        self.committed = Instant::now();
        Ok(())
    }

    fn note_acknowledged(&mut self, writer: &mut dyn SinkWriter, wait: Duration) -> Result<(), Failure> {
        let there = writer.acknowledged(wait).map_err(|e| Failure::Passing(e.into()))?;
        while self.sent.front().is_some_and(|sent| sent.end.row <= there) {
            if let Some(sent) = self.sent.pop_front() {
                self.went(sent);
            }
        }
        Ok(())
    }

    /// A part is outside.
    fn went(&mut self, sent: Sent) {
        let rows = sent.end.row - self.there.row;
        if self.sent.is_empty() {
            self.tried = 0;
        }
        self.there = sent.end;
        let Place { row, piece } = self.there;
        self.of.stats.update_sink(self.of.id, |s| (s.delivered, s.error) = (row, None));
        metrics::counter!("millstream_sink_rows_total", "sink" => self.of.name.clone()).increment(rows);
        self.tell(Command::SinkProgress { sink: self.of.id, sequence: row, kept: piece, dead: sent.dead });
    }
}

/// An error with what can be done about it, for `millstream.sinks`.
fn described(e: &Error) -> String {
    match e.hint() {
        Some(hint) => format!("{}; {hint}", e.message()),
        None => e.message().to_string(),
    }
}
