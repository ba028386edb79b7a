//! SQL types: their names, how text becomes a value and a value text, and the casts between them.

mod date_text;
mod input;
mod interval;
mod names;
mod output;
mod time;

pub(crate) use input::fit;
pub use input::{numeric_layout, parse_value};
pub(crate) use names::internal_name;
pub(crate) use names::is_reserved;
pub use names::{normalize, quote_ident, sql_type};
pub use output::to_text;
pub(crate) use time::{Zone, civil_from_days, days};
