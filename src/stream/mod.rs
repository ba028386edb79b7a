//! The incremental engine: continuous views kept exact, epoch by epoch.

pub mod cached;
pub mod changelog;
pub mod operator;
