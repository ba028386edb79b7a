//! Stored relations and sources as rows that batch statements read, all as of one epoch.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use millstream_connectors::{FieldsRead, Rows, SourceSpec};
use parking_lot::Mutex;

use super::api::Notice;
use super::overlay::Overlay;
use crate::batch::access::{Access, IndexOrder, Ranges};
use crate::batch::tables::{RowBatches, RowScan, ScanRequest};
use crate::error::Result;
use crate::state::index::{KeyRange, as_slice, key_ranges};
use crate::state::{Layout, Relation, Snapshot};
use crate::stream::columns_read::ColumnsRead;
use crate::stream::engine::indexes::KeptIndex;
use crate::stream::generated::{Completion, Generated, with_inputs};

/// A table or continuous view as of a snapshot, a table with what the transaction has changed.
pub struct StoredRows {
    relation: Arc<Relation>,
    snapshot: Arc<Snapshot>,
    changes: Option<Arc<Overlay>>,
    /// The first columns of the relation: all, or without the hidden row id.
    schema: SchemaRef,
    rows: Option<usize>,
    indexes: Vec<KeptIndex>,
    orders: Vec<IndexOrder>,
}

/// From this part of an index on, reading all rows of the relation in order is less work than finding each.
const INDEX_SHARE_MAX: f64 = 0.2;

impl StoredRows {
    /// The rows of `relation` with the columns of `schema`, which are its first.
    pub fn new(relation: Arc<Relation>, snapshot: Arc<Snapshot>, schema: SchemaRef, rows: Option<usize>) -> Self {
        Self { relation, snapshot, changes: None, schema, rows, indexes: Vec::new(), orders: Vec::new() }
    }

    /// The same with indexes that have the rows of the snapshot.
    pub fn with_indexes(mut self, indexes: Vec<KeptIndex>) -> Self {
        let order = |kept: &KeptIndex| IndexOrder {
            name: kept.name.clone(),
            columns: kept.index.columns().to_vec(),
            unique: kept.unique,
        };
        self.orders = indexes.iter().map(order).collect();
        self.indexes = indexes;
        self
    }

    /// The rows in some ranges of the primary key or an index, before the transaction's changes.
    fn in_ranges(&self, ranges: &Ranges) -> Result<RowBatches> {
        let keys = ranges_of(ranges)?;
        if let Some((i, _)) = &ranges.index {
            return Ok(Box::new(self.indexes[*i].index.scan(&self.snapshot, keys)));
        }
        let (relation, snapshot) = (self.relation.clone(), self.snapshot.clone());
        let scan = move |(from, to): KeyRange| match relation.scan_range(&snapshot, as_slice(&from), as_slice(&to)) {
            Ok(scan) => Box::new(scan) as RowBatches,
            Err(e) => Box::new(std::iter::once(Err(e))),
        };
        Ok(Box::new(keys.into_iter().flat_map(scan)))
    }

    /// The same with a transaction's own changes.
    pub fn with_changes(mut self, changes: Option<Arc<Overlay>>) -> Self {
        self.changes = changes;
        self
    }
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stored rows, epoch {}", self.snapshot.epoch())
    }
}

impl RowScan for StoredRows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn primary_key(&self) -> &[usize] {
        let key = self.relation.key_columns();
        match key.iter().all(|c| *c < self.schema.fields().len()) {
            true => key,
            false => &[],
        }
    }

    fn indexes(&self) -> &[IndexOrder] {
        &self.orders
    }

    fn is_worth(&self, ranges: &Ranges) -> bool {
        // Of the primary key, and of rows that stand in the index, a part is never more work than all.
        let kept = ranges.index.as_ref().and_then(|(i, _)| self.indexes.get(*i));
        let Some(kept) = kept.filter(|_| !ranges.single && *self.relation.layout() != Layout::Segments) else {
            return true;
        };
        let share = ranges_of(ranges).ok().and_then(|keys| kept.index.share(&self.snapshot, &keys));
        share.is_none_or(|share| share <= INDEX_SHARE_MAX)
    }

    fn row_estimate(&self) -> Option<usize> {
        self.rows
    }

    fn scan(&self, request: &ScanRequest) -> Result<RowBatches> {
        let projection = request.projection.clone();
        if let Some(Access::Ranges(ranges)) = &request.access {
            let rows = self.in_ranges(ranges)?;
            return match &self.changes {
                Some(changes) => {
                    let rows = changes.over(&self.relation, rows);
                    Ok(Box::new(rows.map(move |batch| project(batch?, &projection))))
                }
                None => Ok(Box::new(rows.map(move |batch| project(batch?, &projection)))),
            };
        }
        if let Some(Access::Keys(keys)) = &request.access {
            let keys = self.relation.encode_key(keys.columns(), keys.num_rows())?;
            let rows = match &self.changes {
                Some(changes) => changes.get(&self.relation, &self.snapshot, &keys)?,
                None => self.relation.get(&self.snapshot, &keys)?,
            };
            return Ok(Box::new(std::iter::once(project(rows, &projection))));
        }
        if let Some(changes) = &self.changes {
            let scan = changes.scan(&self.relation, &self.snapshot)?;
            return Ok(Box::new(scan.map(move |batch| project(batch?, &projection))));
        }
        let scan = self.relation.scan(&self.snapshot)?;
        Ok(Box::new(scan.map(move |batch| project(batch?, &projection))))
    }
}

