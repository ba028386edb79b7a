//! Cursors: DECLARE, FETCH, MOVE, CLOSE.
//!
//! A cursor's query runs as far as its rows are fetched. One that is idle for a while would keep its snapshot, and the memory
//! of its query, for the client to come back: what is left of its rows is put aside then ([`Spool`]), and its query ends.
//! A cursor on a subscription has no snapshot and no end, and stays as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{FutureExt, StreamExt, stream};
use millstream_sql::plan::DeclarePlan;
use millstream_sql::statement::{Direction, Fetch};
use millstream_sql::{Parsed, Plan};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::api::{Parameter, Response, RowSet, RowsTag};
use super::query::canceled;
use super::scroll::ScrollRows;
use super::settings::duration;
use super::{Scope, Session, complete};
use crate::batch::pg_catalog::CursorRow;
use crate::batch::spool::Spool;
use crate::error::{Error, Result, sqlstate};

const DUPLICATE_CURSOR: &str = "42P03";
const INVALID_CURSOR_NAME: &str = "34000";
const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";
/// A cursor that nobody has fetched from for so long is idle, ...
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// ... or for this part of the age at which its snapshot would be too old.
const IDLE_PART: u32 = 4;

/// The cursors of a session by name.
#[derive(Default)]
pub struct Cursors(BTreeMap<String, Cursor>);

struct Cursor {
    statement: String,
    schema: SchemaRef,
    binary: bool,
    hold: bool,
    is_subscription: bool,
    created_us: i64,
    /// Whether it belongs to no open transaction.
    outlives: bool,
    /// Savepoints of its transaction that are older.
    savepoints: usize,
    rows: Arc<Mutex<CursorRows>>,
    /// The rows of one with SCROLL, in the place of `rows`.
    scroll: Option<Arc<Mutex<ScrollRows>>>,
    /// Puts its rows aside when it is idle.
    idle: Option<AbortHandle>,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if let Some(idle) = &self.idle {
            idle.abort();
        }
    }
}

/// The rows that were not fetched yet.
struct CursorRows {
    /// The rest of a batch that was fetched in part; then come those that were put aside, then those of the query.
    first: Option<RecordBatch>,
    spool: Spool,
    /// `None` when it has ended.
    query: Option<SendableRecordBatchStream>,
    /// Why it ended before its end.
    failed: Option<Error>,
    /// Rows that were fetched or passed over.
    position: u64,
}

impl CursorRows {
    /// The next rows, at most `max` of them.
    async fn take(&mut self, max: u64) -> Result<Option<RecordBatch>> {
        let batch = match self.first.take() {
            Some(batch) => batch,
            None => match self.next_batch().await? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let taken = batch.num_rows().min(usize::try_from(max).unwrap_or(usize::MAX));
        if taken < batch.num_rows() {
            self.first = Some(batch.slice(taken, batch.num_rows() - taken));
        }
        self.position += taken as u64;
        Ok(Some(batch.slice(0, taken)))
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(batch) = self.spool.pop().await? {
            return Ok(Some(batch));
        }
        self.next_of_query().await
    }

    async fn next_of_query(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let Some(query) = &mut self.query else { return Ok(None) };
        loop {
            match query.next().await {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => return Ok(Some(batch)),
                Some(Err(e)) => {
                    let error = Error::from(e);
                    (self.query, self.failed) = (None, Some(error.clone()));
                    return Err(error);
                }
                None => {
                    self.query = None;
                    return Ok(None);
                }
            }
        }
    }
}

/// Puts the rows of a cursor aside, a batch at a time, so that whoever fetches meanwhile waits for one batch at most.
async fn put_aside(rows: Arc<Mutex<CursorRows>>) {
    loop {
        let mut rows = rows.lock().await;
        match rows.next_of_query().await {
            Ok(Some(batch)) => {
                if let Err(e) = rows.spool.push(batch).await {
                    (rows.query, rows.failed) = (None, Some(e));
                }
            }
            // Who fetches is told of a failure when it has come so far.
            Ok(None) | Err(_) => return,
        }
    }
}

impl Cursors {
    /// Those that there are, as `pg_cursors` shows them.
    pub fn rows(&self) -> Vec<CursorRow> {
        let row = |(name, cursor): (&String, &Cursor)| CursorRow {
            name: name.clone(),
            statement: millstream_sql::masked(&cursor.statement),
            is_holdable: cursor.hold,
            is_binary: cursor.binary,
            is_scrollable: cursor.scroll.is_some(),
            created_us: cursor.created_us,
        };
        self.0.iter().map(row).collect()
    }

