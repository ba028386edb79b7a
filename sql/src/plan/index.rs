//! Plans of statements on indexes.

use millstream_catalog::ObjectId;
use millstream_catalog::object::Index;

use super::NewName;

/// What tells that a row exists, in ON CONFLICT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictTarget {
    /// The primary key.
    Key,
    /// A unique index.
    Index(ObjectId),
}

/// `CREATE INDEX`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateIndexPlan {
    pub name: NewName,
    pub index: Index,
    /// Whether CONCURRENTLY was written.
    pub concurrently: bool,
}
