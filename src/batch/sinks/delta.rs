//! A sink into a Delta table. Its marker is the version of an application transaction, which changes with the rows.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use deltalake::kernel::Transaction;
use deltalake::protocol::{DeltaOperation, OutputMode};
use millstream_connectors::sink::RowPlace;
use millstream_connectors::{ConnectorError, Marker, Message, Result, SinkIdentity, SinkWriter};
use serde_json::json;

use super::Common;
use super::gathered::Gathered;
use crate::batch::lake::commit::{Change, Kind, Note, added, commit};
use crate::batch::lake::create::{NewLake, check_declared};
use crate::batch::lake::optimize::{Optimized, optimize};
use crate::batch::lake::snapshot::Snapshot;
use crate::batch::lake::write::{Shape, remove};
use crate::batch::lake::{At, Snapshots, change};
use crate::error::{Error, sqlstate};

/// A Delta table that a sink writes to.
#[derive(Debug)]
pub struct DeltaPlace {
    common: Common,
    /// What is made if there is no table yet.
    new: NewLake,
    snapshots: Arc<Snapshots>,
}

impl DeltaPlace {
    /// # Errors
    /// 0A000 for types that Delta tables do not have.
    pub fn new(common: Common, name: &str, snapshots: Arc<Snapshots>) -> crate::error::Result<Self> {
        let Common { lake, options, columns, .. } = &common;
        let new = NewLake::new(lake.clone(), name, columns, &options.partition_by, options.properties.clone())?;
        Ok(Self { common, new, snapshots })
    }
}

impl RowPlace for DeltaPlace {
    fn name(&self) -> &str {
        &self.common.options.location
    }

    fn commit_interval(&self) -> Duration {
        self.common.options.commit_interval
    }

    /// Makes the table if there is none.
    fn probe(&self, _timeout: Duration) -> Result<()> {
        let (new, snapshots, common) = (self.new.clone(), self.snapshots.clone(), self.common.clone());
        self.common.run(async move {
            if !NewLake::exists(&common.lake).await? {
                return new.create(Vec::new()).await;
            }
            load(&common, &snapshots).await.map(drop)
        })
    }

    fn start(&self, identity: &SinkIdentity) -> Result<Box<dyn SinkWriter>> {
        let (common, snapshots) = (self.common.clone(), self.snapshots.clone());
        let snapshot = self.common.run(async move { load(&common, &snapshots).await })?;
        Ok(Box::new(DeltaWriter {
            application: format!("millstream-{}-{}", identity.store, identity.sink),
            common: self.common.clone(),
            snapshots: self.snapshots.clone(),
            order: order(&self.common, &snapshot),
            snapshot: Arc::new(snapshot),
            gathered: Gathered::new(self.common.clone()),
            there: None,
            is_fenced: false,
            commits: 0,
        }))
    }
}

/// The newest version, which must have the sink's columns and no others.
async fn load(common: &Common, snapshots: &Snapshots) -> crate::error::Result<Snapshot> {
    let snapshot = snapshots.load(&common.lake, At::Newest).await?;
    change::check_writable(&snapshot, false)?;
    check_declared(&common.lake, &common.columns, &common.options.partition_by, &snapshot)?;
    if let Some(other) = snapshot.columns.iter().find(|c| common.columns.iter().all(|ours| ours.name != c.name)) {
        let message = format!("{} has no column \"{}\" of its Delta table", common.lake.object, other.name);
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
            .with_hint("add it to the query, NULL if nothing is known"));
    }
    Ok(snapshot)
}

/// Where the table's columns are among the sink's.
fn order(common: &Common, snapshot: &Snapshot) -> Vec<usize> {
    let position = |name: &String| common.columns.iter().position(|c| c.name == *name).unwrap_or_default();
    snapshot.columns.iter().map(|c| position(&c.name)).collect()
}

struct DeltaWriter {
    application: String,
    common: Common,
    snapshots: Arc<Snapshots>,
    snapshot: Arc<Snapshot>,
    order: Vec<usize>,
    gathered: Gathered,
    /// The number after the last row that the table has, once it is known.
    there: Option<u64>,
    is_fenced: bool,
    commits: u32,
}

