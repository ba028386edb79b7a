//! The memory that all batch statements share, divided so that whatever can spill always comes to its end.
//!
//! An operator that spills needs memory to do so: a sort merges what it holds while it writes it, and merges its files
//! afterwards, with reservations that cannot spill themselves. DataFusion's `FairSpillPool` lets operators that can
//! spill fill all memory, so that one sort takes what another has just given back for its merge, and both fail. Here
//! those that spill share one half of the memory, and each merge of a sort gets its part of the other half. All other
//! large reservations leave a quarter free for these and for small ones.
//!
//! A merge cannot do with less than its sort has gathered, so a sort must not gather more than its part will be once all
//! sorts of the statement have begun: it is one of at least [`SORTS_AT_ONCE`] in each partition from the start.
//!
//! The merge of sorted partitions into one holds a few batches of each, however large the sort, and counts the buffers
//! that they share once for every batch: it gets what it asks for, and takes nothing from the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// A reservation is small while it holds at most this part of the memory.
const SMALL_PART: usize = 8;
/// Who holds more than this part of the memory counts among those that share.
const COUNTED_PART: usize = 64;
/// Sorts that a partition of a statement is expected to run at a time: those of two joins by merging.
const SORTS_AT_ONCE: usize = 4;
/// How DataFusion names the memory in which a sort gathers rows.
const SORT: &str = "ExternalSorter[";
/// How it names the memory in which a sort merges: it takes as many files at a time as it gets memory for.
const MERGE: &str = "ExternalSorterMerge[";
/// How it names the memory in which sorted partitions become one.
const LAST_MERGE: &str = "SortPreservingMergeExec[";

/// A pool of `limit` bytes with room for merging.
#[derive(Debug)]
pub struct SpillPool {
    limit: usize,
    /// As how many the sorts and merges count at least.
    sorts_expected: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of each consumer that can spill and holds some, by the address of its registration.
    spillable: HashMap<usize, usize>,
    /// Sorts that run, whatever they hold.
    sorts: usize,
    /// Merges of sorts that run.
    merges: usize,
    reserved: usize,
    /// Bytes of those for which there is no limit; they are among the reserved ones.
    unlimited: usize,
}

impl State {
    /// The counter that a running consumer is in.
    fn count(&mut self, consumer: &MemoryConsumer) -> Option<&mut usize> {
        match consumer.name() {
            name if name.starts_with(SORT) => Some(&mut self.sorts),
            name if name.starts_with(MERGE) => Some(&mut self.merges),
            _ => None,
        }
    }

    fn grow(&mut self, reservation: &MemoryReservation, bytes: usize) {
        self.reserved += bytes;
        if is_last_merge(reservation) {
            self.unlimited += bytes;
        }
        if reservation.consumer().can_spill() {
            *self.spillable.entry(holder(reservation)).or_default() += bytes;
        }
    }

