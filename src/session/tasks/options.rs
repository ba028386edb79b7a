//! The WITH options of a task, read once.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_connectors::options::parse_duration;

use crate::error::{Error, Result, sqlstate};

/// What the names of a task's own parameters start with among its options.
pub const PARAMETER: &str = "parameter.";

/// The pause before a failed run is tried again, which doubles with each try.
const RETRY_BACKOFF: Duration = Duration::from_secs(10);
/// The longest such pause.
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(3600);
/// How long ended runs are kept.
const HISTORY_RETENTION: Duration = Duration::from_secs(30 * 86_400);
const RETRIES_MAX: u32 = 1000;

/// What becomes of scheduled times that passed while the server was not running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing: the next time counts.
    None,
    /// The last of them is run.
    #[default]
    Latest,
    /// All of them are run, in order.
    All,
}

/// What becomes of a scheduled time that comes while an earlier run is not over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overlap {
    /// It is noted as skipped.
    #[default]
    Skip,
    /// It waits for its turn.
    Queue,
}

/// The options of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOptions {
    /// How long a try may take; `None` is without limit.
    pub timeout: Option<Duration>,
    /// How often a failed run is tried again.
    pub retries: u32,
    /// The pause before the first of these.
    pub retry_backoff: Duration,
    pub catch_up: CatchUp,
    pub overlap: Overlap,
    /// So many failed runs in a row suspend the task; 0: never.
    pub suspend_after_failures: u32,
    /// How long ended runs are kept; `None` is for ever.
    pub history_retention: Option<Duration>,
    /// The channel that is told of each failed run.
    pub notify: Option<String>,
    /// The parameters with their defaults, names in lower case.
    pub parameters: BTreeMap<String, String>,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            timeout: None,
            retries: 0,
            retry_backoff: RETRY_BACKOFF,
            catch_up: CatchUp::default(),
            overlap: Overlap::default(),
            suspend_after_failures: 0,
            history_retention: Some(HISTORY_RETENTION),
            notify: None,
            parameters: BTreeMap::new(),
        }
    }
}

impl TaskOptions {
    /// Reads the options of the task `name`.
    ///
    /// # Errors
    /// 22023 for an unknown option, with the known ones as hint, and for a value that it cannot have.
    pub fn of(name: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let mut read = Self::default();
        for (option, value) in options {
            let wrong = |hint: &str| {
                let message = format!("option \"{option}\" of task \"{name}\" cannot be '{value}'");
                Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(hint)
            };
            let duration = || {
                parse_duration(value)
                    .ok_or_else(|| wrong("write a number and a unit, as in '30 s', '15 minutes', '2 hours'"))
            };
            let number = |max: u32| {
                let number = value.trim().parse().ok().filter(|n| *n <= max);
                number.ok_or_else(|| wrong(&format!("use a whole number from 0 to {max}")))
            };
            match option.as_str() {
                "timeout" => read.timeout = Some(duration()?).filter(|d| !d.is_zero()),
                "retries" => read.retries = number(RETRIES_MAX)?,
                "retry_backoff" => read.retry_backoff = duration()?,
                "catch_up" => {
                    read.catch_up = match value.to_lowercase().as_str() {
                        "none" => CatchUp::None,
                        "latest" => CatchUp::Latest,
                        "all" => CatchUp::All,
                        _ => return Err(wrong("use 'none', 'latest' (the default) or 'all'")),
                    };
                }
                "overlap" => {
                    read.overlap = match value.to_lowercase().as_str() {
                        "skip" => Overlap::Skip,
                        "queue" => Overlap::Queue,
                        _ => return Err(wrong("use 'skip' (the default) or 'queue'")),
                    };
                }
                "suspend_after_failures" => read.suspend_after_failures = number(u32::MAX)?,
                "history_retention" => read.history_retention = Some(duration()?).filter(|d| !d.is_zero()),
                "notify" if value.is_empty() => return Err(wrong("use the name of a channel")),
                "notify" => read.notify = Some(value.clone()),
                other => match other.strip_prefix(PARAMETER).filter(|parameter| !parameter.is_empty()) {
                    Some(parameter) => drop(read.parameters.insert(parameter.to_lowercase(), value.clone())),
                    None => {
                        let message = format!("unknown option \"{option}\" of task \"{name}\"");
                        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(
                            "the options are catch_up, history_retention, notify, overlap, retries, retry_backoff, \
                             suspend_after_failures, timeout, and parameter.NAME with its default",
                        ));
                    }
                },
            }
        }
        Ok(read)
    }

    /// The parameters of a run, of which some were given.
    ///
    /// # Errors
    /// 42704 for a parameter that the task does not have.
    pub fn parameters_with(&self, task: &str, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
        let mut parameters = self.parameters.clone();
        for (name, value) in given {
            match parameters.get_mut(&name.to_lowercase()) {
                Some(parameter) => parameter.clone_from(value),
                None => {
                    let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
                    let hint = match known.as_slice() {
                        [] => format!("declare it with its default: CREATE TASK ... WITH ({PARAMETER}{name} = '...')"),
                        known => format!("the parameters are: {}", known.join(", ")),
                    };
                    let message = format!("task \"{task}\" has no parameter \"{name}\"");
                    return Err(Error::new(sqlstate::UNDEFINED_OBJECT, message).with_hint(hint));
                }
            }
        }
        Ok(parameters)
    }

    /// The pause before a run is tried again that has failed `failures` times, of at least one.
    pub fn pause_after(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
        self.retry_backoff.saturating_mul(doubled).min(RETRY_BACKOFF_MAX.max(self.retry_backoff))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<TaskOptions> {
        TaskOptions::of("t", &pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn options_are_typed() {
        let read = options(&[
            ("timeout", "30 min"),
            ("retries", "3"),
            ("catch_up", "ALL"),
            ("overlap", "queue"),
            ("history_retention", "0"),
            ("parameter.Region", "eu"),
        ])
        .unwrap();
        assert_eq!((read.timeout, read.retries), (Some(Duration::from_secs(1800)), 3));
        assert_eq!((read.catch_up, read.overlap), (CatchUp::All, Overlap::Queue));
        assert_eq!(read.history_retention, None);
        let given = BTreeMap::from([("REGION".to_string(), "us".to_string())]);
        assert_eq!(read.parameters_with("t", &given).unwrap()["region"], "us");
        let unknown = BTreeMap::from([("zone".to_string(), "us".to_string())]);
        assert_eq!(read.parameters_with("t", &unknown).unwrap_err().hint(), Some("the parameters are: region"));
        for (option, value) in [("timeout", "soon"), ("retries", "-1"), ("catch_up", "some"), ("colour", "red")] {
            assert_eq!(options(&[(option, value)]).unwrap_err().sqlstate(), "22023", "{option}");
        }
    }

    #[test]
    fn pauses_double_up_to_an_hour() {
        let read = options(&[("retry_backoff", "10 s")]).unwrap();
        let pauses = [1, 2, 3, 100].map(|n| read.pause_after(n).as_secs());
        assert_eq!(pauses, [10, 20, 40, 3600]);
        assert_eq!(options(&[("retry_backoff", "2 h")]).unwrap().pause_after(9).as_secs(), 7200);
        assert_eq!(options(&[("retry_backoff", "0")]).unwrap().pause_after(9).as_secs(), 0);
    }
}
