//! Card payments one after another in event time, most of them honest.
//!
//! Each card has a home where it pays almost always; a few are on a trip for whole days. Amounts are log-normal around
//! what is typical of the merchant. Some payments are transfers to people's accounts. Frauds ([`Fraud`]) are planted at a
//! rate that can be set.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray};
use millstream_catalog::object::columns_schema;
use millstream_catalog::{Column, SqlType};

use crate::error::Result;
use crate::format::datetime::write_timestamp;
use crate::format::number::write_decimal;
use crate::generator::fraud::{Fraud, FraudKind};
use crate::generator::places::{HOMES, KINDS, PLACES, TRANSFER};
use crate::generator::rng::{Rng, mix};

/// What the stream of payments is like.
#[derive(Debug, Clone)]
pub struct PaymentsOptions {
    pub seed: u64,
    /// Cards that pay; their ids are `FIRST_CARD..FIRST_CARD + cards`.
    pub cards: u64,
    /// Event time of the first payment, microseconds since 1970.
    pub start_us: i64,
    /// Payments per second of event time.
    pub rate: f64,
    /// Honest payments for each planted fraud, roughly; `None` plants nothing.
    pub honest_per_fraud: Option<u64>,
    /// First transaction id; ids go up by one.
    pub first_txn_id: i64,
}

impl Default for PaymentsOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            cards: 50_000,
            // 2026-01-01
            start_us: 1_767_225_600_000_000,
            rate: 500.0,
            honest_per_fraud: Some(4000),
            first_txn_id: 1,
        }
    }
}

/// Card ids start here, so that they do not look like account ids.
pub const FIRST_CARD: i64 = 400_000_000;
/// Accounts of people, which transfers go to.
const FIRST_PERSON_ACCOUNT: i64 = 10_000_000;
/// Accounts of merchants.
const FIRST_MERCHANT_ACCOUNT: i64 = 90_000_000;
const MERCHANTS: u64 = 5000;
const DAY_US: i64 = 86_400_000_000;
/// How long a card on the way from one place to another is silent.
const FLIGHT_US: i64 = 6 * 3_600_000_000;

/// One payment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Payment {
    pub txn_id: i64,
    pub card_id: i64,
    /// The account that gets the money: a merchant's, or with merchant category 4829 a person's.
    pub account_id: i64,
    pub amount_cents: i64,
    pub currency: &'static str,
    pub country: &'static str,
    pub city: &'static str,
    /// Kind and number of the merchant, printed as `Coffee 123`.
    pub merchant: (&'static str, u32),
    /// Merchant category code.
    pub mcc: i32,
    pub lat: f64,
    pub lon: f64,
    /// Microseconds since 1970.
    pub ts_us: i64,
}

/// An endless stream of payments in the order of their time.
pub struct Payments {
    options: PaymentsOptions,
    rng: Rng,
    next_txn_id: i64,
    /// Honest payments so far.
    honest: u64,
    /// Payments of frauds that have begun, by time.
    planted: BinaryHeap<Reverse<Planted>>,
    frauds: Vec<Fraud>,
    until_fraud: u64,
}

/// A payment that waits for its time; ordered by it.
struct Planted {
    ts_us: i64,
    order: u64,
    fraud: usize,
    payment: Payment,
}

impl Payments {
    /// Starts the stream.
    pub fn new(options: PaymentsOptions) -> Self {
        // A stream that continues another one does not repeat it.
        let mut rng =
            Rng::new(mix(options.seed ^ 0x7061_796d_656e_7473 ^ mix((options.first_txn_id as u64).wrapping_sub(1))));
        let until_fraud = options.honest_per_fraud.map_or(u64::MAX, |n| rng.below(n.max(1)) + 1);
        Self {
            rng,
            next_txn_id: options.first_txn_id,
            honest: 0,
            planted: BinaryHeap::new(),
            frauds: Vec::new(),
            until_fraud,
            options,
        }
    }

    /// The frauds that have begun. Those whose [`Fraud::is_complete`] have all their payments out.
    pub fn frauds(&self) -> &[Fraud] {
        &self.frauds
    }

    /// Event time of the next honest payment, microseconds since 1970.
    pub fn clock_us(&self) -> i64 {
        self.options.start_us + (self.honest as f64 * 1e6 / self.options.rate) as i64
    }

