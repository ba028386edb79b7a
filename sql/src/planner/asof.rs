//! `FROM a ASOF [LEFT] JOIN b ON a.k = b.k AND a.ts >= b.ts`: each row of `a` with the row of `b` that is nearest before it.
//!
//! It is a node of its own ([`AsofJoin`]), for which a continuous view has an operator. In a batch it becomes the last value
//! over both sides in order of time ([`in_order`]). Rows of `b` with the same key and time are told apart by their columns
//! in order: the greatest is taken, the same one in both.

use std::cmp::Ordering;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult};
use datafusion_common::{Column, DFSchemaRef, JoinType, Result as DfResult, ScalarValue};
use datafusion_expr::expr::{Cast, NullTreatment, ScalarFunction, Sort, WindowFunction, WindowFunctionParams};
use datafusion_expr::logical_plan::builder::build_join_schema;
use datafusion_expr::planner::RelationPlannerContext;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{
    BinaryExpr, Expr, Extension, LogicalPlan, LogicalPlanBuilder, Operator, UserDefinedLogicalNodeCore, Window,
    WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, lit, when,
};
use datafusion_sql::sqlparser::ast::{
    self, Ident, JoinConstraint, JoinOperator, Query, Select, TableAlias, TableFactor, TableWithJoins, VisitMut,
    VisitorMut,
};

use crate::error::{Result, SqlError};
use crate::functions;

/// Alias of a join in parentheses whose last step is an ASOF join.
const NESTED: &str = "__asof";
/// What the parser puts into MATCH_CONDITION where there was none: which join it is.
pub(crate) const INNER: &str = "inner";
pub(crate) const LEFT: &str = "left";

/// Puts every ASOF join with what is before it into parentheses, so that [`planned`] meets it.
///
/// # Errors
/// 0A000 without ON.
pub(crate) fn nest(query: &mut Query) -> Result<()> {
    match VisitMut::visit(query, &mut Nest) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Nest;

impl VisitorMut for Nest {
    type Break = SqlError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        nest_all(select.from.iter_mut())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => nest_all(std::iter::once(table_with_joins.as_mut())),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn nest_all<'a>(tables: impl Iterator<Item = &'a mut TableWithJoins>) -> ControlFlow<SqlError> {
    for table in tables {
        while let Some(at) = table.joins.iter().position(|j| matches!(j.join_operator, JoinOperator::AsOf { .. })) {
            let mut joins: Vec<ast::Join> = table.joins.drain(..=at).collect();
            if let Some(last) = joins.last_mut() {
                match plain(&last.join_operator) {
                    Ok(operator) => last.join_operator = operator,
                    Err(error) => return ControlFlow::Break(error),
                }
            }
            let alias = TableAlias { explicit: true, name: Ident::new(NESTED), columns: Vec::new(), at: None };
            let first = TableWithJoins { relation: table.relation.clone(), joins };
            table.relation = TableFactor::NestedJoin { table_with_joins: Box::new(first), alias: Some(alias) };
        }
    }
    ControlFlow::Continue(())
}

/// The join that DataFusion plans in place of an ASOF join, with all of its conditions.
fn plain(operator: &JoinOperator) -> Result<JoinOperator> {
    let JoinOperator::AsOf { match_condition, constraint } = operator else { return Ok(operator.clone()) };
    let marked = match match_condition {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) if text == INNER || text == LEFT => Some(text == LEFT),
            _ => None,
        },
        _ => None,
    };
    let condition = match (constraint, marked) {
        (JoinConstraint::On(on), Some(_)) => on.clone(),
        (JoinConstraint::On(on), None) => ast::Expr::BinaryOp {
            left: Box::new(ast::Expr::Nested(Box::new(on.clone()))),
            op: ast::BinaryOperator::And,
            right: Box::new(ast::Expr::Nested(Box::new(match_condition.clone()))),
        },
        (JoinConstraint::None, None) => match_condition.clone(),
        _ => {
            return Err(SqlError::unsupported("ASOF JOIN without ON is not supported")
                .with_hint("write ON with the keys that are equal and one comparison of times"));
        }
    };
    let constraint = JoinConstraint::On(condition);
    // With a MATCH_CONDITION of its own it is the outer join that it is elsewhere.
    Ok(if marked.unwrap_or(true) { JoinOperator::LeftOuter(constraint) } else { JoinOperator::Inner(constraint) })
}

