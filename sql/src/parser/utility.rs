//! SHOW, SET, transactions, EXPLAIN and the small statements that clients send by themselves.

use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::ddl::{existing, kind};
use crate::error::{Result, SqlError};
use crate::statement::role::RoleStatement;
use crate::statement::{DropKind, Explain, ExplainFormat, ExplainRunning, Set, Show, Statement, TransactionModes};

/// `EXPLAIN [ANALYZE] [VERBOSE] [(options)] { statement | MATERIALIZED VIEW name | SINK name }`.
pub(crate) fn explain(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["EXPLAIN"])?;
    let mut options = Options::default();
    // EXPLAIN (SELECT 1) has no options.
    let has_options = c.rest().first().is_some_and(|t| t.token == Token::LParen)
        && !matches!(c.word(1).as_deref(), Some("SELECT" | "WITH" | "VALUES" | "TABLE") | None);
    if has_options {
        explain_options(c, &mut options)?;
    } else {
        options.analyze = c.eat(&["ANALYZE"]) || c.eat(&["ANALYSE"]);
        options.verbose = c.eat(&["VERBOSE"]);
    }
    let Options { analyze, verbose, format } = options;
    if c.at(&["EXPLAIN"]) {
        return Err(c.unexpected());
    }
    for (words, kind) in
        [(["MATERIALIZED", "VIEW"].as_slice(), DropKind::MaterializedView), (&["SINK"], DropKind::Sink)]
    {
        if c.eat(words) {
            return Ok(Statement::ExplainRunning(ExplainRunning { analyze, format, kind, name: existing(c, kind)? }));
        }
    }
    let statement = Box::new(super::statement(c)?);
    Ok(Statement::Explain(Explain { analyze, verbose, format, statement }))
}

/// The options of EXPLAIN.
#[derive(Default)]
struct Options {
    analyze: bool,
    verbose: bool,
    format: ExplainFormat,
}

fn explain_options(c: &mut Cursor<'_>, options: &mut Options) -> Result<()> {
    c.expect_token(&Token::LParen)?;
    loop {
        let at = c.unexpected().position;
        let name = c.ident()?.value.to_lowercase();
        let value = match c.parser.peek_token().token {
            Token::Word(w) => {
                c.parser.next_token();
                w.value.to_lowercase()
            }
            Token::Number(n, _) => {
                c.parser.next_token();
                n
            }
            _ => "true".to_string(),
        };
        let on = || match value.as_str() {
            "true" | "on" | "1" => Ok(true),
            "false" | "off" | "0" => Ok(false),
            _ => Err(SqlError::new("22023", format!("{name} requires a Boolean value")).with_position(at)),
        };
        match name.as_str() {
            "analyze" => options.analyze = on()?,
            "verbose" => options.verbose = on()?,
            // What these would add is not printed either way.
            "costs" | "buffers" | "timing" | "summary" | "wal" | "settings" | "memory" => {
                on()?;
            }
            "format" if value == "text" => options.format = ExplainFormat::Text,
            "format" if value == "json" => options.format = ExplainFormat::Json,
            "format" => {
                return Err(SqlError::unsupported(format!("EXPLAIN (FORMAT {value}) is not supported"))
                    .with_hint("the formats are text, json")
                    .with_position(at));
            }
            _ => {
                return Err(SqlError::syntax(format!("unrecognized EXPLAIN option \"{name}\""))
                    .with_hint("the options are analyze, verbose, costs, format")
                    .with_position(at));
            }
        }
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)
}

/// `SHOW …`.
pub(crate) fn show(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["SHOW"])?;
    const LISTS: [(&[&str], Show); 11] = [
        (&["MATERIALIZED", "VIEWS"], Show::MaterializedViews),
        (&["TABLES"], Show::Tables),
        (&["SOURCES"], Show::Sources),
        (&["VIEWS"], Show::Views),
        (&["SINKS"], Show::Sinks),
        (&["SCHEMAS"], Show::Schemas),
        (&["FUNCTIONS"], Show::Functions),
        (&["SECRETS"], Show::Secrets),
        (&["JOBS"], Show::Jobs),
        (&["TASKS"], Show::Tasks),
        (&["ALL"], Show::All),
    ];
    for (words, show) in LISTS {
        if c.eat(words) {
            if c.at(&["FROM"]) || c.at(&["LIKE"]) {
                return Err(c.unsupported("FROM and LIKE in SHOW are not supported"));
            }
            return Ok(Statement::Show(show));
        }
    }
    if c.eat(&["CREATE"]) {
        let Some(kind) = kind(c) else { return Err(c.unexpected()) };
        return Ok(Statement::Show(Show::Create(kind, existing(c, kind)?)));
    }
    if c.eat(&["TIME", "ZONE"]) {
        return Ok(Statement::Show(Show::Setting("timezone".into())));
    }
    if c.eat(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        return Ok(Statement::Show(Show::Setting("transaction_isolation".into())));
    }
    Ok(Statement::Show(Show::Setting(setting_name(c)?)))
}

