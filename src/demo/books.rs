//! The bank's side of the demo: closes a book of the ledger every few seconds, and keeps the answer sheet.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::DateTime;
use datafusion::arrow::array::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::errors::ParquetError;
use millstream_connectors::generator::{Break, BreakKind, Fraud, FraudKind, Ledger, Payment};
use tokio::sync::mpsc;

use super::client::Client;
use super::setup::{Start, book_path};
use super::traffic::{PORTIONS_MAX, Portion};
use crate::error::{Error, Result, sqlstate};

/// Payments for each planted break, on average.
const PAYMENTS_PER_BREAK: u64 = 500;
/// How long a book is open.
const BOOK_TIME: Duration = Duration::from_secs(10);
/// How long the payments of a book may take to be visible in the view of all payments.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The open book and where the closed ones go.
pub struct Books {
    client: Client,
    ledger: Ledger,
    dir: PathBuf,
    next: i64,
    open: Vec<Payment>,
    opened: Instant,
}

impl Books {
    /// Books for the payments from `start` on, as Parquet files below `dir`.
    pub fn new(client: Client, dir: PathBuf, start: &Start) -> Self {
        let ledger = Ledger::new(start.next_txn_id.unsigned_abs(), PAYMENTS_PER_BREAK);
        Self { client, ledger, dir, next: start.next_book, open: Vec::new(), opened: Instant::now() }
    }

    /// Books what is sent until nothing more comes, and closes the last book.
    ///
    /// # Errors
    /// 57014 if payments do not become visible; of the statements and the file system.
    pub async fn keep(mut self, mut portions: mpsc::Receiver<Portion>) -> Result<()> {
        let mut waiting = Vec::new();
        while portions.recv_many(&mut waiting, PORTIONS_MAX).await > 0 {
            // The newest word on a fraud counts.
            let mut frauds = BTreeMap::new();
            for portion in waiting.drain(..) {
                frauds.extend(portion.frauds.into_iter().map(|fraud| (fraud.txn_ids[0], fraud)));
                self.open.extend(portion.payments);
            }
            self.note(&frauds).await?;
            if self.opened.elapsed() >= BOOK_TIME {
                self.close().await?;
            }
        }
        self.close().await
    }

    /// Writes frauds, by their first payments, into the answer sheet. One is told of when it begins and again when it is
    /// complete.
    async fn note(&mut self, frauds: &BTreeMap<i64, Fraud>) -> Result<()> {
        if frauds.is_empty() {
            return Ok(());
        }
        let ids = frauds.keys().map(i64::to_string).collect::<Vec<_>>().join(", ");
        self.client.run(&format!("DELETE FROM planted_frauds WHERE id IN ({ids})")).await?;
        let rows = frauds.iter().map(|(id, fraud)| fraud_row(*id, fraud)).collect::<Vec<_>>().join(", ");
        self.client.run(&format!("INSERT INTO planted_frauds VALUES {rows}")).await?;
        Ok(())
    }

    /// Closes the open book. Its row in `books` comes last, when its file is whole and the views have its payments: only
    /// then is it reconciled.
    async fn close(&mut self) -> Result<()> {
        self.opened = Instant::now();
        let payments = std::mem::take(&mut self.open);
        let (Some(first), Some(last)) = (payments.first(), payments.last()) else { return Ok(()) };
        let book = self.next;
        let breaks_before = self.ledger.breaks().len();
        let entries = self.ledger.book(&payments)?;
        let count = entries.num_rows();
        let (path, root) = (book_path(&self.dir, book, first.ts_us), self.dir.clone());
        tokio::task::spawn_blocking(move || write_file(&root, &path, &entries)).await.map_err(super::ended)??;

        let breaks = self.ledger.breaks()[breaks_before..].iter().map(|b| break_row(b, book)).collect::<Vec<_>>();
        if !breaks.is_empty() {
            self.client.run(&format!("INSERT INTO planted_breaks VALUES {}", breaks.join(", "))).await?;
        }
        self.wait_for(first.txn_id, last.txn_id, payments.len()).await?;
        let (first, last) = (first.txn_id, last.txn_id);
        self.client.run(&format!("INSERT INTO books VALUES ({book}, {first}, {last}, {count})")).await?;
        self.next += 1;
        Ok(())
    }

    async fn wait_for(&mut self, first: i64, last: i64, payments: usize) -> Result<()> {
        let deadline = Instant::now() + VISIBLE_TIMEOUT;
        let query = format!("SELECT count(*) FROM paid WHERE txn_id BETWEEN {first} AND {last}");
        loop {
            let visible = self.client.row(&query).await?.int(0).unwrap_or(0);
            if visible == payments as i64 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    sqlstate::QUERY_CANCELED,
                    format!("{visible} instead of {payments} payments from {first} to {last} are in view \"paid\""),
                )
                .with_hint("see millstream.sources and millstream.dead_letters"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The name of a kind of fraud, as the rules call it.
pub fn kind_name(kind: FraudKind) -> &'static str {
    match kind {
        FraudKind::CardTesting => "card testing",
        FraudKind::ImpossibleTravel => "impossible travel",
        FraudKind::Mule => "mule account",
    }
}

/// A literal.
fn timestamp(us: i64) -> String {
    format!("'{}'", DateTime::from_timestamp_micros(us).unwrap_or_default().naive_utc())
}

/// A row of the answer sheet of frauds.
fn fraud_row(id: i64, fraud: &Fraud) -> String {
    let complete = fraud.is_complete();
    let last_at = if complete { timestamp(fraud.last_us) } else { "NULL".into() };
    format!(
        "({id}, '{}', {}, {}, {last_at}, {}, {complete})",
        kind_name(fraud.kind),
        fraud.card_id.or(fraud.account_id).unwrap_or_default(),
        timestamp(fraud.first_us),
        fraud.txn_ids.len(),
    )
}

/// A row of the answer sheet of breaks.
fn break_row(b: &Break, book: i64) -> String {
    let (name, cents) = match b.kind {
        BreakKind::Missing => ("missing", 0),
        BreakKind::Doubled => ("doubled", 0),
        BreakKind::Amount(cents) => ("amount", cents),
    };
    format!("({}, {book}, '{name}', {cents})", b.txn_id)
}

/// Writes a Parquet file that takes its name only when it is whole, for the ledger is read at any time.
fn write_file(root: &Path, path: &Path, entries: &RecordBatch) -> Result<()> {
    let failed = |e: ParquetError| Error::new(sqlstate::IO_ERROR, format!("cannot write \"{}\": {e}", path.display()));
    let day = path.parent().unwrap_or(root);
    std::fs::create_dir_all(day)?;
    let mut unfinished = tempfile::Builder::new().prefix(".").suffix(".unfinished").tempfile_in(root)?;
    let mut writer = ArrowWriter::try_new(unfinished.as_file_mut(), entries.schema(), None).map_err(failed)?;
    writer.write(entries).map_err(failed)?;
    writer.close().map_err(failed)?;
    let file: File = unfinished.persist(path).map_err(|e| e.error)?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_answer_sheet_are_literals() {
        assert_eq!(timestamp(1_500_000), "'1970-01-01 00:00:01.500'");
        let amount = Break { kind: BreakKind::Amount(-12), txn_id: 7 };
        assert_eq!(break_row(&amount, 3), "(7, 3, 'amount', -12)");
    }

    #[test]
    fn a_file_appears_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = book_path(dir.path(), 1, 0);
        let entries = Ledger::new(1, 0).book(&[]).unwrap();
        write_file(dir.path(), &path, &entries).unwrap();
        assert!(path.exists());
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["d=1970-01-01"]);
    }
}
