//! The options of COPY to files, checked.

use std::collections::BTreeMap;

use datafusion::parquet::basic::{Compression as ParquetCompression, GzipLevel, ZstdLevel};

use crate::batch::delimited::{Delimited, Header};
use crate::batch::files::compression::Compression;
use crate::error::{Error, Result, sqlstate};

/// How files are written.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyOptions {
    pub format: FileFormat,
    /// A file that has this much is closed and another begun.
    pub file_size_bytes: Option<u64>,
    pub rows_per_file: Option<u64>,
    /// Whether a folder that has files is replaced.
    pub overwrite: bool,
    /// The name of the secret that opens the place.
    pub secret: Option<String>,
}

/// The format with its own options.
#[derive(Debug, Clone, PartialEq)]
pub enum FileFormat {
    Parquet {
        compression: ParquetCompression,
        /// Names of the columns that get bloom filters.
        bloom_filters: Vec<String>,
        /// Most rows of a row group.
        row_group_rows: Option<u64>,
    },
    Csv {
        delimited: Delimited,
        compression: Compression,
    },
    Json {
        compression: Compression,
    },
}

const COMMON: &str = "format, compression, partition_by, file_size_bytes, rows_per_file, overwrite, secret";

impl CopyOptions {
    /// Reads COPY's format and its other options; the name of a file may say how it is compressed.
    ///
    /// # Errors
    /// 0A000 for format `text`, 22023 for unknown options and values.
    pub fn new(path: &str, format: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let mut rest = options.clone();
        let mut taken = Self {
            format: FileFormat::Json { compression: Compression::None },
            file_size_bytes: number("file_size_bytes", rest.remove("file_size_bytes"))?,
            rows_per_file: number("rows_per_file", rest.remove("rows_per_file"))?,
            overwrite: boolean("overwrite", rest.remove("overwrite"))?,
            secret: rest.remove(millstream_sql::SECRET_OPTION),
        };
        let compression = rest.remove("compression");
        let of_text = || match &compression {
            Some(name) => Compression::new(name),
            None => Ok(Compression::of_name(path)),
        };
        taken.format = match format {
            "parquet" => {
                let names = rest.remove("bloom_filter").unwrap_or_default();
                let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
                FileFormat::Parquet {
                    compression: of_parquet(compression.as_deref())?,
                    bloom_filters: names.map(str::to_string).collect(),
                    row_group_rows: number("row_group_rows", rest.remove("row_group_rows"))?,
                }
            }
            "csv" => {
                let mut of_lines = BTreeMap::new();
                for key in ["header", "delimiter", "null", "quote", "escape", "encoding"] {
                    if let Some(value) = rest.remove(key) {
                        of_lines.insert(key.to_string(), value);
                    }
                }
                // What is read again finds its columns by the header.
                of_lines.entry("header".into()).or_insert_with(|| "true".into());
                let delimited = Delimited::new("COPY ... TO a file", "csv", &of_lines)?;
                if delimited.header == Header::Match {
                    return Err(invalid("header", "match", "it is true or false"));
                }
                FileFormat::Csv { delimited, compression: of_text()? }
            }
            "json" => FileFormat::Json { compression: of_text()? },
            other => {
                return Err(Error::unsupported(format!("COPY TO a file in format {other} is not supported"))
                    .with_hint("the formats are parquet, csv and json; say FORMAT, or let the name end in .parquet, .csv or .json"));
            }
        };
        if let Some(unknown) = rest.keys().next() {
            let more = match format {
                "parquet" => ", bloom_filter, row_group_rows",
                "csv" => ", header, delimiter, null, quote, escape, encoding",
                _ => "",
            };
            let message = format!("unknown option \"{unknown}\" of COPY TO a {format} file");
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
                .with_hint(format!("known options are {COMMON}{more}")));
        }
        Ok(taken)
    }

    /// Whether there can be several files.
    pub fn is_folder(&self) -> bool {
        self.file_size_bytes.is_some() || self.rows_per_file.is_some()
    }

    /// What the names of files end in.
    pub fn extension(&self) -> String {
        match &self.format {
            FileFormat::Parquet { .. } => ".parquet".into(),
            FileFormat::Csv { compression, .. } => format!(".csv{}", compression.extension()),
            FileFormat::Json { compression } => format!(".json{}", compression.extension()),
        }
    }
}

fn of_parquet(name: Option<&str>) -> Result<ParquetCompression> {
    let Some(name) = name else { return Ok(ParquetCompression::ZSTD(ZstdLevel::default())) };
    Ok(match name.to_ascii_lowercase().as_str() {
        "none" | "uncompressed" => ParquetCompression::UNCOMPRESSED,
        "snappy" => ParquetCompression::SNAPPY,
        "zstd" => ParquetCompression::ZSTD(ZstdLevel::default()),
        "gzip" => ParquetCompression::GZIP(GzipLevel::default()),
        "lz4" => ParquetCompression::LZ4_RAW,
        _ => return Err(invalid("compression", name, "known values are none, snappy, zstd, gzip, lz4")),
    })
}

fn invalid(key: &str, value: &str, hint: &str) -> Error {
    let message = format!("invalid value \"{value}\" for option \"{key}\"");
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(hint)
}

fn number(key: &str, value: Option<String>) -> Result<Option<u64>> {
    value
        .map(|text| match text.parse::<u64>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(invalid(key, &text, "it is a number from 1 on")),
        })
        .transpose()
}

fn boolean(key: &str, value: Option<String>) -> Result<bool> {
    match value.as_deref() {
        None | Some("false" | "off" | "0" | "no") => Ok(false),
        Some("true" | "on" | "1" | "yes") => Ok(true),
        Some(other) => Err(invalid(key, other, "it is true or false")),
    }
}