    /// The next payment.
    pub fn next_payment(&mut self) -> Payment {
        let now = self.clock_us();
        if self.planted.peek().is_some_and(|Reverse(p)| p.ts_us <= now)
            && let Some(Reverse(mut planted)) = self.planted.pop()
        {
            planted.payment.txn_id = self.take_txn_id();
            self.frauds[planted.fraud].add(&planted.payment);
            return planted.payment;
        }
        self.honest += 1;
        self.until_fraud -= 1;
        if self.until_fraud == 0 {
            self.plant(now);
            let n = self.options.honest_per_fraud.unwrap_or(1).max(1);
            self.until_fraud = n / 2 + self.rng.below(n) + 1;
        }
        let mut payment = self.honest_payment(now);
        payment.txn_id = self.take_txn_id();
        payment
    }

    /// The next `n` payments.
    pub fn next_payments(&mut self, n: usize) -> Vec<Payment> {
        (0..n).map(|_| self.next_payment()).collect()
    }

    fn take_txn_id(&mut self) -> i64 {
        self.next_txn_id += 1;
        self.next_txn_id - 1
    }

    /// A card that can pay at that time.
    fn random_card(&mut self, ts_us: i64) -> i64 {
        loop {
            // Some cards are used more than others.
            let u = self.rng.unit();
            let card_id = FIRST_CARD + (u.powf(1.4) * self.options.cards as f64) as i64;
            // Who arrives or leaves at the turn of the day is in the air for some hours and pays nothing.
            if self.place_of(card_id, ts_us - FLIGHT_US / 2) == self.place_of(card_id, ts_us + FLIGHT_US / 2) {
                return card_id;
            }
        }
    }

    /// Where a card is on a day: its home, or with 2 % somewhere else all day.
    fn place_of(&self, card_id: i64, ts_us: i64) -> usize {
        let home = mix(card_id as u64 ^ self.options.seed) % HOMES;
        let day = mix((card_id as u64).wrapping_mul(31) ^ ts_us.div_euclid(DAY_US) as u64);
        let place = if day.is_multiple_of(50) { (day >> 8) % PLACES.len() as u64 } else { home };
        place as usize
    }

    fn honest_payment(&mut self, ts_us: i64) -> Payment {
        let card_id = self.random_card(ts_us);
        let place = self.place_of(card_id, ts_us);
        if self.rng.below(40) == 0 {
            let account = FIRST_PERSON_ACCOUNT + self.rng.below(self.options.cards.max(1000)) as i64;
            let amount = self.amount(5000.0);
            return transfer(card_id, account, amount, place, ts_us);
        }
        let (mcc, kind, typical) = KINDS[self.rng.below(KINDS.len() as u64) as usize];
        let amount_cents = self.amount(typical);
        let merchant = self.rng.below(MERCHANTS) as u32;
        payment(card_id, (mcc, kind, merchant), amount_cents, place, ts_us)
    }

    /// Log-normal: half of the amounts within a factor of 1.6 around the typical one.
    fn amount(&mut self, typical: f64) -> i64 {
        // The sum of four uniform numbers is near enough to a normal one, with mean 2 and deviation 0.577.
        let normal = (0..4).map(|_| self.rng.unit()).sum::<f64>() - 2.0;
        ((typical * (normal * 1.2).exp()) as i64).max(50)
    }

    /// Plans a fraud that starts now.
    fn plant(&mut self, now: i64) {
        let kind = match self.rng.below(3) {
            0 => FraudKind::CardTesting,
            1 => FraudKind::ImpossibleTravel,
            _ => FraudKind::Mule,
        };
        let card_id = self.random_card(now);
        let home = self.place_of(card_id, now);
        let mut payments = Vec::new();
        let mut account_id = None;
        match kind {
            // A stolen number is tried with tiny amounts at online shops, every second or so.
            FraudKind::CardTesting => {
                let mut ts = now;
                for _ in 0..self.rng.between(12, 25) {
                    let merchant = (5999, "Online", self.rng.below(MERCHANTS) as u32);
                    payments.push(payment(card_id, merchant, self.rng.between(50, 199), home, ts));
                    ts += self.rng.between(400_000, 1_500_000);
                }
            }
            // A copied card is used far away minutes after its owner has paid at home.
            FraudKind::ImpossibleTravel => {
                let far = self.far_from(home);
                let merchant = |rng: &mut Rng| (5732, "Electronics", rng.below(MERCHANTS) as u32);
                let first = merchant(&mut self.rng);
                payments.push(payment(card_id, first, self.rng.between(2000, 9000), home, now));
                let mut ts = now;
                for _ in 0..self.rng.between(1, 3) {
                    ts += self.rng.between(30_000_000, 120_000_000);
                    let merchant = merchant(&mut self.rng);
                    payments.push(payment(card_id, merchant, self.rng.between(20_000, 90_000), far, ts));
                }
            }
            // Many stolen cards send small sums to one account, within minutes.
            FraudKind::Mule => {
                let account = FIRST_PERSON_ACCOUNT + self.rng.below(self.options.cards.max(1000)) as i64;
                account_id = Some(account);
                let mut ts = now;
                for _ in 0..self.rng.between(15, 30) {
                    let card_id = self.random_card(ts);
                    let place = self.place_of(card_id, ts);
                    payments.push(transfer(card_id, account, self.rng.between(3000, 9900), place, ts));
                    ts += self.rng.between(1_000_000, 8_000_000);
                }
            }
        }
        let fraud = self.frauds.len();
        self.frauds.push(Fraud::new(kind, (kind != FraudKind::Mule).then_some(card_id), account_id, payments.len()));
        for payment in payments {
            let order = self.planted.len() as u64;
            self.planted.push(Reverse(Planted { ts_us: payment.ts_us, order, fraud, payment }));
        }
    }

