//! An operator in shards, each with the keys of its own: in parallel when an epoch is large.
//!
//! Which shard a key belongs to is computed in memory and is nowhere on disk, so that a view may have other shards after a
//! restart. Shards write to states of their own, which are joined when all are done.

use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use arrow::array::{RecordBatch, UInt32Array};
use foldhash::fast::FixedState;

use super::{Description, EpochContext, LateRows, Operator, PortWatermarks, RowError, Watermarks};
use crate::error::Result;
use crate::state::{ByteRows, State};
use crate::stream::changelog::{Delta, total_rows};

/// Rows of an epoch from which on its shards run in parallel: below it, threads cost more than they save.
const PARALLEL_ROWS_MIN: usize = 4096;

/// Which of an operator's shards this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    own: u64,
    count: u64,
}

impl Shard {
    /// The only one.
    pub const ONLY: Self = Self { own: 0, count: 1 };

    /// Whether a key is this shard's.
    pub fn owns(self, key: &[u8]) -> bool {
        self.count == 1 || shard_of(key, self.count) == self.own
    }

    /// Those entries of a table whose keys are this shard's.
    pub fn own_entries(self, keys: ByteRows, values: ByteRows) -> (ByteRows, ByteRows) {
        if self.count == 1 {
            return (keys, values);
        }
        let mut own = (ByteRows::new(), ByteRows::new());
        for (key, value) in keys.iter().zip(values.iter()) {
            if self.owns(key) {
                own.0.push(key);
                own.1.push(value);
            }
        }
        own
    }
}

/// The shard of a key, by the upper bits of its hash: a shard's own tables take the lower ones.
fn shard_of(key: &[u8], count: u64) -> u64 {
    (FixedState::default().hash_one(key) >> 32) % count
}

/// An operator whose state falls apart by keys.
pub trait Keyed: Operator {
    /// The key of each row of an input: what a row does and what is stored for it depends on rows of the same key alone.
    ///
    /// # Errors
    /// For columns that the operator was not made for.
    fn keys(&self, input: usize, batch: &RecordBatch) -> Result<ByteRows>;
}

/// The shards of an operator.
pub struct Sharded<O> {
    shards: Vec<O>,
}

/// A part of an epoch's work: a shard with what it reads and what comes of it.
struct Work<'a, O> {
    shard: Shard,
    operator: &'a mut O,
    inputs: Vec<Vec<Delta>>,
    state: State,
    errors: Vec<RowError>,
    late: Vec<LateRows>,
    expired: u64,
    /// Or the panic that it ended in.
    output: std::thread::Result<Result<Vec<Delta>>>,
}

impl<O: Keyed> Sharded<O> {
    /// Shards that are made alike.
    ///
    /// # Errors
    /// Of making one.
    pub fn new(count: usize, make: impl Fn() -> Result<O>) -> Result<Self> {
        Ok(Self { shards: (0..count.max(1)).map(|_| make()).collect::<Result<_>>()? })
    }

    /// The rows of each shard, by input.
    fn split(&self, inputs: Vec<Vec<Delta>>) -> Result<Vec<Vec<Vec<Delta>>>> {
        let count = self.shards.len() as u64;
        let mut parts: Vec<Vec<Vec<Delta>>> = vec![vec![Vec::new(); inputs.len()]; self.shards.len()];
        for (input, deltas) in inputs.into_iter().enumerate() {
            for delta in deltas.into_iter().filter(|delta| !delta.is_empty()) {
                let keys = self.shards[0].keys(input, &delta.batch)?;
                let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.shards.len()];
                for (row, key) in keys.iter().enumerate() {
                    rows[shard_of(key, count) as usize].push(row as u32);
                }
                for (part, rows) in parts.iter_mut().zip(rows) {
                    match rows.len() {
                        0 => {}
                        all if all == delta.rows() => part[input].push(delta.clone()),
                        _ => part[input].push(delta.take(&UInt32Array::from(rows))?),
                    }
                }
            }
        }
        Ok(parts)
    }
}

impl<O: Keyed> Operator for Sharded<O> {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        if let [only] = self.shards.as_mut_slice() {
            return only.run(inputs, context);
        }
        let rows: usize = inputs.iter().map(|deltas| total_rows(deltas)).sum();
        let parts = self.split(inputs)?;
        let count = self.shards.len() as u64;
        let mut works: Vec<Work<'_, O>> = Vec::new();
        for ((own, operator), inputs) in self.shards.iter_mut().enumerate().zip(parts) {
            // Those without rows run only if time has work for them.
            if inputs.iter().any(|deltas| !deltas.is_empty()) || operator.wakes(context.watermarks, context.now_us) {
                let shard = Shard { own: own as u64, count };
                let (errors, late) = (Vec::new(), Vec::new());
                let state = context.state.fork();
                works.push(Work {
                    shard,
                    operator,
                    inputs,
                    state,
                    errors,
                    late,
                    expired: 0,
                    output: Ok(Ok(Vec::new())),
                });
            }
        }
        let (epoch, now_us, object, watermarks) = (context.epoch, context.now_us, context.object, context.watermarks);
        let run = |work: &mut Work<'_, O>| {
            let mut context = EpochContext {
                epoch,
                now_us,
                object,
                state: &mut work.state,
                watermarks,
                shard: work.shard,
                errors: &mut work.errors,
                late: &mut work.late,
                expired: &mut work.expired,
            };
            let inputs = std::mem::take(&mut work.inputs);
            // A view that panics has failed and its shards are dropped, but the states must be joined before.
            work.output = catch_unwind(AssertUnwindSafe(|| work.operator.run(inputs, &mut context)));
        };
        if rows < PARALLEL_ROWS_MIN {
            works.iter_mut().for_each(run);
        } else if let Some((first, rest)) = works.split_first_mut() {
            std::thread::scope(|scope| {
                rest.iter_mut().for_each(|work| drop(scope.spawn(|| run(work))));
                run(first);
            });
        }
        let (mut states, mut outputs) = (Vec::with_capacity(works.len()), Vec::with_capacity(works.len()));
        for work in works {
            states.push(work.state);
            outputs.push(work.output);
            context.errors.extend(work.errors);
            context.late.extend(work.late);
            *context.expired += work.expired;
        }
        context.state.join(states);
        let mut all = Vec::new();
        for output in outputs {
            all.extend(output.unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(all)
    }

    fn wakes(&self, watermarks: &[PortWatermarks], now_us: i64) -> bool {
        self.shards.iter().any(|shard| shard.wakes(watermarks, now_us))
    }

    fn next_wake_us(&self) -> Option<i64> {
        self.shards.iter().filter_map(Operator::next_wake_us).min()
    }

    fn held_until(&self) -> Option<(usize, i64)> {
        self.shards.iter().filter_map(Operator::held_until).min_by_key(|(_, moment)| *moment)
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        self.shards[0].watermarks(inputs)
    }

    fn is_net(&self, inputs: &[bool]) -> bool {
        self.shards[0].is_net(inputs)
    }

    fn reset(&mut self) {
        self.shards.iter_mut().for_each(Operator::reset);
    }

    fn describe(&self) -> Description {
        self.shards[0].describe()
    }
}

#[cfg(test)]
mod tests;
