//! MERGE, and what is done with Delta tables alone.

use datafusion_expr::LogicalPlan;
use millstream_catalog::{ObjectId, SqlType};

use super::RowChecks;

/// What INSERT OVERWRITE replaces.
#[derive(Debug, Clone)]
pub enum Overwrite {
    Table,
    /// The rows with these values of partition columns: their names, and the plan of one row with the values.
    Partition(Vec<String>, LogicalPlan),
    /// The partitions that new rows are in.
    Found,
}

/// Rows that MERGE adds, changes or takes away, in the column `__action` of its plan; others are not in it.
pub const MERGE_INSERT: i32 = 1;
pub const MERGE_UPDATE: i32 = 2;
pub const MERGE_DELETE: i32 = 3;

/// `MERGE`.
#[derive(Debug, Clone)]
pub struct MergePlan {
    pub table: ObjectId,
    /// `__row_id` if the table has no primary key, then all old columns (NULL in rows that are added), then `__action`, then
    /// all new ones under names `__new_…`.
    pub plan: LogicalPlan,
    pub checks: RowChecks,
    pub parameters: Vec<SqlType>,
}

/// `OPTIMIZE`.
#[derive(Debug, Clone)]
pub struct OptimizePlan {
    pub table: ObjectId,
    /// Partition column and value, of the partitions that are meant.
    pub partitions: Vec<(String, String)>,
    pub z_order: Vec<String>,
}

/// `VACUUM`.
#[derive(Debug, Clone)]
pub struct VacuumPlan {
    pub table: ObjectId,
    pub retain_hours: Option<u64>,
    pub dry_run: bool,
}

/// `DESCRIBE HISTORY`.
#[derive(Debug, Clone)]
pub struct DescribeHistoryPlan {
    pub table: ObjectId,
    pub limit: Option<u64>,
}
