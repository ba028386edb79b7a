//! The second oracle: generated expressions and batch SELECTs give on Millstream what they give on PostgreSQL.
//!
//! Both run the same statements over the same small tables; results are compared as text, failures by SQLSTATE. What is
//! meant to differ is listed with its reason in `differences.txt`. `MILLSTREAM_PG_CASES` and `MILLSTREAM_SEED` set the
//! number of cases and the seed.

mod expression;
mod query;

use std::collections::HashSet;

use rand::SeedableRng;
use rand::rngs::StdRng;
use regex::Regex;

use crate::client::{Session, line};
use crate::postgres::Postgres;
use crate::seed;
use crate::server::Server;
use expression::{Expression, Generator};

/// The tables that generated statements read, for both servers.
const TABLES: &str = include_str!("tables.sql");
/// Rows of `v`, whose ids count from 1.
const ROWS: usize = 10;
const DIFFERENCES: &str = include_str!("differences.txt");

/// A difference that is meant: a pattern over the report of a mismatch, and why.
struct Difference {
    pattern: Regex,
    reason: &'static str,
    seen: usize,
}

fn differences() -> Vec<Difference> {
    let mut found = Vec::new();
    for entry in DIFFERENCES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (pattern, reason) = entry.split_once(" => ").expect("each difference is `pattern => reason`");
        let pattern = Regex::new(&format!("(?s){pattern}")).expect("a valid pattern");
        found.push(Difference { pattern, reason, seen: 0 });
    }
    found
}

/// Both servers, with the tables.
struct Pair {
    postgres: Session,
    millstream: Session,
}

impl Pair {
    /// `None` if both agree on the statement, else a report.
    async fn mismatch(&self, sql: &str) -> Option<String> {
        let (theirs, ours) = (answer(&self.postgres, sql).await, answer(&self.millstream, sql).await);
        if same(&theirs, &ours) {
            return None;
        }
        Some(report_of(sql, &theirs, &ours))
    }

    /// Whether both answer each row of `v` alike when it is alone, and each of two different failures of the statement is
    /// that of some row. PostgreSQL then met another failing row first: it goes row by row, Millstream column by column.
    /// Of a row in which several parts of an expression fail, each server may name another part.
    async fn alike_row_by_row(
        &self,
        sql: &str,
        expression: Option<&Expression>,
        theirs: &Answer,
        ours: &Answer,
    ) -> bool {
        let (Err((theirs, _)), Err((ours, _))) = (theirs, ours) else { return false };
        let mut seen = HashSet::new();
        for id in 1..=ROWS {
            match self.row(sql, id).await {
                (theirs, ours) if same(&theirs, &ours) => seen.extend(theirs.err().map(|(sqlstate, _)| sqlstate)),
                (Err((theirs, _)), Err((ours, _))) => {
                    let mut failing = HashSet::new();
                    for part in expression.map(|e| e.parts.as_slice()).unwrap_or_default() {
                        let (theirs, ours) = self.row(&part.select(), id).await;
                        if !same(&theirs, &ours) {
                            return false;
                        }
                        failing.extend(theirs.err().map(|(sqlstate, _)| sqlstate));
                    }
                    if !failing.contains(&theirs) || !failing.contains(&ours) {
                        return false;
                    }
                    seen.extend(failing);
                }
                _ => return false,
            }
        }
        seen.contains(theirs) && seen.contains(ours)
    }

    /// Both answers to a statement over one row of `v`.
    async fn row(&self, sql: &str, id: usize) -> (Answer, Answer) {
        let sql = sql.replace(" FROM v ", &format!(" FROM (SELECT * FROM v WHERE v.id = {id}) AS v "));
        (answer(&self.postgres, &sql).await, answer(&self.millstream, &sql).await)
    }

    /// Descends from an expression on which the servers differ to the smallest part of it on which they still do.
    async fn shrink(&self, expression: &Expression, report: String) -> String {
        let (mut current, mut report) = (expression, report);
        'descend: loop {
            for part in &current.parts {
                if let Some(smaller) = self.mismatch(&part.select()).await {
                    (current, report) = (part, smaller);
                    continue 'descend;
                }
            }
            return report;
        }
    }
}

/// Rows as text in order, or SQLSTATE and message.
type Answer = Result<Vec<String>, (String, String)>;

async fn answer(session: &Session, sql: &str) -> Answer {
    match session.try_run(sql).await {
        Ok(outcome) => Ok(outcome.rows.iter().map(|row| line(row)).collect()),
        Err(failure) => {
            let sqlstate = failure.sqlstate.clone().unwrap_or_else(|| panic!("connection lost: {failure}\nin: {sql}"));
            Err((sqlstate, failure.to_string()))
        }
    }
}

fn same(theirs: &Answer, ours: &Answer) -> bool {
    match (theirs, ours) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        (Err((theirs, _)), Err((ours, _))) => theirs == ours,
        _ => false,
    }
}

