//! The tables of object 0, which no user made: what each key and value is.
//!
//! The first three are kept by `state` itself; the others belong to those who write them, and are listed here so that
//! everything on disk is listed somewhere.

use super::TableId;
use crate::error::{Error, Result, sqlstate};

/// About the store: `uuid` -> 16 bytes, `created_us` -> i64 big endian.
pub(super) const STORE: TableId = TableId::new(0, 0);
/// The empty key -> the [`EpochRecord`] of the last committed epoch.
pub(super) const EPOCH: TableId = TableId::new(0, 1);
/// Object and part (6 bytes, as in a store key) -> the table's lower bound.
pub(super) const BOUNDS: TableId = TableId::new(0, 2);
/// Object id (u32 big endian) -> catalog record.
pub const CATALOG: TableId = TableId::new(0, 3);
/// Source id (u32 big endian), partition (i32 big endian) -> position.
pub const OFFSETS: TableId = TableId::new(0, 4);
/// Source id (u32 big endian), partition (i32 big endian) -> watermark and idleness.
pub const WATERMARKS: TableId = TableId::new(0, 5);
/// Name -> u64 big endian ([`super::State::counter`]).
pub const COUNTERS: TableId = TableId::new(0, 6);
/// Segments of `millstream.ddl_history`.
pub const DDL_HISTORY: TableId = TableId::new(0, 7);
/// Job id (u32 big endian) -> backfill and other long work.
pub const JOBS: TableId = TableId::new(0, 8);
/// Segments of `millstream.dead_letters`.
pub const DEAD_LETTERS: TableId = TableId::new(0, 10);
/// Anything small of the engine's own, by name.
pub const ENGINE: TableId = TableId::new(0, 9);

/// Where a counter's value lives in [`super::State::counter`]'s table; also how epochs and positions are written.
pub(super) fn read_u64(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| corrupt("a counter"))?))
}

/// What an epoch says of itself. Version byte `01`, epoch (u64 big endian), its `now()` (i64 big endian); a reader
/// ignores what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EpochRecord {
    pub epoch: u64,
    /// Microseconds since 1970, UTC.
    pub now_us: i64,
}

impl EpochRecord {
    const VERSION: u8 = 1;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17);
        out.push(Self::VERSION);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.now_us.to_be_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (version, rest) = bytes.split_first().ok_or_else(|| corrupt("the epoch record"))?;
        let (epoch, rest) = rest.split_first_chunk::<8>().ok_or_else(|| corrupt("the epoch record"))?;
        let now_us = rest.first_chunk::<8>().ok_or_else(|| corrupt("the epoch record"))?;
        if *version != Self::VERSION {
            return Err(corrupt("the epoch record"));
        }
        Ok(Self { epoch: u64::from_be_bytes(*epoch), now_us: i64::from_be_bytes(*now_us) })
    }
}

pub(super) fn corrupt(what: &str) -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, format!("{what} in the data directory cannot be read"))
}
