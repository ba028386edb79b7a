//! A bell: rung with the number of an epoch that is visible now, for threads that sleep until there is something for them.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Remembers the newest epoch that it was rung with, so that nobody misses one while awake.
#[derive(Debug, Default)]
pub struct Bell {
    epoch: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// One that was last rung with `epoch`.
    pub fn at(epoch: u64) -> Self {
        Self { epoch: Mutex::new(epoch), rung: Condvar::new() }
    }

    /// Wakes those who wait for an epoch before this one, or for this.
    pub fn ring(&self, epoch: u64) {
        *self.epoch.lock() = epoch;
        self.rung.notify_all();
    }

    /// Blocks until the bell was rung with an epoch after `epoch`, or `timeout` is over.
    pub fn wait_beyond(&self, epoch: u64, timeout: Duration) {
        let mut newest = self.epoch.lock();
        if *newest <= epoch {
            self.rung.wait_for(&mut newest, timeout);
        }
    }
}
