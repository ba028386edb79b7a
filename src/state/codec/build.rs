//! The read side that both codecs share: encoded values appended to Arrow arrays.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayDataBuilder, ArrayRef, BinaryViewBuilder, BooleanBuilder, FixedSizeBinaryBuilder, GenericBinaryBuilder,
    GenericStringBuilder, ListArray, NullArray, OffsetSizeTrait, StringViewBuilder, StructArray, make_array,
};
use datafusion::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{ArrowNativeType, DataType, IntervalMonthDayNano, IntervalUnit};

use super::int::Integer;
use super::{Format, corrupt, unsupported};
use crate::error::{Error, Result};

/// A column being decoded.
pub(super) enum Builder {
    Null(Nulls),
    Bool(BooleanBuilder),
    I8(Primitive<i8>),
    I16(Primitive<i16>),
    I32(Primitive<i32>),
    I64(Primitive<i64>),
    U8(Primitive<u8>),
    U16(Primitive<u16>),
    U32(Primitive<u32>),
    U64(Primitive<u64>),
    I128(Primitive<i128>),
    F32(Primitive<f32>),
    F64(Primitive<f64>),
    Interval(Primitive<IntervalMonthDayNano>),
    Utf8(GenericStringBuilder<i32>),
    LargeUtf8(GenericStringBuilder<i64>),
    Utf8View(StringViewBuilder),
    Binary(GenericBinaryBuilder<i32>),
    LargeBinary(GenericBinaryBuilder<i64>),
    BinaryView(BinaryViewBuilder),
    Fixed(Fixed),
    List(List),
    Struct(Struct),
}

/// A column that can only hold NULL.
pub(super) struct Nulls(usize);

/// Fixed-width values and which of them are there.
pub(super) struct Primitive<T> {
    values: Vec<T>,
    valid: Vec<bool>,
    null_count: usize,
}

pub(super) struct Fixed {
    builder: FixedSizeBinaryBuilder,
    width: usize,
}

pub(super) struct List {
    ends: Vec<i32>,
    valid: Vec<bool>,
    items: Box<Builder>,
}

pub(super) struct Struct {
    valid: Vec<bool>,
    fields: Vec<Builder>,
}

/// Takes encoded values one by one.
trait Sink {
    fn push_null(&mut self);
    /// Reads one value that is not NULL from the cursor.
    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()>;
    fn finish(self, data_type: &DataType) -> Result<ArrayRef>;
}

/// Runs `$body` with `$b` bound to the typed builder inside a [`Builder`].
macro_rules! typed {
    ($builder:expr, $b:ident => $body:expr) => {
        match $builder {
            Builder::Null($b) => $body,
            Builder::Bool($b) => $body,
            Builder::I8($b) => $body,
            Builder::I16($b) => $body,
            Builder::I32($b) => $body,
            Builder::I64($b) => $body,
            Builder::U8($b) => $body,
            Builder::U16($b) => $body,
            Builder::U32($b) => $body,
            Builder::U64($b) => $body,
            Builder::I128($b) => $body,
            Builder::F32($b) => $body,
            Builder::F64($b) => $body,
            Builder::Interval($b) => $body,
            Builder::Utf8($b) => $body,
            Builder::LargeUtf8($b) => $body,
            Builder::Utf8View($b) => $body,
            Builder::Binary($b) => $body,
            Builder::LargeBinary($b) => $body,
            Builder::BinaryView($b) => $body,
            Builder::Fixed($b) => $body,
            Builder::List($b) => $body,
            Builder::Struct($b) => $body,
        }
    };
}

