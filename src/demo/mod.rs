//! `millstream demo`: the server, a stream of made-up card payments with planted fraud, rules that find it, and a ledger
//! with planted breaks.
//!
//! The demo is a client of the server in its process. [`setup`] chooses broker and directories and runs the statements of
//! `sql/*.sql`; [`traffic`] makes payments; [`books`] writes the ledger and the answer sheet; [`summary`] shows how it goes.
//! The server runs as always ([`server::run`]), with [`Demo`] around its database, so that stopping the one stops both.

mod books;
mod client;
mod setup;
mod summary;
mod traffic;

use std::process::ExitCode;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::books::Books;
use self::client::Client;
use self::setup::{Broker, Place};
use self::summary::Summary;
use self::traffic::Progress;
use crate::config::{Config, DemoArgs};
use crate::error::{Error, Result};
use crate::server;
use crate::session::Session;
use crate::session::api::{ClientInfo, Sessions};
use crate::session::database::Database;

/// Runs the demo until SIGINT or SIGTERM; the exit code is 0 after an orderly stop.
///
/// # Errors
/// 22023 if the flags do not go together, and whatever is wrong with the settings.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    let (config, place) = Place::choose(args)?;
    let code = server::run(config, |config| Demo::open(config, args, &place));
    // The place goes last: a directory of the demo's own is removed with it.
    drop(place);
    Ok(code)
}

/// The database of the server, with everything that feeds and watches it.
struct Demo {
    database: Arc<Database>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<Result<()>>>>,
    /// Ends with the demo; its clients must be gone before.
    _broker: Arc<Broker>,
}

impl Demo {
    async fn open(config: Arc<Config>, args: &DemoArgs, place: &Place) -> Result<Arc<Self>> {
        let database = server::open(config.clone()).await?;
        let broker = Arc::new(Broker::start(args.kafka.as_deref())?);
        let mut client = Client::connect(&database).await?;
        setup::prepare(&mut client, &broker, place).await?;
        let start = setup::resume(&mut client, place).await?;

        let stop = CancellationToken::new();
        let progress = Arc::new(Progress::new(start.next_txn_id));
        let (traffic, portions) = traffic::start(args, &broker, &start, progress.clone(), stop.clone())?;
        let books = Books::new(Client::connect(&database).await?, place.ledger.clone(), &start);
        let summary = Summary::new(client, Client::connect(&database).await?, progress);
        summary::introduce(&config, &broker, place, &start);
        let tasks = vec![
            spawn("payments", async move { tokio::task::spawn_blocking(traffic).await.map_err(ended)? }),
            spawn("ledger", books.keep(portions)),
            spawn("summary", summary.show(stop.clone())),
        ];
        Ok(Arc::new(Self { database, stop, tasks: Mutex::new(tasks), _broker: broker }))
    }
}

impl Sessions for Demo {
    type Session = Session;

    async fn open(&self, client: ClientInfo) -> Result<Session> {
        Sessions::open(&*self.database, client).await
    }

    async fn close(&self) -> Result<()> {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let mut outcome = Ok(());
        for task in tasks {
            outcome = outcome.and(task.await.map_err(ended)?);
        }
        outcome.and(self.database.close().await)
    }
}

/// Runs a part of the demo; if it fails, the user is told at once and the server goes on.
fn spawn(part: &'static str, work: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<Result<()>> {
    tokio::spawn(async move {
        let outcome = work.await;
        if let Err(error) = &outcome {
            tracing::error!(part, hint = error.hint(), "the demo is incomplete from here on: {error}");
        }
        outcome
    })
}

fn ended(e: tokio::task::JoinError) -> Error {
    Error::internal(format!("a part of the demo ended: {e}"))
}
