//! UNION ALL.

use datafusion::logical_expr::Union as LogicalUnion;

use super::{Builder, Edge, arrow_schema};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::union::Union;

impl Builder<'_> {
    pub(super) fn union(&mut self, union: &LogicalUnion) -> Result<Edge> {
        let schema = arrow_schema(&union.schema);
        let mut inputs = Vec::new();
        let mut append_only = true;
        let mut watermark_columns: Option<Vec<usize>> = None;
        for input in &union.inputs {
            let edge = self.edge(input)?;
            for (theirs, ours) in edge.properties.schema.fields().iter().zip(schema.fields()) {
                if theirs.data_type() != ours.data_type() {
                    return Err(Error::internal(format!(
                        "UNION ALL column \"{}\" is {} in one branch and {} in the result",
                        ours.name(),
                        theirs.data_type(),
                        ours.data_type()
                    )));
                }
            }
            append_only &= edge.properties.append_only;
            let theirs = edge.properties.watermark_columns;
            watermark_columns = Some(match watermark_columns {
                Some(ours) => ours.into_iter().filter(|c| theirs.contains(c)).collect(),
                None => theirs,
            });
            inputs.push(edge.input);
        }
        let properties = EdgeProperties {
            schema,
            append_only,
            // Two branches may give the same row: no key of one branch is a key of the union.
            stream_key: None,
            watermark_columns: watermark_columns.unwrap_or_default(),
        };
        Ok(self.add(Box::new(Union::new(properties.clone())), inputs, properties))
    }
}
