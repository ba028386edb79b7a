//! One partition of a source: what the committed epochs hold of it, its time, and how far it is behind.

use std::time::{Duration, Instant};

use millstream_connectors::{Chunk, ReaderStatus};
use serde::{Deserialize, Serialize};

use super::stats::{PartitionStats, Rate};

/// How soon a partition that has records left is asked again whether it is idle.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A partition of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    pub next_offset: i64,
    pub watermark_us: Option<i64>,
    /// Whether it is left out of the source's watermark.
    pub idle: bool,
    /// Latest timestamp of the records that were taken, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read_ms: Option<i64>,
    /// How often its position was gone and it went on elsewhere, and how many records it passed over then.
    #[serde(default)]
    resets: u64,
    #[serde(default)]
    lost: u64,
    /// When it is idle if nothing comes.
    #[serde(skip, default = "Instant::now")]
    idle_at: Instant,
    /// When it was last seen to have nothing left to read.
    #[serde(skip)]
    at_end: Option<Instant>,
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

impl Partition {
    /// One of which nothing was read.
    pub fn new(next_offset: i64, now: Instant) -> Self {
        Self {
            next_offset,
            watermark_us: None,
            idle: false,
            read_ms: None,
            resets: 0,
            lost: 0,
            idle_at: now,
            at_end: None,
            rows: 0,
            dead_letters: 0,
            skipped: 0,
            rate: Rate::default(),
        }
    }

    /// Takes a chunk of which `watermark_us` is the latest time. A chunk that does not begin where the one before ended says
    /// that the position was gone.
    pub fn advance(&mut self, chunk: &Chunk, watermark_us: Option<i64>, source_us: Option<i64>) {
        if chunk.first_offset != self.next_offset {
            self.resets += 1;
            self.lost += u64::try_from(chunk.first_offset - self.next_offset).unwrap_or(0);
        }
        self.next_offset = chunk.next_offset;
        self.rows += chunk.batch.num_rows() as u64;
        self.dead_letters += chunk.dead.len() as u64;
        self.skipped += chunk.skipped;
        self.read_ms = self.read_ms.max(Some(chunk.produced_ms_max).filter(|ms| *ms != i64::MIN));
        if chunk.batch.num_rows() > 0 {
            if self.idle {
                // A returning partition cannot pull the source's time back: it joins where the source is.
                self.idle = false;
                self.watermark_us = self.watermark_us.max(source_us);
            }
            self.watermark_us = self.watermark_us.max(watermark_us);
        }
    }

    /// Something came, or it is only now being read: it is busy for as long as the timeout says.
    pub fn is_busy_until(&mut self, idle_at: Instant) {
        self.idle_at = idle_at;
    }

    /// Whether it is time to judge whether it is idle.
    pub fn is_due(&self, now: Instant) -> bool {
        !self.idle && now >= self.idle_at
    }

    /// How long until then, if it is busy.
    pub fn idle_in(&self, now: Instant) -> Option<Duration> {
        (!self.idle).then(|| self.idle_at.saturating_duration_since(now))
    }

    /// Makes it idle if it has nothing left to read. Records that wait behind a fault, or because a sink is full, are to
    /// come in time: it is asked again later. Whether it is idle.
    pub fn judge(&mut self, number: i32, status: &ReaderStatus, now: Instant) -> bool {
        self.idle = self.has_read_all(number, status);
        if !self.idle {
            self.idle_at = now + ASK_AGAIN;
        }
        self.idle
    }

    /// Whether the reader gets at the partition and has seen nothing beyond what was taken.
    fn has_read_all(&self, number: i32, status: &ReaderStatus) -> bool {
        let own = status.partitions.iter().find(|p| p.partition == number);
        status.error.is_none()
            && own.is_some_and(|p| {
                !p.stopped && p.error.is_none() && p.high_watermark.is_none_or(|high| self.next_offset >= high)
            })
    }

    /// Looks how it stands, about once a second.
    pub fn sample(&mut self, number: i32, status: &ReaderStatus, now: Instant) {
        self.rate.sample(now, self.rows);
        if self.has_read_all(number, status) {
            self.at_end = Some(now);
        }
    }

    /// What it tells people.
    pub fn stats(&self) -> PartitionStats {
        PartitionStats {
            next_offset: self.next_offset,
            watermark_us: self.watermark_us,
            idle: self.idle,
            rows: self.rows,
            dead_letters: self.dead_letters,
            skipped: self.skipped,
            rows_per_second: self.rate.per_second(),
            resets: self.resets,
            lost: self.lost,
            read_ms: self.read_ms,
            at_end: self.at_end,
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_connectors::PartitionStatus;

    use super::*;

    fn status(high: i64, error: Option<&str>) -> ReaderStatus {
        let partition = PartitionStatus {
            partition: 0,
            next_offset: 0,
            high_watermark: Some(high),
            error: error.map(str::to_string),
            stopped: false,
        };
        ReaderStatus { partitions: vec![partition], error: None }
    }

    #[test]
    fn only_what_has_nothing_left_is_idle() {
        let now = Instant::now();
        let mut partition = Partition::new(5, now);
        assert!(partition.is_due(now));
        assert!(!partition.judge(0, &status(6, None), now));
        assert!(!partition.is_due(now));
        assert!(!partition.judge(0, &status(5, Some("broker away")), now));
        assert!(!partition.judge(0, &ReaderStatus::default(), now));
        assert!(partition.judge(0, &status(5, None), now));
    }
}
