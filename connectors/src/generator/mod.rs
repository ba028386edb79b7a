//! Made-up records for the demo, the benchmarks and the tests: the same for the same seed, on every machine.
//!
//! * [`payments`]: card payments as they look, one by one, as JSON or as batches.
//! * [`fraud`]: the frauds that are planted among them, each with the payments that make it, so that recall can be checked.
//! * [`ledger`]: the bank's own book of the same payments, with planted breaks to reconcile.
//! * [`pace`]: as many a second as asked.

pub mod fraud;
pub mod ledger;
pub mod pace;
pub mod payments;
mod places;
pub(crate) mod rng;

pub use fraud::{Fraud, FraudKind};
pub use ledger::{Break, BreakKind, Ledger};
pub use pace::Pace;
pub use payments::{Payment, Payments, PaymentsOptions};
