//! `COPY (query) TO 'path'`: rows stream into files that appear under their names only when all of them are complete.
//!
//! * this file: the statement's options, and how rows are shared out over files.
//! * [`encode`]: rows to the bytes of one file. [`output`]: where the bytes go, and how files appear; [`local`] and [`remote`].

mod encode;
mod local;
pub mod options;
mod output;
mod remote;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::compute::partition;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use millstream_sql::types::to_text;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use self::encode::Encoder;
use self::options::CopyOptions;
use self::output::Output;
use super::context::Batch;
use super::files::listing::partition_folder;
use super::stores::Access;
use crate::error::{Error, Result, sqlstate};

/// How far a COPY is.
#[derive(Debug, Default)]
pub struct Written {
    pub rows: AtomicU64,
    pub bytes: AtomicU64,
    pub files: AtomicU64,
}

/// A COPY to files, checked, that has not begun.
#[derive(Debug)]
pub struct CopyTo {
    options: CopyOptions,
    /// The columns as they are written, those of the folders included.
    schema: SchemaRef,
    /// Positions of the columns whose values are folders.
    partition_by: Vec<usize>,
    /// The session's, in which CSV prints `timestamptz`.
    zone: String,
    output: Output,
}

impl CopyTo {
    /// Validates place and options before the query runs. Rows must come sorted by the columns of `partition_by`. What waits
    /// for a store does so on the threads of `handle`.
    ///
    /// # Errors
    /// 22023 for unknown options and values, 0A000 for a format or a type of column that files cannot have, 42701 if two
    /// columns have one name, 42809 where a folder stands in the place of a file or the other way round, 58P02 for a folder
    /// that has files already, 58030 if the folder cannot be made; those of the store.
    pub async fn new(
        path: &str,
        options: CopyOptions,
        schema: SchemaRef,
        partition_by: Vec<usize>,
        zone: &str,
        access: &Access,
        handle: &Handle,
    ) -> Result<Self> {
        encode::check_columns(&options, &schema)?;
        let is_folder = options.is_folder() || !partition_by.is_empty() || path.ends_with('/');
        let output = Output::new(path, is_folder, &options, access, handle).await?;
        // Whether a column can be NULL is the planner's guess, and no promise to whoever reads the files.
        let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self { options, schema, partition_by, zone: zone.into(), output })
    }

    /// Writes all rows and returns how many there were. What was there before is replaced at the end, or left as it was if
    /// anything fails.
    ///
    /// # Errors
    /// Of the query; 58030 or 53100 of the file system, those of the store; 57014 when it is cancelled.
    pub async fn write(
        self,
        batch: &Batch,
        rows: SendableRecordBatchStream,
        written: Arc<Written>,
        cancel: CancellationToken,
    ) -> Result<u64> {
        let task = batch.handle().spawn_blocking(move || self.write_blocking(rows, &written, &cancel)).await;
        task.map_err(|e| Error::internal(format!("COPY failed unexpectedly: {e}")))?
    }

    fn write_blocking(
        self,
        mut rows: SendableRecordBatchStream,
        written: &Written,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let handle = Handle::current();
        let mut files = Files::new(&self, written);
        while let Some(batch) = handle.block_on(next(&mut rows, cancel)) {
            files.write(&batch?)?;
        }
        let count = files.finish()?;
        // The last moment at which it can be as if nothing had been.
        if cancel.is_cancelled() {
            return Err(canceled());
        }
        self.output.finish()?;
        Ok(count)
    }
}

/// The next rows, or the error that the statement is cancelled.
async fn next(
    rows: &mut SendableRecordBatchStream,
    cancel: &CancellationToken,
) -> Option<datafusion::error::Result<RecordBatch>> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Some(Err(canceled().into())),
        batch = rows.next() => batch,
    }
}

fn canceled() -> Error {
    Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

/// Rows on their way into one file after the other.
struct Files<'a> {
    copy: &'a CopyTo,
    /// The columns of the files.
    schema: SchemaRef,
    columns: Vec<usize>,
    written: &'a Written,
    /// The folder that rows go to now, and the file in it.
    folder: String,
    open: Option<Encoder>,
    rows_in_file: u64,
    files_in_folder: usize,
    count: u64,
    /// Of the files that are complete.
    bytes: u64,
}

