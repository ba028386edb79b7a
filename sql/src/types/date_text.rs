//! Dates and times from text, in the forms that PostgreSQL reads with its default `DateStyle`, ISO and month before day.

use super::time::{MICROS_PER_SECOND, days, fraction_micros, offset_seconds};

/// What a date or time text says.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) days: Option<i32>,
    /// Microseconds since midnight.
    pub(crate) time_us: Option<i64>,
    /// Offset in seconds east of UTC.
    pub(crate) offset: Option<i32>,
    /// Where in the text a zone's name begins that stands instead of an offset.
    pub(crate) zone: Option<usize>,
}

/// Why a text is no date or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoTime {
    /// It has no form that is known.
    Form,
    /// A field is out of range.
    Range,
}

/// Reads a date, a time or both, in either order, with an offset or a zone.
pub(crate) fn parse(text: &str) -> Result<Parts, NoTime> {
    if text.trim().eq_ignore_ascii_case("epoch") {
        return Ok(Parts { days: Some(0), time_us: Some(0), offset: Some(0), zone: None });
    }
    let mut reader = Reader { text: text.trim_end(), at: 0, fields: Fields::default(), parts: Parts::default() };
    while reader.token()? {}
    reader.finish()
}

const HALF_DAY_US: i64 = 12 * 3600 * MICROS_PER_SECOND;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Hours east of UTC of the abbreviations that PostgreSQL knows without a setting and that people write.
const ABBREVIATIONS: [(&str, i32); 24] = [
    ("z", 0),
    ("utc", 0),
    ("gmt", 0),
    ("ut", 0),
    ("zulu", 0),
    ("wet", 0),
    ("bst", 1),
    ("cet", 1),
    ("west", 1),
    ("cest", 2),
    ("eet", 2),
    ("eest", 3),
    ("msk", 3),
    ("jst", 9),
    ("akst", -9),
    ("akdt", -8),
    ("pst", -8),
    ("pdt", -7),
    ("mst", -7),
    ("mdt", -6),
    ("cst", -6),
    ("cdt", -5),
    ("est", -5),
    ("edt", -4),
];

