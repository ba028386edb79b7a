//! Lines taken apart, of COPY … FROM STDIN and of CSV files: PostgreSQL's `text` and `csv` formats, in pieces that end
//! anywhere.
//!
//! Delimiter, quote and escape are one ASCII byte each, so that UTF-8 can be searched for them byte by byte.

use arrow::array::{ArrayRef, StringViewBuilder};

use super::delimited::{Delimited, Header};
use crate::error::{Error, Result, sqlstate};

/// A field that an error quotes is cut after this many characters.
const QUOTED_CHARS_MAX: usize = 100;

/// Takes bytes, gives rows of text.
pub struct Lines<'a> {
    format: &'a Delimited,
    /// What is read, for the context of errors: `COPY t`, `file "x.csv"`.
    place: String,
    /// Names of the columns that a line has.
    columns: Vec<String>,
    /// It is a file: its header says which columns it has, lines without anything are no rows, and no marker ends it.
    is_file: bool,
    /// What is NULL beside the format's own text.
    also_null: Option<String>,
    /// What is not taken apart yet, and how far it was searched for the end of its line.
    pending: Vec<u8>,
    searched: usize,
    /// Inside quotes (`csv`), or behind a backslash (`text`).
    quoted: bool,
    escaped: bool,
    /// The header, if there is one, is still to come.
    before_header: bool,
    /// `\.` was read: what follows is ignored.
    ended: bool,
    /// Number of the last line that was taken, from 1.
    line: u64,
    rows: Vec<StringViewBuilder>,
    /// The line of each row.
    row_lines: Vec<u64>,
    scratch: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// Nothing read yet.
    pub fn new(format: &'a Delimited, place: impl Into<String>, columns: Vec<String>) -> Self {
        Self {
            format,
            place: place.into(),
            is_file: false,
            also_null: None,
            pending: Vec::new(),
            searched: 0,
            quoted: false,
            escaped: false,
            before_header: format.header != Header::None,
            ended: false,
            line: 0,
            rows: columns.iter().map(|_| StringViewBuilder::new()).collect(),
            row_lines: Vec::new(),
            scratch: Vec::new(),
            columns,
        }
    }

    /// The same of a file, whose columns are those of its header if it has one. Before that is read there are none.
    pub fn of_file(format: &'a Delimited, place: impl Into<String>, columns: Vec<String>, null: Option<&str>) -> Self {
        Self { is_file: true, also_null: null.map(str::to_string), ..Self::new(format, place, columns) }
    }

    /// The columns that a line has.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Rows that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.row_lines.len()
    }

    /// The rows so far, as columns of text, with the line of each.
    pub fn take(&mut self) -> (Vec<ArrayRef>, Vec<u64>) {
        let columns = self.rows.iter_mut().map(|rows| std::sync::Arc::new(rows.finish()) as ArrayRef).collect();
        (columns, std::mem::take(&mut self.row_lines))
    }

    /// Takes the next bytes apart.
    ///
    /// # Errors
    /// 22P04 for a line with too few or too many fields, 22021 for what is not UTF-8.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut start = 0;
        while let Some(end) = self.end_of_line(&pending) {
            self.take_line(&pending[start..end])?;
            start = end + 1;
            if self.ended {
                return Ok(());
            }
        }
        self.pending = pending;
        self.pending.drain(..start);
        self.searched -= start;
        Ok(())
    }

    /// Takes a last line that no line break ends.
    ///
    /// # Errors
    /// As [`Lines::push`], and 22P04 if a quote is open.
    pub fn finish(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.pending);
        if self.quoted {
            self.line += 1;
            return Err(self.at_line(bad_format("unterminated CSV quoted field"), &rest));
        }
        if rest.is_empty() || self.ended { Ok(()) } else { self.take_line(&rest) }
    }

    /// Where the next line break is that ends a line; later calls go on behind it.
    fn end_of_line(&mut self, bytes: &[u8]) -> Option<usize> {
        let (quote, escape) = (self.format.quote as u8, self.format.escape as u8);
        while let Some(&byte) = bytes.get(self.searched) {
            self.searched += 1;
            let escaped = std::mem::take(&mut self.escaped);
            match byte {
                b'\n' if !self.quoted && !escaped => return Some(self.searched - 1),
                // An escaped or quoted line break is data, and yet a line to whoever looks for an error.
                b'\n' => self.line += 1,
                _ if escaped => {}
                b'\\' if !self.format.csv => self.escaped = true,
                _ if !self.format.csv => {}
                _ if byte == escape && escape != quote && self.quoted => self.escaped = true,
                _ if byte == quote => self.quoted = !self.quoted,
                _ => {}
            }
        }
        None
    }

    fn take_line(&mut self, line: &[u8]) -> Result<()> {
        self.line += 1;
        // Some programs begin every text file with a mark of its encoding.
        let line =
            line.strip_prefix(b"\xef\xbb\xbf".as_slice()).filter(|_| self.is_file && self.line == 1).unwrap_or(line);
        let line = match line.strip_suffix(b"\r") {
            Some(rest) if self.format.csv || rest.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 0 => rest,
            _ => line,
        };
        if line.is_empty() && self.is_file && (self.before_header || self.columns.len() > 1) {
            return Ok(());
        }
        if std::mem::take(&mut self.before_header) {
            return if self.is_file { self.take_header(line) } else { self.check_header(line) };
        }
        // In csv too, as psql sends it before version 18; a value is quoted where it looks like this.
        if line == b"\\." && !self.is_file {
            self.ended = true;
            return Ok(());
        }
        let mut rest = Some(line);
        for column in 0..self.columns.len() {
            let Some(bytes) = rest else {
                let error = format!("missing data for column \"{}\"", self.columns[column]);
                return Err(self.at_line(bad_format(error), line));
            };
            let (is_null, next) = self.field(bytes).map_err(|e| self.at_line(e, line))?;
            rest = next;
            if is_null {
                self.rows[column].append_null();
                continue;
            }
            match std::str::from_utf8(&self.scratch) {
                Ok(text) if !text.contains('\0') => self.rows[column].append_value(text),
                other => {
                    let byte = other.map_or_else(|e| self.scratch[e.valid_up_to()], |_| 0);
                    let error = format!("invalid byte sequence for encoding \"UTF8\": {byte:#04x}");
                    let error = Error::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, error);
                    return Err(error.with_context(format!("{}, line {}", self.place, self.line)));
                }
            }
        }
        if rest.is_some() {
            return Err(self.at_line(bad_format("extra data after last expected column"), line));
        }
        self.row_lines.push(self.line);
        Ok(())
    }

    /// Decodes the first field of a line into `scratch`: whether it is NULL, and what follows its delimiter.
    fn field<'b>(&mut self, line: &'b [u8]) -> Result<(bool, Option<&'b [u8]>)> {
        self.scratch.clear();
        let (end, is_plain) = match self.format.csv {
            true => self.csv_field(line)?,
            false => self.text_field(line)?,
        };
        let is_null_text = |null: &str| line[..end] == *null.as_bytes();
        let is_null =
            is_plain && (is_null_text(&self.format.null) || self.also_null.as_deref().is_some_and(is_null_text));
        Ok((is_null, line.get(end + 1..)))
    }

    /// Where a field ends, and whether it could be NULL: in `text`, what stands there decides, before it is decoded.
    fn text_field(&mut self, line: &[u8]) -> Result<(usize, bool)> {
        let delimiter = self.format.delimiter as u8;
        let mut at = 0;
        while let Some(&byte) = line.get(at).filter(|byte| **byte != delimiter) {
            at += 1;
            match (byte, line.get(at)) {
                (b'\\', Some(&letter)) => {
                    at += 1;
                    let (decoded, length) = match letter {
                        b'b' => (8, 0),
                        b'f' => (12, 0),
                        b'n' => (b'\n', 0),
                        b'r' => (b'\r', 0),
                        b't' => (b'\t', 0),
                        b'v' => (11, 0),
                        b'0'..=b'7' => number(&line[at - 1..], 3, 8).map_or((letter, 0), |(n, len)| (n, len - 1)),
                        b'x' => number(&line[at..], 2, 16).unwrap_or((letter, 0)),
                        other => (other, 0),
                    };
                    self.scratch.push(decoded);
                    at += length;
                }
                (b'\r', _) => {
                    return Err(bad_format("literal carriage return found in data")
                        .with_hint("use \"\\r\" to represent carriage return"));
                }
                (byte, _) => self.scratch.push(byte),
            }
        }
        Ok((at, true))
    }

    /// Where a field ends, and whether it could be NULL: in `csv`, what has quotes never is.
    fn csv_field(&mut self, line: &[u8]) -> Result<(usize, bool)> {
        let Delimited { delimiter, quote, escape, .. } = *self.format;
        let (delimiter, quote, escape) = (delimiter as u8, quote as u8, escape as u8);
        let (mut at, mut quoted, mut is_plain) = (0, false, true);
        while let Some(&byte) = line.get(at).filter(|byte| quoted || **byte != delimiter) {
            at += 1;
            let next = line.get(at).copied();
            if quoted && byte == escape && next.is_some_and(|next| next == quote || next == escape) {
                self.scratch.extend(next);
                at += 1;
            } else if byte == quote {
                (quoted, is_plain) = (!quoted, false);
            } else if byte == b'\r' && !quoted {
                return Err(bad_format("unquoted carriage return found in data")
                    .with_hint("use quoted CSV field to represent carriage return"));
            } else {
                self.scratch.push(byte);
            }
        }
        Ok((at, is_plain))
    }

    /// The columns that the header names.
    fn take_header(&mut self, line: &[u8]) -> Result<()> {
        self.columns.clear();
        let mut rest = Some(line);
        while let Some(bytes) = rest {
            rest = self.field(bytes).map_err(|e| self.at_line(e, line))?.1;
            self.columns.push(String::from_utf8_lossy(&self.scratch).into_owned());
        }
        self.rows = self.columns.iter().map(|_| StringViewBuilder::new()).collect();
        Ok(())
    }

    fn check_header(&mut self, line: &[u8]) -> Result<()> {
        if self.format.header != Header::Match {
            return Ok(());
        }
        let mut rest = Some(line);
        let mut names = 0;
        while let Some(bytes) = rest {
            rest = self.field(bytes)?.1;
            let name = String::from_utf8_lossy(&self.scratch);
            if let Some(expected) = self.columns.get(names).filter(|expected| **expected != *name) {
                let at = names + 1;
                let error =
                    format!("column name mismatch in header line field {at}: got \"{name}\", expected \"{expected}\"");
                return Err(self.at_line(bad_format(error), line));
            }
            names += 1;
        }
        if names == self.columns.len() {
            return Ok(());
        }
        let error = format!("wrong number of fields in header line: got {names}, expected {}", self.columns.len());
        Err(self.at_line(bad_format(error), line))
    }

    fn at_line(&self, error: Error, line: &[u8]) -> Error {
        let text = String::from_utf8_lossy(line);
        error.with_context(format!("{}, line {}: \"{}\"", self.place, self.line, shortened(&text)))
    }
}

