//! The incremental engine: continuous views kept exact, epoch by epoch.
//!
//! * [`changelog`]: what flows: rows with weights, in columns.
//! * [`plan`]: from a logical plan to operators, or a refusal.
//! * [`operator`]: the operators, one a file.
//! * [`columns_read`], [`generated`]: what is read of sources, and what is computed of it.
//! * [`time`]: watermarks through expressions.
//! * [`engine`]: the epoch loop, which drives all of it and writes the store.

pub mod cache_budget;
pub mod cached;
pub mod changelog;
pub mod columns_read;
pub mod engine;
pub mod generated;
pub mod operator;
pub mod plan;
pub mod time;
