//! GROUP BY and aggregates over everything.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable};

use super::{Builder, Edge, arrow_schema};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::aggregate::{AggregateCall, AggregateKind, AggregateSpec, HashAggregate};

impl Builder<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Edge> {
        let input_schema = aggregate.input.schema();
        let mut arguments: Vec<Expr> = aggregate.group_expr.clone();
        let groups = arguments.len();
        let mut calls = Vec::new();
        for expr in &aggregate.aggr_expr {
            calls.push(aggregate_call(expr, &mut arguments)?);
        }
        let fields = arguments
            .iter()
            .enumerate()
            .map(|(i, e)| {
                let (_, field) = e.to_field(input_schema)?;
                Ok(field.as_ref().clone().with_name(if i < groups {
                    aggregate.schema.field(i).name().clone()
                } else {
                    format!("argument_{}", i - groups)
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        let argument_schema: SchemaRef = Arc::new(Schema::new(fields));
        let edge = self.edge(&aggregate.input)?;
        let edge = self.project_edge(edge, input_schema, Some(&arguments), None, argument_schema)?;
        let time_column = (0..groups).find(|g| edge.properties.watermark_columns.contains(g));
        let emit_on_close = self.options.emit_on_window_close && !self.emitted_on_close && time_column.is_some();
        self.emitted_on_close |= emit_on_close;
        let output = arrow_schema(&aggregate.schema);
        let properties = EdgeProperties {
            schema: output.clone(),
            append_only: emit_on_close,
            stream_key: Some((0..groups).collect()),
            watermark_columns: edge.properties.watermark_columns.iter().copied().filter(|c| *c < groups).collect(),
        };
        let operator = HashAggregate::new(AggregateSpec {
            operator: self.nodes.len() as u32,
            object: self.object,
            first_part: self.take_parts(HashAggregate::PARTS),
            input: edge.properties.schema.clone(),
            append_only: edge.properties.append_only,
            group_by: (0..groups).collect(),
            aggregates: calls,
            output,
            time_column,
            emit_on_window_close: emit_on_close,
        })?;
        Ok(self.add(Box::new(operator), vec![edge.input], properties))
    }
}

/// Takes an aggregate expression apart; its argument and filter are added to `arguments`.
fn aggregate_call(expr: &Expr, arguments: &mut Vec<Expr>) -> Result<AggregateCall> {
    let expr = match expr {
        Expr::Alias(a) => a.expr.as_ref(),
        other => other,
    };
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
        return Err(Error::unsupported(format!("aggregate expression {expr} is not supported in a continuous view")));
    };
    let name = func.name();
    let kind = match name {
        "count" => AggregateKind::Count,
        "sum" => AggregateKind::Sum,
        "avg" => AggregateKind::Avg,
        "min" => AggregateKind::Min,
        "max" => AggregateKind::Max,
        _ => {
            return Err(Error::unsupported(format!("aggregate {name}() is not supported in a continuous view"))
                .with_hint("count, sum, avg, min and max are"));
        }
    };
    if params.distinct && !matches!(kind, AggregateKind::Min | AggregateKind::Max) {
        return Err(Error::unsupported(format!("{name}(DISTINCT ...) is not supported in a continuous view")));
    }
    let mut position = |expr: &Expr| match arguments.iter().position(|a| a == expr) {
        Some(position) => position,
        None => {
            arguments.push(expr.clone());
            arguments.len() - 1
        }
    };
    let argument = match params.args.as_slice() {
        // count(*) arrives as count of a constant.
        [] => None,
        [Expr::Literal(value, _)] if matches!(kind, AggregateKind::Count) && !value.is_null() => None,
        [argument] => Some(position(argument)),
        _ => {
            return Err(Error::unsupported(format!(
                "{name}() with several arguments is not supported in a continuous view"
            )));
        }
    };
    let filter = params.filter.as_ref().map(|f| position(f));
    Ok(AggregateCall { kind, argument, filter })
}
