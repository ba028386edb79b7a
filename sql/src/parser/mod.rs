//! Text to [`Statement`]s: our own statement front on sqlparser's `Parser`.
//!
//! sqlparser reads expressions and queries; the statements are ours, because the stock ones lose clauses. Trailing
//! `WITH (…)`, `FORMAT …` and `EMIT …` are cut off at depth 0 before a query is read ([`clauses`]), for sqlparser would take
//! them for table hints and aliases.
//!
//! * [`create`]: CREATE of every kind, [`columns`] the column lists in them, [`function`] that of functions
//! * [`index`]: CREATE INDEX
//! * [`ddl`]: DROP, COMMENT, TRUNCATE; [`alter`]: ALTER
//! * [`dml`]: INSERT, UPDATE, DELETE, COPY; [`merge`]: MERGE; [`lake`]: INSERT OVERWRITE, OPTIMIZE, VACUUM, DESCRIBE HISTORY
//! * [`utility`]: SHOW, SET, transactions, EXPLAIN
//! * [`task`]: CREATE TASK, EXECUTE TASK, pg_cron's functions
//! * [`prepared`]: PREPARE, EXECUTE; [`declare`]: cursors; [`subscribe`]: SUBSCRIBE, LISTEN, NOTIFY
//! * [`role`]: roles; [`grant`]: GRANT, REVOKE
//! * [`session`]: the arguments of SESSION windows; [`asof`]: ASOF joins

mod alter;
mod asof;
mod clauses;
mod columns;
mod create;
mod cursor;
mod ddl;
mod declare;
mod dialect;
mod dml;
mod function;
mod grant;
mod index;
mod lake;
mod merge;
mod prepared;
mod role;
mod session;
mod subscribe;
mod task;
pub(crate) mod text;
mod utility;

use datafusion_sql::sqlparser::ast;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

pub use dialect::MillstreamDialect;

use crate::error::{Result, SqlError};
use crate::statement::{Parsed, Statement};
use cursor::Cursor;
pub(crate) use cursor::word_of;
pub(crate) use function::{ONE_SELECT, in_body};
use text::Text;

/// Reads a text of statements separated by semicolons. Empty statements leave nothing.
///
/// # Errors
/// 42601 with the character position in `sql`; 0A000 for statements that are known but not supported.
pub fn parse(sql: &str) -> Result<Vec<Parsed>> {
    let text = Text::new(sql);
    let mut parsed = Vec::new();
    for tokens in split(tokenize(&text, sql)?) {
        let (Some(first), own_text) = (tokens.first(), text.of(&tokens).to_string()) else { continue };
        let offset = text.position(first.span.start).map_or(0, |p| p - 1);
        let start = (first.span.start.line, first.span.start.column);
        let mut cursor = Cursor::new(&text, tokens);
        let statement = statement(&mut cursor)?;
        cursor.end()?;
        parsed.push(Parsed { statement, text: own_text, offset, start });
    }
    Ok(parsed)
}

/// Reads one query, as views are stored.
///
/// # Errors
/// As [`parse`].
pub fn parse_query(sql: &str) -> Result<Box<ast::Query>> {
    let text = Text::new(sql);
    let tokens = tokenize(&text, sql)?;
    Ok(Cursor::new(&text, tokens).query_to_end()?.0)
}

/// Reads one expression, as DEFAULT, CHECK and WATERMARK are stored.
///
/// # Errors
/// As [`parse`].
pub fn parse_expr(sql: &str) -> Result<ast::Expr> {
    let text = Text::new(sql);
    let mut cursor = Cursor::new(&text, tokenize(&text, sql)?);
    let expr = cursor.expr()?;
    cursor.end()?;
    Ok(expr)
}

/// Reads a type's name.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_type(sql: &str) -> Result<ast::DataType> {
    let text = Text::new(sql);
    let mut cursor = Cursor::new(&text, tokenize(&text, sql)?);
    let data_type = cursor.run(datafusion_sql::sqlparser::parser::Parser::parse_data_type)?;
    cursor.end()?;
    Ok(data_type)
}

