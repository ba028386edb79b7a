//! CREATE FUNCTION: its arguments, its clauses in any order, and the one SELECT in its body.

use datafusion_sql::sqlparser::ast::DataType;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::Token;
use millstream_catalog::object::Volatility;

use super::cursor::Cursor;
use crate::error::{Result, SqlError};
use crate::statement::{ArgumentDefinition, CreateFunction, Parsed, Statement};

/// What CREATE FUNCTION says behind its arguments, each clause at most once.
#[derive(Default)]
struct Clauses {
    returns: Option<DataType>,
    language: Option<String>,
    body: Option<Body>,
    strict: Option<bool>,
    volatility: Option<Volatility>,
    leakproof: Option<()>,
    parallel: Option<()>,
    security: Option<()>,
    cost: Option<()>,
}

/// What a function does, as text.
enum Body {
    /// `AS 'statements'`.
    Statements(String),
    /// `RETURN expression`.
    Expression(String),
}

/// `[OR REPLACE] FUNCTION name (arguments) RETURNS type …`, from the name on.
pub(crate) fn function(c: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let name = c.object_name()?;
    let arguments = arguments(c)?;
    let mut clauses = Clauses::default();
    while !c.rest().is_empty() {
        clause(c, &mut clauses)?;
    }
    let invalid = |what: &str| SqlError::new("42P13", what);
    let Clauses { returns, language, body, strict, volatility, .. } = clauses;
    let returns = returns.ok_or_else(|| {
        invalid("function result type must be specified").with_hint("write RETURNS type behind the arguments")
    })?;
    if language.is_none() {
        return Err(invalid("no language specified").with_hint("write LANGUAGE SQL"));
    }
    let body = match body {
        Some(Body::Statements(text)) => select_text(&text)?,
        Some(Body::Expression(text)) => format!("SELECT {text}"),
        None => return Err(invalid("no function body specified").with_hint("write AS $$ SELECT ... $$")),
    };
    Ok(Statement::CreateFunction(CreateFunction {
        name,
        or_replace,
        arguments,
        returns,
        body,
        strict: strict.unwrap_or_default(),
        volatility: volatility.unwrap_or_default(),
    }))
}

