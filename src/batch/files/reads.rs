//! Which files a table was read from, so that it can be read from the same ones again.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::listing::DataFile;
use crate::error::{Error, Result, sqlstate};

/// A file as it was: another size or time is another file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileVersion {
    /// As people name it: `/data/x.csv`, `s3://bucket/x.csv`.
    pub path: String,
    pub size: u64,
    /// Microseconds since 1970.
    pub modified_us: i64,
}

impl FileVersion {
    fn of(file: &DataFile) -> Self {
        Self { path: file.name.clone(), size: file.meta.size, modified_us: file.meta.last_modified.timestamp_micros() }
    }
}

/// Notes which files a table is read from; or lets it be read from some alone, as they were.
#[derive(Debug, Default)]
pub struct FileReads {
    only: Option<Vec<FileVersion>>,
    read: Mutex<Vec<FileVersion>>,
}

impl FileReads {
    /// Lets these files be read alone.
    pub fn only(files: Vec<FileVersion>) -> Self {
        Self { only: Some(files), read: Mutex::default() }
    }

    /// The files that were read so far, by path.
    pub fn read(&self) -> Vec<FileVersion> {
        let mut read = self.read.lock().clone();
        read.sort();
        read.dedup();
        read
    }

    /// Of the files that there are, those that may be read.
    ///
    /// # Errors
    /// 55000 naming the first of the wanted files that is gone or is not as it was.
    pub(super) fn allowed(&self, files: Vec<DataFile>) -> Result<Vec<DataFile>> {
        let Some(only) = &self.only else { return Ok(files) };
        let mut there: HashMap<String, (FileVersion, DataFile)> = HashMap::with_capacity(files.len());
        for file in files {
            let version = FileVersion::of(&file);
            there.insert(version.path.clone(), (version, file));
        }
        let as_it_was = |wanted: &FileVersion| {
            let how = match there.remove(&wanted.path) {
                Some((version, file)) if version == *wanted => return Ok(file),
                Some(_) => "is not as it was",
                None => "is not there any more",
            };
            let message = format!("file \"{}\" {how}, so what was read is not kept", wanted.path);
            Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .with_hint("EXECUTE TASK ... FOR TIMESTAMP runs it again on what is there now"))
        };
        only.iter().map(as_it_was).collect()
    }

    /// Notes what is read.
    pub(super) fn note<'a>(&self, files: impl Iterator<Item = &'a DataFile>) {
        self.read.lock().extend(files.map(FileVersion::of));
    }
}
