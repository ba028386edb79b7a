//! Plans of prepared statements, kept from one execution to the next.
//!
//! Planning is pure: what it sees is the catalog, the search path, the session's variables, the types of the parameters and
//! the server's own tables and functions. A plan is used again while the first four are as they were, and is not kept if it
//! has to do with the last. What changes from one execution to the next, such as `now()`, is worked out after planning.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use millstream_catalog::SqlType;
use millstream_sql::{Parsed, PlannedQuery, SessionVars};

use super::point::Point;
use super::transaction::Transaction;
use super::{Scope, Session};
use crate::stream::engine::Published;

/// Statements of a session that are remembered, those that ran last.
const KEPT_MAX: usize = 64;
/// The execution from which on a statement's plan is kept: most statements run once.
const KEPT_FROM: u64 = 2;

/// The statements that a session has run last, with their plans.
#[derive(Default)]
pub struct Plans(VecDeque<Entry>);

struct Entry {
    statement: Weak<Parsed>,
    /// Its text as it may be shown.
    shown: String,
    runs: u64,
    kept: Option<Kept>,
}

/// A plan, and what it was made of.
#[derive(Clone)]
pub struct Kept {
    pub seen: Arc<Seen>,
    pub query: Arc<PlannedQuery>,
    /// How to carry it out if it is a point read.
    pub point: Option<Arc<Point>>,
}

/// What a plan was made of.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    catalog: u64,
    search_path: Vec<String>,
    vars: SessionVars,
    types: Vec<Option<SqlType>>,
}

impl Plans {
    /// A statement runs: its text as it may be shown.
    pub fn enter(&mut self, statement: &Arc<Parsed>) -> String {
        self.bring_to_front(statement);
        self.0.front_mut().map_or_else(String::new, |entry| {
            entry.runs += 1;
            entry.shown.clone()
        })
    }

    fn bring_to_front(&mut self, statement: &Arc<Parsed>) {
        match self.position(statement) {
            Some(at) => {
                if let Some(entry) = self.0.remove(at) {
                    self.0.push_front(entry);
                }
            }
            None => {
                let shown = millstream_sql::masked(&statement.text);
                self.0.push_front(Entry { statement: Arc::downgrade(statement), shown, runs: 0, kept: None });
                self.0.truncate(KEPT_MAX);
            }
        }
    }

    /// The plan of a statement, whatever it was made of.
    pub fn get(&self, statement: &Parsed) -> Option<&Kept> {
        self.0.get(self.position(statement)?)?.kept.as_ref()
    }

    /// Keeps the plan of a statement that has run so often.
    fn keep(&mut self, statement: &Parsed, runs_min: u64, plan: impl FnOnce() -> Kept) {
        let Some(at) = self.position(statement) else { return };
        if let Some(entry) = self.0.get_mut(at).filter(|entry| entry.runs >= runs_min) {
            entry.kept = Some(plan());
        }
    }

    fn position(&self, statement: &Parsed) -> Option<usize> {
        // The address is another statement's once this one is gone.
        let is_it = |e: &Entry| std::ptr::eq(e.statement.as_ptr(), statement) && e.statement.strong_count() > 0;
        self.0.iter().position(is_it)
    }
}

impl Session {
    /// What a plan would be made of now; `None` in a transaction with definitions of its own, which no version tells apart.
    pub(super) fn seen(&self, published: &Published, types: &[Option<SqlType>]) -> Option<Seen> {
        if self.transaction.as_ref().and_then(Transaction::draft).is_some() {
            return None;
        }
        Some(Seen {
            catalog: published.catalog.version(),
            search_path: self.search_path.clone(),
            vars: self.vars(),
            types: types.to_vec(),
        })
    }

    /// The query that a statement was planned as before, if it would be planned so again.
    pub(super) fn kept_plan(&self, parsed: &Parsed, seen: Option<&Seen>) -> Option<PlannedQuery> {
        let kept = self.plans.get(parsed)?;
        (seen == Some(kept.seen.as_ref())).then(|| kept.query.as_ref().clone())
    }

    /// Keeps the plan of a statement that runs again and again.
    pub(super) fn keep_plan(&mut self, parsed: &Parsed, seen: Option<Seen>, query: &PlannedQuery, scope: &Scope) {
        let Some(seen) = seen.filter(|_| can_be_kept(scope)) else { return };
        self.plans.keep(parsed, KEPT_FROM, || kept(seen, query, scope));
    }

    /// Keeps the plan of a statement that was prepared, for its execution: with parameters of the types that were found for
    /// them it is planned no other way.
    pub(super) fn keep_described(&mut self, statement: &Arc<Parsed>, query: &PlannedQuery, scope: &Scope) {
        let types: Vec<Option<SqlType>> = query.parameters.iter().cloned().map(Some).collect();
        let Some(seen) = self.seen(&scope.published, &types).filter(|_| can_be_kept(scope)) else { return };
        self.plans.bring_to_front(statement);
        self.plans.keep(statement, 0, || kept(seen, query, scope));
    }
}

/// Whether planning has looked at nothing that no [`Seen`] tells of.
fn can_be_kept(scope: &Scope) -> bool {
    scope.external.is_empty() && !scope.inside.was_asked()
}

fn kept(seen: Seen, query: &PlannedQuery, scope: &Scope) -> Kept {
    let point = Point::of(query, &scope.published.catalog).map(Arc::new);
    Kept { seen: Arc::new(seen), query: Arc::new(query.clone()), point }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(sql: &str) -> Arc<Parsed> {
        Arc::new(millstream_sql::parse(sql).unwrap().remove(0))
    }

    #[test]
    fn statements_are_known_by_what_they_are_and_forgotten_in_time() {
        let mut plans = Plans::default();
        let (a, b) = (statement("SELECT 1"), statement("SELECT 1"));
        assert_eq!(plans.enter(&a), "SELECT 1");
        plans.enter(&a);
        plans.enter(&b);
        assert_eq!(plans.position(&a), Some(1));
        assert_eq!(plans.0[1].runs, 2);
        let gone = Arc::as_ptr(&b);
        drop(b);
        assert!(plans.0.iter().all(|e| e.statement.as_ptr() != gone || e.statement.strong_count() == 0));
        for _ in 0..KEPT_MAX {
            plans.enter(&statement("SELECT 2"));
        }
        assert_eq!(plans.position(&a), None);
        assert_eq!(plans.0.len(), KEPT_MAX);
    }
}
