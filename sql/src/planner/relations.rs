//! TUMBLE, HOP, CUMULATE, SESSION, generate_series, read_parquet and kin, and FOR SYSTEM_TIME AS OF in FROM.
//!
//! `TUMBLE(t, ts, size)` becomes a projection that adds `window_start` and `window_end` through `tumble_start`; `HOP(t, ts,
//! slide, size)` an unnest of `hop_starts`, then `window_end`; `CUMULATE(t, ts, step, size)` an unnest of `cumulate_ends`.
//! All of these run as they are in a batch; the stream planner knows the shapes. `SESSION` is a node of its own (`session`).
//! `files`: the functions that read files. `version`: tables as of another moment.

mod files;
mod session;
mod version;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{IntervalMonthDayNano, Schema, SchemaRef};
use datafusion_common::{Column, DFSchema, Result as DfResult, ScalarValue, TableReference, UnnestOptions};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, lit};
use datafusion_sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor,
};
use millstream_catalog::SqlType;

use crate::context::{CatalogSource, ExternalCall, Series, Target};
use crate::error::{Result, SqlError};
use crate::functions::windows::{Span, arranged, cumulate_ends, cumulate_start, hop_starts, tumble_start};
use crate::types::normalize;

/// Columns that windows add.
const STARTS: &str = "window_start";
const ENDS: &str = "window_end";
/// The windows of an event before they become rows.
const WINDOWS_LIST: &str = "__windows";

pub(crate) use version::written as written_version;

#[derive(Debug)]
pub(crate) struct WindowRelations {
    external: HashMap<ExternalCall, SchemaRef>,
    /// The session's time zone.
    zone: String,
}

impl WindowRelations {
    pub(crate) fn new(external: &HashMap<ExternalCall, SchemaRef>, zone: &str) -> Self {
        Self { external: external.clone(), zone: zone.into() }
    }
}