/// Plans a relation that [`nest`] made; `None` for any other.
pub(crate) fn planned(
    relation: &TableFactor,
    context: &mut dyn RelationPlannerContext,
) -> DfResult<Option<LogicalPlan>> {
    let TableFactor::NestedJoin { table_with_joins, alias: Some(alias) } = relation else { return Ok(None) };
    if alias.name.value != NESTED {
        return Ok(None);
    }
    let nested = TableFactor::NestedJoin { table_with_joins: table_with_joins.clone(), alias: None };
    let LogicalPlan::Join(join) = context.plan(nested)? else {
        return Err(SqlError::unsupported("this ASOF JOIN is not supported").into());
    };
    let mut conditions: Vec<Expr> = join.filter.iter().flat_map(split_conjunction).cloned().collect();
    conditions.extend(join.on.iter().map(|(l, r)| l.clone().eq(r.clone())));
    let is_outer = join.join_type == JoinType::Left;
    let node = AsofJoin::new(join.left, join.right, is_outer, conditions)?;
    node.parts()?;
    Ok(Some(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
}

/// Each left row with the right row of its key that is nearest in time on one side of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AsofJoin {
    pub left: Arc<LogicalPlan>,
    pub right: Arc<LogicalPlan>,
    /// Whether left rows without a match stay, beside NULLs.
    pub is_outer: bool,
    /// Equalities, and one comparison of times.
    conditions: Vec<Expr>,
    schema: DFSchemaRef,
}

/// The conditions of an ASOF join, each with the left side's expression first.
pub struct AsofParts<'a> {
    /// Expressions that are equal.
    pub keys: Vec<(&'a Expr, &'a Expr)>,
    pub left_time: &'a Expr,
    /// One of `>`, `>=`, `<`, `<=`.
    pub operator: Operator,
    pub right_time: &'a Expr,
}

impl AsofJoin {
    fn new(left: Arc<LogicalPlan>, right: Arc<LogicalPlan>, is_outer: bool, conditions: Vec<Expr>) -> DfResult<Self> {
        let join_type = if is_outer { JoinType::Left } else { JoinType::Inner };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &join_type)?);
        // A condition that is turned round keeps its name otherwise.
        let conditions = conditions.into_iter().map(Expr::unalias).collect();
        Ok(Self { left, right, is_outer, conditions, schema })
    }

    /// Its conditions taken apart.
    ///
    /// # Errors
    /// 0A000 for a condition that is neither an equality nor the one comparison, or does not compare the two sides.
    pub fn parts(&self) -> Result<AsofParts<'_>> {
        let refused = |what: String| {
            Err(SqlError::unsupported(format!("ASOF JOIN {what}"))
                .with_hint("write ON a.key = b.key AND a.time >= b.time: equalities and one of >, >=, <, <="))
        };
        let (mut keys, mut times) = (Vec::new(), Vec::new());
        for condition in &self.conditions {
            let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
                return refused(format!("with the condition {condition} is not supported"));
            };
            let is_of = |expr: &Expr, plan: &LogicalPlan| {
                let columns = expr.column_refs();
                !columns.is_empty() && columns.iter().all(|c| plan.schema().has_column(c))
            };
            let (left, op, right) = if is_of(left, &self.left) && is_of(right, &self.right) {
                (left.as_ref(), Some(*op), right.as_ref())
            } else if is_of(right, &self.left) && is_of(left, &self.right) {
                (right.as_ref(), op.swap(), left.as_ref())
            } else {
                return refused(format!(
                    "with the condition {condition}, which does not compare its sides, is not supported"
                ));
            };
            match op {
                Some(Operator::Eq) => keys.push((left, right)),
                Some(op @ (Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq)) => {
                    times.push((left, op, right));
                }
                _ => return refused(format!("with the condition {condition} is not supported")),
            }
        }
        match times.as_slice() {
            [(left_time, operator, right_time)] => Ok(AsofParts { keys, left_time, operator: *operator, right_time }),
            [] => refused("needs a comparison of times".into()),
            _ => refused("with several comparisons of times is not supported".into()),
        }
    }
}

