//! PostgreSQL's templates for dates and times: `to_char` writes by them, `to_timestamp` and `to_date` read by them.

use std::fmt::Write;

use crate::error::{Result, SqlError};
use crate::types::civil_from_days;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const ROMAN: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

/// The fields of a template; of two that begin alike the longer one comes first.
const FIELDS: [&str; 53] = [
    "Y,YYY", "YYYY", "YYY", "YY", "Y", "IYYY", "IYY", "IY", "IDDD", "ID", "IW", "I", "MONTH", "MON", "MM", "MI", "MS",
    "DAY", "DDD", "DD", "DY", "D", "HH24", "HH12", "HH", "SSSSS", "SSSS", "SS", "FF1", "FF2", "FF3", "FF4", "FF5",
    "FF6", "US", "A.M.", "P.M.", "A.D.", "B.C.", "AM", "PM", "AD", "BC", "WW", "W", "Q", "CC", "J", "RM", "TZH", "TZM",
    "TZ", "OF",
];

/// How a name is written: as its field is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    Upper,
    Lower,
    Title,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Field {
        name: &'static str,
        case: Case,
        /// Without FM: padded to its full width.
        fill: bool,
        /// TH or th behind a number.
        ordinal: Option<Case>,
    },
    Text(char),
    /// Punctuation or a space, which input may have otherwise.
    Separator(char),
}

/// A template that has been read.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Node>);

/// What `to_char` writes: a local time or an interval.
pub(crate) struct Moment {
    year: i64,
    month: i64,
    day: i64,
    day_of_year: i64,
    /// Days since 1970-01-01; none for an interval.
    days: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    /// Offset in seconds east of UTC, and the zone's abbreviation.
    zone: Option<(i32, String)>,
}

impl Moment {
    /// A local time in microseconds since 1970-01-01.
    pub(crate) fn of_time(local: i64, zone: Option<(i32, String)>) -> Self {
        let days = local.div_euclid(MICROS_PER_DAY);
        let (year, month, day) = civil_from_days(days);
        let mut moment = Self::of_clock(local.rem_euclid(MICROS_PER_DAY));
        moment.days = Some(days);
        (moment.year, moment.month, moment.day) = (year, month.into(), day.into());
        moment.day_of_year = super::datetime::day_of_year(days, year);
        moment.zone = zone;
        moment
    }

    /// An interval from its fields.
    pub(crate) fn of_interval(months: i64, days: i64, micros: i64) -> Self {
        let mut moment = Self::of_clock(micros);
        (moment.year, moment.month, moment.day) = (months / 12, months % 12, days);
        moment.day_of_year = months * 30 + days;
        moment
    }

    fn of_clock(micros: i64) -> Self {
        let seconds = micros / MICROS_PER_SECOND;
        Self {
            year: 0,
            month: 0,
            day: 0,
            day_of_year: 0,
            days: None,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            micros: micros % MICROS_PER_SECOND,
            zone: None,
        }
    }
}

