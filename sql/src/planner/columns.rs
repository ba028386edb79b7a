//! Column lists of CREATE TABLE, CREATE SOURCE and CREATE EXTERNAL TABLE, made into catalog columns.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion_common::DFSchema;
use datafusion_common::tree_node::TreeNode;
use datafusion_expr::ExprSchemable;
use datafusion_sql::sqlparser::ast::{Expr, Ident};
use millstream_catalog::object::{Include, Watermark, columns_schema};
use millstream_catalog::{Column, SqlType};

use super::calls::refuse_calls;
use super::query::plan_exprs;
use crate::context::{PlanContext, ROW_ID};
use crate::error::{Result, SqlError};
use crate::functions::cast::can_cast;
use crate::statement::{ColumnDefinition, IncludeClause, WatermarkDefinition};
use crate::types::{normalize, sql_type};

/// The columns of a list, their DEFAULT and GENERATED expressions checked.
///
/// # Errors
/// 42701 for a name that is there twice, 42804 for an expression of the wrong type.
pub(crate) fn define(definitions: &[ColumnDefinition], ctx: &PlanContext<'_>) -> Result<Vec<Column>> {
    define_behind(Vec::new(), definitions, ctx)
}

/// The same, behind columns that are there already.
///
/// # Errors
/// As [`define`].
pub(crate) fn define_behind(
    mut columns: Vec<Column>,
    definitions: &[ColumnDefinition],
    ctx: &PlanContext<'_>,
) -> Result<Vec<Column>> {
    let there = columns.len();
    for definition in definitions {
        let name = normalize(&definition.name);
        let at = |e: SqlError| e.with_span(definition.name.span);
        let sql_type = sql_type(&definition.data_type).map_err(at)?;
        if let SqlType::Json = sql_type
            && definition.primary_key
        {
            return Err(at(SqlError::new("42704", "json cannot be a primary key")));
        }
        let mut column = Column::new(name, sql_type, !definition.not_null);
        column.default = definition.default.as_ref().map(ToString::to_string);
        column.generated = definition.generated.as_ref().map(ToString::to_string);
        column.processing_time = definition.processing_time;
        if column.default.is_some() && column.generated.is_some() {
            return Err(at(SqlError::syntax(format!(
                "both default and generation expression specified for column \"{}\"",
                column.name
            ))));
        }
        columns.push(column);
    }
    check_names(&columns)?;
    for (definition, column) in definitions.iter().zip(&columns[there..]) {
        if let Some(default) = &definition.default {
            refuse_calls(default, "a DEFAULT expression", ctx)?;
            let empty = DFSchema::empty();
            let expr = plan_exprs(vec![default.clone()], &empty, ctx).map_err(|e| match e.sqlstate {
                "42703" => SqlError::unsupported("cannot use a column reference in a DEFAULT expression"),
                _ => e,
            })?;
            check_assignable(&expr[0], &empty, column, "default expression")?;
        }
        if let Some(generated) = &definition.generated {
            refuse_calls(generated, "a generation expression", ctx)?;
            let plain: Vec<Column> = columns.iter().filter(|c| !c.is_computed()).cloned().collect();
            let schema = schema(&plain)?;
            let expr = plan_exprs(vec![generated.clone()], &schema, ctx)?;
            check_assignable(&expr[0], &schema, column, "generation expression")?;
        }
    }
    Ok(columns)
}

/// Refuses columns of processing time, which only what is read as a stream has.
///
/// # Errors
/// 0A000 naming the column.
pub(crate) fn no_processing_time(definitions: &[ColumnDefinition]) -> Result<()> {
    match definitions.iter().find(|d| d.processing_time) {
        None => Ok(()),
        Some(d) => {
            let message = format!("AS PROCTIME() is for columns of sources (column \"{}\")", d.name.value);
            Err(SqlError::unsupported(message)
                .with_hint("now() gives the time of a statement: DEFAULT now()")
                .with_span(d.name.span))
        }
    }
}

