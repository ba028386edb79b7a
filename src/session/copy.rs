//! COPY: a query's rows into a file or to the client, a file or the client's rows into a table.

use millstream_sql::plan::{CopyFromPlan, CopyTarget, CopyToPlan};
use tokio_util::sync::CancellationToken;

use super::api::Response;
use super::{Scope, Session, complete};
use crate::batch::copy::CopyFile;
use crate::error::{Error, Result};

impl Session {
    pub(super) async fn copy_to(&self, p: CopyToPlan, scope: &Scope, cancel: CancellationToken) -> Result<Response> {
        match &p.target {
            CopyTarget::File(path) => {
                let file = CopyFile::new(path, &p.format, &p.options)?;
                let rows = self.rows_of(p.query.plan, &[], scope, &cancel).await?;
                let rows = file.write(&self.database.batch, rows).await?;
                Ok(complete(format!("COPY {rows}")))
            }
            CopyTarget::Stdout => Err(Error::unsupported("COPY ... TO STDOUT is not supported")
                .with_hint("select the rows, or use COPY (query) TO 'file.parquet'")),
        }
    }

    pub(super) async fn copy_from(&self, _p: CopyFromPlan, _scope: &Scope) -> Result<Response> {
        Err(Error::unsupported("COPY ... FROM is not supported")
            .with_hint("use INSERT INTO table SELECT * FROM read_parquet('file'), or a source"))
    }
}
