//! What tasks note of their runs: written as it comes, in the epoch of the rows that it comes with.

use millstream_catalog::{ObjectId, ObjectKind};

use super::epoch::EpochLoop;
use super::handle::TaskRecord;
use crate::error::{Error, Result, sqlstate};

impl EpochLoop {
    /// Refuses records of tasks that are not there.
    ///
    /// # Errors
    /// 42704 if a task was dropped: nothing of its run may be kept then.
    pub(super) fn check_records(&self, records: &[TaskRecord]) -> Result<()> {
        for record in records {
            let object = self.catalog.get(ObjectId(record.table.object));
            if !object.is_some_and(|o| matches!(o.kind, ObjectKind::Task(_))) {
                let message = format!("task with OID {} does not exist any more", record.table.object);
                return Err(Error::new(sqlstate::UNDEFINED_OBJECT, message).with_hint("it was dropped while it ran"));
            }
        }
        Ok(())
    }

    /// Puts records into the open epoch.
    pub(super) fn put_records(&mut self, records: &[TaskRecord]) {
        for record in records {
            match &record.value {
                Some(value) => self.state.put(record.table, &record.key, value),
                None => self.state.delete(record.table, &record.key),
            }
        }
    }
}
