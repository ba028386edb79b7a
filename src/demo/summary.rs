//! What the demo says: how to connect, and how it goes.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_catalog::{DEFAULT_DATABASE, DEFAULT_USER};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::setup::{ALERTS_TOPIC, Broker, Place, Start};
use super::traffic::Progress;
use crate::config::Config;
use crate::error::Result;

/// How often the reader's positions are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// How often a terminal is refreshed.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often the whole ledger is reconciled, at most; and never more than a twentieth of the time.
const RECONCILE_EVERY: Duration = Duration::from_secs(3);
const RECONCILE_SHARE: u32 = 20;

/// Says what runs where and what to try.
pub fn introduce(config: &Config, broker: &Broker, place: &Place, start: &Start) {
    let address = config.listen;
    let (broker_is, dir_is) = match broker {
        Broker::Mock(_) => (
            "embedded mock broker, in memory, for demos only",
            "temporary: each start is a new demo, the directory goes with it",
        ),
        Broker::Real(_) if start.next_txn_id > 1 => ("real broker", "kept: continues where the last demo stopped"),
        Broker::Real(_) => ("real broker", "kept: the next start with it continues from here"),
    };
    say(&format!(
        "Millstream demo: made-up card payments with planted fraud, rules that find it, and a ledger to reconcile.

  broker   {} ({broker_is})
  data     {} ({dir_is})
  connect  psql -h {} -p {} -U {DEFAULT_USER} {DEFAULT_DATABASE}
  try      SELECT * FROM alerts ORDER BY last_at DESC LIMIT 10;
           SELECT * FROM fraud_check;
           SELECT * FROM reconciliation ORDER BY txn_id DESC LIMIT 10;
           SHOW CREATE MATERIALIZED VIEW impossible_travel;
  stop     Ctrl-C

",
        broker.address(),
        place.root.display(),
        address.ip(),
        address.port(),
    ));
}

/// Writes to standard output; a reader that has gone away does not stop the demo.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The live summary.
pub struct Summary {
    client: Client,
    reconciler: Client,
    progress: Arc<Progress>,
    breaks: Arc<Mutex<Breaks>>,
    sent_before: (Instant, u64),
}

/// The last reconciliation.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Breaks {
    planted: i64,
    found: i64,
    false_alarms: i64,
}

/// A kind of fraud as `fraud_check` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    name: String,
    planted: i64,
    found: i64,
    alerts: i64,
    false_alarms: i64,
}

/// How it goes at one moment.
#[derive(Debug, Clone, PartialEq)]
struct Figures {
    payments: i64,
    per_second: f64,
    /// Records in the topic that the views do not have yet.
    lag: i64,
    latency_ms: Option<(f64, f64)>,
    kinds: Vec<Kind>,
    view_rows: i64,
    books: i64,
    breaks: Breaks,
    alerts_sent: i64,
}

impl Summary {
    /// A summary that asks through `client`, and reconciles through `reconciler`.
    pub fn new(client: Client, reconciler: Client, progress: Arc<Progress>) -> Self {
        Self { client, reconciler, progress, breaks: Arc::default(), sent_before: (Instant::now(), 0) }
    }

    /// Shows how it goes until `stop` fires: in place on a terminal, line by line elsewhere.
    ///
    /// # Errors
    /// Of the queries.
    pub async fn show(self, stop: CancellationToken) -> Result<()> {
        let Self { mut client, reconciler, progress, breaks, mut sent_before } = self;
        let reconciling = tokio::spawn(reconcile(reconciler, breaks.clone(), stop.clone()));
        let terminal = std::io::stdout().is_terminal();
        let every = if terminal { REFRESH_EVERY } else { LINE_EVERY };
        let mut shown = Instant::now();
        let mut lines_shown = 0;
        while !stop.is_cancelled() {
            tokio::time::sleep(WATCH_EVERY).await;
            let lag = watch(&mut client, &progress).await?;
            if shown.elapsed() < every {
                continue;
            }
            shown = Instant::now();
            let (before, sent) = (sent_before, progress.sent());
            sent_before = (shown, sent);
            let per_second = (sent - before.1) as f64 / before.0.elapsed().as_secs_f64().max(0.001);
            let latest = *breaks.lock();
            let figures = figures(&mut client, progress.last_txn_id(), per_second, lag, latest).await?;
            if terminal {
                let block = block(&figures);
                say(&format!("{}{block}", rewind(lines_shown)));
                lines_shown = block.lines().count();
            } else {
                say(&format!("{}\n", line(&figures)));
            }
        }
        say("stopping\n");
        reconciling.await.map_err(super::ended)?
    }
}

/// Tells the generator how far the reader is; records that are not read yet.
async fn watch(client: &mut Client, progress: &Progress) -> Result<i64> {
    let rows = client.run("SELECT partition, position, lag FROM millstream.sources WHERE name = 'payments'").await?;
    for row in &rows {
        if let (Some(partition), Some(position)) = (row.int(0), row.int(1)) {
            progress.has_read(partition as usize, position.unsigned_abs());
        }
    }
    Ok(rows.iter().filter_map(|row| row.int(2)).sum())
}

