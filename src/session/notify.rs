//! LISTEN, UNLISTEN, NOTIFY and `pg_notify()`.
//!
//! What a transaction sends goes out when it has committed, and what it listens to is listened to from then on. LISTEN with
//! the name of a continuous view also follows the view: each row that is added to it is a notification.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use futures::StreamExt;
use millstream_catalog::{Column, Object, ObjectKind, Privilege, SqlType};
use millstream_connectors::format::json::ObjectWriter;
use millstream_sql::plan::output_schema;
use millstream_sql::statement::Notify;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::api::{Notice, OutOfBand, Response};
use super::channels::OUTBOX_EVENTS;
use super::subscriptions::changes::{INSERT, UPDATE_INSERT};
use super::subscriptions::{Start, Subscription};
use super::{Session, complete};
use crate::error::{Error, Result, sqlstate};

/// PostgreSQL's bounds: of names, and of payloads.
const NAME_BYTES_MAX: usize = 63;
const PAYLOAD_BYTES_MAX: usize = 7999;

/// What a session sends and hears.
pub struct Notifications {
    outbox: mpsc::Sender<OutOfBand>,
    receiver: Option<mpsc::Receiver<OutOfBand>>,
    /// The channels that it listens to, with what follows a view of that name.
    listening: BTreeMap<String, Option<AbortHandle>>,
    /// What is sent when the transaction has committed, ...
    queue: Queue,
    /// ... and what is listened to then.
    changes: Vec<Listening>,
    /// How much of both there was at each savepoint.
    savepoints: Vec<(usize, usize)>,
}

/// What COMMIT does to the channels of a session.
enum Listening {
    To(String),
    NotTo(String),
    ToNothing,
}

impl Notifications {
    /// A session's that listens to nothing.
    pub fn new() -> Self {
        let (outbox, receiver) = mpsc::channel(OUTBOX_EVENTS);
        Self {
            outbox,
            receiver: Some(receiver),
            listening: BTreeMap::new(),
            queue: Queue::default(),
            changes: Vec::new(),
            savepoints: Vec::new(),
        }
    }

    /// The client's end of the outbox; once.
    pub fn take_receiver(&mut self) -> Option<mpsc::Receiver<OutOfBand>> {
        self.receiver.take()
    }

    /// The channels that it listens to.
    pub fn names(&self) -> Vec<String> {
        self.listening.keys().cloned().collect()
    }

    /// What others send to the client through.
    pub fn outbox(&self) -> mpsc::Sender<OutOfBand> {
        self.outbox.clone()
    }

    /// What `pg_notify()` writes to.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    pub fn savepoint(&mut self) {
        self.savepoints.push((self.queue.0.lock().in_order.len(), self.changes.len()));
    }

    /// So many savepoints are left.
    pub fn release(&mut self, left: usize) {
        self.savepoints.truncate(left);
    }

    /// Takes back what came after the savepoint of that number.
    pub fn roll_back_to(&mut self, savepoint: usize) {
        if let Some((sent, changed)) = self.savepoints.get(savepoint).copied() {
            self.queue.truncate(sent);
            self.changes.truncate(changed);
        }
        self.savepoints.truncate(savepoint + 1);
    }
}

/// Notifications that wait for COMMIT; the same one twice is sent once. Clones are the same queue.
#[derive(Clone, Default)]
pub struct Queue(Arc<Mutex<Queued>>);

#[derive(Default)]
struct Queued {
    in_order: Vec<(String, String)>,
    known: HashSet<(String, String)>,
}

impl Queue {
    /// # Errors
    /// 22023 for a channel without a name, and for what is too long.
    fn push(&self, channel: &str, payload: &str) -> Result<()> {
        check_name(channel)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "payload string too long")
                .with_detail(format!("It has {} bytes.", payload.len()))
                .with_hint(format!(
                    "a payload has at most {PAYLOAD_BYTES_MAX} bytes: send a key, and keep the rest in a table"
                )));
        }
        let mut queued = self.0.lock();
        let notification = (channel.to_string(), payload.to_string());
        if queued.known.insert(notification.clone()) {
            queued.in_order.push(notification);
        }
        Ok(())
    }

    fn truncate(&self, length: usize) {
        let mut queued = self.0.lock();
        let kept = length.min(queued.in_order.len());
        let gone = queued.in_order.split_off(kept);
        for notification in &gone {
            queued.known.remove(notification);
        }
    }

    fn take(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.0.lock()).in_order
    }
}

