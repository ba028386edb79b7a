//! One client's connection: the message loop, the simple query protocol, and running one statement.
//!
//! The extended protocol's messages are in [`super::extended`], row streams in [`super::rows`].

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use pgwire::messages::PgWireFrontendMessage as Frontend;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cancel::Running;
use super::encode::Format;
use super::extended::Portal;
use super::message::{
    ErrorLevel, put_complete, put_empty, put_error, put_notice, put_notification, put_parameter_status, put_ready,
    put_row_description,
};
use super::rows::{Failure, Interrupts, Progress, Rows, send_copy};
use super::socket::{Disconnect, Message, Socket, protocol_violation, shutting_down};
use crate::error::{Error, Result, sqlstate};
use crate::session::api::{OutOfBand, Parameter, Response, SqlSession, TransactionStatus};

/// Pieces of a COPY that may wait for the session.
const COPY_QUEUE_CHUNKS: usize = 4;

/// A connection after its start-up.
pub struct Connection<S, Q: SqlSession> {
    pub(super) socket: Socket<S>,
    pub(super) session: Q,
    pub(super) portals: HashMap<String, Portal<Q::Statement>>,
    running: Arc<Running>,
    /// What the session has to say while nobody asks.
    outbox: Option<mpsc::Receiver<OutOfBand>>,
    /// Ends the connection when it is idle.
    stop: CancellationToken,
    /// Ends its statement too.
    kill: CancellationToken,
}

impl<S, Q> Connection<S, Q>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    Q: SqlSession,
{
    /// A connection that was welcomed already.
    pub fn new(
        socket: Socket<S>,
        session: Q,
        running: Arc<Running>,
        stop: CancellationToken,
        kill: CancellationToken,
    ) -> Self {
        Self { socket, session, portals: HashMap::new(), running, outbox: None, stop, kill }
    }

    /// Serves the client until it leaves or is sent away.
    pub async fn run(mut self) {
        put_ready(&mut self.socket.output, self.session.transaction_status());
        let end = match AssertUnwindSafe(self.serve()).catch_unwind().await {
            Ok(end) => end,
            // The panic's own message is in the log.
            Err(_) => Err(Disconnect::Terminated(panicked())),
        };
        // What still runs belongs to a client that is gone.
        self.portals.clear();
        say_goodbye(&mut self.socket, end).await;
    }

