//! The parenthesised list of CREATE TABLE and CREATE SOURCE: columns, constraints, WATERMARK FOR.

use datafusion_sql::sqlparser::ast::{ColumnDef, ColumnOption, ColumnOptionDef, Expr, GeneratedAs, Ident};
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
    /// Whether `*` stands for the columns of a schema.
    pub(crate) star: bool,
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
        if !e.columns.is_empty() || e.star {
            return Err(c.unexpected());
        }
        e.star = c.eat_token(&Token::Mul);
        return Ok(());
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
    if c.at(&["UNIQUE"]) {
        return Err(c.unsupported("UNIQUE constraints are not supported").with_hint(UNIQUE_INDEX));
    }
    for (words, what) in [(&["FOREIGN", "KEY"][..], "FOREIGN KEY constraints"), (&["LIKE"], "LIKE in CREATE TABLE")] {
        if c.at(words) {
            return Err(c.unsupported(format!("{what} are not supported")));
        }
    }
    if name.is_some() {
        return Err(c.unexpected());
    }
    let at = c.unexpected().position;
    let (column, computed) = column(c)?;
    let mut column = definition(column).map_err(|e| e.with_position(at))?;
    match computed {
        Some(Computed::ProcessingTime) => column.processing_time = true,
        Some(Computed::Expression(expr)) => column.generated = Some(*expr),
        None => {}
    }
    e.columns.push(column);
    Ok(())
}

const UNIQUE_INDEX: &str = "CREATE UNIQUE INDEX on the table does the same";

/// What `AS` computes a column of.
enum Computed {
    Expression(Box<Expr>),
    /// `AS PROCTIME()`.
    ProcessingTime,
}

/// A column, and what stands behind its `AS`: what RisingWave and Flink write for a generated one, with parentheses or
/// without.
fn column(c: &mut Cursor<'_>) -> Result<(ColumnDef, Option<Computed>)> {
    let (name, data_type) = (c.ident()?, c.run(Parser::parse_data_type)?);
    let (mut options, mut computed) = (Vec::new(), None);
    loop {
        let constraint = if c.eat(&["CONSTRAINT"]) { Some(c.ident()?) } else { None };
        if constraint.is_none() && computed.is_none() && c.eat(&["AS"]) {
            let is_clock = c.at(&["PROCTIME"]) && {
                let mut next = c.rest()[1..].iter().map(|t| &t.token);
                (next.next(), next.next()) == (Some(&Token::LParen), Some(&Token::RParen))
            };
            computed = Some(if is_clock {
                c.eat(&["PROCTIME"]);
                c.expect_token(&Token::LParen)?;
                c.expect_token(&Token::RParen)?;
                Computed::ProcessingTime
            } else {
                Computed::Expression(Box::new(c.expr()?))
            });
            continue;
        }
        match c.run(Parser::parse_optional_column_option)? {
            Some(option) => options.push(ColumnOptionDef { name: constraint, option }),
            None if constraint.is_some() => return Err(c.unexpected()),
            None => return Ok((ColumnDef { name, data_type, options }, computed)),
        }
    }
}

fn definition(column: ColumnDef) -> Result<ColumnDefinition> {
    let ColumnDef { name, data_type, options } = column;
    let mut d = ColumnDefinition {
        name,
        data_type,
        not_null: false,
        primary_key: false,
        unique: false,
        default: None,
        checks: Vec::new(),
        generated: None,
        processing_time: false,
    };
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
            ColumnOption::Unique(_) => {
                return refuse("UNIQUE", &d.name).map_err(|e: SqlError| e.with_hint(UNIQUE_INDEX));
            }
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
