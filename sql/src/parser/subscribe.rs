//! SUBSCRIBE, LISTEN, UNLISTEN, NOTIFY.

use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::utility::name;
use crate::error::{Result, SqlError};
use crate::statement::{Notify, Statement, Subscribe, SubscribeTarget};

/// `SUBSCRIBE [TO] { relation | (query) } [WITH (snapshot = …, progress = …)] [AS OF epoch]`.
pub(crate) fn subscribe(c: &mut Cursor<'_>) -> Result<Subscribe> {
    c.expect(&["SUBSCRIBE"])?;
    c.eat(&["TO"]);
    let target = if c.eat_token(&Token::LParen) {
        let tokens = c.rest().to_vec();
        let query = c.run(Parser::parse_query)?;
        let text = c.text.of(&tokens[..tokens.len() - c.rest().len()]).to_string();
        c.expect_token(&Token::RParen)?;
        SubscribeTarget::Query(query, text)
    } else {
        SubscribeTarget::Relation(c.object_name()?)
    };
    let mut subscribe = Subscribe { target, snapshot: None, progress: false, as_of: None };
    as_of(c, &mut subscribe)?;
    if c.eat(&["WITH"]) {
        options(c, &mut subscribe)?;
    }
    as_of(c, &mut subscribe)?;
    Ok(subscribe)
}

fn as_of(c: &mut Cursor<'_>, subscribe: &mut Subscribe) -> Result<()> {
    if subscribe.as_of.is_none() && c.eat(&["AS", "OF"]) {
        c.eat(&["EPOCH"]);
        subscribe.as_of = Some(c.run(|parser| parser.parse_literal_uint())?);
    }
    Ok(())
}

fn options(c: &mut Cursor<'_>, subscribe: &mut Subscribe) -> Result<()> {
    let at = c.unexpected().position;
    for (key, value) in c.options()? {
        let on = match value.as_str() {
            "true" | "on" | "t" | "1" => true,
            "false" | "off" | "f" | "0" => false,
            _ => {
                return Err(SqlError::new("22023", format!("option \"{key}\" of SUBSCRIBE cannot be '{value}'"))
                    .with_hint("it is true or false")
                    .with_position(at));
            }
        };
        match key.as_str() {
            "snapshot" => subscribe.snapshot = Some(on),
            "progress" => subscribe.progress = on,
            _ => {
                return Err(SqlError::new("22023", format!("unknown option \"{key}\" of SUBSCRIBE"))
                    .with_hint("the options are progress, snapshot")
                    .with_position(at));
            }
        }
    }
    Ok(())
}

/// `LISTEN channel`.
pub(crate) fn listen(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["LISTEN"])?;
    Ok(Statement::Listen(name(c)?))
}

/// `UNLISTEN { channel | * }`.
pub(crate) fn unlisten(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["UNLISTEN"])?;
    Ok(Statement::Unlisten(if c.eat_token(&Token::Mul) { None } else { Some(name(c)?) }))
}

/// `NOTIFY channel [, 'payload']`.
pub(crate) fn notify(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["NOTIFY"])?;
    let channel = name(c)?;
    let payload = if c.eat_token(&Token::Comma) { c.string()? } else { String::new() };
    Ok(Statement::Notify(Notify { channel, payload }))
}

#[cfg(test)]
mod tests {
    use crate::parse;
    use crate::statement::{Statement, Subscribe, SubscribeTarget};

    fn subscribed(sql: &str) -> Subscribe {
        match parse(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}")).remove(0).statement {
            Statement::Subscribe(subscribe) => subscribe,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_subscribed_to() {
        let whole = subscribed("SUBSCRIBE s.v");
        assert_eq!((whole.snapshot, whole.progress, whole.as_of), (None, false, None));
        let part = subscribed("SUBSCRIBE TO (SELECT a, (b) FROM v WHERE c > 1) WITH (progress = true, snapshot = off)");
        assert_eq!((part.snapshot, part.progress), (Some(false), true));
        let SubscribeTarget::Query(_, text) = part.target else { panic!("no query") };
        assert_eq!(text, "SELECT a, (b) FROM v WHERE c > 1");
        assert_eq!(subscribed("SUBSCRIBE v AS OF 17 WITH (progress = on)").as_of, Some(17));
        assert_eq!(subscribed("SUBSCRIBE v WITH (progress = on) AS OF EPOCH 17").as_of, Some(17));
        for (sql, sqlstate) in [
            ("SUBSCRIBE v WITH (fast = true)", "22023"),
            ("SUBSCRIBE v WITH (snapshot = maybe)", "22023"),
            ("SUBSCRIBE v AS OF 'then'", "42601"),
            ("SUBSCRIBE SELECT 1", "42601"),
            ("NOTIFY a b", "42601"),
        ] {
            assert_eq!(parse(sql).unwrap_err().sqlstate, sqlstate, "{sql}");
        }
    }

    #[test]
    fn channels_are_names() {
        let of = |sql: &str| parse(sql).unwrap().remove(0).statement;
        assert_eq!(of("LISTEN Alerts"), Statement::Listen("alerts".into()));
        assert_eq!(of("UNLISTEN *"), Statement::Unlisten(None));
        let Statement::Notify(notify) = of("NOTIFY \"Alerts\", 'it''s'") else { panic!("no NOTIFY") };
        assert_eq!((notify.channel.as_str(), notify.payload.as_str()), ("Alerts", "it's"));
    }
}
