//! UNNEST of one list, and the windows of HOP, which are such a list.

use datafusion::logical_expr::{Expr, LogicalPlan, Unnest as LogicalUnnest};

use super::{Builder, Edge, arrow_schema, positions};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::unnest::Unnest;

impl Builder<'_> {
    pub(super) fn unnest(&mut self, unnest: &LogicalUnnest) -> Result<Edge> {
        let [(list, column)] = unnest.list_type_columns.as_slice() else {
            return Err(Error::unsupported("UNNEST of several lists is not supported in a continuous view")
                .with_hint("unnest one list at a time in nested subqueries"));
        };
        if column.depth != 1 || !unnest.struct_type_columns.is_empty() || unnest.options.preserve_nulls() {
            return Err(Error::unsupported("UNNEST of nested lists or structs is not supported in a continuous view"));
        }
        let edge = self.edge(&unnest.input)?;
        let before = &edge.properties;
        let from = unnest.dependency_indices.clone();
        let schema = arrow_schema(&unnest.schema);
        // A row and an element of its list are unique together only if the elements of a list differ, which holds for
        // the windows of an event and is not known of other lists.
        let distinct_elements = hop_windows(&unnest.input, *list);
        let stream_key = match &before.stream_key {
            Some(key) if distinct_elements => positions(&[key.as_slice(), &[*list]].concat(), &from),
            _ => None,
        };
        let properties = EdgeProperties {
            schema,
            append_only: before.append_only,
            stream_key,
            watermark_columns: (0..from.len()).filter(|i| before.watermark_columns.contains(&from[*i])).collect(),
        };
        let operator = Unnest::new(properties.clone(), *list, from);
        Ok(self.add(Box::new(operator), vec![edge.input], properties))
    }
}

/// Whether the list in `column` of a plan's output is the windows that an event falls in.
fn hop_windows(plan: &LogicalPlan, column: usize) -> bool {
    match plan {
        LogicalPlan::Projection(p) => match &p.expr[column] {
            Expr::Alias(a) => is_hop(&a.expr),
            other => is_hop(other),
        },
        _ => false,
    }
}

fn is_hop(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(f) => matches!(f.func.name(), "hop_starts" | "cumulate_ends"),
        Expr::Alias(a) => is_hop(&a.expr),
        _ => false,
    }
}
