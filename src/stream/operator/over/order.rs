//! Sort keys: the columns of an ORDER BY as bytes that compare as the rows are ordered.
//!
//! A descending column is its ascending key with all bits flipped: keys delimit themselves, so that turns the order round.
//! NULLs are last in a key and so first in a flipped one, as in PostgreSQL; where the query says otherwise, a byte before
//! the key tells NULL from not NULL.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec};
use crate::stream::operator::event_time::MICROS_PER_DAY;
use crate::stream::operator::order_key::SortColumn;

/// Makes the sort keys of one ORDER BY.
#[derive(Debug, Clone)]
pub(super) struct OrderCodec {
    parts: Vec<Part>,
}

/// Neighbouring columns that are encoded together.
#[derive(Debug, Clone)]
struct Part {
    codec: KeyCodec,
    columns: usize,
    descending: bool,
    /// Whether a byte tells NULL from not NULL, and if NULL is the lower one.
    null_byte: Option<bool>,
}

impl OrderCodec {
    /// A codec for columns of these types in this order.
    ///
    /// # Errors
    /// 0A000 for types that are not stored.
    pub fn new(order: &[SortColumn], types: &[DataType]) -> Result<Self> {
        let mut parts: Vec<Part> = Vec::new();
        let mut plain: Vec<DataType> = Vec::new();
        for (sort, data_type) in order.iter().zip(types) {
            if !sort.descending && !sort.nulls_first && !matches!(data_type, DataType::Interval(_)) {
                plain.push(data_type.clone());
                continue;
            }
            push_plain(&mut parts, &mut plain)?;
            let types = std::slice::from_ref(data_type);
            parts.push(Part {
                codec: KeyCodec::new(types).or_else(|_| KeyCodec::for_rows(types))?,
                columns: 1,
                descending: sort.descending,
                null_byte: (sort.nulls_first != sort.descending).then_some(sort.nulls_first),
            });
        }
        push_plain(&mut parts, &mut plain)?;
        Ok(Self { parts })
    }

    /// One key a row.
    ///
    /// # Errors
    /// XX000 if the columns are not of the codec's types.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<ByteRows> {
        if let [Part { codec, descending: false, null_byte: None, .. }] = self.parts.as_slice() {
            return codec.encode(columns);
        }
        let mut encoded = Vec::with_capacity(self.parts.len());
        let mut rest = columns;
        for part in &self.parts {
            let (own, others) = rest
                .split_at_checked(part.columns)
                .ok_or_else(|| Error::internal("a sort key was given too few columns"))?;
            rest = others;
            encoded.push((part, own[0].logical_nulls(), part.codec.encode(own)?));
        }
        let bytes = encoded.iter().map(|(_, _, keys)| keys.bytes() + rows).sum();
        let mut out = ByteRows::with_capacity(rows, bytes);
        let mut key = Vec::new();
        for row in 0..rows {
            key.clear();
            for (part, nulls, keys) in &encoded {
                if let Some(null_is_low) = part.null_byte {
                    let is_null = nulls.as_ref().is_some_and(|n| n.is_null(row));
                    key.push(u8::from(is_null != null_is_low));
                }
                match part.descending {
                    true => key.extend(keys.get(row).iter().map(|byte| !byte)),
                    false => key.extend_from_slice(keys.get(row)),
                }
            }
            out.push(&key);
        }
        Ok(out)
    }

    /// The first column of a key, an ascending timestamp or date, in microseconds since 1970; `None` for NULL.
    ///
    /// # Errors
    /// XX001 if the key is not one of this codec.
    pub fn first_time(&self, key: &[u8]) -> Result<Option<i64>> {
        match self.parts.first() {
            Some(Part { codec, descending: false, null_byte: None, .. }) => {
                let time = codec.first_integer(key)?;
                let unit_us = if codec.types().first() == Some(&DataType::Date32) { MICROS_PER_DAY } else { 1 };
                Ok(time.map(|time| time.saturating_mul(unit_us)))
            }
            _ => Err(Error::internal("a sort key does not begin with an ascending column")),
        }
    }

    /// The values of the one column that these keys are made of.
    ///
    /// # Errors
    /// XX001 if a key is not one of this codec; XX000 if there are several columns.
    pub fn decode_one<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Result<ArrayRef> {
        let [part] = self.parts.as_slice() else {
            return Err(Error::internal("a sort key of several columns is taken for one"));
        };
        let skipped = usize::from(part.null_byte.is_some());
        let column = match part.descending {
            true => {
                let turned: ByteRows =
                    keys.map(|key| key[skipped..].iter().map(|byte| !byte).collect::<Vec<u8>>()).collect();
                part.codec.decode(turned.iter())?.pop()
            }
            false => part.codec.decode(keys.map(|key| &key[skipped..]))?.pop(),
        };
        column.ok_or_else(|| Error::internal("a sort key has no column"))
    }
}

fn push_plain(parts: &mut Vec<Part>, plain: &mut Vec<DataType>) -> Result<()> {
    if !plain.is_empty() {
        let columns = plain.len();
        parts.push(Part { codec: KeyCodec::new(plain)?, columns, descending: false, null_byte: None });
        plain.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringViewArray};

    use super::*;

    #[test]
    fn keys_order_as_the_query_says() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(2), Some(1), None]));
        let texts: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("a"), Some("ab"), Some(""), Some("b"), Some("a")]));
        let sorted = |first: (bool, bool), second: (bool, bool)| {
            let sort = |column, (descending, nulls_first)| SortColumn { column, descending, nulls_first };
            let codec =
                OrderCodec::new(&[sort(0, first), sort(1, second)], &[DataType::Int32, DataType::Utf8View]).unwrap();
            codec.encode(&[numbers.clone(), texts.clone()], 5).unwrap().sort_permutation()
        };
        assert_eq!(sorted((false, false), (false, false)), [0, 3, 2, 4, 1]);
        assert_eq!(sorted((false, true), (true, true)), [1, 4, 3, 0, 2]);
        assert_eq!(sorted((true, true), (false, false)), [4, 1, 2, 0, 3]);
        assert_eq!(sorted((true, false), (true, false)), [2, 3, 0, 1, 4]);
    }
}
