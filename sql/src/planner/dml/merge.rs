//! `MERGE`: a query of the target joined with the source, each row of it with what becomes of it.
//!
//! ```sql
//! SELECT t.__row_id, t.a, …, CASE WHEN fits-1 THEN action-1 … END AS __action, CASE WHEN fits-1 THEN value-1 … END AS __new_a, …
//! FROM t FULL JOIN (SELECT *, true AS __merge_source FROM s) AS s ON condition WHERE action
//! ```

use std::ops::ControlFlow;

use datafusion_common::Column as DfColumn;
use datafusion_expr::Expr;
use datafusion_expr::logical_plan::builder::project;
use datafusion_sql::sqlparser::ast::{
    self, BinaryOperator, CaseWhen, Join, JoinConstraint, JoinOperator, SelectItem, TableAlias, TableFactor,
    TableWithJoins, Value, VisitMut, VisitorMut,
};
use millstream_catalog::object::Table;
use millstream_catalog::{Object, Privilege};

use super::{
    NEW, alias_of, assign, assigned_columns, column_positions, default_of, is_default, old_row, quoted,
    refuse_append_only, relation, row_checks, select, table_of, target_table, typed_for, with_generated,
};
use crate::context::{PlanContext, ROW_ID};
use crate::error::{Result, SqlError};
use crate::plan::{MERGE_DELETE, MERGE_INSERT, MERGE_UPDATE, MergePlan, Plan};
use crate::planner::naming;
use crate::planner::query::{analyze, parameters, plan_query_with};
use crate::statement::{Merge, MergeAction, MergeClause, MergeMatch};
use crate::types::normalize;

/// Tells rows of the source from those that an outer join pads.
const SOURCE: &str = "__merge_source";
const ACTION: &str = "__action";

/// `MERGE`.
pub(crate) fn merge(s: &Merge, ctx: &PlanContext<'_>) -> Result<Plan> {
    let object = target_table(&s.table, ctx)?;
    for clause in &s.clauses {
        match clause.action {
            MergeAction::Nothing => {}
            MergeAction::Delete => ctx.require(&object, Privilege::Delete)?,
            MergeAction::Update(..) | MergeAction::UpdateAll => ctx.require(&object, Privilege::Update)?,
            MergeAction::Insert { .. } | MergeAction::InsertAll => ctx.require(&object, Privilege::Insert)?,
        }
    }
    let table = &*table_of(&object)?;
    refuse_append_only(&object, table, "merge into")?;
    let alias = alias_of(s.alias.as_ref(), &object);
    let (source, source_alias) = marked(&s.source)?;
    if source_alias == alias {
        return Err(SqlError::new("42712", format!("name \"{alias}\" specified more than once"))
            .with_hint("give the source or the target another alias"));
    }
    let target_there = match table.primary_key.first() {
        Some(key) => of(&alias, &table.columns[*key].name),
        None => of(&alias, ROW_ID),
    };
    let target_there = ast::Expr::IsNotNull(Box::new(target_there));
    let source_there = ast::Expr::IsNotNull(Box::new(of(&source_alias, SOURCE)));
    let mut cases = Vec::with_capacity(s.clauses.len());
    for clause in &s.clauses {
        let there = match clause.matched {
            MergeMatch::Matched => and(target_there.clone(), source_there.clone()),
            MergeMatch::NotMatched => ast::Expr::IsNull(Box::new(of_null(&target_there))),
            MergeMatch::NotMatchedBySource => ast::Expr::IsNull(Box::new(of_null(&source_there))),
        };
        let fits = match &clause.condition {
            Some(condition) => {
                let condition = match clause.matched {
                    MergeMatch::NotMatched => of_source(condition.clone(), table, &source_alias),
                    MergeMatch::Matched | MergeMatch::NotMatchedBySource => condition.clone(),
                };
                and(there, ast::Expr::Nested(Box::new(condition)))
            }
            None => there,
        };
        cases.push(Case { fits, values: values(clause, &object, table, &alias, &source_alias)?, clause });
    }
    let mut items = old_row(table, &alias);
    let old = items.len();
    let action = chain(&cases, |case| Ok(number(case.action())), Some(number(0)))?;
    items.push(SelectItem::ExprWithAlias { expr: action.clone(), alias: quoted(ACTION) });
    for (i, column) in table.columns.iter().enumerate() {
        let value = chain(&cases, |case| Ok(case.values[i].clone()), None)?;
        items.push(SelectItem::ExprWithAlias { expr: value, alias: quoted(&format!("{NEW}{}", column.name)) });
    }
    let by_source = s.clauses.iter().any(|c| c.matched == MergeMatch::NotMatchedBySource);
    let inserts = s.clauses.iter().any(|c| c.matched == MergeMatch::NotMatched);
    let on = JoinConstraint::On(s.on.clone());
    let join = match (by_source, inserts) {
        (true, true) => JoinOperator::FullOuter(on),
        (true, false) => JoinOperator::Left(on),
        (false, true) => JoinOperator::Right(on),
        (false, false) => JoinOperator::Inner(on),
    };
    let target_alias = TableAlias { explicit: true, name: quoted(&alias), columns: Vec::new(), at: None };
    let from = TableWithJoins {
        joins: vec![Join { relation: source, global: false, join_operator: join }],
        ..relation(s.table.clone(), Some(target_alias))
    };
    let acts = ast::Expr::BinaryOp { left: Box::new(action), op: BinaryOperator::Gt, right: Box::new(number(0)) };
    let query = select(items, vec![from], Some(acts));
    let planned = plan_query_with(&query, ctx, Some(object.id))?;
    let schema = planned.plan.schema().clone();
    let mut exprs = Vec::with_capacity(schema.fields().len());
    for (i, (qualifier, field)) in schema.iter().enumerate() {
        let column = Expr::Column(DfColumn::new(qualifier.cloned(), field.name()));
        exprs.push(match i.checked_sub(old + 1) {
            None => column.alias(naming::visible(field.name())),
            Some(new) => {
                let target = &table.columns[new];
                assign(column, &schema, target, &ctx.session.time_zone)?.alias(format!("{NEW}{}", target.name))
            }
        });
    }
    let mut plan = project(planned.plan, exprs)?;
    if table.columns.iter().any(|c| c.generated.is_some()) {
        plan = with_generated(plan, old + 1, table, ctx)?;
    }
    let plan = analyze(plan, ctx)?;
    let parameters = parameters(&plan, ctx)?;
    Ok(Plan::Merge(MergePlan { table: object.id, plan, checks: row_checks(&object, table, ctx)?, parameters }))
}

