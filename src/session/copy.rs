//! COPY: a query's rows into a file or to the client, the client's rows into a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use futures::{StreamExt, stream};
use millstream_catalog::{Column, SqlType};
use millstream_sql::functions::cast::cast_array;
use millstream_sql::plan::{CopyFromPlan, CopyTarget, CopyToPlan};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::api::{CopyChunk, CopyColumns, CopyIn, CopyOut, CopyPiece, Response, RowSet, RowsTag};
use super::{Scope, Session, complete, query};
use crate::batch::Batch;
use crate::batch::copy::CopyTo;
use crate::batch::copy::options::CopyOptions;
use crate::batch::delimited::Delimited;
use crate::batch::lines::{Lines, shortened};
use crate::error::{Error, Result, sqlstate};

/// Rows that one piece of output holds: a slow client should not have to take a whole batch at once.
const PIECE_ROWS: usize = 512;
/// Lines that are turned into rows at a time.
const BATCH_ROWS: usize = 8192;
/// The format whose rows the server writes and reads.
const BINARY: &str = "binary";

impl Session {
    pub(super) async fn copy_to(&self, p: CopyToPlan, scope: &Scope, cancel: CancellationToken) -> Result<Response> {
        match &p.target {
            CopyTarget::File(path) => {
                let batch = &self.database.batch;
                let schema = p.query.output_schema();
                let options = CopyOptions::new(path, &p.format, &p.options)?;
                let zone = self.settings.time_zone();
                let (partition_by, handle) = (p.partition_by.clone(), batch.handle());
                let copy =
                    CopyTo::new(path, options, schema.clone(), partition_by, zone, &scope.access, handle).await?;
                let plan = sorted_by(p.query.plan, &p.partition_by)?;
                let rows = query::renamed(self.rows_of(plan, &[], scope, &cancel).await?, schema);
                let written = scope.options.job.as_ref().map(|job| job.written.clone()).unwrap_or_default();
                let rows = copy.write(batch, rows, written, cancel).await?;
                Ok(complete(format!("COPY {rows}")))
            }
            CopyTarget::Stdout if p.format == BINARY => {
                no_options(&p.options)?;
                let schema = p.query.output_schema();
                let rows = self.rows_of(p.query.plan, &[], scope, &cancel).await?;
                let stream = query::renamed(rows, schema.clone());
                let tag = RowsTag::Counted("COPY".into());
                Ok(Response::CopyBinary(RowSet { schema, stream, tag, binary: true, live: false }))
            }
            CopyTarget::Stdout => {
                let format = Delimited::new("COPY ... TO STDOUT", &p.format, &p.options)?;
                let schema = p.query.output_schema();
                let rows = self.rows_of(p.query.plan, &[], scope, &cancel).await?;
                let rows = query::renamed(rows, schema.clone());
                Ok(Response::CopyOut(lines_of(rows, schema, format, self.settings.time_zone())))
            }
        }
    }

    /// Asks the client for the rows; [`Session::take_copy`] takes them.
    pub(super) fn copy_from(&mut self, p: CopyFromPlan, scope: Scope, statement: String) -> Result<Response> {
        let columns = p.columns.len();
        let (format, binary) = if p.format == BINARY {
            no_options(&p.options)?;
            let columns = p.columns.iter().map(|c| (c.name.clone(), c.sql_type.clone())).collect();
            // Lines are not read; the server takes the data apart.
            let lines = Delimited::new("COPY ... FROM STDIN", "text", &p.options)?;
            (lines, Some(CopyColumns { table: p.insert.checks.table.clone(), columns }))
        } else {
            (Delimited::new("COPY ... FROM STDIN", &p.format, &p.options)?, None)
        };
        self.copying = Some(Copying { format, plan: p, scope, statement });
        Ok(Response::CopyIn(CopyIn { columns, binary }))
    }

    /// Inserts the rows that a client sends; the command tag.
    pub(super) async fn take_copy(&mut self, mut chunks: mpsc::Receiver<CopyChunk>) -> Result<String> {
        let Some(Copying { format, plan: p, mut scope, statement }) = self.copying.take() else {
            return Err(Error::internal("no COPY is open"));
        };
        self.database.doing(self.id, Some(statement));
        let names = p.columns.iter().map(|c| c.name.clone()).collect();
        let mut lines = Lines::new(&format, format!("COPY {}", p.insert.checks.table), names);
        let mut input = Input::new(&p, self.settings.time_zone(), &self.database.batch)?;
        loop {
            match chunks.recv().await {
                Some(CopyChunk::Data(bytes)) => {
                    lines.push(&bytes)?;
                    if lines.waiting() >= BATCH_ROWS {
                        input.add(&mut lines)?;
                    }
                }
                Some(CopyChunk::Rows(batch)) => input.add_rows(&batch)?,
                Some(CopyChunk::Done) => break,
                Some(CopyChunk::Failed(reason)) => return Err(Error::new(sqlstate::QUERY_CANCELED, reason)),
                None => return Err(Error::new(sqlstate::QUERY_CANCELED, "the data of COPY did not end")),
            }
        }
        lines.finish()?;
        input.add(&mut lines)?;
        let Input { schema, batches, rows, reservation, .. } = input;
        scope.input = Some(Arc::new(MemTable::try_new(schema, vec![batches])?));
        self.insert(p.insert, None, &[], &scope).await?;
        drop(reservation);
        Ok(format!("COPY {rows}"))
    }
}

