//! The public Nexmark model (Tucker, Tufte, Papadimos, Maier: "NEXMark – A Benchmark for Queries over Data Streams", in the
//! form that Apache Beam gave it): of 50 consecutive events the first is a person, three are auctions, 46 are bids.
//!
//! Each value is a function of the seed and the event's number, with random numbers of its own: an event does not depend on
//! the events before it, nor a value on which others are asked for. Event times are as fine as a timestamp holds them, in
//! microseconds, where the original rounds to milliseconds.

use std::sync::LazyLock;

use crate::generator::rng::{Rng, mix};

/// Events of each kind among 50.
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;
const ROUND: u64 = PERSONS + AUCTIONS + BIDS;

/// Ids of persons and of auctions start here.
const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: i64 = 10;
const CATEGORIES: u64 = 5;
/// The last persons who sell and bid.
const ACTIVE_PERSONS: u64 = 1000;
/// The last auctions that are bid on.
const OPEN_AUCTIONS: u64 = 100;
/// Ids ahead of the last one that may be named before they exist.
const LEAD: u64 = 10;
/// One hot seller, bidder and auction among so many ids.
const HOT_EVERY: u64 = 100;
/// All but one of so many are by the hot seller, by the hot bidder, for the hot auction, on a hot channel.
const HOT_SELLER: u64 = 4;
const HOT_BIDDER: u64 = 4;
const HOT_AUCTION: u64 = 2;
const HOT_CHANNEL: u64 = 2;
/// Channels beside the hot ones.
const CHANNELS: u64 = 10_000;

/// Average bytes that `extra` fills an event up to.
const PERSON_BYTES: usize = 200;
const AUCTION_BYTES: usize = 500;
const BID_BYTES: usize = 100;

const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

/// Pages of the channels, the hot ones first: the same whatever the seed.
static URLS: LazyLock<Vec<String>> = LazyLock::new(|| (0..HOT_CHANNELS.len() as u64 + CHANNELS).map(url).collect());

/// What an event is; the numbers are those of column `event_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Person = 0,
    Auction = 1,
    Bid = 2,
}

impl Kind {
    /// What event `n` is.
    pub fn of(n: u64) -> Self {
        match n % ROUND {
            0..PERSONS => Self::Person,
            place if place < PERSONS + AUCTIONS => Self::Auction,
            _ => Self::Bid,
        }
    }
}

/// What random numbers are for: each use has its own.
#[derive(Debug, Clone, Copy)]
enum Use {
    Name,
    Email,
    Card,
    City,
    State,
    Item,
    Description,
    InitialBid,
    Reserve,
    Expires,
    Seller,
    Category,
    Auction,
    Bidder,
    Price,
    Channel,
    Extra,
}

/// A stream of events.
#[derive(Debug, Clone)]
pub(super) struct Model {
    key: u64,
    first_us: i64,
    /// Events a second of event time.
    event_rate: i64,
}

/// The values of event `n`. Those of a kind are asked only for events of that kind; texts are appended.
impl Model {
    pub fn new(seed: u64, first_us: i64, event_rate: i64) -> Self {
        Self { key: mix(seed ^ 0x006e_6578_6d61_726b), first_us, event_rate }
    }

    /// Whether the times of so many events are timestamps.
    pub fn can_hold(&self, events: i64) -> bool {
        // An auction is over within twice the time of the auctions that are open.
        let last = events.saturating_add(3 * (OPEN_AUCTIONS * ROUND) as i64);
        let us = i128::from(last) * 1_000_000 / i128::from(self.event_rate) + i128::from(self.first_us);
        us + 1000 < i128::from(i64::MAX)
    }

    /// Microseconds since 1970.
    pub fn date_time(&self, n: u64) -> i64 {
        self.first_us + (i128::from(n) * 1_000_000 / i128::from(self.event_rate)) as i64
    }

