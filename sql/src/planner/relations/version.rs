//! `FOR SYSTEM_TIME AS OF`, `TIMESTAMP AS OF` and `VERSION AS OF`: tables as of another moment than now.

use std::sync::Arc;

use datafusion_common::{DFSchema, Result as DfResult, ScalarValue, TableReference};
use datafusion_expr::planner::{PlannedRelation, RelationPlannerContext, RelationPlanning};
use datafusion_expr::{LogicalPlan, LogicalPlanBuilder, TableScan};
use datafusion_sql::sqlparser::ast::{
    self, FunctionArguments, ObjectName, ObjectNamePart, TableAlias, TableVersion, Value,
};
use millstream_catalog::SqlType;

use super::plain_table;
use crate::context::{CatalogSource, Version};
use crate::error::{Result, SqlError};
use crate::functions::cast::cast;
use crate::planner::constants;
use crate::types::normalize;

/// A moment as it is written.
#[derive(Debug, Clone)]
pub(crate) enum Written {
    Known(Version),
    /// A constant that is yet to be computed.
    Moment(Box<ast::Expr>),
}

/// As of when a relation with a version is read.
///
/// # Errors
/// 0A000 for forms that are not known.
pub(crate) fn written(version: &TableVersion) -> Result<Written> {
    let moment = match version {
        TableVersion::ForSystemTimeAsOf(moment) => moment,
        TableVersion::TimestampAsOf(moment) => return Ok(Written::Moment(Box::new(moment.clone()))),
        TableVersion::VersionAsOf(ast::Expr::Value(number)) => {
            if let Value::Number(text, _) = &number.value
                && let Ok(number) = text.parse()
            {
                return Ok(Written::Known(Version::Number(number)));
            }
            return Err(SqlError::syntax(format!("\"{number}\" is no number of a version")));
        }
        other => {
            return Err(SqlError::unsupported(format!("the table version \"{other}\" is not supported")).with_hint(
                "the forms are FOR SYSTEM_TIME AS OF moment, TIMESTAMP AS OF moment and VERSION AS OF number",
            ));
        }
    };
    if let ast::Expr::Function(call) = moment
        && let [ObjectNamePart::Identifier(name)] = call.name.0.as_slice()
    {
        let is_bare = match &call.args {
            FunctionArguments::None => true,
            FunctionArguments::List(list) => list.args.is_empty(),
            FunctionArguments::Subquery(_) => false,
        };
        match normalize(name).as_str() {
            "proctime" => return Ok(Written::Known(Version::Arrival)),
            "now" | "current_timestamp" if is_bare => return Ok(Written::Known(Version::Creation)),
            _ => {}
        }
    }
    Ok(Written::Moment(Box::new(moment.clone())))
}

/// The moment, computed.
///
/// # Errors
/// 0A000 if it is no constant, 22007 and kin if it is no time.
pub(super) fn resolved(written: Written, zone: &str, context: &mut dyn RelationPlannerContext) -> DfResult<Version> {
    let moment = match written {
        Written::Known(version) => return Ok(version),
        Written::Moment(moment) => *moment,
    };
    let text = moment.to_string();
    let expr = context.sql_to_expr(moment, &DFSchema::empty())?;
    let value = constants::evaluate(&cast(expr, &SqlType::Timestamptz, false, zone));
    match value {
        Ok(ScalarValue::TimestampMicrosecond(Some(moment), _)) => Ok(Version::Moment(moment)),
        Err(e) if e.sqlstate.starts_with("22") => Err(e.into()),
        _ => Err(SqlError::unsupported(format!("the moment {text} is no constant time"))
            .with_hint(
                "the moments are constants, of Delta tables; now(), when the view is made, of external tables; and PROCTIME(), \
                 when rows of the other side of a join arrive, of tables and materialized views",
            )
            .into()),
    }
}

/// A relation whose scan is marked with the moment as of which it is read.
pub(super) fn as_of(
    name: ObjectName,
    alias: Option<TableAlias>,
    version: Version,
    context: &mut dyn RelationPlannerContext,
) -> DfResult<RelationPlanning> {
    let (what, hint) = match version {
        Version::Creation => (
            "FOR SYSTEM_TIME AS OF now()",
            "it is for external tables; others are read as they are without it, and are followed by continuous views when \
             they change",
        ),
        Version::Number(_) => ("VERSION AS OF", "it is for external tables that are STORED AS DELTA"),
        Version::Moment(_) => (
            "FOR SYSTEM_TIME AS OF a moment",
            "past moments are kept of external tables that are STORED AS DELTA; now() is for external tables and PROCTIME() for \
             tables and materialized views on the right side of a join",
        ),
        Version::Arrival | Version::Current => {
            ("FOR SYSTEM_TIME AS OF PROCTIME()", "it is for tables and materialized views on the right side of a join")
        }
    };
    let refused = || SqlError::unsupported(format!("{what} of \"{name}\" is not supported")).with_hint(hint);
    let LogicalPlan::TableScan(scan) = context.plan(plain_table(name.clone()))? else { return Err(refused().into()) };
    let source = CatalogSource::of(&scan.source).and_then(|s| s.as_of(version)).ok_or_else(refused)?;
    let plan = match version {
        // Scans of two versions must not be taken for one: equality of plans goes by the name.
        Version::Number(_) | Version::Moment(_) => {
            let name = scan.table_name.table();
            let versioned = TableReference::bare(match version {
                Version::Number(number) => format!("{name} VERSION AS OF {number}"),
                other => format!("{name} AS OF {other:?}"),
            });
            let read = LogicalPlanBuilder::scan(versioned, Arc::new(source), None)?;
            read.alias(TableReference::bare(name))?.build()?
        }
        _ => LogicalPlan::TableScan(TableScan { source: Arc::new(source), ..scan }),
    };
    Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
}
