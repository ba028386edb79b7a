//! `RETURNING`.

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column as DfColumn, DFSchema};
use datafusion_expr::{Expr, ExprSchemable};
use datafusion_sql::sqlparser::ast::{self, SelectItem};
use millstream_catalog::types::field_ref;
use millstream_catalog::{Column, Object, SqlType};

use super::{quoted, without_parameters};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::Returning;
use crate::planner::naming::expr_name;
use crate::planner::query::plan_exprs;
use crate::types::normalize;

/// RETURNING over the table's columns.
pub(super) fn returning(
    items: Option<&Vec<SelectItem>>,
    object: &Object,
    alias: &str,
    ctx: &PlanContext<'_>,
) -> Result<Option<Returning>> {
    let Some(items) = items else { return Ok(None) };
    let schema = DFSchema::try_from_qualified_schema(alias, object.arrow_schema().as_ref())?;
    let mut exprs = Vec::new();
    let mut names = Vec::new();
    for item in items {
        match item {
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                for column in object.columns() {
                    exprs.push(ast::Expr::CompoundIdentifier(vec![quoted(alias), quoted(&column.name)]));
                    names.push(column.name.clone());
                }
            }
            SelectItem::UnnamedExpr(expr) => {
                names.push(expr_name(expr));
                exprs.push(expr.clone());
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                names.push(normalize(alias));
                exprs.push(expr.clone());
            }
            SelectItem::ExprWithAliases { .. } => {
                return Err(SqlError::unsupported("several aliases of one expression are not supported"));
            }
        }
    }
    let planned = plan_exprs(exprs, &schema, &without_parameters(ctx))?;
    let mut exprs = Vec::with_capacity(planned.len());
    let mut columns = Vec::with_capacity(planned.len());
    for (expr, name) in planned.into_iter().zip(names) {
        let (_, field) = expr.to_field(&schema)?;
        let sql_type = SqlType::of(&field)
            .ok_or_else(|| SqlError::unsupported(format!("type {} in RETURNING", field.data_type())))?;
        let expr = unqualified(expr)?;
        exprs.push(if *field.data_type() == sql_type.arrow_type() {
            expr
        } else {
            Expr::Cast(datafusion_expr::Cast::new_from_field(Box::new(expr), field_ref(&sql_type, "", true)))
        });
        columns.push(Column::new(name, sql_type, field.is_nullable()));
    }
    Ok(Some(Returning { exprs, columns }))
}

fn unqualified(expr: Expr) -> Result<Expr> {
    let done = expr.transform_up(|e| {
        Ok(match e {
            Expr::Column(c) if c.relation.is_some() => {
                Transformed::yes(Expr::Column(DfColumn::new_unqualified(c.name)))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(done.data)
}
