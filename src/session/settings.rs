//! Session settings: what SET, SHOW and RESET know.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;
use millstream_catalog::SqlType;

use super::api::{Notice, Response};
use super::definitions::{parallelism, rate_limit};
use super::roles::{IS_SUPERUSER, NO_ROLE, ROLE, SESSION_AUTHORIZATION};
use super::{Session, complete};
use crate::calendar::zone;
use crate::error::{Error, Result, sqlstate};

/// One setting that a session can change or read.
struct Known {
    /// As PostgreSQL spells it.
    name: &'static str,
    default: &'static str,
    /// Whether clients are told of a change.
    reported: bool,
    /// Whether it can be set to something else.
    kind: Kind,
    description: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    /// Milliseconds, or a number with a unit.
    Duration,
    TimeZone,
    SearchPath,
    /// As a view's option of that name.
    Parallelism,
    RateLimit,
    /// Only this value is supported: setting another is an error.
    Fixed,
    /// Who the session is, which other statements change.
    Identity,
    /// RisingWave's, without a meaning here: accepted with a notice.
    Ignored,
}

const fn known(
    name: &'static str,
    default: &'static str,
    reported: bool,
    kind: Kind,
    description: &'static str,
) -> Known {
    Known { name, default, reported, kind, description }
}

const KNOWN: &[Known] = &[
    known("application_name", "", true, Kind::Text, "Name of the client's program."),
    known(
        "backfill_rate_limit",
        "-1",
        false,
        Kind::RateLimit,
        "Rows a second that new continuous views take of what was there before them; -1 is without limit.",
    ),
    known("bytea_output", "hex", false, Kind::Fixed, "How bytea prints."),
    known("client_encoding", "UTF8", true, Kind::Fixed, "Encoding of text from and to the client."),
    known("client_min_messages", "notice", false, Kind::Text, "Least severe messages that are sent."),
    known("max_identifier_length", "63", false, Kind::Fixed, "Most bytes of a name."),
    known("max_index_keys", "32", false, Kind::Fixed, "Most columns of a key."),
    known("default_table_access_method", "heap", false, Kind::Fixed, "Access method that pg_class shows of tables."),
    known("DateStyle", "ISO, MDY", true, Kind::Fixed, "How dates print."),
    known("default_transaction_isolation", "repeatable read", false, Kind::Text, "Isolation of new transactions."),
    known("default_transaction_read_only", "off", true, Kind::Bool, "Whether new transactions only read."),
    known("extra_float_digits", "1", false, Kind::Text, "Floats always print in their shortest exact form."),
    known(IS_SUPERUSER, "off", true, Kind::Identity, "Whether the session's role is a superuser."),
    known("integer_datetimes", "on", true, Kind::Fixed, "Times are integers on the wire."),
    known("IntervalStyle", "postgres", true, Kind::Fixed, "How intervals print."),
    known("lock_timeout", "0", false, Kind::Duration, "There are no locks to wait for."),
    known(
        "parallelism",
        "0",
        false,
        Kind::Parallelism,
        "Shards of the operators of new continuous views; 0 is as many as there are cores.",
    ),
    known(
        "progress_interval",
        "0",
        false,
        Kind::Duration,
        "How often a client is told how far its statement is; 0 is never.",
    ),
    known(ROLE, NO_ROLE, false, Kind::Identity, "Role that the session acts as, if not as its own; see SET ROLE."),
    known("search_path", "public", false, Kind::SearchPath, "Schemas in which names are looked up."),
    known("server_encoding", "UTF8", true, Kind::Fixed, "Encoding of the database."),
    known("server_version", "17.0", true, Kind::Fixed, "PostgreSQL version that is spoken."),
    known("server_version_num", "170000", false, Kind::Fixed, "PostgreSQL version that is spoken, as a number."),
    known(SESSION_AUTHORIZATION, "", true, Kind::Identity, "Role that the session is of."),
    known("standard_conforming_strings", "on", true, Kind::Fixed, "Backslashes in strings are plain characters."),
    known("statement_timeout", "0", false, Kind::Duration, "Longest time of a statement; 0 is without limit."),
    known("TimeZone", "UTC", true, Kind::TimeZone, "Zone in which timestamptz is read and printed."),
    known("transaction_isolation", "repeatable read", false, Kind::Fixed, "Isolation of the transaction."),
    known("idle_in_transaction_session_timeout", "0", false, Kind::Duration, "Longest idle time in a transaction."),
    known(
        "rw_implicit_flush",
        "true",
        false,
        Kind::Ignored,
        "RisingWave's; every write here is visible when it returns.",
    ),
    known("streaming_parallelism", "0", false, Kind::Ignored, "RisingWave's; see parallelism."),
    known("query_mode", "auto", false, Kind::Ignored, "RisingWave's."),
    known("background_ddl", "false", false, Kind::Ignored, "RisingWave's."),
    known("streaming_use_shared_source", "true", false, Kind::Ignored, "RisingWave's; sources are always shared here."),
];

