//! Subscriptions: a relation's rows and then its changes, epoch by epoch, for SUBSCRIBE and for LISTEN on a view.
//!
//! * [`statement`]: SUBSCRIBE as a statement, and as the source of COPY.
//! * [`follow`]: a subscription that runs.
//! * [`changes`]: the changes of an epoch as rows `epoch, op, columns…`.
//! * [`temporary`]: the view behind a subscription to a query.
//! * [`registry`]: which there are, for `millstream.subscriptions` and the metrics.

pub mod changes;
pub mod follow;
pub mod registry;
pub mod statement;
pub mod temporary;

pub use follow::{Start, Subscription};
pub use registry::Registry;
