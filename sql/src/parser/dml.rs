//! INSERT, UPDATE, DELETE and COPY.
//!
//! sqlparser reads the first three; what it reads is taken apart field by field, so that nothing is dropped silently.

use std::collections::BTreeMap;

use datafusion_sql::sqlparser::ast::{self, TableFactor, TableObject, TableWithJoins, UpdateTableFromKind};
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::subscribe::subscribe;
use crate::error::{Result, SqlError};
use crate::statement::{Copy, CopyEnd, CopyRelation, Delete, Insert, Statement, Update};
use crate::types::normalize;

/// `INSERT INTO …`.
pub(crate) fn insert(c: &mut Cursor<'_>) -> Result<Statement> {
    let ast::Statement::Insert(insert) = c.run(Parser::parse_statement)? else { return Err(c.unexpected()) };
    let ast::Insert {
        insert_token: _,
        optimizer_hints: _,
        or,
        ignore,
        into: _,
        table,
        table_alias,
        columns,
        overwrite,
        source,
        assignments,
        partitioned,
        after_columns,
        has_table_keyword,
        on,
        returning,
        output,
        replace_into,
        priority,
        insert_alias,
        settings,
        format_clause,
        multi_table_insert_type,
        multi_table_into_clauses,
        multi_table_when_clauses,
        multi_table_else_clause,
    } = insert;
    refuse_if(
        overwrite
            || or.is_some()
            || ignore
            || !assignments.is_empty()
            || partitioned.is_some()
            || !after_columns.is_empty()
            || has_table_keyword
            || output.is_some()
            || replace_into
            || priority.is_some()
            || insert_alias.is_some()
            || settings.is_some()
            || format_clause.is_some()
            || multi_table_insert_type.is_some()
            || !multi_table_into_clauses.is_empty()
            || !multi_table_when_clauses.is_empty()
            || multi_table_else_clause.is_some(),
        "a clause of this INSERT that PostgreSQL does not have",
    )?;
    let TableObject::TableName(table) = table else {
        return Err(SqlError::unsupported("INSERT into something that is not a table is not supported"));
    };
    let on_conflict = match on {
        None => None,
        Some(ast::OnInsert::OnConflict(conflict)) => Some(conflict),
        Some(_) => {
            return Err(SqlError::syntax("ON DUPLICATE KEY UPDATE is not PostgreSQL's")
                .with_hint("use ON CONFLICT (...) DO UPDATE"));
        }
    };
    let columns = columns.into_iter().map(single_name).collect::<Result<_>>()?;
    Ok(Statement::Insert(Insert {
        table,
        alias: table_alias.map(|a| a.alias),
        columns,
        source,
        overwrite: None,
        on_conflict,
        returning,
    }))
}

/// `UPDATE …`.
pub(crate) fn update(c: &mut Cursor<'_>) -> Result<Statement> {
    let ast::Statement::Update(update) = c.run(Parser::parse_statement)? else { return Err(c.unexpected()) };
    let ast::Update {
        update_token: _,
        optimizer_hints: _,
        table,
        assignments,
        from,
        selection,
        returning,
        output,
        or,
        order_by,
        limit,
    } = update;
    refuse_if(!order_by.is_empty() || limit.is_some(), "ORDER BY and LIMIT in UPDATE")?;
    refuse_if(output.is_some() || or.is_some(), "a clause of this UPDATE that PostgreSQL does not have")?;
    let (table, alias) = target(table)?;
    let from = match from {
        None => Vec::new(),
        Some(UpdateTableFromKind::AfterSet(from)) => from,
        Some(UpdateTableFromKind::BeforeSet(_)) => return Err(SqlError::syntax("FROM stands behind SET in UPDATE")),
    };
    Ok(Statement::Update(Update { table, alias, assignments, from, selection, returning }))
}

/// `DELETE FROM …`.
pub(crate) fn delete(c: &mut Cursor<'_>) -> Result<Statement> {
    let ast::Statement::Delete(delete) = c.run(Parser::parse_statement)? else { return Err(c.unexpected()) };
    let ast::Delete {
        delete_token: _,
        optimizer_hints: _,
        tables,
        from,
        using,
        selection,
        returning,
        output,
        order_by,
        limit,
    } = delete;
    refuse_if(!order_by.is_empty() || limit.is_some(), "ORDER BY and LIMIT in DELETE")?;
    refuse_if(output.is_some() || !tables.is_empty(), "a clause of this DELETE that PostgreSQL does not have")?;
    let ast::FromTable::WithFromKeyword(mut from) = from else {
        return Err(SqlError::syntax("DELETE needs FROM"));
    };
    let (Some(table), true) = (from.pop(), from.is_empty()) else {
        return Err(SqlError::syntax("DELETE takes one table").with_hint("name the others in USING"));
    };
    let (table, alias) = target(table)?;
    Ok(Statement::Delete(Delete { table, alias, using: using.unwrap_or_default(), selection, returning }))
}

/// The one table that a statement changes.
fn target(table: TableWithJoins) -> Result<(ast::ObjectName, Option<ast::TableAlias>)> {
    let TableWithJoins { relation, joins } = table;
    if !joins.is_empty() {
        return Err(SqlError::syntax("a join cannot be changed").with_hint("name the other tables in FROM or USING"));
    }
    match relation {
        TableFactor::Table {
            name,
            alias,
            args: None,
            with_hints,
            version: None,
            with_ordinality: false,
            partitions,
            json_path: None,
            sample: None,
            index_hints,
        } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => Ok((name, alias)),
        other => Err(SqlError::syntax(format!("\"{other}\" is not a table that can be changed"))),
    }
}

