//! GRANT, REVOKE, ALTER DEFAULT PRIVILEGES and ALTER … OWNER TO.

use datafusion_sql::sqlparser::ast::Ident;
use datafusion_sql::sqlparser::tokenizer::Token;
use millstream_catalog::privilege::Class;

use super::cursor::Cursor;
use super::ddl::{existing, kind};
use super::role::{self, cascade, idents};
use crate::error::Result;
use crate::statement::role::{
    DefaultPrivilegesStatement, GrantChange, GrantStatement, GrantTarget, RoleName, RoleStatement,
};
use crate::statement::{DropKind, Statement};

/// `GRANT privileges ON objects TO roles`, `GRANT roles TO roles`.
pub(crate) fn grant(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["GRANT"])?;
    let words = privileges(c)?;
    if let (Some(roles), false) = (&words, c.at(&["ON"])) {
        c.expect(&["TO"])?;
        let (roles, members) = (roles.clone(), role::names(c)?);
        let admin = c.eat(&["WITH", "ADMIN"]) && (c.eat(&["OPTION"]) || c.eat(&["TRUE"]));
        granted_by(c)?;
        return Ok(Statement::Role(RoleStatement::Grant { roles, members, admin }));
    }
    c.expect(&["ON"])?;
    let on = target(c)?;
    c.expect(&["TO"])?;
    let change = given(c, words)?;
    Ok(Statement::Grant(GrantStatement { change, on }))
}

/// `REVOKE [GRANT OPTION FOR] privileges ON objects FROM roles`, `REVOKE [ADMIN OPTION FOR] roles FROM roles`.
pub(crate) fn revoke(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["REVOKE"])?;
    let admin_only = c.eat(&["ADMIN", "OPTION", "FOR"]);
    let option = !admin_only && c.eat(&["GRANT", "OPTION", "FOR"]);
    let words = privileges(c)?;
    if let (Some(roles), false, false) = (&words, option, c.at(&["ON"])) {
        c.expect(&["FROM"])?;
        let (roles, members) = (roles.clone(), role::names(c)?);
        granted_by(c)?;
        cascade(c);
        return Ok(Statement::Role(RoleStatement::Revoke { roles, members, admin_only }));
    }
    c.expect(&["ON"])?;
    let on = target(c)?;
    c.expect(&["FROM"])?;
    let change = taken(c, words, option)?;
    Ok(Statement::Grant(GrantStatement { change, on }))
}

/// `ALTER DEFAULT PRIVILEGES [FOR ROLE role, …] [IN SCHEMA schema, …]` and then GRANT or REVOKE on kinds of objects.
pub(crate) fn default_privileges(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["ALTER", "DEFAULT", "PRIVILEGES"])?;
    let (mut roles, mut schemas) = (Vec::new(), Vec::new());
    loop {
        if c.eat(&["FOR", "ROLE"]) || c.eat(&["FOR", "USER"]) {
            roles = role::names(c)?;
        } else if c.eat(&["IN", "SCHEMA"]) {
            schemas = idents(c)?;
        } else {
            break;
        }
    }
    let is_revoke = c.eat(&["REVOKE"]);
    if !is_revoke {
        c.expect(&["GRANT"])?;
    }
    let option = is_revoke && c.eat(&["GRANT", "OPTION", "FOR"]);
    let words = privileges(c)?;
    c.expect(&["ON"])?;
    const CLASSES: [(&str, Option<Class>); 7] = [
        ("TABLES", Some(Class::Relation)),
        ("FUNCTIONS", Some(Class::Function)),
        ("ROUTINES", Some(Class::Function)),
        ("SCHEMAS", Some(Class::Schema)),
        ("TASKS", Some(Class::Task)),
        ("SECRETS", Some(Class::Secret)),
        ("SEQUENCES", None),
    ];
    let Some((_, class)) = CLASSES.into_iter().find(|(word, _)| c.eat(&[word])) else {
        return Err(c.unexpected().with_hint("the kinds are TABLES, FUNCTIONS, SCHEMAS, TASKS, SECRETS"));
    };
    let change = if is_revoke {
        c.expect(&["FROM"])?;
        taken(c, words, option)?
    } else {
        c.expect(&["TO"])?;
        given(c, words)?
    };
    Ok(Statement::DefaultPrivileges(DefaultPrivilegesStatement { roles, schemas, class, change }))
}

fn given(c: &mut Cursor<'_>, privileges: Option<Vec<Ident>>) -> Result<GrantChange> {
    let roles = grantees(c)?;
    let option = c.eat(&["WITH", "GRANT", "OPTION"]);
    let granted_by = granted_by(c)?;
    Ok(GrantChange { is_revoke: false, privileges, roles, option, cascade: false, granted_by })
}

