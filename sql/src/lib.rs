//! SQL text to typed [`Plan`]: the statement front, the types and the functions of Millstream's dialect; no I/O.
//!
//! * [`statement`]: what a text says, before any name is looked up.
//! * [`parser`]: text to [`Statement`]s.
//! * [`planner`]: [`Statement`] to [`Plan`].
//! * [`functions`](mod@functions): the functions of the dialect.
//! * [`context`]: what planning may look at ([`PlanContext`]), and the leaf of every plan ([`CatalogSource`]).
//! * [`plan`](mod@plan): what the session carries out.
//! * [`definition`]: the text of a definition under the names of today, secrets masked.
//! * [`types`]: names of types, casts, text to values.
//! * [`error`]: SQLSTATE, message and position of what is wrong.

// An error is met once a statement; boxing it would cost every reader of its fields more than it saves.
#![allow(clippy::result_large_err)]

pub mod context;
pub mod definition;
pub mod error;
pub mod functions;
pub mod parser;
pub mod plan;
pub mod planner;
pub mod statement;
pub mod types;

pub use context::{
    CatalogSource, ExternalCall, NoSystemTables, PlanContext, ROW_ID, Rights, RunVars, Series, SessionVars,
    SystemTables, TEMPORARY_SCHEMA, Target, Version,
};
pub use definition::{
    MASK, current_definition, current_query, function_arguments, index_definition, is_secret, masked, table_definition,
    task_definition, with_options,
};
pub use error::{Result, SqlError};
pub use functions::{FunctionSet, functions};
pub use parser::{parse, parse_expr, parse_query};
pub use plan::{Plan, PlannedQuery};
pub use planner::{
    AsofJoin, AsofParts, SECRET_OPTION, Sessions, checked_arithmetic, column_expression, external_calls,
    generation_expression, may_read, plan, plan_arguments, plan_query, source_schema_call, without_asof,
    without_sessions,
};
pub use statement::{Parsed, Statement};
pub use types::quote_ident;
