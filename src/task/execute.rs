//! One run from its start to its end: its session, its time limit, and who may end it.

use std::sync::Arc;
use std::time::Duration;

use millstream_catalog::Object;
use millstream_catalog::object::Task;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, sqlstate};
use crate::session::database::Database;
use crate::session::tasks::{Attempt, Run};

/// What a run is carried out with.
pub struct Order {
    pub object: Arc<Object>,
    pub task: Task,
    pub run: Run,
    pub timeout: Option<Duration>,
    /// The task was dropped, or the server stops.
    pub cancel: CancellationToken,
    /// The client that waits for it gave up.
    pub given_up: CancellationToken,
}

/// How a run ended.
pub struct Ending {
    /// As far as it came.
    pub run: Run,
    pub result: Result<(), Failure>,
}

/// Why a run did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Tried again, if the task has retries.
    Error(Error),
    /// The client gave up.
    GivenUp,
    /// Nobody wants it any more.
    Ended,
}

/// Why a run was cancelled.
#[derive(Clone, Copy)]
enum Reason {
    Timeout,
    GivenUp,
    Ended,
}

/// Carries out a run.
pub async fn execute(database: Database, order: Order) -> Ending {
    let Order { object, task, run, timeout, cancel, given_up } = order;
    let mut attempt = match Attempt::new(&database, &object, &task, run.clone()) {
        Ok(attempt) => attempt,
        Err(e) => return Ending { run, result: Err(Failure::Error(e)) },
    };
    let stop = CancellationToken::new();
    let mut reason = None;
    let result = {
        let mut work = std::pin::pin!(attempt.carry_out(&stop));
        let limit = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let mut limit = std::pin::pin!(limit);
        loop {
            let ended = tokio::select! {
                result = &mut work => break result,
                () = &mut limit, if reason.is_none() => Reason::Timeout,
                () = cancel.cancelled(), if reason.is_none() => Reason::Ended,
                () = given_up.cancelled(), if reason.is_none() => Reason::GivenUp,
            };
            reason = Some(ended);
            stop.cancel();
        }
    };
    let result = result.map_err(|e| match reason {
        Some(Reason::GivenUp) => Failure::GivenUp,
        Some(Reason::Ended) => Failure::Ended,
        Some(Reason::Timeout) if e.sqlstate() == sqlstate::QUERY_CANCELED => {
            let message = "canceling the run due to the timeout of the task";
            Failure::Error(
                Error::new(sqlstate::QUERY_CANCELED, message)
                    .with_hint("ALTER TASK ... SET (timeout = '...') gives it more time"),
            )
        }
        _ => Failure::Error(e),
    });
    Ending { run: attempt.so_far(), result }
}
