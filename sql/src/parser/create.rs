//! CREATE of every kind of object.

use std::collections::BTreeMap;

use datafusion_sql::sqlparser::ast::{Ident, ObjectNamePart};
use datafusion_sql::sqlparser::tokenizer::Token;

use super::clauses::{Trailer, query_and_trailer, trailer};
use super::columns::{Elements, elements};
use super::cursor::Cursor;
use crate::context::TEMPORARY_SCHEMA;
use crate::error::{Result, SqlError};
use crate::statement::{
    CreateExternalTable, CreateMaterializedView, CreateSchema, CreateSecret, CreateSink, CreateSource, CreateTable,
    CreateTableAs, CreateView, IncludeClause, SinkInput, Statement,
};

/// `CREATE …`.
pub(crate) fn create(c: &mut Cursor<'_>) -> Result<Statement> {
    let at = c.unexpected().position;
    c.expect(&["CREATE"])?;
    let or_replace = c.eat(&["OR", "REPLACE"]);
    if c.eat(&["FUNCTION"]) {
        return super::function::function(c, or_replace);
    }
    if c.eat(&["TASK"]) {
        return super::task::create(c, or_replace);
    }
    if c.eat(&["SECRET"]) {
        return secret(c, or_replace);
    }
    if !or_replace && (c.at(&["INDEX"]) || c.at(&["UNIQUE", "INDEX"])) {
        return super::index::create(c);
    }
    let statement = if c.eat(&["MATERIALIZED", "VIEW"]) {
        materialized_view(c)
    } else if c.eat(&["VIEW"]) {
        return view(c, or_replace);
    } else if c.eat(&["TABLE"]) {
        table(c, false)
    } else if c.eat(&["TEMPORARY", "TABLE"]) || c.eat(&["TEMP", "TABLE"]) {
        table(c, true)
    } else if c.eat(&["SOURCE"]) {
        source(c)
    } else if c.eat(&["SINK"]) {
        sink(c)
    } else if c.eat(&["EXTERNAL", "TABLE"]) {
        external_table(c)
    } else if c.eat(&["SCHEMA"]) {
        schema(c)
    } else {
        const KNOWN: [&str; 16] = [
            "TEMP",
            "TEMPORARY",
            "UNLOGGED",
            "INDEX",
            "PROCEDURE",
            "TRIGGER",
            "TYPE",
            "DOMAIN",
            "SEQUENCE",
            "DATABASE",
            "EXTENSION",
            "CONNECTION",
            "AGGREGATE",
            "RECURSIVE",
            "POLICY",
            "GLOBAL",
        ];
        return match c.word(0) {
            Some(word) if KNOWN.contains(&word.as_str()) => {
                Err(c.unsupported(format!("CREATE {word} is not supported")))
            }
            _ => Err(c.unexpected()),
        };
    }?;
    if or_replace {
        return Err(SqlError::unsupported("CREATE OR REPLACE is not supported")
            .with_hint("drop the object first, or create it under another name")
            .with_position(at));
    }
    Ok(statement)
}

fn table(c: &mut Cursor<'_>, temporary: bool) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let at = c.unexpected().position;
    let mut name = c.object_name()?;
    if temporary && name.0.len() == 1 {
        name.0.insert(0, ObjectNamePart::Identifier(Ident::new(TEMPORARY_SCHEMA)));
    } else if temporary && !name.to_string().starts_with(&format!("{TEMPORARY_SCHEMA}.")) {
        let error = SqlError::new("42P16", "cannot create temporary relation in non-temporary schema");
        return Err(SqlError { position: at, ..error });
    }
    if !starts_with_paren(c) || is_plain_list(c) {
        return table_as(c, name, if_not_exists);
    }
    let Elements { columns, primary_key, checks, watermark, star } = elements(c)?;
    if star {
        return Err(SqlError::unsupported("columns of a schema (\"*\") are not supported in CREATE TABLE")
            .with_hint("CREATE SOURCE takes them from the schema of its records"));
    }
    let mut append_only = c.eat(&["APPEND", "ONLY"]);
    let include = includes(c)?;
    append_only |= c.eat(&["APPEND", "ONLY"]);
    let t = trailer(c)?;
    if t.emit_on_window_close {
        return Err(SqlError::syntax("EMIT ON WINDOW CLOSE belongs to a materialized view or sink"));
    }
    Ok(Statement::CreateTable(CreateTable {
        name,
        if_not_exists,
        columns,
        primary_key,
        checks,
        watermark,
        append_only,
        include,
        options: t.options.unwrap_or_default(),
        format: t.format,
    }))
}

