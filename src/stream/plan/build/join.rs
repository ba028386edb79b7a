//! Joins: keys, the condition beside them, and what is known of the result.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, Join as LogicalJoin, LogicalPlan, lit};

use super::time_bound::time_bounds;
use super::{Builder, Edge, arrow_schema, plain_column};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::join::{Join, JoinKind, JoinSide, JoinSpec, Residual};
use crate::stream::plan::expressions::physical;
use crate::stream::plan::group_key::followers;

impl Builder<'_> {
    pub(super) fn join(&mut self, join: &LogicalJoin) -> Result<Edge> {
        let kind = kind(join)?;
        let (left_keys, right_keys): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        let left = self.edge(&join.left)?;
        let right = self.any_edge(&join.right)?;
        let (left, left_columns) = self.keyed_side(left, &join.left, &left_keys)?;
        let (right, right_columns) = self.keyed_side(right, &join.right, &right_keys)?;
        let as_of_now = right.as_of_now;
        if as_of_now {
            check_as_of_now(kind, &left)?;
        }
        let left_width = left.properties.schema.fields().len();
        let joined = joined_schema(kind, &left.properties.schema, &right.properties.schema, &join.schema);

        let has_watermark = |(l, r): &(&usize, &usize)| {
            !as_of_now
                && left.properties.watermark_columns.contains(l)
                && right.properties.watermark_columns.contains(r)
        };
        let pairs: Vec<(&usize, &usize)> = left_columns.iter().zip(&right_columns).collect();
        let time_key = pairs.iter().position(has_watermark);
        // A side's watermark holds for the result only through the join key: its rows may wait for a partner. And what is on
        // time by one pair of columns may come late by another.
        let timed_keys: Vec<usize> = match time_key {
            Some(time) => {
                let (left, right) =
                    (followers(&left_keys, &join.left, time), followers(&right_keys, &join.right, time));
                left.into_iter().filter(|i| right.contains(i) && has_watermark(&pairs[*i])).collect()
            }
            None => Vec::new(),
        };
        let mut watermark_columns: Vec<usize> = Vec::new();
        for (l, r) in timed_keys.iter().map(|i| pairs[*i]) {
            watermark_columns.push(*l);
            watermark_columns.extend(kind.shows(1).then_some(*r + left_width));
        }
        if as_of_now {
            // Left rows go on at once.
            watermark_columns = left.properties.watermark_columns.clone();
        }
        let sides =
            [(join.left.schema().as_ref(), &left.properties), (join.right.schema().as_ref(), &right.properties)];
        let bounds = match &join.filter {
            Some(filter) if time_key.is_none() && !as_of_now => time_bounds(filter, sides),
            _ => [None, None],
        };
        let is_bounded = time_key.is_some() || bounds.iter().all(Option::is_some);
        let side = |edge: &Edge, key: Vec<usize>| JoinSide {
            schema: edge.properties.schema.clone(),
            key,
            stream_key: edge.properties.stream_key.clone(),
            append_only: edge.properties.append_only,
        };
        let first_part = self.take_parts(Join::PARTS);
        let ttl = self.ttl(!is_bounded && !as_of_now);
        let spec = JoinSpec {
            operator: self.nodes.len() as u32,
            object: self.object,
            first_part,
            kind,
            as_of_now,
            null_safe: vec![join.null_equality == NullEquality::NullEqualsNull; left_columns.len()],
            sides: [side(&left, left_columns), side(&right, right_columns)],
            residual: residual(join)?,
            output: joined.clone(),
            time_key,
            timed_keys,
            // What a ttl forgets is stored with another moment.
            bounds: if ttl.is_none() { bounds } else { [None, None] },
            ttl,
        };
        for (column, _) in spec.bounded_columns() {
            if !watermark_columns.contains(&column) {
                watermark_columns.push(column);
            }
        }
        // Pairs of rows come once, and go only if both are still known; but others with their key may come after them.
        let once = kind == JoinKind::Inner && (spec.append_only() || spec.stream_key().is_none());
        let properties = EdgeProperties {
            schema: joined,
            append_only: spec.append_only(),
            stream_key: spec.stream_key(),
            watermark_columns,
        };
        let has_keys = !spec.sides[0].key.is_empty() && ttl.is_none();
        let operator = self.sharded(has_keys, || Join::new(spec.clone()))?;
        let mut edge = self.add(operator, vec![left.input, right.input], properties);
        self.restart(edge.input, ttl.is_some() && !once);

        let output = arrow_schema(&join.schema);
        let left_plain = join.left.schema().fields().len();
        let others = output.fields().len() - left_plain;
        if edge.properties.schema.fields().len() == output.fields().len() {
            edge.properties.schema = output;
            return Ok(edge);
        }
        // Key expressions were computed as extra columns: leave them out again.
        let keep: Vec<usize> = (0..left_plain).chain(left_width..left_width + others).collect();
        self.select(edge, &keep, output)
    }

    /// A join's input with its keys as columns: those that are expressions are added at the end.
    pub(super) fn keyed_side(&mut self, edge: Edge, plan: &LogicalPlan, keys: &[Expr]) -> Result<(Edge, Vec<usize>)> {
        let schema = plan.schema();
        let plain: Option<Vec<usize>> = keys.iter().map(|k| plain_column(k, schema)).collect();
        let has_columns = !edge.properties.schema.fields().is_empty();
        if let Some(columns) = plain.filter(|_| has_columns) {
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
        if exprs.is_empty() {
            // Of EXISTS only the rows count; but a stored row has a column.
            fields.push(Arc::new(Field::new("row", DataType::Boolean, false)));
            exprs.push(lit(true));
        }
        let output: SchemaRef = Arc::new(Schema::new(fields));
        Ok((self.project_edge(edge, schema, Some(&exprs), None, output)?, columns))
    }
}

