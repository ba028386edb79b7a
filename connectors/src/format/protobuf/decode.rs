//! Messages straight into column builders, by a plan.

use super::plan::{FieldOp, MessageOp, Op};
use super::schema::{Field, Kind, Scalar, Schema};
use super::wire::{Value, Wire, zigzag};
use crate::format::column::{ColumnBuilder, Data};

/// Messages within messages of data; deeper ones are an error rather than a stack overflow.
const DEPTH_MAX: usize = 64;

/// The columns of a message: of the builders the first `kept` keep their values and have `row` of them before it; `places`
/// says where among them each column is that the plan numbers.
pub(super) struct Members<'a> {
    pub builders: &'a mut [ColumnBuilder],
    pub kept: usize,
    pub row: usize,
    pub places: Option<&'a [usize]>,
}

impl Members<'_> {
    /// The builder of a column, and the values that it had before.
    fn of(&mut self, at: usize) -> (&mut ColumnBuilder, usize) {
        let place = self.places.map_or(at, |places| places[at]);
        let row = if place < self.kept { self.row } else { 0 };
        (&mut self.builders[place], row)
    }
}

/// Appends a row from a message.
///
/// # Errors
/// What is wrong and where; columns may then have a value more, which the caller truncates.
pub(super) fn read_message(
    op: &MessageOp,
    schema: &Schema,
    message: &[u8],
    members: &mut Members<'_>,
    depth: usize,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("messages nested too deeply".into());
    }
    let mut wire = Wire::new(message);
    // Fields mostly come in the order of their numbers, which is mostly that of the columns.
    let mut expected = 0;
    let mut json: Vec<(usize, String)> = Vec::new();
    while let Some((number, value)) = wire.field()? {
        let (ahead, behind) = (op.fields.iter().skip(expected), op.fields.iter().take(expected));
        let Some(i) = ahead.chain(behind).position(|f| f.number == number) else { continue };
        let i = (expected + i) % op.fields.len();
        let field = &op.fields[i];
        if let Op::Json(kind) = &field.op {
            let at = match json.iter().position(|(of, _)| *of == i) {
                Some(at) => at,
                None => {
                    json.push((i, String::new()));
                    json.len() - 1
                }
            };
            append_json(field, kind, schema, value, &mut json[at].1, depth)?;
        } else {
            read_field(field, schema, value, members, depth).map_err(|e| located(e, &field.name))?;
        }
        expected = if field.repeated { i } else { (i + 1) % op.fields.len() };
    }
    for (i, field) in op.fields.iter().enumerate() {
        let text = json.iter_mut().find(|(of, _)| *of == i).map(|(_, text)| std::mem::take(text));
        let is_kept = members.places.map_or(field.at, |places| places[field.at]) < members.kept;
        let (column, row) = members.of(field.at);
        end_field(field, column, row, is_kept, text).map_err(|e| located(e, &field.name))?;
    }
    for at in &op.missing {
        let is_kept = members.places.map_or(*at, |places| places[*at]) < members.kept;
        let (column, row) = members.of(*at);
        if is_kept && column.len() == row {
            column.append_null();
        }
    }
    Ok(())
}

#[cold]
fn located(error: String, name: &str) -> String {
    match error.starts_with("invalid Protobuf") {
        true => error,
        false => format!("column \"{name}\": {error}"),
    }
}

/// Takes one occurrence of a field.
fn read_field(
    field: &FieldOp,
    schema: &Schema,
    value: Value<'_>,
    members: &mut Members<'_>,
    depth: usize,
) -> Result<(), String> {
    let (column, row) = members.of(field.at);
    if !field.repeated {
        // Of a field that is there twice the last counts.
        if column.len() > row {
            column.truncate(row);
        }
        return read_value(&field.op, schema, value, column, depth);
    }
    let Data::List { items, .. } = column.data_mut() else { return Err("an array".into()) };
    match (&field.op, value) {
        (Op::Scalar(scalar), Value::Bytes(packed)) if !matches!(scalar, Scalar::String | Scalar::Bytes) => {
            let mut wire = Wire::new(packed);
            while !wire.is_empty() {
                let one = packed_value(*scalar, &mut wire)?;
                read_value(&field.op, schema, one, items, depth)?;
            }
            Ok(())
        }
        (Op::Enum(_), Value::Bytes(packed)) => {
            let mut wire = Wire::new(packed);
            while !wire.is_empty() {
                let one = Value::Varint(wire.varint()?);
                read_value(&field.op, schema, one, items, depth)?;
            }
            Ok(())
        }
        _ => read_value(&field.op, schema, value, items, depth),
    }
}

