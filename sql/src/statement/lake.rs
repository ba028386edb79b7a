//! The upkeep of Delta tables.

use datafusion_sql::sqlparser::ast;

/// `OPTIMIZE name [WHERE …] [ZORDER BY (…)]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimize {
    pub name: ast::ObjectName,
    /// Which partitions.
    pub selection: Option<ast::Expr>,
    /// Empty: files are put together, rows keep their order.
    pub z_order: Vec<ast::Ident>,
}

/// `VACUUM name [RETAIN n HOURS] [DRY RUN]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Vacuum {
    pub name: ast::ObjectName,
    pub retain_hours: Option<u64>,
    pub dry_run: bool,
}
