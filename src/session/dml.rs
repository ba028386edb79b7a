//! INSERT, UPDATE, DELETE, TRUNCATE: rows are computed by a batch plan, checked here, and written by the engine.
//!
//! A statement that changes rows it reads is evaluated against the newest committed data; the engine refuses it if a row
//! was changed meanwhile, and it is evaluated again. Such statements take turns on a table, so this is rare.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use millstream_catalog::{Object, ObjectId, ObjectKind};
use millstream_sql::plan::{
    ConflictTarget, DeletePlan, InsertPlan, OnConflictPlan, Returning, RowChecks, UpdatePlan, output_schema,
};
use millstream_sql::{Parsed, Plan};
use tokio_util::sync::CancellationToken;

use super::api::{Parameter, Response, RowsTag};
use super::arbiter::Arbiter;
use super::{Scope, Session, complete, memory};
use crate::error::{About, Error, Result, sqlstate};
use crate::state::ByteRows;
use crate::stream::engine::table::table_relation;
use crate::stream::engine::{OnConflict, TableWrite, WriteRequest};
use crate::stream::operator::project::row_text;
use crate::stream::plan::physical;

/// How often a statement is evaluated again before its client must.
pub(super) const RETRIES: usize = 100;

impl Session {
    /// INSERT; `parsed` is what it is planned from again if it must be, `None` for rows that a client has sent.
    pub(super) async fn insert(
        &mut self,
        p: InsertPlan,
        parsed: Option<&Parsed>,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        let object = table_of(scope, p.table)?;
        if is_lake(&object) {
            return self.insert_into_lake(p, parsed, parameters, scope).await;
        }
        if matches!(object.kind, ObjectKind::Source(_)) {
            self.check_outside("INSERT INTO a source", true)?;
        }
        let schema = object.arrow_schema();
        let batches = self.collect(p.plan, parameters, scope).await?;
        let rows = stored_rows(&schema, &batches)?;
        check(&rows, &p.checks)?;
        let outcome = match p.on_conflict {
            None => self.write(insert_of(p.table, rows, OnConflict::Error)).await?,
            Some(OnConflictPlan::Nothing(target)) => {
                let on_conflict = match target {
                    None => OnConflict::DoNothing,
                    Some(ConflictTarget::Key) => OnConflict::DoNothingOn(None),
                    Some(ConflictTarget::Index(id)) => OnConflict::DoNothingOn(Some(id)),
                };
                self.write(insert_of(p.table, rows, on_conflict)).await?
            }
            Some(OnConflictPlan::Update { values, condition, schema, target }) => {
                let parameters = parameters.to_vec();
                let values = Upsert { values, condition, schema, parameters, checks: p.checks };
                let relation = Arc::new(table_relation(&object)?);
                let arbiter = Arbiter::new(&scope.published.catalog, &object, relation, target)?;
                self.upsert(&object, &arbiter, rows, &values).await?
            }
        };
        let n = outcome.num_rows();
        match &p.returning {
            Some(returning) => returned(returning, &outcome, parameters, "INSERT 0"),
            None => Ok(complete(format!("INSERT 0 {n}"))),
        }
    }

    /// Inserts rows; where a key exists, computes the new row from the old one.
    async fn upsert(
        &mut self,
        object: &Object,
        arbiter: &Arbiter,
        rows: RecordBatch,
        values: &Upsert,
    ) -> Result<RecordBatch> {
        let keys = arbiter.keys(&rows)?;
        let mut seen = HashSet::new();
        if !keys.iter().all(|key| seen.insert(key)) {
            return Err(Error::new(
                sqlstate::CARDINALITY_VIOLATION,
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
            )
            .with_hint("no two rows of the command may have the same key"));
        }
        if let Some(transaction) = &self.transaction {
            let view = transaction.view();
            let view = view.ok_or_else(|| Error::internal("a transaction writes before it reads"))?;
            let found = arbiter.find(&view.snapshot, transaction.changes(object.id), &keys)?;
            return self.upsert_over(object.id, arbiter, &keys, &found, &rows, values).await;
        }
        let turn = self.database.writer(object.id);
        let _turn = turn.lock().await;
        for _ in 0..RETRIES {
            let found = arbiter.find(&self.database.engine.published().snapshot, None, &keys)?;
            match self.upsert_over(object.id, arbiter, &keys, &found, &rows, values).await {
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
                done => return done,
            }
        }
        Err(too_many_conflicts(&object.name))
    }

