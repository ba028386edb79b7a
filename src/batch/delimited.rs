//! PostgreSQL's `text` and `csv` formats: COPY's options, and rows as lines for COPY … TO.
//!
//! [`super::lines`] reads what is written here.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Schema};
use millstream_sql::types::to_text;

use crate::error::{Error, Result, sqlstate};

/// How lines are written and read. Delimiter, quote and escape are ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delimited {
    pub csv: bool,
    pub header: Header,
    pub delimiter: char,
    pub null: String,
    pub quote: char,
    /// What stands before a quote inside of quotes.
    pub escape: char,
}

/// Whether there is a first line of column names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    None,
    Present,
    /// It is there, and must name the columns that are read.
    Match,
}

impl Delimited {
    /// Reads COPY's format and its other options; `command` is for messages.
    ///
    /// # Errors
    /// 0A000 for another format, 22023 for unknown options and for values that an option cannot have.
    pub fn new(command: &str, format: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let csv = match format {
            "text" => false,
            "csv" => true,
            other => {
                return Err(Error::unsupported(format!("{command} in format {other} is not supported"))
                    .with_hint("the formats are text and csv"));
            }
        };
        let (delimiter, null) = if csv { (',', "") } else { ('\t', "\\N") };
        let mut found = Self { csv, header: Header::None, delimiter, null: null.into(), quote: '"', escape: '"' };
        for (key, value) in options {
            let invalid = |hint: &str| {
                let message = format!("invalid value \"{value}\" for COPY option \"{key}\"");
                Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(hint)
            };
            let character = || {
                let mut chars = value.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) if c.is_ascii() && !matches!(c, '\n' | '\r' | '\\') => Ok(c),
                    _ => Err(invalid("it is a single one-byte character")),
                }
            };
            match key.as_str() {
                "header" => {
                    found.header = match value.as_str() {
                        "true" | "on" | "1" => Header::Present,
                        "false" | "off" | "0" => Header::None,
                        "match" => Header::Match,
                        _ => return Err(invalid("it is true, false or match")),
                    }
                }
                "delimiter" => found.delimiter = character()?,
                "null" if value.contains(['\n', '\r']) => return Err(invalid("it is a text without line breaks")),
                "null" => found.null = value.clone(),
                "quote" if csv => found.quote = character()?,
                "escape" if csv => {}
                "encoding" if value.replace('-', "").eq_ignore_ascii_case("utf8") => {}
                "encoding" => return Err(invalid("the encoding is UTF8")),
                _ => {
                    let message = format!("unknown option \"{key}\" of COPY in format {format}");
                    return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint(
                        "known options are format, header, delimiter, null, quote and escape (csv), encoding",
                    ));
                }
            }
        }
        found.escape = match options.get("escape").map(|escape| escape.as_bytes()) {
            None => found.quote,
            Some([escape]) if escape.is_ascii() && !matches!(escape, b'\n' | b'\r') => char::from(*escape),
            Some(_) => return Err(conflict("COPY escape must be a single one-byte character")),
        };
        found.check()?;
        Ok(found)
    }

    /// Refuses options that leave open what a line says.
    fn check(&self) -> Result<()> {
        if self.csv && self.delimiter == self.quote {
            return Err(conflict("COPY delimiter and quote must be different"));
        }
        if !self.csv
            && (self.delimiter.is_ascii_lowercase() || self.delimiter.is_ascii_digit() || self.delimiter == '.')
        {
            return Err(conflict(&format!("COPY delimiter cannot be \"{}\"", self.delimiter)));
        }
        if self.null.contains(self.delimiter) {
            return Err(conflict("COPY delimiter character must not appear in the NULL specification"));
        }
        if self.csv && self.null.contains(self.quote) {
            return Err(conflict("CSV quote character must not appear in the NULL specification"));
        }
        Ok(())
    }

    /// The line of column names, if there is to be one.
    pub fn header(&self, schema: &Schema) -> Option<String> {
        let mut line = String::new();
        for (i, field) in schema.fields().iter().enumerate() {
            self.put(i, Some(field.name()), &mut line);
        }
        line.push('\n');
        (self.header != Header::None).then_some(line)
    }

    /// The lines of a batch, whose columns are those of `schema`; `zone` is the session's.
    ///
    /// # Errors
    /// Of values that have no text.
    pub fn lines(&self, batch: &RecordBatch, schema: &Schema, zone: &str) -> Result<String> {
        Ok(self.rows(batch, schema, zone)?.0)
    }

    /// The same, with where each row ends: a value may have line breaks.
    ///
    /// # Errors
    /// As [`Delimited::lines`].
    pub fn rows(&self, batch: &RecordBatch, schema: &Schema, zone: &str) -> Result<(String, Vec<usize>)> {
        let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
            if *field.data_type() == DataType::Boolean {
                let letters = column.as_boolean().iter().map(|b| b.map(|b| if b { "t" } else { "f" }));
                return Ok(letters.collect::<StringViewArray>());
            }
            Ok(to_text(column, field, zone)?)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut out = String::new();
        let mut ends = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            for (i, column) in columns.iter().enumerate() {
                self.put(i, column.is_valid(row).then(|| column.value(row)), &mut out);
            }
            out.push('\n');
            ends.push(out.len());
        }
        Ok((out, ends))
    }

    fn put(&self, column: usize, value: Option<&str>, out: &mut String) {
        if column > 0 {
            out.push(self.delimiter);
        }
        let Some(value) = value else { return out.push_str(&self.null) };
        if self.csv {
            let special = |c: char| c == self.delimiter || c == self.quote || matches!(c, '\n' | '\r');
            // A line of `\.` alone would end the data for clients that read lines.
            if value != self.null && value != "\\." && !value.contains(special) {
                return out.push_str(value);
            }
            out.push(self.quote);
            for c in value.chars() {
                if c == self.quote || c == self.escape {
                    out.push(self.escape);
                }
                out.push(c);
            }
            return out.push(self.quote);
        }
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c == self.delimiter => out.extend(['\\', c]),
                c => out.push(c),
            }
        }
    }
}

