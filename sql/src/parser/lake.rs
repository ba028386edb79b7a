//! What Delta tables have beside PostgreSQL's statements, in the words of Spark SQL: INSERT OVERWRITE, OPTIMIZE, VACUUM and
//! DESCRIBE HISTORY.

use datafusion_sql::sqlparser::ast::Ident;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::error::Result;
use crate::statement::{Insert, Optimize, OverwriteClause, Statement, Vacuum};

/// `INSERT OVERWRITE [INTO] [TABLE] name [PARTITION (column [= value], …)] [(columns)] query`.
pub(crate) fn insert_overwrite(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["INSERT", "OVERWRITE"])?;
    c.eat(&["INTO"]);
    c.eat(&["TABLE"]);
    let table = c.object_name()?;
    let overwrite = match c.eat(&["PARTITION"]) {
        true => OverwriteClause::Partition(partition(c)?),
        false => OverwriteClause::Table,
    };
    let columns = if is_column_list(c) { c.ident_list()? } else { Vec::new() };
    let source = Some(c.query_to_end()?.0);
    Ok(Statement::Insert(Insert {
        table,
        alias: None,
        columns,
        source,
        overwrite: Some(overwrite),
        on_conflict: None,
        returning: None,
    }))
}

fn partition(c: &mut Cursor<'_>) -> Result<Vec<(Ident, Option<datafusion_sql::sqlparser::ast::Expr>)>> {
    c.expect_token(&Token::LParen)?;
    let mut columns = Vec::new();
    loop {
        let column = c.ident()?;
        let value = if c.eat_token(&Token::Eq) { Some(c.expr()?) } else { None };
        columns.push((column, value));
        if !c.eat_token(&Token::Comma) {
            c.expect_token(&Token::RParen)?;
            return Ok(columns);
        }
    }
}

/// Whether a parenthesis begins a list of columns, not a query.
fn is_column_list(c: &Cursor<'_>) -> bool {
    let is_paren = c.rest().first().is_some_and(|t| t.token == Token::LParen);
    let query = ["SELECT", "VALUES", "WITH", "TABLE"];
    is_paren && c.word(1).is_some_and(|word| !query.contains(&word.as_str()))
}

/// `OPTIMIZE name [WHERE condition] [ZORDER BY (column, …)]`.
pub(crate) fn optimize(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["OPTIMIZE"])?;
    let name = c.object_name()?;
    let selection = if c.eat(&["WHERE"]) { Some(c.expr()?) } else { None };
    let z_order = if c.eat(&["ZORDER", "BY"]) { c.ident_list()? } else { Vec::new() };
    Ok(Statement::Optimize(Optimize { name, selection, z_order }))
}

/// `VACUUM name [RETAIN n HOURS] [DRY RUN]`.
pub(crate) fn vacuum(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["VACUUM"])?;
    if c.rest().first().is_none_or(|t| t.token == Token::LParen) || c.at(&["FULL"]) || c.at(&["ANALYZE"]) {
        let error = c.unsupported("VACUUM takes the name of a Delta table");
        return Err(error.with_hint("other tables need none: what is deleted in them is freed in the background"));
    }
    let name = c.object_name()?;
    let retain_hours = if c.eat(&["RETAIN"]) {
        let hours = c.run(Parser::parse_literal_uint)?;
        if !c.eat(&["HOURS"]) {
            c.expect(&["HOUR"])?;
        }
        Some(hours)
    } else {
        None
    };
    let dry_run = c.eat(&["DRY", "RUN"]);
    Ok(Statement::Vacuum(Vacuum { name, retain_hours, dry_run }))
}

/// `DESCRIBE HISTORY name [LIMIT n]`.
pub(crate) fn describe(c: &mut Cursor<'_>) -> Result<Statement> {
    if !c.eat(&["DESCRIBE"]) {
        c.expect(&["DESC"])?;
    }
    if !c.eat(&["HISTORY"]) {
        return Err(c
            .unsupported("DESCRIBE is not supported, except DESCRIBE HISTORY of a Delta table")
            .with_hint("\\d in psql and information_schema.columns describe relations"));
    }
    let name = c.object_name()?;
    let limit = if c.eat(&["LIMIT"]) { Some(c.run(Parser::parse_literal_uint)?) } else { None };
    Ok(Statement::DescribeHistory { name, limit })
}
