//! Cursors: DECLARE, FETCH, MOVE, CLOSE.

use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::prepared::rest;
use super::utility::name;
use crate::error::{Result, SqlError};
use crate::statement::{Back, Declare, Direction, Fetch, Statement};

/// `DECLARE name [BINARY] [INSENSITIVE | ASENSITIVE] [[NO] SCROLL] CURSOR [{ WITH | WITHOUT } HOLD] FOR statement`.
pub(crate) fn declare(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["DECLARE"])?;
    let name = name(c)?;
    let (mut binary, mut scroll) = (false, false);
    loop {
        if c.eat(&["BINARY"]) {
            binary = true;
        } else if c.eat(&["SCROLL"]) {
            scroll = true;
        } else if !(c.eat(&["NO", "SCROLL"]) || c.eat(&["INSENSITIVE"]) || c.eat(&["ASENSITIVE"])) {
            break;
        }
    }
    c.expect(&["CURSOR"])?;
    let hold = c.eat(&["WITH", "HOLD"]);
    if !hold {
        c.eat(&["WITHOUT", "HOLD"]);
    }
    c.expect(&["FOR"])?;
    let at = c.unexpected();
    let statement = rest(c)?;
    match statement.statement {
        Statement::Query(_) => {}
        Statement::Subscribe(_) if scroll => {
            return Err(at.with_hint("a cursor for SUBSCRIBE only goes forward: leave SCROLL out"));
        }
        Statement::Subscribe(_) => {}
        _ => return Err(at.with_hint("a cursor is for a query or for SUBSCRIBE")),
    }
    Ok(Statement::Declare(Declare { name, binary, scroll, hold, statement: Box::new(statement) }))
}

/// `{ FETCH | MOVE } [direction] [FROM | IN] name [WITH (timeout = '…')]`.
pub(crate) fn fetch(c: &mut Cursor<'_>) -> Result<Statement> {
    let moves = c.eat(&["MOVE"]);
    if !moves {
        c.expect(&["FETCH"])?;
    }
    let direction = direction(c)?;
    if !c.eat(&["FROM"]) {
        c.eat(&["IN"]);
    }
    let cursor = name(c)?;
    let at = c.unexpected().position;
    let mut options = if !moves && c.eat(&["WITH"]) { c.options()? } else { Default::default() };
    let timeout = options.remove("timeout");
    if let Some(unknown) = options.keys().next() {
        return Err(SqlError::new("22023", format!("unknown option \"{unknown}\" of FETCH"))
            .with_hint("the option is timeout")
            .with_position(at));
    }
    Ok(Statement::Fetch(Fetch { cursor, direction, moves, timeout }))
}

fn direction(c: &mut Cursor<'_>) -> Result<Direction> {
    // A cursor may be called as a direction: then nothing follows.
    if c.rest().len() == 1 {
        return Ok(Direction::Forward(1));
    }
    let forward = |n: i64, words: &str| match u64::try_from(n) {
        Ok(n) if n > 0 => Direction::Forward(n),
        _ => Direction::Backward(back(n, Back::Rows), format!("{words}{n}")),
    };
    if c.eat(&["NEXT"]) {
        return Ok(Direction::Forward(1));
    }
    for (word, back) in [("PRIOR", Back::Rows(1)), ("LAST", Back::FromEnd(1))] {
        if c.eat(&[word]) {
            return Ok(Direction::Backward(back, word.into()));
        }
    }
    if c.eat(&["FIRST"]) {
        return Ok(Direction::Absolute(1));
    }
    if c.eat(&["ALL"]) {
        return Ok(Direction::All);
    }
    for (word, of) in [("ABSOLUTE", Direction::Absolute as fn(u64) -> Direction), ("RELATIVE", Direction::Relative)] {
        if c.eat(&[word]) {
            let Some(n) = number(c)? else { return Err(c.unexpected()) };
            return Ok(match u64::try_from(n) {
                Ok(n) if n > 0 => of(n),
                _ if word == "RELATIVE" => Direction::Backward(back(n, Back::Relative), format!("{word} {n}")),
                Ok(_) => Direction::Backward(Back::ToStart, format!("{word} {n}")),
                _ => Direction::Backward(back(n, Back::FromEnd), format!("{word} {n}")),
            });
        }
    }
    if c.eat(&["FORWARD"]) {
        if c.eat(&["ALL"]) {
            return Ok(Direction::All);
        }
        return Ok(number(c)?.map_or(Direction::Forward(1), |n| forward(n, "FORWARD ")));
    }
    if c.eat(&["BACKWARD"]) {
        if c.eat(&["ALL"]) {
            return Ok(Direction::Backward(Back::AllRows, "BACKWARD ALL".into()));
        }
        return Ok(match number(c)? {
            None => Direction::Backward(Back::Rows(1), "BACKWARD".into()),
            Some(n) if n < 0 => Direction::Forward(n.unsigned_abs()),
            Some(0) => Direction::Backward(Back::Stay, "BACKWARD 0".into()),
            Some(n) => Direction::Backward(Back::Rows(n.unsigned_abs()), format!("BACKWARD {n}")),
        });
    }
    Ok(number(c)?.map_or(Direction::Forward(1), |n| forward(n, "")))
}

