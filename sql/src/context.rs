//! What planning may look at: the catalog version, the session's settings, and schemas that were asked for beforehand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion_expr::{LogicalPlan, ScalarUDF, TableSource, TableType};
use millstream_catalog::{Catalog, ObjectId, SqlType};

/// Name of the column that identifies a row of a table without primary key; only DML plans see it.
pub const ROW_ID: &str = "__row_id";

/// Everything that [`crate::plan()`] depends on beside the statement.
#[derive(Clone, Copy)]
pub struct PlanContext<'a> {
    pub catalog: &'a Catalog,
    pub search_path: &'a [String],
    /// Names as written -> ids, when a stored query is planned again; wins over the search path.
    pub bindings: Option<&'a BTreeMap<String, ObjectId>>,
    pub system: &'a dyn SystemTables,
    /// Schemas of the files that [`crate::external_calls`] listed.
    pub external: &'a HashMap<ExternalCall, SchemaRef>,
    pub session: &'a SessionVars,
    /// Types that the client declared for `$n`.
    pub parameters: &'a [Option<SqlType>],
    /// Whose rights count; `None`: what is planned was allowed already.
    pub rights: Option<Rights<'a>>,
}

/// The rights that a statement is planned with.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    pub role: &'a str,
    /// The relation that the statement changes without looking at its rows.
    pub unread: Option<ObjectId>,
}

/// The tables that exist without a catalog object: schemas `millstream`, `pg_catalog`, `information_schema`.
pub trait SystemTables: Send + Sync {
    /// Schema of a system table, if there is one of that name.
    fn table(&self, schema: &str, name: &str) -> Option<SchemaRef>;

    /// A function that speaks of the catalog (`pg_get_viewdef`, `format_type`), by name in lower case.
    fn function(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let _ = name;
        None
    }
}

/// No system tables: for tests and tools.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSystemTables;

impl SystemTables for NoSystemTables {
    fn table(&self, _schema: &str, _name: &str) -> Option<SchemaRef> {
        None
    }
}

/// The run of a task that a statement belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunVars {
    /// When it was due, microseconds since 1970.
    pub time_us: i64,
    /// The date that the clock of the schedule's time zone shows then, in days since 1970-01-01.
    pub date: i32,
    pub parameters: BTreeMap<String, String>,
}

/// The part of a session that expressions can see; constants while a statement runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionVars {
    /// The role that it acts as, ...
    pub user: String,
    /// ... and the one that it began with.
    pub session_user: String,
    pub database: String,
    /// First schema of the search path that exists.
    pub schema: String,
    /// IANA name or fixed offset.
    pub time_zone: String,
    /// What `version()` prints.
    pub version: String,
    /// The schema of the session's temporary tables, which may not be there.
    pub temporary_schema: String,
    /// What `run_time()` and its kin speak of; `None` outside of a task's runs.
    pub run: Option<RunVars>,
}

/// What PostgreSQL calls the schema of a session's temporary tables, whatever its name is.
pub const TEMPORARY_SCHEMA: &str = "pg_temp";

impl Default for SessionVars {
    fn default() -> Self {
        Self {
            user: millstream_catalog::DEFAULT_USER.into(),
            session_user: millstream_catalog::DEFAULT_USER.into(),
            database: millstream_catalog::DEFAULT_DATABASE.into(),
            schema: millstream_catalog::DEFAULT_SCHEMA.into(),
            time_zone: "UTC".into(),
            version: format!("PostgreSQL 17.0 (Millstream {})", env!("CARGO_PKG_VERSION")),
            temporary_schema: TEMPORARY_SCHEMA.into(),
            run: None,
        }
    }
}

/// Files whose schema must be read before a statement can be planned: `read_parquet('glob')` and kin, or CREATE EXTERNAL TABLE
/// without a column list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExternalCall {
    /// `parquet`, `csv` or `json`.
    pub format: String,
    /// Paths, URLs or globs; one at least.
    pub locations: Vec<String>,
    /// Keys in lower case.
    pub options: BTreeMap<String, String>,
    /// The hive partition columns; `None`: those of the folders that all files are in.
    pub partitions: Option<Vec<String>>,
}

