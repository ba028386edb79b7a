//! The columns that a message stands for.

use millstream_catalog::{Column, SqlType};

use super::plan::wrapped;
use super::schema::{Kind, Scalar, Schema};
use crate::error::{ConnectorError, Result};

/// Columns for the fields of a message.
///
/// # Errors
/// 0A000 naming the field that no column can take.
pub(super) fn columns(schema: &Schema, message: usize) -> Result<Vec<Column>> {
    let mut within = vec![message];
    let columns = schema.messages[message].fields.iter().map(|field| {
        let sql_type = field_type(schema, &field.kind, field.repeated, &mut within).map_err(|why| {
            ConnectorError::unsupported(format!("field \"{}\" of the Protobuf schema: {why}", field.name))
                .with_hint("list the columns that you need with their types; a column of type jsonb takes any value")
        })?;
        Ok(Column::new(&field.name, sql_type, true))
    });
    columns.collect()
}

fn field_type(schema: &Schema, kind: &Kind, repeated: bool, within: &mut Vec<usize>) -> Result<SqlType, String> {
    let one = sql_type(schema, kind, within)?;
    Ok(if repeated { SqlType::Array(Box::new(one)) } else { one })
}

fn of_scalar(scalar: Scalar) -> SqlType {
    match scalar {
        Scalar::Double => SqlType::Float8,
        Scalar::Float => SqlType::Float4,
        Scalar::Int64 | Scalar::SInt64 | Scalar::SFixed64 | Scalar::UInt32 | Scalar::Fixed32 => SqlType::Int8,
        Scalar::UInt64 | Scalar::Fixed64 => SqlType::Numeric(Some((20, 0))),
        Scalar::Int32 | Scalar::SInt32 | Scalar::SFixed32 => SqlType::Int4,
        Scalar::Bool => SqlType::Bool,
        Scalar::String => SqlType::Varchar(None),
        Scalar::Bytes => SqlType::Bytea,
    }
}

fn sql_type(schema: &Schema, kind: &Kind, within: &mut Vec<usize>) -> Result<SqlType, String> {
    Ok(match kind {
        Kind::Scalar(scalar) => of_scalar(*scalar),
        Kind::Enum(_) => SqlType::Varchar(None),
        Kind::Map(..) => SqlType::Jsonb,
        Kind::Message(at) => {
            let message = &schema.messages[*at];
            if message.name == "google.protobuf.Timestamp" {
                return Ok(SqlType::Timestamptz);
            }
            if let Some(scalar) = wrapped(message) {
                return Ok(of_scalar(scalar));
            }
            if within.contains(at) {
                return Err(format!("message {} is within itself, which no column is", message.name));
            }
            within.push(*at);
            let members = message.fields.iter().map(|f| {
                let member = field_type(schema, &f.kind, f.repeated, within);
                Ok((f.name.clone(), member.map_err(|e| format!("field \"{}\": {e}", f.name))?))
            });
            let members = members.collect::<Result<Vec<_>, String>>()?;
            within.pop();
            if members.is_empty() {
                return Err(format!("message {} has no fields", message.name));
            }
            SqlType::Record(members)
        }
    })
}
