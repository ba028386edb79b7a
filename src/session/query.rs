//! Queries: files are looked up, parameters put in, the plan run on the batch threads, its columns named as the client
//! expects.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::datasource::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use millstream_catalog::{ObjectId, ObjectKind};
use millstream_sql::plan::{ExplainPlan, PlannedQuery, output_schema};
use millstream_sql::{ExternalCall, Plan};
use tokio_util::sync::CancellationToken;

use super::api::{Description, Notice, ORIGIN_KEY, Parameter, Response, RowSet, RowsTag};
use super::resolver::StatementResolver;
use super::tasks::cron;
use super::{Scope, Session, explain, show, upkeep};
use crate::batch::files;
use crate::batch::lake::{LakeReads, LakeTable};
use crate::batch::stores::Access;
use crate::error::{Error, Result, sqlstate};
use crate::stream::engine::Published;

impl Session {
    pub(super) async fn query(
        &mut self,
        query: PlannedQuery,
        parameters: &[Parameter],
        scope: &Scope,
        cancel: CancellationToken,
    ) -> Result<Response> {
        if let Some(rows) = self.point_query(&query, &scope.published, parameters)? {
            return Ok(rows);
        }
        self.warn_of_errors(&query, &scope.published);
        let schema = with_origins(&query);
        let stream = self.rows_of(query.plan, parameters, scope, &cancel).await?;
        let stream = renamed(stream, schema.clone());
        Ok(Response::Rows(RowSet::new(schema, stream, RowsTag::select())))
    }

    /// Files that a statement names, with their schema.
    pub(super) async fn external_table(
        &self,
        access: &Access,
        lakes: &Arc<LakeReads>,
        call: &ExternalCall,
    ) -> Result<Arc<dyn TableProvider>> {
        let (batch, reads) = (&self.database.batch, self.reads.as_deref());
        if call.format == "delta" {
            let table = LakeTable::named(batch.snapshots(), access, lakes, call).await?;
            let reads = reads.map(|reads| reads.version(call.location())).transpose()?;
            return Ok(Arc::new(table.with_reads(reads)));
        }
        let table = files::read(batch, access, call).await?;
        let reads = reads.map(|reads| reads.files(call.location())).transpose()?;
        Ok(Arc::new(table.with_reads(reads)))
    }

    /// Starts a plan.
    pub(super) async fn rows_of(
        &self,
        plan: LogicalPlan,
        parameters: &[Parameter],
        scope: &Scope,
        cancel: &CancellationToken,
    ) -> Result<SendableRecordBatchStream> {
        let plan = with_parameters(plan, parameters)?;
        let resolver = scope.resolver(self);
        let run = self.database.batch.execute(plan, &resolver, &scope.options);
        tokio::select! {
            result = run => Ok(result?.1),
            () = cancel.cancelled() => Err(canceled()),
        }
    }

    /// Runs a plan to its end and keeps the rows: for DML, which must have them all before it writes.
    ///
    /// # Errors
    /// 57014 when the statement is cancelled, 54000 if the rows are more than an epoch may hold.
    pub(super) async fn collect(
        &self,
        plan: LogicalPlan,
        parameters: &[Parameter],
        scope: &Scope,
    ) -> Result<Vec<RecordBatch>> {
        let limit = self.database.options.limits.write_set_limit_bytes;
        let mut rows = self.rows_of(plan, parameters, scope, &scope.cancel).await?;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        loop {
            let batch = tokio::select! {
                biased;
                () = scope.cancel.cancelled() => return Err(canceled()),
                batch = rows.next() => batch,
            };
            let Some(batch) = batch.transpose()? else { return Ok(batches) };
            for column in batch.columns() {
                bytes += column.to_data().get_slice_memory_size()?;
            }
            if bytes > limit {
                let error = format!("the statement's rows take more than {} MiB", limit >> 20);
                return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, error)
                    .with_hint("change fewer rows at a time, or raise state.write_set_limit_bytes"));
            }
            batches.push(batch);
        }
    }

    /// A view that left rows out because an expression failed on them says so to whoever reads it or a view of it.
    pub(super) fn warn_of_errors(&mut self, query: &PlannedQuery, published: &Published) {
        let mut read: BTreeSet<ObjectId> = BTreeSet::new();
        let mut next: Vec<ObjectId> = query.references.values().copied().collect();
        while let Some(id) = next.pop() {
            let Some(object) = published.catalog.get(id).filter(|_| read.insert(id)) else { continue };
            next.extend(object.references.values());
            if !matches!(object.kind, ObjectKind::MaterializedView(_)) {
                continue;
            }
            let errors = self.database.engine.stats().view(id).map_or(0, |v| v.errors);
            if errors > 0 {
                self.notices.push(
                    Notice::warning(format!("{} is without {errors} rows that failed", object.describe()))
                        .with_hint("see millstream.view_errors"),
                );
            }
        }
    }
}

