//! Sessions: rows of a key that follow each other with less than a gap of time between two neighbours.
//!
//! They are a node of their own ([`Sessions`]), for which a continuous view has frames of its window functions. In a batch
//! they are made of plain window functions ([`without_sessions`]): a row begins a session if the one before it is at least a
//! gap away; a session's start is the latest such time; its last time is the greatest of those with one start.
//!
//! SESSION in FROM is such a node; `OVER (PARTITION BY k ORDER BY ts SESSION WITH GAP g)` is one under a window function over
//! the whole of each session ([`session_frames`]).

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalMonthDayNano};
use datafusion_common::tree_node::{Transformed, TransformedResult};
use datafusion_common::{Column, DFSchema, DFSchemaRef, Result as DfResult, ScalarValue};
use datafusion_expr::expr::{Sort, WindowFunction, WindowFunctionParams};
use datafusion_expr::{
    Expr, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, Window, WindowFrame,
    WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, lit, when,
};

use super::relations::{interval_value, plus};
use crate::error::{Result, SqlError};
use crate::functions;
use crate::functions::windows::arranged;

/// How the parser writes SESSION WITH GAP: a RANGE frame from the gap PRECEDING to this FOLLOWING.
pub(crate) const FRAME_END: &str = "session";
const FRAME_USAGE: &str = "OVER (PARTITION BY key ORDER BY time SESSION WITH GAP INTERVAL '10 minutes')";

/// Each row of a relation with the first and the last time of its session; both are NULL where the time is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sessions {
    pub input: Arc<LogicalPlan>,
    pub keys: Vec<Expr>,
    /// Of a timestamp.
    pub time: Expr,
    pub gap: IntervalMonthDayNano,
    names: [String; 2],
    schema: DFSchemaRef,
}

impl Sessions {
    /// `number` tells the columns apart from those of other sessions in one query.
    ///
    /// # Errors
    /// 42804 if the time is none, 22023 if the gap is not positive.
    pub(super) fn new(
        input: LogicalPlan,
        keys: Vec<Expr>,
        time: Expr,
        gap: IntervalMonthDayNano,
        number: usize,
    ) -> DfResult<Self> {
        arranged(&[functions::windows::Span::new(gap)?], 1)?;
        let time = match time.get_type(input.schema())? {
            DataType::Timestamp(..) => time,
            DataType::Date32 => {
                time.cast_to(&DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), input.schema())?
            }
            _ => return Err(SqlError::new("42804", "the time column of a session must be a timestamp").into()),
        };
        let names = [format!("__session_start_{number}"), format!("__session_last_{number}")];
        Self::of(Arc::new(input), keys, time, gap, names)
    }

    fn of(
        input: Arc<LogicalPlan>,
        keys: Vec<Expr>,
        time: Expr,
        gap: IntervalMonthDayNano,
        names: [String; 2],
    ) -> DfResult<Self> {
        let data_type = time.get_type(input.schema())?;
        let mut fields: Vec<_> = input.schema().iter().map(|(q, f)| (q.cloned(), f.clone())).collect();
        fields.extend(names.iter().map(|name| (None, Arc::new(Field::new(name, data_type.clone(), true)))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(Self { input, keys, time, gap, names, schema })
    }

    /// The first time of a row's session.
    pub(super) fn start(&self) -> Expr {
        Expr::Column(Column::new_unqualified(&self.names[0]))
    }

    /// The last one.
    pub(super) fn last(&self) -> Expr {
        Expr::Column(Column::new_unqualified(&self.names[1]))
    }

    pub(super) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialOrd for Sessions {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.names.partial_cmp(&other.names).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for Sessions {
    fn name(&self) -> &str {
        "Sessions"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().chain([&self.time]).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "Sessions: partition by [{}], {}, gap {:?}", keys.join(", "), self.time, self.gap)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        match (exprs.pop(), inputs.pop()) {
            (Some(time), Some(input)) if inputs.is_empty() => {
                Self::of(Arc::new(input), exprs, time, self.gap, self.names.clone())
            }
            _ => Err(SqlError::internal("sessions have one input and a time").into()),
        }
    }

    /// Columns that nobody asks for go.
    fn necessary_children_exprs(&self, output: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        Some(vec![output.iter().copied().filter(|i| *i < width).collect()])
    }

    /// All but the keys: whole partitions may be left out before.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let is_key = |(qualifier, field): (Option<&datafusion_common::TableReference>, &Arc<Field>)| {
            self.keys.iter().any(
                |key| matches!(key, Expr::Column(c) if c.relation.as_ref() == qualifier && c.name == *field.name()),
            )
        };
        self.schema.iter().filter(|column| !is_key(*column)).map(|(_, field)| field.name().clone()).collect()
    }
}

/// Replaces sessions by window functions, which a batch runs.
///
/// # Errors
/// Of rebuilding the plan.
pub fn without_sessions(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Extension(extension) = &node else { return Ok(Transformed::no(node)) };
        match extension.node.as_any().downcast_ref::<Sessions>() {
            Some(sessions) => Ok(Transformed::yes(in_order(sessions)?)),
            None => Ok(Transformed::no(node)),
        }
    });
    Ok(done.data()?)
}

