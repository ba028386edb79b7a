//! GROUPING SETS, ROLLUP and CUBE: each row once for each set, without the group columns that are not in the set.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::compute::cast;

use super::{Description, EdgeProperties, EpochContext, Operator, Watermarks};
use crate::error::Result;
use crate::stream::changelog::Delta;

/// A set of group columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupingSet {
    /// For each group column, whether it is in the set.
    pub included: Vec<bool>,
    /// What tells the set from the others: a bit for each column that is left out, the last column's the lowest, and above
    /// them how often the same set came before.
    pub id: u64,
}

/// Puts a row out for each grouping set. The result has the input's columns, of which the first are the group columns, and
/// at its end the set's id.
pub struct Expand {
    properties: EdgeProperties,
    sets: Vec<GroupingSet>,
}

impl Expand {
    /// For sets over the first columns of the input.
    pub fn new(properties: EdgeProperties, sets: Vec<GroupingSet>) -> Self {
        Self { properties, sets }
    }

    fn expand(&self, delta: &Delta, set: &GroupingSet) -> Result<Delta> {
        let rows = delta.rows();
        let group = delta.batch.columns().iter().zip(&set.included);
        let mut columns: Vec<ArrayRef> = group
            .map(|(column, included)| match included {
                true => column.clone(),
                false => new_null_array(column.data_type(), rows),
            })
            .collect();
        columns.extend(delta.batch.columns()[set.included.len()..].iter().cloned());
        let schema = &self.properties.schema;
        let id: ArrayRef = Arc::new(UInt64Array::from_value(set.id, rows));
        columns.push(cast(&id, schema.field(columns.len()).data_type())?);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
        Ok(Delta { batch, weights: delta.weights.clone() })
    }
}

impl Operator for Expand {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, _context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let mut out = Vec::new();
        for delta in inputs.iter().flatten().filter(|delta| !delta.is_empty()) {
            for set in &self.sets {
                out.push(self.expand(delta, set)?);
            }
        }
        Ok(out)
    }

    /// A group column has a watermark only if all sets have the column.
    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        let in_all = |column: usize| self.sets.iter().all(|set| set.included.get(column).is_none_or(|i| *i));
        let passed = inputs[0].iter().enumerate().map(|(column, w)| w.filter(|_| in_all(column)));
        passed.chain([None]).collect()
    }

    fn describe(&self) -> Description {
        let set = |set: &GroupingSet| {
            let names = set.included.iter().enumerate().filter(|(_, included)| **included);
            let names: Vec<&str> = names.map(|(i, _)| self.properties.schema.field(i).name().as_str()).collect();
            format!("({})", names.join(", "))
        };
        let sets: Vec<String> = self.sets.iter().map(set).collect();
        Description::stateless(format!("Expand: grouping sets {}", sets.join(", ")), &self.properties)
    }
}
