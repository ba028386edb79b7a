//! Rows that gather in files until they are committed.

use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_connectors::ConnectorError;

use super::Common;
use crate::batch::lake::write::{Shape, Writer};

/// The files of the rows that are not committed yet.
pub struct Gathered {
    common: Common,
    writer: Option<Writer>,
    /// Of these rows, as they were in memory.
    bytes: u64,
}

impl Gathered {
    pub fn new(common: Common) -> Self {
        Self { common, writer: None, bytes: 0 }
    }

    /// Adds rows, in files of a shape if they are the first.
    ///
    /// # Errors
    /// Of the store; then all are given up.
    pub fn add(&mut self, rows: RecordBatch, shape: impl FnOnce() -> Shape) -> Result<(), ConnectorError> {
        self.bytes += rows.get_array_memory_size() as u64;
        let mut writer = self.writer.take().unwrap_or_else(|| Writer::new(shape(), Arc::default()));
        let written = self.common.run(async move {
            match writer.write(&rows).await {
                Ok(()) => Ok(writer),
                Err(e) => {
                    writer.abandon().await;
                    Err(e)
                }
            }
        })?;
        self.writer = Some(written);
        Ok(())
    }

    /// Whether they are as many as go together.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.common.options.file_size
    }

    /// What has been written so far, to be finished; none is left here.
    pub fn take(&mut self) -> Option<Writer> {
        self.bytes = 0;
        self.writer.take()
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            self.common.handle.spawn(writer.abandon());
        }
    }
}