fn packed_value<'a>(scalar: Scalar, wire: &mut Wire<'a>) -> Result<Value<'a>, String> {
    Ok(match scalar {
        Scalar::Double | Scalar::Fixed64 | Scalar::SFixed64 => Value::Fixed64(wire.fixed64()?),
        Scalar::Float | Scalar::Fixed32 | Scalar::SFixed32 => Value::Fixed32(wire.fixed32()?),
        _ => Value::Varint(wire.varint()?),
    })
}

/// Ends a column's value when the message is over: closes its list, or stands in for what was not there.
fn end_field(
    field: &FieldOp,
    column: &mut ColumnBuilder,
    row: usize,
    is_kept: bool,
    json: Option<String>,
) -> Result<(), String> {
    if let Op::Json(kind) = &field.op {
        let close = match (kind, field.repeated) {
            (Kind::Map(..), _) => "}",
            (_, true) => "]",
            _ => "",
        };
        return match json {
            Some(text) => column.append_text(&(text + close)),
            None if close == "}" => column.append_text("{}"),
            None if close == "]" => column.append_text("[]"),
            None => {
                if is_kept {
                    column.append_null();
                }
                Ok(())
            }
        };
    }
    if field.repeated {
        let Data::List { offsets, items, .. } = column.data_mut() else { return Err("an array".into()) };
        offsets.push(i32::try_from(items.len()).map_err(|_| "too many array elements in one batch")?);
        column.mark_valid();
        return Ok(());
    }
    if column.len() > row {
        return Ok(());
    }
    match &field.op {
        Op::Scalar(scalar) if !field.presence => append_scalar(*scalar, default_of(*scalar), column),
        Op::Enum(values) if !field.presence => append_enum(values, 0, column),
        _ => {
            if is_kept {
                column.append_null();
            }
            Ok(())
        }
    }
}

/// What a field is without presence that is not there.
fn default_of(scalar: Scalar) -> Value<'static> {
    match scalar {
        Scalar::String | Scalar::Bytes => Value::Bytes(&[]),
        Scalar::Double | Scalar::Fixed64 | Scalar::SFixed64 => Value::Fixed64(0),
        Scalar::Float | Scalar::Fixed32 | Scalar::SFixed32 => Value::Fixed32(0),
        _ => Value::Varint(0),
    }
}

fn read_value(
    op: &Op,
    schema: &Schema,
    value: Value<'_>,
    column: &mut ColumnBuilder,
    depth: usize,
) -> Result<(), String> {
    match (op, value) {
        (Op::Scalar(scalar), value) => append_scalar(*scalar, value, column),
        (Op::Enum(values), Value::Varint(n)) => append_enum(values, n as i32, column),
        (Op::Timestamp, Value::Bytes(message)) => {
            let (mut seconds, mut nanos) = (0i64, 0i64);
            let mut wire = Wire::new(message);
            while let Some((number, value)) = wire.field()? {
                match (number, value) {
                    (1, Value::Varint(n)) => seconds = n as i64,
                    (2, Value::Varint(n)) => nanos = i64::from(n as i32),
                    (1 | 2, _) => return Err("a timestamp of another layout".into()),
                    _ => {}
                }
            }
            let us = seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(nanos.div_euclid(1_000)));
            column.append_micros(us.ok_or_else(|| format!("{seconds} seconds are out of range of a timestamp"))?)
        }
        (Op::Wrapped(scalar), Value::Bytes(message)) => {
            let mut found = default_of(*scalar);
            let mut wire = Wire::new(message);
            while let Some((number, value)) = wire.field()? {
                if number == 1 {
                    found = value;
                }
            }
            append_scalar(*scalar, found, column)
        }
        (Op::Message(op), Value::Bytes(message)) => {
            let row = column.len();
            let Data::Record(record) = column.data_mut() else { return Err("a record".into()) };
            let kept = record.kept;
            record.columns[kept..].iter_mut().for_each(ColumnBuilder::clear);
            let mut members = Members { builders: &mut record.columns, kept, row, places: Some(&record.places) };
            read_message(op, schema, message, &mut members, depth + 1)?;
            column.mark_valid();
            Ok(())
        }
        _ => Err("the value has another layout than its type".into()),
    }
}

