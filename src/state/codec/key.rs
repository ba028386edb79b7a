//! Keys: bytes that compare as PostgreSQL orders the values, with NULLs last, and that can be decoded again.
//!
//! A key is the encoding of its columns one after the other; each is self-delimiting, so a prefix of the columns is a prefix
//! of the bytes and a range of keys. Version 1, one column:
//!
//! | value | bytes |
//! |---|---|
//! | NULL | `ff`, greater than the first byte of any value |
//! | boolean | `00`, `01` |
//! | integers, decimals, dates, times, timestamps, durations | the integer encoding of [`super::int`] (first byte `6f` to `90`) |
//! | floats | `01`, then 4 or 8 bytes big endian: bits with the sign flipped, all bits flipped for negatives; -0 is 0, any NaN is the greatest |
//! | strings | UTF-8 with `00` as `00 ff`, then `00 01`; compares as the bytes do (collation C) |
//! | binary | `01`, then as strings |
//! | fixed-size binary | `01`, then the bytes |
//! | list | for each item `02` and its encoding, then `01`: element by element, the shorter first |
//! | struct | `01`, then the encoding of each field |
//! | interval | months, days, nanoseconds as integers; only in [`KeyCodec::for_rows`] |
//!
//! The key itself carries no version: all keys of format version 1 are of version 1 (a later version must be recorded per
//! table, where absent means 1).

use std::borrow::Cow;
use std::ops::{Bound, Range};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;

use super::build::Builder;
use super::int::Integer;
use super::source::Column;
use super::{Format, check_columns, corrupt, take, take_array, unsupported};
use crate::error::{Error, Result};
use crate::state::bytes::ByteRows;

const NULL: u8 = 0xff;
const MARK: u8 = 0x01;
const ITEM: u8 = 0x02;
const END: u8 = 0x01;
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xff];
const TERMINATOR: [u8; 2] = [0x00, 0x01];

/// Encodes and decodes the key columns of one table.
#[derive(Debug, Clone)]
pub struct KeyCodec {
    types: Vec<DataType>,
    exact: bool,
}

impl KeyCodec {
    /// A codec for keys that are equal, and ordered, as PostgreSQL has their values.
    ///
    /// # Errors
    /// 0A000 for an interval (`1 mon` equals `30 days`, so no bytes can both compare right and be decoded) and for types
    /// that are not stored at all.
    pub fn new(types: &[DataType]) -> Result<Self> {
        if let Some(interval) = types.iter().find(|t| has_interval(t)) {
            return Err(Error::unsupported(format!("a value of type {} cannot be a key", sql_name(interval)))
                .with_hint("cast it to text, or extract its epoch"));
        }
        Self::checked(types, false)
    }

    /// A codec for rows that are their own key: exactly the same value is the same key, and no more. Intervals are allowed
    /// and compare by months, then days, then time; -0 and 0 are two values.
    ///
    /// # Errors
    /// 0A000 for types that are not stored at all.
    pub fn for_rows(types: &[DataType]) -> Result<Self> {
        Self::checked(types, true)
    }

    fn checked(types: &[DataType], exact: bool) -> Result<Self> {
        for t in types {
            Builder::new(t, 0)?;
        }
        Ok(Self { types: types.to_vec(), exact })
    }

