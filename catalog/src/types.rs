//! The SQL types, and the one Arrow layout each of them has.
//!
//! The layout reaches the disk (column segments, key and row codecs), so it is fixed: timestamps are microseconds, text is
//! `Utf8View`, numeric is `Decimal128`, intervals are `MonthDayNano`. Where two SQL types share an Arrow type (text,
//! varchar, json) the field carries its SQL type as metadata under [`TYPE_KEY`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

/// Field metadata key that holds the SQL type's name where the Arrow type alone does not tell it.
pub const TYPE_KEY: &str = "millstream.type";

/// Scale of a numeric that was declared without one: its values keep up to 18 fractional and 20 integer digits.
pub const UNCONSTRAINED_SCALE: i8 = 18;
/// Most digits that a numeric can have.
pub const MAX_PRECISION: u8 = 38;

/// A SQL type as a column or expression has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqlType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// `numeric(p, s)`; `None` is numeric without precision, kept at [`UNCONSTRAINED_SCALE`] and printed without
    /// trailing zeros.
    Numeric(Option<(u8, i8)>),
    Text,
    /// `varchar(n)`, n in characters.
    Varchar(Option<u32>),
    /// `char(n)`, blank-padded, n in characters.
    Char(u32),
    Bytea,
    Date,
    Time,
    /// Microseconds, no zone.
    Timestamp,
    /// Microseconds UTC; the session's zone is applied at parse and print.
    Timestamptz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    /// Object identifiers of the system catalogs.
    Oid,
    /// Identifiers of the system catalogs.
    Name,
    /// PostgreSQL's one-byte `"char"` of the system catalogs.
    InternalChar,
    Array(Box<SqlType>),
    Record(Vec<(String, SqlType)>),
}