/// `([IN] [name] type [{ DEFAULT | = } value], …)`.
pub(crate) fn arguments(c: &mut Cursor<'_>) -> Result<Vec<ArgumentDefinition>> {
    c.expect_token(&Token::LParen)?;
    let mut arguments = Vec::new();
    if c.eat_token(&Token::RParen) {
        return Ok(arguments);
    }
    loop {
        arguments.push(argument(c)?);
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    Ok(arguments)
}

fn argument(c: &mut Cursor<'_>) -> Result<ArgumentDefinition> {
    if let Some(mode @ ("OUT" | "INOUT" | "VARIADIC")) = c.word(0).as_deref() {
        return Err(c
            .unsupported(format!("{mode} arguments of a function are not supported"))
            .with_hint("a function gives one value, as RETURNS says"));
    }
    c.eat(&["IN"]);
    // `double precision` is a type, `amount numeric` a name and a type: what ends an argument tells.
    let unnamed = c.run(|parser| {
        parser.maybe_parse(|parser| {
            let data_type = parser.parse_data_type()?;
            match &parser.peek_token_ref().token {
                Token::Comma | Token::RParen | Token::Eq => Ok(data_type),
                Token::Word(word) if word.value.eq_ignore_ascii_case("default") => Ok(data_type),
                _ => Err(ParserError::ParserError("a name".into())),
            }
        })
    })?;
    let (name, data_type) = match unnamed {
        Some(data_type) => (None, data_type),
        None => (Some(c.ident()?), c.run(Parser::parse_data_type)?),
    };
    let has_default = c.eat(&["DEFAULT"]) || c.eat_token(&Token::Eq);
    let default = if has_default { Some(c.expr()?) } else { None };
    Ok(ArgumentDefinition { name, data_type, default })
}

fn clause(c: &mut Cursor<'_>, clauses: &mut Clauses) -> Result<()> {
    let at = c.unexpected().position;
    let conflict = || SqlError::syntax("conflicting or redundant options").with_position(at);
    /// Keeps what a clause says, unless it was said before.
    fn once<T>(slot: &mut Option<T>, value: T, conflict: impl FnOnce() -> SqlError) -> Result<()> {
        if slot.replace(value).is_some() { Err(conflict()) } else { Ok(()) }
    }
    if c.eat(&["RETURNS", "NULL", "ON", "NULL", "INPUT"]) || c.eat(&["STRICT"]) {
        return once(&mut clauses.strict, true, conflict);
    }
    if c.eat(&["CALLED", "ON", "NULL", "INPUT"]) {
        return once(&mut clauses.strict, false, conflict);
    }
    for (word, volatility) in
        [("IMMUTABLE", Volatility::Immutable), ("STABLE", Volatility::Stable), ("VOLATILE", Volatility::Volatile)]
    {
        if c.eat(&[word]) {
            return once(&mut clauses.volatility, volatility, conflict);
        }
    }
    if c.eat(&["RETURNS"]) {
        if let Some(what @ ("TABLE" | "SETOF" | "VOID" | "TRIGGER")) = c.word(0).as_deref() {
            return Err(c
                .unsupported(format!("a function that RETURNS {what} is not supported"))
                .with_hint("a function gives one value of a type; CREATE VIEW names a query"));
        }
        let returns = c.run(Parser::parse_data_type)?;
        return once(&mut clauses.returns, returns, conflict);
    }
    if c.eat(&["LANGUAGE"]) {
        let quoted = matches!(c.parser.peek_token_ref().token, Token::SingleQuotedString(_));
        let language = if quoted { c.string()? } else { c.ident()?.value };
        if !language.eq_ignore_ascii_case("sql") {
            return Err(SqlError::unsupported(format!("language \"{}\" is not supported", language.to_lowercase()))
                .with_hint("functions are written in LANGUAGE SQL")
                .with_position(at));
        }
        return once(&mut clauses.language, language, conflict);
    }
    if c.eat(&["AS"]) {
        let body = Body::Statements(body_text(c)?);
        if c.eat_token(&Token::Comma) {
            return Err(SqlError::new("42P13", "only one AS item needed for language \"sql\"").with_position(at));
        }
        return once(&mut clauses.body, body, conflict);
    }
    if c.eat(&["RETURN"]) {
        let text = c.text.of(c.rest()).to_string();
        c.expr()?;
        c.end()?;
        clauses.language.get_or_insert_with(|| "sql".into());
        return once(&mut clauses.body, Body::Expression(text), conflict);
    }
    // What follows changes nothing here: there is one role, and nothing runs a call apart.
    if c.eat(&["LEAKPROOF"]) || c.eat(&["NOT", "LEAKPROOF"]) {
        return once(&mut clauses.leakproof, (), conflict);
    }
    if ["SAFE", "RESTRICTED", "UNSAFE"].iter().any(|how| c.eat(&["PARALLEL", how])) {
        return once(&mut clauses.parallel, (), conflict);
    }
    if c.eat(&["SECURITY", "INVOKER"]) || c.eat(&["EXTERNAL", "SECURITY", "INVOKER"]) {
        return once(&mut clauses.security, (), conflict);
    }
    if c.eat(&["COST"]) {
        c.run(Parser::parse_number_value)?;
        return once(&mut clauses.cost, (), conflict);
    }
    match c.word(0).as_deref() {
        Some("BEGIN") => Err(c
            .unsupported("BEGIN ATOMIC in a function is not supported")
            .with_hint("write AS $$ SELECT ... $$, or RETURN ...")),
        Some(word @ ("ROWS" | "SET" | "SUPPORT" | "WINDOW" | "TRANSFORM" | "SECURITY" | "EXTERNAL")) => {
            Err(c.unsupported(format!("{word} of a function is not supported")))
        }
        _ => Err(c.unexpected()),
    }
}

/// The string behind AS, however it is quoted.
fn body_text(c: &mut Cursor<'_>) -> Result<String> {
    let text = match &c.parser.peek_token_ref().token {
        Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
        Token::DollarQuotedString(text) => text.value.clone(),
        _ => return Err(c.unexpected()),
    };
    c.parser.next_token();
    Ok(text)
}

/// The text of the one SELECT that a body holds, without a semicolon.
fn select_text(body: &str) -> Result<String> {
    let mut statements = super::parse(body).map_err(|e| in_body(e, "the body of the function"))?;
    let refused = |what: &str| Err(SqlError::unsupported(format!("{what} is not supported")).with_hint(ONE_SELECT));
    match (statements.pop(), statements.is_empty()) {
        (Some(Parsed { statement: Statement::Query(_), text, .. }), true) => Ok(text),
        (Some(_), true) => refused("a function whose body is no SELECT"),
        (Some(_), false) => refused("a function of several statements"),
        (None, _) => Err(SqlError::new("42P13", "the body of the function is empty").with_hint(ONE_SELECT)),
    }
}

/// What a function may be.
pub(crate) const ONE_SELECT: &str = "a function is one SELECT of one expression, or RETURN of one";

/// The error with the place that is its own text's taken away, which clients would look for in the statement.
pub(crate) fn in_body(error: SqlError, of: &str) -> SqlError {
    let error = SqlError { position: None, location: None, ..error };
    if error.detail.is_some() { error } else { error.with_detail(format!("in {of}")) }
}
