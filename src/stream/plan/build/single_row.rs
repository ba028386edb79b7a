//! The value of a scalar subquery.

use datafusion::logical_expr::UserDefinedLogicalNodeCore;

use super::{Builder, Edge, arrow_schema};
use crate::error::Result;
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::single_row::SingleRow as SingleRowOperator;
use crate::stream::plan::single_row::SingleRow;

impl Builder<'_> {
    pub(super) fn single_row(&mut self, node: &SingleRow) -> Result<Edge> {
        let edge = self.edge(&node.input)?;
        let schema = arrow_schema(node.schema());
        let first_part = self.take_parts(SingleRowOperator::PARTS);
        let operator = SingleRowOperator::new(self.nodes.len() as u32, self.object, first_part, schema.clone())?;
        let properties =
            EdgeProperties { schema, append_only: false, stream_key: Some(Vec::new()), watermark_columns: Vec::new() };
        Ok(self.add(Box::new(operator), vec![edge.input], properties))
    }
}
