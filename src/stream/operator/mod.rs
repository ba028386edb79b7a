//! The operators of continuous views: what each must do in an epoch, and what it is given.
//!
//! A view is a tree of operators over scans of tables, sources and other views. In each epoch every operator takes the
//! changes of its inputs and gives the changes of its result. What it must remember from epoch to epoch is in the store,
//! under its view's object id; memory holds caches only, which [`Operator::reset`] drops.

pub mod aggregate;
pub mod asof;
pub mod emit;
mod event_time;
pub mod expand;
pub mod first_row;
mod groups;
pub mod join;
pub mod order_key;
pub mod over;
pub mod project;
pub mod sharded;
pub mod single_row;
pub mod temporal;
#[cfg(test)]
mod testing;
pub mod ttl;
pub mod union;
pub mod unnest;
pub mod values;
mod waiting;

use arrow::datatypes::SchemaRef;
use millstream_catalog::ObjectId;

use self::sharded::Shard;
use super::changelog::Delta;
use crate::error::Result;
use crate::state::State;

/// Microseconds since 1970 of the event time that each column of a relation has passed: all further rows have a value at
/// or above it, except late ones. `None` where a column carries no watermark.
pub type Watermarks = Vec<Option<i64>>;

/// The watermarks of one input of an operator.
#[derive(Debug, Clone, Default)]
pub struct PortWatermarks {
    /// As committed with the epoch before. Lateness is judged against it, so that order inside an epoch does not matter.
    pub committed: Watermarks,
    /// With this epoch's rows taken in. Frees state and closes windows.
    pub current: Watermarks,
}

impl PortWatermarks {
    /// As they are before an epoch takes anything.
    pub fn of_committed(committed: &Watermarks) -> Self {
        Self { committed: committed.clone(), current: committed.clone() }
    }

    /// The same columns, none of which carries a watermark yet.
    pub fn unknown(&self) -> Self {
        Self { committed: vec![None; self.committed.len()], current: vec![None; self.current.len()] }
    }

    /// Takes nothing for committed that was not known in the epoch `before`: what an operator holds back until then comes
    /// with it, and is not late for the next one.
    pub fn follow(&mut self, before: &Self) {
        for (column, committed) in self.committed.iter_mut().enumerate() {
            *committed = (*committed).min(before.current.get(column).copied().flatten());
        }
    }

    /// Takes over from `before` what is further.
    pub fn keep_monotone(&mut self, before: &Self) {
        let further = |now: &mut Watermarks, before: &Watermarks| {
            for (now, before) in now.iter_mut().zip(before) {
                *now = (*now).max(*before);
            }
        };
        further(&mut self.committed, &before.committed);
        further(&mut self.current, &before.current);
    }
}

/// A row on which an expression failed; kept in `millstream.view_errors` until its cause is retracted.
#[derive(Debug, Clone)]
pub struct RowError {
    /// Number of the operator in its view, as EXPLAIN prints it.
    pub operator: u32,
    pub sqlstate: String,
    pub message: String,
    /// The input row as text, for people.
    pub row: String,
    /// How many copies came (positive) or went (negative).
    pub weight: i64,
}

/// Rows that came after their window had closed.
#[derive(Debug, Clone)]
pub struct LateRows {
    /// Number of the operator in its view.
    pub operator: u32,
    pub rows: Delta,
    /// The watermark that they missed, microseconds since 1970.
    pub watermark: i64,
}

/// What an operator has at hand in one epoch.
pub struct EpochContext<'a> {
    pub epoch: u64,
    /// The epoch's `now()`, microseconds since 1970.
    pub now_us: i64,
    /// The view that the operator belongs to.
    pub object: ObjectId,
    pub state: &'a mut State,
    /// One entry for each input.
    pub watermarks: &'a [PortWatermarks],
    /// Whose keys are to be looked at where those of a whole table are.
    pub shard: Shard,
    pub errors: &'a mut Vec<RowError>,
    pub late: &'a mut Vec<LateRows>,
    /// Adds up the rows that took back what `state_ttl` had forgotten.
    pub expired: &'a mut u64,
}

/// One step of a continuous view.
pub trait Operator: Send {
    /// Takes the epoch's changes of each input (several batches an input, not consolidated) and returns the changes of the
    /// result. Called in an epoch only if an input has rows or [`Operator::wakes`] says so.
    ///
    /// # Errors
    /// Failures of the store or of memory bounds. Failures of expressions on single rows go to `context.errors`.
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>>;

    /// Whether the operator has work without input rows, because a watermark or the time moved.
    fn wakes(&self, _watermarks: &[PortWatermarks], _now_us: i64) -> bool {
        false
    }

    /// When the operator has work even if nothing comes, microseconds since 1970; `None`: never.
    fn next_wake_us(&self) -> Option<i64> {
        None
    }

    /// The column of the first input, and what its watermark has to reach, for the operator to let go of rows that it holds
    /// back; `None`: it holds none back.
    fn held_until(&self) -> Option<(usize, i64)> {
        None
    }

    /// Watermarks of the result's columns, given those of the inputs. Must be monotone in them.
    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks;

    /// Whether an epoch's result has at most one row that goes and one that comes for each value of the stream key, given of
    /// which inputs that is known. What is stored by that key need not be consolidated first.
    fn is_net(&self, _inputs: &[bool]) -> bool {
        false
    }

    /// Forgets everything that is not in the store: the epoch failed and is run again.
    fn reset(&mut self) {}

    /// What EXPLAIN and the plan's fingerprint say of it.
    fn describe(&self) -> Description;
}

/// An operator as EXPLAIN shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name and arguments on one line: `HashAggregate: group by [card_id], count(*), sum(amount)`.
    pub title: String,
    /// State tables: layout and key, with gets and puts for each input row, in words.
    pub state: Vec<StateDescription>,
    /// Whether the result only ever grows.
    pub append_only: bool,
    /// Names of the stream key's columns; empty if there is none.
    pub stream_key: Vec<String>,
}

/// A state table as EXPLAIN shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDescription {
    /// Part number in the view's key space.
    pub part: u16,
    /// `segments`, `keyed` or `multimap`.
    pub layout: &'static str,
    /// Key columns by name, first first.
    pub key: String,
    /// Cost per input row: `1 get, 1 put per changed group`.
    pub cost: String,
}

/// What the planner knows of a relation on an edge, beside its schema.
#[derive(Debug, Clone)]
pub struct EdgeProperties {
    pub schema: SchemaRef,
    /// Whether only inserts come.
    pub append_only: bool,
    /// Column positions that are unique among the relation's rows; `None`: there is no such key.
    pub stream_key: Option<Vec<usize>>,
    /// Columns that carry a watermark.
    pub watermark_columns: Vec<usize>,
}

impl Description {
    /// An operator that keeps nothing.
    pub fn stateless(title: String, properties: &EdgeProperties) -> Self {
        Self {
            title,
            state: Vec::new(),
            append_only: properties.append_only,
            stream_key: properties.stream_key_names(),
        }
    }
}

impl EdgeProperties {
    /// Names of the stream key's columns; none if there is no key.
    pub fn stream_key_names(&self) -> Vec<String> {
        let key = self.stream_key.iter().flatten();
        key.map(|c| self.schema.field(*c).name().clone()).collect()
    }
}
