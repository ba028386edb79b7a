//! GROUP BY and aggregates over everything.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{self as logical, Aggregate, Expr, ExprSchemable};

use millstream_sql::functions::ordered_set::checked_fraction;

use super::{Builder, Edge, arrow_schema, column_name};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::aggregate::{AggregateCall, AggregateKind, AggregateSpec, HashAggregate};
use crate::stream::operator::expand::{Expand, GroupingSet};
use crate::stream::operator::order_key::SortColumn;
use crate::stream::plan::group_key::{followers, key_columns};

impl Builder<'_> {
    /// `shown`: positions of the output columns that the plan above passes on, which the key prefers.
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate, shown: &[usize]) -> Result<Edge> {
        let input_schema = aggregate.input.schema();
        let sets = grouping_sets(&aggregate.group_expr)?;
        let mut arguments: Vec<Expr> = grouping_set_to_exprlist(&aggregate.group_expr)?.into_iter().cloned().collect();
        let groups = arguments.len();
        // With grouping sets, group columns become NULL, but not where they are arguments.
        let first_argument = if sets.is_empty() { 0 } else { groups };
        let mut calls = Vec::new();
        for expr in &aggregate.aggr_expr {
            calls.push(aggregate_call(expr, &mut arguments, first_argument)?);
        }
        let mut fields: Vec<Field> = Vec::with_capacity(arguments.len());
        for (i, e) in arguments.iter().enumerate() {
            let (_, field) = e.to_field(input_schema)?;
            let name = match i < groups {
                true => aggregate.schema.field(i).name().clone(),
                false => column_name(e, fields.iter()),
            };
            fields.push(field.as_ref().clone().with_name(name));
        }
        let argument_schema: SchemaRef = Arc::new(Schema::new(fields));
        let edge = self.edge(&aggregate.input)?;
        let mut edge = self.project_edge(edge, input_schema, Some(&arguments), None, argument_schema)?;
        let mut group_by: Vec<usize> = (0..groups).collect();
        let is_total = |set: &&GroupingSet| !set.included.contains(&true);
        let totals: Vec<u64> = sets.iter().filter(is_total).map(|set| set.id).collect();
        let sets_are_used = !sets.is_empty();
        if sets_are_used {
            group_by.push(edge.properties.schema.fields().len());
            edge = self.expand(edge, sets, aggregate.schema.field(groups).as_ref().clone());
        }
        let has_watermark = |g: &usize| edge.properties.watermark_columns.contains(g);
        let key = match sets_are_used {
            true => (0..group_by.len()).collect(),
            false => key_columns(&arguments[..groups], &aggregate.input, shown, |g| has_watermark(&g)),
        };
        // Positions in `group_by`, whose last is that of the grouping sets' number.
        let time_column = key.iter().copied().find(|k| has_watermark(&group_by[*k]));
        // What is on time by one column may come late by another, so the others carry no watermark on.
        let timed: Vec<usize> = match time_column {
            Some(time) => {
                followers(&arguments[..groups], &aggregate.input, time).into_iter().filter(has_watermark).collect()
            }
            None => Vec::new(),
        };
        let emit_on_close = self.options.emit_on_window_close && time_column.is_some();
        self.emitted_on_close |= emit_on_close;
        let output = arrow_schema(&aggregate.schema);
        let properties = EdgeProperties {
            schema: output.clone(),
            append_only: emit_on_close,
            stream_key: Some(key.clone()),
            watermark_columns: timed.clone(),
        };
        let first_part = self.take_parts(HashAggregate::PARTS);
        let ttl = self.ttl(time_column.is_none() && !group_by.is_empty());
        let spec = AggregateSpec {
            operator: self.nodes.len() as u32,
            object: self.object,
            first_part,
            input: edge.properties.schema.clone(),
            append_only: edge.properties.append_only,
            group_by,
            key,
            aggregates: calls,
            output,
            time_column,
            timed,
            emit_on_window_close: emit_on_close,
            ttl,
            totals,
        };
        // Groups that are there without rows are everybody's.
        let has_keys = !spec.group_by.is_empty() && spec.totals.is_empty();
        let operator = self.sharded(has_keys, || HashAggregate::new(spec.clone()))?;
        let edge = self.add(operator, vec![edge.input], properties);
        self.restart(edge.input, ttl.is_some());
        Ok(edge)
    }

    /// Each row once for each grouping set, with the set's id in a column at the end.
    fn expand(&mut self, edge: Edge, sets: Vec<GroupingSet>, id: Field) -> Edge {
        let before = edge.properties;
        let in_all = |column: usize| sets.iter().all(|set| set.included.get(column).is_none_or(|included| *included));
        let fields = before.schema.fields().iter().enumerate();
        let fields = fields.map(|(i, f)| f.as_ref().clone().with_nullable(f.is_nullable() || !in_all(i)));
        let properties = EdgeProperties {
            schema: Arc::new(Schema::new(fields.chain([id]).collect::<Vec<_>>())),
            append_only: before.append_only,
            stream_key: None,
            watermark_columns: before.watermark_columns.into_iter().filter(|c| in_all(*c)).collect(),
        };
        self.add(Box::new(Expand::new(properties.clone(), sets)), vec![edge.input], properties)
    }
}

