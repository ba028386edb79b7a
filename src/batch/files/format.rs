//! The file formats and the options that each of them takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::execution::session_state::SessionState;

use crate::error::{Error, Result, sqlstate};

/// How files are written, with the options validated.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    Parquet,
    Csv(Csv),
    /// One JSON object a line.
    Json(Json),
}

/// Options of CSV files.
#[derive(Debug, Clone, PartialEq)]
pub struct Csv {
    pub header: bool,
    pub delimiter: u8,
    pub quote: u8,
    pub escape: Option<u8>,
    /// The text that stands for NULL beside the empty string.
    pub null: Option<String>,
    pub compression: CompressionTypeVariant,
}

/// Options of JSON files.
#[derive(Debug, Clone, PartialEq)]
pub struct Json {
    pub compression: CompressionTypeVariant,
}

const CSV_OPTIONS: &[&str] = &["header", "delimiter", "quote", "escape", "null", "compression"];
const JSON_OPTIONS: &[&str] = &["compression"];

impl Format {
    /// Reads `STORED AS name` and its options. Keys may have the prefix `format.`, as DataFusion writes them.
    ///
    /// # Errors
    /// 22023 for an unknown format, option or value, naming those that are known.
    pub fn new(name: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let options: BTreeMap<&str, &str> = options
            .iter()
            .map(|(k, v)| (k.strip_prefix("format.").unwrap_or(k), v.as_str()))
            .map(|(k, v)| (k.strip_prefix("has_").unwrap_or(k), v))
            .collect();
        match name.to_ascii_uppercase().as_str() {
            "PARQUET" => {
                refuse_unknown("PARQUET", &options, &[])?;
                Ok(Self::Parquet)
            }
            "CSV" => {
                refuse_unknown("CSV", &options, CSV_OPTIONS)?;
                Ok(Self::Csv(Csv {
                    header: boolean(&options, "header", true)?,
                    delimiter: byte(&options, "delimiter")?.unwrap_or(b','),
                    quote: byte(&options, "quote")?.unwrap_or(b'"'),
                    escape: byte(&options, "escape")?,
                    null: options.get("null").map(ToString::to_string),
                    compression: compression(&options)?,
                }))
            }
            "JSON" => {
                refuse_unknown("JSON", &options, JSON_OPTIONS)?;
                Ok(Self::Json(Json { compression: compression(&options)? }))
            }
            _ => Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unknown file format \"{name}\""))
                .with_hint("known formats are PARQUET, CSV and JSON")),
        }
    }

    /// Endings of the names of data files in a folder, in lower case.
    pub fn extensions(&self) -> &'static [&'static str] {
        match self {
            Self::Parquet => &[".parquet", ".parq"],
            Self::Csv(_) => &[".csv", ".csv.gz", ".csv.zst", ".csv.bz2", ".csv.xz", ".tsv"],
            Self::Json(_) => {
                &[".json", ".jsonl", ".ndjson", ".json.gz", ".json.zst", ".jsonl.gz", ".jsonl.zst", ".ndjson.gz"]
            }
        }
    }

    /// Whether files say themselves how many rows they have.
    pub fn counts_rows(&self) -> bool {
        *self == Self::Parquet
    }

    /// DataFusion's reader of the format.
    pub fn reader(&self, state: &SessionState) -> Arc<dyn FileFormat> {
        match self {
            Self::Parquet => {
                let mut options = state.default_table_options().parquet;
                // Microseconds are what timestamps are here; nanoseconds of old writers overflow in 2262.
                options.global.coerce_int96 = Some("us".into());
                Arc::new(ParquetFormat::default().with_options(options))
            }
            Self::Csv(csv) => {
                let mut format = CsvFormat::default()
                    .with_has_header(csv.header)
                    .with_delimiter(csv.delimiter)
                    .with_quote(csv.quote)
                    .with_escape(csv.escape)
                    .with_newlines_in_values(true)
                    .with_file_compression_type(FileCompressionType::from(csv.compression));
                if let Some(null) = &csv.null {
                    format = format.with_null_regex(Some(format!("^({})?$", escape_regex(null))));
                }
                Arc::new(format)
            }
            Self::Json(json) => {
                Arc::new(JsonFormat::default().with_file_compression_type(FileCompressionType::from(json.compression)))
            }
        }
    }
}

fn refuse_unknown(format: &str, options: &BTreeMap<&str, &str>, known: &[&str]) -> Result<()> {
    let Some(unknown) = options.keys().find(|k| !known.contains(k)) else { return Ok(()) };
    let error =
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unknown option \"{unknown}\" of {format} files"));
    Err(match known {
        [] => error.with_hint(format!("{format} files take no options")),
        known => error.with_hint(format!("known options are {}", known.join(", "))),
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

fn byte(options: &BTreeMap<&str, &str>, key: &str) -> Result<Option<u8>> {
    match options.get(key) {
        None => Ok(None),
        Some(&"\\t") => Ok(Some(b'\t')),
        Some(value) => match value.as_bytes() {
            [byte] => Ok(Some(*byte)),
            _ => Err(invalid(key, value, "expected one character of one byte")),
        },
    }
}

fn compression(options: &BTreeMap<&str, &str>) -> Result<CompressionTypeVariant> {
    let Some(value) = options.get("compression") else { return Ok(CompressionTypeVariant::UNCOMPRESSED) };
    Ok(match value.to_ascii_lowercase().as_str() {
        "none" | "uncompressed" => CompressionTypeVariant::UNCOMPRESSED,
        "gzip" | "gz" => CompressionTypeVariant::GZIP,
        "zstd" | "zst" => CompressionTypeVariant::ZSTD,
        "bzip2" | "bz2" => CompressionTypeVariant::BZIP2,
        "xz" => CompressionTypeVariant::XZ,
        _ => return Err(invalid("compression", value, "expected none, gzip, zstd, bzip2 or xz")),
    })
}

/// Makes a text match itself in a regular expression.
fn escape_regex(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
}
