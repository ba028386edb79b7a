//! What is wrong with a statement: SQLSTATE, message, and where in the text it is.

use std::fmt;

use arrow::error::ArrowError;
use datafusion_common::{DataFusionError, SchemaError};
use millstream_catalog::CatalogError;

/// A result whose error is a [`SqlError`].
pub type Result<T, E = SqlError> = std::result::Result<T, E>;

/// An error of parsing, planning or evaluating SQL. Functions raise it through
/// [`DataFusionError::External`], so that it keeps its SQLSTATE on the way through the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// The five-character code, PostgreSQL's.
    pub sqlstate: &'static str,
    /// Lower case, names the object.
    pub message: String,
    /// The DETAIL line.
    pub detail: Option<String>,
    /// The HINT line: what the user can do.
    pub hint: Option<String>,
    /// Character position in the text given to [`crate::parse`], from 1.
    pub position: Option<usize>,
    /// Line and column, from 1, where planning found the error; [`crate::Parsed::locate`] makes a position of it.
    pub location: Option<(u32, u32)>,
}

impl SqlError {
    /// An error without detail, hint and position.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None, position: None, location: None }
    }

    /// 0A000: a construct that is not supported, by name.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new("0A000", message)
    }

    /// 42601.
    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new("42601", message)
    }

    /// XX000: something that should not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("XX000", message)
    }

    /// Adds a DETAIL line.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what the user can do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds where in the text it is, in characters from 1, unless that is known already.
    pub fn with_position(mut self, position: impl Into<Option<usize>>) -> Self {
        self.position = self.position.or(position.into());
        self
    }

    /// Adds where sqlparser saw it.
    pub fn with_span(mut self, span: datafusion_sql::sqlparser::tokenizer::Span) -> Self {
        if self.location.is_none() && span.start.line > 0 {
            self.location = Some((span.start.line as u32, span.start.column as u32));
        }
        self
    }

    /// What DataFusion reports, with errors of ours that travelled through it taken out again.
    ///
    /// By reference, as a plan's partitions may share one error: what it becomes must not depend on who still holds it.
    pub fn from_datafusion(error: &DataFusionError) -> Self {
        match error {
            DataFusionError::External(e) => {
                if let Some(ours) = e.downcast_ref::<Self>() {
                    ours.clone()
                } else if let Some(e) = e.downcast_ref::<DataFusionError>() {
                    Self::from_datafusion(e)
                } else if let Some(e) = e.downcast_ref::<ArrowError>() {
                    Self::from_arrow(e)
                } else {
                    Self::of_unknown(&e.to_string())
                }
            }
            DataFusionError::Context(_, e) => Self::from_datafusion(e),
            DataFusionError::Diagnostic(diagnostic, e) => {
                let mut error = Self::from_datafusion(e);
                if let (None, Some(span)) = (error.location, diagnostic.span) {
                    error.location = Some((span.start.line as u32, span.start.column as u32));
                }
                error
            }
            DataFusionError::Collection(errors) if !errors.is_empty() => Self::from_datafusion(&errors[0]),
            DataFusionError::ArrowError(e, _) => Self::from_arrow(e),
            DataFusionError::SchemaError(e, _) => Self::from_schema(e),
            DataFusionError::SQL(e, _) => Self::syntax(e.to_string()),
            DataFusionError::NotImplemented(m) => Self::unsupported(lower_first(m)),
            DataFusionError::Plan(m) => Self::from_plan_message(m),
            DataFusionError::Shared(e) => Self::from_datafusion(e),
            // Functions refuse arguments so, also when they are evaluated while planning.
            DataFusionError::Execution(m) => Self::from_execution_message(m),
            other => Self::internal(other.strip_backtrace()),
        }
    }

    /// What an Arrow kernel reports.
    pub fn from_arrow(error: &ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(e) => match e.downcast_ref::<Self>() {
                Some(ours) => ours.clone(),
                None => Self::internal(e.to_string()),
            },
            ArrowError::DivideByZero => Self::new("22012", "division by zero"),
            ArrowError::ArithmeticOverflow(_) => Self::new("22003", "value out of range"),
            ArrowError::CastError(m) | ArrowError::ParseError(m) => Self::new("22P02", lower_first(m)),
            ArrowError::InvalidArgumentError(m) | ArrowError::ComputeError(m) => Self::new("22023", lower_first(m)),
            ArrowError::NotYetImplemented(m) => Self::unsupported(lower_first(m)),
            other => Self::internal(other.to_string()),
        }
    }

    /// An error that a library raises as its own, by its text.
    pub fn of_unknown(message: &str) -> Self {
        if message.starts_with("regex parse error") {
            let reason = message.rsplit("error: ").next().unwrap_or(message);
            return Self::new("2201B", format!("invalid regular expression: {reason}"));
        }
        Self::internal(message)
    }

    fn from_execution_message(message: &str) -> Self {
        if let Some(field) = missing_field(message) {
            return field;
        }
        let code = match message {
            m if m.starts_with("unable to parse date from") || m.starts_with("Unable to parse date from") => "22008",
            m if m.starts_with("negative") && m.contains("not allowed") => "22011",
            _ => "22023",
        };
        Self::new(code, lower_first(&postgresql_types(message)))
    }

    fn from_schema(error: &SchemaError) -> Self {
        match error {
            SchemaError::FieldNotFound { field, .. } => {
                Self::new("42703", format!("column {} does not exist", quoted_column(field)))
            }
            SchemaError::AmbiguousReference { field } => {
                Self::new("42702", format!("column reference \"{}\" is ambiguous", field.name))
            }
            SchemaError::DuplicateUnqualifiedField { name } | SchemaError::DuplicateQualifiedField { name, .. } => {
                Self::new("42701", format!("column \"{name}\" specified more than once"))
            }
        }
    }

    fn from_plan_message(message: &str) -> Self {
        if let Some(field) = missing_field(message) {
            return field;
        }
        let renamed = postgresql_types(message);
        let m = renamed.as_str();
        if m.contains("non-boolean predicate") {
            let found = m.rsplit(" returning ").next().and_then(|t| t.split('(').next()).unwrap_or_default();
            return Self::new("42804", format!("argument of a condition must be type boolean, not type {found}"));
        }
        if let Some(found) = m.split("ondition must be boolean type, but got ").nth(1) {
            return Self::new("42804", format!("argument of a condition must be type boolean, not type {found}"));
        }
        let no_operator = |operation: String| {
            Self::new("42883", format!("operator does not exist: {operation}"))
                .with_hint("no operator takes these types; you might need to add explicit type casts")
        };
        if let Some(operation) = m.split("common argument type for regex operation ").nth(1) {
            return no_operator(operation.to_string());
        }
        if let Some(types) = m.strip_suffix(" in LIKE expression").and_then(|m| m.split("type to coerce ").nth(1)) {
            return no_operator(types.replacen(" and ", " ~~ ", 1));
        }
        if let Some(found) = m.split("Unary operator 'NOT' requires a boolean expression, got ").nth(1) {
            return Self::new("42804", format!("argument of NOT must be type boolean, not type {found}"));
        }
        if m.starts_with("Unary operator '-'") {
            return Self::new("42883", "operator does not exist: - for what is neither number nor interval");
        }
        if m.contains("Aggregate functions are not allowed") {
            return Self::new("42803", lower_first(m));
        }
        if m.starts_with("LIMIT must be >= 0") || m.starts_with("OFFSET must be >=0") {
            return Self::new(if m.starts_with('L') { "2201W" } else { "2201X" }, m);
        }
        if m.contains("must appear in the GROUP BY clause") || m.contains("must be in the GROUP BY") {
            let column = m.split("\" must appear in the GROUP BY").next().and_then(|before| before.rsplit('"').next());
            return match column.filter(|c| *c != m) {
                Some(column) => Self::new(
                    "42803",
                    format!(
                        "column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate function"
                    ),
                ),
                None => Self::new("42803", lower_first(m)),
            };
        }
        if m.starts_with("Order by column out of bounds") || m.starts_with("Cannot find column with position") {
            return Self::new("42P10", lower_first(m));
        }
        if m.starts_with("Aggregate function calls cannot be nested") {
            return Self::new("42803", "aggregate function calls cannot be nested");
        }
        if m.starts_with("Invalid function") {
            let name = m.split('\'').nth(1).unwrap_or_default();
            return Self::new("42883", format!("function {name} does not exist"))
                .with_hint("no function of that name; \\df lists the functions");
        }
        let call = m.split("given name and argument types '").nth(1).and_then(|rest| rest.split('\'').next());
        if let Some(call) = call {
            return Self::new("42883", format!("function {call} does not exist"))
                .with_hint("no function matches the given name and argument types; an explicit cast may help");
        }
        if m.contains("function") && (m.contains("coercion") || m.contains("signature") || m.contains("No function")) {
            return Self::new("42883", lower_first(m.lines().next().unwrap_or(m)))
                .with_hint("no function matches the given name and argument types; an explicit cast may help");
        }
        if m.contains("Cannot coerce") || m.contains("coerce") || m.contains("Cannot infer common") {
            return Self::new("42804", lower_first(m));
        }
        Self::new("42601", lower_first(m))
    }
}

