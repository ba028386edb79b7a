//! What can be wrong with a catalog change, named by what the caller can do about it.

use thiserror::Error;

/// A result whose error is a [`CatalogError`].
pub type Result<T> = std::result::Result<T, CatalogError>;

/// Why a lookup or a change was refused. Each maps to one SQLSTATE ([`CatalogError::sqlstate`]).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// A relation of that name is not in the search path.
    #[error("{kind} \"{name}\" does not exist")]
    NotFound { kind: &'static str, name: String },
    /// The name is taken; PostgreSQL keeps all relations of a schema in one name space.
    #[error("{kind} \"{name}\" already exists")]
    Duplicate { kind: &'static str, name: String },
    /// The object exists but is of another kind than the statement speaks of.
    #[error("\"{name}\" is not a {expected}")]
    WrongKind { name: String, expected: &'static str, actual: &'static str },
    /// Others are built on the object. `dependents` has them, and what each is built on, as `materialized view "v"`.
    #[error("cannot drop {object} because other objects depend on it")]
    InUse { object: String, dependents: Vec<(String, String)> },
    /// The schema or object belongs to the system.
    #[error("permission denied: \"{name}\" is a system {kind}")]
    Reserved { kind: &'static str, name: String },
    /// Roles cannot have that name.
    #[error("role name \"{0}\" is reserved")]
    ReservedRole(String),
    /// A stored record could not be read.
    #[error("catalog record of object {id} cannot be read: {reason}")]
    Corrupt { id: u32, reason: String },
}

impl CatalogError {
    /// The five-character SQLSTATE that PostgreSQL gives for this condition.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::NotFound { kind: "schema", .. } => "3F000",
            Self::NotFound { kind: "task" | "secret" | "role", .. } => "42704",
            Self::NotFound { .. } => "42P01",
            Self::Duplicate { kind: "schema", .. } => "42P06",
            Self::Duplicate { kind: "function", .. } => "42723",
            Self::Duplicate { kind: "task" | "secret" | "role", .. } => "42710",
            Self::Duplicate { .. } => "42P07",
            Self::WrongKind { .. } => "42809",
            Self::InUse { .. } => "2BP01",
            Self::Reserved { .. } => "42501",
            Self::ReservedRole(_) => "42939",
            Self::Corrupt { .. } => "XX001",
        }
    }

    /// What the user can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { .. } => Some("use DROP ... CASCADE to drop the dependent objects too".into()),
            Self::WrongKind { actual, .. } => Some(format!("it is a {actual}")),
            Self::ReservedRole(_) => Some("choose another name; those that begin with pg_ are the system's".into()),
            _ => None,
        }
    }

    /// The lines that PostgreSQL puts under DETAIL.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::InUse { dependents, .. } => {
                Some(dependents.iter().map(|(d, on)| format!("{d} depends on {on}")).collect::<Vec<_>>().join("\n"))
            }
            _ => None,
        }
    }
}
