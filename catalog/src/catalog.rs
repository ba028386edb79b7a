//! The objects of the database together, as an immutable version, and the draft that a statement or transaction edits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::{CatalogError, Result};
use crate::object::{Object, ObjectId, ObjectKind, Secret, Snapshot};
use crate::role::{
    MONITOR, READ_ALL_DATA, READ_SERVER_FILES, Role, SIGNAL_BACKEND, WRITE_ALL_DATA, WRITE_SERVER_FILES,
};
use crate::{DEFAULT_DATABASE, DEFAULT_USER};

/// The schemas that exist without a record; users cannot change what is in them, except `public`.
const SYSTEM_SCHEMAS: [(ObjectId, &str); 4] = [
    (ObjectId::PG_CATALOG, "pg_catalog"),
    (ObjectId::PUBLIC, "public"),
    (ObjectId::INFORMATION_SCHEMA, "information_schema"),
    (ObjectId::MILLSTREAM, "millstream"),
];

/// The roles that exist without a record, with PostgreSQL's OIDs.
const SYSTEM_ROLES: [(u32, &str); 7] = [
    (10, DEFAULT_USER),
    (3373, MONITOR),
    (4200, SIGNAL_BACKEND),
    (4569, READ_SERVER_FILES),
    (4570, WRITE_SERVER_FILES),
    (6181, READ_ALL_DATA),
    (6182, WRITE_ALL_DATA),
];

/// One version of the catalog. Cheap to share; every change makes a new version through a [`Draft`].
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    version: u64,
    next_id: u32,
    objects: BTreeMap<ObjectId, Arc<Object>>,
    by_name: BTreeMap<(ObjectId, String), ObjectId>,
    /// By schema, name and number of arguments.
    functions: BTreeMap<(ObjectId, String, usize), ObjectId>,
    tasks: BTreeMap<(ObjectId, String), ObjectId>,
    schemas: BTreeMap<String, ObjectId>,
    secrets: BTreeMap<String, ObjectId>,
    roles: BTreeMap<String, ObjectId>,
}

/// One step from a catalog version to the next, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new object, or a new definition of an existing one.
    Put(Arc<Object>),
    /// The object is gone, and its state with it.
    Drop(ObjectId),
}

impl Catalog {
    /// A catalog of the built-in schemas and roles only.
    pub fn new() -> Self {
        let mut catalog = Self { next_id: ObjectId::FIRST_USER.0, ..Self::default() };
        for (id, name) in SYSTEM_SCHEMAS {
            catalog.insert(Arc::new(Object {
                definition: format!("CREATE SCHEMA {name}"),
                ..Object::named(id, id, name, ObjectKind::Schema)
            }));
        }
        let database = ObjectId::DATABASE;
        catalog.insert(Arc::new(Object::named(database, database, DEFAULT_DATABASE, ObjectKind::Database)));
        for (id, name) in SYSTEM_ROLES {
            let is_first = name == DEFAULT_USER;
            let role = Role {
                superuser: is_first,
                create_role: is_first,
                create_database: is_first,
                login: is_first,
                replication: is_first,
                bypass_rls: is_first,
                ..Role::default()
            };
            catalog.insert(Arc::new(Object {
                definition: format!("CREATE ROLE {name}"),
                ..Object::named(ObjectId(id), ObjectId(id), name, ObjectKind::Role(role))
            }));
        }
        catalog
    }

    /// The catalog of stored records. `next_id` is the stored id counter, so that ids of dropped objects stay unused.
    pub fn load(objects: impl IntoIterator<Item = Object>, next_id: u32, version: u64) -> Self {
        let mut catalog = Self::new();
        for object in objects {
            catalog.insert(Arc::new(object));
        }
        let above = catalog.objects.keys().next_back().map_or(0, |id| id.0 + 1);
        catalog.next_id = next_id.max(above).max(ObjectId::FIRST_USER.0);
        catalog.version = version;
        catalog
    }

    /// Counts the changes since the database was made.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The id that the next new object gets.
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// The object of that id.
    pub fn get(&self, id: ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(&id)
    }

