//! The durable catalog and the server's own tables as one list of relations, with the OIDs that clients see.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use millstream_catalog::object::Index;
use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind, SqlType};
use millstream_sql::{MASK, quote_ident};

use super::activity::{self, ActivityRow};
use super::{tables, types};
use crate::batch::system;

/// OID of the one role, as of PostgreSQL's bootstrap superuser.
pub const ROLE_OID: u32 = 10;
/// OID of the one database.
pub const DATABASE_OID: u32 = 5;
/// Indexes of primary keys, which the catalog has no records of, get OIDs of a range of their own.
const INDEX_OIDS: u32 = 0x8000_0000;
/// Constraints of primary keys likewise.
const KEY_OIDS: u32 = 0xC000_0000;
/// CHECK constraints likewise, 16 for each table.
const CHECK_OIDS: u32 = 0xA000_0000;
const CHECK_BITS: u32 = 4;
/// The bits that tell the ranges apart.
const RANGE_BITS: u32 = 0xE000_0000;
/// First OID of system tables that have none in PostgreSQL.
const SYSTEM_OIDS: u32 = 13_100;

/// What the catalog tables are made of: one statement's view of the server.
#[derive(Clone)]
pub struct CatalogView {
    pub catalog: Arc<Catalog>,
    pub search_path: Vec<String>,
    pub user: String,
    /// Number of the session.
    pub process_id: i32,
    pub settings: Vec<Setting>,
    /// Names of the functions that statements can call, for `pg_proc`.
    pub functions: Arc<BTreeSet<String>>,
    /// The session's prepared statements and cursors.
    pub prepared: Arc<dyn Fn() -> Vec<PreparedRow> + Send + Sync>,
    pub cursors: Vec<CursorRow>,
    /// Channels that the session listens to.
    pub channels: Vec<String>,
    /// When the server was started, in microseconds since 1970.
    pub started_us: i64,
    /// All sessions.
    pub activity: Arc<dyn Fn() -> Vec<ActivityRow> + Send + Sync>,
    /// Bytes that an object takes in the store.
    pub size_of: Arc<dyn Fn(ObjectId) -> Option<u64> + Send + Sync>,
}

/// A setting as `pg_settings` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    pub value: String,
    pub default: String,
    pub unit: Option<String>,
    pub description: String,
}

/// A prepared statement as `pg_prepared_statements` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedRow {
    pub name: String,
    pub statement: String,
    /// Microseconds since 1970.
    pub prepared_us: i64,
    /// Names of the types of its parameters, and of its columns if it has any.
    pub parameters: Vec<String>,
    pub results: Option<Vec<String>>,
    /// Whether PREPARE has made it.
    pub from_sql: bool,
}

/// A cursor as `pg_cursors` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorRow {
    pub name: String,
    pub statement: String,
    pub is_holdable: bool,
    pub is_binary: bool,
    pub is_scrollable: bool,
    /// Microseconds since 1970.
    pub created_us: i64,
}

impl CatalogView {
    /// A view of a catalog with the default search path and nothing else.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self {
            catalog,
            search_path: vec![millstream_catalog::DEFAULT_SCHEMA.into()],
            user: millstream_catalog::DEFAULT_USER.into(),
            process_id: 0,
            settings: Vec::new(),
            functions: Arc::default(),
            prepared: Arc::new(Vec::new),
            cursors: Vec::new(),
            channels: Vec::new(),
            started_us: 0,
            activity: Arc::new(Vec::new),
            size_of: Arc::new(|_| None),
        }
    }
}

impl fmt::Debug for CatalogView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogView").field("version", &self.catalog.version()).finish_non_exhaustive()
    }
}

/// What an OID of `pg_class` or `pg_constraint` stands for; the numbers are OIDs of relations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OidOf {
    Relation(u32),
    /// The index of a table's primary key.
    KeyIndex(u32),
    KeyConstraint(u32),
    /// A CHECK constraint and its position.
    Check(u32, usize),
}

impl OidOf {
    /// Reads an OID.
    pub fn new(oid: u32) -> Self {
        let rest = oid & !RANGE_BITS;
        match oid & RANGE_BITS {
            INDEX_OIDS => Self::KeyIndex(rest),
            KEY_OIDS => Self::KeyConstraint(rest),
            CHECK_OIDS => Self::Check(rest >> CHECK_BITS, (rest & ((1 << CHECK_BITS) - 1)) as usize),
            _ => Self::Relation(oid),
        }
    }
}

/// A table, view, source, sink, index or system table.
#[derive(Debug, Clone)]
pub struct Relation {
    pub oid: u32,
    pub schema: ObjectId,
    pub name: String,
    /// `pg_class.relkind`.
    pub kind: char,
    pub columns: Vec<RelationColumn>,
    pub comment: Option<String>,
    /// The record behind it; none for a system table.
    pub object: Option<Arc<Object>>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone)]
pub struct RelationColumn {
    pub name: String,
    pub sql_type: SqlType,
    pub nullable: bool,
    /// DEFAULT or generation expression.
    pub default: Option<String>,
    pub generated: bool,
    pub comment: Option<String>,
}

