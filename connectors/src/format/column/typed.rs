//! Values of a type of their own, as binary formats have them, and the headers of a record.

use super::text::push_text;
use super::{ColumnBuilder, Data};
use crate::format::{Header, datetime, json, number};

impl ColumnBuilder {
    /// Appends an integer to a column of numbers.
    ///
    /// # Errors
    /// If it is out of range of the column's type, or that is no number.
    pub fn append_integer(&mut self, value: i64) -> Result<(), String> {
        let out = |t: &str| format!("{value} as {t}: out of range");
        match &mut self.data {
            Data::Int2(v) => v.push(i16::try_from(value).map_err(|_| out("smallint"))?),
            Data::Int4(v) => v.push(i32::try_from(value).map_err(|_| out("integer"))?),
            Data::Int8(v) => v.push(value),
            Data::Oid(v) => v.push(u32::try_from(value).map_err(|_| out("oid"))?),
            Data::Float4(v) => v.push(value as f32),
            Data::Float8(v) => v.push(value as f64),
            Data::Numeric { .. } => return self.append_decimal(value.into(), 0),
            _ => return Err(format!("{value} is an integer")),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends a float to a column of them.
    ///
    /// # Errors
    /// If it is out of range of the column's type, or that is no float.
    pub fn append_float(&mut self, value: f64) -> Result<(), String> {
        match &mut self.data {
            Data::Float8(v) => v.push(value),
            Data::Float4(v) => {
                let narrow = value as f32;
                if value.is_finite() && !narrow.is_finite() {
                    return Err(format!("{value:?} as real: out of range"));
                }
                v.push(narrow);
            }
            _ => return Err(format!("{value:?} is a float")),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends `unscaled` times ten to the power of minus `scale` to a column of decimals; a digit that would be lost is an
    /// error.
    ///
    /// # Errors
    /// If it does not fit, or the column is of another type.
    pub fn append_decimal(&mut self, unscaled: i128, scale: i8) -> Result<(), String> {
        let mut text = Vec::new();
        let Data::Numeric { values, scale: own, precision, .. } = &mut self.data else {
            number::write_decimal(unscaled, scale, false, &mut text);
            return Err(format!("{} is a decimal", String::from_utf8_lossy(&text)));
        };
        // Mostly the scales are the same and nothing is to be done.
        if *own == scale && unscaled.unsigned_abs() < 10u128.pow(u32::from(*precision)) {
            values.push(unscaled);
            self.mark_valid();
            return Ok(());
        }
        number::write_decimal(unscaled, scale, false, &mut text);
        self.append_number(&text)
    }

    /// Appends a boolean.
    ///
    /// # Errors
    /// If the column is of another type.
    pub fn append_bool(&mut self, value: bool) -> Result<(), String> {
        let Data::Bool(v) = &mut self.data else { return Err(format!("{value} is a boolean")) };
        v.append(value);
        self.mark_valid();
        Ok(())
    }

    /// Appends days since 1970.
    ///
    /// # Errors
    /// If the column is no date.
    pub fn append_days(&mut self, days: i32) -> Result<(), String> {
        let Data::Date(v) = &mut self.data else { return Err("a date".into()) };
        v.push(days);
        self.mark_valid();
        Ok(())
    }

    /// Appends microseconds: since 1970 to a timestamp, of the day to a time.
    ///
    /// # Errors
    /// If they are more than a day has, or the column is of another type.
    pub fn append_micros(&mut self, us: i64) -> Result<(), String> {
        match &mut self.data {
            Data::Timestamp { values, .. } => values.push(us),
            Data::Time { values, .. } if (0..datetime::DAY_US).contains(&us) => values.push(us),
            Data::Time { .. } => return Err(format!("{us} microseconds as time: out of range")),
            _ => return Err(format!("{us} microseconds are a time")),
        }
        self.mark_valid();
        Ok(())
    }

    /// Appends a moment in milliseconds since 1970.
    ///
    /// # Errors
    /// If it is out of range of microseconds, or the column is no timestamp.
    pub fn append_epoch_ms(&mut self, ms: i64) -> Result<(), String> {
        let us = ms.checked_mul(1000).ok_or_else(|| format!("{ms} is out of range of a timestamp in milliseconds"))?;
        self.append_micros(us)
    }

    /// Appends the 16 bytes of a uuid.
    ///
    /// # Errors
    /// If the column is of another type.
    pub fn append_uuid(&mut self, bytes: [u8; 16]) -> Result<(), String> {
        let Data::Uuid(v) = &mut self.data else { return Err("a uuid".into()) };
        v.extend_from_slice(&bytes);
        self.mark_valid();
        Ok(())
    }

    /// Appends a record's headers: as JSON `[{"key": …, "value": …}]` with a value that is no text as
    /// `{"key": …, "base64": …}`, or as a list of records (text, bytea).
    pub fn append_headers(&mut self, headers: &[Header<'_>]) {
        match &mut self.data {
            Data::List { offsets, items, .. } => {
                for (name, value) in headers {
                    if let Data::Record(record) = &mut items.data
                        && let [names, values] = record.columns.as_mut_slice()
                    {
                        // Text takes every name, bytea every value.
                        if names.append_text(name).is_err() {
                            names.append_null();
                        }
                        match value {
                            Some(value) if values.append_bytes(value).is_ok() => {}
                            _ => values.append_null(),
                        }
                        items.mark_valid();
                    }
                }
                offsets.push(items.len() as i32);
            }
            Data::Text { views, long, rule } => {
                let mut text = Vec::new();
                json::write_headers(headers, &mut text);
                if push_text(views, long, *rule, &String::from_utf8_lossy(&text)).is_err() {
                    return self.append_null();
                }
            }
            _ => return self.append_null(),
        }
        self.mark_valid();
    }
}
