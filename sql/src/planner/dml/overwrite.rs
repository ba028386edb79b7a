//! `INSERT OVERWRITE [PARTITION …]`.

use datafusion_common::DFSchema;
use datafusion_expr::logical_plan::builder::project;
use datafusion_expr::{Expr, LogicalPlanBuilder};
use millstream_catalog::{Object, ObjectKind};

use super::{assign, typed_for, without_parameters};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::Overwrite;
use crate::planner::columns;
use crate::planner::query::{analyze, plan_exprs};
use crate::statement::OverwriteClause;

/// What an INSERT replaces, and the values that all of its rows have in some columns.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    pub(super) overwrite: Option<Overwrite>,
    pub(super) fixed: Vec<(usize, Expr)>,
}

/// Plans the clause.
///
/// # Errors
/// 42809 for a table that has no partitions to replace, 42703 for what is no partition column, 0A000 if some have values and
/// some have not.
pub(super) fn planned(clause: Option<&OverwriteClause>, object: &Object, ctx: &PlanContext<'_>) -> Result<Replaced> {
    let Some(clause) = clause else { return Ok(Replaced::default()) };
    let ObjectKind::ExternalTable(table) = &object.kind else {
        return Err(SqlError::new("42809", format!("INSERT OVERWRITE is not for {}", object.describe())).with_hint(
            "it is for external tables STORED AS DELTA; TRUNCATE and INSERT in one transaction do the same here",
        ));
    };
    let OverwriteClause::Partition(named) = clause else {
        return Ok(Replaced { overwrite: Some(Overwrite::Table), fixed: Vec::new() });
    };
    let (mut fixed, mut values, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for (ident, value) in named {
        let at = columns::position(&table.columns, ident, &object.name)?;
        let column = &table.columns[at];
        if !table.partition_columns.contains(&column.name) {
            let message = format!("column \"{}\" is no partition column of {}", column.name, object.describe());
            let hint = match table.partition_columns.as_slice() {
                [] => "it has none".to_string(),
                names => format!("it is partitioned by {}", names.join(", ")),
            };
            return Err(SqlError::new("42703", message).with_hint(hint).with_span(ident.span));
        }
        if names.contains(&column.name) {
            return Err(SqlError::new("42701", format!("column \"{}\" specified more than once", column.name))
                .with_span(ident.span));
        }
        names.push(column.name.clone());
        let Some(value) = value else { continue };
        let empty = DFSchema::empty();
        let planned = plan_exprs(vec![typed_for(value.clone(), column)?], &empty, &without_parameters(ctx))?;
        let value = planned.into_iter().next().unwrap_or_default();
        let value = assign(value, &empty, column, &ctx.session.time_zone)?;
        values.push(value.clone().alias(&column.name));
        fixed.push((at, value));
    }
    let overwrite = if fixed.is_empty() {
        Overwrite::Found
    } else if fixed.len() == named.len() {
        Overwrite::Partition(names, analyze(project(LogicalPlanBuilder::empty(true).build()?, values)?, ctx)?)
    } else {
        return Err(SqlError::unsupported("PARTITION with values for some of its columns is not supported")
            .with_hint("give a value to each of them, or to none"));
    };
    Ok(Replaced { overwrite: Some(overwrite), fixed })
}
