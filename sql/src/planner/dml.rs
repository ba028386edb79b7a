//! INSERT, UPDATE, DELETE and TRUNCATE, planned by us over the queries inside.
//!
//! UPDATE and DELETE become a query of the target joined with FROM / USING: the row's identity, its old columns, and for
//! UPDATE its new ones. The one table writer carries the result out; that of Delta tables is in the batch engine.
//!
//! * [`conflict`]: ON CONFLICT. [`mod@returning`]: RETURNING. [`overwrite`]: INSERT OVERWRITE. [`mod@merge`]: MERGE.

pub(super) mod conflict;
pub(super) mod merge;
pub(super) mod overwrite;
mod returning;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column as DfColumn, DFSchema, ScalarValue};
use datafusion_expr::logical_plan::builder::project;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion_sql::planner::{PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{
    self, AssignmentTarget, Ident, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, TableAlias, TableFactor,
    TableWithJoins, Value, Visit, Visitor,
};
use millstream_catalog::object::{Table, columns_schema};
use millstream_catalog::types::field_ref;
use millstream_catalog::{Column, Object, ObjectKind, Privilege, SqlType};

use self::overwrite::Replaced;
use self::returning::returning;
use super::calls::resolve_calls;
use super::operators::{is_null, is_untyped, resolve_parameter, type_of};
use super::provider::{Provider, Relation, resolve, table_reference};
use super::query::{analyze, expand_exponents, parameters, plan_exprs, plan_query_with};
use super::refuse::refuse_unconsumed;
use super::rights::reads;
use super::{columns, naming};
use crate::context::{CatalogSource, PlanContext, ROW_ID, Target};
use crate::error::{Result, SqlError};
use crate::functions::cast::{can_cast, cast, cast_array};
use crate::plan::{DeletePlan, InsertPlan, Plan, RowChecks, UpdatePlan};
use crate::statement::{Delete, Insert, Truncate, Update};
use crate::types::normalize;

/// Prefix of the new columns in an UPDATE's plan.
const NEW: &str = "__new_";

/// The object of that name, if it is a table that statements can change.
///
/// # Errors
/// 42P01, or 42809 for another kind of object.
pub(crate) fn target_table(name: &ObjectName, ctx: &PlanContext<'_>) -> Result<Arc<Object>> {
    let object = target(name, ctx)?;
    match object.kind {
        ObjectKind::Table(_) | ObjectKind::ExternalTable(_) => Ok(object),
        _ => Err(refused(object.kind_name(), &object.name)),
    }
}

/// The object of that name, if it is a table, or a source, to which INSERT adds rows.
///
/// # Errors
/// As [`target_table`].
fn target(name: &ObjectName, ctx: &PlanContext<'_>) -> Result<Arc<Object>> {
    let reference = table_reference(name)?;
    let span = name.0.last().and_then(|p| p.as_ident()).map(|i| i.span);
    let found = resolve(ctx, &reference).map_err(|e| match span {
        Some(span) => e.with_span(span),
        None => e,
    })?;
    match found {
        Relation::Object(object) if is_writable(&object) => Ok(object),
        Relation::Object(object) => Err(refused(object.kind_name(), reference.table())),
        Relation::System { .. } => Err(refused("system table", reference.table())),
    }
}

fn is_writable(object: &Object) -> bool {
    match &object.kind {
        ObjectKind::Table(_) | ObjectKind::Source(_) => true,
        ObjectKind::ExternalTable(table) => table.is_lake(),
        _ => false,
    }
}

fn refused(kind: &str, name: &str) -> SqlError {
    let hint = match kind {
        "materialized view" | "view" => "change the tables that it is made of",
        "source" => "a source is fed from outside; INSERT adds rows to it, and nothing takes them away",
        "external table" => "of external tables those STORED AS DELTA can be changed; COPY ... TO writes files",
        _ => "only tables can be changed",
    };
    SqlError::new("42809", format!("cannot change {kind} \"{name}\"")).with_hint(hint)
}

/// What statements see of a table; a source is to INSERT what an append-only table is.
fn table_of(object: &Object) -> Result<Cow<'_, Table>> {
    match &object.kind {
        ObjectKind::Table(table) => Ok(Cow::Borrowed(table)),
        ObjectKind::Source(source) => Ok(Cow::Owned(Table {
            columns: source.columns.clone(),
            primary_key: source.primary_key.clone(),
            append_only: true,
            watermark: None,
            checks: Vec::new(),
        })),
        ObjectKind::ExternalTable(table) => Ok(Cow::Owned(Table {
            columns: table.columns.clone(),
            primary_key: Vec::new(),
            append_only: false,
            watermark: None,
            checks: Vec::new(),
        })),
        _ => Err(SqlError::internal(format!("{} is no table", object.describe()))),
    }
}