/// `SET [SESSION | LOCAL] name { = | TO } value, …` and its special forms.
pub(crate) fn set(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["SET"])?;
    if c.eat(&["SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"]) {
        // Of isolation levels there is one only, so READ ONLY is all that can change.
        let set =
            |name: &str, value: Option<&str>| Set { local: false, name: name.into(), value: value.map(Into::into) };
        return Ok(Statement::Set(match transaction_modes(c)?.read_only {
            Some(true) => set("default_transaction_read_only", Some("on")),
            Some(false) => set("default_transaction_read_only", Some("off")),
            None => set("default_transaction_isolation", None),
        }));
    }
    if c.eat(&["TRANSACTION"]) {
        if c.at(&["SNAPSHOT"]) {
            return Err(c.unsupported("SET TRANSACTION SNAPSHOT is not supported"));
        }
        return Ok(Statement::SetTransaction(transaction_modes(c)?));
    }
    let local = c.eat(&["LOCAL"]);
    if !local {
        c.eat(&["SESSION"]);
    }
    if c.eat(&["TIME", "ZONE"]) {
        let value = if c.eat(&["LOCAL"]) { None } else { value(c)? };
        return Ok(Statement::Set(Set { local, name: "timezone".into(), value }));
    }
    if c.eat(&["NAMES"]) {
        let value = value(c)?;
        return Ok(Statement::Set(Set { local, name: "client_encoding".into(), value }));
    }
    if c.at(&["CONSTRAINTS"]) {
        return Err(c.unsupported("SET CONSTRAINTS is not supported"));
    }
    if c.eat(&["ROLE"]) {
        if !c.eat_token(&Token::Eq) {
            c.eat(&["TO"]);
        }
        return super::role::set_role(c, local);
    }
    if c.eat(&["AUTHORIZATION"]) || c.eat(&["SESSION", "AUTHORIZATION"]) {
        if local {
            return Err(c
                .unsupported("SET LOCAL SESSION AUTHORIZATION is not supported")
                .with_hint("use SET LOCAL ROLE"));
        }
        return super::role::set_session(c);
    }
    let name = setting_name(c)?;
    if !c.eat_token(&Token::Eq) {
        c.expect(&["TO"])?;
    }
    let Some(mut all) = value(c)? else {
        return Ok(Statement::Set(Set { local, name, value: None }));
    };
    while c.eat_token(&Token::Comma) {
        let Some(more) = value(c)? else { return Err(c.unexpected()) };
        all.push_str(", ");
        all.push_str(&more);
    }
    Ok(Statement::Set(Set { local, name, value: Some(all) }))
}

/// `RESET name | ALL`.
pub(crate) fn reset(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["RESET"])?;
    if c.eat(&["ALL"]) {
        return Ok(Statement::Reset(None));
    }
    if c.eat(&["TIME", "ZONE"]) {
        return Ok(Statement::Reset(Some("timezone".into())));
    }
    if c.eat(&["ROLE"]) {
        return Ok(Statement::Role(RoleStatement::Set { role: None, local: false }));
    }
    if c.eat(&["SESSION", "AUTHORIZATION"]) {
        return Ok(Statement::Role(RoleStatement::SetSession(None)));
    }
    Ok(Statement::Reset(Some(setting_name(c)?)))
}

/// `BEGIN` and `START TRANSACTION`.
pub(crate) fn begin(c: &mut Cursor<'_>) -> Result<Statement> {
    if c.eat(&["START"]) {
        c.expect(&["TRANSACTION"])?;
    } else {
        c.expect(&["BEGIN"])?;
        work(c);
    }
    Ok(Statement::Begin(transaction_modes(c)?))
}

/// `COMMIT` and `END`.
pub(crate) fn commit(c: &mut Cursor<'_>) -> Result<Statement> {
    c.parser.next_token();
    work(c);
    if c.at(&["PREPARED"]) {
        return Err(c.unsupported("COMMIT PREPARED is not supported"));
    }
    Ok(Statement::Commit { chain: chain(c) })
}

/// `ROLLBACK` and `ABORT`.
pub(crate) fn rollback(c: &mut Cursor<'_>) -> Result<Statement> {
    c.parser.next_token();
    work(c);
    if c.eat(&["TO"]) {
        c.eat(&["SAVEPOINT"]);
        return Ok(Statement::RollbackTo(name(c)?));
    }
    if c.at(&["PREPARED"]) {
        return Err(c.unsupported("ROLLBACK PREPARED is not supported"));
    }
    Ok(Statement::Rollback { chain: chain(c) })
}

/// `SAVEPOINT name`.
pub(crate) fn savepoint(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["SAVEPOINT"])?;
    Ok(Statement::Savepoint(name(c)?))
}

/// `RELEASE [SAVEPOINT] name`.
pub(crate) fn release(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["RELEASE"])?;
    c.eat(&["SAVEPOINT"]);
    Ok(Statement::Release(name(c)?))
}

