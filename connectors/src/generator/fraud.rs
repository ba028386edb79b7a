//! What was planted: kind, whom it concerns, and the payments that make it.

use crate::generator::payments::Payment;

/// A kind of planted fraud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FraudKind {
    /// 12 to 25 payments under 2.00 on one card, one every second or so.
    CardTesting,
    /// One card at home and within minutes in another country at least 2,000 km away.
    ImpossibleTravel,
    /// 15 to 30 transfers (merchant category 4829) from many cards to one account, a few seconds apart.
    Mule,
}

/// One planted fraud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fraud {
    pub kind: FraudKind,
    /// The card, except of mules.
    pub card_id: Option<i64>,
    /// The mule's account.
    pub account_id: Option<i64>,
    /// Its payments so far, in order of time.
    pub txn_ids: Vec<i64>,
    /// Event time of its first payment, microseconds since 1970.
    pub first_us: i64,
    /// Event time of its last payment so far.
    pub last_us: i64,
    payments: usize,
}

impl Fraud {
    pub(super) fn new(kind: FraudKind, card_id: Option<i64>, account_id: Option<i64>, payments: usize) -> Self {
        Self { kind, card_id, account_id, txn_ids: Vec::new(), first_us: 0, last_us: 0, payments }
    }

    /// Whether all its payments are out.
    pub fn is_complete(&self) -> bool {
        self.txn_ids.len() == self.payments
    }

    pub(super) fn add(&mut self, payment: &Payment) {
        if self.txn_ids.is_empty() {
            self.first_us = payment.ts_us;
        }
        self.txn_ids.push(payment.txn_id);
        self.last_us = payment.ts_us;
    }
}
