//! CREATE, ALTER and DROP ROLE, SET ROLE, and who is in which role.

use datafusion_sql::sqlparser::ast::Ident;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::utility;
use crate::error::{Result, SqlError};
use crate::statement::role::{RoleName, RoleOption, RoleStatement};
use crate::statement::{Set, Statement};
use crate::types::normalize;

/// The words for a role.
const WORDS: [&str; 3] = ["ROLE", "USER", "GROUP"];

/// Whether the statement, whose first word is the current one, is about a role.
pub(crate) fn is_about_role(c: &Cursor<'_>) -> bool {
    c.word(1).is_some_and(|word| WORDS.contains(&word.as_str()))
}

/// Takes a word for a role; whether it was USER.
fn word(c: &mut Cursor<'_>) -> Result<bool> {
    let is_user = c.at(&["USER"]);
    match WORDS.iter().any(|word| c.eat(&[word])) {
        true => Ok(is_user),
        false => Err(c.unexpected()),
    }
}

/// `CREATE { ROLE | USER | GROUP } name [WITH] option …`.
pub(crate) fn create(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["CREATE"])?;
    let is_user = word(c)?;
    let name = c.ident()?;
    c.eat(&["WITH"]);
    let mut options = options(c, true)?;
    if is_user && !options.iter().any(|o| matches!(o, RoleOption::Login(_))) {
        options.push(RoleOption::Login(true));
    }
    Ok(Statement::Role(RoleStatement::Create { name, options }))
}

/// `ALTER { ROLE | USER } name` and then options, `RENAME TO`, `SET` or `RESET`; `ALTER GROUP name ADD | DROP USER name, …`.
pub(crate) fn alter(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["ALTER"])?;
    word(c)?;
    if c.at(&["ALL"]) {
        return Err(c.unsupported("ALTER ROLE ALL is not supported").with_hint("name each role"));
    }
    let role = name(c)?;
    if c.at(&["IN", "DATABASE"]) {
        return Err(c.unsupported("ALTER ROLE ... IN DATABASE is not supported, for there is one database"));
    }
    if c.eat(&["RENAME", "TO"]) {
        let RoleName::Named(role) = role else { return Err(c.unexpected()) };
        return Ok(Statement::Role(RoleStatement::Rename { role, to: c.ident()? }));
    }
    if c.at(&["SET"]) {
        let at = c.unexpected();
        return match utility::set(c)? {
            Statement::Set(Set { local: false, name, value }) => {
                Ok(Statement::Role(RoleStatement::Setting { role, name: Some(name), value }))
            }
            _ => Err(at.with_hint("a role is given settings: ALTER ROLE name SET setting = value")),
        };
    }
    if c.at(&["RESET"]) {
        let at = c.unexpected();
        return match utility::reset(c)? {
            Statement::Reset(name) => Ok(Statement::Role(RoleStatement::Setting { role, name, value: None })),
            _ => Err(at),
        };
    }
    for (verb, is_add) in [("ADD", true), ("DROP", false)] {
        if c.eat(&[verb, "USER"]) {
            let RoleName::Named(group) = role else { return Err(c.unexpected()) };
            let (roles, members) = (vec![group], names(c)?);
            return Ok(Statement::Role(match is_add {
                true => RoleStatement::Grant { roles, members, admin: false },
                false => RoleStatement::Revoke { roles, members, admin_only: false },
            }));
        }
    }
    c.eat(&["WITH"]);
    Ok(Statement::Role(RoleStatement::Alter { role, options: options(c, false)? }))
}

/// `DROP { ROLE | USER | GROUP } [IF EXISTS] name, …`.
pub(crate) fn drop(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["DROP"])?;
    word(c)?;
    let if_exists = c.if_exists();
    Ok(Statement::Role(RoleStatement::Drop { names: names(c)?, if_exists }))
}

/// `DROP OWNED BY role, … [CASCADE | RESTRICT]`.
pub(crate) fn drop_owned(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["DROP", "OWNED", "BY"])?;
    let by = names(c)?;
    let cascade = cascade(c);
    Ok(Statement::Role(RoleStatement::DropOwned { by, cascade }))
}

/// `REASSIGN OWNED BY role, … TO role`.
pub(crate) fn reassign_owned(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["REASSIGN", "OWNED", "BY"])?;
    let from = names(c)?;
    c.expect(&["TO"])?;
    Ok(Statement::Role(RoleStatement::ReassignOwned { from, to: name(c)? }))
}

/// What follows `SET [LOCAL | SESSION] ROLE`: a name, NONE, or a text.
pub(crate) fn set_role(c: &mut Cursor<'_>, local: bool) -> Result<Statement> {
    let role = if c.eat(&["NONE"]) { None } else { Some(value(c)?) };
    Ok(Statement::Role(RoleStatement::Set { role, local }))
}

/// What follows `SET [SESSION] SESSION AUTHORIZATION`: a name, DEFAULT, or a text.
pub(crate) fn set_session(c: &mut Cursor<'_>) -> Result<Statement> {
    let role = if c.eat(&["DEFAULT"]) { None } else { Some(value(c)?) };
    Ok(Statement::Role(RoleStatement::SetSession(role)))
}