impl SqlType {
    /// The Arrow type that values of this type have everywhere.
    pub fn arrow_type(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Numeric(Some((p, s))) => DataType::Decimal128(*p, *s),
            Self::Numeric(None) => DataType::Decimal128(MAX_PRECISION, UNCONSTRAINED_SCALE),
            Self::Text
            | Self::Varchar(_)
            | Self::Char(_)
            | Self::Json
            | Self::Jsonb
            | Self::Name
            | Self::InternalChar => DataType::Utf8View,
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Oid => DataType::UInt32,
            Self::Array(item) => DataType::List(Arc::new(item.field("item", true))),
            Self::Record(fields) => {
                DataType::Struct(Fields::from(fields.iter().map(|(n, t)| t.field(n, true)).collect::<Vec<_>>()))
            }
        }
    }

    /// An Arrow field of this type, with the metadata that [`SqlType::of`] reads back.
    pub fn field(&self, name: impl Into<String>, nullable: bool) -> Field {
        let field = Field::new(name, self.arrow_type(), nullable);
        match Self::from_arrow(field.data_type()) {
            Some(plain) if plain == *self => field,
            _ => field.with_metadata(HashMap::from([(TYPE_KEY.to_string(), self.to_string())])),
        }
    }

    /// The SQL type of a field: from its metadata if it has any, else the plain type of its Arrow layout.
    /// `None` for Arrow types that no SQL type has (run-end encoded and the like).
    pub fn of(field: &Field) -> Option<Self> {
        if let Some(t) = field.metadata().get(TYPE_KEY).and_then(|s| Self::parse(s))
            && same_layout(&t.arrow_type(), field.data_type())
        {
            return Some(t);
        }
        match field.data_type() {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                Some(Self::Array(Box::new(Self::of(item)?)))
            }
            DataType::Struct(fields) => Some(Self::Record(
                fields.iter().map(|f| Some((f.name().clone(), Self::of(f)?))).collect::<Option<_>>()?,
            )),
            other => Self::from_arrow(other),
        }
    }

    /// The plain SQL type of an Arrow type; also for layouts that only files have (unsigned integers, nanoseconds).
    pub fn from_arrow(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Bool,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::Int2,
            DataType::Int32 | DataType::UInt16 => Self::Int4,
            DataType::Int64 | DataType::UInt32 => Self::Int8,
            DataType::UInt64 => Self::Numeric(Some((20, 0))),
            DataType::Float16 | DataType::Float32 => Self::Float4,
            DataType::Float64 => Self::Float8,
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => {
                Self::Numeric(Some((*p, *s)))
            }
            DataType::Decimal256(_, s) => Self::Numeric(Some((MAX_PRECISION, *s))),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Self::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Self::Bytea,
            DataType::FixedSizeBinary(16) => Self::Uuid,
            DataType::FixedSizeBinary(_) => Self::Bytea,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::Timestamp(_, None) => Self::Timestamp,
            DataType::Timestamp(_, Some(_)) => Self::Timestamptz,
            DataType::Interval(_) | DataType::Duration(_) => Self::Interval,
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                Self::Array(Box::new(Self::of(item)?))
            }
            DataType::Struct(fields) => {
                Self::Record(fields.iter().map(|f| Some((f.name().clone(), Self::of(f)?))).collect::<Option<_>>()?)
            }
            DataType::Dictionary(_, value) => Self::from_arrow(value)?,
            _ => return None,
        })
    }

    /// PostgreSQL's `pg_type.oid` of this type.
    pub fn oid(&self) -> u32 {
        match self {
            Self::Bool => 16,
            Self::Bytea => 17,
            Self::InternalChar => 18,
            Self::Name => 19,
            Self::Int8 => 20,
            Self::Int2 => 21,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Oid => 26,
            Self::Json => 114,
            Self::Float4 => 700,
            Self::Float8 => 701,
            Self::Char(_) => 1042,
            Self::Varchar(_) => 1043,
            Self::Date => 1082,
            Self::Time => 1083,
            Self::Timestamp => 1114,
            Self::Timestamptz => 1184,
            Self::Interval => 1186,
            Self::Numeric(_) => 1700,
            Self::Uuid => 2950,
            Self::Jsonb => 3802,
            Self::Record(_) => 2249,
            Self::Array(item) => match **item {
                Self::Bool => 1000,
                Self::Bytea => 1001,
                Self::InternalChar => 1002,
                Self::Name => 1003,
                Self::Int2 => 1005,
                Self::Int4 => 1007,
                Self::Text => 1009,
                Self::Char(_) => 1014,
                Self::Varchar(_) => 1015,
                Self::Int8 => 1016,
                Self::Float4 => 1021,
                Self::Float8 => 1022,
                Self::Oid => 1028,
                Self::Timestamp => 1115,
                Self::Date => 1182,
                Self::Time => 1183,
                Self::Timestamptz => 1185,
                Self::Interval => 1187,
                Self::Numeric(_) => 1231,
                Self::Json => 199,
                Self::Uuid => 2951,
                Self::Jsonb => 3807,
                Self::Record(_) => 2287,
                // PostgreSQL has no array of arrays: dimensions share one array type.
                Self::Array(_) => item.oid(),
            },
        }
    }

    /// PostgreSQL's `atttypmod`: -1 where the type has no modifier.
    pub fn typmod(&self) -> i32 {
        match self {
            Self::Numeric(Some((p, s))) => ((i32::from(*p) << 16) | (i32::from(*s) & 0x7ff)) + 4,
            Self::Varchar(Some(n)) | Self::Char(n) => *n as i32 + 4,
            Self::Array(item) => item.typmod(),
            _ => -1,
        }
    }

    /// PostgreSQL's `typlen`: bytes of a fixed-width type, -1 for the others.
    pub fn typlen(&self) -> i16 {
        match self {
            Self::Bool | Self::InternalChar => 1,
            Self::Int2 => 2,
            Self::Int4 | Self::Float4 | Self::Date | Self::Oid => 4,
            Self::Int8 | Self::Float8 | Self::Time | Self::Timestamp | Self::Timestamptz => 8,
            Self::Interval | Self::Uuid => 16,
            Self::Name => 64,
            _ => -1,
        }
    }

    /// Whether values are exact or approximate numbers.
    pub fn is_numeric(&self) -> bool {
        matches!(
            self,
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Float4 | Self::Float8 | Self::Numeric(_) | Self::Oid
        )
    }

    /// Whether values are character strings.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text | Self::Varchar(_) | Self::Char(_) | Self::Name | Self::InternalChar)
    }

    /// Reads the name that [`fmt::Display`] prints (`numeric(12,2)`, `character varying(10)`, `text[]`), which is what
    /// field metadata holds. Not a SQL type parser: that is in the `sql` crate. Records are not read back.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(item) = name.strip_suffix("[]") {
            return Some(Self::Array(Box::new(Self::parse(item)?)));
        }
        let (base, args) = match name.split_once('(') {
            Some((base, rest)) => (base, Some(rest.strip_suffix(')')?)),
            None => (name, None),
        };
        Some(match (base, args) {
            ("boolean", None) => Self::Bool,
            ("smallint", None) => Self::Int2,
            ("integer", None) => Self::Int4,
            ("bigint", None) => Self::Int8,
            ("real", None) => Self::Float4,
            ("double precision", None) => Self::Float8,
            ("numeric", None) => Self::Numeric(None),
            ("numeric", Some(a)) => {
                let (p, s) = a.split_once(',')?;
                Self::Numeric(Some((p.parse().ok()?, s.parse().ok()?)))
            }
            ("text", None) => Self::Text,
            ("character varying", None) => Self::Varchar(None),
            ("character varying", Some(n)) => Self::Varchar(Some(n.parse().ok()?)),
            ("character", Some(n)) => Self::Char(n.parse().ok()?),
            ("bytea", None) => Self::Bytea,
            ("date", None) => Self::Date,
            ("time without time zone", None) => Self::Time,
            ("timestamp without time zone", None) => Self::Timestamp,
            ("timestamp with time zone", None) => Self::Timestamptz,
            ("interval", None) => Self::Interval,
            ("uuid", None) => Self::Uuid,
            ("json", None) => Self::Json,
            ("jsonb", None) => Self::Jsonb,
            ("oid", None) => Self::Oid,
            ("name", None) => Self::Name,
            ("\"char\"", None) => Self::InternalChar,
            _ => return None,
        })
    }
}

