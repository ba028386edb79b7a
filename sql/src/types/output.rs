//! A value as text, as PostgreSQL prints it in `::text`, in `||` and on the wire.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, StringViewBuilder};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use millstream_catalog::SqlType;
use millstream_catalog::types::UNCONSTRAINED_SCALE;

use super::interval;
use super::time::{MICROS_PER_DAY, MICROS_PER_SECOND, Zone, civil_from_days};
use crate::error::{Result, SqlError};

/// All values of an array whose field is `field` as text; `zone` applies to timestamptz.
///
/// # Errors
/// 0A000 for layouts that no SQL type has, 22023 for an unknown zone.
pub fn to_text(array: &ArrayRef, field: &Field, zone: &str) -> Result<StringViewArray> {
    let sql_type = SqlType::of(field)
        .ok_or_else(|| SqlError::unsupported(format!("values of type {} as text", field.data_type())))?;
    let array = if *array.data_type() == sql_type.arrow_type() {
        array.clone()
    } else {
        arrow::compute::cast(array, &sql_type.arrow_type())?
    };
    let zone = Zone::new(zone)?;
    let mut builder = StringViewBuilder::with_capacity(array.len());
    let mut text = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            builder.append_null();
            continue;
        }
        text.clear();
        write_value(&array, row, &sql_type, &zone, &mut text)?;
        builder.append_value(&text);
    }
    Ok(builder.finish())
}

/// Appends one value that is not NULL.
fn write_value(array: &ArrayRef, row: usize, sql_type: &SqlType, zone: &Zone, out: &mut String) -> Result<()> {
    match sql_type {
        SqlType::Bool => out.push_str(if array.as_boolean().value(row) { "true" } else { "false" }),
        SqlType::Int2 => _ = write!(out, "{}", array.as_primitive::<Int16Type>().value(row)),
        SqlType::Int4 => _ = write!(out, "{}", array.as_primitive::<Int32Type>().value(row)),
        SqlType::Int8 => _ = write!(out, "{}", array.as_primitive::<Int64Type>().value(row)),
        SqlType::Oid => _ = write!(out, "{}", array.as_primitive::<UInt32Type>().value(row)),
        SqlType::Float4 => {
            let v = array.as_primitive::<Float32Type>().value(row);
            float(&format!("{v:e}"), f64::from(v), 6, out);
        }
        SqlType::Float8 => {
            let v = array.as_primitive::<Float64Type>().value(row);
            float(&format!("{v:e}"), v, 15, out);
        }
        SqlType::Numeric(typmod) => {
            let v = array.as_primitive::<Decimal128Type>().value(row);
            match typmod {
                Some((_, scale)) => decimal(v, *scale, out),
                None => {
                    decimal(v, UNCONSTRAINED_SCALE, out);
                    let trimmed = out.trim_end_matches('0').trim_end_matches('.').len();
                    out.truncate(trimmed);
                }
            }
        }
        SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::Json
        | SqlType::Jsonb
        | SqlType::Name
        | SqlType::InternalChar => out.push_str(array.as_string_view().value(row)),
        SqlType::Bytea => {
            out.push_str("\\x");
            for byte in array.as_binary::<i32>().value(row) {
                let _ = write!(out, "{byte:02x}");
            }
        }
        SqlType::Uuid => {
            for (i, byte) in array.as_fixed_size_binary().value(row).iter().enumerate() {
                if matches!(i, 4 | 6 | 8 | 10) {
                    out.push('-');
                }
                let _ = write!(out, "{byte:02x}");
            }
        }
        SqlType::Date => date(i64::from(array.as_primitive::<Date32Type>().value(row)), out),
        SqlType::Time => time(array.as_primitive::<Time64MicrosecondType>().value(row), out),
        SqlType::Timestamp => timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row), out),
        SqlType::Timestamptz => {
            let utc = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let (local, offset) = zone.to_local(utc).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?;
            timestamp(local, out);
            let abs = offset.unsigned_abs();
            let _ = write!(out, "{}{:02}", if offset < 0 { '-' } else { '+' }, abs / 3600);
            if abs % 3600 != 0 {
                let _ = write!(out, ":{:02}", abs / 60 % 60);
            }
            if abs % 60 != 0 {
                let _ = write!(out, ":{:02}", abs % 60);
            }
        }
        SqlType::Interval => interval::format(array.as_primitive::<IntervalMonthDayNanoType>().value(row), out),
        SqlType::Array(item) => {
            let items = array.as_list::<i32>().value(row);
            list(&items, item, zone, out)?;
        }
        SqlType::Record(fields) => {
            let record = array.as_struct();
            out.push('(');
            for (i, (column, (_, t))) in record.columns().iter().zip(fields).enumerate() {
                if i > 0 {
                    out.push(',');
                }
                if !column.is_null(row) {
                    let mut item = String::new();
                    write_value(column, row, t, zone, &mut item)?;
                    quoted(&item, &[',', '(', ')', '"', '\\'], out);
                }
            }
            out.push(')');
        }
    }
    Ok(())
}