/// The grouping sets of a GROUP BY, none if it has only columns.
fn grouping_sets(group_by: &[Expr]) -> Result<Vec<GroupingSet>> {
    let [Expr::GroupingSet(sets)] = group_by else { return Ok(Vec::new()) };
    let sets: Vec<Vec<Expr>> = match sets {
        logical::GroupingSet::GroupingSets(sets) => sets.clone(),
        logical::GroupingSet::Rollup(columns) => (0..=columns.len()).map(|n| columns[..n].to_vec()).collect(),
        logical::GroupingSet::Cube(columns) => (0..1_u64 << columns.len())
            .map(|set| {
                columns.iter().enumerate().filter(|(i, _)| (set >> i) & 1 == 1).map(|(_, c)| c.clone()).collect()
            })
            .collect(),
    };
    let columns = grouping_set_to_exprlist(group_by)?;
    if columns.len() >= GROUPING_COLUMNS_MAX {
        return Err(Error::unsupported(format!("grouping sets over {} columns", columns.len())));
    }
    let mut found: Vec<GroupingSet> = Vec::with_capacity(sets.len());
    for set in &sets {
        let included: Vec<bool> = columns.iter().map(|column| set.contains(column)).collect();
        let left_out = included.iter().fold(0, |bits, included| (bits << 1) | u64::from(!included));
        let copies = found.iter().filter(|other| other.included == included).count() as u64;
        found.push(GroupingSet { included, id: (copies << columns.len()) | left_out });
    }
    Ok(found)
}

/// Columns of grouping sets are bits of a number, with bits to spare for sets that come several times.
const GROUPING_COLUMNS_MAX: usize = 32;

/// Takes an aggregate expression apart; the columns that it reads are added to `arguments`, or found there, at `first` or
/// later.
fn aggregate_call(expr: &Expr, arguments: &mut Vec<Expr>, first: usize) -> Result<AggregateCall> {
    let expr = match expr {
        Expr::Alias(a) => a.expr.as_ref(),
        other => other,
    };
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
        return Err(Error::unsupported(format!("aggregate expression {expr} is not supported in a continuous view")));
    };
    let name = func.name();
    let kind = AggregateKind::of_name(name).ok_or_else(|| {
        Error::unsupported(format!("aggregate {name}() is not supported in a continuous view"))
            .with_hint("those that are: count, sum, avg, min, max, bool_and, bool_or, bit_and, bit_or, bit_xor, var_pop, var_samp, stddev_pop, stddev_samp, array_agg, string_agg, first_value, last_value, percentile_cont, percentile_disc, mode, approx_count_distinct")
    })?;
    if params.null_treatment.is_some() {
        return Err(Error::unsupported(format!("IGNORE NULLS in {name}() is not supported in a continuous view")));
    }
    let mut position = |expr: &Expr| match arguments[first..].iter().position(|a| a == expr) {
        Some(position) => first + position,
        None => {
            arguments.push(expr.clone());
            arguments.len() - 1
        }
    };
    let (mut separator, mut fraction) = (None, None);
    let argument = match params.args.as_slice() {
        // count(*) arrives as count of a constant.
        [] => None,
        [Expr::Literal(value, _)] if matches!(kind, AggregateKind::Count) && !value.is_null() && !params.distinct => {
            None
        }
        [argument] => Some(position(argument)),
        [argument, Expr::Literal(text, _)] if kind == AggregateKind::StringAgg => {
            separator = Some(text.try_as_str().flatten().unwrap_or_default().to_string());
            Some(position(argument))
        }
        [argument, Expr::Literal(ScalarValue::Float64(Some(of)), _)] if kind.is_ordered_set() => {
            fraction = Some(checked_fraction(*of)?);
            Some(position(argument))
        }
        _ => {
            return Err(Error::unsupported(format!(
                "{name}() with such arguments is not supported in a continuous view"
            )));
        }
    };
    let filter = params.filter.as_ref().map(|f| position(f));
    let order_by = match kind.depends_on_order() {
        true => params
            .order_by
            .iter()
            .map(|sort| SortColumn {
                column: position(&sort.expr),
                descending: !sort.asc,
                nulls_first: sort.nulls_first,
            })
            .collect(),
        false => Vec::new(),
    };
    let distinct = params.distinct && !kind.ignores_copies();
    Ok(AggregateCall { kind, argument, filter, distinct, order_by, separator, fraction })
}