fn append_enum(values: &[(i32, Box<str>)], number: i32, column: &mut ColumnBuilder) -> Result<(), String> {
    match values.iter().find(|(n, _)| *n == number) {
        Some((_, name)) => column.append_text(name),
        // A number without a name is the number; of a column of numbers all are.
        None => column.append_integer(number.into()).or_else(|_| column.append_text(&number.to_string())),
    }
}

/// A whole number of a value.
fn integer_of(scalar: Scalar, value: Value<'_>) -> Option<i128> {
    Some(match (scalar, value) {
        (Scalar::Int64, Value::Varint(n)) => (n as i64).into(),
        (Scalar::Int32, Value::Varint(n)) => (n as i32).into(),
        (Scalar::UInt64, Value::Varint(n)) => n.into(),
        (Scalar::UInt32, Value::Varint(n)) => (n as u32).into(),
        (Scalar::SInt32 | Scalar::SInt64, Value::Varint(n)) => zigzag(n).into(),
        (Scalar::Fixed64, Value::Fixed64(n)) => n.into(),
        (Scalar::SFixed64, Value::Fixed64(n)) => (n as i64).into(),
        (Scalar::Fixed32, Value::Fixed32(n)) => n.into(),
        (Scalar::SFixed32, Value::Fixed32(n)) => (n as i32).into(),
        _ => return None,
    })
}

fn append_scalar(scalar: Scalar, value: Value<'_>, column: &mut ColumnBuilder) -> Result<(), String> {
    match (scalar, value) {
        (Scalar::Double, Value::Fixed64(bits)) => column.append_float(f64::from_bits(bits)),
        (Scalar::Float, Value::Fixed32(bits)) => column.append_float(f32::from_bits(bits).into()),
        (Scalar::Bool, Value::Varint(n)) => column.append_bool(n != 0),
        (Scalar::String, Value::Bytes(bytes)) => match column.data_mut() {
            Data::Bytea { .. } => column.append_bytes(bytes),
            _ => column.append_text(std::str::from_utf8(bytes).map_err(|_| "a string that is not valid UTF-8")?),
        },
        (Scalar::Bytes, Value::Bytes(bytes)) => column.append_bytes(bytes),
        (scalar, value) => match integer_of(scalar, value).map(|n| (n, i64::try_from(n))) {
            Some((_, Ok(n))) => column.append_integer(n),
            Some((n, Err(_))) => match column.data_mut() {
                Data::Numeric { .. } => column.append_decimal(n, 0),
                Data::Float4(_) | Data::Float8(_) => column.append_float(n as f64),
                _ => Err(format!("{n} is out of range of the column's type")),
            },
            None => Err(format!("the value has another layout than {}", scalar.word())),
        },
    }
}

/// Adds one occurrence of a field to the text of its column: the value, the next one of an array, or an entry of a map.
fn append_json(
    field: &FieldOp,
    kind: &Kind,
    schema: &Schema,
    value: Value<'_>,
    out: &mut String,
    depth: usize,
) -> Result<(), String> {
    let as_field =
        Field { name: String::new(), number: 0, kind: kind.clone(), repeated: field.repeated, presence: true };
    let mut one = Vec::new();
    json_values(&as_field, schema, value, &mut one, depth)?;
    let open = match (kind, field.repeated) {
        (Kind::Map(..), _) => "{",
        (_, true) => "[",
        _ => {
            out.clear();
            ""
        }
    };
    for text in one {
        out.push_str(if out.is_empty() { open } else { "," });
        out.push_str(&text);
    }
    Ok(())
}

