//! Statements on indexes.

use datafusion_sql::sqlparser::ast;

/// `CREATE [UNIQUE] INDEX`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateIndex {
    /// `None`: it gets a name from its relation and columns. Never with a schema: it is in that of its relation.
    pub name: Option<ast::Ident>,
    pub if_not_exists: bool,
    pub unique: bool,
    /// Other statements may write meanwhile, which they may in any case.
    pub concurrently: bool,
    pub of: ast::ObjectName,
    pub columns: Vec<IndexedColumn>,
}

/// A column of an index as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexedColumn {
    pub name: ast::Ident,
    pub descending: bool,
    pub nulls_first: bool,
}
