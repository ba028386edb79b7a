//! A source that is being read: its reader, the positions up to which the views hold it, and its watermark.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use millstream_catalog::{Object, ObjectId, ObjectKind};
use millstream_connectors::{
    Chunk, ChunkQueue, DeadLetter, Doorbell, FieldsRead, LateRows, Positions, Reader, ReaderStatus, Reset, SourceSpec,
    Start,
};
use serde::{Deserialize, Serialize};

use super::partition::Partition;
use super::stats::Stats;
use super::table::Upserts;
use crate::error::{Error, Result, sqlstate};
use crate::state::{Snapshot, State, TableId, successor};
use crate::stream::changelog::Delta;
use crate::stream::columns_read::ColumnsRead;
use crate::stream::generated::{Completion, Computed, Generated, with_inputs};
use crate::stream::operator::PortWatermarks;
use crate::stream::plan::part;
use crate::stream::time::{evaluate_at, latest_time};

/// Bytes of undecoded input that may wait in memory for each source.
const QUEUE_BYTES: usize = 32 << 20;

/// A source with what the engine knows of it.
pub struct Source {
    pub id: ObjectId,
    pub name: String,
    spec: SourceSpec,
    /// The options that it was made of.
    options: BTreeMap<String, String>,
    /// The consumer group that positions are mirrored to if the options name none.
    group: String,
    /// The watermark column and expression over all columns, if the source has one.
    watermark: Option<(usize, Arc<dyn PhysicalExpr>)>,
    generated: Arc<[Generated]>,
    queue: ChunkQueue,
    reader: Option<Reader>,
    /// Whether its rows are kept by their key, as a table's are.
    is_keyed: bool,
    /// Whether a view reads it; there is a reader then, unless it is suspended.
    used: bool,
    suspended: bool,
    origin: Origin,
    /// What the views read, and what generated columns are computed of.
    columns: ColumnsRead,
    completion: Option<Completion>,
    partitions: BTreeMap<i32, Partition>,
    /// Watermark of the source as committed with the epoch before.
    committed_watermark: Option<i64>,
    /// The object that the positions are stored under: the source itself, or a view that catches up.
    holder: ObjectId,
    /// Where a view that catches up stops for now.
    ends: Option<Positions>,
}

/// What the positions are of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    /// The id of the topic, if the brokers give topics one.
    topic_id: Option<String>,
    /// Where partitions are to go on whose positions are gone: `latest` or `earliest`, until the reader has done that.
    reset: Option<String>,
}

/// Key of the [`Origin`] in the source's status table.
const ORIGIN: &[u8] = b"origin";

/// What an epoch takes from a source.
pub struct Taken {
    pub deltas: Vec<Delta>,
    /// Instead of those, what a keyed source gives.
    pub upserts: Vec<Upserts>,
    pub dead: Vec<DeadLetter>,
    /// Records that could not be read and are kept nowhere.
    pub skipped: u64,
    pub rows: usize,
    pub bytes: usize,
    /// When the oldest record arrived.
    pub arrived: Option<Instant>,
    /// Whether offsets, watermarks or idleness changed.
    pub changed: bool,
}

impl Source {
    /// The source of an object, not read yet. `watermark` is its column and expression, `group` the consumer group that its
    /// positions are mirrored to if its options name none.
    pub fn new(
        object: &Object,
        spec: SourceSpec,
        group: String,
        watermark: Option<(usize, Arc<dyn PhysicalExpr>)>,
        generated: Arc<[Generated]>,
    ) -> Self {
        Self {
            id: object.id,
            name: object.name.clone(),
            spec: spec.with_group(&group),
            options: options_of(object),
            group,
            watermark,
            generated,
            queue: ChunkQueue::new(QUEUE_BYTES),
            reader: None,
            is_keyed: matches!(&object.kind, ObjectKind::Source(source) if source.is_keyed()),
            used: false,
            suspended: object.suspended,
            origin: Origin::default(),
            columns: ColumnsRead::default(),
            completion: None,
            partitions: BTreeMap::new(),
            committed_watermark: None,
            holder: object.id,
            ends: None,
        }
    }

    /// The same source for one view that must read what the others have read already. It starts where the first of them
    /// started and ends, for now, where they are.
    pub fn for_view(&self, view: ObjectId) -> Self {
        Self {
            id: self.id,
            name: self.name.clone(),
            spec: self.spec.clone(),
            options: self.options.clone(),
            group: self.group.clone(),
            watermark: self.watermark.clone(),
            generated: self.generated.clone(),
            queue: ChunkQueue::new(QUEUE_BYTES),
            reader: None,
            is_keyed: self.is_keyed,
            used: false,
            suspended: self.suspended,
            origin: Origin { reset: None, ..self.origin.clone() },
            columns: ColumnsRead::default(),
            completion: None,
            partitions: BTreeMap::new(),
            committed_watermark: None,
            holder: view,
            ends: Some(self.positions()),
        }
    }