    /// All objects in the order they were made.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// All relations of one schema, by name.
    pub fn in_schema(&self, schema: ObjectId) -> impl Iterator<Item = &Arc<Object>> {
        self.by_name
            .range((schema, String::new())..)
            .take_while(move |((s, _), _)| *s == schema)
            .filter_map(|(_, id)| self.objects.get(id))
    }

    /// Id of a schema by name.
    ///
    /// # Errors
    /// 3F000 if there is none.
    pub fn schema(&self, name: &str) -> Result<ObjectId> {
        self.schemas.get(name).copied().ok_or_else(|| CatalogError::NotFound { kind: "schema", name: name.to_string() })
    }

    /// Kind and name of an object as errors print it, with its schema unless that is the default one.
    fn describe(&self, object: &Object) -> String {
        match self.schema_name(object) {
            crate::DEFAULT_SCHEMA => object.describe(),
            _ if object.kind == ObjectKind::Schema => object.describe(),
            schema if matches!(object.kind, ObjectKind::Function(_)) => {
                object.describe().replacen("function ", &format!("function {schema}."), 1)
            }
            schema => format!("{} \"{schema}\".\"{}\"", object.kind_name(), object.name),
        }
    }

    /// Name of the schema that an object is in.
    pub fn schema_name(&self, object: &Object) -> &str {
        self.objects.get(&object.schema).map_or("", |s| s.name.as_str())
    }

    /// The relation `schema.name`.
    pub fn find(&self, schema: &str, name: &str) -> Option<&Arc<Object>> {
        let schema = self.schemas.get(schema)?;
        self.objects.get(self.by_name.get(&(*schema, name.to_string()))?)
    }

    /// The secret of that name.
    ///
    /// # Errors
    /// 42704 if there is none.
    pub fn secret(&self, name: &str) -> Result<&Arc<Object>> {
        let found = self.secrets.get(name).and_then(|id| self.objects.get(id));
        found.ok_or_else(|| CatalogError::NotFound { kind: "secret", name: name.to_string() })
    }

    /// All secrets, by name.
    pub fn secrets(&self) -> impl Iterator<Item = (&Arc<Object>, &Secret)> {
        self.secrets.values().filter_map(|id| self.objects.get(id)).filter_map(|object| match &object.kind {
            ObjectKind::Secret(secret) => Some((object, secret)),
            _ => None,
        })
    }

    /// The ids of all roles, by name.
    pub(crate) fn role_ids(&self) -> &BTreeMap<String, ObjectId> {
        &self.roles
    }

    /// The functions `schema.name`, those with fewer arguments first.
    pub fn functions(&self, schema: &str, name: &str) -> impl Iterator<Item = &Arc<Object>> {
        let schema = self.schemas.get(schema).copied();
        let of_schema =
            schema.map(|s| self.functions.range((s, name.to_string(), 0)..=(s, name.to_string(), usize::MAX)));
        of_schema.into_iter().flatten().filter_map(|(_, id)| self.objects.get(id))
    }

    /// The task `schema.name`.
    pub fn find_task(&self, schema: &str, name: &str) -> Option<&Arc<Object>> {
        let schema = self.schemas.get(schema)?;
        self.objects.get(self.tasks.get(&(*schema, name.to_string()))?)
    }

    /// The task of that name, in its schema if one is given, else in the first schema of the search path that has it.
    ///
    /// # Errors
    /// 42704 if there is none, 3F000 if the given schema does not exist.
    pub fn resolve_task(&self, schema: Option<&str>, name: &str, search_path: &[String]) -> Result<&Arc<Object>> {
        let found = match schema {
            Some(schema) => {
                self.schema(schema)?;
                self.find_task(schema, name)
            }
            None => search_path.iter().find_map(|schema| self.find_task(schema, name)),
        };
        let written = || schema.map_or_else(|| name.to_string(), |schema| format!("{schema}.{name}"));
        found.ok_or_else(|| CatalogError::NotFound { kind: "task", name: written() })
    }

    /// The relation of that name, in its schema if one is given, else in the first schema of the search path that has it.
    ///
    /// # Errors
    /// 42P01 if there is none, 3F000 if the given schema does not exist.
    pub fn resolve(&self, schema: Option<&str>, name: &str, search_path: &[String]) -> Result<&Arc<Object>> {
        let found = match schema {
            Some(schema) => {
                self.schema(schema)?;
                self.find(schema, name)
            }
            None => search_path.iter().find_map(|schema| self.find(schema, name)),
        };
        found.ok_or_else(|| CatalogError::NotFound {
            kind: "relation",
            name: match schema {
                Some(schema) => format!("{schema}.{name}"),
                None => name.to_string(),
            },
        })
    }