fn single_name(name: ast::ObjectName) -> Result<ast::Ident> {
    let text = name.to_string();
    match <[ast::ObjectNamePart; 1]>::try_from(name.0) {
        Ok([ast::ObjectNamePart::Identifier(ident)]) => Ok(ident),
        _ => Err(SqlError::unsupported(format!("\"{text}\" as a target column is not supported"))),
    }
}

fn refuse_if(present: bool, what: &str) -> Result<()> {
    if present { Err(SqlError::unsupported(format!("{what} is not supported"))) } else { Ok(()) }
}

/// `COPY { (query) | table [(columns)] } { TO | FROM } { 'file' | STDIN | STDOUT } [[WITH] (options)]`.
pub(crate) fn copy(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["COPY"])?;
    let source = if c.eat_token(&Token::LParen) {
        let rows = match c.at(&["SUBSCRIBE"]) {
            true => CopyRelation::Subscribe(Box::new(subscribe(c)?)),
            false => CopyRelation::Query(c.run(Parser::parse_query)?),
        };
        c.expect_token(&Token::RParen)?;
        rows
    } else {
        let name = c.object_name()?;
        let columns =
            if c.rest().first().is_some_and(|t| t.token == Token::LParen) { c.ident_list()? } else { Vec::new() };
        CopyRelation::Table { name, columns }
    };
    let to = c.eat(&["TO"]);
    if !to {
        c.expect(&["FROM"])?;
    }
    if c.at(&["PROGRAM"]) {
        return Err(c.unsupported("COPY with PROGRAM is not supported"));
    }
    let target = match (to, c.word(0).as_deref()) {
        (true, Some("STDOUT")) => CopyEnd::ToStdout,
        (false, Some("STDIN")) => CopyEnd::FromStdin,
        (true, None) => CopyEnd::ToFile(c.string()?),
        (false, None) => CopyEnd::FromFile(c.string()?),
        _ => return Err(c.unexpected()),
    };
    if matches!(target, CopyEnd::ToStdout | CopyEnd::FromStdin) {
        c.parser.next_token();
    }
    if let (CopyRelation::Query(_) | CopyRelation::Subscribe(_), CopyEnd::FromStdin | CopyEnd::FromFile(_)) =
        (&source, &target)
    {
        return Err(SqlError::syntax("COPY FROM fills a table, not a query"));
    }
    let options = copy_options(c)?;
    if !to && c.at(&["WHERE"]) {
        return Err(c.unsupported("COPY FROM ... WHERE is not supported"));
    }
    Ok(Statement::Copy(Copy { source, target, options }))
}

/// The parenthesised options, or PostgreSQL's old list of words (`WITH CSV HEADER DELIMITER ','`).
fn copy_options(c: &mut Cursor<'_>) -> Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    if c.eat(&["STORED", "AS"]) {
        options.insert("format".into(), c.ident()?.value.to_lowercase());
        c.eat(&["OPTIONS"]);
    }
    c.eat(&["WITH"]);
    if c.rest().first().is_some_and(|t| t.token == Token::LParen) {
        for (key, value) in copy_option_list(c)? {
            options.insert(key, value);
        }
        return Ok(options);
    }
    loop {
        if c.eat(&["BINARY"]) {
            options.insert("format".into(), "binary".into());
        } else if c.eat(&["CSV"]) {
            options.insert("format".into(), "csv".into());
        } else if c.eat(&["HEADER"]) {
            options.insert("header".into(), "true".into());
        } else if let Some(key) =
            c.word(0).filter(|w| ["DELIMITER", "NULL", "QUOTE", "ESCAPE", "ENCODING"].contains(&w.as_str()))
        {
            c.parser.next_token();
            c.eat(&["AS"]);
            options.insert(key.to_lowercase(), option_string(c)?);
        } else {
            return Ok(options);
        }
    }
}

/// `','` or `E'\t'`.
fn option_string(c: &mut Cursor<'_>) -> Result<String> {
    match c.parser.peek_token().token {
        Token::EscapedStringLiteral(text) => {
            c.parser.next_token();
            Ok(text)
        }
        _ => c.string(),
    }
}

/// `(FORMAT csv, HEADER, DELIMITER ',')`: a word without a value is on.
fn copy_option_list(c: &mut Cursor<'_>) -> Result<BTreeMap<String, String>> {
    c.expect_token(&Token::LParen)?;
    let mut options = BTreeMap::new();
    loop {
        let mut key = match c.parser.next_token().token {
            Token::Word(w) => w.value.to_lowercase(),
            Token::SingleQuotedString(s) => s.to_lowercase(),
            _ => {
                c.parser.prev_token();
                return Err(c.unexpected());
            }
        };
        while c.eat_token(&Token::Period) {
            key.push('.');
            key.push_str(&c.ident()?.value.to_lowercase());
        }
        c.eat_token(&Token::Eq);
        let value = match c.parser.peek_token().token {
            // PARTITION_BY (a, b)
            Token::LParen => {
                let names: Vec<String> = c.ident_list()?.iter().map(normalize).collect();
                names.join(",")
            }
            Token::Comma | Token::RParen => "true".to_string(),
            Token::Word(w) => {
                c.parser.next_token();
                w.value.to_lowercase()
            }
            Token::Number(n, _) => {
                c.parser.next_token();
                n
            }
            _ => option_string(c)?,
        };
        options.insert(key, value);
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    Ok(options)
}
