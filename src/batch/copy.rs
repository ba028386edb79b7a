//! `COPY (query) TO 'file.parquet'`: rows stream into a temporary file that takes its name only when it is complete.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, GzipLevel, ZstdLevel};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;
use futures::StreamExt;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::context::Batch;
use crate::error::{Error, Result, sqlstate};

/// A row group is written out when it holds this much, so that a long COPY takes little memory.
const ROW_GROUP_BYTES_MAX: usize = 64 << 20;

/// Where COPY writes, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyFile {
    path: PathBuf,
    compression: Compression,
}

impl CopyFile {
    /// Validates path, format and options before the query runs.
    ///
    /// # Errors
    /// 0A000 for a format other than `parquet`, 22023 for unknown options and values, 42809 for a folder, 58030 if
    /// the parent folder is missing and cannot be made.
    pub fn new(path: &str, format: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        if !format.eq_ignore_ascii_case("parquet") {
            return Err(Error::unsupported(format!("COPY TO a file in format {format} is not supported"))
                .with_hint("write a .parquet file, or let the client write: \\copy (query) TO 'file' CSV"));
        }
        let compression = compression(options)?;
        let local = path.strip_prefix("file://").unwrap_or(path);
        if local.contains("://") {
            return Err(Error::unsupported(format!("COPY TO \"{path}\": only local files are supported")));
        }
        let path = std::path::absolute(local)?;
        if local.ends_with('/') || path.is_dir() {
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("\"{local}\" is a directory"))
                .with_hint("name the file to write"));
        }
        let Some(folder) = path.parent().filter(|_| path.file_name().is_some()) else {
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("\"{local}\" is not the name of a file")));
        };
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::new(sqlstate::IO_ERROR, format!("the folder of \"{local}\" cannot be made: {e}")))?;
        Ok(Self { path, compression })
    }

    /// Writes all rows and returns how many there were. An existing file is replaced at the end, or left as it was if
    /// anything fails.
    ///
    /// # Errors
    /// Of the query; 58030 or 53100 of the file system; 42701 if two columns have one name; 0A000 for a column type that
    /// Parquet does not have.
    pub async fn write(self, batch: &Batch, rows: SendableRecordBatchStream) -> Result<u64> {
        check_columns(&rows.schema())?;
        let written = batch.handle().spawn_blocking(move || self.write_blocking(rows)).await;
        written.map_err(|e| Error::internal(format!("COPY failed unexpectedly: {e}")))?
    }

    fn write_blocking(self, mut rows: SendableRecordBatchStream) -> Result<u64> {
        let failed = |e: std::io::Error| self.io_error(&e);
        let mut target = Unfinished::create(&self.path).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(self.compression)
            .set_created_by(format!("millstream {}", env!("CARGO_PKG_VERSION")))
            .build();
        let mut writer = ArrowWriter::try_new(&mut target.file, rows.schema(), Some(properties))
            .map_err(|e| self.parquet_error(e))?;
        let mut count = 0;
        while let Some(batch) = Handle::current().block_on(rows.next()) {
            let batch = batch?;
            count += batch.num_rows() as u64;
            writer.write(&batch).map_err(|e| self.parquet_error(e))?;
            if writer.in_progress_size() > ROW_GROUP_BYTES_MAX {
                writer.flush().map_err(|e| self.parquet_error(e))?;
            }
        }
        writer.close().map_err(|e| self.parquet_error(e))?;
        target.finish(&self.path).map_err(failed)?;
        Ok(count)
    }

    fn io_error(&self, e: &std::io::Error) -> Error {
        let code = match e.kind() {
            std::io::ErrorKind::StorageFull => sqlstate::DISK_FULL,
            _ => sqlstate::IO_ERROR,
        };
        Error::new(code, format!("cannot write \"{}\": {e}", self.path.display()))
    }

    fn parquet_error(&self, e: ParquetError) -> Error {
        match e {
            ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
                Ok(io) => self.io_error(&io),
                Err(other) => DataFusionError::External(other).into(),
            },
            other => Error::new(sqlstate::IO_ERROR, format!("cannot write \"{}\": {other}", self.path.display())),
        }
    }
}

/// A file under a temporary name in the folder of its target; removed unless it is finished.
struct Unfinished {
    file: File,
    path: PathBuf,
    finished: bool,
}

