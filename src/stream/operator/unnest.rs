//! Unnest: one row for each element of a list column.

use arrow::array::{Array, AsArray, UInt32Array};
use arrow::compute::take;

use super::{Description, EdgeProperties, EpochContext, Operator, Watermarks};
use crate::error::Result;
use crate::stream::changelog::Delta;
use crate::stream::operator::project::typed_batch;

/// Rows repeated for each element of the list in one column; rows with a NULL or empty list are dropped.
pub struct Unnest {
    properties: EdgeProperties,
    /// Position of the list column in the input.
    list: usize,
    /// For each output column, the input column it comes from.
    from: Vec<usize>,
}

impl Unnest {
    /// Unnests input column `list` (a `List`); output column i comes from input column `from[i]`.
    pub fn new(properties: EdgeProperties, list: usize, from: Vec<usize>) -> Self {
        Self { properties, list, from }
    }

    fn unnest(&self, delta: &Delta) -> Result<Delta> {
        let list = delta.batch.column(self.list).as_list::<i32>();
        let mut rows = Vec::new();
        let mut elements = Vec::new();
        for row in 0..list.len() {
            if list.is_valid(row) {
                let (from, to) = (list.value_offsets()[row], list.value_offsets()[row + 1]);
                rows.resize(rows.len() + (to - from) as usize, row as u32);
                elements.extend((from..to).map(|e| e as u32));
            }
        }
        let rows = UInt32Array::from(rows);
        let values = take(list.values(), &UInt32Array::from(elements), None)?;
        let columns = self
            .from
            .iter()
            .map(|c| if *c == self.list { Ok(values.clone()) } else { Ok(take(delta.batch.column(*c), &rows, None)?) })
            .collect::<Result<Vec<_>>>()?;
        let weights = match &delta.weights {
            Some(w) => Some(take(w, &rows, None)?.as_primitive().clone()),
            None => None,
        };
        Ok(Delta { batch: typed_batch(&self.properties.schema, columns, rows.len())?, weights })
    }
}

impl Operator for Unnest {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, _context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        inputs.iter().flatten().map(|d| self.unnest(d)).collect()
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        self.from.iter().map(|c| inputs[0][*c]).collect()
    }

    fn describe(&self) -> Description {
        let title = format!("Unnest: {}", self.properties.schema.field(self.position()).name());
        Description::stateless(title, &self.properties)
    }
}

impl Unnest {
    fn position(&self) -> usize {
        self.from.iter().position(|c| *c == self.list).unwrap_or(0)
    }
}
