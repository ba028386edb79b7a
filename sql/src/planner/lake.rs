//! `OPTIMIZE`, `VACUUM` and `DESCRIBE HISTORY` of Delta tables.

use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr, ObjectName, Value};
use millstream_catalog::object::ExternalTable;
use millstream_catalog::{Object, ObjectKind, Privilege};

use super::columns;
use super::dml::target_table;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{DescribeHistoryPlan, OptimizePlan, Plan, VacuumPlan};
use crate::statement::{Optimize, Vacuum};

fn lake<'a>(object: &'a Object, statement: &str) -> Result<&'a ExternalTable> {
    match &object.kind {
        ObjectKind::ExternalTable(table) => Ok(table),
        _ => Err(SqlError::new("42809", format!("{statement} is not for {}", object.describe()))
            .with_hint("it is for external tables STORED AS DELTA")),
    }
}

/// `OPTIMIZE`.
pub(crate) fn optimize(s: &Optimize, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = target_table(&s.name, ctx)?;
    let table = lake(&object, "OPTIMIZE")?;
    ctx.require_owner(&object)?;
    let mut partitions = Vec::new();
    if let Some(selection) = &s.selection {
        partition_values(selection, table, &object, &mut partitions)?;
    }
    let z_order = s.z_order.iter().map(|name| {
        let at = columns::position(&table.columns, name, &object.name)?;
        let column = &table.columns[at];
        if table.partition_columns.contains(&column.name) {
            return Err(SqlError::new("42P16", format!("\"{}\" is a partition column", column.name))
                .with_hint("files have one value of it anyway")
                .with_span(name.span));
        }
        Ok(column.name.clone())
    });
    let z_order = z_order.collect::<Result<Vec<_>>>()?;
    Ok(Plan::Optimize(OptimizePlan { table: object.id, partitions, z_order }))
}

/// `d = '…' AND e = '…'` as columns and values.
fn partition_values(
    expr: &Expr,
    table: &ExternalTable,
    object: &Object,
    found: &mut Vec<(String, String)>,
) -> Result<()> {
    let refused = || {
        SqlError::unsupported("a condition of OPTIMIZE other than values of partition columns is not supported")
            .with_hint("for example WHERE d = '2026-01-31' AND country = 'GB'")
    };
    match expr {
        Expr::Nested(inner) => partition_values(inner, table, object, found),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            partition_values(left, table, object, found)?;
            partition_values(right, table, object, found)
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let (Expr::Identifier(name), Expr::Value(value)) = (left.as_ref(), right.as_ref()) else {
                return Err(refused());
            };
            let at = columns::position(&table.columns, name, &object.name)?;
            if !table.partition_columns.contains(&table.columns[at].name) {
                return Err(refused());
            }
            let value = match &value.value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text.clone(),
                Value::Boolean(value) => value.to_string(),
                _ => return Err(refused()),
            };
            found.push((table.columns[at].name.clone(), value));
            Ok(())
        }
        _ => Err(refused()),
    }
}

/// `VACUUM`.
pub(crate) fn vacuum(s: &Vacuum, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = target_table(&s.name, ctx)?;
    lake(&object, "VACUUM")?;
    ctx.require_owner(&object)?;
    Ok(Plan::Vacuum(VacuumPlan { table: object.id, retain_hours: s.retain_hours, dry_run: s.dry_run }))
}

/// `DESCRIBE HISTORY`.
pub(crate) fn describe_history(name: &ObjectName, limit: Option<u64>, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = target_table(name, ctx)?;
    lake(&object, "DESCRIBE HISTORY")?;
    ctx.require(&object, Privilege::Select)?;
    Ok(Plan::DescribeHistory(DescribeHistoryPlan { table: object.id, limit }))
}
