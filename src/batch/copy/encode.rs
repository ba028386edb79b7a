//! Rows to the bytes of one file.

use std::collections::HashSet;
use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::schema::types::ColumnPath;
use millstream_catalog::SqlType;
use millstream_connectors::format::json::{ObjectWriter, check_writable};

use super::options::{CopyOptions, FileFormat};
use super::output::{FileWriter, io_error};
use crate::batch::delimited::Delimited;
use crate::batch::files::compression::Compressing;
use crate::error::{Error, Result, sqlstate};

/// A row group is written out when it holds this much, so that a long COPY takes little memory.
const ROW_GROUP_BYTES_MAX: usize = 64 << 20;

/// One file that is being written.
pub struct Encoder {
    /// For messages.
    name: String,
    to: To,
}

enum To {
    Parquet(Box<ArrowWriter<FileWriter>>),
    Csv { to: Box<Compressing<FileWriter>>, delimited: Delimited, schema: SchemaRef, zone: String, bytes: u64 },
    Json { to: Box<Compressing<FileWriter>>, schema: SchemaRef, bytes: u64 },
}

impl Encoder {
    /// Begins a file.
    ///
    /// # Errors
    /// Of the writer.
    pub fn new(options: &CopyOptions, schema: SchemaRef, zone: &str, to: FileWriter) -> Result<Self> {
        let name = to.name().to_string();
        let failed = |e: std::io::Error| io_error(&name, e);
        let to = match &options.format {
            FileFormat::Parquet { compression, bloom_filters, row_group_rows } => {
                let mut properties = WriterProperties::builder()
                    .set_compression(*compression)
                    .set_created_by(format!("millstream {}", env!("CARGO_PKG_VERSION")));
                if let Some(rows) = row_group_rows {
                    let rows = usize::try_from(*rows).unwrap_or(usize::MAX);
                    properties = properties.set_max_row_group_row_count(Some(rows));
                }
                for column in bloom_filters {
                    properties = properties.set_column_bloom_filter_enabled(ColumnPath::from(column.as_str()), true);
                }
                let writer = ArrowWriter::try_new(to, schema, Some(properties.build()));
                To::Parquet(Box::new(writer.map_err(|e| parquet_error(&name, e))?))
            }
            FileFormat::Csv { delimited, compression } => {
                let mut to = Box::new(compression.writer(to).map_err(failed)?);
                let header = delimited.header(&schema).unwrap_or_default();
                to.write_all(header.as_bytes()).map_err(failed)?;
                To::Csv { to, delimited: delimited.clone(), schema, zone: zone.into(), bytes: header.len() as u64 }
            }
            FileFormat::Json { compression } => {
                To::Json { to: Box::new(compression.writer(to).map_err(failed)?), schema, bytes: 0 }
            }
        };
        Ok(Self { name, to })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// Of the writer.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let Self { name, to } = self;
        match to {
            To::Parquet(writer) => {
                writer.write(rows).map_err(|e| parquet_error(name, e))?;
                if writer.in_progress_size() > ROW_GROUP_BYTES_MAX {
                    writer.flush().map_err(|e| parquet_error(name, e))?;
                }
                Ok(())
            }
            To::Csv { to, delimited, schema, zone, bytes } => {
                let lines = delimited.lines(rows, schema, zone)?;
                *bytes += lines.len() as u64;
                to.write_all(lines.as_bytes()).map_err(|e| io_error(name, e))
            }
            To::Json { to, schema, bytes } => {
                let objects = ObjectWriter::new(schema, rows, 0..schema.fields().len())?;
                let mut lines = Vec::new();
                for row in 0..rows.num_rows() {
                    objects.write(row, &mut lines);
                    lines.push(b'\n');
                }
                *bytes += lines.len() as u64;
                to.write_all(&lines).map_err(|e| io_error(name, e))
            }
        }
    }

    /// Bytes so far, about: before compression of text, encoded of Parquet.
    pub fn bytes(&self) -> u64 {
        match &self.to {
            To::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
            To::Csv { bytes, .. } | To::Json { bytes, .. } => *bytes,
        }
    }

    /// Completes the file, which does not appear yet. How many bytes it has.
    ///
    /// # Errors
    /// Of the writer.
    pub fn finish(self) -> Result<u64> {
        let Self { name, to } = self;
        let file = match to {
            To::Parquet(writer) => writer.into_inner().map_err(|e| parquet_error(&name, e))?,
            To::Csv { to, .. } | To::Json { to, .. } => to.finish().map_err(|e| io_error(&name, e))?,
        };
        file.close()
    }
}

fn parquet_error(name: &str, e: ParquetError) -> Error {
    match e {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(io) => io_error(name, *io),
            Err(other) => DataFusionError::External(other).into(),
        },
        other => Error::new(sqlstate::IO_ERROR, format!("cannot write \"{name}\": {other}")),
    }
}

/// Whether files of the format can have the columns.
///
/// # Errors
/// 42701 if two have one name, 0A000 for a type that the format does not have, 42703 for a bloom filter of no column.
pub fn check_columns(options: &CopyOptions, schema: &SchemaRef) -> Result<()> {
    let mut names = HashSet::new();
    for field in schema.fields() {
        if !names.insert(field.name()) {
            let message = format!("column name \"{}\" appears more than once", field.name());
            return Err(Error::new("42701", message).with_hint("give the columns of the query different names"));
        }
        match &options.format {
            FileFormat::Parquet { .. } if matches!(field.data_type(), DataType::Interval(_)) => {
                return Err(Error::unsupported(format!(
                    "Parquet files cannot hold column \"{}\", an interval",
                    field.name()
                ))
                .with_hint("cast it to text, or take its seconds with extract(epoch from …)"));
            }
            FileFormat::Json { .. } => {
                if let Some(sql_type) = SqlType::of(field) {
                    check_writable(field.name(), &sql_type)?;
                }
            }
            _ => {}
        }
    }
    if let FileFormat::Parquet { bloom_filters, .. } = &options.format
        && let Some(unknown) = bloom_filters.iter().find(|name| !names.contains(name))
    {
        return Err(Error::new("42703", format!("column \"{unknown}\" named in BLOOM_FILTER does not exist")));
    }
    Ok(())
}
