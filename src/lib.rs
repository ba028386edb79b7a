//! Millstream: continuous SQL over Kafka and batch SQL over Parquet, in one catalog, behind the PostgreSQL wire protocol.

pub mod batch;
pub mod calendar;
pub mod config;
pub mod demo;
pub mod error;
mod failpoint;
pub mod scram;
pub mod server;
pub mod session;
pub mod state;
pub mod stream;
pub mod task;
