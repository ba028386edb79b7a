//! The walk from an optimised logical plan to operators: one match, and a file for each kind of node.

mod aggregate;
mod asof;
mod join;
mod over;
mod project;
mod refusal;
mod scan;
mod sessions;
mod single_row;
mod temporal;
mod time_bound;
mod union;
mod unnest;
mod values;

use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use millstream_catalog::ObjectId;
use millstream_sql::{AsofJoin, Sessions};

use self::refusal::refusal;
use super::single_row::SingleRow;
use super::{Input, Node, Options, PlannedView, Relations, Scan, part, readable};
use crate::error::{Error, Result};
use crate::stream::operator::emit::EmitOnClose;
use crate::stream::operator::sharded::{Keyed, Sharded};
use crate::stream::operator::ttl::TtlSpec;
use crate::stream::operator::{EdgeProperties, Operator};

/// Collects the operators of one view.
pub struct Builder<'a> {
    relations: &'a dyn Relations,
    object: ObjectId,
    options: Options,
    scans: Vec<Scan>,
    nodes: Vec<Node>,
    /// For each node, [`PlannedView::restarts`] of its result.
    restarting: Vec<bool>,
    /// Why a node cannot be over one that restarts.
    refused: Option<Error>,
    next_part: u16,
    /// Whether an operator took up EMIT ON WINDOW CLOSE.
    emitted_on_close: bool,
    /// What was planned of what has state: where a query has the same twice, as by a CTE, it is kept once.
    planned: Vec<(LogicalPlan, Edge)>,
}

/// A planned input with what is known of it.
#[derive(Clone)]
struct Edge {
    input: Input,
    properties: EdgeProperties,
    /// Whether it may only be the right side of a join as of now.
    as_of_now: bool,
}

impl<'a> Builder<'a> {
    pub fn new(relations: &'a dyn Relations, object: ObjectId, options: Options) -> Self {
        Self {
            relations,
            object,
            options,
            scans: Vec::new(),
            nodes: Vec::new(),
            restarting: Vec::new(),
            refused: None,
            next_part: part::OPERATORS,
            emitted_on_close: false,
            planned: Vec::new(),
        }
    }

    /// Plans the whole query.
    pub fn build(mut self, query: &LogicalPlan) -> Result<PlannedView> {
        let mut edge = self.edge(query)?;
        if self.options.emit_on_window_close && !self.emitted_on_close {
            return Err(Error::unsupported(
                "EMIT ON WINDOW CLOSE needs a GROUP BY or a window function over a column with a watermark",
            )
            .with_hint(
                "group by window_start and window_end of TUMBLE, HOP, CUMULATE or SESSION over a source with WATERMARK FOR",
            ));
        }
        if self.options.emit_on_window_close && !edge.properties.append_only {
            edge = self.emit_on_close(edge)?;
        }
        if self.options.emit_on_window_close && !edge.properties.append_only {
            return Err(Error::unsupported(
                "EMIT ON WINDOW CLOSE is not supported for windows whose rows change afterwards",
            )
            .with_hint("make the GROUP BY or window function that closes the outermost one"));
        }
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let restarts = self.restarts(edge.input);
        if restarts && edge.properties.stream_key.is_none() {
            return Err(Error::unsupported("state_ttl needs a result whose rows have a key").with_hint(
                "select the columns of GROUP BY, or the keys of what is joined: by them rows are replaced",
            ));
        }
        let Self { scans, nodes, .. } = self;
        Ok(PlannedView { scans, nodes, output: edge.input, properties: edge.properties, restarts })
    }

    fn edge(&mut self, plan: &LogicalPlan) -> Result<Edge> {
        let edge = self.any_edge(plan)?;
        if edge.as_of_now {
            return Err(Error::unsupported(
                "FOR SYSTEM_TIME AS OF PROCTIME() is not supported here in a continuous view",
            )
            .with_hint("it belongs to the right side of an inner or left join"));
        }
        Ok(edge)
    }