/// The name that PostgreSQL's `format_type` and information_schema print.
impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("boolean"),
            Self::Int2 => f.write_str("smallint"),
            Self::Int4 => f.write_str("integer"),
            Self::Int8 => f.write_str("bigint"),
            Self::Float4 => f.write_str("real"),
            Self::Float8 => f.write_str("double precision"),
            Self::Numeric(None) => f.write_str("numeric"),
            Self::Numeric(Some((p, s))) => write!(f, "numeric({p},{s})"),
            Self::Text => f.write_str("text"),
            Self::Varchar(None) => f.write_str("character varying"),
            Self::Varchar(Some(n)) => write!(f, "character varying({n})"),
            Self::Char(n) => write!(f, "character({n})"),
            Self::Bytea => f.write_str("bytea"),
            Self::Date => f.write_str("date"),
            Self::Time => f.write_str("time without time zone"),
            Self::Timestamp => f.write_str("timestamp without time zone"),
            Self::Timestamptz => f.write_str("timestamp with time zone"),
            Self::Interval => f.write_str("interval"),
            Self::Uuid => f.write_str("uuid"),
            Self::Json => f.write_str("json"),
            Self::Jsonb => f.write_str("jsonb"),
            Self::Oid => f.write_str("oid"),
            Self::Name => f.write_str("name"),
            Self::InternalChar => f.write_str("\"char\""),
            Self::Array(item) => write!(f, "{item}[]"),
            Self::Record(_) => f.write_str("record"),
        }
    }
}

/// Shared form of [`SqlType::field`], for plan schemas.
pub fn field_ref(sql_type: &SqlType, name: &str, nullable: bool) -> FieldRef {
    Arc::new(sql_type.field(name, nullable))
}

/// Whether metadata that speaks of `declared` can be believed on a field of type `actual`: string layouts are
/// interchangeable, lists differ in their item field's name.
fn same_layout(declared: &DataType, actual: &DataType) -> bool {
    let is_string = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match (declared, actual) {
        (a, b) if is_string(a) && is_string(b) => true,
        (DataType::List(a), DataType::List(b)) => same_layout(a.data_type(), b.data_type()),
        (DataType::UInt32, DataType::Int64 | DataType::Int32) => true,
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_its_field() {
        let types = [
            SqlType::Bool,
            SqlType::Int2,
            SqlType::Int4,
            SqlType::Int8,
            SqlType::Float4,
            SqlType::Float8,
            SqlType::Numeric(None),
            SqlType::Numeric(Some((12, 2))),
            SqlType::Text,
            SqlType::Varchar(None),
            SqlType::Varchar(Some(10)),
            SqlType::Char(3),
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time,
            SqlType::Timestamp,
            SqlType::Timestamptz,
            SqlType::Interval,
            SqlType::Uuid,
            SqlType::Json,
            SqlType::Jsonb,
            SqlType::Oid,
            SqlType::Name,
            SqlType::InternalChar,
        ];
        for t in types {
            assert_eq!(SqlType::of(&t.field("c", true)), Some(t.clone()), "{t}");
            let array = SqlType::Array(Box::new(t.clone()));
            assert_eq!(SqlType::of(&array.field("c", true)), Some(array.clone()), "{array}");
        }
        let record = SqlType::Record(vec![("a".into(), SqlType::Json), ("b".into(), SqlType::Int4)]);
        assert_eq!(SqlType::of(&record.field("c", true)), Some(record));
    }
}
