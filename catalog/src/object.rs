//! What a catalog holds of each object, after its statement was validated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::DEFAULT_USER;
use crate::error::{CatalogError, Result};
pub use crate::id::ObjectId;
pub use crate::index::{Index, IndexColumn};
use crate::privilege::{AclItem, Class, initial_acl};
use crate::role::Role;
use crate::types::SqlType;

/// One named object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    pub id: ObjectId,
    /// The schema it is in; a schema is in itself.
    pub schema: ObjectId,
    pub name: String,
    pub owner: String,
    /// Whose name `current_user` is in the query of a continuous view or sink, if not its owner's: it had another when it
    /// was made, and its rows are of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Comments on columns, by position from 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub column_comments: BTreeMap<usize, String>,
    /// The statement that made it, as written but for masked secrets; names in it may be older than those of today.
    pub definition: String,
    /// The objects that its definition names, by the name as written; functions by name, NUL and number of arguments.
    /// Re-planning after a restart resolves through this map, so that renaming an object does not break the views on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, ObjectId>,
    /// Whether it was told to stand still (`ALTER … SUSPEND`), of what runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Who may do what with it; `None`: what [`crate::privilege::initial_acl`] says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<AclItem>>,
    pub kind: ObjectKind,
}

/// What an object is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ObjectKind {
    Schema,
    Table(Table),
    Source(Source),
    View(View),
    MaterializedView(MaterializedView),
    Sink(Sink),
    ExternalTable(ExternalTable),
    Snapshot(Snapshot),
    Function(Function),
    Task(Task),
    Secret(Secret),
    Role(Role),
    Database,
    Index(Index),
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub sql_type: SqlType,
    pub nullable: bool,
    /// The DEFAULT expression as SQL text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The GENERATED ALWAYS AS expression as SQL text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// What the column takes from the message instead of its payload (`INCLUDE partition AS p`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include: Option<Include>,
    /// Whether it is the time at which a source's row was taken in, which no record holds (`AS PROCTIME()`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub processing_time: bool,
}

impl Column {
    /// A plain column.
    pub fn new(name: impl Into<String>, sql_type: SqlType, nullable: bool) -> Self {
        let name = name.into();
        Self { name, sql_type, nullable, default: None, generated: None, include: None, processing_time: false }
    }

    /// Whether its values are computed, so that no record holds them.
    pub fn is_computed(&self) -> bool {
        self.generated.is_some() || self.processing_time
    }
}

/// The parts of a Kafka message beside its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Include {
    Key,
    Partition,
    Offset,
    Timestamp,
    Headers,
}

/// `WATERMARK FOR column AS expression`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watermark {
    /// Position of the column from 0.
    pub column: usize,
    /// The expression as SQL text over the relation's columns.
    pub expression: String,
}

/// A row table, kept in the store and readable as a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub columns: Vec<Column>,
    /// Positions of the primary key's columns; empty: rows have a hidden row id.
    pub primary_key: Vec<usize>,
    pub append_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// CHECK constraints as (name, SQL text).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<(String, String)>,
}

/// A stream from outside that is read, not stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub columns: Vec<Column>,
    /// Positions of the primary key's columns, of a format whose records replace and delete the row of a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub primary_key: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// The WITH options as written, `connector` included; validated by the `connectors` crate.
    pub options: BTreeMap<String, String>,
    /// `None` for a connector whose records are no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// `FORMAT … ENCODE …` of a source or sink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Format {
    /// `plain`, `upsert` or `debezium`, in lower case.
    pub format: String,
    /// `json`, `csv`, `bytes`, `avro` or `protobuf`, in lower case.
    pub encode: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// The schema that the payloads of a source had when it was made; what its columns are read by from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaText>,
    /// The same of the records' keys, where they have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_schema: Option<SchemaText>,
}

/// A schema of records as it was found, with those that it refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SchemaText {
    pub text: String,
    /// Of the schemas that it refers to, each behind what it refers to itself: the name that it is referred to by, and its
    /// text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<(String, String)>,
    /// Whether `text` is the base64 of bytes that are no text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_base64: bool,
}

impl SchemaText {
    /// A schema that is no text, in base64.
    pub fn of_bytes(base64: String) -> Self {
        Self { text: base64, references: Vec::new(), is_base64: true }
    }
}

