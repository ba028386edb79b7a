//! COPY from the client: its pieces go to the session's queue, which slows the client down when it is full.

use std::time::Duration;

use pgwire::messages::PgWireFrontendMessage as Frontend;
use pgwire::messages::copy::CopyInResponse;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::copy_binary::Decoder;
use super::message::put;
use super::rows::{Failure, Interrupts};
use super::socket::{Disconnect, Message, Socket, protocol_violation};
use crate::error::{Error, Result, sqlstate};
use crate::session::api::{CopyChunk, CopyIn};

/// How long a cancelled copy may take to clean up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Passes the client's data to `sink` until the session is `done` with it; the command tag.
pub async fn receive<S>(
    socket: &mut Socket<S>,
    copy: CopyIn,
    zone: &str,
    sink: mpsc::Sender<CopyChunk>,
    done: impl Future<Output = Result<String>>,
    interrupts: &Interrupts,
) -> Result<String, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let binary = copy.binary.is_some();
    let columns = vec![i16::from(binary); copy.columns];
    put(&mut socket.output, &CopyInResponse::new(i8::from(binary), columns.len() as i16, columns));
    let mut decoder = copy.binary.map(|columns| Decoder::new(columns, zone));
    tokio::pin!(done);
    let ended = tokio::select! {
        biased;
        failure = interrupts.wait() => Err(failure),
        // An early result is an error: the data had not ended.
        early = &mut done => return Ok(early?),
        ended = forward(socket, &mut decoder, &sink) => ended,
    };
    match ended {
        Ok(()) => {
            drop(sink);
            tokio::select! {
                biased;
                failure = interrupts.wait() => Err(failure),
                result = done => Ok(result?),
                gone = socket.left(false) => Err(gone.into()),
            }
        }
        Err(failure) => {
            let reason = match &failure {
                Failure::Statement(error) => error.message().to_string(),
                Failure::Connection(_) => "the client left".into(),
            };
            // Nothing may be kept of a copy that did not end: the session hears of it and rolls back.
            let ended = async {
                // The receiver may be gone, which says the same.
                let _ = sink.send(CopyChunk::Failed(reason)).await;
                drop(sink);
                done.await
            };
            if tokio::time::timeout(PATIENCE, ended).await.is_err() {
                tracing::warn!("a cancelled copy did not end in time");
            }
            Err(failure)
        }
    }
}

/// Passes data on until the client says that it is all.
async fn forward<S>(
    socket: &mut Socket<S>,
    decoder: &mut Option<Decoder>,
    sink: &mpsc::Sender<CopyChunk>,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    loop {
        let chunk = match socket.message().await? {
            None => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
            Some(Message::Frontend(Frontend::CopyData(data))) => match decoder {
                None => CopyChunk::Data(data.data),
                Some(decoder) => match decoder.push(&data.data)? {
                    Some(rows) => CopyChunk::Rows(rows),
                    None => continue,
                },
            },
            Some(Message::Frontend(Frontend::CopyDone(_))) => {
                if let Some(decoder) = decoder {
                    let rows = CopyChunk::Rows(decoder.finish()?);
                    if sink.send(rows).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                CopyChunk::Done
            }
            Some(Message::Frontend(Frontend::CopyFail(fail))) => {
                return Err(
                    Error::new(sqlstate::QUERY_CANCELED, format!("COPY from stdin failed: {}", fail.message)).into()
                );
            }
            // Clients that pipeline send these behind Execute, before they know that it is a COPY.
            Some(Message::Frontend(Frontend::Flush(_) | Frontend::Sync(_))) => continue,
            Some(Message::Frontend(Frontend::Terminate(_))) => {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
            }
            Some(_) => {
                return Err(
                    Disconnect::Protocol(protocol_violation("unexpected message during COPY from stdin")).into()
                );
            }
        };
        let last = matches!(chunk, CopyChunk::Done);
        // A receiver that is gone has a result, which the caller is waiting for.
        if sink.send(chunk).await.is_err() {
            std::future::pending::<()>().await;
        }
        if last {
            return Ok(());
        }
    }
}
