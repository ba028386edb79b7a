//! The front: PostgreSQL's wire protocol on one port, HTTP for operators on another.
//!
//! [`Server::bind`] takes the ports, [`Server::serve`] answers on them: with "starting up" until the engine is open, then
//! one task a connection, until it is told to stop. A connection is a `socket` (bytes and messages), a start-up (`startup`),
//! over `tls` if the client asks, a proof of who it is (`authenticate`), then the message loop (`connection`, `extended`) over one session; `rows` streams what it returns through [`encode`].
//! The session is behind [`crate::session::api`]: nothing else in the crate knows the wire, and nothing here knows SQL.

mod authenticate;
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
mod tls;

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

use self::authenticate::Throttle;
use self::cancel::Registry;
use self::connection::{Connection, say_goodbye};
use self::http::{EngineMetrics, Readiness};
use self::socket::{Disconnect, Socket, Stream};
use self::startup::{Greeting, Request};
use self::tls::Tls;
use crate::config::Config;
use crate::error::{Error, Result, sqlstate};
use crate::scram;
use crate::session::api::{ClientInfo, Login, Sessions, SqlSession};

/// How long a client may take to say who it is.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long cancelled statements may take to end at shutdown.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const TOO_MANY_CONNECTIONS: &str = "53300";
const INVALID_AUTHORIZATION: &str = "28000";

/// A server that has its ports.
pub struct Server {
    sql: TcpListener,
    http: TcpListener,
    tls: Option<Arc<Tls>>,
    max_connections: usize,
    shutdown_grace: Duration,
}

impl Server {
    /// Takes the configured addresses; port 0 takes any free one.
    pub async fn bind(config: &Config) -> Result<Self> {
        let tls = Tls::new(&config.tls)?;
        Ok(Self {
            tls,
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
        let tls = self.tls.clone();
        let reach = [("listen", self.sql_address()?), ("http", self.http_address()?)];
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
                    stream = accept(&self.sql) => drop(refused.spawn(refuse_while_starting(stream, tls.clone()))),
                    Some(_) = refused.join_next() => {}
                }
            }
        };
        check_reach(&reach, sessions.as_ref())?;
        if let Some(tls) = tls.clone() {
            helpers.spawn(reload_on_hangup(tls));
        }
        let measured = sessions.clone();
        // Set once: there is one engine.
        let _ = engine_metrics.set(Box::new(move || measured.metrics()));
        readiness.send_replace(Readiness::Ready);
        tracing::info!("ready");