    /// A place in another country and at least 2,000 km away.
    fn far_from(&mut self, home: usize) -> usize {
        loop {
            let there = self.rng.below(PLACES.len() as u64) as usize;
            let (a, b) = (&PLACES[home], &PLACES[there]);
            if a.country != b.country && distance_km(a.lat, a.lon, b.lat, b.lon) > 2000.0 {
                return there;
            }
        }
    }
}

impl Iterator for Payments {
    type Item = Payment;

    fn next(&mut self) -> Option<Payment> {
        Some(self.next_payment())
    }
}

fn payment(card_id: i64, merchant: (i32, &'static str, u32), amount_cents: i64, place: usize, ts_us: i64) -> Payment {
    let (mcc, kind, number) = merchant;
    let place = &PLACES[place];
    Payment {
        txn_id: 0,
        card_id,
        account_id: FIRST_MERCHANT_ACCOUNT + i64::from(number),
        amount_cents,
        currency: place.currency,
        country: place.country,
        city: place.city,
        merchant: (kind, number),
        mcc,
        lat: place.lat,
        lon: place.lon,
        ts_us,
    }
}

fn transfer(card_id: i64, account_id: i64, amount_cents: i64, place: usize, ts_us: i64) -> Payment {
    Payment { account_id, ..payment(card_id, (TRANSFER, "Transfer", 0), amount_cents, place, ts_us) }
}

/// Great-circle distance.
fn distance_km(lat_a: f64, lon_a: f64, lat_b: f64, lon_b: f64) -> f64 {
    let (a, b) = (lat_a.to_radians(), lat_b.to_radians());
    let cos = a.sin() * b.sin() + a.cos() * b.cos() * (lon_a - lon_b).to_radians().cos();
    6371.0 * cos.clamp(-1.0, 1.0).acos()
}

impl Payment {
    /// The columns of a source of payments, as [`Payment::write_json`] writes them.
    pub fn columns() -> Vec<Column> {
        [
            ("txn_id", SqlType::Int8),
            ("card_id", SqlType::Int8),
            ("account_id", SqlType::Int8),
            ("amount", SqlType::Numeric(Some((12, 2)))),
            ("currency", SqlType::Varchar(None)),
            ("country", SqlType::Varchar(None)),
            ("city", SqlType::Varchar(None)),
            ("merchant", SqlType::Varchar(None)),
            ("mcc", SqlType::Int4),
            ("lat", SqlType::Float8),
            ("lon", SqlType::Float8),
            ("ts", SqlType::Timestamp),
        ]
        .into_iter()
        .map(|(name, t)| Column::new(name, t, true))
        .collect()
    }

    /// The same as a column list of CREATE SOURCE.
    pub fn sql_columns() -> String {
        Self::columns().iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect::<Vec<_>>().join(", ")
    }

    /// Appends the payment as a JSON object of about 240 bytes.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"txn_id\":");
        write_decimal(self.txn_id.into(), 0, false, out);
        out.extend_from_slice(b",\"card_id\":");
        write_decimal(self.card_id.into(), 0, false, out);
        out.extend_from_slice(b",\"account_id\":");
        write_decimal(self.account_id.into(), 0, false, out);
        out.extend_from_slice(b",\"amount\":");
        write_decimal(self.amount_cents.into(), 2, false, out);
        for (name, value) in [
            (&b",\"currency\":\""[..], self.currency),
            (b"\",\"country\":\"", self.country),
            (b"\",\"city\":\"", self.city),
            (b"\",\"merchant\":\"", self.merchant.0),
        ] {
            out.extend_from_slice(name);
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b' ');
        write_decimal(self.merchant.1.into(), 0, false, out);
        out.extend_from_slice(b"\",\"mcc\":");
        write_decimal(self.mcc.into(), 0, false, out);
        out.extend_from_slice(b",\"lat\":");
        write_decimal((self.lat * 100.0).round() as i128, 2, false, out);
        out.extend_from_slice(b",\"lon\":");
        write_decimal((self.lon * 100.0).round() as i128, 2, false, out);
        out.extend_from_slice(b",\"ts\":\"");
        write_timestamp(self.ts_us, out);
        out.extend_from_slice(b"\"}");
    }

    /// Appends the record key: the card id as text, so that a card's payments stay in order in one partition.
    pub fn write_key(&self, out: &mut Vec<u8>) {
        write_decimal(self.card_id.into(), 0, false, out);
    }

    /// Payments as a batch of [`Payment::columns`].
    ///
    /// # Errors
    /// XX000 if the columns do not make a batch, which would be a bug.
    pub fn batch(payments: &[Self]) -> Result<RecordBatch> {
        fn ints(payments: &[Payment], value: impl Fn(&Payment) -> i64) -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(payments.iter().map(value)))
        }
        fn texts(payments: &[Payment], value: impl Fn(&Payment) -> &'static str) -> ArrayRef {
            Arc::new(StringViewArray::from_iter_values(payments.iter().map(value)))
        }
        fn floats(payments: &[Payment], value: impl Fn(&Payment) -> f64) -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(payments.iter().map(value)))
        }
        let amounts = Decimal128Array::from_iter_values(payments.iter().map(|p| p.amount_cents.into()));
        let merchants = payments.iter().map(|p| format!("{} {}", p.merchant.0, p.merchant.1));
        let columns: Vec<ArrayRef> = vec![
            ints(payments, |p| p.txn_id),
            ints(payments, |p| p.card_id),
            ints(payments, |p| p.account_id),
            Arc::new(amounts.with_precision_and_scale(12, 2)?),
            texts(payments, |p| p.currency),
            texts(payments, |p| p.country),
            texts(payments, |p| p.city),
            Arc::new(StringViewArray::from_iter_values(merchants)),
            Arc::new(Int32Array::from_iter_values(payments.iter().map(|p| p.mcc))),
            floats(payments, |p| p.lat),
            floats(payments, |p| p.lon),
            Arc::new(TimestampMicrosecondArray::from_iter_values(payments.iter().map(|p| p.ts_us))),
        ];
        Ok(RecordBatch::try_new(columns_schema(&Self::columns()), columns)?)
    }
}