fn list(items: &ArrayRef, item_type: &SqlType, zone: &Zone, out: &mut String) -> Result<()> {
    out.push('{');
    for i in 0..items.len() {
        if i > 0 {
            out.push(',');
        }
        if items.is_null(i) {
            out.push_str("NULL");
        } else if matches!(items.data_type(), DataType::List(_)) {
            write_value(items, i, item_type, zone, out)?;
        } else {
            let mut item = String::new();
            write_value(items, i, item_type, zone, &mut item)?;
            if item.eq_ignore_ascii_case("null") {
                let _ = write!(out, "\"{item}\"");
            } else {
                quoted(&item, &[',', '{', '}', '"', '\\'], out);
            }
        }
    }
    out.push('}');
    Ok(())
}

/// In quotes if it is empty or holds space or one of `special`.
fn quoted(item: &str, special: &[char], out: &mut String) {
    if !item.is_empty() && !item.contains(|c: char| special.contains(&c) || c.is_whitespace()) {
        out.push_str(item);
        return;
    }
    out.push('"');
    for c in item.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// The shortest digits that read back the same, with an exponent where PostgreSQL prints one.
fn float(scientific: &str, value: f64, digits_max: i32, out: &mut String) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= digits_max {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
        return;
    }
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    out.push_str(sign);
    let point = exponent + 1;
    if point <= 0 {
        out.push_str("0.");
        (0..-point).for_each(|_| out.push('0'));
        out.push_str(&digits);
    } else if digits.len() as i32 <= point {
        out.push_str(&digits);
        (0..point - digits.len() as i32).for_each(|_| out.push('0'));
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        let _ = write!(out, "{whole}.{fraction}");
    }
}

fn decimal(value: i128, scale: i8, out: &mut String) {
    let scale = scale.max(0) as usize;
    let digits = value.unsigned_abs().to_string();
    if value < 0 {
        out.push('-');
    }
    if scale == 0 {
        out.push_str(&digits);
    } else if digits.len() > scale {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let _ = write!(out, "{whole}.{fraction}");
    } else {
        let _ = write!(out, "0.{digits:0>scale$}");
    }
}

fn date(days: i64, out: &mut String) {
    let (year, month, day) = civil_from_days(days);
    if year > 0 {
        let _ = write!(out, "{year:04}-{month:02}-{day:02}");
    } else {
        let _ = write!(out, "{:04}-{month:02}-{day:02} BC", 1 - year);
    }
}

fn time(micros: i64, out: &mut String) {
    let seconds = micros / MICROS_PER_SECOND;
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    fraction((micros % MICROS_PER_SECOND) as u32, out);
}

fn timestamp(micros: i64, out: &mut String) {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let (year, month, day) = civil_from_days(days);
    let bc = year <= 0;
    let _ = write!(out, "{:04}-{month:02}-{day:02} ", if bc { 1 - year } else { year });
    time(micros.rem_euclid(MICROS_PER_DAY), out);
    if bc {
        out.push_str(" BC");
    }
}

/// `.ffffff` without the zeros at its end.
pub(crate) fn fraction(micros: u32, out: &mut String) {
    if micros > 0 {
        let _ = write!(out, ".{micros:06}");
        out.truncate(out.trim_end_matches('0').len());
    }
}