/// No name twice, none of ours.
pub(crate) fn check_names(columns: &[Column]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for column in columns {
        if !seen.insert(column.name.as_str()) {
            return Err(SqlError::new("42701", format!("column \"{}\" specified more than once", column.name)));
        }
        if column.name == ROW_ID {
            return Err(SqlError::new(
                "42701",
                format!("column name \"{ROW_ID}\" conflicts with a system column name"),
            ));
        }
    }
    Ok(())
}

fn check_assignable(expr: &datafusion_expr::Expr, schema: &DFSchema, column: &Column, what: &str) -> Result<()> {
    if let Some(from) = super::operators::type_of(expr, schema)
        && !super::operators::is_untyped(expr)
        && !can_cast(&from, &column.sql_type, true)
    {
        return Err(SqlError::new(
            "42804",
            format!("column \"{}\" is of type {} but {what} is of type {from}", column.name, column.sql_type),
        ));
    }
    if let datafusion_expr::Expr::Literal(datafusion_common::ScalarValue::Utf8(Some(text)), None) = expr {
        crate::types::parse_value(text, &column.sql_type, "UTC")?;
    }
    Ok(())
}

/// The columns as an unqualified schema for expressions.
pub(crate) fn schema(columns: &[Column]) -> Result<DFSchema> {
    Ok(DFSchema::try_from(columns_schema(columns).as_ref().clone())?)
}

/// Position of a column by its written name.
pub(crate) fn position(columns: &[Column], name: &Ident, relation: &str) -> Result<usize> {
    let normal = normalize(name);
    columns.iter().position(|c| c.name == normal).ok_or_else(|| {
        SqlError::new("42703", format!("column \"{normal}\" of relation \"{relation}\" does not exist"))
            .with_span(name.span)
    })
}

/// Positions of the primary key, from the columns' own clauses or the table's; its columns become NOT NULL. `there` columns
/// stand before those that are defined.
pub(crate) fn primary_key(
    there: usize,
    definitions: &[ColumnDefinition],
    clause: Option<&Vec<Ident>>,
    columns: &mut [Column],
) -> Result<Vec<usize>> {
    let of_column = definitions.iter().enumerate().filter(|(_, d)| d.primary_key);
    let mut key: Vec<usize> = of_column.map(|(i, _)| there + i).collect();
    if key.len() > 1 || (!key.is_empty() && clause.is_some()) {
        return Err(SqlError::new("42P16", "multiple primary keys are not allowed")
            .with_hint("write PRIMARY KEY (a, b) for a key of several columns"));
    }
    for name in clause.into_iter().flatten() {
        let normal = normalize(name);
        let at = columns.iter().position(|c| c.name == normal).ok_or_else(|| {
            SqlError::new("42703", format!("column \"{normal}\" named in key does not exist")).with_span(name.span)
        })?;
        if key.contains(&at) {
            return Err(SqlError::new("42701", format!("column \"{normal}\" appears twice in primary key constraint")));
        }
        key.push(at);
    }
    for at in &key {
        let column = &mut columns[*at];
        if matches!(column.sql_type, SqlType::Json | SqlType::Jsonb | SqlType::Array(_) | SqlType::Record(_)) {
            return Err(SqlError::unsupported(format!("a primary key of type {} is not supported", column.sql_type)));
        }
        column.nullable = false;
    }
    Ok(key)
}

/// CHECK constraints as (name, text), each checked to be boolean. Unnamed ones are named as PostgreSQL names them.
pub(crate) fn checks(
    table: &str,
    definitions: &[ColumnDefinition],
    table_checks: &[(Option<Ident>, Expr)],
    columns: &[Column],
    ctx: &PlanContext<'_>,
) -> Result<Vec<(String, String)>> {
    let schema = schema(columns)?;
    let on_columns = definitions.iter().flat_map(|d| {
        d.checks.iter().map(|(name, expr)| (name, expr, format!("{table}_{}_check", normalize(&d.name))))
    });
    let on_table = table_checks.iter().map(|(name, expr)| (name, expr, format!("{table}_check")));
    let mut checks: Vec<(String, String)> = Vec::new();
    for (name, expr, unnamed) in on_columns.chain(on_table) {
        refuse_calls(expr, "a CHECK constraint", ctx)?;
        let planned = plan_exprs(vec![expr.clone()], &schema, ctx)?;
        if planned[0].get_type(&schema)? != DataType::Boolean {
            return Err(SqlError::new("42804", "argument of CHECK must be type boolean"));
        }
        let taken = |n: &str| checks.iter().any(|(other, _)| other == n);
        let name = match name {
            Some(name) => {
                let name = normalize(name);
                if taken(&name) {
                    return Err(SqlError::new("42710", format!("constraint \"{name}\" already exists")));
                }
                name
            }
            None => {
                let numbered = (1..).map(|n| format!("{unnamed}{n}"));
                std::iter::once(unnamed.clone()).chain(numbered).find(|n| !taken(n)).unwrap_or(unnamed)
            }
        };
        checks.push((name, expr.to_string()));
    }
    Ok(checks)
}