impl Relation {
    /// Positions of the primary key's columns, from 0.
    pub fn primary_key(&self) -> &[usize] {
        match self.object.as_ref().map(|o| &o.kind) {
            Some(ObjectKind::Table(table)) => &table.primary_key,
            _ => &[],
        }
    }

    /// CHECK constraints as (OID, name, expression).
    pub fn checks(&self) -> Vec<(u32, &str, &str)> {
        let Some(ObjectKind::Table(table)) = self.object.as_ref().map(|o| &o.kind) else { return Vec::new() };
        let oid = |i: usize| CHECK_OIDS | ((self.oid << CHECK_BITS | i as u32) & !RANGE_BITS);
        table.checks.iter().enumerate().map(|(i, (name, text))| (oid(i), name.as_str(), text.as_str())).collect()
    }

    /// The primary key's index as (OID, name).
    pub fn key_index(&self) -> Option<(u32, String)> {
        (!self.primary_key().is_empty()).then(|| (INDEX_OIDS | self.oid, format!("{}_pkey", self.name)))
    }

    /// What it is an index by, if it is one; that of a primary key has no record of its own.
    pub fn index(&self) -> Option<&Index> {
        match self.object.as_ref().map(|o| &o.kind) {
            Some(ObjectKind::Index(index)) => Some(index),
            _ => None,
        }
    }

    /// OID of the primary key's constraint.
    pub fn key_constraint(&self) -> u32 {
        KEY_OIDS | self.oid
    }

    /// Names of the primary key's columns, quoted where needed.
    pub fn key_columns(&self) -> String {
        let names: Vec<_> = self.primary_key().iter().map(|i| quote_ident(&self.columns[*i].name)).collect();
        names.join(", ")
    }

    fn is_external_table(&self) -> bool {
        matches!(self.object.as_ref().map(|o| &o.kind), Some(ObjectKind::ExternalTable(_)))
    }

    /// Options of a source, sink or external table as `key=value`, secrets masked.
    pub fn options(&self) -> Vec<String> {
        // Of an external table the option is the name of one.
        let is_name = |key: &str| key == millstream_sql::SECRET_OPTION && self.is_external_table();
        let pair = |(key, value): (&String, &String)| match millstream_sql::is_secret(key) && !is_name(key) {
            true => format!("{key}={MASK}"),
            false => format!("{key}={value}"),
        };
        let pairs = |options: &BTreeMap<String, String>| options.iter().map(pair).collect();
        match self.object.as_ref().map(|o| &o.kind) {
            Some(ObjectKind::Source(s)) => pairs(&s.options),
            Some(ObjectKind::Sink(s)) => pairs(&s.options),
            Some(ObjectKind::ExternalTable(t)) => {
                let mut all: Vec<String> =
                    vec![format!("location={}", t.location), format!("stored_as={}", t.stored_as)];
                all.extend::<Vec<String>>(pairs(&t.options));
                all
            }
            _ => Vec::new(),
        }
    }
}

impl CatalogView {
    /// All relations, system tables first.
    pub fn relations(&self) -> Vec<Relation> {
        let mut all = system_relations();
        all.extend(self.catalog.objects().filter_map(|object| of_object(&self.catalog, object)));
        all
    }

    /// Whether a relation has an index, that of a primary key included.
    pub fn has_index(&self, relation: &Relation) -> bool {
        relation.key_index().is_some() || self.catalog.indexes(ObjectId(relation.oid)).next().is_some()
    }

    /// The relation of that OID.
    pub fn relation(&self, oid: u32) -> Option<Relation> {
        if oid >= ObjectId::FIRST_USER.0 {
            return of_object(&self.catalog, self.catalog.get(ObjectId(oid))?);
        }
        system_relations().into_iter().find(|r| r.oid == oid)
    }

    /// A view's query as PostgreSQL prints it, with the names of today.
    pub fn definition(&self, relation: &Relation) -> Option<String> {
        let object = relation.object.as_ref()?;
        let query = match &object.kind {
            ObjectKind::View(view) => &view.query,
            ObjectKind::MaterializedView(view) => &view.query,
            _ => return None,
        };
        let query = millstream_sql::current_query(query, &object.references, &self.catalog);
        Some(format!(" {};", query.trim().trim_end_matches(';')))
    }

    /// Name of a schema.
    pub fn schema_name(&self, id: ObjectId) -> String {
        self.catalog.get(id).map(|s| s.name.clone()).unwrap_or_default()
    }

    /// The schemas in which names are looked up, `pg_catalog` first where it is not named.
    pub fn effective_path(&self) -> Vec<String> {
        let mut path = self.search_path.clone();
        if !path.iter().any(|s| s == "pg_catalog") {
            path.insert(0, "pg_catalog".into());
        }
        path
    }

