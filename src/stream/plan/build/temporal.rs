//! Filters that compare a row's time with the clock.

use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::{Builder, Edge, plain_column};
use crate::error::Result;
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::temporal::{TemporalBound, TemporalFilter, TemporalSpec};
use crate::stream::plan::clock;

impl Builder<'_> {
    /// The rows of a plan for which a predicate holds that mentions the clock.
    pub(super) fn temporal_filter(&mut self, predicate: &Expr, input: &LogicalPlan) -> Result<Edge> {
        let (timed, rest): (Vec<&Expr>, Vec<&Expr>) =
            split_conjunction(predicate).into_iter().partition(|conjunct| clock::mentions(conjunct));
        let schema = input.schema();
        let width = schema.fields().len();
        let mut columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
        let mut bounds = Vec::with_capacity(timed.len());
        for conjunct in timed {
            let (time, comparison, offset_us) = clock::temporal_bound(conjunct)?;
            let column = plain_column(&time, schema).unwrap_or_else(|| {
                columns.push(time);
                columns.len() - 1
            });
            bounds.push(TemporalBound { column, comparison, offset_us });
        }
        let rest = conjunction(rest.into_iter().cloned());
        let mut edge = match &rest {
            Some(rest) => self.project(None, Some(rest), input, schema)?,
            None => self.edge(input)?,
        };
        edge = self.with_computed(edge, schema, &columns)?;
        let properties = EdgeProperties {
            schema: edge.properties.schema.clone(),
            append_only: false,
            stream_key: edge.properties.stream_key.clone(),
            watermark_columns: Vec::new(),
        };
        let operator = TemporalFilter::new(TemporalSpec {
            object: self.object,
            first_part: self.take_parts(TemporalFilter::PARTS),
            input: edge.properties.schema.clone(),
            bounds,
            properties: properties.clone(),
        })?;
        let edge = self.add(Box::new(operator), vec![edge.input], properties);
        match columns.len() > width {
            true => self.select(edge, &(0..width).collect::<Vec<_>>(), super::arrow_schema(schema)),
            false => Ok(edge),
        }
    }
}