/// Refuses clauses that Delta tables do not have.
fn refuse_of_lake(object: &Object, clause: &str, hint: &str) -> Result<()> {
    match object.kind {
        ObjectKind::ExternalTable(_) => {
            Err(SqlError::unsupported(format!("{clause} is not supported for {}", object.describe())).with_hint(hint))
        }
        _ => Ok(()),
    }
}

/// Positions of the named columns; of all that are not generated if none is named.
fn column_positions(names: &[Ident], object: &Object) -> Result<Vec<usize>> {
    let all = object.columns();
    if names.is_empty() {
        return Ok((0..all.len()).filter(|i| !all[*i].is_computed()).collect());
    }
    let mut positions = Vec::with_capacity(names.len());
    for name in names {
        let at = columns::position(all, name, &object.name)?;
        if positions.contains(&at) {
            return Err(SqlError::new("42701", format!("column \"{}\" specified more than once", all[at].name))
                .with_span(name.span));
        }
        if all[at].is_computed() {
            return Err(SqlError::new(
                "428C9",
                format!("cannot insert a non-DEFAULT value into column \"{}\"", all[at].name),
            )
            .with_detail(format!("column \"{}\" is a generated column", all[at].name))
            .with_span(name.span));
        }
        positions.push(at);
    }
    Ok(positions)
}

/// `SELECT columns FROM name`, all columns if none is named.
pub(crate) fn select_columns(name: &ObjectName, columns: &[Ident]) -> Box<Query> {
    let items = if columns.is_empty() {
        vec![SelectItem::Wildcard(ast::WildcardAdditionalOptions::default())]
    } else {
        columns.iter().map(|c| SelectItem::UnnamedExpr(ast::Expr::Identifier(c.clone()))).collect()
    };
    select(items, vec![relation(name.clone(), None)], None)
}

fn relation(name: ObjectName, alias: Option<TableAlias>) -> TableWithJoins {
    TableWithJoins {
        relation: TableFactor::Table {
            name,
            alias,
            args: None,
            with_hints: Vec::new(),
            version: None,
            with_ordinality: false,
            partitions: Vec::new(),
            json_path: None,
            sample: None,
            index_hints: Vec::new(),
        },
        joins: Vec::new(),
    }
}

/// `SELECT projection [FROM from] [WHERE selection]`.
pub(super) fn select(
    projection: Vec<SelectItem>,
    from: Vec<TableWithJoins>,
    selection: Option<ast::Expr>,
) -> Box<Query> {
    let select = ast::Select {
        select_token: ast::helpers::attached_token::AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views: Vec::new(),
        prewhere: None,
        selection,
        connect_by: Vec::new(),
        group_by: ast::GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: ast::SelectFlavor::Standard,
    };
    Box::new(Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    })
}

