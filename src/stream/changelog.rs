//! What flows along a stream edge: rows with weights, a Z-set in columns.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use hashbrown::HashTable;

use crate::error::Result;
use crate::state::RowCodec;

/// Rows added to and taken from a relation. A row's weight says how many copies are added (positive) or taken
/// (negative); `None` means that every row is +1. An UPDATE is -1 of the old and +1 of the new row in one epoch.
#[derive(Debug, Clone)]
pub struct Delta {
    pub batch: RecordBatch,
    pub weights: Option<Int64Array>,
}

impl Delta {
    /// Rows that are all +1.
    pub fn inserts(batch: RecordBatch) -> Self {
        Self { batch, weights: None }
    }

    /// Rows with their weights, which are as many as the rows and never NULL.
    pub fn new(batch: RecordBatch, weights: Int64Array) -> Self {
        debug_assert_eq!(batch.num_rows(), weights.len());
        Self { batch, weights: Some(weights) }
    }

    /// Number of rows, each counted once whatever its weight.
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Weight of row `i`.
    pub fn weight(&self, i: usize) -> i64 {
        self.weights.as_ref().map_or(1, |w| w.value(i))
    }

    /// Weights as an array, made up of ones where there is none.
    pub fn weights_array(&self) -> Int64Array {
        self.weights.clone().unwrap_or_else(|| Int64Array::from_value(1, self.rows()))
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.batch.get_array_memory_size() + self.weights.as_ref().map_or(0, |w| w.get_array_memory_size())
    }

    /// The rows where `mask` is true.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self> {
        let weights = match &self.weights {
            Some(w) => Some(as_int64(&filter(w, mask)?)),
            None => None,
        };
        Ok(Self { batch: filter_record_batch(&self.batch, mask)?, weights })
    }

    /// The rows at `indices`, in that order.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self> {
        let weights = match &self.weights {
            Some(w) => Some(as_int64(&take(w, indices, None)?)),
            None => None,
        };
        Ok(Self { batch: take_record_batch(&self.batch, indices)?, weights })
    }

    /// Rows `offset .. offset + length`.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        Self {
            batch: self.batch.slice(offset, length),
            weights: self.weights.as_ref().map(|w| w.slice(offset, length)),
        }
    }

    /// The columns at `columns`, in that order.
    pub fn project(&self, columns: &[usize]) -> Result<Self> {
        Ok(Self { batch: self.batch.project(columns)?, weights: self.weights.clone() })
    }

    /// The same columns under other names; the types are the caller's promise.
    pub fn with_schema(self, schema: &SchemaRef) -> Self {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows()));
        match RecordBatch::try_new_with_options(schema.clone(), self.batch.columns().to_vec(), &options) {
            Ok(batch) => Self { batch, weights: self.weights },
            Err(_) => self,
        }
    }

    /// The same rows with their weights turned round.
    pub fn negate(&self) -> Self {
        Self { batch: self.batch.clone(), weights: Some(self.weights_array().unary(|w| -w)) }
    }

    /// All rows of several deltas of one schema, in order.
    pub fn concat(schema: &SchemaRef, deltas: &[Self]) -> Result<Self> {
        if let [one] = deltas {
            return Ok(one.clone());
        }
        let batch = concat_batches(schema, deltas.iter().map(|d| &d.batch))?;
        let weights = deltas.iter().any(|d| d.weights.is_some()).then(|| {
            let mut all = Vec::with_capacity(batch.num_rows());
            for delta in deltas {
                match &delta.weights {
                    Some(w) => all.extend_from_slice(w.values()),
                    None => all.resize(all.len() + delta.rows(), 1),
                }
            }
            Int64Array::from(all)
        });
        Ok(Self { batch, weights })
    }

    /// Net changes: equal rows become one with the sum of their weights, those that cancel out are gone. Order is that
    /// of each row's first appearance. Inserts only come back as they are: a relation may hold a row twice.
    pub fn consolidate(self) -> Result<Self> {
        let Some(weights) = &self.weights else { return Ok(self) };
        if weights.values().iter().all(|w| *w > 0) {
            return Ok(self);
        }
        let types: Vec<_> = self.batch.schema().fields().iter().map(|f| f.data_type().clone()).collect();
        let rows = RowCodec::new(&types)?.encode(self.batch.columns())?;
        let hasher = foldhash::fast::FixedState::default();
        let hash = |row: &[u8]| std::hash::BuildHasher::hash_one(&hasher, row);
        let mut first: HashTable<usize> = HashTable::with_capacity(self.rows());
        let mut net: Vec<(u32, i64)> = Vec::new();
        for i in 0..self.rows() {
            let row = rows.get(i);
            let entry = first.entry(
                hash(row),
                |slot| rows.get(net[*slot].0 as usize) == row,
                |slot| hash(rows.get(net[*slot].0 as usize)),
            );
            match entry {
                hashbrown::hash_table::Entry::Occupied(slot) => net[*slot.get()].1 += weights.value(i),
                hashbrown::hash_table::Entry::Vacant(slot) => {
                    let index = net.len();
                    slot.insert(index);
                    net.push((i as u32, weights.value(i)));
                }
            }
        }
        net.retain(|(_, weight)| *weight != 0);
        let indices = UInt32Array::from_iter_values(net.iter().map(|(i, _)| *i));
        Ok(Self {
            batch: take_record_batch(&self.batch, &indices)?,
            weights: Some(Int64Array::from_iter_values(net.iter().map(|(_, w)| *w))),
        })
    }
}

/// Total rows of several deltas.
pub fn total_rows(deltas: &[Delta]) -> usize {
    deltas.iter().map(Delta::rows).sum()
}

fn as_int64(array: &Arc<dyn Array>) -> Int64Array {
    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(array).clone()
}
