//! WITH RECURSIVE: gives the columns of the first term the types that PostgreSQL gives them, before DataFusion plans the
//! term that reads them, and holds the second term to these types.
//!
//! DataFusion plans the second term over the first one's types as it knows them, before literals have their own here, and
//! casts what differs.

use std::ops::ControlFlow;

use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, RecursiveQuery};
use datafusion_sql::sqlparser::ast::{Cte, Ident, Query, SetExpr, SetOperator, VisitMut, VisitorMut, With};
use millstream_catalog::SqlType;

use super::query::plan_query;
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::parser::parse_query;

/// Writes the types of the first terms out as casts.
///
/// # Errors
/// What is wrong with a first term.
pub(crate) fn type_first_terms(query: &mut Query, ctx: &PlanContext<'_>) -> Result<()> {
    match query.visit(&mut TypeFirstTerms { ctx, scope: Vec::new() }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct TypeFirstTerms<'a> {
    ctx: &'a PlanContext<'a>,
    /// The common table expressions of each query around the one that is visited.
    scope: Vec<Vec<Cte>>,
}

impl VisitorMut for TypeFirstTerms<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        let mut seen = Vec::new();
        if let Some(with) = &mut query.with {
            for cte in &mut with.cte_tables {
                if with.recursive
                    && let Err(error) = self.type_first_term(cte, &seen)
                {
                    return ControlFlow::Break(error);
                }
                seen.push(cte.clone());
            }
        }
        self.scope.push(seen);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<SqlError> {
        self.scope.pop();
        ControlFlow::Continue(())
    }
}

impl TypeFirstTerms<'_> {
    fn type_first_term(&self, cte: &mut Cte, before: &[Cte]) -> Result<()> {
        let mut first = cte.query.as_ref().clone();
        let SetExpr::SetOperation { op: SetOperator::Union, left, right, .. } = cte.query.body.as_mut() else {
            return Ok(());
        };
        let around = self.scope.iter().flatten().chain(before);
        let mut with: Vec<Cte> = Vec::new();
        for cte in around {
            with.retain(|other| other.alias.name != cte.alias.name);
            with.push(cte.clone());
        }
        first.body = left.clone();
        (first.order_by, first.limit_clause, first.fetch) = (None, None, None);
        first.with = (!with.is_empty()).then(|| With {
            with_token: datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
            recursive: true,
            cte_tables: with,
        });
        let columns = plan_query(&first, self.ctx)?.columns;
        let names: Vec<String> = (0..columns.len()).map(|i| format!("c{i}")).collect();
        let is_named = !cte.alias.columns.is_empty();
        let items = columns.iter().zip(&names).map(|(column, from)| {
            let name = if is_named { from.clone() } else { Ident::with_quote('"', &column.name).to_string() };
            format!("CAST({from} AS {}) AS {name}", column.sql_type)
        });
        let (items, names) = (items.collect::<Vec<_>>().join(", "), names.join(", "));
        *left = parse_query(&format!("SELECT {items} FROM ({left}) AS first_term ({names})"))?.body;
        // So that a cast of these columns is none that was written.
        *right = parse_query(&format!("SELECT {names} FROM ({right}) AS second_term ({names})"))?.body;
        Ok(())
    }
}

/// Checks that the second term of each recursive query has the types of the first.
///
/// # Errors
/// 42804 naming the column, as in PostgreSQL; also where a numeric would lose digits.
pub(crate) fn check_types(plan: &LogicalPlan) -> Result<()> {
    let mut wrong = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::RecursiveQuery(query) = node
            && let Err(error) = check(query)
        {
            wrong = Some(error);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    wrong.map_or(Ok(()), Err)
}

fn check(query: &RecursiveQuery) -> Result<()> {
    let LogicalPlan::Projection(second) = query.recursive_term.as_ref() else { return Ok(()) };
    for (i, (expr, field)) in second.expr.iter().zip(query.static_term.schema().fields()).enumerate() {
        let mut expr = expr;
        while let Expr::Alias(alias) = expr {
            expr = &alias.expr;
        }
        let column = match expr {
            Expr::Cast(cast) => cast.expr.as_ref(),
            Expr::ScalarFunction(function) if function.name() == "cast" && !function.args.is_empty() => {
                &function.args[0]
            }
            _ => continue,
        };
        let inner = column.to_field(second.input.schema())?.1;
        let (Some(first), Some(found)) = (SqlType::of(field), SqlType::of(&inner)) else { continue };
        let fits = match (&first, &found) {
            (SqlType::Numeric(Some((_, scale))), SqlType::Numeric(Some((_, found)))) => found <= scale,
            (a, b) => a == b || (a.is_text() && b.is_text()),
        };
        if !fits {
            let error = SqlError::new(
                "42804",
                format!(
                    "recursive query \"{}\" column {} has type {first} in non-recursive term but type {found} overall",
                    query.name,
                    i + 1
                ),
            );
            return Err(error.with_hint("cast the output of the non-recursive term to the correct type"));
        }
    }
    Ok(())
}