/// The ranges of keys that a statement reads.
fn ranges_of(ranges: &Ranges) -> Result<Vec<KeyRange>> {
    let value = |bound: &Bound<ScalarValue>| -> Result<Bound<ArrayRef>> {
        Ok(match bound {
            Bound::Included(v) => Bound::Included(v.to_array()?),
            Bound::Excluded(v) => Bound::Excluded(v.to_array()?),
            Bound::Unbounded => Bound::Unbounded,
        })
    };
    let bounds = match &ranges.bounds {
        Some((lower, upper)) => Some((value(lower)?, value(upper)?)),
        None => None,
    };
    key_ranges(&ranges.equal, ranges.rows, bounds)
}

/// What is only known once rows have been read, for the client that reads them.
pub type LateNotices = Arc<Mutex<Vec<Notice>>>;

/// A source, read from its start to its end as of now.
pub struct SourceRows {
    name: String,
    spec: SourceSpec,
    generated: Vec<Generated>,
    schema: SchemaRef,
    now_us: i64,
    notices: LateNotices,
    /// The rows that were inserted, which come behind the records.
    inserted: Option<(Relation, Arc<Snapshot>)>,
}

impl SourceRows {
    /// The records of a source, all its columns, those of processing time with the statement's `now()`; of those that cannot
    /// be read a notice tells.
    pub fn new(name: String, spec: SourceSpec, generated: Vec<Generated>, now_us: i64, notices: LateNotices) -> Self {
        Self { name, schema: spec.schema().clone(), spec, generated, now_us, notices, inserted: None }
    }

    /// The same with the rows that were inserted into the source; a source that starts at its end has no past.
    pub fn with_inserted(mut self, relation: Relation, snapshot: Arc<Snapshot>) -> Self {
        self.inserted = Some((relation, snapshot)).filter(|_| !self.spec.starts_at_end());
        self
    }
}

impl fmt::Debug for SourceRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source {} to its present end", self.name)
    }
}

impl RowScan for SourceRows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn scan(&self, request: &ScanRequest) -> Result<RowBatches> {
        let wanted = ColumnsRead::of(request.projection.iter().copied(), &FieldsRead::new());
        let inputs = with_inputs(&wanted, &self.generated);
        // What is computed is not asked for, what it is computed of comes behind.
        let mut columns = request.projection.clone();
        columns.extend(inputs.columns().filter(|c| !request.projection.contains(c)));
        let completion = Completion::new(&columns, &self.generated, &self.schema)?;
        let kept: Vec<usize> = (0..request.projection.len()).collect();
        let mut read = self.spec.with_fields(inputs.fields()).read_bounded(completion.recorded())?;
        let (name, notices) = (self.name.clone(), self.notices.clone());
        let now_us = self.now_us;
        let inserted: RowBatches = match &self.inserted {
            Some((relation, snapshot)) => {
                let projection = request.projection.clone();
                Box::new(relation.scan(snapshot)?.map(move |batch| project(batch?, &projection)))
            }
            None => Box::new(std::iter::empty()),
        };
        let records = std::iter::from_fn(move || {
            let batch = read.next();
            if batch.is_none() && read.unreadable() > 0 {
                let text = format!("source \"{name}\" is without {} records that cannot be read", read.unreadable());
                let hint = "a continuous view on the source keeps them in millstream.dead_letters";
                notices.lock().push(Notice::warning(text).with_hint(hint));
            }
            let complete = |rows: Rows| project(completion.complete(&rows.batch, now_us)?, &kept);
            Some(batch?.map_err(Into::into).and_then(complete))
        });
        Ok(Box::new(records.chain(inserted)))
    }
}

fn project(batch: RecordBatch, projection: &[usize]) -> Result<RecordBatch> {
    Ok(batch.project(projection)?)
}