    /// The same source for a view that stands still from here on, to be read from here later.
    pub fn for_standing_view(&self, view: ObjectId) -> Self {
        let (partitions, committed_watermark) = (self.partitions.clone(), self.committed_watermark);
        Self { partitions, committed_watermark, suspended: true, ..self.for_view(view) }
    }

    /// Takes over what the catalog says of it now: its name, its options, and whether it is suspended; `stands` if a view
    /// that it is read for alone is. What was read and not taken is read again.
    ///
    /// # Errors
    /// 22023 if the client library refuses options; it is as before then, but not read.
    pub fn follow(&mut self, object: &Object, stands: bool, doorbell: &Doorbell) -> Result<()> {
        if self.name != object.name {
            self.name.clone_from(&object.name);
        }
        let suspended = object.suspended || stands;
        let options = options_of(object);
        if suspended == self.suspended && options == self.options {
            return Ok(());
        }
        if let (true, ObjectKind::Source(source)) = (options != self.options, &object.kind) {
            self.spec = SourceSpec::new(source)?.with_group(&self.group);
            self.options = options;
        }
        self.suspended = suspended;
        self.restart(doorbell)
    }

    /// Goes on elsewhere with the partitions whose positions are gone, and with all if the topic is another one.
    pub fn reset(&mut self, to: Reset, doorbell: &Doorbell) -> Result<()> {
        let before = self.origin.reset.replace(to.name().to_string());
        let started = self.restart(doorbell);
        if started.is_err() {
            self.origin.reset = before;
        }
        started
    }

    /// Whether it was told to stand still.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// What keeps it from being read, if something does.
    pub fn trouble(&self) -> Option<String> {
        let status = self.reader.as_ref()?.status();
        status.partitions.into_iter().find_map(|p| p.error).or(status.error)
    }

    /// Whether a new view must read records that the source's reader is past.
    pub fn has_history(&self) -> bool {
        self.is_read() && !self.partitions.is_empty() && !self.spec.starts_at_end()
    }

    /// Whether a new view reads what came before it at all.
    pub fn has_past(&self) -> bool {
        !self.spec.starts_at_end()
    }

    /// Next offset to take, by partition.
    pub fn positions(&self) -> Positions {
        self.partitions.iter().map(|(p, s)| (*p, s.next_offset)).collect()
    }

    /// Whether every partition is where it should end for now.
    pub fn is_at_end(&self) -> bool {
        self.ends.as_ref().is_some_and(|ends| {
            ends.iter().all(|(p, end)| self.partitions.get(p).is_some_and(|s| s.next_offset >= *end))
        })
    }

    /// Reads on to new ends.
    pub fn read_until(&mut self, ends: Positions, doorbell: &Doorbell) -> Result<()> {
        self.ends = Some(ends);
        self.restart(doorbell)
    }

