//! How many rows a second a new view may take of what was there before it: `WITH (backfill_rate_limit = n)`.

use std::time::{Duration, Instant};

/// Rows are let through at a steady rate; what is not used adds up for a second.
#[derive(Debug)]
pub struct Throttle {
    rows_per_second: f64,
    allowed: f64,
    as_of: Instant,
}

impl Throttle {
    pub fn new(rows_per_second: u32) -> Self {
        Self { rows_per_second: f64::from(rows_per_second.max(1)), allowed: 0.0, as_of: Instant::now() }
    }

    /// Rows that may be taken now.
    pub fn allowed(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.as_of).as_secs_f64();
        self.as_of = self.as_of.max(now);
        self.allowed = (self.allowed + since * self.rows_per_second).min(self.rows_per_second.max(1.0));
        self.allowed.max(0.0) as usize
    }

    /// Notes that rows were taken, perhaps more than were allowed: whole chunks are.
    pub fn took(&mut self, rows: usize) {
        self.allowed -= rows as f64;
    }

    /// How long until a row may be taken.
    pub fn wait(&mut self, now: Instant) -> Duration {
        match self.allowed(now) {
            0 => Duration::from_secs_f64(((1.0 - self.allowed) / self.rows_per_second).max(0.001)),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_at_the_rate() {
        let mut throttle = Throttle::new(100);
        let start = throttle.as_of;
        assert_eq!(throttle.allowed(start), 0);
        assert_eq!(throttle.wait(start), Duration::from_millis(10));
        assert_eq!(throttle.allowed(start + Duration::from_millis(500)), 50);
        throttle.took(150);
        assert_eq!(throttle.allowed(start + Duration::from_millis(500)), 0);
        assert_eq!(throttle.wait(start + Duration::from_millis(500)), Duration::from_millis(1010));
        assert_eq!(throttle.allowed(start + Duration::from_millis(1600)), 10);
        // No more than a second's adds up.
        assert_eq!(throttle.allowed(start + Duration::from_secs(60)), 100);
    }
}
