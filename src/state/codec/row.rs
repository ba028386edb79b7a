//! Rows: compact, not ordered, and able to grow columns at the end.
//!
//! A row is the version byte `01`, the number of columns (LEB128), one bit for each column that is NULL (least significant
//! first, padded to bytes), and then the values that are not NULL in column order. Version 1, one value:
//!
//! | value | bytes |
//! |---|---|
//! | boolean | `00`, `01` |
//! | integers, decimals, dates, times, timestamps, durations | the integer encoding of [`super::int`] |
//! | floats | 4 or 8 bytes, little endian |
//! | strings, binary | length (LEB128), the bytes |
//! | fixed-size binary | the bytes |
//! | interval | months, days, nanoseconds as integers |
//! | list | number of items (LEB128), their NULL bits, the items |
//! | struct | the NULL bits of its fields, the fields |
//!
//! A row with fewer columns than the codec was written before the others were added: they are NULL.

use std::borrow::Cow;
use std::ops::Range;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;

use super::build::Builder;
use super::source::Column;
use super::{Format, check_columns, corrupt, take, take_array};
use crate::error::Result;
use crate::state::bytes::ByteRows;

const VERSION: u8 = 1;

/// Encodes and decodes the value columns of one table.
#[derive(Debug, Clone)]
pub struct RowCodec {
    types: Vec<DataType>,
}

impl RowCodec {
    /// A codec for rows of these columns.
    ///
    /// # Errors
    /// 0A000 for a type that is not stored.
    pub fn new(types: &[DataType]) -> Result<Self> {
        for t in types {
            Builder::new(t, 0)?;
        }
        Ok(Self { types: types.to_vec() })
    }

    /// The types of the columns, as decoded.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// The rows of a batch.
    ///
    /// # Errors
    /// XX000 if the columns are not of the codec's types.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<ByteRows> {
        let rows = check_columns(&self.types, columns)?;
        let sources = columns.iter().map(Column::new).collect::<Result<Vec<_>>>()?;
        let mut header = [0; 11];
        header[0] = VERSION;
        let header_len = 1 + put_leb(sources.len(), &mut header[1..]);
        let bits = sources.len().div_ceil(8);
        let mut lengths = vec![header_len + bits; rows];
        for source in &sources {
            source.add_lengths::<RowFormat>(&mut lengths);
        }
        let mut out = ByteRows::zeroed(&lengths);
        let (data, ends) = out.parts_mut();
        let mut positions = lengths;
        for (i, position) in positions.iter_mut().enumerate() {
            let start = ends[i] - *position;
            data[start..start + header_len].copy_from_slice(&header[..header_len]);
            put_null_bits(sources.iter().map(|s| s.is_null(i)), &mut data[start + header_len..]);
            *position = start + header_len + bits;
        }
        for source in &sources {
            source.write::<RowFormat>(data, &mut positions);
        }
        debug_assert_eq!(positions, ends);
        Ok(out)
    }

    /// The columns of these rows.
    ///
    /// # Errors
    /// XX001 if a row is not one that a codec of these columns, or of the first of them, wrote.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let mut cursors: Vec<&[u8]> = rows.into_iter().collect();
        let mut headers = Vec::with_capacity(cursors.len());
        for cursor in &mut cursors {
            headers.push(self.header(cursor)?);
        }
        let decode_column = |(column, data_type): (usize, &DataType)| {
            let mut builder = Builder::new(data_type, cursors.len())?;
            builder.extend::<RowFormat>(&mut cursors, |row, _| {
                let (stored, bits) = headers[row];
                column >= stored || is_null(bits, column)
            })?;
            builder.finish(data_type)
        };
        let columns = self.types.iter().enumerate().map(decode_column).collect::<Result<_>>()?;
        match cursors.iter().all(|rest| rest.is_empty()) {
            true => Ok(columns),
            false => Err(corrupt("a row is longer than its columns")),
        }
    }

    /// The number of stored columns and their NULL bits.
    fn header<'a>(&self, cursor: &mut &'a [u8]) -> Result<(usize, &'a [u8])> {
        match take(1, cursor)? {
            [VERSION] => {}
            [other] => return Err(corrupt(&format!("row version {other} is unknown, this server reads {VERSION}"))),
            _ => return Err(corrupt("a row is empty")),
        }
        let stored = take_leb(cursor)?;
        if stored > self.types.len() {
            return Err(corrupt("a row has more columns than its table"));
        }
        Ok((stored, take(stored.div_ceil(8), cursor)?))
    }
}

