//! An input that never has a row, such as what a condition that is never true leaves.

use super::{Description, EdgeProperties, EpochContext, Operator, Watermarks};
use crate::error::Result;
use crate::stream::changelog::Delta;

/// Gives nothing.
pub struct Empty {
    properties: EdgeProperties,
}

impl Empty {
    /// With the columns of `properties`.
    pub fn new(properties: EdgeProperties) -> Self {
        Self { properties }
    }
}

impl Operator for Empty {
    fn run(&mut self, _inputs: Vec<Vec<Delta>>, _context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        Ok(Vec::new())
    }

    fn watermarks(&self, _inputs: &[Watermarks]) -> Watermarks {
        vec![None; self.properties.schema.fields().len()]
    }

    fn describe(&self) -> Description {
        Description::stateless("Empty".to_string(), &self.properties)
    }
}