    /// The relation that a name as SQL writes it (`t`, `"T"`, `s.t`) stands for.
    pub fn find(&self, name: &str) -> Option<Relation> {
        let parts = split_name(name)?;
        let all = self.relations();
        let in_schema = |schema: &str, name: &str| {
            let id = self.catalog.schema(schema).ok()?;
            all.iter().find(|r| r.schema == id && r.name == name).cloned()
        };
        match parts.as_slice() {
            [name] => self.effective_path().iter().find_map(|schema| in_schema(schema, name)),
            [schema, name] => in_schema(schema, name),
            _ => None,
        }
    }

    /// Whether a bare name finds this relation.
    pub fn is_visible(&self, relation: &Relation) -> bool {
        self.find(&quote_ident(&relation.name)).is_some_and(|found| found.oid == relation.oid)
    }

    /// The relation's name, with its schema unless a bare name finds it, quoted where needed.
    pub fn shown_name(&self, relation: &Relation) -> String {
        let name = quote_ident(&relation.name);
        match self.is_visible(relation) {
            true => name,
            false => format!("{}.{name}", quote_ident(&self.schema_name(relation.schema))),
        }
    }
}

fn of_object(catalog: &Catalog, object: &Arc<Object>) -> Option<Relation> {
    let kind = object.kind.relkind()?;
    let column = |(i, c): (usize, &millstream_catalog::Column)| RelationColumn {
        name: c.name.clone(),
        sql_type: c.sql_type.clone(),
        nullable: c.nullable,
        default: c.default.clone().or_else(|| c.generated.clone()),
        generated: c.generated.is_some(),
        comment: object.column_comments.get(&i).cloned(),
    };
    let columns = match &object.kind {
        // An index has the columns of its relation that it is by.
        ObjectKind::Index(index) => {
            let of = catalog.get(index.of)?;
            let columns = index.columns.iter().filter_map(|c| of.columns().get(c.column)).enumerate();
            columns.map(|(i, c)| RelationColumn { default: None, generated: false, ..column((i, c)) }).collect()
        }
        _ => object.columns().iter().enumerate().map(column).collect(),
    };
    Some(Relation {
        oid: object.id.0,
        schema: object.schema,
        name: object.name.clone(),
        kind,
        columns,
        comment: object.comment.clone(),
        object: Some(object.clone()),
    })
}

fn system_relations() -> Vec<Relation> {
    let mut all = Vec::new();
    let mut oid = SYSTEM_OIDS;
    let mut add = |schema: ObjectId, name: &str, columns: SchemaRef, comment: Option<&str>| {
        let known = types::known_relation_oid(name).filter(|_| schema == ObjectId::PG_CATALOG);
        let column = |f: &Arc<datafusion::arrow::datatypes::Field>| RelationColumn {
            name: f.name().clone(),
            sql_type: SqlType::of(f).unwrap_or(SqlType::Text),
            nullable: f.is_nullable(),
            default: None,
            generated: false,
            comment: system::column_comment(name, f.name()).filter(|_| schema == ObjectId::MILLSTREAM).map(Into::into),
        };
        all.push(Relation {
            oid: known.unwrap_or(oid),
            schema,
            name: name.into(),
            kind: if known.is_some() { 'r' } else { 'v' },
            columns: columns.fields().iter().map(column).collect(),
            comment: comment.map(Into::into),
            object: None,
        });
        oid += 1;
    };
    for (schema, name, columns) in tables::all() {
        if activity::FUNCTIONS.contains(&name) {
            continue;
        }
        add(schema, name, columns, None);
    }
    for name in system::names().filter(|name| !name.contains('.')) {
        if let Some(columns) = system::schema(name) {
            add(ObjectId::MILLSTREAM, name, columns, system::comment(name));
        }
    }
    all
}

/// The parts of a dotted name, each in lower case unless quoted; `None` if it is no name.
pub fn split_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut chars = text.trim().chars().peekable();
    loop {
        let mut part = String::new();
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next()? {
                    '"' if chars.peek() == Some(&'"') => {
                        chars.next();
                        part.push('"');
                    }
                    '"' => break,
                    c => part.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != '.' && !c.is_whitespace()) {
                part.extend(c.to_lowercase());
            }
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match chars.next() {
            None => return Some(parts),
            Some('.') => {}
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_postgresql_does() {
        assert_eq!(split_name("Public.\"T\"\"x\""), Some(vec!["public".into(), "T\"x".into()]));
        assert_eq!(split_name("\"a b\" . c "), Some(vec!["a b".into(), "c".into()]));
        assert_eq!(split_name("a b"), None);
        assert_eq!(split_name("a."), None);
        assert_eq!(split_name("\"a"), None);
    }

    #[test]
    fn ranges_of_oids_do_not_meet() {
        let t = 16_384;
        assert_eq!(OidOf::new(t), OidOf::Relation(t));
        assert_eq!(OidOf::new(INDEX_OIDS | t), OidOf::KeyIndex(t));
        assert_eq!(OidOf::new(KEY_OIDS | t), OidOf::KeyConstraint(t));
        assert_eq!(OidOf::new(CHECK_OIDS | (t << CHECK_BITS | 3)), OidOf::Check(t, 3));
    }
}