    /// Takes up the positions and watermarks of the last committed epoch.
    pub fn recover(&mut self, snapshot: &Arc<Snapshot>) -> Result<()> {
        let prefix = self.id.0.to_be_bytes();
        let partitions = stored_partitions(snapshot, self.table(), self.id)?;
        let watermark = match snapshot.get(self.table(), &prefix)? {
            Some(bytes) if !bytes.is_empty() => {
                Some(bytes.as_slice().try_into().map(i64::from_be_bytes).map_err(|_| corrupt(self.id))?)
            }
            _ => None,
        };
        self.partitions = partitions;
        self.committed_watermark = watermark;
        if self.holder == self.id {
            self.origin = match snapshot.get(self.status_table(), ORIGIN)? {
                Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| corrupt(self.id))?,
                None => Origin::default(),
            };
        }
        Ok(())
    }

    /// What becomes of late rows of it, as its options say.
    pub fn late_rows(&self) -> LateRows {
        self.spec.late_rows()
    }

    /// The topic that dead letters name.
    pub fn topic(&self) -> &str {
        self.spec.topic()
    }

    /// Whether a view reads it, or would if it were not suspended.
    pub fn is_read(&self) -> bool {
        self.used
    }

    /// Reads at least these columns from here on: starts the reader, or starts it anew from the taken positions with more
    /// columns.
    pub fn read_columns(&mut self, wanted: &ColumnsRead, doorbell: &Doorbell) -> Result<()> {
        let mut all = wanted.clone();
        self.watermark.iter().for_each(|(column, _)| all.add(*column));
        let all = with_inputs(&all, &self.generated);
        if self.used && self.columns.contains(&all) {
            return Ok(());
        }
        self.columns = all;
        self.used = true;
        self.restart(doorbell)
    }

    /// Schema of what is read: of a row that says that the one of its key is gone, only the key has values.
    fn read_schema(&self) -> SchemaRef {
        let schema = self.spec.schema();
        if !self.is_keyed {
            return schema.clone();
        }
        let nullable = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        Arc::new(Schema::new(nullable.collect::<Vec<_>>()))
    }

    /// Whether its rows are kept by their key, as a table's are.
    pub fn is_keyed(&self) -> bool {
        self.is_keyed
    }

    /// Reads all columns from here on, also if nobody asks for them: what a keyed source keeps is whole.
    ///
    /// # Errors
    /// As [`Source::read_columns`].
    pub fn read_all(&mut self, doorbell: &Doorbell) -> Result<()> {
        let all = ColumnsRead::of(0..self.spec.columns().len(), &FieldsRead::new());
        self.read_columns(&all, doorbell)
    }

    /// Stops reading: no view is left. Positions are forgotten, for the next view starts anew.
    pub fn stop(&mut self, state: &mut State) -> Result<()> {
        if let Some(reader) = self.reader.take() {
            reader.stop();
        }
        self.columns = ColumnsRead::default();
        self.used = false;
        if self.holder == self.id {
            self.origin = Origin::default();
            state.delete(self.status_table(), ORIGIN);
        }
        for partition in std::mem::take(&mut self.partitions).keys() {
            state.delete(self.table(), &self.key(*partition));
        }
        state.delete(self.table(), &self.id.0.to_be_bytes());
        self.committed_watermark = None;
        Ok(())
    }

    /// Goes back to the committed positions after a failed commit.
    pub fn rewind(&mut self, snapshot: &Arc<Snapshot>, doorbell: &Doorbell) -> Result<()> {
        self.recover(snapshot)?;
        self.restart(doorbell)
    }

    /// Reads anew from the taken positions, or not at all if no view reads it or it is suspended.
    fn restart(&mut self, doorbell: &Doorbell) -> Result<()> {
        if let Some(reader) = self.reader.take() {
            reader.stop();
        }
        self.queue.close();
        self.queue = ChunkQueue::new(QUEUE_BYTES);
        if !self.used || self.suspended {
            return Ok(());
        }
        // Nothing was to come while it was not read.
        if let Some(timeout) = self.spec.idle_timeout() {
            let idle_at = Instant::now() + timeout;
            self.partitions.values_mut().for_each(|p| p.is_busy_until(idle_at));
        }
        let columns: Vec<usize> = self.columns.columns().collect();
        let completion = Completion::new(&columns, &self.generated, &self.read_schema())?;
        let (queue, doorbell) = (self.queue.clone(), doorbell.clone());
        let spec = self.spec.with_fields(self.columns.fields());
        let start = Start {
            positions: self.positions(),
            ends: self.ends.clone(),
            origin: self.origin.topic_id.clone(),
            reset: self.origin.reset.as_deref().and_then(Reset::of),
        };
        let reader = spec.start_at(completion.recorded(), start, queue, doorbell)?;
        self.reader = Some(reader);
        self.completion = Some(completion);
        Ok(())
    }

    /// Whether records wait.
    pub fn has_input(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes what is ready, up to the bounds, and moves positions, watermark and idleness along. Deltas have the source's
    /// decoded columns, see [`Source::columns`], those of processing time with `now_us`.
    pub fn take(&mut self, rows_max: usize, bytes_max: usize, now_us: i64, stats: &Stats) -> Result<Taken> {
        let mut taken = Taken {
            deltas: Vec::new(),
            upserts: Vec::new(),
            dead: Vec::new(),
            skipped: 0,
            rows: 0,
            bytes: 0,
            arrived: None,
            changed: false,
        };
        if self.reader.is_none() {
            return Ok(taken);
        }
        let now = Instant::now();
        // The queue gives a chunk at least; a source that is held takes none.
        let chunks = if rows_max > 0 { self.queue.take(rows_max, bytes_max) } else { Vec::new() };
        for mut chunk in chunks {
            if let Some(completion) = &self.completion {
                chunk.batch = completion.complete(&chunk.batch, now_us)?;
            }
            self.advance(&chunk, now)?;
            taken.changed = true;
            taken.rows += chunk.batch.num_rows();
            taken.bytes += chunk.bytes;
            taken.arrived = Some(taken.arrived.map_or(chunk.arrived, |a| a.min(chunk.arrived)));
            taken.dead.extend(chunk.dead);
            taken.skipped += chunk.skipped;
            match chunk.batch.num_rows() {
                0 => {}
                _ if self.is_keyed => taken.upserts.push(Upserts { batch: chunk.batch, deletes: chunk.deletes }),
                _ => taken.deltas.push(Delta::inserts(chunk.batch)),
            }
        }
        taken.changed |= self.judge_idle(now);
        if taken.changed && self.holder == self.id {
            let (rows, dead) = (taken.rows as u64, taken.dead.len() as u64);
            let partitions = self.partitions.iter().map(|(p, s)| (*p, s.stats())).collect();
            stats.update_source(self.id, |s| {
                s.rows += rows;
                s.bytes += taken.bytes as u64;
                s.dead_letters += dead;
                s.skipped += taken.skipped;
                s.partitions = partitions;
            });
        }
        Ok(taken)
    }

    fn advance(&mut self, chunk: &Chunk, now: Instant) -> Result<()> {
        let watermark = self.chunk_watermark(&chunk.batch)?;
        let source_watermark = self.watermark_us();
        if let Some(topic_id) = &chunk.origin {
            self.origin.topic_id = Some(topic_id.to_string());
        }
        // The first that a reader gives are the positions that it begins at.
        self.origin.reset = None;
        let is_new = !self.partitions.contains_key(&chunk.partition);
        let partition =
            self.partitions.entry(chunk.partition).or_insert_with(|| Partition::new(chunk.first_offset, now));
        partition.advance(chunk, watermark, source_watermark);
        if let (Some(timeout), true) = (self.spec.idle_timeout(), is_new || chunk.batch.num_rows() > 0) {
            partition.is_busy_until(now + timeout);
        }
        Ok(())
    }

    /// The latest value of the watermark expression in a batch of decoded columns.
    fn chunk_watermark(&self, batch: &RecordBatch) -> Result<Option<i64>> {
        let Some((column, expression)) = &self.watermark else { return Ok(None) };
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        let Some(position) = self.columns.columns().position(|c| c == *column) else { return Ok(None) };
        // The expression is monotone in its one column: its maximum is its value at the column's maximum.
        let latest = latest_time(batch.column(position));
        let Some(latest) = latest else { return Ok(None) };
        Ok(evaluate_at(expression, self.spec.schema(), *column, latest))
    }

    /// Marks partitions that were silent for the idle timeout and have nothing left to read. Whether one changed.
    fn judge_idle(&mut self, now: Instant) -> bool {
        let (Some(_), Some(reader)) = (self.spec.idle_timeout(), &self.reader) else { return false };
        if !self.partitions.values().any(|p| p.is_due(now)) {
            return false;
        }
        let status = reader.status();
        let due = self.partitions.iter_mut().filter(|(_, p)| p.is_due(now));
        due.fold(false, |changed, (number, p)| p.judge(*number, &status, now) || changed)
    }

    /// When the next partition may become idle if nothing comes.
    pub fn next_timer(&self, now: Instant) -> Option<Duration> {
        self.spec.idle_timeout().and(self.reader.as_ref()).and(self.watermark.as_ref())?;
        self.partitions.values().filter_map(|p| p.idle_in(now)).min()
    }

    /// Puts positions and watermarks into the open epoch.
    pub fn freeze(&self, state: &mut State) -> Result<()> {
        for (partition, s) in &self.partitions {
            let value = serde_json::to_vec(s).map_err(|e| Error::internal(e.to_string()))?;
            state.put(self.table(), &self.key(*partition), &value);
        }
        // The watermark may be ahead of what the partitions say by themselves, for it never goes back. Of a view that
        // catches up the entry says that it does, also before its first record.
        let watermark = self.watermark_us().map(i64::to_be_bytes);
        state.put(self.table(), &self.id.0.to_be_bytes(), watermark.as_ref().map_or(b"", |w| w.as_slice()));
        if self.holder == self.id {
            let origin = serde_json::to_vec(&self.origin).map_err(|e| Error::internal(e.to_string()))?;
            state.put(self.status_table(), ORIGIN, &origin);
        }
        Ok(())
    }

    /// The source's watermark: the least over the partitions that are not idle, or the greatest of all if all are.
    fn watermark_us(&self) -> Option<i64> {
        let busy = self.partitions.values().filter(|p| !p.idle);
        let least = busy.map(|p| p.watermark_us).min();
        match least {
            Some(watermark) => watermark.max(self.committed_watermark),
            None => self.partitions.values().filter_map(|p| p.watermark_us).max().max(self.committed_watermark),
        }
    }

    /// Watermarks of the source's columns: as committed with the epoch before, whose `now()` was `before_us`, and with what
    /// this epoch took. Processing time never goes back, so it is its own watermark.
    pub fn watermarks(&self, before_us: i64, now_us: i64) -> PortWatermarks {
        let width = self.spec.schema().fields().len();
        let declared = self.watermark.as_ref().map(|(c, _)| *c);
        let at = |value: Option<i64>, clock_us: i64| {
            let of_column = |c: usize| match self.is_clock(c) {
                true => Some(clock_us),
                false => value.filter(|_| Some(c) == declared),
            };
            (0..width).map(of_column).collect()
        };
        PortWatermarks { committed: at(self.committed_watermark, before_us), current: at(self.watermark_us(), now_us) }
    }

    /// Whether time alone moves a watermark of it.
    pub fn has_clock(&self) -> bool {
        self.generated.iter().any(|g| matches!(g.value, Computed::Clock))
    }

    /// Whether a column is of processing time.
    fn is_clock(&self, column: usize) -> bool {
        self.generated.iter().any(|g| g.column == column && matches!(g.value, Computed::Clock))
    }

    /// The decoded columns, ascending.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.columns.columns()
    }

    /// The open epoch is frozen: its watermark is now the committed one.
    pub fn epoch_done(&mut self) {
        self.committed_watermark = self.watermark_us();
    }

    /// Tells the broker's consumer group how far the epochs are, and people what the reader reports.
    pub fn report(&mut self, stats: &Stats) {
        let status = match &self.reader {
            Some(reader) => {
                let positions: Vec<(i32, i64)> = self.positions().into_iter().collect();
                reader.commit_offsets(&positions);
                reader.status()
            }
            None => ReaderStatus::default(),
        };
        let now = Instant::now();
        self.partitions.iter_mut().for_each(|(number, p)| p.sample(*number, &status, now));
        let partitions = self.partitions.iter().map(|(p, s)| (*p, s.stats())).collect();
        let (suspended, group) = (self.suspended, self.spec.group());
        stats.update_source(self.id, |s| {
            s.status = status;
            s.partitions = partitions;
            s.suspended = suspended;
            s.group = group;
        });
    }

    fn status_table(&self) -> TableId {
        TableId::new(self.id.0, part::STATUS)
    }

    fn table(&self) -> TableId {
        TableId::new(self.holder.0, part::POSITIONS)
    }

    fn key(&self, partition: i32) -> [u8; 8] {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&self.id.0.to_be_bytes());
        key[4..].copy_from_slice(&partition.to_be_bytes());
        key
    }
}

