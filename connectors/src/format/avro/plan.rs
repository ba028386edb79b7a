//! How values of one schema go into columns: Avro's schema resolution, done once for each schema that records are written
//! by (Avro specification 1.12, "Schema Resolution").
//!
//! The fields of a record are found by the names of the columns, and by the aliases that the schema of CREATE gives them.
//! A column without a field gets the default of that schema, or NULL. Numbers widen; beyond Avro's rules a number goes into
//! a narrower column where it fits, and a string into any column whose text it is.

use std::sync::Arc;

use millstream_catalog::SqlType;

use super::default::encode_default;
use super::schema::{Field, Logical, NamedKind, Schema, Type};

/// What a reader wants of a record.
pub(super) struct Wanted<'a> {
    pub name: &'a str,
    pub sql_type: &'a SqlType,
    /// Position among the column builders.
    pub at: usize,
}

/// The type that a column was declared by, with its schema.
pub(super) type ReaderType<'a> = Option<(&'a Arc<Schema>, &'a Type)>;

/// What is done with the next value of the data.
#[derive(Debug)]
pub(super) enum Op {
    Null,
    Boolean,
    Int,
    Long,
    Days,
    /// Units in a second.
    Time {
        int: bool,
        per_second: i64,
    },
    Timestamp {
        per_second: i64,
    },
    Float,
    Double,
    /// Raw, also to text, which checks that it is UTF-8.
    Bytes,
    Text,
    Decimal {
        scale: u32,
    },
    FixedDecimal {
        size: usize,
        scale: u32,
    },
    Fixed(usize),
    FixedUuid,
    Enum(Vec<Box<str>>),
    List(Box<Op>),
    Record(RecordOp),
    Union(Vec<Op>),
    /// Any value, as JSON.
    Json(Type),
}

/// What is done with the fields of a record.
#[derive(Debug, Default)]
pub(super) struct RecordOp {
    pub fields: Vec<FieldOp>,
    /// Columns that have no field.
    pub missing: Vec<Missing>,
}

#[derive(Debug)]
pub(super) enum FieldOp {
    Skip(Type),
    /// Into the column at a position.
    Read {
        at: usize,
        name: Box<str>,
        op: Op,
    },
}

/// A column without a field.
#[derive(Debug)]
pub(super) struct Missing {
    pub at: usize,
    /// Its default as data, what is done with it, and the schema that it is of.
    pub default: Option<(Vec<u8>, Op, Arc<Schema>)>,
}