/// Rows as the lines that a client is sent; `zone` is that in which times are printed.
pub(super) fn lines_of(rows: SendableRecordBatchStream, schema: SchemaRef, format: Delimited, zone: &str) -> CopyOut {
    let zone = zone.to_string();
    let columns = schema.fields().len();
    let header =
        format.header(&schema).map(|line| Ok(CopyPiece { ends: vec![line.len()], bytes: line.into(), rows: 0 }));
    let lines = rows.flat_map(move |batch| {
        let piece = |part: RecordBatch| {
            let (lines, ends) = format.rows(&part, &schema, &zone)?;
            Ok(CopyPiece { bytes: lines.into(), ends, rows: part.num_rows() as u64 })
        };
        let pieces: Vec<Result<CopyPiece>> = match batch {
            Ok(batch) => pieces(&batch).map(piece).collect(),
            Err(e) => vec![Err(e.into())],
        };
        stream::iter(pieces)
    });
    CopyOut { columns, binary: false, stream: stream::iter(header).chain(lines).boxed(), live: false }
}

/// A COPY whose rows are still to come.
pub(super) struct Copying {
    format: Delimited,
    plan: CopyFromPlan,
    scope: Scope,
    /// Its text, for `millstream.sessions`.
    statement: String,
}

/// Rows that were read, in the types of their columns.
struct Input<'a> {
    plan: &'a CopyFromPlan,
    zone: &'a str,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    rows: usize,
    /// What they take of the memory of batch statements.
    reservation: MemoryReservation,
}

impl<'a> Input<'a> {
    fn new(plan: &'a CopyFromPlan, zone: &'a str, batch: &Batch) -> Result<Self> {
        let fields: Vec<_> = plan.columns.iter().map(|c| c.sql_type.field(&c.name, true)).collect();
        let reservation = MemoryConsumer::new("COPY FROM STDIN").register(&batch.runtime_env().memory_pool);
        Ok(Self { plan, zone, schema: Arc::new(Schema::new(fields)), batches: Vec::new(), rows: 0, reservation })
    }

    /// Takes the lines that were read so far.
    fn add(&mut self, lines: &mut Lines<'_>) -> Result<()> {
        let (texts, line_of_row) = lines.take();
        if line_of_row.is_empty() {
            return Ok(());
        }
        let columns = texts.iter().zip(&self.plan.columns).map(|(text, column)| self.parsed(text, column));
        let Ok(columns) = columns.collect::<Result<Vec<_>>>() else {
            return Err(self.first_error(&texts, &line_of_row));
        };
        self.keep(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// Takes rows of the binary format, whose values of some types are text.
    fn add_rows(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let is_text =
            |column: &Column| matches!(column.sql_type, SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Numeric(_));
        let columns = batch.columns().iter().zip(&self.plan.columns).map(|(values, column)| match is_text(column) {
            true => self.parsed(values, column),
            false => Ok(values.clone()),
        });
        let Ok(columns) = columns.collect::<Result<Vec<_>>>() else {
            let texts: Vec<ArrayRef> = batch.columns().to_vec();
            let lines: Vec<u64> = (1..).map(|n| self.rows as u64 + n).take(batch.num_rows()).collect();
            return Err(self.first_error_of(&texts, &lines, is_text));
        };
        self.keep(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn keep(&mut self, batch: RecordBatch) -> Result<()> {
        self.reservation.try_grow(batch.get_array_memory_size())?;
        self.rows += batch.num_rows();
        self.batches.push(batch);
        Ok(())
    }

    fn parsed(&self, text: &ArrayRef, column: &Column) -> Result<ArrayRef> {
        Ok(cast_array(text, &SqlType::Text, &column.sql_type, true, self.zone)?)
    }

    /// The error of the first line that has one.
    fn first_error(&self, texts: &[ArrayRef], line_of_row: &[u64]) -> Error {
        self.first_error_of(texts, line_of_row, |_| true)
    }

    fn first_error_of(&self, texts: &[ArrayRef], line_of_row: &[u64], is_text: impl Fn(&Column) -> bool) -> Error {
        for (row, line) in line_of_row.iter().enumerate() {
            for (text, column) in texts.iter().zip(&self.plan.columns).filter(|(_, column)| is_text(column)) {
                if let Err(error) = self.parsed(&text.slice(row, 1), column) {
                    let (table, name) = (&self.plan.insert.checks.table, &column.name);
                    let value = shortened(text.as_string_view().value(row));
                    return error.with_context(format!("COPY {table}, line {line}, column {name}: \"{value}\""));
                }
            }
        }
        Error::internal("a batch of COPY failed, and none of its rows")
    }
}

/// The binary format has no options.
fn no_options(options: &BTreeMap<String, String>) -> Result<()> {
    match options.iter().find(|(key, value)| !(*key == "encoding" || *value == "false")) {
        None => Ok(()),
        Some((key, _)) => {
            Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("cannot specify {key} in BINARY mode"))
                .with_hint("the binary format has no options"))
        }
    }
}

/// The rows of a plan in the order of some columns: those of one folder come together, so that one file at a time is open.
fn sorted_by(plan: LogicalPlan, columns: &[usize]) -> Result<LogicalPlan> {
    if columns.is_empty() {
        return Ok(plan);
    }
    let all = plan.schema().columns();
    let keys: Vec<_> = columns.iter().map(|i| Expr::Column(all[*i].clone()).sort(true, false)).collect();
    Ok(LogicalPlanBuilder::from(plan).sort(keys)?.build()?)
}

/// A batch in parts of at most [`PIECE_ROWS`].
fn pieces(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let starts = (0..batch.num_rows()).step_by(PIECE_ROWS);
    starts.map(|start| batch.slice(start, PIECE_ROWS.min(batch.num_rows() - start)))
}
