//! PREPARE, EXECUTE and DECLARE: what is inside of them is planned as by itself.

use datafusion_sql::sqlparser::ast::{self, CastKind, Expr, Ident, SelectItem, SetExpr};
use millstream_catalog::SqlType;

use super::query::plan_query;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::parser::{parse_query, parse_type};
use crate::plan::{DeclarePlan, Plan, PlannedQuery, PreparePlan};
use crate::statement::{Declare, Prepare};
use crate::types::sql_type;

/// `PREPARE`. The statement itself is planned when its types are asked for, and each time that it runs.
///
/// # Errors
/// 42704 for an unknown type.
pub(super) fn prepare(s: &Prepare) -> Result<Plan> {
    let of = |t: &Option<ast::DataType>| t.as_ref().map(sql_type).transpose();
    let parameters = s.types.iter().map(of).collect::<Result<_>>()?;
    Ok(Plan::Prepare(PreparePlan { name: s.name.clone(), parameters, statement: s.statement.as_ref().clone() }))
}

/// `DECLARE`.
///
/// # Errors
/// Those of the query.
pub(super) fn declare(s: &Declare, ctx: &PlanContext<'_>) -> Result<Plan> {
    let rows = Box::new(s.statement.plan(ctx)?);
    Ok(Plan::Declare(DeclarePlan { name: s.name.clone(), binary: s.binary, scroll: s.scroll, hold: s.hold, rows }))
}

/// The arguments of EXECUTE as a query of one row, with the types of the parameters that they are for.
///
/// # Errors
/// Those of the expressions; 42846 for one that cannot have the type.
pub fn plan_arguments(arguments: &[Expr], types: &[SqlType], ctx: &PlanContext<'_>) -> Result<PlannedQuery> {
    let mut query = parse_query("SELECT 1")?;
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(SqlError::internal("a SELECT was read as something else"));
    };
    let mut items = Vec::with_capacity(arguments.len());
    for (i, (argument, t)) in arguments.iter().zip(types).enumerate() {
        let expr = Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(argument.clone()),
            data_type: parse_type(&t.to_string())?,
            array: false,
            format: None,
        };
        items.push(SelectItem::ExprWithAlias { expr, alias: Ident::new(format!("argument{i}")) });
    }
    select.projection = items;
    plan_query(&query, ctx)
}
