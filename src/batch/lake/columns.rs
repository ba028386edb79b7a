//! The types of Delta's columns and ours, by the Delta protocol's list of primitive types.

use deltalake::kernel::{ArrayType, DataType, PrimitiveType, StructField, StructType};
use millstream_catalog::{Column, SqlType};

use crate::error::{Error, Result};

/// Our column for one of a Delta table.
///
/// # Errors
/// 0A000 for a type that we do not have.
pub fn column_of(field: &StructField) -> Result<Column> {
    let sql_type = type_of(field.data_type()).ok_or_else(|| {
        Error::unsupported(format!("column \"{}\" has the unsupported Delta type {}", field.name(), field.data_type()))
    })?;
    Ok(Column::new(field.name(), sql_type, field.is_nullable()))
}

fn type_of(data_type: &DataType) -> Option<SqlType> {
    Some(match data_type {
        DataType::Primitive(primitive) => match primitive {
            PrimitiveType::String => SqlType::Text,
            PrimitiveType::Long => SqlType::Int8,
            PrimitiveType::Integer => SqlType::Int4,
            PrimitiveType::Short | PrimitiveType::Byte => SqlType::Int2,
            PrimitiveType::Float => SqlType::Float4,
            PrimitiveType::Double => SqlType::Float8,
            PrimitiveType::Boolean => SqlType::Bool,
            PrimitiveType::Binary => SqlType::Bytea,
            PrimitiveType::Date => SqlType::Date,
            PrimitiveType::Timestamp => SqlType::Timestamptz,
            PrimitiveType::TimestampNtz => SqlType::Timestamp,
            PrimitiveType::Decimal(decimal) => {
                SqlType::Numeric(Some((decimal.precision(), i8::try_from(decimal.scale()).ok()?)))
            }
            _ => return None,
        },
        DataType::Array(array) => SqlType::Array(Box::new(type_of(array.element_type())?)),
        DataType::Struct(fields) => {
            let fields = fields.fields().map(|f| Some((f.name().clone(), type_of(f.data_type())?)));
            SqlType::Record(fields.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// Delta's column for one of ours.
///
/// # Errors
/// 0A000 for a type that Delta tables do not have.
pub fn field_of(column: &Column) -> Result<StructField> {
    let data_type = delta_type(&column.sql_type).ok_or_else(|| {
        let what = format!("column \"{}\" of type {} cannot be in a Delta table", column.name, column.sql_type);
        let hint = match column.sql_type {
            SqlType::Numeric(_) => "write numeric(precision, scale), of 38 digits at most and a scale of 0 or more",
            _ => "declare it as text",
        };
        Error::unsupported(what).with_hint(hint)
    })?;
    Ok(StructField::new(&column.name, data_type, column.nullable))
}

fn delta_type(sql_type: &SqlType) -> Option<DataType> {
    Some(match sql_type {
        SqlType::Bool => DataType::BOOLEAN,
        SqlType::Int2 => DataType::SHORT,
        SqlType::Int4 => DataType::INTEGER,
        SqlType::Int8 => DataType::LONG,
        SqlType::Float4 => DataType::FLOAT,
        SqlType::Float8 => DataType::DOUBLE,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => DataType::STRING,
        SqlType::Bytea => DataType::BINARY,
        SqlType::Date => DataType::DATE,
        SqlType::Timestamp => DataType::TIMESTAMP_NTZ,
        SqlType::Timestamptz => DataType::TIMESTAMP,
        SqlType::Numeric(Some((precision, scale))) => DataType::decimal(*precision, u8::try_from(*scale).ok()?).ok()?,
        SqlType::Array(element) => ArrayType::new(delta_type(element)?, true).into(),
        SqlType::Record(fields) => {
            let fields = fields.iter().map(|(name, t)| Some(StructField::new(name, delta_type(t)?, true)));
            StructType::try_new(fields.collect::<Option<Vec<_>>>()?).ok()?.into()
        }
        _ => return None,
    })
}

/// Whether a declared column can stand for a column of a Delta table: the same type, but for the lengths of texts, which
/// Delta does not know.
pub fn stands_for(declared: &SqlType, found: &SqlType) -> bool {
    declared == found || (declared.is_text() && *found == SqlType::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_come_back() {
        let all = [
            SqlType::Bool,
            SqlType::Int2,
            SqlType::Int4,
            SqlType::Int8,
            SqlType::Float4,
            SqlType::Float8,
            SqlType::Numeric(Some((38, 10))),
            SqlType::Text,
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Timestamp,
            SqlType::Timestamptz,
            SqlType::Array(Box::new(SqlType::Int4)),
            SqlType::Record(vec![("a".into(), SqlType::Text)]),
        ];
        for sql_type in all {
            let column = Column::new("c", sql_type, true);
            assert_eq!(column_of(&field_of(&column).unwrap()).unwrap(), column);
        }
        for refused in [SqlType::Uuid, SqlType::Jsonb, SqlType::Interval, SqlType::Time, SqlType::Numeric(None)] {
            assert_eq!(field_of(&Column::new("c", refused, true)).unwrap_err().sqlstate(), "0A000");
        }
        assert!(stands_for(&SqlType::Varchar(Some(3)), &SqlType::Text) && !stands_for(&SqlType::Int4, &SqlType::Int8));
    }
}