fn quoted(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

fn is_default(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}

/// The DEFAULT of a column as an expression; NULL without one.
fn default_of(column: &Column) -> Result<ast::Expr> {
    match &column.default {
        Some(text) => crate::parser::parse_expr(text),
        None => Ok(ast::Expr::Value(Value::Null.into())),
    }
}

/// A string literal, NULL or parameter that goes into a column takes the column's type.
fn typed_for(expr: ast::Expr, column: &Column) -> Result<ast::Expr> {
    let open = matches!(&expr, ast::Expr::Value(v) if matches!(
        v.value,
        Value::SingleQuotedString(_) | Value::EscapedStringLiteral(_) | Value::DollarQuotedString(_)
            | Value::Placeholder(_) | Value::Null
    ));
    if !open {
        return Ok(expr);
    }
    // Lengths are for the assignment to enforce; a cast would cut silently.
    let name = if column.sql_type.is_text() { "text".to_string() } else { column.sql_type.to_string() };
    let data_type = crate::parser::parse_type(&name)?;
    Ok(ast::Expr::Cast { kind: ast::CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None })
}

/// The cast of a value into a column.
///
/// # Errors
/// 42804 if its type does not go there, 22P02 and kin for a literal that is no such value.
pub(crate) fn assign(expr: Expr, schema: &DFSchema, column: &Column, zone: &str) -> Result<Expr> {
    let target = &column.sql_type;
    if is_null(&expr) {
        return Ok(Expr::Literal(ScalarValue::try_new_null(&target.arrow_type())?, None));
    }
    let expr = resolve_parameter(expr, target);
    let from = if is_untyped(&expr) { Some(SqlType::Text) } else { type_of(&expr, schema) };
    let Some(from) = from else { return Ok(cast(expr, target, true, zone)) };
    if !is_untyped(&expr) && !can_cast(&from, target, true) {
        return Err(SqlError::new(
            "42804",
            format!("column \"{}\" is of type {target} but expression is of type {from}", column.name),
        )
        .with_hint("you will need to rewrite or cast the expression"));
    }
    if let Expr::Literal(value, _) = &expr {
        let array = value.to_array_of_size(1)?;
        let cast = cast_array(&array, &from, target, true, zone)?;
        return Ok(Expr::Literal(ScalarValue::try_from_array(&cast, 0)?, None));
    }
    let exact = from == *target && expr.get_type(schema).is_ok_and(|t| t == target.arrow_type());
    Ok(if exact { expr } else { cast(expr, target, true, zone) })
}

fn row_checks(object: &Object, table: &Table, ctx: &PlanContext<'_>) -> Result<RowChecks> {
    let schema = columns::schema(&table.columns)?;
    let texts = table.checks.iter().map(|(_, text)| crate::parser::parse_expr(text)).collect::<Result<Vec<_>>>()?;
    let exprs = if texts.is_empty() { Vec::new() } else { plan_exprs(texts, &schema, &without_parameters(ctx))? };
    let checks = table.checks.iter().map(|(name, _)| name.clone()).zip(exprs).collect();
    let mut not_null: Vec<usize> =
        table.columns.iter().enumerate().filter(|(_, c)| !c.nullable && !c.processing_time).map(|(i, _)| i).collect();
    not_null.extend(table.primary_key.iter().filter(|i| table.columns[**i].nullable));
    Ok(RowChecks { table: object.name.clone(), not_null, checks })
}

fn without_parameters<'a>(ctx: &PlanContext<'a>) -> PlanContext<'a> {
    PlanContext { parameters: &[], ..*ctx }
}

/// `INSERT`.
pub(crate) fn insert(s: &Insert, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = target(&s.table, ctx)?;
    ctx.require(&object, Privilege::Insert)?;
    if s.returning.is_some() {
        ctx.require(&object, Privilege::Select)?;
    }
    if s.overwrite.is_some() {
        ctx.require(&object, Privilege::Delete)?;
    }
    let table = &*table_of(&object)?;
    if table.append_only && s.on_conflict.is_some() {
        return Err(SqlError::new("42P10", format!("rows of {} have no key to conflict with", object.describe())));
    }
    if s.on_conflict.is_some() {
        refuse_of_lake(&object, "ON CONFLICT", "MERGE INTO updates rows that are there and inserts others")?;
    }
    if s.returning.is_some() {
        refuse_of_lake(&object, "RETURNING", "read the rows with a SELECT afterwards")?;
    }
    let Replaced { overwrite, fixed } = overwrite::planned(s.overwrite.as_ref(), &object, ctx)?;
    let mut targets = column_positions(&s.columns, &object)?;
    if let Some((at, _)) = fixed.iter().find(|(at, _)| !s.columns.is_empty() && targets.contains(at)) {
        let name = &object.columns()[*at].name;
        return Err(SqlError::new("42701", format!("column \"{name}\" has a value in PARTITION"))
            .with_hint("leave it out of the column list"));
    }
    targets.retain(|at| fixed.iter().all(|(other, _)| other != at));
    let explicit = !s.columns.is_empty();
    let (source, targets) = match &s.source {
        None => (LogicalPlanBuilder::empty(true).build()?, Vec::new()),
        Some(query) => match plain_values(query) {
            Some(values) if has_subquery(values) => {
                insert_query(selects(values)?.as_ref(), &targets, explicit, &object, ctx)?
            }
            Some(values) => insert_values(values, &targets, explicit, &object, ctx)?,
            None => insert_query(query, &targets, explicit, &object, ctx)?,
        },
    };
    let plan = whole_rows(source, &targets, &fixed, &table.columns, ctx)?;
    let plan = analyze(plan, ctx)?;
    let alias = s.alias.as_ref().map_or_else(|| object.name.clone(), normalize);
    let parameters = parameters(&plan, ctx)?;
    Ok(Plan::Insert(InsertPlan {
        table: object.id,
        plan,
        checks: row_checks(&object, table, ctx)?,
        overwrite,
        on_conflict: conflict::on_conflict(s.on_conflict.as_ref(), &object, table, &alias, ctx)?,
        returning: returning(s.returning.as_ref(), &object, &alias, ctx)?,
        parameters,
    }))
}

