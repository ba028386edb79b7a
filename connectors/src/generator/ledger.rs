//! The bank's book of payments, written at the end of the day, with planted breaks: what a reconciliation must find.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use millstream_catalog::object::columns_schema;
use millstream_catalog::{Column, SqlType};

use crate::error::Result;
use crate::generator::payments::Payment;
use crate::generator::rng::{Rng, mix};

/// How the book differs from what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BreakKind {
    /// The payment is not in the book.
    Missing,
    /// The payment is there twice.
    Doubled,
    /// The booked amount is so many cents more, or less if negative; never 0.
    Amount(i64),
}

/// One planted break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Break {
    pub kind: BreakKind,
    pub txn_id: i64,
}

/// Books payments.
pub struct Ledger {
    rng: Rng,
    payments_per_break: u64,
    breaks: Vec<Break>,
}

impl Ledger {
    /// Plants a break in one of `payments_per_break` payments on average; 0 plants none.
    pub fn new(seed: u64, payments_per_break: u64) -> Self {
        Self { rng: Rng::new(mix(seed ^ 0x006c_6564_6765_7200)), payments_per_break, breaks: Vec::new() }
    }

    /// The breaks planted so far, in order of their payments.
    pub fn breaks(&self) -> &[Break] {
        &self.breaks
    }

    /// The columns of the book.
    pub fn columns() -> Vec<Column> {
        [
            ("txn_id", SqlType::Int8),
            ("card_id", SqlType::Int8),
            ("account_id", SqlType::Int8),
            ("amount", SqlType::Numeric(Some((12, 2)))),
            ("currency", SqlType::Varchar(None)),
            ("booked_at", SqlType::Timestamp),
        ]
        .into_iter()
        .map(|(name, t)| Column::new(name, t, true))
        .collect()
    }

    /// The book's rows of some payments.
    ///
    /// # Errors
    /// XX000 if the columns do not make a batch, which would be a bug.
    pub fn book(&mut self, payments: &[Payment]) -> Result<RecordBatch> {
        let mut rows = Vec::with_capacity(payments.len());
        for payment in payments {
            let kind = match self.payments_per_break {
                0 => None,
                n => (self.rng.below(n) == 0).then(|| self.random_kind(payment)),
            };
            if let Some(kind) = kind {
                self.breaks.push(Break { kind, txn_id: payment.txn_id });
            }
            match kind {
                None => rows.push(*payment),
                Some(BreakKind::Missing) => {}
                Some(BreakKind::Doubled) => rows.extend([*payment, *payment]),
                Some(BreakKind::Amount(cents)) => {
                    rows.push(Payment { amount_cents: payment.amount_cents + cents, ..*payment });
                }
            }
        }
        let amounts = Decimal128Array::from_iter_values(rows.iter().map(|p| p.amount_cents.into()));
        let ints =
            |value: fn(&Payment) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(value))) };
        let columns: Vec<ArrayRef> = vec![
            ints(|p| p.txn_id),
            ints(|p| p.card_id),
            ints(|p| p.account_id),
            Arc::new(amounts.with_precision_and_scale(12, 2)?),
            Arc::new(StringViewArray::from_iter_values(rows.iter().map(|p| p.currency))),
            // Booked a while after it was paid, on the same day or the next.
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|p| p.ts_us + 90_000_000))),
        ];
        Ok(RecordBatch::try_new(columns_schema(&Self::columns()), columns)?)
    }

    fn random_kind(&mut self, payment: &Payment) -> BreakKind {
        match self.rng.below(3) {
            0 => BreakKind::Missing,
            1 => BreakKind::Doubled,
            // Two digits swapped, or a fee taken off.
            _ if payment.amount_cents > 1000 => BreakKind::Amount(-self.rng.between(1, 500)),
            _ => BreakKind::Amount(self.rng.between(1, 500)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::AsArray;
    use arrow::datatypes::{Decimal128Type, Int64Type};

    use super::*;
    use crate::generator::payments::{Payments, PaymentsOptions};

    #[test]
    fn the_breaks_are_exactly_what_a_reconciliation_finds() {
        let payments = Payments::new(PaymentsOptions::default()).next_payments(20_000);
        let mut ledger = Ledger::new(1, 200);
        let book = ledger.book(&payments).unwrap();
        let mut booked = BTreeMap::<i64, Vec<i128>>::new();
        let amounts = book.column(3).as_primitive::<Decimal128Type>();
        for (id, amount) in book.column(0).as_primitive::<Int64Type>().values().iter().zip(amounts.values()) {
            booked.entry(*id).or_default().push(*amount);
        }
        let found: Vec<_> = payments
            .iter()
            .filter_map(|p| {
                let kind = match booked.get(&p.txn_id).map(Vec::as_slice) {
                    None => BreakKind::Missing,
                    Some([_, _]) => BreakKind::Doubled,
                    Some([amount]) if *amount != i128::from(p.amount_cents) => {
                        BreakKind::Amount((*amount - i128::from(p.amount_cents)) as i64)
                    }
                    _ => return None,
                };
                Some(Break { kind, txn_id: p.txn_id })
            })
            .collect();
        assert_eq!(found, ledger.breaks());
        assert!((50..200).contains(&found.len()), "{} breaks", found.len());
        let kinds = |f: fn(&BreakKind) -> bool| found.iter().filter(|b| f(&b.kind)).count() > 10;
        assert!(kinds(|k| *k == BreakKind::Missing) && kinds(|k| *k == BreakKind::Doubled));
        assert!(kinds(|k| matches!(k, BreakKind::Amount(_))));
        assert_eq!(Ledger::new(1, 0).book(&payments).unwrap().num_rows(), 20_000);
    }
}
