//! The walk from an optimised logical plan to operators.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, JoinType, NullEquality};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{self as logical, Expr, LogicalPlan};
use millstream_catalog::ObjectId;
use millstream_sql::{CatalogSource, Target};

use super::expressions::{monotone_column, physical};
use super::{Input, Node, Options, PlannedView, Relations, Scan, part};
use crate::error::{Error, Result};
use crate::stream::operator::aggregate::{AggregateCall, AggregateKind, AggregateSpec, HashAggregate};
use crate::stream::operator::join::{Join, JoinSide, JoinSpec};
use crate::stream::operator::project::Project;
use crate::stream::operator::union::Union;
use crate::stream::operator::unnest::Unnest;
use crate::stream::operator::{EdgeProperties, Operator};

/// Collects the operators of one view.
pub struct Builder<'a> {
    relations: &'a dyn Relations,
    object: ObjectId,
    options: Options,
    scans: Vec<Scan>,
    nodes: Vec<Node>,
    next_part: u16,
    /// Whether an operator took up EMIT ON WINDOW CLOSE.
    emitted_on_close: bool,
}

/// A planned input with what is known of it.
struct Edge {
    input: Input,
    properties: EdgeProperties,
}

impl<'a> Builder<'a> {
    pub fn new(relations: &'a dyn Relations, object: ObjectId, options: Options) -> Self {
        Self {
            relations,
            object,
            options,
            scans: Vec::new(),
            nodes: Vec::new(),
            next_part: part::OPERATORS,
            emitted_on_close: false,
        }
    }

    /// Plans the whole query.
    pub fn build(mut self, query: &LogicalPlan) -> Result<PlannedView> {
        let edge = self.edge(query)?;
        if self.options.emit_on_window_close && !self.emitted_on_close {
            return Err(Error::unsupported("EMIT ON WINDOW CLOSE needs a GROUP BY over a column with a watermark")
                .with_hint("group by window_start and window_end of TUMBLE or HOP over a source with WATERMARK FOR"));
        }
        Ok(PlannedView { scans: self.scans, nodes: self.nodes, output: edge.input, properties: edge.properties })
    }

