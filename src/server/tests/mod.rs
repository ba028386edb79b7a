//! The wire from a client's side: a driver, and raw bytes where a driver hides them.

mod client;
mod fake;
mod mangled;
mod raw;
