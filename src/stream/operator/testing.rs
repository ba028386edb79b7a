//! What the tests of operators share: a store in a temporary directory, epochs on it, and Z-sets of rows as text.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use millstream_catalog::ObjectId;

use super::sharded::Shard;
use super::{EpochContext, LateRows, Operator, PortWatermarks, RowError};
use crate::state::{FrozenSet, State, Store, StoreOptions};
use crate::stream::changelog::Delta;

/// A multiset of rows: the text of each column -> weight. Rows of weight 0 are not in it.
pub(super) type ZSet = BTreeMap<Vec<String>, i64>;

pub(super) const OBJECT: ObjectId = ObjectId(7);

/// What happens after an epoch ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Commit,
    /// It is frozen and committed only after the next epoch ran.
    CommitLater,
    /// Committed, and the operator forgets what it has cached.
    Reset,
    /// Committed, and the store is opened again.
    Reopen,
    /// It fails: all is rolled back, and it is run again.
    FailOnce,
}

/// What an operator gave in one epoch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub deltas: Vec<Delta>,
    pub errors: Vec<RowError>,
    pub late: Vec<LateRows>,
    pub expired: u64,
}

/// A store and the epochs that run on it.
pub(super) struct Harness {
    dir: tempfile::TempDir,
    state: Option<State>,
    frozen: Option<Arc<FrozenSet>>,
    /// The clock of the epochs.
    pub now_us: i64,
}

impl Harness {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = Some(open(&dir));
        Self { dir, state, frozen: None, now_us: 0 }
    }

    fn commit_frozen(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            let state = self.state.as_mut().unwrap();
            state.store().commit(&frozen, false).unwrap();
            state.committed();
        }
    }

    /// Runs an epoch of the operator, then what is to happen after it.
    pub fn epoch(
        &mut self,
        operator: &mut dyn Operator,
        inputs: &[Vec<Delta>],
        watermarks: &[PortWatermarks],
        after: After,
    ) -> Outcome {
        if after == After::FailOnce {
            self.commit_frozen();
            self.run(operator, inputs, watermarks);
            self.state.as_mut().unwrap().rollback();
            operator.reset();
        }
        let outcome = self.run(operator, inputs, watermarks);
        self.commit_frozen();
        self.frozen = Some(self.state.as_mut().unwrap().freeze().unwrap());
        if after != After::CommitLater {
            self.commit_frozen();
        }
        if after == After::Reopen {
            self.state = None;
            self.state = Some(open(&self.dir));
        }
        if matches!(after, After::Reset | After::Reopen) {
            operator.reset();
        }
        outcome
    }

    fn run(&mut self, operator: &mut dyn Operator, inputs: &[Vec<Delta>], watermarks: &[PortWatermarks]) -> Outcome {
        let mut outcome = Outcome::default();
        let has_rows = inputs.iter().flatten().any(|delta| !delta.is_empty());
        if !has_rows && !operator.wakes(watermarks, self.now_us) {
            return outcome;
        }
        let state = self.state.as_mut().unwrap();
        let mut context = EpochContext {
            epoch: state.epoch(),
            now_us: self.now_us,
            object: OBJECT,
            state,
            watermarks,
            shard: Shard::ONLY,
            errors: &mut outcome.errors,
            late: &mut outcome.late,
            expired: &mut outcome.expired,
        };
        outcome.deltas = operator.run(inputs.to_vec(), &mut context).unwrap();
        outcome
    }

    /// Compacts the store, which drops what is not needed any more.
    pub fn compact(&self) {
        self.state.as_ref().unwrap().store().compact();
    }

    /// All that is stored, for checking what was freed: number of visible rows of a part.
    pub fn stored_rows(&self, part: u16) -> usize {
        let table = crate::state::TableId::new(OBJECT.0, part);
        let unbounded = std::ops::Bound::Unbounded;
        let mut scan = self.state.as_ref().unwrap().scan(table, unbounded, unbounded, crate::state::Level::Open);
        let mut rows = 0;
        while scan.next_row().unwrap().is_some() {
            rows += 1;
        }
        rows
    }
}

fn open(dir: &tempfile::TempDir) -> State {
    let mut options = StoreOptions::new(dir.path());
    options.memory_bytes = 8 << 20;
    options.write_buffer_bytes = 4 << 20;
    State::new(Store::open(&options).unwrap())
}

/// Adds a delta to a Z-set.
pub(super) fn add(zset: &mut ZSet, delta: &Delta) {
    for (i, row) in rows(&delta.batch).into_iter().enumerate() {
        let weight = zset.entry(row.clone()).or_default();
        *weight += delta.weight(i);
        if *weight == 0 {
            zset.remove(&row);
        }
    }
}

/// The rows of a batch as text.
pub(super) fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let text = |column: &Arc<dyn Array>, row: usize| match column.is_null(row) {
        true => "NULL".to_string(),
        false => array_value_to_string(column, row).unwrap(),
    };
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|c| text(c, row)).collect()).collect()
}
