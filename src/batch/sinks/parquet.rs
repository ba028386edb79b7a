//! A sink into a folder of Parquet files.
//!
//! The files of a commit are written where no reader looks (`_millstream/`), and noted with the number after their last row;
//! then they get their names, and the number becomes the sink's marker. A sender that starts finishes what was noted. So a
//! file is whole when it is there, and each row in one file, whenever the sender was killed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::object_store::path::Path;
use datafusion::object_store::prefix::PrefixStore;
use datafusion::object_store::{self, ObjectStore, ObjectStoreExt, PutPayload};
use deltalake::kernel::Add;
use deltalake::logstore::{StorageConfig, default_logstore};
use millstream_connectors::sink::RowPlace;
use millstream_connectors::{ConnectorError, Marker, Message, Result, SinkIdentity, SinkWriter};
use serde::{Deserialize, Serialize};

use super::Common;
use super::gathered::Gathered;
use crate::batch::lake::Lake;
use crate::batch::lake::create::NewLake;
use crate::batch::lake::write::Shape;
use crate::error::{Error, sqlstate};

/// The folder of files that are not finished, and of the notes.
const HIDDEN: &str = "_millstream";

/// A folder that a sink writes to.
#[derive(Debug)]
pub struct ParquetPlace {
    common: Common,
}

impl ParquetPlace {
    /// # Errors
    /// 0A000 for types that Delta tables do not have: files are written in the same way.
    pub fn new(common: Common) -> crate::error::Result<Self> {
        shape(&common, common.lake.clone())?;
        Ok(Self { common })
    }
}

/// What the files look like.
fn shape(common: &Common, lake: Lake) -> crate::error::Result<Shape> {
    NewLake::new(lake, "", &common.columns, &common.options.partition_by, HashMap::new())?.shape()
}

/// What a sink notes in its folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Note {
    /// The number after the last row that the folder has.
    next: u64,
    /// What is yet to get its name, and the number when that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<Pending>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pending {
    next: u64,
    /// Below the hidden folder, and in the same way below the sink's.
    files: Vec<String>,
}

impl RowPlace for ParquetPlace {
    fn name(&self) -> &str {
        &self.common.options.location
    }

    fn commit_interval(&self) -> Duration {
        self.common.options.commit_interval
    }

    /// Makes the folder.
    fn probe(&self, _timeout: Duration) -> Result<()> {
        let lake = self.common.lake.clone();
        self.common.run(async move {
            let probe = lake.root.clone().join(HIDDEN).join("probe");
            let told = |e| store_error(&lake, &e);
            lake.store.objects.put(&probe, PutPayload::from_static(b"")).await.map_err(told)?;
            lake.store.objects.delete(&probe).await.map_err(told)
        })
    }

    fn start(&self, identity: &SinkIdentity) -> Result<Box<dyn SinkWriter>> {
        let name = format!("{}-{}", identity.store, identity.sink);
        let common = self.common.clone();
        let folder = common.lake.root.clone().join(HIDDEN).join(name.as_str());
        let gathered = Gathered::new(common.clone());
        let mut writer = ParquetWriter { common, folder, note: None, gathered };
        writer.recover()?;
        Ok(Box::new(writer))
    }
}

struct ParquetWriter {
    common: Common,
    /// Hidden, and this sink's alone.
    folder: Path,
    /// `None`: the folder knows nothing of the sink.
    note: Option<Note>,
    gathered: Gathered,
}

impl ParquetWriter {
    fn note_path(&self) -> Path {
        self.folder.clone().join("sink.json")
    }

    /// Finishes what was noted, and removes what was not.
    fn recover(&mut self) -> Result<()> {
        let (lake, folder, path) = (self.common.lake.clone(), self.folder.clone(), self.note_path());
        self.note = self.common.run(async move {
            let objects = lake.store.objects.clone();
            let found = match objects.get(&path).await {
                Ok(found) => found.bytes().await.map_err(|e| store_error(&lake, &e))?,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(e) => return Err(store_error(&lake, &e)),
            };
            let note: Note = serde_json::from_slice(&found).map_err(|e| {
                let message = format!("\"{}\" is not what a sink notes: {e}", lake.store.name(&path));
                Error::new(sqlstate::IO_ERROR, message)
            })?;
            let note = finished(&lake, &folder, note).await?;
            put_note(&lake, &path, &note).await?;
            remove_files(&lake, &folder.clone().join("files")).await?;
            Ok(Some(note))
        })?;
        Ok(())
    }

