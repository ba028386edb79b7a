//! Messages to the client, appended to an output buffer through pgwire's message types.

use bytes::BytesMut;
use datafusion::arrow::datatypes::{Field, Schema};
use millstream_catalog::SqlType;
use pgwire::messages::Message;
use pgwire::messages::data::{FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{
    self, CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, NotificationResponse, ReadyForQuery,
};
use pgwire::messages::startup::ParameterStatus;

use super::encode::{Format, column_type};
use crate::error::{Error, Result};
use crate::session::api::{Notice, ORIGIN_KEY, TransactionStatus};

/// Whether the connection survives an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorLevel {
    Error,
    Fatal,
}

/// Appends any pgwire message.
pub fn put(out: &mut BytesMut, message: &impl Message) {
    let start = out.len();
    if let Err(e) = message.encode(out) {
        // Only a message over pgwire's size limits fails; half of it must not reach the client.
        out.truncate(start);
        tracing::error!(error = %e, "message to the client dropped");
    }
}

/// ErrorResponse.
pub fn put_error(out: &mut BytesMut, level: ErrorLevel, error: &Error) {
    let severity = match level {
        ErrorLevel::Error => "ERROR",
        ErrorLevel::Fatal => "FATAL",
    };
    let mut fields = report(severity, error.sqlstate(), error.message(), error.detail(), error.hint());
    fields.extend(error.position().map(|position| (b'P', position.to_string())));
    fields.extend(error.context().map(|context| (b'W', context.replace('\0', "\u{fffd}"))));
    let about = error.about();
    for (code, name) in [(b's', &about.schema), (b't', &about.table), (b'c', &about.column), (b'n', &about.constraint)]
    {
        fields.extend(name.as_ref().map(|name| (code, name.replace('\0', "\u{fffd}"))));
    }
    put(out, &ErrorResponse::new(fields));
}

/// NoticeResponse.
pub fn put_notice(out: &mut BytesMut, notice: &Notice) {
    let severity = notice.severity.to_string();
    let fields = report(&severity, &notice.sqlstate, &notice.message, notice.detail.as_deref(), notice.hint.as_deref());
    put(out, &NoticeResponse::new(fields));
}

fn report(
    severity: &str,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) -> Vec<(u8, String)> {
    // A zero byte would end the field early.
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    let mut fields = vec![
        (b'S', severity.to_string()),
        (b'V', severity.to_string()),
        (b'C', clean(sqlstate)),
        (b'M', clean(message)),
    ];
    fields.extend(detail.map(|d| (b'D', clean(d))));
    fields.extend(hint.map(|h| (b'H', clean(h))));
    fields
}

/// RowDescription of a result schema.
pub fn put_row_description(out: &mut BytesMut, schema: &Schema, formats: &[Format]) -> Result<()> {
    let fields = schema
        .fields()
        .iter()
        .zip(formats)
        .map(|(field, format)| {
            let t = column_type(field)?;
            let name = field.name().replace('\0', "\u{fffd}");
            let (relation, number) = origin(field);
            Ok(FieldDescription::new(name, relation, number, t.oid(), t.typlen(), t.typmod(), format.code()))
        })
        .collect::<Result<_>>()?;
    put(out, &RowDescription::new(fields));
    Ok(())
}

/// The relation and the number of the column that a result column is; zeros if it is none.
fn origin(field: &Field) -> (i32, i16) {
    let parts = field.metadata().get(ORIGIN_KEY).and_then(|origin| origin.split_once('.'));
    let both = parts.and_then(|(oid, number)| Some((oid.parse::<u32>().ok()? as i32, number.parse().ok()?)));
    both.unwrap_or_default()
}

/// ParameterDescription.
pub fn put_parameter_description(out: &mut BytesMut, types: &[SqlType]) {
    put(out, &ParameterDescription::new(types.iter().map(SqlType::oid).collect()));
}

/// ParameterStatus.
pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    put(out, &ParameterStatus::new(name.replace('\0', ""), value.replace('\0', "")));
}

/// NotificationResponse.
pub fn put_notification(out: &mut BytesMut, process_id: i32, channel: &str, payload: &str) {
    put(out, &NotificationResponse::new(process_id, channel.replace('\0', ""), payload.replace('\0', "\u{fffd}")));
}

/// CommandComplete.
pub fn put_complete(out: &mut BytesMut, tag: &str) {
    put(out, &CommandComplete::new(tag.to_string()));
}

/// ReadyForQuery.
pub fn put_ready(out: &mut BytesMut, status: TransactionStatus) {
    let status = match status {
        TransactionStatus::Idle => response::TransactionStatus::Idle,
        TransactionStatus::InTransaction => response::TransactionStatus::Transaction,
        TransactionStatus::Failed => response::TransactionStatus::Error,
    };
    put(out, &ReadyForQuery::new(status));
}

/// EmptyQueryResponse.
pub fn put_empty(out: &mut BytesMut) {
    put(out, &EmptyQueryResponse::new());
}

/// ParseComplete.
pub fn put_parse_complete(out: &mut BytesMut) {
    put(out, &ParseComplete::new());
}

/// BindComplete.
pub fn put_bind_complete(out: &mut BytesMut) {
    put(out, &BindComplete::new());
}

/// CloseComplete.
pub fn put_close_complete(out: &mut BytesMut) {
    put(out, &CloseComplete::new());
}

/// NoData.
pub fn put_no_data(out: &mut BytesMut) {
    put(out, &NoData::new());
}

/// PortalSuspended.
pub fn put_suspended(out: &mut BytesMut) {
    put(out, &PortalSuspended::new());
}
