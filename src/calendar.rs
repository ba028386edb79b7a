//! When scheduled SQL is due: a pure calendar of cron expressions and intervals, in a time zone, that asks no clock.
//!
//! A cron expression speaks of what a clock on the wall shows, so the two days a year on which that clock is changed need a
//! rule. It is that of Vixie cron, which PostgreSQL's users know:
//!
//! | expression | the clock is put forward | the clock is put back |
//! |---|---|---|
//! | names its times: no `*` in seconds, minutes and hours (`30 2 * * *`) | a time that is left out is due once, at the moment the clock jumps | a time that is shown twice is due once, the first time |
//! | goes with the clock (`*/15 * * * *`) | what is left out is not due | what is shown twice is due twice |
//!
//! An interval counts time as it passes, and is due at its multiples since 1970-01-01 00:00 UTC, so that it is due at the same
//! moments whenever it was made and however often the server was started.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Year};
use jiff::Timestamp;
use jiff::civil::DateTime as Civil;
use jiff::tz::{Offset, TimeZone};

use crate::error::{Error, Result, sqlstate};

/// Shortest interval.
const EVERY_US_MIN: i64 = 1_000_000;
/// Longest interval: longer ones would most likely be meant by the calendar.
const EVERY_US_MAX: i64 = 366 * 86_400 * 1_000_000;
/// The latest moment that is asked about: year 4000 and later is nobody's schedule.
const YEAR_MAX: i16 = 4000;

/// The moments at which something is due.
#[derive(Clone)]
pub struct Calendar {
    rule: Rule,
    zone: TimeZone,
}

#[derive(Clone)]
enum Rule {
    Cron {
        cron: Box<Cron>,
        /// Whether it goes with the clock, rather than name its times.
        is_wildcard: bool,
    },
    /// Microseconds.
    Every(i64),
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Cron { cron, .. } => write!(f, "cron '{cron}'"),
            Rule::Every(us) => write!(f, "every {us} us"),
        }
    }
}

/// What was due in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The first and the last moment, microseconds since 1970.
    pub first_us: i64,
    pub last_us: i64,
    /// How many there were, at most [`Due::COUNT_MAX`].
    pub count: u32,
}

impl Due {
    /// More are not counted.
    pub const COUNT_MAX: u32 = 1000;
}