    /// The objects built directly on `id`, in the order they were made; not the indexes, which are a part of their relation.
    pub fn dependents(&self, id: ObjectId) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values().filter(move |o| {
            o.id != id
                && !matches!(o.kind, ObjectKind::Index(_))
                && (o.references.values().any(|r| *r == id) || (o.schema == id && o.kind != ObjectKind::Schema))
        })
    }

    /// The snapshots of external tables that a view or sink reads, in the order they were made.
    pub fn snapshots(&self, reader: ObjectId) -> impl Iterator<Item = (&Arc<Object>, &Snapshot)> {
        self.objects.values().filter_map(move |object| match &object.kind {
            ObjectKind::Snapshot(snapshot) if snapshot.reader == reader => Some((object, snapshot)),
            _ => None,
        })
    }

    /// `id` and all objects built on it at any distance, dependents and indexes before what they depend on and readers before
    /// their snapshots: the order to drop in.
    pub fn drop_order(&self, id: ObjectId) -> Vec<ObjectId> {
        fn visit(catalog: &Catalog, id: ObjectId, seen: &mut BTreeSet<ObjectId>, out: &mut Vec<ObjectId>) {
            if seen.insert(id) {
                for dependent in catalog.dependents(id) {
                    visit(catalog, dependent.id, seen, out);
                }
                out.extend(catalog.indexes(id).map(|(object, _)| object.id).filter(|index| seen.insert(*index)));
                out.push(id);
                out.extend(catalog.snapshots(id).map(|(object, _)| object.id));
            }
        }
        let mut out = Vec::new();
        visit(self, id, &mut BTreeSet::new(), &mut out);
        out
    }

    fn insert(&mut self, object: Arc<Object>) {
        if let Some(old) = self.objects.get(&object.id).cloned() {
            self.remove_names(&old);
        }
        match &object.kind {
            ObjectKind::Schema => {
                self.schemas.insert(object.name.clone(), object.id);
            }
            ObjectKind::Function(f) => {
                self.functions.insert((object.schema, object.name.clone(), f.arguments.len()), object.id);
            }
            ObjectKind::Task(_) => {
                self.tasks.insert((object.schema, object.name.clone()), object.id);
            }
            ObjectKind::Secret(_) => {
                self.secrets.insert(object.name.clone(), object.id);
            }
            ObjectKind::Role(_) => {
                self.roles.insert(object.name.clone(), object.id);
            }
            ObjectKind::Snapshot(_) | ObjectKind::Database => {}
            _ => {
                self.by_name.insert((object.schema, object.name.clone()), object.id);
            }
        }
        self.objects.insert(object.id, object);
    }

    fn remove_names(&mut self, object: &Object) {
        match &object.kind {
            ObjectKind::Schema => {
                self.schemas.remove(&object.name);
            }
            ObjectKind::Function(f) => {
                self.functions.remove(&(object.schema, object.name.clone(), f.arguments.len()));
            }
            ObjectKind::Task(_) => {
                self.tasks.remove(&(object.schema, object.name.clone()));
            }
            ObjectKind::Secret(_) => {
                self.secrets.remove(&object.name);
            }
            ObjectKind::Role(_) => {
                self.roles.remove(&object.name);
            }
            ObjectKind::Snapshot(_) | ObjectKind::Database => {}
            _ => {
                self.by_name.remove(&(object.schema, object.name.clone()));
            }
        }
    }
}

/// A catalog being edited: reads see the edits, [`Draft::finish`] gives the new version and its stored changes.
#[derive(Debug, Clone)]
pub struct Draft {
    base_version: u64,
    base_next_id: u32,
    catalog: Catalog,
    changes: Vec<Change>,
}

impl Draft {
    /// Starts from a version.
    pub fn new(base: &Catalog) -> Self {
        let (base_version, base_next_id) = (base.version, base.next_id);
        Self { base_version, base_next_id, catalog: base.clone(), changes: Vec::new() }
    }