impl Builder {
    /// A builder for `rows` values of that type.
    ///
    /// # Errors
    /// 0A000 for a type that is not stored.
    pub(super) fn new(data_type: &DataType, rows: usize) -> Result<Self> {
        Ok(match data_type {
            DataType::Null => Self::Null(Nulls(0)),
            DataType::Boolean => Self::Bool(BooleanBuilder::with_capacity(rows)),
            DataType::Int8 => Self::I8(Primitive::new(rows)),
            DataType::Int16 => Self::I16(Primitive::new(rows)),
            DataType::Int32 | DataType::Date32 | DataType::Time32(_) => Self::I32(Primitive::new(rows)),
            DataType::Int64
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Timestamp(_, _)
            | DataType::Duration(_) => Self::I64(Primitive::new(rows)),
            DataType::UInt8 => Self::U8(Primitive::new(rows)),
            DataType::UInt16 => Self::U16(Primitive::new(rows)),
            DataType::UInt32 => Self::U32(Primitive::new(rows)),
            DataType::UInt64 => Self::U64(Primitive::new(rows)),
            DataType::Decimal128(_, _) => Self::I128(Primitive::new(rows)),
            DataType::Float32 => Self::F32(Primitive::new(rows)),
            DataType::Float64 => Self::F64(Primitive::new(rows)),
            DataType::Interval(IntervalUnit::MonthDayNano) => Self::Interval(Primitive::new(rows)),
            DataType::Utf8 => Self::Utf8(GenericStringBuilder::with_capacity(rows, rows * 8)),
            DataType::LargeUtf8 => Self::LargeUtf8(GenericStringBuilder::with_capacity(rows, rows * 8)),
            DataType::Utf8View => Self::Utf8View(StringViewBuilder::with_capacity(rows)),
            DataType::Binary => Self::Binary(GenericBinaryBuilder::with_capacity(rows, rows * 8)),
            DataType::LargeBinary => Self::LargeBinary(GenericBinaryBuilder::with_capacity(rows, rows * 8)),
            DataType::BinaryView => Self::BinaryView(BinaryViewBuilder::with_capacity(rows)),
            DataType::FixedSizeBinary(width) => Self::Fixed(Fixed {
                builder: FixedSizeBinaryBuilder::with_capacity(rows, *width),
                width: *width as usize,
            }),
            DataType::List(item) => Self::List(List {
                ends: Vec::with_capacity(rows),
                valid: Vec::with_capacity(rows),
                items: Box::new(Self::new(item.data_type(), rows)?),
            }),
            DataType::Struct(fields) => Self::Struct(Struct {
                valid: Vec::with_capacity(rows),
                fields: fields.iter().map(|f| Self::new(f.data_type(), rows)).collect::<Result<_>>()?,
            }),
            other => return Err(unsupported(other)),
        })
    }

    /// Appends one value for each cursor, NULL where `is_null` says so (it may move the cursor).
    pub(super) fn extend<'a, F: Format>(
        &mut self,
        cursors: &mut [&'a [u8]],
        is_null: impl Fn(usize, &mut &'a [u8]) -> bool,
    ) -> Result<()> {
        typed!(self, b => {
            for (i, cursor) in cursors.iter_mut().enumerate() {
                if is_null(i, cursor) {
                    b.push_null();
                } else {
                    b.push::<F>(cursor)?;
                }
            }
        });
        Ok(())
    }

    /// Appends NULL.
    pub(super) fn push_null(&mut self) {
        typed!(self, b => b.push_null());
    }

    /// Appends one value that is not NULL.
    pub(super) fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        typed!(self, b => b.push::<F>(cursor))
    }

    /// The array, of exactly the type that the builder was made for.
    pub(super) fn finish(self, data_type: &DataType) -> Result<ArrayRef> {
        typed!(self, b => b.finish(data_type))
    }
}

impl<T> Primitive<T> {
    fn new(rows: usize) -> Self {
        Self { values: Vec::with_capacity(rows), valid: Vec::with_capacity(rows), null_count: 0 }
    }
}

/// A fixed-width value that can be read.
trait Readable: ArrowNativeType {
    fn read<F: Format>(cursor: &mut &[u8]) -> Result<Self>;
}

macro_rules! readable {
    ($($t:ty),*) => {$(
        impl Readable for $t {
            fn read<F: Format>(cursor: &mut &[u8]) -> Result<Self> {
                <$t as Integer>::read(cursor)
            }
        }
    )*};
}

readable!(i8, i16, i32, i64, u8, u16, u32, u64, i128);

impl Readable for f32 {
    fn read<F: Format>(cursor: &mut &[u8]) -> Result<Self> {
        F::read_f32(cursor)
    }
}

impl Readable for f64 {
    fn read<F: Format>(cursor: &mut &[u8]) -> Result<Self> {
        F::read_f64(cursor)
    }
}

impl Readable for IntervalMonthDayNano {
    fn read<F: Format>(cursor: &mut &[u8]) -> Result<Self> {
        let months = <i32 as Integer>::read(cursor)?;
        let days = <i32 as Integer>::read(cursor)?;
        Ok(Self::new(months, days, <i64 as Integer>::read(cursor)?))
    }
}

impl<T: Readable> Sink for Primitive<T> {
    fn push_null(&mut self) {
        self.values.push(T::default());
        self.valid.push(false);
        self.null_count += 1;
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        self.values.push(T::read::<F>(cursor)?);
        self.valid.push(true);
        Ok(())
    }