    async fn serve(&mut self) -> Result<(), Disconnect> {
        self.outbox = self.session.take_outbox();
        let mut skipping_to_sync = false;
        loop {
            let outside_block = self.session.transaction_status() == TransactionStatus::Idle;
            let patience = self.session.idle_in_transaction_timeout().filter(|_| !outside_block);
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Disconnect::Terminated(shutting_down())),
                () = elapsed(patience) => return Err(Disconnect::Terminated(idle_in_transaction())),
                message = self.socket.message() => message?,
                event = next_event(&mut self.outbox), if outside_block => {
                    self.deliver(event)?;
                    continue;
                }
            };
            match message {
                None | Some(Message::Frontend(Frontend::Terminate(_))) => return Ok(()),
                Some(Message::Frontend(Frontend::Sync(_))) => {
                    let failed = std::mem::take(&mut skipping_to_sync);
                    self.end_cycle(failed).await?;
                }
                Some(_) if skipping_to_sync => {}
                Some(Message::Frontend(Frontend::Query(query))) => self.simple_query(&query.query).await?,
                Some(Message::FunctionCall) => {
                    let error = Error::unsupported("the function call message is not supported")
                        .with_hint("call the function in a SELECT");
                    self.report(&error);
                    self.end_cycle(true).await?;
                }
                // What is left of a COPY that failed.
                Some(Message::Frontend(Frontend::CopyData(_) | Frontend::CopyDone(_) | Frontend::CopyFail(_))) => {}
                Some(Message::Frontend(message)) => match self.extended(message).await {
                    Ok(()) => {}
                    Err(Failure::Statement(error)) => {
                        self.report(&error);
                        skipping_to_sync = true;
                    }
                    Err(Failure::Connection(end)) => return Err(end),
                },
            }
        }
    }

    async fn extended(&mut self, message: Frontend) -> Result<(), Failure> {
        match message {
            Frontend::Parse(message) => self.parse(message).await,
            Frontend::Bind(message) => self.bind(message),
            Frontend::Describe(message) => self.describe(&message),
            Frontend::Execute(message) => self.execute_portal(message).await,
            Frontend::Close(message) => self.close(message),
            Frontend::Flush(_) => Ok(self.socket.flush().await?),
            Frontend::PasswordMessageFamily(_) => {
                Err(Disconnect::Protocol(protocol_violation("unexpected password message")).into())
            }
            other => Err(Disconnect::Protocol(protocol_violation(format!("unexpected message {other:?}"))).into()),
        }
    }

    /// A Query message: its statements one after another, up to the first error.
    async fn simple_query(&mut self, sql: &str) -> Result<(), Disconnect> {
        self.session.forget_prepared("");
        self.portals.remove("");
        let failed = match self.simple_statements(sql).await {
            Ok(()) => false,
            Err(Failure::Statement(error)) => {
                self.report(&error);
                true
            }
            Err(Failure::Connection(end)) => return Err(end),
        };
        self.end_cycle(failed).await
    }

    async fn simple_statements(&mut self, sql: &str) -> Result<(), Failure> {
        let statements = self.parsed(sql).await?;
        if statements.is_empty() {
            put_empty(&mut self.socket.output);
        }
        if statements.len() > 1 {
            self.session.begin_implicit_block();
        }
        for statement in statements {
            self.simple_statement(&statement).await?;
        }
        Ok(())
    }

    async fn simple_statement(&mut self, statement: &Q::Statement) -> Result<(), Failure> {
        let mut interrupts = self.interrupts();
        let _running = self.running.start(interrupts.token.clone());
        let response = self.execute(statement, &[], &interrupts).await?;
        self.put_notices();
        match response {
            Response::Rows(rows) => {
                self.end_live(rows.live, &mut interrupts);
                let format = if rows.binary { Format::Binary } else { Format::Text };
                let formats = vec![format; rows.schema.fields().len()];
                put_row_description(&mut self.socket.output, &rows.schema, &formats)?;
                let mut rows = Rows::new(rows, formats, self.session.format());
                if let Progress::Done(count) = rows.send(&mut self.socket, None, &interrupts).await? {
                    self.put_notices();
                    put_complete(&mut self.socket.output, &rows.complete_tag(count));
                }
                Ok(())
            }
            other => self.finish(other, &mut interrupts).await,
        }
    }

    /// The statements of a text.
    pub(super) async fn parsed(&mut self, sql: &str) -> Result<Vec<Q::Statement>, Failure> {
        Ok(guarded(async { self.session.parse(sql) }).await?)
    }

    /// Sends a response that has no rows.
    pub(super) async fn finish(&mut self, response: Response, interrupts: &mut Interrupts) -> Result<(), Failure> {
        match response {
            Response::Rows(_) => return Err(Error::internal("rows where none were expected").into()),
            Response::Complete { tag } => put_complete(&mut self.socket.output, &tag),
            Response::Empty => put_empty(&mut self.socket.output),
            Response::CopyOut(copy) => {
                self.end_live(copy.live, interrupts);
                let rows = send_copy(&mut self.socket, copy, interrupts).await?;
                put_complete(&mut self.socket.output, &format!("COPY {rows}"));
            }
            Response::CopyBinary(rows) => {
                let output = self.session.format();
                let rows = super::copy_binary::send(&mut self.socket, rows, &output, interrupts).await?;
                put_complete(&mut self.socket.output, &format!("COPY {rows}"));
            }
            Response::CopyIn(copy) => {
                let zone = self.session.time_zone().to_string();
                let (sink, chunks) = mpsc::channel(COPY_QUEUE_CHUNKS);
                let done = guarded(self.session.copy_in(chunks));
                let tag = super::copy_in::receive(&mut self.socket, copy, &zone, sink, done, interrupts).await?;
                put_complete(&mut self.socket.output, &tag);
            }
        }
        Ok(())
    }

    /// Runs a statement to its response. The session's future is driven to its end also when the client leaves or
    /// cancels: it sees the token and decides where it can stop.
    pub(super) async fn execute(
        &mut self,
        statement: &Q::Statement,
        parameters: &[Parameter],
        interrupts: &Interrupts,
    ) -> Result<Response, Failure> {
        let started = Instant::now();
        let execution = guarded(self.session.execute(statement, parameters, interrupts.token.clone()));
        tokio::pin!(execution);
        let mut gone = None;
        let result = loop {
            let notice = tokio::select! {
                biased;
                result = &mut execution => break result,
                _ = interrupts.wait() => break execution.await,
                e = self.socket.left(false) => {
                    gone = Some(e);
                    interrupts.token.cancel();
                    break execution.await;
                }
                notice = interrupts.report() => notice,
            };
            put_notice(&mut self.socket.output, &notice);
            if let Err(e) = self.socket.flush().await {
                gone = Some(e);
                interrupts.token.cancel();
                break execution.await;
            }
        };
        metrics::histogram!("millstream_statement_duration_seconds").record(started.elapsed().as_secs_f64());
        match (result, gone) {
            (_, Some(e)) => Err(e.into()),
            (Err(e), None) if e.sqlstate() == sqlstate::QUERY_CANCELED => {
                Err(if interrupts.token.is_cancelled() { interrupts.failure() } else { e.into() })
            }
            (result, None) => Ok(result?),
        }
    }

    /// What can stop the statement that starts now.
    pub(super) fn interrupts(&self) -> Interrupts {
        Interrupts {
            token: CancellationToken::new(),
            deadline: self.session.statement_timeout().map(|timeout| Instant::now() + timeout),
            running: self.running.clone(),
            kill: self.kill.clone(),
            progress: self.session.progress(),
        }
    }

    /// A server that stops does not wait for rows without an end.
    pub(super) fn end_live(&self, live: bool, interrupts: &mut Interrupts) {
        if live {
            interrupts.kill = self.stop.clone();
        }
    }

    /// What cancel requests reach.
    pub(super) fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Sync, or the end of a simple query: transactions outside blocks end, and the client may go on.
    async fn end_cycle(&mut self, failed: bool) -> Result<(), Disconnect> {
        if let Err(error) = self.session.sync(failed).await {
            self.report(&error);
        }
        let status = self.session.transaction_status();
        if status == TransactionStatus::Idle {
            // Portals live as long as their transaction.
            self.portals.clear();
        }
        self.put_notices();
        for (name, value) in self.session.take_parameter_changes() {
            put_parameter_status(&mut self.socket.output, &name, &value);
        }
        if status == TransactionStatus::Idle {
            // Its own notifications reach a client with the answer to what sent them.
            while let Some(Ok(event)) = self.outbox.as_mut().map(mpsc::Receiver::try_recv) {
                self.deliver(event)?;
            }
        }
        put_ready(&mut self.socket.output, status);
        Ok(())
    }

    fn report(&mut self, error: &Error) {
        tracing::debug!(sqlstate = error.sqlstate(), %error, "statement failed");
        metrics::counter!("millstream_statement_errors_total").increment(1);
        self.session.fail(error);
        self.put_notices();
        put_error(&mut self.socket.output, ErrorLevel::Error, error);
    }

    pub(super) fn put_notices(&mut self) {
        for notice in self.session.take_notices() {
            put_notice(&mut self.socket.output, &notice);
        }
    }

    fn deliver(&mut self, event: OutOfBand) -> Result<(), Disconnect> {
        match event {
            OutOfBand::Notification { process_id, channel, payload } => {
                put_notification(&mut self.socket.output, process_id, &channel, &payload);
            }
            OutOfBand::Notice(notice) => put_notice(&mut self.socket.output, &notice),
            OutOfBand::Terminate(error) => return Err(Disconnect::Terminated(error)),
        }
        Ok(())
    }
}

