//! Names, types and objects of one Millstream database, as one versioned catalog.
//!
//! * [`types`]: the SQL types and the one Arrow layout each of them has, in memory and on disk.
//! * [`jsonb`]: the text that a document has as jsonb.
//! * [`object`]: schemas, tables, sources, views, sinks, functions, tasks: what a definition holds once it is validated.
//! * [`role`], [`privilege`]: who there is, and what can be granted; [`rights`]: who may do what.
//! * [`id`]: what objects are known by.
//! * [`index`]: indexes of tables and materialized views.
//! * [`catalog`]: the objects together: lookup by name and id, dependencies, and the [`Draft`] that a statement edits.
//!
//! This crate does no I/O. The server stores each [`Object`] as one record (see [`Object::to_record`]) in the write of the
//! epoch that made it, and builds the [`Catalog`] from those records at start.

pub mod catalog;
pub mod error;
pub mod id;
pub mod index;
pub mod jsonb;
pub mod object;
pub mod privilege;
pub mod rights;
pub mod role;
pub mod types;

pub use catalog::{Catalog, Change, Draft};
pub use error::{CatalogError, Result};
pub use object::{Column, Object, ObjectId, ObjectKind};
pub use privilege::{Privilege, Privileges};
pub use role::Role;
pub use types::SqlType;

/// The database that every server has, and the default user's name.
pub const DEFAULT_DATABASE: &str = "millstream";
/// The role that exists from the first start and owns everything until others are made.
pub const DEFAULT_USER: &str = "millstream";
/// The schema that unqualified names are made in.
pub const DEFAULT_SCHEMA: &str = "public";
