//! Batch SQL: logical plans run on DataFusion, over views and tables of one snapshot, over files, over the catalogs.
//!
//! * [`context`]: the runtime, memory pool and threads that all statements share, and how one plan is run on them.
//! * `explain`: plans as JSON.
//! * [`jobs`]: the statements that run, and how far each of them is.
//! * [`memory`]: the memory pool, which leaves room for spilling.
//! * [`filter_pushdown`]: DataFusion's physical optimizer rules, one of them confined; [`left_again`]: one of ours.
//! * [`tables`]: rows of the store as a table provider, whatever lies behind them ([`tables::RowScan`]).
//! * [`access`]: what part of such rows a statement has to read: keys, ranges of the primary key or of an index.
//! * [`stores`]: the one place that turns a location and a session's secrets into an object store.
//! * [`files`]: Parquet, CSV and JSON files as tables: external tables, `read_parquet`, `read_csv` and `read_json`.
//! * [`lake`]: Delta Lake tables.
//! * [`copy`]: `COPY (query) TO 'file'`.
//! * [`sinks`]: sinks that write Delta tables and Parquet files.
//! * [`delimited`], [`lines`]: rows as lines and lines as rows, for COPY with the client and for CSV files.
//! * [`mod@series`]: `generate_series`; [`mod@sleep`]: `pg_sleep`.
//! * [`spool`]: rows put aside, for cursors.
//! * [`pg_catalog`]: `pg_catalog` and `information_schema`, which clients read.
//! * [`system`]: `millstream.*`, the server's inside; [`lazy`]: tables whose rows are made when they are read.
//!
//! A plan comes from the `sql` crate over table sources that hold names and schemas only; a [`Resolver`] puts a provider
//! under each of them before the optimizer sees the plan.

pub mod access;
pub mod context;
pub mod copy;
pub mod delimited;
mod explain;
pub mod files;
mod filter_pushdown;
pub mod jobs;
pub mod lake;
pub mod lazy;
mod left_again;
pub mod lines;
mod memory;
pub mod pg_catalog;
pub mod series;
pub mod sinks;
pub mod sleep;
pub mod spool;
pub mod stores;
pub mod system;
pub mod tables;
#[cfg(test)]
mod testing;

pub use context::{Batch, BatchOptions, Functions, Resolver, RowStream, StatementOptions};
pub use tables::{RowScan, RowTable, ScanRequest};
