//! The whole-server tests, as one binary: one link, one Kafka broker, one PostgreSQL for all of them.

mod client;
mod kafka;
mod layers;
mod postgres;
mod process;
