//! Files of records, one a line: a file, all files of a folder, or those that a pattern names.
//!
//! * [`lines`]: a file's lines. [`reader`]: the threads behind [`crate::Reader`], and a SELECT on the source.
//!
//! Each file is a partition, numbered by its name, in which a record's offset is the position of its line in bytes. Files
//! that come later, and lines that are written to the end of those that are there, are found while the source is read. A
//! last line without a line break is a record once its file has not grown for a second.

mod lines;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_catalog::Column;
use millstream_catalog::object::Include;

pub(crate) use self::reader::{BoundedReader, FilesReader, ReadTask};
use crate::error::{ConnectorError, Result, sqlstate};
use crate::options::Options;

/// A validated source of files. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct FilesSource {
    path: Arc<str>,
}

impl FilesSource {
    /// Takes the options that are of files, and looks at what columns include.
    pub fn take(options: &mut Options<'_>, columns: &[Column]) -> Result<Self> {
        let path = options.require("path")?;
        if let Err(e) = glob::Pattern::new(path) {
            return Err(ConnectorError::option(format!(
                "option \"path\" of a filesystem source is no pattern: \"{path}\": {e}"
            )));
        }
        let included = columns.iter().find_map(|c| match c.include {
            Some(Include::Key) => Some("key"),
            Some(Include::Timestamp) => Some("timestamp"),
            Some(Include::Headers) => Some("headers"),
            Some(Include::Partition | Include::Offset) | None => None,
        });
        match included {
            Some(word) => {
                Err(ConnectorError::unsupported(format!("INCLUDE {word} is not supported by a filesystem source"))
                    .with_hint("a line has a partition and an offset"))
            }
            None => Ok(Self { path: path.into() }),
        }
    }

    /// The path as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The files as of now by partition.
    ///
    /// # Errors
    /// 58P01 if there is none, 58030 if they cannot be listed.
    pub fn files(&self) -> Result<BTreeMap<i32, PathBuf>> {
        let files = self.list()?;
        match files.is_empty() {
            true => {
                Err(ConnectorError::new(sqlstate::UNDEFINED_FILE, format!("there is no file at \"{}\"", self.path))
                    .with_hint(
                        "path is a file, a folder, or a pattern such as '/data/payments-*.jsonl', on the server",
                    ))
            }
            false => Ok(files),
        }
    }

    /// The same, which may be none.
    pub fn list(&self) -> Result<BTreeMap<i32, PathBuf>> {
        let path = Path::new(&*self.path);
        let failed = |e: std::io::Error| {
            ConnectorError::new(sqlstate::IO_ERROR, format!("files at \"{}\" cannot be listed: {e}", self.path))
        };
        let found: Vec<PathBuf> = if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(failed)?;
            entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>().map_err(failed)?
        } else if path.exists() {
            vec![path.to_path_buf()]
        } else {
            let matches = glob::glob(&self.path).map_err(|e| ConnectorError::option(e.to_string()))?;
            matches.collect::<Result<_, _>>().map_err(|e| failed(e.into()))?
        };
        let mut files: BTreeMap<i32, PathBuf> = BTreeMap::new();
        for file in found.into_iter().filter(|file| file.is_file() && !is_hidden(file)) {
            let partition = number(&file);
            if let Some(other) = files.insert(partition, file.clone()) {
                return Err(ConnectorError::unsupported(format!(
                    "files \"{}\" and \"{}\" have the same number by their names",
                    other.display(),
                    file.display()
                ))
                .with_hint("rename one of them"));
            }
        }
        Ok(files)
    }
}

/// What other programs have not finished writing mostly begins with one of these.
fn is_hidden(file: &Path) -> bool {
    file.file_name().is_some_and(|name| matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_')))
}

/// A file's number as a partition: FNV-1a of its name, which is the same for ever, without the sign.
fn number(file: &Path) -> i32 {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash >> 1) as i32
}
