//! Row streams to the client: encoded row by row into the socket's buffer, which is flushed before it grows.
//!
//! Memory holds one batch and [`FLUSH_BYTES`] of output, however long the result is: a slow client stops the stream.

use std::future::pending;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cancel::{Reason, Running};
use super::encode::{Format, RowEncoder};
use super::message::{put, put_notice};
use super::socket::{Disconnect, FLUSH_BYTES, Socket};
use crate::error::{Error, Result};
use crate::session::api::{CopyOut, Notice, OutputFormat, ProgressReport, RowSet, RowsTag};

/// Why a statement did not end well.
#[derive(Debug)]
pub enum Failure {
    /// The client is told and goes on.
    Statement(Error),
    /// The connection ends.
    Connection(Disconnect),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Statement(e)
    }
}

impl From<Disconnect> for Failure {
    fn from(e: Disconnect) -> Self {
        Self::Connection(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Connection(Disconnect::Gone(e))
    }
}

/// What can stop a running statement from outside.
pub struct Interrupts {
    pub token: CancellationToken,
    pub deadline: Option<Instant>,
    pub running: Arc<Running>,
    /// The server waits no longer.
    pub kill: CancellationToken,
    /// What the client wants to hear of the statement while it runs.
    pub progress: Option<ProgressReport>,
}

impl Interrupts {
    /// Resolves when the statement is to stop; its token is cancelled then.
    pub async fn wait(&self) -> Failure {
        let timeout = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.token.cancelled() => {}
            () = timeout => self.running.cancel(Reason::Timeout),
            () = self.kill.cancelled() => self.running.cancel(Reason::Shutdown),
        }
        self.failure()
    }

    /// The next report of progress; never, for a client that did not ask for any.
    pub async fn report(&self) -> Notice {
        let Some(progress) = &self.progress else { return pending().await };
        loop {
            tokio::time::sleep(progress.every).await;
            if let Some(notice) = (progress.now)() {
                return notice;
            }
        }
    }

    /// What a cancelled statement ends with.
    pub fn failure(&self) -> Failure {
        match self.running.reason().unwrap_or(Reason::User) {
            Reason::Shutdown => Disconnect::Terminated(Reason::Shutdown.error()).into(),
            reason => reason.error().into(),
        }
    }
}

/// A result that is being sent, perhaps in several runs of a portal.
pub struct Rows {
    pub schema: SchemaRef,
    pub tag: RowsTag,
    formats: Vec<Format>,
    output: OutputFormat,
    stream: SendableRecordBatchStream,
    live: bool,
    current: Option<(RowEncoder, usize)>,
}

/// How a run over a result ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// All rows were sent; this many in this run.
    Done(u64),
    /// The run's limit was reached.
    Suspended,
}

impl Rows {
    /// A result of which nothing is sent yet.
    pub fn new(rows: RowSet, formats: Vec<Format>, output: OutputFormat) -> Self {
        let RowSet { schema, stream, tag, live, binary: _ } = rows;
        Self { schema, tag, formats, output, stream, live, current: None }
    }

    /// The command tag after a run that sent `count` rows and ended the result.
    pub fn complete_tag(&self, count: u64) -> String {
        match &self.tag {
            RowsTag::Counted(tag) => format!("{tag} {count}"),
            RowsTag::Plain(tag) => tag.clone(),
        }
    }

    /// Sends rows: at most `limit`, or all.
    pub async fn send<S>(
        &mut self,
        socket: &mut Socket<S>,
        limit: Option<u64>,
        interrupts: &Interrupts,
    ) -> Result<Progress, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut sent = 0;
        loop {
            while let Some((encoder, next)) = &mut self.current {
                if limit == Some(sent) {
                    return Ok(Progress::Suspended);
                }
                if *next == encoder.len() {
                    self.current = None;
                    break;
                }
                encoder.put(*next, &mut socket.output)?;
                *next += 1;
                sent += 1;
                if socket.output.len() >= FLUSH_BYTES {
                    flush(socket, interrupts).await?;
                }
            }
            if limit == Some(sent) {
                return Ok(Progress::Suspended);
            }
            match next_item(socket, &mut self.stream, interrupts, sent > 0 || self.live).await? {
                None => return Ok(Progress::Done(sent)),
                Some(Err(e)) => return Err(Error::from(e).into()),
                Some(Ok(batch)) => {
                    let encoder = RowEncoder::new(&self.schema, &batch, &self.formats, &self.output)?;
                    self.current = Some((encoder, 0));
                }
            }
        }
    }
}

/// Sends the data of a COPY; the number of its rows.
pub async fn send_copy<S>(socket: &mut Socket<S>, copy: CopyOut, interrupts: &Interrupts) -> Result<u64, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    use pgwire::messages::copy::{CopyDone, CopyOutResponse};
    let format = i8::from(copy.binary);
    let columns = vec![i16::from(copy.binary); copy.columns];
    put(&mut socket.output, &CopyOutResponse::new(format, columns.len() as i16, columns));
    let mut stream = copy.stream;
    let mut rows = 0;
    while let Some(piece) = next_item(socket, &mut stream, interrupts, true).await? {
        let piece = piece?;
        rows += piece.rows;
        let mut start = 0;
        for end in piece.ends {
            put_copy_data(&mut socket.output, &piece.bytes[start..end]);
            start = end;
        }
        if socket.output.len() >= FLUSH_BYTES {
            flush(socket, interrupts).await?;
        }
    }
    put(&mut socket.output, &CopyDone::new());
    Ok(rows)
}

/// CopyData.
pub(super) fn put_copy_data(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u8(b'd');
    out.put_i32(bytes.len() as i32 + 4);
    out.extend_from_slice(bytes);
}

/// The stream's next item. While it is awaited, output that holds rows is sent, and the client may leave.
pub(super) async fn next_item<S, T>(
    socket: &mut Socket<S>,
    stream: &mut (impl futures::Stream<Item = T> + Unpin),
    interrupts: &Interrupts,
    has_rows: bool,
) -> Result<Option<T>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    loop {
        let left = async {
            // A stream that only has to be polled once more should not cost a packet of its own.
            tokio::task::yield_now().await;
            socket.left(has_rows).await
        };
        let notice = tokio::select! {
            biased;
            failure = interrupts.wait() => return Err(failure),
            item = stream.next() => return Ok(item),
            gone = left => return Err(gone.into()),
            notice = interrupts.report() => notice,
        };
        put_notice(&mut socket.output, &notice);
        flush(socket, interrupts).await?;
    }
}

pub(super) async fn flush<S>(socket: &mut Socket<S>, interrupts: &Interrupts) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    tokio::select! {
        biased;
        failure = interrupts.wait() => Err(failure),
        result = socket.flush() => Ok(result?),
    }
}
