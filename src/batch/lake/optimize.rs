//! OPTIMIZE: small files of a partition put together, or its rows arranged by some columns.
//!
//! Each group of files is replaced in a commit of its own, which fails if another writer has taken one of the files out
//! meanwhile, also one that has only moved its rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::datasource::provider_as_source;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlanBuilder, col};
use datafusion::physical_plan::execute_stream;
use deltalake::kernel::Action;
use deltalake::protocol::DeltaOperation;
use deltalake::table::config::TablePropertiesExt;
use futures::StreamExt;
use serde_json::json;

use super::change::check_writable;
use super::commit::{Change, Kind, Note, commit};
use super::scan::LakeTable;
use super::snapshot::{LakeReads, Snapshot, Snapshots};
use super::write::{Shape, Writer, remove};
use super::z_order::z_order;
use crate::error::{Error, Result, sqlstate};

/// What OPTIMIZE has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Optimized {
    pub files_added: u64,
    pub files_removed: u64,
    pub bytes_added: u64,
    pub bytes_removed: u64,
}

/// Puts small files together, or arranges the rows by `by`. `partitions` names those that are meant by column and value;
/// none: all. What it does is counted in `done`.
///
/// # Errors
/// 40001 if another writer has changed the same files (groups that were replaced before stay so), 0A000 for tables that we
/// must not write to; those of the store.
pub async fn optimize(
    snapshots: &Arc<Snapshots>,
    snapshot: &Snapshot,
    partitions: &[(String, String)],
    by: &[String],
    state: &SessionState,
    user: &str,
    done: &mut Optimized,
) -> Result<()> {
    check_writable(snapshot, false)?;
    let target = snapshot.state.table_config().target_file_size().get();
    for group in groups(snapshot, partitions, target, !by.is_empty()) {
        let writer = Writer::new(Shape::of(snapshot), Arc::default());
        let adds = rewritten(snapshots, snapshot, &group, by, state, writer).await?;
        let bytes = |n: i64| u64::try_from(n).unwrap_or_default();
        let removed = group.iter().map(|file| Action::Remove(snapshot.files[*file].moved()));
        let mut actions: Vec<Action> = removed.collect();
        let files = adds.clone();
        let moved = Optimized {
            files_added: done.files_added + adds.len() as u64,
            files_removed: done.files_removed + actions.len() as u64,
            bytes_added: done.bytes_added + adds.iter().map(|add| bytes(add.size)).sum::<u64>(),
            bytes_removed: done.bytes_removed + group.iter().map(|file| snapshot.files[*file].meta.size).sum::<u64>(),
        };
        let mut note = Note { user: user.into(), ..Note::default() };
        note.metrics.insert("numAddedFiles".into(), json!(adds.len()));
        note.metrics.insert("numRemovedFiles".into(), json!(actions.len()));
        actions.extend(adds.into_iter().map(|mut add| {
            add.data_change = false;
            Action::Add(add)
        }));
        let operation =
            DeltaOperation::Optimize { predicate: None, target_size: i64::try_from(target).unwrap_or(i64::MAX) };
        let change = Change { actions, operation, kind: Kind::Moves, note };
        if let Err(e) = commit(snapshot, &change).await {
            if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE {
                remove(&snapshot.lake, &files).await;
            }
            return Err(e);
        }
        *done = moved;
    }
    Ok(())
}

/// Files that become one, about, by their positions: of one partition each. To arrange rows, all files of a partition go
/// together; else files that are large enough stay.
fn groups(snapshot: &Snapshot, partitions: &[(String, String)], target: u64, arrange: bool) -> Vec<BTreeSet<usize>> {
    let is_meant = |file: &usize| {
        let texts = snapshot.files[*file].partition_texts();
        partitions.iter().all(|(column, value)| texts.get(column).and_then(Option::as_deref) == Some(value.as_str()))
    };
    let mut files: Vec<usize> = (0..snapshot.files.len()).filter(is_meant).collect();
    if !arrange {
        files.retain(|file| snapshot.files[*file].meta.size < target / 4 * 3);
    }
    let key = |file: &usize| {
        let mut texts: Vec<_> = snapshot.files[*file].partition_texts().into_iter().collect();
        texts.sort();
        texts
    };
    files.sort_by_cached_key(key);
    let mut groups: Vec<BTreeSet<usize>> = Vec::new();
    let (mut of, mut bytes) = (None, 0);
    for file in files {
        let (partition, size) = (key(&file), snapshot.files[file].meta.size);
        let goes_on = of.as_ref() == Some(&partition) && (arrange || bytes + size <= target);
        if !goes_on {
            groups.push(BTreeSet::new());
            (of, bytes) = (Some(partition), 0);
        }
        bytes += size;
        if let Some(last) = groups.last_mut() {
            last.insert(file);
        }
    }
    groups.retain(|group| group.len() > 1 || arrange);
    groups
}

/// The rows of some files in new ones.
async fn rewritten(
    snapshots: &Arc<Snapshots>,
    snapshot: &Snapshot,
    group: &BTreeSet<usize>,
    by: &[String],
    state: &SessionState,
    mut writer: Writer,
) -> Result<Vec<deltalake::kernel::Add>> {
    let written = async {
        let reads = Arc::new(LakeReads::default());
        let table = LakeTable::new(snapshot.lake.clone(), snapshot.columns.clone(), snapshots.clone(), reads)
            .at(super::snapshot::At::Version(snapshot.version()))
            .with_files(group.clone());
        let mut plan = LogicalPlanBuilder::scan("files", provider_as_source(Arc::new(table)), None)?;
        if !by.is_empty() {
            let columns = by.iter().map(|name| col(datafusion::common::Column::new(Some("files"), name))).collect();
            plan = plan.sort([z_order().call(columns).sort(true, true)])?;
        }
        let plan = state.create_physical_plan(&plan.build()?).await?;
        let mut rows = execute_stream(plan, state.task_ctx())?;
        while let Some(rows) = rows.next().await {
            writer.write(&rows?).await?;
        }
        Ok::<(), Error>(())
    };
    match written.await {
        Ok(()) => Ok(writer.finish().await?.0),
        Err(e) => {
            writer.abandon().await;
            Err(e)
        }
    }
}