/// A field that a record does not have.
fn missing_field(message: &str) -> Option<SqlError> {
    let before = message.split(" not found in struct").next().filter(|before| *before != message)?;
    let field = before.split_whitespace().last()?.trim_matches(['\'', '"']);
    Some(SqlError::new("42703", format!("column \"{field}\" not found in data type record")))
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SqlError {}

impl From<SqlError> for DataFusionError {
    fn from(e: SqlError) -> Self {
        Self::External(Box::new(e))
    }
}

impl From<SqlError> for ArrowError {
    fn from(e: SqlError) -> Self {
        Self::ExternalError(Box::new(e))
    }
}

impl From<DataFusionError> for SqlError {
    fn from(e: DataFusionError) -> Self {
        Self::from_datafusion(&e)
    }
}

impl From<ArrowError> for SqlError {
    fn from(e: ArrowError) -> Self {
        Self::from_arrow(&e)
    }
}

impl From<CatalogError> for SqlError {
    fn from(e: CatalogError) -> Self {
        Self {
            sqlstate: e.sqlstate(),
            message: e.to_string(),
            detail: e.detail(),
            hint: e.hint(),
            position: None,
            location: None,
        }
    }
}

fn quoted_column(column: &datafusion_common::Column) -> String {
    match &column.relation {
        Some(relation) => format!("{}.{}", relation.table(), column.name),
        None => format!("\"{}\"", column.name),
    }
}

/// Arrow's names of types in a message as PostgreSQL's.
fn postgresql_types(message: &str) -> String {
    const NAMES: [(&str, &str); 14] = [
        ("Utf8View", "text"),
        ("LargeUtf8", "text"),
        ("Utf8", "text"),
        ("Int64", "bigint"),
        ("Int32", "integer"),
        ("Int16", "smallint"),
        ("Float64", "double precision"),
        ("Float32", "real"),
        ("Boolean", "boolean"),
        ("Date32", "date"),
        ("BinaryView", "bytea"),
        ("Binary", "bytea"),
        ("Decimal128", "numeric"),
        ("Null", "unknown"),
    ];
    // Those with arguments, as Arrow prints our layouts.
    const WITH_ARGUMENTS: [(&str, &str); 4] = [
        ("Timestamp(µs, \"UTC\")", "timestamp with time zone"),
        ("Timestamp(µs)", "timestamp without time zone"),
        ("Time64(µs)", "time without time zone"),
        ("Interval(MonthDayNano)", "interval"),
    ];
    let mut out = String::with_capacity(message.len());
    let message = WITH_ARGUMENTS.iter().fold(message.to_string(), |text, (arrow, ours)| text.replace(arrow, ours));
    let mut rest = message.as_str();
    while let Some(c) = rest.chars().next() {
        let word = rest.len() - rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
        let (taken, put) = match word {
            0 => (c.len_utf8(), &rest[..c.len_utf8()]),
            _ => {
                let known = NAMES.iter().find(|(arrow, _)| *arrow == &rest[..word]);
                (word, known.map_or(&rest[..word], |(_, ours)| *ours))
            }
        };
        out.push_str(put);
        rest = &rest[taken..];
    }
    out
}

/// DataFusion's messages start with a capital, ours do not; names in capitals (`CAST`) stay.
fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_postgresqls_names() {
        let message = "sum(Utf8View, Decimal128(10, 2)) takes Int64, not é Utf8Views";
        assert_eq!(postgresql_types(message), "sum(text, numeric(10, 2)) takes bigint, not é Utf8Views");
        let message = "age(Timestamp(µs, \"UTC\"), Timestamp(µs), Interval(MonthDayNano))";
        assert_eq!(postgresql_types(message), "age(timestamp with time zone, timestamp without time zone, interval)");
    }

    #[test]
    fn conditions_that_are_no_conditions_have_their_code() {
        let error = SqlError::from_datafusion(&DataFusionError::Plan(
            "Cannot create filter with non-boolean predicate 'c.g' returning Utf8View".into(),
        ));
        assert_eq!(error.sqlstate, "42804");
        assert_eq!(error.message, "argument of a condition must be type boolean, not type text");
    }
}