impl Calendar {
    /// A cron expression of five fields (minute, hour, day of month, month, day of week), or six with seconds in front, by
    /// the clock of a time zone.
    ///
    /// # Errors
    /// 22023 for an expression that cannot be read or is never due, and for an unknown time zone.
    pub fn cron(expression: &str, zone: &str) -> Result<Self> {
        let wrong = |why: String| {
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid cron expression \"{expression}\": {why}"))
                .with_hint(
                    "the fields are minute, hour, day of month, month, day of week, as in '15 2 * * *', or six with \
                     seconds in front",
                )
        };
        let parser = CronParser::builder().year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|e| wrong(e.to_string().to_lowercase()))?;
        let rule = Rule::Cron { cron: Box::new(cron), is_wildcard: is_wildcard(expression) };
        let calendar = Self { rule, zone: time_zone(zone)? };
        match calendar.next_after(0) {
            Some(_) => Ok(calendar),
            None => Err(wrong("it is never due".into())),
        }
    }

    /// The multiples of an interval since 1970-01-01 00:00 UTC.
    ///
    /// # Errors
    /// 22023 for an interval below a second or above 366 days.
    pub fn every(period_us: i64) -> Result<Self> {
        if !(EVERY_US_MIN..=EVERY_US_MAX).contains(&period_us) {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "the interval of a schedule is out of range")
                .with_hint("use an interval from 1 second to 366 days"));
        }
        Ok(Self { rule: Rule::Every(period_us), zone: TimeZone::UTC })
    }

    /// The next moment after `after_us`, both in microseconds since 1970. `None` if there is none before the year 4000.
    pub fn next_after(&self, after_us: i64) -> Option<i64> {
        match &self.rule {
            Rule::Every(period) => after_us.div_euclid(*period).checked_add(1)?.checked_mul(*period),
            Rule::Cron { cron, is_wildcard: true } => self.next_with_clock(cron, after_us),
            Rule::Cron { cron, is_wildcard: false } => self.next_by_name(cron, after_us),
        }
    }

    /// What is due after `after_us` and not after `until_us`.
    pub fn due(&self, after_us: i64, until_us: i64) -> Option<Due> {
        let first_us = self.next_after(after_us).filter(|first| *first <= until_us)?;
        let mut due = Due { first_us, last_us: first_us, count: 1 };
        while due.count < Due::COUNT_MAX {
            match self.next_after(due.last_us).filter(|next| *next <= until_us) {
                Some(next) => (due.last_us, due.count) = (next, due.count + 1),
                None => return Some(due),
            }
        }
        due.last_us = self.last_until(due.last_us, until_us);
        Some(due)
    }

    /// The last moment not after `until_us`, of which `known_us` is one that is due. Looks back over longer and longer
    /// stretches, each of which is searched from its start.
    fn last_until(&self, known_us: i64, until_us: i64) -> i64 {
        let mut stretch_us = 60 * 1_000_000;
        while stretch_us < until_us - known_us {
            let mut last = None;
            while let Some(next) = self.next_after(last.unwrap_or(until_us - stretch_us)).filter(|n| *n <= until_us) {
                last = Some(next);
            }
            if let Some(last) = last {
                return last;
            }
            stretch_us *= 32;
        }
        let mut last = known_us;
        while let Some(next) = self.next_after(last).filter(|next| *next <= until_us) {
            last = next;
        }
        last
    }

    /// An expression that goes with the clock: each stretch of time between two changes of the clock is one of its own.
    fn next_with_clock(&self, cron: &Cron, after_us: i64) -> Option<i64> {
        let mut from = timestamp(after_us)?;
        let mut inclusive = false;
        loop {
            let offset = self.zone.to_offset(from);
            let next = offset.to_timestamp(next_civil(cron, offset.to_datetime(from), inclusive)?).ok()?;
            match self.zone.following(from).next() {
                Some(change) if next >= change.timestamp() => (from, inclusive) = (change.timestamp(), true),
                _ => return Some(next.as_microsecond()),
            }
        }
    }

    /// An expression that names its times.
    fn next_by_name(&self, cron: &Cron, after_us: i64) -> Option<i64> {
        let after = timestamp(after_us)?;
        // What is due later than this moment has no earlier time by the clock; an hour more does not harm.
        let margin = jiff::SignedDuration::from_hours(1);
        let mut civil = self.zone.to_datetime(after).checked_sub(margin).ok()?;
        loop {
            civil = next_civil(cron, civil, false)?;
            let due = self.moment(civil)?;
            if due > after {
                return Some(due.as_microsecond());
            }
        }
    }

    /// When the clock shows a time first, or jumps over it.
    fn moment(&self, civil: Civil) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        match ambiguous.offset() {
            jiff::tz::AmbiguousOffset::Gap { after, .. } => {
                let before_jump = after.to_timestamp(civil).ok()?;
                Some(self.zone.following(before_jump).next()?.timestamp())
            }
            _ => ambiguous.earlier().ok(),
        }
    }
}

/// The next time by the clock that an expression names.
fn next_civil(cron: &Cron, from: Civil, inclusive: bool) -> Option<Civil> {
    // The library finds the time by its fields alone; UTC has no time that is left out or shown twice.
    let seconds = Offset::UTC.to_timestamp(from).ok()?.as_second();
    let is_whole = from.subsec_nanosecond() == 0;
    let start: DateTime<Utc> = DateTime::from_timestamp(seconds, 0)?;
    let found: NaiveDateTime = cron.find_next_occurrence(&start, inclusive && is_whole).ok()?.naive_utc();
    let found = Timestamp::from_second(found.and_utc().timestamp()).ok()?;
    let found = Offset::UTC.to_datetime(found);
    (found.year() < YEAR_MAX).then_some(found)
}

/// Whether the fields of the time of day have a `*`.
fn is_wildcard(expression: &str) -> bool {
    let lower = expression.trim().to_lowercase();
    if lower.starts_with('@') {
        return lower == "@hourly";
    }
    let fields: Vec<&str> = lower.split_whitespace().collect();
    let of_time = if fields.len() > 5 { 3 } else { 2 };
    fields.iter().take(of_time).any(|field| field.contains('*'))
}

