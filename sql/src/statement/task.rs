//! The statements of scheduled SQL, and pg_cron's functions, as they are written.

use std::collections::BTreeMap;

use datafusion_sql::sqlparser::ast;

use super::{Existing, Parsed};

/// `CREATE TASK`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTask {
    pub name: ast::ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// `None`: it runs after others, or when it is asked to.
    pub schedule: Option<ScheduleClause>,
    /// `AFTER task, …`.
    pub after: Vec<ast::ObjectName>,
    pub options: BTreeMap<String, String>,
    /// At least one.
    pub statements: Vec<Parsed>,
}

/// When a task is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleClause {
    /// `CRON 'expression' [AT TIME ZONE 'zone']`.
    Cron { expression: String, time_zone: Option<String> },
    /// `EVERY [INTERVAL] 'text'`.
    Every { interval: String },
}

/// `EXECUTE TASK name [FOR TIMESTAMP 'text' | AS OF RUN n] [WITH (parameter = value, …)]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecuteTask {
    pub name: Existing,
    pub time: Option<String>,
    /// The number of the run that is repeated.
    pub run: Option<u64>,
    pub parameters: BTreeMap<String, String>,
}

/// `SELECT cron.function(arguments) …`: the query gives the arguments of one call a row.
#[derive(Debug, Clone, PartialEq)]
pub struct CronCall {
    pub function: CronFunction,
    pub query: Box<ast::Query>,
    /// The name of the one column of the result.
    pub column: String,
}

/// The functions of pg_cron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CronFunction {
    /// `cron.schedule(name, schedule, command)`, or without a name.
    Schedule,
    /// `cron.unschedule(name | id)`.
    Unschedule,
}

impl CronFunction {
    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Schedule => "cron.schedule",
            Self::Unschedule => "cron.unschedule",
        }
    }
}
