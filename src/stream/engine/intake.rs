//! How much an epoch takes: bounded in rows, bytes, time, and by what the rows of the last epochs made of themselves.

use std::time::Duration;

/// Bounds of an epoch.
#[derive(Debug, Clone, Copy)]
pub struct EpochLimits {
    /// Input rows.
    pub rows: usize,
    /// Bytes of input.
    pub bytes: usize,
    /// How long the rows that an epoch takes may keep it busy.
    pub time: Duration,
    /// Memory of an epoch's writes that its intake is measured for.
    pub write_set_bytes: usize,
    /// Memory of an epoch's writes and of what its operators hand on, past which it fails.
    pub write_set_limit_bytes: usize,
}

impl Default for EpochLimits {
    fn default() -> Self {
        Self {
            rows: 131_072,
            bytes: 64 << 20,
            time: Duration::from_millis(100),
            write_set_bytes: 128 << 20,
            write_set_limit_bytes: 1 << 30,
        }
    }
}

/// Rows that an epoch takes whatever they cost: fewer would cost more each, for an epoch has a price of its own.
const ROWS_MIN: usize = 1024;

/// The intake of the next epoch, which follows what the last ones cost.
#[derive(Debug)]
pub struct Intake {
    limits: EpochLimits,
    /// Input rows that the next epoch may take.
    rows: usize,
}

impl Intake {
    pub fn new(limits: EpochLimits) -> Self {
        Self { rows: limits.rows, limits }
    }

    /// The bounds that do not move.
    pub fn limits(&self) -> &EpochLimits {
        &self.limits
    }

    /// Rows that the next epoch may take.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Learns from an epoch that took `rows` input rows, was busy for `busy`, and wrote `written_bytes`.
    pub fn observe(&mut self, rows: usize, busy: Duration, written_bytes: usize) {
        if rows == 0 {
            return;
        }
        let scaled = |bound: f64, cost: f64| (rows as f64 * bound / cost.max(1e-9)) as usize;
        let in_time = scaled(self.limits.time.as_secs_f64(), busy.as_secs_f64());
        let in_memory = scaled(self.limits.write_set_bytes as f64, written_bytes as f64);
        // A small epoch says little of a large one, so the intake grows step by step; it shrinks at once.
        let most = self.rows.max(rows).saturating_mul(2);
        self.rows = in_time.min(in_memory).min(most).clamp(self.least(), self.limits.rows);
    }

    /// Halves the intake after an epoch that took `rows` and grew past the limit. False if it cannot be less.
    pub fn shrink(&mut self, rows: usize) -> bool {
        // An epoch takes whole chunks of records, so it may have taken more than it was allowed.
        let next = rows.min(self.rows) / 2;
        if next == 0 {
            return false;
        }
        self.rows = next;
        true
    }

    fn least(&self) -> usize {
        ROWS_MIN.min(self.limits.rows)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{EpochLimits, Intake, ROWS_MIN};

    fn intake() -> Intake {
        Intake::new(EpochLimits {
            rows: 100_000,
            time: Duration::from_millis(100),
            write_set_bytes: 10_000_000,
            ..EpochLimits::default()
        })
    }

    #[test]
    fn follows_time_and_writes() {
        let mut intake = intake();
        assert_eq!(intake.rows(), 100_000);
        intake.observe(100_000, Duration::from_millis(400), 1000);
        assert_eq!(intake.rows(), 25_000);
        intake.observe(25_000, Duration::from_millis(20), 1000);
        assert_eq!(intake.rows(), 50_000);
        // 1000 bytes a row.
        intake.observe(50_000, Duration::from_millis(1), 50_000_000);
        assert_eq!(intake.rows(), 10_000);
        // One slow epoch of a few rows is the disk's doing, not the rows'.
        intake.observe(10, Duration::from_secs(5), 10);
        assert_eq!(intake.rows(), ROWS_MIN);
        intake.observe(0, Duration::from_secs(5), 10);
        assert_eq!(intake.rows(), ROWS_MIN);
        for _ in 0..20 {
            intake.observe(intake.rows(), Duration::from_millis(1), 1);
        }
        assert_eq!(intake.rows(), 100_000);
    }

    #[test]
    fn shrinks_to_a_single_row() {
        let mut intake = intake();
        assert!(intake.shrink(60_000));
        assert_eq!(intake.rows(), 30_000);
        let mut steps = 0;
        while intake.shrink(intake.rows()) {
            steps += 1;
        }
        assert_eq!((intake.rows(), steps), (1, 14));
    }
}
