//! Reads the `WITH (…)` options of a source or sink once: each is taken by name, what is left over is an error.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{ConnectorError, Result};

/// The options of one statement while they are being taken. Names are compared in lower case.
pub struct Options<'a> {
    /// What the options are of, as errors print it: `a kafka source`.
    of: &'a str,
    left: BTreeMap<String, &'a str>,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    /// Starts with all options of the statement.
    pub fn new(of: &'a str, options: &'a BTreeMap<String, String>) -> Self {
        let left = options.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.as_str())).collect();
        Self { of, left, known: Vec::new() }
    }

    /// What the options are of.
    pub fn of(&self) -> &'a str {
        self.of
    }

    /// Takes one option.
    pub fn take(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        self.left.remove(name)
    }

    /// Takes one option that has two names.
    ///
    /// # Errors
    /// 22023 if both are given and differ.
    pub fn take_alias(&mut self, name: &'static str, alias: &'static str) -> Result<Option<&'a str>> {
        let (a, b) = (self.take(name), self.left.remove(alias));
        match (a, b) {
            (Some(a), Some(b)) if a != b => Err(ConnectorError::option(format!(
                "options \"{name}\" and \"{alias}\" of {} are the same option and differ",
                self.of
            ))),
            (a, b) => Ok(a.or(b)),
        }
    }

    /// Takes an option that must be there.
    ///
    /// # Errors
    /// 22023 if it is missing or empty.
    pub fn require(&mut self, name: &'static str) -> Result<&'a str> {
        self.take(name).filter(|v| !v.trim().is_empty()).ok_or_else(|| self.missing(name))
    }

    /// The error of a missing option.
    pub fn missing(&self, name: &str) -> ConnectorError {
        ConnectorError::option(format!("option \"{name}\" of {} is missing", self.of))
    }

    /// Takes an option that is one of a few words.
    ///
    /// # Errors
    /// 22023 listing the words.
    pub fn take_word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match words.iter().find(|(word, _)| word.eq_ignore_ascii_case(value.trim())) {
            Some((_, t)) => Ok(Some(*t)),
            None => {
                let words: Vec<_> = words.iter().map(|(w, _)| *w).collect();
                Err(ConnectorError::option(format!("option \"{name}\" of {} cannot be \"{value}\"", self.of))
                    .with_hint(format!("known values: {}", words.join(", "))))
            }
        }
    }

    /// Takes a whole number.
    ///
    /// # Errors
    /// 22023 if it is none.
    pub fn take_integer(&mut self, name: &'static str) -> Result<Option<i64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|_| {
            ConnectorError::option(format!("option \"{name}\" of {} is not a whole number: \"{value}\"", self.of))
        })
    }

    /// Takes a duration: a number with a unit (`30 s`, `500ms`, `5 minutes`), or of seconds without one.
    ///
    /// # Errors
    /// 22023 if it is none.
    pub fn take_duration(&mut self, name: &'static str) -> Result<Option<Duration>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        parse_duration(value).map(Some).ok_or_else(|| {
            ConnectorError::option(format!("option \"{name}\" of {} is not a duration: \"{value}\"", self.of))
                .with_hint("write a number and a unit, as in '30 s', '500 ms', '5 minutes'")
        })
    }

    /// Takes every option that starts with `prefix`, without it.
    pub fn take_prefixed(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let names: Vec<_> = self.left.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
        names
            .into_iter()
            .filter_map(|k| self.left.remove(&k).map(|v| (k[prefix.len()..].to_string(), v.to_string())))
            .collect()
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// 22023 naming the first option that nobody took, with the known ones as hint.
    pub fn finish(mut self, also_known: &str) -> Result<()> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        self.known.sort_unstable();
        self.known.dedup();
        if self.known.is_empty() && also_known.is_empty() {
            return Err(ConnectorError::option(format!("unknown option \"{name}\" of {}", self.of))
                .with_hint("it has no options"));
        }
        let mut known = self.known.join(", ");
        if !also_known.is_empty() {
            known = format!("{known}, {also_known}");
        }
        Err(ConnectorError::option(format!("unknown option \"{name}\" of {}", self.of))
            .with_hint(format!("known options: {known}")))
    }
}

/// A duration in text; units are PostgreSQL's for settings and the words of an interval.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let seconds = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => 1e-6,
        "ms" | "msec" | "millisecond" | "milliseconds" => 1e-3,
        "" | "s" | "sec" | "second" | "seconds" => 1.0,
        "min" | "m" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn an_unknown_option_lists_the_known_ones() {
        let options = given(&[("topic", "t"), ("colour", "red"), ("properties.a", "b")]);
        let mut o = Options::new("a kafka source", &options);
        assert_eq!(o.take("topic"), Some("t"));
        assert_eq!(o.take("idle_timeout"), None);
        assert_eq!(o.take_prefixed("properties."), given(&[("a", "b")]));
        let e = o.finish("properties.*").unwrap_err();
        assert_eq!(e.sqlstate(), "22023");
        assert_eq!(e.message(), "unknown option \"colour\" of a kafka source");
        assert_eq!(e.hint(), Some("known options: idle_timeout, topic, properties.*"));
    }

    #[test]
    fn durations() {
        for (text, ms) in
            [("30", 30_000), ("30 s", 30_000), ("500ms", 500), ("1.5 minutes", 90_000), ("2h", 7_200_000), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5 parsecs", "-3 s", "1e3"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn an_alias_must_agree() {
        let options = given(&[("a", "1"), ("b", "2")]);
        assert!(Options::new("x", &options).take_alias("a", "b").is_err());
        let options = given(&[("b", "2")]);
        assert_eq!(Options::new("x", &options).take_alias("a", "b").unwrap(), Some("2"));
    }
}
