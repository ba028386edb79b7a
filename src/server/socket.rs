//! One client's socket: messages in, bytes out, with bounded buffers on both sides.
//!
//! Reading and writing go through one poll, so that a connection that is busy sending still sees its client leave.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use pgwire::messages::{DecodeContext, PgWireFrontendMessage, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::error::{Error, sqlstate};

/// Input that is read ahead while a statement runs; then the client has to wait.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// How long the Sync behind an Execute may take before the two count as a pipeline.
const SYNC_PATIENCE: std::time::Duration = std::time::Duration::from_millis(5);
/// Output past which a row stream stops to flush.
pub const FLUSH_BYTES: usize = 64 * 1024;
/// PostgreSQL's limit for a message.
const MAX_MESSAGE_BYTES: usize = 0x3fff_ffff;
/// PostgreSQL's limit for a start-up packet.
const MAX_STARTUP_BYTES: usize = 10_000;

/// PostgreSQL's limit for a message of somebody who has not proved yet who it is.
const MAX_STRANGER_BYTES: usize = 65_535;

/// A client's connection, in the clear or encrypted.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Why a connection ends.
#[derive(Debug)]
pub enum Disconnect {
    /// The client left or the network failed.
    Gone(io::Error),
    /// The client spoke something else; it is told with FATAL.
    Protocol(Error),
    /// The server ends it; the client is told with FATAL.
    Terminated(Error),
}

impl From<io::Error> for Disconnect {
    fn from(e: io::Error) -> Self {
        Self::Gone(e)
    }
}

/// 08P01: the client broke the protocol.
pub fn protocol_violation(message: impl Into<String>) -> Error {
    const PROTOCOL_VIOLATION: &str = "08P01";
    Error::new(PROTOCOL_VIOLATION, message)
}

/// A message from the client.
#[derive(Debug)]
pub enum Message {
    Frontend(PgWireFrontendMessage),
    /// The deprecated function call message, which pgwire has no type for.
    FunctionCall,
}

/// A packet before the start of the session, which has no type byte.
pub struct StartupPacket {
    pub bytes: BytesMut,
}

impl StartupPacket {
    /// The protocol version or request code.
    pub fn code(&self) -> u32 {
        u32::from_be_bytes([self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]])
    }
}

/// A buffered socket.
pub struct Socket<S> {
    stream: S,
    input: BytesMut,
    /// What is to be sent; appended to by everybody, written by [`Socket::flush`] and friends.
    pub output: BytesMut,
    closed: bool,
    max_message_bytes: usize,
    decode: DecodeContext,
}

