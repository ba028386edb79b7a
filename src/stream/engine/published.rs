//! What readers see: catalog and data as of one committed epoch.

use std::sync::Arc;
use std::time::Duration;

use millstream_catalog::Catalog;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::bell::Bell;
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
    bell: Bell,
}

impl Publisher {
    /// Starts with what recovery found.
    pub fn new(first: Published) -> Self {
        let (epoch, _) = watch::channel(first.epoch);
        let bell = Bell::at(first.epoch);
        Self { current: RwLock::new(Arc::new(first)), epoch, bell }
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
        self.bell.ring(epoch);
    }

    /// Blocks until an epoch after `epoch` is visible, or `timeout` is over.
    pub fn wait_beyond(&self, epoch: u64, timeout: Duration) {
        self.bell.wait_beyond(epoch, timeout);
    }

    /// A receiver that is woken with the number of each newly visible epoch.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }
}