/// The INSERT of rows that have the named columns of a table, and these columns.
pub(crate) fn copy_from(names: &[Ident], object: &Object, ctx: &PlanContext<'_>) -> Result<(InsertPlan, Vec<Column>)> {
    let table = &*table_of(object)?;
    let targets = column_positions(names, object)?;
    // Whether a value may be NULL is for the checks to say, which name the row.
    let given = targets.iter().map(|at| Column { nullable: true, ..object.columns()[*at].clone() });
    let given: Vec<Column> = given.collect();
    let input = CatalogSource::new(Target::Input, columns_schema(&given));
    let source = LogicalPlanBuilder::scan("input", Arc::new(input), None)?.build()?;
    let plan = analyze(whole_rows(source, &targets, &[], &table.columns, ctx)?, ctx)?;
    let insert = InsertPlan {
        table: object.id,
        plan,
        checks: row_checks(object, table, ctx)?,
        overwrite: None,
        on_conflict: None,
        returning: None,
        parameters: Vec::new(),
    };
    Ok((insert, given))
}

/// The rows of `VALUES …` if the query is nothing else.
fn plain_values(query: &Query) -> Option<&ast::Values> {
    match query.body.as_ref() {
        SetExpr::Values(values)
            if query.with.is_none()
                && query.order_by.is_none()
                && query.limit_clause.is_none()
                && query.fetch.is_none() =>
        {
            Some(values)
        }
        _ => None,
    }
}

fn has_subquery(values: &ast::Values) -> bool {
    struct Subqueries;
    impl Visitor for Subqueries {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    values.visit(&mut Subqueries).is_break()
}

/// `VALUES` as SELECTs of its rows, in which there may be subqueries.
fn selects(values: &ast::Values) -> Result<Box<Query>> {
    let rows = values.rows.iter().map(|row| {
        let items: Vec<String> = row.content.iter().map(ToString::to_string).collect();
        format!("SELECT {}", items.join(", "))
    });
    crate::parser::parse_query(&rows.collect::<Vec<_>>().join(" UNION ALL "))
}

fn check_count(given: usize, targets: usize, explicit: bool) -> Result<()> {
    if given > targets {
        return Err(SqlError::syntax("INSERT has more expressions than target columns"));
    }
    if explicit && given < targets {
        return Err(SqlError::syntax("INSERT has more target columns than expressions"));
    }
    Ok(())
}

fn insert_values(
    values: &ast::Values,
    targets: &[usize],
    explicit: bool,
    object: &Object,
    ctx: &PlanContext<'_>,
) -> Result<(LogicalPlan, Vec<usize>)> {
    let width = values.rows.first().map_or(0, |r| r.content.len());
    check_count(width, targets.len(), explicit)?;
    let targets = targets[..width].to_vec();
    let provider = Provider::new(*ctx);
    let planner = SqlToRel::new(&provider);
    let declared = ctx.parameters.iter().map(|t| t.as_ref().map(|t| field_ref(t, "", true))).collect();
    let mut planner_context = PlannerContext::new().with_prepare_param_data_types(declared);
    let empty = DFSchema::empty();
    let mut rows = Vec::with_capacity(values.rows.len());
    for row in &values.rows {
        if row.content.len() != width {
            return Err(SqlError::syntax("VALUES lists must all be the same length"));
        }
        let mut cells = Vec::with_capacity(width);
        for (cell, at) in row.content.iter().zip(&targets) {
            let column = &object.columns()[*at];
            let cell = if is_default(cell) { default_of(column)? } else { cell.clone() };
            refuse_unconsumed(&cell)?;
            let mut cell = cell;
            naming::normalize_expr(&mut cell);
            resolve_calls(&mut cell, ctx)?;
            expand_exponents(&mut cell)?;
            let expr = planner.sql_to_expr(cell, &empty, &mut planner_context)?;
            cells.push(typed_value(assign(expr, &empty, column, &ctx.session.time_zone)?, column));
        }
        rows.push(cells);
    }
    Ok((LogicalPlanBuilder::values(rows)?.build()?, targets))
}

/// A literal with all of its column's type: DataFusion wants the rows of VALUES to agree, also in what an Arrow type does not say.
fn typed_value(expr: Expr, column: &Column) -> Expr {
    match expr {
        Expr::Literal(value, None) => {
            let field = field_ref(&column.sql_type, "", true);
            let value = match value.is_null() {
                true => ScalarValue::try_from(field.data_type()).unwrap_or(value),
                false => value,
            };
            let same = value.data_type() == *field.data_type() && !field.metadata().is_empty();
            Expr::Literal(value, same.then(|| field.metadata().clone().into()))
        }
        other => other,
    }
}

fn insert_query(
    query: &Query,
    targets: &[usize],
    explicit: bool,
    object: &Object,
    ctx: &PlanContext<'_>,
) -> Result<(LogicalPlan, Vec<usize>)> {
    let mut query = Box::new(query.clone());
    if let SetExpr::Select(select) = query.body.as_mut() {
        for (item, at) in select.projection.iter_mut().zip(targets) {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                *expr = typed_for(expr.clone(), &object.columns()[*at])?;
            } else {
                // What a star stands for is not known here; literals behind it keep type text.
                break;
            }
        }
    }
    let planned = plan_query_with(&query, ctx, None)?;
    check_count(planned.columns.len(), targets.len(), explicit)?;
    let targets = targets[..planned.columns.len()].to_vec();
    let schema = planned.plan.schema().clone();
    let mut exprs = Vec::with_capacity(targets.len());
    for (i, ((qualifier, field), at)) in schema.iter().zip(&targets).enumerate() {
        let column = Expr::Column(DfColumn::new(qualifier.cloned(), field.name()));
        let target = &object.columns()[*at];
        exprs.push(assign(column, &schema, target, &ctx.session.time_zone)?.alias(format!("column{}", i + 1)));
    }
    Ok((project(planned.plan, exprs)?, targets))
}

