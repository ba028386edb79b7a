//! Filters and projections, those of a query and those that other operators need before and behind them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use super::{Builder, Edge, arrow_schema, column_name, plain_column, positions};
use crate::error::Result;
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::project::Project;
use crate::stream::plan::clock;
use crate::stream::plan::expressions::{monotone_column, physical};

impl Builder<'_> {
    /// Filter, projection or both over one input.
    pub(super) fn project(
        &mut self,
        expressions: Option<&[Expr]>,
        predicate: Option<&Expr>,
        input: &LogicalPlan,
        schema: &DFSchema,
    ) -> Result<Edge> {
        if let Some(predicate) = predicate.filter(|p| clock::mentions(p)) {
            let edge = self.temporal_filter(predicate, input)?;
            return match expressions {
                Some(_) => self.project_edge(edge, input.schema(), expressions, None, arrow_schema(schema)),
                None => Ok(edge),
            };
        }
        if let Some(predicate) = predicate
            && let Some((predicate, below)) = below(predicate, input)?
        {
            let mut edge = self.project(None, Some(&predicate), below, below.schema())?;
            edge = match input {
                LogicalPlan::Projection(projection) => {
                    let output = arrow_schema(&projection.schema);
                    self.project_edge(edge, below.schema(), Some(&projection.expr), None, output)?
                }
                _ => edge,
            };
            edge.properties.schema = arrow_schema(input.schema());
            return match expressions {
                Some(_) => self.project_edge(edge, input.schema(), expressions, None, arrow_schema(schema)),
                None => Ok(edge),
            };
        }
        let edge = match (input, predicate) {
            (LogicalPlan::Window(window), Some(_)) => self.window(window, predicate)?,
            (LogicalPlan::Aggregate(aggregate), _) => {
                let shown = expressions.unwrap_or_default().iter().filter_map(|e| plain_column(e, input.schema()));
                let shown: Vec<usize> = shown.collect();
                self.once(input, |builder| builder.aggregate(aggregate, &shown))?
            }
            _ => self.any_edge(input)?,
        };
        if let Some(expressions) = expressions {
            self.narrow(edge.input, input.schema(), expressions.iter().chain(predicate))?;
        }
        self.project_edge(edge, input.schema(), expressions, predicate, arrow_schema(schema))
    }

    pub(super) fn project_edge(
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
                let columns: Vec<Option<usize>> =
                    exprs.iter().map(|e| plain_column(same_text(e, input_schema), input_schema)).collect();
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
        Ok(Edge { as_of_now: edge.as_of_now, ..self.add(Box::new(operator), vec![edge.input], properties) })
    }

    /// The columns of `schema`, which is the edge's, and behind them those of `columns` that are computed, if there are any.
    pub(super) fn with_computed(&mut self, edge: Edge, schema: &DFSchema, columns: &[Expr]) -> Result<Edge> {
        let width = schema.fields().len();
        if columns.len() == width {
            return Ok(edge);
        }
        let mut fields: Vec<Arc<Field>> = edge.properties.schema.fields().iter().cloned().collect();
        for expr in &columns[width..] {
            let (_, field) = expr.to_field(schema)?;
            let name = column_name(expr, fields.iter().map(Arc::as_ref));
            fields.push(Arc::new(field.as_ref().clone().with_name(name)));
        }
        self.project_edge(edge, schema, Some(columns), None, Arc::new(Schema::new(fields)))
    }

    /// Only the columns at `keep`.
    pub(super) fn select(&mut self, edge: Edge, keep: &[usize], output: SchemaRef) -> Result<Edge> {
        let schema = edge.properties.schema.clone();
        let exprs =
            keep.iter().map(|c| Arc::new(Column::new(schema.field(*c).name(), *c)) as Arc<dyn PhysicalExpr>).collect();
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
        Ok(Edge { as_of_now: edge.as_of_now, ..self.add(Box::new(operator), vec![edge.input], properties) })
    }
}

/// A filter over a projection or an alias as one over what is below it, where that has window functions: the filter may bound
/// a row's number.
fn below<'p>(predicate: &Expr, plan: &'p LogicalPlan) -> Result<Option<(Expr, &'p LogicalPlan)>> {
    let input = match plan {
        LogicalPlan::Projection(projection) => projection.input.as_ref(),
        LogicalPlan::SubqueryAlias(alias) => alias.input.as_ref(),
        _ => return Ok(None),
    };
    let mut window = input;
    while let LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) = window {
        let Some(next) = window.inputs().first().copied() else { return Ok(None) };
        window = next;
    }
    if !matches!(window, LogicalPlan::Window(_)) {
        return Ok(None);
    }
    let mut is_known = true;
    let mapped = predicate.clone().transform(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let position = plan.schema().index_of_column(column)?;
        let of = match plan {
            LogicalPlan::Projection(projection) => projection.expr[position].clone().unalias_nested().data,
            _ => Expr::Column(input.schema().columns()[position].clone()),
        };
        is_known &= matches!(of, Expr::Column(_));
        Ok(Transformed::yes(of))
    })?;
    Ok(is_known.then_some((mapped.data, input)))
}

/// Expressions without the names given to them: a plan's fingerprint must not depend on those.
fn join_exprs(exprs: &[Expr]) -> String {
    exprs.iter().map(|e| e.clone().unalias_nested().data.to_string()).collect::<Vec<_>>().join(", ")
}

/// Without a cast from one layout of text to another, which tells the same values apart.
fn same_text<'e>(expr: &'e Expr, schema: &DFSchema) -> &'e Expr {
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match expr {
        Expr::Alias(alias) => same_text(&alias.expr, schema),
        Expr::Cast(cast)
            if is_text(cast.field.data_type()) && cast.expr.get_type(schema).is_ok_and(|t| is_text(&t)) =>
        {
            &cast.expr
        }
        _ => expr,
    }
}