fn kind(join: &LogicalJoin) -> Result<JoinKind> {
    if join.null_aware {
        return Err(Error::internal("NOT IN was not replaced by joins that know of NULL"));
    }
    match join.join_type {
        JoinType::Inner => Ok(JoinKind::Inner),
        JoinType::Left => Ok(JoinKind::Left),
        JoinType::Right => Ok(JoinKind::Right),
        JoinType::Full => Ok(JoinKind::Full),
        JoinType::LeftSemi => Ok(JoinKind::Semi),
        JoinType::LeftAnti => Ok(JoinKind::Anti),
        JoinType::LeftMark => Ok(JoinKind::Mark),
        other @ (JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark) => {
            Err(Error::unsupported(format!("a {other} join is not supported in a continuous view")))
        }
    }
}

/// Refuses what a join with a relation as of now cannot be.
fn check_as_of_now(kind: JoinKind, left: &Edge) -> Result<()> {
    if !matches!(kind, JoinKind::Inner | JoinKind::Left) {
        return Err(Error::unsupported(format!(
            "a {} join with FOR SYSTEM_TIME AS OF PROCTIME() is not supported in a continuous view",
            kind.name()
        ))
        .with_hint("make it an inner or left join"));
    }
    if !left.properties.append_only {
        return Err(Error::unsupported(
            "FOR SYSTEM_TIME AS OF PROCTIME() is not supported in a continuous view beside an input that takes rows back",
        )
        .with_hint("the left side must be append-only; a join without FOR SYSTEM_TIME follows changes of both sides"));
    }
    Ok(())
}

/// Columns of a join's result: those of the left side, then those of the right or the mark of `logical`, where the kind
/// has them. What is padded with NULLs may be NULL.
fn joined_schema(kind: JoinKind, left: &SchemaRef, right: &SchemaRef, logical: &DFSchema) -> SchemaRef {
    let fields_of = |schema: &SchemaRef, padded: bool| -> Vec<Field> {
        let padded = |field: &Field| field.clone().with_nullable(padded || field.is_nullable());
        schema.fields().iter().map(|field| padded(field)).collect()
    };
    let mut fields = fields_of(left, matches!(kind, JoinKind::Right | JoinKind::Full));
    match kind {
        JoinKind::Semi | JoinKind::Anti => {}
        JoinKind::Mark => fields.extend(logical.fields().last().map(|mark| mark.as_ref().clone())),
        _ => fields.extend(fields_of(right, matches!(kind, JoinKind::Left | JoinKind::Full))),
    }
    Arc::new(Schema::new(fields))
}

/// A join's condition beside its keys, over the columns that it reads.
fn residual(join: &LogicalJoin) -> Result<Option<Residual>> {
    let is_condition = |filter: &&Expr| !matches!(filter, Expr::Literal(ScalarValue::Boolean(Some(true)), _));
    let Some(filter) = join.filter.as_ref().filter(is_condition) else { return Ok(None) };
    let (left, right) = (join.left.schema(), join.right.schema());
    let mut columns: Vec<((usize, usize), &Column)> = Vec::new();
    for column in filter.column_refs() {
        let place = match (left.maybe_index_of_column(column), right.maybe_index_of_column(column)) {
            (Some(position), _) => (0, position),
            (None, Some(position)) => (1, position),
            (None, None) => return Err(Error::internal(format!("a join has no column {column}"))),
        };
        columns.push((place, column));
    }
    columns.sort_by_key(|(place, _)| *place);
    let fields = columns.iter().map(|((side, position), _)| {
        let (qualifier, field) = if *side == 0 { left } else { right }.qualified_field(*position);
        (qualifier.cloned(), Arc::new(field.as_ref().clone().with_nullable(true)))
    });
    let schema = DFSchema::new_with_metadata(fields.collect(), Default::default())?;
    Ok(Some(Residual {
        condition: physical(filter, &schema)?,
        schema: arrow_schema(&schema),
        columns: columns.into_iter().map(|(place, _)| place).collect(),
        text: filter.to_string(),
    }))
}
