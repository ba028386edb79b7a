//! The data directory: who may use it and which format it has.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, sqlstate};

/// The format that this server writes, and the only one that it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
/// PostgreSQL's object_in_use.
const OBJECT_IN_USE: &str = "55006";

/// Paths inside a data directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Makes the directory if there is none, and checks its format.
    ///
    /// # Errors
    /// 55000 for another format version, XX001 if the format is missing from a directory in use, 58030 for I/O.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let directory = Self { root: root.to_path_buf() };
        fs::create_dir_all(root).map_err(|e| directory.io("create", e))?;
        match fs::read_to_string(root.join(FORMAT_FILE)) {
            Ok(text) => directory.check_format(&text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if directory.db().join("CURRENT").exists() {
                    return Err(Error::new(
                        sqlstate::DATA_CORRUPTED,
                        format!("data directory \"{}\" has no file \"{FORMAT_FILE}\"", root.display()),
                    ));
                }
                directory.write_format().map_err(|e| directory.io("write", e))?;
            }
            Err(e) => return Err(directory.io("read", e)),
        }
        Ok(directory)
    }

    /// RocksDB's files.
    pub(super) fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    /// Files to be ingested; on the same file system as [`Directory::db`], so that they can be moved.
    pub(super) fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// An error about the directory as a whole.
    pub(super) fn in_use(&self) -> Error {
        Error::new(OBJECT_IN_USE, format!("data directory \"{}\" is in use by another process", self.root.display()))
            .with_hint("stop the other server, or give this one another --data-dir")
    }

    fn check_format(&self, text: &str) -> Result<()> {
        let version = text.trim();
        if version == FORMAT_VERSION.to_string() {
            return Ok(());
        }
        let root = self.root.display();
        let message = match version.parse::<u64>() {
            Ok(version) => {
                format!("data directory \"{root}\" has format version {version}, this server reads {FORMAT_VERSION}")
            }
            Err(_) => format!("file \"{FORMAT_FILE}\" of data directory \"{root}\" holds no format version"),
        };
        Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .with_hint("run the server version that wrote it, or give this one another --data-dir"))
    }

    /// Writes the version so that it is there whole or not at all.
    fn write_format(&self) -> std::io::Result<()> {
        let temporary = self.root.join("FORMAT.new");
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{FORMAT_VERSION}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.root.join(FORMAT_FILE))?;
        File::open(&self.root)?.sync_all()
    }

    fn io(&self, doing: &str, error: std::io::Error) -> Error {
        let code = match error.kind() {
            ErrorKind::StorageFull => sqlstate::DISK_FULL,
            _ => sqlstate::IO_ERROR,
        };
        Error::new(code, format!("could not {doing} data directory \"{}\": {error}", self.root.display()))
    }
}
