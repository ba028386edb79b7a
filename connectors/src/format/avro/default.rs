//! A field's default, given in JSON, as data (Avro specification 1.12, "Complex Types", table of default values).

use serde_json::Value;

use super::encode::write_long;
use super::schema::{NamedKind, Schema, Type};

/// Appends a default as data of its type.
///
/// # Errors
/// If it is no value of the type.
pub(super) fn encode_default(schema: &Schema, t: &Type, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || format!("default {value} is no value of {}", schema.describe(t));
    match t {
        Type::Null if value.is_null() => {}
        Type::Boolean => out.push(u8::from(value.as_bool().ok_or_else(wrong)?)),
        Type::Int(_) | Type::Long(_) => write_long(value.as_i64().ok_or_else(wrong)?, out),
        Type::Float => out.extend_from_slice(&(value.as_f64().ok_or_else(wrong)? as f32).to_le_bytes()),
        Type::Double => out.extend_from_slice(&value.as_f64().ok_or_else(wrong)?.to_le_bytes()),
        Type::String { .. } => {
            let text = value.as_str().ok_or_else(wrong)?;
            write_long(text.len() as i64, out);
            out.extend_from_slice(text.as_bytes());
        }
        Type::Bytes(_) => {
            let bytes = latin1(value.as_str().ok_or_else(wrong)?).ok_or_else(wrong)?;
            write_long(bytes.len() as i64, out);
            out.extend_from_slice(&bytes);
        }
        Type::Array(item) => {
            let items = value.as_array().ok_or_else(wrong)?;
            if !items.is_empty() {
                write_long(items.len() as i64, out);
                items.iter().try_for_each(|v| encode_default(schema, item, v, out))?;
            }
            out.push(0);
        }
        Type::Map(of) => {
            let entries = value.as_object().ok_or_else(wrong)?;
            if !entries.is_empty() {
                write_long(entries.len() as i64, out);
                for (name, v) in entries {
                    write_long(name.len() as i64, out);
                    out.extend_from_slice(name.as_bytes());
                    encode_default(schema, of, v, out)?;
                }
            }
            out.push(0);
        }
        Type::Union(branches) => {
            // Of the first branch by the specification; newer ones take any.
            let start = out.len();
            for (i, branch) in branches.iter().enumerate() {
                write_long(i as i64, out);
                if encode_default(schema, branch, value, out).is_ok() {
                    return Ok(());
                }
                out.truncate(start);
            }
            return Err(wrong());
        }
        Type::Named(i) => match &schema.names[*i].kind {
            NamedKind::Record(fields) => {
                for field in fields {
                    let given = value.get(&field.name).or(field.default.as_ref()).ok_or_else(wrong)?;
                    encode_default(schema, &field.field_type, given, out)?;
                }
            }
            NamedKind::Enum { symbols, .. } => {
                let symbol = value.as_str().and_then(|v| symbols.iter().position(|s| **s == *v)).ok_or_else(wrong)?;
                write_long(symbol as i64, out);
            }
            NamedKind::Fixed { size, .. } => {
                let bytes = value.as_str().and_then(latin1).filter(|b| b.len() == *size).ok_or_else(wrong)?;
                out.extend_from_slice(&bytes);
            }
            NamedKind::Open => return Err(wrong()),
        },
        Type::Null => return Err(wrong()),
    }
    Ok(())
}

/// Bytes as defaults write them: each a character of that number.
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
