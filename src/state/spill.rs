//! The commit of a write set too large for the log: sorted files, taken into RocksDB in one atomic step.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{IngestExternalFileOptions, Options, SstFileWriter};

use super::failure::from_rocksdb;
use super::frozen::FrozenSet;
use super::store::Store;
use super::{PREFIX_LEN, object_end, object_start};
use crate::error::{Error, Result, sqlstate};
use crate::failpoint;

/// Writes all of the epoch, its record included, to files that do not overlap and ingests them together. Everything
/// committed before becomes durable with it: RocksDB flushes what the files overlap, and the epoch record always does.
pub(super) fn ingest(store: &Store, frozen: &FrozenSet) -> Result<()> {
    let directory = store.ingest_directory();
    fs::create_dir_all(&directory).map_err(|e| io(&directory, &e))?;
    let options = store.options().sst();
    let mut files = Files::new(&options, directory, frozen.epoch(), store.options().spill_file_bytes);
    let outcome = write(frozen, &mut files).and_then(|()| {
        let database = store.database();
        database.flush_wal(true).map_err(|e| from_rocksdb("sync the log", e))?;
        failpoint::pass("spill.before_ingest")?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let paths = files.paths.clone();
        database.ingest_external_file_opts(&options, paths).map_err(|e| from_rocksdb("ingest an epoch", e))?;
        failpoint::pass("spill.after_ingest")
    });
    files.remove();
    outcome
}

fn write(frozen: &FrozenSet, files: &mut Files<'_>) -> Result<()> {
    let mut drops = frozen.drops.iter().copied().peekable();
    let mut store_key = Vec::new();
    for (table, rows) in &frozen.tables {
        while let Some(object) = drops.next_if(|object| *object <= table.object) {
            files.drop_object(object)?;
        }
        // The range of a drop must not reach into the next file.
        let may_cut = !frozen.drops.contains(&table.object);
        store_key.clear();
        store_key.extend_from_slice(&table.prefix());
        for (key, value) in rows.iter() {
            store_key.truncate(PREFIX_LEN);
            store_key.extend_from_slice(key);
            files.write(&store_key, value, may_cut)?;
        }
    }
    for object in drops {
        files.drop_object(object)?;
    }
    files.close()
}

/// The files of one epoch, written one after the other.
struct Files<'o> {
    options: &'o Options,
    directory: PathBuf,
    epoch: u64,
    /// A file is closed before the first key that comes after this many bytes of rows.
    file_bytes: usize,
    writer: Option<SstFileWriter<'o>>,
    /// Bytes of rows in the current file.
    written: usize,
    paths: Vec<PathBuf>,
}

impl<'o> Files<'o> {
    fn new(options: &'o Options, directory: PathBuf, epoch: u64, file_bytes: usize) -> Self {
        Self { options, directory, epoch, file_bytes, writer: None, written: 0, paths: Vec::new() }
    }

    fn write(&mut self, store_key: &[u8], value: Option<&[u8]>, may_cut: bool) -> Result<()> {
        if may_cut && self.written >= self.file_bytes {
            self.close()?;
        }
        let writer = self.open()?;
        match value {
            Some(value) => writer.put(store_key, value),
            None => writer.delete(store_key),
        }
        .map_err(failed)?;
        self.written += store_key.len() + value.map_or(0, <[u8]>::len);
        Ok(())
    }

    fn drop_object(&mut self, object: u32) -> Result<()> {
        self.open()?.delete_range(object_start(object), object_end(object)).map_err(failed)
    }

    fn open(&mut self) -> Result<&mut SstFileWriter<'o>> {
        if self.writer.is_none() {
            let path = self.directory.join(format!("{}-{}.sst", self.epoch, self.paths.len()));
            self.paths.push(path.clone());
            let writer = SstFileWriter::create(self.options);
            writer.open(path).map_err(failed)?;
            self.writer = Some(writer);
            self.written = 0;
        }
        self.writer.as_mut().ok_or_else(|| Error::internal("no file is open"))
    }

    /// Ends the current file; its bytes are synced.
    fn close(&mut self) -> Result<()> {
        match self.writer.take() {
            Some(mut writer) => writer.finish().map_err(failed),
            None => Ok(()),
        }
    }

    /// Removes what is left: files that were ingested are linked into the database by now.
    fn remove(&mut self) {
        self.writer = None;
        for path in &self.paths {
            let _ = fs::remove_file(path);
        }
    }
}

fn failed(error: rocksdb::Error) -> Error {
    from_rocksdb("write an epoch to files", error)
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull => sqlstate::DISK_FULL,
        _ => sqlstate::IO_ERROR,
    };
    Error::new(code, format!("could not create directory \"{}\": {error}", path.display()))
}
