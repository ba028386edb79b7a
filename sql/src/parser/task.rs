//! CREATE TASK and EXECUTE TASK, and SELECT of pg_cron's functions.

use datafusion_sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, Query, SelectItem, SetExpr,
};
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::ddl::existing;
use super::function::in_body;
use crate::error::{Result, SqlError};
use crate::statement::{
    CopyEnd, CreateTask, CronCall, CronFunction, DropKind, ExecuteTask, Parsed, ScheduleClause, Statement,
};
use crate::types::normalize;

/// `[OR REPLACE] TASK [IF NOT EXISTS] name [[SCHEDULE] { CRON 'expression' [AT TIME ZONE 'zone'] | EVERY [INTERVAL] 'text' }
/// | AFTER task, …] [WITH (option = value, …)] AS { statement | $$ statement; … $$ }`, from behind TASK.
pub(crate) fn create(c: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = c.if_not_exists();
    let name = c.object_name()?;
    let (schedule, after) = if c.eat(&["AFTER"]) {
        let mut after = vec![c.object_name()?];
        while c.eat_token(&Token::Comma) {
            after.push(c.object_name()?);
        }
        (None, after)
    } else {
        (schedule(c)?, Vec::new())
    };
    let options = if c.eat(&["WITH"]) { c.options()? } else { Default::default() };
    if !c.at(&["AS"]) {
        let forms =
            "a task is CREATE TASK name SCHEDULE CRON '...' | EVERY '...' | AFTER task [WITH (...)] AS statement";
        return Err(c.unexpected().with_hint(forms));
    }
    c.expect(&["AS"])?;
    let statements = body(c)?;
    if statements.is_empty() {
        return Err(SqlError::new("42P13", "the body of the task is empty")
            .with_hint("write AS statement, or AS $$ statement; statement $$"));
    }
    for parsed in &statements {
        if let Some((what, hint)) = refusal(&parsed.statement) {
            return Err(SqlError::unsupported(format!("{what} in a task is not supported"))
                .with_hint(hint)
                .with_position(parsed.offset + 1));
        }
    }
    Ok(Statement::CreateTask(CreateTask { name, or_replace, if_not_exists, schedule, after, options, statements }))
}

fn schedule(c: &mut Cursor<'_>) -> Result<Option<ScheduleClause>> {
    let said = c.eat(&["SCHEDULE"]);
    if c.eat(&["CRON"]) {
        let expression = c.string()?;
        let time_zone = if c.eat(&["AT", "TIME", "ZONE"]) { Some(c.string()?) } else { None };
        return Ok(Some(ScheduleClause::Cron { expression, time_zone }));
    }
    if c.eat(&["EVERY"]) {
        c.eat(&["INTERVAL"]);
        let mut interval = c.string()?;
        // INTERVAL '5' MINUTE.
        if let Some(unit @ ("SECOND" | "MINUTE" | "HOUR" | "DAY" | "WEEK")) = c.word(0).as_deref() {
            interval = format!("{interval} {}", unit.to_lowercase());
            c.parser.next_token();
        }
        return Ok(Some(ScheduleClause::Every { interval }));
    }
    if said { Err(c.unexpected().with_hint("a schedule is CRON '...' or EVERY INTERVAL '...'")) } else { Ok(None) }
}

/// The statements behind AS: one as it stands, or several in a string.
fn body(c: &mut Cursor<'_>) -> Result<Vec<Parsed>> {
    let token = c.parser.peek_token();
    let start = c.text.position(token.span.start).map_or(0, |p| p - 1);
    match token.token {
        Token::DollarQuotedString(quoted) => {
            c.parser.next_token();
            // Behind `$tag$`.
            let base = start + quoted.tag.as_ref().map_or(0, |tag| tag.chars().count()) + 2;
            let moved = |e: SqlError| SqlError { position: e.position.map(|p| p + base), ..e };
            let statements = super::parse(&quoted.value).map_err(moved)?;
            Ok(statements.into_iter().map(|p| Parsed { offset: p.offset + base, ..p }).collect())
        }
        Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => {
            c.parser.next_token();
            super::parse(&text).map_err(|e| in_body(e, "the body of the task"))
        }
        _ => {
            let text = c.text.of(c.rest()).to_string();
            let at = (token.span.start.line, token.span.start.column);
            let statement = super::statement(c)?;
            c.end()?;
            Ok(vec![Parsed { statement, text, offset: start, start: at }])
        }
    }
}

