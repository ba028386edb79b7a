//! Dates, times and zones as text, by PostgreSQL's rules for ISO input.

use jiff::civil;
use jiff::tz::{Offset, TimeZone};

use crate::error::{Result, SqlError};

pub(crate) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(crate) const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// A session's time zone.
#[derive(Debug, Clone)]
pub(crate) struct Zone(TimeZone);

impl Zone {
    /// # Errors
    /// 22023 for an unknown name.
    pub(crate) fn new(name: &str) -> Result<Self> {
        if name.eq_ignore_ascii_case("utc") || name.eq_ignore_ascii_case("gmt") || name == "Z" || name == "+00:00" {
            return Ok(Self(TimeZone::UTC));
        }
        if let Some(seconds) = offset_seconds(name)
            && let Ok(offset) = Offset::from_seconds(seconds)
        {
            return Ok(Self(TimeZone::fixed(offset)));
        }
        TimeZone::get(name)
            .map(Self)
            .map_err(|_| SqlError::new("22023", format!("time zone \"{name}\" not recognized")))
    }

    /// Microseconds UTC of a local time. As in PostgreSQL, a time that the clock shows twice is the later one, and one that
    /// it leaves out is counted by the clock before.
    pub(crate) fn to_utc(&self, local_us: i64) -> Option<i64> {
        let zoned = self.0.to_ambiguous_timestamp(datetime(local_us)?).later().ok()?;
        Some(zoned.as_microsecond())
    }

    /// The zone's abbreviation at a time in microseconds UTC.
    pub(crate) fn abbreviation(&self, utc_us: i64) -> String {
        let Ok(timestamp) = jiff::Timestamp::from_microsecond(utc_us) else { return String::new() };
        self.0.to_offset_info(timestamp).abbreviation().to_string()
    }

    /// Local time of microseconds UTC, and the offset in seconds.
    pub(crate) fn to_local(&self, utc_us: i64) -> Option<(i64, i32)> {
        let offset = self.0.to_offset(jiff::Timestamp::from_microsecond(utc_us).ok()?).seconds();
        Some((utc_us.checked_add(i64::from(offset) * MICROS_PER_SECOND)?, offset))
    }
}

fn datetime(us: i64) -> Option<civil::DateTime> {
    let timestamp = jiff::Timestamp::from_microsecond(us).ok()?;
    Some(Offset::UTC.to_datetime(timestamp))
}

/// Days since 1970-01-01.
pub(crate) fn days(year: i64, month: i64, day: i64) -> Option<i32> {
    let date = civil::Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let epoch = civil::Date::constant(1970, 1, 1);
    Some(date.duration_since(epoch).as_hours() as i32 / 24)
}

/// Year, month and day of days since 1970-01-01, in the proleptic Gregorian calendar (Howard Hinnant's algorithm).
pub(crate) fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// What a date or time text says.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) days: Option<i32>,
    /// Microseconds since midnight.
    pub(crate) time_us: Option<i64>,
    /// Offset in seconds east of UTC.
    pub(crate) offset: Option<i32>,
    /// A zone's name instead of an offset.
    pub(crate) zone: Option<usize>,
}

/// Reads `[date] [T| ] [time] [offset | zone]`. `Err(false)`: no such form; `Err(true)`: a field is out of range. A zone
/// name's byte offset is in [`Parts::zone`].
pub(crate) fn parse(text: &str) -> Result<Parts, bool> {
    let trimmed = text.trim_end();
    let start = trimmed.len() - trimmed.trim_start().len();
    let mut rest = &trimmed[start..];
    let mut parts = Parts::default();
    if rest.is_empty() {
        return Err(false);
    }
    if rest.eq_ignore_ascii_case("epoch") {
        return Ok(Parts { days: Some(0), time_us: Some(0), offset: Some(0), zone: None });
    }
    if let Some((date, after)) = take_date(rest)? {
        parts.days = Some(date);
        rest = after;
        if let Some(after) = rest.strip_prefix(['T', 't']) {
            rest = after;
        } else {
            rest = rest.trim_start();
        }
    }
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        let (time, after) = take_time(rest)?;
        parts.time_us = Some(time);
        rest = after.trim_start();
    }
    if rest.is_empty() {
        return if parts.days.is_some() || parts.time_us.is_some() { Ok(parts) } else { Err(false) };
    }
    if rest.eq_ignore_ascii_case("z") || rest.eq_ignore_ascii_case("utc") || rest.eq_ignore_ascii_case("gmt") {
        parts.offset = Some(0);
    } else if let Some(offset) = offset_seconds(rest) {
        parts.offset = Some(offset);
    } else if rest.starts_with(|c: char| c.is_ascii_alphabetic()) && rest.contains('/') {
        parts.zone = Some(trimmed.len() - rest.len());
    } else {
        return Err(false);
    }
    Ok(parts)
}

