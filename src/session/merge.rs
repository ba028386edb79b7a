//! MERGE.

use std::collections::HashSet;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Int32Type;
use millstream_catalog::{Object, ObjectKind};
use millstream_sql::plan::{MERGE_INSERT, MERGE_UPDATE, MergePlan};
use millstream_sql::{Parsed, Plan};

use super::api::{Parameter, Response};
use super::dml::{RETRIES, check, nullable, table_of, too_many_conflicts, typed, visible};
use super::lake::second_time;
use super::{Scope, Session, complete};
use crate::error::{Error, Result, sqlstate};
use crate::stream::engine::table::table_relation;
use crate::stream::engine::{OnConflict, TableWrite, WriteRequest};

impl Session {
    pub(super) async fn merge(
        &mut self,
        p: MergePlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        let object = table_of(scope, p.table)?;
        if matches!(object.kind, ObjectKind::ExternalTable(_)) {
            return self.merge_into_lake(p, parsed, parameters, scope).await;
        }
        if self.transaction.is_some() {
            return self.merge_once(p, parameters, scope).await;
        }
        let turn = self.database.writer(p.table);
        let _turn = turn.lock().await;
        for _ in 0..RETRIES {
            let (scope, plan) = self.plan_again(parsed, parameters, &scope.cancel).await?;
            let Plan::Merge(p) = plan else { return Err(Error::internal("a MERGE became another statement")) };
            match self.merge_once(p, parameters, &scope).await {
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
                done => return done,
            }
        }
        Err(too_many_conflicts(&object.name))
    }

    async fn merge_once(&mut self, p: MergePlan, parameters: &[Parameter], scope: &Scope) -> Result<Response> {
        let object = table_of(scope, p.table)?;
        let batches = self.collect(p.plan, parameters, scope).await?;
        let Merged { deletes, updated, added } = merged(&object, &batches)?;
        check(&visible(&updated, &object)?, &p.checks)?;
        check(&added, &p.checks)?;
        let keys = table_relation(&object)?.keys(&deletes)?;
        let mut seen = HashSet::new();
        if !keys.iter().all(|key| seen.insert(key)) {
            return Err(second_time());
        }
        // Rows that go make place for those that come.
        let write = |deletes: Option<RecordBatch>, inserts: RecordBatch| TableWrite {
            table: p.table,
            deletes,
            inserts: (inserts.num_rows() > 0).then_some(inserts),
            on_conflict: OnConflict::Error,
            truncate: false,
        };
        let mut writes = Vec::new();
        if deletes.num_rows() > 0 {
            writes.push(write(Some(deletes), updated));
        }
        if added.num_rows() > 0 {
            writes.push(write(None, added));
        }
        match &mut self.transaction {
            Some(transaction) => writes.iter().try_for_each(|write| transaction.write(write).map(drop))?,
            None if writes.is_empty() => {}
            None => {
                let records = std::mem::take(&mut self.task_records);
                self.database.engine.write(WriteRequest { writes, records }).await?;
            }
        }
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        Ok(complete(format!("MERGE {count}")))
    }
}

/// The rows of a MERGE as a table stores them; those that are added without their hidden ids.
struct Merged {
    deletes: RecordBatch,
    updated: RecordBatch,
    added: RecordBatch,
}

/// Takes the rows of a MERGE's plan apart: `[__row_id,] old columns, action, new columns`.
fn merged(object: &Object, batches: &[RecordBatch]) -> Result<Merged> {
    let width = object.columns().len();
    let (stored, shown) = (table_relation(object)?.schema().clone(), object.arrow_schema());
    let shift = stored.fields().len() - width;
    let (mut deletes, mut updated, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for batch in batches {
        let actions = batch.column(shift + width).as_primitive::<Int32Type>();
        let are = |wanted: fn(i32) -> bool| -> Result<RecordBatch> {
            let mask: BooleanArray = actions.values().iter().map(|action| Some(wanted(*action))).collect();
            Ok(filter_record_batch(batch, &mask)?)
        };
        let part = |rows: &RecordBatch, from: usize, with_id: bool| {
            let id = if with_id { &rows.columns()[..shift] } else { &[] };
            [&rows.columns()[from..from + width], id].concat()
        };
        let goes = are(|action| action != MERGE_INSERT)?;
        deletes.push(typed(&stored, part(&goes, shift, true), goes.num_rows())?);
        let changes = are(|action| action == MERGE_UPDATE)?;
        updated.push(typed(&stored, part(&changes, shift + width + 1, true), changes.num_rows())?);
        let comes = are(|action| action == MERGE_INSERT)?;
        added.push(typed(&shown, part(&comes, shift + width + 1, false), comes.num_rows())?);
    }
    Ok(Merged {
        deletes: concat_batches(&nullable(&stored), &deletes)?,
        updated: concat_batches(&nullable(&stored), &updated)?,
        added: concat_batches(&nullable(&shown), &added)?,
    })
}
