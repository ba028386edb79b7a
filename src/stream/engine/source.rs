//! A source that is being read: its reader, the positions up to which the views hold it, and its watermark.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use millstream_catalog::ObjectId;
use millstream_connectors::{Chunk, ChunkQueue, DeadLetter, Doorbell, Positions, Reader, SourceSpec};
use serde::{Deserialize, Serialize};

use super::stats::{PartitionStats, Rate, Stats};
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
    /// The watermark column and expression over all columns, if the source has one.
    watermark: Option<(usize, Arc<dyn PhysicalExpr>)>,
    generated: Arc<[Generated]>,
    queue: ChunkQueue,
    reader: Option<Reader>,
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

/// One partition: what the committed epochs hold of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Partition {
    next_offset: i64,
    watermark_us: Option<i64>,
    idle: bool,
    #[serde(skip, default = "Instant::now")]
    last_record: Instant,
    /// Since the server started, for people.
    #[serde(skip)]
    rows: u64,
    #[serde(skip)]
    dead_letters: u64,
    #[serde(skip)]
    skipped: u64,
    #[serde(skip)]
    rate: Rate,
}

/// What an epoch takes from a source.
pub struct Taken {
    pub deltas: Vec<Delta>,
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
    /// A source that is not read yet. `watermark` is its column and expression.
    pub fn new(
        id: ObjectId,
        name: String,
        spec: SourceSpec,
        watermark: Option<(usize, Arc<dyn PhysicalExpr>)>,
        generated: Arc<[Generated]>,
    ) -> Self {
        Self {
            id,
            name,
            spec,
            watermark,
            generated,
            queue: ChunkQueue::new(QUEUE_BYTES),
            reader: None,
            columns: ColumnsRead::default(),
            completion: None,
            partitions: BTreeMap::new(),
            committed_watermark: None,
            holder: id,
            ends: None,
        }
    }

    /// The same source for one view that must read what the others have read already. It starts where the first of them
    /// started and ends, for now, where they are.
    pub fn for_view(&self, view: ObjectId) -> Self {
        let (spec, watermark, generated) = (self.spec.clone(), self.watermark.clone(), self.generated.clone());
        let mut own = Self::new(self.id, self.name.clone(), spec, watermark, generated);
        own.holder = view;
        own.ends = Some(self.positions());
        own
    }

    /// Whether a new view must read records that the source's reader is past.
    pub fn has_history(&self) -> bool {
        self.is_read() && !self.partitions.is_empty() && !self.spec.starts_at_end()
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
        Ok(())
    }

    /// The topic that dead letters name.
    pub fn topic(&self) -> &str {
        self.spec.topic()
    }

    /// Whether a view reads it.
    pub fn is_read(&self) -> bool {
        self.reader.is_some()
    }

    /// Reads at least these columns from here on: starts the reader, or starts it anew from the taken positions with more
    /// columns.
    pub fn read_columns(&mut self, wanted: &ColumnsRead, doorbell: &Doorbell) -> Result<()> {
        let mut all = wanted.clone();
        self.watermark.iter().for_each(|(column, _)| all.add(*column));
        let all = with_inputs(&all, &self.generated);
        if self.reader.is_some() && self.columns.contains(&all) {
            return Ok(());
        }
        self.columns = all;
        self.restart(doorbell)
    }

    /// Stops reading: no view is left. Positions are forgotten, for the next view starts anew.
    pub fn stop(&mut self, state: &mut State) -> Result<()> {
        if let Some(reader) = self.reader.take() {
            reader.stop();
        }
        self.columns = ColumnsRead::default();
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
        if self.reader.is_some() { self.restart(doorbell) } else { Ok(()) }
    }

    fn restart(&mut self, doorbell: &Doorbell) -> Result<()> {
        if let Some(reader) = self.reader.take() {
            reader.stop();
        }
        self.queue.close();
        self.queue = ChunkQueue::new(QUEUE_BYTES);
        let columns: Vec<usize> = self.columns.columns().collect();
        let completion = Completion::new(&columns, &self.generated, self.spec.schema())?;
        let (queue, doorbell) = (self.queue.clone(), doorbell.clone());
        let spec = self.spec.with_fields(self.columns.fields());
        let reader = spec.start_until(completion.recorded(), self.positions(), self.ends.clone(), queue, doorbell)?;
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
            if chunk.batch.num_rows() > 0 {
                taken.deltas.push(Delta::inserts(chunk.batch));
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
        let partition = self.partitions.entry(chunk.partition).or_insert(Partition {
            next_offset: chunk.first_offset,
            watermark_us: None,
            idle: false,
            last_record: now,
            rows: 0,
            dead_letters: 0,
            skipped: 0,
            rate: Rate::default(),
        });
        partition.next_offset = chunk.next_offset;
        partition.rows += chunk.batch.num_rows() as u64;
        partition.dead_letters += chunk.dead.len() as u64;
        partition.skipped += chunk.skipped;
        if chunk.batch.num_rows() > 0 {
            partition.last_record = now;
            if partition.idle {
                // A returning partition cannot pull the source's time back: it joins where the source is.
                partition.idle = false;
                partition.watermark_us = partition.watermark_us.max(source_watermark);
            }
            partition.watermark_us = partition.watermark_us.max(watermark);
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

    /// Marks partitions that were silent for the idle timeout. Whether one changed.
    fn judge_idle(&mut self, now: Instant) -> bool {
        let Some(timeout) = self.spec.idle_timeout() else { return false };
        let mut changed = false;
        for partition in self.partitions.values_mut().filter(|p| !p.idle) {
            if now.duration_since(partition.last_record) >= timeout {
                partition.idle = true;
                changed = true;
            }
        }
        changed
    }

    /// When the next partition becomes idle if nothing comes.
    pub fn next_timer(&self, now: Instant) -> Option<Duration> {
        let timeout = self.spec.idle_timeout()?;
        self.watermark.as_ref()?;
        let timers = self.partitions.values().filter(|p| !p.idle);
        timers.map(|p| (p.last_record + timeout).saturating_duration_since(now)).min()
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

    /// Tells the broker's consumer group how far the committed epochs are, and people what the reader reports.
    pub fn report(&mut self, stats: &Stats) {
        let Some(reader) = &self.reader else { return };
        let now = Instant::now();
        for partition in self.partitions.values_mut() {
            partition.rate.sample(now, partition.rows);
        }
        let positions: Vec<(i32, i64)> = self.partitions.iter().map(|(p, s)| (*p, s.next_offset)).collect();
        reader.commit_offsets(&positions);
        let status = reader.status();
        let partitions = self.partitions.iter().map(|(p, s)| (*p, s.stats())).collect();
        stats.update_source(self.id, |s| {
            s.status = status;
            s.partitions = partitions;
        });
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

impl Partition {
    fn stats(&self) -> PartitionStats {
        PartitionStats {
            next_offset: self.next_offset,
            watermark_us: self.watermark_us,
            idle: self.idle,
            rows: self.rows,
            dead_letters: self.dead_letters,
            skipped: self.skipped,
            rows_per_second: self.rate.per_second(),
        }
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