/// One statement; every first word that PostgreSQL knows is named here.
pub(crate) fn statement(c: &mut Cursor<'_>) -> Result<Statement> {
    let Some(word) = c.word(0) else {
        return match c.parser.peek_token_ref().token {
            Token::LParen => query(c),
            _ => Err(c.unexpected()),
        };
    };
    match word.as_str() {
        "SELECT" | "WITH" | "VALUES" | "TABLE" => query(c),
        "CREATE" if role::is_about_role(c) => role::create(c),
        "DROP" if role::is_about_role(c) => role::drop(c),
        "ALTER" if role::is_about_role(c) => role::alter(c),
        "DROP" if c.at(&["DROP", "OWNED"]) => role::drop_owned(c),
        "ALTER" if c.at(&["ALTER", "DEFAULT", "PRIVILEGES"]) => grant::default_privileges(c),
        "GRANT" => grant::grant(c),
        "REVOKE" => grant::revoke(c),
        "REASSIGN" => role::reassign_owned(c),
        "CREATE" => create::create(c),
        "DROP" => ddl::drop(c),
        "ALTER" => alter::alter(c),
        "COMMENT" => ddl::comment(c),
        "TRUNCATE" => ddl::truncate(c),
        "INSERT" if c.word(1).as_deref() == Some("OVERWRITE") => lake::insert_overwrite(c),
        "INSERT" => dml::insert(c),
        "UPDATE" => dml::update(c),
        "DELETE" => dml::delete(c),
        "MERGE" => merge::merge(c),
        "OPTIMIZE" => lake::optimize(c),
        "VACUUM" => lake::vacuum(c),
        "DESCRIBE" | "DESC" => lake::describe(c),
        "COPY" => dml::copy(c),
        "EXPLAIN" => utility::explain(c),
        "SHOW" => utility::show(c),
        "SET" => utility::set(c),
        "RESET" => utility::reset(c),
        "BEGIN" | "START" => utility::begin(c),
        "COMMIT" | "END" => utility::commit(c),
        "ROLLBACK" | "ABORT" => utility::rollback(c),
        "SAVEPOINT" => utility::savepoint(c),
        "RELEASE" => utility::release(c),
        "FLUSH" => {
            c.expect(&["FLUSH"])?;
            Ok(Statement::Flush)
        }
        "CANCEL" => utility::cancel_jobs(c),
        "DISCARD" => utility::discard(c),
        "DEALLOCATE" => utility::deallocate(c),
        "PREPARE" => prepared::prepare(c),
        // A prepared statement may have the name `task`.
        "EXECUTE" if c.at(&["EXECUTE", "TASK"]) && c.rest().get(2).is_some_and(is_word) => task::execute(c),
        "EXECUTE" => prepared::execute(c),
        "DECLARE" => declare::declare(c),
        "FETCH" | "MOVE" => declare::fetch(c),
        "CLOSE" => declare::close(c),
        "LISTEN" => subscribe::listen(c),
        "UNLISTEN" => subscribe::unlisten(c),
        "NOTIFY" => subscribe::notify(c),
        "SUBSCRIBE" => Ok(Statement::Subscribe(subscribe::subscribe(c)?)),
        "REFRESH" => utility::refresh(c),
        "ANALYZE" | "CALL" | "CHECKPOINT" | "CLUSTER" | "DO" | "LOCK" | "REINDEX" => {
            Err(c.unsupported(format!("{word} is not supported")))
        }
        _ => Err(c.unexpected()),
    }
}

fn is_word(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Word(_))
}

fn query(c: &mut Cursor<'_>) -> Result<Statement> {
    // A row without columns, which sqlparser reads only with FROM.
    if c.rest().len() == 1 && c.eat(&["SELECT"]) {
        return Ok(Statement::Query(parse_query("SELECT FROM (VALUES (1)) AS one")?));
    }
    let query = c.query_to_end()?.0;
    Ok(task::cron_call(&query).map_or(Statement::Query(query), Statement::Cron))
}

/// The tokens of a text, without white space and comments.
pub(crate) fn tokenize(text: &Text<'_>, sql: &str) -> Result<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&MillstreamDialect, sql).tokenize_with_location().map_err(|e| {
        let what = e.message.to_lowercase();
        let message = if what.contains("unterminated") && what.contains("string") {
            "unterminated quoted string".to_string()
        } else {
            what
        };
        SqlError::syntax(message).with_position(text.position(e.location))
    })?;
    let mut tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).collect();
    session::move_keys(&mut tokens);
    session::mark_frames(&mut tokens);
    asof::add_match_conditions(&mut tokens);
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_)));
    Ok(tokens)
}

/// Cuts at the semicolons. None of our statements holds one.
fn split(tokens: Vec<TokenWithSpan>) -> Vec<Vec<TokenWithSpan>> {
    let mut statements = vec![Vec::new()];
    for token in tokens {
        if token.token == Token::SemiColon {
            statements.push(Vec::new());
        } else if let Some(last) = statements.last_mut() {
            last.push(token);
        }
    }
    statements.retain(|s| !s.is_empty());
    statements
}
