//! Scheduled SQL as sessions know it: its statements, what is kept of its runs, and the session in which a run is carried out.
//! When a task runs is decided in [`crate::calendar`] and by the scheduler above this module.
//!
//! * [`options`]: what `WITH (…)` says.
//! * [`run`]: a run, as it is kept; [`state`]: where a task stands.
//! * [`define`]: CREATE, ALTER and EXECUTE TASK.
//! * [`body`]: carries out the statements of a run.
//! * [`reads`]: what a run has read, so that it can be repeated on it.
//! * [`desk`]: between sessions and the scheduler.
//! * [`inside`]: `millstream.tasks` and `task_runs`; [`cron`]: pg_cron's functions and tables.

pub mod body;
pub mod cron;
pub mod define;
pub mod desk;
pub mod inside;
pub mod options;
pub mod reads;
pub mod run;
pub mod state;

pub use body::Attempt;
pub use desk::{Clock, Desk, Request};
pub use options::{CatchUp, Overlap, TaskOptions};
pub use run::{Run, RunError, RunState, Trigger};
pub use state::{Ended, TaskState};

use millstream_catalog::object::{Schedule, Task};
use millstream_catalog::{Object, ObjectKind};

use crate::calendar::Calendar;
use crate::error::{Error, Result};

/// The calendar of a task; `None` if it has no schedule.
///
/// # Errors
/// 22023 for a schedule that cannot be read.
pub fn calendar_of(task: &Task) -> Result<Option<Calendar>> {
    Ok(match &task.schedule {
        Some(Schedule::Cron { expression, time_zone }) => Some(Calendar::cron(expression, time_zone)?),
        Some(Schedule::Every { period_us, .. }) => Some(Calendar::every(*period_us)?),
        None => None,
    })
}

/// The task that an object is.
pub fn task_of(object: &Object) -> Option<&Task> {
    match &object.kind {
        ObjectKind::Task(task) => Some(task),
        _ => None,
    }
}

/// What a run ends with that its client has taken back.
pub fn given_up() -> Error {
    super::query::canceled()
}
