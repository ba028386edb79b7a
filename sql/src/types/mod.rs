//! SQL types: their names, casts and how text becomes a value.

mod names;

pub use names::{normalize, sql_type};