fn table_as(
    c: &mut Cursor<'_>,
    name: datafusion_sql::sqlparser::ast::ObjectName,
    if_not_exists: bool,
) -> Result<Statement> {
    let columns = if starts_with_paren(c) { c.ident_list()? } else { Vec::new() };
    let append_only = c.eat(&["APPEND", "ONLY"]);
    if !c.eat(&["AS"]) {
        return Err(c.unexpected());
    }
    let mut with_data = true;
    // WITH [NO] DATA stands behind the query.
    let rest = c.rest().to_vec();
    let words: Vec<_> = rest.iter().rev().take(3).map(super::cursor::word_of).collect();
    let word = |i: usize| words.get(i).and_then(|w| w.as_deref());
    let tail = match (word(0), word(1), word(2)) {
        (Some("DATA"), Some("NO"), Some("WITH")) => {
            with_data = false;
            3
        }
        (Some("DATA"), Some("WITH"), _) => 2,
        _ => 0,
    };
    let (query, _) = Cursor::new(c.text, rest[..rest.len() - tail].to_vec()).query_to_end()?;
    for _ in 0..rest.len() {
        c.parser.next_token();
    }
    Ok(Statement::CreateTableAs(CreateTableAs { name, if_not_exists, columns, append_only, query, with_data }))
}

fn source(c: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let name = c.object_name()?;
    let e = if starts_with_paren(c) { elements(c)? } else { Elements::default() };
    if !e.checks.is_empty() || e.columns.iter().any(|col| !col.checks.is_empty()) {
        return Err(SqlError::unsupported("CHECK constraints are not supported on a source")
            .with_hint("filter with WHERE in a view"));
    }
    let include = includes(c)?;
    let t = trailer(c)?;
    if t.emit_on_window_close {
        return Err(SqlError::syntax("EMIT ON WINDOW CLOSE belongs to a materialized view or sink"));
    }
    let is_keyed = t.format.as_ref().is_some_and(|f| f.format != "plain");
    if !is_keyed && (e.primary_key.is_some() || e.columns.iter().any(|col| col.primary_key)) {
        return Err(SqlError::unsupported("a source of FORMAT PLAIN has no primary key: each record is a new row")
            .with_hint(
                "FORMAT UPSERT and FORMAT DEBEZIUM have one; a view with GROUP BY or DISTINCT ON finds rows by key",
            ));
    }
    Ok(Statement::CreateSource(CreateSource {
        name,
        if_not_exists,
        columns: e.columns,
        with_schema_columns: e.star,
        primary_key: e.primary_key,
        watermark: e.watermark,
        include,
        options: t.options.unwrap_or_default(),
        format: t.format,
    }))
}

fn includes(c: &mut Cursor<'_>) -> Result<Vec<IncludeClause>> {
    let mut includes = Vec::new();
    while c.eat(&["INCLUDE"]) {
        let part = c.ident()?;
        let alias = if c.eat(&["AS"]) { Some(c.ident()?) } else { None };
        includes.push(IncludeClause { part, alias });
    }
    Ok(includes)
}

fn view(c: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let name = c.object_name()?;
    let columns = if starts_with_paren(c) { c.ident_list()? } else { Vec::new() };
    if c.at(&["WITH"]) {
        return Err(c.unsupported("options of a view are not supported"));
    }
    c.expect(&["AS"])?;
    let (query, query_text) = c.query_to_end()?;
    Ok(Statement::CreateView(CreateView { name, if_not_exists, or_replace, columns, query, query_text }))
}

fn materialized_view(c: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let name = c.object_name()?;
    let columns = if starts_with_paren(c) { c.ident_list()? } else { Vec::new() };
    let mut options = if c.eat(&["WITH"]) { c.options()? } else { BTreeMap::new() };
    c.expect(&["AS"])?;
    let (query, query_text, t) = query_and_trailer(c)?;
    if t.format.is_some() {
        return Err(SqlError::syntax("FORMAT belongs to a source or sink"));
    }
    for (key, value) in t.options.unwrap_or_default() {
        if options.insert(key.clone(), value).is_some() {
            return Err(SqlError::syntax(format!("option \"{key}\" given more than once")));
        }
    }
    Ok(Statement::CreateMaterializedView(CreateMaterializedView {
        name,
        if_not_exists,
        columns,
        options,
        query,
        query_text,
        emit_on_window_close: t.emit_on_window_close,
    }))
}

