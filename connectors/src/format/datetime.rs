//! Dates and times from ISO 8601 text and back. Microseconds and days count from 1970-01-01, UTC where there is a zone.

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Parses a date and time: `2026-01-31T23:59:59.123456`, a space for the `T`, seconds and time optional, and an optional
/// zone (`Z`, `+02`, `+0200`, `+02:00`). With a zone the result is that moment in UTC; without one it is taken as it
/// stands. Digits past the microsecond round to the nearest, as in PostgreSQL.
pub fn parse_timestamp(text: &[u8]) -> Option<i64> {
    let mut p = Parser { rest: text.trim_ascii() };
    let days = p.date()?;
    if p.rest.is_empty() {
        return days.checked_mul(DAY_US);
    }
    if !(p.eat(b'T') || p.eat(b't') || p.eat(b' ')) {
        return None;
    }
    let time = p.time()?;
    p.eat(b' ');
    let offset_s = if p.rest.is_empty() { 0 } else { p.zone()? };
    if !p.rest.is_empty() {
        return None;
    }
    days.checked_mul(DAY_US)?.checked_add(time)?.checked_sub(offset_s * 1_000_000)
}

/// Parses `2026-01-31` to days.
pub fn parse_date(text: &[u8]) -> Option<i32> {
    let mut p = Parser { rest: text.trim_ascii() };
    let days = p.date()?;
    if p.rest.is_empty() { i32::try_from(days).ok() } else { None }
}

/// Parses `23:59:59.123456` (seconds optional) to microseconds of the day.
pub fn parse_time(text: &[u8]) -> Option<i64> {
    let mut p = Parser { rest: text.trim_ascii() };
    let time = p.time()?;
    (p.rest.is_empty() && time < DAY_US).then_some(time)
}

/// Writes `2026-01-31T23:59:59.123456`, without trailing zeros of the second; years past 9999 as they are.
pub fn write_timestamp(us: i64, out: &mut Vec<u8>) {
    write_date(us.div_euclid(DAY_US), out);
    out.push(b'T');
    write_time(us.rem_euclid(DAY_US), out);
}

/// Writes `2026-01-31`.
pub fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    if year < 0 {
        out.push(b'-');
    }
    write_padded(year.unsigned_abs(), 4, out);
    out.push(b'-');
    write_padded(month, 2, out);
    out.push(b'-');
    write_padded(day, 2, out);
}

/// Writes `23:59:59.123456`, without trailing zeros of the second.
pub fn write_time(us: i64, out: &mut Vec<u8>) {
    let us = us as u64;
    write_padded(us / 3_600_000_000, 2, out);
    out.push(b':');
    write_padded(us / 60_000_000 % 60, 2, out);
    out.push(b':');
    write_padded(us / 1_000_000 % 60, 2, out);
    let (mut fraction, mut width) = (us % 1_000_000, 6);
    if fraction != 0 {
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        out.push(b'.');
        write_padded(fraction, width, out);
    }
}