impl PartialEq for Planted {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Planted {}

impl PartialOrd for Planted {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planted {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.ts_us, self.fraud, self.order).cmp(&(other.ts_us, other.fraud, other.order))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::format::{Record, RecordFormat};
    use millstream_catalog::object::Format;

    fn stream(options: PaymentsOptions, n: usize) -> (Vec<Payment>, Vec<Fraud>) {
        let mut payments = Payments::new(options);
        let all = payments.next_payments(n);
        (all, payments.frauds().to_vec())
    }

    #[test]
    fn a_seed_gives_the_same_stream_in_order_of_time() {
        let (a, frauds_a) = stream(PaymentsOptions::default(), 20_000);
        let (b, frauds_b) = stream(PaymentsOptions::default(), 20_000);
        assert!(a == b && frauds_a == frauds_b);
        let (c, _) = stream(PaymentsOptions { seed: 2, ..PaymentsOptions::default() }, 20_000);
        assert!(a != c);
        assert!(a.is_sorted_by_key(|p| p.ts_us) && a.iter().map(|p| p.txn_id).eq(1..=20_000));
        let seconds = (a[19_999].ts_us - a[0].ts_us) as f64 / 1e6;
        assert!((38.0..40.5).contains(&seconds), "{seconds} s of 500 payments each");
    }

