//! The write side that both codecs share: Arrow columns as typed sources of encoded values.

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray,
    GenericBinaryArray, GenericStringArray, OffsetSizeTrait, StringViewArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal128Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::int::Integer;
use super::{Format, unsupported};
use crate::error::Result;

/// One column about to be encoded.
pub(super) struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    source: Source<'a>,
}

/// The values of a column by how they are encoded.
enum Source<'a> {
    Null(Nothing),
    Bool(&'a BooleanArray),
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    I128(&'a [i128]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Interval(&'a [IntervalMonthDayNano]),
    Utf8(&'a GenericStringArray<i32>),
    LargeUtf8(&'a GenericStringArray<i64>),
    Utf8View(&'a StringViewArray),
    Binary(&'a GenericBinaryArray<i32>),
    LargeBinary(&'a GenericBinaryArray<i64>),
    BinaryView(&'a BinaryViewArray),
    Fixed(&'a FixedSizeBinaryArray),
    List(ListItems<'a>),
    Struct(Vec<Column<'a>>),
}

/// A column whose rows are all NULL.
struct Nothing;

struct ListItems<'a> {
    offsets: &'a [i32],
    items: Box<Column<'a>>,
}

/// Encoded size and bytes of value `i`, which is not NULL.
trait Values {
    fn len_at<F: Format>(&self, i: usize) -> usize;
    /// Writes to the start of `out` and returns how much.
    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize;
}

/// Runs `$body` with `$v` bound to the typed values inside a [`Source`].
macro_rules! typed {
    ($source:expr, $v:ident => $body:expr) => {
        match $source {
            Source::Null($v) => $body,
            Source::Bool($v) => $body,
            Source::I8($v) => $body,
            Source::I16($v) => $body,
            Source::I32($v) => $body,
            Source::I64($v) => $body,
            Source::U8($v) => $body,
            Source::U16($v) => $body,
            Source::U32($v) => $body,
            Source::U64($v) => $body,
            Source::I128($v) => $body,
            Source::F32($v) => $body,
            Source::F64($v) => $body,
            Source::Interval($v) => $body,
            Source::Utf8($v) => $body,
            Source::LargeUtf8($v) => $body,
            Source::Utf8View($v) => $body,
            Source::Binary($v) => $body,
            Source::LargeBinary($v) => $body,
            Source::BinaryView($v) => $body,
            Source::Fixed($v) => $body,
            Source::List($v) => $body,
            Source::Struct($v) => $body,
        }
    };
}

impl<'a> Column<'a> {
    /// Looks into an array.
    ///
    /// # Errors
    /// 0A000 for a type that is not stored.
    pub(super) fn new(array: &'a ArrayRef) -> Result<Self> {
        let source = match array.data_type() {
            DataType::Null => Source::Null(Nothing),
            DataType::Boolean => Source::Bool(array.as_boolean()),
            DataType::Int8 => Source::I8(values::<Int8Type>(array)),
            DataType::Int16 => Source::I16(values::<Int16Type>(array)),
            DataType::Int32 => Source::I32(values::<Int32Type>(array)),
            DataType::Int64 => Source::I64(values::<Int64Type>(array)),
            DataType::UInt8 => Source::U8(values::<UInt8Type>(array)),
            DataType::UInt16 => Source::U16(values::<UInt16Type>(array)),
            DataType::UInt32 => Source::U32(values::<UInt32Type>(array)),
            DataType::UInt64 => Source::U64(values::<UInt64Type>(array)),
            DataType::Float32 => Source::F32(values::<Float32Type>(array)),
            DataType::Float64 => Source::F64(values::<Float64Type>(array)),
            DataType::Decimal128(_, _) => Source::I128(values::<Decimal128Type>(array)),
            DataType::Date32 => Source::I32(values::<Date32Type>(array)),
            DataType::Date64 => Source::I64(values::<Date64Type>(array)),
            DataType::Time32(TimeUnit::Second) => Source::I32(values::<Time32SecondType>(array)),
            DataType::Time32(_) => Source::I32(values::<Time32MillisecondType>(array)),
            DataType::Time64(TimeUnit::Microsecond) => Source::I64(values::<Time64MicrosecondType>(array)),
            DataType::Time64(_) => Source::I64(values::<Time64NanosecondType>(array)),
            DataType::Timestamp(unit, _) => Source::I64(match unit {
                TimeUnit::Second => values::<TimestampSecondType>(array),
                TimeUnit::Millisecond => values::<TimestampMillisecondType>(array),
                TimeUnit::Microsecond => values::<TimestampMicrosecondType>(array),
                TimeUnit::Nanosecond => values::<TimestampNanosecondType>(array),
            }),
            DataType::Duration(unit) => Source::I64(match unit {
                TimeUnit::Second => values::<DurationSecondType>(array),
                TimeUnit::Millisecond => values::<DurationMillisecondType>(array),
                TimeUnit::Microsecond => values::<DurationMicrosecondType>(array),
                TimeUnit::Nanosecond => values::<DurationNanosecondType>(array),
            }),
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Source::Interval(values::<IntervalMonthDayNanoType>(array))
            }
            DataType::Utf8 => Source::Utf8(array.as_string()),
            DataType::LargeUtf8 => Source::LargeUtf8(array.as_string()),
            DataType::Utf8View => Source::Utf8View(array.as_string_view()),
            DataType::Binary => Source::Binary(array.as_binary()),
            DataType::LargeBinary => Source::LargeBinary(array.as_binary()),
            DataType::BinaryView => Source::BinaryView(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => Source::Fixed(array.as_fixed_size_binary()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Source::List(ListItems { offsets: list.value_offsets(), items: Box::new(Column::new(list.values())?) })
            }
            DataType::Struct(_) => {
                Source::Struct(array.as_struct().columns().iter().map(Column::new).collect::<Result<_>>()?)
            }
            other => return Err(unsupported(other)),
        };
        Ok(Self { nulls: array.nulls(), source })
    }

    /// Whether row `i` is NULL.
    pub(super) fn is_null(&self, i: usize) -> bool {
        matches!(self.source, Source::Null(_)) || self.nulls.is_some_and(|nulls| nulls.is_null(i))
    }

    /// Adds the encoded size of every row to `lengths`.
    pub(super) fn add_lengths<F: Format>(&self, lengths: &mut [usize]) {
        let null_len = F::NULL.map_or(0, |_| 1);
        typed!(&self.source, v => match self.nulls {
            None if !matches!(self.source, Source::Null(_)) => {
                for (i, len) in lengths.iter_mut().enumerate() {
                    *len += v.len_at::<F>(i);
                }
            }
            _ => {
                for (i, len) in lengths.iter_mut().enumerate() {
                    *len += if self.is_null(i) { null_len } else { v.len_at::<F>(i) };
                }
            }
        })
    }

    /// Writes every row at its position in `data` and moves the position.
    pub(super) fn write<F: Format>(&self, data: &mut [u8], positions: &mut [usize]) {
        typed!(&self.source, v => match self.nulls {
            None if !matches!(self.source, Source::Null(_)) => {
                for (i, at) in positions.iter_mut().enumerate() {
                    *at += v.put_at::<F>(i, &mut data[*at..]);
                }
            }
            _ => {
                for (i, at) in positions.iter_mut().enumerate() {
                    if !self.is_null(i) {
                        *at += v.put_at::<F>(i, &mut data[*at..]);
                    } else if let Some(null) = F::NULL {
                        data[*at] = null;
                        *at += 1;
                    }
                }
            }
        })
    }

    /// Encoded size of one value, NULL or not.
    pub(super) fn len_at<F: Format>(&self, i: usize) -> usize {
        if self.is_null(i) {
            return F::NULL.map_or(0, |_| 1);
        }
        typed!(&self.source, v => v.len_at::<F>(i))
    }

    /// Writes one value, NULL or not, to the start of `out` and returns its length.
    pub(super) fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        if self.is_null(i) {
            return F::NULL.map_or(0, |null| {
                out[0] = null;
                1
            });
        }
        typed!(&self.source, v => v.put_at::<F>(i, out))
    }
}

fn values<T: ArrowPrimitiveType>(array: &ArrayRef) -> &[T::Native] {
    array.as_primitive::<T>().values()
}

impl Values for Nothing {
    fn len_at<F: Format>(&self, _: usize) -> usize {
        0
    }

    fn put_at<F: Format>(&self, _: usize, _: &mut [u8]) -> usize {
        0
    }
}

impl Values for &BooleanArray {
    fn len_at<F: Format>(&self, _: usize) -> usize {
        1
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        out[0] = u8::from(self.value(i));
        1
    }
}

impl<T: Integer> Values for &[T] {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        self[i].encoded_len()
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        self[i].put(out)
    }
}

impl Values for &[f32] {
    fn len_at<F: Format>(&self, _: usize) -> usize {
        F::FLOAT_MARK + 4
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_f32(self[i], out)
    }
}

impl Values for &[f64] {
    fn len_at<F: Format>(&self, _: usize) -> usize {
        F::FLOAT_MARK + 8
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_f64(self[i], out)
    }
}

impl Values for &[IntervalMonthDayNano] {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        let v = self[i];
        v.months.encoded_len() + v.days.encoded_len() + v.nanoseconds.encoded_len()
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        let v = self[i];
        let mut at = v.months.put(out);
        at += v.days.put(&mut out[at..]);
        at + v.nanoseconds.put(&mut out[at..])
    }
}

impl<O: OffsetSizeTrait> Values for &GenericStringArray<O> {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        F::text_len(self.value(i).as_bytes())
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_text(self.value(i).as_bytes(), out)
    }
}

impl Values for &StringViewArray {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        F::text_len(self.value(i).as_bytes())
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_text(self.value(i).as_bytes(), out)
    }
}

impl<O: OffsetSizeTrait> Values for &GenericBinaryArray<O> {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        F::binary_len(self.value(i))
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_binary(self.value(i), out)
    }
}

impl Values for &BinaryViewArray {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        F::binary_len(self.value(i))
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_binary(self.value(i), out)
    }
}

impl Values for &FixedSizeBinaryArray {
    fn len_at<F: Format>(&self, _: usize) -> usize {
        F::FIXED_MARK + self.value_length() as usize
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_fixed(self.value(i), out)
    }
}

impl Values for ListItems<'_> {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        F::list_len(&self.items, self.offsets[i] as usize..self.offsets[i + 1] as usize)
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_list(&self.items, self.offsets[i] as usize..self.offsets[i + 1] as usize, out)
    }
}

impl Values for Vec<Column<'_>> {
    fn len_at<F: Format>(&self, i: usize) -> usize {
        F::struct_len(self, i)
    }

    fn put_at<F: Format>(&self, i: usize, out: &mut [u8]) -> usize {
        F::put_struct(self, i, out)
    }
}