impl Template {
    /// # Errors
    /// 0A000 for `SP` and `FX`.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let mut nodes = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix('"') {
                rest = quoted(after, &mut nodes);
                continue;
            }
            let after_prefix = ["FM", "fm", "TM", "tm"].into_iter().find_map(|p| Some((p, rest.strip_prefix(p)?)));
            if rest.starts_with("FX") || rest.starts_with("fx") {
                return Err(SqlError::unsupported("the template pattern FX is not supported"));
            }
            let fill = !matches!(after_prefix, Some(("FM" | "fm", _)));
            let (field, fill) = match after_prefix.map(|(_, after)| (field(after), fill)) {
                Some((Some(field), fill)) => (Some(field), fill),
                // A prefix without a field changes nothing.
                Some((None, _)) => {
                    rest = &rest[2..];
                    continue;
                }
                None => (field(rest), true),
            };
            let Some((name, case, after)) = field else {
                let escaped = rest.strip_prefix("\\\"");
                rest = escaped.unwrap_or(&rest[first.len_utf8()..]);
                let c = if escaped.is_some() { '"' } else { first };
                let is_separator = c.is_ascii() && !c.is_ascii_alphanumeric();
                nodes.push(if is_separator { Node::Separator(c) } else { Node::Text(c) });
                continue;
            };
            rest = after;
            let ordinal = [("TH", Case::Upper), ("th", Case::Lower)].into_iter().find(|(th, _)| rest.starts_with(th));
            if ordinal.is_some() {
                rest = &rest[2..];
            } else if rest.starts_with("SP") || rest.starts_with("sp") {
                return Err(SqlError::unsupported("the template pattern SP is not supported"));
            }
            nodes.push(Node::Field { name, case, fill, ordinal: ordinal.map(|(_, case)| case) });
        }
        Ok(Self(nodes))
    }

    /// # Errors
    /// 22007 for a field that an interval does not have.
    pub(crate) fn write(&self, moment: &Moment) -> Result<String> {
        let mut out = String::new();
        for node in &self.0 {
            match node {
                Node::Text(c) | Node::Separator(c) => out.push(*c),
                Node::Field { name, case, fill, ordinal } => {
                    let start = out.len();
                    write_field(name, *case, *fill, moment, &mut out)?;
                    if let Some(case) = ordinal {
                        let ending = ordinal_ending(&out[start..]);
                        out.push_str(&if *case == Case::Upper { ending.to_uppercase() } else { ending.to_string() });
                    }
                }
            }
        }
        Ok(out)
    }
}

/// Text in quotes; gives what follows.
fn quoted<'a>(text: &'a str, nodes: &mut Vec<Node>) -> &'a str {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return &text[at + 1..],
            '\\' => nodes.extend(chars.next().map(|(_, c)| Node::Text(c))),
            c => nodes.push(Node::Text(c)),
        }
    }
    ""
}

/// The field that a text begins with.
fn field(text: &str) -> Option<(&'static str, Case, &str)> {
    for name in FIELDS {
        let Some(head) = text.get(..name.len()) else { continue };
        let title = || {
            let lower = name[1..].to_lowercase();
            matches!(name, "MONTH" | "MON" | "DAY" | "DY") && head.starts_with(&name[..1]) && head[1..] == lower
        };
        let case = if head == name {
            Case::Upper
        } else if title() {
            Case::Title
        } else if head == name.to_lowercase() {
            Case::Lower
        } else {
            continue;
        };
        return Some((name, case, &text[name.len()..]));
    }
    None
}

fn ordinal_ending(number: &str) -> &'static str {
    let mut digits = number.bytes().rev();
    let (last, before) = (digits.next(), digits.next());
    match last {
        Some(b'1') if before != Some(b'1') => "st",
        Some(b'2') if before != Some(b'1') => "nd",
        Some(b'3') if before != Some(b'1') => "rd",
        _ => "th",
    }
}

fn cased(name: &str, case: Case) -> String {
    match case {
        Case::Upper => name.to_uppercase(),
        Case::Lower => name.to_lowercase(),
        Case::Title => name.to_string(),
    }
}