    /// Fills the event up to the average size of its kind, give or take a fifth.
    pub fn extra(&self, n: u64, out: &mut String) {
        let mut text = String::new();
        let (bytes, average) = match Kind::of(n) {
            Kind::Person => {
                self.name(n, &mut text);
                self.email_address(n, &mut text);
                self.credit_card(n, &mut text);
                self.city(n, &mut text);
                self.state(n, &mut text);
                (8 + text.len(), PERSON_BYTES)
            }
            Kind::Auction => {
                self.item_name(n, &mut text);
                self.description(n, &mut text);
                (48 + text.len(), AUCTION_BYTES)
            }
            Kind::Bid => (32, BID_BYTES),
        };
        let room = average.saturating_sub(bytes);
        let fifth = (room + 2) / 5;
        let mut rng = self.rng(n, Use::Extra);
        let more = if fifth > 0 { rng.below(2 * fifth as u64) as usize } else { 0 };
        letters(&mut rng, room - fifth + more, out);
    }

    pub fn person_id(&self, n: u64) -> i64 {
        id(last_person(n))
    }

    pub fn name(&self, n: u64, out: &mut String) {
        let mut rng = self.rng(n, Use::Name);
        out.push_str(pick(&mut rng, &FIRST_NAMES));
        out.push(' ');
        out.push_str(pick(&mut rng, &LAST_NAMES));
    }

    pub fn email_address(&self, n: u64, out: &mut String) {
        let mut rng = self.rng(n, Use::Email);
        words(&mut rng, 7, out);
        out.push('@');
        words(&mut rng, 5, out);
        out.push_str(".com");
    }

    pub fn credit_card(&self, n: u64, out: &mut String) {
        let mut rng = self.rng(n, Use::Card);
        for group in 0..4 {
            if group > 0 {
                out.push(' ');
            }
            let digits = rng.below(10_000);
            out.push_str(&format!("{digits:04}"));
        }
    }

    pub fn city(&self, n: u64, out: &mut String) {
        out.push_str(pick(&mut self.rng(n, Use::City), &CITIES));
    }

    pub fn state(&self, n: u64, out: &mut String) {
        out.push_str(pick(&mut self.rng(n, Use::State), &STATES));
    }

    pub fn auction_id(&self, n: u64) -> i64 {
        id(last_auction(n))
    }

    pub fn item_name(&self, n: u64, out: &mut String) {
        words(&mut self.rng(n, Use::Item), 20, out);
    }

    pub fn description(&self, n: u64, out: &mut String) {
        words(&mut self.rng(n, Use::Description), 100, out);
    }

    pub fn initial_bid(&self, n: u64) -> i64 {
        price(&mut self.rng(n, Use::InitialBid))
    }

    pub fn reserve(&self, n: u64) -> i64 {
        self.initial_bid(n) + price(&mut self.rng(n, Use::Reserve))
    }

    /// On average an auction lasts until it is no longer among those that are bid on.
    pub fn expires(&self, n: u64) -> i64 {
        let now = self.date_time(n);
        let horizon = self.date_time(n + OPEN_AUCTIONS * ROUND / AUCTIONS) - now;
        now + 1000 + self.rng(n, Use::Expires).below((2 * horizon as u64).max(1)) as i64
    }

    pub fn seller(&self, n: u64) -> i64 {
        let mut rng = self.rng(n, Use::Seller);
        match rng.below(HOT_SELLER) {
            0 => id(some_person(&mut rng, n)),
            _ => id(last_person(n) / HOT_EVERY * HOT_EVERY),
        }
    }

    pub fn category(&self, n: u64) -> i64 {
        FIRST_CATEGORY + self.rng(n, Use::Category).below(CATEGORIES) as i64
    }

    pub fn auction(&self, n: u64) -> i64 {
        let mut rng = self.rng(n, Use::Auction);
        match rng.below(HOT_AUCTION) {
            0 => id(some_auction(&mut rng, n)),
            _ => id(last_auction(n) / HOT_EVERY * HOT_EVERY),
        }
    }

    /// The hot bidder is the person after the hot seller.
    pub fn bidder(&self, n: u64) -> i64 {
        let mut rng = self.rng(n, Use::Bidder);
        match rng.below(HOT_BIDDER) {
            0 => id(some_person(&mut rng, n)),
            _ => id(last_person(n) / HOT_EVERY * HOT_EVERY + 1),
        }
    }

