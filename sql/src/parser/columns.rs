//! The parenthesised list of CREATE TABLE and CREATE SOURCE: columns, constraints, WATERMARK FOR.

use datafusion_sql::sqlparser::ast::{ColumnDef, ColumnOption, ColumnOptionDef, DataType, Expr, GeneratedAs, Ident};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::error::{Result, SqlError};
use crate::statement::{ColumnDefinition, WatermarkDefinition};

/// What stands between the parentheses.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    pub(crate) columns: Vec<ColumnDefinition>,
    pub(crate) primary_key: Option<Vec<Ident>>,
    pub(crate) checks: Vec<(Option<Ident>, Expr)>,
    pub(crate) watermark: Option<WatermarkDefinition>,
}

/// Reads the list with its parentheses.
pub(crate) fn elements(c: &mut Cursor<'_>) -> Result<Elements> {
    let mut e = Elements::default();
    c.expect_token(&Token::LParen)?;
    if c.eat_token(&Token::RParen) {
        return Ok(e);
    }
    loop {
        element(c, &mut e)?;
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    Ok(e)
}

fn element(c: &mut Cursor<'_>, e: &mut Elements) -> Result<()> {
    if c.rest().first().is_some_and(|t| t.token == Token::Mul) {
        return Err(c
            .unsupported("columns taken from a schema registry (\"*\") are not supported")
            .with_hint("list the columns with their types"));
    }
    if c.at(&["WATERMARK", "FOR"]) {
        let at = c.unexpected().position;
        c.expect(&["WATERMARK", "FOR"])?;
        let column = c.ident()?;
        c.expect(&["AS"])?;
        let expression = c.expr()?;
        if e.watermark.replace(WatermarkDefinition { column, expression }).is_some() {
            return Err(SqlError::syntax("WATERMARK FOR is given more than once").with_position(at));
        }
        return Ok(());
    }
    let name = if c.eat(&["CONSTRAINT"]) { Some(c.ident()?) } else { None };
    if c.at(&["PRIMARY", "KEY"]) {
        let at = c.unexpected().position;
        c.expect(&["PRIMARY", "KEY"])?;
        if e.primary_key.replace(c.ident_list()?).is_some() {
            return Err(SqlError::new("42P16", "multiple primary keys are not allowed").with_position(at));
        }
        return Ok(());
    }
    if c.at(&["CHECK"]) {
        c.expect(&["CHECK"])?;
        c.expect_token(&Token::LParen)?;
        let expr = c.expr()?;
        c.expect_token(&Token::RParen)?;
        e.checks.push((name, expr));
        return Ok(());
    }
    for (words, what) in [
        (&["UNIQUE"][..], "UNIQUE constraints"),
        (&["FOREIGN", "KEY"], "FOREIGN KEY constraints"),
        (&["LIKE"], "LIKE in CREATE TABLE"),
    ] {
        if c.at(words) {
            return Err(c.unsupported(format!("{what} are not supported")));
        }
    }
    if name.is_some() {
        return Err(c.unexpected());
    }
    let at = c.unexpected().position;
    if let Some(column) = processing_time(c)? {
        e.columns.push(column);
        return Ok(());
    }
    let column = c.run(Parser::parse_column_def)?;
    e.columns.push(definition(column).map_err(|e| e.with_position(at))?);
    Ok(())
}

/// `name type AS PROCTIME()`, if that comes next.
fn processing_time(c: &mut Cursor<'_>) -> Result<Option<ColumnDefinition>> {
    let computed = c.run(|parser| {
        parser.maybe_parse(|parser| {
            let (name, data_type) = (parser.parse_identifier()?, parser.parse_data_type()?);
            parser.expect_keyword_is(Keyword::AS)?;
            Ok((name, data_type))
        })
    })?;
    let Some((name, data_type)) = computed else { return Ok(None) };
    let is_clock = c.eat(&["PROCTIME"]) && c.eat_token(&Token::LParen) && c.eat_token(&Token::RParen);
    if !is_clock {
        return Err(c
            .unsupported(format!("a computed column (\"{}\") other than AS PROCTIME() is not supported", name.value))
            .with_hint("compute it in a view"));
    }
    Ok(Some(ColumnDefinition { processing_time: true, ..plain(name, data_type) }))
}

fn plain(name: Ident, data_type: DataType) -> ColumnDefinition {
    ColumnDefinition {
        name,
        data_type,
        not_null: false,
        primary_key: false,
        unique: false,
        default: None,
        checks: Vec::new(),
        generated: None,
        processing_time: false,
    }
}

fn definition(column: ColumnDef) -> Result<ColumnDefinition> {
    let ColumnDef { name, data_type, options } = column;
    let mut d = plain(name, data_type);
    let refuse = |what: &str, name: &Ident| {
        Err(SqlError::unsupported(format!("{what} of column \"{}\" is not supported", name.value)))
    };
    for ColumnOptionDef { name: constraint, option } in options {
        match option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => d.not_null = true,
            ColumnOption::Default(expr) => d.default = Some(expr),
            ColumnOption::PrimaryKey(key) => {
                if key.characteristics.is_some() {
                    return refuse("DEFERRABLE", &d.name);
                }
                d.primary_key = true;
                d.not_null = true;
            }
            ColumnOption::Check(check) => {
                if check.enforced == Some(false) {
                    return refuse("CHECK NOT ENFORCED", &d.name);
                }
                d.checks.push((check.name.or(constraint), *check.expr));
            }
            ColumnOption::Generated {
                generated_as,
                sequence_options,
                generation_expr,
                generation_expr_mode: _,
                generated_keyword: _,
            } => match (generated_as, sequence_options, generation_expr) {
                (GeneratedAs::Always | GeneratedAs::ExpStored, None, Some(expr)) => d.generated = Some(expr),
                _ => return refuse("GENERATED AS IDENTITY", &d.name),
            },
            ColumnOption::Unique(_) => return refuse("UNIQUE", &d.name),
            ColumnOption::ForeignKey(_) => return refuse("REFERENCES", &d.name),
            ColumnOption::Collation(_) => return refuse("COLLATE", &d.name),
            ColumnOption::CharacterSet(_) => return refuse("CHARACTER SET", &d.name),
            ColumnOption::Comment(_) => return refuse("COMMENT", &d.name),
            ColumnOption::Identity(_) => return refuse("IDENTITY", &d.name),
            ColumnOption::Materialized(_)
            | ColumnOption::Ephemeral(_)
            | ColumnOption::Alias(_)
            | ColumnOption::DialectSpecific(_)
            | ColumnOption::OnUpdate(_)
            | ColumnOption::Options(_)
            | ColumnOption::OnConflict(_)
            | ColumnOption::Policy(_)
            | ColumnOption::Tags(_)
            | ColumnOption::Srid(_)
            | ColumnOption::Invisible => return refuse("an option", &d.name),
        }
    }
    Ok(d)
}
