//! One error type for the whole server: a message that names the object, its SQLSTATE, and a hint where there is one.

use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use millstream_catalog::CatalogError;
use millstream_connectors::ConnectorError;
use millstream_sql::SqlError;

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a client sees of a failure. Boxed so that a `Result` stays small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Fields>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    sqlstate: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<usize>,
    context: Option<String>,
    about: About,
}

/// What a violated constraint is of, for clients that do not read messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

/// The SQLSTATEs that this crate gives itself; names are PostgreSQL's.
pub mod sqlstate {
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const CARDINALITY_VIOLATION: &str = "21000";
    pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
    pub const DIVISION_BY_ZERO: &str = "22012";
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
    pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
    pub const BAD_COPY_FILE_FORMAT: &str = "22P04";
    pub const NOT_NULL_VIOLATION: &str = "23502";
    pub const UNIQUE_VIOLATION: &str = "23505";
    pub const CHECK_VIOLATION: &str = "23514";
    pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: &str = "25P03";
    pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    pub const SERIALIZATION_FAILURE: &str = "40001";
    pub const SYNTAX_ERROR: &str = "42601";
    pub const UNDEFINED_COLUMN: &str = "42703";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const UNDEFINED_TABLE: &str = "42P01";
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    pub const DISK_FULL: &str = "53100";
    pub const OUT_OF_MEMORY: &str = "53200";
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    pub const CONNECTION_FAILURE: &str = "08006";
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub const QUERY_CANCELED: &str = "57014";
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    pub const IO_ERROR: &str = "58030";
    pub const UNDEFINED_FILE: &str = "58P01";
    pub const SNAPSHOT_TOO_OLD: &str = "72000";
    pub const FDW_ERROR: &str = "HV000";
    pub const INTERNAL_ERROR: &str = "XX000";
    pub const DATA_CORRUPTED: &str = "XX001";
}

