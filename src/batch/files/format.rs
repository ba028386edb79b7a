//! The file formats and the options that each of them takes.

use std::collections::BTreeMap;

use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::execution::session_state::SessionState;

use super::compression::Compression;
use crate::batch::delimited::{Delimited, Header};
use crate::error::{Error, Result, sqlstate};

/// How files are written, with the options validated.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    Parquet,
    Text(Text),
}

/// Lines of text: how rows are in them, and how they are compressed.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    pub lines: LineFormat,
    /// `None`: as the name of each file says.
    pub compression: Option<Compression>,
    /// Rows of a file that its columns are guessed from, where they are not declared.
    pub sample_rows: usize,
}

/// How a line holds a row.
#[derive(Debug, Clone, PartialEq)]
pub enum LineFormat {
    Csv {
        delimited: Delimited,
        /// The text that stands for NULL beside nothing at all.
        null: Option<String>,
    },
    /// One JSON object a line.
    Json,
}

const CSV_OPTIONS: &[&str] = &["header", "delimiter", "quote", "escape", "null", "compression", "sample_rows"];
const JSON_OPTIONS: &[&str] = &["compression", "sample_rows"];
const SAMPLE_ROWS: usize = 20_000;

impl Format {
    /// Reads `STORED AS name` and its options. Keys may have the prefix `format.`, as DataFusion writes them, and some have the
    /// name that DuckDB gives them too. An option `secret` is not the format's.
    ///
    /// # Errors
    /// 22023 for an unknown format, option or value, naming those that are known.
    pub fn new(name: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let options: BTreeMap<&str, &str> = options
            .iter()
            .filter(|(k, _)| *k != millstream_sql::SECRET_OPTION)
            .map(|(k, v)| (canonical(k), v.as_str()))
            .collect();
        match name.to_ascii_uppercase().as_str() {
            "PARQUET" => {
                refuse_unknown("PARQUET", &options, &[])?;
                Ok(Self::Parquet)
            }
            "CSV" => {
                refuse_unknown("CSV", &options, CSV_OPTIONS)?;
                let quote = character(&options, "quote")?.unwrap_or('"');
                let delimited = Delimited {
                    csv: true,
                    header: if boolean(&options, "header", true)? { Header::Present } else { Header::None },
                    delimiter: character(&options, "delimiter")?.unwrap_or(','),
                    null: String::new(),
                    quote,
                    escape: character(&options, "escape")?.unwrap_or(quote),
                };
                if delimited.delimiter == quote {
                    return Err(invalid("quote", &quote.to_string(), "it is the delimiter"));
                }
                let null = options.get("null").map(ToString::to_string);
                Ok(Self::Text(Text::new(LineFormat::Csv { delimited, null }, &options)?))
            }
            "JSON" => {
                refuse_unknown("JSON", &options, JSON_OPTIONS)?;
                Ok(Self::Text(Text::new(LineFormat::Json, &options)?))
            }
            _ => Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unknown file format \"{name}\""))
                .with_hint("known formats are PARQUET, CSV and JSON")),
        }
    }

    /// Its name as messages print it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Parquet => "Parquet",
            Self::Text(text) => text.lines.name(),
        }
    }

    /// Endings of the names of data files in a folder, in lower case.
    pub fn extensions(&self) -> &'static [&'static str] {
        match self {
            Self::Parquet => &[".parquet", ".parq"],
            Self::Text(Text { lines: LineFormat::Csv { .. }, .. }) => {
                &[".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".tsv.zst"]
            }
            Self::Text(Text { lines: LineFormat::Json, .. }) => &[
                ".json",
                ".jsonl",
                ".ndjson",
                ".json.gz",
                ".json.zst",
                ".jsonl.gz",
                ".jsonl.zst",
                ".ndjson.gz",
                ".ndjson.zst",
            ],
        }
    }
}

impl Text {
    fn new(lines: LineFormat, options: &BTreeMap<&str, &str>) -> Result<Self> {
        let compression = match options.get("compression") {
            None => None,
            Some(name) if name.eq_ignore_ascii_case("auto") => None,
            Some(name) => Some(Compression::new(name)?),
        };
        let sample_rows = match options.get("sample_rows") {
            None => SAMPLE_ROWS,
            Some(text) => match text.parse() {
                Ok(rows) if rows > 0 => rows,
                _ => return Err(invalid("sample_rows", text, "expected a number of rows from 1 on")),
            },
        };
        Ok(Self { lines, compression, sample_rows })
    }

    /// How a file of that name is compressed.
    pub fn compression_of(&self, name: &str) -> Compression {
        self.compression.unwrap_or_else(|| Compression::of_name(name))
    }
}

impl LineFormat {
    /// Its name as messages print it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Csv { .. } => "CSV",
            Self::Json => "JSON",
        }
    }
}

/// DataFusion's reader of Parquet files.
pub fn parquet(state: &SessionState) -> ParquetFormat {
    let mut options = state.default_table_options().parquet;
    // Microseconds are what timestamps are here; nanoseconds of old writers overflow in 2262.
    options.global.coerce_int96 = Some("us".into());
    ParquetFormat::default().with_options(options)
}

fn canonical(key: &str) -> &str {
    let key = key.strip_prefix("format.").unwrap_or(key);
    match key.strip_prefix("has_").unwrap_or(key) {
        "delim" | "sep" => "delimiter",
        "nullstr" => "null",
        "sample_size" => "sample_rows",
        key => key,
    }
}

fn refuse_unknown(format: &str, options: &BTreeMap<&str, &str>, known: &[&str]) -> Result<()> {
    let Some(unknown) = options.keys().find(|k| !known.contains(k)) else { return Ok(()) };
    let error =
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unknown option \"{unknown}\" of {format} files"));
    Err(match known {
        [] => error.with_hint(format!("{format} files take no options but secret")),
        known => error.with_hint(format!("known options are {}, secret", known.join(", "))),
    })
}

fn invalid(key: &str, value: &str, wanted: &str) -> Error {
    let message = format!("invalid value \"{value}\" for option \"{key}\": {wanted}");
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
}

fn boolean(options: &BTreeMap<&str, &str>, key: &str, default: bool) -> Result<bool> {
    match options.get(key).map(|v| v.to_ascii_lowercase()).as_deref() {
        None => Ok(default),
        Some("true" | "on" | "1" | "yes") => Ok(true),
        Some("false" | "off" | "0" | "no") => Ok(false),
        Some(other) => Err(invalid(key, other, "expected true or false")),
    }
}

fn character(options: &BTreeMap<&str, &str>, key: &str) -> Result<Option<char>> {
    match options.get(key) {
        None => Ok(None),
        Some(&"\\t") => Ok(Some('\t')),
        Some(value) => match value.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(Some(char::from(*byte))),
            _ => Err(invalid(key, value, "expected one character of one byte")),
        },
    }
}