    #[test]
    fn json_and_batch_say_the_same() {
        let (payments, _) = stream(PaymentsOptions::default(), 3000);
        let format =
            Format { format: "plain".into(), encode: "json".into(), options: BTreeMap::new(), ..Format::default() };
        let columns = Payment::columns();
        let mut decoder = RecordFormat::of_columns(&columns, &format)
            .unwrap()
            .decoder(&(0..columns.len()).collect::<Vec<_>>())
            .unwrap();
        let mut bytes = 0;
        for payment in &payments {
            let mut text = Vec::new();
            payment.write_json(&mut text);
            bytes += text.len();
            assert_eq!(decoder.append(&Record { payload: Some(&text), ..Record::default() }), Ok(()));
        }
        assert_eq!(decoder.finish().unwrap().batch, Payment::batch(&payments).unwrap());
        assert!((200..280).contains(&(bytes / payments.len())), "{} bytes each", bytes / payments.len());
        assert!(
            Payment::sql_columns()
                .starts_with("txn_id bigint, card_id bigint, account_id bigint, amount numeric(12,2)")
        );
    }

    #[test]
    fn frauds_are_planted_with_the_payments_that_make_them() {
        let options = PaymentsOptions { honest_per_fraud: Some(2000), ..PaymentsOptions::default() };
        let (payments, frauds) = stream(options, 300_000);
        let by_id: BTreeMap<_, _> = payments.iter().map(|p| (p.txn_id, p)).collect();
        let mut kinds = BTreeMap::new();
        for fraud in frauds.iter().filter(|f| f.is_complete()) {
            *kinds.entry(format!("{:?}", fraud.kind)).or_insert(0) += 1;
            let own: Vec<_> = fraud.txn_ids.iter().map(|id| by_id[id]).collect();
            assert_eq!((own[0].ts_us, own[own.len() - 1].ts_us), (fraud.first_us, fraud.last_us));
            let span_s = (fraud.last_us - fraud.first_us) / 1_000_000;
            match fraud.kind {
                FraudKind::CardTesting => {
                    assert!(own.iter().all(|p| Some(p.card_id) == fraud.card_id && p.amount_cents < 200));
                    assert!(own.len() >= 12 && span_s <= 40);
                }
                FraudKind::ImpossibleTravel => {
                    assert!(own.iter().all(|p| Some(p.card_id) == fraud.card_id));
                    assert!(own[1..].iter().all(|p| p.country != own[0].country) && span_s <= 360);
                }
                FraudKind::Mule => {
                    assert!(own.iter().all(|p| Some(p.account_id) == fraud.account_id && p.mcc == 4829));
                    let cards: BTreeSet<_> = own.iter().map(|p| p.card_id).collect();
                    assert!(own.len() >= 15 && cards.len() > 10 && span_s <= 240);
                }
            }
        }
        assert!(kinds.len() == 3 && kinds.values().all(|n| *n > 20), "{kinds:?}");
        let planted: usize = frauds.iter().map(|f| f.txn_ids.len()).sum();
        assert!(planted < payments.len() / 50, "{planted} payments of frauds");
    }

    #[test]
    fn a_traveller_is_silent_on_the_way() {
        let options = PaymentsOptions {
            start_us: DAY_US - 60_000_000,
            rate: 100.0,
            cards: 200,
            honest_per_fraud: None,
            ..PaymentsOptions::default()
        };
        let (payments, _) = stream(options, 12_000);
        let mut places = BTreeMap::<_, BTreeSet<_>>::new();
        for p in &payments {
            places.entry(p.card_id).or_default().insert(p.city);
        }
        assert!(payments[11_999].ts_us > DAY_US && places.len() > 150 && places.values().all(|p| p.len() == 1));
    }

    #[test]
    fn a_stream_that_continues_does_not_repeat() {
        let (first, _) = stream(PaymentsOptions::default(), 1000);
        let (second, _) = stream(PaymentsOptions { first_txn_id: 1001, ..PaymentsOptions::default() }, 1000);
        assert_eq!(second[0].txn_id, 1001);
        let same = first.iter().zip(&second).filter(|(a, b)| a.card_id == b.card_id).count();
        assert!(same < 50, "{same} of 1000 payments are by the same card as before");
    }

    #[test]
    fn honest_cards_stay_where_they_are() {
        let options = PaymentsOptions { honest_per_fraud: None, ..PaymentsOptions::default() };
        let (payments, frauds) = stream(options, 100_000);
        assert!(frauds.is_empty());
        let mut countries = BTreeMap::<_, BTreeSet<_>>::new();
        for p in &payments {
            countries.entry(p.card_id).or_default().insert(p.country);
        }
        assert!(countries.len() > 20_000 && countries.values().all(|c| c.len() == 1));
        let small = payments.iter().filter(|p| p.amount_cents < 200).count();
        assert!(small < payments.len() / 20, "{small} tiny payments");
    }
}
