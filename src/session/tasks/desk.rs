//! The desk between sessions and the scheduler: what clients ask for, and the clock by which tasks are due.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_catalog::ObjectId;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::run::Run;
use crate::error::{Error, Result, sqlstate};
use crate::failpoint;

/// How long the scheduler may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What time it is, in microseconds since 1970: the system's clock, or that of a test.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::new(|| chrono::Utc::now().timestamp_micros() + failpoint::clock_offset_us())
    }

    /// A clock of one's own.
    pub fn new(now_us: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_us))
    }

    pub fn now_us(&self) -> i64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now_us())
    }
}

/// A client asks for a run, and waits for its end.
pub struct Request {
    pub task: ObjectId,
    /// The scheduled time; `None` is now.
    pub time_us: Option<i64>,
    /// The number of the run that is repeated.
    pub run: Option<u64>,
    /// Those that are given.
    pub parameters: BTreeMap<String, String>,
    pub user: String,
    /// Fires when the client wants it no longer.
    pub cancel: CancellationToken,
    /// The last try, however it ended.
    pub reply: oneshot::Sender<Result<Run>>,
}

/// One per database.
pub struct Desk {
    pub clock: Clock,
    /// The epoch at which the server started.
    pub start_epoch: u64,
    look: Notify,
    requests: Mutex<Option<mpsc::UnboundedSender<Request>>>,
    stop: CancellationToken,
    scheduler: Mutex<Option<JoinHandle<()>>>,
}

/// The scheduler's side.
pub struct Attached {
    pub requests: mpsc::UnboundedReceiver<Request>,
    /// Fires when the server stops.
    pub stop: CancellationToken,
}

impl Desk {
    pub fn new(clock: Clock, start_epoch: u64) -> Self {
        Self {
            clock,
            start_epoch,
            look: Notify::new(),
            requests: Mutex::default(),
            stop: CancellationToken::new(),
            scheduler: Mutex::default(),
        }
    }

    /// Lets a scheduler, started with its side, take its place; it is asked to stop, and waited for, by [`Desk::end`].
    pub fn attach(&self, start: impl FnOnce(Attached) -> JoinHandle<()>) {
        let (sender, requests) = mpsc::unbounded_channel();
        *self.requests.lock() = Some(sender);
        *self.scheduler.lock() = Some(start(Attached { requests, stop: self.stop.clone() }));
    }

    /// Tells the scheduler that a definition may have changed.
    pub fn wake(&self) {
        self.look.notify_one();
    }

    /// Waits for [`Desk::wake`].
    pub async fn woken(&self) {
        self.look.notified().await;
    }

    /// Asks for a run.
    ///
    /// # Errors
    /// 57P01 if there is no scheduler, or no more.
    pub fn ask(&self, request: Request) -> Result<()> {
        let stopped = || Error::new(sqlstate::ADMIN_SHUTDOWN, "the scheduler of tasks does not run");
        let requests = self.requests.lock();
        requests.as_ref().ok_or_else(stopped)?.send(request).map_err(|_| stopped())
    }

    /// Ends the scheduler with the runs under way, which are taken up again at the next start.
    pub async fn end(&self) {
        self.stop.cancel();
        *self.requests.lock() = None;
        let scheduler = self.scheduler.lock().take();
        if let Some(mut scheduler) = scheduler
            && tokio::time::timeout(END_TIMEOUT, &mut scheduler).await.is_err()
        {
            tracing::warn!("the scheduler of tasks did not end in time");
            scheduler.abort();
        }
    }
}