fn check_name(channel: &str) -> Result<()> {
    let wrong = match channel.len() {
        0 => "channel name cannot be empty",
        1..=NAME_BYTES_MAX => return Ok(()),
        _ => "channel name too long",
    };
    Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, wrong)
        .with_hint(format!("a channel has a name of 1 to {NAME_BYTES_MAX} bytes")))
}

impl Session {
    pub(super) fn notify(&mut self, p: &Notify) -> Result<Response> {
        self.channels.queue.push(&p.channel, &p.payload)?;
        Ok(complete("NOTIFY"))
    }

    pub(super) async fn listen(&mut self, channel: String) -> Result<Response> {
        check_name(&channel)?;
        if let Some(view) = self.view_of(&channel) {
            self.require(&view, Privilege::Select, &self.database.engine.published().catalog)?;
        }
        match self.transaction {
            Some(_) => self.channels.changes.push(Listening::To(channel)),
            None => self.listen_now(channel).await?,
        }
        Ok(complete("LISTEN"))
    }

    pub(super) fn unlisten(&mut self, channel: Option<String>) -> Result<Response> {
        match (&self.transaction, channel) {
            (Some(_), channel) => self.channels.changes.push(channel.map_or(Listening::ToNothing, Listening::NotTo)),
            (None, Some(channel)) => self.unlisten_now(&channel),
            (None, None) => self.unlisten_all(),
        }
        Ok(complete("UNLISTEN"))
    }

    /// The transaction, or the statement outside of one, has ended.
    pub(super) async fn end_notifications(&mut self, committed: bool) {
        self.channels.savepoints.clear();
        let (changes, notifications) = (std::mem::take(&mut self.channels.changes), self.channels.queue.take());
        if !committed {
            return;
        }
        for change in changes {
            match change {
                Listening::To(channel) => {
                    let text = format!("LISTEN {} has failed", millstream_sql::quote_ident(&channel));
                    // The transaction has committed whatever comes of this.
                    if let Err(e) = self.listen_now(channel).await {
                        self.notices.push(Notice::warning(format!("{text}: {}", e.message())));
                    }
                }
                Listening::NotTo(channel) => self.unlisten_now(&channel),
                Listening::ToNothing => self.unlisten_all(),
            }
        }
        for (channel, payload) in notifications {
            self.database.channels.notify(self.client.process_id, &channel, &payload);
        }
    }

    async fn listen_now(&mut self, channel: String) -> Result<()> {
        if self.channels.listening.contains_key(&channel) {
            return Ok(());
        }
        let follower = match self.view_of(&channel) {
            Some(view) => {
                self.require(&view, Privilege::Select, &self.database.engine.published().catalog)?;
                Some(self.follow(&channel, &view).await?)
            }
            None => None,
        };
        self.database.channels.listen(&channel, self.id, self.channels.outbox.clone());
        self.channels.listening.insert(channel, follower);
        self.show_channels();
        Ok(())
    }

    fn unlisten_now(&mut self, channel: &str) {
        if let Some(follower) = self.channels.listening.remove(channel) {
            self.database.channels.unlisten(channel, self.id);
            if let Some(follower) = follower {
                follower.abort();
            }
            self.show_channels();
        }
    }

    /// Listens to nothing more.
    pub(super) fn unlisten_all(&mut self) {
        let channels: Vec<String> = self.channels.listening.keys().cloned().collect();
        channels.iter().for_each(|channel| self.unlisten_now(channel));
    }

    fn show_channels(&self) {
        let channels: Vec<&str> = self.channels.listening.keys().map(String::as_str).collect();
        self.database.listening(self.id, channels.join(", "));
    }

    /// The continuous view that a channel is called as.
    fn view_of(&self, channel: &str) -> Option<Arc<Object>> {
        let catalog = self.database.engine.published().catalog.clone();
        let in_schema = |schema: &String| catalog.find(schema, channel).cloned();
        let object = self.search_path.iter().find_map(in_schema)?;
        matches!(object.kind, ObjectKind::MaterializedView(_)).then_some(object)
    }