/// What a task cannot do, and what to do instead.
fn refusal(statement: &Statement) -> Option<(&'static str, &'static str)> {
    const TRANSACTION: &str = "a run is one transaction by itself";
    const CLIENT: &str = "a run has no client; COPY ... TO 'file' writes a file";
    const SESSION: &str = "a run has a session of its own";
    Some(match statement {
        Statement::Begin(_) => ("BEGIN", TRANSACTION),
        Statement::Commit { .. } => ("COMMIT", TRANSACTION),
        Statement::Rollback { .. } | Statement::RollbackTo(_) => ("ROLLBACK", TRANSACTION),
        Statement::SetTransaction(_) => ("SET TRANSACTION", TRANSACTION),
        Statement::Savepoint(_) => ("SAVEPOINT", TRANSACTION),
        Statement::Release(_) => ("RELEASE", TRANSACTION),
        Statement::Copy(copy) if matches!(copy.target, CopyEnd::FromStdin) => ("COPY FROM STDIN", CLIENT),
        Statement::Copy(copy) if matches!(copy.target, CopyEnd::ToStdout) => ("COPY TO STDOUT", CLIENT),
        Statement::DiscardAll => ("DISCARD ALL", SESSION),
        Statement::Prepare(_) => ("PREPARE", SESSION),
        Statement::Execute(_) => ("EXECUTE", "write the statement itself"),
        Statement::Deallocate(_) => ("DEALLOCATE", SESSION),
        Statement::Declare(_) => ("DECLARE", CLIENT),
        Statement::Fetch(_) => ("FETCH", CLIENT),
        Statement::Close(_) => ("CLOSE", CLIENT),
        Statement::Listen(_) => ("LISTEN", CLIENT),
        Statement::Unlisten(_) => ("UNLISTEN", CLIENT),
        Statement::Subscribe(_) => ("SUBSCRIBE", CLIENT),
        Statement::CreateTask(_) => ("CREATE TASK", "create tasks from a session"),
        Statement::ExecuteTask(_) => ("EXECUTE TASK", "CREATE TASK ... AFTER runs a task after another"),
        Statement::Cron(_) => ("cron.schedule", "create tasks from a session"),
        Statement::Drop(drop) if drop.kind == DropKind::Task => ("DROP TASK", "drop tasks from a session"),
        Statement::Show(_) => ("SHOW", CLIENT),
        _ => return None,
    })
}

/// `EXECUTE TASK name [FOR TIMESTAMP 'text' | AS OF RUN n] [WITH (parameter = value, …)]`, from EXECUTE on.
pub(crate) fn execute(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["EXECUTE", "TASK"])?;
    let name = existing(c, DropKind::Task)?;
    let (mut time, mut run) = (None, None);
    if c.eat(&["FOR"]) {
        if !c.eat(&["TIMESTAMPTZ"]) {
            c.expect(&["TIMESTAMP"])?;
            c.eat(&["WITH", "TIME", "ZONE"]);
        }
        time = Some(c.string()?);
    } else if c.eat(&["AS", "OF", "RUN"]) {
        run = Some(c.run(|parser| parser.parse_literal_uint())?);
    }
    let at = c.unexpected().position;
    let parameters = if c.eat(&["WITH"]) { c.options()? } else { Default::default() };
    if run.is_some() && !parameters.is_empty() {
        return Err(SqlError::syntax("a repeated run has the parameters that it had").with_position(at));
    }
    Ok(Statement::ExecuteTask(ExecuteTask { name, time, run, parameters }))
}