/// A clause with when it counts and what the columns become.
struct Case<'a> {
    fits: ast::Expr,
    values: Vec<ast::Expr>,
    clause: &'a MergeClause,
}

impl Case<'_> {
    fn action(&self) -> i32 {
        match self.clause.action {
            MergeAction::Nothing => 0,
            MergeAction::Insert { .. } | MergeAction::InsertAll => MERGE_INSERT,
            MergeAction::Update(_) | MergeAction::UpdateAll => MERGE_UPDATE,
            MergeAction::Delete => MERGE_DELETE,
        }
    }
}

/// `CASE WHEN fits THEN value … END`.
fn chain(
    cases: &[Case<'_>],
    value: impl Fn(&Case<'_>) -> Result<ast::Expr>,
    otherwise: Option<ast::Expr>,
) -> Result<ast::Expr> {
    let conditions = cases.iter().map(|case| Ok(CaseWhen { condition: case.fits.clone(), result: value(case)? }));
    Ok(ast::Expr::Case {
        case_token: ast::helpers::attached_token::AttachedToken::empty(),
        end_token: ast::helpers::attached_token::AttachedToken::empty(),
        operand: None,
        conditions: conditions.collect::<Result<_>>()?,
        else_result: otherwise.map(Box::new),
    })
}

/// What the columns become by a clause, in their order.
fn values(clause: &MergeClause, object: &Object, table: &Table, alias: &str, source: &str) -> Result<Vec<ast::Expr>> {
    let null = |i: usize| typed_for(ast::Expr::Value(Value::Null.into()), &table.columns[i]);
    let old = |i: usize| of(alias, &table.columns[i].name);
    let given = |i: usize| of(source, &table.columns[i].name);
    let is_computed = |i: usize| table.columns[i].generated.is_some();
    let all = 0..table.columns.len();
    Ok(match &clause.action {
        MergeAction::Nothing | MergeAction::Delete => all.map(null).collect::<Result<_>>()?,
        MergeAction::InsertAll | MergeAction::UpdateAll => {
            all.map(|i| if is_computed(i) { null(i) } else { Ok(given(i)) }).collect::<Result<_>>()?
        }
        MergeAction::Update(assignments) => {
            let assigned = assigned_columns(assignments, object)?;
            let value = |i: usize| match assigned.iter().find(|(at, _)| *at == i) {
                Some((_, expr)) => typed_for(expr.clone(), &table.columns[i]),
                None => Ok(old(i)),
            };
            all.map(value).collect::<Result<_>>()?
        }
        MergeAction::Insert { columns, values } => {
            let targets = column_positions(columns, object)?;
            let values = values.as_deref().unwrap_or_default();
            if values.len() > targets.len() || (!columns.is_empty() && values.len() < targets.len()) {
                return Err(SqlError::syntax(match values.len() > targets.len() {
                    true => "INSERT has more expressions than target columns",
                    false => "INSERT has more target columns than expressions",
                }));
            }
            let value = |i: usize| {
                let column = &table.columns[i];
                match targets.iter().position(|at| *at == i).and_then(|at| values.get(at)) {
                    Some(value) if !is_default(value) => typed_for(of_source(value.clone(), table, source), column),
                    _ if is_computed(i) => null(i),
                    _ => typed_for(default_of(column)?, column),
                }
            };
            all.map(value).collect::<Result<_>>()?
        }
    })
}

/// Where there is no row of the target, a bare name that both have is the source's.
fn of_source(mut expr: ast::Expr, table: &Table, source: &str) -> ast::Expr {
    struct Bare<'a> {
        table: &'a Table,
        source: &'a str,
        /// Depth in subqueries, where it may be a name of theirs.
        queries: usize,
    }
    impl VisitorMut for Bare<'_> {
        type Break = ();

        fn pre_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<()> {
            self.queries += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<()> {
            self.queries -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
            if let ast::Expr::Identifier(ident) = expr
                && self.queries == 0
                && self.table.columns.iter().any(|column| column.name == normalize(ident))
            {
                *expr = ast::Expr::CompoundIdentifier(vec![quoted(self.source), ident.clone()]);
            }
            ControlFlow::Continue(())
        }
    }
    let _: ControlFlow<()> = VisitMut::visit(&mut expr, &mut Bare { table, source, queries: 0 });
    expr
}

/// The source with a column that tells its rows, and what it is called.
fn marked(source: &TableFactor) -> Result<(TableFactor, String)> {
    let alias = match source {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::Function { alias: Some(alias), .. } => normalize(&alias.name),
        TableFactor::Table { name, alias: None, .. } => match name.0.last().and_then(|part| part.as_ident()) {
            Some(ident) => normalize(ident),
            None => return Err(SqlError::syntax(format!("\"{name}\" is no name of a table"))),
        },
        _ => {
            return Err(SqlError::syntax("the source of MERGE must have an alias")
                .with_hint("for example USING (SELECT ...) AS s"));
        }
    };
    let mark = SelectItem::ExprWithAlias { expr: ast::Expr::Value(Value::Boolean(true).into()), alias: quoted(SOURCE) };
    let star = SelectItem::Wildcard(ast::WildcardAdditionalOptions::default());
    let from = TableWithJoins { relation: source.clone(), joins: Vec::new() };
    let derived = TableFactor::Derived {
        lateral: false,
        subquery: select(vec![star, mark], vec![from], None),
        alias: Some(TableAlias { explicit: true, name: quoted(&alias), columns: Vec::new(), at: None }),
        sample: None,
    };
    Ok((derived, alias))
}

/// `IS NOT NULL`'s own operand.
fn of_null(there: &ast::Expr) -> ast::Expr {
    match there {
        ast::Expr::IsNotNull(inner) => inner.as_ref().clone(),
        other => other.clone(),
    }
}

fn of(alias: &str, column: &str) -> ast::Expr {
    ast::Expr::CompoundIdentifier(vec![quoted(alias), quoted(column)])
}

fn and(left: ast::Expr, right: ast::Expr) -> ast::Expr {
    ast::Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) }
}

fn number(n: i32) -> ast::Expr {
    ast::Expr::Value(Value::Number(n.to_string(), false).into())
}