fn write_padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let (mut at, mut rest) = (digits.len(), value);
    while rest != 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let at = at.min(digits.len() - width);
    out.extend_from_slice(&digits[at..]);
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn eat(&mut self, b: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == b => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Exactly `n` digits.
    #[inline]
    fn digits(&mut self, n: usize) -> Option<i64> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        let mut value = 0;
        for b in head {
            let d = b.wrapping_sub(b'0');
            if d > 9 {
                return None;
            }
            value = value * 10 + i64::from(d);
        }
        self.rest = rest;
        Some(value)
    }

    fn date(&mut self) -> Option<i64> {
        let width = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(4..=6).contains(&width) {
            return None;
        }
        let year = self.digits(width)?;
        if !self.eat(b'-') {
            return None;
        }
        let month = self.digits(2)?;
        if !self.eat(b'-') {
            return None;
        }
        let day = self.digits(2)?;
        if year < 1 || !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        Some(days_from_civil(year, month, day))
    }

    /// Microseconds; the 60th second of a leap second is the next minute's first, as in PostgreSQL.
    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2)?;
        if !self.eat(b':') {
            return None;
        }
        let minute = self.digits(2)?;
        let mut us = 0;
        if self.eat(b':') {
            let second = self.digits(2)?;
            if second > 60 {
                return None;
            }
            us = second * 1_000_000;
            if self.eat(b'.') || self.eat(b',') {
                us += self.fraction()?;
            }
        }
        if hour > 23 || minute > 59 {
            return None;
        }
        Some((hour * 60 + minute) * 60_000_000 + us)
    }

    /// Microseconds of the digits after the point, rounded.
    fn fraction(&mut self) -> Option<i64> {
        let width = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if width == 0 {
            return None;
        }
        let (digits, rest) = self.rest.split_at(width);
        let mut us = 0;
        for i in 0..6 {
            us = us * 10 + digits.get(i).map_or(0, |d| i64::from(d - b'0'));
        }
        if digits.get(6).is_some_and(|d| *d >= b'5') {
            us += 1;
        }
        self.rest = rest;
        Some(us)
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Option<i64> {
        if self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let sign = match (self.eat(b'+'), self.eat(b'-')) {
            (true, false) => 1,
            (false, true) => -1,
            _ => return None,
        };
        let hours = self.digits(2)?;
        let minutes = match (self.eat(b':'), self.rest.is_empty()) {
            (true, _) | (false, false) => self.digits(2)?,
            (false, true) => 0,
        };
        if hours > 18 || minutes > 59 {
            return None;
        }
        Some(sign * (hours * 3600 + minutes * 60))
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days of a date of the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Inverse of [`days_from_civil`]: year, month, day.
fn civil(days: i64) -> (i64, u64, u64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let month = if m < 10 { m + 3 } else { m - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u64, (day_of_year - (153 * m + 2) / 5 + 1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        let t = 1_769_903_999_000_000; // 2026-01-31 23:59:59
        for (text, expected) in [
            ("2026-01-31T23:59:59", Some(t)),
            ("2026-01-31 23:59:59", Some(t)),
            ("  2026-01-31t23:59:59z ", Some(t)),
            ("2026-01-31 23:59:59.5", Some(t + 500_000)),
            ("2026-01-31 23:59:59.123456", Some(t + 123_456)),
            ("2026-01-31 23:59:59.1234564Z", Some(t + 123_456)),
            ("2026-01-31 23:59:59.1234565Z", Some(t + 123_457)),
            ("2026-01-31 23:59:59.999999999Z", Some(t + 1_000_000)),
            ("2026-02-01T01:59:59+02", Some(t)),
            ("2026-02-01T01:59:59+0200", Some(t)),
            ("2026-02-01T05:29:59+05:30", Some(t)),
            ("2026-01-31T18:59:59 -05:00", Some(t)),
            ("2026-01-31", Some(t - 86_399_000_000)),
            ("2026-01-31 23:59", Some(t - 59_000_000)),
            ("2026-01-31 23:59:60", Some(t + 1_000_000)),
            ("1969-12-31T23:59:59.999999Z", Some(-1)),
            ("2000-02-29 00:00:00", Some(951_782_400_000_000)),
            ("10000-01-01 00:00:00", Some(253_402_300_800_000_000)),
            ("1900-02-29 00:00:00", None),
            ("2026-13-01 00:00:00", None),
            ("2026-01-32", None),
            ("2026-01-31 24:01:00", None),
            ("2026-01-31 23:59:59+", None),
            ("2026-01-31 23:59:59 CET", None),
            ("2026-1-1", None),
            ("today", None),
            ("", None),
        ] {
            assert_eq!(parse_timestamp(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(parse_date(b"1970-01-02"), Some(1));
        assert_eq!(parse_date(b"2026-01-31"), Some(20_484));
        assert_eq!(parse_date(b"2026-01-31T00:00:00"), None);
        assert_eq!(parse_time(b"23:59:59.000001"), Some(86_399_000_001));
        assert_eq!(parse_time(b"09:30"), Some(34_200_000_000));
        assert_eq!(parse_time(b"24:00:00"), None);
        assert_eq!(parse_time(b"9:30"), None);
    }

    #[test]
    fn what_is_written_reads_back() {
        for us in
            [0, -1, 1, 1_769_903_999_000_000, 1_769_903_999_120_000, 253_402_300_800_000_000, -62_135_596_800_000_000]
        {
            let mut out = Vec::new();
            write_timestamp(us, &mut out);
            assert_eq!(parse_timestamp(&out), Some(us), "{}", String::from_utf8_lossy(&out));
        }
        let mut out = Vec::new();
        write_timestamp(1_769_903_999_120_000, &mut out);
        assert_eq!(out, b"2026-01-31T23:59:59.12");
        for days in (-800_000..800_000).step_by(37) {
            let (y, m, d) = civil(days);
            assert_eq!(days_from_civil(y, m as i64, d as i64), days);
        }
    }
}
