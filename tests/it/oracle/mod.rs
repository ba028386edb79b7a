//! The oracle: after every epoch a continuous view holds what its SELECT gives when it is run as a batch.
//!
//! Generated tables, views and changes run against the real server; after each statement `SELECT * FROM view` is compared
//! with the view's own SELECT, and of every second view what its index finds. A failing case is shrunk and printed as a script. `MILLSTREAM_ORACLE_CASES` and
//! `MILLSTREAM_SEED` set the number of cases and the seed.

mod algebra;
mod case;
mod indexed;
mod late;
mod ordered;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::{Session, line};
use crate::postgres::Postgres;
use crate::seed;
use crate::server::Server;
use case::{Case, Step};
use view::CONSTRUCTS;

/// Most runs that shrinking one case may take.
const SHRINK_RUNS_MAX: usize = 200;

/// Servers that cases run on at the same time.
const WORKERS: usize = 2;

/// How a case failed: at which step, which view (if one is to blame), and what was seen.
#[derive(Debug, Clone)]
struct Mismatch {
    step: usize,
    view: Option<usize>,
    report: String,
}

/// What a run went through, for the closing table.
#[derive(Default)]
struct Coverage {
    constructs: BTreeMap<&'static str, usize>,
    comparisons: usize,
    rows: usize,
    /// Comparisons in which the batch SELECT itself fails, so that there is nothing to compare with.
    undefined: usize,
    restarts: usize,
}

/// Runs cases on a server, each in a schema of its own.
struct Runner {
    server: Server,
    session: Session,
    schemas: usize,
    coverage: Coverage,
}

impl Coverage {
    fn add(&mut self, other: Self) {
        for (construct, count) in other.constructs {
            *self.constructs.entry(construct).or_default() += count;
        }
        self.comparisons += other.comparisons;
        self.rows += other.rows;
        self.undefined += other.undefined;
        self.restarts += other.restarts;
    }
}

impl Runner {
    async fn start() -> Self {
        let server = Server::start();
        let session = server.connect().await;
        Self { server, session, schemas: 0, coverage: Coverage::default() }
    }

    async fn restart(&mut self) {
        self.server.kill();
        self.server.restart();
        self.session = self.server.connect().await;
        self.session.run(&format!("SET search_path TO oracle_{}", self.schemas)).await;
        self.coverage.restarts += 1;
    }

    /// Runs a case; compares only `watched` if given, else every view after every step.
    async fn run(&mut self, case: &Case, watched: Option<usize>) -> Option<Mismatch> {
        self.schemas += 1;
        let schema = format!("oracle_{}", self.schemas);
        self.session.run(&format!("CREATE SCHEMA {schema}; SET search_path TO {schema}")).await;
        let found = self.steps(case, watched).await;
        self.session.run(&format!("SET search_path TO public; DROP SCHEMA {schema} CASCADE")).await;
        found
    }

    async fn steps(&mut self, case: &Case, watched: Option<usize>) -> Option<Mismatch> {
        for table in &case.tables {
            self.session.run(&table.ddl()).await;
        }
        let mut created: Vec<usize> = Vec::new();
        for (step, change) in case.steps.iter().enumerate() {
            let sql = change.sql(&case.views);
            let mut result = None;
            if let Step::CreateView(n) = change {
                created.push(*n);
                if case.views[*n].state_ttl {
                    let with_ttl = self.session.try_run(&case.views[*n].ddl_with_ttl()).await;
                    if !matches!(&with_ttl, Err(failure) if failure.to_string().contains("state_ttl")) {
                        *self.coverage.constructs.entry("state ttl").or_default() += 1;
                        result = Some(with_ttl.map(drop));
                    }
                }
            }
            let result = match (result, change) {
                (Some(result), _) => result,
                (None, Step::Restart) => {
                    self.restart().await;
                    Ok(())
                }
                (None, _) => self.session.try_run(&sql).await.map(drop),
            };
            match result {
                Ok(()) => {
                    if let Step::CreateView(n) = change
                        && let Some(ddl) = indexed::ddl(&case.views[*n].relation, *n)
                        && let Err(failure) = self.session.try_run(&ddl).await
                    {
                        let report = format!("{ddl}\n  fails: {failure}");
                        return Some(Mismatch { step, view: Some(*n), report });
                    }
                }
                // A taken key: the statement must have changed nothing, which the comparison below shows.
                Err(failure) if failure.sqlstate.as_deref() == Some("23505") => {}
                Err(failure) => {
                    let view = if let Step::CreateView(n) = change { Some(*n) } else { None };
                    return Some(Mismatch { step, view, report: format!("{sql}\n  fails: {failure}") });
                }
            }
            for n in created.iter().filter(|n| watched.is_none_or(|watched| watched == **n)) {
                if let Some(report) = self.compare(case, *n).await {
                    return Some(Mismatch { step, view: Some(*n), report });
                }
            }
        }
        None
    }