    /// Inserts rows with `keys` over the rows `found` of those that exist.
    async fn upsert_over(
        &mut self,
        table: ObjectId,
        arbiter: &Arbiter,
        keys: &ByteRows,
        found: &RecordBatch,
        rows: &RecordBatch,
        values: &Upsert,
    ) -> Result<RecordBatch> {
        let position = arbiter.positions(found)?;
        let is_new: BooleanArray = keys.iter().map(|key| Some(!position.contains_key(key))).collect();
        let new = filter_record_batch(rows, &is_new)?;
        let proposed = filter_record_batch(rows, &arrow::compute::not(&is_new)?)?;
        let order: UInt32Array = keys.iter().filter_map(|key| position.get(key).map(|i| *i as u32)).collect();
        let old = arrow::compute::take_record_batch(found, &order)?;
        let (old, updated) = values.apply(&old, &proposed, rows.schema())?;
        check(&updated, &values.checks)?;
        let affected = concat_batches(&rows.schema(), [&new, &updated])?;
        let write = TableWrite {
            table,
            deletes: (old.num_rows() > 0).then_some(old),
            inserts: Some(affected.clone()),
            on_conflict: arbiter.on_conflict(),
            truncate: false,
        };
        self.write(write).await?;
        Ok(affected)
    }

    pub(super) async fn update(
        &mut self,
        p: UpdatePlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        if is_lake(&*table_of(scope, p.table)?) {
            return self.update_lake(p, parsed, parameters, scope).await;
        }
        if self.transaction.is_some() {
            return self.update_once(p, parameters, scope).await;
        }
        let turn = self.database.writer(p.table);
        let _turn = turn.lock().await;
        for _ in 0..RETRIES {
            let (scope, plan) = self.plan_again(parsed, parameters, &scope.cancel).await?;
            let Plan::Update(p) = plan else { return Err(Error::internal("an UPDATE became another statement")) };
            match self.update_once(p, parameters, &scope).await {
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
                done => return done,
            }
        }
        Err(too_many_conflicts(&table_of(scope, p.table)?.name))
    }

    async fn update_once(&mut self, p: UpdatePlan, parameters: &[Parameter], scope: &Scope) -> Result<Response> {
        let object = table_of(scope, p.table)?;
        let batches = self.collect(p.plan, parameters, scope).await?;
        let (old, new) = old_and_new(&object, &batches)?;
        let result = visible(&new, &object)?;
        check(&result, &p.checks)?;
        let n = new.num_rows();
        if n > 0 {
            let write = TableWrite {
                table: p.table,
                deletes: Some(old),
                inserts: Some(new),
                on_conflict: OnConflict::Error,
                truncate: false,
            };
            self.write(write).await?;
        }
        match &p.returning {
            Some(returning) => returned(returning, &result, parameters, "UPDATE"),
            None => Ok(complete(format!("UPDATE {n}"))),
        }
    }