impl RelationPlanner for WindowRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<RelationPlanning> {
        if let TableFactor::Table { name, alias, version: Some(at), .. } = relation {
            let version = version::resolved(version::written(&at)?, &self.zone, context)?;
            return version::as_of(name, alias, version, context);
        }
        if let Some(plan) = super::asof::planned(&relation, context)? {
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, None))));
        }
        if let Some(call) = files::call(&relation) {
            let (call, alias) = call?;
            let plan = self.files(call)?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
        }
        let Some((name, args, alias)) = call(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let (plan, alias) = match name.as_str() {
            "tumble" => (window(args, context, Windows::Tumble)?, alias),
            "hop" => (window(args, context, Windows::Hop)?, alias),
            "cumulate" => (window(args, context, Windows::Cumulate)?, alias),
            "session" => (session::session(args, context)?, alias),
            "generate_series" => series(args, alias, context)?,
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// Name in lower case, arguments and alias of a function in FROM.
fn call(relation: &TableFactor) -> Option<(String, Vec<ast::Expr>, Option<TableAlias>)> {
    let (name, args, alias) = match relation {
        TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
        TableFactor::Function { name, args, alias, .. } => (name, args, alias),
        _ => return None,
    };
    let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return None };
    let args = args
        .iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect::<Option<Vec<_>>>()?;
    Some((normalize(ident), args, alias.clone()))
}

/// Files that a query's relation reads.
pub(crate) fn external_call(relation: &TableFactor) -> Option<ExternalCall> {
    files::call(relation)?.ok().map(|(call, _)| call)
}

impl WindowRelations {
    fn files(&self, call: ExternalCall) -> Result<LogicalPlan> {
        let name = format!("read_{}", call.format);
        let schema = self.external.get(&call).ok_or_else(|| {
            SqlError::unsupported(format!("{name} is not supported here"))
                .with_hint("use it in a query; for a view, CREATE EXTERNAL TABLE first")
        })?;
        let source = CatalogSource::new(Target::External(call), schema.clone());
        Ok(LogicalPlanBuilder::scan(TableReference::bare(name), Arc::new(source), None)?.build()?)
    }
}

/// The relation of a window function: a name (also of a CTE) or a subquery.
fn input(arg: &ast::Expr, name: &str) -> Result<TableFactor> {
    let idents = match arg {
        ast::Expr::Identifier(ident) => vec![ident.clone()],
        ast::Expr::CompoundIdentifier(idents) => idents.clone(),
        ast::Expr::Subquery(query) => {
            return Ok(TableFactor::Derived {
                lateral: false,
                subquery: query.clone(),
                alias: Some(TableAlias { explicit: true, name: Ident::new("__input"), columns: Vec::new(), at: None }),
                sample: None,
            });
        }
        other => {
            return Err(SqlError::syntax(format!("the first argument of {name} must be a relation, not {other}")));
        }
    };
    Ok(plain_table(ObjectName(idents.into_iter().map(ObjectNamePart::Identifier).collect())))
}

/// A relation by its name alone.
fn plain_table(name: ObjectName) -> TableFactor {
    TableFactor::Table {
        name,
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// Windows of fixed places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Windows {
    Tumble,
    Hop,
    Cumulate,
}

fn window(args: Vec<ast::Expr>, context: &mut dyn RelationPlannerContext, windows: Windows) -> DfResult<LogicalPlan> {
    let (name, usage) = match windows {
        Windows::Tumble => ("TUMBLE", "TUMBLE(relation, time column, size [, offset])"),
        Windows::Hop => ("HOP", "HOP(relation, time column, slide, size [, offset])"),
        Windows::Cumulate => ("CUMULATE", "CUMULATE(relation, time column, step, size [, offset])"),
    };
    let least = if windows == Windows::Tumble { 3 } else { 4 };
    if !(least..=least + 1).contains(&args.len()) {
        return Err(wrong_arguments(name, usage).into());
    }
    let TimedInput { plan, time, qualifier } = timed_input(&args[0], &args[1], name, context)?;
    let (mut spans, mut lengths) = (Vec::new(), Vec::new());
    for arg in &args[2..] {
        let (span, length) = interval(context.sql_to_expr(arg.clone(), &DFSchema::empty())?, usage)?;
        spans.push(span);
        lengths.push(length);
    }
    arranged(&lengths, least - 2)?;
    let size = spans[least - 3].clone();
    let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let mut exprs = columns.clone();
    let mut call_args = vec![time];
    call_args.extend(spans);
    let call = |function| Expr::ScalarFunction(ScalarFunction::new_udf(function, call_args.clone()));
    let named = |expr: Expr, name| expr.alias_qualified(qualifier.clone(), name);
    let end = |start: Expr| named(plus(start, size.clone()), ENDS);
    let list_of = match windows {
        Windows::Tumble => {
            let start = call(tumble_start());
            exprs.push(named(start.clone(), STARTS));
            exprs.push(end(start));
            return LogicalPlanBuilder::from(plan).project(exprs)?.build();
        }
        Windows::Hop => hop_starts(),
        Windows::Cumulate => cumulate_ends(),
    };
    exprs.push(call(list_of).alias(WINDOWS_LIST));
    // The unnested column has no qualifier, whatever the list had.
    let list = Column::new_unqualified(WINDOWS_LIST);
    let unnested = LogicalPlanBuilder::from(plan)
        .project(exprs)?
        .unnest_column_with_options(list.clone(), UnnestOptions::new().with_preserve_nulls(false))?;
    let mut exprs = columns;
    let of_window = Expr::Column(list);
    match windows {
        Windows::Cumulate => {
            exprs.push(named(call(cumulate_start()), STARTS));
            exprs.push(named(of_window, ENDS));
        }
        _ => {
            exprs.push(named(of_window.clone(), STARTS));
            exprs.push(end(of_window));
        }
    }
    unnested.project(exprs)?.build()
}

/// The relation that windows are over: its rows that have a time, that time, and the qualifier of its columns.
struct TimedInput {
    plan: LogicalPlan,
    time: Expr,
    /// Windows keep it, so that t.window_start works.
    qualifier: Option<TableReference>,
}

fn timed_input(
    relation: &ast::Expr,
    time: &ast::Expr,
    name: &str,
    context: &mut dyn RelationPlannerContext,
) -> DfResult<TimedInput> {
    let plan = context.plan(input(relation, name)?)?;
    let schema = plan.schema().clone();
    let time = context.sql_to_expr(time.clone(), &schema)?;
    if !matches!(time, Expr::Column(_)) {
        return Err(SqlError::syntax(format!("the time of {name} must be a column"))
            .with_hint("compute it in a common table expression first")
            .into());
    }
    let qualifier = match schema.iter().next() {
        Some((Some(first), _)) if schema.iter().all(|(q, _)| q == Some(first)) => Some(first.clone()),
        _ => None,
    };
    // A row without a time is in no window.
    let plan = LogicalPlanBuilder::from(plan).filter(time.clone().is_not_null())?.build()?;
    Ok(TimedInput { plan, time, qualifier })
}

pub(super) fn plus(left: Expr, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::Plus, Box::new(right)))
}