    async fn compare(&mut self, case: &Case, n: usize) -> Option<String> {
        let view = &case.views[n];
        let Ok(expected) = self.session.try_run(&view.expected).await else {
            self.coverage.undefined += 1;
            return None;
        };
        let sorted = |rows: &[Vec<Option<String>>]| {
            let mut lines: Vec<String> = rows.iter().map(|row| line(row)).collect();
            lines.sort();
            lines
        };
        let expected = sorted(&expected.rows);
        let select = format!("SELECT * FROM {}", view.relation.name);
        let found = match self.session.try_run(&select).await {
            Ok(found) => {
                if let Some(by_index) = indexed::select(&view.relation, n, &found.rows) {
                    *self.coverage.constructs.entry("index").or_default() += 1;
                    let rows = match self.session.try_run(&by_index).await {
                        Ok(rows) => sorted(&rows.rows),
                        Err(failure) => return Some(format!("{by_index}\n  fails: {failure}")),
                    };
                    let all = sorted(&found.rows);
                    if rows != all {
                        let (missing, extra) = (difference(&all, &rows), difference(&rows, &all));
                        return Some(format!("{by_index}\n  missing: {missing:?}\n  extra:   {extra:?}"));
                    }
                }
                sorted(&found.rows)
            }
            Err(failure) => return Some(format!("{select}\n  fails: {failure}")),
        };
        self.coverage.comparisons += 1;
        self.coverage.rows += expected.len();
        if found == expected {
            return None;
        }
        let missing: Vec<&String> = difference(&expected, &found);
        let extra: Vec<&String> = difference(&found, &expected);
        Some(format!(
            "{}\n  batch: {}\n  {} rows in the batch result, {} in the view\n  missing: {missing:?}\n  extra:   {extra:?}",
            view.ddl(),
            view.expected,
            expected.len(),
            found.len()
        ))
    }

    /// The smallest case found that still fails for the same view.
    async fn shrink(&mut self, case: Case, mismatch: Mismatch) -> (Case, Mismatch) {
        let (mut best, mut seen) = (case, mismatch);
        best.steps.truncate(seen.step + 1);
        let Some(watched) = seen.view else { return (best, seen) };
        let mut runs = 0;
        let reduced = best.only_for(watched);
        if let Some(found) = self.run(&reduced, Some(watched)).await {
            (best, seen) = (reduced, found);
        }
        let mut chunk = best.steps.len().max(1);
        while chunk > 0 {
            let mut at = 0;
            while at < best.steps.len() {
                if runs >= SHRINK_RUNS_MAX {
                    return (best, seen);
                }
                let mut smaller = best.clone();
                let end = (at + chunk).min(smaller.steps.len());
                let removed: Vec<Step> = smaller.steps.drain(at..end).collect();
                let has_view = removed.iter().any(|step| matches!(step, Step::CreateView(_)));
                runs += 1;
                match if has_view { None } else { self.run(&smaller, Some(watched)).await } {
                    Some(found) => (best, seen) = (smaller, found),
                    None => at += chunk,
                }
            }
            chunk /= 2;
        }
        // Then the rows inside of INSERTs.
        for step in 0..best.steps.len() {
            let mut row = 0;
            while let Step::Insert { rows, .. } = &best.steps[step] {
                if row >= rows.len() || rows.len() == 1 || runs >= SHRINK_RUNS_MAX {
                    break;
                }
                let mut smaller = best.clone();
                if let Step::Insert { rows, .. } = &mut smaller.steps[step] {
                    rows.remove(row);
                }
                runs += 1;
                match self.run(&smaller, Some(watched)).await {
                    Some(found) => (best, seen) = (smaller, found),
                    None => row += 1,
                }
            }
        }
        (best, seen)
    }
}

/// The lines of sorted `a` that sorted `b` lacks, duplicates counted.
fn difference<'a>(a: &'a [String], b: &[String]) -> Vec<&'a String> {
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    b.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    a.iter()
        .filter(|line| {
            let count = counts.entry(line).or_default();
            *count -= 1;
            *count < 0
        })
        .take(8)
        .collect()
}

