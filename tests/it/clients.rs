//! Clients of PostgreSQL in other languages, unchanged: the scripts of `tests/clients`, each with a server of its own.
//!
//! They install what they need by name from the registries of their languages, once. What cannot be installed is told as
//! skipped, past the test's captured output.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::process::spawn;

/// Runs a script; all of its checks hold.
fn holds(name: &str) {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/run.sh"));
    command.arg(name).env("MILLSTREAM_BINARY", env!("CARGO_BIN_EXE_millstream"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output =
        spawn(command).and_then(std::process::Child::wait_with_output).expect("bash runs tests/clients/run.sh");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    for line in said.lines().filter(|line| line.starts_with("skip") || line.contains("could not be installed")) {
        // Not `eprintln`, which the test's harness keeps for itself.
        std::io::stderr().write_all(format!("SKIPPED: {name}: {line}\n").as_bytes()).expect("standard error");
    }
    assert!(output.status.success(), "{name}: {}", output.status);
    assert!(said.lines().any(|line| line.contains(" passed, ")), "{name} said nothing of its checks");
}

#[test]
fn psycopg() {
    holds("psycopg_3");
}

#[test]
fn sqlalchemy() {
    holds("sqlalchemy_2");
}

#[test]
fn node_postgres() {
    holds("node_postgres");
}

#[test]
fn pgx() {
    holds("pgx");
}

#[test]
fn pgjdbc() {
    holds("pgjdbc");
}

#[test]
fn psql_at_a_terminal() {
    holds("psql_terminal");
}

/// What DBeaver, DataGrip, Metabase, Grafana and Power BI ask.
#[test]
fn catalog_queries_of_tools() {
    holds("catalog_queries");
}