/// `CANCEL JOB n, …`.
pub(crate) fn cancel_jobs(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["CANCEL"])?;
    if !c.eat(&["JOBS"]) {
        c.expect(&["JOB"])?;
    }
    let mut jobs = Vec::new();
    loop {
        let unexpected = c.unexpected();
        let job = c.run(|parser| parser.parse_literal_uint())?;
        jobs.push(u32::try_from(job).map_err(|_| unexpected)?);
        if !c.eat_token(&Token::Comma) {
            return Ok(Statement::CancelJobs(jobs));
        }
    }
}

/// `REFRESH MATERIALIZED VIEW [CONCURRENTLY] name [WITH DATA]`.
pub(crate) fn refresh(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["REFRESH", "MATERIALIZED", "VIEW"])?;
    c.eat(&["CONCURRENTLY"]);
    let name = super::ddl::existing(c, DropKind::MaterializedView)?;
    if c.at(&["WITH", "NO", "DATA"]) {
        return Err(c
            .unsupported("REFRESH MATERIALIZED VIEW ... WITH NO DATA is not supported")
            .with_hint("a materialized view always has its rows"));
    }
    c.eat(&["WITH", "DATA"]);
    Ok(Statement::Refresh(name))
}

/// `DISCARD ALL`; the smaller ones have nothing to throw away that a client could see.
pub(crate) fn discard(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["DISCARD"])?;
    if c.eat(&["ALL"]) {
        return Ok(Statement::DiscardAll);
    }
    match c.word(0) {
        Some(word) if ["PLANS", "SEQUENCES", "TEMP", "TEMPORARY"].contains(&word.as_str()) => {
            Err(c.unsupported(format!("DISCARD {word} is not supported")).with_hint("use DISCARD ALL"))
        }
        _ => Err(c.unexpected()),
    }
}

/// `DEALLOCATE [PREPARE] name | ALL`.
pub(crate) fn deallocate(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["DEALLOCATE"])?;
    c.eat(&["PREPARE"]);
    if c.eat(&["ALL"]) {
        return Ok(Statement::Deallocate(None));
    }
    Ok(Statement::Deallocate(Some(name(c)?)))
}

/// A name that is no object's: lower case unless it is quoted.
pub(super) fn name(c: &mut Cursor<'_>) -> Result<String> {
    Ok(crate::types::normalize(&c.ident()?))
}

fn work(c: &mut Cursor<'_>) {
    if !c.eat(&["WORK"]) {
        c.eat(&["TRANSACTION"]);
    }
}

/// `[AND [NO] CHAIN]`.
fn chain(c: &mut Cursor<'_>) -> bool {
    !c.eat(&["AND", "NO", "CHAIN"]) && c.eat(&["AND", "CHAIN"])
}

/// Every isolation level is taken for snapshot isolation, which gives at least what PostgreSQL gives for it, except
/// SERIALIZABLE.
fn transaction_modes(c: &mut Cursor<'_>) -> Result<TransactionModes> {
    let mut modes = TransactionModes::default();
    loop {
        if c.eat(&["ISOLATION", "LEVEL"]) {
            if c.at(&["SERIALIZABLE"]) {
                return Err(c
                    .unsupported("isolation level SERIALIZABLE is not supported")
                    .with_hint("transactions have snapshot isolation: REPEATABLE READ"));
            }
            if !(c.eat(&["READ", "COMMITTED"]) || c.eat(&["READ", "UNCOMMITTED"]) || c.eat(&["REPEATABLE", "READ"])) {
                return Err(c.unexpected());
            }
        } else if c.eat(&["READ", "ONLY"]) {
            modes.read_only = Some(true);
        } else if c.eat(&["READ", "WRITE"]) {
            modes.read_only = Some(false);
        } else if !(c.eat(&["NOT", "DEFERRABLE"]) || c.eat(&["DEFERRABLE"])) {
            return Ok(modes);
        }
        c.eat_token(&Token::Comma);
    }
}

/// A setting's name, in lower case, with its dots.
fn setting_name(c: &mut Cursor<'_>) -> Result<String> {
    let mut name = c.ident()?.value.to_lowercase();
    while c.eat_token(&Token::Period) {
        name.push('.');
        name.push_str(&c.ident()?.value.to_lowercase());
    }
    Ok(name)
}

/// One value of SET; `None` is DEFAULT.
fn value(c: &mut Cursor<'_>) -> Result<Option<String>> {
    if c.eat(&["DEFAULT"]) {
        return Ok(None);
    }
    let sign = if c.eat_token(&Token::Minus) { "-" } else { "" };
    let text = match c.parser.peek_token().token {
        Token::Number(n, _) => n,
        Token::Word(w) if w.quote_style.is_none() && sign.is_empty() => w.value.to_lowercase(),
        Token::Word(w) if sign.is_empty() => format!("\"{}\"", w.value),
        Token::SingleQuotedString(s) if sign.is_empty() => s,
        Token::EscapedStringLiteral(s) if sign.is_empty() => s,
        _ => return Err(c.unexpected()),
    };
    c.parser.next_token();
    Ok(Some(format!("{sign}{text}")))
}