    /// An input that may be one as of now.
    fn any_edge(&mut self, plan: &LogicalPlan) -> Result<Edge> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => {
                let mut edge = self.any_edge(&alias.input)?;
                edge.properties.schema = arrow_schema(plan.schema());
                Ok(edge)
            }
            LogicalPlan::Filter(filter) => self.project(None, Some(&filter.predicate), &filter.input, plan.schema()),
            LogicalPlan::Projection(projection) => match projection.input.as_ref() {
                LogicalPlan::Filter(filter) => {
                    self.project(Some(&projection.expr), Some(&filter.predicate), &filter.input, plan.schema())
                }
                input => self.project(Some(&projection.expr), None, input, plan.schema()),
            },
            LogicalPlan::Aggregate(aggregate) => self.once(plan, |builder| builder.aggregate(aggregate, &[])),
            LogicalPlan::Join(join) => self.once(plan, |builder| builder.join(join)),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::EmptyRelation(empty) => self.empty_relation(empty),
            LogicalPlan::Values(values) => self.values(values),
            // LATERAL without a reference to what is beside it.
            LogicalPlan::Subquery(subquery) if subquery.outer_ref_columns.is_empty() => self.edge(&subquery.subquery),
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_ref().as_any();
                if let Some(single) = node.downcast_ref::<SingleRow>() {
                    self.single_row(single)
                } else if let Some(join) = node.downcast_ref::<AsofJoin>() {
                    self.asof_join(join)
                } else if let Some(sessions) = node.downcast_ref::<Sessions>() {
                    self.sessions(sessions)
                } else {
                    Err(refusal(plan))
                }
            }
            LogicalPlan::Window(window) => self.window(window, None),
            LogicalPlan::Limit(limit) => self.limit(limit),
            // Rows of a view have no order; the SELECT that reads it gives one.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.edge(&sort.input),
            other => Err(refusal(other)),
        }
    }

    /// Plans a part of the query, unless the same was planned before.
    fn once(&mut self, plan: &LogicalPlan, build: impl FnOnce(&mut Self) -> Result<Edge>) -> Result<Edge> {
        if let Some((_, edge)) = self.planned.iter().find(|(planned, _)| planned == plan) {
            return Ok(edge.clone());
        }
        let edge = build(self)?;
        self.planned.push((plan.clone(), edge.clone()));
        Ok(edge)
    }

    /// Holds back what is not final of a result with a watermark; any other stays as it is.
    fn emit_on_close(&mut self, edge: Edge) -> Result<Edge> {
        let Some(time) = edge.properties.watermark_columns.first().copied() else { return Ok(edge) };
        let properties = EdgeProperties { append_only: true, ..edge.properties };
        let part = self.take_parts(EmitOnClose::PARTS);
        let operator = EmitOnClose::new(self.nodes.len() as u32, self.object, part, time, properties.clone())?;
        Ok(self.add(Box::new(operator), vec![edge.input], properties))
    }

    /// State parts for an operator.
    fn take_parts(&mut self, parts: u16) -> u16 {
        let first = self.next_part;
        self.next_part += parts;
        first
    }

    /// An operator with as many shards as the view has, if it has keys.
    fn sharded<O: Keyed + 'static>(&self, has_keys: bool, make: impl Fn() -> Result<O>) -> Result<Box<dyn Operator>> {
        let shards = if has_keys { self.options.parallelism } else { 1 };
        Ok(Box::new(Sharded::new(shards, make)?))
    }

    /// What an operator that no watermark bounds needs to forget its state.
    fn ttl(&mut self, unbounded: bool) -> Option<TtlSpec> {
        let ttl_us = self.options.state_ttl_us.filter(|_| unbounded)?;
        Some(TtlSpec { ttl_us, part: self.take_parts(1) })
    }

    /// Notes that rows of a node may come again.
    fn restart(&mut self, node: Input, restarts: bool) {
        if let Input::Node(n) = node {
            self.restarting[n] |= restarts;
        }
    }

    fn restarts(&self, input: Input) -> bool {
        matches!(input, Input::Node(n) if self.restarting[n])
    }

    fn add(&mut self, operator: Box<dyn Operator>, inputs: Vec<Input>, properties: EdgeProperties) -> Edge {
        let input = Input::Node(self.nodes.len());
        let above = inputs.iter().find_map(|input| match input {
            Input::Node(n) if self.restarting[*n] => Some(*n),
            _ => None,
        });
        if let Some(below) = above {
            let (outer, inner) = (operator.describe(), self.nodes[below].operator.describe());
            let name = |title: &str| title.split(':').next().unwrap_or_default().to_string();
            if !outer.state.is_empty() {
                let message = format!(
                    "state_ttl is not supported for {} over {}, which may forget",
                    name(&outer.title),
                    name(&inner.title)
                );
                self.refused.get_or_insert_with(|| {
                    Error::unsupported(message)
                        .with_hint("make the inner query a materialized view of its own, with a state_ttl of its own")
                });
            }
        }
        self.restarting.push(above.is_some());
        self.nodes.push(Node { operator, inputs });
        Edge { input, properties, as_of_now: false }
    }
}

/// Position of the input column that an expression passes on unchanged.
fn plain_column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(c) => schema.index_of_column(c).ok(),
        Expr::Alias(a) => plain_column(&a.expr, schema),
        _ => None,
    }
}

/// The name of a computed column, for people: the expression, or with a number behind it if that is taken.
fn column_name<'a>(expr: &Expr, taken: impl Iterator<Item = &'a Field>) -> String {
    let name = match expr {
        Expr::Column(c) => readable(&c.name),
        other => readable(&other.to_string()),
    };
    let taken: Vec<&str> = taken.map(|f| f.name().as_str()).collect();
    if taken.contains(&name.as_str()) { format!("{name}_{}", taken.len()) } else { name }
}

/// Positions of `wanted` among `columns`; `None` if one is missing.
fn positions(wanted: &[usize], columns: &[usize]) -> Option<Vec<usize>> {
    wanted.iter().map(|w| columns.iter().position(|c| c == w)).collect()
}

fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    Arc::new(schema.as_arrow().clone())
}