impl DeltaWriter {
    fn ask(&self) -> Result<Option<u64>> {
        let (common, snapshots, application) = (self.common.clone(), self.snapshots.clone(), self.application.clone());
        self.common.run(async move {
            let newest = snapshots.load(&common.lake, At::Newest).await?;
            let version = newest.state.transaction_version(common.lake.log.as_ref(), &application).await;
            Ok(version.map_err(|e| common.lake.told(e))?.and_then(|version| u64::try_from(version).ok()))
        })
    }

    /// Puts small files together. What fails is done another time.
    fn compact(&self) {
        let (common, snapshots) = (self.common.clone(), self.snapshots.clone());
        let done = self.common.run(async move {
            let snapshot = snapshots.load(&common.lake, At::Newest).await?;
            let mut done = Optimized::default();
            optimize(&snapshots, &snapshot, &[], &[], &common.state, "millstream", &mut done).await.map(|()| done)
        });
        match done {
            Ok(done) => tracing::debug!("{}: {done:?}", self.common.lake.object),
            Err(e) => tracing::warn!("files of {} were not put together: {e}", self.common.lake.object),
        }
    }
}

impl SinkWriter for DeltaWriter {
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    fn marker(&mut self) -> Result<Option<Marker>> {
        self.there = self.ask()?;
        Ok(Some(self.there.map_or(Marker::Absent, Marker::At)))
    }

    fn send(&mut self, _messages: Vec<Message>) -> Result<()> {
        Err(ConnectorError::internal("a Delta table takes rows, not messages"))
    }

    fn send_rows(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = rows.project(&self.order)?;
        self.gathered.add(rows, || Shape::of(&self.snapshot))
    }

    fn is_full(&self) -> bool {
        self.gathered.is_full()
    }

    fn commit(&mut self, next: u64) -> Result<()> {
        let (writer, snapshot, snapshots) = (self.gathered.take(), self.snapshot.clone(), self.snapshots.clone());
        let (application, common) = (self.application.clone(), self.common.clone());
        let done = self.common.run(async move {
            let (adds, rows) = match writer {
                Some(writer) => writer.finish().await?,
                None => (Vec::new(), 0),
            };
            let version =
                i64::try_from(next).map_err(|_| Error::internal("a sink has more rows than can be numbered"))?;
            let mut note = Note { user: "millstream".into(), ..Note::default() };
            note.transaction = Some(Transaction::new(&application, version));
            note.metrics.insert("numOutputRows".into(), json!(rows));
            note.metrics.insert("numFiles".into(), json!(adds.len()));
            let operation = DeltaOperation::StreamingUpdate {
                output_mode: OutputMode::Append,
                query_id: application,
                epoch_id: version,
            };
            let files = adds.clone();
            let change =
                Change { actions: added(adds).collect(), operation, kind: Kind::Appends { blind: true }, note };
            match commit(&snapshot, &change).await {
                Ok(_) => load(&common, &snapshots).await.map(Ok),
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {
                    remove(&common.lake, &files).await;
                    Ok(Err(e))
                }
                Err(e) => Err(e),
            }
        })?;
        let snapshot = match done {
            Ok(snapshot) => snapshot,
            Err(conflict) => {
                let now = self.ask()?;
                self.is_fenced = now != self.there;
                let object = &self.common.lake.object;
                return Err(match self.is_fenced {
                    true => ConnectorError::new(
                        millstream_connectors::error::sqlstate::OBJECT_IN_USE,
                        format!("another server writes {object}"),
                    )
                    .with_hint("only one server may run on a data directory and its copies; stop the other one"),
                    false => super::told(conflict),
                });
            }
        };
        self.snapshot = Arc::new(snapshot);
        self.order = order(&self.common, &self.snapshot);
        self.there = Some(next);
        self.commits += 1;
        if self.common.options.compaction_commits.is_some_and(|n| self.commits.is_multiple_of(n)) {
            self.compact();
        }
        Ok(())
    }

    fn acknowledged(&mut self, _wait: Duration) -> Result<u64> {
        Ok(self.there.unwrap_or_default())
    }

    fn is_fenced(&self) -> bool {
        self.is_fenced
    }
}
