//! Where COPY writes: one file or a folder of them, which appear together when all are complete.

use std::io::{self, Write};

use tokio::runtime::Handle;

use super::local::{LocalFile, LocalOutput};
use super::options::CopyOptions;
use super::remote::{RemoteFile, RemoteOutput};
use crate::batch::stores::Access;
use crate::error::{Error, Result, sqlstate};

/// The files of one COPY.
#[derive(Debug)]
pub enum Output {
    Local(LocalOutput),
    Remote(RemoteOutput),
}

/// A file that does not appear before its [`Output`] is finished.
pub enum FileWriter {
    Local(LocalFile),
    Remote(Box<RemoteFile>),
}

impl Output {
    /// Looks at the place, and makes what must be there before the first byte.
    ///
    /// # Errors
    /// As [`super::CopyTo::new`].
    pub async fn new(
        path: &str,
        is_folder: bool,
        options: &CopyOptions,
        access: &Access,
        handle: &Handle,
    ) -> Result<Self> {
        let (store, key) = access.open(path, options.secret.as_deref())?;
        Ok(match store.is_local() {
            true => Self::Local(LocalOutput::new(key, is_folder, options)?),
            false => Self::Remote(RemoteOutput::new(store, key, is_folder, options, handle.clone()).await?),
        })
    }

    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        match self {
            Self::Local(output) => output.is_folder(),
            Self::Remote(output) => output.is_folder(),
        }
    }

    /// Begins a file: by its path in the folder, or the one that there is.
    ///
    /// # Errors
    /// Of the file system or the store.
    pub fn create(&self, name: &str) -> Result<FileWriter> {
        Ok(match self {
            Self::Local(output) => FileWriter::Local(output.create(name)?),
            Self::Remote(output) => FileWriter::Remote(Box::new(output.create(name)?)),
        })
    }

    /// Lets all files appear, in the place of what was there.
    ///
    /// # Errors
    /// Of the file system or the store.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Local(output) => output.finish(),
            Self::Remote(output) => output.finish(),
        }
    }
}

impl FileWriter {
    /// For messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Local(file) => file.name(),
            Self::Remote(file) => file.name(),
        }
    }

    /// Nothing is written any more; how many bytes there are.
    ///
    /// # Errors
    /// Of the file system or the store.
    pub fn close(self) -> Result<u64> {
        match self {
            Self::Local(file) => file.close(),
            Self::Remote(file) => file.close(),
        }
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local(file) => file.write(bytes),
            Self::Remote(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Local(file) => file.flush(),
            Self::Remote(_) => Ok(()),
        }
    }
}

/// An error of writing a file: the store's own, or the file system's with the name of the file.
pub fn io_error(name: &str, e: io::Error) -> Error {
    if let Some(ours) = e.get_ref().and_then(|inner| Error::inside(inner)) {
        return ours.clone();
    }
    let code = match e.kind() {
        io::ErrorKind::StorageFull => sqlstate::DISK_FULL,
        io::ErrorKind::PermissionDenied => "42501",
        _ => sqlstate::IO_ERROR,
    };
    Error::new(code, format!("cannot write \"{name}\": {e}"))
}
