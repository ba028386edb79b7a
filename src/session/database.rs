//! The database behind all sessions: the store, the engine and the batch threads, opened once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_catalog::{Catalog, DEFAULT_DATABASE, DEFAULT_USER, ObjectId};
use parking_lot::Mutex;

use super::Session;
use super::api::{ClientInfo, Login, Sessions};
use super::backends::Backends;
use super::channels::Channels;
use super::definitions;
use super::subscriptions::{Registry, temporary};
use super::tasks::{Clock, Desk};
use crate::batch::{Batch, BatchOptions, Functions};
use crate::error::{Error, Result, sqlstate};
use crate::state::{Store, StoreOptions};
use crate::stream::cache_budget;
use crate::stream::engine::Engine;
use crate::stream::engine::epoch::{self, Recovered};
use crate::stream::engine::intake::EpochLimits;

/// Everything that a database is opened with.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    pub store: StoreOptions,
    pub batch: BatchOptions,
    pub limits: EpochLimits,
    /// How long dead letters and late rows are kept; 0: for ever.
    pub dead_letter_retention: Duration,
    /// Memory of all caches of the operators' state.
    pub cache_bytes: usize,
    /// A reader that holds on to a snapshot for longer ends with 72000.
    pub snapshot_max_age: Duration,
    /// Memory of the changes that subscriptions may ask for.
    pub history_bytes: usize,
    /// Runs of tasks at one time; others wait.
    pub tasks_at_once: usize,
    /// Settings as `millstream.settings` shows them.
    pub settings: Vec<SettingRow>,
}

/// A server setting, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingRow {
    pub name: String,
    pub value: String,
    pub default: String,
    pub description: String,
}

impl DatabaseOptions {
    /// The defaults over a data directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            batch: BatchOptions::new(dir.join("spill")),
            store: StoreOptions::new(dir),
            limits: EpochLimits::default(),
            dead_letter_retention: Duration::from_secs(30 * 86_400),
            cache_bytes: cache_budget::TOTAL_BYTES_DEFAULT,
            snapshot_max_age: Duration::from_secs(600),
            history_bytes: 64 << 20,
            tasks_at_once: 4,
            settings: Vec::new(),
        }
    }
}

/// An open database. Clones are the same one.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

/// What sessions share.
pub struct Inner {
    pub engine: Engine,
    pub batch: Batch,
    pub store: Arc<Store>,
    pub options: DatabaseOptions,
    /// Statements that change rows that they read take turns on each table, so that they rarely conflict.
    writers: Mutex<HashMap<ObjectId, Arc<tokio::sync::Mutex<()>>>>,
    sessions: Mutex<HashMap<u64, SessionInfo>>,
    next_session: AtomicU64,
    /// Where tasks are asked for.
    pub tasks: Desk,
    /// Who listens to what.
    pub channels: Channels,
    /// How a session reaches another.
    pub backends: Arc<Backends>,
    pub subscriptions: Registry,
    pub started: Instant,
}

/// A session as `millstream.sessions` shows it.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    pub process_id: i32,
    pub user: String,
    /// The role that it acts as.
    pub acts_as: String,
    /// What the client calls itself; empty if it does not.
    pub application_name: String,
    pub address: String,
    pub connected_us: i64,
    pub statement: Option<String>,
    /// The last statement, with when it began; microseconds since 1970.
    pub last_statement: Option<(String, i64)>,
    /// Since when it is in its state.
    pub changed_us: i64,
    /// Since when a transaction is open, and whether it has failed.
    pub transaction: Option<(i64, bool)>,
    /// The channels that it listens to.
    pub listening: String,
}

impl Database {
    /// Opens a data directory, recovers its last committed epoch, and starts everything that its catalog says.
    ///
    /// # Errors
    /// 55006 if another process has the directory open, 55000 for another format version, and whatever makes an object of
    /// the catalog unable to run, named.
    pub fn open(options: DatabaseOptions) -> Result<Self> {
        cache_budget::set_total_bytes(options.cache_bytes);
        let store = Store::open(&options.store)?;
        let functions = millstream_sql::functions();
        let functions = Functions {
            scalar: functions.scalar.clone(),
            aggregate: functions.aggregate.clone(),
            window: functions.window.clone(),
        };
        let batch = Batch::new(&options.batch, &functions, Vec::new())?;
        let catalog = epoch::recover_catalog(&store)?;
        let objects = definitions::objects(&catalog, &batch.places())?;
        let engine = epoch::start(Recovered {
            store: store.clone(),
            catalog,
            objects,
            limits: options.limits,
            history_bytes: options.history_bytes,
            dead_letter_retention: options.dead_letter_retention,
        })?;
        let left_over = temporary::left_over(&engine.published().catalog);
        futures::executor::block_on(temporary::drop_views(&engine, &left_over, DEFAULT_USER))?;
        let named = super::temporary::is_temporary;
        futures::executor::block_on(super::temporary::drop_schemas(&engine, named, DEFAULT_USER))?;
        let tasks = Desk::new(Clock::system(), engine.published().epoch);
        Ok(Self(Arc::new(Inner {
            tasks,
            channels: Channels::default(),
            backends: Arc::default(),
            subscriptions: Registry::default(),
            engine,
            batch,
            store,
            options,
            writers: Mutex::default(),
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            started: Instant::now(),
        })))
    }