impl<'a> Files<'a> {
    fn new(copy: &'a CopyTo, written: &'a Written) -> Self {
        let columns: Vec<usize> = (0..copy.schema.fields().len()).filter(|i| !copy.partition_by.contains(i)).collect();
        let fields: Vec<_> = columns.iter().map(|i| copy.schema.fields()[*i].clone()).collect();
        Self {
            copy,
            schema: Arc::new(Schema::new(fields)),
            columns,
            written,
            folder: String::new(),
            open: None,
            rows_in_file: 0,
            files_in_folder: 0,
            count: 0,
            bytes: 0,
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.copy.partition_by.is_empty() {
            return self.write_rows(batch);
        }
        let keys: Vec<ArrayRef> = self.copy.partition_by.iter().map(|i| batch.column(*i).clone()).collect();
        let texts = self.copy.partition_by.iter().map(|i| {
            let field = &self.copy.schema.fields()[*i];
            Ok((field.name(), to_text(batch.column(*i), field, "UTC")?))
        });
        let texts = texts.collect::<Result<Vec<_>>>()?;
        for range in partition(&keys)?.ranges() {
            let folders = texts.iter().map(|(name, values)| {
                partition_folder(name, values.is_valid(range.start).then(|| values.value(range.start)))
            });
            let folder = folders.collect::<Vec<_>>().join("/") + "/";
            if folder != self.folder {
                self.close()?;
                self.folder = folder;
                self.files_in_folder = 0;
            }
            self.write_rows(&batch.slice(range.start, range.len()))?;
        }
        Ok(())
    }

    /// Rows of one folder.
    fn write_rows(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch =
            RecordBatch::try_new(self.schema.clone(), self.columns.iter().map(|i| batch.column(*i).clone()).collect())?;
        let mut done = 0;
        while done < batch.num_rows() {
            let room = match self.copy.options.rows_per_file {
                Some(rows) => usize::try_from(rows - self.rows_in_file).unwrap_or(usize::MAX),
                None => usize::MAX,
            };
            let rows = batch.slice(done, (batch.num_rows() - done).min(room));
            let mut encoder = match self.open.take() {
                Some(encoder) => encoder,
                None => self.next_file()?,
            };
            encoder.write(&rows)?;
            let bytes = encoder.bytes();
            self.open = Some(encoder);
            done += rows.num_rows();
            self.rows_in_file += rows.num_rows() as u64;
            self.count += rows.num_rows() as u64;
            self.written.rows.store(self.count, Ordering::Relaxed);
            self.written.bytes.store(self.bytes + bytes, Ordering::Relaxed);
            let is_full = self.copy.options.rows_per_file.is_some_and(|most| self.rows_in_file >= most)
                || self.copy.options.file_size_bytes.is_some_and(|most| bytes >= most);
            if is_full {
                self.close()?;
            }
        }
        Ok(())
    }

    fn next_file(&mut self) -> Result<Encoder> {
        self.files_in_folder += 1;
        self.rows_in_file = 0;
        let name = match self.copy.output.is_folder() {
            true => format!("{}data_{:04}{}", self.folder, self.files_in_folder, self.copy.options.extension()),
            false => String::new(),
        };
        Encoder::new(&self.copy.options, self.schema.clone(), &self.copy.zone, self.copy.output.create(&name)?)
    }

    fn close(&mut self) -> Result<()> {
        if let Some(encoder) = self.open.take() {
            let bytes = encoder.finish()?;
            self.bytes += bytes;
            self.written.bytes.store(self.bytes, Ordering::Relaxed);
            self.written.files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A result without rows is a file without rows.
    fn finish(mut self) -> Result<u64> {
        if self.open.is_none() && self.count == 0 && self.copy.partition_by.is_empty() {
            let encoder = self.next_file()?;
            self.open = Some(encoder);
        }
        self.close()?;
        Ok(self.count)
    }
}

#[cfg(test)]
mod tests;
