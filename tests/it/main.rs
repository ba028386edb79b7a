//! The whole-server tests, as one binary: one link, one Kafka broker, one PostgreSQL for all of them.

mod building;
mod client;
mod copy;
mod demo;
mod disk;
mod files;
mod front;
mod inside;
mod kafka;
mod kill;
mod layers;
mod lifecycle;
mod limits;
mod mangled;
mod nexmark;
mod oracle;
mod pg;
mod postgres;
mod process;
mod raw;
mod seed;
mod server;
mod slt;
mod tables;
mod topics;
mod tour;