fn wrong_arguments(name: &str, usage: &str) -> SqlError {
    SqlError::new("42883", format!("wrong number of arguments for {name}")).with_hint(format!("write {usage}"))
}

/// A window's size, and that as a literal.
fn interval(expr: Expr, usage: &str) -> Result<(Expr, Span)> {
    let interval = interval_value(expr, usage)?;
    Ok((lit(ScalarValue::IntervalMonthDayNano(Some(interval))), Span::new(interval)?))
}

/// A window's size: an interval literal, or a string that is one.
pub(super) fn interval_value(expr: Expr, usage: &str) -> Result<IntervalMonthDayNano> {
    let value = match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), None) => {
            crate::types::parse_value(&text, &millstream_catalog::SqlType::Interval, "UTC")?
        }
        Expr::Literal(value @ ScalarValue::IntervalMonthDayNano(Some(_)), _) => value,
        _ => {
            return Err(SqlError::new("42804", "a window's size must be an interval literal")
                .with_hint(format!("write {usage}, for example INTERVAL '10 minutes'")));
        }
    };
    let ScalarValue::IntervalMonthDayNano(Some(interval)) = value else {
        return Err(SqlError::new("22023", "a window's size cannot be NULL"));
    };
    Ok(interval)
}

/// `generate_series(start, stop [, step])`, its column named by the alias.
fn series(
    args: Vec<ast::Expr>,
    alias: Option<TableAlias>,
    context: &mut dyn RelationPlannerContext,
) -> DfResult<(LogicalPlan, Option<TableAlias>)> {
    if !(2..=3).contains(&args.len()) {
        return Err(SqlError::new("42883", "generate_series takes start, stop and an optional step").into());
    }
    let args =
        args.into_iter().map(|arg| context.sql_to_expr(arg, &DFSchema::empty())).collect::<DfResult<Vec<_>>>()?;
    let column = match &alias {
        Some(alias) if alias.columns.is_empty() => normalize(&alias.name),
        _ => "generate_series".to_string(),
    };
    let plan = match constant_series(&args) {
        // A long one must not be a list in memory.
        Some(series) => {
            let fits = [series.start, series.stop, series.step].iter().all(|n| i32::try_from(*n).is_ok());
            let schema = Schema::new(vec![if fits { SqlType::Int4 } else { SqlType::Int8 }.field(&column, true)]);
            let source = CatalogSource::new(Target::Series(series), Arc::new(schema));
            LogicalPlanBuilder::scan("generate_series", Arc::new(source), None)?.build()?
        }
        None => series_of_list(args, &column)?,
    };
    let alias = alias.or_else(|| {
        Some(TableAlias { explicit: true, name: Ident::new("generate_series"), columns: Vec::new(), at: None })
    });
    Ok((plan, alias))
}

/// The series of two or three integer literals.
fn constant_series(args: &[Expr]) -> Option<Series> {
    fn integer(expr: &Expr) -> Option<i64> {
        match expr {
            Expr::Literal(ScalarValue::Int32(value), _) => value.map(i64::from),
            Expr::Literal(ScalarValue::Int64(value), _) => *value,
            Expr::Negative(inner) => integer(inner)?.checked_neg(),
            _ => None,
        }
    }
    let (start, stop) = (integer(args.first()?)?, integer(args.get(1)?)?);
    let step = args.get(2).map_or(Some(1), integer).filter(|step| *step != 0)?;
    Some(Series { start, stop, step })
}

/// Any other series: a list that is unnested.
fn series_of_list(args: Vec<Expr>, column: &str) -> DfResult<LogicalPlan> {
    let function = crate::functions::scalar("generate_series")
        .ok_or_else(|| SqlError::internal("generate_series is not registered"))?;
    let list = Expr::ScalarFunction(ScalarFunction::new_udf(function, args)).alias(column);
    // A series of NULL has no numbers.
    LogicalPlanBuilder::empty(true)
        .project(vec![list])?
        .unnest_column_with_options(Column::new_unqualified(column), UnnestOptions::new().with_preserve_nulls(false))?
        .build()
}