/// The texts of one occurrence of a field: several of one that is packed.
fn json_values(
    field: &Field,
    schema: &Schema,
    value: Value<'_>,
    out: &mut Vec<String>,
    depth: usize,
) -> Result<(), String> {
    if let (true, Kind::Scalar(scalar), Value::Bytes(packed)) = (field.repeated, &field.kind, value)
        && !matches!(scalar, Scalar::String | Scalar::Bytes)
    {
        let mut wire = Wire::new(packed);
        while !wire.is_empty() {
            let one = packed_value(*scalar, &mut wire)?;
            out.push(json_value(&field.kind, schema, one, depth)?);
        }
        return Ok(());
    }
    out.push(json_value(&field.kind, schema, value, depth)?);
    Ok(())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A value as JSON; of a map one entry.
fn json_value(kind: &Kind, schema: &Schema, value: Value<'_>, depth: usize) -> Result<String, String> {
    use base64::Engine;
    if depth > DEPTH_MAX {
        return Err("messages nested too deeply".into());
    }
    Ok(match (kind, value) {
        (Kind::Scalar(scalar), value) => match (scalar, value) {
            (Scalar::Double, Value::Fixed64(bits)) => serde_json::Value::from(f64::from_bits(bits)).to_string(),
            (Scalar::Float, Value::Fixed32(bits)) => serde_json::Value::from(f32::from_bits(bits)).to_string(),
            (Scalar::Bool, Value::Varint(n)) => (n != 0).to_string(),
            (Scalar::String, Value::Bytes(bytes)) => {
                quoted(std::str::from_utf8(bytes).map_err(|_| "a string that is not valid UTF-8")?)
            }
            (Scalar::Bytes, Value::Bytes(bytes)) => quoted(&base64::prelude::BASE64_STANDARD.encode(bytes)),
            (scalar, value) => {
                let n = integer_of(*scalar, value);
                n.ok_or_else(|| format!("the value has another layout than {}", scalar.word()))?.to_string()
            }
        },
        (Kind::Enum(at), Value::Varint(n)) => {
            let found = schema.enums[*at].values.iter().find(|(v, _)| *v == n as i32);
            found.map_or_else(|| (n as i32).to_string(), |(_, name)| quoted(name))
        }
        (Kind::Message(at), Value::Bytes(bytes)) => {
            // Each field's texts, in the order in which the fields first come.
            let mut texts: Vec<(&Field, Vec<String>)> = Vec::new();
            let mut wire = Wire::new(bytes);
            while let Some((number, value)) = wire.field()? {
                let Some(field) = schema.messages[*at].fields.iter().find(|f| f.number == number) else { continue };
                let i = texts.iter().position(|(f, _)| f.number == number).unwrap_or_else(|| {
                    texts.push((field, Vec::new()));
                    texts.len() - 1
                });
                if !field.repeated && !matches!(field.kind, Kind::Map(..)) {
                    texts[i].1.clear();
                }
                json_values(field, schema, value, &mut texts[i].1, depth + 1)?;
            }
            let members = texts.into_iter().map(|(field, values)| {
                let values = values.join(",");
                let name = quoted(&field.name);
                match (&field.kind, field.repeated) {
                    (Kind::Map(..), _) => format!("{name}:{{{values}}}"),
                    (_, true) => format!("{name}:[{values}]"),
                    _ => format!("{name}:{values}"),
                }
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        (Kind::Map(key_kind, value_kind), Value::Bytes(entry)) => {
            let (mut key, mut of) = (None, None);
            let mut wire = Wire::new(entry);
            while let Some((number, value)) = wire.field()? {
                match number {
                    1 => key = Some(json_value(&Kind::Scalar(*key_kind), schema, value, depth + 1)?),
                    2 => of = Some(json_value(value_kind, schema, value, depth + 1)?),
                    _ => {}
                }
            }
            let default = |kind: &Kind| match kind {
                Kind::Scalar(scalar) => json_value(kind, schema, default_of(*scalar), depth + 1),
                Kind::Enum(_) => json_value(kind, schema, Value::Varint(0), depth + 1),
                _ => Ok("{}".into()),
            };
            let key = key.map_or_else(|| default(&Kind::Scalar(*key_kind)), Ok)?;
            let of = of.map_or_else(|| default(value_kind), Ok)?;
            // Names in JSON are strings, whatever the key is.
            let key = if key.starts_with('"') { key } else { quoted(&key) };
            format!("{key}:{of}")
        }
        _ => return Err("the value has another layout than its type".into()),
    })
}
