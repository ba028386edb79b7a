//! `MERGE`.

use datafusion_sql::sqlparser::ast;

/// `MERGE INTO target USING source ON condition WHEN …`.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    pub table: ast::ObjectName,
    pub alias: Option<ast::TableAlias>,
    pub source: ast::TableFactor,
    pub on: ast::Expr,
    pub clauses: Vec<MergeClause>,
}

/// `WHEN [NOT] MATCHED [BY SOURCE | BY TARGET] [AND condition] THEN action`. The first that fits a row counts.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeClause {
    pub matched: MergeMatch,
    pub condition: Option<ast::Expr>,
    pub action: MergeAction,
}

/// Which pairs of rows a clause is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeMatch {
    Matched,
    /// Rows of the source that no row of the target fits.
    NotMatched,
    /// Rows of the target that no row of the source fits.
    NotMatchedBySource,
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum MergeAction {
    Nothing,
    Delete,
    Update(Vec<ast::Assignment>),
    Insert {
        /// Empty: all columns in order.
        columns: Vec<ast::Ident>,
        /// `None` is DEFAULT VALUES.
        values: Option<Vec<ast::Expr>>,
    },
    /// `UPDATE SET *`, `INSERT *`: the columns of the source that have the names of the target's.
    UpdateAll,
    InsertAll,
}
