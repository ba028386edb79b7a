//! Calls of functions in SQL: each becomes the body of its function.
//!
//! [`resolve_calls`] finds the function of each call in the written tree, by name and number of arguments, and gives the call
//! a name that no other function has. datafusion-sql plans it as a call of [`UserFunction`], and [`UserFunction::inlined`]
//! puts the body, which is planned over the arguments as its columns, in its place.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result as DfResult, ScalarValue, TableReference};
use datafusion_expr::expr::Cast;
use datafusion_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility, when,
};
use datafusion_sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, SelectItem,
    SetExpr, Spanned, Value, VisitMut, VisitorMut,
};
use millstream_catalog::object::{Argument, Function};
use millstream_catalog::types::field_ref;
use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind, Privilege, SqlType};

use super::dml::select;
use super::naming::{HIDDEN, visible};
use super::operators::{is_null, is_untyped_parameter, resolve_parameter, type_of, typed_literal};
use super::provider::{table_reference, written_call};
use super::query::plan_exprs;
use super::rewrite::{is_lossless, of_type, rewrite_tree, typed_null};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::functions;
use crate::functions::arithmetic::plain_name;
use crate::functions::cast::{can_cast, cast, casts_implicitly};
use crate::parser::{ONE_SELECT, in_body};
use crate::types::numeric_layout;

/// Most nodes that the expression of a call may have: where bodies use an argument twice, calls in calls double it.
const NODES_MAX: usize = 10_000;

/// Functions whose calls are written otherwise before anything is planned.
const WRITTEN_OTHERWISE: [&str; 5] = ["generate_series", "unnest", "json_agg", "jsonb_agg", "gen_random_uuid"];

/// Whether a bare name in lower case stands for a function of the dialect, whatever users have made.
pub(crate) fn is_built_in(name: &str, ctx: &PlanContext<'_>) -> bool {
    functions::scalar(name).is_some()
        || functions::aggregate(name).is_some()
        || functions::window(name).is_some()
        || ctx.system.function(name).is_some()
        || WRITTEN_OTHERWISE.contains(&name)
}

/// Finds the functions in SQL that a query or expression calls, and names the calls after them. Gives the functions by the
/// key of their names as written.
///
/// # Errors
/// 42883 where there are functions of the name for other numbers of arguments only, 42809 for `DISTINCT`, `OVER` and kin.
pub(crate) fn resolve_calls<V: VisitMut>(written: &mut V, ctx: &PlanContext<'_>) -> Result<BTreeMap<String, ObjectId>> {
    let mut calls = Calls { ctx, found: BTreeMap::new() };
    match written.visit(&mut calls) {
        ControlFlow::Continue(()) => Ok(calls.found),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Refuses functions in SQL in an expression that is stored with a relation (`what`).
///
/// # Errors
/// 0A000 naming the function.
pub(crate) fn refuse_calls(expr: &ast::Expr, what: &str, ctx: &PlanContext<'_>) -> Result<()> {
    let found = resolve_calls(&mut expr.clone(), ctx)?;
    match found.values().next().and_then(|id| ctx.catalog.get(*id)) {
        Some(object) => Err(SqlError::unsupported(format!("{} in {what} is not supported", object.describe()))
            .with_hint("write out what it computes")
            .with_span(expr.span())),
        None => Ok(()),
    }
}

struct Calls<'a> {
    ctx: &'a PlanContext<'a>,
    found: BTreeMap<String, ObjectId>,
}

impl VisitorMut for Calls<'_> {
    type Break = SqlError;

    fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<SqlError> {
        let ast::Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        match self.resolve(call) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error.with_span(call.name.span())),
        }
    }
}