/// Back by `-n`, or nowhere for 0.
fn back(n: i64, by: fn(u64) -> Back) -> Back {
    if n == 0 { Back::Stay } else { by(n.unsigned_abs()) }
}

/// A whole number with its sign, if one is next.
fn number(c: &mut Cursor<'_>) -> Result<Option<i64>> {
    let minus = c.eat_token(&Token::Minus);
    let Token::Number(digits, _) = c.parser.peek_token().token else {
        return if minus { Err(c.unexpected()) } else { Ok(None) };
    };
    let Ok(number) = format!("{}{digits}", if minus { "-" } else { "" }).parse() else { return Err(c.unexpected()) };
    c.parser.next_token();
    Ok(Some(number))
}

/// `CLOSE { name | ALL }`.
pub(crate) fn close(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["CLOSE"])?;
    Ok(Statement::Close(if c.eat(&["ALL"]) { None } else { Some(name(c)?) }))
}

#[cfg(test)]
mod tests {
    use crate::parse;
    use crate::statement::{Back, Direction, Statement};

    #[test]
    fn directions() {
        let of = |sql: &str| match parse(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}")).remove(0).statement {
            Statement::Fetch(fetch) => {
                assert_eq!(fetch.cursor, "c", "{sql}");
                fetch.direction
            }
            other => panic!("{other:?}"),
        };
        for (sql, expected) in [
            ("FETCH c", Direction::Forward(1)),
            ("FETCH NEXT FROM c", Direction::Forward(1)),
            ("FETCH FORWARD 10 FROM \"c\"", Direction::Forward(10)),
            ("FETCH 5 c", Direction::Forward(5)),
            ("FETCH ALL IN c", Direction::All),
            ("MOVE FORWARD ALL FROM c", Direction::All),
            ("FETCH FIRST c", Direction::Absolute(1)),
            ("FETCH RELATIVE 2 FROM c", Direction::Relative(2)),
            ("FETCH -3 FROM c", Direction::Backward(Back::Rows(3), "-3".into())),
            ("FETCH FORWARD 0 FROM c", Direction::Backward(Back::Stay, "FORWARD 0".into())),
            ("FETCH ABSOLUTE -1 FROM c", Direction::Backward(Back::FromEnd(1), "ABSOLUTE -1".into())),
            ("MOVE BACKWARD ALL IN c", Direction::Backward(Back::AllRows, "BACKWARD ALL".into())),
            ("FETCH PRIOR c", Direction::Backward(Back::Rows(1), "PRIOR".into())),
        ] {
            assert_eq!(of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn cursors_are_for_queries() {
        let declared = parse("DECLARE c BINARY NO SCROLL CURSOR WITH HOLD FOR SELECT 1").unwrap().remove(0).statement;
        let Statement::Declare(declared) = declared else { panic!("{declared:?}") };
        assert!(declared.binary && declared.hold && declared.statement.text == "SELECT 1");
        for (sql, sqlstate) in [
            ("DECLARE c CURSOR FOR DELETE FROM t", "42601"),
            ("DECLARE c SCROLL CURSOR FOR SUBSCRIBE v", "42601"),
            ("FETCH c WITH (wait = '1s')", "22023"),
            ("FETCH FROM", "42601"),
        ] {
            assert_eq!(parse(sql).unwrap_err().sqlstate, sqlstate, "{sql}");
        }
    }
}