/// A session's values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// By lower-case name; a missing one has its default.
    values: BTreeMap<String, String>,
    zone: TimeZone,
    changes: Vec<(String, String)>,
}

impl Settings {
    /// All defaults.
    pub fn new() -> Self {
        Self { values: BTreeMap::new(), zone: TimeZone::UTC, changes: Vec::new() }
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// 42704 for an unknown one.
    pub fn get(&self, name: &str) -> Result<String> {
        let known = find(name)?;
        let set = self.values.get(&known.name.to_lowercase());
        Ok(set.cloned().unwrap_or_else(|| known.default.to_string()))
    }

    /// The value of a setting if it was set; the name is in lower case.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Puts a value in place that SET does not change.
    pub fn put(&mut self, name: &'static str, value: &str) {
        if find(name).is_ok_and(|known| known.reported) {
            self.changes.push((name.to_string(), value.to_string()));
        }
        self.values.insert(name.to_string(), value.to_string());
    }

    /// Every setting as (name, value, default, description).
    pub fn all(&self) -> Vec<(&'static str, String, &'static str, &'static str)> {
        let mut all: Vec<_> = KNOWN
            .iter()
            .map(|k| {
                let set = self.values.get(&k.name.to_lowercase());
                (k.name, set.cloned().unwrap_or_else(|| k.default.to_string()), k.default, k.description)
            })
            .collect();
        all.sort_by_key(|(name, ..)| name.to_lowercase());
        all
    }

    /// Name of the session's time zone.
    pub fn time_zone(&self) -> &str {
        self.values.get("timezone").map_or("UTC", String::as_str)
    }

    /// The session's time zone.
    pub fn zone(&self) -> TimeZone {
        self.zone.clone()
    }

    /// A setting that is a duration, such as `statement_timeout`; none for 0.
    pub fn timeout(&self, name: &str) -> Option<Duration> {
        duration(self.values.get(name)?).filter(|d| !d.is_zero())
    }

    /// What clients must be told of.
    pub fn take_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }

    /// Whether a setting of kind bool is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| value == "on")
    }

    /// Goes back, or on, to other values; clients are told of what differs.
    pub fn restore(&mut self, mut other: Self) {
        let value = |settings: &Self, known: &Known| {
            settings.values.get(&known.name.to_lowercase()).map_or(known.default, String::as_str).to_string()
        };
        let differs = |known: &&Known| known.reported && value(self, known) != value(&other, known);
        let changes: Vec<_> = KNOWN.iter().filter(differs).map(|k| (k.name.to_string(), value(&other, k))).collect();
        other.changes = std::mem::take(&mut self.changes);
        other.changes.extend(changes);
        *self = other;
    }

    /// The schemas of `search_path`.
    pub fn search_path(&self) -> Vec<String> {
        let path = self.values.get("search_path").map_or(millstream_catalog::DEFAULT_SCHEMA, String::as_str);
        path.split(',')
            .map(|s| s.trim().trim_matches('"').trim_matches('\'').to_string())
            .filter(|s| !s.is_empty() && s != "$user" && s != "pg_catalog")
            .collect()
    }

    /// Sets a value; `None` is the default. Whether the setting means nothing here.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool> {
        let known = find(name)?;
        let value = value.unwrap_or(known.default);
        let invalid = |hint: &str| {
            Error::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"{}\": \"{value}\"", known.name),
            )
            .with_hint(hint)
        };
        let value = match known.kind {
            Kind::Text | Kind::SearchPath | Kind::Ignored => value.to_string(),
            Kind::Bool => match value.to_lowercase().as_str() {
                "on" | "true" | "yes" | "1" | "t" => "on".to_string(),
                "off" | "false" | "no" | "0" | "f" => "off".to_string(),
                _ => return Err(invalid("it is on or off")),
            },
            Kind::Duration => duration(value)
                .map(printed)
                .ok_or_else(|| invalid("it is a number of milliseconds, or has a unit: ms, s, min, h, d"))?,
            Kind::Parallelism => {
                parallelism(value).map_err(|e| invalid(e.hint().unwrap_or_default()))?;
                value.trim().to_string()
            }
            Kind::RateLimit => {
                rate_limit(value).map_err(|e| invalid(e.hint().unwrap_or_default()))?;
                value.trim().to_string()
            }
            Kind::TimeZone => {
                self.zone =
                    zone(value).ok_or_else(|| invalid("it is a name like Europe/London or an offset like +02"))?;
                canonical_zone(value)
            }
            Kind::Identity => {
                return Err(Error::new("55P02", format!("parameter \"{}\" cannot be changed", known.name))
                    .with_hint("use SET ROLE or SET SESSION AUTHORIZATION"));
            }
            Kind::Fixed => {
                let same = |a: &str, b: &str| {
                    a.to_lowercase().replace(['-', ' '], "") == b.to_lowercase().replace(['-', ' '], "")
                };
                let iso = known.name == "DateStyle" && value.to_lowercase().starts_with("iso");
                let unicode = known.name == "client_encoding" && same(value, "unicode");
                if !(same(value, known.default) || iso || unicode) {
                    return Err(invalid(&format!("only {} is supported", known.default)));
                }
                known.default.to_string()
            }
        };
        if known.reported {
            self.changes.push((known.name.to_string(), value.clone()));
        }
        self.values.insert(known.name.to_lowercase(), value);
        Ok(known.kind == Kind::Ignored)
    }
}

