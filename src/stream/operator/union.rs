//! UNION ALL: the changes of all inputs together.

use super::{Description, EdgeProperties, EpochContext, Operator, Watermarks};
use crate::error::Result;
use crate::stream::changelog::Delta;

/// Passes on what comes from any input.
pub struct Union {
    properties: EdgeProperties,
}

impl Union {
    /// A union of inputs whose columns agree in number and type with the result's.
    pub fn new(properties: EdgeProperties) -> Self {
        Self { properties }
    }
}

impl Operator for Union {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, _context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        Ok(inputs.into_iter().flatten().map(|d| d.with_schema(&self.properties.schema)).collect())
    }

    /// The least over the inputs: a column has a watermark only where all inputs have one.
    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        (0..self.properties.schema.fields().len())
            .map(|c| inputs.iter().map(|w| w[c]).collect::<Option<Vec<_>>>()?.into_iter().min())
            .collect()
    }

    fn describe(&self) -> Description {
        Description::stateless("Union".to_string(), &self.properties)
    }
}