/// A time zone by its IANA name, or an offset in hours.
///
/// # Errors
/// 22023 for an unknown name.
pub fn time_zone(name: &str) -> Result<TimeZone> {
    zone(name).ok_or_else(|| {
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("time zone \"{name}\" not recognized"))
            .with_hint("use a name of the IANA database, as in 'Europe/London', or 'UTC'")
    })
}

/// A zone by IANA name, or an offset in hours as PostgreSQL takes it (`+02`, `-5`, `+05:30`).
pub fn zone(name: &str) -> Option<TimeZone> {
    let name = name.trim();
    if matches!(name.to_lowercase().as_str(), "utc" | "gmt" | "z" | "zulu" | "default" | "local") {
        return Some(TimeZone::UTC);
    }
    if let Ok(zone) = TimeZone::get(name) {
        return Some(zone);
    }
    let (sign, rest) = match name.as_bytes().first()? {
        b'-' => (-1, &name[1..]),
        b'+' => (1, &name[1..]),
        _ => (1, name),
    };
    let (hours, minutes) = rest.split_once(':').unwrap_or((rest, "0"));
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let seconds = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?;
    Some(TimeZone::fixed(Offset::from_seconds(sign * seconds).ok()?))
}

fn timestamp(us: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(us).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    /// The moments that are due in a stretch of time, in UTC.
    fn due(expression: &str, zone: &str, from: &str, until: &str) -> Vec<String> {
        let calendar = Calendar::cron(expression, zone).unwrap();
        let (mut now, until) = (at(from), at(until));
        let mut all = Vec::new();
        while let Some(next) = calendar.next_after(now).filter(|next| *next <= until) {
            all.push(Timestamp::from_microsecond(next).unwrap().to_string());
            now = next;
        }
        all
    }

    #[test]
    fn five_and_six_fields() {
        let found = due("15 2 * * *", "UTC", "2026-01-01T02:15:00Z", "2026-01-03T12:00:00Z");
        assert_eq!(found, ["2026-01-02T02:15:00Z", "2026-01-03T02:15:00Z"]);
        let found = due("*/20 0 0 1 1 *", "UTC", "2025-12-31T23:59:59.9Z", "2026-06-01T00:00:00Z");
        assert_eq!(found, ["2026-01-01T00:00:00Z", "2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]);
        let found = due("0 9 * * MON-FRI", "UTC", "2026-01-02T09:00:00Z", "2026-01-06T10:00:00Z");
        assert_eq!(found, ["2026-01-05T09:00:00Z", "2026-01-06T09:00:00Z"]);
        // The last day of a month, also in a leap year.
        let found = due("0 0 L * *", "UTC", "2028-02-01T00:00:00Z", "2028-03-31T12:00:00Z");
        assert_eq!(found, ["2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"]);
        assert_eq!(due("@daily", "UTC", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), ["2026-01-02T00:00:00Z"]);
    }

    #[test]
    fn a_named_time_in_a_gap_is_due_once_when_the_clock_jumps() {
        // London: 01:00 becomes 02:00 at 01:00 UTC.
        let found = due("30 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(found, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        // Two times of the gap are due together, and so once.
        let found = due("0,30 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        assert_eq!(found, ["2026-03-29T01:00:00Z"]);
        // New York: 02:00 becomes 03:00 at 07:00 UTC.
        let found = due("15 2 * * *", "America/New_York", "2026-03-08T00:00:00Z", "2026-03-09T12:00:00Z");
        assert_eq!(found, ["2026-03-08T07:00:00Z", "2026-03-09T06:15:00Z"]);
        // Lord Howe Island: half an hour, 02:00 becomes 02:30 at 15:30 UTC of the day before.
        let found = due("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-04T16:00:00Z");
        assert_eq!(found, ["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"]);
        // Samoa had no 30 December 2011.
        let found = due("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", "2011-12-31T12:00:00Z");
        assert_eq!(found, ["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]);
    }

    #[test]
    fn a_named_time_in_an_overlap_is_due_once_the_first_time() {
        // London: 02:00 becomes 01:00 at 01:00 UTC.
        let found = due("30 1 * * *", "Europe/London", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(found, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // Asked between the two, it is past.
        let calendar = Calendar::cron("30 1 * * *", "Europe/London").unwrap();
        assert_eq!(calendar.next_after(at("2026-10-25T01:10:00Z")), Some(at("2026-10-26T01:30:00Z")));
        let found = due("30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", "2026-11-02T12:00:00Z");
        assert_eq!(found, ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]);
        let found = due("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", "2026-04-05T16:00:00Z");
        assert_eq!(found, ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]);
    }

    #[test]
    fn an_expression_that_goes_with_the_clock_leaves_gaps_out_and_repeats_overlaps() {
        let found = due("*/30 * * * *", "Europe/London", "2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z");
        let half_hours =
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:00:00Z"];
        assert_eq!(found, half_hours);
        // Hour 1 is not shown on that day.
        let found = due("*/30 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", "2026-03-30T00:00:00Z");
        assert_eq!(found, ["2026-03-30T00:00:00Z"]);
        let found = due("0 * * * *", "Europe/London", "2026-10-24T23:30:00Z", "2026-10-25T02:00:00Z");
        assert_eq!(found, ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"]);
        let found = due("*/30 1 * * *", "Europe/London", "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        let twice = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"];
        assert_eq!(found, twice);
    }

    #[test]
    fn a_year_of_a_named_time_has_as_many_days() {
        for zone in ["Europe/London", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu"]
        {
            for expression in ["30 1 * * *", "30 2 * * *", "0 0 * * *", "59 23 * * *"] {
                let calendar = Calendar::cron(expression, zone).unwrap();
                let due = calendar.due(at("2026-01-01T12:00:00Z"), at("2027-01-01T12:00:00Z")).unwrap();
                assert_eq!(due.count, 365, "{expression} {zone}");
            }
        }
    }

    #[test]
    fn intervals_are_due_at_their_multiples() {
        let calendar = Calendar::every(300 * 1_000_000).unwrap();
        assert_eq!(calendar.next_after(at("2026-01-01T00:04:59Z")), Some(at("2026-01-01T00:05:00Z")));
        assert_eq!(calendar.next_after(at("2026-01-01T00:05:00Z")), Some(at("2026-01-01T00:10:00Z")));
        assert_eq!(calendar.next_after(at("1969-12-31T23:56:00Z")), Some(0));
        assert_eq!(Calendar::every(1).unwrap_err().sqlstate(), "22023");
    }

    #[test]
    fn what_was_due_is_counted_and_the_last_found_however_much_it_is() {
        let calendar = Calendar::cron("* * * * * *", "UTC").unwrap();
        let due = calendar.due(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:10.5Z")).unwrap();
        assert_eq!((due.first_us, due.last_us), (at("2026-01-01T00:00:01Z"), at("2026-01-01T00:00:10Z")));
        assert_eq!(due.count, 10);
        let due = calendar.due(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00.5Z")).unwrap();
        assert_eq!((due.last_us, due.count), (at("2026-01-01T00:00:00Z"), Due::COUNT_MAX));
        let rare = Calendar::cron("*/5 * 1 1 *", "UTC").unwrap();
        let due = rare.due(at("2000-01-01T00:00:00Z"), at("2026-12-01T00:00:00Z")).unwrap();
        assert_eq!(due.last_us, at("2026-01-01T23:55:00Z"));
        assert_eq!(rare.due(at("2026-01-02T00:00:00Z"), at("2026-12-01T00:00:00Z")), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for wrong in ["", "* * * *", "60 * * * *", "* * * * * * *", "a b c d e", "0 0 30 2 *", "@reboot"] {
            let error = Calendar::cron(wrong, "UTC").unwrap_err();
            assert_eq!(error.sqlstate(), "22023", "{wrong}");
            assert!(error.message().starts_with("invalid cron expression"), "{error}");
        }
        assert_eq!(Calendar::cron("* * * * *", "Mars/Olympus").unwrap_err().sqlstate(), "22023");
    }
}