/// A stored query, expanded where it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub columns: Vec<Column>,
    /// The query as SQL text; its names resolve through [`Object::references`].
    pub query: String,
}

/// A continuous view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaterializedView {
    pub columns: Vec<Column>,
    /// The query as SQL text, without its EMIT clause.
    pub query: String,
    /// The time zone of the session that made it, which its expressions go on to see.
    #[serde(default = "utc")]
    pub time_zone: String,
    pub emit_on_window_close: bool,
    /// The WITH options as written.
    pub options: BTreeMap<String, String>,
    /// Positions of the stream key's columns: no two rows agree on them (none of them: there is a single row). `None`: rows
    /// have no key, and are kept with a count, or under a hidden row id if `append_only`.
    pub stream_key: Option<Vec<usize>>,
    pub append_only: bool,
    /// Positions of the columns that carry a watermark.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watermark_columns: Vec<usize>,
    /// The operators and their state layouts as planned at CREATE. A server that plans them differently refuses the
    /// view by name rather than misread its state.
    pub fingerprint: String,
}

/// What objects of catalogs that have no time zones compute in.
fn utc() -> String {
    "UTC".into()
}

/// Output of a relation or query to the outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sink {
    pub columns: Vec<Column>,
    /// The query as SQL text (`SELECT * FROM v` for `FROM v`).
    pub query: String,
    /// As of [`MaterializedView::time_zone`].
    #[serde(default = "utc")]
    pub time_zone: String,
    pub options: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Positions of the key columns of an upsert sink.
    pub key: Vec<usize>,
    #[serde(default)]
    pub emit_on_window_close: bool,
    pub fingerprint: String,
}

impl Source {
    /// Whether its records replace and delete the row of a key, so that its rows are kept as a table's are.
    pub fn is_keyed(&self) -> bool {
        !self.primary_key.is_empty()
    }

    /// Positions of the columns that carry a watermark: that of WATERMARK FOR, and those of processing time, which only
    /// moves forward.
    pub fn watermark_columns(&self) -> Vec<usize> {
        let of_clock = |i: &usize| self.columns[*i].processing_time;
        let declared = self.watermark.iter().map(|w| w.column);
        declared.chain((0..self.columns.len()).filter(of_clock)).collect()
    }
}

/// Files elsewhere that are read as a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExternalTable {
    pub columns: Vec<Column>,
    /// `PARQUET`, `CSV`, `JSON` or `DELTA`, in upper case.
    pub stored_as: String,
    /// Path or URL; a folder ends with a slash.
    pub location: String,
    /// Names of the partition columns; but for Delta tables they are last among `columns`.
    pub partition_columns: Vec<String>,
    pub options: BTreeMap<String, String>,
}

impl ExternalTable {
    /// Whether it is a Delta table: those can be written to, and have versions.
    pub fn is_lake(&self) -> bool {
        self.stored_as == "DELTA"
    }
}

/// The rows of an external table as they were when a continuous view or sink was made, kept for that alone
/// (`FOR SYSTEM_TIME AS OF now()`). It is called like the external table, but no statement finds it by its name, and it goes
/// with its reader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub columns: Vec<Column>,
    /// The external table.
    pub of: ObjectId,
    /// The view or sink that reads it.
    pub reader: ObjectId,
    /// When it was taken, microseconds since 1970.
    pub taken_us: i64,
}

/// What opens stores of the outside: an address and credentials. Secrets have one name space of their own, beside those of
/// the schemas.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    /// What it opens: `s3`.
    #[serde(rename = "type")]
    pub secret_type: String,
    /// The URLs that it is for begin with this; `None`: all of its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The other options as written, values in the clear; validated by the server.
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for Secret {
    /// The values are no part of it: an object's debug text may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("secret_type", &self.secret_type)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// A scalar function in SQL, which stands for its body wherever it is called. In a schema its name and number of arguments
/// tell it from others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    pub arguments: Vec<Argument>,
    /// Without length or scale.
    pub returns: SqlType,
    /// The SELECT of one expression that it is, as written; its names resolve through [`Object::references`].
    pub body: String,
    /// Whether it is NULL where an argument is.
    pub strict: bool,
    pub volatility: Volatility,
}

/// An argument of a [`Function`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Argument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Without length or scale.
    #[serde(rename = "type")]
    pub sql_type: SqlType,
    /// The DEFAULT expression as SQL text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// What the maker of a function promises of it. Nothing is built on the promise: the body is there to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Volatility {
    Immutable,
    Stable,
    #[default]
    Volatile,
}

