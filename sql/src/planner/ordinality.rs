//! `unnest(list) WITH ORDINALITY`: the list beside the list of its positions.
//!
//! Both are unnested in step, so that a position is that of its item whatever the plan does. Also functions behind LATERAL, which
//! see what stands before them without it.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, Query, TableAlias, TableAliasColumnDef, TableFactor, VisitMut,
    VisitorMut,
};

use crate::parser::parse_expr;
use crate::types::normalize;

/// Writes both in plainer words.
pub(crate) fn expand(query: &mut Query) {
    let _: ControlFlow<()> = query.visit(&mut Expand);
}

struct Expand;

impl VisitorMut for Expand {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Function { lateral, name, args, with_ordinality, alias } = factor
            && name.0.len() == 1
            && name.0[0].as_ident().is_some_and(|name| normalize(name) == "unnest")
            && (*lateral || *with_ordinality)
        {
            let list = |arg: &FunctionArg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                _ => None,
            };
            if let Some(array_exprs) = args.iter().map(list).collect::<Option<Vec<_>>>() {
                *factor = TableFactor::UNNEST {
                    alias: alias.clone(),
                    array_exprs,
                    with_offset: false,
                    with_offset_alias: None,
                    with_ordinality: *with_ordinality,
                };
            }
        }
        if let TableFactor::UNNEST { alias, array_exprs, with_ordinality, .. } = factor
            && *with_ordinality
            && let [list] = array_exprs.as_slice()
            && let Some(positions) = positions(list)
        {
            array_exprs.push(positions);
            *with_ordinality = false;
            name_columns(alias);
        }
        ControlFlow::Continue(())
    }
}

/// `range(1, cardinality(list) + 1)`.
fn positions(list: &Expr) -> Option<Expr> {
    let text = format!("range(1, CAST(cardinality({list}) AS bigint) + 1)");
    parse_expr(&text).ok()
}

/// The columns that have no names of their own: that of the function, and `ordinality`.
fn name_columns(alias: &mut Option<TableAlias>) {
    let column = |name: Ident| TableAliasColumnDef { name, data_type: None };
    let alias = alias.get_or_insert_with(|| TableAlias {
        explicit: true,
        name: Ident::new("unnest"),
        columns: Vec::new(),
        at: None,
    });
    if alias.columns.is_empty() {
        alias.columns.push(column(alias.name.clone()));
    }
    if alias.columns.len() == 1 {
        alias.columns.push(column(Ident::new("ordinality")));
    }
}
