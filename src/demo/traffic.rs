//! Payments into the topic, at a steady pace and never further ahead of the reader than the mock broker keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream_connectors::generator::{Fraud, Pace, Payment, Payments, PaymentsOptions};
use millstream_connectors::kafka::mock::PARTITION_BYTES_MAX;
use millstream_connectors::kafka::producer::Producer;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::setup::{Broker, Start};
use crate::config::DemoArgs;
use crate::error::Result;

/// Topic of the payments.
pub const TOPIC: &str = "payments";
/// Its partitions; a card's payments are all in one.
pub const PARTITIONS: usize = 4;
/// A payment in the log of a broker, alone in its batch: 240 bytes of JSON, the key, and the headers of record and batch.
const RECORD_BYTES_MAX: usize = 400;
/// Payments of a partition that nobody has read yet; half of what the mock broker keeps, since older ones vanish there.
const UNREAD_MAX: u64 = (PARTITION_BYTES_MAX / 2 / RECORD_BYTES_MAX) as u64;
/// Cards for each payment a second, unless the user says how many: one card pays every 20 seconds on average.
const CARDS_PER_RATE: u32 = 20;
/// Portions that wait for the ledger; then the generator waits.
pub const PORTIONS_MAX: usize = 1024;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// What was sent at one time, and the frauds that began or ended with it.
pub struct Portion {
    pub payments: Vec<Payment>,
    pub frauds: Vec<Fraud>,
}

/// How far writing and reading are; payments of this start, by partition.
pub struct Progress {
    first_txn_id: i64,
    sent: [AtomicU64; PARTITIONS],
    read: [AtomicU64; PARTITIONS],
}

impl Progress {
    /// Nothing was sent; the first payment will have this number.
    pub fn new(first_txn_id: i64) -> Self {
        Self { first_txn_id, sent: Default::default(), read: Default::default() }
    }

    /// Payments sent since the start.
    pub fn sent(&self) -> u64 {
        self.sent.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Number of the last payment that was sent, by this start or an earlier one.
    pub fn last_txn_id(&self) -> i64 {
        self.first_txn_id + self.sent() as i64 - 1
    }

    /// Notes how far a partition has been read.
    pub fn has_read(&self, partition: usize, position: u64) {
        if let Some(read) = self.read.get(partition) {
            read.store(position, Ordering::Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        let unread =
            |n: usize| self.sent[n].load(Ordering::Relaxed).saturating_sub(self.read[n].load(Ordering::Relaxed));
        (0..PARTITIONS).any(|n| unread(n) > UNREAD_MAX)
    }
}

/// Prepares the generator: what to run on a thread of its own, which ends when `stop` fires, and what it sends.
///
/// # Errors
/// 22023 if the client cannot be made.
pub fn start(
    args: &DemoArgs,
    broker: &Broker,
    start: &Start,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<(impl FnOnce() -> Result<()> + Send + use<>, mpsc::Receiver<Portion>)> {
    let producer = Producer::new(&broker.address(), &BTreeMap::new())?;
    let payments = Payments::new(PaymentsOptions {
        cards: args.cards.unwrap_or(args.rate.saturating_mul(CARDS_PER_RATE)).into(),
        start_us: start.clock_us,
        rate: f64::from(args.rate),
        honest_per_fraud: Some(args.fraud_every.into()),
        first_txn_id: start.next_txn_id,
        ..PaymentsOptions::default()
    });
    // The positions of a mock broker's topic count this start's payments from 0; a real broker keeps what it was sent.
    let bounded = matches!(broker, Broker::Mock(_));
    let rate = f64::from(args.rate);
    let (portions, receiver) = mpsc::channel(PORTIONS_MAX);
    let mut traffic = Traffic { producer, payments, open_frauds: Vec::new(), frauds_seen: 0 };
    let run = move || {
        let mut pace = Pace::new(rate);
        while !stop.is_cancelled() {
            if bounded && progress.is_full() {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let n = pace.wait();
            if n == 0 {
                continue;
            }
            let portion = traffic.send(n, &progress)?;
            // The ledger is gone only after it has failed and said so.
            if portions.blocking_send(portion).is_err() {
                break;
            }
        }
        Ok(traffic.producer.flush(TOPIC, FLUSH_TIMEOUT)?)
    };
    Ok((run, receiver))
}

struct Traffic {
    producer: Producer,
    payments: Payments,
    /// Frauds that have begun and are not complete, by their place in the generator's list.
    open_frauds: Vec<usize>,
    frauds_seen: usize,
}

impl Traffic {
    fn send(&mut self, n: usize, progress: &Progress) -> Result<Portion> {
        let payments = self.payments.next_payments(n);
        let (mut key, mut text) = (Vec::new(), Vec::new());
        for payment in &payments {
            key.clear();
            text.clear();
            payment.write_key(&mut key);
            payment.write_json(&mut text);
            let partition = payment.card_id.unsigned_abs() as usize % PARTITIONS;
            self.producer.send(TOPIC, Some(partition as i32), Some(&key), Some(&text))?;
            progress.sent[partition].fetch_add(1, Ordering::Relaxed);
        }
        Ok(Portion { payments, frauds: self.changed_frauds() })
    }

    /// Frauds that have begun since the last call, and those that are complete now.
    fn changed_frauds(&mut self) -> Vec<Fraud> {
        let all = self.payments.frauds();
        let began = self.frauds_seen..all.len();
        let ended = self.open_frauds.iter().copied().filter(|n| all[*n].is_complete());
        let changed = began.clone().chain(ended).map(|n| all[n].clone()).filter(|f| !f.txn_ids.is_empty()).collect();
        // One that is planned for this very moment has no payment yet and counts from its first.
        let started = began.clone().take_while(|n| !all[*n].txn_ids.is_empty()).count();
        self.open_frauds.extend(began.take(started));
        self.open_frauds.retain(|n| !all[*n].is_complete());
        self.frauds_seen += started;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_waits_for_a_reader_that_is_behind() {
        let progress = Progress::new(100);
        progress.sent[1].store(UNREAD_MAX + 5, Ordering::Relaxed);
        assert!(progress.is_full() && progress.last_txn_id() == 104 + UNREAD_MAX as i64);
        progress.has_read(1, 5);
        assert!(!progress.is_full());
        progress.has_read(PARTITIONS, 1);
    }

    #[test]
    fn a_fraud_is_told_when_it_begins_and_when_it_is_complete() {
        let producer = Producer::new("127.0.0.1:1", &BTreeMap::new()).unwrap();
        let payments = Payments::new(PaymentsOptions { honest_per_fraud: Some(300), ..Default::default() });
        let mut traffic = Traffic { producer, payments, open_frauds: Vec::new(), frauds_seen: 0 };
        let mut told = BTreeMap::<i64, Vec<bool>>::new();
        for _ in 0..30_000 {
            traffic.payments.next_payment();
            for fraud in traffic.changed_frauds() {
                told.entry(fraud.txn_ids[0]).or_default().push(fraud.is_complete());
            }
        }
        let complete = told.values().filter(|told| **told == [false, true]).count();
        assert!(complete > 20 && told.values().all(|told| told.len() <= 2 && !told[0]), "{told:?}");
        let all = traffic.payments.frauds();
        assert_eq!(complete, all.iter().filter(|fraud| fraud.is_complete()).count());
    }
}