    /// Of the files before they have their names.
    fn shape(&self) -> crate::error::Result<Shape> {
        let files = self.folder.clone().join("files");
        let lake = &self.common.lake;
        let plain = Path::parse(lake.store.key(&files)).map_err(|e| Error::internal(e.to_string()))?;
        let under: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(lake.store.plain.clone(), plain));
        let url = lake.log.root_url();
        let log = default_logstore(under, lake.store.plain.clone(), url, &StorageConfig::default());
        let hidden = Lake { log, ..lake.clone() };
        shape(&self.common, hidden)
    }
}

/// Gives files their names.
async fn finished(lake: &Lake, folder: &Path, note: Note) -> crate::error::Result<Note> {
    let Some(Pending { next, files }) = note.pending else { return Ok(note) };
    let objects = &lake.store.objects;
    for file in &files {
        let relative = Path::from(file.as_str());
        let from: Path = folder.clone().join("files").parts().chain(relative.parts()).collect();
        let to = lake.file(&relative);
        match objects.rename(&from, &to).await {
            Ok(()) => {}
            // It has its name from the time before.
            Err(object_store::Error::NotFound { .. }) if objects.head(&to).await.is_ok() => {}
            Err(e) => return Err(store_error(lake, &e)),
        }
    }
    Ok(Note { next, pending: None })
}

async fn put_note(lake: &Lake, path: &Path, note: &Note) -> crate::error::Result<()> {
    let bytes = serde_json::to_vec(note).map_err(|e| Error::internal(e.to_string()))?;
    lake.store.objects.put(path, bytes.into()).await.map_err(|e| store_error(lake, &e))?;
    Ok(())
}

async fn remove_files(lake: &Lake, folder: &Path) -> crate::error::Result<()> {
    use futures::TryStreamExt;
    let objects = &lake.store.objects;
    let files: Vec<_> = objects.list(Some(folder)).try_collect().await.map_err(|e| store_error(lake, &e))?;
    for file in files {
        match objects.delete(&file.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(store_error(lake, &e)),
        }
    }
    Ok(())
}

fn store_error(lake: &Lake, e: &object_store::Error) -> Error {
    match Error::inside(e) {
        Some(ours) => ours.clone(),
        None => Error::new(sqlstate::IO_ERROR, format!("{} cannot write to \"{}\": {e}", lake.object, lake.location)),
    }
}

impl SinkWriter for ParquetWriter {
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    fn marker(&mut self) -> Result<Option<Marker>> {
        Ok(Some(self.note.as_ref().map_or(Marker::Absent, |note| Marker::At(note.next))))
    }

    fn send(&mut self, _messages: Vec<Message>) -> Result<()> {
        Err(ConnectorError::internal("files take rows, not messages"))
    }

    fn send_rows(&mut self, rows: &RecordBatch) -> Result<()> {
        let shape = self.shape().map_err(super::told)?;
        self.gathered.add(rows.clone(), || shape)
    }

    fn is_full(&self) -> bool {
        self.gathered.is_full()
    }

    fn commit(&mut self, next: u64) -> Result<()> {
        let (writer, lake, folder) = (self.gathered.take(), self.common.lake.clone(), self.folder.clone());
        let (path, there) = (self.note_path(), self.note.as_ref().map_or(0, |note| note.next));
        let note = self.common.run(async move {
            let adds: Vec<Add> = match writer {
                Some(writer) => writer.finish().await?.0,
                None => Vec::new(),
            };
            let files: Vec<String> = adds.into_iter().map(|add| add.path).collect();
            let mut note = Note { next, pending: None };
            if !files.is_empty() {
                let pending = Note { next: there, pending: Some(Pending { next, files }) };
                put_note(&lake, &path, &pending).await?;
                crate::failpoint::pass("sink.noted")?;
                note = finished(&lake, &folder, pending).await?;
                crate::failpoint::pass("sink.named")?;
            }
            put_note(&lake, &path, &note).await?;
            Ok(note)
        })?;
        self.note = Some(note);
        Ok(())
    }

    fn acknowledged(&mut self, _wait: Duration) -> Result<u64> {
        Ok(self.note.as_ref().map_or(0, |note| note.next))
    }
}
