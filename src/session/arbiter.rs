//! What ON CONFLICT DO UPDATE takes for the same row: rows with one primary key, or with the same values of a unique index.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use millstream_catalog::{Catalog, Object};
use millstream_sql::plan::ConflictTarget;

use super::overlay::Overlay;
use crate::error::{Error, Result};
use crate::state::{ByteRows, Relation, Snapshot};
use crate::stream::engine::OnConflict;
use crate::stream::engine::indexes::KeptIndex;

/// First byte of what a row with a NULL has in place of values, which do not begin so.
const NULL: u8 = 0xff;

/// The key or index that rows conflict by.
pub struct Arbiter {
    relation: Arc<Relation>,
    index: Option<KeptIndex>,
}

impl Arbiter {
    /// What the statement names.
    ///
    /// # Errors
    /// XX000 if the index is gone.
    pub fn new(catalog: &Catalog, object: &Object, relation: Arc<Relation>, target: ConflictTarget) -> Result<Self> {
        let index = match target {
            ConflictTarget::Key => None,
            ConflictTarget::Index(id) => {
                let found = catalog.get(id).ok_or_else(|| {
                    Error::internal(format!("index {id} of {} does not exist any more", object.describe()))
                })?;
                Some(KeptIndex::new(found, relation.clone())?)
            }
        };
        Ok(Self { relation, index })
    }

    /// What the engine does with a row that somebody else has added meanwhile.
    pub fn on_conflict(&self) -> OnConflict {
        match &self.index {
            None => OnConflict::Retry,
            Some(kept) => OnConflict::RetryOn(kept.id),
        }
    }

    /// What each row conflicts by. A row with a NULL in an indexed column conflicts with none.
    pub fn keys(&self, rows: &RecordBatch) -> Result<ByteRows> {
        let Some(kept) = &self.index else { return self.relation.keys(rows) };
        let mut keys = ByteRows::new();
        for (row, values) in kept.index.values(rows)?.into_iter().enumerate() {
            match values {
                Some(values) => keys.push(&values),
                None => keys.push_pair(&[NULL], &(row as u64).to_be_bytes()),
            }
        }
        Ok(keys)
    }

    /// The stored rows that conflict with these keys, as of a snapshot with a transaction's changes over it.
    pub fn find(
        &self,
        snapshot: &Arc<Snapshot>,
        changes: Option<&Arc<Overlay>>,
        keys: &ByteRows,
    ) -> Result<RecordBatch> {
        let Some(kept) = &self.index else {
            return match changes {
                Some(changes) => changes.get(&self.relation, snapshot, keys),
                None => self.relation.get(snapshot, keys),
            };
        };
        let mut row_keys = ByteRows::new();
        for values in keys.iter().filter(|key| key.first() != Some(&NULL)) {
            kept.index.row_keys(snapshot, values)?.iter().for_each(|key| row_keys.push(key));
        }
        let Some(changes) = changes else { return self.relation.get(snapshot, &row_keys) };
        let stored = changes.unchanged_of(&self.relation, snapshot, &row_keys)?;
        let own = changes.own(&self.relation)?;
        let wanted: HashSet<&[u8]> = keys.iter().collect();
        let values = kept.index.values(&own)?;
        let is_wanted = |i: &usize| values[*i].as_ref().is_some_and(|v| wanted.contains(v.as_slice()));
        let mine: UInt32Array = (0..own.num_rows()).filter(is_wanted).map(|i| i as u32).collect();
        Ok(concat_batches(self.relation.schema(), [&stored, &take_record_batch(&own, &mine)?])?)
    }

    /// For each key the position of the row that conflicts by it.
    pub fn positions(&self, found: &RecordBatch) -> Result<HashMap<Vec<u8>, usize>> {
        Ok(self.keys(found)?.iter().enumerate().map(|(i, key)| (key.to_vec(), i)).collect())
    }
}
