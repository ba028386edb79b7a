//! How the fields of a message go into columns, decided once for each message type.
//!
//! A column's field is the one of its name, or the one whose number the name had in the schema of CREATE, so that a field may
//! be renamed.

use millstream_catalog::SqlType;

use super::schema::{Field, Kind, Message, Scalar, Schema};

/// A column that is wanted of a message.
pub(super) struct Wanted<'a> {
    pub name: &'a str,
    pub sql_type: &'a SqlType,
    /// Position among the column builders.
    pub at: usize,
}

/// What is done with a message.
#[derive(Debug)]
pub(super) struct MessageOp {
    pub fields: Vec<FieldOp>,
    /// Columns that have no field.
    pub missing: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct FieldOp {
    pub number: u32,
    /// Position among the column builders.
    pub at: usize,
    pub name: Box<str>,
    pub op: Op,
    pub repeated: bool,
    /// Whether NULL stands for a field that is not there, and not the default value.
    pub presence: bool,
}

/// What is done with a value.
#[derive(Debug)]
pub(super) enum Op {
    Scalar(Scalar),
    /// The names of an enum's numbers.
    Enum(Vec<(i32, Box<str>)>),
    Timestamp,
    /// A message with the one field `value`, which stands for it.
    Wrapped(Scalar),
    Message(MessageOp),
    /// Any value as JSON, by its kind.
    Json(Kind),
}

/// A plan for the columns wanted of a message; `reader` is the message as it was at CREATE.
///
/// # Errors
/// Which field cannot fill its column.
pub(super) fn message(
    schema: &Schema,
    message: &Message,
    reader: Option<(&Schema, &Message)>,
    wanted: &[Wanted<'_>],
) -> Result<MessageOp, String> {
    let mut op = MessageOp { fields: Vec::new(), missing: Vec::new() };
    for w in wanted {
        let declared = reader.and_then(|(s, m)| m.fields.iter().find(|f| f.name == w.name).map(|f| (s, f)));
        let by_name = message.fields.iter().find(|f| f.name == w.name);
        let by_number = || declared.and_then(|(_, d)| message.fields.iter().find(|f| f.number == d.number));
        let Some(field) = by_name.or_else(by_number) else {
            op.missing.push(w.at);
            continue;
        };
        let value = field_op(schema, field, declared, w.sql_type).map_err(|e| format!("field \"{}\": {e}", w.name))?;
        op.fields.push(FieldOp {
            number: field.number,
            at: w.at,
            name: w.name.into(),
            op: value,
            repeated: field.repeated,
            presence: field.presence,
        });
    }
    Ok(op)
}

fn field_op(
    schema: &Schema,
    field: &Field,
    declared: Option<(&Schema, &Field)>,
    sql_type: &SqlType,
) -> Result<Op, String> {
    match (field.repeated, sql_type) {
        (true, SqlType::Array(item)) => value(schema, &field.kind, declared, item),
        (true, SqlType::Json | SqlType::Jsonb) => Ok(Op::Json(field.kind.clone())),
        (true, _) => Err(format!("repeated {} cannot fill a column of type {sql_type}", describe(schema, &field.kind))),
        (false, _) => value(schema, &field.kind, declared, sql_type),
    }
}

fn value(schema: &Schema, kind: &Kind, declared: Option<(&Schema, &Field)>, sql: &SqlType) -> Result<Op, String> {
    let refuse = || Err(format!("{} cannot fill a column of type {sql}", describe(schema, kind)));
    if matches!(sql, SqlType::Json | SqlType::Jsonb) && *kind != Kind::Scalar(Scalar::String) {
        return Ok(Op::Json(kind.clone()));
    }
    match kind {
        Kind::Scalar(scalar) if fits(*scalar, sql) => Ok(Op::Scalar(*scalar)),
        Kind::Enum(at) if sql.is_text() || matches!(sql, SqlType::Int4 | SqlType::Int8) => {
            let values = if sql.is_text() { schema.enums[*at].values.clone() } else { Vec::new() };
            Ok(Op::Enum(values))
        }
        Kind::Message(at) => {
            let message = &schema.messages[*at];
            match (message.name.strip_prefix("google.protobuf."), sql) {
                (Some("Timestamp"), SqlType::Timestamp | SqlType::Timestamptz) => return Ok(Op::Timestamp),
                (Some(_), sql) => {
                    if let Some(scalar) = wrapped(message).filter(|s| fits(*s, sql)) {
                        return Ok(Op::Wrapped(scalar));
                    }
                }
                _ => {}
            }
            let SqlType::Record(members) = sql else { return refuse() };
            let wanted: Vec<_> =
                members.iter().enumerate().map(|(at, (name, sql_type))| Wanted { name, sql_type, at }).collect();
            let reader = declared.and_then(|(s, f)| match f.kind {
                Kind::Message(at) => Some((s, &s.messages[at])),
                _ => None,
            });
            Ok(Op::Message(self::message(schema, message, reader, &wanted)?))
        }
        _ => refuse(),
    }
}

/// The type that a wrapper of google.protobuf wraps.
pub(super) fn wrapped(message: &Message) -> Option<Scalar> {
    match (message.name.strip_prefix("google.protobuf.")?.strip_suffix("Value"), message.fields.as_slice()) {
        (Some(_), [Field { kind: Kind::Scalar(scalar), number: 1, .. }]) => Some(*scalar),
        _ => None,
    }
}

/// Whether values of a type can go into a column.
fn fits(scalar: Scalar, sql: &SqlType) -> bool {
    match scalar {
        Scalar::Bool => *sql == SqlType::Bool,
        Scalar::Double | Scalar::Float => matches!(sql, SqlType::Float4 | SqlType::Float8),
        Scalar::String => !matches!(sql, SqlType::Array(_) | SqlType::Record(_)),
        Scalar::Bytes => *sql == SqlType::Bytea || sql.is_text(),
        _ => sql.is_numeric(),
    }
}

pub(super) fn describe(schema: &Schema, kind: &Kind) -> String {
    match kind {
        Kind::Scalar(scalar) => scalar.word().into(),
        Kind::Message(at) => format!("message {}", schema.messages[*at].name),
        Kind::Enum(at) => format!("enum {}", schema.enums[*at].name),
        Kind::Map(key, value) => format!("map<{}, {}>", key.word(), describe(schema, value)),
    }
}
