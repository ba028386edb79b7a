//! Millstream: continuous SQL over Kafka and batch SQL over Parquet, in one catalog, behind the PostgreSQL wire protocol.

pub mod batch;
pub mod config;
pub mod error;
#[cfg(any())]
pub mod server;
#[cfg(any())]
pub mod session;
pub mod state;
pub mod stream;
