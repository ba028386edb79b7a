//! What can be wrong with a source or sink: a message that names it, its SQLSTATE, and a hint where there is one.

use std::fmt;

/// A result whose error is a [`ConnectorError`].
pub type Result<T, E = ConnectorError> = std::result::Result<T, E>;

/// The SQLSTATEs of this crate; names are PostgreSQL's.
pub mod sqlstate {
    /// 08001: the broker cannot be reached.
    pub const CANNOT_CONNECT: &str = "08001";
    /// 08006: the broker was there and is not any more.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// 0A000: a construct that is not supported, by name.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// 22023: an option's value, or an unknown option.
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    /// 22P02: text that is not of the type asked.
    pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
    /// 28000: the broker refused the credentials.
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// 42704: the topic does not exist.
    pub const UNDEFINED_OBJECT: &str = "42704";
    /// 54000: a row that the broker would not take.
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    /// 55006: somebody else has it.
    pub const OBJECT_IN_USE: &str = "55006";
    /// 57014: the work was asked to stop.
    pub const QUERY_CANCELED: &str = "57014";
    /// 58P01: there is no such file.
    pub const UNDEFINED_FILE: &str = "58P01";
    /// 58030: any other failure of the outside.
    pub const IO_ERROR: &str = "58030";
    /// XX000: something that should not happen.
    pub const INTERNAL_ERROR: &str = "XX000";
}

/// What a client sees of a failure. Boxed so that a `Result` stays small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorError(Box<Fields>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    sqlstate: &'static str,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl ConnectorError {
    /// An error with a SQLSTATE and a message in lower case that names the object.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Fields { sqlstate, message: message.into(), detail: None, hint: None }))
    }

    /// 22023: a wrong option.
    pub fn option(message: impl Into<String>) -> Self {
        Self::new(sqlstate::INVALID_PARAMETER_VALUE, message)
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

    /// The five-character code.
    pub fn sqlstate(&self) -> &'static str {
        self.0.sqlstate
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
}

impl fmt::Display for ConnectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ConnectorError {}

impl From<arrow::error::ArrowError> for ConnectorError {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::internal(e.to_string())
    }
}