    /// The types of the columns, as decoded.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// One key a row.
    ///
    /// # Errors
    /// XX000 if the columns are not of the codec's types.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<ByteRows> {
        self.encode_with(columns, |_| &[])
    }

    /// One key a row, each after the same bytes.
    ///
    /// # Errors
    /// As [`KeyCodec::encode`].
    pub fn encode_after(&self, prefix: &[u8], columns: &[ArrayRef]) -> Result<ByteRows> {
        self.encode_with(columns, |_| prefix)
    }

    /// One key a row, each after the bytes of the same row of `prefixes`.
    ///
    /// # Errors
    /// As [`KeyCodec::encode`], and XX000 if there is not one prefix for each row.
    pub fn encode_onto(&self, prefixes: &ByteRows, columns: &[ArrayRef]) -> Result<ByteRows> {
        if self.types.is_empty() {
            return Ok(prefixes.clone());
        }
        let rows = check_columns(&self.types, columns)?;
        if rows != prefixes.len() {
            return Err(Error::internal("there is not one key prefix for each row"));
        }
        self.encode_with(columns, |i| prefixes.get(i))
    }

    fn encode_with<'p>(&self, columns: &[ArrayRef], prefix: impl Fn(usize) -> &'p [u8]) -> Result<ByteRows> {
        if self.exact {
            encode::<KeyFormat<true>>(&self.types, columns, prefix)
        } else {
            encode::<KeyFormat<false>>(&self.types, columns, prefix)
        }
    }

    /// The columns of these keys.
    ///
    /// # Errors
    /// XX001 if a key is not one that this codec wrote, bytes after its end included.
    pub fn decode<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let mut cursors: Vec<&[u8]> = keys.into_iter().collect();
        let columns = self.decode_prefixes(&mut cursors)?;
        match cursors.iter().all(|rest| rest.is_empty()) {
            true => Ok(columns),
            false => Err(corrupt("a key is longer than its columns")),
        }
    }

    /// The columns at the start of these longer keys; each is cut down to what follows them.
    ///
    /// # Errors
    /// XX001 if a key does not start with what this codec wrote.
    pub fn decode_prefixes(&self, keys: &mut [&[u8]]) -> Result<Vec<ArrayRef>> {
        let decode_column = |data_type: &DataType| {
            let mut builder = Builder::new(data_type, keys.len())?;
            builder.extend::<KeyFormat<false>>(keys, |_, cursor| take_null(cursor))?;
            builder.finish(data_type)
        };
        self.types.iter().map(decode_column).collect()
    }

    /// The value of the first column, which is of a type that is stored as an integer; `None` for NULL.
    ///
    /// # Errors
    /// XX001 if the key does not start with such a value.
    pub fn first_integer(&self, key: &[u8]) -> Result<Option<i64>> {
        let mut cursor = key;
        if take_null(&mut cursor) { Ok(None) } else { i64::read(&mut cursor).map(Some) }
    }

    /// How many bytes at the start of a longer key are this codec's columns.
    ///
    /// # Errors
    /// XX001 if the key does not start with what this codec wrote.
    pub fn prefix_len(&self, key: &[u8]) -> Result<usize> {
        let mut cursor = key;
        for data_type in &self.types {
            skip(data_type, &mut cursor)?;
        }
        Ok(key.len() - cursor.len())
    }
}

/// The end of the range of all keys that start with `prefix`.
pub fn successor(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

fn encode<'p, F: Format>(
    types: &[DataType],
    columns: &[ArrayRef],
    prefix: impl Fn(usize) -> &'p [u8],
) -> Result<ByteRows> {
    let rows = check_columns(types, columns)?;
    let sources = columns.iter().map(Column::new).collect::<Result<Vec<_>>>()?;
    let mut lengths: Vec<usize> = (0..rows).map(|i| prefix(i).len()).collect();
    for source in &sources {
        source.add_lengths::<F>(&mut lengths);
    }
    let mut keys = ByteRows::zeroed(&lengths);
    let (data, ends) = keys.parts_mut();
    let mut positions = lengths;
    for (i, position) in positions.iter_mut().enumerate() {
        let start = ends[i] - *position;
        let head = prefix(i);
        data[start..start + head.len()].copy_from_slice(head);
        *position = start + head.len();
    }
    for source in &sources {
        source.write::<F>(data, &mut positions);
    }
    debug_assert_eq!(positions, ends);
    Ok(keys)
}

fn has_interval(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) => true,
        DataType::List(item) => has_interval(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_interval(f.data_type())),
        _ => false,
    }
}

fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Interval(_) => "interval".into(),
        DataType::List(item) => format!("{}[]", sql_name(item.data_type())),
        _ => "record with an interval".into(),
    }
}

/// Whether the cursor stands at a NULL, which is taken.
fn take_null(cursor: &mut &[u8]) -> bool {
    match cursor.split_first() {
        Some((&NULL, rest)) => {
            *cursor = rest;
            true
        }
        _ => false,
    }
}

