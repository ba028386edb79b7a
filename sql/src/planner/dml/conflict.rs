//! `ON CONFLICT`.

use std::sync::Arc;

use datafusion_common::DFSchema;
use datafusion_sql::sqlparser::ast;
use millstream_catalog::object::{Table, columns_schema};
use millstream_catalog::{Object, Privilege};

use super::{assign, assigned_columns, quoted, typed_for};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{ConflictTarget, OnConflictPlan};
use crate::planner::columns;
use crate::planner::provider::table_reference;
use crate::planner::query::plan_exprs;
use crate::types::normalize;

/// What the clause says of a table's rows.
///
/// # Errors
/// 42P10 or 42704 where it names no key, 42601 for DO UPDATE without one; those of its expressions.
pub(super) fn on_conflict(
    clause: Option<&ast::OnConflict>,
    object: &Object,
    table: &Table,
    alias: &str,
    ctx: &PlanContext<'_>,
) -> Result<Option<OnConflictPlan>> {
    let Some(ast::OnConflict { conflict_target, action }) = clause else { return Ok(None) };
    if conflict_target.is_some() {
        ctx.require(object, Privilege::Select)?;
    }
    if matches!(action, ast::OnConflictAction::DoUpdate(_)) {
        ctx.require(object, Privilege::Update)?;
    }
    let target = match conflict_target {
        None => None,
        Some(ast::ConflictTarget::Columns(names)) => {
            let mut named =
                names.iter().map(|n| columns::position(&table.columns, n, &object.name)).collect::<Result<Vec<_>>>()?;
            let mut key = table.primary_key.clone();
            named.sort_unstable();
            key.sort_unstable();
            let is_named = |positions: &mut Vec<usize>| {
                positions.sort_unstable();
                *positions == named
            };
            let mut unique = ctx.catalog.indexes(object.id).filter(|(_, index)| index.unique);
            if !key.is_empty() && named == key {
                Some(ConflictTarget::Key)
            } else if let Some((index, _)) = unique.find(|(_, index)| is_named(&mut index.positions())) {
                Some(ConflictTarget::Index(index.id))
            } else {
                return Err(SqlError::new(
                    "42P10",
                    "there is no unique or exclusion constraint matching the ON CONFLICT specification",
                )
                .with_hint("name the columns of the primary key or of a unique index"));
            }
        }
        Some(ast::ConflictTarget::OnConstraint(name)) => {
            let expected = format!("{}_pkey", object.name);
            if table.primary_key.is_empty() || table_reference(name)?.table() != expected {
                return Err(SqlError::new(
                    "42704",
                    format!("constraint \"{name}\" for table \"{}\" does not exist", object.name),
                ));
            }
            Some(ConflictTarget::Key)
        }
    };
    let ast::OnConflictAction::DoUpdate(ast::DoUpdate { assignments, selection }) = action else {
        return Ok(Some(OnConflictPlan::Nothing(target)));
    };
    let Some(target) = target else {
        return Err(SqlError::syntax("ON CONFLICT DO UPDATE requires inference specification or constraint name")
            .with_hint("for example ON CONFLICT (id) DO UPDATE"));
    };
    let schema = columns_schema(&table.columns);
    let old = DFSchema::try_from_qualified_schema(alias, schema.as_ref())?;
    let excluded = DFSchema::try_from_qualified_schema("excluded", schema.as_ref())?;
    let both = old.join(&excluded)?;
    let assigned = assigned_columns(assignments, object)?;
    let mut texts = Vec::with_capacity(table.columns.len() + 1);
    for (i, column) in table.columns.iter().enumerate() {
        let expr = match assigned.iter().find(|(at, _)| *at == i) {
            Some((_, expr)) => typed_for(prefer_old(expr.clone(), alias, table)?, column)?,
            None => ast::Expr::CompoundIdentifier(vec![quoted(alias), quoted(&column.name)]),
        };
        texts.push(expr);
    }
    let condition_at = selection.as_ref().map(|_| texts.len());
    if let Some(condition) = selection {
        texts.push(prefer_old(condition.clone(), alias, table)?);
    }
    let mut planned = plan_exprs(texts, &both, ctx)?;
    let condition = condition_at.and_then(|_| planned.pop());
    let mut values = Vec::with_capacity(planned.len());
    for (i, (expr, column)) in planned.into_iter().zip(&table.columns).enumerate() {
        values.push(if assigned.iter().any(|(at, _)| *at == i) {
            assign(expr, &both, column, &ctx.session.time_zone)?
        } else {
            expr
        });
    }
    if table.columns.iter().any(|c| c.generated.is_some()) {
        return Err(SqlError::unsupported("ON CONFLICT DO UPDATE on a table with generated columns is not supported"));
    }
    Ok(Some(OnConflictPlan::Update { values, condition, schema: Arc::new(both), target }))
}

/// In ON CONFLICT a bare column is the old row's, not `excluded`'s.
fn prefer_old(mut expr: ast::Expr, alias: &str, table: &Table) -> Result<ast::Expr> {
    let _ = ast::visit_expressions_mut(&mut expr, |e| {
        if let ast::Expr::Identifier(ident) = e
            && table.columns.iter().any(|c| c.name == normalize(ident))
        {
            *e = ast::Expr::CompoundIdentifier(vec![quoted(alias), ident.clone()]);
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    Ok(expr)
}