impl Calls<'_> {
    fn resolve(&mut self, call: &mut ast::Function) -> Result<()> {
        let FunctionArguments::List(list) = &call.args else { return Ok(()) };
        let count = list.args.len();
        let reference = table_reference(&call.name)?;
        let Some(object) = called(&reference, count, self.ctx)? else { return Ok(()) };
        let name = reference.table();
        let starred = |a: &FunctionArg| !matches!(a, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
        for (present, what) in [
            (list.args.iter().any(starred), format!("{name}(*)")),
            (list.duplicate_treatment.is_some(), "DISTINCT".into()),
            (!list.clauses.is_empty(), "ORDER BY".into()),
            (call.filter.is_some(), "FILTER".into()),
            (!call.within_group.is_empty(), "WITHIN GROUP".into()),
        ] {
            if present {
                let message = format!("{what} specified, but {name} is not an aggregate function");
                return Err(SqlError::new("42809", message));
            }
        }
        if call.over.is_some() {
            let message = format!("OVER specified, but {name} is not a window function nor an aggregate function");
            return Err(SqlError::new("42809", message));
        }
        self.ctx.require(&object, Privilege::Execute)?;
        self.found.insert(written_call(&reference, count), object.id);
        let marked = Ident::with_quote('"', format!("{reference}{HIDDEN}{}", object.id));
        call.name = ObjectName(vec![ObjectNamePart::Identifier(Ident { span: call.name.span(), ..marked })]);
        Ok(())
    }
}

/// The function that a name with so many arguments calls; `None` if it is none of those that users made.
fn called(name: &TableReference, count: usize, ctx: &PlanContext<'_>) -> Result<Option<Arc<Object>>> {
    if let Some(id) = ctx.bindings.and_then(|b| b.get(&written_call(name, count))) {
        return Ok(ctx.catalog.get(*id).cloned());
    }
    if name.catalog().is_some_and(|catalog| catalog != ctx.session.database) {
        return Err(SqlError::unsupported(format!("cross-database references are not supported: \"{name}\"")));
    }
    let given = name.schema().map(|schema| [schema.to_string()]);
    let schemas = match &given {
        Some(schema) => {
            ctx.require_in_schema(ctx.catalog.schema(&schema[0])?, Privilege::Usage)?;
            schema.as_slice()
        }
        None if is_built_in(name.table(), ctx) => return Ok(None),
        None => ctx.search_path,
    };
    let mut others = Vec::new();
    for schema in schemas {
        for object in ctx.catalog.functions(schema, name.table()) {
            let ObjectKind::Function(function) = &object.kind else { continue };
            if (function.required_arguments()..=function.arguments.len()).contains(&count) {
                return Ok(Some(object.clone()));
            }
            others.push(format!("{}({})", object.name, function.argument_types()));
        }
    }
    if others.is_empty() {
        return Ok(None);
    }
    let s = if count == 1 { "" } else { "s" };
    Err(SqlError::new("42883", format!("function {} with {count} argument{s} does not exist", name.table()))
        .with_hint(format!("there is {}", others.join(", "))))
}

/// The expression that a function's body selects.
///
/// # Errors
/// 0A000 for a body with anything beside it, 42P13 for one of several columns.
pub(crate) fn body_expression(function: &Function) -> Result<ast::Expr> {
    let query = crate::parser::parse_query(&function.body)?;
    let refused = |what: &str| {
        Err(SqlError::unsupported(format!("{what} in the body of a function is not supported")).with_hint(ONE_SELECT))
    };
    let SetExpr::Select(selected) = query.body.as_ref() else { return refused("a set operation or VALUES") };
    if !selected.from.is_empty() {
        return refused("FROM");
    }
    if *query != *select(selected.projection.clone(), Vec::new(), None) {
        return refused("a clause behind SELECT");
    }
    let mut expr = match selected.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] => expr.clone(),
        _ => {
            return Err(
                SqlError::new("42P13", "the body of the function must select exactly one column").with_hint(ONE_SELECT)
            );
        }
    };
    match expr.visit(&mut NoQueries) {
        ControlFlow::Continue(()) => Ok(expr),
        ControlFlow::Break(()) => refused("a subquery"),
    }
}

struct NoQueries;

impl VisitorMut for NoQueries {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
}

/// What the columns under a body are qualified by, whatever the function is called.
const ARGUMENTS: &str = "arguments";

/// The name of an argument's column under the body.
fn column_name(argument: &Argument, i: usize) -> String {
    argument.name.clone().unwrap_or_else(|| format!("${}", i + 1))
}

