//! Puts rows under the names of a plan, all as of one published epoch.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::datasource::TableProvider;
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::logical_expr::TableSource;
use millstream_catalog::object::ExternalTable;
use millstream_catalog::{Object, ObjectId, ObjectKind};
use millstream_connectors::SourceSpec;
use millstream_sql::{CatalogSource, ExternalCall, Target, Version};

use super::api::Notice;
use super::database::Inner;
use super::indexes;
use super::inside::Inside;
use super::rows::{LateNotices, SourceRows, StoredRows};
use super::tasks::reads::Reads;
use super::transaction::Transaction;
use crate::batch::Resolver;
use crate::batch::files::FileTable;
use crate::batch::lake::{At, Lake, LakeReads, LakeTable};
use crate::batch::series::SeriesRows;
use crate::batch::stores::Access;
use crate::batch::tables::RowTable;
use crate::error::{Error, Result, sqlstate};
use crate::state::{Relation, TableId};
use crate::stream::engine::Published;
use crate::stream::engine::inserted::inserted_relation;
use crate::stream::engine::pipeline::read_failure;
use crate::stream::engine::table::table_relation;
use crate::stream::plan::{part, view_layout};

/// The rows of one statement.
pub struct StatementResolver<'a> {
    pub database: &'a Inner,
    pub published: &'a Arc<Published>,
    pub inside: &'a Inside,
    /// The open transaction, whose changes its statements see.
    pub transaction: Option<&'a Transaction>,
    /// Files that the statement names, looked up before it was planned.
    pub external: &'a HashMap<ExternalCall, Arc<dyn TableProvider>>,
    /// Opens the places of external tables.
    pub access: &'a Access,
    /// The versions of Delta tables that it reads.
    pub lakes: &'a Arc<LakeReads>,
    /// The rows that the client sent.
    pub input: Option<&'a Arc<dyn TableProvider>>,
    pub notices: &'a LateNotices,
    /// The statement's `now()`, microseconds since 1970.
    pub now_us: i64,
    /// What a task's run takes note of.
    pub reads: Option<&'a Reads>,
}

impl Resolver for StatementResolver<'_> {
    fn provider(&self, source: &Arc<dyn TableSource>) -> Result<Arc<dyn TableProvider>> {
        let source =
            CatalogSource::of(source).ok_or_else(|| Error::internal("a scan is not over an object of the catalog"))?;
        match &source.target {
            Target::Object(id) => self.object(*id, source),
            Target::System { schema, name } => self.inside.provider(schema, name),
            Target::Series(series) => {
                Ok(Arc::new(RowTable::new(Arc::new(SeriesRows::new(*series, source.schema.clone())))))
            }
            Target::External(call) => self
                .external
                .get(call)
                .cloned()
                .ok_or_else(|| Error::internal(format!("the files of \"{}\" were not looked up", call.location()))),
            Target::WorkTable(name) => Ok(Arc::new(CteWorkTable::new(name, source.schema.clone()))),
            Target::Input => self.input.cloned().ok_or_else(|| Error::internal("the rows of COPY are not there")),
        }
    }
}

