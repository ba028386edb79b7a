//! What a failure of RocksDB means to the user.

use rocksdb::ErrorKind;

use crate::error::{Error, sqlstate};

/// Gives a RocksDB error its SQLSTATE: 53100 when the disk is full, XX001 for damaged data, 58030 for other I/O.
pub(super) fn from_rocksdb(doing: &str, error: rocksdb::Error) -> Error {
    let text = error.to_string();
    let code = match error.kind() {
        _ if text.contains("No space left") || text.contains("NoSpace") => sqlstate::DISK_FULL,
        ErrorKind::Corruption => sqlstate::DATA_CORRUPTED,
        ErrorKind::IOError => sqlstate::IO_ERROR,
        _ => sqlstate::INTERNAL_ERROR,
    };
    let error = Error::new(code, format!("could not {doing}: {text}"));
    match code {
        sqlstate::DISK_FULL => {
            error.with_hint("free space on the disk of the data directory; it goes on by itself then")
        }
        sqlstate::DATA_CORRUPTED => error.with_hint("check the disk, and restore the data directory from a backup"),
        _ => error,
    }
}