        let front = Arc::new(Front {
            sessions: sessions.clone(),
            registry: Arc::new(Registry::default()),
            places: Semaphore::new(self.max_connections),
            strangers: Semaphore::new(self.max_connections),
            throttle: Throttle::default(),
            secret: secret(),
            tls,
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

/// Refuses to be reached from other machines while nobody needs a password.
fn check_reach(addresses: &[(&str, SocketAddr)], sessions: &impl Sessions) -> Result<()> {
    for (setting, address) in addresses {
        if !address.ip().is_loopback() && !sessions.is_protected() {
            return Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("setting \"{setting}\": {address} can be reached from other machines, and no superuser has a password"),
            )
            .with_hint(
                "start on 127.0.0.1, set one with ALTER ROLE millstream PASSWORD '...', and start again with this address",
            ));
        }
    }
    Ok(())
}

/// What all connections share.
struct Front<E> {
    sessions: Arc<E>,
    registry: Arc<Registry>,
    places: Semaphore,
    /// Places of those who have not proved yet who they are.
    strangers: Semaphore,
    throttle: Throttle,
    /// What makes up the salts of roles that there are not.
    secret: [u8; 32],
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl<E: Sessions> Front<E> {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let Ok(address) = stream.peer_addr() else { return };
        let Ok(stranger) = self.strangers.try_acquire() else {
            tracing::warn!(%address, "too many clients have not said who they are; one was sent away");
            return;
        };
        let started = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            started = tokio::time::timeout(STARTUP_TIMEOUT, self.let_in(stream, address)) => started,
        };
        let Ok(started) = started else {
            tracing::debug!(%address, "a client took too long to say who it is");
            return;
        };
        let (mut socket, greeting) = match started {
            Ok(Some(started)) => started,
            Ok(None) => return,
            Err((mut socket, end)) => return say_goodbye(&mut socket, Err(end)).await,
        };
        drop(stranger);
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

impl<E: Sessions> Front<E> {
    /// Takes a connection up to where the client has proved who it is. `None`: it left, or wanted nothing else.
    async fn let_in(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<Option<(Socket<Stream>, Greeting)>, (Socket<Stream>, Disconnect)> {
        let Some((mut socket, greeting)) = begin(stream, self.tls.as_ref(), &self.registry).await? else {
            return Ok(None);
        };
        match self.prove(&mut socket, &greeting, address).await {
            Ok(true) => {
                socket.admit();
                Ok(Some((socket, greeting)))
            }
            Ok(false) => Ok(None),
            Err(end) => Err((socket, end)),
        }
    }

    /// Whether the client is who it says; `false` if it left.
    async fn prove(
        &self,
        socket: &mut Socket<Stream>,
        greeting: &Greeting,
        address: SocketAddr,
    ) -> Result<bool, Disconnect> {
        let user = &greeting.user;
        if self.tls.as_ref().is_some_and(|tls| tls.required) && !socket.is_encrypted() {
            return Err(Disconnect::Terminated(
                Error::new(INVALID_AUTHORIZATION, format!("connection of user \"{user}\" is not encrypted"))
                    .with_hint("connect with sslmode=require, or verify-full"),
            ));
        }
        let login = self.sessions.login(user, address.ip().is_loopback()).map_err(Disconnect::Terminated)?;
        if login == Login::Trusted {
            return Ok(true);
        }
        let wait = self.throttle.wait(address.ip(), user).map_err(Disconnect::Terminated)?;
        tokio::time::sleep(wait).await;
        match authenticate::authenticate(socket, login, user, &self.secret).await? {
            None => Ok(false),
            Some(true) => {
                self.throttle.passed(address.ip(), user);
                Ok(true)
            }
            Some(false) => {
                self.throttle.failed(address.ip(), user);
                metrics::counter!("millstream_logins_failed_total").increment(1);
                tracing::warn!(%address, user, "password authentication failed");
                Err(Disconnect::Terminated(authenticate::failed(user)))
            }
        }
    }
}

/// Takes a connection up to its start-up packet, encrypted if the client asks. `None`: it left, or only cancelled another
/// connection's statement.
async fn begin(
    stream: TcpStream,
    tls: Option<&Arc<Tls>>,
    registry: &Registry,
) -> Result<Option<(Socket<Stream>, Greeting)>, (Socket<Stream>, Disconnect)> {
    let mut socket = Socket::new(Stream::Left(stream));
    loop {
        let encrypts = tls.filter(|_| !socket.is_encrypted());
        match (startup::greet(&mut socket, registry, encrypts.is_some()).await, encrypts) {
            (Ok(Some(Request::Session(greeting))), _) => return Ok(Some((socket, greeting))),
            (Ok(Some(Request::Encrypt)), Some(tls)) => match socket.encrypt(&tls.acceptor()).await {
                Ok(encrypted) => socket = encrypted,
                Err(error) => {
                    // Nothing can be said to a client that does not understand.
                    tracing::debug!(%error, "a client could not be encrypted");
                    return Ok(None);
                }
            },
            (Ok(_), _) => {
                socket.close().await;
                return Ok(None);
            }
            (Err(end), _) => return Err((socket, end)),
        }
    }
}

/// Reads certificate and key again whenever SIGHUP says so.
async fn reload_on_hangup(tls: Arc<Tls>) -> Result<()> {
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    while hangup.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("certificate and key were read again"),
            Err(error) => tracing::error!(%error, "certificate and key stay as they were"),
        }
    }
    Ok(())
}

fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    scram::fill(&mut secret);
    secret
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

async fn refuse_while_starting(stream: TcpStream, tls: Option<Arc<Tls>>) {
    let registry = Registry::default();
    let begun = tokio::time::timeout(STARTUP_TIMEOUT, begin(stream, tls.as_ref(), &registry)).await;
    if let Ok(Ok(Some((mut socket, _)))) = begun {
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
