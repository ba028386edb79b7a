//! The columns that a schema stands for.

use millstream_catalog::{Column, SqlType};

use super::schema::{Field, Logical, NamedKind, Schema, Type};
use crate::error::{ConnectorError, Result};

/// Columns for the fields of a record, all of which may be NULL: a later schema may leave a field out.
///
/// # Errors
/// 0A000 naming the field whose type no column has.
pub(super) fn columns(schema: &Schema, fields: &[Field]) -> Result<Vec<Column>> {
    fields
        .iter()
        .map(|field| {
            let sql_type = sql_type(schema, &field.field_type, &mut Vec::new()).map_err(|why| {
                ConnectorError::unsupported(format!("field \"{}\" of the Avro schema: {why}", field.name)).with_hint(
                    "list the columns that you need with their types; a column of type jsonb takes any value",
                )
            })?;
            Ok(Column::new(&field.name, sql_type, true))
        })
        .collect()
}

fn sql_type(schema: &Schema, t: &Type, within: &mut Vec<usize>) -> Result<SqlType, String> {
    let decimal = |precision: u32, scale: u32| match u8::try_from(precision) {
        Ok(p @ 1..=38) => Ok(SqlType::Numeric(Some((p, scale as i8)))),
        _ => Err(format!("a decimal of {precision} digits is not supported, 38 are the most")),
    };
    let of_number = |logical: &Option<Logical>, plain: SqlType| match logical {
        None => plain,
        Some(Logical::Date) => SqlType::Date,
        Some(Logical::Time(_)) => SqlType::Time,
        Some(Logical::Timestamp { local: true, .. }) => SqlType::Timestamp,
        Some(Logical::Timestamp { local: false, .. }) => SqlType::Timestamptz,
    };
    Ok(match t {
        Type::Null => return Err("a type that is null alone has no column".into()),
        Type::Boolean => SqlType::Bool,
        Type::Int(logical) => of_number(logical, SqlType::Int4),
        Type::Long(logical) => of_number(logical, SqlType::Int8),
        Type::Float => SqlType::Float4,
        Type::Double => SqlType::Float8,
        Type::Bytes(None) => SqlType::Bytea,
        Type::Bytes(Some(d)) => decimal(d.precision, d.scale)?,
        Type::String { uuid: false } => SqlType::Varchar(None),
        Type::String { uuid: true } => SqlType::Uuid,
        Type::Array(item) => SqlType::Array(Box::new(sql_type(schema, item, within)?)),
        Type::Map(_) => SqlType::Jsonb,
        Type::Union(_) => match schema.without_null(t) {
            (Type::Union(_), _) => return Err(format!("a {} is not supported", schema.describe(t))),
            (one, _) => sql_type(schema, one, within)?,
        },
        Type::Named(i) => match &schema.names[*i].kind {
            NamedKind::Enum { .. } => SqlType::Varchar(None),
            NamedKind::Fixed { decimal: Some(d), .. } => decimal(d.precision, d.scale)?,
            NamedKind::Fixed { uuid: true, .. } => SqlType::Uuid,
            NamedKind::Fixed { .. } => SqlType::Bytea,
            NamedKind::Open => return Err("the type is not complete".into()),
            NamedKind::Record(fields) => {
                if within.contains(i) {
                    return Err(format!("record {} is within itself, which no column is", schema.names[*i].name));
                }
                within.push(*i);
                let members = fields
                    .iter()
                    .map(|f| {
                        let member = sql_type(schema, &f.field_type, within);
                        Ok((f.name.clone(), member.map_err(|e| format!("field \"{}\": {e}", f.name))?))
                    })
                    .collect::<Result<Vec<_>, String>>()?;
                within.pop();
                if members.is_empty() {
                    return Err(format!("record {} has no fields", schema.names[*i].name));
                }
                SqlType::Record(members)
            }
        },
    })
}