/// A function's body, planned over its arguments as columns of these types.
///
/// # Errors
/// What is wrong with the body; 42P02 for a `$n` that there is not.
pub(crate) fn plan_body(
    references: &BTreeMap<String, ObjectId>,
    function: &Function,
    types: &[SqlType],
    ctx: &PlanContext<'_>,
) -> Result<Body> {
    let mut expr = body_expression(function)?;
    let names: Vec<String> = function.arguments.iter().enumerate().map(|(i, a)| column_name(a, i)).collect();
    let resolved = ast::visit_expressions_mut(&mut expr, |e| {
        match e {
            ast::Expr::Value(value) => {
                let Value::Placeholder(placeholder) = &value.value else { return ControlFlow::Continue(()) };
                let number = placeholder.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
                let Some(column) = number.and_then(|n| names.get(n.checked_sub(1)?)) else {
                    return ControlFlow::Break(SqlError::new("42P02", format!("there is no parameter {placeholder}")));
                };
                let column = Ident::with_quote('"', column);
                *e = ast::Expr::CompoundIdentifier(vec![Ident::new(ARGUMENTS), column]);
            }
            // CREATE FUNCTION has seen that the first part is the name that it gives.
            ast::Expr::CompoundIdentifier(parts) => parts[0] = Ident::new(ARGUMENTS),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    if let ControlFlow::Break(error) = resolved {
        return Err(error);
    }
    let fields: Vec<_> = names.iter().zip(types).map(|(name, t)| t.field(name, true)).collect();
    let schema = DFSchema::try_from_qualified_schema(TableReference::bare(ARGUMENTS), &Schema::new(fields))?;
    let ctx = PlanContext { bindings: Some(references), parameters: &[], ..*ctx };
    let expr = plan_exprs(vec![expr], &schema, &ctx)?.pop().unwrap_or_default();
    let refused =
        expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(_) | Expr::WindowFunction(_) | Expr::Unnest(_))))?;
    if refused {
        return Err(SqlError::unsupported(
            "an aggregate, window or set-returning function in the body of a function is not supported",
        )
        .with_hint(ONE_SELECT));
    }
    let zone = ctx.session.time_zone.as_str();
    let returned = type_of(&expr, &schema);
    let (expr, sql_type) = converted(expr, &function.returns, &schema, zone, true)?.ok_or_else(|| {
        let returns = plain_name(&function.returns);
        SqlError::new("42P13", format!("return type mismatch in function declared to return {returns}"))
            .with_detail(format!("the body gives {}", shown_type(returned.as_ref())))
            .with_hint("cast the expression to the type that the function returns")
    })?;
    Ok(Body { expr, sql_type, schema })
}

/// The name of a type in errors.
fn shown_type(sql_type: Option<&SqlType>) -> String {
    sql_type.map_or_else(|| "unknown".into(), plain_name)
}

/// A planned body.
pub(crate) struct Body {
    expr: Expr,
    sql_type: SqlType,
    /// The arguments as columns.
    schema: DFSchema,
}

/// A value as an argument or result of a type, and the type that it has then: a numeric keeps the digits that it comes with.
/// `None` if its type does not go there without a cast.
///
/// # Errors
/// 22P02 and kin for a literal that is no such value.
fn converted(
    expr: Expr,
    to: &SqlType,
    schema: &DFSchema,
    zone: &str,
    assignment: bool,
) -> Result<Option<(Expr, SqlType)>> {
    if is_null(&expr) {
        return Ok(Some((typed_null(&field_ref(to, "", true))?, to.clone())));
    }
    if let Expr::Literal(ScalarValue::Utf8(Some(text)), None) = &expr {
        let target = match to {
            SqlType::Numeric(None) => numeric_layout(text).unwrap_or_else(|| to.clone()),
            other => other.clone(),
        };
        return Ok(Some((typed_literal(text, &target, zone)?, target)));
    }
    if is_untyped_parameter(&expr) {
        return Ok(Some((resolve_parameter(expr, to), to.clone())));
    }
    let Some(from) = type_of(&expr, schema) else { return Ok(None) };
    let casts = if assignment { can_cast(&from, to, true) } else { casts_implicitly(&from, to) };
    if !casts {
        return Ok(None);
    }
    let to = match (to, &from) {
        (SqlType::Numeric(None), SqlType::Numeric(_)) => from.clone(),
        (SqlType::Numeric(None), SqlType::Int2) => SqlType::Numeric(Some((5, 0))),
        (SqlType::Numeric(None), SqlType::Int4) => SqlType::Numeric(Some((10, 0))),
        (SqlType::Numeric(None), SqlType::Int8) => SqlType::Numeric(Some((19, 0))),
        (other, _) => other.clone(),
    };
    let expr = if from == to {
        expr
    } else if is_lossless(&from, &to) {
        Expr::Cast(Cast::new_from_field(Box::new(expr), field_ref(&to, "", true)))
    } else {
        cast(expr, &to, assignment, zone)
    };
    Ok(Some((expr, to)))
}

