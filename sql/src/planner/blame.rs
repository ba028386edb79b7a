//! Finds the place in the text of an error that the planner raised without one.
//!
//! DataFusion's expressions have forgotten where they were written. What the error speaks of (an operator, a function, a
//! column, a condition) has suspects in the statement's tree. The statement is planned again with all suspects but the
//! first made harmless, then all but the first two, and so on: the one that brings the error back is the culprit.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinConstraint,
    JoinOperator, Query, Select, Spanned, UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion_sql::sqlparser::tokenizer::{Location, Token};

use super::plan;
use crate::context::PlanContext;
use crate::error::SqlError;
use crate::parser::text::Text;
use crate::parser::tokenize;
use crate::statement::{Parsed, Statement};
use crate::types::normalize;

/// A statement with more is not searched: each of them may take a plan.
const SUSPECTS_MAX: usize = 32;

/// What an error speaks of.
enum Subject {
    /// An operator between or before operands.
    Operator(String),
    /// A function by its name.
    Call(String),
    /// A column by the last part of its name.
    Column(String),
    /// What must be boolean and is not.
    Condition,
}

/// A place in the tree that the error may be about.
#[derive(Clone, Copy)]
struct Suspect {
    /// Where it is, or the end of the operand that an operator follows, or the start of the one that it precedes.
    start: Location,
    /// Whether it is an operator before its only operand.
    is_prefix: bool,
    /// The word that stands for the operator.
    word: Option<&'static str>,
    /// The clause that a condition belongs to.
    clause: Option<&'static str>,
}

/// The error with the line and column that it is about, if they can be found.
pub(super) fn located(parsed: &Parsed, error: SqlError, ctx: &PlanContext<'_>) -> SqlError {
    if error.position.is_some() || error.location.is_some() {
        return error;
    }
    let Some(subject) = subject(&error) else { return error };
    let Some(suspect) = culprit(&parsed.statement, &subject, &error, ctx) else { return error };
    let mut error = error;
    if let (Some(clause), Some(rest)) = (suspect.clause, error.message.strip_prefix("argument of a condition")) {
        error.message = format!("argument of {clause}{rest}");
    }
    let place = match &subject {
        Subject::Operator(symbol) => operator(parsed, symbol, suspect),
        _ => Some(suspect.start),
    };
    if let Some(place) = place.filter(|place| place.line > 0) {
        error.location = Some((place.line as u32, place.column as u32));
    }
    error
}

fn subject(error: &SqlError) -> Option<Subject> {
    let message = error.message.as_str();
    match error.sqlstate {
        "42883" => {
            if let Some(operation) = message.strip_prefix("operator does not exist: ") {
                let is_symbol = |word: &&str| !word.contains(|c: char| c.is_alphanumeric());
                return operation.split_whitespace().find(is_symbol).map(|symbol| Subject::Operator(symbol.into()));
            }
            let name = message.strip_prefix("function ")?.split(['(', ' ']).next()?;
            Some(Subject::Call(name.to_string()))
        }
        "42703" => {
            let name = message.strip_prefix("column ")?.strip_suffix(" does not exist")?;
            Some(Subject::Column(name.rsplit('.').next()?.trim_matches('"').to_string()))
        }
        "42804" if message.starts_with("argument of ") => Some(Subject::Condition),
        _ => None,
    }
}

fn culprit(statement: &Statement, subject: &Subject, error: &SqlError, ctx: &PlanContext<'_>) -> Option<Suspect> {
    let fails_alike = |statement: &Statement| match plan(statement, ctx) {
        Err(e) => e.sqlstate == error.sqlstate && e.message == error.message,
        Ok(_) => false,
    };
    let (harmless, suspects) = kept(statement, subject, 0)?;
    if suspects.is_empty() || suspects.len() > SUSPECTS_MAX || fails_alike(&harmless) {
        return None;
    }
    (1..=suspects.len())
        .find(|keep| kept(statement, subject, *keep).is_some_and(|(statement, _)| fails_alike(&statement)))
        .map(|keep| suspects[keep - 1])
}

/// The statement with all suspects made harmless but the first `keep`, and the suspects.
fn kept(statement: &Statement, subject: &Subject, keep: usize) -> Option<(Statement, Vec<Suspect>)> {
    let mut statement = statement.clone();
    let mut search = Search { subject, keep, suspects: Vec::new() };
    let _ = VisitMut::visit(query_of(&mut statement)?, &mut search);
    Some((statement, search.suspects))
}

fn query_of(statement: &mut Statement) -> Option<&mut Query> {
    match statement {
        Statement::Query(query) => Some(query.as_mut()),
        Statement::Explain(explain) => query_of(&mut explain.statement),
        Statement::CreateTableAs(s) => Some(s.query.as_mut()),
        Statement::CreateView(s) => Some(s.query.as_mut()),
        Statement::CreateMaterializedView(s) => Some(s.query.as_mut()),
        Statement::Insert(s) => s.source.as_mut().map(AsMut::as_mut),
        _ => None,
    }
}

/// Visits in the order in which PostgreSQL looks at a tree: operands before their operator.
struct Search<'a> {
    subject: &'a Subject,
    keep: usize,
    suspects: Vec<Suspect>,
}

impl Search<'_> {
    /// Notes a suspect; whether it is to be made harmless.
    fn found(&mut self, suspect: Suspect) -> bool {
        self.suspects.push(suspect);
        self.suspects.len() > self.keep
    }

    fn column(&mut self, expr: &mut Expr, start: Location) {
        if self.found(at(start)) {
            *expr = null();
        }
    }

    fn condition(&mut self, expr: &mut Expr, clause: &'static str) {
        if self.found(Suspect { clause: Some(clause), ..at(expr.span().start) }) {
            let inner = std::mem::replace(expr, null());
            *expr = Expr::IsNull(Box::new(Expr::Nested(Box::new(inner))));
        }
    }
}

