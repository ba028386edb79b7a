//! The scheduler of tasks: decides when each runs, starts the runs, and notes how they end. What a run does is the business of
//! a session ([`crate::session::tasks`]).
//!
//! * [`decide`]: what becomes of scheduled times: run, skipped, passed over. Pure.
//! * [`entry`]: a task as the scheduler holds it.
//! * [`scheduler`]: the loop, and what it does about time; `requests`: what clients ask for; `ending`: what follows a run.
//! * [`execute`]: one run from start to end.
//!
//! There is one scheduler, and it alone makes runs, so their numbers and tries never clash. All that it decides is written down
//! before it acts, in one write with the cursor that says up to when the schedule is dealt with; so a restart takes up exactly
//! what is open, and no time is run twice, whichever way the clock jumps.

pub mod decide;
mod ending;
pub mod entry;
pub mod execute;
mod requests;
pub mod scheduler;

use crate::session::database::Database;

/// Starts the scheduler of a database on the threads of the runtime that this is called on. It ends with the database.
pub fn start(database: &Database) {
    let scheduled = database.clone();
    database.tasks.attach(move |attached| tokio::spawn(scheduler::run(scheduled, attached)));
}
