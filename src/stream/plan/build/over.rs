//! OVER, ORDER BY … LIMIT, and the filters on a row's number that make top-N of a window function.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    self as logical, Expr, ExprSchemable, FetchType, LogicalPlan, Operator as BinaryOperator, SkipType, WindowFrame,
    WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};

use super::{Builder, Edge, arrow_schema, plain_column};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::aggregate::AggregateKind;
use crate::stream::operator::first_row::{FirstRow, FirstRowSpec};
use crate::stream::operator::order_key::SortColumn;
use crate::stream::operator::over::frame::{Distance, Edge as FrameEdge, Frame, Units};
use crate::stream::operator::over::function::{WindowCall, WindowKind};
use crate::stream::operator::over::{Limit, LimitBy, Over, OverSpec};

/// Functions over one PARTITION BY and ORDER BY.
pub(super) struct Group {
    pub partition_by: Vec<usize>,
    pub order_by: Vec<SortColumn>,
    /// Positions among the plan's window expressions.
    pub members: Vec<usize>,
    pub calls: Vec<WindowCall>,
    pub limit: Option<Limit>,
}

impl Builder<'_> {
    /// Window functions over one input; `predicate` is a filter right above them, which may bound a row's number.
    pub(super) fn window(&mut self, window: &logical::Window, predicate: Option<&Expr>) -> Result<Edge> {
        let schema = window.input.schema();
        let width = schema.fields().len();
        let mut columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
        let mut position = |expr: &Expr| -> usize {
            plain_column(expr, schema).or_else(|| columns.iter().position(|c| c == expr)).unwrap_or_else(|| {
                columns.push(expr.clone());
                columns.len() - 1
            })
        };
        let mut groups: Vec<Group> = Vec::new();
        for (i, expr) in window.window_expr.iter().enumerate() {
            let function = window_function(expr)?;
            let partition_by: Vec<usize> = function.params.partition_by.iter().map(&mut position).collect();
            let order_by: Vec<SortColumn> = function
                .params
                .order_by
                .iter()
                .map(|s| SortColumn { column: position(&s.expr), descending: !s.asc, nulls_first: s.nulls_first })
                .collect();
            let order_type = match order_by.as_slice() {
                [_] => Some(function.params.order_by[0].expr.get_type(schema)?),
                _ => None,
            };
            let call = window_call(function, order_type.as_ref(), &mut position)?;
            match groups.iter_mut().find(|g| g.partition_by == partition_by && g.order_by == order_by) {
                Some(group) => {
                    group.members.push(i);
                    group.calls.push(call);
                }
                None => groups.push(Group { partition_by, order_by, members: vec![i], calls: vec![call], limit: None }),
            }
        }
        if let Some(predicate) = predicate
            && let Some((member, limit)) = row_limit(predicate, window, width)
            && let Some(at) = groups.iter().position(|g| g.members.contains(&member))
        {
            let mut limited = groups.remove(at);
            limited.limit = Some(limit);
            groups.push(limited);
        }

        let mut edge = self.edge(&window.input)?;
        edge = self.with_computed(edge, schema, &columns)?;
        let mut keep: Vec<usize> = (0..width).collect();
        keep.resize(width + window.window_expr.len(), 0);
        for group in groups {
            let first = edge.properties.schema.fields().len();
            let results: Vec<Arc<Field>> =
                group.members.iter().map(|i| window.schema.field(width + i).clone()).collect();
            group.members.iter().enumerate().for_each(|(n, i)| keep[width + i] = first + n);
            edge = self.over(edge, group, results)?;
        }
        let output = arrow_schema(&window.schema);
        match keep.iter().copied().eq(0..edge.properties.schema.fields().len()) {
            true => {
                edge.properties.schema = output;
                Ok(edge)
            }
            false => self.select(edge, &keep, output),
        }
    }

    /// ORDER BY … LIMIT … OFFSET.
    pub(super) fn limit(&mut self, limit: &logical::Limit) -> Result<Edge> {
        let skip = match limit.get_skip_type()? {
            SkipType::Literal(skip) => skip,
            SkipType::UnsupportedExpr => {
                return Err(Error::unsupported("OFFSET must be a constant in a continuous view"));
            }
        };
        let fetch = match limit.get_fetch_type()? {
            FetchType::Literal(fetch) => fetch,
            FetchType::UnsupportedExpr => {
                return Err(Error::unsupported("LIMIT must be a constant in a continuous view"));
            }
        };
        if skip == 0 && fetch.is_none() {
            return self.edge(&limit.input);
        }
        let upto = fetch.map_or(usize::MAX, |fetch| skip.saturating_add(fetch));
        self.limited(&limit.input, Limit { by: LimitBy::RowNumber, skip, upto })
    }

    /// The first rows of a sorted plan.
    fn limited(&mut self, plan: &LogicalPlan, limit: Limit) -> Result<Edge> {
        match plan {
            LogicalPlan::Projection(projection) => {
                let edge = self.limited(&projection.input, limit)?;
                let output = arrow_schema(&projection.schema);
                self.project_edge(edge, projection.input.schema(), Some(&projection.expr), None, output)
            }
            LogicalPlan::Sort(sort) => {
                let schema = sort.input.schema();
                let mut edge = self.edge(&sort.input)?;
                let width = schema.fields().len();
                let mut columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
                let order_by = sort.expr.iter().map(|s| sort_column(s, schema, &mut columns)).collect();
                edge = self.with_computed(edge, schema, &columns)?;
                let (partition_by, members, calls) = (Vec::new(), Vec::new(), Vec::new());
                let group = Group { partition_by, order_by, members, calls, limit: Some(limit) };
                let edge = self.over(edge, group, Vec::new())?;
                match columns.len() > width {
                    true => self.select(edge, &(0..width).collect::<Vec<_>>(), arrow_schema(schema)),
                    false => Ok(edge),
                }
            }
            _ => Err(Error::unsupported("LIMIT without ORDER BY is not supported in a continuous view")
                .with_hint("which rows come first must be told: add ORDER BY")),
        }
    }

    pub(super) fn over(&mut self, edge: Edge, group: Group, results: Vec<Arc<Field>>) -> Result<Edge> {
        let before = &edge.properties;
        let first = before.schema.fields().len();
        let fields: Vec<Arc<Field>> = before.schema.fields().iter().cloned().chain(results).collect();
        let output: SchemaRef = Arc::new(Schema::new(fields));
        let numbered = group.calls.iter().position(|call| call.kind == WindowKind::RowNumber);
        let one_a_group = matches!(group.limit, Some(Limit { by: LimitBy::RowNumber, skip, upto }) if upto <= skip + 1);
        let stream_key = match (&before.stream_key, numbered) {
            _ if one_a_group => Some(group.partition_by.clone()),
            (Some(key), _) => Some(key.clone()),
            (None, Some(number)) => Some(group.partition_by.iter().copied().chain([first + number]).collect()),
            (None, None) => None,
        };
        let time_column = group.partition_by.iter().position(|c| before.watermark_columns.contains(c));
        let first_order = group.order_by.first().filter(|first| !first.descending && !first.nulls_first);
        let order_time = first_order
            .filter(|first| before.watermark_columns.contains(&first.column))
            .filter(|_| time_column.is_none() && group.limit.is_none() && Over::frees(&group.calls));
        let closes = time_column.is_some() || (order_time.is_some() && Over::closes(&group.calls));
        let emit_on_close = self.options.emit_on_window_close && closes;
        let timed = match (time_column, order_time) {
            (Some(t), _) => vec![group.partition_by[t]],
            (None, Some(order)) => Over::timed_columns(&group.calls, first, order.column),
            (None, None) => Vec::new(),
        };
        let order_time = order_time.is_some();
        let ttl = self.ttl(time_column.is_none() && !order_time);
        self.emitted_on_close |= emit_on_close;
        let properties = EdgeProperties {
            schema: output.clone(),
            append_only: emit_on_close,
            stream_key: stream_key.clone(),
            watermark_columns: timed,
        };
        let first_alone = group.limit == Some(Limit { by: LimitBy::RowNumber, skip: 0, upto: 1 })
            && group.calls.iter().all(|call| call.kind == WindowKind::RowNumber);
        if first_alone && before.append_only && time_column.is_none() && !order_time {
            let spec = FirstRowSpec {
                object: self.object,
                part: self.take_parts(FirstRow::PARTS),
                input: before.schema.clone(),
                key: group.partition_by,
                order_by: group.order_by,
                output,
                ttl,
            };
            let operator = self.sharded(!spec.key.is_empty(), || FirstRow::new(spec.clone()))?;
            let edge = self.add(operator, vec![edge.input], properties);
            self.restart(edge.input, ttl.is_some());
            return Ok(edge);
        }
        let spec = OverSpec {
            operator: self.nodes.len() as u32,
            object: self.object,
            first_part: self.take_parts(Over::PARTS),
            input: before.schema.clone(),
            append_only: before.append_only,
            partition_by: group.partition_by,
            order_by: group.order_by,
            functions: group.calls,
            limit: group.limit,
            output,
            stream_key,
            time_column,
            order_time,
            emit_on_window_close: emit_on_close,
            ttl,
        };
        let operator = self.sharded(!spec.partition_by.is_empty(), || Over::new(spec.clone()))?;
        let edge = self.add(operator, vec![edge.input], properties);
        self.restart(edge.input, ttl.is_some());
        Ok(edge)
    }
}

