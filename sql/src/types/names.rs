//! From a type as it is written to [`SqlType`].

use datafusion_sql::sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, Ident, StructField, TimezoneInfo,
};
use millstream_catalog::SqlType;
use millstream_catalog::types::MAX_PRECISION;

use crate::error::{Result, SqlError};

/// The longest identifier, in bytes; PostgreSQL cuts longer ones, we too.
const NAME_MAX_BYTES: usize = 63;
/// The longest `varchar(n)` and `char(n)`, PostgreSQL's limit.
const LENGTH_MAX: u64 = 10_485_760;

/// An identifier as PostgreSQL reads it: lower case unless quoted, at most 63 bytes.
pub fn normalize(ident: &Ident) -> String {
    let mut name = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
    if name.len() > NAME_MAX_BYTES {
        let mut end = NAME_MAX_BYTES;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
    }
    name
}

/// An identifier as SQL writes it: quoted unless it reads back as itself.
pub fn quote_ident(name: &str) -> String {
    let plain = name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$');
    if plain && !is_keyword(name) { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Whether PostgreSQL takes the unquoted word for no name of a relation.
pub(crate) fn is_reserved(name: &str) -> bool {
    const WORDS: &str = " all analyse analyze and any array as asc asymmetric authorization binary both case cast check \
        collate collation column concurrently constraint create cross current_catalog current_date current_role \
        current_schema current_time current_timestamp current_user default deferrable desc distinct do else end except \
        false fetch for foreign freeze from full grant group having ilike in initially inner intersect into is isnull \
        join lateral leading left like limit localtime localtimestamp natural not notnull null offset on only or order \
        outer overlaps placing primary references returning right select session_user similar some symmetric table \
        tablesample then to trailing true union unique user using variadic verbose when where window with ";
    WORDS.contains(&format!(" {name} "))
}

/// The words that PostgreSQL does not take for a name everywhere.
fn is_keyword(name: &str) -> bool {
    const WORDS: &str = " between bigint bit boolean char character coalesce dec decimal exists extract float greatest \
        grouping inout int integer interval least national nchar none normalize nullif numeric out overlay position \
        precision real row setof smallint substring time timestamp treat trim values varchar ";
    is_reserved(name) || WORDS.contains(&format!(" {name} "))
}

/// The SQL type of that name.
///
/// # Errors
/// 42704 for an unknown type, 0A000 for one that PostgreSQL has and we do not, 22023 for a modifier out of range.
pub fn sql_type(data_type: &DataType) -> Result<SqlType> {
    Ok(match data_type {
        DataType::Bool | DataType::Boolean => SqlType::Bool,
        DataType::SmallInt(None) | DataType::Int2(None) => SqlType::Int2,
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => SqlType::Int4,
        DataType::BigInt(None) | DataType::Int8(None) => SqlType::Int8,
        DataType::Real | DataType::Float4 => SqlType::Float4,
        DataType::Float8 | DataType::DoublePrecision | DataType::Double(ExactNumberInfo::None) => SqlType::Float8,
        DataType::Float(ExactNumberInfo::None) => SqlType::Float8,
        DataType::Float(ExactNumberInfo::Precision(1..=24)) => SqlType::Float4,
        DataType::Float(ExactNumberInfo::Precision(25..=53)) => SqlType::Float8,
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => numeric(info)?,
        DataType::Text => SqlType::Text,
        DataType::Varchar(n) | DataType::CharacterVarying(n) | DataType::CharVarying(n) => {
            SqlType::Varchar(length(n, "varchar")?)
        }
        DataType::Char(n) | DataType::Character(n) => SqlType::Char(length(n, "char")?.unwrap_or(1)),
        DataType::Bytea => SqlType::Bytea,
        DataType::Date => SqlType::Date,
        DataType::Time(p, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            microseconds(*p, data_type)?;
            SqlType::Time
        }
        DataType::Timestamp(p, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            microseconds(*p, data_type)?;
            SqlType::Timestamp
        }
        DataType::Timestamp(p, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            microseconds(*p, data_type)?;
            SqlType::Timestamptz
        }
        DataType::Interval { fields: None, precision: None | Some(6) } => SqlType::Interval,
        DataType::Uuid => SqlType::Uuid,
        DataType::JSON => SqlType::Json,
        DataType::JSONB => SqlType::Jsonb,
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => SqlType::Array(Box::new(sql_type(item)?)),
        DataType::Struct(fields, _) => record(fields)?,
        DataType::Regclass => return Err(not_yet("regclass")),
        DataType::Custom(name, modifiers) => return custom(&name.to_string(), modifiers),
        DataType::String(None) => SqlType::Text,
        other => return Err(not_yet(&other.to_string().to_lowercase())),
    })
}

/// `STRUCT<name type, …>`, RisingWave's word for a record of named fields.
fn record(fields: &[StructField]) -> Result<SqlType> {
    let mut named: Vec<(String, SqlType)> = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(name) = &field.field_name else {
            return Err(SqlError::syntax("a field of a STRUCT type has no name")
                .with_hint("write STRUCT<name type, ...>, for example STRUCT<id BIGINT, name TEXT>"));
        };
        if field.options.is_some() {
            return Err(SqlError::unsupported(format!("OPTIONS of the struct field \"{}\"", name.value)));
        }
        let name = normalize(name);
        if named.iter().any(|(other, _)| *other == name) {
            return Err(SqlError::new("42701", format!("field \"{name}\" of a STRUCT specified more than once")));
        }
        named.push((name, sql_type(&field.field_type)?));
    }
    match named.is_empty() {
        true => Err(SqlError::syntax("a STRUCT type needs a field")),
        false => Ok(SqlType::Record(named)),
    }
}

fn custom(name: &str, modifiers: &[String]) -> Result<SqlType> {
    let lower = name.to_lowercase();
    let plain = lower.strip_prefix("pg_catalog.").unwrap_or(&lower);
    if !modifiers.is_empty() {
        return Err(SqlError::syntax(format!("type modifier is not allowed for type \"{plain}\"")));
    }
    Ok(match plain {
        "timestamptz" => SqlType::Timestamptz,
        "bool" => SqlType::Bool,
        "int2" => SqlType::Int2,
        "int4" => SqlType::Int4,
        "int8" => SqlType::Int8,
        "float4" => SqlType::Float4,
        "float8" => SqlType::Float8,
        "text" => SqlType::Text,
        "varchar" => SqlType::Varchar(None),
        "bpchar" => SqlType::Text,
        "oid" => SqlType::Oid,
        "name" => SqlType::Name,
        "\"char\"" => SqlType::InternalChar,
        "serial" | "bigserial" | "smallserial" | "serial4" | "serial8" | "serial2" => {
            return Err(not_yet(plain).with_hint("use bigint and give the values"));
        }
        "money" | "bit" | "varbit" | "inet" | "cidr" | "macaddr" | "xml" | "point" | "box" | "circle" | "tsvector"
        | "tsquery" | "regclass" | "regtype" | "regproc" | "regnamespace" | "hstore" | "timetz" | "int4range"
        | "int8range" | "numrange" | "tsrange" | "tstzrange" | "daterange" | "jsonpath" => return Err(not_yet(plain)),
        _ => return Err(SqlError::new("42704", format!("type \"{plain}\" does not exist"))),
    })
}

fn not_yet(name: &str) -> SqlError {
    SqlError::unsupported(format!("type \"{name}\" is not supported"))
}

fn numeric(info: &ExactNumberInfo) -> Result<SqlType> {
    let (precision, scale) = match *info {
        ExactNumberInfo::None => return Ok(SqlType::Numeric(None)),
        ExactNumberInfo::Precision(p) => (p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (p, s),
    };
    let max = u64::from(MAX_PRECISION);
    if precision == 0 || precision > max {
        return Err(SqlError::new("22023", format!("NUMERIC precision {precision} must be between 1 and {max}")));
    }
    if scale < 0 || scale > precision as i64 {
        return Err(SqlError::new(
            "22023",
            format!("NUMERIC scale {scale} must be between 0 and precision {precision}"),
        ));
    }
    Ok(SqlType::Numeric(Some((precision as u8, scale as i8))))
}

fn length(n: &Option<CharacterLength>, name: &str) -> Result<Option<u32>> {
    match n {
        None => Ok(None),
        Some(CharacterLength::Max) => Err(SqlError::syntax(format!("MAX is no length for type {name}"))),
        Some(CharacterLength::IntegerLength { length, .. }) if *length == 0 => {
            Err(SqlError::new("22023", format!("length for type {name} must be at least 1")))
        }
        Some(CharacterLength::IntegerLength { length, .. }) if *length > LENGTH_MAX => {
            Err(SqlError::new("22023", format!("length for type {name} cannot exceed {LENGTH_MAX}")))
        }
        Some(CharacterLength::IntegerLength { length, .. }) => Ok(Some(*length as u32)),
    }
}

fn microseconds(precision: Option<u64>, data_type: &DataType) -> Result<()> {
    match precision {
        None | Some(6) => Ok(()),
        Some(_) => Err(SqlError::unsupported(format!("precision of {data_type} is not supported"))
            .with_hint("times have microseconds; date_trunc takes digits away")),
    }
}

/// PostgreSQL's internal name of a type, `pg_type.typname`.
pub(crate) fn internal_name(t: &SqlType) -> String {
    use SqlType as T;
    match t {
        T::Bool => "bool".into(),
        T::Int2 => "int2".into(),
        T::Int4 => "int4".into(),
        T::Int8 => "int8".into(),
        T::Float4 => "float4".into(),
        T::Float8 => "float8".into(),
        T::Numeric(_) => "numeric".into(),
        T::Varchar(_) => "varchar".into(),
        T::Char(_) => "bpchar".into(),
        T::Time => "time".into(),
        T::Timestamp => "timestamp".into(),
        T::Timestamptz => "timestamptz".into(),
        T::InternalChar => "char".into(),
        T::Array(item) => format!("_{}", internal_name(item)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_postgresql_quotes_them() {
        assert_eq!(quote_ident("abc_1"), "abc_1");
        assert_eq!(quote_ident("Abc"), "\"Abc\"");
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_ident("user"), "\"user\"");
        assert_eq!(quote_ident("left"), "\"left\"");
        assert_eq!(quote_ident("values"), "\"values\"");
        assert_eq!(quote_ident("name"), "name");
    }
}
