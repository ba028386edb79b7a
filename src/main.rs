//! The command line.

use std::process::ExitCode;

use clap::Parser;
use millstream::config::{Cli, Command, Config};
use millstream::server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => match Config::load(&args) {
            Ok(config) => server::run(config, server::open),
            Err(e) => complain(&e),
        },
        Command::Demo(_) => complain(&millstream::error::Error::unsupported("the demo is not there yet")),
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