fn sort_column(sort: &SortExpr, schema: &datafusion::common::DFSchema, columns: &mut Vec<Expr>) -> SortColumn {
    let column = plain_column(&sort.expr, schema).unwrap_or_else(|| {
        columns.push(sort.expr.clone());
        columns.len() - 1
    });
    SortColumn { column, descending: !sort.asc, nulls_first: sort.nulls_first }
}

fn window_function(expr: &Expr) -> Result<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => window_function(&alias.expr),
        Expr::WindowFunction(function) => Ok(function),
        other => Err(Error::internal(format!("{other} is no window function"))),
    }
}

/// Aggregates that are kept over frames.
const OVER_AGGREGATES: [AggregateKind; 9] = [
    AggregateKind::Count,
    AggregateKind::Sum,
    AggregateKind::Avg,
    AggregateKind::Min,
    AggregateKind::Max,
    AggregateKind::VarPop,
    AggregateKind::VarSamp,
    AggregateKind::StddevPop,
    AggregateKind::StddevSamp,
];

/// A window function taken apart; `position` gives the columns of its arguments.
fn window_call(
    function: &WindowFunction,
    order_type: Option<&DataType>,
    position: &mut impl FnMut(&Expr) -> usize,
) -> Result<WindowCall> {
    let params = &function.params;
    let name = function.fun.name();
    let unsupported =
        |what: &str| Error::unsupported(format!("{name}() OVER {what} is not supported in a continuous view"));
    let frame = frame(&params.window_frame, order_type)?;
    let args = params.args.as_slice();
    let constant = |at: usize, default: i64| match args.get(at) {
        None => Ok(default),
        Some(Expr::Literal(value, _)) => integer(value).ok_or_else(|| unsupported("with a NULL or fractional number")),
        Some(_) => Err(unsupported("with a number that is not constant")),
    };
    let mut call =
        WindowCall { kind: WindowKind::RowNumber, argument: None, default: None, filter: None, distinct: false, frame };
    if params.null_treatment.is_some() {
        return Err(unsupported("with IGNORE NULLS"));
    }
    match &function.fun {
        WindowFunctionDefinition::AggregateUDF(_) => {
            let kind = AggregateKind::of_name(name).filter(|kind| OVER_AGGREGATES.contains(kind));
            call.kind = WindowKind::Aggregate(kind.ok_or_else(|| {
                let names: Vec<&str> = OVER_AGGREGATES.iter().map(|kind| kind.name()).collect();
                unsupported("of this function").with_hint(format!("those that are: {}", names.join(", ")))
            })?);
            call.argument = match args {
                [] => None,
                [Expr::Literal(value, _)] if name == "count" && !value.is_null() => None,
                [argument] => Some(position(argument)),
                _ => return Err(unsupported("with several arguments")),
            };
            call.filter = params.filter.as_ref().map(|f| position(f));
            call.distinct = params.distinct;
        }
        WindowFunctionDefinition::WindowUDF(_) => {
            if params.filter.is_some() || params.distinct {
                return Err(unsupported("with FILTER or DISTINCT"));
            }
            call.kind = match name {
                "row_number" => WindowKind::RowNumber,
                "rank" => WindowKind::Rank,
                "dense_rank" => WindowKind::DenseRank,
                "percent_rank" => WindowKind::PercentRank,
                "cume_dist" => WindowKind::CumeDist,
                "ntile" => WindowKind::Ntile(constant(0, 1)?),
                "lag" => WindowKind::Lag(constant(1, 1)?),
                "lead" => WindowKind::Lag(-constant(1, 1)?),
                "first_value" => WindowKind::FirstValue,
                "last_value" => WindowKind::LastValue,
                "nth_value" => WindowKind::NthValue(constant(1, 1)?),
                _ => return Err(unsupported("of this function")),
            };
            match call.kind {
                WindowKind::Ntile(n) if n <= 0 => {
                    return Err(Error::new("22014", "argument of ntile must be greater than zero"));
                }
                WindowKind::NthValue(n) if n <= 0 => {
                    return Err(Error::new("22016", "argument of nth_value must be greater than zero"));
                }
                WindowKind::Lag(_) | WindowKind::FirstValue | WindowKind::LastValue | WindowKind::NthValue(_) => {
                    call.argument = args.first().map(&mut *position);
                }
                _ => {}
            }
            if matches!(call.kind, WindowKind::Lag(_)) {
                let is_null = |e: &Expr| matches!(e, Expr::Literal(value, _) if value.is_null());
                call.default = args.get(2).filter(|e| !is_null(e)).map(&mut *position);
            }
            let tied = call.frame.units == Units::Range && call.frame != Frame::ALL;
            let picks = matches!(call.kind, WindowKind::FirstValue | WindowKind::LastValue | WindowKind::NthValue(_));
            if picks && tied && params.order_by.len() == 1 {
                return Err(unsupported("with this RANGE frame")
                    .with_hint("which of the rows with an equal sort key comes first is not told; use ROWS"));
            }
        }
    }
    Ok(call)
}