fn in_order(sessions: &Sessions) -> DfResult<LogicalPlan> {
    let Sessions { input, keys, time, gap, names, .. } = sessions;
    let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let order = || vec![Sort::new(time.clone(), true, false)];
    let gap = lit(ScalarValue::IntervalMonthDayNano(Some(*gap)));
    // What has no time is in no session.
    let timed = |value: Expr| when(time.clone().is_not_null(), value).end();

    let before = over(window_function("lag")?, vec![time.clone()], keys.clone(), order());
    let plan = LogicalPlanBuilder::from(windowed(before, input.as_ref().clone())?);
    let before = last_column(&plan);
    let is_start = before.clone().is_null().or(plus(before, gap).lt_eq(time.clone()));
    let mut exprs = columns.clone();
    exprs.push(when(is_start, time.clone()).end()?.alias("__session_starts"));
    let plan = plan.project(exprs)?;

    let starts = over(aggregate("max")?, vec![last_column(&plan)], keys.clone(), order());
    let plan = LogicalPlanBuilder::from(windowed(starts, plan.build()?)?);
    let mut exprs = columns.clone();
    exprs.push(timed(last_column(&plan))?.alias(&names[0]));
    let plan = plan.project(exprs)?;

    let mut partition = keys.clone();
    partition.push(sessions.start());
    let last = over(aggregate("max")?, vec![time.clone()], partition, Vec::new());
    let plan = LogicalPlanBuilder::from(windowed(last, plan.build()?)?);
    let mut exprs = columns;
    exprs.extend([sessions.start(), last_column(&plan).alias(&names[1])]);
    plan.project(exprs)?.build()
}

/// Replaces SESSION WITH GAP frames by the whole of partitions that sessions tell apart.
///
/// # Errors
/// 42601 if a frame lacks its ORDER BY, of [`Sessions::new`] otherwise.
pub(super) fn session_frames(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut number = 0;
    let done = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Window(window) = &node else { return Ok(Transformed::no(node)) };
        if window.window_expr.iter().all(|expr| gap_of(expr).is_none()) {
            return Ok(Transformed::no(node));
        }
        let names = window.schema.columns();
        let width = window.input.schema().fields().len();
        let mut plan = window.input.as_ref().clone();
        let mut exprs: Vec<Expr> = names[..width].iter().cloned().map(Expr::Column).collect();
        let mut made: Vec<Sessions> = Vec::new();
        for (expr, column) in window.window_expr.iter().zip(&names[width..]) {
            let mut function = match expr {
                Expr::WindowFunction(function) => function.clone(),
                other => return Err(SqlError::internal(format!("{other} is no window function")).into()),
            };
            if let Some(gap) = gap_of(expr) {
                let [order] = function.params.order_by.as_slice() else {
                    return Err(misplaced().into());
                };
                if !order.asc {
                    return Err(misplaced().into());
                }
                let (keys, gap) = (function.params.partition_by.clone(), interval_value(lit(gap), FRAME_USAGE)?);
                number += 1;
                let sessions = Sessions::new(plan.clone(), keys, order.expr.clone(), gap, number)?;
                let same = |s: &&Sessions| (&s.keys, &s.time, s.gap) == (&sessions.keys, &sessions.time, gap);
                let known = made.iter().find(same).map(Sessions::start);
                function.params.partition_by.push(known.clone().unwrap_or_else(|| sessions.start()));
                if known.is_none() {
                    plan = sessions.clone().into_plan();
                    made.push(sessions);
                }
                let whole = |bound: fn(ScalarValue) -> WindowFrameBound| bound(ScalarValue::UInt64(None));
                function.params.window_frame = WindowFrame::new_bounds(
                    WindowFrameUnits::Rows,
                    whole(WindowFrameBound::Preceding),
                    whole(WindowFrameBound::Following),
                );
            }
            plan = windowed(Expr::WindowFunction(function), plan)?;
            exprs.push(last_column(&LogicalPlanBuilder::from(plan.clone())).alias(column.name()));
        }
        Ok(Transformed::yes(LogicalPlanBuilder::from(plan).project(exprs)?.build()?))
    });
    Ok(done.data()?)
}

fn misplaced() -> SqlError {
    SqlError::syntax("SESSION WITH GAP needs an ORDER BY of one ascending time")
        .with_hint(format!("write {FRAME_USAGE}"))
}

/// The gap of a frame that the parser marked.
fn gap_of(expr: &Expr) -> Option<String> {
    let Expr::WindowFunction(function) = expr else { return None };
    let frame = &function.params.window_frame;
    match (&frame.start_bound, &frame.end_bound) {
        (
            WindowFrameBound::Preceding(ScalarValue::Utf8(Some(gap))),
            WindowFrameBound::Following(ScalarValue::Utf8(Some(end))),
        ) if end == FRAME_END => Some(gap.clone()),
        _ => None,
    }
}

fn over(fun: WindowFunctionDefinition, args: Vec<Expr>, partition_by: Vec<Expr>, order_by: Vec<Sort>) -> Expr {
    let window_frame = WindowFrame::new((!order_by.is_empty()).then_some(false));
    Expr::WindowFunction(Box::new(WindowFunction {
        fun,
        params: WindowFunctionParams {
            args,
            partition_by,
            order_by,
            window_frame,
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    }))
}

fn windowed(function: Expr, input: LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(LogicalPlan::Window(Window::try_new(vec![function], input.into())?))
}

fn last_column(plan: &LogicalPlanBuilder) -> Expr {
    let schema = plan.schema();
    let (qualifier, field) = schema.qualified_field(schema.fields().len() - 1);
    Expr::Column(Column::new(qualifier.cloned(), field.name()))
}

fn window_function(name: &str) -> Result<WindowFunctionDefinition> {
    let function = functions::window(name).ok_or_else(|| SqlError::internal(format!("{name} is not registered")))?;
    Ok(WindowFunctionDefinition::WindowUDF(function))
}

fn aggregate(name: &str) -> Result<WindowFunctionDefinition> {
    let function = functions::aggregate(name).ok_or_else(|| SqlError::internal(format!("{name} is not registered")))?;
    Ok(WindowFunctionDefinition::AggregateUDF(function))
}