/// Statements that run by a schedule, after another task, or when they are asked for. Tasks have a name space of their own.
///
/// The names in its statements are looked up anew by each run, as those of pg_cron's jobs are, so it depends on none of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// The tasks after whose success it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<ObjectId>,
    /// The text of each statement.
    pub statements: Vec<String>,
    /// The WITH options as written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Where the names in its statements are looked up.
    pub search_path: Vec<String>,
    /// The time zone that its statements compute in, and of `run_date()` where the schedule has none.
    #[serde(default = "utc")]
    pub time_zone: String,
}

/// When a task is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// By the clock of a time zone.
    Cron { expression: String, time_zone: String },
    /// At the multiples of an interval, as written and in microseconds.
    Every { interval: String, period_us: i64 },
}

impl Schedule {
    /// As it is shown to people: the expression, or `every 5 minutes`.
    pub fn text(&self) -> String {
        match self {
            Self::Cron { expression, .. } => expression.clone(),
            Self::Every { interval, .. } => format!("every {interval}"),
        }
    }
}

impl Task {
    /// The time zone of its schedule.
    pub fn zone(&self) -> &str {
        match &self.schedule {
            Some(Schedule::Cron { time_zone, .. }) => time_zone,
            _ => &self.time_zone,
        }
    }
}

impl Function {
    /// The types of its arguments as PostgreSQL lists them in errors: `integer,text`.
    pub fn argument_types(&self) -> String {
        self.arguments.iter().map(|a| a.sql_type.to_string()).collect::<Vec<_>>().join(",")
    }

    /// How many arguments a call has to give at least.
    pub fn required_arguments(&self) -> usize {
        self.arguments.iter().filter(|a| a.default.is_none()).count()
    }
}

impl Object {
    /// An object with no more than a name, of the first role.
    pub fn named(id: ObjectId, schema: ObjectId, name: &str, kind: ObjectKind) -> Self {
        Self {
            id,
            schema,
            name: name.to_string(),
            owner: DEFAULT_USER.to_string(),
            made_by: None,
            comment: None,
            column_comments: BTreeMap::new(),
            definition: String::new(),
            references: BTreeMap::new(),
            suspended: false,
            acl: None,
            kind,
        }
    }

    /// What can be granted on it; `None` for a role, an index or a snapshot, on which nothing can.
    pub fn class(&self) -> Option<Class> {
        Some(match &self.kind {
            ObjectKind::Table(_)
            | ObjectKind::Source(_)
            | ObjectKind::View(_)
            | ObjectKind::MaterializedView(_)
            | ObjectKind::Sink(_)
            | ObjectKind::ExternalTable(_) => Class::Relation,
            ObjectKind::Function(_) => Class::Function,
            ObjectKind::Schema => Class::Schema,
            ObjectKind::Database => Class::Database,
            ObjectKind::Task(_) => Class::Task,
            ObjectKind::Secret(_) => Class::Secret,
            ObjectKind::Snapshot(_) | ObjectKind::Role(_) | ObjectKind::Index(_) => return None,
        })
    }

    /// What is granted on it, by GRANT and REVOKE or from the start; nothing on what has no class.
    pub fn granted(&self) -> Vec<AclItem> {
        match (&self.acl, self.class()) {
            (Some(acl), _) => acl.clone(),
            (None, Some(class)) => initial_acl(class, &self.owner, self.id < ObjectId::FIRST_USER),
            (None, None) => Vec::new(),
        }
    }

    /// The same as a new definition of an object that is there, which keeps its owner, comment and grants.
    #[must_use]
    pub fn in_place_of(self, old: &Self) -> Self {
        let (owner, made_by) = (old.owner.clone(), old.made_by.clone());
        Self { owner, made_by, comment: old.comment.clone(), acl: old.acl.clone(), ..self }
    }

    /// Gives it to another role; what its owner had and gave goes with it.
    pub fn set_owner(&mut self, to: &str) {
        let from = std::mem::replace(&mut self.owner, to.to_string());
        if matches!(self.kind, ObjectKind::MaterializedView(_) | ObjectKind::Sink(_)) {
            self.made_by.get_or_insert_with(|| from.clone());
        }
        let Some(acl) = self.acl.take() else { return };
        let mut moved = Vec::with_capacity(acl.len());
        for mut item in acl {
            for name in [&mut item.grantee, &mut item.grantor] {
                if *name == from {
                    *name = to.to_string();
                }
            }
            crate::privilege::grant(&mut moved, item);
        }
        self.acl = Some(moved);
    }