/// The call of a function of pg_cron's that a query is, if it is nothing but one.
pub(crate) fn cron_call(query: &Query) -> Option<CronCall> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] = select.projection.as_slice()
    else {
        return None;
    };
    let Expr::Function(call) = item else { return None };
    let [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(name)] = call.name.0.as_slice() else {
        return None;
    };
    let function = match (normalize(schema).as_str(), normalize(name).as_str()) {
        ("cron", "schedule") => CronFunction::Schedule,
        ("cron", "unschedule") => CronFunction::Unschedule,
        _ => return None,
    };
    let FunctionArguments::List(list) = &call.args else { return None };
    let arguments = list.args.iter().enumerate().map(|(i, argument)| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
            Some(SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new(format!("argument{i}")) })
        }
        _ => None,
    });
    let projection = arguments.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())?;
    let column = match &select.projection[0] {
        SelectItem::ExprWithAlias { alias, .. } => normalize(alias),
        _ => normalize(name),
    };
    let mut query = Box::new(query.clone());
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection = projection;
    }
    Some(CronCall { function, query, column })
}

#[cfg(test)]
mod tests {
    use crate::parse;
    use crate::statement::{CreateTask, ScheduleClause, Statement};

    fn task(sql: &str) -> CreateTask {
        match parse(sql).unwrap().remove(0).statement {
            Statement::CreateTask(task) => task,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn schedules() {
        let cron = task("CREATE TASK t SCHEDULE CRON '15 2 * * *' AT TIME ZONE 'Europe/London' AS SELECT 1");
        let zone = Some("Europe/London".to_string());
        assert_eq!(cron.schedule, Some(ScheduleClause::Cron { expression: "15 2 * * *".into(), time_zone: zone }));
        for every in ["SCHEDULE EVERY INTERVAL '5 minutes'", "EVERY '5 minutes'"] {
            let every = task(&format!("CREATE TASK t {every} WITH (retries = 3) AS SELECT 1"));
            assert_eq!(every.schedule, Some(ScheduleClause::Every { interval: "5 minutes".into() }));
            assert_eq!(every.options["retries"], "3");
        }
        let every = task("CREATE TASK t EVERY INTERVAL '5' MINUTE AS SELECT 1");
        assert_eq!(every.schedule, Some(ScheduleClause::Every { interval: "5 minute".into() }));
        assert_eq!(task("CREATE TASK t AFTER a, s.b AS SELECT 1").after.len(), 2);
        assert_eq!(task("CREATE TASK t AS SELECT 1").schedule, None);
    }

    #[test]
    fn statements_know_their_places() {
        let sql = "CREATE TASK t EVERY '1 hour' AS $x$ DELETE FROM a;\n INSERT INTO b SELECT 1; $x$";
        let statements = task(sql).statements;
        let texts: Vec<&str> = statements.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(texts, ["DELETE FROM a", "INSERT INTO b SELECT 1"]);
        assert!(statements.iter().all(|s| sql[s.offset..].starts_with(&s.text)));
        let one = task("CREATE TASK t AS DELETE FROM a WHERE b = 'x;y'").statements;
        assert_eq!(one[0].text, "DELETE FROM a WHERE b = 'x;y'");
        let error = parse("CREATE TASK t AS $$ DELETE FROM a; SELEC 1 $$").unwrap_err();
        assert_eq!((error.sqlstate, error.position), ("42601", Some(36)));
    }

    #[test]
    fn what_a_run_cannot_do_is_refused() {
        for body in [
            "LISTEN c",
            "SUBSCRIBE v",
            "DECLARE c CURSOR FOR SELECT 1",
            "BEGIN",
            "COMMIT",
            "COPY t FROM STDIN",
            "CREATE TASK u AS SELECT 1",
            "EXECUTE TASK u",
        ] {
            let error = parse(&format!("CREATE TASK t AS $$ SELECT 1; {body} $$")).unwrap_err();
            assert_eq!((error.sqlstate, error.position), ("0A000", Some(31)), "{body}");
        }
        assert_eq!(parse("CREATE TASK t AS $$ ; $$").unwrap_err().sqlstate, "42P13");
    }

    #[test]
    fn calls_of_cron_give_their_arguments() {
        let sql = "SELECT cron.unschedule(jobid) AS gone FROM cron.job WHERE jobname = 'x'";
        let Statement::Cron(call) = parse(sql).unwrap().remove(0).statement else { panic!("no call") };
        assert_eq!(call.query.to_string(), "SELECT jobid AS argument0 FROM cron.job WHERE jobname = 'x'");
        assert_eq!(call.column, "gone");
        assert!(matches!(parse("SELECT cron.schedule('a', 'b', 'c'), 1").unwrap()[0].statement, Statement::Query(_)));
    }
}