fn value(c: &mut Cursor<'_>) -> Result<String> {
    match c.parser.peek_token_ref().token {
        Token::SingleQuotedString(_) => c.string(),
        _ => Ok(normalize(&c.ident()?)),
    }
}

/// A role: its name, CURRENT_USER, CURRENT_ROLE or SESSION_USER.
pub(crate) fn name(c: &mut Cursor<'_>) -> Result<RoleName> {
    if c.eat(&["CURRENT_USER"]) || c.eat(&["CURRENT_ROLE"]) {
        return Ok(RoleName::CurrentUser);
    }
    if c.eat(&["SESSION_USER"]) {
        return Ok(RoleName::SessionUser);
    }
    if c.eat(&["PUBLIC"]) {
        return Ok(RoleName::Everybody);
    }
    Ok(RoleName::Named(c.ident()?))
}

/// Several of them.
pub(crate) fn names(c: &mut Cursor<'_>) -> Result<Vec<RoleName>> {
    let mut all = vec![name(c)?];
    while c.eat_token(&Token::Comma) {
        all.push(name(c)?);
    }
    Ok(all)
}

/// `CASCADE | RESTRICT`, where nothing means RESTRICT.
pub(crate) fn cascade(c: &mut Cursor<'_>) -> bool {
    let cascade = c.eat(&["CASCADE"]);
    if !cascade {
        c.eat(&["RESTRICT"]);
    }
    cascade
}

/// The options of CREATE ROLE (`new`) and ALTER ROLE.
fn options(c: &mut Cursor<'_>, new: bool) -> Result<Vec<RoleOption>> {
    type Switch = fn(bool) -> RoleOption;
    const SWITCHES: [(&str, &str, Switch); 7] = [
        ("SUPERUSER", "NOSUPERUSER", RoleOption::Superuser),
        ("CREATEDB", "NOCREATEDB", RoleOption::CreateDatabase),
        ("CREATEROLE", "NOCREATEROLE", RoleOption::CreateRole),
        ("INHERIT", "NOINHERIT", RoleOption::Inherit),
        ("LOGIN", "NOLOGIN", RoleOption::Login),
        ("REPLICATION", "NOREPLICATION", RoleOption::Replication),
        ("BYPASSRLS", "NOBYPASSRLS", RoleOption::BypassRls),
    ];
    let mut all: Vec<RoleOption> = Vec::new();
    while !c.rest().is_empty() {
        let at = c.unexpected();
        let switch = SWITCHES.iter().find_map(|(on, off, option)| {
            if c.eat(&[on]) {
                return Some(option(true));
            }
            c.eat(&[off]).then(|| option(false))
        });
        let option = if let Some(switch) = switch {
            switch
        } else if c.eat(&["CONNECTION", "LIMIT"]) {
            RoleOption::ConnectionLimit(limit(c)?)
        } else if c.eat(&["VALID", "UNTIL"]) {
            RoleOption::ValidUntil(c.string()?)
        } else if c.eat(&["ENCRYPTED", "PASSWORD"]) || c.eat(&["PASSWORD"]) {
            RoleOption::Password(if c.eat(&["NULL"]) { None } else { Some(c.string()?) })
        } else if c.eat(&["UNENCRYPTED"]) {
            return Err(
                SqlError { sqlstate: "0A000", ..at }.with_hint("passwords are stored as verifiers: use PASSWORD")
            );
        } else if new && (c.eat(&["IN", "ROLE"]) || c.eat(&["IN", "GROUP"])) {
            RoleOption::InRole(idents(c)?)
        } else if new && (c.eat(&["ROLE"]) || c.eat(&["USER"])) {
            RoleOption::Members { roles: idents(c)?, admin: false }
        } else if new && c.eat(&["ADMIN"]) {
            RoleOption::Members { roles: idents(c)?, admin: true }
        } else if c.eat(&["SYSID"]) {
            limit(c)?;
            continue;
        } else {
            return Err(at.with_hint(
                "the options are SUPERUSER, CREATEDB, CREATEROLE, INHERIT, LOGIN, REPLICATION, BYPASSRLS, each also with \
                 NO before it, CONNECTION LIMIT n, PASSWORD 'text', VALID UNTIL 'time', and of CREATE ROLE also IN ROLE, \
                 ROLE and ADMIN",
            ));
        };
        if all.iter().any(|o| o.name() == option.name()) {
            return Err(SqlError { message: "conflicting or redundant options".into(), ..at });
        }
        all.push(option);
    }
    Ok(all)
}

/// Names with commas between them.
pub(crate) fn idents(c: &mut Cursor<'_>) -> Result<Vec<Ident>> {
    let mut all = vec![c.ident()?];
    while c.eat_token(&Token::Comma) {
        all.push(c.ident()?);
    }
    Ok(all)
}

fn limit(c: &mut Cursor<'_>) -> Result<i32> {
    let at = c.unexpected();
    let sign = if c.eat_token(&Token::Minus) { -1 } else { 1 };
    let number = c.run(|parser| parser.parse_literal_uint())?;
    i32::try_from(number).map(|n| sign * n).map_err(|_| at)
}