impl VisitorMut for Search<'_> {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if !matches!(self.subject, Subject::Condition) {
            return ControlFlow::Continue(());
        }
        for join in select.from.iter_mut().flat_map(|from| &mut from.joins) {
            use JoinOperator as J;
            if let J::Join(on)
            | J::Inner(on)
            | J::Left(on)
            | J::LeftOuter(on)
            | J::Right(on)
            | J::RightOuter(on)
            | J::FullOuter(on) = &mut join.join_operator
                && let JoinConstraint::On(on) = on
            {
                self.condition(on, "JOIN/ON");
            }
        }
        if let Some(selection) = &mut select.selection {
            self.condition(selection, "WHERE");
        }
        if let Some(having) = &mut select.having {
            self.condition(having, "HAVING");
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match (self.subject, &mut *expr) {
            (Subject::Operator(symbol), Expr::BinaryOp { left, op, right }) if op.to_string() == *symbol => {
                let (end, operands) = (left.span().end, vec![left.as_ref().clone(), right.as_ref().clone()]);
                if self.found(at(end)) {
                    *expr = harmless(operands);
                }
            }
            (Subject::Operator(symbol), Expr::UnaryOp { op, expr: operand }) if op.to_string() == *symbol => {
                let operand = operand.as_ref().clone();
                if self.found(Suspect { is_prefix: true, ..at(operand.span().start) }) {
                    *expr = harmless(vec![operand]);
                }
            }
            (Subject::Operator(symbol), Expr::InList { expr: operand, list, negated }) if symbol == "=" => {
                let operands = std::iter::once(operand.as_ref().clone()).chain(list.iter().cloned()).collect();
                let word = Some(if *negated { "NOT" } else { "IN" });
                if self.found(Suspect { word, ..at(operand.span().end) }) {
                    *expr = harmless(operands);
                }
            }
            (Subject::Operator(symbol), Expr::Between { expr: operand, low, high, negated })
                if matches!(symbol.as_str(), ">=" | "<=") =>
            {
                let operands = [&*operand, &*low, &*high].map(|e| e.as_ref().clone()).to_vec();
                let word = Some(if *negated { "NOT" } else { "BETWEEN" });
                if self.found(Suspect { word, ..at(operand.span().end) }) {
                    *expr = harmless(operands);
                }
            }
            (Subject::Call(name), Expr::Function(function)) if is_named(function, name) => {
                let arguments = arguments(function);
                if self.found(at(function.name.span().start)) {
                    *expr = harmless(arguments);
                }
            }
            (Subject::Column(name), Expr::Identifier(ident)) if normalize(ident) == *name => {
                let start = ident.span.start;
                self.column(expr, start);
            }
            (Subject::Column(name), Expr::CompoundIdentifier(idents)) if last_is(idents, name) => {
                let start = idents.first().map_or(Location { line: 0, column: 0 }, |i| i.span.start);
                self.column(expr, start);
            }
            (
                Subject::Condition,
                Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right },
            ) => {
                let clause = if *op == BinaryOperator::And { "AND" } else { "OR" };
                self.condition(left, clause);
                self.condition(right, clause);
            }
            (Subject::Condition, Expr::UnaryOp { op: UnaryOperator::Not, expr }) => self.condition(expr, "NOT"),
            (Subject::Condition, Expr::Case { operand: None, conditions, .. }) => {
                for when in conditions {
                    self.condition(&mut when.condition, "CASE/WHEN");
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn at(start: Location) -> Suspect {
    Suspect { start, is_prefix: false, word: None, clause: None }
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

fn last_is(idents: &[Ident], name: &str) -> bool {
    idents.last().is_some_and(|ident| normalize(ident) == name)
}

fn is_named(function: &Function, name: &str) -> bool {
    function.name.0.last().and_then(|part| part.as_ident()).is_some_and(|ident| normalize(ident) == name)
}

fn arguments(function: &Function) -> Vec<Expr> {
    let FunctionArguments::List(list) = &function.args else { return Vec::new() };
    let expr = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().filter_map(expr).collect()
}

/// NULL, with the operands still looked at.
fn harmless(operands: Vec<Expr>) -> Expr {
    let is_null = |operand| Expr::IsNull(Box::new(Expr::Nested(Box::new(operand))));
    let both = |l, r| Expr::BinaryOp { left: Box::new(l), op: BinaryOperator::And, right: Box::new(r) };
    let Some(condition) = operands.into_iter().map(is_null).reduce(both) else { return null() };
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: null() }],
        else_result: None,
    }
}

/// Where a suspect's operator stands, in lines and columns of the whole text.
fn operator(parsed: &Parsed, symbol: &str, suspect: Suspect) -> Option<Location> {
    let (line, column) = parsed.start;
    if suspect.start.line < line {
        return None;
    }
    // The statement's own text starts at line 1, column 1.
    let first = |l: u64| if l == 1 { column - 1 } else { 0 };
    let symbol = suspect.word.unwrap_or(symbol);
    let key = |place: &Location| (place.line, place.column);
    let tokens = tokenize(&Text::new(&parsed.text), &parsed.text).ok()?;
    let mut before = None;
    let mut depth = 0;
    for token in &tokens {
        let start = token.span.start;
        let start = Location { line: start.line + line - 1, column: start.column + first(start.line) };
        let is_symbol = token.token.to_string().eq_ignore_ascii_case(symbol);
        if key(&start) < key(&suspect.start) {
            before = if is_symbol { Some(start) } else { before };
            continue;
        }
        if suspect.is_prefix {
            return before;
        }
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ if depth <= 0 && is_symbol => return Some(start),
            _ => {}
        }
    }
    None
}