fn frame(frame: &WindowFrame, order_type: Option<&DataType>) -> Result<Frame> {
    let units = match frame.units {
        WindowFrameUnits::Rows => Units::Rows,
        WindowFrameUnits::Range => Units::Range,
        WindowFrameUnits::Groups => {
            return Err(Error::unsupported("a GROUPS frame is not supported in a continuous view"));
        }
    };
    let distance = |value: &ScalarValue| match units {
        Units::Rows => integer(value).map(|n| Distance::Units(n.into())).ok_or_else(|| bad_offset(value)),
        Units::Range | Units::Session => range_distance(value, order_type.ok_or_else(|| bad_offset(value))?),
    };
    let edge = |bound: &WindowFrameBound| {
        Ok::<_, Error>(match bound {
            WindowFrameBound::CurrentRow => FrameEdge::Current,
            bound if bound.is_unbounded() => FrameEdge::Unbounded,
            WindowFrameBound::Preceding(value) => FrameEdge::Before(distance(value)?),
            WindowFrameBound::Following(value) => FrameEdge::After(distance(value)?),
        })
    };
    Ok(Frame { units, start: edge(&frame.start_bound)?, end: edge(&frame.end_bound)? })
}

fn bad_offset(value: &ScalarValue) -> Error {
    Error::unsupported(format!("a frame offset of {value} is not supported in a continuous view"))
}