    /// Columns of a cursor's rows.
    pub fn columns(&self, name: &str) -> Option<SchemaRef> {
        self.0.get(name).map(|cursor| cursor.schema.clone())
    }

    /// Closes a cursor. Whether there was one of that name.
    pub fn close(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// Closes all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The transaction has ended: its cursors go, those WITH HOLD stay if it has committed.
    pub fn end_transaction(&mut self, committed: bool) {
        self.0.retain(|_, cursor| {
            cursor.outlives |= committed && cursor.hold;
            cursor.outlives
        });
    }

    /// The transaction has gone back to its savepoint of that number: cursors that are younger go.
    pub fn roll_back_to(&mut self, savepoint: usize) {
        self.0.retain(|_, cursor| cursor.outlives || cursor.savepoints <= savepoint);
    }

    /// So many savepoints are left: cursors that are younger than one that is gone belong to the one before.
    pub fn release(&mut self, left: usize) {
        self.0.values_mut().for_each(|cursor| cursor.savepoints = cursor.savepoints.min(left));
    }

    fn get(&self, name: &str) -> Result<&Cursor> {
        self.0.get(name).ok_or_else(|| undefined(name))
    }
}

impl Session {
    pub(super) async fn declare(
        &mut self,
        p: DeclarePlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
        cancel: CancellationToken,
    ) -> Result<Response> {
        if self.transaction.is_none() && !p.hold {
            let message = "DECLARE CURSOR can only be used in transaction blocks";
            return Err(Error::new(NO_ACTIVE_SQL_TRANSACTION, message)
                .with_hint("BEGIN first, or declare the cursor WITH HOLD"));
        }
        if self.cursors.0.contains_key(&p.name) {
            let message = format!("cursor \"{}\" already exists", p.name);
            return Err(Error::new(DUPLICATE_CURSOR, message).with_hint("CLOSE it first, or use another name"));
        }
        let is_subscription = matches!(*p.rows, Plan::Subscribe(_));
        let response = match *p.rows {
            Plan::Query(query) => self.query(query, parameters, scope, cancel).await?,
            Plan::Subscribe(subscribe) => self.subscribe(subscribe, parsed, cancel).await?,
            _ => return Err(Error::internal("a cursor was planned for something else than rows")),
        };
        let Response::Rows(RowSet { schema, stream, .. }) = response else {
            return Err(Error::internal("a cursor's query gives no rows"));
        };
        let spool = || Spool::new(self.database.batch.runtime_env().clone());
        let (scroll, query) = match p.scroll {
            true => (Some(Arc::new(Mutex::new(ScrollRows::new(spool(), stream)))), None),
            false => (None, Some(stream)),
        };
        let rows = CursorRows { first: None, spool: spool(), query, failed: None, position: 0 };
        let cursor = Cursor {
            statement: parsed.text.clone(),
            schema,
            binary: p.binary,
            hold: p.hold,
            is_subscription,
            created_us: chrono::Utc::now().timestamp_micros(),
            outlives: self.transaction.is_none(),
            savepoints: self.transaction.as_ref().map_or(0, super::transaction::Transaction::savepoints),
            rows: Arc::new(Mutex::new(rows)),
            scroll,
            idle: None,
        };
        self.cursors.0.insert(p.name.clone(), cursor);
        self.begin_idling(&p.name);
        Ok(complete("DECLARE CURSOR"))
    }

