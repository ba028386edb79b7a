//! As many records a second as asked, in small portions.

use std::time::{Duration, Instant};

/// Says how many records are due.
#[derive(Debug)]
pub struct Pace {
    rate: f64,
    started: Instant,
    given: u64,
}

/// Longest wait for a portion; short, so that records come evenly.
const PORTION: Duration = Duration::from_millis(5);

impl Pace {
    /// `rate` records a second from now on.
    pub fn new(rate: f64) -> Self {
        Self { rate, started: Instant::now(), given: 0 }
    }

    /// Waits a few milliseconds if nothing is due; how many records to send now, which may still be none. One that has
    /// fallen behind catches up by at most a second's records at once.
    pub fn wait(&mut self) -> usize {
        let due = self.due();
        if due > 0 {
            return due;
        }
        std::thread::sleep(PORTION.min(Duration::from_secs_f64((1.0 / self.rate.max(1e-3)).min(1.0))));
        self.due()
    }

    fn due(&mut self) -> usize {
        let target = (self.started.elapsed().as_secs_f64() * self.rate) as u64;
        let due = target.saturating_sub(self.given).min(self.rate.ceil() as u64);
        self.given += due;
        due as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept() {
        let (mut pace, started, mut given) = (Pace::new(2000.0), Instant::now(), 0);
        while started.elapsed() < Duration::from_millis(200) {
            given += pace.wait();
        }
        let due = started.elapsed().as_secs_f64() * 2000.0;
        assert!(given as f64 <= due && given as f64 > due - 100.0, "{given} of {due}");
    }
}
