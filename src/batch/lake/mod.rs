//! Delta Lake tables: what `STORED AS DELTA` names. A table is a folder of Parquet files and a log of which of them count.
//!
//! * [`place`]: where a table is, and its log; what goes wrong with it, in our words.
//! * [`columns`]: the types of Delta's columns and ours.
//! * [`snapshot`]: a version of a table: its columns and files. [`Snapshots`] keeps those read last.
//! * [`scan`]: a version as rows.
//! * [`write`](mod@write): rows into new files.
//! * [`commit`]: files into the next version, whoever else writes.
//! * [`create`]: new tables. [`change`]: INSERT, INSERT OVERWRITE, UPDATE, DELETE, MERGE.
//! * [`optimize`](mod@optimize): OPTIMIZE, by [`mod@z_order`] too. [`upkeep`]: VACUUM, and the history.
//!
//! The log is the `deltalake` crate's; files are read and written as those of other external tables are.

pub mod change;
pub mod columns;
pub mod commit;
pub mod create;
pub mod optimize;
pub mod place;
pub mod scan;
pub mod snapshot;
pub mod upkeep;
pub mod write;
mod z_order;

pub use place::Lake;
pub use scan::LakeTable;
pub use snapshot::{At, LakeReads, Snapshots, VersionReads};
