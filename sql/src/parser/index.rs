//! CREATE INDEX.

use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::error::Result;
use crate::statement::{CreateIndex, IndexedColumn, Statement};

const COLUMNS_ALONE: &str = "an index here is of plain columns, in the order of their values: CREATE INDEX ON t (a, b)";

/// `[UNIQUE] INDEX [CONCURRENTLY] [[IF NOT EXISTS] name] ON [ONLY] relation [USING btree] (column [ASC | DESC] [NULLS FIRST |
/// LAST], …)`, behind CREATE.
pub(crate) fn create(c: &mut Cursor<'_>) -> Result<Statement> {
    let unique = c.eat(&["UNIQUE"]);
    c.expect(&["INDEX"])?;
    let concurrently = c.eat(&["CONCURRENTLY"]);
    let if_not_exists = c.if_not_exists();
    let name = match c.at(&["ON"]) {
        // PostgreSQL wants a name there.
        true if if_not_exists => return Err(c.unexpected()),
        true => None,
        false => Some(c.ident()?),
    };
    if c.rest().first().is_some_and(|t| t.token == Token::Period) {
        return Err(c.unexpected().with_hint("an index is in the schema of its relation: its name is one word"));
    }
    c.expect(&["ON"])?;
    c.eat(&["ONLY"]);
    let of = c.object_name()?;
    if c.eat(&["USING"]) && !c.eat(&["BTREE"]) {
        let at = c.unsupported("");
        let method = c.ident()?;
        let message = format!("access method \"{}\" is not supported", method.value.to_lowercase());
        let mut error = c.unsupported(message).with_hint("leave it out, or write USING btree");
        error.position = at.position;
        return Err(error);
    }
    c.expect_token(&Token::LParen)?;
    let mut columns = vec![column(c)?];
    while c.eat_token(&Token::Comma) {
        columns.push(column(c)?);
    }
    c.expect_token(&Token::RParen)?;
    if c.eat(&["NULLS", "DISTINCT"]) || c.rest().is_empty() {
        return Ok(Statement::CreateIndex(CreateIndex { name, if_not_exists, unique, concurrently, of, columns }));
    }
    Err(match c.word(0).as_deref() {
        Some("INCLUDE") => {
            c.unsupported("INCLUDE is not supported").with_hint("an index leads to the whole row: leave it out")
        }
        Some("WHERE") => c
            .unsupported("a partial index (WHERE) is not supported")
            .with_hint("index all rows, or make a materialized view of those and index it"),
        Some("NULLS") => c
            .unsupported("NULLS NOT DISTINCT is not supported")
            .with_hint("make the columns NOT NULL, or leave it out: NULLs are distinct"),
        Some(word @ ("WITH" | "TABLESPACE" | "DISTRIBUTED")) => {
            c.unsupported(format!("CREATE INDEX ... {word} is not supported")).with_hint("leave it out")
        }
        _ => c.unexpected(),
    })
}

fn column(c: &mut Cursor<'_>) -> Result<IndexedColumn> {
    let is_call = c.rest().get(1).is_some_and(|t| t.token == Token::LParen);
    if is_call || c.rest().first().is_some_and(|t| t.token == Token::LParen) {
        return Err(c.unsupported("an index on an expression is not supported").with_hint(
            "make a column GENERATED ALWAYS AS (...) or a materialized view with the expression, and index that",
        ));
    }
    let name = c.ident()?;
    if c.at(&["COLLATE"]) {
        return Err(c.unsupported("COLLATE in an index is not supported").with_hint(COLUMNS_ALONE));
    }
    let descending = !c.eat(&["ASC"]) && c.eat(&["DESC"]);
    let nulls_first = match (c.eat(&["NULLS", "FIRST"]), c.eat(&["NULLS", "LAST"])) {
        (false, false) => descending,
        (first, _) => first,
    };
    if let Some(word) = c.word(0) {
        return Err(c
            .unsupported(format!("operator class {} is not supported", word.to_lowercase()))
            .with_hint(COLUMNS_ALONE));
    }
    Ok(IndexedColumn { name, descending, nulls_first })
}
