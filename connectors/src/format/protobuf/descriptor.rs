//! A `FileDescriptorSet`, as `protoc --descriptor_set_out` writes it (google/protobuf/descriptor.proto).

use super::schema::{RawEnum, RawField, RawFile, RawKind, RawMessage, Scalar};
use super::wire::{Value, Wire};

/// The files of a set, in its order.
///
/// # Errors
/// If the bytes are none.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<RawFile>, String> {
    let mut files = Vec::new();
    each(bytes, |number, value| {
        if let (1, Value::Bytes(bytes)) = (number, value) {
            files.push(file(bytes)?);
        }
        Ok(())
    })
    .map_err(|e| format!("the file is neither a text nor a FileDescriptorSet: {e}"))?;
    match files.is_empty() {
        true => Err("the FileDescriptorSet has no files".into()),
        false => Ok(files),
    }
}

fn each<'a>(bytes: &'a [u8], mut one: impl FnMut(u32, Value<'a>) -> Result<(), String>) -> Result<(), String> {
    let mut wire = Wire::new(bytes);
    while let Some((number, value)) = wire.field()? {
        one(number, value)?;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a name is not valid UTF-8".into())
}

fn file(bytes: &[u8]) -> Result<RawFile, String> {
    let mut file = RawFile::default();
    let mut is_proto3 = false;
    each(bytes, |number, value| {
        match (number, value) {
            (2, Value::Bytes(b)) => file.package = text(b)?,
            (12, Value::Bytes(b)) => is_proto3 = b == b"proto3",
            _ => {}
        }
        Ok(())
    })?;
    each(bytes, |number, value| {
        match (number, value) {
            (4, Value::Bytes(b)) => file.messages.push(message(b, is_proto3, 0)?),
            (5, Value::Bytes(b)) => file.enums.push(enumeration(b)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(file)
}

fn message(bytes: &[u8], is_proto3: bool, depth: usize) -> Result<RawMessage, String> {
    if depth > 64 {
        return Err("messages nested too deeply".into());
    }
    let mut message = RawMessage::default();
    each(bytes, |number, value| {
        match (number, value) {
            (1, Value::Bytes(b)) => message.name = text(b)?,
            (2, Value::Bytes(b)) => message.fields.push(field(b, is_proto3)?),
            (3, Value::Bytes(b)) => message.messages.push(self::message(b, is_proto3, depth + 1)?),
            (4, Value::Bytes(b)) => message.enums.push(enumeration(b)?),
            (7, Value::Bytes(b)) => each(b, |number, value| {
                message.is_map_entry |= matches!((number, value), (7, Value::Varint(1)));
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(message)
}

fn enumeration(bytes: &[u8]) -> Result<RawEnum, String> {
    let mut e = RawEnum::default();
    each(bytes, |number, value| {
        match (number, value) {
            (1, Value::Bytes(b)) => e.name = text(b)?,
            (2, Value::Bytes(b)) => {
                let (mut name, mut of) = (String::new(), 0);
                each(b, |number, value| {
                    match (number, value) {
                        (1, Value::Bytes(b)) => name = text(b)?,
                        (2, Value::Varint(n)) => of = n as i32,
                        _ => {}
                    }
                    Ok(())
                })?;
                e.values.push((of, name.into()));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(e)
}

fn field(bytes: &[u8], is_proto3: bool) -> Result<RawField, String> {
    let (mut name, mut number_of, mut type_name) = (String::new(), 0, String::new());
    let (mut label, mut type_of, mut in_oneof) = (1, 0, false);
    each(bytes, |number, value| {
        match (number, value) {
            (1, Value::Bytes(b)) => name = text(b)?,
            (3, Value::Varint(n)) => number_of = u32::try_from(n).map_err(|_| "a field's number is out of range")?,
            (4, Value::Varint(n)) => label = n,
            (5, Value::Varint(n)) => type_of = n,
            (6, Value::Bytes(b)) => type_name = text(b)?,
            // An optional field of proto3 is in a oneof of its own.
            (9, Value::Varint(_)) => in_oneof = true,
            _ => {}
        }
        Ok(())
    })?;
    let kind = match type_of {
        1 => RawKind::Scalar(Scalar::Double),
        2 => RawKind::Scalar(Scalar::Float),
        3 => RawKind::Scalar(Scalar::Int64),
        4 => RawKind::Scalar(Scalar::UInt64),
        5 => RawKind::Scalar(Scalar::Int32),
        6 => RawKind::Scalar(Scalar::Fixed64),
        7 => RawKind::Scalar(Scalar::Fixed32),
        8 => RawKind::Scalar(Scalar::Bool),
        9 => RawKind::Scalar(Scalar::String),
        11 | 14 => RawKind::Named(type_name),
        12 => RawKind::Scalar(Scalar::Bytes),
        13 => RawKind::Scalar(Scalar::UInt32),
        15 => RawKind::Scalar(Scalar::SFixed32),
        16 => RawKind::Scalar(Scalar::SFixed64),
        17 => RawKind::Scalar(Scalar::SInt32),
        18 => RawKind::Scalar(Scalar::SInt64),
        10 => return Err(format!("field \"{name}\": groups are not supported")),
        other => return Err(format!("field \"{name}\" has the unknown type {other}")),
    };
    let repeated = label == 3;
    Ok(RawField { name, number: number_of, kind, repeated, presence: !repeated && (!is_proto3 || in_oneof) })
}
