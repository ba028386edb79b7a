//! SQL sessions: one match over the plan of a statement, and the transaction, settings and notices around it.

pub mod api;