    fn edge(&mut self, plan: &LogicalPlan) -> Result<Edge> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => {
                let mut edge = self.edge(&alias.input)?;
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
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            // Rows of a view have no order; the SELECT that reads it gives one.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.edge(&sort.input),
            other => Err(refusal(other)),
        }
    }

    fn scan(&mut self, scan: &logical::TableScan) -> Result<Edge> {
        let source = scan
            .source
            .downcast_ref::<CatalogSource>()
            .ok_or_else(|| Error::unsupported(format!("\"{}\" cannot be read as a stream", scan.table_name)))?;
        let id = match &source.target {
            Target::Object(id) => *id,
            _ => {
                return Err(Error::unsupported(format!("\"{}\" cannot be read by a continuous view", scan.table_name))
                    .with_hint("continuous views read sources, tables and materialized views"));
            }
        };
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(Error::internal(format!("filter or limit pushed into the scan of \"{}\"", scan.table_name)));
        }
        let all = self.relations.properties(id)?;
        let columns: Vec<usize> = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..all.schema.fields().len()).collect(),
        };
        let input = Input::Scan(self.scans.len());
        self.scans.push(Scan {
            object: id,
            name: scan.table_name.to_string(),
            columns: columns.clone(),
            append_only: all.append_only,
        });
        let properties = EdgeProperties {
            schema: Arc::new(all.schema.project(&columns)?),
            append_only: all.append_only,
            stream_key: all.stream_key.as_ref().and_then(|key| positions(key, &columns)),
            watermark_columns: all
                .watermark_columns
                .iter()
                .filter_map(|w| columns.iter().position(|c| c == w))
                .collect(),
        };
        Ok(Edge { input, properties })
    }

    /// Filter, projection or both over one input.
    fn project(
        &mut self,
        expressions: Option<&[Expr]>,
        predicate: Option<&Expr>,
        input: &LogicalPlan,
        schema: &DFSchema,
    ) -> Result<Edge> {
        let edge = self.edge(input)?;
        self.project_edge(edge, input.schema(), expressions, predicate, arrow_schema(schema))
    }

    fn project_edge(
        &mut self,
        edge: Edge,
        input_schema: &DFSchema,
        expressions: Option<&[Expr]>,
        predicate: Option<&Expr>,
        output: SchemaRef,
    ) -> Result<Edge> {
        let before = &edge.properties;
        let (physical_exprs, carries, key) = match expressions {
            Some(exprs) => {
                let columns: Vec<Option<usize>> = exprs.iter().map(|e| plain_column(e, input_schema)).collect();
                let carries: Vec<Option<usize>> = exprs
                    .iter()
                    .map(|e| monotone_column(e, input_schema).filter(|c| before.watermark_columns.contains(c)))
                    .collect();
                let key = before.stream_key.as_ref().and_then(|key| {
                    key.iter().map(|k| columns.iter().position(|c| *c == Some(*k))).collect::<Option<Vec<_>>>()
                });
                let physical_exprs = exprs.iter().map(|e| physical(e, input_schema)).collect::<Result<Vec<_>>>()?;
                (Some(physical_exprs), carries, key)
            }
            None => {
                let carries = (0..before.schema.fields().len())
                    .map(|c| before.watermark_columns.contains(&c).then_some(c))
                    .collect();
                (None, carries, before.stream_key.clone())
            }
        };
        let properties = EdgeProperties {
            schema: output,
            append_only: before.append_only,
            stream_key: key,
            watermark_columns: (0..carries.len()).filter(|i| carries[*i].is_some()).collect(),
        };
        let title = match (expressions, predicate) {
            (Some(e), Some(p)) => format!("Project: {} where {p}", join_exprs(e)),
            (Some(e), None) => format!("Project: {}", join_exprs(e)),
            (None, Some(p)) => format!("Filter: {p}"),
            (None, None) => "Project: all".to_string(),
        };
        let predicate = predicate.map(|p| physical(p, input_schema)).transpose()?;
        let operator = Project::new(
            self.nodes.len() as u32,
            before.schema.clone(),
            &properties,
            predicate,
            physical_exprs,
            carries,
            title,
        );
        Ok(self.add(Box::new(operator), vec![edge.input], properties))
    }

    fn aggregate(&mut self, aggregate: &logical::Aggregate) -> Result<Edge> {
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
                use datafusion::logical_expr::ExprSchemable;
                let (_, field) = e.to_field(input_schema)?;
                Ok(field.as_ref().clone().with_name(if i < groups {
                    aggregate.schema.field(i).name().clone()
                } else {
                    format!("argument_{}", i - groups)
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        let argument_schema: SchemaRef = Arc::new(arrow::datatypes::Schema::new(fields));
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

    fn join(&mut self, join: &logical::Join) -> Result<Edge> {
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
        let joined: SchemaRef = Arc::new(arrow::datatypes::Schema::new(joined_fields));
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
        use datafusion::logical_expr::ExprSchemable;
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
        let output: SchemaRef = Arc::new(arrow::datatypes::Schema::new(fields));
        Ok((self.project_edge(edge, schema, Some(&exprs), None, output)?, columns))
    }

    /// Only the columns at `keep`.
    fn select(&mut self, edge: Edge, keep: &[usize], output: SchemaRef) -> Result<Edge> {
        let schema = edge.properties.schema.clone();
        let exprs = keep
            .iter()
            .map(|c| {
                Arc::new(datafusion::physical_expr::expressions::Column::new(schema.field(*c).name(), *c))
                    as Arc<dyn datafusion::physical_expr::PhysicalExpr>
            })
            .collect();
        let before = &edge.properties;
        let carries: Vec<Option<usize>> =
            keep.iter().map(|c| before.watermark_columns.contains(c).then_some(*c)).collect();
        let properties = EdgeProperties {
            schema: output,
            append_only: before.append_only,
            stream_key: before.stream_key.as_ref().and_then(|key| positions(key, keep)),
            watermark_columns: (0..carries.len()).filter(|i| carries[*i].is_some()).collect(),
        };
        let title = format!("Project: columns {keep:?}");
        let number = self.nodes.len() as u32;
        let operator = Project::new(number, schema, &properties, None, Some(exprs), carries, title);
        Ok(self.add(Box::new(operator), vec![edge.input], properties))
    }

    fn union(&mut self, union: &logical::Union) -> Result<Edge> {
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

    fn unnest(&mut self, unnest: &logical::Unnest) -> Result<Edge> {
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

    /// State parts for an operator.
    fn take_parts(&mut self, parts: u16) -> u16 {
        let first = self.next_part;
        self.next_part += parts;
        first
    }

    fn add(&mut self, operator: Box<dyn Operator>, inputs: Vec<Input>, properties: EdgeProperties) -> Edge {
        let input = Input::Node(self.nodes.len());
        self.nodes.push(Node { operator, inputs });
        Edge { input, properties }
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
        Expr::ScalarFunction(f) => f.func.name() == "hop_starts",
        Expr::Alias(a) => is_hop(&a.expr),
        _ => false,
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

fn refusal(plan: &LogicalPlan) -> Error {
    let construct = match plan {
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => "ORDER BY ... LIMIT",
        LogicalPlan::Window(_) => "OVER",
        LogicalPlan::Distinct(_) => "DISTINCT ON",
        LogicalPlan::Values(_) => "VALUES",
        LogicalPlan::EmptyRelation(_) => {
            return Error::unsupported("a continuous view needs a source, table or view to read")
                .with_hint("use CREATE VIEW for a constant query");
        }
        LogicalPlan::RecursiveQuery(_) => "WITH RECURSIVE",
        LogicalPlan::Subquery(_) => "a correlated subquery",
        LogicalPlan::Repartition(_) => "repartitioning",
        LogicalPlan::Extension(e) => {
            return Error::unsupported(format!("{} is not supported in a continuous view", e.node.name()));
        }
        _ => "this construct",
    };
    Error::unsupported(format!("{construct} is not supported in a continuous view"))
}

/// Position of the input column that an expression passes on unchanged.
fn plain_column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(c) => schema.index_of_column(c).ok(),
        Expr::Alias(a) => plain_column(&a.expr, schema),
        _ => None,
    }
}

/// Positions of `wanted` among `columns`; `None` if one is missing.
fn positions(wanted: &[usize], columns: &[usize]) -> Option<Vec<usize>> {
    wanted.iter().map(|w| columns.iter().position(|c| c == w)).collect()
}

/// Whether no two rows of a relation agree on `columns`.
fn is_unique_on(properties: &EdgeProperties, columns: &[usize]) -> bool {
    properties.stream_key.as_ref().is_some_and(|key| key.iter().all(|k| columns.contains(k)))
}

/// Expressions without the names given to them: a plan's fingerprint must not depend on those.
fn join_exprs(exprs: &[Expr]) -> String {
    exprs.iter().map(|e| e.clone().unalias_nested().data.to_string()).collect::<Vec<_>>().join(", ")
}

fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    Arc::new(schema.as_arrow().clone())
}