    pub(super) async fn delete(
        &mut self,
        p: DeletePlan,
        parsed: &Parsed,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Response> {
        if is_lake(&*table_of(scope, p.table)?) {
            return self.delete_from_lake(p, parsed, parameters, scope).await;
        }
        if self.transaction.is_some() {
            return self.delete_once(p, parameters, scope).await;
        }
        let turn = self.database.writer(p.table);
        let _turn = turn.lock().await;
        for _ in 0..RETRIES {
            let (scope, plan) = self.plan_again(parsed, parameters, &scope.cancel).await?;
            let Plan::Delete(p) = plan else { return Err(Error::internal("a DELETE became another statement")) };
            match self.delete_once(p, parameters, &scope).await {
                Err(e) if e.sqlstate() == sqlstate::SERIALIZATION_FAILURE => {}
                done => return done,
            }
        }
        Err(too_many_conflicts(&table_of(scope, p.table)?.name))
    }

    async fn delete_once(&mut self, p: DeletePlan, parameters: &[Parameter], scope: &Scope) -> Result<Response> {
        let object = table_of(scope, p.table)?;
        let batches = self.collect(p.plan, parameters, scope).await?;
        let old = old_rows(&object, &batches)?;
        let result = visible(&old, &object)?;
        let n = old.num_rows();
        if n > 0 {
            let write = TableWrite {
                table: p.table,
                deletes: Some(old),
                inserts: None,
                on_conflict: OnConflict::Error,
                truncate: false,
            };
            self.write(write).await?;
        }
        match &p.returning {
            Some(returning) => returned(returning, &result, parameters, "DELETE"),
            None => Ok(complete(format!("DELETE {n}"))),
        }
    }

    pub(super) async fn truncate(&mut self, tables: &[ObjectId], scope: &Scope) -> Result<Response> {
        let mut stored = Vec::with_capacity(tables.len());
        for table in tables {
            match is_lake(&*table_of(scope, *table)?) {
                true => self.truncate_lake(*table, scope).await?,
                false => stored.push(*table),
            }
        }
        let tables = stored;
        if tables.is_empty() {
            return Ok(complete("TRUNCATE TABLE"));
        }
        let all = |table: &ObjectId| TableWrite {
            table: *table,
            deletes: None,
            inserts: None,
            on_conflict: OnConflict::Error,
            truncate: true,
        };
        let writes: Vec<TableWrite> = tables.iter().map(all).collect();
        match &mut self.transaction {
            Some(transaction) => writes.iter().try_for_each(|write| transaction.write(write).map(drop))?,
            None => drop(self.database.engine.write(WriteRequest { writes, ..Default::default() }).await?),
        }
        Ok(complete("TRUNCATE TABLE"))
    }

    /// Plans the statement against the newest data: after a turn was waited for, or a conflict.
    pub(super) async fn plan_again(
        &self,
        parsed: &Parsed,
        parameters: &[Parameter],
        cancel: &CancellationToken,
    ) -> Result<(Scope, Plan)> {
        let mut scope = self.scope(&parsed.statement).await?;
        scope.cancel = cancel.clone();
        let types: Vec<_> = parameters.iter().map(super::sql_type_of).collect();
        let plan = self.plan(parsed, &scope, &types)?;
        Ok((scope, plan))
    }

    /// Writes one table, or keeps the changes for COMMIT; returns the rows that were inserted.
    ///
    /// # Errors
    /// 23505 for a taken key; 40001, outside a transaction, if a row is not as it was read.
    pub(super) async fn write(&mut self, write: TableWrite) -> Result<RecordBatch> {
        let schema = write.inserts.as_ref().map(RecordBatch::schema);
        let inserted = match &mut self.transaction {
            Some(transaction) => transaction.write(&write)?,
            None => {
                let records = std::mem::take(&mut self.task_records);
                let outcome = self.database.engine.write(WriteRequest { writes: vec![write], records }).await?;
                outcome.inserted.into_iter().next().flatten()
            }
        };
        Ok(inserted.unwrap_or_else(|| RecordBatch::new_empty(schema.unwrap_or_else(|| Arc::new(Schema::empty())))))
    }
}

/// What ON CONFLICT DO UPDATE makes of an old and a proposed row.
struct Upsert {
    values: Vec<Expr>,
    condition: Option<Expr>,
    schema: Arc<DFSchema>,
    parameters: Vec<Parameter>,
    checks: RowChecks,
}

impl Upsert {
    /// The old rows that are replaced, and what replaces them.
    fn apply(
        &self,
        old: &RecordBatch,
        proposed: &RecordBatch,
        schema: SchemaRef,
    ) -> Result<(RecordBatch, RecordBatch)> {
        // A table without primary key has a hidden column behind.
        let visible = old.columns().iter().take(proposed.num_columns());
        let columns: Vec<ArrayRef> = visible.chain(proposed.columns()).cloned().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(old.num_rows()));
        let both = RecordBatch::try_new_with_options(nullable(self.schema.as_arrow()), columns, &options)?;
        let (both, old) = match &self.condition {
            Some(condition) => {
                let mask = evaluate(condition, &self.schema, &both, &self.parameters)?;
                (filter_record_batch(&both, mask.as_boolean())?, filter_record_batch(old, mask.as_boolean())?)
            }
            None => (both, old.clone()),
        };
        let columns = self
            .values
            .iter()
            .map(|value| evaluate(value, &self.schema, &both, &self.parameters))
            .collect::<Result<Vec<_>>>()?;
        Ok((old, typed(&schema, columns, both.num_rows())?))
    }
}

/// Computed rows with a table's columns; NOT NULL is checked apart, so that the error is PostgreSQL's.
pub fn stored_rows(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let nullable = nullable(schema);
    let typed_batches =
        batches.iter().map(|b| typed(schema, b.columns().to_vec(), b.num_rows())).collect::<Result<Vec<_>>>()?;
    Ok(concat_batches(&nullable, &typed_batches)?)
}

pub(super) fn typed(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let nullable = nullable(schema);
    let columns = columns
        .into_iter()
        .zip(nullable.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(column),
            false => Ok(arrow::compute::cast(&column, field.data_type())?),
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(nullable, columns, &options)?)
}

/// The stored old and new rows of an UPDATE's plan: `[__row_id,] old columns, new columns`.
fn old_and_new(object: &Object, batches: &[RecordBatch]) -> Result<(RecordBatch, RecordBatch)> {
    let width = object.columns().len();
    let stored = table_relation(object)?.schema().clone();
    let shift = stored.fields().len() - width;
    let mut old = Vec::new();
    let mut new = Vec::new();
    for batch in batches {
        let row_id = batch.columns()[..shift].to_vec();
        let part = |from: usize| [&batch.columns()[from..from + width], &row_id[..]].concat();
        old.push(typed(&stored, part(shift), batch.num_rows())?);
        new.push(typed(&stored, part(shift + width), batch.num_rows())?);
    }
    let schema = nullable(&stored);
    Ok((concat_batches(&schema, &old)?, concat_batches(&schema, &new)?))
}