/// A text as errors quote it.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// The number at the start of some digits, at most `most` of them, and how many they are.
fn number(digits: &[u8], most: usize, radix: u32) -> Option<(u8, usize)> {
    let values = digits.iter().take(most).map_while(|digit| char::from(*digit).to_digit(radix));
    let (number, length) = values.fold((0, 0), |(number, length), value| (number * radix + value, length + 1));
    // Three octal digits may not fit; PostgreSQL keeps their last eight bits.
    (length > 0).then_some((number as u8, length))
}

fn bad_format(message: impl Into<String>) -> Error {
    Error::new(sqlstate::BAD_COPY_FILE_FORMAT, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{Array, AsArray};

    use super::*;

    /// Rows of columns `a` and `b`, read in pieces of every length.
    fn read(format: &str, options: &[(&str, &str)], text: &[u8]) -> Result<Vec<[Option<String>; 2]>> {
        let options: BTreeMap<_, _> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let format = Delimited::new("COPY ... FROM STDIN", format, &options)?;
        let read_in = |length: usize| {
            let mut lines = Lines::new(&format, "COPY t", vec!["a".into(), "b".into()]);
            text.chunks(length).try_for_each(|piece| lines.push(piece))?;
            lines.finish()?;
            let count = lines.waiting();
            let (columns, _) = lines.take();
            let value = |column: usize, row: usize| {
                let column = columns[column].as_string_view();
                column.is_valid(row).then(|| column.value(row).to_string())
            };
            Ok::<_, Error>((0..count).map(|row| [value(0, row), value(1, row)]).collect::<Vec<_>>())
        };
        let whole = read_in(text.len().max(1))?;
        (1..text.len()).for_each(|length| assert_eq!(read_in(length).unwrap(), whole, "in pieces of {length}"));
        Ok(whole)
    }

    fn row(a: &str, b: &str) -> [Option<String>; 2] {
        [a, b].map(|v| (v != "NULL").then(|| v.to_string()))
    }

    #[test]
    fn text_is_decoded() {
        let text = b"1\tplain\r\n\\N\ttab\\tnew\\nline \\\\ \\x41\\102\\q\n\t\\\\N\nlast\tline\\\nbroken";
        let expected =
            [row("1", "plain"), row("NULL", "tab\tnew\nline \\ ABq"), row("", "\\N"), row("last", "line\nbroken")];
        assert_eq!(read("text", &[], text).unwrap(), expected);
        assert_eq!(read("text", &[("delimiter", "|"), ("null", "")], b"|x\\|y\n").unwrap(), [row("NULL", "x|y")]);
        assert_eq!(read("text", &[], b"1\t2\n\\.\n3\n").unwrap(), [row("1", "2")]);
    }

    #[test]
    fn csv_is_decoded() {
        let text = b"a,b\n1,\"say \"\"hi\"\", \nyou\"\r\n,\"\"\n\\N,x\"y,z\"\n";
        let expected = [row("1", "say \"hi\", \nyou"), row("NULL", ""), row("\\N", "xy,z")];
        assert_eq!(read("csv", &[("header", "true")], text).unwrap(), expected);
        assert_eq!(read("csv", &[("header", "match")], text).unwrap(), expected);
        assert_eq!(read("csv", &[], b"1,\"\\.\"\n\\.\n3,4\n").unwrap(), [row("1", "\\.")]);
        let options = [("delimiter", ";"), ("null", "-"), ("quote", "'"), ("escape", "\\")];
        assert_eq!(
            read("csv", &options, b"-;'it\\'s; \\\\'\n'-';x").unwrap(),
            [row("NULL", "it's; \\"), row("-", "x")]
        );
    }

    #[test]
    fn files_say_their_columns_and_end_where_they_end() {
        let format = Delimited::new("", "csv", &BTreeMap::from([("header".to_string(), "true".to_string())])).unwrap();
        let mut lines = Lines::of_file(&format, "file \"x\"", Vec::new(), Some("NA"));
        lines.push(b"\xef\xbb\xbfa,\"b c\"\n\n1,NA\n\\.,\n").unwrap();
        lines.finish().unwrap();
        assert_eq!(lines.columns(), ["a", "b c"]);
        let (columns, line_of_row) = lines.take();
        assert_eq!(line_of_row, [3, 4]);
        assert_eq!(columns[0].as_string_view().value(1), "\\.");
        assert_eq!(columns[1].null_count(), 2);
        let error = lines.push(b"1\n").unwrap_err();
        assert_eq!(error.context(), Some("file \"x\", line 5: \"1\""));
    }

    #[test]
    fn errors_name_the_line() {
        let failed = |format: &str, options: &[(&str, &str)], text: &[u8]| {
            let error = read(format, options, text).unwrap_err();
            format!("{} {} / {}", error.sqlstate(), error, error.context().unwrap_or_default())
        };
        let missing = "22P04 missing data for column \"b\" / COPY t, line 2: \"x\"";
        assert_eq!(failed("text", &[], b"1\t2\nx\n"), missing);
        assert_eq!(failed("csv", &[("header", "true")], b"a,b\nx\n"), missing);
        assert_eq!(
            failed("csv", &[], b"1,\"2\n3\"\n1,2,3\n"),
            "22P04 extra data after last expected column / COPY t, line 3: \"1,2,3\""
        );
        assert_eq!(failed("csv", &[], b"1,\"2\n"), "22P04 unterminated CSV quoted field / COPY t, line 2: \"1,\"2\n\"");
        assert_eq!(
            failed("text", &[], b"1\t\xff\n"),
            "22021 invalid byte sequence for encoding \"UTF8\": 0xff / COPY t, line 1"
        );
        assert_eq!(
            failed("csv", &[("header", "match")], b"a,c\n"),
            "22P04 column name mismatch in header line field 2: got \"c\", expected \"b\" / COPY t, line 1: \"a,c\""
        );
    }
}
