//! What readers see: catalog and data as of one committed epoch.

use std::sync::Arc;
use std::time::Duration;

use millstream_catalog::Catalog;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use crate::state::Snapshot;

/// One committed epoch: all reads of a statement go through one of these.
#[derive(Clone)]
pub struct Published {
    pub epoch: u64,
    /// The epoch's `now()`, microseconds since 1970.
    pub now_us: i64,
    pub catalog: Arc<Catalog>,
    pub snapshot: Arc<Snapshot>,
}

/// The newest [`Published`], with a signal for those who wait for the next.
pub struct Publisher {
    current: RwLock<Arc<Published>>,
    /// For tasks that wait.
    epoch: watch::Sender<u64>,
    /// For threads that wait.
    newest: Mutex<u64>,
    changed: Condvar,
}

impl Publisher {
    /// Starts with what recovery found.
    pub fn new(first: Published) -> Self {
        let (epoch, _) = watch::channel(first.epoch);
        let newest = Mutex::new(first.epoch);
        Self { current: RwLock::new(Arc::new(first)), epoch, newest, changed: Condvar::new() }
    }

    /// The newest committed epoch.
    pub fn current(&self) -> Arc<Published> {
        self.current.read().clone()
    }

    /// Makes an epoch visible and wakes those who wait.
    pub fn publish(&self, published: Published) {
        let epoch = published.epoch;
        *self.current.write() = Arc::new(published);
        self.epoch.send_replace(epoch);
        *self.newest.lock() = epoch;
        self.changed.notify_all();
    }

    /// Blocks until an epoch after `epoch` is visible, or `timeout` is over.
    pub fn wait_beyond(&self, epoch: u64, timeout: Duration) {
        let mut newest = self.newest.lock();
        if *newest <= epoch {
            self.changed.wait_for(&mut newest, timeout);
        }
    }

    /// A receiver that is woken with the number of each newly visible epoch.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }
}