impl PartialOrd for AsofJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.conditions.partial_cmp(&other.conditions).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for AsofJoin {
    fn name(&self) -> &str {
        "AsofJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.conditions.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions: Vec<String> = self.conditions.iter().map(ToString::to_string).collect();
        let kind = if self.is_outer { "left" } else { "inner" };
        write!(f, "AsofJoin: {kind}, {}", conditions.join(" AND "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let mut inputs = inputs.into_iter();
        match (inputs.next(), inputs.next(), inputs.next()) {
            (Some(left), Some(right), None) => Self::new(Arc::new(left), Arc::new(right), self.is_outer, exprs),
            _ => Err(SqlError::internal("an ASOF join has two inputs").into()),
        }
    }

    /// Left columns that nobody asks for go; right ones also tell equal times apart.
    fn necessary_children_exprs(&self, output: &[usize]) -> Option<Vec<Vec<usize>>> {
        let (left, right) = (self.left.schema().fields().len(), self.right.schema().fields().len());
        Some(vec![output.iter().copied().filter(|i| *i < left).collect(), (0..right).collect()])
    }
}

/// Replaces ASOF joins by the last value over both sides in order of time, which a batch runs.
///
/// # Errors
/// As [`AsofJoin::parts`].
pub fn without_asof(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Extension(extension) = &node else { return Ok(Transformed::no(node)) };
        match extension.node.as_any().downcast_ref::<AsofJoin>() {
            Some(join) => Ok(Transformed::yes(in_order(join)?)),
            None => Ok(Transformed::no(node)),
        }
    });
    Ok(done.data()?)
}

const TIME: &str = "__time";
/// Whether a row is of the left side.
const IS_LEFT: &str = "__is_left";
const MATCH: &str = "__match";