/// A session's answer, or XX000 if it panicked: a statement that finds a bug costs its client no connection.
pub(super) async fn guarded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Error {
    Error::internal("the server failed while it ran the statement").with_hint("see the server's log")
}

/// Tells the client why the connection ends, if it is still there, and closes it.
pub async fn say_goodbye<S>(socket: &mut Socket<S>, end: Result<(), Disconnect>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    match end {
        Ok(()) => {}
        Err(Disconnect::Gone(error)) => {
            tracing::debug!(%error, "client left");
            return;
        }
        Err(Disconnect::Protocol(error) | Disconnect::Terminated(error)) => {
            tracing::info!(sqlstate = error.sqlstate(), %error, "connection ended");
            put_error(&mut socket.output, ErrorLevel::Fatal, &error);
        }
    }
    socket.close().await;
}

/// Resolves after that time; never, if there is none.
async fn elapsed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

fn idle_in_transaction() -> Error {
    Error::new(
        sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        "terminating connection due to idle-in-transaction timeout",
    )
}

/// The next event of an outbox; never, if there is none.
async fn next_event(outbox: &mut Option<mpsc::Receiver<OutOfBand>>) -> OutOfBand {
    if let Some(receiver) = outbox {
        if let Some(event) = receiver.recv().await {
            return event;
        }
        *outbox = None;
    }
    std::future::pending().await
}