/// Rows in table order: the given columns, those with one value, defaults for the others, then the generated ones.
fn whole_rows(
    source: LogicalPlan,
    targets: &[usize],
    fixed: &[(usize, Expr)],
    all: &[Column],
    ctx: &PlanContext<'_>,
) -> Result<LogicalPlan> {
    let zone = ctx.session.time_zone.as_str();
    let empty = DFSchema::empty();
    let ctx = &without_parameters(ctx);
    let mut exprs = Vec::with_capacity(all.len());
    for (i, column) in all.iter().enumerate() {
        let expr = match targets.iter().position(|t| *t == i) {
            Some(given) => {
                let (qualifier, field) = source.schema().qualified_field(given);
                Expr::Column(DfColumn::new(qualifier.cloned(), field.name()))
            }
            None if fixed.iter().any(|(at, _)| *at == i) => {
                fixed.iter().find(|(at, _)| *at == i).map(|(_, value)| value.clone()).unwrap_or_default()
            }
            None if column.generated.is_some() || column.default.is_none() => {
                Expr::Literal(ScalarValue::try_new_null(&column.sql_type.arrow_type())?, None)
            }
            None => {
                let planned = plan_exprs(vec![default_of(column)?], &empty, ctx)?;
                assign(planned.into_iter().next().unwrap_or_default(), &empty, column, zone)?
            }
        };
        exprs.push(expr.alias(&column.name));
    }
    let rows = project(source, exprs)?;
    if all.iter().all(|c| c.generated.is_none()) {
        return Ok(rows);
    }
    let schema = columns::schema(all)?;
    let mut exprs = Vec::with_capacity(all.len());
    for column in all {
        exprs.push(match &column.generated {
            None => Expr::Column(DfColumn::new_unqualified(&column.name)),
            Some(text) => generated(text, column, &schema, ctx)?.alias(&column.name),
        });
    }
    Ok(project(rows, exprs)?)
}

fn generated(text: &str, column: &Column, schema: &DFSchema, ctx: &PlanContext<'_>) -> Result<Expr> {
    let planned = plan_exprs(vec![crate::parser::parse_expr(text)?], schema, &without_parameters(ctx))?;
    assign(planned.into_iter().next().unwrap_or_default(), schema, column, &ctx.session.time_zone)
}