    /// Commits what is open and ends the engine's threads. Blocks.
    pub fn shutdown(&self) {
        self.0.engine.shutdown();
    }
}

impl std::ops::Deref for Database {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    /// The turn of a statement that changes rows of a table that it reads.
    pub fn writer(&self, table: ObjectId) -> Arc<tokio::sync::Mutex<()>> {
        self.writers.lock().entry(table).or_default().clone()
    }

    /// Bytes on disk of an object's rows and state, about, with those of the snapshots that it reads.
    pub fn size_of(&self, catalog: &Catalog, id: ObjectId) -> u64 {
        let snapshots = catalog.snapshots(id).map(|(object, _)| object.id);
        std::iter::once(id).chain(snapshots).map(|id| self.store.size_of(id.0)).sum()
    }

    /// Registers a session.
    pub fn enter(&self, info: SessionInfo) -> u64 {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        self.sessions.lock().insert(id, info);
        id
    }

    /// Notes what a session is doing.
    pub fn doing(&self, session: u64, statement: Option<String>) {
        if let Some(info) = self.sessions.lock().get_mut(&session) {
            info.changed_us = chrono::Utc::now().timestamp_micros();
            if let Some(text) = &statement {
                info.last_statement = Some((text.clone(), info.changed_us));
            }
            info.statement = statement;
        }
    }

    /// Notes since when a transaction is open in a session, and whether it has failed.
    pub fn in_transaction(&self, session: u64, transaction: Option<(i64, bool)>) {
        if let Some(info) = self.sessions.lock().get_mut(&session) {
            info.transaction = transaction;
        }
    }

    /// What a session is doing.
    pub fn statement(&self, session: u64) -> Option<String> {
        self.sessions.lock().get(&session).and_then(|info| info.statement.clone())
    }

    /// Notes what a client calls itself.
    pub fn named(&self, session: u64, application_name: String) {
        if let Some(info) = self.sessions.lock().get_mut(&session) {
            info.application_name = application_name;
        }
    }

    /// Notes the role that a session acts as.
    pub fn acts_as(&self, session: u64, role: String) {
        if let Some(info) = self.sessions.lock().get_mut(&session) {
            info.acts_as = role;
        }
    }

    /// Notes which channels a session listens to.
    pub fn listening(&self, session: u64, channels: String) {
        if let Some(info) = self.sessions.lock().get_mut(&session) {
            info.listening = channels;
        }
    }

    /// Forgets a session.
    pub fn leave(&self, session: u64) {
        self.sessions.lock().remove(&session);
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let mut all: Vec<_> = self.sessions.lock().values().cloned().collect();
        all.sort_by_key(|s| s.process_id);
        all
    }
}

impl Sessions for Database {
    type Session = Session;

    async fn open(&self, client: ClientInfo) -> Result<Session> {
        if client.database != DEFAULT_DATABASE && client.database != client.user {
            return Err(Error::new("3D000", format!("database \"{}\" does not exist", client.database))
                .with_hint(format!("the database of this server is \"{DEFAULT_DATABASE}\"")));
        }
        self.check_login(&client)?;
        Session::new(self.clone(), client)
    }

    fn login(&self, user: &str, is_local: bool) -> Result<Login> {
        self.login_of(user, is_local)
    }

    fn is_protected(&self) -> bool {
        self.engine.published().catalog.is_protected()
    }

    fn metrics(&self) -> String {
        super::metrics::render(&self.0)
    }

    async fn close(&self) -> Result<()> {
        self.tasks.end().await;
        let database = self.clone();
        tokio::task::spawn_blocking(move || database.shutdown())
            .await
            .map_err(|e| Error::new(sqlstate::INTERNAL_ERROR, format!("shutdown failed: {e}")))
    }
}
