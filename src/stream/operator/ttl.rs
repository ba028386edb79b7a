//! `state_ttl`: which keys of an operator's state were not written for so long that they are forgotten.
//!
//! Time is cut into *ticks* of a sixteenth of the ttl. A table has each tick and the keys that were written in it, in order of
//! time: one put for a key and tick, however often the key is written in it. Once a tick has been over for as long as the ttl
//! its keys are looked at, and those that were not written since are forgotten: what is stored has the tick of its last write
//! beside it, or else the later ticks are asked ([`Ttl::unwritten`]). So nothing goes before its time nor later than a tick
//! after it, the cost follows what is written, and what goes depends on nothing but the times of the epochs.

use std::ops::Bound;
use std::time::Duration;

use super::StateDescription;
use super::sharded::Shard;
use super::waiting::{moment, moment_key};
use crate::error::Result;
use crate::state::{ByteRows, Level, State, TableId};

/// Keys that are looked at together.
const CHUNK_ROWS: usize = 8192;
/// Bytes of a tick as it is stored.
pub(in crate::stream::operator) const STAMP_BYTES: usize = 8;
/// Ticks in a ttl.
const TICKS: i64 = 16;

/// What an operator needs to forget what was not written for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlSpec {
    /// Microseconds, at least one.
    pub ttl_us: i64,
    /// The state part that it takes.
    pub part: u16,
}

/// The keys of one operator by the tick in which they were written.
#[derive(Debug)]
pub(super) struct Ttl {
    ttl_us: i64,
    tick_us: i64,
    table: TableId,
    oldest: Oldest,
}

/// The first tick of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Oldest {
    /// The store has not been looked at yet.
    Unknown,
    None,
    Tick(i64),
}

impl Ttl {
    pub fn new(object: u32, spec: TtlSpec) -> Self {
        let tick_us = (spec.ttl_us / TICKS).max(1);
        Self { ttl_us: spec.ttl_us, tick_us, table: TableId::new(object, spec.part), oldest: Oldest::Unknown }
    }

    /// The tick of a time.
    pub fn tick(&self, now_us: i64) -> i64 {
        now_us.div_euclid(self.tick_us)
    }

    /// The first tick that is not forgotten.
    fn first_kept(&self, now_us: i64) -> i64 {
        self.tick(now_us.saturating_sub(self.ttl_us))
    }

    /// Notes keys that are written.
    pub fn note(&mut self, state: &mut State, now_us: i64, keys: &ByteRows) {
        if keys.is_empty() {
            return;
        }
        let tick = self.tick(now_us);
        let stamped: ByteRows = keys.iter().map(|key| [moment_key(tick).as_slice(), key].concat()).collect();
        state.write_batch(self.table, &stamped, |_| Some(&[]));
        self.oldest = match self.oldest {
            Oldest::Unknown => Oldest::Unknown,
            Oldest::None => Oldest::Tick(tick),
            Oldest::Tick(oldest) => Oldest::Tick(oldest.min(tick)),
        };
    }

    /// Whether there are keys to be looked at.
    pub fn is_due(&self, now_us: i64) -> bool {
        match self.oldest {
            Oldest::Unknown => true,
            Oldest::None => false,
            Oldest::Tick(tick) => tick < self.first_kept(now_us),
        }
    }

    /// When there will be, microseconds since 1970.
    pub fn next_wake_us(&self) -> Option<i64> {
        match self.oldest {
            Oldest::Unknown => Some(i64::MIN),
            Oldest::None => None,
            Oldest::Tick(tick) => Some((tick + 1).saturating_mul(self.tick_us).saturating_add(self.ttl_us)),
        }
    }

    /// Gives the keys that were written in a tick which is over for as long as the ttl, with that tick, to `forget`, and the
    /// ticks are gone. A key may come with several ticks. All shards of an operator see the keys of all.
    ///
    /// # Errors
    /// When the store cannot be read, and those of `forget`.
    pub fn expire(
        &mut self,
        state: &mut State,
        now_us: i64,
        mut forget: impl FnMut(&Self, &mut State, &[i64], &ByteRows) -> Result<()>,
    ) -> Result<()> {
        if !self.is_due(now_us) {
            return Ok(());
        }
        let bound = moment_key(self.first_kept(now_us));
        let mut after: Bound<Vec<u8>> = Bound::Unbounded;
        loop {
            let (mut stamped, mut values) = (ByteRows::new(), ByteRows::new());
            let from = after.as_ref().map(Vec::as_slice);
            let mut due = state.scan(self.table, from, Bound::Excluded(&bound), Level::Open);
            due.fill(&mut stamped, &mut values, CHUNK_ROWS)?;
            drop(due);
            let Some(last) = stamped.len().checked_sub(1) else { break };
            after = Bound::Excluded(stamped.get(last).to_vec());
            let ticks = stamped.iter().map(moment).collect::<Result<Vec<_>>>()?;
            let keys: ByteRows = stamped.iter().map(|key| &key[STAMP_BYTES..]).collect();
            forget(self, state, &ticks, &keys)?;
        }
        state.truncate_below(self.table, &bound);
        let mut rows = state.scan(self.table, Bound::Unbounded, Bound::Unbounded, Level::Open);
        self.oldest = match rows.next_row()? {
            Some((key, _)) => Oldest::Tick(moment(key)?),
            None => Oldest::None,
        };
        Ok(())
    }

    /// Those of the keys that [`Ttl::expire`] gives which are a shard's own and were not written in a later tick, each once.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn unwritten(&self, state: &State, now_us: i64, shard: Shard, keys: &ByteRows) -> Result<ByteRows> {
        let mut order = keys.sort_permutation();
        order.dedup_by(|a, b| keys.get(*a as usize) == keys.get(*b as usize));
        let own: ByteRows = order.iter().map(|i| keys.get(*i as usize)).filter(|key| shard.owns(key)).collect();
        let mut is_written = vec![false; own.len()];
        for tick in self.first_kept(now_us)..=self.tick(now_us) {
            let stamped: ByteRows = own.iter().map(|key| [moment_key(tick).as_slice(), key].concat()).collect();
            let found = state.multi_get(self.table, &stamped)?;
            is_written.iter_mut().zip(found.iter()).for_each(|(is_written, found)| *is_written |= found.is_some());
        }
        Ok(own.iter().zip(is_written).filter(|(_, is_written)| !is_written).map(|(key, _)| key).collect())
    }

    pub fn reset(&mut self) {
        self.oldest = Oldest::Unknown;
    }

    /// As the operator's title has it.
    pub fn title(&self) -> String {
        format!("state_ttl {:?}", Duration::from_micros(self.ttl_us.unsigned_abs()))
    }

    /// The table as EXPLAIN shows it; `key` is what is forgotten.
    pub fn describe(&self, key: &str) -> StateDescription {
        StateDescription {
            part: self.table.part,
            layout: "keyed",
            key: format!("time of writing, {key}"),
            cost: "1 put per written key and sixteenth of the ttl; 1 get when that is over".into(),
        }
    }
}
