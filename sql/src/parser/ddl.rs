//! DROP, COMMENT ON, TRUNCATE, and how they and ALTER name what is there.

use datafusion_sql::sqlparser::ast::{ObjectName, ObjectNamePart};
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::function;
use crate::error::Result;
use crate::statement::{Comment, CommentTarget, Drop, DropKind, Existing, Statement, Truncate};

/// Reads the words for a kind of object, if they come next.
pub(crate) fn kind(c: &mut Cursor<'_>) -> Option<DropKind> {
    const KINDS: [(&[&str], DropKind); 11] = [
        (&["MATERIALIZED", "VIEW"], DropKind::MaterializedView),
        (&["EXTERNAL", "TABLE"], DropKind::ExternalTable),
        (&["SCHEMA"], DropKind::Schema),
        (&["TABLE"], DropKind::Table),
        (&["SOURCE"], DropKind::Source),
        (&["VIEW"], DropKind::View),
        (&["SINK"], DropKind::Sink),
        (&["FUNCTION"], DropKind::Function),
        (&["TASK"], DropKind::Task),
        (&["SECRET"], DropKind::Secret),
        (&["INDEX"], DropKind::Index),
    ];
    KINDS.into_iter().find(|(words, _)| c.eat(words)).map(|(_, kind)| kind)
}

/// The words for a kind of object.
///
/// # Errors
/// 0A000 naming the kind if it is one of PostgreSQL's that there is not; 42601 for any other word.
pub(crate) fn known_kind(c: &mut Cursor<'_>, verb: &str) -> Result<DropKind> {
    if let Some(kind) = kind(c) {
        return Ok(kind);
    }
    match c.word(0).as_deref() {
        Some(
            word @ ("PROCEDURE" | "TRIGGER" | "TYPE" | "DOMAIN" | "SEQUENCE" | "ROLE" | "DATABASE" | "EXTENSION"
            | "CONNECTION" | "SYSTEM" | "POLICY" | "OWNED" | "DEFAULT" | "CONSTRAINT"),
        ) => Err(c.unsupported(format!("{verb} {word} is not supported"))),
        _ => Err(c.unexpected()),
    }
}

/// The name of an object of that kind, that of a function with its argument types or without.
pub(crate) fn existing(c: &mut Cursor<'_>, kind: DropKind) -> Result<Existing> {
    let name = c.object_name()?;
    let typed = kind == DropKind::Function && c.rest().first().is_some_and(|t| t.token == Token::LParen);
    let arguments = if typed { Some(function::arguments(c)?.into_iter().map(|a| a.data_type).collect()) } else { None };
    Ok(Existing { name, arguments })
}

/// `DROP kind [IF EXISTS] name, … [CASCADE | RESTRICT]`.
pub(crate) fn drop(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["DROP"])?;
    let kind = known_kind(c, "DROP")?;
    if kind == DropKind::Index {
        c.eat(&["CONCURRENTLY"]);
    }
    let if_exists = c.if_exists();
    let mut names = vec![existing(c, kind)?];
    while c.eat_token(&Token::Comma) {
        names.push(existing(c, kind)?);
    }
    let cascade = c.eat(&["CASCADE"]);
    if !cascade {
        c.eat(&["RESTRICT"]);
    }
    Ok(Statement::Drop(Drop { kind, names, if_exists, cascade }))
}

/// `COMMENT ON kind name IS 'text' | NULL`.
pub(crate) fn comment(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["COMMENT", "ON"])?;
    let target = if c.eat(&["COLUMN"]) {
        let at = c.unexpected();
        let ObjectName(mut parts) = c.object_name()?;
        match (parts.pop(), parts.is_empty()) {
            (Some(ObjectNamePart::Identifier(column)), false) => CommentTarget::Column(ObjectName(parts), column),
            _ => return Err(at.with_hint("a column is written table.column")),
        }
    } else {
        let kind = known_kind(c, "COMMENT ON")?;
        CommentTarget::Object(kind, existing(c, kind)?)
    };
    c.expect(&["IS"])?;
    let text = if c.eat(&["NULL"]) { None } else { Some(c.string()?) };
    Ok(Statement::Comment(Comment { target, text }))
}

/// `TRUNCATE [TABLE] name, … [CONTINUE IDENTITY] [CASCADE | RESTRICT]`.
pub(crate) fn truncate(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["TRUNCATE"])?;
    c.eat(&["TABLE"]);
    let mut tables = Vec::new();
    loop {
        if c.at(&["ONLY"]) {
            return Err(c.unsupported("ONLY is not supported, for there is no table inheritance"));
        }
        tables.push(c.object_name()?);
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    if c.at(&["RESTART", "IDENTITY"]) {
        return Err(c.unsupported("RESTART IDENTITY is not supported, for there are no sequences"));
    }
    c.eat(&["CONTINUE", "IDENTITY"]);
    let cascade = c.eat(&["CASCADE"]);
    if !cascade {
        c.eat(&["RESTRICT"]);
    }
    Ok(Statement::Truncate(Truncate { tables, cascade }))
}
