//! The command line.

use std::process::ExitCode;

use clap::Parser;
use millstream::config::{Cli, Command, Config};
use millstream::{demo, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two libraries for encryption are linked in, and nothing else says which of them is meant.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(args) => match Config::load(&args) {
            Ok(config) => server::run(config, server::open),
            Err(e) => complain(&e),
        },
        Command::Demo(args) => demo::run(&args).unwrap_or_else(|e| complain(&e)),
    }
}

/// Says on standard error why the server did not start.
fn complain(e: &millstream::error::Error) -> ExitCode {
    eprintln!("millstream: {e}");
    if let Some(hint) = e.hint() {
        eprintln!("hint: {hint}");
    }
    ExitCode::FAILURE
}