fn conflict(message: &str) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Int32Array};
    use millstream_catalog::SqlType;

    use super::*;

    fn written(format: &str, options: &[(&str, &str)]) -> String {
        let schema = Schema::new(vec![
            SqlType::Int4.field("n", true),
            SqlType::Text.field("a b", true),
            SqlType::Bool.field("ok", true),
        ]);
        let texts = StringViewArray::from(vec![Some("plain"), Some("tab\tnew\nline \"q\", \\"), Some(""), None]);
        let columns = vec![
            Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(4)])) as _,
            Arc::new(texts) as _,
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, None])) as _,
        ];
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
        let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let format = Delimited::new("COPY ... TO STDOUT", format, &options).unwrap();
        format.header(&schema).unwrap_or_default() + &format.lines(&batch, &schema, "UTC").unwrap()
    }

    #[test]
    fn text_escapes_what_would_be_read_otherwise() {
        assert_eq!(written("text", &[]), "1\tplain\tt\n\\N\ttab\\tnew\\nline \"q\", \\\\\tf\n3\t\t\\N\n4\t\\N\t\\N\n");
    }

    #[test]
    fn csv_quotes_what_would_be_read_otherwise() {
        assert_eq!(
            written("csv", &[("header", "true")]),
            "n,a b,ok\n1,plain,t\n,\"tab\tnew\nline \"\"q\"\", \\\",f\n3,\"\",\n4,,\n"
        );
        assert!(written("csv", &[("delimiter", ";"), ("null", "-")]).ends_with("3;;-\n4;-;-\n"));
    }

    #[test]
    fn unknown_options_and_values_are_refused() {
        let code = |format: &str, key: &str, value: &str| {
            let options = BTreeMap::from([(key.to_string(), value.to_string())]);
            Delimited::new("COPY ... TO STDOUT", format, &options).unwrap_err().sqlstate().to_string()
        };
        assert_eq!(code("csv", "wibble", "1"), "22023");
        assert_eq!(code("csv", "delimiter", "ab"), "22023");
        assert_eq!(code("text", "quote", "'"), "22023");
        assert_eq!(code("parquet", "header", "true"), "0A000");
        assert_eq!(code("csv", "quote", ","), "22023");
        assert_eq!(code("csv", "null", "a,b"), "22023");
        assert_eq!(code("text", "delimiter", "n"), "22023");
    }
}
