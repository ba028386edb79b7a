//! SUBSCRIBE as a statement, and `COPY (SUBSCRIBE …) TO STDOUT`.

use millstream_sql::Parsed;
use millstream_sql::plan::{CopySubscribePlan, SubscribePlan, Subscribed};
use tokio_util::sync::CancellationToken;

use super::{Start, Subscription};
use crate::batch::delimited::Delimited;
use crate::error::{Error, Result};
use crate::session::api::{CopyOut, Response, RowSet, RowsTag};
use crate::session::{Session, copy};

impl Session {
    pub(in crate::session) async fn subscribe(
        &mut self,
        p: SubscribePlan,
        parsed: &Parsed,
        cancel: CancellationToken,
    ) -> Result<Response> {
        let schema = p.output_schema();
        let (relation, temporary) = match p.target {
            Subscribed::Object(id) => (id, None),
            Subscribed::Query { query, text } => {
                let view = self.temporary_view(*query, text, parsed, cancel).await?;
                (view.id, Some(view))
            }
        };
        let start = Start {
            relation,
            seen: &schema,
            snapshot: p.snapshot,
            progress: p.progress,
            as_of: p.as_of,
            process_id: self.client.process_id,
            statement: &parsed.text,
        };
        let stream = Subscription::start(&self.database, start).await?.into_stream(temporary);
        let tag = RowsTag::Counted("SUBSCRIBE".into());
        Ok(Response::Rows(RowSet { schema, stream, tag, binary: false, live: true }))
    }

    pub(in crate::session) async fn copy_subscribe(
        &mut self,
        p: CopySubscribePlan,
        parsed: &Parsed,
        cancel: CancellationToken,
    ) -> Result<Response> {
        let format = Delimited::new("COPY ... TO STDOUT", &p.format, &p.options)?;
        let Response::Rows(rows) = self.subscribe(p.subscribe, parsed, cancel).await? else {
            return Err(Error::internal("a subscription gives no rows"));
        };
        let out = copy::lines_of(rows.stream, rows.schema, format, self.settings.time_zone());
        Ok(Response::CopyOut(CopyOut { live: true, ..out }))
    }
}
