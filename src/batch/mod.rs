//! Batch SQL: logical plans run on DataFusion, over views and tables of one snapshot, over files, over the catalogs.
//!
//! * [`context`]: the runtime, memory pool and threads that all statements share, and how one plan is run on them.
//! * [`tables`]: rows of the store as a table provider, whatever lies behind them ([`tables::RowScan`]).
//!
//! A plan comes from the `sql` crate over table sources that hold names and schemas only; a [`Resolver`] puts a provider
//! under each of them before the optimizer sees the plan.

pub mod context;
pub mod tables;

pub use context::{Batch, BatchOptions, Functions, Resolver, RowStream, StatementOptions};
pub use tables::{RowScan, RowTable, ScanRequest};
