//! Joins: keys, what is known of the result, and the residual condition.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Expr, ExprSchemable, Join as LogicalJoin, LogicalPlan};

use super::{Builder, Edge, arrow_schema, plain_column};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::join::{Join, JoinSide, JoinSpec};

impl Builder<'_> {
    pub(super) fn join(&mut self, join: &LogicalJoin) -> Result<Edge> {
        if join.join_type != JoinType::Inner {
            // The planner writes EXCEPT and INTERSECT as joins.
            let construct = match join.join_type {
                JoinType::LeftAnti | JoinType::RightAnti => "EXCEPT or NOT EXISTS".to_string(),
                JoinType::LeftSemi | JoinType::RightSemi => "INTERSECT or EXISTS".to_string(),
                other => format!("{} JOIN", other.to_string().to_uppercase()),
            };
            return Err(Error::unsupported(format!("{construct} is not supported in a continuous view"))
                .with_hint("only INNER JOIN on equal columns is kept"));
        }
        if join.on.is_empty() {
            return Err(Error::unsupported(
                "a join without an equality between its sides is not supported in a continuous view",
            )
            .with_hint("join on left.column = right.column"));
        }
        let (left_keys, right_keys): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        let (left, left_columns) = self.keyed_side(&join.left, &left_keys)?;
        let (right, right_columns) = self.keyed_side(&join.right, &right_keys)?;
        let left_width = left.properties.schema.fields().len();
        let joined_fields: Vec<_> =
            left.properties.schema.fields().iter().chain(right.properties.schema.fields()).cloned().collect();
        let joined: SchemaRef = Arc::new(Schema::new(joined_fields));
        let unique_right = is_unique_on(&right.properties, &right_columns);
        let unique_left = is_unique_on(&left.properties, &left_columns);
        let shift = |key: &Vec<usize>| key.iter().map(|c| c + left_width).collect::<Vec<_>>();
        let stream_key = match (&left.properties.stream_key, &right.properties.stream_key) {
            (Some(l), _) if unique_right => Some(l.clone()),
            (_, Some(r)) if unique_left => Some(shift(r)),
            (Some(l), Some(r)) => Some(l.iter().copied().chain(shift(r)).collect()),
            _ => None,
        };
        // A side's watermark holds for the result only through the join key: its rows may wait for a partner.
        let watermark_columns = left_columns
            .iter()
            .zip(&right_columns)
            .filter(|(l, r)| {
                left.properties.watermark_columns.contains(l) && right.properties.watermark_columns.contains(r)
            })
            .flat_map(|(l, r)| [*l, *r + left_width])
            .collect();
        let properties = EdgeProperties {
            schema: joined.clone(),
            append_only: left.properties.append_only && right.properties.append_only,
            stream_key,
            watermark_columns,
        };
        let time_key = left_columns.iter().zip(&right_columns).position(|(l, r)| {
            left.properties.watermark_columns.contains(l) && right.properties.watermark_columns.contains(r)
        });
        let pairs = left_columns.len();
        let side = |edge: &Edge, key: Vec<usize>| JoinSide {
            schema: edge.properties.schema.clone(),
            key,
            stream_key: edge.properties.stream_key.clone(),
            append_only: edge.properties.append_only,
        };
        let operator = Join::new(JoinSpec {
            operator: self.nodes.len() as u32,
            object: self.object,
            first_part: self.take_parts(Join::PARTS),
            sides: [side(&left, left_columns), side(&right, right_columns)],
            null_safe: vec![join.null_equality == NullEquality::NullEqualsNull; pairs],
            output: joined,
            time_key,
        })?;
        let left_plain = join.left.schema().fields().len();
        let right_plain = join.right.schema().fields().len();
        let mut edge = self.add(Box::new(operator), vec![left.input, right.input], properties);
        let output = arrow_schema(&join.schema);
        if left_width != left_plain || edge.properties.schema.fields().len() != left_plain + right_plain {
            // Key expressions were computed as extra columns: leave them out again.
            let keep: Vec<usize> = (0..left_plain).chain(left_width..left_width + right_plain).collect();
            edge = self.select(edge, &keep, output.clone())?;
        } else {
            edge.properties.schema = output;
        }
        match &join.filter {
            Some(filter) => {
                let schema = edge.properties.schema.clone();
                self.project_edge(edge, &join.schema, None, Some(filter), schema)
            }
            None => Ok(edge),
        }
    }

    /// A join's input with its keys as columns: those that are expressions are added at the end.
    fn keyed_side(&mut self, plan: &LogicalPlan, keys: &[Expr]) -> Result<(Edge, Vec<usize>)> {
        let edge = self.edge(plan)?;
        let schema = plan.schema();
        let plain: Option<Vec<usize>> = keys.iter().map(|k| plain_column(k, schema)).collect();
        if let Some(columns) = plain {
            return Ok((edge, columns));
        }
        let mut exprs: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
        let mut fields: Vec<_> = edge.properties.schema.fields().iter().cloned().collect();
        let mut columns = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            match plain_column(key, schema) {
                Some(column) => columns.push(column),
                None => {
                    let (_, field) = key.to_field(schema)?;
                    columns.push(exprs.len());
                    fields.push(Arc::new(field.as_ref().clone().with_name(format!("join_key_{i}"))));
                    exprs.push(key.clone());
                }
            }
        }
        let output: SchemaRef = Arc::new(Schema::new(fields));
        Ok((self.project_edge(edge, schema, Some(&exprs), None, output)?, columns))
    }
}

/// Whether no two rows of a relation agree on `columns`.
fn is_unique_on(properties: &EdgeProperties, columns: &[usize]) -> bool {
    properties.stream_key.as_ref().is_some_and(|key| key.iter().all(|k| columns.contains(k)))
}
