//! An endless, reproducible stream of card payments into a Kafka topic, which can be paused to take stock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::kafka::{Producer, Record};

pub const PARTITIONS: i32 = 3;
pub const CARDS: u64 = 400;
/// One message in this many cannot be decoded.
const BROKEN_EVERY: u64 = 997;
/// Event time that passes from one payment to the next.
const STEP_MS: u64 = 6;
/// Payments come at most this much out of order; less than the source's watermark delay, so that none is late.
const DISORDER_MS: u64 = 3000;

/// Payment number `n`, of which everything follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub txn_id: u64,
    pub card_id: u64,
    /// Hundredths.
    pub amount_cents: u64,
    pub ts_ms: u64,
}

impl Payment {
    /// `None` if message `n` is one of the broken ones.
    pub fn of(n: u64) -> Option<Self> {
        let scrambled = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        (n % BROKEN_EVERY != 7).then(|| Payment {
            txn_id: n,
            card_id: scrambled % CARDS,
            amount_cents: scrambled / CARDS % 100_000,
            ts_ms: 10_000 + n * STEP_MS - scrambled % DISORDER_MS,
        })
    }

    fn json(&self) -> String {
        let (second, millisecond) = (self.ts_ms / 1000, self.ts_ms % 1000);
        let (day, hour, minute, second) = (1 + second / 86_400, second / 3600 % 24, second / 60 % 60, second % 60);
        format!(
            "{{\"txn_id\":{},\"card_id\":{},\"amount\":{}.{:02},\"ts\":\"2024-05-{day:02} {hour:02}:{minute:02}:{second:02}.{millisecond:03}\"}}",
            self.txn_id,
            self.card_id,
            self.amount_cents / 100,
            self.amount_cents % 100,
        )
    }
}

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    stop: AtomicBool,
    paused: Mutex<Paused>,
    changed: Condvar,
}

#[derive(Default)]
struct Paused {
    wanted: bool,
    reached: bool,
}

/// A thread that sends payments until it is dropped.
pub struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Sends about `per_second` messages a second, spread over the topic's partitions.
    pub fn start(broker: &str, topic: &str, per_second: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, broker, topic) = (shared.clone(), broker.to_string(), topic.to_string());
        let thread = std::thread::spawn(move || feed(&theirs, &broker, &topic, per_second));
        Feeder { shared, thread: Some(thread) }
    }

    /// Stops sending; returns when the broker has everything: the number of messages, broken ones included.
    pub fn pause(&self) -> u64 {
        let mut paused = self.shared.paused.lock().expect("no holder panics");
        paused.wanted = true;
        while !paused.reached {
            paused = self.shared.changed.wait(paused).expect("no holder panics");
        }
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Goes on sending.
    pub fn resume(&self) {
        let mut paused = self.shared.paused.lock().expect("no holder panics");
        *paused = Paused::default();
        self.shared.changed.notify_all();
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.resume();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn feed(shared: &Shared, broker: &str, topic: &str, per_second: u64) {
    let producer = Producer::to(broker);
    let mut n = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        let mut paused = shared.paused.lock().expect("no holder panics");
        if paused.wanted {
            producer.flush();
            // Said again after each wake: the next pause may come before this thread saw the end of the last one.
            while paused.wanted {
                paused.reached = true;
                shared.changed.notify_all();
                paused = shared.changed.wait(paused).expect("no holder panics");
            }
        }
        drop(paused);
        for _ in 0..per_second.div_ceil(100) {
            let payload = Payment::of(n).map_or_else(|| format!("{{\"txn_id\":{n},"), |payment| payment.json());
            producer.send(topic, &Record::of((n % PARTITIONS as u64) as i32, payload));
            n += 1;
            shared.sent.store(n, Ordering::SeqCst);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