impl Session {
    /// Sets a value at the start of the connection or by SET.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        if self.settings.set(name, value)? {
            self.notices.push(Notice::notice(format!("setting \"{name}\" has no meaning here and is ignored")));
        }
        if name.eq_ignore_ascii_case("search_path") {
            self.search_path = self.settings.search_path();
        }
        if name.eq_ignore_ascii_case("application_name") {
            self.database.named(self.id, self.settings.get("application_name")?);
        }
        Ok(())
    }

    /// Goes back, or on, to other values: a transaction has ended.
    pub(super) fn restore_settings(&mut self, settings: Settings) {
        self.settings.restore(settings);
        self.search_path = self.settings.search_path();
    }

    pub(super) fn set_statement(&mut self, local: bool, name: &str, value: Option<&str>) -> Result<Response> {
        if local && self.transaction.is_none() {
            self.warn_no_transaction("SET LOCAL can only be used in transaction blocks");
            return Ok(complete("SET"));
        }
        self.set(name, value)?;
        if !local {
            self.set_after_commit(name, value)?;
        }
        Ok(complete("SET"))
    }

    pub(super) fn reset_statement(&mut self, name: Option<&str>) -> Result<Response> {
        match name {
            Some(name) => {
                self.set(name, None)?;
                self.set_after_commit(name, None)?;
            }
            None => {
                for known in KNOWN.iter().filter(|k| !matches!(k.kind, Kind::Ignored | Kind::Identity)) {
                    self.set(known.name, None)?;
                    self.set_after_commit(known.name, None)?;
                }
            }
        }
        Ok(complete("RESET"))
    }
}

fn find(name: &str) -> Result<&'static Known> {
    KNOWN.iter().find(|k| k.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        Error::new("42704", format!("unrecognized configuration parameter \"{name}\""))
            .with_hint(format!("known parameters: {}", KNOWN.iter().map(|k| k.name).collect::<Vec<_>>().join(", ")))
    })
}

/// The zone's name as expressions read it: a bare offset gets its sign and two digits.
fn canonical_zone(name: &str) -> String {
    let name = name.trim();
    if TimeZone::get(name).is_ok() {
        return name.to_string();
    }
    match zone(name) {
        Some(zone) if zone == TimeZone::UTC => "UTC".to_string(),
        Some(zone) => zone.to_fixed_offset().map_or_else(
            |_| name.to_string(),
            |offset| {
                let seconds = offset.seconds();
                format!(
                    "{}{:02}:{:02}",
                    if seconds < 0 { '-' } else { '+' },
                    seconds.abs() / 3600,
                    seconds.abs() / 60 % 60
                )
            },
        ),
        None => name.to_string(),
    }
}

/// As PostgreSQL prints it: in the largest unit that leaves a whole number.
fn printed(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    let unit = units.into_iter().find(|(size, _)| ms.is_multiple_of(*size));
    match unit {
        Some((size, unit)) if ms > 0 => format!("{}{unit}", ms / size),
        _ => "0".into(),
    }
}

/// Milliseconds, or a number with a unit.
pub fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..digits].parse().ok()?;
    let ms = match value[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(ms)?))
}

/// The type that a client declares for a parameter; 0 and unknown ones are inferred.
pub fn type_of_oid(oid: u32) -> Option<SqlType> {
    let types = [
        SqlType::Bool,
        SqlType::Bytea,
        SqlType::Name,
        SqlType::Int8,
        SqlType::Int2,
        SqlType::Int4,
        SqlType::Text,
        SqlType::Oid,
        SqlType::Json,
        SqlType::Float4,
        SqlType::Float8,
        SqlType::Varchar(None),
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::Timestamptz,
        SqlType::Interval,
        SqlType::Numeric(None),
        SqlType::Uuid,
        SqlType::Jsonb,
    ];
    if oid == 1042 {
        return Some(SqlType::Text);
    }
    let arrays = types.clone().map(|t| SqlType::Array(Box::new(t)));
    types.into_iter().chain(arrays).find(|t| t.oid() == oid)
}