impl ExternalCall {
    /// The locations, for messages.
    pub fn location(&self) -> String {
        self.locations.join(", ")
    }
}

/// What a scan reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Object(ObjectId),
    System {
        schema: String,
        name: String,
    },
    /// `read_parquet('glob')` and kin.
    External(ExternalCall),
    /// `generate_series` over constant integers.
    Series(Series),
    /// The rows of the step before, in a recursive query of this name.
    WorkTable(String),
    /// The rows that a client sends with COPY … FROM STDIN.
    Input,
}

/// The integers from `start` to `stop`, both included, `step` apart; none if they lead the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Series {
    pub start: i64,
    pub stop: i64,
    /// Not 0.
    pub step: i64,
}

/// As of when a relation is read. In a batch that is always when the batch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// As it is, also when it changes.
    Current,
    /// As it stands when the rows of the stream that is joined with it arrive, and never again: `FOR SYSTEM_TIME AS OF
    /// PROCTIME()`.
    Arrival,
    /// An external table as it is when the continuous view is made: `FOR SYSTEM_TIME AS OF now()`.
    Creation,
    /// A Delta table as its version of this number was: `VERSION AS OF n`.
    Number(u64),
    /// A Delta table as it was at a moment, in microseconds since 1970: `TIMESTAMP AS OF '…'`.
    Moment(i64),
}

impl Version {
    /// Whether it is of external tables alone, which a continuous view keeps a copy of.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Creation | Self::Number(_) | Self::Moment(_))
    }
}

/// The leaf of every plan: a schema and what it stands for. `batch` puts a real provider in its place, `stream` reads the
/// id. Downcast from `dyn TableSource` with [`CatalogSource::of`].
#[derive(Debug)]
pub struct CatalogSource {
    pub target: Target,
    /// The object's columns, in order; then [`ROW_ID`] if a DML plan asked for it.
    pub schema: SchemaRef,
    /// Positions of the primary key, if there is one.
    pub primary_key: Vec<usize>,
    /// As of when it is read.
    pub version: Version,
    /// Whether it is an external table, whose changes nobody tells.
    pub(crate) is_external: bool,
    /// Whether it is a Delta table, whose past versions can be read.
    pub(crate) is_lake: bool,
    /// A plain view's own plan.
    pub(crate) view: Option<LogicalPlan>,
}

impl CatalogSource {
    /// A leaf without a view's plan.
    pub fn new(target: Target, schema: SchemaRef) -> Self {
        Self {
            target,
            schema,
            primary_key: Vec::new(),
            version: Version::Current,
            is_external: false,
            is_lake: false,
            view: None,
        }
    }

    /// The same, read as of another moment; `None` for a plain view, for [`Version::Creation`] of what is no external table,
    /// and for past versions of what is no Delta table.
    pub(crate) fn as_of(&self, version: Version) -> Option<Self> {
        let is_known = self.view.is_none()
            && match version {
                Version::Creation => self.is_external,
                Version::Number(_) | Version::Moment(_) => self.is_lake,
                Version::Current | Version::Arrival => true,
            };
        is_known.then(|| Self {
            target: self.target.clone(),
            schema: self.schema.clone(),
            primary_key: self.primary_key.clone(),
            version,
            is_external: self.is_external,
            is_lake: self.is_lake,
            view: None,
        })
    }

    /// The source under a scan, if it is one of ours.
    pub fn of(source: &Arc<dyn TableSource>) -> Option<&Self> {
        source.downcast_ref::<Self>()
    }

    /// Id of the catalog object, if it stands for one.
    pub fn object(&self) -> Option<ObjectId> {
        match self.target {
            Target::Object(id) => Some(id),
            _ => None,
        }
    }

    /// Whether the schema ends with [`ROW_ID`].
    pub fn has_row_id(&self) -> bool {
        self.schema.fields().last().is_some_and(|f| f.name() == ROW_ID)
    }
}

impl TableSource for CatalogSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        if self.view.is_some() { TableType::View } else { TableType::Base }
    }

    fn get_logical_plan(&self) -> Option<std::borrow::Cow<'_, LogicalPlan>> {
        self.view.as_ref().map(std::borrow::Cow::Borrowed)
    }
}