/// Reconciles again and again.
async fn reconcile(mut client: Client, breaks: Arc<Mutex<Breaks>>, stop: CancellationToken) -> Result<()> {
    let mut pause = RECONCILE_EVERY;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let started = Instant::now();
        let row = client.row("SELECT planted, found, false_alarms FROM reconciliation_check").await?;
        let count = |column| row.int(column).unwrap_or(0);
        *breaks.lock() = Breaks { planted: count(0), found: count(1), false_alarms: count(2) };
        pause = RECONCILE_EVERY.max(started.elapsed() * RECONCILE_SHARE);
    }
    Ok(())
}

async fn figures(client: &mut Client, payments: i64, per_second: f64, lag: i64, breaks: Breaks) -> Result<Figures> {
    let kinds = client.run("SELECT kind, planted, found, alerts, false_alarms FROM fraud_check ORDER BY kind").await?;
    let kinds = kinds.iter().map(|row| {
        let count = |column| row.int(column).unwrap_or(0);
        Kind { name: row.text(0), planted: count(1), found: count(2), alerts: count(3), false_alarms: count(4) }
    });
    let kinds = kinds.collect();
    let latency = client.row("SELECT latency_p50_ms, latency_p99_ms FROM millstream.views WHERE name = 'paid'").await?;
    let rows = client.row("SELECT sum(rows)::BIGINT FROM millstream.views").await?;
    let books = client.row("SELECT count(*) FROM books").await?;
    let sink = client.row("SELECT acknowledged_sequence FROM millstream.sinks WHERE name = 'alert_log'").await?;
    Ok(Figures {
        payments,
        per_second,
        lag,
        latency_ms: latency.float(0).zip(latency.float(1)),
        kinds,
        view_rows: rows.int(0).unwrap_or(0),
        books: books.int(0).unwrap_or(0),
        breaks,
        alerts_sent: sink.int(0).unwrap_or(0),
    })
}

/// Takes the cursor back over what was shown last, and clears it.
fn rewind(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\x1b[J") }
}

/// Several lines, none longer than a terminal is wide.
fn block(f: &Figures) -> String {
    let mut out = format!("  payments           {:>9}   {:.0}/s   lag {}", f.payments, f.per_second, f.lag);
    if let Some((p50, p99)) = f.latency_ms {
        let _ = write!(out, "   visible after {p50:.1} ms p50, {p99:.1} ms p99");
    }
    out.push('\n');
    for k in &f.kinds {
        let _ = writeln!(
            out,
            "  {:<18} {:>9} planted   {:>6} found   {:>6} alerts   {} false",
            k.name, k.planted, k.found, k.alerts, k.false_alarms
        );
    }
    let b = &f.breaks;
    let _ = writeln!(
        out,
        "  {:<18} {:>9} planted   {:>6} found   {:>6} books    {} false",
        "ledger breaks", b.planted, b.found, f.books, b.false_alarms
    );
    let _ = writeln!(
        out,
        "  rows in views      {:>9}   {} changes of alerts in topic {ALERTS_TOPIC}",
        f.view_rows, f.alerts_sent
    );
    out
}

/// The same as one line.
fn line(f: &Figures) -> String {
    let mut out = format!("payments {} ({:.0}/s, lag {}", f.payments, f.per_second, f.lag);
    if let Some((p50, p99)) = f.latency_ms {
        let _ = write!(out, ", visible after {p50:.1} ms p50, {p99:.1} ms p99");
    }
    out.push_str("); found of planted:");
    for k in &f.kinds {
        let _ = write!(out, " {} {}/{},", k.name, k.found, k.planted);
    }
    let b = &f.breaks;
    let false_alarms = b.false_alarms + f.kinds.iter().map(|k| k.false_alarms).sum::<i64>();
    let _ = write!(
        out,
        " ledger breaks {}/{} in {} books; false alarms {false_alarms}; rows in views {}; alert changes sent {}",
        b.found, b.planted, f.books, f.view_rows, f.alerts_sent
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_a_terminal_and_a_line() {
        let figures = Figures {
            payments: 123_456,
            per_second: 499.6,
            lag: 3,
            latency_ms: Some((3.25, 12.0)),
            kinds: vec![Kind { name: "card testing".into(), planted: 12, found: 11, alerts: 12, false_alarms: 1 }],
            view_rows: 99,
            books: 8,
            breaks: Breaks { planted: 23, found: 23, false_alarms: 0 },
            alerts_sent: 40,
        };
        let block = block(&figures);
        assert!(block.lines().count() == 4 && block.lines().all(|line| line.len() <= 100), "{block}");
        assert_eq!(
            line(&figures),
            "payments 123456 (500/s, lag 3, visible after 3.2 ms p50, 12.0 ms p99); found of planted: \
             card testing 11/12, ledger breaks 23/23 in 8 books; false alarms 1; rows in views 99; alert changes sent 40"
        );
        assert_eq!((rewind(0), rewind(4)), (String::new(), "\x1b[4A\x1b[J".to_string()));
    }
}