    /// The catalog with the edits so far.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Version that the draft was started from; applying it to another is a conflict.
    pub fn base_version(&self) -> u64 {
        self.base_version
    }

    /// The edits so far, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether nothing was edited.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes an id for a new object.
    pub fn new_id(&mut self) -> ObjectId {
        let id = ObjectId(self.catalog.next_id);
        self.catalog.next_id += 1;
        id
    }

    /// Adds a new object. The name of a snapshot is never taken.
    ///
    /// # Errors
    /// 42P07, 42P06, 42710 or 42723 if the name is taken, 42501 in a system schema.
    pub fn create(&mut self, object: Object) -> Result<()> {
        self.check_name(&object)?;
        let acl = object.acl.clone().or_else(|| self.catalog.default_acl(&object));
        self.put(Object { acl, ..object });
        Ok(())
    }

    /// Adds an object of the server's own to schema `millstream`, where users make none; its name must be free.
    pub fn create_own(&mut self, object: Object) {
        debug_assert_eq!(object.schema, ObjectId::MILLSTREAM);
        self.put(object);
    }

    /// Puts a new definition of an existing object in place; its name and schema are unchanged.
    pub fn replace(&mut self, object: Object) {
        self.put(object);
    }

    /// Renames an object. Objects built on it keep working: they refer to it by id.
    ///
    /// # Errors
    /// 42P07, 42P06, 42710 or 42723 if the new name is taken, 42P01 if `id` is unknown, 42501 for a system schema.
    pub fn rename(&mut self, id: ObjectId, name: &str) -> Result<()> {
        let old =
            self.catalog.get(id).ok_or_else(|| CatalogError::NotFound { kind: "relation", name: id.to_string() })?;
        let mut object = Object::clone(old);
        self.check_not_system(&object)?;
        object.name = name.to_string();
        self.check_name(&object)?;
        self.put(object);
        Ok(())
    }

    /// Moves a relation, function or task to another schema. Objects built on it keep working: they refer to it by id.
    ///
    /// # Errors
    /// 42P07, 42710 or 42723 if its name is taken there, 42P01 if `id` is unknown, 42501 for a system schema.
    pub fn set_schema(&mut self, id: ObjectId, schema: ObjectId) -> Result<()> {
        let old =
            self.catalog.get(id).ok_or_else(|| CatalogError::NotFound { kind: "relation", name: id.to_string() })?;
        let mut object = Object::clone(old);
        self.check_not_system(&object)?;
        object.schema = schema;
        self.check_name(&object)?;
        self.put(object);
        // Indexes are where their relation is.
        let indexes: Vec<Arc<Object>> = self.catalog.indexes(id).map(|(index, _)| index.clone()).collect();
        for index in indexes {
            let index = Object { schema, ..Object::clone(&index) };
            self.check_name(&index)?;
            self.put(index);
        }
        Ok(())
    }

    /// Drops objects together, with all that is built on them if `cascade`. Returns what was dropped, dependents first.
    ///
    /// # Errors
    /// 2BP01 naming the dependents that are not dropped as well, 42501 for a system schema.
    pub fn drop(&mut self, ids: &[ObjectId], cascade: bool) -> Result<Vec<Arc<Object>>> {
        let mut dropped: Vec<Arc<Object>> = Vec::new();
        for id in ids {
            let Some(object) = self.catalog.get(*id).cloned() else { continue };
            self.check_not_system(&object)?;
            let order: Vec<_> =
                self.catalog.drop_order(*id).iter().filter_map(|d| self.catalog.get(*d)).cloned().collect();
            let dependents = self.dependents_left(&order, ids);
            if !dependents.is_empty() && !cascade {
                return Err(CatalogError::InUse { object: object.describe(), dependents });
            }
            for object in order {
                self.catalog.objects.remove(&object.id);
                self.catalog.remove_names(&object);
                self.changes.push(Change::Drop(object.id));
                dropped.push(object);
            }
        }
        Ok(dropped)
    }

