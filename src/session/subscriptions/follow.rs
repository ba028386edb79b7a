//! A subscription that runs: first the rows that are there, then the changes of each epoch as it becomes visible.
//!
//! A relation in segments tells itself what each epoch has appended, of all epochs and also after a restart. The changes of
//! others come from the engine's history, which keeps the last of them for everybody: a subscriber that is too slow finds
//! its next epoch gone, and ends with an error. It holds on to one epoch's changes at most.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::Stream;
use millstream_catalog::{Object, ObjectId, ObjectKind};
use tokio::sync::mpsc;

use super::changes::ChangeForm;
use super::registry::Entry;
use super::temporary::Temporary;
use crate::error::{Error, Result, sqlstate};
use crate::session::database::Database;
use crate::session::ddl::gone;
use crate::state::{Layout, Relation, Snapshot, TableId};
use crate::stream::engine::Published;
use crate::stream::engine::history::Gone;
use crate::stream::engine::table::table_relation;
use crate::stream::plan::{part, view_layout};

/// Batches that may wait for the client.
const QUEUE_BATCHES: usize = 2;
/// A snapshot of segments that was read for so long is left at the end of an epoch for a newer one.
const SNAPSHOT_AGE: Duration = Duration::from_secs(10);
/// 53400: the configured limit is reached.
const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";

/// What a subscription begins with.
pub struct Start<'a> {
    pub relation: ObjectId,
    /// `epoch`, `op`, and the columns.
    pub seen: &'a SchemaRef,
    pub snapshot: bool,
    pub progress: bool,
    /// The last epoch whose changes are known.
    pub as_of: Option<u64>,
    /// For people.
    pub process_id: i32,
    pub statement: &'a str,
}

/// One that is ready to run.
pub struct Subscription {
    database: Database,
    id: ObjectId,
    /// The relation as errors name it.
    described: String,
    form: ChangeForm,
    progress: bool,
    /// The rows that come first.
    snapshot: Option<Arc<Snapshot>>,
    /// All changes up to this epoch were handed on.
    position: u64,
    /// There as long as somebody reads.
    entry: Weak<Entry>,
    reader: Option<Arc<Entry>>,
}

impl Subscription {
    /// Begins to follow a relation: no change after this is missed.
    ///
    /// # Errors
    /// 55000 if the relation is not complete or has failed, 22023 for an epoch that is yet to come, 72000 for one whose
    /// changes are not kept any more.
    pub async fn start(database: &Database, start: Start<'_>) -> Result<Self> {
        let engine = &database.engine;
        let object = find(&engine.published(), start.relation)?;
        let relation = Arc::new(relation(&object)?);
        let mut published = engine.published();
        if *relation.layout() != Layout::Segments {
            if !engine.history().follow(object.id) {
                let epoch = engine.flush().await?;
                engine.history().begin(object.id, epoch);
            }
            published = engine.published();
        }
        check(database, &published, object.id, &object.describe())?;
        let schema = published.catalog.schema_name(&object).to_string();
        let entry = database.subscriptions.enter(
            start.process_id,
            (&schema, &object.name),
            &millstream_sql::masked(start.statement),
            start.as_of.unwrap_or(published.epoch),
        );
        let subscription = Self {
            database: database.clone(),
            id: object.id,
            described: object.describe(),
            form: ChangeForm::new(relation, start.seen),
            progress: start.progress,
            snapshot: start.snapshot.then(|| published.snapshot.clone()),
            position: start.as_of.unwrap_or(published.epoch),
            entry: Arc::downgrade(&entry),
            reader: Some(entry),
        };
        if let Some(as_of) = start.as_of {
            subscription.check_kept(as_of, published.epoch)?;
        }
        Ok(subscription)
    }

