//! What the session carries out of scheduled SQL.

use std::collections::BTreeMap;

use millstream_catalog::ObjectId;
use millstream_catalog::object::Task;

use super::{NewName, PlannedQuery};
use crate::statement::{CronFunction, Parsed};

/// `CREATE TASK`. Its statements are not planned yet: each may name what one before it makes.
#[derive(Debug, Clone)]
pub struct CreateTaskPlan {
    pub name: NewName,
    pub task: Task,
    /// The tasks that it runs after.
    pub references: BTreeMap<String, ObjectId>,
    /// The task whose definition this one takes the place of.
    pub replaces: Option<ObjectId>,
    /// Those of [`Task::statements`], with their places in the text.
    pub statements: Vec<Parsed>,
}

/// `EXECUTE TASK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecuteTaskPlan {
    pub task: ObjectId,
    /// The scheduled time of the run, microseconds since 1970; `None` is now.
    pub time_us: Option<i64>,
    /// The number of the run that is repeated on what it read.
    pub run: Option<u64>,
    /// Names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// A call of one of pg_cron's functions, once for each row of its arguments.
#[derive(Debug, Clone)]
pub struct CronPlan {
    pub function: CronFunction,
    pub arguments: PlannedQuery,
    /// The name of the one column of the result.
    pub column: String,
}