    /// The word for this kind of object in errors and command tags, in lower case.
    pub fn kind_name(&self) -> &'static str {
        self.kind.name()
    }

    /// Name with its kind, as errors print it: `materialized view "v"`, `function f(integer)`.
    pub fn describe(&self) -> String {
        match &self.kind {
            ObjectKind::Function(f) => format!("function {}({})", self.name, f.argument_types()),
            _ => format!("{} \"{}\"", self.kind_name(), self.name),
        }
    }

    /// Columns of a relation; none for what is none.
    pub fn columns(&self) -> &[Column] {
        match &self.kind {
            ObjectKind::Schema
            | ObjectKind::Function(_)
            | ObjectKind::Task(_)
            | ObjectKind::Secret(_)
            | ObjectKind::Role(_)
            | ObjectKind::Database
            | ObjectKind::Index(_) => &[],
            ObjectKind::Table(t) => &t.columns,
            ObjectKind::Source(s) => &s.columns,
            ObjectKind::View(v) => &v.columns,
            ObjectKind::MaterializedView(v) => &v.columns,
            ObjectKind::Sink(s) => &s.columns,
            ObjectKind::ExternalTable(t) => &t.columns,
            ObjectKind::Snapshot(s) => &s.columns,
        }
    }

    /// Arrow schema of the columns.
    pub fn arrow_schema(&self) -> SchemaRef {
        columns_schema(self.columns())
    }

    /// Ids of the objects that this one is built on.
    pub fn depends_on(&self) -> BTreeSet<ObjectId> {
        self.references.values().copied().collect()
    }

    /// The stored form: JSON with a version.
    pub fn to_record(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Record<'a> {
            version: u32,
            object: &'a Object,
        }
        serde_json::to_vec(&Record { version: RECORD_VERSION, object: self }).unwrap_or_default()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`CatalogError::Corrupt`] if the record is of another version or no valid record.
    pub fn from_record(id: u32, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Record {
            version: u32,
            object: serde_json::Value,
        }
        let corrupt = |reason: String| CatalogError::Corrupt { id, reason };
        let record: Record = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
        if record.version != RECORD_VERSION {
            return Err(corrupt(format!("record version {}, this server reads {RECORD_VERSION}", record.version)));
        }
        serde_json::from_value(record.object).map_err(|e| corrupt(e.to_string()))
    }
}

/// Version of [`Object::to_record`]'s form.
const RECORD_VERSION: u32 = 1;

impl ObjectKind {
    /// The word for this kind in errors, in lower case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Table(_) => "table",
            Self::Source(_) => "source",
            Self::View(_) => "view",
            Self::MaterializedView(_) => "materialized view",
            Self::Sink(_) => "sink",
            Self::ExternalTable(_) => "external table",
            Self::Snapshot(_) => "snapshot",
            Self::Function(_) => "function",
            Self::Task(_) => "task",
            Self::Secret(_) => "secret",
            Self::Role(_) => "role",
            Self::Database => "database",
            Self::Index(_) => "index",
        }
    }

    /// PostgreSQL's `pg_class.relkind`; `None` for what is no relation. Sources and sinks, which PostgreSQL does not have,
    /// show as foreign tables. Snapshots do not show.
    pub fn relkind(&self) -> Option<char> {
        Some(match self {
            Self::Schema
            | Self::Snapshot(_)
            | Self::Function(_)
            | Self::Task(_)
            | Self::Secret(_)
            | Self::Role(_)
            | Self::Database => return None,
            Self::Table(_) => 'r',
            Self::View(_) => 'v',
            Self::MaterializedView(_) => 'm',
            Self::Index(_) => 'i',
            Self::Source(_) | Self::Sink(_) | Self::ExternalTable(_) => 'f',
        })
    }
}

/// Arrow schema of a list of columns.
pub fn columns_schema(columns: &[Column]) -> SchemaRef {
    Schema::new(columns.iter().map(|c| c.sql_type.field(&c.name, c.nullable)).collect::<Vec<_>>()).into()
}
