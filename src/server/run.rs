//! A server as a process: threads, log, signals, exit code.

use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::Server;
use crate::config::{Config, LogFormat};
use crate::error::{Error, Result, sqlstate};
use crate::session::api::Sessions;

/// Stack of the threads that plan statements: planners recurse over the depth of a query. Only touched pages cost memory.
const STACK_BYTES: usize = 8 << 20;

/// Runs a server until SIGTERM or SIGINT; `open` recovers the engine. The exit code is 0 after an orderly stop.
pub fn run<E, F, O>(config: Config, open: F) -> ExitCode
where
    E: Sessions,
    F: FnOnce(Arc<Config>) -> O + Send,
    O: Future<Output = Result<Arc<E>>> + Send,
{
    match serve(Arc::new(config), open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(sqlstate = error.sqlstate(), detail = error.detail(), hint = error.hint(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve<E, F, O>(config: Arc<Config>, open: F) -> Result<()>
where
    E: Sessions,
    F: FnOnce(Arc<Config>) -> O + Send,
    O: Future<Output = Result<Arc<E>>> + Send,
{
    init_logging(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("millstream")
        .thread_stack_size(STACK_BYTES)
        .build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let server = Server::bind(&config).await?;
        let stop = shutdown.clone();
        let signals = tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "asked to stop");
            stop.cancel();
        });
        let result = server.serve(open(config.clone()), shutdown).await;
        signals.abort();
        result
    })
}

/// Sends log lines to standard error in the configured form. A second call in a process changes nothing.
pub fn init_logging(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log.filter).map_err(|e| {
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid value for setting \"log.filter\": {e}"))
    })?;
    let colour = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let installed = match config.log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log subscriber is installed already");
    }
    Ok(())
}
