//! The functions under TUMBLE and HOP: starts of the windows that a time falls into.
//!
//! Windows are aligned to the Unix epoch plus the offset, as in Flink and RisingWave.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Field, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::error::SqlError;

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Most windows that one row may fall into.
const WINDOWS_MAX: i64 = 10_000;

/// `tumble_start(ts, size [, offset])`: the start of the window that holds `ts`.
pub fn tumble_start() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Start { hop: false, signature: Signature::user_defined(Volatility::Immutable) }))
}

/// `hop_starts(ts, slide, size [, offset])`: the starts of all windows that hold `ts`, earliest first; none for NULL.
pub fn hop_starts() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Start { hop: true, signature: Signature::user_defined(Volatility::Immutable) }))
}

/// An interval as microseconds; windows have no months.
///
/// # Errors
/// 22023 if it has months, 22008 if it is out of range.
pub fn fixed_micros(interval: IntervalMonthDayNano) -> Result<i64, SqlError> {
    if interval.months != 0 {
        return Err(SqlError::new("22023", "a window's size cannot have months or years")
            .with_hint("months differ in length; use days"));
    }
    i64::from(interval.days)
        .checked_mul(MICROS_PER_DAY)
        .and_then(|d| d.checked_add(interval.nanoseconds / 1000))
        .ok_or_else(|| SqlError::new("22008", "interval out of range"))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Start {
    hop: bool,
    signature: Signature,
}

impl Start {
    fn timestamp(types: &[DataType]) -> DfResult<DataType> {
        match types.first() {
            Some(DataType::Timestamp(_, None) | DataType::Date32) => {
                Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
            }
            Some(DataType::Timestamp(_, Some(_))) => Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            _ => Err(SqlError::new("42804", "the time column of a window must be a timestamp").into()),
        }
    }
}

impl ScalarUDFImpl for Start {
    fn name(&self) -> &str {
        if self.hop { "hop_starts" } else { "tumble_start" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let intervals = if self.hop { 2..=3 } else { 1..=2 };
        if !intervals.contains(&types.len().saturating_sub(1)) {
            return Err(SqlError::new("42883", format!("wrong number of arguments for {}", self.name())).into());
        }
        let mut coerced = vec![Self::timestamp(types)?];
        coerced.extend(types[1..].iter().map(|_| DataType::Interval(IntervalUnit::MonthDayNano)));
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        let timestamp = Self::timestamp(types)?;
        Ok(if self.hop { DataType::List(Arc::new(Field::new("item", timestamp, true))) } else { timestamp })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, number_rows, return_field, .. } = args;
        let constant = args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { number_rows };
        let times = args[0].to_array(rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let mut spans = Vec::with_capacity(3);
        for arg in &args[1..] {
            let ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval))) = arg else {
                let one = one_value(arg)?;
                spans.push(fixed_micros(one)?);
                continue;
            };
            spans.push(fixed_micros(*interval)?);
        }
        let result: ArrayRef = if self.hop {
            let (slide, size) = (spans[0], spans[1]);
            Arc::new(starts(times, slide, size, spans.get(2).copied().unwrap_or(0), &return_field)?)
        } else {
            let (size, offset) = (spans[0], spans.get(1).copied().unwrap_or(0));
            positive(size)?;
            let start: TimestampMicrosecondArray = times.unary(|t| t - (t - offset).rem_euclid(size));
            Arc::new(start.with_data_type(return_field.data_type().clone()))
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// The value of an interval argument that came as a column: it must be the same in all rows.
fn one_value(arg: &ColumnarValue) -> DfResult<IntervalMonthDayNano> {
    if let ColumnarValue::Array(array) = arg {
        let values = array.as_primitive::<IntervalMonthDayNanoType>();
        if let Some(first) = values.iter().next().flatten()
            && values.iter().all(|v| v == Some(first))
        {
            return Ok(first);
        }
    }
    Err(SqlError::new("22023", "a window's size must be a constant interval").into())
}

fn positive(span: i64) -> DfResult<()> {
    if span > 0 { Ok(()) } else { Err(SqlError::new("22023", "a window's size must be positive").into()) }
}

fn starts(
    times: &TimestampMicrosecondArray,
    slide: i64,
    size: i64,
    offset: i64,
    return_field: &Field,
) -> DfResult<ListArray> {
    positive(slide)?;
    positive(size)?;
    if size / slide > WINDOWS_MAX {
        return Err(SqlError::new("54000", format!("a row would fall into more than {WINDOWS_MAX} windows"))
            .with_hint("make the slide larger or the window smaller")
            .into());
    }
    let DataType::List(item) = return_field.data_type() else {
        return Err(SqlError::internal("hop_starts returns a list").into());
    };
    let mut values: Vec<i64> = Vec::with_capacity(times.len() * (size / slide + 1) as usize);
    let mut lengths = Vec::with_capacity(times.len());
    for time in times {
        let before = values.len();
        if let Some(t) = time {
            let last = t - (t - offset).rem_euclid(slide);
            // The earliest start that is still greater than t - size.
            let mut start = last - (size - 1 - (t - last)).div_euclid(slide) * slide;
            while start <= last {
                values.push(start);
                start += slide;
            }
        }
        lengths.push(values.len() - before);
    }
    let values =
        PrimitiveArray::<TimestampMicrosecondType>::from_iter_values(values).with_data_type(item.data_type().clone());
    Ok(ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), Arc::new(values), times.nulls().cloned())?)
}