/// The options of a source object.
fn options_of(object: &Object) -> BTreeMap<String, String> {
    match &object.kind {
        ObjectKind::Source(source) => source.options.clone(),
        _ => BTreeMap::new(),
    }
}

/// The next offset of each partition of a source as of a snapshot: all records before it are in the views of that moment.
pub fn positions_at(snapshot: &Arc<Snapshot>, source: ObjectId) -> Result<Positions> {
    let partitions = stored_partitions(snapshot, TableId::new(source.0, part::POSITIONS), source)?;
    Ok(partitions.into_iter().map(|(partition, stored)| (partition, stored.next_offset)).collect())
}

fn stored_partitions(snapshot: &Arc<Snapshot>, table: TableId, source: ObjectId) -> Result<BTreeMap<i32, Partition>> {
    let prefix = source.0.to_be_bytes();
    let to = successor(&prefix);
    let mut partitions = BTreeMap::new();
    for entry in snapshot.scan(table, Bound::Excluded(&prefix), to.as_ref().map(Vec::as_slice)) {
        let (key, value) = entry?;
        let partition = key[prefix.len()..].try_into().map(i32::from_be_bytes).map_err(|_| corrupt(source))?;
        partitions.insert(partition, serde_json::from_slice(&value).map_err(|_| corrupt(source))?);
    }
    Ok(partitions)
}

fn corrupt(source: ObjectId) -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, format!("positions of source {source} cannot be read"))
}

/// Whether a view was still catching up with a source in the last committed epoch.
pub fn catches_up(snapshot: &Snapshot, view: ObjectId, source: ObjectId) -> Result<bool> {
    let table = TableId::new(view.0, part::POSITIONS);
    Ok(snapshot.get(table, &source.0.to_be_bytes())?.is_some())
}