    fn shrink(&mut self, reservation: &MemoryReservation, bytes: usize) {
        self.reserved -= bytes;
        if is_last_merge(reservation) {
            self.unlimited -= bytes;
        }
        if let Entry::Occupied(mut held) = self.spillable.entry(holder(reservation)) {
            *held.get_mut() -= bytes;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

fn is_last_merge(reservation: &MemoryReservation) -> bool {
    reservation.consumer().name().starts_with(LAST_MERGE)
}

fn holder(reservation: &MemoryReservation) -> usize {
    std::ptr::from_ref(reservation.consumer()) as usize
}

impl SpillPool {
    /// An empty pool of `limit` bytes for statements of so many partitions.
    pub fn new(limit: usize, partitions: usize) -> Self {
        Self { limit, sorts_expected: partitions * SORTS_AT_ONCE, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The counters are whole after every statement, also where a holder of the lock panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes by which a reservation may grow if it has `size` bytes afterwards.
    fn available(&self, state: &State, reservation: &MemoryReservation, size: usize) -> usize {
        let free = self.limit.saturating_sub(state.reserved - state.unlimited);
        let without_reserve = free.saturating_sub(self.limit / 4);
        let half = self.limit / 2;
        if is_last_merge(reservation) {
            usize::MAX
        } else if size <= self.limit / SMALL_PART {
            free
        } else if reservation.consumer().can_spill() {
            let is_other =
                |(id, held): &(&usize, &usize)| **id != holder(reservation) && **held > self.limit / COUNTED_PART;
            let others = 1 + state.spillable.iter().filter(is_other).count();
            let sharers = match reservation.consumer().name().starts_with(SORT) {
                true => others.max(state.sorts).max(self.sorts_expected),
                false => others.max(state.sorts),
            };
            match (reservation.size(), size > half / sharers) {
                // Who holds nothing has nothing to spill.
                (0, _) => free,
                (_, true) => 0,
                (_, false) => without_reserve,
            }
        } else if reservation.consumer().name().starts_with(MERGE) {
            if size > half / state.merges.max(self.sorts_expected).max(1) { 0 } else { free }
        } else {
            without_reserve
        }
    }
}

impl fmt::Display for SpillPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch memory of {} bytes", self.limit)
    }
}

impl MemoryPool for SpillPool {
    fn name(&self) -> &str {
        "spill"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if let Some(count) = self.state().count(consumer) {
            *count += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if let Some(count) = self.state().count(consumer) {
            *count -= 1;
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.state().grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.state().shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state();
        let available = self.available(&state, reservation, reservation.size() + additional);
        if additional > available {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} holds {} bytes and cannot have {additional} more of {self}; {} bytes are reserved",
                reservation.consumer().name(),
                reservation.size(),
                state.reserved,
            )));
        }
        state.grow(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.state().reserved
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_spills_shares_half_and_the_last_quarter_is_for_small_reservations() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SpillPool::new(1600, 0));
        let consumer = |name: &str, can_spill| MemoryConsumer::new(name).with_can_spill(can_spill).register(&pool);
        let (a, b) = (consumer("a", true), consumer("b", true));
        a.try_grow(800).unwrap();
        assert!(a.try_grow(1).is_err(), "half is for what cannot spill");
        b.try_grow(400).unwrap();
        assert!(b.try_grow(1).is_err(), "the other has its share");
        a.shrink(400);
        assert!(a.try_grow(1).is_err(), "now too");
        let join = consumer("join", false);
        join.try_grow(400).unwrap();
        assert!(join.try_grow(1).is_err(), "the last quarter is for small reservations");
        let merges = [consumer("merge", false), consumer("merge", false)];
        merges.iter().for_each(|merge| merge.try_grow(200).unwrap());
        assert_eq!(pool.reserved(), 1600);
        assert!(consumer("merge", false).try_grow(1).is_err(), "nothing is left");
        drop((a, b, join, merges));
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn a_sort_leaves_room_for_those_that_have_not_begun() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SpillPool::new(1600, 2));
        let sort = MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(&pool);
        let merge = MemoryConsumer::new("ExternalSorterMerge[0]").register(&pool);
        for part in [&sort, &merge] {
            part.try_grow(200).unwrap();
            assert!(part.try_grow(1).is_err(), "an eighth, though it is alone");
        }
    }

    #[test]
    fn sorts_share_with_those_that_hold_nothing_yet() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SpillPool::new(1600, 0));
        let consumer = |name: &str, can_spill| MemoryConsumer::new(name).with_can_spill(can_spill).register(&pool);
        let sorts = [consumer("ExternalSorter[0]", true), consumer("ExternalSorter[1]", true)];
        let merges = [consumer("ExternalSorterMerge[0]", false), consumer("ExternalSorterMerge[1]", false)];
        for part in [&sorts[0], &sorts[1], &merges[0], &merges[1]] {
            part.try_grow(400).unwrap();
            assert!(part.try_grow(1).is_err(), "a quarter each");
            part.free();
        }
        drop((sorts, merges));
        assert_eq!(pool.reserved(), 0);
    }
}
