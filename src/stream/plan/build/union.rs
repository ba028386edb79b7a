//! UNION ALL.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, Union as LogicalUnion};

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
        let mut keys: Option<Vec<usize>> = Some(Vec::new());
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
            keys = keys.zip(edge.properties.stream_key).map(|(all, theirs)| [all, theirs].concat());
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
            stream_key: keys.zip(distinguishing_column(union)).map(|(keys, column)| {
                let mut key = [keys, vec![column]].concat();
                key.sort_unstable();
                key.dedup();
                key
            }),
            watermark_columns: watermark_columns.unwrap_or_default(),
        };
        Ok(self.add(Box::new(Union::new(properties.clone())), inputs, properties))
    }
}

/// A column that has one constant in each branch, no two of them the same. Without it two branches may give the same row,
/// and no key of one branch is a key of the union.
fn distinguishing_column(union: &LogicalUnion) -> Option<usize> {
    (0..union.schema.fields().len()).find(|column| {
        let mut found: Vec<&ScalarValue> = Vec::new();
        union.inputs.iter().all(|input| constants(input, *column, &mut found))
    })
}

/// Adds the constants that a column of a plan is to those of other branches; `false` if it is none, or one of theirs.
fn constants<'p>(plan: &'p LogicalPlan, column: usize, found: &mut Vec<&'p ScalarValue>) -> bool {
    match plan {
        LogicalPlan::Union(union) => union.inputs.iter().all(|input| constants(input, column, found)),
        _ => constant(plan, column).is_some_and(|value| {
            let is_new = !found.contains(&value);
            found.push(value);
            is_new
        }),
    }
}

/// The constant that a column of a plan is, if it is one.
fn constant(plan: &LogicalPlan, column: usize) -> Option<&ScalarValue> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => constant(&alias.input, column),
        LogicalPlan::Projection(projection) => {
            let mut expr = projection.expr.get(column)?;
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            match expr {
                Expr::Literal(value, _) if !value.is_null() => Some(value),
                Expr::Column(below) => {
                    constant(&projection.input, projection.input.schema().maybe_index_of_column(below)?)
                }
                _ => None,
            }
        }
        _ => None,
    }
}
