//! The changes of relations that somebody follows, epoch by epoch, as long as there is room for them.
//!
//! A relation is followed from the first subscription on; what it changes in an epoch is kept once that is committed, before
//! anybody sees the epoch. All share one budget, and the oldest go first: who is too slow, or comes back too late, is told
//! so and costs no memory. Relations in segments are not kept here: their rows carry the epoch that appended them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_catalog::ObjectId;
use parking_lot::Mutex;

use super::pipeline::ChangesByRelation;
use crate::stream::changelog::Delta;

/// What the followed relations changed in an epoch, on its way to be committed.
pub type Followed = Vec<(ObjectId, Vec<Delta>)>;

/// The changes that are kept.
pub struct History {
    any: AtomicBool,
    inner: Mutex<Inner>,
    bytes_max: usize,
}

#[derive(Default)]
struct Inner {
    relations: BTreeMap<ObjectId, Kept>,
    bytes: usize,
}

#[derive(Default)]
struct Kept {
    /// All epochs after this one began when the relation was followed already; `None` until that can be said.
    begun: Option<u64>,
    /// The last epoch whose changes had to go.
    dropped: u64,
    epochs: VecDeque<EpochChanges>,
}

impl Kept {
    /// The changes of all epochs after this one are kept.
    fn since(&self) -> Option<u64> {
        self.begun.map(|begun| begun.max(self.dropped))
    }
}

/// What a relation changed in one epoch, with all its stored columns; not consolidated.
#[derive(Debug, Clone)]
pub struct EpochChanges {
    pub epoch: u64,
    pub deltas: Vec<Delta>,
    bytes: usize,
}

/// What is asked for is not kept any more: only changes after this epoch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    pub kept_after: u64,
}

impl History {
    /// An empty one that keeps about so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { any: AtomicBool::new(false), inner: Mutex::default(), bytes_max }
    }

    /// Follows a relation from now on. Whether that was so already, and its history can be asked for; if not, the loop must
    /// have come to an epoch that began later, which [`History::begin`] tells.
    pub fn follow(&self, relation: ObjectId) -> bool {
        let mut inner = self.inner.lock();
        self.any.store(true, Ordering::Release);
        inner.relations.entry(relation).or_default().begun.is_some()
    }

    /// All epochs after `epoch` began when the relation was followed already.
    pub fn begin(&self, relation: ObjectId, epoch: u64) {
        if let Some(kept) = self.inner.lock().relations.get_mut(&relation) {
            // Several may come to say so, in any order.
            kept.begun = Some(kept.begun.map_or(epoch, |begun| begun.min(epoch)));
        }
    }

    /// Follows a relation no longer: it is gone.
    pub fn forget(&self, relation: ObjectId) {
        let mut inner = self.inner.lock();
        if let Some(kept) = inner.relations.remove(&relation) {
            inner.bytes -= kept.epochs.iter().map(|e| e.bytes).sum::<usize>();
        }
    }

    /// Picks what followed relations change in the open epoch.
    pub fn followed(&self, changes: &ChangesByRelation) -> Followed {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let inner = self.inner.lock();
        let changed = |id: &ObjectId| Some((*id, changes.get(id)?.deltas.clone()));
        inner.relations.keys().filter_map(changed).filter(|(_, deltas)| !deltas.is_empty()).collect()
    }

    /// Keeps what a committed epoch changed.
    pub fn keep(&self, epoch: u64, followed: Followed) {
        if followed.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        for (id, deltas) in followed {
            let Some(kept) = inner.relations.get_mut(&id) else { continue };
            let bytes = deltas.iter().map(Delta::bytes).sum();
            kept.epochs.push_back(EpochChanges { epoch, deltas, bytes });
            inner.bytes += bytes;
        }
        while inner.bytes > self.bytes_max && inner.drop_oldest() {}
    }

    /// What a relation changed next after one epoch and up to another; one epoch at a time, so that who is slow holds on
    /// to no more than that.
    ///
    /// # Errors
    /// [`Gone`] if not all changes after `after` are kept.
    pub fn next(&self, relation: ObjectId, after: u64, up_to: u64) -> Result<Option<EpochChanges>, Gone> {
        let inner = self.inner.lock();
        let kept = inner.relations.get(&relation);
        let Some((kept, since)) = kept.and_then(|kept| Some((kept, kept.since()?))) else {
            return Err(Gone { kept_after: up_to });
        };
        if after < since {
            return Err(Gone { kept_after: since });
        }
        let first = kept.epochs.partition_point(|e| e.epoch <= after);
        Ok(kept.epochs.get(first).filter(|e| e.epoch <= up_to).cloned())
    }
}