impl Error {
    /// An error with a SQLSTATE and a message in lower case that names the object.
    pub fn new(sqlstate: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Box::new(Fields {
            sqlstate: sqlstate.into(),
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            context: None,
            about: About::default(),
        }))
    }

    /// 0A000: a construct that is not supported, by name.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
    }

    /// XX000: something that should not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(sqlstate::INTERNAL_ERROR, message)
    }

    /// Adds what the user can do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds a DETAIL line.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds where in the statement it is, in characters from 1.
    pub fn with_position(mut self, position: usize) -> Self {
        self.0.position = Some(position);
        self
    }

    /// The same without its place, which is in another text than the client's.
    pub fn without_position(mut self) -> Self {
        self.0.position = None;
        self
    }

    /// Adds what the server was doing: a line of a COPY.
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.0.context = Some(context.into());
        self
    }

    /// Adds what a violated constraint is of.
    pub fn with_about(mut self, about: About) -> Self {
        self.0.about = about;
        self
    }

    /// What a violated constraint is of.
    pub fn about(&self) -> &About {
        &self.0.about
    }

    /// The five-character code.
    pub fn sqlstate(&self) -> &str {
        &self.0.sqlstate
    }

    /// The message without detail and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The DETAIL line.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The HINT line.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Character position in the statement, from 1.
    pub fn position(&self) -> Option<usize> {
        self.0.position
    }

    /// The CONTEXT line.
    pub fn context(&self) -> Option<&str> {
        self.0.context.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl From<CatalogError> for Error {
    fn from(e: CatalogError) -> Self {
        let mut error = Self::new(e.sqlstate(), e.to_string());
        if let Some(detail) = e.detail() {
            error = error.with_detail(detail);
        }
        match e.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

impl From<SqlError> for Error {
    fn from(e: SqlError) -> Self {
        Self(Box::new(Fields {
            sqlstate: e.sqlstate.to_string(),
            message: e.message,
            detail: e.detail,
            hint: e.hint,
            position: e.position,
            context: None,
            about: About::default(),
        }))
    }
}

impl From<ConnectorError> for Error {
    fn from(e: ConnectorError) -> Self {
        Self(Box::new(Fields {
            sqlstate: e.sqlstate().to_string(),
            message: e.message().to_string(),
            detail: e.detail().map(str::to_string),
            hint: e.hint().map(str::to_string),
            position: None,
            context: None,
            about: About::default(),
        }))
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::of_io(&e)
    }
}

impl From<ArrowError> for Error {
    fn from(e: ArrowError) -> Self {
        Self::of_arrow(&e)
    }
}

impl From<DataFusionError> for Error {
    fn from(e: DataFusionError) -> Self {
        Self::of_datafusion(&e)
    }
}

impl From<Error> for DataFusionError {
    fn from(e: Error) -> Self {
        Self::External(Box::new(e))
    }
}

impl Error {
    fn of_io(e: &std::io::Error) -> Self {
        let code = match e.kind() {
            std::io::ErrorKind::NotFound => sqlstate::UNDEFINED_FILE,
            std::io::ErrorKind::StorageFull => sqlstate::DISK_FULL,
            _ => sqlstate::IO_ERROR,
        };
        Self::new(code, e.to_string())
    }

    fn of_arrow(e: &ArrowError) -> Self {
        match e {
            ArrowError::DivideByZero => Self::new(sqlstate::DIVISION_BY_ZERO, "division by zero"),
            ArrowError::ArithmeticOverflow(m) => Self::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, out_of_range(m)),
            ArrowError::CastError(m) | ArrowError::ParseError(m) => {
                Self::new(sqlstate::INVALID_TEXT_REPRESENTATION, m.clone())
            }
            ArrowError::InvalidArgumentError(m) | ArrowError::ComputeError(m) => {
                Self::new(sqlstate::INVALID_PARAMETER_VALUE, m.clone())
            }
            ArrowError::NotYetImplemented(m) => Self::unsupported(m.clone()),
            ArrowError::ExternalError(e) => Self::of_boxed(e.as_ref()),
            other => Self::internal(other.to_string()),
        }
    }

    /// By reference, as the partitions of a plan may share one error: what it becomes must not depend on who of them
    /// still holds it.
    fn of_datafusion(e: &DataFusionError) -> Self {
        if let Some(ours) = Self::inside(e) {
            return ours.clone();
        }
        match e {
            DataFusionError::ArrowError(e, _) => Self::of_arrow(e),
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => Self::of_datafusion(inner),
            DataFusionError::External(e) => Self::of_boxed(e.as_ref()),
            DataFusionError::Shared(e) => Self::of_datafusion(e),
            DataFusionError::Collection(errors) if !errors.is_empty() => Self::of_datafusion(&errors[0]),
            DataFusionError::ResourcesExhausted(m) => Self::new(sqlstate::OUT_OF_MEMORY, m.clone())
                .with_hint("raise batch.memory_limit_bytes or make the query need less memory"),
            DataFusionError::NotImplemented(m) if m.contains("OuterReferenceColumn") => {
                Self::unsupported("a correlated subquery of this form is not supported").with_hint("write it as a join")
            }
            DataFusionError::NotImplemented(m) => Self::unsupported(m.clone()),
            DataFusionError::ObjectStore(e) => {
                let code = match e.as_ref() {
                    object_store::Error::NotFound { .. } => sqlstate::UNDEFINED_FILE,
                    _ => sqlstate::IO_ERROR,
                };
                Self::new(code, e.to_string())
            }
            DataFusionError::IoError(e) => Self::of_io(e),
            DataFusionError::Execution(m) if m.starts_with("Scalar subquery returned more than one row") => Self::new(
                sqlstate::CARDINALITY_VIOLATION,
                "more than one row returned by a subquery used as an expression",
            ),
            DataFusionError::SQL(..)
            | DataFusionError::SchemaError(..)
            | DataFusionError::Plan(_)
            | DataFusionError::Execution(_) => SqlError::from_datafusion(e).into(),
            other => Self::internal(other.strip_backtrace()),
        }
    }

    /// Errors of ours that travelled through DataFusion or Arrow, and those of other libraries.
    fn of_boxed(e: &(dyn std::error::Error + Send + Sync + 'static)) -> Self {
        if let Some(ours) = e.downcast_ref::<Self>() {
            ours.clone()
        } else if let Some(e) = e.downcast_ref::<SqlError>() {
            e.clone().into()
        } else if let Some(e) = e.downcast_ref::<ConnectorError>() {
            e.clone().into()
        } else if let Some(e) = e.downcast_ref::<DataFusionError>() {
            Self::of_datafusion(e)
        } else if let Some(e) = e.downcast_ref::<ArrowError>() {
            Self::of_arrow(e)
        } else {
            SqlError::of_unknown(&e.to_string()).into()
        }
    }

    /// The error of ours that another one was made from, if it was.
    pub fn inside<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref::<Self>() {
                return Some(ours);
            }
            next = error.source();
        }
        None
    }
}

/// PostgreSQL's wording for an overflow that Arrow reports as `Overflow happened on: 1 + 2`.
fn out_of_range(message: &str) -> String {
    if message.starts_with("Overflow happened") { "value out of range".into() } else { message.into() }
}
