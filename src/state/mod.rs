//! State: everything durable, in one RocksDB, written once per epoch.
//!
//! - [`Store`] owns the data directory: opening, committing an epoch, snapshots. Nothing outside this module knows RocksDB.
//! - [`State`] is how the epoch loop, the only writer, reads and writes: the open epoch's writes over the one being committed
//!   over RocksDB. [`State::freeze`] turns the open writes into a [`FrozenSet`], which [`Store::commit`] makes durable while
//!   the next epoch is computed.
//! - [`Snapshot`] is what everybody else reads: all tables as of one committed epoch.
//! - [`KeyCodec`] and [`RowCodec`] turn Arrow columns into stored bytes and back.
//! - [`Relation`] is the stored rows of a table or view, in whichever of the layouts.
//! - [`index`] finds its rows by other columns.
//! - [`segments`] keeps append-only rows as column segments.
//!
//! # On disk (format version 1)
//! The data directory holds `FORMAT` (the version), `db/` (RocksDB, one column family) and `ingest/` (files on their way
//! into it). A store key is the object (u32, big endian), the part (u16, big endian), and the table's own key. The three
//! layouts are tables with different keys and values:
//! - *column segments*: row position -> Arrow IPC ([`segments`]);
//! - *keyed rows*: key columns ([`KeyCodec`]) -> the other columns ([`RowCodec`]);
//! - *multimaps*: join key, then row key (both [`KeyCodec`], one after the other) -> the other columns ([`RowCodec`]).
//!
//! An index is an object of its own, whose one table is a multimap from its columns to the keys of rows ([`index`]).
//!
//!
//! Object 0 is the system's own ([`system`]): the epoch record, lower bounds, catalog, offsets, counters.

mod bounds;
mod bytes;
mod codec;
mod directory;
mod failure;
mod frozen;
pub mod index;
mod measure;
mod options;
mod overlay;
mod relation;
mod scan;
pub mod segments;
mod snapshot;
mod spill;
mod store;
pub mod system;
mod write_set;

use std::fmt;

pub use self::bytes::{ByteRows, Found};
pub use self::codec::{KeyCodec, RowCodec, successor};
pub use self::frozen::FrozenSet;
pub use self::index::{Index, IndexScan};
pub use self::measure::Measure;
pub use self::options::StoreOptions;
pub use self::overlay::{Level, State};
pub use self::relation::{Layout, Relation, RelationScan, ScanPosition};
pub use self::scan::Scan;
pub use self::snapshot::Snapshot;
pub use self::store::{Store, WritePressure};

/// One table: an ordered map from byte keys to byte values, part of the state of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// The catalog object that owns it; 0 is the system.
    pub object: u32,
    /// Which of the object's tables.
    pub part: u16,
}

/// Bytes of the table's prefix in a store key.
const PREFIX_LEN: usize = 6;

/// Set in the part under which the bound of a table's moments is kept.
const MOMENTS: u16 = 1 << 15;

impl TableId {
    /// The table `part` of an object.
    pub const fn new(object: u32, part: u16) -> Self {
        Self { object, part }
    }

    /// Stands for the moments that the table's values begin with: its lower bound is theirs.
    const fn moments(self) -> Self {
        Self::new(self.object, self.part | MOMENTS)
    }

    /// What every store key of the table starts with.
    fn prefix(self) -> [u8; PREFIX_LEN] {
        let mut prefix = [0; PREFIX_LEN];
        prefix[..4].copy_from_slice(&self.object.to_be_bytes());
        prefix[4..].copy_from_slice(&self.part.to_be_bytes());
        prefix
    }

    /// The table and its own key in a store key.
    fn split(store_key: &[u8]) -> Option<(Self, &[u8])> {
        let (object, rest) = store_key.split_first_chunk::<4>()?;
        let (part, key) = rest.split_first_chunk::<2>()?;
        Some((Self::new(u32::from_be_bytes(*object), u16::from_be_bytes(*part)), key))
    }

    /// The store key of one of the table's keys.
    fn store_key(self, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFIX_LEN + key.len());
        out.extend_from_slice(&self.prefix());
        out.extend_from_slice(key);
        out
    }

    /// The first store key after all of the table's.
    fn end(self) -> Vec<u8> {
        match self.part.checked_add(1) {
            Some(part) => Self::new(self.object, part).prefix().to_vec(),
            None => object_end(self.object),
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.object, self.part)
    }
}

/// The first store key of an object.
fn object_start(object: u32) -> Vec<u8> {
    object.to_be_bytes().to_vec()
}

/// The first store key after all of an object's.
fn object_end(object: u32) -> Vec<u8> {
    match object.checked_add(1) {
        Some(next) => object_start(next),
        None => vec![0xff; PREFIX_LEN + 2],
    }
}