/// `SET a = x, (b, c) = (y, z)` as positions and expressions, DEFAULT replaced.
fn assigned_columns(assignments: &[ast::Assignment], object: &Object) -> Result<Vec<(usize, ast::Expr)>> {
    let mut assigned: Vec<(usize, ast::Expr)> = Vec::new();
    let mut add = |name: &ObjectName, value: &ast::Expr| -> Result<()> {
        let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else {
            return Err(SqlError::syntax(format!("\"{name}\" cannot be assigned to"))
                .with_hint("SET takes a column's name without the table's"));
        };
        let at = columns::position(object.columns(), ident, &object.name)?;
        let column = &object.columns()[at];
        if assigned.iter().any(|(other, _)| *other == at) {
            return Err(SqlError::syntax(format!("multiple assignments to same column \"{}\"", column.name))
                .with_span(ident.span));
        }
        if column.generated.is_some() {
            if is_default(value) {
                return Ok(());
            }
            return Err(SqlError::new("428C9", format!("column \"{}\" can only be updated to DEFAULT", column.name))
                .with_detail(format!("column \"{}\" is a generated column", column.name)));
        }
        let value = if is_default(value) { default_of(column)? } else { value.clone() };
        assigned.push((at, value));
        Ok(())
    };
    for ast::Assignment { target, value } in assignments {
        match target {
            AssignmentTarget::ColumnName(name) => add(name, value)?,
            AssignmentTarget::Tuple(names) => {
                let values = match value {
                    ast::Expr::Tuple(values) => values.clone(),
                    ast::Expr::Nested(value) if names.len() == 1 => vec![value.as_ref().clone()],
                    _ => {
                        return Err(SqlError::unsupported("assigning a subquery to several columns is not supported"));
                    }
                };
                if values.len() != names.len() {
                    return Err(SqlError::syntax("number of columns does not match number of values"));
                }
                for (name, value) in names.iter().zip(&values) {
                    add(name, value)?;
                }
            }
        }
    }
    Ok(assigned)
}

/// Alias of the target in a statement.
fn alias_of(alias: Option<&TableAlias>, object: &Object) -> String {
    alias.map_or_else(|| object.name.clone(), |a| normalize(&a.name))
}

/// The target, aliased so that its columns have one qualifier, and the other relations beside it.
fn target_and_others(name: &ObjectName, alias: &str, others: &[TableWithJoins]) -> Vec<TableWithJoins> {
    let alias = TableAlias { explicit: true, name: quoted(alias), columns: Vec::new(), at: None };
    let mut from = vec![relation(name.clone(), Some(alias))];
    from.extend(others.iter().cloned());
    from
}

/// The row id if there is no primary key, and all columns of the target.
fn old_row(table: &Table, alias: &str) -> Vec<SelectItem> {
    let column = |name: &str| {
        let expr = ast::Expr::CompoundIdentifier(vec![quoted(alias), quoted(name)]);
        SelectItem::ExprWithAlias { expr, alias: quoted(name) }
    };
    let id = table.primary_key.is_empty().then(|| column(ROW_ID));
    id.into_iter().chain(table.columns.iter().map(|c| column(&c.name))).collect()
}

fn refuse_append_only(object: &Object, table: &Table, verb: &str) -> Result<()> {
    if table.append_only {
        return Err(SqlError::new("42809", format!("cannot {verb} append-only table \"{}\"", object.name))
            .with_hint("only INSERT is possible on a table declared APPEND ONLY"));
    }
    Ok(())
}

