//! What an encoding must be able to do: read a payload into columns.

use crate::format::Failure;
use crate::format::column::ColumnBuilder;

/// The columns that a row goes to.
pub struct Columns<'a> {
    pub builders: &'a mut [ColumnBuilder],
    /// So many of the builders keep their values; those behind them are empty before each row, and only check.
    pub kept: usize,
    /// Values that each of those that keep them has before the row.
    pub row: usize,
}

impl Columns<'_> {
    /// The same for another borrower.
    pub fn reborrow(&mut self) -> Columns<'_> {
        Columns { builders: self.builders, kept: self.kept, row: self.row }
    }

    /// A column without a value of this row, whether it had one or not.
    pub(super) fn cleared(&mut self, i: usize) -> &mut ColumnBuilder {
        let builder = &mut self.builders[i];
        match i < self.kept {
            true => builder.truncate(self.row),
            false => builder.clear(),
        }
        builder
    }

    /// Where the row's value of a column is.
    pub(super) fn row_of(&self, i: usize) -> usize {
        if i < self.kept { self.row } else { 0 }
    }

    /// Makes the columns NULL that keep values and have none of this row.
    pub(super) fn pad(&mut self) {
        for builder in &mut self.builders[..self.kept] {
            if builder.len() == self.row {
                builder.append_null();
            }
        }
    }
}

/// Reads payloads of one encoding; made anew for each partition, so it may remember what it has seen.
pub(super) trait ReadPayload: Send {
    /// Appends one row: to each column that is of the payload its value, or NULL where there is none. Columns that only
    /// check may be left without a value, which stands for NULL.
    ///
    /// # Errors
    /// Why the payload is no row; columns may then have a value more, which the caller truncates.
    fn read(&mut self, payload: &[u8], columns: Columns<'_>) -> Result<(), Failure>;
}

/// Which column is filled by what, as a reader of an encoding is told.
#[derive(Debug, Clone)]
pub(super) struct Target<'a> {
    pub name: &'a str,
    pub sql_type: &'a millstream_catalog::SqlType,
    /// Position among the column builders.
    pub at: usize,
}
