//! Cancel requests: they come on a connection of their own and name the one whose statement is to end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, sqlstate};

/// Why a statement was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A cancel request.
    User,
    /// `statement_timeout`.
    Timeout,
    /// The server did not want to wait for it any longer.
    Shutdown,
}

impl Reason {
    /// What the client is told.
    pub fn error(self) -> Error {
        match self {
            Self::User => Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request"),
            Self::Timeout => Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to statement timeout"),
            Self::Shutdown => super::socket::shutting_down(),
        }
    }
}

/// The running statement of one connection, if there is one.
#[derive(Default)]
pub struct Running(Mutex<State>);

#[derive(Default)]
struct State {
    token: Option<CancellationToken>,
    reason: Option<Reason>,
}

impl Running {
    /// Announces a statement; the guard takes it back.
    pub fn start(self: &Arc<Self>, token: CancellationToken) -> RunningGuard {
        *self.0.lock() = State { token: Some(token), reason: None };
        RunningGuard(self.clone())
    }

    /// Cancels the running statement; nothing happens if none runs. The first reason stays.
    pub fn cancel(&self, reason: Reason) {
        let mut state = self.0.lock();
        if let Some(token) = &state.token {
            token.cancel();
            state.reason.get_or_insert(reason);
        }
    }

    /// Why the statement that runs was cancelled.
    pub fn reason(&self) -> Option<Reason> {
        self.0.lock().reason
    }
}

/// Ends the announcement of a running statement.
pub struct RunningGuard(Arc<Running>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        *self.0.0.lock() = State::default();
    }
}

/// All connections by process id.
#[derive(Default)]
pub struct Registry {
    next: AtomicI32,
    entries: Mutex<HashMap<i32, (i32, Arc<Running>)>>,
}

impl Registry {
    /// Enters a connection under a new process id and secret.
    pub fn register(self: &Arc<Self>) -> Registration {
        // The first four bytes of a version 4 UUID are random.
        let (secret, _, _, _) = uuid::Uuid::new_v4().as_fields();
        let secret = secret as i32;
        let running = Arc::new(Running::default());
        let mut entries = self.entries.lock();
        let process_id = loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
            if id != 0 && !entries.contains_key(&id) {
                break id;
            }
        };
        entries.insert(process_id, (secret, running.clone()));
        Registration { process_id, secret, running, registry: self.clone() }
    }

    /// Cancels the statement of a connection if the secret is its own; nobody learns whether it was.
    pub fn cancel(&self, process_id: i32, secret: i32) {
        let running = match self.entries.lock().get(&process_id) {
            Some((wanted, running)) if *wanted == secret => running.clone(),
            _ => return,
        };
        running.cancel(Reason::User);
    }
}

/// A connection's entry in the registry, for as long as it lives.
pub struct Registration {
    pub process_id: i32,
    pub secret: i32,
    pub running: Arc<Running>,
    registry: Arc<Registry>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.entries.lock().remove(&self.process_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_cancels_and_only_what_runs() {
        let registry = Arc::new(Registry::default());
        let one = registry.register();
        let other = registry.register();
        assert_ne!(one.process_id, other.process_id);
        let token = CancellationToken::new();
        let guard = one.running.start(token.clone());
        registry.cancel(one.process_id, one.secret.wrapping_add(1));
        registry.cancel(other.process_id, other.secret);
        assert!(!token.is_cancelled());
        registry.cancel(one.process_id, one.secret);
        assert!(token.is_cancelled());
        one.running.cancel(Reason::Shutdown);
        assert_eq!(one.running.reason(), Some(Reason::User));
        drop(guard);
        let next = CancellationToken::new();
        registry.cancel(one.process_id, one.secret);
        let _guard = one.running.start(next.clone());
        assert!(!next.is_cancelled());
        assert_eq!(one.running.reason(), None);
    }

    #[test]
    fn a_connection_leaves_the_registry() {
        let registry = Arc::new(Registry::default());
        drop(registry.register());
        assert!(registry.entries.lock().is_empty());
    }
}