impl Scope {
    pub(super) fn resolver<'a>(&'a self, session: &'a Session) -> StatementResolver<'a> {
        StatementResolver {
            database: &session.database,
            published: &self.published,
            inside: &self.inside,
            transaction: session.transaction.as_ref(),
            external: &self.external,
            access: &self.access,
            lakes: &self.lakes,
            input: self.input.as_ref(),
            notices: &session.late_notices,
            now_us: self.options.now.timestamp_micros(),
            reads: session.reads.as_deref(),
        }
    }
}

/// The parameters and columns of a planned statement.
pub fn describe(plan: &Plan) -> Description {
    let of = |parameters: &[millstream_catalog::SqlType], columns: Option<SchemaRef>| Description {
        parameters: parameters.to_vec(),
        columns,
    };
    match plan {
        Plan::Query(q) => of(&q.parameters, Some(with_origins(q))),
        Plan::Insert(p) => of(&p.parameters, p.returning.as_ref().map(|r| output_schema(&r.columns))),
        Plan::Update(p) => of(&p.parameters, p.returning.as_ref().map(|r| output_schema(&r.columns))),
        Plan::Merge(p) => of(&p.parameters, None),
        Plan::Optimize(_) => of(&[], Some(upkeep::optimized_schema())),
        Plan::Vacuum(p) if p.dry_run => of(&[], Some(upkeep::vacuumed_schema())),
        Plan::DescribeHistory(_) => of(&[], Some(upkeep::history_schema())),
        Plan::Delete(p) => of(&p.parameters, p.returning.as_ref().map(|r| output_schema(&r.columns))),
        Plan::Explain(ExplainPlan { format, .. }) | Plan::ExplainRunning { format, .. } => {
            of(&[], Some(explain::schema(*format)))
        }
        Plan::Show(p) => of(&[], Some(show::schema(p))),
        Plan::Declare(p) => Description { columns: None, ..describe(&p.rows) },
        Plan::Subscribe(p) => of(&[], Some(p.output_schema())),
        Plan::Cron(p) => of(&p.arguments.parameters, Some(cron::schema(p.function, &p.column))),
        _ => Description::default(),
    }
}

/// The columns that a client sees, with the columns of relations that they are.
pub(super) fn with_origins(query: &PlannedQuery) -> SchemaRef {
    let schema = query.output_schema();
    if query.origins.len() != schema.fields().len() {
        return schema;
    }
    let fields = schema.fields().iter().zip(&query.origins).map(|(field, origin)| match origin {
        None => field.as_ref().clone(),
        Some((relation, number)) => {
            let mut metadata = field.metadata().clone();
            metadata.insert(ORIGIN_KEY.into(), format!("{}.{number}", relation.0));
            field.as_ref().clone().with_metadata(metadata)
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Puts values in the place of `$1`, `$2`, ….
pub fn with_parameters(plan: LogicalPlan, parameters: &[Parameter]) -> Result<LogicalPlan> {
    if parameters.is_empty() {
        return Ok(plan);
    }
    let values = ParamValues::List(parameters.to_vec());
    Ok(plan.replace_params_with_values(&values)?)
}

/// The same columns under the client's names and types.
pub(super) fn renamed(stream: SendableRecordBatchStream, schema: SchemaRef) -> SendableRecordBatchStream {
    let to = schema.clone();
    let stream = stream.map(move |batch| {
        let batch = batch?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch
            .columns()
            .iter()
            .zip(to.fields())
            .map(|(column, field)| match column.data_type() == field.data_type() {
                true => Ok(column.clone()),
                false => arrow::compute::cast(column, field.data_type()),
            })
            .collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new_with_options(nullable(&to), columns, &options)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// Nullability is the planner's guess and no promise to clients: a wrong one must not fail a result.
pub(super) fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<_> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    Arc::new(arrow::datatypes::Schema::new(fields))
}

/// 57014, as PostgreSQL words it.
pub fn canceled() -> Error {
    Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}