/// The stored old rows of a DELETE's plan: `[__row_id,] old columns`.
fn old_rows(object: &Object, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let width = object.columns().len();
    let stored = table_relation(object)?.schema().clone();
    let shift = stored.fields().len() - width;
    let rows = batches
        .iter()
        .map(|b| typed(&stored, [&b.columns()[shift..shift + width], &b.columns()[..shift]].concat(), b.num_rows()))
        .collect::<Result<Vec<_>>>()?;
    Ok(concat_batches(&nullable(&stored), &rows)?)
}

/// Rows without the hidden column.
pub(super) fn visible(rows: &RecordBatch, object: &Object) -> Result<RecordBatch> {
    Ok(rows.project(&(0..object.columns().len()).collect::<Vec<_>>())?)
}

/// NOT NULL and CHECK constraints of new rows.
pub(super) fn check(rows: &RecordBatch, checks: &RowChecks) -> Result<()> {
    for column in &checks.not_null {
        let values = rows.column(*column);
        if let Some(row) = (0..values.len()).find(|row| values.is_null(*row)) {
            return Err(Error::new(
                sqlstate::NOT_NULL_VIOLATION,
                format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    rows.schema().field(*column).name(),
                    checks.table
                ),
            )
            .with_detail(format!("Failing row contains {}.", row_text(rows, row)))
            .with_about(About {
                table: Some(checks.table.clone()),
                column: Some(rows.schema().field(*column).name().clone()),
                ..About::default()
            }));
        }
    }
    if checks.checks.is_empty() || rows.num_rows() == 0 {
        return Ok(());
    }
    let schema = DFSchema::try_from(rows.schema().as_ref().clone())?;
    for (name, condition) in &checks.checks {
        let holds = evaluate(condition, &schema, rows, &[])?;
        let holds = holds.as_boolean();
        if let Some(row) = (0..holds.len()).find(|row| holds.is_valid(*row) && !holds.value(*row)) {
            return Err(Error::new(
                sqlstate::CHECK_VIOLATION,
                format!("new row for relation \"{}\" violates check constraint \"{name}\"", checks.table),
            )
            .with_detail(format!("Failing row contains {}.", row_text(rows, row)))
            .with_about(About {
                table: Some(checks.table.clone()),
                constraint: Some(name.clone()),
                ..About::default()
            }));
        }
    }
    Ok(())
}

/// The rows that RETURNING gives.
fn returned(returning: &Returning, rows: &RecordBatch, parameters: &[Parameter], tag: &str) -> Result<Response> {
    let schema = DFSchema::try_from(rows.schema().as_ref().clone())?;
    let columns = returning.exprs.iter().map(|e| evaluate(e, &schema, rows, parameters)).collect::<Result<Vec<_>>>()?;
    let output = output_schema(&returning.columns);
    let batch = typed(&output, columns, rows.num_rows())?;
    Ok(memory::rows(output, vec![batch], RowsTag::Counted(tag.to_string())))
}

fn evaluate(expr: &Expr, schema: &DFSchema, rows: &RecordBatch, parameters: &[Parameter]) -> Result<ArrayRef> {
    let expr = with_values(expr, parameters)?;
    Ok(physical(&expr, schema)?.evaluate(rows)?.into_array(rows.num_rows())?)
}

fn with_values(expr: &Expr, parameters: &[Parameter]) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let replaced = expr.clone().transform(|e| match &e {
        Expr::Placeholder(p) => {
            let value =
                p.id.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).and_then(|n| parameters.get(n - 1));
            Ok(match value {
                Some(value) => Transformed::yes(Expr::Literal(value.value.clone(), value.metadata.clone())),
                None => Transformed::no(e),
            })
        }
        _ => Ok(Transformed::no(e)),
    })?;
    Ok(replaced.data)
}

fn insert_of(table: ObjectId, rows: RecordBatch, on_conflict: OnConflict) -> TableWrite {
    TableWrite { table, deletes: None, inserts: Some(rows), on_conflict, truncate: false }
}

fn is_lake(object: &Object) -> bool {
    matches!(object.kind, ObjectKind::ExternalTable(_))
}

pub(super) fn table_of(scope: &Scope, id: ObjectId) -> Result<Arc<Object>> {
    scope
        .published
        .catalog
        .get(id)
        .cloned()
        .ok_or_else(|| Error::new(sqlstate::UNDEFINED_TABLE, format!("table with OID {id} does not exist any more")))
}

pub(super) fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

pub(super) fn too_many_conflicts(table: &str) -> Error {
    Error::new(
        sqlstate::SERIALIZATION_FAILURE,
        format!("could not serialize access to table \"{table}\" due to concurrent updates"),
    )
    .with_hint("run the statement again")
}