    /// Sends the rows that are added to a view to the session's outbox, until the view or the session ends.
    async fn follow(&self, channel: &str, view: &Object) -> Result<AbortHandle> {
        let own = [Column::new("epoch", SqlType::Int8, false), Column::new("op", SqlType::Text, false)];
        let columns: Vec<Column> = own.into_iter().chain(view.columns().iter().cloned()).collect();
        let seen = output_schema(&columns);
        let statement = format!("LISTEN {}", millstream_sql::quote_ident(channel));
        let start = Start {
            relation: view.id,
            seen: &seen,
            snapshot: false,
            progress: false,
            as_of: None,
            process_id: self.client.process_id,
            statement: &statement,
        };
        let mut rows = Subscription::start(&self.database, start).await?.into_stream(None);
        let (outbox, channel) = (self.channels.outbox.clone(), channel.to_string());
        let follower = tokio::spawn(async move {
            while let Some(batch) = rows.next().await {
                let payloads = batch.map_err(Error::from).and_then(|batch| added_rows(&seen, &batch));
                let events = match payloads {
                    Ok(payloads) => payloads
                        .into_iter()
                        .map(|payload| OutOfBand::Notification { process_id: 0, channel: channel.clone(), payload })
                        .collect(),
                    // Rows would be missed without a word.
                    Err(e) => vec![OutOfBand::Terminate(e)],
                };
                for event in events {
                    if outbox.send(event).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(follower.abort_handle())
    }
}

/// The rows of a subscription that come, as JSON objects.
fn added_rows(seen: &SchemaRef, batch: &RecordBatch) -> Result<Vec<String>> {
    let ops = batch.column(1).as_string_view();
    let objects = ObjectWriter::new(seen, batch, 2..seen.fields().len())?;
    let mut rows = Vec::new();
    for row in (0..batch.num_rows()).filter(|row| [INSERT, UPDATE_INSERT].contains(&ops.value(*row))) {
        let mut object = Vec::new();
        objects.write(row, &mut object);
        rows.push(String::from_utf8_lossy(&object).into_owned());
    }
    Ok(rows)
}

/// `pg_notify(channel, payload)`; its result is PostgreSQL's void, an empty text.
pub fn pg_notify(queue: Queue) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(PgNotify { queue, signature: Signature::string(2, Volatility::Volatile) }))
}

struct PgNotify {
    queue: Queue,
    signature: Signature,
}

impl std::fmt::Debug for PgNotify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("pg_notify")
    }
}

impl PartialEq for PgNotify {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.queue.0, &other.queue.0)
    }
}

impl Eq for PgNotify {}

impl std::hash::Hash for PgNotify {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.queue.0).hash(state);
    }
}

impl ScalarUDFImpl for PgNotify {
    fn name(&self) -> &str {
        "pg_notify"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let text = |i: usize| arrow::compute::cast(&args.args[i].to_array(args.number_rows)?, &DataType::Utf8View);
        let (channels, payloads) = (text(0)?, text(1)?);
        let (channels, payloads) = (channels.as_string_view(), payloads.as_string_view());
        for row in 0..args.number_rows {
            let value = |of: &StringViewArray| if of.is_null(row) { String::new() } else { of.value(row).to_string() };
            self.queue.push(&value(channels), &value(payloads))?;
        }
        let void = StringViewArray::from_iter_values(std::iter::repeat_n("", args.number_rows));
        Ok(ColumnarValue::Array(Arc::new(void)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(queue: &Queue) -> Vec<String> {
        queue.take().into_iter().map(|(channel, payload)| format!("{channel} {payload}")).collect()
    }

    #[test]
    fn savepoints_take_back_what_came_after_them() {
        let mut of = Notifications::new();
        of.queue.push("a", "1").unwrap();
        of.savepoint();
        of.queue.push("a", "2").unwrap();
        of.changes.push(Listening::To("a".into()));
        of.savepoint();
        of.queue.push("a", "3").unwrap();
        of.roll_back_to(1);
        assert_eq!((of.changes.len(), of.savepoints.len()), (1, 2));
        of.roll_back_to(0);
        assert!(of.changes.is_empty());
        // What was taken back can be sent again, and what was sent is not sent twice.
        of.queue.push("a", "2").unwrap();
        of.queue.push("a", "1").unwrap();
        assert_eq!(texts(&of.queue), ["a 1", "a 2"]);
    }

    #[test]
    fn names_and_payloads_have_bounds() {
        let queue = Queue::default();
        for (channel, payload) in [("", "x"), (&*"c".repeat(64), "x"), ("c", &*"x".repeat(8000))] {
            assert_eq!(queue.push(channel, payload).unwrap_err().sqlstate(), "22023");
        }
        queue.push(&"c".repeat(63), &"x".repeat(7999)).unwrap();
        assert_eq!(queue.take().len(), 1);
    }
}