impl Socket<Stream> {
    /// The same connection, encrypted from here on.
    pub async fn encrypt(self, acceptor: &TlsAcceptor) -> io::Result<Self> {
        match self.stream {
            Either::Left(stream) => Ok(Self::new(Either::Right(Box::new(acceptor.accept(stream).await?)))),
            Either::Right(_) => Err(io::Error::other("the connection is encrypted already")),
        }
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Either::Right(_))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket<S> {
    /// A socket with empty buffers.
    pub fn new(stream: S) -> Self {
        let mut decode = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        decode.awaiting_frontend_ssl = false;
        decode.awaiting_frontend_startup = false;
        let max_message_bytes = MAX_STRANGER_BYTES;
        Self { stream, input: BytesMut::new(), output: BytesMut::new(), closed: false, max_message_bytes, decode }
    }

    /// The client has proved who it is: its messages may be long.
    pub fn admit(&mut self) {
        self.max_message_bytes = MAX_MESSAGE_BYTES;
    }

    /// Whether there is input that nobody has taken yet.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// The next start-up packet. `None` if the client left without one.
    pub async fn startup_packet(&mut self) -> Result<Option<StartupPacket>, Disconnect> {
        loop {
            if self.input.len() >= 8 {
                let length = u32::from_be_bytes([self.input[0], self.input[1], self.input[2], self.input[3]]) as usize;
                if !(8..=MAX_STARTUP_BYTES).contains(&length) {
                    return Err(Disconnect::Protocol(protocol_violation("invalid length of startup packet")));
                }
                if self.input.len() >= length {
                    return Ok(Some(StartupPacket { bytes: self.input.split_to(length) }));
                }
            }
            if self.closed {
                return Ok(None);
            }
            self.exchange().await?;
        }
    }

    /// The next message, after everything buffered was sent. `None` if the client left. Cancel-safe.
    pub async fn message(&mut self) -> Result<Option<Message>, Disconnect> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            if self.closed {
                return Ok(None);
            }
            self.exchange().await?;
        }
    }

    /// Whether the message that comes next is a Sync; waits a moment for one that is not here yet. Cancel-safe.
    pub async fn is_before_sync(&mut self) -> io::Result<bool> {
        let next = poll_fn(|cx| -> Poll<io::Result<()>> {
            while self.input.is_empty() && !self.closed {
                ready!(self.poll_read(cx))?;
            }
            Poll::Ready(Ok(()))
        });
        match tokio::time::timeout(SYNC_PATIENCE, next).await {
            Ok(result) => result?,
            Err(_) => return Ok(false),
        }
        Ok(self.input.first() == Some(&b'S'))
    }

    /// Sends all of the output buffer. Fails if the client leaves meanwhile. Cancel-safe: what was not sent stays.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            self.poll_ahead(cx)?;
            self.poll_write(cx)
        })
        .await
    }

    /// Resolves when the client leaves; with `send`, the output buffer is sent meanwhile. Cancel-safe.
    pub async fn left(&mut self, send: bool) -> io::Error {
        let left = poll_fn(|cx| -> Poll<io::Result<()>> {
            self.poll_ahead(cx)?;
            if send && self.poll_write(cx)?.is_ready() {
                return Poll::Pending;
            }
            Poll::Pending
        });
        match left.await {
            Err(e) => e,
            Ok(()) => io::ErrorKind::ConnectionReset.into(),
        }
    }

    /// Sends what is buffered and closes the sending side, waiting for neither long.
    pub async fn close(&mut self) {
        let patience = std::time::Duration::from_secs(1);
        let closing = async {
            poll_fn(|cx| self.poll_write(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await
        };
        // The connection ends either way.
        let _ = tokio::time::timeout(patience, closing).await;
    }

    /// Sends output while waiting for input.
    async fn exchange(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            if let Poll::Ready(Err(e)) = self.poll_write(cx) {
                return Poll::Ready(Err(e));
            }
            self.poll_read(cx)
        })
        .await
    }

    /// Reads ahead as far as the bound allows; an error if the client has left.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.closed && self.input.len() < READ_AHEAD_BYTES {
            match self.poll_read(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
        }
        if self.closed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [std::mem::MaybeUninit::<u8>::uninit(); 8 * 1024];
        let mut buffer = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.closed = buffer.filled().is_empty();
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        // A single huge row must not keep its buffer for the life of the connection.
        if self.output.capacity() > 16 * FLUSH_BYTES {
            self.output = BytesMut::new();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// A whole message, if one is buffered. pgwire's decoders trust a packet's inner counts and would read on into the
    /// next packet, so each is cut out first, and one that lies about its content is a protocol violation.
    fn decode(&mut self) -> Result<Option<Message>, Disconnect> {
        let Some((kind, length)) = self
            .input
            .split_first_chunk::<5>()
            .map(|(head, _)| (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize))
        else {
            return Ok(None);
        };
        if !b"QPBEDCHSXFdcfp".contains(&kind) {
            return Err(Disconnect::Protocol(protocol_violation(format!("invalid frontend message type {kind}"))));
        }
        if !(4..=self.max_message_bytes).contains(&length) {
            return Err(Disconnect::Protocol(protocol_violation(format!(
                "invalid length {length} of message '{}'",
                char::from(kind)
            ))));
        }
        if self.input.len() <= length {
            return Ok(None);
        }
        let mut packet = self.input.split_to(1 + length);
        if kind == b'F' {
            return Ok(Some(Message::FunctionCall));
        }
        check_encoding(kind, &packet[5..])?;
        let malformed =
            || Disconnect::Protocol(protocol_violation(format!("malformed message '{}'", char::from(kind))));
        let decoded = catch_unwind(AssertUnwindSafe(|| PgWireFrontendMessage::decode(&mut packet, &self.decode)));
        match decoded {
            Ok(Ok(Some(message))) => Ok(Some(Message::Frontend(message))),
            Ok(_) | Err(_) => Err(malformed()),
        }
    }
}

/// Statement texts must be UTF-8: pgwire would replace what is not, and so change the statement.
fn check_encoding(kind: u8, body: &[u8]) -> Result<(), Disconnect> {
    let text = match kind {
        b'Q' => body,
        // Statement name and query, each ended by a zero byte; type oids follow.
        b'P' => match body.iter().enumerate().filter(|(_, b)| **b == 0).nth(1) {
            Some((end, _)) => &body[..end],
            None => body,
        },
        _ => return Ok(()),
    };
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(e) => Err(Disconnect::Protocol(
            Error::new("22021", format!("invalid byte sequence for encoding \"UTF8\": {:#04x}", text[e.valid_up_to()]))
                .with_hint("the server's encoding is UTF8 only"),
        )),
    }
}

/// 57P01: the server is going down.
pub fn shutting_down() -> Error {
    Error::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}