fn taken(c: &mut Cursor<'_>, privileges: Option<Vec<Ident>>, option: bool) -> Result<GrantChange> {
    let roles = grantees(c)?;
    let granted_by = granted_by(c)?;
    let cascade = cascade(c);
    Ok(GrantChange { is_revoke: true, privileges, roles, option, cascade, granted_by })
}

/// Roles, each with the word GROUP before it or not.
fn grantees(c: &mut Cursor<'_>) -> Result<Vec<RoleName>> {
    let mut all = Vec::new();
    loop {
        c.eat(&["GROUP"]);
        all.push(role::name(c)?);
        if !c.eat_token(&Token::Comma) {
            return Ok(all);
        }
    }
}

fn granted_by(c: &mut Cursor<'_>) -> Result<Option<RoleName>> {
    if c.eat(&["GRANTED", "BY"]) { role::name(c).map(Some) } else { Ok(None) }
}

/// `ALL [PRIVILEGES]` (`None`), or words: of privileges, or of roles.
fn privileges(c: &mut Cursor<'_>) -> Result<Option<Vec<Ident>>> {
    if c.eat(&["ALL"]) {
        c.eat(&["PRIVILEGES"]);
        refuse_columns(c)?;
        return Ok(None);
    }
    let mut all = Vec::new();
    loop {
        // SELECT and kin are reserved words, which are no names.
        let token = c.parser.peek_token();
        match token.token {
            Token::Word(word) if word.quote_style.is_none() => {
                c.parser.next_token();
                all.push(Ident { value: word.value, quote_style: None, span: token.span });
            }
            _ => all.push(c.ident()?),
        }
        refuse_columns(c)?;
        if !c.eat_token(&Token::Comma) {
            return Ok(Some(all));
        }
    }
}

fn refuse_columns(c: &Cursor<'_>) -> Result<()> {
    match c.rest().first().is_some_and(|t| t.token == Token::LParen) {
        true => Err(c
            .unsupported("privileges on single columns are not supported")
            .with_hint("make a view of the columns, and grant SELECT on that")),
        false => Ok(()),
    }
}

/// What privileges are on.
fn target(c: &mut Cursor<'_>) -> Result<GrantTarget> {
    /// Of which class, and of one kind of it or of all.
    type Kinds = Option<(Class, Option<DropKind>)>;
    const ALL: [(&[&str], Kinds); 10] = [
        (&["TABLES"], Some((Class::Relation, None))),
        (&["MATERIALIZED", "VIEWS"], Some((Class::Relation, Some(DropKind::MaterializedView)))),
        (&["VIEWS"], Some((Class::Relation, Some(DropKind::View)))),
        (&["SOURCES"], Some((Class::Relation, Some(DropKind::Source)))),
        (&["SINKS"], Some((Class::Relation, Some(DropKind::Sink)))),
        (&["FUNCTIONS"], Some((Class::Function, None))),
        (&["ROUTINES"], Some((Class::Function, None))),
        (&["TASKS"], Some((Class::Task, None))),
        (&["PROCEDURES"], None),
        (&["SEQUENCES"], None),
    ];
    if c.eat(&["ALL"]) {
        let Some((_, what)) = ALL.into_iter().find(|(words, _)| c.eat(words)) else { return Err(c.unexpected()) };
        c.expect(&["IN", "SCHEMA"])?;
        let schemas = idents(c)?;
        return Ok(match what {
            Some((class, kind)) => GrantTarget::AllIn { class, kind, schemas },
            None => GrantTarget::Nothing,
        });
    }
    if c.eat(&["DATABASE"]) {
        return Ok(GrantTarget::Databases(idents(c)?));
    }
    for word in ["SEQUENCE", "TYPE", "DOMAIN", "LANGUAGE", "TABLESPACE", "PARAMETER", "LARGE"] {
        // A table may be called like that.
        if c.at(&[word])
            && c.rest().get(1).is_some_and(super::is_word)
            && !matches!(c.word(1).as_deref(), Some("TO" | "FROM"))
        {
            return Err(c.unsupported(format!("privileges on {word} are not supported, for there are none")));
        }
    }
    if c.at(&["FOREIGN"]) {
        return Err(c.unsupported("privileges on FOREIGN objects are not supported, for there are none"));
    }
    c.eat(&["ROUTINE"]);
    match kind(c) {
        None | Some(DropKind::Table) => {
            let mut names = vec![c.object_name()?];
            while c.eat_token(&Token::Comma) {
                names.push(c.object_name()?);
            }
            Ok(GrantTarget::Relations(names))
        }
        Some(kind) => {
            let mut names = vec![existing(c, kind)?];
            while c.eat_token(&Token::Comma) {
                names.push(existing(c, kind)?);
            }
            Ok(GrantTarget::Objects(kind, names))
        }
    }
}