fn in_order(join: &AsofJoin) -> DfResult<LogicalPlan> {
    let parts = join.parts()?;
    let function =
        |name: &str| functions::scalar(name).ok_or_else(|| SqlError::internal(format!("{name} is not registered")));
    let (key, left, right) = (|i| format!("__key_{i}"), |i| format!("__left_{i}"), |i| format!("__right_{i}"));
    let named = |plan: &LogicalPlan, name: &dyn Fn(usize) -> String| -> Vec<Expr> {
        plan.schema().columns().into_iter().enumerate().map(|(i, c)| Expr::Column(c).alias(name(i))).collect()
    };
    let nulls = |plan: &LogicalPlan, name: &dyn Fn(usize) -> String| -> DfResult<Vec<Expr>> {
        let null = |(i, f): (usize, &Arc<arrow::datatypes::Field>)| {
            Ok(Expr::Literal(ScalarValue::try_new_null(f.data_type())?, None).alias(name(i)))
        };
        plan.schema().fields().iter().enumerate().map(null).collect()
    };
    let column = |name: String| Expr::Column(Column::new_unqualified(name));
    let (mut left_columns, mut right_columns): (Vec<Expr>, Vec<Expr>) = (Vec::new(), Vec::new());
    for (i, (l, r)) in parts.keys.iter().enumerate() {
        left_columns.push((*l).clone().alias(key(i)));
        right_columns.push((*r).clone().alias(key(i)));
    }
    let keys = if parts.keys.is_empty() {
        // DataFusion cannot order what is in one partition and has a constant in each branch (a plan that it refuses): a
        // key that is false in all rows, which it cannot know.
        let no_key = |time: &Expr| {
            let text = Expr::Cast(Cast::new(Box::new(time.clone()), arrow::datatypes::DataType::Utf8View));
            Ok::<_, SqlError>(function("octet_length")?.call(vec![text]).lt(lit(0)).alias(key(0)))
        };
        left_columns.push(no_key(parts.left_time)?);
        right_columns.push(no_key(parts.right_time)?);
        1
    } else {
        parts.keys.len()
    };
    left_columns.extend([parts.left_time.clone().alias(TIME), lit(true).alias(IS_LEFT)]);
    right_columns.extend([parts.right_time.clone().alias(TIME), lit(false).alias(IS_LEFT)]);
    left_columns.extend(named(&join.left, &left).into_iter().chain(nulls(&join.right, &right)?));
    right_columns.extend(nulls(&join.left, &left)?.into_iter().chain(named(&join.right, &right)));
    // What is NULL there is nobody's match.
    let mut compared = (0..keys).map(|i| column(key(i))).chain([column(TIME.into())]);
    let right_rows = LogicalPlanBuilder::from(join.right.as_ref().clone()).project(right_columns)?;
    let right_rows = compared.try_fold(right_rows, |rows, c| rows.filter(c.is_not_null()))?.build()?;
    let rows =
        LogicalPlanBuilder::from(join.left.as_ref().clone()).project(left_columns)?.union(right_rows)?.build()?;

    let width = join.right.schema().fields().len();
    let fields = (0..width).flat_map(|i| [lit(right(i)), column(right(i))]).collect();
    let row = Expr::ScalarFunction(ScalarFunction::new_udf(function("named_struct")?, fields));
    let back = matches!(parts.operator, Operator::Gt | Operator::GtEq);
    let takes_equal = matches!(parts.operator, Operator::GtEq | Operator::LtEq);
    // A left row without a time comes before all; one with the same time as right rows behind them, if it takes them.
    let mut order_by =
        vec![Sort::new(column(TIME.into()), back, true), Sort::new(column(IS_LEFT.into()), takes_equal, true)];
    order_by.extend((0..width).map(|i| Sort::new(column(right(i)), true, false)));
    let last_value =
        functions::aggregate("last_value").ok_or_else(|| SqlError::internal("last_value is not registered"))?;
    let found = Expr::WindowFunction(Box::new(WindowFunction {
        fun: WindowFunctionDefinition::AggregateUDF(last_value),
        params: WindowFunctionParams {
            args: vec![when(column(IS_LEFT.into()).is_false(), row).end()?],
            partition_by: (0..keys).map(|i| column(key(i))).collect(),
            order_by,
            window_frame: WindowFrame::new_bounds(
                WindowFrameUnits::Rows,
                WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                WindowFrameBound::CurrentRow,
            ),
            filter: None,
            null_treatment: Some(NullTreatment::IgnoreNulls),
            distinct: false,
        },
    }));
    let name = found.schema_name().to_string();
    let window = LogicalPlan::Window(Window::try_new(vec![found], Arc::new(rows))?);
    let left_width = join.left.schema().fields().len();
    let mut kept: Vec<Expr> = (0..left_width).map(|i| column(left(i))).collect();
    kept.extend([column(name).alias(MATCH), column(IS_LEFT.into())]);
    let mut rows = LogicalPlanBuilder::from(window).project(kept)?.filter(column(IS_LEFT.into()))?;
    if !join.is_outer {
        rows = rows.filter(column(MATCH.into()).is_not_null())?;
    }
    let get_field = function("get_field")?;
    let result = join.schema.iter().enumerate().map(|(i, (qualifier, field))| {
        let value = match i.checked_sub(left_width) {
            None => column(left(i)),
            Some(i) => get_field.call(vec![column(MATCH.into()), lit(right(i))]),
        };
        // Structs do not say of which SQL type their fields are.
        let value = Expr::Cast(Cast::new_from_field(Box::new(value), field.clone()));
        value.alias_qualified(qualifier.cloned(), field.name())
    });
    rows.project(result)?.build()
}
