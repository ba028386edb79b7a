//! Data in Avro straight into column builders, by a plan.

use super::input::{DEPTH_MAX, Input};
use super::plan::{FieldOp, Missing, Op, RecordOp};
use super::schema::{NamedKind, Schema, Type};
use crate::format::column::{ColumnBuilder, Data};

/// Appends a row: each field to its column, defaults and NULL to those that have none. Of the builders the first `kept` keep
/// their values; `places` says where among them each column is that the plan numbers.
///
/// # Errors
/// What is wrong and where; columns may then have a value more, which the caller truncates.
pub(super) fn read_record(
    op: &RecordOp,
    schema: &Schema,
    input: &mut Input<'_>,
    builders: &mut [ColumnBuilder],
    kept: usize,
    places: Option<&[usize]>,
) -> Result<(), String> {
    let place = |at: usize| places.map_or(at, |places| places[at]);
    for field in &op.fields {
        match field {
            FieldOp::Skip(t) => input.skip(schema, t, 0)?,
            FieldOp::Read { at, name, op } => {
                read_value(op, schema, input, &mut builders[place(*at)]).map_err(|e| located(e, name))?;
            }
        }
    }
    for Missing { at, default } in &op.missing {
        let at = place(*at);
        match default {
            Some((data, op, schema)) => read_value(op, schema, &mut Input::new(data), &mut builders[at])?,
            None if at < kept => builders[at].append_null(),
            None => {}
        }
    }
    Ok(())
}

/// Names the column in an error that does not say where in the data it is.
#[cold]
fn located(error: String, name: &str) -> String {
    match error.starts_with("invalid Avro") {
        true => error,
        false => format!("column \"{name}\": {error}"),
    }
}

/// Appends one value to a column.
///
/// # Errors
/// As [`read_record`].
pub(super) fn read_value(
    op: &Op,
    schema: &Schema,
    input: &mut Input<'_>,
    column: &mut ColumnBuilder,
) -> Result<(), String> {
    match op {
        Op::Null => column.append_null(),
        Op::Boolean => column.append_bool(input.boolean()?)?,
        Op::Int => column.append_integer(input.int()?.into())?,
        Op::Long => column.append_integer(input.long()?)?,
        Op::Days => column.append_days(input.int()?)?,
        Op::Time { int, per_second } => {
            let value = if *int { input.int()?.into() } else { input.long()? };
            column.append_micros(micros(value, *per_second)?)?;
        }
        Op::Timestamp { per_second } => column.append_micros(micros(input.long()?, *per_second)?)?,
        Op::Float => column.append_float(input.float()?.into())?,
        Op::Double => column.append_float(input.double()?)?,
        Op::Bytes => column.append_bytes(input.bytes()?)?,
        Op::Text => column.append_text(input.text()?)?,
        Op::Decimal { scale } => append_decimal(column, input.bytes()?, *scale)?,
        Op::FixedDecimal { size, scale } => append_decimal(column, input.take(*size)?, *scale)?,
        Op::Fixed(size) => column.append_bytes(input.take(*size)?)?,
        Op::FixedUuid => {
            let mut uuid = [0; 16];
            uuid.copy_from_slice(input.take(16)?);
            column.append_uuid(uuid)?;
        }
        Op::Enum(symbols) => {
            let symbol = input.index(symbols.len(), "symbol")?;
            column.append_text(&symbols[symbol])?;
        }
        Op::Union(branches) => {
            let branch = input.index(branches.len(), "branch")?;
            read_value(&branches[branch], schema, input, column)?;
        }
        Op::List(item) => {
            let Data::List { offsets, items, .. } = column.data_mut() else { return Err("an array".into()) };
            while let Some(count) = input.block()? {
                for _ in 0..count {
                    read_value(item, schema, input, items)?;
                }
            }
            offsets.push(i32::try_from(items.len()).map_err(|_| "too many array elements in one batch")?);
            column.mark_valid();
        }
        Op::Record(op) => {
            let Data::Record(record) = column.data_mut() else { return Err("a record".into()) };
            let kept = record.kept;
            record.columns[kept..].iter_mut().for_each(ColumnBuilder::clear);
            read_record(op, schema, input, &mut record.columns, kept, Some(&record.places))?;
            column.mark_valid();
        }
        Op::Json(t) => {
            let mut text = String::new();
            write_json(schema, t, input, &mut text, 0)?;
            match text.as_str() {
                "null" => column.append_null(),
                text => column.append_text(text)?,
            }
        }
    }
    Ok(())
}

