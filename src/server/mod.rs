//! The front: PostgreSQL's wire protocol on one port, HTTP for operators on another.
//!
//! [`Server::bind`] takes the ports, [`Server::serve`] answers on them: with "starting up" until the engine is open, then
//! one task a connection, until it is told to stop. A connection is a `socket` (bytes and messages), a start-up (`startup`),
//! then the message loop (`connection`, `extended`) over one session; `rows` streams what it returns through [`encode`].
//! The session is behind [`crate::session::api`]: nothing else in the crate knows the wire, and nothing here knows SQL.

mod cancel;
mod connection;
mod copy_binary;
mod copy_in;
pub mod encode;
mod extended;
pub mod http;
mod message;
mod open;
mod parameters;
mod rows;
mod run;
mod socket;
mod startup;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::open::{database_options, open};
pub use self::run::{init_logging, run};
pub use self::startup::SERVER_VERSION;

use self::cancel::Registry;
use self::connection::{Connection, say_goodbye};
use self::http::{EngineMetrics, Readiness};
use self::socket::{Disconnect, Socket};
use crate::config::Config;
use crate::error::{Error, Result, sqlstate};
use crate::session::api::{ClientInfo, Sessions, SqlSession};

/// How long a client may take to say who it is.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long cancelled statements may take to end at shutdown.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const TOO_MANY_CONNECTIONS: &str = "53300";

/// A server that has its ports.
pub struct Server {
    sql: TcpListener,
    http: TcpListener,
    max_connections: usize,
    shutdown_grace: Duration,
}

impl Server {
    /// Takes the configured addresses; port 0 takes any free one.
    pub async fn bind(config: &Config) -> Result<Self> {
        Ok(Self {
            sql: listen("listen", config.listen).await?,
            http: listen("http", config.http).await?,
            max_connections: config.max_connections,
            shutdown_grace: config.shutdown_grace,
        })
    }

    /// Where PostgreSQL clients connect.
    pub fn sql_address(&self) -> Result<SocketAddr> {
        Ok(self.sql.local_addr()?)
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn http_address(&self) -> Result<SocketAddr> {
        Ok(self.http.local_addr()?)
    }

    /// Serves until `shutdown` fires, then ends in order: no new connections, idle ones sent away, running statements
    /// given the grace period and then cancelled, the engine closed.
    ///
    /// `open` recovers the engine; until it is done clients are told to wait (57P03) and `/readyz` says 503.
    pub async fn serve<E: Sessions>(
        self,
        open: impl Future<Output = Result<Arc<E>>> + Send,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let (readiness, watched) = watch::channel(Readiness::Recovering);
        let mut helpers = JoinSet::new();
        let engine_metrics = EngineMetrics::default();
        helpers.spawn(http::serve(self.http, watched, engine_metrics.clone()));
        tracing::info!(address = %self.sql.local_addr()?, "listening for PostgreSQL clients");

        let sessions = {
            tokio::pin!(open);
            let mut refused = JoinSet::new();
            loop {
                tokio::select! {
                    biased;
                    opened = &mut open => break opened?,
                    () = shutdown.cancelled() => return Ok(()),
                    stream = accept(&self.sql) => drop(refused.spawn(refuse_while_starting(stream))),
                    Some(_) = refused.join_next() => {}
                }
            }
        };
        let measured = sessions.clone();
        // Set once: there is one engine.
        let _ = engine_metrics.set(Box::new(move || measured.metrics()));
        readiness.send_replace(Readiness::Ready);
        tracing::info!("ready");

        let front = Arc::new(Front {
            sessions: sessions.clone(),
            registry: Arc::new(Registry::default()),
            places: Semaphore::new(self.max_connections),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                stream = accept(&self.sql) => drop(connections.spawn(front.clone().serve(stream))),
                Some(ended) = connections.join_next() => log_panic(ended),
            }
        }

        tracing::info!(connections = connections.len(), "stopping");
        readiness.send_replace(Readiness::Stopping);
        drop(self.sql);
        front.stop.cancel();
        if !wait_for_all(&mut connections, self.shutdown_grace).await {
            front.kill.cancel();
            if !wait_for_all(&mut connections, KILL_TIMEOUT).await {
                tracing::warn!(connections = connections.len(), "connections did not end; dropping them");
                connections.shutdown().await;
            }
        }
        let closed = sessions.close().await;
        helpers.shutdown().await;
        closed
    }
}

/// What all connections share.
struct Front<E> {
    sessions: Arc<E>,
    registry: Arc<Registry>,
    places: Semaphore,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl<E: Sessions> Front<E> {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let Ok(address) = stream.peer_addr() else { return };
        let mut socket = Socket::new(stream);
        let started = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Disconnect::Terminated(socket::shutting_down())),
            started = tokio::time::timeout(STARTUP_TIMEOUT, startup::greet(&mut socket, &self.registry)) => {
                started.unwrap_or_else(|_| Err(Disconnect::Protocol(socket::protocol_violation("startup timed out"))))
            }
        };
        let greeting = match started {
            Ok(Some(greeting)) => greeting,
            Ok(None) => return say_goodbye(&mut socket, Ok(())).await,
            Err(end) => return say_goodbye(&mut socket, Err(end)).await,
        };
        // Only sessions take places: a cancel request must come through when all are taken.
        let Ok(_place) = self.places.try_acquire() else {
            let error = Error::new(TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                .with_hint("raise max_connections or close connections");
            return say_goodbye(&mut socket, Err(Disconnect::Terminated(error))).await;
        };
        let registration = self.registry.register();
        let client = ClientInfo {
            process_id: registration.process_id,
            address,
            user: greeting.user.clone(),
            database: greeting.database.clone(),
            settings: greeting.settings.clone(),
        };
        let mut session = match self.sessions.open(client).await {
            Ok(session) => session,
            Err(error) => return say_goodbye(&mut socket, Err(Disconnect::Terminated(error))).await,
        };
        startup::welcome(&mut socket.output, &greeting, &registration, session.take_parameter_changes());
        metrics::counter!("millstream_connections_total").increment(1);
        let _open = OpenConnection::count();
        tracing::debug!(%address, user = greeting.user, process_id = registration.process_id, "client connected");
        let running = registration.running.clone();
        Connection::new(socket, session, running, self.stop.clone(), self.kill.clone()).run().await;
    }
}

/// Counts an open connection in the metrics, also if its task panics.
struct OpenConnection;

impl OpenConnection {
    fn count() -> Self {
        metrics::gauge!("millstream_connections").increment(1.0);
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        metrics::gauge!("millstream_connections").decrement(1.0);
    }
}

async fn listen(setting: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        Error::new(sqlstate::IO_ERROR, format!("cannot listen on {address} (setting \"{setting}\"): {e}"))
            .with_hint("choose another address, or end the process that uses it")
    })
}

/// The next client. Failures to accept (too many open files) pass: the connections that are there go on.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Messages are written whole, so waiting to fill packets only delays them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn refuse_while_starting(stream: TcpStream) {
    let mut socket = Socket::new(stream);
    let greeting = tokio::time::timeout(STARTUP_TIMEOUT, startup::greet(&mut socket, &Registry::default())).await;
    if let Ok(Ok(Some(_))) = greeting {
        let error = Error::new(sqlstate::CANNOT_CONNECT_NOW, "the database system is starting up");
        say_goodbye(&mut socket, Err(Disconnect::Terminated(error))).await;
    }
}

/// Whether all connections ended in time.
async fn wait_for_all(connections: &mut JoinSet<()>, patience: Duration) -> bool {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    tokio::time::timeout(patience, all).await.is_ok()
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; its client was disconnected");
    }
}
