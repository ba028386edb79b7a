//! JSON text straight into column builders, in one pass and without a tree in between.
//!
//! Messages of a topic mostly have the same fields in the same order, so an object's k-th name is first compared with the
//! k-th name of the object before.

use std::cmp::Ordering;

use crate::format::column::{ColumnBuilder, Data, TextRule, push_text, push_view, shorten};
use crate::format::json::cursor::{Cursor, unescape};
use crate::format::payload::Columns;

/// Which column each field of an object goes to.
pub struct ObjectReader {
    names: Vec<(Box<str>, usize)>,
    /// Names of the last object in its order, with their columns.
    predicted: Vec<(Box<str>, Option<usize>)>,
}

/// Fields past this one of an object are looked up each time; it bounds what a hostile object can make us remember.
const PREDICTED_MAX: usize = 256;

impl ObjectReader {
    /// Of (name, position among the column builders).
    pub fn new<'a>(names: impl IntoIterator<Item = (&'a str, usize)>) -> Self {
        Self { names: names.into_iter().map(|(n, i)| (n.into(), i)).collect(), predicted: Vec::new() }
    }

    /// Column of the `k`-th name of an object.
    #[inline]
    fn column(&mut self, k: usize, name: &str) -> Option<usize> {
        match self.predicted.get(k) {
            Some((predicted, column)) if **predicted == *name => *column,
            _ => self.look_up(k, name),
        }
    }

    #[cold]
    fn look_up(&mut self, k: usize, name: &str) -> Option<usize> {
        let column = self.names.iter().find(|(n, _)| **n == *name).map(|(_, i)| *i);
        if k < PREDICTED_MAX && name.len() <= PREDICTED_MAX {
            match self.predicted.len().cmp(&k) {
                Ordering::Greater => self.predicted[k] = (name.into(), column),
                Ordering::Equal => self.predicted.push((name.into(), column)),
                Ordering::Less => {}
            }
        }
        column
    }

    fn name_of(&self, column: usize) -> &str {
        self.names.iter().find(|(_, i)| *i == column).map_or("", |(n, _)| n)
    }
}

/// What reading needs beside the text: kept between records so that it is allocated once.
#[derive(Default)]
pub struct Reader {
    unescaped: String,
}

impl Reader {
    /// Appends one row from a text that is one JSON object. Columns of fields that it does not have get NULL if they keep
    /// their values; columns that `object` does not name are left alone.
    ///
    /// # Errors
    /// What is wrong and where; columns may then have a value more, which the caller truncates.
    pub fn read_object(&mut self, text: &[u8], object: &mut ObjectReader, columns: Columns<'_>) -> Result<(), String> {
        let mut cursor = Cursor::new(text)?;
        cursor.skip_space();
        if !cursor.eat(b'{') {
            return cursor.error("'{'");
        }
        self.read_members(&mut cursor, object, columns)?;
        cursor.skip_space();
        if cursor.at_end() { Ok(()) } else { cursor.error("the end") }
    }

    /// Appends the value that a text is to a column.
    ///
    /// # Errors
    /// What is wrong; the column may then hold half a value until it is truncated.
    pub fn read_single(&mut self, text: &[u8], column: &mut ColumnBuilder) -> Result<(), String> {
        let mut cursor = Cursor::new(text)?;
        cursor.skip_space();
        self.read_value(&mut cursor, column)?;
        cursor.skip_space();
        if cursor.at_end() { Ok(()) } else { cursor.error("the end") }
    }

    fn read_members(
        &mut self,
        cursor: &mut Cursor<'_>,
        object: &mut ObjectReader,
        columns: Columns<'_>,
    ) -> Result<(), String> {
        let Columns { builders, kept, row } = columns;
        let mut k = 0;
        cursor.members(|cursor| {
            let name = cursor.string()?;
            let column = match name.escaped {
                false => object.column(k, name.raw),
                true => object.column(k, unescape(name, &mut self.unescaped)?),
            };
            k += 1;
            cursor.colon()?;
            let Some(i) = column else { return cursor.skip_value() };
            if i >= kept {
                return self.check_value(cursor, &mut builders[i]).map_err(|e| located(e, || object.name_of(i)));
            }
            if builders[i].len() > row {
                builders[i].truncate(row);
            }
            self.read_value(cursor, &mut builders[i]).map_err(|e| located(e, || object.name_of(i)))
        })?;
        for (_, i) in &object.names {
            if *i < kept && builders[*i].len() == row {
                builders[*i].append_null();
            }
        }
        Ok(())
    }

