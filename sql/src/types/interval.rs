//! Intervals as text: PostgreSQL's verbose and clock forms in, its own style out.

use arrow::datatypes::IntervalMonthDayNano;

use super::time::{MICROS_PER_SECOND, fraction_micros};

/// Reads `1 day 2 hours`, `1 mon -3 days 04:05:06.7`, `5 minutes ago`. `None` if it is no interval.
pub(crate) fn parse(text: &str) -> Option<IntervalMonthDayNano> {
    let mut total = Total::default();
    let lower = text.trim().to_ascii_lowercase();
    let (body, ago) = match lower.strip_suffix("ago") {
        Some(body) => (body.trim_end(), true),
        None => (lower.as_str(), false),
    };
    let body = body.trim_start_matches('@').trim();
    if body.is_empty() {
        return None;
    }
    if let Some(iso) = body.strip_prefix('p') {
        parse_iso(iso, &mut total)?;
    } else {
        let mut words = split(body).into_iter().peekable();
        while let Some(word) = words.next() {
            if word.contains(':') {
                total.clock(&word)?;
            } else {
                let unit = match words.peek() {
                    Some(next) if next.starts_with(|c: char| c.is_ascii_alphabetic()) => words.next()?,
                    // A bare number at the end is seconds, before a clock's time days.
                    None => match year_to_month(&word) {
                        Some((years, months)) => {
                            total.add(&years, "year")?;
                            total.add(&months, "month")?;
                            continue;
                        }
                        None => "second".into(),
                    },
                    Some(next) if next.contains(':') => "day".into(),
                    Some(_) => return None,
                };
                total.add(&word, &unit)?;
            }
        }
    }
    total.finish(ago)
}

/// Words, with a number and the unit stuck to it apart.
fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for part in text.split([' ', '\t', '\n', ',']).filter(|p| !p.is_empty()) {
        match part.find(|c: char| c.is_ascii_alphabetic()) {
            Some(at) if at > 0 => words.extend([part[..at].to_string(), part[at..].to_string()]),
            _ => words.push(part.to_string()),
        }
    }
    words
}

/// `1-2`: a year and two months; the sign is that of both.
fn year_to_month(word: &str) -> Option<(String, String)> {
    let sign = if word.starts_with('-') { "-" } else { "" };
    let (years, months) = word.trim_start_matches(['+', '-']).split_once('-')?;
    Some((format!("{sign}{years}"), format!("{sign}{months}")))
}

/// `1Y2M3DT4H5M6S` behind the P.
fn parse_iso(text: &str, total: &mut Total) -> Option<()> {
    let mut time = false;
    let mut number = String::new();
    for c in text.chars() {
        match c {
            't' => time = true,
            '0'..='9' | '.' | '-' | '+' => number.push(c),
            unit => {
                let unit = match (unit, time) {
                    ('y', false) => "year",
                    ('m', false) => "month",
                    ('w', false) => "week",
                    ('d', false) => "day",
                    ('h', true) => "hour",
                    ('m', true) => "minute",
                    ('s', true) => "second",
                    _ => return None,
                };
                total.add(&number, unit)?;
                number.clear();
            }
        }
    }
    number.is_empty().then_some(())
}

#[derive(Default)]
struct Total {
    months: i64,
    days: i64,
    micros: i64,
}