fn write_field(name: &str, case: Case, fill: bool, m: &Moment, out: &mut String) -> Result<()> {
    let is_interval = m.days.is_none();
    let of_date = || {
        m.days.ok_or_else(|| {
            SqlError::new("22007", "invalid format specification for an interval value")
                .with_hint("intervals are not tied to specific calendar dates")
        })
    };
    let year = |year: i64| if is_interval || year > 0 { year } else { 1 - year };
    let mut number = |value: i64, width: usize| {
        let _ = if fill { write!(out, "{value:0width$}") } else { write!(out, "{value}") };
    };
    // Some fields are one wider where there is a sign.
    let signed = |width: usize, of: i64| width + usize::from(of < 0);
    match name {
        "HH24" => number(m.hour, signed(2, m.hour)),
        "HH12" | "HH" => number(if m.hour % 12 == 0 { 12 } else { m.hour % 12 }, signed(2, m.hour)),
        "MI" => number(m.minute, signed(2, m.minute)),
        "SS" => number(m.second, signed(2, m.second)),
        "SSSS" | "SSSSS" => _ = write!(out, "{}", m.hour * 3600 + m.minute * 60 + m.second),
        "MS" | "FF3" => _ = write!(out, "{:03}", m.micros / 1000),
        "US" | "FF6" => _ = write!(out, "{:06}", m.micros),
        "FF1" => _ = write!(out, "{:01}", m.micros / 100_000),
        "FF2" => _ = write!(out, "{:02}", m.micros / 10_000),
        "FF4" => _ = write!(out, "{:04}", m.micros / 100),
        "FF5" => _ = write!(out, "{:05}", m.micros / 10),
        "AM" | "PM" | "A.M." | "P.M." => {
            let dots = name.contains('.');
            let word = match (m.hour.rem_euclid(24) < 12, dots) {
                (true, false) => "AM",
                (false, false) => "PM",
                (true, true) => "A.M.",
                (false, true) => "P.M.",
            };
            out.push_str(&cased(word, case));
        }
        "AD" | "BC" | "A.D." | "B.C." => {
            of_date()?;
            let word = match (m.year > 0, name.contains('.')) {
                (true, false) => "AD",
                (false, false) => "BC",
                (true, true) => "A.D.",
                (false, true) => "B.C.",
            };
            out.push_str(&cased(word, case));
        }
        "MONTH" | "MON" => {
            of_date()?;
            let month = MONTHS[(m.month - 1).clamp(0, 11) as usize];
            let month = cased(if name == "MON" { &month[..3] } else { month }, case);
            let _ = if fill && name == "MONTH" { write!(out, "{month:<9}") } else { write!(out, "{month}") };
        }
        "DAY" | "DY" => {
            let day = DAYS[(of_date()? + 4).rem_euclid(7) as usize];
            let day = cased(if name == "DY" { &day[..3] } else { day }, case);
            let _ = if fill && name == "DAY" { write!(out, "{day:<9}") } else { write!(out, "{day}") };
        }
        "MM" => number(m.month, signed(2, m.month)),
        "DD" => number(m.day, 2),
        "DDD" => number(m.day_of_year, 3),
        "IDDD" => {
            let days = of_date()?;
            let (iso_year, _) = super::datetime::iso_week(days);
            // The ISO year begins on the Monday of the week with January 4th.
            let fourth = super::datetime::first_of_year(iso_year) + 3;
            number(days - (fourth - (fourth + 3).rem_euclid(7)) + 1, 3);
        }
        "D" => {
            let days = of_date()?;
            number((days + 4).rem_euclid(7) + 1, 1);
        }
        "ID" => {
            let days = of_date()?;
            number((days + 3).rem_euclid(7) + 1, 1);
        }
        "WW" => number((m.day_of_year - 1) / 7 + 1, 2),
        "W" => number((m.day - 1) / 7 + 1, 1),
        "IW" => {
            let days = of_date()?;
            number(super::datetime::iso_week(days).1, 2);
        }
        "Q" if m.month == 0 => {}
        "Q" => number((m.month - 1) / 3 + 1, 1),
        "CC" => {
            let century = match (is_interval, m.year > 0) {
                (true, _) => m.year / 100,
                (false, true) => (m.year - 1) / 100 + 1,
                (false, false) => m.year / 100 - 1,
            };
            number(century, signed(2, century));
        }
        "Y,YYY" => {
            let y = year(m.year);
            let _ = write!(out, "{},{:03}", y / 1000, y % 1000);
        }
        "YYYY" => number(year(m.year), signed(4, year(m.year))),
        "YYY" => number(year(m.year) % 1000, signed(3, year(m.year))),
        "YY" => number(year(m.year) % 100, signed(2, year(m.year))),
        "Y" => number(year(m.year) % 10, signed(1, year(m.year))),
        "IYYY" | "IYY" | "IY" | "I" => {
            let days = of_date()?;
            let iso = year(super::datetime::iso_week(days).0);
            let digits = name.len() as u32;
            number(if digits == 4 { iso } else { iso % 10_i64.pow(digits) }, name.len());
        }
        "RM" if m.month == 0 && m.year == 0 => {}
        "RM" => {
            let roman = cased(ROMAN[(m.month - 1).rem_euclid(12) as usize], case);
            let _ = if fill { write!(out, "{roman:<4}") } else { write!(out, "{roman}") };
        }
        "J" => {
            let days = of_date()?;
            let _ = write!(out, "{}", days + 2_440_588);
        }
        "TZH" | "TZM" | "TZ" | "OF" => {
            of_date()?;
            let (offset, zone) = m.zone.clone().unwrap_or_default();
            let _ = match name {
                "TZ" => write!(out, "{}", cased(&zone, case)),
                "TZH" => write!(out, "{}{:02}", if offset < 0 { '-' } else { '+' }, offset.abs() / 3600),
                "OF" => {
                    let minutes = offset.abs() / 60 % 60;
                    let behind = if minutes == 0 { String::new() } else { format!(":{minutes:02}") };
                    write!(out, "{}{:02}{behind}", if offset < 0 { '-' } else { '+' }, offset.abs() / 3600)
                }
                _ => write!(out, "{:02}", offset.abs() / 60 % 60),
            };
        }
        other => return Err(SqlError::internal(format!("template field {other}"))),
    }
    Ok(())
}

