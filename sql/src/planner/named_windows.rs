//! `WINDOW w AS (…)`: each `OVER w` and `OVER (w …)` gets the definition that it names, by PostgreSQL's rules. DataFusion
//! reads named windows itself, but leaves out what `OVER (w …)` adds to them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, NamedWindowExpr, Query, Select, SelectItem, SetExpr, VisitMut, VisitorMut,
    WindowSpec, WindowType, visit_expressions_mut,
};

use crate::error::{Result, SqlError};
use crate::types::normalize;

/// Writes the definitions of named windows into the calls that name them.
///
/// # Errors
/// 42704 for a name that is not defined, 42P20 for two definitions of a name and for one that cannot be added to.
pub(crate) fn inline_windows(query: &mut Query) -> Result<()> {
    match VisitMut::visit(query, &mut Inline) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

type Windows = BTreeMap<String, WindowSpec>;

struct Inline;

impl VisitorMut for Inline {
    type Break = SqlError;

    // Behind the subqueries: they do not see the windows around them.
    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        match inline_in(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn inline_in(query: &mut Query) -> Result<()> {
    if let SetExpr::Select(select) = query.body.as_mut() {
        let windows = defined(select)?;
        if let Some(order_by) = &mut query.order_by {
            inline(order_by, &windows)?;
        }
    }
    inline_in_body(&mut query.body)
}

fn inline_in_body(body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::Select(select) => {
            let windows = defined(select)?;
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                    inline(expr, &windows)?;
                }
            }
            select.named_window.clear();
            Ok(())
        }
        SetExpr::SetOperation { left, right, .. } => {
            inline_in_body(left)?;
            inline_in_body(right)
        }
        _ => Ok(()),
    }
}

/// The windows that a SELECT defines; a definition may add to an earlier one.
fn defined(select: &Select) -> Result<Windows> {
    let mut windows = Windows::new();
    for NamedWindowDefinition(name, definition) in &select.named_window {
        let spec = match definition {
            NamedWindowExpr::NamedWindow(other) => named(other, &windows)?,
            NamedWindowExpr::WindowSpec(spec) => completed(spec, &windows)?,
        };
        let name = normalize(name);
        if windows.insert(name.clone(), spec).is_some() {
            return Err(SqlError::new("42P20", format!("window \"{name}\" is already defined")));
        }
    }
    Ok(windows)
}

fn inline(exprs: &mut impl VisitMut, windows: &Windows) -> Result<()> {
    let done = visit_expressions_mut(exprs, |expr| {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let spec = match &function.over {
            Some(WindowType::NamedWindow(name)) => named(name, windows),
            Some(WindowType::WindowSpec(spec)) if spec.window_name.is_some() => completed(spec, windows),
            _ => return ControlFlow::Continue(()),
        };
        match spec {
            Ok(spec) => {
                function.over = Some(WindowType::WindowSpec(spec));
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    });
    match done {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn named(name: &Ident, windows: &Windows) -> Result<WindowSpec> {
    let found = windows.get(&normalize(name)).cloned();
    found.ok_or_else(|| {
        SqlError::new("42704", format!("window \"{}\" does not exist", normalize(name)))
            .with_hint("define it behind the SELECT: WINDOW name AS (PARTITION BY … ORDER BY …)")
    })
}

/// A definition with what the one that it adds to has.
fn completed(spec: &WindowSpec, windows: &Windows) -> Result<WindowSpec> {
    let Some(name) = &spec.window_name else { return Ok(spec.clone()) };
    let base = named(name, windows)?;
    let name = normalize(name);
    let refused = |what: String| Err(SqlError::new("42P20", what));
    if !spec.partition_by.is_empty() {
        return refused(format!("cannot override PARTITION BY clause of window \"{name}\""));
    }
    if !spec.order_by.is_empty() && !base.order_by.is_empty() {
        return refused(format!("cannot override ORDER BY clause of window \"{name}\""));
    }
    if base.window_frame.is_some() {
        return refused(format!("cannot copy window \"{name}\" because it has a frame clause"));
    }
    Ok(WindowSpec {
        window_name: None,
        partition_by: base.partition_by,
        order_by: if spec.order_by.is_empty() { base.order_by } else { spec.order_by.clone() },
        window_frame: spec.window_frame.clone(),
    })
}