/// Moves the cursor over one column.
fn skip(data_type: &DataType, cursor: &mut &[u8]) -> Result<()> {
    if take_null(cursor) {
        return Ok(());
    }
    match data_type {
        DataType::Null => Err(corrupt("a value is stored in a column that has none")),
        DataType::Boolean => take(1, cursor).map(|_| ()),
        DataType::Float32 => take(5, cursor).map(|_| ()),
        DataType::Float64 => take(9, cursor).map(|_| ()),
        DataType::FixedSizeBinary(width) => take(1 + *width as usize, cursor).map(|_| ()),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => skip_escaped(cursor),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            take_mark(cursor)?;
            skip_escaped(cursor)
        }
        DataType::List(item) => {
            while take(1, cursor)? == [ITEM] {
                skip(item.data_type(), cursor)?;
            }
            Ok(())
        }
        DataType::Struct(fields) => {
            take_mark(cursor)?;
            fields.iter().try_for_each(|f| skip(f.data_type(), cursor))
        }
        DataType::Interval(_) => (0..3).try_for_each(|_| skip(&DataType::Int64, cursor)),
        DataType::Dictionary(_, _) => Err(unsupported(data_type)),
        _ => {
            let first = take(1, cursor)?[0];
            let n = if first >= 0x80 { first - 0x80 } else { 0x7fu8.saturating_sub(first) };
            take(usize::from(n), cursor).map(|_| ())
        }
    }
}

fn skip_escaped(cursor: &mut &[u8]) -> Result<()> {
    loop {
        let zero = cursor.iter().position(|b| *b == 0).ok_or_else(|| corrupt("a string has no end"))?;
        take(zero, cursor)?;
        if take(2, cursor)? == TERMINATOR {
            return Ok(());
        }
    }
}

fn take_mark(cursor: &mut &[u8]) -> Result<()> {
    match take(1, cursor)? {
        [MARK] => Ok(()),
        _ => Err(corrupt("a key has an unknown mark")),
    }
}

/// The format of keys; `EXACT` keeps -0 apart from 0.
struct KeyFormat<const EXACT: bool>;

fn escaped_len(value: &[u8]) -> usize {
    value.len() + value.iter().filter(|b| **b == 0).count() + TERMINATOR.len()
}

fn put_escaped(value: &[u8], out: &mut [u8]) -> usize {
    let mut at = 0;
    let mut rest = value;
    while let Some(zero) = rest.iter().position(|b| *b == 0) {
        out[at..at + zero].copy_from_slice(&rest[..zero]);
        at += zero;
        out[at..at + 2].copy_from_slice(&ESCAPED_ZERO);
        at += 2;
        rest = &rest[zero + 1..];
    }
    out[at..at + rest.len()].copy_from_slice(rest);
    at += rest.len();
    out[at..at + 2].copy_from_slice(&TERMINATOR);
    at + 2
}

fn read_escaped<'a>(cursor: &mut &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let mut value = Cow::Borrowed(&cursor[..0]);
    loop {
        let zero = cursor.iter().position(|b| *b == 0).ok_or_else(|| corrupt("a string has no end"))?;
        let part = take(zero, cursor)?;
        match &mut value {
            Cow::Borrowed(_) => value = Cow::Borrowed(part),
            Cow::Owned(owned) => owned.extend_from_slice(part),
        }
        match take_array::<2>(cursor)? {
            TERMINATOR => return Ok(value),
            ESCAPED_ZERO => value.to_mut().push(0),
            _ => return Err(corrupt("a string has an unknown escape")),
        }
    }
}

/// Bits that compare as unsigned numbers in the order of floats.
macro_rules! float_order {
    ($to:ident, $from:ident, $float:ty, $bits:ty, $sign:expr) => {
        fn $to(value: $float, exact: bool) -> $bits {
            let value = match value {
                v if v.is_nan() => <$float>::NAN.abs(),
                v if v == 0.0 && !exact => 0.0,
                v => v,
            };
            let bits = value.to_bits();
            if bits & $sign == 0 { bits ^ $sign } else { !bits }
        }

        fn $from(bits: $bits) -> $float {
            <$float>::from_bits(if bits & $sign == 0 { !bits } else { bits ^ $sign })
        }
    };
}