fn sink(c: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let name = c.object_name()?;
    if c.at(&["INTO"]) {
        return Err(c.unsupported("CREATE SINK ... INTO a table is not supported"));
    }
    let (input, t): (_, Trailer) = if c.eat(&["FROM"]) {
        (SinkInput::Relation(c.object_name()?), trailer(c)?)
    } else {
        c.expect(&["AS"])?;
        let (query, text, t) = query_and_trailer(c)?;
        (SinkInput::Query(query, text), t)
    };
    Ok(Statement::CreateSink(CreateSink {
        name,
        if_not_exists,
        input,
        options: t.options.unwrap_or_default(),
        format: t.format,
        emit_on_window_close: t.emit_on_window_close,
    }))
}

fn external_table(c: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let name = c.object_name()?;
    let e = if starts_with_paren(c) { elements(c)? } else { Elements::default() };
    if e.watermark.is_some() || e.primary_key.is_some() || !e.checks.is_empty() {
        return Err(SqlError::unsupported("an external table has no constraints and no watermark"));
    }
    if e.star {
        return Err(SqlError::syntax("\"*\" is not a column of an external table")
            .with_hint("leave the list out to take the columns from the files"));
    }
    let (mut stored_as, mut location, mut partition_by, mut options) = (None, None, None, None);
    let mut query = None;
    while !c.rest().is_empty() {
        if stored_as.is_none() && c.eat(&["STORED", "AS"]) {
            stored_as = Some(c.ident()?.value.to_uppercase());
        } else if location.is_none() && c.eat(&["LOCATION"]) {
            location = Some(c.string()?);
        } else if partition_by.is_none() && c.eat(&["PARTITIONED", "BY"]) {
            partition_by = Some(c.ident_list()?);
        } else if options.is_none() && (c.eat(&["OPTIONS"]) || c.eat(&["WITH"])) {
            options = Some(c.options()?);
        } else if c.eat(&["AS"]) {
            query = Some(c.query_to_end()?.0);
        } else {
            return Err(c.unexpected());
        }
    }
    let missing = |what: &str| SqlError::syntax(format!("CREATE EXTERNAL TABLE needs {what}"));
    Ok(Statement::CreateExternalTable(CreateExternalTable {
        name,
        if_not_exists,
        columns: e.columns,
        stored_as: stored_as.ok_or_else(|| missing("STORED AS"))?,
        location: location.ok_or_else(|| missing("LOCATION"))?,
        partition_by: partition_by.unwrap_or_default(),
        options: options.unwrap_or_default(),
        query,
    }))
}

fn secret(c: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    if or_replace && if_not_exists {
        return Err(SqlError::syntax("OR REPLACE and IF NOT EXISTS exclude each other"));
    }
    let name = c.ident()?;
    if c.rest().first().is_some_and(|t| t.token == Token::Period) {
        return Err(c.unexpected().with_hint("a secret is in no schema: its name is one word"));
    }
    c.expect(&["WITH"])?;
    let options = c.options()?;
    Ok(Statement::CreateSecret(CreateSecret { name, or_replace, if_not_exists, options }))
}

fn schema(c: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let name = c.ident()?;
    if c.at(&["AUTHORIZATION"]) {
        return Err(c.unsupported("CREATE SCHEMA ... AUTHORIZATION is not supported"));
    }
    Ok(Statement::CreateSchema(CreateSchema { name, if_not_exists }))
}

fn starts_with_paren(c: &Cursor<'_>) -> bool {
    c.rest().first().is_some_and(|t| t.token == Token::LParen)
}

/// Whether the parentheses hold names alone, as in `CREATE TABLE t (a, b) AS SELECT …`.
fn is_plain_list(c: &Cursor<'_>) -> bool {
    let mut tokens = c.rest().iter().skip(1).map(|t| &t.token);
    loop {
        match (tokens.next(), tokens.next()) {
            (Some(Token::Word(_)), Some(Token::Comma)) => {}
            (Some(Token::Word(_)), Some(Token::RParen)) => return true,
            _ => return false,
        }
    }
}
