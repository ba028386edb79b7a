//! Time zones, and days by the calendar.

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

/// Digits behind a point as microseconds, rounded.
pub(crate) fn fraction_micros(digits: &str) -> i64 {
    let mut micros = 0;
    let mut bytes = digits.bytes();
    for _ in 0..6 {
        micros = micros * 10 + bytes.next().map_or(0, |b| i64::from(b - b'0'));
    }
    micros + i64::from(bytes.next().is_some_and(|b| b >= b'5'))
}

/// `+HH`, `+HHMM`, `+HH:MM[:SS]` in seconds.
pub(super) fn offset_seconds(text: &str) -> Option<i32> {
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
