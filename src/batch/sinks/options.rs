//! What `WITH (…)` says of a sink that writes files.

use std::collections::HashMap;
use std::time::Duration;

use millstream_catalog::object::Sink;
use millstream_connectors::options::Options;
use millstream_connectors::{ConnectorError, Result};

use crate::batch::lake::place::properties;

const COMMIT_INTERVAL: Duration = Duration::from_secs(60);
const FILE_SIZE: u64 = 128 << 20;
/// Commits of a Delta sink after which its small files are put together.
const COMPACTION_COMMITS: u32 = 64;

/// The options.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    pub location: String,
    pub secret: Option<String>,
    pub partition_by: Vec<String>,
    /// How long rows wait for others at most.
    pub commit_interval: Duration,
    /// Rows of so many bytes, as they are in memory, are committed at once.
    pub file_size: u64,
    /// `None`: files stay as they were written.
    pub compaction_commits: Option<u32>,
    /// Properties of a Delta table that is made for the sink.
    pub properties: HashMap<String, String>,
}

impl SinkOptions {
    /// Reads and checks them.
    ///
    /// # Errors
    /// 22023 for unknown options and values, and for a partition column that the sink does not have.
    pub fn new(sink: &Sink, is_delta: bool) -> Result<Self> {
        let of = if is_delta { "a delta sink" } else { "a parquet sink" };
        let mut options = Options::new(of, &sink.options);
        options.take("connector");
        options.take("state_ttl");
        let location = options.require("location")?.to_string();
        let secret = options.take("secret").map(str::to_string);
        let names = options.take("partition_by").unwrap_or_default();
        let partition_by: Vec<String> =
            names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect();
        for (i, name) in partition_by.iter().enumerate() {
            if !sink.columns.iter().any(|c| c.name == *name) {
                let columns: Vec<&str> = sink.columns.iter().map(|c| c.name.as_str()).collect();
                return Err(ConnectorError::option(format!(
                    "partition_by names \"{name}\", which is no column of the sink"
                ))
                .with_hint(format!("its columns are {}", columns.join(", "))));
            }
            if partition_by[..i].contains(name) {
                return Err(ConnectorError::option(format!("partition_by names \"{name}\" more than once")));
            }
        }
        if partition_by.len() >= sink.columns.len() {
            return Err(ConnectorError::option("partition_by names all columns of the sink")
                .with_hint("the files need a column that is not in the names of their folders"));
        }
        let commit_interval = options.take_duration("commit_interval")?.unwrap_or(COMMIT_INTERVAL);
        let file_size = match options.take("file_size") {
            None => FILE_SIZE,
            Some(text) => parse_bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
                ConnectorError::option(format!("option \"file_size\" of {of} is no size: \"{text}\""))
                    .with_hint("write a number and a unit, as in '128 MB'")
            })?,
        };
        let mut compaction_commits = None;
        let mut table = HashMap::new();
        if is_delta {
            compaction_commits = match options.take_integer("compaction_commits")? {
                None => Some(COMPACTION_COMMITS),
                Some(0) => None,
                Some(n) => Some(u32::try_from(n).map_err(|_| {
                    ConnectorError::option(format!("option \"compaction_commits\" of {of} cannot be {n}"))
                        .with_hint("0 leaves files as they are written")
                })?),
            };
            let given = options.take_prefixed("delta.");
            let given: Vec<(String, String)> =
                given.into_iter().map(|(key, value)| (format!("delta.{key}"), value)).collect();
            table = properties(given.iter().map(|(key, value)| (key, value))).map_err(super::told)?;
        }
        options.finish(if is_delta { "delta.*" } else { "" })?;
        Ok(Self { location, secret, partition_by, commit_interval, file_size, compaction_commits, properties: table })
    }
}

/// A number of bytes with a unit of powers of 1024: `128 MB`, `1GB`, `65536`.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "kib" | "k" => 1 << 10,
        "mb" | "mib" | "m" => 1 << 20,
        "gb" | "gib" | "g" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("128 MB"), Some(128 << 20));
        assert_eq!(parse_bytes("1gb"), Some(1 << 30));
        assert_eq!(parse_bytes("77"), Some(77));
        assert_eq!((parse_bytes("x"), parse_bytes("1 t"), parse_bytes("")), (None, None, None));
    }
}
