//! Byte strings that order rows as an ORDER BY does.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;

use crate::error::Result;
use crate::state::{ByteRows, KeyCodec};

/// A column of an ORDER BY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortColumn {
    /// Position in the input.
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

impl SortColumn {
    /// As ORDER BY has it, with the column's name.
    pub fn describe(self, name: impl Fn(usize) -> String) -> String {
        let direction = if self.descending { " desc" } else { "" };
        let nulls = match (self.descending, self.nulls_first) {
            (false, true) => " nulls first",
            (true, false) => " nulls last",
            _ => "",
        };
        format!("{}{direction}{nulls}", name(self.column))
    }

    /// The opposite order.
    pub fn reversed(self) -> Self {
        Self { column: self.column, descending: !self.descending, nulls_first: !self.nulls_first }
    }
}

/// Encodes the columns of an ORDER BY.
#[derive(Debug)]
pub(super) struct OrderKey {
    columns: Vec<(KeyCodec, SortColumn)>,
}

const NULL_FIRST: u8 = 0;
const VALUE: u8 = 1;
const NULL_LAST: u8 = 2;

impl OrderKey {
    /// For sort columns and their types.
    ///
    /// # Errors
    /// 0A000 for types without an order that the store can keep.
    pub fn new(columns: &[(SortColumn, DataType)]) -> Result<Self> {
        let codec =
            |(sort, data_type): &(SortColumn, DataType)| Ok((KeyCodec::new(std::slice::from_ref(data_type))?, *sort));
        Ok(Self { columns: columns.iter().map(codec).collect::<Result<_>>()? })
    }

    /// A key for each row, given the sort columns in their order, followed by that row of `suffixes`.
    ///
    /// # Errors
    /// Never for columns of the declared types.
    pub fn encode(&self, columns: &[ArrayRef], suffixes: &ByteRows) -> Result<ByteRows> {
        let encoded = self
            .columns
            .iter()
            .zip(columns)
            .map(|((codec, _), column)| codec.encode(std::slice::from_ref(column)))
            .collect::<Result<Vec<_>>>()?;
        let mut keys = ByteRows::with_capacity(suffixes.len(), suffixes.bytes() * 2);
        let mut key = Vec::new();
        for row in 0..suffixes.len() {
            key.clear();
            for (i, (_, sort)) in self.columns.iter().enumerate() {
                if columns[i].is_null(row) {
                    key.push(if sort.nulls_first { NULL_FIRST } else { NULL_LAST });
                    continue;
                }
                key.push(VALUE);
                let start = key.len();
                key.extend_from_slice(encoded[i].get(row));
                if sort.descending {
                    key[start..].iter_mut().for_each(|byte| *byte = !*byte);
                }
            }
            keys.push_pair(&key, suffixes.get(row));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, StringViewArray};
    use arrow::datatypes::DataType;

    use super::{ByteRows, OrderKey, SortColumn};

    #[test]
    fn keys_order_as_order_by_does() {
        let text: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("b"), Some("a"), None, Some("ab"), Some("a"), Some("")]));
        let number: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), Some(2), Some(3), Some(-4), None, Some(5)]));
        let suffixes: ByteRows = (0..6u8).map(|i| [i]).collect();
        let order = |sorts: [(bool, bool); 2]| {
            let sort = |column: usize| SortColumn { column, descending: sorts[column].0, nulls_first: sorts[column].1 };
            let key = OrderKey::new(&[(sort(0), DataType::Utf8View), (sort(1), DataType::Int32)]).unwrap();
            key.encode(&[text.clone(), number.clone()], &suffixes).unwrap().sort_permutation()
        };
        assert_eq!(order([(false, false), (false, false)]), [5, 1, 4, 3, 0, 2]);
        assert_eq!(order([(true, true), (true, true)]), [2, 0, 3, 4, 1, 5]);
        assert_eq!(order([(true, false), (false, true)]), [0, 3, 4, 1, 5, 2]);
    }
}