float_order!(order_f32, from_order_f32, f32, u32, 1 << 31);
float_order!(order_f64, from_order_f64, f64, u64, 1 << 63);

impl<const EXACT: bool> Format for KeyFormat<EXACT> {
    const NULL: Option<u8> = Some(NULL);
    const FLOAT_MARK: usize = 1;
    const FIXED_MARK: usize = 1;

    fn put_f32(value: f32, out: &mut [u8]) -> usize {
        out[0] = MARK;
        out[1..5].copy_from_slice(&order_f32(value, EXACT).to_be_bytes());
        5
    }

    fn put_f64(value: f64, out: &mut [u8]) -> usize {
        out[0] = MARK;
        out[1..9].copy_from_slice(&order_f64(value, EXACT).to_be_bytes());
        9
    }

    fn text_len(value: &[u8]) -> usize {
        escaped_len(value)
    }

    fn put_text(value: &[u8], out: &mut [u8]) -> usize {
        put_escaped(value, out)
    }

    fn binary_len(value: &[u8]) -> usize {
        1 + escaped_len(value)
    }

    fn put_binary(value: &[u8], out: &mut [u8]) -> usize {
        out[0] = MARK;
        1 + put_escaped(value, &mut out[1..])
    }

    fn put_fixed(value: &[u8], out: &mut [u8]) -> usize {
        out[0] = MARK;
        out[1..=value.len()].copy_from_slice(value);
        value.len() + 1
    }

    fn list_len(items: &Column<'_>, range: Range<usize>) -> usize {
        range.map(|i| 1 + items.len_at::<Self>(i)).sum::<usize>() + 1
    }

    fn put_list(items: &Column<'_>, range: Range<usize>, out: &mut [u8]) -> usize {
        let mut at = 0;
        for i in range {
            out[at] = ITEM;
            at += 1;
            at += items.put_at::<Self>(i, &mut out[at..]);
        }
        out[at] = END;
        at + 1
    }

    fn struct_len(fields: &[Column<'_>], i: usize) -> usize {
        1 + fields.iter().map(|f| f.len_at::<Self>(i)).sum::<usize>()
    }

    fn put_struct(fields: &[Column<'_>], i: usize, out: &mut [u8]) -> usize {
        out[0] = MARK;
        fields.iter().fold(1, |at, f| at + f.put_at::<Self>(i, &mut out[at..]))
    }

    fn read_f32(cursor: &mut &[u8]) -> Result<f32> {
        take_mark(cursor)?;
        Ok(from_order_f32(u32::from_be_bytes(take_array(cursor)?)))
    }

    fn read_f64(cursor: &mut &[u8]) -> Result<f64> {
        take_mark(cursor)?;
        Ok(from_order_f64(u64::from_be_bytes(take_array(cursor)?)))
    }

    fn read_text<'a>(cursor: &mut &'a [u8]) -> Result<Cow<'a, [u8]>> {
        read_escaped(cursor)
    }

    fn read_binary<'a>(cursor: &mut &'a [u8]) -> Result<Cow<'a, [u8]>> {
        take_mark(cursor)?;
        read_escaped(cursor)
    }

    fn read_fixed<'a>(width: usize, cursor: &mut &'a [u8]) -> Result<&'a [u8]> {
        take_mark(cursor)?;
        take(width, cursor)
    }

    fn read_list(cursor: &mut &[u8], items: &mut Builder) -> Result<usize> {
        let mut added = 0;
        loop {
            match take(1, cursor)? {
                [ITEM] if take_null(cursor) => items.push_null(),
                [ITEM] => items.push::<Self>(cursor)?,
                [END] => return Ok(added),
                _ => return Err(corrupt("a list has an unknown mark")),
            }
            added += 1;
        }
    }

    fn read_struct(cursor: &mut &[u8], fields: &mut [Builder]) -> Result<()> {
        take_mark(cursor)?;
        for field in fields {
            match take_null(cursor) {
                true => field.push_null(),
                false => field.push::<Self>(cursor)?,
            }
        }
        Ok(())
    }
}