/// What a text says that was read by a template.
#[derive(Debug, Default)]
pub(crate) struct Read {
    year: i64,
    bc: bool,
    month: i64,
    day: i64,
    day_of_year: i64,
    julian: i64,
    hour: i64,
    minute: i64,
    second: i64,
    seconds_of_day: i64,
    micros: i64,
    is_12_hours: bool,
    pm: bool,
}

fn invalid(value: &str, field: &str, detail: &str) -> SqlError {
    SqlError::new("22007", format!("invalid value \"{value}\" for \"{field}\"")).with_detail(detail)
}

impl Template {
    /// Reads a text; what follows the last field is ignored.
    ///
    /// # Errors
    /// 22007 and 22008 for what is no value of a field, 0A000 for fields that are not read.
    pub(crate) fn read(&self, text: &str) -> Result<Read> {
        let mut read = Read::default();
        let mut rest = text;
        // White space that was passed beyond what the template has.
        let mut passed = 0_i64;
        for (i, node) in self.0.iter().enumerate() {
            if rest.is_empty() {
                break;
            }
            if i == 0 || matches!(node, Node::Field { .. }) {
                let trimmed = rest.trim_start();
                passed += (rest.len() - trimmed.len()) as i64;
                rest = trimmed;
            }
            let next = rest.chars().next();
            match node {
                Node::Separator(_) => {
                    passed -= 1;
                    if let Some(c) = next.filter(|c| c.is_ascii() && !c.is_ascii_alphanumeric()) {
                        rest = &rest[c.len_utf8()..];
                        passed += 1;
                    }
                }
                Node::Text(_) if passed > 0 => passed -= 1,
                Node::Text(_) => rest = &rest[next.map_or(0, char::len_utf8)..],
                Node::Field { name, fill, ordinal, .. } => {
                    let until_other = !fill || ordinal.is_some() || self.is_before_other(i);
                    rest = read.field(name, rest, until_other)?;
                    if ordinal.is_some() {
                        rest = rest.get(2..).unwrap_or("");
                    }
                    let trimmed = rest.trim_start();
                    passed = (rest.len() - trimmed.len()) as i64;
                    rest = trimmed;
                }
            }
        }
        Ok(read)
    }