    pub fn price(&self, n: u64) -> i64 {
        price(&mut self.rng(n, Use::Price))
    }

    pub fn channel(&self, n: u64, out: &mut String) {
        let channel = self.channel_number(n);
        match HOT_CHANNELS.get(channel) {
            Some(name) => out.push_str(name),
            None => out.push_str(&format!("channel-{}", channel - HOT_CHANNELS.len())),
        }
    }

    pub fn url(&self, n: u64, out: &mut String) {
        out.push_str(&URLS[self.channel_number(n)]);
    }

    fn channel_number(&self, n: u64) -> usize {
        let (mut rng, hot) = (self.rng(n, Use::Channel), HOT_CHANNELS.len());
        match rng.below(HOT_CHANNEL) {
            0 => hot + rng.below(CHANNELS) as usize,
            _ => rng.below(hot as u64) as usize,
        }
    }

    fn rng(&self, n: u64, of: Use) -> Rng {
        Rng::new(self.key ^ mix(n.wrapping_mul(32).wrapping_add(of as u64)))
    }
}

fn id(number: u64) -> i64 {
    (FIRST_ID + number) as i64
}

/// The number of the last person up to event `n`: each round begins with its only one.
fn last_person(n: u64) -> u64 {
    n / ROUND
}

/// The number of the last auction up to event `n`, which is no person.
fn last_auction(n: u64) -> u64 {
    n / ROUND * AUCTIONS + (n % ROUND - PERSONS).min(AUCTIONS - 1)
}

fn some_person(rng: &mut Rng, n: u64) -> u64 {
    let persons = last_person(n) + 1;
    let active = persons.min(ACTIVE_PERSONS);
    persons - active + rng.below(active + LEAD)
}

fn some_auction(rng: &mut Rng, n: u64) -> u64 {
    let last = last_auction(n);
    let first = last.saturating_sub(OPEN_AUCTIONS);
    first + rng.below(last - first + 1 + LEAD)
}

/// Cents, from 1 to 1,000,000 units, their logarithm uniform.
fn price(rng: &mut Rng) -> i64 {
    (10f64.powf(rng.unit() * 6.0) * 100.0).round() as i64
}

fn pick<'a>(rng: &mut Rng, words: &[&'a str]) -> &'a str {
    words[rng.below(words.len() as u64) as usize]
}

/// From three letters to one less than `limit`, one in 13 a space, trimmed.
fn words(rng: &mut Rng, limit: u64, out: &mut String) {
    let start = out.len();
    for _ in 0..3 + rng.below(limit - 3) {
        match letter_or_gap(rng) {
            None if out.len() == start => {}
            None => out.push(' '),
            Some(letter) => out.push(letter),
        }
    }
    let end = out[start..].trim_end().len();
    out.truncate(start + end);
}

/// So many letters, eight from each random number.
fn letters(rng: &mut Rng, count: usize, out: &mut String) {
    out.reserve(count);
    let mut left = count;
    while left > 0 {
        let bytes = rng.next().to_le_bytes();
        out.extend(bytes.iter().take(left).map(|byte| letter(u64::from(*byte) * 26 / 256)));
        left -= left.min(bytes.len());
    }
}

fn letter(number: u64) -> char {
    char::from(b'a' + number as u8)
}

fn letter_or_gap(rng: &mut Rng) -> Option<char> {
    match rng.below(13) {
        0 => None,
        _ => Some(letter(rng.below(26))),
    }
}

/// The page of a channel; nine in ten of those that are not hot say their id.
fn url(channel: u64) -> String {
    let mut rng = Rng::new(mix(channel ^ 0x75_726c));
    let mut url = "https://www.nexmark.com/".to_string();
    for _ in 0..3 {
        let count = 3 + rng.below(2);
        url.extend((0..count).map(|_| letter_or_gap(&mut rng).unwrap_or('_')));
        url.push('/');
    }
    url.push_str("item.htm?query=1");
    if let Some(number) = channel.checked_sub(HOT_CHANNELS.len() as u64)
        && rng.below(10) > 0
    {
        let id = i64::from((number as i32).reverse_bits()).abs();
        url.push_str(&format!("&channel_id={id}"));
    }
    url
}
