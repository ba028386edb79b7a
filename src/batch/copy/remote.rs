//! COPY to an object store: each file is an upload in parts, which are no object before the upload is completed.
//!
//! All are completed at the end, one after the other. A statement that fails takes its parts back; a server that is killed
//! leaves parts that nobody sees, which a life cycle rule of the bucket removes.

use std::io::{self, Write};
use std::sync::Arc;

use datafusion::object_store::path::Path;
use datafusion::object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::options::CopyOptions;
use crate::batch::files::listing::store_error;
use crate::batch::stores::Store;
use crate::batch::stores::failure::DUPLICATE_FILE;
use crate::error::{Error, Result, sqlstate};

/// Size of a part; what a file has beyond the last one waits in memory. S3 takes 10,000 parts of a file.
const PART_BYTES: usize = 8 << 20;

/// Files that are uploaded.
#[derive(Debug)]
pub struct RemoteOutput {
    store: Store,
    /// Key of the file, or of the folder without its last slash.
    key: String,
    is_folder: bool,
    /// What is replaced.
    old: Vec<Path>,
    uploads: Arc<Mutex<Vec<Upload>>>,
    handle: Handle,
}

/// A file of which all parts are there.
#[derive(Debug)]
struct Upload {
    path: Path,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// So little that one request writes it.
    Whole(Vec<u8>),
    Parts(Box<dyn MultipartUpload>),
}

impl RemoteOutput {
    /// Looks at what is there.
    pub async fn new(store: Store, key: &str, is_folder: bool, options: &CopyOptions, handle: Handle) -> Result<Self> {
        let key = key.trim_end_matches('/').to_string();
        let root = store.path(&key)?;
        if key.is_empty() && !is_folder {
            let message = format!("\"{}\" is a bucket", store.name(&root));
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, message).with_hint("name the file to write"));
        }
        let mut old = Vec::new();
        if is_folder {
            let listed = store.objects.list(Some(&root)).try_collect::<Vec<_>>().await.map_err(|e| store_error(&e))?;
            old = listed.into_iter().map(|meta| meta.location).collect();
            if !old.is_empty() && !options.overwrite {
                let message = format!("folder \"{}/\" is not empty", store.name(&root));
                return Err(Error::new(DUPLICATE_FILE, message).with_hint("OVERWRITE true replaces all that is in it"));
            }
        }
        Ok(Self { store, key, is_folder, old, uploads: Arc::default(), handle })
    }

    pub fn is_folder(&self) -> bool {
        self.is_folder
    }

    /// Begins a file by its path in the folder, or the only one.
    pub fn create(&self, name: &str) -> Result<RemoteFile> {
        let key = match self.is_folder {
            true => format!("{}/{name}", self.key).trim_start_matches('/').to_string(),
            false => self.key.clone(),
        };
        let path = self.store.path(&key)?;
        Ok(RemoteFile {
            name: self.store.name(&path),
            path,
            store: self.store.clone(),
            one_of_many: self.is_folder,
            buffer: Vec::new(),
            upload: None,
            sending: None,
            bytes: 0,
            uploads: self.uploads.clone(),
            handle: self.handle.clone(),
        })
    }

    /// Completes all uploads, then removes what was there before and has no successor of its name.
    pub fn finish(mut self) -> Result<()> {
        let mut new = Vec::new();
        loop {
            // Taken one at a time: what is left when one fails is taken back.
            let Some(upload) = self.uploads.lock().pop() else { break };
            let done = match upload.content {
                Content::Whole(bytes) => {
                    let put = self.store.objects.put(&upload.path, PutPayload::from(bytes));
                    self.handle.block_on(put)
                }
                Content::Parts(mut parts) => {
                    let done = self.handle.block_on(parts.complete());
                    if done.is_err() {
                        let _ = self.handle.block_on(parts.abort());
                    }
                    done
                }
            };
            done.map_err(|e| store_error(&e))?;
            new.push(upload.path);
        }
        for path in std::mem::take(&mut self.old).iter().filter(|path| !new.contains(path)) {
            self.handle.block_on(self.store.objects.delete(path)).map_err(|e| store_error(&e))?;
        }
        Ok(())
    }
}

impl Drop for RemoteOutput {
    fn drop(&mut self) {
        for upload in std::mem::take(&mut *self.uploads.lock()) {
            if let Content::Parts(parts) = upload.content {
                abort(&self.handle, parts, self.store.name(&upload.path));
            }
        }
    }
}

/// Takes the parts of an upload back, in the background.
fn abort(handle: &Handle, mut upload: Box<dyn MultipartUpload>, name: String) {
    handle.spawn(async move {
        if let Err(e) = upload.abort().await {
            tracing::warn!("the parts of \"{name}\" were not taken back: {}", store_error(&e));
        }
    });
}

/// A file that is being uploaded, one part at a time.
pub struct RemoteFile {
    name: String,
    path: Path,
    store: Store,
    one_of_many: bool,
    buffer: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
    /// The part that is on its way.
    sending: Option<JoinHandle<Result<()>>>,
    bytes: u64,
    uploads: Arc<Mutex<Vec<Upload>>>,
    handle: Handle,
}

impl RemoteFile {
    pub fn name(&self) -> &str {
        &self.name
    }

    fn wait(&mut self) -> Result<()> {
        match self.sending.take() {
            None => Ok(()),
            Some(sending) => {
                let sent = self.handle.block_on(sending);
                sent.map_err(|e| Error::internal(format!("writing \"{}\" failed: {e}", self.name)))?
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        self.wait()?;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let begun = self.handle.block_on(self.store.objects.put_multipart(&self.path));
                self.upload.insert(begun.map_err(|e| store_error(&e))?)
            }
        };
        let part = upload.put_part(PutPayload::from(std::mem::take(&mut self.buffer)));
        self.sending = Some(self.handle.spawn(async move { part.await.map_err(|e| store_error(&e)) }));
        Ok(())
    }

    /// Waits for its parts.
    pub fn close(mut self) -> Result<u64> {
        // Of several files the small ones too wait at the store and not here.
        if self.upload.is_some() || (self.one_of_many && !self.buffer.is_empty()) {
            if !self.buffer.is_empty() {
                self.send()?;
            }
            self.wait()?;
        }
        let content = match self.upload.take() {
            Some(upload) => Content::Parts(upload),
            None => Content::Whole(std::mem::take(&mut self.buffer)),
        };
        self.uploads.lock().push(Upload { path: self.path.clone(), content });
        Ok(self.bytes)
    }
}

impl Write for RemoteFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        if self.buffer.len() >= PART_BYTES {
            self.send().map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        if let Some(sending) = self.sending.take() {
            sending.abort();
        }
        if let Some(upload) = self.upload.take() {
            abort(&self.handle, upload, self.name.clone());
        }
    }
}