    /// Whether no digit can follow the field's own.
    fn is_before_other(&self, i: usize) -> bool {
        match self.0.get(i + 1) {
            None => true,
            Some(Node::Field { name, .. }) => {
                matches!(*name, "MONTH" | "MON" | "DAY" | "DY" | "RM" | "TZ") || name.starts_with(['A', 'P', 'B'])
            }
            Some(Node::Text(c) | Node::Separator(c)) => !c.is_ascii_digit(),
        }
    }
}

impl Read {
    /// Takes one field from the front of a text and gives the rest.
    fn field<'a>(&mut self, name: &str, text: &'a str, until_other: bool) -> Result<&'a str> {
        let number = |width: usize| int(name, text, width, until_other);
        let (value, rest) = match name {
            "HH24" | "HH12" | "HH" => {
                let (value, rest) = number(2)?;
                self.is_12_hours = name != "HH24";
                self.hour = value;
                return Ok(rest);
            }
            "AM" | "PM" | "A.M." | "P.M." | "AD" | "BC" | "A.D." | "B.C." => {
                let found = text.get(..name.len()).map(str::to_uppercase).unwrap_or_default();
                let (yes, no) = match name {
                    "AM" | "PM" => ("PM", "AM"),
                    "A.M." | "P.M." => ("P.M.", "A.M."),
                    "AD" | "BC" => ("BC", "AD"),
                    _ => ("B.C.", "A.D."),
                };
                if found != yes && found != no {
                    let detail = "The given value did not match any of the allowed values for this field.";
                    return Err(invalid(text, name, detail));
                }
                if yes.starts_with('P') {
                    (self.pm, self.is_12_hours) = (found == yes, true);
                } else {
                    self.bc = found == yes;
                }
                return Ok(&text[name.len()..]);
            }
            "MONTH" | "MON" => {
                let (month, rest) = word(name, text, &MONTHS, name == "MON")?;
                self.month = month as i64 + 1;
                return Ok(rest);
            }
            // The weekday is read and means nothing.
            "DAY" | "DY" => return Ok(word(name, text, &DAYS, name == "DY")?.1),
            "MI" | "SS" | "MM" | "DD" => number(2)?,
            "DDD" => number(3)?,
            "SSSS" | "SSSSS" => number(5)?,
            "J" => number(10)?,
            "Q" => return Ok(number(1)?.1),
            "MS" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" | "US" => {
                let width = match name {
                    "MS" => 3,
                    "US" => 6,
                    _ => usize::from(name.as_bytes()[2] - b'0'),
                };
                let digits = text.bytes().take_while(u8::is_ascii_digit).count().min(width);
                let (value, rest) = int(name, &text[..digits.max(text.len().min(1))], width, true)?;
                debug_assert!(rest.is_empty());
                let unit = 10_i64.pow(6 - digits.max(1) as u32);
                self.micros += value * unit;
                return Ok(&text[digits..]);
            }
            "YYYY" | "YYY" | "YY" | "Y" => {
                let (value, rest) = number(name.len())?;
                let digits = text.len() - rest.len();
                self.year = if digits < 4 && name.len() < 4 { near_2020(value) } else { value };
                return Ok(rest);
            }
            other => {
                return Err(SqlError::unsupported(format!("reading the template pattern {other} is not supported")));
            }
        };
        match name {
            "MI" => self.minute = value,
            "SS" => self.second = value,
            "MM" => self.month = value,
            "DD" => self.day = value,
            "DDD" => self.day_of_year = value,
            "J" => self.julian = value,
            _ => self.seconds_of_day = value,
        }
        Ok(rest)
    }

    /// Local microseconds since 1970-01-01; what was not said is the start of the year 1 BC.
    ///
    /// # Errors
    /// 22007 and 22008 for fields out of range; `text` is for their words.
    pub(crate) fn local_micros(&self, text: &str) -> Result<i64> {
        let out_of_range = || SqlError::new("22008", format!("date/time field value out of range: \"{text}\""));
        let (mut hour, mut minute, mut second) = (self.hour, self.minute, self.second);
        if self.seconds_of_day != 0 {
            let s = self.seconds_of_day;
            (hour, minute, second) = (s / 3600, s / 60 % 60, s % 60);
        }
        if self.is_12_hours && (self.hour != 0 || self.pm) {
            if !(1..=12).contains(&hour) {
                return Err(SqlError::new("22007", format!("hour \"{hour}\" is invalid for the 12-hour clock"))
                    .with_hint("use the 24-hour clock, or give an hour between 1 and 12"));
            }
            hour = hour % 12 + if self.pm { 12 } else { 0 };
        }
        if !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..60).contains(&second) {
            return Err(out_of_range());
        }
        let year = if self.bc { 1 - self.year.max(1) } else { self.year };
        let days = if self.julian != 0 {
            self.julian - 2_440_588
        } else if self.day_of_year != 0 && (self.month <= 1 || self.day <= 1) {
            if self.year == 0 && !self.bc {
                return Err(SqlError::new("22007", "cannot calculate day of year without year information"));
            }
            let last = super::datetime::first_of_year(year + 1) - super::datetime::first_of_year(year);
            if !(1..=last).contains(&self.day_of_year) {
                return Err(out_of_range());
            }
            super::datetime::first_of_year(year) + self.day_of_year - 1
        } else {
            let or_first = |n: i64| if n == 0 { 1 } else { n };
            let days = crate::types::days(year, or_first(self.month), or_first(self.day)).ok_or_else(out_of_range)?;
            i64::from(days)
        };
        let time = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + self.micros;
        days.checked_mul(MICROS_PER_DAY).and_then(|d| d.checked_add(time)).ok_or_else(out_of_range)
    }
}

