//! COPY: a query's rows into a file or to the client, a file or the client's rows into a table.

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, stream};
use millstream_sql::plan::{CopyFromPlan, CopyTarget, CopyToPlan};
use tokio_util::sync::CancellationToken;

use super::api::{CopyOut, Response};
use super::delimited::Delimited;
use super::{Scope, Session, complete, query};
use crate::batch::copy::CopyFile;
use crate::error::{Error, Result};

/// Rows that one piece of output holds: a slow client should not have to take a whole batch at once.
const PIECE_ROWS: usize = 512;

impl Session {
    pub(super) async fn copy_to(&self, p: CopyToPlan, scope: &Scope, cancel: CancellationToken) -> Result<Response> {
        match &p.target {
            CopyTarget::File(path) => {
                let file = CopyFile::new(path, &p.format, &p.options)?;
                let rows = self.rows_of(p.query.plan, &[], scope, &cancel).await?;
                let rows = file.write(&self.database.batch, rows).await?;
                Ok(complete(format!("COPY {rows}")))
            }
            CopyTarget::Stdout => {
                let format = Delimited::new(&p.format, &p.options)?;
                let schema = p.query.output_schema();
                let rows = self.rows_of(p.query.plan, &[], scope, &cancel).await?;
                let rows = query::renamed(rows, schema.clone());
                let zone = self.settings.time_zone().to_string();
                let columns = schema.fields().len();
                let header = format.header(&schema).map(|line| Ok((Bytes::from(line), 0)));
                let lines = rows.flat_map(move |batch| {
                    let pieces: Vec<Result<(Bytes, u64)>> = match batch {
                        Ok(batch) => pieces(&batch)
                            .map(|part| Ok((format.lines(&part, &schema, &zone)?.into(), part.num_rows() as u64)))
                            .collect(),
                        Err(e) => vec![Err(e.into())],
                    };
                    stream::iter(pieces)
                });
                let stream = stream::iter(header).chain(lines).boxed();
                Ok(Response::CopyOut(CopyOut { columns, binary: false, stream }))
            }
        }
    }

    pub(super) async fn copy_from(&self, _p: CopyFromPlan, _scope: &Scope) -> Result<Response> {
        Err(Error::unsupported("COPY ... FROM is not supported")
            .with_hint("use INSERT INTO table SELECT * FROM read_parquet('file'), or a source"))
    }
}

/// A batch in parts of at most [`PIECE_ROWS`].
fn pieces(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let starts = (0..batch.num_rows()).step_by(PIECE_ROWS);
    starts.map(|start| batch.slice(start, PIECE_ROWS.min(batch.num_rows() - start)))
}
