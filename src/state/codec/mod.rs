//! Arrow columns to stored bytes and back: [`KeyCodec`] for keys that compare as their values do, [`RowCodec`] for the rest.
//!
//! Both work column by column over a whole batch into one arena, and both are ours because `arrow-row` promises no stable
//! encoding. They share how integers ([`int`]), booleans and intervals are written and differ in what order asks for:
//! NULLs, floats, strings and nesting. What is written here stays readable for ever: a change gets a new version.

mod build;
mod int;
mod key;
mod row;
mod source;

use std::borrow::Cow;
use std::ops::Range;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::DataType;

use self::build::Builder;
use self::source::Column;
use crate::error::{Error, Result, sqlstate};

pub use self::key::{KeyCodec, successor};
pub use self::row::RowCodec;

/// What keys and rows write differently.
trait Format {
    /// The byte in place of a NULL, if it has one there.
    const NULL: Option<u8>;
    /// Bytes before a float.
    const FLOAT_MARK: usize;
    /// Bytes before a value of fixed width.
    const FIXED_MARK: usize;

    fn put_f32(value: f32, out: &mut [u8]) -> usize;
    fn put_f64(value: f64, out: &mut [u8]) -> usize;
    fn text_len(value: &[u8]) -> usize;
    fn put_text(value: &[u8], out: &mut [u8]) -> usize;
    fn binary_len(value: &[u8]) -> usize;
    fn put_binary(value: &[u8], out: &mut [u8]) -> usize;
    fn put_fixed(value: &[u8], out: &mut [u8]) -> usize;
    fn list_len(items: &Column<'_>, range: Range<usize>) -> usize;
    fn put_list(items: &Column<'_>, range: Range<usize>, out: &mut [u8]) -> usize;
    fn struct_len(fields: &[Column<'_>], i: usize) -> usize;
    fn put_struct(fields: &[Column<'_>], i: usize, out: &mut [u8]) -> usize;

    fn read_f32(cursor: &mut &[u8]) -> Result<f32>;
    fn read_f64(cursor: &mut &[u8]) -> Result<f64>;
    fn read_text<'a>(cursor: &mut &'a [u8]) -> Result<Cow<'a, [u8]>>;
    fn read_binary<'a>(cursor: &mut &'a [u8]) -> Result<Cow<'a, [u8]>>;
    fn read_fixed<'a>(width: usize, cursor: &mut &'a [u8]) -> Result<&'a [u8]>;
    /// Appends the items to `items` and returns their number.
    fn read_list(cursor: &mut &[u8], items: &mut Builder) -> Result<usize>;
    fn read_struct(cursor: &mut &[u8], fields: &mut [Builder]) -> Result<()>;
}

/// Checks that all columns have the layouts that the codec was made for, and one length, which it returns.
fn check_columns(types: &[DataType], columns: &[ArrayRef]) -> Result<usize> {
    if types.len() != columns.len() {
        return Err(Error::internal(format!("a codec of {} columns was given {}", types.len(), columns.len())));
    }
    let rows = columns.first().map_or(0, |c| c.len());
    for (expected, column) in types.iter().zip(columns) {
        if !same_layout(expected, column.data_type()) {
            return Err(Error::internal(format!("a codec for {expected} was given {}", column.data_type())));
        }
        if column.len() != rows {
            return Err(Error::internal("the columns of a batch differ in length"));
        }
    }
    Ok(rows)
}

/// Whether values of both types are encoded alike: strings may come in any layout, time zones and field names do not count.
fn same_layout(a: &DataType, b: &DataType) -> bool {
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_binary = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    match (a, b) {
        (a, b) if is_text(a) && is_text(b) => true,
        (a, b) if is_binary(a) && is_binary(b) => true,
        (DataType::Timestamp(a, _), DataType::Timestamp(b, _)) => a == b,
        (DataType::Decimal128(_, a), DataType::Decimal128(_, b)) => a == b,
        (DataType::List(a), DataType::List(b)) => same_layout(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_layout(a.data_type(), b.data_type()))
        }
        (a, b) => a == b,
    }
}

/// Splits `n` bytes off the cursor.
fn take<'a>(n: usize, cursor: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (head, tail) = cursor.split_at_checked(n).ok_or_else(|| corrupt("a value is cut off"))?;
    *cursor = tail;
    Ok(head)
}

fn take_array<const N: usize>(cursor: &mut &[u8]) -> Result<[u8; N]> {
    let (head, tail) = cursor.split_first_chunk::<N>().ok_or_else(|| corrupt("a value is cut off"))?;
    *cursor = tail;
    Ok(*head)
}

fn corrupt(message: &str) -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, format!("stored data cannot be decoded: {message}"))
}

fn unsupported(data_type: &DataType) -> Error {
    Error::unsupported(format!("values of Arrow type {data_type} cannot be stored"))
}

#[cfg(test)]
mod tests;