impl Inner {
    /// Drops the changes of the oldest epoch. Whether there were any.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.relations.values().filter_map(|kept| Some(kept.epochs.front()?.epoch)).min();
        let Some(oldest) = oldest else { return false };
        for kept in self.relations.values_mut() {
            while let Some(dropped) = kept.epochs.pop_front_if(|e| e.epoch <= oldest) {
                self.bytes -= dropped.bytes;
                kept.dropped = dropped.epoch;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::super::pipeline::Changes;
    use super::*;

    const A: ObjectId = ObjectId(20_000);
    const B: ObjectId = ObjectId(20_001);

    fn changes(of: &[ObjectId]) -> ChangesByRelation {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let delta = Delta::inserts(RecordBatch::try_from_iter([("n", column)]).unwrap());
        of.iter().map(|id| (*id, Changes { deltas: vec![delta.clone()], ..Changes::default() })).collect()
    }

    fn epochs(history: &History, of: ObjectId, after: u64, up_to: u64) -> Result<Vec<u64>, Gone> {
        let (mut found, mut at) = (Vec::new(), after);
        while let Some(next) = history.next(of, at, up_to)? {
            at = next.epoch;
            found.push(at);
        }
        Ok(found)
    }

    #[test]
    fn what_is_followed_is_kept_from_its_beginning_on() {
        let history = History::new(1 << 20);
        assert!(history.followed(&changes(&[A])).is_empty(), "nobody follows it");
        assert!(!history.follow(A));
        history.keep(5, history.followed(&changes(&[A, B])));
        assert_eq!(epochs(&history, A, 5, 5), Err(Gone { kept_after: 5 }), "not begun yet");
        history.begin(A, 5);
        assert!(history.follow(A));
        history.keep(6, history.followed(&changes(&[B])));
        history.keep(7, history.followed(&changes(&[A])));
        history.keep(8, history.followed(&changes(&[A])));
        assert_eq!(epochs(&history, A, 5, 7), Ok(vec![7]));
        assert_eq!(epochs(&history, A, 7, 9), Ok(vec![8]));
        assert_eq!(epochs(&history, A, 8, 9), Ok(vec![]));
        assert_eq!(epochs(&history, A, 4, 9), Err(Gone { kept_after: 5 }));
        // Another subscription that began at the same time knows more.
        history.begin(A, 4);
        history.begin(A, 6);
        assert_eq!(epochs(&history, A, 4, 9), Ok(vec![5, 7, 8]));
        assert_eq!(epochs(&history, B, 8, 9), Err(Gone { kept_after: 9 }));
        history.forget(A);
        assert_eq!(epochs(&history, A, 8, 9), Err(Gone { kept_after: 9 }));
        assert_eq!(history.inner.lock().bytes, 0);
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let one = changes(&[A])[&A].deltas[0].bytes();
        let history = History::new(3 * one);
        for id in [A, B] {
            history.follow(id);
            history.begin(id, 0);
        }
        for epoch in 1..=4 {
            history.keep(epoch, history.followed(&changes(&[if epoch % 2 == 1 { A } else { B }])));
        }
        assert_eq!(epochs(&history, A, 0, 4), Err(Gone { kept_after: 1 }));
        assert_eq!(epochs(&history, A, 1, 4), Ok(vec![3]));
        assert_eq!(epochs(&history, B, 0, 4), Ok(vec![2, 4]), "nothing of it is gone yet");
        // Changes that are too large by themselves are not kept at all.
        let small = History::new(one - 1);
        small.follow(A);
        small.begin(A, 0);
        small.keep(1, small.followed(&changes(&[A])));
        assert_eq!(epochs(&small, A, 0, 1), Err(Gone { kept_after: 1 }));
        assert_eq!(epochs(&small, A, 1, 1), Ok(vec![]));
    }
}