/// `YYYY-MM-DD`, with an optional sign-free year of four or more digits.
fn take_date(text: &str) -> Result<Option<(i32, &str)>, bool> {
    let Some((year, rest)) = digits(text) else { return Ok(None) };
    let Some(rest) = rest.strip_prefix(['-', '/']) else { return Ok(None) };
    if year.len() < 4 {
        return Err(false);
    }
    let (month, rest) = digits(rest).ok_or(false)?;
    let rest = rest.strip_prefix(['-', '/']).ok_or(false)?;
    let (day, rest) = digits(rest).ok_or(false)?;
    if month.len() > 2 || day.len() > 2 {
        return Err(false);
    }
    let number = |s: &str| s.parse::<i64>().map_err(|_| true);
    let days = days(number(year)?, number(month)?, number(day)?).ok_or(true)?;
    Ok(Some((days, rest)))
}

/// `HH:MM[:SS[.ffffff]]`; further digits are rounded.
fn take_time(text: &str) -> Result<(i64, &str), bool> {
    let (hour, rest) = digits(text).ok_or(false)?;
    let rest = rest.strip_prefix(':').ok_or(false)?;
    let (minute, mut rest) = digits(rest).ok_or(false)?;
    let (mut second, mut micros) = (0, 0);
    if let Some(after) = rest.strip_prefix(':') {
        let (s, after) = digits(after).ok_or(false)?;
        second = s.parse::<i64>().map_err(|_| true)?;
        rest = after;
        if let Some(after) = rest.strip_prefix('.') {
            let (fraction, after) = digits(after).unwrap_or(("", after));
            micros = fraction_micros(fraction);
            rest = after;
        }
    }
    let (hour, minute) = (hour.parse::<i64>().map_err(|_| true)?, minute.parse::<i64>().map_err(|_| true)?);
    if hour > 24 || minute > 59 || second > 60 || (hour == 24 && (minute, second, micros) != (0, 0, 0)) {
        return Err(true);
    }
    Ok((((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros, rest))
}

/// Digits behind a point as microseconds, rounded.
pub(crate) fn fraction_micros(digits: &str) -> i64 {
    let mut micros = 0;
    let mut bytes = digits.bytes();
    for _ in 0..6 {
        micros = micros * 10 + bytes.next().map_or(0, |b| i64::from(b - b'0'));
    }
    micros + i64::from(bytes.next().is_some_and(|b| b >= b'5'))
}

fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 { None } else { Some(text.split_at(end)) }
}

/// `+HH`, `+HHMM`, `+HH:MM[:SS]` in seconds.
fn offset_seconds(text: &str) -> Option<i32> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let mut fields = rest.split(':');
    let first = fields.next()?;
    let number = |s: &str| if s.len() <= 2 && !s.is_empty() { s.parse::<u32>().ok() } else { None };
    let (hours, mut minutes) = match first.len() {
        1 | 2 => (number(first)?, 0),
        4 => (number(first.get(..2)?)?, number(first.get(2..)?)?),
        _ => return None,
    };
    if let Some(m) = fields.next() {
        minutes = number(m)?;
    }
    let seconds = match fields.next() {
        Some(s) => number(s)?,
        None => 0,
    };
    if fields.next().is_some() || hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(sign * (hours * 3600 + minutes * 60 + seconds) as i32)
}