    /// Counts the time anew after which a cursor's rows are put aside.
    fn begin_idling(&mut self, name: &str) {
        let after = IDLE_AFTER.min(self.database.options.snapshot_max_age / IDLE_PART);
        let Some(cursor) = self.cursors.0.get_mut(name).filter(|cursor| !cursor.is_subscription) else { return };
        if let Some(idle) = cursor.idle.take() {
            idle.abort();
        }
        let (rows, scroll) = (cursor.rows.clone(), cursor.scroll.clone());
        let idle = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            match scroll {
                // Who fetches is told of a failure.
                Some(scroll) => drop(scroll.lock().await.read_all().await),
                None => put_aside(rows).await,
            }
        });
        cursor.idle = Some(idle.abort_handle());
    }

    pub(super) async fn fetch(&mut self, fetch: Fetch, cancel: &CancellationToken) -> Result<Response> {
        let cursor = self.cursors.get(&fetch.cursor)?;
        let (schema, binary, is_subscription) = (cursor.schema.clone(), cursor.binary, cursor.is_subscription);
        let rows = cursor.rows.clone();
        let patience = patience(&fetch, is_subscription)?;
        let scroll = cursor.scroll.clone();
        self.begin_idling(&fetch.cursor);
        if let Some(scroll) = scroll {
            return fetch_scrolling(scroll, &fetch, schema, binary, cancel).await;
        }
        let (skipped, wanted) = match fetch.direction {
            Direction::Forward(n) => (0, n),
            Direction::All => (0, u64::MAX),
            Direction::Relative(n) => (n - 1, 1),
            Direction::Absolute(n) => match position(&rows, cancel).await? {
                position if n > position => (n - 1 - position, 1),
                _ => return Err(only_forward(&fetch.cursor, &format!("ABSOLUTE {n}"))),
            },
            Direction::Backward(_, words) => return Err(only_forward(&fetch.cursor, &words)),
        };
        pass_over(&rows, skipped, is_subscription, cancel).await?;
        if fetch.moves {
            let moved = pass_over(&rows, wanted, is_subscription, cancel).await?;
            return Ok(complete(format!("MOVE {moved}")));
        }
        let batches = match is_subscription {
            true => ready_rows(rows, wanted, patience).boxed(),
            false => next_rows(rows, wanted).boxed(),
        };
        let batches = batches.map(|batch| batch.map_err(DataFusionError::from));
        let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), batches));
        let tag = RowsTag::Counted("FETCH".into());
        Ok(Response::Rows(RowSet { schema, stream, tag, binary, live: is_subscription }))
    }

    pub(super) fn close(&mut self, name: Option<&str>) -> Result<Response> {
        match name {
            None => {
                self.cursors.clear();
                Ok(complete("CLOSE CURSOR ALL"))
            }
            Some(name) if self.cursors.close(name) => Ok(complete("CLOSE CURSOR")),
            Some(name) => Err(undefined(name)),
        }
    }

    pub(super) fn discard_all(&mut self) -> Result<Response> {
        self.cursors.clear();
        self.prepared.clear();
        self.unlisten_all();
        let settings = self.initial_settings();
        self.restore_settings(settings);
        Ok(complete("DISCARD ALL"))
    }

    /// Columns of what FETCH of a cursor gives.
    ///
    /// # Errors
    /// 34000 if there is no such cursor.
    pub(super) fn fetched_columns(&self, name: &str) -> Result<SchemaRef> {
        self.cursors.columns(name).ok_or_else(|| undefined(name))
    }
}

/// FETCH and MOVE of a cursor that goes back.
async fn fetch_scrolling(
    scroll: Arc<Mutex<ScrollRows>>,
    fetch: &Fetch,
    schema: SchemaRef,
    binary: bool,
    cancel: &CancellationToken,
) -> Result<Response> {
    let span = unless_canceled(async { scroll.lock().await.go(&fetch.direction).await }, cancel).await?;
    if fetch.moves {
        return Ok(complete(format!("MOVE {}", span.count)));
    }
    let batches = stream::try_unfold((scroll, Some(span)), |(scroll, left)| async move {
        let Some(span) = left.filter(|span| span.count > 0) else { return Ok(None) };
        let (batch, rest) = scroll.lock().await.next_of(span).await?;
        Ok::<_, Error>(Some((batch, (scroll, Some(rest)))))
    });
    let batches = batches.map(|batch| batch.map_err(DataFusionError::from)).boxed();
    let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), batches));
    let tag = RowsTag::Counted("FETCH".into());
    Ok(Response::Rows(RowSet { schema, stream, tag, binary, live: false }))
}