/// Runs the cases of the seeds that nobody else has taken.
async fn work(seeds: Arc<Vec<u64>>, next: Arc<AtomicUsize>, seed: u64) -> Coverage {
    let mut runner = Runner::start().await;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(case_seed) = seeds.get(number) else { return runner.coverage };
        let case = Case::generate(&mut StdRng::seed_from_u64(*case_seed));
        if let Some(mismatch) = runner.run(&case, None).await {
            let (case, mismatch) = runner.shrink(case, mismatch).await;
            panic!("case {number} of seed {seed}:\n{}\n-- {}", case.script(), mismatch.report);
        }
        for construct in case.views.iter().flat_map(|view| &view.constructs) {
            *runner.coverage.constructs.entry(construct).or_default() += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_equal_their_select() {
    let cases: usize = seed::setting("MILLSTREAM_ORACLE_CASES", 400);
    let seed = seed::seed("oracle");
    let mut random = StdRng::seed_from_u64(seed);
    // A case depends on its own seed alone, so that it can be run without those before it.
    let seeds: Arc<Vec<u64>> = Arc::new((0..cases).map(|_| random.random()).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS).map(|_| tokio::spawn(work(seeds.clone(), next.clone(), seed))).collect();
    let mut coverage = Coverage::default();
    for worker in workers {
        match worker.await {
            Ok(part) => coverage.add(part),
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
    let Coverage { constructs, comparisons, rows, undefined, restarts } = &coverage;
    eprintln!(
        "oracle: {cases} cases, {comparisons} comparisons, {rows} rows, {undefined} undefined, {restarts} restarts; \
         {constructs:?}"
    );
    let all = CONSTRUCTS.iter().chain(algebra::CONSTRUCTS).chain(ordered::CONSTRUCTS).chain(&["state ttl", "index"]);
    let unmet: Vec<_> = all.filter(|name| !constructs.contains_key(*name)).collect();
    assert!(unmet.is_empty() || cases < 150, "no case has {unmet:?}");
    assert!(rows > comparisons, "the views are nearly always empty: the generator tests nothing");
    assert!(undefined * 20 < *comparisons, "too many batch SELECTs fail");
}

/// The shrinker's pieces, without a server.
#[test]
fn cases_are_reproducible_and_reducible() {
    let make = || Case::generate(&mut StdRng::seed_from_u64(7));
    assert_eq!(make().script(), make().script());
    let case = make();
    let last = case.views.len() - 1;
    let reduced = case.only_for(last);
    assert!(reduced.script().contains(&case.views[last].ddl()));
    assert!(reduced.script().len() <= case.script().len());
    assert_eq!(difference(&["a".into(), "a".into()], &["a".into()]).len(), 1);
}

/// The generated SQL is PostgreSQL's, but for the windows: what Millstream refuses of it later is its own doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn generator_is_valid() {
    let postgres = Postgres::start();
    let session = postgres.connect().await;
    let mut random = StdRng::seed_from_u64(seed::seed("oracle"));
    for number in 0..60 {
        let case = Case::generate(&mut random);
        session.run(&format!("CREATE SCHEMA o{number}; SET search_path TO o{number}")).await;
        for table in &case.tables {
            session.run(&table.ddl_without_watermark()).await;
        }
        let mut windowed: Vec<&String> = Vec::new();
        for step in &case.steps {
            match step {
                Step::CreateView(n) => {
                    let view = &case.views[*n];
                    let over_windows = view.reads.iter().any(|read| windowed.contains(&read));
                    // PostgreSQL has neither event-time windows nor ASOF joins nor DISTINCT in a window function.
                    let ours = ["TUMBLE(", "HOP(", "CUMULATE(", "SESSION(", "count(DISTINCT", "ASOF "]
                        .iter()
                        .any(|word| view.sql.contains(word));
                    if over_windows || ours || view.emit_on_window_close {
                        windowed.push(&view.relation.name);
                    } else {
                        session.run(&view.ddl()).await;
                    }
                }
                Step::Restart => {}
                step => match session.try_run(&step.sql(&case.views)).await {
                    Err(failure) if failure.sqlstate.as_deref() != Some("23505") => {
                        panic!("{failure}\nin: {}", step.sql(&case.views))
                    }
                    _ => {}
                },
            }
        }
    }
}