/// Microseconds of a number of units; what is smaller than one is cut off.
fn micros(value: i64, per_second: i64) -> Result<i64, String> {
    match per_second {
        1_000_000 => Ok(value),
        1_000 => {
            value.checked_mul(1_000).ok_or_else(|| format!("{value} milliseconds are out of range of a timestamp"))
        }
        _ => Ok(value.div_euclid(1_000)),
    }
}

/// Appends a decimal of big-endian two's complement bytes.
fn append_decimal(column: &mut ColumnBuilder, bytes: &[u8], scale: u32) -> Result<(), String> {
    let unscaled = decimal_of(bytes).ok_or("a decimal of more than 38 digits")?;
    let scale = i8::try_from(scale).map_err(|_| "a decimal of more than 127 digits behind the point")?;
    column.append_decimal(unscaled, scale)
}

/// The number of big-endian two's complement bytes, if 16 hold it.
fn decimal_of(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let (head, tail) = bytes.split_at(bytes.len().saturating_sub(16));
    if head.iter().any(|b| *b != fill) || !head.is_empty() && (tail[0] & 0x80 != 0) != negative {
        return None;
    }
    let mut out = [fill; 16];
    out[16 - tail.len()..].copy_from_slice(tail);
    Some(i128::from_be_bytes(out))
}

/// Appends any value as JSON: bytes in base64, numbers of times as numbers, decimals with their digits.
fn write_json(schema: &Schema, t: &Type, input: &mut Input<'_>, out: &mut String, depth: usize) -> Result<(), String> {
    use base64::Engine;
    use std::fmt::Write;
    if depth > DEPTH_MAX {
        return input.error("values nested too deeply");
    }
    let quoted = |text: &str, out: &mut String| out.push_str(&serde_json::Value::from(text).to_string());
    let base64 = |bytes: &[u8]| base64::prelude::BASE64_STANDARD.encode(bytes);
    let decimal = |bytes: &[u8], scale: u32, out: &mut String| {
        let unscaled = decimal_of(bytes).ok_or("a decimal of more than 38 digits")?;
        let mut text = Vec::new();
        crate::format::number::write_decimal(unscaled, i8::try_from(scale).unwrap_or(i8::MAX), false, &mut text);
        out.push_str(&String::from_utf8_lossy(&text));
        Ok::<_, String>(())
    };
    match t {
        Type::Null => out.push_str("null"),
        Type::Boolean => out.push_str(if input.boolean()? { "true" } else { "false" }),
        // Writing to a String cannot fail.
        Type::Int(_) => drop(write!(out, "{}", input.int()?)),
        Type::Long(_) => drop(write!(out, "{}", input.long()?)),
        Type::Float => out.push_str(&serde_json::Value::from(input.float()?).to_string()),
        Type::Double => out.push_str(&serde_json::Value::from(input.double()?).to_string()),
        Type::Bytes(None) => quoted(&base64(input.bytes()?), out),
        Type::Bytes(Some(d)) => decimal(input.bytes()?, d.scale, out)?,
        Type::String { .. } => quoted(input.text()?, out),
        Type::Array(item) => {
            out.push('[');
            let mut first = true;
            while let Some(count) = input.block()? {
                for _ in 0..count {
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    write_json(schema, item, input, out, depth + 1)?;
                }
            }
            out.push(']');
        }
        Type::Map(value) => {
            out.push('{');
            let mut first = true;
            while let Some(count) = input.block()? {
                for _ in 0..count {
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    quoted(input.text()?, out);
                    out.push(':');
                    write_json(schema, value, input, out, depth + 1)?;
                }
            }
            out.push('}');
        }
        Type::Union(branches) => {
            let branch = input.index(branches.len(), "branch")?;
            write_json(schema, &branches[branch], input, out, depth + 1)?;
        }
        Type::Named(i) => match &schema.names[*i].kind {
            NamedKind::Record(fields) => {
                out.push('{');
                for (i, field) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    quoted(&field.name, out);
                    out.push(':');
                    write_json(schema, &field.field_type, input, out, depth + 1)?;
                }
                out.push('}');
            }
            NamedKind::Enum { symbols, .. } => {
                let symbol = input.index(symbols.len(), "symbol")?;
                quoted(&symbols[symbol], out);
            }
            NamedKind::Fixed { size, decimal: Some(d), .. } => decimal(input.take(*size)?, d.scale, out)?,
            NamedKind::Fixed { size, .. } => quoted(&base64(input.take(*size)?), out),
            NamedKind::Open => return input.error("a type that is not complete"),
        },
    }
    Ok(())
}