/// How long FETCH waits for the first row of a subscription; `None` for ever.
fn patience(fetch: &Fetch, is_subscription: bool) -> Result<Option<Duration>> {
    let Some(timeout) = &fetch.timeout else { return Ok(None) };
    let invalid = |message: String, hint: &str| Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(hint);
    if !is_subscription {
        let message = format!("cursor \"{}\" is no subscription, so FETCH does not wait for its rows", fetch.cursor);
        return Err(invalid(message, "leave out WITH (timeout = '...'); statement_timeout bounds every statement"));
    }
    let read = duration(timeout).ok_or_else(|| {
        invalid(
            format!("option \"timeout\" cannot be '{timeout}'"),
            "it is a number of milliseconds, or has a unit: 1s",
        )
    })?;
    Ok(Some(read))
}

/// The next rows, up to the end.
fn next_rows(rows: Arc<Mutex<CursorRows>>, wanted: u64) -> impl futures::Stream<Item = Result<RecordBatch>> + Send {
    stream::try_unfold((rows, wanted), |(rows, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let taken = rows.lock().await.take(left).await?;
        Ok(taken.map(|batch| {
            let left = left - batch.num_rows() as u64;
            (batch, (rows, left))
        }))
    })
}

/// The rows of a subscription that are there, at least one if it comes in time.
fn ready_rows(
    rows: Arc<Mutex<CursorRows>>,
    wanted: u64,
    patience: Option<Duration>,
) -> impl futures::Stream<Item = Result<RecordBatch>> + Send {
    stream::try_unfold((rows, wanted, true), move |(rows, left, is_first)| async move {
        if left == 0 {
            return Ok(None);
        }
        let taken = {
            let mut rows = rows.lock().await;
            let next = rows.take(left);
            match (is_first, patience) {
                (true, None) => next.await?,
                (true, Some(patience)) => match tokio::time::timeout(patience, next).await {
                    Ok(taken) => taken?,
                    Err(_) => None,
                },
                (false, _) => next.now_or_never().transpose()?.flatten(),
            }
        };
        Ok(taken.map(|batch| {
            let left = left - batch.num_rows() as u64;
            (batch, (rows, left, false))
        }))
    })
}

/// Passes over that many rows, of a subscription over those that are there, at least one as FETCH does; how many there were.
async fn pass_over(
    rows: &Arc<Mutex<CursorRows>>,
    count: u64,
    is_subscription: bool,
    cancel: &CancellationToken,
) -> Result<u64> {
    let mut passed = 0;
    while passed < count {
        let next = async { rows.lock().await.take(count - passed).await };
        let taken = match is_subscription && passed > 0 {
            true => next.now_or_never().transpose()?.flatten(),
            false => unless_canceled(next, cancel).await?,
        };
        match taken {
            Some(batch) => passed += batch.num_rows() as u64,
            None => break,
        }
    }
    Ok(passed)
}

/// How many rows of a cursor were fetched or passed over.
async fn position(rows: &Arc<Mutex<CursorRows>>, cancel: &CancellationToken) -> Result<u64> {
    unless_canceled(async { Ok(rows.lock().await.position) }, cancel).await
}

async fn unless_canceled<T>(work: impl Future<Output = Result<T>>, cancel: &CancellationToken) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(canceled()),
        result = work => result,
    }
}

/// 34000: no such cursor.
fn undefined(name: &str) -> Error {
    Error::new(INVALID_CURSOR_NAME, format!("cursor \"{name}\" does not exist"))
        .with_hint("pg_cursors lists those of the session; those without HOLD end with their transaction")
}

/// 55000: cursors do not go back.
fn only_forward(name: &str, words: &str) -> Error {
    let message = format!("cursor \"{name}\" can only scan forward, and {words} goes back");
    Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_hint("declare it with SCROLL to go back")
}
