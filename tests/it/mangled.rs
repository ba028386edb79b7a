//! Broken statements: whatever is sent, the server answers with rows or with an error of the statement's, and stays.
//!
//! The statements of the sqllogictest files are cut, their tokens swapped, repeated, left out and mixed with those of other
//! statements, and sent to one server that has the files' objects. An answer of XX000, which is a bug found, or no answer
//! at all is a failure. `MILLSTREAM_MANGLED_CASES` and `MILLSTREAM_SEED` set the number of statements and the seed.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqllogictest::{DefaultColumnType, Record, parse_file};

use crate::client::Session;
use crate::seed;
use crate::server::Server;
use crate::slt;

const CASES: usize = 3000;

/// Statements that a mangled copy of could write files, leave the protocol's query cycle, or need what is not there.
fn is_left_out(sql: &str) -> bool {
    let sql = sql.to_uppercase();
    sql.starts_with('\\') || sql.contains("COPY") || sql.contains("$KAFKA") || sql.contains("$DIR")
}

/// The SQL of all files, in the order of its files.
fn statements() -> Vec<String> {
    let mut all = Vec::new();
    for file in slt::files() {
        for record in parse_file::<DefaultColumnType>(&file).expect("a readable file") {
            match record {
                Record::Statement { sql, .. } | Record::Query { sql, .. } if !is_left_out(&sql) => all.push(sql),
                _ => {}
            }
        }
    }
    all
}

/// The tokens of a text, near enough: words, numbers, quoted strings, single signs.
fn tokens(sql: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = c.to_string();
        if c == '\'' || c == '"' {
            for next in chars.by_ref() {
                token.push(next);
                if next == c {
                    break;
                }
            }
        } else if c.is_alphanumeric() || c == '_' {
            while let Some(next) = chars.next_if(|n| n.is_alphanumeric() || *n == '_') {
                token.push(next);
            }
        }
        if !token.trim().is_empty() {
            tokens.push(token);
        }
    }
    tokens
}

/// One statement broken in one or two ways.
fn mangled(all: &[String], random: &mut StdRng) -> String {
    const ODD: &[&str] = &[
        "(",
        ")",
        ",",
        ";",
        "'",
        "\"",
        "$1",
        "$$",
        "NULL",
        "*",
        "::",
        "-",
        "0",
        "9223372036854775808",
        "1e400",
        "''",
        "SELECT",
        "FROM",
        "DISTINCT",
        "OVER",
        "()",
        "CASE",
        "NOT",
        "INTERVAL '1 month'",
        "ARRAY[1]",
        "'\u{1F600}'",
        "/*",
        "--",
        "LATERAL",
        "WITH",
        "\\",
        "E'\\x'",
        "::numeric(38,38)",
        "::interval",
        "::uuid",
        "-2147483648",
    ];
    let pick = |random: &mut StdRng| tokens(&all[random.random_range(0..all.len())]);
    let mut own = pick(random);
    for _ in 0..random.random_range(1..=2) {
        if own.is_empty() {
            break;
        }
        let at = random.random_range(0..own.len());
        let other = random.random_range(0..own.len());
        match random.random_range(0..8) {
            0 => own.truncate(at),
            1 => drop(own.remove(at)),
            2 => own.insert(at, own[other].clone()),
            3 => own.swap(at, other),
            4 => own[at] = ODD[random.random_range(0..ODD.len())].to_string(),
            5 => own.insert(at, ODD[random.random_range(0..ODD.len())].to_string()),
            6 => {
                let mix = pick(random);
                if !mix.is_empty() {
                    own[at] = mix[random.random_range(0..mix.len())].clone();
                }
            }
            _ => {
                let mix = pick(random);
                let from = random.random_range(0..=mix.len());
                own.truncate(at);
                own.extend_from_slice(&mix[from..]);
            }
        }
    }
    let mut sql = own.join(" ");
    if random.random_range(0..20) == 0 {
        let at = random.random_range(0..=sql.chars().count());
        sql = sql.chars().take(at).collect();
    }
    sql
}

/// Sends a text as one message and, for half of them, as a prepared statement too. The SQLSTATE of an error.
async fn send(session: &Session, sql: &str, extended: bool) -> Result<Option<String>, String> {
    let mut answers = vec![session.try_run(sql).await.err()];
    if extended {
        answers.push(session.client.prepare(sql).await.err().map(Into::into));
    }
    let mut state = None;
    for failure in answers.into_iter().flatten() {
        match failure.sqlstate.as_deref() {
            // The client library itself refuses some texts, and lives on.
            None if session.client.is_closed() => return Err(format!("the connection was lost: {failure}")),
            Some("XX000" | "XX001") => return Err(failure.to_string()),
            found => state = found.map(str::to_string),
        }
    }
    Ok(state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn mangled_statements_are_answered() {
    let cases = seed::setting("MILLSTREAM_MANGLED_CASES", CASES);
    let mut random = StdRng::seed_from_u64(seed::seed("mangled"));
    let all = statements();
    assert!(all.len() > 300, "only {} statements were found", all.len());
    let mut server = Server::start();
    let mut session = server.connect().await;
    // The files use the same names for different things: what the first of them makes is what there is.
    for sql in &all {
        send(&session, sql, false).await.unwrap_or_else(|error| panic!("{error}\nin: {sql}"));
    }
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    for case in 0..cases {
        if case % 50 == 0 {
            session = server.connect().await;
            session.run("SET statement_timeout = '2s'").await;
        }
        let sql = mangled(&all, &mut random);
        if is_left_out(&sql) {
            continue;
        }
        match send(&session, &sql, case % 2 == 0).await {
            Ok(code) => *codes.entry(code.unwrap_or_else(|| "none".into())).or_default() += 1,
            Err(error) => {
                failures.push(format!("{error}\n  in: {sql}"));
                assert!(server.is_running(), "the server is gone after: {sql}\n{}", server.log());
                session = server.connect().await;
            }
        }
    }
    eprintln!("{cases} mangled statements, answers by SQLSTATE: {codes:?}");
    assert!(failures.is_empty(), "{} of {cases} statements:\n{}", failures.len(), failures.join("\n"));
    // Many must have got past the parser, or nothing was tried.
    assert!(codes.len() > 10, "{codes:?}");
    assert!(!server.log().contains("panicked at"), "{}", server.log());
}