fn put_null_bits(nulls: impl Iterator<Item = bool>, out: &mut [u8]) {
    for (i, null) in nulls.enumerate() {
        if i % 8 == 0 {
            out[i / 8] = 0;
        }
        out[i / 8] |= u8::from(null) << (i % 8);
    }
}

fn is_null(bits: &[u8], i: usize) -> bool {
    bits[i / 8] >> (i % 8) & 1 == 1
}

fn leb_len(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

fn put_leb(mut value: usize, out: &mut [u8]) -> usize {
    let mut at = 0;
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

fn take_leb(cursor: &mut &[u8]) -> Result<usize> {
    let mut value = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = take(1, cursor)?[0];
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(corrupt("a length is too long"))
}

struct RowFormat;

impl Format for RowFormat {
    const NULL: Option<u8> = None;
    const FLOAT_MARK: usize = 0;
    const FIXED_MARK: usize = 0;

    fn put_f32(value: f32, out: &mut [u8]) -> usize {
        out[..4].copy_from_slice(&value.to_le_bytes());
        4
    }

    fn put_f64(value: f64, out: &mut [u8]) -> usize {
        out[..8].copy_from_slice(&value.to_le_bytes());
        8
    }

    fn text_len(value: &[u8]) -> usize {
        Self::binary_len(value)
    }

    fn put_text(value: &[u8], out: &mut [u8]) -> usize {
        Self::put_binary(value, out)
    }

    fn binary_len(value: &[u8]) -> usize {
        leb_len(value.len()) + value.len()
    }

    fn put_binary(value: &[u8], out: &mut [u8]) -> usize {
        let at = put_leb(value.len(), out);
        out[at..at + value.len()].copy_from_slice(value);
        at + value.len()
    }

    fn put_fixed(value: &[u8], out: &mut [u8]) -> usize {
        out[..value.len()].copy_from_slice(value);
        value.len()
    }

    fn list_len(items: &Column<'_>, range: Range<usize>) -> usize {
        let n = range.len();
        leb_len(n) + n.div_ceil(8) + range.map(|i| items.len_at::<Self>(i)).sum::<usize>()
    }

    fn put_list(items: &Column<'_>, range: Range<usize>, out: &mut [u8]) -> usize {
        let n = range.len();
        let at = put_leb(n, out);
        put_null_bits(range.clone().map(|i| items.is_null(i)), &mut out[at..]);
        range.fold(at + n.div_ceil(8), |at, i| at + items.put_at::<Self>(i, &mut out[at..]))
    }

    fn struct_len(fields: &[Column<'_>], i: usize) -> usize {
        fields.len().div_ceil(8) + fields.iter().map(|f| f.len_at::<Self>(i)).sum::<usize>()
    }

    fn put_struct(fields: &[Column<'_>], i: usize, out: &mut [u8]) -> usize {
        put_null_bits(fields.iter().map(|f| f.is_null(i)), out);
        fields.iter().fold(fields.len().div_ceil(8), |at, f| at + f.put_at::<Self>(i, &mut out[at..]))
    }

    fn read_f32(cursor: &mut &[u8]) -> Result<f32> {
        Ok(f32::from_le_bytes(take_array(cursor)?))
    }

    fn read_f64(cursor: &mut &[u8]) -> Result<f64> {
        Ok(f64::from_le_bytes(take_array(cursor)?))
    }

    fn read_text<'a>(cursor: &mut &'a [u8]) -> Result<Cow<'a, [u8]>> {
        Self::read_binary(cursor)
    }

    fn read_binary<'a>(cursor: &mut &'a [u8]) -> Result<Cow<'a, [u8]>> {
        let len = take_leb(cursor)?;
        take(len, cursor).map(Cow::Borrowed)
    }

    fn read_fixed<'a>(width: usize, cursor: &mut &'a [u8]) -> Result<&'a [u8]> {
        take(width, cursor)
    }

    fn read_list(cursor: &mut &[u8], items: &mut Builder) -> Result<usize> {
        let n = take_leb(cursor)?;
        let bits = take(n.div_ceil(8), cursor)?;
        for i in 0..n {
            match is_null(bits, i) {
                true => items.push_null(),
                false => items.push::<Self>(cursor)?,
            }
        }
        Ok(n)
    }

    fn read_struct(cursor: &mut &[u8], fields: &mut [Builder]) -> Result<()> {
        let bits = take(fields.len().div_ceil(8), cursor)?;
        for (i, field) in fields.iter_mut().enumerate() {
            match is_null(bits, i) {
                true => field.push_null(),
                false => field.push::<Self>(cursor)?,
            }
        }
        Ok(())
    }
}