impl Unfinished {
    fn create(target: &Path) -> std::io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // Names that start with a dot are no data to our own listing, and to most others.
        let path = target.with_file_name(format!(".{name}.{}.tmp", Uuid::new_v4()));
        Ok(Self { file: File::create_new(&path)?, path, finished: false })
    }

    fn finish(&mut self, target: &Path) -> std::io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.finished = true;
        match target.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished
            && let Err(e) = fs::remove_file(&self.path)
        {
            tracing::warn!("temporary file \"{}\" was not removed: {e}", self.path.display());
        }
    }
}

fn compression(options: &BTreeMap<String, String>) -> Result<Compression> {
    let mut found = Compression::ZSTD(ZstdLevel::default());
    for (key, value) in options {
        if key != "compression" {
            let message = format!("unknown option \"{key}\" of COPY TO a Parquet file");
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
                .with_hint("known options are format, compression"));
        }
        found = match value.to_ascii_lowercase().as_str() {
            "none" | "uncompressed" => Compression::UNCOMPRESSED,
            "snappy" => Compression::SNAPPY,
            "zstd" => Compression::ZSTD(ZstdLevel::default()),
            "gzip" => Compression::GZIP(GzipLevel::default()),
            "lz4" => Compression::LZ4_RAW,
            _ => {
                let message = format!("invalid value \"{value}\" for option \"compression\"");
                return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
                    .with_hint("known values are none, snappy, zstd, gzip, lz4"));
            }
        };
    }
    Ok(found)
}

fn check_columns(schema: &SchemaRef) -> Result<()> {
    let mut names = HashSet::new();
    for field in schema.fields() {
        if !names.insert(field.name()) {
            let message = format!("column name \"{}\" appears more than once", field.name());
            return Err(Error::new("42701", message).with_hint("give the columns of the query different names"));
        }
        if matches!(field.data_type(), DataType::Interval(_)) {
            return Err(Error::unsupported(format!(
                "Parquet files cannot hold column \"{}\", an interval",
                field.name()
            ))
            .with_hint("cast it to text, or take its seconds with extract(epoch from …)"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use futures::stream;

    use super::*;
    use crate::batch::files::read_parquet;
    use crate::batch::testing::{engine, shown};

    fn batch(values: Vec<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
    }

    fn rows(batches: Vec<datafusion::error::Result<RecordBatch>>) -> SendableRecordBatchStream {
        Box::pin(RecordBatchStreamAdapter::new(batch(vec![]).schema(), stream::iter(batches)))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn rows_are_written_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path(), 64 << 20);
        let path = dir.path().join("x.parquet").to_string_lossy().into_owned();
        for compression in ["snappy", "zstd", "none"] {
            let options = BTreeMap::from([("compression".to_string(), compression.to_string())]);
            let file = CopyFile::new(&path, "parquet", &options).unwrap();
            let count = file.write(&engine, rows(vec![Ok(batch(vec![1, 2])), Ok(batch(vec![3]))])).await.unwrap();
            assert_eq!(count, 3);
            let t = Arc::new(read_parquet(&engine, &path).await.unwrap());
            assert!(shown(&engine, "SELECT sum(n) AS s FROM t", &[("t", t)]).await.contains("| 6 |"));
        }
        assert_eq!(names(dir.path()), ["spill", "x.parquet"]);
    }

    #[tokio::test]
    async fn a_failure_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path(), 64 << 20);
        let target = dir.path().join("x.parquet");
        fs::write(&target, "old").unwrap();
        let file = CopyFile::new(&target.to_string_lossy(), "parquet", &BTreeMap::new()).unwrap();
        let broken = Error::new(sqlstate::DIVISION_BY_ZERO, "division by zero");
        let error = file.write(&engine, rows(vec![Ok(batch(vec![1])), Err(broken.into())])).await.unwrap_err();
        assert_eq!(error.sqlstate(), "22012");
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(names(dir.path()), ["spill", "x.parquet"]);
    }

    #[test]
    fn bad_targets_and_options_are_refused_before_the_query_runs() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &str, format: &str, options: &[(&str, &str)]| {
            let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            CopyFile::new(path, format, &options).unwrap_err().sqlstate().to_string()
        };
        let folder = dir.path().to_string_lossy();
        assert_eq!(refused(&folder, "parquet", &[]), "42809");
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(refused(&format!("{folder}/file/x.parquet"), "parquet", &[]), "58030");
        assert_eq!(refused(&format!("{folder}/x.parquet"), "parquet", &[("compresion", "zstd")]), "22023");
        assert_eq!(refused(&format!("{folder}/x.parquet"), "parquet", &[("compression", "rar")]), "22023");
        assert_eq!(refused(&format!("{folder}/x.xml"), "xml", &[]), "0A000");
    }
}
