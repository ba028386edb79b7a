//! What objects are known by for ever.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identity of an object for ever: its OID to clients, its key prefix in the store; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub u32);

impl ObjectId {
    /// First id of objects that users make; PostgreSQL too keeps those below for itself.
    pub const FIRST_USER: Self = Self(16384);
    /// OID of schema `pg_catalog`, as in PostgreSQL.
    pub const PG_CATALOG: Self = Self(11);
    /// OID of schema `public`, as in PostgreSQL.
    pub const PUBLIC: Self = Self(2200);
    /// OID of schema `information_schema`.
    pub const INFORMATION_SCHEMA: Self = Self(13000);
    /// OID of schema `millstream`, which shows the server's inside.
    pub const MILLSTREAM: Self = Self(13001);
    /// OID of the one database.
    pub const DATABASE: Self = Self(5);
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