/// WATERMARK FOR, checked: a column of timestamps, an expression of the same type.
pub(crate) fn watermark(
    definition: Option<&WatermarkDefinition>,
    columns: &[Column],
    relation: &str,
    ctx: &PlanContext<'_>,
) -> Result<Option<Watermark>> {
    let Some(WatermarkDefinition { column, expression }) = definition else { return Ok(None) };
    let at = position(columns, column, relation)?;
    let sql_type = &columns[at].sql_type;
    if columns[at].processing_time {
        let message = format!("WATERMARK FOR processing time (column \"{}\") is not supported", columns[at].name);
        return Err(SqlError::unsupported(message)
            .with_hint("leave it out: processing time is its own watermark")
            .with_span(column.span));
    }
    if !matches!(sql_type, SqlType::Timestamp | SqlType::Timestamptz) {
        return Err(SqlError::new(
            "42804",
            format!("watermark column \"{}\" must be a timestamp, not {sql_type}", columns[at].name),
        )
        .with_span(column.span));
    }
    refuse_calls(expression, "WATERMARK FOR", ctx)?;
    let schema = schema(columns)?;
    let planned = plan_exprs(vec![expression.clone()], &schema, ctx)?;
    let (_, field) = planned[0].to_field(&schema)?;
    if SqlType::of(&field).as_ref() != Some(sql_type) {
        return Err(SqlError::new(
            "42804",
            format!("watermark of column \"{}\" must be of type {sql_type}", columns[at].name),
        )
        .with_hint("for example WATERMARK FOR ts AS ts - INTERVAL '5 seconds'"));
    }
    Ok(Some(Watermark { column: at, expression: expression.to_string() }))
}

/// Refuses columns that a source cannot have: a record that is read has all its values, so there is no default, and what is
/// computed of it must not fail, for a source has no place for rows that do.
///
/// # Errors
/// 0A000 naming the column.
pub(crate) fn of_source(columns: &[Column], source: &str) -> Result<()> {
    let refuse = |what: &str, column: &Column| {
        Err(SqlError::unsupported(format!("{what} is not supported on a source (column \"{}\")", column.name))
            .with_hint("compute it in a view"))
    };
    let schema = schema(columns)?;
    for (at, column) in columns.iter().enumerate() {
        if column.default.is_some() {
            return refuse("DEFAULT", column);
        }
        if column.generated.is_none() {
            continue;
        }
        if !column.nullable {
            return refuse("NOT NULL of a generated column", column);
        }
        let expr = generation_expression(columns, at, source)?;
        let failing = expr.exists(|e| Ok(!cannot_fail(e, &schema)))?;
        if failing {
            return refuse("a generation expression that may fail", column);
        }
    }
    Ok(())
}

