//! The subscriptions that run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// All subscriptions of a database.
#[derive(Debug, Default)]
pub struct Registry {
    begun: AtomicU64,
    running: Mutex<BTreeMap<u64, Weak<Entry>>>,
    /// Rows that were handed to clients since the server started.
    rows_total: Arc<AtomicU64>,
}

/// One that runs, until the last that knows it lets go.
#[derive(Debug)]
pub struct Entry {
    /// The session, as `pg_backend_pid()` names it.
    pub process_id: i32,
    pub schema: String,
    /// The relation that is followed.
    pub name: String,
    /// The text, secrets masked.
    pub statement: String,
    pub started_us: i64,
    /// All changes up to this epoch were handed on.
    pub epoch: AtomicU64,
    /// Rows that the client has taken.
    pub rows: AtomicU64,
    total: Arc<AtomicU64>,
}

impl Entry {
    /// The client has taken rows.
    pub fn took(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.total.fetch_add(rows, Ordering::Relaxed);
    }
}

impl Registry {
    /// A number that no other subscription has, for names.
    pub fn number(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a subscription of a session to a relation.
    pub fn enter(&self, process_id: i32, relation: (&str, &str), statement: &str, epoch: u64) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            process_id,
            schema: relation.0.to_string(),
            name: relation.1.to_string(),
            statement: statement.to_string(),
            started_us: chrono::Utc::now().timestamp_micros(),
            epoch: AtomicU64::new(epoch),
            rows: AtomicU64::new(0),
            total: self.rows_total.clone(),
        });
        let mut running = self.running.lock();
        running.retain(|_, entry| entry.strong_count() > 0);
        running.insert(self.number(), Arc::downgrade(&entry));
        entry
    }

    /// Those that run, in the order in which they began.
    pub fn running(&self) -> Vec<Arc<Entry>> {
        self.running.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Rows that clients have taken since the server started.
    pub fn rows_total(&self) -> u64 {
        self.rows_total.load(Ordering::Relaxed)
    }
}
