//! What changes the rows of a Delta table: INSERT, INSERT OVERWRITE, UPDATE, DELETE and MERGE.
//!
//! Files are never changed. Rows that go or change are left out of a copy of their file, and one commit takes the old files
//! out and puts the new ones in.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, BooleanArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::ScalarValue;
use datafusion::datasource::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{LogicalPlanBuilder, TableSource};
use deltalake::kernel::{Action, Add};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::config::TablePropertiesExt;
use futures::StreamExt;
use millstream_sql::{CatalogSource, Target};
use roaring::RoaringTreemap;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::commit::{Change, Kind, Note, added, commit};
use super::scan::{LakeTable, row_of};
use super::snapshot::{Snapshot, Version};
use super::write::{Shape, Writer, remove};
use crate::batch::context::{Batch, Resolver, StatementOptions};
use crate::batch::copy::Written;
use crate::error::{Error, Result, sqlstate};

/// What INSERT OVERWRITE replaces.
#[derive(Debug, Clone, PartialEq)]
pub enum Replaced {
    All,
    /// The rows with these values of partition columns, by the columns' names.
    Partition(Vec<(String, ScalarValue)>),
    /// The partitions that new rows are in.
    Found,
}

/// Rows on their way into files.
pub struct Rows {
    pub stream: SendableRecordBatchStream,
    pub cancel: CancellationToken,
    pub written: Arc<Written>,
}

/// Which rows go, by file and place.
#[derive(Debug, Default)]
pub struct Gone(BTreeMap<usize, RoaringTreemap>);

impl Gone {
    /// Notes a row; whether it was not noted before.
    pub fn insert(&mut self, id: i64) -> bool {
        let (file, place) = row_of(id);
        self.0.entry(file).or_default().insert(place)
    }

    /// How many rows go.
    pub fn len(&self) -> u64 {
        self.0.values().map(RoaringTreemap::len).sum()
    }

    /// Whether none goes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The files that keep some of their rows.
    fn kept_in_part(&self, snapshot: &Snapshot) -> BTreeSet<usize> {
        let is_whole = |(file, gone): &(&usize, &RoaringTreemap)| {
            snapshot.files[**file].rows.is_some_and(|rows| gone.len() >= rows as u64)
        };
        self.0.iter().filter(|entry| !is_whole(entry)).map(|(file, _)| *file).collect()
    }

    fn mask(&self, ids: &[i64]) -> BooleanArray {
        let stays = |id: &i64| {
            let (file, place) = row_of(*id);
            Some(!self.0.get(&file).is_some_and(|gone| gone.contains(place)))
        };
        ids.iter().map(stays).collect()
    }
}

/// Refuses what we must not write to.
///
/// # Errors
/// 0A000 for tables whose writers must check or compute more than we do, and for a change of rows where each is to be noted.
pub fn check_writable(snapshot: &Snapshot, changes_rows: bool) -> Result<()> {
    let refused = |what: &str| {
        let error = format!("{} cannot be written to: {what}", snapshot.lake.object);
        Err(Error::unsupported(error).with_hint("write to it with the system that made it"))
    };
    let configuration = snapshot.state.metadata().configuration();
    if configuration.keys().any(|key| key.starts_with("delta.constraints.")) {
        return refused("the Delta table has CHECK constraints");
    }
    for field in snapshot.state.schema().fields() {
        for (key, what) in [
            ("delta.invariants", "invariants"),
            ("delta.generationExpression", "generated columns"),
            ("delta.identity.start", "identity columns"),
        ] {
            if field.metadata().contains_key(key) {
                return refused(&format!("the Delta table has {what}"));
            }
        }
    }
    if changes_rows && snapshot.state.table_config().enable_change_data_feed() {
        return refused("the Delta table keeps a change data feed");
    }
    if changes_rows && snapshot.state.table_config().append_only() {
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("{} is append-only", snapshot.lake.object))
            .with_hint("it was made with 'delta.appendOnly' = 'true'"));
    }
    Ok(())
}

/// Writes all rows into files; nothing is left of them if it fails.
///
/// # Errors
/// Of the rows and the store; 57014 when cancelled.
pub async fn write_all(writer: Writer, mut rows: Rows) -> Result<(Vec<Add>, u64)> {
    let mut writer = Some(writer);
    let result = async {
        loop {
            let batch = tokio::select! {
                biased;
                () = rows.cancel.cancelled() => return Err(canceled()),
                batch = rows.stream.next() => batch,
            };
            let Some(batch) = batch.transpose()? else { break };
            if let Some(writer) = &mut writer {
                writer.write(&batch).await?;
            }
        }
        match writer.take() {
            Some(writer) => writer.finish().await,
            None => Err(Error::internal("files were finished twice")),
        }
    };
    let result = result.await;
    if let Some(writer) = writer {
        writer.abandon().await;
    }
    result
}