    /// Whether the changes after an epoch are kept.
    fn check_kept(&self, as_of: u64, newest: u64) -> Result<()> {
        if as_of > newest {
            let message = format!("epoch {as_of} is yet to come: the newest is {newest}");
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
                .with_hint("AS OF takes an epoch that a subscription has shown"));
        }
        if self.is_in_segments() {
            return Ok(());
        }
        match self.database.engine.history().next(self.id, as_of, newest) {
            Ok(_) => Ok(()),
            Err(Gone { kept_after }) => {
                let message = format!("changes of {} after epoch {as_of} are not kept any more", self.described);
                Err(Error::new(sqlstate::SNAPSHOT_TOO_OLD, message)
                    .with_detail(format!("Those after epoch {kept_after} are."))
                    .with_hint(
                        "SUBSCRIBE without AS OF begins with all rows; subscribe.history_bytes bounds what is kept",
                    ))
            }
        }
    }

    fn is_in_segments(&self) -> bool {
        *self.form.relation.layout() == Layout::Segments
    }

    /// Lets it run: its rows, as fast as they are taken. It ends when the stream is dropped.
    pub fn into_stream(mut self, temporary: Option<Temporary>) -> SendableRecordBatchStream {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let (schema, entry) = (self.form.schema().clone(), self.reader.take());
        tokio::spawn(async move {
            if let Err(e) = self.run(&sender).await {
                // Who has left needs no reason.
                let _ = sender.send(Err(e)).await;
            }
            // The view behind it goes when nobody reads it any more.
            drop(temporary);
        });
        Box::pin(Rows { schema, receiver, entry })
    }

    async fn run(mut self, out: &mpsc::Sender<Result<RecordBatch>>) -> Result<()> {
        let mut epochs = self.database.engine.epochs();
        if let Some(snapshot) = self.snapshot.take()
            && !self.send_rows(snapshot, out).await?
        {
            return Ok(());
        }
        let mut told = None;
        loop {
            epochs.borrow_and_update();
            let published = self.database.engine.published();
            check(&self.database, &published, self.id, &self.described)?;
            while self.position < published.epoch {
                if !self.send_changes(&published, out).await? {
                    return Ok(());
                }
            }
            if self.progress && told != Some(self.position) {
                told = Some(self.position);
                if out.send(self.form.progress(self.position)).await.is_err() {
                    return Ok(());
                }
            }
            drop(published);
            tokio::select! {
                changed = epochs.changed() => {
                    if changed.is_err() {
                        return Err(Error::new(sqlstate::ADMIN_SHUTDOWN, "the server is shutting down"));
                    }
                }
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Sends the rows that are there. Whether somebody still reads.
    async fn send_rows(&self, snapshot: Arc<Snapshot>, out: &mpsc::Sender<Result<RecordBatch>>) -> Result<bool> {
        let (form, out, epoch) = (self.form.clone(), out.clone(), self.position);
        let age_max = self.database.options.snapshot_max_age;
        blocking(move || {
            for rows in form.relation.scan(&snapshot)? {
                snapshot.check_age(age_max)?;
                if out.blocking_send(form.inserts(&rows?, epoch)).is_err() {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// Sends the changes of the next epochs, at most up to the published one, and takes note of it. Whether somebody still
    /// reads.
    async fn send_changes(&mut self, published: &Published, out: &mpsc::Sender<Result<RecordBatch>>) -> Result<bool> {
        if self.is_in_segments() {
            return self.send_appended(published, out).await;
        }
        let next = self.database.engine.history().next(self.id, self.position, published.epoch);
        let next = next.map_err(|Gone { kept_after }| self.too_slow(kept_after))?;
        let Some(changes) = next else {
            self.come_to(published.epoch);
            return Ok(true);
        };
        let form = self.form.clone();
        let epoch = changes.epoch;
        for batch in blocking(move || form.changes(&changes.deltas, epoch)).await? {
            if out.send(Ok(batch)).await.is_err() {
                return Ok(false);
            }
        }
        self.come_to(epoch);
        Ok(true)
    }

    async fn send_appended(&mut self, published: &Published, out: &mpsc::Sender<Result<RecordBatch>>) -> Result<bool> {
        let (form, out, snapshot) = (self.form.clone(), out.clone(), published.snapshot.clone());
        let (from, to) = (self.position, published.epoch);
        let age_max = self.database.options.snapshot_max_age;
        let sent = blocking(move || {
            let mut position = from;
            for piece in form.relation.appended_after(&snapshot, from)? {
                let (epoch, rows) = piece?;
                if epoch > position + 1 && snapshot.age() > SNAPSHOT_AGE {
                    // All before this epoch was sent.
                    return Ok(Some(epoch - 1));
                }
                snapshot.check_age(age_max)?;
                position = epoch;
                if out.blocking_send(form.inserts(&rows, epoch)).is_err() {
                    return Ok(None);
                }
            }
            Ok(Some(to))
        });
        let Some(reached) = sent.await? else { return Ok(false) };
        self.come_to(reached);
        Ok(true)
    }

    fn come_to(&mut self, epoch: u64) {
        self.position = epoch;
        if let Some(entry) = self.entry.upgrade() {
            entry.epoch.store(epoch, Ordering::Relaxed);
        }
    }

    fn too_slow(&self, kept_after: u64) -> Error {
        let message = format!(
            "the subscription to {} is too slow: it has come to epoch {}, and changes are kept only after epoch {kept_after}",
            self.described, self.position
        );
        Error::new(CONFIGURATION_LIMIT_EXCEEDED, message)
            .with_hint("read faster, or raise subscribe.history_bytes; SUBSCRIBE anew begins with all rows")
    }
}

/// The object that is followed, as it is now.
fn find(published: &Published, id: ObjectId) -> Result<Arc<Object>> {
    published.catalog.get(id).cloned().ok_or_else(|| gone(id))
}

/// The stored rows of what can be followed.
fn relation(object: &Object) -> Result<Relation> {
    match &object.kind {
        ObjectKind::MaterializedView(view) => {
            let table = TableId::new(object.id.0, part::ROWS);
            Relation::new(table, object.arrow_schema(), view_layout(view))
        }
        ObjectKind::Table(_) => table_relation(object),
        ObjectKind::Source(source) if source.is_keyed() => table_relation(object),
        _ => Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("cannot subscribe to {}", object.describe()))
            .with_hint("SUBSCRIBE is for tables, continuous views and queries over them")),
    }
}

/// A view that has stopped has no more changes, one that is not complete no rows yet.
fn check(database: &Database, published: &Published, id: ObjectId, described: &str) -> Result<()> {
    let prerequisite = |message: String| Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    if published.catalog.get(id).is_none() {
        return Err(Error::new(sqlstate::UNDEFINED_TABLE, format!("{described} was dropped"))
            .with_hint("subscribe to another view"));
    }
    let Some(stats) = database.engine.stats().view(id) else { return Ok(()) };
    if let Some(reason) = stats.failed {
        return Err(prerequisite(format!("{described} has failed and is not kept any more"))
            .with_detail(reason)
            .with_hint("drop it and create it again"));
    }
    if stats.is_incomplete_at(published.epoch) && !stats.built {
        return Err(prerequisite(format!("{described} is still being built"))
            .with_hint("see millstream.views for its progress"));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a subscription failed: {e}")))?
}

/// What a client takes of a subscription.
struct Rows {
    schema: SchemaRef,
    receiver: mpsc::Receiver<Result<RecordBatch>>,
    entry: Option<Arc<Entry>>,
}

impl Stream for Rows {
    type Item = Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|next| {
            let next = next?;
            if let (Ok(batch), Some(entry)) = (&next, &self.entry) {
                entry.took(batch.num_rows() as u64);
            }
            Some(next.map_err(DataFusionError::from))
        })
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