    /// Of objects that would go together, those that nobody asked to drop, each with what it is built on; nearest first.
    fn dependents_left(&self, order: &[Arc<Object>], asked: &[ObjectId]) -> Vec<(String, String)> {
        let mut left = Vec::new();
        for object in order.iter().rev() {
            for dependent in self.catalog.dependents(object.id).filter(|d| !asked.contains(&d.id)) {
                left.push((self.catalog.describe(dependent), self.catalog.describe(object)));
            }
        }
        left
    }

    /// The new version and the changes that lead to it, net: an object made and dropped in one draft leaves none but its
    /// used id.
    pub fn finish(mut self) -> (Catalog, Vec<Change>) {
        self.catalog.version = self.base_version + 1;
        let mut net: BTreeMap<ObjectId, Change> = BTreeMap::new();
        for change in self.changes {
            let id = match &change {
                Change::Put(object) => object.id,
                Change::Drop(id) => *id,
            };
            match change {
                Change::Drop(id) if id.0 >= self.base_next_id => net.remove(&id),
                change => net.insert(id, change),
            };
        }
        (self.catalog, net.into_values().collect())
    }

    fn put(&mut self, object: Object) {
        let object = Arc::new(object);
        self.catalog.insert(object.clone());
        self.changes.push(Change::Put(object));
    }

    fn check_name(&self, object: &Object) -> Result<()> {
        if matches!(object.kind, ObjectKind::Snapshot(_)) {
            return Ok(());
        }
        if object.kind == ObjectKind::Schema {
            if self.catalog.schemas.contains_key(&object.name) {
                return Err(CatalogError::Duplicate { kind: "schema", name: object.name.clone() });
            }
            // Schemas of temporary tables are made by the server; users are kept from their names where statements are planned.
            if object.name.starts_with("pg_") && !object.name.starts_with("pg_temp_") {
                return Err(CatalogError::Reserved { kind: "schema", name: object.name.clone() });
            }
            return Ok(());
        }
        if matches!(object.kind, ObjectKind::Secret(_)) {
            return match self.catalog.secrets.contains_key(&object.name) {
                true => Err(CatalogError::Duplicate { kind: "secret", name: object.name.clone() }),
                false => Ok(()),
            };
        }
        if matches!(object.kind, ObjectKind::Role(_)) {
            if self.catalog.roles.contains_key(&object.name) {
                return Err(CatalogError::Duplicate { kind: "role", name: object.name.clone() });
            }
            if object.name.starts_with("pg_") || ["public", "none"].contains(&object.name.as_str()) {
                return Err(CatalogError::ReservedRole(object.name.clone()));
            }
            return Ok(());
        }
        if object.schema != ObjectId::PUBLIC && object.schema < ObjectId::FIRST_USER {
            let name = self.catalog.schema_name(object).to_string();
            return Err(CatalogError::Reserved { kind: "schema", name });
        }
        if let ObjectKind::Function(f) = &object.kind {
            if self.catalog.functions.contains_key(&(object.schema, object.name.clone(), f.arguments.len())) {
                return Err(CatalogError::Duplicate { kind: "function", name: object.name.clone() });
            }
            return Ok(());
        }
        let name = (object.schema, object.name.clone());
        if let ObjectKind::Task(_) = &object.kind {
            return match self.catalog.tasks.contains_key(&name) {
                true => Err(CatalogError::Duplicate { kind: "task", name: object.name.clone() }),
                false => Ok(()),
            };
        }
        if self.catalog.by_name.contains_key(&name) {
            return Err(CatalogError::Duplicate { kind: "relation", name: object.name.clone() });
        }
        Ok(())
    }