    /// Takes the value of a column that keeps none: the same errors as [`Reader::read_value`], for less where it can be.
    fn check_value(&mut self, cursor: &mut Cursor<'_>, column: &mut ColumnBuilder) -> Result<(), String> {
        if !column.is_empty() {
            column.truncate(0);
        }
        let rule = match column.data_mut() {
            Data::Text { rule, .. } => *rule,
            _ => return self.read_value(cursor, column),
        };
        match (cursor.peek(), rule) {
            (Some(b'"'), TextRule::Any) => {
                let string = cursor.string()?;
                if string.escaped {
                    return column.append_text(unescape(string, &mut self.unescaped)?);
                }
            }
            (Some(b'"' | b'{' | b'[' | b't' | b'f' | b'-' | b'0'..=b'9'), TextRule::Any | TextRule::Json) => {
                cursor.skip_value()?;
            }
            _ => return self.read_value(cursor, column),
        }
        column.mark_valid();
        Ok(())
    }

    fn read_value(&mut self, cursor: &mut Cursor<'_>, column: &mut ColumnBuilder) -> Result<(), String> {
        let next = cursor.peek();
        if next == Some(b'n') {
            cursor.word("null")?;
            column.append_null();
            return Ok(());
        }
        let mark = cursor.mark();
        let row = column.len();
        match (next, column.data_mut()) {
            (Some(_), Data::Text { views, long, rule: TextRule::Json }) => {
                cursor.skip_value()?;
                push_view(views, long, cursor.since(mark).as_bytes());
            }
            (Some(_), Data::Text { views, long, rule: TextRule::Jsonb }) => {
                cursor.skip_value()?;
                push_text(views, long, TextRule::Jsonb, cursor.since(mark))?;
            }
            (Some(b'"'), Data::Text { views, long, rule: TextRule::Any }) => {
                let string = cursor.string()?;
                if string.escaped {
                    push_text(views, long, TextRule::Any, unescape(string, &mut self.unescaped)?)?;
                } else {
                    push_view(views, long, string.raw.as_bytes());
                }
            }
            (Some(b'"'), _) => {
                let string = cursor.string()?;
                return match string.escaped {
                    false => column.append_text(string.raw),
                    true => column.append_text(unescape(string, &mut self.unescaped)?),
                };
            }
            (Some(b'-' | b'0'..=b'9'), _) => {
                let number = cursor.number()?;
                return column.append_number(number);
            }
            (Some(b't'), Data::Bool(values)) => {
                cursor.word("true")?;
                values.append(true);
            }
            (Some(b'f'), Data::Bool(values)) => {
                cursor.word("false")?;
                values.append(false);
            }
            (Some(b'['), Data::List { offsets, items, .. }) => {
                cursor.eat(b'[');
                cursor.elements(|cursor| self.read_value(cursor, items))?;
                offsets.push(i32::try_from(items.len()).map_err(|_| "too many array elements in one batch")?);
            }
            (Some(b'{'), Data::Record(record)) => {
                cursor.eat(b'{');
                let kept = record.kept;
                record.columns[kept..].iter_mut().for_each(ColumnBuilder::clear);
                // Fields that are read have the length of the record column.
                self.read_members(cursor, &mut record.reader, Columns { builders: &mut record.columns, kept, row })?;
            }
            (Some(_), Data::Text { views, long, rule }) => {
                let rule = *rule;
                cursor.skip_value()?;
                push_text(views, long, rule, cursor.since(mark))?;
            }
            _ => {
                cursor.skip_value()?;
                return Err(format!("{} is not a value of the column's type", shorten(cursor.since(mark))));
            }
        }
        column.mark_valid();
        Ok(())
    }
}

/// Names the field in an error that does not say where in the text it is.
#[cold]
pub(in crate::format) fn located<'a>(error: String, name: impl FnOnce() -> &'a str) -> String {
    match error.starts_with("invalid JSON") {
        true => error,
        false => format!("column \"{}\": {error}", name()),
    }
}
