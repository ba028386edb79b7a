//! `read_parquet('glob')`, `read_csv(ARRAY['a', 'b'], header => true)`, `read_json('s3://bucket/')`: their arguments.

use std::collections::BTreeMap;

use datafusion_sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, ObjectNamePart, TableAlias, TableFactor, UnaryOperator,
};

use crate::context::ExternalCall;
use crate::error::{Result, SqlError};
use crate::types::normalize;

/// The call that a relation is, and its alias; `None` for any other relation.
///
/// # Errors
/// 42883 for arguments that these functions do not take, 42601 for an option that is given twice.
pub(crate) fn call(relation: &TableFactor) -> Option<Result<(ExternalCall, Option<TableAlias>)>> {
    let (name, args, alias) = match relation {
        TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
        TableFactor::Function { name, args, alias, .. } => (name, args, alias),
        _ => return None,
    };
    let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return None };
    let name = normalize(ident);
    let format = match name.as_str() {
        "read_parquet" => "parquet",
        "read_csv" => "csv",
        "read_json" => "json",
        "read_delta" => "delta",
        _ => return None,
    };
    Some(arguments(&name, args).map(|(locations, options)| {
        (ExternalCall { format: format.into(), locations, options, partitions: None }, alias.clone())
    }))
}

fn arguments(name: &str, args: &[FunctionArg]) -> Result<(Vec<String>, BTreeMap<String, String>)> {
    let wrong = |what: &str| {
        SqlError::new("42883", format!("{name} takes {what}")).with_hint(format!(
            "for example {name}('/data/*'), {name}(ARRAY['/data/a', '/data/b']), {name}('s3://bucket/folder/', option => 'value')"
        ))
    };
    let mut locations = Vec::new();
    let mut options = BTreeMap::new();
    for arg in args {
        let (key, value) = match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if locations.is_empty() => {
                locations = paths(expr).ok_or_else(|| wrong("a path as a string, or an array of such"))?;
                continue;
            }
            FunctionArg::Unnamed(_) => {
                return Err(wrong("one path or one array of paths, then options by their names"));
            }
            FunctionArg::Named { name, arg, .. } => (normalize(name), arg),
            FunctionArg::ExprNamed { name: ast::Expr::Identifier(name), arg, .. } => (normalize(name), arg),
            // A word that is a value elsewhere is the name of an option here.
            FunctionArg::ExprNamed { name: ast::Expr::Value(value), arg, .. } if value.value == ast::Value::Null => {
                ("null".into(), arg)
            }
            FunctionArg::ExprNamed { .. } => return Err(wrong("options by their names")),
        };
        let value = match value {
            FunctionArgExpr::Expr(expr) => constant(expr),
            _ => None,
        };
        let value = value.ok_or_else(|| wrong(&format!("a constant as its option \"{key}\"")))?;
        if options.insert(key.clone(), value).is_some() {
            return Err(SqlError::syntax(format!("option \"{key}\" of {name} is given more than once")));
        }
    }
    if locations.is_empty() {
        return Err(wrong("a path as a string, or an array of such"));
    }
    Ok((locations, options))
}

/// One path or several.
fn paths(expr: &ast::Expr) -> Option<Vec<String>> {
    let text = |expr: &ast::Expr| match expr {
        ast::Expr::Value(value) => value.value.clone().into_string(),
        _ => None,
    };
    match expr {
        ast::Expr::Array(array) if !array.elem.is_empty() => array.elem.iter().map(text).collect(),
        other => Some(vec![text(other)?]),
    }
}

/// The text of an option's value.
fn constant(expr: &ast::Expr) -> Option<String> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Boolean(value) => Some(value.to_string()),
            ast::Value::Number(number, _) => Some(number.to_string()),
            other => other.clone().into_string(),
        },
        ast::Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Some(format!("-{}", constant(expr)?)),
        _ => None,
    }
}