/// Whether an expression, apart from those in it, has a value for every row.
fn cannot_fail(expr: &datafusion_expr::Expr, schema: &DFSchema) -> bool {
    use datafusion_expr::{Expr, Operator as Op};
    match expr {
        Expr::Column(_) | Expr::Literal(..) | Expr::Alias(_) | Expr::Case(_) | Expr::Not(_) | Expr::InList(_) => true,
        Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) | Expr::IsUnknown(_) => true,
        Expr::IsNotTrue(_) | Expr::IsNotFalse(_) | Expr::IsNotUnknown(_) | Expr::Between(_) => true,
        Expr::BinaryExpr(b) => matches!(
            b.op,
            Op::Eq
                | Op::NotEq
                | Op::Lt
                | Op::LtEq
                | Op::Gt
                | Op::GtEq
                | Op::IsDistinctFrom
                | Op::IsNotDistinctFrom
                | Op::And
                | Op::Or
        ),
        Expr::Cast(cast) => {
            let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            let widens = match (cast.expr.get_type(schema), cast.field.data_type()) {
                (Ok(DataType::Int16), to) => matches!(to, DataType::Int32 | DataType::Int64),
                (Ok(DataType::Int32), to) => matches!(to, DataType::Int64),
                (from, to) => from.is_ok_and(|from| from == *to),
            };
            is_text(cast.field.data_type()) || widens || matches!(*cast.expr, Expr::Literal(..))
        }
        // Everything has a text, but not everything is short enough.
        Expr::ScalarFunction(f) if f.func.name() == "cast" => {
            let field = expr.to_field(schema).ok().and_then(|(_, field)| SqlType::of(&field));
            matches!(field, Some(SqlType::Text | SqlType::Varchar(None)))
        }
        Expr::ScalarFunction(f) => {
            ["get_field", "coalesce", "nullif", "lower", "upper", "btrim", "length"].contains(&f.func.name())
        }
        _ => false,
    }
}

/// The expression of a generated column over the relation's columns, cast to the column's type.
///
/// # Errors
/// As [`column_expression`].
pub fn generation_expression(columns: &[Column], at: usize, relation: &str) -> Result<datafusion_expr::Expr> {
    let column = &columns[at];
    let text = column.generated.as_deref().ok_or_else(|| SqlError::internal("the column is not generated"))?;
    let expr = column_expression(text, columns, relation)?;
    super::dml::assign(expr, &schema(columns)?, column, "UTC")
}

/// Columns that INCLUDE adds, behind the declared ones.
pub(crate) fn include(clauses: &[IncludeClause], columns: &mut Vec<Column>) -> Result<()> {
    for IncludeClause { part, alias } in clauses {
        let word = part.value.to_lowercase();
        let (include, sql_type) = match word.as_str() {
            "key" => (Include::Key, SqlType::Bytea),
            "partition" => (Include::Partition, SqlType::Int4),
            "offset" => (Include::Offset, SqlType::Int8),
            "timestamp" => (Include::Timestamp, SqlType::Timestamptz),
            "headers" => (Include::Headers, SqlType::Jsonb),
            _ => {
                return Err(SqlError::syntax(format!("unknown INCLUDE \"{}\"", part.value))
                    .with_hint("the parts are key, partition, offset, timestamp, headers")
                    .with_span(part.span));
            }
        };
        let name = alias.as_ref().map_or_else(|| format!("_kafka_{word}"), normalize);
        let mut column = Column::new(name, sql_type, true);
        column.include = Some(include);
        columns.push(column);
    }
    check_names(columns)
}

/// A stored expression over a relation's columns (WATERMARK FOR, DEFAULT, CHECK), planned again.
///
/// # Errors
/// What is wrong with the text; none for one that CREATE accepted.
pub fn column_expression(text: &str, columns: &[Column], relation: &str) -> Result<datafusion_expr::Expr> {
    let catalog = millstream_catalog::Catalog::new();
    let external = std::collections::HashMap::new();
    let session = crate::context::SessionVars::default();
    let ctx = PlanContext {
        catalog: &catalog,
        search_path: &[],
        bindings: None,
        system: &crate::context::NoSystemTables,
        external: &external,
        session: &session,
        parameters: &[],
        rights: None,
    };
    let schema = DFSchema::try_from(millstream_catalog::object::columns_schema(columns).as_ref().clone())?;
    let planned = super::query::plan_exprs(vec![crate::parser::parse_expr(text)?], &schema, &ctx)?;
    planned
        .into_iter()
        .next()
        .ok_or_else(|| crate::error::SqlError::internal(format!("an expression of \"{relation}\" is empty")))
}
