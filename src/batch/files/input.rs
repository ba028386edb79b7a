//! The bytes of a file as a blocking reader, whatever store holds it.

use std::fs::File;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use datafusion::object_store::{GetOptions, GetRange, ObjectMeta};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::listing::{denied, store_error};
use crate::batch::stores::Store;
use crate::error::{Error, Result, sqlstate};

/// What one request reads of an object. A request is bounded in time, so a slow statement must not hold one open.
const RANGE_BYTES: u64 = 8 << 20;

/// Opens a file, to be read on a thread that may block.
///
/// # Errors
/// 58P01 if it is gone, 42501 if it may not be read.
pub fn open(store: &Store, meta: &ObjectMeta) -> Result<Box<dyn Read>> {
    let name = store.name(&meta.location);
    if store.is_local() {
        let file = File::open(&name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(sqlstate::UNDEFINED_FILE, format!("file \"{name}\" is gone")),
            io::ErrorKind::PermissionDenied => denied(&name),
            _ => Error::new(sqlstate::IO_ERROR, format!("file \"{name}\" cannot be read: {e}")),
        })?;
        return Ok(Box::new(file));
    }
    let mut ranges = Ranges {
        store: store.clone(),
        meta: meta.clone(),
        handle: Handle::current(),
        at: 0,
        now: Bytes::new(),
        next: None,
    };
    ranges.ask();
    Ok(Box::new(ranges))
}

/// An object read range by range, the next one while the last is used.
struct Ranges {
    store: Store,
    meta: ObjectMeta,
    handle: Handle,
    /// Where the range after the next one starts.
    at: u64,
    now: Bytes,
    next: Option<JoinHandle<Result<Bytes>>>,
}

impl Ranges {
    fn ask(&mut self) {
        if self.at >= self.meta.size {
            self.next = None;
            return;
        }
        let end = (self.at + RANGE_BYTES).min(self.meta.size);
        let options = GetOptions {
            range: Some(GetRange::Bounded(self.at..end)),
            // Two halves of two versions are no file.
            if_match: self.meta.e_tag.clone(),
            ..GetOptions::default()
        };
        self.at = end;
        let (store, path) = (self.store.clone(), self.meta.location.clone());
        self.next = Some(self.handle.spawn(async move {
            let found = store.objects.get_opts(&path, options).await.map_err(|e| store_error(&e))?;
            found.bytes().await.map_err(|e| store_error(&e))
        }));
    }
}

impl Read for Ranges {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.now.is_empty() {
            let Some(next) = self.next.take() else { return Ok(0) };
            let joined = self.handle.block_on(next).map_err(io::Error::other)?;
            self.now = joined.map_err(io::Error::other)?;
            self.ask();
        }
        let n = into.len().min(self.now.len());
        self.now.copy_to_slice(&mut into[..n]);
        Ok(n)
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        if let Some(next) = self.next.take() {
            next.abort();
        }
    }
}