/// INSERT and INSERT OVERWRITE: the rows, in the table's columns, become the next version. Returns how many there were.
///
/// # Errors
/// Of [`write_all`] and [`commit`].
pub async fn insert(
    snapshot: &Snapshot,
    rows: Rows,
    replaced: Option<&Replaced>,
    blind: bool,
    mut note: Note,
) -> Result<u64> {
    check_writable(snapshot, replaced.is_some())?;
    let writer = Writer::new(Shape::of(snapshot), rows.written.clone());
    let (adds, count) = write_all(writer, rows).await?;
    let mut actions: Vec<Action> = Vec::new();
    if let Some(replaced) = replaced {
        let found: HashSet<Vec<Option<String>>> =
            adds.iter().map(|add| partition_of(snapshot, &add.partition_values)).collect();
        for file in &snapshot.files {
            let goes = match replaced {
                Replaced::All => true,
                Replaced::Found => found.contains(&partition_of(snapshot, &file.partition_texts())),
                Replaced::Partition(values) => values.iter().all(|(name, value)| {
                    let at = snapshot.partition_columns.iter().position(|column| column == name);
                    at.is_some_and(|at| file.partition[at] == *value)
                }),
            };
            if goes {
                actions.push(Action::Remove(file.removed()));
            }
        }
    }
    if adds.is_empty() && actions.is_empty() && note.transaction.is_none() {
        return Ok(0);
    }
    note.metrics.insert("numFiles".into(), json!(adds.len()));
    note.metrics.insert("numRemovedFiles".into(), json!(actions.len()));
    note.metrics.insert("numOutputRows".into(), json!(count));
    let mode = if replaced.is_some() { SaveMode::Overwrite } else { SaveMode::Append };
    let partition_by = (!snapshot.partition_columns.is_empty()).then(|| snapshot.partition_columns.clone());
    let files = adds.clone();
    actions.extend(added(adds));
    let change = Change {
        actions,
        operation: DeltaOperation::Write { mode, partition_by, predicate: None },
        kind: if replaced.is_none() { Kind::Appends { blind } } else { Kind::Changes },
        note,
    };
    finish(snapshot, &change, &files).await?;
    Ok(count)
}

/// The values of an entry's partition columns, as the log has them.
fn partition_of(snapshot: &Snapshot, values: &HashMap<String, Option<String>>) -> Vec<Option<String>> {
    let value = |name: &String| values.get(name).cloned().flatten().filter(|text| !text.is_empty());
    snapshot.partition_columns.iter().map(value).collect()
}

/// Commits; files that no version names are removed again.
async fn finish(snapshot: &Snapshot, change: &Change, files: &[Add]) -> Result<Version> {
    let done = commit(snapshot, change).await;
    // Another error may hide that the entry of the log is there.
    if done.as_ref().is_err_and(|e| e.sqlstate() == sqlstate::SERIALIZATION_FAILURE) {
        remove(&snapshot.lake, files).await;
    }
    done
}

/// The rows of UPDATE, DELETE and MERGE that are written beside what stays, and those that go.
pub struct Changed {
    pub gone: Gone,
    pub writer: Writer,
}

/// Commits a change of rows: what stays of the files that rows go from is copied.
///
/// # Errors
/// Of reading and writing files, and of [`commit`].
#[allow(clippy::too_many_arguments)]
pub async fn replace(
    batch: &Batch,
    table: LakeTable,
    snapshot: &Snapshot,
    Changed { gone, mut writer }: Changed,
    operation: DeltaOperation,
    mut note: Note,
    cancel: CancellationToken,
) -> Result<()> {
    let in_part = gone.kept_in_part(snapshot);
    let copied = async {
        if in_part.is_empty() {
            return Ok(());
        }
        let mut rows = all_rows(batch, table.with_row_ids().with_files(in_part)).await?;
        loop {
            let rows = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(canceled()),
                rows = rows.next() => rows,
            };
            let Some(rows) = rows.transpose()? else { return Ok(()) };
            let ids = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>();
            let mask = gone.mask(ids.values());
            let columns: Vec<usize> = (0..rows.num_columns() - 1).collect();
            writer.write(&filter_record_batch(&rows.project(&columns)?, &mask)?).await?;
        }
    };
    if let Err(e) = copied.await {
        writer.abandon().await;
        return Err(e);
    }
    let (adds, _) = writer.finish().await?;
    let removed = gone.0.keys().map(|file| Action::Remove(snapshot.files[*file].removed()));
    let mut actions: Vec<Action> = removed.collect();
    note.metrics.insert("numAddedFiles".into(), json!(adds.len()));
    note.metrics.insert("numRemovedFiles".into(), json!(actions.len()));
    let files = adds.clone();
    actions.extend(added(adds));
    let change = Change { actions, operation, kind: Kind::Changes, note };
    finish(snapshot, &change, &files).await?;
    Ok(())
}

/// All rows of a table.
async fn all_rows(batch: &Batch, table: LakeTable) -> Result<SendableRecordBatchStream> {
    struct Only(Arc<dyn TableProvider>);
    impl Resolver for Only {
        fn provider(&self, _: &Arc<dyn TableSource>) -> Result<Arc<dyn TableProvider>> {
            Ok(self.0.clone())
        }
    }
    let source = CatalogSource::new(Target::Input, table.schema());
    let plan = LogicalPlanBuilder::scan("rows", Arc::new(source), None)?.build()?;
    Ok(batch.execute(plan, &Only(Arc::new(table)), &StatementOptions::default()).await?.1)
}

fn canceled() -> Error {
    Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}
