//! Rows put aside, first in, first out: a few in memory, the others in a file of the spill folder.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SpillFile, SpillWriter};

use crate::error::{Error, Result, sqlstate};
use crate::state::segments::compact_views;

/// Rows that stay in memory.
const MEMORY_BYTES: usize = 1 << 20;

/// Batches in the order in which they came.
pub struct Spool {
    env: Arc<RuntimeEnv>,
    /// Older than those in the file.
    memory: VecDeque<RecordBatch>,
    memory_bytes: usize,
    file: Option<SpoolFile>,
}

/// A file, which goes with its last handle.
struct SpoolFile {
    /// `None` while something is written.
    writer: Option<Box<dyn SpillWriter>>,
    reader: Arc<File>,
    /// Where it ends, ...
    end: u64,
    /// ... and where in it each batch is that was not taken yet.
    batches: VecDeque<(u64, usize)>,
    _file: Arc<dyn SpillFile>,
}

impl Spool {
    /// An empty one, whose file is in the spill folder of `env`.
    pub fn new(env: Arc<RuntimeEnv>) -> Self {
        Self { env, memory: VecDeque::new(), memory_bytes: 0, file: None }
    }

    /// Puts a batch at the end.
    ///
    /// # Errors
    /// 53100 if there is no room for it.
    pub async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = compact_views(&batch)?;
        let bytes = batch.get_array_memory_size();
        if self.file.is_none() && self.memory_bytes + bytes <= MEMORY_BYTES {
            self.memory_bytes += bytes;
            self.memory.push_back(batch);
            return Ok(());
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => SpoolFile::new(&self.env)?,
        };
        let Some(mut writer) = file.writer.take() else {
            return Err(Error::internal("a spool is written to after a write that failed"));
        };
        let written = blocking(move || {
            let mut bytes = StreamWriter::try_new(Vec::new(), &batch.schema())?;
            bytes.write(&batch)?;
            let bytes = bytes.into_inner()?;
            writer.write_all(&bytes).map_err(|e| {
                Error::new(sqlstate::DISK_FULL, format!("the rows of a cursor cannot be kept: {e}"))
                    .with_hint("fetch the rows as they come, or ask for fewer")
            })?;
            Ok((writer, bytes.len()))
        });
        let (writer, length) = written.await?;
        file.writer = Some(writer);
        file.batches.push_back((file.end, length));
        file.end += length as u64;
        self.file = Some(file);
        Ok(())
    }

    /// The batch of that number, from 0, of a spool of which none is taken. It stays.
    ///
    /// # Errors
    /// 58030 if the file cannot be read, XX000 if there is none of that number.
    pub async fn at(&mut self, index: usize) -> Result<RecordBatch> {
        if let Some(batch) = self.memory.get(index) {
            return Ok(batch.clone());
        }
        let missing = || Error::internal("a spool has no batch of that number");
        let file = self.file.as_ref().ok_or_else(missing)?;
        let (at, length) = *file.batches.get(index - self.memory.len()).ok_or_else(missing)?;
        let reader = file.reader.clone();
        blocking(move || read(&reader, at, length)?.ok_or_else(missing)).await
    }

    /// Takes the first batch; `None` if there is none.
    ///
    /// # Errors
    /// 58030 if the file cannot be read.
    pub async fn pop(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(batch) = self.memory.pop_front() {
            self.memory_bytes -= batch.get_array_memory_size();
            return Ok(Some(batch));
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        let Some((at, length)) = file.batches.pop_front() else {
            self.file = None;
            return Ok(None);
        };
        let reader = file.reader.clone();
        blocking(move || read(&reader, at, length)).await
    }
}

fn read(file: &File, at: u64, length: usize) -> Result<Option<RecordBatch>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    Ok(reader.next().transpose()?)
}

impl SpoolFile {
    fn new(env: &RuntimeEnv) -> Result<Self> {
        let file = env.disk_manager.create_tmp_file("cursor")?;
        let path = file.path().ok_or_else(|| Error::internal("a spill file has no path"))?;
        let reader = Arc::new(File::open(path)?);
        let writer = Some(file.open_writer()?);
        Ok(Self { writer, reader, end: 0, batches: VecDeque::new(), _file: file })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a spool failed: {e}")))?
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;
    use crate::batch::testing::engine;

    fn batch(from: i64) -> RecordBatch {
        let numbers: Int64Array = (from..from + 1000).collect();
        let texts: StringViewArray = (0..1000).map(|i| Some(format!("a text that is not kept inline {i}"))).collect();
        let columns: [(&str, ArrayRef); 2] = [("n", Arc::new(numbers)), ("t", Arc::new(texts))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[tokio::test]
    async fn rows_come_back_in_order_from_memory_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path(), 64 << 20);
        let env = engine.runtime_env().clone();
        let mut spool = Spool::new(env.clone());
        let (mut next, mut written) = (0, 0);
        // Puts in faster than it takes out, then takes out all, then goes on.
        for (puts, takes) in [(50, 20), (50, 80), (3, 3), (100, 100)] {
            for _ in 0..puts {
                spool.push(batch(written)).await.unwrap();
                written += 1000;
            }
            if puts >= 50 {
                assert!(env.disk_manager.used_disk_space() > 0, "nothing is in a file");
            }
            for _ in 0..takes {
                let taken = spool.pop().await.unwrap().unwrap();
                assert_eq!(taken, batch(next));
                assert_eq!(taken.column(0).as_primitive::<Int64Type>().value(0), next);
                next += 1000;
            }
        }
        assert!(spool.pop().await.unwrap().is_none());
        assert_eq!(env.disk_manager.used_disk_space(), 0);
    }
}
