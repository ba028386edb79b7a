//! PREPARE and EXECUTE of prepared statements.

use datafusion_sql::sqlparser::ast::DataType;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::utility::name;
use crate::error::{Result, SqlError};
use crate::statement::{Execute, Parsed, Prepare, Statement};

/// `PREPARE name [(type, …)] AS statement`.
pub(crate) fn prepare(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["PREPARE"])?;
    if c.at(&["TRANSACTION"]) && !matches!(c.word(1).as_deref(), Some("AS")) {
        return Err(c.unsupported("PREPARE TRANSACTION is not supported"));
    }
    let name = name(c)?;
    let mut types = Vec::new();
    if c.eat_token(&Token::LParen) {
        loop {
            let data_type = if c.eat(&["UNKNOWN"]) { None } else { Some(data_type(c)?) };
            types.push(data_type);
            if !c.eat_token(&Token::Comma) {
                break;
            }
        }
        c.expect_token(&Token::RParen)?;
    }
    c.expect(&["AS"])?;
    let at = c.unexpected();
    let statement = rest(c)?;
    match statement.statement {
        Statement::Query(_)
        | Statement::Insert(_)
        | Statement::Update(_)
        | Statement::Delete(_)
        | Statement::Merge(_) => {}
        _ => return Err(at.with_hint("SELECT, INSERT, UPDATE, DELETE, MERGE and VALUES can be prepared")),
    }
    Ok(Statement::Prepare(Prepare { name, types, statement: Box::new(statement) }))
}

fn data_type(c: &mut Cursor<'_>) -> Result<DataType> {
    c.run(Parser::parse_data_type)
}

/// `EXECUTE name [(argument, …)]`.
pub(crate) fn execute(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["EXECUTE"])?;
    let name = name(c)?;
    let mut arguments = Vec::new();
    if c.eat_token(&Token::LParen) {
        loop {
            arguments.push(c.expr()?);
            if !c.eat_token(&Token::Comma) {
                break;
            }
        }
        c.expect_token(&Token::RParen)?;
    }
    Ok(Statement::Execute(Execute { name, arguments }))
}

/// All that follows as one statement, with its place in the text.
pub(super) fn rest(c: &mut Cursor<'_>) -> Result<Parsed> {
    let text = c.text.of(c.rest()).to_string();
    let token = c.parser.peek_token();
    let offset = c.text.position(token.span.start).map_or(0, |p| p - 1);
    let start = (token.span.start.line, token.span.start.column);
    let statement = super::statement(c)?;
    c.end()?;
    match statement {
        Statement::Cron(_) => Err(SqlError::unsupported("the functions of pg_cron are called in a SELECT of its own")
            .with_position(offset + 1)),
        statement => Ok(Parsed { statement, text, offset, start }),
    }
}

#[cfg(test)]
mod tests {
    use crate::parse;
    use crate::statement::{Execute, Prepare, Statement};

    fn prepared(sql: &str) -> Prepare {
        match parse(sql).unwrap().remove(0).statement {
            Statement::Prepare(prepare) => prepare,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_prepared_statement_knows_its_place() {
        let sql = "PREPARE \"P\" (int, unknown, numeric(4,1)) AS\n SELECT $1";
        let prepare = prepared(sql);
        assert_eq!((prepare.name.as_str(), prepare.types.len()), ("P", 3));
        assert!(prepare.types[1].is_none());
        assert_eq!(prepare.statement.text, "SELECT $1");
        assert!(sql[prepare.statement.offset..].starts_with("SELECT"));
        assert_eq!(prepared("prepare transaction as values (1)").name, "transaction");
    }

    #[test]
    fn execute_has_arguments_or_none() {
        let of = |sql: &str| match parse(sql).unwrap().remove(0).statement {
            Statement::Execute(Execute { name, arguments }) => (name, arguments.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("EXECUTE p"), ("p".into(), 0));
        assert_eq!(of("EXECUTE p (1 + 1, 'x')"), ("p".into(), 2));
        // A task is executed by two words.
        assert_eq!(of("EXECUTE task"), ("task".into(), 0));
        assert_eq!(of("EXECUTE task (1)"), ("task".into(), 1));
        assert!(matches!(parse("EXECUTE TASK t").unwrap()[0].statement, Statement::ExecuteTask(_)));
    }

    #[test]
    fn what_cannot_be_prepared_is_refused() {
        for (sql, sqlstate) in [
            ("PREPARE p AS CREATE TABLE t (a INT)", "42601"),
            ("PREPARE p AS EXECUTE q", "42601"),
            ("PREPARE p AS SELECT 1 FROM", "42601"),
            ("PREPARE p () AS SELECT 1", "42601"),
            ("PREPARE TRANSACTION 'x'", "0A000"),
            ("EXECUTE p ()", "42601"),
        ] {
            assert_eq!(parse(sql).unwrap_err().sqlstate, sqlstate, "{sql}");
        }
    }
}