/// What is done with a record whose columns are wanted.
///
/// # Errors
/// Which field cannot fill its column, and why.
pub(super) fn record(
    schema: &Schema,
    fields: &[Field],
    reader: ReaderType<'_>,
    wanted: &[Wanted<'_>],
) -> Result<RecordOp, String> {
    let reader_fields = reader.and_then(|(s, t)| s.fields(s.without_null(t).0).map(|f| (s, f)));
    let mut of_field: Vec<Option<FieldOp>> = fields.iter().map(|_| None).collect();
    let mut missing = Vec::new();
    for w in wanted {
        let declared = reader_fields.and_then(|(s, f)| f.iter().find(|f| f.name == w.name).map(|f| (s, f)));
        let reader_type = declared.map(|(s, f)| (s, &f.field_type));
        let by_name = fields.iter().position(|f| f.name == w.name);
        let aliases = declared.map_or(&[][..], |(_, f)| f.aliases.as_slice());
        let found = by_name.or_else(|| fields.iter().position(|f| aliases.contains(&f.name)));
        let located = |e: String| format!("field \"{}\": {e}", w.name);
        match found {
            Some(i) => {
                let op = value(schema, &fields[i].field_type, reader_type, w.sql_type).map_err(located)?;
                if of_field[i].is_some() {
                    return Err(located(format!("field \"{}\" fills another column already", fields[i].name)));
                }
                of_field[i] = Some(FieldOp::Read { at: w.at, name: w.name.into(), op });
            }
            None => {
                let default = declared.and_then(|(s, f)| f.default.as_ref().map(|d| (s, &f.field_type, d)));
                let default = default.map(|(s, t, d)| {
                    let mut data = Vec::new();
                    encode_default(s, t, d, &mut data)?;
                    // A default of a union is of its first branch, whose number stands before it.
                    Ok((data, value(s, t, None, w.sql_type)?, s.clone()))
                });
                missing.push(Missing { at: w.at, default: default.transpose().map_err(located)? });
            }
        }
    }
    let fields = of_field.into_iter().zip(fields);
    let fields = fields.map(|(op, f)| op.unwrap_or_else(|| FieldOp::Skip(f.field_type.clone()))).collect();
    Ok(RecordOp { fields, missing })
}

/// What is done with a value that goes into a column of a type.
///
/// # Errors
/// That it cannot.
pub(super) fn value(schema: &Schema, t: &Type, reader: ReaderType<'_>, sql: &SqlType) -> Result<Op, String> {
    let refuse = || Err(format!("{} cannot fill a column of type {sql}", schema.describe(t)));
    let is_integer = matches!(sql, SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Oid);
    let is_number = is_integer || matches!(sql, SqlType::Float4 | SqlType::Float8 | SqlType::Numeric(_));
    let is_float = matches!(sql, SqlType::Float4 | SqlType::Float8);
    let is_json = matches!(sql, SqlType::Json | SqlType::Jsonb);
    let plain = |int: bool| if int { Op::Int } else { Op::Long };
    Ok(match t {
        Type::Null => Op::Null,
        // Before all others, so that the value of no branch is refused.
        _ if is_json && !matches!(t, Type::String { .. } | Type::Union(_)) => Op::Json(t.clone()),
        Type::Union(branches) => {
            let mut ops = Vec::with_capacity(branches.len());
            for branch in branches {
                // What stands for text of JSON alone is a string of JSON beside others.
                ops.push(match is_json && branches.len() > 2 && *branch != Type::Null {
                    true => Op::Json(branch.clone()),
                    false => value(schema, branch, reader, sql).or_else(|_| refuse())?,
                });
            }
            Op::Union(ops)
        }
        Type::Boolean => match sql {
            SqlType::Bool => Op::Boolean,
            _ => return refuse(),
        },
        Type::Int(logical) | Type::Long(logical) => {
            let int = matches!(t, Type::Int(_));
            match (logical.or_else(|| logical_of(reader)), sql) {
                (_, _) if is_number => plain(int),
                (Some(Logical::Date) | None, SqlType::Date) if int => Op::Days,
                (Some(Logical::Time(per_second)), SqlType::Time) => Op::Time { int, per_second },
                (Some(Logical::Timestamp { per_second, .. }), SqlType::Timestamp | SqlType::Timestamptz) if !int => {
                    Op::Timestamp { per_second }
                }
                _ => return refuse(),
            }
        }
        Type::Float if is_float => Op::Float,
        Type::Double if is_float => Op::Double,
        Type::Float | Type::Double => return refuse(),
        Type::Bytes(decimal) => match (decimal, sql) {
            (Some(d), SqlType::Numeric(_)) => Op::Decimal { scale: d.scale },
            (_, SqlType::Bytea) => Op::Bytes,
            (None, _) if sql.is_text() => Op::Bytes,
            _ => return refuse(),
        },
        Type::String { .. } => match sql {
            SqlType::Bytea => Op::Bytes,
            SqlType::Array(_) | SqlType::Record(_) => return refuse(),
            _ => Op::Text,
        },
        Type::Array(item) => match sql {
            SqlType::Array(of) => {
                let inner = reader.and_then(|(s, t)| match s.without_null(t).0 {
                    Type::Array(item) => Some((s, item.as_ref())),
                    _ => None,
                });
                Op::List(Box::new(value(schema, item, inner, of)?))
            }
            _ => return refuse(),
        },
        Type::Map(_) => return refuse(),
        Type::Named(i) => match (&schema.names[*i].kind, sql) {
            (NamedKind::Record(fields), SqlType::Record(members)) => {
                let wanted: Vec<_> =
                    members.iter().enumerate().map(|(at, (name, sql_type))| Wanted { name, sql_type, at }).collect();
                Op::Record(record(schema, fields, reader, &wanted)?)
            }
            (NamedKind::Enum { symbols, .. }, sql) if sql.is_text() => Op::Enum(symbols.clone()),
            (NamedKind::Fixed { size, decimal: Some(d), .. }, SqlType::Numeric(_)) => {
                Op::FixedDecimal { size: *size, scale: d.scale }
            }
            (NamedKind::Fixed { size: 16, .. }, SqlType::Uuid) => Op::FixedUuid,
            (NamedKind::Fixed { size, .. }, SqlType::Bytea) => Op::Fixed(*size),
            _ => return refuse(),
        },
    })
}

/// What a number stands for in the schema that columns were made by.
fn logical_of(reader: ReaderType<'_>) -> Option<Logical> {
    let (schema, t) = reader?;
    match schema.without_null(t).0 {
        Type::Int(logical) | Type::Long(logical) => *logical,
        _ => None,
    }
}
