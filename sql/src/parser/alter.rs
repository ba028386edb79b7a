//! ALTER: names, the options of sources and tasks, SUSPEND and RESUME.

use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::ddl::{existing, known_kind};
use crate::error::{Result, SqlError};
use crate::statement::role::AlterOwner;
use crate::statement::{DropKind, Rename, Resume, ResumeAt, SetOptions, SetSchema, Statement, Suspend};

/// What can be suspended.
const SUSPENDED: [DropKind; 4] = [DropKind::Source, DropKind::MaterializedView, DropKind::Sink, DropKind::Task];

/// `ALTER kind [IF EXISTS] name` and then `RENAME TO name`, `SET SCHEMA name`, `SET (option = value, …)`, `SUSPEND` or
/// `RESUME [AT position]`.
pub(crate) fn alter(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["ALTER"])?;
    let kind = known_kind(c, "ALTER")?;
    let if_exists = c.if_exists();
    let name = existing(c, kind)?;
    if c.eat(&["RENAME", "TO"]) {
        let to = c.ident()?;
        return Ok(Statement::Rename(Rename { kind, name, if_exists, to }));
    }
    if kind != DropKind::Index && c.eat(&["OWNER", "TO"]) {
        let to = super::role::name(c)?;
        return Ok(Statement::AlterOwner(AlterOwner { kind, name, if_exists, to }));
    }
    if !matches!(kind, DropKind::Schema | DropKind::Index) && c.eat(&["SET", "SCHEMA"]) {
        let to = c.ident()?;
        return Ok(Statement::SetSchema(SetSchema { kind, name, if_exists, to }));
    }
    if SUSPENDED.contains(&kind) && c.eat(&["SUSPEND"]) {
        return Ok(Statement::Suspend(Suspend { kind, name, if_exists }));
    }
    if SUSPENDED.contains(&kind) && c.eat(&["RESUME"]) {
        let at = if c.eat(&["AT"]) { Some(position(c)?) } else { None };
        return Ok(Statement::Resume(Resume { kind, name, if_exists, at }));
    }
    let has_options = c.at(&["SET"]) && c.rest().get(1).is_some_and(|t| t.token == Token::LParen);
    if matches!(kind, DropKind::Source | DropKind::Task) && has_options {
        c.expect(&["SET"])?;
        let options = c.options()?;
        return Ok(Statement::SetOptions(SetOptions { kind, name, if_exists, options }));
    }
    Err(match c.word(0) {
        Some(word) => c
            .unsupported(format!("ALTER {} ... {word} is not supported", kind.name().to_uppercase()))
            .with_hint(known_forms(kind)),
        None => c.unexpected(),
    })
}

/// What there is to alter, for hints.
fn known_forms(kind: DropKind) -> &'static str {
    match kind {
        DropKind::Index => "ALTER INDEX ... RENAME TO is what there is; it belongs to whoever its table belongs to",
        DropKind::Schema => "ALTER ... RENAME TO and OWNER TO are what there is",
        DropKind::Source => {
            "ALTER SOURCE ... RENAME TO, OWNER TO, SET SCHEMA, SET (...), SUSPEND and RESUME are what there is"
        }
        DropKind::Task => {
            "ALTER TASK ... RENAME TO, OWNER TO, SET SCHEMA, SET (...), SUSPEND and RESUME are what there is"
        }
        DropKind::MaterializedView | DropKind::Sink => {
            "ALTER ... RENAME TO, OWNER TO, SET SCHEMA, SUSPEND and RESUME are what there is"
        }
        _ => "ALTER ... RENAME TO, OWNER TO and SET SCHEMA are what there is",
    }
}

/// `n` or `'text'`.
fn position(c: &mut Cursor<'_>) -> Result<ResumeAt> {
    if let Token::Number(digits, _) = c.parser.peek_token().token {
        let at = c.text.position(c.parser.peek_token_ref().span.start);
        c.parser.next_token();
        let wrong = || SqlError::new("22003", format!("\"{digits}\" is no position")).with_position(at);
        return Ok(ResumeAt::Number(digits.parse().map_err(|_| wrong())?));
    }
    Ok(ResumeAt::Word(c.string()?.to_lowercase()))
}