/// A function in SQL as datafusion-sql sees it.
#[derive(Debug)]
pub(crate) struct UserFunction {
    /// What [`resolve_calls`] names its calls.
    marked: String,
    object: Arc<Object>,
    function: Function,
    signature: Signature,
}

impl UserFunction {
    /// That of a name which [`resolve_calls`] gave.
    pub(crate) fn marked(name: &str, catalog: &Catalog) -> Option<Arc<ScalarUDF>> {
        let (_, id) = name.rsplit_once(HIDDEN)?;
        let object = catalog.get(ObjectId(id.parse().ok()?))?;
        let ObjectKind::Function(function) = &object.kind else { return None };
        // Signatures that take anything: what does not fit is refused with the types of all arguments.
        let signature =
            Signature::one_of(vec![TypeSignature::Nullary, TypeSignature::VariadicAny], Volatility::Immutable);
        let (object, function) = (object.clone(), function.clone());
        Some(Arc::new(ScalarUDF::new_from_impl(Self { marked: name.into(), object, function, signature })))
    }

    /// The function under a call, if it is one in SQL.
    pub(crate) fn of(udf: &ScalarUDF) -> Option<&Self> {
        udf.inner().downcast_ref::<Self>()
    }

    /// What a call computes: the body with the arguments in the place of its columns.
    ///
    /// # Errors
    /// 42883 for arguments of other types, 0A000 for a volatile one that would be computed more than once, 54001 for an
    /// expression that grows too large.
    pub(crate) fn inlined(&self, args: Vec<Expr>, schema: &DFSchema, ctx: &PlanContext<'_>) -> Result<Expr> {
        let zone = ctx.session.time_zone.as_str();
        let name = &self.object.name;
        let given: Vec<Option<SqlType>> = args.iter().map(|e| type_of(e, schema)).collect();
        let mut values: Vec<(Expr, SqlType)> = Vec::with_capacity(self.function.arguments.len());
        for (expr, argument) in args.into_iter().zip(&self.function.arguments) {
            let value = converted(expr, &argument.sql_type, schema, zone, false)?;
            values.push(value.ok_or_else(|| self.no_such(&given))?);
        }
        for argument in &self.function.arguments[values.len()..] {
            values.push(self.default_of(argument, ctx)?);
        }
        let types: Vec<SqlType> = values.iter().map(|(_, t)| t.clone()).collect();
        let body = plan_body(&self.object.references, &self.function, &types, ctx)
            .map_err(|e| in_body(e, &self.object.describe()))?;
        let null = typed_null(&field_ref(&body.sql_type, "", true))?;
        let mut uses = vec![0; values.len()];
        let mut missing: Option<Expr> = None;
        if self.function.strict {
            for (i, (value, _)) in values.iter().enumerate() {
                match value {
                    Expr::Literal(value, _) if value.is_null() => return Ok(null),
                    Expr::Literal(..) => {}
                    value => {
                        uses[i] += 1;
                        let is_null = value.clone().is_null();
                        missing = Some(missing.map_or(is_null.clone(), |m| m.or(is_null)));
                    }
                }
            }
        }
        let result = body.expr.transform_up(|e| {
            let position = match &e {
                Expr::Column(column) => body.schema.maybe_index_of_column(column),
                _ => None,
            };
            Ok(match position {
                Some(i) => {
                    uses[i] += 1;
                    Transformed::yes(values[i].0.clone())
                }
                None => Transformed::no(e),
            })
        })?;
        for (i, (value, _)) in values.iter().enumerate() {
            if uses[i] > 1 && is_volatile(value)? {
                let message =
                    format!("a volatile argument of function {name}, which uses it more than once, is not supported");
                return Err(SqlError::unsupported(message)
                    .with_hint("compute it in a subquery, and call the function on its column"));
            }
        }
        let result = match missing {
            None => result.data,
            Some(missing) => of_type(when(missing, null).otherwise(result.data)?, Some(body.sql_type), schema),
        };
        let mut nodes = 0;
        result.apply(|_| {
            nodes += 1;
            Ok(if nodes > NODES_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if nodes > NODES_MAX {
            let message = format!("a call of function {name} makes an expression that is too large");
            return Err(
                SqlError::new("54001", message).with_hint("its body, or that of a function in it, repeats an argument")
            );
        }
        rewrite_tree(result, schema, ctx)
    }

    /// An argument that a call leaves out.
    fn default_of(&self, argument: &Argument, ctx: &PlanContext<'_>) -> Result<(Expr, SqlType)> {
        let text = argument.default.as_deref().ok_or_else(|| SqlError::internal("an argument is missing"))?;
        let ctx = PlanContext { bindings: Some(&self.object.references), parameters: &[], ..*ctx };
        plan_default(crate::parser::parse_expr(text)?, &argument.sql_type, &ctx)
    }

    /// PostgreSQL's words for arguments that the function does not take.
    fn no_such(&self, given: &[Option<SqlType>]) -> SqlError {
        let names: Vec<_> = given.iter().map(|t| shown_type(t.as_ref())).collect();
        let shown = format!("{}({})", self.object.name, names.join(", "));
        SqlError::new("42883", format!("function {shown} does not exist")).with_hint(format!(
            "there is {}({}); an explicit cast may help",
            self.object.name,
            self.function.argument_types()
        ))
    }
}

/// A DEFAULT of an argument as a value of its type.
///
/// # Errors
/// 42804 if its type does not go there.
pub(crate) fn plan_default(expr: ast::Expr, target: &SqlType, ctx: &PlanContext<'_>) -> Result<(Expr, SqlType)> {
    let empty = DFSchema::empty();
    let expr = plan_exprs(vec![expr], &empty, ctx)?.pop().unwrap_or_default();
    let from = type_of(&expr, &empty);
    converted(expr, target, &empty, &ctx.session.time_zone, true)?.ok_or_else(|| {
        let (wanted, from) = (plain_name(target), shown_type(from.as_ref()));
        let message = format!("argument of DEFAULT must be type {wanted}, not type {from}");
        SqlError::new("42804", message)
    })
}

/// Whether computing an expression twice may give two values.
fn is_volatile(expr: &Expr) -> Result<bool> {
    fn in_plan(plan: &LogicalPlan) -> DfResult<bool> {
        let mut found = false;
        plan.apply_with_subqueries(|node| {
            node.apply_expressions(|expr| {
                found |= expr.is_volatile();
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(found)
    }
    Ok(expr.is_volatile()
        || expr.exists(|e| match e {
            Expr::ScalarSubquery(subquery) => in_plan(&subquery.subquery),
            _ => Ok(false),
        })?)
}

impl PartialEq for UserFunction {
    fn eq(&self, other: &Self) -> bool {
        self.marked == other.marked
    }
}

impl Eq for UserFunction {}

impl Hash for UserFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.marked.hash(state);
    }
}

impl ScalarUDFImpl for UserFunction {
    fn name(&self) -> &str {
        &self.marked
    }

    fn display_name(&self, args: &[Expr]) -> DfResult<String> {
        let args: Vec<_> = args.iter().map(ToString::to_string).collect();
        Ok(format!("{}({})", visible(&self.marked), args.join(",")))
    }

    /// As it is written, which no renaming changes: names are part of how a view's state is told to be its own.
    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let args: Vec<_> = args.iter().map(|a| a.schema_name().to_string()).collect();
        Ok(format!("{}({})", visible(&self.marked), args.join(",")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.function.returns.arrow_type())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(field_ref(&self.function.returns, &self.object.name, true))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(SqlError::internal(format!("{} was not put in place of its call", self.object.describe())).into())
    }
}
