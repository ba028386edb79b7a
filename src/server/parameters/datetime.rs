//! Dates, times and intervals from their ISO texts, as clients send them for parameters.

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use jiff::civil;
use jiff::tz::{Offset, TimeZone};

const DAY_US: i64 = 86_400_000_000;

/// Days from 1970-01-01; a time of day behind the date is dropped, as PostgreSQL does.
pub fn date(text: &str) -> Option<i32> {
    timestamp(text).map(|us| us.div_euclid(DAY_US) as i32)
}

/// Microseconds from midnight of `04:05[:06[.789]]`.
pub fn time(text: &str) -> Option<i64> {
    if text == "24:00:00" || text == "24:00" {
        return Some(DAY_US);
    }
    let time: civil::Time = text.parse().ok()?;
    Some(time_us(time))
}

/// Microseconds from 1970-01-01; a zone in the text is read and ignored, as PostgreSQL does.
pub fn timestamp(text: &str) -> Option<i64> {
    let (local, _) = split_zone(text)?;
    Some(datetime_us(local))
}

/// Microseconds UTC of a text with a zone, or without one in `zone`.
pub fn timestamptz(text: &str, zone: &TimeZone) -> Option<i64> {
    let (local, named) = split_zone(text)?;
    let moment = named.as_ref().unwrap_or(zone).to_ambiguous_timestamp(local).compatible().ok()?;
    Some(moment.as_microsecond())
}

/// `1 year 2 mons 3 days 04:05:06.5`, `90 minutes`, `2 hours ago`, with a sign on any part.
pub fn interval(text: &str) -> Option<IntervalMonthDayNano> {
    let (text, ago) = match text.strip_suffix(" ago") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    // Months, days and nanoseconds, wide enough for any sum of parts.
    let (mut months, mut days, mut nanos) = (0_i128, 0_i128, 0_i128);
    let mut words = text.split_ascii_whitespace().peekable();
    words.peek()?;
    while let Some(word) = words.next() {
        if word.contains(':') {
            nanos += clock_ns(word)?;
            continue;
        }
        let end = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (number, unit) = match word.split_at(end) {
            (number, "") => (number, words.next()?),
            split => split,
        };
        let (value, scale) = super::numeric::parse(number)?.ok()?;
        let fraction = 10_i128.checked_pow(u32::try_from(scale.max(0)).ok()?)?;
        let value = value.checked_mul(10_i128.checked_pow(u32::try_from((-scale).max(0)).ok()?)?)?;
        let whole = |unit: i128| value.checked_mul(unit).filter(|v| v % fraction == 0).map(|v| v / fraction);
        match unit.to_ascii_lowercase().as_str() {
            "century" | "centuries" | "c" => months += whole(1_200)?,
            "decade" | "decades" => months += whole(120)?,
            "year" | "years" | "yr" | "yrs" | "y" => months += whole(12)?,
            "month" | "months" | "mon" | "mons" => months += whole(1)?,
            "week" | "weeks" | "w" => days += whole(7)?,
            "day" | "days" | "d" => {
                days += value / fraction;
                nanos += (value % fraction).checked_mul(86_400_000_000_000)? / fraction;
            }
            "hour" | "hours" | "hr" | "hrs" | "h" => nanos += value.checked_mul(3_600_000_000_000)? / fraction,
            "minute" | "minutes" | "min" | "mins" | "m" => nanos += value.checked_mul(60_000_000_000)? / fraction,
            "second" | "seconds" | "sec" | "secs" | "s" => nanos += value.checked_mul(1_000_000_000)? / fraction,
            "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" => {
                nanos += value.checked_mul(1_000_000)? / fraction;
            }
            "microsecond" | "microseconds" | "usec" | "usecs" | "us" => nanos += value.checked_mul(1_000)? / fraction,
            _ => return None,
        }
    }
    let sign = if ago { -1 } else { 1 };
    Some(IntervalMonthDayNano::new(
        i32::try_from(sign * months).ok()?,
        i32::try_from(sign * days).ok()?,
        // PostgreSQL keeps microseconds.
        i64::try_from(sign * (nanos / 1_000 * 1_000)).ok()?,
    ))
}

/// `[-]hh:mm[:ss[.ffffff]]` of any number of hours.
fn clock_ns(text: &str) -> Option<i128> {
    let (sign, text) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let mut parts = text.split(':');
    let hours: u32 = parts.next()?.parse().ok()?;
    let minutes: u32 = parts.next()?.parse().ok().filter(|m| *m < 60)?;
    let seconds = parts.next().unwrap_or("0");
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let whole: u32 = whole.parse().ok().filter(|s| *s < 60)?;
    if parts.next().is_some() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    let total = (i128::from(hours) * 60 + i128::from(minutes)) * 60 + i128::from(whole);
    Some(sign * (total * 1_000_000_000 + i128::from(nanos)))
}

/// A date with or without a time, and its zone if there is one.
fn split_zone(text: &str) -> Option<(civil::DateTime, Option<TimeZone>)> {
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    // The zone starts at the first sign or letter behind the time of day.
    let (local, zone) = match text.find(':') {
        None => (text, ""),
        Some(colon) => {
            let end = text[colon..].find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').map(|i| colon + i);
            text.split_at(end.unwrap_or(text.len()))
        }
    };
    let zone = match zone.trim_ascii() {
        "" => None,
        name => Some(parse_zone(name)?),
    };
    let local = match local.contains(':') {
        true => local.parse::<civil::DateTime>().ok()?,
        false => local.trim_ascii().parse::<civil::Date>().ok()?.to_datetime(civil::Time::midnight()),
    };
    let local = if before_christ { local.with().year(1 - local.year()).build().ok()? } else { local };
    Some((local, zone))
}

/// `Z`, `+05:30`, `-08`, `+0530`, `Europe/London`.
fn parse_zone(text: &str) -> Option<TimeZone> {
    if text.eq_ignore_ascii_case("z") {
        return Some(TimeZone::UTC);
    }
    let Some(sign) = text.strip_prefix(['+', '-']) else { return TimeZone::get(text).ok() };
    let digits: String = sign.chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 1 | 2 | 4 | 6) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize| digits.get(from..from + 2).map_or(Some(0), |d| d.parse::<i32>().ok());
    let hours = if digits.len() == 1 { digits.parse().ok()? } else { part(0)? };
    let seconds = hours * 3600 + part(2)? * 60 + part(4)?;
    let offset = Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds }).ok()?;
    Some(TimeZone::fixed(offset))
}

fn datetime_us(local: civil::DateTime) -> i64 {
    let days = local.date().since(civil::date(1970, 1, 1)).map_or(0, |span| i64::from(span.get_days()));
    days * DAY_US + time_us(local.time())
}

fn time_us(time: civil::Time) -> i64 {
    let seconds = (i64::from(time.hour()) * 60 + i64::from(time.minute())) * 60 + i64::from(time.second());
    seconds * 1_000_000 + i64::from(time.subsec_nanosecond()) / 1_000
}
