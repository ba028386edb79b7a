//! A column's values as an Arrow array.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, ListArray, NullBufferBuilder,
    PrimitiveArray, StringViewArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};

use super::{ColumnBuilder, Data};

impl ColumnBuilder {
    /// The values as an array; the column is empty after it.
    pub fn finish(&mut self) -> ArrayRef {
        let (rows, nulls) = (self.len(), self.nulls.finish());
        self.nulls = NullBufferBuilder::new(0);
        match &mut self.data {
            Data::Bool(v) => {
                let values: BooleanBuffer = v.finish();
                Arc::new(BooleanArray::new(values, nulls))
            }
            Data::Int2(v) => primitive::<Int16Type>(v, nulls),
            Data::Int4(v) => primitive::<Int32Type>(v, nulls),
            Data::Int8(v) => primitive::<Int64Type>(v, nulls),
            Data::Oid(v) => primitive::<UInt32Type>(v, nulls),
            Data::Float4(v) => primitive::<Float32Type>(v, nulls),
            Data::Float8(v) => primitive::<Float64Type>(v, nulls),
            Data::Numeric { values, precision, scale, .. } => {
                let t = DataType::Decimal128(*precision, *scale);
                Arc::new(Decimal128Array::new(take(values).into(), nulls).with_data_type(t))
            }
            Data::Text { views, long, .. } => {
                let buffers = if long.is_empty() { vec![] } else { vec![Buffer::from_vec(take(long))] };
                // SAFETY: `push_view` makes each view of valid UTF-8, inline or within the one buffer.
                Arc::new(unsafe { StringViewArray::new_unchecked(take(views).into(), buffers, nulls) })
            }
            Data::Bytea { offsets, bytes } => {
                let offsets = std::mem::replace(offsets, vec![0]);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(BinaryArray::new(offsets, Buffer::from_vec(take(bytes)), nulls))
            }
            Data::Date(v) => primitive::<Date32Type>(v, nulls),
            Data::Time { values, .. } => primitive::<Time64MicrosecondType>(values, nulls),
            Data::Timestamp { values, utc, .. } => {
                let array = PrimitiveArray::<TimestampMicrosecondType>::new(take(values).into(), nulls);
                Arc::new(if *utc { array.with_timezone("UTC") } else { array })
            }
            Data::Uuid(v) => Arc::new(FixedSizeBinaryArray::new(16, Buffer::from_vec(take(v)), nulls)),
            Data::List { offsets, items, item_type } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                Arc::new(ListArray::new(Arc::new(item_type.field("item", true)), offsets, items.finish(), nulls))
            }
            Data::Record(record) => record.finish(nulls, rows),
        }
    }
}

/// Leaves a vector of the same capacity behind: the next batch is about as large.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let capacity = values.len();
    std::mem::replace(values, Vec::with_capacity(capacity))
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(take(values).into(), nulls))
}