/// The fields of a date as they come.
#[derive(Debug, Default)]
struct Fields {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    before_christ: bool,
    /// Whether the hours are those of a half day, and of which.
    afternoon: Option<bool>,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    fields: Fields,
    parts: Parts,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn next(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes the characters that `belongs` holds for.
    fn take(&mut self, belongs: fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn digits(&mut self) -> &'a str {
        self.take(|c| c.is_ascii_digit())
    }

    fn has_date(&self) -> bool {
        self.fields.day.is_some() && self.fields.month.is_some() && self.fields.year.is_some()
    }

    /// Reads what comes next; whether there was something.
    fn token(&mut self) -> Result<bool, NoTime> {
        self.take(|c| c.is_whitespace() || c == ',');
        match self.next() {
            None => return Ok(false),
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some(c) if c.is_ascii_alphabetic() => self.word()?,
            Some('+' | '-') if self.parts.time_us.is_some() && !self.has_zone() => {
                let offset = self.take(|c| !c.is_whitespace());
                self.parts.offset = Some(offset_seconds(offset).ok_or(NoTime::Form)?);
            }
            Some(_) => return Err(NoTime::Form),
        }
        Ok(true)
    }

    fn has_zone(&self) -> bool {
        self.parts.offset.is_some() || self.parts.zone.is_some()
    }

    fn number(&mut self) -> Result<(), NoTime> {
        let digits = self.digits();
        match self.next() {
            Some(':') => return self.time(digits),
            Some(separator @ ('-' | '/' | '.')) if !self.has_date() && self.fields.day.is_none() => {
                return self.date(digits, separator);
            }
            _ => {}
        }
        match digits.len() {
            8 if !self.has_date() => {
                let (year, day) = digits.split_at(4);
                self.set_date(year, &day[..2], &day[2..])
            }
            6 if self.has_date() && self.parts.time_us.is_none() => {
                self.set_time(&digits[..2], &digits[2..4], &digits[4..])
            }
            4 if self.has_date() && self.parts.time_us.is_none() => self.set_time(&digits[..2], &digits[2..], "0"),
            6 if self.fields.month.is_none() => {
                let year = short_year(&digits[..2])?;
                self.set_date(&year.to_string(), &digits[2..4], &digits[4..])
            }
            1 | 2 if self.fields.day.is_none() => {
                self.fields.day = Some(value(digits)?);
                Ok(())
            }
            length if self.fields.month.is_some() && self.fields.year.is_none() => {
                self.fields.year = Some(if length <= 2 { short_year(digits)? } else { value(digits)? });
                Ok(())
            }
            _ => Err(NoTime::Form),
        }
    }

    /// A date of three fields with separators, after its first one.
    fn date(&mut self, first: &str, separator: char) -> Result<(), NoTime> {
        self.at += 1;
        let named = self.next().is_some_and(|c| c.is_ascii_alphabetic());
        let second = if named { self.take(|c| c.is_ascii_alphabetic()) } else { self.digits() };
        if self.next() != Some(separator) {
            return Err(NoTime::Form);
        }
        self.at += 1;
        let third = self.digits();
        if first.is_empty() || second.is_empty() || third.is_empty() {
            return Err(NoTime::Form);
        }
        let is_year = |text: &str| text.len() > 2;
        let short = |text: &str| Ok(if is_year(text) { value(text)? } else { short_year(text)? }.to_string());
        if named {
            let month = month_of(second).ok_or(NoTime::Form)?.to_string();
            return match is_year(first) {
                true => self.set_date(first, &month, third),
                false => self.set_date(&short(third)?, &month, first),
            };
        }
        match is_year(first) {
            true => self.set_date(first, second, third),
            false => self.set_date(&short(third)?, first, second),
        }
    }

    fn set_date(&mut self, year: &str, month: &str, day: &str) -> Result<(), NoTime> {
        if month.len() > 2 || day.len() > 2 {
            return Err(NoTime::Form);
        }
        let fields = &mut self.fields;
        (fields.year, fields.month, fields.day) = (Some(value(year)?), Some(value(month)?), Some(value(day)?));
        Ok(())
    }

    /// `HH:MM[:SS[.ffffff]]`, after the hour; further digits are rounded.
    fn time(&mut self, hour: &str) -> Result<(), NoTime> {
        self.at += 1;
        let minute = self.digits();
        let mut second = "0";
        if self.next() == Some(':') {
            self.at += 1;
            second = self.digits();
        }
        if self.parts.time_us.is_some() || minute.is_empty() || second.is_empty() {
            return Err(NoTime::Form);
        }
        self.set_time(hour, minute, second)
    }

    fn set_time(&mut self, hour: &str, minute: &str, second: &str) -> Result<(), NoTime> {
        let mut micros = 0;
        if self.next() == Some('.') {
            self.at += 1;
            micros = fraction_micros(self.digits());
        }
        let (hour, minute, second) = (value(hour)?, value(minute)?, value(second)?);
        if hour > 24 || minute > 59 || second > 60 || (hour == 24 && (minute, second, micros) != (0, 0, 0)) {
            return Err(NoTime::Range);
        }
        self.parts.time_us = Some(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros);
        Ok(())
    }

    fn word(&mut self) -> Result<(), NoTime> {
        let start = self.at;
        let word = self.take(|c| c.is_ascii_alphabetic()).to_ascii_lowercase();
        // The T between a date and a time.
        if word == "t" && self.has_date() && self.next().is_some_and(|c| c.is_ascii_digit()) {
            return Ok(());
        }
        if let Some(month) = month_of(&word).filter(|_| self.fields.month.is_none()) {
            self.fields.month = Some(month);
            if let (Some(separator @ ('-' | '/')), None) = (self.next(), self.fields.day) {
                return self.after_month(separator);
            }
            return Ok(());
        }
        if starts(&WEEKDAYS, &word).is_some() {
            self.take(|c| c == '.');
            return Ok(());
        }
        match word.as_str() {
            "am" | "pm" if self.parts.time_us.is_some() && self.fields.afternoon.is_none() => {
                self.fields.afternoon = Some(word == "pm");
                return Ok(());
            }
            "bc" | "ad" if !self.fields.before_christ => {
                self.fields.before_christ = word == "bc";
                return Ok(());
            }
            _ => {}
        }
        if self.has_zone() {
            return Err(NoTime::Form);
        }
        if self.next() == Some('/') {
            self.take(|c| !c.is_whitespace());
            self.parts.zone = Some(start);
            return Ok(());
        }
        let (_, hours) = ABBREVIATIONS.iter().find(|(name, _)| *name == word).ok_or(NoTime::Form)?;
        self.parts.offset = Some(hours * 3600);
        Ok(())
    }

    /// The day and the year of `Jan-08-1999`.
    fn after_month(&mut self, separator: char) -> Result<(), NoTime> {
        self.at += 1;
        let day = self.digits();
        if day.is_empty() || self.next() != Some(separator) {
            return Err(NoTime::Form);
        }
        self.at += 1;
        let year = self.digits();
        self.fields.day = Some(value(day)?);
        self.fields.year = Some(if year.len() > 2 { value(year)? } else { short_year(year)? });
        Ok(())
    }

    fn finish(mut self) -> Result<Parts, NoTime> {
        let Fields { year, month, day, before_christ, afternoon } = self.fields;
        match (year, month, day) {
            (Some(year), Some(month), Some(day)) => {
                if year == 0 {
                    return Err(NoTime::Range);
                }
                let year = if before_christ { 1 - year } else { year };
                self.parts.days = Some(days(year, month, day).ok_or(NoTime::Range)?);
            }
            (None, None, None) if !before_christ && self.parts.time_us.is_some() => {}
            _ => return Err(NoTime::Form),
        }
        if let (Some(afternoon), Some(time)) = (afternoon, &mut self.parts.time_us) {
            let is_twelve = *time >= HALF_DAY_US;
            if *time >= HALF_DAY_US + HALF_DAY_US / 12 {
                return Err(NoTime::Range);
            }
            *time += match (afternoon, is_twelve) {
                (true, false) => HALF_DAY_US,
                (false, true) => -HALF_DAY_US,
                _ => 0,
            };
        }
        Ok(self.parts)
    }
}

fn value(digits: &str) -> Result<i64, NoTime> {
    digits.parse().map_err(|_| if digits.is_empty() { NoTime::Form } else { NoTime::Range })
}

/// A year of two digits, from 1970 to 2069.
fn short_year(digits: &str) -> Result<i64, NoTime> {
    let year = value(digits)?;
    Ok(if year < 70 { 2000 + year } else { 1900 + year })
}

fn month_of(word: &str) -> Option<i64> {
    let word = word.to_ascii_lowercase();
    let place = if word == "sept" { Some(8) } else { starts(&MONTHS, &word) };
    place.map(|place| place as i64 + 1)
}

/// The name that the word is, whole or its first three letters.
fn starts(names: &[&str], word: &str) -> Option<usize> {
    names.iter().position(|name| *name == word || (word.len() == 3 && name.starts_with(word)))
}