    fn check_not_system(&self, object: &Object) -> Result<()> {
        if object.id < ObjectId::FIRST_USER {
            return Err(CatalogError::Reserved { kind: object.kind_name(), name: object.name.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Argument, Column, Function, Table, Task, View, Volatility};
    use crate::types::SqlType;

    fn object(draft: &mut Draft, name: &str, kind: ObjectKind, on: &[(&str, ObjectId)]) -> Object {
        let references = on.iter().map(|(n, id)| (n.to_string(), *id)).collect();
        Object { references, ..Object::named(draft.new_id(), ObjectId::PUBLIC, name, kind) }
    }

    fn table() -> ObjectKind {
        ObjectKind::Table(Table {
            columns: vec![Column::new("a", SqlType::Int4, true)],
            primary_key: vec![],
            append_only: false,
            watermark: None,
            checks: vec![],
        })
    }

    fn view() -> ObjectKind {
        ObjectKind::View(View { columns: vec![], query: "SELECT * FROM t".into() })
    }

    #[test]
    fn drop_is_refused_with_the_dependents_named() {
        let mut draft = Draft::new(&Catalog::new());
        let t = object(&mut draft, "t", table(), &[]);
        let id = t.id;
        draft.create(t).unwrap();
        let v = object(&mut draft, "v", view(), &[("t", id)]);
        let v_id = v.id;
        draft.create(v).unwrap();
        let w = object(&mut draft, "w", view(), &[("v", v_id)]);
        draft.create(w).unwrap();
        let error = draft.drop(&[id], false).unwrap_err();
        assert_eq!(error.sqlstate(), "2BP01");
        assert_eq!(error.detail().unwrap(), "view \"v\" depends on table \"t\"\nview \"w\" depends on view \"v\"");
        let names: Vec<_> = draft.drop(&[id], true).unwrap().iter().map(|o| o.name.clone()).collect();
        assert_eq!(names, ["w", "v", "t"]);
    }

    #[test]
    fn snapshots_have_no_name_and_go_with_their_reader() {
        let mut draft = Draft::new(&Catalog::new());
        let t = object(&mut draft, "t", table(), &[]);
        let t_id = t.id;
        draft.create(t).unwrap();
        let s_id = draft.new_id();
        let v = object(&mut draft, "v", view(), &[("t", t_id)]);
        let v_id = v.id;
        let kind = ObjectKind::Snapshot(Snapshot { columns: vec![], of: t_id, reader: v_id, taken_us: 7 });
        let s = Object { id: s_id, schema: ObjectId::MILLSTREAM, ..object(&mut draft, "t", kind, &[]) };
        assert_eq!(Object::from_record(s_id.0, &s.to_record()).unwrap(), s);
        draft.create(s).unwrap();
        draft.create(v).unwrap();
        assert!(draft.catalog().find("millstream", "t").is_none());
        assert_eq!(draft.catalog().find("public", "t").unwrap().id, t_id);
        let of_view: Vec<_> = draft.catalog().snapshots(v_id).map(|(o, s)| (o.id, s.taken_us)).collect();
        assert_eq!(of_view, [(s_id, 7)]);
        assert_eq!(draft.drop(&[t_id], false).unwrap_err().detail().unwrap(), "view \"v\" depends on table \"t\"");
        let dropped: Vec<_> = draft.drop(&[v_id], false).unwrap().iter().map(|o| o.id).collect();
        assert_eq!(dropped, [v_id, s_id]);
        assert!(draft.catalog().find("public", "t").is_some());
    }

    #[test]
    fn objects_that_are_dropped_together_do_not_hold_each_other() {
        let mut draft = Draft::new(&Catalog::new());
        let t = object(&mut draft, "t", table(), &[]);
        let id = t.id;
        draft.create(t).unwrap();
        let v = object(&mut draft, "v", view(), &[("t", id)]);
        let v_id = v.id;
        draft.create(v).unwrap();
        let names: Vec<_> = draft.drop(&[id, v_id], false).unwrap().iter().map(|o| o.name.clone()).collect();
        assert_eq!(names, ["v", "t"]);
    }

    #[test]
    fn a_rename_keeps_dependents_and_frees_the_old_name() {
        let mut draft = Draft::new(&Catalog::new());
        let t = object(&mut draft, "t", table(), &[]);
        let id = t.id;
        draft.create(t).unwrap();
        draft.rename(id, "u").unwrap();
        assert!(draft.catalog().find("public", "t").is_none());
        assert_eq!(draft.catalog().find("public", "u").unwrap().id, id);
        let duplicate = object(&mut draft, "u", table(), &[]);
        assert_eq!(draft.create(duplicate).unwrap_err().sqlstate(), "42P07");
    }

    #[test]
    fn a_move_to_another_schema_keeps_dependents_and_frees_the_old_place() {
        let mut draft = Draft::new(&Catalog::new());
        let mut schema = object(&mut draft, "s", ObjectKind::Schema, &[]);
        schema.schema = schema.id;
        let schema_id = schema.id;
        draft.create(schema).unwrap();
        let t = object(&mut draft, "t", table(), &[]);
        let id = t.id;
        draft.create(t).unwrap();
        draft.set_schema(id, schema_id).unwrap();
        assert!(draft.catalog().find("public", "t").is_none());
        assert_eq!(draft.catalog().find("s", "t").unwrap().id, id);
        assert_eq!(draft.set_schema(id, schema_id).unwrap_err().sqlstate(), "42P07");
        assert_eq!(draft.set_schema(id, ObjectId::MILLSTREAM).unwrap_err().sqlstate(), "42501");
    }

    #[test]
    fn functions_have_names_of_their_own_for_each_number_of_arguments() {
        let mut draft = Draft::new(&Catalog::new());
        let t = object(&mut draft, "f", table(), &[]);
        draft.create(t).unwrap();
        let with = |arguments: usize| {
            let argument = Argument { name: None, sql_type: SqlType::Int4, default: None };
            ObjectKind::Function(Function {
                arguments: vec![argument; arguments],
                returns: SqlType::Int4,
                body: "SELECT 1".into(),
                strict: false,
                volatility: Volatility::Volatile,
            })
        };
        for arguments in [2, 0] {
            let f = object(&mut draft, "f", with(arguments), &[]);
            draft.create(f).unwrap();
        }
        let again = object(&mut draft, "f", with(2), &[]);
        assert_eq!(draft.create(again).unwrap_err().sqlstate(), "42723");
        let found = |draft: &Draft, name: &str| -> Vec<String> {
            draft.catalog().functions("public", name).map(|f| f.describe()).collect()
        };
        assert_eq!(found(&draft, "f"), ["function f()", "function f(integer,integer)"]);
        let id = draft.catalog().functions("public", "f").last().unwrap().id;
        draft.rename(id, "g").unwrap();
        assert_eq!(found(&draft, "f"), ["function f()"]);
        draft.drop(&[id], false).unwrap();
        assert_eq!(found(&draft, "g"), [""; 0]);
        assert!(draft.catalog().find("public", "f").is_some());
    }

    #[test]
    fn tasks_have_names_of_their_own_and_hold_those_before_them() {
        let mut draft = Draft::new(&Catalog::new());
        let t = object(&mut draft, "t", table(), &[]);
        draft.create(t).unwrap();
        let task = || {
            ObjectKind::Task(Task {
                schedule: None,
                after: vec![],
                statements: vec!["SELECT 1".into()],
                options: BTreeMap::new(),
                search_path: vec!["public".into()],
                time_zone: "UTC".into(),
            })
        };
        let first = object(&mut draft, "t", task(), &[]);
        let id = first.id;
        assert_eq!(Object::from_record(id.0, &first.to_record()).unwrap(), first);
        draft.create(first).unwrap();
        let again = object(&mut draft, "t", task(), &[]);
        let refused = draft.create(again).unwrap_err();
        assert_eq!((refused.sqlstate(), refused.to_string().as_str()), ("42710", "task \"t\" already exists"));
        let next = object(&mut draft, "next", task(), &[("t", id)]);
        draft.create(next).unwrap();
        assert_eq!(draft.drop(&[id], false).unwrap_err().detail().unwrap(), "task \"next\" depends on task \"t\"");
        draft.rename(id, "u").unwrap();
        let path = ["public".to_string()];
        assert_eq!(draft.catalog().resolve_task(None, "t", &path).unwrap_err().sqlstate(), "42704");
        assert_eq!(draft.catalog().resolve_task(Some("public"), "u", &path).unwrap().id, id);
        assert!(draft.catalog().find("public", "t").is_some());
    }

    #[test]
    fn records_survive_and_ids_are_never_used_again() {
        let mut draft = Draft::new(&Catalog::new());
        let t = object(&mut draft, "t", table(), &[]);
        let copy = Object::from_record(t.id.0, &t.to_record()).unwrap();
        assert_eq!(copy, t);
        let id = t.id;
        draft.create(t).unwrap();
        draft.drop(&[id], false).unwrap();
        let (catalog, changes) = draft.finish();
        assert_eq!(changes, []);
        let reloaded = Catalog::load([], catalog.next_id(), catalog.version());
        assert!(Draft::new(&reloaded).new_id() > id);
    }
}