/// An offset in the unit of the order column.
fn range_distance(value: &ScalarValue, order_type: &DataType) -> Result<Distance> {
    match (order_type, value) {
        (DataType::Timestamp(..) | DataType::Date32, ScalarValue::IntervalMonthDayNano(Some(interval))) => {
            Ok(Distance::Interval(*interval))
        }
        (DataType::Float32 | DataType::Float64, value) => match value.cast_to(&DataType::Float64)? {
            ScalarValue::Float64(Some(v)) => Ok(Distance::Float(v)),
            _ => Err(bad_offset(value)),
        },
        (DataType::Decimal128(..), value) => match value.cast_to(order_type)? {
            ScalarValue::Decimal128(Some(v), ..) => Ok(Distance::Units(v)),
            _ => Err(bad_offset(value)),
        },
        (DataType::Int16 | DataType::Int32 | DataType::Int64, value) => {
            integer(value).map(|n| Distance::Units(n.into())).ok_or_else(|| bad_offset(value))
        }
        _ => Err(bad_offset(value)),
    }
}

fn integer(value: &ScalarValue) -> Option<i64> {
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(v) => v,
        _ => None,
    }
}

/// The window expression whose row number, rank or dense rank the conjuncts of a filter bound, and how.
fn row_limit(predicate: &Expr, window: &logical::Window, width: usize) -> Option<(usize, Limit)> {
    let mut found: Option<(usize, Limit)> = None;
    for conjunct in split_conjunction(predicate) {
        let Expr::BinaryExpr(binary) = conjunct else { continue };
        let (column, op, value) = match (binary.left.as_ref(), binary.right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) => (column, binary.op, value),
            (Expr::Literal(value, _), Expr::Column(column)) => (column, binary.op.swap()?, value),
            _ => continue,
        };
        let Some(member) = window.schema.index_of_column(column).ok().and_then(|c| c.checked_sub(width)) else {
            continue;
        };
        let by = match window_function(&window.window_expr[member]).ok()?.fun.name() {
            "row_number" => LimitBy::RowNumber,
            "rank" => LimitBy::Rank,
            "dense_rank" => LimitBy::DenseRank,
            _ => continue,
        };
        let Some(value) = integer(value) else { continue };
        let number = |n: i64| usize::try_from(n.max(0)).unwrap_or(usize::MAX);
        let (skip, upto) = match op {
            BinaryOperator::LtEq => (0, Some(number(value))),
            BinaryOperator::Lt => (0, Some(number(value.saturating_sub(1)))),
            BinaryOperator::Eq => (number(value.saturating_sub(1)), Some(number(value))),
            BinaryOperator::Gt => (number(value), None),
            BinaryOperator::GtEq => (number(value.saturating_sub(1)), None),
            _ => continue,
        };
        // Only row numbers say how many rows come before.
        let skip = if by == LimitBy::RowNumber { skip } else { 0 };
        match &mut found {
            Some((known, limit)) if *known == member => {
                limit.skip = limit.skip.max(skip);
                limit.upto = limit.upto.min(upto.unwrap_or(usize::MAX));
            }
            Some((_, limit)) if limit.upto < usize::MAX || upto.is_none() => {}
            _ => found = Some((member, Limit { by, skip, upto: upto.unwrap_or(usize::MAX) })),
        }
    }
    found.filter(|(_, limit)| limit.upto < usize::MAX)
}
