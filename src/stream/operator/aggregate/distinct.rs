//! Aggregates over the distinct values of a column: a function that sees each value once, when it comes and when it goes.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;

use super::bad_layout;
use super::function::Function;
use super::multiset::Values;
use super::rows::Rows;
use crate::error::Result;
use crate::state::KeyCodec;

/// A function over the distinct values of its argument. State: that of the function; the values are counted apart.
#[derive(Debug)]
pub(super) struct Distinct {
    pub function: Box<Function>,
    codec: KeyCodec,
    ordinal: u16,
}

impl Distinct {
    /// A linear function over an argument of this type.
    ///
    /// # Errors
    /// 0A000 for types that cannot be compared.
    pub fn new(function: Function, argument: &DataType, ordinal: u16) -> Result<Self> {
        Ok(Self { function: Box::new(function), codec: KeyCodec::new(std::slice::from_ref(argument))?, ordinal })
    }

    /// The state with the rows added.
    pub fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef], values: &mut Values<'_>) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("an aggregate of distinct values has no argument"))?;
        let keys = self.codec.encode(std::slice::from_ref(argument))?;
        let changes = values.count(self.ordinal, rows, &keys, |_| &[])?;
        let moved = || changes.iter().filter(|change| change.comes_or_goes());
        let groups: Vec<u32> = moved().map(|change| change.group as u32).collect();
        let weights: Vec<i64> = moved().map(|change| if change.after > 0 { 1 } else { -1 }).collect();
        let argument = take(argument, &UInt32Array::from_iter_values(moved().map(|change| change.row as u32)), None)?;
        self.function.apply(&Rows::new(&groups, Some(&weights), Some(&argument), None), old, values)
    }
}