/// A number of `width` characters, or of as many as there are.
fn int<'a>(field: &str, text: &'a str, width: usize, until_other: bool) -> Result<(i64, &'a str)> {
    let text = text.trim_start();
    let sign = usize::from(text.starts_with(['+', '-']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    let length = if until_other { sign + digits } else { (sign + digits).min(width) };
    let window = text.char_indices().nth(width).map_or(text, |(end, _)| &text[..end]);
    if !until_other {
        if text.chars().count() < width {
            return Err(SqlError::new("22007", format!("source string too short for \"{field}\" formatting field"))
                .with_detail(format!("Field requires {width} characters, but only {} remain.", text.chars().count()))
                .with_hint("if your source string is not fixed-width, try using the \"FM\" modifier"));
        }
        if length > sign && length < width {
            let detail = format!("Field requires {width} characters, but only {length} could be parsed.");
            return Err(invalid(window, field, &detail)
                .with_hint("if your source string is not fixed-width, try using the \"FM\" modifier"));
        }
    }
    if length <= sign {
        return Err(invalid(window, field, "Value must be an integer."));
    }
    let value: i32 = text[..length].parse().map_err(|_| {
        SqlError::new("22008", format!("value for \"{field}\" in source string is out of range"))
            .with_detail("Value must be in the range -2147483648 to 2147483647.")
    })?;
    Ok((value.into(), &text[length..]))
}

/// The position of the name that a text begins with.
fn word<'a>(field: &str, text: &'a str, names: &[&str], is_short: bool) -> Result<(usize, &'a str)> {
    for (i, name) in names.iter().enumerate() {
        let name = if is_short { &name[..3] } else { name };
        if text.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name)) {
            return Ok((i, &text[name.len()..]));
        }
    }
    let word = text.split(|c: char| c.is_whitespace()).next().unwrap_or(text);
    Err(invalid(word, field, "The given value did not match any of the allowed values for this field."))
}

/// A year of fewer than four digits is the one nearest to 2020.
fn near_2020(year: i64) -> i64 {
    match year {
        0..70 => year + 2000,
        70..100 => year + 1900,
        100..520 => year + 2000,
        520..1000 => year + 1000,
        other => other,
    }
}