impl StatementResolver<'_> {
    fn object(&self, id: ObjectId, source: &CatalogSource) -> Result<Arc<dyn TableProvider>> {
        let object = self.published.catalog.get(id).ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_TABLE, format!("relation with OID {id} does not exist any more"))
        })?;
        self.note(object)?;
        match &object.kind {
            ObjectKind::Table(_) => {
                let relation = Arc::new(table_relation(object)?);
                let changes = self.transaction.and_then(|t| t.changes(id)).cloned();
                let rows = self.stored(object, relation, source)?.with_changes(changes);
                Ok(Arc::new(RowTable::new(Arc::new(rows))))
            }
            ObjectKind::MaterializedView(view) => {
                let (database, published, transaction) = (self.database, self.published, self.transaction);
                ViewCheck { database, published, transaction, notices: self.notices }.check(object)?;
                let table = TableId::new(id.0, part::ROWS);
                let relation = Relation::new(table, object.arrow_schema(), view_layout(view))?;
                Ok(Arc::new(RowTable::new(Arc::new(self.stored(object, Arc::new(relation), source)?))))
            }
            ObjectKind::Source(s) if s.is_keyed() => {
                let relation = Arc::new(table_relation(object)?);
                Ok(Arc::new(RowTable::new(Arc::new(self.stored(object, relation, source)?))))
            }
            ObjectKind::Source(s) => {
                let generated = super::definitions::generated(object)?;
                let (spec, notices) = (SourceSpec::new(s)?, self.notices.clone());
                let rows = SourceRows::new(object.name.clone(), spec, generated, self.now_us, notices)
                    .with_inserted(inserted_relation(object)?, self.published.snapshot.clone());
                Ok(Arc::new(RowTable::new(Arc::new(rows))))
            }
            ObjectKind::ExternalTable(table) if table.is_lake() => self.lake(object, table, source),
            ObjectKind::ExternalTable(table) => {
                let access = self.access.of_role(&object.owner);
                let secret = access.secret_of(&table.options, &object.references);
                let reads = self.reads.map(|reads| reads.files(self.name_of(object))).transpose()?;
                Ok(Arc::new(FileTable::new(table, &object.describe(), &access, secret)?.with_reads(reads)))
            }
            ObjectKind::View(_)
            | ObjectKind::Sink(_)
            | ObjectKind::Schema
            | ObjectKind::Snapshot(_)
            | ObjectKind::Function(_)
            | ObjectKind::Task(_)
            | ObjectKind::Secret(_)
            | ObjectKind::Role(_)
            | ObjectKind::Database
            | ObjectKind::Index(_) => {
                Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("cannot read from {}", object.describe()))
                    .with_hint("sinks only take rows; read the view that they are made from"))
            }
        }
    }

    fn lake(&self, object: &Object, table: &ExternalTable, source: &CatalogSource) -> Result<Arc<dyn TableProvider>> {
        let access = self.access.of_role(&object.owner);
        let secret = access.secret_of(&table.options, &object.references);
        let lake = Lake::open(&table.location, &object.describe(), &access, secret)?;
        let snapshots = self.database.batch.snapshots().clone();
        let at = match source.version {
            Version::Number(number) => At::Version(number),
            Version::Moment(time_us) => At::Time(time_us),
            Version::Current | Version::Arrival | Version::Creation => At::Newest,
        };
        let read = LakeTable::new(lake, table.columns.clone(), snapshots, self.lakes.clone()).at(at);
        let reads = self.reads.map(|reads| reads.version(self.name_of(object))).transpose()?;
        let read = read.with_reads(reads);
        Ok(Arc::new(if source.has_row_id() { read.with_row_ids() } else { read }))
    }

    fn name_of(&self, object: &Object) -> String {
        format!("{}.{}", self.published.catalog.schema_name(object), object.name)
    }

    /// Notes that a task's run reads a stored relation or a source.
    fn note(&self, object: &Object) -> Result<()> {
        let Some(reads) = self.reads else { return Ok(()) };
        match &object.kind {
            ObjectKind::Table(_) | ObjectKind::MaterializedView(_) => {
                // What changed it before the server started is not known.
                let changed = self.database.engine.stats().view(object.id).map_or(0, |v| v.epoch);
                let changed = changed.max(self.database.tasks.start_epoch);
                reads.relation(self.name_of(object), object.id, self.published.epoch, changed)
            }
            ObjectKind::Source(_) => reads.source(self.name_of(object), object.id),
            _ => Ok(()),
        }
    }

    fn stored(&self, object: &Object, relation: Arc<Relation>, source: &CatalogSource) -> Result<StoredRows> {
        let rows = self.database.engine.stats().view(object.id).map(|v| v.rows.max(0) as usize);
        let has_made = |id| self.transaction.is_some_and(|t| t.has_made(id));
        let indexes = indexes::readable(&self.published.catalog, &relation, object.id, has_made)?;
        let snapshot = self.published.snapshot.clone();
        Ok(StoredRows::new(relation, snapshot, source.schema.clone(), rows).with_indexes(indexes))
    }
}

/// What is looked at before a continuous view is read.
pub struct ViewCheck<'a> {
    pub database: &'a Inner,
    pub published: &'a Arc<Published>,
    pub transaction: Option<&'a Transaction>,
    pub notices: &'a LateNotices,
}

impl ViewCheck<'_> {
    /// Tells of a view that is behind what it reads, because it or one below it is suspended or was.
    fn warn_of_standing(&self, object: &Object) {
        let mut below = vec![object.id];
        let mut seen = BTreeSet::new();
        while let Some(id) = below.pop() {
            let Some(read) = self.published.catalog.get(id).filter(|_| seen.insert(id)) else { continue };
            below.extend(read.depends_on());
            if !matches!(read.kind, ObjectKind::MaterializedView(_)) {
                continue;
            }
            let stats = self.database.engine.stats().view(id);
            let is_behind = stats.is_some_and(|v| v.built && v.is_incomplete_at(self.published.epoch));
            let (text, hint) = match (read.suspended, is_behind) {
                (true, _) => ("is suspended", "ALTER MATERIALIZED VIEW ... RESUME lets it go on"),
                (false, true) => ("was suspended and catches up", "SHOW JOBS says how far it is"),
                (false, false) => continue,
            };
            let text = format!("{} {text}: its rows are older than those of other views", read.describe());
            self.notices.lock().push(Notice::warning(text).with_hint(hint));
        }
    }

    /// A view that has stopped no longer equals its query: better no answer than an old one.
    pub fn check(&self, object: &Object) -> Result<()> {
        if self.transaction.is_some_and(|t| t.has_made(object.id)) {
            return Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{} has no rows before the transaction that creates it has committed", object.describe()),
            )
            .with_hint("commit, then read it"));
        }
        if let Some(reason) = read_failure(&self.published.snapshot, object.id)? {
            return Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{} has failed and is not kept any more", object.describe()),
            )
            .with_detail(reason)
            .with_hint("drop it and create it again"));
        }
        let stats = self.database.engine.stats().view(object.id);
        self.warn_of_standing(object);
        if stats.is_some_and(|v| v.is_incomplete_at(self.published.epoch) && !v.built) {
            return Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{} is still being built", object.describe()),
            )
            .with_hint("see millstream.views for its progress"));
        }
        Ok(())
    }
}
