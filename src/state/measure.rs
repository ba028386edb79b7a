//! How large a table of the state is.

use std::ops::Bound;
use std::sync::Arc;

use super::snapshot::Snapshot;
use super::{PREFIX_LEN, TableId};
use crate::error::Result;
use crate::state::failure::from_rocksdb;

/// Keys of a table that are counted; a larger one is estimated.
const COUNTED_MAX: u64 = 10_000;

/// Keys and bytes of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    pub keys: u64,
    /// Of keys and values before compression if they were counted, on disk if estimated.
    pub bytes: u64,
    /// Whether they were counted.
    pub is_exact: bool,
}

impl Snapshot {
    /// Counts a small table; of a large one tells what its files say, which leaves out what is still in memory and counts
    /// replaced rows that no compaction has removed yet.
    ///
    /// # Errors
    /// 58030 or XX001 when the disk cannot be read.
    pub fn measure(self: &Arc<Self>, table: TableId) -> Result<Measure> {
        let mut counted = Measure { keys: 0, bytes: 0, is_exact: true };
        for entry in self.scan(table, Bound::Unbounded, Bound::Unbounded) {
            let (key, value) = entry?;
            counted.keys += 1;
            counted.bytes += (PREFIX_LEN + key.len() + value.len()) as u64;
            if counted.keys > COUNTED_MAX {
                return self.estimate(table, counted.keys);
            }
        }
        Ok(counted)
    }

    fn estimate(&self, table: TableId, at_least: u64) -> Result<Measure> {
        let (start, end) = (table.prefix(), table.end());
        let files = self.store().database().live_files().map_err(|e| from_rocksdb("list the state's files", e))?;
        let mut keys = 0.0;
        for file in files {
            let (Some(first), Some(last)) = (file.start_key, file.end_key) else { continue };
            if last.as_slice() < &start[..] || first.as_slice() >= &end[..] {
                continue;
            }
            let live = file.num_entries.saturating_sub(2 * file.num_deletions) as f64;
            let share = if first.as_slice() >= &start[..] && last.as_slice() < &end[..] {
                1.0
            } else {
                let whole = self.store().size_between(&first, &last).max(1);
                let own = self.store().size_between(first.as_slice().max(&start[..]), last.as_slice().min(&end[..]));
                (own as f64 / whole as f64).min(1.0)
            };
            keys += live * share;
        }
        Ok(Measure { keys: (keys as u64).max(at_least), bytes: self.store().size_of_table(table), is_exact: false })
    }
}