/// Whether the answers are the same but for zeros at the end of fractions.
fn same_but_for_scale(theirs: &Answer, ours: &Answer) -> bool {
    let zeros = Regex::new(r"(\.\d*?)0+(\||$)").expect("a valid pattern");
    let trimmed = |rows: &[String]| -> Vec<String> {
        // Twice, for a match takes the separator that the next one could start behind.
        let trim = |row: &str| zeros.replace_all(row, "$1$2").replace(".|", "|").trim_end_matches('.').to_string();
        rows.iter().map(|row| trim(&trim(row))).collect()
    };
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if trimmed(theirs) == trimmed(ours))
}

/// A mismatch for reading, and for the patterns of listed differences.
fn report_of(sql: &str, theirs: &Answer, ours: &Answer) -> String {
    let mut report = format!("{sql}\n  postgres:   {}\n  millstream: {}", shown(theirs), shown(ours));
    if let Some(place) = first_difference(theirs, ours) {
        report += &format!("\n  first differing row: {place}");
    }
    if same_but_for_scale(theirs, ours) {
        report += "\n  only zeros at the end of fractions differ";
    }
    report
}

/// At most the first rows: a report is for reading.
fn shown(answer: &Answer) -> String {
    match answer {
        Ok(rows) if rows.len() > 4 => format!("{} … ({} rows)", rows[..4].join(" ; "), rows.len()),
        Ok(rows) => rows.join(" ; "),
        Err((_, message)) => message.clone(),
    }
}

/// Where two answers of equal length first differ, to point a reader of long results to the row.
fn first_difference(theirs: &Answer, ours: &Answer) -> Option<String> {
    let (Ok(theirs), Ok(ours)) = (theirs, ours) else { return None };
    let (a, b) = theirs.iter().zip(ours).find(|(a, b)| a != b)?;
    Some(format!("postgres {a} / millstream {b}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_as_postgres() {
    let cases: usize = seed::setting("MILLSTREAM_PG_CASES", 2000);
    let seed = seed::seed("pg");
    let (postgres, server) = (Postgres::start(), Server::start());
    let pair = Pair { postgres: postgres.connect().await, millstream: server.connect().await };
    for statement in TABLES.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        pair.postgres.run(statement).await;
        pair.millstream.run(statement).await;
    }

    let mut differences = differences();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut failures, mut errors_alike, mut refused, mut other_row_first) = (Vec::new(), 0, 0, 0);
    for case in 0..cases {
        // Three expressions to one query: expressions are where types and rounding hide.
        let (sql, expression) = if case % 4 == 3 {
            (query::generate(&mut random), None)
        } else {
            let expression = Generator::new(&mut random).any(3);
            (expression.select(), Some(expression))
        };
        let theirs = answer(&pair.postgres, &sql).await;
        let ours = answer(&pair.millstream, &sql).await;
        if same(&theirs, &ours) {
            errors_alike += usize::from(theirs.is_err());
            continue;
        }
        if pair.alike_row_by_row(&sql, expression.as_ref(), &theirs, &ours).await {
            other_row_first += 1;
            continue;
        }
        let mut report = report_of(&sql, &theirs, &ours);
        if let Some(expression) = &expression {
            report = pair.shrink(expression, report).await;
        }
        if let Some(known) = differences.iter_mut().find(|difference| difference.pattern.is_match(&report)) {
            known.seen += 1;
            refused += 1;
            continue;
        }
        failures.push(report);
    }
    eprintln!(
        "pg: seed {seed}: {cases} cases, {errors_alike} failed alike on both, {other_row_first} failed on several rows \
         and named different ones, {refused} listed differences"
    );
    for difference in differences.iter().filter(|difference| difference.seen > 0) {
        eprintln!("pg:   {} times: {}", difference.seen, difference.reason);
    }
    let count = failures.len();
    failures.sort();
    failures.dedup();
    assert!(errors_alike < cases / 2, "most cases fail on both servers: the generator tests nothing");
    failures.truncate(seed::setting("MILLSTREAM_PG_SHOWN", 40));
    assert!(count == 0, "{count} of {cases} cases differ (seed {seed}), the first:\n{}", failures.join("\n"));
}

/// The generator speaks PostgreSQL's dialect: what fails there fails on values, never on syntax, names or types.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn generator_is_valid() {
    let postgres = Postgres::start();
    let session = postgres.connect().await;
    session.run(TABLES).await;
    let mut random = StdRng::seed_from_u64(seed::seed("pg"));
    let mut invalid = Vec::new();
    for case in 0..1200 {
        let sql =
            if case % 4 == 3 { query::generate(&mut random) } else { Generator::new(&mut random).any(2).select() };
        if let Err((sqlstate, message)) = answer(&session, &sql).await
            && sqlstate.starts_with("42")
        {
            invalid.push(format!("{sql}\n  {message}"));
        }
    }
    assert!(invalid.is_empty(), "{} invalid statements:\n{}", invalid.len(), invalid.join("\n"));
}