impl Total {
    fn add(&mut self, number: &str, unit: &str) -> Option<()> {
        let (negative, digits) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty())
            || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
        {
            return None;
        }
        let sign = if negative { -1 } else { 1 };
        let whole: i64 = sign * if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = sign * fraction_micros(fraction);
        // A fraction of a month is days (30 a month), one of a day is time.
        let (months, days, micros) = match unit {
            "year" | "years" | "yr" | "yrs" | "y" => (12, 0, 0),
            "decade" | "decades" => (120, 0, 0),
            "century" | "centuries" => (1200, 0, 0),
            "month" | "months" | "mon" | "mons" => (1, 0, 0),
            "week" | "weeks" | "w" => (0, 7, 0),
            "day" | "days" | "d" => (0, 1, 0),
            "hour" | "hours" | "hr" | "hrs" | "h" => (0, 0, 3600 * MICROS_PER_SECOND),
            "minute" | "minutes" | "min" | "mins" | "m" => (0, 0, 60 * MICROS_PER_SECOND),
            "second" | "seconds" | "sec" | "secs" | "s" => (0, 0, MICROS_PER_SECOND),
            "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" => (0, 0, 1000),
            "microsecond" | "microseconds" | "usec" | "usecs" | "us" => (0, 0, 1),
            _ => return None,
        };
        self.months = self.months.checked_add(whole.checked_mul(months)?)?;
        self.days = self.days.checked_add(whole.checked_mul(days)?)?;
        self.micros = self.micros.checked_add(whole.checked_mul(micros)?)?;
        let part = |unit: i64| (i128::from(unit) * i128::from(fraction), i128::from(MICROS_PER_SECOND));
        if fraction != 0 {
            if months > 1 {
                let (n, d) = part(months);
                self.months = self.months.checked_add(i64::try_from(n / d).ok()?)?;
            } else if months == 1 || days > 0 {
                let (n, d) = part(if months == 1 { 30 } else { days });
                self.days = self.days.checked_add(i64::try_from(n / d).ok()?)?;
                let rest = (n % d) * i128::from(super::time::MICROS_PER_DAY) / d;
                self.micros = self.micros.checked_add(i64::try_from(rest).ok()?)?;
            } else {
                let (n, d) = part(micros);
                self.micros = self.micros.checked_add(i64::try_from(n / d).ok()?)?;
            }
        }
        Some(())
    }

    /// `[-]HH:MM[:SS[.ffffff]]`.
    fn clock(&mut self, text: &str) -> Option<()> {
        let (sign, text) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let mut fields = text.split(':');
        let hours: i64 = fields.next()?.parse().ok()?;
        let minutes: i64 = fields.next()?.parse().ok()?;
        let (seconds, micros) = match fields.next() {
            None => (0, 0),
            Some(s) => {
                let (s, fraction) = s.split_once('.').unwrap_or((s, ""));
                if !fraction.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                (s.parse().ok()?, fraction_micros(fraction))
            }
        };
        if fields.next().is_some() || minutes > 59 || seconds > 60 || hours < 0 || minutes < 0 || seconds < 0 {
            return None;
        }
        let total = hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)?.checked_mul(MICROS_PER_SECOND)?;
        self.micros = self.micros.checked_add(sign * (total + micros))?;
        Some(())
    }

    fn finish(self, ago: bool) -> Option<IntervalMonthDayNano> {
        let sign = if ago { -1 } else { 1 };
        Some(IntervalMonthDayNano {
            months: i32::try_from(sign * self.months).ok()?,
            days: i32::try_from(sign * self.days).ok()?,
            nanoseconds: (sign * self.micros).checked_mul(1000)?,
        })
    }
}

/// PostgreSQL's style: `1 year 2 mons 3 days 04:05:06.7`.
pub(crate) fn format(value: IntervalMonthDayNano, out: &mut String) {
    use std::fmt::Write;
    let start = out.len();
    let micros = value.nanoseconds / 1000;
    let mut negative_before = false;
    let mut field = |out: &mut String, n: i64, one: &str| {
        if n != 0 {
            let space = if out.len() > start { " " } else { "" };
            let plus = if negative_before && n > 0 { "+" } else { "" };
            let s = if n == 1 { "" } else { "s" };
            let _ = write!(out, "{space}{plus}{n} {one}{s}");
            negative_before = n < 0;
        }
    };
    field(out, i64::from(value.months / 12), "year");
    field(out, i64::from(value.months % 12), "mon");
    field(out, i64::from(value.days), "day");
    if micros != 0 || out.len() == start {
        let space = if out.len() > start { " " } else { "" };
        let sign = if micros < 0 {
            "-"
        } else if negative_before {
            "+"
        } else {
            ""
        };
        let abs = micros.unsigned_abs();
        let seconds = abs / 1_000_000;
        let _ = write!(out, "{space}{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        super::output::fraction((abs % 1_000_000) as u32, out);
    }
}