/// `UPDATE`.
pub(crate) fn update(s: &Update, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = target_table(&s.table, ctx)?;
    ctx.require(&object, Privilege::Update)?;
    let table = &*table_of(&object)?;
    refuse_append_only(&object, table, "update")?;
    if s.returning.is_some() {
        refuse_of_lake(&object, "RETURNING", "read the rows with a SELECT afterwards")?;
    }
    let alias = alias_of(s.alias.as_ref(), &object);
    let assigned = assigned_columns(&s.assignments, &object)?;
    let is_read = s.selection.is_some()
        || s.returning.is_some()
        || !s.from.is_empty()
        || assigned.iter().any(|(_, expr)| reads(expr));
    let ctx = &if is_read { *ctx } else { ctx.without_reading(object.id) };
    let mut items = old_row(table, &alias);
    let old = items.len();
    for (i, column) in table.columns.iter().enumerate() {
        let expr = match assigned.iter().find(|(at, _)| *at == i) {
            Some((_, expr)) => typed_for(expr.clone(), column)?,
            None => ast::Expr::CompoundIdentifier(vec![quoted(&alias), quoted(&column.name)]),
        };
        items.push(SelectItem::ExprWithAlias { expr, alias: quoted(&format!("{NEW}{}", column.name)) });
    }
    let query = select(items, target_and_others(&s.table, &alias, &s.from), s.selection.clone());
    let planned = plan_query_with(&query, ctx, Some(object.id))?;
    let schema = planned.plan.schema().clone();
    let mut exprs = Vec::with_capacity(schema.fields().len());
    for (i, (qualifier, field)) in schema.iter().enumerate() {
        let column = Expr::Column(DfColumn::new(qualifier.cloned(), field.name()));
        exprs.push(match i.checked_sub(old) {
            None => column.alias(naming::visible(field.name())),
            Some(new) => {
                let target = &table.columns[new];
                assign(column, &schema, target, &ctx.session.time_zone)?.alias(format!("{NEW}{}", target.name))
            }
        });
    }
    let mut plan = project(planned.plan, exprs)?;
    if table.columns.iter().any(|c| c.generated.is_some()) {
        plan = with_generated(plan, old, table, ctx)?;
    }
    let plan = analyze(plan, ctx)?;
    let parameters = parameters(&plan, ctx)?;
    Ok(Plan::Update(UpdatePlan {
        table: object.id,
        plan,
        checks: row_checks(&object, table, ctx)?,
        returning: returning(s.returning.as_ref(), &object, &alias, ctx)?,
        parameters,
    }))
}

/// Computes the generated columns anew from the other new ones.
fn with_generated(plan: LogicalPlan, old: usize, table: &Table, ctx: &PlanContext<'_>) -> Result<LogicalPlan> {
    let schema = columns::schema(&table.columns)?;
    let mut exprs = Vec::with_capacity(plan.schema().fields().len());
    for (i, (qualifier, field)) in plan.schema().iter().enumerate() {
        let column = i.checked_sub(old).map(|new| &table.columns[new]);
        exprs.push(match column.and_then(|c| c.generated.as_ref().map(|g| (c, g))) {
            None => Expr::Column(DfColumn::new(qualifier.cloned(), field.name())),
            Some((column, text)) => {
                let of_new = generated(text, column, &schema, ctx)?.transform_up(|e| {
                    Ok(match e {
                        Expr::Column(c) => {
                            Transformed::yes(Expr::Column(DfColumn::new_unqualified(format!("{NEW}{}", c.name))))
                        }
                        other => Transformed::no(other),
                    })
                })?;
                of_new.data.alias(field.name())
            }
        });
    }
    Ok(project(plan, exprs)?)
}

/// `DELETE`.
pub(crate) fn delete(s: &Delete, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = target_table(&s.table, ctx)?;
    ctx.require(&object, Privilege::Delete)?;
    let is_read = s.selection.is_some() || s.returning.is_some() || !s.using.is_empty();
    let ctx = &if is_read { *ctx } else { ctx.without_reading(object.id) };
    let table = &*table_of(&object)?;
    refuse_append_only(&object, table, "delete from")?;
    if s.returning.is_some() {
        refuse_of_lake(&object, "RETURNING", "read the rows with a SELECT afterwards")?;
    }
    let alias = alias_of(s.alias.as_ref(), &object);
    let query = select(old_row(table, &alias), target_and_others(&s.table, &alias, &s.using), s.selection.clone());
    let planned = plan_query_with(&query, ctx, Some(object.id))?;
    Ok(Plan::Delete(DeletePlan {
        table: object.id,
        plan: planned.plan,
        returning: returning(s.returning.as_ref(), &object, &alias, ctx)?,
        parameters: planned.parameters,
    }))
}

/// `TRUNCATE`.
pub(crate) fn truncate(s: &Truncate, ctx: &PlanContext<'_>) -> Result<Plan> {
    let mut tables = Vec::with_capacity(s.tables.len());
    for name in &s.tables {
        let object = target_table(name, ctx)?;
        ctx.require(&object, Privilege::Truncate)?;
        refuse_append_only(&object, &*table_of(&object)?, "truncate")?;
        if !tables.contains(&object.id) {
            tables.push(object.id);
        }
    }
    Ok(Plan::Truncate { tables })
}
