//! `MERGE`: PostgreSQL's form, with Delta's `UPDATE SET *` and `INSERT *`.

use datafusion_sql::sqlparser::ast::{self, TableFactor};
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::error::{Result, SqlError};
use crate::statement::{Merge, MergeAction, MergeClause, MergeMatch, Statement};

/// `MERGE INTO target [[AS] alias] USING source ON condition WHEN …`.
pub(crate) fn merge(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["MERGE"])?;
    c.expect(&["INTO"])?;
    if c.at(&["ONLY"]) {
        return Err(c.unsupported("MERGE INTO ONLY is not supported"));
    }
    let table = c.object_name()?;
    let alias = match c.at(&["USING"]) {
        true => None,
        false => {
            c.eat(&["AS"]);
            let name = c.ident()?;
            Some(ast::TableAlias { explicit: true, name, columns: Vec::new(), at: None })
        }
    };
    c.expect(&["USING"])?;
    let source: TableFactor = c.run(Parser::parse_table_factor)?;
    c.expect(&["ON"])?;
    let on = c.expr()?;
    let mut clauses = Vec::new();
    while c.eat(&["WHEN"]) {
        clauses.push(clause(c)?);
    }
    if clauses.is_empty() {
        return Err(c.unexpected().with_hint("MERGE needs a WHEN clause"));
    }
    if c.at(&["RETURNING"]) {
        return Err(c.unsupported("MERGE ... RETURNING is not supported"));
    }
    Ok(Statement::Merge(Box::new(Merge { table, alias, source, on, clauses })))
}

fn clause(c: &mut Cursor<'_>) -> Result<MergeClause> {
    let not = c.eat(&["NOT"]);
    c.expect(&["MATCHED"])?;
    let matched = match (not, c.eat(&["BY"])) {
        (false, false) => MergeMatch::Matched,
        (true, false) => MergeMatch::NotMatched,
        (true, true) if c.eat(&["SOURCE"]) => MergeMatch::NotMatchedBySource,
        (true, true) if c.eat(&["TARGET"]) => MergeMatch::NotMatched,
        _ => return Err(c.unexpected()),
    };
    let condition = if c.eat(&["AND"]) { Some(c.expr()?) } else { None };
    c.expect(&["THEN"])?;
    let action = if c.eat(&["DO", "NOTHING"]) {
        MergeAction::Nothing
    } else if c.eat(&["DELETE"]) {
        MergeAction::Delete
    } else if c.eat(&["UPDATE", "SET"]) {
        match c.eat_token(&Token::Mul) {
            true => MergeAction::UpdateAll,
            false => MergeAction::Update(c.run(|p| p.parse_comma_separated(Parser::parse_assignment))?),
        }
    } else if c.eat(&["INSERT"]) {
        insert(c)?
    } else {
        return Err(c.unexpected());
    };
    let inserts = matches!(action, MergeAction::Insert { .. } | MergeAction::InsertAll);
    let fits = inserts == (matched == MergeMatch::NotMatched) || action == MergeAction::Nothing;
    if !fits {
        let (verb, when) = match inserts {
            true => ("INSERT", "WHEN NOT MATCHED [BY TARGET]"),
            false => ("UPDATE and DELETE", "WHEN MATCHED and WHEN NOT MATCHED BY SOURCE"),
        };
        return Err(SqlError::syntax(format!("in MERGE {verb} stand behind {when}")));
    }
    Ok(MergeClause { matched, condition, action })
}

fn insert(c: &mut Cursor<'_>) -> Result<MergeAction> {
    if c.eat_token(&Token::Mul) {
        return Ok(MergeAction::InsertAll);
    }
    let is_list = c.rest().first().is_some_and(|t| t.token == Token::LParen);
    let columns = if is_list { c.ident_list()? } else { Vec::new() };
    if c.eat(&["DEFAULT", "VALUES"]) {
        return Ok(MergeAction::Insert { columns, values: None });
    }
    c.expect(&["VALUES"])?;
    c.expect_token(&Token::LParen)?;
    let mut values = vec![c.expr()?];
    while c.eat_token(&Token::Comma) {
        values.push(c.expr()?);
    }
    c.expect_token(&Token::RParen)?;
    Ok(MergeAction::Insert { columns, values: Some(values) })
}