    fn finish(self, data_type: &DataType) -> Result<ArrayRef> {
        let nulls = (self.null_count > 0).then(|| NullBuffer::from(self.valid));
        let data = ArrayDataBuilder::new(data_type.clone())
            .len(self.values.len())
            .add_buffer(Buffer::from_vec(self.values))
            .nulls(nulls)
            .build()?;
        Ok(make_array(data))
    }
}

impl Sink for Nulls {
    fn push_null(&mut self) {
        self.0 += 1;
    }

    fn push<F: Format>(&mut self, _: &mut &[u8]) -> Result<()> {
        Err(corrupt("a value is stored in a column that has none"))
    }

    fn finish(self, _: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(NullArray::new(self.0)))
    }
}

impl Sink for BooleanBuilder {
    fn push_null(&mut self) {
        self.append_null();
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        match cursor.split_first() {
            Some((value @ (0 | 1), rest)) => {
                self.append_value(*value == 1);
                *cursor = rest;
                Ok(())
            }
            _ => Err(corrupt("a boolean is neither 0 nor 1")),
        }
    }

    fn finish(mut self, _: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(&mut self)))
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| corrupt("a string is not UTF-8"))
}

impl<O: OffsetSizeTrait> Sink for GenericStringBuilder<O> {
    fn push_null(&mut self) {
        self.append_null();
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        self.append_value(text(&F::read_text(cursor)?)?);
        Ok(())
    }

    fn finish(mut self, _: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(&mut self)))
    }
}

impl Sink for StringViewBuilder {
    fn push_null(&mut self) {
        self.append_null();
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        self.append_value(text(&F::read_text(cursor)?)?);
        Ok(())
    }

    fn finish(mut self, _: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(&mut self)))
    }
}

impl<O: OffsetSizeTrait> Sink for GenericBinaryBuilder<O> {
    fn push_null(&mut self) {
        self.append_null();
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        self.append_value(&F::read_binary(cursor)?);
        Ok(())
    }

    fn finish(mut self, _: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(&mut self)))
    }
}

impl Sink for BinaryViewBuilder {
    fn push_null(&mut self) {
        self.append_null();
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        self.append_value(&F::read_binary(cursor)?);
        Ok(())
    }

    fn finish(mut self, _: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(&mut self)))
    }
}

impl Sink for Fixed {
    fn push_null(&mut self) {
        self.builder.append_null();
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        self.builder.append_value(F::read_fixed(self.width, cursor)?)?;
        Ok(())
    }

    fn finish(mut self, _: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(self.builder.finish()))
    }
}

impl Sink for List {
    fn push_null(&mut self) {
        self.ends.push(self.ends.last().copied().unwrap_or(0));
        self.valid.push(false);
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        let added = F::read_list(cursor, &mut self.items)?;
        let end = self.ends.last().copied().unwrap_or(0) as usize + added;
        self.ends.push(i32::try_from(end).map_err(|_| too_many_items())?);
        self.valid.push(true);
        Ok(())
    }

    fn finish(self, data_type: &DataType) -> Result<ArrayRef> {
        let DataType::List(item) = data_type else { return Err(unsupported(data_type)) };
        let mut offsets = Vec::with_capacity(self.ends.len() + 1);
        offsets.push(0);
        offsets.extend_from_slice(&self.ends);
        let items = self.items.finish(item.data_type())?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(ListArray::try_new(item.clone(), offsets, items, nulls(self.valid))?))
    }
}

impl Sink for Struct {
    fn push_null(&mut self) {
        self.valid.push(false);
        for field in &mut self.fields {
            field.push_null();
        }
    }

    fn push<F: Format>(&mut self, cursor: &mut &[u8]) -> Result<()> {
        self.valid.push(true);
        F::read_struct(cursor, &mut self.fields)
    }

    fn finish(self, data_type: &DataType) -> Result<ArrayRef> {
        let DataType::Struct(fields) = data_type else { return Err(unsupported(data_type)) };
        let rows = self.valid.len();
        let arrays = self
            .fields
            .into_iter()
            .zip(fields)
            .map(|(builder, field)| builder.finish(field.data_type()))
            .collect::<Result<Vec<_>>>()?;
        let array = match arrays.is_empty() {
            true => StructArray::new_empty_fields(rows, nulls(self.valid)),
            false => StructArray::try_new(fields.clone(), arrays, nulls(self.valid))?,
        };
        Ok(Arc::new(array))
    }
}

fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    let nulls = NullBuffer::from(valid);
    (nulls.null_count() > 0).then_some(nulls)
}

fn too_many_items() -> Error {
    Error::new(crate::error::sqlstate::PROGRAM_LIMIT_EXCEEDED, "the lists of one batch have more than 2^31 items")
}
